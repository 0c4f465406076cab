"""Bodies of HTTP answers that are read up to a bound."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx2
import pytest

from preflight import bodies

READERS: dict[str, Callable[[httpx2.Response], Awaitable[object]]] = {
    "at once": lambda response: response.aread(),
    "in pieces": lambda response: _length(response.aiter_bytes()),
    "as text": lambda response: _length(response.aiter_text()),
    "in lines": lambda response: _length(response.aiter_lines()),
}


async def _length(pieces: AsyncIterator[bytes] | AsyncIterator[str]) -> int:
    return sum([len(piece) async for piece in pieces])


@pytest.mark.parametrize("how", READERS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_body_is_read_up_to_its_bound(how: str, packed: bool) -> None:
    """Whoever reads it gets all of one that fits, and TooLong for one more byte: of what was packed, unpacked."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        content = b"x" * int(request.url.path[1:])
        headers = {"Content-Encoding": "gzip"} if packed else {}
        return httpx2.Response(200, headers=headers, stream=Pieces(gzip.compress(content) if packed else content))

    async def read(length: int) -> None:
        hooks = {"response": [bodies.bounded(1 << 20)]}
        async with (
            httpx2.AsyncClient(transport=httpx2.MockTransport(answer), event_hooks=hooks) as client,
            client.stream("GET", f"http://service/{length}") as response,
        ):
            await READERS[how](response)

    asyncio.run(read(1 << 20))
    with pytest.raises(bodies.TooLong, match="more than 1 MiB"):
        asyncio.run(read((1 << 20) + 1))


class Pieces(httpx2.AsyncByteStream):
    """A body as it comes from a socket."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._content), 1 << 16):
            yield self._content[start : start + (1 << 16)]
