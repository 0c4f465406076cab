"""Re-runs: what is made of what their runner says; the runs themselves are in tests/e2e/test_reruns.py."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from preflight.processes.rerun import Ending, Heard
from preflight.report.model import Check, Report
from preflight.web import reruns
from preflight.web.instance import Instance
from preflight.web.reruns import FollowedRerun, Reruns

Over = Callable[[Ending], object]


class Runner:
    """Somebody who runs the suite as a test tells it to: from a thread, as all of them do."""

    def __init__(self, act: Callable[[Heard, Over], object] = lambda _heard, _over: None) -> None:
        self.act = act
        self.begun: list[str] = []
        self.ended: list[str] = []

    def begin(self, run_id: str, heard: Heard, over: Over) -> None:
        self.begun.append(run_id)
        threading.Thread(target=self.act, args=(heard, over)).start()

    def end(self, run_id: str) -> None:
        self.ended.append(run_id)


def perform(instance: Instance) -> FollowedRerun:
    """One re-run, from its beginning to its end."""

    async def whole() -> FollowedRerun:
        found, over = Reruns(instance), asyncio.Event()
        found.listeners.append(lambda message: over.set() if message["type"] == "run_finished" else None)
        run = found.start("a test")
        await over.wait()
        return run

    return asyncio.run(whole())


def test_steps_and_ending(
    make_instance: Callable[..., Instance], make_report: Callable[..., Report], make_check: Callable[..., Check]
) -> None:
    """Steps are counted; the report at the end is what the instance goes by."""
    found = make_report(make_check(outcome="failed"), origin="rerun")

    def act(heard: Heard, over: Over) -> None:
        heard([("collected", {"titles": ["Python Version"]}), ("checking", {"title": "Python Version"})])
        heard([("checked", {"title": "Python Version", "outcome": "failed"})])
        over(Ending(found))

    instance = make_instance(make_report(), runner=Runner(act), rerun_problem="the one before broke")
    run = perform(instance)
    assert (run.total, run.done, run.state, run.status, run.reason) == (1, 1, "finished", "failed", "")
    assert run.started_at == found.started_at
    assert instance.report is found
    assert instance.rerun_problem == ""


def test_a_report_that_others_cannot_read(
    make_instance: Callable[..., Instance], make_report: Callable[..., Report]
) -> None:
    """The verdict counts all the same, and why others do not see it is said."""
    found = make_report(origin="rerun")
    instance = make_instance(None, runner=Runner(lambda _heard, over: over(Ending(found, "", "the disk is full"))))
    run = perform(instance)
    assert (run.state, run.status, run.reason) == ("finished", "passed", "the disk is full")
    assert instance.report is found


def test_a_runner_that_says_nothing(
    make_instance: Callable[..., Instance], make_report: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is broken some time after its deadline, its runner is told, and the verdict before it stays."""
    monkeypatch.setattr(reruns, "PATIENCE", -29.9)
    before, runner = make_report(), Runner()
    instance = make_instance(before, runner=runner)
    assert instance.settings.run_timeout == 30
    run = perform(instance)
    assert (run.state, run.reason) == ("broken", "no message has said how the suite ended")
    assert runner.ended == [run.run_id]
    assert instance.report is before
    assert instance.rerun_problem == run.reason


def test_a_drain_before_the_suite_was_started(
    make_instance: Callable[..., Instance], make_report: Callable[..., Report]
) -> None:
    """Whoever asked has the answer before the suite starts; a server that stops by then starts none."""
    runner = Runner()
    instance = make_instance(make_report(), runner=runner)

    async def whole() -> FollowedRerun:
        found, over = Reruns(instance), asyncio.Event()
        found.listeners.append(lambda message: over.set() if message["type"] == "run_finished" else None)
        async with found.running():
            run = found.start("a test")
            await asyncio.sleep(0)
            instance.start_draining()
            await asyncio.wait_for(over.wait(), 10)
        return run

    run = asyncio.run(whole())
    assert (run.state, runner.begun) == ("broken", [])
    assert instance.rerun_problem == ""


def test_an_end_in_the_moment_of_the_beginning(
    make_instance: Callable[..., Instance], make_report: Callable[..., Report]
) -> None:
    """A run whose task has not had its first turn is over as well when the server is."""
    instance = make_instance(make_report(), runner=Runner())

    async def whole() -> FollowedRerun:
        found = Reruns(instance)
        async with found.running():
            run = found.start("a test")
        assert found.current is None
        return run

    assert asyncio.run(whole()).state == "broken"


def test_an_ending_arrives_as_it_left(make_report: Callable[..., Report]) -> None:
    """On its way from the launcher to the worker it is JSON."""
    ending = Ending(make_report(origin="rerun"), "why", "and why not", (1, 2, 3))
    assert Ending.from_json(ending.to_json()) == ending
