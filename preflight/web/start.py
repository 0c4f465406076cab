"""A start without the launcher: the suite runs in the process of the server that has the application."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from preflight.settings.loading import load
from preflight.settings.model import SettingsError
from preflight.web import logs
from preflight.web.instance import BlockedStart, Instance


def examine(project: Path, host: str | None, port: int | None) -> Instance:
    """Run the suite for an application that was started without the launcher; its server owns the port.

    ``project`` is the folder whose settings count. ``host`` and ``port`` are those that the server has bound, or is
    going to bind, as far as that is known.

    Raises BlockedStart when a critical requirement blocks or a setting is wrong.
    """
    # Only here: the launcher's worker has no use for them, and its import is a start's critical path.
    from preflight.output import floods, publishing
    from preflight.output.log import Log, LogFile, direct
    from preflight.output.terminal import Terminal
    from preflight.processes import interpreter, suite
    from preflight.redaction.redactor import Redactor
    from preflight.report import banners

    try:
        settings = load(project)
    except SettingsError as error:
        raise BlockedStart(str(error)) from None
    settings = replace(settings, port=port or settings.port)
    # As the launcher gives it to a worker: the client libraries look there for proxies, certificates and headers.
    os.environ.update(interpreter.for_worker({**settings.envfile.values, **os.environ}))
    redactor = Redactor.of(settings)
    logs.redact(redactor)
    floods.bound()
    terminal = Terminal(Log(redactor), sys.stderr)
    if settings.set_aside:
        from preflight.settings import servicelinks

        terminal.line(servicelinks.described(settings.set_aside), "yellow")
    try:
        log_file = LogFile(settings.log_file) if settings.log_file else None
    except OSError as error:
        raise BlockedStart(f"the log file {settings.log_file} cannot be used: {error.strerror}") from None
    instance = Instance(settings=settings, report=None, note=direct(settings, redactor, log_file))

    def on_signal(name: str, pid: int, module: str, why: str) -> None:
        instance.audit("signal", signal=name, to=pid, name=module, why=why, result="sent")

    if settings.skip:
        terminal.show(banners.bar("PREFLIGHT SKIPPED (PREFLIGHT_SKIP): no requirement was checked", "dark_orange3"))
        return instance
    result = suite.run(replace(settings, host=host or settings.host), {}, "start", redactor, on_signal=on_signal)
    if result.exit_code == 2:
        instance.audit("refused", by="server", why=[result.reason])
        raise BlockedStart(result.reason)
    try:
        publishing.publish(result.report, settings, terminal)
    except publishing.Unpublishable as error:
        why = f"the report cannot be written: {error}"
        instance.audit("refused", by="server", why=[why], run_id=result.report.run_id)
        raise BlockedStart(why) from None
    publishing.show(result.report, terminal, reason=result.reason, output=result.output)
    if not result.may_start:
        titles = [check.title for check in result.report.blocking]
        instance.audit("refused", by="server", why=titles or [result.reason], run_id=result.report.run_id)
        raise BlockedStart(f"the preflight blocks the start: {result.reason or ', '.join(titles)}")
    instance.report = result.report
    return instance
