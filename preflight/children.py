"""The launcher's children: processes with a group, a channel and captured output of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from preflight.channel import Channel, Message

KEPT_LINES = 200
LONGEST = 1 << 16  # bytes that are kept of a line without an end


class Child:
    """A Python module that runs as a process of ours.

    Its process group is its own, so a terminal's Ctrl-C reaches only the launcher. It finds the
    descriptor of its channel in argv, and ends when that channel closes. Its output comes through a
    pipe: whoever shows it redacts it first.
    """

    on_signal: Callable[[str, int, str, str], object]
    """Called for each signal that it was sent: the signal, the PID, the module, and why."""

    def __init__(self, module: str, root: Path, environ: Mapping[str, str]) -> None:
        environ = {name: value for name, value in environ.items() if name != "PYTHONSAFEPATH"}
        environ["PYTHONUNBUFFERED"] = "1"
        self.module = module
        self.on_signal = lambda *_: None
        self.channel, theirs = Channel.pair()
        self.output, output = os.pipe()
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._rest = b""
        self._cutting = False
        self.output_closed = False
        self._closed = False
        with theirs:
            try:
                # cwd: "-m" finds our packages there, and the application its modules.
                self.process = subprocess.Popen(
                    [sys.executable, "-m", module, str(theirs.fileno())],
                    cwd=root,
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(theirs.fileno(),),
                    process_group=0,
                )
            finally:
                os.close(output)

    @property
    def pid(self) -> int:
        return self.process.pid

    def read_output(self) -> list[str]:
        """The lines that came since; call it when ``output`` is readable."""
        data = os.read(self.output, 1 << 16)
        if not data:
            self.output_closed = True
            data = b"\n" if self._rest else b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._cutting and lines:
            lines, self._cutting = lines[1:], False  # the end of a line of which enough was kept
        if self._cutting:
            self._rest = b""
        elif len(self._rest) > LONGEST:
            from preflight.redaction import CUT  # seldom

            # In pieces it would never be redacted right: what comes until its end is dropped.
            lines = [*lines, self._rest[:LONGEST] + CUT.encode()]
            self._rest, self._cutting = b"", True
        texts = [line.decode("utf-8", "replace") for line in lines]
        self.lines.extend(texts)
        return texts

    def drain_output(self) -> list[str]:
        """The lines that are left after the process has gone."""
        left: list[str] = []
        os.set_blocking(self.output, False)
        try:
            while not self.output_closed:
                left += self.read_output()
        except BlockingIOError:
            pass  # a descendant that left the group still holds the pipe: not ours to wait for
        return left

    def ended(self) -> bool:
        """Whether the process is gone; the rest of its group is then ended, and the process reaped."""
        if self.process.returncode is not None:
            return True
        try:
            # Not reaped yet: as long as the zombie is there, its group's number can be nobody else's.
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return False
        except (AttributeError, ChildProcessError):  # macOS before 3.13 has no waitid
            if self.process.poll() is None:
                return False
        self._signal_group(signal.SIGKILL)
        self.process.wait()
        if self._signal_group(0):  # it is not reaped by now: there was somebody besides the process itself
            self.on_signal("SIGKILL", self.pid, self.module, "it has ended, and what it started has not")
        return True

    def kill(self, why: str = "it is not needed any more") -> None:
        """End the whole group at once and wait for the process; more than once does no harm."""
        if not self.ended():
            self._signal_group(signal.SIGKILL)
            self.on_signal("SIGKILL", self.pid, self.module, why)
            self.process.wait()

    def _signal_group(self, number: int) -> bool:
        """Whether anybody was there to get it."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return False  # empty already (macOS says EPERM for a group of zombies)
        return True

    def close(self, why: str = "it is not needed any more") -> None:
        """End it and let go of everything; more than once does no harm."""
        self.kill(why)
        if not self._closed:
            self._closed = True
            self.channel.close()
            os.close(self.output)

    @property
    def ending(self) -> str:
        """How it ended, for people: "exit code 3", "SIGSEGV"."""
        code = self.process.returncode
        if code is None:
            return "still running"
        if code >= 0:
            return f"exit code {code}"
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"


def attach(descriptor: int, heard: Callable[[Message], None], hung_up: Callable[[], None]) -> Channel:
    """In the child: open its channel, and hear it in a thread of its own until the launcher is gone.

    ``hung_up`` is called when the channel closes; a child does not outlive its launcher.
    """
    import socket

    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    channel = Channel(sock)

    def listen() -> None:
        while True:
            try:
                message = channel.receive()
            except OSError:
                message = None
            if message is None:
                hung_up()
                return
            heard(message)

    threading.Thread(target=listen, name="launcher", daemon=True).start()
    return channel


def end_group() -> None:
    """In the child: end this process and everything that it started, at once."""
    os.killpg(0, signal.SIGKILL)
