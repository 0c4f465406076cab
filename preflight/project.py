"""The project that a command works for: its folders, its suite, its application, and where each was found.

Uses the standard library only, and imports nothing of a project: the command reads this before it has settings, and the
pytest plugin reads it in every project of an environment.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from preflight import files

PACKAGE = Path(os.path.abspath(__file__)).parent
CHECKOUT = PACKAGE.parent.resolve() if (PACKAGE.parent / "run.py").is_file() else None
"""The folder of this project's own checkout; None if the package is installed."""
PYPROJECT = "pyproject.toml"
OURS = "preflight.requirements"
"""The suite that every server has."""
OWN = "preflight_suite"
"""Where a project has its own requirements, unless it says otherwise."""


class Project(NamedTuple):
    """Where a project is, and whether its code may run."""

    root: Path
    """Where its pyproject.toml is; ids and the state folder are relative to this."""
    folder: Path
    """Where the command was typed: the working directory of the application, and on its import path."""
    configured: bool = True
    """Whether there is a pyproject.toml; True with a missing file is an error."""
    problem: str = ""
    """Why none of its code may run, for people; empty if it may."""
    advice: str = "keep projects where only you can write"
    """What to do about that."""
    passed_over: str = ""
    """The pyproject.toml further up that is not used, and why, for people; empty if there is none."""

    @property
    def refused(self) -> str:
        """Why none of its code may run, and what to do, for people; empty if it may."""
        return f"{self.problem}: no project is run from there; {self.advice}" if self.problem else ""


def in_checkout() -> bool:
    """Whether this process works for our own checkout, from whatever folder, and not for a project of somebody's."""
    if CHECKOUT is None:
        return False
    if here().is_relative_to(CHECKOUT):
        return True
    program = Path(sys.argv[0])  # ours in the command preflight and in our children; else run.py, or a test's
    return program.name != "preflight" and not program.is_relative_to(PACKAGE)


def of_command() -> Project:
    """The project of the command that this process is, or belongs to."""
    if CHECKOUT is not None and in_checkout():
        return Project(CHECKOUT, CHECKOUT)
    try:
        return find(Path.cwd())
    except FileNotFoundError:
        # The root of the file system, which here() returns then, was not meant.
        gone = "the current folder has been removed"
        return Project(here(), here(), configured=False, problem=gone, advice="change to a folder that exists")


def here() -> Path:
    """The folder of this process."""
    try:
        return Path.cwd()
    except FileNotFoundError:  # it has been removed
        return Path("/")


def at(root: Path, folder: Path) -> Project:
    """A project that has been found before; its pyproject.toml may have gone since."""
    return Project(root, folder, configured=root == CHECKOUT or (root / PYPROJECT).exists())


def find(folder: Path) -> Project:
    """The project of a folder: the nearest pyproject.toml upwards, or the folder itself if there is none.

    The search ends at a folder or file that others can write, or that is neither this user's nor root's: somebody
    else's pyproject.toml in /tmp names no code that is run here.
    """
    for parent in (folder, *folder.parents):
        file = parent / PYPROJECT
        try:
            why = _unsafe(parent) or (_unsafe(file) if os.path.lexists(file) else "")
            is_there = file.is_file()
        except OSError as error:
            why, is_there = f"{error.filename or parent} cannot be examined: {error.strerror}", False
        if why and parent == folder:
            return Project(folder, folder, configured=False, problem=why)
        if why:
            passed_over = f"{file} is not used: {why}" if os.path.lexists(file) else ""
            return Project(folder, folder, configured=False, passed_over=passed_over)
        if is_there:
            return Project(parent, folder)
    return Project(folder, folder, configured=False)


def _unsafe(path: Path) -> str:
    """Who else could change a folder or file, for people; empty if only root could."""
    for one in dict.fromkeys((path, path.resolve(), path.resolve().parent if path.is_symlink() else path)):
        status = one.stat()
        if status.st_uid not in (0, os.geteuid()):
            return f"{one} belongs to another user"
        if writers := files.other_writers(status):
            return f"{one} can be written by {'others' if writers == 'anybody' else writers}"
    return ""


def shadow(folder: Path) -> Path | None:
    """A module of the project that has this package's name, so that one of the two hides the other."""
    for one in (folder / "preflight.py", folder / "preflight" / "__init__.py"):
        if one.is_file() and one.resolve().parent != PACKAGE.resolve():
            return one
    return None


# The suite.


class Scope(NamedTuple):
    """One part of a suite: the files below a folder, all of which are to be asked."""

    name: str
    folder: Path
    base: Path
    """What the ids of its requirements are relative to."""

    def id_of(self, path: Path) -> str:
        """The part of an id that names a file."""
        return path.relative_to(self.base).as_posix()


def suite_names(project: Project) -> Sequence[str]:
    """What a project's suite is made of, as far as its pyproject.toml can be read; nothing is judged here."""
    try:
        text = (project.root / PYPROJECT).read_bytes()
        if b"preflight" in text:  # true for hardly any pyproject.toml that pytest meets
            import tomllib

            named = tomllib.loads(text.decode())["tool"]["preflight"]["suite"]
            if isinstance(named, list) and named and all(isinstance(one, str) for one in named):
                return named
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return default_suite(project)


def default_suite(project: Project) -> Sequence[str]:
    """The suite of a project that names none: what is beside pyproject.toml, and where the command was typed."""
    beside = [one / OWN for one in dict.fromkeys((project.root, project.folder)) if one.is_relative_to(project.root)]
    return [OURS, *(one.relative_to(project.root).as_posix() for one in beside if one.is_dir())]


def has_its_own(project: Project) -> bool:
    """Whether a project has requirements beside those of every server, as far as its pyproject.toml can be read."""
    return any(name != OURS for name in suite_names(project))


def of_others(root: Path, scopes: Iterable[Scope]) -> str:
    """Who else could change a project's requirements, and what to do, for people; empty if only root could."""
    for scope in scopes:
        if scope.base != root or scope.name == OURS:
            continue  # of an installed package
        for path in _read_by_pytest(root, scope.folder):
            try:
                why = _unsafe(path)
            except OSError as error:  # a link that leads nowhere
                why = f"{path} cannot be examined: {error.strerror}"
            if why:
                return f"{why}: no requirement there is run; keep them where only you can write"
    return ""


def _read_by_pytest(root: Path, folder: Path) -> Iterator[Path]:
    """What pytest imports for the requirements in a folder of the project, and the folders around that."""
    above = [one for one in folder.parents if one.is_relative_to(root)]
    yield from (one for one in above if one != root)
    yield from (file for one in above if os.path.lexists(file := one / "conftest.py"))
    seen: set[str] = set()
    for below, inside, names in os.walk(folder, followlinks=True):
        yield Path(below)
        paths = [Path(below, name) for name in names if not name.startswith(".")]  # an editor's links lead nowhere
        # A link that leads nowhere may be one to a folder with more requirements.
        yield from (path for path in paths if path.suffix == ".py" or not os.path.exists(path))
        seen.add(os.path.realpath(below))
        # Links may lead around in a circle; pytest looks into no hidden folder.
        shown = [name for name in inside if not name.startswith(".")]
        inside[:] = [name for name in shown if os.path.realpath(os.path.join(below, name)) not in seen]


def scopes(root: Path, names: Iterable[str]) -> list[Scope]:
    """The parts of a suite. Raises LookupError, with a message for people, for one that is not there."""
    found = [_scope(root, name) for name in names]
    packages: dict[str, Scope] = {}
    for scope in found:
        package = _package_name(scope.folder)
        if package and (other := packages.setdefault(package, scope)).folder != scope.folder:
            raise LookupError(
                f"{other.folder} and {scope.folder} are both packages named {package}, and a run can have only one"
                " package of that name: remove the __init__.py of one of them"
            )
    return found


def _package_name(folder: Path) -> str:
    """What a folder is called where it is imported as a package; empty if it is none."""
    parts = []
    while os.path.isfile(folder / "__init__.py"):  # False for a folder that cannot be entered
        parts.append(folder.name)
        folder = folder.parent
    return ".".join(reversed(parts))


def _scope(root: Path, name: str) -> Scope:
    if name == OURS:
        # The whole package, so that a requirement outside of its folder is not missed. A checkout may be reached
        # through a link.
        base = root if root.resolve() == CHECKOUT else PACKAGE.parent
        return Scope(name, base / "preflight", base)
    folder = root / (name if "/" in name else name.replace(".", "/"))
    if folder.is_dir():
        if not folder.resolve().is_relative_to(root.resolve()):
            raise LookupError(f"{name} is not in {root}: a suite is a package, or a folder of the project")
        return Scope(name, folder, root)
    found = _package(name) if "/" not in name else None
    if found is None:
        raise LookupError(f"there is no package {name} and no folder {folder}")
    return Scope(name, found, found.parents[name.count(".")])


def _package(name: str) -> Path | None:
    """The folder of an installed package, found without importing anything of it; None if there is none.

    Raises LookupError for a package in several places, each of which could have requirements.
    """
    from importlib.machinery import PathFinder

    path = sys.path
    for part in name.split("."):
        spec = PathFinder.find_spec(part, path)  # a namespace with its whole name would ask for the module above it
        if spec is None or spec.submodule_search_locations is None:
            return None
        path = list(spec.submodule_search_locations)
    # A folder without a module in it may be left over from an older installation.
    places = [one for one in dict.fromkeys(map(os.path.realpath, path)) if next(Path(one).rglob("*.py"), None)]
    if len(places) > 1:
        several = ", ".join(places)
        raise LookupError(f"the package {name} is in several places: {several}; name a package that is in one place")
    return Path((places or path)[0]) if path else None


# The application.

_DJANGO = re.compile(r"DJANGO_SETTINGS_MODULE[\"']\s*,\s*[\"']([A-Za-z_][\w.]*)[\"']")


def application(project: Project, table: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[str, str] | None:
    """The application that a project names for other tools, and where; None if it names none.

    ``table`` is what pyproject.toml says, ``environ`` what the application will see.
    """
    tool = table.get("tool", {})
    fastapi = tool.get("fastapi", {}) if isinstance(tool, dict) else {}
    entrypoint = fastapi.get("entrypoint") if isinstance(fastapi, dict) else None
    if isinstance(entrypoint, str):
        return entrypoint, "pyproject.toml: [tool.fastapi] entrypoint"
    if litestar := environ.get("LITESTAR_APP"):
        return litestar, "LITESTAR_APP"
    return _of_django(project.folder)


def _of_django(folder: Path) -> tuple[str, str] | None:
    """The ``application`` in the asgi.py of the package with manage.py's settings, or of the only one."""
    try:
        manage = (folder / "manage.py").read_text(encoding="utf-8", errors="replace")
        below = [one.parent.name for one in folder.glob("*/asgi.py") if one.parent.name.isidentifier()]
    except OSError:
        return None
    candidates = []
    if named := _DJANGO.search(manage):
        parts = named[1].split(".")[:-1]
        candidates = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    candidates += below if len(below) == 1 else []
    for package in candidates:
        file = f"{package.replace('.', '/')}/asgi.py"
        if (folder / file).is_file():
            return f"{package}.asgi:application", f"{file} beside manage.py"
    return None
