"""How one setting is declared: a field of a dataclass, with its parser and its line in the documentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, field, fields
from typing import Any, TypeVar

T = TypeVar("T")


class SettingsError(ValueError):
    """A setting that cannot be used; the message is one line that names its source and what is allowed."""


def setting(default: T, parse: Callable[[object], T], about: str, *, anywhere: bool = True, secret: bool = False) -> T:
    """Declare one setting.

    ``about`` is its line in the table of docs/settings.md; ``anywhere=False`` keeps it out of pyproject.toml and
    the env file, for switches that only the person who types the command should set. ``secret=True`` keeps
    it out of pyproject.toml, which is under version control.
    """
    metadata = {"parse": parse, "about": about, "anywhere": anywhere, "secret": secret}
    value: T = field(default=default, metadata=metadata)
    return value


def declared_by(kind: type) -> list[Field[Any]]:
    """The settings that a dataclass declares."""
    return [entry for entry in fields(kind) if "parse" in entry.metadata]
