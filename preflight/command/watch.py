"""``--watch``: repeat the checks until a signal ends it, and show what changes; start and stop nothing."""

from __future__ import annotations

import errno
import os
from collections import deque
from typing import TYPE_CHECKING

from preflight.command.options import Invocation
from preflight.command.rounds import Rounds
from preflight.launcher.checks import Stopped
from preflight.launcher.shown import Display
from preflight.output import streams
from preflight.output.publishing import Unpublishable
from preflight.processes.loop import Loop
from preflight.settings.model import Settings
from preflight.times import clock

if TYPE_CHECKING:
    from preflight.output.log import LogFile
    from preflight.report.model import Report

SHOWN = 8  # changes that stay on the screen


def run(invocation: Invocation, settings: Settings, log_file: LogFile | None) -> int:
    """Check again and again until a signal ends it; returns the exit code that the last round would have had.

    Raises BrokenPipeError when nobody is left to look.
    """
    display = Display(settings, report_path=invocation.report, verbose=invocation.verbose, log_file=log_file)
    loop = Loop()
    try:
        return _watch(Rounds(invocation.settings, loop, display), invocation.watch)
    finally:
        display.terminal.progress_over()
        loop.close()


def _watch(rounds: Rounds, seconds: float) -> int:
    changes: deque[str] = deque(maxlen=SHOWN)
    exit_code: int | None = None
    display = rounds.display
    try:
        with rounds.loop.running():
            while True:
                result = rounds.check()
                if result.exit_code == 2:
                    display.terminal.progress_over()
                    display.conclude(result)
                    return 2
                exit_code = result.exit_code
                _show(rounds, result.report, rounds.publish(result.report), changes, seconds)
                rounds.pause(seconds)
                if streams.reader_has_gone():
                    raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
                rounds.reload_or_keep()
    except Stopped as stopped:
        return 128 + stopped.number if exit_code is None else exit_code
    except Unpublishable as error:
        display.unwritten(error)
        return 3


def _show(rounds: Rounds, report: Report, lines: list[str], changes: deque[str], seconds: float) -> None:
    """Show a round in place of the previous one, or, if the terminal does not allow that, what has changed."""
    terminal = rounds.display.terminal
    if not terminal.animated:
        for line in lines:
            rounds.say(line)
        return
    from preflight.report import banners

    changes.extend(f"{clock()} {line}" for line in lines)
    head = f"{rounds.display.settings.address} · {clock()} · every {seconds:g} s · Ctrl-C ends"
    height = terminal.console.height
    terminal.screen(banners.Watched(report, changes, head, plain=terminal.plain, height=height))
