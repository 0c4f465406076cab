"""Banners: what a person reads, on every kind of terminal, and can copy."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from preflight import banners
from preflight.log import Log
from preflight.redaction import Redactor
from preflight.report import OUTCOMES, Check, Report
from preflight.terminal import Terminal

MakeCheck = Callable[..., Check]
MakeReport = Callable[..., Report]

FIX = "/very/long/path/to/.venv/bin/python -m pip install " + " ".join(
    f"'package-{n}>={n}.0,<{n + 1}'" for n in range(30)
)


def text(what: RenderableType, width: int = 100) -> str:
    """What is shown, as the launcher shows it in a pipe."""
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        Terminal(Log(Redactor()), stream).show(what)
    return stream.getvalue()


@pytest.fixture
def mixed(make_check: MakeCheck, make_report: MakeReport) -> Report:
    """Something of everything."""
    return make_report(
        make_check("Disk Space", severity="warning", message="70 GiB free"),
        make_check("Python Version", "failed", message="requires Python >=3.13.8, found 3.11.7", fix=FIX),
        make_check(
            "OpenAI API", "unknown", severity="warning", message="api: connection refused", fix="check the network"
        ),
        make_check("OpenAI API Key", "ignored", message="ignored by --ignore: it is not set"),
        make_check("Environment File", "not_applicable", message="left out by --demo"),
        make_check("Memory", "failed", severity="warning", message="1 GiB available", details={"available": 17}),
        make_check("State Folder", "timeout", message="ran past its deadline of 10 s"),
    )


def test_render(mixed: Report) -> None:
    """What holds in one line each, then warnings, then what blocks with message and fix, then the count."""
    shown = text(banners.render(mixed))
    lines = [line.strip() for line in shown.splitlines()]
    assert "✅ Disk Space       70 GiB free" in lines
    assert any("⏭️" in line and "left out by --demo" in line for line in lines)
    order = ["Disk Space", "3 WARNINGS", "OpenAI API", "OpenAI API Key", "Memory"]
    order += [
        "2 CRITICAL ERRORS: must fix before proceeding",
        "Python Version",
        f"Fix: {FIX}",
        "State Folder (timeout)",
    ]
    places = [shown.index(part) for part in order]
    assert places == sorted(places)
    assert "requires Python >=3.13.8, found 3.11.7" in lines
    assert "❔ OpenAI API (unknown)" in lines
    assert "⚠️ OpenAI API Key (ignored)" in lines
    assert "⚠️ Memory" in lines
    assert "❌ Python Version" in lines
    assert (
        lines[-1] == "7 requirements: 1 passed, 2 failed, 1 timeout, 1 unknown, 1 not applicable, 1 ignored, in 0.25 s"
    )


def test_all_passed(make_report: MakeReport) -> None:
    """A good run is short: no banner, one line a check, and the count."""
    shown = text(banners.render(make_report()))
    assert shown == "✅ Python Version\n1 requirement: 1 passed, in 0.25 s\n"


def test_singular(make_check: MakeCheck, make_report: MakeReport) -> None:
    """One error is not "1 ERRORS"."""
    shown = text(
        banners.render(make_report(make_check(outcome="failed"), make_check("W", "failed", severity="warning")))
    )
    assert "1 CRITICAL ERROR: must fix" in shown
    assert "1 WARNING\n" in shown


def test_verbose(mixed: Report) -> None:
    """With -v come the requirement, its details and the time it took."""
    shown = text(banners.render(mixed, verbose=True))
    assert "available: 17" in shown
    assert "Disk Space is as it should be." in shown
    assert shown.count("took 0.0 ms") == 7
    assert "available: 17" not in text(banners.render(mixed))


@pytest.mark.parametrize("width", [10, 20, 40, 79, 80, 200])
def test_widths(mixed: Report, width: int) -> None:
    """At every width everything is there, nothing but a fix is wider than the terminal, and no fix is cut."""
    shown = text(banners.render(mixed, plain=True, verbose=True), width)
    fixes = [line for line in shown.splitlines() if "Fix: " in line]
    assert [line.strip() for line in fixes] == ["Fix: check the network", f"Fix: {FIX}"]
    assert all(cell_len(line) <= width for line in shown.splitlines() if line not in fixes)
    squeezed = "".join(shown.split())
    for part in (
        "requires Python >=3.13.8, found 3.11.7",
        "3 WARNINGS",
        "2 CRITICAL ERRORS",
        "State Folder",
        "70 GiB free",
    ):
        assert part.replace(" ", "") in squeezed


def test_fix_is_one_line_on_a_terminal(make_check: MakeCheck) -> None:
    """A fix is folded by the terminal alone: copied, it is one command and not several."""
    stream = io.StringIO()
    console = Console(file=stream, width=40, force_terminal=True, color_system="truecolor", emoji=False, markup=False)
    console.print(
        banners.banner("t", "red", [make_check(outcome="failed", fix=FIX)], plain=True, verbose=False), crop=False
    )
    assert FIX in stream.getvalue()


def test_markup_is_text(make_check: MakeCheck) -> None:
    """Square brackets and emoji names in a message are shown as they are."""
    check = make_check(
        "[bold]T[/bold]", "failed", message="[red]x[/red] :boom: [/]", fix="pip install 'uvicorn[standard]'"
    )
    shown = text(banners.banner("[b]title[/b]", "red", [check], plain=False, verbose=True))
    for part in ("[bold]T[/bold]", "[red]x[/red] :boom: [/]", "'uvicorn[standard]'", "[b]title[/b]"):
        assert part in shown


def test_plain_is_ascii(mixed: Report) -> None:
    """For a terminal without emoji every sign is a word, and all that is ours is ASCII."""
    for what in (
        banners.render(mixed, plain=True, verbose=True),
        banners.broken("why", ["line"], plain=True),
        banners.failure("title", ["line"], plain=True),
        banners.ready([("Server", "http://127.0.0.1:8002")], plain=True),
    ):
        text(what).encode("ascii")
    shown = text(banners.render(mixed, plain=True))
    for sign in ("[ok]", "[n/a]", "[FAILED] Python Version", "[TIMEOUT]", "[warning] Memory", "[unknown]", "[ignored]"):
        assert sign in shown


@pytest.mark.parametrize("severity", ["critical", "warning"])
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_signs(make_check: MakeCheck, severity: str, outcome: str) -> None:
    """Red is for what blocks and for nothing else, green for what passed."""
    check = make_check(outcome=outcome, severity=severity)
    _, style = banners.sign(check, plain=False)
    word, same = banners.sign(check, plain=True)
    assert style == same
    assert (style == "red") == check.blocks
    assert (style == "yellow") == check.warns
    assert (style == "green") == (outcome == "passed")
    assert word.isascii()


@pytest.mark.parametrize(
    "encoding,term,plain",
    [
        ("utf-8", "xterm", False), ("utf-8", "", False), ("ascii", "xterm", True), ("latin-1", "xterm", True),
        ("utf-8", "linux", True), ("utf-8", "dumb", True), ("cp1252", "xterm", True),
    ],
)  # fmt: skip
def test_when_plain(monkeypatch: pytest.MonkeyPatch, encoding: str, term: str, plain: bool) -> None:
    """Encodings without emoji, and the kernel's own console, get words."""
    monkeypatch.setenv("TERM", term)
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert banners.plain(Console(file=stream)) == plain


def test_ready() -> None:
    """The green banner has the addresses, each where it can be copied."""
    shown = text(banners.ready([("Server", "http://127.0.0.1:8002"), ("WebSocket", "ws://127.0.0.1:8002/ws/chat")]))
    assert "✅ SERVER READY!" in shown
    assert "Server     http://127.0.0.1:8002\n" in shown
    assert "WebSocket  ws://127.0.0.1:8002/ws/chat\n" in shown


def test_broken() -> None:
    """A run without a report says so, why, and shows the end of the output."""
    shown = text(banners.broken("the suite was killed", ["first", "[last]"]))
    assert "❌ THE PREFLIGHT ITSELF BROKE: nothing was started" in shown
    assert "the suite was killed\nThe end of its output:" in shown
    assert "   [last]" in shown
    assert "output" not in text(banners.broken("why"))
    beside = text(banners.broken("why", beside_a_server=True))
    assert "THE PREFLIGHT ITSELF BROKE: the verdict before it stays" in beside


def test_failure() -> None:
    """What is no check's failure looks like one."""
    shown = text(banners.failure("THE SERVER DID NOT START", ["one", "two"]))
    assert "❌ THE SERVER DID NOT START" in shown
    assert "one" in shown
    assert "two" in shown


def test_nothing_ran(make_report: MakeReport) -> None:
    """The count of a run without checks says so."""
    from dataclasses import replace

    assert banners.count(replace(make_report(), checks=())) == "0 requirements: none ran, in 0.25 s"
