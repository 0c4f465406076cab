"""Compiled modules that Python would believe and should not.

- Only the beginning was written, on a file system that is full: a Python before 3.13.1 does not get past those.
- The source was changed once more in the second in which it was compiled. A compiled module names its source by the
  second of the change and the size, so a limit that becomes another one of as many digits would go unnoticed.

Our own commands and children call :func:`repair` first of all; a process of somebody else's that imports `preflight` is
left as it is.

This module uses the standard library only, and its own compiled form fits into one block of a disk, which is written
whole or not at all.
"""

from __future__ import annotations

import os
import time
from importlib.machinery import SourceFileLoader
from types import CodeType

UNSETTLED = 2  # seconds after its last change for which a source may change unnoticed: some file systems count in twos

_get_code = SourceFileLoader.get_code
_set_data = SourceFileLoader.set_data


def repair() -> None:
    """From now on, use a module's source in these cases; may be called more than once."""
    SourceFileLoader.get_code = _get_code_of_source  # type: ignore[assignment, method-assign]
    SourceFileLoader.set_data = _set_settled_data  # type: ignore[assignment, method-assign]


def _get_code_of_source(loader: SourceFileLoader, name: str) -> CodeType | None:
    try:
        return _get_code(loader, name)
    except (EOFError, ValueError, TypeError):
        path = loader.get_filename(name)
        code: CodeType = loader.source_to_code(loader.get_data(path), path)  # raises what is wrong with the source
        from importlib.util import cache_from_source

        try:
            os.unlink(cache_from_source(path))
        except (OSError, NotImplementedError):
            pass  # the folder is read-only, say: the module is compiled anew each time
        return code


def _set_settled_data(loader: SourceFileLoader, path: str, data: bytes, *, _mode: int = 0o666) -> None:
    """Write a compiled module, unless its source has just been changed: the next import compiles it again."""
    names_the_second = data[4:8] == bytes(4)  # PEP 552: flags, and then the time of the source's change
    changed = int.from_bytes(data[8:12], "little")
    if names_the_second and time.time() - changed <= UNSETTLED:  # a change in the future counts, too
        return
    _set_data(loader, path, data, _mode=_mode)
