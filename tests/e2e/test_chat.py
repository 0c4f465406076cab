"""The chat on the real server, over a real WebSocket: protocol, memory, limits, crashes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from preflight.web.instance import SERVICE_RESTART
from server.sessions.model import TurnEnd
from server.sessions.owner import identity
from server.sessions.store import Store
from tests.e2e.chatting import Client, Live, Message, client, counts, frame, kill_worker, raw, worker_of
from tests.e2e.place import ROOT, Place, Started, get, make_place
from tests.waiting import PATIENCE, until


@pytest.fixture(scope="module")
def demo_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = make_place(tmp_path_factory.mktemp("demo") / "place")
    yield place
    place.close()


@pytest.fixture(scope="module")
def demo(demo_place: Place) -> Started:
    """A server on the embedded model."""
    return demo_place.start("--demo", "--supervise").until_ready()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    place = make_place(tmp_path_factory.mktemp("live") / "place")
    yield Live(place, PREFLIGHT_TURN_TIMEOUT="8s")
    place.close()


def delete(url: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=PATIENCE) as answer:
        return str(answer.read().decode())


# A turn that lasts until a test has done what it came for, or for its deadline.
SLOW = {"type": "delay", "seconds": 2}


# -- the protocol ---------------------------------------------------------------------------------------------


def test_a_first_message_waits_for_the_agent(demo: Started) -> None:
    """It is accepted at once, and answered when the agent has been imported."""
    with client(demo.url) as one:
        assert one.connected["requires_init"] is True
        assert re.fullmatch(r"[0-9a-f]{32}", one.connected["session_id"])
        assert one.init() == {
            "type": "initialized",
            "session_id": one.connected["session_id"],
            "resumed": False,
            "message": "A new session has begun.",
            "messages": [],
        }
        assert "The server is serving" in one.answer("status")


def test_a_turn(demo: Started) -> None:
    """`accepted`, `status`, `progress` and `token` in their order, then `result`, which is what the tokens make."""
    with client(demo.url) as one:
        one.init(workspace_path="/work", stream=True)
        came = one.ask("which key is missing and where do I put it?", id="mine")
        kinds = [message["type"] for message in came]
        assert kinds[:3] == ["accepted", "status", "progress"]
        assert [m["node"] for m in came if m["type"] == "progress"] == ["supervisor", "diagnostics", "responder"]
        tokens = [m for m in came if m["type"] == "token"]
        assert [m["index"] for m in tokens] == list(range(len(tokens)))
        assert len(tokens) > 1
        result = came[-1]
        assert "".join(m["content"] for m in tokens) == result["content"]
        assert (result["success"], result["id"], came[0]["id"]) == (True, "mine", "mine")
        assert result["session_id"] == one.connected["session_id"]
        assert {m["turn_id"] for m in came} == {result["turn_id"]}
        assert "OPENAI_API_KEY" in result["content"]
        assert ".ki_autoagent/config/.env" in result["content"]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "chat", "content": "help"},
        {"type": "message", "message": "help"},
        {"type": "task", "task": "help"},
        {"type": "chat", "query": "help"},
        {"type": "chat", "task": "help", "extra": [1]},
        {"type": "chat", "content": "help", "agent": "architect", "metadata": {"mode": ["auto"]}},
        {"type": "chat", "content": " ", "query": "help"},
        {"content": "help"},
        {"message": "help", "type": None},
        {"task": "help"},
        {"query": "help", "content": None},
    ],
    ids=lambda message: json.dumps(message),
)
def test_the_aliases(demo: Started, message: dict[str, object]) -> None:
    """Text comes under four names, in messages of three types or of none; what else is in them is left alone."""
    with client(demo.url) as one:
        one.init()
        one.socket.send(json.dumps(message))
        assert one.until("result", "error")[-1]["type"] == "result"


def test_what_is_no_message_gets_an_error_and_keeps_the_connection(demo: Started) -> None:
    """One code for each way of being wrong."""
    with client(demo.url) as one:
        one.init()
        frames: list[tuple[str | bytes, str]] = [
            ("no json", "bad_json"),
            ("[" * 50_000, "bad_json"),
            ("[1, 2]", "bad_json"),
            (b'{"type": "ping"}', "not_text"),
            ('{"type": "dance"}', "unknown_type"),
            ('{"type": ["ping"]}', "unknown_type"),
            ("{}", "unknown_type"),
            ('{"content": " "}', "unknown_type"),
            ('{"content": "help", "type": ""}', "unknown_type"),
            ('{"id": "help"}', "unknown_type"),
            ('{"query": "help", "content": 5}', "invalid"),
            ('{"type": "chat"}', "empty"),
            ('{"type": "chat", "content": " \\n "}', "empty"),
            ('{"type": "chat", "content": 5}', "invalid"),
            ('{"type": "chat", "content": "\\ud800"}', "bad_json"),
            (json.dumps({"type": "chat", "content": "x" * 70_000}), "too_large"),
            (json.dumps({"type": "chat", "content": "é" * 40_000}, ensure_ascii=False), "too_large"),
            ('{"type": "history", "limit": 1000}', "invalid"),
            (json.dumps({"type": "init", "workspace_path": "x" * 5000}), "invalid"),
            ('{"type": "cancel"}', "nothing_to_cancel"),
        ]
        for frame, code in frames:
            one.socket.send(frame)
            assert one.refusal() == code, frame[:50]
        assert one.send("ping", id="p").receive("pong")["id"] == "p"
        assert one.send("dance", id="d").receive("error")["id"] == "d"


def test_before_init_everything_else_is_init_required(demo: Started) -> None:
    """Whatever it is, and what else is wrong with it is said as well; an `init` with a fault has its own code."""
    frames: list[tuple[str | bytes, str]] = [
        *((json.dumps({"type": kind, "content": "early"}), "init") for kind in ("chat", "ping", "cancel", "history")),
        ('{"type": "dance"}', "must be one of: "),
        ("{}", "must be one of: "),
        ("no json", "not valid JSON"),
        ("[1, 2]", "JSON object"),
        (b'{"type": "init"}', "text frames"),
        (json.dumps({"type": "chat", "content": "x" * 70_000}), "bytes"),
    ]
    with client(demo.url) as one:
        for frame, said in frames:
            one.socket.send(frame)
            refused = one.receive("error")
            assert refused["code"] == "init_required", frame[:50]
            assert '{"type": "init"}' in refused["message"]
            assert said in refused["message"]
        assert one.send("init", session_id=5).refusal() == "invalid"
        assert one.init()["resumed"] is False


def test_every_message_is_within_the_schema(demo: Started) -> None:
    """The schema that is served describes what clients may send, too."""
    import jsonschema

    schema = json.loads(get(f"{demo.url}/chat/schema.json")[1])
    validator = jsonschema.Draft202012Validator({**schema, "$ref": "#/$defs/client"})
    validator.validate({"type": "init", "session_id": None})
    validator.validate({"type": "task", "task": "x", "id": "1"})
    assert not validator.is_valid({"type": "dance"})
    assert not validator.is_valid({"type": "chat", "content": 5})


# -- memory ---------------------------------------------------------------------------------------------------


def test_resume_follow_and_history(demo: Started) -> None:
    """Another connection resumes the session, sees what was said, and follows what is said from then on."""
    with client(demo.url) as first:
        session = first.init()["session_id"]
        first.answer("uptime")
        with client(demo.url) as second:
            begun = second.init(session_id=session)
            assert (begun["resumed"], begun["session_id"]) == (True, session)
            assert [m["role"] for m in begun["messages"]] == ["user", "assistant"]
            assert begun["messages"][0]["content"] == "uptime"
            assert counts(demo.url) == (2, 1)
            first.send("chat", content="versions")
            assert second.until("result")[0]["type"] == "accepted"
            first.until("result")
            page = second.send("history", limit=1, before=begun["messages"][1]["seq"]).receive("history")
            assert [m["content"] for m in page["messages"]] == ["uptime"]
            assert page["more"] is False
            assert second.send("history", limit=3).receive("history")["more"] is True
        until(lambda: counts(demo.url) == (1, 1), "the second has left")
    until(lambda: counts(demo.url) == (0, 0), "both have left")
    with client(demo.url) as third:
        begun = third.init(session_id="0" * 32)
        assert (begun["resumed"], begun["session_id"]) == (False, third.connected["session_id"])


def test_a_message_that_is_sent_again_is_done_once(demo: Started) -> None:
    """With the same id it is accepted as what it was, with the answer that it had."""
    with client(demo.url) as one:
        one.init()
        first = one.ask("uptime", id="a")
        again = one.ask("uptime", id="a")
        assert [m["type"] for m in again] == ["accepted", "result"]
        assert again[0]["duplicate"] is True
        assert again[1] == first[-1]
        assert len(one.send("history").receive("history")["messages"]) == 2


def test_sessions_are_listed_exported_and_deleted(demo: Started) -> None:
    """Over HTTP; deleting one ends those who follow it."""
    with client(demo.url) as one, client(demo.url) as other:
        session = one.init(workspace_path="/somewhere")["session_id"]
        one.answer("uptime")
        listed = json.loads(get(f"{demo.url}/sessions?limit=1")[1])
        entry = listed["sessions"][0]
        assert (entry["session_id"], entry["messages"], entry["active"]) == (session, 2, True)
        assert entry["workspace_path"] == "/somewhere"
        exported = json.loads(get(f"{demo.url}/sessions/{session}")[1])
        assert [line["role"] for line in exported["transcript"]] == ["user", "assistant"]
        assert json.loads(delete(f"{demo.url}/sessions/{session}")) == {"deleted": 1}
        assert one.refusal() == "session_deleted"
        assert one.closed()[0] == 1000
        assert get(f"{demo.url}/sessions/{session}")[0] == 404
        assert get(f"{demo.url}/sessions?limit=x")[0] == 400
        assert other.init(session_id=session)["resumed"] is False


# -- limits ---------------------------------------------------------------------------------------------------


def test_a_flood_closes_the_connection(demo: Started) -> None:
    """With 1008, after what had come within the rate was answered; the session is still there."""
    with client(demo.url) as one:
        one.init()
        # The close may come before the last of them has been sent.
        with contextlib.suppress(ConnectionClosed):
            for _ in range(300):
                one.socket.send('{"type": "ping"}')
        assert one.closed() == (1008, "too many messages; slow down")


def test_a_frame_that_is_too_large_is_not_even_read(demo: Started) -> None:
    """Its length alone closes the connection, with 1009."""
    with raw(demo.port) as one:
        one.sendall(bytes([0x81, 0xFF]) + (2 * 1024 * 1024).to_bytes(8, "big") + bytes(4))
        said = b""
        while part := one.recv(4096):
            said += part
    assert (1009).to_bytes(2, "big") in said


def test_a_client_that_does_not_read_is_dropped_and_loses_nothing(demo: Started) -> None:
    """The server lets go of it, others go on, and it finds everything when it resumes."""
    with client(demo.url) as talker:
        session = talker.init()["session_id"]
        slow = raw(demo.port, buffer=4096)
        slow.sendall(frame({"type": "init", "session_id": session}))
        # `accepted` repeats the text to all who follow: this is what fills its socket and then its queue.
        said = 0
        while said < 10 or counts(demo.url)[0] == 2:
            assert talker.ask("help " + "x" * 60_000)[-1]["type"] == "result"
            said += 1
            assert said < 150, "nobody was dropped"
        slow.close()
        with client(demo.url) as again:
            begun = again.init(session_id=session)
            assert begun["messages"][-1]["role"] == "assistant"
        exported = json.loads(get(f"{demo.url}/sessions/{session}")[1])
        assert len(exported["transcript"]) == 2 * said


def test_caps(place: Place) -> None:
    """Connections and the text of a session have bounds that are settings.

    Health is quick while the agent is imported, which happens when somebody has spoken first.
    """
    limits = {"PREFLIGHT_CHAT_CONNECTIONS": "2", "PREFLIGHT_SESSION_SIZE": "100", "PREFLIGHT_SESSION_LIMIT": "2"}
    started = place.start("--demo", "--supervise", **limits).until_ready()
    health_is_quick_while_the_agent_is_imported(started)
    until(lambda: counts(started.url) == (0, 0), "it has left")
    with client(started.url) as one, client(started.url) as two:
        with connect(started.url.replace("http", "ws") + "/ws/chat") as third, pytest.raises(Exception, match="1013"):
            third.recv(10)
        assert counts(started.url)[0] == 2
        one.init()
        two.init()
        assert one.ask("help " + "x" * 200)[-1]["code"] == "session_full"
        one.answer("ok?")
        assert one.ask("uptime")[-1]["code"] == "session_full"
        two.answer("ok?")
    with client(started.url) as three:
        three.init()
        three.answer("ok?")
        assert json.loads(get(f"{started.url}/sessions")[1])["total"] == 2


def health_is_quick_while_the_agent_is_imported(started: Started) -> None:
    """Importing happens beside the serving."""
    with client(started.url) as one:
        one.init()
        one.send("chat", content="status")
        answers = 0
        while True:
            assert get(f"{started.url}/health")[0] == 200
            answers += 1
            try:
                message = json.loads(one.socket.recv(0.02))
            except TimeoutError:
                continue
            if message["type"] == "result":
                break
        # Were the import in the way, one answer would come before it and one after.
        assert answers >= 5


def test_a_full_disk_is_said_and_the_connection_lives_on(demo: Started) -> None:
    """Nothing is accepted that is not on disk; when there is room again, it goes on."""
    with client(demo.url) as one:
        one.init()
        one.answer("help")
        worker = psutil.Process(worker_of(demo.url))
        before = worker.rlimit(psutil.RLIMIT_FSIZE)
        worker.rlimit(psutil.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        try:
            refused = one.ask("help", id="x")
        finally:
            worker.rlimit(psutil.RLIMIT_FSIZE, before)
        assert [m["type"] for m in refused] == ["error"]
        assert (refused[0]["code"], refused[0]["retry"], refused[0]["id"]) == ("storage", True, "x")
        assert "sessions.sqlite" in refused[0]["message"]
        assert one.ask("help", id="x")[-1]["type"] == "result"
        assert get(f"{demo.url}/health")[0] == 200


# -- turns ----------------------------------------------------------------------------------------------------


def test_turns_queue_and_can_be_cancelled(live: Live) -> None:
    """One runs, the next waits; a cancelled one ends with an error of its own, and the next one begins."""
    live.provider.will(SLOW)
    with client(live.url) as one:
        one.init()
        one.send("chat", content="first", id="1").send("chat", content="second", id="2").send(
            "chat", content="3", id="3"
        )
        came = one.until("accepted") + one.until("accepted") + one.until("accepted")
        accepted = [m for m in came if m["type"] == "accepted"]
        assert [(m["id"], m["position"]) for m in accepted] == [("1", 0), ("2", 1), ("3", 2)]
        one.send("cancel", id="3").send("cancel")
        ended = one.until("error")[-1]
        assert (ended["code"], ended["turn_id"], ended["id"]) == ("cancelled", accepted[0]["turn_id"], "1")
        second = one.until("result", "error")[-1]
        assert (second["type"], second["id"]) == ("result", "2")
        third = one.until("result", "error")[-1]
        assert (third["code"], third["id"]) == ("cancelled", "3")


def test_the_queue_is_bounded(live: Live) -> None:
    """Beyond sixteen a message is not accepted, and its sender is told."""
    live.provider.will({**SLOW, "times": None})
    with client(live.url) as one:
        session = one.init()["session_id"]
        for number in range(17):
            one.send("chat", content="x", id=str(number))
        refused = one.until("error")[-1]
        assert (refused["code"], refused["id"], refused["retry"]) == ("queue_full", "16", True)
        assert delete(f"{live.url}/sessions/{session}")


def test_the_text_that_waits_is_bounded(live: Live) -> None:
    """So that all of it can be shown to who resumes, in a frame that clients take."""
    live.provider.will({**SLOW, "times": None})
    with client(live.url) as one:
        session = one.init()["session_id"]
        for number in range(5):
            one.send("chat", content="x" * 60_000, id=str(number))
        refused = one.until("error")[-1]
        assert (refused["code"], refused["id"], refused["retry"]) == ("queue_full", "4", True)
        with client(live.url) as two:
            begun = two.init(session_id=session)
            assert [m["id"] for m in begun["messages"]] == ["0", "1", "2", "3"]
        assert delete(f"{live.url}/sessions/{session}")


def test_what_may_wait_and_how_often_followers_speak_are_settings(place: Place) -> None:
    """The number and the text of waiting messages, and the messages of a follower of the diagnostics."""
    limits = {"PREFLIGHT_CHAT_QUEUE": "2", "PREFLIGHT_CHAT_QUEUE_SIZE": "1 KiB", "PREFLIGHT_FOLLOWER_RATE": "1"}
    live = Live(place, PREFLIGHT_TURN_TIMEOUT="8s", **limits)
    live.provider.will({"type": "delay", "seconds": 8, "times": None})
    with client(live.url) as one, client(live.url) as two:
        one.init()
        for number in range(3):
            one.send("chat", content="x", id=str(number))
        refused = one.until("error")[-1]
        assert (refused["code"], refused["id"]) == ("queue_full", "2")
        two.init()
        two.send("chat", content="x" * 1000, id="0").send("chat", content="x" * 1000, id="1")
        refused = two.until("error")[-1]
        assert (refused["code"], refused["id"]) == ("queue_full", "1")
        assert "1024 bytes" in refused["message"]
    with connect(live.url.replace("http", "ws") + "/ws/diagnostics") as follower:
        for _ in range(20):
            follower.send('{"type": "ping"}')
        kinds: list[str] = []
        with contextlib.suppress(ConnectionClosed):
            while len(kinds) < 22:
                kinds.append(json.loads(follower.recv(10))["type"])
        assert follower.close_code == 1008
    assert 10 <= kinds.count("pong") < 20


def test_a_session_that_is_deleted_in_a_turn_is_gone(live: Live) -> None:
    """Nothing of it stays on disk, in no table, and nobody is counted."""
    live.provider.will({**SLOW, "times": None})
    with client(live.url) as one:
        session = one.init()["session_id"]
        one.send("chat", content="a word to forget", id="1").send("chat", content="and another")
        one.until("progress")
        assert delete(f"{live.url}/sessions/{session}")
        assert one.closed()[0] == 1000
    until(lambda: counts(live.url) == (0, 0), "nobody is counted")
    live.provider.will()
    with sqlite3.connect(live.place.state / "sessions.sqlite") as db:
        for table, column in (
            ("sessions", "id"),
            ("transcript", "session"),
            ("turns", "session"),
            ("checkpoints", "thread_id"),
            ("writes", "thread_id"),
        ):
            rows = db.execute(f"SELECT count(*) FROM {table} WHERE {column} = ?", (session,))
            assert rows.fetchone() == (0,), table
    db.close()


def test_a_turn_has_a_deadline(live: Live) -> None:
    """Then its sender is told that there was no answer in time."""
    live.provider.will({"type": "stream_fault", "kind": "stall", "after_chunks": 1, "stall_seconds": 60})
    with client(live.url) as one:
        one.init()
        end = one.ask("hello")[-1]
        assert end["code"] in ("timeout", "provider_timeout")
        assert end["retry"] is True


# -- restarts and crashes -------------------------------------------------------------------------------------


def test_a_crash_in_a_turn_loses_nothing(live: Live) -> None:
    """kill -9: the session resumes with the message among its last ones, and the turn is done; the second time it
    is answered with an error that carries its id, while the one behind it, which never ran, gets its answer."""
    live.provider.will(SLOW)
    with client(live.url) as one:
        session = one.init()["session_id"]
        one.send("chat", content="survive this", id="s").until("progress")
        one.send("chat", content="and this", id="t").until("accepted")
        kill_worker(live.started)
    with client(live.url) as two:
        begun = two.init(session_id=session)
        assert begun["resumed"] is True
        assert [m["content"] for m in begun["messages"]] == ["survive this", "and this"]
        came = two.until("result")
        assert [m["status"] for m in came if m["type"] == "status"].count("resumed") == 2
        assert came[-1]["id"] == "s"
        assert two.until("result")[-1]["id"] == "t"
    live.provider.will({**SLOW, "times": None})
    with client(live.url) as three:
        three.init(session_id=session)
        turn = three.send("chat", content="poison").until("progress")[0]["turn_id"]
        three.send("chat", content="innocent", id="i").until("accepted")
        for _ in range(2):
            live.started.stderr  # noqa: B018  # what it said so far is read
            pid = worker_of(live.url)
            psutil.Process(pid).kill()
            until(lambda pid=pid: worker_of(live.url) != pid, "another worker serves")  # type: ignore[misc]
            last = Client(live.url)
            assert [m["content"] for m in last.init(session_id=session)["messages"]][-2:] == ["poison", "innocent"]
            came = last.until("progress", "error")
        end = came[-1]
        assert (end["type"], end["code"], end["turn_id"]) == ("error", "interrupted", turn)
        live.provider.will()
        end = last.until("result", "error")[-1]
        assert (end["type"], end["id"]) == ("result", "i")
        last.close()


def test_a_drain_finishes_the_turn_and_says_when_to_come_back(place: Place) -> None:
    """The connection in a turn closes after its result, an idle one at once, both with 1012; a start later the
    session is there."""
    live = Live(place, PREFLIGHT_TURN_TIMEOUT="8s")
    live.provider.will({"type": "delay", "seconds": 1})
    with client(live.url) as busy, client(live.url) as idle:
        session = busy.init()["session_id"]
        idle.init()
        busy.send("chat", content="the last one").until("progress")
        live.started.send(signal.SIGTERM)
        assert idle.closed() == SERVICE_RESTART
        assert busy.until("result", "error")[-1]["type"] == "result"
        assert busy.closed()[0] == 1012
    assert live.started.wait() == 0
    again = place.start("--supervise").until_ready()
    with client(again.url) as one:
        begun = one.init(session_id=session)
        assert [m["role"] for m in begun["messages"]] == ["user", "assistant"]


@pytest.mark.parametrize("ends", [False, True], ids=["answers", "ends"])
def test_a_turn_of_another_process(demo_place: Place, demo: Started, ends: bool) -> None:
    """As while an instance is replaced: its answer is waited for, and the turn taken over only when it has ended."""
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    session, turn, owner = f"a{ends:031}", f"turn {ends}", identity(other.pid)

    async def both() -> None:
        store = Store(demo_place.state / "sessions.sqlite", age=1e9, limit=100, size=1 << 20, owner=owner)
        await store.accept(session, turn, "uptime", client=None, workspace=None, keep=())
        for number in range(15):
            other_turn = f"{number} {turn}"
            await store.accept(session, other_turn, "more", client=None, workspace=None, keep=())
            await store.finish(session, other_turn, TurnEnd("assistant", "done"))
        with client(demo.url) as one:
            begun = one.init(session_id=session)
            # More than are shown otherwise: it has no answer yet.
            assert [m["content"] for m in begun["messages"]] == ["uptime", *["more", "done"] * 15]
            assert one.receive("status")["status"] == "waiting"
            if ends:
                other.communicate(b"\n")
                assert one.receive("status")["status"] == "resumed"
                assert "This instance has run for" in one.until("result")[-1]["content"]
            else:
                await store.finish(session, turn, TurnEnd("assistant", "from elsewhere"))
                end = one.receive("result")
                assert (end["turn_id"], end["content"]) == (turn, "from elsewhere")
        await store.close()

    try:
        asyncio.run(both())
    finally:
        other.kill()
        other.communicate()


@contextlib.contextmanager
def store_busy(url: str, path: Path) -> Iterator[None]:
    """Keep the server's store from doing anything: what it is asked meanwhile is done in one go after that."""
    with client(url) as writer, contextlib.closing(sqlite3.connect(path, isolation_level=None)) as lock:
        writer.init()
        lock.execute("BEGIN IMMEDIATE")
        writer.send("chat", content="help")
        yield
        for _ in range(2):
            get(f"{url}/health")  # by now it has read what was sent before
        lock.execute("ROLLBACK")
        writer.until("result")


@pytest.mark.parametrize("theirs", [False, True], ids=["own", "of another process"])
def test_two_who_resume_at_the_same_moment(demo_place: Place, demo: Started, theirs: bool) -> None:
    """An unfinished turn is taken up once, whoever worked on it: one is told of it, and it ends once."""
    path = demo_place.state / "sessions.sqlite"
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    session, turn = f"resumed twice {theirs}", f"unfinished {theirs}"
    # A turn of this very server is unfinished where its answer could not be saved.
    owner = identity(other.pid if theirs else worker_of(demo.url))

    async def both() -> list[Message]:
        store = Store(path, age=1e9, limit=100, size=1 << 20, owner=owner)
        await store.accept(session, turn, "uptime", client=None, workspace=None, keep=())
        with client(demo.url) as one, client(demo.url) as two:
            with store_busy(demo.url, path):
                for each in (one, two):
                    each.send("init", session_id=session)
            for each in (one, two):
                assert each.receive("initialized")["resumed"] is True
            if theirs:
                assert one.receive("status")["status"] == "waiting"
                await store.finish(session, turn, TurnEnd("assistant", "from elsewhere"))
            came = one.until("result")
            assert [message for message in two.until("result") if message.get("status") != "waiting"] == came
            # What goes on after it would be in the way of the next one.
            after = one.ask("help")
            assert [message["turn_id"] for message in after] == [after[0]["turn_id"]] * len(after)
            assert two.until("result") == after
        await store.close()
        return came

    try:
        came = asyncio.run(both())
    finally:
        other.kill()
        other.communicate()
    assert {message["turn_id"] for message in came} == {turn}
    expected = [] if theirs else ["resumed", "working"]
    assert [message["status"] for message in came if message["type"] == "status"] == expected


# -- the documented client ------------------------------------------------------------------------------------


def test_the_five_line_client_works_as_printed(demo: Started, tmp_path: Path) -> None:
    """The Python one of docs/chat.md."""
    chat = (ROOT / "docs" / "chat.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(import json, sys.*?)```", chat, re.DOTALL)
    assert found is not None
    assert len(found[1].splitlines()) == 5
    program = tmp_path / "chat.py"
    program.write_text(found[1])
    url = f"ws://127.0.0.1:{demo.port}/ws/chat"
    done = subprocess.run(
        [sys.executable, program, url, "what failed?"], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.stderr == ""
    assert "Nothing critical failed" in done.stdout
