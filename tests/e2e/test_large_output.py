"""What is much too large is cut: messages, details and output of 5 MB, a thousand requirements, lines without end."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from pathlib import Path

import jsonschema
import psutil
import pytest

from preflight.report import model as report
from tests.e2e.place import KEYS, Place, Started, get
from tests.waiting import until

HUGE = 5_000_000
KEY = KEYS["OPENAI_API_KEY"]
MOST_TIME = 120.0  # seconds, on a busy machine; alone it takes about ten
MOST_MEMORY = 250 * 1024**2  # bytes of any process of the run: its largest resident size

SUITE = """
import os, pathlib, pytest, resource, sys, warnings

@pytest.fixture(autouse=True)
def size(request):
    "How large this process was at most, before each of them: what the one before it has taken."
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    with pathlib.Path(os.environ["SIZES"]).open("a") as file:
        file.write(f"{size} MiB before {request.node.name}\\n")

@pytest.mark.critical("First")
def test_first():
    "The first holds."

"""
ONE = """
@pytest.mark.critical("Huge {way}", fix="mend it")
def test_huge_{number}({arguments}):
    "The huge one holds."
    {body}

"""
LAST = """
@pytest.mark.critical("Last")
def test_last():
    "The last holds."
"""

# How 5 MB can come out of a requirement.
WAYS = {
    "one line": ("", "pytest.fail('x' * {size})"),
    "detail": ("details", "details['found'] = 'x' * {size}; assert False, 'no'"),
    "captured": ("", "print('x' * {size}); print('line\\n' * ({size} // 5), file=sys.stderr); assert False, 'no'"),
    "many lines": ("", "raise AssertionError('line\\n' * ({size} // 5))"),
    "blank lines": ("", "raise AssertionError('\\n' * {size} + 'text')"),
    "secrets": ("", "raise AssertionError((os.environ['SHOWN_KEY'] + ' ') * ({size} // 40))"),
    "comparison": ("", "assert 'x' * {size} == 'x'"),
    "error": ("", "raise OSError(5, 'x' * {size})"),
    "skipped": ("", "pytest.skip('x' * {size})"),
    "fix and summary": ("details", "details.fix = details.summary = 'x' * {size}; assert False, 'no'"),
    "many details": ("details", "details.update({{str(n): [n] for n in range({size} // 100)}}); assert False, 'no'"),
    "deep details": (
        "details",
        "details['deep'] = deep = []\n    for _ in range(99_999): deep.append([]); deep = deep[0]\n    assert False",
    ),
    "circular details": ("details", "details['self'] = details; assert False, 'no'"),
    "details that are no JSON": (
        "details",
        "details['set'] = set(map(str, range({size} // 100))); details['number'] = 10**5000; assert False, 'no'",
    ),
    "not captured": ("capfd", "with capfd.disabled(): print('x' * {size}); assert False, 'no'"),
    "log": ("", "import logging; logging.error('x' * {size}); assert False, 'no'"),
    "warning": ("", "warnings.warn('x' * {size}); assert False, 'no'"),
    "property": ("record_property", "record_property('x', 'x' * {size}); assert False, 'no'"),
    "tear-down": ("request", "request.addfinalizer(lambda: pytest.fail('x' * {size}))"),
}


def suite(*ways: str) -> str:
    """A requirement for each of these ways."""
    ones = (
        ONE.format(way=way, number=number, arguments=WAYS[way][0], body=WAYS[way][1].format(size=HUGE))
        for number, way in enumerate(ways)
    )
    return SUITE + "".join(ones) + LAST


def largest(started: Started, run: float = MOST_TIME) -> float:
    """Wait for its end; the largest resident size, in bytes, that any of its processes had."""
    most = 0
    end = time.monotonic() + run
    while started.process.poll() is None:
        assert time.monotonic() < end, f"it takes longer than {run:g} s"
        for pid in (started.pid, *started.family()):
            with contextlib.suppress(psutil.Error, OSError):
                most = max(most, peak(pid))
        time.sleep(0.1)
    started.wait()
    return most


def peak(pid: int) -> int:
    """The largest resident size that a process has had; what it has now where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return int(psutil.Process(pid).memory_info().rss)
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0


def sound(place: Place) -> str:
    """The text of the report, which must keep to the schema, be small, and be there alone."""
    text = place.report_file.read_text()
    jsonschema.validate(json.loads(text), json.loads(report.SCHEMA_FILE.read_text()))
    assert len(text) < 500_000
    assert KEY[:9] not in text
    assert [file.name for file in place.state.iterdir() if file.name.startswith(".report")] == []
    outcomes = [place.check(title)["outcome"] for title in ("First", "Last")]
    assert outcomes == ["passed", "passed"]
    return text


@pytest.mark.usefixtures("unmeasured")
def test_huge(project: Place) -> None:
    """5 MB that a requirement brings up in whatever way leave a report that is valid, small and quick."""
    project.write_suite(suite(*WAYS))
    sizes = project.folder / "sizes"
    environ = {"SHOWN_KEY": KEY, "SIZES": str(sizes), "PREFLIGHT_RUN_TIMEOUT": "100"}
    started = project.start("--check-only", "--demo", "--app", "small:app", **environ)
    memory = largest(started)
    assert started.process.returncode == 1, started.output[:5000]
    assert len(started.output) < 500_000
    assert KEY[:9] not in started.output
    sound(project)
    checks = {way: project.check(f"Huge {way}") for way in WAYS}
    outcomes = {way: check["outcome"] for way, check in checks.items()}
    assert {way for way, outcome in outcomes.items() if outcome not in ("failed", "error", "skipped")} == set()
    assert {way for way, check in checks.items() if len(check["message"]) > report.LONGEST_MESSAGE + 2} == set()
    assert {way for way, check in checks.items() if len(json.dumps(check)) > 30_000} == set()
    for way in ("detail", "many details", "deep details", "circular details"):
        assert "left_out" in checks[way]["details"], way
    assert memory < MOST_MEMORY, f"{memory / 1024**2:.0f} MiB\n{sizes.read_text()}"


@pytest.mark.usefixtures("unmeasured")
def test_huge_with_plain_pytest(project: Place) -> None:
    """The same without the launcher, and with the ways that pytest itself has to show things."""
    project.write_suite(suite("one line", "many lines", "comparison", "detail", "captured", "warning", "property"))
    sizes = project.folder / "sizes"
    command = [sys.executable, "-m", "pytest", "preflight", "--demo", "--port", str(project.port)]
    environ = {"PREFLIGHT_APP": "small:app", "SHOWN_KEY": KEY, "SIZES": str(sizes)}
    started = project.spawn(*command, environ=environ)
    memory = largest(started)
    assert started.process.returncode == 1, started.output[:5000]
    assert len(started.output) < 200_000
    sound(project)
    assert memory < MOST_MEMORY, f"{memory / 1024**2:.0f} MiB\n{sizes.read_text()}"


@pytest.mark.slow
@pytest.mark.usefixtures("unmeasured")
def test_a_thousand_requirements(project: Place) -> None:
    """The report of a thousand requirements, each of which says as much as it can, has less than 2 MB."""
    project.write_suite(
        "import pytest\n"
        + "".join(
            f'@pytest.mark.critical("Requirement {number}", fix="{"mend " * 100}")\ndef test_{number}(details):\n'
            f'    "Requirement {number} holds."\n    details["found"] = "x" * 15_000\n    pytest.fail("x" * 5_000)\n\n'
            for number in range(1000)
        )
    )
    started = project.start("--check-only", "--demo", "--app", "small:app", PREFLIGHT_RUN_TIMEOUT="120")
    assert largest(started) < 3 * MOST_MEMORY
    assert started.process.returncode == 1, started.output[:5000]
    assert len(project.report()["checks"]) == 1000
    assert project.report_file.stat().st_size < 2_000_000
    assert report.load(project.report_file).status == "failed"


@pytest.mark.usefixtures("unmeasured")
def test_long_title(project: Place) -> None:
    """A title stands in banners, messages and addresses: a very long one breaks the suite, with a reason."""
    project.write_suite(f'import pytest\n@pytest.mark.critical("{"x" * 1000}")\ndef test_long():\n    "Holds."\n')
    started = project.refused("--demo", "--app", "small:app")
    assert started.process.returncode == 3
    assert "its title has 1000 characters, and 200 are allowed" in started.output


# Lines without end.

PRINTS = """
import asyncio, os, sys
key = os.environ["SHOWN_KEY"]

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    said = b"said"
    if scope["path"] == "/line":
        for _ in range(10_000):
            os.write(1, b"x" * 10_000)
        os.write(1, b" the end of it\\n")
        print("the next line")
    if scope["path"] == "/cut":
        for offset in range(0, 60, 3):
            print("y" * (65536 - 60 + offset) + key + "z" * 100_000)
            print("y" * (196608 - 60 + offset) + key + "z" * 100_000)
    if scope["path"] == "/crash":
        for _ in range(100):
            print("z" * 300_000)
        os._exit(7)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said})
"""


def test_lines_without_end(place: Place) -> None:
    """A line of 100 MB is cut where it is shown; the launcher's memory does not grow, and no half key is shown."""
    place.write_module("prints", PRINTS)
    started = place.start("--demo", "--app", "prints:app", "--no-supervise", SHOWN_KEY=KEY).until_ready()
    before = psutil.Process(started.pid).memory_info().rss
    assert get(f"{place.url}/line") == (200, "said")
    started.until_says("the next line")
    assert "the end of it" not in started.stderr
    assert 60_000 < len(started.stderr) < 70_000
    assert get(f"{place.url}/cut") == (200, "said")
    until(lambda: started.stderr.count("\n") >= 42, "all lines are there")
    shown = [line for line in started.stderr.splitlines() if line.startswith("y")]
    assert len(shown) == 40
    for line in shown:
        assert re.fullmatch(r"y+(\[redacted\]z*|\[[a-z]*)? …", line), line[-100:]
    assert psutil.Process(started.pid).memory_info().rss - before < 20 * 1024**2
    try:
        get(f"{place.url}/crash")
    except OSError:
        pass
    assert started.wait() == 4
    assert "THE SERVER ENDED" in started.stdout
    assert len(started.stdout) < 100_000
