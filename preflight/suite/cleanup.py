"""Which requirements are affected if a shared fixture cannot be cleaned up.

Pytest raises an error at the end of a fixture of a class, a module or the whole run in the tear-down of the requirement
that comes last. That requirement may be a warning, while a critical requirement relied on the fixture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pytest
from _pytest.nodes import Node

_HARMLESS = ("preflight.suite.", "_pytest.")
"""Modules whose fixtures raise nothing at their end."""
_ENDS_THE_RUN = (KeyboardInterrupt, pytest.exit.Exception)


class CleanupFault(NamedTuple):
    """What the clean-up of a shared fixture has raised, and the classes, modules and session that ended with it."""

    error: BaseException
    ended: frozenset[Node]


_FAULT = pytest.StashKey[CleanupFault]()


def own(item: pytest.Item) -> BaseException | None:
    """Clean up only the requirement's own fixtures; returns what that has raised."""
    try:
        item.session._setupstate.teardown_exact(item.parent)  # type: ignore[arg-type]  # it asks for listchain() alone
    except _ENDS_THE_RUN:
        raise
    except BaseException as error:  # noqa: BLE001  # raised again, when the rest is cleaned up as well
        return error
    return None


def everything(session: pytest.Session) -> None:
    """Clean up what the run shares."""
    session._setupstate.teardown_exact(None)


@contextlib.contextmanager
def of_shared(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Note what the clean-up of shared fixtures raises between these two requirements; None: there is no next one."""
    try:
        yield
    except _ENDS_THE_RUN:
        raise
    except BaseException as error:
        going_on = set(nextitem.listchain()) if nextitem is not None else set()
        item.stash[_FAULT] = CleanupFault(error, frozenset(one for one in item.listchain() if one not in going_on))
        raise


def fault_of(item: pytest.Item) -> CleanupFault | None:
    """What was raised by the clean-up of what is shared, after this requirement."""
    return item.stash.get(_FAULT, None)


def users(item: pytest.Item, fault: CleanupFault, items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """The requirements up to this one that use a shared fixture of the author's which has ended with it."""
    found = []
    for other in items:
        if any(node in fault.ended for node in _shared(other)):
            found.append(other)
        if other is item:
            break
    return found


def _shared(item: pytest.Item) -> Iterator[Node | None]:
    """The node with which each fixture ends that this requirement shares with others."""
    fixtures = getattr(item, "_fixtureinfo", None)
    for definitions in fixtures.name2fixturedefs.values() if fixtures is not None else ():
        for one in definitions:
            if one.scope == "function" or one.func.__module__.startswith(_HARMLESS):
                continue
            of_class = item.getparent(pytest.Class) if one.scope == "class" else None
            whole = item.session if one.scope in ("session", "package") else item.getparent(pytest.Module)
            yield of_class or whole
