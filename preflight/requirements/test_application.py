"""The application to serve."""

from __future__ import annotations

import pytest

from preflight import loadapplication
from preflight.contract import Details
from preflight.settings import Settings


@pytest.mark.critical("Application", ignorable=False)
def test_application(settings: Settings, application: str | None, application_fix: str, details: Details) -> None:
    """The application to serve imports, and is one that can be served."""
    details.update(app=settings.app)
    details.fix = application_fix or loadapplication.command(settings)
    reason = application if application_fix else f"{settings.app} does not import: {application}"
    assert application is None, reason
    details.summary = settings.app
