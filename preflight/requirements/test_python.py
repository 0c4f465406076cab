"""The interpreter."""

from __future__ import annotations

import platform
import sys

import pytest
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from preflight.contract import Details
from preflight.settings import Settings


@pytest.mark.critical("Python Version", fix="install a Python that fits and make the virtual environment anew with it")
def test_python_version(settings: Settings, details: Details) -> None:
    """The interpreter is one that the application runs on."""
    found = platform.python_version()
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
