"""One run of the checks as the launcher drives it: scripted children, and the real loop."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from preflight.launcher.checks import Checks, Stopped
from preflight.launcher.shown import Display, RunProgress
from preflight.processes import children, stacks
from preflight.processes.channel import Message
from preflight.processes.loop import Loop
from preflight.processes.worker import Worker
from preflight.report.model import Check, Report
from preflight.settings import loading
from preflight.settings.model import Settings
from tests.fakechildren import FakeChild, FakeChildren, Script

ROOT = Path(__file__).parents[2]
MakeCheck = Callable[..., Check]
MakeReport = Callable[..., Report]
MakeChecks = Callable[..., tuple[Checks, FakeChildren]]


@pytest.fixture
def chosen(free_port: int) -> Settings:
    return loading.load(ROOT, options={"demo": True, "port": str(free_port)})


@pytest.fixture
def make_checks(loop: Loop, chosen: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeChecks]:
    """Make the checks of a run whose children do what these scripts say."""
    made: list[Checks] = []

    def make(origin: str = "check", chosen: Settings = chosen, **scripts: Script) -> tuple[Checks, FakeChildren]:
        started = FakeChildren(loop, **scripts)
        monkeypatch.setattr(children, "Child", started)
        made.append(Checks(chosen, {}, origin, loop=loop, display=Display(chosen)))
        return made[-1], started

    yield make
    for checks in made:
        checks.close()


def imports(child: FakeChild, message: Message) -> None:
    """A worker whose application imports."""
    if message.kind == "application":
        child.say("imported", routes=["/health"])


def idles(_child: FakeChild, _message: Message) -> None:
    """A child that says nothing."""


@pytest.fixture
def answers(make_report: MakeReport) -> Callable[..., Script]:
    """Make the script of a suite that ends with this report when it has heard of the application."""

    def make(*checks: Check, exit_code: int = 0, sock: socket.socket | None = None) -> Script:
        run: dict[str, str] = {}

        def script(child: FakeChild, message: Message) -> None:
            if message.kind == "run":
                run.update({name: message.data[name] for name in ("run_id", "origin")})
                child.say("collected", titles=["Database"])
                child.say("checking", title="Database")
            elif message.kind == "application":
                if sock is not None:
                    child.say("socket", (sock.fileno(),))
                child.say("report", document=make_report(*checks, **run).to_json())
                child.end(exit_code)

        return script

    return make


def test_nothing_blocks(make_checks: MakeChecks, answers: Callable[..., Script]) -> None:
    """The suite hears that the application has imported, its report is the result, and all ends with the checks."""
    checks, started = make_checks(suite=answers(), worker=imports)
    result = checks.run()
    worker, suite = started.made
    assert (result.exit_code, result.may_start, result.report.run_id) == (0, True, checks.run_id)
    assert (worker.module, suite.module) == ("preflight.worker", "preflight.suite")
    assert [message.data for message in suite.heard if message.kind == "application"] == [{"error": None, "fix": ""}]
    before = worker.closed
    checks.close()
    checks.close()
    assert (before, worker.closed, suite.closed) == (False, True, True)


def test_something_blocks(make_checks: MakeChecks, answers: Callable[..., Script], make_check: MakeCheck) -> None:
    """A report with a critical failure is the result, and no start."""
    failed = make_check("Database", "failed", message="it does not answer")
    checks, _ = make_checks(suite=answers(failed, exit_code=1), worker=imports)
    result = checks.run()
    assert (result.exit_code, result.may_start) == (1, False)
    assert [check.title for check in result.report.blocking] == ["Database"]


def test_what_the_suite_hears_last_counts(make_checks: MakeChecks, answers: Callable[..., Script]) -> None:
    """An application that has imported and then fails is told again: no report is built on what was true before."""
    answer = answers()

    def suite(child: FakeChild, message: Message) -> None:
        if message.kind == "application" and message.data["error"] is None:
            worker = started.made[0]
            worker.say("failed", error="it listens", fix="do not")
        else:
            answer(child, message)

    checks, started = make_checks(suite=suite, worker=imports)
    assert checks.run().exit_code == 0
    told = [message.data for message in started.made[1].heard if message.kind == "application"]
    assert told == [{"error": None, "fix": ""}, {"error": "it listens", "fix": "do not"}]


def test_a_suite_without_a_report(make_checks: MakeChecks) -> None:
    """Silence is no verdict: the run broke, and its reason says while checking what."""

    def suite(child: FakeChild, message: Message) -> None:
        if message.kind == "run":
            child.say("checking", title="Database")
            child.end(0)

    checks, _ = make_checks(suite=suite, worker=idles)
    result = checks.run()
    assert result.exit_code == 3
    assert result.reason == 'the suite ended without a report (exit code 0) while checking "Database"'
    assert result.report.status == "broken"
    assert result.report.run_id == checks.run_id


@pytest.mark.parametrize("scripts", [{}, {"worker": idles}], ids=["worker", "suite"])
def test_no_process_can_be_started(make_checks: MakeChecks, scripts: dict[str, Script]) -> None:
    """The result says what is short, in the name of this run; a worker that could be started ends."""
    checks, started = make_checks(**scripts)
    result = checks.run()
    assert result.exit_code == 3
    assert "no process can be started: Resource temporarily unavailable" in result.reason
    assert (result.report.origin, result.report.run_id) == ("check", checks.run_id)
    checks.close()
    assert all(child.closed for child in started.made)


def test_a_signal_ends_it(make_checks: MakeChecks, loop: Loop) -> None:
    """Whoever is asked to stop says so by an exception; closing ends both children, and nobody is watched any more."""

    def suite(_child: FakeChild, message: Message) -> None:
        if message.kind == "run":
            os.kill(os.getpid(), signal.SIGTERM)

    checks, started = make_checks(suite=suite, worker=idles)
    with loop.running(), pytest.raises(Stopped, match="SIGTERM"):
        checks.run()
    checks.close()
    assert all(child.closed for child in started.made)
    again = FakeChild("preflight.worker", loop, 0)  # with the very numbers that the others had
    loop.watch_child(again, lambda: None, lambda: None)  # type: ignore[arg-type]
    loop.unwatch_child(again)  # type: ignore[arg-type]
    again.close()


def test_worker_and_socket_are_taken(make_checks: MakeChecks, answers: Callable[..., Script]) -> None:
    """A start that goes on takes them: closing the checks leaves them alone, and there is nothing to take twice."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        checks, started = make_checks("start", suite=answers(sock=held), worker=imports)
        assert checks.run().may_start
        address = held.getsockname()
    worker, sock = checks.take()
    checks.close()
    assert not started.made[0].closed
    with sock:
        assert sock.getsockname() == address
    worker.child.close()
    with pytest.raises(RuntimeError, match="nothing to serve with"):
        checks.take()


def test_nobody_takes_the_socket(make_checks: MakeChecks, answers: Callable[..., Script]) -> None:
    """A start that comes to nothing after its checks leaves the port to others."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        address = held.getsockname()
        checks, _ = make_checks("start", suite=answers(sock=held), worker=imports)
        assert checks.run().may_start
    checks.close()
    with socket.create_server(address):
        pass


@pytest.mark.parametrize("origin", ["start", "check"])
def test_only_what_has_a_reader_is_shown(
    make_checks: MakeChecks,
    answers: Callable[..., Script],
    origin: str,
    chosen: Settings,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a progress the run begins with its header; a round that nobody looks at says nothing."""
    make_checks(suite=answers(exit_code=1), worker=imports)[0].run()
    assert capsys.readouterr().out == ""
    make_checks(origin, suite=answers(exit_code=1), worker=imports)[0].run(RunProgress(Display(chosen)))
    header, port = capsys.readouterr().out.splitlines()
    assert header.endswith(f" · {origin} · demo")
    assert port == f"{chosen.address} is available."


def test_signals_are_recorded(make_checks: MakeChecks, home: Path) -> None:
    """What is sent to a child is in the audit, in rounds that nobody looks at, too."""

    def suite(child: FakeChild, message: Message) -> None:
        if message.kind == "run":
            child.kill("it was in the way")

    make_checks(suite=suite, worker=idles)[0].run()
    (line,) = (home / "state" / "audit.log").read_text().splitlines()
    assert " audit signal " in line
    assert 'name=preflight.suite why="it was in the way"' in line


@pytest.mark.parametrize("shown", [True, False])
def test_an_import_that_hangs(
    make_checks: MakeChecks, chosen: Settings, monkeypatch: pytest.MonkeyPatch, shown: bool
) -> None:  # fmt: skip
    """Where it stands is asked for a reader, of an import that has had as long as a requirement may take."""
    asked: list[str] = []

    def gather(worker: Worker, _loop: Loop) -> list[str]:
        asked.append(worker.child.module)
        return ["Stack"]

    monkeypatch.setattr(stacks, "gather", gather)

    def suite(child: FakeChild, message: Message) -> None:
        if message.kind == "run":
            child.end(3)

    impatient = dataclasses.replace(chosen, requirement_timeout=0.0)
    checks, _ = make_checks(chosen=impatient, suite=suite, worker=idles)
    checks.run(RunProgress(Display(chosen)) if shown else None)
    assert asked == (["preflight.worker"] if shown else [])
    assert bool(checks.hanging_import) is shown
    patient, _ = make_checks(suite=suite, worker=idles)
    patient.run(RunProgress(Display(chosen)))
    assert patient.hanging_import == []
