"""Coroutines that a suite's code calls and does not await: ``assert client.ping()`` holds, and asks nothing.

Python warns about each of them, but filters and options can turn that off, and no public interface reports them.
"""

from __future__ import annotations

import gc
import inspect
import re
import sys
import threading
import warnings
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from types import CoroutineType
from typing import Any

from preflight.suite.soundness import hearing

_SUITE = Path(__file__).parent.parent
RUNNERS = frozenset(str(_SUITE / name) for name in ("soundness/witness.py", "probes/answers.py"))
"""What calls requirements and probes, and so drops what their variables held."""
NOT_AWAITED = "is not awaited, so it has asked nothing"
_DEPTH = 2
"""How many calls are kept of those that led to a coroutine's: each one costs every call of a coroutine some time."""
_listening: dict[int, tuple[Collection[Path], list[BaseException]]] = {}
"""The folders that count and what was noticed, for each thread that wants to know."""
_collecting: set[int] = set()
"""The threads in which Python is collecting garbage: the code that runs there at that moment has dropped nothing."""
_runs: list[Unawaited] = []
"""The run of this process, once it has begun."""


class Unawaited:
    """All that the code of a suite calls and does not await in one run, whenever it is noticed."""

    def __init__(self, folders: Collection[Path]) -> None:
        """``folders`` are those of the suite. From here on, Python notes where this thread's coroutines come from."""
        self._folders = folders
        self._dropped: list[str] = []
        _hear()
        _runs[:] = [self]
        sys.set_coroutine_origin_tracking_depth(max(sys.get_coroutine_origin_tracking_depth(), _DEPTH))

    def drop(self, coroutine: CoroutineType[Any, Any, Any], places: list[tuple[str, int]]) -> None:
        """Keep one that nobody can await any more; ``places`` are those that have called and dropped it."""
        self._dropped += self._of_suite(coroutine, places)

    def taken(self) -> list[str]:
        """What has asked nothing until now, for people: what was dropped, and what is there and has not begun."""
        called, self._dropped = self._dropped, []
        # Whatever keeps them, be it only each other: that is quicker than to collect what nobody can reach.
        for one in [one for one in gc.get_objects() if type(one) is CoroutineType]:
            if inspect.getcoroutinestate(one) == inspect.CORO_CREATED and not _is_promised(one):
                called += self._of_suite(one, _origin(one, 1))  # a library may keep what it has called itself
        return sorted(set(called))

    def _of_suite(self, coroutine: CoroutineType[Any, Any, Any], places: list[tuple[str, int]]) -> list[str]:
        code = coroutine.cr_code
        places = [*places, (code.co_filename, code.co_firstlineno)]
        where = next((place for place in places if hearing.is_below(place[0], self._folders)), None)
        return [_shown(coroutine, *where)] if where is not None else []


def _is_promised(coroutine: object) -> bool:
    """Whether an event loop, one of a thread that hangs, say, is going to run it: nobody waits for its answer."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and any(isinstance(one, asyncio.Task) for one in gc.get_referrers(coroutine))


def _hear() -> None:
    """Have the interpreter tell us about each instead; one that has no such thing tells nobody."""
    setattr(warnings, "_warn_unawaited_coroutine", _note)  # noqa: B010  # type checkers know no such thing
    if _collect not in gc.callbacks:
        gc.callbacks.append(_collect)


def _collect(phase: str, _info: dict[str, int]) -> None:
    (_collecting.add if phase == "start" else _collecting.discard)(threading.get_ident())


@contextmanager
def noticed(folders: Collection[Path], found: list[BaseException]) -> Generator[None]:
    """Add what code below these folders calls in this thread meanwhile and does not await, as errors to raise."""
    thread, depth = threading.get_ident(), sys.get_coroutine_origin_tracking_depth()
    before = _listening.get(thread)
    _hear()
    sys.set_coroutine_origin_tracking_depth(max(depth, _DEPTH))
    _listening[thread] = folders, found
    try:
        yield
    finally:
        sys.set_coroutine_origin_tracking_depth(depth)
        if before is None:
            del _listening[thread]
        else:
            _listening[thread] = before


def forgo(coroutine: object) -> None:
    """Note the coroutine of a task that its loop cancels at its end, and those that it awaits: nobody waits for them.

    One that has begun counts if it has an assertion ahead; it may be a server for what is asked.
    """
    while isinstance(coroutine, CoroutineType):
        if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED or _has_to_assert(coroutine):
            _tell(coroutine, [], 1)  # a requirement does not answer for the tasks of a library that it calls
        coroutine = coroutine.cr_await


def _has_to_assert(coroutine: CoroutineType[Any, Any, Any]) -> bool:
    try:
        lines, first = inspect.getsourcelines(coroutine.cr_code)
    except (OSError, SyntaxError):
        return False
    ahead = lines[coroutine.cr_frame.f_lineno - first + 1 :] if coroutine.cr_frame is not None else []
    return any(re.match(r"\s*assert\b", line) for line in ahead)


def _note(coroutine: CoroutineType[Any, Any, Any]) -> None:
    # None at the end of a thread, too.
    dropper = None if threading.get_ident() in _collecting else sys._getframe().f_back
    dropped = [(dropper.f_code.co_filename, dropper.f_lineno)] if dropper is not None else []
    _tell(coroutine, dropped, 2)
    # Python's own warning would show all of the calls.
    warnings.warn(
        f"coroutine '{coroutine.__qualname__}' was never awaited", RuntimeWarning, stacklevel=2, source=coroutine
    )


def _tell(coroutine: CoroutineType[Any, Any, Any], dropped: list[tuple[str, int]], depth: int) -> None:
    """Tell the requirement of this thread, and the run, of a coroutine that nobody awaits, if it is their code's.

    ``depth`` calls of those that have led to it are looked at.
    """
    thread = threading.get_ident()
    folders, found = _listening.get(thread, ((), []))
    # Who has called it, and who drops it: a plain method may return it, as those of clients like redis.asyncio do.
    places = _origin(coroutine, 1) + dropped
    # Garbage may be an earlier requirement's: of that, the whole run is told.
    if thread not in _collecting and any(hearing.is_below(file, folders) or file in RUNNERS for file, _ in places):
        where = next((place for place in places if hearing.is_below(place[0], folders)), places[0])
        found.append(AssertionError(_shown(coroutine, *where)))
    for run in _runs:
        run.drop(coroutine, _origin(coroutine, depth) + dropped)


def _origin(coroutine: CoroutineType[Any, Any, Any], depth: int) -> list[tuple[str, int]]:
    """The file and line that has called it, and those that have led to that."""
    return [(file, line) for file, line, _ in (coroutine.cr_origin or ())[:depth]]


def _shown(coroutine: CoroutineType[Any, Any, Any], file: str, line: int) -> str:
    return f"{coroutine.__qualname__}() {NOT_AWAITED} ({Path(file).name}:{line})"
