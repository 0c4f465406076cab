"""One PostgreSQL for the tests of the fleet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import databases
from tests.databases import Postgres

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is found by the processes of projects that are elsewhere."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server that goes on through all tests: none stops it, or changes its settings."""
    with databases.postgres(tmp_path_factory.mktemp("postgres"), "max_connections=200") as server:
        yield server


@pytest.fixture
def url(postgres: Postgres) -> str:
    """The URL of a database of this test's own."""
    return postgres.url(database=postgres.database())
