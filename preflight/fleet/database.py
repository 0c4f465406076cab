"""Connections to the fleet's database, and, for people, the reasons why there is none.

There are two kinds of errors. :class:`UnusableDatabase` is for somebody to fix (the URL, the server's age, rights);
:class:`Unavailable` may go away by itself (a server that restarts, a network that is cut, a disk that is full). No
message holds the URL or a part of it: it is a secret.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from preflight import libpq

if TYPE_CHECKING:
    import psycopg

VARIABLE = "PREFLIGHT_DATABASE_URL"
OLDEST = 150_000
"""The oldest server that is used, as libpq counts: PostgreSQL 15 is the oldest that the PostgreSQL project still mends
(https://www.postgresql.org/support/versioning/, November 2026), and the oldest that the tests run against. From 15 on,
nobody but its owner can make objects in the schema ``public``."""
CONNECT = 5.0  # seconds that one address of the server has to take a connection
MARGIN = 1.0  # seconds beyond the server's own deadline until the connection is cut at our end

# Ours unless the URL says otherwise. A network that swallows everything is noticed within about a quarter of a minute.
_DEFAULTS = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15_000}


class UnusableDatabase(Exception):
    """The database cannot be used until somebody fixes something; ``fix`` says what, for people."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


class Unavailable(Exception):
    """The database cannot do it now, and may be able to later."""


def parameters(url: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """The parameters for psycopg: the URL's, and what ``environment`` adds (PGPASSWORD, PGSSLMODE).

    PgBouncer refuses none of them at the beginning of a session. Raises UnusableDatabase.
    """
    psycopg = _driver()
    scheme, mark, rest = url.strip().partition("://")
    fix = f"set {VARIABLE} to postgresql://USER:PASSWORD@HOST/DATABASE"
    if not mark or scheme.lower() not in libpq.SCHEMES:
        raise UnusableDatabase(
            f"{VARIABLE} is not the URL of a PostgreSQL database: it does not begin with postgresql://", fix
        )
    try:
        found = libpq.known_parameters(psycopg, rest)
        if "," not in rest:  # several hosts, each with its port, are no URL for urllib
            _ = urlsplit(url).port
    except ValueError:
        problem = f"{VARIABLE} is not the URL of a PostgreSQL database: libpq does not understand it"
        escaped = "write a ':', '@' or '/' of the password as %3A, %40 or %2F"
        raise UnusableDatabase(problem, escaped) from None
    # PGOPTIONS is for psql: a pooler refuses it.
    found.setdefault("options", "")
    libpq.add_variables(found, environment)
    found.setdefault("connect_timeout", int(CONNECT))
    return {**_DEFAULTS, **found, "application_name": "preflight", "client_encoding": "UTF8"}


def connect(url: str, environment: Mapping[str, str]) -> psycopg.Connection[Any]:
    """A connection in autocommit mode, to a server that is new enough. Raises UnusableDatabase or Unavailable."""
    driver = _driver()
    found = parameters(url, environment)
    with explained(float(found["connect_timeout"])):
        made: psycopg.Connection[Any] = driver.connect(**found, autocommit=True, prepare_threshold=None)
    version = made.info.server_version
    if version < OLDEST:
        made.close()
        raise too_old(version)
    return made


def too_old(version: int) -> UnusableDatabase:
    """The error for a server that is too old; ``version`` as libpq counts."""
    oldest = f"{OLDEST // 10_000} or newer"
    return UnusableDatabase(
        f"PostgreSQL is {shown(version)}, but must be {oldest}: older releases are no longer maintained, and not"
        " tested here",
        f"upgrade the server to PostgreSQL {oldest}",
    )


def shown(version: int) -> str:
    """A server's version as people write it; ``version`` as libpq counts: 150018 for 15.18, 90624 for 9.6.24."""
    major, minor = divmod(version, 10_000)
    return f"{major}.{minor}" if major >= 10 else f"{major}.{minor // 100}.{minor % 100}"


@contextlib.contextmanager
def transaction(connection: psycopg.Connection[Any], seconds: float) -> Iterator[psycopg.Connection[Any]]:
    """A transaction in which no statement, and no wait for a lock, takes longer than ``seconds``.

    The server is told so, for this transaction alone. A server that says nothing at all is given a little longer; then
    the connection is cut, and closed. Raises UnusableDatabase or Unavailable.
    """
    limit = max(1, int(seconds * 1000))
    with explained(seconds), deadline(connection, seconds + MARGIN), connection.transaction():
        connection.execute(
            f"SET LOCAL statement_timeout = {limit}; SET LOCAL lock_timeout = {limit};"
            f" SET LOCAL idle_in_transaction_session_timeout = {limit}"
        )
        yield connection


@contextlib.contextmanager
def deadline(connection: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
    """Cut the connection if its use takes longer: no time-out of libpq reaches a server that hangs."""
    own = os.dup(connection.fileno())  # the connection may have been closed by then, and its number be another's
    timer = threading.Timer(seconds, cut, [own])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        os.close(own)


def cut(descriptor: int) -> None:
    """End both directions of a connection's socket: whoever waits for its answer has an error at once."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as sock:
        sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def explained(seconds: float) -> Iterator[None]:
    """Turn what psycopg raises into UnusableDatabase or Unavailable; ``seconds`` is the time that it was given."""
    psycopg = _driver()
    try:
        yield
    except psycopg.Error as error:
        problem = libpq.why(error, seconds)
        if problem in libpq.PERMANENT:
            fix = f"correct {VARIABLE}, or repair the server"
            raise UnusableDatabase(f"the database cannot be used: {problem}", fix) from error
        raise Unavailable(f"the database cannot be reached: {problem}") from error


def _driver() -> Any:
    """psycopg, which is imported if there is a database URL and nowhere else. Raises UnusableDatabase."""
    try:
        import psycopg
    except ImportError:
        from preflight.installing import install_command

        fix = install_command(["pytest-preflight[fleet]"])
        raise UnusableDatabase("psycopg is not installed, and a connection to the database needs it", fix) from None
    return psycopg
