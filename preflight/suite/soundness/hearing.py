"""What fails where a requirement or a probe does not see it: in threads that it has started, and in pools and loops.

Python does not tell which thread has started another one. Probes run in parallel, so this module keeps a record of it.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from preflight.suite.soundness.sources import INSTALLED

if TYPE_CHECKING:  # few suites need it
    from multiprocessing.process import BaseProcess
    from types import FunctionType


class Hearing:
    """What one requirement's stage, or one probe, hears of."""

    def __init__(self, folders: Collection[Path]) -> None:
        """``folders`` are those of its code."""
        self._folders = folders
        self.failed: list[BaseException] = []
        """The assertions that have failed."""
        self.asked = False
        """Whether anybody has asked a pool for the result of anything that was handed to it meanwhile."""
        self.is_open = True
        self.kept: list[BaseException] = []
        """What pools have kept of anything that was handed to them meanwhile, also if it has ended later."""
        self.processes: dict[BaseProcess, FunctionType] = {}
        """The processes that it has started, and whose exit codes nobody has asked for, with what they run."""

    def judge(self) -> None:
        """Note what pools have kept, unless any result was asked for: the first good one may be enough.

        So are the processes of multiprocessing that an exception has ended, with an exit code that nobody asked for.
        """
        kept, self.kept = self.kept, []
        for error in kept if not self.asked else ():
            self.note(error)
        processes, self.processes = self.processes, {}
        for process, function in processes.items():
            popen = getattr(process, "_popen", None)  # None if it was closed
            if popen is not None and popen.poll() == 1 and is_below(function.__code__.co_filename, self._folders):
                failed = f"{function.__qualname__}() has failed in a process of its own (exit code 1)"
                self.failed.append(AssertionError(f"{failed}, and nobody has asked for its exit code"))

    def answer(self) -> None:
        """Judge, and raise the first failed assertion, if any."""
        self.judge()
        if self.failed:
            raise self.failed[0]

    def note(self, error: BaseException) -> None:
        """Note a failed assertion that came through code of these folders.

        It is not known whether anybody judges by other errors.
        """
        if isinstance(error, AssertionError | pytest.fail.Exception) and self._is_through(error):
            self.failed.append(error)

    def _is_through(self, error: BaseException) -> bool:
        files = {frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)}
        # The traceback of another process is the text of the error's cause.
        cause = str(error.__cause__)
        return any(is_below(file, self._folders) for file in files) or any(
            f'"{folder}{os.sep}' in cause for folder in self._folders
        )


_OF_THREADS: dict[int, Hearing] = {}
"""Who hears of what a thread does, by its identity: who runs in it, or who has started it, directly or not."""


@contextmanager
def heard(folders: Collection[Path], *, pools: bool = True) -> Generator[Hearing]:
    """Hear what fails meanwhile in what this thread starts; ``pools``: nobody asks pools for their results later."""
    thread, hearing = threading.get_ident(), Hearing(folders)
    before = _OF_THREADS.get(thread)
    _OF_THREADS[thread] = hearing
    try:
        yield hearing
    finally:
        if before is None:
            del _OF_THREADS[thread]
        else:
            _OF_THREADS[thread] = before
        hearing.is_open = False
        if pools:
            hearing.judge()


def current() -> Hearing | None:
    """Who hears of what this thread does; the requirement that runs hears of what nobody is known to have started.

    What goes on after the end of who has started it concerns nobody.
    """
    one = _OF_THREADS.get(threading.get_ident()) or _OF_THREADS.get(threading.main_thread().ident or 0)
    return one if one is not None and one.is_open else None


def begin() -> None:
    """Hear, from here on, how the threads of this process end: nothing public tells who has started a thread."""
    start = threading.Thread.start

    def start_heard(thread: threading.Thread) -> None:
        starter, run = current(), thread.run

        def run_heard() -> None:
            if starter is not None:
                _OF_THREADS[threading.get_ident()] = starter
            try:
                run()
            except BaseException as error:
                if hearing := current():
                    hearing.note(error)
                raise
            finally:
                _OF_THREADS.pop(threading.get_ident(), None)
                vars(thread).pop("run", None)  # the thread would keep itself

        thread.run = run_heard  # type: ignore[method-assign]
        start(thread)

    setattr(threading.Thread, "start", start_heard)  # noqa: B010  # type checkers allow no other method there


def is_below(file: str, folders: Collection[Path]) -> bool:
    """Whether a file is in one of the folders, and not a library that is installed below it."""
    for folder in folders:
        path = Path(file)
        if path.is_relative_to(folder) and INSTALLED not in path.relative_to(folder).parts:
            return True
    return False
