"""The options of ``python run.py``, and the invocation that a command line becomes."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from preflight import __version__, commands, project
from preflight.output import plainlines
from preflight.ports.activation import Passed
from preflight.processes.servicemanager import ServiceManager
from preflight.report import formats
from preflight.settings.fields import SettingsError
from preflight.settings.loading import load
from preflight.settings.model import PREFIX, SETTINGS
from preflight.settings.parsers import duration

TYPED_AT = time.monotonic()  # as near to the command's start as this code can be

EXIT_CODES = {
    0: "the server ran and stopped as asked, nothing blocks, or the task is done; with --port-status: the port is"
    " available; with --free-port: the port is free, or would be free without --dry-run",
    1: "a critical requirement blocks, or the task is not done; with --port-status: the port is not available; with"
    " --free-port: the port is not free, or would not be free without --dry-run",
    2: "wrong usage or a wrong setting",
    3: "the check suite itself failed: there is no trustworthy report",
    4: "the server kept crashing or hanging, or crashed or hung once where systemd, Kubernetes or a container runtime"
    " restarts it; it did not start; or it did not answer, and the server that it should have replaced keeps running",
}


COMMANDS = (
    "reload", "check_only", "watch", "history", "port_status", "free_port", "test_notify", "fleet", "migrate", "init",
    "bundle",
)  # fmt: skip
"""The commands that do something else than a start; a command line has one at most."""
START = "start"
OWN = "own"
"""A verb of the project's own."""
GOES_WITH = {
    "report": (START, "reload", "check_only", "watch"),
    "format": ("check_only", "history", "port_status", "free_port", "fleet"),
    "wait": (START, "check_only"),
    "dry_run": ("free_port", "init"),
}
"""Options that only some commands use. Settings go with all commands, because they may be set elsewhere as well."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """What a command line asks for, and what came with it. It is consistent; `loading` checks its settings."""

    command: str
    """START, OWN, or one of COMMANDS."""
    settings: Mapping[str, object]
    """The options that are settings, by setting name, as they were typed."""
    names_address: bool
    """Whether a host or a port was typed."""
    report: Path | None
    """Where else each report is written."""
    output_format: str
    """The format for machines; empty for people."""
    wait: float
    """Seconds for which the checks are repeated while something blocks."""
    watch: float
    """Seconds between two rounds of a watch."""
    fleet: str
    """The instance that is shown; empty for all."""
    init: str
    """What is added to a project; empty for other commands."""
    dry_run: bool
    bundle: Path | None
    verbose: bool
    verb: str = ""
    """What a project's own verb stands for, ``module:attribute``; empty for other commands."""
    passed: Passed = field(default_factory=Passed)
    """The sockets that a service manager has passed with the command."""
    service: ServiceManager = field(default_factory=ServiceManager)
    """The service manager, if it wants reports on the start."""

    @property
    def as_json(self) -> bool:
        return self.output_format == "json"


class _Parser(argparse.ArgumentParser):
    """argparse with other errors, because an argument that it does not understand may be a key in the wrong place.

    So the message is redacted. The list of all options, which argparse puts before it, is left to --help.
    """

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        found.verb = _registered(unknown) if unknown else ""
        if unknown and not found.verb:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._meant(unknown)}")
        return found

    def format_help(self) -> str:
        own = "".join(f"  --{option}\n" for option in _of_project())
        return super().format_help() + (f"\noptions of this project:\n{own}" if own else "")

    def _meant(self, unknown: Sequence[str]) -> str:
        """The option that was probably meant by the first word that looks like one, with or without dashes."""
        import difflib  # only when something is wrong

        option = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
        if not option:  # check-only, say; no other word is guessed at, since it could be anything
            option = next((f"--{word}" for word in unknown if f"--{word}" in self._option_string_actions), "")
        name = option.strip("-").replace("-", "_")
        if name in SETTINGS:
            return f"; {name} is a setting, not an option: set {PREFIX}{name.upper()}"
        # Nobody types a long option to its end: --chek is nearer to the beginning of --check-only than to --help.
        known = {name[: len(option) + 1]: name for name in self._option_string_actions}
        known |= {name: name for name in self._option_string_actions}
        close = difflib.get_close_matches(option, known, n=1)
        return f"; did you mean {known[close[0]]}?" if close else ""

    def error(self, message: str) -> NoReturn:
        from preflight.redaction.redactor import Redactor

        try:
            settings = load(project.of_command(), imports=False)
            redactor = Redactor.of(settings)
        except SettingsError:
            redactor = Redactor.of_variables(os.environ)
        plainlines.error(redactor.text(message))
        self.exit(2)


def _of_project() -> dict[str, str]:
    """The project's own verbs: what each option stands for; empty if the settings are wrong, which is said later."""
    try:
        found = load(project.of_command(), imports=False).verbs
    except SettingsError:
        return {}
    return {option: function for option, _, function in (verb.partition("=") for verb in found)}


def _registered(unknown: Sequence[str]) -> str:
    """The verb of an option that is not ours but the project's; empty if it is not the project's either."""
    return _of_project().get(unknown[0][2:], "") if len(unknown) == 1 and unknown[0].startswith("--") else ""


def _formatter(prog: str) -> argparse.HelpFormatter:
    """A formatter, made for every option; by itself it asks shutil for the width: 0.5 MiB of a launcher's 20."""
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
        prog=commands.name(),
        description="Check every requirement, then serve.",
        epilog=f"Exit codes: {codes}; 129, 130 or 143 if a signal ended the command before the server served.",
        allow_abbrev=False,
        formatter_class=_formatter,
    )
    # Options that are settings have no types and choices here: preflight/settings checks every value.
    *others, last = formats.FORMATS
    options.add_argument("--host", metavar="H", help="address to serve on (127.0.0.1)")
    options.add_argument("--port", metavar="N", help="port to serve on (8002)")
    options.add_argument("--uds", metavar="PATH", help="Unix socket to serve on, instead of host and port")
    options.add_argument("--no-cleanup", action="store_true", help="leave every process on the port alone")
    instead = options.add_mutually_exclusive_group()
    instead.add_argument("--check-only", action="store_true", help="run the checks; start and stop nothing")
    instead.add_argument(
        "--reload",
        action="store_true",
        help="serve, and when a file changes, check the next instance and let it replace this one (for development)",
    )
    options.add_argument("--demo", action="store_true", help="no env file, no keys, no network")
    options.add_argument("--offline", action="store_true", help="leave out what needs the network")
    options.add_argument(
        "--ignore", metavar="NAME", action="append", help="let this critical requirement fail (repeatable)"
    )
    options.add_argument("--app", metavar="MODULE:ATTR", help="the ASGI application to serve, or its factory")
    options.add_argument(
        "--workers", metavar="N", help="processes that serve the application, or auto: one for each processor (1)"
    )
    options.add_argument("--report", metavar="PATH", type=Path, help="also write the report to this file")
    options.add_argument(
        "--format",
        metavar="NAME",
        choices=list(formats.FORMATS),
        help=f"with --check-only: print the report as {', '.join(others)} or {last} and nothing else; "
        "with --history, --port-status, --free-port or --fleet: json",
    )
    options.add_argument(
        "--wait", metavar="SECONDS", help="while something blocks, check again, for at most this many seconds"
    )
    instead.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        const="5",
        help="repeat the checks, every 5 s by default, and show what changes; start and stop nothing",
    )
    instead.add_argument(
        "--history",
        action="store_true",
        help="show past runs and what changed in them, for all addresses or for --host and --port, and exit",
    )
    options.add_argument(
        "--if-running",
        metavar="HOW",
        help="what to do if a server that was started with this command already serves the address: "
        "replace, keep or fail (replace)",
    )
    options.add_argument(
        "--supervise", action=argparse.BooleanOptionalAction, help="whether to start a crashed worker again"
    )
    instead.add_argument("--port-status", action="store_true", help="show who holds the port, and exit")
    instead.add_argument("--free-port", action="store_true", help="free the port, gracefully, and exit")
    options.add_argument(
        "--dry-run", action="store_true", help="with --free-port or --init: only say what would be done"
    )
    instead.add_argument(
        "--test-notify", action="store_true", help="send a test notification to PREFLIGHT_NOTIFY's services, and exit"
    )
    instead.add_argument(
        "--fleet",
        metavar="INSTANCE",
        nargs="?",
        const="",
        help="show the instances that share PREFLIGHT_DATABASE_URL, what fails where, and what changed in the last day,"
        " or show one instance, named by its host, address or id, and exit",
    )
    instead.add_argument(
        "--migrate",
        action="store_true",
        help="bring the tables in PREFLIGHT_DATABASE_URL's schema `preflight` up to this release, and exit",
    )
    instead.add_argument(
        "--init",
        metavar="WHAT",
        nargs="?",
        const="project",
        choices=("project", "github", "docker", "systemd"),
        help="add what a project needs to be guarded, replace nothing, and exit: [tool.preflight] and a first"
        " requirement in preflight_suite/ (project, the default), a job for GitHub (github), a Dockerfile (docker) or a"
        " unit for systemd (systemd). In the preflight's own checkout, write a commented template of the env file"
        " instead",
    )
    instead.add_argument(
        "--bundle", metavar="PATH", type=Path, help="write a support bundle (a redacted zip), and exit"
    )
    options.add_argument("--log-file", metavar="PATH", help="also write output and audit to this file, which rotates")
    options.add_argument("-v", "--verbose", action="store_true", help="show details")
    options.add_argument("--version", action="version", version=f"preflight {__version__}")
    return options


def setting_options(arguments: argparse.Namespace) -> dict[str, object]:
    """The options that are settings, by setting name, as they were typed."""
    return {
        name: value
        for name, value in {
            "host": arguments.host,
            "port": arguments.port,
            "uds": os.path.abspath(arguments.uds) if arguments.uds else arguments.uds,
            "app": arguments.app,
            "workers": arguments.workers,
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


def parse(argv: Sequence[str] | None = None) -> Invocation:
    """What the command line asks for. Wrong usage ends the command with exit code 2, as --help does with 0."""
    options = parser()
    typed = options.parse_args(argv)
    command = next((name for name in COMMANDS if _given(typed, name)), OWN if typed.verb else START)
    if typed.verb and command != OWN:
        options.error(f"{_option(command)} cannot be used with another command")
    for name, verbs in GOES_WITH.items():
        if _given(typed, name) and command not in verbs:
            *others, last = ("a start" if one == START else _option(one) for one in verbs)
            allowed = " or ".join([", ".join(others), last] if others else [last])
            options.error(f"{_option(name)} can be used only with {allowed}")
    tcp = [_option(name) for name in ("host", "port") if _given(typed, name)]
    if _given(typed, "uds") and tcp:
        options.error(
            f"--uds cannot be used with {' and '.join(tcp)}: a server has a Unix socket, or a host and a port;"
            " leave out one or the other"
        )
    if typed.format not in (None, "json") and command != "check_only":
        options.error(f"--format {typed.format} can be used only with --check-only")
    return Invocation(
        command=command,
        settings=setting_options(typed),
        names_address=typed.host is not None or typed.port is not None or typed.uds is not None,
        report=Path(os.path.abspath(typed.report)) if typed.report else None,
        output_format=typed.format or "",
        wait=_seconds(options, "--wait", typed.wait, low=0.0),
        watch=_seconds(options, "--watch", typed.watch, low=1.0),
        fleet=typed.fleet or "",
        init=typed.init or "",
        dry_run=typed.dry_run,
        bundle=typed.bundle,
        verbose=typed.verbose,
        verb=typed.verb,
    )


def _seconds(options: argparse.ArgumentParser, name: str, value: str | None, *, low: float) -> float:
    if value is None:
        return 0.0
    try:
        return duration(low, 86400.0)(value)
    except ValueError as error:
        options.error(f"{name} {error}")
