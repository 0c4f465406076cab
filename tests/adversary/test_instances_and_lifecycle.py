"""Instances in odd company, and applications in odd shapes: nobody is mistaken, nothing that works is taken down."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from preflight import ports
from preflight.ports import blind
from preflight.settings import loading
from preflight.settings.fields import SettingsError
from preflight.web.interfaces import CannotBeServed
from preflight.worker.application import load
from tests.e2e import namespaces
from tests.e2e.doubles import SMALL, STARTS_ANOTHER
from tests.e2e.namespaces import DEMO, INSIDE, command, goes_on
from tests.e2e.place import ROOT, Place, Started, get, listening, make_place
from tests.e2e.processes import BACK, TRACER, handed_over, kill_worker, pytest_preflight, start_is_over, worker_of
from tests.portnumbers import unused_port
from tests.waiting import PATIENCE, until

linux = pytest.mark.skipif(sys.platform != "linux", reason="namespaces, /proc and ptrace are Linux's")

KEEP = (*DEMO, "--if-running", "keep")


@pytest.fixture
def old(place: Place) -> Started:
    return place.start(*DEMO).until_ready()


# Another project's instance that does not answer.


@pytest.fixture
def stranger(other_tree: Place) -> Iterator[Started]:
    """An instance of another project, which is suspended for as long as the test goes on."""
    one = other_tree.start(*DEMO).until_ready()
    until(lambda: start_is_over(other_tree), "it has let go of the start lock")
    one.send(signal.SIGSTOP)
    yield one
    if one.process.poll() is None:
        one.send(signal.SIGCONT)


def is_left_alone(other: Place, stranger: Started) -> None:
    stranger.send(signal.SIGCONT)
    assert get(other.url) == (200, "small")
    assert "Stopping" not in stranger.output
    assert stranger.stop() == 0


@linux
def test_a_suspended_instance_of_another_project(place: Place, other_tree: Place, stranger: Started) -> None:
    """Whose it is can be told though it does not answer: start, check and pytest leave it alone, and say whose."""
    for options in ((), ("--check-only",)):
        new = place.run(*DEMO, *options)
        assert new.process.returncode == 1, new.output
        assert f"for project something-else ({other_tree.root})" in new.output
        assert "SIGTERM" not in new.output
    assert pytest_preflight(place).process.returncode == 1
    is_left_alone(other_tree, stranger)


@linux
def test_a_suspended_instance_of_another_project_whose_worker_has_gone(
    place: Place, other_tree: Place, stranger: Started
) -> None:
    """The launcher's own command line says where it runs from, a moment in which it has no worker included."""
    worker = psutil.Process(worker_of(stranger))
    worker.kill()
    until(lambda: worker.status() == psutil.STATUS_ZOMBIE, "its worker has gone")
    new = place.run(*DEMO)
    assert new.process.returncode == 1, new.output
    assert "for project something-else" in new.output
    stranger.send(signal.SIGCONT)
    stranger.until_says(BACK)
    is_left_alone(other_tree, stranger)


@linux
def test_a_suspended_instance_without_its_files(place: Place, other_tree: Place, stranger: Started) -> None:
    """A cleaner that has been at its runtime folder changes nothing."""
    for file in (other_tree.folder / "runtime" / "preflight").iterdir():
        file.unlink()
    new = place.run(*DEMO)
    assert new.process.returncode == 1, new.output
    assert "for project something-else" in new.output
    is_left_alone(other_tree, stranger)


@linux
def test_a_suspended_instance_of_another_project_is_replaced_where_that_is_said(
    place: Place, stranger: Started
) -> None:
    """Whoever says --if-running replace gets that: it is continued and ends in order."""
    new = place.start(*DEMO, "--if-running", "replace").until_ready()
    assert stranger.wait() == 0
    assert get(place.url) == (200, "small")
    assert new.stop() == 0


# One wish, or two.

SLOW = """
import os, time
print("importing", flush=True)
while not os.path.exists(os.environ["GATE"]):
    time.sleep(0.01)
from small import app
"""


def starting(place: Place) -> tuple[Started, Path]:
    """A start whose application's import waits for a file."""
    place.write_module("slow", SLOW)
    gate = place.folder / "gate"
    first = place.start("--demo", "--app", "slow:app", GATE=str(gate)).until_says("Preflight ")
    return first, gate


def test_another_application_is_another_wish(place: Place) -> None:
    """Typed while the first start goes on: what came up meanwhile serves something else, and is replaced."""
    place.write_module("other", SMALL.replace('b"small"', 'b"other"'))
    first, gate = starting(place)
    second = place.start("--demo", "--app", "other:app").until_says("waiting for it")
    gate.touch()
    second.until_ready()
    assert first.wait() == 0
    assert get(place.url) == (200, "other")
    assert second.stop() == 0


@pytest.fixture
def other_checkout(tmp_path: Path, compiled_tree: Path, place: Place) -> Iterator[Place]:
    """Another checkout of the same project, whose starts go to the same port."""
    shutil.copytree(compiled_tree, tmp_path / "checkout")
    other = make_place(tmp_path / "other-place", tmp_path / "checkout")
    other.port = place.port
    yield other
    other.close()


def test_another_checkout_is_another_wish(place: Place, other_checkout: Place) -> None:
    """A deployment of another checkout is not done because the old one has just come back."""
    other_checkout.write_module("slow", SLOW)
    first, gate = starting(place)
    second = other_checkout.start("--demo", "--app", "slow:app", GATE=str(gate)).until_says("waiting for it")
    gate.touch()
    second.until_ready()
    assert first.wait() == 0
    assert second.stop() == 0


def test_another_address_is_another_wish(place: Place) -> None:
    """Who wants all addresses has not got them because one of them is served."""
    first, gate = starting(place)
    token = {"PREFLIGHT_TOKEN": "Jw4hL8sXq2Vb9TnK5mRz7c", "GATE": str(gate)}
    second = place.start("--demo", "--app", "slow:app", "--host", "0.0.0.0", **token).until_says("waiting for it")
    gate.touch()
    second.until_ready()
    assert first.wait() == 0
    assert second.stop() == 0


def test_the_same_wish_twice(place: Place) -> None:
    """The same application from the same checkout at the same address, however that is spelled, is one wish."""
    first, gate = starting(place)
    environ = {"GATE": str(gate)}
    second = place.start("--demo", "--app", "slow:app", "--host", "localhost", **environ).until_says("waiting for it")
    gate.touch()
    assert second.wait() == 0, second.output
    assert "it came up meanwhile. Nothing to do." in second.output
    goes_on(place, first.until_ready())
    assert first.stop() == 0


# Who is an instance, and who is not.


def test_an_address_in_any_spelling(place: Place, old: Started) -> None:
    """Numbers that mean the same address are the same instance; what means none is refused; nobody is stopped."""
    same = ("127.1", "0x7f000001", "2130706433", "127.0.0.01", "::ffff:7f00:1", "::FFFF:127.0.0.1", " 127.0.0.1")
    for host in same:
        new = place.run(*KEEP, f"--host={host}")
        assert new.process.returncode == 0, new.output
        assert f"our instance (PID {old.pid}, since " in new.output
    for host in ("127.0.0.1:80", "http://127.0.0.1", "no-such-name.invalid", "x" * 300):
        new = place.run(*DEMO, f"--host={host}")
        assert new.process.returncode in (1, 2), new.output
        assert "Traceback" not in new.output
    goes_on(place, old)
    assert old.stop() == 0


def test_started_in_other_ways(place: Place) -> None:
    """Over a link to run.py, as ``python -m server``, without the environment's say: one instance after the other."""
    link = place.folder / "serve"
    link.symlink_to(ROOT / "run.py")
    port = f"--port={place.port}"
    first = place.spawn(sys.executable, str(link), port, *DEMO, cwd=Path("/")).until_ready()
    second = place.spawn(sys.executable, "-m", "server", port, *DEMO).until_ready()
    handed_over(first, second)
    third = place.spawn(sys.executable, "-I", str(link), port, *KEEP, cwd=place.folder)
    assert third.wait() == 0, third.output
    goes_on(place, second)
    # Suspended it is known by its command line, a link and options of the interpreter before it or not.
    fourth = place.spawn(sys.executable, "-X", "dev", "-W", "ignore", str(link), port, *DEMO, cwd=Path("/"))
    handed_over(second, fourth.until_ready())
    until(lambda: start_is_over(place), "it has let go of the start lock")
    fourth.send(signal.SIGSTOP)
    new = place.run(*KEEP)
    assert new.process.returncode == 1, new.output
    assert "does not answer" in new.output
    fourth.send(signal.SIGCONT)
    assert fourth.stop() == 0


@linux
@pytest.mark.needs_root("nobody else can have two user ids")
def test_whoever_runs_as_another_user_than_has_called(place: Place) -> None:
    """As a setuid program does: files, processes and sockets are the effective user's, and it knows its own."""
    place.before = ["setpriv", "--ruid=65534", "--clear-groups"]
    one = place.start(*DEMO).until_ready()
    new = place.run(*KEEP)
    assert new.process.returncode == 0, new.output
    assert f"our instance (PID {one.pid}, since " in new.output
    other = place.start(*DEMO).until_ready()
    handed_over(one, other)
    assert other.stop() == 0


@pytest.mark.parametrize("how", ["a start", "--free-port"])
def test_an_instance_that_the_holder_has_started(place: Place, how: str) -> None:
    """A proxy, say, that has its server started: when the proxy is in the way its server on another port goes on."""
    elsewhere = unused_port()
    served = [sys.executable, "run.py", f"--port={elsewhere}", *DEMO]
    parent = place.spawn(sys.executable, "-c", STARTS_ANOTHER, str(place.port), *served).until_ready()
    new = place.start(*DEMO).until_ready() if how == "a start" else place.run("--demo", how)
    assert parent.process.wait(PATIENCE) == -signal.SIGTERM
    assert "but it serves another port" in new.output
    assert get(f"http://127.0.0.1:{elsewhere}") == (200, "small")
    assert "Stopping" not in parent.output
    if how == "a start":
        assert new.stop() == 0


# In the PID namespace, whose /proc is the machine's: a process that has the number which the holder has outside.
NUMBERED = """
import os, signal, subprocess, sys
wanted, command = int(sys.argv[1]), sys.argv[2:]
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write(str(wanted - 1))
innocent = os.fork()
if innocent == 0:
    signal.pause()
print("innocent" if innocent == wanted else "elsewhere", flush=True)
code = subprocess.run(command).returncode
ended = os.waitpid(innocent, os.WNOHANG)[0]
os.kill(innocent, signal.SIGKILL)
print("ended", code, "killed" if ended else "left alone", flush=True)
"""


@linux
@pytest.mark.needs_root("nobody else can choose the number of a process")
def test_numbers_of_another_namespace(place: Place) -> None:
    """Where /proc shows another PID namespace's processes, no number that is read there is signalled here."""
    holder = place.listener()
    enter = ["unshare", "--pid", "--fork", sys.executable, "-c", NUMBERED, str(holder.pid)]
    new = place.spawn(*enter, *command(place, *DEMO))
    assert new.wait() == 0, new.output
    assert "innocent" in new.output
    assert "ended 1 left alone" in new.output
    assert "it cannot be seen from here" in new.output
    assert holder.process.poll() is None


@linux
def test_nobody_is_known_by_such_a_number() -> None:
    """Sockets are seen there, with their users, and no process: not even one's own."""
    assert not blind.is_needed()
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        (seen,) = blind.Blind().listening(port)
        assert (seen.uid, seen.pids) == (os.geteuid(), ())
        assert [one.pids for one in blind.Blind().occupying(port)] == [()]
        machine = blind.Blind()
        assert machine.process(os.getpid()) is None
        plan = ports.plan("127.0.0.1", port, ports.Policy(), machine=machine)
        assert not plan.stop
        assert plan.refusals


# Containers.


@linux
@pytest.mark.needs_root("nobody else may enter a namespace everywhere")
def test_a_container_whose_first_process_waits_for_the_server(place: Place) -> None:
    """``timeout``, ``uv run`` and others end with it, and the container with them: it is not replaced from inside."""
    old = namespaces.contained(place, "timeout", "900", *command(place, *DEMO)).until_ready()
    inner = str(psutil.Process(namespaces.child(old, "preflight.worker")).ppid())
    for options, code in ((DEMO, 1), ((*DEMO, "--check-only"), 1), (KEEP, 0)):
        new = place.spawn("nsenter", "--target", inner, *INSIDE, *command(place, *options))
        assert new.wait() == code, new.output
        assert code == 0 or "the container would end with it" in new.output
        goes_on(place, old)
    place.start(*DEMO).until_ready()
    assert old.wait() == 0


@linux
@pytest.mark.needs_root("nobody else may enter a namespace everywhere")
def test_a_container_that_outlives_the_server(place: Place) -> None:
    """Where the first process does something else, the server in its background is replaced from inside."""
    script = ["sh", "-c", '"$@" & exec sleep 900', "sh"]
    old = namespaces.contained(place, *script, *command(place, *DEMO)).until_ready()
    inner = psutil.Process(psutil.Process(namespaces.child(old, "preflight.worker")).ppid())
    new = place.spawn("nsenter", "--target", str(inner.pid), *INSIDE, *command(place, *DEMO)).until_ready()
    until(lambda: not inner.is_running() or inner.status() == psutil.STATUS_ZOMBIE, "the old one has ended")
    assert "Replaced by another start" in old.output
    assert get(place.url) == (200, "small")
    assert new.process.poll() is None


# What a start needs.


@pytest.mark.parametrize("what", ["folder", "FIFO", "link"])
def test_what_stands_where_the_state_folder_keeps_its_files(place: Place, what: str) -> None:
    """A check says what a start does, nobody waits for a FIFO, and what a link leads to is not touched."""
    victim = place.folder / "victim"
    victim.write_text("precious")
    for name in ("history", "audit.log"):
        path = place.state / name
        if what == "folder":
            path.mkdir()
            (path / "kept").touch()
        elif what == "FIFO":
            os.mkfifo(path, 0o600)
        else:
            path.symlink_to(victim)
    check = place.run(*DEMO, "--check-only")
    assert check.process.returncode == 0, check.output
    one = place.start(*DEMO).until_ready()
    assert one.stop() == 0
    assert "Traceback" not in check.output + one.output
    assert victim.read_text() == "precious"


def test_a_fifo_among_what_is_remembered(place: Place) -> None:
    """Nobody waits for what a FIFO says of the last imports: they are tried again."""
    remembered = place.state / "imports.json"
    remembered.unlink()
    os.mkfifo(remembered, 0o600)
    check = place.run(*DEMO, "--check-only")
    assert check.process.returncode == 0, check.output


@pytest.mark.parametrize("what", ["folder", "FIFO", "link"])
def test_what_stands_where_the_report_belongs(place: Place, what: str) -> None:
    """A folder blocks start and check alike; everything else makes way for the report, and is not followed."""
    victim = place.folder / "victim"
    victim.write_text("precious")
    if what == "folder":
        place.report_file.mkdir()
    elif what == "FIFO":
        os.mkfifo(place.report_file)
    else:
        place.report_file.symlink_to(victim)
    check = place.run(*DEMO, "--check-only")
    assert check.process.returncode == (1 if what == "folder" else 0), check.output
    one = place.start(*DEMO)
    if what == "folder":
        assert one.wait() == 1, one.output
        assert "is a folder, but the report must be a file there" in one.output
    else:
        assert one.until_ready().stop() == 0
        assert place.report()["status"] == "passed"
    assert victim.read_text() == "precious"


ENVIRONMENTS = {
    "nothing useful": {"PATH": "", "HOME": "", "TMPDIR": "/nonexistent", "TEMP": "/proc", "TMP": "relative"},
    "nonsense": {
        "TZ": "../../../etc/passwd",
        "TERM": "nonsense",
        "COLUMNS": "-7",
        "LINES": "x",
        "HOME": "/nonexistent",
    },
    "ASCII": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"},
}


@pytest.mark.parametrize("environ", ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys())
def test_an_environment_that_is_no_good(place: Place, environ: dict[str, str]) -> None:
    """A start needs none of it."""
    one = place.start(*DEMO, **environ).until_ready()
    assert get(place.url) == (200, "small")
    assert "Traceback" not in one.output
    assert one.stop() == 0


def test_no_environment_at_all(place: Place) -> None:
    """As ``env -i`` and some service managers have it."""
    own = [f"PREFLIGHT_STATE_DIR={place.state}", f"PYTHONPATH={place.folder / 'modules'}"]
    one = place.spawn("env", "-i", *own, *command(place, *DEMO)).until_ready()
    assert get(place.url) == (200, "small")
    assert one.stop() == 0


ALONE = """
"$@" >one 2>&1 & first=$!
until grep -q READY one; do kill -0 $first || exit 1; sleep 0.1; done
"$@" >two 2>&1 & second=$!
wait $first || exit 2
grep -q READY two || exit 3
kill $second
wait $second || exit 4
"""


@linux
@pytest.mark.needs_root("nobody else can make a network namespace everywhere")
def test_a_machine_without_a_network(place: Place) -> None:
    """Where not even loopback is up a start serves, and another one that has answered takes over from it."""
    run = ["sh", "-c", f"cd {place.folder}; {ALONE}", "sh", sys.executable, str(ROOT / "run.py")]
    one = place.spawn("unshare", "--net", *run, f"--port={place.port}", *DEMO)
    code = one.wait()
    said = {name: (place.folder / name).read_text() for name in ("one", "two")}
    assert code == 0, said
    assert "handed over by the running instance" in said["two"]
    assert "Replaced by another start" in said["one"]


# Signals and terminals.


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGUSR1, signal.SIGALRM, signal.SIGSEGV, signal.SIGXCPU])
def test_signals_that_nobody_handles(place: Place, number: signal.Signals) -> None:
    """Ctrl-\\ and others end the launcher at once, and then nothing of it is left."""
    one = place.start(*DEMO).until_ready()
    assert one.stop(number) == -number
    one.left_nothing()


def in_terminal(place: Place, *words: str) -> tuple[int, int]:
    """The PID of a command in a terminal of its own, and our end of that."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.chdir(place.root)
            os.execve(words[0], words, {**place.environ, "TERM": "xterm"})
        finally:
            os._exit(127)
    return pid, terminal


def read(terminal: int, text: bytes = b"") -> bytes:
    """What comes of it, until that was said; without a text all of it."""
    said = b""
    while not text or text not in said:
        if not select.select([terminal], [], [], 60)[0]:
            break
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # nobody is left at the other end
            break
        said += data
    assert text in said, said.decode(errors="replace")
    return said


def test_a_terminal_that_is_closed_during_a_start(place: Place) -> None:
    """The command ends with SIGHUP's exit code, and its children with it."""
    place.write_module("slow", SLOW)
    place.environ["GATE"] = str(place.folder / "gate")
    pid, terminal = in_terminal(place, *command(place, "--demo", "--app", "slow:app"))
    read(terminal, b"Preflight ")
    children = psutil.Process(pid).children()
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP
    assert not psutil.wait_procs(children, timeout=PATIENCE)[1]
    assert not listening(place.port)


def test_an_application_that_asks_at_its_terminal(place: Place) -> None:
    """It cannot read there, as a job in the background cannot: the start is refused in time, and shows the place."""
    place.write_module("asks", "import getpass\ngetpass.getpass()\nfrom small import app\n")
    place.environ["PREFLIGHT_REQUIREMENT_TIMEOUT"] = "3s"
    pid, terminal = in_terminal(place, *command(place, "--demo", "--app", "asks:app"))
    said = read(terminal).decode()
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert "the import of asks:app has not ended" in said
    assert "getpass.py" in said, said
    assert not listening(place.port)


# Applications.

ENDING = """
import asyncio, os, time
from small import app as small
how = os.environ["HOW"]

async def app(scope, receive, send):
    if scope["type"] != "lifespan":
        await small(scope, receive, send)
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    if how == "waits":
        await asyncio.sleep(3600)
    if how == "blocks":
        time.sleep(3600)
    if how == "raises":
        raise RuntimeError("it cannot be closed")
    if how == "fails":
        await send({"type": "lifespan.shutdown.failed", "message": "it cannot be closed"})
    if how == "exits":
        os._exit(7)
"""


@pytest.mark.parametrize("how", ["waits", "blocks", "raises", "fails", "exits", "says nothing"])
def test_a_shutdown_that_does_not_end_well(place: Place, how: str) -> None:
    """The server ends as it was asked, in time, and leaves nothing."""
    place.write_module("ending", ENDING)
    one = place.start("--demo", "--app", "ending:app", HOW=how, PREFLIGHT_GRACEFUL_TIMEOUT="0.5s").until_ready()
    assert get(place.url) == (200, "small")
    assert one.stop() == 0
    assert ("The worker did not finish everything in time." in one.output) == (how in ("waits", "blocks"))
    one.left_nothing()


def test_an_import_that_closes_what_it_has_not_opened(place: Place) -> None:
    """As libraries for daemons do, the channel to the launcher included: it is known at once, and what it was."""
    place.write_module("closing", "import os\nos.closerange(3, 256)\nfrom small import app\n")
    one = place.run("--demo", "--app", "closing:app")
    assert one.process.returncode == 1, one.output
    assert "The application has closed the channel to the launcher" in place.check("Application")["message"]
    one.left_nothing()


CLOSING = """
import os
from small import app as small

async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/close":
        for descriptor in os.listdir("/proc/self/fd"):
            try:
                if os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
                    os.close(int(descriptor))
            except OSError:
                pass
    await small(scope, receive, send)
"""


@linux
def test_a_request_that_closes_every_socket(place: Place) -> None:
    """Nobody could be answered any more: another worker serves, and connections wait meanwhile."""
    place.write_module("closing", CLOSING)
    one = place.start("--demo", "--app", "closing:app", "--supervise", PREFLIGHT_HEARTBEAT="5s").until_ready()
    with socket.create_connection(("127.0.0.1", place.port)) as client:
        client.sendall(b"GET /close HTTP/1.1\r\nHost: localhost\r\n\r\n")
        one.until_says(BACK)
    one.until_says("The application has closed the channel to the launcher")
    assert get(place.url) == (200, "small")
    assert one.stop() == 0


def traced(place: Place, pid: int) -> Started:
    """Whoever holds a process as a debugger at its prompt does: it waits for nothing that happens to it."""
    fifo = place.folder / "prompt"
    os.mkfifo(fifo)
    one = place.spawn("sh", "-c", 'exec "$@" <>prompt', "sh", sys.executable, "-c", TRACER, str(pid), cwd=place.folder)
    until(lambda: "\n" in one.output, "it has answered")
    if "refused" in one.output:
        pytest.skip("this system lets nobody trace a process that is not its child")
    return one


@linux
def test_the_end_of_a_worker_that_a_debugger_holds(place: Place) -> None:
    """A debugger keeps the end of a process to itself; the launcher ends all the same when it is asked to."""
    one = place.start(*DEMO, PREFLIGHT_GRACEFUL_TIMEOUT="0.5s").until_ready()
    debugger = traced(place, worker_of(one))
    assert one.stop() == 0
    assert debugger.process.poll() is None
    assert "The worker did not finish everything in time." in one.output
    assert not listening(place.port)


@linux
def test_a_worker_that_ends_in_a_debugger(place: Place) -> None:
    """Killed while a debugger holds it: another worker serves, and whoever connects is answered."""
    one = place.start(*DEMO, "--supervise").until_ready()
    debugger = traced(place, worker_of(one))
    kill_worker(one)
    one.until_says(BACK)
    assert get(place.url) == (200, "small")
    assert debugger.process.poll() is None
    assert one.stop() == 0


def test_a_checkout_that_is_moved_away_for_a_while(project: Place) -> None:
    """As a deployment does: no worker can be started meanwhile, that is said, and it is tried until one can."""
    one = project.start(*DEMO, "--supervise").until_ready()
    aside = project.root.with_name("aside")
    project.root.rename(aside)
    kill_worker(one)
    one.until_says("no process can be started")
    aside.rename(project.root)
    one.until_says(BACK)
    assert get(project.url) == (200, "small")
    assert one.stop() == 0


def test_a_stopped_worker_is_replaced(place: Place, old: Started) -> None:
    """The one that comes answers at once, and the old one has ended when its time is over."""
    os.kill(worker_of(old), signal.SIGSTOP)
    new = place.start(*DEMO).until_ready()
    assert get(place.url) == (200, "small")
    assert old.wait() == 0
    assert "The worker did not finish everything in time." in old.output
    assert get(place.url) == (200, "small")
    assert new.stop() == 0


def test_a_factory_that_waits_for_ever(place: Place) -> None:
    """An async factory has the deadline of an import, and the place where it waits is shown."""
    place.write_module("waits", "import asyncio\nasync def factory():\n    await asyncio.sleep(3600)\n")
    one = place.run("--demo", "--app", "waits:factory", PREFLIGHT_REQUIREMENT_TIMEOUT="3s")
    assert one.process.returncode == 1, one.output
    assert "the import of waits:factory has not ended" in place.check("Application")["message"]
    assert "line 3 in factory" in one.output
    one.left_nothing()


SHAPES = """
import functools, types

async def app(scope, receive, send):
    pass

def __getattr__(name):
    if name == "lazy":
        return app
    raise AttributeError(name)

class Nested:
    class deeper:
        inner = staticmethod(app)

async def coroutine():
    return app

@functools.cache
def cached():
    return app

class Served(types.ModuleType):
    async def __call__(self, scope, receive, send):
        pass

module = Served("module")
asked = coroutine()
asked.close()

class Unhashable:
    __hash__ = None
    async def __call__(self, scope, receive, send):
        pass

unhashable = Unhashable()
itself = lambda: itself
"""


@pytest.mark.parametrize(
    "name, served",
    [
        ("app", True), ("lazy", True), ("Nested.deeper.inner", True), ("cached", True), ("module", True),
        ("coroutine", True), ("unhashable", True), ("asked", False), ("itself", False), ("Served", False),
    ],
)  # fmt: skip
def test_applications_of_odd_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, *, served: bool
) -> None:
    """What can be called as an application, or makes one, is served; anything else is refused by name."""
    (tmp_path / "odd_shapes.py").write_text(SHAPES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "odd_shapes", raising=False)

    def complete(awaitable: object) -> object:
        import asyncio

        async def whole() -> object:
            return await awaitable  # type: ignore[misc]

        return asyncio.run(whole())

    if served:
        assert load(f"odd_shapes:{name}", complete).interface == "asgi3"
    else:
        with pytest.raises((CannotBeServed, TypeError)) as raised:
            load(f"odd_shapes:{name}", complete)
        assert str(raised.value)


BOUNDS = {
    "heartbeat": ("0.001", "-1", "nan"),
    "startup_timeout": ("0.001", "-1", "inf"),
    "ready_timeout": ("0", "1e9"),
    "graceful_timeout": ("1e9", "-1"),
    "drain_delay": ("1e9", "nan"),
    "restart_limit": ("0", "-1", "1.5"),
    "restart_window": ("0", "nan"),
    "restart_backoff": ("1e9",),
    "port_grace": ("1e9", "-0.1"),
    "run_timeout": ("0", "0.001"),
    "ready_path": ("health", "/a b"),
    "port": ("0", "-1", "65536", "8002.0", "0x1f42", "1" * 30),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_values_that_would_take_a_server_down(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A period that nobody can keep, or one without an end, is refused, with the variable's name."""
    for value in BOUNDS[name]:
        monkeypatch.setenv(f"PREFLIGHT_{name.upper()}", value)
        with pytest.raises(SettingsError, match=f"PREFLIGHT_{name.upper()} must be"):
            loading.load(ROOT, options={"demo": True})
