"""The suite's side of the connection to the launcher that has started it."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

from preflight.ports.activation import Inherited
from preflight.processes import children
from preflight.processes.channel import Message
from preflight.settings.model import Settings
from preflight.suite.claimed import told

if TYPE_CHECKING:
    from preflight.ports import Step
    from preflight.redaction.redactor import Redactor

LAUNCHER = "preflight-launcher"
"""The beginning of the name of the plugin that stands for the launcher; the rest is not known in advance."""


class Link:
    """The launcher, as the suite knows it; `preflight.plugin` finds it among pytest's plugins."""

    def __init__(self, descriptor: int) -> None:
        # pluggy takes a plugin's name from here. It is another one each time: -p no:NAME cannot keep it out.
        self.__name__ = f"{LAUNCHER}-{os.urandom(8).hex()}"
        self.met = False
        """Whether `preflight.plugin` has taken up the run; it sets this."""
        self._heard: dict[str, Message] = {}
        self._condition = threading.Condition()
        self._channel = children.attach(descriptor, self._hear, children.end_group)
        message = self._wait("run")
        run = message.data
        inherited = [
            Inherited(socket.socket(fileno=descriptor), run["activated_by"]) for descriptor in message.descriptors
        ]
        self.inherited: Inherited | None = inherited[0] if inherited else None
        self.run_id: str = run["run_id"]
        self.origin: str = run["origin"]
        self.takes_port: bool = run["takes_port"]
        self.options: dict[str, object] = run["options"]
        self.settings = Settings.of_message(run["settings"])
        self.plugins: list[str] = run["plugins"]
        self.plugins_from: str = run["plugins_from"]
        """Where the plugins are named, for people."""
        self.reports: list[str] = run["reports"]
        """The files that the launcher is going to write the report to."""

    def _hear(self, message: Message) -> None:
        with self._condition:
            self._heard[message.kind] = message
            self._condition.notify_all()

    def _wait(self, kind: str) -> Message:
        with self._condition:
            self._condition.wait_for(lambda: kind in self._heard)
            return self._heard[kind]

    def application(self) -> tuple[str | None, str]:
        """Wait until the application has imported; returns its error if it did not, and what to do about that."""
        said = self._wait("application").data
        return said["error"], said["fix"]

    def on_port_step(self, step: Step, redactor: Redactor) -> None:
        """Let the launcher show, and audit, what is done to free the port."""
        line, stamped = redactor.text(told(step)), redactor.text(told(step, when=True))
        self.send("port", line=line, stamped=stamped, step=redactor.document(step.to_dict()))

    def send(self, kind: str, descriptors: tuple[int, ...] = (), **data: object) -> None:
        """Send the launcher a message; see :class:`preflight.processes.suite.Suite`."""
        self._channel.send(kind, descriptors, **data)
