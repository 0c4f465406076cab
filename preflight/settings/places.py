"""Where the value of a variable comes from, so that a fix names a place where it helps."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from preflight import times
from preflight.settings import template
from preflight.settings.loading import quoted
from preflight.settings.model import Settings

KEPT_QUOTES = "quotes around it"
_QUOTES = ('"', "'", "`")


class Place(NamedTuple):
    """Where a variable of the application is set: in the environment, in the env file, in both or nowhere."""

    variable: str
    value: str | None
    """The application's value; None if it has none. Never part of a message."""
    file: Path
    in_environment: bool
    """Whether the process itself was given it: then the env file's value does not count."""
    line: int | None
    """The env file's line with it, as the file is now; None if it has none."""
    differs: bool
    """Whether the env file, as it is now, has another value than the application, or none."""
    hides: bool
    """Whether it is in the environment and hides another value, one that is filled in, in the env file."""

    @property
    def source(self) -> str:
        """The source in two words, as reports have it."""
        return "environment" if self.in_environment else "env file"

    @property
    def where(self) -> str:
        """Where it is set, for people: "in the environment", "in /home/me/.env:3"."""
        return "in the environment" if self.in_environment else f"in {self._filed}"

    @property
    def target(self) -> str:
        """Where another value has to be set: "in the environment", "in /home/me/.env"."""
        return "in the environment" if self.in_environment else f"in {self.file}"

    @property
    def _filed(self) -> str:
        return f"{self.file}:{self.line}" if self.line is not None else str(self.file)

    @property
    def hiding(self) -> str:
        """What a message has to add about a hidden value; empty if none is hidden."""
        return f"; the value in the environment hides the one in {self._filed}" if self.hides else ""

    @property
    def pending(self) -> str:
        """How the env file has changed since this server has loaded it; empty if it has not."""
        if self.in_environment or not self.differs:
            return ""
        if self.line is None:
            return f"the env file has not contained it since {_written(self.file)}: the next start will not have it"
        what = "it has been" if self.value is None else "another value has been"
        return f"{what} in the env file since {_written(self.file)}; restart to load it"

    def fix(self, otherwise: str) -> str:
        """What to do about its value: a command, or a sentence; ``otherwise`` where no other value is in sight."""
        if self.hides:
            return f"unset {self.variable}  # the value in the environment hides the one in {self._filed}"
        if self.pending and self.line is not None:
            return f"restart the server: it loads {self.file} when it starts"
        return otherwise

    @property
    def flaw(self) -> str:
        """A visible fault of the value, whatever it is for: "quotes around it"; empty if there is none."""
        value = self.value or ""
        if quoted(value):
            return KEPT_QUOTES
        if value.strip().startswith(_QUOTES) or value.strip().endswith(_QUOTES):
            return "a quote at one end"
        if value != value.strip():
            return "white space around it"
        return "white space in it" if len(value.split()) > 1 else ""

    @property
    def flawed(self) -> str:
        """The flaw, as the rest of a sentence that begins with the variable."""
        kept = ", as `docker --env-file` keeps them" if self.flaw == KEPT_QUOTES and self.in_environment else ""
        return f"has {self.flaw}{kept}"


def of(settings: Settings, variable: str) -> Place:
    """Where ``variable`` comes from. In a re-run: where the running server has it from."""
    value = settings.environment.get(variable)
    filed = settings.envfile.values.get(variable)
    given = variable in settings.own
    filled_in = bool(filed and filed.strip()) and not template.is_placeholder(filed or "")
    return Place(
        variable,
        value,
        settings.envfile.path,
        in_environment=given,
        line=settings.envfile.lines.get(variable),
        differs=filed != value,
        hides=given and filed != value and filled_in,
    )


def _written(file: Path) -> str:
    """When the file was last written."""
    try:
        return times.minute(file.stat().st_mtime)
    except OSError:
        return times.minute(time.time())  # it has just gone
