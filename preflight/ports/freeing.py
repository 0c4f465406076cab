"""A TCP port: who listens on it, may they be stopped, and holding it from the moment it is free.

The bind decides whether a port is free; nothing here connects. All holders and their descendants are known
before the first signal, nobody is stopped if anybody on the port must be left alone, the topmost holder is
asked first, and it is done when this process holds the socket.

Never stopped: this process, its ancestors, PID 1, other users' processes, forwarders of containers and
tunnels, other containers, services, infrastructure. Each refusal says who it is, why, and what a person could
do.
"""

import errno
import os
import socket
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from preflight.ports import cgroups
from preflight.ports.binding import PortUnavailable, Target, bind, listen, overlapping, resolve, user_name
from preflight.ports.linux import Handle, Machine, Process, ancestors, descendants, here
from preflight.ports.sockets import BOUND, CLOSE, LISTEN, TIME_WAIT, Endpoint
from preflight.ports.spared import FORWARDERS, INFRASTRUCTURE
from preflight.ports.stopping import Step, Tree, end

__all__ = [
    "INFRASTRUCTURE", "Holder", "Plan", "Policy", "PortUnavailable", "Refusal", "Step", "Taken",
    "hold", "listeners", "plan", "take",
]  # fmt: skip

_SETTLE = 0.1  # seconds that the kernel may need to give a closed port back
_ROUNDS = 3  # times that processes forked from a holder after the look at it are swept
_NAME = 15  # characters that Linux keeps of a process's name


# -- what is said about a port -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a listening socket, or a socket whose owner cannot be seen (`pid` None)."""

    pid: int | None
    name: str
    command: str  # joined with shlex, what looks like a secret masked; still redacted by value before it is shown
    user: str | None
    uid: int | None
    started_at: float | None  # seconds since the epoch
    parent: int | None
    parent_name: str | None
    children: tuple[int, ...]
    addresses: tuple[str, ...]  # "127.0.0.1:8002", "[::]:8002"
    unit: str | None  # systemd service
    container: str | None  # short id

    def describe(self) -> str:
        """One line, command included: `python3.11 (PID 4711, user dev): python app.py`."""
        return f"{self.title}: {self.command}" if self.command else self.title

    @property
    def title(self) -> str:
        """One line without the command: `python3.11 (PID 4711, user dev)`."""
        facts = [f"PID {self.pid}"] if self.pid is not None else []
        facts += [f"user {self.user}"] if self.user is not None else []
        return f"{self.name} ({', '.join(facts)})" if facts else self.name

    def to_dict(self) -> dict[str, object]:
        """Field by field, ready for JSON."""
        fields = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


@dataclass(frozen=True, slots=True)
class Policy:
    """Which holders may be stopped, and how patiently."""

    cleanup: str = "user"  # "user": this user's processes, "own": this project's instances, "never"
    own: frozenset[int] = frozenset()  # PIDs of this project's instances, known by their record
    spare: frozenset[str] = INFRASTRUCTURE  # process names never stopped
    grace: float = 5.0  # seconds between SIGTERM and SIGKILL
    secrets: frozenset[str] = field(default=frozenset(), repr=False)  # no argument that has one of them is shown

    def __post_init__(self) -> None:
        if self.cleanup not in ("user", "own", "never"):
            raise ValueError(f"port cleanup is user, own or never, not {self.cleanup!r}")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A holder that is left alone: why, and the command or sentence that helps a person."""

    holder: Holder
    reason: str
    fix: str

    def to_dict(self) -> dict[str, object]:
        """Ready for JSON."""
        return {"holder": self.holder.to_dict(), "reason": self.reason, "fix": self.fix}


@dataclass(frozen=True, slots=True)
class Plan:
    """What freeing would do; nothing has been stopped."""

    free: bool  # the bind says so
    holders: tuple[Holder, ...] = ()
    stop: tuple[Holder, ...] = ()  # topmost first; their descendants would be swept after them
    refusals: tuple[Refusal, ...] = ()
    problem: str | None = None  # why the port could not be had, one line
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of taking a port."""

    socket: socket.socket | None  # listening, not inheritable, the caller's to close; None: not to be had
    holders: tuple[Holder, ...] = ()  # who was there before
    refusals: tuple[Refusal, ...] = ()
    steps: tuple[Step, ...] = ()
    problem: str | None = None  # one line
    fix: str | None = None


# -- the public questions ------------------------------------------------------------------------------------


def listeners(host: str, port: int, *, secrets: Collection[str] = (), machine: Machine | None = None) -> list[Holder]:
    """Every process with a listening socket that overlaps this address, oldest first.

    No argument of theirs that contains one of these ``secrets`` is shown (see keys.common_secrets).
    Sockets whose owner cannot be seen come as a Holder without PID. Raises PortUnavailable when `host` does
    not resolve or `port` is none.
    """
    return [found.holder for found in _find(resolve(host, port), machine or here(), secrets)]


def plan(host: str, port: int, policy: Policy, *, machine: Machine | None = None) -> Plan:
    """What `take` would do, without stopping anything, listening or raising."""
    machine = machine or here()
    try:
        target = resolve(host, port)
        bind(target, machine).close()
    except PortUnavailable as error:
        if error.errno != errno.EADDRINUSE:
            return Plan(False, problem=str(error), fix=error.fix)
    else:
        return Plan(True)
    found = _find(target, machine, policy.secrets)
    if not found:
        return Plan(False, (), (), (), *_unexplained(target, machine))
    stop, refusals = _decide(found, _Asking.of(target.port, policy, machine))
    trouble = _left_alone(target, refusals) if refusals else _Trouble(None, None)
    holders, going = tuple(one.holder for one in found), tuple(one.holder for one in stop)
    return Plan(False, holders, going, refusals, *trouble)


def take(
    host: str,
    port: int,
    policy: Policy,
    *,
    on_step: Callable[[Step], None] | None = None,
    backlog: int = 2048,
    machine: Machine | None = None,
) -> Taken:
    """Hold the port; if it is in use, find its holders, decide, free it and hold it in the same breath.

    Returns when the port is held and every process that was stopped has ended, or when it cannot be had.
    `on_step` is called as each audited action happens. Nothing is stopped if a single holder must be left
    alone.
    """
    machine = machine or here()
    try:
        target = resolve(host, port)
    except PortUnavailable as error:
        return Taken(None, problem=str(error), fix=error.fix)
    attempt = _Attempt(target, policy, machine, on_step, backlog)
    try:
        return attempt.run()
    except BaseException:  # Ctrl-C, or on_step: nobody else can close what is held by then
        attempt.release()
        raise


def hold(host: str, port: int, *, deadline: float = 0.0, backlog: int = 2048) -> socket.socket:
    """A listening socket on the address, not inheritable, with the options that the server uses.

    While the address is in use it is tried again for `deadline` seconds. `::` takes IPv4 as well, a name with
    several addresses its IPv4 one. Raises PortUnavailable.
    """
    return listen(resolve(host, port), here(), deadline=deadline, backlog=backlog)


# -- find ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    holder: Holder
    process: Process | None
    inodes: frozenset[int]


def _find(target: Target, machine: Machine, secrets: Collection[str]) -> list[_Found]:
    found: list[_Found] = []
    for _ in range(2):  # a socket without owner may just have been passed on or closed: look again
        endpoints = overlapping(target, machine.listening(target.port))
        processes = {pid: machine.process(pid) for endpoint in endpoints for pid in endpoint.pids}
        held: dict[int, list[Endpoint]] = {}
        hidden: list[Endpoint] = []
        for endpoint in endpoints:
            owners = [process for pid in endpoint.pids if (process := processes[pid]) is not None]
            for owner in owners:
                held.setdefault(owner.pid, []).append(endpoint)
            # Opened by somebody else and passed to a process that we see: its opener may hold it too, unseen.
            passed_on = os.geteuid() != 0 and endpoint.uid not in (None, *(owner.uid for owner in owners))
            if not owners or passed_on:
                hidden.append(endpoint)
        seen = [process for process in processes.values() if process is not None]
        seen.sort(key=lambda process: (process.stamp, process.pid))
        found = [
            _Found(_holder(process, held[process.pid], machine, secrets), process, _inodes(held[process.pid]))
            for process in seen
        ]
        if not hidden:
            break
        found += [_Found(_unseen(endpoint), None, frozenset()) for endpoint in hidden]
    return found


def _inodes(endpoints: Sequence[Endpoint]) -> frozenset[int]:
    return frozenset(endpoint.inode for endpoint in endpoints if endpoint.inode)


def _holder(process: Process, endpoints: Sequence[Endpoint], machine: Machine, secrets: Collection[str]) -> Holder:
    from preflight import arguments  # a start on a free port has no use for it

    parent = machine.process(process.parent) if process.parent else None
    service = cgroups.unit(process.cgroup)
    return Holder(
        pid=process.pid,
        name=process.name,
        command=arguments.shown(process.argv, secrets),
        user=user_name(process.uid),
        uid=process.uid,
        started_at=process.started_at,
        parent=process.parent,
        parent_name=parent.name if parent else None,
        children=machine.children(process.pid),
        addresses=tuple(dict.fromkeys(str(endpoint) for endpoint in endpoints)),
        unit=service.name if service else None,
        container=cgroups.container(process.cgroup),
    )


def _unseen(endpoint: Endpoint) -> Holder:
    ours = endpoint.uid is not None and endpoint.uid == os.geteuid()
    return Holder(
        pid=None,
        # Our own, yet unseen: another PID namespace, or a process that forbids looking into it
        # (PR_SET_DUMPABLE).
        name="a process that cannot be seen" if ours else "another user's process",
        command="",
        user=None if endpoint.uid is None else user_name(endpoint.uid),
        uid=endpoint.uid,
        started_at=None,
        parent=None,
        parent_name=None,
        children=(),
        addresses=(str(endpoint),),
        unit=None,
        container=None,
    )


# -- decide --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asking:
    """Who wants the port, and with which policy."""

    port: int
    policy: Policy
    machine: Machine
    pid: int
    ancestors: frozenset[int]
    uid: int
    unit: cgroups.Unit | None
    container: str | None

    @classmethod
    def of(cls, port: int, policy: Policy, machine: Machine) -> "_Asking":
        me = machine.process(os.getpid())
        cgroup = me.cgroup if me else ""
        above = frozenset(ancestors(machine, os.getpid()))
        unit, container = cgroups.unit(cgroup), cgroups.container(cgroup)
        return cls(port, policy, machine, os.getpid(), above, os.geteuid(), unit, container)

    def refusal(self, process: Process) -> tuple[str, str] | None:
        """Why this process is not stopped, and what a person could do; None when it may be stopped."""
        kill = f"{'' if self.uid in (0, process.uid) else 'sudo '}kill {process.pid}"
        another = f"choose another port: --port {_another(self.port)}"
        if process.pid == self.pid:
            return "it is this process", another
        if process.pid in self.ancestors:
            return "this process runs inside it", another
        if process.pid == 1:
            return "it is PID 1, which everything else runs under", another
        if process.uid != self.uid:
            return f"it belongs to user {user_name(process.uid)}", kill
        names = _names(process)
        for name, fix in FORWARDERS.items():
            if name[:_NAME] in names:
                reason = "it forwards the port for a container or a tunnel"
                return reason, fix.format(port=self.port, pid=process.pid)
        container = cgroups.container(process.cgroup)
        if container is not None and container != self.container:
            return f"it runs in container {container}", f"docker stop {container}  (or podman, nerdctl, lxc)"
        service = cgroups.unit(process.cgroup)
        if service is not None and service != self.unit:
            sudo = "" if service.by_user or self.uid == 0 else "sudo "
            return f"it belongs to the service {service.name}", sudo + service.stop_command
        for name in self.policy.spare:
            if name[:_NAME] in names:
                return f"it is infrastructure ({name})", f"{kill}  (if it should not run here), or {another}"
        if self.policy.cleanup == "never":
            return "cleaning up is switched off", kill
        if self.policy.cleanup == "own" and not self.is_own(process):
            return "it is not an instance of this project", kill
        return None

    def is_own(self, process: Process) -> bool:
        """An instance of this project, or started by one."""
        own = self.policy.own
        return process.pid in own or any(pid in own for pid in ancestors(self.machine, process.pid))


def _names(process: Process) -> set[str]:
    """What the process may be known as, cut like the kernel cuts names."""
    first = process.argv[0].split(maxsplit=1)[0] if process.argv and process.argv[0].strip() else ""
    # "postgres: checkpointer" and "sshd: dev@pts/0" are titles that a process gave itself; "-bash" is a login
    # shell.
    return {name[:_NAME] for name in (process.name, first.rpartition("/")[2].rstrip(":")) if name}


def _decide(found: Sequence[_Found], asking: _Asking) -> tuple[list[_Found], tuple[Refusal, ...]]:
    """Who is stopped, topmost first, and who is left alone; if anybody is, nobody is stopped."""
    refusals = []
    for one in found:
        if one.process is None:
            fix = f"see who it is: {_look(asking.port)}"
            refusals.append(Refusal(one.holder, "it cannot be seen from here", fix))
        elif (refusal := asking.refusal(one.process)) is not None:
            refusals.append(Refusal(one.holder, *refusal))
    if refusals:
        return [], tuple(refusals)

    def depth(one: _Found) -> int:
        return sum(1 for _ in ancestors(asking.machine, one.process.pid)) if one.process else 0

    return sorted(found, key=depth), ()


class _Trouble(NamedTuple):
    problem: str | None
    fix: str | None


def _left_alone(target: Target, refusals: Sequence[Refusal]) -> _Trouble:
    first, more = refusals[0], len(refusals) - 1
    others = f" ({more} more {'is' if more == 1 else 'are'} left alone too)" if more else ""
    who = f"port {target.port} is held by {first.holder.title}"
    return _Trouble(f"{who}, which is left alone: {first.reason}{others}", first.fix)


def _unexplained(target: Target, machine: Machine) -> _Trouble:
    """Why a port is busy that nobody was found to listen on, as far as it can be told."""
    sockets = machine.occupying(target.port)
    there = [endpoint for endpoint in sockets if target.overlaps(endpoint) is not False]
    states = [endpoint.state for endpoint in there]
    another = f"choose another: --port {_another(target.port)}"
    bound = next((endpoint for endpoint in there if endpoint.state in (BOUND, CLOSE)), None)
    if bound is not None:
        process = next((process for pid in bound.pids if (process := machine.process(pid))), None)
        who = "a process that cannot be seen"
        if process is not None:
            who = f"{process.name} (PID {process.pid}, user {user_name(process.uid)})"
            another = f"kill {process.pid}  (if it should not run here), or {another}"
        return _Trouble(f"port {target.port} is in use: {who} has bound it without listening", another)
    if there and LISTEN not in states:
        return _Trouble(
            f"port {target.port} is in use: nobody listens, but the system keeps it for {len(there)}"
            f" earlier connections ({states.count(TIME_WAIT)} in TIME_WAIT)",
            f"wait a minute and start again, or {another}",
        )
    return _Trouble(
        f"port {target.port} is in use by a process that cannot be seen",
        f"see who it is: {_look(target.port)}",
    )


def _look(port: int) -> str:
    """The command that shows a holder that only root can see."""
    if Path("/proc/net/tcp").exists():
        return f"sudo ss -Hltnp 'sport = :{port}'"
    return f"sudo lsof -nP -iTCP:{port} -sTCP:LISTEN"


def _another(port: int) -> int:
    return port + 1 if 1024 <= port < 65535 else 8002


# -- free ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Attempt:
    """One go at a port: what has been done, and the socket as soon as it could be had."""

    target: Target
    policy: Policy
    machine: Machine
    on_step: Callable[[Step], None] | None
    backlog: int
    held: socket.socket | None = None
    first: tuple[Holder, ...] = ()  # who was there when it began
    steps: list[Step] = field(default_factory=list)

    def run(self) -> Taken:
        try:
            self.held = listen(self.target, self.machine, backlog=self.backlog)
        except PortUnavailable as error:
            if error.errno != errno.EADDRINUSE:
                return Taken(None, problem=str(error), fix=error.fix)
        began = time.time()
        known: set[int] = set()
        for again in range(_ROUNDS):
            if self.held is not None:
                break
            found = _find(self.target, self.machine, self.policy.secrets)
            if again and (new := next((one for one in found if not one.inodes & known), None)) is not None:
                return self._replaced(new, began)
            # In a later round only processes are left that were forked from a holder after it was looked at:
            # they have the same socket and are swept like the others.
            self.first = self.first or tuple(one.holder for one in found)
            known |= {inode for one in found for inode in one.inodes}
            asking = _Asking.of(self.target.port, self.policy, self.machine)
            stop, refusals = _decide(found, asking)
            if refusals:
                return self._failed(*_left_alone(self.target, refusals), refusals)
            left = self._free(stop, asking)
            if not self._try(_SETTLE):
                if left:
                    return self._failed(*_unstoppable(self.target, left))
                if not found:
                    return self._failed(*_unexplained(self.target, self.machine))
        if self.held is None:
            return self._failed(*_unexplained(self.target, self.machine))
        where = f"listens on {self.target.host} port {self.held.getsockname()[1]}"
        self._note("held", os.getpid(), "this process", where)
        return Taken(self.held, self.first, (), tuple(self.steps))

    def release(self) -> None:
        if self.held is not None:
            self.held.close()

    def _free(self, stop: Sequence[_Found], asking: "_Asking") -> list[Handle]:
        """Stop them and their descendants; returns those that could not be stopped."""
        handles: list[Handle] = []
        try:
            trees = self._pin(stop, asking, handles)
            return end(trees, self.machine, grace=self.policy.grace, note=self._note, meanwhile=self._try)
        finally:
            for handle in handles:
                handle.close()

    def _pin(self, stop: Sequence[_Found], asking: "_Asking", handles: list[Handle]) -> list[Tree]:
        """A handle on every process that has to go, before the first signal; into `handles` too, to close."""
        inodes = {one.process.pid: one.inodes for one in stop if one.process}
        pinned: set[int] = set()
        trees: list[Tree] = []

        def enter(process: Process) -> bool:
            refusal = None if process.pid in inodes else asking.refusal(process)  # holders: decided already
            if refusal is None:
                return True
            self._note("left alone", process.pid, process.name, f"descendant of a holder, but {refusal[0]}")
            return False

        for one in stop:
            if one.process is None or one.process.pid in pinned:
                continue
            members: list[Handle] = []
            for process in (one.process, *descendants(self.machine, one.process.pid, enter)):
                pinned.add(process.pid)
                handle = self.machine.handle(process, inodes.get(process.pid, ()))
                if handle is None:
                    self._note("gone", process.pid, process.name, "has ended, or closed the port, by itself")
                else:
                    handles.append(handle)
                    members.append(handle)
            if members:
                trees.append(Tree(members[0], tuple(members[1:])))
        return trees

    def _try(self, deadline: float = 0.0) -> bool:
        """Hold the port if that is possible by now."""
        if self.held is None:
            try:
                self.held = listen(self.target, self.machine, deadline=deadline, backlog=self.backlog)
            except PortUnavailable:
                return False  # asked again later, and explained in the end
        return True

    def _replaced(self, new: _Found, began: float) -> Taken:
        """Somebody listens who did not when this began: that ends it."""
        holder, port = new.holder, self.target.port
        # Started since (psutil knows that to the second only), or by the one who had started the first: a supervisor.
        # A parent that has gone is not to blame.
        fresh = holder.started_at is not None and holder.started_at >= began - 0.02
        fresh = fresh or holder.parent in {one.parent for one in self.first}
        if fresh and holder.parent_name is not None and holder.parent != 1:
            parent = f"{holder.parent_name} (PID {holder.parent})"
            self._note("respawned", holder.pid, holder.name, f"by {parent}")
            return self._failed(
                f"port {port} was freed, but {holder.title} was respawned on it by {parent}",
                f"stop {holder.parent_name} first: kill {holder.parent}",
            )
        self._note("respawned", holder.pid, holder.name, "listens since the port was freed")
        return self._failed(
            f"port {port} was freed, but {holder.title} listens on it now",
            f"see what it is: python run.py --port-status --port {port}",
        )

    def _failed(self, problem: str | None, fix: str | None, refusals: tuple[Refusal, ...] = ()) -> Taken:
        return Taken(None, self.first, refusals, tuple(self.steps), problem, fix)

    def _note(self, action: str, pid: int | None, name: str, result: str) -> None:
        step = Step(time.time(), action, pid, name, result)
        self.steps.append(step)
        if self.on_step is not None:
            self.on_step(step)


def _unstoppable(target: Target, left: Sequence[Handle]) -> _Trouble:
    process = left[0].process
    who = f"{process.name} (PID {process.pid}, user {user_name(process.uid)})"
    return _Trouble(
        f"port {target.port} is held by {who}, which could not be stopped",
        f"look at it: ps -o pid,stat,wchan,args -p {process.pid}",
    )
