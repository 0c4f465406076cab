"""The address that a server which we did not start has bound, or is going to bind.

Nothing tells an application before its first request: the lifespan's scope has no address. This module asks, in this
order, the process's own sockets (workers, ``--fd``, gunicorn and hypercorn have them before the application starts),
uvicorn's configuration, and with the first request the connection of that request.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import sys

FOLDERS = ("/proc/self/fd", "/dev/fd")  # Linux; macOS


def expected_address() -> tuple[str | None, int | None]:
    """Host and port of the server in whose event loop this is called; None for what cannot be known yet."""
    listening = listening_addresses()
    if len({port for _host, port in listening}) == 1:
        # Of several hosts one that others can reach, if there is one.
        return min(listening, key=lambda one: one[0] == "::1" or one[0].startswith("127."))
    module = sys.modules.get("uvicorn.server")
    if module is None:
        return None, None
    for task in asyncio.all_tasks():
        # uvicorn keeps its server to itself: it is what the task that runs it is a method of.
        frame = getattr(task.get_coro(), "cr_frame", None)
        server = frame.f_locals.get("self") if frame is not None else None
        if isinstance(server, module.Server) and server.config.uds is None and server.config.fd is None:
            return server.config.host or "0.0.0.0", server.config.port or None  # 0: the system chooses one
    return None, None


def listening_addresses() -> set[tuple[str, int]]:
    """The addresses that this process listens on by TCP, or has bound to listen there."""
    addresses: set[tuple[str, int]] = set()
    folder = next((path for path in FOLDERS if os.path.isdir(path)), None)
    for name in os.listdir(folder) if folder else ():
        with contextlib.suppress(OSError, ValueError):
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as sock:
                if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
                    continue
                host, port = sock.getsockname()[:2]
                if port and (sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or not _is_connected(sock)):
                    addresses.add((str(host), int(port)))
    return addresses


def _is_connected(one: socket.socket) -> bool:
    try:
        one.getpeername()
    except OSError:
        return False
    return True
