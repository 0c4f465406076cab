"""One PostgreSQL for the tests of the fleet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.databases import Postgres

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is found by the processes of projects that are elsewhere."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(scope="session")
def postgres(cluster: Postgres) -> Postgres:
    """A server that goes on through all tests: none stops it, or changes its settings."""
    return cluster


@pytest.fixture
def url(postgres: Postgres) -> str:
    """The URL of a database of this test's own."""
    return postgres.url(database=postgres.database())
