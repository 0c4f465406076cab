"""A session's turns without a server, and the redaction of a stream: no secret gets out in pieces."""

from __future__ import annotations

import asyncio
import functools
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk

from preflight.redaction.keys import secrets
from preflight.redaction.redactor import MASK, Redactor
from preflight.web import services
from preflight.web.endpoints.followers import Follow
from preflight.web.instance import Instance
from preflight.web.past import EarlierRuns
from preflight.web.services import Services
from preflight.web.snapshot import Snapshot
from preflight.web.websocket import Outbox
from server.agent.embedded import EmbeddedModel
from server.agent.failures import ProviderError
from server.agent.graph import Agent
from server.agent.tools import Toolbox
from server.chat import connections
from server.chat.connections import Connection
from server.chat.hub import Hub
from server.chat.words import Words, unbroken

SECRETS = {
    "A_KEY": "sk-canary-Zq7vXw2LmN8p",
    "B_PASSWORD": "three words long, ümlaut",
    "URL": "postgres://me:hunter2hunter2@db/x",
}
TEXT = (
    f"The key is {SECRETS['A_KEY']}, the password {SECRETS['B_PASSWORD']}! Send Authorization: Bearer abcdef0123456789"
    f" to {SECRETS['URL']} and 日本語のテキスト。 Done.\n"
)


@pytest.mark.parametrize("seed", range(40))
def test_pieces_of_any_size(seed: int) -> None:
    """Together they are the text redacted as a whole."""
    pick = random.Random(seed)
    redactor = Redactor.of_variables(SECRETS)
    words = Words(redactor, secrets(SECRETS))
    out, rest = "", TEXT
    while rest:
        size = pick.randint(1, 12)
        out += words.feed(rest[:size])
        rest = rest[size:]
    out += words.rest()
    assert out == redactor.text(TEXT)
    assert out.count(MASK) == 4


def test_it_does_not_hold_back_more_than_it_must() -> None:
    """Without secrets that have spaces in them, only the last word."""
    words = Words(Redactor.of_variables({"A_KEY": SECRETS["A_KEY"]}), [SECRETS["A_KEY"]])
    assert words.feed("One two thr") == "One two "
    assert words.feed("ee 日本") == "three 日本"
    assert words.feed("the Bearer ") == "the "
    assert words.rest() == "Bearer "


def test_half_a_pair() -> None:
    """No frame takes it: it is replaced, and pairs stay whole."""
    assert unbroken("a\ud83d") == "a\ufffd"
    assert unbroken("a\ud83d\ude00") == "a😀"
    assert unbroken("ok") == "ok"


class Lingering(EmbeddedModel):
    """A model that takes its time, and needs a moment to let go."""

    seen: list[str] = []  # noqa: RUF012  # pydantic copies it
    begun: Any

    async def _astream(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        self.seen.append("begun")
        self.begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            self.seen.append("let go")
        for chunk in self._stream(messages, **kwargs):
            yield chunk


async def made(agent: Agent) -> Agent:
    """An agent in place of the one that the hub would make."""
    return agent


def test_deleting_a_session_waits_for_what_runs_in_it(make_instance: Callable[..., Instance]) -> None:
    """Whoever deletes it knows that nothing goes on; turns that have not begun are not begun, and nobody is live."""

    async def run() -> list[str]:
        instance = make_instance()
        snapshot = Snapshot(instance)
        past = EarlierRuns(instance, snapshot)
        hub = Hub(instance, snapshot, past)
        model = Lingering(begun=asyncio.Event())
        tools = Toolbox(instance, hub.redactor, snapshot, past)
        hub._making = asyncio.create_task(made(Agent(model, tools, redactor=hub.redactor, longest_wait=1)))

        async def nowhere(_event: Any) -> None:
            """This client is not there."""

        sender = Connection(hub, Outbox({}, nowhere, 1000))
        session = hub.session("s")
        for _ in range(2):
            await session.say(sender, "help", None)
        await model.begun.wait()
        assert [turn.attempts for turn in await hub.store.open_turns("s")] == [1, 0]
        assert await hub.delete(["s"]) == 1
        assert hub.live == {}
        seen = list(model.seen)
        # Before its turn has had a chance to begin, as well: in the very moment that it was queued.
        session = hub.session("t")
        await session.say(sender, "help", None)
        await session.end()
        assert hub.live == {}
        assert await hub.delete(None) == 1
        await hub.close()
        assert model.seen == seen
        return seen

    assert asyncio.run(run()) == ["begun", "let go"]


class QuotaError(ProviderError):
    """A service's own kind of it."""


class Refused(EmbeddedModel):
    """A model whose service has had enough."""

    async def _astream(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        if messages:
            raise QuotaError("provider_rate_limit", "The quota is used up.", retry=False, retry_after=7.0)
        for chunk in self._stream(messages, **kwargs):
            yield chunk


def test_a_providers_failure_is_known_by_its_type(make_instance: Callable[..., Instance]) -> None:
    """Every kind of it is told in its own words, and is no fault of the agent."""

    async def run() -> Any:
        instance = make_instance()
        snapshot = Snapshot(instance)
        past = EarlierRuns(instance, snapshot)
        hub = Hub(instance, snapshot, past)
        tools = Toolbox(instance, hub.redactor, snapshot, past)
        hub._making = asyncio.create_task(made(Agent(Refused(), tools, redactor=hub.redactor, longest_wait=1)))
        failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def send(event: Any) -> None:
            if (message := json.loads(event["text"]))["type"] == "error":
                failed.set_result(message)

        connection = Connection(hub, Outbox({}, send, 1_000_000))
        for document in ({"type": "init"}, {"type": "chat", "content": "help"}):
            await connection._take(json.dumps(document))
        try:
            return await asyncio.wait_for(failed, 30)
        finally:
            connection.gone()
            await hub.close()

    error = asyncio.run(run())
    assert (error["code"], error["message"]) == ("provider_rate_limit", "The quota is used up.")
    assert (error["retry"], error["retry_after"]) == (False, 7.0)


class Looked(Redactor):
    """Notes how many characters it has looked at."""

    seen = 0

    def text(self, text: str) -> str:
        self.seen += len(text)
        return super().text(text)


def test_what_is_refused_is_not_redacted(make_instance: Callable[..., Instance]) -> None:
    """Redaction takes longer than all the rest: it comes after whatever a frame could be refused for."""
    large = "x" * 50_000
    before = [
        {"type": "chat", "content": large},
        {"type": "dance", "content": large},
        {"type": 5, "content": large},
        {"content": large},
        {"type": "init", "workspace_path": large},
        {"type": "init", "session_id": large},
        {"type": "ping", "id": large},
    ]
    after = [
        {"type": "init", "workspace_path": large},
        {"type": "ping", "id": large},
        {"type": "ping", "other": large},
        {"type": "chat", "content": 5, "message": large},
        {"type": "dance", "content": large},
    ]

    async def run() -> int:
        instance = make_instance()
        snapshot = Snapshot(instance)
        hub = Hub(instance, snapshot, EarlierRuns(instance, snapshot))
        hub.redactor = redactor = Looked(["sk-canary-Zq7vXw2LmN8p"])
        sent: list[Any] = []

        async def send(event: Any) -> None:
            sent.append(json.loads(event["text"]))

        connection = Connection(hub, Outbox({}, send, 1_000_000))
        for document in (*before, {"type": "init"}, *after):
            await connection._take(json.dumps(document))
        if connection.outbox.pump is not None:
            await connection.outbox.pump
        connection.gone()
        await hub.close()
        assert [one["type"] for one in sent].count("error") == len(before) + len(after) - 1  # a ping may say more
        return redactor.seen

    assert asyncio.run(run()) < 10_000  # what was answered


def test_what_waits_for_a_client_that_does_not_read_is_a_setting(
    make_instance: Callable[..., Instance],
    make_services: Callable[..., Services],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beyond `chat_backlog`, and for a follower of the diagnostics `follower_backlog`, the connection is cut."""
    monkeypatch.setenv("PREFLIGHT_CHAT_BACKLOG", "2000")
    monkeypatch.setenv("PREFLIGHT_FOLLOWER_BACKLOG", "200")

    async def answered(serve: Callable[..., Awaitable[None]], scope: dict[str, Any]) -> int:
        """How many pings such a client sends before it is cut."""
        cut, never, pings = asyncio.Event(), asyncio.Event(), -1

        async def receive() -> dict[str, str]:
            nonlocal pings
            pings += 1
            await asyncio.sleep(0)
            done = cut.is_set() or pings > 40
            return {"type": "websocket.disconnect"} if done else {"type": "websocket.receive", "text": text}

        async def send(event: Any) -> None:
            if event["type"] == "websocket.send":
                await never.wait()

        text = '{"type": "ping"}'
        await serve({**scope, "extensions": {"preflight.abort": {"abort": cut.set}}}, receive, send)
        assert cut.is_set()
        return pings

    async def run() -> tuple[int, int]:
        made = make_services(make_instance())
        hub = Hub(made.instance, made.snapshot, made.past)
        counts = (
            await answered(functools.partial(connections.serve, hub), {}),
            await answered(Follow(), {"state": {services.STATE: made}}),
        )
        await hub.close()
        return counts

    chat, follower = asyncio.run(run())
    # An error of the chat, since there was no init, has some 150 characters; a pong of a follower has 16.
    assert 8 <= chat <= 20
    assert 10 <= follower <= 20
