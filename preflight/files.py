"""Files and folders that belong to this user alone: made with their modes, never through another user's link."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from pathlib import Path

LINKS = 40  # symbolic links on the way to a file, as many as Linux follows
_PID = re.compile("[0-9]{1,10}")


class Unsafe(PermissionError):
    """Another user could have changed this file or folder; ``strerror`` says how."""

    def __init__(self, path: str | Path, why: str) -> None:
        super().__init__(errno.EPERM, why, str(path))


def reach(path: Path) -> list[Path]:
    """Make the folder with mode 0700 unless it is there, and see that nobody else had a hand in the way to it.

    Returns which folders were not there: this one and those above. Raises Unsafe if the way leads, in a folder that
    others can write, over a link or through another user's folder. Raises OSError if it cannot be made.
    """
    made = make(path)
    _walk(path)
    return made


def make(path: Path) -> list[Path]:
    """Make a folder and those above it with mode 0700, whatever the umask; returns those that were not there.

    Raises OSError.
    """
    made = []
    for one in [*reversed(path.parents), path]:
        try:
            one.mkdir(mode=0o700)
        except FileExistsError:
            if one == path and not path.is_dir():
                raise
            continue
        except OSError:
            if one.is_dir():  # a read-only file system, among others, says that first
                continue
            raise
        made.append(one)
        one.chmod(0o700)
    return made


def own(path: Path) -> None:
    """Like :func:`reach`, for a folder whose files are trusted: raises Unsafe if others own it or write, too.

    A folder that is made here does not belong in a repository: git leaves out what is in it.
    """
    if path in reach(path):
        with contextlib.suppress(OSError):
            _write_new(path / ".gitignore", "# made by preflight: the files here belong to this machine alone\n*\n")
    status = path.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise Unsafe(path, "it belongs to another user")
    if writers := other_writers(status):
        raise Unsafe(path, f"{writers} can write in this folder")


def _write_new(path: Path, text: str) -> None:
    descriptor = new(path)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)


def no_link(path: Path) -> None:
    """Raises Unsafe for a symbolic link, wherever it leads; not for a path that does not exist."""
    if path.is_symlink():
        raise Unsafe(path, "it is a symbolic link")


def other_writers(status: os.stat_result) -> str:
    """Who else can write in a folder, for people; empty if only its owner and root can."""
    if status.st_mode & stat.S_IWOTH:
        return "anybody"
    # A user's own group (umask 002) has no other members; another user's group, or one that was chosen, may have.
    private = status.st_uid == os.geteuid() and status.st_gid == os.getegid()
    return "a group" if status.st_mode & stat.S_IWGRP and not private else ""


def _walk(path: Path) -> None:
    """See that every step to ``path`` is safe: in a folder that others can write, names may be anybody's."""
    waiting = list(Path(os.path.abspath(path)).parts[:0:-1])
    current, links = Path("/"), 0
    while waiting:
        writers = other_writers(current.stat())
        step = current / waiting.pop()
        status = step.lstat()
        if writers and stat.S_ISLNK(status.st_mode):
            raise Unsafe(step, f"{step} is a symbolic link in a folder that {writers} can write")
        if writers and status.st_uid not in (0, os.geteuid()):
            raise Unsafe(step, f"{step} belongs to another user, in a folder that {writers} can write")
        if not stat.S_ISLNK(status.st_mode):
            current = step
            continue
        links += 1
        if links > LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = Path(os.path.normpath(current / step.readlink()))
        waiting += target.parts[:0:-1]
        current = Path("/")


def close(path: Path) -> None:
    """Take from others every right to this user's folder or file; what belongs to somebody else stays as it is.

    Not for links: the mode of what they lead to would change. Raises OSError.
    """
    status = path.stat()
    if status.st_mode & 0o077 and status.st_uid == os.geteuid():
        path.chmod(0o700 if stat.S_ISDIR(status.st_mode) else 0o600)


def new(path: Path, mode: int = 0o600) -> int:
    """A descriptor of a file that was not there, to read and write it. Raises FileExistsError, for a link as well."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def existing(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of what is there: never through a link, and never waiting for the writer of a named pipe.

    Raises OSError. What kind of file it is, and whose, is for the caller to see.
    """
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)


def opened(path: Path, flags: int) -> int:
    """A descriptor of this user's own regular file, which is made with mode 0600 or tightened to it.

    Raises Unsafe for a link, another user's file, and what is no file.
    """
    try:
        # O_NONBLOCK: a named pipe must not wait for its other end.
        descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Unsafe(path, "it is a symbolic link") from None
        if error.errno == errno.ENXIO:
            raise Unsafe(path, "it is not a regular file") from None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Unsafe(path, "it is not a regular file")
        if status.st_uid != os.geteuid():
            raise Unsafe(path, "it belongs to another user")
        if stat.S_IMODE(status.st_mode) & 0o677 != 0o600:  # or made just now, under a umask that takes our own rights
            os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def allot(descriptor: int, size: int) -> None:
    """See that a new file has room for ``size`` bytes. Raises OSError if it has not."""
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # some file systems cannot do it
                raise
    written = 0  # a file system may take the first half and be full then
    while written < size:
        written += os.write(descriptor, bytes(size - written))


Seen = tuple[int, int, int]
"""Tells whether a file is the one that was seen before: its inode, which tells even where the clock does not, its time
and its size."""


def seen(status: os.stat_result) -> Seen:
    """What distinguishes this file from a later one of the same name."""
    return status.st_ino, status.st_mtime_ns, status.st_size


def publish(path: Path, content: bytes, *, mark: str = "", replace: bool = True) -> Seen:
    """Write a whole file or nothing, mode 0600, whatever happens meanwhile: a crash, a full disk, a power cut.

    Returns what distinguishes it from a later file of the same name. ``mark`` goes into the name under which it is
    written first. Without ``replace`` a file that is there stays (FileExistsError). Raises OSError if it cannot be
    written.
    """
    mark = mark or os.urandom(8).hex()
    # A new file that follows no link; the rename then replaces whatever was there.
    temporary = path.with_name(f".{path.name}.{mark}.{os.getpid()}")
    descriptor = new(temporary)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                # Held while it is being written: see sweep().
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(descriptor, 0o600)  # whatever the umask takes away
            stream.write(content)
            stream.flush()
            # Without it some file systems bring an empty file back after a power cut.
            os.fsync(descriptor)
            written = seen(os.fstat(descriptor))
            if replace:
                os.replace(temporary, path)
            else:
                os.link(temporary, path)
                os.unlink(temporary)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    return written


def sweep(path: Path) -> None:
    """Remove the partial files of writers of ``path`` that were killed; never a living writer's."""
    prefix = f".{path.name}."  # see publish()
    try:
        names = os.listdir(path.parent)
    except OSError:
        return
    for name in names:
        mark, _, pid = name.removeprefix(prefix).partition(".")
        if not name.startswith(prefix) or not mark or _PID.fullmatch(pid) is None or _alive(int(pid)):
            continue
        try:
            descriptor = existing(path.with_name(name))
        except OSError:
            continue
        try:
            # In another container its PID means nothing here, and the lock still does.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path.with_name(name))
        except OSError:
            pass  # it is being written, or somebody else has removed it
        finally:
            os.close(descriptor)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
