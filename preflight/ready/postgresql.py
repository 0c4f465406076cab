"""``ready.postgres``: a PostgreSQL database answers, is new enough, and lets its role do what the application does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, Unpack

from preflight.contract import Details
from preflight.libpq import SCHEMES, add_variables, known_parameters, why
from preflight.making import Ask, Failure, Instead, imported, requirement
from preflight.making import url as parsed
from preflight.ready.network import resolved


class PostgresAnswer(NamedTuple):
    """The database's answer."""

    version: str
    number: int
    """150004 for 15.4."""
    extensions: dict[str, str]
    available: frozenset[str]
    writes: str
    """Why the role cannot write; empty if it can."""


def postgres(
    variable: str,
    *,
    at_least: str = "",
    extensions: Collection[str] = (),
    writes: bool = True,
    **instead: Unpack[Instead],
) -> Callable[..., None]:
    """The database whose URL is in ``variable`` answers.

    :param at_least: the oldest version of the server that will do: "15" or "15.4".
    :param extensions: those that have to be installed in the database.
    :param writes: whether the role has to be allowed to write: asked for its rights, and with a
        temporary table that is rolled back.
    """
    oldest = _number(at_least) if at_least else 0

    def probe(ask: Ask) -> PostgresAnswer:
        for scheme in SCHEMES:
            if ask.value.startswith(f"{scheme}://"):
                break
        else:
            parsed(ask, SCHEMES, "the URL of a PostgreSQL database")  # says what is wrong with it
        psycopg = imported("psycopg", "postgres")
        return _asked(psycopg, parameters(psycopg, ask, ask.value.partition("://")[2]), ask.timeout)

    def judge(answer: PostgresAnswer, details: Details) -> None:
        details.update(version=answer.version, extensions=answer.extensions, writes=not answer.writes)
        enough = answer.number >= oldest
        assert enough, f"PostgreSQL is {answer.version}, but must be {at_least} or newer"
        missing = sorted(set(extensions) - set(answer.extensions))
        if missing:
            there = all(one in answer.available for one in missing)
            details.fix = (
                "; ".join(f'CREATE EXTENSION "{one}"' for one in missing) + ";"
                if there
                else f"install the extension on the database's machine first: {', '.join(missing)}"
            )
        assert not missing, f"the database has no extension {', '.join(missing)}"
        assert not answer.writes or not writes, f"the database {answer.writes}"
        details.summary = f"PostgreSQL {answer.version}"

    return requirement(
        probe,
        judge,
        variable=variable,
        title=f"PostgreSQL ({variable})",
        doc=f"The PostgreSQL database in {variable} answers, and can be used as the application uses it.",
        fix=f"start the database, or correct {variable}",
        needs=["network"],
        instead=instead,
    )


def _number(version: str) -> int:
    major, _, minor = version.partition(".")
    return int(major) * 10_000 + int(minor or 0) * (100 if int(major) < 10 else 1)  # 9.6 was a major version


def parameters(psycopg: Any, ask: Ask, rest: str) -> dict[str, Any]:
    """The parameters for libpq: the URL's, and what the application's environment adds (PGPASSWORD).

    ``rest`` is the URL behind "://". Parameters of other drivers (``?schema=public``) are left out, except those about
    TLS: libpq would refuse the whole address. Raises Failure, without the value, if it is no address.
    """
    try:
        options = known_parameters(psycopg, rest)
    except ValueError as error:
        parsed(ask, SCHEMES, "the URL of a PostgreSQL database")
        raise Failure(f"{ask.variable} {error}") from None
    add_variables(options, ask.environment)
    hosts = [host for host in str(options.get("host", "")).split(",") if host and not host.startswith("/")]
    if len(hosts) == 1 and "hostaddr" not in options:
        # libpq gives each of a host's addresses all of the time: the first may swallow everything, as IPv6 often does.
        count = len(resolved(hosts[0], 0, ask.timeout))
    else:
        count = max(1, len(hosts))
    # libpq counts whole seconds, and takes 1 for 2.
    options["connect_timeout"] = max(2, int(ask.timeout / count))
    return {**options, "application_name": "preflight"}


# In one transaction, which is rolled back. A pooler (PgBouncer) refuses options with which a session begins.
_LIMITS = "SET LOCAL statement_timeout = {0}; SET LOCAL lock_timeout = {0}"
_ASKS = """
SELECT pg_is_in_recovery(), current_setting('transaction_read_only'),
       has_schema_privilege(current_schema(), 'CREATE'), has_database_privilege(current_database(), 'TEMPORARY'),
       EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
               WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
               AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'INSERT, UPDATE'))
"""


def _asked(psycopg: Any, connection: dict[str, Any], timeout: float) -> PostgresAnswer:
    """Ask, in one transaction that is rolled back. Raises Failure in words that hold no part of the address."""
    try:
        made = psycopg.connect(**connection, prepare_threshold=None)
        with contextlib.closing(made):
            made.execute(_LIMITS.format(max(1, int(timeout * 1000))))
            version = made.execute("SHOW server_version").fetchone()[0].split(" ")[0]
            installed = dict(made.execute("SELECT extname, extversion FROM pg_extension").fetchall())
            available = made.execute("SELECT name FROM pg_available_extensions").fetchall()
            writes = _no_writing(made)
            made.rollback()
            return PostgresAnswer(
                version, made.info.server_version, installed, frozenset(row[0] for row in available), writes
            )
    except psycopg.Error as error:
        raise Failure(why(error, timeout)) from None


def _no_writing(made: Any) -> str:
    """Why the role cannot write, as the end of a sentence about the database; empty if it can.

    Rights are asked for; a temporary table shows whether the server writes at all (its disk may be full).
    """
    standby, read_only, creates, temporary, inserts = made.execute(_ASKS).fetchone()
    if standby:
        return "is a standby, which is read-only"
    if read_only == "on":
        return "does not let this role write: its transactions are read-only"
    if temporary:
        made.execute("CREATE TEMPORARY TABLE preflight_probe (one integer) ON COMMIT DROP")
        made.execute("INSERT INTO preflight_probe VALUES (1)")
    if not creates and not inserts:
        return "does not let this role write: it may neither create a table nor write to one"
    return ""
