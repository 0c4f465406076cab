"""Broken input breaks nothing: made-up env files, settings, reports and messages end in an answer of one line."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preflight import times
from preflight.processes.channel import Channel, ChannelError, Message
from preflight.redaction.keys import key_like
from preflight.redaction.redactor import MASK, Redactor
from preflight.report import model as report
from preflight.report.model import Report, ReportError
from preflight.settings import envfile, loading
from preflight.settings.fields import SettingsError
from preflight.settings.model import SETTINGS
from tests.fuzzing import fuzzed

pytestmark = pytest.mark.slow

# Text with what parsers trip over: quotes, escapes, line ends, NUL, surrogates' neighbours, other scripts.
NASTY = st.text(st.sampled_from("aA1_=#'\"\\$`{}()[]<>&|;:/@%+-.,*?!~^ \t\n\r\x00\x1b\x7f\x85\u2028é漢🔑\ufeff"))
LINES = st.lists(
    st.one_of(
        NASTY,
        st.builds("{}={}".format, st.sampled_from(["NAME", "OPENAI_API_KEY", "PREFLIGHT_PORT", "export X"]), NASTY),
        st.builds("K='{}'".format, NASTY),
        st.builds('K="{}"'.format, NASTY),
    ),
    max_size=12,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NASTY | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NASTY | st.text(), inner, max_size=4),
    max_leaves=20,
)


def one_line(message: str) -> bool:
    return message != "" and len(message.splitlines()) == 1


@pytest.fixture
def nothing_else(home: Path, tmp_path: Path) -> Iterator[None]:
    """Nothing is written anywhere but where the test does."""
    here = set(os.listdir(Path.cwd()))
    yield
    # Measured, other tests' processes leave their data here.
    assert {name for name in os.listdir(Path.cwd()) if not name.startswith(".coverage")} <= here
    assert sorted(os.listdir(home)) == ["runtime"]


@fuzzed
@given(content=st.one_of(st.binary(max_size=400), LINES.map(lambda lines: "\n".join(lines).encode("utf-8"))))
@example(content=b"\xef\xbb\xbfA=1")
@example(content=b"A='\n\n")
@example(content=b"=")
def test_env_file(tmp_path: Path, nothing_else: None, content: bytes) -> None:
    """Whatever is in an env file: it is read or refused in one line that shows none of it."""
    file = tmp_path / "env"
    file.write_bytes(content)
    found = envfile.read(file)
    assert found.exists
    assert all(isinstance(value, str) for value in found.values.values())
    assert found.lines.keys() == found.values.keys()
    if found.problem is not None:
        assert one_line(found.problem)
        rest = found.problem.replace(str(file), "")
        # Words of ours, a line's number or a size: nothing of the content.
        assert set(rest) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 :.,'-=")


TOML_VALUE = st.one_of(
    st.booleans().map(lambda value: str(value).lower()),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(lambda value: repr(value).replace("inf", "inf")),
    NASTY.map(json.dumps),
    st.lists(st.integers(0, 9)).map(str),
    st.just("{}"),
    st.just('{a = "b"}'),
    st.just("2026-01-02T03:04:05Z"),
)


@fuzzed
@given(
    table=st.dictionaries(st.sampled_from([*SETTINGS, "prot", "x"]), TOML_VALUE, max_size=4),
    variables=st.dictionaries(
        st.sampled_from([f"PREFLIGHT_{name.upper()}" for name in [*SETTINGS, "prot", ""]]),
        NASTY.filter(lambda text: "\0" not in text),
        max_size=3,
    ),
)
def test_settings_table(tmp_path: Path, nothing_else: None, table: dict[str, str], variables: dict[str, str]) -> None:
    """Whatever is in the table or a variable: settings that can be used, or one line that names its source."""
    lines = "".join(f"{key} = {value}\n" for key, value in table.items())
    (tmp_path / "pyproject.toml").write_text(f"[tool.preflight]\n{lines}", encoding="utf-8")
    try:
        found = loading.load(tmp_path, {"HOME": str(tmp_path), **variables})
    except SettingsError as error:
        assert one_line(str(error))
        named = ("pyproject.toml", "environment variable ", "port_grace", "env_file", "state_dir", str(tmp_path))
        assert str(error).startswith(named)
    else:
        assert 1 <= found.port <= 65535
        assert found.host


@fuzzed
@given(content=st.binary(max_size=300))
@example(content=b"NaN")
@example(content=b"[" * 100_000)
def test_report_of_bytes(tmp_path: Path, nothing_else: None, content: bytes) -> None:
    """Bytes that are no report are refused in one line."""
    file = tmp_path / "report.json"
    file.write_bytes(content)
    with pytest.raises(ReportError) as caught:
        report.load(file)
    assert one_line(str(caught.value))


def good() -> dict[str, Any]:
    check = report.Check("test_x.py::test_x", "Title", "It holds.", "critical", "passed", details={"found": 1})
    made = Report(
        run_id="abc",
        origin="start",
        status="passed",
        may_start=True,
        started_at="2026-01-02T03:04:05Z",
        duration=0.1,
        selection="all",
        address="127.0.0.1:8002",
        checks=(check,),
    )
    document: dict[str, Any] = json.loads(json.dumps(made.to_json()))
    return document


SECTION = sorted(good()["preflight"])
CHECK = sorted(good()["preflight"]["checks"][0])


@fuzzed
@given(
    section=st.dictionaries(st.sampled_from(SECTION) | NASTY, JSON, max_size=3),
    check=st.dictionaries(st.sampled_from(CHECK) | NASTY, JSON, max_size=3),
    gone=st.sets(st.sampled_from(SECTION), max_size=2),
)
@example(section={"started_at": "2026-02-31T23:59:60Z"}, check={}, gone=set())
@example(section={"started_at": "2026-13-01T00:00:00Z"}, check={}, gone=set())
@example(section={"started_at": "0000-01-01T00:00:00Z"}, check={}, gone=set())
@example(section={"started_at": "2026-01-01T00:00:00Z\n"}, check={}, gone=set())
def test_report_that_was_changed(
    tmp_path: Path, nothing_else: None, section: dict[str, Any], check: dict[str, Any], gone: set[str]
) -> None:
    """A report with any of its fields replaced or gone is refused in one line, or is whole enough to be shown."""
    document = good()
    document["preflight"]["checks"][0].update(check)
    document["preflight"].update(section)
    for key in gone:
        document["preflight"].pop(key, None)
    file = tmp_path / "report.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    try:
        found = report.load(file)
    except ReportError as error:
        assert one_line(str(error))
    else:
        json.dumps(found.to_json())
        assert found.summary["total"] == len(found.checks)
        assert times.epoch(found.started_at) is not None
        assert {one.severity for one in found.checks} <= set(report.SEVERITIES)


@fuzzed
@given(pieces=st.lists(st.one_of(st.binary(max_size=60), JSON.map(lambda value: json.dumps(value).encode() + b"\n"))))
@example(pieces=[b'{"kind": "handover", "descriptors": 3, "data": {}}\n'])
@example(pieces=[b'{"kind": 1, "descriptors": 0, "data": {}}\n'])
@example(pieces=[b"[" * 70_000 + b"\n"])
def test_messages_between_processes(nothing_else: None, pieces: list[bytes]) -> None:
    """Whatever comes over a channel is a message or a ChannelError; a descriptor that is promised must be there."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    with theirs:
        theirs.sendall(b"".join(pieces))
        theirs.shutdown(socket.SHUT_WR)
        try:
            while not channel.closed:
                for message in channel.arrived():
                    assert isinstance(message, Message)
                    assert isinstance(message.data, dict)
        except ChannelError as error:
            assert one_line(str(error))
        finally:
            channel.close()


SECRET = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=8, max_size=40).filter(
    lambda text: len(text.strip()) >= 8
)


@fuzzed
@given(secret=SECRET, before=NASTY, after=NASTY)
def test_redaction(secret: str, before: str, after: str) -> None:
    """A secret of eight characters or more is in no text that has passed, whatever stands around it."""
    secret = secret.strip()
    redactor = Redactor([secret])
    shown = redactor.value({before + secret: [before + secret + after, json.dumps(secret + after), repr(secret)]})
    written = json.dumps(shown, ensure_ascii=False)
    if secret not in MASK:
        assert secret not in written
        assert json.dumps(secret)[1:-1] not in written


@fuzzed
@given(name=NASTY | st.text())
def test_key_like(name: str) -> None:
    """Any name of a variable is judged."""
    assert key_like(name) in (True, False)
