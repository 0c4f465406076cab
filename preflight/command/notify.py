"""``--test-notify``: one message to every service that is told about changes."""

from __future__ import annotations

import sys

from preflight import commands
from preflight.notify import notices, notifier
from preflight.output import plainlines
from preflight.redaction.redactor import Redactor
from preflight.settings import places
from preflight.settings.model import Settings


def run(settings: Settings) -> int:
    """Send the message; returns 0 if every service accepted it, 1 if not, 2 without a service or without Apprise."""
    place = places.of(settings, "PREFLIGHT_NOTIFY")
    if not settings.notify and place.in_environment:
        fix = place.fix("set it there")
        plainlines.error(f"PREFLIGHT_NOTIFY is empty in the environment: {fix}")
        return 2
    if not settings.notify:
        where = "in the environment" if settings.demo else f"in {settings.envfile.path} or the environment"
        plainlines.error(f"PREFLIGHT_NOTIFY is not set: set it {where}")
        return 2
    if not notifier.installed():
        command = notifier.install_command(settings.root)
        print(f"{commands.name()}: error: notifications need apprise; fix: {command}", file=sys.stderr)
        return 2
    redactor = Redactor.of(settings)
    message = "This is how you will hear of checks that fail or hold again, and of crashes."
    tried = notifier.try_out(settings, redactor, notices.make(settings, "success", "This is a test", message))
    for service in tried:
        plainlines.say(f"{service.name}: {f'NOT delivered: {service.problem}' if service.problem else 'delivered'}")
    return 1 if any(service.problem for service in tried) else 0
