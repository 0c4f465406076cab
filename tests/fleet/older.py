"""A PostgreSQL that says to be older than it is: a relay before a real one, which changes that one word."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def _relay(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
    except OSError:
        pass
    finally:
        for one in (source, target):
            one.close()


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = source.recv(count - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def _greet(server: socket.socket, client: socket.socket, version: bytes) -> None:
    """Pass on the server's messages up to "ready for query", with this as its version."""
    kind = b""
    while kind != b"Z":
        kind, length = struct.unpack("!cI", _exactly(server, 5))
        body = _exactly(server, length - 4)
        if kind == b"S" and body.startswith(b"server_version\0"):
            body = b"server_version\0" + version + b"\0"
        client.sendall(kind + struct.pack("!I", len(body) + 4) + body)


def _serve(client: socket.socket, port: int, version: bytes) -> None:
    try:
        server = socket.create_connection(("127.0.0.1", port))
        threading.Thread(target=_relay, args=(client, server), daemon=True).start()
        _greet(server, client, version)
    except OSError:
        client.close()
        return
    _relay(server, client)


@contextmanager
def older(port: int, version: str) -> Iterator[int]:
    """The port of a server that says to be ``version``. Connections to it need ``sslmode=disable``."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=_serve, args=(client, port, version.encode()), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
