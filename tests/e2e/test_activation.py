"""Behind a socket that systemd has opened: it is the port, it is never given away, and it outlives each start."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.clients import Clients
from tests.e2e.place import READY, Place, Started, get
from tests.e2e.processes import BACK, kill_worker, worker_of
from tests.e2e.unixclient import ask
from tests.servicemanagers import mentioned, passing

APP = """
import json, os

async def app(scope, receive, send):
    told = {"pid": os.getpid(), "environ": [name for name in os.environ if name.startswith(("LISTEN_", "NOTIFY_"))]}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})
"""
DEMO = ("--demo", "--app", "small:app")

StartBehind = Callable[..., Started]


@pytest.fixture
def listener(place: Place) -> Iterator[socket.socket]:
    """What a socket unit is: a listening socket in the hands of whoever starts the service."""
    with socket.create_server(("127.0.0.1", place.port), backlog=128) as listener:
        yield listener


@pytest.fixture
def start(place: Place, listener: socket.socket) -> StartBehind:
    """Start behind that socket, as the service of its socket unit."""

    def behind(*options: str, sockets: tuple[socket.socket, ...] = (), **environ: str) -> Started:
        given = sockets or (listener,)
        command = passing(given, [sys.executable, "run.py", "--port", str(place.port), *(options or DEMO)])
        return place.spawn(*command, environ=environ, pass_fds=[one.fileno() for one in given])

    return behind


def request(port: int) -> tuple[threading.Thread, list[tuple[int, str]]]:
    """One request in the background, and its answer once there is one."""
    answers: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: answers.append(get(f"http://127.0.0.1:{port}", timeout=120)))
    asking.start()
    return asking, answers


def said(started: Started, title: str) -> str:
    """What a run says of one requirement in its list."""
    lines = [line.partition(title)[2].strip() for line in started.stdout.splitlines() if f" {title} " in line]
    return lines[-1]


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd-socket-activate is not here")
def test_systemd_itself(place: Place) -> None:
    """The connection that starts the service is answered; the application sees none of systemd's variables."""
    place.write_module("mine", APP)
    environ = [f"{name}={value}" for name, value in place.environ.items()]
    command = [sys.executable, "run.py", "--port", str(place.port), "--demo", "--app", "mine:app"]
    address = f"127.0.0.1:{place.port}"
    started = place.spawn("systemd-socket-activate", "--fdname=shop.socket", "-l", address, "env", *environ, *command)
    started.until_says("Listening on")
    asking, answers = request(place.port)
    started.until_ready()
    asking.join(120)
    ((status, body),) = answers
    assert status == 200
    assert '"environ": []' in body
    assert mentioned(Path(f"/proc/{worker_of(started)}/environ").read_bytes()) == []
    assert f"{address} is a socket from systemd (shop.socket); connections wait in it." in started.stdout
    assert said(started, "Server Port") == f"{address} is a socket from systemd (shop.socket)"
    assert said(started, "Port Cleanup") == "nothing to stop: systemd keeps the socket (shop.socket)"
    assert started.stop() == 0
    started.left_nothing()


def test_crashes_and_restarts_refuse_nobody(place: Place, start: StartBehind, listener: socket.socket) -> None:
    """Another worker serves on the same socket, and connections wait in it while there is no instance.

    It is as it was afterwards.
    """
    started = start(*DEMO, "--supervise").until_ready()
    kill_worker(started)
    started.until_says(BACK)
    assert get(place.url) == (200, "small")
    with Clients(place.port, path="/") as clients:
        assert started.stop() == 0
        started = start().until_ready()
        clients.go_on(20)
    clients.lost_nothing()
    assert started.stop() == 0
    # The end of an instance is not the socket's: whoever holds it still gets every connection.
    with socket.create_connection(("127.0.0.1", place.port), timeout=60) as client:
        served, peer = listener.accept()
        with served:
            assert peer == client.getsockname()


def test_starts_that_do_not_serve_leave_connections_to_the_next_one(place: Place, start: StartBehind) -> None:
    """A start that something blocks, or that is stopped, answers nothing and takes nothing away; the next one does."""
    asking, answers = request(place.port)
    refused = start("--demo", "--app", "nosuch:app")
    assert refused.wait() == 1
    assert READY not in refused.output
    stopped = start(*DEMO, "--wait", "120", "--app", "nosuch:app").until_says("blocked by Application")
    stopped.send(signal.SIGTERM)
    assert stopped.wait() == 128 + signal.SIGTERM
    assert not answers
    started = start().until_ready()
    asking.join(120)
    assert answers == [(200, "small")]
    assert get(place.url) == (200, "small")
    assert started.stop() == 0


def test_others_beside_it(place: Place, start: StartBehind) -> None:
    """A check sees an instance of ours, and so does --port-status; a start by hand is refused with what to do."""
    started = start().until_ready()
    checked = place.run(*DEMO, "--check-only")
    assert checked.process.returncode == 0, checked.output
    assert said(checked, "Server Port").startswith(f"served by our instance (PID {started.pid})")
    # This test holds the socket, too, as systemd does: it is no holder.
    holders = {one["pid"] for one in place.check("Port Cleanup")["details"]["holders"]}
    assert holders == {started.pid, worker_of(started)}
    status = place.run("--port-status")
    assert "served by an instance of ours" in status.stdout
    assert str(os.getpid()) not in status.stdout.split()
    by_hand = place.run(*DEMO)
    assert by_hand.process.returncode == 1
    assert "on a socket from systemd (shop.socket); systemd would start it again." in by_hand.stdout
    assert "Fix: restart its unit instead: connections wait meanwhile" in by_hand.stdout
    assert place.run(*DEMO, "--if-running", "keep").process.returncode == 0
    assert get(place.url) == (200, "small")
    assert started.stop() == 0


def test_another_unit_on_the_same_socket(place: Place, start: StartBehind) -> None:
    """Two units may have one socket: the one that comes replaces the other like any instance, and nobody is refused."""
    old = start().until_ready()
    with Clients(place.port, path="/") as clients:
        new = start().until_ready()
        assert old.wait() == 0
        clients.go_on(20)
    clients.lost_nothing()
    assert f"Replaced by another start (PID {new.pid}); stopping." in old.stdout
    assert new.stop() == 0


def test_waiting_behind_it(place: Place, start: StartBehind) -> None:
    """Under --wait, too, the socket is the port: each round would get it."""
    started = start(*DEMO, "--wait", "120", "--app", "later:app")
    started.until_says("blocked by Application")
    place.write_module("later", "async def app(scope, receive, send): ...")
    started.until_ready()
    assert "Server Port: unknown -> passed" in started.stdout
    assert started.stop() == 0


def test_a_check_behind_it(start: StartBehind, place: Place) -> None:
    """A check that got the socket says that a start would."""
    checked = start(*DEMO, "--check-only")
    assert checked.wait() == 0, checked.output
    assert place.check("Server Port")["details"]["held"] is False


def test_a_unix_socket(place: Place) -> None:
    """Its file is systemd's: neither its mode nor itself changes, and no start and no end connects to it."""
    folder = Path(tempfile.mkdtemp(prefix="uds"))
    path = folder / "shop.sock"
    command = [sys.executable, "run.py", "--uds", str(path), *DEMO]
    place.write_module("mine", APP)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o660)
        listener.listen(16)
        started = place.spawn(*passing([listener], [*command, "--app", "mine:app"]), pass_fds=[listener.fileno()])
        started.until_ready()
        assert ask(path)[0] == 200
        assert started.stop() == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):  # systemd would start the service again for it
            listener.accept()
    shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["port", "several", "datagrams"])
def test_a_socket_that_is_of_no_use(place: Place, start: StartBehind, listener: socket.socket, what: str) -> None:
    """One line says what is wrong, nothing is checked or stopped, and the exit code is a wrong setting's."""
    with socket.socket(type=socket.SOCK_DGRAM if what == "datagrams" else socket.SOCK_STREAM) as other:
        other.bind(("127.0.0.1", 0))
        if other.type == socket.SOCK_STREAM:
            other.listen()
        started = start(sockets=(listener, other) if what == "several" else (other,))
        assert started.wait() == 2
    assert started.stdout == ""
    (line,) = started.stderr.splitlines()
    assert line.startswith("run.py: error: systemd passes ")
    why = {"port": "but the settings name", "several": "systemd passes 2 sockets", "datagrams": "not a stream socket"}
    assert why[what] in line
    assert not place.report_file.exists()


def test_reload_serves_on_no_socket_of_systemds(start: StartBehind) -> None:
    """It is for development, where a terminal starts it."""
    started = start(*DEMO, "--reload")
    assert started.wait() == 2
    assert "--reload is for development, and does not serve on a socket from systemd" in started.stderr


def test_a_socket_that_went_to_the_parent(place: Place, listener: socket.socket) -> None:
    """A shell got it, and has started the command instead of becoming it: that is said, and nothing is stopped."""
    command = [sys.executable, "run.py", "--port", str(place.port), *DEMO]
    shell = ["/bin/sh", "-c", f"{shlex.join(command)}; exit $?"]
    started = place.spawn(*passing([listener], shell), pass_fds=[listener.fileno()])
    assert started.wait() == 1
    assert "note: systemd has passed a socket to the parent process, so this start did not get it" in started.stderr
    assert f"port {place.port} is held by " in started.stdout
    assert "this process runs inside it" in started.stdout
