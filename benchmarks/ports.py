"""How fast a port is found free, freed and held, and how fast its holders are found on a busy machine.

    python benchmarks/ports.py [--rounds 15] [--kill-port PATH] [--no-crowd]

One run prints every figure beside what it is compared with, as medians and ratios. Ways take turns within a run, so
a noisy machine is noisy for all of them. Loopback only; it stops what it started and ends by itself.
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from preflight import ports  # noqa: E402  # the checkout is not installed
from preflight.ports import binding  # noqa: E402
from preflight.ports.linux import Linux  # noqa: E402
from preflight.ports.portable import Portable  # noqa: E402

GRACE = 0.5  # seconds, for the process that ignores SIGTERM

LISTENER = """
import signal, socket, sys
signal.signal(signal.SIGTERM, getattr(signal, sys.argv[1]))
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    signal.pause()
"""

CROWD = """
import os, socket, sys
processes, descriptors = map(int, sys.argv[1:])
listener = socket.create_server(("127.0.0.1", 0))
ready, told = os.pipe()
for number in range(processes):
    if os.fork() == 0:
        # Four of them share the listening socket, like workers.
        if number >= 4:
            listener.close()
        files = [os.open("/dev/null", os.O_RDONLY) for _ in range(descriptors - 6 + (number >= 4))]
        os.write(told, b".")
        os.read(0, 1)  # ends when the benchmark does
        os._exit(0)
while processes:
    processes -= len(os.read(ready, 4096))
print(listener.getsockname()[1], flush=True)
os.read(0, 1)
"""


@contextlib.contextmanager
def started(program: str, *arguments: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A Python program that prints its port, in a process group that ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def milliseconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


class Table:
    """Measurements of several ways, printed against the first one or the one named."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.taken: dict[str, list[float]] = {}

    def add(self, way: str, value: float) -> None:
        self.taken.setdefault(way, []).append(value)

    def median(self, way: str) -> float:
        return statistics.median(self.taken[way])

    def show(self, *, against: str | None = None, target: str = "") -> None:
        print(f"\n{self.title}" + (f"  [target: {target}]" if target else ""))
        width = max(map(len, self.taken), default=0)
        for way, values in self.taken.items():
            ratio = f"  {self.median(way) / self.median(against):6.2f}x" if against in self.taken and against else ""
            spread = f"{min(values):8.2f} to {max(values):8.2f}"
            print(f"  {way:<{width}}  {self.median(way):9.3f} ms{ratio}   {spread}   n={len(values)}")


def machines() -> dict[str, ports.Machine]:
    """Every path that works here."""
    ways: dict[str, ports.Machine] = {}
    if Linux.works():
        ways["fast (sock_diag, /proc, pidfd)"] = Linux()
        ways["without sock_diag (/proc/net/tcp)"] = Linux(netlink=False)
    ways["portable (psutil)"] = Portable()
    return ways


def close(taken: ports.Taken) -> None:
    """Give a port back that must have been had."""
    assert taken.socket is not None, taken.problem
    taken.socket.close()


def listening(port: int, *, deadline: float = 0.0) -> socket.socket:
    """The port of the loopback, waited for until it is free."""
    return binding.listen(binding.resolve("127.0.0.1", port), ports.here(), deadline=deadline)


def free_port(rounds: int) -> None:
    """Nothing is in the way."""
    table = Table("A free port: found free and held, inside the process")
    with listening(0) as port:
        number = port.getsockname()[1]
    for _ in range(rounds * 10):
        table.add("take()", milliseconds(lambda: close(ports.take("127.0.0.1", number, ports.Policy()))))
        table.add("binding.listen()", milliseconds(lambda: listening(number).close()))
        table.add("bare bind and listen", milliseconds(lambda: socket.create_server(("127.0.0.1", number)).close()))
    cold = (
        "import time, sys; sys.path.insert(0, sys.argv[1]); a = time.perf_counter(); from preflight import ports;"
        "b = time.perf_counter(); t = ports.take('127.0.0.1', int(sys.argv[2]), ports.Policy());"
        "c = time.perf_counter(); assert t.socket; print(c - b, b - a)"
    )
    for _ in range(rounds):
        command = [sys.executable, "-c", cold, str(ROOT), str(number)]
        first, importing = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        table.add("take(), first call of a process", float(first) * 1000)
        table.add("(importing preflight.ports)", float(importing) * 1000)
    table.show(against="bare bind and listen", target="under 2 ms")


def freed(machine: ports.Machine, policy: ports.Policy, on_term: str) -> float:
    """Milliseconds from the call to the held socket, against a listener that is running already."""
    with started(LISTENER, on_term) as (_, port):
        began = time.perf_counter()
        taken = ports.take("127.0.0.1", port, policy, machine=machine)
        spent = (time.perf_counter() - began) * 1000
        close(taken)
    return spent


def cooperative(rounds: int) -> None:
    """The holder does at once as it is asked."""
    table = Table("A cooperative listener, from the call to the held socket, inside the process")
    for _ in range(rounds):
        for way, machine in machines().items():
            table.add(way, freed(machine, ports.Policy(), "SIG_DFL"))
    table.show(target="under 40 ms")


def stubborn(rounds: int) -> None:
    """The holder has to be killed."""
    table = Table(f"A process that ignores SIGTERM: time beyond the grace of {GRACE * 1000:.0f} ms")
    for _ in range(max(3, rounds // 3)):
        for way, machine in machines().items():
            table.add(way, freed(machine, ports.Policy(grace=GRACE), "SIG_IGN") - GRACE * 1000)
    table.show(target="at most 100 ms")


def crowded(rounds: int, crowd: int, descriptors: int) -> None:
    """Finding the holders on a busy machine, beside the tools that list them."""
    table = Table(f"All holders of a shared socket among {crowd:,} processes and {crowd * descriptors:,} descriptors")
    with started(CROWD, crowd, descriptors) as (process, port):
        expected = 5
        ways: dict[str, Callable[[], object]] = {}
        for way, machine in machines().items():

            def find(machine: ports.Machine = machine) -> None:
                found = ports.listeners("127.0.0.1", port, machine=machine)
                assert len(found) == expected, [holder.describe() for holder in found]

            ways[way] = find
        commands = {
            "lsof": ["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-t"],
            "ss": ["ss", "-Htlnp", f"sport = :{port}"],
            "ss (as the issue says)": ["ss", "-Htlnp"],
        }
        for way, command in commands.items():
            if shutil.which(command[0]):
                ways[way] = partial(subprocess.run, command, capture_output=True, check=True)
        for _ in range(rounds):
            for way, action in ways.items():
                table.add(way, milliseconds(action))
        assert process.poll() is None
    table.show(against="lsof", target="at most 0.50x of lsof, no more than ss -Htlnp")


def whole_command(rounds: int, kill_port: str | None) -> None:
    """What a person types, until the port can be bound."""
    table = Table("A whole command, from its start until the port is free, cooperative listener")
    commands: dict[str, list[str]] = {}
    run = ROOT / "run.py"
    offered = subprocess.run([sys.executable, str(run), "--help"], capture_output=True, text=True, cwd=ROOT).stdout
    if "--free-port" in offered:
        commands["python run.py --free-port"] = [sys.executable, str(run), "--free-port", "--port"]
    if kill_port:
        commands["kill-port"] = [kill_port]
    if shutil.which("fuser"):
        commands["fuser -k (no grace)"] = ["fuser", "-k", "-n", "tcp"]
    for _ in range(rounds):
        for way, command in commands.items():
            with started(LISTENER, "SIG_DFL") as (_, port):

                def free(command: list[str] = command, port: int = port) -> None:
                    subprocess.run([*command, str(port)], capture_output=True, cwd=ROOT)
                    listening(port, deadline=5).close()  # some return before it is free

                table.add(way, milliseconds(free))
    table.show(against="kill-port", target="run.py no slower than kill-port")
    for way, known in (
        ("python run.py --free-port", "run.py has no --free-port yet"),
        ("kill-port", "give --kill-port PATH"),
    ):
        if way not in commands:
            print(f"  {way}: not measured, {known}")


def main() -> None:
    """All tables, one after the other."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--kill-port", metavar="PATH", help="npm's kill-port command, to be measured beside run.py")
    options.add_argument("--crowd", type=int, default=1000, help="processes on the busy machine")
    options.add_argument("--descriptors", type=int, default=20, help="open descriptors of each")
    options.add_argument("--no-crowd", action="store_true", help="leave the busy machine out")
    chosen = options.parse_args()
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} processors; medians, ratios, lowest to highest")
    free_port(chosen.rounds)
    cooperative(chosen.rounds)
    stubborn(chosen.rounds)
    whole_command(chosen.rounds, chosen.kill_port)
    if not chosen.no_crowd:
        crowded(chosen.rounds, chosen.crowd, chosen.descriptors)


if __name__ == "__main__":
    main()
