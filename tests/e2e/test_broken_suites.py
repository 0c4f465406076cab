"""Suites that are broken in every way known: none of them lets a server start, or an old report stand."""

from __future__ import annotations

import os
import re
import signal
import sys
from dataclasses import dataclass, field

import pytest

from tests.e2e.place import BLOCKED, BROKE, Place, Started
from tests.waiting import deadlines, until

HEAD = """
import pytest, os, signal, time, ctypes
from preflight.contract import unknown

@pytest.mark.critical("First", fix="mend the first")
def test_first():
    "The first holds."

"""
TAIL = """

@pytest.mark.critical("Last", fix="mend the last")
def test_last():
    "The last holds."
"""


def critical(body: str, arguments: str = "", decorators: str = "") -> str:
    """A suite whose middle requirement is this one."""
    middle = f'@pytest.mark.critical("Middle", fix="mend the middle")\n{decorators}'
    return f'{HEAD}{middle}def test_middle({arguments}):\n    "The middle holds."\n    {body}\n{TAIL}'


@dataclass(frozen=True)
class Broken:
    """A suite, the exit code that it must lead to, and what is said about it."""

    suite: str
    code: int
    said: str
    outcome: str = ""
    """Where pytest survives: the middle requirement's outcome. The last one then ran, too."""
    environ: dict[str, str] = field(default_factory=dict)
    deadline: float = 30
    """Of the run, in seconds; more on a machine so busy that the middle requirement has not begun by then."""


STOPPED = re.compile(r'stopped at its deadline of (\S+) s(?: while checking "([^"]*)")?')
TITLE = '@pytest.mark.critical("Middle")\n'
DOC = '    "Holds."\n'
SWALLOW = "while True:\n        try:\n            time.sleep(0.01)\n        except {}:\n            pass"
QUICK = {"PREFLIGHT_REQUIREMENT_TIMEOUT": "1.2", "PREFLIGHT_PORT_GRACE": "0.1"}

SUITES = {
    # Nothing that could be trusted comes out of these.
    "empty": Broken("", 3, "the suite is empty"),
    "unlike a test": Broken(
        f'{HEAD}@pytest.mark.critical("Middle")\ndef middle():\n{DOC}{TAIL}',
        3,
        "test_suite.py::middle, whose name is not that of a requirement (test_*): not collected",
    ),
    "exit at import": Broken("import os; os._exit(0)", 3, "ended without a report (exit code 0)"),
    "sys.exit at import": Broken("import sys; sys.exit(0)", 3, "the suite is empty"),
    "no critical": Broken(
        f'import pytest\n@pytest.mark.warning("W")\ndef test_w():\n{DOC}', 3, "the suite has no critical requirement"
    ),
    "os._exit(0)": Broken(critical("os._exit(0)"), 3, '(exit code 0) while checking "Middle"'),
    "pytest.exit": Broken(
        critical("pytest.exit('enough', returncode=0)"), 3, "3 requirements were collected and 1 ran"
    ),
    "segfault": Broken(critical("ctypes.string_at(0)"), 3, '(SIGSEGV) while checking "Middle"'),
    "interrupted": Broken(critical("raise KeyboardInterrupt"), 3, "pytest ended with exit code 2"),
    "the run's deadline": Broken(
        # A mask keeps every signal away: only the launcher can end this one.
        critical("signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); time.sleep(3600)"),
        3,
        'the suite was stopped at its deadline of {:g} s while checking "Middle"',
        deadline=1,
    ),
    "swallows every exception": Broken(
        critical(SWALLOW.format("BaseException")),
        3,
        'the suite was stopped at its deadline of {:g} s while checking "Middle"',
        environ=QUICK,
        deadline=2,
    ),
    # Here pytest survives: the requirement blocks, and the rest of the suite runs. More of these are asked in one run
    # below (BLOCKING).
    "fails": Broken(critical("assert False, 'found 1, needs 2'"), 1, "found 1, needs 2", "failed"),
}


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("broken", [pytest.param(broken, id=name) for name, broken in SUITES.items()])
def test_broken_suite(project: Place, broken: Broken) -> None:
    """A broken suite refuses the start, says why, and leaves no earlier report standing as the current one."""
    project.write_suite(broken.suite)
    for seconds in deadlines(broken.deadline, 4 * broken.deadline, 16 * broken.deadline):
        environ = {**broken.environ, "PREFLIGHT_RUN_TIMEOUT": str(seconds)}
        started = project.refused("--demo", "--app", "small:app", **environ)
        shown = " ".join(started.stdout.split())
        if not (said := STOPPED.search(shown)) or said[2] == "Middle":
            break
    assert started.process.returncode == broken.code, started.output
    assert broken.said.format(seconds) in shown
    assert (BROKE if broken.code == 3 else f"1 CRITICAL ERROR: {BLOCKED}") in shown
    assert project.report()["status"] == ("broken" if broken.code == 3 else "failed")
    if broken.outcome:
        assert project.check("Middle")["outcome"] == broken.outcome
        assert "Fix: mend the middle" in shown
        assert [project.check(title)["outcome"] for title in ("First", "Last")] == ["passed", "passed"]


UNCOLLECTABLE = {
    "syntax": ("def :", "test_syntax.py: cannot be collected: SyntaxError: invalid syntax (test_syntax.py:1)"),
    "imports": ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
    "severity": (
        '@pytest.mark.critcal("Middle")'.join((HEAD, f"\ndef test_middle():\n{DOC}")),
        "'critcal' not found in `markers` configuration option; a requirement is marked critical or warning",
    ),
}


def test_all_that_cannot_be_collected_at_once(project: Place) -> None:
    """Every file that cannot be imported is named, with the reason, whatever that is."""
    project.write_suite(HEAD + TAIL)
    for name, (source, _said) in UNCOLLECTABLE.items():
        project.write_requirement(name, source)
    started = project.refused("--demo", "--app", "small:app")
    assert started.process.returncode == 3
    shown = " ".join(started.stdout.split())
    assert BROKE in shown
    assert {name: said for name, (_source, said) in UNCOLLECTABLE.items() if said not in shown} == {}, shown
    assert project.report()["status"] == "broken"


FAULTS = (
    HEAD
    + """
@pytest.mark.critical("Two")
@pytest.mark.warning("Two")
def test_two_severities():
    "Holds."

def test_no_severity():
    "Holds."

@pytest.mark.warning("first")
def test_title_of_the_first():
    "Holds."

@pytest.mark.critical("A")
@pytest.mark.critical("A")
def test_severity_twice():
    "Holds."

@pytest.mark.critical
def test_no_title():
    "Holds."

@pytest.mark.critical("B")
def test_no_docstring():
    pass

@pytest.mark.critical("C", needs="luck")
def test_unknown_need():
    "Holds."

@pytest.mark.critical("D", fx="misspelt")
def test_unknown_argument():
    "Holds."

@pytest.mark.critical("F", fix="one thing\\nand another")
def test_two_fixes():
    "Holds."

@pytest.mark.critical("G", scope="galaxy")
def test_scope():
    "Holds."

@pytest.mark.critical("E")
@pytest.mark.parametrize("n", [1, 2])
def test_parametrised(n):
    "Holds."
"""
)


def test_all_faults_at_once(project: Place) -> None:
    """Every requirement that breaks the contract is named, with what is wrong with it, in one go."""
    project.write_suite(FAULTS)
    started = project.refused("--demo", "--app", "small:app")
    assert started.process.returncode == 3
    shown = " ".join(started.stdout.partition("The end of its output")[0].split())
    faults = (
        "test_suite.py::test_two_severities: needs exactly one severity, critical or warning, and has",
        "test_no_severity: needs exactly one severity",
        "test_title_of_the_first has the title 'first', which",
        "test_severity_twice: needs exactly one severity, critical or warning, and has critical and critical",
        "test_no_title: needs a title",
        "test_no_docstring: needs a docstring that states the requirement",
        "test_unknown_need: needs 'luck', which is not one of",
        "test_unknown_argument: its marker has an unknown argument 'fx'",
        "test_scope: its scope is 'galaxy', but must be one of instance, fleet",
        "test_two_fixes: its fix has to be one line of text",
        "test_parametrised[2] has the title 'E', which",
    )
    assert [fault for fault in faults if fault not in shown] == [], shown
    assert BROKE in shown
    assert project.report()["status"] == "broken"


BLOCKING = (
    HEAD
    + """
@pytest.fixture
def bad():
    raise OSError("no such thing")

@pytest.mark.critical("Bare Assertion")
def test_bare():
    "Holds."
    assert 1 == 2

@pytest.mark.critical("Skip Mark")
@pytest.mark.skip(reason="never")
def test_skip():
    "Holds."

@pytest.mark.critical("Skipif Mark")
@pytest.mark.skipif(True, reason="not here")
def test_skipif():
    "Holds."

@pytest.mark.critical("Xfail Call")
def test_xfail():
    "Holds."
    pytest.xfail("known")

@pytest.mark.critical("Exit")
def test_exit():
    "Holds."
    raise SystemExit(0)

@pytest.mark.critical("Missing Fixture")
def test_missing(absent):
    "Holds."

@pytest.mark.critical("Misspelt Fixture")
def test_misspelt(setings):
    "Holds."

@pytest.mark.critical("Broken Fixture")
def test_broken(bad):
    "Holds."

@pytest.fixture
def untidy():
    yield
    raise PermissionError("not tidy")

@pytest.mark.critical("Skip Call")
def test_skipped():
    "Holds."
    pytest.skip("not today")

@pytest.mark.critical("Xfail Mark")
@pytest.mark.xfail
def test_xfail_mark():
    "Holds."
    assert False

@pytest.mark.critical("Xpass")
@pytest.mark.xfail(strict=False)
def test_xpass():
    "Holds."

@pytest.mark.critical("Strict Xpass")
@pytest.mark.xfail(strict=True)
def test_strict_xpass():
    "Holds."

@pytest.mark.critical("Unexpected Exception")
def test_exception():
    "Holds."
    dict()["absent"]

@pytest.mark.critical("Broken Tear-Down")
def test_tear_down(untidy):
    "Holds."
"""
    + TAIL
)


def test_each_that_blocks_lets_the_others_run(project: Place) -> None:
    """Requirements that end in every other way block, each with its own outcome, and none ends the suite."""

    def place(code: str) -> str:
        return f"(test_suite.py:{BLOCKING[: BLOCKING.index(code)].count(chr(10)) + 1})"

    project.write_suite(BLOCKING)
    started = project.refused("--demo", "--app", "small:app")
    assert started.process.returncode == 1
    found = {check["title"]: (check["outcome"], check["message"]) for check in project.report()["checks"]}
    assert found == {
        "First": ("passed", ""),
        "Bare Assertion": ("failed", "does not hold"),
        "Skip Mark": ("skipped", "skipped: never"),
        "Skipif Mark": ("skipped", "skipped: not here"),
        "Xfail Call": ("skipped", "marked as expected to fail, which is not an answer"),
        "Exit": ("error", f"it raised SystemExit: 0 {place('raise SystemExit')}"),
        "Missing Fixture": ("error", "fixture 'absent' not found"),
        "Misspelt Fixture": ("error", "fixture 'setings' not found; did you mean 'settings'?"),
        "Broken Fixture": ("error", f"its set-up raised OSError: no such thing {place('raise OSError')}"),
        "Skip Call": ("skipped", "skipped: not today"),
        "Xfail Mark": ("skipped", "marked as expected to fail, which is not an answer"),
        "Xpass": ("skipped", "marked as expected to fail, which is not an answer"),
        "Strict Xpass": ("skipped", "marked as expected to fail, which is not an answer"),
        "Unexpected Exception": ("error", f"it raised KeyError: 'absent' {place('dict()')}"),
        "Broken Tear-Down": (
            "error",
            f"its tear-down raised PermissionError: not tidy {place('raise PermissionError')}",
        ),
        "Last": ("passed", ""),
    }
    assert f"14 CRITICAL ERRORS: {BLOCKED}" in started.stdout


HANGING = (
    HEAD
    + """
@pytest.fixture
def slow():
    time.sleep(3600)

@pytest.mark.critical("Sleeps")
def test_sleeps():
    "Holds."
    time.sleep(3600)

@pytest.mark.critical("Waits")
def test_waits():
    "Holds."
    import threading
    threading.Event().wait()

@pytest.mark.critical("Swallows")
def test_swallows():
    "Holds."
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            pass

@pytest.mark.critical("Slow Fixture")
def test_fixture(slow):
    "Holds."
"""
    + TAIL
)


def test_hanging(project: Place) -> None:
    """What hangs is interrupted at its own deadline, wherever it hangs, and the rest of the suite runs."""
    project.write_suite(HANGING)
    for seconds in deadlines(1.2, 6.0, 30.0):
        environ = QUICK | {"PREFLIGHT_REQUIREMENT_TIMEOUT": f"{seconds}s", "PREFLIGHT_RUN_TIMEOUT": "600s"}
        started = project.refused("--demo", "--app", "small:app", **environ)
        if project.check("Last")["outcome"] != "timeout":  # else on a machine that was busy with something else
            break
    assert started.process.returncode == 1
    for title in ("Sleeps", "Waits", "Swallows", "Slow Fixture"):
        check = project.check(title)
        assert (check["outcome"], check["message"]) == ("timeout", f"ran past its deadline of {seconds:g} s")
        assert check["duration"] >= seconds - 0.01
    assert project.check("Last")["outcome"] == "passed"


HANGING_WARNINGS = (
    HEAD
    + "".join(
        f"""
@pytest.mark.warning("Hanging {number}")
def test_hanging_{number}():
    "Holds."
    time.sleep(3600)
"""
        for number in range(5)
    )
    + TAIL
)


def test_hanging_warnings(project: Place) -> None:
    """However many warnings hang, they leave time to what is critical and block nothing."""
    project.write_suite(HANGING_WARNINGS)
    for seconds in deadlines(5, 20, 80):
        # One alone might take all of it.
        times = {"PREFLIGHT_RUN_TIMEOUT": str(seconds), "PREFLIGHT_REQUIREMENT_TIMEOUT": "600"}
        checked = project.run("--check-only", "--demo", "--app", "small:app", **times)
        if not STOPPED.search(checked.output):  # a busy machine has no time left for what is critical
            break
    assert checked.process.returncode == 0, checked.output
    found = [project.check(f"Hanging {number}") for number in range(5)]
    assert {check["outcome"] for check in found} == {"timeout"}
    assert {check["message"] for check in found} == {
        f"ran past the {0.8 * seconds:g} s of the run in which warnings are checked"
    }
    assert project.check("Last")["outcome"] == "passed"


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    "where, source",
    [
        ("conftest.py", "raise RuntimeError('broken conftest')"),
        ("conftest.py", "def :"),
        ("conftest.py", "import os; os._exit(0)"),
        ("conftest.py", ""),
        ("preflight/requirements/conftest.py", "raise RuntimeError('broken conftest')"),
    ],
    ids=["raises", "syntax", "exits", "empty", "requirements"],
)
def test_broken_conftest(project: Place, where: str, source: str) -> None:
    """A conftest.py that cannot be imported, or that is not ours, is no report, and no report is no start."""
    (project.root / where).write_text(source)
    started = project.refused("--demo", "--app", "small:app")
    assert started.process.returncode == 3
    assert BROKE in started.stdout
    assert project.report()["reason"]


def test_broken_plugin(project: Place) -> None:
    """A plugin that the settings ask for and that cannot be loaded breaks the suite."""
    project.write_suite(HEAD + TAIL)
    started = project.refused("--demo", "--app", "small:app", PREFLIGHT_PLUGINS="nowhere_to_be_found")
    assert started.process.returncode == 3


@pytest.mark.parametrize(
    "source",
    [
        "def pytest_collection_modifyitems(items):\n    del items[1:]\n",
        "def pytest_runtest_protocol(item):\n    return True if 'middle' in item.nodeid else None\n",
        "def pytest_sessionfinish(session):\n    session.exitstatus = 0\n",
    ],
    ids=["fewer collected", "one not run", "exit code 0"],
)
def test_meddling_conftest(project: Place, source: str) -> None:
    """Requirements that disappear on the way, or an exit code that was made up, are no way to a green verdict."""
    project.write_suite(critical("assert False, 'not good'"))
    (project.root / "preflight" / "requirements" / "conftest.py").write_text(source)
    project.refused("--demo", "--app", "small:app")


def test_addopts_are_left_out(place: Place) -> None:
    """What PYTEST_ADDOPTS and PYTEST_PLUGINS would do to the suite does not happen: a blocked start stays blocked."""
    addopts = "-x -k nothing -m warning --collect-only --version"
    place.environ |= {"PYTEST_ADDOPTS": addopts, "PYTEST_PLUGINS": "nowhere_to_be_found"}
    started = place.refused("--offline", "--app", "small:app", PREFLIGHT_PYTHON=">=3.99")
    assert started.process.returncode == 1
    titles = {check["title"] for check in place.report()["checks"]}
    assert titles >= {"Python Version", "Memory", "Application", "Server Port"}  # none of the kinds was left out
    assert f"2 CRITICAL ERRORS: {BLOCKED}" in started.stdout


def test_part_of_a_suite(project: Place) -> None:
    """Options that drop requirements, written into pytest.ini, make a partial run, which lets nothing start."""
    ini = project.root / "pytest.ini"
    ini.write_text(ini.read_text().replace("addopts = ", "addopts = -k python "))
    started = project.refused("--demo", "--app", "small:app")
    assert started.process.returncode == 3
    assert "only a part of the suite ran (python)" in started.stdout


@pytest.mark.parametrize("asked", [False, True], ids=["state folder", "--report"])
def test_report_that_cannot_be_written(place: Place, asked: bool) -> None:
    """Where the report cannot be written nothing is started and nothing stopped."""
    holder = place.listener()
    occupied = place.folder / "occupied" / "report.json"
    occupied.mkdir(parents=True)
    if asked:
        started = place.run("--demo", "--app", "small:app", "--report", str(occupied))
        assert started.process.returncode == 3
        assert "THE REPORT CANNOT BE WRITTEN: nothing was started" in started.stdout
        assert f"{occupied}:Isadirectory" in "".join(started.stdout.split())
    else:
        started = place.run("--demo", "--app", "small:app", PREFLIGHT_STATE_DIR=str(occupied.parent))
        assert started.process.returncode == 1
        assert "State Folder" in started.stdout.partition(BLOCKED)[2]
        assert "is a folder, but the report must be a file there" in " ".join(started.stdout.split())
    assert "SIGTERM" not in started.output
    assert "Traceback" not in started.output
    assert holder.process.poll() is None


def test_old_report_in_the_place_asked_for(project: Place) -> None:
    """--report PATH: an old good report there does not survive a suite that breaks."""
    path = project.folder / "ci" / "report.json"
    project.plant_report(path)
    project.write_suite("import os; os._exit(0)")
    project.refused("--demo", "--app", "small:app", "--report", str(path))
    assert '"run_id": "old"' not in path.read_text()
    assert '"may_start": false' in path.read_text()


def test_killed_from_outside(project: Place) -> None:
    """A suite whose process somebody kills while it runs refuses the start."""
    project.write_suite(critical("time.sleep(3600)"))
    project.plant_report()
    marker = project.folder / "pid"
    suite = project.root / "preflight" / "requirements" / "test_suite.py"
    new = f"{marker}.new"
    write = f"open({new!r}, 'w').write(str(os.getpid())); os.rename({new!r}, {str(marker)!r})"
    suite.write_text(suite.read_text().replace("time.sleep", f"{write}; time.sleep"))
    started = project.start("--demo", "--app", "small:app")
    until(marker.exists, "the requirement runs")
    os.kill(int(marker.read_text()), signal.SIGKILL)
    assert started.wait() == 3
    assert '(SIGKILL) while checking "Middle"' in " ".join(started.stdout.split())
    assert project.report()["status"] == "broken"
    started.left_nothing()


def test_left_over_processes_end_with_the_suite(project: Place) -> None:
    """What a requirement started and forgot does not outlive the run, even while it holds the suite's output."""
    source = f"import subprocess; subprocess.Popen([{sys.executable!r}, '-c', 'import time; time.sleep(3600)'])"
    project.write_suite(critical(f"{source}; assert False, 'no'"))
    started: Started = project.refused("--demo", "--app", "small:app")
    assert started.process.returncode == 1
