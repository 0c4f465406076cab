"""What the collected requirements declare, taken together: unique titles, and the names that settings use for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from preflight.contract import Declaration, declaration
from preflight.redaction.redactor import Redactor
from preflight.settings.model import Settings
from preflight.suite.applicability import named_by
from preflight.suite.outcomes import meant


def read(items: Iterable[pytest.Item], redactor: Redactor) -> tuple[dict[str, Declaration], list[str]]:
    """The declaration of each item, by its id, and for people what is wrong with any of them."""
    declarations: dict[str, Declaration] = {}
    faults: list[str] = []
    titles: dict[str, str] = {}
    for item in items:
        try:
            declared = declaration(item)
        except ValueError as error:
            faults.append(f"{item.nodeid}: {error}")
            continue
        if redactor.identifier(item.nodeid) != item.nodeid:
            # pytest itself shows ids, in places that no redaction reaches.
            faults.append(
                f"{item.nodeid} has a secret in its id: rename it, or give its parameters ids without the secret"
            )
        if declared.title.casefold() in titles:
            other = titles[declared.title.casefold()]
            faults.append(f"{item.nodeid} has the title {declared.title!r}, which {other} has as well")
        titles[declared.title.casefold()] = item.nodeid
        declarations[item.nodeid] = declared
    return declarations, faults


def is_named(name: str, nodeid: str, declared: Declaration) -> bool:
    """Whether a setting means this requirement by that name: its id, or its title in any case."""
    return name == nodeid or name.casefold() == declared.title.casefold()


def is_ignored(nodeid: str, declared: Declaration, settings: Settings) -> bool:
    """Whether the settings let this critical requirement fail."""
    named = declared.ignorable and any(is_named(name, nodeid, declared) for name in settings.ignore)
    return named and declared.severity == "critical"


def misnamed(settings: Settings, declarations: Mapping[str, Declaration], *, whole: bool) -> str:
    """What is wrong with the requirements and services that settings name, for people; empty if nothing is.

    Only a ``whole`` collection shows that a name is no requirement's.
    """
    for name in settings.ignore:
        named = [one for nodeid, one in declarations.items() if is_named(name, nodeid, one)]
        by = named_by(settings, "ignore")
        who = f"{by}{' ' if by == '--ignore' else ': '}{name}"
        if named and not named[0].ignorable:
            return f"{who}: this requirement cannot be ignored"
        if not named and whole:
            titles = {one.title.casefold(): one.title for one in declarations.values() if one.ignorable}
            return f"{who}: there is no such requirement{meant(name.casefold(), titles)}"
    services = {declared.service for declared in declarations.values() if declared.service}
    for name in settings.not_used:
        if name.casefold() not in map(str.casefold, services) and whole:
            known = f"the optional services are: {', '.join(sorted(services))}" if services else "this suite has none"
            return f"{named_by(settings, 'not_used')}: {name} is not an optional service; {known}"
    return ""
