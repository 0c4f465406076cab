"""What a start takes while the sessions' database is away, against one while it is there.

    python benchmarks/database_away.py [--rounds 15]

``python run.py`` with keys that an imitation of their service accepts, because ``--demo`` leaves the database out: from
exec to the first 200 on /health, and the processor time of all its processes until it has been stopped. Without a
database, with a PostgreSQL that answers, with a port where nobody listens, with one that takes connections and says
nothing, and with one whose packets nobody answers. They take turns, each with a state folder of its own; the median of
the ratios in each round counts. On a busy machine the processor time tells more. Loopback only; it stops what it
started.
"""

import argparse
import resource
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.ports import Table  # noqa: E402  # the checkout is not installed
from benchmarks.start import describe, place, start  # noqa: E402
from tests import databases  # noqa: E402
from tests.e2e.chatting import Provider  # noqa: E402
from tests.e2e.place import KEYS, Place, make_place  # noqa: E402
from tests.portnumbers import unused_port  # noqa: E402
from tests.ready.listeners import listening, swallowing  # noqa: E402

THERE = "a database that answers"


def measure(rounds: int) -> None:
    """Two tables, and each way's ratios."""
    with (
        place() as here,
        tempfile.TemporaryDirectory() as folder,
        databases.postgres(Path(folder)) as server,
        listening(backlog=128) as mute,
        swallowing() as silent,
    ):
        away = {"nobody listens": unused_port(), "connections, no word": mute, "no answer to packets": silent}
        urls = {"no database": "", THERE: server.url(), **{way: server.url(port=port) for way, port in away.items()}}
        service = Provider(here)
        places = {way: with_keys(make_place(here.folder / f"way-{number}"), service) for number, way in enumerate(urls)}
        elapsed, processor = Table("From exec to the first 200 on /health"), Table("Processor time, to the end")
        for number in range(rounds + 1):
            for way, url in urls.items():
                environ = {**places[way].environ, **({"PREFLIGHT_DATABASE_URL": url} if url else {})}
                port = unused_port()
                before = spent()
                took, _ = start([sys.executable, "run.py", "--port", str(port)], environ, port)
                if number > 0:  # the first round makes the tables, and fills the caches
                    elapsed.add(way, took)
                    processor.add(way, (spent() - before) * 1000)
        for table in (elapsed, processor):
            table.show(against=THERE, target="at most 1.02x")
            for way in away:
                ratios = [mine / peer for mine, peer in zip(table.taken[way], table.taken[THERE], strict=True)]
                print(f"  {way}: {statistics.median(ratios):.3f}x, the median of {rounds} rounds' ratios")


def with_keys(here: Place, service: Provider) -> Place:
    """The place of an agent server whose keys are verified."""
    here.write_env_file(**KEYS)
    here.environ |= {
        "PREFLIGHT_PYTHON": ">=3.11",
        "OPENAI_BASE_URL": f"{service.url}/v1",
        "OPENAI_MODEL": "gpt-4o",
        "PERPLEXITY_BASE_URL": f"{service.url}/perplexity/v1",
    }
    return here


def spent() -> float:
    """The seconds of processor time that children of this process took, and theirs, as far as they have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print what came of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=15)
    chosen = options.parse_args()
    describe()
    measure(chosen.rounds)


if __name__ == "__main__":
    main()
