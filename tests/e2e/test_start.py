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
from tests.e2e.place import BLOCKED, KEYS, READY, Place, Started, get, listening
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


# What can be taken away, and what the red banner then says. test_every_fix.py has more applications.


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
    "missing attribute": Cause(
        application("", "absent"), "Application", "module 'guarded' has no attribute 'absent'", f"{LOAD}absent"
    ),
    "segfault": Cause(application("import ctypes; ctypes.string_at(0)"), "Application", "(SIGSEGV)", f"{LOAD}app"),
}


def unwrapped(text: str) -> str:
    """The text without the line breaks that the terminal's width put in."""
    return " ".join(text.split())


def blamed(place: Place, started: Started, *names: str) -> None:
    """Each of these causes has its place in the red banner, with its fix, and nothing was stopped."""
    causes = [CAUSES[name] for name in names]
    assert started.process.returncode == 1
    count = f"{len(causes)} CRITICAL ERROR{'S' if len(causes) > 1 else ''}"
    good, _, banner = started.stdout.partition(f"{count}: {BLOCKED}")
    assert banner, started.output
    for cause in causes:
        _, _, said = unwrapped(banner).partition(f"❌ {cause.title} ")
        said, _, fix = said.partition("❌ ")[0].partition("Fix: ")
        assert cause.message in said, started.output
        assert cause.fix.format(root=place.root) in fix, started.output
    (blocked,) = re.findall("not tried, and nothing was stopped: the start is blocked by (.*)", good)
    assert set(blocked.strip().split(", ")) == {cause.title for cause in causes}
    assert "SIGTERM" not in started.output


@pytest.mark.parametrize("names", [("file", "metadata", "python"), ("version", "state", "missing attribute")], ids=str)
def test_things_missing(equipped: Place, names: tuple[str, ...]) -> None:
    """Whatever is missing stands in the red banner with its fix, and the server on the port is left alone."""
    holder = equipped.listener()
    for name in names:
        CAUSES[name].remove(equipped)
    started = equipped.run()
    blamed(equipped, started, *names)
    assert holder.process.poll() is None
    assert listening(equipped.port)
    holder.stop()
    started.left_nothing()


@pytest.mark.parametrize("name", ["key", "segfault"])
def test_a_refused_start_serves_nothing(equipped: Place, name: str) -> None:
    """On a free port a refused start ends with exit code 1, nothing listening, and its own report or none."""
    CAUSES[name].remove(equipped)
    blamed(equipped, equipped.refused(), name)


def test_taken_port_without_cleanup(place: Place) -> None:
    """With --no-cleanup a busy port blocks: who holds it, how to end it, and it lives on."""
    holder = place.listener()
    started = place.run("--no-cleanup", "--demo", "--app", "small:app")
    assert started.process.returncode == 1
    banner = unwrapped(started.stdout.partition(f"1 CRITICAL ERROR: {BLOCKED}")[2])
    assert banner.startswith("❌ Server Port")
    assert f"(PID {holder.pid}" in banner
    assert f"Fix: kill {holder.pid}" in banner
    assert holder.process.poll() is None
    assert listening(place.port)


def test_warnings_do_not_block(equipped: Place) -> None:
    """What is only a warning is shown yellow with its fix, and the server starts.

    Whoever ignores SIGTERM on its port gets SIGKILL after the grace that the settings give, and the lines say so.
    """
    equipped.write_env_file(OPENAI_API_KEY=KEYS["OPENAI_API_KEY"])
    equipped.env_file.chmod(0o644)
    holder = equipped.listener("stubborn")
    started = equipped.start(PREFLIGHT_PORT_GRACE="0.3").until_ready()
    assert holder.wait() == -signal.SIGKILL
    before = unwrapped(started.stdout.partition("✅")[0])
    assert re.search(r"SIGTERM.*SIGKILL.*exited.* listens on 127.0.0.1 port", before)
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
    assert get(f"{started.url}/health/live")[0] == 200
    assert started.stop() == 0


def test_stale_listener_is_stopped(place: Place) -> None:
    """A server left over on the port is named, asked to end, and the port is served."""
    holder = place.listener()
    started = place.start("--demo", "--app", "small:app").until_ready()
    assert holder.wait() == -signal.SIGTERM
    before = unwrapped(started.stdout.partition("✅")[0])
    assert f"127.0.0.1:{place.port} is in use by " in before
    assert f"(PID {holder.pid}, user " in before
    assert f"listener.py {place.port}" in before
    assert re.search(r"SIGTERM.*exited.* listens on 127.0.0.1 port", before)
    assert "SIGKILL" not in before
    assert "stopped " in unwrapped(started.stdout.partition("Port Cleanup")[2].partition("\n")[0])
    assert get(started.url) == (200, "small")
    assert started.stop() == 0


# Signals.


def test_stopped_during_the_checks(equipped: Place, providers: Providers) -> None:
    """Stopped while a check waits for its answer: a line instead of a traceback, no server, no process left."""
    providers.openai.hangs = True
    started = equipped.start(PREFLIGHT_PROBE_TIMEOUT="20", PREFLIGHT_REQUIREMENT_TIMEOUT="20")
    until(lambda: bool(providers.requests), "a service is asked")
    assert started.stop(signal.SIGINT) == 130
    assert "Stopped by SIGINT; nothing was started." in started.stdout
    assert "Traceback" not in started.output
    started.left_nothing()


def test_second_signal_ends_at_once(quick: Place) -> None:
    """An application that does not end is ended by a second Ctrl-C."""
    quick.write_module(
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
    started = quick.start("--demo", "--app", "guarded:app", PREFLIGHT_GRACEFUL_TIMEOUT="60").until_ready()
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


@pytest.mark.parametrize("moment", ["checks", "serving"])
def test_killed_launcher_leaves_nothing(equipped: Place, providers: Providers, moment: str) -> None:
    """When the launcher is killed its children end by themselves."""
    providers.openai.hangs = moment == "checks"
    if moment == "checks":
        started = equipped.start(PREFLIGHT_PROBE_TIMEOUT="20", PREFLIGHT_REQUIREMENT_TIMEOUT="20")
        until(lambda: bool(providers.requests), "a service is asked")
    else:
        started = equipped.start("--app", "small:app").until_ready()
    assert started.family()
    assert started.stop(signal.SIGKILL) == -signal.SIGKILL
    started.left_nothing()


# Other ways to start, other applications.


def test_python_m_server(place: Place) -> None:
    """``python -m server`` takes the launcher's way."""
    command = (sys.executable, "-m", "server", "--demo", "--app", "small:app", "--port", str(place.port))
    started = place.spawn(*command).until_ready()
    assert re.search(r"^\d+ requirements: \d+ passed", started.stdout, re.MULTILINE)
    assert place.report()["origin"] == "start"
    assert started.stop() == 0
    started.left_nothing()


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


@pytest.mark.parametrize(
    "name, number",
    [("small:app", signal.SIGINT), ("small:factory", signal.SIGTERM), ("guarded:make", signal.SIGHUP)],
    ids=["application", "factory", "async factory"],
)
def test_other_application(quick: Place, name: str, number: signal.Signals) -> None:
    """Any ASGI application is served, by its name or its factory's; routes that it lacks are not shown.

    An async factory is awaited in the loop that serves: what it has bound to it works, and goes on meanwhile. Stopped
    while it serves, by any of these signals, the server ends with exit code 0, and no process and no listener is left.
    """
    quick.write_module("guarded", ASYNC_FACTORY)
    started = quick.start("--demo", "--app", name).until_ready()
    assert get(started.url) == (200, "small")
    assert started.stop(number) == 0
    assert "/health" not in started.stdout
    assert "ws://" not in started.stdout
    assert "Traceback" not in started.output
    started.left_nothing()


# Modules with something that no server could call, what is said of it, and what to do about it.
NO_APPLICATIONS = {
    "demanding": (
        "from small import app as small\ndef app(config):\n    return small\n",
        "demanding:app cannot be called: it needs arguments (config)",
        "give these parameters defaults",
    ),
    "silent": (
        "class App:\n    pass\napp = App()\n",
        "silent:app is not an ASGI application: it cannot be called (it is of type App)",
        "name an ASGI application",
    ),
    "gateway": (
        "def app(environ, start_response):\n    return [b'']\n",
        "gateway:app is a WSGI application, called with (environ, start_response)",
        "wrap it: asgi = a2wsgi.WSGIMiddleware(app)",
    ),
}


def test_no_application(place: Place) -> None:
    """What no server could call is refused by name, before anything is served, with what to do about it."""
    for name, (source, message, fix) in NO_APPLICATIONS.items():
        place.write_module(name, source)
        loaded = place.spawn(sys.executable, "-m", "preflight.worker.loadapplication", f"{name}:app", "--demo")
        assert loaded.wait() == 1
        assert message in loaded.stderr
        assert f"\nFix: {fix}" in loaded.stderr
    started = place.refused("--demo", "--app", "gateway:app")
    assert started.process.returncode == 1
    check = place.check("Application")
    assert check["message"].startswith(message)
    assert check["fix"].startswith(fix)
    assert message in started.stdout
    assert f"Fix: {fix}" in started.stdout


def test_application_that_fails_to_start(quick: Place) -> None:
    """An application that imports and then fails in its start-up is exit code 4, with what it said."""
    quick.write_module(
        "guarded",
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'the model is not there'})\n",
    )
    started = quick.run("--demo", "--app", "guarded:app", "--no-supervise")
    assert started.process.returncode == 4
    assert READY not in started.output
    assert "THE SERVER ENDED" in started.stdout
    assert "the model is not there" in started.output
    started.left_nothing()


def test_worker_that_dies_while_serving(quick: Place) -> None:
    """A server that ends by itself is exit code 4, and the port is given back."""
    started = quick.start("--demo", "--app", "small:app", "--no-supervise").until_ready()
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
    """Bare uvicorn runs the suite in the application's start-up; the port is uvicorn's own affair.

    It is the one that uvicorn was given, in the report as well.
    """
    started = place.spawn(sys.executable, *UVICORN, str(place.port), environ={"PREFLIGHT_DEMO": "1"}).until_says(
        SERVING
    )
    assert re.search(r"requirements: \d+ passed, \d+ not applicable, in", started.stderr)
    until(lambda: listening(place.port), "uvicorn listens")
    assert json.loads(get(f"{place.url}/health")[1])["status"] == "healthy"
    body = json.loads(get(f"{place.url}/diagnostics")[1])
    assert body["origin"] == "start"
    assert body["checks"]["Server Port"]["outcome"] == "not_applicable"
    assert body["server"]["port"] == place.port
    assert place.report()["address"] == f"127.0.0.1:{place.port}"
    assert body["run_id"] == place.report()["run_id"]
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
