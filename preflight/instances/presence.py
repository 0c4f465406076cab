"""How other launchers of its user find and ask a launcher: a record in the runtime folder, and a control socket.

On Linux the control socket has an abstract name as well, with the port and the instance's id in it. A process that
finds a listener on the port asks that name, wherever the two keep their files (see neighbours.py). Record and file
socket are for older releases and other systems. They may be swept away, so they are made again when they vanish.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from preflight import __version__, files, times
from preflight.instances import runtime, unixsockets
from preflight.instances.records import DRAINING, PROTOCOL, SERVING, STARTING, Record, bound_to
from preflight.instances.runtime import RuntimeFolderError
from preflight.instances.wishes import wish
from preflight.processes.channel import Channel, Message
from preflight.processes.loop import Loop
from preflight.settings.model import Settings

LOOK = 1.0  # seconds between two looks at whether record and socket are still there
UNREAD = 0.2  # seconds that a caller who does not read can keep us waiting
LONGEST_CALL = 16 * 1024  # bytes of a caller's message
IDLE = 10.0  # seconds without a message after which a caller is dropped that has not got our socket
GOODBYE = 0.75  # seconds beyond drain_timeout that a worker gets to say goodbye
FAREWELL = 1.0  # seconds that its launcher may take beyond that
CALLERS = 32  # at once; one more takes the place of the one that has been silent for longest


def abstract_name(slot: int | str, instance_id: str) -> str:
    """The name that an instance listens on; no process can take it first, because the id is random."""
    return f"\0preflight/{slot}/{instance_id}"


def stops_within(settings: Settings) -> float:
    """Seconds that an instance may take to end once it serves and is asked to."""
    return settings.drain_timeout + GOODBYE + FAREWELL


class Presence:
    """How a launcher is visible to others of its user, from before it stops anything until it has ended."""

    def __init__(self, record: Record, loop: Loop, *, state_dir: Path | None = None) -> None:
        """Publish the record and listen. Raises RuntimeFolderError if that is not possible."""
        self.record = record
        self.listener: Callable[[], socket.socket | None] = lambda: None
        """Returns the socket that the launcher listens on; None before it has one, and after it has closed it."""
        self.on_retire: Callable[[int], object] = lambda _pid: None
        """Called with the PID of a caller that has replaced this instance."""
        self.on_given_back: Callable[[], object] = lambda: None
        """Called when a caller that had our socket has gone."""
        self.given: list[Channel] = []
        """Connected callers that have our socket: if we end, they serve its queue."""
        self.trouble = ""
        """Why the record could not be made again when it had vanished; empty if it could."""
        self._loop = loop
        self._state_dir = state_dir
        self._callers: dict[Channel, float] = {}
        """The connected callers, and when each was heard last, on the monotonic clock; the longest silent first."""
        self._until = 0.0
        """When a launcher that drains will have ended at the latest, on the monotonic clock."""
        self._looked_at = time.monotonic()
        self._record = -1
        self._length = runtime.RECORD
        self._file: Path | None = None
        self._socket: socket.socket | None = None
        self._abstract: socket.socket | None = None
        self._resting: list[socket.socket] = []  # nobody is accepted there for a moment
        if unixsockets.ABSTRACT:
            with contextlib.suppress(OSError):  # a sandbox that forbids them has files
                self._abstract = unixsockets.listen(abstract_name(record.slot, record.instance_id))
                self._watch(self._abstract)
        try:
            self._publish()
        except BaseException:
            self.end()
            raise

    @classmethod
    def of(cls, settings: Settings, loop: Loop, *, keeper: str = "", activated_by: str = "") -> Presence:
        """The presence of a launcher that begins to start with these settings. Raises RuntimeFolderError.

        ``keeper`` is who else restarts it; ``activated_by`` is the unit whose socket it was given, if systemd gave one.
        """
        record = Record(
            instance_id=os.urandom(16).hex(),
            pid=os.getpid(),
            host=settings.host if settings.uds is None else "",
            port=settings.port if settings.uds is None else 0,
            since=times.now(),
            up_at=time.monotonic(),
            version=__version__,
            stops_within=stops_within(settings),
            log_file=str(settings.log_file or ""),
            state=STARTING,
            project=settings.project,
            root=str(settings.root),
            keeper=keeper,
            app=settings.app,
            protocol=PROTOCOL,
            activated_by=activated_by,
            uds=str(settings.uds or ""),
            wish=wish(settings),
        )
        return cls(record, loop, state_dir=settings.state_dir)

    # What it says about itself.

    def came_up(self) -> None:
        """The launcher serves from now on."""
        self._change(up_at=time.monotonic(), state=SERVING, doing="", bound=self._bound())

    def drains(self, seconds: float) -> None:
        """The launcher accepts nothing new from now on, and will have ended in so many seconds at the latest."""
        self._until = time.monotonic() + seconds
        self._change(state=DRAINING, doing="", stops_within=seconds)

    def does(self, doing: str) -> None:
        """Say what the launcher waits for, for people who ask; an empty string: nothing beyond its state."""
        if doing != self.record.doing:
            self._change(doing=doing)

    def _change(self, **changes: object) -> None:
        self.record = replace(self.record, **changes)  # type: ignore[arg-type]  # by the methods above
        with contextlib.suppress(OSError):  # a full disk is no reason to stop; callers hear it all the same
            self._write()

    # Record and sockets.

    def _publish(self) -> None:
        """Make record and file socket. Raises RuntimeFolderError."""
        file = runtime.folder(self._state_dir) / f"{self.record.slot}.{self.record.instance_id}.json"
        # Locked and whole before it gets its name: nobody ever sees a record that is not believable yet.
        temporary = file.with_suffix(".new")
        try:
            try:
                self._write_new(temporary)
                temporary.rename(file)
            except FileNotFoundError:  # another start swept the file away before it was locked
                self._write_new(temporary)
                temporary.rename(file)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise RuntimeFolderError(f"{temporary}: {error.strerror}") from None
        self._file = file
        self._listen()

    def _write_new(self, file: Path) -> None:
        descriptor = files.new(file)
        if self._record >= 0:
            os.close(self._record)
        self._record = descriptor
        os.fchmod(descriptor, 0o600)  # whatever the umask takes away
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._write()

    def _write(self) -> None:
        # Never shorter than before, so that writing it again leaves no rest of the old one.
        text = json.dumps(self.record.for_file()).encode().ljust(self._length)
        self._length = len(text)
        runtime.write_whole(self._record, text, 0)

    def _listen(self) -> None:
        if self._file is None:
            raise RuntimeError("there is no record to listen for")
        path = self._file.with_suffix(".sock")
        try:
            listener = unixsockets.listen(path)
        except OSError as error:
            raise RuntimeFolderError(f"{path}: {error.strerror}") from None
        if self._socket is not None:
            self._forget(self._socket)
        self._socket = listener
        self._watch(listener)

    def look_after(self) -> None:
        """Make what a cleaner has removed again; cheap enough to be called often."""
        if time.monotonic() - self._looked_at < LOOK:
            return
        self._looked_at = time.monotonic()
        self._drop_silent(IDLE)
        while self._resting:
            self._watch(self._resting.pop())
        try:
            if not self._is_there():
                self._publish()
            elif self._file is not None and not self._file.with_suffix(".sock").is_socket():
                self._listen()
        except OSError as error:
            self.trouble = str(error)
        else:
            self.trouble = ""

    def _is_there(self) -> bool:
        try:
            return self._file is not None and os.path.samestat(os.fstat(self._record), self._file.lstat())
        except OSError:
            return False

    # Callers.

    def _watch(self, listener: socket.socket) -> None:
        self._loop.watch(listener, lambda: self._called(listener))

    def _forget(self, listener: socket.socket) -> None:
        self._loop.unwatch(listener)
        if listener in self._resting:
            self._resting.remove(listener)
        unixsockets.hang_up(listener)

    def _called(self, listener: socket.socket) -> None:
        if listener is self._abstract and unixsockets.closing() >= CALLERS:
            self._loop.unwatch(listener)  # until some have been closed; the file's callers are of this user
            self._resting.append(listener)
            return
        try:
            caller, _address = listener.accept()
        except OSError:
            return
        peer = unixsockets.peer(caller)
        if peer is None or peer.uid != os.geteuid():
            unixsockets.hang_up(caller)
            return
        if len(self._callers) >= CALLERS and not self._drop_silent(0.0, at_most=1):
            caller.close()  # all of them have our socket, and will say when they are ready
            return
        caller.setblocking(True)
        channel = Channel(caller, UNREAD, limit=LONGEST_CALL, descriptors=0)
        self._callers[channel] = time.monotonic()
        self._loop.watch(channel, lambda: self._heard(channel))

    def _drop_silent(self, longer_than: float, at_most: int = CALLERS) -> bool:
        """Hang up on callers without our socket that have not said anything for so many seconds; whether any were."""
        before = time.monotonic() - longer_than
        silent = [one for one, heard in self._callers.items() if heard <= before and one not in self.given][:at_most]
        for channel in silent:
            self._hang_up(channel)
        return bool(silent)

    def _heard(self, channel: Channel) -> None:
        try:
            for message in channel.arrived():
                if self._callers.pop(channel, None) is None:
                    return  # the message before this one was its last
                self._callers[channel] = time.monotonic()  # now last in line; half a message does not count
                self._answer(channel, message)
        except (OSError, ValueError, TypeError, OverflowError):
            self._hang_up(channel)
        else:
            if channel.closed:
                self._hang_up(channel)

    def _answer(self, channel: Channel, message: Message) -> None:
        match message.kind:
            case "who":
                channel.send("instance", **asdict(self._now()))
            case "handover":
                listener = self.listener()
                if listener is None or self.record.state != SERVING:
                    channel.send("none", protocol=PROTOCOL)
                    return
                channel.send("socket", (listener.fileno(),), protocol=PROTOCOL)
                if channel not in self.given:
                    self.given.append(channel)
            case "retire":
                self.on_retire(int(message.data.get("pid", 0)))

    def _now(self) -> Record:
        left = max(0.0, self._until - time.monotonic()) if self.record.state == DRAINING else self.record.stops_within
        return replace(self.record, stops_within=left, bound=self._bound())

    def _bound(self) -> str:
        listener = self.listener()
        return bound_to(listener) if listener is not None else self.record.bound

    def _hang_up(self, channel: Channel) -> None:
        self._loop.unwatch(channel)
        self._callers.pop(channel, None)
        channel.close()
        if channel in self.given:
            self.given.remove(channel)
            self.on_given_back()

    # The end.

    def end(self) -> None:
        """Remove everything; may be called more than once."""
        for channel in list(self._callers):
            self._hang_up(channel)
        for listener in (self._abstract, self._socket):
            if listener is not None:
                self._forget(listener)
        self._abstract = self._socket = None
        if self._file is not None:
            with contextlib.suppress(OSError):  # its folder may have become anything
                if self._is_there():
                    self._file.unlink(missing_ok=True)
                self._file.with_suffix(".sock").unlink(missing_ok=True)
            self._file = None
        if self._record >= 0:
            os.close(self._record)
            self._record = -1
