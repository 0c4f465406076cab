"""All that two starters need to know of each other: start lock, instance record, control socket.

They are in the user's runtime folder, where all checkouts meet. Lock and record stand on flock, so a
crash leaves neither a stale lock nor a believed record.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import stat
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from preflight.channel import Channel

ANSWER = 2.0  # seconds that a running instance has to answer on its control socket
RECORD = 8192  # bytes of a record's file
POLL = 0.02  # seconds between two tries for a lock: flock itself waits for ever, for a suspended process, too


class RuntimeFolderError(OSError):
    """The runtime folder cannot be used; the message is one line."""


@dataclass(frozen=True, slots=True)
class Record:
    """One serving instance."""

    instance_id: str
    pid: int  # the launcher's
    host: str
    port: int
    since: str  # UTC, "2026-01-02T03:04:05Z"
    up_at: float
    """When it was ready to serve, until then when it was published: seconds on this machine's monotonic clock, which
    all processes share and nobody can set."""
    version: str
    stops_within: float = 0.0
    """Seconds that it may take to finish what it is doing once it is asked to stop."""
    log_file: str = ""
    """Where it writes its log, if anywhere: who asks for help later need not say it again."""

    @property
    def name(self) -> str:
        """For people."""
        return f"our instance (PID {self.pid}, since {self.since})"


def runtime_folder() -> Path:
    """This user's own folder for locks, records and control sockets, mode 0700.

    Raises RuntimeFolderError where something else stands in its place.
    """
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given:
        folder = Path(given) / "preflight"
    else:
        import tempfile  # brings shutil, bz2, lzma and random; a person's session does without

        folder = Path(tempfile.gettempdir()) / f"preflight-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=bool(given), exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise RuntimeFolderError(f"{folder}: {error.strerror}") from None
    # Under a shared temporary folder anybody can be first: never follow a link, never use another's folder.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise RuntimeFolderError(f"{folder}: is not a folder of mode 0700 that belongs to this user")
    return folder


# The start lock.


class StartLock:
    """One start at a time for a user and a port; an object that is gone has let go."""

    def __init__(self, port: int) -> None:
        # Never unlinked: two starters would hold two locks of one name.
        self._file = runtime_folder() / f"{port}.lock"
        try:
            self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RuntimeFolderError(f"{self._file}: {error.strerror}") from None

    def take(self, patience: float = 0.0) -> bool:
        """Whether we have it; other starts are waited for, but for none of them longer than ``patience`` seconds."""
        holder, since = self.holder(), time.monotonic()
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - since >= patience:
                    return False
            time.sleep(POLL)
            if self.holder() != holder:  # the next in the queue, with a time of its own
                holder, since = self.holder(), time.monotonic()
        os.pwrite(self._descriptor, f"{os.getpid():<16}".encode(), 0)
        for litter in self._file.parent.glob(f"{self._file.stem}.*.new"):
            litter.unlink(missing_ok=True)  # only who has this lock publishes a record; that one died half way
        return True

    def holder(self) -> int:
        """The PID of the process that had it last; 0 if nobody ever had."""
        said = os.pread(self._descriptor, 16, 0).strip()
        return int(said) if said.isdigit() else 0

    def __enter__(self) -> StartLock:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()

    def release(self) -> None:
        """Let the next starter go on; more than once does no harm."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


# The record.


class Presence:
    """An instance's record, believed for as long as this object holds its lock."""

    def __init__(self, record: Record) -> None:
        """Publish ``record``; raises RuntimeFolderError where that is not possible."""
        self.record = record
        self._file = _record_file(record)
        # Locked and whole before it gets its name: nobody ever sees a record that is not believable yet.
        temporary = self._file.with_suffix(".new")
        try:
            self._descriptor = os.open(
                temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write()
            temporary.rename(self._file)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise RuntimeFolderError(f"{temporary}: {error.strerror}") from None

    def _write(self) -> None:
        # Always of one length, so that writing it again leaves no rest of the old one.
        os.pwrite(self._descriptor, json.dumps(asdict(self.record)).encode().ljust(RECORD), 0)

    def came_up(self) -> None:
        """Note that it serves from now on."""
        self.record = replace(self.record, up_at=time.monotonic())
        self._write()

    def __enter__(self) -> Presence:
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()

    def end(self) -> None:
        """Take the record away; more than once does no harm."""
        if self._descriptor >= 0:
            self._file.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


def _record_file(record: Record) -> Path:
    return runtime_folder() / f"{record.port}.{record.instance_id}.json"


def live(port: int) -> list[Record]:
    """The instances that serve this port now, on whatever address, the newest first.

    What a crash has left behind is removed on the way.
    """
    found = []
    try:
        folder = runtime_folder()
    except RuntimeFolderError:
        return []
    for file in folder.glob(f"{port}.*.json"):
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            file.unlink(missing_ok=True)  # nobody holds it: its launcher died without a word
            file.with_suffix(".sock").unlink(missing_ok=True)
        except BlockingIOError:
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                found.append(Record(**json.loads(os.pread(descriptor, 65536, 0))))
        finally:
            os.close(descriptor)
    return sorted(found, key=lambda record: record.up_at, reverse=True)


def overlap(one: str, other: str) -> bool:
    """Whether a server on one host could be in the way of one on the other, on the same port."""
    names = {"localhost": "127.0.0.1"}
    one, other = names.get(one, one), names.get(other, other)
    return one == other or bool({one, other} & {"0.0.0.0", "::"})


# The control socket.


class Control:
    """The serving instance's side: it hands its listening socket to a starter of the same user.

    Messages: "handover" is answered by "socket" with the descriptor; "retire" asks to drain and end.
    """

    def __init__(self, record: Record) -> None:
        """Listen; raises RuntimeFolderError where that is not possible."""
        self._file = _record_file(record).with_suffix(".sock")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _folder_as_cwd(self._file):
                before = os.umask(0o177)
                try:
                    self.socket.bind(self._file.name)
                finally:
                    os.umask(before)
            self.socket.listen(16)
            self.socket.setblocking(False)
        except OSError as error:
            self.socket.close()
            raise RuntimeFolderError(f"{self._file}: {error.strerror}") from None

    def accept(self) -> Channel | None:
        """The channel of a caller; None if it is no process of this user."""
        try:
            caller, _address = self.socket.accept()
        except OSError:
            return None
        caller.settimeout(ANSWER)
        if peer_uid(caller) != os.getuid():
            caller.close()
            return None
        return Channel(caller)

    def end(self) -> None:
        """Stop answering; more than once does no harm."""
        self._file.unlink(missing_ok=True)
        self.socket.close()


@dataclass(frozen=True, slots=True)
class Handover:
    """A running instance's listening socket, and the line on which it can be asked to retire."""

    record: Record
    socket: socket.socket
    channel: Channel

    def retire(self) -> None:
        """Ask the old instance to drain and end, now that another one serves."""
        with contextlib.suppress(OSError):
            self.channel.send("retire", pid=os.getpid())

    def close(self) -> None:
        """Let go of socket and line; the old instance goes on."""
        self.socket.close()
        self.channel.close()


def ask_for_socket(record: Record) -> Handover | None:
    """Ask a running instance for its listening socket; None if it does not answer in time."""
    file = _record_file(record).with_suffix(".sock")
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    caller.settimeout(ANSWER)
    channel = Channel(caller)
    try:
        with _folder_as_cwd(file):
            _connect(caller, file.name)
        if peer_uid(caller) != os.getuid():
            raise ConnectionRefusedError
        channel.send("handover")
        answer = channel.receive(ANSWER)
    except OSError:
        answer = None
    if answer is not None and answer.kind == "socket" and len(answer.descriptors) == 1:
        try:
            return Handover(record, socket.socket(fileno=answer.descriptors[0]), channel)
        except OSError:
            pass  # whatever it is, it is no socket
    for descriptor in answer.descriptors if answer is not None else ():
        os.close(descriptor)
    channel.close()
    return None


def _connect(caller: socket.socket, name: str) -> None:
    """Connect within ANSWER seconds; a Unix socket says EAGAIN at once while the other's queue is full."""
    until = time.monotonic() + ANSWER
    while True:
        try:
            return caller.connect(name)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
        time.sleep(POLL)


def peer_uid(connection: socket.socket) -> int | None:
    """The user id of the process at the other end of a Unix socket, None where the system does not tell."""
    try:
        if sys.platform == "linux":
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            uid: int = struct.unpack("3i", credentials)[1]
        else:
            # struct xucred of LOCAL_PEERCRED: version, uid, ... (sys/ucred.h)
            uid = struct.unpack("2I", connection.getsockopt(0, 1, 76)[:8])[1]
    except (OSError, struct.error):
        return None
    return uid


@contextlib.contextmanager
def _folder_as_cwd(file: Path) -> Iterator[None]:
    """A Unix socket's path has room for about 100 bytes: name it from inside its folder."""
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.chdir(file.parent)
        yield
    finally:
        os.fchdir(before)
        os.close(before)
