"""A live instance goes on whoever comes, and what a start needs is known before: real processes in odd places."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.doubles import Providers
from tests.e2e.namespaces import ENTER, goes_on, launcher, needed
from tests.e2e.place import KEYS, READY, ROOT, Place, Started, get
from tests.e2e.processes import child, handed_over, pytest_preflight, start_is_over, worker_of
from tests.releases import OtherRelease
from tests.waiting import until

SMALL = ("--demo", "--app", "small:app")
linux = pytest.mark.skipif(sys.platform != "linux", reason="abstract names, namespaces and /proc are Linux's")
root = pytest.mark.needs_root("nobody else can make a network namespace everywhere")

# Its start-up and its import end when the file that GATE names is there, as far as HOW asks for it.
GATED = """
import asyncio, os, time
if os.environ["HOW"] == "import":
    print("importing", flush=True)
    while not os.path.exists(os.environ["GATE"]):
        time.sleep(0.01)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        print("starting up", flush=True)
        while os.environ["HOW"] == "start-up" and not os.path.exists(os.environ["GATE"]):
            await asyncio.sleep(0.01)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"gated"})
"""

# Leaves a process behind that has its listening socket, and that its launcher is no ancestor of.
FORKING = """
import os, signal
from small import app as small

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if os.fork() == 0:
            if os.fork() == 0:
                while os.getppid() == os.getpgid(0):
                    pass
                print("forked", os.getpid(), flush=True)
                while True:
                    signal.pause()
            os._exit(0)
        os.wait()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await small(scope, receive, send)
"""


@pytest.fixture
def old(place: Place) -> Started:
    return place.start(*SMALL).until_ready()


def gated(place: Place, how: str) -> Started:
    place.write_module("gated", GATED)
    return place.start("--demo", "--app", "gated:app", GATE=str(gate(place)), HOW=how)


def gate(place: Place) -> Path:
    return place.folder / "gate"


# Several on one port.


@linux
@pytest.mark.parametrize("newest", ["ours", "theirs"])
def test_another_project_beside_ours(place: Place, other_tree: Place, newest: str) -> None:
    """An address that overlaps two instances is refused if one of them is another project's, whichever came last."""
    both = [(other_tree, "127.0.0.2"), (place, "127.0.0.1")]
    running = [
        where.start(*SMALL, "--host", host).until_ready() for where, host in (both if newest == "ours" else both[::-1])
    ]
    for options in ((), ("--check-only",)):
        new = place.run(*SMALL, "--host", "0.0.0.0", *options)
        assert new.process.returncode == 1, new.output
        assert "for project something-else" in new.output
        assert "SIGTERM" not in new.output
    for one in running:
        assert one.process.poll() is None
        assert one.stop() == 0


@linux
def test_two_of_ours_make_way_for_a_wildcard(place: Place) -> None:
    """Both are stopped in order, last of all, where both may be."""
    running = [place.start(*SMALL, "--host", host).until_ready() for host in ("127.0.0.1", "127.0.0.2")]
    new = place.start(*SMALL, "--host", "0.0.0.0").until_ready()
    for one in running:
        assert one.wait() == 0
    assert "SIGKILL" not in new.output
    assert get(place.url) == (200, "small")
    assert new.stop() == 0


@linux
@pytest.mark.parametrize("how", ["keep", "replace"])
def test_a_process_that_the_worker_has_forked(place: Place, how: str) -> None:
    """It has the socket and no launcher above it; the instance that it came from is recognised all the same."""
    place.write_module("forking", FORKING)
    old = place.start("--demo", "--app", "forking:app").until_ready().until_says("forked ")
    new = place.start(*SMALL, "--if-running", how)
    if how == "keep":
        assert new.wait() == 0, new.output
        assert f"our instance (PID {old.pid}, since " in new.stdout
        goes_on(place, old)
    else:
        new.until_ready()
        handed_over(old, new)
        assert get(place.url) == (200, "small")
    assert "SIGTERM" not in new.output


# Zones of IPv6.

ZONES = """
ip link set lo up && ip link add za type veth peer name zb &&
for one in za zb; do ip link set $one up && ip -6 addr add fe80::1/64 dev $one nodad || exit 9; done
echo made; exec sleep 600
"""


@pytest.fixture
def zones(place: Place) -> list[str]:
    """A network namespace in which two links, za and zb, have the same address; what enters it."""
    maker = place.spawn("unshare", "-n", "sh", "-c", ZONES)
    until(lambda: "made" in maker.stdout or maker.process.poll() is not None, "the namespace is there")
    if maker.process.poll() is not None:
        pytest.skip(f"this machine has no veth: {maker.output}")
    return ["nsenter", f"--net=/proc/{maker.pid}/ns/net"]


@linux
@root
def test_the_same_address_in_another_zone(place: Place, zones: list[str]) -> None:
    """fe80::1%za and fe80::1%zb are two addresses: neither instance is the other's, and both serve."""
    place.before = zones
    first = place.start(*SMALL, "--host", "fe80::1%za").until_ready()
    second = place.start(*SMALL, "--host", "fe80::1%zb", "--if-running", "keep").until_ready()
    assert place.run(*SMALL, "--host", "fe80::1%zb", "--check-only").process.returncode == 0
    assert f"served by our instance (PID {second.pid})" in place.check("Server Port")["message"]
    third = place.start(*SMALL, "--host", "fe80::1%zb").until_ready()
    handed_over(second, third)
    assert first.process.poll() is None
    assert "Replaced" not in first.output
    listening = subprocess.run([*zones, "ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
    assert f"[fe80::1]%za:{place.port}" in listening
    assert f"[fe80::1]%zb:{place.port}" in listening
    for one in (first, third):
        assert one.stop() == 0


@linux
@root
def test_a_zone_by_its_number(place: Place, zones: list[str]) -> None:
    """A zone's name and its number are one address, which is handed over."""
    place.before = zones
    old = place.start(*SMALL, "--host", "fe80::1%zb").until_ready()
    links = json.loads(subprocess.run([*zones, "ip", "-j", "link"], capture_output=True, check=True).stdout)
    number = next(link["ifindex"] for link in links if link["ifname"] == "zb")
    new = place.start(*SMALL, "--host", f"fe80::1%{number}").until_ready()
    handed_over(old, new)
    assert new.stop() == 0


# PID namespaces: what is PID 1 there has another number here.


@pytest.fixture
def contained(place: Place) -> Iterator[tuple[Started, int]]:
    """An instance that is PID 1 of its own PID namespace and serves in this network namespace; its PID as seen here."""
    needed()
    one = place.spawn(*ENTER, sys.executable, "run.py", "--port", str(place.port), *SMALL).until_ready()
    pid = launcher(one)
    yield one, pid
    if one.process.poll() is None:
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGTERM)
        one.wait()


@linux
def test_one_in_a_pid_namespace_is_left_alone(place: Place, contained: tuple[Started, int]) -> None:
    """Whoever is to leave a running one alone does, and knows its PID."""
    one, pid = contained
    for how, code in (("keep", 0), ("fail", 1)):
        new = place.run(*SMALL, "--if-running", how)
        assert new.process.returncode == code, new.output
        assert f"our instance (PID {pid}, since " in new.output
    assert pytest_preflight(place).process.returncode == 0
    assert f"served by our instance (PID {pid})" in place.check("Server Port")["message"]
    check = place.run(*SMALL, "--check-only")
    assert check.process.returncode == 0
    assert "would stop" not in check.output
    goes_on(place, one)


@linux
def test_one_in_a_pid_namespace_hands_over(place: Place, contained: tuple[Started, int]) -> None:
    """A start takes its socket instead of sending it a signal."""
    one, pid = contained
    new = place.start(*SMALL).until_ready()
    assert f"is served by our instance (PID {pid}, since " in new.output
    assert one.wait() == 0
    assert "Replaced by another start" in one.output
    assert "SIGTERM" not in new.output
    assert new.stop() == 0


@linux
def test_one_that_is_suspended_in_a_pid_namespace(place: Place, contained: tuple[Started, int]) -> None:
    """What is to be typed about it has its PID as it is here: number 1 here is the machine's."""
    one, pid = contained
    until(lambda: start_is_over(place), "it has let go of the start lock")
    os.kill(pid, signal.SIGSTOP)
    new = place.run(*SMALL, "--if-running", "keep")
    assert new.process.returncode == 1, new.output
    assert f"kill -CONT {pid}" in new.output
    assert "kill 1)" not in new.output
    os.kill(pid, signal.SIGCONT)
    goes_on(place, one)


@linux
@root
def test_a_record_of_another_machine_makes_nobody_ours(place: Place) -> None:
    """A container that shares the runtime folder is PID 1 for itself: nobody here belongs to it for that."""
    needed()
    script = 'ip link set lo up && exec "$@"'
    enter = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh"]
    there = place.spawn(*enter, sys.executable, "run.py", "--port", str(place.port), *SMALL).until_ready()
    pid = launcher(there)
    stranger = place.listener()
    status = json.loads(place.run("--demo", "--port-status", "--format", "json").stdout)
    assert status["status"] == "in use"
    assert "instance" not in status
    new = place.run(*SMALL, PREFLIGHT_PORT_CLEANUP="own")
    assert new.process.returncode == 1, new.output
    assert "SIGTERM" not in new.output
    assert stranger.process.poll() is None
    assert there.process.poll() is None
    os.kill(pid, signal.SIGTERM)
    assert there.wait() == 0


@linux
@root
def test_a_neighbour_at_the_other_end_of_a_cable(place: Place) -> None:
    """Another network namespace at a veth's other end is another machine: --if-running keep serves here as well."""
    script = 'ip link set lo up && echo made && exec "$@"'
    there = place.spawn(
        "unshare", "-n", "sh", "-c", 'ip link set lo up && ip link add ca type veth peer name cb && exec "$@"', "sh",
        sys.executable, "run.py", "--port", str(place.port), *SMALL, "--host", "0.0.0.0",
    ).until_ready()  # fmt: skip
    here = place.spawn("unshare", "-n", "sh", "-c", script, "sh", "sleep", "600").until_says("made")
    inside = ["nsenter", f"--net=/proc/{there.pid}/ns/net", "ip"]
    beside = ["nsenter", f"--net=/proc/{here.pid}/ns/net"]
    for command in (
        [*inside, "link", "set", "cb", "netns", str(here.pid)],
        [*inside, "addr", "add", "192.0.2.1/24", "dev", "ca"],
        [*inside, "link", "set", "ca", "up"],
        [*beside, "ip", "addr", "add", "192.0.2.2/24", "dev", "cb"],
        [*beside, "ip", "link", "set", "cb", "up"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    place.before = beside
    kept = place.start(*SMALL, "--host", "0.0.0.0", "--if-running", "keep").until_ready()
    assert "our instance" not in kept.output
    for address in ("192.0.2.1", "192.0.2.2"):
        ask = f"import urllib.request as r; print(r.urlopen('http://{address}:{place.port}', timeout=60).read())"
        asked = place.spawn(*beside, sys.executable, "-c", ask)
        assert asked.wait() == 0, asked.output
        assert asked.stdout == "b'small'\n"
    assert there.process.poll() is None
    for one in (kept, there):
        assert one.stop() == 0


# Clocks, and other releases.


@pytest.mark.parametrize("up_at", [1e12, float("inf")])
def test_one_that_came_up_in_the_future(place: Place, up_at: float) -> None:
    """Another clock (a time namespace, another release) is no reason to take it for one that has just come up."""
    folder = place.folder / "runtime" / "preflight"
    with OtherRelease(folder, place.port, "future", further={"up_at": up_at, "stops_within": 60.0}) as other:
        # It has more time to answer than a launcher has: here it is a program that a busy machine may keep waiting.
        patient = place.prepared("from preflight.instances import records\nrecords.ANSWER = 60.0")
        new = place.start_program(patient, *SMALL).until_ready()
        until(lambda: not other.alive, "it has retired")
        assert other.process.returncode == 0, "it was not sent a signal"
        assert new.stop() == 0


# What happens while one replaces another.


@linux
def test_the_old_launcher_is_killed_while_its_socket_is_ours_too(place: Place, old: Started) -> None:
    """Its worker ends, and leaves the socket as it is for the one that comes."""
    new = gated(place, "start-up").until_says("starting up")
    old.stop(signal.SIGKILL)
    until(lambda: not old.family(), "its worker has ended")
    answers: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: answers.append(get(place.url, timeout=30)))
    asking.start()
    gate(place).touch()
    new.until_ready()
    asking.join(30)
    assert answers == [(200, "gated")]
    assert new.stop() == 0


@linux
@pytest.mark.parametrize("when", ["import", "start-up"])
def test_the_new_launcher_is_killed(place: Place, old: Started, when: str) -> None:
    """The old one goes on, and the next start gets its socket."""
    worker = worker_of(old)
    new = gated(place, when)
    if when == "start-up":
        new.until_says("starting up")
    else:
        until(lambda: child(new, "preflight.worker") is not None, "it has a worker")
    new.stop(signal.SIGKILL)
    gate(place).touch()
    until(lambda: not new.family(), "nothing of it is left")
    goes_on(place, old)
    assert worker_of(old) == worker
    last = place.start(*SMALL).until_ready()
    handed_over(old, last)
    assert last.stop() == 0


@linux
@pytest.mark.parametrize("module", ["preflight.suite", "preflight.worker"])
def test_a_child_of_the_new_one_is_killed(place: Place, old: Started, module: str) -> None:
    """Suite and worker of a start have the running one's socket or are going to: their end changes nothing for it."""
    new = gated(place, "import")
    until(lambda: child(new, module) is not None, "it has that child")
    pid = child(new, module)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert new.wait() in (1, 3), new.output
    assert f"our instance (PID {old.pid}, since " in new.output
    assert "SIGTERM" not in new.output
    goes_on(place, old)


@linux
def test_the_old_one_ends_while_the_new_one_is_suspended(place: Place, old: Started) -> None:
    """The queue is the new one's: who comes meanwhile is answered when it goes on."""
    new = gated(place, "start-up").until_says("starting up")
    new.send(signal.SIGSTOP)
    assert old.stop() == 0
    client = socket.create_connection(("127.0.0.1", place.port), timeout=30)
    client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    gate(place).touch()
    new.send(signal.SIGCONT)
    new.until_ready()
    with client:
        assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
    assert new.stop() == 0


@linux
def test_the_folder_is_cleaned_while_a_start_goes_on(place: Place) -> None:
    """The lock's file is gone, and the next start waits all the same, then leaves the first one alone."""
    first = gated(place, "import")
    first.until_says("Preflight ")
    shutil.rmtree(place.folder / "runtime" / "preflight")
    second = gated(place, "import").until_says("waiting for it")
    gate(place).touch()
    first.until_ready()
    assert second.wait() == 0, second.output
    assert f"our instance (PID {first.pid}, since " in second.stdout
    assert "SIGTERM" not in second.output
    assert get(place.url) == (200, "gated")
    assert first.stop() == 0


@linux
def test_beside_a_start_that_was_killed(place: Place, old: Started) -> None:
    """Who waited for it goes on at once and replaces the one that serves."""
    first = gated(place, "import").until_says("Preflight ")
    second = place.start(*SMALL).until_says("waiting for it")
    first.stop(signal.SIGKILL)
    second.until_ready()
    handed_over(old, second)
    assert second.stop() == 0


# How --if-running is said.


@pytest.mark.parametrize("value, replaced", [("replace", True), ("", False)])
def test_if_running_in_the_env_file(
    place: Place, other_tree: Place, providers: Providers, value: str, replaced: bool
) -> None:
    """Said there it is said, of another project's as well; an empty one says nothing."""
    old = place.start(*SMALL).until_ready()
    other_tree.write_env_file(**KEYS, PREFLIGHT_IF_RUNNING=value)
    other_tree.environ |= {"PREFLIGHT_PYTHON": ">=3.11", **providers.variables}
    new = other_tree.start("--app", "small:app")
    if replaced:
        handed_over(old, new.until_ready())
        assert new.stop() == 0
    else:
        assert new.wait() in (1, 2), new.output
        assert READY not in new.output
        goes_on(place, old)


# What a start needs.


def runtime(place: Place) -> Path:
    folder = place.folder / "runtime" / "preflight"
    folder.mkdir(mode=0o700)
    return folder


def plant(path: Path, what: str) -> None:
    match what:
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(path.with_name("nothing"))
        case "FIFO":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as bound, pytest.MonkeyPatch.context() as patch:
                patch.chdir(path.parent)
                bound.bind(path.name)


@pytest.mark.parametrize("what", ["folder", "link", "FIFO", "socket"])
def test_something_stands_where_the_lock_belongs(place: Place, what: str) -> None:
    """Start, check and pytest are refused in a line, and whoever holds the port is left alone."""
    plant(runtime(place) / f"{place.port}.lock", what)
    holder = place.listener()
    for new in (place.run(*SMALL), place.run(*SMALL, "--check-only"), pytest_preflight(place)):
        assert new.process.returncode == 1, new.output
        assert f"{place.port}.lock" in new.output
        assert "Traceback" not in new.output
        assert READY not in new.output
        assert holder.process.poll() is None


@pytest.mark.parametrize("what", ["folder", "link", "FIFO"])
def test_something_stands_where_records_are(place: Place, what: str) -> None:
    """It keeps nobody waiting and breaks nothing: starts, checks and replacements go ahead."""
    folder = runtime(place)
    for name in ("x.json", "y.new", "z.sock"):
        plant(folder / f"{place.port}.{name}", what)
    plant(folder / ".probe.999999999.abcd", what)
    old = place.start(*SMALL).until_ready()
    assert place.run(*SMALL, "--check-only").process.returncode == 0
    assert json.loads(place.run("--demo", "--port-status", "--format", "json").stdout)["instance"]["pid"] == old.pid
    new = place.start(*SMALL).until_ready()
    handed_over(old, new)
    assert new.stop() == 0


@linux
def test_in_a_folder_that_was_removed(place: Place) -> None:
    """The current directory need not exist."""
    gone = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    command = ["sh", "-c", gone, "sh", sys.executable, str(ROOT / "run.py"), "--port", str(place.port), *SMALL]
    check = place.spawn(*command, "--check-only", cwd=place.folder)
    assert check.wait() == 0, check.output
    old = place.spawn(*command, cwd=place.folder).until_ready()
    handed_over(old, new := place.spawn(*command, cwd=place.folder).until_ready())
    assert new.stop() == 0


@linux
def test_a_runtime_folder_that_is_no_text(place: Place) -> None:
    """A path of any bytes will do, and is shown without them."""
    folder = os.fsdecode(os.fsencode(place.folder) + b"/\xff\x1b[31m\xfe")
    os.mkdir(folder, 0o700)
    before = os.listdir(folder)
    check = place.run(*SMALL, "--check-only", XDG_RUNTIME_DIR=folder)
    assert check.process.returncode == 0, check.output
    assert os.listdir(folder) == before
    old = place.start(*SMALL, XDG_RUNTIME_DIR=folder).until_ready()
    assert "\x1b[31m" not in old.output
    assert os.listdir(folder) == ["preflight"]
    handed_over(old, new := place.start(*SMALL, XDG_RUNTIME_DIR=folder).until_ready())
    assert new.stop() == 0


@linux
@pytest.mark.parametrize("limit", [8, 16])
def test_descriptors_are_used_up(place: Place, old: Started, limit: int) -> None:
    """A start that may open hardly any file is refused, and the one that serves goes on."""
    limited = ["sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh", sys.executable, "run.py", "--port", str(place.port)]
    new = place.spawn(*limited, *SMALL)
    assert new.wait() in (1, 3), new.output
    assert "Too many open files" in new.output
    assert "Traceback" not in new.output
    goes_on(place, old)


@linux
def test_a_check_while_a_suspended_start_has_the_lock(place: Place) -> None:
    """A start would wait for it in vain: the check says so, with the PID and the command that helps."""
    first = gated(place, "import").until_says("Preflight ")
    first.send(signal.SIGSTOP)
    check = place.run(*SMALL, "--check-only")
    first.send(signal.SIGCONT)
    gate(place).touch()
    assert check.process.returncode == 1, check.output
    said = " ".join(check.output.split())
    assert f"another start of port {place.port} is suspended (PID {first.process.pid})" in said
    assert f"kill -CONT {first.process.pid}" in said
