"""How much memory is left for us: on the machine, and in each control group that this process is in (cgroups(7)).

A control group may have a limit, and so may every one above it: what is left is what the tightest of them leaves.
Version 1 (memory.limit_in_bytes) and version 2 (memory.max, memory.high) are read, and both on a machine that has both.
What a group has cached and can give back at once (inactive_file) counts as free, as it does for docker and Kubernetes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_UNLIMITED = 1 << 60  # bytes; version 1 says "none" with the largest multiple of a page
_ESCAPED = re.compile(r"\\([0-7]{3})")  # how mountinfo writes blanks in a path (proc_pid_mountinfo(5))


class Left(NamedTuple):
    """Memory that can still be used."""

    available: int  # bytes
    limit: int  # bytes in all
    group: str = ""  # the control group that limits it, as /proc/self/cgroup spells it; empty: the machine


def left(root: Path = Path("/")) -> Left:
    """What the machine and the control groups of this process leave, the tightest of them.

    ``root`` is where /proc/self and the mounted hierarchies are found.
    """
    return min([of_machine(root), *of_groups(root)], key=lambda one: one.available)


def of_machine(root: Path = Path("/")) -> Left:
    """What the machine leaves. On Linux that is read here: importing psutil takes longer than all the rest."""
    lines = (line.partition(":") for line in _lines(root / "proc/meminfo"))
    said = {name: rest.split() for name, _, rest in lines}
    try:
        available, total = (int(said[name][0]) * 1024 for name in ("MemAvailable", "MemTotal"))  # both are in KiB
    except (KeyError, IndexError, ValueError):  # another system
        import psutil

        machine = psutil.virtual_memory()
        available, total = machine.available, machine.total
    return Left(min(available, total), total)  # a container's /proc may tell of two machines at once (lxcfs)


def of_groups(root: Path = Path("/")) -> list[Left]:
    """What each control group that this process is in leaves, where it has a limit; the innermost first."""
    found: list[Left] = []
    for version, group, mounted, inner in _hierarchies(root):
        name, folder, here = group, inner, len(found)
        # Up to where the hierarchy is mounted: a container sees nothing above its own group.
        while folder.is_relative_to(mounted):
            limits = _LIMITS[version](folder)
            if limits:
                limit = min(limits)
                found.append(Left(max(0, limit - _used(folder, version)), limit, str(name)))
            folder, name = folder.parent, name.parent
            # Version 1: a group may be told not to count what is below it.
            if version == 1 and _number(folder / "memory.use_hierarchy") == 0:
                break
        hidden = _limit_out_of_sight(inner) if version == 1 else None
        if hidden is not None and hidden < min((one.limit for one in found[here:]), default=_UNLIMITED):
            found.append(Left(max(0, hidden - _used(inner, version)), hidden, str(group)))
    return found


def _hierarchies(root: Path) -> Iterator[tuple[int, Path, Path, Path]]:
    """Version, name of our group, mount point and our folder there, of each hierarchy that limits memory."""
    groups: dict[int, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        hierarchy, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if hierarchy == "0" and not controllers:
            groups[2] = group
        elif "memory" in controllers.split(","):
            groups[1] = group
    elsewhere: list[tuple[int, Path, Path, Path]] = []
    seen: set[int] = set()
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, filesystem = line.partition(" - ")
        fields, kind = mount.split(), filesystem.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        version = 2 if kind[0] == "cgroup2" else 1 if kind[0] == "cgroup" and "memory" in kind[2].split(",") else 0
        if version not in groups:
            continue
        top, point = Path(_unescaped(fields[3])), root / _unescaped(fields[4]).lstrip("/")
        name = Path("/") / groups[version]
        folder = point / name.relative_to(top) if name.is_relative_to(top) else point
        if ".." not in name.parts and name.is_relative_to(top) and folder.is_dir():
            seen.add(version)
            yield version, name, point, folder
        else:
            elsewhere.append((version, name, point, point))
    # A container may have its group mounted as the root, while /proc/self/cgroup names its place outside the container.
    # Where our group is in sight, every other mount is somebody else's.
    yield from (one for one in elsewhere if one[0] not in seen)


def _limits_of_version_1(folder: Path) -> list[int]:
    limit = _number(folder / "memory.limit_in_bytes")
    return [] if limit is None or limit >= _UNLIMITED else [limit]


def _limit_out_of_sight(folder: Path) -> int | None:
    """The tightest limit of a group of version 1 and those above it, which its statistics have even out of sight."""
    line = next((one for one in _lines(folder / "memory.stat") if one.startswith("hierarchical_memory_limit ")), "")
    limit = line.partition(" ")[2].strip()
    return int(limit) if limit.isdecimal() and int(limit) < _UNLIMITED else None


def _limits_of_version_2(folder: Path) -> list[int]:
    # Above memory.high a group is slowed down until it hardly moves.
    found = (_number(folder / name) for name in ("memory.max", "memory.high"))
    return [limit for limit in found if limit is not None]


_LIMITS = {1: _limits_of_version_1, 2: _limits_of_version_2}
_USE = {1: ("memory.usage_in_bytes", "total_inactive_file "), 2: ("memory.current", "inactive_file ")}


def _used(folder: Path, version: int) -> int:
    """Bytes that a group uses and cannot give back at once."""
    usage, reclaimable = _USE[version]
    used = _number(folder / usage) or 0
    cached = next((line for line in _lines(folder / "memory.stat") if line.startswith(reclaimable)), "")
    given_back = cached.removeprefix(reclaimable).strip()
    return max(0, used - int(given_back)) if given_back.isdecimal() else used


def _number(file: Path) -> int | None:
    """The number in a file; None if there is none ("max"), or no such file."""
    text = next(iter(_lines(file)), "").strip()
    return int(text) if text.isdecimal() else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _unescaped(path: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), path)
