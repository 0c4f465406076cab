"""The files in the state folder: no other module spells their names.

Everything here is for this user alone: folders have mode 0700, files 0600. What is being written has a name that
begins with a dot.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from preflight import files

_REPORT = "report.json"
_IMPORTS = "imports.json"
_AUDIT = "audit.log"
_SESSIONS = "sessions.sqlite"
_DATABASE = "database.json"
_FILES = ("report.", _IMPORTS, _AUDIT, _SESSIONS, _DATABASE)
"""How the names of files begin: those of corrupt files, rotated audits and SQLite's own files are longer."""

_HISTORY = "history"
_TOLD = "told"
_RUNTIME = "runtime"
_FOLDERS = (_HISTORY, _TOLD, _RUNTIME)


class StateFolder(NamedTuple):
    """The paths below one state folder. Only :meth:`make` and what follows it look at the disk."""

    path: Path

    @property
    def report(self) -> Path:
        """The report of the last run, from whichever process."""
        return self.path / _REPORT

    @property
    def history(self) -> Path:
        """The folder of past runs."""
        return self.path / _HISTORY

    @property
    def imports(self) -> Path:
        """The state of the dependencies when all of them could be imported."""
        return self.path / _IMPORTS

    @property
    def audit(self) -> Path:
        """The audit, whose older files are beside it."""
        return self.path / _AUDIT

    @property
    def sessions(self) -> Path:
        """The chat's sessions."""
        return self.path / _SESSIONS

    @property
    def database(self) -> Path:
        """When the fleet's database was last reached from here."""
        return self.path / _DATABASE

    @property
    def runtime(self) -> Path:
        """The runtime folder that is used where no other can be."""
        return self.path / _RUNTIME

    def told(self, host: str, port: int | str) -> Path:
        """What people were told of the server with this address."""
        return self.path / _TOLD / f"{host}-{port}.json"

    def make(self) -> None:
        """Make the folder unless it is there. Raises OSError."""
        if not self.path.is_dir():
            files.own(self.path)

    def has_nothing_else(self) -> bool:
        """Whether every name in the folder is one of ours; False if the folder cannot be listed."""
        try:
            return all(map(_is_ours, os.listdir(self.path)))
        except PermissionError:
            return False

    def kept(self) -> Iterator[tuple[Path, int]]:
        """The existing files and folders of ours, with their modes; links and unfinished files are left out.

        Nothing if the folder cannot be listed.
        """
        try:
            names = sorted(os.listdir(self.path))
        except OSError:
            return
        for name in names:
            if name.startswith(".") or not _is_ours(name):
                continue
            try:
                status = (self.path / name).lstat()
            except FileNotFoundError:
                continue  # a run has replaced or removed it meanwhile
            if stat.S_ISDIR(status.st_mode) if name in _FOLDERS else stat.S_ISREG(status.st_mode):
                yield self.path / name, stat.S_IMODE(status.st_mode)


def _is_ours(name: str) -> bool:
    return name.startswith((".", *_FILES)) or name in _FOLDERS
