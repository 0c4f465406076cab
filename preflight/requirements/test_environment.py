"""The env file."""

from __future__ import annotations

import shlex
import stat

import pytest

from preflight.contract import Details, not_applicable, unknown
from preflight.settings import template
from preflight.settings.model import Settings

KEY = "OPENAI_API_KEY"
"""What the agent server needs an env file for, unless the environment has it."""


def key_is_in_the_environment(settings: Settings) -> bool:
    """Whether the process's own variables have the key, if there is no env file that could."""
    return settings.serves_agent and KEY in settings.own and bool(settings.environment.get(KEY, "").strip())


def is_not_wanted(settings: Settings) -> bool:
    """Whether there is no env file, and nobody has said that there should be one."""
    return not settings.envfile.exists and "env_file" not in settings.sources


@pytest.mark.critical("Environment File", needs="env_file")
def test_environment_file(settings: Settings, details: Details) -> None:
    """The env file can be read and every line is NAME=value, or the environment has the key and there is no file."""
    file = settings.envfile
    details.update(path=str(file.path), variables=len(file.values))
    if settings.envfile_broke:
        details.summary = f"this server read the file when it was started; the next start would fail: {file.problem}"
        return
    if is_not_wanted(settings):
        not_applicable(f"not used: {file.problem}")
    if not file.exists and key_is_in_the_environment(settings):
        not_applicable(f"not used: {file.problem}, and {KEY} is in the environment")
    write = f"write {file.path}, with one NAME=value on each line"
    details.fix = template.command(settings) if settings.serves_agent else write
    if file.exists:
        details.fix = f"correct {file.path}: only lines of NAME=value and # comments belong there"
    if file.open_to:
        details.fix = f"check that nobody else has changed its content, then: chmod 600 {shlex.quote(str(file.path))}"
    assert file.problem is None, file.problem
    details.summary = f"{file.path}, {len(file.values)} variable{'' if len(file.values) == 1 else 's'}"


@pytest.mark.warning("Environment File Permissions", needs="env_file")
def test_environment_file_permissions(settings: Settings, details: Details) -> None:
    """Nobody but its owner can read the env file."""
    path = settings.envfile.path
    if not settings.envfile.exists:
        if is_not_wanted(settings) or key_is_in_the_environment(settings):
            not_applicable("not used: there is no env file")
        unknown(f"{path} does not exist")
    mode = stat.S_IMODE(path.stat().st_mode)
    details.update(path=str(path), mode=f"{mode:04o}")
    details.fix = f"chmod 600 {shlex.quote(str(path))}"
    assert not mode & 0o077, f"{path} has mode {mode:04o}, needs 0600: others on this machine can read the keys"
    details.summary = f"mode {mode:04o}"
