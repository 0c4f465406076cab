"""Sessions over HTTP: list, export, delete; and the chat's JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from preflight.web.paging import page
from server.chat.service import ChatService


class Archive:
    """The kept sessions of one chat."""

    def __init__(self, chat: ChatService) -> None:
        self._chat = chat

    def _answer(self, body: Mapping[str, Any], status: int = 200) -> JSONResponse:
        return JSONResponse(self._chat.hub.redactor.document(dict(body)), status)

    async def _long_answer(self, body: Mapping[str, Any]) -> JSONResponse:
        return await self._chat.hub.aside(lambda: self._answer(body))

    async def sessions(self, request: Request) -> JSONResponse:
        """GET: the sessions, the latest used first (?limit, ?offset). DELETE: all of them."""
        from server.sessions.model import StoreError

        hub = self._chat.hub
        try:
            if request.method == "DELETE":
                return self._answer({"deleted": await hub.delete(None)})
            try:
                limit, offset = page(request.query_params)
            except ValueError as error:
                return self._answer({"error": str(error)}, 400)
            sessions, total = await hub.store.page(offset=offset, limit=limit)
        except StoreError as error:
            return self._answer({"error": str(error)}, 503)
        for session in sessions:
            session["active"] = session["session_id"] in hub.live
        return await self._long_answer({"sessions": sessions, "total": total})

    async def session(self, request: Request) -> JSONResponse:
        """GET: one session with its whole transcript. DELETE: delete it."""
        from server.sessions.model import NoSession, StoreError

        hub = self._chat.hub
        session_id: str = request.path_params["session_id"]
        try:
            if request.method == "DELETE":
                deleted = await hub.delete([session_id])
                if not deleted:
                    return self._answer({"error": "there is no such session"}, 404)
                return self._answer({"deleted": deleted})
            session = await hub.store.export(session_id)
        except NoSession as error:
            return self._answer({"error": str(error)}, 404)
        except StoreError as error:
            return self._answer({"error": str(error)}, 503)
        return await self._long_answer(session | {"active": session_id in hub.live})


async def schema(_request: Request) -> JSONResponse:
    """JSON Schema of every message of /ws/chat."""
    from server.chat import messages

    return JSONResponse(messages.schema())
