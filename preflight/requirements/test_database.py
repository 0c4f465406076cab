"""The database that many instances share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from preflight import commands
from preflight.contract import Details, not_applicable, unknown
from preflight.settings.model import Settings

if TYPE_CHECKING:
    from preflight.suite.probes.database import DatabaseAnswer, DatabaseProbe


@pytest.mark.critical("Database", needs=["network", "database", "tables"], scope="fleet")
def test_database(database: DatabaseProbe, details: Details) -> None:
    """The database of PREFLIGHT_DATABASE_URL can store what the application keeps in it."""
    _judge(database, details)


@pytest.mark.warning("Fleet Database", needs=["network", "database"])
def test_fleet_database(settings: Settings, database: DatabaseProbe, details: Details) -> None:
    """The fleet can use the database of PREFLIGHT_DATABASE_URL, and this release understands its tables."""
    answer = database.answer
    if settings.database_tables and answer.state is None:
        not_applicable("the check Database covers it: the application has tables in the same database")
    if not settings.database_tables:
        _judge(database, details)
    for tables in answer.tables:
        version = answer.state.version(tables) if answer.state is not None else 0
        details[tables.subject] = {"version": version, "understood": tables.version + 1}
        details.fix = "start the release that has migrated the tables, or a newer one"
        assert version <= tables.version + 1, (
            f"the tables of {tables.subject} have version {version}, but this release understands {tables.version + 1}"
            " at most: it leaves them alone"
        )


def _judge(database: DatabaseProbe, details: Details) -> None:
    answer = database.answer
    details.fix = answer.fix
    if answer.passes:
        # Never more than a warning: the server serves without it, and everything catches up.
        unknown(f"{answer.problem}; {database.age()}")
    assert not answer.problem, answer.problem
    details.update(version=answer.version)
    _judge_tables(answer, details)
    details.summary = f"PostgreSQL {answer.version}"


def _judge_tables(answer: DatabaseAnswer, details: Details) -> None:
    assert answer.state is not None  # without a problem there is one
    behind = [tables for tables in answer.tables if answer.state.is_behind(tables)]
    if behind:
        details.fix = commands.run_py("--migrate")
    steps = ", ".join(
        f"{tables.subject} has version {answer.state.version(tables)} of {tables.version}" for tables in behind
    )
    assert not behind, f"the tables in the database are older than this release: {steps}"
    missing = [tables for tables in answer.tables if answer.state.is_missing(tables)]
    if missing and not answer.state.may_create:
        details.fix = commands.run_py("--migrate") + "  # with a role that may create tables in the schema preflight"
        pytest.fail(f"the database role may not create the tables of {', '.join(tables.subject for tables in missing)}")
