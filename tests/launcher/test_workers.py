"""Several workers of one instance: what they share, and what the launcher does about them; children are scripted."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from preflight.command import options, reload
from preflight.contract import Details
from preflight.launcher.shown import Display
from preflight.processes.board import COUNTERS, Board
from preflight.processes.channel import Message
from preflight.processes.loop import Loop
from preflight.processes.worker import Worker
from preflight.requirements import test_resources
from preflight.settings import loading, processors
from preflight.settings.fields import SettingsError
from preflight.settings.model import Settings
from preflight.suite.probes import memory
from tests.fakechildren import Application, FakeChild, FakeChildren, drained

Serve = Callable[[Settings], int]
When = Callable[[Callable[[], object]], None]

ROOT = Path(__file__).parents[2]


# The setting.


@pytest.mark.parametrize("value", ["0", "-1", "two", "10_000", "10000", "", "1.5"])
def test_a_wrong_number(value: str) -> None:
    """One line names the option and what is allowed."""
    with pytest.raises(SettingsError) as caught:
        loading.load(ROOT, options={"workers": value})
    allowed = 'must be a whole number from 1 to 256, or "auto" for one for each processor'
    assert str(caught.value) == f"--workers {allowed}"


def test_one_for_each_processor() -> None:
    """``auto`` is a number by the time anybody goes by it."""
    assert loading.load(ROOT, options={"workers": "auto"}).workers == processors.usable()


@pytest.mark.parametrize(
    "files, quota",
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "6400000 100000\n"}, None),
        ({"proc/self/cgroup": "0::/../outside\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker\n3:memory:/docker\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        ({"proc/self/cgroup": "4:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"}, None),
        ({}, None),
    ],
)
def test_control_groups(tmp_path: Path, files: dict[str, str], quota: int | None) -> None:
    """A limit of this process's group, or of one above it, counts in whole processors; at least one is left."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert processors.usable(tmp_path) == min(len(os.sched_getaffinity(0)), quota or 10_000)


@pytest.mark.parametrize("available, outcome", [(3 * 256, True), (3 * 256 - 1, False)])
def test_memory_for_each(chosen: Settings, monkeypatch: pytest.MonkeyPatch, available: int, outcome: bool) -> None:
    """The requirement Memory needs what is set once for each worker, and says so."""
    mebibytes = 1024**2
    monkeypatch.setattr(memory, "left", lambda: memory.Left(available * mebibytes, 4096 * mebibytes))
    settings, details = dataclasses.replace(chosen, workers=3), Details()
    if outcome:
        test_resources.test_memory(settings, details)
        assert details["needed"] == 3 * 256 * mebibytes
        return
    with pytest.raises(AssertionError, match=r"767 MiB available, needs 768 MiB \(256 MiB for each of 3 workers\)"):
        test_resources.test_memory(settings, details)


def test_reload_serves_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was typed: the last of two options counts."""
    typed = ["run.py", "--reload", "--workers", "4"]
    monkeypatch.setattr(sys, "argv", typed)
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, *typed])
    command = reload._command(replaces=False)
    assert options.parse(command[2:]).settings["workers"] == "1"


# What they count.


def test_a_board() -> None:
    """Each worker's numbers are seen by the others; what it has counted outlives it, what it was busy with does not."""
    launcher = Board.made(2, Path())
    one, two = (Board.attached(os.dup(launcher.descriptor), number, 2) for number in (1, 2))
    turns = [board.counters(3) for board in (one, two)]
    one.publish((5, 2, 1))
    two.publish((7, 0, 0))
    assert (one.others("connections"), two.others("connections"), two.others("sessions")) == (7, 5, 2)
    assert one.pids == {1: os.getpid(), 2: os.getpid()}
    turns[0].add(1)
    turns[1].add(1, 2.5)
    launcher.clear(1)
    assert two.others("connections") == 0
    assert two.pids == {2: os.getpid()}
    again = Board.attached(os.dup(launcher.descriptor), 1, 2).counters(3)
    again.add(1)
    assert [counters.totals for counters in (*turns, again)] == [[0, 4.5, 0]] * 3
    assert (one.missing, two.missing) == (1, 1), "each knows of itself"
    launcher.ready = 2
    assert one.missing == 0
    with pytest.raises(ValueError, match=f"{COUNTERS} counters"):
        one.counters(COUNTERS)
    for board in (launcher, one, two):
        board.close()


@pytest.mark.slow
def test_a_claim_is_one_workers() -> None:
    """Of several processes one is the first, whichever was asked first."""
    launcher = Board.made(2, Path())
    first = 0
    for number in (1, 2):
        pid = os.fork()
        if pid == 0:
            os._exit(Board.attached(launcher.descriptor, number, 2).claim())
        first += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert first == 1
    launcher.close()
    assert [Board.alone().claim() for _ in range(1)] == [True]


# Behind the launcher.


@pytest.fixture
def chosen(free_port: int) -> Settings:
    options = {"demo": True, "port": str(free_port), "supervise": True, "workers": "2"}
    return dataclasses.replace(loading.load(ROOT, options=options), restart_backoff=0.0, restart_limit=2)


def orders(worker: FakeChild, kind: str) -> list[dict[str, Any]]:
    return [message.data for message in worker.heard if message.kind == kind]


@pytest.fixture
def when_announced(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have something done when the banner has been shown."""

    def set_to(act: Callable[[], object]) -> None:
        def ready(*arguments: Any) -> None:
            shown(*arguments)
            act()

        monkeypatch.setattr(Display, "ready", ready)

    shown = Display.ready
    return set_to


def test_two_serve(
    serve: Serve, started: FakeChildren, loop: Loop, chosen: Settings, when_announced: When,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The first imports beside the suite, the second once the verdict is good; both empty the queue."""
    when_announced(lambda: loop.stops.append(15))
    assert serve(chosen) == 0
    one, two = started.workers
    assert started.made.index(two) == 2, "after the first worker and the suite"
    assert [order["number"] for worker in (one, two) for order in orders(worker, "serve")] == [1, 2]
    assert [order["last"] for worker in (one, two) for order in orders(worker, "drain")] == [True, True]
    assert re.search(r"^Workers +2 serve$", capfd.readouterr().out, re.MULTILINE)


def test_one_crashes(
    serve: Serve, started: FakeChildren, application: Application, loop: Loop, chosen: Settings,
    when_announced: When, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The others serve and know of it; one that crashes again and again is started now and then, and all go on."""

    def crash() -> None:
        application.on_ready = lambda worker: worker.end(7)
        started.workers[1].end(7)

    def told(worker: Worker, restarts: Mapping[str, Any]) -> None:
        count(worker, restarts)
        if restarts["count"] == 2:
            loop.stops.append(15)

    when_announced(crash)
    count = Worker.count_restarts
    monkeypatch.setattr(Worker, "count_restarts", told)
    assert serve(chosen) == 0
    shown = capfd.readouterr().out
    assert "Worker 2 of 2 ended (exit code 7); another one starts at once. 1 other worker serves." in shown
    assert "Worker 2 of 2 ended (exit code 7); another one starts in 30.0 s. 1 other worker serves." in shown
    assert [order["count"] for order in orders(started.workers[0], "restarts")] == [1, 2]


def test_all_crash(
    serve: Serve, started: FakeChildren, application: Application, chosen: Settings, when_announced: When,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Where none is left to serve, the instance is given up like one with a single worker."""

    def crash() -> None:
        application.on_ready = lambda worker: worker.end(7)
        application.on_drain = lambda _worker: None  # it has ended
        for worker in started.workers:
            worker.end(7)

    when_announced(crash)
    assert serve(chosen) == 4
    assert "THE SERVER KEEPS CRASHING: the launcher has given up" in capfd.readouterr().out


def test_one_does_not_start(
    serve: Serve, started: FakeChildren, application: Application, chosen: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    """A start is whole or none: the worker that serves already is drained."""

    def worker(child: FakeChild, message: Message) -> None:
        if message.kind == "serve" and child is not started.workers[0]:
            for descriptor in message.descriptors:
                os.close(descriptor)
            child.end(3)
        else:
            application(child, message)

    started.scripts["worker"] = worker
    assert serve(chosen) == 4
    shown = capfd.readouterr().out
    assert "THE SERVER DOES NOT START" in shown
    assert "Worker 2 of 2 ended: exit code 3." in shown
    assert len(orders(started.workers[0], "drain")) == 1
    assert "SERVER READY" not in shown


def test_unsupervised(
    serve: Serve, started: FakeChildren, chosen: Settings, when_announced: When, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without supervision the others go on, and the instance ends with the last."""

    def crash() -> None:
        for worker in started.workers:
            worker.end(7)

    when_announced(crash)
    assert serve(dataclasses.replace(chosen, supervise=False)) == 4
    shown = capfd.readouterr().out
    assert len(started.workers) == 2
    ended = r"Worker [12] of 2 ended \(exit code 7\)\. It is not started again: .*\. 1 other worker serves\."
    assert re.search(ended, shown)
    assert "THE SERVER ENDED" in shown


def test_what_was_not_finished(
    serve: Serve, application: Application, loop: Loop, chosen: Settings, when_announced: When,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A drain adds up what its workers had to cancel."""
    when_announced(lambda: loop.stops.append(15))
    application.on_drain = lambda worker: drained(worker, cancelled=2)
    assert serve(chosen) == 0
    assert "4 requests or turns were not finished in time." in capfd.readouterr().out


@pytest.mark.slow
def test_stopped_while_one_starts_up(
    serve: Serve, started: FakeChildren, application: Application, loop: Loop, chosen: Settings,
    when_announced: When, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A worker that has not started up has nothing to finish, unless connections wait for it."""

    def crash() -> None:
        started.scripts["worker"] = starts_up
        for worker in started.workers:
            worker.end(7)

    def starts_up(child: FakeChild, message: Message) -> None:
        if message.kind == "drain" and message.data["starts"]:
            child.say("started", instance_id=orders(child, "serve")[0]["instance_id"])
            application(child, message)
        elif message.kind == "serve":
            for descriptor in message.descriptors:
                os.close(descriptor)
            if len([one for one in started.workers[2:] if orders(one, "serve")]) == 2:
                loop.stops.append(15)
        elif message.kind != "drain":
            application(child, message)

    when_announced(crash)
    assert serve(dataclasses.replace(chosen, graceful_timeout=600.0)) == 0
    later = {orders(worker, "drain")[0]["starts"]: worker.process.returncode for worker in started.workers[2:]}
    assert later == {True: 0, False: -9}
    assert "did not finish everything" not in capfd.readouterr().out


def test_news_and_logins(
    serve: Serve, started: FakeChildren, application: Application, loop: Loop, chosen: Settings, when_announced: When
) -> None:
    """What one tells reaches the others and not itself; a login that has ended is known to workers that come later."""

    def tell() -> None:
        application.on_ready = lambda _worker: loop.stops.append(15)
        worker = started.workers[1]
        worker.say("news", topic="chat", data={"about": "accepted"})
        worker.say("logout", session="s", expires=2**31)
        worker.end(7)

    when_announced(tell)
    assert serve(chosen) == 0
    one, two, three = started.workers
    assert orders(one, "news") == [{"topic": "chat", "data": {"about": "accepted"}}]
    assert orders(one, "logout") == [{"session": "s", "expires": 2**31}]
    assert orders(two, "news") == orders(two, "logout") == []
    (order,) = orders(three, "serve")
    assert order["login"]["ended"] == {"s": 2**31}


def test_a_rerun_is_one_for_all(
    serve: Serve, started: FakeChildren, application: Application, loop: Loop, chosen: Settings, when_announced: When
) -> None:
    """Two that are asked at the same moment get one run, which all follow; one of them counts it."""
    ids = ["aa" * 16, "bb" * 16]
    over: list[FakeChild] = []

    def worker(child: FakeChild, message: Message) -> None:
        if message.kind == "rerun" and "ending" in message.data:
            over.append(child)
            if len(over) == 2:
                loop.stops.append(15)
        else:
            application(child, message)

    def ask() -> None:
        for child, run_id in zip(started.workers, ids, strict=True):
            child.say("rerun", run_id=run_id)

    when_announced(ask)
    started.scripts["worker"] = worker
    assert serve(chosen) == 0
    told = [order for child in started.workers for order in orders(child, "rerun")]
    endings = [order for order in told if "ending" in order]
    assert len({order["run_id"] for order in endings}) == 1
    assert sorted(order["elsewhere"] for order in endings) == [False, True]
    run_id = endings[0]["run_id"]
    (other,) = {*ids} - {run_id}
    # One of them had asked for another run by then, or had heard of this one already.
    assert {"run_id": other, "joins": run_id} in told
    assert sum(child.module == "preflight.suite" for child in started.made) == 2, "the start's, and one re-run"


def test_a_rerun_outlives_the_worker_that_was_asked(
    serve: Serve, started: FakeChildren, application: Application, loop: Loop, chosen: Settings, when_announced: When
) -> None:
    """The run goes on for the others, and one of them counts it."""
    run_id = "cc" * 16

    def worker(child: FakeChild, message: Message) -> None:
        if message.kind == "rerun" and "began" in message.data:
            started.workers[1].end(7)
        elif message.kind == "rerun" and "ending" in message.data and child is started.workers[0]:
            loop.stops.append(15)
        else:
            application(child, message)

    when_announced(lambda: started.workers[1].say("rerun", run_id=run_id))
    started.scripts["worker"] = worker
    assert serve(chosen) == 0
    (ending,) = [order for order in orders(started.workers[0], "rerun") if "ending" in order]
    assert (ending["run_id"], ending["elsewhere"]) == (run_id, False)
