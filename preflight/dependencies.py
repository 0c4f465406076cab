"""Which packages this project needs, and whether they are there; `installing` has the commands that install them.

Uses the standard library only, since this is asked before anything is known to be installed. The requirement
Dependencies looks more closely, with packaging, but it can only run where pytest is.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from preflight import project

DISTRIBUTION = "pytest-preflight"
DEEPEST = 10  # groups that include one another, or files

ROOT = project.CHECKOUT if project.CHECKOUT is not None and project.in_checkout() else project.here()
"""The folder of the project that packages are installed for; its own environment is in it (``.venv``)."""
CORE = (
    "httptools",
    "packaging",
    "psutil",
    "pytest",
    "pytest-json-report",
    "python-dotenv",
    "rich",
    "uvicorn",
    "websockets",
)
"""The packages of launcher, suite and worker; a test compares them with pyproject.toml."""

# Distributions whose module has another name than they have.
MODULES = {
    "python-dotenv": "dotenv",
    "pytest-json-report": "pytest_jsonreport",
    "langgraph-checkpoint-postgres": "langgraph",  # a module inside of it; looking for that would import
    "langgraph-checkpoint-sqlite": "langgraph",
}


def declared() -> list[str]:
    """What is needed here: in our checkout what its pyproject.toml says, elsewhere what this package needs.

    The requirement Dependencies says what another project needs. The settings report a file that
    cannot be read.
    """
    if not project.in_checkout():
        return list(CORE)
    try:
        return _declared(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return list(CORE)


def of_project() -> list[str]:
    """What an environment for the project needs, this package included."""
    if project.in_checkout():
        return declared()
    try:
        theirs = _declared(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        theirs = []
    # Another environment is to serve what this one does: the routes beside the application need the extra web.
    served = all(importlib.util.find_spec(module) for module in ("starlette", "prometheus_client"))
    ours = f"{DISTRIBUTION}[web]" if served else DISTRIBUTION
    return theirs if any(name_of(one) == DISTRIBUTION for one in theirs) else [ours, *theirs]


def _declared(pyproject: dict[str, Any]) -> list[str]:
    """The dependencies of ``[project]``, and of the extras and groups that ``[tool.preflight]`` names."""
    needed = [str(one) for one in pyproject["project"]["dependencies"]]
    more = {**pyproject.get("dependency-groups", {}), **pyproject["project"].get("optional-dependencies", {})}
    for extra in pyproject.get("tool", {}).get("preflight", {}).get("extras", ()):
        needed += of_group(more, extra)
    return sorted(needed, key=name_of)


def of_group(groups: Mapping[str, Any], name: str, depth: int = 0) -> Iterator[str]:
    """The dependencies of a dependency group, and of the groups that it includes (PEP 735)."""
    for entry in groups.get(name, ()) if depth < DEEPEST else ():
        if isinstance(entry, dict):
            yield from of_group(groups, str(entry.get("include-group", "")), depth + 1)
        else:
            yield str(entry)


def missing() -> list[str]:
    """Declared dependencies of which no module is found, as they are declared."""
    absent = []
    for dependency in declared():
        name = name_of(dependency)
        if _found(MODULES.get(name, name.replace("-", "_"))) or any(map(_found, _modules(name))):
            continue
        if applies(dependency):
            absent.append(dependency)
    return absent


def name_of(dependency: str) -> str:
    """The name of the distribution that a dependency asks for."""
    return re.split(r"[^A-Za-z0-9._-]", dependency.strip(), maxsplit=1)[0].lower()


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # "a.b" without an "a"
        return False


def _modules(name: str) -> set[str]:
    """The modules of a distribution whose name is not its module's, by its own list of installed files."""
    import importlib.metadata  # 20 ms, and seldom needed

    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        return set()
    tops = {file.parts[0].partition(".")[0] for file in files if not file.parts[0].endswith((".dist-info", ".data"))}
    return {top for top in tops if top.isidentifier()}


def _requirement(dependency: str) -> Any:
    """The dependency as packaging parses it (pip has a copy); None without packaging, or if it cannot be parsed."""
    for module in ("packaging.requirements", "pip._vendor.packaging.requirements"):
        try:
            return importlib.import_module(module).Requirement(dependency)
        except (ImportError, ValueError):  # ValueError: InvalidRequirement, which Dependencies reports
            continue
    return None


def applies(dependency: str) -> bool:
    """Whether a dependency with a marker applies to this system; False if that cannot be told here."""
    if ";" not in dependency:
        return True
    parsed = _requirement(dependency)
    return parsed is not None and (parsed.marker is None or bool(parsed.marker.evaluate()))


def meets(version: str | None, dependency: str) -> bool:
    """Whether a version satisfies the dependency; True if that cannot be told here: then the lock file decides."""
    if version is None:
        return False
    parsed = _requirement(dependency)
    return parsed is None or bool(parsed.specifier.contains(version, prereleases=True))
