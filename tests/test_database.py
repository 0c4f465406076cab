"""The database: many callers share a transaction, each has its own outcome, and a file that fails is opened anew."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from server.sessions.database import Database
from server.sessions.model import StoreError


def table(name: str) -> Callable[[sqlite3.Connection], None]:
    """Makes a table where there is none."""

    def make(db: sqlite3.Connection) -> None:
        db.execute(f"CREATE TABLE IF NOT EXISTS {name} (value TEXT)")

    return make


def put(value: str, name: str = "things") -> Callable[[sqlite3.Connection], Any]:
    """Puts a value into a table."""
    return lambda db: db.execute(f"INSERT INTO {name} VALUES (?)", (value,))


def found(name: str = "things") -> Callable[[sqlite3.Connection], list[str]]:
    """The values in a table."""
    return lambda db: [row[0] for row in db.execute(f"SELECT value FROM {name}")]


def with_database(path: Path, work: Callable[[Database], Awaitable[Any]]) -> Any:
    """Run `work` on a database in this file, then close it."""

    async def run() -> Any:
        database = Database(path, table("things"))
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "things.sqlite"


async def fail(database: Database) -> None:
    """Have a statement fail: this connection is not trusted again."""
    with pytest.raises(StoreError, match="no such table: missing"):
        await database.run(lambda db: db.execute("SELECT * FROM missing"))


def test_every_connection_is_prepared(path: Path) -> None:
    """Also the one to a file that took the place of another: whoever added tables later finds them."""

    async def work(database: Database) -> None:
        await database.prepare(table("added"))
        await database.run(put("one", "added"), "write")
        await fail(database)
        assert await database.run(found("added")) == ["one"]
        for file in path.parent.iterdir():
            file.unlink()
        await fail(database)
        assert await database.run(found()) == await database.run(found("added")) == []

    with_database(path, work)


def test_a_preparation_that_failed_is_not_in_the_way_later(path: Path) -> None:
    """Whoever asked for it is told, and the others go on."""

    async def work(database: Database) -> None:
        with pytest.raises(StoreError, match="no such table"):
            await database.prepare(lambda db: put("one", "nowhere")(db))
        await database.run(put("one"), "write")
        await fail(database)
        assert await database.run(found()) == ["one"]

    with_database(path, work)


def test_one_job_that_breaks_takes_no_other_with_it(path: Path) -> None:
    """Jobs share a transaction, and each has its own outcome."""

    async def work(database: Database) -> None:
        def breaks(db: sqlite3.Connection) -> None:
            put("never")(db)
            raise ValueError("mine")

        await database.run(found())
        jobs = [database.submit(job, "write") for job in (put("one"), breaks, put("two"))]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        assert isinstance(results[1], ValueError)
        assert await database.run(found()) == ["one", "two"]

    with_database(path, work)


def test_a_job_outside_of_a_transaction_that_breaks(path: Path) -> None:
    """Whoever submitted it is told, and those who come later are served."""

    async def work(database: Database) -> None:
        def breaks(_db: sqlite3.Connection) -> None:
            raise ValueError("mine")

        with pytest.raises(StoreError, match="mine"):
            await asyncio.wait_for(database.run(breaks, "alone"), 30)
        assert await asyncio.wait_for(database.run(found()), 30) == []

    with_database(path, work)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """Every question says so, and the database works once it can."""
    (tmp_path / "state").write_text("a file where the folder should be")

    async def work(database: Database) -> None:
        for _ in range(2):
            with pytest.raises(StoreError, match=r"things\.sqlite"):
                await database.run(put("one"), "write")
        (tmp_path / "state").unlink()
        await database.run(put("one"), "write")

    with_database(tmp_path / "state" / "things.sqlite", work)


def test_a_file_that_is_no_database_is_set_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Kept under another name, said in the log, and the service goes on."""
    path.parent.mkdir()
    path.write_text("not a database at all, but long enough to be read as one" * 100)
    with_database(path, lambda database: database.run(put("one"), "write"))
    assert len(list(path.parent.glob("*.broken-*"))) == 1
    assert "is not a SQLite database" in caplog.text
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert found()(other) == ["one"]


def test_a_folder_elsewhere_stays_visible_to_git(tmp_path: Path) -> None:
    """Only the state folder is left out of git: one that was made for this file alone is somebody's own."""
    file = tmp_path / "data" / "things.sqlite"
    with_database(file, lambda database: database.run(put("a")))
    assert file.exists()
    assert not (file.parent / ".gitignore").exists()
