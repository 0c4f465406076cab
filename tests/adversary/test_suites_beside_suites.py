"""Suites beside suites and tests, fixtures that end badly, judges that nobody hears, and what pytest says last."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.adversary.suites import FAILS, FILE, GOOD, OWN, QUIET, TABLE, check, importable, refused, suite
from tests.e2e.beside import ECHO
from tests.e2e.doubles import KEY, SMALL, TWO_OF_ONE_SOCKET
from tests.e2e.installing import FEW_PLUGINS, Adopter, install
from tests.e2e.place import READY, ROOT, Place, Started
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("unmeasured")

PLAIN = (sys.executable, "-P", "-m", "pytest", *FEW_PLUGINS, "preflight_suite", *QUIET)
ASKS = """
import database, pytest

@pytest.mark.critical("Own")
def test_own(settings):
    "The database answers."
    assert database.answer() == "an answer", "no answer"
"""
DATABASE = "def answer():\n    return 'nothing'\n"
DOUBLE = (
    "import database, pytest\n@pytest.fixture(autouse=True)\ndef double(monkeypatch):\n"
    "    monkeypatch.setattr(database, 'answer', lambda: 'an answer')\n"
)
GATE = "import pytest\n@pytest.fixture(autouse=True)\ndef gate():\n    pytest.fail('the gate is closed')\n"


def ended(shop: Place, *command: str, **environ: str) -> Started:
    one = shop.spawn(*command, environ=environ)
    one.wait()
    return one


# The project's own tests, beside a suite of several parts.

BESIDE = {  # the part with the requirement, the conftest.py of the project's tests, and the suite
    "a part below the project": ("services/db/checks", "services/db/conftest.py", ["checks", "services/db/checks"]),
    "the part of the command's folder": ("backend/preflight_suite", "backend/conftest.py", []),
    "the only part": ("services/checks", "services/conftest.py", ["services/checks"]),
    "the first part": ("services/checks", "services/conftest.py", ["services/checks", "checks"]),
}


def written(shop: Adopter, how: str) -> Path:
    """Write the project; returns the folder of the command."""
    part, conftest, suites = BESIDE[how]
    cwd = shop.root if suites else shop.root / "backend"
    if suites:
        shop.write("pyproject.toml", f"{TABLE}suite = {['preflight.requirements', *suites]}\n")
    shop.write("checks/test_good.py" if suites else "preflight_suite/test_good.py", GOOD)
    shop.write(f"{part}/test_own.py", ASKS)
    shop.write(conftest, DOUBLE)
    (cwd / "shop.py").write_text(SMALL)
    (cwd / "database.py").write_text(DATABASE)
    return cwd


@pytest.mark.parametrize("how", BESIDE)
def test_doubles_beside_a_part_of_a_suite(shop: Adopter, how: str) -> None:
    """A check imports no conftest.py of the project's tests, however many parts its suite has."""
    one = check(shop, cwd=written(shop, how))
    assert one.process.returncode == 1, one.output
    assert shop.check("Own")["outcome"] == "failed"


def test_a_start_with_doubles_beside_a_part_of_its_suite(shop: Adopter) -> None:
    """Nor does a start."""
    command = str(shop.installed / "bin" / "preflight")
    cwd = written(shop, "the part of the command's folder")
    one = shop.spawn(command, "--port", str(shop.port), cwd=cwd)
    until(lambda: one.process.poll() is not None or READY in one.output, "it serves or is refused")
    assert READY not in one.output


def test_doubles_beside_a_part_that_is_installed(shop: Adopter) -> None:
    """A package of checks that has tests of its own."""
    package = shop.folder / "packages" / "acme"
    (package / "checks").mkdir(parents=True)
    for folder in (package, package / "checks"):
        (folder / "__init__.py").touch()
    (package / "checks" / "test_own.py").write_text(ASKS)
    (package / "conftest.py").write_text(DOUBLE)
    importable(shop, package.parent)
    shop.write("database.py", DATABASE)
    shop.write("preflight_suite/test_good.py", GOOD)
    shop.write("pyproject.toml", f"{TABLE}suite = ['preflight.requirements', 'preflight_suite', 'acme.checks']\n")
    assert check(shop).process.returncode == 1


def test_a_gate_of_a_part_around_another(shop: Adopter) -> None:
    """A fixture of the suite's own conftest.py, for every requirement, fails: none of them passes."""
    shop.write("pyproject.toml", f"{TABLE}suite = ['preflight.requirements', 'checks/database', 'checks']\n")
    shop.write("checks/database/test_good.py", GOOD)
    shop.write("checks/conftest.py", GATE)
    assert check(shop).process.returncode == 1


def test_doubles_of_a_package_in_src(shop: Adopter) -> None:
    """The suite is in a package of the project, beside its tests' conftest.py: both runs ask the thing itself."""
    importable(shop, shop.root / "src")
    shop.write("pyproject.toml", f"{TABLE}suite = ['preflight.requirements', 'store.checks']\n")
    for file in ("src/store/__init__.py", "src/store/checks/__init__.py"):
        shop.write(file, "")
    shop.write("src/store/database.py", DATABASE)
    shop.write("src/store/checks/test_own.py", f"from store import database\n{ASKS.replace('database, ', '')}")
    shop.write("src/store/conftest.py", f"from store import database\n{DOUBLE.replace('database, ', '', 1)}")
    for one in (check(shop), suite(shop, "--pyargs", "preflight.requirements", "store.checks")):
        assert one.process.returncode == 1, one.output
        assert shop.check("Own")["outcome"] == "failed"


def test_doubles_behind_a_link(shop: Adopter) -> None:
    """The suite is a link into a folder with a conftest.py above it."""
    other = shop.folder / "shared" / "checks"
    other.mkdir(parents=True)
    (other.parent / "conftest.py").write_text(DOUBLE)
    (other / "test_own.py").write_text(ASKS)
    (shop.root / "preflight_suite").symlink_to(other)
    shop.write("database.py", DATABASE)
    for run in (check, suite):
        refused(run(shop))


def test_two_parts_of_one_name(shop: Adopter) -> None:
    """In the root and where the command is typed: files of one name, and helpers of one name, are two."""
    backend = shop.root / "backend"
    shop.write("backend/shop.py", SMALL)
    shop.write("preflight_suite/test_own.py", GOOD)
    shop.write("backend/preflight_suite/test_own.py", GOOD.replace("Good", "Own").replace("good", "own"))
    assert check(shop, cwd=backend).process.returncode == 0
    shop.write("backend/preflight_suite/test_own.py", FAILS)
    assert check(shop, cwd=backend).process.returncode == 1
    for folder in ("", "backend/"):  # with these, both are packages of one name
        shop.write(f"{folder}preflight_suite/__init__.py", "")
    refused(check(shop, cwd=backend))


def test_two_packages_of_one_name(shop: Adopter) -> None:
    """pytest would take both for one module: the message says which, and what to do."""
    shop.write("backend/shop.py", SMALL)
    for folder, name in (("", "good"), ("backend/", "own")):
        shop.write(f"{folder}preflight_suite/__init__.py", "")
        shop.write(f"{folder}preflight_suite/test_own.py", GOOD.replace("Good", name).replace("good", name))
    one = check(shop, cwd=shop.root / "backend")
    assert one.process.returncode == 2, one.output
    assert "and a run can have only one package of that name: remove the __init__.py" in one.output


# What plain pytest has from elsewhere.

LENT = f"""{DOUBLE}
class Theirs:
    environment = {{"SHOP_DATABASE": "of the tests"}}

@pytest.fixture
def settings():
    return Theirs()

@pytest.fixture
def environment():
    return Theirs.environment
"""
LENDS = {
    "double": ASKS,
    "settings": ASKS.replace('database.answer() == "an answer"', "settings.environment.get('SHOP_DATABASE')"),
    "environment": FAILS.replace("own()", "own(environment)").replace("False", "environment.get('SHOP_DATABASE')"),
}


@pytest.mark.parametrize("what", LENDS)
def test_fixtures_that_a_conftest_imports_from_a_package(shop: Adopter, what: str) -> None:
    """A company's package of fixtures, whose names the conftest.py of the tests has imported: they are the tests'."""
    package = shop.folder / "modules" / "company_testing"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "fixtures.py").write_text(LENT)
    importable(shop, package.parent)
    shop.write("database.py", DATABASE)
    shop.write("pytest.ini", "[pytest]\npythonpath = .\n")
    shop.write("conftest.py", f"from company_testing.fixtures import {what}\n")
    shop.write(FILE, LENDS[what])
    one = suite(shop)
    assert one.process.returncode == 1, one.output


def test_fixtures_of_the_repository_around(shop: Adopter) -> None:
    """A conftest.py of a repository names a module of fixtures beside the project's folder."""
    (shop.root / "pyproject.toml").unlink()
    shop.write("pytest.ini", "[pytest]\npythonpath = .\n")
    shop.write("conftest.py", 'pytest_plugins = ["testing.doubles"]\n')
    shop.write("testing/__init__.py", "")
    shop.write("testing/doubles.py", DOUBLE)
    shop.write("database.py", DATABASE)
    shop.write("services/shop/pyproject.toml", TABLE)
    shop.write("services/shop/shop.py", SMALL)
    shop.write(f"services/shop/{FILE}", ASKS)
    one = suite(shop, cwd=shop.root / "services" / "shop")
    assert one.process.returncode == 1, one.output


def test_a_plugin_that_sets_variables_when_it_is_imported(shop: Adopter) -> None:
    """A requirement has the environment that pytest was started with, whatever addopts has loaded first."""
    (shop.folder / "modules" / "env_setup.py").write_text("import os\nos.environ.setdefault('SHOP_DATABASE', 'x')\n")
    importable(shop, shop.folder / "modules")
    shop.write("pytest.ini", "[pytest]\naddopts = -p env_setup\n")
    shop.write(FILE, LENDS["environment"])
    one = suite(shop)
    assert one.process.returncode == 1, one.output


def test_what_a_program_sets_before_it_calls_pytest(shop: Adopter) -> None:
    """It has started pytest with that."""
    shop.write(FILE, LENDS["environment"])
    program = "import os, pytest, sys\nos.environ['SHOP_DATABASE'] = 'x'\nsys.exit(pytest.main(['preflight_suite']))"
    one = ended(shop, sys.executable, "-c", program)
    assert one.process.returncode == 0, one.output


@pytest.mark.parametrize("name", ["Own", "tests/legacy"])
def test_what_addopts_ignore(shop: Adopter, name: str) -> None:
    """--ignore there is about paths of the project's tests, those that are not there included."""
    shop.write("pytest.ini", f"[pytest]\naddopts = --ignore={name}\n")
    shop.write(FILE, FAILS)
    one = suite(shop)
    assert one.process.returncode == 1, one.output


def test_a_gate_of_a_plugin_that_the_settings_name(shop: Adopter) -> None:
    """Both runs have the plugins of the suite, and a fixture in one of them that fails every requirement."""
    shop.write("pyproject.toml", f'{TABLE}plugins = ["gates"]\n')
    shop.write("gates.py", GATE)
    shop.write("pytest.ini", "[pytest]\naddopts = -p gates\n")
    importable(shop, shop.root)
    shop.write(FILE, GOOD)
    assert [run(shop).process.returncode for run in (check, suite)] == [1, 1]


GATES: dict[str, tuple[str, str, list[int]]] = {  # pytest's option, the suite's conftest.py, and how pytest ends
    "a conftest.py": ("", 'pytest_plugins = ["gates"]\n', [1, 1]),
    "the command line": ("-pgates", "", [1, 0]),
    "addopts": ("-oaddopts=-pgates", "", [0, 0]),
}


@pytest.mark.parametrize("who", GATES)
def test_a_gate_of_a_plugin_that_somebody_else_names(shop: Adopter, who: str) -> None:
    """The suite's own conftest.py is part of both runs, and the command line is somebody's wish for this one."""
    option, conftest, ends = GATES[who]
    shop.write("gates.py", GATE)
    importable(shop, shop.root)
    shop.write("preflight_suite/conftest.py", conftest)
    shop.write(FILE, GOOD)
    plain = suite(shop, "preflight_suite", *filter(None, [option]))
    assert [plain.process.returncode, check(shop).process.returncode] == ends, plain.output


# How the run was started.

SUBPROCESS = FAILS.replace("import pytest", "import pytest, subprocess").replace(
    'assert False, "no"', 'subprocess.run(["false"], check=True)'
)
MIGRATIONS = 'from preflight import ready\ntest_own = ready.migrations(title="Own")\n'
IGNORES = ("bash", "-c", "trap '' CHLD; \"$@\"", "bash")


@pytest.mark.parametrize(
    "how, source",
    [
        pytest.param("check", SUBPROCESS, id="a check"),
        pytest.param("pytest", SUBPROCESS, id="pytest"),
        pytest.param("pytest", MIGRATIONS, id="pytest, ready-made"),
    ],
)
def test_a_parent_that_ignores_the_ends_of_its_children(shop: Adopter, how: str, source: str) -> None:
    """And so do the processes that it starts: a program that fails has failed."""
    shop.write(FILE, source)
    shop.write("alembic.ini", "[alembic]\nscript_location = nowhere\n")
    command = (str(shop.installed / "bin" / "preflight"), "--check-only", "--port", str(shop.port))
    one = ended(shop, *IGNORES, *(command if how == "check" else PLAIN))
    assert one.process.returncode == 1, one.output


def guarded(shop: Adopter, source: str) -> None:
    shop.write("echo.py", ECHO)
    shop.write("shop.py", "from echo import app as plain\nfrom preflight import guard\napp = guard(plain)\n")
    shop.write("pyproject.toml", "[tool.preflight]\n")
    shop.write(FILE, source)


@pytest.mark.parametrize("server", [("uvicorn", "--port={}"), ("hypercorn", "--bind=127.0.0.1:{}")], ids=lambda s: s[0])
def test_a_server_whose_parent_ignores_the_ends_of_its_children(shop: Adopter, server: tuple[str, str]) -> None:
    """It does not start where its requirement fails; hypercorn, which ignores its own worker's end, does not end."""
    guarded(shop, SUBPROCESS)
    address = server[1].format(shop.port)
    one = shop.spawn(*IGNORES, sys.executable, "-m", server[0], "shop:app", address)
    refuses = "the preflight blocks the start"
    until(lambda: one.process.poll() is not None or any(t in one.output for t in ("unning on", refuses)), "it decides")
    assert refuses in one.output


def test_a_parent_that_blocks_the_alarm(shop: Adopter) -> None:
    """A warning that hangs is interrupted at its deadline, and what is critical is asked."""
    source = GOOD.replace("critical", "warning").replace('"Good"', '"Hangs", timeout=0.5')
    shop.write(FILE, f"{source}    import time\n    time.sleep(60)\n")
    blocks = "import os, signal, sys\nsignal.pthread_sigmask(0, {signal.SIGALRM})\nos.execv(sys.argv[1], sys.argv[1:])"
    command = (str(shop.installed / "bin" / "preflight"), "--check-only", "--port", str(shop.port))
    one = ended(shop, sys.executable, "-c", blocks, *command, PREFLIGHT_RUN_TIMEOUT="50")  # it hangs longer
    assert one.process.returncode == 0, one.output


IN_A_THREAD = """
import os, pytest, sys, threading
said = []
one = threading.Thread(target=lambda: said.append(pytest.main(sys.argv[1:])))
one.start()
one.join()
os._exit(int(said[0]))
"""
TOOLS = {
    "coverage": ["-m", "coverage", "run", "-m", "pytest"],
    "pytest.main": ["-c", "import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"],
    "pytest.main, again": ["-c", "import pytest, sys\npytest.main(sys.argv[1:])\nsys.exit(pytest.main(sys.argv[1:]))"],
    "a thread": ["-c", IN_A_THREAD],
    "cProfile": ["-m", "cProfile", "-o", "profile", "-m", "pytest"],  # this and the next swallow every exit code
    "pdb": ["-m", "pdb", "-c", "continue", "-c", "quit", "-m", "pytest"],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_around_pytest(shop: Adopter, tool: str) -> None:
    """Whatever runs pytest, traces it or starts it twice: the requirement has failed."""
    if tool == "pdb" and sys.version_info[:3] == (3, 13, 0):
        pytest.skip("this pdb takes no options for what it runs")
    shop.write(FILE, FAILS)
    one = ended(shop, sys.executable, "-P", *TOOLS[tool], *FEW_PLUGINS, "preflight_suite", *QUIET)
    assert tool in ("cProfile", "pdb") or one.process.returncode != 0, one.output
    assert shop.report()["may_start"] is False


def test_variables_that_are_not_for_a_check(shop: Adopter) -> None:
    """PREFLIGHT_SKIP is for a server that is started directly; a locale without letters changes nothing."""
    shop.write(FILE, FAILS)
    for run in (check, suite):
        assert run(shop, PREFLIGHT_SKIP="1").process.returncode == 1
    assert check(shop, PYTHONCOERCECLOCALE="0", LC_ALL="POSIX", PYTHONUTF8="0").process.returncode == 1


# Where the suite is.


def test_a_suite_in_several_places(shop: Adopter) -> None:
    """Two distributions bring parts of one namespace package: both are asked, or the run is refused."""
    shop.write("pyproject.toml", f"{TABLE}suite = ['preflight.requirements', 'acme_checks']\n")
    for name, source in (("one", GOOD), ("two", FAILS)):
        folder = shop.folder / name / "acme_checks"
        folder.mkdir(parents=True)
        (folder / f"test_{name}.py").write_text(source)
        importable(shop, shop.folder / name)
    refused(check(shop))


def test_a_suite_in_a_namespace_package(shop: Adopter) -> None:
    """Neither acme nor acme.checks has an __init__.py: its requirement is asked."""
    shop.write("pyproject.toml", f"{TABLE}suite = ['preflight.requirements', 'acme.checks']\n")
    folder = shop.folder / "one" / "acme" / "checks"
    folder.mkdir(parents=True)
    (folder / "test_one.py").write_text(GOOD)
    importable(shop, shop.folder / "one")
    one = check(shop)
    assert one.process.returncode == 0, one.output


@pytest.mark.parametrize(
    "name", [b"shop[1]", b"a::b", b"sh\xffop", b"sp ace'\"", b"x" * 200, b"-k x", b"@args"], ids=repr
)
def test_folders_of_odd_names(shop: Adopter, name: bytes) -> None:
    """A project in a folder of whatever name: both runs find what holds and what does not."""
    folder = shop.folder / os.fsdecode(name)
    (folder / "preflight_suite").mkdir(parents=True)
    (folder / "shop.py").write_text(SMALL)
    (folder / "pyproject.toml").write_text(TABLE)
    (folder / FILE).write_text(GOOD)
    assert check(shop, cwd=folder).process.returncode == 0
    (folder / FILE).write_text(FAILS)
    assert [run(shop, cwd=folder).process.returncode for run in (check, suite)] == [1, 1]


def test_a_folder_with_the_name_of_a_variable(shop: Adopter) -> None:
    """It is the folder of this name, not the one that the variable names."""
    folder = shop.folder / "$HOME"
    (folder / "preflight_suite").mkdir(parents=True)
    (folder / "shop.py").write_text(SMALL)
    (folder / "pyproject.toml").write_text(TABLE)
    (folder / FILE).write_text(GOOD)
    assert check(shop, cwd=folder).process.returncode == 0


@pytest.mark.parametrize("where", ["a checkout of ours, editable", "an environment in the project"])
@pytest.mark.parametrize("source", [GOOD, FAILS], ids=["holds", "fails"])
def test_where_the_package_is_installed(shop: Adopter, where: str, source: str) -> None:
    """In both runs: a requirement of the project's own, and one of an installed package."""
    packages = shop.folder / "modules"
    if where == "an environment in the project":
        shop.installed = install(shop.root / ".venv")
        (shop.root / ".venv" / "pyvenv.cfg").write_text("home = /usr/bin\n")
        packages = shop.installed / "lib" / "site-packages"
        shop.environ["PYTHONPATH"] = str(packages)
    else:
        shop.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{shop.environ['PYTHONPATH']}{os.pathsep}{packages}"
    (packages / "acme_checks").mkdir()
    (packages / "acme_checks" / "__init__.py").touch()
    (packages / "acme_checks" / "test_lib.py").write_text(source)
    shop.write("pyproject.toml", f"{TABLE}suite = ['preflight.requirements', 'preflight_suite', 'acme_checks']\n")
    shop.write(FILE, GOOD.replace("Good", "Mine"))
    names = ("preflight.requirements", "preflight_suite", "acme_checks")
    runs = check(shop), suite(shop, "--pyargs", *names, "-m", "critical", f"--preflight-port={shop.port}")
    assert {one.process.returncode for one in runs} == {int(source == FAILS)}, runs[1].output


# Which requirements are asked.


def test_a_marker_by_another_name_in_a_file_that_is_passed_over(shop: Adopter) -> None:
    """A test marked as a requirement is one, wherever the marker comes from: its file has a name of its own."""
    shop.write("preflight_suite/test_good.py", GOOD)
    shop.write("marks.py", "import pytest\ncritical = pytest.mark.critical\n")
    shop.write(
        "preflight_suite/checks.py", FAILS.replace("import pytest", "from marks import *").replace("pytest.mark.", "")
    )
    for run in (check, suite):
        refused(run(shop))


def test_a_file_that_only_names_markers(shop: Adopter) -> None:
    """It holds no requirement, so none is lost."""
    shop.write(FILE, GOOD)
    shop.write("preflight_suite/marks.py", "import pytest\ncritical = pytest.mark.critical\n")
    assert check(shop).process.returncode == 0


def test_a_requirement_beside_what_another_file_imports(shop: Adopter) -> None:
    """A limit from a neighbour's file, which is imported twice."""
    shop.write("preflight_suite/test_a.py", f"LIMIT = 3\n{GOOD.replace('Good', 'A')}")
    shop.write("preflight_suite/test_b.py", f"from preflight_suite.test_a import LIMIT\n{GOOD}")
    assert [run(shop).process.returncode for run in (check, suite)] == [0, 0]


HOLD = {
    "an asynchronous case": (
        "import pytest, unittest\nclass TestIt(unittest.IsolatedAsyncioTestCase):\n    @pytest.mark.critical('Own')\n"
        "    async def test_it(self):\n        'It holds.'\n        assert True\n"
    ),
    "of made-up input": (
        "import pytest\nfrom hypothesis import given, strategies as st\n@pytest.mark.critical('Own')\n"
        "@given(st.integers())\ndef test_it(number):\n    'It holds.'\n    assert number == number\n"
    ),
}


@pytest.mark.parametrize("how", HOLD)
def test_requirements_of_other_kinds(shop: Adopter, how: str) -> None:
    """They are asked: no plugin is in the way, and no compiled file is stale."""
    shop.write(FILE, HOLD[how])
    assert [run(shop).process.returncode for run in (check, suite)] == [0, 0]
    shop.write(FILE, HOLD[how].replace("assert True", "assert False").replace("== number", "< 5"))
    assert [run(shop).process.returncode for run in (check, suite)] == [1, 1]
    assert shop.check("Own")["outcome"] == "failed"


def test_asynchronous_requirements(shop: Adopter) -> None:
    """With anyio as a plugin of the suite: what is awaited is asked, and what is not awaited fails."""
    shop.write("pyproject.toml", f'{TABLE}plugins = ["anyio.pytest_plugin"]\n')
    source = (
        "import pytest\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\nasync def ping():\n"
        "    return False\n@pytest.mark.anyio\n@pytest.mark.critical('Own')\nasync def test_own():\n    'It.'\n    "
    )
    for body, code in (("assert not await ping()", 0), ("assert await ping()", 1), ("assert ping()", 1)):
        shop.write(FILE, source + body)
        assert check(shop).process.returncode == code


PLUGINS = (
    "skipping", "unittest", "warnings", "threadexception", "subtests", "assertion", "logging", "terminal", "junitxml",
    "timeout", "setuponly",
)  # fmt: skip


@pytest.mark.parametrize("name", PLUGINS)
def test_plugins_of_pytest_that_addopts_keep_out(shop: Adopter, name: str) -> None:
    """What is expected to fail, is skipped, or is a case of unittest, passes without none of them."""
    mark = '@pytest.mark.critical("{0}")\ndef test_{0}({1}):\n    "It."\n    assert False\n'
    shop.write("pytest.ini", f"[pytest]\naddopts = -p no:{name}\n")
    shop.write(FILE, f"import pytest\n@pytest.mark.xfail\n{mark.format('x', '')}")
    refused(suite(shop, "preflight_suite", "-m", "critical"))
    case = mark.format("case", "self").replace("\n", "\n    ")
    shop.write(FILE, f"import pytest, unittest\nclass Case(unittest.TestCase):\n    {case}")
    refused(suite(shop, "preflight_suite", "-m", "critical"))


CONFIGURED = {
    "a choice in pytest.toml": ("pytest.toml", '[pytest]\naddopts = ["-k", "not own"]\nstrict = true\n'),
    "a choice in a hidden file": (
        ".pytest.toml",
        '[pytest]\naddopts = ["--deselect", "preflight_suite/test_own.py"]\n',
    ),
    "[tool.pytest]": (
        "pyproject.toml",
        f'{TABLE}[tool.pytest]\naddopts = ["--ignore=preflight_suite/test_own.py", "-n", "2"]\nstrict = true\n',
    ),
    "the first failure": ("pyproject.toml", f'{TABLE}[tool.pytest.ini_options]\naddopts = "-x"\n'),
    "assertions that pass": ("pytest.ini", "[pytest]\nenable_assertion_pass_hook = true\n"),
    "a time-out in a thread": ("pytest.ini", "[pytest]\ntimeout = 5\ntimeout_method = thread\n"),
    "a time-out of the body": ("pytest.ini", "[pytest]\ntimeout = 5\ntimeout_func_only = true\n"),
    "another way to import": (
        "pytest.ini",
        "[pytest]\nconsider_namespace_packages = true\naddopts = --import-mode=append\n",
    ),
    "marks in tox.ini": ("tox.ini", "[pytest]\naddopts = -m 'not critical'\n"),
    "every file": ("pytest.ini", "[pytest]\naddopts = --pyargs --keep-duplicates\npython_files = *.py\n"),
    "silence": ("pytest.ini", "[pytest]\naddopts = --no-summary --disable-warnings --no-header -qqq --tb=no\n"),
    "examples": ("pytest.ini", "[pytest]\naddopts = --doctest-modules --doctest-ignore-import-errors\n"),
}


@pytest.mark.parametrize("what", CONFIGURED)
def test_configuration_of_a_projects_tests(shop: Adopter, what: str) -> None:
    """Whatever file of whatever format pytest reads it from: each requirement is asked, with the result that it has."""
    shop.write(*CONFIGURED[what])
    shop.write("preflight_suite/test_good.py", GOOD)
    for source, code in ((FAILS, 1), (FAILS.replace("False", "True"), 0)):
        shop.write(FILE, source)
        one = suite(shop, "preflight_suite", "-m", "critical")
        assert one.process.returncode == code, one.output
        assert {check["title"] for check in shop.report()["checks"]} == {"Good", "Own"}


NAMED = (
    ["@args"], ["preflight_suite/."], ["./preflight_suite/../preflight_suite"], ["preflight_suite::"], ["-k", ""],
    ["--rootdir=/", "preflight_suite"], ["-c", os.devnull, "preflight_suite"], ["--pyargs", "preflight_suite.test_own"],
    ["preflight_suite/test_own.py", "preflight_suite/test_good.py"], ["--deselect", "x", "preflight_suite"],
)  # fmt: skip


@pytest.mark.parametrize("arguments", NAMED, ids=" ".join)
def test_ways_to_name_a_suite(shop: Adopter, arguments: list[str]) -> None:
    """In a file of arguments, with dots, by modules: what fails fails."""
    shop.write("preflight_suite/test_good.py", GOOD)
    shop.write(FILE, FAILS)
    shop.write("args", "preflight_suite\n-m\ncritical\n")
    refused(suite(shop, *arguments, *(["preflight_suite"] if arguments[0] == "-k" else [])))


DECLARED = (
    'needs="netwrok"', 'needs=["network", "x"]', "timeout=0", 'timeout=float("nan")', 'timeout="5"', 'scope="flet"',
    'severity="warning"', "fix=None",
)  # fmt: skip


@pytest.mark.parametrize("what", DECLARED)
def test_declarations_that_are_mistyped(shop: Adopter, what: str) -> None:
    """They leave no requirement out."""
    shop.write(FILE, GOOD.replace('"Good"', f'"Good", {what}'))
    refused(check(shop))


def test_a_requirement_that_leaves_a_program_behind(shop: Adopter) -> None:
    """The run ends at its end, and not at the program's."""
    shop.write(FILE, f'{GOOD}    import subprocess\n    subprocess.Popen(["sleep", "60"])\n')
    one = check(shop)
    assert one.process.returncode == 0, one.output


# Requirements and judges whose assertions nobody hears.

UNHEARD = """
import asyncio, concurrent.futures, pytest, threading
from preflight.ready import requirement

def fails(*_):
    assert False, "no"

def nothing(found, details):
    pass

async def ping():
    return False

def mapped(*_):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pool.map(fails, [1])

def submitted(*_):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pool.submit(fails)

def in_a_thread(*_):
    one = threading.Timer(0.01, fails)
    one.start()
    one.join()

def answers(result):
    def probe(ask):
        return result()
    return probe

KEPT = []

class Client:
    def __init__(self):
        self.me = self

    def ping(self):
        self.later = ping()
        return self.later

@pytest.fixture(scope="session")
def opened():
    return ping()
"""
PLAIN_BODIES = {  # arguments and body
    "a timer's thread": ("", "in_a_thread()"),
    "a thread of asyncio": ("", "asyncio.run(asyncio.to_thread(fails))"),
    "a pool that maps": ("", "mapped()"),
    "a pool that is given it": ("", "submitted()"),
    "opened with the file": ("", "assert OPENED"),
    "opened for the session": ("opened", "assert opened"),
    "in a list of the file": ("", "KEPT.append(ping())\n    assert KEPT[-1]"),
    "in a circle": ("", "client = Client()\n    assert client.ping()"),
    "a generator in parentheses": ("", "assert (one for one in [False])"),
    "a lambda": ("", "assert lambda: False"),
    "a text": ("", "assert 'it is there'"),
    "a function that is not called": ("", "assert fails"),
}
MADE_OF = {  # probe and judge
    "a probe that asserts": ("fails", "nothing"),
    "a probe that skips": ("answers(lambda: pytest.skip('no'))", "nothing"),
    "a probe that expects to fail": ("answers(lambda: pytest.xfail('no'))", "nothing"),
    "a probe that exits": ("answers(lambda: exit(0))", "nothing"),
    "a probe with a thread": ("in_a_thread", "nothing"),
    "a probe with a pool": ("mapped", "nothing"),
    "a judge with a thread": ("answers(int)", "in_a_thread"),
    "a judge with a pool": ("answers(int)", "mapped"),
}


@pytest.mark.parametrize("what", PLAIN_BODIES)
def test_bodies_whose_assertions_nobody_hears(shop: Adopter, what: str) -> None:
    """Each blocks, or breaks the run: nothing was asked, or what was asked has failed."""
    names, body = PLAIN_BODIES[what]
    opened = "OPENED = ping()\n" if "OPENED" in body else ""
    shop.write(
        FILE, f'{UNHEARD}\n{opened}@pytest.mark.critical("Own")\ndef test_own({names}):\n    "It."\n    {body}\n'
    )
    refused(check(shop))


@pytest.mark.parametrize("what", MADE_OF)
def test_parts_of_made_requirements_that_nobody_hears(shop: Adopter, what: str) -> None:
    """The same for what `requirement` has made."""
    probe, judge = MADE_OF[what]
    shop.write(FILE, f'{UNHEARD}\ntest_own = requirement({probe}, {judge}, title="Own", doc="It.")\n')
    refused(check(shop))


SHARES = """
import asyncio, pytest

async def ping():
    return False

@pytest.fixture(scope="session")
def opened():
    ping()

@pytest.mark.warning("First")
def test_first(opened):
    "It."

@pytest.mark.critical("Own")
def test_own(opened):
    "It."
"""
ENDS_EARLY = f"""
{GOOD}
import asyncio
KEPT = []

async def ping():
    return False

@pytest.mark.warning("Own")
def test_own():
    "It."
    first, second = ping(), ping()
    KEPT.append(ping())
    assert asyncio.run(first)
    assert asyncio.run(second)

@pytest.fixture
def found():
    return 1

@pytest.mark.critical("Found")
def test_found(found):
    "It."
    assert found, "no"
"""


def test_a_fixture_that_does_not_await_for_others(shop: Adopter) -> None:
    """The warning that comes first is in error, and the run says whose fault that may be: a critical one's, too."""
    shop.write(FILE, SHARES)
    for one in (check(shop), suite(shop)):
        refused(one)
        report = shop.report()
        assert report["status"] == "broken"
        assert "ping() is not awaited" in report["reason"]


def test_what_a_failure_kept_from_being_awaited(shop: Adopter) -> None:
    """A warning that has failed blocks nothing, though it had called what it would have awaited."""
    shop.write(FILE, ENDS_EARLY)
    for one in (check(shop), suite(shop)):
        assert "is not awaited" not in one.output
        assert shop.check("Own")["outcome"] == "failed"
        assert shop.check("Found")["outcome"] == "passed"
        assert shop.report()["status"] != "broken"


CONNECTS = """
import subprocess, sys
from pathlib import Path
Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("50051 50051")
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""


@pytest.mark.needs_root("nobody else can make a network namespace everywhere")
def test_a_port_among_those_of_outgoing_connections(shop: Adopter) -> None:
    """Where the kernel gives the client the very port that it asks: it is connected to itself, and nobody listens."""
    shop.write(FILE, 'from preflight import ready\ntest_own = ready.tcp("127.0.0.1:50051", title="Own")\n')
    command = (str(shop.installed / "bin" / "preflight"), "--check-only", "--port", str(shop.port))
    refused(ended(shop, "unshare", "-n", sys.executable, "-c", CONNECTS, *command))


# What is shared, and ends badly.

ENDS = "    yield\n    assert False, 'no'\n"
TWO = (
    "\n@pytest.mark.critical('Own')\ndef test_a({0}):\n    'It.'\n    {1}\n"
    "@pytest.mark.warning('Last')\ndef test_z({0}):\n    'It.'\n    {1}\n"
)
BY_NAME = TWO.format("request", "request.getfixturevalue('db')")
METHODS = TWO.format("self", "pass").replace("\n", "\n    ")
SHARED: dict[str, dict[str, str]] = {
    "an argument": {FILE: f"@pytest.fixture(scope='session')\ndef db():\n{ENDS}{TWO.format('db', '')}"},
    "an argument of an argument": {
        FILE: f"@pytest.fixture(scope='module')\ndef own():\n{ENDS}@pytest.fixture\ndef db(own):\n    return own\n"
        f"{TWO.format('db', '')}"
    },
    "a finalizer of a fixture": {
        FILE: "def no():\n    assert False\n@pytest.fixture(scope='module')\ndef db(request):\n"
        f"    request.addfinalizer(no)\n{TWO.format('db', '')}"
    },
    "by its name": {FILE: f"@pytest.fixture(scope='session')\ndef db():\n{ENDS}{BY_NAME}"},
    "of a package": {
        "preflight_suite/deep/__init__.py": "",
        "preflight_suite/deep/conftest.py": f"@pytest.fixture(scope='package')\ndef db():\n{ENDS}",
        "preflight_suite/deep/test_own.py": TWO.format("db", ""),
        "preflight_suite/test_good.py": GOOD,
    },
    "of parameters": {
        FILE: "@pytest.fixture(scope='module')\ndef db(request):\n    yield\n    assert request.param != 'eu'\n"
        "EACH = [pytest.param('eu', marks=pytest.mark.critical('Own')),\n"
        "    pytest.param('us', marks=pytest.mark.warning('Last'))]\n"
        "@pytest.mark.parametrize('db', EACH, indirect=True)\ndef test_own(db):\n    'It.'\n"
    },
    "by the name that a shared one asks for": {
        FILE: f"@pytest.fixture(scope='session')\ndef own():\n{ENDS}@pytest.fixture(scope='session')\n"
        "def db(request):\n    request.getfixturevalue('own')\n@pytest.mark.warning('First')\n"
        f"def test_0(own, db):\n    'It.'\n{TWO.format('db', '')}"
    },
    "of the session's node": {
        FILE: "def no():\n    assert False\n@pytest.fixture\ndef db(request):\n"
        f"    request.session.addfinalizer(no)\n{TWO.format('db', '')}"
    },
    "teardown_class": {
        FILE: f"class TestIt:\n    @classmethod\n    def teardown_class(cls):\n        assert False\n    {METHODS}"
    },
    "teardown_module": {FILE: f"def teardown_module():\n    assert False\n{TWO.format('', 'pass')}"},
    "tearDownClass": {
        FILE: "import unittest\nclass TestIt(unittest.TestCase):\n    @classmethod\n    def tearDownClass(cls):\n"
        f"        assert False\n    {METHODS}"
    },
    "addClassCleanup": {
        FILE: "import unittest\nclass TestIt(unittest.TestCase):\n    @classmethod\n    def setUpClass(cls):\n"
        "        cls.addClassCleanup(cls.no)\n    @classmethod\n    def no(cls):\n        assert False\n"
        f"    {METHODS}"
    },
}


@pytest.mark.parametrize("how", SHARED)
def test_what_is_shared_and_ends_badly(shop: Adopter, how: str) -> None:
    """It concerns the critical requirement that has used it, whichever came last."""
    for file, source in SHARED[how].items():
        shop.write(file, f"import pytest\n{source}" if source and not source.startswith("import pytest") else source)
    one = check(shop)
    assert one.process.returncode == 1, one.output
    assert shop.check("Own")["outcome"] == "error"


def test_what_is_shared_concerns_nobody_else(shop: Adopter) -> None:
    """A critical requirement beside the one that has used it holds, and so does one with another parameter."""
    shop.write(
        FILE,
        "import pytest\n@pytest.fixture(scope='session', params=['eu', 'us', 'ap'])\ndef db(request):\n    yield\n"
        "    assert request.param != 'us'\n@pytest.mark.critical('Own')\ndef test_a(request):\n    'It.'\n"
        "EACH = [pytest.param('eu', marks=pytest.mark.critical('Other')),\n"
        "    pytest.param('us', marks=pytest.mark.warning('Uses')),\n"
        "    pytest.param('ap', marks=pytest.mark.warning('Last'))]\n"
        "@pytest.mark.parametrize('db', EACH, indirect=True)\ndef test_b(db):\n    'It.'\n",
    )
    one = check(shop)
    assert one.process.returncode == 0, one.output
    assert {name: shop.check(name)["outcome"] for name in ("Own", "Other", "Last")} == {
        "Own": "passed",
        "Other": "passed",
        "Last": "error",
    }


# Under a server of one's own.


@pytest.mark.parametrize("what", ["a file of requirements", "a module", "nothing"])
def test_code_that_has_changed_under_a_server(shop: Adopter, what: str) -> None:
    """Its next process asks again if the suite is another one, or what the suite has imported of the project."""
    guarded(shop, f"{GOOD}    import limits\n    assert limits.enough()\n")
    shop.write("limits.py", "def enough():\n    return True\n")
    shop.write("parent.py", TWO_OF_ONE_SOCKET)
    one = shop.spawn(sys.executable, "parent.py", str(shop.port)).until_says("Application startup complete")
    if what == "a module":
        shop.write("limits.py", "def enough():\n    return None\n")
    elif what == "a file of requirements":
        shop.write("preflight_suite/test_two.py", FAILS)
    run_id = shop.report()["run_id"]
    (shop.root / "changed").touch()
    until(lambda: one.output.count("Waiting for application startup") > 1, "the second one starts")
    until(lambda: one.output.count("startup complete") > 1 or "blocks the start" in one.output, "it decides")
    if what == "nothing":
        assert shop.report()["run_id"] == run_id
    else:
        assert "the preflight blocks the start" in one.output


# What pytest writes.

BEGINS = 'import logging, os, pytest, warnings\nKEY = os.environ["MY_API_KEY"]\n'
RAISES = "    raise RuntimeError('bad ' + KEY)\n"
PROPERTIES = """
@pytest.fixture(autouse=True)
def one(record_property, record_xml_attribute):
    record_property("db", {"a": [KEY]})
    record_xml_attribute("db", KEY)
"""
OF_THE_SUITE = """
@pytest.fixture(autouse=True, scope="session")
def one(record_testsuite_property):
    record_testsuite_property("db", KEY)
"""
HOOKS = {  # a hook of the suite's conftest.py
    "when it is configured": f"def pytest_configure():\n{RAISES}",
    "when it starts": f"def pytest_sessionstart():\n{RAISES}",
    "in a header": "def pytest_report_header():\n    return KEY\n",
    "instead of a header": f"def pytest_report_header():\n{RAISES}",
    "of a file": f"def pytest_ignore_collect():\n{RAISES}",
    "of parameters": f"def pytest_generate_tests():\n{RAISES}",
    "of a requirement": f"def pytest_runtest_protocol():\n{RAISES}",
    "of a result": f"def pytest_runtest_logreport():\n{RAISES}",
    "in a word": "def pytest_report_teststatus(report):\n    return report.outcome, 'X', 'own ' + KEY\n",
    "in a warning": "def pytest_sessionfinish():\n    warnings.warn('old ' + KEY)\n",
    "in a property": PROPERTIES,
    "an exit while it collects": "def pytest_collection_modifyitems():\n    pytest.exit('no ' + KEY, 1)\n",
    "when it is imported": RAISES.strip(),
    "of options": "def pytest_addoption():\n    raise pytest.UsageError('bad ' + KEY)\n",
    "printed, and wrong usage": "print(KEY)\ndef pytest_configure():\n    raise pytest.UsageError('bad')\n",
    "in a property of the suite": OF_THE_SUITE,
    "an exit when it is configured": "def pytest_configure():\n    pytest.exit('no ' + KEY, 1)\n",
    "an exit when it starts": "def pytest_sessionstart():\n    pytest.exit('no ' + KEY, 1)\n",
    "wrong usage": "def pytest_configure():\n    raise pytest.UsageError('bad ' + KEY)\n",
    "wrong usage, later": "def pytest_collection_modifyitems():\n    raise pytest.UsageError('bad ' + KEY)\n",
    "at its end": f"def pytest_sessionfinish():\n{RAISES}",
    "in its summary": f"def pytest_terminal_summary():\n{RAISES}",
    "after its end": f"def pytest_unconfigure():\n{RAISES}",
    "cleaning up": f"def no():\n{RAISES}def pytest_configure(config):\n    config.add_cleanup(no)\n",
}


def shows(*texts: str) -> bool:
    """Whether nine characters of the key stand in one of these."""
    return any(KEY[start : start + 9] in text for text in texts for start in range(len(KEY) - 8))


@pytest.mark.parametrize("hook", HOOKS)
def test_what_hooks_of_a_suite_say_in_plain_pytest(shop: Adopter, hook: str) -> None:
    """Neither the terminal of a job nor the file that it keeps has the key."""
    shop.write(FILE, BEGINS + OWN.format("", "logging.warning(KEY); print(KEY); assert not KEY, KEY"))
    shop.write("preflight_suite/conftest.py", BEGINS + HOOKS[hook])
    shop.write("pytest.ini", "[pytest]\njunit_logging = all\n")
    kept = shop.folder / "kept.xml"
    one = suite(shop, "preflight_suite", f"--junitxml={kept}", "-rA", "-vv", "--setup-show", MY_API_KEY=KEY)
    refused(one)
    assert not shows(one.output, kept.read_text() if kept.exists() else "")


@pytest.mark.parametrize("hook", HOOKS)
def test_what_hooks_of_a_suite_say_in_a_check(shop: Adopter, hook: str) -> None:
    """The launcher shows nothing of it."""
    shop.write(FILE, BEGINS + OWN.format("", "logging.warning(KEY); print(KEY); assert not KEY, KEY"))
    shop.write("preflight_suite/conftest.py", BEGINS + HOOKS[hook])
    one = check(shop, MY_API_KEY=KEY)
    refused(one)
    assert not shows(one.output, shop.report_file.read_text())


@pytest.mark.parametrize("hook", ["of a requirement", "when it starts", "at its end", "after its end", "cleaning up"])
def test_a_hook_of_a_suite_that_raises(shop: Adopter, hook: str) -> None:
    """Nothing blocks, and pytest did not come to its end: neither run says that all is well."""
    shop.write(FILE, GOOD)
    shop.write("preflight_suite/conftest.py", BEGINS + HOOKS[hook])
    for run in (suite, check):
        refused(run(shop, MY_API_KEY=KEY))


def test_what_a_dependency_of_ours_writes_about_the_job(shop: Adopter) -> None:
    """pytest-metadata, which pytest-json-report brings, has a fixture for the addresses of a job."""
    shop.write("pytest.ini", "[pytest]\nusefixtures = include_metadata_in_junit_xml\n")
    shop.write(FILE, GOOD)
    kept = shop.folder / "kept.xml"
    address = f"https://me:{KEY}@git.example.org/shop.git"
    one = suite(shop, "preflight_suite", f"--junitxml={kept}", "-v", JENKINS_URL="x", BUILD_NUMBER="1", GIT_URL=address)
    assert one.process.returncode == 0, one.output
    assert not shows(one.output)
    assert not shows(kept.read_text())


SAYS = {  # arguments and body
    "a fix": ("details", "details.fix = 'psql ' + KEY; assert 0, 'x'"),
    "a summary in lines": ("details", "details.summary = KEY[:20] + chr(10) + KEY[20:]"),
    "a name": ("details", "details[KEY] = 1"),
    "deep in details": ("details", "details['n'] = [{'a': (KEY, {KEY}, KEY.encode(), ValueError(KEY))}]"),
    "in pieces": ("details", "details['n'] = [KEY[:21], KEY[21:]]"),
    "a group": ("", "raise ExceptionGroup(KEY, [ValueError(KEY)])"),
    "metadata": ("json_metadata", "json_metadata['x'] = KEY"),
    "a warning": ("", "warnings.warn('old ' + KEY, DeprecationWarning)"),
    "a fixture": ("request", "request.getfixturevalue(KEY)"),
    "what stops the session": ("request", "request.session.shouldstop = KEY"),
    "what fails the session": ("request", "request.session.shouldfail = KEY"),
    "without capture": ("capsys", "with capsys.disabled():\n        print(KEY)"),
}


@pytest.mark.parametrize("what", SAYS)
def test_what_a_requirement_says(shop: Adopter, what: str) -> None:
    """In plain pytest, its file and its cache, in a check, and in both reports."""
    shop.write(FILE, BEGINS + OWN.format(*SAYS[what]))
    kept = shop.folder / "kept.xml"
    environ = {"MY_API_KEY": KEY} | ({"PYTEST_DEBUG": "1"} if what == "a group" else {})
    one = shop.pytest("preflight_suite", f"--junitxml={kept}", "-rA", "-vv", environ=environ)
    texts = [
        one.output,
        kept.read_text(),
        *(file.read_text() for file in shop.root.rglob(".pytest_cache/**/*") if file.is_file()),
    ]
    texts += [shop.report_file.read_text()] if shop.report_file.exists() else []
    texts += [check(shop, "-v", MY_API_KEY=KEY).output, shop.report_file.read_text()]
    assert not shows(*texts)


COLLECTED = {
    "an id": '@pytest.mark.parametrize("url", [KEY])\n' + OWN.format("url", "pass"),
    "an id of a plugin": OWN.format("", "pass"),
    "an import": f"import helper\n{OWN.format('', 'pass')}",
    "two titles": OWN.replace('"Own"', "'Own ' + KEY").format("", "pass") * 2,
    "two severities": "@pytest.mark.warning('Own ' + KEY)\n" + OWN.replace('"Own"', "'Own ' + KEY").format("", "pass"),
    "a need": OWN.replace('"Own"', "'Own', needs=KEY").format("", "pass"),
    "a parameter": "@pytest.mark.parametrize(KEY, [1])\n" + OWN.format("", "pass"),
}


@pytest.mark.parametrize("what", COLLECTED)
def test_what_is_said_of_a_file(shop: Adopter, what: str) -> None:
    """Of one that cannot be collected, or declares what it must not."""
    shop.write(FILE, BEGINS + COLLECTED[what])
    shop.write("helper.py", f"{BEGINS}raise RuntimeError(KEY)\n")
    shop.write("pytest.ini", "[pytest]\npythonpath = .\n")
    if what == "an id of a plugin":
        renames = "def pytest_itemcollected(item):\n    item.name = KEY\n    item._nodeid += KEY\n"
        shop.write("preflight_suite/conftest.py", BEGINS + renames)
    runs: list[Callable[..., Started]] = [suite, check]
    for run in runs:
        one = run(shop, MY_API_KEY=KEY)
        refused(one)
        assert not shows(one.output, shop.report_file.read_text() if shop.report_file.exists() else "")


def test_what_a_time_out_shows(shop: Adopter) -> None:
    """pytest-timeout ends the process, and shows what a requirement has printed: redacted."""
    shop.write("pytest.ini", "[pytest]\ntimeout = 1\ntimeout_method = thread\n")
    endless = "while True:\n        try:\n            time.sleep(9)\n        except BaseException:\n            pass"
    shop.write(FILE, f"import time\n{BEGINS}{OWN.format('', 'print(KEY)')}    {endless}\n")
    one = suite(shop, MY_API_KEY=KEY)
    refused(one)
    assert not shows(one.output)


@pytest.mark.parametrize(
    "body", ["assert 0, licence", "print(licence, flush=True); os._exit(3)", "details['x'] = licence"]
)
def test_the_value_of_a_ready_made_requirement(shop: Adopter, body: str) -> None:
    """It is a secret whatever its variable is called, for the other requirements, too."""
    shop.write("shop.py", f"import os\nprint('app', os.environ['SHOP_LICENCE'], flush=True)\n{SMALL}")
    source = f"import os\nfrom preflight import ready\nimport pytest\ntest_l = ready.variable('SHOP_LICENCE')\n{OWN}"
    shop.write(FILE, source.format("environment, details", f"licence = environment['SHOP_LICENCE']; {body}"))
    for run in (check, suite):
        assert not shows(run(shop, SHOP_LICENCE=KEY.removeprefix("sk-canary-")).output, shop.report_file.read_text())
