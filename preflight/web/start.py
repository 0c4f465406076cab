"""A start without the launcher: the suite runs in the process of the server that has the application."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from preflight.project import Project
from preflight.settings.fields import SettingsError
from preflight.settings.loading import load
from preflight.settings.model import PREFIX, Settings
from preflight.web import extra, logs
from preflight.web.instance import BlockedStart, Instance
from preflight.web.logins import Admission

if TYPE_CHECKING:
    # Only for types: the launcher's worker has no use for them, and their import is a start's critical path.
    from preflight.output.terminal import Terminal
    from preflight.processes.channel import Message
    from preflight.processes.modules import Stamp
    from preflight.redaction.redactor import Redactor
    from preflight.web.group import Examined

MARGIN = 30.0  # seconds beyond a run's deadline for which a process waits for another one's run


class EmbeddedStart(NamedTuple):
    """A start in the process of another server."""

    instance: Instance
    redactor: Redactor
    terminal: Terminal
    host: str | None
    """The address that the server has bound, or is going to bind, as far as that is known."""


def examine(project: Path, host: str | None, port: int | None) -> Instance:
    """Run the suite for an application that was started without the launcher; its server owns the port.

    ``project`` is the folder whose settings count. ``host`` and ``port`` are those that the server has bound, or is
    going to bind, as far as that is known.

    Raises BlockedStart when a critical requirement blocks or a setting is wrong.
    """
    start = _prepare(project, host, port, {})
    start.instance.report = _check(start).report
    return start.instance


def examine_once(project: Path | Project, host: str | None, port: int | None, app: str) -> Instance:
    """Like :func:`examine`, for an application ``app`` beside our routes: one run for all processes of its server.

    The process that has run the suite prints the link that opens the routes, if nothing else does.
    """
    from preflight.web.group import Group

    start = _prepare(project, host, port, {"app": app})
    instance = start.instance
    sources = {**instance.settings.sources, "app": "guard()"}
    settings = instance.settings = replace(instance.settings, sources=sources)
    try:
        group = Group(settings.state_dir, settings.root, settings.folder, app, host, port)
        agreed = group.agree(lambda: _check(start), settings.run_timeout + MARGIN, *_question(settings))
    except OSError as error:
        raise BlockedStart(f"the folder that the processes of this server share cannot be used: {error}") from None
    instance.report = agreed.report
    instance.admission = Admission(settings.token or agreed.token, settings.token is None, group)
    if agreed.code and settings.prefix and not extra.missing(extra.ROUTES):
        way_in = f"{settings.prefix}/login?code={agreed.code}" if settings.token is None else f"{settings.prefix}/"
        address = f"http://{settings.address}" if port is not None else ""
        start.terminal.line(f"Preflight  {address}{way_in}", "bold")
    return instance


def _question(settings: Settings) -> tuple[str, str]:
    """What stands for a run's code and settings, of which another release has others, and for its environment."""
    from preflight import project
    from preflight.processes import modules

    files = {str(settings.root / project.PYPROJECT)}
    for scope in settings.scopes:
        if scope.name != project.OURS:
            files.update(map(str, scope.folder.rglob("*.py")))
    files |= modules.imported(settings.root)
    said = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)} | dict(
        settings.envfile.values
    )
    # Any other variable may count as well: gunicorn has read others after a SIGHUP (raw_env).
    return _digest([sorted(said.items()), modules.stamps(files)]), _digest(sorted(os.environ.items()))


def _digest(asked: object) -> str:
    return hashlib.sha256(repr(asked).encode()).hexdigest()


def _prepare(
    project: Path | Project, host: str | None, port: int | None, options: Mapping[str, object]
) -> EmbeddedStart:
    from preflight.output import floods
    from preflight.output.log import Log, LogFile, direct
    from preflight.output.terminal import Terminal
    from preflight.processes import interpreter
    from preflight.redaction.redactor import Redactor

    try:
        settings = load(project, options=options)
    except SettingsError as error:
        raise BlockedStart(str(error)) from None
    settings = replace(settings, port=port or settings.port)
    # As the launcher gives it to a worker: the client libraries look there for proxies, certificates and headers.
    # Python's own variables are left out: this interpreter runs already, and the suite's is not the env file's to set.
    variables = {name: value for name, value in settings.envfile.values.items() if not interpreter.is_pythons(name)}
    os.environ.update(interpreter.for_worker({**variables, **os.environ}))
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
    instance = Instance(settings=settings, report=None, options=options, note=direct(settings, redactor, log_file))
    return EmbeddedStart(instance, redactor, terminal, host)


def _check(start: EmbeddedStart) -> Examined:
    """Run the suite, publish and show its report; it is None if the run is skipped. Raises BlockedStart."""
    from preflight.output import publishing
    from preflight.processes import suite
    from preflight.report import banners
    from preflight.web.group import Examined

    instance, redactor, terminal, host = start
    settings = instance.settings

    def on_signal(name: str, pid: int, module: str, why: str) -> None:
        instance.audit("signal", signal=name, to=pid, name=module, why=why, result="sent")

    if settings.skip:
        terminal.show(banners.bar("PREFLIGHT SKIPPED (PREFLIGHT_SKIP): no requirement was checked", "dark_orange3"))
        return Examined(None, [])
    imported: list[Stamp] = []

    def on_message(message: Message) -> None:
        if message.kind == "imported":
            imported.extend((str(file), int(changed), int(size)) for file, changed, size in message.data["stamps"])

    asked = replace(settings, host=host or settings.host)
    result = suite.run(asked, instance.options, "start", redactor, on_message=on_message, on_signal=on_signal)
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
    return Examined(result.report, imported)
