"""The answers of ready-made requirements' probes, which are all asked when the run begins.

Each probe runs in a daemon thread: one that hangs where no time-out reaches must not keep the process alive, nor hold
up the others.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from preflight.contract import Details
from preflight.making import Ask, Failure, Made
from preflight.processes import programs
from preflight.settings import places, template
from preflight.settings.model import Settings
from preflight.suite.probes.sharing import Sharing, lease
from preflight.suite.soundness import hearing, unawaited

GRACE = 0.5  # seconds beyond its deadline in which a probe can say what it was waiting for


class Answers:
    """The answers of one run; all are asked once, with :meth:`start`."""

    def __init__(self, settings: Settings, sharing: Sharing | None = None) -> None:
        self._settings = settings
        self._sharing = sharing
        self._asked: dict[Made, _Asked] = {}

    def values(self, every: Iterable[Made]) -> list[str]:
        """The values of these requirements' variables, which are secrets whatever the variables are called.

        URLs are left out: only parts of them are secret, and messages contain their hosts and paths.
        """
        environment = self._settings.environment
        found = [environment.get(made.variable, "") for made in every if made.variable]
        return [value for value in found if value and "://" not in value]

    def start(self, every: Iterable[Made]) -> None:
        """Ask all of these at once."""
        for made in every:
            self._asked[made] = _Asked(made, self._settings, self._sharing)

    def of(self, made: Made, details: Details) -> Any:
        """Wait for the answer until the probe's deadline. Raises what the probe raised; its Failure fails the test."""
        import pytest

        asked = self._asked.get(made) or _Asked(made, self._settings, self._sharing)
        try:
            return asked.answer()
        except Failure as failure:
            details.fix = failure.fix or details.fix
            pytest.fail(str(failure))

    def close(self) -> None:
        """End the programs of probes that have not ended in time; their threads end with this process."""
        programs.end_all()


class _Asked:
    """A running probe."""

    def __init__(self, made: Made, settings: Settings, sharing: Sharing | None) -> None:
        self._made = made
        self._begun = time.monotonic()
        self._patience = made.timeout + GRACE + (lease(made.timeout) if sharing else 0.0)
        self._answer: Any = None
        self._error: BaseException | None = None
        self._ended = threading.Event()
        try:
            ask = replace(_ask(made, settings), sharing=sharing)
        except Failure as failure:
            self._error = failure
            self._ended.set()
            return
        threading.Thread(target=self._run, args=(ask,), name="ready-made probe", daemon=True).start()

    def _run(self, ask: Ask) -> None:
        try:
            folders = [Path(self._made.file).parent]
            with hearing.heard(folders) as heard, unawaited.noticed(folders, heard.failed):
                answer = self._made.probe(ask)
                if inspect.isawaitable(answer):
                    answer = asyncio.run(_within(answer, ask.timeout))
            if heard.failed:
                raise heard.failed[0]
            if inspect.isawaitable(answer) or inspect.isgenerator(answer) or inspect.isasyncgen(answer):
                raise TypeError(f"its probe returned a {type(answer).__name__}, which the suite does not run")
            self._answer = answer
        except BaseException as error:  # noqa: BLE001  # it is raised again in the requirement
            self._error = error
        finally:
            self._ended.set()

    def answer(self) -> Any:
        late = Failure(f"no answer within {self._made.timeout:g} s")
        if not self._ended.wait(max(0.0, self._begun + self._patience - time.monotonic())):
            raise late
        if isinstance(self._error, TimeoutError):
            raise late
        if self._error is not None:
            raise self._error
        return self._answer


async def _within(answer: Any, seconds: float) -> Any:
    async with asyncio.timeout(seconds):
        return await answer


def _ask(made: Made, settings: Settings) -> Ask:
    """The probe's argument. Raises Failure if its variable has no usable value."""
    environment, root = settings.environment, settings.root
    if not made.variable:
        return Ask(environment=environment, root=root, timeout=made.timeout, settings=settings)
    place = places.of(settings, made.variable)
    value = place.value or ""
    fix = place.fix(f"set {made.variable} {place.target}")
    if not made.optional:
        if place.value is None:
            raise Failure(f"{made.variable} is not set", fix)
        if not value.strip():
            raise Failure(f"{made.variable} is empty {place.where}{place.hiding}", fix)
        if template.is_placeholder(value):
            raise Failure(f"{made.variable} is still the template's placeholder{place.hiding}", fix)
        if place.flaw == places.KEPT_QUOTES:
            raise Failure(f"{made.variable} {place.where} {place.flawed}{place.hiding}", fix)
    return Ask(value, made.variable, environment, root, made.timeout, settings)
