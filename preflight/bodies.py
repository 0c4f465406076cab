"""Bodies of HTTP answers, read only up to a bound: a service may send without end, whatever length it announces.

For clients that other libraries read with; `preflight.suite.probes.asking` reads its answers itself. Standard library
only.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any


class TooLong(Exception):
    """A body has more bytes than its reader takes."""


def bounded(longest: int) -> Callable[[Any], Awaitable[None]]:
    """A hook for the responses of httpx2's asynchronous client.

    Whatever reads such a response gets TooLong behind ``longest`` bytes of its decoded body.
    """

    async def bound(response: Any) -> None:
        unbounded = response.aiter_bytes  # everything else reads with it, but for ``aiter_raw``

        async def aiter_bytes(chunk_size: int | None = None) -> AsyncIterator[bytes]:
            length = 0
            async with contextlib.aclosing(unbounded(chunk_size)) as pieces:
                async for piece in pieces:
                    length += len(piece)
                    if length > longest:
                        raise TooLong(f"an answer of more than {longest >> 20} MiB")
                    yield piece

        response.aiter_bytes = aiter_bytes

    return bound
