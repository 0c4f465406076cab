"""Several workers behind one launcher and one socket: whichever is asked answers for the instance."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.e2e.beside import ECHO, PREFIX, link_of, nonce_of
from tests.e2e.chatting import Client, Live, client
from tests.e2e.clients import Clients
from tests.e2e.place import Place, Started, get, make_place
from tests.e2e.processes import only, workers_of
from tests.waiting import until

TWO = ("--workers", "2")


def in_each(started: Started, path: str) -> list[str]:
    """What each worker answers."""
    found = []
    for pid in workers_of(started):
        with only(started, pid):
            found.append(get(f"{started.url}{path}")[1])
    return found


def everywhere(started: Started, path: str, holds: Callable[[str], bool], what: str) -> None:
    """Wait until each worker answers so."""
    until(lambda: all(map(holds, in_each(started, path))), what)


def metric(text: str, name: str) -> float:
    """The value of one series."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found is not None, f"{name} is not in\n{text}"
    return float(found[1])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """The agent server with two workers."""
    place = make_place(tmp_path_factory.mktemp("served") / "place")
    started = place.start(
        "--demo", "--supervise", *TWO, PREFLIGHT_RERUN_INTERVAL="10m", PREFLIGHT_RUN_TIMEOUT="2m"
    ).until_ready()
    yield started
    assert started.stop() == 0
    started.left_nothing()
    place.close()


def test_all_serve(served: Started) -> None:
    """The banner says how many; each answers, and counts the connections and sessions of all."""
    assert re.search(r"^Workers +2 serve$", served.stdout, re.MULTILINE)
    one, two = workers_of(served)
    pids = [json.loads(text)["server"]["pid"] for text in in_each(served, "/diagnostics")]
    assert pids == [one, two]
    with contextlib.ExitStack() as stack:
        for pid in (one, one, two):
            with only(served, pid):
                stack.enter_context(client(served.url)).init()

        def all_counted(text: str) -> bool:
            health = json.loads(text)
            return (health["active_connections"], health["active_sessions"], health["warnings"]) == (3, 3, [])

        everywhere(served, "/health", all_counted, "each worker counts three of each")
        everywhere(
            served, "/metrics", lambda text: metric(text, "preflight_chat_connections") == 3, "and so do the metrics"
        )
    everywhere(served, "/health", lambda text: json.loads(text)["active_connections"] == 0, "nobody is left")


def test_a_rerun_is_one_for_all(served: Started) -> None:
    """Asked in one worker, it is followed in the other, known to both, and neither begins another one too soon."""
    one, two = workers_of(served)
    request = urllib.request.Request(f"{served.url}/diagnostics/run", method="POST")
    with connect_to(served, two, "/ws/diagnostics") as follower:
        assert json.loads(follower.recv(60))["type"] == "snapshot"
        with only(served, one), urllib.request.urlopen(request, timeout=60) as answer:
            run_id = json.loads(answer.read())["run_id"]
        came = until_over(follower)
    assert {message["run_id"] for message in came if "run_id" in message} == {run_id}
    assert (came[0]["type"], came[-1]["type"]) == ("run_started", "run_finished")
    assert len({message["check"]["title"] for message in came if message["type"] == "checked"}) > 10
    states = [json.loads(text) for text in in_each(served, f"/diagnostics/run/{run_id}")]
    assert [state["state"] for state in states] == ["finished"] * 2
    assert states[0]["checks"] == states[1]["checks"]
    assert [json.loads(text)["run_id"] for text in in_each(served, "/diagnostics")] == [run_id] * 2
    for pid in (one, two):
        with only(served, pid), pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=60)
        assert refused.value.code == 429
        refused.value.close()
    counted = [metric(text, 'preflight_reruns_total{status="passed"}') for text in in_each(served, "/metrics")]
    assert counted == [1, 1]


@contextlib.contextmanager
def connect_to(started: Started, pid: int, path: str, **options: Any) -> Iterator[ClientConnection]:
    """A WebSocket to this worker."""
    with contextlib.ExitStack() as stack:
        with only(started, pid):
            url = started.url.replace("http", "ws", 1) + path
            follower = stack.enter_context(connect(url, open_timeout=60, **options))
        yield follower


def until_over(follower: ClientConnection) -> list[dict[str, Any]]:
    """What a follower hears, to the end of a re-run."""
    came = [json.loads(follower.recv(120))]
    while came[-1]["type"] != "run_finished":
        came.append(json.loads(follower.recv(120)))
    return came


def test_a_crash(served: Started) -> None:
    """kill -9 of one of two: nobody waits, nothing that was counted is lost, and another one takes its place."""
    name = "preflight_chat_turn_duration_seconds_count"
    one, two = workers_of(served)
    before = metric(get(f"{served.url}/metrics")[1], name)
    for pid in (one, two, two):
        with only(served, pid), client(served.url) as chat:
            chat.init()
            chat.answer("help")
    assert [metric(text, name) - before for text in in_each(served, "/metrics")] == [3, 3]
    with Clients(served.port, reconnecting=1) as clients:
        os.kill(two, signal.SIGKILL)
        served.until_says("Worker 2 of 2 ended (SIGKILL, possibly because memory ran out)")
        # At once, while there is one: the other starts for a second at least.
        health = json.loads(get(f"{served.url}/health")[1])
        clients.go_on(20)
        served.until_says("Worker 2 of 2 is back")
        clients.go_on(20)
    assert health["status"] == "healthy"
    assert clients.refused == []
    assert "another one starts at once. 1 other worker serves." in served.stdout
    everywhere(served, "/metrics", lambda text: metric(text, "preflight_workers_ready") == 2, "both serve")
    for text in in_each(served, "/metrics"):
        assert metric(text, name) - before == 3
        assert metric(text, "preflight_worker_restarts_total") == 1
        assert metric(text, 'process_start_time_seconds{worker="2"}') > metric(
            text, 'process_start_time_seconds{worker="1"}'
        )
    with only(served, workers_of(served)[1]), client(served.url) as chat:
        chat.init()
        chat.answer("help")
    assert [metric(text, name) - before for text in in_each(served, "/metrics")] == [4, 4]


def test_who_follows_a_session_hears_it_from_every_worker(served: Started) -> None:
    """Messages, answers and the end of a session, whichever worker the others are connected to."""
    one, two = workers_of(served)
    with contextlib.ExitStack() as stack:
        with only(served, one):
            first = stack.enter_context(client(served.url))
            session = first.init()["session_id"]
            first.answer("help")
        with only(served, two):
            second = stack.enter_context(client(served.url))
            assert second.init(session_id=session)["resumed"] is True
        answers = first.ask("status")
        came = second.until("result")
        said = [message for message in came if message["type"] == "accepted"]
        assert [message["content"] for message in said] == ["status"]
        assert said[0]["turn_id"] == came[-1]["turn_id"] == answers[-1]["turn_id"]
        assert came[-1]["content"] == answers[-1]["content"]
        with only(served, one):
            requests.delete(f"{served.url}/sessions/{session}", timeout=60)
        for one_of_them in (first, second):
            assert one_of_them.until("error")[-1]["code"] == "session_deleted"
            assert one_of_them.closed()[0] == 1000


@pytest.fixture
def live(place: Place) -> Iterator[Live]:
    """Two workers, whose model does as a test says."""
    one = Live(place, PREFLIGHT_WORKERS="2")
    yield one
    one.started.stop()


def test_turns_in_two_workers(live: Live) -> None:
    """A client that comes back to another worker hears the end of its turn, and its next message waits for that.

    If the first worker is killed in the middle of a turn, the other takes the turn over, once.
    """
    one, two = workers_of(live.started)
    live.provider.will({"type": "delay", "seconds": 3, "times": 1})
    with only(live.started, one):
        before = Client(live.url)
    session = before.init()["session_id"]
    before.send("chat", content="the first question", id="a").until("progress")
    before.close()
    with only(live.started, two):
        after = Client(live.url)
    assert after.init(session_id=session)["resumed"] is True
    assert after.receive("status")["status"] == "waiting"
    after.send("chat", content="the second question", id="b")
    ends = [after.until("result")[-1], after.until("result")[-1]]
    assert [end["id"] for end in ends] == ["a", "b"]
    told = requests.get(f"{live.url}/sessions/{session}", timeout=60).json()["transcript"]
    assert [(line["role"], line["turn_id"]) for line in told] == [
        *(("user", end["turn_id"]) for end in ends),
        *(("assistant", end["turn_id"]) for end in ends),
    ], "each was answered once, in their order"

    live.provider.will({"type": "delay", "seconds": 5, "times": 1})
    with only(live.started, one):
        before = Client(live.url)
    before.init(session_id=session)
    before.send("chat", content="the third question", id="c").until("progress")
    assert after.until("status")[-1]["status"] == "waiting"
    os.kill(one, signal.SIGKILL)
    came = after.until("result")
    assert next(message["status"] for message in came if message["type"] == "status") == "resumed"
    assert came[-1]["id"] == "c"
    before.close()
    after.close()


def test_logins(place: Place) -> None:
    """The one-time code counts once in all workers; who is logged in is so in each, and logged out in each."""
    place.write_module("echo", ECHO)
    started = place.start("--demo", "--supervise", "--app", "echo:app", *TWO).until_ready()
    workers = workers_of(started)
    assert [json.loads(text)["status"] for text in in_each(started, f"{PREFIX}/health")] == ["healthy"] * 2
    link, answers = link_of(started), []

    def spend() -> None:
        browser = requests.Session()
        answers.append((browser.get(link, timeout=60, allow_redirects=False).status_code, browser))

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(code for code, _browser in answers) == [303, *[401] * 7] or sorted(
        {code for code, _browser in answers}
    ) == [303, 401, 429]
    ((_code, browser),) = [answer for answer in answers if answer[0] == 303]
    browser.close()  # its connection leads to one of the workers, which may be the one that is held below

    def seen(pid: int) -> int:
        with only(started, pid):
            return requests.get(
                f"{started.url}{PREFIX}/diagnostics",
                cookies=browser.cookies,
                timeout=60,
                headers={"Connection": "close"},
            ).status_code

    assert [seen(pid) for pid in workers] == [200, 200]
    with only(started, workers[0]):
        nonce = nonce_of(browser, started)
        follower_headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in browser.cookies.items())}
    options = {
        "additional_headers": {**follower_headers, "Origin": started.url},
        "subprotocols": [f"preflight.nonce.{nonce}"],
    }
    with connect_to(started, workers[1], f"{PREFIX}/ws/diagnostics", **options) as follower:
        with only(started, workers[0]):
            origin = {"Origin": started.url}
            requests.post(f"{started.url}{PREFIX}/logout", cookies=browser.cookies, timeout=60, headers=origin)
        with contextlib.suppress(ConnectionClosed):
            while follower.recv(60):
                pass
        assert follower.close_code == 3000
    until(lambda: [seen(pid) for pid in workers] == [401, 401], "the login counts nowhere")
    os.kill(workers[1], signal.SIGKILL)
    started.until_says("Worker 2 of 2 is back")
    assert seen(workers_of(started)[1]) == 401, "nor in a worker that comes later"
    assert started.stop() == 0


HALF = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return
    first = scope["state"]["preflight"].board.number == 1
    await send({"type": "http.response.start", "status": 200 if first else 500, "headers": []})
    await send({"type": "http.response.body", "body": b"new"})
"""


def test_replaced(place: Place) -> None:
    """Another instance with two workers takes over: nothing is refused or cut off, and the old one leaves nothing.

    One of which one worker does not answer is not let in: no worker of it accepts anything before all have answered,
    and the old one goes on.
    """
    place.write_module("echo", ECHO)
    place.write_module("half", HALF)
    old = place.start("--demo", "--app", "echo:app", *TWO).until_ready()
    with Clients(place.port) as clients:
        half = place.start("--demo", "--app", "half:app", *TWO)
        assert half.wait() == 4
        clients.go_on(10)
        assert "and answered with 500" in half.stdout
        assert get(f"{place.url}/")[1] != "new"
        assert "Replaced" not in old.stdout
        new = place.start("--demo", "--app", "echo:app", *TWO).until_ready()
        assert old.wait() == 0
        clients.go_on(30)
    assert clients.refused == []
    assert clients.failed == []
    assert "Replaced by another start" in old.stdout
    assert len(workers_of(new)) == 2
    assert new.stop() == 0
    new.left_nothing()


HALF_STARTED = """
import os, time
first = True
try:
    os.close(os.open(os.environ["FIRST"], os.O_CREAT | os.O_EXCL))
except FileExistsError:
    first = False

async def app(scope, receive, send):
    await receive()
    if not first:
        print("blocks", flush=True)
        time.sleep(3600)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("shutting down", flush=True)
    await send({"type": "lifespan.shutdown.complete"})
"""


def test_stopped_before_all_have_started_up(place: Place) -> None:
    """The worker that serves drains, and the other one, whose start-up blocks its event loop, ends as soon."""
    place.write_module("half", HALF_STARTED)
    first = str(place.folder / "first")
    started = place.start("--demo", "--app", "half:app", *TWO, FIRST=first, PREFLIGHT_GRACEFUL_TIMEOUT="10m")
    started.until_says("blocks")
    assert started.stop() == 0
    assert "shutting down" in started.output
    assert "did not finish everything" not in started.output
    started.left_nothing()


def test_wrong_numbers(place: Place) -> None:
    """One clear line, exit code 2."""
    started = place.start("--demo", "--workers", "10_000")
    assert started.wait() == 2
    allowed = 'must be a whole number from 1 to 256, or "auto" for one for each processor'
    assert started.output.strip().splitlines()[-1].endswith(f"--workers {allowed}")
