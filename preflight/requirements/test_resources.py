"""What the machine has left."""

from __future__ import annotations

import resource
import shutil

import psutil
import pytest

from preflight.contract import Details
from preflight.settings import Settings


def amount(size: float) -> str:
    """Bytes for people, in binary units."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


@pytest.mark.warning("Disk Space")
def test_disk_space(settings: Settings, details: Details) -> None:
    """There is room for reports and sessions where the state folder is."""
    # The state folder may not be there yet; the nearest folder that is lies on the same disk.
    folder = next(one for one in (settings.state_dir, *settings.state_dir.parents) if one.is_dir())
    free = shutil.disk_usage(folder).free
    details.update(free=free, needed=settings.disk_space, folder=str(folder))
    details.fix = f"make room on the disk of {folder}, or set PREFLIGHT_STATE_DIR to another one"
    enough = free >= settings.disk_space
    assert enough, f"{amount(free)} free at {folder}, needs {amount(settings.disk_space)}"
    details.summary = f"{amount(free)} free"


@pytest.mark.warning("Memory", fix="end what is not needed, or set PREFLIGHT_MEMORY to what the application needs")
def test_memory(settings: Settings, details: Details) -> None:
    """There is memory for the application."""
    available = psutil.virtual_memory().available
    details.update(available=available, needed=settings.memory)
    enough = available >= settings.memory
    assert enough, f"{amount(available)} available, needs {amount(settings.memory)}"
    details.summary = f"{amount(available)} available"


@pytest.mark.warning("Open Files")
def test_open_files(settings: Settings, details: Details) -> None:
    """A process may have enough open files for the connections that it is meant to serve."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    details.update(limit=None if unlimited else soft, needed=settings.open_files)
    details.fix = f"ulimit -n {settings.open_files}"
    assert unlimited or soft >= settings.open_files, f"{soft} open files allowed, needs {settings.open_files}"
    details.summary = "unlimited" if unlimited else f"{soft} allowed"
