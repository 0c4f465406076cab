"""The store of sessions: what is accepted is on disk, limits hold, and a disk that fails is said."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from server.sessions.database import StoreError
from server.sessions.owner import alive, identity, whoami
from server.sessions.store import NoSession, Reply, SessionFull, Store, TooManySessions

DAY = 86400.0


def with_store(path: Path, work: Callable[[Store], Awaitable[Any]], **changes: Any) -> Any:
    """Run `work` on a store of this file, then close it."""

    async def run() -> Any:
        store = Store(path, **{"age": DAY, "limit": 100, "size": 100_000, **changes})
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


async def say(store: Store, session: str, turn: str, text: str = "hello", **changes: Any) -> Any:
    return await store.accept(session, turn, text, **{"client": None, "workspace": None, "keep": (), **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "sessions.sqlite"


def test_accepted_is_on_disk(path: Path) -> None:
    """Another connection to the file sees the message the moment that it is accepted."""

    async def work(store: Store) -> None:
        taken = await say(store, "s", "t", workspace="/w")
        with sqlite3.connect(path) as other:
            assert other.execute("SELECT turn, content FROM transcript").fetchall() == [("t", "hello")]
            assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        other.close()
        assert taken.duplicate is False
        assert [turn.turn_id for turn in await store.open_turns("s")] == ["t"]
        await store.finish("s", "t", Reply("assistant", "hi"))
        assert await store.open_turns("s") == []
        answer = await store.answer_of("s", "t")
        assert answer is not None
        assert (answer.role, answer.content) == ("assistant", "hi")

        files = [path.with_name(path.name + ending) for ending in ("", "-wal", "-shm")]
        assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 3

    with_store(path, work)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_files_of_others(path: Path) -> None:
    """A database that others could read is closed to them; one behind a link is not used at all."""

    async def work(store: Store) -> None:
        await say(store, "s", "t")

    with_store(path, work)
    path.chmod(0o644)
    with_store(path, work_again)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(StoreError, match="is a symbolic link"):
        with_store(path, work)


async def work_again(store: Store) -> None:
    await say(store, "s", "again")


def test_a_message_with_a_known_id_is_taken_once(path: Path) -> None:
    """Of two connections that send it at the same moment as well."""

    async def work(store: Store) -> None:
        both = await asyncio.gather(*(say(store, "s", turn, client="mine") for turn in ("a", "b")))
        assert [taken.duplicate for taken in both] == [False, True]
        assert both[0].turn_id == both[1].turn_id
        assert (await say(store, "other", "c", client="mine")).duplicate is False

    with_store(path, work)


def test_history_in_pages(path: Path) -> None:
    """The last lines, oldest first, bounded by number and size."""

    async def work(store: Store) -> None:
        for number in range(5):
            await say(store, "s", f"t{number}", f"text {number}")
        lines, more = await store.history("s", before=None, limit=2, size=1000)
        assert ([line.content for line in lines], more) == (["text 3", "text 4"], True)
        lines, more = await store.history("s", before=lines[0].seq, limit=10, size=1000)
        assert ([line.content for line in lines], more) == (["text 0", "text 1", "text 2"], False)
        lines, more = await store.history("s", before=None, limit=10, size=1)
        assert ([line.content for line in lines], more) == (["text 4"], True)
        assert await store.history("none", before=None, limit=10, size=1) == ([], False)

    with_store(path, work)


def test_the_last_lines_reach_back_to_the_oldest_open_turn(path: Path) -> None:
    """However many lines came after it, and however long they are; without one they are bounded."""

    async def work(store: Store) -> None:
        await say(store, "s", "before")
        await store.finish("s", "before", Reply("assistant", "done"))
        await say(store, "s", "open", "the oldest")
        for number in range(4):
            await say(store, "s", f"t{number}", "x" * 50)
            await store.finish("s", f"t{number}", Reply("assistant", "y" * 50))
        lines = await store.recent("s", limit=2, size=60)
        assert [line.turn_id for line in lines] == ["open", "t0", "t0", "t1", "t1", "t2", "t2", "t3", "t3"]
        assert len(await store.recent("s", limit=10, size=1000)) == 10
        await store.finish("s", "open", Reply("assistant", "at last"))
        assert [line.content for line in await store.recent("s", limit=2, size=60)] == ["y" * 50, "at last"]

    with_store(path, work)


def test_a_failed_turn_keeps_what_was_said_of_trying_again(path: Path) -> None:
    """For who asks later: whether it may help, and how long to wait."""

    async def work(store: Store) -> None:
        await say(store, "s", "t")
        await store.finish("s", "t", Reply("error", "slow down", "provider_rate_limit", True, 2.5))
        await say(store, "s", "u")
        await store.finish("s", "u", Reply("error", "no", "provider_auth", False))
        hints = [(line.code, line.retry, line.retry_after) for line in await store.recent("s", limit=9, size=999)]
        assert hints == [
            (None, None, None),
            ("provider_rate_limit", True, 2.5),
            (None, None, None),
            ("provider_auth", False, None),
        ]
        assert (await store.export("s"))["transcript"][1]["retry_after"] == 2.5

    with_store(path, work)


def test_limits(path: Path) -> None:
    """A session's size, the number of sessions, and their age; what is in use is spared."""

    async def size(store: Store) -> None:
        await say(store, "s", "a", "x" * 60)
        with pytest.raises(SessionFull, match="100 bytes"):
            await say(store, "s", "b", "x" * 60)
        with pytest.raises(SessionFull):
            await say(store, "new", "c", "é" * 60)
        assert not await store.exists("new")

    async def number(store: Store) -> None:
        for name in ("a", "b", "c"):
            await say(store, name, f"turn {name}")
        assert [one["session_id"] for one in (await store.page(offset=0, limit=9))[0]] == ["c", "b"]
        await say(store, "d", "turn d", keep={"b"})
        assert {one["session_id"] for one in (await store.page(offset=0, limit=9))[0]} == {"b", "d"}
        with pytest.raises(TooManySessions):
            await say(store, "e", "turn e", keep={"b", "d"})

    with_store(path.with_name("size"), size, size=100)
    with_store(path.with_name("number"), number, limit=2)

    async def old(store: Store) -> None:
        await say(store, "old", "t")
        await store.database.run(
            lambda db: db.execute("UPDATE sessions SET updated = ?", (time.time() - 2 * DAY,)), "write"
        )
        await say(store, "new", "u")
        assert not await store.exists("old")

    with_store(path, old)


def test_export_and_delete(path: Path) -> None:
    """What was exported is all of it; what was deleted is gone, and a turn that ends later adds nothing."""

    async def work(store: Store) -> None:
        await say(store, "s", "t")
        await say(store, "u", "v")
        exported = await store.export("s")
        assert exported["unanswered"] == 1
        assert [line["content"] for line in exported["transcript"]] == ["hello"]
        assert await store.delete(["s", "none"]) == 1
        with pytest.raises(NoSession):
            await store.export("s")
        with pytest.raises(NoSession):
            await store.finish("s", "t", Reply("assistant", "too late"))
        with pytest.raises(NoSession):
            await store.begin("t")
        assert await store.delete(None) == 1

    with_store(path, work)


def test_turns_of_a_process_that_is_gone_are_taken_over_once(path: Path) -> None:
    """Their beginnings are counted, and neither their acceptance nor who took them over."""

    async def first(store: Store) -> None:
        await say(store, "s", "t")
        assert [turn.attempts for turn in await store.open_turns("s")] == [0]
        await store.begin("t")

    async def second(store: Store) -> None:
        [found] = await store.open_turns("s")
        assert (found.owner, found.attempts) == ("1:dead", 1)
        assert not alive(found.owner)
        taken = await asyncio.gather(store.claim("t", found.owner), store.claim("t", found.owner))
        assert sorted(map(str, taken)) == ["1", "None"]

    with_store(path, first, owner="1:dead")
    with_store(path, second)
    assert alive(whoami())


@pytest.mark.parametrize("version, age", [(99, "a newer"), (1, "an older")])
def test_a_file_of_another_version_is_left_alone(path: Path, version: int, age: str) -> None:
    """Every question says so."""
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()

    async def refused(store: Store) -> None:
        with pytest.raises(StoreError, match=f"{age} version"):
            await say(store, "s", "t")

    with_store(path, refused)
    assert path.read_bytes() == before


def test_a_process_is_itself_whatever_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """While an instance is replaced the clock may be set: its turns are not done twice for that."""
    owner = whoami()
    assert alive(owner)
    boot_time = psutil._pslinux.boot_time
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot_time() + 3600)  # moves with the clock
    assert alive(owner)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        owner = identity(other.pid)
        assert owner != whoami()
        assert alive(owner)
        other.communicate(b"\n")
    assert not alive(owner)
    assert not alive(owner.replace(str(other.pid), str(os.getpid()), 1))


def test_a_turn_ends_once(path: Path) -> None:
    """Who is late learns how it ended: that is what is said of it from then on."""

    async def work(store: Store) -> None:
        await say(store, "s", "t")
        first = await store.finish("s", "t", Reply("assistant", "first"))
        assert await store.finish("s", "t", Reply("error", "second", "timeout")) == first
        assert (first.role, first.content, first.seq) == ("assistant", "first", 2)

    with_store(path, work)
