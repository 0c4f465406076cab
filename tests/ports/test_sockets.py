"""What the kernel says of sockets."""

import os
import socket
import sys

import pytest

from preflight.ports import sockets
from preflight.ports.linux import Linux
from preflight.ports.sockets import Endpoint

LOOPBACK = bytes([127, 0, 0, 1])


@pytest.mark.skipif(sys.byteorder != "little", reason="the lines are from a little-endian machine")
def test_rows_of_proc_net_tcp() -> None:
    """Addresses are words of the machine's own byte order, everything but the user and inode is hexadecimal."""
    tail = "00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 31337 1 0 100 0 0 10 0"
    assert sockets.parse_row(f"   0: 0100007F:1F42 {tail}") == Endpoint(LOOPBACK, 8002, uid=1000, inode=31337)
    six = sockets.parse_row(f"   1: 00000000000000000000000001000000:1F42 {tail}")
    assert six is not None
    assert (str(six), six.packed) == ("[::1]:8002", bytes(15) + b"\1")
    mapped = sockets.parse_row(f"   2: 0000000000000000FFFF00000100007F:1F42 {tail}")
    assert mapped is not None
    assert mapped.packed == LOOPBACK
    assert sockets.parse_row("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt") is None


@pytest.mark.skipif(not Linux.works(), reason="needs Linux")
def test_both_sources_agree() -> None:
    """sock_diag and /proc/net/tcp list the same socket, with its inode and holder."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        inode = os.fstat(held.fileno()).st_ino
        for netlink in (True, False):
            [endpoint] = sockets.listening(port, netlink=netlink)
            assert (endpoint.inode, endpoint.pids, endpoint.uid) == (inode, (os.getpid(),), os.geteuid())
