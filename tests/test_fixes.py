"""The suite's fixes, pasted: each command does what it says, wherever files are and whatever they are called."""

from __future__ import annotations

import importlib
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from preflight.contract import Details
from preflight.settings import envfile, loading
from preflight.settings import model as settings
from tests.pasting import check, is_command

ROOT = Path(__file__).parents[1]

Fix = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a name that has to be quoted."""
    folder = tmp_path / "it's a $HOME; folder, or two"
    folder.mkdir()
    return folder


@pytest.fixture
def fix(folder: Path) -> Fix:
    """The fix of a requirement that fails with these settings."""

    def of(subject: str, name: str, *more: object, demo: bool = False, **variables: str) -> str:
        environ = {"PREFLIGHT_ENV_FILE": str(folder / ".env"), "PREFLIGHT_STATE_DIR": str(folder / "state")}
        chosen = loading.load(ROOT, {**environ, **variables}, {"demo": demo})
        requirement: Callable[..., None] = getattr(
            importlib.import_module(f"preflight.requirements.test_{subject}"), f"test_{name}"
        )
        details = Details()
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            requirement(chosen, *more, details)
        check(details.fix)
        return details.fix

    return of


@pytest.fixture
def paste(tmp_path: Path) -> Callable[..., str]:
    """Runs a fix, and what follows it, in a shell in an empty folder; returns what it prints."""
    programs, home = tmp_path / "bin", tmp_path / "home"
    home.mkdir()
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)

    def run(*lines: str) -> str:
        environ = {"HOME": str(home), "PATH": f"{programs}:/usr/bin:/bin"}
        script = "\n".join(lines)
        done = subprocess.run(
            ["bash"], input=script, cwd=home, env=environ, capture_output=True, text=True, check=True, timeout=30
        )
        assert list(home.iterdir()) == [], "it has left something behind"
        return done.stdout

    return run


@pytest.mark.slow
def test_what_a_fix_may_be() -> None:
    """The check itself: commands, sentences, and what is neither."""
    for good in ("kill 4711", "kill 4711  # or wait", "wait a minute", "ss 'sport = :1'  # shows who it is"):
        check(good)
    for bad in (
        "kill 4711, or wait",
        "kill 4711 or wait",
        "wait, or end it: kill 4711",
        "chmod 600 it's",
        "kill 1 (or 2)",
    ):
        with pytest.raises(AssertionError):
            check(bad)


@pytest.mark.slow
@pytest.mark.parametrize("before", [None, "", "NAME=value\n", "NAME=value"])
def test_exposure(before: str | None, folder: Path, fix: Fix, paste: Callable[..., str]) -> None:
    """It leaves the env file with a token in it, everything that was there before, and nothing anywhere else."""
    file = folder / ".env"
    if before is not None:
        file.write_text(before)
    command = fix("exposure", "exposure", PREFLIGHT_HOST="0.0.0.0")
    assert paste(command) == ""
    found = envfile.read(file)
    assert found.problem is None
    assert len(found.values["PREFLIGHT_TOKEN"]) >= settings.TOKEN_LENGTH
    assert {name: value for name, value in found.values.items() if name != "PREFLIGHT_TOKEN"} == (
        {"NAME": "value"} if before else {}
    )
    assert [path.name for path in folder.iterdir()] == [".env"]


@pytest.mark.slow
def test_exposure_in_the_demo(fix: Fix, paste: Callable[..., str]) -> None:
    """It sets the token in the shell that it is pasted into."""
    for variables in ({"PREFLIGHT_HOST": "0.0.0.0"}, {"PREFLIGHT_TRUSTED_PROXIES": "127.0.0.1"}):
        command = fix("exposure", "exposure", demo=True, **variables)
        assert len(paste(command, "printenv PREFLIGHT_TOKEN").strip()) >= settings.TOKEN_LENGTH


@pytest.mark.slow
def test_modes(folder: Path, fix: Fix, paste: Callable[..., str]) -> None:
    """What others can read is closed to them."""
    file, state = folder / ".env", folder / "state"
    file.touch(mode=0o644)
    file.chmod(0o644)
    state.mkdir()
    state.chmod(0o755)
    paste(fix("environment", "environment_file_permissions"))
    paste(fix("state", "state_folder_mode"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


@pytest.mark.slow
def test_application(fix: Fix, paste: Callable[..., str]) -> None:
    """It imports what does not import."""
    command = fix("application", "application", "no module", "", PREFLIGHT_APP="not_there.it:app")
    assert paste(f"{{ {command}\n}} 2>&1 || true").endswith("ModuleNotFoundError: No module named 'not_there'\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "subject, name, variables, command",
    [
        ("python", "python_version", {"PREFLIGHT_PYTHON": ">=3.99.1"}, False),
        ("environment", "environment_file", {}, False),
        ("resources", "disk_space", {"PREFLIGHT_DISK_SPACE": "99999999999999999"}, False),
    ],
)
def test_the_others(
    subject: str, name: str, variables: Mapping[str, str], command: bool, folder: Path, fix: Fix
) -> None:
    """Commands and sentences."""
    (folder / ".env").write_text("no line of an env file\n")
    found = fix(subject, name, **variables)
    assert is_command(found) == command
