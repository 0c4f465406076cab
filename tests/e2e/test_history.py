"""Past runs: every way to run the suite leaves one, and the server and the command show them."""

from __future__ import annotations

import json
import re
import sys
from typing import Any
from urllib.parse import quote

from tests.e2e.place import Place, Started, get
from tests.portnumbers import unused_port

CHECK = ("--check-only", "--demo", "--app", "small:app")
ENTRY = {
    "run_id",
    "origin",
    "status",
    "may_start",
    "started_at",
    "duration",
    "address",
    "selection",
    "reason",
    "summary",
    "blocking",
    "warnings",
    "flips",
}


def answer(place: Place, path: str, status: int = 200) -> Any:
    """The body of an answer with this status."""
    found, text = get(place.url + path)
    assert found == status, text
    return json.loads(text)


def listed(started: Started) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(started.stdout)
    return entries


def test_what_is_kept_is_shown(place: Place) -> None:
    """By a server, after three checks beside it, one with a failing warning in the middle; and by the command."""
    instance = place.serve().until_ready()
    for memory in ("1 MiB", "900 TiB", "1 MiB"):
        assert place.run(*CHECK, PREFLIGHT_MEMORY=memory).process.returncode == 0
    listed_by_the_server(place)
    pages(place)
    one_run(place)
    one_check(place)
    the_command_shows_the_same(place)
    assert instance.stop() == 0


def test_of_an_address(place: Place) -> None:
    """All that is kept is shown, of every address, and of one where an option names it."""
    ports = [place.port, unused_port()]
    for port in ports:
        place.run(*CHECK, "--port", str(port), PREFLIGHT_HISTORY="1")

    def addresses(*options: str) -> list[str]:
        command = (sys.executable, "run.py", "--history", "--format", "json", *options)
        shown = place.spawn(*command, environ={"PREFLIGHT_HISTORY": "1"})
        assert shown.wait() == 0, shown.output
        return [entry["address"] for entry in listed(shown)]

    first, second = (f"127.0.0.1:{port}" for port in ports)
    assert addresses() == [second, first]
    assert addresses("--port", str(ports[0])) == [first]
    none = place.spawn(sys.executable, "run.py", "--history", "--port", "1")
    assert none.wait() == 0
    assert "No run of 127.0.0.1:1 has been kept yet" in none.output


def listed_by_the_server(served: Place) -> None:
    """Every run is there, newest first, with what flipped; the server's own start is the oldest."""
    found = answer(served, "/diagnostics/history")
    assert [one["origin"] for one in found] == ["check", "check", "check", "start"]
    assert all(one.keys() == ENTRY for one in found)
    assert [one["started_at"] for one in found] == sorted((one["started_at"] for one in found), reverse=True)
    assert found[0]["run_id"] == served.report()["run_id"]
    assert [one["warnings"] for one in found] == [[], ["Memory"], [], []]
    assert found[0]["flips"] == [{"title": "Memory", "from": "failed", "to": "passed"}]
    assert found[1]["flips"] == [{"title": "Memory", "from": "passed", "to": "failed"}]
    assert found[1]["status"] == "warnings"
    assert {one["address"] for one in found} == {f"127.0.0.1:{served.port}"}


def pages(served: Place) -> None:
    """limit and offset cut a page out; what they cannot be is said with 400."""
    whole = answer(served, "/diagnostics/history")
    assert answer(served, "/diagnostics/history?limit=2&offset=1") == whole[1:3]
    assert answer(served, "/diagnostics/history?offset=100") == []
    for query in ("limit=0", "limit=1001", "limit=x", "offset=-1", "offset=", f"limit={'9' * 5000}"):
        assert "limit must be from 1 to 1000" in answer(served, f"/diagnostics/history?{query}", 400)["error"]


def test_two_addresses(place: Place) -> None:
    """Many runs for another address hide none of this server's, in either list; the setting says how many are kept."""
    started = place.serve(PREFLIGHT_HISTORY="2").until_ready()
    other = unused_port()
    for _ in range(3):
        place.run(*CHECK, "--port", str(other), PREFLIGHT_HISTORY="2")
    kept = answer(place, "/diagnostics/history")
    assert [one["origin"] for one in kept] == ["check", "check", "start"]
    assert kept[0]["run_id"] == place.report()["run_id"]
    own, others = f"?limit=1&address=127.0.0.1:{place.port}", f"?address=127.0.0.1:{other}"
    [only] = answer(place, f"/diagnostics/history{own}")
    assert (only["origin"], only["address"]) == ("start", f"127.0.0.1:{place.port}")
    assert [one["origin"] for one in answer(place, f"/diagnostics/history{others}")] == ["check"] * 2
    assert [one["run_id"] for one in answer(place, f"/diagnostics/checks/Memory{own}")["runs"]] == [only["run_id"]]
    assert len(answer(place, f"/diagnostics/checks/Memory{others}")["runs"]) == 2
    assert answer(place, "/diagnostics/history?address=nobody:1") == []
    answer(place, "/diagnostics/checks/Memory?address=nobody:1", 404)
    assert started.stop() == 0


def one_run(served: Place) -> None:
    """A past run as /diagnostics shows the present one; 404 for what there is not."""
    for entry in answer(served, "/diagnostics/history"):
        body = answer(served, f"/diagnostics/history/{entry['run_id']}")
        assert body.keys() == answer(served, "/diagnostics").keys()
        assert (body["run_id"], body["origin"], body["status"]) == (
            entry["run_id"],
            entry["origin"],
            entry["status"],
        )
        assert [one["title"] for one in body["warnings"]] == entry["warnings"]
    for wrong in ("nobody", "%2e%2e%2freport", "x" * 300):
        answer(served, f"/diagnostics/history/{wrong}", 404)


def one_check(served: Place) -> None:
    """How one check fared, newest first, and how often it flipped; 404 for a title that no run had."""
    body = answer(served, "/diagnostics/checks/Memory")
    assert (body["title"], body["severity"], body["flips"]) == ("Memory", "warning", 2)
    assert [one["outcome"] for one in body["runs"]] == ["passed", "failed", "passed", "passed"]
    assert "needs 921600.0 GiB" in body["runs"][1]["message"]
    assert body["runs"][0].keys() == {
        "run_id", "started_at", "origin", "address", "outcome", "message", "duration_ms",
    }  # fmt: skip
    assert [one["outcome"] for one in answer(served, "/diagnostics/checks/Memory?limit=1&offset=1")["runs"]] == [
        "failed"
    ]
    assert answer(served, f"/diagnostics/checks/{quote('Python Version')}")["flips"] == 0
    answer(served, "/diagnostics/checks/Nonsense", 404)
    answer(served, "/diagnostics/checks/a/b/c", 404)
    answer(served, "/diagnostics/checks/Memory?limit=no", 400)


def the_command_shows_the_same(served: Place) -> None:
    """--history: a line for each run in a pipe, and --format json the very array that the server answers with."""
    found = answer(served, "/diagnostics/history")
    assert listed(served.run("--history", "--format", "json")) == found
    shown = served.run("--history")
    assert shown.process.returncode == 0
    head, *lines = shown.stdout.splitlines()
    assert head.split() == ["When", "Origin", "Address", "Status", "Took", "Problems", "Changes"]
    assert len(lines) == len(found)
    assert re.search(r"check +127\.0\.0\.1:\d+ +⚠️ warnings +\d\.\d\d s +Memory +Memory: passed → failed$", lines[1])
    assert "\x1b" not in shown.output
    assert served.report()["run_id"] == found[0]["run_id"]  # looking is no run


def test_nothing_there_yet(place: Place) -> None:
    """--history before the first run says so, and is no error."""
    shown = place.spawn(sys.executable, "run.py", "--history")
    assert shown.wait() == 0
    assert shown.stdout == f"No run has been kept yet in {place.state / 'history'}.\n"
    assert listed(place.run("--history", "--format", "json")) == []
    assert place.run("--history", "--format", "junit").process.returncode == 2


def test_every_origin(project: Place) -> None:
    """A check, a plain pytest run, a refused start, a suite that breaks, a direct start: each leaves one run."""
    project.run(*CHECK)
    project.spawn(sys.executable, "-m", "pytest", "preflight", "--demo", "-m", "critical", "-q").wait()
    assert project.run("--offline", "--app", "small:app").process.returncode == 1
    direct = project.spawn(
        *(sys.executable, "-m", "uvicorn", "agentless:app", "--port", str(project.port)),
        environ={"PREFLIGHT_DEMO": "1", "PREFLIGHT_PORT": str(project.port)},
    )
    direct.until_says("Uvicorn running")
    direct.stop()
    project.write_suite("import os; os._exit(0)")
    assert project.run(*CHECK).process.returncode == 3
    shown = project.spawn(sys.executable, "run.py", "--history", "--format", "json")
    assert shown.wait() == 0
    found = listed(shown)
    assert [(one["origin"], one["status"]) for one in found] == [
        ("check", "broken"),
        ("start", "passed"),
        ("start", "failed"),
        ("pytest", "passed"),
        ("check", "passed"),
    ]
    assert found[0]["reason"]
    assert found[3]["selection"] == "critical"
    assert "Environment File" in found[2]["blocking"]


def test_wrong_usage_is_no_run(place: Place) -> None:
    """Who types an option wrongly has found out nothing."""
    assert place.run(*CHECK, "--ignore", "Nonsense").process.returncode == 2
    assert not (place.state / "history").exists()


def test_none_can_be_kept(place: Place) -> None:
    """The newest run is kept in any case."""
    assert place.run("--check-only", PREFLIGHT_HISTORY="0").process.returncode == 2


def test_no_room_for_history(place: Place) -> None:
    """A history that cannot be written is said in one line; verdict, exit code and report are what they were."""
    (place.state / "history").write_text("in the way")
    checked = place.run(*CHECK)
    assert checked.process.returncode == 0
    assert checked.output.count("This run is not in the history: ") == 1
    assert place.report()["may_start"] is True
    shown = place.run("--history")
    assert shown.process.returncode == 1
    assert "THE HISTORY CANNOT BE READ" in shown.output
    started = place.serve().until_ready()
    assert answer(place, "/diagnostics")["status"] == "passed"
    assert "cannot be read" in answer(place, "/diagnostics/history", 503)["error"]
    assert started.stop() == 0


def test_a_lost_history_folder(place: Place) -> None:
    """Somebody clears the folder under a running server: what it knows itself is still there."""
    started = place.serve().until_ready()
    for file in (place.state / "history").iterdir():
        file.unlink()
    [only] = answer(place, "/diagnostics/history")
    assert only["run_id"] == place.report()["run_id"]
    assert answer(place, f"/diagnostics/history/{only['run_id']}")["run_id"] == only["run_id"]
    assert answer(place, "/diagnostics/checks/Memory")["flips"] == 0
    assert started.stop() == 0
