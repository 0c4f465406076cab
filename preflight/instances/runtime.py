"""Where launchers of one user meet: the runtime folder, and the start lock.

The folder is a meeting place for older releases and for systems without abstract sockets; on Linux nothing depends on
two launchers having the same one. So where the usual folder cannot be used there is another, below the state folder,
which no other account can plant.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from pathlib import Path

from preflight import files
from preflight.instances import unixsockets
from preflight.settings.statefolder import StateFolder

FIX = "set XDG_RUNTIME_DIR to a folder that is yours (mode 0700), on a file system with room"
RECORD = 8192  # bytes of a record's file
LONGEST = 65536  # bytes that are read of one
SILENCE = 1.0  # seconds after which a holder of a start's name that cannot be asked does not count as a start of ours


class RuntimeFolderError(OSError):
    """No runtime folder can be used, or its files cannot be made; the message is one line."""


# The folder.


def places(state_dir: Path | None = None) -> list[Path]:
    """Where the runtime folder of this user can be, the first choice first; none of them needs to be there."""
    from_environment = os.environ.get("XDG_RUNTIME_DIR", "")
    found = [Path(from_environment) / "preflight"] if os.path.isabs(from_environment) else []
    found.append(Path(_temporary()) / f"preflight-{os.geteuid()}")
    if state_dir is not None:
        found.append(StateFolder(state_dir).runtime)
    return found


def _temporary() -> str:
    """The folder for temporary files, as in tempfile, which would bring shutil, bz2, lzma and random."""
    given = [os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")]
    return next((one for one in given if os.path.isabs(one) and os.path.isdir(one)), "/tmp")  # noqa: S108  # see _make


def folder(state_dir: Path | None = None, *, keep: bool = True) -> Path:
    """This user's own folder, mode 0700, in which a lock, a record and a control socket can be made.

    It is made if need be; ``keep=False`` removes what was made for the question. Raises RuntimeFolderError if none
    of the places will do, with a reason for each.
    """
    reasons = []
    below_state = state_dir and StateFolder(state_dir).runtime
    for place in places(state_dir):
        made: list[Path] = []
        usable = False
        try:
            _make(
                place,
                made,
                below=state_dir if place == below_state else None,
            )
            _try_out(place)
            usable = True
            return place
        except OSError as error:
            reasons.append(f"{place}: {error.strerror or error}")
        finally:
            for one in reversed(made) if not (usable and keep) else ():
                with contextlib.suppress(OSError):  # somebody else is using it by now
                    one.rmdir()
    raise RuntimeFolderError("; ".join(reasons))


def _make(place: Path, made: list[Path], *, below: Path | None) -> None:
    """Make the folder; every folder that had to be made is appended to ``made``, parents first."""
    if below is not None:
        files.own(below)  # no other user can change what is in there
    elif (parent := place.parent).is_dir():
        status = parent.stat()
        if status.st_uid != os.geteuid() and not status.st_mode & stat.S_ISVTX:
            raise PermissionError(errno.EPERM, f"{parent} belongs to another user")
    made += files.make(place.parent if os.path.lexists(place) else place)
    status = place.lstat()
    # In a shared temporary folder anybody can be first: never follow a link, never use another's folder.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "it is not a folder of mode 0700 that belongs to this user")
    if stat.S_IMODE(status.st_mode) != 0o700:
        place.chmod(0o700)  # made under a umask that took our own rights away


def _try_out(place: Path) -> None:
    """See that there is room for a record, that it can be locked, and that a socket can be bound. Raises OSError."""
    name = f".probe.{os.getpid()}.{os.urandom(4).hex()}"
    file, bound = place / name, place / f"{name}.sock"
    descriptor = files.new(file)
    try:
        write_whole(descriptor, bytes(RECORD), 0)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unixsockets.listen(bound).close()
    finally:
        os.close(descriptor)
        for one in (file, bound):
            one.unlink(missing_ok=True)


def write_whole(descriptor: int, content: bytes, offset: int) -> None:
    """Write all of it or raise OSError: a file system may take the first half and be full then."""
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def discard(record: Path) -> bytes | None:
    """Remove a record and its socket if its launcher has died; returns the text of a living launcher's record.

    A launcher holds its record's lock as long as it lives. What is no file, or cannot be removed, stays: no launcher
    has made it.
    """
    try:
        descriptor = files.existing(record)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        _remove(record, record.with_suffix(".sock"))
    except BlockingIOError:
        return os.pread(descriptor, LONGEST, 0)
    finally:
        os.close(descriptor)
    return None


def _remove(*litter: Path) -> None:
    for one in litter:
        with contextlib.suppress(OSError):  # a folder, or not ours to remove: it is in nobody's way
            one.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


# The start lock.


def lockable(slot: int | str, state_dir: Path | None = None) -> Path:
    """The folder in which a start of this port would meet others; what is made for the question is removed.

    Raises RuntimeFolderError if a start could not have a folder, or its lock there.
    """
    place = folder(state_dir, keep=False)
    file = place / f"{slot}.lock"
    try:
        _see_that_it_is_a_lock(file)
    except OSError as error:
        raise RuntimeFolderError(f"{file}: {error.strerror}") from None
    return place


def _see_that_it_is_a_lock(file: Path) -> None:
    """Raises OSError if what is there is not a lock, and cannot be made one."""
    with contextlib.suppress(FileNotFoundError):
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode) or (status.st_uid != os.geteuid() and not os.access(file, os.W_OK)):
            raise OSError(
                errno.EPERM, "a start keeps its lock here, but this is not a file that this user can write; remove it"
            )


class StartLock:
    """One start at a time for a user and an address of this network namespace; an object that is gone has let go.

    It is a file's lock, at which older releases wait as well, and on Linux also an abstract name, at which starts meet
    whatever their runtime folders are. A process of another user that has taken the name is passed over, and so is a
    start in another network namespace that has locked the file.
    """

    def __init__(self, slot: int | str, state_dir: Path | None = None) -> None:
        """Raises RuntimeFolderError if there is no place for the file."""
        self._slot = slot
        self._state_dir = state_dir
        # Never unlinked: two starters would hold two locks of one name.
        self._file = folder(state_dir) / f"{slot}.lock"
        self._descriptor = self._opened()
        self._locked = False
        self._name: socket.socket | None = None
        self._rival: socket.socket | None = None
        """Our end of a connection to whoever has the name; it breaks when that lets go."""
        self._silent_since: float | None = None

    def _opened(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            _see_that_it_is_a_lock(self._file)
            with contextlib.suppress(PermissionError):
                descriptor = os.open(self._file, flags, 0o600)
                os.fchmod(descriptor, 0o600)  # whatever the umask takes away
                return descriptor
            self._file.chmod(0o600)  # an older release made it under such a umask; in our folder it is ours
            return os.open(self._file, flags, 0o600)
        except OSError as error:
            raise RuntimeFolderError(f"{self._file}: {error.strerror}") from None

    def take(self, patience: float = 0.0) -> bool:
        """Take the lock, waiting ``patience`` seconds at most for each other start; returns whether this start has it.

        Raises RuntimeFolderError if the file cannot be written.
        """
        holder, since = self.holder(), time.monotonic()
        # The file first: a start that waits for it does not keep the name from others meanwhile.
        while not (self._lock_file() and self._lock_name()):
            if time.monotonic() - since >= patience:
                self._unlock_file()
                return False
            time.sleep(unixsockets.POLL)  # flock itself would wait for ever, for a suspended process, too
            if self.holder() != holder:  # the next in the queue, with a time of its own
                holder, since = self.holder(), time.monotonic()
        if self._locked:
            self._sign()
            self._sweep()
        return True

    def holder(self) -> int:
        """The PID of the process that has it, or had it last; 0 if nobody ever had."""
        if self._rival is not None and (rival := unixsockets.peer(self._rival)) is not None and rival.pid:
            return rival.pid
        return self._signature()[0]

    # The file.

    def _lock_file(self) -> bool:
        """Whether the file is ours, or locked by a start in another network namespace, whose ports are others."""
        if self._locked:
            return True
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, namespace = self._signature()
            ours = network()
            return unixsockets.ABSTRACT and bool(ours) and (namespace or network(pid)) not in ("", ours)
        try:
            same = os.path.samestat(os.fstat(self._descriptor), self._file.lstat())
        except FileNotFoundError:
            same = False
        if not same:  # a cleaner took it away, and the next start locks another file of that name
            os.close(self._descriptor)
            self._file = folder(self._state_dir) / self._file.name
            self._descriptor = self._opened()
            return False
        self._locked = True
        return True

    def _unlock_file(self) -> None:
        if self._locked:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self._locked = False

    def _sign(self) -> None:
        """Write the owner of the lock: its PID as older releases write it, then the PID with its network namespace."""
        text = f"{os.getpid():<16}{os.getpid()} {network()}\n"
        try:
            write_whole(self._descriptor, text.encode().ljust(80), 0)
        except OSError as error:
            raise RuntimeFolderError(f"{self._file}: {error.strerror}") from None

    def _signature(self) -> tuple[int, str]:
        """PID and network namespace of the start that had the file last; the latter empty if it did not say."""
        said = os.pread(self._descriptor, 80, 0).decode("ascii", "replace")
        first, rest = said[:16].strip(), said[16:].split()
        pid = int(first) if first.isdigit() else 0
        # An older release writes over the first part alone.
        return pid, rest[1] if len(rest) == 2 and rest[0] == first else ""

    def _sweep(self) -> None:
        """Remove what launchers of this port have left that died without a word, half way or later."""
        folder, slot = self._file.parent, self._slot
        for record in [*folder.glob(f"{slot}.*.new"), *folder.glob(f"{slot}.*.json")]:
            discard(record)
        for name in [*folder.glob(f"{slot}.*.sock"), *folder.glob(f".{slot}.*.sock.new")]:
            if not (folder / f"{name.name.lstrip('.').partition('.sock')[0]}.json").exists():
                _remove(name)
        for probe in folder.glob(".probe.*"):
            pid = probe.name.split(".")[2]
            if not (pid.isdigit() and _alive(int(pid))):
                _remove(probe)

    # The name.

    def _lock_name(self) -> bool:
        """Whether the name is ours, or it is certain that no start of ours has it."""
        if self._name is not None or not unixsockets.ABSTRACT:
            return True
        address = _name_of(self._slot)
        try:
            self._name = unixsockets.listen(address)
        except OSError as error:
            return error.errno != errno.EADDRINUSE or self._is_strangers(address)
        self._let_go_of_rival()
        return True

    def _is_strangers(self, address: str) -> bool:
        """Whether the name was taken by another user, or by somebody who does not let us ask."""
        if self._rival is not None and _hung_up(self._rival):
            self._let_go_of_rival()
        try:
            self._rival = self._rival or unixsockets.connect(address, 0.0)
        except OSError:
            # The holder does not listen yet, or never will; its queue is full; it has gone.
            self._silent_since = self._silent_since or time.monotonic()
            return time.monotonic() - self._silent_since > SILENCE
        self._silent_since = None
        holder = unixsockets.peer(self._rival)
        return holder is not None and holder.uid != os.geteuid()

    def _let_go_of_rival(self) -> None:
        if self._rival is not None:
            unixsockets.hang_up(self._rival)
            self._rival = None

    # The end.

    def __enter__(self) -> StartLock:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()

    def release(self) -> None:
        """Let the next start go on; may be called more than once."""
        self._let_go_of_rival()
        if self._name is not None:
            unixsockets.hang_up(self._name)
            self._name = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._locked = False


def starting(slot: int | str) -> int | None:
    """The PID of the start of this address that goes on, of this user and in this network namespace.

    0 if it is out of sight; None if there is none, and on systems without abstract names.
    """
    if not unixsockets.ABSTRACT:
        return None
    try:
        caller = unixsockets.connect(_name_of(slot), 0.0)
    except OSError:
        return None
    holder = unixsockets.peer(caller)
    unixsockets.hang_up(caller)
    return holder.pid if holder is not None and holder.uid == os.geteuid() else None


def _name_of(slot: int | str) -> str:
    return f"\0preflight/start/{os.geteuid()}/{slot}"


def _hung_up(connection: socket.socket) -> bool:
    """Whether the other end has gone; as long as it is there, it sends nothing."""
    try:
        connection.recv(1, socket.MSG_PEEK)  # descriptors that are read would have to be closed
    except BlockingIOError:
        return False
    except OSError:
        pass  # closed before it had accepted
    return True


def network(pid: int | str = "self") -> str:
    """The network namespace of a process ("net:[4026531840]"); empty if that cannot be told."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""
