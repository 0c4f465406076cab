"""The agent server's own settings.

pyproject.toml names this module, and the launcher imports it before it starts anything: only light modules here.
"""

from __future__ import annotations

from dataclasses import dataclass

from preflight.settings.fields import setting
from preflight.settings.parsers import duration, size, whole


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Limits and deadlines of the chat and its sessions."""

    turn_timeout: float = setting(120.0, duration(0.1, 3600), "deadline of each chat turn")
    chat_connections: int = setting(
        2000, whole(1, 1_000_000), "chat connections that each worker may have at once; one more is closed with 1013"
    )
    chat_message_size: int = setting(
        64 * 1024, size, "the longest chat message that is accepted, in bytes of its frame"
    )
    chat_queue: int = setting(16, whole(1, 10_000), "messages of a chat session that are waiting or being answered")
    chat_queue_size: int = setting(256 * 1024, size, "text of these messages together, if there is more than one")
    chat_backlog: int = setting(
        512 * 1024,
        size,
        "characters that may wait for a chat client that does not read; beyond that, its connection is cut",
    )
    chat_rate: int = setting(
        20,
        whole(1, 100_000),
        "chat messages a second from a connection, five times as many in a burst; beyond that, it is closed with 1008",
    )
    session_age: float = setting(
        30 * 86400.0, duration(60, 3650 * 86400), "time that a chat session is kept after its last message"
    )
    session_limit: int = setting(
        10_000, whole(1, 10_000_000), "chat sessions that are kept; beyond that, the oldest are deleted"
    )
    session_size: int = setting(16 * 1024**2, size, "text that a chat session may hold")
    session_lease: float = setting(
        15.0,
        duration(3, 600),
        "with a database: time after which another instance may take over the turns of an instance that has fallen"
        " silent",
    )
    session_connections: int = setting(4, whole(1, 100), "with a database: connections that each worker may have to it")
