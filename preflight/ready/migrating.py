"""``ready.migrations``: the database is as the application's migrations leave it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Unpack

from preflight.contract import Details
from preflight.making import Ask, Failure, Instead, requirement, unknown
from preflight.processes import programs

# What is run in a process of its own: migrations import the application's models.
COMMANDS = {
    "alembic": ("-m", "alembic", "current", "--check-heads"),
    "django": ("manage.py", "migrate", "--check", "--no-input", "--skip-checks"),
}


def migrations(kind: str = "", *, config: str = "", **instead: Unpack[Instead]) -> Callable[..., None]:
    """Every migration has been applied: alembic's heads are current, or Django's ``migrate --check`` finds none left.

    :param kind: "alembic" or "django"; told by alembic.ini and manage.py where it is left out.
    :param config: another file in place of alembic.ini or manage.py.
    """
    if kind not in ("", *COMMANDS):
        raise ValueError(f"the kind {kind!r} is none of {', '.join(COMMANDS)}")

    def probe(ask: Ask) -> tuple[str, int]:
        found = kind or next((name for name, file in _FILES.items() if (ask.root / file).is_file()), "")
        if not found:
            raise Failure("there is neither an alembic.ini nor a manage.py in the project's folder")
        file = config or _FILES[found]
        if not (ask.root / file).is_file():
            raise Failure(f"{ask.root / file} is not there")
        return found, _ran(_command(found, file), ask)

    def judge(answer: tuple[str, int], details: Details) -> None:
        found, code = answer
        details.update(kind=found)
        details.fix = "alembic upgrade heads" if found == "alembic" else "python manage.py migrate"
        assert code == 0, "the database is not at the head of the migrations: some have not been applied"
        details.summary = "all applied"

    return requirement(
        probe,
        judge,
        title="Migrations",
        doc="Every migration has been applied to the database.",
        fix="apply the migrations",
        timeout=60.0,
        instead=instead,
    )


_FILES = {"alembic": "alembic.ini", "django": "manage.py"}


def _command(kind: str, file: str) -> Sequence[str]:
    first, *others = COMMANDS[kind]
    if kind == "django":
        return [file, *others]
    return [first, others[0], "-c", file, *others[1:]]


def _ran(arguments: Sequence[str], ask: Ask) -> int:
    """The exit code: 0 or 1, which say all or not all. Raises Failure for what is no answer."""
    try:
        ended = programs.run([sys.executable, *arguments], ask.environment, ask.timeout, ask.root)
    except programs.Late:
        raise Failure(f"{' '.join(arguments)} has not ended within {ask.timeout:g} s") from None
    said = f"{ended.said}\n{ended.complained}"
    if ended.code == 0:
        return 0
    if "not on all head revisions" in said or "not up to date" in said.lower() or _is_djangos(arguments, said):
        return 1
    if "unrecognized arguments: --check-heads" in said:
        raise Failure("alembic is too old to be asked for its heads", "pip install --upgrade 'alembic>=1.17.1'")
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
    kind = last.partition(":")[0].strip()
    if not _CLASS.fullmatch(kind):
        kind = ""  # a line for people, with anything in it
    if "OperationalError" in said or "could not connect" in said.lower():
        unknown("the database could not be asked for its migrations: it does not answer")
    if "No module named" in said:
        raise Failure(f"{arguments[0]} {arguments[1]} cannot be run: a module is missing")
    about = f" ({kind})" if kind else ""
    raise Failure(f"{' '.join(arguments[:3])} ended with exit code {ended.code}{about}")


_CLASS = re.compile(r"[A-Za-z_][\w.]{0,100}")  # an exception's, as a traceback ends with it


def _is_djangos(arguments: Sequence[str], said: str) -> bool:
    """Whether Django has found some: ``migrate --check`` prints its plan and ends with 1, and without a traceback."""
    return "migrate" in arguments and "Traceback" not in said and "Error" not in said
