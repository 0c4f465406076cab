"""--watch and --wait: checks that are repeated, on a terminal and in a pipe, and what they leave alone."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from preflight.command.rounds import PAUSE
from tests.e2e.place import BLOCKED, KEYS, READY, Place, get, listening
from tests.e2e.suites import PORT
from tests.e2e.terminals import Pseudo, plain_text
from tests.waiting import PATIENCE, until

# A requirement that holds as long as a file is there, and a suite around it that is quick.
SUITE = f"""
import pytest

@pytest.mark.critical("Database", fix="start the database")
def test_database(settings, details):
    \"\"\"The database has come up.\"\"\"
    found = (settings.root / "up").exists()
    assert found, "it does not answer"
    details.summary = "answers"

@pytest.mark.critical("Second", fix="start the second")
def test_second(settings):
    \"\"\"The second service has come up.\"\"\"
    found = (settings.root / "second").exists()
    assert found, "it is not there either"
{PORT}"""
AT_ONCE = ("--check-only", "--app", "small:app")
CLOCK = r"\d\d:\d\d:\d\d \S+ "


@pytest.fixture
def services(project: Place) -> Place:
    """A project that needs two services, of which one is up."""
    project.write_suite(SUITE)
    project.environ |= {"PREFLIGHT_DEMO": "1", "PREFLIGHT_APP": "small:app"}
    (project.root / "second").touch()
    return project


@pytest.fixture
def opened() -> Iterator[list[Pseudo]]:
    """Terminals that are closed, with what runs on them, after the test."""
    terminals: list[Pseudo] = []
    yield terminals
    for terminal in terminals:
        terminal.close()


def history(place: Place) -> int:
    """How many runs are kept."""
    return len(list((place.state / "history").glob("*.json")))


def rounds(place: Place, count: int = 2) -> None:
    """Wait until so many more runs have been published."""
    for _ in range(count):
        before = place.report()["run_id"]
        until(lambda before=before: place.report()["run_id"] != before, "there is another round")  # type: ignore[misc]


# --wait.


def break_settings(place: Place) -> str:
    """Write nonsense into pyproject.toml; returns what stood there before."""
    table = place.root / "pyproject.toml"
    good = table.read_text()
    table.write_text(good.replace("[tool.preflight]", "[tool.preflight]\nnonsense = 1"))
    return good


def test_a_start_waits(services: Place) -> None:
    """What is missing comes up meanwhile: the start goes on then, and says what it waited for.

    What is wrong in pyproject.toml while it waits is said once, and waited for like anything else.
    """
    started = services.start("--wait", "60").until_says("blocked by Database")
    assert not listening(services.port)
    assert BLOCKED not in started.stdout
    good = break_settings(services)
    started.until_says("waiting for valid settings: pyproject.toml:")
    (services.root / "up").touch()
    time.sleep(2 * PAUSE)  # nothing is to happen for two rounds, and it is not to be said again
    assert started.process.poll() is None
    assert not listening(services.port)
    assert started.output.count("waiting for valid settings") == 1
    (services.root / "pyproject.toml").write_text(good)
    started.until_ready()
    assert re.search(CLOCK + r"Database: failed -> passed \(answers\)", started.stdout)
    assert re.search(CLOCK + "nothing blocks", started.stdout)
    assert get(services.url)[1] == "small"
    assert services.report()["origin"] == "start"
    assert started.stop() == 0
    started.left_nothing()


def test_in_vain(services: Place) -> None:
    """When the time is over the banner says what still blocks: exit code 1, nothing started."""
    began = time.monotonic()
    started = services.run("--wait", "2s")
    took = time.monotonic() - began
    assert started.process.returncode == 1
    assert took > 2
    assert f"1 CRITICAL ERROR: {BLOCKED}" in started.stdout
    assert started.stdout.count("it does not answer") == 1
    assert READY not in started.stdout
    assert services.report()["may_start"] is False
    started.left_nothing()


def test_a_check_waits(services: Place) -> None:
    """With --check-only and a format: standard output holds the last round's report and nothing else.

    Rounds that found nothing new are published, and do not fill the history. A suite that breaks is tried again: a
    folder that is mounted late can break it, and that mends itself, too.
    """
    started = services.start(*AT_ONCE, "--wait", "60", "--format", "json").until_says("blocked by Database")
    first = services.report()["run_id"]
    rounds(services)
    assert services.report()["run_id"] != first
    assert history(services) == 1
    suite = services.root / "preflight" / "requirements" / "test_suite.py"
    source = suite.read_text()
    suite.write_text("import not_mounted_yet\n")
    started.until_says("the check suite itself failed")
    (services.root / "up").touch()
    suite.write_text(source)
    assert started.wait() == 0
    assert history(services) == 3
    assert services.report()["status"] == "passed"
    assert json.loads(started.stdout)["preflight"]["status"] == "passed"
    assert "blocked by Database" in started.stderr


def test_the_port_is_neither_freed_nor_held(services: Place) -> None:
    """Somebody's server on the port lives for as long as something else blocks, and goes when nothing does."""
    holder = services.listener()
    started = services.start("--wait", "30").until_says("blocked by Database")
    rounds(services)
    assert holder.process.poll() is None
    assert listening(services.port)
    assert "SIGTERM" not in started.output
    (services.root / "up").touch()
    started.until_ready()
    assert holder.wait() == -signal.SIGTERM
    assert get(services.url)[1] == "small"
    assert started.stop() == 0


def test_a_running_instance_goes_on(services: Place) -> None:
    """A start that waits neither keeps others from starting nor holds a socket that nobody answers on.

    A start that nothing blocks is a start like any other: one run, one header.
    """
    (services.root / "up").touch()
    old = services.start("--wait", "30").until_ready()
    assert old.stdout.count("Preflight 0.") == 1
    assert history(services) == 1
    (services.root / "up").unlink()
    waiting = services.start("--wait", "30").until_says("blocked by Database")
    assert old.stop() == 0
    assert not listening(services.port)  # no queue that nobody looks after
    (services.root / "up").touch()
    waiting.until_ready()
    assert waiting.stop() == 0


def test_a_busy_port_is_waited_for(services: Place) -> None:
    """With --no-cleanup a start waits until the port's holder has gone by itself."""
    (services.root / "up").touch()
    holder = services.listener()
    started = services.start("--no-cleanup", "--wait", "30").until_says("blocked by Server Port")
    holder.stop()
    started.until_ready()
    assert started.stop() == 0


def test_the_env_file_is_read_again(place: Place) -> None:
    """A file that appears while a start waits counts, for requirements and application.

    Its key stays inside: it is neither shown, nor in the log, nor in the audit.
    """
    place.write_module(
        "told",
        "import os\nKEY = os.environ.get('OPENAI_API_KEY', 'none')\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'http':\n"
        "        print('the key is', KEY, flush=True)\n"
        "        scope['state']['preflight'].audit('asked', key=KEY)\n"
        "        await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "        await send({'type': 'http.response.body', 'body': str(len(KEY)).encode()})\n",
    )
    place.environ |= {"PREFLIGHT_PYTHON": ">=3.11"}
    log = place.folder / "out.log"
    options = ("--offline", "--app", "told:app", "--log-file", str(log), "--wait", "30")
    started = place.start(*options).until_says("blocked by Environment File")
    temporary = place.env_file.with_name("new")
    place.env_file.parent.mkdir(parents=True)
    temporary.write_text("".join(f"{name}={value}\n" for name, value in KEYS.items()))
    temporary.chmod(0o600)
    temporary.rename(place.env_file)
    started.until_ready()
    # The first request is the launcher's own, which asks whether it is served.
    assert get(place.url)[1] == str(len(KEYS["OPENAI_API_KEY"]))
    started.until_says("the key is [redacted]")
    assert started.stop() == 0
    audit = (place.state / "audit.log").read_text()
    assert "the key is [redacted]" in log.read_text()
    assert " audit asked " in log.read_text()
    assert " audit asked " in audit
    for text in (started.output, log.read_text(), audit):
        assert not any(key in text for key in KEYS.values())


def test_settings_that_stay_wrong(services: Place, opened: list[Pseudo]) -> None:
    """When the time is over it ends like any start with such settings, and the terminal has its cursor again."""
    terminal = Pseudo(services, "--wait", "6")
    opened.append(terminal)
    terminal.until_shows("Waiting for")
    break_settings(services)
    assert terminal.wait() == 2
    assert "run.py: error: pyproject.toml:" in terminal.shown
    assert terminal.shown.rfind("\x1b[?25h") > terminal.shown.rfind("\x1b[?25l")
    assert "unknown setting 'nonsense'" in (services.state / "audit.log").read_text()


def test_interrupted(services: Place) -> None:
    """A signal ends the waiting at once: 128 and its number, as before any start, and nothing is left."""
    started = services.start("--wait", "60").until_says("blocked by Database")
    assert started.stop(signal.SIGTERM) == 143
    assert "nothing was started" in started.output
    assert "Traceback" not in started.output
    started.left_nothing()


def test_shown_on_a_terminal(services: Place, opened: list[Pseudo]) -> None:
    """On a terminal a line says what is waited for and for how long, and is gone afterwards."""
    terminal = Pseudo(services, "--check-only", "--wait", "600")
    opened.append(terminal)
    terminal.until_shows("Waiting for")
    (services.root / "up").touch()
    assert terminal.wait() == 0
    text = plain_text(terminal.shown)
    assert re.search(r"Waiting for Database, \d+ s left …", text)
    assert "Waiting" not in text.rpartition(" requirements: ")[2]


# --watch.


def test_watch_in_a_pipe(services: Place) -> None:
    """A line for the beginning and one for each change; every round is published, what is new is kept.

    Settings that cannot be used are said once, and the watch goes on with the previous ones.
    """
    watching = services.start("--watch", "1").until_says("blocked by Database")
    first = services.report()
    assert first["origin"] == "check"
    good = break_settings(services)
    watching.until_says("keeping the previous settings: pyproject.toml:")
    rounds(services)
    (services.root / "up").touch()
    watching.until_says("nothing blocks")
    (services.root / "pyproject.toml").write_text(good)
    (services.root / "second").unlink()
    until(lambda: len(watching.stdout.splitlines()) == 8, "it has said what changed")
    lines = watching.stdout.splitlines()
    assert all(re.match(CLOCK, line) for line in lines)
    assert [re.sub(f"{CLOCK}|(?<=settings: ).*", "", line) for line in lines] == [
        "blocked by Database",
        "keeping the previous settings: ",
        "Database: failed -> passed (answers)",
        "Server Port: unknown -> passed",
        "nothing blocks",
        "Second: passed -> failed (it is not there either)",
        "Server Port: passed -> unknown (not tried, and nothing was stopped: the start is blocked by Second)",
        "blocked by Second",
    ]
    assert history(services) == 3
    assert services.report()["run_id"] != first["run_id"]
    assert not listening(services.port)
    assert watching.stop(signal.SIGINT) == 1
    assert "Traceback" not in watching.output
    watching.left_nothing()


def test_watch_beside_a_server(services: Place) -> None:
    """It stops nothing: neither an instance of ours nor somebody's server. Ended while nothing blocks: exit code 0."""
    (services.root / "up").touch()
    served = services.start().until_ready()
    watching = services.start("--watch", "1").until_says("nothing blocks")
    rounds(services, 1)
    assert get(services.url)[1] == "small"
    assert served.stop() == 0
    holder = services.listener()
    rounds(services)
    assert holder.process.poll() is None
    assert watching.stop(signal.SIGINT) == 0
    assert holder.process.poll() is None


def test_watch_on_a_terminal(services: Place, opened: list[Pseudo]) -> None:
    """Everything is shown in place, with what changed; Ctrl-C leaves the last state and the cursor there."""
    terminal = Pseudo(services, "--watch", "1")
    opened.append(terminal)
    terminal.until_shows("start the database")
    (services.root / "up").touch()
    terminal.until_shows("nothing blocks")
    terminal.press(b"\x03")
    assert terminal.wait() == 0
    assert "\x1b[1A\x1b[2K" in terminal.shown  # lines are written over
    # It was one screen from the first round to the last: the cursor was hidden once, and came back at the end.
    assert terminal.shown.count("\x1b[?25l") == terminal.shown.count("\x1b[?25h") == 1
    assert terminal.shown.rstrip().endswith("\x1b[?25h")
    last = plain_text(terminal.shown.rpartition("\x1b[2K")[2])
    assert "every 1 s · Ctrl-C ends" in last
    assert "✅ Database    answers" in last
    assert "start the database" not in last
    assert "Database: failed -> passed (answers)" in last
    assert "Traceback" not in terminal.shown


@pytest.mark.parametrize(
    "options, message",
    [
        (("--wait", "x"), "--wait must be a time from 0 to 86400 seconds"),
        (("--watch", "0.5"), "--watch must be a time from 1 to 86400 seconds"),
        (("--wait", "1", "--watch"), "--wait can be used only with a start or --check-only"),
        (("--wait", "1", "--history"), "--wait can be used only with a start or --check-only"),
        (("--watch", "--check-only"), "not allowed with"),
        (("--watch", "--format", "json"), "--format can be used only with"),
        (("--wait", "1", "--ignore", "Nonsense", "--demo"), "there is no such requirement"),
        (("--watch", "--ignore", "Nonsense", "--demo"), "there is no such requirement"),
    ],
)
def test_wrong_usage(place: Place, options: tuple[str, ...], message: str) -> None:
    """Exit code 2 and one line, at once: waiting makes it no better."""
    started = place.run(*options)
    assert started.process.returncode == 2
    assert message in started.stderr
    assert "Traceback" not in started.output


def test_a_watch_whose_reader_has_gone(services: Place) -> None:
    """Nobody will see what changes: it ends, as other commands do whose pipe was closed."""
    words = [sys.executable, "run.py", "--port", str(services.port), "--watch", "1"]
    watching = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=services.root, env=services.environ)
    assert watching.stdout is not None
    assert watching.stdout.readline()
    watching.stdout.close()
    try:
        assert watching.wait(PATIENCE) == 128 + signal.SIGPIPE
    finally:
        watching.kill()
        watching.wait()
