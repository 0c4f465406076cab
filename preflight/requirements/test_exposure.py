"""Who can reach the server."""

from __future__ import annotations

import pytest

from preflight import template
from preflight.contract import Details
from preflight.settings import NEW_TOKEN, TOKEN_LENGTH, Settings


@pytest.mark.critical("Exposure", needs="agent", ignorable=False)
def test_exposure(settings: Settings, details: Details) -> None:
    """Only this machine can reach the server, or a token of at least 16 characters protects it."""
    token = settings.token or ""
    # Truth values only: neither the token nor its length may get into a message.
    long_enough = len(token) >= TOKEN_LENGTH
    filled_in = not template.is_placeholder(token)
    details.update(host=settings.host, loopback=settings.loopback, token_loaded=settings.token is not None)
    details.fix = f"{NEW_TOKEN} >> {settings.envfile.path}, or serve on 127.0.0.1"
    if settings.demo:
        # There is no env file that is read.
        details.fix = f'export "$({NEW_TOKEN})", or serve on 127.0.0.1'
    if settings.loopback and not settings.trusted_proxies:
        details.summary = "this machine only" + (", with a token" if settings.token else "")
        return
    others = f"others can reach {settings.host}"
    if settings.loopback:
        others += " through a trusted proxy"
        details.fix = details.fix.replace("serve on 127.0.0.1", "unset PREFLIGHT_TRUSTED_PROXIES")
    needed = f"PREFLIGHT_TOKEN must be set to at least {TOKEN_LENGTH} characters"
    assert settings.token is not None, f"{others} and there is no token: {needed}"
    assert filled_in, f"{others} and the token is still the template's placeholder: {needed}"
    assert long_enough, f"{others} and the token is too short: {needed}"
    details.summary = f"{others}; a token protects it"
