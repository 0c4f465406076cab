"""The state folder."""

from __future__ import annotations

import fcntl
import os

import pytest

from preflight.contract import Details
from preflight.settings import Settings


@pytest.mark.critical("State Folder")
def test_state_folder(settings: Settings, details: Details) -> None:
    """The state folder can be made, written and locked."""
    folder = settings.state_dir
    details.update(path=str(folder))
    details.fix = f"make {folder} a folder that you can write, or set PREFLIGHT_STATE_DIR to another one"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        pytest.fail(f"{folder} cannot be made: {error.strerror}")
    probe = folder / f".probe-{os.getpid()}"
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        pytest.fail(f"{folder} cannot be written: {error.strerror}")
    try:
        os.write(descriptor, b"room for at least this")
        # flock, not lockf: it is what our locks use, and some network file systems lack it.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        pytest.fail(f"{folder} cannot be written and locked: {error.strerror}")
    finally:
        os.close(descriptor)
        probe.unlink()
    report = settings.report_path
    replaceable = not report.is_dir()
    assert replaceable, f"{report} is a folder, where the report has to go"
    details.summary = str(folder)
