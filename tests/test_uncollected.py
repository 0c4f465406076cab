"""Requirements in files that pytest passes over: all are found, whatever stands around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from preflight import project
from preflight.suite.soundness import uncollected
from preflight.suite.soundness.sources import Sources

IMPORT = "from preflight import ready\n"
DISK = 'test_disk = ready.disk(free="1 GiB")\n'
TEXTS = 'def first():\n    return """\n    select 1\n"""\n\n{}\ndef last():\n    return """\n    select 2\n"""\n'
MAKES = {
    "alone": IMPORT + DISK,
    "between functions": f"{IMPORT}def first(\n    a,\n):\n    return a\n\n{DISK}\ndef last(): ...\n",
    "between texts at the margin": IMPORT + TEXTS.format(DISK),
    "under a condition": f"{IMPORT}def first():\n    pass\nif first:\n    {DISK}",
    "in a class": f"{IMPORT}class Test:\n    def first(self):\n        pass\n    {DISK}",
    "another name": "import preflight.ready as has\nassert has.disk(free=1)\n",
}
MAKES_NOT = {
    "in a function": f"{IMPORT}def later():\n    {DISK}",
    "behind a decorator": f"{IMPORT}@staticmethod\nasync def later(\n    a,\n) -> None:\n    {DISK}",
    "in a text": f"{IMPORT}TEXT = '''\n{DISK}'''\n",
    "imported alone": IMPORT,
}


def lost(folder: Path, source: str) -> list[str]:
    (folder / "suite").mkdir()
    (folder / "suite" / "more.py").write_text(source)
    (scope,) = project.scopes(folder, ["suite"])
    nobody: Any = None  # asked for the plugins of a run, which there is not
    return [said for _, said in uncollected.lost(scope, [], Sources(nobody))]


@pytest.mark.parametrize("where", MAKES)
def test_a_requirement_that_nobody_collects(tmp_path: Path, where: str) -> None:
    """A ready-made requirement that an import of the file would make is lost, and the file is named."""
    assert lost(tmp_path, MAKES[where]) == [
        "suite/more.py, whose name is not that of a file of requirements (test_*.py)"
    ]


@pytest.mark.parametrize("where", MAKES_NOT)
def test_a_file_that_makes_no_requirement(tmp_path: Path, where: str) -> None:
    """What an import does not execute makes nothing."""
    assert lost(tmp_path, MAKES_NOT[where]) == []
