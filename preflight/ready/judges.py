"""The judges of keys, and of the services that they are for: of ``ready.api_key``, and of the agent server's own.

They are handed what was answered and ask nobody, so a suite that leaves such requirements out loads no client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from preflight.contract import Details, unknown
from preflight.patterns import lazy
from preflight.settings import places, template
from preflight.settings.model import Settings
from preflight.settings.places import Place
from preflight.suite.probes import egress

if TYPE_CHECKING:
    from preflight.suite.probes.asking import Reply

# Codes of services for a key that is none, or none any more. A right that is missing (missing_scope) or a country that
# is not served is not the key's fault: https://platform.openai.com/docs/guides/error-codes
_REJECTS = lazy(
    r"(?:invalid|incorrect|expired|revoked|disabled|unknown|missing)_(?:api_?)?(?:key|token|authentication|credentials?)"
    r"(?:_provided)?|(?:api_?)?(?:key|token|account|credentials?)_(?:invalid|incorrect|expired|revoked|disabled"
    r"|deactivated|not_found)|authentication_(?:error|failed)|unauthori[sz]ed",
)
# Codes of faults that a new key does not mend, and what mends them.
_NOT_THE_KEY = (
    (lazy(r"(?:^|_)ip(?:_|$)|allowlist|whitelist"), "allow this machine's address where the key is managed"),
    (lazy(r"account_|organization_|project_"), "check the account that the key belongs to: it is not active"),
)
MONEY = lazy(r"quota|balance|billing|credit|payment")


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
        details.fix = place.fix(f"set {variable} in the environment, or remove it there and set it in {place.file}")
        pytest.fail(f"{variable} is empty in the environment{place.hiding}{purpose}")
    assert loaded, f"{variable} is {'not set' if place.value is None else f'empty {place.where}'}{purpose}"
    filled_in = not template.is_placeholder(value)
    assert filled_in, f"{variable} is still the template's placeholder{place.hiding}{purpose}"
    wrong = egress.unsendable(value, alone=False)
    if wrong:
        details.fix = place.fix(f"set {variable} {place.target} without that character")
    said = f"{variable} {place.where} has a character that no HTTP header can carry: {wrong}"
    assert not wrong, f"{said}{place.hiding}{purpose}"
    # Only the answer that was asked for says that the key is good: a service in trouble answers before it looks at the
    # key, and so does a proxy in between.
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
        return is_rejection(reply.code)
    return reply.status == 401


def is_rejection(code: str) -> bool:
    """Whether a service's code of an error says that the key is none, or none any more."""
    return bool(_REJECTS.fullmatch(code.lower()))


def _mending(settings: Settings, reply: Reply, place: Place) -> str:
    """What to do about a rejected key that looks like a key."""
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
        pytest.fail(f"HTTP 429, rate limited: wait before the next attempt{after}{purpose}")
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
        unknown(f"{host_of(reply)} answered {reply.seen}, but not with the JSON that was asked for{purpose}")
    details.summary = f"HTTP {status} in {reply.seconds:.2f} s{f', {reply.shared}' if reply.shared else ''}"


def _not_answered(variable: str, settings: Settings, reply: Reply, details: Details, purpose: str) -> None:
    """What is known about a service that has not answered, or was not asked."""
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
    fix = fault.fix or f"correct {fault.variable} {place.target}, or remove it there"
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
