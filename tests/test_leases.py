"""Whose a turn is, where the sessions are in PostgreSQL: one instance's at a time, by a lease with an epoch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata, empty_checkpoint
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.postgres.base import MIGRATIONS
from psycopg.rows import dict_row

from server.sessions.model import Line, NoSession, Open, StoreError, TurnEnd, TurnTaken
from server.sessions.postgres import store as stores
from server.sessions.postgres import tables
from server.sessions.postgres.store import Store
from tests.databases import PASSWORD, Postgres
from tests.engines import Engine, say

END = "UPDATE preflight.chat_turns SET expires = now()"  # of every lease, as if its owner had been silent for long
Both = Callable[[Callable[[Store, Store], Awaitable[None]]], None]


@contextlib.asynccontextmanager
async def two(url: str, **changes: Any) -> AsyncIterator[tuple[Store, Store]]:
    """Two instances."""
    engine = Engine("postgresql", url)
    async with engine.store(**changes) as one, engine.store(**changes) as other:
        yield one, other


@pytest.fixture
def both(database_url: str) -> Both:
    """Runs something on two instances."""

    def run(work: Callable[[Store, Store], Awaitable[None]]) -> None:
        async def run() -> None:
            async with two(database_url) as stores:
                await work(*stores)

        asyncio.run(run())

    return run


async def found(store: Store, turn: str = "t", session: str = "s") -> Open:
    """A turn that is not answered yet."""
    seen = await store.seen(session, turn)
    assert isinstance(seen, Open)
    return seen


async def remember(store: Store, turn: str, text: str, session: str = "s") -> None:
    """Write a checkpoint, as the graph does at the end of a turn."""
    checkpoint: Checkpoint = empty_checkpoint()
    checkpoint["channel_values"] = {"memory": [text], "query": text}
    version = f"{len(text)}.{text!r}"
    checkpoint["channel_versions"] = {"memory": version, "query": version}
    config: Any = {"configurable": {"thread_id": session, "turn_id": turn, "checkpoint_ns": ""}}
    metadata = CheckpointMetadata(source="loop", step=1)
    await (await store.checkpointer()).aput(config, checkpoint, metadata, checkpoint["channel_versions"])


async def memory(store: Store, session: str = "s") -> Any:
    """What the graph remembers."""
    kept = await (await store.checkpointer()).aget_tuple({"configurable": {"thread_id": session}})
    return kept and kept.checkpoint["channel_values"]


@pytest.mark.slow
def test_what_a_stale_owner_writes_is_refused(both: Both) -> None:
    """Its beginning, its checkpoint and its answer: the turn ends once, with the answer of whoever took it over."""

    async def work(first: Store, second: Store) -> None:
        await say(first, "s", "t")
        assert await first.begin("t")
        assert (await found(second)).held is True
        assert await second.claim(await found(second)) is None
        await first.database.execute(END)
        assert await second.claim(await found(second)) == 1
        with pytest.raises(TurnTaken):
            await remember(first, "t", "stale")
        with pytest.raises(TurnTaken):
            await first.begin("t")
        with pytest.raises(TurnTaken):
            await first.finish("s", "t", TurnEnd("assistant", "stale"))
        assert await second.begin("t")
        await remember(second, "t", "fresh")
        line = await second.finish("s", "t", TurnEnd("assistant", "fresh"))
        with pytest.raises(TurnTaken):
            await remember(first, "t", "stale")
        assert await first.finish("s", "t", TurnEnd("assistant", "stale")) == line
        transcript = (await first.export("s"))["transcript"]
        assert [one["content"] for one in transcript] == ["hello", "fresh"]
        assert await memory(first) == {"memory": ["fresh"], "query": "fresh"}

    both(work)


def test_a_lease_is_renewed_while_its_turn_is_worked_on(database_url: str) -> None:
    """And ends when the instance does, at once."""

    async def work() -> None:
        engine = Engine("postgresql", database_url)
        async with engine.store() as other:
            async with engine.store(lease=0.3) as store:
                await say(store, "s", "t")
                await say(store, "s", "u")
                seen: set[object] = set()
                question = "SELECT DISTINCT expires FROM preflight.chat_turns"
                while len(seen) < 4:
                    seen |= {row["expires"] for row in await other.database.rows(question)}
                    await asyncio.sleep(0.01)
                await store.finish("s", "u", TurnEnd("assistant", "done"))
            assert (await found(other)).held is False
            assert await other.claim(await found(other)) == 0

    asyncio.run(work())


def test_one_turn_of_a_session_runs_at_a_time(both: Both) -> None:
    """A turn waits for an earlier one that another instance works on, and not for one that nobody works on."""

    async def work(first: Store, second: Store) -> None:
        await say(first, "s", "t")
        await say(second, "s", "u")
        await say(second, "another", "v")
        assert await second.begin("u") is False
        assert await second.begin("v") is True
        assert await first.begin("t") is True
        assert await second.begin("u") is False
        await first.release(["t"])
        assert await second.begin("u") is True
        assert [one.attempts for one in await second.open_turns("s")] == [1, 1]

    both(work)


def test_what_was_done_before_the_connection_broke_is_done_once(both: Both) -> None:
    """Each step is tried again where nobody knows whether it was done: the second time finds the first one's work."""

    async def work(first: Store, second: Store) -> None:
        taken = await say(first, "s", "t", client="mine")
        assert await say(first, "s", "t", client="mine") == taken
        for _ in range(2):
            first.leases.of("t").attempts = 0
            assert await first.begin("t")
        await first.release(["t"])
        open_ = await found(second)
        assert [await second.claim(open_), await second.claim(open_)] == [1, 1]
        line = await second.finish("s", "t", TurnEnd("assistant", "hi"))
        second.leases.keep("t", open_.epoch + 1, 1)
        assert await second.finish("s", "t", TurnEnd("assistant", "hi")) == line
        exported = await first.export("s")
        assert [one["content"] for one in exported["transcript"]] == ["hello", "hi"]
        assert (exported["messages"], exported["bytes"]) == (2, 7)

    both(work)


def test_a_session_that_another_instance_deletes(both: Both) -> None:
    """Its turn ends nowhere, and what it still writes leaves no text behind."""

    async def work(first: Store, second: Store) -> None:
        await say(first, "s", "t")
        assert await first.begin("t")
        await remember(first, "t", "before")
        assert await second.delete(None) == 1
        with pytest.raises(TurnTaken, match="deleted"):
            await remember(first, "t", "after")
        with pytest.raises(TurnTaken, match="deleted"):
            await first.begin("t")
        with pytest.raises(NoSession):
            await first.finish("s", "t", TurnEnd("assistant", "late"))
        for table in ("chat_transcript", "chat_turns", "checkpoints", "checkpoint_blobs"):
            assert await first.database.rows(f"SELECT * FROM preflight.{table}") == []

    both(work)


def test_old_sessions_make_room(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """By age and by number; not those in use here, nor those in which a turn is worked on elsewhere."""

    async def work(first: Store, second: Store) -> None:
        monkeypatch.setattr(stores, "TIDY", 0.0)
        for name in ("answered", "kept", "asked"):
            await say(second, name, f"turn of {name}")
        await second.finish("answered", "turn of answered", TurnEnd("assistant", "hi"))
        await second.finish("kept", "turn of kept", TurnEnd("assistant", "hi"))
        await second.database.execute("UPDATE preflight.chat_sessions SET updated = now() - interval '2 days'")
        await say(first, "new", "t", keep={"kept"})
        assert [await first.exists(name) for name in ("answered", "kept", "asked", "new")] == [False, True, True, True]
        await second.release(["turn of asked"])
        monkeypatch.setattr(first, "_limit", 2)
        await say(first, "newer", "u", keep={"new"})
        listed, total = await first.page(offset=0, limit=9)
        assert ([one["session_id"] for one in listed], total) == (["newer", "new"], 2)

    both(work)


# What the graph remembers.


def test_only_the_newest_checkpoint_is_kept(both: Both) -> None:
    """With its blobs, however many turns a session has."""

    async def work(first: Store, second: Store) -> None:
        await say(first, "s", "t")
        for number in range(5):
            await remember(first, "t", f"text {number}\0")
        assert await memory(second) == {"memory": ["text 4\0"], "query": "text 4\ufffd"}
        for table in ("checkpoints", "checkpoint_blobs"):
            assert len(await first.database.rows(f"SELECT * FROM preflight.{table}")) == 1

    both(work)


def test_checkpoints_do_not_wait_for_each_other(both: Both, database_url: str) -> None:
    """One that has to wait holds up no other: LangGraph's own lock around its pool would."""

    async def work(first: Store, second: Store) -> None:
        for name in ("s", "other"):
            await say(first, name, f"turn of {name}")
        async with await psycopg.AsyncConnection.connect(database_url, prepare_threshold=None) as lock:
            await lock.execute("SELECT FROM preflight.chat_turns WHERE session = 's' FOR UPDATE")
            waits = asyncio.create_task(remember(first, "turn of s", "late"))
            question = "SELECT count(*) AS count FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while True:
                if (await second.database.rows(question))[0]["count"]:
                    break
                await asyncio.sleep(0.01)
            await remember(first, "turn of other", "early", "other")
            assert (await memory(first, "other"))["query"] == "early"
            assert not waits.done()
        await waits
        assert (await memory(first))["query"] == "late"

    both(work)


def test_nothing_stays_in_the_pooler_s_connections(both: Both) -> None:
    """LangGraph's statements find their tables by a search_path that ends with its transaction."""

    async def work(first: Store, second: Store) -> None:
        await say(first, "s", "t")
        await remember(first, "t", "text")
        for store in (first, second):
            assert await store.database.rows("SHOW search_path") == [{"search_path": '"$user", public'}]

    both(work)


def test_the_tables_are_langgraph_s(cluster: Postgres, database_url: str) -> None:
    """Columns, keys and indexes, as its own setup makes them: a release with more migrations needs a step of ours."""
    assert len(MIGRATIONS) == tables.MEMORY_VERSION + 1

    async def make() -> None:
        async with Engine("postgresql", database_url).store() as store:
            await store.exists("s")
        url = cluster.url()
        async with await psycopg.AsyncConnection.connect(url, autocommit=True, row_factory=dict_row) as connection:
            await connection.execute("DROP SCHEMA IF EXISTS theirs CASCADE")
            await connection.execute("CREATE SCHEMA theirs")
            await connection.execute("SET search_path TO theirs")
            await AsyncPostgresSaver(connection).setup()

    asyncio.run(make())

    def of(schema: str) -> tuple[Any, ...]:
        columns = cluster.rows(
            "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns"
            f" WHERE table_schema = '{schema}' AND table_name LIKE 'checkpoint%' ORDER BY 1, 2"
        )
        indexes = cluster.rows(
            f"SELECT tablename, replace(indexdef, '{schema}.', '') FROM pg_indexes WHERE schemaname = '{schema}'"
            " AND tablename LIKE 'checkpoint%' ORDER BY 1, 2"
        )
        versions = cluster.rows(f"SELECT v FROM {schema}.checkpoint_migrations ORDER BY 1")
        return columns, indexes, versions

    ours, theirs = of("preflight"), of("theirs")
    assert ours == theirs
    assert len(ours[0]) > 20


def test_more_callers_than_connections(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait for each other, however long: a database that is busy is not away."""
    from server.sessions.postgres import database

    monkeypatch.setattr(database, "TRY", 0.5)

    async def work(store: Store) -> None:
        await store.exists("s")
        await asyncio.gather(*(store.database.rows("SELECT pg_sleep(0.3)") for _ in range(8)))

    Engine("postgresql", database_url).run(work, connections=2)


# Others.


def test_another_tenant_of_the_database_sees_nothing(cluster: Postgres, database_url: str) -> None:
    """A role of its own in the same database neither reads a session nor takes a turn."""
    Engine("postgresql", database_url).run(lambda store: say(store, "s", "t", "a secret"))
    if not cluster.rows("SELECT FROM pg_roles WHERE rolname = 'tenant'"):
        cluster.role("tenant")
    with psycopg.connect(cluster.url(user="tenant"), autocommit=True) as tenant:
        for statement in (
            "SELECT content FROM preflight.chat_transcript",
            "SELECT blob FROM preflight.checkpoint_blobs",
            "UPDATE preflight.chat_turns SET owner = 'me', epoch = epoch + 1",
            "DELETE FROM preflight.chat_sessions",
            "CREATE TABLE preflight.chat_more (x integer)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                tenant.execute(statement)


@pytest.mark.parametrize("version, words", [(3, "understands 2 at most"), (2, "")])
def test_tables_of_a_newer_release(cluster: Postgres, database_url: str, version: int, words: str) -> None:
    """One step ahead they are used, as during a rolling update; further ahead sessions refuse, and write nothing."""
    engine = Engine("postgresql", database_url)
    engine.run(lambda store: store.exists("s"))
    cluster.run(f"INSERT INTO preflight.migrations (subject, number) SELECT 'chat', generate_series(2, {version})")

    async def work(store: Store) -> None:
        if not words:
            await say(store, "s", "t")
            return
        with pytest.raises(StoreError, match=words) as refused:
            await say(store, "s", "t")
        assert PASSWORD not in str(refused.value)

    engine.run(work)
    assert cluster.ask("SELECT count(*) FROM preflight.chat_sessions") == (0 if words else 1,)


def test_an_answer_of_another_instance_is_seen(both: Both) -> None:
    """By whoever waits for it."""

    async def work(first: Store, second: Store) -> None:
        await say(first, "s", "t")
        assert (await found(second)).held is True
        await first.finish("s", "t", TurnEnd("error", "slow down", "provider_rate_limit", True, 2.5))
        line = await second.seen("s", "t")
        assert isinstance(line, Line)
        assert (line.content, line.code, line.retry, line.retry_after) == (
            "slow down", "provider_rate_limit", True, 2.5,
        )  # fmt: skip
        assert await second.seen("s", "none") is None

    both(work)
