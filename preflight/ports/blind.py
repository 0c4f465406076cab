"""A machine on which PIDs identify no process: /proc shows another PID namespace than the one we are in.

This happens after ``unshare --pid`` without ``--mount-proc``, and in sandboxes that share their host's /proc. A number
that is read there is somebody else's here, or nobody's, so nothing is known of any process, and none is signalled.
"""

import os
import time
from collections.abc import Collection, Sequence

from preflight.ports import sockets
from preflight.ports.machine import Handle, Process


def is_needed() -> bool:
    """Whether /proc numbers processes in another way than the system calls of this process do."""
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            said = dict(line.partition(":")[::2] for line in file)
    except OSError:
        return False  # there is none
    # Our PIDs from the namespace of /proc to ours (proc_pid_status(5)); where the kernel has no such line, the link.
    numbers = said.get("NSpid", "").split() or [os.readlink("/proc/self")]
    return numbers != [str(os.getpid())]


class Blind:
    """Sees sockets, and no process."""

    def listening(self, port: int) -> list[sockets.Endpoint]:
        """See Machine."""
        return [one._replace(pids=()) for one in sockets.listening(port)]

    def occupying(self, port: int) -> list[sockets.Endpoint]:
        """See Machine."""
        return [one._replace(pids=()) for one in sockets.occupying(port)]

    def process(self, pid: int) -> Process | None:  # noqa: ARG002
        """See Machine."""
        return None

    def children(self, pid: int) -> tuple[int, ...]:  # noqa: ARG002
        """See Machine."""
        return ()

    def folder(self, pid: int) -> str:  # noqa: ARG002
        """See Machine."""
        return ""

    def opaque(self, uid: int) -> list[Process]:  # noqa: ARG002
        """See Machine."""
        return []

    def handle(self, process: Process, inodes: Collection[int] = ()) -> Handle | None:  # noqa: ARG002
        """See Machine."""
        return None

    def wait(self, handles: Sequence[Handle], timeout: float) -> None:  # noqa: ARG002
        """See Machine."""
        time.sleep(max(0.0, timeout))
