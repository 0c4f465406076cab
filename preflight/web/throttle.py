"""Wrong tokens: how long each peer waits for the answer, and what the audit records."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b

from preflight.processes.board import SLOTS, Board
from preflight.text import address
from preflight.web.instance import Instance

FREE = 3  # wrong tokens of one peer that are answered at once
FIRST_DELAY, LONGEST_DELAY = 0.5, 8.0  # seconds; doubles with each further one
FORGET = 300.0  # seconds after the last one
WAITING = 64  # wrong tokens whose answers wait at once; the next is answered with 429, and its connection closed
NEIGHBOURS_WAITING = 4  # of those, the most for one peer, so that no peer takes them all
PEERS = 4096  # that are named to the audit, at most

TOLD_EVERY = 60.0  # seconds
TOLD_OF_ONE, TOLD = 5, 30  # wrong tokens of a peer, and of all, that are recorded one by one in that time
MOST_NAMED = 10  # peers of which the rest is recorded, each with its number


class Throttle:
    """How long each peer waits for the answer to a wrong token. Right ones never come here.

    The workers of an instance count together, on their board. Peers that fall into the same slot there wait for each
    other's wrong tokens; which these are, nobody knows without the key.
    """

    def __init__(self, key: bytes) -> None:
        """``key`` is the same in all workers of an instance."""
        self._key = key
        self.waiting: Counter[str] = Counter()
        """Answers that wait, by peer."""

    def failed(self, board: Board, peer: str, now: float) -> float:
        """Count one more wrong token; returns the seconds to wait before it is answered."""
        digest = blake2b(peer.encode(), digest_size=8, key=self._key).digest()
        count = board.tried(int.from_bytes(digest) % SLOTS, now, FORGET)
        return 0.0 if count < FREE else min(FIRST_DELAY * 2.0 ** min(count - FREE, 16), LONGEST_DELAY)

    @contextlib.contextmanager
    def place(self, peer: str) -> Iterator[bool]:
        """A place to wait in; False if this peer, or all of them together, have taken up theirs."""
        if self.waiting[peer] >= NEIGHBOURS_WAITING or self.waiting.total() >= WAITING:
            yield False
            return
        self.waiting[peer] += 1
        try:
            yield True
        finally:
            self.waiting[peer] -= 1
            if not self.waiting[peer]:
                del self.waiting[peer]


class Guesses:
    """What the audit records of wrong tokens: the first ones singly, then how many more there were.

    A client without a token must not be able to fill the audit, which rotates, until nothing else is left in it.
    """

    def __init__(self) -> None:
        self._singly: Counter[str] = Counter()
        self._more: Counter[str] = Counter()
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def record(self, instance: Instance, peer: str, port: int, path: str) -> None:
        """Record a wrong token, now or with others at the end of this minute."""
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._since = loop.time()
            self._timer = loop.call_later(TOLD_EVERY, self.tell, instance)
        who = neighbourhood(peer)
        if self._singly[who] < TOLD_OF_ONE and self._singly.total() < TOLD:
            self._singly[who] += 1
            instance.audit("login_failed", peer=address(peer, port), path=path)
        else:
            # The empty name stands for the peers that there is no room to name.
            self._more[who if who in self._more or len(self._more) < PEERS else ""] += 1

    def tell(self, instance: Instance) -> None:
        """Record how many more there were since the last time; nothing if there were none."""
        if self._timer is None:
            return
        self._timer.cancel()
        seconds = round(asyncio.get_running_loop().time() - self._since, 1)
        unnamed = self._more.pop("", 0)
        named = self._more.most_common(MOST_NAMED)
        for who, count in named:
            instance.audit("login_failed", peer=who, more=count, seconds=seconds)
        rest = unnamed + self._more.total() - sum(count for _who, count in named)
        if rest:
            instance.audit("login_failed", peer="others", more=rest, seconds=seconds)
        self._singly.clear()
        self._more.clear()
        self._timer = None


def neighbourhood(peer: str) -> str:
    """What a peer is counted as: with IPv6, its whole /64, because everybody has one.

    A peer that came by IPv4 to a socket for both is counted by its IPv4 address, which is written as one of IPv6.
    """
    peer = peer.removeprefix("::ffff:")
    if ":" not in peer:
        return peer
    try:
        return str(ipaddress.ip_network(f"{peer}/64", strict=False))
    except ValueError:
        return peer
