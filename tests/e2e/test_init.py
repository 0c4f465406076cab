"""``preflight --init`` in projects of others, with the installed package: what it adds works at once."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from tests import trees
from tests.e2e.installing import Adopter
from tests.e2e.place import READY, get

PYTEST = ("--pyargs", "preflight.requirements", "preflight_suite", "-m", "critical")
"""The line for CI, behind ``pytest``."""


def introduced(adopter: Adopter, files: dict[str, str], *arguments: str) -> str:
    """Add what the project lacks; returns what the command said."""
    trees.plant(adopter.root, files)
    made = adopter.command("--init", *arguments)
    assert made.process.returncode == 0, made.output
    return made.output


def test_a_missing_variable_is_named_with_the_place_that_needs_it(adopter: Adopter) -> None:
    """The first check says so, and with the variable nothing blocks."""
    introduced(adopter, trees.FASTAPI)
    refused = adopter.command("--check-only", "--port", str(adopter.port))
    assert refused.process.returncode == 1
    assert "DATABASE_URL is not set, and shop/db.py needs it" in refused.output
    assert adopter.check("Variable DATABASE_URL")["id"] == "preflight_suite/test_project.py::test_database_url"
    (adopter.root / ".env").write_text("DATABASE_URL=postgresql://shop:secret-5ba1@db/shop\n")
    (adopter.root / ".env").chmod(0o600)
    checked = adopter.command("--check-only", "--port", str(adopter.port))
    assert checked.process.returncode == 0, checked.output
    assert adopter.check("Variable DATABASE_URL")["outcome"] == "passed"
    (adopter.root / ".env").write_text("DATABASE_URL=secret-5ba1\n")
    wrong = adopter.command("--check-only", "--port", str(adopter.port))
    assert wrong.process.returncode == 1
    assert "DATABASE_URL is not a URL (scheme://...)" in wrong.output
    assert "secret-5ba1" not in wrong.output + (adopter.state / "report.json").read_text()


def test_what_was_added_serves(adopter: Adopter) -> None:
    """A model that is there: the server starts; without it, it does not, and the model is named."""
    introduced(adopter, trees.ASGI)
    server = adopter.spawn(str(adopter.installed / "bin" / "preflight"), "--port", str(adopter.port))
    server.until_says(READY)
    assert get(f"http://127.0.0.1:{adopter.port}/")[1] == "hello"
    server.process.terminate()
    assert server.wait() == 0, server.output
    (adopter.root / "models/ranking.onnx").unlink()
    refused = adopter.command("--port", str(adopter.port))
    assert refused.process.returncode == 1
    assert "models/ranking.onnx is not there" in refused.output


def test_an_example_passes(adopter: Adopter) -> None:
    """A project with nothing to ask has nothing that blocks."""
    introduced(adopter, {"main.py": "async def app(scope, receive, send): ...\n"})
    assert adopter.finding("Temporary Folder")["outcome"] == "passed"
    assert adopter.check("Application")["outcome"] == "passed"


@pytest.mark.parametrize(
    "addopts",
    ["", "-n 2 --dist loadfile -p no:cacheprovider --doctest-modules --strict-markers -W error -m slow"],
    ids=["none", "many"],
)
def test_the_line_for_ci_works_beside_addopts(adopter: Adopter, addopts: str) -> None:
    """They are about the project's own tests, which are as they were."""
    configuration = f"[tool.pytest.ini_options]\naddopts = '{addopts}'\nmarkers = ['slow: takes its time']\n"
    tests = {"tests/test_mine.py": "import pytest\n\n@pytest.mark.slow\ndef test_mine():\n    pass\n"}
    introduced(adopter, {**trees.ASGI, **tests, "pyproject.toml": configuration})
    mine = adopter.pytest()
    assert mine.process.returncode == 0, mine.output
    assert "1 passed" in mine.output
    asked = adopter.pytest(*PYTEST, f"--preflight-port={adopter.port}")
    assert asked.process.returncode == 0, asked.output
    assert adopter.check("Model File")["outcome"] == "passed"
    (adopter.root / "models/ranking.onnx").unlink()
    refused = adopter.pytest(*PYTEST, f"--preflight-port={adopter.port}")
    assert refused.process.returncode == 1
    assert "models/ranking.onnx is not there" in refused.output


def test_a_run_that_has_lost_the_plugin_is_no_good_run(adopter: Adopter) -> None:
    """Exit code 5 for the folder, and never 0."""
    introduced(adopter, trees.ASGI)
    for named in ("preflight_suite", "preflight_suite/test_project.py"):
        assert adopter.pytest("-p", "no:preflight", named).process.returncode == 5
    assert adopter.pytest("-p", "no:preflight", *PYTEST).process.returncode not in (0, 5)


def test_nothing_of_the_project_runs(adopter: Adopter) -> None:
    """Neither its modules, nor a module of settings that it names, nor one that has our name."""
    trap = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"
    table = "[tool.preflight]\nsettings = 'conf:Settings'\nmine = 1\n"
    files = dict.fromkeys(("main.py", "conf.py", "conftest.py", "sitecustomize.py", "preflight.py", "pytest.py"), trap)
    introduced(adopter, {**files, "pyproject.toml": table})
    assert not (adopter.root / "ran").exists()
    assert (adopter.root / "preflight_suite/test_project.py").exists()


def test_below_the_project_it_is_the_projects_settings(adopter: Adopter) -> None:
    """The nearest pyproject.toml upwards is added to; the check works in the folder where it was typed."""
    trees.plant(adopter.root, {"pyproject.toml": "[project]\nname = 'shop'\n"})
    trees.plant(adopter.root / "backend", trees.ASGI)
    made = adopter.command("--init", cwd=adopter.root / "backend")
    assert made.process.returncode == 0, made.output
    table = tomllib.loads((adopter.root / "pyproject.toml").read_text())["tool"]["preflight"]
    assert table["app"] == "service:app"
    assert sorted(one.name for one in (adopter.root / "backend").iterdir()) == ["models", "service.py"]
    checked = adopter.command("--check-only", "--port", str(adopter.port), cwd=adopter.root / "backend")
    assert checked.process.returncode == 0, checked.output
    assert adopter.check("Model File")["outcome"] == "passed"


def test_where_others_can_write_nothing_is_added(adopter: Adopter) -> None:
    """Nothing of a project there would be run, so it says that instead."""
    trees.plant(adopter.root, trees.ASGI)
    adopter.root.chmod(0o777)
    made = adopter.command("--init")
    adopter.root.chmod(0o755)
    assert made.process.returncode == 1
    assert "can be written by others" in made.output
    assert not (adopter.root / "pyproject.toml").exists()


def test_what_it_writes_nobody_else_can_write(adopter: Adopter) -> None:
    """Whatever the umask: otherwise the next command would run nothing of it."""
    old = os.umask(0)
    try:
        introduced(adopter, trees.ASGI)
    finally:
        os.umask(old)
    for path in [adopter.root / "pyproject.toml", *(adopter.root / "preflight_suite").rglob("*.py")]:
        assert not path.stat().st_mode & 0o022, path
    assert adopter.finding("Model File")["outcome"] == "passed"


def test_a_wrong_setting_is_said_as_ever(adopter: Adopter) -> None:
    """Exit code 2 and the line, and nothing is added."""
    trees.plant(adopter.root, {**trees.ASGI, "pyproject.toml": "[tool.preflight]\nport = 'x'\n"})
    made = adopter.command("--init")
    assert made.process.returncode == 2
    assert "pyproject.toml:2: port" in made.output
    assert not (adopter.root / "preflight_suite").exists()


def test_a_dry_run_writes_nothing(adopter: Adopter) -> None:
    """Not even the state folder."""
    said = introduced(adopter, trees.ASGI, "--dry-run")
    assert "Would write pyproject.toml" in said
    assert sorted(one.name for one in Path(adopter.root).iterdir()) == ["models", "service.py"]
