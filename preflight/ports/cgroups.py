"""Service unit and container of a process, from the text of its /proc/PID/cgroup (cgroups(7))."""

import re
from typing import NamedTuple

from preflight.text import foreign

_DESKTOP = re.compile(r"app-[^@]+@.*\.service")
_APPLICATION = re.compile(r"app-(?:[A-Za-z0-9]+-)?([^@]+?)(?:-[0-9a-f]+\.scope|@[^/]*\.service)")
_CONTAINER = re.compile(r"(?:^|[/:-])([0-9a-f]{64})(?:\.scope|\.slice)?(?:/|$)", re.MULTILINE)
_LXC = re.compile(r"/lxc(?:\.payload[./]|/)([^/\n]+)")
_LONGEST = 64 * 1024  # bytes


class Unit(NamedTuple):
    """A systemd service."""

    name: str
    by_user: bool  # of the user's own systemd, not of the system's

    @property
    def stop_command(self) -> str:
        """The command with which a person stops it for good."""
        from shlex import quote  # a start on a free port has no use for it

        return f"systemctl {'--user ' if self.by_user else ''}stop {quote(self.name)}"


def read(pid: int) -> str:
    """The text for a process; "" where there is none."""
    try:
        with open(f"/proc/{pid}/cgroup", "rb") as file:
            return file.read(_LONGEST).decode("utf-8", "replace")
    except OSError:
        return ""


def unit(text: str) -> Unit | None:
    """The service that the process belongs to, or None: a login session, a terminal, no systemd at all."""
    for line in text.split("\n"):
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy != "0" and controllers != "name=systemd":
            continue  # the other hierarchies of cgroup v1 are not systemd's
        parts = path.split("/")
        for at in range(len(parts) - 1, -1, -1):
            name = parts[at]
            if name.endswith(".scope"):
                break  # started by hand, in a terminal inside user@1000.service for example: nothing restarts it
            if name.endswith(".service"):
                if _DESKTOP.fullmatch(name) or name != foreign(name):
                    # An application that the desktop started, by the XDG naming, or a group whose name no unit can
                    # have: nothing restarts it.
                    break
                return Unit(name, any(part.startswith("user@") for part in parts[:at]))
    return None


def application(text: str) -> str | None:
    """The desktop application that the process belongs to, by the XDG naming of scopes and services."""
    for line in text.split("\n"):
        for part in reversed(line.partition("::")[2].split("/")):
            if found := _APPLICATION.fullmatch(part):
                return foreign(found[1].replace("\\x2d", "-"))
    return None


def container(text: str) -> str | None:
    """The container's id, 12 characters as docker and podman show it, or an LXC container's name."""
    if found := _CONTAINER.search(text):
        return found[1][:12]
    if found := _LXC.search(text):
        return foreign(found[1])
    return None
