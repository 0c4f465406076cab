"""The Dockerfile, compose.yaml and what both are given, as far as it can be seen without an engine."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

from packaging.specifiers import SpecifierSet

from preflight.instances.presence import GOODBYE
from preflight.settings import loading, parsers
from preflight.settings.fields import declared_by
from preflight.settings.model import Settings
from preflight.settings.statefolder import StateFolder
from tests.deploy.manifests import ROOT, dockerfile, image_command, image_variables, load, pod

COMPOSE = ROOT / "deploy" / "compose" / "compose.yaml"
BASES = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def is_ignored(path: Path) -> bool:
    """Whether .dockerignore keeps this file of the checkout from the builder: its last line that matches decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        anywhere = pattern.startswith("**/")
        names = list(path.parts) if anywhere else [str(path), *map(str, path.parents[:-1])]
        if line and not line.startswith("#") and any(fnmatch(name, pattern.removeprefix("**/")) for name in names):
            ignored = not line.startswith("!")
    return ignored


def test_the_python_is_one_that_the_application_runs_on() -> None:
    """Both stages have the same, with a minor version that the setting `python` asks for."""
    (base,) = set(BASES)
    found = re.fullmatch(r"python:(3\.\d+)-slim-[a-z]+", base)
    assert found is not None
    assert f"{found[1]}.999" in SpecifierSet(loading.load(ROOT, {}).python)


def test_what_is_copied_is_there_and_nothing_else() -> None:
    """The builder gets each file that a COPY names, and neither keys nor environments nor what has been kept."""
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for name in " ".join(copied).split():
        assert (ROOT / name).exists(), name
        assert not is_ignored(Path(name)), name
    for name in (".env", ".git/config", ".preflight/report.json", ".venv/pyvenv.cfg", "preflight/__pycache__/x.pyc"):
        assert is_ignored(Path(name)), name


def test_what_the_suite_needs_is_in_it() -> None:
    """`pytest preflight -m critical` finds its configuration and plugin there, and run.py its project."""
    text = (ROOT / "Dockerfile").read_text()
    for name in ("pytest.ini", "conftest.py", "run.py", "pyproject.toml", "requirements.txt", "preflight", "server"):
        assert re.search(rf"^COPY .*\b{re.escape(name)}\b", text, re.MULTILINE), name


def test_who_runs_it() -> None:
    """A user by number, the one that Kubernetes is told, who owns the state folder's volume and nothing else."""
    steps = dockerfile()
    assert ("USER", "10001:10001") in steps
    assert pod()["securityContext"]["runAsUser"] == 10001
    ((_, made),) = [step for step in steps if step[0] == "RUN"]
    folder = str(Path(image_variables()["PREFLIGHT_STATE_DIR"]).parent)
    assert f"-m 0700 {folder}" in made
    assert ("VOLUME", f'["{folder}"]') in steps
    assert image_command() == ["/app/.venv/bin/python", "/app/run.py"]


def test_no_secret_is_in_it() -> None:
    """Neither variables nor arguments of the build carry keys: whoever has the image could read them."""
    text = (ROOT / "Dockerfile").read_text()
    assert not re.search(r"^(ARG|ENV).*(KEY|TOKEN|PASSWORD|SECRET)", text, re.MULTILINE)


def test_compose_gives_the_server_what_it_needs() -> None:
    """Settings by their names, a writable place for the state, and time enough to end in."""
    server = load(COMPOSE)["services"]["server"]
    known = {entry.name for entry in declared_by(Settings)}
    for name in server["environment"]:
        assert name == "OPENAI_API_KEY" or name.removeprefix("PREFLIGHT_").lower() in known, name
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    (volume,) = server["volumes"]
    assert volume.split(":")[1] == str(Path(image_variables()["PREFLIGHT_STATE_DIR"]).parent)
    assert any(entry.startswith("/tmp:") for entry in server["tmpfs"])
    fixed = {name: value for name, value in server["environment"].items() if "${" not in value}
    settings = loading.load(ROOT, {**image_variables(), **fixed})
    assert settings.graceful_timeout == 20
    grace = parsers.duration(0, 600)(server["stop_grace_period"])
    assert grace >= settings.drain_timeout + GOODBYE + 2


def test_compose_keeps_the_database_to_itself() -> None:
    """It publishes no port, and only the server shares a network with it, which leads nowhere else."""
    compose = load(COMPOSE)
    database = compose["services"]["database"]
    assert "ports" not in database
    (network,) = database["networks"]
    assert compose["networks"][network] == {"internal": True}
    assert network in compose["services"]["server"]["networks"]
    (port,) = compose["services"]["server"]["ports"]
    assert port.startswith("127.0.0.1:")


def test_the_state_folder_is_made_below_the_volume() -> None:
    """With a mode of its own: a volume belongs to whoever the platform says."""
    assert StateFolder(Path(image_variables()["PREFLIGHT_STATE_DIR"])).path.name == "state"
