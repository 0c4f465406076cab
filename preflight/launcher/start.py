"""One start: it enters, checks, and serves if nothing blocks."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from preflight.instances import runtime
from preflight.instances.runtime import RuntimeFolderError
from preflight.launcher.checks import WORTH_ANOTHER_TRY, Checks, Stopped
from preflight.launcher.entry import Entry, NoEntry
from preflight.launcher.shown import Display, RunProgress
from preflight.launcher.telling import Telling
from preflight.output.publishing import Unpublishable
from preflight.ports.activation import Inherited
from preflight.processes import children
from preflight.processes.loop import Loop
from preflight.processes.suite import RunResult
from preflight.settings.model import Settings

if TYPE_CHECKING:
    from preflight.launcher.supervisor import Supervisor

Ended = TypeVar("Ended")
"""What the caller makes of a run that blocks."""


class Start:
    """One try to serve an address. Use it once: :meth:`run`, or :meth:`attempt` if the caller would try again."""

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, object],
        *,
        loop: Loop,
        display: Display,
        typed_at: float,
        keeper: str | None = None,
        activated: Inherited | None = None,
    ) -> None:
        """``typed_at`` is when the command began, on the monotonic clock.

        ``keeper`` is who else restarts this process when it ends, if anybody does; ``activated`` is the listening
        socket that systemd has given to it.
        """
        self.settings = settings
        self.options = options
        self._loop = loop
        self._display = display
        self._entry = Entry(settings, loop=loop, display=display, typed_at=typed_at, keeper=keeper, activated=activated)
        self._telling = Telling(settings, loop=loop, display=display)
        self._checks: Checks | None = None
        self._supervisor: Supervisor | None = None
        self._result: RunResult | None = None
        self._why: list[str] = []
        """Why this start failed, if its run does not say so."""

    def run(self) -> int:
        """Check and, if nothing blocks, serve until asked to stop. Returns the exit code.

        Raises what a signal's handler raises (see signals.py) while another start of this address goes on.
        """
        return self._run(self._refuse)

    def attempt(self) -> int | RunResult:
        """Like :meth:`run`, but the result of checks that block is returned, and not published, shown or reported."""
        return self._run(lambda result: result)

    def give_up(self, result: RunResult) -> int:
        """Refuse to start because of a run that is not this start's own. Returns the exit code.

        Raises Unpublishable.
        """
        self._result = result
        exit_code = self._refuse(result)
        self._telling.finish()
        self._record(exit_code)
        return exit_code

    def _run(self, blocked: Callable[[RunResult], Ended]) -> int | Ended:
        try:
            ended = self._enter_and_serve(blocked)
        except NoEntry as error:
            ended = self._fail(error)
        except RuntimeFolderError as error:
            title, why = "THE RUNTIME FOLDER CANNOT BE USED: nothing was started", "the runtime folder cannot be used"
            ended = self._fail(NoEntry(title, [str(error), f"Fix: {runtime.FIX}"], why=f"{why}: {error}"))
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._close()  # the message needs a descriptor, too
            shortage = children.shortage(error)
            title = "THE CHECK SUITE ITSELF FAILED: nothing was started"
            ended = self._fail(NoEntry(title, [shortage], why=shortage, exit_code=3))
        finally:
            self._close()
        if isinstance(ended, int):
            self._record(ended)
        return ended

    def _enter_and_serve(self, blocked: Callable[[RunResult], Ended]) -> int | Ended:
        if not self._entry.enter():
            return 0
        with self._loop.running():
            try:
                return self._check_and_serve(blocked)
            except Stopped as stopped:
                return self._display.stopped(stopped.number)
            except Unpublishable as error:
                self._why = [self._display.unwritten(error)]
                return 3
            finally:
                self._display.terminal.progress_over()
                self._close()
                # Last of all, so that nobody has to wait for it.
                self._telling.finish()

    def _check_and_serve(self, blocked: Callable[[RunResult], Ended]) -> int | Ended:
        self._checks = checks = Checks(self.settings, self.options, "start", loop=self._loop, display=self._display)
        self._display.reserve(checks.run_id, checks.origin)
        replaces, inherited = self._entry.replaces, self._entry.inherited
        progress = RunProgress(
            self._display,
            replaces=replaces.record.name if replaces is not None else "",
            activated_by=inherited.activated_by if inherited is not None else "",
        )
        self._result = result = checks.run(progress, inherited=inherited)
        if result.exit_code in WORTH_ANOTHER_TRY:
            return blocked(result)
        if not result.may_start:
            return self._refuse(result)
        self._display.conclude(result)
        if self._loop.stops:
            raise Stopped(self._loop.stops[0])
        return self._serve(checks, result)

    def _serve(self, checks: Checks, result: RunResult) -> int:
        from preflight.launcher.supervisor import Supervisor

        worker, sock = checks.take()
        self._supervisor = supervisor = Supervisor(
            self.settings,
            self.options,
            loop=self._loop,
            display=self._display,
            entry=self._entry,
            telling=self._telling,
            worker=worker,
            sock=sock,
            report=result.report,
        )
        checks.on_output = supervisor.on_output
        exit_code = supervisor.run()
        self._why = supervisor.given_up
        return exit_code

    def _close(self) -> None:
        """Leave no process and no descriptor behind, whatever happened; more than once does no harm."""
        if self._checks is not None:
            self._checks.close()
        if self._supervisor is not None:
            self._supervisor.close()
        self._entry.close()

    # A start that fails.

    def _fail(self, error: NoEntry) -> int:
        self._why = [str(error)]
        self._display.terminal.fail(error.title, error.lines)
        return error.exit_code

    def _refuse(self, result: RunResult) -> int:
        """Publish and show a run that blocks this start, and tell people about it."""
        self._display.conclude(result, self._checks.hanging_import if self._checks is not None else ())
        if result.exit_code != 2:  # wrong usage concerns only the person who typed it
            self._telling.tell_news(result.report)
        if self._entry.replaces is not None:
            name = self._entry.replaces.record.name
            self._display.terminal.line(f"{name} is still serving {self.settings.address}.", "bold")
        return result.exit_code

    def _record(self, exit_code: int) -> None:
        """Record a start that failed; not one that served and ended as asked, or that a signal stopped."""
        if exit_code not in (1, 2, 3, 4):
            return
        why = self._why
        if not why and self._result is not None:
            why = [check.title for check in self._result.report.blocking] or [self._result.reason]
        # A start that has served was not refused.
        served = self._supervisor is not None and self._supervisor.announced
        self._display.refused(why, exit_code, result=self._result, served=served)
