"""How long a checked start takes beside an unchecked one, and how much memory the launcher keeps.

    python benchmarks/start.py [--pairs 15] [--processors 1]

From exec to the first 200 on /health: ``python run.py --demo`` against bare uvicorn on the same application
without its suite, in turns. Loopback only, in a home folder of its own; it stops what it started.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.ports import Table  # noqa: E402  # the checkout is not installed
from tests.e2e.place import Place, make_place  # noqa: E402
from tests.portnumbers import unused_port  # noqa: E402

PATIENCE = 30.0  # seconds until a start counts as failed
SETTLED = 0.5  # seconds after the first answer until memory is read
REQUEST = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


@contextmanager
def place() -> Iterator[Place]:
    """A home of our own, removed at the end with everything that was started in it."""
    with tempfile.TemporaryDirectory(prefix="preflight-benchmark-") as folder:
        made = make_place(Path(folder) / "place")
        try:
            yield made
        finally:
            made.close()


def describe() -> None:
    """One line on this machine and how busy it is."""
    load = os.getloadavg()[0]
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} processors, load {load:.1f}; medians, lowest to highest")


def answered(port: int) -> bool:
    """Whether /health says 200; a connection that waits in the queue is waited for."""
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.sendall(REQUEST)
            return client.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def resident(pid: int) -> float:
    """MiB of VmRSS."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def start(command: list[str], environ: dict[str, str], port: int, folder: Path = ROOT) -> tuple[float, float]:
    """Milliseconds from exec to the first 200, and MiB resident of the process that was started."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not answered(port):
            if process.poll() is not None or time.perf_counter() - began > PATIENCE:
                raise SystemExit(f"it never answered: {' '.join(command)}")
            time.sleep(0.002)
        spent = (time.perf_counter() - began) * 1000
        time.sleep(SETTLED)
        return spent, resident(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def measure(here: Place, pairs: int, processors: int | None) -> None:
    """One table."""
    where = "all processors" if processors is None else f"{processors} of the processors (taskset)"
    table = Table(f"From exec to the first 200 on /health, {where}")
    prefix = [] if processors is None else ["taskset", "-c", f"0-{processors - 1}"]
    ways = {
        "bare uvicorn": (["-m", "uvicorn", "--factory", "server.app:create_app"], {"PREFLIGHT_SKIP": "1"}),
        "python run.py --demo": (["run.py", "--demo"], {}),
    }
    memory: list[float] = []
    for number in range(pairs + 1):
        for way, (arguments, variables) in ways.items():
            port = unused_port()
            demo = {"PREFLIGHT_DEMO": "1"} if variables else {}
            command = [*prefix, sys.executable, *arguments, "--port", str(port)]
            spent, mebibytes = start(command, {**here.environ, **variables, **demo}, port)
            if number > 0:  # the first pair fills the caches
                table.add(way, spent)
                if not variables:
                    memory.append(mebibytes)
    table.show(against="bare uvicorn", target="at most 1.15x on two idle processors" if processors is None else "")
    middle = sorted(memory)[len(memory) // 2]
    print(f"  the launcher while serving: {middle:.1f} MiB resident, {min(memory):.1f} to {max(memory):.1f}", end="")
    print("  [target: under 20]")


def main() -> None:
    """On all processors, then on as many as were asked for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pairs", type=int, default=15)
    options.add_argument("--processors", type=int, default=1, help="of the second table; 0 leaves it out")
    chosen = options.parse_args()
    describe()
    with place() as here:
        measure(here, chosen.pairs, None)
        if chosen.processors and shutil.which("taskset"):
            measure(here, chosen.pairs, chosen.processors)


if __name__ == "__main__":
    main()
