"""deploy/kubernetes says of the server what is true of it: its routes, its deadlines, its user and its folders.

`make manifests` holds the same files against Kubernetes' own schemas, and `make checkov` against the rules of clusters.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from preflight import __version__
from preflight.instances.presence import GOODBYE
from preflight.settings import loading
from preflight.settings.model import Settings
from preflight.web import routes
from preflight.web.routing import Audience, Route
from tests.deploy.manifests import (
    JOBS,
    KUBERNETES,
    ROOT,
    configuration,
    container,
    image_variables,
    load,
    objects,
    one,
    pod,
)

EVERYWHERE = [".", *JOBS]
SLACK = 5.0  # seconds of the grace period that no setting accounts for: to start the drain, to end, to be noticed
ROUTES = {entry.path: entry for entry in routes.table() if isinstance(entry, Route)}


def seconds(probe: dict[str, Any]) -> int:
    """How long a probe may fail until something is done about it."""
    return int(probe["periodSeconds"] * probe["failureThreshold"])


@pytest.fixture
def deployed() -> Settings:
    """The settings of a pod: of the checkout, the image, the ConfigMap and a Secret."""
    return loading.load(ROOT, {**image_variables(), **configuration(), "PREFLIGHT_TOKEN": "made-up-0123456789"})


def test_every_name_is_a_setting(deployed: Settings) -> None:
    """The variables are known and their values good, and none of them is a secret's."""
    assert not deployed.loopback
    for name in configuration():
        assert deployed.sources[name.removeprefix("PREFLIGHT_").lower()]
    assert not {"PREFLIGHT_TOKEN", "OPENAI_API_KEY", "PREFLIGHT_DATABASE_URL"} & configuration().keys()


def test_the_grace_period_fits(deployed: Settings) -> None:
    """Kubernetes kills nothing that drain_delay and graceful_timeout still allow."""
    grace = pod()["terminationGracePeriodSeconds"]
    assert deployed.delay == 15
    assert grace >= deployed.delay + deployed.graceful_timeout + GOODBYE + SLACK
    assert grace < 2 * (deployed.delay + deployed.graceful_timeout), "a node that is emptied waits for it"


def test_readiness_is_noticed_within_the_drain(deployed: Settings) -> None:
    """A pod that drains has been taken out of every list before it stops accepting."""
    probe = container()["readinessProbe"]
    assert seconds(probe) + probe["timeoutSeconds"] < deployed.delay


def test_probes_ask_the_three_health_routes() -> None:
    """Each its own, over the server's port; nobody's access is needed for them, and no suite runs."""
    asked = {name: container()[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: get["path"] for name, get in asked.items()} == {
        "startup": "/health", "liveness": "/health/live", "readiness": "/health/ready",
    }  # fmt: skip
    assert all(ROUTES[get["path"]].audience is Audience.ANYBODY for get in asked.values())
    (port,) = container()["ports"]
    assert {get["port"] for get in asked.values()} == {port["name"]}
    assert not any("exec" in str(container()[f"{name}Probe"]) for name in asked)


def test_a_start_has_the_time_that_it_may_take(deployed: Settings) -> None:
    """The startup probe outlasts a whole run and more than that for the application; a rollout outlasts the probe."""
    allowed = seconds(container()["startupProbe"])
    assert allowed >= 2 * deployed.run_timeout
    assert one("Deployment")["spec"]["progressDeadlineSeconds"] > allowed


def test_the_launcher_comes_before_the_kubelet(deployed: Settings) -> None:
    """A worker that hangs is replaced on its socket before Kubernetes ends the container."""
    assert seconds(container()["livenessProbe"]) > deployed.heartbeat


def test_a_rollout_takes_nothing_away_first() -> None:
    """Old pods go when new ones are ready, and one at a time where a node is emptied."""
    spec = one("Deployment")["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert spec["replicas"] >= 2
    budget = one("PodDisruptionBudget")["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")


def test_labels_lead_to_the_servers_pods_alone() -> None:
    """Service and budget choose the pods of the Deployment, and none of a Job; the policy is for all of them."""
    labels = one("Deployment")["spec"]["template"]["metadata"]["labels"]
    chosen = one("Service")["spec"]["selector"]
    assert one("Deployment")["spec"]["selector"]["matchLabels"] == chosen
    assert one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == chosen
    everybody = one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    assert chosen.items() <= labels.items()
    for job in JOBS:
        theirs = one("Job", job)["spec"]["template"]["metadata"]["labels"]
        assert not chosen.items() <= theirs.items()
        assert everybody.items() <= theirs.items()
    assert everybody.items() <= labels.items()
    (port,) = one("Service")["spec"]["ports"]
    assert port["targetPort"] == container()["ports"][0]["name"]


def test_the_port_is_the_one_that_is_served(deployed: Settings) -> None:
    """Deployment and image name the setting's port."""
    assert [port["containerPort"] for port in container()["ports"]] == [deployed.port]


@pytest.mark.parametrize("folder", EVERYWHERE)
def test_a_pod_may_do_nothing_that_it_does_not_need(folder: str) -> None:
    """No root, no capability, no writable root file system, no token for the cluster, no variables of Services."""
    spec, only = pod(folder), container(folder)
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert "initContainers" not in spec, "what waits for a database there deadlocks with a sidecar"


@pytest.mark.parametrize("folder", EVERYWHERE)
def test_what_is_written_has_a_volume(folder: str) -> None:
    """The state folder and /tmp; the state folder is made below its mount, with a mode of its own."""
    mounts = {entry["mountPath"]: entry["name"] for entry in container(folder)["volumeMounts"]}
    assert set(mounts.values()) == {volume["name"] for volume in pod(folder)["volumes"]}
    state = PurePosixPath(image_variables()["PREFLIGHT_STATE_DIR"])
    assert str(state.parent) in mounts
    assert "/tmp" in mounts


@pytest.mark.parametrize("folder", EVERYWHERE)
def test_all_are_told_the_same(folder: str) -> None:
    """Servers and Jobs have the settings of one ConfigMap and the keys of one Secret, and the same image."""
    assert container(folder)["envFrom"] == [
        {"configMapRef": {"name": one("ConfigMap")["metadata"]["name"]}}, {"secretRef": {"name": "preflight"}},
    ]  # fmt: skip
    kustomization = load(KUBERNETES / folder / "kustomization.yaml")
    (component,) = kustomization["components"]
    (image,) = load(KUBERNETES / folder / component / "kustomization.yaml")["images"]
    assert container(folder)["image"] == f"{image['name']}:{__version__}"
    assert image["newTag"] == __version__


@pytest.mark.parametrize("folder", EVERYWHERE)
def test_why_it_ended_is_told(folder: str, deployed: Settings) -> None:
    """The server writes what blocks to the termination message; of all others it is the end of their output."""
    only = container(folder)
    assert only["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert only.get("terminationMessagePath", "/dev/termination-log") == str(deployed.termination_log)


def test_a_job_is_tried_once() -> None:
    """What the critical requirements say the first time is the answer."""
    for job in JOBS:
        assert one("Job", job)["spec"]["backoffLimit"] == 0
        assert pod(job)["restartPolicy"] == "Never"


def test_everything_is_in_the_namespace() -> None:
    """Whatever namespace somebody's kubectl is set to."""
    name = one("Namespace")["metadata"]["name"]
    for folder in EVERYWHERE:
        for entry in objects(folder):
            assert entry["kind"] == "Namespace" or entry["metadata"]["namespace"] == name, entry["kind"]


@pytest.mark.slow
@pytest.mark.parametrize("folder", EVERYWHERE)
def test_kustomize_makes_what_the_files_say(folder: str) -> None:
    """kubectl's own reading: the same objects, with the image that the component names."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(["kubectl", "kustomize", KUBERNETES / folder], capture_output=True, text=True, check=True)
    made = list(yaml.safe_load_all(done.stdout))
    (image,) = load(KUBERNETES / "image" / "kustomization.yaml")["images"]
    named = f"{image['newName']}:{image['newTag']}"
    raw = container(folder)["image"]
    expected = yaml.safe_dump(list(objects(folder)), sort_keys=True).replace(f"image: {raw}\n", f"image: {named}\n")
    key = lambda entry: (entry["kind"], entry["metadata"]["name"])  # noqa: E731
    assert sorted(made, key=key) == sorted(yaml.safe_load(expected), key=key)
    assert named in done.stdout
