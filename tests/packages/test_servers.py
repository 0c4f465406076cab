"""Servers of a package index with several workers each: `guard(app)` in them, and the check before them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.beside import ECHO, PREFIX, RAN, SHOP, ask, everywhere, logged_in
from tests.e2e.place import BLOCKED, ROOT, Place, Started, listening
from tests.packages.environments import make_environment, place_in, with_extra
from tests.waiting import until

GUNICORN = "gunicorn -k uvicorn_worker.UvicornWorker"
SERVERS: dict[str, Callable[[int], str]] = {
    "granian": lambda port: f"granian --interface asgi --host 127.0.0.1 --port {port} --workers 2",
    "gunicorn": lambda port: f"{GUNICORN} -b 127.0.0.1:{port} -w 2",
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """One environment with these servers and the wheel."""
    folder = tmp_path_factory.mktemp("servers") / "venv"
    return make_environment(folder, "granian", "gunicorn", "uvicorn-worker", with_extra(wheel))


@pytest.fixture
def place(tmp_path: Path, environment: Path) -> Iterator[Place]:
    """A project with an application, and with the same application guarded."""
    place = place_in(tmp_path, environment)
    (place.root / "pyproject.toml").write_text('[tool.preflight]\napp = "echo:app"\n')
    (place.root / "echo.py").write_text(ECHO)
    (place.root / "shop.py").write_text(SHOP)
    yield place
    place.close()


def typed(place: Place, line: str, **environ: str) -> Started:
    return place.spawn("bash", "-c", line, environ=environ)


@pytest.mark.parametrize("server", SERVERS)
def test_a_group_is_checked_once(server: str, place: Place) -> None:
    """Its processes share one run of the suite and its login, and the application is shut down in each."""
    started = typed(place, f"exec {SERVERS[server](place.port)} shop:app")
    started.until_says("login?code")
    until(lambda: listening(place.port), "it listens")
    everywhere(started, logged_in(started), 2)
    assert len(RAN.findall(started.output)) == 1
    assert ask(started, "/x").json()["scope"]["path"] == "/x"
    assert ask(started, f"{PREFIX}/metrics").status_code == 401
    started.stop()
    assert started.output.count("the application has shut down") == 2
    started.left_nothing()


@pytest.mark.parametrize("server", SERVERS)
def test_a_group_that_is_blocked(server: str, place: Place) -> None:
    """It ends with the reason, after one run, and has served nobody."""
    started = typed(place, f"exec {SERVERS[server](place.port)} shop:app", PREFLIGHT_TOKEN="short")
    assert started.wait() != 0
    assert "the preflight blocks the start: Exposure" in started.output
    assert len(RAN.findall(started.output)) == 1
    assert "login?code" not in started.output
    started.left_nothing()


def test_the_check_before_the_server(place: Place) -> None:
    """The documented line: the server takes the shell's place, has all signals, and does not start where one blocks."""
    documented = f"--check-only && exec {GUNICORN} "
    assert documented in (ROOT / "docs" / "application.md").read_text()
    line = f"preflight {documented}-b 127.0.0.1:{place.port} -w 2 echo:app"
    started = typed(place, line)
    until(lambda: listening(place.port), "it listens")
    assert ask(started, f"{PREFIX}/health").json()["scope"]["path"] == f"{PREFIX}/health"
    assert len(RAN.findall(started.output)) == 1
    started.send(signal.SIGTERM)
    assert started.wait() == 0
    started.left_nothing()
    refused = typed(place, line, PREFLIGHT_PYTHON=">=99")
    assert refused.wait() == 1
    assert BLOCKED in refused.output
    assert "gunicorn" not in refused.output
    refused.left_nothing()
