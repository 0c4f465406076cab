"""Processes in a PID namespace of their own, as a container runtime starts them."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Callable

import psutil
import pytest

from tests.e2e.place import ROOT, Place, Started, get
from tests.waiting import until

ENTER = ["unshare", *(["--map-root-user"] if os.geteuid() else []), "--pid", "--fork", "--mount-proc"]


@functools.cache
def _possible() -> bool:
    try:
        return subprocess.run([*ENTER, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def needed() -> None:
    """Skip the test where this machine does not let us make one."""
    if not _possible():
        pytest.skip("this machine does not let this user make a PID namespace")


def contained(place: Place, *command: str, **environ: str) -> Started:
    """Start a command as PID 1 of a namespace; skips the test where this machine does not let us make one."""
    needed()
    return place.spawn(*ENTER, *command, environ=environ)


def start(place: Place, *options: str) -> list[str]:
    """The command of a start on this place's port."""
    return [sys.executable, "run.py", "--port", str(place.port), "--demo", *options]


def launcher(started: Started) -> int:
    """The launcher's PID, as it is known outside of the namespace."""
    return _find(started, lambda command: command[:1] == [sys.executable] and command[1:2][0].endswith("run.py"))


def child(started: Started, module: str) -> int:
    """The PID of one of its children, likewise."""
    return _find(started, lambda command: module in command[1:])


def _find(started: Started, matches: Callable[[list[str]], bool]) -> int:
    def found() -> list[int]:
        pids = []
        family = psutil.Process(started.pid)
        for process in [family, *family.children(recursive=True)]:
            with contextlib.suppress(psutil.Error, IndexError):
                if matches(process.cmdline()):
                    pids.append(process.pid)
        return pids

    until(lambda: bool(found()), "that process is there")
    return found()[0]


DEMO = ("--demo", "--app", "small:app")


def command(place: Place, *options: str) -> list[str]:
    return [sys.executable, "run.py", "--port", str(place.port), *options]


def goes_on(place: Place, one: Started) -> None:
    """It serves, and nobody has asked it to stop."""
    assert get(place.url) == (200, "small")
    assert one.process.poll() is None
    assert "Stopping" not in one.output
    assert "Replaced" not in one.output


INSIDE = ["--pid", "--mount", f"--wd={ROOT}"]
