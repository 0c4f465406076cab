"""``ready.file``, ``ready.folder`` and ``ready.model_file``: files of the application."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from preflight.contract import Details
from preflight.making import Ask, Failure, Instead, requirement, unknown
from preflight.settings import places
from preflight.text import foreign

PIECE = 1 << 20  # bytes that are hashed at a time


KINDS = {
    stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


class NamedPath(NamedTuple):
    """A path, and its name for people: a path from a variable is named after the variable."""

    path: Path
    shown: str
    ends_with_slash: bool = False
    """Whether it was written as a folder's: the system opens no file by such a path."""


def place_of(ask: Ask, path: str) -> NamedPath:
    """The path, which starts from the project's folder, or else the variable's. Raises Failure if it is no path.

    A variable's path is the application's own, and starts from the folder in which the application runs.
    """
    flaw = "" if path else places.of(ask.settings, ask.variable).flaw
    shown = path or f"what {ask.variable} names{f', with {flaw},' if flaw else ''}"
    try:
        whole = (ask.root if path else ask.settings.folder) / Path(path or ask.value).expanduser()
    except RuntimeError:
        raise Failure(f"{foreign(shown)} begins with ~ and a name that no user of this machine has") from None
    return NamedPath(whole, foreign(str(whole) if path else shown), (path or ask.value).endswith("/"))


def status_of(place: NamedPath, what: str, is_one: Callable[[int], bool] = stat.S_ISREG) -> os.stat_result:
    """The status of what is there. Raises Failure if it cannot be ``what``, usually a regular file."""
    path, shown, ends_with_slash = place
    try:
        status = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise Failure(f"{shown} is a link to {foreign(os.readlink(path))}, which is not there") from None
        raise Failure(f"{shown} is not there, but must be {what}") from None
    except PermissionError:
        raise Failure(f"{shown} cannot be examined: this user may not enter a folder above it") from None
    except (OSError, ValueError) as error:
        raise Failure(f"{shown} cannot be examined: {getattr(error, 'strerror', 'it is not a path')}") from None
    if not is_one(status.st_mode):
        raise Failure(f"{shown} is {KINDS.get(stat.S_IFMT(status.st_mode), 'something else')}, but must be {what}")
    if ends_with_slash and stat.S_ISREG(status.st_mode):
        raise Failure(f"{shown} is a file, but the path ends with a slash: such a path cannot be opened")
    return status


def file(path: str = "", *, variable: str = "", **instead: Unpack[Instead]) -> Callable[..., None]:
    """A file is there, and this user can read it. ``path`` starts from the project's folder, or a variable has it."""

    def probe(ask: Ask) -> int:
        place = place_of(ask, path)
        status = status_of(place, "a file")
        _readable(place, status)
        return status.st_size

    def judge(size: int, details: Details) -> None:
        details.update(size=size)
        details.summary = f"{size} bytes"

    name = path or variable
    return requirement(
        probe,
        judge,
        variable=variable,
        title=f"File {name}",
        doc=f"The file {name} is there and can be read.",
        fix="put the file there, readable for this user",
        instead=instead,
    )


def _readable(place: NamedPath, status: os.stat_result) -> None:
    try:
        with place.path.open("rb") as opened:
            opened.read(1)
    except PermissionError:
        is_ours = status.st_uid == os.geteuid() and not status.st_mode & stat.S_IRUSR
        mending = f"chmod u+r {shlex.quote(place.shown)}" if is_ours and place.shown == str(place.path) else ""
        raise Failure(f"{place.shown} cannot be read by this user", mending) from None
    except OSError as error:
        raise Failure(f"{place.shown} cannot be read: {error.strerror}") from None


def folder(
    path: str = "", *, variable: str = "", writable: bool = True, **instead: Unpack[Instead]
) -> Callable[..., None]:
    """A folder is there, and this user can write a file in it: one is made and removed again."""

    def probe(ask: Ask) -> None:
        place = place_of(ask, path)
        status_of(place, "a folder", stat.S_ISDIR)
        if writable:
            _written(place)
        else:
            _listed(place)

    def judge(_answer: Any, details: Details) -> None:
        details.summary = "can be written" if writable else "can be read"

    name = path or variable
    return requirement(
        probe,
        judge,
        variable=variable,
        title=f"Folder {name}",
        doc=f"The folder {name} is there and can be {'written' if writable else 'read'}.",
        fix="make the folder, or let this user write in it",
        instead=instead,
    )


def _written(folder: NamedPath) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder.path) as opened:  # has no name where the system can do that
            opened.write(b"preflight")
            opened.flush()
    except OSError as error:
        raise Failure(f"nothing can be written in {folder.shown}: {error.strerror}") from None


def _listed(folder: NamedPath) -> None:
    try:
        with os.scandir(folder.path) as entries:
            next(entries, None)
    except OSError as error:
        raise Failure(f"{folder.shown} cannot be read: {error.strerror}") from None


def model_file(
    path: str = "", *, variable: str = "", size: int | None = None, sha256: str = "", **instead: Unpack[Instead]
) -> Callable[..., None]:
    """A model's file is there and whole: of ``size`` bytes, and with this SHA-256, where they are given.

    A file that Git LFS has left its pointer for is told apart from one that was cut off.
    """
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ValueError("a SHA-256 has 64 hexadecimal digits")

    def probe(ask: Ask) -> tuple[int, str]:
        place = place_of(ask, path)
        status = status_of(place, "a model's file")
        _readable(place, status)
        with place.path.open("rb") as opened:
            if opened.read(64).startswith(b"version https://git-lfs.github.com/spec/"):
                pulls = f"git lfs pull --include {shlex.quote(path)}" if path else "git lfs pull"
                raise Failure(f"{place.shown} is a pointer of Git LFS, not the model", pulls)
        if not status.st_size:
            raise Failure(f"{place.shown} is empty")
        if size is not None and status.st_size != size:
            raise Failure(f"{place.shown} has {status.st_size} bytes, and {size} are expected")
        return status.st_size, _hash(place.path, time.monotonic() + ask.timeout) if sha256 else ""

    def judge(answer: tuple[int, str], details: Details) -> None:
        found, digest = answer
        details.update(size=found, sha256=digest or None)
        same = digest == sha256.lower()
        assert same, f"its SHA-256 begins with {digest[:12]}, and {sha256[:12].lower()} is expected"
        details.summary = f"{found} bytes{', and the SHA-256 that is expected' if sha256 else ''}"

    name = path or variable
    return requirement(
        probe,
        judge,
        variable=variable,
        title=f"Model file {name}",
        doc=f"The model's file {name} is there and whole.",
        fix="download the model's file again",
        timeout=30.0,
        instead=instead,
    )


def _hash(path: Path, until: float) -> str:
    """The file's SHA-256. Ends as unknown if there is no time to read all of it."""
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while piece := opened.read(PIECE):
            digest.update(piece)
            if time.monotonic() > until:
                unknown(f"the file is too large to be read within its deadline: only {opened.tell()} bytes were read")
    return digest.hexdigest()
