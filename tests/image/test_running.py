"""The image, built and run as docs/fleet.md types it: `make image`, as root, with Podman in place of Docker."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator

import pytest

from tests.deploy.manifests import configuration
from tests.e2e.place import KEYS, get
from tests.image.engine import BASE, ROOT, Engine
from tests.portnumbers import unused_port
from tests.waiting import until

pytestmark = pytest.mark.timeout(3600)

TOKEN = "a-token-that-nobody-guesses-4669"
GIVEN = {"OPENAI_API_KEY": KEYS["OPENAI_API_KEY"], "PREFLIGHT_TOKEN": TOKEN}
LARGEST = 300  # MiB that the server and its packages add to the base image
LINES = re.findall(r"^docker (?!compose).*$", (ROOT / "docs" / "fleet.md").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def port() -> int:
    return unused_port()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Engine]:
    """With the image, built by the first of the lines."""
    needed = [name for name in ("podman", "debootstrap") if shutil.which(name) is None]
    assert not needed, f"{' and '.join(needed)} must be installed: apt-get install podman debootstrap"
    # Containers share the machine's network: each test has the port to itself, and nobody outside is asked.
    engine = Engine(tmp_path_factory.mktemp("engine"), {"PREFLIGHT_PORT": str(port), "PREFLIGHT_OFFLINE": "1"})
    try:
        engine.get_base()
        (build,) = [line for line in LINES if line.startswith("docker build ")]
        engine.must(build)
        yield engine
    finally:
        engine.close()


def test_what_is_in_it(engine: Engine) -> None:
    """Small, for a user without a name, with a health check; no keys, no pip and no compiler to be had in it."""
    image = engine.inspect("image", "preflight")
    assert image["Config"]["User"] == "10001:10001"
    assert image["Healthcheck"]["Test"][0] == "CMD"
    added = (image["Size"] - engine.inspect("image", BASE)["Size"]) / 2**20
    assert 20 < added < LARGEST, f"{added:.0f} MiB"
    listed = engine.must("docker run --rm --entrypoint ls preflight -A /app").split()
    assert sorted(listed) == sorted(
        [
            ".venv",
            "__pycache__",
            "conftest.py",
            "preflight",
            "pyproject.toml",
            "pytest.ini",
            "requirements.txt",
            "run.py",
            "server",
        ]
    )
    pip = engine.type("docker run --rm --entrypoint /app/.venv/bin/python preflight -m pip --version")
    assert "No module named pip" in pip.stderr
    mine = engine.type("docker run --rm --entrypoint find preflight /app -not -user 0")
    assert (mine.returncode, mine.stdout) == (0, "")


def test_a_start_that_is_refused(engine: Engine) -> None:
    """Without variables nothing is served: exit code 1, and the banner says what to set."""
    refused = engine.type("docker run --rm --read-only --tmpfs /tmp preflight")
    assert refused.returncode == 1
    assert "PREFLIGHT_TOKEN must be set" in refused.stdout
    assert "OPENAI_API_KEY is not set" in refused.stdout


def test_from_check_to_stop(engine: Engine, port: int) -> None:
    """The lines of the page: it is checked, serves with a root file system that nobody can write, and drains."""
    check, run, stop = LINES[1:]
    said = engine.must(check, **GIVEN)
    assert re.search(r"Environment File +not used: ", said), said
    engine.must(run, **GIVEN)
    try:
        until(lambda: "SERVER READY!" in engine.must("podman logs server"), "it serves")
        assert get(f"http://127.0.0.1:{port}/health/ready")[0] == 200
        healthy = engine.inspect("image", "preflight")["Healthcheck"]["Test"][1:]
        engine.must(f"podman exec server {shlex.join(healthy)}")
        written = engine.type("podman exec server sh -c 'touch /app/x || touch /etc/x || touch /usr/x'")
        assert written.returncode != 0
        status = engine.must("podman exec server grep -E '^(Uid|CapEff|NoNewPrivs)' /proc/1/status")
        assert status.split()[1] == "10001"
        engine.must(stop)
        assert engine.inspect("container", "server")["State"]["ExitCode"] == 0, engine.must("podman logs server")
    finally:
        engine.type("podman rm --force --time 0 server; podman volume rm preflight")


def test_as_a_pod_runs_it(engine: Engine) -> None:
    """No capability, no new privileges, and volumes as Kubernetes mounts them: root's, open to the pod's group."""
    state = engine.folder / "emptydir"
    state.mkdir()
    shutil.chown(state, 0, 10001)
    state.chmod(0o2777)
    variables = " ".join(f"-e {name}={value}" for name, value in configuration().items())
    line = (
        "docker run --rm --read-only --cap-drop all --security-opt no-new-privileges --user 10001:10001"
        f" --tmpfs /tmp:mode=1777 -v {state}:/var/lib/preflight -e OPENAI_API_KEY -e PREFLIGHT_TOKEN {variables}"
    )
    engine.must(f"{line} preflight --check-only", **GIVEN)
    assert (state / "state").stat().st_mode & 0o7777 in (0o700, 0o2700)
    job = engine.type(f"{line} --entrypoint /app/.venv/bin/python preflight -m pytest preflight -m critical", **GIVEN)
    assert job.returncode == 0, job.stdout
