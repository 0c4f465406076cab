"""The contract between a requirement and its run: what a requirement declares, and what it may answer.

Each requirement declares a severity, a title and a fix with one marker, such as
``critical("Python Version", fix="uv python install 3.13")``.

Marker arguments: the title; ``fix``, what a person can do about a failure (a requirement that knows
better at run time sets ``details.fix``); ``needs``, what it cannot be asked without ("network",
"env_file", "keys": under ``--offline`` and ``--demo`` it is then not applicable; "port": only where a worker of ours
will serve; "agent": only where our own server is served; "notify": only if there is somebody to tell;
"web": only where routes of ours are served; "tls" and "log_config": only where the server was told to serve with that;
"database": only if there is a database for the fleet; "tables": only where the application has tables of its own in
it); ``timeout``, its deadline in seconds where the setting ``requirement_timeout`` does not suit it; ``service``, the
optional service that a warning is about: the warning is left out where the setting ``not_used`` names that service;
``scope="fleet"`` for what all instances share, so that it blocks a start and takes no server that serves out of
service; and ``ignorable=False`` for what ``--ignore`` must not let pass.

preflight/suite/collection.py and preflight/suite/stages.py hold requirements to this; ``pytest --markers`` shows it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import pytest
from _pytest.outcomes import Skipped  # pytest.skip.Exception is the same class under a name that mypy cannot follow

from preflight.report import model as report
from preflight.text import first_line

LONGEST_TITLE = 200  # characters
NEEDS = {"network", "env_file", "keys", "port", "agent", "notify", "web", "tls", "log_config", "database", "tables"}


class Unknown(Skipped):
    """The question could not be answered from here."""


class NotApplicable(Skipped):
    """The profile or an option leaves this requirement out."""


def unknown(message: str) -> NoReturn:
    """End a requirement whose question could not be answered from here: it is shown and does not block."""
    raise Unknown(message)


def not_applicable(message: str) -> NoReturn:
    """End a requirement that does not apply here: it is shown in grey, with the message, and does not block."""
    raise NotApplicable(message)


class Details(dict[str, Any]):
    """What a requirement found: JSON values, which are shown, redacted, with ``-v`` and under /diagnostics."""

    summary: str = ""
    """A few words on what was found, shown behind the title when the requirement holds."""
    fix: str = ""
    """Takes the place of the marker's ``fix`` when the requirement knows better."""


class Declaration(NamedTuple):
    """What a requirement's marker says."""

    title: str
    severity: str
    requirement: str
    fix: str = ""
    needs: frozenset[str] = frozenset()
    ignorable: bool = True
    timeout: float | None = None
    """Its deadline in seconds; None: the setting's."""
    service: str = ""
    """The optional service that it is about, by the name that people know."""
    scope: str = "instance"
    """What it is about: one of `preflight.report.model.SCOPES`."""


def declaration(item: pytest.Item) -> Declaration:
    """What ``item`` declares; raises ValueError with all that is wrong with it."""
    markers = [mark for mark in item.iter_markers() if mark.name in report.SEVERITIES]
    if len(markers) != 1:
        found = " and ".join(mark.name for mark in markers) or "none"
        raise ValueError(f"needs exactly one severity, critical or warning, and has {found}")
    mark = markers[0]
    if len(mark.args) != 1 or not isinstance(mark.args[0], str) or not mark.args[0].strip():
        raise ValueError(f'needs a title: @pytest.mark.{mark.name}("Title")')
    if len(mark.args[0]) > LONGEST_TITLE:
        raise ValueError(f"its title has {len(mark.args[0])} characters, and {LONGEST_TITLE} are allowed")
    unexpected = mark.kwargs.keys() - {"fix", "needs", "ignorable", "scope", "service", "timeout"}
    if unexpected:
        raise ValueError(f"its marker has an unknown argument {min(unexpected)!r}")
    needs = mark.kwargs.get("needs", ())
    needs = frozenset([needs] if isinstance(needs, str) else needs)
    if needs - NEEDS:
        raise ValueError(f"needs {min(needs - NEEDS)!r}, which is not one of {', '.join(sorted(NEEDS))}")
    fix = mark.kwargs.get("fix", "")
    if not isinstance(fix, str) or len(fix.splitlines()) > 1:
        raise ValueError("its fix has to be one line of text: a command, or a sentence")
    service = mark.kwargs.get("service", "")
    if not isinstance(service, str) or "," in service:
        raise ValueError("its service has to be a name without a comma")
    if service and mark.name != "warning":
        raise ValueError(
            f"is critical, and only a warning can have a service: remove service={service!r}, or mark it as a warning"
        )
    scope = mark.kwargs.get("scope", "instance")
    if scope not in report.SCOPES:
        raise ValueError(f"its scope is {scope!r}, but must be one of {', '.join(report.SCOPES)}")
    timeout = mark.kwargs.get("timeout")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0):
        raise ValueError("its timeout has to be a number of seconds above 0")
    doc = getattr(getattr(item, "obj", None), "__doc__", None)
    if not doc or not doc.strip():
        raise ValueError("needs a docstring that states the requirement")
    return Declaration(
        title=mark.args[0].strip(),
        severity=mark.name,
        requirement=first_line(doc),
        fix=fix,
        needs=needs,
        ignorable=bool(mark.kwargs.get("ignorable", True)),
        timeout=timeout,
        service=service.strip(),
        scope=scope,
    )
