"""How many files may be open: what is judged is the limit that the process which serves is going to have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import pasting

ROOT = Path(__file__).parents[1]

# A requirement as its suite asks it, under limits of this process's own: soft and hard.
ASK = """
import json, os, resource, sys
from pathlib import Path
from preflight.processes import openfiles; from preflight.settings import loading
from preflight.contract import Details
from preflight.requirements import test_resources as requirements

soft, hard, title, *arguments = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(soft), int(hard)))
chosen = loading.load(Path.cwd(), {**os.environ, "PREFLIGHT_DEMO": "1"})
details = Details()
said = ""
try:
    if title == "open_files":
        requirements.test_open_files(chosen, arguments == ["ours"], details)
    else:
        requirements.test_file_descriptors(chosen, arguments[0], details)
except AssertionError as error:
    said = str(error)
worker = openfiles.raise_limit(chosen)
print(json.dumps({"said": said, "details": details, "summary": details.summary, "fix": details.fix, "worker": worker}))
"""


def ask(soft: int, hard: int, title: str, *arguments: str, **environ: str) -> dict[str, Any]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFLIGHT_")}
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(soft), str(hard), title, *arguments],
        cwd=ROOT, env={**clean, **environ}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "soft, hard, environ, limit",
    [
        (256, 4000, {"PREFLIGHT_CONNECTIONS": "1000"}, 1320),  # what is enough for that many
        (3000, 4000, {"PREFLIGHT_CONNECTIONS": "1000"}, 3000),
        (256, 2000, {}, 2000),
        (256, 4000, {"PREFLIGHT_CONNECTIONS": "10"}, 1024),  # what open_files says
        (256, 4000, {"PREFLIGHT_CONNECTIONS": "10", "PREFLIGHT_OPEN_FILES": "3500"}, 3500),
    ],
)
def test_the_worker_raises_its_limit(soft: int, hard: int, environ: dict[str, str], limit: int) -> None:
    """What is judged is what the worker has once it serves, which depends on the hard limit."""
    found = ask(soft, hard, "open_files", "ours", **environ)
    assert found["said"] == ""
    assert found["details"]["limit"] == found["worker"] == limit


@pytest.mark.slow
def test_a_hard_limit_that_is_too_low() -> None:
    """No shell can lift that one, so the fix says who can."""
    found = ask(256, 512, "open_files", "ours")
    assert found["said"] == "512 open files allowed, needs 1024"
    assert not pasting.is_command(found["fix"])
    assert "hard limit on open files to 1024" in found["fix"]


@pytest.mark.slow
def test_fewer_connections_than_are_set() -> None:
    """Enough for what open_files wants, and not for every connection: it says for how many."""
    found = ask(256, 2000, "open_files", "ours")
    assert found["summary"] == "2000 allowed, which is enough for 1680 of the 4096 configured connections"
    assert found["details"]["connections"] == 1680


@pytest.mark.slow
def test_a_server_that_was_started_without_us() -> None:
    """Nobody raises its soft limit, and the shell that starts it can."""
    found = ask(256, 2000, "open_files", "theirs")
    assert found["said"] == "256 open files allowed, needs 1024"
    pasting.check(found["fix"])
    raised = subprocess.run(
        ["bash", "-c", f"ulimit -Sn 256; {found['fix']}\nulimit -n"], capture_output=True, text=True, timeout=30
    )
    assert raised.stdout == "1024\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "soft, hard, origin, good", [(31, 100, "check", False), (32, 32, "start", True), (20, 20, "rerun", True)]
)
def test_what_a_start_needs(soft: int, hard: int, origin: str, good: bool) -> None:
    """The launcher raises no limit: its soft one has to do. A server that runs has what it needs."""
    found = ask(soft, hard, "file_descriptors", origin)
    assert found["said"] == ("" if good else f"{soft} open files are allowed, but a start needs 32")
    pasting.check(found["fix"])
    assert pasting.is_command(found["fix"]) == (hard >= 32)
