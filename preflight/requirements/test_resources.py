"""The machine's free disk, memory and descriptors."""

from __future__ import annotations

import resource
import shutil

import pytest

from preflight.contract import Details
from preflight.processes import openfiles
from preflight.settings.model import Settings
from preflight.suite.probes import memory
from preflight.text import amount, foreign


@pytest.mark.warning("Disk Space")
def test_disk_space(settings: Settings, details: Details) -> None:
    """The disk of the state folder has room for reports and sessions."""
    # The state folder may not be there yet; the nearest folder that is lies on the same disk.
    folder = next(one for one in (settings.state_dir, *settings.state_dir.parents) if one.is_dir())
    free = shutil.disk_usage(folder).free
    details.update(free=free, needed=settings.disk_space, folder=str(folder))
    details.fix = f"make room on the disk of {folder}, or set PREFLIGHT_STATE_DIR to a folder on another disk"
    enough = free >= settings.disk_space
    assert enough, f"{amount(free)} free at {folder}, needs {amount(settings.disk_space)}"
    details.summary = f"{amount(free)} free"


@pytest.mark.warning(
    "Memory", fix="end programs that are not needed, or set PREFLIGHT_MEMORY to what the application needs"
)
def test_memory(settings: Settings, details: Details) -> None:
    """Enough memory is left for the application, on the machine and within every limit of its control groups."""
    left = memory.left()
    needed = settings.memory * settings.workers
    each = f" ({amount(settings.memory)} for each of {settings.workers} workers)" if settings.workers > 1 else ""
    details.update(available=left.available, needed=needed, limit=left.limit, control_group=left.group or None)
    where = f" of {amount(left.limit)} in control group {foreign(left.group)}" if left.group else ""
    if left.group:
        details.fix = (
            "give the container or the unit more memory (docker --memory, Kubernetes resources.limits.memory, systemd"
            " MemoryMax), or set PREFLIGHT_MEMORY to what the application needs"
        )
    enough = left.available >= needed
    assert enough, f"{amount(left.available)} available{where}, needs {amount(needed)}{each}"
    details.summary = f"{amount(left.available)} available{where}"


def more_files(needed: int, *, start: str) -> str:
    """The fix if so many open files are needed: a command, if the shell may raise its own limit."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or needed <= hard:
        return f"ulimit -n {needed}  # in the shell that {start}"
    return (
        f"raise the hard limit on open files to {needed} (docker --ulimit nofile, systemd LimitNOFILE, a login's"
        " /etc/security/limits.conf), and start again"
    )


@pytest.mark.critical("File Descriptors", needs="port")
def test_file_descriptors(settings: Settings, run_origin: str, details: Details) -> None:
    """A start may open as many files as it needs itself, before any that the application needs."""
    allowed, needed = openfiles.own(), openfiles.of_start(settings)
    details.update(limit=allowed, needed=needed)
    details.fix = more_files(needed, start="starts the server")
    if run_origin == "rerun":
        details.summary = "this server has what it needs"
        return
    enough = allowed is None or allowed >= needed
    of_workers = f" of {settings.workers} workers" if settings.workers > 1 else ""
    assert enough, f"{allowed} open files are allowed, but a start{of_workers} needs {needed}"
    details.summary = "unlimited" if allowed is None else f"{allowed} allowed"


@pytest.mark.warning("Open Files")
def test_open_files(settings: Settings, worker_is_ours: bool, details: Details) -> None:
    """The serving process may open enough files for the connections that it is meant to serve."""
    allowed = openfiles.of_worker(settings) if worker_is_ours else openfiles.own()
    connections = openfiles.connections(settings, allowed)
    details.update(limit=allowed, needed=settings.open_files, connections=connections)
    details.fix = more_files(settings.open_files, start="starts the server")
    enough = allowed is None or allowed >= settings.open_files
    assert enough, f"{allowed} open files allowed, needs {settings.open_files}"
    details.summary = "unlimited" if allowed is None else f"{allowed} allowed"
    if worker_is_ours and connections < settings.connections:
        details.summary += f", which is enough for {connections} of the {settings.connections} configured connections"
