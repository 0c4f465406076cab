"""The messages between launchers of one user: the identity of an instance, and the handover of its socket.

A caller sends "who", which is answered by "instance", or "handover", which is answered by "socket" with the listening
socket or by "none", and after a handover "retire". Every message has the protocol's version. Unknown messages and
fields are ignored, and missing fields have a default, so that releases can replace each other. Protocol 1 knew neither
"who" nor "none".
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

from preflight.instances import unixsockets
from preflight.processes.channel import Channel, Message
from preflight.settings.model import slot
from preflight.text import foreign
from preflight.times import local_of

PROTOCOL = 2
ANSWER = 2.0  # seconds that a launcher has to answer
BUSY = 10.0  # seconds for a launcher that is not suspended, which may have been paged out or wait for a disk
LONGEST_END = 700.0  # seconds; no settings let an instance take longer to end, whatever a record says
STARTING, SERVING, DRAINING = "starting", "serving", "draining"
MANY = 1 << 62  # seconds or a number of anything that no launcher has
_OF_PROTOCOL_1 = 9  # fields of a record, in their order
# Compared as they stand in the record, so they stay as they are; the code that shows one makes it printable.
_COMPARED = frozenset({"project", "root", "app", "log_file", "uds"})


@dataclass(frozen=True, slots=True)
class Record:
    """One instance, as it describes itself."""

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
    """Seconds that it may take to finish what it is doing once it is asked to stop; of one that drains, from now on."""
    log_file: str = ""
    """Where the instance writes its log, if anywhere; commands that show the log later read it here."""
    # Since protocol 2:
    state: str = SERVING
    doing: str = ""
    """What it waits for, for people, if there is anything to say beyond its state."""
    bound: str = ""
    """The IP address that its socket is bound to, however its host is spelled, with the index of its interface as the
    zone if it has one; empty until it is bound."""
    project: str = ""
    """The project's name, as pyproject.toml has it; empty if that is not known."""
    root: str = ""
    """The checkout that it runs from; empty if that is not known."""
    keeper: str = ""
    """Who restarts it when it ends, as the very process that a unit or a container was started for; empty: nobody."""
    app: str = ""
    """The application that it serves; empty if that is not known."""
    protocol: int = 1
    activated_by: str = ""
    """The socket unit of systemd whose socket it serves on, or "systemd"; empty: its socket is its own."""
    uds: str = ""
    """The path of the Unix socket that it serves on; empty where that is a host and a port."""
    wish: str = ""
    """What its start asked for, see wishes.py; empty if that is not known."""

    @classmethod
    def of(cls, data: Mapping[str, object], **known: object) -> Record:
        """The record that another launcher, of any release, has made; ``known`` overrides it.

        Unknown fields are ignored, and missing fields or fields of another type have a default.
        """
        values: dict[str, object] = {
            "instance_id": "", "pid": 0, "host": "", "port": 0, "since": "", "up_at": 0.0, "version": "",
        }  # fmt: skip
        values |= {entry.name: entry.default for entry in fields(cls)[len(values) :]}
        for name, value in {**data, **known}.items():
            default = values.get(name)
            if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
                value = float(value) if abs(value) < MANY else default
            if name in values and type(value) is type(default):
                values[name] = foreign(value) if isinstance(value, str) and name not in _COMPARED else value
        record = cls(**values)  # type: ignore[arg-type]  # of the types of their defaults
        return replace(record, stops_within=min(max(0.0, record.stops_within), LONGEST_END))  # NaN is 0

    def for_file(self) -> dict[str, object]:
        """The fields of the record's file in the runtime folder.

        Protocol 1 believes a record that has its own nine fields and no other, and takes the instance for one that
        serves: so only the record of an instance that serves is written like that.
        """
        every = asdict(self)
        return every if self.state != SERVING else dict(list(every.items())[:_OF_PROTOCOL_1])

    @property
    def slot(self) -> str:
        """Where starts of its address meet."""
        return slot(self.port, self.uds)

    @property
    def since_when(self) -> str:
        """``since`` for people; what another launcher has written there and is no time stays as it is."""
        try:
            return local_of(self.since)
        except (ValueError, OverflowError, OSError):
            return self.since

    @property
    def name(self) -> str:
        """What people call it."""
        since = f", since {self.since_when})" if self.since else ") or what looks like one"
        return f"our instance (PID {self.pid}{since}"


class Handover(NamedTuple):
    """A running instance's listening socket, and the line on which it can be asked to retire."""

    record: Record
    socket: socket.socket
    channel: Channel

    def retire(self) -> None:
        """Ask the old instance to drain and end, now that another one serves."""
        with contextlib.suppress(OSError):
            self.channel.send("retire", protocol=PROTOCOL, pid=os.getpid())

    def close(self) -> None:
        """Close socket and connection; the old instance goes on."""
        self.socket.close()
        self.channel.close()


Address = str | Path
"""Where a launcher can be asked: an abstract name, or the path of its control socket."""


class Silent(OSError):
    """There is a process, but it does not answer."""


def call(address: Address, patience: float = ANSWER) -> tuple[Channel, unixsockets.Peer]:
    """A line to a launcher of this user, and the process at its other end. Raises OSError if there is none.

    Raises Silent if the listener accepts no call for ``patience`` seconds, whichever process it is.
    """
    try:
        caller = unixsockets.connect(address, patience)
    except BlockingIOError:
        raise Silent from None
    peer = unixsockets.peer(caller)
    if peer is None or peer.uid != os.geteuid():
        unixsockets.hang_up(caller)
        raise ConnectionRefusedError
    unixsockets.take_descriptors(caller, True)
    caller.settimeout(ANSWER)
    return Channel(caller), peer


def ask(channel: Channel, *, any_release: bool, patience: float = ANSWER) -> tuple[Record | None, str]:
    """Who the launcher on this line is, as it says, and the address that its socket is bound to.

    ``any_release``: it may know protocol 1 alone, which can show its socket and no more; then there is no record.
    Raises Silent if it does not answer for ``patience`` seconds.
    """
    answer = None
    try:
        channel.send("who", protocol=PROTOCOL)
        if any_release:
            channel.send("handover", protocol=PROTOCOL)
        answer = channel.receive(patience)
        if answer is not None and answer.kind == "instance":
            if any_release:
                _close(channel.receive(ANSWER))  # the answer to the second question
            record = Record.of(answer.data)
            return record, record.bound
        if answer is not None and answer.kind == "socket" and any_release:
            return None, _address(answer.descriptors[0])
    except (OSError, IndexError):
        pass
    finally:
        _close(answer)
    raise Silent


def _address(descriptor: int) -> str:
    with _socket(descriptor) as shown:
        return bound_to(shown)


def bound_to(sock: socket.socket) -> str:
    """The address that an IP socket is bound to, with its zone ("fe80::1%2") where it has one; a Unix socket's path."""
    if sock.family == socket.AF_UNIX:
        return str(sock.getsockname())
    address = sock.getsockname()
    zone = address[3] if len(address) > 3 else 0
    return f"{str(address[0]).partition('%')[0]}%{zone}" if zone else str(address[0])


def _socket(descriptor: int) -> socket.socket:
    """A socket that outlives the descriptor, which is going to be closed. Raises OSError if that is no socket."""
    duplicate = os.dup(descriptor)
    try:
        return socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise


def hand_over(address: Address, record: Record) -> Handover | None:
    """Ask a running instance for its listening socket; None if it gives none, or does not answer in time."""
    answer = None
    try:
        channel, _peer = call(address)
    except OSError:
        return None
    try:
        channel.send("handover", protocol=PROTOCOL)
        answer = channel.receive(BUSY)
        if answer is not None and answer.kind == "socket" and len(answer.descriptors) == 1:
            return Handover(record, _socket(answer.descriptors[0]), channel)
    except OSError:
        pass  # silent, or it gave something that is not a socket
    finally:
        _close(answer)
    channel.close()
    return None


def _close(message: Message | None) -> None:
    for descriptor in message.descriptors if message is not None else ():
        os.close(descriptor)
