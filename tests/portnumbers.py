"""Ports for tests that run side by side: nobody else's test is given the same one."""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Iterator
from functools import cache

FIRST, LAST = 20000, 32000  # below those that the system gives to clients
BLOCK = 250


@cache
def _numbers() -> tuple[socket.socket, Iterator[int]]:
    """The ports of this process, again and again, and the socket that reserves them until the process ends.

    An abstract name belongs to the network namespace, as ports do, and vanishes with its process. Without it, two tests
    that run at the same time could be given one port: the start of the one would stop the server of the other.
    """
    blocks = list(range(FIRST, LAST, BLOCK))
    random.shuffle(blocks)
    reserved = socket.socket(socket.AF_UNIX)
    for first in blocks:
        try:
            reserved.bind(f"\0preflight-tests/ports/{first}")
        except OSError:
            continue
        return reserved, itertools.cycle(range(first, first + BLOCK))
    raise AssertionError(f"all {len(blocks)} blocks of ports are reserved by other tests")


def unused_port() -> int:
    """A port that nothing listens on, and that no other process of tests is given as long as this one lives."""
    for port in itertools.islice(_numbers()[1], BLOCK):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"all {BLOCK} ports of this process are in use")
