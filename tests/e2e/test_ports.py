"""Finding, freeing and holding a port, with real processes in every state that has gone wrong somewhere."""

import contextlib
import errno
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from preflight import ports
from preflight.ports import Machine, Policy, Taken, here, listeners, plan, take
from preflight.ports.binding import listen, resolve
from preflight.ports.linux import Linux
from preflight.ports.machine import Process
from preflight.ports.portable import Portable
from preflight.ports.sockets import TIME_WAIT
from tests import pasting
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "e2e" / "programs"
NOBODY = 65534
QUICK = Policy(grace=0.3)
PATIENT = Policy(grace=10.0)  # a test that needs SIGKILL with this one takes 10 s and is seen to be wrong

on_linux = Linux.works()
linux_only = pytest.mark.skipif(not on_linux, reason="no pidfd or /proc here")
needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
needs_root = pytest.mark.needs_root("nobody else can start another user's process")


@pytest.fixture(params=[pytest.param("linux", marks=linux_only), "portable"])
def machine(request: pytest.FixtureRequest) -> Machine:
    """The fast path and the portable one: what they do is the same."""
    return Linux() if request.param == "linux" else Portable()


def machines() -> list[Machine]:
    """Both of them, for tests that leave their programs alive."""
    return [*([Linux()] if on_linux else []), Portable()]


@contextlib.contextmanager
def asked_of(machine: Machine) -> Iterator[None]:
    """A failure says whose it is."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"asked of {type(machine).__name__}")
        raise


class Started:
    """A program that a test started, in a process group of its own."""

    def __init__(self, command: list[str]) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
        self.port = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self, timeout: float = 20.0) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], timeout)[0], f"{self.process.args!r} says nothing"
        return self.process.stdout.readline().strip()

    def until_ready(self) -> "Started":
        word, _, port = self.line().partition(" ")
        assert word == "ready", f"{self.process.args!r} did not start"
        self.port = int(port)
        return self

    def group(self) -> list[int]:
        """Living processes of its group."""
        living = []
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = entry.read_text(errors="replace").rpartition(")")[2].split()
                if int(fields[2]) == self.pid and fields[0] not in "ZX":
                    living.append(int(entry.parent.name))
        return living

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


Start = Callable[..., Started]
PLAIN = [sys.executable, "-S"]
"""A Python for programs that need no packages: it starts in half the time."""


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a program of tests/e2e/programs and waits until it listens; ends it after the test."""
    started: list[Started] = []

    def begin(program: str, *arguments: object, wait: bool = True) -> Started:
        python = [sys.executable] if program == "port_take" else PLAIN
        one = Started([*python, str(PROGRAMS / f"{program}.py"), *map(str, arguments)])
        started.append(one)
        return one.until_ready() if wait else one

    yield begin
    for one in started:
        one.end()


@pytest.fixture
def uvicorn(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts uvicorn with a small application and waits until it answers."""
    pytest.importorskip("uvicorn")
    (tmp_path / "small.py").write_text(
        "async def app(scope, receive, send):\n"
        "    if scope['type'] != 'http':\n"
        "        return\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': b'ok'})\n"
    )
    started: list[Started] = []

    def begin(*arguments: object) -> Started:
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "small:app", "--app-dir", str(tmp_path), "--port", str(port)]
        if "--reload" in arguments:
            command += ["--reload-dir", str(tmp_path)]  # not the folder it runs in: it would read the whole disk
        one = Started([*command, "--log-level", "critical", *map(str, arguments)])
        one.port = port
        started.append(one)
        wait_until(lambda: answers(port), f"uvicorn {arguments} answers")
        return one

    yield begin
    for one in started:
        one.end()


def free_port(host: str = "127.0.0.1") -> int:
    with socket.create_server((host, 0)) as held:
        return int(held.getsockname()[1])


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return b"200" in client.recv(64)
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 20.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"waited {timeout} s until {what}"
        time.sleep(0.01)


def until_accepted(server: Started, count: int) -> None:
    """Wait until a server has accepted so many connections.

    The kernel connects clients before; what is not accepted by then is reset when the server ends, and is no
    connection of anybody's afterwards.
    """

    def accepted() -> int:
        connections = psutil.Process(server.pid).net_connections("tcp")
        return sum(connection.status == psutil.CONN_ESTABLISHED for connection in connections)

    wait_until(lambda: accepted() == count, f"{count} are accepted")


@contextlib.contextmanager
def held(taken: Taken) -> Iterator[socket.socket]:
    """The socket of a successful take: listening and ours, as a client sees it."""
    assert taken.socket is not None, (taken.problem, [str(step) for step in taken.steps])
    with taken.socket as ours:
        assert taken.problem is None
        assert taken.steps[-1].action == "held"
        assert not ours.get_inheritable()
        host, port = ours.getsockname()[:2]
        client = socket.create_connection(("::1" if host == "::" else host, port), timeout=PATIENCE)
        accepted, _ = ours.accept()
        client.close()
        accepted.close()
        yield ours


def actions(taken: Taken, pid: int) -> list[str]:
    return [step.action for step in taken.steps if step.pid == pid]


def pids(found: list[ports.Holder]) -> set[int | None]:
    return {holder.pid for holder in found}


# -- hold ----------------------------------------------------------------------------------------------------


def test_a_free_port_is_held_at_once(machine: Machine) -> None:
    """Nothing is looked for and nothing stopped when the bind succeeds."""
    port = free_port()
    assert plan("127.0.0.1", port, QUICK, machine=machine).free
    taken = take("127.0.0.1", port, QUICK, machine=machine)
    with held(taken):
        assert taken.holders == ()
        assert [step.action for step in taken.steps] == ["held"]


def test_listening_waits_for_a_busy_port_until_its_deadline(start: Start) -> None:
    """It comes back with the port when that is given up, not before and not much later."""
    listener = start("port_listener", "--on-term", "later", "--later", "0.2")
    target = resolve("127.0.0.1", listener.port)
    with pytest.raises(ports.PortUnavailable) as refused:
        listen(target, here())
    assert refused.value.errno == errno.EADDRINUSE
    assert "\n" not in str(refused.value)
    pasting.check(refused.value.fix)
    os.kill(listener.pid, signal.SIGTERM)
    with listen(target, here(), deadline=10) as ours:
        assert ours.getsockname()[1] == listener.port
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_listening_gives_up_at_its_deadline(start: Start) -> None:
    """A port that stays busy raises, after the time given."""
    listener = start("port_listener")
    began = time.monotonic()
    with pytest.raises(ports.PortUnavailable, match="in use"):
        listen(resolve("127.0.0.1", listener.port), here(), deadline=0.1)
    assert 0.1 <= time.monotonic() - began < 2


def test_time_wait_is_not_in_use(machine: Machine) -> None:
    """A port with connections in TIME_WAIT is held at once, because the server would bind it too."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = listener.accept()
            accepted.close()  # the side that closes first keeps TIME_WAIT
            assert client.recv(1) == b""
    if on_linux:
        wait_until(lambda: {one.state for one in Linux().occupying(port)} == {TIME_WAIT}, "it is in TIME_WAIT")
    taken = take("127.0.0.1", port, QUICK, machine=machine)
    with held(taken):
        assert taken.holders == ()


def test_bound_but_not_listening_holds_nothing(start: Start, machine: Machine) -> None:
    """A socket that is bound with SO_REUSEADDR and does not listen does not keep us from the port."""
    other = start("port_listener", "--no-listen")
    assert listeners("127.0.0.1", other.port, machine=machine) == []
    with held(take("127.0.0.1", other.port, QUICK, machine=machine)):
        assert other.process.poll() is None


def test_bound_without_reuse_is_explained_and_left_alone(start: Start) -> None:
    """A socket that keeps the port without listening is no holder: it is named where possible, never stopped."""
    other = start("port_listener", "--no-listen", "--no-reuse")
    for machine in machines():
        with asked_of(machine):
            taken = take("127.0.0.1", other.port, QUICK, machine=machine)
            assert taken.socket is None
            assert taken.steps == ()
            assert taken.problem is not None
            assert f"port {other.port} is in use" in taken.problem
            pasting.check(str(taken.fix))
            if isinstance(machine, Linux) and Linux().occupying(other.port):  # from Linux 6.8 on
                assert f"PID {other.pid}" in taken.problem
                assert "without listening" in taken.problem
            assert other.process.poll() is None


def test_connections_of_a_server_without_reuse_are_explained(start: Start) -> None:
    """Where the system itself keeps the port after its server has gone, the problem says so instead of blaming."""
    if not on_linux:
        pytest.skip("only Linux lists such connections")
    server = start("port_listener", "--no-reuse", "--accept")
    with socket.create_connection(("127.0.0.1", server.port)):
        until_accepted(server, 1)
        taken = take("127.0.0.1", server.port, QUICK)
        assert server.group() == []
        assert taken.socket is None
        assert "earlier connection" in str(taken.problem)
        pasting.check(str(taken.fix))


# -- find: families and addresses ----------------------------------------------------------------------------


def sources() -> dict[str, Machine]:
    """Every source that sockets are read from."""
    fast = {"sock_diag": Linux(netlink=True), "/proc/net/tcp": Linux(netlink=False)} if on_linux else {}
    return {**fast, "portable": Portable()}


@needs_ipv6
@pytest.mark.parametrize(
    "theirs, more, overlaps",
    [
        (
            "127.0.0.1",
            [],
            {"127.0.0.1": True, "localhost": True, "0.0.0.0": True, "::": True, "127.0.0.2": False, "::1": False},
        ),
        ("0.0.0.0", [], {"127.0.0.1": True, "::1": False, "::": True}),
        ("::1", [], {"::1": True, "[::1]": True, "::": True, "127.0.0.1": False}),
        ("::", ["--no-v6only"], {"127.0.0.1": True, "0.0.0.0": True, "::1": True}),
        ("::", ["--v6only"], {"127.0.0.1": False, "::1": True, "::": True}),
        ("::ffff:127.0.0.1", ["--no-v6only"], {"127.0.0.1": True, "127.0.0.2": False}),
    ],
)
def test_overlap(theirs: str, more: list[str], overlaps: dict[str, bool], start: Start) -> None:
    """Holders are those that keep this address from being bound: the bind and every list agree."""
    listener = start("port_listener", "--host", theirs, *more)
    found, expected = {}, {}
    for (name, source), (ours, overlap) in itertools.product(sources().items(), overlaps.items()):
        foreseen = plan(ours, listener.port, QUICK, machine=source)
        listed = pids(listeners(ours, listener.port, machine=source))
        holders = {listener.pid} if overlap else set()
        found[name, ours] = (foreseen.free, pids(list(foreseen.holders)), listed)
        expected[name, ours] = (not overlap, holders, holders)
    assert found == expected


@needs_ipv6
@pytest.mark.parametrize("theirs, more", [("::1", []), ("::", ["--no-v6only"]), ("0.0.0.0", [])])
def test_listeners_of_every_kind_are_freed(theirs: str, more: list[str], machine: Machine, start: Start) -> None:
    """IPv6-only, dual-stack and wildcard listeners make way, and what we hold answers."""
    listener = start("port_listener", "--host", theirs, *more)
    taken = take("::", listener.port, PATIENT, machine=machine)
    with held(taken) as ours:
        assert pids(list(taken.holders)) == {listener.pid}
        with socket.create_connection(("127.0.0.1", ours.getsockname()[1]), timeout=PATIENCE):
            pass  # :: takes IPv4 as well


@needs_ipv6
def test_an_address_that_does_not_overlap_is_left_alone(machine: Machine, start: Start) -> None:
    """Others on the same port at other addresses stay, while the one in the way goes."""
    in_the_way = start("port_listener")
    beside = start("port_listener", "--host", "127.0.0.2", "--port", in_the_way.port)
    v6 = start("port_listener", "--host", "::", "--v6only", "--port", in_the_way.port)
    taken = take("127.0.0.1", in_the_way.port, PATIENT, machine=machine)
    with held(taken):
        assert pids(list(taken.holders)) == {in_the_way.pid}
        assert beside.process.poll() is None
        assert v6.process.poll() is None


# -- who is found --------------------------------------------------------------------------------------------


def test_a_holder_is_described(start: Start) -> None:
    """PID, name, command line, user, start time, parent, children and address are those of the process."""
    before = time.time()
    listener = start("port_listener", "--helper", "helping")
    for machine in machines():
        with asked_of(machine):
            [holder] = listeners("127.0.0.1", listener.port, machine=machine)
            assert holder.pid == listener.pid
            assert "port_listener.py --helper helping" in holder.command
            assert holder.uid == os.geteuid()
            assert holder.started_at is not None
            assert before - 1.5 < holder.started_at < time.time() + 1.5
            assert holder.parent == os.getpid()
            assert set(holder.children) == set(listener.group()) - {listener.pid}
            assert len(holder.children) == 1
            assert holder.addresses == (f"127.0.0.1:{listener.port}",)
            assert f"(PID {listener.pid}, user " in holder.describe()
            assert holder.command in holder.describe()
            assert json.loads(json.dumps(holder.to_dict()))["children"] == list(holder.children)


def test_a_client_of_the_port_survives(machine: Machine, start: Start) -> None:
    """Only listeners are holders: this very process is connected to the port, and lives to see it freed."""
    server = start("port_listener", "--accept")
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        assert pids(listeners("127.0.0.1", server.port, machine=machine)) == {server.pid}
        client_process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(server.port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert client_process.stdout is not None
            assert client_process.stdout.readline() == b"connected\n"
            until_accepted(server, 2)
            with held(take("127.0.0.1", server.port, PATIENT, machine=machine)):
                assert client_process.poll() is None
        finally:
            client_process.kill()
            client_process.communicate()
        assert client.recv(1) == b""


CLIENT = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))):
    print("connected", flush=True)
    sys.stdin.read()
"""


def test_every_holder_of_a_shared_socket_is_found_and_stopped(machine: Machine, start: Start) -> None:
    """Four workers share their parent's socket: five holders, the topmost is asked first, none is left."""
    server = start("port_listener", "--workers", "4")
    wait_until(lambda: len(server.group()) == 5, "four workers are there")
    everybody = set(server.group())
    foreseen = plan("127.0.0.1", server.port, PATIENT, machine=machine)
    assert pids(list(foreseen.holders)) == everybody
    assert pids(list(foreseen.stop)) == everybody
    assert foreseen.stop[0].pid == server.pid
    assert set(server.group()) == everybody, "a plan stops nothing"
    taken = take("127.0.0.1", server.port, PATIENT, machine=machine)
    with held(taken):
        assert server.group() == []
        asked = [step.pid for step in taken.steps if step.action == "SIGTERM"]
        assert asked[0] == server.pid
        assert set(asked) == everybody, "the parent leaves its workers behind: they are swept"
        order = [(step.action, step.pid) for step in taken.steps]
        assert order.index(("exited", server.pid)) < order.index(("SIGTERM", asked[1]))
        assert "SIGKILL" not in {step.action for step in taken.steps}


def test_a_descendant_that_does_not_hold_the_port_is_not_left_behind(machine: Machine, start: Start) -> None:
    """A child without the socket goes with the server that started it."""
    server = start("port_listener", "--helper", "helping")
    helper = next(pid for pid in server.group() if pid != server.pid)
    taken = take("127.0.0.1", server.port, PATIENT, machine=machine)
    with held(taken):
        assert actions(taken, helper) == ["SIGTERM", "exited"]
        assert server.group() == []


def test_infrastructure_below_a_holder_is_spared(machine: Machine, start: Start) -> None:
    """A database that the server happens to have started is no worker of it."""
    server = start("port_listener", "--helper", "redis-server")
    helper = next(pid for pid in server.group() if pid != server.pid)
    taken = take("127.0.0.1", server.port, PATIENT, machine=machine)
    with held(taken):
        assert actions(taken, helper) == ["left alone"]
        assert server.group() == [helper]


# -- supervisors and inheritance -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, machine",
    [
        pytest.param(["--workers", "2"], "linux", marks=linux_only, id="workers"),
        pytest.param(["--workers", "2"], "portable", id="workers, portable"),
        pytest.param(["--reload"], "linux" if on_linux else "portable", id="reload"),  # one worker, to whoever stops it
    ],
    indirect=["machine"],
)
def test_uvicorn_with_a_supervisor(options: list[str], machine: Machine, uvicorn: Callable[..., Started]) -> None:
    """The supervisor, which would start its workers again, is asked first; nothing of it is left."""
    server = uvicorn(*options)
    assert len(server.group()) >= 2
    taken = take("127.0.0.1", server.port, PATIENT, machine=machine)
    with held(taken):
        assert server.pid in pids(list(taken.holders))
        assert next(step.pid for step in taken.steps if step.action == "SIGTERM") == server.pid
        assert server.group() == []
        assert "SIGKILL" not in {step.action for step in taken.steps}


def test_a_respawned_holder_ends_the_attempt(machine: Machine, start: Start) -> None:
    """A parent that has the next worker listening before the last one goes is named, and there is no second try."""
    supervisor = start("port_parent", "respawns", 0)
    [worker] = listeners("127.0.0.1", supervisor.port, machine=machine)
    taken = take("127.0.0.1", supervisor.port, PATIENT, machine=machine)
    assert taken.socket is None
    assert pids(list(taken.holders)) == {worker.pid}
    assert taken.steps[-1].action == "respawned"
    assert taken.steps[-1].pid != worker.pid
    assert "respawned on it by" in str(taken.problem)
    assert f"PID {supervisor.pid}" in str(taken.problem)
    assert taken.fix is not None
    assert taken.fix.startswith(f"kill {supervisor.pid}  # ")
    pasting.check(taken.fix)
    assert len([step for step in taken.steps if step.action.startswith("SIG")]) == 1
    assert supervisor.process.poll() is None


def test_a_child_that_inherited_the_socket_of_a_dead_parent(machine: Machine, start: Start) -> None:
    """The server has died, its fork still listens: it is found and freed."""
    parent = start("port_parent", "orphan", 0)
    parent.process.wait()
    [orphan] = listeners("127.0.0.1", parent.port, machine=machine)
    assert orphan.pid not in (None, parent.pid)
    taken = take("127.0.0.1", parent.port, PATIENT, machine=machine)
    with held(taken):
        assert pids(list(taken.holders)) == {orphan.pid}


def test_a_child_forked_while_its_parent_is_stopped(machine: Machine, start: Start) -> None:
    """Who comes to hold the same socket after the look is swept in a second round, and called no respawn."""
    server = start("port_listener", "--on-term", "fork")
    taken = take("127.0.0.1", server.port, PATIENT, machine=machine)
    with held(taken):
        assert pids(list(taken.holders)) == {server.pid}
        assert [step.action for step in taken.steps] == ["SIGTERM", "exited"] * 2 + ["held"]
        assert taken.steps[0].pid == server.pid
        assert server.group() == []


def test_a_zombie_is_gone(machine: Machine, start: Start) -> None:
    """A holder whose parent never reaps it has ended when it has ended: nobody waits for the PID to vanish."""
    listener = str(PROGRAMS / "port_listener.py")
    parent = start("port_parent", "never-reaps", *PLAIN, listener)
    [child] = listeners("127.0.0.1", parent.port, machine=machine)
    assert child.parent == parent.pid
    began = time.monotonic()
    taken = take("127.0.0.1", parent.port, PATIENT, machine=machine)
    with held(taken):
        assert time.monotonic() - began < PATIENT.grace
        assert Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        assert actions(taken, child.pid or 0) == ["SIGTERM", "exited"]
        assert parent.process.poll() is None


# -- how they end --------------------------------------------------------------------------------------------


def test_sigterm_ignored(machine: Machine, start: Start) -> None:
    """Who ignores SIGTERM gets the whole grace, then SIGKILL."""
    listener = start("port_listener", "--on-term", "ignore")
    began = time.monotonic()
    taken = take("127.0.0.1", listener.port, QUICK, machine=machine)
    with held(taken):
        assert time.monotonic() - began >= QUICK.grace
        assert actions(taken, listener.pid) == ["SIGTERM", "SIGKILL", "exited"]


def test_everybody_gets_sigterm_before_sigkill(machine: Machine, start: Start) -> None:
    """Workers of a parent that had to be killed are asked first, too."""
    server = start("port_listener", "--workers", "2", "--on-term", "ignore")
    wait_until(lambda: len(server.group()) == 3, "two workers are there")
    everybody = server.group()
    taken = take("127.0.0.1", server.port, QUICK, machine=machine)
    with held(taken):
        for pid in everybody:
            assert actions(taken, pid) == ["SIGTERM", "SIGKILL", "exited"]
            asked, killed = (step.at for step in taken.steps if step.pid == pid and step.action.startswith("SIG"))
            assert killed - asked >= QUICK.grace - 0.02  # the clock of the steps is not the one that is waited by
        assert server.group() == []


@pytest.mark.parametrize("way", ["later", "close-then-later"])
def test_a_slow_exit_is_waited_for(way: str, machine: Machine, start: Start) -> None:
    """Within the grace nobody is killed, even if the port is free long before the process has ended."""
    seconds = 3.0 if (way, isinstance(machine, Linux)) == ("later", True) else 0.3
    listener = start("port_listener", "--on-term", way, "--later", seconds)
    began = time.monotonic()
    taken = take("127.0.0.1", listener.port, PATIENT, machine=machine)
    with held(taken):
        assert seconds <= time.monotonic() - began < PATIENT.grace
        assert actions(taken, listener.pid) == ["SIGTERM", "exited"]
        assert listener.group() == []


def test_the_port_is_held_while_its_holder_still_drains(start: Start) -> None:
    """As soon as a holder has closed its port it is ours: nobody else gets in, and clients wait instead of failing."""
    listener = start("port_listener", "--on-term", "close-then-later", "--later", "0.5")
    connected: list[float] = []

    def on_step(step: ports.Step) -> None:
        if step.action == "exited":
            with socket.create_connection(("127.0.0.1", listener.port), timeout=0.2):
                connected.append(step.at)

    taken = take("127.0.0.1", listener.port, PATIENT, on_step=on_step)
    assert taken.socket is not None
    taken.socket.close()
    assert connected, "the port was not yet held when its holder exited"


def test_a_suspended_holder_can_end(machine: Machine, start: Start) -> None:
    """A server stopped with Ctrl-Z is continued after SIGTERM, so that it can do what it was asked."""
    listener = start("port_listener")
    os.kill(listener.pid, signal.SIGSTOP)
    wait_until(lambda: (machine.process(listener.pid) or NOTHING).suspended, "it is suspended")
    taken = take("127.0.0.1", listener.port, PATIENT, machine=machine)
    with held(taken):
        assert actions(taken, listener.pid) == ["SIGTERM", "SIGCONT", "exited"]


NOTHING = Process(0, "", (), 0, None, 0.0, 0.0, False, "")


def test_a_full_backlog_is_in_use(machine: Machine, start: Start) -> None:
    """A server that accepts nothing any more refuses connections, and holds the port all the same."""
    server = start("port_listener", "--backlog", "0")
    with contextlib.ExitStack() as clients:
        for _ in range(8):
            client = clients.enter_context(socket.socket())
            client.settimeout(0.05)
            if client.connect_ex(("127.0.0.1", server.port)) != 0:
                break
        else:
            pytest.skip("this system's backlog has no end")
        foreseen = plan("127.0.0.1", server.port, PATIENT, machine=machine)
        assert not foreseen.free
        assert pids(list(foreseen.holders)) == {server.pid}
        taken = take("127.0.0.1", server.port, PATIENT, machine=machine)
        assert taken.socket is not None
        taken.socket.close()


def test_every_step_is_told_as_it_happens(machine: Machine, start: Start) -> None:
    """The audit has who, which signal, when and with what result, in order; the callback gets the same steps."""
    listener = start("port_listener")
    told: list[ports.Step] = []
    before = time.time()
    taken = take("127.0.0.1", listener.port, PATIENT, machine=machine, on_step=told.append)
    with held(taken):
        assert tuple(told) == taken.steps
        assert [step.action for step in told] == ["SIGTERM", "exited", "held"]
        assert [step.pid for step in told] == [listener.pid, listener.pid, os.getpid()]
        assert before <= told[0].at <= told[1].at <= told[2].at <= time.time()
        assert f"SIGTERM: {taken.holders[0].name} (PID {listener.pid}): sent" in str(told[0])
        assert json.loads(json.dumps(told[0].to_dict()))["action"] == "SIGTERM"


# -- who is left alone ---------------------------------------------------------------------------------------


def refused(taken: Taken, reason: str) -> None:
    """Nothing was held, nothing was signalled, and the problem is one line with a way out."""
    assert taken.socket is None
    assert [step for step in taken.steps if step.action.startswith("SIG")] == []
    assert any(reason in refusal.reason for refusal in taken.refusals), taken.refusals
    assert taken.problem is not None
    assert "left alone" in taken.problem
    assert "\n" not in taken.problem
    pasting.check(str(taken.fix))


@needs_root
def test_another_users_listener(start: Start) -> None:
    """Root does not stop what belongs to somebody else: equal user ids, or nothing."""
    listener = start("port_listener", "--user", NOBODY)
    for machine in machines():
        with asked_of(machine):
            taken = take("127.0.0.1", listener.port, QUICK, machine=machine)
            refused(taken, "it belongs to user")
            assert taken.refusals[0].fix == f"kill {listener.pid}"
            assert listener.process.poll() is None


@needs_root
@pytest.mark.parametrize("path", [[], ["--portable"]], ids=["fast", "portable"])
def test_a_listener_whose_owner_cannot_be_seen(path: list[str], start: Start) -> None:
    """What only root can see is "another user's process", never "nothing there"."""
    listener = start("port_listener")
    outcome = outcome_of(start("port_take", "127.0.0.1", listener.port, *path, "--user", NOBODY, wait=False))
    assert not outcome["held"]
    assert [holder["pid"] for holder in outcome["holders"]] == [None]
    assert outcome["holders"][0]["name"] == "another user's process"
    assert "another user's process" in outcome["problem"]
    assert outcome["fix"].startswith("sudo ")
    pasting.check(outcome["fix"])
    if not path:
        assert outcome["holders"][0]["user"] == "root"
    assert listener.process.poll() is None


@needs_root
@pytest.mark.skipif(not on_linux, reason="only sock_diag and /proc tell who opened a socket")
def test_a_socket_that_another_user_passed_on(start: Start) -> None:
    """Who was given a socket may not be its only holder (socket activation): its opener counts, seen or not."""
    listener = start("port_listener", "--user-later", NOBODY)
    outcome = outcome_of(start("port_take", "127.0.0.1", listener.port, "--user", NOBODY, wait=False))
    assert not outcome["held"]
    assert [(holder["pid"], holder["user"]) for holder in outcome["holders"]] == [
        (listener.pid, "nobody"),
        (None, "root"),
    ]
    assert listener.process.poll() is None


@needs_root
def test_a_user_stops_a_process_of_its_own(start: Start) -> None:
    """All of it without being root: found, stopped, held."""
    listener = start("port_listener", "--user", NOBODY)
    outcome = outcome_of(start("port_take", "127.0.0.1", listener.port, "--user", NOBODY, wait=False))
    assert outcome["held"], outcome
    assert [step["action"] for step in outcome["steps"]] == ["SIGTERM", "exited", "held"]


@pytest.mark.parametrize("path", [[], ["--portable"]], ids=["fast", "portable"])
def test_own_ancestor_as_holder(path: list[str], start: Start) -> None:
    """Who holds the port and started us is not stopped: we would end with it."""
    outcome = outcome_of(start("port_take", "127.0.0.1", free_port(), *path, "--inside", wait=False))
    assert not outcome["held"]
    assert outcome["reasons"] == ["this process runs inside it"]
    assert outcome["steps"] == []


def outcome_of(attempt: Started) -> dict[str, Any]:
    outcome: dict[str, Any] = json.loads(attempt.line())
    return outcome


def test_this_process_as_holder(machine: Machine) -> None:
    """Taking a port twice does not end in suicide."""
    with socket.create_server(("127.0.0.1", 0)) as ours:
        refused(take("127.0.0.1", ours.getsockname()[1], QUICK, machine=machine), "it is this process")


@pytest.mark.parametrize(
    "name, reason",
    [
        ("postgres", "infrastructure (postgres)"),
        ("docker-proxy", "forwards the port"),
        ("com.docker.back", "forwards the port"),  # as the kernel cuts com.docker.backend
    ],
)
def test_infrastructure_and_forwarders(name: str, reason: str, start: Start) -> None:
    """Well-known names are left alone, with the command that helps."""
    listener = start("port_listener", "--name", name)
    for machine in machines():
        with asked_of(machine):
            taken = take("127.0.0.1", listener.port, QUICK, machine=machine)
            refused(taken, reason)
            if "docker" in name:
                assert str(taken.fix).startswith("docker stop")
            assert listener.process.poll() is None


def test_infrastructure_is_a_setting(machine: Machine, start: Start) -> None:
    """What is spared can be said: another list of names, another decision."""
    listener = start("port_listener", "--name", "postgres")
    policy = Policy(spare=frozenset({"mine"}), grace=10)
    with held(take("127.0.0.1", listener.port, policy, machine=machine)):
        assert listener.group() == []


def test_one_refusal_saves_everybody(start: Start) -> None:
    """If anybody on the port is left alone it cannot be had, so nobody is stopped for nothing."""
    plain = start("port_listener")
    database = start("port_listener", "--host", "127.0.0.2", "--port", plain.port, "--name", "postgres")
    for machine in machines():
        with asked_of(machine):
            foreseen = plan("0.0.0.0", plain.port, QUICK, machine=machine)
            assert foreseen.stop == ()
            taken = take("0.0.0.0", plain.port, QUICK, machine=machine)
            refused(taken, "infrastructure")
            assert pids(list(taken.holders)) == {plain.pid, database.pid}
            assert pids([refusal.holder for refusal in taken.refusals]) == {database.pid}
            assert plain.process.poll() is None
            assert database.process.poll() is None


def test_policy_never(start: Start) -> None:
    """With cleaning up switched off a busy port stays as it is."""
    listener = start("port_listener")
    for machine in machines():
        with asked_of(machine):
            taken = take("127.0.0.1", listener.port, Policy(cleanup="never"), machine=machine)
            refused(taken, "not allowed to stop a process")
            assert listener.process.poll() is None


def test_policy_own(machine: Machine, start: Start) -> None:
    """Only this project's instances are stopped, with what they started."""
    server = start("port_listener", "--workers", "1")
    wait_until(lambda: len(server.group()) == 2, "the worker is there")
    worker = next(pid for pid in server.group() if pid != server.pid)
    refused(take("127.0.0.1", server.port, Policy(cleanup="own"), machine=machine), "not an instance")
    # A record of the worker alone says nothing about its parent.
    half = Policy(cleanup="own", own=frozenset({worker}))
    refused(take("127.0.0.1", server.port, half, machine=machine), "not an instance")
    assert len(server.group()) == 2
    own = Policy(cleanup="own", own=frozenset({server.pid}), grace=10)
    with held(take("127.0.0.1", server.port, own, machine=machine)):
        assert server.group() == []


# -- addresses that cannot be had ----------------------------------------------------------------------------


def test_an_address_of_another_machine(machine: Machine) -> None:
    """An address that is not ours is a clear problem, not a busy port."""
    port = free_port()
    for outcome in (
        plan("203.0.113.1", port, QUICK, machine=machine),
        take("203.0.113.1", port, QUICK, machine=machine),
    ):
        assert outcome.problem == "203.0.113.1 is not an address of this machine"
        assert "--host 127.0.0.1" in str(outcome.fix)
        assert outcome.holders == ()


@needs_root
def test_a_privileged_port(start: Start) -> None:
    """A port below 1024 is explained to a user who may not have it."""
    start_of_free = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if start_of_free.exists() and int(start_of_free.read_text()) < 1024:
        pytest.skip("this system has no privileged ports")
    outcome = outcome_of(start("port_take", "127.0.0.1", 1, "--user", NOBODY, wait=False))
    assert outcome["problem"] == "port 1 is privileged: user nobody may not listen on it"
    assert "1024" in outcome["fix"]


# -- handles -------------------------------------------------------------------------------------------------


def test_a_handle_is_refused_for_another_start_time(start: Start) -> None:
    """Same PID, other start time: another process, for which there is no handle."""
    listener = start("port_listener")
    for machine in machines():
        with asked_of(machine):
            process = machine.process(listener.pid)
            assert process is not None
            known = {name: getattr(process, name) for name in process.__slots__}
            assert machine.handle(Process(**{**known, "stamp": process.stamp - 1})) is None
            handle = machine.handle(process)
            assert handle is not None
            handle.close()


@pytest.mark.skipif(not on_linux, reason="needs /proc")
def test_a_handle_is_refused_when_the_socket_was_closed(start: Start) -> None:
    """Who has let go of the port between the look and the signal is not signalled."""
    listener = start("port_listener", "--close-on-usr1")
    machine = Linux()
    process = machine.process(listener.pid)
    [endpoint] = machine.listening(listener.port)
    assert process is not None
    assert endpoint.inode is not None
    handle = machine.handle(process, {endpoint.inode})
    assert handle is not None
    handle.close()
    os.kill(listener.pid, signal.SIGUSR1)
    assert listener.line() == "closed"
    assert machine.handle(process, {endpoint.inode}) is None


@needs_root
@pytest.mark.skipif(not os.access("/proc/sys/kernel/ns_last_pid", os.W_OK), reason="PIDs cannot be chosen here")
def test_a_recycled_pid_is_never_signalled(machine: Machine) -> None:
    """The process is replaced by a stranger under the same PID: neither an old handle nor a new one reaches it."""
    for _ in range(20):
        first = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        stranger = None
        try:
            process = machine.process(first.pid)
            assert process is not None
            handle = machine.handle(process)
            assert handle is not None
            first.kill()
            first.wait()
            time.sleep(0.02)  # start times have 1/100 s; PIDs are not reused as quickly as this test does it
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(first.pid - 1))
            stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
            if stranger.pid != first.pid:
                handle.close()
                continue  # somebody else was quicker
            assert machine.handle(process) is None
            assert handle.gone()
            with pytest.raises(ProcessLookupError):
                handle.send(signal.SIGKILL)
            handle.close()
            assert stranger.poll() is None
            return
        finally:
            for one in (first, stranger):
                if one is not None:
                    one.kill()
                    one.communicate()
    pytest.skip("the PID was never free")
