"""A holder and a process, to be changed where a test needs another one; a container's id."""

import os

from preflight.ports.holders import Holder
from preflight.ports.machine import Process

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
