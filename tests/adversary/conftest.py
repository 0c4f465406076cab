"""The places of the end-to-end tests, for the tests here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adversary.suites import TABLE
from tests.e2e.conftest import (
    adopter,
    compiled_tree,
    equipped,
    equipped_project,
    installed,
    place,
    project,
    providers,
    unmeasured,
)
from tests.e2e.doubles import SMALL
from tests.e2e.installing import Adopter
from tests.e2e.place import Place, make_place
from tests.e2e.processes import foreign

__all__ = [
    "adopter",
    "compiled_tree",
    "equipped",
    "equipped_project",
    "installed",
    "place",
    "project",
    "providers",
    "unmeasured",
]


@pytest.fixture
def shop(adopter: Adopter) -> Adopter:
    """A project with an application, whose suite is the test's."""
    adopter.write("shop.py", SMALL)
    adopter.write("pyproject.toml", TABLE)
    return adopter


@pytest.fixture
def other_tree(tmp_path: Path, compiled_tree: Path, place: Place) -> Iterator[Place]:
    """A tree of another project, whose starts go to the same port."""
    shutil.copytree(compiled_tree, tmp_path / "other")
    other = make_place(tmp_path / "other-place", tmp_path / "other")
    other.port = place.port
    foreign(other, "something-else")
    yield other
    other.close()
