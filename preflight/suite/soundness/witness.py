"""Has a requirement's own body run, and how did that end?"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from _pytest.unittest import TestCaseFunction  # nothing public names it

from preflight.project import Scope
from preflight.suite.soundness import hearing, unawaited
from preflight.suite.soundness.sources import code_of


class Witness:
    """Sees one requirement's own body run, whichever code calls it, and whatever happens to what it raises."""

    def __init__(self, item: pytest.Item, scopes: Iterable[Scope]) -> None:
        """``item`` as it was collected: a function that is put in its place later does not count.

        ``scopes`` are the parts of the suite.
        """
        self._code = code_of(getattr(item, "obj", None))
        self._folders = {
            Path(self._code.co_filename if self._code else item.path).parent,
            *(scope.folder for scope in scopes if item.path.is_relative_to(scope.folder)),
            item.path.parent,
        }
        self.entered = False
        self.raised: BaseException | None = None

    @contextmanager
    def watching(self, item: Any) -> Generator[None]:
        """Watch what pytest calls for ``item``."""
        function = item.obj
        item.obj = watched = self._watched(function)
        case = getattr(item, "instance", None) if isinstance(item, TestCaseFunction) else None
        if case is not None:
            vars(case)[item.name] = watched  # an asynchronous case is called by its name there, and not by pytest
        try:
            yield
        finally:
            item.obj = function
            if case is not None:
                vars(case).pop(item.name, None)  # pytest removes what it has put there itself

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call_async(*args: Any, **options: Any) -> Any:
                with self._seeing():
                    _see_that_it_judges(await function(*args, **options))

            return call_async

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            with self._seeing():
                returned = function(*args, **options)
                if hasattr(returned, "__await__") or hasattr(returned, "__aiter__"):
                    return returned  # for a plugin, or pytest, to handle
                _see_that_it_judges(returned)
                return None

        return call

    @contextmanager
    def hearing(self, *, pools: bool = True) -> Generator[None]:
        """Raise the assertion that has failed meanwhile in a thread, a task or a pool, such as one of a fixture.

        ``pools``: nobody asks pools for their results later.
        """
        with self._listening(pools=pools) as heard:
            yield
        if heard:
            raise heard[0]

    @contextmanager
    def _listening(self, *, pools: bool = True) -> Generator[list[BaseException]]:
        with hearing.heard(self._folders, pools=pools) as heard, unawaited.noticed(self._folders, heard.failed):
            yield heard.failed

    @contextmanager
    def _seeing(self) -> Generator[None]:
        before, of_threads = sys.getprofile(), threading.getprofile()

        def see(frame: FrameType, event: str, _argument: object) -> None:
            if event == "call" and frame.f_code is self._code:
                self.entered = True
                sys.setprofile(None)  # of this thread; from here on it costs nothing

        threading.setprofile(see)
        sys.setprofile(see)
        try:
            with self._listening() as heard:
                yield
            if heard:
                self.raised = heard[-1]
        except BaseException as error:
            self.raised = error
            raise
        finally:
            # A profiler that is written in C cannot be set again from here.
            sys.setprofile(before if callable(before) else None)
            threading.setprofile(of_threads)


def _see_that_it_judges(returned: object) -> None:
    """Raises AssertionError for a requirement that returns its answer: nobody looks at that."""
    if returned is not None:
        answer = returned if isinstance(returned, bool | int | float) else f"a value of type {type(returned).__name__}"
        raise AssertionError(
            f"it returned {answer}, and a return value is not an answer: a requirement answers with assert"
        )
