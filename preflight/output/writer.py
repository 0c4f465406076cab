"""Writing without waiting: a thread writes, however long that takes, and the launcher goes on.

A pipe that nobody reads, a stopped terminal or a file system that hangs blocks this thread alone.
"""

from __future__ import annotations

import atexit
import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

LIMIT = 1024 * 1024  # bytes that may wait; the oldest of what may be lost makes way beyond
PATIENCE = 0.2  # seconds that writing may take before nobody waits for it any more
ROOM = 0.05  # seconds that a slow reader gets before something is lost, each time
GOODBYE = 1.0  # seconds that the end of the process waits for what may be lost

Item = TypeVar("Item")


class Writer(Generic[Item]):
    """Has a thread write one item after the other.

    Usually :meth:`put` returns when it is written, so that what goes to different places stays in order. Once that
    takes longer than PATIENCE, it does not wait any more until all is written.
    """

    def __init__(self, name: str, write: Callable[[Item], object], lost: Callable[[Item], object]) -> None:
        """``write`` writes an item, in the thread, and raises nothing. ``lost`` is told of each that is left out."""
        self._name = name
        self._write = write
        self._lost = lost
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Item, int, bool]] = deque()
        """What is to be written, with its size and whether it may be lost; the first is being written."""
        self._size = 0
        self._behind = False
        self._stuck = False
        """Whether nothing has been taken since room was last waited for."""
        self._thread: threading.Thread | None = None

    def put(self, item: Item, size: int, *, lossy: bool = True) -> None:
        """Write an item of ``size`` bytes. ``lossy``: it may be left out if nobody reads."""
        with self._changed:
            if lossy and self._size + size > LIMIT:
                self._make_room(size)
            self._waiting.append((item, size, lossy))
            self._size += size
            if self._thread is None and not self._start():
                self._size -= self._waiting.pop()[1]
                self._write(item)
                return
            self._changed.notify_all()
            if not self._behind:
                self._behind = not self.settled(PATIENCE)

    def _start(self) -> bool:
        """Start the thread. Returns False if that fails (a limit of processes): then who has something to say
        writes it, however long that takes, since saying nothing at all would be worse.
        """
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        _started.append(self)
        return True

    def _make_room(self, size: int) -> None:
        """Give the reader a moment, if it reads at all; then the oldest makes way for the newest."""
        if self._stuck or not self._changed.wait_for(lambda: self._size + size <= LIMIT, ROOM):
            self._stuck = True
        kept = [self._waiting.popleft()] if self._waiting else []  # it is being written
        while self._waiting and self._size + size > LIMIT:
            item, its_size, lossy = entry = self._waiting.popleft()
            if lossy:
                self._size -= its_size
                self._lost(item)
            else:
                kept.append(entry)
        self._waiting.extendleft(reversed(kept))

    def progressed(self) -> None:
        """In the thread: a part of the item was taken."""
        self._stuck = False

    def discard(self) -> None:
        """In the thread: leave out, and count for nothing, what waits behind the item that is being written."""
        with self._changed:
            while len(self._waiting) > 1:
                self._size -= self._waiting.pop()[1]

    @property
    def behind(self) -> bool:
        """Whether an item waits for longer than it should."""
        return self._behind

    def settled(self, patience: float | None, *, lossy: bool = True) -> bool:
        """Wait until all is written, for ``patience`` seconds at most (None: as long as it takes).

        Without ``lossy``: until all is written that may not be lost. Returns whether it is.
        """

        def is_settled() -> bool:
            return not self._waiting if lossy else all(entry[2] for entry in self._waiting)

        with self._changed:
            return self._changed.wait_for(is_settled, patience)

    def _run(self) -> None:
        # Signals are the main thread's. And a terminal that stops background jobs which write to it (stty tostop)
        # lets those write that block its signal; else it would stop all of the launcher.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            with self._changed:
                while not self._waiting:
                    self._behind = False
                    self._changed.wait()
                item = self._waiting[0][0]
            self._write(item)
            with self._changed:
                self._size -= self._waiting.popleft()[1]
                self._stuck = False
                self._changed.notify_all()


_started: list[Writer] = []  # type: ignore[type-arg]  # of whatever


@atexit.register
def _take_leave() -> None:
    """Give all that is written a last moment, together; a signal ends even that."""
    until = time.monotonic() + GOODBYE
    with contextlib.suppress(SystemExit):
        for writer in _started:
            writer.settled(max(0.0, until - time.monotonic()))
