"""Which requirements are affected if something that they share cannot be cleaned up.

Pytest raises an error at the end of a fixture of a class, a module or the whole run in the tear-down of the requirement
that comes last, or in the set-up of the next one if a parameter has ended the fixture. That requirement may be a
warning, while a critical requirement relied on the fixture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from _pytest.nodes import Node

_ENDS_THE_RUN = (KeyboardInterrupt, pytest.exit.Exception)
_Definition = pytest.FixtureDef[Any]
_Users = dict[pytest.Item, None]  # in the order in which they have asked


class CleanupFault(NamedTuple):
    """What was raised at an end, and which requirements have used what ended so, or may have."""

    error: BaseException
    users: list[pytest.Item]


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


class Shared:
    """Which requirements have used each fixture of a run, and which fixtures have raised an error at their end.

    Pytest tells nobody who asks for a fixture that is there already, nor whose end has raised: so both are seen where
    it asks a fixture for its value, and ends it.
    """

    def __init__(self, apart: Collection[Path]) -> None:
        """``apart`` are folders with requirements that use nothing of the project's."""
        self._apart = apart
        self._users: dict[_Definition, _Users] = {}
        """The requirements that have used a fixture since it was last set up."""
        self._needs: dict[_Definition, set[_Definition]] = {}
        """What a fixture has asked for while it was set up."""
        self._raised: dict[int, CleanupFault] = {}
        """What fixtures have raised at their ends, by the identities of the errors."""
        self._faults: dict[pytest.Item, list[CleanupFault]] = {}

    @contextlib.contextmanager
    def used_by(self, item: pytest.Item) -> Iterator[None]:
        """See which fixtures this requirement uses, and how those end that end meanwhile."""
        execute, finish = _Definition.execute, _Definition.finish
        in_set_up: list[_Definition] = []

        def executed(definition: _Definition, request: Any) -> Any:
            in_set_up.append(definition)
            try:
                return execute(definition, request)
            finally:
                in_set_up.pop()
                needs = self._needs.setdefault(definition, set())
                if "request" in definition.argnames:
                    # It may have asked by name for what was there already: that cannot be told.
                    needs.update(one for one, users in self._users.items() if item in users)
                if in_set_up:
                    self._needs.setdefault(in_set_up[-1], set()).add(definition)
                self._use(definition, item)

        def finished(definition: _Definition, request: Any) -> None:
            try:
                finish(definition, request)
            except _ENDS_THE_RUN:
                raise
            except BaseException as error:
                for one in _each(error):
                    # The end of what it needed may have ended it: the first to raise an error is the one to blame.
                    self._raised.setdefault(id(one), CleanupFault(one, list(self._users.get(definition, ()))))
                raise
            finally:
                self._users.pop(definition, None)
                self._needs.pop(definition, None)

        setattr(pytest.FixtureDef, "execute", executed)  # noqa: B010  # type checkers allow no other method there
        setattr(pytest.FixtureDef, "finish", finished)  # noqa: B010
        try:
            yield
        finally:
            setattr(pytest.FixtureDef, "execute", execute)  # noqa: B010
            setattr(pytest.FixtureDef, "finish", finish)  # noqa: B010

    def _use(self, definition: _Definition, item: pytest.Item) -> None:
        seen: set[_Definition] = set()
        waiting = [definition]
        while waiting:
            one = waiting.pop()
            if one not in seen:
                seen.add(one)
                self._users.setdefault(one, {})[item] = None
                waiting += self._needs.get(one, ())

    @contextlib.contextmanager
    def set_up(self, item: pytest.Item) -> Iterator[None]:
        """Note what a fixture raises at its end, because this requirement needs it with another parameter."""
        try:
            yield
        except BaseException as error:
            self._faults[item] = [self._raised[id(one)] for one in _each(error) if id(one) in self._raised]
            raise

    @contextlib.contextmanager
    def cleaned_up(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
        """Note what the clean-up between these two requirements raises; None: there is no next one."""
        try:
            yield
        except _ENDS_THE_RUN:
            raise
        except BaseException as error:
            going_on = set(nextitem.listchain()) if nextitem is not None else set()
            ended = {node for node in item.listchain() if node not in going_on}
            may_have = self._below(ended, item.session)
            self._faults.setdefault(item, []).extend(
                self._raised.get(id(one)) or CleanupFault(one, may_have) for one in _each(error)
            )
            raise

    def faults(self, item: pytest.Item) -> list[CleanupFault]:
        """What was raised in the set-up or the tear-down of this requirement, and concerns others; told once."""
        return self._faults.pop(item, [])

    def _below(self, ended: set[Node], session: pytest.Session) -> list[pytest.Item]:
        """All of these classes, modules and packages: a finalizer that was added to one of them may serve any."""
        below = (item for item in session.items if not ended.isdisjoint(item.listchain()))
        return [item for item in below if not any(map(item.path.is_relative_to, self._apart))]


def _each(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group, and in groups in it; the error alone if it is none."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _each(one)
    else:
        yield error
