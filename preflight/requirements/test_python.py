"""The interpreter."""

from __future__ import annotations

import sys

import pytest
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from preflight import installing
from preflight.contract import Details
from preflight.settings.model import ENV_FILE, ENVIRONMENT, Settings

STAGES = {"alpha": "a", "beta": "b", "candidate": "rc"}


def version() -> str:
    """This interpreter's version as PEP 440 has it.

    A build from a branch calls itself "3.11.7+", which is no such version: it has all that 3.11.7 has.
    """
    major, minor, micro, stage, serial = sys.version_info
    return f"{major}.{minor}.{micro}" + (f"{STAGES[stage]}{serial}" if stage in STAGES else "")


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


@pytest.mark.critical("Python Version")
def test_python_version(settings: Settings, details: Details) -> None:
    """The application runs on this version of Python."""
    found = version()
    details.update(required=settings.python, found=found, executable=sys.executable)
    try:
        wanted = SpecifierSet(settings.python)
    except InvalidSpecifier:
        pytest.fail(f'the setting python = "{settings.python}" is not a version specifier; write one like ">=3.13.8"')
    fits = wanted.contains(found, prereleases=True)
    if not fits:
        details.fix = installing.change_python_command(
            settings.python, lambda version: _is_version(version) and wanted.contains(version)
        )
        details.fix = (
            details.fix or f"install a Python {settings.python}, then run this command again to see how to switch to it"
        )
    # The only mistake may be a variable that was set for something else.
    variable = settings.sources.get("python") in (ENVIRONMENT, ENV_FILE)
    where = f" ({settings.place('python')} asks for it)" if variable else ""
    assert fits, f"requires Python {settings.python}, found {found}{where}"
    details.summary = f"{found} satisfies {settings.python}"
