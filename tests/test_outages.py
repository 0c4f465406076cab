"""A database that restarts, hangs, is read-only or away: sessions say so, lose nothing, and catch up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from server.sessions.model import NoSession, StoreError, TurnEnd
from server.sessions.postgres import database
from server.sessions.postgres.store import Store
from tests import databases
from tests.databases import PASSWORD, Postgres
from tests.engines import Engine, say

MINE = "pid <> pg_backend_pid() AND backend_type = 'client backend'"


@pytest.fixture(scope="module")
def own() -> Iterator[Postgres]:
    """A cluster that tests may stop."""
    with tempfile.TemporaryDirectory(prefix="own-") as folder, databases.postgres(Path(folder)) as server:
        yield server


@pytest.fixture
def engine(own: Postgres) -> Iterator[Engine]:
    """The sessions in it, without a pooler: that would hide the ends of connections."""
    if own.process is None:
        own.start()
    own.run("DROP SCHEMA IF EXISTS preflight CASCADE")
    yield Engine("postgresql", own.url())
    own.run("ALTER ROLE me RESET default_transaction_read_only")


def end_backends(server: Postgres, number: int) -> int:
    """Send a signal to whoever works for a client; returns to how many."""
    try:
        pids = [pid for (pid,) in server.rows(f"SELECT pid FROM pg_stat_activity WHERE {MINE}")]
    except psycopg.OperationalError:
        return 0  # it recovers from the last time
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return len(pids)


def signal_all(server: Postgres, number: int) -> None:
    """Send a signal to the server and all of its processes, each of which is a session of its own."""
    assert server.process is not None
    for process in (main := psutil.Process(server.process.pid), *main.children()):
        process.send_signal(number)


async def turn(store: Store, number: int) -> None:
    """A whole turn of the session."""
    await say(store, "s", f"t{number}", f"question {number}")
    assert await store.begin(f"t{number}")
    await store.finish("s", f"t{number}", TurnEnd("assistant", f"answer {number}"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["terminated", "killed"])
def test_backends_that_end_cost_a_pause(own: Postgres, engine: Engine, number: int) -> None:
    """Whichever step they end in: no turn fails, every message is there once, and so is its answer."""

    async def work(store: Store) -> int:
        count = ended = 0
        while count < (20 if number == signal.SIGTERM else 6) or ended < 3:
            going = asyncio.create_task(turn(store, count))
            await asyncio.sleep(random.uniform(0, 0.01))
            ended += await asyncio.to_thread(end_backends, own, number)
            await going
            count += 1
        transcript = (await store.export("s"))["transcript"]
        assert [line["content"] for line in transcript] == [
            f"{kind} {number}" for number in range(count) for kind in ("question", "answer")
        ]
        assert await store.open_turns("s") == []
        return ended

    assert engine.run(work) >= 3


@pytest.mark.slow
def test_a_server_that_is_away(own: Postgres, engine: Engine) -> None:
    """Callers are told so, with its age, soon and then at once; when it is back, everything is there."""

    async def work(store: Store) -> None:
        await turn(store, 1)
        await say(store, "s", "open")
        await asyncio.to_thread(own.stop)
        with pytest.raises(StoreError, match="has been unavailable for") as first:
            await say(store, "s", "refused")
        begun = time.monotonic()
        for _ in range(50):
            with pytest.raises(StoreError, match=r"has been unavailable for [5-9]|has been unavailable for \d\d"):
                await store.recent("s", limit=9, size=999)
        assert time.monotonic() - begun < database.PATIENCE  # fifty of them, and each would have waited that long
        assert PASSWORD not in str(first.value)
        await asyncio.to_thread(own.start)
        while True:
            try:
                assert await store.begin("open")
                break
            except StoreError:
                await asyncio.sleep(0.05)
        await store.finish("s", "open", TurnEnd("assistant", "late"))
        assert [line.content for line in await store.recent("s", limit=9, size=999)][-2:] == ["hello", "late"]

    engine.run(work)


@pytest.mark.slow
def test_a_server_that_hangs(own: Postgres, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given its time, and no more; what it was told is not done twice when it goes on."""
    monkeypatch.setattr(database, "LONGEST", 0.5)
    monkeypatch.setattr(database, "PATIENCE", 1.0)

    async def work(store: Store) -> None:
        await turn(store, 1)
        signal_all(own, signal.SIGSTOP)
        try:
            with pytest.raises(StoreError, match="has been unavailable for"):
                await say(store, "s", "t")
        finally:
            signal_all(own, signal.SIGCONT)
        while True:
            try:
                await say(store, "s", "t")
                break
            except StoreError:
                await asyncio.sleep(0.05)
        assert [one.turn_id for one in await store.open_turns("s")] == ["t"]

    engine.run(work)


@pytest.mark.slow
def test_a_server_that_is_read_only(own: Postgres, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As what was the primary is after its standby has taken over."""
    monkeypatch.setattr(database, "PATIENCE", 0.5)

    async def work(store: Store) -> None:
        await turn(store, 1)
        own.run("ALTER ROLE me SET default_transaction_read_only = on")
        for (pid,) in own.rows(f"SELECT pid FROM pg_stat_activity WHERE {MINE}"):
            own.run(f"SELECT pg_terminate_backend({pid})")
        with pytest.raises(StoreError, match="its transactions are read-only"):
            await say(store, "s", "t")
        # It is the role's own setting, which the statement itself may change back.
        own.run("BEGIN READ WRITE; ALTER ROLE me RESET default_transaction_read_only; COMMIT")
        while True:
            try:
                await say(store, "s", "t")
                break
            except StoreError:
                await asyncio.sleep(0.05)

    engine.run(work)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, words",
    [
        ({"password": "wrong"}, "the password is rejected"),
        ({"user": "nobody"}, "password is rejected|no such role"),
        ({"database": "gone"}, "there is no such database"),
    ],
)
def test_a_database_that_cannot_be_used(own: Postgres, engine: Engine, change: Any, words: str) -> None:
    """Each question says why, in one line and without the address."""

    async def work(store: Store) -> None:
        for _ in range(2):
            with pytest.raises(StoreError, match=words) as refused:
                await store.exists("s")
            assert "\n" not in str(refused.value)
            assert PASSWORD not in str(refused.value)

    Engine("postgresql", own.url(**change)).run(work)


@pytest.mark.slow
def test_a_caller_who_gives_up_takes_nothing_back(engine: Engine) -> None:
    """What was begun for somebody who is cancelled is finished: nobody knows whether it was done already."""

    async def work(store: Store) -> None:
        await store.exists("s")
        saying = asyncio.create_task(say(store, "s", "t"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        saying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saying
        await store.database.close()

    engine.run(work)

    async def look(store: Store) -> None:
        with pytest.raises(NoSession):
            await store.export("none")

    engine.run(look)
