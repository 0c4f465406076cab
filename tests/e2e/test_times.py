"""Every time that is shown or written says which clock it is from: a zone for people, Z for programs."""

from __future__ import annotations

import json
import os
import re
import signal
import zipfile
from collections.abc import Iterator
from typing import Any

from tests.e2e.chatting import Client, worker_of
from tests.e2e.place import Place, Started, get
from tests.waiting import until

ZONE = {"TZ": "IST-5:30"}
TIME = re.compile(r"\d\d:\d\d:\d\d(?:\.\d+)?")
LOCAL = r" \+05:30"
FOR_PEOPLE = re.compile(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d\d\d)?{LOCAL}")
NAMES = {"at", "started_at", "finished_at", "generated_at", "timestamp", "since", "last_exit_at", "made_at"}


def times(text: str, zone: str) -> int:
    """How many times there are in a text, each of which has this zone behind it."""
    found = list(TIME.finditer(text))
    for one in found:
        assert re.match(zone, text[one.end() :]), text[max(0, one.start() - 60) : one.end() + 20]
    return len(found)


def values(document: object) -> Iterator[Any]:
    """What stands under the name of a time, at any depth."""
    if isinstance(document, dict):
        for name, value in document.items():
            if name in NAMES:
                yield value
            yield from values(value)
    if isinstance(document, list):
        for value in document:
            yield from values(value)


def is_for_programs(document: object) -> bool:
    """Whether there are times in it, and all of them are in UTC and say so."""
    found = [value for value in values(document) if value]
    return bool(found) and all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z", value) for value in found)


CHECK = ("--check-only", "--demo", "--app", "small:app")


def test_times_of_a_server(place: Place) -> None:
    """Of one that had to stop somebody for its port, and has a log and a past: for people, and for programs."""
    place.environ |= ZONE
    place.run(*CHECK)
    place.listener("stubborn")
    log = str(place.folder / "log.txt")
    served = place.start("--demo", "-v", "--log-file", log, PREFLIGHT_PORT_GRACE="100ms").until_ready()
    for_people(place, served)
    for_programs(place, served)


def for_people(place: Place, served: Started) -> None:
    """On the terminal, in the text formats and in the history."""
    assert times(served.stdout, f"{LOCAL}|Z") >= 3, "the details of -v are for programs"
    assert len(re.findall(rf"^  {FOR_PEOPLE.pattern} SIG(TERM|KILL): ", served.stdout, re.MULTILINE)) == 2
    assert re.search(rf"^Preflight .* {FOR_PEOPLE.pattern} · start", served.stdout)
    for format_ in ("text", "markdown"):
        assert times(place.run(*CHECK, "--format", format_).stdout, LOCAL) >= 1
    assert times(get(f"{place.url}/diagnostics?format=text")[1], LOCAL) >= 1
    history = place.run("--history").stdout
    assert len(FOR_PEOPLE.findall(history)) == times(history, LOCAL) >= 2
    status = place.run("--port-status").stdout
    assert re.search(rf"^Status  .* since {FOR_PEOPLE.pattern}", status, re.MULTILINE)
    assert times(status, LOCAL) >= 2, "since when the instance serves, and since when the process runs"
    kept = place.run("--demo", "--if-running", "keep").stdout
    assert re.search(rf"our instance \(PID \d+, since {FOR_PEOPLE.pattern}\)", kept)


def for_programs(place: Place, served: Started) -> None:
    """In the log, the audit, every JSON document and the bundle."""
    for file in (place.state / "audit.log", place.folder / "log.txt"):
        lines = file.read_text().splitlines()
        assert lines
        assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", line) for line in lines)
    assert times((place.state / "audit.log").read_text(), "Z") >= 3
    assert is_for_programs(place.report())
    for path in ("/diagnostics", "/diagnostics/history", "/diagnostics/checks/Memory"):
        assert is_for_programs(json.loads(get(f"{place.url}{path}")[1])), path
    assert times(get(f"{place.url}/metrics")[1], "no time is written in letters") == 0
    assert is_for_programs(json.loads(place.run("--port-status", "--format", "json").stdout))
    assert is_for_programs(json.loads(place.run("--history", "--format", "json").stdout))
    client = Client(served.url)
    client.init()
    client.answer("help")
    client.socket.close()
    session = json.loads(get(f"{place.url}/sessions")[1])["sessions"][0]
    assert [times(session[name], "Z") for name in ("created", "updated")] == [1, 1]
    place.run("--bundle", str(place.folder / "b.zip"))
    with zipfile.ZipFile(place.folder / "b.zip") as archive:
        documents = {name: archive.read(name).decode() for name in archive.namelist()}
    assert is_for_programs(json.loads(documents["report.json"]))
    assert is_for_programs(json.loads(documents["port.json"]))
    assert is_for_programs([json.loads(text) for name, text in documents.items() if name.startswith("history/")])


def test_times_of_freeing_as_json(place: Place) -> None:
    """Each step of --free-port, and since when the holder ran."""
    place.environ |= ZONE
    place.listener()
    shown = json.loads(place.run("--free-port", "--format", "json").stdout)
    assert shown["steps"]
    assert is_for_programs(shown["steps"])


def test_times_while_it_waits(place: Place) -> None:
    """The lines of --wait and --watch begin with the time and its zone."""
    place.environ |= ZONE
    waiting = place.start("--offline", "--app", "small:app", "--wait", "600").until_says("blocked by")
    waiting.stop(signal.SIGINT)
    watching = place.start("--offline", "--app", "small:app", "--watch", "60").until_says("blocked by")
    watching.stop(signal.SIGINT)
    for one in (waiting, watching):
        assert re.search(rf"^\d\d:\d\d:\d\d{LOCAL} blocked by", one.stdout, re.MULTILINE)
        assert times(one.stdout, LOCAL) >= 1


def test_times_of_a_crash(place: Place) -> None:
    """When the last worker ended, for programs."""
    place.environ |= ZONE
    served = place.serve().until_ready()
    os.kill(worker_of(served.url), signal.SIGKILL)
    served.until_says("The worker is back")
    until(lambda: get(f"{place.url}/diagnostics")[0] == 200, "it answers")
    server = json.loads(get(f"{place.url}/diagnostics")[1])["server"]
    assert is_for_programs(server["restarts"])
