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

from server.sessions.model import Line, StoreError, TooManySessions, TurnEnd
from server.sessions.owner import alive, identity, whoami
from server.sessions.store import Store

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
        await store.finish("s", "t", TurnEnd("assistant", "hi"))
        assert await store.open_turns("s") == []
        answer = await store.seen("s", "t")
        assert isinstance(answer, Line)
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


def test_limits(path: Path) -> None:
    """The number of sessions, and their age; what is in use is spared."""

    async def number(store: Store) -> None:
        for name in ("a", "b", "c"):
            await say(store, name, f"turn {name}")
        assert [one["session_id"] for one in (await store.page(offset=0, limit=9))[0]] == ["c", "b"]
        await say(store, "d", "turn d", keep={"b"})
        assert {one["session_id"] for one in (await store.page(offset=0, limit=9))[0]} == {"b", "d"}
        with pytest.raises(TooManySessions):
            await say(store, "e", "turn e", keep={"b", "d"})

    with_store(path.with_name("number"), number, limit=2)

    async def old(store: Store) -> None:
        await say(store, "old", "t")
        await store.database.run(
            lambda db: db.execute("UPDATE sessions SET updated = ?", (time.time() - 2 * DAY,)), "write"
        )
        await say(store, "new", "u")
        assert not await store.exists("old")

    with_store(path, old)


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


@pytest.mark.slow
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
