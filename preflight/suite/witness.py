"""Has a requirement's own body run, and how did that end?"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from preflight.suite import unawaited
from preflight.suite.sources import code_of


class Witness:
    """Sees one requirement's own body run, whichever code calls it, and whatever happens to what it raises."""

    def __init__(self, item: pytest.Item) -> None:
        """``item`` as it was collected: a function that is put in its place later does not count."""
        self._code = code_of(getattr(item, "obj", None))
        self._folders = {item.path.parent, Path(self._code.co_filename if self._code else item.path).parent}
        self.entered = False
        self.raised: BaseException | None = None

    @contextmanager
    def watching(self, item: Any) -> Generator[None]:
        """Watch what pytest calls for ``item``."""
        function = item.obj
        item.obj = self._watched(function)
        try:
            yield
        finally:
            item.obj = function

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

    def _is_ours(self, error: BaseException) -> bool:
        """Whether the error came through code of the requirement's file."""
        files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
        return self._code is not None and self._code.co_filename in files

    @contextmanager
    def hearing(self) -> Generator[None]:
        """Raise the failed assertion of a thread, a fixture's say, that has ended meanwhile."""
        with self._listening() as heard:
            yield
            if heard:
                raise heard[0]

    @contextmanager
    def _listening(self) -> Generator[list[BaseException]]:
        hook = threading.excepthook
        heard: list[BaseException] = []

        def note(ending: threading.ExceptHookArgs) -> None:
            error = ending.exc_value
            # It is not known whether the requirement judges by other errors.
            if isinstance(error, AssertionError | pytest.fail.Exception) and self._is_ours(error):
                heard.append(error)
            hook(ending)

        threading.excepthook = note
        try:
            with unawaited.noticed(self._folders, heard):
                yield heard
        finally:
            threading.excepthook = hook

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
