"""Answers in raw ASGI, for routes that are asked often: four times as many a second as through the framework."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preflight.web.security import protected

Header = tuple[bytes, bytes]


class Answer:
    """An answer that is made once and sent many times."""

    __slots__ = ("_body", "_start")

    def __init__(
        self, status: int, content_type: str, body: bytes, headers: Iterable[Header] = (), *, shown: bool = True
    ) -> None:
        """Without a content type there is no body, as in a 304; ``shown``: by a browser (see security.py)."""
        about = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        self._start: Message = {
            "type": "http.response.start",
            "status": int(HTTPStatus(status)),
            "headers": protected([*(about if content_type else ()), *headers], shown=shown),
        }
        self._body: Message = {"type": "http.response.body", "body": body}

    async def send(self, send: Send) -> None:
        """Send it; the server leaves the body out for HEAD."""
        await send(self._start)
        await send(self._body)


class Front:
    """Answers GET and HEAD of some routes itself, before the framework's routing; all else is the framework's.

    The routes' endpoints are ASGI applications. They stay among the application's routes, which answer for
    other methods.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self.app = app
        self._direct = {route.path: route.endpoint for route in routes if isinstance(route, Route)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            endpoint = self._direct.get(scope["path"])
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
        await self.app(scope, receive, send)
