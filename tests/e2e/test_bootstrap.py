"""``run.py`` where packages are missing: the red banner with the command that installs them, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.starts import BLOCKED, ROOT, Place


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with nothing installed, not even pip."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return str(folder / "bin" / "python")


@pytest.mark.parametrize("command", [["run.py"], ["run.py", "--check-only", "--demo"], ["-m", "server"]])
def test_nothing_is_installed(project: Place, bare: str, command: list[str]) -> None:
    """All that is missing is named at once, pytest included, with the one command for this very environment."""
    started = project.spawn(bare, *command, environ={"PATH": "/usr/bin:/bin"})
    assert started.wait() == 1
    assert started.stderr == ""
    lines = started.stdout.splitlines()
    assert BLOCKED in lines[0]
    for name in ("fastapi", "pytest", "pytest-json-report", "python-dotenv", "rich", "psutil"):
        assert f" {name}" in lines[1]
    locked = f"{bare} -m pip install --require-hashes -r {project.root}/requirements.txt"
    assert lines[2] == f"Fix: {bare} -m ensurepip && {locked}"
    started.left_nothing()


@pytest.mark.parametrize("options", [[], ["--check-only", "--demo", "--port", "8010"], ["--ignore", "sk-in-the-wrong"]])
def test_the_environment_of_the_project_is_there(project: Place, bare: str, options: list[str]) -> None:
    """Where .venv has everything, the fix is to use it, with the same options; none of them may be a secret."""
    (project.root / ".venv").symlink_to(sys.prefix)
    started = project.spawn(bare, "run.py", *options)
    assert started.wait() == 1
    shown = [] if "--ignore" in options else options
    command = " ".join([f"{project.root}/.venv/bin/python {project.root}/run.py", *shown])
    assert f"\nFix: {command}\n" in started.stdout


def test_one_is_missing(project: Place) -> None:
    """A dependency that is declared and not installed is the only one named, with its version."""
    file = project.root / "pyproject.toml"
    file.write_text(file.read_text().replace('    "rich>=15",', '    "rich>=15",\n    "not-there-at-all>=1.5",'))
    started = project.run("--demo")
    assert started.process.returncode == 1
    assert "Dependencies: not installed: not-there-at-all\n" in started.stdout
    assert "'not-there-at-all>=1.5'" in started.stdout.partition("Fix: ")[2].splitlines()[0]
    assert "fastapi" not in started.stdout


def test_one_is_broken(project: Place) -> None:
    """A package that is there and cannot be imported: the banner says which, and how to install it anew."""
    broken = project.folder / "modules" / "dotenv"
    broken.mkdir()
    (broken / "__init__.py").write_text("from .parser import nothing\n")
    (broken / "parser.py").write_text("")
    project.write_env_file(OPENAI_API_KEY="sk-something")
    started = project.run("--check-only")
    assert started.process.returncode == 1
    assert "Traceback" not in started.output
    assert "dotenv" in started.stdout
    assert "Fix: " in started.stdout


def test_old_python(place: Place) -> None:
    """A Python that is too old is told so before anything that it could not read is imported."""
    # No old Python is at hand: its version, in the module that run.py asks for it.
    program = "import sys, runpy; sys.version_info = (3, 8, 10); runpy.run_path('run.py', run_name='__main__')"
    started = place.spawn(sys.executable, "-c", program)
    assert started.wait() == 1
    assert "needs Python 3.11 or newer, and this is 3.8.10" in started.stderr
    assert "Traceback" not in started.stderr


def test_run_py_is_readable_for_an_old_python() -> None:
    """run.py keeps to the syntax of Python 3.6."""
    import ast

    ast.parse(Path(ROOT / "run.py").read_text(), feature_version=(3, 6))


def test_from_another_folder(place: Place) -> None:
    """The command works from wherever it is called."""
    started = place.spawn(
        sys.executable,
        str(ROOT / "run.py"),
        "--check-only",
        "--demo",
        "--report",
        "here.json",
        f"--port={place.port}",
        cwd=place.folder,
    )
    assert started.wait() == 0, started.output
    assert os.listdir(place.folder).count("here.json") == 1
