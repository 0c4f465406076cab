"""The listening socket that systemd has passed with a command, compared with the settings."""

from __future__ import annotations

from preflight.output import plainlines
from preflight.ports import activation
from preflight.ports.activation import Inherited, Passed
from preflight.settings.fields import SettingsError
from preflight.settings.model import Settings

MISSED = (
    "systemd has passed a socket to the parent process, so this start did not get it: make ExecStart= run this command"
    " itself, without `uv run` or a shell around it"
)


def listener(passed: Passed, settings: Settings) -> Inherited | None:
    """The socket to serve on; None if none was passed. Raises SettingsError for a socket that cannot be used."""
    if passed.missed:
        plainlines.note(MISSED)
    try:
        return activation.listener(passed, settings.host, settings.port, settings.uds)
    except activation.UnusableSocket as error:
        raise SettingsError(str(error)) from None
