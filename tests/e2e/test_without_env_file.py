"""Containers and newcomers: keys in the environment alone, no home folder, optional services that nobody wants."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from preflight.contract import Details
from preflight.requirements import test_environment
from preflight.settings import loading
from tests.e2e.doubles import Providers
from tests.e2e.place import KEYS, ROOT, Place, equip, get


def without_env_file(place: Place, **variables: str) -> None:
    """What a container has: variables, and nothing where the env file would be."""
    place.env_file.unlink()
    place.environ |= variables


def test_keys_in_the_environment(equipped: Place) -> None:
    """The env file is not used then: nothing fails or warns, and the server has the key."""
    without_env_file(equipped, **KEYS)
    started = equipped.run("--check-only")
    assert started.process.returncode == 0, started.output
    report = equipped.report()
    assert report["status"] == "passed"
    checks = {check["title"]: check for check in report["checks"]}
    message = f"not used: {equipped.env_file} does not exist, and OPENAI_API_KEY is in the environment"
    file, mode = checks["Environment File"], checks["Environment File Permissions"]
    assert (file["outcome"], file["message"]) == ("not_applicable", message)
    assert (mode["outcome"], mode["message"]) == ("not_applicable", "not used: there is no env file")
    assert checks["OpenAI API Key"]["outcome"] == "passed"


def test_an_empty_key_in_the_environment(equipped: Place) -> None:
    """It is none: without an env file there is no key."""
    without_env_file(equipped, OPENAI_API_KEY=" ")
    assert equipped.run("--check-only", "--offline").process.returncode == 1
    assert equipped.check("Environment File")["outcome"] == "failed"
    for value in ("", " "):
        chosen = loading.load(ROOT, environ={**equipped.environ, "OPENAI_API_KEY": value})
        with pytest.raises(AssertionError, match=r"\.env does not exist"):
            test_environment.test_environment_file(chosen, Details())


@pytest.fixture
def homeless(project: Place, providers: Providers) -> Place:
    """A copy of the tree, and no home folder: that of a container's made-up user has no name at all."""
    equip(project, providers)
    project.environ |= {"HOME": ""}
    return project


def test_no_home_folder(homeless: Place) -> None:
    """--init says what to do instead; done as printed, the env file is where every later command finds it."""
    started = homeless.run("--init")
    assert (started.process.returncode, started.stdout) == (2, "")
    problem, fix, otherwise = started.stderr.splitlines()
    assert problem == "run.py: error: ~/.ki_autoagent/config/.env cannot be found: the home folder is not known here"
    assert otherwise == "An env file is not needed where OPENAI_API_KEY is in the environment."
    file = homeless.root / ".env"
    script = f"{fix.removeprefix('Fix: ')}\npython -c 'import os; print(os.environ[\"PREFLIGHT_ENV_FILE\"])'\n"
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = homeless.spawn("bash", "-c", script, environ={"PATH": path})
    assert done.wait() == 0, done.output
    assert done.stdout.splitlines()[-1] == str(file)
    assert file.stat().st_mode & 0o777 == 0o600
    homeless.run("--check-only", "--offline", PREFLIGHT_ENV_FILE=str(file))
    assert homeless.check("Environment File")["outcome"] == "passed"


def test_no_home_folder_with_keys_in_the_environment(homeless: Place) -> None:
    """Nothing is missing then."""
    homeless.environ |= KEYS
    assert homeless.run("--check-only", "--offline").process.returncode == 0
    assert homeless.check("Environment File")["outcome"] == "not_applicable"


def test_no_home_folder_and_no_keys(homeless: Place) -> None:
    """The banner has the same fix as --init."""
    assert homeless.run("--check-only", "--offline").process.returncode == 1
    check = homeless.check("Environment File")
    assert check["message"].endswith("the home folder is not known here")
    assert check["fix"].startswith(f"export PREFLIGHT_ENV_FILE={homeless.root}/.env && ")
    assert check["fix"].endswith("run.py --init")


def test_a_home_folder_that_cannot_be_written(project: Place) -> None:
    """Made-up users of images have one that is not there: --init names another place, too."""
    (project.folder / "file").write_text("")
    started = project.run("--init", HOME=str(project.folder / "file" / "home"))
    assert started.process.returncode == 1
    assert f"\nFix: export PREFLIGHT_ENV_FILE={project.root}/.env && " in started.stderr


# Optional services that are not wanted.


def in_pyproject(place: Place) -> str:
    file = place.root / "pyproject.toml"
    text = file.read_text().replace("[tool.preflight]\n", '[tool.preflight]\nnot_used = ["Perplexity"]\n')
    file.write_text(text)
    line = text.splitlines().index('not_used = ["Perplexity"]') + 1
    return f"pyproject.toml:{line}"


def in_env_file(place: Place) -> str:
    place.write_env_file(OPENAI_API_KEY=KEYS["OPENAI_API_KEY"], PREFLIGHT_NOT_USED="perplexity")
    return "PREFLIGHT_NOT_USED in the env file"


def in_environment(place: Place) -> str:
    place.environ["PREFLIGHT_NOT_USED"] = "Perplexity"
    return "PREFLIGHT_NOT_USED"


@pytest.mark.parametrize("say", [in_pyproject, in_env_file, in_environment])
def test_a_service_that_is_not_used(project: Place, providers: Providers, say: object) -> None:
    """It is one grey line, no warning; nobody asks it anything, and the chat does not ask for its key."""
    equip(project, providers)
    project.write_env_file(OPENAI_API_KEY=KEYS["OPENAI_API_KEY"])
    assert callable(say)
    source = say(project)
    # A server, which has this from its checks, for one of them.
    started = project.start().until_ready() if say is in_env_file else project.run("--check-only")
    report = project.report()
    assert report["status"] == "passed", started.output
    for title in ("Perplexity API Key", "Perplexity API"):
        check = project.check(title)
        assert (check["outcome"], check["message"]) == ("not_applicable", f"not used ({source})")
    assert [path for path, _key in providers.requests if "perplexity" in path] == []
    assert [path for path, _key in providers.requests if "openai" in path] != []
    assert [line for line in started.stdout.splitlines() if "Perplexity" in line] == [
        line for line in started.stdout.splitlines() if f"not used ({source})" in line
    ]
    assert started.stdout.count("not used (") == 1
    if say is in_env_file:
        assert json.loads(get(f"{project.url}/health")[1])["warnings"] == []


def test_a_service_that_is_not_set_up(equipped: Place) -> None:
    """The warning says both: how to set it up, and how to do without."""
    equipped.write_env_file(OPENAI_API_KEY=KEYS["OPENAI_API_KEY"])
    assert equipped.run("--check-only", "--offline").process.returncode == 0
    fix = equipped.check("Perplexity API Key")["fix"]
    assert "PERPLEXITY_API_KEY" in fix
    assert "PREFLIGHT_NOT_USED=Perplexity" in fix


@pytest.mark.parametrize("name", ["perplexty", "OpenAI", "OpenAI API Key"])
def test_a_service_that_there_is_not(equipped: Place, name: str) -> None:
    """A misspelt or required one is wrong usage: nothing is left out for it."""
    started = equipped.run("--check-only", "--offline", "--app", "small:app", PREFLIGHT_NOT_USED=name)
    assert started.process.returncode == 2
    assert (
        f"PREFLIGHT_NOT_USED: {name} is not an optional service; the optional services are: Perplexity"
        in started.output
    )


def test_a_critical_requirement_has_no_optional_service(project: Place) -> None:
    """Nothing critical can be left out by this."""
    project.write_requirement(
        "more",
        "import pytest\n@pytest.mark.critical('More', service='Mine')\ndef test_more():\n    '''It is more.'''\n",
    )
    started = project.refused("--check-only", "--demo")
    assert started.process.returncode == 3
    assert (
        "is critical, and only a warning can have a service: remove service='Mine', or mark it as a warning"
        in started.output
    )
