"""A verb of the project's own: an option that the setting ``verbs`` registers, and the function that it stands for."""

from __future__ import annotations

import importlib

from preflight.processes import interpreter
from preflight.settings.model import Settings, SettingsError
from preflight.text import first_line


def run(function: str, settings: Settings) -> int:
    """Call ``function`` (``module:attribute``); returns its exit code. Raises SettingsError if it cannot be loaded."""
    interpreter.put_first(settings.folder)
    module, _, name = function.partition(":")
    try:
        verb = getattr(importlib.import_module(module), name)
    except Exception as error:  # a module may raise what it likes
        why = f"{type(error).__name__}: {first_line(str(error))}"
        raise SettingsError(f"verbs: {function} cannot be loaded: {why}") from error
    return int(verb(settings))
