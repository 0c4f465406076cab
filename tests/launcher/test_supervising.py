"""A serving instance: workers that crash, hang and drain, with scripted children and the real loop, lock and record."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preflight.processes import stacks
from preflight.processes.channel import Message
from preflight.processes.loop import Loop
from preflight.processes.worker import Worker
from preflight.settings import loading
from preflight.settings.model import Settings
from tests.fakechildren import Application, FakeChild, FakeChildren, drained

ROOT = Path(__file__).parents[2]
RERUN = "ab" * 16


@pytest.fixture
def chosen(free_port: int) -> Settings:
    """Settings with which a crashed worker is started again, at once."""
    chosen = loading.load(ROOT, options={"demo": True, "port": str(free_port), "supervise": True})
    return dataclasses.replace(chosen, restart_backoff=0.0, restart_limit=2)


def stop(_worker: FakeChild | None = None) -> None:
    """Ask this process to stop, as a service manager does."""
    os.kill(os.getpid(), signal.SIGTERM)


def audit(home: Path) -> str:
    return (home / "state" / "audit.log").read_text()


def test_it_never_serves(
    serve: Callable[[Settings], int], started: FakeChildren, application: Application, chosen: Settings, home: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A worker that ends in its start-up every time: a start that was refused."""

    def worker(child: FakeChild, message: Message) -> None:
        if message.kind == "serve":
            child.end(3)
        else:
            application(child, message)

    started.scripts["worker"] = worker
    assert serve(chosen) == 4
    assert "THE SERVER DOES NOT START" in capfd.readouterr().out
    assert " audit refused " in audit(home)


def test_unsupervised(
    serve: Callable[[Settings], int], started: FakeChildren, application: Application, chosen: Settings,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Without supervision the first crash is the last."""
    application.on_ready = lambda worker: worker.end(7)
    assert serve(dataclasses.replace(chosen, supervise=False)) == 4
    assert len(started.workers) == 1
    assert "It is not started again: supervision is off." in capfd.readouterr().out


@pytest.mark.parametrize("traced", [False, True], ids=["hung", "in a debugger"])
def test_a_worker_that_hangs(
    serve: Callable[[Settings], int], application: Application, chosen: Settings, monkeypatch: pytest.MonkeyPatch,
    traced: bool, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Without a sign of life it is ended and counts as crashed; a worker in a debugger's hands is left alone."""

    def gather(_worker: Worker, _loop: Loop) -> list[str]:
        if traced:
            stop()
        return ["Stack (most recent call first):", f'  File "{stacks.DEBUGGERS[0]}", line 1 in f'] if traced else []

    monkeypatch.setattr(stacks, "gather", gather)
    assert serve(dataclasses.replace(chosen, heartbeat=0.1, supervise=False)) == (0 if traced else 4)
    shown = capfd.readouterr().out
    assert ("THE SERVER HANGS" in shown) is not traced
    assert ("it is left alone" in shown) is traced


@pytest.mark.parametrize("kind, data", [("in_flight", {}), ("drained", {"cancelled": "x"}), ("news", {"topic": 1})])
def test_a_worker_that_sends_what_is_no_message(
    serve: Callable[[Settings], int], started: FakeChildren, application: Application, chosen: Settings, kind: str,
    data: dict[str, Any],
) -> None:  # fmt: skip
    """It is ended and another one starts; the launcher goes on."""

    def on_ready(worker: FakeChild) -> None:
        if worker is started.workers[0]:
            worker.say(kind, **data)
        else:
            stop()

    application.on_ready = on_ready
    assert serve(chosen) == 0
    assert len(started.workers) == 2


def test_a_start_up_that_hangs(
    serve: Callable[[Settings], int], started: FakeChildren, application: Application, chosen: Settings,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """After its deadline the worker is ended, and the banner says of what."""
    monkeypatch.setattr(stacks, "gather", lambda _worker, _loop: [])

    def worker(child: FakeChild, message: Message) -> None:
        if message.kind != "serve":
            application(child, message)

    started.scripts["worker"] = worker
    assert serve(dataclasses.replace(chosen, startup_timeout=0.1, supervise=False)) == 4
    shown = capfd.readouterr().out
    assert "THE APPLICATION DOES NOT START" in shown
    assert "its lifespan" in shown


def test_what_is_not_finished_in_time(
    serve: Callable[[Settings], int], application: Application, chosen: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    """A drain says how many requests it had to cancel."""
    application.on_ready, application.on_drain = stop, lambda worker: drained(worker, cancelled=2)
    assert serve(chosen) == 0
    assert "2 requests or turns were not finished in time." in capfd.readouterr().out


def test_a_rerun(
    serve: Callable[[Settings], int], started: FakeChildren, application: Application, chosen: Settings
) -> None:
    """A worker that wants a re-run is told its steps and its ending, and one that follows goes by its report."""
    endings: list[dict[str, object]] = []

    def worker(child: FakeChild, message: Message) -> None:
        if message.kind == "rerun" and "ending" in message.data:
            endings.append(message.data["ending"])
            application.on_ready = stop
            child.end(7)
        else:
            application(child, message)

    application.on_ready = lambda child: child.say("rerun", run_id=RERUN)
    started.scripts["worker"] = worker
    assert serve(chosen) == 0
    (ending,) = endings
    assert ending["reason"] == ""
    served = next(message.data for message in started.workers[1].heard if message.kind == "serve")
    assert served["report"] == ending["report"]
    assert served["report"]["preflight"]["run_id"] == RERUN
