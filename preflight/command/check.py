"""``--check-only``: run the checks and say what they found; start and stop nothing."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from preflight.command import passed
from preflight.command.options import Invocation
from preflight.launcher.checks import WORTH_ANOTHER_TRY, Checks, Stopped
from preflight.launcher.shown import Display, RunProgress
from preflight.output.publishing import Unpublishable
from preflight.output.streams import Stream
from preflight.ports.activation import Inherited
from preflight.processes.loop import Loop
from preflight.processes.signals import EndedBySignal
from preflight.settings.model import Settings

if TYPE_CHECKING:
    from preflight.output.log import LogFile

LOOK = 0.1  # seconds between two looks for a signal while somebody reads


def run(invocation: Invocation, settings: Settings, log_file: LogFile | None) -> int:
    """Check; with ``--wait`` again while something blocks. Returns the exit code.

    Raises SettingsError if settings that are waited for stay wrong, or are not about the socket that was passed.
    """
    activated = passed.listener(invocation.passed, settings)
    display = Display(
        settings,
        report_path=invocation.report,
        output_format=invocation.output_format,
        verbose=invocation.verbose,
        log_file=log_file,
        lossy=bool(invocation.wait),
    )
    loop = Loop()
    try:
        with loop.running():
            exit_code = _check(invocation, display, loop, activated)
            _wait_for_reader(loop)
            return exit_code
    finally:
        loop.close()


def _check(invocation: Invocation, display: Display, loop: Loop, activated: Inherited | None) -> int:
    until = time.monotonic() + invocation.wait
    checks = Checks(display.settings, invocation.settings, "check", loop=loop, display=display)
    try:
        display.reserve(checks.run_id, checks.origin)
        by = activated.activated_by if activated is not None else ""
        result = checks.run(RunProgress(display, activated_by=by), inherited=activated)
        if invocation.wait and result.exit_code in WORTH_ANOTHER_TRY:
            from preflight.command.rounds import Rounds

            checks.close()
            result = Rounds(invocation.settings, loop, display, activated).until_nothing_blocks(result, until)
            display.conclude(result)
        else:
            display.conclude(result, checks.hanging_import)
        return result.exit_code
    except Stopped as stopped:
        return display.stopped(stopped.number)
    except Unpublishable as error:
        display.unwritten(error)
        return 3
    finally:
        display.terminal.progress_over()
        checks.close()


def _wait_for_reader(loop: Loop) -> None:
    """Wait until the output of a check has been read, however long that takes; a signal ends the wait."""
    while isinstance(sys.stdout, Stream) and not sys.stdout.settled(LOOK):
        if loop.stops:
            raise EndedBySignal(128 + loop.stops[0])
