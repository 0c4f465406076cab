"""The messages that a client gets: a client that streams gets all of them, one that does not gets whole answers.

Clients of the second kind are older than streaming. They show a `response`, take a `result` for the end of their
waiting, whatever it was that ended, and do not know `accepted`, `progress` and `token`.
"""

from __future__ import annotations

from server.chat.messages import Accepted, Error, Progress, Response, Result, Server, Token

ANSWERS = "responder"  # the node of the graph that puts every answer into words


def in_dialect(message: Server, *, streams: bool) -> tuple[Server, ...]:
    """The messages that a client gets for this one."""
    if streams:
        return (message,)
    match message:
        case Accepted() | Progress() | Token():
            return ()
        case Result(turn_id=str(turn_id)):
            shown = Response(
                session_id=message.session_id,
                turn_id=turn_id,
                agent=ANSWERS,
                content=message.content,
                timestamp=message.timestamp,
                id=message.id,
            )
            return (shown, message)
        case Error(session_id=str(session_id)):
            end = Result(
                session_id=session_id,
                turn_id=message.turn_id,
                content=message.message,
                success=False,
                timestamp=message.timestamp,
                id=message.id,
            )
            return (message, end)
    return (message,)
