"""One start after another on one address: the second replaces the first, and no client notices."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time

from tests.e2e.beside import BEARER, PREFIX, TOKEN, ask
from tests.e2e.clients import Clients
from tests.e2e.place import READY, Place, Started, get
from tests.e2e.processes import child, pytest_preflight, start_is_over, worker_of
from tests.waiting import PATIENCE, until


def broken_application(place: Place) -> None:
    place.write_module("guarded", "raise RuntimeError('not today')")


def instance(started: Started) -> tuple[object, object]:
    """Which instance answers at its address: the ID, and the worker's PID."""
    told = ask(started, f"{PREFIX}/diagnostics", headers=BEARER).json()["server"]
    return told["instance_id"], told["pid"]


def test_replaced_under_load_again_and_again(place: Place) -> None:
    """The second start gets the socket, serves, and the first one ends by itself: no request is lost on the way.

    What was handed over can be handed over again.
    """
    place.environ["PREFLIGHT_TOKEN"] = TOKEN
    old = place.start("--demo", "--app", "small:app").until_ready()
    with Clients(place.port, path="/", keeping=3) as clients:
        for _ in range(2):
            before = instance(old)
            new = place.start("--demo", "--app", "small:app").until_ready()
            assert old.wait() == 0
            clients.go_on()
            assert f"Replaced by another start (PID {new.pid}); stopping." in old.stdout
            assert f"127.0.0.1:{place.port} is served by our instance (PID {old.pid}, since " in new.stdout
            assert "which keeps serving until this start is ready" in new.stdout
            assert "SIGTERM" not in old.output + new.output
            after = instance(new)
            assert after[0] != before[0]
            assert after[1] == worker_of(new)
            assert not old.family()
            old = new
    clients.lost_nothing()
    assert old.stop() == 0
    old.left_nothing()


def test_failing_preflight_leaves_the_old_one(place: Place) -> None:
    """A start that is refused does not touch the instance that serves, and says that it is still serving."""
    place.environ["PREFLIGHT_TOKEN"] = TOKEN
    broken_application(place)
    old = place.start("--demo", "--app", "small:app").until_ready()
    before = instance(old)
    with Clients(place.port, path="/") as clients:
        new = place.run("--demo", "--app", "guarded:app")
        clients.go_on()
    clients.lost_nothing()
    assert new.process.returncode == 1
    assert READY not in new.output
    assert f"our instance (PID {old.pid}, since " in new.stdout
    assert f") is still serving 127.0.0.1:{place.port}." in new.stdout
    assert not new.family()
    assert instance(old) == before
    assert worker_of(old) == before[1]
    assert get(f"{place.url}{PREFIX}/health")[0] == 200
    assert get(f"{place.url}{PREFIX}/health/ready")[0] == 200
    assert old.stop() == 0
    assert "Replaced" not in old.output
    old.left_nothing()


def test_killed_starter_leaves_the_old_one(place: Place) -> None:
    """A starter that is killed with the socket in its hands is no concern of the instance's."""
    place.write_module("guarded", "import time\nprint('importing', flush=True)\ntime.sleep(3600)\n")
    old = place.start("--demo", "--app", "small:app").until_ready()
    new = place.start("--demo", "--app", "guarded:app").until_says("is served by")
    until(lambda: child(new, "preflight.suite") is not None, "its suite runs")
    assert new.stop(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: not new.family(), "its children have gone")
    assert get(place.url) == (200, "small")
    assert old.stop() == 0
    old.left_nothing()


def test_stopped_launcher_gets_signals(place: Place) -> None:
    """An instance whose launcher does not answer is stopped like any other holder of the port."""
    old = place.start("--demo", "--app", "small:app").until_ready()
    until(lambda: start_is_over(place), "it has let go of the start lock")
    old.send(signal.SIGSTOP)
    new = place.start("--demo", "--app", "small:app").until_ready()
    assert re.search(rf"SIGTERM: \S+ \(PID {old.pid}\)", new.stdout)
    assert old.wait() in (0, -signal.SIGTERM, -signal.SIGKILL)
    until(lambda: not old.family(), "the old one's children have gone")
    assert get(place.url) == (200, "small")
    assert new.stop() == 0
    new.left_nothing()


def test_if_running(place: Place) -> None:
    """With keep a running instance is good enough, with fail it is an error; either way it says who serves.

    Where nothing runs, keep and fail start like any other.
    """
    old = place.start("--demo", "--app", "small:app", "--if-running", "keep").until_ready()
    worker = worker_of(old)
    for how, code in (("keep", 0), ("fail", 1)):
        new = place.run("--demo", "--app", "small:app", "--if-running", how)
        assert new.process.returncode == code, new.output
        said = f"our instance (PID {old.pid}, since "
        assert said in new.stdout
        assert f"serves 127.0.0.1:{place.port}" in new.stdout
        assert ("ALREADY RUNNING" in new.stdout) is (how == "fail")
        assert "requirements" not in new.stdout
        assert worker_of(old) == worker
    assert old.stop() == 0
    old.left_nothing()
    following = place.start("--demo", "--app", "small:app", "--if-running", "fail").until_ready()
    assert following.stop() == 0
    following.left_nothing()


def test_many_at_once(place: Place) -> None:
    """Eight starts in the same moment are one wish: one serves, the others say so, and none kills another."""
    gate = place.folder / "gate"
    place.write_module(
        "guarded",
        "import os, time\nwhile not os.path.exists(os.environ['GATE']):\n    time.sleep(0.01)\nfrom small import app\n",
    )
    everybody = [place.start("--demo", "--app", "guarded:app", GATE=str(gate)) for _ in range(8)]

    def entered() -> bool:
        said = [one.stdout for one in everybody]
        return sum("waiting for it" in text for text in said) == 7 and sum("Preflight " in text for text in said) == 1

    until(entered, "one starts and seven wait for it")
    gate.touch()
    for one in everybody:
        until(lambda one=one: READY in one.stdout or one.process.poll() is not None, "it serves or has ended")  # type: ignore[misc]
    until(lambda: sum(one.process.poll() is None for one in everybody) == 1, "seven have ended")
    (serving,) = (one for one in everybody if one.process.returncode is None)
    assert READY in serving.stdout
    for one in everybody:
        assert "SIGTERM" not in one.output
        assert "SIGKILL" not in one.output
        if one is not serving:
            assert one.wait() == 0, one.output
            assert f"our instance (PID {serving.pid}, since " in one.stdout
            assert "it came up meanwhile. Nothing to do." in one.stdout
            assert READY not in one.stdout
    assert get(place.url) == (200, "small")
    assert serving.stop() == 0
    serving.left_nothing()


def test_checks_beside_an_instance(place: Place) -> None:
    """--check-only and ``pytest preflight`` pass beside a live instance, name it, and leave it alone."""
    old = place.start("--demo", "--app", "small:app").until_ready()
    worker = worker_of(old)
    with Clients(place.port, keeping=1, reconnecting=1, path="/") as clients:
        check = place.run("--demo", "--app", "small:app", "--check-only")
        assert check.process.returncode == 0, check.output
        found = place.check("Server Port")
        assert found["outcome"] == "passed"
        assert f"served by our instance (PID {old.pid})" in json.dumps(found)
        plain = pytest_preflight(place)
        assert plain.process.returncode == 0, plain.output
        found = place.check("Server Port")
        assert found["outcome"] == "passed"
        assert f"served by our instance (PID {old.pid})" in json.dumps(found)
    clients.lost_nothing()
    assert "SIGTERM" not in check.output + plain.output
    assert worker_of(old) == worker
    assert old.stop() == 0
    old.left_nothing()


def test_stopped_while_the_next_one_starts(place: Place) -> None:
    """The old one is stopped while the new one checks: whoever connected in between is answered by the new one."""
    gate = place.folder / "gate"
    place.write_module(
        "guarded",
        "import os, time\n"
        "print('importing', flush=True)\n"
        "while not os.path.exists(os.environ['GATE']):\n"
        "    time.sleep(0.01)\n"
        "from small import app\n",
    )
    old = place.start("--demo", "--app", "small:app").until_ready()
    with Clients(place.port, path="/", keeping=2) as clients:
        new = place.start("--demo", "--app", "guarded:app", GATE=str(gate)).until_says("is served by")
        until(lambda: child(new, "preflight.suite") is not None, "its suite runs")
        assert old.stop() == 0
        gate.touch()
        new.until_ready()
        clients.go_on()
    clients.lost_nothing()
    assert new.stop() == 0
    new.left_nothing()


def test_old_one_elsewhere_finishes_what_it_does(place: Place) -> None:
    """One on an overlapping address is stopped; for as long as it may take to finish, no deadline of the start is over.

    Else it had been stopped for a start that is then refused.
    """
    gate = place.folder / "gate"
    place.write_module(
        "guarded",
        "import asyncio, os\n"
        "from small import app as small\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'http' and scope['path'] == '/slow':\n"
        "        print('slow began', flush=True)\n"
        "        while not os.path.exists(os.environ['GATE']):\n"
        "            await asyncio.sleep(0.01)\n"
        "    await small(scope, receive, send)\n",
    )
    old = place.start("--demo", "--app", "guarded:app", GATE=str(gate), PREFLIGHT_GRACEFUL_TIMEOUT="40s").until_ready()
    answers: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: answers.append(get(f"{place.url}/slow", timeout=60)))
    asking.start()
    old.until_says("slow began")
    deadlines = {"PREFLIGHT_REQUIREMENT_TIMEOUT": "2s", "PREFLIGHT_RUN_TIMEOUT": "6s", "PREFLIGHT_PORT_GRACE": "1s"}
    new = place.start("--demo", "--app", "small:app", "--host", "0.0.0.0", **deadlines)
    new.until_says(f"(PID {old.pid}): sent")
    time.sleep(7.5)  # all of them would be over, and the suite killed
    assert new.process.poll() is None, new.output
    gate.touch()
    new.until_ready()
    asking.join(PATIENCE)
    assert answers == [(200, "small")]
    assert old.wait() == 0
    assert "SIGKILL" not in new.output
    assert place.check("Port Cleanup")["outcome"] == "passed"
    assert new.stop() == 0
    new.left_nothing()


def test_old_one_finishes_what_it_does(place: Place) -> None:
    """A request that the old instance is answering is answered by it, however soon the new one serves."""
    gate = place.folder / "gate"
    place.write_module(
        "guarded",
        "import asyncio, os\n"
        "from small import app as small\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'http' and scope['path'] == '/slow':\n"
        "        print('slow began', flush=True)\n"
        "        while not os.path.exists(os.environ['GATE']):\n"
        "            await asyncio.sleep(0.01)\n"
        "    await small(scope, receive, send)\n",
    )
    old = place.start("--demo", "--app", "guarded:app", GATE=str(gate)).until_ready()
    answers: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: answers.append(get(f"{place.url}/slow")))
    asking.start()
    old.until_says("slow began")
    new = place.start("--demo", "--app", "small:app").until_ready()
    old.until_says("Replaced by another start")
    assert old.process.poll() is None
    begun = time.monotonic()
    gate.touch()
    asking.join(PATIENCE)
    assert answers == [(200, "small")]
    assert old.wait() == 0
    assert time.monotonic() - begun < 20
    assert "not finished" not in old.output
    assert os.getpgid(new.pid) == new.pid
    assert new.stop() == 0
    new.left_nothing()
