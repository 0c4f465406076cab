"""What holds for the sessions wherever they are: in a SQLite file, and in PostgreSQL behind PgBouncer."""

from __future__ import annotations

import asyncio

import pytest

from server.sessions.model import NoSession, SessionFull, Sessions, TurnEnd, TurnTaken
from tests.engines import Engine, say


def test_accepted_is_stored(engine: Engine) -> None:
    """Another process sees the message the moment that it is accepted, and how its turn ends."""

    async def work(store: Sessions) -> None:
        taken = await say(store, "s", "t", workspace="/w")
        assert taken.duplicate is False
        async with engine.store(owner="2:other") as other:
            [found] = await other.open_turns("s")
            assert (found.turn_id, found.content, found.attempts, found.id) == ("t", "hello", 0, None)
            assert found.held is True
            assert await other.seen("s", "t") == found
            assert await store.begin("t")
            assert [turn.attempts for turn in await other.open_turns("s")] == [1]
            line = await store.finish("s", "t", TurnEnd("assistant", "hi"))
            assert (line.role, line.content) == ("assistant", "hi")
            assert await other.seen("s", "t") == line
            assert await other.open_turns("s") == []
            assert await other.seen("s", "none") is None

    engine.run(work)


def test_a_message_with_a_known_id_is_taken_once(engine: Engine) -> None:
    """Of two connections that send it at the same moment as well."""

    async def work(store: Sessions) -> None:
        both = await asyncio.gather(*(say(store, "s", turn, client="mine") for turn in ("a", "b")))
        assert sorted(taken.duplicate for taken in both) == [False, True]
        assert both[0].turn_id == both[1].turn_id
        assert (await say(store, "other", "c", client="mine")).duplicate is False

    engine.run(work)


def test_history_in_pages(engine: Engine) -> None:
    """The last lines, oldest first, bounded by number and size."""

    async def work(store: Sessions) -> None:
        for number in range(5):
            await say(store, "s", f"t{number}", f"text {number}")
        lines, more = await store.history("s", before=None, limit=2, size=1000)
        assert ([line.content for line in lines], more) == (["text 3", "text 4"], True)
        lines, more = await store.history("s", before=lines[0].seq, limit=10, size=1000)
        assert ([line.content for line in lines], more) == (["text 0", "text 1", "text 2"], False)
        lines, more = await store.history("s", before=None, limit=10, size=1)
        assert ([line.content for line in lines], more) == (["text 4"], True)
        assert await store.history("none", before=None, limit=10, size=1) == ([], False)

    engine.run(work)


def test_the_last_lines_reach_back_to_the_oldest_open_turn(engine: Engine) -> None:
    """However many lines came after it, and however long they are; without one they are bounded."""

    async def work(store: Sessions) -> None:
        await say(store, "s", "before")
        await store.finish("s", "before", TurnEnd("assistant", "done"))
        await say(store, "s", "open", "the oldest")
        for number in range(4):
            await say(store, "s", f"t{number}", "x" * 50)
            await store.finish("s", f"t{number}", TurnEnd("assistant", "y" * 50))
        lines = await store.recent("s", limit=2, size=60)
        assert [line.turn_id for line in lines] == ["open", "t0", "t0", "t1", "t1", "t2", "t2", "t3", "t3"]
        assert len(await store.recent("s", limit=10, size=1000)) == 10
        await store.finish("s", "open", TurnEnd("assistant", "at last"))
        assert [line.content for line in await store.recent("s", limit=2, size=60)] == ["y" * 50, "at last"]

    engine.run(work)


def test_a_failed_turn_keeps_what_was_said_of_trying_again(engine: Engine) -> None:
    """For who asks later: whether it may help, and how long to wait."""

    async def work(store: Sessions) -> None:
        await say(store, "s", "t")
        await store.finish("s", "t", TurnEnd("error", "slow down", "provider_rate_limit", True, 2.5))
        await say(store, "s", "u")
        await store.finish("s", "u", TurnEnd("error", "no", "provider_auth", False))
        hints = [(line.code, line.retry, line.retry_after) for line in await store.recent("s", limit=9, size=999)]
        assert hints == [
            (None, None, None),
            ("provider_rate_limit", True, 2.5),
            (None, None, None),
            ("provider_auth", False, None),
        ]
        assert (await store.export("s"))["transcript"][1]["retry_after"] == 2.5

    engine.run(work)


def test_export_and_delete(engine: Engine) -> None:
    """What was exported is all of it; what was deleted is gone, and a turn that ends later adds nothing."""

    async def work(store: Sessions) -> None:
        await say(store, "s", "t")
        await say(store, "u", "v")
        exported = await store.export("s")
        assert exported["unanswered"] == 1
        assert [line["content"] for line in exported["transcript"]] == ["hello"]
        assert await store.delete(["s", "none"]) == 1
        with pytest.raises(NoSession):
            await store.export("s")
        with pytest.raises(NoSession):
            await store.finish("s", "t", TurnEnd("assistant", "too late"))
        with pytest.raises(TurnTaken):
            await store.begin("t")
        assert await store.delete(None) == 1

    engine.run(work)


def test_a_turn_ends_once(engine: Engine) -> None:
    """Who is late learns how it ended: that is what is said of it from then on."""

    async def work(store: Sessions) -> None:
        await say(store, "s", "t")
        first = await store.finish("s", "t", TurnEnd("assistant", "first"))
        assert await store.finish("s", "t", TurnEnd("error", "second", "timeout")) == first
        assert (first.role, first.content) == ("assistant", "first")

    engine.run(work)


def test_a_session_is_full(engine: Engine) -> None:
    """More text than its size is not accepted, and makes no session."""

    async def work(store: Sessions) -> None:
        await say(store, "s", "a", "x" * 60)
        with pytest.raises(SessionFull, match="100 bytes"):
            await say(store, "s", "b", "x" * 60)
        with pytest.raises(SessionFull):
            await say(store, "new", "c", "é" * 60)
        assert not await store.exists("new")

    engine.run(work, size=100)


def test_turns_of_a_process_that_has_ended_are_taken_over_once(engine: Engine) -> None:
    """Their beginnings are counted, and neither their acceptance nor who took them over."""

    async def first(store: Sessions) -> None:
        await say(store, "s", "t")
        assert await store.begin("t")

    async def second(store: Sessions) -> None:
        [found] = await store.open_turns("s")
        assert (found.held, found.attempts) == (False, 1)
        async with engine.store(owner="3:third") as third:
            taken = await asyncio.gather(store.claim(found), third.claim(found))
        assert sorted(map(str, taken)) == ["1", "None"]

    engine.run(first, owner="1:dead")
    engine.run(second)


def test_a_turn_that_another_process_ends(engine: Engine) -> None:
    """Its former owner neither begins nor ends it any more, and learns how it has ended."""

    async def work(store: Sessions) -> None:
        await say(store, "s", "t")
        async with engine.store(owner="2:other") as other:
            [found] = await other.open_turns("s")
            assert await other.claim(found, force=True) == 0
            with pytest.raises(TurnTaken):
                await store.begin("t")
            with pytest.raises(TurnTaken):
                await store.finish("s", "t", TurnEnd("assistant", "late"))
            line = await other.finish("s", "t", TurnEnd("error", "cancelled", "cancelled"))
            with pytest.raises(TurnTaken):
                await store.begin("t")
            assert await store.finish("s", "t", TurnEnd("assistant", "late")) == line

    engine.run(work)


def test_texts_of_every_kind(engine: Engine) -> None:
    """Whatever JSON can say is accepted. PostgreSQL has no NUL in a text: U+FFFD takes its place there."""

    async def work(store: Sessions) -> None:
        text = "a\0b 日本語 😀 %s {} \\ ' \" \x07"
        await say(store, "s\0", "t", text, client="\0", workspace="\0")
        assert await store.exists("s\0")
        await store.finish("s\0", "t", TurnEnd("assistant", text))
        [asked, answered] = await store.recent("s\0", limit=9, size=999)
        expected = text if engine.name == "sqlite" else text.replace("\0", "\ufffd")
        assert [asked.content, answered.content] == [expected, expected]
        assert (await say(store, "s\0", "u", client="\0")).duplicate is True
        assert await store.delete(["s\0"]) == 1

    engine.run(work)
