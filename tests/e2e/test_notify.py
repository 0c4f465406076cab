"""Real starts tell a real mail server and a real HTTP receiver what has changed, and wait for neither."""

from __future__ import annotations

import json
import signal
import sys
import time
import urllib.request
from typing import Any

import pytest

from preflight import times
from tests.e2e.place import READY, Place, get
from tests.e2e.processes import crash, crashing, kill_worker
from tests.receivers import Mailbox, Receiver
from tests.waiting import PATIENCE, until

# A requirement that does what a file tells it.
TOLD = """
import os
from pathlib import Path
import pytest

@pytest.mark.critical("Told", fix="remove the file")
def test_told():
    "It is told to hold."
    assert not Path(os.environ["HOME"], "fail").exists(), "was told to fail"
"""


def notifications(place: Place) -> dict[str, Any]:
    """What /diagnostics says about them."""
    found: dict[str, Any] = json.loads(get(f"{place.url}/diagnostics")[1])["notifications"]
    return found


def rerun(place: Place) -> None:
    """Run the suite beside the live server, to its end."""
    request = urllib.request.Request(f"{place.url}/diagnostics/run", b"", method="POST")
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        run_id = json.loads(answer.read())["run_id"]
    until(lambda: json.loads(get(f"{place.url}/diagnostics/run/{run_id}")[1])["state"] == "finished", "it is over")


def last_told_blocked(place: Place) -> None:
    """People know a start that was blocked, so that the next good one is news."""
    place.plant_report(told := place.state / "told" / f"127.0.0.1-{place.port}.json")
    document = json.loads(told.read_text())
    document["preflight"] |= {"status": "failed", "may_start": False}
    told.write_text(json.dumps(document))


def test_crash_and_return(place: Place, receiver: Receiver, mailbox: Mailbox) -> None:
    """kill -9: the crash and the return are told, once each, in order, though the receiver fails twice first."""
    receiver.failures = 2
    started = place.serve(
        "--supervise", PREFLIGHT_NOTIFY=f"{receiver.url()},{mailbox.url}", PREFLIGHT_RESTART_BACKOFF="10ms"
    ).until_ready()
    assert notifications(place)["configured"] == 2
    kill_worker(started)
    until(lambda: len(receiver.taken) == 2 and len(mailbox.mails) == 2, "both are told of both")
    assert receiver.titles == ["The server crashed", "The server came back"]
    first, second, third, _fourth = receiver.tried
    assert second - first >= 1
    assert third - second >= 2
    assert "The worker ended (SIGKILL, possibly because memory ran out)" in receiver.taken[0]["message"]
    assert receiver.taken[0]["type"] == "failure"
    assert receiver.taken[1]["type"] == "success"
    assert "The server crashed" in mailbox.text(0)
    assert "The server came back" in mailbox.text(1)
    until(lambda: notifications(place)["delivered"] == 4, "/diagnostics counts them")
    tally = notifications(place)
    assert (tally["pending"], tally["undelivered"], tally["dropped"], tally["problem"]) == (0, 0, 0, "")
    assert 0 <= time.time() - times.epoch(tally["last_delivered_at"]) < 60
    assert "Not delivered" not in started.output
    assert started.stop() == 0
    started.left_nothing()


def test_blocked_and_back(place: Place, mailbox: Mailbox) -> None:
    """A refused start is told before the command ends, once; that it is mended, when the server is up."""
    place.environ["PREFLIGHT_NOTIFY"] = mailbox.url
    place.write_module("mine", "raise RuntimeError('no model')")
    refused = place.refused("--demo", "--app", "mine:app")
    until(lambda: len(mailbox.mails) == 1, "the mail is there")
    text = mailbox.text(0)
    assert "❌ The start is blocked (127.0.0.1:" in text
    assert "❌ Application: mine:app cannot be imported: RuntimeError: no model" in text
    assert "not delivered" not in refused.output
    place.refused("--demo", "--app", "mine:app")
    place.write_module("mine", "from small import app")
    # Looking is not told, and what it found is told all the same.
    assert place.run("--demo", "--app", "mine:app", "--check-only").process.returncode == 0
    assert len(mailbox.mails) == 1
    started = place.start("--demo", "--app", "mine:app").until_ready()
    until(lambda: len(mailbox.mails) == 2, "the second mail is there")
    assert "✅ The server came back (127.0.0.1:" in mailbox.text(1)
    assert "✅ Application: mine:app" in mailbox.text(1)
    assert started.stop() == 0
    again = place.start("--demo", "--app", "mine:app").until_ready()
    assert again.stop() == 0
    assert len(mailbox.mails) == 2
    again.left_nothing()


def test_pytest_tells_nobody(project: Place, receiver: Receiver) -> None:
    """The suite alone, as in CI, publishes its report and tells nobody."""
    project.write_suite('import pytest\n@pytest.mark.critical("Bad")\ndef test_bad():\n    "No."\n    assert 0')
    command = [sys.executable, "-m", "pytest", "preflight", "--demo", "--port", str(project.port)]
    one = project.spawn(*command, environ={"PREFLIGHT_NOTIFY": receiver.url()})
    assert one.wait() == 1
    assert project.report()["may_start"] is False
    assert receiver.tried == []
    assert not (project.state / "told").exists()


def test_given_up(place: Place, receiver: Receiver) -> None:
    """A server that is given up is told before exit code 4, and its next start as its return."""
    started = crashing(place, failing="2,3", PREFLIGHT_NOTIFY=receiver.url()).until_ready()
    crash(place)
    assert started.wait() == 4
    end = "The server keeps crashing: the launcher has given up"
    assert receiver.titles == ["The server crashed", "The server crashed", end]
    assert "It was started 3 times." in receiver.taken[-1]["message"]
    started.left_nothing()
    back = crashing(place, PREFLIGHT_NOTIFY=receiver.url()).until_ready()
    until(lambda: len(receiver.taken) == 4, "its return is told")
    assert receiver.titles[-1] == "The server came back"
    assert back.stop() == 0


def test_a_rerun(project: Place, receiver: Receiver) -> None:
    """What a re-run beside the live server finds is told, once: a flip, and not that it is still so."""
    project.write_suite((project.root / "preflight" / "requirements" / "test_port.py").read_text())
    project.write_requirement("told", TOLD)
    project.environ["PREFLIGHT_NOTIFY"] = receiver.url()
    fail = project.folder / "home" / "fail"
    started = project.serve("--supervise", PREFLIGHT_RESTART_BACKOFF="10ms").until_ready()
    fail.touch()
    rerun(project)
    until(lambda: len(receiver.taken) == 1, "the flip is told")
    assert "❌ Told: was told to fail\n   Fix: remove the file\nRun " in receiver.taken[0]["message"]
    assert "(rerun, " in receiver.taken[0]["message"]
    # A new worker need not wait until the next re-run, and knows what people know.
    for told in (3, 5):
        kill_worker(started)
        until(lambda told=told: len(receiver.taken) == told, "crash and return are told")  # type: ignore[misc]
        if told == 5:
            fail.unlink()
        rerun(project)
    until(lambda: len(receiver.taken) == 6, "the flip back is told")
    crash_and_return = ["The server crashed", "The server came back"]
    expected = ["The server is unhealthy", *crash_and_return, *crash_and_return, "The server is healthy again"]
    assert receiver.titles == expected
    assert "✅ Told: holds again" in receiver.taken[-1]["message"]
    until(lambda: notifications(project)["delivered"] == 6, "/diagnostics counts them")
    assert started.stop() == 0
    started.left_nothing()


def test_waited_in_vain(place: Place, receiver: Receiver) -> None:
    """A start that waits tells nobody of its tries, and once that it gave up."""
    place.environ["PREFLIGHT_NOTIFY"] = receiver.url()
    one = place.run("--demo", "--app", "nothing.there:app", "--wait", "4")
    assert one.process.returncode == 1
    assert receiver.titles == ["The start is blocked"]
    one.left_nothing()


def test_a_hanging_service_delays_nothing(place: Place, receiver: Receiver) -> None:
    """The server is up while its notice is still on the way, and stopping waits a second or two, not longer."""
    receiver.hangs = True
    last_told_blocked(place)
    started = place.serve(PREFLIGHT_NOTIFY=receiver.url()).until_ready()
    assert get(f"{place.url}/health")[0] == 200
    until(lambda: bool(receiver.tried), "the notice is on its way")
    assert notifications(place)["pending"] == 1
    begun = time.monotonic()
    assert started.stop() == 0
    assert time.monotonic() - begun < 4
    assert "1 notification was not delivered before this command ended." in started.stdout
    started.left_nothing()


def test_a_second_signal_ends_the_waiting(place: Place, receiver: Receiver) -> None:
    """Who does not want to wait for notifications presses Ctrl-C once more."""
    receiver.hangs = True
    started = place.start("--demo", "--app", "nothing.there:app", PREFLIGHT_NOTIFY=receiver.url())
    until(lambda: bool(receiver.tried), "the notice is on its way")
    begun = time.monotonic()
    started.send(signal.SIGINT)
    assert started.wait() == 1
    assert time.monotonic() - begun < 2
    assert "1 notification was not delivered before this command ended." in started.stdout
    started.left_nothing()


def test_a_url_that_cannot_be(place: Place) -> None:
    """It is said when the server starts, not when it is needed."""
    started = place.serve(PREFLIGHT_NOTIFY="nosuch://T1canary99").until_ready()
    started.until_says("Notifications cannot be sent to nosuch: apprise does not understand this URL")
    until(lambda: bool(notifications(place)["problem"]), "/diagnostics says it, too")
    assert started.stop() == 0


def test_without_apprise(project: Place) -> None:
    """Without the extra a start warns, serves, and says how to install it."""
    (project.folder / "modules" / "sitecustomize.py").write_text(
        "import importlib.util, importlib.metadata\n"
        "find, version = importlib.util.find_spec, importlib.metadata.version\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'apprise' else find(name, *more)\n"
        "def known(name):\n"
        "    if name == 'apprise':\n"
        "        raise importlib.metadata.PackageNotFoundError(name)\n"
        "    return version(name)\n"
        "importlib.metadata.version = known\n"
    )
    project.environ["PREFLIGHT_NOTIFY"] = "json://127.0.0.1:1"
    started = project.serve().until_ready()
    assert project.check("Notifications")["message"] == "apprise is not installed: no notification can be sent"
    assert "apprise>=1.9" in project.check("Notifications")["fix"]
    started.until_says("Not delivered to json: ⚠️ A check warns")
    assert started.stop() == 0
    tried = project.run("--demo", "--test-notify")
    assert tried.process.returncode == 2
    assert "notifications need apprise; fix: " in tried.stderr


def test_test_notify(place: Place, receiver: Receiver, mailbox: Mailbox) -> None:
    """--test-notify sends a message to everybody, says for each whether it arrived, and starts nothing."""
    place.write_env_file(PREFLIGHT_NOTIFY=f"'{receiver.url('/T1canary99')} {mailbox.url}'")
    good = place.run("--test-notify")
    assert good.stdout.splitlines() == ["json (1 of 2): delivered", "mailto (2 of 2): delivered"]
    assert good.process.returncode == 0
    assert receiver.titles == ["This is a test"]
    assert "This is how you will hear of" in mailbox.text(0)
    receiver.failures = 9
    bad = place.run("--test-notify")
    assert bad.stdout.splitlines()[0] == "json (1 of 2): NOT delivered: HTTP 500"
    assert bad.process.returncode == 1
    assert len(mailbox.mails) == 2
    assert not place.state.joinpath("report.json").exists()


def test_nobody_to_tell(place: Place) -> None:
    """Without a URL --test-notify is a mistake that says where to set one."""
    one = place.run("--test-notify")
    assert one.process.returncode == 2
    assert one.stderr == (
        f"run.py: error: PREFLIGHT_NOTIFY is not set: set it in {place.env_file} or the environment\n"
    )
    started = place.serve().until_ready()
    assert notifications(place)["configured"] == 0
    assert place.check("Notifications")["outcome"] == "not_applicable"
    assert started.stop() == 0


@pytest.mark.slow
def test_undelivered(place: Place, receiver: Receiver) -> None:
    """Log and /diagnostics say what could not be delivered and why; the URLs' secrets are nowhere at all."""
    canaries = ["T1canary99", "canary-Login1", "canary-Pass2", "canaryTopic3"]
    place.environ["PREFLIGHT_NOTIFY_BACKOFF"] = "0.1"
    port = receiver.url().rsplit(":", 1)[1].split("/")[0]
    receiver.failures = 99
    last_told_blocked(place)
    urls = [
        f"json://canary-Login1:canary-Pass2@127.0.0.1:{port}/services/T1canary99?+canaryTopic3=canaryTopic3",
        "slack://T1canary99/canary-Pass2/canaryTopic3",
        "json://127.0.0.1:1/T1canary99/canaryTopic3",
    ]
    place.write_module("mine", f"print({urls!r}, {canaries!r})\nfrom agentless import app")
    place.environ["PREFLIGHT_NOTIFY"] = ",".join(urls)
    tried = place.run("--demo", "--test-notify")
    assert tried.stdout.splitlines()[0] == "json (1 of 3): NOT delivered: HTTP 500"
    assert tried.stdout.splitlines()[2] == "json (3 of 3): NOT delivered: connection refused"
    started = place.serve("-v", "--app", "mine:app").until_ready()
    until(lambda: len(receiver.tried) >= 2, "something was sent")
    answers = [get(place.url + path)[1] for path in ("/diagnostics", "/health")]
    until(lambda: notifications(place)["undelivered"] == 3, "all are given up", 60)
    tally = notifications(place)
    assert (tally["delivered"], tally["pending"], tally["last_delivered_at"]) == (0, 0, None)
    assert tally["problem"].startswith(("json (", "slack ("))
    said = f"notifications: {tally['problem']}"
    assert json.loads(get(f"{place.url}/diagnostics")[1])["problem"] == said
    assert get(f"{place.url}/diagnostics?format=text")[1].splitlines()[-1] == said
    assert json.loads(get(f"{place.url}/diagnostics?format=health")[1])["notes"][-1] == said
    scraped = get(f"{place.url}/metrics")[1]
    assert '\npreflight_notifications_total{result="undelivered"} 3.0\n' in scraped
    assert "\npreflight_notifications_pending 0.0\n" in scraped
    answers.append(scraped)
    headline = "✅ The server came back (127.0.0.1:"
    assert f"Not delivered to json (1 of 3): {headline}" in started.stdout
    assert "HTTP 500 (tried 5 times)" in started.stdout
    assert f"Not delivered to json (3 of 3): {headline}" in started.stdout
    assert "connection refused (tried 5 times)" in started.stdout
    answers += [get(place.url + path)[1] for path in ("/diagnostics", "/health")]
    assert started.stop() == 0
    assert READY not in place.run("--demo", "--app", "nothing:canaryTopic3").output
    place.environ["PREFLIGHT_NOTIFY"] = "T1canary99 " + ",".join(urls)
    assert place.run("--demo").process.returncode == 2
    files = [file.read_text() for folder in (place.state, place.folder / "runtime") for file in folder.rglob("*.json")]
    assert len(files) >= 2
    texts = [*(one.output for one in place.started), *answers, *files]
    assert [(canary, text) for text in texts for canary in canaries if canary in text] == []
