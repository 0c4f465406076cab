"""What a start takes while the sessions' database is away, against one while it is there.

    python benchmarks/database_away.py [--rounds 11]

From exec to the first 200 on /health of ``python run.py --demo``: without a database, with a PostgreSQL that answers,
with a port where nobody listens, with one that takes connections and says nothing, and with one whose packets nobody
answers. They take turns; the median of the ratios in each round counts. Loopback only; it stops what it started.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.ports import Table  # noqa: E402  # the checkout is not installed
from benchmarks.start import describe, place, start  # noqa: E402
from tests import databases  # noqa: E402
from tests.portnumbers import unused_port  # noqa: E402
from tests.ready.listeners import listening, swallowing  # noqa: E402

THERE = "a database that answers"


def measure(rounds: int) -> None:
    """One table, and each way's ratios."""
    with (
        place() as here,
        tempfile.TemporaryDirectory() as folder,
        databases.postgres(Path(folder)) as server,
        listening(backlog=128) as mute,
        swallowing() as silent,
    ):
        away = {"nobody listens": unused_port(), "connections, no word": mute, "no answer to packets": silent}
        ways = {"no database": "", THERE: server.url(), **{way: server.url(port=port) for way, port in away.items()}}
        table = Table("From exec to the first 200 on /health")
        for number in range(rounds + 1):
            for way, url in ways.items():
                environ = {**here.environ, **({"PREFLIGHT_DATABASE_URL": url} if url else {})}
                port = unused_port()
                spent, _ = start([sys.executable, "run.py", "--demo", "--port", str(port)], environ, port)
                if number > 0:  # the first round makes the tables, and fills the caches
                    table.add(way, spent)
        table.show(against=THERE, target="at most 1.02x")
        for way in away:
            ratios = [mine / peer for mine, peer in zip(table.taken[way], table.taken[THERE], strict=True)]
            print(f"  {way}: {statistics.median(ratios):.3f}x, the median of {rounds} rounds' ratios")


def main() -> None:
    """Print what came of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=11)
    chosen = options.parse_args()
    describe()
    measure(chosen.rounds)


if __name__ == "__main__":
    main()
