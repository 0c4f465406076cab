"""Compiled modules of which only the beginning was written.

A Python before 3.13.1 leaves those on a file system that is full, and does not get past them any more. Our own commands
and children call :func:`repair` first of all; a process of somebody else's that imports `preflight` is left as it is.

The standard library only, and a compiled form that fits into one block of a disk: that is there or is not.
"""

from __future__ import annotations

import os
from importlib.machinery import SourceFileLoader
from types import CodeType

_get_code = SourceFileLoader.get_code


def repair() -> None:
    """From now on take a module's source where its compiled file is not whole; more than once does no harm."""
    SourceFileLoader.get_code = _get_code_of_source  # type: ignore[assignment, method-assign]


def _get_code_of_source(loader: SourceFileLoader, name: str) -> CodeType | None:
    try:
        return _get_code(loader, name)
    except (EOFError, ValueError, TypeError):
        path = loader.get_filename(name)
        code: CodeType = loader.source_to_code(loader.get_data(path), path)  # or it says what is wrong with that
        from importlib.util import cache_from_source

        try:
            os.unlink(cache_from_source(path))
        except (OSError, NotImplementedError):
            pass  # it is read-only, say: compiled anew each time
        return code
