"""Files that are added to a project: planned from what is there, then written, and nothing is ever replaced."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preflight import files

PYPROJECT = "pyproject.toml"
LARGEST = 4 * 1024 * 1024  # bytes; what is larger was not written by people


class NotWritten(Exception):
    """Why nothing can be added, for people."""


@dataclass(frozen=True, slots=True)
class Addition:
    """A file to make, or lines to put at the end of one."""

    path: Path
    text: str
    why: str
    before: bytes | None = None
    """The present content of the file that is added to; None: the file is made."""


def pyproject(root: Path) -> tuple[bytes | None, Mapping[str, Any]]:
    """What pyproject.toml holds, as it stands and as a table; None if there is none.

    Raises NotWritten if it cannot be read, or others could have put it there.
    """
    path = root / PYPROJECT
    try:
        descriptor = files.existing(path)
    except FileNotFoundError:
        return None, {}
    except OSError as error:
        raise NotWritten(_unusable(path, error)) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise NotWritten(f"{path} is not a regular file, so nothing was written")
    with os.fdopen(descriptor, "rb") as stream:
        if status.st_size > LARGEST:
            raise NotWritten(f"{path} has {status.st_size / 1024**2:.1f} MiB, so nothing was written")
        content = stream.read()
    try:
        return content, tomllib.loads(content.decode("utf-8").replace("\r\n", "\n"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise NotWritten(
            f"{path}:{line}: this line is not UTF-8 text: correct the file first; nothing was written"
        ) from None
    except tomllib.TOMLDecodeError as error:
        # Only the place: some messages quote the content.
        place = re.search(r"\(at line ([0-9]+), column [0-9]+\)", str(error))
        where = f"{path}:{place[1]}" if place else str(path)
        raise NotWritten(f"{where}: the file is not valid TOML: correct the file first; nothing was written") from None
    except RecursionError:
        raise NotWritten(f"{path} is nested too deeply: correct the file first; nothing was written") from None


def _unusable(path: Path, error: OSError) -> str:
    if path.is_symlink():
        return f"{path} is a symbolic link, and its target is not changed; nothing was written"
    return f"{path} cannot be read: {error.strerror}; nothing was written"


def appended(content: bytes | None, text: str) -> bytes:
    """What to append to a file so that ``text`` is at its end, after a blank line and with the file's line ends."""
    content = content or b""
    windows = content.count(b"\r\n") * 2 > content.count(b"\n")
    apart = "" if not content.strip() else "\n" if content.endswith(b"\n") else "\n\n"
    lines = apart + text
    return (lines.replace("\n", "\r\n") if windows else lines).encode()


def fits(content: bytes, addition: bytes, before: Mapping[str, Any]) -> bool:
    """Whether the file with the addition says what it said before, and beside that only the new table.

    ``tool = {...}`` for example is closed: no table can be added to it.
    """
    try:
        after = tomllib.loads((content + addition).decode().replace("\r\n", "\n"))
        del after["tool"]["preflight"]
    except (ValueError, KeyError, TypeError):
        return False
    rest = {**before}
    if not after["tool"] and "tool" not in before:
        del after["tool"]
    return after == rest


def lies_in_the_way(root: Path, path: Path) -> str:
    """Why a file cannot be made there, for people: a link, or something that is not a folder; empty if it can."""
    for folder in reversed([one for one in path.parents if one.is_relative_to(root) and one != root]):
        try:
            mode = folder.lstat().st_mode
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"{folder} cannot be examined: {error.strerror}"
        if stat.S_ISLNK(mode):
            return f"{folder} is a symbolic link"
        if not stat.S_ISDIR(mode):
            return f"{folder} is not a folder"
    return ""


def write(addition: Addition) -> None:
    """Make the file, or add to it. Raises OSError, and FileExistsError for one that has appeared meanwhile.

    The file has the rights that the umask leaves, like one from an editor, but others can never write to it.
    """
    if addition.before is not None:
        _append(addition.path, addition.before, addition.text.encode())
        return
    addition.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = files.new(addition.path, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(addition.text.encode())
    except OSError:
        os.unlink(addition.path)  # a full disk: half a file would stay for ever, because it is never replaced
        raise


def _append(path: Path, before: bytes, lines: bytes) -> None:
    """In place, so that owner, mode and hard links stay; all of it or nothing."""
    descriptor = files.existing(path, os.O_RDWR | os.O_APPEND)
    with os.fdopen(descriptor, "r+b", buffering=0) as stream:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if stream.read() != before:
            raise FileExistsError(0, "it was changed in the meantime; run this command again", str(path))
        try:
            written = stream.write(lines)
            if written != len(lines):
                raise OSError(0, "the disk is full", str(path))
        except OSError:
            stream.truncate(len(before))
            raise
