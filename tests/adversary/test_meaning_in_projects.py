"""Requirements in projects of others: beside their tests and packages, and made of ready-made parts."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from preflight import making, ready
from preflight.contract import Details
from preflight.project import Project
from preflight.settings import loading
from preflight.suite.probes.answers import Answers
from tests.e2e.doubles import SMALL
from tests.e2e.installing import Adopter
from tests.e2e.place import Started
from tests.ready.asking import ask
from tests.ready.listeners import answering

pytestmark = pytest.mark.usefixtures("unmeasured")

FILE = "preflight_suite/test_own.py"
LINE = ("--pyargs", "preflight.requirements", "preflight_suite", "-m", "critical", "-p", "no:cacheprovider")
"""The line for CI, behind ``pytest``."""
READY = 'from preflight import ready\ntest_ready = ready.variable("SHOP_DATABASE", title="Ready")\n'
NEEDS = """
import pytest

@pytest.mark.critical("Own")
def test_own(environment, settings, details):
    "The shop knows its database."
    assert environment.get("SHOP_DATABASE"), "SHOP_DATABASE is not set"
    assert settings.environment.get("SHOP_DATABASE"), "nor in the settings"
"""


@pytest.fixture
def shop(adopter: Adopter) -> Adopter:
    """A project with an application, and a requirement of its own that does not hold."""
    adopter.write("shop.py", SMALL)
    adopter.write("pyproject.toml", '[tool.preflight]\napp = "shop:app"\n')
    adopter.write(FILE, NEEDS)
    return adopter


def suite(shop: Adopter, *more: str, **environ: str) -> Started:
    """The project's own requirements, asked by pytest."""
    return shop.pytest("preflight_suite", "-p", "no:cacheprovider", *more, environ=environ)


# What the project has for its own tests.

SETS = 'import os, pytest\nVARIABLES = {"SHOP_DATABASE": "of the tests"}\n'
SETTERS = {
    "when it is imported": "os.environ.update(VARIABLES)\n",
    "where it is not set": 'os.environ.setdefault("SHOP_DATABASE", "of the tests")\n',
    "in a hook": "@pytest.hookimpl(tryfirst=True)\ndef pytest_configure():\n    os.environ.update(VARIABLES)\n",
    "for every test": (
        "@pytest.fixture(autouse=True)\ndef variables(monkeypatch):\n"
        '    monkeypatch.setenv("SHOP_DATABASE", "of the tests")\n'
    ),
    "in a plugin": "def pytest_load_initial_conftests():\n    os.environ.update(VARIABLES)\n",
}


@pytest.mark.parametrize("how", SETTERS)
def test_variables_that_are_set_for_tests(shop: Adopter, how: str) -> None:
    """The application will not have them, so no requirement goes by them."""
    shop.write(FILE, NEEDS + READY)
    if how == "in a plugin":
        (shop.folder / "modules" / "theirs.py").write_text(SETS + SETTERS[how])
        shop.environ["PYTHONPATH"] += f"{os.pathsep}{shop.folder / 'modules'}"
        shop.write("pytest.ini", "[pytest]\naddopts = -p theirs\n")
    else:
        shop.write("conftest.py", SETS + SETTERS[how])
    done = suite(shop)
    assert done.process.returncode == 1, done.output
    assert shop.check("Own")["message"] == "SHOP_DATABASE is not set"
    assert shop.check("Ready")["message"] == "SHOP_DATABASE is not set"


def test_variables_of_the_job(shop: Adopter) -> None:
    """What pytest is started with is the environment, and the env file is below it."""
    shop.write("conftest.py", SETS + SETTERS["when it is imported"])
    shop.write(".env", "OTHER=1\n").chmod(0o600)
    shop.write(FILE, f'{NEEDS}    assert environment["OTHER"] == "1"\n')
    assert suite(shop, SHOP_DATABASE="x").process.returncode == 0


FIXTURES = {
    "environment": 'def environment():\n    return {"SHOP_DATABASE": "of the tests"}\n',
    "settings": "def settings():\n    class Theirs: environment = VARIABLES\n    return Theirs()\n",
    "both, for every test": (
        "def environment():\n    return VARIABLES\n\n@pytest.fixture(autouse=True)\ndef settings(environment):\n"
        "    class Theirs: pass\n    Theirs.environment = environment\n    return Theirs\n"
    ),
}


@pytest.mark.parametrize("where", ["conftest.py", "a module that it names"])
@pytest.mark.parametrize("what", FIXTURES)
def test_fixtures_that_are_called_like_ours(shop: Adopter, what: str, where: str) -> None:
    """They are the tests' own: a requirement has what a check gives it."""
    source = f"{SETS}\n@pytest.fixture\n{FIXTURES[what]}"
    if where == "conftest.py":
        shop.write("conftest.py", source)
    else:
        shop.write("conftest.py", 'pytest_plugins = ["theirs.fixtures"]\n')
        shop.write("theirs/__init__.py", "")
        shop.write("theirs/fixtures.py", source)
    done = suite(shop)
    assert done.process.returncode == 1, done.output
    assert shop.check("Own")["message"] == "SHOP_DATABASE is not set"


ASKS = """
import pytest, database

@pytest.mark.critical("Own")
def test_own(settings):
    "The database answers."
    assert database.answer() == "an answer", "no answer"
"""
FAKE = "import pytest, database\ndef fake():\n    return 'an answer'\n"
DOUBLE = "def double(monkeypatch):\n    monkeypatch.setattr(database, 'answer', fake)\n"
DOUBLES = {
    "every test": f"@pytest.fixture(autouse=True)\n{DOUBLE}",
    "the session": "@pytest.fixture(autouse=True, scope='session')\ndef double():\n    database.answer = fake\n",
    "what every test needs": f"@pytest.fixture\n{DOUBLE}@pytest.fixture(autouse=True)\ndef prepared(double): ...\n",
    "pytest.ini": f"@pytest.fixture\n{DOUBLE}",
}


@pytest.mark.parametrize("whose", DOUBLES)
def test_doubles_that_every_test_has(shop: Adopter, whose: str) -> None:
    """A requirement asks the thing itself, and not what the project's tests put in its place."""
    shop.write("database.py", "def answer():\n    return 'nothing'\n")
    shop.write("conftest.py", FAKE + DOUBLES[whose])
    if whose == "pytest.ini":
        shop.write("pytest.ini", "[pytest]\nusefixtures = double\n")
    shop.write(FILE, ASKS)
    done = suite(shop)
    assert done.process.returncode == 1, done.output
    assert shop.check("Own")["message"] == "no answer"


def test_fixtures_that_a_requirement_asks_for(shop: Adopter) -> None:
    """By name, from any conftest.py; those of the suite's own folder are its own, those for every test as well."""
    shop.write("conftest.py", "import pytest\n@pytest.fixture\ndef place(monkeypatch):\n    return 'the root'\n")
    own = (
        "import pytest\n@pytest.fixture\ndef environment(environment):\n"
        "    return {**environment, 'SHOP_DATABASE': 'x'}\n"
        "@pytest.fixture(autouse=True)\ndef always(request):\n    request.node.prepared = True\n"
    )
    shop.write("preflight_suite/conftest.py", own)
    source = NEEDS.replace("details):", "details, place, request):").replace(
        '    assert settings.environment.get("SHOP_DATABASE"), "nor in the settings"\n',
        '    assert (place, request.node.prepared) == ("the root", True)\n    assert "PATH" in environment\n',
    )
    shop.write(FILE, source)
    done = suite(shop)
    assert done.process.returncode == 0, done.output


def test_a_fixture_that_the_suite_imports(shop: Adopter) -> None:
    """What the suite's conftest.py has from another module of the project is the suite's, in both runs."""
    gate = "import pytest\n@pytest.fixture(autouse=True)\ndef gate():\n    pytest.fail('the gate is closed')\n"
    shop.write("pytest.ini", "[pytest]\npythonpath = .\n")
    shop.write("helpers.py", gate)
    shop.write("preflight_suite/conftest.py", "from helpers import gate\n")
    shop.write(FILE, NEEDS)
    assert suite(shop, SHOP_DATABASE="x").process.returncode == 1
    assert "the gate is closed" in shop.check("Own")["message"]


def test_what_init_has_written_beside_tests(adopter: Adopter) -> None:
    """The first requirement asks for the variable that the tests give themselves, by the line for CI as by a check."""
    adopter.write("main.py", f'import os\nSECRET_KEY = os.environ["SECRET_KEY"]\n{SMALL}')
    adopter.write("conftest.py", 'import os\nos.environ["SECRET_KEY"] = "of the tests"\n')
    assert adopter.command("--init").process.returncode == 0
    port = f"--preflight-port={adopter.port}"
    done = adopter.pytest(*LINE, port)
    assert done.process.returncode == 1, done.output
    assert adopter.check("Variable SECRET_KEY")["outcome"] == "failed"
    assert "KeyError: 'SECRET_KEY'" in adopter.check("Application")["message"]


EMPTY = {
    "by default": "",
    "as expected": "empty_parameter_set_mark = xfail\n",
    "when it is collected": "empty_parameter_set_mark = fail_at_collect\n",
}


@pytest.mark.parametrize("how", EMPTY)
def test_a_requirement_of_no_parameters(shop: Adopter, how: str) -> None:
    """One that is asked for each of a list is not asked for an empty list: that is no answer."""
    shop.write("pytest.ini", f"[pytest]\n{EMPTY[how]}")
    source = NEEDS.replace("@pytest", '@pytest.mark.parametrize("url", [])\n@pytest', 1)
    shop.write(FILE, source.replace("(environment, settings, details)", "(url)"))
    assert suite(shop).process.returncode != 0


# Which requirements are asked.

MADE = 'from preflight import ready\ntest_good = ready.folder(".", title="Good")\n'
LOST = {
    "another name": 'database = ready.file("missing.db", title="Lost")\n',
    "no name": 'ready.file("missing.db", title="Lost")\n',
    "a name twice": 'test_db = ready.file("missing.db", title="Lost")\ntest_db = ready.file("shop.py", title="New")\n',
    "a list": 'test_all = [ready.file("missing.db", title="Lost")]\n',
    "a function": 'def made():\n    return ready.file("missing.db", title="Lost")\nmade()\n',
}


@pytest.mark.parametrize("how", LOST)
def test_a_ready_made_requirement_that_pytest_does_not_see(shop: Adopter, how: str) -> None:
    """The line for CI says which one it is, and does not pass."""
    shop.write(FILE, MADE + LOST[how])
    done = suite(shop)
    assert done.process.returncode not in (0, 1), done.output
    assert "a ready-made requirement (assign it to a name of its own" in done.output


def test_a_part_of_ready_made_requirements(shop: Adopter) -> None:
    """Whoever asks for one of them by its id, or by a word, gets that one."""
    shop.write(FILE, MADE + 'test_other = ready.file("missing.db", title="Other")\n')
    for part in ((f"{FILE}::test_good",), ("preflight_suite", "-k", "good")):
        done = shop.pytest(*part, "-p", "no:cacheprovider")
        assert done.process.returncode == 0, done.output
        assert shop.report()["selection"] != "all"


def test_a_ready_made_requirement_in_a_class(shop: Adopter) -> None:
    """It is no method: it does not pass."""
    shop.write(FILE, 'from preflight import ready\nclass TestAll:\n    test_one = ready.folder(".", title="One")\n')
    assert suite(shop).process.returncode != 0


@pytest.mark.parametrize("holds", ["requirements", "nothing"])
def test_a_package_that_is_called_like_the_suite(shop: Adopter, holds: str) -> None:
    """A dependency has brought a package of that name, which Python finds first: the project's own is not lost."""
    other = shop.folder / "modules" / "preflight_suite"
    other.mkdir()
    (other / "__init__.py").touch()
    if holds == "requirements":
        (other / "test_theirs.py").write_text(MADE)
    shop.environ["PYTHONPATH"] += f"{os.pathsep}{other.parent}"
    done = shop.pytest(*LINE, f"--preflight-port={shop.port}")
    assert done.process.returncode not in (0, 1), done.output
    assert "preflight_suite" in done.output


# What ready-made requirements are given.


class Service(BaseHTTPRequestHandler):
    """Answers with JSON that says that it is starting."""

    def do_GET(self) -> None:
        body = b"starting" if self.path == "/text" else json.dumps({"status": "starting", "count": 0}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Tests are silent."""


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with answering(Service) as url:
        yield url


@pytest.mark.parametrize(
    "path, equals", [("/", {"status": "ready", "count": 0}), ("/", "ready"), ("/", None), ("/text", "starting")]
)
def test_an_answer_that_is_compared_as_a_whole(tmp_path: Path, service: str, path: str, equals: Any) -> None:
    """What an answer has to be is compared without a path as well."""
    assert ask(tmp_path, ready.http(service + path, equals=equals, timeout=30)).outcome == "failed"
    whole = {"status": "starting", "count": 0}
    assert ask(tmp_path, ready.http(service, equals=whole, timeout=30)).outcome == "passed"


PATHS: dict[str, tuple[Callable[..., Callable[..., None]], str]] = {
    "a file": (ready.file, "things.db"),
    "a model": (ready.model_file, "things.db"),
    "a database": (ready.sqlite, "things.db"),
    "a database's address": (ready.sqlite, "sqlite:///things.db"),
    "a folder": (ready.folder, "uploads"),
}


@pytest.mark.parametrize("what", PATHS)
def test_a_path_of_the_application(tmp_path: Path, what: str) -> None:
    """A variable's path is looked for where the application runs, and not where another one of that name is."""
    factory, value = PATHS[what]
    below = tmp_path / "service"
    below.mkdir()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "uploads").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "things.db")) as database:
        database.execute("CREATE TABLE things (one)")
        database.commit()

    def asked() -> None:
        test = factory(variable="THINGS", timeout=30)
        settings = loading.load(Project(tmp_path, below), {"HOME": str(tmp_path), "THINGS": value})
        answers = Answers(settings)
        answers.start([getattr(test, making.ATTRIBUTE)])
        test(answers, Details())

    with pytest.raises(pytest.fail.Exception, match="THINGS names is not there"):
        asked()
    for name in ("things.db", "uploads"):
        shutil.move(tmp_path / name, below / name)
    asked()


def test_a_settings_class_of_a_module_that_prints(tmp_path: Path) -> None:
    """Whatever a project prints before and at its end, the class is judged by itself."""
    source = "import atexit\nprint('{}')\natexit.register(print, 'goodbye')\n"
    (tmp_path / "good.py").write_text(f"{source}class Settings: ...\n")
    (tmp_path / "bad.py").write_text(f"{source}class Settings:\n    def __init__(self): raise ValueError('no')\n")
    (tmp_path / "gone.py").write_text(f"{source}import os\nos._exit(0)\n")
    for name, outcome in (("good", "passed"), ("bad", "failed"), ("gone", "failed")):
        test = ready.variable("REGION", settings=f"{name}:Settings", timeout=60)
        assert ask(tmp_path, test, REGION="eu").outcome == outcome, name
