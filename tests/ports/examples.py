"""A holder and a process, to be changed where a test needs another one; a container's id; the policy's decision."""

import os

from preflight.ports import Policy, cgroups, here
from preflight.ports.holders import Holder
from preflight.ports.machine import Machine, Process
from preflight.ports.policy import Asking

DOCKER_ID = "4f1c" * 16

HOLDER = Holder(
    pid=4711,
    name="python3.11",
    command="python app.py",
    user="dev",
    uid=1000,
    started_at=1.0,
    parent=1,
    parent_name="systemd",
    children=(4712,),
    addresses=("127.0.0.1:8002",),
    unit=None,
    container=None,
)
PROCESS = Process(
    pid=4711, name="python3.11", argv=("python", "app.py"), uid=os.geteuid(), parent=1, started_at=1.0, stamp=100.0,
    suspended=False, cgroup="0::/user.slice/user-1000.slice/session-2.scope\n",
)  # fmt: skip


def decide(
    process: Process,
    *,
    policy: Policy | None = None,
    cgroup: str = "",
    uid: int | None = None,
    machine: Machine | None = None,
) -> tuple[str, str] | None:
    """Why this holder of port 8002 is left alone, and what to do instead; None: it may be stopped."""
    asking = Asking(
        port=8002,
        policy=policy or Policy(),
        machine=machine or here(),
        pid=1 << 22,
        ancestors=frozenset({99}),
        uid=process.uid if uid is None else uid,
        unit=cgroups.unit(cgroup),
        container=cgroups.container(cgroup),
    )
    return asking.refusal(process)
