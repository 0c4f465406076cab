"""Questions to the fleet's database that change nothing, from an event loop that must not wait for long.

Each question has a connection of its own, in a transaction that reads alone, and :data:`DEADLINE` seconds for all of
it. psycopg is imported with the first question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from preflight.fleet import database
from preflight.fleet.database import Unavailable

T = TypeVar("T")
Question = Callable[[Any], Awaitable[T]]

DEADLINE = 3.0  # seconds that a caller waits at most
STATEMENT = 2.0  # seconds that the server has for each statement


async def ask(url: str, environment: Mapping[str, str], question: Question[T]) -> T:
    """The result of ``question``, which gets a connection whose rows are dicts.

    Raises UnusableDatabase or Unavailable.
    """
    try:
        async with asyncio.timeout(DEADLINE):
            parameters = await asyncio.to_thread(database.parameters, url, environment)
            with database.explained(DEADLINE):
                return await _asked(parameters, question)
    except TimeoutError:
        raise Unavailable(f"the database cannot be reached: no answer within {DEADLINE:g} s") from None


async def _asked(parameters: dict[str, Any], question: Question[T]) -> T:
    import psycopg
    from psycopg.rows import dict_row

    made = await psycopg.AsyncConnection.connect(
        **parameters, autocommit=True, prepare_threshold=None, row_factory=dict_row
    )
    async with made as connection:
        if connection.info.server_version < database.OLDEST:
            raise database.too_old(connection.info.server_version)
        await connection.set_read_only(True)
        async with connection.transaction():
            await connection.execute(
                f"SET LOCAL statement_timeout = {int(STATEMENT * 1000)}; SET LOCAL TimeZone = 'UTC'"
            )
            return await question(connection)
