"""Coroutines that a suite's code calls and does not await: ``assert client.ping()`` holds, and asks nothing.

Python warns about each, which filters and options can turn off. It has no public place where that can be heard.
"""

from __future__ import annotations

import gc
import inspect
import sys
import threading
import warnings
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, CoroutineType
from typing import Any, NamedTuple

from preflight.suite import hearing

RUNNERS = frozenset(str(Path(__file__).with_name(name)) for name in ("witness.py", "answers.py"))
"""What calls requirements and probes, and so drops what their variables held."""
_DEPTH = 100
"""How many calls are kept of those that led to a coroutine's: enough to see which requirement's body it was."""
_listening: dict[int, tuple[Collection[Path], list[BaseException]]] = {}
"""The folders that count and what was noticed, for each thread that wants to know."""
_runs: list[Unawaited] = []
"""The run of this process, once it has begun."""
Place = tuple[str, str]
"""A function: its file and its name."""


class _Called(NamedTuple):
    """A coroutine that nobody has awaited: what it asks, for people, and the functions that have led to it."""

    shown: str
    through: frozenset[Place]


class Unawaited:
    """All that the code of a suite calls and does not await in one run, whenever it is noticed."""

    def __init__(self, folders: Collection[Path]) -> None:
        """``folders`` are those of the suite. From here on, Python notes where this thread's coroutines come from."""
        self._folders = folders
        self._dropped: list[_Called] = []
        _hear()
        _runs[:] = [self]
        sys.set_coroutine_origin_tracking_depth(max(sys.get_coroutine_origin_tracking_depth(), 2))

    def drop(self, coroutine: CoroutineType[Any, Any, Any], places: list[tuple[str, int]]) -> None:
        """Keep one that nobody can await any more; ``places`` are those that have called and dropped it."""
        if called := self._called(coroutine, places):
            self._dropped.append(called)

    def taken(self, held: Collection[CodeType], others: Collection[CodeType]) -> list[str]:
        """What has asked nothing until now, for people: what was dropped, and what is there and has not begun.

        ``held`` are the bodies of requirements that have held. ``others`` are those of requirements that have not, and
        may have ended before they would have awaited what they had called.
        """
        excused = {_place(code) for code in others} - {_place(code) for code in held}
        called, self._dropped = self._dropped, []
        # Whatever keeps them, be it only each other: that is quicker than to collect what nobody can reach.
        for one in [one for one in gc.get_objects() if type(one) is CoroutineType]:
            if inspect.getcoroutinestate(one) == inspect.CORO_CREATED and (of_suite := self._called(one, [])):
                called += [] if _is_promised(one) else [of_suite]
        return sorted({one.shown for one in called if excused.isdisjoint(one.through)})

    def _called(self, coroutine: CoroutineType[Any, Any, Any], places: list[tuple[str, int]]) -> _Called | None:
        code, origin = coroutine.cr_code, coroutine.cr_origin or ()
        # A plain method may have called it, as those of clients like redis.asyncio do: so its caller counts, too.
        places = [(file, line) for file, line, _ in origin[:2]] + places + [(code.co_filename, code.co_firstlineno)]
        where = next(((file, line) for file, line in places if hearing.is_below(file, self._folders)), None)
        if where is None:
            return None
        return _Called(_shown(coroutine, *where), frozenset({_place(code), *((one[0], one[2]) for one in origin)}))


def _place(code: CodeType) -> Place:
    return code.co_filename, code.co_name


def _is_promised(coroutine: object) -> bool:
    """Whether an event loop, one of a thread that hangs, say, is going to run it: nobody waits for its answer."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and any(isinstance(one, asyncio.Task) for one in gc.get_referrers(coroutine))


def _hear() -> None:
    """Have the interpreter tell us about each instead; one that has no such thing tells nobody."""
    setattr(warnings, "_warn_unawaited_coroutine", _note)  # noqa: B010  # type checkers know no such thing


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


def _note(coroutine: CoroutineType[Any, Any, Any]) -> None:
    folders, found = _listening.get(threading.get_ident(), ((), []))
    # Who has called it, and who drops it: a plain method may return it, as those of clients like redis.asyncio do.
    places = [(file, line) for file, line, _ in (coroutine.cr_origin or ())[:1]]
    dropper = sys._getframe().f_back  # None at the end of a thread
    if dropper is not None:
        places.append((dropper.f_code.co_filename, dropper.f_lineno))
    if any(hearing.is_below(file, folders) or file in RUNNERS for file, _ in places):
        where = next((place for place in places if hearing.is_below(place[0], folders)), places[0])
        found.append(AssertionError(_shown(coroutine, *where)))
    for run in _runs:
        run.drop(coroutine, places[-1:])
    # Python's own warning would show all of the calls.
    warnings.warn(
        f"coroutine '{coroutine.__qualname__}' was never awaited", RuntimeWarning, stacklevel=2, source=coroutine
    )


def _shown(coroutine: CoroutineType[Any, Any, Any], file: str, line: int) -> str:
    return f"{coroutine.__qualname__}() is not awaited, so it has asked nothing ({Path(file).name}:{line})"
