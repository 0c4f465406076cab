"""The endpoint of /ws/diagnostics."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from preflight.web import services
from preflight.web.followers import Follower
from preflight.web.websocket import Outbox, admitted


class Follow:
    """An ASGI application, not a function: what Starlette wraps around a function costs each connection memory."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        followers = services.of(scope).followers
        full = "too many followers; try later" if followers.full else ""
        if not await admitted(scope, receive, send, followers.instance, full):
            return
        settings = followers.instance.settings
        follower = Follower(Outbox(scope, send, settings.follower_backlog), settings.follower_rate)
        try:
            await followers.join(follower)
            while (event := await receive())["type"] != "websocket.disconnect":
                follower.take(event.get("text"))
        finally:
            followers.leave(follower)
            follower.outbox.end()
