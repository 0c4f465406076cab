"""What two starters need to know of each other: the record of the instance that serves an address.

A record is believed only while the launcher that wrote it holds a lock on it, so a crash leaves
no believed record. Records live in the user's runtime folder, where all checkouts meet.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


class RuntimeFolderError(OSError):
    """The runtime folder is not safe to use; the message is one line."""


@dataclass(frozen=True, slots=True)
class Record:
    """One serving instance."""

    instance_id: str
    pid: int  # the launcher's
    host: str
    port: int
    since: str  # UTC, "2026-01-02T03:04:05Z"
    version: str


def runtime_folder() -> Path:
    """This user's own folder for records and locks, mode 0700.

    Raises RuntimeFolderError where something else stands in its place.
    """
    given = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(given) / "preflight" if given else Path(tempfile.gettempdir()) / f"preflight-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=bool(given), exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise RuntimeFolderError(f"{folder}: {error.strerror}") from None
    # Under a shared temporary folder anybody can be first: never follow a link, never use another's folder.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise RuntimeFolderError(f"{folder}: is not a folder of mode 0700 that belongs to this user")
    return folder


@contextlib.contextmanager
def serving(record: Record) -> Iterator[None]:
    """Say that this process serves, for as long as the block runs.

    Raises RuntimeFolderError, or OSError where the record cannot be written.
    """
    file = runtime_folder() / f"{record.port}.{record.instance_id}.json"
    # Locked and whole before it gets its name: nobody ever sees a record that is not believable yet.
    temporary = file.with_suffix(".new")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, json.dumps(asdict(record)).encode())
        temporary.rename(file)
        yield
    finally:
        file.unlink(missing_ok=True)
        temporary.unlink(missing_ok=True)
        os.close(descriptor)


def live(port: int) -> list[Record]:
    """The instances that serve this port now, on whatever address; what a crash left behind is removed."""
    try:
        folder = runtime_folder()
    except RuntimeFolderError:
        return []
    found = []
    for file in folder.glob(f"{port}.*.json"):
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            file.unlink(missing_ok=True)  # nobody holds it: its launcher died without a word
        except BlockingIOError:
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                found.append(Record(**json.loads(os.pread(descriptor, 65536, 0))))
        finally:
            os.close(descriptor)
    return found
