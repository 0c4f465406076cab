"""The launcher's event loop: readable descriptors, children and signals. No asyncio: that costs 6 MiB."""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Protocol

from preflight.processes import children, signals
from preflight.processes.children import Child
from preflight.processes.signals import STOPPING

TOGETHER = 0.5
"""Seconds within which several signals are one request to end: a program that passes a terminal's Ctrl-C on (timeout,
npm) sends a second signal, and so do some service managers."""


class Readable(Protocol):
    """An object with a descriptor."""

    def fileno(self) -> int: ...


class Loop:
    """Calls the registered functions when there is something to read; gathers signals that ask to stop."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._clear)
        self.stops: list[int] = []
        """Numbers of the signals that asked to stop, in order; signals that came together count as one."""
        self._stopped_at = 0.0
        """When the latest of these signals came."""
        self._settled = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Catch signals for as long as the block runs; SIGCHLD only wakes :meth:`turn`.

        Those that asked to stop before, and that Python did not let end the command, count as well.
        """
        caught = [*STOPPING, signal.SIGCHLD]
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            caught.remove(signal.SIGHUP)  # nohup: it is to outlive its terminal
        before = {number: signal.signal(number, self._note) for number in caught}
        wakeup = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        if early := signals.swallowed():
            self.stops += early
            self._stopped_at = time.monotonic()
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                deaf = self._settled and number in STOPPING
                signal.signal(number, signal.SIG_IGN if deaf else handler)

    def settle(self) -> None:
        """The command's exit code is certain: signals that come after :meth:`running` do not change it any more.

        Nothing that may take long follows; until the block ends they are gathered as before.
        """
        self._settled = True

    def close(self) -> None:
        """Let go of the loop's own descriptors."""
        self._selector.close()
        self._woken.close()
        self._wake.close()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number not in STOPPING or (self.stops and time.monotonic() - self._stopped_at < TOGETHER):
            return
        self._stopped_at = time.monotonic()
        self.stops.append(number)

    def _clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass

    def turn(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for anything to happen, and deal with it."""
        for key, _events in self._selector.select(max(0.0, timeout)):
            if key.fd in self._selector.get_map():  # a call before this one may have taken it out
                key.data()
        children.reap_orphans()

    def stop_follows(self, child: Child) -> bool:
        """Whether what ended a child was meant for us as well: a service manager tells one process after the other.

        Waits up to TOGETHER seconds for our own signal where a child was ended by one that asks to stop.
        """
        if -(child.process.returncode or 0) in STOPPING:
            until = time.monotonic() + TOGETHER
            while not self.stops and (left := until - time.monotonic()) > 0:
                self.turn(left)
        return bool(self.stops)

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
