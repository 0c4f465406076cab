"""``python run.py`` on real input: what it serves, what it refuses, what it stops and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from preflight import commands
from tests.e2e.doubles import Providers
from tests.e2e.place import BLOCKED, KEYS, READY, Place, get, listening
from tests.waiting import until


def test_serves(equipped: Place, providers: Providers) -> None:
    """With env file, keys, Python and services in order it serves, says where, and ends when it is asked to."""
    started = equipped.start().until_ready()
    address = f"127.0.0.1:{equipped.port}"
    started.until_says(f"Diagnostics  http://{address}/diagnostics")
    for line in (f"{address} is available.", f"ws://{address}/ws/chat", f"http://{address}/health"):
        assert line in started.stdout
    assert re.search(r"^\d+ requirements: \d+ passed, 6 not applicable, in", started.stdout, re.MULTILINE)
    assert json.loads(get(f"{started.url}/health")[1])["status"] == "healthy"
    assert sorted(providers.requests) == [
        ("/openai/v1/models", f"Bearer {KEYS['OPENAI_API_KEY']}"),
        ("/perplexity/async/chat/completions", f"Bearer {KEYS['PERPLEXITY_API_KEY']}"),
    ]
    assert equipped.report()["may_start"] is True
    assert equipped.report()["origin"] == "start"
    assert stat.S_IMODE(equipped.report_file.stat().st_mode) == 0o600
    assert started.stop() == 0
    assert started.stderr == ""
    started.left_nothing()


# What can be taken away, one thing at a time, and what the red banner then says.


def no_key(place: Place) -> None:
    place.write_env_file(PERPLEXITY_API_KEY=KEYS["PERPLEXITY_API_KEY"])


def broken_file(place: Place) -> None:
    place.env_file.write_text("no line of an env file\n")
    place.environ |= KEYS


def metadata(place: Place, text: str) -> None:
    # Found before the true one, like the rest of an upgrade that stopped half way.
    folder = place.folder / "modules" / "rich-15.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(text)


def broken_metadata(place: Place) -> None:
    metadata(place, "")


def old_package(place: Place) -> None:
    metadata(place, "Metadata-Version: 2.1\nName: rich\nVersion: 1.2.3\n")


def python_bound(place: Place) -> None:
    place.environ["PREFLIGHT_PYTHON"] = ">=3.99"


def state_is_a_file(place: Place) -> None:
    (place.folder / "taken").write_text("")
    place.environ["PREFLIGHT_STATE_DIR"] = str(place.folder / "taken" / "state")


def application(source: str | None, attribute: str = "app") -> Callable[[Place], None]:
    def remove(place: Place) -> None:
        if source is not None:
            place.write_module("guarded", source)
        place.environ["PREFLIGHT_APP"] = f"guarded:{attribute}"

    return remove


@dataclass(frozen=True)
class Cause:
    """Something that is missing, and what is said about it."""

    remove: Callable[[Place], None]
    title: str
    message: str
    fix: str


LOAD = "-m preflight.worker.loadapplication guarded:"
CAUSES = {
    "key": Cause(no_key, "OpenAI API Key", "OPENAI_API_KEY is not set", "set OPENAI_API_KEY in"),
    "file": Cause(
        broken_file, "Environment File", "/.ki_autoagent/config/.env:1: this line is not", "only lines of NAME=value"
    ),
    "metadata": Cause(broken_metadata, "Dependencies", "rich is not installed", "-r {root}/requirements.txt"),
    "version": Cause(old_package, "Dependencies", "rich is 1.2.3, but must be >=13.7", "-r {root}/requirements.txt"),
    "python": Cause(python_bound, "Python Version", "requires Python >=3.99, found 3.", "install a Python >=3.99"),
    "state": Cause(state_is_a_file, "State Folder", "cannot be made", "PREFLIGHT_STATE_DIR"),
    "import error": Cause(
        application("import nowhere_to_be_found"),
        "Application",
        "ModuleNotFoundError: No module named 'nowhere_to_be_found'",
        f"{LOAD}app",
    ),
    "missing attribute": Cause(
        application("", "absent"), "Application", "module 'guarded' has no attribute 'absent'", f"{LOAD}absent"
    ),
    "segfault": Cause(application("import ctypes; ctypes.string_at(0)"), "Application", "(SIGSEGV)", f"{LOAD}app"),
    "exit": Cause(application("import sys; sys.exit(0)"), "Application", "SystemExit", f"{LOAD}app"),
    "hard exit": Cause(application("import os; os._exit(0)"), "Application", "exit code 0", f"{LOAD}app"),
}
causes = pytest.mark.parametrize("cause", [pytest.param(cause, id=name) for name, cause in CAUSES.items()])


def unwrapped(text: str) -> str:
    """The text without the line breaks that the terminal's width put in."""
    return " ".join(text.split())


@causes
def test_one_thing_missing(equipped: Place, cause: Cause) -> None:
    """Whatever is missing has a red banner of its own with its fix, and the server on the port is left alone."""
    holder = equipped.listener()
    cause.remove(equipped)
    started = equipped.run()
    assert started.process.returncode == 1
    good, _, banner = started.stdout.partition(f"1 CRITICAL ERROR: {BLOCKED}")
    banner = unwrapped(banner)
    assert banner.startswith(f"❌ {cause.title} "), started.output
    assert cause.message in banner
    assert cause.fix.format(root=equipped.root) in banner.partition("Fix: ")[2]
    assert f"nothing was stopped: the start is blocked by {cause.title}" in unwrapped(good)
    assert "SIGTERM" not in started.output
    assert holder.process.poll() is None
    assert listening(equipped.port)
    holder.stop()
    started.left_nothing()


@pytest.mark.parametrize("name", ["python", "segfault"])
def test_a_refused_start_serves_nothing(equipped: Place, name: str) -> None:
    """On a free port a refused start ends with exit code 1, nothing listening, and its own report or none."""
    CAUSES[name].remove(equipped)
    started = equipped.refused()
    assert started.process.returncode == 1
    assert CAUSES[name].title in started.stdout


def test_taken_port_without_cleanup(equipped: Place) -> None:
    """With --no-cleanup a busy port blocks: who holds it, how to end it, and it lives on."""
    holder = equipped.listener()
    started = equipped.run("--no-cleanup")
    assert started.process.returncode == 1
    banner = unwrapped(started.stdout.partition(f"1 CRITICAL ERROR: {BLOCKED}")[2])
    assert banner.startswith("❌ Server Port")
    assert f"(PID {holder.pid}" in banner
    assert f"Fix: kill {holder.pid}" in banner
    assert holder.process.poll() is None
    assert listening(equipped.port)


def test_warnings_do_not_block(equipped: Place) -> None:
    """What is only a warning is shown yellow with its fix, and the server starts."""
    equipped.write_env_file(OPENAI_API_KEY=KEYS["OPENAI_API_KEY"])
    equipped.env_file.chmod(0o644)
    started = equipped.start().until_ready()
    banner = unwrapped(started.stdout.partition("2 WARNINGS")[2].partition("16 requirements")[0])
    assert "Environment File Permissions" in banner
    assert f"Fix: chmod 600 {equipped.env_file}" in banner
    assert "PERPLEXITY_API_KEY is not set (optional service)" in banner
    assert BLOCKED not in started.stdout
    assert started.stop() == 0


def test_demo(place: Place) -> None:
    """Without env file, keys or network --demo comes up green, and what does not apply is shown as such."""
    started = place.start("--demo").until_ready()
    lines = {" ".join(line.split()) for line in started.stdout.splitlines()}
    for title in ("Environment File", "Environment File Permissions", "OpenAI API Key", "OpenAI API", "Perplexity API"):
        assert f"⏭️ {title} left out by --demo" in lines
    assert re.search(r"requirements: \d+ passed, \d+ not applicable, in", started.stdout)
    assert "WARNING" not in started.stdout
    assert started.stop() == 0


def test_stale_listener_is_stopped(equipped: Place) -> None:
    """A server left over on the port is named, asked to end, and the port is served."""
    holder = equipped.listener()
    started = equipped.start().until_ready()
    assert holder.wait() == -signal.SIGTERM
    before = unwrapped(started.stdout.partition("✅")[0])
    assert f"127.0.0.1:{equipped.port} is in use by " in before
    assert f"(PID {holder.pid}, user " in before
    assert f"listener.py {equipped.port}" in before
    assert re.search(r"SIGTERM.*exited.* listens on 127.0.0.1 port", before)
    assert "SIGKILL" not in before
    assert "stopped " in unwrapped(started.stdout.partition("Port Cleanup")[2].partition("\n")[0])
    assert get(f"{started.url}/health/live")[0] == 200
    assert started.stop() == 0


def test_stubborn_listener_is_killed(equipped: Place) -> None:
    """Who ignores SIGTERM gets SIGKILL after the grace that the settings give, and the lines say so."""
    holder = equipped.listener("stubborn")
    started = equipped.start(PREFLIGHT_PORT_GRACE="0.3").until_ready()
    assert holder.wait() == -signal.SIGKILL
    before = unwrapped(started.stdout.partition("✅")[0])
    assert re.search(r"SIGTERM.*SIGKILL.*exited.* listens on 127.0.0.1 port", before)
    assert started.stop() == 0


# Signals.

stopping = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)


@stopping
def test_stopped_during_the_checks(equipped: Place, providers: Providers, number: signal.Signals) -> None:
    """Stopped while a check waits for its answer: a line instead of a traceback, no server, no process left."""
    providers.openai.hangs = True
    started = equipped.start(PREFLIGHT_PROBE_TIMEOUT="20", PREFLIGHT_REQUIREMENT_TIMEOUT="20")
    until(lambda: bool(providers.requests), "a service is asked")
    assert started.stop(number) == 128 + number
    assert f"Stopped by {number.name}; nothing was started." in started.stdout
    assert "Traceback" not in started.output
    started.left_nothing()


@stopping
def test_stopped_while_serving(place: Place, number: signal.Signals) -> None:
    """Stopped while it serves: exit code 0, no process and no listener left."""
    started = place.start("--demo").until_ready()
    assert started.stop(number) == 0
    assert "Traceback" not in started.output
    started.left_nothing()


def test_second_signal_ends_at_once(place: Place) -> None:
    """An application that does not end is ended by a second Ctrl-C."""
    place.write_module(
        "guarded",
        "import asyncio\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'lifespan':\n"
        "        while True:\n"
        "            message = await receive()\n"
        "            if message['type'] == 'lifespan.shutdown':\n"
        "                print('asked to end', flush=True)\n"
        "                await asyncio.sleep(3600)\n"
        "            await send({'type': 'lifespan.startup.complete'})\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': b''})\n",
    )
    started = place.start("--demo", "--app", "guarded:app", PREFLIGHT_GRACEFUL_TIMEOUT="60").until_ready()
    started.send(signal.SIGINT)
    started.until_says("asked to end")
    assert started.insist(signal.SIGINT) == 0
    started.left_nothing()


@pytest.mark.parametrize(
    "spoken", ["Preflight 0", " is available.", "requirements: "], ids=["header", "port", "verdict"]
)
def test_interrupted_at_any_moment(place: Place, spoken: str) -> None:
    """Ctrl-C between the steps of a start leaves nothing behind, and no traceback."""
    started = place.start("--demo", "--app", "small:app").until_says(spoken)
    assert started.stop(signal.SIGINT) in (0, 130)
    assert "Traceback" not in started.output
    started.left_nothing()


@pytest.mark.parametrize("command", [["run.py"], ["-m", "server"]], ids=["run.py", "server"])
def test_interrupted_before_it_says_anything(place: Place, command: list[str]) -> None:
    """Ctrl-C while the command itself is still being imported is no traceback, either."""
    # In place of the standard library's: something that the command imports, and that takes its time.
    place.write_module("argparse", "import time\nprint('importing', flush=True)\ntime.sleep(3600)\n")
    started = place.spawn(sys.executable, *command, "--demo", "--port", str(place.port)).until_says("importing")
    assert started.stop(signal.SIGINT) == 130
    assert started.stderr == ""
    started.left_nothing()


@pytest.mark.parametrize("moment", ["checks", "serving"])
def test_killed_launcher_leaves_nothing(equipped: Place, providers: Providers, moment: str) -> None:
    """When the launcher is killed its children end by themselves."""
    providers.openai.hangs = moment == "checks"
    started = equipped.start(PREFLIGHT_PROBE_TIMEOUT="20", PREFLIGHT_REQUIREMENT_TIMEOUT="20")
    if moment == "checks":
        until(lambda: bool(providers.requests), "a service is asked")
    else:
        started.until_ready()
    assert started.family()
    assert started.stop(signal.SIGKILL) == -signal.SIGKILL
    started.left_nothing()


# Other ways to start, other applications.


def test_python_m_server(place: Place) -> None:
    """``python -m server`` takes the launcher's way."""
    started = place.spawn(sys.executable, "-m", "server", "--demo", "--port", str(place.port)).until_ready()
    assert re.search(r"^\d+ requirements: \d+ passed", started.stdout, re.MULTILINE)
    assert json.loads(get(f"{started.url}/diagnostics")[1])["origin"] == "start"
    assert started.stop() == 0
    started.left_nothing()


@pytest.mark.parametrize("name", ["small:app", "small:factory"])
def test_other_application(place: Place, name: str) -> None:
    """Any ASGI application is served, by its name or its factory's; routes that it lacks are not shown."""
    started = place.start("--demo", "--app", name).until_ready()
    assert get(started.url) == (200, "small")
    assert started.stop() == 0
    assert "/health" not in started.stdout
    assert "ws://" not in started.stdout


# Bound to the loop that it was made in: a future, and a task that goes on.
ASYNC_FACTORY = """
import asyncio
from small import app as small

async def make():
    loop = asyncio.get_running_loop()
    future, lived = loop.create_future(), []

    async def live():
        while True:
            lived.append(1)
            await asyncio.sleep(0.01)

    task = asyncio.create_task(live())

    async def app(scope, receive, send):
        if scope["type"] == "http":
            assert asyncio.get_running_loop() is loop
            before = len(lived)
            loop.call_soon(future.cancel)
            await asyncio.wait([future])
            while len(lived) == before:
                await asyncio.sleep(0.01)
        await small(scope, receive, send)

    return app
"""


def test_async_factory(place: Place) -> None:
    """An async factory is awaited in the loop that serves: what it has bound to it works, and goes on meanwhile."""
    place.write_module("guarded", ASYNC_FACTORY)
    started = place.start("--demo", "--app", "guarded:make").until_ready()
    assert get(started.url) == (200, "small")
    assert started.stop() == 0
    started.left_nothing()


@pytest.mark.parametrize(
    "source, message, fix",
    [
        (
            "def app(environ, start_response):\n    return [b'']\n",
            "guarded:app is a WSGI application, called with (environ, start_response)",
            "wrap it: asgi = a2wsgi.WSGIMiddleware(app)",
        ),
        (
            "from small import app as small\ndef app(config):\n    return small\n",
            "guarded:app cannot be called: it needs arguments (config)",
            "give these parameters defaults",
        ),
        (
            "class App:\n    pass\napp = App()\n",
            "guarded:app is not an ASGI application: it cannot be called (it is of type App)",
            "name an ASGI application",
        ),
    ],
)
def test_no_application(place: Place, source: str, message: str, fix: str) -> None:
    """What no server could call is refused by name, before anything is served, with what to do about it."""
    place.write_module("guarded", source)
    started = place.refused("--demo", "--app", "guarded:app")
    assert started.process.returncode == 1
    check = place.check("Application")
    assert check["message"].startswith(message)
    assert check["fix"].startswith(fix)
    assert message in started.stdout
    assert f"Fix: {fix}" in started.stdout


def test_application_that_fails_to_start(place: Place) -> None:
    """An application that imports and then fails in its start-up is exit code 4, with what it said."""
    place.write_module(
        "guarded",
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'the model is not there'})\n",
    )
    started = place.run("--demo", "--app", "guarded:app", "--no-supervise")
    assert started.process.returncode == 4
    assert READY not in started.output
    assert "THE SERVER ENDED" in started.stdout
    assert "the model is not there" in started.output
    started.left_nothing()


def test_worker_that_dies_while_serving(place: Place) -> None:
    """A server that ends by itself is exit code 4, and the port is given back."""
    started = place.start("--demo", "--app", "small:app", "--no-supervise").until_ready()
    for pid in started.family():
        os.kill(pid, signal.SIGKILL)
    assert started.wait() == 4
    assert "THE SERVER ENDED" in started.stdout
    assert "SIGKILL" in started.stdout
    started.left_nothing()


# Started directly, without the launcher.

UVICORN = ("-m", "uvicorn", "--factory", "server.app:create_app", "--port")
SERVING = "Application startup complete"


def test_uvicorn_runs_the_suite(place: Place) -> None:
    """Bare uvicorn runs the suite in the application's start-up; the port is uvicorn's own affair."""
    started = place.spawn(sys.executable, *UVICORN, str(place.port), environ={"PREFLIGHT_DEMO": "1"}).until_says(
        SERVING
    )
    assert re.search(r"requirements: \d+ passed, \d+ not applicable, in", started.stderr)
    until(lambda: listening(place.port), "uvicorn listens")
    assert json.loads(get(f"{place.url}/health")[1])["status"] == "healthy"
    body = json.loads(get(f"{place.url}/diagnostics")[1])
    assert body["origin"] == "start"
    assert body["checks"]["Server Port"]["outcome"] == "not_applicable"
    assert started.stop() in (0, -signal.SIGTERM)
    started.left_nothing()


def test_uvicorn_is_refused(place: Place) -> None:
    """Under bare uvicorn a blocking critical stops the application's start-up, with the red banner."""
    started = place.spawn(sys.executable, *UVICORN, str(place.port), environ={"PREFLIGHT_PYTHON": ">=3.11"})
    assert started.wait() == 3
    banner = unwrapped(started.stderr.partition(BLOCKED)[2])
    assert "Environment File" in banner
    assert f"Fix: {commands.run_py('--init')}" in banner
    assert SERVING not in started.output
    started.left_nothing()


def test_uvicorn_says_what_is_wrong_with_the_state_folder(place: Place) -> None:
    """Where the report cannot go because the state folder is no good, the banner says so with its fix, as run.py's."""
    state_is_a_file(place)
    started = place.spawn(sys.executable, *UVICORN, str(place.port), environ={"PREFLIGHT_DEMO": "1"})
    assert started.wait() == 3
    banner = unwrapped(started.stderr.partition(BLOCKED)[2])
    assert "State Folder" in banner
    assert "PREFLIGHT_STATE_DIR" in banner
    assert "audit refused" in started.stderr
    assert "the preflight blocks the start: State Folder" in started.stderr


def test_uvicorn_is_told_a_wrong_name(place: Place) -> None:
    """A name to ignore that no requirement has is wrong usage: one line, and the report of before stays."""
    place.plant_report()
    environ = {"PREFLIGHT_DEMO": "1", "PREFLIGHT_IGNORE": "Nonsense"}
    started = place.spawn(sys.executable, *UVICORN, str(place.port), environ=environ)
    assert started.wait() == 3
    assert "Nonsense: there is no such requirement" in started.stderr
    assert "THE CHECK SUITE ITSELF FAILED" not in started.output
    assert place.report()["run_id"] == "old"


def test_uvicorn_without_the_suite(place: Place) -> None:
    """PREFLIGHT_SKIP=1 starts without a check, says so loudly, and /diagnostics says that nothing was run."""
    started = place.spawn(sys.executable, *UVICORN, str(place.port), environ={"PREFLIGHT_SKIP": "1"}).until_says(
        SERVING
    )
    assert "PREFLIGHT SKIPPED (PREFLIGHT_SKIP): no requirement was checked" in started.stderr
    until(lambda: listening(place.port), "uvicorn listens")
    assert json.loads(get(f"{place.url}/diagnostics")[1])["status"] == "not run"
    assert json.loads(get(f"{place.url}/health")[1])["warnings"] == ["Preflight was not run"]
    assert not place.report_file.exists()
    assert started.stop() in (0, -signal.SIGTERM)
