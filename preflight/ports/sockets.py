"""TCP sockets of this machine as the kernel lists them, and the processes that hold them (Linux).

Two sources for the sockets: sock_diag over netlink, which filters in the kernel and knows IPV6_V6ONLY (0.03
to 0.14 ms), and `/proc/net/tcp{,6}` where a sandbox or kernel has no sock_diag (9 ms, 43 ms at 17,000 lines).
The holders are found by inode, because a shared listening socket has as many holders as processes that
inherited it, and tools that map an inode to one process miss the others.

Numbers: linux/inet_diag.h, linux/sock_diag.h, net/tcp_states.h.
"""

import os
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

TIME_WAIT = 6
CLOSE = 7
LISTEN = 10
BOUND = 13  # bound, neither listening nor connected: listed by sock_diag from Linux 6.8 on
STATES = {
    1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT1", 5: "FIN_WAIT2", TIME_WAIT: "TIME_WAIT",
    CLOSE: "CLOSE", 8: "CLOSE_WAIT", 9: "LAST_ACK", LISTEN: "LISTEN", 11: "CLOSING", 12: "SYN_RECV", BOUND: "BOUND",
}  # fmt: skip

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: the table changed while it was dumped
_ERROR, _DONE = 2, 3
_V6ONLY = 11  # INET_DIAG_SKV6ONLY
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_REQUEST = struct.Struct("=BBBBIHH16s16sI8s")  # inet_diag_req_v2
_ANSWER = struct.Struct("=BBBB2s2s16s16sI8sIIIII")  # inet_diag_msg
MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96


class Endpoint(NamedTuple):
    """One TCP socket, by its local end."""

    address: bytes  # packed: 4 bytes for IPv4, 16 for IPv6
    port: int
    state: int = LISTEN
    v6only: bool | None = None  # None: not told by this source
    uid: int | None = None  # the user who opened it
    inode: int | None = None
    pids: tuple[int, ...] = ()  # every process seen to hold it
    interface: int = 0  # index of the network interface that it belongs to; 0: none, or not told by this source
    peer: str = ""  # the other end of a connection, "192.0.2.7:443"; empty if there is none

    @property
    def packed(self) -> bytes:
        """The address without the IPv6 wrapping of an IPv4 one (`::ffff:127.0.0.1` is 127.0.0.1)."""
        return self.address.removeprefix(MAPPED) if len(self.address) == 16 else self.address

    def __str__(self) -> str:
        return shown(self.address, self.port)


def shown(address: bytes, port: int) -> str:
    """An end of a socket as people write it."""
    if len(address) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, address)}:{port}"
    return f"[{socket.inet_ntop(socket.AF_INET6, address)}]:{port}"


def listening(port: int, *, netlink: bool = True) -> list[Endpoint]:
    """Sockets that listen on `port` at any local address, each with every process seen to hold it.

    `netlink=False` reads `/proc/net/tcp{,6}` instead of asking sock_diag. Raises OSError when neither
    answers.
    """
    found = _ask(port, 1 << LISTEN) if netlink else None
    if found is None:
        found = [endpoint for endpoint in _read_tables(port) if endpoint.state == LISTEN]
    return _with_holders(found)


def occupying(port: int, *, netlink: bool = True) -> list[Endpoint]:
    """Every socket with this local port, in any state: why a port without a listener is busy."""
    found = _ask(port, 0xFFF | 1 << BOUND) if netlink else None
    return _with_holders(list(_read_tables(port)) if found is None else found)


def opened_by(port: int) -> dict[bytes, int]:
    """The user who opened the listening sockets of a port, by their address; empty if /proc does not tell."""
    try:
        return {one.address: one.uid for one in _read_tables(port) if one.state == LISTEN and one.uid is not None}
    except OSError:
        return {}


def holds(pid: int, inodes: Collection[int]) -> bool:
    """Whether this process has one of these sockets open, as far as that can be seen."""
    return bool(_sockets_of(str(pid), {f"socket:[{inode}]" for inode in inodes}))


# -- the sockets ---------------------------------------------------------------------------------------------


def _ask(port: int, states: int) -> list[Endpoint] | None:
    """The sockets from sock_diag, or None if it does not answer (sandbox, kernel without inet_diag)."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _SOCK_DIAG) as link:
            link.settimeout(1.0)
            found: list[Endpoint] = []
            for family in (socket.AF_INET, socket.AF_INET6):
                for _ in range(3):
                    answers, complete = _dump(link, family, port, states)
                    if complete:
                        break
                found += answers
            return found
    except OSError:
        return None  # the tables under /proc answer the same question


def _dump(link: socket.socket, family: int, port: int, states: int) -> tuple[list[Endpoint], bool]:
    body = _REQUEST.pack(
        family, socket.IPPROTO_TCP, 0, 0, states, socket.htons(port), 0, bytes(16), bytes(16), 0, b"\xff" * 8
    )
    link.sendto(_HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _DUMP, 1, 0) + body, (0, 0))
    found: list[Endpoint] = []
    complete = True
    while True:
        data = link.recv(1 << 17)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, _, _ = _HEADER.unpack_from(data, offset)
            complete = complete and not flags & _INTERRUPTED
            if kind == _DONE:
                return found, complete
            if kind == _ERROR:
                code = -struct.unpack_from("=i", data, offset + _HEADER.size)[0]
                raise OSError(code, os.strerror(code))
            endpoint = _decode(data[offset + _HEADER.size : offset + length])
            if endpoint.port == port:
                found.append(endpoint)
            offset += (length + 3) & ~3


def _decode(message: bytes) -> Endpoint:
    fields = _ANSWER.unpack_from(message)
    family, state, sport, dport, source, remote, interface, uid, inode = (
        fields[at] for at in (0, 1, 4, 5, 6, 7, 8, -2, -1)
    )
    v6only: bool | None = None
    offset = _ANSWER.size
    while offset + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, offset)
        if kind == _V6ONLY:
            v6only = bool(message[offset + 4])
        offset += max(4, (length + 3) & ~3)
    size = 4 if family == socket.AF_INET else 16
    port, there = int.from_bytes(sport, "big"), int.from_bytes(dport, "big")
    peer = shown(remote[:size], there) if there else ""
    return Endpoint(source[:size], port, state, v6only, uid, inode, interface=interface, peer=peer)


def _read_tables(port: int) -> Iterator[Endpoint]:
    wanted = f":{port:04X} "
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with Path(table).open() as lines:
                for line in lines:
                    if wanted in line:
                        endpoint = parse_row(line)
                        if endpoint is not None and endpoint.port == port:
                            yield endpoint
        except FileNotFoundError:
            if table == "/proc/net/tcp":
                raise  # IPv6 may be missing; IPv4 missing means that there is nothing to read here


def parse_row(line: str) -> Endpoint | None:
    """One line of `/proc/net/tcp` or `tcp6` (proc_pid_net(5)), or None for a headline."""
    fields = line.split()
    if len(fields) < 10 or ":" not in fields[1]:
        return None
    (address, port), (remote, there) = _end(fields[1]), _end(fields[2])
    peer = shown(remote, there) if there else ""
    return Endpoint(address, port, int(fields[3], 16), None, uid=int(fields[7]), inode=int(fields[9]), peer=peer)


def _end(field: str) -> tuple[bytes, int]:
    """Address and port of one end, as the tables have it: ``0100007F:1F42``."""
    address, _, port = field.rpartition(":")
    # Each 32-bit word of the address is printed as a number of this machine's byte order.
    words = [int(address[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(address), 8)]
    return b"".join(words), int(port, 16)


# -- their holders -------------------------------------------------------------------------------------------


def _with_holders(endpoints: list[Endpoint]) -> list[Endpoint]:
    inodes = {endpoint.inode for endpoint in endpoints if endpoint.inode}
    if not inodes:
        return endpoints
    holders = _holders({f"socket:[{inode}]" for inode in inodes})
    return [endpoint._replace(pids=tuple(holders.get(f"socket:[{endpoint.inode}]", ()))) for endpoint in endpoints]


def _holders(links: set[str]) -> dict[str, list[int]]:
    """For each `socket:[INODE]`, every process that has it open. Reads every descriptor of every process."""
    holders: dict[str, list[int]] = {}
    for pid in os.listdir("/proc"):  # 1,000 names; making paths of them would only take time
        if pid.isdecimal():
            for link in _sockets_of(pid, links):
                holders.setdefault(link, []).append(int(pid))
    return holders


def _sockets_of(pid: str, links: set[str]) -> set[str]:
    """Which of these sockets a process has open; none when it has gone or may not be looked into."""
    found: set[str] = set()
    readlink = os.readlink
    try:
        folder = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return found
    try:
        for name in os.listdir(folder):  # of an open folder, which pathlib cannot list
            try:
                # Relative to the open folder: the kernel does not walk /proc and the process again each time.
                link = readlink(name, dir_fd=folder)
            except OSError:
                continue  # closed in the meantime
            if link in links:
                found.add(link)
    except OSError:
        pass  # ended while it was read
    finally:
        os.close(folder)
    return found
