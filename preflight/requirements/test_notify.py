"""Telling people about changes."""

from __future__ import annotations

import importlib.metadata

import pytest
from packaging.requirements import Requirement

from preflight.contract import Details
from preflight.settings.model import Settings


@pytest.mark.warning("Notifications", needs="notify")
def test_notifications(settings: Settings, details: Details) -> None:
    """If PREFLIGHT_NOTIFY names services to notify, the package that notifies them is installed."""
    from preflight.notify import notifier as notify  # nobody else in the suite needs it

    # Whether the URLs are right is asked once the server is up: importing Apprise would double a start's time.
    details.update(services=len(settings.notify))
    details.fix = notify.install_command(settings.root)
    for wanted in map(Requirement, notify.wanted(settings.root)):
        try:
            details[wanted.name] = version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            pytest.fail(f"{wanted.name} is not installed: no notification can be sent")
        fits = wanted.specifier.contains(version, prereleases=True)
        assert fits, f"{wanted.name} is {version}, but must be {wanted.specifier}"
    count = len(settings.notify)
    details.summary = f"{count} service{'' if count == 1 else 's'} to notify"
