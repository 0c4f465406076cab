"""A Unix socket as the served address: first starts, replacement, what a server left behind, and what is in the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from preflight.instances import socketfiles
from tests.e2e.place import Place, Started
from tests.e2e.processes import worker_of
from tests.e2e.unixclient import ask
from tests.waiting import until

APP = """
import json, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    told = {"pid": os.getpid(), "release": os.environ.get("RELEASE"), "scheme": scope["scheme"]}
    told |= {"client": scope["client"], "server": scope["server"]}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})
"""


@pytest.fixture
def path() -> Iterator[Path]:
    """A path that is short enough, however long the folders of tests are."""
    folder = Path(tempfile.mkdtemp(prefix="uds"))
    yield folder / "app.sock"
    shutil.rmtree(folder)


@pytest.fixture
def served(place: Place) -> Place:
    place.write_module("mine", APP)
    return place


def start(place: Place, path: Path, *options: str, **environ: str) -> Started:
    return place.start("--demo", "--app", "mine:app", "--uds", str(path), *options, **environ)


def checked(place: Place, path: Path, *options: str, **environ: str) -> Started:
    one = start(place, path, "--check-only", *options, **environ)
    one.wait()
    return one


def test_a_unix_socket_is_served(served: Place, path: Path) -> None:
    """It answers there and on no port, READY names it, and its file is gone when the server is.

    Of a free one a check says that a start could have it.
    """
    assert checked(served, path).process.returncode == 0
    instance = start(served, path).until_ready()
    assert f"unix:{path}" in instance.output
    status, told = ask(path)
    assert (status, told["scheme"], told["client"], told["server"]) == (200, "http", None, [str(path), None])
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert served.report()["address"] == f"unix:{path}"
    assert instance.stop() == 0
    assert not path.exists()
    instance.left_nothing()


def test_permissions_and_a_crash(served: Place, path: Path) -> None:
    """Its permissions are a setting, from its first moment on, whatever the umask; a next start's count once it serves.

    A worker that crashes is started again: connections wait meanwhile, and the instance is recognised as before.
    """
    instance = start(served, path, PREFLIGHT_UDS_MODE="0600").until_ready()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = ask(path)[1]["pid"]
    os.kill(worker_of(instance), signal.SIGKILL)
    assert ask(path)[1]["pid"] != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = start(served, path, PREFLIGHT_UDS_MODE="0660").until_ready()
    until(lambda: stat.S_IMODE(path.stat().st_mode) == 0o660, "the new permissions count")
    assert instance.wait() == 0
    assert second.stop() == 0


def test_a_second_start_replaces_the_first_without_an_outage(served: Place, path: Path) -> None:
    """The socket is handed over, its file stays, nobody who asks meanwhile notices; checks say who serves."""
    first = start(served, path, RELEASE="1").until_ready()
    before = path.stat().st_ino
    releases: list[object] = []
    failures: list[Exception] = []
    over = threading.Event()

    def ask_on() -> None:
        while not over.is_set():
            try:
                releases.append(ask(path)[1]["release"])
            except Exception as error:  # noqa: BLE001  # whatever it is: none may happen
                failures.append(error)
            time.sleep(0.005)

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        spelled = path.parent / ".." / path.parent.name / path.name
        second = start(served, spelled, RELEASE="2").until_ready()
        assert first.wait() == 0, first.output
        until(lambda: "2" in releases[-1:], "the second answers")
    finally:
        over.set()
        asking.join()
    assert failures == []
    assert path.stat().st_ino == before
    assert checked(served, path).process.returncode == 0
    assert "served by our instance" in json.dumps(served.report())
    status = served.run("--uds", str(path), "--port-status", "--format", "json")
    shown = json.loads(status.stdout)
    assert (shown["status"], shown["uds"]) == ("served by an instance of ours", str(path))
    assert shown["instance"]["pid"] == second.pid
    assert [holder["addresses"] for holder in shown["holders"]] == [[f"unix:{path}"]]
    environ = {"PREFLIGHT_UDS": str(path), "PREFLIGHT_DEMO": "1", "PREFLIGHT_APP": "mine:app"}
    ran = served.spawn(sys.executable, "-m", "pytest", "preflight", "-q", environ=environ)
    assert ran.wait() == 0, ran.output
    assert "served by our instance" in json.dumps(served.report())
    assert second.stop() == 0
    assert not path.exists()


def test_starts_on_two_paths_are_none_of_each_others_business(served: Place, path: Path) -> None:
    """They serve side by side, and beside one on a port."""
    other = path.with_name("other.sock")
    one = start(served, path, RELEASE="1").until_ready()
    two = start(served, other, RELEASE="2").until_ready()
    three = served.start("--demo", "--app", "mine:app").until_ready()
    assert (ask(path)[1]["release"], ask(other)[1]["release"]) == ("1", "2")
    for instance in (one, two, three):
        assert instance.stop() == 0


def test_what_a_killed_server_left_is_replaced(served: Place, path: Path) -> None:
    """A check says that a start could serve, and changes nothing; a start does."""
    killed = start(served, path).until_ready()
    killed.send(signal.SIGKILL)
    killed.kill()
    before = path.stat().st_ino
    assert checked(served, path).process.returncode == 0
    assert path.stat().st_ino == before
    shown = json.loads(served.run("--uds", str(path), "--port-status", "--format", "json").stdout)
    assert (shown["status"], shown["left_over"]) == ("available", True)
    instance = start(served, path).until_ready()
    assert ask(path)[0] == 200
    assert instance.stop() == 0


def test_another_server_is_never_stopped_for_a_path(served: Place, path: Path) -> None:
    """It blocks the start, with its PID; nothing but an end of it, or another path, helps."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        refused = start(served, path)
        assert refused.wait() == 1
        check = served.check("Server Port")
        assert check["message"].startswith("another server (")
        assert f"PID {os.getpid()}" in check["message"]
        assert f"kill {os.getpid()}" in check["fix"]
        shown = served.run("--uds", str(path), "--port-status")
        assert shown.process.returncode == 1
        lines = shown.stdout.splitlines()
        assert lines[:2] == [f"Socket  {path}", "Status  in use"]
        assert next(line for line in lines if f"unix:{path}" in line).split()[0] == str(os.getpid())
        assert not any(line.startswith(("Host", "Port")) for line in lines)
        freed = served.run("--uds", str(path), "--free-port")
        assert freed.process.returncode == 1
        assert "no process is stopped to free a path" in " ".join(freed.stdout.split())
    refused.left_nothing()


@pytest.mark.parametrize("case", ["long", "file", "folder", "nowhere"])
def test_a_path_that_cannot_be_served_blocks(served: Place, path: Path, case: str) -> None:
    """What was found and what helps, before anything is started; what is there stays. A check says the same."""
    where, said = {
        "long": (path.with_name("x" * 150), "may have at most"),
        "file": (path, "is not a socket"),
        "folder": (path, "is not a socket"),
        "nowhere": (path.parent / "none" / "app.sock", "does not exist"),
    }[case]
    if case == "file":
        path.write_text("mine")
    elif case == "folder":
        path.mkdir()
    for refusing in (start, checked) if case == "file" else (start,):
        assert refusing(served, where).wait() == 1
        check = served.check("Server Port")
        assert said in check["message"]
        assert check["fix"]
    assert case != "file" or path.read_text() == "mine"


def as_nobody(path: Path) -> str:
    """What a user without any rights finds at a path."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(writing, socketfiles.described(path, socketfiles.look(path))[0].encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        found = said.read()
    os.waitpid(child, 0)
    return found


@pytest.mark.needs_root("nobody else can become another user")
def test_another_users_server_and_what_it_left(path: Path) -> None:
    """Whose it is stands in the message; a file of another user's in a sticky folder cannot be removed."""
    path.parent.chmod(0o1777)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        path.chmod(0o600)
        assert as_nobody(path) == f"{path} is a socket that user 65534 may not connect to"
        path.chmod(0o666)
        assert f"PID {os.getpid()}, user 0) listens on {path}" in as_nobody(path)
    assert as_nobody(path) == f"{path} is left over from a server of user 0, and user 65534 may not remove it"
    path.unlink()
    assert as_nobody(path) == ""
    path.parent.chmod(0o755)
    assert as_nobody(path) == f"user 65534 may not create a file in {path.parent}"


def test_a_socket_whose_file_was_removed(served: Place, path: Path) -> None:
    """A start makes another one; a re-run of the old instance's check says that it cannot be reached."""
    first = start(served, path).until_ready()
    path.unlink()
    second = start(served, path).until_ready()
    assert ask(path)[0] == 200
    assert second.stop() == 0
    assert not path.exists()
    assert first.stop() == 0


def test_free_port_ends_an_instance_of_ours(served: Place, path: Path) -> None:
    """Gracefully, as on a port; with --dry-run it only says so."""
    instance = start(served, path).until_ready()
    dry = served.run("--uds", str(path), "--free-port", "--dry-run")
    assert dry.process.returncode == 0
    assert f"Would stop: PID {instance.pid}" in dry.output
    assert ask(path)[0] == 200
    freed = served.run("--uds", str(path), "--free-port")
    assert freed.process.returncode == 0, freed.output
    assert instance.wait() == 0
    (signalled,) = [line for line in (served.state / "audit.log").read_text().splitlines() if " signal " in line]
    assert f"to={instance.pid}" in signalled
    assert f"it is in the way on unix:{path}" in signalled
    assert not path.exists()


def test_the_agent_server_needs_a_token(place: Place, path: Path) -> None:
    """Who connects has no address, so nobody is local: without a token it does not start, with one it is served."""
    refused = place.start("--demo", "--uds", str(path))
    assert refused.wait() == 1
    assert "PREFLIGHT_TOKEN must be set" in place.check("Exposure")["message"]
    token = "a-token-of-the-test-91827364"
    instance = place.start("--demo", "--uds", str(path), PREFLIGHT_TOKEN=token).until_ready()
    assert f"curl --unix-socket {path} http://localhost/health" in instance.output
    assert ask(path, "/health")[0] == 200
    assert ask(path, "/diagnostics")[0] == 401
    status, diagnostics = ask(path, "/diagnostics", Authorization=f"Bearer {token}")
    assert (status, diagnostics["server"]["uds"]) == (200, str(path))
    assert instance.stop() == 0


def test_a_relative_path_is_beside_pyproject(project: Place) -> None:
    """Wherever the command is typed; as an option it is relative to the folder where it is typed."""
    if len(os.fsencode(project.root / "run.sock")) > 100:
        pytest.skip("the folders of this run's tests are too long for a socket's path")
    project.write_module("mine", APP)
    instance = project.start("--demo", "--app", "mine:app", PREFLIGHT_UDS="run.sock").until_ready()
    assert ask(project.root / "run.sock")[0] == 200
    assert instance.stop() == 0
