"""HTTP over a Unix socket."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any


class Client(http.client.HTTPConnection):
    """A connection to one path."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


def ask(path: Path, target: str = "/", **headers: str) -> tuple[int, Any]:
    """The status and the JSON of one answer."""
    client = Client(path)
    try:
        client.request("GET", target, headers=headers)
        answer = client.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        client.close()
