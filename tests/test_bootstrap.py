"""The first look: are the packages there, said without any of them."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from preflight import bootstrap, dependencies, installing

ROOT = Path(__file__).parents[1]


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that declares what the test writes into its pyproject.toml."""
    monkeypatch.setattr(dependencies, "ROOT", tmp_path)
    return tmp_path / "pyproject.toml"


def project(*names: str) -> str:
    return f"[project]\ndependencies = {list(names)!r}\n"


def test_all_there() -> None:
    """Where the tests run nothing is missing."""
    assert dependencies.missing() == []
    assert bootstrap.problem() is None


def test_what_is_declared() -> None:
    """pyproject.toml is the one list."""
    declared = dependencies.declared()
    assert any(line.startswith("pytest>=") for line in declared)
    for name in dependencies.MODULES:
        assert any(line.startswith(name) for line in declared), f"{name} is not declared any more"


@pytest.mark.parametrize(
    "content", ["", "[project", "[project]\nname = 'x'", None], ids=["empty", "broken", "none", "no file"]
)
def test_unreadable_pyproject(declare: Path, content: str | None) -> None:
    """A pyproject.toml that cannot be used is settings' to say; nothing is missing for that."""
    if content is not None:
        declare.write_text(content)
    assert bootstrap.problem() is None


def test_missing(declare: Path) -> None:
    """What is missing is named together, with the one command that mends it."""
    declare.write_text(project("pytest>=9", "No.Such_Package[extra] >=1, <2", "other-one", "odd; sys_platform == 'x'"))
    assert dependencies.missing() == ["No.Such_Package[extra] >=1, <2", "other-one"]
    problem, fix = bootstrap.problem() or ["", ""]
    assert problem == "Dependencies: not installed: No.Such_Package, other-one"
    assert fix == f"Fix: {sys.executable} -m pip install 'No.Such_Package[extra]>=1,<2' other-one"
    assert fix.endswith(" 'No.Such_Package[extra]>=1,<2' other-one")


@pytest.mark.slow
def test_missing_outside_of_environments(declare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has installed everything and types another Python is told which one this is."""
    declare.write_text(project("other-one"))
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    _, python, fix = bootstrap.problem() or ["", "", ""]
    assert python == f"Python: {sys.executable}, which is not the project's own (.venv)"
    assert fix.startswith("Fix: ")
    assert sys.executable in fix


def test_module_of_another_name(declare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution whose modules are not named like it is there if one of them is, whatever its metadata says."""
    site = tmp_path / "site"
    info = site / "odd_name-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-name\nVersion: 1.0\n")
    (info / "RECORD").write_text("another_module_9/__init__.py,,\n../bin/odd,,\nodd_name-1.0.dist-info/RECORD,,\n")
    monkeypatch.syspath_prepend(str(site))
    declare.write_text(project("odd-name"))
    assert dependencies.missing() == ["odd-name"]
    (site / "another_module_9").mkdir()
    (site / "another_module_9" / "__init__.py").write_text("")
    sys.path_importer_cache.clear()
    assert dependencies.missing() == []


@pytest.mark.slow  # beside a .venv of the project's own, the fix asks that one
def test_command_without_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In an environment without pip (uv makes such) the command is uv's."""
    monkeypatch.setattr(sys, "executable", "/my venv/bin/python")
    monkeypatch.setitem(sys.modules, "pip", type(sys)("pip"))
    sys.modules["pip"].__spec__ = None
    with pytest.raises(ValueError):
        installing.install_command([])
    monkeypatch.setitem(sys.modules, "pip", os)
    assert installing.install_command(["a >= 1"]) == "'/my venv/bin/python' -m pip install 'a>=1'"
    monkeypatch.delitem(sys.modules, "pip")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert installing.install_command(["a>=1", "b"]) == "uv pip install --python '/my venv/bin/python' 'a>=1' b"


def run(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.slow
def test_without_any_package() -> None:
    """With no package at all the command ends with the banner, the fix and 1, and without a traceback."""
    done = run("-S", "run.py")
    assert done.returncode == 1
    assert "CRITICAL ERROR: must fix before proceeding" in done.stdout
    assert "Dependencies: not installed: fastapi, " in done.stdout
    assert "pytest" in done.stdout
    assert "\nFix: " in done.stdout
    assert done.stderr == ""
    assert "\x1b" not in done.stdout


@pytest.mark.slow
def test_broken_package() -> None:
    """A package that is installed and does not import is told like a missing one."""
    program = "import sys; sys.modules['dotenv'] = None; sys.modules['preflight.command.line'] = None\n"
    program += "from preflight import bootstrap; bootstrap.problem = lambda _: None; sys.exit(bootstrap.run())"
    done = run("-c", program)
    assert done.returncode == 1
    assert "Dependencies: cannot be imported: " in done.stdout
    assert "Fix: " in done.stdout
    assert done.stderr == ""


@pytest.mark.slow
def test_command_runs() -> None:
    """With everything there the command line has its say."""
    done = run("run.py", "--version")
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "preflight", "")


@pytest.mark.slow
@pytest.mark.parametrize("no_color", ["", "1"])
def test_colour(no_color: str) -> None:
    """The banner is red on a terminal, unless NO_COLOR is set."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", "from preflight import bootstrap; bootstrap.show(['line'])"],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": no_color},
        stdout=slave,
    ) as process:
        assert process.wait(30) == 0
    os.close(slave)
    shown = os.read(master, 65536).decode()
    os.close(master)
    assert ("\x1b[1;37;41m" in shown) == (not no_color)
    assert "line" in shown


def test_show_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe the banner is text alone."""
    bootstrap.show(["one", "two"])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["CRITICAL ERROR: must fix before proceeding".center(80).rstrip(), "one", "two", "-" * 80]
