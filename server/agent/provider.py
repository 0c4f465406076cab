"""The language model behind an OpenAI-compatible provider, and what its failures mean to a person.

What a service says in an error is not passed on: a rejected key comes back shortened, which redaction by value cannot
see. The words here are ours; only the status and the service's own short code are taken over.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.runnables import Runnable

from preflight.bodies import TooLong
from server.agent.failures import ProviderError

# What services give as the reason why an answer has ended (finish_reason), OpenAI's own words first.
WHOLE = frozenset({
    "stop", "tool_calls", "function_call", "[done]",  # the last is ours, see completions.py
    "eos", "eos_token", "stop_sequence", "end_turn", "complete", "completed", "tool_use",
})  # fmt: skip
TOO_LONG = frozenset({"length", "max_tokens", "max_output_tokens", "model_length"})
FILTERED = frozenset({"content_filter", "safety", "recitation", "prohibited_content", "blocklist", "spii"})

ATTEMPTS = 3  # requests for one answer
BACKOFF = 0.5  # seconds before the second attempt where the service gives no hint; doubles

Model = Runnable[Any, AIMessage]


@dataclass(frozen=True, slots=True)
class ModelProvider:
    """An OpenAI-compatible provider, by the prefix of its variables: ``_API_KEY``, ``_BASE_URL`` and ``_MODEL``."""

    name: str  # for people, at the beginning of a sentence
    prefix: str
    base_url: str
    model: str

    def key(self, environment: Mapping[str, str]) -> str:
        """Its key, empty if there is none."""
        return environment.get(f"{self.prefix}_API_KEY", "").strip()


OPENAI = ModelProvider("The model's service", "OPENAI", "https://api.openai.com/v1", "gpt-4o-mini")
PERPLEXITY = ModelProvider("Perplexity", "PERPLEXITY", "https://api.perplexity.ai", "sonar")


def model(provider: ModelProvider, environment: Mapping[str, str], patience: float) -> BaseChatModel:
    """The model of a service whose key is loaded; ``patience`` in seconds without a sign of life.

    Its client takes proxies, certificates and further headers from this process's environment, by the rules that
    preflight/suite/probes/egress.py repeats. Raises ProviderError if they do not make a client.
    """
    try:
        from pydantic import SecretStr

        from server.agent.completions import CompatibleChat  # 0.4 s and 22 MiB: only if there is a key

        return CompatibleChat(
            model=environment.get(f"{provider.prefix}_MODEL") or provider.model,
            base_url=environment.get(f"{provider.prefix}_BASE_URL") or provider.base_url,
            api_key=SecretStr(environment[f"{provider.prefix}_API_KEY"]),
            timeout=patience,
            stream_chunk_timeout=patience,
            max_retries=0,  # ours are bounded by the turn
            use_responses_api=False,  # compatible services speak chat completions
        )
    except Exception as error:  # a proxy, an address or certificates that are none: their libraries raise many kinds
        raise ProviderError(
            "provider_error",
            f"{provider.name} cannot be asked: its client cannot be built ({type(error).__name__}). Check"
            f" {provider.prefix}_BASE_URL, the proxies and SSL_CERT_FILE, and start the server again.",
            retry=False,
        ) from error


async def stream(
    model: Model, messages: Sequence[BaseMessage], longest_wait: float, provider: ModelProvider = OPENAI
) -> AsyncIterator[AIMessageChunk]:
    """The model's answer, piece by piece, from the first attempt that gets through.

    Waits as the service asks, up to ``longest_wait`` seconds. Raises ProviderError, in which ``provider`` is named.
    """
    for attempt in range(1, ATTEMPTS + 1):
        begun = False
        try:
            finished = False
            async for chunk in model.astream(list(messages)):
                if not isinstance(chunk, AIMessageChunk):
                    raise TypeError(f"a model that streams {type(chunk).__name__}")
                begun = begun or bool(chunk.content)
                yield chunk
                finished = ended(chunk) or finished
            if not finished:
                raise _half_way()
            return
        except Exception as error:  # explained to the user, whatever it is
            failure = explain(error, provider)
            wait = _wait(failure, attempt)
            # What was shown cannot be taken back: no second attempt after the first word.
            if begun and failure.again:
                failure = _half_way()
            if begun or wait is None or wait > longest_wait:
                raise failure from error
        await asyncio.sleep(wait)


async def ask(
    model: Model, messages: Sequence[BaseMessage], longest_wait: float, provider: ModelProvider = OPENAI
) -> AIMessage:
    """The model's whole answer; as :func:`stream`."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await model.ainvoke(list(messages))
        except Exception as error:  # explained to the user, whatever it is
            failure = explain(error, provider)
            wait = _wait(failure, attempt)
            if wait is None or wait > longest_wait:
                raise failure from error
        await asyncio.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def ended(message: BaseMessage) -> bool:
    """Whether the service says that its answer is whole. Raises ProviderError if it says that it is not.

    After an unknown reason, the answer counts as incomplete.
    """
    reason = message.response_metadata.get("finish_reason")
    if not reason:
        return False
    word = str(reason).lower()
    if word in WHOLE:
        return True
    if word in TOO_LONG:
        said = "it reached the maximum length that the service allows. Ask for a shorter one"
    elif word in FILTERED:
        said = "the service's filter stopped it. Put the question in other words"
    else:
        said = "the service ended it early. Try again"
    named = f" ({word})" if re.fullmatch(r"[a-z_-]{1,40}", word) else ""
    retry = word not in FILTERED
    raise ProviderError("provider_incomplete", f"The model's answer is incomplete{named}: {said}.", retry=retry)


def _half_way() -> ProviderError:
    return ProviderError("provider_incomplete", "The model's answer stopped halfway. Try again.", retry=True)


def _wait(failure: ProviderError, attempt: int) -> float | None:
    """Seconds before the next attempt, None if there is none."""
    if not failure.again or attempt == ATTEMPTS:
        return None
    if failure.retry_after is not None:
        return failure.retry_after
    return BACKOFF * 2.0 ** (attempt - 1) * random.uniform(0.75, 1.25)


def explain(error: Exception, provider: ModelProvider) -> ProviderError:
    """What happened, in our own words, and whether trying again helps."""
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, TooLong):
        return ProviderError("provider_invalid", f"{provider.name} sent {error}. Try again.", retry=True)
    import openai as sdk  # imported already by the code that failed; the embedded model has none of these failures

    if isinstance(error, sdk.APIStatusError):
        headers = error.response.headers
        failure = _status(provider, error.status_code, _code(error.code), _retry_after(headers))
        # OpenAI's own hint, which its client libraries follow.
        hint = headers.get("x-should-retry")
        return replace(failure, again=hint == "true") if hint in ("true", "false") else failure
    if isinstance(error, TimeoutError | sdk.APITimeoutError):  # langchain's own for a stream is a TimeoutError
        return ProviderError("provider_timeout", f"{provider.name} stopped answering. Try again later.", retry=True)
    if isinstance(error, json.JSONDecodeError | sdk.APIResponseValidationError | UnicodeDecodeError):
        return ProviderError(
            "provider_invalid", f"{provider.name} sent an answer that is not valid. Try again.", retry=True
        )
    if isinstance(error, sdk.APIConnectionError):
        return ProviderError(
            "provider_unreachable",
            f"{provider.name} cannot be reached, or closed the connection. Check the network, and"
            f" {provider.prefix}_BASE_URL.",
            retry=True,
            again=True,
        )
    if isinstance(error, sdk.APIError):  # an error that came inside a stream
        code = _code(error.code)
        message = f"{provider.name} cut its answer short with an error{code}. Try again later."
        return ProviderError("provider_error", message, retry=True)
    if isinstance(error, ConnectionError) or type(error).__module__.startswith(("httpx", "httpcore")):
        return _half_way()
    if isinstance(error, TypeError | ValueError | KeyError | AttributeError):
        # The client libraries raise these for an answer of another shape than they expect.
        return ProviderError(
            "provider_invalid", f"The model's answer cannot be understood ({type(error).__name__}).", retry=True
        )
    return ProviderError("provider_error", f"The model could not be asked ({type(error).__name__}).", retry=True)


def _status(provider: ModelProvider, status: int, code: str, after: float | None) -> ProviderError:
    said = f"(HTTP {status}{code})"
    if status == 403:
        return ProviderError(
            "provider_auth",
            f"{provider.name} forbids the request {said}, or something on the way does. Trying again does not help:"
            f" check the rights of {provider.prefix}_API_KEY, and whether the service is offered in this region.",
            retry=False,
        )
    if status == 401:
        return ProviderError(
            "provider_auth",
            f"{provider.name} refuses the key {said}. Trying again does not help:"
            f" set a valid {provider.prefix}_API_KEY.",
            retry=False,
        )
    if status == 429 and "quota" in code:
        return ProviderError(
            "provider_rate_limit",
            f"The account's quota is used up {said}: raise it, or wait for its renewal.",
            retry=False,
        )
    if status == 429:
        wait = f"Try again in {after:g} s." if after is not None else "Try again later."
        return ProviderError(
            "provider_rate_limit", f"{provider.name} asks for fewer requests {said}. {wait}", True, after, again=True
        )
    if status == 408:
        return ProviderError(
            "provider_timeout", f"{provider.name} gave up waiting {said}. Try again later.", True, after, again=True
        )
    if status == 409:
        return ProviderError(
            "provider_error", f"{provider.name} reports a conflict {said}. Try again later.", True, after, again=True
        )
    if status >= 500:
        message = f"{provider.name} reports an error of its own {said}. Try again later."
        return ProviderError("provider_error", message, True, after, again=True)
    return ProviderError(
        "provider_rejected",
        f"{provider.name} does not accept the request {said}."
        f" Check {provider.prefix}_MODEL (it must be able to call tools) and {provider.prefix}_BASE_URL.",
        retry=False,
    )


def _code(code: object) -> str:
    """The service's own short code, if it looks like one."""
    return f", {code}" if isinstance(code, str) and re.fullmatch(r"[a-z_]{2,40}", code) else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait: a number, or a date (RFC 9110, 10.2.3)."""
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / divisor
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        at = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, math.ceil(at.timestamp() - time.time()))
