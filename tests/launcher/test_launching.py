"""A start and the rounds of --wait and --watch: scripted children, and the real loop, lock, record and files."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from preflight.command import line, rounds
from preflight.command.rounds import Rounds
from preflight.instances.runtime import StartLock
from preflight.launcher.checks import Stopped
from preflight.launcher.shown import Display
from preflight.launcher.start import Start
from preflight.output.publishing import Unpublishable
from preflight.processes.channel import Message
from preflight.processes.loop import Loop
from preflight.processes.suite import RunResult
from preflight.report import model as report
from preflight.settings import loading
from preflight.settings.fields import SettingsError
from preflight.settings.model import Settings
from tests.fakechildren import Application, FakeChild, FakeChildren, Requirements

ROOT = Path(__file__).parents[2]


@pytest.fixture
def chosen(free_port: int) -> Settings:
    return loading.load(ROOT, options={"demo": True, "port": str(free_port), "supervise": False})


@pytest.fixture
def start(loop: Loop, chosen: Settings, started: FakeChildren) -> Start:
    return Start(chosen, {}, loop=loop, display=Display(chosen), typed_at=0.0)


def audited(home: Path) -> list[str]:
    """The kinds of events in the audit, with why."""
    try:
        lines = (home / "state" / "audit.log").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [line.split(" audit ")[1] for line in lines]


def is_free(chosen: Settings) -> bool:
    """Whether port and start lock are nobody's."""
    with StartLock(chosen.port) as lock, socket.create_server((chosen.host, chosen.port)):
        return lock.take()


# A start.


def test_it_serves_until_it_is_asked_to_stop(
    start: Start, application: Application, chosen: Settings, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Checked, published, served, announced, drained: exit code 0, nothing refused, and nothing is left."""
    application.on_ready = lambda _: os.kill(os.getpid(), signal.SIGTERM)
    assert start.run() == 0
    shown = capfd.readouterr().out
    assert re.search("1 requirements?: ", shown)
    assert "Stopping (SIGTERM)." in shown
    assert report.load(home / "state" / "report.json").may_start
    assert [event.split()[0] for event in audited(home)] == ["run"]
    assert is_free(chosen)


def test_it_is_refused(
    start: Start, requirements: Requirements, chosen: Settings, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What blocks is published, shown and recorded; the worker ends."""
    requirements.outcomes = ["failed"]
    assert start.run() == 1
    assert "it does not answer" in capfd.readouterr().out
    assert not report.load(home / "state" / "report.json").may_start
    *_, last = audited(home)
    assert last.startswith("refused ")
    assert 'why="[\\"Database\\"]"' in last
    assert is_free(chosen)


def test_an_attempt_leaves_it_to_the_caller(
    start: Start, requirements: Requirements, chosen: Settings, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a run that blocks nothing is published, shown or recorded as refused; port and lock are free."""
    requirements.outcomes = ["failed"]
    result = start.attempt()
    assert isinstance(result, RunResult)
    assert result.exit_code == 1
    assert "it does not answer" not in capfd.readouterr().out
    assert not (home / "state" / "report.json").exists()
    assert not [event for event in audited(home) if event.startswith(("run", "refused"))]
    assert is_free(chosen)


def test_wrong_usage_is_no_run(start: Start, requirements: Requirements, home: Path) -> None:
    """Nobody tries an option again that there is not: an attempt refuses it as well, and nothing is published."""
    requirements.outcomes = ["usage"]
    assert start.attempt() == 2
    assert not (home / "state" / "report.json").exists()
    *_, last = audited(home)
    assert last.startswith("refused ")
    assert "exit_code=2" in last


def test_a_signal_stops_it_before_it_serves(
    start: Start, requirements: Requirements, started: FakeChildren, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """128 and its number; nothing was refused."""
    started.scripts["suite"] = lambda _child, message: (
        os.kill(os.getpid(), signal.SIGINT) if message.kind == "run" else None
    )
    assert start.run() == 130
    assert "Stopped by SIGINT; nothing was started." in capfd.readouterr().out
    assert not [event for event in audited(home) if not event.startswith("signal")]


def test_its_report_cannot_be_written(
    loop: Loop, started: FakeChildren, chosen: Settings, tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """That is found out before any child is started, and is a refusal."""
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    display = Display(chosen, report_path=tmp_path / "link")
    assert Start(chosen, {}, loop=loop, display=display, typed_at=0.0).run() == 3
    assert "THE REPORT CANNOT BE WRITTEN" in capfd.readouterr().out
    assert started.made == []
    (refused,) = audited(home)
    assert "the report cannot be written" in refused
    assert is_free(chosen)


def test_no_process_can_be_started(start: Start, started: FakeChildren, home: Path) -> None:
    """A start without processes broke: exit code 3 and a report that says so."""
    started.scripts.clear()
    assert start.run() == 3
    assert "no process can be started" in report.load(home / "state" / "report.json").reason


# Rounds.


@pytest.fixture
def command(loop: Loop, started: FakeChildren, free_port: int, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a command line with the children of this test, and without pauses between two rounds."""
    monkeypatch.setattr(rounds, "PAUSE", 0.0)
    for module in ("start", "check", "watch"):
        monkeypatch.setattr(f"preflight.command.{module}.Loop", lambda: loop)
    return lambda *argv: line.main(["--demo", "--port", str(free_port), "--no-supervise", *argv])


def test_a_start_that_waits(
    command: Callable[..., int], requirements: Requirements, application: Application, home: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """It starts, checks while something blocks, and starts again when nothing does."""
    requirements.outcomes = ["failed", "failed", "passed"]
    application.on_ready = lambda _: os.kill(os.getpid(), signal.SIGTERM)
    assert command("--wait", "60") == 0
    assert requirements.origins == ["start", "check", "check", "start"]
    shown = re.sub(r"(?m)^\d\d:\d\d:\d\d \S+ ", "", capfd.readouterr().out).splitlines()
    assert [text for text in shown if "block" in text or "->" in text] == [
        "blocked by Database",
        "Database: failed -> passed",
        "nothing blocks",
    ]
    assert not [event for event in audited(home) if event.startswith("refused")]


def test_a_start_that_waits_in_vain(
    command: Callable[..., int], requirements: Requirements, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """When the time is over the last round is shown as a refused start is, and recorded once."""
    requirements.outcomes = ["failed"]
    assert command("--wait", "0.3s") == 1
    assert capfd.readouterr().out.count("it does not answer") == 1
    assert [event.split()[0] for event in audited(home) if not event.startswith("signal")] == ["run", "refused"]


@pytest.mark.parametrize("argv", [("--wait", "60"), ("--check-only", "--wait", "60")], ids=["start", "check"])
def test_waiting_is_stopped(
    command: Callable[..., int], requirements: Requirements, started: FakeChildren, argv: tuple[str, ...], home: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A signal in the middle of a round: 128 and its number, and nothing is refused."""
    blocked, count = requirements, 0

    def suite(child: FakeChild, message: Message) -> None:
        nonlocal count
        count += message.kind == "run"
        if count == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            blocked(child, message)

    requirements.outcomes = ["failed"]
    started.scripts["suite"] = suite
    assert command(*argv) == 143
    assert "Stopped by SIGTERM; nothing was started." in capfd.readouterr().out
    assert not [event for event in audited(home) if event.startswith("refused")]


def test_a_check_that_waits(
    command: Callable[..., int], requirements: Requirements, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its last round is what is shown, and what is in the report: no run more than it takes."""
    requirements.outcomes = ["failed", "passed"]
    assert command("--check-only", "--wait", "60", "--format", "json") == 0
    assert requirements.origins == ["check", "check"]
    document = json.loads(capfd.readouterr().out)
    assert document["preflight"]["run_id"] == report.load(home / "state" / "report.json").run_id
    assert [event.split()[0] for event in audited(home) if not event.startswith("signal")] == ["run"]


def test_a_check_does_not_wait(command: Callable[..., int], requirements: Requirements) -> None:
    """Without --wait one run says it all."""
    requirements.outcomes = ["failed", "passed"]
    assert command("--check-only") == 1
    assert requirements.origins == ["check"]


def test_a_watch(
    command: Callable[..., int], requirements: Requirements, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Each change is a line; a signal ends it with the exit code of the last round."""
    requirements.outcomes = ["failed", "failed", "passed", "failed"]
    changes = iter(range(3))

    def pause(_rounds: Rounds, _seconds: float) -> None:
        if next(changes, None) is None:
            raise Stopped(signal.SIGINT)

    monkeypatch.setattr(Rounds, "pause", pause)
    assert command("--watch", "1") == 1
    shown = re.sub(r"(?m)^\d\d:\d\d:\d\d \S+ ", "", capfd.readouterr().out).splitlines()
    assert shown == [
        "blocked by Database",
        "Database: failed -> passed",
        "nothing blocks",
        "Database: passed -> failed (it does not answer)",
        "blocked by Database",
    ]


def test_a_report_of_a_round_cannot_be_written(
    command: Callable[..., int], requirements: Requirements, monkeypatch: pytest.MonkeyPatch, home: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A start that waits is refused for that like any other."""

    def publish(_display: Display, _report: report.Report, *, keep: bool = True) -> None:
        raise Unpublishable("report.json: No space left on device")

    requirements.outcomes = ["failed"]
    monkeypatch.setattr(Display, "publish", publish)
    assert command("--wait", "60") == 3
    assert "THE REPORT CANNOT BE WRITTEN" in capfd.readouterr().out
    *_, last = audited(home)
    assert last.startswith("refused ")
    assert "No space left on device" in last


def test_secrets_of_the_settings_of_now(
    loop: Loop, chosen: Settings, started: FakeChildren, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A key that appears between two rounds is taken out of what is shown from then on."""
    display = Display(chosen)
    repeated = Rounds({"demo": True, "port": str(chosen.port)}, loop, display)
    display.terminal.line("it is sk-canary-3f9a1c77e2Zq")
    monkeypatch.setenv("OPENAI_API_KEY", "canary-3f9a1c77e2Zq-of-no-known-shape")
    repeated.reload_or_keep()
    display.terminal.line("it is canary-3f9a1c77e2Zq-of-no-known-shape")
    assert capfd.readouterr().out.splitlines()[-1] == "it is [redacted]"


def test_settings_that_cannot_be_used(
    loop: Loop, chosen: Settings, started: FakeChildren, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A watch keeps the previous ones and says so once; what waits has them in time, or fails with what is wrong."""
    display = Display(chosen)
    repeated = Rounds({"demo": True, "port": str(chosen.port)}, loop, display)
    monkeypatch.setenv("PREFLIGHT_PYTHON", "new")
    for _ in range(2):
        repeated.reload_or_keep()
    assert display.settings is chosen
    assert capfd.readouterr().out.count("keeping the previous settings: ") == 1
    with pytest.raises(SettingsError, match="PREFLIGHT_PYTHON"):
        repeated.reload_in_time(0.0)
    monkeypatch.delenv("PREFLIGHT_PYTHON")
    repeated.reload_in_time(0.0)
    assert display.settings is not chosen
