"""Children of a launcher that are no processes: channel and output are real, what is behind them is a test's script."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from preflight.processes.channel import Channel, Message
from preflight.processes.loop import Loop

PID = 2**31 - 2  # nobody's: it is larger than any that Linux gives


class FakeChild:
    """What a launcher sees of a child; :attr:`far` is the child's end of the channel."""

    def __init__(self, module: str, loop: Loop, descriptors: int) -> None:
        self.module = module
        self.pid = PID
        self.process = SimpleNamespace(returncode=None)
        self.on_signal: Callable[[str, int, str, str], object] = lambda *_: None
        self.channel, theirs = Channel.pair(descriptors=descriptors)
        self.far = Channel(theirs)
        self.output, self._far_output = os.pipe()
        self.output_closed = self.closed = False
        self.lines: deque[str] = deque()
        self.heard: list[Message] = []
        self._loop = loop

    def say(self, kind: str, descriptors: tuple[int, ...] = (), **data: Any) -> None:
        """In the child: send a message to the launcher."""
        self.far.send(kind, descriptors, **data)

    def end(self, exit_code: int) -> None:
        """In the child: end."""
        if self.process.returncode is None:
            self.process.returncode = exit_code
            self._loop.unwatch(self.far)
            self.far.close()
            os.close(self._far_output)

    @property
    def ending(self) -> str:
        return f"exit code {self.process.returncode}"

    def ended(self) -> bool:
        return self.process.returncode is not None

    def read_output(self) -> list[str]:
        text = os.read(self.output, 65536).decode()
        self.output_closed = not text
        self.lines.extend(text.splitlines())
        return text.splitlines()

    def drain_output(self) -> list[str]:
        lines: list[str] = []
        while not self.output_closed:
            lines += self.read_output()
        return lines

    def kill(self, why: str = "it is not needed any more") -> None:
        if not self.ended():
            self.end(-9)
            self.on_signal("SIGKILL", self.pid, self.module, why)

    def close(self, why: str = "it is not needed any more") -> None:
        self.kill(why)
        if not self.closed:
            self.closed = True
            self.channel.close()
            os.close(self.output)


Script = Callable[[FakeChild, Message], object]
"""What a child does about a message of the launcher's."""


class FakeChildren:
    """Takes the place of ``children.Child``: whatever is started does what the script of its module says."""

    def __init__(self, loop: Loop, **scripts: Script) -> None:
        """``scripts`` by the last part of the module's name: ``suite`` and ``worker``. Others cannot be started."""
        self.made: list[FakeChild] = []
        self.scripts = scripts
        self._loop = loop

    def __call__(self, module: str, _root: object, _environ: object, *, descriptors: int = 0, **_: object) -> FakeChild:
        script = self.scripts.get(module.rpartition(".")[2])
        if script is None:
            raise OSError(11, "Resource temporarily unavailable")
        child = FakeChild(module, self._loop, descriptors)
        self.made.append(child)

        def hear() -> None:
            for message in child.far.arrived():
                child.heard.append(message)
                script(child, message)

        self._loop.watch(child.far, hear)
        return child
