"""A verb of the project's own: an option that the setting ``verbs`` registers, and the function that it stands for."""

from __future__ import annotations

from preflight import registering
from preflight.processes import interpreter
from preflight.settings.fields import SettingsError
from preflight.settings.model import Settings


def run(function: str, settings: Settings) -> int:
    """Call ``function`` (``module:attribute``); returns its exit code. Raises SettingsError if it cannot be loaded."""
    interpreter.put_first(settings.folder)
    try:
        verb = registering.load(function)
    except registering.NotLoaded as error:
        raise SettingsError(f"verbs: {error}") from error
    return int(verb(settings))
