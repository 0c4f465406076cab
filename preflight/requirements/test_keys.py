"""Keys, the services that they are for, and the client that asks them."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from preflight.contract import Details, unknown
from preflight.settings import places, template
from preflight.settings.model import Settings
from preflight.settings.places import Place
from preflight.suite import egress
from preflight.suite.probes import Probes, Reply

# Codes of services for a key that is none, or none any more. A right that is missing (missing_scope) or a country that
# is not served is not the key's fault: https://platform.openai.com/docs/guides/error-codes
_REJECTS = re.compile(
    r"(?:invalid|incorrect|expired|revoked|disabled|unknown|missing)_(?:api_?)?(?:key|token|authentication|credentials?)"
    r"(?:_provided)?|(?:api_?)?(?:key|token|account|credentials?)_(?:invalid|incorrect|expired|revoked|disabled"
    r"|deactivated|not_found)|authentication_(?:error|failed)|unauthori[sz]ed",
)
# Codes for what a new key does not change, and what changes it.
_NOT_THE_KEY = (
    (re.compile(r"(?:^|_)ip(?:_|$)|allowlist|whitelist"), "let this machine's address in where the key is managed"),
    (re.compile(r"account_|organization_|project_"), "look at the account that the key belongs to: it is not active"),
)
_MONEY = re.compile(r"quota|balance|billing|credit|payment")
# What the client reads besides keys and proxies, and what would be wrong in it without anybody saying so.
_READ = (*egress.ORGANIZATION, egress.PROJECT, "OPENAI_MODEL", "NO_PROXY", "no_proxy")


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
        pytest.fail(f"{variable} was rejected by {_host(reply)} ({reply.seen}){about}{place.hiding}{purpose}")
    kept = place.flaw == places.KEPT_QUOTES and not verified
    assert not kept, f"{variable} {place.where} {place.flawed}{place.hiding}{purpose}"
    note = f"; {place.pending}" if place.pending else ""
    if reply.status == 403:
        details.fix = _about_403(reply)
        unknown(f"{variable} is neither accepted nor rejected: {_host(reply)} answered {reply.seen}{note}{purpose}")
    unverified = "" if verified else f", not verified: {reply.failure or reply.seen}"
    details.summary = f"from the {place.source}{unverified}{note}"


def _rejected(reply: Reply) -> bool:
    if reply.status == 403:
        return bool(_REJECTS.fullmatch(reply.code.lower()))
    return reply.status == 401


def _mending(settings: Settings, reply: Reply, place: Place) -> str:
    """What to do about a key that was rejected and looks like one."""
    for word, variables in (("organization", egress.ORGANIZATION), ("project", (egress.PROJECT,))):
        sent = next((found for name in variables if (found := places.of(settings, name)).value), None)
        if word in reply.code.lower() and sent is not None:
            return sent.fix(f"set {sent.variable} {sent.target} to the one that the key belongs to")
    code = reply.code.lower()
    helps = next((fix for about, fix in _NOT_THE_KEY if about.search(code)), None)
    return place.fix(helps or f"make a new key and set {place.variable} {place.target}")


def _about_403(reply: Reply) -> str:
    if reply.is_json:
        return "look at the rights of the key, and whether the service is offered in this region"
    return "find out what answers instead of the service: a firewall, a proxy or a login page"


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
        details.fix = base.fix(f"look at what {_host(reply)} logs; {variable} {base.where} names it")
    if reply.failure is not None:
        _not_answered(variable, settings, reply, details, purpose)
    status = reply.status or 0
    if status == 402 or (status in (400, 429) and _MONEY.search(reply.code.lower())):
        details.fix = "raise the account's quota or balance, or wait for its renewal"
        pytest.fail(f"HTTP {status}, the account's quota{'' if status == 429 else ' or balance'} is used up{purpose}")
    if status == 429:
        after = f" (Retry-After: {reply.retry_after})" if reply.retry_after else ""
        details.fix = "wait, or raise the account's limits"
        pytest.fail(f"HTTP 429, rate limited, wait before retry{after}{purpose}")
    if status in (404, 405):
        set_there = f"{variable} {base.where}" if base.value else variable
        details.fix = base.fix(f"check {set_there}: a wrong path answers like this, too")
        unknown(f"{_host(reply)} answers, and has no such route (HTTP {status}){purpose}")
    if status == 511 or (status == 407 and not reply.through):
        details.fix = _about_403(reply)
        unknown(f"what answers for {_host(reply)} wants a login first (HTTP {status}){purpose}")
    assert not 300 <= status < 400, f"{_host(reply)} answered HTTP {status}, a redirection{reply.through}{purpose}"
    # 401 and 403 are answers about the key, which has a requirement of its own.
    assert status < 300 or status in (401, 403), f"{name} answered HTTP {status}{reply.through}{purpose}"
    if not reply.is_json and status != 401:
        details.fix = _about_403(reply)
        unknown(f"{_host(reply)} answered {reply.seen}, and not with the JSON that was asked for{purpose}")
    details.summary = f"HTTP {status} in {reply.seconds:.2f} s"


def _not_answered(variable: str, settings: Settings, reply: Reply, details: Details, purpose: str) -> None:
    """What is known of a service that has not answered, or was not asked."""
    base = places.of(settings, variable)
    if reply.fault is not None and reply.fault.variable:
        said, details.fix = judge_fault(reply.fault, settings)
        pytest.fail(f"cannot be asked: {said}{purpose}")
    if reply.proxy is not None and reply.at_proxy:
        proxy = places.of(settings, reply.proxy.variable)
        set_there = f"set {proxy.variable} {proxy.target}" if proxy.variable else "set the system's proxy"
        details.fix = proxy.fix(f"see to the proxy, or {set_there} to one that answers")
        if "password" in (reply.failure or ""):
            details.fix = proxy.fix(f"{set_there} with the proxy's user and password in it")
            pytest.fail(f"{reply.failure}{purpose}")
        unknown(f"{reply.failure}{purpose}")
    if reply.fault is not None:
        key = variable.replace("_BASE_URL", "_API_KEY")
        details.fix = f"set {key} right first: nothing is asked without a key that can be sent"
        unknown(f"not asked: {reply.failure}{purpose}")
    through = f" the proxy of {reply.proxy.variable}," if reply.proxy and reply.proxy.variable and reply.through else ""
    details.fix = f"check the network{f' and{through[:-1]}' if through else ''}"
    if base.value:
        details.fix = base.fix(f"check the network,{through} and {variable} {base.where}")
    if (reply.failure or "").startswith("TLS failed"):
        details.fix = _about_certificates(settings)
    unknown(f"{_host(reply)}: {reply.failure}{purpose}")


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


def _host(reply: Reply) -> str:
    return reply.url.split("://", 1)[-1].split("/", 1)[0]


def _is_in(domain: str, reply: Reply) -> bool:
    try:
        host = urlsplit(reply.url).hostname or ""
    except ValueError:
        return False
    return f".{host}".endswith(f".{domain}")


@pytest.mark.critical("OpenAI API Key", needs=("agent", "keys"))
def test_openai_api_key(settings: Settings, probes: Probes, details: Details) -> None:
    """The key of the language model is loaded, filled in, and not rejected by the service."""
    judge_key("OPENAI_API_KEY", settings, probes["openai"], details)


@pytest.mark.warning("OpenAI API", needs=("agent", "network"))
def test_openai_api(settings: Settings, probes: Probes, details: Details) -> None:
    """The service of the language model answers."""
    about = {"domain": "openai.com", "status_page": "https://status.openai.com"}
    judge_service("OpenAI", "OPENAI_BASE_URL", settings, probes["openai"], details, **about)


@pytest.mark.critical("OpenAI Client", needs=("agent", "keys"))
def test_openai_client(settings: Settings, probes: Probes, details: Details) -> None:
    """The client of the language model can be built from the application's environment."""
    if not (settings.environment.get("OPENAI_API_KEY") or "").strip():
        details.summary = "not needed: no key is loaded"
        return
    fault = probes.fault("openai")
    if fault is not None and fault.variable:
        said, details.fix = judge_fault(fault, settings)
        pytest.fail(f"it cannot be built: {said}")
    for name in _READ:
        place = places.of(settings, name)
        kept = place.flaw == places.KEPT_QUOTES
        if kept and (name == "OPENAI_MODEL" or not probes["openai"].is_list):
            details.fix = place.fix(f"set {name} {place.target} without {place.flaw}")
            pytest.fail(f"{name} {place.where} {place.flawed}{place.hiding}")
    reply = probes["openai"]
    through = f" through the proxy {reply.proxy.shown}" if reply.proxy else ""
    details.summary = f"asks {_host(reply)}{through}"


OPTIONAL = " (optional service)"
UNWANTED = ", or PREFLIGHT_NOT_USED=Perplexity if it is not wanted"


@pytest.mark.warning("Perplexity API Key", needs=("agent", "keys"), service="Perplexity")
def test_perplexity_api_key(settings: Settings, probes: Probes, details: Details) -> None:
    """The key of the research service is loaded, filled in, and not rejected; the service is optional."""
    judge_key("PERPLEXITY_API_KEY", settings, probes["perplexity"], details, OPTIONAL, UNWANTED)


@pytest.mark.warning("Perplexity API", needs=("agent", "network"), service="Perplexity")
def test_perplexity_api(settings: Settings, probes: Probes, details: Details) -> None:
    """The research service answers; it is optional."""
    about = {"domain": "perplexity.ai", "status_page": "https://status.perplexity.com"}
    reply = probes["perplexity"]
    judge_service("Perplexity", "PERPLEXITY_BASE_URL", settings, reply, details, **about, purpose=OPTIONAL)
