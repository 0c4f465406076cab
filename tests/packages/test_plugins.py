"""The line for CI beside the plugins that projects have: pytest-xdist, pytest-cov and pytest-django, as their authors
release them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.portnumbers import unused_port

NEEDED = ["django", "pytest-cov", "pytest-django", "pytest-xdist"]
ADDOPTS = "-n 2 --cov=mysite --cov-fail-under=90 --reuse-db --strict-markers"
MINE = """
import pytest
from mysite import asgi, urls, wsgi

@pytest.mark.django_db
def test_mine(settings):
    from django.contrib.auth.models import User
    assert User.objects.count() == 0
    assert settings.ROOT_URLCONF == "mysite.urls"
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """Where the commands of a fresh environment are, with the package and what a project has."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin/python"), "-m", "pip", "install", "--quiet", str(wheel), *NEEDED], check=True)
    return folder / "bin"


@pytest.fixture
def run(tmp_path: Path, programs: Path) -> Run:
    """Run a command in a project that ``django-admin startproject`` has made."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
    environ.pop("PREFLIGHT_STATE_DIR", None)
    root = tmp_path / "shop"
    root.mkdir()

    def call(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [str(programs / command), *arguments]
        return subprocess.run(argv, cwd=root, env=environ, capture_output=True, text=True, timeout=300)

    assert call("django-admin", "startproject", "mysite", ".").returncode == 0
    (root / "pytest.ini").write_text(f"[pytest]\nDJANGO_SETTINGS_MODULE = mysite.settings\naddopts = {ADDOPTS}\n")
    (root / "tests").mkdir()
    (root / "tests/test_mine.py").write_text(MINE)
    return call


def test_the_line_for_ci_works_beside_xdist_cov_and_django(run: Run, tmp_path: Path) -> None:
    """The project's tests are as they were; the requirements are judged by themselves, and not by their coverage."""
    before = run("pytest")
    assert (before.returncode, "1 passed" in before.stdout) == (0, True), before.stdout + before.stderr
    assert run("preflight", "--init").returncode == 0
    after = run("pytest")
    assert (after.returncode, "1 passed" in after.stdout) == (0, True), after.stdout + after.stderr
    line = ["--pyargs", "preflight.requirements", "preflight_suite", "-m", "critical"]
    line.append(f"--preflight-port={unused_port()}")
    asked = run("pytest", *line)
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert "preflight_suite/test_project.py" in asked.stdout
    (tmp_path / "shop/mysite/asgi.py").unlink()
    refused = run("pytest", *line)
    assert refused.returncode == 1, refused.stdout
    assert "critical failed: Application" in refused.stdout
