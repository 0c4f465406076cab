"""Instances of ours on a port, recognised by asking the processes that hold its socket.

The kernel knows which processes listen on the port in this network namespace. Each of those processes, and each of
their ancestors, is looked up among the launchers that take calls for that port (presence.py): on Linux by their
abstract names; elsewhere, and for older releases, by a record that the process itself keeps open. So neither the
runtime folder, nor the spelling of an address, nor the release decides which instances are ours. An instance in another
network namespace is no neighbour.

A process that looks like an instance of ours and cannot be asked (it is suspended, or its record and socket are gone)
is a neighbour as well: one that does not answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from preflight import ports, project
from preflight.instances import records as instances
from preflight.instances import runtime, socketfiles, unixsockets
from preflight.instances.lookalikes import WORKER, checkout
from preflight.instances.records import DRAINING, SERVING, Address, Handover, Record
from preflight.instances.wishes import wish
from preflight.ports import ancestors, cgroups, here
from preflight.processes.channel import Channel
from preflight.settings.model import Settings
from preflight.text import address

_SLOT = r"[0-9]{1,5}|unix-[0-9a-f]{8}"
_FORMER = {"preflight": "pytest-preflight"}  # what our own checkouts were called before there was a package
_NAME = re.compile(rf"\0preflight/({_SLOT})/")
_RECORD = re.compile(rf"({_SLOT})\..+\.json")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An instance of ours that holds the port, or a process that looks like an instance."""

    record: Record
    answers: bool
    """Whether it identified itself; otherwise the record may be an old one, or made up from a PID."""
    address: Address | None = None
    """Where it can be asked for its socket."""

    @property
    def stays(self) -> bool:
        """Whether it is there to stay: one that drains is not."""
        return self.record.state != DRAINING

    def came_up_after(self, moment: float) -> bool:
        """Whether it was ready to serve only after that, on the monotonic clock.

        An instance that says it came up in the future (in another time namespace, or release) has another clock.
        """
        return self.answers and self.record.state == SERVING and moment <= self.record.up_at <= time.monotonic()

    @property
    def where(self) -> str:
        """The address that it serves, as it was named in its settings."""
        if self.record.uds:
            return f"unix:{self.record.uds}"
        return address(self.record.host, self.record.port) if self.record.host else f"port {self.record.port}"

    @property
    def name(self) -> str:
        """What people call it."""
        return self.record.name

    def is_at(self, settings: Settings) -> bool:
        """Whether its socket is bound to the very address that these settings name, however that is spelled."""
        if settings.uds is not None or self.record.uds:
            return self.record.slot == settings.slot
        with contextlib.suppress(OSError):
            theirs = ports.resolve(self.record.bound or self.record.host, self.record.port)
            return theirs.is_same(ports.resolve(settings.host, settings.port))
        return False

    def is_of(self, settings: Settings) -> bool:
        """Whether it is of the project that these settings are of; if it does not say, it is taken for that."""
        record = self.record
        if not record.project and not record.root:
            return True
        if record.project and settings.project and _normal(record.project) == _normal(settings.project):
            return True
        return bool(record.root) and Path(record.root) == settings.root

    def is_the_wish_of(self, settings: Settings) -> bool:
        """Whether it serves what a start with these settings would, under the same requirements, at this address."""
        return self.is_at(settings) and self.record.wish == wish(settings)

    def hand_over(self) -> Handover | None:
        """Ask it for its socket; None if it gives none."""
        return instances.hand_over(self.address, self.record) if self.address is not None else None


def _normal(project: str) -> str:
    name = re.sub(r"[-_.]+", "-", project).lower()  # PEP 503
    return _FORMER.get(name, name)


def on_port(settings: Settings, holders: Sequence[ports.Holder] | None = None) -> list[Neighbour]:
    """The instances of ours that listen where these settings would, the newest first, those that serve before others.

    ``holders`` are the port's, if they are known already.
    """
    if settings.uds is not None:
        peer = socketfiles.look(settings.uds).peer
        return _of_processes(settings.slot, [peer.pid] if peer is not None and peer.pid else [], settings.state_dir)
    if holders is None:
        try:
            holders = ports.listeners(settings.host, settings.port)
        except ports.PortUnavailable:
            return []
    found = of_holders(settings.port, holders, settings.state_dir)
    return found + _hidden(settings, found) if any(map(_is_hidden, holders)) else found


def of_holders(port: int, holders: Sequence[ports.Holder], state_dir: Path | None = None) -> list[Neighbour]:
    """The instances of ours that these processes belong to, the newest first, those that serve before others."""
    return _of_processes(str(port), [one.pid for one in holders if one.pid is not None], state_dir)


def _of_processes(slot: str, pids: Sequence[int], state_dir: Path | None) -> list[Neighbour]:
    # Each process with its ancestors: a launcher, its worker and what that has forked all hold the socket.
    families = {pid: (pid, *ancestors(here(), pid)) for pid in pids}
    unknown = set(families)
    neighbours: list[Neighbour] = []

    def enter(neighbour: Neighbour) -> None:
        neighbours.append(neighbour)
        unknown.difference_update(pid for pid, family in families.items() if neighbour.record.pid in family)

    everybody = {pid for family in families.values() for pid in family}
    if not everybody:
        return []
    for neighbour in _by_name(slot, everybody, wanted=lambda: bool(unknown)):
        enter(neighbour)
    if unknown:
        known = {neighbour.record.instance_id for neighbour in neighbours}
        for neighbour in _by_record(slot, {member for pid in unknown for member in families[pid]}, state_dir):
            if neighbour.record.instance_id not in known:
                known.add(neighbour.record.instance_id)
                enter(neighbour)
    alike = [pid for pid in sorted(unknown) if checkout(pid) is not None]
    neighbours += [_silent(_made_up(slot, pid)) for pid in alike]
    return sorted(
        neighbours, key=lambda neighbour: (neighbour.stays, neighbour.answers, neighbour.record.up_at), reverse=True
    )


def _is_hidden(holder: ports.Holder) -> bool:
    """Whether a holder is a process of this user's that forbids looking into it."""
    return holder.pid is None and holder.uid == os.geteuid()


def _hidden(settings: Settings, known: Sequence[Neighbour]) -> list[Neighbour]:
    """Instances at this very address whose processes forbid looking into them (Linux), as with capabilities of a file.

    That they hold the port cannot be seen: they say so, and the kernel says that they and the holder are this user's.
    """
    pids = {process.pid for process in here().opaque(os.geteuid())} - {one.record.pid for one in known}
    named = _by_name(settings.slot, pids, wanted=lambda: True)
    return [neighbour for neighbour in named if neighbour.answers and neighbour.is_at(settings)]


def others(holders: Sequence[ports.Holder], ours: Sequence[Neighbour]) -> list[ports.Holder]:
    """The holders that neither belong to one of these instances nor keep a socket for one."""
    pids = {one.record.pid for one in ours}
    families = {one.pid: {one.pid, *ancestors(here(), one.pid)} for one in holders if one.pid is not None}
    hidden = bool(pids.difference(*families.values()))  # one of these instances is not seen to hold the port
    return [
        holder
        for holder in without_keepers(holders, ours)
        if (not pids & families[holder.pid] if holder.pid is not None else not (hidden and _is_hidden(holder)))
    ]


def without_keepers(holders: Sequence[ports.Holder], ours: Sequence[Neighbour]) -> list[ports.Holder]:
    """The holders without the service manager that keeps the socket of one of these instances.

    It has started the instance, and goes on listening on the socket that it has passed. Users other than root cannot
    look into the system's own manager: then all that is seen is that the socket belongs to another user.
    """
    managers = {pid for one in ours if one.record.activated_by for pid in ancestors(here(), one.record.pid)}
    if not managers:
        return list(holders)
    return [holder for holder in holders if holder.pid not in managers and not (holder.pid is None and holder.uid == 0)]


def elsewhere(port: int) -> frozenset[int]:
    """The PIDs of this user's launchers that serve other ports, or are about to, as far as they can be told (Linux)."""
    found = set()
    for name in unixsockets.abstract_names("preflight/"):
        match = _NAME.match(name)
        if match is None or match[1] == str(port):
            continue
        with contextlib.suppress(OSError):
            channel, peer = instances.call(name, patience=0.0)
            channel.close()
            found.add(peer.pid)
    return frozenset(found)


# Those that can be asked by name.


def _by_name(slot: str, pids: set[int], wanted: Callable[[], bool]) -> Iterator[Neighbour]:
    """Instances on Linux, of this release and later ones.

    Anybody can listen on such a name. Those whose queue is full are tried again for as long as somebody is ``wanted``,
    and all of them together not longer than one of them has that is suspended.
    """
    names = unixsockets.abstract_names(f"preflight/{slot}/")
    until = time.monotonic() + instances.ANSWER
    while names:
        full = []
        for name in names:
            try:
                channel, peer = instances.call(name, patience=0.0)
            except instances.Silent:
                full.append(name)
                continue
            except OSError:
                continue
            try:
                if peer.pid in pids and (neighbour := _named(slot, name, channel, peer.pid)) is not None:
                    yield neighbour  # others hold nothing here, whatever they call themselves
            finally:
                channel.close()
        names = full if wanted() and time.monotonic() < until else []
        if names:
            time.sleep(unixsockets.POLL)


def _named(slot: str, name: str, channel: Channel, pid: int) -> Neighbour | None:
    """The launcher at the other end; None for one in another container, which is left to the policy for ports.

    Its PID is what the kernel says: in a PID namespace of its own it has another one for itself.
    """
    if _is_in_another_container(pid):
        return None
    try:
        record, _bound = instances.ask(channel, any_release=False, patience=_patience(pid))
    except OSError:
        kept = _kept_open(slot, pid)
        return _silent(kept[0] if kept else _made_up(slot, pid))
    return Neighbour(replace(record, pid=pid), answers=True, address=name) if record is not None else None


def _patience(pid: int) -> float:
    """How many seconds a launcher has to answer."""
    process = here().process(pid)
    return instances.BUSY if process is not None and not process.suspended else instances.ANSWER


def _is_in_another_container(pid: int) -> bool:
    process, me = here().process(pid), here().process(os.getpid())
    if process is None or me is None:
        return False
    theirs = cgroups.container(process.cgroup)
    return theirs is not None and theirs != cgroups.container(me.cgroup)


# Those that have a record.


def _by_record(slot: str, pids: set[int], state_dir: Path | None) -> Iterator[Neighbour]:
    """Instances of older releases, and those on systems without abstract names."""
    for pid in sorted(pids):
        if (kept := _kept_open(slot, pid)) is not None:
            yield _asked(*kept)
    for record, file in _published(slot, state_dir):
        # A PID means something only where it was written down: a container that shares the folder has its own, and its
        # launcher is PID 1, like an ancestor of everybody here. On Linux those that are meant keep their records open.
        if record.pid in pids and not unixsockets.ABSTRACT:
            yield _asked(record, file)


def _asked(record: Record, file: Path) -> Neighbour:
    path = file.with_suffix(".sock")
    try:
        channel, peer = instances.call(path)
    except OSError:
        return _silent(record)
    try:
        if peer.pid not in (0, record.pid):
            return _silent(record)
        said, bound = instances.ask(channel, any_release=True, patience=_patience(record.pid))
    except OSError:
        return _silent(record)
    finally:
        channel.close()
    if said is None:  # it is of a release that ran from checkouts only
        said = replace(_with_project(record, may_be_installed=False), bound=bound)
    return Neighbour(said, answers=True, address=path)


def _silent(record: Record) -> Neighbour:
    """A neighbour that does not identify itself, with what can be known of it nevertheless."""
    return Neighbour(_with_project(record, may_be_installed=True), answers=False)


def _kept_open(slot: str, pid: int) -> tuple[Record, Path] | None:
    """The record that this process keeps open, and its path, wherever that is and even if nothing is there (Linux)."""
    with contextlib.suppress(OSError):
        if os.stat(f"/proc/{pid}").st_uid != os.geteuid():
            return None
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                path = os.readlink(f"/proc/{pid}/fd/{descriptor}").removesuffix(" (deleted)")
                match = _RECORD.fullmatch(os.path.basename(path))
                if match is None or match[1] != slot:
                    continue
                with open(f"/proc/{pid}/fd/{descriptor}", "rb") as file:
                    data = _parsed(file.read(runtime.LONGEST))
                if data is not None and data.get("pid", pid) == pid:
                    return Record.of(data, pid=pid, port=_port(slot)), Path(path)
    return None


def _published(slot: str, state_dir: Path | None) -> Iterator[tuple[Record, Path]]:
    """Records in the runtime folders whose launchers live; what a crash has left behind is removed on the way."""
    for folder in runtime.places(state_dir):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                continue  # anybody could have put something there
            for file in folder.glob(f"{slot}.*.json"):
                if (content := runtime.discard(file)) is not None and (data := _parsed(content)) is not None:
                    yield Record.of(data, port=_port(slot)), file


def _port(slot: str) -> int:
    """The port that a slot is, 0 for that of a Unix socket."""
    return int(slot) if slot.isdigit() else 0


def _made_up(slot: str, pid: int) -> Record:
    """The record of a process of which no more is known."""
    return Record.of({}, pid=pid, port=_port(slot))


def _parsed(content: bytes) -> dict[str, object] | None:
    """The fields of a record of any release; None if the file holds no record."""
    with contextlib.suppress(ValueError, RecursionError):
        data = json.loads(content)
        return data if isinstance(data, dict) else None
    return None


def _with_project(record: Record, *, may_be_installed: bool) -> Record:
    """The record with its project, which is read from the folder that the process runs from if the record has none.

    If that folder is no checkout, it counts only if the process may run an installed package.
    """
    if record.root:
        return record
    for place, is_certain in _origins(record.pid, may_be_installed):
        found = project.find(place)
        if is_certain or found.configured:
            return replace(record, root=str(found.root), project=_name_of(found.root))
    return record


def _origins(pid: int, may_be_installed: bool) -> Iterator[tuple[Path, bool]]:
    """Where a launcher or a worker runs from, and whether that is certain: an application may change its folder."""
    process = here().process(pid)
    if process is None:
        return
    place, folder = checkout(pid), here().folder(pid)
    if place is not None:
        yield place, WORKER not in process.argv
    elif may_be_installed and os.path.isdir(folder):
        yield Path(folder), True  # where the command of an installed package was typed
    for child in here().children(pid):
        if (place := checkout(child)) is not None:
            yield place, False


def _name_of(root: Path) -> str:
    """The project's name, as its pyproject.toml has it; empty where it has none."""
    with contextlib.suppress(OSError, ValueError):
        table = tomllib.loads((root / project.PYPROJECT).read_text(encoding="utf-8")).get("project", {})
        name = table.get("name", "") if isinstance(table, dict) else ""
        return name if isinstance(name, str) else ""
    return ""
