"""The chat over WebSocket: JSON text frames, one object each."""

from __future__ import annotations

import asyncio
import importlib
import json
import uuid
from typing import Any

from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from preflight import __version__
from preflight.instance import SERVICE_RESTART, Instance
from preflight.report import now
from server.health import ARCHITECTURE


class Connections:
    """How many connections and sessions there are."""

    def __init__(self) -> None:
        self.open = 0
        self.sessions = 0


async def chat(socket: WebSocket) -> None:
    """Say who we are, then answer each message."""
    await socket.accept()
    connections: Connections = socket.app.state.connections
    instance: Instance = socket.state.preflight
    draining = asyncio.create_task(instance.drained())
    connections.open += 1
    connections.sessions += 1
    session_id = uuid.uuid4().hex
    try:
        await socket.send_json(
            {
                "type": "connected",
                "session_id": session_id,
                "client_id": uuid.uuid4().hex,
                "version": __version__,
                "architecture": ARCHITECTURE,
                "requires_init": True,
            }
        )
        while True:
            receiving = asyncio.ensure_future(socket.receive())
            await asyncio.wait({receiving, draining}, return_when=asyncio.FIRST_COMPLETED)
            if not receiving.done():
                receiving.cancel()
                await socket.close(*SERVICE_RESTART)
                return
            message = receiving.result()
            if message["type"] == "websocket.disconnect":
                return
            with instance.work():
                await socket.send_json(await _reply(message.get("text"), session_id))
    except WebSocketDisconnect:
        return
    finally:
        draining.cancel()
        connections.open -= 1
        connections.sessions -= 1


async def _reply(frame: str | None, session_id: str) -> dict[str, Any]:
    if frame is None:
        return {"type": "error", "code": "not_text", "message": "send JSON in text frames"}
    try:
        content = json.loads(frame)
    except ValueError:
        return {"type": "error", "code": "bad_json", "message": "this is not JSON"}
    text = content.get("content") if isinstance(content, dict) else None
    if not isinstance(text, str) or not text.strip():
        return {"type": "error", "code": "empty", "message": 'send {"type": "chat", "content": "..."}'}
    # Importing LangGraph takes most of a second: not before somebody talks, and never in the event loop.
    agent = await asyncio.to_thread(importlib.import_module, "server.agent")
    answer = await agent.answer(text)
    return {"type": "result", "content": answer, "success": True, "session_id": session_id, "timestamp": now()}


routes = [WebSocketRoute("/ws/chat", chat)]
