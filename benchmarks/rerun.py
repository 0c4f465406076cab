"""What a re-run costs those whom the server answers meanwhile, what starts one, and what a requirement costs a run.

    python benchmarks/rerun.py [--rounds 10] [--crowd 1000] [--requirements 1000] [--repeats 5]

First /health under a steady load, in turns without a re-run, with one that nobody follows, and with one that somebody
follows over /ws/diagnostics: all in one server, so that whatever else changes with time changes for all.
Then how many suite runs a crowd starts: many GETs on /diagnostics at once, and 50 POSTs on
/diagnostics/run at once. Then `run.py --check-only` with many trivial requirements beside those that are shipped. In
a copy of the tree, loopback only; it stops what it started and ends by itself.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from websockets.asyncio.client import connect

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.check import run  # noqa: E402  # the checkout is not installed
from benchmarks.ports import Table, milliseconds  # noqa: E402
from benchmarks.start import describe  # noqa: E402
from tests.e2e.place import Place, make_place  # noqa: E402

CONNECTIONS = 16
PAUSE = 0.02  # seconds between two requests of a connection
AFTERWARDS = 5.0  # seconds in which a run that somebody started would have ended
QUIET = 1.0  # seconds of a round without a re-run
REQUEST = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
LOOK = b"GET /diagnostics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
CALLERS = 50  # who ask for a re-run at once
ASK = b"POST /diagnostics/run HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

# Asks for re-runs; prints when each began and ended. Unless it follows them, it looks for the report that they publish:
# the server has no more to do than it would have without anybody.
ASKER = """
import json, os, socket, sys, time
from websockets.sync.client import connect

port, rounds, quiet, report = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
request, ways = sys.argv[5].encode(), sys.argv[6:]


def ask():
    asking = socket.create_connection(("127.0.0.1", port))
    began = time.perf_counter()
    asking.sendall(request)
    while asking.recv(65536):
        pass
    return began


for number in range(rounds * len(ways)):
    way = ways[number % len(ways)]
    if way == "followed":
        with connect(f"ws://127.0.0.1:{port}/ws/diagnostics") as live:
            time.sleep(quiet)
            began = ask()
            while json.loads(live.recv())["type"] != "run_finished":
                pass
            ended = time.perf_counter()
    else:
        time.sleep(quiet)
        before = os.stat(report).st_ino
        began = ask()
        while os.stat(report).st_ino == before:
            time.sleep(0.02)
        ended = time.perf_counter()
    print(began, ended, way, flush=True)
"""

WAYS = ("not followed", "followed")

TRIVIAL = '''
@pytest.mark.{severity}("Trivial {number}", fix="never needed")
def test_trivial_{number}(details: Details) -> None:
    """Requirement {number} of many."""
    details.update(number={number})
    details.summary = "number {number} is fine"
'''


@contextmanager
def copy() -> Iterator[Place]:
    """A copy of the tree, with a home of its own."""
    with tempfile.TemporaryDirectory(prefix="preflight-benchmark-") as folder:
        tree = Path(folder) / "tree"
        for name in ("preflight", "server"):
            shutil.copytree(ROOT / name, tree / name)
        for name in ("conftest.py", "pytest.ini", "run.py", "pyproject.toml"):
            shutil.copy2(ROOT / name, tree / name)
        place = make_place(Path(folder) / "place", tree)
        try:
            yield place
        finally:
            place.close()


class Load:
    """Connections that ask for /health at a steady rate: when each request was sent, and how long its answer took."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.over = False
        self.took: list[tuple[float, float]] = []  # seconds on the monotonic clock, milliseconds

    async def connection(self, offset: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.place.port)
        due = time.perf_counter() + offset
        while not self.over:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sent = time.perf_counter()
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            await reader.readexactly(length)
            self.took.append((sent, (time.perf_counter() - sent) * 1000))
            due += PAUSE
        writer.close()

    async def beside(self, rounds: int) -> list[tuple[float, float, str]]:
        """Put the load on, have another process ask for re-runs; returns when each began and ended, and how."""
        async with asyncio.TaskGroup() as group:
            for number in range(CONNECTIONS):
                group.create_task(self.connection(PAUSE * number / CONNECTIONS))
            # In a process of its own: what it does must not hold up those who measure.
            arguments = (self.place.port, rounds, QUIET, self.place.state / "report.json", ASK.decode(), *WAYS)
            asker = await asyncio.create_subprocess_exec(
                sys.executable, "-c", ASKER, *map(str, arguments), stdout=asyncio.subprocess.PIPE
            )
            output, _ = await asker.communicate()
            self.over = True
        assert asker.returncode == 0
        found = [line.split(" ", 2) for line in output.decode().splitlines()]
        return [(float(began), float(ended), way) for began, ended, way in found]


def quantile(values: list[float], part: float) -> float:
    """The value that this part of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


async def health(place: Place, rounds: int) -> None:
    """The first measurement."""
    load = Load(place)
    runs = await load.beside(rounds)
    average = sum(ended - began for began, ended, _way in runs) / len(runs)
    print(f"/health, {CONNECTIONS / PAUSE:.0f} requests a second; {len(runs)} re-runs of {average * 1000:.0f} ms each")
    took: dict[str, list[float]] = {way: [] for way in ("no re-run", *WAYS)}
    for sent, spent in load.took:
        took[next((way for began, ended, way in runs if began <= sent <= ended), "no re-run")].append(spent)
    without = quantile(took["no re-run"], 0.99)
    for way, values in took.items():
        shown = ", ".join(f"{name} {quantile(values, part):.2f} ms" for name, part in (("p50", 0.5), ("p99", 0.99)))
        ratio = "" if way == "no re-run" else f"; p99 {quantile(values, 0.99) / without:.2f}x  [target: at most 2x]"
        print(f"  {way}: {shown}, at most {max(values):.2f} ms, n = {len(values)}{ratio}")


async def together(port: int, request: bytes, count: int) -> list[bytes]:
    """The answers to that many requests, each on a connection of its own; the first is sent when all are open."""
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    for _reader, writer in opened:
        writer.write(request)
    answers = await asyncio.gather(*(reader.read() for reader, _writer in opened))
    for _reader, writer in opened:
        writer.close()
    return answers


async def crowds(place: Place, count: int) -> None:
    """The second measurement."""

    def kept() -> int:
        return len(list((place.state / "history").glob("*.json")))

    def told(answers: list[bytes]) -> str:
        return ", ".join(f"{number} x {status}" for status, number in Counter(map(status_of, answers)).items())

    def status_of(answer: bytes) -> str:
        return answer[9:12].decode() or "none"

    before, began = kept(), time.perf_counter()
    looked = await together(place.port, LOOK, count)
    spent = time.perf_counter() - began
    await asyncio.sleep(AFTERWARDS)
    print(f"{count} GETs on /diagnostics at once, answered in {spent * 1000:.0f} ms: {told(looked)}")
    print(f"  suite runs started: {kept() - before}  [target: 0]")
    before = kept()
    async with connect(f"ws://127.0.0.1:{place.port}/ws/diagnostics") as live:
        asked = await together(place.port, ASK, CALLERS)
        while json.loads(await live.recv())["type"] != "run_finished":
            pass
    await asyncio.sleep(AFTERWARDS)
    runs = {json.loads(answer.partition(b"\r\n\r\n")[2]).get("run_id") for answer in asked}
    print(f"{CALLERS} POSTs on /diagnostics/run at once: {told(asked)}; runs that they name: {len(runs)}")
    print(f"  suite runs started: {kept() - before}  [target: exactly 1]")


def requirements(place: Place, count: int, repeats: int) -> None:
    """The third measurement."""
    head = "import pytest\nfrom preflight.contract import Details\n"
    bodies = [
        TRIVIAL.format(number=number, severity="critical" if number % 2 else "warning") for number in range(count)
    ]
    file = place.root / "preflight" / "requirements" / "test_many.py"
    report = place.folder / "many.json"
    command = [sys.executable, "run.py", "--check-only", "--demo", "--port", str(place.port), "--report", str(report)]
    table = Table(f"run.py --check-only --demo, the whole command; {count} trivial requirements more")
    sizes = {}
    for number in range(repeats + 1):
        for way, source in (("as shipped", ""), ("with many more", head + "".join(bodies))):
            file.write_text(source)
            spent = milliseconds(lambda: run(command, place.root, place.environ))
            sizes[way] = report.stat().st_size
            if number > 0:  # the first round fills the caches
                table.add(way, spent)
    table.show(against="as shipped")
    each = (table.median("with many more") - table.median("as shipped")) / count
    print(f"  a requirement: {each:.2f} ms  [target: under 1.5 ms]")
    print(f"  the report: {sizes['with many more'] / 1e6:.2f} MB  [target: under 2 MB]")


def main() -> None:
    """All of them."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=10, help="re-runs of each kind")
    options.add_argument("--crowd", type=int, default=1000, help="GETs at once")
    options.add_argument("--requirements", type=int, default=1000)
    options.add_argument("--repeats", type=int, default=5, help="of the third measurement")
    chosen = options.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    describe()
    with copy() as place:
        reruns = place.root / "server" / "reruns.py"
        reruns.write_text(reruns.read_text().replace("INTERVAL = 10.0", "INTERVAL = 0.0"))
        started = place.start("--demo").until_ready()
        time.sleep(3)  # the agent is imported in the background
        asyncio.run(health(place, chosen.rounds))
        started.stop()
    with copy() as place:
        started = place.start("--demo").until_ready()
        time.sleep(3)
        asyncio.run(crowds(place, chosen.crowd))
        started.stop()
    if chosen.requirements:
        with copy() as place:
            requirements(place, chosen.requirements, chosen.repeats)


if __name__ == "__main__":
    main()
