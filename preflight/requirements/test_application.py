"""The application to serve."""

from __future__ import annotations

import shlex

import pytest

from preflight.contract import Details
from preflight.settings import Settings


@pytest.mark.critical("Application", ignorable=False)
def test_application(settings: Settings, application: str | None, details: Details) -> None:
    """The application to serve imports."""
    details.update(app=settings.app)
    module = settings.app.partition(":")[0]
    details.fix = f"python -c {shlex.quote(f'import {module}')}  # shows the whole error"
    assert application is None, f"{settings.app} does not import: {application}"
    details.summary = settings.app
