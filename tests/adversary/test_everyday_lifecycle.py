"""What a server meets every day: deployments, wrappers, containers, job control, libraries, crashes of all kinds."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.adversary.applications import HEAD, application
from tests.e2e import clocks
from tests.e2e.place import READY, Place, Started, get, listening
from tests.e2e.processes import worker_below
from tests.portnumbers import unused_port
from tests.waiting import PATIENCE, until

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc and process groups as Linux has them")
DEMO = ("--demo", "--app", "small:app")
BACK = "The worker is back"

pytestmark = pytest.mark.usefixtures("unmeasured")


def goes_on(place: Place, one: Started) -> None:
    """It serves, and nobody has asked it to stop."""
    assert get(place.url)[0] == 200
    assert one.process.poll() is None
    assert "Stopping" not in one.output
    assert "Replaced" not in one.output


class Asking:
    """A client that connects anew for every request, for as long as the context lasts; what it got in vain."""

    def __init__(self, url: str) -> None:
        self._url, self._over, self.answers, self.troubles = url, threading.Event(), 0, list[str]()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        while not self._over.is_set():
            try:
                status, _text = get(self._url, 60)
                self.answers += 1
                if status != 200:
                    self.troubles.append(str(status))
            except OSError as error:
                self.troubles.append(repr(error))
            time.sleep(0.01)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join(60)


@contextlib.contextmanager
def in_flight(url: str) -> Iterator[list[tuple[int, str] | str]]:
    """A request that is being answered meanwhile; what came of it is in the list at the end."""
    came: list[tuple[int, str] | str] = []

    def ask() -> None:
        try:
            came.append(get(url, 60))
        except OSError as error:
            came.append(repr(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield came
    finally:
        thread.join(60)


# An application that keeps many files open, and libraries that change the process they are in.

MANY = """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(1200)]
"""
WAITS = "open(os.environ['MARK'], 'w').close()\nawait asyncio.sleep(1)"


def test_many_files_are_open(place: Place) -> None:
    """One that has opened more than a thousand files is drained, restarted and replaced like any other."""
    mark = place.folder / "mark"
    options = application(place, "many", MANY, slow=WAITS, dies="os._exit(0)")
    first = place.start(*options, MARK=str(mark)).until_ready()
    with contextlib.suppress(OSError):
        get(f"{place.url}/dies")
    first.until_says(BACK)
    second = place.start(*options, MARK=str(mark)).until_ready()
    assert first.wait() == 0, first.output
    with in_flight(f"{place.url}/slow") as came:
        until(mark.exists, "the request is in flight")
        assert second.stop() == 0, second.output
    assert came == [(200, "small")], second.output
    for one in (first, second):
        assert "Traceback" not in one.output, one.output
        assert "ValueError" not in one.output


LIBRARIES = """
import asyncio, builtins, faulthandler, gc, locale, logging, multiprocessing, random, resource, socket, sys, threading
import time, warnings
socket.setdefaulttimeout(0.2)
random.seed(0)
logging.disable(logging.CRITICAL)
logging.raiseExceptions = False
warnings.simplefilter("error")
faulthandler.disable()
threading.stack_size(256 * 1024)
sys.setrecursionlimit(150)
sys.argv[:] = ["something", "--else"]
sys.excepthook = sys.unraisablehook = lambda *_: None
multiprocessing.set_start_method("spawn")
signal.signal(signal.SIGALRM, signal.SIG_IGN)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
signal.set_wakeup_fd(-1)
os.nice(5)
gc.freeze()
_sleep = time.sleep
time.sleep = lambda seconds: _sleep(0)
builtins.print = lambda *_, **__: None
"""


def test_libraries_that_change_their_process(place: Place) -> None:
    """Time limits, handlers, timers and hooks of a library's keep nobody from serving, restarting and stopping."""
    mark = place.folder / "mark"
    options = application(place, "libraries", LIBRARIES, slow=WAITS, dies="os._exit(3)")
    one = place.start(*options, MARK=str(mark)).until_ready()
    assert get(place.url) == (200, "small")
    with contextlib.suppress(OSError):
        get(f"{place.url}/dies")
    one.until_says(BACK)
    with in_flight(f"{place.url}/slow") as came:
        until(mark.exists, "the request is in flight")
        assert one.stop() == 0, one.output
    assert came == [(200, "small")], one.output
    one.left_nothing()


def test_hooks_at_the_end_that_hang(place: Place) -> None:
    """An atexit hook and threads that never end do not keep a server, and a client of its port, waiting."""
    source = (
        "import atexit\natexit.register(time.sleep, 3600)\nthreading.Thread(target=time.sleep, args=(3600,)).start()\n"
    )
    one = place.start(*application(place, "hangs", source), PREFLIGHT_GRACEFUL_TIMEOUT="1s").until_ready()
    began = time.monotonic()
    assert one.stop() == 0, one.output
    assert time.monotonic() - began < 20
    one.left_nothing()


# Crashes of every kind.

DEATHS = {
    "exits": "os._exit(0)",
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "aborts": "os.abort()",
    "segfault": "ctypes.string_at(0)",
    "quits": "os.kill(os.getpid(), signal.SIGQUIT)",
    "alarm": "signal.setitimer(signal.ITIMER_REAL, 0.01)\ntime.sleep(10)",
    "pipe": "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\nos.kill(os.getpid(), signal.SIGPIPE)",
    "systemexit": "sys.exit(0)",
    "interrupt": "raise KeyboardInterrupt",
    "stops": "asyncio.get_running_loop().stop()",
    "closes": "os.closerange(3, 256)",
}


def test_deaths_of_every_kind(place: Place) -> None:
    """However a worker ends, another one serves; what does not end it leaves it serving."""
    options = application(place, "deaths", **DEATHS)
    limits = {"PREFLIGHT_RESTART_LIMIT": "50", "PREFLIGHT_RESTART_BACKOFF": "0.01s"}
    one = place.start(*options, **limits).until_ready()
    for path in DEATHS:
        before = worker_below(one).pid
        with contextlib.suppress(OSError):
            get(f"{place.url}/{path}", 30)
        with contextlib.suppress(OSError):
            get(place.url, 30)  # may have reached the one that is about to end
        until(lambda: _answers(place), f"it serves after {path}", 60)
        assert one.process.poll() is None, (path, before, one.output)
    assert one.stop() == 0, one.output
    one.left_nothing()


def _answers(place: Place) -> bool:
    try:
        return get(place.url, 30) == (200, "small")
    except OSError:
        return False


def test_crash_while_it_drains(place: Place) -> None:
    """A worker that dies while it is drained keeps nobody waiting, and the port is free."""
    mark = place.folder / "mark"
    source = "open(os.environ['MARK'], 'w').close()\nawait asyncio.sleep(1)\nos.kill(os.getpid(), signal.SIGSEGV)"
    options = application(place, "dies", dies=source)
    one = place.start(*options, MARK=str(mark), PREFLIGHT_GRACEFUL_TIMEOUT="120s").until_ready()
    with in_flight(f"{place.url}/dies") as came:
        until(mark.exists, "the request is in flight")
        began = time.monotonic()
        code = one.stop()
    assert time.monotonic() - began < 60
    assert isinstance(came[0], str)
    assert code in (0, 4), one.output
    assert BACK not in one.output
    one.left_nothing()


def test_one_crash_is_one_too_many(place: Place) -> None:
    """With a limit of one the first crash is the last, with exit code 4."""
    options = application(place, "dies", dies="os._exit(7)")
    one = place.start(*options, PREFLIGHT_RESTART_LIMIT="1").until_ready()
    with contextlib.suppress(OSError):
        get(f"{place.url}/dies")
    assert one.wait() == 4, one.output
    one.left_nothing()


def test_old_worker_dies_during_a_replacement(place: Place) -> None:
    """The old instance starts another worker while a new one comes up; no client is refused."""
    mark = place.folder / "mark"
    old = place.start(*DEMO).until_ready()
    place.write_module(
        "waits", f"import os, time\nopen({str(mark)!r}, 'w').close()\ntime.sleep(1)\nfrom small import app\n"
    )
    new = place.start("--demo", "--app", "waits:app")
    until(mark.exists, "the new application is imported")
    worker_below(old).kill()
    with Asking(place.url) as clients:
        new.until_ready()
        assert old.wait() == 0, old.output
        assert get(place.url) == (200, "small")
    assert clients.troubles == []
    assert clients.answers
    assert new.stop() == 0


# Deployments.


def release(place: Place, tree: Path, number: int) -> Path:
    """A release of this project, whose application says its number."""
    folder = place.folder / "releases" / str(number)
    shutil.copytree(tree, folder)
    (folder / "mine.py").write_text(
        "from small import app as small\n"
        f"async def app(scope, receive, send):\n    async def say(message):\n"
        f"        await send({{**message, 'body': b'{number}'}} if 'body' in message else message)\n"
        "    await small(scope, receive, say)\n"
    )
    return folder


def deploy(place: Place, folder: Path) -> Path:
    current = place.folder / "current"
    aside = place.folder / "next"
    aside.symlink_to(folder)
    aside.replace(current)
    return current


def from_current(place: Place, *options: str) -> Started:
    command = [sys.executable, "run.py", "--port", str(place.port), "--demo", "--app", "mine:app", *options]
    return place.spawn(*command, cwd=place.folder / "current", environ={"PWD": str(place.folder / "current")})


def test_a_link_to_the_current_release(place: Place, compiled_tree: Path) -> None:
    """A crash after the link was moved brings the release back that was started; a start brings the new one.

    The old release is removed under it, and its instance is known, kept and replaced all the same.
    """
    deploy(place, release(place, compiled_tree, 1))
    old = from_current(place).until_ready()
    assert get(place.url) == (200, "1")
    second = release(place, compiled_tree, 2)
    deploy(place, second)
    worker_below(old).kill()
    old.until_says(BACK)
    assert get(place.url) == (200, "1")
    shutil.rmtree(place.folder / "releases" / "1")
    kept = from_current(place, "--if-running", "keep")
    assert kept.wait() == 0, kept.output
    assert READY not in kept.output
    assert get(place.url) == (200, "1")
    with Asking(place.url) as clients:
        new = from_current(place).until_ready()
        assert old.wait() == 0, old.output
        until(lambda: get(place.url) == (200, "2"), "the new release answers")
    assert clients.troubles == []
    assert str(second) in new.output
    assert new.stop() == 0


def test_a_broken_release(place: Place, compiled_tree: Path) -> None:
    """One that does not import, does not start up, or is stopped half way leaves the old one serving."""
    deploy(place, release(place, compiled_tree, 1))
    old = from_current(place).until_ready()
    second = deploy(place, release(place, compiled_tree, 2))
    (second / "mine.py").write_text("import a_module_that_nobody_installed\n")
    broken = from_current(place)
    assert broken.wait() == 1, broken.output
    goes_on(place, old)
    life = "async def app(scope, receive, send):\n    await receive()\n"
    failed = "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
    (second / "mine.py").write_text(life + failed)
    broken = from_current(place)
    assert broken.wait() == 4, broken.output
    assert "no database" in broken.output
    goes_on(place, old)
    mark = place.folder / "mark"
    hangs = f"    open({str(mark)!r}, 'w').close()\n    import asyncio\n    await asyncio.sleep(3600)\n"
    (second / "mine.py").write_text(life + hangs)
    for number in (signal.SIGTERM, signal.SIGINT):
        mark.unlink(missing_ok=True)
        broken = from_current(place)
        until(mark.exists, "its start-up has begun")
        assert broken.stop(number) == 128 + number, broken.output
        goes_on(place, old)
    assert old.stop() == 0


METRICS = """
async def app(scope, receive, send):
    if scope["type"] != "lifespan":
        return await small(scope, receive, send)
    await receive()
    try:
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", int(os.environ["METRICS"]))
    except OSError as error:
        return await send({"type": "lifespan.startup.failed", "message": str(error)})
    await send({"type": "lifespan.startup.complete"})
    await receive()
    server.close()
    await send({"type": "lifespan.shutdown.complete"})
"""


def test_a_second_port_that_is_the_old_ones(place: Place) -> None:
    """A start-up that wants a port which the old instance has fails with what it said, and the old one goes on."""
    metrics = unused_port()
    place.write_module("metrics", HEAD + METRICS)
    options = ("--demo", "--app", "metrics:app")
    old = place.start(*options, METRICS=str(metrics)).until_ready()
    new = place.start(*options, METRICS=str(metrics))
    assert new.wait() == 4, new.output
    assert "address already in use" in new.output
    goes_on(place, old)
    assert listening(metrics)
    assert old.stop() == 0
    assert place.start(*options, METRICS=str(metrics)).until_ready().stop() == 0


def test_two_servers_of_one_checkout(place: Place) -> None:
    """They share the folder of their reports, start at once, and know nothing of each other but that."""
    ports = [place.port, unused_port()]
    both = [place.spawn(sys.executable, "run.py", "--demo", "--port", str(port)) for port in ports]
    for one in both:
        one.until_ready()
    for port in ports:
        document = json.loads(get(f"http://127.0.0.1:{port}/diagnostics")[1])
        assert document["port"]["port"] == port
        assert document["origin"] == "start"
    again = place.spawn(sys.executable, "run.py", "--demo", "--port", str(ports[0])).until_ready()
    assert both[0].wait() == 0
    assert get(f"http://127.0.0.1:{ports[1]}/health")[0] == 200
    assert "Stopping" not in both[1].output
    both[1].stop()
    assert get(f"http://127.0.0.1:{ports[0]}/health")[0] == 200
    assert again.stop() == 0


# Instances are known however they were started.


def wrapped(place: Place) -> dict[str, list[str]]:
    command = [sys.executable, "run.py", "--port", str(place.port), *DEMO]
    line = " ".join(command)
    return {
        "locked": ["flock", "--no-fork", str(place.folder / "cron.lock"), *command],
        "nice": ["nice", "-n", "5", *command],
        "below": ["timeout", "--foreground", "3600", *command],
        "elsewhere": ["bash", "-c", f"cd / && exec {line.replace('run.py', str(place.root / 'run.py'))}"],
        "a subfolder": ["bash", "-c", f"cd docs && exec {line.replace('run.py', '../run.py')}"],
        "left alone": ["bash", "-c", f"(nohup setsid {line} &) ; sleep 3600"],
    }


@linux
def test_however_it_was_started(place: Place) -> None:
    """Each replaces the one before, which ends in order, and --if-running keep knows each of them."""
    before: Started | None = None
    with contextlib.ExitStack() as stack:
        clients = None
        for name, command in wrapped(place).items():
            one = place.spawn(*command).until_ready()
            if clients is None:
                clients = stack.enter_context(Asking(place.url))
            if before is not None:
                assert before.wait() == 0, (name, before.output)
                assert "Replaced" in before.output, name
            before = one
        kept = place.run(*DEMO, "--if-running", "keep")
        assert kept.process.returncode == 0, kept.output
        assert READY not in kept.output
    assert clients is not None
    assert clients.troubles == []
    last = place.start(*DEMO).until_ready()
    assert last.stop() == 0


@linux
def test_a_worker_that_calls_itself_otherwise(place: Place) -> None:
    """An application that changes its process's name and command line is known as before."""
    rename = (
        "libc = ctypes.CDLL(None)\nlibc.prctl(15, b'our-api: master', 0, 0, 0)\n"
        "start, end = (int(one) for one in open('/proc/self/stat').read().rsplit(')', 1)[1].split()[45:47])\n"
        "title = b'our-api: worker 1'\n"
        "ctypes.memmove(start, title.ljust(end - start, b'\\0'), end - start)\n"
    )
    old = place.start(*application(place, "renamed", rename)).until_ready()
    kept = place.run(*DEMO, "--if-running", "keep")
    assert kept.process.returncode == 0, kept.output
    tests = place.spawn(sys.executable, "-m", "pytest", "preflight", "-q", "-k", "port", "-p", "no:cacheprovider",
                        environ={"PREFLIGHT_PORT": str(place.port), "PREFLIGHT_DEMO": "1"})  # fmt: skip
    assert tests.wait() == 0, tests.output
    goes_on(place, old)
    new = place.start(*DEMO).until_ready()
    assert old.wait() == 0
    assert new.stop() == 0


def test_pytest_in_other_ways(place: Place) -> None:
    """Collecting, stopping at the first failure, choosing by mark: plain pytest stops neither instances nor others."""
    ways = (["--collect-only", "-q"], ["-x", "-q", "-m", "critical"], ["-q", "--setup-only", "-k", "port"])
    environ = {"PREFLIGHT_PORT": str(place.port), "PREFLIGHT_DEMO": "1"}
    old = place.start(*DEMO).until_ready()
    for way in ways:
        place.spawn(sys.executable, "-m", "pytest", "preflight", "-p", "no:cacheprovider", *way, environ=environ).wait()
    goes_on(place, old)
    assert old.stop() == 0


@linux
def test_records_of_before_a_reboot(place: Place) -> None:
    """What was left in the runtime folder names a process that is somebody else's now: it is left alone."""
    bystander = place.spawn(sys.executable, "-c", "import time; print('there', flush=True); time.sleep(3600)")
    bystander.until_says("there")
    old = place.start(*DEMO).until_ready()
    runtime = Path(place.environ["XDG_RUNTIME_DIR"]) / "preflight"
    kept = {file.name: file.read_bytes() for file in runtime.iterdir() if file.is_file()}
    assert any(name.endswith(".json") for name in kept)
    pid = old.pid
    old.kill()
    for name, content in kept.items():
        left = runtime / name.replace(str(pid), str(bystander.pid))
        left.write_bytes(content.replace(str(pid).encode(), str(bystander.pid).encode()))
        left.chmod(0o600)
    kept_alone = place.start(*DEMO, "--if-running", "fail").until_ready()
    assert bystander.process.poll() is None
    assert kept_alone.stop() == 0
    assert bystander.process.poll() is None


# What a start needs.


NOBODY_KNOWS = ["unshare", "--user", "--map-user=54321", "--map-group=0"]
"""What a command begins with that runs as a user whom the machine does not know, in root's group (OpenShift)."""


@pytest.fixture
def unknown_user(place: Place) -> Place:
    """A place whose starts are such a user's."""
    if subprocess.run([*NOBODY_KNOWS, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let this user make a user namespace")
    place.before = NOBODY_KNOWS
    return place


@linux
def test_a_user_without_an_entry(unknown_user: Place) -> None:
    """A container's arbitrary user, without a name or a home, checks, serves, is replaced and stopped."""
    place = unknown_user
    del place.environ["XDG_RUNTIME_DIR"]
    home = {"HOME": "/", "TMPDIR": str(place.folder), "LOGNAME": ""}
    check = place.run(*DEMO, "--check-only", **home)
    assert check.process.returncode == 0, check.output
    old = place.start(*DEMO, **home).until_ready()
    place.before = ["nsenter", "--user", "--preserve-credentials", "-t", str(old.pid)]  # in the same container
    new = place.start(*DEMO, **home).until_ready()
    assert old.wait() == 0
    place.before[-1] = str(new.pid)
    status = place.run("--port-status", **home)
    assert status.process.returncode == 1, status.output
    bundle = place.run("--bundle", str(place.folder / "out.zip"), **home)
    assert bundle.process.returncode == 0, bundle.output
    assert new.stop() == 0
    for one in place.started:
        assert "Traceback" not in one.output, one.output


@linux
@pytest.mark.needs_root("makes a folder of somebody else's")
def test_a_volume_of_somebody_elses(unknown_user: Place) -> None:
    """A state folder that others can write is refused, by check and start, with a fix; a folder in there is taken."""
    place = unknown_user
    listener = place.listener()
    volume = place.folder / "volume"
    volume.mkdir()
    os.chown(volume, 7777, 0)
    state = {"PREFLIGHT_STATE_DIR": str(volume)}
    for mode, command in {0o2770: ["--check-only"], 0o2777: []}.items():
        volume.chmod(mode)
        one = place.run(*DEMO, *command, **state)
        assert one.process.returncode in (1, 3), one.output
        assert "Traceback" not in one.output
        assert "Fix:" in one.output
        assert listener.process.poll() is None
    listener.kill()
    shutil.copytree(place.state, volume / "state")
    state = {"PREFLIGHT_STATE_DIR": str(volume / "state")}
    inside = place.run(*DEMO, "--check-only", **state)
    assert inside.process.returncode == 0, inside.output


def test_a_runtime_folder_with_a_long_path(place: Place) -> None:
    """Where a socket's path would be too long, a server starts, is known and replaced."""
    long = place.folder / ("workspace" * 12) / "runtime"
    long.mkdir(parents=True, mode=0o700)
    environ = {"XDG_RUNTIME_DIR": "", "TMPDIR": str(long)}
    old = place.start(*DEMO, XDG_RUNTIME_DIR=str(long)).until_ready()
    assert place.run(*DEMO, "--if-running", "keep", **environ).process.returncode == 0
    new = place.start(*DEMO, **environ).until_ready()
    assert old.wait() == 0
    assert new.stop() == 0
    for one in place.started:
        assert "Traceback" not in one.output, one.output


ODD = {
    "TZ": ":/no/such/zone", "TERM": "no-such-terminal", "LANG": "tr_TR.UTF-9", "LC_ALL": "xx_XX", "LINES": "many",
    "COLUMNS": "-1", "PYTHONASYNCIODEBUG": "1", "PYTHONDEVMODE": "1", "PYTHONFAULTHANDLER": "1", "HOSTNAME": "",
    "SHELL": "/no/such/shell", "USER": "nobody at all", "MALLOC_ARENA_MAX": "1", "PYTHONMALLOC": "malloc",
    "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1", "PYTHONNOUSERSITE": "1",
}  # fmt: skip


def test_an_environment_that_people_have(place: Place) -> None:
    """Whatever a shell, a terminal, a locale or a developer's Python says, a server starts, answers and drains."""
    mark = place.folder / "mark"
    options = application(place, "plain_one", slow=WAITS)
    one = place.start(*options, **ODD, MARK=str(mark)).until_ready()
    with in_flight(f"{place.url}/slow") as came:
        until(mark.exists, "the request is in flight")
        assert one.stop() == 0, one.output
    assert came == [(200, "small")]
    assert "Traceback" not in one.output, one.output


@linux
def test_a_socket_that_was_inherited(place: Place) -> None:
    """A supervisor that has bound the port itself and passes its socket on (socket activation) is not stopped."""
    source = (
        "import os, socket, subprocess, sys, time\n"
        "held = socket.socket()\nheld.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        f"held.bind(('127.0.0.1', {place.port}))\nheld.listen()\n"
        "os.dup2(held.fileno(), 3)\nos.set_inheritable(3, True)\n"
        "if sys.argv[1] == 'becomes':\n    os.execv(sys.argv[2], sys.argv[2:])\n"
        "print('code', subprocess.run(sys.argv[2:], close_fds=False).returncode, flush=True)\ntime.sleep(3600)\n"
    )
    command = [sys.executable, "run.py", "--port", str(place.port), *DEMO]
    stays = place.spawn(sys.executable, "-c", source, "stays", *command)
    stays.until_says("code 1")
    assert stays.process.poll() is None
    assert listening(place.port)
    assert "Traceback" not in stays.output
    stays.kill()
    becomes = place.spawn(sys.executable, "-c", source, "becomes", *command)
    assert becomes.wait() == 1, becomes.output
    assert "Traceback" not in becomes.output
    assert "Fix:" in becomes.output


# Job control and signals.


class Shell:
    """An interactive shell on a terminal."""

    def __init__(self, place: Place) -> None:
        pid, self.terminal = pty.fork()
        if not pid:
            os.chdir(place.root)
            os.execve(shutil.which("bash") or "/bin/bash", ["bash", "--norc", "--noprofile", "-i"], place.environ)
        self.pid, self.said = pid, ""
        self.everything = ""

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def until_says(self, text: str) -> None:
        """Wait until this is said, and forget what was said before."""
        end = time.monotonic() + 120
        while text not in self.said:
            assert time.monotonic() < end, f"it never said {text!r}: {self.said}"
            if select.select([self.terminal], [], [], 0.1)[0]:
                piece = os.read(self.terminal, 1 << 16).decode("utf-8", "replace")
                self.said, self.everything = self.said + piece, self.everything + piece
        self.said = self.said.partition(text)[2]

    def close(self) -> None:
        for one in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                one.kill()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


@pytest.fixture
def shell(place: Place) -> Iterator[Shell]:
    one = Shell(place)
    yield one
    one.close()


@linux
def test_put_aside_and_brought_back(place: Place, shell: Shell) -> None:
    """Ctrl-Z pauses the command and not the service; fg and bg go on as before, and Ctrl-C drains."""
    shell.type(f"{sys.executable} {clocks.program(place)} --port {place.port} {' '.join(DEMO)}\n")
    shell.until_says(READY)
    shell.type("\x1a")
    shell.until_says("Stopped")
    assert get(place.url) == (200, "small")
    clocks.move_on(place, 300)  # beyond the heartbeat's period
    shell.type("bg; echo in the ba''ckground\n")
    shell.until_says("in the background")
    assert get(place.url) == (200, "small")
    shell.type("fg; echo code=$?''.\n")
    shell.until_says("prepared.py")
    until(lambda: os.tcgetpgrp(shell.terminal) != os.getpgid(shell.pid), "it is in the foreground")
    assert get(place.url) == (200, "small")
    shell.type("\x03")
    shell.until_says("code=0.")
    assert "HANGS" not in shell.everything
    assert not listening(place.port)


@linux
def test_quit_at_the_terminal(place: Place, shell: Shell) -> None:
    """Ctrl-\\ ends the command at once; the worker follows, and the port is free for the next start."""
    line = f"ulimit -c 0; {sys.executable} run.py --port {place.port} {' '.join(DEMO)}"
    shell.type(f"{line}; echo code=$?''.\n")
    shell.until_says(READY)
    shell.type("\x1c")
    shell.until_says("code=131.")
    until(lambda: not listening(place.port), "the worker has ended")
    shell.type(f"{line} & disown; exit\n")  # what it says from then on may go nowhere
    until(lambda: listening(place.port), "the next start holds the port")
    assert get(place.url, timeout=PATIENCE) == (200, "small")


def test_asked_to_stop_while_it_waits_for_something(place: Place) -> None:
    """--wait with something that blocks ends with the signal's code, and the port's holder was never touched."""
    listener = place.listener()
    for number in (signal.SIGINT, signal.SIGHUP):
        one = place.start("--demo", "--app", "not_there:app", "--wait", "600").until_says("blocked by")
        assert one.stop(number) == 128 + number, one.output
        assert listener.process.poll() is None


# Requests at the end.


def test_an_upload_in_flight(place: Place) -> None:
    """A client that is half way through its body when the server is asked to stop gets its answer."""
    mark = place.folder / "mark"
    source = (
        "body, more = b'', True\nopen(os.environ['MARK'], 'w').close()\n"
        "while more:\n    message = await receive()\n    body += message['body']\n    more = message['more_body']\n"
        "await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "await send({'type': 'http.response.body', 'body': str(len(body)).encode()})\nreturn"
    )
    one = place.start(*application(place, "takes", take=source), MARK=str(mark)).until_ready()
    with socket.create_connection(("127.0.0.1", place.port), timeout=60) as client:
        client.sendall(b"POST /take HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\n" + b"a" * 1000)
        until(mark.exists, "the request is in flight")
        one.send(signal.SIGTERM)
        one.until_says("Stopping")
        until(lambda: not listening(place.port), "its worker drains")
        client.sendall(b"b" * 1000)
        answer = b""
        while data := client.recv(1 << 16):
            answer += data
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"2000" in answer
    assert one.wait() == 0
    one.left_nothing()


def test_no_time_at_all_for_what_is_in_flight(place: Place) -> None:
    """With a graceful_timeout of 0 a stop is at once, says what was lost, and exits 0."""
    mark = place.folder / "mark"
    source = "open(os.environ['MARK'], 'w').close()\nawait asyncio.sleep(3600)"
    one = place.start(
        *application(place, "sleeps", sleep=source), MARK=str(mark), PREFLIGHT_GRACEFUL_TIMEOUT="0s"
    ).until_ready()
    with in_flight(f"{place.url}/sleep") as came:
        until(mark.exists, "the request is in flight")
        assert one.stop() == 0, one.output
    assert came
    assert "1 request or turn was not finished in time." in one.output, one.output
    one.left_nothing()


# What developers type.

TYPED = [
    "small", "small:", "small:app()", "small.py:app", "./small.py:app", "no_such:app", "small:__name__", "os:path",
    "a" * 5000 + ":app",
]  # fmt: skip


def test_names_that_are_typed_wrongly(place: Place) -> None:
    """Each is refused with a line that says what is wrong, without a traceback, and nobody on the port is touched."""
    listener = place.listener()
    waiting = list(TYPED)
    while waiting:
        some, waiting = waiting[:3], waiting[3:]
        for one in [place.start("--demo", f"--app={name}", "--check-only") for name in some]:
            assert one.wait() in (1, 2), one.output
            assert "Traceback" not in one.output, one.output
    assert listener.process.poll() is None
