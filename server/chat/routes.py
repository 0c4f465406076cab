"""The chat's routes: its WebSocket, the sessions that are kept, and the schema of its messages."""

from __future__ import annotations

from preflight.web.routing import Operation, Route, Socket, Table
from preflight.web.schemas import (
    A_PAGE,
    ANYTHING,
    COUNT,
    NUMBER,
    TEXT,
    TRUTH,
    Schema,
    answer,
    array,
    choice,
    error,
    in_path,
    maybe,
    record,
    ref,
)
from server.chat import archive
from server.chat.service import ChatEndpoint, ChatService

SESSION: dict[str, Schema] = {
    "session_id": TEXT,
    "created": TEXT,
    "updated": TEXT,
    "messages": COUNT,
    "bytes": COUNT,
    "unanswered": COUNT,
    "workspace_path": maybe(TEXT),
    "active": TRUTH,
}
SCHEMAS: dict[str, Schema] = {
    "Line": record(
        seq=COUNT,
        turn_id=TEXT,
        role=choice("user", "assistant", "error"),
        content=TEXT,
        timestamp=TEXT,
        optional={"id": TEXT, "code": TEXT, "retry": TRUTH, "retry_after": NUMBER},
    ),
    "Deleted": record(deleted=COUNT),
    "Session": record(**SESSION),
    "Sessions": record(sessions=array(ref("Session")), total=COUNT),
    "Transcript": record(**SESSION, transcript=array(ref("Line"))),
}
STORE = {"503": error("the sessions cannot be read or written now")}
SESSION_ID = in_path("session_id")


def table(chat: ChatService) -> Table:
    """The routes of this chat."""
    sessions = archive.Archive(chat)
    return [
        Socket("/ws/chat", ChatEndpoint(chat), "The chat.", "/chat/schema.json"),
        Route(
            "/sessions",
            sessions.sessions,
            {
                "GET": Operation(
                    "The chat's sessions, the latest used first.",
                    STORE
                    | {"200": answer("a page of sessions", ref("Sessions")), "400": error("a number out of its range")},
                    A_PAGE,
                ),
                "DELETE": Operation(
                    "Delete all sessions.", STORE | {"200": answer("how many sessions were deleted", ref("Deleted"))}
                ),
            },
        ),
        Route(
            "/sessions/{session_id}",
            sessions.session,
            {
                "GET": Operation(
                    "One session with its whole transcript.",
                    STORE | {"200": answer("the session", ref("Transcript")), "404": error("there is no such session")},
                    [SESSION_ID],
                ),
                "DELETE": Operation(
                    "Delete one session; a turn of it is cancelled, its connections are closed.",
                    STORE
                    | {
                        "200": answer("the session is deleted", ref("Deleted")),
                        "404": error("there is no such session"),
                    },
                    [SESSION_ID],
                ),
            },
        ),
        Route(
            "/chat/schema.json",
            archive.schema,
            {"GET": Operation("JSON Schema of every message of /ws/chat.", {"200": answer("the schema", ANYTHING)})},
        ),
    ]
