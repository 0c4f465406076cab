"""``--import-sessions``: the sessions of a file go to the database, each once, and the file stays as it is."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import CheckpointMetadata, empty_checkpoint

from preflight.settings import loading
from server.sessions import importing
from server.sessions.model import Sessions, TurnEnd
from server.sessions.owner import whoami
from tests.databases import Postgres
from tests.engines import Engine, say

ROOT = Path(__file__).parents[1]


@pytest.fixture
def command(database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command in this process; its exit code and what it says."""

    def run(url: str | None = database_url) -> tuple[int, str]:
        monkeypatch.delenv("PREFLIGHT_DATABASE_URL", raising=False)
        if url is not None:
            monkeypatch.setenv("PREFLIGHT_DATABASE_URL", url)
        code = importing.run(loading.load(ROOT, options={"demo": True}))
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


@pytest.fixture
def file(home: Path) -> Engine:
    """The sessions of the state folder."""
    return Engine("sqlite", home / "state" / "sessions.sqlite")


async def remember(store: Any, session: str, turn: str, text: str) -> None:
    """Write a checkpoint, as the graph does at the end of a turn."""
    checkpoint = empty_checkpoint()
    checkpoint["channel_values"] = {"memory": [text], "query": text}
    checkpoint["channel_versions"] = {"memory": f"{turn}.1", "query": f"{turn}.1"}
    config: Any = {"configurable": {"thread_id": session, "turn_id": turn, "checkpoint_ns": ""}}
    await (await store.checkpointer()).aput(
        config, checkpoint, CheckpointMetadata(source="loop", step=1), checkpoint["channel_versions"]
    )


async def fill(store: Sessions) -> None:
    """Three sessions: one with a past, one with a turn that was left in its middle, one with everything else."""
    for number in range(3):
        await say(store, "past", f"p{number}", f"question {number}", client=f"mine {number}", workspace="/w")
        await store.begin(f"p{number}")
        await remember(store, "past", f"p{number}", f"memory {number}")
        await store.finish("past", f"p{number}", TurnEnd("assistant", f"answer {number}"))
    await say(store, "left", "l", "left")
    await store.begin("l")
    await say(store, "other", "o", "NUL \0")
    await store.finish("other", "o", TurnEnd("error", "slow down", "provider_rate_limit", True, 2.5))


def everything(store_of: Engine) -> dict[str, Any]:
    """All sessions as they are exported, without the numbers of their lines."""

    async def work(store: Sessions) -> dict[str, Any]:
        listed, _ = await store.page(offset=0, limit=100)
        found = {one["session_id"]: await store.export(one["session_id"]) for one in listed}
        for one in found.values():
            for line in one["transcript"]:
                del line["seq"]
        return found

    kept: dict[str, Any] = store_of.run(work)
    return kept


def test_all_of_it_is_there_once(file: Engine, database_url: str, command: Callable[..., tuple[int, str]]) -> None:
    """As it was: texts, times, the sender's own ids, errors, what the graph remembers, and turns without an answer."""
    file.run(fill, owner="1:dead")
    before = everything(file)
    code, said = command()
    assert code == 0, said
    assert "3 sessions with 9 new messages." in said
    database = Engine("postgresql", database_url)
    after = everything(database)
    assert after["past"] == before["past"]
    assert after["left"] == before["left"]
    assert after["other"]["transcript"][0]["content"] == "NUL \ufffd"
    assert everything(file) == before

    async def go_on(store: Any) -> None:
        [found] = await store.open_turns("left")
        assert (found.turn_id, found.held, found.attempts) == ("l", False, 1)
        assert await store.claim(found) == 1
        await store.finish("left", "l", TurnEnd("assistant", "at last"))
        kept = await (await store.checkpointer()).aget_tuple({"configurable": {"thread_id": "past"}})
        assert kept.checkpoint["channel_values"] == {"memory": ["memory 2"], "query": "memory 2"}
        assert (await say(store, "past", "again", "x", client="mine 1")).turn_id == "p1"
        await say(store, "past", "p9", "in the database")

    database.run(go_on)
    went_on = everything(database)
    code, said = command()
    assert code == 0
    assert "0 sessions with 0 new messages. Sessions that were already there: 3." in said
    assert everything(database) == went_on

    async def more(store: Sessions) -> None:
        await say(store, "past", "p4", "in the file")

    file.run(more, owner="1:dead")
    code, said = command()
    assert "1 session with 1 new message." in said
    assert [line["content"] for line in everything(database)["past"]["transcript"]][-2:] == [
        "in the database",
        "in the file",
    ]


def test_a_session_in_use_is_left(file: Engine, database_url: str, command: Callable[..., tuple[int, str]]) -> None:
    """A running server would go on in the file, and nobody would see it."""

    async def use(store: Sessions) -> None:
        await say(store, "used", "u")
        code, said = await asyncio.to_thread(command)
        assert code == 1
        assert "a running server is answering in them: used." in said
        await store.finish("used", "u", TurnEnd("assistant", "hi"))

    file.run(fill, owner="1:dead")
    file.run(use, owner=whoami())
    assert set(everything(Engine("postgresql", database_url))) == {"past", "left", "other"}
    assert command()[0] == 0
    assert "used" in everything(Engine("postgresql", database_url))


def test_what_cannot_be_imported(file: Engine, command: Callable[..., tuple[int, str]], cluster: Postgres) -> None:
    """One line says why, and what to do."""
    assert command()[1].startswith("There are no sessions to import")
    file.run(fill, owner="1:dead")
    code, said = command(cluster.url(password="wrong"))
    assert code == 1
    assert "the password is rejected" in said
    assert len(said.splitlines()) == 1
    code, said = command(None)
    assert code == 2
    assert "PREFLIGHT_DATABASE_URL is not set" in said


@pytest.mark.slow
def test_as_it_is_typed(file: Engine, database_url: str) -> None:
    """An option of this project's own, which --help lists."""
    file.run(fill, owner="1:dead")
    environ = {**os.environ, "PREFLIGHT_DATABASE_URL": database_url}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "run.py", *options]
        return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)

    done = run("--import-sessions", "--demo")
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 sessions with 9 new messages." in done.stdout
    assert "--import-sessions" in run("--help").stdout
    both = run("--import-sessions", "--check-only")
    assert (both.returncode, "--check-only cannot be used with another command" in both.stderr) == (2, True)
