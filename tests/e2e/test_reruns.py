"""Re-runs in a live server: real suites in real child processes, asked for and followed over HTTP and WebSocket."""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from preflight.report import model as report
from tests.e2e.chatting import Client, kill_worker, worker_of
from tests.e2e.clients import Document, answer, over, post, rerun
from tests.e2e.place import KEYS, READY, Place, Started, get
from tests.portnumbers import unused_port
from tests.waiting import PATIENCE, deadlines, until

STATE = {
    "run_id", "state", "started_at", "finished_at", "checking", "done", "total", "status", "reason", "checks",
}  # fmt: skip

# A requirement between two others that says that it ran, and does what a file in the state folder tells it.
PROBE = '''
import os, signal, subprocess, time
from pathlib import Path
import pytest
STATE = Path(os.environ["PREFLIGHT_STATE_DIR"])

@pytest.mark.warning("First")
def test_first():
    """It holds."""

@pytest.mark.critical("Probe", fix="remove the file")
def test_probe():
    """It is told what to do."""
    with (STATE / "ran").open("a") as ran:
        ran.write(f"{os.getpid()}\\n")
    told = STATE / "told"
    what = told.read_text() if told.exists() else ""
    if what == "slow":
        time.sleep(0.6)
    elif what == "exit":
        os._exit(0)
    elif what == "hang":
        child = subprocess.Popen(["sleep", "600"])
        (STATE / "sleeper").write_text(str(child.pid))
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        time.sleep(600)
    assert what != "fail", "was told to fail with " + os.environ.get("OPENAI_API_KEY", "no key")

@pytest.mark.warning("Last")
def test_last():
    """It holds."""
'''


def write_small_suite(project: Place) -> None:
    """The suite above, and of the requirements that are shipped those alone of which one binds the port."""
    file = project.root / "preflight" / "requirements" / "test_port.py"
    shipped = file.read_text()
    project.write_suite(PROBE)
    file.write_text(shipped)


@pytest.fixture
def told(project: Place) -> Place:
    """A copy of the tree with that suite and what binds the port, where re-runs may follow one another at once."""
    write_small_suite(project)
    project.environ["PREFLIGHT_RERUN_INTERVAL"] = "0"
    return project


@pytest.fixture
def told_beside(project: Place) -> Place:
    """The same with the suite above beside the requirements that are shipped."""
    project.write_requirement("probe", PROBE)
    project.environ["PREFLIGHT_RERUN_INTERVAL"] = "0"
    return project


def serves(started: Started) -> bool:
    """Whether a start comes to serve, or ends before it."""
    until(lambda: READY in started.stdout or started.process.poll() is not None, "it serves or has ended")
    return started.process.poll() is None


def tell(place: Place, what: str) -> None:
    (place.state / "told").write_text(what)


def runs(place: Place) -> list[str]:
    """A line for each time that the requirement ran."""
    file = place.state / "ran"
    return file.read_text().splitlines() if file.exists() else []


@contextmanager
def following(url: str) -> Iterator[ClientConnection]:
    with connect(url.replace("http", "ws", 1) + "/ws/diagnostics", max_size=None) as socket:
        yield socket


def heard(socket: ClientConnection) -> Document:
    message: Document = json.loads(socket.recv(PATIENCE))
    return message


def close_code(socket: ClientConnection, *, saying: str = "") -> int:
    """The code that the server closes with; meanwhile ``saying`` is sent for each message that comes."""
    try:
        while True:
            if saying:
                socket.send(saying)
            socket.recv(PATIENCE)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 1006


def gone(pid: int) -> bool:
    """Whether a process has ended; nobody may have noticed yet."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_rerun(place: Place) -> None:
    """202 and where to follow it; its report is published; Server Port is served by this instance, which goes on.

    Followers hear when the next one may begin: nobody has to wait at first; after a re-run everybody is told for how
    long, and it is as long as the 429 says. They may speak, and hear of other processes' reports as well.
    """
    started = place.start("--demo").until_ready()
    worker = worker_of(started.url)
    first = place.report()["run_id"]
    with following(started.url) as socket:
        assert heard(socket)["again_in"] == 0
        status, headers, begun = post(started.url)
        assert status == 202
        assert begun.keys() == STATE
        assert headers["location"] == f"/diagnostics/run/{begun['run_id']}"
        assert (begun["state"], begun["status"], begun["finished_at"]) == ("running", None, None)
        while (message := heard(socket))["type"] != "run_finished":
            pass
        assert 9 < message["again_in"] <= 10
        assert 9 < heard(socket)["again_in"] <= message["again_in"]
    with following(started.url) as latecomer:
        left = heard(latecomer)["again_in"]

    # The start's own run did not count; this one does.
    status, headers, refused = post(started.url)
    assert status == 429
    assert 1 <= int(headers["retry-after"]) == refused["retry_after"] <= 10
    assert refused["retry_after"] <= left + 1
    assert "try again" in refused["error"]

    ended = over(started.url, begun["run_id"])
    assert ended.keys() == STATE
    assert (ended["state"], ended["status"], ended["reason"]) == ("finished", "passed", "")
    assert ended["done"] == ended["total"] == len(ended["checks"]) > 10
    assert ended["finished_at"] >= ended["started_at"]
    checks = {check.pop("title"): check for check in ended["checks"]}
    assert checks["Server Port"].keys() == {"severity", "outcome", "message", "fix", "duration_ms"}
    assert checks["Server Port"]["message"].startswith(f"served by our instance (PID {started.pid})")
    assert checks["Port Cleanup"]["message"] == "nothing to stop"
    assert checks["Application"]["outcome"] == "passed"

    assert place.report()["run_id"] == begun["run_id"] != first
    assert place.report()["origin"] == "rerun"
    shown = answer(started.url, "/diagnostics")
    assert (shown["run_id"], shown["origin"]) == (begun["run_id"], "rerun")
    assert answer(started.url, "/health")["status"] == "healthy"
    assert worker_of(started.url) == worker
    assert get(f"{started.url}/diagnostics/run/nosuch")[0] == 404
    assert get(f"{started.url}/diagnostics/run")[0] == 405
    followers_who_speak(started)
    another_process_publishes(place, started)
    assert started.stop() == 0


def followers_who_speak(started: Started) -> None:
    """A ping is answered, anything else is told off, and too much of it ends the connection."""
    with following(started.url) as socket:
        heard(socket)
        socket.send('{"type": "ping"}')
        assert heard(socket) == {"type": "pong"}
        for nonsense in ("{", "[]", '{"type": "run"}', "x" * 5000, b"\x00", "[" * 900):
            socket.send(nonsense)
            assert heard(socket)["type"] == "error"
        assert close_code(socket, saying="x") == 1008
    assert get(f"{started.url}/health")[0] == 200


def another_process_publishes(place: Place, started: Started) -> None:
    """Followers get a snapshot of a newer report, whoever made it; /health does not follow it."""
    with following(started.url) as socket:
        first = heard(socket)
        checked = place.run("--check-only", "--demo", "--app", "small:app", PREFLIGHT_PYTHON=">=3.99")
        assert checked.process.returncode in (0, 1)
        second = heard(socket)
        assert second["type"] == "snapshot"
        assert second["diagnostics"]["origin"] == "check"
        assert second["diagnostics"]["run_id"] != first["diagnostics"]["run_id"]
    assert get(f"{started.url}/health")[0] == 200


def test_many_ask_and_one_runs(project: Place) -> None:
    """50 POSTs at once get the same run; 100 GETs at once start none."""
    write_small_suite(project)
    started = project.start("--demo").until_ready()
    assert len(runs(project)) == 1
    with ThreadPoolExecutor(25) as crowd:
        statuses = {status for status, _ in crowd.map(get, [f"{started.url}/diagnostics"] * 100)}
        assert statuses == {200}
        assert len(runs(project)) == 1
        tell(project, "slow")
        answers = list(crowd.map(post, [started.url] * 50))
    assert {status for status, _, _ in answers} == {202}
    (run_id,) = {begun["run_id"] for _, _, begun in answers}
    assert over(started.url, run_id)["status"] == "passed"
    assert len(runs(project)) == 2
    assert post(started.url)[0] == 429
    assert started.stop() == 0


def test_a_flip_takes_it_out_of_rotation_and_back(told: Place) -> None:
    """A critical that fails in a re-run is 503 for /health and /health/ready, never for /health/live.

    Whoever follows it hears every step; the metrics follow it as well.
    """
    told.environ["OPENAI_API_KEY"] = KEYS["OPENAI_API_KEY"]
    started = told.start("--demo").until_ready()
    url = started.url
    tell(told, "fail")
    ended = over(url, followed_check_by_check(started))
    assert (ended["state"], ended["status"]) == ("finished", "failed")
    assert [check["message"] for check in ended["checks"] if check["outcome"] == "failed"] == [
        "was told to fail with [redacted]"
    ]
    status, text = get(f"{url}/health")
    assert status == 503
    assert (json.loads(text)["status"], json.loads(text)["critical_errors"]) == ("unhealthy", ["Probe"])
    assert get(f"{url}/health/ready") == (503, '{"status":"unhealthy"}')
    draft = urllib.request.Request(f"{url}/health", headers={"Accept": "application/health+json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(draft, timeout=PATIENCE)
    with refused.value as failed:
        assert (failed.code, failed.headers["Content-Type"]) == (503, "application/health+json")
        assert {"status": "fail", "output": "Probe"}.items() <= json.load(failed).items()
    assert get(f"{url}/health/live")[0] == 200
    assert answer(url, "/diagnostics")["checks"]["Probe"]["fix"] == "remove the file"
    metrics_follow_it(started)
    tell(told, "")
    assert rerun(url)["status"] == "passed"
    assert get(f"{url}/health")[0] == get(f"{url}/health/ready")[0] == 200
    assert "changed the verdict: blocked by Probe" in started.output
    assert KEYS["OPENAI_API_KEY"] not in started.output
    assert started.stop() == 0


def followed_check_by_check(started: Started) -> str:
    """A snapshot first, every step, and a fresh snapshot at the end. Returns which run it was."""
    with following(started.url) as socket:
        first = heard(socket)
        assert (first["type"], first["run"]) == ("snapshot", None)
        assert first["diagnostics"]["origin"] == "start"
        run_id: str = post(started.url)[2]["run_id"]
        came = [heard(socket)]
        while came[-1]["type"] != "run_finished":
            came.append(heard(socket))
            if came[-1]["type"] == "snapshot":
                came.pop()  # the report is published a moment before the end is told
        last = heard(socket)
        assert {message["run_id"] for message in came} == {run_id}
        assert came[0] == {**came[0], "type": "run_started", "total": None}
        steps = came[1:-1]
        total = len(last["diagnostics"]["checks"])
        checked = [step for step in steps if step["type"] == "checked"]
        assert [step["done"] for step in checked] == list(range(1, total + 1))
        assert {step["total"] for step in steps} == {total}
        # What a check has come to is told unless it is through by then: then that comes next.
        for number, step in enumerate(steps):
            if step["type"] != "checked":
                assert (step["type"], step["title"]) == ("checking", steps[number + 1]["check"]["title"])
                assert step["done"] == steps[number + 1]["done"] - 1
        probe = next(step["check"] for step in checked if step["check"]["title"] == "Probe")
        assert probe["message"] == "was told to fail with [redacted]"
        ended = {"type": "run_finished", "run_id": run_id, "status": "failed", "state": "finished"}
        assert came[-1] == {**ended, "again_in": 0}  # this copy lets nobody wait
        assert last["type"] == "snapshot"
        assert last["diagnostics"]["run_id"] == last["run"]["run_id"] == run_id
        assert last["run"]["state"] == "finished"
        assert KEYS["OPENAI_API_KEY"] not in json.dumps([came, last])
    return run_id


def metrics_follow_it(started: Started) -> None:
    """A scrape of the live server: the re-run's outcome, a chat's turn, and no secret."""
    chat = Client(started.url)
    chat.init()
    chat.answer("help")
    _, text = get(f"{started.url}/metrics")
    for line in (
        'preflight_check_ok{check="Probe",severity="critical"} 0.0',
        'preflight_check_outcome{check="Probe",outcome="failed",severity="critical"} 1.0',
        "preflight_healthy 0.0",
        'preflight_reruns_total{status="failed"} 1.0',
        "preflight_chat_connections 1.0",
        "preflight_chat_sessions 1.0",
        "preflight_chat_turn_duration_seconds_count 1.0",
        "preflight_worker_restarts_total 0.0",
    ):
        assert f"\n{line}\n" in text
    assert KEYS["OPENAI_API_KEY"] not in text
    chat.close()


def test_settings(told: Place) -> None:
    """A setting keeps it in rotation: the error is named, and nothing becomes 503; another one limits the followers."""
    started = told.start("--demo", PREFLIGHT_RERUN_GATES="no", PREFLIGHT_FOLLOWERS="2").until_ready()
    tell(told, "fail")
    assert rerun(started.url)["status"] == "failed"
    status, text = get(f"{started.url}/health")
    assert (status, json.loads(text)["critical_errors"]) == (200, ["Probe"])
    assert get(f"{started.url}/health/ready")[0] == 200
    assert answer(started.url, "/diagnostics")["status"] == "failed"
    more_followers_than_there_is_room_for(started)
    assert started.stop() == 0


def more_followers_than_there_is_room_for(started: Started) -> None:
    """One more is closed with 1013, and there is room again when one leaves."""
    with following(started.url) as one:
        with following(started.url) as other:
            assert heard(one)["type"] == heard(other)["type"] == "snapshot"
            with following(started.url) as third:
                assert close_code(third) == 1013

        def room() -> bool:
            with following(started.url) as again:
                try:
                    return bool(heard(again)["type"] == "snapshot")
                except ConnectionClosed:
                    return False

        until(room, "there is room again")


def test_what_the_fleet_shares(told_beside: Place) -> None:
    """It keeps an instance from starting, and takes none out of service that serves: the others would leave as well."""
    told = told_beside
    told.write_requirement("probe", PROBE.replace('fix="remove the file"', 'fix="remove the file", scope="fleet"'))
    started = told.start("--demo").until_ready()
    tell(told, "fail")
    assert rerun(started.url)["status"] == "failed"
    status, text = get(f"{started.url}/health")
    assert (status, json.loads(text)["critical_errors"]) == (200, ["Probe"])
    assert get(f"{started.url}/health/ready")[0] == 200
    found = answer(started.url, "/diagnostics")
    assert (found["status"], found["checks"]["Probe"]["scope"]) == ("failed", "fleet")
    assert found["checks"]["Disk Space"]["scope"] == "instance"
    assert started.stop() == 0
    refused = told.refused("--demo")
    assert refused.process.returncode == 1
    assert "Probe, shared by the fleet" in refused.stdout


WHY = {"exit": 'ended without a report (exit code 0) while checking "Probe"', "hang": "deadline of {:g} s"}


def test_a_broken_rerun(told: Place) -> None:
    """A suite that crashes or hangs is ended with its group and shown; the verdict before it stays, and so the server.

    The next re-run is as good as any.
    """
    sleeper = told.state / "sleeper"
    for seconds in deadlines(4, 16, 64):
        tell(told, "")
        sleeper.unlink(missing_ok=True)
        started = told.start("--demo", PREFLIGHT_RUN_TIMEOUT=f"{seconds}s")
        if not serves(started):
            continue
        before, seen = set(started.family()), len(runs(told))
        ended = breaks(told, started, "exit", before)
        if len(runs(told)) == seen:  # it has not come that far before its deadline
            assert started.stop() == 0
            continue
        is_shown_as_broken(started, ended, WHY["exit"])
        ended = breaks(told, started, "hang", before)
        if sleeper.exists() and sleeper.read_text():
            break  # it came to do what it was told before its deadline
        assert started.stop() == 0
    is_shown_as_broken(started, ended, WHY["hang"].format(seconds))
    assert gone(int(sleeper.read_text()))
    tell(told, "")
    until(lambda: bool(rerun(started.url)["status"] == "passed"), "one is over in time again")
    assert answer(started.url, "/health")["warnings"] == []
    assert "problem" not in answer(started.url, "/diagnostics")
    assert started.stop() == 0


def breaks(told: Place, started: Started, what: str, before: set[int]) -> Document:
    """A re-run that does this is broken, and nothing of it is left; its state at the end."""
    tell(told, what)
    ended = rerun(started.url)
    assert (ended["state"], ended["status"]) == ("broken", "broken")
    until(lambda: set(started.family()) == before, "nothing of the suite is left")
    return ended


def is_shown_as_broken(started: Started, ended: Document, why: str) -> None:
    """The newest re-run is the broken one, and says why; the server is as healthy as before."""
    assert why in ended["reason"]
    health = answer(started.url, "/health")
    assert (health["status"], health["warnings"]) == ("healthy", ["The last re-run broke"])
    shown = answer(started.url, "/diagnostics")
    assert (shown["status"], shown["run_id"]) == ("broken", ended["run_id"])
    assert why in shown["problem"]
    _, scraped = get(f"{started.url}/metrics")
    assert '\npreflight_last_run_info{origin="rerun",status="broken"} 1.0\n' in scraped
    assert '\npreflight_check_blocks{check="Probe",severity="critical"} 0.0\n' in scraped


def test_what_somebody_broke_since_the_start(told: Place) -> None:
    """A suite that cannot be collected: why is said in the same words everywhere, and once in each place.

    What somebody broke in pyproject.toml while the server runs is the re-run's reason, word for word.
    """
    started = told.start("--demo").until_ready()
    told.write_requirement("broken", 'raise RuntimeError("somebody saved half a file")')
    ended = rerun(started.url)
    assert ended["status"] == "broken"
    shown = answer(started.url, "/diagnostics")
    assert shown["problem"] == f"the last re-run: {ended['reason']}" == f"the last re-run: {shown['reason']}"
    for kind in ("text", "health"):
        text = " ".join(get(f"{started.url}/diagnostics?format={kind}")[1].split())  # it is folded
        assert text.count("somebody saved half a file") == 1, kind

    told.edit_project("[tool.preflight]\n", "[tool.preflight]\nprot = 1\n")
    ended = rerun(started.url)
    assert ended["status"] == "broken"
    assert "unknown setting 'prot' in [tool.preflight]; did you mean 'port'?" in ended["reason"]
    assert get(f"{started.url}/health")[0] == 200
    assert started.stop() == 0


def test_a_rerun_takes_no_server_with_it(told: Place) -> None:
    """Whatever goes wrong with one in the launcher: it is broken and says why, and the server goes on as before."""
    fault = """
from preflight.processes import rerun
def publish(result, settings):
    raise ValueError("unforeseen")
rerun.publish = publish
"""
    started = told.start_program(told.prepared(fault), "--demo", "--supervise").until_ready()
    first = told.report()["run_id"]
    for _ in range(2):
        ended = rerun(started.url)
        assert (ended["status"], ended["reason"]) == ("broken", "the suite could not be run: ValueError: unforeseen")
        assert get(f"{started.url}/health")[0] == 200
    assert answer(started.url, "/diagnostics")["status"] == "broken"
    assert told.report()["run_id"] == first
    assert "the suite could not be run: ValueError: unforeseen" in started.output
    assert started.stop() == 0
    started.left_nothing()


def test_what_only_the_next_start_needs(equipped_project: Place) -> None:
    """A package that is declared since the start, and an env file that was good then, take no healthy server away."""
    started = equipped_project.start(PREFLIGHT_RERUN_INTERVAL="0").until_ready()
    file = equipped_project.root / "pyproject.toml"
    file.write_text(file.read_text().replace("dependencies = [", 'dependencies = [\n    "not-here-yet>=2",', 1))
    for content in ("what is this\n", None):
        if content is None:
            equipped_project.env_file.unlink()
        else:
            equipped_project.env_file.write_text(content)
        rerun(started.url)
        assert equipped_project.check("Dependencies")["outcome"] == "passed"
        found = equipped_project.check("Environment File")
        assert found["outcome"] == "passed"
        said = "this server read the file when it was started; the next start would fail: "
        assert found["message"].startswith(f"{said}{equipped_project.env_file}"), found
        assert "dependencies (pyproject.toml)" in equipped_project.check("Server Port")["message"]
        assert get(f"{started.url}/health/ready")[0] == 200
    assert started.stop() == 0
    refused = equipped_project.run()
    assert refused.process.returncode != 0
    assert "not installed: not-here-yet" in refused.output


def test_while_it_goes_on(told: Place) -> None:
    """Who follows from the middle on knows what has happened so far, and misses nothing of the rest.

    Nothing waits for a re-run, and it runs at a lower priority than the server.
    """
    started = told.start("--demo").until_ready()
    worker = worker_of(started.url)
    tell(told, "slow")
    run_id = post(started.url)[2]["run_id"]
    until(lambda: answer(started.url, f"/diagnostics/run/{run_id}")["checking"] == "Probe", "the slow one is checked")
    with following(started.url) as socket:
        run = heard(socket)["run"]
        assert (run["state"], run["checking"]) == ("running", "Probe")
        done = len(run["checks"])
        assert 0 < done == run["done"] < run["total"]
        while (message := heard(socket))["type"] != "run_finished":
            done += message["type"] == "checked"
        assert done == run["total"]

    before = len(runs(told))
    run_id = post(started.url)[2]["run_id"]
    until(lambda: len(runs(told)) > before, "the slow one is checked again")
    suite = psutil.Process(int(runs(told)[-1]))
    assert suite.nice() > psutil.Process(worker).nice()
    assert suite.ppid() == started.pid  # the launcher's child: it costs the worker nothing to start it
    took = []
    while answer(started.url, f"/diagnostics/run/{run_id}")["state"] == "running":
        begun = time.monotonic()
        assert get(f"{started.url}/health")[0] == 200
        took.append(time.monotonic() - begun)
        time.sleep(0.01)
    assert statistics.median(took) < 0.5  # the requirement alone sleeps longer
    assert report.load(told.report_file).run_id == run_id
    assert started.stop() == 0


def test_a_drain_ends_it(told: Place) -> None:
    """A server that stops ends the re-run with its group, begins no other, and sends its followers to the next one."""
    started = told.start("--demo", PREFLIGHT_DRAIN_DELAY="2s").until_ready()
    tell(told, "hang")
    run_id = post(started.url)[2]["run_id"]
    until((told.state / "sleeper").exists, "the suite hangs")
    until(lambda: bool((told.state / "sleeper").read_text()), "and has said which its child is")
    with following(started.url) as socket:
        assert heard(socket)["run"]["state"] == "running"
        started.send(signal.SIGTERM)
        until(lambda: get(f"{started.url}/health/ready")[0] == 503, "it drains")
        status, _headers, refused = post(started.url)
        assert (status, "stopping" in refused["error"]) == (503, True)
        assert over(started.url, run_id)["state"] == "broken"
        assert close_code(socket) == 1012
    assert started.wait() == 0
    started.left_nothing()
    sleeper = int((told.state / "sleeper").read_text())
    until(lambda: gone(sleeper), "the suite's child has gone")


def test_a_crash_of_the_worker(told: Place) -> None:
    """It ends a re-run: whoever asked for it has gone; the worker that takes its place gets one of its own.

    It forgets no verdict: the worker that takes its place is as unhealthy as the one that crashed, also where a check
    beside it has published its own report since, and one kept run is all there is. So does a re-run that broke since,
    through a second crash as well; the next good one ends both.
    """
    restarts = {"PREFLIGHT_RESTART_LIMIT": "10", "PREFLIGHT_RESTART_BACKOFF": "10ms"}
    started = told.start("--demo", "--supervise", PREFLIGHT_HISTORY="1", **restarts).until_ready()
    first = told.report()["run_id"]
    tell(told, "hang")
    run_id = post(started.url)[2]["run_id"]
    until(lambda: (told.state / "sleeper").exists() and (told.state / "sleeper").read_text() != "", "the suite hangs")
    kill_worker(started)
    until(lambda: gone(int((told.state / "sleeper").read_text())), "the suite's child has gone")
    assert get(f"{started.url}/diagnostics/run/{run_id}")[0] == 404
    assert told.report()["run_id"] == first
    tell(told, "")
    assert rerun(started.url)["status"] == "passed"
    assert get(f"{started.url}/health")[0] == 200

    tell(told, "fail")
    assert rerun(started.url)["status"] == "failed"
    kill_worker(started)
    status, text = get(f"{started.url}/health")
    assert (status, json.loads(text)["critical_errors"]) == (503, ["Probe"])

    tell(told, "")
    checked = told.run("--check-only", "--demo", "--app", "small:app", PREFLIGHT_HISTORY="1")
    assert checked.process.returncode == 0, checked.output
    assert told.report()["origin"] == "check"
    kill_worker(started)
    status, text = get(f"{started.url}/health")
    assert (status, json.loads(text)["critical_errors"]) == (503, ["Probe"])
    tell(told, "exit")
    assert rerun(started.url)["status"] == "broken"
    for _ in range(2):  # through a second crash as well
        kill_worker(started)
        status, text = get(f"{started.url}/health")
        health = json.loads(text)
        assert (status, health["critical_errors"], health["warnings"]) == (503, ["Probe"], ["The last re-run broke"])
        assert 'while checking "Probe"' in answer(started.url, "/diagnostics")["problem"]
    tell(told, "")
    assert rerun(started.url)["status"] == "passed"
    kill_worker(started)
    status, text = get(f"{started.url}/health")
    assert (status, json.loads(text)["warnings"]) == (200, [])
    assert started.stop() == 0


def test_in_the_background(told: Place) -> None:
    """The setting repeats it, with pauses."""
    hasty = """
from dataclasses import replace
from preflight.settings import loading
load = loading.load
loading.load = lambda *given, **options: replace(load(*given, **options), refresh=0.3)
"""
    started = told.start_program(told.prepared(hasty), "--demo").until_ready()
    tell(told, "fail")
    until(lambda: get(f"{started.url}/health")[0] == 503, "it has noticed by itself")
    tell(told, "")
    until(lambda: get(f"{started.url}/health")[0] == 200, "and that it is over")
    assert started.stop() == 0


def test_the_agent_starts_one(place: Place) -> None:
    """The chat's re-run goes the same way, limit included."""
    started = place.start("--demo").until_ready()
    chat = Client(started.url)
    chat.init()
    said = chat.answer("run the checks again")
    until(lambda: place.report()["origin"] == "rerun", "its report is published")
    run_id = place.report()["run_id"]
    assert run_id in said
    assert over(started.url, run_id)["status"] == "passed"
    assert "try again in" in chat.answer("run the checks again")
    chat.close()
    assert post(started.url)[0] == 429
    assert started.stop() == 0


def directly(place: Place) -> Started:
    """A server that was started with uvicorn, without the launcher."""
    port = unused_port()
    command = ["-m", "uvicorn", "--factory", "server.app:create_app", "--port", str(port), "--log-level", "warning"]
    started = place.spawn(sys.executable, *command, environ={"PREFLIGHT_DEMO": "1", "PREFLIGHT_PORT": str(port)})
    started.url = f"http://127.0.0.1:{port}"
    until(lambda: _up(started.url), "it serves")
    return started


def test_a_server_that_was_started_directly(told_beside: Place) -> None:
    """Its re-run leaves the port to the server around it, and is told step by step as well.

    A server that stops ends the re-run that goes on, and what that has started.
    """
    started = directly(told_beside)
    ended = rerun(started.url)
    assert ended["status"] == "passed"
    assert ended["done"] == ended["total"] == len(ended["checks"]) > 10
    outcomes = {check["title"]: check["outcome"] for check in ended["checks"]}
    assert outcomes["Server Port"] == "not_applicable"
    assert answer(started.url, "/diagnostics")["origin"] == "rerun"

    tell(told_beside, "hang")
    post(started.url)
    sleeper = told_beside.state / "sleeper"
    until(lambda: sleeper.exists() and sleeper.read_text() != "", "the suite hangs")
    os.kill(started.pid, signal.SIGTERM)
    started.wait()
    started.left_nothing()
    assert gone(int(sleeper.read_text()))
    assert told_beside.report()["run_id"] == ended["run_id"]


def _up(url: str) -> bool:
    try:
        return get(f"{url}/health/live")[0] == 200
    except OSError:
        return False


def test_settings_that_were_edited(told_beside: Place) -> None:
    """A re-run is about the instance that runs: that the next start would differ is a note, and takes nothing away."""
    told = told_beside
    file = told.root / "pyproject.toml"
    written = file.read_text()
    file.write_text(written.replace("\nport = 8002\n", f"\nport = {told.port}\n"))
    started = told.spawn(sys.executable, "run.py", "--demo").until_ready()
    edited = f'\nport = {told.port + 1}\nmemory = "2 MiB"\n'
    file.write_text(written.replace("\nport = 8002\n", edited).replace('host = "127.0.0.1"', 'host = "127.0.0.2"'))
    assert rerun(told.url)["status"] in ("passed", "warnings")
    assert get(f"{told.url}/health/ready")[0] == 200
    found = answer(told.url, "/diagnostics")
    assert (found["server"]["port"], found["port"]["port"]) == (told.port, told.port)
    message = found["checks"]["Server Port"]["message"]
    assert "the next start would differ: " in message
    assert re.search(
        rf"host 127\.0\.0\.2 \(pyproject\.toml:\d+\), port {told.port + 1} \(pyproject\.toml:\d+\)", message
    )
    assert re.search(r"memory 2097152 \(pyproject\.toml:\d+\)", message)
    file.write_text(written.replace("\nport = 8002\n", f"\nport = {told.port}\n"))
    assert rerun(told.url)["status"] in ("passed", "warnings")
    assert "next start" not in answer(told.url, "/diagnostics")["checks"]["Server Port"]["message"]
    assert started.stop() == 0
