"""What a start stands on: requirements that are asked, a process of its own, others that end when they should."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator

import psutil
import pytest

from preflight.instances.records import LONGEST_END, Record
from preflight.processes.heartbeat import Awake, Heartbeat
from tests.adversary.applications import HEAD, application
from tests.adversary.suites import checked
from tests.e2e import namespaces
from tests.e2e.doubles import LISTENER, SMALL
from tests.e2e.namespaces import DEMO, INSIDE, command, goes_on
from tests.e2e.place import KEYS, READY, ROOT, Place, Started, get, listening
from tests.e2e.processes import worker_below
from tests.waiting import PATIENCE, until

linux = pytest.mark.skipif(sys.platform != "linux", reason="namespaces, /proc and process groups as Linux has them")
mounts = pytest.mark.needs_root("nobody else may mount a file system everywhere")


# Requirements that nobody asks.

HOLDS = 'import functools\nimport pytest\n@pytest.mark.critical("Holds")\ndef test_holds():\n    """It holds."""\n'
FAILS = '@pytest.mark.critical("Fails")\ndef {}({}):\n    """It fails."""\n    assert False\n'
NOT_ASKED = {
    "a name of its own": FAILS.format("check_it", ""),
    "a class with a name of its own": "class KeyTests:\n    "
    + FAILS.format("test_it", "self").replace("\n", "\n    ").rstrip()
    + "\n",
    "a partial": 'def _it(a):\n    """It fails."""\n    assert False\n'
    'test_it = pytest.mark.critical("Fails")(functools.partial(_it, 1))\n',
    "a lambda": 'test_it = pytest.mark.critical("Fails")(lambda: pytest.fail("it does"))\n',
    "another name of the mark": "critical = pytest.mark.critical\n"
    + FAILS.format("it", "").replace("pytest.mark.", ""),
    "a name with an underscore": FAILS.format("_test_it", ""),
}


@pytest.mark.parametrize("how", NOT_ASKED)
def test_marked_and_not_asked(project: Place, how: str) -> None:
    """What is marked as a requirement is one, whatever it is called: where pytest passes it over the run is broken."""
    project.write_suite(HOLDS + NOT_ASKED[how])
    one = checked(project)
    assert one.process.returncode == 3, one.output
    assert "not collected" in one.output


@pytest.mark.parametrize("name", ["tests_keys.py", "keys.py", "deeper/check_keys.py"])
def test_a_file_that_is_called_otherwise(project: Place, name: str) -> None:
    """A file of requirements that pytest does not take for one is named."""
    project.write_suite(HOLDS)
    file = project.root / "preflight" / "requirements" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("import pytest\n" + FAILS.format("test_it", ""))
    one = checked(project)
    assert one.process.returncode == 3, one.output
    assert f"{name}, whose name is not that of a file of requirements" in one.output


def test_marks_that_are_asked(project: Place) -> None:
    """Other names of one that is asked, factories, what is imported, a text that shows a mark: nothing is missed."""
    requirements = project.root / "preflight" / "requirements"
    project.write_suite(
        "import sys\n"
        f"sys.path.insert(0, {str(requirements)!r})\n"
        + HOLDS
        + "import other\nfrom other import Kept\nfrom shared import make, test_shared\n"
        + "also = test_holds\ntest_made = make('Made')\n"
        + 'LATER = pytest.mark.critical("Later")\n'
    )
    (requirements / "shared.py").write_text(
        '"""Shared::\n\n    @pytest.mark.critical("Shown")\n    def test_it(): ...\n"""\n'
        "import pytest\n"
        "def make(title):\n    @pytest.mark.critical(title)\n"
        '    def test_it():\n        """It is made."""\n        assert title\n    return test_it\n'
        '@pytest.mark.critical("Shared")\ndef test_shared():\n    """It is shared."""\n    assert True\n'
    )
    (requirements / "other.py").write_text(
        'import pytest\npytestmark = [pytest.mark.critical("Other")]\n'
        "class Kept:\n    pytestmark = [pytest.mark.warning('Kept')]\n"
    )
    one = checked(project)
    assert one.process.returncode == 0, one.output
    assert {check["title"] for check in project.report()["checks"]} == {"Holds", "Made", "Shared"}


@pytest.mark.parametrize("answer", ["False", "True", "0", "'no'"])
def test_an_answer_that_is_returned(project: Place, answer: str) -> None:
    """A requirement that returns its answer instead of asserting it has answered nothing."""
    project.write_suite(
        HOLDS + f'    assert True\n@pytest.mark.critical("R")\ndef test_r():\n    """R."""\n    return {answer}\n'
    )
    one = checked(project)
    assert one.process.returncode == 1, one.output
    assert "a return value is not an answer" in one.output


def test_an_assertion_in_a_thread(project: Place) -> None:
    """An assertion of a requirement's that fails in a thread of its own has failed."""
    project.write_suite(
        "import threading\n"
        + HOLDS
        + '@pytest.mark.critical("In A Thread")\ndef test_in_a_thread():\n    """It holds."""\n'
        "    def asks():\n        assert False, 'not here'\n"
        "    one = threading.Thread(target=asks)\n    one.start()\n    one.join()\n"
    )
    one = checked(project)
    assert one.process.returncode == 1, one.output
    assert "not here" in one.output


# An import that is more than one process.

COPY = "if os.fork():\n    time.sleep(0.5)\n    os._exit(0)"
DAEMON = (
    "if os.fork():\n    os._exit(0)\nos.setsid()\nif os.fork():\n    os._exit(0)\n"
    "open(os.environ['MARK'], 'w').write(str(os.getpid()))"
)


@pytest.mark.parametrize("source", [COPY, DAEMON], ids=["a copy", "a daemon"])
def test_an_import_that_goes_on_in_a_copy(place: Place, source: str) -> None:
    """What a forked copy of the worker says is nobody's answer: nobody on the port is stopped, and it ends."""
    listener, mark = place.listener(), place.folder / "mark"
    options = application(place, "copies", source)
    check = place.run(*options, "--check-only", MARK=str(mark))
    assert check.process.returncode == 1, check.output
    started = place.run(*options, MARK=str(mark))
    assert started.process.returncode == 1, started.output
    assert "copies:app cannot be imported: the process that imported it ended" in started.output
    assert listener.process.poll() is None
    if mark.exists():
        pid = int(mark.read_text())
        until(lambda: not psutil.pid_exists(pid), "the copy has ended")


def test_a_worker_that_ends_after_its_import(project: Place) -> None:
    """That it was imported and its process has ended before the verdict is known before anybody is stopped."""
    listener = project.listener()
    # The requirement is asked when the worker has gone.
    project.write_requirement(
        "b_waits",
        "import os\nimport time\nimport pytest\n"
        '@pytest.mark.critical("Waits")\ndef test_waits(settings):\n    """The worker has ended."""\n'
        "    until = time.monotonic() + 20\n"
        "    while True:\n        try:\n            os.kill(int(open(os.environ['MARK']).read()), 0)\n"
        "        except ProcessLookupError:\n            return\n"
        "        except (OSError, ValueError):\n            pass\n"
        "        assert time.monotonic() < until\n        time.sleep(0.01)\n",
    )
    source = (
        "def ends():\n    time.sleep(0.5)\n    open(os.environ['MARK'], 'w').write(str(os.getpid()))\n    os._exit(7)\n"
    )
    options = application(project, "ends", source + "threading.Thread(target=ends, daemon=True).start()")
    started = project.run(*options, MARK=str(project.folder / "mark"))
    assert started.process.returncode == 1, started.output
    assert "the process that imported it ended" in started.output
    assert listener.process.poll() is None


SERVES = "-m http.server {} --bind 127.0.0.1"


def test_an_import_that_becomes_a_server(place: Place) -> None:
    """An import that turns the process into a server of its own on the guarded port is refused by what it did."""
    words = [sys.executable, *SERVES.format(place.port).split()]
    one = place.run(*application(place, "becomes", f"os.execv({sys.executable!r}, {words!r})"))
    assert one.process.returncode == 1, one.output
    assert "as a process does when it becomes another program" in one.output
    one.left_nothing()


@pytest.mark.parametrize("how", ["a start", "a check", "pytest"])
def test_a_server_that_the_import_has_started(place: Place, how: str) -> None:
    """It is told whose it is, and what to do: nobody is to wait for the start itself, or to end that."""
    words = [sys.executable, *SERVES.format(place.port).split()]
    until_it_listens = f"while socket.socket().connect_ex(('127.0.0.1', {place.port})):\n    time.sleep(0.01)"
    options = application(place, "starts", f"import socket\nsubprocess.Popen({words!r})\n{until_it_listens}")
    if how == "pytest":
        ask = [sys.executable, "-m", "pytest", "preflight", "--demo", f"--port={place.port}"]
        one = place.spawn(*ask, environ={"PREFLIGHT_APP": "starts:app"})
        one.wait()
    else:
        one = place.run(*options, *(["--check-only"] if how == "a check" else []))
    assert one.process.returncode == 1, one.output
    assert "was started by starts:app while it was imported" in one.output
    assert f"kill {one.pid}" not in one.output
    one.left_nothing()


@pytest.mark.parametrize("name, value", [("PYTHONHASHSEED", "banana"), ("PYTHONMALLOC", "bogus"), ("PYTHONUTF8", "7")])
def test_a_variable_with_which_python_does_not_start(place: Place, name: str, value: str) -> None:
    """What Python itself says of a variable in the env file is said: importing the application does not show it."""
    place.write_env_file(**KEYS, **{name: value})
    one = place.run("--offline", "--check-only", "--app", "small:app", PREFLIGHT_PYTHON=">=3.11")
    assert one.process.returncode == 1, one.output
    assert "Fatal Python error" in one.output


# Starts that would end with the instance that they replace.


@pytest.fixture
def redeploys(place: Place) -> Started:
    """An instance whose application starts the command again, on request: like this, or by a program before it."""
    again = [*command(place, "--demo", "--app", "redeploys:app")]
    begin = "out = open(os.environ['OUT'], 'w')\nsubprocess.Popen({} + {!r}, stdin=-3, stdout=out, stderr=out)"
    paths = {"child": begin.format([], again), "detached": begin.format(["setsid", "-f"], again)}
    paths["check"] = begin.format([], [*again, "--check-only"])
    paths["keep"] = begin.format([], [*again, "--if-running", "keep"])
    options = application(place, "redeploys", **paths)
    return place.start(*options, OUT=str(place.folder / "out")).until_ready()


def said(place: Place, text: str) -> None:
    out = place.folder / "out"
    until(lambda: out.exists() and text in out.read_text(), f"it says {text!r}")


@linux
@pytest.mark.parametrize("how", ["child", "check"])
def test_a_start_that_the_application_makes(place: Place, redeploys: Started, how: str) -> None:
    """It would be swept away with the worker that it replaces, and nobody would serve: it is refused."""
    assert get(f"{place.url}/{how}")[0] == 200
    said(place, "this start runs inside it, and would end with it")
    goes_on(place, redeploys)


@linux
def test_a_start_that_the_application_makes_and_that_keeps(place: Place, redeploys: Started) -> None:
    """It replaces nothing, so there is nothing to refuse."""
    assert get(f"{place.url}/keep")[0] == 200
    said(place, "Nothing to do.")
    goes_on(place, redeploys)


@linux
def test_a_start_that_the_application_detaches(place: Place, redeploys: Started) -> None:
    """One that has left the application behind takes over, and goes on when that has ended."""
    assert get(f"{place.url}/detached")[0] == 200
    assert redeploys.wait() == 0
    assert "Replaced by another start" in redeploys.output
    assert get(place.url) == (200, "small")
    assert place.run("--free-port").process.returncode == 0
    said(place, "Stopping (SIGTERM)")


@linux
@pytest.mark.needs_root("nobody else may enter a namespace everywhere")
@pytest.mark.parametrize("first", ["the command", "a script"])
def test_a_start_in_a_container_that_runs_an_instance(place: Place, first: str) -> None:
    """The container, and the new start in it, would end with the old one: it is refused. From outside it replaces."""
    script = ["sh", "-c", '"$@"; true', "sh"] if first == "a script" else []
    old = namespaces.contained(place, *script, *command(place, *DEMO)).until_ready()
    pid = str(
        namespaces.launcher(old)
        if first == "the command"
        else psutil.Process(namespaces.child(old, "preflight.worker")).ppid()
    )
    for options, code in ((DEMO, 1), ((*DEMO, "--check-only"), 1), ((*DEMO, "--if-running", "keep"), 0)):
        new = place.spawn("nsenter", "--target", pid, *INSIDE, *command(place, *options))
        assert new.wait() == code, new.output
        assert code == 0 or "the container would end with it" in new.output
        goes_on(place, old)
    place.start(*DEMO).until_ready()
    assert old.wait() == 0


# Who is there.


@linux
@pytest.mark.parametrize("options, code", [((), 1), (("--if-running", "keep"), 1), (("--check-only",), 1)])
def test_from_a_pid_namespace(place: Place, options: tuple[str, ...], code: int) -> None:
    """Whoever cannot see the process that holds the port stops nobody, and passes nothing."""
    old = place.start(*DEMO).until_ready()
    new = namespaces.contained(place, *command(place, *DEMO, *options))
    assert new.wait() == code, new.output
    goes_on(place, old)


PROC = {
    "none": "umount --lazy /proc",
    "processes alone": "mount -t proc -o subset=pid proc /proc",
    "one's own": "mount -t proc -o hidepid=2 proc /proc",
}


def with_proc(place: Place, which: str, *options: str) -> Started:
    """A start that has another /proc; skips the test where this machine does not let us make one."""
    prepare = ["unshare", "--mount", "sh", "-c", f'{PROC[which]} && exec "$@"', "sh"]
    if subprocess.run([*prepare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us make such a /proc")
    return place.spawn(*prepare, *command(place, *options))


@linux
@mounts
@pytest.mark.parametrize("which", ["processes alone", "one's own"])
def test_with_a_part_of_proc(place: Place, which: str) -> None:
    """A sandbox that shows processes and nothing else is enough to find the instance, and to get its socket."""
    old = place.start(*DEMO).until_ready()
    new = with_proc(place, which, *DEMO).until_ready()
    assert old.wait() == 0
    assert "Replaced by another start" in old.output
    assert new.stop() == 0


@linux
@mounts
def test_without_proc(place: Place) -> None:
    """In a folder tree without /proc a start on a free port serves; on another one it is refused in a line."""
    listener = place.listener()
    refused = with_proc(place, "none", *DEMO)
    assert refused.wait() == 1, refused.output
    assert "is in use by a process that cannot be seen" in refused.output
    assert "raised" not in refused.output.partition("Server Port")[2]
    assert listener.process.poll() is None
    listener.stop()
    started = with_proc(place, "none", *DEMO).until_ready()
    assert get(place.url) == (200, "small")
    assert started.stop() == 0


@linux
def test_a_holder_that_speaks_multipath_tcp(place: Place) -> None:
    """What Go's servers listen with is known by its owner as well, and stopped."""
    protocol = 262  # IPPROTO_MPTCP
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol):
        program = place.folder / "multipath.py"
        program.write_text(LISTENER.replace("socket.socket()", f"socket.socket(2, 1, {protocol})"))
        holder = place.spawn(sys.executable, str(program), str(place.port)).until_says("listening")
        started = place.start(*DEMO).until_ready()
        assert holder.wait() == -signal.SIGTERM
        assert started.stop() == 0
        return
    pytest.skip("this kernel has no multipath TCP")


@linux
def test_one_that_is_paused_as_a_whole(place: Place) -> None:
    """Launcher and worker are stopped, as a container is paused: a start goes on, and ends them in order."""
    old = place.start(*DEMO).until_ready()
    for pid in (old.pid, *old.family()):
        os.kill(pid, signal.SIGSTOP)
    place.start(*DEMO).until_ready()
    assert old.wait() == 0
    assert get(place.url) == (200, "small")


@pytest.mark.parametrize("stated", [float("inf"), float("nan"), 1e9, -1e9, 10**400])
def test_a_time_that_no_settings_allow(stated: float) -> None:
    """Whatever another instance says of how long it takes to end, it is not waited for without a bound."""
    data = json.loads(json.dumps({"stops_within": stated, "state": "draining", "up_at": 10**400}))
    assert 0.0 <= Record.of(data).stops_within <= LONGEST_END


# Where people and machines read, or do not.


@pytest.mark.parametrize(
    "kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET], ids=lambda kind: kind.name
)
def test_an_output_that_is_a_socket_and_nobody_reads(place: Place, kind: socket.SocketKind) -> None:
    """As service managers have it: it serves while the worker prints more than any socket holds, and ends in order."""
    options = application(place, "prints", big="for _ in range(3000):\n    print('x' * 300)")
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    except OSError:
        pytest.skip("this system has no such socket")
    with (
        ours,
        theirs,
        subprocess.Popen(
            command(place, *options),
            cwd=ROOT,
            env=place.environ,
            stdin=subprocess.DEVNULL,
            stdout=theirs.fileno(),
            stderr=theirs.fileno(),
        ) as process,
    ):
        try:
            until(lambda: listening(place.port), "it serves")
            for _ in range(3):
                assert get(f"{place.url}/big") == (200, "small")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_a_terminal_that_is_closed_with_work_in_flight(place: Place) -> None:
    """Who closes the window ends it like Ctrl-C does: what is in flight is answered first."""
    begun = place.folder / "begun"
    options = application(place, "slow", slow=f"open({str(begun)!r}, 'w').close()\nawait asyncio.sleep(1)")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(place, *options),
        cwd=ROOT,
        env=place.environ,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    try:
        shown = b""

        def ready() -> bool:
            nonlocal shown
            if select.select([ours], [], [], 0.05)[0]:
                shown += os.read(ours, 65536)
            return READY.encode() in shown

        until(ready, "it is ready")
        answers: list[tuple[int, str]] = []
        client = threading.Thread(target=lambda: answers.append(get(f"{place.url}/slow")))
        client.start()
        until(begun.exists, "the request is in flight")
        os.close(ours)
        client.join()
        assert answers == [(200, "small")]
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("columns", ["0", "00"])
def test_a_width_of_nothing(place: Place, columns: str) -> None:
    """COLUMNS=0, as some shells and services have it, hides no banner."""
    place.environ["COLUMNS"] = columns
    refused = place.run("--offline", "--check-only", PREFLIGHT_ENV_FILE="/nonexistent")
    assert refused.process.returncode == 1
    assert "must fix before proceeding" in refused.stdout
    started = place.start(*DEMO).until_ready()
    assert started.stop() == 0


# A worker that goes elsewhere.


@pytest.fixture
def elsewhere(place: Place) -> Iterator[tuple[subprocess.Popen[str], Place]]:
    """A shell, and the instance that it runs, whose worker has gone to the shell's process group."""
    options = application(place, "goes", "os.setpgid(0, os.getpgid(os.getppid()))", hang="time.sleep(3600)")
    script = '"$@" & echo $!; wait $!; echo "ended $?"; read line; echo alive'
    shell = subprocess.Popen(
        ["sh", "-c", script, "sh", *command(place, *options, "--supervise")],
        cwd=ROOT,
        env={**place.environ, "PREFLIGHT_HEARTBEAT": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield shell, place
    with contextlib.suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGKILL)
    shell.communicate()


@linux
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL", "it hangs"])
def test_a_worker_in_another_process_group(elsewhere: tuple[subprocess.Popen[str], Place], how: str) -> None:
    """It is ended itself when it hangs, or is left alone, and nobody else of the group that it has gone to is."""
    shell, place = elsewhere
    assert shell.stdout is not None
    assert shell.stdin is not None
    launcher = int(shell.stdout.readline())
    until(lambda: listening(place.port), "it serves")
    assert get(place.url) == (200, "small")
    worker = next(one for one in psutil.Process(launcher).children() if "preflight.worker" in one.cmdline())
    if how == "it hangs":
        with pytest.raises(OSError):
            get(f"{place.url}/hang", timeout=0.5)
        until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "it was ended")
        assert get(place.url, timeout=PATIENCE) == (200, "small")
    os.kill(launcher, signal.SIGKILL if how == "SIGKILL" else signal.SIGTERM)
    lines = iter(shell.stdout.readline, "")
    assert next(line for line in lines if line.startswith("ended ")) == (
        "ended 137\n" if how == "SIGKILL" else "ended 0\n"
    )
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "the worker has ended")
    until(lambda: not listening(place.port), "nobody serves any more")
    shell.stdin.write("\n")
    shell.stdin.flush()
    assert next(line for line in lines if line == "alive\n")
    assert shell.wait(PATIENCE) == 0


# Those that come after.


def test_a_start_after_the_launcher_was_killed(place: Place) -> None:
    """A worker without a launcher accepts for as long as drain_delay: a start gets the port, and no work is lost."""
    begun, gate = place.folder / "begun", place.folder / "gate"
    slow = f"open({str(begun)!r}, 'w').close()\nwhile not os.path.exists({str(gate)!r}):\n    await asyncio.sleep(0.01)"
    options = application(place, "slow", slow=slow)
    old = place.start(*options, PREFLIGHT_DRAIN_DELAY="60").until_ready()
    answers: list[tuple[int, str]] = []
    client = threading.Thread(target=lambda: answers.append(get(f"{place.url}/slow", timeout=30)))
    client.start()
    until(begun.exists, "the request is in flight")
    old.stop(signal.SIGKILL)
    new = place.start(*DEMO, PREFLIGHT_PORT_GRACE="30").until_says("SIGTERM: ")
    gate.touch()
    client.join()
    assert answers == [(200, "small")]
    new.until_ready()
    assert "SIGKILL" not in new.output
    assert get(place.url) == (200, "small")


def test_a_start_behind_one_that_takes_its_time(place: Place) -> None:
    """An application may take longer to start up than checks do: the next start waits on, and finds it serving."""
    gate = place.folder / "gate"
    source = (
        HEAD + "async def app(scope, receive, send):\n    if scope['type'] == 'lifespan':\n        await receive()\n"
    )
    source += f"        while not os.path.exists({str(gate)!r}):\n            await asyncio.sleep(0.01)\n"
    source += "        await send({'type': 'lifespan.startup.complete'})\n        await receive()\n        return\n"
    place.write_module("gated", source + "    await small(scope, receive, send)\n")
    options = ("--demo", "--app", "gated:app")
    first = place.start(*options)
    first.until_says("requirements: ")
    hasty = "from preflight.launcher import entry\nentry.START_UP = 0.1"
    second = place.start_program(place.prepared(hasty), *options, PREFLIGHT_RUN_TIMEOUT="1")
    second.until_says("this start waits as long as the start-up of an application may take")
    gate.touch()
    assert second.wait() == 0, second.output
    assert "it came up meanwhile" in second.output
    assert first.stop() == 0


# Applications that break.

BREAKS = {
    "SystemExit": "raise SystemExit(3)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "its event loop": "asyncio.get_running_loop().stop()",
    "its descriptors": "os.closerange(3, 256)",
    "its process": "os.abort()",
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_request_that_breaks(place: Place, what: str) -> None:
    """Whatever one request takes along, the next one is answered, and the end is in order."""
    started = place.start(*application(place, "breaks", breaks=BREAKS[what]), "--supervise").until_ready()
    with contextlib.suppress(OSError):
        get(f"{place.url}/breaks", timeout=5)
    answers: list[tuple[int, str]] = []

    def answered() -> bool:
        with contextlib.suppress(OSError):  # it had taken this connection as well when it broke
            answers.append(get(place.url))
        return bool(answers)

    until(answered, "another request is answered")
    assert answers == [(200, "small")]
    assert started.stop() == 0
    started.left_nothing()


def test_a_start_up_that_raises(place: Place) -> None:
    """An application that raises over the message to start up is served, as ASGI wants it, and that is said."""
    source = SMALL + "\nsmall = app\nasync def app(scope, receive, send):\n    if scope['type'] == 'lifespan':\n"
    source += "        await receive()\n        raise RuntimeError('there is no database')\n"
    source += "    await small(scope, receive, send)\n"
    place.write_module("raises", source)
    started = place.start("--demo", "--app", "raises:app").until_ready()
    started.until_says("there is no database")
    assert get(place.url) == (200, "small")
    assert started.stop() == 0


@pytest.mark.parametrize("module", ["preflight.suite", "preflight.worker"])
def test_a_child_that_is_stopped_during_the_checks(place: Place, module: str) -> None:
    """SIGSTOP, to the suite or to the worker: a deadline ends the start, and nothing of it stays."""
    started = place.start(*DEMO, PREFLIGHT_RUN_TIMEOUT="3")

    def found() -> list[int]:
        pids = []
        for pid in started.family():
            with contextlib.suppress(psutil.Error):
                pids += [pid] if module in psutil.Process(pid).cmdline() else []
        return pids

    until(lambda: bool(found()), "it is there")
    os.kill(found()[0], signal.SIGSTOP)
    assert started.wait() in (1, 3), started.output
    assert READY not in started.output
    started.left_nothing()


def test_a_state_folder_that_is_removed(place: Place) -> None:
    """An operator who cleans up too much takes no server along: its worker comes back, and it ends in order."""
    started = place.start(*DEMO, "--supervise").until_ready()
    for path in sorted(place.state.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    place.state.rmdir()
    os.kill(worker_below(started).pid, signal.SIGKILL)
    started.until_says("The worker is back")
    assert get(place.url) == (200, "small")
    assert started.stop() == 0


@linux
@mounts
@pytest.mark.parametrize("inodes", [2, 3, 4, 5])
def test_a_runtime_folder_with_room_for_few_files(place: Place, inodes: int) -> None:
    """Wherever a start's files have room in the end: a check that passes and a start that goes ahead are one."""
    folder = place.folder / "few"
    folder.mkdir()
    mounted = f'mount -t tmpfs -o mode=700,nr_inodes={inodes} none {folder} && exec "$@"'
    prepare = ["unshare", "--mount", "sh", "-c", mounted, "sh"]
    if subprocess.run([*prepare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us mount that")
    place.environ["XDG_RUNTIME_DIR"] = str(folder)
    check = place.spawn(*prepare, *command(place, *DEMO, "--check-only"))
    assert check.wait() == 0, check.output
    started = place.spawn(*prepare, *command(place, *DEMO)).until_ready()
    assert started.stop() == 0


# Who restarts it.

WAITS = 'trap "kill -TERM $!" TERM; "$@" & wait $!; wait $!'


@linux
def test_a_container_whose_script_waits_in_the_background(place: Place) -> None:
    """A script that traps signals and waits may do anything afterwards: the command looks after its worker itself."""
    started = namespaces.contained(place, "sh", "-c", WAITS, "sh", *command(place, *DEMO)).until_ready()
    os.kill(namespaces.child(started, "preflight.worker"), signal.SIGKILL)
    started.until_says("The worker is back")
    assert get(place.url) == (200, "small")


# Clocks of a machine that is busy.


def test_deadlines_run_out_where_every_look_is_late() -> None:
    """A look that comes late is no pause for as long as it is late: a deadline comes later, and it comes."""
    awake = Awake(0.0)
    for look in range(1, 100):
        seen = awake.at(look * 1.5)
    assert 90 < seen < 110
    assert awake.at(10_000.0) < 111, "a pause counts for nothing"


def test_silence_is_noticed_where_every_look_is_late() -> None:
    """A worker that is silent is found out on a machine on which each look of its launcher's is late."""
    one = Heartbeat(60.0, 0.0)
    assert any(one.missed(look * 3.0) for look in range(1, 40))
    paused = Heartbeat(60.0, 0.0)
    assert not paused.missed(50.0), "a pause is none of the worker's silence"
    assert not paused.missed(100.0)
