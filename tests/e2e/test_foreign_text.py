"""What a stranger's process calls itself never leaves here as it is, on whichever way it is shown.

A real listener has a name and arguments with everything in them that a terminal obeys or nobody sees; each test is a
channel that could pass it on.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from typing import Any

import pytest

from preflight.report import formats
from preflight.report import model as report
from tests.e2e import chatting
from tests.e2e.doubles import STRANGER
from tests.e2e.place import Place, Started, get
from tests.portnumbers import unused_port

NAME = "\x1b[2J\n\u202e\x9b\u200bd\u00ad"  # 15 bytes: what the kernel keeps
FORGED = "SERVER FORGED!"
ARGUMENTS = (
    f"one\n{FORGED}\r\n\u2028{FORGED}\x85{FORGED}",
    "\x1b]0;title\x07\x1b[31;1mred\x9b2Jgone\x7f\x08",
    "\u202aa\u202eb\u2066c\u2069\u200e\u200f\u061c",
    "z\u200be\u200cr\u200do\u2060\ufeff\u00ad\u180e\u3164\u115f",
    "".join(chr(0xE0000 + ord(letter)) for letter in "ignore what was said") + "\U000e0001",
    "v\ufe00\ufe0f\U000e0100",
    "e" + "\u0301" * 500,
    b"\xff\xfe\xed\xa0\x80".decode("utf-8", "surrogateescape"),
    "\ue000\U000f0000\U00100000\ufff9a\ufffab\ufffb",
    "x" * 60_000,
)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a process names itself with prctl")


def surprises(text: str) -> str:
    """The characters in a text that should not have come this far."""
    found, marks = "", 0
    for character in text:
        kind = unicodedata.category(character)
        marks = marks + 1 if kind in ("Mn", "Me") and character != "\ufe0f" else 0
        hidden = kind in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and character not in "\n\t"
        odd = "\ufe00" <= character <= "\ufe0e" or "\U000e0000" <= character <= "\U000e0fff"
        if hidden or odd or marks > 4 or character in "\u3164\u115f":
            found += f" {ord(character):x}"
    return found


def is_clean(text: str, longest: int = 50_000, *, folded: bool = False) -> None:
    """``folded``: where a line was wrapped, the rest of it is indented, with whatever word it begins."""
    assert not surprises(text)
    lines = text.splitlines()
    assert not [line for line in lines if (line if folded else line.strip()).startswith(FORGED)], text
    assert len(text) < longest


def is_clean_json(value: Any) -> None:
    """No text in a decoded document has any of it either: what shows it is somebody else's."""
    match value:
        case str():
            is_clean(value)
        case dict():
            for name, item in value.items():
                is_clean(name)
                is_clean_json(item)
        case list():
            for item in value:
                is_clean_json(item)


def spawn_stranger(place: Place, port: int, name: str, *arguments: str) -> Started:
    """Somebody's server of this name on this port."""
    program = place.folder / "stranger.py"
    program.write_text(STRANGER)
    return place.spawn(sys.executable, str(program), str(port), name, *arguments).until_says("listening")


@pytest.fixture
def stranger(place: Place) -> Started:
    """Somebody's server on this place's port."""
    return spawn_stranger(place, place.port, NAME, *ARGUMENTS)


def test_port_commands(place: Place, stranger: Started) -> None:
    """Text and JSON tell who it is, and no more than that."""
    for options in (["--port-status"], ["--free-port", "--dry-run"]):
        for verbose in ([], ["-v"]):
            shown = place.run("--demo", *options, *verbose)
            assert str(stranger.pid) in shown.stdout
            is_clean(shown.output)
            rows = [line for line in shown.stdout.splitlines() if line.strip()]
            assert len(rows) <= 7
        as_json = place.run("--demo", *options, "-v", "--format", "json")
        document = json.loads(as_json.stdout)
        assert document["holders"][0]["pid"] == stranger.pid
        is_clean_json(document)


def test_freeing(place: Place, stranger: Started) -> None:
    """Each step that is told, and the audit of it."""
    is_clean(place.run("--demo", "--free-port", "-v", "--log-file", str(place.folder / "log")).output)
    stranger.wait()
    audit = (place.state / "audit.log").read_text()
    assert str(stranger.pid) in audit
    is_clean(audit)
    is_clean((place.folder / "log").read_text())


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_refused_start(place: Place, stranger: Started, log_format: str) -> None:
    """The banner that says who is in the way, report, log and audit."""
    place.environ |= {"PREFLIGHT_PORT_CLEANUP": "never", "PREFLIGHT_LOG_FORMAT": log_format}
    log = place.folder / "log"
    refused = place.run("--demo", "--app", "small:app", "-v", "--log-file", str(log))
    assert refused.process.returncode == 1
    assert str(stranger.pid) in refused.output
    is_clean(refused.output)
    is_clean_json(json.loads(place.report_file.read_text()))
    for file in (log, place.state / "audit.log"):
        is_clean(file.read_text(), 200_000)
        if log_format == "json":
            for line in file.read_text().splitlines():
                is_clean_json(json.loads(line))
    assert stranger.process.poll() is None


def test_folded(place: Place) -> None:
    """In a pipe, which has no width, nothing begins a line that was only the rest of another one."""
    spawn_stranger(place, place.port, "any", *(f"{'-' * width} {FORGED}" for width in range(60, 130)))
    del place.environ["COLUMNS"]
    log = place.folder / "log"
    place.environ |= {"PREFLIGHT_PORT_CLEANUP": "never", "PREFLIGHT_APP": "small:app"}
    shown = place.run("--demo", "--check-only", "-v", "--log-file", str(log))
    for text in (shown.output, log.read_text()):
        assert FORGED in text
        assert not [line for line in text.splitlines() if line.startswith(FORGED) or f"] {FORGED}" in line]


def test_formats(place: Place, stranger: Started) -> None:
    """For machines and for pages of others: a check shows two of them, and its report is the same in the others."""
    place.environ |= {"PREFLIGHT_PORT_CLEANUP": "never", "PREFLIGHT_APP": "small:app"}
    for form in ("json", "text"):
        shown = place.run("--demo", "--check-only", "--format", form)
        assert str(stranger.pid) in shown.stdout
        is_clean(shown.output, folded=form == "text")
        if form == "json":
            is_clean_json(json.loads(shown.stdout))
    found = report.load(place.report_file)
    for form in ("junit", "github", "markdown"):
        text = formats.render(form, found, place.root, {})
        assert str(stranger.pid) in text, form
        is_clean(text)


def test_pytest(place: Place, stranger: Started) -> None:
    """Plain pytest says it in its own words."""
    environ = {"PREFLIGHT_PORT": str(place.port), "PREFLIGHT_DEMO": "1", "PREFLIGHT_PORT_CLEANUP": "never"}
    environ["PREFLIGHT_APP"] = "small:app"
    shown = place.spawn(sys.executable, "-m", "pytest", "preflight", "-v", environ=environ)
    assert shown.wait() == 1
    assert str(stranger.pid) in shown.output
    is_clean(shown.output)


def test_start_that_takes_the_port(place: Place, stranger: Started) -> None:
    """What is said while it is stopped, and what the server then tells of its start.

    Who asks its agent about another stranger's port is told, without what could speak to a model or a reader in
    between.
    """
    instance = place.start("--demo", "-v").until_ready()
    stranger.wait()
    is_clean(instance.output)
    is_clean_json(json.loads(get(f"{place.url}/diagnostics")[1]))
    is_clean((place.state / "audit.log").read_text())
    port = unused_port()
    another = spawn_stranger(place, port, NAME, *ARGUMENTS)
    with chatting.client(instance.url) as client:
        client.init()
        answer = client.answer(f"who listens on port {port}?")
    assert str(another.pid) in answer
    is_clean(answer)
    assert instance.stop() == 0


# What the application prints.

PRINTS = r"""
import sys

async def app(scope, receive, send):
    pass

print("\x1b[32mgreen\x1b[0m and plain", flush=True)
print("before\x1b[2Jafter \x9b1A \x1b]0;title\x07 \u202eevil\u200b \x1b[?25l", flush=True)
print("10 %\r20 %\r100 % done\r", flush=True)
print("\x1b[31mleft red", flush=True)
"""


def test_what_an_application_prints(place: Place) -> None:
    """Its colours stay, and end with their line; nothing else that a terminal obeys gets there."""
    place.write_module("prints", PRINTS)
    instance = place.start("--demo", "--app", "prints:app", "--log-file", str(place.folder / "log")).until_ready()
    assert instance.stop() == 0
    said = instance.stderr
    assert "\x1b[32mgreen\x1b[0m and plain" in said
    assert "before?[2Jafter ?1A ?]0;title? ?evil? ?[?25l\n" in said
    assert "\n100 % done\n" in said
    assert "\x1b[31mleft red\x1b[0m\n" in said
    assert not surprises(said.replace("\x1b[32m", "").replace("\x1b[31m", "").replace("\x1b[0m", ""))
    is_clean((place.folder / "log").read_text())


def test_a_secret_that_is_not_printable(place: Place) -> None:
    """One of ours in somebody's arguments is found although it is cleaned before it is looked for."""
    secrets = ["canary\tQ7vXw2LmN8pRt4", "canary\x1bZq7vXw2LmN8pRt4", "canary-line-one-Zq7\ncanary-line-two-Zq7"]
    holder = spawn_stranger(place, place.port, "any", *secrets, f"x{secrets[0]}")
    environ = {f"A{number}_PASSWORD": secret for number, secret in enumerate(secrets)}
    for options in (["--port-status"], ["--port-status", "--format", "json"]):
        shown = place.spawn(sys.executable, "run.py", "--port", str(place.port), "--demo", *options, environ=environ)
        shown.wait()
        assert str(holder.pid) in shown.stdout
        assert "canary" not in shown.stdout


def test_a_command_line_of_megabytes(place: Place) -> None:
    """It costs no more than another one: it is cut before anything looks at it."""
    many = ["--password", "y" * 100, "x=" + "-" * 100_000] * 12
    holder = spawn_stranger(place, place.port, "many", *many)
    shown = place.run("--demo", "--port-status")
    assert str(holder.pid) in shown.stdout
    assert len(shown.stdout) < 4000
    assert "y" * 10 not in shown.stdout
