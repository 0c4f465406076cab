"""The command ``python run.py``: which verb a command line asks for, and what every verb needs before it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from preflight import project
from preflight.command import options
from preflight.command.options import OWN, START, Invocation
from preflight.output import plainlines
from preflight.ports import activation
from preflight.processes.servicemanager import ServiceManager
from preflight.settings.fields import SettingsError
from preflight.settings.loading import load
from preflight.settings.model import Settings

if TYPE_CHECKING:
    from preflight.output.log import LogFile


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; returns the exit code."""
    # First of all: neither a child nor the application may take what systemd has given to this process for its own.
    passed, service = activation.take(os.environ), ServiceManager.take(os.environ)
    invocation = replace(options.parse(argv), passed=passed, service=service)
    settings: Settings | None = None
    try:
        found = project.of_command()
        settings = load(found, options=invocation.settings, imports=invocation.command not in WITHOUT_PROJECT)
        if found.passed_over:
            plainlines.note(found.passed_over)
        if settings.set_aside:
            from preflight.settings import servicelinks

            plainlines.note(servicelinks.described(settings.set_aside))
        if invocation.command not in WITHOUT_PROJECT and (hidden := project.shadow(settings.folder)):
            plainlines.note(
                f"{hidden} has the same name as this package: here, `import preflight` imports the package, but under"
                " python -m pytest it imports that file; rename the file"
            )
        try:
            log_file = None if invocation.command in WITHOUT_LOG_FILE else _log_file(settings)
        except OSError as error:
            plainlines.error(f"the log file {settings.log_file} cannot be used: {error.strerror}")
            return _unstarted(invocation, f"the log file cannot be used: {error.strerror}", settings)
        return VERBS[invocation.command](invocation, settings, log_file)
    except SettingsError as error:  # also from settings that are read again later
        plainlines.error(str(error))
        log_path = settings.log_file if settings is not None else invocation.settings.get("log_file")
        return _unstarted(invocation, str(error), settings, log_path)


def _log_file(settings: Settings) -> LogFile | None:
    if settings.log_file is None:
        return None
    from preflight.output.log import LogFile

    return LogFile(settings.log_file, waits=False)


def _unstarted(invocation: Invocation, why: str, settings: Settings | None, log_path: object = None) -> int:
    """The exit code of a command that could not begin; a start is recorded as refused."""
    if invocation.command == START:
        from preflight.command import start

        start.record_refusal(why, settings, log_path)
    return 2


# Each verb is in a file of its own, which is imported on demand: most need modules that a start has no use for.


def _start(invocation: Invocation, settings: Settings, log_file: LogFile | None) -> int:
    from preflight.command import start

    return start.run(invocation, settings, log_file)


def _reload(invocation: Invocation, settings: Settings, log_file: LogFile | None) -> int:
    from preflight.command import reload

    return reload.run(invocation, settings, log_file)


def _check(invocation: Invocation, settings: Settings, log_file: LogFile | None) -> int:
    from preflight.command import check

    return check.run(invocation, settings, log_file)


def _watch(invocation: Invocation, settings: Settings, log_file: LogFile | None) -> int:
    from preflight.command import watch

    return watch.run(invocation, settings, log_file)


def _history(invocation: Invocation, settings: Settings, _log_file: LogFile | None) -> int:
    from preflight.command import history

    address = settings.address if invocation.names_address else None
    return history.show(settings, address=address, as_json=invocation.as_json)


def _port_status(invocation: Invocation, settings: Settings, _log_file: LogFile | None) -> int:
    from preflight.command import port

    return port.status(settings, as_json=invocation.as_json)


def _free_port(invocation: Invocation, settings: Settings, log_file: LogFile | None) -> int:
    from preflight.command import port

    return port.free(
        settings, dry_run=invocation.dry_run, as_json=invocation.as_json, verbose=invocation.verbose, log_file=log_file
    )


def _test_notify(_invocation: Invocation, settings: Settings, _log_file: LogFile | None) -> int:
    from preflight.command import notify

    return notify.run(settings)


def _fleet(invocation: Invocation, settings: Settings, _log_file: LogFile | None) -> int:
    from preflight.command import fleet

    return fleet.show(settings, invocation.fleet, as_json=invocation.as_json)


def _migrate(_invocation: Invocation, settings: Settings, _log_file: LogFile | None) -> int:
    from preflight.command import migrate

    return migrate.run(settings)


def _init(invocation: Invocation, settings: Settings, _log_file: LogFile | None) -> int:
    from preflight.command import init

    return init.run(invocation, settings)


def _own(invocation: Invocation, settings: Settings, _log_file: LogFile | None) -> int:
    from preflight.command import own

    return own.run(invocation.verb, settings)


def _bundle(invocation: Invocation, settings: Settings, _log_file: LogFile | None) -> int:
    from preflight.command import bundle

    if invocation.bundle is None:
        raise RuntimeError("a bundle has a path")
    return bundle.command(settings, invocation.bundle)


VERBS: Mapping[str, Callable[[Invocation, Settings, LogFile | None], int]] = {
    START: _start,
    "reload": _reload,
    "check_only": _check,
    "watch": _watch,
    "history": _history,
    "port_status": _port_status,
    "free_port": _free_port,
    "test_notify": _test_notify,
    "fleet": _fleet,
    "migrate": _migrate,
    OWN: _own,
    "init": _init,
    "bundle": _bundle,
}
WITHOUT_PROJECT = ("history", "port_status", "free_port", "fleet", "init")
"""Verbs that import nothing of the project, and work where none may run."""
WITHOUT_LOG_FILE = ("test_notify", "migrate", OWN, "init", "bundle")
"""Verbs that work although the log file cannot be used."""
