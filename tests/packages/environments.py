"""Environments as somebody else makes them: a package of theirs, and the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.e2e.place import Place, make_place

DISTRIBUTION = "pytest-preflight[web]"


def install(python: Path, *packages: str) -> None:
    """Install these into the environment of that interpreter, by uv where there is one."""
    uv = shutil.which("uv")
    pip = [uv, "pip", "install", "-q", "--python", str(python)] if uv else [str(python), "-m", "pip", "install", "-qq"]
    subprocess.run([*pip, *packages], check=True)


def make_environment(folder: Path, *packages: str) -> Path:
    """A fresh environment with these packages; returns its folder."""
    uv = shutil.which("uv")
    venv = [uv, "venv", "-q", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]
    subprocess.run([*venv, str(folder)], check=True)
    install(folder / "bin" / "python", *packages)
    return folder


def with_extra(wheel: Path) -> str:
    """What to install instead of `DISTRIBUTION`, which no index has yet."""
    return f"{DISTRIBUTION} @ {wheel.as_uri()}"


def place_in(folder: Path, environment: Path) -> Place:
    """An empty project's folder, in which this environment is activated."""
    root = folder / "project"
    root.mkdir()
    place = make_place(folder / "place", root)
    # Modules of the test's own environment are not to be found, and what a project writes belongs into its folder.
    for name in ("PYTHONPATH", "PREFLIGHT_STATE_DIR"):
        del place.environ[name]
    place.environ |= {
        "PATH": f"{environment / 'bin'}:{place.environ['PATH']}",
        "VIRTUAL_ENV": str(environment),
        "PREFLIGHT_PORT": str(place.port),
    }
    return place
