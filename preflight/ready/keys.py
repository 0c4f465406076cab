"""``ready.api_key``: the service of a model accepts the key, as a request that costs nothing shows.

judges.py judges the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import NamedTuple, Unpack

from preflight.contract import Details, unknown
from preflight.making import Ask, Failure, Instead, imported, literal, requirement
from preflight.ready.judges import host_of, judge_key
from preflight.settings.model import Settings
from preflight.suite.probes import asking, egress
from preflight.suite.probes.asking import Question, Reply


class Provider(NamedTuple):
    """How a provider is asked for something that is free."""

    name: str
    base: str
    """Its address; empty if each customer has an address of their own."""
    variable: str
    """The variable that replaces the address."""
    route: str
    lists: tuple[str, ...]
    """The names under which a good answer has a list."""
    header: str = "Authorization"
    before: str = "Bearer "
    """The prefix of the key in its header."""
    others: Mapping[str, str] | None = None
    """Other headers that it wants."""


PROVIDERS = {
    # https://learn.microsoft.com/en-us/rest/api/azureopenai/models/list
    "azure": Provider(
        "Azure OpenAI", "", "AZURE_OPENAI_ENDPOINT", "openai/models?api-version=2024-10-21", ("data",), "api-key", "",
    ),
    # https://platform.openai.com/docs/api-reference/models/list, which compatible services have as well
    "openai": Provider("OpenAI", "https://api.openai.com/v1", "OPENAI_BASE_URL", "models", ("data",)),
    # https://docs.anthropic.com/en/api/models-list
    "anthropic": Provider(
        "Anthropic", "https://api.anthropic.com", "ANTHROPIC_BASE_URL", "v1/models", ("data",), "x-api-key", "",
        {"anthropic-version": "2023-06-01"},
    ),
    # https://ai.google.dev/api/models#method:-models.list
    "google": Provider(
        "Google", "https://generativelanguage.googleapis.com", "GOOGLE_GEMINI_BASE_URL", "v1beta/models", ("models",),
        "x-goog-api-key", "",
    ),
    # https://docs.mistral.ai/api/#tag/models
    "mistral": Provider("Mistral", "https://api.mistral.ai", "MISTRAL_BASE_URL", "v1/models", ("data",)),
    # Sonar has no list of models; the list of asynchronous jobs needs the key, and costs nothing:
    # https://docs.perplexity.ai/api-reference/async-chat-completions-get
    "perplexity": Provider(
        "Perplexity", "https://api.perplexity.ai", "PERPLEXITY_BASE_URL", "async/chat/completions",
        ("requests", "data"),
    ),
}  # fmt: skip


class KeyAnswer(NamedTuple):
    """A provider's answer about a key, and the settings with which it was asked."""

    reply: Reply
    settings: Settings
    is_public: bool
    """Whether the service gives the same answer without any key."""


def api_key(variable: str, provider: str = "", *, base: str = "", **instead: Unpack[Instead]) -> Callable[..., None]:
    """The key in ``variable`` is filled in, can be sent, and is not rejected.

    :param provider: "openai" (and every service compatible with it), "anthropic", "google", "azure", "mistral" or
        "perplexity"; if it is left out, the variable's name has to tell. The key is sent to nobody else.
    :param base: the address to ask instead of the provider's, and of the one in its variable.
    """
    known = PROVIDERS[provider_of(variable, provider)]
    base = literal(base)

    def probe(ask: Ask) -> KeyAnswer:
        imported("httpx2", "http")
        question = question_of(known, ask, base)

        def asked() -> KeyAnswer:
            reply = asking.ask(question, ask.timeout)
            # Some compatible services show their models to anybody, so that any key would seem to be good.
            is_public = reply.is_list and base_of(known, ask, base) != known.base and _asked_without_key(question, ask)
            return KeyAnswer(reply, ask.settings, is_public)

        # A question that cannot be sent from here cannot be answered by another instance.
        if ask.sharing is None or asking.fault(question) is not None:
            return asked()
        return ask.shared(
            ("api_key", *question.about),
            asked,
            is_good=lambda answer: answer.reply.is_list and not answer.is_public,
            shared=lambda words, seconds: KeyAnswer(asking.good(question, words, seconds), ask.settings, False),
        )

    def judge(answer: KeyAnswer, details: Details) -> None:
        judge_key(variable, answer.settings, answer.reply, details)
        if answer.is_public:
            details["verified"] = False
            details.fix = f"send the service a request that requires a key, or use {variable} once by hand"
            who = host_of(answer.reply)
            unknown(f"{variable} is configured, but whether it works is unknown: {who} answers without a key as well")
        if not details["verified"]:
            reply = answer.reply
            details.fix = details.fix or f"ask {host_of(reply)} again later"
            unknown(f"{variable} is configured, but whether it works is unknown: {reply.failure or reply.seen}")

    return requirement(
        probe,
        judge,
        variable=variable,
        title=f"API key in {variable}",
        doc=f"The key of {known.name} is filled in, and not rejected by the service.",
        fix=f"set {variable} to a key of {known.name} that works",
        needs=["network"],
        instead=instead,
    )


def _asked_without_key(question: Question, ask: Ask) -> bool:
    """Whether the good answer comes without the key as well."""
    headers = {"Accept": "application/json"}
    return asking.ask(replace(question, key=None, headers=headers), ask.timeout / 2).is_list


_NAMES = {
    "AZURE_OPENAI": "azure", "OPENAI": "openai", "ANTHROPIC": "anthropic", "CLAUDE": "anthropic", "GOOGLE": "google",
    "GEMINI": "google", "MISTRAL": "mistral", "PERPLEXITY": "perplexity", "PPLX": "perplexity", "OLLAMA": "ollama",
    "VLLM": "vllm", "LLAMA_CPP": "llama.cpp", "LLAMACPP": "llama.cpp",
}  # fmt: skip
"""The names of services in variables."""
_TOLD = re.compile(rf"(?:^|_)({'|'.join(_NAMES)})_(?:API|BASE|ENDPOINT|HOST|KEY|TOKEN|URI|URL)(?:_|$)")
"""A variable that tells: GOOGLE_API_KEY does, and GOOGLE_MAPS_API_KEY is another service's."""


def provider_of(variable: str, provider: str, others: Collection[str] = ()) -> str:
    """The provider that was named, or that the variable's name tells. Raises ValueError if neither does."""
    known = (*PROVIDERS, *others)
    if not provider:
        told = _TOLD.search(variable.upper())
        provider = _NAMES[told[1]] if told else ""
        if provider not in known:
            raise ValueError(f"no provider has a key of this name: add provider=, one of {', '.join(known)}")
    if provider not in known:
        raise ValueError(f"the provider {provider!r} is not one of {', '.join(known)}")
    return provider


def question_of(known: Provider, ask: Ask, base: str = "", route: str = "") -> Question:
    """The question to the provider. Raises Failure if its address is not known."""
    where = base_of(known, ask, base)
    # OpenAI's own variables (organization, proxy) are about OpenAI's client.
    ours = known.variable.startswith("OPENAI_")
    environment = {name: value for name, value in ask.environment.items() if ours or not name.startswith("OPENAI_")}
    wrong = egress.unsendable(ask.value, alone=False)
    if wrong:
        raise Failure(f"{ask.variable} has a character that no HTTP header can carry: {wrong}")
    headers = None
    if not (ours and known.header == "Authorization"):
        headers = {"Accept": "application/json", known.header: f"{known.before}{ask.value}", **(known.others or {})}
    return Question(
        asking.below(where, route or known.route),
        ask.value,
        environment=environment,
        lists=known.lists,
        variable=known.variable if ask.environment.get(known.variable) and not base else "",
        headers=headers,
    )


def headers_of(question: Question) -> Mapping[str, str]:
    """The headers of the question. Raises Failure if HTTP does not allow one."""
    try:
        return question.headers or egress.headers(question.environment, question.key)
    except egress.Fault as fault:
        raise Failure(str(fault), fault.fix) from None


def base_of(known: Provider, ask: Ask, base: str = "") -> str:
    """The provider's address. Raises Failure if it is not known."""
    where = base or ask.environment.get(known.variable) or known.base
    if not where:
        missing = f"{known.variable} is not set, but each {known.name} customer has a different address"
        raise Failure(missing, f"set {known.variable} to the address of your {known.name}")
    return where
