"""A launcher whose children are scripted, with the real loop, lock, record and files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from preflight.launcher.shown import Display
from preflight.launcher.start import Start
from preflight.processes import children
from preflight.processes.loop import Loop
from preflight.report.model import Check, Report
from preflight.settings.model import Settings
from tests.fakechildren import Application, FakeChildren, Requirements


@pytest.fixture
def loop() -> Iterator[Loop]:
    with contextlib.closing(Loop()) as loop:
        yield loop


@pytest.fixture
def requirements(make_check: Callable[..., Check], make_report: Callable[..., Report]) -> Requirements:
    return Requirements(make_check, make_report)


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def started(
    loop: Loop, requirements: Requirements, application: Application, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeChildren]:
    """The children of all launchers of a test; none outlives it."""
    made = FakeChildren(loop, suite=requirements, worker=application)
    monkeypatch.setattr(children, "Child", made)
    yield made
    assert all(child.closed for child in made.made)


@pytest.fixture
def serve(loop: Loop, started: FakeChildren) -> Callable[[Settings], int]:
    """Start and serve with these settings; returns the exit code."""
    return lambda chosen: Start(chosen, {}, loop=loop, display=Display(chosen), typed_at=0.0).run()
