"""What takes long to answer is asked when a run begins, all at once; a requirement waits for the answer that it needs.

These are the network, the fleet's database, the probes of ready-made requirements, and the application's import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from preflight.settings.model import Settings
from preflight.suite.deadlines import DeadlineExceeded
from preflight.suite.probes.sharing import Sharing
from preflight.suite.soundness import uncollected

if TYPE_CHECKING:
    from preflight.suite.probes.answers import Answers
    from preflight.suite.probes.database import DatabaseProbe
    from preflight.suite.probes.network import Probes


class Inquiries:
    """The inquiries of one run."""

    def __init__(self, settings: Settings, origin: str, imported: Callable[[], tuple[str | None, str]]) -> None:
        """``imported`` waits for the application's import, see :meth:`application`."""
        self._settings = settings
        self._origin = origin
        self._imported = imported
        self._sharing = Sharing.of(settings, origin)
        self._probes: Probes | None = None
        self._database: DatabaseProbe | None = None
        self.answers: Answers | None = None
        """Those of ready-made requirements' probes; None if no such requirement is asked."""
        if origin != "pytest" and settings.database_url:
            self.database.start()  # at once: a start does not wait for it in the end

    def start(self, items: list[pytest.Item]) -> list[str]:
        """Ask what these requirements need; returns the values that are secret whatever their variables are called."""
        if any("probes" in fixtures(item) for item in items):
            self.probes.start()
        if any("database" in fixtures(item) for item in items):
            self.database.start()
        made = [one for item in items if (one := uncollected.made(item)) is not None]
        if not made:
            return []
        from preflight.suite.probes.answers import Answers

        self.answers = Answers(self._settings, self._sharing)
        self.answers.start(made)
        return self.answers.values(made)

    @property
    def probes(self) -> Probes:
        """The replies of the network."""
        if self._probes is None:
            from preflight.suite.probes.network import Probes

            self._probes = Probes(self._settings, self._sharing)
        return self._probes

    @property
    def database(self) -> DatabaseProbe:
        """The answer of the fleet's database."""
        if self._database is None:
            from preflight.suite.probes.database import DatabaseProbe

            self._database = DatabaseProbe(self._settings, starts=self._origin == "start")
        return self._database

    def application(self) -> tuple[str | None, str]:
        """Wait for the application's import; returns its error, if any, in one line, and what to do about it.

        The second is empty if importing the application by hand shows more.
        """
        try:
            return self._imported()
        except DeadlineExceeded as late:
            chosen = self._settings
            fix = (
                "make the import do less, or allow more time for it: PREFLIGHT_REQUIREMENT_TIMEOUT"
                f" (now {chosen.requirement_timeout:g} s) and PREFLIGHT_RUN_TIMEOUT (now {chosen.run_timeout:g} s)"
            )
            raise DeadlineExceeded(f"the import of {chosen.app} has not ended: it {late}", fix) from None

    def close(self) -> None:
        """End the programs of probes, and the sharing of answers with other instances."""
        if self.answers is not None:
            self.answers.close()
        if self._sharing is not None:
            self._sharing.close()


def fixtures(item: pytest.Item) -> Mapping[str, Any] | list[str]:
    """The names of the fixtures that a requirement asks for."""
    names: list[str] = getattr(item, "fixturenames", [])
    return names
