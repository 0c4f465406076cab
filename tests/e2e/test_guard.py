"""``guard(app)`` under servers that are not ours: uvicorn and hypercorn, with one process and with several."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from websockets.sync.client import connect

import preflight
from tests.e2e.beside import BEARER, ECHO, PREFIX, RAN, SHOP, TOKEN, ask, everywhere, link_of, logged_in, nonce_of
from tests.e2e.place import ROOT, Place, Started, listening
from tests.waiting import until

SERVERS: dict[str, Callable[[int], list[str]]] = {
    "uvicorn": lambda port: ["uvicorn", "shop:app", "--port", str(port)],
    "uvicorn, 2 workers": lambda port: ["uvicorn", "shop:app", "--port", str(port), "--workers", "2"],
    "hypercorn": lambda port: ["hypercorn", "--bind", f"127.0.0.1:{port}", "shop:app"],
    "hypercorn, 2 workers": lambda port: ["hypercorn", "--bind", f"127.0.0.1:{port}", "--workers", "2", "shop:app"],
}


def spawn(place: Place, server: str = "uvicorn", shop: str = SHOP, *more: str, **environ: str) -> Started:
    place.write_module("echo", ECHO)
    place.write_module("shop", shop)
    command = [sys.executable, "-m", *SERVERS[server](place.port), *more]
    return place.spawn(*command, environ={"PREFLIGHT_DEMO": "1", **environ})


def serve(place: Place, server: str = "uvicorn", shop: str = SHOP, *more: str, **environ: str) -> Started:
    started = spawn(place, server, shop, *more, **environ)
    until(lambda: listening(place.port), "it listens")
    until(lambda: ask(started, f"{PREFIX}/health").status_code == 200, "it answers")
    return started


@pytest.mark.parametrize("server", SERVERS)
def test_a_good_start(server: str, place: Place) -> None:
    """The suite runs once, the link logs in once, and a login that was ended counts in no process.

    The nonce of the page lets it re-run under another server, too.
    """
    started = serve(place, server)
    workers = 2 if "2" in server else 1
    started.until_says("login?code")
    session = logged_in(started)
    everywhere(started, session, workers)
    assert len(RAN.findall(started.output)) == 1
    assert requests.get(link_of(started), timeout=30).status_code == 401
    report = place.report()
    assert (report["origin"], report["may_start"], report["address"]) == ("start", True, f"127.0.0.1:{place.port}")
    assert place.check("Server Port")["outcome"] == "not_applicable"
    # The application answers everything else, and nobody but it.
    assert ask(started, "/x", cookies={"a": "1"}).json()["scope"]["path"] == "/x"
    if server == "hypercorn":  # which hands its requests over in its own way
        headers = {"Origin": started.url, "X-Preflight-Nonce": nonce_of(session, started)}
        assert session.post(f"{started.url}{PREFIX}/diagnostics/run", timeout=30).status_code == 403
        begun = session.post(f"{started.url}{PREFIX}/diagnostics/run", headers=headers, timeout=30)
        assert begun.status_code == 202
        address = started.url + begun.headers["location"]
        until(lambda: bool(session.get(address, timeout=30).json()["state"] != "running"), "the re-run is over")
    kept = dict(session.cookies)
    for _ in range(10):
        assert ask(started, f"{PREFIX}/metrics").status_code == 401
    session.post(f"{started.url}{PREFIX}/logout", headers={"Origin": started.url}, timeout=30)
    for _ in range(10):
        answer = ask(started, f"{PREFIX}/metrics", cookies=kept, headers={"Connection": "close"})
        assert answer.status_code == 401
    started.insist(signal.SIGTERM)
    assert "Traceback" not in started.output
    started.left_nothing()


@pytest.mark.parametrize("server", SERVERS)
def test_a_start_that_is_blocked(server: str, place: Place) -> None:
    """The server's own start-up fails with the reason, after one run for all its processes, and nobody is served."""
    started = spawn(place, server, PREFLIGHT_TOKEN="short")
    started.wait()
    assert "the preflight blocks the start: Exposure" in started.output
    assert len(RAN.findall(started.output)) == 1
    assert "Fix:" in started.output or "fix" in started.output.lower()
    if server == "uvicorn":
        assert started.process.returncode == 3
    assert "login?code" not in started.output
    started.left_nothing()
    assert place.report()["may_start"] is False


def test_a_wrong_setting(place: Place) -> None:
    """It is named, and nothing is served."""
    started = spawn(place, PREFLIGHT_PORT="none")
    assert started.wait() == 3
    assert "PREFLIGHT_PORT must be a whole number" in started.output


def test_a_worker_that_is_started_again(place: Place) -> None:
    """It goes by what its group has found; the group's login counts for it, and its code does not count again.

    A second start asks again: what an earlier one has found, of this very command and address, is not gone by.
    """
    started = serve(place, "uvicorn, 2 workers")
    started.until_says("login?code")
    session, link = logged_in(started), link_of(started)
    before = everywhere(started, session, 2)
    os.kill(min(before), signal.SIGKILL)
    started.until_says(f"Child process [{min(before)}] died")
    until(lambda: started.output.count("Application startup complete") == 3, "another one serves")
    seen: set[int] = set()

    def another_has() -> bool:
        seen.add(
            session.get(f"{started.url}{PREFIX}/diagnostics", headers={"Connection": "close"}, timeout=30).json()[
                "server"
            ]["pid"]
        )
        return bool(seen - before)

    until(another_has, "the new one has answered")
    assert len(RAN.findall(started.output)) == 1
    assert requests.get(link, timeout=30).status_code == 401
    started.insist()

    second = serve(place, "uvicorn, 2 workers")
    assert len(RAN.findall(second.output)) == 1
    assert link_of(second) != link
    assert session.get(f"{second.url}{PREFIX}/metrics", timeout=30).status_code == 401
    second.insist()


def test_with_a_token(place: Place) -> None:
    """Programs send the header; a re-run runs in the server's own process."""
    started = serve(place, PREFLIGHT_TOKEN=TOKEN)
    begun = ask(started, f"{PREFIX}/diagnostics/run", "POST", headers=BEARER)
    assert begun.status_code == 202

    def over() -> bool:
        return bool(ask(started, begun.headers["location"], headers=BEARER).json()["state"] != "running")

    until(over, "the re-run is over")
    assert ask(started, begun.headers["location"], headers=BEARER).json()["status"] == "passed"
    assert "preflight_http_requests_in_flight" not in ask(started, f"{PREFIX}/metrics", headers=BEARER).text
    assert "code=" not in started.output
    started.stop()


def test_without_a_lifespan(place: Place) -> None:
    """Nothing has been checked then, so nothing is served: neither ours nor the application's."""
    started = spawn(place, "uvicorn", SHOP, "--lifespan", "off")
    until(lambda: listening(place.port), "it listens")
    for path in ("/", f"{PREFIX}/health"):
        answer = ask(started, path)
        assert answer.status_code == 503
        assert "have not been checked" in answer.text
    started.stop()


def test_skipped(place: Place) -> None:
    """A loud word that nothing was checked; the routes need a login all the same."""
    started = serve(place, PREFLIGHT_SKIP="1")
    assert "PREFLIGHT SKIPPED" in started.output
    assert ask(started, f"{PREFIX}/diagnostics").status_code == 401
    assert logged_in(started).get(f"{started.url}{PREFIX}/diagnostics", timeout=30).json()["status"] == "not run"
    started.stop()


def test_off(place: Place) -> None:
    """The suite runs, and every path is the application's."""
    started = spawn(place, PREFLIGHT_WEB_PREFIX="off")
    until(lambda: listening(place.port), "it listens")
    assert ask(started, f"{PREFIX}/health").json()["scope"]["path"] == f"{PREFIX}/health"
    assert len(RAN.findall(started.output)) == 1
    assert "login?code" not in started.output
    started.stop()


def test_behind_the_launcher(place: Place) -> None:
    """It has checked already, and its worker has the routes: the guard stands aside."""
    place.write_module("echo", ECHO)
    place.write_module("shop", SHOP)
    started = place.start("--demo", "--app", "shop:app").until_ready()
    assert ask(started, "/x").json()["scope"]["path"] == "/x"
    assert len(RAN.findall(started.output)) == 1
    assert logged_in(started).get(f"{started.url}{PREFIX}/metrics", timeout=30).status_code == 200
    assert started.stop() == 0


def test_the_application_sees_what_it_sees_without(place: Place) -> None:
    """Scope, state and messages are the server's; only our cookies are missing.

    On a port that the system chose: the link has no address then, and the cookie has the port, which the first
    connection tells.
    """
    place.port = 0
    started = spawn(place).until_says("Uvicorn running")
    url, port = address_of(started)
    way_in = re.search(r"Preflight +(/_preflight/login\?code=\w+)", started.output)
    assert way_in is not None
    session = requests.Session()
    session.get(url + way_in[1], timeout=30)
    assert f"preflight_{port}_beside" in session.cookies

    bare = place.spawn(sys.executable, "-m", "uvicorn", "echo:app", "--port", "0").until_says("Uvicorn running")

    def seen(from_: str) -> Any:
        headers = {"Host": "shop.test", "X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
        headers |= {"Cookie": f"a=1; preflight_{port}_beside=1.x.y"} if from_ == url else {"Cookie": "a=1"}
        answer = requests.post(f"{from_}/a%2Fb?c", data=b"x" * 100_000, headers=headers, timeout=30)
        body: dict[str, Any] = answer.json()
        with connect(from_.replace("http", "ws") + "/w", additional_headers={"Cookie": "a=1"}) as client:
            socket = json.loads(client.recv(timeout=30))
        for scope in (body["scope"], socket):
            scope["server"] = None
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] not in ("host", "sec-websocket-key")]
        socket["client"] = None
        return body, socket

    with_us = seen(url)
    assert with_us == seen(address_of(bare)[0])
    assert with_us[0]["scope"]["client"] == ["203.0.113.7", 0]
    assert with_us[0]["scope"]["scheme"] == "https"
    bare.stop()
    started.stop()
    assert "the application has shut down" in started.output


def address_of(started: Started) -> tuple[str, str]:
    """Where uvicorn says that it listens, and the port of it."""
    found = re.search(r"running on (http://127.0.0.1:(\d+))", started.output)
    assert found is not None
    return found[1], found[2]


def test_what_is_no_application() -> None:
    """It is said at once."""
    with pytest.raises(TypeError, match="takes an ASGI application"):
        preflight.guard(None)  # type: ignore[arg-type]


def test_what_nobody_takes(place: Place) -> None:
    """``guard(app)`` alone guards nothing, and is said when the server imports it."""
    started = spawn(place, shop="from echo import app\nfrom preflight import guard\n\nguard(\n    app\n)\n")
    started.until_says("RuntimeWarning: the result of guard() is not used")
    assert f"{place.folder / 'modules' / 'shop.py'}:4: " in started.output


async def application(*_: object) -> None:
    """What a test guards."""


def test_what_somebody_takes(recwarn: pytest.WarningsRecorder) -> None:
    """Whoever keeps it for a while only, as tests do, is told nothing."""
    guarded = preflight.guard(application)
    del guarded
    assert [str(one.message) for one in recwarn] == []


NEEDS_DATABASE = '''
import pytest


@pytest.mark.critical("Shop Database", fix="set SHOP_DATABASE")
def test_database(settings):
    """The shop knows its database."""
    assert settings.environment.get("SHOP_DATABASE"), "SHOP_DATABASE is not set"
'''


def test_a_project_of_somebody_elses(place: Place, tmp_path: Path) -> None:
    """The project is that of the folder where the server is started: its own requirements are asked."""
    shop = tmp_path / "shop"
    (shop / "preflight_suite").mkdir(parents=True)
    (shop / "source").mkdir()
    about = 'name = "shop"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["uvicorn"]'
    (shop / "pyproject.toml").write_text(f"[project]\n{about}\n")
    (shop / "preflight_suite" / "test_project.py").write_text(NEEDS_DATABASE)
    (shop / "source" / "echo.py").write_text(ECHO)
    (shop / "source" / "shop.py").write_text(SHOP)
    command = [sys.executable, "-m", *SERVERS["uvicorn"](place.port)]
    environ = {"PYTHONPATH": str(ROOT)}
    refused = place.spawn(*command, cwd=shop / "source", environ=environ)
    assert refused.wait() == 3
    assert "the preflight blocks the start: Shop Database" in refused.output
    started = place.spawn(*command, cwd=shop / "source", environ={**environ, "SHOP_DATABASE": "x"})
    started.until_says("Uvicorn running")
    assert place.check("Shop Database")["outcome"] == "passed"
    assert "shop:app (guard())" in place.check("Application")["message"]
    assert ask(started, f"{PREFIX}/health").json()["status"] == "healthy"
    session = logged_in(started)
    headers = {"Origin": started.url, "X-Preflight-Nonce": nonce_of(session, started)}
    run = session.post(f"{started.url}{PREFIX}/diagnostics/run", headers=headers, timeout=30)
    address = started.url + run.headers["location"]
    until(lambda: bool(session.get(address, timeout=30).json()["state"] != "running"), "the re-run is over")
    assert session.get(address, timeout=30).json()["status"] == "passed"
    started.stop()
