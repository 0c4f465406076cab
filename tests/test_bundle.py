"""The support bundle: everything that helps, and nothing that must not leave the machine."""

from __future__ import annotations

import io
import json
import os
import pwd
import re
import socket
import stat
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from preflight.command import bundle
from preflight.command.bundle import BundleError, Scrubber
from preflight.redaction.redactor import MASK, Redactor
from preflight.report import model as report
from preflight.report.model import Check, Report
from preflight.settings import loading
from preflight.settings import model as settings
from preflight.settings.fields import declared_by
from server.settings import AgentSettings
from tests.launchers import Answering

ROOT = Path(__file__).parents[1]
KEY = "sk-canary-3f9a1c77e2Zq"
OLD_KEY = "sk-proj-yesterday1234567890abcdef"
MakeReport = Callable[..., Report]
MakeCheck = Callable[..., Check]


NAMES = {*settings.SETTINGS, *(entry.name for entry in declared_by(AgentSettings))}


def chosen(**options: object) -> settings.Settings:
    return loading.load(ROOT, options={"demo": True, **options})


def read_zipped(content: bytes) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def read(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode() for name in archive.namelist()}


@pytest.fixture
def env_file(home: Path) -> Path:
    """Where the env file is; with --demo it is not read for a start."""
    file = home / ".ki_autoagent" / "config" / ".env"
    file.parent.mkdir(parents=True)
    file.write_text(f"OPENAI_API_KEY={KEY}\n")
    return file


def test_nothing_to_take_along(home: Path, env_file: Path) -> None:
    """Where there is no audit and no log is known, the bundle says so."""
    found = read_zipped(bundle.Bundle(chosen(port="18002")).zipped())
    assert {"audit.txt", "log.txt"}.isdisjoint(found)
    problems = json.loads(found["bundle.json"])["problems"]
    assert "audit.txt: No such file or directory" in problems
    assert "log.txt: no log file is set (--log-file), and no running instance writes one" in problems


def test_log_of_the_running_instance(home: Path, env_file: Path) -> None:
    """The audit is always taken along, and the log of which an instance on this port says that it writes it."""
    asked = chosen(port="18002")
    asked.state.audit.parent.mkdir()
    asked.state.audit.write_text(f"audit run said={KEY}\n")
    log = home / "some.log"
    log.write_text(f"said {KEY}\n")
    with socket.create_server(("127.0.0.1", 0)) as listener, Answering(listener, log_file=str(log)):
        asked = chosen(port=str(listener.getsockname()[1]))
        found = read_zipped(bundle.Bundle(asked).zipped())
    assert (found["audit.txt"], found["log.txt"]) == (f"audit run said={MASK}\n", f"said {MASK}\n")


def test_contents(home: Path, env_file: Path, make_report: MakeReport, make_check: MakeCheck) -> None:
    """Reports, settings with their sources, versions, the port, the log, and a list of what was redacted where."""
    state = home / "state"
    check = make_check("State Folder", message=f"{home}/state is fine", details={f"{home}/x": f"the key is {KEY}"})
    report.publish(make_report(check), state / "report.json")
    report.publish(make_report(), state / "history" / "20260102T030405Z.json")
    (state / "history" / "20260101T030405Z.json").write_text("{")
    log = home / "preflight.log"
    log.write_text(f"first line\nthe key was {KEY}\nand before that {OLD_KEY}\n")
    out = home / "out" / "bundle.zip"
    about = bundle.write(chosen(log_file=str(log), port="18002"), out)
    assert about.startswith(f"Wrote {out} (2 reports, settings, versions, port, log; ")
    assert "\n" not in about
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    found = read(out)
    assert set(found) == {
        "report.json", "history/20260102T030405Z.json", "settings.json", "system.json", "port.json", "log.txt",
        "bundle.json", "redactions.json",
    }  # fmt: skip
    assert Report.from_json(json.loads(found["report.json"])).checks[0].details == {"~/x": f"the key is {MASK}"}
    assert found["log.txt"].splitlines() == ["first line", f"the key was {MASK}", f"and before that {MASK}"]
    assert json.loads(found["bundle.json"])["problems"][0].startswith("history/20260101T030405Z.json is not valid JSON")
    rows = {row["setting"]: row for row in json.loads(found["settings.json"])}
    assert set(rows) == NAMES
    assert rows["port"] == {"setting": "port", "value": 18002, "source": "option --port"}
    assert rows["host"]["source"].startswith("pyproject.toml:")
    assert rows["state_dir"] == {"setting": "state_dir", "value": "~/state", "source": "the environment"}
    assert rows["if_running"]["source"] == "the default"
    assert json.loads(found["port.json"])["status"] == "available"
    system = json.loads(found["system.json"])
    assert system["python"] == report.python()
    assert {"fastapi", "starlette", "pytest", "langgraph"} <= set(system["packages"])
    assert system["packages"]["pytest"] == pytest.__version__
    assert KEY not in "".join(found.values())
    assert OLD_KEY not in "".join(found.values())


def test_the_list_of_redactions(home: Path, env_file: Path, make_report: MakeReport, make_check: MakeCheck) -> None:
    """Each entry says where, what and how often; together they are all that was taken out."""
    check = make_check(message=f"{KEY} and {KEY} below {home}")
    report.publish(make_report(check), home / "state" / "report.json")
    log = home / "preflight.log"
    log.write_text(f"one\n{KEY}\n")
    out = home / "bundle.zip"
    bundle.write(chosen(log_file=str(log)), out)
    found = read(out)
    listed = json.loads(found["redactions.json"])
    assert {"file": "report.json", "where": "$.preflight.checks[0].message", "what": "secret", "count": 2} in listed
    assert {
        "file": "report.json",
        "where": "$.preflight.checks[0].message",
        "what": "home folder",
        "count": 1,
    } in listed
    assert {"file": "log.txt", "where": "line 2", "what": "secret", "count": 1} in listed
    counted: Counter[str] = Counter()
    for entry in listed:
        assert set(entry) == {"file", "where", "what", "count"}
        if entry["what"] == "secret":
            counted[entry["file"]] += entry["count"]
    assert counted == {name: text.count(MASK) for name, text in found.items() if MASK in text}


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> str:
    """This user's name: the environment's where the system has none, as for many a container's user."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        monkeypatch.setenv("USER", "walter")
        return "walter"


def test_who_and_where_is_not_in_it(home: Path, user: str, make_report: MakeReport, make_check: MakeCheck) -> None:
    """Home folders, also other people's, the user's name and the machine's go from values and from details' keys."""
    host = socket.gethostname()
    said = f"{host} and {user} at {home}/x, /home/alice/y"
    check = make_check(message=said, fix=said, details={said: {said: [said]}})
    report.publish(make_report(check), home / "state" / "report.json")
    out = home / "bundle.zip"
    bundle.write(chosen(), out)
    for name, text in read(out).items():
        assert str(home) not in text, name
        assert "alice" not in text, name
        for word in (host, user):
            rest = text.replace('"root_path"', "")  # a setting's name, where the tests are run by root
            assert not re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", rest), (name, word)
    assert json.loads(read(out)["report.json"])["preflight"]["checks"][0]["message"] == "[host] and [user] at ~/x, ~/y"


def test_a_token_is_set_or_not_set(home: Path) -> None:
    """Of a setting that is a secret only that it is there; neither its length nor a part of it."""
    for token, shown in (("x" * 30, "set"), ("", "not set")):
        with_token = replace(chosen(), application={"app_token": token})
        rows = {row["setting"]: row for row in bundle.Bundle(with_token)._settings()}
        assert rows["app_token"]["value"] == shown


def test_commands_of_holders(home: Path) -> None:
    """Who holds the port is named by its program, without its arguments: they may be anything."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = json.loads(_zipped(chosen(port=str(held.getsockname()[1])))["port.json"])
    assert port["status"] in ("in use", "in use by another user")
    assert port["holders"][0]["pid"] == os.getpid()
    assert " " not in port["holders"][0]["command"]


def _zipped(found: settings.Settings) -> dict[str, str]:
    out = found.state_dir.parent / "one.zip"
    bundle.write(found, out)
    return read(out)


def test_a_bundle_is_replaced_and_nothing_else(home: Path) -> None:
    """The second bundle takes the first one's place; any other file stays as it is."""
    out = home / "bundle.zip"
    bundle.write(chosen(), out)
    first = out.read_bytes()
    bundle.write(chosen(log_file=str(home / "no.log")), out)
    assert out.read_bytes() != first
    mine = home / "mine.zip"
    with zipfile.ZipFile(mine, "w") as archive:
        archive.writestr("bundle.json", "{}")
    (home / "link.zip").symlink_to(out)
    (home / "text").write_text("mine")
    for path in (mine, home / "link.zip", home / "text", home):
        before = path.stat().st_mtime_ns
        with pytest.raises(BundleError, match="exists and is not a bundle"):
            bundle.write(chosen(), path)
        assert path.stat().st_mtime_ns == before


def test_exit_codes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 with one line on standard output, 2 for a place that cannot be meant, 1 where it cannot be written."""
    assert bundle.command(chosen(), home / "a.zip") == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert captured.out.endswith("; look through it before you attach it to a public issue.\n")
    (home / "text").write_text("mine")
    assert bundle.command(chosen(), home / "text") == 2
    assert bundle.command(chosen(), home / "text" / "a.zip") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.startswith("run.py: error: ") for line in captured.err.splitlines()] == [True, True]


@pytest.mark.slow
def test_the_end_of_a_long_log(home: Path) -> None:
    """Of a long log the end, whole lines; of a young one the end of the rotated one before it."""
    log = home / "preflight.log"
    log.write_text("".join(f"{number:07}\n" for number in range(200_000)))
    found = _zipped(chosen(log_file=str(log)))["log.txt"].splitlines()
    assert found[-1] == "0199999"
    assert all(len(line) == 7 for line in found)
    assert bundle.LOG // 8 - 2 <= len(found) <= bundle.LOG // 8
    log.rename(home / "preflight.log.1")
    log.write_text("young\n")
    found = _zipped(chosen(log_file=str(log)))["log.txt"].splitlines()
    assert found[-2:] == ["0199999", "young"]


@pytest.mark.parametrize(
    "secret",
    [
        OLD_KEY,
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "xoxb-123456789012-abcdef",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEvQIBADANBgkqh\nx==\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_what_looks_like_a_secret(secret: str) -> None:
    """Keys of yesterday, which no variable holds any more, are known by their looks."""
    assert Scrubber(Redactor()).text(f"a {secret} b", "", Counter()) == f"a {MASK} b"


def test_harmless_texts_stay(user: str) -> None:
    """What is told by a name that only looks like the user's stays."""
    scrubber = Scrubber(Redactor())
    text = f"preflight/requirements/test_port.py::test_server_port {user}x risk-based sk-short"
    assert scrubber.text(text, "", Counter()) == text


HOLDER = {"pid": 4711, "command": "lst.py --password hunt3r2 -u admin:other7 --weird s3cr3t"}


def test_short_secrets_and_commands(home: Path, env_file: Path, make_report: MakeReport, make_check: MakeCheck) -> None:
    """A secret of seven characters goes as a whole word; of commands in reports, old ones too, the program stays."""
    env_file.write_text(f"OPENAI_API_KEY={KEY}\nDB_PASSWORD=hunt3r2\n")
    said = f"left alone: lst (PID 4711, user dev): {HOLDER['command']}: it is infrastructure"
    check = make_check(message=said, details={"holders": [HOLDER], "refusals": [{"holder": HOLDER, "hunt3r2": 1}]})
    report.publish(make_report(check), home / "state" / "report.json")
    report.publish(make_report(check), home / "state" / "history" / "20260102T030405Z.json")
    log = home / "preflight.log"
    log.write_text(f"password is 'hunt3r2' and {said}\nhunt3r25 is another word\n")
    found = _zipped(chosen(log_file=str(log)))
    for name in ("report.json", "history/20260102T030405Z.json", "log.txt"):
        assert not re.search(r"hunt3r2\b|other7|s3cr3t", found[name]), name
        assert "(PID 4711, user " in found[name]
    details = json.loads(found["report.json"])["preflight"]["checks"][0]["details"]
    assert details["holders"][0]["command"] == "lst.py"
    assert details["refusals"][0][MASK] == 1
    assert "hunt3r25 is another word" in found["log.txt"]


@pytest.mark.parametrize("password", ["critical", "preflight", "passed", "port", "not_applicable", "test_example"])
def test_words_of_ours_stay(
    password: str, home: Path, env_file: Path, make_report: MakeReport, make_check: MakeCheck
) -> None:
    """Whatever somebody chose as a password, a report in a bundle is a report: keys, enumerations and ids stay."""
    env_file.write_text(f"DB_PASSWORD={password}\n")
    nodeid = "preflight/requirements/test_example.py::test_example"
    checks = [
        make_check("One", id=nodeid, message=f"it is {password} here", details={password: password}),
        make_check("Two", "not_applicable", id=f"{nodeid}[{password}]"),
    ]
    report.publish(make_report(*checks), home / "state" / "report.json")
    found = _zipped(chosen())
    again = Report.from_json(json.loads(found["report.json"]))
    assert [(check.severity, check.outcome) for check in again.checks] == [
        ("critical", "passed"),
        ("critical", "not_applicable"),
    ]
    assert again.checks[0].id == nodeid
    assert again.checks[0].message == f"it is {MASK} here"
    assert again.checks[0].details == {MASK: MASK}
    assert {row["setting"] for row in json.loads(found["settings.json"])} == NAMES
    assert {"host", "port", "status", "holders"} <= set(json.loads(found["port.json"]))
