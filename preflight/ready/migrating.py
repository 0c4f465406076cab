"""``ready.migrations``: the database has all of the application's migrations."""

from __future__ import annotations

import re
import shlex
import sys
import time
import tomllib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Unpack

from preflight.contract import Details
from preflight.making import Ask, Failure, Instead, requirement, unknown
from preflight.processes import programs

# What is run in a process of its own: migrations import the application's models.
COMMANDS = {
    "alembic": ("-m", "alembic", "current", "--check-heads"),
    "django": ("manage.py", "migrate", "--check", "--no-input", "--skip-checks"),
}
_OF_ALEMBIC = "neither alembic.ini nor [tool.alembic] in pyproject.toml"
LOOKED_FOR = {
    "alembic": _OF_ALEMBIC,
    "django": "no manage.py",
    "": f"{_OF_ALEMBIC}, and no manage.py that names Django",
}
"""What the project's folder lacks, by the kind that the suite has named."""


def migrations(kind: str = "", *, config: str = "", **instead: Unpack[Instead]) -> Callable[..., None]:
    """Every migration has been applied: alembic's heads are current, or Django's ``migrate --check`` finds none left.

    :param kind: "alembic" or "django". Where it is left out, the project's folder tells: alembic.ini or
        ``[tool.alembic]`` in pyproject.toml, and a manage.py of Django's; a project that has both is asked for both.
    :param config: another file in place of these: a manage.py, or what alembic takes with ``-c``.
    """
    if kind not in ("", *COMMANDS):
        raise ValueError(f"the kind {kind!r} is not one of {', '.join(COMMANDS)}")
    if config and not kind:
        kind = "django" if config.endswith(".py") else "alembic"

    def probe(ask: Ask) -> dict[str, int]:
        if config and not (ask.root / config).is_file():
            raise Failure(f"{ask.root / config} is not there")
        kinds = [kind] if config else [tool for tool in COMMANDS if kind in ("", tool) and _has(ask.root, tool, kind)]
        if not kinds:
            raise Failure(f"{ask.root} has {LOOKED_FOR[kind]}")
        until = time.monotonic() + ask.timeout
        return {tool: _ran(_command(tool, config), ask, until) for tool in kinds}

    def judge(answer: dict[str, int], details: Details) -> None:
        details.update(kinds=[*answer])
        behind = [tool for tool, code in answer.items() if code]
        details.fix = " && ".join(_fix(tool, config) for tool in behind)
        whose = f" of {behind[0]}" if len(behind) < len(answer) and behind else ""
        assert not behind, f"the database is not at the head of the migrations{whose}: some have not been applied"
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


def _has(root: Path, kind: str, named: str) -> bool:
    """Whether a project's folder has migrations of this kind. ``named`` is the kind that the suite has named."""
    if kind == "alembic":
        return (root / "alembic.ini").is_file() or "alembic" in _tools(root)
    # Projects without Django may have a script of that name.
    script = root / "manage.py"
    return script.is_file() and (bool(named) or b"django" in script.read_bytes())


def _tools(root: Path) -> Collection[str]:
    """The tools that pyproject.toml has settings for."""
    try:
        tools = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("tool")
    except (OSError, ValueError):
        return ()
    return tools if isinstance(tools, dict) else ()


def _command(kind: str, config: str) -> Sequence[str]:
    first, *others = COMMANDS[kind]
    if not config:
        return COMMANDS[kind]
    return [config, *others] if kind == "django" else [first, others[0], "-c", config, *others[1:]]


def _fix(kind: str, config: str) -> str:
    """The command that applies the migrations."""
    if kind == "django":
        return f"python {shlex.quote(config or 'manage.py')} migrate"
    return f"alembic{f' -c {shlex.quote(config)}' if config else ''} upgrade heads"


def _ran(arguments: Sequence[str], ask: Ask, until: float) -> int:
    """The exit code: 0 (all applied) or 1 (not all). Raises Failure for anything else."""
    try:
        seconds = max(0.0, until - time.monotonic())
        ended = programs.run([sys.executable, *arguments], ask.environment, seconds, ask.root)
    except programs.Late:
        raise Failure(f"{' '.join(arguments)} has not ended within {ask.timeout:g} s") from None
    said = f"{ended.said}\n{ended.complained}"
    if ended.code == 0:
        if "alembic" in arguments and "head)" not in ended.said:
            unknown("alembic finds no migrations at all: is the folder with their versions there?")
        return 0
    if "not on all head revisions" in said or "not up to date" in said.lower() or _is_djangos(arguments, said):
        return 1
    if "unrecognized arguments: --check-heads" in said:
        raise Failure("alembic is too old to be asked for its heads", "pip install --upgrade 'alembic>=1.17.1'")
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
    kind = last.partition(":")[0].strip()
    if not _CLASS.fullmatch(kind):
        kind = ""  # a line for people, with anything in it
    if _REFUSED.search(said):
        raise Failure(
            "the database server refuses the login that the migrations use, or does not have the database that they use"
        )
    if "OperationalError" in said or "could not connect" in said.lower():
        unknown("the database could not be asked for its migrations: it does not answer")
    if "No module named" in said:
        raise Failure(f"{arguments[0]} {arguments[1]} cannot be run: a module is missing")
    about = f" ({kind})" if kind else ""
    raise Failure(f"{' '.join(arguments[:3])} ended with exit code {ended.code}{about}")


_REFUSED = re.compile(
    r"(?:password|peer|ident) authentication failed|no password supplied"
    r"|(?:role|database) \"[^\"\n]{0,200}\" does not exist"
    r"|Access denied for user|Unknown database|Login failed for user|ORA-01017"
)
"""What PostgreSQL, MySQL, SQL Server and Oracle say to a login that will not do, in English."""
_CLASS = re.compile(r"[A-Za-z_][\w.]{0,100}")  # an exception's, as a traceback ends with it


def _is_djangos(arguments: Sequence[str], said: str) -> bool:
    """Whether Django has found migrations to apply: it prints its plan, and ends with 1 and without a traceback."""
    return "migrate" in arguments and "Traceback" not in said and "Error" not in said
