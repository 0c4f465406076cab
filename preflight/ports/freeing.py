"""Free a port and hold it at once, or say what that would do."""

import errno
import socket
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from preflight.ports import fixes
from preflight.ports.binding import PortUnavailable, Target, bind, listen, resolve
from preflight.ports.current import here
from preflight.ports.explanations import Trouble, left_alone, unexplained, unstoppable
from preflight.ports.holders import Holder, HolderProcess, find
from preflight.ports.machine import Handle, Machine, Process, ancestors, descendants
from preflight.ports.policy import Asking, Policy, Refusal, decide, reasons
from preflight.ports.steps import Step, held
from preflight.ports.stopping import Note, Tree, end

_SETTLE = 0.1  # seconds that the kernel may need to give a closed port back
_ROUNDS = 3  # times that processes forked from a holder after the look at it are swept


@dataclass(frozen=True, slots=True)
class Plan:
    """What freeing the port would do; nothing has been stopped."""

    free: bool  # the bind says so
    holders: tuple[Holder, ...] = ()
    stop: tuple[Holder, ...] = ()  # topmost first
    refusals: tuple[Refusal, ...] = ()
    problem: str | None = None  # why the port could not be had, one line
    fix: str | None = None
    reasons: tuple[str, ...] = ()  # for each holder, why it would be stopped or is left alone
    sweep: tuple[Process, ...] = ()  # the descendants of `stop`, which would be stopped after them


@dataclass(frozen=True, slots=True)
class Taken:
    """The result of taking a port."""

    socket: socket.socket | None  # listening, not inheritable, the caller's to close; None: not to be had
    holders: tuple[Holder, ...] = ()  # the holders before
    refusals: tuple[Refusal, ...] = ()
    steps: tuple[Step, ...] = ()
    problem: str | None = None  # one line
    fix: str | None = None
    reasons: tuple[str, ...] = ()  # for each holder, why it was stopped or left alone


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
    candidates = find(target, machine, policy.secrets)
    if not candidates:
        return Plan(False, (), (), (), *unexplained(target, machine))
    asking = Asking.of(target.port, policy, machine)
    stop, refusals = decide(candidates, asking)
    trouble = left_alone(target, refusals) if refusals else Trouble(None, None)
    holders, going = tuple(candidate.holder for candidate in candidates), tuple(candidate.holder for candidate in stop)
    tops = [candidate.process for candidate in stop if candidate.process]
    pids = {top.pid for top in tops}
    swept = {process.pid: process for top in tops for process in _below(top, asking, pids) if process.pid not in pids}
    judged = reasons(candidates, asking, refusals)
    return Plan(False, holders, going, refusals, *trouble, judged, tuple(swept.values()))


def _below(top: Process, asking: Asking, holders: Collection[int], note: Note | None = None) -> Iterator[Process]:
    """The descendants that go with a holder; ``holders`` have been decided already."""

    def enter(process: Process) -> bool:
        if process.pid in holders:
            return True
        refusal = asking.refusal(process, below=True)
        # A job that was detached outlives what has started it, however that ends.
        why = refusal[0] if refusal else "in a session of its own" if process.session != top.session else ""
        if why and note is not None:
            note("left alone", process.pid, process.name, f"descendant of a holder, but {why}")
        return not why

    return descendants(asking.machine, top.pid, enter)


def take(
    host: str,
    port: int,
    policy: Policy,
    *,
    on_step: Callable[[Step], None] | None = None,
    backlog: int = 2048,
    machine: Machine | None = None,
    early: bool = True,
) -> Taken:
    """Hold the port; if it is in use, find its holders, decide, free it and hold it in the same breath.

    Returns when the port is held and every process that was stopped has ended, or when it cannot be had.
    `on_step` is called as each audited action happens. Nothing is stopped if a single holder must be left
    alone. Without `early`, the port is held only when all have ended: meanwhile, this process is no holder of it.
    """
    machine = machine or here()
    try:
        target = resolve(host, port)
    except PortUnavailable as error:
        return Taken(None, problem=str(error), fix=error.fix)
    attempt = _Attempt(target, policy, machine, on_step, backlog, early)
    try:
        return attempt.run()
    except BaseException:  # Ctrl-C, or on_step: nobody else can close what is held by then
        attempt.release()
        raise


@dataclass(slots=True)
class _Attempt:
    """One attempt to take a port: what has been done, and the socket as soon as it is held."""

    target: Target
    policy: Policy
    machine: Machine
    on_step: Callable[[Step], None] | None
    backlog: int
    early: bool
    held: socket.socket | None = None
    first: tuple[Holder, ...] = ()  # the holders when it began
    inodes: set[int] = field(default_factory=set)  # of the sockets that were there
    adopters: set[int] = field(default_factory=set)  # the processes that adopt what the first leave behind
    steps: list[Step] = field(default_factory=list)
    reasons: tuple[str, ...] = ()  # of the first
    grounds: dict[int | None, str] = field(default_factory=dict)  # why each process that is asked first is stopped

    def run(self) -> Taken:
        try:
            self.held = listen(self.target, self.machine, backlog=self.backlog)
        except PortUnavailable as error:
            if error.errno != errno.EADDRINUSE:
                return Taken(None, problem=str(error), fix=error.fix)
        began = time.time()
        for again in range(_ROUNDS):
            if self.held is not None:
                break
            found = find(self.target, self.machine, self.policy.secrets)
            if again and (new := next(filter(self._is_new, found), None)) is not None:
                return self._replaced(new, began)
            # In a later round only processes are left that were forked from a holder after it was looked at:
            # they have the same socket and are swept like the others.
            if not self.first:
                self._remember(found)
            asking = Asking.of(self.target.port, self.policy, self.machine)
            stop, refusals = decide(found, asking)
            self.reasons = self.reasons or reasons(found, asking, refusals)
            if refusals:
                return self._failed(*left_alone(self.target, refusals), refusals)
            left = self._free(stop, asking)
            if not self._try(_SETTLE):
                if left:
                    return self._failed(*unstoppable(self.target, left))
                if not found:
                    return self._failed(*unexplained(self.target, self.machine))
        if self.held is None:
            return self._failed(*unexplained(self.target, self.machine))
        self._add(held(self.target.host, self.held.getsockname()[1]))
        return Taken(self.held, self.first, (), tuple(self.steps), reasons=self.reasons)

    def release(self) -> None:
        if self.held is not None:
            self.held.close()

    def _remember(self, candidates: Sequence[HolderProcess]) -> None:
        """Remember the first holders, and what tells them and their forks from others that come later."""
        self.first = tuple(candidate.holder for candidate in candidates)
        self.inodes = {inode for candidate in candidates for inode in candidate.inodes}
        pids = [candidate.process.pid for candidate in candidates if candidate.process]
        above = {parent for pid in pids for parent in ancestors(self.machine, pid)}
        self.adopters = above - {holder.parent for holder in self.first}

    def _is_new(self, one: HolderProcess) -> bool:
        """Whether a holder has come since the first look, with a socket of its own."""
        if one.process is None or one.inodes:
            return not one.inodes & self.inodes
        # If sockets cannot be told apart, the parent tells: a process forked from a holder that has ended was adopted
        # by a process further up; one that was started anew has the parent that the holder had. In doubt it is new.
        return one.process.parent not in self.adopters

    def _free(self, stop: Sequence[HolderProcess], asking: Asking) -> list[Handle]:
        """Stop them and their descendants; returns those that could not be stopped."""
        handles: list[Handle] = []
        try:
            trees = self._pin(stop, asking, handles)
            meanwhile = self._try if self.early else lambda: True
            return end(trees, self.machine, grace=self.policy.grace, note=self._note, meanwhile=meanwhile)
        finally:
            for handle in handles:
                handle.close()

    def _pin(self, stop: Sequence[HolderProcess], asking: Asking, handles: list[Handle]) -> list[Tree]:
        """A handle on every process that has to go, before the first signal; `handles` gets all, to be closed."""
        inodes = {candidate.process.pid: candidate.inodes for candidate in stop if candidate.process}
        pinned: set[int] = set()
        trees: list[Tree] = []

        for candidate in stop:
            if candidate.process is None or candidate.process.pid in pinned:
                continue
            members: list[Handle] = []
            for process in (candidate.process, *_below(candidate.process, asking, set(inodes), self._note)):
                pinned.add(process.pid)
                handle = self.machine.handle(process, inodes.get(process.pid, ()))
                if handle is None:
                    self._note("gone", process.pid, process.name, "has ended, or closed the port, by itself")
                else:
                    handles.append(handle)
                    members.append(handle)
            if members:
                trees.append(Tree(members[0], tuple(members[1:])))
                self.grounds[candidate.process.pid] = asking.grounds(candidate.process)
        return trees

    def _try(self, deadline: float = 0.0) -> bool:
        """Hold the port if that is possible now; returns whether it is held."""
        if self.held is None:
            try:
                self.held = listen(self.target, self.machine, deadline=deadline, backlog=self.backlog)
            except PortUnavailable:
                return False  # asked again later, and explained in the end
        return True

    def _replaced(self, new: HolderProcess, began: float) -> Taken:
        """A process listens that did not when the attempt began: the attempt ends."""
        holder, port = new.holder, self.target.port
        # Started since (psutil knows that to the second only), or by the parent of a first holder: a supervisor's work.
        # A parent that has gone is not to blame.
        fresh = holder.started_at is not None and holder.started_at >= began - 0.02
        fresh = fresh or holder.parent in {one.parent for one in self.first}
        if fresh and holder.parent_name is not None and holder.parent != 1:
            parent = f"{holder.parent_name} (PID {holder.parent})"
            self._note("respawned", holder.pid, holder.name, f"by {parent}")
            return self._failed(
                f"port {port} was freed, but {holder.title} was respawned on it by {parent}",
                f"kill {holder.parent}  # first, because it starts {holder.name} again",
            )
        self._note("respawned", holder.pid, holder.name, "has listened since the port was freed")
        return self._failed(
            f"port {port} was freed, but {holder.title} listens on it now",
            fixes.status(port, "what it is"),
        )

    def _failed(self, problem: str | None, fix: str | None, refusals: tuple[Refusal, ...] = ()) -> Taken:
        return Taken(None, self.first, refusals, tuple(self.steps), problem, fix, self.reasons)

    def _note(self, action: str, pid: int | None, name: str, result: str) -> None:
        grounds = self.grounds.get(pid, "") if action == "SIGTERM" else ""
        self._add(Step(time.time(), action, pid, name, result, grounds))

    def _add(self, step: Step) -> None:
        self.steps.append(step)
        if self.on_step is not None:
            self.on_step(step)
