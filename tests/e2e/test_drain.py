"""The end of an instance: announced, orderly, in time, and complete."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.e2e.beside import PREFIX
from tests.e2e.place import Place, Started, get, listening
from tests.e2e.processes import worker_of
from tests.privileges import WITHOUT, unprivileged
from tests.waiting import PATIENCE, until

# Answers /slow when the gate is there, says how far it is, and leaves WebSockets to whoever closes them.
SLOW = """
import asyncio, os
gate = os.environ["GATE"]

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        print("disconnect", (await receive())["code"], flush=True)
    if scope["type"] != "http":
        return
    if scope["path"].startswith("/counted"):
        print("began", scope["path"], flush=True)
        await asyncio.sleep(0.005)
    if scope["path"] == "/slow":
        print("slow began", flush=True)
        try:
            while not os.path.exists(gate):
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            print("slow was cancelled", flush=True)
            raise
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})
"""


class Asked(threading.Thread):
    """A request that is on its way."""

    def __init__(self, port: int, path: str = "/slow") -> None:
        super().__init__()
        self.status = 0
        self.connection = ""
        self.error = ""
        self._port = port
        self._path = path
        self.start()

    def run(self) -> None:
        client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            client.request("GET", self._path)
            answer = client.getresponse()
            answer.read()
            self.status, self.connection = answer.status, answer.getheader("Connection", "")
        except (OSError, http.client.HTTPException) as error:
            self.error = repr(error)
        finally:
            client.close()

    def answered(self) -> bool:
        self.join(PATIENCE)
        assert self.error == ""
        return self.status == 200


def slow(place: Place, **environ: str) -> Started:
    """An instance of the slow application."""
    place.write_module("slow", SLOW)
    gate = str(place.folder / "gate")
    return place.start("--demo", "--app", "slow:app", GATE=gate, **environ).until_ready()


def open_gate(place: Place) -> None:
    (place.folder / "gate").touch()


def begun(started: Started, count: int = 1) -> None:
    """Wait until that many slow requests are being answered."""
    until(lambda: started.stderr.count("slow began") == count, f"{count} slow requests have begun")


def test_not_ready_while_it_drains(place: Place) -> None:
    """During the delay for load balancers: not ready, but alive and answering, every answer its connection's last."""
    # So long that it is not over before everything was asked: a second signal ends it.
    started = place.start("--demo", "--app", "small:app", PREFLIGHT_DRAIN_DELAY="60s").until_ready()
    health = f"{place.url}{PREFIX}/health"
    kept = http.client.HTTPConnection("127.0.0.1", place.port, timeout=PATIENCE)
    kept.request("GET", f"{PREFIX}/health/ready")
    answer = kept.getresponse()
    assert (answer.status, answer.getheader("Connection")) == (200, None)
    answer.read()
    started.send(signal.SIGTERM)
    until(lambda: get(f"{health}/ready")[0] == 503, "it is not ready any more")
    assert json.loads(get(f"{health}/ready")[1]) == {"status": "draining"}
    assert get(health)[0] == 503
    assert json.loads(get(health)[1])["status"] == "draining"
    assert get(f"{health}/live")[0] == 200
    kept.request("GET", "/")
    answer = kept.getresponse()
    assert (answer.status, answer.getheader("Connection"), answer.read()) == (200, "close", b"small")
    kept.close()
    assert listening(place.port)
    started.insist()
    assert "Stopping (SIGTERM)." in started.stdout
    started.left_nothing()


def test_a_delay_ends_by_itself(place: Place) -> None:
    """New work is accepted for as long as the delay, and not longer."""
    started = place.start("--demo", "--app", "small:app", PREFLIGHT_DRAIN_DELAY="1s").until_ready()
    begin = time.monotonic()
    started.send(signal.SIGTERM)
    assert started.wait() == 0
    assert time.monotonic() - begin >= 1
    started.left_nothing()


def test_a_delay_that_is_longer_than_the_time_for_requests(place: Place) -> None:
    """The time for requests in flight begins when the delay is over: neither takes anything from the other."""
    started = slow(place, PREFLIGHT_DRAIN_DELAY="3s", PREFLIGHT_GRACEFUL_TIMEOUT="1500ms")
    asked = Asked(place.port)
    begun(started)
    started.send(signal.SIGTERM)
    until(lambda: not listening(place.port), "nobody is let in any more")
    open_gate(place)
    assert asked.answered()
    assert started.wait() == 0
    assert "not finished" not in started.output
    assert "did not finish everything" not in started.output
    started.left_nothing()


def test_no_delay_on_loopback(place: Place) -> None:
    """Where only this machine can reach it there is no load balancer to wait for."""
    started = place.start("--demo", "--app", "small:app").until_ready()
    begin = time.monotonic()
    assert started.stop() == 0
    assert time.monotonic() - begin < 2


def test_slow_request_is_answered(place: Place) -> None:
    """After SIGINT: a request in flight is answered, its connection is closed with the answer, and only then it ends.

    A WebSocket of an application that knows nothing of draining is closed with 1012 and a reason.
    """
    started = slow(place)
    asked = Asked(place.port)
    begun(started)
    with connect(f"ws://127.0.0.1:{place.port}/any") as chat:
        started.send(signal.SIGINT)
        until(lambda: not listening(place.port), "nobody is let in any more")
        assert started.process.poll() is None
        open_gate(place)
        assert asked.answered()
        assert asked.connection == "close"
        code, reason = closed_with(lambda: chat.recv(timeout=PATIENCE))
    assert code == 1012
    assert reason
    assert started.wait() == 0
    assert "disconnect 1012" in started.output
    assert "not finished" not in started.output
    started.left_nothing()


def test_accept_queue_is_answered(place: Place) -> None:
    """Requests that nobody has accepted yet when the end comes are answered as well."""
    started = slow(place)
    worker = worker_of(started)
    os.kill(worker, signal.SIGSTOP)
    clients = []
    for _ in range(20):
        client = http.client.HTTPConnection("127.0.0.1", place.port, timeout=PATIENCE)
        client.request("GET", "/")  # connected by the kernel; the worker sees nothing of it
        clients.append(client)
    started.send(signal.SIGTERM)
    started.until_says("Stopping")
    os.kill(worker, signal.SIGCONT)
    for client in clients:
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (200, b"done")
        client.close()
    assert started.wait() == 0
    started.left_nothing()


@unprivileged
def test_without_privileges(place: Place) -> None:
    """Who stops it needs no privileges for that: what is in flight and in the queue is answered, a chat told why."""
    place.before = WITHOUT
    started = slow(place)
    chat = connect(f"ws://127.0.0.1:{place.port}/any")
    asked = Asked(place.port)
    begun(started)
    worker = worker_of(started)
    os.kill(worker, signal.SIGSTOP)
    waiting = http.client.HTTPConnection("127.0.0.1", place.port, timeout=PATIENCE)
    waiting.request("GET", "/")
    started.send(signal.SIGTERM)
    started.until_says("Stopping")
    os.kill(worker, signal.SIGCONT)
    answer = waiting.getresponse()
    assert (answer.status, answer.read()) == (200, b"done")
    waiting.close()
    open_gate(place)
    assert asked.answered()
    with chat:
        assert closed_with(lambda: chat.recv(timeout=PATIENCE))[0] == 1012
    assert started.wait() == 0
    assert "Traceback" not in started.output
    assert "not finished" not in started.output
    started.left_nothing()


def test_last_request_on_an_idle_connection(place: Place) -> None:
    """As long as a drain goes on, a client's idle connection is good for one more request, and told to be over then.

    So is what is in flight when SIGTERM comes.
    """
    started = slow(place)
    client = http.client.HTTPConnection("127.0.0.1", place.port, timeout=PATIENCE)
    client.request("GET", "/")
    assert client.getresponse().read() == b"done"  # kept open: an idle connection from now on
    asked = Asked(place.port)
    begun(started)
    started.send(signal.SIGTERM)
    until(lambda: not listening(place.port), "the drain has begun")
    client.request("GET", "/")
    answer = client.getresponse()
    assert (answer.status, answer.read(), answer.getheader("connection")) == (200, b"done", "close")
    client.close()
    open_gate(place)
    assert asked.answered()
    assert asked.connection == "close"
    assert started.wait() == 0
    assert "not finished" not in started.output
    started.left_nothing()


def test_connection_without_a_request_yet(place: Place) -> None:
    """A connection whose request is only half there when the end comes does not keep it from coming."""
    started = slow(place, PREFLIGHT_GRACEFUL_TIMEOUT="60s")
    with socket.create_connection(("127.0.0.1", place.port), 10) as half:
        half.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        begin = time.monotonic()
        assert started.stop() == 0
        assert time.monotonic() - begin < 30
    started.left_nothing()


def test_load(place: Place) -> None:
    """SIGTERM under load: every request that the application began to answer is answered in full."""
    started = slow(place)
    answered: set[str] = set()
    numbers = itertools.count()

    def ask() -> None:
        while True:
            number = str(next(numbers))
            client = http.client.HTTPConnection("127.0.0.1", place.port, timeout=PATIENCE)
            try:
                client.request("GET", f"/counted/{number}", headers={"Connection": "close"})
                if client.getresponse().read() == b"done":
                    answered.add(number)
            except ConnectionRefusedError:
                break  # turned away at the door
            except (OSError, http.client.HTTPException):
                continue  # let in, and said nothing before idle connections were closed
            finally:
                client.close()

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    until(lambda: len(answered) >= 100, "there is some load")
    assert started.stop() == 0
    for thread in threads:
        thread.join(PATIENCE)
    began = set(re.findall(r"began /counted/([0-9]+)", started.stderr))
    assert len(began) >= 100
    assert began - answered == set()
    started.left_nothing()


# WebSockets.


def closed_with(receive: Callable[[], object]) -> tuple[int, str]:
    """Code and reason of the close frame that ends this connection."""
    with pytest.raises(ConnectionClosed) as caught:
        receive()
    frame = caught.value.rcvd
    assert frame is not None, "it was cut off"
    return frame.code, frame.reason


def test_turn_is_finished_and_chats_are_told_why(place: Place) -> None:
    """A chat turn in flight is finished, and its result is delivered before the connection is closed.

    A chat is closed with 1012 (service restart) and a reason, so that its client knows to come back.
    """
    started = place.start("--demo", PREFLIGHT_GRACEFUL_TIMEOUT="60s").until_ready()
    url = f"ws://127.0.0.1:{place.port}/ws/chat"
    with connect(url) as idle, connect(url) as chat:
        assert json.loads(idle.recv(timeout=PATIENCE))["type"] == "connected"
        chat.send(json.dumps({"type": "init"}))
        chat.send(json.dumps({"type": "chat", "content": "what failed?"}))
        until(lambda: json.loads(chat.recv(timeout=PATIENCE))["type"] == "progress", "the agent has begun to answer")
        begin = time.monotonic()
        started.send(signal.SIGTERM)
        until(lambda: json.loads(chat.recv(timeout=PATIENCE))["type"] == "result", "the result is delivered")
        for one in (idle, chat):
            code, reason = closed_with(lambda one=one: one.recv(timeout=PATIENCE))  # type: ignore[misc]
            assert code == 1012
            assert "connect again" in reason
    assert started.wait() == 0
    assert time.monotonic() - begin < 30, "a chat that nobody writes in is no reason to wait"
    assert "not finished" not in started.output
    started.left_nothing()


# When it is not over in time.


def test_cancelled_and_counted(place: Place) -> None:
    """What is not finished after graceful_timeout is cancelled, and the last line says how much that was."""
    started = slow(place, PREFLIGHT_GRACEFUL_TIMEOUT="500ms")
    asked = [Asked(place.port) for _ in range(2)]
    begun(started, 2)
    begin = time.monotonic()
    assert started.stop() == 0
    assert 0.4 < time.monotonic() - begin < 30
    assert "2 requests or turns were not finished in time." in started.stdout
    assert started.stderr.count("slow was cancelled") == 2
    for one in asked:
        one.join(PATIENCE)
        assert one.status != 200
    started.left_nothing()


def test_one_that_does_not_let_itself_be_cancelled(place: Place) -> None:
    """A worker that hangs beyond its time is killed."""
    place.write_module(
        "hanging",
        "import time\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'http' and scope['path'] == '/hang':\n"
        "        print('hanging', flush=True)\n"
        "        time.sleep(3600)\n",
    )
    started = place.start("--demo", "--app", "hanging:app", PREFLIGHT_GRACEFUL_TIMEOUT="200ms").until_ready()
    asked = Asked(place.port, "/hang")
    started.until_says("hanging")
    begin = time.monotonic()
    assert started.stop() == 0
    assert time.monotonic() - begin < 30
    assert "The worker did not finish everything in time." in started.stdout
    asked.join(PATIENCE)
    started.left_nothing()


def test_second_signal(place: Place) -> None:
    """A second signal does not wait for what is in flight."""
    started = slow(place, PREFLIGHT_GRACEFUL_TIMEOUT="60s")
    asked = Asked(place.port)
    begun(started)
    started.send(signal.SIGTERM)
    started.until_says("Stopping")
    begin = time.monotonic()
    assert started.insist() == 0
    assert time.monotonic() - begin < 30
    asked.join(PATIENCE)
    assert asked.status == 0
    started.left_nothing()


@pytest.mark.parametrize(
    "asked, said, number",
    [
        (0, "nothing was in flight", signal.SIGINT),
        (1, "1 request or turn was cut off", signal.SIGTERM),
        (2, "2 requests or turns were cut off", signal.SIGINT),
    ],
)
def test_what_a_second_signal_cuts_off(place: Place, asked: int, said: str, number: signal.Signals) -> None:
    """It is counted; while new work was still accepted there may have been none."""
    started = slow(place, PREFLIGHT_GRACEFUL_TIMEOUT="60s", PREFLIGHT_DRAIN_DELAY="60s")
    clients = [Asked(place.port) for _ in range(asked)]
    begun(started, asked)
    with connect(f"ws://127.0.0.1:{place.port}/ws") as chat:
        chat.send("hello")
        started.send(number)
        started.until_says("Stopping")
        assert started.insist(number) == 0
    assert f"Ended at once by a second {number.name}: {said}.\n" in started.stdout
    assert "in time" not in started.stdout
    for client in clients:
        client.join(PATIENCE)
        assert client.status == 0
    started.left_nothing()


def test_a_second_signal_while_the_worker_hangs(place: Place) -> None:
    """Who does not answer is not waited for, and nothing is said of what it was busy with."""
    started = slow(place, PREFLIGHT_GRACEFUL_TIMEOUT="60s", PREFLIGHT_DRAIN_DELAY="60s")
    os.kill(worker_of(started), signal.SIGSTOP)
    started.send(signal.SIGTERM)
    started.until_says("Stopping")
    assert started.insist() == 0
    assert "Ended at once by a second SIGTERM: the worker did not say what was in flight." in started.stdout
    started.left_nothing()


@pytest.mark.parametrize("moment", ["serving", "draining"])
def test_launcher_is_killed(place: Place, moment: str) -> None:
    """kill -9 of the launcher: the worker answers what is in flight and ends; no process stays, the port is free."""
    started = slow(place)
    asked = Asked(place.port)
    begun(started)
    if moment == "draining":
        started.send(signal.SIGTERM)
        started.until_says("Stopping")
    assert started.stop(signal.SIGKILL) == -signal.SIGKILL
    assert started.family()
    open_gate(place)
    assert asked.answered()
    started.left_nothing()


def test_launcher_is_killed_and_a_request_hangs(place: Place) -> None:
    """kill -9 of the launcher with a request that never ends: the worker ends all the same, in time."""
    started = slow(place, PREFLIGHT_GRACEFUL_TIMEOUT="300ms")
    asked = Asked(place.port)
    begun(started)
    assert started.stop(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: not started.family(), "the worker has gone")
    asked.join(PATIENCE)
    started.left_nothing()
