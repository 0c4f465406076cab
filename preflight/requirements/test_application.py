"""The application to serve."""

from __future__ import annotations

import pytest

from preflight import commands
from preflight.contract import Details
from preflight.settings.model import Settings


@pytest.mark.critical("Application", ignorable=False)
def test_application(settings: Settings, application: str | None, application_fix: str, details: Details) -> None:
    """The application can be imported and served."""
    source = settings.place("app")
    details.update(app=settings.app, source=source)
    details.fix = application_fix or commands.load_application(settings.app, demo=settings.demo)
    # A person who has named it knows where; an application that was found may not be the one that was meant.
    app = f"{settings.app} ({source})" if settings.discovered("app") else settings.app
    reason = application if application_fix else f"{app} cannot be imported: {application}"
    assert application is None, reason
    details.summary = f"{settings.app} ({source})"
