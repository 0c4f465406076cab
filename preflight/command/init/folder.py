"""The files of a project's folder: found once, read without following a link, never run."""

from __future__ import annotations

import keyword
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from preflight import files

ENTRIES = 50_000  # files and folders that are looked at; what is nearer to the root comes first
LARGEST = 1024 * 1024  # bytes; a source file of more than 1 MiB was made by a program
SKIPPED = {"__pycache__", "build", "dist", "env", "node_modules", "site-packages", "venv", "virtualenv"}
ENVIRONMENT = {"pyvenv.cfg", "conda-meta"}
"""The files by which a folder with installed packages is recognised, whatever its name."""
COMMANDS = re.compile(
    r"Procfile|(?:[\w-]+\.)?Dockerfile(?:\.[\w-]+)?|Containerfile|(?:docker-)?compose[\w.-]*\.ya?ml|Makefile|justfile"
    r"|[\w-]+\.(?:service|sh)"
)
"""Files that say how a project is started."""
OTHERS = {"manage.py", "pyproject.toml", "requirements.txt", "uv.lock", "poetry.lock", "setup.py", "setup.cfg", ".env"}
PLAIN = re.compile(r"[\w@+-][\w.@+-]*(?:/[\w@+-][\w.@+-]*)*")
"""Names that can stand in a comment, a text and a command as they are."""


class Folder:
    """What is in a folder. Names are relative to it and have slashes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.whole = True
        """Whether all files were examined; False for a folder with very many files."""
        self.modules: list[str] = []
        """Python files that can be imported by their path."""
        self.commands: list[str] = []
        self.others: set[str] = set()
        """Which of OTHERS the folder itself has."""
        for name in self._names():
            base = name.rpartition("/")[2]
            if base.endswith(".py") and all(map(_is_name, name.removesuffix(".py").split("/"))):
                self.modules.append(name)
            elif COMMANDS.fullmatch(base) and PLAIN.fullmatch(name):
                self.commands.append(name)
            if name in OTHERS:
                self.others.add(name)

    def _names(self) -> Iterator[str]:
        """Regular files, those nearest to the folder first, in the order of their names."""
        waiting, looked_at = [""], 0
        for folder in waiting:  # which grows meanwhile
            try:
                with os.scandir(self.path / folder) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
            except OSError:  # it may not be entered, or has gone
                continue
            if folder and not ENVIRONMENT.isdisjoint(entry.name for entry in found):
                continue
            for entry in found:
                looked_at += 1
                if looked_at > ENTRIES:
                    self.whole = False
                    return
                try:
                    is_folder, is_file = entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False)
                except OSError:
                    continue
                if is_folder and not entry.name.startswith(".") and entry.name not in SKIPPED:
                    waiting.append(f"{folder}{entry.name}/")
                elif is_file:
                    yield f"{folder}{entry.name}"

    def read(self, name: str) -> bytes | None:
        """What a file holds; see :func:`read`. No folder on the way was a link when the files were found."""
        return read(self.path / name)

    def has(self, name: str) -> bool:
        """Whether there is such a file, links included: nothing of it is read."""
        return (self.path / name).is_file()


def read(path: Path) -> bytes | None:
    """The content of a regular file; None if it is too large, is a link, or may not be read."""
    try:
        descriptor = files.existing(path)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as stream:
        try:
            return stream.read(LARGEST)
        except OSError:
            return None


def _is_name(part: str) -> bool:
    return part.isidentifier() and part.isprintable() and not keyword.iskeyword(part)
