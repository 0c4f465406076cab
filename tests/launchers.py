"""A launcher as others meet it, in this very process."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

from preflight.instances.presence import Presence
from preflight.instances.records import PROTOCOL, SERVING, Record
from preflight.processes.loop import Loop

ROOT = Path(__file__).parents[1]


def record(port: int, **changes: object) -> Record:
    """The record of an instance of this process."""
    values: dict[str, object] = {
        "instance_id": os.urandom(16).hex(), "pid": os.getpid(), "host": "127.0.0.1", "port": port,
        "since": "2026-01-02T03:04:05Z", "up_at": 1767323045.0, "version": "0.1.0", "state": SERVING,
        "project": "preflight", "root": str(ROOT), "protocol": PROTOCOL,
    }  # fmt: skip
    return Record(**{**values, **changes})  # type: ignore[arg-type]


class Answering:
    """The presence of an instance in this process, which answers in a thread of its own."""

    def __init__(self, listener: socket.socket | None = None, **changes: object) -> None:
        port = listener.getsockname()[1] if listener is not None else 0
        self.loop = Loop()
        self.presence = Presence(record(**{"port": port, **changes}), self.loop)  # type: ignore[arg-type]
        self.presence.listener = lambda: listener
        self.retired_by: list[int] = []
        self.presence.on_retire = self.retired_by.append
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._turn, daemon=True)
        self._thread.start()

    def _turn(self) -> None:
        while not self._over.is_set():
            self.loop.turn(0.02)
            self.presence.look_after()

    def __enter__(self) -> Presence:
        return self.presence

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()
        self.presence.end()
        self.loop.close()
