"""A start as a pod makes it: the Deployment's variables, every address, keys in the environment, no env file."""

from __future__ import annotations

import http.client
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from preflight.report import model as report
from tests.deploy.manifests import ROOT, configuration, container, image_command, image_variables
from tests.e2e.place import KEYS, Place, Started
from tests.waiting import until

pytestmark = pytest.mark.slow

TOKEN = "a-token-that-nobody-guesses-5772"


@pytest.fixture
def pod(equipped: Place) -> Place:
    """What a pod is given, but for the folders and the interpreter, which are the machine's here."""
    equipped.env_file.unlink()
    ours = {name: value for name, value in {**image_variables(), **configuration()}.items() if "STATE_DIR" not in name}
    equipped.environ |= {**ours, **KEYS, "PREFLIGHT_TOKEN": TOKEN, "HOME": "/nonexistent"}
    equipped.environ["PREFLIGHT_TERMINATION_LOG"] = str(termination_log(equipped))
    termination_log(equipped).touch()  # as the kubelet does
    return equipped


def termination_log(pod: Place) -> Path:
    """What is mounted as /dev/termination-log."""
    return pod.folder / "termination-log"


def start(pod: Place) -> Started:
    assert image_command()[1:] == ["/app/run.py"]
    return pod.start()


def probed(port: int, path: str, host: str = "10.244.1.17", **headers: str) -> int:
    """The status that the kubelet gets: it names the pod's address, and brings neither token nor cookie."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in {"Host": f"{host}:{port}", "User-Agent": "kube-probe/1.37", **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


def test_probes_of_a_pod_that_serves_and_drains(pod: Place) -> None:
    """Each probe is answered by a pod that serves; one that is stopping is alive, and not ready, and still serves."""
    started = start(pod).until_ready()
    paths = {name: container()[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert {probed(pod.port, path) for path in paths.values()} == {200}
    # Nothing else is for whoever comes without the token, or by a name that is not the server's.
    assert probed(pod.port, "/metrics") == 421
    assert probed(pod.port, "/metrics", host="127.0.0.1") == 401
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert probed(pod.port, "/metrics", host="preflight.preflight.svc", **bearer) == 200
    started.send(signal.SIGTERM)
    until(lambda: probed(pod.port, paths["readiness"]) == 503, "it drains")
    assert probed(pod.port, paths["liveness"]) == 200
    assert probed(pod.port, "/diagnostics", host="127.0.0.1", **bearer) == 200, "endpoints still name it"
    assert started.insist() == 0


def test_why_a_start_was_refused_is_the_termination_message(pod: Place) -> None:
    """Each requirement that blocks is there with what was found and the fix, and fits into what Kubernetes keeps."""
    for name in ("PREFLIGHT_TOKEN", "OPENAI_API_KEY"):
        del pod.environ[name]
    assert start(pod).wait() == 1
    told = termination_log(pod).read_text()
    blocking = report.load(pod.report_file).blocking
    assert {check.title for check in blocking} >= {"Exposure", "OpenAI API Key"}
    for check in blocking:
        assert f"❌ {check.title}\n   {check.message}\n   Fix: {check.fix}\n" in told
    assert len(told.encode()) <= 4096


def test_an_application_that_keeps_crashing_says_so_there(pod: Place) -> None:
    """What has served and was given up leaves why, and not the requirements that held."""
    pod.environ["PREFLIGHT_RESTART_LIMIT"] = "1"
    started = start(pod).until_ready()
    (worker,) = [pid for pid in started.family() if "preflight.worker" in " ".join(psutil.Process(pid).cmdline())]
    os.kill(worker, signal.SIGKILL)
    assert started.wait() == 4
    told = termination_log(pod).read_text()
    assert "SIGKILL" in told
    assert "❌" not in told


def test_a_termination_message_that_cannot_be_written(pod: Place) -> None:
    """The start is refused as it would be otherwise, and says that; a pipe that nobody reads holds nothing up."""
    del pod.environ["PREFLIGHT_TOKEN"]
    termination_log(pod).unlink()
    os.mkfifo(termination_log(pod))
    refused = start(pod)
    assert refused.wait() == 1
    assert "the termination message cannot be written: No such device or address" in refused.output


def test_the_job_judges_without_serving(pod: Place) -> None:
    """Its command ends well where the critical requirements hold, and with 1 where one does not."""
    program, *arguments = container("check")["command"]
    assert program == image_command()[0]
    job = pod.spawn(sys.executable, *arguments, cwd=ROOT)
    assert job.wait() == 0, job.output
    del pod.environ["OPENAI_API_KEY"]
    refused = pod.spawn(sys.executable, *arguments, cwd=ROOT)
    assert refused.wait() == 1, refused.output
    assert "OPENAI_API_KEY is not set" in refused.output
