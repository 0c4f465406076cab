"""Which requirement of its own a project begins with, and how it is written as a pytest test."""

from __future__ import annotations

from dataclasses import dataclass

from preflight.command.init.addresses import SERVICES, is_address
from preflight.command.init.paths import File
from preflight.command.init.survey import Need, Survey, name_of
from preflight.command.init.variables import Variable
from preflight.redaction.keys import key_like, words

DATABASES = {"AMQP", "BROKER", "DATABASE", "DB", "RABBITMQ", "SQL", *SERVICES}
"""Words of variables whose address is that of a database, or of something else that keeps what it is given."""
MENTIONED = 8  # variables in a comment


@dataclass(frozen=True, slots=True)
class Requirement:
    """One test of a suite, in parts."""

    function: str
    severity: str
    title: str
    fix: str
    holds: str
    """The sentence that is its docstring."""
    because: str
    """The place in the project that it was made from, for people."""
    parameters: tuple[str, ...]
    body: tuple[str, ...]
    imports: tuple[str, ...] = ()


def proposed(seen: Survey) -> Requirement:
    """The requirement to begin with: what the code cannot do without, else what it names, else an example.

    Each kind of thing that a survey finds is a function here, and the first that has something to say is taken.
    """
    for propose in (_needed_variable, _model, _database, _read_variable):
        if (requirement := propose(seen)) is not None:
            return requirement
    return _example()


def others(seen: Survey, requirement: Requirement) -> list[str]:
    """What else the code reads, as ``NAME (FILE:LINE)``; people decide which of it is required."""
    rest = [one for one in _ranked(seen) if f"Variable {name_of(one)}" != requirement.title]
    return [f"{name_of(one)} ({one.place})" for one in rest[:MENTIONED]]


def secret(name: str) -> bool:
    """Whether a variable's name is that of a secret; the URL of a database has a password in it."""
    return key_like(name) or _is_database(name)


def _is_database(name: str) -> bool:
    return is_address(name) and not DATABASES.isdisjoint(words(name))


def needed(seen: Survey) -> list[str]:
    """The names of the variables that the code cannot do without."""
    return [name_of(one) for one in _ranked(seen) if isinstance(one.what, Variable) and one.what.required]


def _ranked(seen: Survey) -> list[Need]:
    """Variables, first those that are needed; among them addresses of databases, other addresses, secrets."""

    def rank(found: Need) -> tuple[bool, int, bool]:
        what, name = found.what, name_of(found)
        kind = 2 if not is_address(name) else 0 if _is_database(name) else 1
        kind += kind == 2 and not key_like(name)
        return (not (isinstance(what, Variable) and what.required), kind, not getattr(what, "at_import", False))

    return sorted(seen.variables, key=rank)


def _needed_variable(seen: Survey) -> Requirement | None:
    return next((_variable(seen, one) for one in _ranked(seen) if getattr(one.what, "required", False)), None)


def _read_variable(seen: Survey) -> Requirement | None:
    return next((_variable(seen, one) for one in _ranked(seen)), None)


def _variable(seen: Survey, need: Need) -> Requirement:
    """A variable is set, and is a URL if it names a database's. Its value is in no message."""
    assert isinstance(need.what, Variable)  # noqa: S101  # narrows the type
    name = need.what.name
    is_needed = need.what.required and seen.application is not None and seen.env_file_is_certain
    verb = "needs" if need.what.required else "reads"
    if need.what.any_case:
        body = [f'values = [environment.get(name, "") for name in ("{name}", "{name.lower()}")]']
        body += ['value = next(filter(None, values), "")']
    else:
        body = [f'value = environment.get("{name}", "")']
    # A boolean: an assertion shows what it compares, and this may be a secret.
    body += ["is_set = bool(value.strip())", f'assert is_set, "{name} is not set, and {need.file} {verb} it"']
    if _is_database(name):
        body += ['is_url = "://" in value', f'assert is_url, "{name} is not a URL (scheme://...)"']
    return Requirement(
        function=f"test_{name.lower()}",
        severity="critical" if is_needed else "warning",
        title=f"Variable {name}",
        fix=f"set {name} in the environment or in {seen.env_file}",
        holds=f"{name}, which {need.file} {verb}, is set.",
        because=f"{need.place} {verb} the variable {name}",
        parameters=("environment: Mapping[str, str]",),
        body=tuple(body),
        imports=("from collections.abc import Mapping",),
    )


def _model(seen: Survey) -> Requirement | None:
    """A file that the code loads. Whether the server can do without a file that is not there today cannot be known."""
    ordered = sorted(seen.models, key=lambda one: name_of(one) not in seen.present)
    if not ordered or not isinstance(ordered[0].what, File):
        return None
    found, path = ordered[0], ordered[0].what.path
    return Requirement(
        function="test_model_file",
        severity="critical" if path in seen.present and seen.application is not None else "warning",
        title="Model File",
        fix=f"put the model where {found.file} looks for it: {path}",
        holds=f"The model {path}, which {found.file} loads, is there.",
        because=f"{found.place} loads {path}",
        parameters=("settings: Settings",),
        body=(
            f'path = settings.root / "{path}"',
            'assert path.is_file(), f"{path} is not there"',
            'assert path.stat().st_size, f"{path} is empty"',
        ),
        imports=("from preflight.settings import Settings",),
    )


def _database(seen: Survey) -> Requirement | None:
    """The file of an SQLite database and its folder, where SQLite keeps its journal, can be written."""
    found = next(iter(seen.databases), None)
    if found is None or not isinstance(found.what, File):
        return None
    path = found.what.path
    return Requirement(
        function="test_database_file",
        severity="critical" if seen.application is not None else "warning",
        title="Database File",
        fix=f"let the user that serves write {path} and its folder",
        holds=f"The database {path}, which {found.file} names, can be written.",
        because=f"{found.place} names the database {path}",
        parameters=("settings: Settings",),
        body=(
            f'file = settings.root / "{path}"',
            "# SQLite makes the file if it is not there, and a journal beside it.",
            "for path in [file.parent, file] if file.exists() else [file.parent]:",
            '    assert os.access(path, os.W_OK), f"{path} cannot be written"',
        ),
        imports=("import os", "from preflight.settings import Settings"),
    )


def _example() -> Requirement:
    """What holds nearly everywhere, and is worth knowing if it does not."""
    return Requirement(
        function="test_temporary_folder",
        severity="warning",
        title="Temporary Folder",
        fix="set TMPDIR to a folder that can be written",
        holds="A file can be written to the folder for temporary files, which large uploads need.",
        because="an example, because no variable, database or model was found in the code",
        parameters=(),
        body=(
            "with tempfile.TemporaryFile() as file:",
            '    assert file.write(b"x") == 1, "a temporary file cannot be written"',
        ),
        imports=("import tempfile",),
    )
