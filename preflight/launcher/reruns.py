"""Re-runs that workers ask for: the launcher begins, reports, ends and concludes them beside its other tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from preflight.launcher.shown import Display
from preflight.processes.loop import Loop
from preflight.processes.rerun import Ending, Rerun, Steps, broken
from preflight.processes.worker import Worker
from preflight.settings.model import Settings


class LauncherReruns:
    """One re-run at a time, for all workers, whichever of them was asked for it."""

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, object],
        *,
        loop: Loop,
        display: Display,
        audience: Callable[[], Sequence[Worker]],
        concluded: Callable[[Ending, Worker | None], object],
    ) -> None:
        """``audience`` returns the workers that serve.

        ``concluded`` is called with the result of each re-run that was not ended before, and with the worker that asked
        for it, if that still serves.
        """
        self._settings = settings
        self._options = options
        self._loop = loop
        self._display = display
        self._audience = audience
        self._concluded = concluded
        self._rerun: Rerun | None = None
        self._steps: Steps = []
        """The steps of the running re-run so far, for workers that hear of it late."""

    def see_to(self) -> None:
        """Begin a re-run that a worker wants, end one that nobody wants any more, conclude one that is over."""
        wanting = [worker for worker in self._audience() if worker.rerun]
        if self._rerun is not None and all(worker.rerun != self._rerun.run_id for worker in wanting):
            self.end()
        if not wanting:
            return
        terminal = self._display.terminal
        run_id = self._rerun.run_id if self._rerun is not None else wanting[0].rerun
        try:
            if self._rerun is None:
                self._rerun = self._begun(run_id)
            for worker in wanting:
                if worker.rerun != run_id:
                    self._join(worker, run_id)
            if not self._rerun.ended():
                return
            ending = self._rerun.conclude(terminal.redactor)
            self._rerun = None
        except Exception as error:  # noqa: BLE001  # a broken re-run ends no server, and the next may succeed
            self._abandon()
            ending = broken(self._settings, run_id, error, terminal.redactor)
            terminal.line(f"Re-run {run_id}: {ending.reason}", "yellow")
        self._concluded(ending, next((one for one in self._audience() if one.rerun == run_id), None))

    def _begun(self, run_id: str) -> Rerun:
        self._steps = []
        for worker in self._audience():
            if not worker.rerun:
                worker.rerun_began_elsewhere(run_id)
        return Rerun(
            self._settings,
            self._options,
            run_id,
            self._loop,
            heard=lambda steps: self._pass_on(run_id, steps),
            on_signal=self._display.signalled,
        )

    def _join(self, worker: Worker, run_id: str) -> None:
        """Two workers were asked at the same moment: it is one run, and every worker knows it by both ids."""
        asked = worker.rerun
        worker.rerun_joins(run_id)
        worker.rerun_goes_on(run_id, self._steps)
        for other in self._audience():
            if other is not worker:
                other.rerun_goes_on(run_id, [("also", {"run_id": asked})])

    def _pass_on(self, run_id: str, steps: Steps) -> None:
        self._steps += steps
        for worker in self._audience():
            worker.rerun_goes_on(run_id, steps)

    def tell_late(self, worker: Worker) -> None:
        """Tell a worker that serves from now on about the running re-run."""
        if self._rerun is not None:
            worker.rerun_began_elsewhere(self._rerun.run_id)
            worker.rerun_goes_on(self._rerun.run_id, self._steps)

    def left_by(self, worker: Worker) -> None:
        """This worker has ended. The re-run that it was asked for goes on for the others, if there are any."""
        if self._rerun is None or worker.rerun != self._rerun.run_id:
            return
        heirs = [other for other in self._audience() if other is not worker]
        if heirs:
            heirs[0].rerun = self._rerun.run_id
        else:
            self.end()

    def left(self, at_most: float) -> float:
        """Seconds until there is something to do, if nothing happens before."""
        return min(at_most, self._rerun.left) if self._rerun is not None else at_most

    def end(self) -> None:
        """End the running re-run, if there is one, without a result."""
        if self._rerun is not None and self._settings.workers > 1:
            for worker in self._audience():
                if worker.rerun in ("", self._rerun.run_id):
                    worker.rerun_was_ended(self._rerun.run_id)
        self._abandon()

    def _abandon(self) -> None:
        if self._rerun is not None:
            self._rerun.abandon()
            self._rerun = None
