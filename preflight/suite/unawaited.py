"""Coroutines that a suite's code calls and does not await: ``assert client.ping()`` holds, and asks nothing.

Python warns about each, which filters and options can turn off. It has no public place where that can be heard.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from types import CoroutineType
from typing import Any

from preflight.suite.sources import INSTALLED

_WARN = getattr(warnings, "_warn_unawaited_coroutine", None)
"""What the interpreter calls for each; None where it has no such thing."""
RUNNERS = frozenset(str(Path(__file__).with_name(name)) for name in ("witness.py", "answers.py"))
"""What calls requirements and probes, and so drops what their variables held."""
_listening: dict[int, tuple[Collection[Path], list[BaseException]]] = {}
"""The folders that count and what was noticed, for each thread that wants to know."""


@contextmanager
def noticed(folders: Collection[Path], found: list[BaseException]) -> Generator[None]:
    """Add what code below these folders calls in this thread meanwhile and does not await, as errors to raise."""
    thread, depth = threading.get_ident(), sys.get_coroutine_origin_tracking_depth()
    before = _listening.get(thread)
    if _WARN is not None:
        setattr(warnings, "_warn_unawaited_coroutine", _note)  # noqa: B010  # type checkers know no such thing
    sys.set_coroutine_origin_tracking_depth(max(depth, 1))
    _listening[thread] = folders, found
    try:
        yield
    finally:
        sys.set_coroutine_origin_tracking_depth(depth)
        if before is None:
            del _listening[thread]
        else:
            _listening[thread] = before


def _note(coroutine: CoroutineType[Any, Any, Any]) -> None:
    folders, found = _listening.get(threading.get_ident(), ((), []))
    # Who has called it, and who drops it: a plain method may return it, as those of clients like redis.asyncio do.
    places = [(file, line) for file, line, _ in (coroutine.cr_origin or ())[:1]]
    dropper = sys._getframe().f_back  # None at the end of a thread
    if dropper is not None:
        places.append((dropper.f_code.co_filename, dropper.f_lineno))
    if any(_is_below(file, folders) or file in RUNNERS for file, _ in places):
        file, line = next(((file, line) for file, line in places if _is_below(file, folders)), places[0])
        where = f"{Path(file).name}:{line}"
        found.append(AssertionError(f"{coroutine.__qualname__}() is not awaited, so it has asked nothing ({where})"))
    if _WARN is not None:
        _WARN(coroutine)


def _is_below(file: str, folders: Collection[Path]) -> bool:
    """Whether a file is in one of the folders, and not a library that is installed below it."""
    for folder in folders:
        path = Path(file)
        if path.is_relative_to(folder) and INSTALLED not in path.relative_to(folder).parts:
            return True
    return False
