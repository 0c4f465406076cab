"""The command ``python run.py``: options, and what they ask for."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from preflight import __version__
from preflight.output import plainlines
from preflight.report import formats
from preflight.settings.model import PREFIX, SETTINGS, Settings, SettingsError, duration, load

if TYPE_CHECKING:
    from preflight.output.log import LogFile
    from preflight.output.terminal import Terminal

TYPED_AT = time.monotonic()  # as near to the command's start as this code can be
ROOT = Path(__file__).resolve().parent.parent.parent

EXIT_CODES = {
    0: "served and stopped as asked, nothing blocks, or done; with --port-status: the port is available; with"
    " --free-port: it is free, or would be",
    1: "a critical requirement blocks, or not done; with --port-status: the port is not available; with --free-port:"
    " it is not free, or would not be",
    2: "wrong usage or a wrong setting",
    3: "the suite itself broke: there is no trustworthy report",
    4: "the server kept crashing or hanging, or did so where systemd, Kubernetes or a container runtime restarts it;"
    " it did not start; or it did not answer, and the one that it was to replace goes on",
}


COMMANDS = ("check_only", "watch", "history", "port_status", "free_port", "test_notify", "init", "bundle")
"""What may be asked for instead of a start; one of them at a time."""
START = "start"
GOES_WITH = {
    "report": (START, "check_only", "watch"),
    "format": ("check_only", "history", "port_status", "free_port"),
    "wait": (START, "check_only"),
    "dry_run": ("free_port",),
}
"""Options that some commands alone have a use for. Settings go with all of them: they may stand elsewhere as well."""


class _Parser(argparse.ArgumentParser):
    """argparse repeats what it does not understand, and that may be a key in the wrong place.

    Of wrong usage it says what is wrong, and last: the list of all options, which argparse puts before that, is what
    --help is for.
    """

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._meant(unknown)}")
        return found

    def _meant(self, unknown: Sequence[str]) -> str:
        """What the first of them that looks like an option, or is one without its dashes, may have been meant for."""
        import difflib  # only when something is wrong

        option = next((one.partition("=")[0] for one in unknown if one.startswith("-")), "")
        if not option:  # check-only; no other word is guessed at, it could be anything
            option = next((f"--{one}" for one in unknown if f"--{one}" in self._option_string_actions), "")
        name = option.strip("-").replace("-", "_")
        if name in SETTINGS:
            return f"; {name} is a setting and no option: set {PREFIX}{name.upper()}"
        # Nobody types a long one to its end: --chek is nearer to the beginning of --check-only than to --help.
        known = {one[: len(option) + 1]: one for one in self._option_string_actions}
        known |= {one: one for one in self._option_string_actions}
        close = difflib.get_close_matches(option, known, n=1)
        return f"; did you mean {known[close[0]]}?" if close else ""

    def error(self, message: str) -> NoReturn:
        from preflight.redaction.redactor import Redactor

        try:
            settings = load(ROOT)
            redactor = Redactor.of(settings)
        except SettingsError:
            redactor = Redactor.of_variables(os.environ)
        plainlines.error(redactor.text(message))
        self.exit(2)


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Made for every option; left to itself it asks shutil for the width: 0.5 MiB of a launcher's 20."""
    columns = os.environ.get("COLUMNS", "")
    try:
        width = int(columns) if columns.isdigit() and int(columns) else os.get_terminal_size().columns
    except OSError:
        width = 80  # no terminal
    return argparse.HelpFormatter(prog, width=max(width, 20) - 2)


def parser() -> argparse.ArgumentParser:
    """The options of the command; the table of docs/settings.md is held against this."""
    codes = "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())
    options = _Parser(
        prog="run.py",
        description="Check every requirement, then serve.",
        epilog=f"Exit codes: {codes}; 129, 130 or 143 when a signal stopped it before it served.",
        allow_abbrev=False,
        formatter_class=_formatter,
    )
    # No types and choices here: settings.py checks every value and says what is allowed.
    options.add_argument("--host", metavar="H", help="address to serve on (127.0.0.1)")
    options.add_argument("--port", metavar="N", help="port to serve on (8002)")
    options.add_argument("--no-cleanup", action="store_true", help="leave alone whatever is on the port")
    instead = options.add_mutually_exclusive_group()
    instead.add_argument("--check-only", action="store_true", help="run the checks; start and stop nothing")
    options.add_argument("--demo", action="store_true", help="no env file, no keys, no network")
    options.add_argument("--offline", action="store_true", help="leave out what needs the network")
    options.add_argument(
        "--ignore", metavar="NAME", action="append", help="let this critical requirement fail (repeatable)"
    )
    options.add_argument("--app", metavar="MODULE:ATTR", help="the ASGI application to serve, or its factory")
    options.add_argument("--report", metavar="PATH", type=Path, help="also write the report there")
    options.add_argument(
        "--format",
        metavar="NAME",
        choices=list(formats.FORMATS),
        help="with --check-only: print the report as json, text, junit, github or markdown and nothing else; "
        "with --history, --port-status or --free-port: json",
    )
    options.add_argument(
        "--wait", metavar="SECONDS", help="as long as something blocks, check again, for so long at most"
    )
    instead.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        const="5",
        help="repeat the checks, every 5 s unless said otherwise, and show what changes; start and stop nothing",
    )
    instead.add_argument(
        "--history",
        action="store_true",
        help="show past runs and what flipped, of all addresses or of --host and --port, and stop",
    )
    options.add_argument(
        "--if-running",
        metavar="HOW",
        help="what to do about a server that this command started and that serves the address already: "
        "replace, keep or fail (replace)",
    )
    options.add_argument(
        "--supervise", action=argparse.BooleanOptionalAction, help="start a crashed worker again, or not"
    )
    instead.add_argument("--port-status", action="store_true", help="show who holds the port, and stop")
    instead.add_argument("--free-port", action="store_true", help="free the port, gracefully, and stop")
    options.add_argument("--dry-run", action="store_true", help="with --free-port: only say what it would do")
    instead.add_argument(
        "--test-notify", action="store_true", help="send a test notification to PREFLIGHT_NOTIFY's services, and stop"
    )
    instead.add_argument("--init", action="store_true", help="write a commented env file template")
    instead.add_argument(
        "--bundle", metavar="PATH", type=Path, help="write a support bundle (a redacted zip), and stop"
    )
    options.add_argument("--log-file", metavar="PATH", help="write output and audit there as well; it rotates")
    options.add_argument("-v", "--verbose", action="store_true", help="show details")
    options.add_argument("--version", action="version", version=f"preflight {__version__}")
    return options


def setting_options(arguments: argparse.Namespace) -> dict[str, object]:
    """Those options that are settings, by setting name, as they were typed."""
    return {
        name: value
        for name, value in {
            "host": arguments.host,
            "port": arguments.port,
            "app": arguments.app,
            "port_cleanup": "never" if arguments.no_cleanup else None,
            "demo": True if arguments.demo else None,
            "offline": True if arguments.offline else None,
            "ignore": arguments.ignore,
            "if_running": arguments.if_running,
            "supervise": arguments.supervise,
            "log_file": os.path.abspath(arguments.log_file) if arguments.log_file else None,
        }.items()
        if value is not None
    }


def _given(arguments: argparse.Namespace, name: str) -> bool:
    return getattr(arguments, name) not in (None, False)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; returns the exit code."""
    options = parser()
    arguments = options.parse_args(argv)
    command = next((name for name in COMMANDS if _given(arguments, name)), START)
    for name, commands in GOES_WITH.items():
        if _given(arguments, name) and command not in commands:
            *others, last = ("a start" if one == START else _option(one) for one in commands)
            options.error(f"{_option(name)} goes with {' or '.join([', '.join(others), last] if others else [last])}")
    if arguments.format not in (None, "json") and command != "check_only":
        options.error(f"--format {arguments.format} goes with --check-only")
    wait = _seconds(options, "--wait", arguments.wait, low=0.0)
    watch = _seconds(options, "--watch", arguments.watch, low=1.0)
    asked = setting_options(arguments)
    starts = command == START

    def wrong(error: SettingsError, before: Settings | None = None) -> int:
        plainlines.error(str(error))
        if starts:
            _refused([str(error)], before, log_path=before.log_file if before else asked.get("log_file"))
        return 2

    try:
        settings = load(ROOT, options=asked)
    except SettingsError as error:
        return wrong(error)
    if settings.set_aside:
        from preflight.settings import servicelinks

        plainlines.note(servicelinks.described(settings.set_aside))
    if arguments.init:
        return _init(settings)
    if arguments.test_notify:
        return _test_notify(settings)
    if arguments.bundle:
        from preflight.command import bundle

        return bundle.command(settings, arguments.bundle)
    try:
        log_file = _log_file(settings)
    except OSError as error:
        plainlines.error(f"the log file {settings.log_file} cannot be used: {error.strerror}")
        if starts:
            _refused([f"the log file cannot be used: {error.strerror}"], settings)
        return 2
    if arguments.port_status or arguments.free_port:
        from preflight.command import port as portcommand

        as_json = arguments.format == "json"
        if arguments.port_status:
            return portcommand.status(settings, as_json=as_json)
        return portcommand.free(
            settings, dry_run=arguments.dry_run, as_json=as_json, verbose=arguments.verbose, log_file=log_file
        )

    if arguments.history:
        from preflight.command import history as historycommand

        address = settings.address if arguments.host is not None or arguments.port is not None else None
        return historycommand.show(settings, address=address, as_json=arguments.format == "json")

    from preflight.launcher.launcher import Launcher
    from preflight.processes.restarts import Origin, somebody_elses_task

    keeper = somebody_elses_task(Origin.of_this_process()) if starts else None

    def make(settings: Settings, *, patient: bool = False, terminal: Terminal | None = None) -> Launcher:
        return Launcher(
            settings,
            asked,
            typed_at=TYPED_AT,
            report_path=Path(os.path.abspath(arguments.report)) if arguments.report else None,
            output_format=arguments.format or "",
            verbose=arguments.verbose,
            log_file=log_file,
            patient=patient,
            terminal=terminal,
            keeper=keeper,
        )

    if wait is None and watch is None:
        launcher = make(settings)
        return launcher.check() if arguments.check_only else launcher.start()

    from preflight.command import waiting

    def settings_of_now() -> Settings:
        return load(ROOT, options=asked)

    try:
        if watch is not None:
            return waiting.watch(settings_of_now, make, watch)
        return waiting.wait(settings_of_now, make, wait or 0.0, start=not arguments.check_only)
    except SettingsError as error:
        return wrong(error, before=settings)


def _refused(why: list[str], settings: Settings | None = None, log_path: object = None) -> None:
    """Record a start that ended before there was a launcher, as far as it is known where to."""
    import contextlib

    from preflight.output import audit, log
    from preflight.redaction.redactor import Redactor

    redactor = Redactor.of(settings) if settings else Redactor.of_variables(os.environ)
    form, trail = (settings.log_format, settings.state.audit) if settings else ("text", None)
    kept = log.Log(redactor, form=form, trail=trail)
    if log_path:
        with contextlib.suppress(OSError):  # what is wrong has been said
            kept.file = log.LogFile(Path(str(log_path)))
    kept.audit(audit.refused(why, 2))


def _log_file(settings: Settings) -> LogFile | None:
    if settings.log_file is None:
        return None
    from preflight.output.log import LogFile

    return LogFile(settings.log_file, waits=False)


def _seconds(options: argparse.ArgumentParser, name: str, value: str | None, *, low: float) -> float | None:
    if value is None:
        return None
    try:
        return duration(low, 86400.0)(value)
    except ValueError as error:
        options.error(f"{name} {error}")


def _test_notify(settings: Settings) -> int:
    """0 if every service took the message, 1 if not, 2 if there is none or nothing to send with."""
    from preflight.notify import notices
    from preflight.notify import notifier as notify
    from preflight.redaction.redactor import Redactor
    from preflight.settings import places

    place = places.of(settings, "PREFLIGHT_NOTIFY")
    if not settings.notify and place.in_environment:
        fix = place.fix("set it there")
        plainlines.error(f"PREFLIGHT_NOTIFY is empty in the environment: {fix}")
        return 2
    if not settings.notify:
        where = "in the environment" if settings.demo else f"in {settings.envfile.path} or the environment"
        plainlines.error(f"PREFLIGHT_NOTIFY is not set: set it {where}")
        return 2
    if not notify.installed():
        command = notify.install_command(settings.root)
        print(f"run.py: error: notifications need apprise; fix: {command}", file=sys.stderr)
        return 2
    redactor = Redactor.of(settings)
    message = "This is how you will hear of checks that fail or hold again, and of crashes."
    tried = notify.try_out(settings, redactor, notices.make(settings, "success", "This is a test", message))
    for service in tried:
        plainlines.say(f"{service.name}: {f'NOT delivered: {service.problem}' if service.problem else 'delivered'}")
    return 1 if any(service.problem for service in tried) else 0


def _init(settings: Settings) -> int:
    from preflight.settings import template

    path, exit_code = settings.envfile.path, 1
    if path.is_absolute():
        try:
            plainlines.say(*template.write(path))
        except OSError as error:
            problem = f"{path}: {error.strerror}"
        else:
            return 0
    else:
        problem, exit_code = str(settings.envfile.problem), 2
    plainlines.error(problem)
    print(f"Fix: {template.command(settings)}", file=sys.stderr)
    plainlines.remark("An env file is not needed where OPENAI_API_KEY is in the environment.")
    return exit_code
