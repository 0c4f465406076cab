"""Compiled modules that name their source by a second and a size."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IMPORTS = "from preflight import bytecode\nbytecode.repair()\nimport limits\nprint(limits.DISK, limits.__cached__)\n"


def imported(folder: Path) -> tuple[int, Path]:
    """What a process of ours finds in the module, and where its compiled form would be."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run([sys.executable, "-c", IMPORTS], env=environ, capture_output=True, text=True, check=True)
    value, compiled = done.stdout.split(maxsplit=1)
    return int(value), Path(compiled.strip())


@pytest.mark.slow
def test_a_source_that_changes_twice_in_a_second(tmp_path: Path) -> None:
    """The second change counts, although its text is as long and as old as the first one's."""
    source = tmp_path / "limits.py"
    now = time.time() + 600  # so that the second is not over when a busy machine gets to the import
    for value in (15, 16):
        source.write_text(f"DISK = {value}\n")
        os.utime(source, (now, now))
        assert imported(tmp_path)[0] == value


@pytest.mark.slow
def test_a_source_that_has_not_changed_for_long(tmp_path: Path) -> None:
    """It is compiled once."""
    source = tmp_path / "limits.py"
    source.write_text("DISK = 15\n")
    before = time.time() - 60
    os.utime(source, (before, before))
    value, compiled = imported(tmp_path)
    assert (value, compiled.exists()) == (15, True)
    written = compiled.stat().st_mtime_ns
    assert imported(tmp_path)[0] == 15
    assert compiled.stat().st_mtime_ns == written
