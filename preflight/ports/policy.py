"""Who may be stopped for a port: the policy, and what is left alone under every policy.

Never stopped: systemd, this process, its ancestors, PID 1, other users' processes, forwarders of containers and
tunnels, other containers, services, what a supervisor keeps running, infrastructure, editors, debuggers, prompts and
browsers, and instances of other projects; nor what belongs to a terminal, an editor or a desktop application, unless it
was started from this project; nor, with the holder that has started it, an instance that serves another port. Each
refusal says who it is, why, and what a person could do; a stopped process has grounds.
"""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from preflight.ports import cgroups, fixes, programs
from preflight.ports.binding import user_name
from preflight.ports.holders import Holder, HolderProcess
from preflight.ports.machine import Machine, Process, ancestors
from preflight.ports.spared import (
    BROWSERS,
    DAEMONS,
    DEBUGGERS,
    EDITORS,
    FORWARDERS,
    INFRASTRUCTURE,
    JOBS,
    MANAGERS,
    PROGRAMS,
)
from preflight.text import foreign

_DEBUGGER = "a debugger"
_NAME = 15  # characters that Linux keeps of a process's name
_NAMED = 3  # processes that are named at most where one of several is meant


@dataclass(frozen=True, slots=True)
class Policy:
    """Which holders may be stopped, and how long they get to end."""

    cleanup: str = "user"  # "user": this user's processes, "own": this project's instances, "never"
    own: frozenset[int] = frozenset()  # PIDs of this project's instances, known by their record
    others: frozenset[int] = frozenset()  # PIDs of other projects' instances, which are not to be replaced
    spare: frozenset[str] = INFRASTRUCTURE  # process names never stopped
    grace: float = 5.0  # seconds between SIGTERM and SIGKILL
    project: str = ""  # folder of this project: what was started from there may be stopped though it has a terminal
    secrets: frozenset[str] = field(default=frozenset(), repr=False)  # no argument that has one of them is shown
    elsewhere: Callable[[], frozenset[int]] = frozenset  # PIDs of instances that serve other ports, once it is asked

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
class Asking:
    """The process that wants the port, and its policy."""

    port: int
    policy: Policy
    machine: Machine
    pid: int
    ancestors: frozenset[int]
    uid: int
    unit: cgroups.Unit | None
    container: str | None
    elsewhere: frozenset[int] = frozenset()
    wrappers: frozenset[int] = frozenset()
    """What runs those elsewhere (``timeout``, ``uv run``, ``--reload``): it passes a signal on, or takes them along."""

    @classmethod
    def of(cls, port: int, policy: Policy, machine: Machine) -> "Asking":
        me = machine.process(os.getpid())
        cgroup = me.cgroup if me else ""
        above = frozenset(ancestors(machine, os.getpid()))
        unit, container = cgroups.unit(cgroup), cgroups.container(cgroup)
        elsewhere = policy.elsewhere()
        wrappers = frozenset(parent for pid in elsewhere for parent in ancestors(machine, pid))
        return cls(port, policy, machine, os.getpid(), above, os.geteuid(), unit, container, elsewhere, wrappers)

    def refusal(self, process: Process, *, below: bool = False) -> tuple[str, str] | None:
        """Why this process is not stopped, and what a person could do; None when it may be stopped.

        ``below``: it runs under a process that is stopped, and shares its terminal.
        """
        kill = fixes.stop(process.pid, sudo=self.uid not in (0, process.uid))
        another = fixes.another(self.port)
        if _is_service_manager(process):
            # systemd does nothing with a port itself: it waits for a connection, and passes the socket to a service.
            return "it listens there for a socket unit", fixes.socket_units(by_user=process.pid != 1)
        if process.pid == self.pid:
            return "it is this process", another
        if process.pid in self.ancestors:
            return "this process runs inside it", another
        if process.pid == 1:
            return "it is PID 1, which everything else runs under", another
        if process.uid != self.uid:
            return f"it belongs to user {user_name(process.uid)}", kill
        if below and process.pid in self.elsewhere:
            return "it serves another port", another
        if below and process.pid in self.wrappers:
            return "it runs an instance that serves another port", another
        names = _names(process)
        for name, fix in FORWARDERS.items():
            if name[:_NAME] in names:
                reason = "it forwards the port for a container or a tunnel"
                return reason, fix.format(port=self.port, pid=process.pid)
        container = cgroups.container(process.cgroup)
        if container is not None and container != self.container:
            from shlex import quote

            return f"it runs in container {container}", f"docker stop {quote(container)}  # or podman, nerdctl, lxc"
        service = cgroups.unit(process.cgroup)
        if service is not None and service != self.unit and service.name in JOBS and process.name not in DAEMONS:
            return f"it was started by {service.name}", kill
        if service is not None and service != self.unit and process.terminal.startswith("pts/"):
            # A tmux, an editor or a terminal in a browser that is a service itself: its end would be that of all there.
            return f"it runs in a terminal ({process.terminal}) of the service {service.name}", kill
        if service is not None and service != self.unit:
            sudo = "" if service.by_user or self.uid == 0 else "sudo "
            return f"it belongs to the service {service.name}", sudo + service.stop_command
        stopped_here = f"{kill}  # if it should not run here, else {another}"
        if (what := self._spared(process, names)) is not None:
            return f"it is {what}", stopped_here
        if (what := self._part_of(process)) is not None:
            return f"it was started by {what}", stopped_here
        if (keeper := self._supervisor(process)) is not None:
            name = _known(keeper, MANAGERS)
            again = f"stop it with {name}, which would start it again, or {another}"
            return f"{name} (PID {keeper.pid}) keeps it running", again
        if self._is_of(self.policy.others, process):
            return "it is an instance of another project", f"{kill}  # or use --if-running replace"
        if not below and self._is_sealed_off(process):
            return "it runs in a PID namespace of its own, as in a container or a sandbox", stopped_here
        if not below and (session := self._session(process)):
            return f"{session}, and was not started from this project", stopped_here
        if self.policy.cleanup == "never":
            why = "--no-cleanup, port_cleanup, or critical requirements were left out"
            return f"this command is not allowed to stop a process ({why})", kill
        if self.policy.cleanup == "own" and not self.is_own(process):
            return "it is not an instance of this project", kill
        return None

    def _spared(self, process: Process, names: set[str]) -> str | None:
        """What kind of program this is, and how it is known, if it is one that is never stopped; None for others."""
        own = self.is_own(process)  # one that hangs is replaced, although a debugger or a prompt runs it
        kinds = (
            ("infrastructure", self.policy.spare),
            ("an editor", EDITORS),
            ("a browser", BROWSERS),
            (_DEBUGGER, DEBUGGERS),
        )
        for kind, spared in kinds:
            found = next((name for name in spared if name[:_NAME] in names), None)
            if found and not (own and kind == _DEBUGGER):
                return f"{kind} ({found})"
        for interpreter, run in programs.run_by(process.name, process.argv).items():
            for (by, kind), known in PROGRAMS.items():
                if own and kind == _DEBUGGER:
                    continue
                if by == interpreter and (found := max(run & known, key=len, default="")):
                    return f"{kind} ({found}, run by {interpreter})"
            # A name in the settings may be that of a script just as well.
            if found := min(run & (self.policy.spare - INFRASTRUCTURE), default=""):
                return f"infrastructure ({found}, run by {interpreter})"
        if not own and programs.is_prompt(process.name, process.argv) and _reads_terminal(process):
            return f"an interactive session ({process.name})"
        return None

    def _supervisor(self, process: Process) -> Process | None:
        """The supervisor that would start this process again: it has started it, or what this process belongs to.

        A terminal's programs, in a session of their own below a supervised editor, belong to nothing that is started
        again.
        """
        if self.is_own(process):
            return None  # an instance that hangs is replaced, and replaces what has replaced it
        for pid in ancestors(self.machine, process.pid):
            above = self.machine.process(pid)
            if above is None:
                break
            if _known(above, MANAGERS):
                # PID 1 is the parent of orphans as well, which nobody starts again.
                orphan = above.pid == 1 and above.session != process.session and self.started_from(process)
                return None if orphan else above
            if above.session != process.session:
                break
        return None

    def _part_of(self, process: Process) -> str | None:
        """The infrastructure that an interpreter runs and that has started this process to listen in its place."""
        parent = self.machine.process(process.parent) if process.parent else None
        if parent is None or parent.pid in self.ancestors:
            return None
        for interpreter, run in programs.run_by(parent.name, parent.argv).items():
            known = PROGRAMS.get((interpreter, "infrastructure"), frozenset()) - MANAGERS
            if found := min(run & known, default=""):
                return f"infrastructure ({found}, run by {interpreter})"
        return None

    def _is_sealed_off(self, process: Process) -> bool:
        """Whether a process is in a PID namespace below ours: not every container or sandbox has a control group."""
        try:
            sealed = os.readlink(f"/proc/{process.pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
        except OSError:
            return False  # not Linux, or it may not be asked
        return sealed and not self.is_own(process)

    def _session(self, process: Process) -> str:
        """The interactive session that a process belongs to; empty if it belongs to none, or may be stopped."""
        if self.is_own(process) or self.started_from(process):
            return ""
        if process.terminal:
            return f"it runs in a terminal ({process.terminal})"
        if application := cgroups.application(process.cgroup):
            return f"it belongs to the desktop application {application}"
        # On another machine, an editor is no desktop application.
        editors = EDITORS.union(*(known for (_, kind), known in PROGRAMS.items() if kind == "an editor"))
        for pid in ancestors(self.machine, process.pid):
            above = self.machine.process(pid)
            if above is not None and (found := _known(above, editors)):
                return f"it was started by an editor ({found})"
            if pid == self.pid or pid in self.ancestors:
                break  # it was started by the shell, say, in which this command was typed
        return ""

    def started_from(self, process: Process) -> str:
        """The place in this project that the process was started from; empty if there is no sign of that."""
        project = os.path.realpath(self.policy.project) if self.policy.project else "/"
        if project == "/":
            return ""  # everything is below that
        folder = self.machine.folder(process.pid)
        # Only arguments that say what runs: an interpreter of the project's environment, a script of its own.
        script = next((word for word in process.argv[1:] if not word.startswith("-")), "")
        for path in (folder, *(os.path.join(folder, word) for word in (*process.argv[:1], script) if "/" in word)):
            if os.path.normpath(path).startswith((f"{project}/", f"{self.policy.project}/")) or path == project:
                return path
        return ""

    def grounds(self, process: Process) -> str:
        """Why this process may be stopped, for people."""
        if self.is_own(process):
            return "it is an instance of this project"
        if place := self.started_from(process):
            return f"it was started from this project ({foreign(place)})"
        return f"it belongs to user {user_name(process.uid)}, and no rule spares it"

    def is_own(self, process: Process) -> bool:
        """Whether this is an instance of this project, or was started by one."""
        return self._is_of(self.policy.own, process)

    def _is_of(self, instances: frozenset[int], process: Process) -> bool:
        return process.pid in instances or any(pid in instances for pid in ancestors(self.machine, process.pid))


def _is_service_manager(process: Process) -> bool:
    """Whether this is systemd, the system's or a user's own."""
    return process.name == "systemd" and (process.pid == 1 or "--user" in process.argv)


def _names(process: Process) -> set[str]:
    """What the process may be known as, cut like the kernel cuts names."""
    first = process.argv[0].split(maxsplit=1)[0] if process.argv and process.argv[0].strip() else ""
    # "postgres: checkpointer" and "sshd: dev@pts/0" are titles that a process gave itself; "-bash" is a login
    # shell.
    return {name[:_NAME] for name in (process.name, first.rpartition("/")[2].rstrip(":")) if name}


def _known(process: Process, names: Collection[str]) -> str:
    """That of these names by which the process, or the program that it runs as an interpreter, may be known."""
    called = _names(process).union(*programs.run_by(process.name, process.argv).values())
    return min((name for name in names if name in called or name[:_NAME] in called), default="")


def _reads_terminal(process: Process) -> bool:
    """Whether somebody can type what this process reads: ``python < program.py`` has no prompt."""
    if not process.terminal:
        return False
    try:
        return os.readlink(f"/proc/{process.pid}/fd/0").startswith(("/dev/pts/", "/dev/tty"))
    except OSError:
        return True  # not Linux, or it may not be asked


def reasons(candidates: Sequence[HolderProcess], asking: Asking, refusals: Sequence[Refusal]) -> tuple[str, ...]:
    """For each holder, why it is stopped or not."""
    refused = {id(refusal.holder): refusal.reason for refusal in refusals}
    waits = f", and is not stopped while {refusals[0].holder.title} is left alone" if refusals else ""
    return tuple(
        refused.get(id(candidate.holder)) or (asking.grounds(candidate.process) + waits if candidate.process else "")
        for candidate in candidates
    )


def _unseen(holder: Holder, asking: Asking) -> str:
    """Why a holder without a process is left alone: who it may be, if it is this user's."""
    reason = "it cannot be seen from here"
    if holder.uid != asking.uid:
        return reason
    hidden = asking.machine.opaque(asking.uid)
    named = ", ".join(f"{process.name} (PID {process.pid})" for process in hidden[:_NAMED])
    more = f" or one of {len(hidden) - _NAMED} more" if len(hidden) > _NAMED else ""
    who = f"it may be {named}{more}" if named else "it may run in another PID namespace"
    return f"{reason}, though it is yours: {who}"


def decide(candidates: Sequence[HolderProcess], asking: Asking) -> tuple[list[HolderProcess], tuple[Refusal, ...]]:
    """Who is stopped, topmost first, and who is left alone; if anybody is, nobody is stopped."""
    refusals = []
    for candidate in candidates:
        if candidate.process is None:
            refusals.append(Refusal(candidate.holder, _unseen(candidate.holder, asking), fixes.look(asking.port)))
        elif (refusal := asking.refusal(candidate.process)) is not None:
            refusals.append(Refusal(candidate.holder, *refusal))
    if refusals:
        return [], tuple(refusals)

    def depth(candidate: HolderProcess) -> int:
        return sum(1 for _ in ancestors(asking.machine, candidate.process.pid)) if candidate.process else 0

    return sorted(candidates, key=depth), ()
