"""How many requests a second /health and /diagnostics answer, beside a plain FastAPI route on the same server settings.

    python benchmarks/answers.py [--rounds 5] [--seconds 2] [--connections 16]

Two instances of ours, started by ``python run.py``: the agent server with a report of 30 checks, and a FastAPI
application with one route that returns a dict. They take turns, one at a time, asked by wrk where it is installed,
else by a client in a process of its own. On a busy machine the rate for each second of the server's processor
time tells more: it is what an idle machine would show. Loopback only; it stops what it started.
"""

import argparse
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.request import urlopen

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.start import describe, place  # noqa: E402  # the checkout is not installed
from preflight import times  # noqa: E402
from preflight.redaction.redactor import Redactor  # noqa: E402
from preflight.report import building  # noqa: E402
from preflight.report import model as report  # noqa: E402
from tests.e2e.place import Place, make_place  # noqa: E402

CHECKS = 30

PLAIN = """
from fastapi import FastAPI

app = FastAPI()

@app.get("/plain")
async def plain():
    return {"status": "healthy", "version": "0.1.0", "architecture": "LangGraph StateGraph behind FastAPI",
            "critical_errors": [], "warnings": [], "active_connections": 0, "active_sessions": 0}
"""

CLIENT = """
import asyncio, re, sys, time
host, port, path, seconds, connections, *headers = sys.argv[1:]
lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", *headers, "", ""]
request = "\\r\\n".join(lines).encode()
length = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)

class Client(asyncio.Protocol):
    answered = 0
    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""
        transport.write(request)
    def data_received(self, data):
        self.buffer += data
        head, found, body = self.buffer.partition(b"\\r\\n\\r\\n")
        size = length.search(head)
        if found and len(body) >= (int(size[1]) if size else 0):
            Client.answered += 1
            self.buffer = b""
            self.transport.write(request)

async def main():
    loop = asyncio.get_running_loop()
    for _ in range(int(connections)):
        await loop.create_connection(Client, host, int(port))
    await asyncio.sleep(0.1)
    began, Client.answered = time.perf_counter(), 0
    await asyncio.sleep(float(seconds))
    spent = time.perf_counter() - began
    print(Client.answered, "requests in", spent)
    print("Requests/sec:", Client.answered / spent)

asyncio.run(main())
"""


def rate(here: Place, path: str, headers: Mapping[str, str], seconds: int, connections: int) -> tuple[float, float]:
    """Answers a second, and for each second of processor time that the instance's processes took."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    if shutil.which("wrk"):
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
        for line in lines:
            command += ["-H", line]
        command.append(f"http://127.0.0.1:{here.port}{path}")
    else:
        command = [
            sys.executable,
            "-c",
            CLIENT,
            "127.0.0.1",
            str(here.port),
            path,
            str(seconds),
            str(connections),
            *lines,
        ]
    processes = [psutil.Process(pid) for pid in (here.started[0].pid, *here.started[0].family())]

    def spent() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    before = spent()
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    processor = spent() - before
    found = re.search(r"Requests/sec: *([0-9.]+)", said)
    count = re.search(r"([0-9]+) requests in", said)
    if found is None or count is None or ("Non-2xx" in said and "If-None-Match" not in headers):
        raise SystemExit(f"{path} was not answered well:\n{said}")
    return float(found[1]), int(count[1]) / processor


def publish(here: Place) -> None:
    """A report of 30 checks for the instance's address, newer than its own."""
    checks = [
        report.Check(
            f"preflight/requirements/test_{number}.py::test_it", f"Requirement {number}", "It holds.", "critical",
            "passed", message="3.13.9 satisfies >=3.13.8", details={"required": ">=3.13.8", "found": "3.13.9"},
            duration=0.0123,
        )
        for number in range(CHECKS)
    ]  # fmt: skip
    document = {
        "exitcode": 0,
        "duration": 0.2,
        "summary": {"collected": CHECKS, "total": CHECKS},
        "tests": [{"nodeid": check.id, "lineno": 1, "outcome": "passed"} for check in checks],
    }
    made = building.build(
        document, checks, redactor=Redactor(), run_id="benchmark", origin="pytest", selection="all",
        address=f"127.0.0.1:{here.port}", started_at=times.now(),
    )  # fmt: skip
    report.publish(made, here.report_file)


def main() -> None:
    """One table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=int, default=2)
    options.add_argument("--connections", type=int, default=16)
    chosen = options.parse_args()
    describe()
    with place() as ours:
        theirs = make_place(ours.folder / "plain")
        theirs.write_module("plain", PLAIN)
        try:
            measure(ours, theirs, chosen.rounds, chosen.seconds, chosen.connections)
        finally:
            theirs.close()


def measure(ours: Place, theirs: Place, rounds: int, seconds: int, connections: int) -> None:
    """Ask both, way after way, so many rounds."""
    one = ours.start("--demo").until_ready()
    other = theirs.start("--demo", "--app", "plain:app").until_ready()
    publish(ours)
    with urlopen(f"{ours.url}/diagnostics") as answer:
        etag, size = answer.headers["ETag"], len(answer.read())
    ways: dict[str, tuple[Place, str, dict[str, str], str]] = {
        "plain FastAPI route, a dict": (theirs, "/plain", {}, ""),
        "/health": (ours, "/health", {}, "at least 3.5"),
        "/health/ready": (ours, "/health/ready", {}, ""),
        f"/diagnostics, {CHECKS} checks, {size / 1024:.1f} KiB": (ours, "/diagnostics", {}, "at least 2"),
        "/diagnostics, 304": (ours, "/diagnostics", {"If-None-Match": etag}, "at least 3"),
        "/diagnostics, text/plain": (ours, "/diagnostics", {"Accept": "text/plain"}, ""),
    }
    rates: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, (where, path, headers, _target) in ways.items():
            found = rate(where, path, headers, seconds, connections)
            if number > 0:  # the first round warms both up
                rates[way].append(found)
    print(f"{connections} connections, {rounds} rounds of {seconds} s; requests a second, then of processor time")
    plain = rates[next(iter(ways))]
    for way, (_where, _path, _headers, target) in ways.items():
        shown = []
        for kind in (0, 1):
            mine, peers = [one[kind] for one in rates[way]], [one[kind] for one in plain]
            ratio = statistics.median(one / peer for one, peer in zip(mine, peers, strict=True))
            shown.append(f"{statistics.median(mine):7,.0f} ({min(mine):,.0f} to {max(mine):,.0f}) {ratio:5.2f}x")
        print(f"  {way:34} {shown[0]:34} {shown[1]:34}{f'  [target: {target}]' if target else ''}")
    for instance in (one, other):
        instance.stop()


if __name__ == "__main__":
    main()
