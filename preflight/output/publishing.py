"""Where a start's or a check's report goes and what is shown of it, for the launcher and for a server without one."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from preflight import files

if TYPE_CHECKING:  # a launcher imports them while its children run
    from preflight.output.terminal import Terminal
    from preflight.report.model import Report
    from preflight.settings.model import Settings


ROOM = 64 * 1024  # bytes: more than most reports take, with what the history keeps of them


class Unpublishable(Exception):
    """A report could not be written; the message names the file."""


def make_sure(path: Path, room: int = ROOM) -> None:
    """See, before anything is stopped, that a report will have so many bytes of room there. Raises Unpublishable."""
    probe = path.with_name(f".{path.name}.room.{os.getpid()}")
    try:
        descriptor = files.new(probe)
        try:
            files.allot(descriptor, room)
        finally:
            os.close(descriptor)
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise Unpublishable(f"{path}: {error.strerror}") from None


def takes_a_byte(path: Path) -> bool:
    """Whether anything can be written there at all; if not, the requirement State Folder says so of its folder."""
    with contextlib.suppress(Unpublishable):
        make_sure(path, 1)
        return True
    return False


def publish(found: Report, settings: Settings, terminal: Terminal, *, keep: bool = True) -> None:
    """Write a run's report into the state folder, and keep it in the history unless told not to.

    What becomes of an earlier report that is corrupt, or of the history, is said. Raises Unpublishable.
    """
    from preflight.report import history
    from preflight.report.model import STATE_FOLDER

    state_folder = found.check(STATE_FOLDER)
    if state_folder and state_folder.blocks:
        return  # it blocks, and the banner is about to say what is wrong: more than the failure to write there could
    _set_aside(settings.state.report, terminal)
    with contextlib.suppress(OSError):  # which says it again, of the file
        settings.state.make()
    write(found, settings.state.report)
    if keep and (unkept := history.keep(found, settings)):
        terminal.line(unkept, "yellow")


def _set_aside(path: Path, terminal: Terminal) -> None:
    """Keep a corrupt report of an earlier run for whoever wants to look into it."""
    if not os.path.lexists(path):
        return
    from preflight.report import model as report

    try:
        report.load_or_set_aside(path)
    except report.ReportError as error:
        terminal.line(f"The report of an earlier run was not used: {error}", "yellow")


def write(found: Report, path: Path) -> None:
    """Write a report if somebody wants to have it. Raises Unpublishable."""
    from preflight.report import model as report

    try:
        report.publish(found, path)
    except OSError as error:
        raise Unpublishable(f"{path}: {error.strerror}") from None


def write_where_asked(found: Report, path: Path) -> None:
    """The same if a command line names the place: a file is replaced, and nothing else is. Raises Unpublishable.

    The rename would put a file in the place of a device, a pipe or a link, /dev/null and /dev/stdout among them.
    """
    with contextlib.suppress(OSError):
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a folder is not replaced anyway
            what = "is a symbolic link" if stat.S_ISLNK(mode) else "is not a regular file"
            raise Unpublishable(f"{path} {what}; it was left as it is")
    write(found, path)


def show(found: Report, terminal: Terminal, *, reason: str = "", output: Sequence[str] = ()) -> None:
    """The banners of a run: what its checks found and, where it broke, the ``reason`` and the end of its ``output``."""
    from preflight.report import banners

    if found.checks:
        terminal.show(banners.render(found, plain=terminal.plain, verbose=terminal.verbose))
    if reason:
        terminal.show(banners.broken(reason, output, plain=terminal.plain))
