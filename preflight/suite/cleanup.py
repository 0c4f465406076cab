"""Whose affair it is when what requirements share cannot be cleaned up.

What a fixture of a class, a module or the whole run raises at its end, pytest raises in the tear-down of whichever
requirement comes last. That may be a warning, while a critical requirement relied on the fixture.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

_HARMLESS = ("preflight.suite.", "_pytest.")
"""Whose fixtures raise nothing at their end."""

_SHARED = pytest.StashKey[BaseException]()


def own(item: pytest.Item) -> Exception | None:
    """Clean up what is the requirement's own, and nothing else; returns what that has raised."""
    try:
        item.session._setupstate.teardown_exact(item.parent)  # type: ignore[arg-type]  # it asks for listchain() alone
    except Exception as error:  # noqa: BLE001  # raised again, when the rest is cleaned up as well
        return error
    return None


def everything(session: pytest.Session) -> None:
    """Clean up what the run shares."""
    session._setupstate.teardown_exact(None)


def note(item: pytest.Item, error: BaseException) -> None:
    """The clean-up of what is shared, which came after this requirement, has raised this."""
    item.stash[_SHARED] = error


def error_of(item: pytest.Item) -> BaseException | None:
    """What was raised by the clean-up of what is shared, after this requirement."""
    return item.stash.get(_SHARED, None)


def users(item: pytest.Item, items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """The requirements so far, this one included, that share a fixture of the suite's author with others."""
    found = []
    for other in items:
        if _shares(other):
            found.append(other)
        if other is item:
            break
    return found


def _shares(item: pytest.Item) -> bool:
    fixtures = getattr(item, "_fixtureinfo", None)
    defined = fixtures.name2fixturedefs.values() if fixtures is not None else ()
    return any(
        one.scope != "function" and not one.func.__module__.startswith(_HARMLESS)
        for definitions in defined
        for one in definitions
    )
