"""The requirement Python Version, asked in interpreters that call themselves what builds of Python are called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUNNING = "{}.{}.{}".format(*sys.version_info[:3])

# sitecustomize is imported before anything else: what `sys.version` says is then what such a build says.
BUILD = """
import sys
sys.version = sys.version.replace(sys.version.split()[0], {called!r}, 1)
if {stage!r}:
    class version_info(tuple):
        major, minor, micro, releaselevel, serial = property(lambda self: self[0]), property(lambda self: self[1]), (
            property(lambda self: self[2])), property(lambda self: self[3]), property(lambda self: self[4])
    sys.version_info = version_info((*sys.version_info[:3], *{stage!r}))
"""


@pytest.mark.parametrize(
    "called, stage, wanted, code",
    [
        (f"{RUNNING}+", (), f"=={RUNNING}", 0),  # built from a branch, after its release
        (f"{RUNNING}+", (), f">={RUNNING}", 0),
        (f"{RUNNING}+", (), f">{RUNNING}", 1),
        (f"{RUNNING}+dirty", (), f">={RUNNING}", 0),
        (f"{RUNNING}rc2+", ("candidate", 2), f"<{RUNNING}", 1),  # PEP 440: "<V" leaves out V's own candidates
        (f"{RUNNING}rc2+", ("candidate", 2), f">={RUNNING}rc1", 0),
        (f"{RUNNING}b1", ("beta", 1), f">={RUNNING}", 1),
    ],
)
@pytest.mark.slow
def test_builds(called: str, stage: tuple[str, int], wanted: str, code: int, tmp_path: Path) -> None:
    """A build from a branch has what the release has, and what comes before a release does not."""
    (tmp_path / "sitecustomize.py").write_text(BUILD.format(called=called, stage=stage))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PREFLIGHT_")}
    environ |= {"PYTHONPATH": str(tmp_path), "PREFLIGHT_PYTHON": wanted, "PREFLIGHT_STATE_DIR": str(tmp_path / "state")}
    environ |= {
        "PREFLIGHT_REQUIREMENT_TIMEOUT": "4m",
        "PREFLIGHT_RUN_TIMEOUT": "5m",
    }  # of this machine nothing is asked
    command = [sys.executable, "-m", "pytest", "-q", "preflight/requirements/test_python.py"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=400)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("requires Python" in done.stdout) == bool(code)
    # Where the version that is wanted stands, as it may be all that is wrong.
    assert ("(environment variable PREFLIGHT_PYTHON asks for it)" in done.stdout) == bool(code)
