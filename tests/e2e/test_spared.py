"""Who is spared on a port and who is not, with real processes, and why, in every place that says it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from preflight.ports import Machine, Policy, here, plan, take
from preflight.ports.linux import Linux
from preflight.ports.portable import Portable
from tests import pasting
from tests.e2e.place import Place
from tests.privileges import WITHOUT, unprivileged
from tests.waiting import PATIENCE, until

# Listens on a port of its own, and says which; called like its file, whatever follows it on its command line.
LISTENER = f"""#!{sys.executable}
import ctypes, os, signal, socket, sys
if "HIDDEN" in os.environ:
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
held = socket.create_server(("127.0.0.1", int(os.environ.get("LISTEN", "0"))))
print(held.getsockname()[1], flush=True)
signal.pause()
"""


class Program:
    """A process that listens."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.port = int(process.stdout.readline())

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


Run = Callable[..., Program]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Starts a listener that is called like this, with these arguments."""
    started: list[Program] = []

    def begin(
        name: str,
        *arguments: str,
        folder: Path = Path("/"),
        terminal: int = -1,
        before: tuple[str, ...] = (),
        **environ: str,
    ) -> Program:
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(LISTENER)
        program.chmod(0o755)

        def control() -> None:
            if terminal >= 0:
                fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

        started.append(
            Program(
                subprocess.Popen(
                    [*before, str(program), *arguments], cwd=folder, env={**os.environ, **environ}, text=True,
                    stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=control,
                )
            )
        )  # fmt: skip
        return started[-1]

    yield begin
    for one in started:
        if one.alive:
            one.process.kill()
        one.process.wait()
        if one.process.stdout is not None:
            one.process.stdout.close()


@pytest.fixture
def terminal() -> Iterator[int]:
    """A terminal's own end."""
    master, slave = os.openpty()
    yield slave
    os.close(slave)
    os.close(master)


@pytest.fixture(
    params=[
        pytest.param(Linux, marks=pytest.mark.skipif(not Linux.works(), reason="no pidfd or /proc here")),
        Portable,
    ]
)
def machine(request: pytest.FixtureRequest) -> Machine:
    # psutil keeps the terminals that there were when it was first asked.
    psutil._psposix.get_terminal_map.cache_clear()  # type: ignore[attr-defined]
    found: Machine = request.param()
    return found


@pytest.mark.parametrize(
    "command, why",
    [
        ("code --type=utility", "it is an editor (code)"),
        ("cursor", "it is an editor (cursor)"),
        ("firefox", "it is a browser (firefox)"),
        ("chromium --remote-debugging-port=1", "it is a browser (chromium)"),
        ("cloud-sql-proxy project:region:db", "it forwards the port for a container or a tunnel"),
        ("gh codespace ports forward 1:1", "it forwards the port for a container or a tunnel"),
        ("fly proxy 1", "it forwards the port for a container or a tunnel"),
        ("coder port-forward dev", "it forwards the port for a container or a tunnel"),
        ("istioctl dashboard kiali", "it forwards the port for a container or a tunnel"),
        ("node /usr/bin/configurable-http-proxy", "it is infrastructure (configurable-http-proxy, run by node)"),
        ("session-manager-plugin", "it forwards the port for a container or a tunnel"),
        ("ollama serve", "it is infrastructure (ollama)"),
        ("typesense-server", "it is infrastructure (typesense-server)"),
        ("clickhouse server", "it is infrastructure (clickhouse)"),
        ("milvus run standalone", "it is infrastructure (milvus)"),
        ("java -cp /opt/neo4j/lib/* org.neo4j.server.Neo4jCommunity", "it is infrastructure (neo4j, run by java)"),
        ("node /home/x/.vscode-server/out/server-main.js", "it is an editor (.vscode-server, run by node)"),
        ("jupyter-lab", "it is an interactive session (jupyter-lab, run by python)"),
        ("jupyter-nbclassic", "it is an interactive session (jupyter-nbclassic, run by python)"),
        ("marimo edit", "it is an interactive session (marimo, run by python)"),
    ],
)
def test_programs_that_are_spared(command: str, why: str, run: Run) -> None:
    """By name, by arguments where the name is an interpreter's; nothing is signalled, and the reason is told."""
    program = run(*command.split())
    machines: list[Machine] = [*([Linux()] if Linux.works() else []), Portable()]
    attempts = [take("127.0.0.1", program.port, Policy(grace=0.3), machine=machine) for machine in machines]
    for machine, taken in zip(machines, attempts, strict=True):
        assert taken.socket is None, machine
        assert taken.reasons == (why,), machine
        assert [refusal.reason for refusal in taken.refusals] == [why], machine
        pasting.check(str(taken.fix))
    assert program.alive


def test_what_is_not_spared(machine: Machine, run: Run) -> None:
    """Own listeners are stopped as ever: the same name among the arguments of another program means nothing."""
    program = run("java", "-cp", "neo4j.jar", "com.example.Server", "org.neo4j.server.Neo4jCommunity")
    taken = take("127.0.0.1", program.port, Policy(grace=5), machine=machine)
    assert taken.socket is not None
    taken.socket.close()
    assert program.process.wait(PATIENCE) == -signal.SIGTERM
    assert taken.reasons[0].endswith(", and no rule spares it")
    assert [step.grounds for step in taken.steps if step.action == "SIGTERM"] == [taken.reasons[0]]


def test_a_program_of_a_terminal(terminal: int, machine: Machine, run: Run, tmp_path: Path) -> None:
    """Somebody may be looking at it: it is left alone unless it was started from this project."""
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    policy = Policy(grace=5, project=str(project))
    other = run("server", terminal=terminal)
    taken = take("127.0.0.1", other.port, policy, machine=machine)
    assert taken.socket is None
    assert taken.reasons[0].startswith("it runs in a terminal (pts/")
    assert taken.reasons[0].endswith("), and was not started from this project")
    assert other.alive


def test_a_program_of_a_terminal_from_this_project(terminal: int, machine: Machine, run: Run, tmp_path: Path) -> None:
    """What was started from there is what a start is there to replace."""
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    ours = run("server", folder=project / "src", terminal=terminal)
    taken = take("127.0.0.1", ours.port, Policy(grace=5, project=str(project)), machine=machine)
    assert taken.socket is not None
    taken.socket.close()
    assert taken.reasons == (f"it was started from this project ({project}/src)",)


def test_an_instance_in_a_terminal(terminal: int, machine: Machine, run: Run) -> None:
    """An instance of ours is replaced or stopped wherever it runs."""
    ours = run("server", terminal=terminal)
    found = plan("127.0.0.1", ours.port, Policy(own=frozenset({ours.pid})), machine=machine)
    assert (found.problem, found.reasons) == (None, ("it is an instance of this project",))


def test_a_suffix_of_the_projects_name(machine: Machine, run: Run, tmp_path: Path, terminal: int) -> None:
    """`/x/project-2` is not in `/x/project`."""
    beside = tmp_path / "project-2"
    beside.mkdir()
    other = run("server", folder=beside, terminal=terminal)
    assert plan("127.0.0.1", other.port, Policy(project=str(tmp_path / "project")), machine=machine).stop == ()


def test_an_outgoing_connection(machine: Machine) -> None:
    """The system gave the port to a client of ours: its PID, its state and where it leads."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with socket.create_connection(server.getsockname()) as client:
            port = client.getsockname()[1]
            taken = take("127.0.0.1", port, Policy(), machine=machine)
    assert taken.socket is None
    assert f"PID {os.getpid()}, user " in str(taken.problem)
    assert f"uses it for a connection (ESTABLISHED to {address})" in str(taken.problem)
    assert "TIME_WAIT" not in str(taken.problem)
    pasting.check(str(taken.fix))


def test_a_connection_that_its_peer_has_closed(machine: Machine) -> None:
    """Each state by its name."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        server.accept()[0].close()
        port = client.getsockname()[1]
        with client:
            until(lambda: "CLOSE_WAIT" in str(plan("127.0.0.1", port, Policy(), machine=machine).problem), "it is told")


@unprivileged
@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_holder_of_ours_that_cannot_be_seen(place: Place, run: Run) -> None:
    """A process that hides from its own user is nobody else's: it says so, and which it may be."""
    hidden = run("agent", before=tuple(WITHOUT), HIDDEN="1")
    command = [*WITHOUT, sys.executable, "run.py", "--port", str(hidden.port), "--demo"]
    status = place.spawn(*command, "--port-status", "--format", "json")
    assert status.wait() == 1
    shown = json.loads(status.stdout)
    assert shown["status"] == "in use"
    assert shown["holders"][0]["name"] == "a process that cannot be seen"
    assert shown["holders"][0]["uid"] == os.geteuid()
    freed = place.spawn(*command, "--free-port", "--dry-run")
    assert freed.wait() == 1
    # Root without privileges sees none of root's other processes either.
    assert "though it is yours: it may be " in freed.stdout
    assert "another user" not in freed.stdout
    assert hidden.alive


def test_each_line_says_why(place: Place, run: Run) -> None:
    """--free-port, with --dry-run and without, a check and a start."""
    spared = run("code", LISTEN=str(place.port))
    for options in (("--free-port",), ("--free-port", "--dry-run")):
        refused = place.run("--demo", *options)
        assert refused.process.returncode == 1
        assert f"code (PID {spared.pid}, user " in refused.stdout
        assert ": it is an editor (code)\n" in refused.stdout
    assert "it is an editor (code)" in place.run("--demo", "--app", "small:app", "--check-only").stdout
    spared.process.kill()
    spared.process.wait()

    stopped = run("tool", LISTEN=str(place.port))
    dry = place.run("--demo", "--free-port", "--dry-run")
    assert f"tool (PID {stopped.pid}, user " in dry.stdout
    assert ": it was started from this project (" in dry.stdout, "the interpreter is that of the project's environment"
    checked = place.run("--demo", "--app", "small:app", "--check-only")
    assert "a start would stop tool (PID" in checked.stdout
    assert ": it was started from this project (" in checked.stdout
    freed = place.run("--demo", "--free-port")
    assert freed.process.returncode == 0
    assert f"SIGTERM: tool (PID {stopped.pid}): sent, because it was started from this project (" in freed.stdout


def test_here_is_tested() -> None:
    """The machine that is used here is one of the two above."""
    assert isinstance(here(), Linux | Portable)
