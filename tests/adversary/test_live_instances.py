"""A live instance beside other commands: who is known, who is left alone, and who ends with whom."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.adversary.applications import Marked, head, rest
from tests.e2e import namespaces
from tests.e2e.namespaces import DEMO, INSIDE, command, goes_on
from tests.e2e.place import Place, Started, get, listening
from tests.e2e.processes import child, handed_over, supervised
from tests.waiting import until

linux = pytest.mark.skipif(sys.platform != "linux", reason="namespaces and /proc are Linux's")
pytestmark = pytest.mark.usefixtures("unmeasured")

KEEP = (*DEMO, "--if-running", "keep")
PLAIN = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")


WAITS = """
import asyncio, os
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        END
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/waits":
        open(os.path.join(os.environ["MARKS"], "waits"), "w").close()
        while not os.path.exists(os.path.join(os.environ["MARKS"], "go")):
            await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"waits"})
"""


@pytest.fixture
def waits(place: Place) -> Marked:
    """An application that answers /waits once it may."""
    return Marked(place, "waits", WAITS.replace("END", "pass"))


# Plain pytest.


@pytest.mark.parametrize("part", [["preflight", "-k", "port"], ["preflight/requirements/test_port.py"],
                                  ["preflight", "-m", "warning"]])  # fmt: skip
def test_a_part_without_what_is_critical(place: Place, part: list[str]) -> None:
    """It frees no port: what it has left out does not hold here, and no server would start."""
    environ = {"PREFLIGHT_PORT": str(place.port), "PREFLIGHT_OFFLINE": "1", "PREFLIGHT_APP": "small:app"}
    alone = place.spawn(*PLAIN, *part, environ=environ)
    assert alone.wait() == 0, alone.output
    holder = place.listener()
    beside = place.spawn(*PLAIN, *part, environ=environ)
    assert beside.wait() == 1, beside.output
    assert "left alone" in beside.output
    assert holder.process.poll() is None


def test_plain_pytest_in_several_processes(place: Place) -> None:
    """``-n 2`` of pytest-xdist is refused before anybody on the port is stopped."""
    pytest.importorskip("xdist")
    holder = place.listener()
    tests = place.spawn(*PLAIN, "preflight", "--demo", f"--port={place.port}", "-n", "2")
    assert tests.wait() == 4, tests.output
    assert "run it without -n" in tests.output
    assert holder.process.poll() is None


def test_plain_pytest_several_times_at_once(place: Place) -> None:
    """One of them stops the stale server, and none another one."""
    holder = place.listener()
    options = ("preflight", "--demo", f"--port={place.port}")
    every = [place.spawn(*PLAIN, *options, environ={"PREFLIGHT_APP": "small:app"}) for _ in range(4)]
    assert [one.wait() for one in every] == [0] * 4, every[-1].output
    assert holder.wait() == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_plain_pytest_is_ended_while_the_application_hangs(place: Place, number: signal.Signals) -> None:
    """The worker that imports the application ends with it, and holds no port."""
    place.write_module("hangs", "import time\ntime.sleep(3600)\n")
    options = ("preflight", "--demo", f"--port={place.port}")
    tests = place.spawn(*PLAIN, *options, environ={"PREFLIGHT_APP": "hangs:app"})
    until(lambda: child(tests, "preflight.worker") is not None, "the application is imported")
    assert tests.insist(number) in (-number, 2)
    tests.left_nothing()


# --free-port.


def test_beside_a_command_that_frees_the_port(waits: Marked) -> None:
    """While that waits for an instance to end, another one, a check and a start find the port free, and stop nobody."""
    old = waits.start().until_ready()
    client = waits.connect(head("waits", "Connection: close"))
    waits.until("waits")
    first = waits.place.start("--demo", "--free-port").until_says("SIGTERM")
    until(lambda: not listening(waits.place.port), "the port is free")
    second = waits.place.run("--demo", "--free-port")
    assert second.process.returncode == 0, second.output
    check = waits.place.run(*DEMO, "--check-only", "--if-running", "keep")
    assert check.process.returncode == 0, check.output
    assert first.process.poll() is None
    waits.go()
    with client:
        assert b"200 OK" in rest(client)
    assert first.wait() == 0, first.output
    assert old.wait() == 0


# Instances that are hard to see.


@pytest.fixture
def opaque(place: Place) -> Place:
    """A place whose processes may not be looked into by others of their user, as with capabilities of Python's file."""
    place.write_module("sitecustomize", "import ctypes\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE\n")
    if os.geteuid() == 0:
        place.before = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    return place


@linux
def test_processes_that_forbid_looking_into_them(opaque: Place) -> None:
    """An instance of such processes is known by its name, asked again, kept and replaced."""
    old = opaque.start("--demo").until_ready()
    assert requests.post(f"{opaque.url}/diagnostics/run", timeout=60).status_code == 202
    until(lambda: opaque.report()["origin"] == "rerun", "it has been asked again")
    assert opaque.report()["status"] == "passed", opaque.report_file.read_text()
    for options in (("--demo", "--if-running", "keep"), ("--demo", "--check-only")):
        new = opaque.run(*options)
        assert new.process.returncode == 0, new.output
    status = opaque.run("--port-status")
    assert "served by an instance of ours" in status.output
    environ = {"PREFLIGHT_PORT": str(opaque.port), "PREFLIGHT_DEMO": "1"}
    tests = opaque.spawn(*opaque.before, *PLAIN, "preflight", environ=environ)
    assert tests.wait() == 0, tests.output
    new = opaque.start("--demo").until_ready()
    handed_over(old, new)
    assert new.stop() == 0


@linux
def test_another_one_of_them_at_another_address(opaque: Place) -> None:
    """It says where it serves: a listener of the same kind at this address is not taken for it."""
    other = opaque.start(*DEMO, "--host", "127.0.0.2").until_ready()
    (opaque.folder / "listener.py").unlink(missing_ok=True)
    opaque.listener()
    new = opaque.run(*KEEP)
    assert new.process.returncode == 1, new.output
    assert "cannot be seen" in new.output
    assert other.process.poll() is None


@linux
@pytest.mark.needs_root("nobody else may enter a namespace everywhere")
def test_a_unix_socket_of_another_network_namespace(place: Place) -> None:
    """Its path is the same there: the instance is known, called ours, and replaced."""
    path = ("--uds", str(place.folder / "served.sock"))
    old = place.start(*DEMO, *path).until_ready()
    place.before = ["unshare", "--net"]
    for options in (KEEP, (*DEMO, "--check-only")):
        new = place.run(*options, *path)
        assert new.process.returncode == 0, new.output
        assert "another server" not in new.output
    new = place.start(*DEMO, *path).until_ready()
    handed_over(old, new)
    assert new.stop() == 0


# Connects without end, as another user.
FLOOD = """
import os, socket, sys
os.setgid(65534)
os.setuid(65534)
while True:
    with socket.socket(socket.AF_UNIX) as one:
        one.setblocking(False)
        try:
            one.connect("\\0" + sys.argv[1])
        except OSError:
            pass
"""


@pytest.fixture
def flooded(place: Place) -> Iterator[Started]:
    """An instance whose name other accounts call without end."""
    one = place.start(*DEMO).until_ready()
    prefix = f"@preflight/{place.port}/"
    lines = Path("/proc/net/unix").read_text().splitlines()
    name = next(line.split()[-1] for line in lines if prefix in line).removeprefix("@")
    callers = [subprocess.Popen([sys.executable, "-c", FLOOD, name]) for _ in range(4)]
    yield one
    for caller in callers:
        caller.kill()
        caller.wait()


@linux
@pytest.mark.needs_root("only root can be another account")
def test_strangers_who_call_without_end(place: Place, flooded: Started) -> None:
    """They keep nobody from knowing the instance, nor from its socket."""
    new = place.run(*KEEP)
    assert new.process.returncode == 0, new.output
    goes_on(place, flooded)
    new = place.start(*DEMO).until_ready()
    handed_over(flooded, new)
    assert new.stop() == 0


@linux
def test_a_start_beside_one_that_is_suspended_while_it_drains(place: Place, waits: Marked) -> None:
    """It waits until the worker has let go of the port, and nobody is killed for it."""
    environ = {"PREFLIGHT_TOKEN": "Jk3v9QwZ7xLm2Rt8Yb4Nc6Hd", "PREFLIGHT_DRAIN_DELAY": "3s"}
    old = waits.start("--host", "0.0.0.0", **environ).until_ready()
    client = waits.connect(head("waits", "Connection: close"))
    waits.until("waits")
    old.send(signal.SIGTERM)
    until(lambda: "LISTEN" not in [one.status for one in psutil.Process(old.pid).net_connections()], "it drains")
    old.send(signal.SIGSTOP)
    new = place.start(*DEMO).until_ready()
    assert "SIGKILL" not in new.output
    waits.go()
    with client:
        assert b"200 OK" in rest(client)
    old.send(signal.SIGCONT)
    assert old.wait() == 0
    goes_on(place, new)


# Containers.


# Gives its process a session of its own, and waits for it.
DUMB_INIT = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:], start_new_session=True))"
# As nginx, a JVM and others do: in the background, it goes on ignoring SIGINT.
HANDLES = "import signal; signal.signal(signal.SIGQUIT, print); signal.pause()"
AS_DUMB_INIT = f'exec -a dumb-init "$0" -c "{DUMB_INIT}" timeout 900 "$@"'


@linux
@pytest.mark.needs_root("nobody else may enter a namespace everywhere")
@pytest.mark.parametrize(
    "first",
    [
        pytest.param(["sh", "-c", 'sleep 900 & timeout 900 "$@"; exit', "sh"], id="script with a helper"),
        pytest.param(["bash", "-c", f'"$0" -c "{HANDLES}" & timeout 900 "$@"; exit', sys.executable], id="a handler"),
        pytest.param(["bash", "-c", AS_DUMB_INIT, sys.executable], id="dumb-init and a wrapper"),
        pytest.param(["nohup", "sh", "-c", '"$@"; exit', "sh"], id="script below nohup"),
    ],
)
def test_containers_that_end_with_the_server(place: Place, first: list[str]) -> None:
    """A start from inside would end with the container: it is refused, whatever else the container runs."""
    old = namespaces.contained(place, *first, *command(place, *DEMO)).until_ready()
    inner = str(psutil.Process(namespaces.child(old, "preflight.worker")).ppid())
    new = place.spawn("nsenter", "--target", inner, *INSIDE, *command(place, *DEMO))
    assert new.wait() == 1, new.output
    assert "the container would end with it" in new.output
    goes_on(place, old)


@linux
@pytest.mark.needs_root("nobody else may enter a namespace everywhere")
def test_a_server_that_was_typed_at_the_prompt_of_a_container(place: Place) -> None:
    """The shell outlives it: a start from another shell of that container replaces it."""
    typed = place.folder / "typed"
    typed.write_text(f"{' '.join(command(place, *DEMO))}\nsleep 900\n")
    old = namespaces.contained(place, "sh", "-i", ENV=str(typed)).until_ready()
    inner = str(psutil.Process(namespaces.child(old, "preflight.worker")).ppid())
    new = place.spawn("nsenter", "--target", inner, *INSIDE, *command(place, *DEMO)).until_ready()
    old.until_says("Replaced by another start")
    until(lambda: not psutil.pid_exists(int(inner)), "the old one has ended")
    assert get(place.url) == (200, "small")
    assert new.process.poll() is None


# Signals.


# Stands still where the command is about to import most of what it needs.
STANDS = """
import sys, time
class Stands:
    def find_spec(self, name, path=None, target=None):
        if name == "preflight.bootstrap":
            print("importing", file=sys.stderr, flush=True)
            time.sleep(3600)
sys.meta_path.insert(0, Stands())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("typed", [["run.py"], ["-m", "preflight"], ["-m", "server"]], ids=" ".join)
def test_signals_before_most_is_imported(place: Place, typed: list[str], number: signal.Signals) -> None:
    """However the command is called, it ends at once, with the signal's exit code and without a traceback."""
    place.write_module("sitecustomize", STANDS)
    one = place.spawn(sys.executable, *typed).until_says("importing")
    assert one.stop(number) == 128 + number
    assert "Traceback" not in one.output


@linux
def test_the_first_process_before_most_is_imported(place: Place) -> None:
    """So does the installed command as PID 1, from which the kernel keeps signals that nobody handles."""
    place.write_module("sitecustomize", STANDS)
    one = namespaces.contained(place, sys.executable, "-m", "preflight").until_says("importing")
    os.kill(psutil.Process(one.pid).children()[0].pid, signal.SIGTERM)
    assert one.wait() == 128 + signal.SIGTERM


@pytest.mark.parametrize("when", ["it is checked", "it serves"])
def test_all_of_a_group_beside_a_replacement(waits: Marked, when: str) -> None:
    """SIGTERM to every process of both: what is in flight is answered, and each has its own exit code."""
    old = waits.start().until_ready()
    client = waits.connect(head("waits", "Connection: close"))
    waits.until("waits")
    new = waits.start()
    if when == "it is checked":
        until(lambda: child(new, "preflight.suite") is not None, "it is checked")
    else:
        new.until_ready()
    for pid in [old.pid, *old.family(), new.pid, *new.family()]:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
    waits.go()
    with client:
        assert b"200 OK" in rest(client)
    assert old.wait() == 0
    assert new.wait() == (0 if when == "it serves" else 128 + signal.SIGTERM), new.output
    new.left_nothing()


# The application's end.


ENDS = {
    "failed": 'await send({"type": "lifespan.shutdown.failed", "message": "no"}); return',
    "raises": 'raise RuntimeError("no")',
    "exits": "raise SystemExit(3)",
    "has gone": "os._exit(3)",
    "is killed": "os.kill(os.getpid(), 9)",
    "is cancelled": "raise asyncio.CancelledError",
    "hangs": "await asyncio.sleep(3600)",
    "blocks": "import time; time.sleep(3600)",
}


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_a_lifespan(place: Place, end: str) -> None:
    """Whatever an application does when it is told to shut down, the server ends as it was asked, and in time."""
    place.write_module("ends", WAITS.replace("END", ENDS[end]))
    one = place.start("--demo", "--app", "ends:app", PREFLIGHT_GRACEFUL_TIMEOUT="500ms").until_ready()
    begun = time.monotonic()
    assert one.stop() == 0
    assert time.monotonic() - begun < 60
    one.left_nothing()


LOOPED = """
import time, uvloop
from small import app as small
uvloop.install()
async def app(scope, receive, send):
    if scope.get("path") == "/hang":
        time.sleep(3600)
    await small(scope, receive, send)
"""


def test_a_loop_of_the_applications_choice(place: Place) -> None:
    """uvloop, installed by the application: a hang is shown with its place, another worker serves, and it ends."""
    pytest.importorskip("uvloop")
    place.write_module("looped", LOOPED)
    one = supervised(place, "--app", "looped:app", PREFLIGHT_HEARTBEAT="2s").until_ready()
    with pytest.raises(OSError):
        get(f"{place.url}/hang")
    one.until_says("is back")
    assert "looped.py" in one.output
    assert get(place.url) == (200, "small")
    assert one.stop() == 0
