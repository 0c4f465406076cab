"""Keys, the services that they are for, and the client that asks them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from preflight.contract import Details
from preflight.ready.judges import host_of, judge_fault, judge_key, judge_service
from preflight.settings import places
from preflight.settings.model import Settings
from preflight.suite.probes import egress

if TYPE_CHECKING:  # a run that asks nobody loads no client
    from preflight.suite.probes.network import Probes

# Variables that the client reads besides keys and proxies, and whose faults nothing else would report.
_READ = (*egress.ORGANIZATION, egress.PROJECT, "OPENAI_MODEL", "NO_PROXY", "no_proxy")


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
        pytest.fail(f"the client cannot be built: {said}")
    for name in _READ:
        place = places.of(settings, name)
        kept = place.flaw == places.KEPT_QUOTES
        if kept and (name == "OPENAI_MODEL" or not probes["openai"].is_list):
            details.fix = place.fix(f"set {name} {place.target} without {place.flaw}")
            pytest.fail(f"{name} {place.where} {place.flawed}{place.hiding}")
    reply = probes["openai"]
    through = f" through the proxy {reply.proxy.shown}" if reply.proxy else ""
    details.summary = f"asks {host_of(reply)}{through}"


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
