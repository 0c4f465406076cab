"""What a model's service asks for in its headers, and which failures are tried again: over real HTTP."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate

import pytest
from langchain_core.messages import HumanMessage

from server import provider
from server.provider import ProviderError
from tests.services import Service


def ask(service: Service, longest_wait: float = 5) -> str:
    model = provider.model(provider.OPENAI, {"OPENAI_API_KEY": "sk-canary-123456", "OPENAI_BASE_URL": service.url}, 5)
    return asyncio.run(provider.ask(model, [HumanMessage("hello")], longest_wait)).text


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
    assert time.monotonic() - begun < 3


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
