"""The application under servers that are not ours: whose run is shown, and which port."""

from __future__ import annotations

import json
import re
import sys
import urllib.request
from typing import Any

from preflight.report import model as report
from tests.e2e.clients import over
from tests.e2e.place import Place, Started, get, listening
from tests.waiting import PATIENCE, until

UVICORN = ("-m", "uvicorn", "--factory", "server.app:create_app", "--port")


def diagnostics(port: int) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(get(f"http://127.0.0.1:{port}/diagnostics")[1])
    return body


def serve(place: Place, *command: str, **environ: str) -> Started:
    started = place.spawn(sys.executable, *command, environ={"PREFLIGHT_DEMO": "1", **environ})
    until(lambda: listening(place.port), "it listens")
    return started


def plant(place: Place, address: str) -> None:
    """A good report about this address."""
    place.plant_report()
    found = report.load(place.report_file).to_json()
    changed = {**found, "preflight": {**found["preflight"], "address": address}}
    report.publish(report.Report.from_json(changed), place.report_file)


def not_run(place: Place) -> None:
    """Nobody claims that a suite has run for this server."""
    body = diagnostics(place.port)
    assert (body["status"], body["reason"]) == ("not run", "no suite has run for this instance")
    assert (body["checks"], body["summary"], body["run_id"]) == ({}, {"total": 0}, None)
    assert "problem" not in body
    metrics = get(f"{place.url}/metrics")[1]
    assert "\npreflight_may_start 0.0\n" in metrics
    assert "preflight_last_run" not in metrics
    assert "no suite has run" in get(f"{place.url}/diagnostics?format=text")[1]


def test_skipped(place: Place) -> None:
    """What another process found out is not this server's: nothing was run, until it runs something itself.

    A report may be about this very address or about the one that is configured, or be no report.
    """
    plant(place, f"127.0.0.1:{place.port}")
    started = serve(place, *UVICORN, str(place.port), PREFLIGHT_SKIP="1")
    started.until_says("PREFLIGHT SKIPPED (PREFLIGHT_SKIP): no requirement was checked")
    assert place.report()["run_id"] == "old"
    assert diagnostics(place.port)["server"]["port"] == place.port
    not_run(place)
    assert json.loads(get(f"{place.url}/health")[1])["warnings"] == ["Preflight was not run"]
    plant(place, "127.0.0.1:8002")
    not_run(place)
    place.report_file.write_text("{")
    not_run(place)

    request = urllib.request.Request(f"{place.url}/diagnostics/run", b"", method="POST")
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        run_id = json.loads(answer.read())["run_id"]
    assert over(place.url, run_id)["status"] in ("passed", "warnings")
    assert diagnostics(place.port)["run_id"] == run_id
    place.plant_report()
    assert diagnostics(place.port)["run_id"] == run_id
    assert "\npreflight_may_start 1.0\n" in get(f"{place.url}/metrics")[1]
    started.stop()


def test_the_host_of_uvicorn(place: Place) -> None:
    """Who can reach the server is judged by what uvicorn serves on, and not by a setting that nothing is bound to."""
    command = (sys.executable, *UVICORN, str(place.port), "--host", "0.0.0.0")
    refused = place.spawn(*command, environ={"PREFLIGHT_DEMO": "1"})
    assert refused.wait() != 0
    assert "others can reach 0.0.0.0 and there is no token" in refused.output
    assert place.check("Exposure")["outcome"] == "failed"
    serving = serve(place, *command[1:], PREFLIGHT_TOKEN="0123456789abcdef-3f9a1c77e2")
    assert place.check("Exposure")["message"] == "others can reach 0.0.0.0; a token protects it"
    serving.stop()


def test_the_host_of_hypercorn(place: Place) -> None:
    """It has bound its sockets, and does not listen yet."""
    command = (sys.executable, "-m", "hypercorn", "--bind", f"0.0.0.0:{place.port}", "server.app:create_app()")
    refused = place.spawn(*command, environ={"PREFLIGHT_DEMO": "1"})
    refused.until_says("others can reach 0.0.0.0 and there is no token")
    until(lambda: place.check("Exposure")["outcome"] == "failed", "the report says so")
    refused.stop()


def test_a_port_that_the_system_chose(place: Place) -> None:
    """`--port 0`: known with the first connection."""
    environ = {"PREFLIGHT_DEMO": "1", "PREFLIGHT_SKIP": "1"}
    started = place.spawn(sys.executable, *UVICORN, "0", environ=environ).until_says("Uvicorn running")
    found = re.search(r"running on http://127.0.0.1:(\d+)", started.stderr)
    assert found is not None
    assert diagnostics(int(found[1]))["server"]["port"] == int(found[1])
    started.stop()


def test_the_port_of_uvicorns_workers(place: Place) -> None:
    """Each of them serves the same socket."""
    started = serve(place, *UVICORN, str(place.port), "--workers", "2", PREFLIGHT_SKIP="1")
    until(lambda: started.stderr.count("Application startup complete") == 2, "both workers serve")
    assert {diagnostics(place.port)["server"]["port"] for _ in range(8)} == {place.port}
    started.stop()


def test_the_port_of_hypercorn(place: Place) -> None:
    """Another server, whose configuration nobody here knows."""
    command = ("-m", "hypercorn", "--bind", f"127.0.0.1:{place.port}", "server.app:create_app()")
    started = serve(place, *command, PREFLIGHT_SKIP="1")
    assert diagnostics(place.port)["server"]["port"] == place.port
    started.stop()
