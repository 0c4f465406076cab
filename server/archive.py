"""Sessions over HTTP: list, export, delete; and the chat's JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from preflight.web.paging import page
from server.chat import Chat


def _answer(chat: Chat, body: Mapping[str, Any], status: int = 200) -> JSONResponse:
    return JSONResponse(chat.hub.redactor.document(dict(body)), status)


async def _long_answer(chat: Chat, body: Mapping[str, Any]) -> JSONResponse:
    return await chat.hub.aside(lambda: _answer(chat, body))


async def sessions(request: Request) -> JSONResponse:
    """GET: the sessions, the latest used first (?limit, ?offset). DELETE: all of them."""
    from server.database import StoreError

    chat: Chat = request.app.state.connections
    try:
        if request.method == "DELETE":
            return _answer(chat, {"deleted": await chat.hub.delete(None)})
        try:
            limit, offset = page(request.query_params)
        except ValueError as error:
            return _answer(chat, {"error": str(error)}, 400)
        found, total = await chat.hub.store.page(offset=offset, limit=limit)
    except StoreError as error:
        return _answer(chat, {"error": str(error)}, 503)
    for one in found:
        one["active"] = one["session_id"] in chat.hub.live
    return await _long_answer(chat, {"sessions": found, "total": total})


async def session(request: Request) -> JSONResponse:
    """GET: one session with its whole transcript. DELETE: delete it."""
    from server.database import StoreError
    from server.sessions import NoSession

    chat: Chat = request.app.state.connections
    session_id: str = request.path_params["session_id"]
    try:
        if request.method == "DELETE":
            deleted = await chat.hub.delete([session_id])
            if not deleted:
                return _answer(chat, {"error": "there is no such session"}, 404)
            return _answer(chat, {"deleted": deleted})
        found = await chat.hub.store.export(session_id)
    except NoSession as error:
        return _answer(chat, {"error": str(error)}, 404)
    except StoreError as error:
        return _answer(chat, {"error": str(error)}, 503)
    return await _long_answer(chat, found | {"active": session_id in chat.hub.live})


async def schema(_request: Request) -> JSONResponse:
    """JSON Schema of every message of /ws/chat."""
    from server import messages

    return JSONResponse(messages.schema())


routes = [
    Route("/sessions", sessions, methods=["GET", "DELETE"]),
    Route("/sessions/{session_id}", session, methods=["GET", "DELETE"]),
    Route("/chat/schema.json", schema),
]
