"""What a model's service asks for in its headers, and which failures are tried again: over real HTTP."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from server.agent import completions, provider
from server.agent.failures import ProviderError
from tests.services import Answer, Service, completion, streamed

pytestmark = pytest.mark.usefixtures("few_authorities")


def answer_of(service: Service, longest_wait: float = 5) -> AIMessage:
    model = provider.model(provider.OPENAI, {"OPENAI_API_KEY": "sk-canary-123456", "OPENAI_BASE_URL": service.url}, 5)
    return asyncio.run(provider.ask(model, [HumanMessage("hello")], longest_wait))


def ask(service: Service, longest_wait: float = 5) -> str:
    return answer_of(service, longest_wait).text


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_what_may_be_gone_in_a_moment_is_tried_again(service: Service, status: int) -> None:
    """After the wait that the service asks for."""
    service.answers((status, {"retry-after": "0.05"}, {}))
    assert ask(service) == "Sunny."
    first, second = service.times
    assert second - first >= 0.05


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_what_stays_is_not(service: Service, status: int) -> None:
    service.answers((status, {"retry-after": "0"}, {}))
    with pytest.raises(ProviderError) as caught:
        ask(service)
    assert (caught.value.retry, len(service.times)) == (False, 1)


@pytest.mark.slow
def test_a_date_to_come_back_at_is_kept(service: Service) -> None:
    """Retry-After as RFC 9110 has it also: not before then."""
    at = int(time.time()) + 2
    service.answers((429, {"retry-after": formatdate(at, usegmt=True)}, {}))
    assert ask(service) == "Sunny."
    assert service.times[1] >= at


def test_a_date_too_far_away_is_told(service: Service) -> None:
    """In seconds from now on; nobody waits for it here."""
    service.answers((429, {"retry-after": formatdate(time.time() + 3600, usegmt=True)}, {}))
    with pytest.raises(ProviderError) as caught:
        ask(service)
    assert caught.value.retry_after is not None
    assert 3590 <= caught.value.retry_after <= 3601
    assert f"Try again in {caught.value.retry_after:g} s" in caught.value.message
    assert len(service.times) == 1


@pytest.mark.parametrize(
    "hint", ["Fri, 01 Jan 2021 00:00:00 GMT", "Fri, 01 Jan 2021 00:00:00 -0000", "soon", "nan", "-1", ""]
)
def test_a_hint_that_is_over_or_none(service: Service, hint: str) -> None:
    """Does not keep anybody waiting, nor from trying again."""
    service.answers((503, {"retry-after": hint}, {}))
    begun = time.monotonic()
    assert ask(service) == "Sunny."
    assert time.monotonic() - begun < 30


def test_the_services_own_word_on_trying_again_counts(service: Service) -> None:
    """x-should-retry, which OpenAI sends."""
    service.answers((500, {"x-should-retry": "false"}, {}))
    with pytest.raises(ProviderError) as caught:
        ask(service)
    assert (caught.value.retry, len(service.times)) == (True, 1)
    service.answers((400, {"x-should-retry": "true", "retry-after": "0"}, {}))
    assert ask(service) == "Sunny."


def test_the_service_that_failed_is_named_with_its_own_variables(free_port: int) -> None:
    """A person must know which key, address or model to look at."""
    environment = {"PERPLEXITY_API_KEY": "pplx-canary-123456", "PERPLEXITY_BASE_URL": f"http://127.0.0.1:{free_port}"}
    model = provider.model(provider.PERPLEXITY, environment, 5)
    with pytest.raises(ProviderError) as caught:
        asyncio.run(provider.ask(model, [HumanMessage("hello")], 0, provider.PERPLEXITY))
    assert caught.value.message.startswith("Perplexity cannot be reached")
    assert caught.value.message.endswith("PERPLEXITY_BASE_URL.")


@pytest.mark.parametrize("status", [200, 400])
def test_an_answer_that_is_too_long(service: Service, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """Is not read to its end, which it may not have, and not asked for again."""
    monkeypatch.setattr(completions, "LONGEST_BODY", 1 << 20)
    _, _, document = completion("stop", "Sunny. " * 200_000)
    service.answers((status, {}, document))
    with pytest.raises(ProviderError) as caught:
        ask(service)
    assert caught.value.message == "The model's service sent an answer of more than 1 MiB. Try again."
    assert len(service.times) == 1


@pytest.mark.slow
def test_a_stream_that_is_too_long(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends where its bound is, whether it comes in many events or in one."""
    monkeypatch.setattr(completions, "LONGEST_BODY", 1 << 20)
    for said in (["Sunny. "] * 10_000, ["Sunny. " * 200_000]):
        service.answers(streamed(*({"delta": {"content": one}} for one in said)))
        with pytest.raises(ProviderError) as caught:
            tell(service)
        assert caught.value.message == "The model's service sent an answer of more than 1 MiB. Try again."


# Whether an answer is whole.

SUNNY = {"delta": {"role": "assistant", "content": "Sunny."}}


def tell(service: Service) -> str:
    """What is said in a stream, joined; raises ProviderError where it is not whole."""
    model = provider.model(provider.OPENAI, {"OPENAI_API_KEY": "sk-canary-123456", "OPENAI_BASE_URL": service.url}, 5)

    async def work() -> str:
        return "".join([chunk.text async for chunk in provider.stream(model, [HumanMessage("hello")], 5)])

    return asyncio.run(work())


@pytest.mark.parametrize(
    "answer",
    [
        streamed(SUNNY, {"delta": {}, "finish_reason": "stop"}),
        streamed({**SUNNY, "finish_reason": "stop"}),
        streamed(SUNNY, {"delta": {}, "finish_reason": "STOP"}),
        streamed(SUNNY, {"delta": {}, "finish_reason": "eos_token"}),
        streamed(SUNNY, {"delta": {}, "finish_reason": "stop"}, done=False),
        streamed(SUNNY, {"delta": None, "finish_reason": "stop"}, done=False),
        streamed(SUNNY),
        streamed(SUNNY, {"delta": {}, "finish_reason": None}),
        streamed(SUNNY, {"delta": {}, "finish_reason": ""}),
    ],
    ids=[
        "OpenAI", "at once", "capitals", "another word", "no [DONE]", "no delta", "only [DONE]", "null", "empty",
    ],
)  # fmt: skip
def test_a_whole_answer(service: Service, answer: Answer) -> None:
    """The service says why it has ended, or that it has, or both."""
    service.answers(answer)
    assert tell(service) == "Sunny."
    assert len(service.times) == 1


@pytest.mark.parametrize(
    "reason, retry, said",
    [
        ("length", True, "the maximum length that the service allows"),
        ("max_tokens", True, "the maximum length that the service allows"),
        ("content_filter", False, "the service's filter stopped it"),
        ("SAFETY", False, "the service's filter stopped it"),
        ("insufficient_system_resource", True, "the service ended it early"),
        ("error", True, "the service ended it early"),
    ],
)
@pytest.mark.parametrize("shape", ["with the text", "behind it", "without a delta", "no text"])
@pytest.mark.parametrize("done", [True, False], ids=["[DONE]", "no [DONE]"])
def test_an_answer_that_is_not_whole(
    service: Service, reason: str, retry: bool, said: str, shape: str, done: bool
) -> None:
    """What was cut off or filtered is no answer, and the error names why, whatever comes behind that."""
    choices: dict[str, list[dict[str, Any]]] = {
        "with the text": [{**SUNNY, "finish_reason": reason}],
        "behind it": [SUNNY, {"delta": {}, "finish_reason": reason}],
        "without a delta": [SUNNY, {"delta": None, "finish_reason": reason}],
        "no text": [{"delta": {"role": "assistant"}}, {"delta": {}, "finish_reason": reason}],
    }
    service.answers(streamed(*choices[shape], done=done))
    with pytest.raises(ProviderError) as caught:
        tell(service)
    assert (caught.value.code, caught.value.retry) == ("provider_incomplete", retry)
    assert said in caught.value.message
    assert f"({reason.lower()})" in caught.value.message
    assert len(service.times) == 1


def test_a_reason_that_is_no_word_is_not_repeated(service: Service) -> None:
    """What a service says is not passed on."""
    service.answers(streamed(SUNNY, {"delta": {}, "finish_reason": "your key sk-canary-123456 is bad"}))
    with pytest.raises(ProviderError) as caught:
        tell(service)
    assert caught.value.code == "provider_incomplete"
    assert "canary" not in caught.value.message


def test_a_stream_that_just_ends(service: Service) -> None:
    """Neither a reason nor [DONE]: it stopped halfway."""
    service.answers(streamed(SUNNY, done=False))
    with pytest.raises(ProviderError, match="stopped halfway"):
        tell(service)


@pytest.mark.parametrize("end", ["", "\n", "\r", "\r\n", "\n\n"], ids=repr)
@pytest.mark.parametrize("word", ["data: [DONE]", "data:[DONE]"])
def test_a_stream_whose_done_is_its_last_line(service: Service, word: str, end: str) -> None:
    """Some services leave out the blank line that would make an event of it: the answer is whole all the same."""
    status, headers, body = streamed(SUNNY, done=False)
    service.answers((status, headers, f"{body}{word}{end}"))
    assert tell(service) == "Sunny."


@pytest.mark.parametrize("end", ["data: [DONE", 'data: {"id"', "[DONE]", "text data: [DONE]", ": [DONE]"])
def test_a_stream_that_ends_in_something_else(service: Service, end: str) -> None:
    """What only looks like the end is none."""
    status, headers, body = streamed(SUNNY, done=False)
    service.answers((status, headers, f"{body}{end}"))
    with pytest.raises(ProviderError, match="stopped halfway"):
        tell(service)


# Tool calls.


@pytest.mark.parametrize(
    "arguments",
    ["[1]", "[]", '"text"', '""', "5", "0", "true", "false", "null", "not JSON", [1], 5, '{"half":'],
    ids=repr,
)
def test_arguments_that_are_no_object(service: Service, arguments: object) -> None:
    """They are a fault of their call: the others of the same answer count, and its text."""
    service.answers(completion("tool_calls", "Looking.", ("look", arguments), ("look", '{"at": 1}')))
    reply = answer_of(service)
    assert reply.text == "Looking."
    assert [call["args"] for call in reply.tool_calls] == [{"at": 1}]
    assert [(call["name"], call["id"]) for call in reply.invalid_tool_calls] == [("look", "call_0")]


@pytest.mark.parametrize(
    "arguments, found", [("{}", {}), ("", {}), (None, {}), ('{"at": [1]}', {"at": [1]}), ({"at": 1}, {"at": 1})]
)
def test_arguments_that_are_one(service: Service, arguments: object, found: dict[str, object]) -> None:
    """Nothing at all is what a tool without parameters gets from many services; some send the object itself."""
    service.answers(completion("tool_calls", None, ("look", arguments)))
    reply = answer_of(service)
    assert ([call["args"] for call in reply.tool_calls], reply.invalid_tool_calls) == ([found], [])
