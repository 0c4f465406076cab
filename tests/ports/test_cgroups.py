"""Services and containers, told from the texts of control groups."""

import pytest

from preflight.ports import cgroups
from tests.ports.examples import DOCKER_ID


@pytest.mark.parametrize(
    "text, name, command",
    [
        ("0::/system.slice/postgresql.service", "postgresql.service", "systemctl stop postgresql.service"),
        ("0::/system.slice/web.service/worker-1", "web.service", "systemctl stop web.service"),
        (
            "4:memory:/x.service\n1:name=systemd:/system.slice/nginx.service\n0::/",
            "nginx.service",
            "systemctl stop nginx.service",
        ),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/web.service",
            "web.service",
            "systemctl --user stop web.service",
        ),
        ("0::/system.slice/system-web.slice/web@1.service", "web@1.service", "systemctl stop web@1.service"),
    ],
)
def test_service_of_a_control_group(text: str, name: str, command: str) -> None:
    """The unit, of the system or of the user, and how to stop it."""
    unit = cgroups.unit(text)
    assert unit is not None
    assert (unit.name, unit.stop_command) == (name, command)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0::/\n",
        "0::/user.slice/user-1000.slice/session-2.scope",
        "0::/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-1.scope",
        "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.kde.konsole@1f.service",
        "4:memory:/system.slice/nginx.service",  # not systemd's hierarchy
        f"0::/system.slice/docker-{DOCKER_ID}.scope",
    ],
)
def test_control_groups_that_are_no_service(text: str) -> None:
    """Terminals, sessions and desktop applications start nothing again."""
    assert cgroups.unit(text) is None


@pytest.mark.parametrize(
    "text, container",
    [
        (f"0::/system.slice/docker-{DOCKER_ID}.scope", "4f1c4f1c4f1c"),
        (f"12:pids:/docker/{DOCKER_ID}\n0::/", "4f1c4f1c4f1c"),
        (f"0::/user.slice/user@1000.service/user.slice/libpod-{DOCKER_ID}.scope/container", "4f1c4f1c4f1c"),
        (f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{DOCKER_ID}.scope", "4f1c4f1c4f1c"),
        (f"0::/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{DOCKER_ID}", "4f1c4f1c4f1c"),
        ("0::/lxc.payload.web/init.scope", "web"),
        ("0::/system.slice/web.service", None),
    ],
)
def test_container_of_a_control_group(text: str, container: str | None) -> None:
    """docker, podman, containerd, LXC; twelve characters as their commands show."""
    assert cgroups.container(text) == container
