"""How many processors this process may use: those that it may run on, and what its control groups leave of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def usable(root: Path = Path("/")) -> int:
    """Whole processors, at least one. ``root`` is where /proc and the mounted control groups are found.

    Of a limit of 1.5 processors, one counts: a second worker would be slowed down for half of the time.
    """
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([own, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The limits of the control groups that this process is in, in processors (cgroups(7), versions 1 and 2)."""
    mounted = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _hierarchy, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = mounted / "cpu" if controllers else mounted
        folder = top / group.lstrip("/")
        # A container may have its group mounted as the root, while /proc says where the group is outside of it.
        for one in [folder, *folder.parents] if ".." not in folder.parts else [top]:
            if one.is_relative_to(top):
                yield from _version_1(one) if controllers else _version_2(one)


def _version_2(folder: Path) -> Iterator[float]:
    quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
    if quota.isdecimal() and period.isdecimal() and int(period):
        yield int(quota) / int(period)


def _version_1(folder: Path) -> Iterator[float]:
    quota, period = (_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    if quota.isdecimal() and period.isdecimal() and int(period):  # -1: none
        yield int(quota) / int(period)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
