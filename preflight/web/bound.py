"""The address that a server which we did not start has bound, or is going to bind.

Nothing tells an application before its first request: the lifespan's scope has no address. This module asks, in this
order, uvicorn (its configuration, or the sockets that it was given), the process's own sockets, which other servers
have before the application starts, and with the first request the connection of that request. uvicorn comes first
because an application may listen itself, for metrics say.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import sys
from collections.abc import Callable

from preflight.web.asgi import App, Receive, Scope, Send

FOLDERS = ("/proc/self/fd", "/dev/fd")  # Linux; macOS


def expected_address() -> tuple[str | None, int | None]:
    """Host and port of the server in whose event loop this is called; None for what cannot be known yet."""
    of_uvicorn = _of_uvicorn()
    return of_uvicorn if of_uvicorn is not None else _common(listening_addresses())


def _common(addresses: set[tuple[str, int]]) -> tuple[str | None, int | None]:
    """The one address that these stand for; None and None if there is none, or they have several ports."""
    if len({port for _host, port in addresses}) != 1:
        return None, None
    # Of several hosts one that others can reach, if there is one.
    return min(addresses, key=lambda one: one[0] == "::1" or one[0].startswith("127."))


def _of_uvicorn() -> tuple[str | None, int | None] | None:
    """What uvicorn serves at in this event loop; None where another server does."""
    module = sys.modules.get("uvicorn.server")
    if module is None:
        return None
    for task in asyncio.all_tasks():
        # uvicorn shows its server to nobody: it is the object whose method its task runs.
        frame = getattr(task.get_coro(), "cr_frame", None)
        known = frame.f_locals if frame is not None else {}
        server = known.get("self")
        if not isinstance(server, module.Server):
            continue
        config = server.config
        if given := known.get("sockets"):  # by its own parent
            return _common({address for one in given if (address := _address(one)) is not None})
        if config.fd is not None:
            return _common({address for one in [config.fd] if (address := _address_of(one)) is not None})
        if config.uds is not None:
            return None, None
        return config.host or "0.0.0.0", config.port or None  # 0: the system chooses one
    return None


def until_known(entrance: App, learn: Callable[[int], None]) -> App:
    """The entrance while the port is unknown: ``learn`` gets the port of the first connection that came by TCP."""

    async def first(scope: Scope, receive: Receive, send: Send) -> None:
        server = scope.get("server")
        if server is not None and server[1]:
            learn(server[1])
        await entrance(scope, receive, send)

    return first


def listening_addresses() -> set[tuple[str, int]]:
    """The addresses that this process listens on by TCP, or has bound to listen there."""
    addresses: set[tuple[str, int]] = set()
    folder = next((path for path in FOLDERS if os.path.isdir(path)), None)
    for name in os.listdir(folder) if folder else ():
        if name.isdigit() and (address := _address_of(int(name))) is not None:
            addresses.add(address)
    return addresses


def _address_of(descriptor: int) -> tuple[str, int] | None:
    """The address that a descriptor listens on by TCP, or has bound to listen there; None for everything else."""
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                return _address(sock)
    return None


def _address(sock: socket.socket) -> tuple[str, int] | None:
    """The same for a socket."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return None
    host, port = sock.getsockname()[:2]
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or not _is_connected(sock)
    return (str(host), int(port)) if port and listens else None


def _is_connected(one: socket.socket) -> bool:
    try:
        one.getpeername()
    except OSError:
        return False
    return True
