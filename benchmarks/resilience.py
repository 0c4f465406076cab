"""What clients notice of crashes, replacements and stops, and whether anybody can steal the port.

    python benchmarks/resilience.py [--crashes 100] [--replacements 20] [--stops 20] [--restarts 20] [--starts 100]

32 clients keep their connections and 8 make a new one for each request, all in a process of their own, while
``python run.py --demo`` is crashed, replaced and stopped, and restarted behind a socket that somebody else holds, as
systemd does. 0 leaves a part out. Loopback only, in a home folder of its
own; it ends by itself and touches only processes that it started.
"""

import argparse
import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402

from benchmarks.start import describe, place  # noqa: E402  # the checkout is not installed
from tests.e2e.doubles import Providers  # noqa: E402
from tests.e2e.place import READY, Place, Started, equip, get  # noqa: E402
from tests.servicemanagers import passing  # noqa: E402
from tests.waiting import until  # noqa: E402

KEEPING, RECONNECTING = 32, 8  # clients
PAUSE = 0.01  # seconds between two requests of a client
PATIENCE = 30.0  # seconds until a request without an answer is lost
NEAR = 0.25  # seconds after a crash in which a request of its worker may be lost
REQUEST = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
LIMITS = {
    "PREFLIGHT_RESTART_LIMIT": "1000000",
    "PREFLIGHT_RESTART_BACKOFF": "0",
    "PREFLIGHT_RESTART_WINDOW": "0.1",
}

# The suite tells when Server Port has passed, on the clock that all processes share.
PLUGIN = """
import os, time, pytest

@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed and report.nodeid.endswith("test_server_port"):
        with open(os.environ["PORT_PASSED"], "w") as file:
            file.write(repr(time.monotonic()))
"""


# The clients' process.


class Unanswered(Exception):
    """The connection was there, and no answer came."""


class Clients:
    """Asks until told to stop; counts what went wrong, and when."""

    def __init__(self, port: int, *, retry: bool, until_refused: bool) -> None:
        """``retry``: once, on a reused connection. ``until_refused``: the server is going to stop for good."""
        self.port, self.retry, self.until_refused = port, retry, until_refused
        self.answers = self.retried = 0
        self.statuses: dict[int, int] = {}
        self.refused: list[float] = []
        self.lost: list[tuple[float, float, str]] = []
        """When it was sent, when it was lost, and how."""
        self.slowest = 0.0
        self.over = False

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request on a connection; whether the connection can be used again."""
        try:
            writer.write(REQUEST)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
            await asyncio.wait_for(reader.readexactly(int(fields[b"content-length"])), PATIENCE)
        except (OSError, EOFError, TimeoutError) as error:
            raise Unanswered(type(error).__name__) from None
        status = int(head[9:12])
        self.answers += 1
        self.statuses[status] = self.statuses.get(status, 0) + 1
        return fields.get(b"connection") != b"close"

    async def client(self, *, keeps: bool) -> None:
        """One client."""
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        retrying = False
        while not self.over or retrying:
            if connection is not None and connection[0].at_eof():
                # Any client's pool looks before it uses a connection again.
                connection[1].close()
                connection = None
            began = time.monotonic()
            reused = connection is not None
            if connection is None:
                try:
                    connection = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    self.refused.append(time.monotonic())
                    retrying = False
                    if self.until_refused:
                        return
                    await asyncio.sleep(PAUSE)
                    continue
            try:
                again = await self.ask(*connection) and keeps
            except Unanswered as error:
                again = False
                if self.retry and reused and not retrying:
                    self.retried += 1
                    retrying = True
                else:
                    kind = f"{error} on a {'reused' if reused else 'new'} connection"
                    self.lost.append((began, time.monotonic(), kind))
                    retrying = False
            else:
                retrying = False
            self.slowest = max(self.slowest, time.monotonic() - began)
            if not again:
                connection[1].close()
                connection = None
            if not retrying:
                await asyncio.sleep(PAUSE)
        if connection is not None:
            connection[1].close()

    async def run(self) -> None:
        """All of them, until standard input closes or everybody was refused."""
        asyncio.get_running_loop().add_reader(sys.stdin, self.stop)
        clients = [self.client(keeps=number < KEEPING) for number in range(KEEPING + RECONNECTING)]
        await asyncio.gather(*clients)
        said = vars(self) | {"over": True}
        print(json.dumps(said))

    def stop(self) -> None:
        self.over = True
        asyncio.get_running_loop().remove_reader(sys.stdin)


def adversary(port: int) -> None:
    """Bind the port as often as possible, in every way there is, until standard input closes; print when it worked."""
    os.set_blocking(0, False)
    got: list[float] = []
    tries = 0
    ways = [(address, option) for address in ("127.0.0.1", "0.0.0.0") for option in (0, 1, 2)]
    while True:
        for address, option in ways:
            tries += 1
            with socket.socket() as sock:
                if option:
                    sock.setsockopt(socket.SOL_SOCKET, (socket.SO_REUSEADDR, socket.SO_REUSEPORT)[option - 1], 1)
                try:
                    sock.bind((address, port))
                    sock.listen()
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise
                    continue
                got.append(time.monotonic())
            time.sleep(0.005)  # long enough for the start to come by
        try:
            if os.read(0, 1) == b"":
                break
        except BlockingIOError:
            pass
    print(json.dumps({"tries": tries, "got": got}))


# The benchmark's process.


class Helper:
    """The clients or the adversary, in their own process."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, __file__, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._result: dict[str, Any] = {}

    def stop(self) -> dict[str, Any]:
        """End it; what it found."""
        if not self._result:
            said, _ = self.process.communicate(timeout=2 * PATIENCE)
            self._result = json.loads(said)
        return self._result

    def __enter__(self) -> "Helper":
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def load(here: Place, *options: str) -> Iterator[Helper]:
    """Clients of this place's port, at full speed when the block begins."""
    with Helper("clients", here.port, *options) as clients:
        time.sleep(1.0)
        yield clients


def worker(started: Started) -> int:
    """The PID of the process that serves."""
    for process in psutil.Process(started.pid).children():
        if "preflight.worker" in process.cmdline():
            return process.pid
    raise SystemExit(f"there is no worker:\n{started.output}")


def instance(here: Place) -> Any:
    """Who serves this place's port."""
    return json.loads(get(f"{here.url}/diagnostics")[1])["server"]["instance_id"]


def tell(title: str, target: str, found: dict[str, Any], **more: object) -> None:
    """One part's figures."""
    print(f"\n{title}  [target: {target}]")
    statuses = {int(status): count for status, count in found["statuses"].items()}
    bad = sum(count for status, count in statuses.items() if status != 200)
    print(f"  {found['answers']:,} answers, {bad} of them not 200; slowest {found['slowest'] * 1000:.0f} ms")
    print(f"  {len(found['refused'])} connections refused, {len(found['lost'])} requests lost")
    for name, value in more.items():
        print(f"  {name.replace('_', ' ')}: {value}")
    kinds = [kind for _sent, _lost, kind in found["lost"]]
    for kind in sorted(set(kinds)):
        print(f"    {kinds.count(kind)} x {kind}")
    sys.stdout.flush()


def crashes(here: Place, count: int) -> None:
    """The worker is killed again and again."""
    server = here.start("--demo", "--supervise", **LIMITS).until_ready()
    moments: list[float] = []
    with load(here) as clients:
        for number in range(1, count + 1):
            pid = worker(server)
            moments.append(time.monotonic())
            os.kill(pid, signal.SIGKILL)
            until(lambda n=number: server.stdout.count("The worker is back") >= n, "the worker is back")  # type: ignore[misc]
            time.sleep(0.2)
        found = clients.stop()
    server.stop()
    # A killed process keeps its connections for the moments that the kernel needs to take it apart.
    answering = [sum(sent <= crash <= lost < crash + NEAR for sent, lost, _ in found["lost"]) for crash in moments]
    reused = [(sent, lost) for sent, lost, kind in found["lost"] if "reused" in kind]
    dying = [sum(crash < sent <= lost < crash + NEAR for sent, lost in reused) for crash in moments]
    most = max(map(sum, zip(answering, dying, strict=True)))
    tell(
        f"{count} crashes of the worker (SIGKILL)",
        "0 refused; lost only what the killed worker was answering",
        found,
        lost_of_those_sent_before_the_kill=sum(answering),
        lost_of_those_sent_after_it_on_a_connection_of_the_killed_worker=sum(dying),
        lost_otherwise_which_nothing_excuses=len(found["lost"]) - sum(answering) - sum(dying),
        most_lost_in_one_crash=f"{most} of {KEEPING + RECONNECTING} clients",
    )


def replacements(here: Place, count: int) -> None:
    """A new start takes over from a running one."""
    server = here.start("--demo").until_ready()
    instances = {instance(here)}
    with load(here, "--retry") as clients:
        for _ in range(count):
            old, server = server, here.start("--demo").until_ready()
            assert old.wait() == 0, old.output
            instances.add(instance(here))
        found = clients.stop()
    server.stop()
    tell(
        f"{count} replacements",
        "0 refused, 0 lost",
        found,
        instances_that_served=len(instances),
        requests_sent_again_after_a_reused_connection_closed=found["retried"],
    )


def refused_replacements(here: Place, count: int) -> None:
    """A new start is blocked by its preflight."""
    server = here.start("--demo").until_ready()
    before = instance(here)
    codes = []
    providers = Providers()
    equip(here, providers)
    with load(here, "--retry") as clients:
        codes = [here.run(PREFLIGHT_PYTHON=">=3.99").process.returncode for _ in range(count)]
        found = clients.stop()
    same = instance(here) == before
    server.stop()
    providers.close()
    tell(
        f"{count} replacements whose preflight fails",
        "0 refused, 0 lost, the old instance untouched",
        found,
        exit_codes_of_the_starts=sorted(set(codes)),
        the_same_instance_serves=same,
        requests_sent_again_after_a_reused_connection_closed=found["retried"],
    )


def stops(here: Place, count: int) -> None:
    """SIGTERM under load; what has a connection gets its answer."""
    total: dict[str, Any] = {"answers": 0, "statuses": {}, "slowest": 0.0, "refused": [], "lost": []}
    codes, times = set(), []
    for _ in range(count):
        server = here.start("--demo").until_ready()
        with load(here, "--until-refused") as clients:
            began = time.monotonic()
            codes.add(server.stop())
            times.append((time.monotonic() - began) * 1000)
            found = clients.stop()
        total["answers"] += found["answers"]
        total["slowest"] = max(total["slowest"], found["slowest"])
        total["lost"] += found["lost"]
        for status, number in found["statuses"].items():
            total["statuses"][status] = total["statuses"].get(status, 0) + number
    tell(
        f"{count} stops (SIGTERM)",
        "every request that was accepted is answered: 0 lost",
        total,
        exit_codes=sorted(codes),
        from_the_signal_to_the_end=f"{min(times):.0f} to {max(times):.0f} ms",
    )


def restarts(here: Place, count: int) -> None:
    """Stops and starts behind a socket that a service manager holds all the time."""
    with socket.create_server(("127.0.0.1", here.port), backlog=4096) as held:
        command = passing([held], [sys.executable, "run.py", "--port", str(here.port), "--demo"])
        server = here.spawn(*command, pass_fds=[held.fileno()]).until_ready()
        instances, codes = {instance(here)}, set()
        with load(here, "--retry") as clients:
            for _ in range(count):
                codes.add(server.stop())
                server = here.spawn(*command, pass_fds=[held.fileno()]).until_ready()
                instances.add(instance(here))
            found = clients.stop()
        server.stop()
    tell(
        f"{count} restarts behind an activated socket",
        "0 refused, 0 lost",
        found,
        exit_codes=sorted(codes),
        instances_that_served=len(instances),
        requests_sent_again_after_a_reused_connection_closed=found["retried"],
    )


def stolen(here: Place, count: int) -> None:
    """Somebody wants the port all the time."""
    here.write_module("port_passed", PLUGIN)
    passed = here.folder / "passed"
    variables = {"PREFLIGHT_PLUGINS": "port_passed", "PORT_PASSED": str(passed)}
    tries = before = after = lost = 0
    for _ in range(count):
        passed.unlink(missing_ok=True)
        with Helper("adversary", here.port) as other:
            server = here.start("--demo", "--no-cleanup", **variables)
            until(lambda s=server: READY in s.output or s.process.poll() is not None, "it serves or is refused")  # type: ignore[misc]
            served = server.process.poll() is None
            time.sleep(0.1)
            found = other.stop()
        if served:
            moment = float(passed.read_text())
            after += sum(got > moment for got in found["got"])
            before += sum(got <= moment for got in found["got"])
            server.stop()
        else:
            lost += 1  # it held the port in the very moment of the check
        tries += found["tries"]
    print(f"\nAn adversary that binds the port in a tight loop, {count} starts  [target: 0 after Server Port passed]")
    print(f"  {tries:,} tries; got it {before:,} times before Server Port passed, {after} times after")
    print(f"  {lost} starts were refused because it held the port when Server Port was checked")


def main() -> None:
    """One part after the other."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--crashes", type=int, default=100)
    options.add_argument("--replacements", type=int, default=20, help="that succeed, and as many that are refused")
    options.add_argument("--stops", type=int, default=20)
    options.add_argument("--restarts", type=int, default=20, help="behind an activated socket")
    options.add_argument("--starts", type=int, default=100, help="against the adversary")
    chosen = options.parse_args()
    describe()
    for part, count in (
        (crashes, chosen.crashes),
        (replacements, chosen.replacements),
        (refused_replacements, chosen.replacements),
        (stops, chosen.stops),
        (restarts, chosen.restarts),
        (stolen, chosen.starts),
    ):
        if count:
            with place() as here:
                part(here, count)


if __name__ == "__main__":
    if sys.argv[1:2] == ["clients"]:
        asyncio.run(
            Clients(int(sys.argv[2]), retry="--retry" in sys.argv, until_refused="--until-refused" in sys.argv).run()
        )
    elif sys.argv[1:2] == ["adversary"]:
        adversary(int(sys.argv[2]))
    else:
        main()
