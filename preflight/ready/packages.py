"""``ready.distribution`` and ``ready.no_conflicts``: what is installed imports, and fits together."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, Unpack

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from preflight.contract import Details, not_applicable
from preflight.making import Ask, Failure, Instead, requirement
from preflight.processes import programs
from preflight.suite.probes import imports
from preflight.suite.probes.extras import with_extras
from preflight.text import foreign

_ERROR = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|NotFound)\b")  # how the last line of a traceback begins
IMPORTED = 77  # the exit code of a program in which everything was imported


def distribution(wanted: str, *, module: str = "", **instead: Unpack[Instead]) -> Callable[..., None]:
    """A distribution is installed in the version that ``wanted`` asks for ("torch>=2.4"), and its modules import.

    What its extras need ("uvicorn[standard]") has to be installed as well. It is imported in a process of its own: an
    import can end that, and leaves nothing behind here.

    :param module: what to import in place of the modules that the distribution says it has brought.
    """
    asked = Requirement(wanted)

    def probe(ask: Ask) -> PackageAnswer:
        if asked.marker is not None and not asked.marker.evaluate():
            not_applicable(f"{asked.name} is not for this system or Python: {asked.marker}")
        unknown_extras: list[str] = []
        for one, by in with_extras([asked], unknown_extras):
            _fits(one, by)
        version = imports.version(asked.name) or ""
        names = [module] if module else imports.modules(asked.name)
        if names:
            _imported(f"{asked.name} {version}", names, ask.timeout)
        return PackageAnswer(version, names, unknown_extras)

    def judge(answer: PackageAnswer, details: Details) -> None:
        details.update(version=answer.version, modules=answer.modules)
        notes = [f"{answer.version}, and {'can be imported' if answer.modules else 'names no module to import'}"]
        details.summary = "; ".join([*notes, *answer.unknown_extras])

    return requirement(
        probe,
        judge,
        title=asked.name,
        doc=f"{wanted} is installed, and can be imported.",
        fix=f"pip install '{wanted}'",
        timeout=30.0,
        instead=instead,
    )


class PackageAnswer(NamedTuple):
    """The installed version, the modules that were imported, and the extras that it lacks."""

    version: str
    modules: list[str]
    unknown_extras: list[str]


def _fits(asked: Requirement, by: str) -> None:
    """Raises Failure if a distribution is not installed in a version that is asked for. ``by`` needs it."""
    version, needed = imports.version(asked.name), f" (for {by})" if by else ""
    if version is None and not any(importlib.metadata.distributions(name=asked.name)):
        raise Failure(f"{asked.name} is not installed{needed}")
    if version is None or (asked.specifier and not _is_version(version)):
        raise Failure(f"{asked.name} has no version that can be read: its metadata is damaged{needed}")
    if not asked.specifier.contains(version, prereleases=True):
        raise Failure(f"{asked.name} is {version}, but must be {asked.specifier}{needed}")


def _imported(distribution: str, modules: Sequence[str], timeout: float) -> None:
    """Raises Failure if one of these does not import."""
    statement = f"import {', '.join(modules)}"
    # The program's own end would prove nothing: an import can bring it about, and threads can hold it up.
    source = f"{statement}; import os; os._exit({IMPORTED})"
    try:
        tried = programs.run([sys.executable, "-P", "-c", source], os.environ, timeout)
    except programs.Late:
        raise Failure(f"{statement} has not ended within {timeout:g} s") from None
    if tried.code < 0:
        raise Failure(f"{statement} was ended by signal {-tried.code}")
    if tried.code != IMPORTED:
        last = tried.complained.strip().splitlines()[-1:]
        said = foreign(last[0]) if last and _ERROR.match(last[0]) else f"exit code {tried.code}"
        raise Failure(f"{distribution} is installed, but {statement} fails ({said})")


def no_conflicts(**instead: Unpack[Instead]) -> Callable[..., None]:
    """Every requirement of an installed distribution is installed, in a version that fits: as ``pip check`` asks."""

    def probe(_ask: Ask) -> list[str]:
        return conflicts()

    def judge(found: list[str], details: Details) -> None:
        details.update(conflicts=found)
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        assert not found, f"{found[0]}{more}"
        details.summary = "none"

    return requirement(
        probe,
        judge,
        severity="warning",
        title="Conflicts of packages",
        doc="Everything that is installed has what it requires.",
        fix="pip check  # lists them all",
        timeout=30.0,
        instead=instead,
    )


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def conflicts() -> list[str]:
    """What is missing or in a version that another distribution refuses, one line each, sorted."""
    versions: dict[str, str] = {}
    wants: list[tuple[str, str]] = []
    for one in importlib.metadata.distributions():
        name = one.metadata["Name"]
        # pip moves what it replaces to "~name", and leaves it there when it is interrupted.
        if not name or getattr(getattr(one, "_path", None), "name", "").startswith("~"):
            continue
        if canonicalize_name(name) not in versions:
            installed = imports.installed(name)
            versions[canonicalize_name(name)] = installed.version if installed else ""
            wants += [(name, text) for text in (installed.distribution if installed else one).requires or ()]
    found = set()
    for name, text in wants:
        try:
            required = Requirement(text)
            if required.marker is not None and not required.marker.evaluate({"extra": ""}):
                continue
        except (InvalidRequirement, ValueError):
            continue  # written before there were rules for it: pip does not report it either
        version = versions.get(canonicalize_name(required.name))
        if version is None:
            found.add(f"{name} requires {required.name}, which is not installed")
        elif not _is_version(version):
            found.add(f"{required.name} has no version that can be read: its metadata is damaged")
        elif not required.specifier.contains(version, prereleases=True):
            found.add(f"{name} requires {required.name}{required.specifier}, but {version} is installed")
    return sorted(found)
