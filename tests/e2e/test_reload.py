"""``--reload``: what has changed is checked, and replaces what serves; what fails leaves that serving."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.beside import BEARER, PREFIX, TOKEN, ask
from tests.e2e.place import READY, Place, Started, get
from tests.waiting import until

APP = """
RELEASE = "{release}"

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            {start_up}
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": RELEASE.encode()}})
"""


def write(place: Place, release: str, start_up: str = "pass") -> None:
    """The application, as an editor saves it: another file takes its name."""
    temporary = place.root / "mine.py.tmp"
    temporary.write_text(APP.format(release=release, start_up=start_up))
    temporary.rename(place.root / "mine.py")


def reloading(place: Place, *options: str) -> Started:
    return place.start("--demo", "--app", "mine:app", "--reload", *options)


def serves(place: Place, release: str) -> Callable[[], bool]:
    return lambda: get(place.url) == (200, release)


def test_a_change_is_served_without_an_outage(project: Place) -> None:
    """The next instance replaces the one that serves, and nobody who asks meanwhile notices."""
    write(project, "1")
    command = reloading(project).until_ready()
    said: list[str] = []
    over = threading.Event()

    def ask_on() -> None:
        while not over.is_set():
            said.append(get(project.url)[1])
            time.sleep(0.01)

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        write(project, "2")
        until(lambda: said[-1:] == ["2"], "the second release answers")
        write(project, "3")
        until(lambda: said[-1:] == ["3"], "the third release answers")
    finally:
        over.set()
        asking.join()
    assert set(said) == {"1", "2", "3"}
    assert "mine.py changed" in command.output
    assert command.stop(signal.SIGINT) == 0
    command.left_nothing()


def test_what_does_not_import_leaves_the_old_one_serving(project: Place) -> None:
    """The banner and /diagnostics of the old release, which goes on, say what failed; the next change counts again."""
    project.environ["PREFLIGHT_TOKEN"] = TOKEN
    write(project, "1")
    command = reloading(project).until_ready()

    def shown() -> dict[str, Any]:
        document: dict[str, Any] = ask(command, f"{PREFIX}/diagnostics", headers=BEARER).json()
        return document

    (project.root / "mine.py").write_text("def broken(:\n")
    command.until_says("Waiting for a file to change")
    assert "SyntaxError" in command.output
    assert "keeps serving" in command.output
    assert serves(project, "1")()
    assert shown()["status"] == "failed"
    errors = json.dumps(shown()["critical_errors"])
    assert "Application" in errors
    assert "SyntaxError" in errors
    assert get(f"{project.url}{PREFIX}/health")[0] == 200
    write(project, "2")
    until(serves(project, "2"), "the mended release answers")
    until(lambda: shown()["status"] == "passed", "its report is shown")
    assert command.stop() == 0
    command.left_nothing()


def test_what_does_not_start_up_leaves_the_old_one_serving(project: Place) -> None:
    """A start-up that fails after good checks: the report that the old one shows says so, too."""
    write(project, "1")
    command = reloading(project).until_ready()
    write(project, "2", start_up='raise SystemExit("no")')
    command.until_says("Waiting for a file to change")
    assert serves(project, "1")()
    until(lambda: project.report()["status"] == "broken", "the report tells it")
    assert "did not start" in project.report()["reason"]
    assert command.stop() == 0


def test_a_wrong_setting_leaves_the_old_one_serving(project: Place) -> None:
    """pyproject.toml counts as well: what is wrong in it stands on the terminal and in the report."""
    write(project, "1")
    command = reloading(project).until_ready()
    project.edit_project("[tool.preflight]\n", '[tool.preflight]\nroot_path = "api"\n')
    command.until_says("Waiting for a file to change")
    assert "root_path must be a path" in command.output
    assert serves(project, "1")()
    assert "root_path must be a path" in project.report()["reason"]
    project.edit_project('root_path = "api"\n', "")
    write(project, "2")
    until(serves(project, "2"), "the next release answers")
    assert command.stop() == 0


def test_a_first_start_that_is_refused_waits_for_a_change(project: Place) -> None:
    """Nothing is served, and a change that mends it starts it; a signal ends the waiting with that exit code."""
    write(project, "1", start_up="pass")
    (project.root / "mine.py").write_text("import a_module_that_nobody_has\n")
    command = reloading(project).until_says("Nothing is served (exit code 1)")
    write(project, "2")
    command.until_says(READY)
    assert serves(project, "2")()
    assert command.stop() == 0
    (project.root / "mine.py").write_text("import a_module_that_nobody_has\n")
    refused = reloading(project).until_says("Nothing is served (exit code 1)")
    assert refused.stop(signal.SIGINT) == 1
    refused.left_nothing()


def test_changes_while_the_next_one_starts_are_not_lost(project: Place) -> None:
    """What is saved while an instance is being checked is served in the end, also during the very first start."""
    write(project, "1")
    command = reloading(project).until_says("Preflight ")
    write(project, "2")
    until(lambda: bool(project.report_file.exists()), "the first run is over")
    write(project, "3")
    command.until_says(READY)
    until(serves(project, "3"), "the last release answers")
    assert command.stop() == 0
    command.left_nothing()


def test_what_is_no_source_starts_nothing(project: Place) -> None:
    """Data, hidden folders and other people's code are no change."""
    write(project, "1")
    command = reloading(project).until_ready()
    (project.root / ".venv" / "lib").mkdir(parents=True)
    (project.root / "lib" / "site-packages").mkdir(parents=True)
    for name in ("data.csv", ".venv/lib/new.py", "lib/site-packages/new.py", ".hidden.py"):
        (project.root / name).write_text("")
    write(project, "2")
    command.until_says(" changed: ")  # what comes after them is noticed, and it alone
    assert re.search(r"(^|\s)mine\.py changed: ", command.output, re.MULTILINE)
    assert command.output.count(" changed: ") == 1
    further = project.folder / "further"
    assert command.stop() == 0
    further.mkdir()
    command = project.spawn(
        sys.executable, "run.py", "--port", str(project.port), "--demo", "--app", "mine:app", "--reload",
        environ={"PREFLIGHT_RELOAD_DIRS": str(further)},
    ).until_ready()  # fmt: skip
    (further / "more.py").write_text("")
    command.until_says("more.py changed")
    assert command.stop() == 0


@pytest.mark.parametrize("options", [("--check-only",), ("--watch",), ("--wait", "5")])
def test_reload_goes_with_a_start_alone(place: Place, options: tuple[str, ...]) -> None:
    """Wrong usage is told."""
    refused = place.run("--demo", "--reload", *options)
    assert refused.process.returncode == 2
    assert re.search(r"not allowed with argument|can be used only with", refused.output)


def test_without_watchfiles_it_says_what_to_install(project: Place) -> None:
    """Nothing is started."""
    hiding = project.folder / "hiding"
    hiding.mkdir()
    (hiding / "watchfiles.py").write_text("raise ImportError('not here')\n")
    environ = {"PYTHONPATH": f"{hiding}{os.pathsep}{project.environ['PYTHONPATH']}"}
    command = project.spawn(sys.executable, "run.py", "--demo", "--reload", environ=environ)
    assert command.wait() == 2
    assert "watchfiles" in command.output
    assert "Fix:" in command.output
