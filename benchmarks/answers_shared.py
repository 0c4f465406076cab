"""How often a provider is asked by many instances that check again all the time, and share its answers.

    python benchmarks/answers_shared.py [--instances 8] [--minutes 10] [--every 10] [--kept 60]

Instances of ``python run.py`` with one key, one PostgreSQL of its own, and a double of the provider that counts. Each
start asks once. Then every instance is asked for a re-run every so many seconds, at the same moment as the others. What
is expected: the starts, and one question for each period in which an answer is kept, its first one included. Everything
is on this machine; it stops what it started.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.start import describe  # noqa: E402  # the checkout is not installed
from tests import databases  # noqa: E402
from tests.e2e.clients import post  # noqa: E402
from tests.e2e.doubles import Providers  # noqa: E402
from tests.e2e.place import Place, Started, equip, make_place  # noqa: E402


def counted(providers: Providers) -> Counter[str]:
    """How often each key was asked with, by its beginning."""
    return Counter((given or "").removeprefix("Bearer ")[:6] for _, given in providers.requests)


def started(folder: Path, number: int, providers: Providers, url: str, kept: float) -> Place:
    """One instance's place, with keys and the database."""
    place = make_place(folder / f"place{number}")
    equip(place, providers)
    place.environ |= {"PREFLIGHT_DATABASE_URL": url, "PREFLIGHT_RERUN_INTERVAL": "0"}
    place.environ |= {"PREFLIGHT_ANSWERS_KEPT": f"{kept}s", "PREFLIGHT_RUN_TIMEOUT": "60s"}
    return place


def measure(instances: list[Started], seconds: float, every: float) -> tuple[int, Counter[int]]:
    """Ask all for a re-run again and again; how many rounds there were, and the status of each answer."""
    begun, rounds = time.monotonic(), 0
    statuses: Counter[int] = Counter()
    with ThreadPoolExecutor(len(instances)) as pool:
        while time.monotonic() < begun + seconds:
            statuses += Counter(status for status, *_ in pool.map(post, [one.url for one in instances]))
            rounds += 1
            time.sleep(max(0.0, begun + rounds * every - time.monotonic()))
    return rounds, statuses


def main() -> int:
    """Measure, and say what was counted."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--instances", type=int, default=8)
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--every", type=float, default=10.0, help="seconds between two re-runs of each instance")
    options.add_argument("--kept", type=float, default=60.0, help="seconds for which an answer is kept")
    asked = options.parse_args()
    describe()
    providers = Providers()
    places: list[Place] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "postgres").mkdir()
        try:
            with databases.postgres(folder / "postgres") as server:
                url = server.url(database=server.database())
                places += [started(folder, number, providers, url, asked.kept) for number in range(asked.instances)]
                assert places[0].run("--migrate").process.returncode == 0
                serving = [place.start().until_ready() for place in places]
                print(f"{asked.instances} starts: {dict(counted(providers))}", flush=True)
                rounds, statuses = measure(serving, asked.minutes * 60, asked.every)
                time.sleep(asked.every)
                allowed = asked.instances + int(asked.minutes * 60 // asked.kept) + 1
                print(f"{rounds} rounds of re-runs on {asked.instances} instances, answered {dict(statuses)}")
                print(f"requests for each key: {dict(counted(providers))}; expected at most {allowed}")
                return 0 if max(counted(providers).values()) <= allowed else 1
        finally:
            for place in places:
                place.close()
            providers.close()


if __name__ == "__main__":
    sys.exit(main())
