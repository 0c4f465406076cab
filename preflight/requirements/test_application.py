"""The application to serve."""

from __future__ import annotations

import pytest

from preflight import commands
from preflight.contract import Details
from preflight.settings.model import Settings


@pytest.mark.critical("Application", ignorable=False)
def test_application(settings: Settings, application: str | None, application_fix: str, details: Details) -> None:
    """The application to serve imports, and is one that can be served."""
    details.update(app=settings.app)
    details.fix = application_fix or commands.load_application(settings.app, demo=settings.demo)
    reason = application if application_fix else f"{settings.app} does not import: {application}"
    assert application is None, reason
    details.summary = settings.app
