"""``ready.distribution`` and ``ready.no_conflicts``: what is installed imports, and fits together."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Callable
from typing import Unpack

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from preflight.contract import Details
from preflight.dependencies import MODULES
from preflight.making import Ask, Failure, Instead, requirement
from preflight.processes import programs
from preflight.text import foreign

_ERROR = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|NotFound)\b")  # how the last line of a traceback begins


def distribution(wanted: str, *, module: str = "", **instead: Unpack[Instead]) -> Callable[..., None]:
    """A distribution is installed in the version that ``wanted`` asks for ("torch>=2.4"), and its ``module`` imports.

    It is imported in a process of its own: an import can end that, and leaves nothing behind here.
    """
    asked = Requirement(wanted)

    def probe(ask: Ask) -> str:
        try:
            version = importlib.metadata.version(asked.name)
        except importlib.metadata.PackageNotFoundError:
            raise Failure(f"{asked.name} is not installed") from None
        if not _is_version(version or ""):
            raise Failure(f"{asked.name} has no version that can be read: its metadata is damaged")
        if not asked.specifier.contains(version, prereleases=True):
            raise Failure(f"{asked.name} is {version}, needs {asked.specifier}")
        name = module or _module_of(asked.name)
        try:
            tried = programs.run([sys.executable, "-P", "-c", f"import {name}"], os.environ, ask.timeout)
        except programs.Late:
            raise Failure(f"import {name} has not ended within {ask.timeout:g} s") from None
        if tried.code < 0:
            raise Failure(f"import {name} was ended by signal {-tried.code}")
        if tried.code:
            last = tried.complained.strip().splitlines()[-1:]
            said = foreign(last[0]) if last and _ERROR.match(last[0]) else f"exit code {tried.code}"
            raise Failure(f"{asked.name} {version} is installed, and import {name} fails ({said})")
        return version

    def judge(version: str, details: Details) -> None:
        details.update(version=version)
        details.summary = f"{version}, and imports"

    return requirement(
        probe,
        judge,
        title=asked.name,
        doc=f"{wanted} is installed, and imports.",
        fix=f"pip install '{wanted}'",
        timeout=30.0,
        instead=instead,
    )


def no_conflicts(**instead: Unpack[Instead]) -> Callable[..., None]:
    """What each installed distribution requires is installed, in a version that it takes: what ``pip check`` finds."""

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


def _module_of(name: str) -> str:
    """What a distribution is imported as: what is known of it, its own name, or the first module that it brings."""
    if name in MODULES:
        return MODULES[name]
    usual = canonicalize_name(name).replace("-", "_")
    brought = set()
    for file in importlib.metadata.files(name) or ():
        first, *others = file.parts
        if others == ["__init__.py"] or (not others and file.suffix in (".py", ".so")):
            brought.add(first.partition(".")[0])
    public = sorted(one for one in brought if not one.startswith("_"))
    return usual if usual in brought or not public else public[0]


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def conflicts() -> list[str]:
    """What is missing or in a version that somebody does not take, a line each, sorted."""
    versions: dict[str, str] = {}
    wants: list[tuple[str, str]] = []
    for one in importlib.metadata.distributions():
        name = one.metadata["Name"]
        # pip moves what it replaces to "~name", and leaves it there when it is interrupted.
        if not name or getattr(getattr(one, "_path", None), "name", "").startswith("~"):
            continue
        if canonicalize_name(name) not in versions:  # the first one on the path is what is imported
            versions[canonicalize_name(name)] = one.version or ""
            wants += [(name, text) for text in one.requires or ()]
    found = set()
    for name, text in wants:
        try:
            required = Requirement(text)
            if required.marker is not None and not required.marker.evaluate({"extra": ""}):
                continue
        except (InvalidRequirement, ValueError):
            continue  # written before there were rules for it: pip says nothing of it either
        version = versions.get(canonicalize_name(required.name))
        if version is None:
            found.add(f"{name} requires {required.name}, which is not installed")
        elif not _is_version(version):
            found.add(f"{required.name} has no version that can be read: its metadata is damaged")
        elif not required.specifier.contains(version, prereleases=True):
            found.add(f"{name} requires {required.name}{required.specifier}, and {version} is installed")
    return sorted(found)
