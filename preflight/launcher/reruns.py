"""Re-runs that a worker wants: begun, told, ended and concluded beside everything else that the launcher does."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from preflight.launcher.shown import Display
from preflight.processes.loop import Loop
from preflight.processes.rerun import Ending, Rerun, broken
from preflight.processes.worker import Worker
from preflight.settings.model import Settings


class Reruns:
    """One re-run at a time, for whichever worker there is."""

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, object],
        *,
        loop: Loop,
        display: Display,
        concluded: Callable[[Worker, Ending], object],
    ) -> None:
        """``concluded`` gets what came of each that was not ended before."""
        self._settings = settings
        self._options = options
        self._loop = loop
        self._display = display
        self._concluded = concluded
        self._rerun: Rerun | None = None

    def see_to(self, worker: Worker) -> None:
        """Begin the re-run that the worker wants, end one that it does not want any more, conclude one that is over."""
        if self._rerun is not None and self._rerun.run_id != worker.rerun:
            self.end()
        run_id = worker.rerun
        if not run_id:
            return
        terminal = self._display.terminal
        try:
            if self._rerun is None:
                self._rerun = Rerun(
                    self._settings,
                    self._options,
                    run_id,
                    self._loop,
                    heard=lambda steps: worker.rerun_goes_on(run_id, steps),
                    on_signal=self._display.signalled,
                )
            if not self._rerun.ended():
                return
            ending = self._rerun.conclude(terminal.redactor)
            self._rerun = None
        except Exception as error:  # noqa: BLE001  # a re-run takes no server with it; the next one gets its chance
            self.end()
            ending = broken(self._settings, run_id, error, terminal.redactor)
            terminal.line(f"Re-run {run_id}: {ending.reason}", "yellow")
        self._concluded(worker, ending)

    def left(self, at_most: float) -> float:
        """Seconds until there is something to do, should nothing happen."""
        return min(at_most, self._rerun.left) if self._rerun is not None else at_most

    def end(self) -> None:
        """End the one that goes on, if any, with no result."""
        if self._rerun is not None:
            self._rerun.abandon()
            self._rerun = None
