"""``ready.sqlite``: a database file is whole, and on a disk on which SQLite can lock it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Unpack
from urllib.parse import unquote

from preflight.contract import Details
from preflight.making import Ask, Failure, Instead, requirement, unknown
from preflight.ready.files import NamedPath, place_of, status_of

# File systems over a network, as /proc/self/mountinfo calls them: locks on them are not to be relied on
# (https://www.sqlite.org/howtocorrupt.html, section 2.1).
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs", "lustre"})
REPAIRED = "SQLite repairs it when it is opened for writing"


class SqliteAnswer(NamedTuple):
    """What is known about the file."""

    shown: str
    faults: list[str]
    file_system: str


def sqlite(path: str = "", *, variable: str = "", **instead: Unpack[Instead]) -> Callable[..., None]:
    """The database passes SQLite's ``quick_check``, and is not on a network file system.

    ``path`` starts from the project's folder; or a variable has it, as a path or as ``sqlite:///path``. It is opened
    for reading, and nothing is made if it is not there.
    """

    def probe(ask: Ask) -> SqliteAnswer:
        if not path and "://" in ask.value:
            found = _URL.match(ask.value)
            if found is None:
                fix = f"set {ask.variable} to sqlite:/// and the path"
                raise Failure(f"{ask.variable} is not the URL of a SQLite database", fix)
            ask = replace(ask, value=unquote(found[1]))
        place = place_of(ask, path)
        status_of(place, "a SQLite database")
        file = place.path.resolve()
        return SqliteAnswer(place.shown, _checked(place, file, ask.timeout), _file_system(file))

    def judge(answer: SqliteAnswer, details: Details) -> None:
        details.update(file_system=answer.file_system or None)
        assert not answer.faults, f"{answer.shown} is damaged: {answer.faults[0]}"
        local = answer.file_system not in NETWORK
        assert local, f"{answer.shown} is on a network file system ({answer.file_system}), where locks can fail"
        details.summary = "whole"

    name = path or variable
    return requirement(
        probe,
        judge,
        variable=variable,
        title=f"SQLite {name}",
        doc=f"The SQLite database {name} is whole, and on a local disk.",
        fix="restore the database from a copy, or recover it with the sqlite3 command's .recover",
        timeout=30.0,
        instead=instead,
    )


_URL = re.compile(r"sqlite(?:\+\w+)?:///([^?]+)")
"""As SQLAlchemy has it: sqlite:///a.db is a.db, and sqlite:////a.db is /a.db."""


def _checked(place: NamedPath, file: Path, timeout: float) -> list[str]:
    """What is wrong in the database, one line each. Nothing is written, and no file is made beside it."""
    import sqlite3  # 2.5 ms, and only for suites that ask for such a database

    if not file.stat().st_size:  # to SQLite a good database without tables, and what a full disk leaves of one
        raise Failure(
            f"{place.shown} is empty: there is no database in it",
            "restore it from a copy, or remove the file if the application makes the database itself",
        )
    log, index = (file.with_name(f"{file.name}-{ending}") for ending in ("wal", "shm"))
    with file.open("rb") as opened:
        keeps_log = opened.read(20)[18:20] == b"\2\2"  # https://www.sqlite.org/fileformat.html, section 1.3
    # To read a database with a log, SQLite makes both files, and a reader without write access leaves them there.
    alone = keeps_log and not index.exists()
    mode = "mode=ro&immutable=1" if alone else "mode=ro"
    unfinished = alone and log.exists() and log.stat().st_size > 0
    until = time.monotonic() + timeout
    try:
        database = sqlite3.connect(f"{file.as_uri()}?{mode}", uri=True, timeout=timeout / 2)
    except sqlite3.Error as error:
        raise Failure(f"{place.shown} cannot be opened: {error}") from None
    try:
        database.set_progress_handler(lambda: time.monotonic() > until, 10_000)
        rows = database.execute("PRAGMA quick_check(5)").fetchall()
    except sqlite3.DatabaseError as error:
        said = str(error)
        if "locked" in said:
            unknown(f"{place.shown} is locked by another process")
        if "interrupted" in said:
            unknown(f"{place.shown} is too large to be checked within {timeout:g} s")
        if "readonly" in said or unfinished:
            unknown(f"{place.shown} was left in the middle of a change: {REPAIRED}")
        what = (
            "cannot be read" if isinstance(error, sqlite3.OperationalError) else "is damaged, or not a SQLite database"
        )
        raise Failure(f"{place.shown} {what}: {error}") from None
    finally:
        database.close()
    faults = [str(row[0]) for row in rows if row[0] != "ok"]
    if faults and unfinished:
        unknown(f"{place.shown} was left in the middle of a change: {REPAIRED}")
    return faults


def _file_system(path: Path) -> str:
    """The type of the file system that a file is on; empty if the system does not tell."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        place = before.split(" ")[4].replace("\\040", " ")
        inside = path.is_relative_to(place)
        if inside and len(place) >= len(best):
            best, kind = place, after.split(" ")[0]
    return kind
