"""Re-runs: the worker asks its launcher for them, and hears about them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preflight.processes.rerun import Began, Ending, Heard, Steps


class LauncherRunner:
    """Asks the launcher to run the suite again; a :class:`preflight.processes.rerun.Runner`."""

    def __init__(self, say: Callable[..., None]) -> None:
        self._say = say
        self._followed: tuple[str, Heard, Callable[[Ending | None], object]] | None = None
        self.on_began: Began | None = None

    def begin(self, run_id: str, heard: Heard, over: Callable[[Ending | None], object]) -> None:
        """Ask the launcher to begin a re-run; both functions are called in the thread that hears the launcher."""
        self._followed = (run_id, heard, over)
        self._say("rerun", run_id=run_id)

    def end(self, run_id: str) -> None:
        """Ask the launcher to abort this re-run."""
        if self._followed is not None and self._followed[0] == run_id:
            self._followed = None
            self._say("rerun", run_id="")

    def hear(
        self,
        run_id: str,
        *,
        steps: Steps | None = None,
        ending: Mapping[str, Any] | None = None,
        elsewhere: bool = False,
        began: str = "",
        joins: str = "",
        ended: bool = False,
    ) -> None:
        """Take in a message about a re-run; see the methods of :class:`preflight.processes.worker.Worker`."""
        if began and self.on_began is not None and self._followed is None:
            self._followed = (run_id, *self.on_began(run_id, began))
        if self._followed is None or self._followed[0] != run_id:
            return  # nobody wants to know any more
        _run_id, heard, over = self._followed
        if joins:
            self._followed = (joins, heard, over)
            heard([("also", {"run_id": joins})])
        if steps is not None:
            heard(steps)
        if ended:
            self._followed = None
            over(None)
        if ending is None:
            return
        from preflight.processes.rerun import Ending
        from preflight.report.model import ReportError

        self._followed = None
        # An unreadable ending is missed by its deadline; this thread has more to hear.
        with contextlib.suppress(ReportError):
            over(Ending.from_json(ending)._replace(elsewhere=elsewhere))
