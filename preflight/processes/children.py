"""The launcher's children: processes with a group, a channel and captured output of their own."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import termios
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from preflight.processes import interpreter, signals
from preflight.processes.channel import Channel, Message

READ = 8 * 1024  # bytes of output in one look, which may be as many lines: each takes time, and signals wait meanwhile
KEPT_LINES = 200
ROUNDS = 5  # looks at a group whose processes may have forked while they were killed
REAP = 2.0  # seconds that a process which was killed may take to end before nobody waits for it any more
NICER = 10  # by which a child that steps back is nicer than we are: a tenth of our share of a busy processor
KEPT = 1024 * 1024  # characters of the kept lines together
# The beginning of a longer line is kept. Less of it is shown: a secret across the cut is then redacted whole.
LONGEST_LINE = 192 * 1024


_unreaped: set[int] = set()
"""PIDs of children whose exit status other code here is going to ask for."""


def spare(pid: int, *, ended: bool = False) -> None:
    """Leave a child of other code to that code; ``ended``: its exit status was asked for."""
    _unreaped.discard(pid) if ended else _unreaped.add(pid)


def reap_orphans() -> None:
    """As PID 1: reap the processes whose parents died before them; they are ours then, and nobody else reaps them.

    Call it in the thread that starts children. Our own children are left to the code that asks how they ended.
    """
    if os.getpid() != 1:
        return
    with contextlib.suppress(ChildProcessError):  # there is no child at all
        while dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if dead.si_pid in _unreaped:
                return  # its status is asked for in a moment; the others come after that
            os.waitpid(dead.si_pid, os.WNOHANG)


class Child:
    """A Python module that runs as a process of ours.

    Its process group is its own, so a terminal's Ctrl-C reaches only the launcher. It finds the
    descriptor of its channel in argv, and ends when that channel closes. Its output comes through a
    pipe: the code that shows it redacts it first.
    """

    on_signal: Callable[[str, int, str, str], object]
    """Called for each signal that it was sent: the signal, the PID, the module, and why."""

    def __init__(
        self,
        module: str,
        folder: Path,
        environ: Mapping[str, str],
        *,
        distrusts_caches: bool = False,
        steps_back: bool = False,
        descriptors: int = 0,
    ) -> None:
        """The child works in ``folder``. interpreter.py makes ``environ``, and explains ``distrusts_caches``.

        ``steps_back``: this process, and all that it will start, gives way to us and to others. At most so many
        ``descriptors`` may come with one of its messages. Raises OSError if no process can be started, see
        :func:`shortage`.
        """
        self.module = module
        self.on_signal = lambda *_: None
        self.channel, theirs = Channel.pair(descriptors=descriptors)
        self.lines: deque[str] = deque()
        """The end of its output."""
        self._kept = 0
        self._rest = b""
        self._skips = False  # the rest of a line that was too long
        self.output_closed = False
        self._closed = False
        options = interpreter.options(folder, distrusts_caches=distrusts_caches)
        command = [sys.executable, *options, "-m", module, str(theirs.fileno())]
        with theirs:
            try:
                self.process = self._spawn(command, folder, environ, theirs.fileno())
            except BaseException:
                self.channel.close()
                raise
        _unreaped.add(self.pid)
        if steps_back:
            own = os.getpriority(os.PRIO_PROCESS, 0)
            with contextlib.suppress(OSError):  # it has ended already, or this system does not let us
                os.setpriority(os.PRIO_PROCESS, self.pid, min(own + NICER, 19))

    def _spawn(
        self, command: list[str], folder: Path, environ: Mapping[str, str], inherited: int
    ) -> subprocess.Popen[bytes]:
        self.output, output = os.pipe()
        try:
            return subprocess.Popen(
                command,
                cwd=folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(inherited,),
                process_group=0,
            )
        except BaseException:
            os.close(self.output)
            raise
        finally:
            os.close(output)

    @property
    def pid(self) -> int:
        return self.process.pid

    def read_output(self) -> list[str]:
        """The lines that came since; call it when ``output`` is readable."""
        data = os.read(self.output, READ)
        if not data:
            self.output_closed = True
            data = b"\n" if self._rest else b""
        if self._skips:
            _, end, data = data.partition(b"\n")
            self._skips = not end
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            lines, self._rest, self._skips = [*lines, self._rest], b"", True
        texts = [line[:LONGEST_LINE].decode("utf-8", "replace") for line in lines]
        self.lines.extend(texts)
        self._kept += sum(map(len, texts))
        while len(self.lines) > KEPT_LINES or self._kept > KEPT:
            self._kept -= len(self.lines.popleft())
        return texts

    def drain_output(self) -> list[str]:
        """The lines that are there by now: the rest of a child that has ended, or is about to be ended."""
        left: list[str] = []
        os.set_blocking(self.output, False)
        # It may go on writing, and so may a descendant that left the group: neither is ours to wait for.
        looks = self._waiting() // READ + 2  # what there is, and its end
        with contextlib.suppress(BlockingIOError):
            while looks and not self.output_closed:
                left += self.read_output()
                looks -= 1
        return left

    def _waiting(self) -> int:
        """Bytes of its output that are not read yet."""
        there = array.array("i", [0])
        fcntl.ioctl(self.output, termios.FIONREAD, there)
        return there[0]

    def ended(self) -> bool:
        """Whether the process has ended; the rest of its group is then killed, and the process reaped."""
        if self.process.returncode is not None:
            return True
        try:
            # Not reaped yet: as long as the zombie is there, no other group can get its number.
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return False
        except (AttributeError, ChildProcessError):  # macOS before 3.13 has no waitid
            if self.process.poll() is None:
                return False
        left = self._kill_group()
        self._reap()
        if left or (left is None and self._signal_group(0)):  # not reaped yet: there were other processes in the group
            self.on_signal("SIGKILL", self.pid, self.module, "it has ended, but what it started has not")
        return True

    def kill(self, why: str = "it is not needed any more") -> None:
        """Kill the whole group and wait for the process; may be called more than once."""
        if not self.ended():
            self._kill_group()
            with contextlib.suppress(ProcessLookupError):  # it may have left its group
                os.kill(self.pid, signal.SIGKILL)
            self.on_signal("SIGKILL", self.pid, self.module, why)
            self._reap()

    def _reap(self) -> None:
        try:
            self.process.wait(REAP)
        except subprocess.TimeoutExpired:
            # A tracer that does not wait for it hides its end; or the kernel has something to finish.
            self.process.returncode = -signal.SIGKILL
        _unreaped.discard(self.pid)

    def _kill_group(self) -> bool | None:
        """Kill the group, but for what frees shared memory behind it, and ends by itself when all others have gone.

        Returns whether there were others beside this process; None if that was not looked at.
        """
        if not any(_cleans_up(pid) for pid in _members(self.pid) if pid != self.pid):
            self._signal_group(signal.SIGKILL)
            return None
        killed: set[int] = set()
        for _ in range(ROUNDS):  # each may have forked meanwhile
            others = {
                pid for pid in _members(self.pid) if pid not in killed and (pid == self.pid or not _cleans_up(pid))
            }
            for pid in others:
                with contextlib.suppress(OSError):  # it has ended
                    os.kill(pid, signal.SIGKILL)
            if not others:
                break
            killed |= others
        return bool(killed - {self.pid})

    def _signal_group(self, number: int) -> bool:
        """Send a signal to the group; returns whether anybody was there to get it."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return False  # empty already (macOS says EPERM for a group of zombies)
        return True

    def close(self, why: str = "it is not needed any more") -> None:
        """Kill it and close everything; may be called more than once."""
        self.kill(why)
        if not self._closed:
            self._closed = True
            self.channel.close()
            os.close(self.output)

    def let_go(self, patience: float = 0.0) -> None:
        """Close its channel and its output, and let it end by itself: it has been told everything.

        ``patience``: seconds that its end is waited for.
        """
        if not self._closed:
            self._closed = True
            self.channel.close()
            os.close(self.output)
        if patience:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        self.process.returncode = self.process.poll() or 0  # nobody here asks how it ends
        _unreaped.discard(self.pid)

    @property
    def ending(self) -> str:
        """How the process ended, for people: "exit code 3", "SIGSEGV"."""
        code = self.process.returncode
        if code is None:
            return "still running"
        if code >= 0:
            return f"exit code {code}"
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"


def _members(group: int) -> list[int]:
    """The processes of a group, where /proc tells; those that have ended and are not reaped are among them."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                if os.getpgid(int(name)) == group:
                    found.append(int(name))
    return found


def _cleans_up(pid: int) -> bool:
    """Whether a process does nothing but free the shared memory of others once they have gone."""
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return b"resource_tracker import main" in command or command.startswith(b"torch_shm_manager")
    return False


_LIMITS = {
    errno.EAGAIN: "the user or the container has reached its limit on processes: ulimit -u, pids.max",
    errno.ENOMEM: "there is not enough memory",
    errno.EMFILE: "the launcher has reached its limit on open files: ulimit -n",
    errno.ENFILE: "the machine has reached its limit on open files: fs.file-max",
}


def shortage(error: OSError) -> str:
    """Why no process could be started, for people, in one line; with the limit that may be the reason."""
    limit = _LIMITS.get(error.errno or 0)
    why = error.strerror or type(error).__name__
    return f"no process can be started: {why}" + (f" ({limit})" if limit else "")


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
    signals.end_group()
