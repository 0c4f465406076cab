"""How the queue of a listening socket ends: no more connections get in, and those in it are not lost."""

from __future__ import annotations

import array
import asyncio
import select
import socket
import struct
import sys

LOCAL_HANDSHAKE = 0.006  # seconds after which no handshake is on its way any more, within this machine
HANDSHAKE = 0.25  # seconds, the same over networks: the round trip to the other side of the world
UNLOCKED = 0.25  # seconds for which a queue is emptied that new connections still get into
LOOK = 0.002  # seconds between two looks at the queue
SO_ATTACH_FILTER = 26  # socket(7); the module socket has no name for it, nor for the next
SO_BINDTOIFINDEX = 62  # Linux 5.0
NO_INTERFACE = 0x7FFFFFFF  # an index that no network interface has


async def empty(sock: socket.socket, deadline: float, *, local: bool) -> None:
    """Accept what waits in the queue, since closing the socket would reset it, and let nothing more in.

    Where more cannot be kept out, this returns when the queue is empty for the first time: a connection that comes
    between that look and the end of the socket, which has to follow at once, is reset.

    ``deadline`` is on the event loop's clock; ``local``: only clients of this machine can connect.
    """
    loop = asyncio.get_running_loop()
    quiet = LOCAL_HANDSHAKE if local else HANDSHAKE
    if sock.family == socket.AF_UNIX:
        quiet = 0.0  # its file is gone: nobody else gets in
    elif not lock(sock):
        quiet = 0.0
        deadline = min(deadline, loop.time() + UNLOCKED)  # under load it might never be empty
    queue = select.poll()  # select() knows no descriptors beyond 1023, and an application may have opened as many
    queue.register(sock, select.POLLIN)
    since = loop.time()
    while (now := loop.time()) < deadline:
        if queue.poll(0):
            since = now
            await asyncio.sleep(0)
        elif now - since >= quiet:
            return
        else:
            await asyncio.sleep(LOOK)


def _is_locked(sock: socket.socket) -> bool:
    """Whether another worker has done so."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX) == NO_INTERFACE
    except OSError:
        return False


def lock(sock: socket.socket) -> bool:
    """Let no further connection into a listening socket's queue; those in it stay. For good: only before closing it.

    Nobody else may go on listening on it. Returns whether nothing gets in any more, which is so on Linux unless the
    kernel refuses both ways. Otherwise the queue is only kept short: a connection that comes in the last moment before
    the socket closes is reset.
    """
    if sys.platform == "linux":
        try:
            # A listener that belongs to an interface gets no connection from any other: clients are refused, as if it
            # was closed already, and handshakes that have begun come to their end. Needs no privilege from Linux 5.7
            # on, except where the socket belongs to an interface already (to a VRF's, say).
            sock.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, NO_INTERFACE)
            return True
        except OSError:
            if _is_locked(sock):
                return True
        # One instruction of classic BPF, "return 0": the listener does not even see another packet. A client's
        # SYN is lost, and when it is sent again, the port is closed or belongs to another process.
        program = array.array("B", struct.pack("HBBI", 0x06, 0, 0, 0))
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, program.buffer_info()[0]))
            return True
        except OSError:
            pass  # some kernels (seen in 6.18) let nobody without CAP_NET_ADMIN give a filter to a TCP socket
    try:
        sock.listen(1)  # keeps the queue short; 0 means as many as there may be to some systems
    except OSError:
        pass
    return False
