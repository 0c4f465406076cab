"""The command on a terminal of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

from tests.e2e.place import Place


class Pseudo:
    """The command on a terminal of its own, so that Ctrl-C is what it is for a person."""

    def __init__(
        self, place: Place, *options: str, columns: int = 100, term: str = "xterm-256color", **environ: str
    ) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "run.py", "--port", str(place.port), *options],
            cwd=place.root,
            env={name: value for name, value in place.environ.items() if name != "COLUMNS"} | {"TERM": term} | environ,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    def until_shows(self, text: str) -> None:
        while text not in self.shown:
            assert self._read(), f"it never showed {text!r}:\n{self.shown}"

    def wait(self) -> int:
        while self._read():
            pass
        return self.process.wait(30)

    def _read(self) -> bool:
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:  # Linux says EIO when the last process has closed it
            return False
        self.shown += data.decode("utf-8", "replace")
        return bool(data)

    def press(self, key: bytes) -> None:
        os.write(self.master, key)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.master)


def plain_text(shown: str) -> str:
    """What is shown without the escape codes."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
