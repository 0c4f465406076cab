"""``--init`` in a project of somebody's own: what is added, and what is said about it."""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from preflight.command.init import requirement, texts, writing
from preflight.command.init.survey import Survey, survey
from preflight.command.init.writing import PYPROJECT, Addition, NotWritten
from preflight.output import plainlines

TESTS = re.compile(r"test_.*\.py|.*_test\.py")
SHOWN = 5  # files that could not be read


def run(root: Path, folder: Path, what: str, *, dry_run: bool, verbose: bool) -> int:
    """Add what the project lacks; 0, or 1 where something cannot be written.

    ``root`` is where pyproject.toml belongs, ``folder`` where the command was typed; ``what`` is one of KINDS.
    """
    try:
        content, table = writing.pyproject(root)
        seen = survey(root, folder, table)
        additions, remarks = KINDS[what](root, folder, content, table, seen)
    except NotWritten as error:
        plainlines.error(str(error))
        return 1
    for addition in additions:
        try:
            if not dry_run:
                writing.write(addition)
        except OSError as error:
            plainlines.error(f"{addition.path} cannot be written: {error.strerror}")
            return 1
        plainlines.say(f"{_did(addition, dry_run=dry_run)} {_shown(addition.path, root)}: {addition.why}.")
        for line in addition.text.strip("\n").splitlines() if verbose else ():
            plainlines.say(f"    {line}".rstrip())
    for remark in remarks:
        plainlines.say(remark)
    _unread(seen)
    return 0


def _did(addition: Addition, *, dry_run: bool) -> str:
    verb = "add to" if addition.before is not None else "write"
    return f"Would {verb}" if dry_run else "Added to" if addition.before is not None else "Wrote"


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _unread(seen: Survey) -> None:
    if seen.unparsed:
        names = ", ".join(seen.unparsed[:SHOWN])
        more = f" and {len(seen.unparsed) - SHOWN} more" if len(seen.unparsed) > SHOWN else ""
        plainlines.note(f"{names}{more} cannot be parsed by Python {sys.version_info.major}.{sys.version_info.minor}")
    if not seen.whole:
        plainlines.note("this folder has very many files: the most deeply nested files were not examined")


def _left(path: Path, root: Path, why: str = "the file exists") -> str:
    return f"Left {_shown(path, root)} as it is: {why}."


Planned = tuple[list[Addition], list[str]]


def _project(root: Path, _folder: Path, content: bytes | None, table: Mapping[str, Any], seen: Survey) -> Planned:
    """``[tool.preflight]``, a first requirement and the conftest.py that keeps plain pytest out."""
    additions: list[Addition] = []
    remarks = []
    tool = table.get("tool")
    settings = tool.get("preflight") if isinstance(tool, dict) else None
    if settings is not None:
        remarks.append(_left(root / PYPROJECT, root, "it has [tool.preflight]"))
    named = settings.get("suite") if isinstance(settings, dict) else None
    if isinstance(named, list) and texts.SUITE not in named:
        remarks.append(f"{texts.SUITE} is not in the suite that {PYPROJECT} names, so it was not written.")
    else:
        _suite(root, seen, additions, remarks)
    if settings is None:
        additions.insert(0, _settings(root, content, table, seen))
    if additions:
        remarks.append("Now run: preflight --check-only")
    return additions, remarks


def _settings(root: Path, content: bytes | None, table: Mapping[str, Any], seen: Survey) -> Addition:
    lines = writing.appended(content, texts.table(seen))
    if not writing.fits(content or b"", lines, table):
        raise NotWritten(
            f"{root / PYPROJECT} defines `tool` in a form to which no table can be added (such as `tool = {{...}}`):"
            " add `preflight` there yourself, or write [tool.NAME] tables; nothing was written"
        )
    if seen.application is None:
        why = "[tool.preflight]; no ASGI application was found, so name yours there (app)"
    else:
        why = f'[tool.preflight] with the application "{seen.application.app}" ({seen.application.why})'
    return Addition(root / PYPROJECT, lines.decode(), why, before=content)


def _suite(root: Path, seen: Survey, additions: list[Addition], remarks: list[str]) -> None:
    folder = root / texts.SUITE
    conftest, file = folder / "conftest.py", folder / "test_project.py"
    if problem := writing.lies_in_the_way(root, file):
        raise NotWritten(f"{problem}, and the requirements belong in a folder of that name; nothing was written")
    try:
        there = os.listdir(folder)
    except FileNotFoundError:
        there = []
    except OSError as error:
        raise NotWritten(f"{folder} cannot be read: {error.strerror}; nothing was written") from None
    tests = sorted(name for name in there if TESTS.fullmatch(name))
    if tests:
        remarks.append(_left(folder / tests[0], root))
    else:
        chosen = requirement.proposed(seen)
        why = f'a first requirement, {chosen.severity} "{chosen.title}": {chosen.because}'
        additions.append(Addition(file, texts.suite(chosen, requirement.others(seen, chosen), seen.proposals), why))
        if seen.proposals:
            count = len(seen.proposals)
            some = "1 ready-made requirement is" if count == 1 else f"{count} ready-made requirements are"
            remarks.append(f"{some} proposed in {_shown(file, root)}, as comments.")
    if conftest.name in there:
        remarks.append(_left(conftest, root))
    else:
        why = "plain pytest collects nothing in this folder, with or without the preflight's plugin"
        additions.append(Addition(conftest, texts.CONFTEST, why))


def _one(root: Path, path: Path, text: str, why: str, then: str) -> Planned:
    if problem := writing.lies_in_the_way(root, path):
        raise NotWritten(f"{problem}, so {path} cannot be made; nothing was written")
    if os.path.lexists(path):
        return [], [_left(path, root)]
    return [Addition(path, text, why)], [then] if then else []


def _github(root: Path, _folder: Path, _content: bytes | None, _table: Mapping[str, Any], seen: Survey) -> Planned:
    needs = requirement.needed(seen)
    why = "a job that checks every requirement and annotates the lines of those that block"
    then = f"Set these in the repository's secrets or variables: {', '.join(needs)}" if needs else ""
    return _one(root, root / ".github" / "workflows" / "preflight.yml", texts.github(seen), why, then)


def _docker(root: Path, folder: Path, _content: bytes | None, _table: Mapping[str, Any], seen: Survey) -> Planned:
    path = folder / "Dockerfile"
    if os.path.lexists(path):
        lines = [f"RUN pip install '{texts.DISTRIBUTION}'", *texts.lines_for_docker(seen)]
        # Only its author knows how it installs, as which user, and what its last stage is.
        why = "the file exists. Put these lines at its end, in place of its CMD or ENTRYPOINT"
        return [], [_left(path, root, why), *(f"    {line}" for line in lines)]
    why = "an image that checks every requirement when it is started, and then serves"
    additions, remarks = _one(root, path, texts.dockerfile(seen), why, "")
    # It copies the whole folder. An ignore file that is there says what its author means to be in an image.
    why = "the image gets neither the env file nor an environment of this machine"
    ignores, left = _one(root, folder / ".dockerignore", texts.DOCKERIGNORE, why, "")
    return additions + ignores, remarks + left


def _systemd(root: Path, folder: Path, _content: bytes | None, _table: Mapping[str, Any], seen: Survey) -> Planned:
    if not (str(folder) + sys.executable).isprintable():
        raise NotWritten("the path of this folder has characters that a unit cannot contain; nothing was written")
    name = re.sub(r"[^a-z0-9-]+", "-", (seen.name or folder.name).lower()).strip("-")[:60] or "server"
    command = Path(sys.executable).with_name("preflight")
    text = texts.unit(folder, command, _user(), name)
    why = "a unit that serves from this folder, with this Python and as this user"
    return _one(root, folder / "deploy" / f"{name}.service", text, why, "")


def _user() -> str:
    """The user that serves: the name of this process's user, or its number if it has none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


KINDS: Mapping[str, Callable[[Path, Path, bytes | None, Mapping[str, Any], Survey], Planned]] = {
    "project": _project,
    "github": _github,
    "docker": _docker,
    "systemd": _systemd,
}
"""What ``--init`` can add. Each returns what to write, and what else there is to say."""
