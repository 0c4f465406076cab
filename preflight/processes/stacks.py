"""Where a process that hangs stands: its threads, although none of them answers, and what its event loop awaits.

faulthandler writes the threads' stacks when a signal asks for them. While the event loop runs, none of these stacks
shows what a coroutine waits for, so a thread of its own writes that. Both go to the process's output, among other
lines; the reader tells them apart.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio

    from preflight.processes.children import Child
    from preflight.processes.loop import Loop

# Real-time signals have no other use. Where there are none, an application may use SIGUSR2, and then gets it.
SIGNAL = signal.SIGRTMAX - 1 if hasattr(signal, "SIGRTMAX") else signal.SIGUSR2
# faulthandler writes a hundred threads and leaves out the oldest: the main one, which has a signal of its own.
MORE = "..."  # faulthandler's line in place of the rest
MAIN_SIGNAL = signal.SIGRTMAX - 2 if hasattr(signal, "SIGRTMAX") else None
PATIENCE = 3.0  # seconds that a process which hangs gets to write them
QUIET = 0.5  # seconds without another line after which they are all there
MOST = 60  # lines that are shown
TASKS = 20  # tasks that are written
HEAD = re.compile(r"(?:(?:Current thread 0x|Thread 0x|Task ).{1,200}|Stack) \(most recent call first\):$")
# A traceback of Python's own has a comma before "in".
FRAME = re.compile(r'  (?:File "([^"]{1,600})", line [0-9?]{1,12} in .{1,600}|\.\.\.|<no Python frame>)$')
# Python's own by their whole path, since an application's module may be called pdb, too; others by their folder.
DEBUGGERS = tuple(os.path.join(os.path.dirname(os.__file__), name) for name in ("bdb.py", "pdb.py"))
DEBUGGERS_FOLDERS = ("/pydevd", "/debugpy/", "/_pydevd")


class Standing(Protocol):
    """A worker that can be asked where it stands."""

    child: Child
    started: bool
    stacks: list[str] | None
    """The lines that it has written so far, while it is asked."""

    def write_tasks(self) -> None: ...


def register() -> None:
    """In the process: write the threads' stacks to standard error, as that is now, whenever the signal comes."""
    import faulthandler

    output = os.dup(2)
    faulthandler.register(SIGNAL, file=output, all_threads=True, chain=False)
    if MAIN_SIGNAL is not None:
        faulthandler.register(MAIN_SIGNAL, file=output, all_threads=False, chain=False)
    # The parent may have blocked all signals that there are.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [one for one in (SIGNAL, MAIN_SIGNAL) if one is not None])


def write_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """In the process, from any thread: write to standard error what the tasks of a loop that turns wait for."""
    import asyncio

    try:
        tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
    except RuntimeError:
        return  # there are so many, or so many new ones, that they cannot be listed from another thread
    lines = []
    for task in tasks[:TASKS]:
        lines += [f"Task {task.get_name()[:100]!r} (most recent call first):", *reversed(list(_awaited(task)))]
    os.write(2, "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))


def _awaited(task: asyncio.Task[Any]) -> Iterator[str]:
    """The frames of its coroutines, the outermost first."""
    waiting: Any = task.get_coro()
    while waiting is not None:
        for frame_of, awaits in (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await")):
            frame = getattr(waiting, frame_of, None)
            if frame is not None:
                yield f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}'
                waiting = getattr(waiting, awaits)
                break
        else:
            return  # a future, or something written in C


def ask(pid: int) -> None:
    """Have a child that is not reaped yet write its stacks, and then go on if it was stopped."""
    for number in (SIGNAL, signal.SIGCONT):
        os.kill(pid, number)


def gather(worker: Standing, loop: Loop) -> list[str]:
    """In the launcher: ask a worker where it stands and wait for that; empty if it does not say so in time.

    The loop goes on meanwhile, and reads the worker's output where it is watched.
    """
    found: list[str] = []
    worker.stacks = found
    try:
        if not worker.started:
            worker.write_tasks()
        ask(worker.child.pid)
        _read(worker, loop, found)
        if MAIN_SIGNAL is not None and MORE in found:
            # Only now: one handler would interrupt the other in the middle of a line.
            os.kill(worker.child.pid, MAIN_SIGNAL)
            _read(worker, loop, found)
        return found
    except OSError:
        return []  # it has changed its user: our signals do not reach it
    finally:
        worker.stacks = None


def _read(worker: Standing, loop: Loop, found: list[str]) -> None:
    """Wait until more lines have come, and then no more of them."""
    before = count = len(found)
    end, quiet_at = time.monotonic() + PATIENCE, 0.0
    while (now := time.monotonic()) < end and not worker.child.output_closed:
        if count > before and now > quiet_at:
            return
        # A process that is stopped for what it does (reading from a terminal, say) stops again in the middle of a line.
        os.kill(worker.child.pid, signal.SIGCONT)
        loop.turn(0.1)
        if len(found) > count:
            count, quiet_at = len(found), time.monotonic() + QUIET


def is_line(line: str) -> bool:
    """Whether a line of output is one of a stack's."""
    return line == MORE or HEAD.match(line) is not None or FRAME.match(line) is not None


def in_debugger(lines: Iterable[str]) -> bool:
    """Whether any of these threads is in a Python debugger's hands, which no system call tells."""
    files = [found[1] or "" for line in lines if (found := FRAME.match(line)) is not None]
    return any(file in DEBUGGERS or any(folder in file for folder in DEBUGGERS_FOLDERS) for file in files)


def shown(lines: Iterable[str]) -> list[str]:
    """Lines for a banner."""
    arrangement = arranged(lines)
    return ["Where it hangs:", *arrangement] if arrangement else ["It did not report where it hangs."]


def arranged(lines: Iterable[str]) -> list[str]:
    """The lines to show, and not too many: the main thread, which comes last in them, tasks, other threads."""
    threads: list[list[str]] = []
    tasks: list[str] = []
    part = tasks
    for line in lines:
        if HEAD.match(line):
            part = tasks
            if not line.startswith("Task"):
                threads.append(part := [])
        part.append(line)
    parts = [*threads[-1:], tasks, *reversed(threads[:-1])]
    found = [line for part in parts for line in part]
    return found if len(found) <= MOST else [*found[: MOST - 1], f"and {len(found) - MOST + 1} more lines"]
