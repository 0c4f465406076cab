"""What the sources of settings say beyond the settings: where the project is, and what the application will see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from preflight.settings.envfile import EnvFile


@dataclass(frozen=True, slots=True, init=False, repr=False, eq=False)
class Sources:
    """What was read, beyond each setting's value."""

    root: Path
    """Where pyproject.toml is; ids, and relative paths in settings, start from here."""
    folder: Path
    """Where the command was typed: the working directory of suite and worker, and on their import path."""
    envfile: EnvFile
    environment: Mapping[str, str]
    """The env file's variables below the process's own: what the application will see."""
    own: tuple[str, ...]
    """The variables that the process itself was given: those win over the env file's."""
    sources: Mapping[str, str]
    """The source of each setting that does not have its default, by setting name."""
    project: str
    """``[project] name`` of pyproject.toml; empty if it has none."""
    declared: Mapping[str, Any] | None
    """What is needed, as `declared` has read it; None: nothing says what."""
    application: Mapping[str, Any]
    """The values of the application's own settings, by name; `of` makes its dataclass of them."""
    set_aside: tuple[str, ...]
    """Variables that look like settings, and come from a platform; see servicelinks.py."""
    secret: tuple[str, ...] = ()
    """Which of the application's own settings are secrets."""
    next_start: tuple[str, ...] = ()
    """What the next start would do differently, for a re-run: its settings are those of the instance that runs."""
    envfile_broke: bool = False
    """Whether the env file was valid when the instance read it, and is no longer; for a re-run."""

    def __init__(self, **values: Any) -> None:
        """What `dataclass` would generate for a hundred fields takes each process of a start 3 ms and a megabyte."""
        for entry in fields(self):
            value = values.pop(entry.name, entry.default)
            if value is MISSING:
                raise TypeError(f"{entry.name} is missing")
            object.__setattr__(self, entry.name, value)
        if values:
            raise TypeError(f"there is no setting {next(iter(values))!r}")
