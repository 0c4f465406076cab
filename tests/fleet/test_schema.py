"""The schema in the database: who makes its tables, who migrates them, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from preflight.fleet import database, schema
from preflight.fleet.database import Unavailable, UnusableDatabase
from preflight.fleet.schema import Tables
from tests import databases
from tests.databases import PASSWORD, Postgres
from tests.waiting import until

psycopg = pytest.importorskip("psycopg")

ONE = "CREATE TABLE preflight.carts (id integer PRIMARY KEY)"
TWO = "ALTER TABLE preflight.carts ADD COLUMN content text"
THREE = "ALTER TABLE preflight.carts ADD COLUMN at timestamptz"
CARTS = Tables("carts", (ONE, TWO))
ROOT = Path(__file__).parents[2]


@contextmanager
def connected(url: str) -> Iterator[Any]:
    with closing(database.connect(url, {})) as connection:
        yield connection


def steps(url: str, tables: Tables = CARTS) -> list[int]:
    """Apply what is missing; the numbers of the steps."""
    with connected(url) as connection:
        return [number for _, number in schema.migrate(connection, [tables], patience=60.0)]


def state(url: str) -> schema.SchemaState:
    with connected(url) as connection:
        return schema.look(connection, 10.0)


def count(url: str, table: str) -> int:
    with psycopg.connect(url) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_what_is_missing_is_made_and_nothing_is_migrated(url: str) -> None:
    """A creation makes all tables of a subject that has none; of another subject, or an older version, nothing."""
    looked = state(url)
    assert not looked.exists
    assert looked.is_missing(CARTS)
    with connected(url) as connection:
        made = schema.create(connection, [Tables("carts", (ONE,))])
        assert made.versions == {"carts": 1}
        later = schema.create(connection, [CARTS, schema.fleet()])
    assert later.version(CARTS) == 1  # the second step is for --migrate
    assert later.is_behind(CARTS)
    assert later.version(schema.fleet()) == schema.fleet().version
    assert steps(url) == [2]
    assert steps(url) == []


def test_one_version_ahead_is_understood(url: str) -> None:
    """The tables of the next release are used; those of the one after it are not."""
    for newest, ahead in (((ONE, TWO, THREE), False), ((ONE, TWO, THREE, "SELECT 1"), True)):
        steps(url, Tables("carts", newest))
        looked = state(url)
        assert looked.version(CARTS) == len(newest)
        assert looked.is_ahead(CARTS) is ahead
        assert not looked.is_behind(CARTS)
        with connected(url) as connection:
            assert schema.create(connection, [CARTS]).versions == looked.versions
        assert steps(url) == []


def test_many_create_at_once(url: str) -> None:
    """Eight instances that start together make the tables once, and each has them then."""
    found: list[Any] = []

    def create() -> None:
        try:
            with connected(url) as connection:
                found.append(schema.create(connection, [schema.fleet(), CARTS]).versions)
        except Exception as error:  # noqa: BLE001  # looked at below
            found.append(error)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [{"fleet": schema.fleet().version, "carts": 2}] * 8
    assert count(url, "preflight.migrations") == schema.fleet().version + 2


def migrating(url: str, *steps: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.fleet.migrating", url, "carts", *steps]
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)


def test_killed_in_the_middle_of_a_step(url: str) -> None:
    """Nothing of the step has happened, and the next call goes on with it. Its lock is gone with it."""
    filling = "INSERT INTO preflight.carts VALUES (1); SELECT pg_sleep(600)"
    killed = migrating(url, ONE, filling)
    asleep = (
        "FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(600)%'"
        " AND datname = current_database() AND pid <> pg_backend_pid()"
    )
    with psycopg.connect(url, autocommit=True) as connection:
        until(lambda: connection.execute(f"SELECT count(*) {asleep}").fetchone() == (1,), "the second step is at work")
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        # Its backend notices with its next word to the client; an operator would not wait for that either.
        connection.execute(f"SELECT pg_terminate_backend(pid) {asleep}")
    assert state(url).versions == {"carts": 1}
    assert count(url, "preflight.carts") == 0
    assert steps(url, Tables("carts", (ONE, TWO, THREE))) == [2, 3]


def test_two_migrate_at_once(url: str) -> None:
    """Each step is applied once, whoever does it; both end well."""
    many = [ONE, *(f"SELECT pg_sleep(0.05); ALTER TABLE preflight.carts ADD COLUMN c{n} integer" for n in range(6))]
    programs = [migrating(url, *many) for _ in range(2)]
    applied = [program.communicate(timeout=120)[0].split() for program in programs]
    assert [program.returncode for program in programs] == [0, 0]
    assert sorted(int(number) for numbers in applied for number in numbers) == list(range(1, 8))


def test_a_table_that_is_in_use(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration waits for it a little at a time, says so, and lets others at the table meanwhile."""
    monkeypatch.setattr(schema, "LOCKED", 0.2)
    steps(url, Tables("carts", (ONE,)))
    waits: list[str] = []
    with psycopg.connect(url) as holder, connected(url) as connection:
        holder.execute("SELECT * FROM preflight.carts")

        def waiting(why: str) -> None:
            waits.append(why)
            holder.commit()

        assert [number for _, number in schema.migrate(connection, [CARTS], patience=60.0, waiting=waiting)] == [2]
    assert set(waits) == {"a table that is in use"}


def test_a_role_without_rights(postgres: Postgres) -> None:
    """It is refused in words, with what to do, and nothing is written."""
    name = postgres.database()
    guest = postgres.role(f"guest_{name}")
    url = postgres.url(user=guest, database=name)
    with pytest.raises(UnusableDatabase, match="may not create the schema preflight") as refused:
        state(url)
    assert "CREATE SCHEMA" in refused.value.fix
    postgres.run("CREATE SCHEMA preflight", database=name)
    with pytest.raises(UnusableDatabase, match="may not use the schema preflight"):
        state(url)
    postgres.run(f"GRANT USAGE ON SCHEMA preflight TO {guest}", database=name)
    assert not state(url).may_create
    with connected(url) as connection, pytest.raises(UnusableDatabase, match="may not create a table"):
        schema.create(connection, [CARTS])
    owner = postgres.url(database=name)
    with connected(owner) as connection:
        schema.create(connection, [CARTS])
    with pytest.raises(UnusableDatabase, match=r"may not read and write preflight\.carts"):
        state(url)
    postgres.run(f"GRANT ALL ON ALL TABLES IN SCHEMA preflight TO {guest}", database=name)
    assert state(url).version(CARTS) == 2  # whoever migrates may be another role: the database's owner here


def test_what_another_tenant_has_put_there(postgres: Postgres) -> None:
    """A schema or a table of another role's is not written to: its triggers would run with this role's rights."""
    name = postgres.database()
    ours, theirs = postgres.role(f"ours_{name}"), postgres.role(f"theirs_{name}")
    url = postgres.url(user=ours, database=name)
    postgres.run(f"CREATE SCHEMA preflight AUTHORIZATION {theirs}", database=name)
    postgres.run(f"GRANT ALL ON SCHEMA preflight TO {ours}", database=name)
    with pytest.raises(UnusableDatabase, match="the schema preflight belongs to another role"):
        state(url)
    postgres.run(f"ALTER SCHEMA preflight OWNER TO {ours}", database=name)
    postgres.run("CREATE TABLE preflight.carts (id integer)", database=name)
    postgres.run(
        f"ALTER TABLE preflight.carts OWNER TO {theirs}; GRANT ALL ON preflight.carts TO {ours}", database=name
    )
    with pytest.raises(UnusableDatabase, match=r"the table preflight\.carts belongs to another role"):
        state(url)
    with connected(url) as connection, pytest.raises(UnusableDatabase):
        schema.create(connection, [schema.fleet()])
    assert postgres.ask("SELECT count(*) FROM pg_tables WHERE schemaname = 'preflight'", database=name) == (1,)


def test_a_database_that_takes_nothing(postgres: Postgres) -> None:
    """Read-only is no fault of anybody's rights: it may go away by itself."""
    name = postgres.database()
    postgres.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(Unavailable, match="read-only"):
        state(postgres.url(database=name))


def test_through_a_pooler(postgres: Postgres, tmp_path: Path) -> None:
    """PgBouncer in transaction mode, two connections for eight clients: creations and migrations as without it."""
    name = postgres.database()
    with databases.pgbouncer(postgres, tmp_path, "default_pool_size = 2") as port:
        url = postgres.url(database=name, port=port)
        threads = [threading.Thread(target=steps, args=(url,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert state(url).versions == {"carts": 2}
        with connected(f"{url}?application_name=mine") as connection:
            assert schema.create(connection, [schema.fleet()]).version(schema.fleet()) == schema.fleet().version


@pytest.mark.parametrize(
    "value", [f"mysql://me:{PASSWORD}@h/db", PASSWORD, f"postgresql://me:{PASSWORD}@h:x{PASSWORD}/db", "postgresql://["]
)
def test_urls_of_no_postgresql(value: str) -> None:
    """One line, what to do, and no part of the value."""
    with pytest.raises(
        UnusableDatabase, match="PREFLIGHT_DATABASE_URL is not the URL of a PostgreSQL database"
    ) as refused:
        database.connect(value, {})
    assert PASSWORD not in f"{refused.value} {refused.value.fix}"
    assert len(str(refused.value).splitlines()) == 1


def test_a_module_without_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an application names has to be there, and be tables."""
    assert schema.registered([]) == []
    for name in ("no_such_module:TABLES", "preflight.fleet.schema:SCHEMA"):
        with pytest.raises(UnusableDatabase, match=name):
            schema.registered([name])
    (tmp_path / "shop_tables.py").write_text(
        "from preflight.fleet.schema import Tables\nCARTS = Tables('carts', ('SELECT 1',))\n"
    )
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnusableDatabase, match="leaves:CARTS cannot be loaded: SystemExit: 0"):
        schema.registered(["leaves:CARTS"])
    assert schema.registered(["shop_tables:CARTS"]) == [Tables("carts", ("SELECT 1",))]
    with pytest.raises(ValueError, match="a word of small letters"):
        Tables("Carts; DROP", ("SELECT 1",))
    with pytest.raises(ValueError, match="no step"):
        Tables("carts", ())


def test_the_package_has_its_tables() -> None:
    """One step so far, made of one file for each subject."""
    assert schema.fleet().version == 1
    assert "CREATE TABLE preflight.instances" in schema.fleet().steps[0]
