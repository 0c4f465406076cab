"""Variables that platforms inject: known as a set, and no settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from preflight.settings.fields import SettingsError
from preflight.settings.loading import load
from preflight.settings.model import Settings
from preflight.settings.servicelinks import described
from tests.servicelinks import docker, docker_range, kubernetes

ROOT = Path(__file__).parents[1]


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[[dict[str, str]], Settings]:
    return lambda environ: load(ROOT, {"PREFLIGHT_ENV_FILE": str(tmp_path / ".env"), **environ})


@pytest.mark.parametrize(
    "environ",
    [
        kubernetes("PREFLIGHT"),
        kubernetes("PREFLIGHT", "fd00::7"),
        kubernetes("PREFLIGHT", protocol="UDP", port=53),
        kubernetes("PREFLIGHT", SERVICE_PORT_HTTP="8002", SERVICE_PORT_METRICS="9100"),
        kubernetes("PREFLIGHT") | kubernetes("PREFLIGHT", port=9100) | {"PREFLIGHT_SERVICE_PORT": "8002"},
        kubernetes("PREFLIGHT_WEB"),
        kubernetes("PREFLIGHT") | kubernetes("PREFLIGHT_STATE_DIR", "10.96.0.8", 80),
        kubernetes("PREFLIGHT_PORT", "10.96.0.9", 9),
        docker("PREFLIGHT"),
        docker("PREFLIGHT_DB"),
        docker_range("PREFLIGHT"),
        docker_range("PREFLIGHT_DB"),
        {"PREFLIGHT_NAME": "/web/preflight", "PREFLIGHT_ENV_LANG": "C"},  # no port at all
        {"PREFLIGHT_DB_NAME": "/web/preflight-db", "PREFLIGHT_DB_ENV_LANG": "C"},
    ],
)
def test_a_set(environ: dict[str, str], loaded: Callable[[dict[str, str]], Settings]) -> None:
    """All of it is set aside, in whatever order it comes, and the settings are what they were without it."""
    for order in (environ, dict(reversed(environ.items()))):
        found = loaded(order)
        assert found.set_aside == tuple(sorted(environ))
        assert found.port == 8002
        # The application gets what the platform gives it.
        assert environ.items() <= found.environment.items()


def test_a_setting_beside_a_set(loaded: Callable[[dict[str, str]], Settings]) -> None:
    """What somebody sets in the place of one of them counts: in a pod's spec it wins over the Service's."""
    found = loaded(kubernetes("PREFLIGHT") | {"PREFLIGHT_PORT": "8123", "PREFLIGHT_OFFLINE": "1"})
    assert (found.port, found.offline) == (8123, True)
    assert "PREFLIGHT_PORT" not in found.set_aside
    assert len(found.set_aside) == 6


def test_the_env_file_beside_a_set(tmp_path: Path, loaded: Callable[[dict[str, str]], Settings]) -> None:
    """A variable that is set aside hides no other source's."""
    (tmp_path / ".env").write_text("PREFLIGHT_PORT=8124\n")
    assert loaded(kubernetes("PREFLIGHT")).port == 8124


def test_a_links_variables_that_are_settings(tmp_path: Path, loaded: Callable[[dict[str, str]], Settings]) -> None:
    """`PREFLIGHT_ENV_FILE` is ours, although a link has variables that begin like it."""
    found = loaded(docker("PREFLIGHT"))
    assert found.envfile.path == tmp_path / ".env"


@pytest.mark.parametrize(
    "environ, wrong",
    [
        ({"PREFLIGHT_PORT": "tcp://10.96.0.7:8002"}, "PREFLIGHT_PORT must be a whole number"),
        ({"PREFLIGHT_NAME": "/web/preflight"}, "PREFLIGHT_NAME: no such setting"),
        ({"PREFLIGHT_NAME": "/web/other", "PREFLIGHT_ENV_LANG": "C"}, "PREFLIGHT_NAME: no such setting"),
        ({"PREFLIGHT_SERVICE_HOST": "10.96.0.7"}, "PREFLIGHT_SERVICE_HOST: no such setting"),
        (kubernetes("PREFLIGHT") | {"PREFLIGHT_PROT": "1"}, "PREFLIGHT_PROT: no such setting; did you mean"),
        (kubernetes("PREFLIGHT") | {"PREFLIGHT_PORT": "tcp://10.0.0.1:1"}, "PREFLIGHT_PORT must be a whole number"),
        (kubernetes("PREFLIGHT") | {"PREFLIGHT_SERVICE_PORTS": "1"}, "PREFLIGHT_SERVICE_PORTS: no such setting"),
        (kubernetes("PREFLIGHT") | {"PREFLIGHT_ENV_FIEL": "x"}, "PREFLIGHT_ENV_FIEL: no such setting"),
        (kubernetes("OPENAI") | {"PREFLIGHT_PORT": "tcp://10.96.0.7:8002"}, "PREFLIGHT_PORT must be a whole number"),
    ],
)
def test_what_belongs_to_no_set(
    environ: dict[str, str], wrong: str, loaded: Callable[[dict[str, str]], Settings]
) -> None:
    """A mistake stays one, alone or beside a set."""
    with pytest.raises(SettingsError, match="environment variable") as error:
        loaded(environ)
    assert wrong in str(error.value)


def test_the_line() -> None:
    """It names one, says how many there are, where they come from and how to be without; no values."""
    line = described(sorted(kubernetes("PREFLIGHT")))
    assert line.startswith("PREFLIGHT_PORT and 6 more like it come from a Kubernetes Service")
    assert "enableServiceLinks: false" in line
    assert "10.96.0.7" not in line
    assert described(()) == ""
