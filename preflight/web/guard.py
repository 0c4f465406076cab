"""The guard comes before everything else, and lets through what :mod:`preflight.web.access` allows."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preflight.web import services
from preflight.web.access import NONCE_PROTOCOL, TOKEN_PROTOCOL, Denial
from preflight.web.headers import HEADERS, NO_STORE, NOSNIFF, RawHeaders, protected
from preflight.web.throttle import LONGEST_DELAY

GOODBYE = 1.0  # seconds that a client has to close a connection whose login has ended
UNAUTHORIZED = 3000  # close code, IANA's registry


class Guard:
    """ASGI middleware that lets through what :class:`Access` allows, and gives every answer its headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        access = services.of(scope).access
        denial = access.denial(scope)
        access.proxies.look_through(scope)
        if denial is not None:
            await _deny(denial, scope, receive, send)
        elif scope["type"] == "http":
            await self.app(scope, receive, _protected(send))
        else:
            serving = asyncio.current_task()

            def close() -> None:
                task = asyncio.create_task(_log_out(scope, send, lambda: serving))
                access.farewells.add(task)
                task.add_done_callback(access.farewells.discard)

            with access.connection(scope, close):
                # No code behind the guard needs to see a token, and none may choose it as the subprotocol.
                scope["subprotocols"] = [
                    name
                    for name in scope.get("subprotocols", ())
                    if not name.startswith((TOKEN_PROTOCOL, NONCE_PROTOCOL))
                ]
                try:
                    await self.app(scope, receive, send)
                finally:
                    serving = None  # what this task does from here on is not ours to end


async def _log_out(scope: Scope, send: Send, serving: Callable[[], asyncio.Task[Any] | None]) -> None:
    """Close a connection; cut it off if its client does not go along with that.

    The task that serves it may have ended before: then the server waits, for the answer to its close and for what is on
    its way, and only behind the launcher the connection can be cut off.
    """
    end = asyncio.get_running_loop().time() + GOODBYE
    with contextlib.suppress(OSError, RuntimeError, TimeoutError):  # it has gone by itself, or does not read
        async with asyncio.timeout_at(end):
            await send({"type": "websocket.close", "code": UNAUTHORIZED, "reason": "the login has ended"})
    await asyncio.sleep(end - asyncio.get_running_loop().time())
    abort = scope.get("extensions", {}).get("preflight.abort", {}).get("abort")
    if abort is not None:
        abort()
    elif (task := serving()) is not None:
        task.cancel()


def _protected(send: Send) -> Send:
    async def protect(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            if not headers or headers[-1] is not NOSNIFF:  # else it was made with them, to be sent many times
                message["headers"] = protected(headers)
        await send(message)

    return protect


async def _deny(denial: Denial, scope: Scope, receive: Receive, send: Send) -> None:
    serving = services.of(scope)
    status, error = denial.status, denial.error
    if denial.guessed and not await serving.access.failed(scope, serving.instance):
        status, error = 429, "too many wrong tokens"
    headers: RawHeaders = [*HEADERS, NO_STORE]
    if denial.login:
        path = scope["path"] + ("?" + scope["query_string"].decode("latin-1") if scope["query_string"] else "")
        status, body = 303, b""
        login = f"{scope.get('root_path', '')}/login?next={quote(path, safe='/')}"
        headers.append((b"location", login.encode()))
    else:
        body = json.dumps({"error": error}).encode()
        headers.append((b"content-type", b"application/json"))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    elif status == 429:
        # Each further guess costs its client a connection.
        headers += [(b"retry-after", b"%d" % LONGEST_DELAY), (b"connection", b"close")]
    headers.append((b"content-length", b"%d" % len(body)))
    kind = "http.response"
    if scope["type"] == "websocket":
        # Before it is accepted, so that a page that must not open it learns nothing from it.
        await receive()
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        kind = "websocket.http.response"
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
