"""The modules of a project that a process has imported, and whether their files are still the same."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

Stamp = tuple[str, int, int]
"""Tells a file from what it was before: its path, when it was changed, and its size."""


def imported(root: Path) -> set[str]:
    """The files below ``root`` that this process has imported, but for installed packages."""
    files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    return {file for file in files if file.startswith(f"{root}{os.sep}") and "site-packages" not in file}


def stamps(files: Iterable[str]) -> list[Stamp]:
    """The files as they are now, in order."""
    return sorted(map(_stamp, files))


def _stamp(file: str) -> Stamp:
    try:
        status = os.stat(file)
    except OSError:
        return file, 0, 0
    return file, status.st_mtime_ns, status.st_size
