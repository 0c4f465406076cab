"""A WebSocket's outbox and allowance; whole connections are in tests/e2e/test_chat.py and test_reruns.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

import pytest

from preflight.web.websocket import Allowance, Outbox

Event = MutableMapping[str, Any]


class Client:
    """The other end: takes what is sent when it is let to."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.aborted = False
        self.got: list[object] = []

    @property
    def scope(self) -> dict[str, Any]:
        return {"extensions": {"preflight.abort": {"abort": self.abort}}}

    def abort(self) -> None:
        self.aborted = True

    async def take(self, event: Event) -> None:
        await self.reads.wait()
        self.got.append(event.get("text") or (event["code"], event["reason"]))


def in_loop(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


async def sent(outbox: Outbox) -> None:
    """Wait until nothing is on its way."""
    if outbox.pump is not None:
        await asyncio.wait((outbox.pump,))


def test_in_order_then_the_close() -> None:
    """All that waits comes before the close, and nothing after it; no task is left."""

    async def work() -> None:
        client = Client()
        client.reads.set()
        outbox = Outbox(client.scope, client.take, 100)
        for number in range(5):
            outbox.push(f"{number}")
        outbox.close(1000, "done")
        outbox.close(1012, "too late")
        outbox.push("too late")
        await sent(outbox)
        assert client.got == ["0", "1", "2", "3", "4", (1000, "done")]
        assert outbox.pump is None

    in_loop(work)


def test_others_get_their_turn_between_messages() -> None:
    """A client that takes everything at once does not keep the loop."""

    async def work() -> None:
        client = Client()
        client.reads.set()
        outbox = Outbox(client.scope, client.take, 100)
        for number in range(5):
            outbox.push(f"{number}")
        await asyncio.sleep(0)
        assert len(client.got) < 5
        await sent(outbox)
        assert len(client.got) == 5

    in_loop(work)


@pytest.mark.parametrize("text, dropped", [("x" * 89, False), ("x" * 90, False), ("x" * 91, True)])
def test_a_client_that_does_not_read_is_dropped(text: str, dropped: bool) -> None:
    """Beyond the bound, which what is being sent already does not count to."""

    async def work() -> None:
        client = Client()
        outbox = Outbox(client.scope, client.take, 100)
        outbox.push("being sent, however long it is: " + "x" * 200)
        await asyncio.sleep(0)
        outbox.push("y" * 10)
        outbox.push(text)
        assert (client.aborted, outbox.closing) == (dropped, dropped)
        outbox.end()
        await sent(outbox)
        assert client.got == []

    in_loop(work)


def test_a_server_that_cannot_abort_has_its_task_cancelled() -> None:
    """Under another server the task that serves the connection is what can be ended."""

    async def serve(client: Client) -> None:
        outbox = Outbox({}, client.take, 10)
        for _ in range(3):
            outbox.push("x" * 10)
        await asyncio.get_running_loop().create_future()

    async def work() -> None:
        task = asyncio.create_task(serve(Client()))
        await asyncio.wait((task,), timeout=30)
        assert task.cancelled()

    in_loop(work)


@pytest.mark.parametrize("error", [OSError(), RuntimeError("closed")])
def test_a_client_that_has_gone(error: Exception) -> None:
    """What cannot be sent is left out: receive() tells that it has gone."""

    async def gone(_event: Event) -> None:
        raise error

    async def work() -> None:
        take: Callable[[Event], Awaitable[None]] = gone
        outbox = Outbox({}, take, 100)
        for _ in range(2):
            outbox.push("x")
            await sent(outbox)
            assert outbox.pump is None
        assert not outbox.closing

    in_loop(work)


def test_an_allowance() -> None:
    """So many at once, and then no more until the rate allows it."""

    async def work() -> None:
        allowance = Allowance(rate=1e-6, burst=3)
        assert [allowance.spend() for _ in range(4)] == [True, True, True, False]

    in_loop(work)
