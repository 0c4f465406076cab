"""The port that a server which we did not start has bound, or is going to bind.

Nothing tells an application before its first request: the lifespan's scope has no address. What is asked here, in this
order, is the process's own sockets (workers, ``--fd`` and gunicorn have them before the application starts), uvicorn's
configuration, and with the first request the connection that it came by.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import sys

FOLDERS = ("/proc/self/fd", "/dev/fd")  # Linux; macOS


def expected_port() -> int | None:
    """The port of the server in whose event loop this is called; None where it cannot be known yet."""
    ports = listening_ports()
    if len(ports) == 1:
        return ports.pop()
    module = sys.modules.get("uvicorn.server")
    if module is None:
        return None
    for task in asyncio.all_tasks():
        # uvicorn keeps its server to itself: it is what the task that runs it is a method of.
        frame = getattr(task.get_coro(), "cr_frame", None)
        server = frame.f_locals.get("self") if frame is not None else None
        if isinstance(server, module.Server) and server.config.uds is None and server.config.fd is None:
            return server.config.port or None  # 0: the system chooses one
    return None


def listening_ports() -> set[int]:
    """The TCP ports that this process listens on."""
    ports: set[int] = set()
    folder = next((one for one in FOLDERS if os.path.isdir(one)), None)
    for name in os.listdir(folder) if folder else ():
        with contextlib.suppress(OSError, ValueError):
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                internet = one.family in (socket.AF_INET, socket.AF_INET6)
                if internet and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    ports.add(int(one.getsockname()[1]))
    return ports
