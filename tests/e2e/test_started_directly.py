"""The application under servers that are not ours: whose run is shown, and which port."""

from __future__ import annotations

import json
import re
import sys
import urllib.request
from typing import Any

import pytest

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


@pytest.mark.parametrize("configured", ["the port", "another port"])
def test_skipped(configured: str, place: Place) -> None:
    """What another process found out is not this server's: nothing was run, until it runs something itself."""
    environ = {"PREFLIGHT_PORT": str(place.port)} if configured == "the port" else {}
    place.plant_report()  # of this very address, and good
    if not environ:
        found = report.load(place.report_file)
        report.publish(
            report.Report.from_json(
                {**found.to_json(), "preflight": {**found.to_json()["preflight"], "address": "127.0.0.1:8002"}}
            ),
            place.report_file,
        )
    started = serve(place, *UVICORN, str(place.port), PREFLIGHT_SKIP="1", **environ)
    body = diagnostics(place.port)
    assert (body["status"], body["reason"]) == ("not run", "no suite has run for this instance")
    assert (body["checks"], body["summary"], body["run_id"]) == ({}, {"total": 0}, None)
    assert body["server"]["port"] == place.port
    assert "problem" not in body
    metrics = get(f"{place.url}/metrics")[1]
    assert "\npreflight_may_start 0.0\n" in metrics
    assert "preflight_last_run" not in metrics
    assert "no suite has run" in get(f"{place.url}/diagnostics?format=text")[1]

    request = urllib.request.Request(f"{place.url}/diagnostics/run", b"", method="POST")
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        run_id = json.loads(answer.read())["run_id"]
    assert over(place.url, run_id)["status"] in ("passed", "warnings")
    assert diagnostics(place.port)["run_id"] == run_id
    place.plant_report()
    assert diagnostics(place.port)["run_id"] == run_id
    assert "\npreflight_may_start 1.0\n" in get(f"{place.url}/metrics")[1]
    started.stop()


def test_a_corrupt_report_of_others(place: Place) -> None:
    """It is no problem of a server that has no run of its own."""
    place.report_file.write_text("{")
    started = serve(place, *UVICORN, str(place.port), PREFLIGHT_SKIP="1")
    assert "problem" not in diagnostics(place.port)
    started.stop()


@pytest.mark.parametrize("skip", ["0", "1"])
def test_the_port_of_uvicorn(skip: str, place: Place) -> None:
    """The port is the one that uvicorn was given, in the report as well."""
    started = serve(place, *UVICORN, str(place.port), PREFLIGHT_SKIP=skip)
    body = diagnostics(place.port)
    assert body["server"]["port"] == place.port
    assert body["status"] == ("not run" if skip == "1" else body["status"])
    if skip == "0":
        assert place.report()["address"] == f"127.0.0.1:{place.port}"
        assert body["run_id"] == place.report()["run_id"]
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
