"""What systemd is told of a start, of the instance that it becomes and of its end; and when its watchdog is fed."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.place import READY, Place, Started, get
from tests.e2e.processes import BACK, kill_worker, worker_of
from tests.servicemanagers import Hearing, mentioned
from tests.waiting import until

DEMO = ("--demo", "--app", "small:app")
HANGING = """
import os, time

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        time.sleep(float(os.environ.get("SLOW", 0)))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/hang":
        print("hangs from now on", flush=True)
        time.sleep(3600)
    told = " ".join(name for name in os.environ if name.startswith(("NOTIFY_", "WATCHDOG_")))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"told: {told}".encode()})
"""
Run = Callable[..., Started]


@pytest.fixture
def hearing(tmp_path: Path) -> Iterator[Hearing]:
    with Hearing(tmp_path / "notify") as hearing:
        yield hearing


def hang(place: Place) -> threading.Thread:
    """Have the worker's event loop stand still."""

    def ask() -> None:
        with contextlib.suppress(OSError):
            get(f"{place.url}/hang", timeout=120)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    return asking


def test_from_the_first_check_to_the_end(place: Place, hearing: Hearing) -> None:
    """Ready with the banner and no earlier; what goes on is said in words; the application sees nothing of it."""
    place.write_module("mine", HANGING)
    started = place.start("--demo", "--app", "mine:app", **hearing.environ(watchdog=600)).until_ready()
    ready = hearing.until(lambda one: "READY" in one, "READY=1")
    first = hearing.messages[0]
    assert int(first["EXTEND_TIMEOUT_USEC"]) >= 30_000_000
    assert not any("WATCHDOG" in one for one in hearing.messages[:ready])  # nobody looks before it is ready
    titles = [check["title"] for check in place.report()["checks"]]
    every = [f"Checking {title} ({number} of {len(titles)})" for number, title in enumerate(titles, 1)]
    checking = [one for one in hearing.values("STATUS") if one.startswith("Checking ")]
    # One that its socket has no room for makes way for the next.
    assert checking
    assert checking == [one for one in every if one in checking]
    assert hearing.messages[ready - 1]["STATUS"] == f"Serving 127.0.0.1:{place.port}; nothing blocks"
    hearing.until(lambda one: "WATCHDOG" in one, "WATCHDOG=1", since=ready)
    assert get(place.url) == (200, "told: ")
    assert mentioned(Path(f"/proc/{worker_of(started)}/environ").read_bytes()) == []
    assert started.stop() == 0
    last = hearing.messages[-1]
    assert last["STOPPING"] == "1"
    assert int(last["EXTEND_TIMEOUT_USEC"]) == 5_750_000
    assert last["STATUS"] == "Stopping (SIGTERM). Accepted work is being finished, within 5.75 s."
    assert hearing.values("READY") == ["1"]


def test_a_start_that_is_refused(place: Place, hearing: Hearing) -> None:
    """The status says what blocks it, and stays in ``systemctl status``."""
    refused = place.start("--demo", "--app", "nosuch:app", **hearing.environ())
    assert refused.wait() == 1
    assert hearing.values("STATUS")[-1] == "Not started: blocked by Application"
    assert not hearing.values("READY")


def test_while_it_waits(place: Place, hearing: Hearing) -> None:
    """Under --wait systemd is asked for time again and again, and told what is waited for."""
    started = place.start("--demo", "--app", "later:app", "--wait", "300", **hearing.environ())
    waiting = hearing.until(
        lambda one: one.get("STATUS") == "Not started: waiting for Application", "what it waits for"
    )
    hearing.until(lambda one: "EXTEND_TIMEOUT_USEC" in one, "that it needs more time", since=waiting)
    assert not hearing.values("READY")
    place.write_module("later", "async def app(scope, receive, send): ...")
    started.until_ready()
    hearing.until(lambda one: "READY" in one, "READY=1")
    assert started.stop() == 0


def test_a_re_run_and_a_replacement(place: Place) -> None:
    """The verdict of a re-run is in the status, and one who is replaced says so before it ends.

    The socket is an abstract one, as systemd names it in a container, and there is no watchdog to be fed.
    """
    with Hearing(f"@preflight-test-{place.port}") as hearing:
        rerun_and_replaced(place, hearing)
    assert not hearing.values("WATCHDOG")


def rerun_and_replaced(place: Place, hearing: Hearing) -> None:
    place.write_module("mine", HANGING)
    place.write_env_file(GREETING="hello")
    given = {"PREFLIGHT_PYTHON": ">=3.11", "PREFLIGHT_REFRESH": "10s", "PREFLIGHT_RUN_TIMEOUT": "120s"}
    given |= hearing.environ()
    started = place.start("--offline", "--app", "mine:app", **given).until_ready()
    ready = hearing.until(lambda one: "READY" in one, "READY=1")
    place.env_file.chmod(0o644)
    status = f"Serving 127.0.0.1:{place.port}; warnings: Environment File Permissions"
    hearing.until(lambda one: one.get("STATUS") == status, "the warning", since=ready)
    place.env_file.chmod(0o600)
    new = place.start("--demo", "--app", "mine:app").until_ready()
    assert started.wait() == 0
    last = hearing.messages[-1]
    assert last["STOPPING"] == "1"
    assert last["STATUS"].startswith(f"Replaced by another start (PID {new.pid}); stopping.")
    assert hearing.values("READY") == ["1"]
    assert new.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_event_loop_that_stands_still_starves_the_watchdog(place: Place, hearing: Hearing, workers: str) -> None:
    """systemd's watchdog is fed with signs of life of the workers, and of nobody else: where one gives none, it fires.

    Our own watchdog is off here; the launcher goes on, and answers whoever asks who it is.
    """
    place.write_module("mine", HANGING)
    environ = {"PREFLIGHT_WORKERS": workers, **hearing.environ(watchdog=2.5)}
    started = place.start("--demo", "--app", "mine:app", PREFLIGHT_HEARTBEAT="0", **environ).until_ready()
    ready = hearing.until(lambda one: "READY" in one, "READY=1")
    fed = hearing.until(lambda one: "WATCHDOG" in one, "WATCHDOG=1", since=ready)
    hearing.until(lambda one: "WATCHDOG" in one, "WATCHDOG=1", since=fed)
    asking = hang(place)
    started.until_says("hangs from now on")

    def is_fed() -> bool:
        before = len(hearing.values("WATCHDOG"))
        status = place.run("--port-status")  # seconds in which the launcher answers
        assert "served by an instance of ours" in status.stdout
        return len(hearing.values("WATCHDOG")) > before

    until(lambda: not is_fed(), "nothing feeds the watchdog any more")
    started.insist(signal.SIGTERM)
    asking.join(60)


def test_while_another_worker_starts_its_deadline_is_the_watchdogs(place: Place, hearing: Hearing) -> None:
    """Nobody can give signs of life then, and systemd does not interfere with a restart of ours."""
    place.write_module("mine", HANGING)
    environ = {"PREFLIGHT_RESTART_WINDOW": "50s", "PREFLIGHT_STARTUP_TIMEOUT": "90s", **hearing.environ(watchdog=20)}
    started = place.start("--demo", "--supervise", "--app", "mine:app", **environ).until_ready()
    kill_worker(started)
    started.until_says(BACK)
    crashed = hearing.until(lambda one: "WATCHDOG_USEC" in one, "another period")
    assert hearing.messages[crashed - 1]["WATCHDOG_USEC"] == "140000000"  # restart_window and startup_timeout
    back = hearing.until(lambda one: "WATCHDOG_USEC" in one, "its own period", since=crashed)
    assert hearing.messages[back - 1] == {"WATCHDOG_USEC": "20000000", "WATCHDOG": "1"}
    assert not any("WATCHDOG" in one for one in hearing.messages[crashed - 1 : back - 1])
    told = [one for one in hearing.values("STATUS") if one.startswith("The worker ended (SIGKILL")]
    assert told
    assert told[0].endswith("another one starts at once. Connections wait.")
    assert hearing.until(lambda one: one.get("STATUS", "").startswith("Serving "), "that it serves", since=crashed)
    assert started.stop() == 0


def test_a_manager_that_does_not_read(place: Place, tmp_path: Path) -> None:
    """Nobody waits for it: the server is up and ends as if there were none, and says once that it is unheard."""
    gone = str(tmp_path / "gone")
    started = place.start(*DEMO, NOTIFY_SOCKET=gone).until_ready()
    assert started.stop() == 0
    assert started.stdout.count("systemd cannot be told anything: No such file or directory") == 1
    assert READY in started.stdout
