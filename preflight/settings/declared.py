"""What a project declares that it needs to run: in ``[project]``, else in a lock or requirements file next to it.

Nothing is judged here, and nothing is resolved: the requirement Dependencies asks for exactly what is declared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from preflight.dependencies import DEEPEST, of_group
from preflight.settings.fields import SettingsError

INCLUDED = re.compile(r"(?:-r|--requirement)[ =]+(\S+)")
OTHERS = re.compile(r"(?:-e|--editable)\b|[./]|[a-z+]+://")
"""Lines of a requirements file that name no distribution: options, folders, addresses."""


def of(pyproject: Mapping[str, Any], root: Path, extras: Sequence[str]) -> dict[str, Any] | None:
    """What is needed ("dependencies"), and which file says so ("source"); None if none does.

    "dynamic" is there where only a build of the project could tell. Raises SettingsError for one of ``extras`` that is
    neither an extra nor a dependency group.
    """
    table = pyproject.get("project")
    if isinstance(table, dict):
        needed: dict[str, Any] = {name: _plain(table[name]) for name in ("dependencies", "dynamic") if name in table}
        more = [line for name in extras for line in _extra(pyproject, name)]
        if more and isinstance(needed.get("dependencies", []), list):
            needed["dependencies"] = [*needed.get("dependencies", []), *more]
        return {**needed, "source": "pyproject.toml"}
    for name, read in FILES.items():
        if (root / name).is_file():
            return {"dependencies": list(read(root / name)), "source": name}
    return None


def _extra(pyproject: Mapping[str, Any], name: str) -> Iterator[str]:
    optional, groups = pyproject["project"].get("optional-dependencies", {}), pyproject.get("dependency-groups", {})
    if name in optional:
        yield from map(str, optional[name])
    elif name in groups:
        yield from of_group(groups, name)
    else:
        raise SettingsError(f"extras: pyproject.toml has neither an extra nor a dependency group {name!r}")


def _plain(value: object) -> object:
    """A value of TOML as one of JSON."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float) else str(value)


# Files. One that cannot be read says nothing: an installer has to read it as well, and complains.


def _requirements(file: Path, depth: int = 0) -> Iterator[str]:
    """The lines of a file in pip's format that name a distribution, included files among them."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        said = re.sub(r"(^|\s)#.*", "", line).strip()
        said = re.sub(r"\s--?[a-z][a-z-]*[ =].*", "", said).strip()  # --hash=..., --config-settings
        if included := INCLUDED.match(said):
            if depth < DEEPEST:
                yield from _requirements(file.parent / included[1], depth + 1)
        elif said and not said.startswith("-") and not OTHERS.match(said):
            yield said


def _toml(file: Path) -> dict[str, Any]:
    import tomllib

    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except (OSError, ValueError):
        return {}


def _pinned(name: object, version: object, marker: object = None) -> Iterator[str]:
    if isinstance(name, str) and isinstance(version, str):
        yield f"{name}=={version}" + (f"; {marker}" if isinstance(marker, str) and marker else "")


def _pylock(file: Path) -> Iterator[str]:
    """PEP 751. Those of extras and groups have a marker that says so, and are left out."""
    for package in _toml(file).get("packages", ()):
        marker = package.get("marker")
        if not re.search(r"\b(?:extras|dependency_groups)\b", str(marker)):
            yield from _pinned(package.get("name"), package.get("version"), marker)


def _poetry(file: Path) -> Iterator[str]:
    for package in _toml(file).get("package", ()):
        groups, marker = package.get("groups", [package.get("category", "main")]), package.get("markers")
        if "main" not in groups or package.get("optional") or "source" in package:
            continue
        yield from _pinned(
            package.get("name"), package.get("version"), marker.get("main") if isinstance(marker, dict) else marker
        )


def _pipenv(file: Path) -> Iterator[str]:
    import json

    try:
        packages = json.loads(file.read_bytes())["default"]
        for name, entry in packages.items():
            if str(entry.get("version", "")).startswith("=="):
                yield from _pinned(name, entry["version"].removeprefix("=="), entry.get("markers"))
    except (OSError, ValueError, KeyError, AttributeError):
        return


FILES = {
    "pylock.toml": _pylock,
    "poetry.lock": _poetry,
    "Pipfile.lock": _pipenv,
    "requirements.lock": _requirements,
    "requirements.txt": _requirements,
}
"""Which files are looked for, in this order, where ``[project]`` does not say what is needed."""
