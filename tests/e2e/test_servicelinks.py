"""In a namespace with a Service called preflight: everything works, and a line says what was set aside."""

from __future__ import annotations

import json
import sys
import urllib.request

from tests.e2e.place import Place, get, listening
from tests.servicelinks import kubernetes
from tests.waiting import PATIENCE, until

LINKS = kubernetes("PREFLIGHT")
LINE = "PREFLIGHT_PORT and 6 more like it come from a Kubernetes Service"


def test_a_start(place: Place) -> None:
    """It serves; a re-run of it, which reads the settings again, is no worse; the application sees the variables."""
    place.environ |= LINKS
    started = place.start("--demo").until_ready()
    assert f"run.py: note: {LINE}" in started.stderr
    assert get(f"{place.url}/health/ready")[0] == 200
    urllib.request.urlopen(
        urllib.request.Request(f"{place.url}/diagnostics/run", method="POST"), timeout=PATIENCE
    ).close()
    until(lambda: json.loads(get(f"{place.url}/diagnostics")[1])["origin"] == "rerun", "the re-run is over")
    assert get(f"{place.url}/health/ready")[0] == 200
    assert started.stop() == 0


def test_a_check_for_programs(place: Place) -> None:
    """Standard output is the report and nothing else."""
    place.environ |= LINKS
    checked = place.run("--check-only", "--demo", "--app", "small:app", "--format", "json")
    assert json.loads(checked.stdout)["preflight"]["may_start"] is True
    assert checked.stderr.count(LINE) == 1


def test_plain_pytest(place: Place) -> None:
    """The same without the launcher."""
    place.environ |= LINKS
    command = ("-m", "pytest", "preflight", "--demo", "-m", "critical", "--port", str(place.port))
    asked = place.spawn(sys.executable, *command, environ={"PREFLIGHT_APP": "small:app"})
    assert asked.wait() == 0, asked.output
    assert LINE in asked.stdout


def test_uvicorn(place: Place) -> None:
    """The same where the application is started directly."""
    place.environ |= LINKS
    command = ("-m", "uvicorn", "--factory", "server.app:create_app", "--port", str(place.port))
    started = place.spawn(sys.executable, *command, environ={"PREFLIGHT_DEMO": "1"})
    until(lambda: listening(place.port), "uvicorn listens")
    assert LINE in " ".join(started.stderr.split())
    started.stop()
