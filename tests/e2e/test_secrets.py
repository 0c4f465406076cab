"""The keys of a canary env file, and their first and last eight characters, come out nowhere."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.starts import KEYS, Answer, Place, Providers, Started, equip, get, make_place, until

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


# The requirements as shipped.


def test_every_failure_of_the_keys(equipped: Place, providers: Providers) -> None:
    """Rejected, rate limited, unreachable and broken services: the key is in no message about them."""
    for answer in (Answer(401), Answer(429, {"Retry-After": KEY}), Answer(302, {"Location": f"http://h/?k={KEY}"})):
        providers.openai = providers.perplexity = answer
        equipped.run("--check-only", "-v", "--app", "small:app")
    equipped.run(
        "--check-only", "-v", "--app", "small:app", OPENAI_BASE_URL=f"http://u:{KEY}@127.0.0.1:{equipped.port}/{KEY}"
    )
    equipped.run("--check-only", "-v", "--app", "small:app", OPENAI_BASE_URL=KEY)
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
    started = equipped.start().until_ready()
    holder.wait()
    assert started.stop() == 0
    assert "listener.py" in started.stdout
    nothing_leaked(equipped)


# The application.

LEAKY_APP = """
import logging, os, sys
from server.app import create_app

KEY = os.environ["OPENAI_API_KEY"]
{at_import}

async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/leak":
        print(KEY, flush=True)
        print(KEY[:20], end="", flush=True)
        print(KEY[20:], file=sys.stderr, flush=True)
        logging.getLogger("uvicorn.error").error("failed with %s", KEY)
        raise RuntimeError(KEY)
    await guarded(scope, receive, send)

guarded = create_app()
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
    equipped.write_module("guarded", LEAKY_APP.format(at_import=source))
    started = equipped.refused("--app", "guarded:app", "-v")
    assert "Application" in started.stdout
    nothing_leaked(equipped)


def test_application_that_logs_it(equipped: Place, providers: Providers) -> None:
    """While it serves, what the application prints and logs is redacted, and no answer of the server holds a key."""
    providers.perplexity = Answer(429, {"Retry-After": KEY})
    equipped.write_module("guarded", LEAKY_APP.format(at_import="print('at import', KEY)"))
    started: Started = equipped.start("--app", "guarded:app").until_ready()
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
