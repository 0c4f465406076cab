"""A start: check, then serve. With ``--wait`` it is tried again while something blocks."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from preflight.command import passed
from preflight.command.options import TYPED_AT, Invocation
from preflight.launcher.checks import Stopped
from preflight.launcher.shown import Display
from preflight.launcher.start import Start
from preflight.output.publishing import Unpublishable
from preflight.processes.loop import Loop
from preflight.processes.restarts import Origin, somebody_elses_task
from preflight.settings.model import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from preflight.command.rounds import Rounds
    from preflight.output.log import LogFile
    from preflight.processes.suite import RunResult


def run(invocation: Invocation, settings: Settings, log_file: LogFile | None) -> int:
    """Check and serve; returns the exit code.

    Raises SettingsError if settings that are waited for stay wrong, or are not about the socket that was passed.
    """
    keeper = somebody_elses_task(Origin.of_this_process())
    activated = passed.listener(invocation.passed, settings)
    display = Display(
        settings,
        report_path=invocation.report,
        verbose=invocation.verbose,
        log_file=log_file,
        service=invocation.service,
    )
    loop = Loop()

    def start() -> Start:
        return Start(
            display.settings,
            invocation.settings,
            loop=loop,
            display=display,
            typed_at=TYPED_AT,
            keeper=keeper,
            activated=activated,
        )

    try:
        if not invocation.wait:
            return start().run()
        from preflight.command.rounds import Rounds

        return _wait(start, Rounds(invocation.settings, loop, display, activated), invocation.wait)
    finally:
        invocation.service.close()
        loop.close()


def _wait(start: Callable[[], Start], rounds: Rounds, seconds: float) -> int:
    """Try to start; while something blocks, only check, for so many seconds at most, and try again then.

    While there is time left, a run that blocks is only reported; the last one is refused like any start.
    """
    until = time.monotonic() + seconds
    display = rounds.display
    result: RunResult | None = None
    try:
        while time.monotonic() < until:
            ended = start().attempt()
            if isinstance(ended, int):
                return ended
            result = ended
            with rounds.loop.running():
                result = rounds.until_nothing_blocks(result, until)
                if result.exit_code != 0:
                    return start().give_up(result)
                rounds.reload_in_time(until)
        return start().run()
    except Stopped as stopped:
        return display.stopped(stopped.number)
    except Unpublishable as error:
        display.refused([display.unwritten(error)], 3, result=result)
        return 3
    finally:
        display.terminal.progress_over()


def record_refusal(why: str, settings: Settings | None = None, log_path: object = None) -> None:
    """Record a start that ended before it had begun, if it is known where to record it."""
    from preflight.output import audit, log
    from preflight.redaction.redactor import Redactor

    redactor = Redactor.of(settings) if settings else Redactor.of_variables(os.environ)
    form, trail = (settings.log_format, settings.state.audit) if settings else ("text", None)
    kept = log.Log(redactor, form=form, trail=trail)
    if log_path:
        with contextlib.suppress(OSError):  # what is wrong has been said
            kept.file = log.LogFile(Path(str(log_path)))
    kept.audit(audit.refused([why], 2))
