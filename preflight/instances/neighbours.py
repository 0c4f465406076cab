"""Instances of ours on a port, recognised by asking the processes that hold its socket.

Whoever listens on the port in this network namespace is known to the kernel. Each of those processes, and its
ancestors, is looked for among the launchers that take calls for that port (presence.py): on Linux by their abstract
names, elsewhere, and for older releases, by a record that the process itself keeps open. So neither the runtime
folder, nor the spelling of an address, nor the release decides who is ours, and an instance in another network
namespace is nobody's neighbour.

Whoever looks like ours and cannot be asked (suspended, or its record and socket are gone) is a neighbour, too, that
does not answer.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from preflight import ports
from preflight.instances import records as instances
from preflight.instances import runtime, unixsockets
from preflight.instances.records import DRAINING, SERVING, STARTING, Address, Handover, Record
from preflight.ports import ancestors, cgroups, here
from preflight.processes.channel import Channel
from preflight.processes.restarts import CONTAINERS, SYSTEMD
from preflight.settings.model import Settings, address
from preflight.text import foreign

_RECORD = re.compile(r"([0-9]{1,5})\..+\.json")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An instance of ours that holds the port, or a process that looks like one."""

    record: Record
    answers: bool
    """Whether it said itself who it is; of one that did not, the record may be an old one, or made up of a PID."""
    address: Address | None = None
    """Where it can be asked for its socket."""

    @property
    def stays(self) -> bool:
        """Whether it is there to stay: one that drains is not."""
        return self.record.state != DRAINING

    def came_up_after(self, moment: float) -> bool:
        """Whether it was ready to serve only after that, on the monotonic clock.

        What says that it came up in the future (another time namespace, or release) has another clock.
        """
        return self.answers and self.record.state == SERVING and moment <= self.record.up_at <= time.monotonic()

    @property
    def where(self) -> str:
        """The address that it serves, as it was told it."""
        return address(self.record.host, self.record.port) if self.record.host else f"port {self.record.port}"

    @property
    def name(self) -> str:
        """For people."""
        return self.record.name

    def is_at(self, settings: Settings) -> bool:
        """Whether its socket is bound to the very address that these settings name, however that is spelled."""
        with contextlib.suppress(OSError):
            theirs = ports.resolve(self.record.bound or self.record.host, self.record.port)
            return theirs.is_same(ports.resolve(settings.host, settings.port))
        return False

    def is_of(self, settings: Settings) -> bool:
        """Whether it is of the project that these settings are of; where it does not say, it is taken for that."""
        record = self.record
        if not record.project and not record.root:
            return True
        if record.project and settings.project:
            return _normal(record.project) == _normal(settings.project)
        return bool(record.root) and Path(record.root) == settings.root

    def hand_over(self) -> Handover | None:
        """Ask it for its socket; None if it gives none."""
        return instances.hand_over(self.address, self.record) if self.address is not None else None


def _normal(project: str) -> str:
    return re.sub(r"[-_.]+", "-", project).lower()  # PEP 503


def on_port(settings: Settings, holders: Sequence[ports.Holder] | None = None) -> list[Neighbour]:
    """The instances of ours that listen where these settings would, the newest first, those that serve before others.

    ``holders`` are the port's, if they are known already.
    """
    if holders is None:
        try:
            holders = ports.listeners(settings.host, settings.port)
        except ports.PortUnavailable:
            return []
    return of_holders(settings.port, holders, settings.state_dir)


def of_holders(port: int, holders: Sequence[ports.Holder], state_dir: Path | None = None) -> list[Neighbour]:
    """The instances of ours that these processes belong to, the newest first, those that serve before others."""
    # Each with those that it belongs to: the launcher holds the socket itself, its worker does, and what that forked.
    families = {
        holder.pid: (holder.pid, *ancestors(here(), holder.pid)) for holder in holders if holder.pid is not None
    }
    unknown = set(families)
    found: list[Neighbour] = []

    def enter(neighbour: Neighbour) -> None:
        found.append(neighbour)
        unknown.difference_update(pid for pid, family in families.items() if neighbour.record.pid in family)

    everybody = {pid for family in families.values() for pid in family}
    if not everybody:
        return []
    for neighbour in _by_name(port, everybody, wanted=lambda: bool(unknown)):
        enter(neighbour)
    if unknown:
        known = {neighbour.record.instance_id for neighbour in found}
        for neighbour in _by_record(port, {pid for one in unknown for pid in families[one]}, state_dir):
            if neighbour.record.instance_id not in known:
                known.add(neighbour.record.instance_id)
                enter(neighbour)
    alike = [pid for pid in sorted(unknown) if _looks_like_ours(pid)]
    found += [Neighbour(Record.of({}, pid=pid, port=port), answers=False) for pid in alike]
    return sorted(found, key=lambda one: (one.stays, one.answers, one.record.up_at), reverse=True)


def others(holders: Sequence[ports.Holder], ours: Sequence[Neighbour]) -> list[ports.Holder]:
    """Those of the holders that belong to none of these instances."""
    pids = {one.record.pid for one in ours}
    return [
        holder for holder in holders if holder.pid is None or not pids & {holder.pid, *ancestors(here(), holder.pid)}
    ]


# Those that can be asked by name.


def _by_name(port: int, pids: set[int], wanted: Callable[[], bool]) -> Iterator[Neighbour]:
    """Instances on Linux, of this release and later ones.

    Anybody can listen on such a name. Those whose queue is full are tried again for as long as somebody is ``wanted``,
    and all of them together not longer than one may take to answer.
    """
    names = unixsockets.abstract_names(f"preflight/{port}/")
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
                if peer.pid in pids and (neighbour := _named(port, name, channel, peer.pid)) is not None:
                    yield neighbour  # others hold nothing here, whatever they call themselves
            finally:
                channel.close()
        names = full if wanted() and time.monotonic() < until else []
        if names:
            time.sleep(unixsockets.POLL)


def _named(port: int, name: str, channel: Channel, pid: int) -> Neighbour | None:
    """The launcher at the other end; None for one in another container, which is left to the policy for ports.

    Its PID is what the kernel says: in a PID namespace of its own it has another one for itself.
    """
    if _is_in_another_container(pid):
        return None
    try:
        record, _bound = instances.ask(channel, any_release=False)
    except OSError:
        kept = _kept_open(port, pid)
        return Neighbour(kept[0] if kept else Record.of({}, pid=pid, port=port), answers=False)
    return Neighbour(replace(record, pid=pid), answers=True, address=name) if record is not None else None


def _is_in_another_container(pid: int) -> bool:
    process, me = here().process(pid), here().process(os.getpid())
    if process is None or me is None:
        return False
    theirs = cgroups.container(process.cgroup)
    return theirs is not None and theirs != cgroups.container(me.cgroup)


# Those that have a record.


def _by_record(port: int, pids: set[int], state_dir: Path | None) -> Iterator[Neighbour]:
    """Instances of older releases, and on systems without abstract names."""
    for pid in sorted(pids):
        if (kept := _kept_open(port, pid)) is not None:
            yield _asked(*kept)
    for record, file in _published(port, state_dir):
        # A PID means something only where it was written down: a container that shares the folder has its own, and its
        # launcher is PID 1, like an ancestor of everybody here. On Linux those that are meant keep their records open.
        if record.pid in pids and not unixsockets.ABSTRACT:
            yield _asked(record, file)


def _asked(record: Record, file: Path) -> Neighbour:
    path = file.with_suffix(".sock")
    record = record if record.root else _with_project(record)
    try:
        channel, peer = instances.call(path)
    except OSError:
        return Neighbour(record, answers=False)
    try:
        if peer.pid not in (0, record.pid):
            return Neighbour(record, answers=False)
        said, bound = instances.ask(channel, any_release=True)
    except OSError:
        return Neighbour(record, answers=False)
    finally:
        channel.close()
    return Neighbour(said or replace(record, bound=bound), answers=True, address=path)


def _kept_open(port: int, pid: int) -> tuple[Record, Path] | None:
    """The record that this process keeps open, and its path, wherever that is and even if nothing is there (Linux)."""
    with contextlib.suppress(OSError):
        if os.stat(f"/proc/{pid}").st_uid != os.getuid():
            return None
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                path = os.readlink(f"/proc/{pid}/fd/{descriptor}").removesuffix(" (deleted)")
                match = _RECORD.fullmatch(os.path.basename(path))
                if match is None or int(match[1]) != port:
                    continue
                with open(f"/proc/{pid}/fd/{descriptor}", "rb") as file:
                    data = _parsed(file.read(runtime.LONGEST))
                if data is not None and data.get("pid", pid) == pid:
                    return Record.of(data, pid=pid, port=port), Path(path)
    return None


def _published(port: int, state_dir: Path | None) -> Iterator[tuple[Record, Path]]:
    """Records in the runtime folders whose launchers live; what a crash has left behind is removed on the way."""
    for folder in runtime.places(state_dir):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if status.st_uid != os.getuid() or status.st_mode & 0o077:
                continue  # anybody could have put something there
            for file in folder.glob(f"{port}.*.json"):
                if (content := runtime.discard(file)) is not None and (data := _parsed(content)) is not None:
                    yield Record.of(data, port=port), file


def _parsed(content: bytes) -> dict[str, object] | None:
    """What a record of whatever release says; None for what is none."""
    with contextlib.suppress(ValueError, RecursionError):
        data = json.loads(content)
        return data if isinstance(data, dict) else None
    return None


def _with_project(record: Record) -> Record:
    """With its project, which older releases do not say: their workers run in its folder."""
    with contextlib.suppress(OSError, ValueError):
        for child in here().children(record.pid):
            process = here().process(child)
            if process is not None and "preflight.worker" in process.argv:
                root = Path(os.readlink(f"/proc/{child}/cwd"))
                project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
                name = project.get("name", "") if isinstance(project, dict) else ""
                return replace(record, root=str(root), project=name if isinstance(name, str) else "")
    return record


# Those that only look like ours.


def _looks_like_ours(pid: int) -> bool:
    """Whether its command line is that of a launcher or of a worker of ours."""
    process = here().process(pid)
    if process is None or process.uid != os.getuid():
        return False
    options = process.argv[1:]
    module = next((after for one, after in itertools.pairwise(options) if one == "-m"), "")
    if module == "preflight.worker":
        return True
    script = next((one for one in options if not one.startswith("-")), "")
    if module != "server" and Path(script).name != "run.py":
        return False
    try:
        folder = Path(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        folder = Path()
    beside = folder if module else (folder / script).parent
    return (beside / "preflight" / "launcher.py").is_file()


# What a start does about them.


@dataclass(frozen=True, slots=True)
class Decision:
    """What a start does about an instance of ours that serves where it wants to."""

    neighbour: Neighbour
    replaces: bool = False
    """It takes its place; otherwise there is nothing to do, or it is refused."""
    refusal: str = ""
    """Why the start is refused, without a full stop; empty where it is not."""
    fix: str = ""


def decide(settings: Settings, found: Sequence[Neighbour], typed_at: float = math.inf) -> Decision | None:
    """What a start with these settings does about the instances of ours that hold its port.

    ``typed_at`` is when its command was typed, on the monotonic clock. None where no instance is there to stay.
    """
    staying = [one for one in found if one.stays]
    if not staying:
        return None
    staying.sort(key=lambda one: one.is_at(settings), reverse=True)
    decision = _decide(settings, staying[0], typed_at)
    if not decision.replaces:
        return decision
    # An address that overlaps several has several in its way, and all of them would have to go.
    every = (_decide(settings, one, typed_at) for one in staying)
    return next((one for one in every if not one.replaces), decision)


def _decide(settings: Settings, one: Neighbour, typed_at: float) -> Decision:
    pid, how = one.record.pid, settings.if_running
    if one.record.state == STARTING:
        starts = f"{one.name} is starting on {one.where}"
        return Decision(one, refusal=starts, fix=f"wait for it, or end it: kill {pid}")
    if not one.answers and how != "replace":
        silent = f"{one.name} holds {settings.address} and does not answer, and --if-running is {how}"
        fix = f"see what it waits for (kill -CONT {pid}), end it (kill {pid}), or say --if-running replace"
        return Decision(one, refusal=silent, fix=fix)
    if not one.is_of(settings) and not (how == "replace" and "if_running" in settings.sources):
        what = f"project {foreign(one.record.project)}" if one.record.project else "another project"
        other = f"{one.name} serves {one.where} for {what} ({foreign(one.record.root)})"
        return Decision(one, refusal=other, fix="stop it, use another port, or say --if-running replace")
    if one.came_up_after(typed_at):
        return Decision(one)  # twenty starts in the same second are one wish
    if how == "fail":
        running = f"{one.name} serves {one.where}, and --if-running is fail"
        return Decision(one, refusal=running, fix="stop it, or start with --if-running replace")
    if how == "replace" and (end := _common_end(one.record)):
        shared, fix = end
        return Decision(one, refusal=f"{one.name} serves {one.where}, and {shared}", fix=fix)
    return Decision(one, replaces=how == "replace")


def _common_end(record: Record) -> tuple[str, str] | None:
    """Why this process ends when that instance does, and what to do instead; None where it goes on.

    An instance that is replaced ends, and takes along what it has started, its container or its unit.
    """
    me = os.getpid()
    if record.pid in ancestors(here(), me):
        return "this start runs inside it, and would end with it", "start it from elsewhere, or detached: setsid -f"
    if record.pid == 1 or (record.keeper in CONTAINERS and _shares_pids(record.pid)):
        what = "this container runs it: the container would end with it, and so would this start"
        return what, "restart the container"
    if record.keeper == SYSTEMD and (process := here().process(record.pid)) and (own := here().process(me)):
        unit = cgroups.unit(process.cgroup)
        if unit is not None and unit == cgroups.unit(own.cgroup):
            return f"this start would end with its unit, {unit.name}", unit.stop_command.replace(" stop ", " restart ")
    return None


def _shares_pids(pid: int) -> bool:
    """Whether that process is in the same PID namespace as this one, so in the same container."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
    return False


def patience(found: Sequence[Neighbour]) -> float:
    """Seconds for which those of them that drain are waited for before anybody is sent a signal."""
    return max((one.record.stops_within for one in found if one.record.state == DRAINING), default=0.0)
