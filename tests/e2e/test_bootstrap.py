"""``run.py`` where packages are missing: the red banner with the command that installs them, and no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import sharing
from tests.e2e.place import BLOCKED, ROOT, Place


@pytest.fixture(scope="module")
def bare(run_folder: Path) -> str:
    """A Python with nothing installed, not even pip."""
    command = [sys.executable, "-m", "venv", "--without-pip"]
    folder = sharing.once(run_folder, "bare", lambda folder: subprocess.run([*command, folder], check=True))
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
    file.write_text(file.read_text().replace("dependencies = [", 'dependencies = [\n    "not-there-at-all>=1.5",', 1))
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


def too_old() -> list[str]:
    """Interpreters that this project does not run on, as far as this machine has some: one of each version."""
    names = ("python2.7", *(f"python3.{minor}" for minor in range(6, 11)))
    beside = Path(sys.base_prefix).parent  # where pyenv keeps them
    found = {name: next(iter(beside.glob(f"{name.removeprefix('python')}.*/bin/python")), None) for name in names}
    there = [str(path or shutil.which(name)) for name, path in found.items() if path or shutil.which(name)]
    # A shim of pyenv's is there whether or not its version is switched on.
    return [one for one in there if subprocess.run([one, "-c", ""], capture_output=True).returncode == 0]


def test_old_python(place: Place) -> None:
    """A Python that is too old is told so before anything that it could not read is imported."""
    # For machines that have no old Python: its version, in the module that run.py asks for it.
    program = "import sys, runpy; sys.version_info = (3, 8, 10); runpy.run_path('run.py', run_name='__main__')"
    started = place.spawn(sys.executable, "-c", program)
    assert started.wait() == 1
    assert "needs Python 3.11 or newer, and this is 3.8.10" in started.stderr
    assert "Traceback" not in started.stderr


@pytest.mark.parametrize("options", [[], ["--check-only", "--demo", "--port", "8010"], ["--ignore", "sk-in-the-wrong"]])
@pytest.mark.parametrize("command", [["run.py"], ["-m", "server"]], ids=" ".join)
def test_every_old_python(project: Place, command: list[str], options: list[str]) -> None:
    """It is sent to the project's own environment, or to a newer Python; options come along, unless one is a secret."""
    newer = project.folder / "new python"
    newer.mkdir()
    (newer / "python3.13").symlink_to(sys.executable)
    (newer / "python3.14").write_text("no program")
    shown = [] if "--ignore" in options else options
    for old in too_old():
        for own in (True, False):
            folder = project.root / ".venv"
            folder.symlink_to(sys.prefix) if own else folder.unlink()
            started = project.spawn(old, *command, *options, environ={"PATH": f"{newer}:relative:"})
            assert started.wait() == 1
            python = str(folder / "bin" / "python") if own else f"'{newer}/python3.13'"
            problem, fix = started.stderr.splitlines()
            assert problem.startswith("run.py: needs Python 3.11 or newer, and this is ")
            assert problem.endswith(f"({old})")
            assert fix == " ".join(["Fix:", python, f"{project.root}/run.py", *shown])


def test_an_old_python_and_no_other(project: Place) -> None:
    """Where none is at hand that is said, and an environment that an old Python has made is not named."""
    for old in too_old():
        (project.root / ".venv").symlink_to(Path(old).parents[1])
        started = project.spawn(old, "run.py", environ={"PATH": ""})
        assert started.wait() == 1
        assert started.stderr.splitlines()[1].startswith("Fix: install Python 3.11 or newer, and start run.py with it")
        (project.root / ".venv").unlink()


def test_without_site_packages(project: Place, bare: str) -> None:
    """Where -S hides the packages and .venv has them, the fix is to use that, as it is."""
    started = project.spawn(bare, "-S", "run.py", "--check-only")
    assert started.wait() == 1
    assert "\nFix: start it without -S" in started.stdout
    (project.root / ".venv").symlink_to(sys.prefix)
    for python in (bare, f"{project.root}/.venv/bin/python"):
        started = project.spawn(python, "-S", "run.py", "--check-only")
        assert started.wait() == 1
        assert f"\nFix: {project.root}/.venv/bin/python {project.root}/run.py --check-only\n" in started.stdout


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
