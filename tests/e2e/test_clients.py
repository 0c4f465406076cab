"""Both dialects of /ws/chat over real WebSockets: clients that stream, and the older ones that do not."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from preflight.web.instance import SERVICE_RESTART
from tests.e2e.chatting import Client, Live, Message, client
from tests.e2e.place import ROOT, Place, Started, get, make_place

CONVERSATIONS = re.findall(r"```text\n(← .*?)```", (ROOT / "docs" / "chat.md").read_text(), re.DOTALL)
LEGACY = {"workspace_path": "/home/me/project"}
"""What the existing clients send with `init`."""
QUESTION = "which key is missing and where do I put it?"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """A server on the embedded model."""
    place = make_place(tmp_path_factory.mktemp("clients") / "place")
    yield place.start("--demo").until_ready()
    place.close()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server with a key, on a service that does as it is told."""
    place = make_place(tmp_path_factory.mktemp("live") / "place")
    yield Live(place, PREFLIGHT_TURN_TIMEOUT="8s")
    place.close()


class Panel(Client):
    """The editor extension's chat panel, as its version 7 takes messages."""

    def __init__(self, url: str) -> None:
        self.shown: list[str] = []
        """What its user reads."""
        self.processing = False
        super().__init__(url)
        self.shown.append(self.connected["message"])

    def next(self) -> Message:
        message = super().next()
        match message["type"]:
            case "status" | "info":
                self.shown.append(message["message"].replace("\n", " "))
            case "response":
                self.shown.append(f"{message['agent']}: {message['content']}")
            case "result":
                assert isinstance(message["success"], bool)
                self.processing = False
            case "connected" | "initialized" | "error":
                pass
            case kind:
                raise AssertionError(f"Unhandled message type: {kind}")
        return message

    def begin(self) -> Panel:
        self.init(**LEGACY)
        return self

    def say(self, **fields: Any) -> list[Message]:
        """Send something and wait for as long as the panel does."""
        self.processing = True
        self.socket.send(json.dumps(fields))
        came = []
        while self.processing:
            came.append(self.next())
        return came


@pytest.fixture
def panel(demo: Started) -> Iterator[Panel]:
    one = Panel(demo.url)
    yield one.begin()
    one.close()


def kinds(messages: list[Message]) -> list[str]:
    return [message["type"] for message in messages]


# -- the documented conversations -----------------------------------------------------------------------------


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=["streams", "does not stream"])
def test_the_documented_conversation(demo: Started, conversation: str) -> None:
    """Every message of docs/chat.md comes in this order, with these fields and with the values that are printed."""
    lines = [(line[0], json.loads(line[2:])) for line in conversation.splitlines()]
    with client(demo.url) as one:
        came = [one.connected]
        for direction, printed in lines:
            if direction == "→":
                assert came == []
                one.socket.send(json.dumps(printed))
                continue
            message = came.pop() if came else one.next()
            while message["type"] == "token" != printed["type"]:
                message = one.next()  # one token is printed, however many there are
            assert message.keys() == printed.keys()
            assert {name: message[name] for name, value in printed.items() if value != "…"} == {
                name: value for name, value in printed.items() if value != "…"
            }
            for name in set(printed) & {"content", "message", "agent"}:
                assert message[name].strip()


def test_the_documented_conversations_are_both_there() -> None:
    """One a dialect."""
    assert len(CONVERSATIONS) == 2


# -- clients that do not stream -------------------------------------------------------------------------------


def test_the_panel_shows_the_answer(demo: Started, panel: Panel) -> None:
    """The whole text is in the one message that it shows, and the turn ends after it."""
    came = panel.say(type="chat", content=QUESTION, agent="architect", metadata={"mode": "auto", "files": [1]})
    assert kinds(came) == ["status", "response", "result"]
    response, result = came[1:]
    assert response["content"] == result["content"]
    assert "OPENAI_API_KEY" in panel.shown[-1]
    assert panel.shown[-1].startswith("responder: ")
    assert result["success"] is True
    with client(demo.url) as streaming:
        streaming.init()
        assert streaming.answer(QUESTION) == response["content"]


def test_initialized_says_which_workspace(demo: Started) -> None:
    """As it was sent, and with a text; a client without a workspace is told none."""
    with client(demo.url) as one:
        begun = one.init(workspace_path="/home/möglich/pro ject")
        assert begun["workspace_path"] == "/home/möglich/pro ject"
        assert begun["message"]
    with client(demo.url) as one:
        assert "workspace_path" not in one.init()


@pytest.mark.parametrize("fields", [{"query": "help"}, {"type": "chat", "query": "help"}, {"content": "help"}])
def test_the_panel_and_what_its_test_clients_send(panel: Panel, fields: dict[str, str]) -> None:
    """The text as `query`, and messages without a type."""
    assert kinds(panel.say(**fields)) == ["status", "response", "result"]


@pytest.mark.parametrize(
    "fields, streams",
    [
        ({}, True),
        ({"stream": True}, True),
        ({"stream": True, **LEGACY}, True),
        ({"session_id": "unknown"}, True),
        ({"session_id": "unknown", **LEGACY}, True),
        ({"session_id": None, "workspace_path": None, "stream": None}, True),
        (LEGACY, False),
        ({"stream": None, "session_id": None, **LEGACY}, False),
        ({"session_id": "", **LEGACY}, False),
        ({"stream": False}, False),
        ({"stream": False, "session_id": "unknown"}, False),
    ],
    ids=str,
)
def test_who_streams(demo: Started, fields: dict[str, Any], streams: bool) -> None:
    """It says so, or resumes, or names no workspace."""
    with client(demo.url) as one:
        one.init(**fields)
        came = kinds(one.send("chat", content="help").until("result"))
        if streams:
            assert came[:3] == ["accepted", "status", "progress"]
            assert "token" in came
            assert "response" not in came
        else:
            assert came == ["status", "response", "result"]


@pytest.mark.parametrize(
    "frame, code",
    [
        ('{"type": "chat", "content": " "}', "empty"),
        ('{"type": "chat", "content": 5}', "invalid"),
        ('{"type": "dance"}', "unknown_type"),
        ("no json", "bad_json"),
        (b"binary", "not_text"),
        (json.dumps({"type": "chat", "content": "x" * 70_000}), "too_large"),
        ('{"type": "cancel", "id": "c"}', "nothing_to_cancel"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_the_panel_does_not_wait_after_an_error(panel: Panel, frame: str | bytes, code: str) -> None:
    """Whatever was refused: `result` without success ends its waiting, and says why."""
    panel.socket.send(frame)
    error, result = panel.receive("error"), panel.receive("result")
    assert error["code"] == code
    assert (result["success"], result["content"]) == (False, error["message"])
    assert result.get("id") == error.get("id")
    assert panel.say(type="chat", content="help")[-1]["success"] is True


def test_a_turn_that_fails(live: Live) -> None:
    """The service's failure is an error of this turn; the `result` after it is as well."""
    live.provider.will({"type": "fail", "status": 401})
    one = Panel(live.url).begin()
    came = one.say(type="chat", content="hello")
    assert kinds(came) == ["status", "error", "result"]
    assert came[1]["code"] == "provider_auth"
    assert (came[2]["success"], came[2]["turn_id"]) == (False, came[1]["turn_id"])
    one.close()


def test_a_turn_that_is_cancelled(live: Live) -> None:
    """By somebody else who follows the session, and who streams: each is told in their own way."""
    live.provider.will({"type": "delay", "seconds": 30})
    one = Panel(live.url)
    session = one.init(**LEGACY)["session_id"]
    one.send("chat", content="hello").receive("status")
    with client(live.url) as other:
        other.init(session_id=session)
        other.send("cancel").until("error")
    assert one.receive("error")["code"] == "cancelled"
    assert one.receive("result")["success"] is False
    one.close()


@pytest.mark.parametrize("kind", ["command", "stopAndRollback", "architecture_approval", "hitl_response"])
@pytest.mark.parametrize("fields", [LEGACY, {}], ids=["does not stream", "streams"])
def test_what_this_server_does_not_do(demo: Started, kind: str, fields: dict[str, str]) -> None:
    """It says so in words, and nothing happens: no turn, no line in a transcript."""
    with client(demo.url) as one:
        session = one.init(**fields)["session_id"]
        one.send(kind, id=5, approved=True, content="do it", session_id=session, command="rollback")
        assert "nothing was done" in one.receive("info")["message"]
        assert one.send("ping").receive("pong")
        assert one.send("history").receive("history")["messages"] == []


def test_before_init_nothing_is_known_of_a_client(demo: Started) -> None:
    """It gets `init_required` alone, for a command and for a chat without a type as well."""
    with client(demo.url) as one:
        for frame in ('{"query": "help"}', '{"type": "command"}', "{}"):
            one.socket.send(frame)
            assert one.refusal() == "init_required"
        assert one.init(**LEGACY)


def test_the_panel_comes_back_after_a_restart(place: Place) -> None:
    """Its turn is finished, and it is told of the one that was not begun; after 1012 it comes without a session."""
    live = Live(place, PREFLIGHT_TURN_TIMEOUT="8s")
    live.provider.will({"type": "delay", "seconds": 1})
    busy, idle = Panel(live.url), Panel(live.url).begin()
    with client(live.url) as streaming:
        streaming.init(session_id=busy.init(**LEGACY)["session_id"], stream=True)
        busy.send("chat", content="the last one")
        streaming.until("progress")
        busy.send("chat", content="too late")
        streaming.until("accepted")
        live.started.send(signal.SIGTERM)
        assert idle.closed() == SERVICE_RESTART
        assert kinds(busy.until("result")) == ["status", "response", "result"]
        error, result = busy.receive("error"), busy.receive("result")
        assert (error["code"], error["retry"], result["success"]) == ("draining", True, False)
        assert result["turn_id"] == error["turn_id"]
        assert busy.closed() == SERVICE_RESTART
        assert "error" not in kinds(streaming.until("result"))
        assert streaming.closed() == SERVICE_RESTART
    assert live.started.wait() == 0
    again = place.start("--demo").until_ready()
    one = Panel(again.url).begin()
    assert kinds(one.say(type="chat", content="help")) == ["status", "response", "result"]
    one.close()


# -- a second init --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [LEGACY, {}], ids=["does not stream", "streams"])
def test_init_again(demo: Started, fields: dict[str, str]) -> None:
    """It is the same session, with what was said in it; a session of the client's own choice is resumed."""
    with client(demo.url) as first, client(demo.url) as one:
        other = first.init()["session_id"]
        first.answer("uptime")
        own = one.init(**fields)["session_id"]
        one.send("chat", content="help").until("result")
        again = one.init(**fields)
        assert (again["session_id"], again["resumed"]) == (own, True)
        assert [entry["content"] for entry in again["messages"] if entry["role"] == "user"] == ["help"]
        one.send("chat", content="status").until("result")
        resumed = one.init(session_id=other)
        assert (resumed["session_id"], resumed["resumed"]) == (other, True)
        assert resumed["messages"][0]["content"] == "uptime"
        assert one.answer("help")
        assert first.until("result")[-1]["session_id"] == other
        unknown = one.init(session_id="unknown")
        assert (unknown["resumed"], unknown["messages"]) == (False, [])
        assert unknown["session_id"] not in (own, other, "unknown")
        assert one.answer("help")
        said = json.loads(get(f"{demo.url}/sessions/{own}")[1])["transcript"]
        assert [line["content"] for line in said if line["role"] == "user"] == ["help", "status"]


def test_init_again_in_the_middle_of_a_turn(live: Live) -> None:
    """In the same session the turn goes on and its end comes; of a session that was left nothing comes any more."""
    live.provider.will({"type": "delay", "seconds": 1}, {"type": "reply", "text": "Here I am.", "times": None})
    with client(live.url) as one, client(live.url) as other:
        session = one.init()["session_id"]
        one.send("chat", content="hello").until("progress")
        begun = one.init()
        assert begun["session_id"] == session
        assert one.until("result")[-1]["content"] == "Here I am."
        live.provider.will({"type": "delay", "seconds": 1}, {"type": "reply", "text": "Here I am.", "times": None})
        turn = one.send("chat", content="hello").until("progress")[-1]["turn_id"]
        other.init(session_id=session)
        assert one.init(session_id="elsewhere")["session_id"] != session
        assert other.until("result")[-1]["turn_id"] == turn
        assert one.send("ping").next()["type"] == "pong"


def test_each_init_says_anew_who_streams(demo: Started) -> None:
    """A client may change its mind."""
    with client(demo.url) as one:
        for fields, expected in ((LEGACY, "status"), ({"stream": True}, "accepted"), (LEGACY, "status")):
            one.init(**fields)
            assert one.send("chat", content="help").until("result")[0]["type"] == expected


def test_both_kinds_follow_one_session(demo: Started) -> None:
    """Each gets it in its own dialect, whoever speaks."""
    with client(demo.url) as whole, client(demo.url) as streaming:
        session = whole.init(**LEGACY)["session_id"]
        streaming.init(session_id=session)
        for speaker in (whole, streaming):
            speaker.send("chat", content="help")
            assert kinds(whole.until("result")) == ["status", "response", "result"]
            assert kinds(streaming.until("result"))[:2] == ["accepted", "status"]
