"""A user's own systemd, the real one, in namespaces of its own.

It is the only program there that starts services, it knows no other units than those of its box, and the whole disk
but the box is read-only: nothing of this machine's can be cleaned, mounted or started by it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.place import ROOT, Place, Started
from tests.waiting import until

PROGRAMS = ("/lib/systemd/systemd", "systemctl", "unshare", "nsenter", "mount", "ip")
UNITS = ROOT / "deploy" / "systemd" / "user"
TARGETS = ("basic", "default", "shutdown", "sockets")
INSIDE = """
set -eu
box=$1
mount --make-rprivate /
mount --bind "$box" "$box"
mount -o remount,bind,ro /
if touch /tmp/.writable /etc/.writable 2>/dev/null; then echo "the disk is writable: nothing is started"; exit 9; fi
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/user/0
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
/lib/systemd/systemd --user --log-target=console --log-level=notice &
until systemctl --user is-system-running 2>/dev/null | grep -q .; do sleep 0.05; done
echo "systemd runs"
wait
"""


def needed() -> None:
    """Skip the test where there is no systemd, or nobody may make such namespaces."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not here: {', '.join(missing)}")
    if os.geteuid() or _unified() is None:
        pytest.skip("root alone can put systemd into namespaces, with control groups of its own")


def _unified() -> Path | None:
    """Where the unified hierarchy of control groups is; None where there is none."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, where, kind = line.split()[:3]
        if kind == "cgroup2":
            return Path(where)
    return None


class Systemd:
    """One that runs, and what its box has: a home folder with a project, and the units of deploy/systemd/user."""

    def __init__(self, place: Place, box: Path, started: Started) -> None:
        self.box = box
        self.started = started
        self._place = place
        self._first = psutil.Process(started.pid).children()[0].pid

    def run(self, *command: str, timeout: float = 120.0) -> str:
        """What a command prints that is run in there."""
        inside = ["nsenter", "--target", str(self._first), "--mount", "--pid", "--net", "--cgroup"]
        done = subprocess.run(
            [*inside, *command], env=environment(self.box), capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode in (0, 3), f"{command}: {done.stdout}{done.stderr}\n{self.started.output}{self.log}"
        return done.stdout

    @property
    def log(self) -> str:
        """What the service has printed."""
        file = self.box / "tmp" / "service.log"
        return file.read_text() if file.exists() else ""

    def systemctl(self, *arguments: str) -> str:
        return self.run("systemctl", "--user", "--no-pager", *arguments)

    def shown(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.systemctl("show", "--property", name, "--value", unit).strip()

    def until_shown(self, unit: str, name: str, value: str) -> None:
        """Wait until a property has this value."""

        def is_shown() -> bool:
            time.sleep(0.2)  # who asks starts two processes each time
            return self.shown(unit, name) == value

        until(is_shown, f"{name} of {unit} is {value}")

    def get(self, path: str = "/") -> str:
        """The body of an answer; one connection, which waits as long as it has to."""
        return self.run("curl", "-sS", "--max-time", "100", f"http://127.0.0.1:8002{path}")


def environment(box: Path) -> dict[str, str]:
    """The variables of a user whose home folder is the box."""
    return {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "HOME": str(box),
        "TMPDIR": str(box / "tmp"),
        "XDG_RUNTIME_DIR": "/run/user/0",
        "SYSTEMD_UNIT_PATH": str(box / "units"),
        "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/nobody",
    }


def fill(box: Path, application: str, variables: str, drop_in: str) -> None:
    """Put the user's units, and a project with its environment, where a reader of docs/fleet.md has them."""
    (box / "tmp").mkdir(parents=True)
    shutil.copytree(UNITS, box / "units")
    for name in TARGETS:
        (box / "units" / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n")
    drop_ins = box / "units" / "preflight@shop.service.d"
    drop_ins.mkdir()
    log = box / "tmp" / "service.log"
    (drop_ins / "test.conf").write_text(f"{drop_in}StandardOutput=append:{log}\nStandardError=append:{log}\n")
    (box / ".config" / "preflight").mkdir(parents=True)
    (box / ".config" / "preflight" / "shop.env").write_text(variables)
    command = box / "shop" / ".venv" / "bin" / "preflight"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -P -m preflight "$@"\n')
    command.chmod(0o755)
    (box / "shop" / "pyproject.toml").write_text(
        '[project]\nname = "shop"\nversion = "1"\ndependencies = []\n\n[tool.preflight]\napp = "main:app"\n'
    )
    (box / "shop" / "main.py").write_text(application)


@contextlib.contextmanager
def running(place: Place, box: Path) -> Iterator[Systemd]:
    """systemd, for as long as the block runs."""
    unified = _unified()
    assert unified is not None
    group = unified / f"preflight-test-{os.getpid()}"
    group.mkdir()
    enter = f"echo $$ > {group}/cgroup.procs; exec unshare --pid --mount --cgroup --ipc --uts --net --fork --mount-proc"
    script = box / "inside.sh"
    script.write_text(INSIDE)
    clean = ["env", "-i", *(f"{name}={value}" for name, value in environment(box).items())]
    started = place.spawn(*clean, "sh", "-c", f'{enter} bash {script} "$1"', "sh", str(box))
    try:
        yield Systemd(place, box, started.until_says("systemd runs"))
    finally:
        for one in psutil.Process(started.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                one.kill()
        started.process.wait(60)
        until(lambda: "populated 0" in (group / "cgroup.events").read_text(), "all of it has ended")
        for folder in sorted(group.rglob("*/"), reverse=True):
            folder.rmdir()
        group.rmdir()
