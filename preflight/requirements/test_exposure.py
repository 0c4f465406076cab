"""Who can reach the server."""

from __future__ import annotations

import shlex

import pytest

from preflight import ports
from preflight.contract import Details
from preflight.redaction.redactor import Redactor
from preflight.settings import places, template
from preflight.settings.envfile import EnvFile
from preflight.settings.model import TOKEN_LENGTH, Settings

SHOWN = "the token would not be redacted in logs and reports, since it is short, a word or the name of a host"


def appending(file: EnvFile) -> str:
    """The command that appends a new token to the env file, on a line of its own."""
    command = template.new_token()
    if file.problem is None and not file.path.read_bytes().endswith(b"\n"):
        command = command.replace("print('", r"print('\n")
    return f"{command} >> {shlex.quote(str(file.path))}"


def new_token(settings: Settings, instead: str) -> str:
    """The command that sets a new token where it counts, and what can be done instead.

    In the demo no env file is read; a variable of the environment wins over the file.
    """
    place = places.of(settings, "PREFLIGHT_TOKEN")
    in_shell = (
        f'export "$({template.new_token()})"' if settings.demo or place.in_environment else appending(settings.envfile)
    )
    return place.fix(f"{in_shell}  # or {instead}")


def is_redacted(token: str) -> bool:
    """Whether the redactor removes this token from logs and reports."""
    said = f"the token is {token}, it is wrong"
    return token not in Redactor.of_variables({"PREFLIGHT_TOKEN": token}).text(said)


def leads_elsewhere(settings: Settings) -> str:
    """The address that the name "localhost" has here, where others can reach that; else empty.

    A line in /etc/hosts is enough, and the server is bound to whatever address the name has.
    """
    if settings.host.lower() != "localhost" or settings.uds is not None:
        return ""
    try:
        bound = str(ports.resolve(settings.host, settings.port).sockaddr[0])
    except ports.PortUnavailable:
        return ""  # it cannot be bound, as Server Port says
    return "" if bound == "::1" or bound.startswith("127.") else bound


@pytest.mark.critical("Exposure", needs="web", ignorable=False)
def test_exposure(settings: Settings, details: Details) -> None:
    """Only this machine can reach the server, or a token of at least 16 characters protects it."""
    token = settings.token or ""
    # Truth values only: neither the token nor its length may get into a message.
    long_enough = len(token) >= TOKEN_LENGTH
    filled_in = not template.is_placeholder(token)
    redacted = not token or is_redacted(token)
    elsewhere = leads_elsewhere(settings)
    local = settings.loopback and settings.uds is None and not elsewhere
    details.update(host=settings.host, loopback=local, token_loaded=settings.token is not None)
    if settings.prefix:
        # A proxy in front of the application publishes these routes with it, wherever the server listens.
        if settings.token is None:
            details.summary = f"{settings.prefix} needs a login: each start makes the token, and prints a link"
            return
        details.fix = new_token(settings, "unset PREFLIGHT_TOKEN: each start makes one then")
        needed = f"PREFLIGHT_TOKEN needs at least {TOKEN_LENGTH} characters"
        needed = f"{settings.prefix} may be published by a proxy: {needed}"
        assert filled_in, f"the token is still the template's placeholder, and {needed}"
        assert long_enough, f"the token is too short: {needed}"
        assert redacted, f"{SHOWN}: PREFLIGHT_TOKEN must be a value that is not an ordinary word or name"
        details.fix = ""
        details.summary = f"{settings.prefix} needs the token"
        return
    if local and not settings.trusted_proxies:
        if not redacted:
            details.fix = new_token(settings, "unset PREFLIGHT_TOKEN")
        assert redacted, f"{SHOWN}: PREFLIGHT_TOKEN must be a value that is not an ordinary word or name"
        details.summary = "this machine only" + (", with a token" if settings.token else "")
        return
    instead = "unset PREFLIGHT_TRUSTED_PROXIES" if local else "serve on 127.0.0.1"
    details.fix = new_token(settings, instead)
    others = f"others can reach {settings.host}{f', which is {elsewhere} here,' if elsewhere else ''}"
    if settings.uds is not None:
        others = f"clients of {settings.address} have no address, so none of them counts as local,"
    elif local:
        others += " through a trusted proxy"
    needed = f"PREFLIGHT_TOKEN must be set to a value of at least {TOKEN_LENGTH} characters"
    assert settings.token is not None, f"{others} and there is no token: {needed}"
    hiding = places.of(settings, "PREFLIGHT_TOKEN").hiding
    assert filled_in, f"{others} and the token is still the template's placeholder: {needed}{hiding}"
    assert long_enough, f"{others} and the token is too short: {needed}{hiding}"
    assert redacted, f"{others} and {SHOWN}: {needed} that is not an ordinary word or name"
    details.summary = f"{others}; a token protects it"
