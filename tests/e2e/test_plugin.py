"""The pytest plugin: what it adds to a run of a suite, and that it changes nothing in any other."""

from __future__ import annotations

import re

import pytest

from tests.e2e.doubles import SMALL
from tests.e2e.installing import Adopter

TESTS = """
import pytest, sys

@pytest.fixture
def settings():
    return "the project's own"

@pytest.mark.slow
def test_own(settings):
    assert settings == "the project's own"

def test_names():
    names = sorted(name for name in sys.modules if name.partition(".")[0] == "preflight")
    assert names in (["preflight", "preflight.plugin"], [])

def test_missing(details): ...

def test_fails():
    assert 1 == 2
"""
UNRELATED = {
    "test_it.py": TESTS,
    "pytest.ini": "[pytest]\naddopts = --strict-markers\nmarkers =\n    slow: takes time\n",
}


def said(text: str) -> str:
    """What pytest says, without times and without the list of plugins."""
    lines = [line for line in text.splitlines() if not line.startswith(("plugins: ", "metadata: "))]
    return re.sub(r"in [0-9.]+s|available fixtures: .*", "", "\n".join(lines))


@pytest.mark.parametrize("options", [("-v", "-rA"), ("--collect-only", "-k", "own")], ids=str)
def test_an_unrelated_project_is_as_before(adopter: Adopter, options: tuple[str, ...]) -> None:
    """Same output, same exit code; of ours nothing is imported but the plugin, and no fixture of ours is there."""
    for name, text in UNRELATED.items():
        adopter.write(name, text)
    there = adopter.pytest("-p", "no:cacheprovider", *options)
    without = adopter.pytest("-p", "no:cacheprovider", *options, environ={"PYTHONPATH": ""})
    assert (there.process.returncode, said(there.output)) == (without.process.returncode, said(without.output))
    assert "preflight-0.1.0" in there.output
    assert "preflight-0.1.0" not in without.output


def test_a_marker_of_ours_is_unknown_elsewhere(adopter: Adopter) -> None:
    """A project whose own marker is called like one of ours is told of it as before."""
    for name, text in UNRELATED.items():
        adopter.write(name, text.replace("mark.slow", "mark.critical"))
    there = adopter.pytest("-p", "no:cacheprovider")
    assert there.process.returncode == 2
    assert "'critical' not found in `markers` configuration option" in there.output


def test_what_there_is_is_shown(adopter: Adopter) -> None:
    """By ``pytest --markers``, ``--fixtures`` and ``--help``, in any folder."""
    markers = adopter.pytest("--markers").stdout
    assert re.search(r'@pytest\.mark\.critical\(title, .*timeout=None, scope="instance"', markers)
    assert re.search(r'@pytest\.mark\.warning\(title, .*timeout=None, scope="instance"', markers)
    fixtures = adopter.pytest("--fixtures").stdout
    for name in ("settings", "details", "environment", "probes", "port"):
        assert re.search(rf"^{name}( \[session scope\])? -- .*preflight/suite/fixtures\.py", fixtures, re.MULTILINE)
    assert "--preflight-port" in adopter.pytest("--help").stdout


@pytest.fixture
def shop(adopter: Adopter) -> Adopter:
    """A project with tests and requirements of its own."""
    adopter.write("shop.py", SMALL)
    adopter.write("pyproject.toml", '[tool.preflight]\napp = "shop:app"\n')
    adopter.write("test_it.py", "def test_it(): ...\n")
    adopter.write(
        "preflight_suite/test_project.py",
        'import pytest\n\n@pytest.mark.critical("Own")\ndef test_own(settings, details):\n    """Own."""\n'
        "    details.summary = str(settings.port)\n",
    )
    return adopter


NAMED = ("--pyargs", "preflight.requirements", "preflight_suite")


def test_fixtures_of_ours_hide_those_of_other_plugins(shop: Adopter) -> None:
    """pytest-django has one called ``settings``, too: in a suite it is ours, whichever plugin came first."""
    (shop.folder / "modules").mkdir(exist_ok=True)
    theirs = shop.folder / "modules" / "theirs.py"
    theirs.write_text("import pytest\n@pytest.fixture\ndef settings():\n    return None\n")
    path = f"{shop.environ['PYTHONPATH']}:{theirs.parent}"
    done = shop.pytest(*NAMED, "-p", "theirs", f"--preflight-port={shop.port}", environ={"PYTHONPATH": path})
    assert done.process.returncode == 0, done.output
    assert shop.check("Own")["message"] == str(shop.port)


def test_processes_of_xdist(shop: Adopter) -> None:
    """In addopts they are about the project's tests, and left out; asked for here they are refused."""
    shop.write("pytest.ini", "[pytest]\naddopts = -n 2 --dist loadscope\n")
    done = shop.pytest(*NAMED, "-m", "critical", f"--preflight-port={shop.port}")
    assert done.process.returncode == 0, done.output
    refused = shop.pytest(*NAMED, "-n", "2")
    assert refused.process.returncode == 4
    assert "the suite runs in a fixed order, with the port last: run it without -n" in refused.output


def test_a_suite_and_tests_at_once(shop: Adopter) -> None:
    """That is refused, however the suite is named."""
    for arguments in (("test_it.py", "preflight_suite"), ("test_it.py", *NAMED[:2])):
        done = shop.pytest(*arguments)
        assert done.process.returncode == 4, done.output
        assert "run the preflight suite and the project's other tests separately" in done.output


def test_a_run_without_the_plugin_passes_nothing(shop: Adopter) -> None:
    """-p no:preflight leaves requirements without what they ask, and pytest fails."""
    done = shop.pytest("-p", "no:preflight", *NAMED, "-p", "no:cacheprovider")
    assert done.process.returncode not in (0, 5), done.output
