"""The launcher's event loop: readable descriptors, children and signals. No asyncio: that costs 6 MiB."""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Protocol

from preflight.children import Child

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Readable(Protocol):
    """Something with a descriptor."""

    def fileno(self) -> int: ...


class Loop:
    """Calls whoever registered when there is something to read; gathers signals that ask to stop."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._clear)
        self.stops: list[int] = []
        """Numbers of the signals that asked to stop, in their order."""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Catch signals for as long as the block runs; SIGCHLD only wakes :meth:`turn`."""
        caught = [*STOPPING, signal.SIGCHLD]
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            caught.remove(signal.SIGHUP)  # nohup: it is to outlive its terminal
        before = {number: signal.signal(number, self._note) for number in caught}
        wakeup = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Let go of the loop's own descriptors."""
        self._selector.close()
        self._woken.close()
        self._wake.close()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number in STOPPING:
            self.stops.append(number)

    def _clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass

    def turn(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for anything to happen, and deal with it."""
        for key, _events in self._selector.select(max(0.0, timeout)):
            if key.fd in self._selector.get_map():  # an earlier one in this turn may have taken it out
                key.data()

    def watch(self, source: Readable | int, readable: Callable[[], object]) -> None:
        """Call ``readable`` whenever ``source`` is."""
        self._selector.register(source, selectors.EVENT_READ, readable)

    def unwatch(self, source: Readable | int) -> None:
        """Stop watching; more than once does no harm."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(source)

    def watch_child(self, child: Child, heard: Callable[[], object], printed: Callable[[], object]) -> None:
        """Watch a child's channel and output until each of them closes."""

        def on_channel() -> None:
            heard()
            if child.channel.closed:
                self.unwatch(child.channel)

        self.watch(child.channel, on_channel)
        self.watch_output(child, printed)

    def watch_output(self, child: Child, printed: Callable[[], object]) -> None:
        """Watch a child's output alone, until it closes."""

        def on_output() -> None:
            printed()
            if child.output_closed:
                self.unwatch(child.output)

        self.watch(child.output, on_output)

    def unwatch_child(self, child: Child) -> None:
        """Stop watching a child, before it is closed."""
        self.unwatch(child.channel)
        self.unwatch(child.output)
