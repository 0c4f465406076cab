"""The errors of PostgreSQL and its client library, in words for people.

The code that connects imports psycopg: this module only reads the errors that it raises. No text here holds a part of
an address, a name of a role or a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SCHEMES = ("postgresql", "postgres", "postgresql+psycopg", "postgresql+asyncpg", "postgresql+psycopg2")
"""The schemes of the URLs of PostgreSQL databases: libpq's, and those that SQLAlchemy has for its drivers."""

# By SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html), what is known of an error.
STATES = {
    "28P01": "the password is rejected",
    "28000": "the role may not log in from here (pg_hba.conf)",
    "3D000": "there is no such database",
    "53300": "it has no connection left (max_connections)",
    "57P03": "it is starting up or shutting down",
    "57014": "it did not answer a question in time",
    "53100": "its disk is full",
    "25006": "its transactions are read-only",
    "55P03": "another session holds a lock",
    "57P01": "it is shutting down, or somebody ended the session",
    "42501": "the role has no right to do that",
}
CLOSED = "the connection was closed without an answer"
NO_ROLE = "there is no such role"
NO_PASSWORD = "it requires a password, and the URL has none"  # noqa: S105  # a sentence about one
NOT_POSTGRESQL = "the server that answers does not speak PostgreSQL's protocol"
NO_TLS = "it does not speak TLS, which sslmode requires"
UNTRUSTED = "its certificate is not trusted"

PERMANENT = frozenset({
    STATES["28P01"], STATES["28000"], STATES["3D000"], STATES["42501"], NO_ROLE, NO_PASSWORD, NOT_POSTGRESQL, NO_TLS,
    UNTRUSTED,
})  # fmt: skip
"""Errors that somebody has to fix: they do not go away by themselves."""

_WORDS = (
    ("password authentication failed", STATES["28P01"]),
    ("no pg_hba.conf entry", STATES["28000"]),
    ("no password supplied", NO_PASSWORD),
    ("Connection refused", "connection refused: nothing listens there"),
    ("server closed the connection", CLOSED),
    ("invalid response to SSL negotiation", NOT_POSTGRESQL),
    ("expected authentication request", NOT_POSTGRESQL),
    ("received invalid response", NOT_POSTGRESQL),
    ("certificate verify failed", UNTRUSTED),
    ("does not support SSL", NO_TLS),
    ("too many clients", STATES["53300"]),
    ("remaining connection slots are reserved", STATES["53300"]),
    ("the database system is", STATES["57P03"]),
    ("No such file or directory", "nothing listens on its socket"),
    ("No route to host", "the host cannot be reached from here"),
    ("Network is unreachable", "the host cannot be reached from here"),
    ("reset by peer", CLOSED),
    ("Broken pipe", CLOSED),
    ("could not translate host name", "its host cannot be resolved (DNS)"),
    ("failed to resolve host", "its host cannot be resolved (DNS)"),
)
_LATE = ("timeout expired", "statement timeout", "Connection timed out")


def why(error: Any, timeout: float) -> str:
    """What is known of a ``psycopg.Error``: by its SQLSTATE, else by libpq's own words, of which only these are read.

    ``timeout`` is the time that the question was given, in seconds.
    """
    if error.sqlstate in STATES:
        return STATES[error.sqlstate]
    said = str(error)
    if re.search(r'role "[^"]*" does not exist', said):
        return NO_ROLE
    if re.search(r'database "[^"]*" does not exist', said):
        return STATES["3D000"]
    for words, meaning in _WORDS:
        if words in said:
            return meaning
    if any(words in said for words in _LATE):
        return f"no answer within {timeout:g} s"
    return f"it cannot be used ({error.sqlstate or type(error).__name__})"


_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_OF_OTHERS = {
    **{f"ssl={mode}": mode for mode in _MODES},  # asyncpg's
    **dict.fromkeys(["ssl=true", "ssl=1"], "require"),  # others verify more with it, or less: all of them want TLS
    "ssl=false": "disable",
}
"""The mode of libpq for what the URLs of other drivers say of TLS."""


def known_parameters(psycopg: Any, rest: str) -> dict[str, Any]:
    """The connection parameters of a URL; ``rest`` is what stands behind "://".

    Parameters of other drivers (``?schema=public``) are left out: libpq would refuse the whole URL. What they say of
    TLS (``?ssl=require``) counts. Raises ValueError, without the value, if it is no URL.
    """
    known = _variables()
    address, mark, query = rest.partition("?")
    given = query.split("&")
    pairs = [one for one in given if one.partition("=")[0] in known]
    if not any(one.startswith("sslmode=") for one in pairs):
        pairs += [f"sslmode={mode}" for one in given if (mode := _OF_OTHERS.get(one.lower()))][-1:]
    try:
        found: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(f"postgresql://{address}{mark}{'&'.join(pairs)}")
    except psycopg.Error:
        raise ValueError("is not the URL of a PostgreSQL database") from None
    return found


def add_variables(found: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Add what libpq would take from an environment (PGPASSWORD, PGSSLMODE) to the parameters that a URL has."""
    for keyword, variable in _variables().items():
        if keyword not in found and variable and environment.get(variable):
            found[keyword] = environment[variable]


def _variables() -> dict[str, str]:
    """The parameters that libpq knows, each with its variable."""
    from psycopg import pq

    return {one.keyword.decode(): (one.envvar or b"").decode() for one in pq.Conninfo.get_defaults()}
