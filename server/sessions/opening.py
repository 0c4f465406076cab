"""Which engine the sessions are in: PostgreSQL if there is a database URL, else a SQLite file."""

from __future__ import annotations

from preflight.settings.model import Settings
from server.sessions.model import Sessions
from server.settings import AgentSettings


def load(settings: Settings) -> None:
    """Import what the engine needs, which takes a while in PostgreSQL's case: for a thread."""
    if settings.database_url:
        import server.sessions.postgres.store  # noqa: F401  # for the call that opens it next


def opened(settings: Settings) -> Sessions:
    """The sessions of this process. In the event loop; connected to when first used."""
    limits = settings.of(AgentSettings)
    if settings.database_url:
        from server.sessions.postgres.store import Store as InPostgreSQL

        return InPostgreSQL(
            settings.database_url,
            settings.environment,
            age=limits.session_age,
            limit=limits.session_limit,
            size=limits.session_size,
            lease=limits.session_lease,
            connections=limits.session_connections,
        )
    from server.sessions.store import Store as InFile

    return InFile(
        settings.state.sessions,
        age=limits.session_age,
        limit=limits.session_limit,
        size=limits.session_size,
    )
