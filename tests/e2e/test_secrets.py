"""The keys of a canary env file, and their first and last eight characters, come out nowhere."""

from __future__ import annotations

import base64
import html
import json
import shutil
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from websockets.sync.client import connect

from preflight import times
from preflight.redaction.redactor import MASK
from preflight.report import model as report
from preflight.settings import envfile
from tests.e2e.canaries import CANARIES, DERIVED, FEW, SECRETS, WAYS, env_file, found, suite
from tests.e2e.chatting import client
from tests.e2e.doubles import Answer, Providers
from tests.e2e.place import KEYS, Place, Started, equip, get, make_place
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.usefixtures("unmeasured")

PARTS = [part for key in KEYS.values() for part in (key, key[:8], key[-8:])]
KEY = KEYS["OPENAI_API_KEY"]


def nothing_leaked(place: Place, *texts: str) -> None:
    """No part of a key in what was said, nor in any file that was left anywhere but the env file itself."""
    said = {f"{number}": text for number, one in enumerate(place.started) for text in (one.output,)}
    said |= {f"text {number}": text for number, text in enumerate(texts)}
    for folder in (place.state, place.folder / "runtime", place.folder / "home"):
        for file in folder.rglob("*"):
            if file.is_file() and file != place.env_file:
                said[str(file)] = file.read_bytes().decode("utf-8", "replace")
    for where, text in said.items():
        for part in PARTS:
            assert part not in text, f"{part!r} is in {where}:\n{text}"


SUITE = """
import json, os, subprocess, sys, warnings, logging
import pytest
from preflight.contract import unknown

class Held(dict):
    def __repr__(self):
        return f"Held({super().__repr__()})"

@pytest.fixture
def key(environment):
    return environment["OPENAI_API_KEY"]

@pytest.fixture
def bad(key):
    raise OSError(f"cannot use {key}")

@pytest.fixture
def untidy(key):
    yield
    raise ValueError(key)

@pytest.mark.critical("Compared")
def test_compared(key):
    "It is compared."
    assert key == "x"

@pytest.mark.critical("Compared In A Structure")
def test_structure(key):
    "It is compared."
    assert {"a": [key] * 20, "b": "y" * 400} == {"a": [], "b": key}

@pytest.mark.critical("Said")
def test_said(key):
    "It is in the message."
    assert not key, f"the key is {key}, or {key!r}, or {key.encode().hex()[:0]}{json.dumps([key])}"

@pytest.mark.critical("Printed")
def test_printed(key):
    "It is printed."
    print(key); print(key, file=sys.stderr)
    os.write(1, key.encode() + b"\\n"); os.write(2, key.encode() + b"\\n")
    subprocess.run([sys.executable, "-c", f"print({key!r})"])
    logging.getLogger().error("key %s", key); warnings.warn(key)
    assert False, "printed"

@pytest.mark.critical("Raised")
def test_raised(key):
    "It is raised."
    raise RuntimeError(f"{key}") from ValueError(key)

@pytest.mark.critical("Raised By A Library")
def test_library(key):
    "A library raises with it."
    int(key)

@pytest.mark.critical("Looked Up")
def test_looked_up(key):
    "It is a key of a mapping."
    Held()[key]

@pytest.mark.critical("Details")
def test_details(key, details):
    "It is among the details."
    details.update(key=key, nested={"deep": [{key: key}]}, held=Held(a=key), url=f"https://me:{key}@host/")
    details.fix = f"export OPENAI_API_KEY={key}"
    details.summary = key
    pytest.fail(f"see the details of {key}")

@pytest.mark.critical("Fixture")
def test_fixture(bad):
    "Its fixture raises with it."

@pytest.mark.critical("Tear-down")
def test_tear_down(untidy):
    "Its fixture's tear-down raises with it."

@pytest.mark.critical("Skipped")
def test_skipped(key):
    "It is in the reason."
    pytest.skip(f"no {key}")

@pytest.mark.warning("Unknown")
def test_unknown(key):
    "It is in what is not known."
    unknown(f"no answer for {key}")

@pytest.mark.critical(f"Title {os.environ['LEAK']}")
@pytest.mark.parametrize("value", [os.environ["LEAK"]], ids=["value"])
def test_parametrised(value):
    "It is in the title and a parameter."
    assert value == "x"

@pytest.mark.critical("Subtle", fix=f"use {os.environ['LEAK']}")
def test_subtle(key, record_property):
    "It is recorded."
    record_property(key, key)
    local = key
    raise ExceptionGroup(key, [ValueError(key)])
"""


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory, compiled_tree: Path) -> Iterator[Place]:
    """A place whose requirements do everything with a key that must not be done."""
    folder = tmp_path_factory.mktemp("leaky")
    shutil.copytree(compiled_tree, folder / "project")
    place = make_place(folder / "place", folder / "project")
    providers = Providers()
    equip(place, providers)
    place.write_suite(SUITE)
    place.environ["LEAK"] = KEY
    yield place
    providers.close()
    place.close()


@pytest.mark.parametrize("options", [["-v"], ["--format", "json"]], ids=["terminal", "json"])
def test_leaky_requirements(leaky: Place, options: list[str]) -> None:
    """Asserted, printed, raised, recorded, in details, fixtures, ids and titles: nothing of a key comes out."""
    started = leaky.run("--check-only", "--app", "small:app", *options)
    assert started.process.returncode == 1, started.output
    assert len(leaky.report()["checks"]) == 14
    nothing_leaked(leaky)


@pytest.mark.parametrize("options", [[], ["-vv", "-rA", "--tb=long", "--showlocals", "-s"]], ids=["plain", "talkative"])
def test_leaky_requirements_in_plain_pytest(leaky: Place, options: list[str]) -> None:
    """Plain pytest, even told to show everything: what it reports of a requirement holds no part of a key."""
    files = [
        "--junitxml",
        str(leaky.state / "junit.xml"),
        "--json-report",
        f"--json-report-file={leaky.state}/raw.json",
    ]
    command = [sys.executable, "-m", "pytest", "preflight", *options, *files]
    started = leaky.spawn(*command, environ={"PREFLIGHT_APP": "small:app"})
    assert started.wait() == 1, started.output
    if "-s" in options:
        # Capturing is off, so what requirements print themselves comes through: this is about the rest.
        leaky.started.remove(started)
        reported = started.stdout.partition("short test summary")[2]
        started.kill()
        nothing_leaked(leaky, reported)
    else:
        nothing_leaked(leaky)


@pytest.mark.parametrize("plain", [False, True], ids=["run.py", "pytest"])
def test_key_in_an_id(equipped_project: Place, plain: bool) -> None:
    """A key as a parametrised value lands in the requirement's id, which pytest shows: the suite does not run."""
    place = equipped_project
    place.write_requirement(
        "parametrised",
        "import os, pytest\n"
        "@pytest.mark.critical('Parametrised')\n"
        "@pytest.mark.parametrize('value', [os.environ['LEAK']])\n"
        "def test_parametrised(value):\n"
        "    'It holds.'\n",
    )
    if plain:
        started = place.spawn(sys.executable, "-m", "pytest", "preflight", "-v", environ={"LEAK": KEY})
        assert started.wait() == 4
    else:
        started = place.refused("--app", "small:app", LEAK=KEY)
        assert started.process.returncode == 3
    assert "has a secret in its id" in " ".join(started.output.split())
    nothing_leaked(place)


CHECK = ("--check-only", "--demo", "--app", "small:app")

# The requirements as shipped.


def test_every_failure_of_the_keys(equipped: Place, providers: Providers) -> None:
    """Rejected, rate limited, unreachable and broken services: the key is in no message about them."""
    elsewhere = Answer(302, {"Location": f"http://h/?k={KEY}"})
    command = [sys.executable, "-m", "pytest", "preflight/requirements/test_keys.py", "-v"]
    said = []
    for openai, perplexity, environ in (
        (Answer(401), Answer(429, {"Retry-After": KEY}), {}),
        (Answer(429, {"Retry-After": KEY}), elsewhere, {}),
        (elsewhere, Answer(401), {"OPENAI_BASE_URL": f"http://u:{KEY}@127.0.0.1:{equipped.port}/{KEY}"}),
        (elsewhere, Answer(401), {"OPENAI_BASE_URL": KEY}),
    ):
        providers.openai, providers.perplexity = openai, perplexity
        equipped.spawn(*command, environ=environ).wait()
        said += [check["message"] for check in equipped.report()["checks"]]
    assert len(providers.requests) == 6
    assert sum("401" in one for one in said) >= 2, said
    assert sum("429" in one for one in said) >= 2, said
    assert sum("302" in one for one in said) >= 1, said
    assert equipped.run("--check-only", "-v", OPENAI_BASE_URL=KEY).process.returncode == 1
    nothing_leaked(equipped)


@pytest.mark.parametrize("line", ["name without sign", '"unclosed'], ids=["words", "quote"])
def test_env_file_that_does_not_parse(equipped: Place, line: str) -> None:
    """A broken line of the env file is named by its number; neither it nor its neighbours are shown."""
    equipped.env_file.write_text(
        f"OPENAI_API_KEY={KEY}\n{line} {KEY}\nPERPLEXITY_API_KEY={KEYS['PERPLEXITY_API_KEY']}\n"
    )
    started = equipped.run("--check-only", "-v", "--app", "small:app")
    assert started.process.returncode == 1
    assert equipped.check("Environment File")["message"].startswith(f"{equipped.env_file}:2: ")
    nothing_leaked(equipped)


def test_key_in_the_wrong_place(equipped: Place) -> None:
    """A key given as a setting, an option or an application is not repeated in the refusal."""
    equipped.run("--port", KEY)
    equipped.run("--app", KEY)
    equipped.run("--check-only", PREFLIGHT_PYTHON=KEY)
    equipped.run("--check-only", "--ignore", KEY)
    for one in equipped.started:
        assert one.process.returncode in (1, 2), one.output
    nothing_leaked(equipped)


def test_key_on_the_command_line_of_a_holder(equipped: Place) -> None:
    """Who holds the port is named with its command, and the key that its command holds is not."""
    holder = equipped.listener(KEY)
    started = equipped.start("--app", "small:app").until_ready()
    holder.wait()
    assert started.stop() == 0
    assert "listener.py" in started.stdout
    nothing_leaked(equipped)


SHORT = ("hunt3r2", "sk-live-9", "s3cr3t")


@pytest.mark.parametrize("spared", [False, True], ids=["stopped", "left alone"])
def test_short_secrets_on_the_command_line_of_a_holder(equipped: Place, spared: bool) -> None:
    """A secret too short to be replaced blindly, ours or somebody else's, is nowhere: it is never put there."""
    equipped.write_env_file(**KEYS, DB_PASSWORD=SHORT[0])
    holder = equipped.listener("x" + SHORT[0], f"--api-key={SHORT[1]}", "-u", f"admin:{SHORT[2]}", "--verbose")
    log = str(equipped.folder / "log")
    options = ["-v", "--app", "small:app", "--log-file", log, *(["--no-cleanup"] if spared else [])]
    status = equipped.run("--port-status", "--format", "json")
    assert "--verbose" in status.stdout
    assert "listener.py" in equipped.run("--port-status").stdout
    if spared:
        assert equipped.run(*options).process.returncode == 1
    else:
        started = equipped.start(*options).until_ready()
        holder.wait()
        assert started.stop() == 0
    out = equipped.folder / "out.zip"
    assert equipped.run("--bundle", str(out), "--log-file", log).process.returncode == 0
    said = outputs(equipped)
    assert any("listener.py" in text for where, text in said.items() if "report.json" in where)
    assert any("history/" in where for where in said)
    for where, text in said.items():
        assert not any(secret in text for secret in SHORT), where


def test_passwords_that_are_words_of_ours(equipped: Place) -> None:
    """Passwords that are words that reports are made of: the start, the report and the commands hold."""
    words = ("preflight", "container", "critical", "not_applicable", "test_server_port")
    equipped.write_env_file(**KEYS, **{f"DB{number}_PASSWORD": word for number, word in enumerate(words)})
    equipped.listener()
    shown = json.loads(equipped.run("--port-status", "--format", "json").stdout)
    assert shown["holders"][0]["container"] is None
    assert shown["status"] == "in use"
    assert "PID" in equipped.run("--port-status").stdout
    started = equipped.run("--check-only", "--app", "small:app")
    assert started.process.returncode == 0, started.output
    checks = report.load(equipped.state / "report.json").checks
    assert "preflight/requirements/test_port.py::test_server_port" in {check.id for check in checks}
    assert {check.severity for check in checks} == {"critical", "warning"}


# The application.

FAILING_APP = """
import os, sys

KEY = os.environ["OPENAI_API_KEY"]
{at_import}
"""
LEAKY_APP = """
import logging, os, sys
from agentless import app as guarded

KEY = os.environ["OPENAI_API_KEY"]
print("at import", KEY)

async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/leak":
        print(KEY, flush=True)
        print(KEY[:20], end="", flush=True)
        print(KEY[20:], file=sys.stderr, flush=True)
        logging.getLogger("uvicorn.error").error("failed with %s", KEY)
        raise RuntimeError(KEY)
    await guarded(scope, receive, send)
"""


@pytest.mark.parametrize(
    "source",
    [
        "raise RuntimeError(f'rejected: {KEY}')",
        "print(KEY); print(KEY, file=sys.stderr); sys.exit(KEY)",
        "print(KEY, flush=True); os._exit(1)",
    ],
)
def test_application_that_raises_it(equipped: Place, source: str) -> None:
    """An application that fails at import and says the key: the banner says the rest."""
    equipped.write_module("guarded", FAILING_APP.format(at_import=source))
    started = equipped.refused("--app", "guarded:app", "-v")
    assert "Application" in started.stdout
    nothing_leaked(equipped)


def test_application_that_logs_it(equipped: Place, providers: Providers) -> None:
    """While it serves, what the application prints and logs is redacted, and no answer of the server holds a key."""
    providers.perplexity = Answer(429, {"Retry-After": KEY})
    equipped.write_module("guarded", LEAKY_APP)
    started: Started = equipped.start("--app", "guarded:app", PREFLIGHT_WEB_PREFIX="off").until_ready()
    answers = [get(started.url + path)[1] for path in ("/health", "/health/live", "/health/ready", "/diagnostics")]
    answers += [get(started.url + path)[1] for path in ("/openapi.json", "/docs", "/nowhere", "/leak")]
    until(lambda: "RuntimeError" in started.stderr, "the failure is logged")
    assert "at import [redacted]" in started.stderr
    assert "failed with [redacted]" in started.stderr
    assert started.stop() == 0
    whole = [answer for answer in answers if answer]
    for part in (KEY, *KEYS.values()):
        assert part not in started.output
    started_output = started.output.replace(KEY[:20], "")  # printed by itself, which no redactor by value can know
    equipped.started.remove(started)
    started.kill()
    nothing_leaked(equipped, started_output, *whole)


BARE_APP = """
import logging, os
from agentless import app as guarded

KEY = os.environ["OPENAI_API_KEY"]

async def app(scope, receive, send):
    if scope["type"] == "http":
        logging.getLogger("mine").error("failed with %s", KEY)
        raise RuntimeError(f"what came of {KEY}")
    await guarded(scope, receive, send)
"""


def test_bare_uvicorn(place: Place) -> None:
    """Without the launcher too: a traceback, the access log and the application's own logging are redacted."""
    place.write_module("bare", BARE_APP)
    key = KEYS["OPENAI_API_KEY"]
    command = [sys.executable, "-m", "uvicorn", "bare:app", "--port", str(place.port)]
    started = place.spawn(*command, environ={"PREFLIGHT_DEMO": "1", "OPENAI_API_KEY": key})
    started.until_says("Uvicorn running on")
    assert get(f"{place.url}/search?q={key}")[0] == 500
    for said in ("RuntimeError: what came of [redacted]", "failed with [redacted]"):
        started.until_says(said)
    started.until_says('GET /search?q=[redacted] HTTP/1.1" 500')
    assert key not in started.output


# Kinds of secret, and every place where something comes out.

NAMES = ",".join({**KEYS, **CANARIES})


def canary_place(place: Place) -> Place:
    """A place whose env file holds all kinds."""
    place.env_file.parent.mkdir(parents=True, exist_ok=True)
    place.env_file.write_text(env_file(), encoding="utf-8")
    place.env_file.chmod(0o600)
    place.environ |= {
        "CANARIES": NAMES,
        "CANARY_PARTS": json.dumps(DERIVED),
        "PREFLIGHT_PYTHON": ">=3.11",
        "PREFLIGHT_OFFLINE": "1",
        "PREFLIGHT_RUN_TIMEOUT": "300s",  # there are many of them, and what they say is long
    }
    return place


def outputs(place: Place, **more: str) -> dict[str, str]:
    """All that came out: what was said, and every file but the env file and what tests put there."""
    said = {f"output {number}": started.output for number, started in enumerate(place.started)} | more
    for file in place.folder.rglob("*"):
        if file.is_file() and file != place.env_file and file.suffix not in (".py", ".pyc", ".zip"):
            said[str(file)] = file.read_bytes().decode("utf-8", "replace")
    for file in place.folder.rglob("*.zip"):
        with zipfile.ZipFile(file) as archive:
            said |= {f"{file}/{name}": f"{name}\n{archive.read(name).decode()}" for name in archive.namelist()}
    return said


def nothing_came_out(place: Place, **more: str) -> None:
    leaks = {where: forms for where, text in outputs(place, **more).items() if (forms := found(text))}
    assert leaks == {}


def test_canaries_are_what_they_should_be(place: Place) -> None:
    """They arrive as they were meant, and the search finds each of them in each form."""
    canary_place(place)
    held = envfile.read(place.env_file)
    assert held.problem is None
    assert held.values == {**KEYS, **CANARIES}
    assert len(CANARIES) == 19
    assert len(WAYS) >= 25
    for secret in SECRETS:
        assert found(f"x{secret.strip()}y")
        for before in ("", "a", "ab"):
            assert found(base64.b64encode(f"{before}{secret.strip()}z".encode()).decode())
        assert found(secret.strip()[-8:])
        assert found(html.escape(secret.strip()))


@pytest.fixture
def canaries(project: Place) -> Place:
    """A project with a requirement for each way to fail."""
    canary_place(project).write_suite(suite())
    return project


def refused_and_bundled(place: Place, **environ: str) -> str:
    """The log of a start that is refused, and of which a bundle is made."""
    log = place.folder / "start.log"
    environ["PREFLIGHT_LOG_FILE"] = str(log)
    started = place.refused("--app", "small:app", "-v", **environ)
    assert started.process.returncode == 1, started.output
    assert started.stdout.count(MASK) > len(place.report()["checks"])
    bundled = place.run("--bundle", str(place.folder / "b.zip"), **environ)
    assert bundled.process.returncode == 0, bundled.output
    nothing_came_out(place)
    return log.read_text()


def test_canaries_in_a_refused_start(canaries: Place) -> None:
    """All ways at once: banner, report, log, standard error and bundle hold nothing of them."""
    assert "refused" in refused_and_bundled(canaries)
    assert len(canaries.report()["checks"]) == len(WAYS)


def test_canaries_in_a_report_for_machines(canaries: Place) -> None:
    """--format json and --report."""
    path = canaries.folder / "elsewhere.json"
    started = canaries.run("--check-only", "--format", "json", "--report", str(path), "--app", "small:app")
    assert len(json.loads(started.stdout)["preflight"]["checks"]) == len(WAYS)
    nothing_came_out(canaries)


def test_canaries_in_formats(project: Place) -> None:
    """The other formats of --check-only and of the log, and the table of --history: whatever a report can hold."""
    canary_place(project).write_suite(suite(FEW))
    for form in ("text", "junit", "github", "markdown"):
        started = project.run("--check-only", "--format", form, "--app", "small:app")
        assert started.process.returncode == 1, started.output
        assert started.stdout.count(MASK.strip("[]")) >= len(FEW) / 2, form  # Markdown escapes the brackets
    assert all(json.loads(line) for line in refused_and_bundled(project, PREFLIGHT_LOG_FORMAT="json").splitlines())
    past = project.run("--history")
    assert past.process.returncode == 0, past.output
    assert past.stdout.count("failed") >= 5
    nothing_came_out(project)


def test_canaries_in_plain_pytest(canaries: Place) -> None:
    """Plain pytest, and the files that its plugins write."""
    files = ["--junitxml", str(canaries.state / "junit.xml"), "--json-report"]
    files.append(f"--json-report-file={canaries.state}/raw.json")
    started = canaries.spawn(
        sys.executable, "-m", "pytest", "preflight", "-vv", "-rA", "--tb=long", "--showlocals", *files,
        environ={"PREFLIGHT_APP": "small:app", "PREFLIGHT_LOG_FILE": str(canaries.folder / "pytest.log")},
    )  # fmt: skip
    assert started.wait() == 1
    assert (canaries.state / "junit.xml").exists()
    nothing_came_out(canaries)


def test_canaries_that_nobody_redacted(place: Place) -> None:
    """A report in the history and a log from before there was redaction: the bundle redacts them."""
    canary_place(place)
    say = " and ".join(SECRETS)
    check = report.Check("t.py::t", "Old", "It held.", "critical", "failed", say, say, {say: [say]})
    old = report.Report("old", "start", "failed", False, times.now(), 0.1, "all", "127.0.0.1:8002", (check,))
    history, log = place.state / "history", place.folder / "old.log"
    report.publish(old, history / "old.json")
    log.write_text(f"{say}\n{base64.encodebytes(say.encode()).decode()}")
    out = place.folder / "old.zip"
    assert place.run("--bundle", str(out), PREFLIGHT_LOG_FILE=str(log)).process.returncode == 0
    (history / "old.json").unlink()
    log.unlink()
    with zipfile.ZipFile(out) as archive:
        assert {"history/old.json", "log.txt"} <= set(archive.namelist())
    nothing_came_out(place)


LEAKY_SERVER = """
import base64, html, json, os, sys
from urllib.parse import quote
from server.app import create_app

SECRETS = [os.environ[name] for name in os.environ["CANARIES"].split(",")] + json.loads(os.environ["CANARY_PARTS"])

async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/leak":
        for secret in SECRETS:
            encoded = base64.b64encode(secret.encode()).decode()
            written = secret, repr(secret), json.dumps(secret), quote(secret, safe=""), html.escape(secret), encoded
            print(*(secret[start : start + 20] for start in range(0, len(secret), 20)), sep="\\n", flush=True)
            for said in written:
                print(said, flush=True)
                scope["state"]["preflight"].audit("login_failed", peer="::1", said=said, **{"k " + secret: [secret]})
        print(base64.encodebytes("\\n".join(SECRETS).encode()).decode(), file=sys.stderr, flush=True)
        print("that was all", flush=True)
        raise RuntimeError(SECRETS)
    await guarded(scope, receive, send)

guarded = create_app()
"""


def test_canaries_while_it_serves(place: Place) -> None:
    """What the application prints, logs, raises and audits, every route's answer, and the frames of a chat."""
    canary_place(place)
    place.write_module("leaky", LEAKY_SERVER)
    # In the environment, since --demo reads no env file; the embedded model then answers without a network.
    place.environ |= {**KEYS, **CANARIES}
    log = place.folder / "serving.log"
    started = place.start("--demo", "--app", "leaky:app", "--log-file", str(log)).until_ready()
    answers = {}
    paths = ["/health", "/health/live", "/health/ready", "/diagnostics", "/sessions", "/chat/schema.json"]
    paths += ["/openapi.json", "/docs", "/nowhere", "/leak", "/metrics", "/"]
    frames = []
    with client(started.url) as chat:
        chat.init()
        for secret in SECRETS:
            frames += chat.ask(f"what about {secret} and {json.dumps(secret)}?")
        frames += chat.ask("what failed, and which keys are there?")
    for path in paths:
        answers[path] = get(started.url + path)[1]
    sessions = json.loads(answers["/sessions"])["sessions"]
    answers["/sessions/{id}"] = get(f"{started.url}/sessions/{sessions[0]['session_id']}")[1]
    until(lambda: "that was all" in log.read_text() and "RuntimeError" in log.read_text(), "the log has it all")
    assert place.run("--bundle", str(place.folder / "serving.zip"), "--log-file", str(log)).process.returncode == 0
    assert started.stop() == 0
    assert log.read_text().count("login_failed") == (len({**KEYS, **CANARIES}) + len(DERIVED)) * 6
    assert len(frames) > 3 * len(SECRETS)
    nothing_came_out(place, frames=json.dumps(frames, ensure_ascii=False), **answers)


def test_canaries_in_a_rerun(project: Place) -> None:
    """All ways at once beside a live server: every route that shows it, in every format, and the frames of /ws/."""
    canary_place(project)
    project.environ |= {**KEYS, **CANARIES}
    started = project.serve().until_ready()
    project.write_requirement("leaky", suite())
    frames = []
    with connect(started.url.replace("http", "ws", 1) + "/ws/diagnostics", max_size=None) as socket:
        frames.append(str(socket.recv(PATIENCE)))
        request = urllib.request.Request(f"{started.url}/diagnostics/run", b"", method="POST")
        with urllib.request.urlopen(request, timeout=PATIENCE) as begun:
            run_id = json.loads(begun.read())["run_id"]
        while json.loads(frames[-1])["type"] != "run_finished":
            frames.append(str(socket.recv(PATIENCE)))
        frames.append(str(socket.recv(PATIENCE)))
    paths = ["/health", "/diagnostics", "/diagnostics?format=text", "/diagnostics?format=health", "/metrics"]
    paths += ["/diagnostics/history", f"/diagnostics/history/{run_id}", f"/diagnostics/run/{run_id}"]
    paths += [f"/diagnostics/checks/{quote(way.title())}" for way in WAYS]
    answers = {path: get(started.url + path) for path in paths}
    assert {path: status for path, (status, _) in answers.items() if status != 200} == {"/health": 503}
    talkative = {path for path, (_, text) in answers.items() if text.count(MASK) > len(WAYS) / 2}
    assert talkative >= {*paths[1:4], *paths[6:8]}
    assert sum(MASK in frame for frame in frames) > len(WAYS) / 2
    assert started.stop() == 0
    nothing_came_out(project, frames="\n".join(frames), **{path: text for path, (_, text) in answers.items()})


def test_reports_of_those_who_knew_less(project: Place) -> None:
    """A check that did not know a key of the server's publishes it: no route of the server shows it, now or later."""
    secret = KEYS["OPENAI_API_KEY"]
    # It is about what reports hold: no deadline may run out on a busy machine.
    project.environ |= {"PREFLIGHT_REQUIREMENT_TIMEOUT": "300s", "PREFLIGHT_RUN_TIMEOUT": "900s"}
    project.write_requirement(
        "leaky",
        f"""
import pytest

@pytest.mark.warning("Leak")
def test_leak(details):
    \"\"\"It says what it should not.\"\"\"
    details.update(said={secret!r})
    assert False, "it is {secret}"
""",
    )
    assert project.run(*CHECK).process.returncode == 0
    assert secret in project.report_file.read_text()
    before = project.report()["run_id"]
    started = project.serve(SOME_API_KEY=secret).until_ready()
    assert secret not in project.report_file.read_text()
    assert project.run(*CHECK).process.returncode == 0
    assert secret in project.report_file.read_text()
    with connect(started.url.replace("http", "ws", 1) + "/ws/diagnostics", max_size=None) as socket:
        frame = str(socket.recv(PATIENCE))
    run_id = project.report()["run_id"]
    assert run_id in frame
    paths = ["", "?format=text", "?format=health", "/history", "/checks/Leak"]
    paths += [f"/history/{one}" for one in (before, run_id)]
    answers = {path: get(f"{started.url}/diagnostics{path}") for path in paths}
    assert {status for status, _ in answers.values()} == {200}
    assert {path for path, (_, text) in answers.items() if MASK not in text} == {"/history"}
    texts = [frame, get(f"{started.url}/metrics")[1], *(text for _, text in answers.values())]
    assert [text for text in texts if secret in text] == []
    assert started.stop() == 0
