"""The application to serve."""

from __future__ import annotations

import shlex

import pytest

from preflight.contract import Details
from preflight.settings import Settings


@pytest.mark.critical("Application", ignorable=False)
def test_application(settings: Settings, application: str | None, application_fix: str, details: Details) -> None:
    """The application to serve imports, and is one that can be served."""
    details.update(app=settings.app)
    module = settings.app.partition(":")[0]
    details.fix = application_fix or f"python -c {shlex.quote(f'import {module}')}  # shows the whole error"
    reason = application if application_fix else f"{settings.app} does not import: {application}"
    assert application is None, reason
    details.summary = settings.app
