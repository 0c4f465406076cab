"""Banners: what a person reads, on every kind of terminal, and can copy."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from preflight.output.log import Log
from preflight.output.terminal import Terminal
from preflight.redaction.redactor import Redactor
from preflight.report import banners
from preflight.report.model import OUTCOMES, Check, Report

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
    order = ["Disk Space", "2 WARNINGS", "OpenAI API Key", "Memory", "1 not checked:", "OpenAI API: api"]
    order += [
        "2 CRITICAL ERRORS: must fix before proceeding",
        "Python Version",
        f"Fix: {FIX}",
        "State Folder (timeout)",
    ]
    places = [shown.index(part) for part in order]
    assert places == sorted(places)
    assert "requires Python >=3.13.8, found 3.11.7" in lines
    assert "❔ OpenAI API: api: connection refused" in lines
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
    """At every width everything is there, nothing but a command is wider than the terminal, and none is cut."""
    shown = text(banners.render(mixed, plain=True, verbose=True), width)
    commands = [line for line in shown.splitlines() if "package-" in line]
    assert [line.strip() for line in commands] == [f"Fix: {FIX}"]
    assert all(cell_len(line) <= max(width, 17) for line in shown.splitlines() if line not in commands)
    squeezed = "".join(shown.split())
    for part in (
        "requires Python >=3.13.8, found 3.11.7",
        "2 WARNINGS",
        "1 not checked:",
        "Fix: check the network",
        "2 CRITICAL ERRORS",
        "State Folder",
        "70 GiB free",
    ):
        assert part.replace(" ", "") in squeezed


PROSE = "the start is blocked by Environment File, OpenAI API Key, Python Version, and nothing was stopped"


@pytest.fixture
def wordy(make_check: MakeCheck, make_report: MakeReport) -> Report:
    """Texts of which none fits into a line of 80 columns."""
    return make_report(
        make_check("Environment File Permissions", message=PROSE),
        make_check("Notifications", "not_applicable", message=PROSE),
        make_check("Memory", "failed", severity="warning", message=PROSE, fix=f"wait, or see whether {PROSE}"),
        make_check("Disk Space", "unknown", severity="warning", message=PROSE, fix=f"check whether {PROSE}"),
        make_check("Key", "failed", message=PROSE, fix=f"{FIX}  # {PROSE}"),
    )


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_words_stay_whole_and_lines_go_on_under_the_text(wordy: Report, width: int, plain: bool) -> None:
    """A line that goes on begins under the text above it, never under the sign, and ends with a whole word."""
    shown = text(banners.render(wordy, plain=plain), width)
    signs = ("✅", "⏭️", "⚠️", "❌", "❔", "[", "─", "---", "5 requirements:", "1 not checked:")
    rows = [line for line in shown.splitlines() if not line.lstrip().startswith(signs)]
    rows = [line for line in rows if "WARNING" not in line and "CRITICAL" not in line and line.strip() != "proceeding"]
    assert len(rows) > 9
    assert [line for line in rows if not line.startswith("  ")] == []
    whole = " ".join(shown.replace("# ", "").split())
    assert whole.count(PROSE) == 5 + 3, "five messages, two sentences to mend by, and what is said about a command"
    assert shown.count("Environment File Permissions") == 1


def test_no_column_of_names_where_it_would_take_half_of_the_line(wordy: Report) -> None:
    """At 40 columns a message follows its title; at 100 the messages stand below each other."""
    narrow, wide = (text(banners.render(wordy), width).splitlines() for width in (40, 100))
    assert "✅ Environment File Permissions: the" in narrow
    assert "⏭️ Notifications: the start is blocked" in narrow
    first = next(line for line in wide if "Permissions" in line)
    second = next(line for line in wide if "Notifications" in line)
    assert cell_len(first.partition("the start")[0]) == cell_len(second.partition("the start")[0])


def test_a_real_problem_stands_before_what_was_not_tried(make_check: MakeCheck, make_report: MakeReport) -> None:
    """Only what is wrong is counted as a warning; what the same thing has kept from being asked is said once."""
    why = "not tried, and nothing was stopped: the start is blocked by Key"
    report = make_report(
        *(make_check(f"Service {n}", "unknown", severity="warning", message=why) for n in range(4)),
        make_check("Memory", "failed", severity="warning", message="1 GiB available"),
        make_check("Server Port", "unknown", message=why),
        make_check("Key", "failed", message="it is not set"),
    )
    shown = text(banners.render(report), 200)
    assert "1 WARNING\n" in shown
    assert shown.splitlines()[1] == "⚠️ Memory", "nothing stands before it"
    assert "5 not checked:" in shown
    assert shown.count(why) == 1
    assert f"❔ Service 0, Service 1, Service 2, Service 3, Server Port: {why}" in shown
    assert text(banners.render(report, verbose=True), 200).count(why) == 5, "with its details each stands for itself"


@pytest.mark.parametrize(
    "fix, sentence",
    [
        ("python run.py --init", False), ("kill 1; kill 2", False), ("export A='one or two'", False),
        ("uv python install 3.13  # and make the virtual environment with it", False),
        ("for f in *; do rm $f; done", False), ("cd x && for f in *; do rm $f; done", False),
        ("sudo apt-get install at || sudo yum install at", False), ("scp model.bin host:", False),
        ("if test -d x; then rmdir x; fi", False), ("printf '%s, ' a, b | sort > to", False),
        ("(cd model && make all)", False), ("case x in x) exit; esac", False),
        ("make model", False), ("'/a b/python' -m pip install x", False),
        ("set OPENAI_API_KEY in /home/dev/.env", True), ("check the network", True), ("wait, or stop it", True),
        ("resume it if it is suspended (kill -CONT 1), end it (kill 1), or use --if-running replace", True),
        ("correct /etc/x: only lines of NAME=value belong there", True), ("don't", True),
        ("start it; if that fails, ask", True), ("say where: in the file, or the environment", True),
        ("fill in what is missing, and restart", True), ("see (man 5 limits.conf)", True),
        ("make room on the disk of /var", True),
    ],
)  # fmt: skip
def test_sentences_and_commands(fix: str, sentence: bool) -> None:
    """A sentence is for reading, and may be wrapped; what may be pasted may not."""
    assert banners.is_sentence(fix) == sentence


@pytest.mark.slow
def test_what_is_said_about_a_command_is_a_comment_on_every_line(make_check: MakeCheck) -> None:
    """Copied with all of its lines, a fix is one command and comments: a shell prints what it is to print, once."""
    fix = f"printf '%s\\n' {' '.join(f'word{n}' for n in range(20))}  # {PROSE}"
    shown = text(banners.banner("t", "red", [make_check(outcome="failed", fix=fix)], plain=True, verbose=False), 40)
    copied = shown.partition("Fix: ")[2].rpartition("\n---")[0]
    done = subprocess.run(["bash"], input=copied, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == [f"word{n}" for n in range(20)]
    assert done.stderr == ""
    comments = [line.strip() for line in copied.splitlines()[1:]]
    assert " ".join(line.removeprefix("# ") for line in comments) == PROSE
    assert all(line.startswith("# ") for line in comments)


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


@pytest.mark.parametrize("width, height", [(40, 60), (80, 30), (80, 16), (120, 50)])
def test_what_is_shown_in_place(wordy: Report, width: int, height: int) -> None:
    """With --watch no line is wider and nothing longer than the screen; what blocks is there with all of its fix."""
    console = Console(file=io.StringIO(), width=width, height=height, emoji=False, markup=False)
    changes = [f"03:04:0{n} UTC Memory: passed -> failed ({PROSE})" for n in range(2)]
    screen = banners.Watched(wordy, changes, "127.0.0.1:8002 · 03:04:05 UTC · every 5 s", height=height)
    with console.capture() as captured:
        console.print(screen)
    lines = captured.get().splitlines()
    assert [line for line in lines if cell_len(line) > width] == []
    assert len(lines) < max(height, 30), "what blocks is shown whole, however little room there is"
    assert "".join(FIX.split()) in "".join("".join(lines).split())
    assert lines[-1].startswith("03:04:01 UTC Memory")
    assert lines[-3].startswith("5 requirements:")
    order = [
        next(n for n, line in enumerate(lines) if sign in line) for sign in ("❌ Key", "⚠️ Memory", "❔ Disk Space")
    ]
    assert order == sorted(order)


def test_ready() -> None:
    """The green banner has the addresses, each where it can be copied."""
    shown = text(banners.ready([("Server", "http://127.0.0.1:8002"), ("WebSocket", "ws://127.0.0.1:8002/ws/chat")]))
    assert "✅ SERVER READY!" in shown
    assert "Server     http://127.0.0.1:8002\n" in shown
    assert "WebSocket  ws://127.0.0.1:8002/ws/chat\n" in shown


def test_ready_on_a_narrow_terminal() -> None:
    """An address is one line, to be copied: where there is no room beside its name, it stands below."""
    addresses = [("Server", "http://127.0.0.1:8002"), ("Diagnostics", "http://127.0.0.1:8002/diagnostics")]
    shown = text(banners.ready(addresses), 40)
    assert "Server\n  http://127.0.0.1:8002\nDiagnostics\n  http://127.0.0.1:8002/diagnostics\n" in shown
    assert "Diagnostics  http://127.0.0.1:8002/diagnostics\n" in text(banners.ready(addresses), 80)


def test_failure_on_a_narrow_terminal() -> None:
    """Prose is wrapped between words, its fix too; a command stays whole."""
    shown = text(banners.failure("ALREADY RUNNING", [PROSE, "Fix: stop it, or start with --if-running replace"]), 40)
    assert "\n  File, OpenAI API Key, Python Version,\n" in shown
    assert "Fix: stop it, or start with --if-running\n     replace\n" in shown
    assert f"\nFix: {FIX}\n" in text(banners.failure("t", [f"Fix: {FIX}"]), 40)


def test_broken() -> None:
    """A run without a report says so, why, and shows the end of the output."""
    shown = text(banners.broken("the suite was killed", ["first", "[last]"]))
    assert "❌ THE CHECK SUITE ITSELF FAILED: nothing was started" in shown
    assert "the suite was killed\nThe end of its output:" in shown
    assert "   [last]" in shown
    assert "output" not in text(banners.broken("why"))
    beside = text(banners.broken("why", beside_a_server=True))
    assert "THE CHECK SUITE ITSELF FAILED: the previous verdict stays" in beside


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
