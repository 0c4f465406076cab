"""The database in the path of a start: asked from its beginning on, and not waited for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from preflight.settings import loading
from preflight.suite.probes.database import DatabaseProbe
from tests.databases import PASSWORD, Postgres
from tests.ready.listeners import listening, swallowing

pytest.importorskip("psycopg")
LONG = 60.0  # seconds that any other run would wait


def asked(folder: Path, url: str, *, starts: bool) -> DatabaseProbe:
    (folder / "pyproject.toml").touch()
    environ = {"HOME": str(folder), "PATH": os.environ["PATH"], "PREFLIGHT_DATABASE_URL": url}
    database = DatabaseProbe(loading.load(folder, {**environ, "PREFLIGHT_PROBE_TIMEOUT": f"{LONG:g}"}), starts=starts)
    database.start()
    return database


@pytest.mark.parametrize("server", [swallowing, listening], ids=["behind a partition", "silent"])
def test_a_start_waits_for_no_database(tmp_path: Path, server: Callable[[], AbstractContextManager[int]]) -> None:
    """One that says nothing is not waited for, and nobody says that it is fine."""
    with server() as port:
        begun = time.monotonic()
        answer = asked(tmp_path, f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/fleet", starts=True).answer
        assert time.monotonic() - begun < LONG / 2
    assert answer.passes
    assert answer.state is None
    assert answer.problem.startswith("the database cannot be reached: no answer within ")


def test_another_run_waits(tmp_path: Path, url: str) -> None:
    """What is asked outside of a start is answered, and asked once."""
    database = asked(tmp_path, url, starts=False)
    database.start()
    assert database.answer.version.startswith(tuple("123456789"))
    assert database.answer.problem == ""
    assert database.answer is database.answer


def test_without_a_database_nothing_is_asked(tmp_path: Path, postgres: Postgres) -> None:
    """Nor offline; and nothing is imported for it."""
    (tmp_path / "pyproject.toml").touch()
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    for more in ({}, {"PREFLIGHT_DATABASE_URL": postgres.url(), "PREFLIGHT_OFFLINE": "1"}):
        database = DatabaseProbe(loading.load(tmp_path, {**environ, **more}), starts=True)
        database.start()
        assert database._begun == 0.0
