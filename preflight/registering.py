"""What a project registers by name in its table: settings, verbs and tables of its own, ``module:attribute`` each."""

from __future__ import annotations

import importlib
from typing import Any

from preflight.text import first_line


class NotLoaded(Exception):
    """A registered name that leads nowhere; the text says which one, and why."""


def load(name: str) -> Any:
    """What the name stands for. Raises NotLoaded."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a module may raise what it likes, or leave with 0
        if isinstance(error, SystemExit) and type(error) is not SystemExit:
            raise  # a signal's, which ends the command
        raise NotLoaded(f"{name} cannot be loaded: {type(error).__name__}: {first_line(str(error))}") from error
