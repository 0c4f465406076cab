"""Places for real starts of the command, with and without what a start needs."""

from __future__ import annotations

import compileall
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import sharing
from tests.e2e.doubles import Providers
from tests.e2e.installing import Adopter, adopt, install
from tests.e2e.place import ROOT, Place, equip, make_place
from tests.e2e.suites import QUICK


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes without coverage, which costs 0.5 s a start: for tables whose lines other tests run as well."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place whose tree is the checkout itself."""
    place = make_place(tmp_path / "place")
    yield place
    place.close()


@pytest.fixture(scope="session")
def compiled_tree(run_folder: Path) -> Path:
    """A copy of the tree with its byte code, which further copies take along."""
    return sharing.once(run_folder, "tree", _compile_tree)


def _compile_tree(tree: Path) -> None:
    for name in ("preflight", "server"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("conftest.py", "pytest.ini", "run.py", "pyproject.toml", "requirements.txt"):
        shutil.copy2(ROOT / name, tree / name)
    compileall.compile_dir(tree, quiet=1)


def copied(source: str, target: str) -> None:
    """Copy a file with its time, by which byte code knows its source. Byte code is replaced, and never written to."""
    if source.endswith(".pyc"):
        os.link(source, target)
        return
    shutil.copyfile(source, target)
    status = os.stat(source)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def project(tmp_path: Path, compiled_tree: Path) -> Iterator[Place]:
    """A place with a copy of the tree, for tests that change it."""
    shutil.copytree(compiled_tree, tmp_path / "project", copy_function=copied)
    place = make_place(tmp_path / "place", tmp_path / "project")
    yield place
    place.close()


@pytest.fixture
def quick(project: Place) -> Place:
    """A copy of the tree whose suite takes no time."""
    project.write_suite(QUICK)
    return project


@pytest.fixture
def providers() -> Iterator[Providers]:
    """Services that answer as a test tells them to."""
    providers = Providers()
    yield providers
    providers.close()


@pytest.fixture
def equipped(place: Place, providers: Providers) -> Place:
    """The checkout, with everything that a start without --demo needs."""
    equip(place, providers)
    return place


@pytest.fixture
def equipped_project(project: Place, providers: Providers) -> Place:
    """A copy of the tree, with everything that a start without --demo needs."""
    equip(project, providers)
    return project


@pytest.fixture(scope="session")
def installed(run_folder: Path) -> Path:
    """The package as an installer leaves it, for tests that change nothing of it."""
    return sharing.once(run_folder, "installed", install)


@pytest.fixture
def adopter(tmp_path: Path, installed: Path) -> Iterator[Adopter]:
    """An empty project of somebody's, which uses the installed package."""
    adopter = adopt(tmp_path, installed)
    yield adopter
    adopter.close()
