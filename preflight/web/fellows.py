"""Messages between the workers of one instance: the launcher passes them on to those that serve.

For news that nobody stores: a worker that does not read in time misses some.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

Heard = Callable[..., object]


class Fellows:
    """The other workers of this instance; a server that is one process has none."""

    def __init__(self, say: Callable[[str, dict[str, Any]], object] | None = None) -> None:
        """``say`` takes a topic, and JSON values about it, to the launcher; None: there is nobody to tell."""
        self._say = say
        self._heard: dict[str, tuple[asyncio.AbstractEventLoop, Heard]] = {}

    def tell(self, topic: str, **data: Any) -> None:
        """Tell the other workers; keep it short, because all messages share one channel."""
        if self._say is not None:
            self._say(topic, data)

    def when_told(self, topic: str, heard: Heard) -> None:
        """From now on, call ``heard`` in this event loop whenever another worker tells something of this topic."""
        self._heard[topic] = asyncio.get_running_loop(), heard

    def hear(self, topic: str, data: dict[str, Any]) -> None:
        """Pass on what another worker has told; from any thread."""
        if topic in self._heard:
            loop, heard = self._heard[topic]
            with contextlib.suppress(RuntimeError):  # closed: nobody wants to know any more
                loop.call_soon_threadsafe(lambda: heard(**data))
