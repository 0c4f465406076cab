"""The agent on an OpenAI-compatible service: streaming, tools, research, and every way in which a service fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.chatting import Live, Message, client
from tests.e2e.place import KEYS, Started, get, make_place
from tests.services import Service, completion, streamed

TURN = 6.0  # seconds; half of it is the patience with a silent service


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    place = make_place(tmp_path_factory.mktemp("live") / "place")
    yield Live(place, PREFLIGHT_TURN_TIMEOUT=f"{TURN:g}s")
    place.close()


def calls(name: str, **arguments: Any) -> Message:
    """The model calls this tool in its next answer to a request that offers tools."""
    return {"type": "reply", "tool_calls": [{"name": name, "arguments": arguments}], "match": {"tools": True}}


def says(text: str) -> Message:
    """The model says this to a request without tools: the responder's."""
    return {"type": "reply", "text": text, "match": {"tools": False}}


QUIET = {"type": "reply", "text": "no tools needed", "match": {"tools": True}}


def broken(kind: str, **fields: Any) -> Message:
    return {"type": "stream_fault", "kind": kind, "after_chunks": 2, **fields}


def turn(live: Live, text: str = "What failed?") -> list[Message]:
    with client(live.url) as one:
        one.init()
        return one.ask(text)


def test_tools_and_streaming(live: Live) -> None:
    """The supervisor hands over, diagnostics calls its tools, the responder streams."""
    live.provider.will(
        calls("ask_diagnostics", question="what failed"),
        calls("read_report"),
        {"type": "reply", "text": "DONE", "match": {"tools": True}},
        says("Nothing critical failed, and the port is held by this very server."),
    )
    came = turn(live)
    assert [m["node"] for m in came if m["type"] == "progress"] == ["supervisor", "diagnostics", "responder"]
    assert came[-1]["content"] == "Nothing critical failed, and the port is held by this very server."
    tokens = [m["content"] for m in came if m["type"] == "token"]
    assert len(tokens) > 3
    assert "".join(tokens) == came[-1]["content"]
    assert {one["model"] for one in live.asked()} == {"gpt-4o"}
    assert [one["stream"] for one in live.asked()] == [False, False, False, True]


def test_the_services_own_choice_of_tools(live: Live) -> None:
    """llmock calls what is offered with arguments made up from the schemas: the turn ends well all the same."""
    live.provider.will()
    assert turn(live)[-1]["type"] == "result"


@pytest.mark.parametrize("kind", ["malformed_arguments", "unknown_tool"])
def test_a_broken_tool_call_is_survived(live: Live, kind: str) -> None:
    """Arguments that are no JSON, a tool that was never offered."""
    live.provider.will(calls("ask_diagnostics", question="x"), {"type": "tool_fault", "kind": kind}, says("All well."))
    assert turn(live)[-1]["type"] == "result"


def test_research(live: Live) -> None:
    """With its key loaded the research service is asked; if it fails, the answer says so and the turn goes on."""
    live.provider.will(calls("ask_research", query="what is a preflight"), says("It is a check before a flight."))
    came = turn(live, "research preflights")
    assert [m["node"] for m in came if m["type"] == "progress"] == ["supervisor", "research", "responder"]
    assert [one["provider"] for one in live.asked()] == ["openai", "perplexity", "openai"]
    live.provider.will(
        calls("ask_research", query="x"),
        {"type": "fail", "status": 401, "match": {"provider": "perplexity"}},
        says("The research service refuses its key."),
    )
    assert turn(live)[-1]["type"] == "result"


@pytest.mark.parametrize(
    "behaviours, code, retry, requests",
    [
        pytest.param([{"type": "fail", "status": 401}], "provider_auth", False, 1, id="401"),
        pytest.param([{"type": "fail", "status": 404}], "provider_rejected", False, 1, id="404"),
        pytest.param([{"type": "fail", "status": 408, "times": None}], "provider_timeout", True, 3, id="408"),
        pytest.param([{"type": "fail", "status": 409, "times": None}], "provider_error", True, 3, id="409"),
        pytest.param([{"type": "fail", "status": 500, "times": None}], "provider_error", True, 3, id="500"),
        pytest.param(
            [{"type": "fail", "status": 429, "retry_after": 60, "times": None}],
            "provider_rate_limit",
            True,
            1,
            id="429",
        ),
        pytest.param(
            [{"type": "fail", "status": 429, "code": "insufficient_quota", "times": None}],
            "provider_rate_limit",
            False,
            1,
            id="quota",
        ),
        pytest.param([QUIET, broken("disconnect")], "provider_incomplete", True, 2, id="disconnect"),
        pytest.param([QUIET, broken("truncate")], "provider_incomplete", True, 2, id="truncate"),
        pytest.param([QUIET, broken("malformed")], "provider_invalid", True, 2, id="malformed"),
        pytest.param([QUIET, broken("stall", stall_seconds=30)], "provider_timeout", True, 2, id="stall"),
        pytest.param([{"type": "delay", "seconds": 30}], "provider_timeout", True, 1, id="hang"),
    ],
)
def test_failures(live: Live, behaviours: list[Message], code: str, retry: bool, requests: int) -> None:
    """What happened, whether trying again helps, no key and nothing of the service's own words."""
    live.provider.will(*behaviours)
    end = turn(live)[-1]
    assert (end["type"], end["code"], end["retry"]) == ("error", code, retry), end
    assert end["turn_id"]
    if code == "provider_rate_limit" and retry:
        assert end["retry_after"] == 60
        assert "60 s" in end["message"]
    assert not any(key[:12] in json.dumps(end) for key in KEYS.values())
    if requests == 3 or code != "provider_timeout":  # the service notes a request when it is over
        assert len(live.asked()) == requests
    live.provider.will(QUIET, says("Back again."))
    assert turn(live)[-1]["content"] == "Back again."


def test_a_short_wait_that_the_service_asks_for_is_waited(live: Live) -> None:
    """The user notices nothing, and the service sees its hint respected."""
    live.provider.will({"type": "fail", "status": 429, "retry_after": 0.5}, QUIET, says("Here I am."))
    assert turn(live)[-1]["content"] == "Here I am."
    findings = json.loads(get(f"{live.provider.url}/_llmock/verdict")[1])
    assert findings["passed"], findings


def test_a_failed_turn_says_the_same_when_it_is_asked_for_again(live: Live) -> None:
    """With its `id` it is the turn that it was, hints included, here and in the history; a new `id` is a new turn."""
    live.provider.will({"type": "fail", "status": 429, "retry_after": 60}, QUIET, says("Here I am."))
    with client(live.url) as one:
        session = one.init()["session_id"]
        failed = one.ask("hello", id="a")[-1]
        assert (failed["code"], failed["retry"], failed["retry_after"]) == ("provider_rate_limit", True, 60)
        again = one.ask("hello", id="a")
        assert again[0]["duplicate"] is True
        assert again[-1] == failed
    with client(live.url) as two:
        entry = two.init(session_id=session)["messages"][-1]
        assert (entry["role"], entry["retry"], entry["retry_after"]) == ("error", True, 60)
        assert two.ask("hello", id="b")[-1]["content"] == "Here I am."


def test_a_key_in_a_message_goes_nowhere(live: Live) -> None:
    """Not to the service, not to the disk, not to who follows."""
    key = KEYS["OPENAI_API_KEY"]
    live.provider.will(QUIET, says(f"Your key is {key} and that is that."))
    with client(live.url) as one:
        session = one.init(workspace_path=f"/work/{key}", stream=True)["session_id"]
        came = one.ask(f"is {key} right?", id=f"mine {key}")
        again = one.ask(f"is {key} right?", id=f"mine {key}")
        assert one.send("cancel", id=key, turn_id=key).refusal() == "nothing_to_cancel"
    assert key not in json.dumps(came)
    assert came[-1]["id"] == "mine [redacted]"
    assert [(m["type"], m.get("duplicate")) for m in again] == [("accepted", True), ("result", None)]
    assert came[-1]["content"] == "Your key is [redacted] and that is that."
    assert "".join(m["content"] for m in came if m["type"] == "token") == came[-1]["content"]
    assert key not in get(f"{live.url}/sessions/{session}")[1]
    for file in live.place.state.glob("sessions.sqlite*"):
        assert key.encode() not in file.read_bytes()
        assert file.stat().st_mode & 0o077 == 0


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Started, Service]]:
    """A server on a service that answers byte by byte what a test wants."""
    place = make_place(tmp_path_factory.mktemp("exact") / "place")
    place.write_env_file(**KEYS)
    with Service() as service:
        place.environ |= {"PREFLIGHT_PYTHON": ">=3.11", "OPENAI_BASE_URL": service.url}
        yield place.start("--offline").until_ready(), service
    place.close()


@pytest.mark.parametrize("arguments", ["[1]", "null", '"text"', "5", "no JSON"])
def test_a_turn_goes_on_after_tool_arguments_that_are_no_object(exact: tuple[Started, Service], arguments: str) -> None:
    """The model is told of its fault, and the calls beside it are answered."""
    started, service = exact
    service.answers(
        completion("tool_calls", None, ("ask_diagnostics", arguments)),
        completion("tool_calls", None, ("explain_check", arguments), ("read_report", "{}")),
        completion("stop", "DONE"),
        streamed({"delta": {"content": "All well."}, "finish_reason": "stop"}),
    )
    service.requests.clear()
    with client(started.url) as one:
        one.init()
        came = one.ask("What failed?")
    assert [m["node"] for m in came if m["type"] == "progress"] == ["supervisor", "diagnostics", "responder"]
    assert (came[-1]["type"], came[-1].get("content")) == ("result", "All well.")
    results = [one["content"] for one in service.requests[2]["messages"] if one["role"] == "tool"]
    assert len(results) == 2
    assert ["the arguments are not a JSON object" in one for one in results] == [False, True]


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_an_answer_that_is_not_whole_is_an_error(exact: tuple[Started, Service], reason: str) -> None:
    """It names which, to clients of both kinds, and what came of it is not kept as an answer."""
    started, service = exact
    for fields in ({}, {"workspace_path": "/work"}):
        said = streamed({"delta": {"content": "The first half"}}, {"delta": {}, "finish_reason": reason})
        service.answers(completion("stop", "no tools needed"), said)
        with client(started.url) as one:
            session = one.init(**fields)["session_id"]
            end = one.ask("Tell me a story")[-1]
        assert (end["code"], reason in end["message"]) == ("provider_incomplete", True)
        transcript = json.loads(get(f"{started.url}/sessions/{session}")[1])["transcript"]
        assert [line["role"] for line in transcript] == ["user", "error"]


def test_a_stream_that_ends_with_done_alone_is_an_answer(exact: tuple[Started, Service]) -> None:
    """A service that gives no reason has said that it is at its end."""
    started, service = exact
    service.answers(completion("stop", "no tools needed"), streamed({"delta": {"content": "Once upon a time."}}))
    with client(started.url) as one:
        one.init()
        assert one.answer("Tell me a story") == "Once upon a time."


def test_nobody_there(exact: tuple[Started, Service]) -> None:
    """A service that cannot be reached."""
    started, service = exact
    with service.away(), client(started.url) as one:
        one.init()
        end = one.ask("hello")[-1]
        assert (end["code"], end["retry"]) == ("provider_unreachable", True)
