"""The wheel: what is in it, and with which releases of other people's packages it works."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from preflight import dependencies
from tests.e2e.doubles import SMALL
from tests.e2e.installing import LEFT_OUT
from tests.e2e.place import READY, ROOT, Place, get, make_place

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
APPLICATIONS = (
    "datasette",
    "litestar",
    "quart",
    "blacksheep",
    "sanic",
    "django",
    "fastmcp",
    "mlflow",
    "chainlit",
    "fastapi",
    "litellm[proxy]",
    "prefect",
)


def test_what_is_in_it(wheel: Path) -> None:
    """The package without what is about our agent, and its metadata: nothing else at its top."""
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "preflight").rglob("*") if path.is_file()}
    expected = {name for name in ours if "__pycache__" not in name} - LEFT_OUT
    assert {name for name in names if not name.startswith("pytest_preflight-")} == expected
    assert {name.partition("/")[2] for name in names - expected} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE",
    }  # fmt: skip


@pytest.mark.parametrize("application", APPLICATIONS)
def test_it_is_installed_beside(application: str, wheel: Path, uv: str) -> None:
    """The resolver finds releases of both that fit."""
    wanted = f"{application}\npytest-preflight[web] @ file://{wheel}\n"
    command = [uv, "pip", "compile", "-q", "--python-version", "3.12", "-"]
    done = subprocess.run(command, input=wanted, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{application.partition('[')[0]}==" in done.stdout


@pytest.fixture(params=["lowest-direct", "highest"])
def environment(request: pytest.FixtureRequest, tmp_path: Path, wheel: Path, uv: str) -> Path:
    """An environment with the wheel, and the lowest or the newest releases of what it needs."""
    folder = tmp_path / "environment"
    python = str(folder / "bin" / "python")
    needed = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["web"]]
    install = [uv, "pip", "install", "-q", "--python", python]
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(folder)], check=True)
    subprocess.run([*install, "--resolution", request.param, *needed], check=True)
    subprocess.run([*install, "--no-deps", str(wheel)], check=True)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Place:
    """A project with an application and a requirement of its own."""
    root = tmp_path / "shop"
    (root / "preflight_suite").mkdir(parents=True)
    (root / "shop.py").write_text(SMALL)
    (root / "pyproject.toml").write_text('[tool.preflight]\napp = "shop:app"\n')
    (root / "preflight_suite" / "test_project.py").write_text(
        'import pytest\n\n@pytest.mark.critical("Own")\ndef test_own(settings):\n    """Own."""\n    import shop\n'
    )
    place = make_place(tmp_path / "place", root)
    del place.environ["PYTHONPATH"]
    return place


def test_it_works_with_these_releases(environment: Path, project: Place) -> None:
    """It checks, serves, shows its health, and runs under pytest."""
    command = str(environment / "bin" / "preflight")
    check = project.spawn(command, "--check-only", "--port", str(project.port))
    assert check.wait() == 0, check.output
    started = project.spawn(command, "--port", str(project.port)).until_says(READY)
    assert get(project.url) == (200, "small")
    assert get(f"{project.url}/_preflight/health")[0] == 200
    assert started.stop() == 0
    named = ("--pyargs", "preflight.requirements", "preflight_suite", f"--preflight-port={project.port}")
    plain = project.spawn(str(environment / "bin" / "pytest"), *named, "-m", "critical")
    assert plain.wait() == 0, plain.output
    project.close()


def test_in_an_environment_of_its_own(tmp_path: Path, wheel: Path, uv: str) -> None:
    """``uv tool install`` gives a command that works in any folder."""
    place = make_place(tmp_path / "place")
    place.environ |= {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path / "bin")}
    done = place.spawn(uv, "tool", "install", "-q", "--python", sys.executable, str(wheel))
    assert done.wait() == 0, done.output
    for options in (["--version"], ["--port-status"], ["--free-port"]):
        one = place.spawn(str(tmp_path / "bin" / "preflight"), *options, "--port", str(place.port), cwd=Path("/"))
        assert one.wait() == 0, one.output
    place.close()


def test_the_core_is_what_the_command_looks_for() -> None:
    """`dependencies` names what pyproject.toml declares."""
    assert list(dependencies.CORE) == [dependencies.name_of(one) for one in PROJECT["dependencies"]]
