"""The env file."""

from __future__ import annotations

import shlex
import stat

import pytest

from preflight.contract import Details, unknown
from preflight.settings import Settings


@pytest.mark.critical("Environment File", fix="python run.py --init", needs="env_file")
def test_environment_file(settings: Settings, details: Details) -> None:
    """The env file exists, can be read, and every line of it is NAME=value."""
    file = settings.envfile
    details.update(path=str(file.path), variables=len(file.values))
    if file.exists:
        details.fix = f"open {file.path} and mend it; nothing but NAME=value and # comments belongs there"
    assert file.problem is None, file.problem
    details.summary = f"{file.path}, {len(file.values)} variable{'' if len(file.values) == 1 else 's'}"


@pytest.mark.warning("Environment File Permissions", fix="python run.py --init", needs="env_file")
def test_environment_file_permissions(settings: Settings, details: Details) -> None:
    """Nobody but its owner can read the env file."""
    path = settings.envfile.path
    if not path.exists():
        unknown(f"{path} does not exist")
    mode = stat.S_IMODE(path.stat().st_mode)
    details.update(path=str(path), mode=f"{mode:04o}")
    details.fix = f"chmod 600 {shlex.quote(str(path))}"
    assert not mode & 0o077, f"{path} has mode {mode:04o}, needs 0600: others on this machine can read the keys"
    details.summary = f"mode {mode:04o}"
