"""The folders that a start needs: one for what it keeps, one where starts and servers meet."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shlex
import stat
from pathlib import Path

import pytest

from preflight import files
from preflight.contract import Details
from preflight.instances.runtime import FIX, RuntimeFolderError
from preflight.output.publishing import ROOM
from preflight.settings.model import Settings
from preflight.settings.statefolder import StateFolder


@pytest.mark.critical("State Folder")
def test_state_folder(settings: Settings, details: Details) -> None:
    """The state folder is safe from other users, and can be written and locked."""
    folder = settings.state_dir
    details.update(path=str(folder))
    details.fix = f"make {folder} a folder that you can write, or set PREFLIGHT_STATE_DIR to another folder"
    try:
        files.own(folder)
        # In a folder that is used for other things as well, modes are left alone.
        if folder == settings.default_state_dir or settings.state.has_nothing_else():
            _close(settings.state)
    except files.Unsafe as error:
        pytest.fail(f"{folder} is not safe: {error.strerror}")
    except OSError as error:
        pytest.fail(f"{folder} cannot be made: {error.strerror}")
    probe = folder / f".probe-{os.getpid()}"
    try:
        descriptor = files.new(probe)
    except OSError as error:
        pytest.fail(f"{folder} cannot be written: {error.strerror}")
    try:
        # More than a report takes: a lack of room must be known before anything is stopped.
        files.allot(descriptor, ROOM)
        # flock, not lockf: it is what our locks use, and some network file systems lack it.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        pytest.fail(f"{folder} cannot be written and locked: {error.strerror}")
    finally:
        os.close(descriptor)
        probe.unlink()
    if settings.workers > 1:
        _share(settings, details)
    report = settings.state.report
    replaceable = not report.is_dir()
    assert replaceable, f"{report} is a folder, but the report must be a file there"
    details.summary = str(folder)


def _share(settings: Settings, details: Details) -> None:
    """The file that several workers share can be made."""
    from preflight.processes.board import Board

    try:
        Board.made(settings.workers, settings.state_dir).close()
    except OSError as error:
        if error.errno == errno.EFBIG:
            details.fix = "allow larger files (ulimit -f), or serve with fewer workers"
        pytest.fail(f"the file that {settings.workers} workers share cannot be created: {error.strerror}")


def _close(state: StateFolder) -> None:
    """Take all rights from other users, whoever gave them. Raises OSError if the folder itself cannot be closed."""
    files.close(state.path)
    for path, _mode in state.kept():
        with contextlib.suppress(OSError):  # replaced meanwhile, or State Folder Mode says so
            files.close(path)


@pytest.mark.warning("State Folder Mode")
def test_state_folder_mode(settings: Settings, details: Details) -> None:
    """Nobody else can look into the state folder."""
    folder = settings.state_dir
    try:
        mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError:
        return  # what State Folder says
    details.update(path=str(folder), mode=f"{mode:04o}")
    details.fix = f"chmod 700 {shlex.quote(str(folder))}"
    open_entries = {path: entry_mode for path, entry_mode in settings.state.kept() if entry_mode & 0o077}
    if open_entries:
        details.update(open={path.name: f"{entry_mode:04o}" for path, entry_mode in open_entries.items()})
        details.fix = f"chmod go= {shlex.join(map(str, [folder, *open_entries]))}"
    assert not mode & 0o077, f"{folder} has mode {mode:04o}, so other users can see what is in it; it needs 0700"
    assert not open_entries, (
        f"{', '.join(f'{path} has mode {entry_mode:04o}' for path, entry_mode in open_entries.items())}"
        "; this folder is for one user: folders need 0700, files 0600"
    )
    details.summary = f"mode {mode:04o}"


@pytest.mark.critical("Runtime Folder", fix=FIX, needs="port")
def test_runtime_folder(runtime_folder: Path | RuntimeFolderError | None, details: Details) -> None:
    """The start has a folder for its lock, record and control socket that no other user can enter."""
    if runtime_folder is None:
        details.summary = "this server has one"
        return
    details.update(path=str(runtime_folder))
    assert not isinstance(runtime_folder, RuntimeFolderError), str(runtime_folder)
    details.summary = str(runtime_folder)
