"""Plugins of pytest that projects have, beside requirements that use them or know nothing of them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests import trees
from tests.adversary.suites import FAILS, FILE, GOOD, TABLE, check, importable, suite
from tests.e2e.installing import Adopter
from tests.e2e.place import Started

pytestmark = pytest.mark.usefixtures("unmeasured")

WARNS = '@pytest.mark.warning("Warns")\ndef test_warns():\n    "It holds."\n    assert 1 == 2, "no"\n'


def package(shop: Adopter, name: str, init: str, plugin: str) -> None:
    """An installed package with a plugin of pytest, as distributions of such plugins are."""
    folder = shop.folder / "plugins"
    files = {
        f"{name}/__init__.py": init,
        f"{name}/plugin.py": plugin,
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/entry_points.txt": f"[pytest11]\n{name} = {name}.plugin\n",
    }
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    importable(shop, folder)


# Failures that are collected, as pytest-check does it.

SOFT = "FAILURES = []\ndef equal(a, b):\n    if a != b:\n        FAILURES.append(f'{a} is not {b}')\n"
JUDGES = """
import pytest
import pytest_soft

@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if pytest_soft.FAILURES:
        report.outcome, report.longrepr = "failed", "; ".join(pytest_soft.FAILURES)
        pytest_soft.FAILURES.clear()
    return report
"""
AT_THE_TOP = (
    'import pytest\nfrom pytest_soft import equal\n@pytest.mark.critical("Own")\ndef test_own():\n'
    '    "It holds."\n    equal(1, 2)\n'
)
IN_THE_BODY = AT_THE_TOP.replace("from pytest_soft import equal\n", "").replace(
    "    equal(", "    from pytest_soft import equal\n    equal("
)
IN_A_HELPER = AT_THE_TOP.replace("pytest_soft import", "preflight_suite.helping import")


@pytest.mark.parametrize("beside", ["", WARNS], ids=["alone", "beside a warning that fails"])
def test_failures_that_a_plugin_collects(shop: Adopter, beside: str) -> None:
    """The requirement has failed, although nothing was raised: in a check with the plugin, and in plain pytest."""
    package(shop, "pytest_soft", SOFT, JUDGES)
    shop.write("pyproject.toml", f'{TABLE}plugins = ["pytest_soft.plugin"]\n')
    shop.write(FILE, AT_THE_TOP + beside)
    for run in (check, suite):
        done = run(shop)
        assert done.process.returncode == 1, done.output
        own = shop.check("Own")
        assert (own["outcome"], own["message"]) == ("failed", "1 is not 2")
        assert shop.report()["may_start"] is False


@pytest.mark.parametrize("source", [AT_THE_TOP, IN_THE_BODY, IN_A_HELPER], ids=["top", "body", "helper"])
def test_failures_that_nobody_judges(shop: Adopter, source: str) -> None:
    """Without the plugin they would not count: the run is broken, and says which plugin it needs."""
    package(shop, "pytest_soft", SOFT, JUDGES)
    shop.write("preflight_suite/__init__.py", "")
    shop.write("preflight_suite/helping.py", "from pytest_soft import equal\n")
    shop.write(FILE, source)
    holder = shop.listener()
    done = shop.command("--port", str(shop.port))
    assert done.process.returncode == 3, done.output
    assert "pytest_soft.plugin is not loaded" in shop.report()["reason"]
    assert holder.process.poll() is None


def test_a_plugin_that_judges_nothing(shop: Adopter) -> None:
    """One whose functions a suite uses need not be loaded for that."""
    package(shop, "pytest_helps", "def up():\n    return True\n", "def pytest_report_header():\n    return 'helps'\n")
    shop.write(FILE, f"import pytest_helps\n{GOOD}    assert pytest_helps.up()\n")
    assert check(shop).process.returncode == 0


RECORDS = """
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    report.extras = [report.outcome == "failed"]
    return report
"""


def test_a_plugin_that_records_what_was_found(shop: Adopter) -> None:
    """It has the hook of those that judge, and changes no outcome: it need not be loaded either."""
    package(shop, "pytest_records", "def note(what):\n    pass\n", RECORDS)
    shop.write(FILE, f"import pytest_records\n{GOOD}    pytest_records.note('up')\n")
    assert check(shop).process.returncode == 0


AGAIN = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for again in range(3):
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if not any(report.failed for report in reports):
            break
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
"""
SECOND = GOOD.replace("    assert settings", "    TRIES.append(1)\n    assert len(TRIES) > 1, 'first'") + "TRIES = []\n"


def test_requirements_that_are_tried_again(shop: Adopter) -> None:
    """As pytest-rerunfailures does it: what has failed once has failed."""
    package(shop, "pytest_again", "", AGAIN)
    shop.write("pyproject.toml", f'{TABLE}plugins = ["pytest_again.plugin"]\n')
    shop.write(FILE, SECOND)
    for run in (check, suite):
        assert run(shop).process.returncode == 1
        assert shop.check("Good")["message"] == "first"


# The database that pytest-django makes for tests.

DJANGO = """
import pytest

@pytest.fixture(scope="session")
def django_db_setup():
    yield "a new database"

@pytest.fixture
def db(django_db_setup):
    return django_db_setup
"""
ASKS = 'import pytest\n@pytest.mark.critical("Own")\ndef test_own(db):\n    "It answers."\n    assert db\n'


@pytest.mark.parametrize("own", [False, True], ids=["its own", "the suite's"])
def test_a_database_that_is_made_for_tests(shop: Adopter, own: bool) -> None:
    """It always answers, and nobody has asked the project's; a fixture of the suite's own leads to that."""
    package(shop, "pytest_django", "", "from pytest_django.fixtures import db, django_db_setup\n")
    (shop.folder / "plugins/pytest_django/fixtures.py").write_text(DJANGO)
    shop.write("pyproject.toml", f'{TABLE}plugins = ["pytest_django.plugin"]\n')
    shop.write(FILE, ASKS)
    if own:
        shop.write(
            "preflight_suite/conftest.py",
            'import pytest\n@pytest.fixture(scope="session")\ndef django_db_setup():\n    return "the real one"\n',
        )
    for run in (check, suite):
        assert run(shop).process.returncode == (0 if own else 1)
        assert own or "new, empty database" in shop.check("Own")["message"]


# What other plugins make of the files.

LINTS = """
import pytest

class Finding(pytest.Item):
    def runtest(self):
        raise ValueError("a line is too long")

class Linted(pytest.File):
    def collect(self):
        yield Finding.from_parent(self, name="lint")

def pytest_addoption(parser):
    parser.addoption("--lint", action="store_true")

def pytest_collect_file(file_path, parent):
    if parent.config.option.lint and file_path.suffix == ".py":
        return Linted.from_parent(parent, path=file_path)
"""


@pytest.mark.parametrize("marked", [(), ("-m", "critical")], ids=["all", "critical"])
def test_linters_and_doctests_in_addopts(shop: Adopter, marked: tuple[str, ...]) -> None:
    """They are about the project's code: the line for CI asks the requirements, and all of them."""
    package(shop, "pytest_lints", "", LINTS)
    shop.write("pytest.ini", "[pytest]\naddopts = --lint --doctest-modules\n")
    doctest = 'def helps():\n    """\n    >>> helps()\n    1\n    """\n'
    line = ("--pyargs", "preflight.requirements", "preflight_suite", *marked)
    shop.write(FILE, GOOD + doctest)
    done = suite(shop, *line)
    assert done.process.returncode == 0, done.output
    assert shop.report()["selection"] == ("critical" if marked else "all")
    shop.write(FILE, FAILS + doctest)
    assert suite(shop, *line).process.returncode == 1
    assert shop.check("Own")["outcome"] == "failed"


CONFIGURATIONS = {
    "a list, in pytest.toml": ("pytest.toml", '[pytest]\naddopts = ["--collect-only"]\n'),
    "without functions, in a table of its own": (
        "pyproject.toml",
        TABLE + '[tool.pytest]\naddopts = ["-p", "no:python"]\n',
    ),
    "hooks for assertions that pass, modules by path": (
        "pytest.ini",
        "[pytest]\nenable_assertion_pass_hook = true\naddopts = --import-mode=importlib\n",
    ),
}


@pytest.mark.parametrize("which", CONFIGURATIONS)
def test_configuration_that_newer_releases_read(shop: Adopter, which: str) -> None:
    """What fails passes neither the check nor the line for CI."""
    shop.write(*CONFIGURATIONS[which])
    shop.write(FILE, FAILS)
    assert check(shop).process.returncode == 1
    assert shop.check("Own")["message"] == "no"
    assert suite(shop).process.returncode not in (0, 5)


def test_no_hosts_to_ask(shop: Adopter) -> None:
    """A requirement for each entry of an empty list was not asked, whatever the project's pytest calls that."""
    shop.write("pytest.ini", "[pytest]\nempty_parameter_set_mark = xfail\n")
    shop.write(
        FILE,
        'import pytest\n@pytest.mark.critical("Own")\n@pytest.mark.parametrize("host", [])\n'
        'def test_own(host):\n    "It answers."\n    assert host\n',
    )
    for run in (check, suite):
        assert run(shop).process.returncode == 1
        assert shop.check("Own")["outcome"] == "skipped"


# Links, and methods that nobody calls.


def test_a_link_to_more_requirements_that_leads_nowhere(shop: Adopter) -> None:
    """An image has the link and not the folder: its requirements are not lost without a word."""
    shop.write(FILE, GOOD)
    link = shop.root / "preflight_suite" / "shared"
    link.symlink_to(shop.folder / "nowhere")
    for done in (check(shop), suite(shop)):
        assert done.process.returncode in (2, 4), done.output
        assert f"{link} cannot be examined" in done.output
    link.unlink()
    (link.parent / ".#test_own.py").symlink_to("me@host.123:456")  # as Emacs has it while a file is edited
    (link.parent / ".venv").mkdir()
    (link.parent / ".venv" / "python").symlink_to(shop.folder / "moved")
    assert check(shop).process.returncode == 0
    assert suite(shop).process.returncode == 0


def test_a_link_to_requirements_that_others_can_write(shop: Adopter) -> None:
    """What is behind a link is run as well: nothing of it is, if others can write there."""
    shop.write(FILE, GOOD)
    shared = shop.folder / "shared"
    shared.mkdir()
    (shared / "test_shared.py").write_text(f"open({str(shop.folder / 'ran')!r}, 'w')\n{FAILS}")
    (shop.root / "preflight_suite" / "shared").symlink_to(shared)
    assert check(shop).process.returncode == 1
    assert shop.check("Own")["message"] == "no"
    (shop.folder / "ran").unlink()
    shared.chmod(0o777)
    for done in (check(shop), suite(shop)):
        assert done.process.returncode in (2, 4), done.output
        assert "can be written by others" in done.output
    assert not (shop.folder / "ran").exists()


def test_a_method_that_is_not_called(shop: Adopter) -> None:
    """A method of what a requirement has made itself holds always; the line is named, and what calls it is asked."""
    asserts = (
        '@pytest.mark.critical("Own")\ndef test_own(settings):\n    "It."\n    path = settings.root / "no"\n    {}\n'
    )
    shop.write(FILE, "import pytest\n" + asserts.format('assert path.exists, "no"'))
    for run in (check, suite):
        assert run(shop).process.returncode in (3, 4)
        assert f"{FILE}:6: asserts a function, which always holds" in shop.report()["reason"]
    shop.write(FILE, "import pytest\n" + asserts.format('assert path.exists(), "no"'))
    assert check(shop).process.returncode == 1


# Interactive interpreters, and guards around guards.


@pytest.mark.parametrize("how", ["-i", "PYTHONINSPECT"])
def test_interactive_interpreters(shop: Adopter, how: str) -> None:
    """The exit code of a check is its own, and not that of the session that would follow."""
    python = [sys.executable, *(["-i"] if how == "-i" else [])]
    environ = {} if how == "-i" else {"PYTHONINSPECT": "1"}

    def checks() -> Started:
        done = shop.spawn(
            *python, "-m", "preflight", "--check-only", "--format=json", f"--port={shop.port}", environ=environ
        )
        done.wait()
        assert json.loads(done.stdout)["preflight"]["origin"] == "check"  # all of it, and nothing else
        assert "SystemExit" not in done.stderr
        return done

    shop.write(FILE, GOOD)
    assert checks().process.returncode == 0
    shop.write(FILE, FAILS)
    assert checks().process.returncode == 1


NESTED = "from preflight import guard\nfrom service import app as plain\napp = guard(guard(plain))\n"


@pytest.mark.parametrize("source", [GOOD, FAILS], ids=["holds", "fails"])
def test_a_guard_around_a_guard(shop: Adopter, source: str) -> None:
    """The project's own guard and a deployment's: it is asked, whichever of them comes first."""
    shop.write("service.py", trees.ASGI["service.py"])
    shop.write("shop.py", NESTED)
    shop.write(FILE, source)
    path = f"{shop.root}{os.pathsep}{shop.environ['PYTHONPATH']}"
    command = [sys.executable, "-m", "uvicorn", "--port", str(shop.port), "shop:app"]
    one = shop.spawn(*command, environ={"PYTHONPATH": path, "PYTHONOPTIMIZE": "2", "PYTEST_ADDOPTS": "--collect-only"})
    if source == GOOD:
        one.until_says("Application startup complete")
        assert one.stop() in (0, -15)
    else:
        assert one.wait() == 3, one.output
        assert "the preflight blocks the start: Own" in one.output
    assert Path(shop.report_file).exists()
