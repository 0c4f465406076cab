"""What a project's files say: what it serves, what that needs, and how it is installed."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preflight.command.init.applications import CALLABLE, HINT, TARGET, Candidate
from preflight.command.init.facts import Facts, facts
from preflight.command.init.folder import Folder
from preflight.command.init.paths import File
from preflight.command.init.proposals import NamedVariable as Named
from preflight.command.init.proposals import Proposal, proposals
from preflight.command.init.source import Unparsable
from preflight.command.init.variables import Variable

PARSED = 2000  # files; parsing one takes about a millisecond
APART = {"tests", "test", "testing", "docs", "doc", "examples", "example", "benchmarks", "scripts", "migrations"}
"""Folders whose code is not what is served, unless that imports it."""
TESTS = re.compile(r"(?:.*/)?(?:test_\w*|\w*_test|conftest|setup|noxfile|tasks|fabfile)\.py")
ATTRIBUTES = ("app", "application", "asgi", "asgi_app", "api", "server")
MODULES = ("asgi", "main", "app", "application", "server", "api", "web", "service", "__init__", "__main__")
"""The usual names of an application and its module, the likeliest first."""
SERVED = re.compile(
    rb"\b(?:uvicorn|hypercorn|granian|daphne|UvicornWorker)\b[^\n]*?[\s\"'=]([A-Za-z_][\w.]*:[A-Za-z_]\w*)\b"
)
NOT_ASKED_FOR = re.compile(
    r"(?:PREFLIGHT|PYTEST|PYTHON|XDG|LC|GITHUB)_.*|PYTHON[A-Z]*|DJANGO_SETTINGS_MODULE|HOME|HOSTNAME|LANG|LOGNAME|PATH"
    r"|PWD|SHELL|TERM|TMPDIR|TZ|USER|VIRTUAL_ENV|CI"
)
"""Variables that the machine, Python or the preflight sets."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The application that is to be served, as far as the files say."""

    app: str
    """``MODULE:ATTRIBUTE``, as it is imported in the folder."""
    why: str
    """Where that was found."""
    others: tuple[str, ...] = ()
    """What else could have been meant."""
    told: bool = False
    """Whether pyproject.toml names it."""


@dataclass(frozen=True, slots=True)
class Need:
    """A variable or a file that the code needs, and in which file it says so."""

    what: Variable | File
    file: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.what.line}"


@dataclass(frozen=True, slots=True)
class Survey:
    """What a project's files say. No value of a variable is among it."""

    application: Choice | None
    variables: tuple[Need, ...]
    """What the application reads from the environment, in the order in which it imports the files."""
    models: tuple[Need, ...]
    databases: tuple[Need, ...]
    present: frozenset[str]
    """Which models are there."""
    env_file: str
    """The file that the code reads variables from, in addition to the environment."""
    env_file_is_there: bool
    env_file_is_certain: bool
    """Whether the application reads variables from no other file than the preflight, as far as the code says."""
    name: str
    requires_python: str
    installs: str
    """How it is installed: "uv", "poetry", "requirements", "package", "list" (``[project]`` alone); empty: unknown."""
    proposals: tuple[Proposal, ...]
    """Ready-made requirements for what the project's files name."""
    unparsed: tuple[str, ...]
    """Python files that this interpreter cannot parse."""
    whole: bool
    """Whether all files were looked at."""


def survey(root: Path, folder: Path, pyproject: Mapping[str, Any]) -> Survey:
    """Read the project in a folder. ``root`` has its pyproject.toml, which says ``pyproject``.

    Paths in the answer are relative to the root, names of modules to the folder.
    """
    return _Surveyor(root, folder, pyproject).survey()


class _Surveyor:
    def __init__(self, root: Path, folder: Path, pyproject: Mapping[str, Any]) -> None:
        self.root = root
        self.folder = Folder(folder)
        self.base = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
        self.pyproject = pyproject
        self.known: dict[str, Facts | None] = {}
        self.unparsed: list[str] = []
        self.whole = self.folder.whole
        self.modules = frozenset(self.folder.modules)
        self.built = "build-system" in pyproject or not self.folder.others.isdisjoint(("setup.py", "setup.cfg"))
        self.by_name: dict[str, str] = {}
        """The file of a module, by each name that it could be imported by."""
        for file in self.folder.modules:
            for name in self._names(file):
                self.by_name.setdefault(name, file)

    def survey(self) -> Survey:
        application = self._application()
        files = list(self._reached(application)) if application else self._all()
        surveyed = [(file, facts) for file in files if (facts := self._facts(file))]
        given = {name for _, facts in surveyed for name in facts.gives}
        variables = _first_of_each(
            Need(variable, self.base + file)
            for file, facts in surveyed
            for variable in facts.variables
            if variable.name not in given and not NOT_ASKED_FOR.fullmatch(variable.name)
        )
        models = _first_of_each(
            Need(self._placed(model, file), self.base + file) for file, facts in surveyed for model in facts.models
        )
        databases = _first_of_each(
            Need(File(self.base + database.path, database.line), self.base + file)
            for file, facts in surveyed
            for database in facts.databases
        )
        env_files = list(dict.fromkeys(name for _, facts in surveyed for name in facts.env_files))
        named = [name for name in env_files if name]
        project = _table(self.pyproject, "project")
        env_file = posixpath.normpath(self.base + named[0]) if named else ".env"
        is_there = any(self._there([env_file]))
        return Survey(
            application,
            tuple(variables),
            tuple(models),
            tuple(databases),
            frozenset(self._there(need.what.path for need in models if isinstance(need.what, File))),
            env_file,
            env_file_is_there=is_there,
            env_file_is_certain=None not in env_files and len(named) <= 1 and (is_there or env_file == ".env"),
            name=_text(project, "name"),
            requires_python=_text(project, "requires-python"),
            installs=self._installs(),
            proposals=tuple(
                proposals(
                    self.folder,
                    self.base,
                    [
                        *self._defaults(surveyed, given),
                        *(Named(name_of(need), f"{need.place} reads it") for need in variables),
                    ],
                    named[0] if named else ".env",
                    self.pyproject,
                )
            ),
            unparsed=tuple(self.unparsed),
            whole=self.whole,
        )

    def _defaults(self, found: list[tuple[str, Facts]], given: set[str]) -> Iterator[Named]:
        """The variables that have a default in the code which leads somewhere."""
        for file, said in found:
            for one in said.defaults:
                if one.name not in given and not NOT_ASKED_FOR.fullmatch(one.name):
                    yield Named(
                        one.name,
                        f"{self.base}{file}:{one.line} has a default for it; this requirement needs it to be set",
                        one.leads_to,
                    )

    # Modules.

    def _names(self, file: str) -> Iterator[str]:
        """What a file is imported as: by its path, and as an installed package, whose folder is not part of its name.

        The likelier name comes first: a project that is built is installed.
        """
        whole = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        folders = file.split("/")[:-1]
        above = len(folders)
        while above and "/".join([*folders[:above], "__init__.py"]) in self.modules:
            above -= 1
        if above == len(folders):  # in no package
            above = int(folders[:1] == ["src"])
        installed = whole.split(".", above)[-1]
        yield from dict.fromkeys((installed, whole) if self.built else (whole, installed))

    def _facts(self, file: str) -> Facts | None:
        if file not in self.known:
            self.known[file] = None
            if len(self.known) > PARSED:
                self.whole = False
                return None
            data = self.folder.read(file)
            try:
                if data is not None:
                    name = next(self._names(file))
                    self.known[file] = facts(data, name, is_package=file.endswith("__init__.py"))
            except Unparsable as error:
                self.unparsed.append(self.base + (f"{file}:{error.line}" if error.line else file))
        return self.known[file]

    def _all(self) -> list[str]:
        return [file for file in self.folder.modules if not _is_apart(file)]

    def _reached(self, choice: Choice) -> Iterator[str]:
        """The files that are imported when the application is, in about that order."""
        waiting, reached = list(self._files_of(choice.app.partition(":")[0])), set()
        for file in waiting:  # which grows meanwhile
            if file in reached:
                continue
            reached.add(file)
            yield file
            if said := self._facts(file):
                for name in (*said.imports, *said.mentions):
                    waiting += self._files_of(name)

    def _files_of(self, name: str) -> Iterator[str]:
        """The files that an import of this name runs: the packages on the way, and the module."""
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            if file := self.by_name.get(".".join(parts[:end])):
                yield file

    def _placed(self, file: File, named_in: str) -> File:
        """The file, by its path from the root: the code means it from the folder, or from the file that names it."""
        beside = f"{named_in.rpartition('/')[0]}/{file.path}".removeprefix("/")
        path = beside if not self.folder.has(file.path) and self.folder.has(beside) else file.path
        return File(self.base + path, file.line)

    def _there(self, paths: Iterable[str]) -> Iterator[str]:
        return (path for path in paths if (self.root / path).is_file())

    # The application.

    def _application(self) -> Choice | None:
        told = _text(_table(_table(self.pyproject, "tool"), "fastapi"), "entrypoint")
        if TARGET.fullmatch(told):
            return Choice(told, "[tool.fastapi] entrypoint says so", told=True)
        likely = [file for file in self._all() if HINT.search(self.folder.read(file) or b"")]
        candidates = [(file, candidate) for file in likely for candidate in self._applications(file)]
        choices = {
            f"{self._name(file)}:{candidate.attribute}": f"{self.base}{file}:{candidate.line}: {candidate.what}"
            for file, candidate in candidates
        }
        served = [choice for choice in self._served(likely) if self._is_there(choice.app)]
        ranked = sorted(candidates, key=lambda pair: self._rank(*pair))
        order = [choice.app for choice in served]
        order += [f"{self._name(file)}:{candidate.attribute}" for file, candidate in ranked]
        if not order:
            return None
        why = {**choices, **{choice.app: choice.why for choice in reversed(served)}}
        first, *others = dict.fromkeys(order)
        return Choice(first, why[first], tuple(f'"{app}" ({why[app]})' for app in others[:3]))

    def _applications(self, file: str) -> Iterator[Candidate]:
        said = self._facts(file)
        for one in said.applications if said else ():
            if not one.made_by:
                yield one
                continue
            module, _, function = one.made_by.rpartition(".")
            elsewhere = self._facts(self.by_name[module]) if module in self.by_name else None
            for maker in elsewhere.applications if elsewhere else ():
                if maker.attribute == function and maker.factory:
                    yield Candidate(one.attribute, one.line, maker.what.removeprefix("makes "))

    def _rank(self, file: str, found: Candidate) -> tuple[Any, ...]:
        """A sort key: the application that is more likely to be meant comes first."""
        said, stem = self._facts(file), file.rpartition("/")[2].removesuffix(".py")
        return (
            found.attribute not in (said.served_names if said else ()),
            found.factory or (found.what == CALLABLE and found.attribute not in ATTRIBUTES),
            _place(ATTRIBUTES, found.attribute),
            _place(MODULES, stem),
            file.count("/"),
            file,
            -found.line,
        )

    def _name(self, file: str) -> str:
        return next(self._names(file))

    def _served(self, likely: list[str]) -> Iterator[Choice]:
        """Applications that a command or the code hands to a server by name."""
        for name in self.folder.commands:
            text = re.sub(rb"\\\r?\n", b" ", self.folder.read(name) or b"")
            for match in SERVED.finditer(text):
                line = text.count(b"\n", 0, match.start()) + 1
                yield Choice(match[1].decode("ascii", "replace"), f"{self.base}{name}:{line} serves it")
        for file in likely:
            said = self._facts(file)
            for target, line in said.served if said else ():
                yield Choice(target, f"{self.base}{file}:{line} serves it")

    def _is_there(self, target: str) -> bool:
        module, _, attribute = target.partition(":")
        said = self._facts(self.by_name[module]) if module in self.by_name else None
        # We need not know what makes it, but it has to be a name of that module.
        return said is not None and attribute in said.defines

    # The rest.

    def _installs(self) -> str:
        project, others = _table(self.pyproject, "project"), self.folder.others
        if "uv.lock" in others and project:
            return "uv"
        if "poetry.lock" in others:
            return "poetry"
        if "requirements.txt" in others:
            return "requirements"
        if "build-system" in self.pyproject or "setup.py" in others:
            return "package"
        return "list" if project.get("dependencies") else ""


def _table(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inner = table.get(name)
    return inner if isinstance(inner, dict) else {}


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name)
    return value if isinstance(value, str) else ""


def _is_apart(file: str) -> bool:
    return bool(TESTS.fullmatch(file)) or not APART.isdisjoint(file.split("/")[:-1])


def _place(order: tuple[str, ...], name: str) -> int:
    return order.index(name) if name in order else len(order)


def name_of(found: Need) -> str:
    """The name of a variable, or the path of a file."""
    return found.what.name if isinstance(found.what, Variable) else found.what.path


def _first_of_each(found: Iterator[Need]) -> list[Need]:
    """Each variable or file once, with the place where the code needs it, if it does anywhere."""
    best: dict[str, Need] = {}
    for one in found:
        name = name_of(one)
        known = best.get(name)
        is_needed = isinstance(one.what, Variable) and one.what.required
        if known is None or (is_needed and isinstance(known.what, Variable) and not known.what.required):
            best[name] = one
    return list(best.values())
