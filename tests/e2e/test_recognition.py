"""A live instance is recognised, and not killed, whatever differs between it and whoever comes: real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from preflight.times import local_of
from tests.e2e.clients import Clients
from tests.e2e.place import READY, Place, Started, get, make_place
from tests.e2e.processes import foreign, handed_over, pytest_preflight, start_is_over, worker_of
from tests.releases import OtherRelease
from tests.waiting import PATIENCE, until

linux = pytest.mark.skipif(sys.platform != "linux", reason="abstract names and namespaces are Linux's")
SMALL = ("--demo", "--app", "small:app")

# Answers "/slow" only when the file that GATE names is there; loop-bound or not, it holds nothing up.
GATED = """
import asyncio, os
from small import app as small

async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/slow":
        print("slow began", flush=True)
        while not os.path.exists(os.environ["GATE"]):
            await asyncio.sleep(0.01)
    await small(scope, receive, send)
"""


@pytest.fixture
def old(place: Place) -> Started:
    return place.start(*SMALL).until_ready()


def elsewhere(place: Place, name: str = "another") -> dict[str, str]:
    """An environment with another runtime folder."""
    return {"XDG_RUNTIME_DIR": str(place.folder / name)}


def cleaned(place: Place, what: str) -> None:
    folder = place.folder / "runtime" / "preflight"
    match what:
        case "folder":
            shutil.rmtree(folder)
        case "socket":
            for file in folder.glob("*.sock"):
                file.unlink()
        case "record":
            for file in folder.glob("*.json"):
                file.unlink()


# Where the files are.


@linux
def test_replaced_all_the_same(place: Place, old: Started) -> None:
    """Another runtime folder, none, or one that a cleaner has been at: the socket is handed over, no client notices."""
    others: dict[str, dict[str, str]] = {
        "another folder": elsewhere(place),
        "no folder": {"XDG_RUNTIME_DIR": "", "TMPDIR": str(place.folder)},
    }
    with Clients(place.port, path="/", keeping=1, reconnecting=1) as clients:
        for difference in ("folder", "socket", "record", *others):
            if difference not in others:
                cleaned(place, difference)
            new = place.start(*SMALL, **others.get(difference, {})).until_ready()
            handed_over(old, new)
            clients.go_on()
            assert (clients.refused, clients.failed) == ([], []), difference
            old = new
    clients.lost_nothing()
    assert old.stop() == 0
    old.left_nothing()


@linux
def test_known_whatever_the_folder(place: Place, old: Started) -> None:
    """With another runtime folder --if-running means the same, pytest never stops it, and other commands know it."""
    cleaned(place, "folder")
    for how, code in (("keep", 0), ("fail", 1)):
        new = place.run(*SMALL, "--if-running", how, **elsewhere(place))
        assert new.process.returncode == code, new.output
        assert f"our instance (PID {old.pid}, since " in new.stdout
    plain = pytest_preflight(place, **elsewhere(place))
    assert plain.process.returncode == 0, plain.output
    assert f"served by our instance (PID {old.pid})" in place.check("Server Port")["message"]
    check = place.run(*SMALL, "--check-only", **elsewhere(place))
    assert check.process.returncode == 0
    assert f"served by our instance (PID {old.pid})" in place.check("Server Port")["message"]
    shown = json.loads(place.run(*SMALL, "--port-status", "--format", "json", **elsewhere(place)).stdout)
    assert shown["status"] == "served by an instance of ours"
    assert shown["instance"]["state"] == "serving"
    assert shown["instance"]["pid"] == old.pid
    assert get(place.url) == (200, "small")
    assert old.process.poll() is None


def test_record_and_socket_come_back(place: Place, old: Started) -> None:
    """A cleaner is undone within seconds, so that older releases find the instance, too."""
    folder = place.folder / "runtime" / "preflight"
    before = {file.suffix for file in folder.iterdir()}
    shutil.rmtree(folder)
    until(lambda: folder.is_dir() and {file.suffix for file in folder.iterdir()} == before - {".lock"}, "both are back")
    (record,) = folder.glob("*.json")
    assert json.loads(record.read_text())["pid"] == old.pid
    assert old.stop() == 0
    assert list(folder.iterdir()) == []


@linux
def test_many_at_once_in_as_many_folders(place: Place) -> None:
    """One start lock for a user and a port, whatever the runtime folders: one of eight serves, the others let it."""
    gate = place.folder / "gate"
    place.write_module(
        "guarded",
        "import os, time\nwhile not os.path.exists(os.environ['GATE']):\n    time.sleep(0.01)\nfrom small import app\n",
    )
    everybody = [
        place.start("--demo", "--app", "guarded:app", GATE=str(gate), **elsewhere(place, f"runtime-{number}"))
        for number in range(8)
    ]

    def entered() -> bool:
        said = [one.stdout for one in everybody]
        return sum("waiting for it" in text for text in said) == 7 and sum("Preflight " in text for text in said) == 1

    until(entered, "one starts and seven wait for it", 60)
    gate.touch()
    until(lambda: sum(one.process.poll() is None for one in everybody) == 1, "seven have ended", 60)
    (serving,) = (one for one in everybody if one.process.returncode is None)
    serving.until_ready()
    for one in everybody:
        assert "SIGTERM" not in one.output
        if one is not serving:
            assert one.wait() == 0, one.output
            assert "it came up meanwhile. Nothing to do." in one.stdout
    assert serving.stop() == 0
    serving.left_nothing()


# How the address is spelled.


@pytest.mark.parametrize(
    "hosts", [("127.0.0.1", "localhost", "127.0.0.1", "127.1", "::ffff:127.0.0.1"), ("::1", "0:0:0:0:0:0:0:1")]
)
def test_however_it_is_spelled(place: Place, hosts: tuple[str, ...]) -> None:
    """The same address is handed over from each to the next one, not stopped and taken."""
    old = place.start(*SMALL, "--host", hosts[0]).until_ready()
    for host in hosts[1:]:
        kept = place.run(*SMALL, "--host", host, "--if-running", "keep")
        assert kept.process.returncode == 0, host
        assert "Nothing to do." in kept.stdout
        handed_over(old, new := place.start(*SMALL, "--host", host).until_ready())
        old = new
    assert old.stop() == 0


# Other releases.


@pytest.fixture
def other(place: Place) -> Iterator[OtherRelease]:
    folder = place.folder / "runtime" / "preflight"
    with OtherRelease(folder, place.port) as one:
        yield one


UNKNOWN = {"colour": "red", "shape": {"deep": [1]}, "log_file": None, "stops_within": None}


# Each two of the three differences together.
@pytest.mark.parametrize(
    "words, further, where",
    [
        pytest.param((), {}, "here", id="protocol 1"),
        pytest.param((), UNKNOWN, "another folder", marks=linux, id="protocol 1, other fields, another folder"),
        pytest.param(("future",), {}, "another folder", marks=linux, id="a future one, another folder"),
        pytest.param(("future",), UNKNOWN, "here", id="a future one, other fields"),
    ],
)
def test_another_release_hands_over(
    place: Place, words: tuple[str, ...], further: dict[str, object], where: str
) -> None:
    """A launcher of another release is asked for its socket and told to retire, whatever its record says and where."""
    environ = elsewhere(place) if where != "here" else {}
    with OtherRelease(place.folder / "runtime" / "preflight", place.port, *words, further=further) as other:
        kept = place.run(*SMALL, "--if-running", "keep", **environ)
        assert kept.process.returncode == 0, kept.output
        assert f"our instance (PID {other.pid}, since {local_of('2026-01-02T03:04:05Z')})" in kept.stdout
        assert other.alive
        new = place.start(*SMALL, **environ).until_ready()
        until(lambda: not other.alive, "it has retired")
        assert other.process.returncode == 0, "it was not sent a signal"
        assert f"is served by our instance (PID {other.pid}, since " in new.stdout
        assert get(place.url) == (200, "small")
        assert new.stop() == 0


def test_what_another_release_says_of_itself_is_a_line(place: Place) -> None:
    """Project and checkout are shown without what would make a line of their own, or what a terminal obeys."""
    forged = "/srv\nStatus  available\x1b[2J"
    further = {"root": forged, "project": forged}
    with OtherRelease(place.folder / "runtime" / "preflight", place.port, "future", further=further):
        shown = place.run("--demo", "--port-status").stdout
    assert "Project /srv Status  available?[2J (/srv Status  available?[2J)" in shown
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("Status")] == ["served"]


# What a launcher of protocol 1 does with what is in the runtime folder, with nothing of this tree's.
OLD_STARTER = """
import fcntl, glob, json, os, select, socket, sys
folder, port = sys.argv[1:]
os.chdir(folder)
fields = "instance_id pid host port since up_at version stops_within log_file".split()
for name in glob.glob(f"{port}.*.json"):
    file = os.open(name, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        sys.exit("nobody holds the record")
    except BlockingIOError:
        record = json.loads(os.pread(file, 65536, 0))
assert set(record) == set(fields), record
caller = socket.socket(socket.AF_UNIX)
caller.settimeout(60)
caller.connect(name.replace(".json", ".sock"))
caller.sendall(b'{"kind":"handover","descriptors":0,"data":{}}\\n')
data, descriptors, _, _ = socket.recv_fds(caller, 65536, 4)
message = json.loads(data if data.endswith(b"\\n") else data + caller.recv(65536))
assert (message["kind"], message["descriptors"], len(descriptors)) == ("socket", 1, 1), message
listener = socket.socket(fileno=descriptors[0])
caller.sendall(b'{"kind":"retire","descriptors":0,"data":{"pid":%d}}\\n' % os.getpid())
print("handed over", flush=True)
while True:
    select.select([listener], [], [])
    client = listener.accept()[0]
    client.setblocking(True)
    client.recv(65536)
    client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\nConnection: close\\r\\n\\r\\nold")
    client.close()
"""


def test_an_older_release_takes_over(place: Place, old: Started) -> None:
    """A launcher of protocol 1 believes the record, gets the socket and has the instance retire."""
    until(lambda: start_is_over(place), "the start is over")
    folder = place.folder / "runtime" / "preflight"
    starter = place.spawn(sys.executable, "-c", OLD_STARTER, str(folder), str(place.port)).until_says("handed over")
    assert old.wait() == 0
    assert f"Replaced by another start (PID {starter.pid}); stopping." in old.stdout
    assert get(place.url) == (200, "old")


# Those that cannot be asked.


def suspended(place: Place, old: Started) -> None:
    until(lambda: start_is_over(place), "it has let go of the start lock")
    old.send(signal.SIGSTOP)


def test_one_that_does_not_answer_is_left_alone(place: Place, old: Started) -> None:
    """Suspended, with or without its files: keep and fail refuse, pytest says so, and nobody is sent a signal."""
    suspended(place, old)
    worker = worker_of(old)
    for lost in ("nothing", "folder"):
        if lost == "folder":
            cleaned(place, "folder")
        for how in ("keep", "fail"):
            new = place.run(*SMALL, "--if-running", how)
            assert new.process.returncode == 1, new.output
            assert f"(PID {old.pid}" in new.stdout
            assert "does not answer" in new.stdout
            assert f"kill -CONT {old.pid}" in new.stdout
            assert "SIG" not in new.output
    plain = pytest_preflight(place)
    assert plain.process.returncode == 1, plain.output
    assert "does not answer, and this run never stops it" in place.check("Server Port")["message"]
    old.send(signal.SIGCONT)
    assert get(place.url) == (200, "small")
    assert worker_of(old) == worker
    assert old.stop() == 0


def test_a_launcher_without_any_trace_of_its_own(place: Place) -> None:
    """A worker whose launcher was killed looks like ours, and cannot be asked: keep refuses, nothing is killed."""
    place.write_module("guarded", GATED)
    gate = place.folder / "gate"
    old = place.start("--demo", "--app", "guarded:app", GATE=str(gate), PREFLIGHT_DRAIN_DELAY="30s").until_ready()
    worker = worker_of(old)
    old.stop(signal.SIGKILL)
    new = place.run(*SMALL, "--if-running", "keep")
    assert new.process.returncode == 1, new.output
    assert f"our instance (PID {worker}) or what looks like one" in new.stdout
    assert get(place.url) == (200, "small")


# One that drains.


def drained(place: Place) -> tuple[Started, list[tuple[int, str]], threading.Thread]:
    """An instance that drains, still listens, and has a request in flight."""
    place.write_module("guarded", GATED)
    old = place.start(
        "--demo", "--app", "guarded:app", GATE=str(place.folder / "gate"), PREFLIGHT_DRAIN_DELAY="10s",
        PREFLIGHT_GRACEFUL_TIMEOUT="60s",
    ).until_ready()  # fmt: skip
    answers: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: answers.append(get(f"{place.url}/slow", timeout=60)))
    asking.start()
    old.until_says("slow began")
    old.send(signal.SIGTERM)
    old.until_says("Stopping (SIGTERM)")
    return old, answers, asking


@pytest.mark.parametrize("how", ["replace", "keep"])
def test_a_start_waits_for_one_that_drains(place: Place, how: str) -> None:
    """It gets the port when the old one has let go of it, and what is in flight there is answered."""
    old, answers, asking = drained(place)
    new = place.start(*SMALL, "--if-running", how, PREFLIGHT_PORT_GRACE="0s").until_ready()
    assert "SIGTERM" not in new.output
    assert "waiting: our instance" in new.output
    assert old.process.poll() is None, "it is still answering"
    (place.folder / "gate").touch()
    asking.join(PATIENCE)
    assert answers == [(200, "small")]
    assert old.wait() == 0
    assert "not finished" not in old.output
    assert new.stop() == 0


def test_commands_beside_one_that_drains(place: Place) -> None:
    """--port-status says so, --check-only passes, since a start could have the port soon, and --free-port waits."""
    old, answers, asking = drained(place)
    shown = json.loads(place.run("--demo", "--port-status", "--format", "json").stdout)
    assert shown["instance"]["state"] == "draining"
    dry = json.loads(place.run("--demo", "--free-port", "--dry-run", "--format", "json").stdout)
    assert dry["would_stop"] == []
    check = place.run(*SMALL, "--check-only")
    assert check.process.returncode == 0, check.output
    freed = place.run("--demo", "--free-port", PREFLIGHT_PORT_GRACE="0s")
    assert freed.process.returncode == 0, freed.output
    assert "SIG" not in freed.stdout
    (place.folder / "gate").touch()
    asking.join(PATIENCE)
    assert answers == [(200, "small")]
    assert old.wait() == 0


# Other projects.


@pytest.fixture
def other_tree(tmp_path: Path, compiled_tree: Path, place: Place) -> Iterator[Place]:
    """Another tree, whose starts go to the same port and the same runtime folder."""
    shutil.copytree(compiled_tree, tmp_path / "other")
    other = make_place(tmp_path / "other-place", tmp_path / "other")
    other.port = place.port
    other.environ["XDG_RUNTIME_DIR"] = place.environ["XDG_RUNTIME_DIR"]
    yield other
    other.close()


def test_another_checkout_of_the_same_project(place: Place, other_tree: Place, old: Started) -> None:
    """It replaces, and both paths are said."""
    new = other_tree.start(*SMALL).until_ready()
    handed_over(old, new)
    assert str(place.root) in new.stdout
    assert str(other_tree.root) in new.stdout
    assert new.stop() == 0


def test_another_project(place: Place, other_tree: Place, old: Started) -> None:
    """It is refused, and so is a check; nothing happens to the one that serves.

    Whoever says --if-running replace, wherever, gets what was said.
    """
    foreign(other_tree, "something-else")
    for options in ((), ("--if-running", "keep"), ("--check-only",)):
        new = other_tree.run(*SMALL, *options)
        assert new.process.returncode == 1, new.output
        assert f"our instance (PID {old.pid}, since " in new.output
        assert "for project pytest-preflight" in new.output
        assert str(place.root) in new.output
        assert READY not in new.output
    assert get(place.url) == (200, "small")
    assert old.process.poll() is None
    handed_over(old, new := other_tree.start(*SMALL, "--if-running", "replace").until_ready())
    old = new
    handed_over(old, new := place.start(*SMALL, PREFLIGHT_IF_RUNNING="replace").until_ready())
    old = new
    other_tree.edit_project("[tool.preflight]\n", '[tool.preflight]\nif_running = "replace"\n')
    handed_over(old, new := other_tree.start(*SMALL).until_ready())
    assert new.stop() == 0


# Another network namespace is another machine.


def namespaced(place: Place, *command: str) -> Started:
    """A command in a network namespace of its own, with a loopback; the launcher is the process itself."""
    script = 'ip link set lo up && exec "$@"'
    return place.spawn("unshare", "-n", "sh", "-c", script, "sh", *command)


@linux
@pytest.mark.needs_root("nobody else can make a network namespace everywhere")
def test_another_network_namespace(place: Place) -> None:
    """Same user, port, state and runtime folder: neither is asked, waited for or believed by the other."""
    there = namespaced(place, sys.executable, "run.py", "--port", str(place.port), *SMALL).until_ready()
    status = place.run("--demo", "--port-status")
    assert "Status  available" in status.stdout
    here = place.start(*SMALL).until_ready()
    assert "is served by" not in here.output
    assert there.process.poll() is None
    assert get(place.url) == (200, "small")
    kept = namespaced(place, sys.executable, "run.py", "--port", str(place.port), *SMALL, "--if-running", "keep")
    kept.until_ready()  # a third machine
    for one in (kept, here):
        assert one.stop() == 0
    assert there.process.poll() is None
    program = f"import urllib.request; print(urllib.request.urlopen({place.url!r}, timeout=60).read().decode())"
    asked = place.spawn("nsenter", f"--net=/proc/{there.pid}/ns/net", sys.executable, "-c", program)
    assert asked.wait() == 0
    assert asked.stdout == "small\n"
    assert there.stop() == 0


@linux
@pytest.mark.needs_root("nobody else can make a network namespace everywhere")
def test_a_start_in_another_network_namespace(place: Place) -> None:
    """Its lock is of the same folder, and no concern of a start here."""
    gate = place.folder / "gate"
    place.write_module(
        "guarded",
        "import os, time\nwhile not os.path.exists(os.environ['GATE']):\n    time.sleep(0.01)\nfrom small import app\n",
    )
    place.environ["GATE"] = str(gate)
    there = namespaced(place, sys.executable, "run.py", "--port", str(place.port), "--demo", "--app", "guarded:app")
    there.until_says("Preflight ")
    here = place.start(*SMALL).until_ready()
    assert "waiting for it" not in here.output
    gate.touch()
    there.until_ready()
    assert here.stop() == 0
    assert there.stop() == 0


# Another account's doings.

SQUATTER = """
import os, socket, sys, time
os.setgroups([]); os.setgid(65534); os.setuid(65534)
kind, name = sys.argv[1], sys.argv[2].replace("@", "\\0")
taken = socket.socket(socket.AF_UNIX)
taken.bind(name)
if kind != "bound":
    taken.listen(0)
if kind.startswith("full"):
    callers = []
    while True:
        one = socket.socket(socket.AF_UNIX)
        one.setblocking(False)
        callers.append(one)
        try:
            one.connect(name)
        except BlockingIOError:
            break
print("taken", flush=True)
time.sleep(3600)
"""


@linux
@pytest.mark.needs_root("nobody else can become another user")
@pytest.mark.parametrize("kind", ["bound", "listening", "full"])
def test_somebody_else_has_the_name_of_the_lock(place: Place, kind: str) -> None:
    """A start goes on without it: its file is locked."""
    name = f"@preflight/start/{os.getuid()}/{place.port}"
    place.spawn(sys.executable, "-c", SQUATTER, kind, name).until_says("taken")
    begun = time.monotonic()
    started = place.start(*SMALL).until_ready()
    assert time.monotonic() - begun < 20
    assert started.stop() == 0


@linux
@pytest.mark.needs_root("nobody else can become another user")
def test_somebody_else_poses_as_an_instance(place: Place, old: Started) -> None:
    """Names like an instance's that another account listens on are not believed, and keep nobody waiting."""
    for kind in ("listening", "full", "full-2", "full-3"):
        squatter = place.spawn(sys.executable, "-c", SQUATTER, kind, f"@preflight/{place.port}/{kind}")
        squatter.until_says("taken")
    shown = json.loads(place.run("--demo", "--port-status", "--format", "json").stdout)
    assert shown["instance"]["pid"] == old.pid
    handed_over(old, new := place.start(*SMALL).until_ready())
    assert new.stop() == 0
