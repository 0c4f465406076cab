"""The units of deploy/systemd: what systemd itself finds in them, and what the user's do under a real systemd."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import systemd
from tests.e2e.place import ROOT, Place
from tests.e2e.systemd import Systemd

UNITS = ROOT / "deploy" / "systemd"
SERVICE, SOCKET = "preflight@shop.service", "preflight@shop.socket"
APP = """
import asyncio, os, time

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/hang":
        time.sleep(3600)
    if scope["path"] == "/slow":
        await asyncio.sleep(7)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""
CLIENT = """
import http.client, sys, time
refused = answered = 0
until = open(sys.argv[1]).read
while not until():
    try:
        connection = http.client.HTTPConnection("127.0.0.1", 8002, timeout=100)
        connection.request("GET", "/", headers={"Connection": "close"})
        answered += connection.getresponse().status == 200
    except OSError as error:
        refused += 1
        print(repr(error))
    time.sleep(0.01)
print(answered, refused)
"""
needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units as they are installed for one application, whose command is there."""
    for kind, home in ((".", "/srv/%i"), ("user", "%h/%i")):
        (tmp_path / kind).mkdir(exist_ok=True)
        for unit in (UNITS / kind).glob("preflight@.*"):
            text = unit.read_text().replace(f"{home}/.venv/bin/preflight", "/bin/true")
            (tmp_path / kind / unit.name.replace("@.", "@shop.")).write_text(text)
    return tmp_path


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(folder), "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    command = ["systemd-analyze", "--no-pager", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)


@needs_analyze
@pytest.mark.parametrize("whose", ["system", "user"])
def test_systemd_finds_nothing_wrong(units: Path, whose: str) -> None:
    """Every directive is known and in its place."""
    folder = units if whose == "system" else units / "user"
    for unit in (SERVICE, SOCKET):
        verified = analyze(units, f"--{whose}", "verify", str(folder / unit))
        assert verified.returncode == 0, verified.stderr
        assert "preflight@" not in verified.stderr


@needs_analyze
def test_what_a_service_could_do_is_limited(units: Path) -> None:
    """systemd's own measure of exposure: 9.6 is a service without any limit, and 2.0 or less is asked for here."""
    measured = analyze(units, "security", "--offline=true", "--threshold=20", str(units / SERVICE))
    assert measured.returncode == 0, measured.stdout[-500:]
    assert re.search(r"Overall exposure level for preflight@shop\.service: [01]\.\d", measured.stdout)


@pytest.fixture
def user(place: Place) -> Iterator[Systemd]:
    """A user's systemd with the application ``shop``, whose worker's silence only systemd's watchdog notices."""
    systemd.needed()
    box = place.folder / "box"
    variables = "PREFLIGHT_HEARTBEAT=0\nPREFLIGHT_GRACEFUL_TIMEOUT=60s\n"
    systemd.fill(box, APP, variables, "[Service]\nWatchdogSec=4\nRestartSec=100ms\n")
    with systemd.running(place, box) as running:
        yield running


def test_a_users_service(user: Systemd) -> None:
    """From the first connection to the end, as docs/fleet.md has it: started, restarted, hung, stopped."""
    user.systemctl("start", SOCKET)
    assert user.shown(SERVICE, "ActiveState") == "inactive"
    # The first connection starts it, and is answered by it.
    first = user.get()
    assert user.shown(SERVICE, "ActiveState") == "active"
    assert user.shown(SERVICE, "StatusText") == "Serving 127.0.0.1:8002; nothing blocks"
    assert first in user.shown(SERVICE, "MainPID") or int(first) > int(user.shown(SERVICE, "MainPID"))

    # A restart refuses nobody.
    over = user.box / "tmp" / "over"
    over.touch()
    (user.box / "client.py").write_text(CLIENT)
    answers: list[str] = []
    asking = threading.Thread(
        target=lambda: answers.append(user.run(sys.executable, str(user.box / "client.py"), str(over), timeout=600))
    )
    asking.start()
    user.systemctl("restart", SERVICE)
    assert user.get() != first
    over.write_text("over")
    asking.join(600)
    *errors, counts = answers[0].splitlines()
    assert not errors
    assert int(counts.split()[0]) > 0

    # An event loop that stands still starves systemd's watchdog, and connections go on waiting.
    hung = user.get()
    assert user.shown(SERVICE, "NRestarts") == "0"
    asking = threading.Thread(target=lambda: user.run("sh", "-c", "curl -s --max-time 100 127.0.0.1:8002/hang || true"))
    asking.start()
    user.until_shown(SERVICE, "NRestarts", "1")
    assert user.get() != hung
    asking.join(120)

    # A drain that takes longer than the watchdog's period is nobody's hang.
    asking = threading.Thread(target=lambda: answers.append(user.get("/slow")))
    asking.start()
    user.get()
    user.systemctl("stop", SOCKET, SERVICE)
    asking.join(120)
    assert answers[1].isdecimal()
    assert user.shown(SERVICE, "Result") == "success"
    assert user.shown(SERVICE, "ActiveState") == "inactive"
