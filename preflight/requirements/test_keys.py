"""Keys, and the services that they are for."""

from __future__ import annotations

import pytest

from preflight import template
from preflight.contract import Details, unknown
from preflight.probes import Probes, Reply
from preflight.settings import Settings


def judge_key(
    variable: str, settings: Settings, reply: Reply, details: Details, purpose: str = "", unwanted: str = ""
) -> None:
    """A key is there, filled in, and not rejected. Only truth values here: a key must not get into a message.

    ``unwanted`` says, behind the fix of a key that is not set, how to do without it.
    """
    value = settings.environment.get(variable, "")
    where = "env file" if variable in settings.envfile.values else "environment"
    # The process's own environment wins where both have it.
    if settings.envfile.values.get(variable) != value:
        where = "environment"
    loaded = bool(value.strip())
    details.update(variable=variable, loaded=loaded, source=where if loaded else None)
    details.fix = f"set {variable} in {settings.envfile.path}{unwanted}"
    assert loaded, f"{variable} is {'empty' if variable in settings.environment else 'not set'}{purpose}"
    filled_in = not template.is_placeholder(value)
    assert filled_in, f"{variable} is still the template's placeholder{purpose}"
    rejected = reply.status in (401, 403)
    # Only a good answer says that the key is good: a service in trouble answers before it looks at one.
    details["verified"] = reply.status is not None and reply.status < 300
    if rejected:
        details.fix = f"make a new key and set {variable} in {settings.envfile.path}"
    assert not rejected, f"{variable} was rejected by {_host(reply)} (HTTP {reply.status}){purpose}"
    details.summary = f"from the {where}" + (
        "" if details["verified"] else f", not verified: {reply.failure or f'HTTP {reply.status}'}"
    )


def judge_service(name: str, variable: str, reply: Reply, details: Details, purpose: str = "") -> None:
    """The service answers, and not with a fault of its own."""
    details.update(url=reply.url, status=reply.status, retry_after=reply.retry_after, seconds=round(reply.seconds, 3))
    if reply.failure is not None:
        details.fix = f"check the network, and {variable} if it is set"
        unknown(f"{_host(reply)}: {reply.failure}{purpose}")
    status = reply.status or 0
    if status == 429:
        after = f" (Retry-After: {reply.retry_after})" if reply.retry_after else ""
        details.fix = "wait, or raise the account's limits"
        pytest.fail(f"HTTP 429, rate limited, wait before retry{after}{purpose}")
    if status in (404, 405):
        details.fix = f"check {variable}: a wrong path answers like this, too"
        unknown(f"{_host(reply)} answers, and has no such route (HTTP {status}){purpose}")
    assert not 300 <= status < 400, f"{_host(reply)} answered HTTP {status}, a redirection{purpose}"
    # 401 and 403 are answers about the key, which has a requirement of its own.
    assert status < 300 or status in (401, 403), f"{name} answered HTTP {status}{purpose}"
    details.summary = f"HTTP {status} in {reply.seconds:.2f} s"


def _host(reply: Reply) -> str:
    return reply.url.split("://", 1)[-1].split("/", 1)[0]


@pytest.mark.critical("OpenAI API Key", needs="keys")
def test_openai_api_key(settings: Settings, probes: Probes, details: Details) -> None:
    """The key of the language model is loaded, filled in, and not rejected by the service."""
    judge_key("OPENAI_API_KEY", settings, probes["openai"], details)


@pytest.mark.warning("OpenAI API", needs="network", fix="look at https://status.openai.com")
def test_openai_api(probes: Probes, details: Details) -> None:
    """The service of the language model answers."""
    judge_service("OpenAI", "OPENAI_BASE_URL", probes["openai"], details)


OPTIONAL = " (optional service)"
UNWANTED = ", or PREFLIGHT_NOT_USED=Perplexity if it is not wanted"


@pytest.mark.warning("Perplexity API Key", needs="keys", service="Perplexity")
def test_perplexity_api_key(settings: Settings, probes: Probes, details: Details) -> None:
    """The key of the research service is loaded, filled in, and not rejected; the service is optional."""
    judge_key("PERPLEXITY_API_KEY", settings, probes["perplexity"], details, OPTIONAL, UNWANTED)


@pytest.mark.warning(
    "Perplexity API", needs="network", service="Perplexity", fix="look at https://status.perplexity.com"
)
def test_perplexity_api(probes: Probes, details: Details) -> None:
    """The research service answers; it is optional."""
    judge_service("Perplexity", "PERPLEXITY_BASE_URL", probes["perplexity"], details, OPTIONAL)
