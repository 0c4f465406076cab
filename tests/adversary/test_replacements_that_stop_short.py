"""A new server that answers once, or in part, and then no more: the one that it was to replace goes on."""

from __future__ import annotations

import pytest

from tests.e2e.doubles import SMALL
from tests.e2e.place import Place, get

pytestmark = pytest.mark.usefixtures("unmeasured")

HEAD = f"import asyncio, fcntl, os, threading, time\n{SMALL}\nsmall = app\nasync def app(scope, receive, send):\n"
SERVES = "    await small(scope, receive, send)\n"
IF_ASKED = "    if scope['type'] == 'http':\n        "
STARTS = "    if scope['type'] == 'lifespan':\n        await receive()\n        "
HANGS = {
    "behind its answer": SERVES + IF_ASKED + "asyncio.get_running_loop().call_soon(time.sleep, 3600)\n",
    "in its answer": IF_ASKED + "await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
    "        time.sleep(3600)\n" + SERVES,
    "in its start-up": "    if scope['type'] == 'lifespan':\n        await receive()\n        time.sleep(3600)\n"
    + SERVES,
    "in a thread of its start-up": "    if scope['type'] == 'lifespan':\n        await receive()\n"
    "        await asyncio.to_thread(threading.Event().wait)\n" + SERVES,
}
QUICK = {
    "PREFLIGHT_READY_TIMEOUT": "1s",
    "PREFLIGHT_HEARTBEAT": "1s",
    "PREFLIGHT_STARTUP_TIMEOUT": "2s",
    "PREFLIGHT_GRACEFUL_TIMEOUT": "500ms",
    "PREFLIGHT_RESTART_BACKOFF": "0",
}
OLD = ("--demo", "--supervise", "--app", "small:app")
NEW = ("--demo", "--supervise", "--app", "new:app")


@pytest.mark.parametrize("where", HANGS)
def test_a_new_server_that_hangs(place: Place, where: str) -> None:
    """Whether it has answered before or not: it is given up with exit code 4, and nobody is refused."""
    place.write_module("new", HEAD + HANGS[where])
    old = place.start(*OLD).until_ready()
    new = place.start(*NEW, **QUICK)
    assert new.wait() == 4, new.output
    assert "is still serving" in new.output
    assert get(place.url) == (200, "small")
    assert old.stop() == 0


def test_a_second_worker_that_never_answers(place: Place) -> None:
    """Only one of them gets what it needs to answer: the instance before both goes on."""
    lock = place.folder / "lock"
    waits = IF_ASKED + f"with open({str(lock)!r}, 'w') as one:\n"
    waits += "            await asyncio.to_thread(fcntl.flock, one, fcntl.LOCK_EX)\n"
    waits += "            os.dup(one.fileno())\n"
    place.write_module("new", HEAD + waits + SERVES)
    old = place.start(*OLD).until_ready()
    new = place.start(*NEW, "--workers", "2", **QUICK)
    assert new.wait() == 4, new.output
    assert "gave no answer within 1 s" in new.output
    assert get(place.url) == (200, "small")
    assert old.stop() == 0


def test_a_server_of_websockets_alone(place: Place) -> None:
    """It has no answer in HTTP: the fix says that it need not be asked, and then it takes over."""
    place.write_module("new", HEAD + "    assert scope['type'] != 'http'\n" + SERVES)
    old = place.start(*OLD).until_ready()
    new = place.start(*NEW)
    assert new.wait() == 4, new.output
    assert "PREFLIGHT_READY_PATH (a path, or off)" in new.output
    assert get(place.url) == (200, "small")
    second = place.start(*NEW, PREFLIGHT_READY_PATH="off").until_ready()
    assert old.wait() == 0
    assert second.stop() == 0
