"""The interpreter."""

from __future__ import annotations

import sys

import pytest
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from preflight.contract import Details
from preflight.settings import Settings

STAGES = {"alpha": "a", "beta": "b", "candidate": "rc"}


def version() -> str:
    """This interpreter's version as PEP 440 has it.

    A build from a branch calls itself "3.11.7+", which is no such version: it has all that 3.11.7 has.
    """
    major, minor, micro, stage, serial = sys.version_info
    return f"{major}.{minor}.{micro}" + (f"{STAGES[stage]}{serial}" if stage in STAGES else "")


@pytest.mark.critical("Python Version", fix="install a Python that fits and make the virtual environment anew with it")
def test_python_version(settings: Settings, details: Details) -> None:
    """The interpreter is one that the application runs on."""
    found = version()
    details.update(required=settings.python, found=found, executable=sys.executable)
    try:
        wanted = SpecifierSet(settings.python)
    except InvalidSpecifier:
        pytest.fail(f'the setting python = "{settings.python}" is no version specifier; write one like ">=3.13.8"')
    lowest = next((clause.version for clause in wanted if clause.operator in (">=", "~=", "==")), "")
    if lowest:
        details.fix = f"uv python install {'.'.join(lowest.split('.')[:2])}  # and make the virtual environment with it"
    assert wanted.contains(found, prereleases=True), f"requires Python {settings.python}, found {found}"
    details.summary = f"{found} satisfies {settings.python}"
