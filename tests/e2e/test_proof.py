"""A server retires another one only when it has answered itself, on a connection of its own."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

from preflight import __version__
from tests.e2e.clients import Clients
from tests.e2e.place import READY, Place, Started, get
from tests.e2e.processes import child, worker_of
from tests.waiting import PATIENCE, until

REJECTED = "THE NEW SERVER DOES NOT ANSWER: the old server keeps running"

# Answers as it is told to, and says what it was asked.
ANSWERING = """
import asyncio, os
how = os.environ.get("HOW", "")

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if how == "slow start":
            print("starting up", flush=True)
            while not os.path.exists(os.environ["GATE"]):
                await asyncio.sleep(0.01)
        if how == "fails to start":
            await send({"type": "lifespan.startup.failed", "message": "the model is not there"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shut down in order", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    print("asked", scope["path"], headers.get("host"), headers.get("user-agent"), scope["client"][0], flush=True)
    status = 200
    if scope["path"] != "/good":
        if how == "sleeps":
            await asyncio.Event().wait()
        if how == "crashes":
            os._exit(7)
        if how == "raises":
            raise RuntimeError("no")
        if how.isdigit():
            status = int(how)
        if how == "warms up":
            status = 200 if os.path.exists(os.environ["GATE"]) else 503
        if how == "waits":
            while not os.path.exists(os.environ["GATE"]):
                await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"answering"})
"""


def answering(place: Place, how: str = "", **environ: str) -> Started:
    """A start of an application that answers in a way of its own."""
    place.write_module("answering", ANSWERING)
    gate = str(place.folder / "gate")
    quick = {"PREFLIGHT_READY_TIMEOUT": "2s", "PREFLIGHT_GRACEFUL_TIMEOUT": "500ms", "PREFLIGHT_RESTART_BACKOFF": "0"}
    started = place.start(
        "--demo", "--app", "answering:app", "--supervise", **{**quick, "HOW": how, "GATE": gate, **environ}
    )
    return started


def instance_id(place: Place) -> object:
    """Which instance has its record in the runtime folder: one alone."""
    (record,) = (place.folder / "runtime" / "preflight").glob(f"{place.port}.*.json")
    return json.loads(record.read_text())["instance_id"]


def asked(started: Started) -> list[str]:
    return [line for line in started.stderr.splitlines() if line.startswith("asked ")]


SILENT = {"sleeps": "gave no answer within 2 s", "raises": "answered with 500", "503": "answered with 503"}
"""What comes of an application instead of an answer."""


def test_replacement_that_does_not_answer(place: Place) -> None:
    """It ends, in order, with exit code 4 and what came; the old one goes on, and its clients notice nothing."""
    old = place.start("--demo", "--app", "small:app").until_ready()
    worker, before = worker_of(old), instance_id(place)
    with Clients(place.port, path="/") as clients:
        for how, came in SILENT.items():
            new = answering(place, how)
            assert new.wait() == 4, how
            assert READY not in new.output
            banner = new.stdout.partition(REJECTED)[2]
            assert f"The new server was asked for /, and {came}." in banner
            assert f"our instance (PID {old.pid}, since " in banner
            assert f"is still serving 127.0.0.1:{place.port}." in banner
            assert "PREFLIGHT_READY_PATH" in banner
            assert {line.split()[3] for line in asked(new)} == {f"preflight/{__version__}"}, "no client's request"
            assert "shut down in order" in new.stderr
            assert not new.family()
        clients.go_on()
    clients.lost_nothing()
    assert worker_of(old) == worker
    assert instance_id(place) == before
    assert "Replaced" not in old.output
    assert old.stop() == 0
    old.left_nothing()


def test_nothing_is_accepted_before(place: Place) -> None:
    """As long as it has not answered, every client is the old one's, and what is asked says who asks."""
    old = place.start("--demo", "--app", "small:app").until_ready()
    with Clients(place.port, path="/") as clients:
        new = answering(place, "waits", PREFLIGHT_READY_TIMEOUT="60s").until_says("asked ")
        clients.go_on(100)
        (line,) = asked(new)
        assert line == f"asked / 127.0.0.1:{place.port} preflight/0.1.0 (readiness) 127.0.0.1"
        assert READY not in new.output
        Path(new_gate(place)).touch()
        new.until_ready()
        assert old.wait() == 0
        clients.go_on()
    clients.lost_nothing()
    assert new.stop() == 0
    new.left_nothing()


def new_gate(place: Place) -> str:
    return str(place.folder / "gate")


def test_any_answer_will_do_and_its_path_is_a_setting(place: Place) -> None:
    """What an answer says is the application's affair, as long as it is none of a broken server.

    Another path can be asked for; nothing is asked where nothing shall be: an event loop that turns is enough then.
    """
    old = place.start("--demo", "--app", "small:app").until_ready()
    for how, path, answered in (("404", "/", 1), ("sleeps", "/good?now=1", 1), ("sleeps", "off", 0)):
        new = answering(place, how, PREFLIGHT_READY_PATH=path).until_ready()
        assert old.wait() == 0
        assert len(asked(new)) == answered, path
        assert get(f"{place.url}/good") == (200, "answering")
        old = new
    assert old.stop() == 0


def test_a_server_that_warms_up(place: Place) -> None:
    """One that says 503 until it has loaded its model is asked again, and nobody is refused meanwhile."""
    old = place.start("--demo", "--app", "small:app").until_ready()
    with Clients(place.port, path="/") as clients:
        new = answering(place, "warms up", PREFLIGHT_READY_TIMEOUT="60s").until_says("asked ")
        until(lambda: len(asked(new)) > 2, "it is asked again")
        assert READY not in new.output
        Path(new_gate(place)).touch()
        new.until_ready()
        assert old.wait() == 0
        clients.go_on()
    clients.lost_nothing()
    assert new.stop() == 0


def test_agent_answers_for_itself(place: Place) -> None:
    """Our own application is asked for its readiness, past every guard: whatever token it has, whoever it is for."""
    guarded = {"PREFLIGHT_TOKEN": "a-token-of-more-than-16-characters", "PREFLIGHT_TRUSTED_PROXIES": "10.0.0.0/8"}
    old = place.start("--demo", **guarded).until_ready()
    new = place.start("--demo", "--host", "127.0.0.1", **guarded).until_ready()
    assert old.wait() == 0
    assert new.stop() == 0


def test_first_start_asks_nothing(place: Place) -> None:
    """Nobody's server is at stake: an application is ready when it has started, however slow its first answer."""
    started = answering(place, "waits").until_ready()
    assert asked(started) == []
    answers: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: answers.append(get(place.url)))
    asking.start()
    started.until_says("asked ")
    Path(new_gate(place)).touch()
    asking.join(PATIENCE)
    assert answers == [(200, "answering")]
    assert started.stop() == 0


# The old one in the meantime.


def test_stopped_before_it_is_ready(place: Place) -> None:
    """A replacement that is stopped leaves the old one's clients alone, those in the queue included."""
    old = place.start("--demo", "--app", "small:app").until_ready()
    gate = Path(new_gate(place))
    with Clients(place.port, path="/") as clients:
        for when, said in (("slow start", "starting up"), ("sleeps", "asked /")):
            new = answering(place, when, PREFLIGHT_READY_TIMEOUT="60s", PREFLIGHT_GRACEFUL_TIMEOUT="5s")
            new.until_says(said)
            new.send(signal.SIGTERM)
            new.until_says("Stopping (SIGTERM)")
            gate.touch()
            new.wait()
            assert READY not in new.output
            clients.go_on()
            gate.unlink()
    clients.lost_nothing()
    assert get(place.url) == (200, "small")
    assert old.stop() == 0
    old.left_nothing()


def test_replacement_that_crashes(place: Place) -> None:
    """One that does not come up, or crashes when it is asked, is given up, and it is said who still serves."""
    old = place.start("--demo", "--app", "small:app").until_ready()
    worker = worker_of(old)
    titles = {"fails to start": "THE SERVER DOES NOT START: the launcher has given up", "crashes": REJECTED}
    with Clients(place.port, path="/") as clients:
        for how, title in titles.items():
            new = answering(place, how)
            assert new.wait() == 4, how
            banner = new.stdout.partition(title)[2]
            assert f"our instance (PID {old.pid}, since " in banner
            assert f"is still serving 127.0.0.1:{place.port}." in banner
            assert "Connections wait" not in new.stdout
        clients.go_on()
    clients.lost_nothing()
    assert worker_of(old) == worker
    assert old.stop() == 0
    old.left_nothing()


def test_old_one_ends_meanwhile(place: Place) -> None:
    """Where the old one ends by itself there is nothing left to be careful of: the new one serves."""
    old = place.start("--demo", "--app", "small:app").until_ready()
    new = answering(place, "sleeps", PREFLIGHT_READY_TIMEOUT="60s").until_says("asked /")
    assert old.stop() == 0
    new.until_ready()
    assert get(f"{place.url}/good") == (200, "answering")
    assert new.stop() == 0
    new.left_nothing()


def test_old_one_crashes_meanwhile(place: Place) -> None:
    """A crash of the old one's worker is its own affair: it has another one, and the new one must still answer."""
    old = place.start("--demo", "--app", "small:app", "--supervise").until_ready()
    new = answering(place, "waits", PREFLIGHT_READY_TIMEOUT="60s").until_says("asked /")
    os.kill(worker_of(old), signal.SIGKILL)
    until(lambda: child(old, "preflight.worker") is not None, "the old one has a worker again")
    assert get(place.url) == (200, "small")
    assert READY not in new.output
    Path(new_gate(place)).touch()
    new.until_ready()
    assert old.wait() == 0
    assert new.stop() == 0
    new.left_nothing()
