"""How long the fleet's routes take with many instances in the database.

    python benchmarks/fleet_page.py [--instances 10000] [--rounds 40]

One instance of ``python run.py`` and a PostgreSQL of its own, whose tables are filled as the registrars of that many
instances would. Each route is asked in turn, one request at a time; an answer that is kept for a moment is waited out.
Beside each is how long /health took meanwhile, asked all the time. Client, server and database share the machine.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.start import describe  # noqa: E402  # the checkout is not installed
from preflight.web.fleet import FRESH  # noqa: E402
from tests import databases  # noqa: E402
from tests.e2e.place import get, make_place  # noqa: E402
from tests.fleet import seeding  # noqa: E402

ROUTES = {
    "at a glance": "/fleet?format=json",
    "100 instances": "/fleet/instances",
    "the last page": "/fleet/instances?limit=100&offset={last}",
    "those where a check fails": "/fleet/instances?check=OpenAI%20API%20Key",
    "by name": "/fleet/instances?named=web-77",
    "one instance": "/fleet/instances/i00003",
}


def took(url: str) -> float:
    """Milliseconds until the whole answer is there."""
    begun = time.perf_counter()
    status, text = get(url, 60.0)
    assert status == 200, text
    return (time.perf_counter() - begun) * 1000


def shown(name: str, times: list[float]) -> str:
    """A line with median, p95 and the longest."""
    ordered = sorted(times)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return f"{name:26} median {statistics.median(times):7.1f} ms   p95 {p95:7.1f} ms   longest {ordered[-1]:7.1f} ms"


def measure(url: str, rounds: int, last: int) -> None:
    """Ask each route that often, and say how long it took."""
    beside: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            beside.append(took(f"{url}/health"))
            time.sleep(0.02)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for name, path in ROUTES.items():
            times = []
            for _ in range(rounds):
                times.append(took(url + path.format(last=last)))
                if path.startswith("/fleet?"):
                    time.sleep(FRESH)
            print(shown(name, times), flush=True)
    finally:
        over.set()
        looking.join()
    print(shown("/health meanwhile", beside))


def main() -> int:
    """Measure, and say how long each took."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--instances", type=int, default=10_000)
    options.add_argument("--rounds", type=int, default=40)
    asked = options.parse_args()
    describe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "postgres").mkdir()
        place = make_place(folder / "place")
        try:
            with databases.postgres(folder / "postgres") as server:
                url = seeding.made(server.url(database=server.database()))
                seeding.fill(url, asked.instances)
                started = place.start("--demo", PREFLIGHT_DATABASE_URL=url).until_ready()
                measure(started.url, asked.rounds, max(0, asked.instances - 100))
                started.stop()
        finally:
            place.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
