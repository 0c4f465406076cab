"""Children of a launcher that are no processes: channel and output are real, what is behind them is a test's script."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from preflight.processes.channel import Channel, Message
from preflight.processes.loop import Loop
from preflight.report import model as report

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
        os.set_blocking(self.output, False)
        with contextlib.suppress(BlockingIOError):  # it has not ended
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

    @property
    def workers(self) -> list[FakeChild]:
        """Those that are workers, the first one first."""
        return [child for child in self.made if child.module == "preflight.worker"]

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


class Application:
    """The script of a worker: it imports, starts up, serves until it is drained."""

    def __init__(self) -> None:
        self.on_ready: Callable[[FakeChild], object] = lambda _worker: None
        """Called when a worker serves."""
        self.on_drain: Callable[[FakeChild], object] = lambda worker: drained(worker)
        """Called when it is to finish what it is doing."""

    def __call__(self, child: FakeChild, message: Message) -> None:
        match message.kind:
            case "application":
                child.say("imported", routes=["/health", "/ws/chat"])
            case "verdict":
                child.say("unguarded")
            case "serve":
                for descriptor in message.descriptors:
                    os.close(descriptor)
                child.say("started", instance_id=message.data["instance_id"])
                child.say("ready", instance_id=message.data["instance_id"], beside=False)
                self.on_ready(child)
            case "drain":
                self.on_drain(child)


def drained(worker: FakeChild, cancelled: int = 0) -> None:
    """In a worker: all is finished, but for so many requests."""
    worker.say("drained", cancelled=cancelled, events=0)
    worker.end(0)


class Requirements:
    """The script of a suite: one run after the other finds what is next in ``outcomes`` of the check Database."""

    def __init__(self, make_check: Callable[..., report.Check], make_report: Callable[..., report.Report]) -> None:
        self.outcomes = ["passed"]
        self.origins: list[str] = []
        self._make_check = make_check
        self._make_report = make_report
        self._run: dict[str, Any] = {}

    def __call__(self, child: FakeChild, message: Message) -> None:
        if message.kind == "run":
            self._run = message.data
            self.origins.append(self._run["origin"])
        elif message.kind == "application":
            self._answer(child, self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0])

    def _answer(self, child: FakeChild, outcome: str) -> None:
        if outcome == "usage":
            child.say("usage", message="there is no such requirement")
            return child.end(4)
        known = {name: self._run[name] for name in ("run_id", "origin")}
        known["address"] = f"127.0.0.1:{self._run['settings']['port']}"
        if known["origin"] == "start" and outcome == "passed":
            with socket.create_server(("127.0.0.1", self._run["settings"]["port"])) as held:
                child.say("socket", (held.fileno(),))
        check = self._make_check("Database", outcome, message="" if outcome == "passed" else "it does not answer")
        child.say("report", document=self._make_report(check, **known).to_json())
        return child.end(0 if outcome == "passed" else 1)
