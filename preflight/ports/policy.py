"""Who may be stopped for a port: the policy, and what is left alone whatever the policy says.

Never stopped: this process, its ancestors, PID 1, other users' processes, forwarders of containers and
tunnels, other containers, services, infrastructure. Each refusal says who it is, why, and what a person could
do.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from preflight.ports import cgroups, fixes
from preflight.ports.binding import user_name
from preflight.ports.holders import Found, Holder
from preflight.ports.machine import Machine, Process, ancestors
from preflight.ports.spared import FORWARDERS, INFRASTRUCTURE

_NAME = 15  # characters that Linux keeps of a process's name


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
class Asking:
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
    def of(cls, port: int, policy: Policy, machine: Machine) -> "Asking":
        me = machine.process(os.getpid())
        cgroup = me.cgroup if me else ""
        above = frozenset(ancestors(machine, os.getpid()))
        unit, container = cgroups.unit(cgroup), cgroups.container(cgroup)
        return cls(port, policy, machine, os.getpid(), above, os.geteuid(), unit, container)

    def refusal(self, process: Process) -> tuple[str, str] | None:
        """Why this process is not stopped, and what a person could do; None when it may be stopped."""
        kill = fixes.stop(process.pid, sudo=self.uid not in (0, process.uid))
        another = fixes.another(self.port)
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
            from shlex import quote

            return f"it runs in container {container}", f"docker stop {quote(container)}  # or podman, nerdctl, lxc"
        service = cgroups.unit(process.cgroup)
        if service is not None and service != self.unit:
            sudo = "" if service.by_user or self.uid == 0 else "sudo "
            return f"it belongs to the service {service.name}", sudo + service.stop_command
        for name in self.policy.spare:
            if name[:_NAME] in names:
                return f"it is infrastructure ({name})", f"{kill}  # if it should not run here, else {another}"
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


def decide(found: Sequence[Found], asking: Asking) -> tuple[list[Found], tuple[Refusal, ...]]:
    """Who is stopped, topmost first, and who is left alone; if anybody is, nobody is stopped."""
    refusals = []
    for one in found:
        if one.process is None:
            refusals.append(Refusal(one.holder, "it cannot be seen from here", fixes.look(asking.port)))
        elif (refusal := asking.refusal(one.process)) is not None:
            refusals.append(Refusal(one.holder, *refusal))
    if refusals:
        return [], tuple(refusals)

    def depth(one: Found) -> int:
        return sum(1 for _ in ancestors(asking.machine, one.process.pid)) if one.process else 0

    return sorted(found, key=depth), ()
