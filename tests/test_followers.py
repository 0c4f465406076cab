"""Followers: what each of them hears, and when; the connections themselves are in tests/e2e/test_reruns.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, MutableMapping
from typing import Any

from preflight.web.followers import Follower, Followers
from preflight.web.instance import Instance
from preflight.web.reruns import Reruns
from preflight.web.snapshot import Snapshot
from preflight.web.websocket import Outbox
from tests.waiting import eventually


class Listener:
    """Somebody who follows: its end of the connection keeps what arrives."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.follower = Follower(Outbox({}, self._take, 1_000_000), rate=5)

    async def _take(self, event: MutableMapping[str, Any]) -> None:
        if event["type"] == "websocket.close":
            self.heard.append(event["type"])
            return
        message = json.loads(event["text"])
        about = message.get("title") or message.get("check", {}).get("title")
        self.heard.append(f"{message['type']} {about}" if about else message["type"])


def test_news_come_together_and_in_order(make_instance: Callable[..., Instance]) -> None:
    """News wait a moment for each other; who joins meanwhile has them in its snapshot, and hears them no more.

    That a check has begun is no news where it is through by then.
    """

    async def follow() -> None:
        reruns = Reruns(make_instance())
        followers = Followers(reruns.instance, reruns, Snapshot(reruns.instance))

        def tell(kind: str, **said: object) -> None:
            for listener in reruns.listeners:
                listener({"type": kind, **said})

        tell("nobody is there")
        first, second = Listener(), Listener()
        await followers.join(first.follower)
        tell("checking", title="Disk Space")
        tell("checking", title="Memory")
        tell("checked", check={"title": "Memory"})
        await asyncio.sleep(0)
        assert first.heard == ["snapshot"]
        await followers.join(second.follower)
        tell("checking", title="Open Files")
        tell("run_finished")
        await eventually(lambda: len(first.heard) >= 6 and len(second.heard) >= 4, "both have heard all")
        assert first.heard == [
            "snapshot", "checking Disk Space", "checked Memory", "checking Open Files", "run_finished", "snapshot",
        ]  # fmt: skip
        assert second.heard == ["snapshot", "checking Open Files", "run_finished", "snapshot"]
        for one in (first, second):
            followers.leave(one.follower)
            one.follower.outbox.end()

    asyncio.run(follow())


def test_what_is_due_comes_before_who_joins_and_before_the_end(make_instance: Callable[..., Instance]) -> None:
    """A snapshot that follows a run's end is not sent twice to a newcomer, and not lost in a drain."""

    async def follow() -> None:
        reruns = Reruns(make_instance())
        followers = Followers(reruns.instance, reruns, Snapshot(reruns.instance))
        first, second = Listener(), Listener()
        await followers.join(first.follower)
        for listener in reruns.listeners:
            listener({"type": "run_finished"})
        await followers.join(second.follower)
        await eventually(lambda: len(first.heard) == 3, "the first has heard all")
        assert first.heard == ["snapshot", "run_finished", "snapshot"]
        assert second.heard == ["snapshot"]
        async with followers.running():
            for listener in reruns.listeners:
                listener({"type": "run_finished"})
            reruns.instance.start_draining()
            await eventually(lambda: "websocket.close" in second.heard, "the second is sent away")
        assert second.heard == ["snapshot", "run_finished", "snapshot", "websocket.close"]

    asyncio.run(follow())
