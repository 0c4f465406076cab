"""Launchers of other releases: one of protocol 1, and one of a protocol that is still to come."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.waiting import PATIENCE

# It does what the release did or may do, with nothing of this tree's in it. "serving" is its first line; the others say
# what it was sent. Arguments: runtime folder, port, further fields of the record (JSON; null takes one away).
OTHER_RELEASE = """
import array, fcntl, json, os, select, socket, sys, time
folder, port, further = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
future = "future" in sys.argv[4:]
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((further.pop("bind", "127.0.0.1"), port))
listener.listen()
fields = {
    "instance_id": "other", "pid": os.getpid(), "host": "127.0.0.1", "port": port, "since": "2026-01-02T03:04:05Z",
    "up_at": 1.0, "version": "0.0.9", "stops_within": 5.0, "log_file": "",
}
for name, value in further.items():
    if value is None:
        fields.pop(name)
    else:
        fields[name] = value
os.makedirs(folder, mode=0o700, exist_ok=True)
os.chdir(folder)
file = os.open(f"{port}.other.new", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
os.pwrite(file, json.dumps(fields).encode().ljust(8192), 0)
os.rename(f"{port}.other.new", f"{port}.other.json")
controls = [socket.socket(socket.AF_UNIX)]
controls[0].bind(f"{port}.other.sock")
controls[0].listen(16)
if future:
    controls.append(socket.socket(socket.AF_UNIX))
    controls[1].bind(f"\\0preflight/{port}/other")
    controls[1].listen(16)
print("serving", flush=True)
callers = []

def say(caller, kind, descriptors=(), **data):
    line = json.dumps({"kind": kind, "descriptors": len(descriptors), "data": data}).encode() + b"\\n"
    if descriptors:
        socket.send_fds(caller, [line[:1]], list(descriptors))
        caller.sendall(line[1:])
    else:
        caller.sendall(line)

while True:
    ready = select.select([listener, *controls, *callers], [], [])[0]
    for one in ready:
        if one is listener:
            client = one.accept()[0]
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nConnection: close\\r\\n\\r\\nother")
            client.close()
        elif one in controls:
            callers.append(one.accept()[0])
        else:
            data = one.recv(65536)
            if not data:
                callers.remove(one)
                one.close()
                continue
            for line in data.splitlines():
                message = json.loads(line)
                print(message["kind"], json.dumps(message["data"]), flush=True)
                if message["kind"] == "handover":
                    say(one, "socket", (listener.fileno(),), **({"protocol": 9, "shape": [1]} if future else {}))
                elif message["kind"] == "who" and future:
                    answer = {"state": "serving", "protocol": 9, "bound": "127.0.0.1", "tone": {"a": [1]}}
                    say(one, "instance", **(fields | answer))
                elif message["kind"] == "retire":
                    os.unlink(f"{port}.other.json")
                    os.unlink(f"{port}.other.sock")
                    sys.exit(0)
"""


class OtherRelease:
    """An instance of another release, which serves "other" over HTTP."""

    def __init__(self, folder: Path, port: int, *words: str, further: Mapping[str, object] | None = None) -> None:
        self.port = port
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER_RELEASE, str(folder), str(port), json.dumps(dict(further or {})), *words],
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )
        assert self.says() == "serving"

    @property
    def pid(self) -> int:
        return self.process.pid

    def says(self) -> str:
        """The next thing that it says; waits for it."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], PATIENCE)[0]
        return self.process.stdout.readline().strip()

    def __enter__(self) -> OtherRelease:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
        self.process.communicate()
