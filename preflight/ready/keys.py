"""``ready.api_key``: a service of models knows the key, which a request that costs nothing finds out.

The judges of keys and of the services that they are for are here, too, and the agent server's requirements use them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from preflight.contract import Details, unknown
from preflight.making import Ask, Failure, imported, literal, requirement
from preflight.settings import places, template
from preflight.settings.model import Settings
from preflight.settings.places import Place
from preflight.suite import egress, probes
from preflight.suite.probes import Question, Reply

# Codes of services for a key that is none, or none any more. A right that is missing (missing_scope) or a country that
# is not served is not the key's fault: https://platform.openai.com/docs/guides/error-codes
_REJECTS = re.compile(
    r"(?:invalid|incorrect|expired|revoked|disabled|unknown|missing)_(?:api_?)?(?:key|token|authentication|credentials?)"
    r"(?:_provided)?|(?:api_?)?(?:key|token|account|credentials?)_(?:invalid|incorrect|expired|revoked|disabled"
    r"|deactivated|not_found)|authentication_(?:error|failed)|unauthori[sz]ed",
)
# Codes for what a new key does not change, and what changes it.
_NOT_THE_KEY = (
    (re.compile(r"(?:^|_)ip(?:_|$)|allowlist|whitelist"), "allow this machine's address where the key is managed"),
    (re.compile(r"account_|organization_|project_"), "check the account that the key belongs to: it is not active"),
)
MONEY = re.compile(r"quota|balance|billing|credit|payment")


@dataclass(frozen=True, slots=True)
class Provider:
    """How a provider is asked for something that is free."""

    name: str
    base: str
    """Where it is; empty where each customer has an address of their own."""
    variable: str
    """The variable that puts another address in its place."""
    route: str
    lists: tuple[str, ...]
    """Under which names the good answer has a list."""
    header: str = "Authorization"
    before: str = "Bearer "
    """What stands before the key in its header."""
    others: Mapping[str, str] | None = None
    """Other headers that it wants."""


PROVIDERS = {  # in the order in which a variable's name is looked through for theirs
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
    # Sonar has no list of models; one's own asynchronous jobs need the key, and spend nothing:
    # https://docs.perplexity.ai/api-reference/async-chat-completions-get
    "perplexity": Provider(
        "Perplexity", "https://api.perplexity.ai", "PERPLEXITY_BASE_URL", "async/chat/completions",
        ("requests", "data"),
    ),
}  # fmt: skip


class Answer(NamedTuple):
    """What a provider has said of a key, and with which settings it was asked."""

    reply: Reply
    settings: Settings
    is_public: bool
    """Whether the service answers the same without any key."""


def api_key(
    variable: str,
    provider: str = "",
    *,
    base: str = "",
    severity: str = "critical",
    scope: str = "instance",
    title: str = "",
    fix: str = "",
    doc: str = "",
    timeout: float = 5.0,
) -> Callable[..., None]:
    """The key in ``variable`` is filled in, can be sent, and is not rejected.

    :param provider: "openai" (and every service compatible with it), "anthropic", "google", "azure", "mistral" or
        "perplexity"; where it is left out, the variable's name has to tell: nobody else is sent the key.
    :param base: the address to ask instead of the provider's, and of the one in its variable.
    """
    known = PROVIDERS[provider_of(variable, provider)]
    base = literal(base)

    def probe(ask: Ask) -> Answer:
        imported("httpx2", "http")
        question = question_of(known, ask, base)

        def asked() -> Answer:
            reply = probes.ask(question, ask.timeout)
            # Some compatible services show their models to anybody, so that any key would seem to be good.
            is_public = reply.is_list and base_of(known, ask, base) != known.base and _asked_without_key(question, ask)
            return Answer(reply, ask.settings, is_public)

        # What cannot be sent from here is nobody else's to answer.
        if ask.sharing is None or probes.fault(question) is not None:
            return asked()
        return ask.shared(
            ("api_key", *question.about),
            asked,
            is_good=lambda answer: answer.reply.is_list and not answer.is_public,
            shared=lambda words, seconds: Answer(probes.good(question, words, seconds), ask.settings, False),
        )

    def judge(answer: Answer, details: Details) -> None:
        judge_key(variable, answer.settings, answer.reply, details)
        if answer.is_public:
            details["verified"] = False
            details.fix = f"ask the service for something that wants a key, or use {variable} once by hand"
            who = host_of(answer.reply)
            unknown(f"{variable} is configured, and nobody knows whether it works: {who} answers without a key as well")
        if not details["verified"]:
            reply = answer.reply
            details.fix = details.fix or f"ask {host_of(reply)} again later"
            unknown(f"{variable} is configured, and nobody knows whether it works: {reply.failure or reply.seen}")

    return requirement(
        probe,
        judge,
        variable=variable,
        severity=severity,
        scope=scope,
        title=title or f"API key in {variable}",
        doc=doc or f"The key of {known.name} is filled in, and not rejected by the service.",
        fix=fix or f"set {variable} to a key of {known.name} that works",
        needs=["network"],
        timeout=timeout,
    )


def _asked_without_key(question: Question, ask: Ask) -> bool:
    """Whether the good answer comes without the key as well."""
    headers = {"Accept": "application/json"}
    return probes.ask(replace(question, key=None, headers=headers), ask.timeout / 2).is_list


_OTHER_NAMES = {
    "gemini": "google", "claude": "anthropic", "pplx": "perplexity", "llama_cpp": "llama.cpp", "llamacpp": "llama.cpp",
}  # fmt: skip


def provider_of(variable: str, provider: str, others: Collection[str] = ()) -> str:
    """The provider that was named, or that the variable's name tells. Raises ValueError where neither does."""
    known = (*PROVIDERS, *others)
    if not provider:
        words = {**{one: one for one in known}, **_OTHER_NAMES}
        provider = next((name for word, name in words.items() if word in variable.lower()), "")
        if not provider:
            raise ValueError(f"nobody knows whose key is in a variable of this name: add provider=, {', '.join(known)}")
    if provider not in known:
        raise ValueError(f"the provider {provider!r} is none of {', '.join(known)}")
    return provider


def question_of(known: Provider, ask: Ask, base: str = "", route: str = "") -> Question:
    """What the provider is asked. Raises Failure where its address is nowhere to be found."""
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
        probes.below(where, route or known.route),
        ask.value,
        environment=environment,
        lists=known.lists,
        variable=known.variable if ask.environment.get(known.variable) and not base else "",
        headers=headers,
    )


def headers_of(question: Question) -> Mapping[str, str]:
    """What is sent with it. Raises Failure where HTTP does not allow that."""
    try:
        return question.headers or egress.headers(question.environment, question.key)
    except egress.Fault as fault:
        raise Failure(str(fault), fault.fix) from None


def base_of(known: Provider, ask: Ask, base: str = "") -> str:
    """The provider's address. Raises Failure where it is nowhere to be found."""
    where = base or ask.environment.get(known.variable) or known.base
    if not where:
        missing = f"{known.variable} is not set, and nobody else knows the address of {known.name}"
        raise Failure(missing, f"set {known.variable} to the address of your {known.name}")
    return where


def judge_key(
    variable: str, settings: Settings, reply: Reply, details: Details, purpose: str = "", unwanted: str = ""
) -> None:
    """A key is there, filled in, can be sent, and is not rejected. Its value must not get into a message.

    ``unwanted`` says, behind the fix of a key that is not set, how to do without it.
    """
    place = places.of(settings, variable)
    value = place.value or ""
    loaded = bool(value.strip())
    details.update(variable=variable, loaded=loaded, source=place.source if loaded else None, verified=False)
    details.fix = place.fix(f"set {variable} {place.target}{unwanted}")
    if not loaded and place.pending:
        pytest.fail(f"{variable} is not loaded by this server: {place.pending}{purpose}")
    if not loaded and place.in_environment:
        details.fix = place.fix(f"set {variable} in the environment, or take it away there and set it in {place.file}")
        pytest.fail(f"{variable} is empty in the environment{place.hiding}{purpose}")
    assert loaded, f"{variable} is {'not set' if place.value is None else f'empty {place.where}'}{purpose}"
    filled_in = not template.is_placeholder(value)
    assert filled_in, f"{variable} is still the template's placeholder{place.hiding}{purpose}"
    wrong = egress.unsendable(value, alone=False)
    if wrong:
        details.fix = place.fix(f"set {variable} {place.target} without that character")
    said = f"{variable} {place.where} has a character that no HTTP header can carry: {wrong}"
    assert not wrong, f"{said}{place.hiding}{purpose}"
    # Only the answer that was asked for says that the key is good: a service in trouble answers before it looks at one,
    # and so does what is in between.
    details["verified"] = verified = reply.is_list
    if place.flaw:
        details.fix = place.fix(f"set {variable} {place.target} without {place.flaw}")
    if _rejected(reply):
        about = ""
        if place.flaw:
            about = f": it {place.flawed}"
        else:
            details.fix = _mending(settings, reply, place)
        pytest.fail(f"{variable} was rejected by {host_of(reply)} ({reply.seen}){about}{place.hiding}{purpose}")
    kept = place.flaw == places.KEPT_QUOTES and not verified
    assert not kept, f"{variable} {place.where} {place.flawed}{place.hiding}{purpose}"
    note = f"; {place.pending}" if place.pending else ""
    if reply.status == 403:
        details.fix = _about_403(reply)
        unknown(f"{variable} is neither accepted nor rejected: {host_of(reply)} answered {reply.seen}{note}{purpose}")
    unverified = "" if verified else f", not verified: {reply.failure or reply.seen}"
    asker = f", {reply.shared}" if reply.shared else ""
    details.summary = f"from the {place.source}{unverified}{asker}{note}"


def _rejected(reply: Reply) -> bool:
    if reply.status in (400, 403):  # Google answers a key that is none with 400
        return bool(_REJECTS.fullmatch(reply.code.lower()))
    return reply.status == 401


def _mending(settings: Settings, reply: Reply, place: Place) -> str:
    """What to do about a key that was rejected and looks like one."""
    for word, variables in (("organization", egress.ORGANIZATION), ("project", (egress.PROJECT,))):
        sent = next((found for name in variables if (found := places.of(settings, name)).value), None)
        if word in reply.code.lower() and sent is not None:
            return sent.fix(f"set {sent.variable} {sent.target} to the {word} that the key belongs to")
    code = reply.code.lower()
    helps = next((fix for about, fix in _NOT_THE_KEY if about.search(code)), None)
    return place.fix(helps or f"make a new key and set {place.variable} {place.target}")


def _about_403(reply: Reply) -> str:
    if reply.is_json:
        return "check the rights of the key, and whether the service is offered in this region"
    return "find out which program answers in place of the service: a firewall, a proxy or a login page"


def judge_service(
    name: str,
    variable: str,
    settings: Settings,
    reply: Reply,
    details: Details,
    *,
    domain: str,
    status_page: str,
    purpose: str = "",
) -> None:
    """The service answers, and not with a fault of its own. ``domain`` is the one that ``status_page`` is about."""
    base = places.of(settings, variable)
    details.update(url=reply.url, status=reply.status, retry_after=reply.retry_after, seconds=round(reply.seconds, 3))
    details.fix = f"look at {status_page}"
    if not _is_in(domain, reply):
        # A self-hosted service has no page there.
        details.fix = base.fix(f"look at what {host_of(reply)} logs; {variable} {base.where} names it")
    if reply.failure is not None:
        _not_answered(variable, settings, reply, details, purpose)
    status = reply.status or 0
    if status == 402 or (status in (400, 429) and MONEY.search(reply.code.lower())):
        details.fix = "raise the account's quota or balance, or wait for its renewal"
        pytest.fail(f"HTTP {status}, the account's quota{'' if status == 429 else ' or balance'} is used up{purpose}")
    if status == 429:
        after = f" (Retry-After: {reply.retry_after})" if reply.retry_after else ""
        details.fix = "wait, or raise the account's limits"
        pytest.fail(f"HTTP 429, rate limited, wait before retry{after}{purpose}")
    if status in (404, 405):
        set_there = f"{variable} {base.where}" if base.value else variable
        details.fix = base.fix(f"check {set_there}: a wrong path answers like this, too")
        unknown(f"{host_of(reply)} answers, and has no such route (HTTP {status}){purpose}")
    if status == 511 or (status == 407 and not reply.through):
        details.fix = _about_403(reply)
        unknown(f"a gateway on the way to {host_of(reply)} demands a login first (HTTP {status}){purpose}")
    assert not 300 <= status < 400, f"{host_of(reply)} answered HTTP {status}, a redirection{reply.through}{purpose}"
    # 401 and 403 are answers about the key, which has a requirement of its own.
    assert status < 300 or status in (401, 403), f"{name} answered HTTP {status}{reply.through}{purpose}"
    if not reply.is_json and status != 401:
        details.fix = _about_403(reply)
        unknown(f"{host_of(reply)} answered {reply.seen}, and not with the JSON that was asked for{purpose}")
    details.summary = f"HTTP {status} in {reply.seconds:.2f} s{f', {reply.shared}' if reply.shared else ''}"


def _not_answered(variable: str, settings: Settings, reply: Reply, details: Details, purpose: str) -> None:
    """What is known of a service that has not answered, or was not asked."""
    base = places.of(settings, variable)
    if reply.fault is not None and reply.fault.variable:
        said, details.fix = judge_fault(reply.fault, settings)
        pytest.fail(f"the service cannot be asked: {said}{purpose}")
    if reply.proxy is not None and reply.at_proxy:
        proxy = places.of(settings, reply.proxy.variable)
        set_there = f"set {proxy.variable} {proxy.target}" if proxy.variable else "set the system's proxy"
        details.fix = proxy.fix(f"repair the proxy, or {set_there} to one that answers")
        if "password" in (reply.failure or ""):
            details.fix = proxy.fix(f"{set_there} with the proxy's user and password in it")
            pytest.fail(f"{reply.failure}{purpose}")
        unknown(f"{reply.failure}{purpose}")
    if reply.fault is not None:
        key = variable.replace("_BASE_URL", "_API_KEY")
        details.fix = f"correct {key} first: the service is asked only with a key that can be sent"
        unknown(f"not asked: {reply.failure}{purpose}")
    through = f" the proxy of {reply.proxy.variable}," if reply.proxy and reply.proxy.variable and reply.through else ""
    details.fix = f"check the network{f' and{through[:-1]}' if through else ''}"
    if base.value:
        details.fix = base.fix(f"check the network,{through} and {variable} {base.where}")
    if (reply.failure or "").startswith("TLS failed"):
        details.fix = _about_certificates(settings)
    unknown(f"{host_of(reply)}: {reply.failure}{purpose}")


def _about_certificates(settings: Settings) -> str:
    """What to do where the client does not trust the certificate that it was shown."""
    for name in egress.CERTIFICATES:
        place = places.of(settings, name)
        if place.value:
            return place.fix(f"check what {name} {place.where} names: the client trusts nothing else")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if settings.environment.get(name):
            return f"set SSL_CERT_FILE to what {name} names: the agent's client reads no other variable"
    return "set SSL_CERT_FILE to a file with the certificates to trust, if this one is to be trusted"


def judge_fault(fault: egress.Fault, settings: Settings) -> tuple[str, str]:
    """What is wrong with a variable for the client, and what to do about it."""
    place = places.of(settings, fault.variable)
    about = f": it {place.flawed}" if place.flaw else ""
    fix = fault.fix or f"set {fault.variable} {place.target} right, or take it away there"
    return f"{fault.variable} {place.where} {fault.what}{about}{place.hiding}", place.fix(fix)


def host_of(reply: Reply) -> str:
    """The host that answered, or was asked."""
    return reply.url.split("://", 1)[-1].split("/", 1)[0]


def _is_in(domain: str, reply: Reply) -> bool:
    try:
        host = urlsplit(reply.url).hostname or ""
    except ValueError:
        return False
    return f".{host}".endswith(f".{domain}")
