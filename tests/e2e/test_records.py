"""What is on record afterwards: the audit, the log file, the bundle, and files that nobody else can touch."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.e2e.place import BLOCKED, KEYS, READY, Place, get
from tests.e2e.processes import child
from tests.waiting import PATIENCE, until

KEY = KEYS["OPENAI_API_KEY"]

# Reports what its visitors do, as a server's security does.
REPORTING = """
import os
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/login":
        peer = "%s:%d" % tuple(scope["client"])
        scope["state"]["preflight"].audit("login_failed", peer=peer, path="/login", said=os.environ.get("LEAK"))
    print("visited", scope["path"], os.environ.get("LEAK"), flush=True)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"reporting"})
"""


def log_of(place: Place) -> Path:
    return place.folder / "logs" / "preflight.log"


def logged(place: Place) -> list[dict[str, Any]]:
    """The lines of a log in JSON."""
    return [json.loads(line) for line in log_of(place).read_text().splitlines()]


def events(place: Place, kind: str) -> list[dict[str, Any]]:
    return [record for record in logged(place) if record["source"] == "audit" and record["event"] == kind]


def in_json(place: Place) -> dict[str, str]:
    return {"PREFLIGHT_LOG_FILE": str(log_of(place)), "PREFLIGHT_LOG_FORMAT": "json"}


# The audit.


def test_every_signal(place: Place) -> None:
    """A stubborn process on the port: each signal is recorded with who, to whom, why and what came of it."""
    holder = place.listener("stubborn")
    started = place.start(
        "--demo",
        "--app",
        "small:app",
        **in_json(place),
        PREFLIGHT_PORT_GRACE="200ms",
        PREFLIGHT_REQUIREMENT_TIMEOUT="9s",
    ).until_ready()
    holder.wait()
    assert started.stop() == 0
    sent = [event for event in events(place, "signal") if event["to"] == holder.pid]
    assert [event["signal"] for event in sent] == ["SIGTERM", "SIGKILL"]
    for event in sent:
        assert event["uid"] == os.getuid()
        assert event["pid"] not in (started.pid, holder.pid)  # the suite did it
        assert event["why"] == f"it is in the way on 127.0.0.1:{place.port}"
        assert event["name"].startswith("python")
        assert event["result"].startswith("sent")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["at"])
    # JSON was asked for: the audit is on standard error as well, and each line of it is an object.
    on_stderr = [json.loads(line) for line in started.stderr.splitlines() if '"audit"' in line]
    assert [event for event in on_stderr if event.get("to") == holder.pid] == sent


def test_a_refused_start(place: Place) -> None:
    """What blocked, by title, and the run that said so."""
    started = place.refused("--offline", **in_json(place), PREFLIGHT_PYTHON=">=99")
    (refused,) = events(place, "refused")
    assert {"Python Version", "Environment File", "OpenAI API Key"} <= set(refused["why"])
    assert (refused["pid"], refused["uid"], refused["parent"]) == (started.pid, os.getuid(), os.getpid())
    assert (refused["exit_code"], refused["run_id"]) == (1, place.report()["run_id"])
    (run,) = events(place, "run")
    assert (run["origin"], run["status"], run["may_start"], run["by"]) == ("start", "failed", False, "command")
    assert BLOCKED in log_of(place).read_text()


def test_refused_because_one_is_running(place: Place) -> None:
    """--if-running fail is a refusal, too; a check and a run of plain pytest are runs and no refusals."""
    place.start("--demo", "--app", "small:app").until_ready()
    assert place.run("--demo", "--app", "small:app", "--if-running", "fail", **in_json(place)).process.returncode == 1
    (refused,) = events(place, "refused")
    assert "and --if-running is fail" in refused["why"][0]
    place.run("--check-only", "--demo", "--app", "small:app", **in_json(place))
    environ = {**in_json(place), "PREFLIGHT_PORT": str(place.port), "PREFLIGHT_APP": "small:app"}
    assert place.spawn(sys.executable, "-m", "pytest", "preflight", "--demo", environ=environ).wait() == 0
    assert [run["origin"] for run in events(place, "run")] == ["check", "pytest"]
    assert len(events(place, "refused")) == 1


def test_plain_pytest_records_its_signals(place: Place) -> None:
    """Without a launcher the run itself writes the log, in the same format."""
    holder = place.listener()
    environ = {**in_json(place), "PREFLIGHT_PORT": str(place.port), "PREFLIGHT_APP": "small:app"}
    assert place.spawn(sys.executable, "-m", "pytest", "preflight", "--demo", environ=environ).wait() == 0
    (sent,) = (event for event in events(place, "signal") if event["to"] == holder.pid)
    assert (sent["signal"], sent["result"]) == ("SIGTERM", "sent")


def test_free_port_records_its_signals(place: Place) -> None:
    """--free-port sends signals as well."""
    holder = place.listener()
    assert place.run("--free-port", "--log-file", str(log_of(place))).process.returncode == 0
    line = log_of(place).read_text()
    assert re.search(
        rf"audit signal uid=\d+ pid=\d+ signal=SIGTERM to={holder.pid} name=\S+ why=.* result=sent grounds=.*\n", line
    )


def test_application_without_launcher(place: Place) -> None:
    """Under plain uvicorn the audit goes to Python's logging, and to the log file where there is one."""
    environ = {"PREFLIGHT_DEMO": "1", "PREFLIGHT_PYTHON": ">=99", "PREFLIGHT_LOG_FILE": str(log_of(place))}
    command = [sys.executable, "-m", "uvicorn", "--factory", "server.app:create_app", "--port", str(place.port)]
    started = place.spawn(*command, environ={**environ, "PREFLIGHT_PYTHON": ">=99", "PREFLIGHT_DEMO": "0"})
    assert started.wait() == 3
    line = next(line for line in log_of(place).read_text().splitlines() if "audit refused" in line)
    assert "Python Version" in line
    assert line in started.stderr


# The audit's own file.


def audited(place: Place) -> str:
    """What is in the state folder's audit."""
    return (place.state / "audit.log").read_text(encoding="utf-8")


def test_audit_by_default(place: Place) -> None:
    """Nobody has to ask for it: plain pytest shows what it stopped, and the state folder keeps who did it."""
    holder = place.listener()
    environ = {"PREFLIGHT_PORT": str(place.port), "PREFLIGHT_APP": "small:app"}
    run = place.spawn(sys.executable, "-m", "pytest", "preflight", "--demo", environ=environ)
    assert run.wait() == 0
    sent = rf"^ +\d{{4}}-.* SIGTERM: python.* \(PID {holder.pid}\): sent, because it "
    assert re.search(sent, run.stdout, re.MULTILINE)
    assert re.search(rf"audit signal uid=\d+ pid={run.pid} signal=SIGTERM to={holder.pid} ", audited(place))
    assert place.run("--check-only", "--demo", "--app", "small:app").process.returncode == 0
    assert re.findall(r"audit run .* origin=(\w+)", audited(place)) == ["pytest", "check"]
    assert stat.S_IMODE((place.state / "audit.log").stat().st_mode) == 0o600


def test_a_look_leaves_nothing(place: Place) -> None:
    """What only shows something makes no state folder."""
    shutil.rmtree(place.state)
    for option in ("--port-status", "--history", "--help", "--version", "--init"):
        place.run(option)
    place.run("--free-port", "--dry-run")
    assert not place.state.exists()


FALLING = """
import os
async def app(scope, receive, send):
    os._exit(9)
"""


# Answers the launcher's look at its health, and nothing else.
STAYING = """
    if scope["type"] == "lifespan" or scope["path"] != "/health":
        os._exit(9) if scope["type"] == "http" else await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})
"""


@pytest.mark.parametrize(
    "options,environ,exit_code,why",
    [
        (["--app", "small:app", "--wait", "1"], {"PREFLIGHT_PYTHON": ">=99"}, 1, "Python Version"),
        (["--demo", "--no-supervise", "--app", "falling:app"], {}, 4, "The worker ended: exit code 9"),
        (["--demo", "--log-file", "/dev/null/log"], {}, 2, "the log file cannot be used"),
        (["--demo", "--app", "small:app", "--ignore", "Server Port"], {}, 2, "this requirement cannot be ignored"),
    ],
)
def test_every_refused_start(
    place: Place, options: list[str], environ: dict[str, str], exit_code: int, why: str
) -> None:
    """However a start comes to nothing, it is recorded once, with the exit code and why."""
    place.write_module("falling", FALLING)
    started = place.run("--offline", *options, **environ)
    assert started.process.returncode == exit_code, started.output
    (refused,) = (line for line in audited(place).splitlines() if "audit refused" in line)
    assert f"exit_code={exit_code}" in refused
    assert f"pid={started.pid} " in refused
    assert why in refused


def test_a_wrong_setting_is_recorded_where_it_was_asked_for(place: Place) -> None:
    """Where the state folder is cannot be known then; a log file that was named is."""
    started = place.run("--log-file", str(log_of(place)), PREFLIGHT_PORT_GRACE="nonsense")
    assert started.process.returncode == 2
    assert re.search(r"audit refused .*PREFLIGHT_PORT_GRACE.* exit_code=2", log_of(place).read_text())


def test_given_up(place: Place) -> None:
    """What has served and cannot any more was not refused; it is recorded as what it is."""
    place.write_module("crashing", FALLING.replace("os._exit(9)", STAYING))
    started = place.start("--demo", "--no-supervise", "--app", "crashing:app").until_ready()
    with contextlib.suppress(OSError):
        get(f"{place.url}/x")
    assert started.wait() == 4
    assert re.search(r"audit given_up .*The worker ended: exit code 9.* exit_code=4", audited(place))


# Reports a lot at its very end, while the launcher is held up.
LAST_WORDS = """
import os, signal, subprocess
async def app(scope, receive, send):
    if scope["type"] != "lifespan":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    launcher = os.getppid()
    subprocess.Popen(["sh", "-c", f"sleep 0.7; kill -CONT {launcher}"], start_new_session=True)
    os.kill(launcher, signal.SIGSTOP)
    for number in range(64):
        scope["state"]["preflight"].audit("last_word", number=number, filler="x" * 400)
    await send({"type": "lifespan.shutdown.complete"})
"""


def test_last_words(place: Place) -> None:
    """What a worker reports at its end is recorded, also where the launcher had no time for it then."""
    place.write_module("last", LAST_WORDS)
    started = place.start("--demo", "--app", "last:app").until_ready()
    assert started.stop() == 0
    assert [int(number) for number in re.findall(r"audit last_word .* number=(\d+)", audited(place))] == [*range(64)]
    assert "events_lost" not in audited(place)


def test_strangers_cannot_wash_the_audit_away(place: Place) -> None:
    """A flood of wrong tokens is some lines; what was refused at once was refused with its connection."""
    token = "canary-Zq7vXw2LmN8pRt4KdY6hJb3F"
    started = place.serve(PREFLIGHT_TOKEN=token).until_ready()
    statuses: Counter[int | str] = Counter()
    enough = threading.Event()

    def guess() -> None:
        while not enough.is_set():
            with (
                contextlib.suppress(OSError, HTTPException),
                contextlib.closing(HTTPConnection("127.0.0.1", place.port, timeout=PATIENCE)) as one,
            ):
                one.request("GET", "/" + "x" * 7800, headers={"Authorization": "Bearer guess"})
                answer = one.getresponse()
                statuses[answer.status] += 1
                statuses["kept"] += answer.status == 429 and "close" not in answer.getheader("connection", "")

    guessers = [threading.Thread(target=guess) for _ in range(16)]
    for one in guessers:
        one.start()
    begun = time.monotonic()
    right = Request(f"{place.url}/diagnostics", headers={"Authorization": f"Bearer {token}"})
    with urlopen(right, timeout=PATIENCE) as answer:
        assert answer.status == 200
    assert time.monotonic() - begun < 2, "a right token does not wait"
    until(lambda: statuses[429] > 200, "many were told off")
    enough.set()
    started.process.terminate()  # nobody waits for the server's end either
    for one in guessers:
        one.join(30)
    assert started.wait() == 0
    assert statuses["kept"] == 0
    lines = [line for line in audited(place).splitlines() if "login_failed" in line]
    assert len(lines) == 6
    assert max(map(len, lines)) < 1000
    assert re.search(r"peer=127\.0\.0\.1 more=\d{3,} seconds=", lines[-1])
    assert "audit run " in audited(place)


# The log file.


def test_log_file(place: Place) -> None:
    """Banner, output of the worker and audit, each line with its time and its process, without colours or secrets.

    What the application reports, a failed login, is a line in the log and on standard error, with the peer.
    """
    place.write_module("reporting", REPORTING)
    started = place.start(
        "--demo", "--app", "reporting:app", "--log-file", str(log_of(place)), LEAK=KEY, A_KEY=KEY, FORCE_COLOR="1"
    ).until_ready()
    worker = child(started, "preflight.worker")
    assert get(f"{place.url}/x")[0] == 200
    for _ in range(3):
        assert get(f"{place.url}/login")[0] == 200
    until(lambda: "visited /x" in log_of(place).read_text(), "the log has it")
    until(lambda: log_of(place).read_text().count("login_failed") == 3, "the log has them")
    assert started.stop(signal.SIGINT) == 0
    text = log_of(place).read_text()
    logins = re.findall(r"audit login_failed uid=(\d+) pid=(\d+) peer=127\.0\.0\.1:\d+ path=/login said=(\S+)\n", text)
    assert logins == [(str(os.getuid()), str(worker), '"[redacted]"')] * 3
    assert started.stderr.count("audit login_failed") == 3
    for line in text.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (?:launcher\[\d+\]|worker\[\d+\]|audit \w+) ", line), (
            line
        )
    assert f"worker[{worker}] visited /x [redacted]\n" in text
    assert f"launcher[{started.pid}] " in text
    assert READY in text
    assert "Stopping (SIGINT)." in text
    assert KEY not in text
    assert "\x1b" not in text
    assert stat.S_IMODE(log_of(place).stat().st_mode) == 0o600
    assert stat.S_IMODE(log_of(place).parent.stat().st_mode) == 0o700


def test_a_worker_that_talks_without_end(place: Place) -> None:
    """A line without an end is cut, not held in memory, and what comes after it is shown."""
    source = "import sys\nprint('x' * 3_000_000, flush=True)\nprint('next', flush=True)\n"
    place.write_module("reporting", source + REPORTING)
    started = place.start("--demo", "--app", "reporting:app", "--log-file", str(log_of(place))).until_ready()
    until(lambda: "] next\n" in log_of(place).read_text(), "the next line has come")
    assert started.stop() == 0
    assert max(map(len, log_of(place).read_text().splitlines())) < 10_000
    assert "x …\n" in log_of(place).read_text()
    assert len(started.stderr) < 70_000


@pytest.mark.parametrize("planted", ["link", "folder", "pipe"])
def test_log_file_that_cannot_be(place: Place, planted: str) -> None:
    """A wrong place is said before anything begins, and nothing is written through a link."""
    path = place.folder / "planted"
    if planted == "link":
        path.symlink_to(place.folder / "target")
    elif planted == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    started = place.run("--demo", "--log-file", str(path))
    assert started.process.returncode == 2
    assert started.stderr.startswith(f"run.py: error: the log file {path} cannot be used: ")
    assert started.stderr.count("\n") == 1
    assert not (place.folder / "target").exists()


def test_replaced_instance_and_its_successor(place: Place) -> None:
    """Both write to the same log for a while, and each line says who."""
    first = place.start("--demo", "--app", "small:app", "--log-file", str(log_of(place))).until_ready()
    second = place.start("--demo", "--app", "small:app", "--log-file", str(log_of(place))).until_ready()
    assert first.wait() == 0
    assert second.stop() == 0
    text = log_of(place).read_text()
    assert f"launcher[{first.pid}] Replaced by another start (PID {second.pid}); stopping." in text
    assert f"launcher[{second.pid}] Stopping (SIGTERM)." in text


# The bundle.


def test_bundle(equipped: Place) -> None:
    """After a refused start and beside a running one: one command, one line, one file without a secret in it."""
    equipped.refused("--app", "small:app", "--log-file", str(log_of(equipped)), PREFLIGHT_PYTHON=f">=99.{len(KEY)}")
    started = equipped.start("--app", "small:app", "--log-file", str(log_of(equipped))).until_ready()
    out = equipped.folder / "out.zip"
    written = equipped.run("--bundle", str(out))  # the running instance's record says where its log is
    assert written.process.returncode == 0, written.output
    assert re.match(rf"Wrote {re.escape(str(out))} \(\d+ reports?, ", written.stdout)
    assert written.stdout.count("\n") == 1
    assert written.stderr == ""
    with zipfile.ZipFile(out) as archive:
        found = {name: archive.read(name).decode() for name in archive.namelist()}
    assert json.loads(found["port.json"])["status"] == "served by an instance of ours"
    assert "audit refused" in found["log.txt"]
    assert "audit refused" in found["audit.txt"]
    assert json.loads(found["report.json"])["preflight"]["status"] == "warnings" or READY in found["log.txt"]
    whole = "".join(found.values())
    for key in KEYS.values():
        assert key not in whole
        assert key[:8] not in whole
        assert key[-8:] not in whole
    assert str(equipped.folder / "home") not in whole
    assert get(f"{equipped.url}/")[0] == 200, "a bundle stops nothing"
    assert started.stop() == 0


def test_bundle_is_exclusive(place: Place) -> None:
    """It is a command of its own."""
    assert place.run("--bundle", "x.zip", "--check-only").process.returncode == 2


# Files.


def test_corrupt_report_of_an_earlier_run(place: Place) -> None:
    """It is set aside and said by the next start, and again where one comes while it serves."""
    place.report_file.write_text('{"preflight": {"status": "passed", "may_st')
    started = place.serve().until_ready()
    assert "The report of an earlier run was not used: " in started.stdout
    assert "it was renamed to report.json.corrupt-1" in started.stdout
    place.report_file.write_text("garbage")
    for _ in range(2):
        body = json.loads(get(f"{place.url}/diagnostics")[1])
        assert "report.json.corrupt-2" in body["problem"]
        assert body["status"] == "passed"
    assert get(f"{place.url}/health")[0] == 200
    assert place.run("--check-only", "--demo", "--app", "small:app").process.returncode == 0
    assert "problem" not in json.loads(get(f"{place.url}/diagnostics")[1])
    assert started.stop() == 0


def test_litter_is_swept(place: Place) -> None:
    """What a killed launcher left half written is gone after the next run; a living process's is not."""
    gone = place.spawn(sys.executable, "-c", "")
    gone.wait()
    (place.state / f".report.json.abc.{gone.pid}").write_text("half")
    (place.state / f".report.json.abc.{os.getpid()}").write_text("half")
    place.run("--check-only", "--demo", "--app", "small:app")
    left = sorted(os.listdir(place.state))
    assert left == [f".report.json.abc.{os.getpid()}", "audit.log", "history", "imports.json", "report.json"]


def test_state_folder_is_closed(place: Place) -> None:
    """A state folder that others can look into is closed to them."""
    place.state.chmod(0o755)
    place.run("--check-only", "--demo", "--app", "small:app")
    assert stat.S_IMODE(place.state.stat().st_mode) == 0o700


def fill(place: Place, mode: int) -> list[Path]:
    """Everything that a start, a chat and a notice leave in a state folder, with the modes that a careless copy has."""
    folders = [place.state / name for name in ("history", "told", "runtime")]
    names = ("report.json", "imports.json", "audit.log", "sessions.sqlite")
    more = ("report.json.corrupt-1", "audit.log.1", "sessions.sqlite-wal", "sessions.sqlite.broken-1")
    files = [place.state / name for name in (*names, *more)]
    for folder in folders:
        folder.mkdir()
    for file in files:
        file.touch()
    entries = [*folders, *files]
    for entry in entries:
        entry.chmod(mode | 0o111 if entry.is_dir() else mode)
    return entries


def test_everything_in_the_state_folder_is_closed(place: Place) -> None:
    """The folder is known as ours by whatever is kept in it, and each part of it is closed as well."""
    entries = fill(place, 0o644)
    place.state.chmod(0o755)
    place.run("--check-only", "--demo", "--app", "small:app")
    open_entries = [entry.name for entry in [place.state, *entries] if entry.stat().st_mode & 0o077]
    assert open_entries == []
    assert place.check("State Folder Mode")["outcome"] == "passed"


def test_state_folder_that_is_used_for_other_things(place: Place) -> None:
    """It is left as it is, and so are the folders in it: a warning says what to do, and nothing is blocked for it."""
    check_only = ("--check-only", "--demo", "--app", "small:app")
    (place.state / "thesis.tex").touch()
    place.state.chmod(0o755)
    assert place.run(*check_only).process.returncode == 0
    check = place.check("State Folder Mode")
    assert check["outcome"] == "failed"
    assert f"{place.state} has mode 0755" in check["message"]
    assert check["fix"] == f"chmod 700 {place.state}"
    subprocess.run(check["fix"], shell=True, check=True)
    folders = [place.state / name for name in ("told", "history", "runtime")]
    for folder in folders:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    assert place.run(*check_only).process.returncode == 0
    check = place.check("State Folder Mode")
    assert check["outcome"] == "failed"
    assert [folder for folder in folders if f"{folder} has mode 0755" not in check["message"]] == []
    subprocess.run(check["fix"], shell=True, check=True)
    place.run(*check_only)
    assert place.check("State Folder Mode")["outcome"] == "passed"


def test_history_behind_a_link(place: Place) -> None:
    """It is not followed: the run counts, and is said not to be kept."""
    (place.folder / "elsewhere").mkdir()
    (place.state / "history").symlink_to(place.folder / "elsewhere")
    started = place.run("--check-only", "--demo", "--app", "small:app")
    assert started.process.returncode == 0
    assert f"This run is not in the history: {place.state / 'history'}: it is a symbolic link" in started.stdout
    assert list((place.folder / "elsewhere").iterdir()) == []
    assert "THE HISTORY CANNOT BE READ" in place.run("--history").stdout


def hostile(place: Place, kind: str) -> tuple[Path, str]:
    """A state folder that somebody else could have a hand in."""
    shared = place.folder / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    if kind == "link":
        (place.folder / "theirs").mkdir()
        (shared / "state").symlink_to(place.folder / "theirs")
        return shared / "state", "is a symbolic link in a folder that anybody can write"
    if kind == "foreign":
        (shared / "state").mkdir()
        os.chown(shared / "state", 65534, 65534)
        return shared / "state", "belongs to another user, in a folder that anybody can write"
    return shared, "anybody can write in this folder"


@pytest.mark.parametrize(
    "kind",
    [
        "link",
        "writable",
        pytest.param("foreign", marks=pytest.mark.needs_root("nobody else can make another user's folder")),
    ],
)
def test_state_folder_that_is_not_safe(place: Place, kind: str) -> None:
    """Another user's folder, one behind a link, one that anybody can write: nothing starts, nothing is written."""
    folder, why = hostile(place, kind)
    place.environ["PREFLIGHT_STATE_DIR"] = str(folder)
    started = place.run("--demo", "--app", "small:app")
    assert started.process.returncode == 1
    assert "State Folder" in started.stdout.partition(BLOCKED)[2]
    assert why in started.stdout
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_a_log_costs_no_memory(place: Place, unmeasured: None) -> None:
    """The launcher has a budget of 20 MiB for all that it does: a log takes less than a fiftieth of it.

    Memory of its own is counted. Pages of files, of which the system maps more or fewer at a time, vary by more.
    """
    own = []
    for options in ((), ("--log-file", str(log_of(place)))):
        started = place.start("--demo", "--app", "small:app", *options).until_ready()
        found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{started.pid}/status").read_text())
        assert found is not None
        own.append(int(found[1]))
        assert started.stop() == 0
    assert own[1] - own[0] < 20 * 1024 // 50, f"{own} KiB"
