"""``ready.disk``, ``ready.memory`` and ``ready.executable``: what the machine has."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Unpack

from preflight.contract import Details
from preflight.making import Ask, Failure, Instead, requirement, unknown
from preflight.processes import programs
from preflight.suite.probes import memory as machine
from preflight.text import amount, foreign

# A number with dots in it, if there is one: "go", "v", "n" and whole copyright notices come before it.
_VERSIONS = (
    re.compile(r"(?<![\d.])(\d{1,6}(?:\.\d{1,6}){1,4}(?:(?:a|b|rc|-alpha|-beta|-rc)\.?\d{1,4})?)"),
    re.compile(r"(?<![\w.-])v?(\d{1,6})(?![\w.-])"),
)


def disk(path: str = ".", *, free: int, inodes: int = 1_000, **instead: Unpack[Instead]) -> Callable[..., None]:
    """At least ``free`` bytes and so many ``inodes`` are left where ``path`` is, or will be."""

    def probe(ask: Ask) -> tuple[str, int, int | None]:
        wanted = ask.root / Path(path).expanduser()
        folder = next(one for one in (wanted, *wanted.parents) if os.path.isdir(one))
        try:
            found = os.statvfs(folder)
        except OSError as error:
            unknown(f"the free space at {folder} cannot be determined: {error.strerror}")
        # A file system that makes inodes as it needs them says that it has 0 in all.
        return str(folder), found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None

    def judge(answer: tuple[str, int, int | None], details: Details) -> None:
        folder, left, names = answer
        details.update(folder=folder, free=left, inodes=names)
        details.fix = f"make room on the disk of {folder}"
        assert left >= free, f"{amount(left)} free at {folder}, needs {amount(free)}"
        assert names is None or names >= inodes, f"{names} inodes free at {folder}, needs {inodes}"
        details.summary = f"{amount(left)} free"

    return requirement(
        probe,
        judge,
        severity="warning",
        title=f"Disk {path}",
        doc=f"{amount(free)} and {inodes} inodes are free on the disk of {path}.",
        fix="make room on that disk",
        instead=instead,
    )


def memory(*, available: int, **instead: Unpack[Instead]) -> Callable[..., None]:
    """At least ``available`` bytes of memory are left, on the machine and within every limit of its control groups."""

    def judge(left: machine.Left, details: Details) -> None:
        details.update(available=left.available, limit=left.limit, control_group=left.group or None)
        where = f" of {amount(left.limit)} in control group {foreign(left.group)}" if left.group else ""
        enough = left.available >= available
        assert enough, f"{amount(left.available)} available{where}, needs {amount(available)}"
        details.summary = f"{amount(left.available)} available{where}"

    return requirement(
        lambda _ask: machine.left(),
        judge,
        severity="warning",
        title="Memory for the application",
        doc=f"{amount(available)} of memory are available, within every limit of a control group.",
        fix="stop programs that are not needed, or give the container or the unit more memory",
        instead=instead,
    )


def executable(
    name: str, *, at_least: str = "", option: str = "--version", **instead: Unpack[Instead]
) -> Callable[..., None]:
    """A program is on PATH and runs; with ``at_least``, the version that it prints for ``option`` is that or newer."""

    def probe(ask: Ask) -> str:
        path = found(name, ask)
        try:
            ended = programs.run([path, option], ask.environment, ask.timeout, ask.root)
        except programs.Late:
            raise Failure(f"{path} {option} has not ended within {ask.timeout:g} s") from None
        except OSError as error:
            raise Failure(f"{path} cannot be run: {error.strerror}") from None
        if ended.code:
            how = f"was ended by signal {-ended.code}" if ended.code < 0 else f"ended with exit code {ended.code}"
            raise Failure(f"{path} {option} {how}")
        # Java prints its version on standard error; others print a notice of a newer one there.
        for said in (ended.said, ended.complained):
            for pattern in _VERSIONS:
                if number := pattern.search(said[:4096]):
                    return number[1]
        return ""

    def judge(version: str, details: Details) -> None:
        from packaging.version import Version

        details.update(version=version or None)
        details.summary = version or "is there"
        if not at_least:
            return
        if not version:
            unknown(f"{name} {option} prints no version, and {at_least} or newer is needed")
        assert Version(version) >= Version(at_least), f"{name} is {version}, but must be {at_least} or newer"

    return requirement(
        probe,
        judge,
        title=name,
        doc=f"The program {name} {f'{at_least} or newer ' if at_least else ''}can be run.",
        fix=f"install {name}",
        instead=instead,
    )


def found(name: str, ask: Ask) -> str:
    """The path of a program, as the application would find it. Raises Failure if there is none."""
    if os.path.dirname(name):  # a path starts from the project's folder, and not from wherever this process is
        path = shutil.which(str(ask.root / Path(name).expanduser()))
        if path is None:
            raise Failure(f"{name} is not a program that this user can run")
        return path
    path = shutil.which(name, path=ask.environment.get("PATH"))
    if path is None:
        raise Failure(f"{name} is not on PATH")
    return path
