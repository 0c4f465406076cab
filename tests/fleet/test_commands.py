"""The database as a project meets it: in its checks, with ``--migrate``, and while it serves."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.databases import PASSWORD, Postgres
from tests.e2e.doubles import SMALL
from tests.e2e.place import ROOT, Place, Started, get, make_place
from tests.fleet.older import older
from tests.waiting import until

psycopg = pytest.importorskip("psycopg")
pytestmark = pytest.mark.slow

TOKEN = "canary-Zq7vXw2LmN8pRt4KdY6hJb3F"
TABLES = """
from preflight.fleet.schema import Tables

CARTS = Tables("carts", ("CREATE TABLE preflight.carts (id integer PRIMARY KEY)", {more}))
"""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Place]:
    """A project of somebody's own."""
    place = make_place(tmp_path / "place")
    place.root = tmp_path / "shop"
    place.root.mkdir()
    (place.root / "shop.py").write_text(SMALL)
    (place.root / "shop_tables.py").write_text(TABLES.format(more=""))
    (place.root / "pyproject.toml").write_text(
        '[project]\nname = "shop"\nversion = "1"\n[tool.preflight]\napp = "shop:app"\n'
    )
    place.environ |= {"PREFLIGHT_PROBE_TIMEOUT": "60s", "PREFLIGHT_RUN_TIMEOUT": "300s"}
    place.environ |= {"PYTHONPATH": str(ROOT), "PREFLIGHT_PORT": str(place.port), "PREFLIGHT_TOKEN": TOKEN}
    yield place
    place.close()


def preflight(place: Place, *options: str, **environ: str) -> Started:
    return place.spawn(sys.executable, "-m", "preflight", *options, environ=environ)


def checked(place: Place, url: str, *, tables: bool) -> tuple[int, dict[str, Any]]:
    """The exit code of the checks, and the requirement that speaks about this database."""
    environ = {"PREFLIGHT_DATABASE_URL": url, "PREFLIGHT_STATE_DIR": str(place.state)}
    environ |= {"PREFLIGHT_DATABASE_TABLES": "shop_tables:CARTS"} if tables else {}
    one = preflight(place, "--check-only", "--format", "json", **environ)
    code = one.wait()
    assert PASSWORD not in one.output
    checks = {check["title"]: check for check in json.loads(one.stdout)["preflight"]["checks"]}
    title, other = ("Database", "Fleet Database")[:: 1 if tables else -1]
    assert checks[other]["outcome"] in ("not_applicable", "passed")
    return code, checks[title]


def test_what_cannot_be_used(shop: Place, postgres: Postgres) -> None:
    """One line each, and nothing is written; it blocks only where the application keeps something there."""
    name = postgres.database()
    guest = postgres.role(f"guest_{name}")
    with older(postgres.port, "9.6.24") as port:
        cases = [
            (f"mysql://me:{PASSWORD}@127.0.0.1/fleet", "is not the URL of a PostgreSQL database"),
            (f"{postgres.url(database=name, port=port)}?sslmode=disable", "9.6.24, but must be 15 or newer"),
            (postgres.url(user=guest, database=name), "the role may not create the schema preflight"),
        ]
        for number, (url, said) in enumerate(cases):
            code, check = checked(shop, url, tables=number == 1)
            assert (check["outcome"], code) == ("failed", 1 if number == 1 else 0), check
            assert said in check["message"]
            assert len(check["message"].splitlines()) == 1
            assert check["fix"]
            assert check["severity"] == ("critical" if number == 1 else "warning")
    assert postgres.ask("SELECT count(*) FROM pg_namespace WHERE nspname = 'preflight'", database=name) == (0,)


def test_a_database_that_is_away(shop: Place, free_port: int) -> None:
    """It warns, also where the application keeps something there, and says when it was last reached."""
    url = f"postgresql://me:{PASSWORD}@127.0.0.1:{free_port}/fleet"
    code, check = checked(shop, url, tables=True)
    assert (check["outcome"], code) == ("unknown", 0)
    refused = "the database cannot be reached: connection refused: nothing listens there"
    assert check["message"] == f"{refused}; it has not been reached from here before"
    (shop.state / "database.json").write_text('{"reached_at": 1700000000.0}')
    _, check = checked(shop, url, tables=True)
    assert "it was last reached at 2023-11-14" in check["message"]


def test_tables_of_every_age(shop: Place, postgres: Postgres) -> None:
    """None yet, older ones, ours, those of the next release, and those of the one after it."""
    name = postgres.database()
    url = postgres.url(database=name)

    def migrated(*more: str) -> str:
        (shop.root / "shop_tables.py").write_text(TABLES.format(more="".join(f"{one!r}," for one in more)))
        one = preflight(shop, "--migrate", PREFLIGHT_DATABASE_URL=url, PREFLIGHT_DATABASE_TABLES="shop_tables:CARTS")
        assert one.wait() == 0, one.output
        return one.stdout

    code, check = checked(shop, url, tables=True)
    assert (code, check["outcome"]) == (0, "passed")
    assert postgres.ask("SELECT count(*) FROM pg_namespace WHERE nspname = 'preflight'", database=name) == (0,)
    assert migrated().splitlines() == [
        "fleet: step 1 of 1 is done.", "carts: step 1 of 1 is done.", "fleet: version 1", "carts: version 1",
    ]  # fmt: skip
    assert migrated().splitlines() == ["fleet: version 1", "carts: version 1"]
    (shop.root / "shop_tables.py").write_text(TABLES.format(more="'SELECT 2',"))
    code, check = checked(shop, url, tables=True)
    assert (code, check["message"]) == (
        1,
        "the tables in the database are older than this release: carts has version 1 of 2",
    )
    assert check["fix"].endswith("--migrate")
    assert "carts: step 2 of 2 is done." in migrated("SELECT 2")
    assert "carts: step 3 of 3 is done." in migrated("SELECT 2", "SELECT 3")
    (shop.root / "shop_tables.py").write_text(TABLES.format(more="'SELECT 2',"))
    assert checked(shop, url, tables=True)[0] == 0  # a rolling update: the other release runs already
    (shop.root / "shop_tables.py").write_text(TABLES.format(more=""))
    environ = {"PREFLIGHT_DATABASE_URL": url, "PREFLIGHT_DATABASE_TABLES": "shop_tables:CARTS"}
    one = preflight(shop, "--check-only", **environ)
    assert one.wait() == 0, one.output
    assert "the tables of carts have version 3, but this release understands 2 at most" in " ".join(one.stdout.split())


def test_migrate_without_a_database(shop: Place, free_port: int) -> None:
    """It says what is missing; or that nothing listens there, without the URL."""
    none = preflight(shop, "--migrate")
    assert none.wait() == 2
    assert "PREFLIGHT_DATABASE_URL is not set" in none.stderr
    away = preflight(shop, "--migrate", PREFLIGHT_DATABASE_URL=f"postgresql://me:{PASSWORD}@127.0.0.1:{free_port}/x")
    assert away.wait() == 1
    assert "the database cannot be reached: connection refused: nothing listens there" in away.stderr
    assert PASSWORD not in away.output


def test_an_instance_that_serves(shop: Place, postgres: Postgres) -> None:
    """Its row is there while it serves, and says how it ended; /diagnostics says how the database is."""
    url = postgres.url(database=postgres.database())
    started = preflight(shop, PREFLIGHT_DATABASE_URL=url, PREFLIGHT_FLEET_HEARTBEAT="1s").until_ready()

    def rows(question: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(url, autocommit=True) as connection:
            try:
                return list(connection.execute(question).fetchall())
            except psycopg.errors.UndefinedTable:
                return []

    address = f"127.0.0.1:{shop.port}"
    stands = "SELECT project, address, verdict, ended_at FROM preflight.instances"
    until(lambda: rows(stands) == [("shop", address, "good", None)], "its row is there")

    def fleet() -> Any:
        import urllib.request

        request = urllib.request.Request(
            f"{started.url}/_preflight/diagnostics", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["fleet"]

    until(lambda: fleet()["database"] == "reached", "the server knows that")
    assert get(started.url)[1] == "small"
    written = (
        "SELECT row_to_json(i), r.document FROM preflight.instances i JOIN preflight.reports r ON r.instance = i.id"
    )
    everything = str(rows(written))
    assert "Python Version" in everything
    assert not [secret for secret in (PASSWORD, TOKEN) if secret in everything + started.output]
    assert started.stop() == 0, started.output
    until(lambda: rows("SELECT ending FROM preflight.instances") == [("stopped",)], "its end is written")
    started.left_nothing()


def test_a_launcher_that_is_killed(shop: Place, postgres: Postgres) -> None:
    """Its registrar ends with it, and writes nothing more: the instance falls silent."""
    url = postgres.url(database=postgres.database())
    started = preflight(shop, PREFLIGHT_DATABASE_URL=url, PREFLIGHT_FLEET_HEARTBEAT="1s").until_ready()
    with psycopg.connect(url, autocommit=True) as connection:
        there = "SELECT count(*) FROM pg_tables WHERE schemaname = 'preflight' AND tablename = 'instances'"
        until(lambda: connection.execute(there).fetchone() == (1,), "the tables are there")
        until(
            lambda: connection.execute("SELECT ended_at FROM preflight.instances").fetchall() == [(None,)],
            "it is there",
        )
        os.kill(started.pid, signal.SIGKILL)
        started.wait()
        until(lambda: not started.family(), "all of it has gone")
        silent = "SELECT seen_at < now() - 3 * beats_every * interval '1 second', ended_at FROM preflight.instances"
        until(lambda: connection.execute(silent).fetchall() == [(True, None)], "it is silent")
