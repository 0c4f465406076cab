"""What tests about the meaning of a run ask: a project's suite, with its files and the ways to run it."""

from __future__ import annotations

import os
from pathlib import Path

from tests.e2e.installing import Adopter
from tests.e2e.place import Place, Started

FILE = "preflight_suite/test_own.py"
TABLE = '[tool.preflight]\napp = "shop:app"\n'
QUIET = ("-p", "no:cacheprovider")
GOOD = 'import pytest\n@pytest.mark.critical("Good")\ndef test_good(settings):\n    "It holds."\n    assert settings\n'
FAILS = 'import pytest\n@pytest.mark.critical("Own")\ndef test_own():\n    "It holds."\n    assert False, "no"\n'
OWN = '@pytest.mark.critical("Own")\ndef test_own({}):\n    "It."\n    {}\n'


def check(shop: Adopter, *more: str, cwd: Path | None = None, **environ: str) -> Started:
    return shop.command("--check-only", "--port", str(shop.port), *more, cwd=cwd, environ=environ)


def suite(shop: Adopter, *options: str, cwd: Path | None = None, **environ: str) -> Started:
    return shop.pytest(*(options or ["preflight_suite"]), *QUIET, cwd=cwd, environ=environ)


def checked(project: Place, *options: str, **environ: str) -> Started:
    """A check of the project's own tree, whose application is small."""
    return project.run("--demo", "--app", "small:app", "--check-only", *options, **environ)


def refused(one: Started) -> None:
    assert one.process.returncode != 0, one.output


def importable(shop: Adopter, folder: Path) -> None:
    shop.environ["PYTHONPATH"] += f"{os.pathsep}{folder}"
