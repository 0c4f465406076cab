"""Requirements that look as if they asked, files that nobody asks, and places where a secret is written past us."""

from __future__ import annotations

import base64
import compileall
import configparser
import csv
import io
import json
import logging
import os
import sys
import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr, TypeAdapter, ValidationError
from sqlalchemy.engine import URL

from preflight import ready
from preflight.redaction import arguments
from preflight.redaction.formatter import Redacting
from preflight.redaction.redactor import Redactor
from preflight.redaction.stream import StreamRedactor
from preflight.text import coloured
from tests.adversary.suites import FILE, check, checked, suite
from tests.e2e.beside import ECHO
from tests.e2e.doubles import KEY, SMALL, TWO_OF_ONE_SOCKET
from tests.e2e.installing import Adopter
from tests.e2e.place import ROOT, Place, Started, get, listening
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("unmeasured")

TWO = "Zq7vXw2LmN8pRt4KdY6h"
GOOD = 'import pytest\n@pytest.mark.critical("Good")\ndef test_good(settings):\n    "It holds."\n'
SKIPS = (
    'import pytest\n@pytest.mark.critical("Skips")\ndef test_skips():\n    "It holds."\n    pytest.skip("not now")\n'
)


def plain(project: Place, *options: str, **environ: str) -> Started:
    command = [sys.executable, "-m", "pytest", "preflight", *options, "--demo", f"--port={project.port}"]
    started = project.spawn(*command, environ={"PREFLIGHT_APP": "small:app", **environ})
    started.wait()
    return started


# Requirements that look as if they asked.

HEAD = """
import asyncio, contextlib, pings, pytest, threading, unittest
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from preflight import unknown

async def ping():
    return False

async def fails():
    assert False, "no"

async def group():
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fails())

async def forgets_a_task():
    task = asyncio.create_task(fails())
    await asyncio.sleep(0.01)

def refuse(value=None):
    assert False, "no"

def exits(value=None):
    raise SystemExit(0)

@pytest.fixture
def set_up():
    exits()

@pytest.fixture
def torn_down():
    yield
    exits()

@pytest.fixture
def later():
    ping()

@pytest.fixture
def lenient():
    with contextlib.suppress(BaseException):
        yield

@pytest.fixture
async def asynchronous():
    return False
"""
PARTS = """with subtests.test():
        unknown("a")
    with subtests.test():
        assert False
    with subtests.test():
        unknown("a")"""
PART_IN_A_THREAD = """def part():
        with subtests.test():
            assert False
    thread = threading.Thread(target=part)
    thread.start()
    thread.join()"""
NOBODY_TAKES = """with {pool}() as pool:
        pool.map({function}, [1, 2])"""
NOBODY_ASKS = """with ThreadPoolExecutor() as pool:
        assert len(wait([pool.submit(refuse, 1)]).done) == 1"""
PINGS = """
class Client:
    async def _ask(self):
        return False

    def ping(self):
        return self._ask()
"""
BODIES = {  # arguments and body
    "nobody awaits it": ("", "assert ping()"),
    "nobody awaits what asserts": ("", "fails()"),
    "nobody awaits it, and warnings are errors": ("", "assert ping()"),
    "nobody awaits it in a fixture": ("later", "assert True"),
    "nobody awaits it behind a name": ("", "found = ping()\n    assert found"),
    "nobody awaits what a client's plain method returns": ("", "assert pings.Client().ping()"),
    "nobody awaits that behind a name": ("", "found = pings.Client().ping()\n    assert found"),
    "an asynchronous fixture": ("asynchronous", "assert asynchronous"),
    "a group of tasks": ("", "asyncio.run(group())"),
    "a task that nobody awaits": ("", "asyncio.run(forgets_a_task())"),
    "results that nobody takes": ("", NOBODY_TAKES.format(pool="ThreadPoolExecutor", function="refuse")),
    "results of processes": ("", NOBODY_TAKES.format(pool="ProcessPoolExecutor", function="refuse")),
    "a result that nobody asks for": ("", NOBODY_ASKS),
    "a group that is no Exception": ("", "raise BaseExceptionGroup('a', [SystemExit(0)])"),
    "the end of a generator": ("", "raise GeneratorExit"),
    "a cancelled task": ("", "raise asyncio.CancelledError"),
    "an exit before it": ("set_up", "assert True"),
    "an exit after it": ("torn_down", "assert True"),
    "an exit in a finalizer": ("request", "request.addfinalizer(exits)"),
    "a fixture that catches all": ("lenient", "assert False"),
    "parts of which one is unknown": ("subtests", PARTS),
    "a part in a thread": ("subtests", PART_IN_A_THREAD),
    "an expected failure of another kind": ("", "raise KeyError"),
}
MARKS = {
    "nobody awaits it, and warnings are errors": "@pytest.mark.filterwarnings('error')",
    "an expected failure of another kind": "@pytest.mark.xfail(raises=KeyError)",
}
CASES = """
class TestSetUp(unittest.TestCase):
    setUpClass = classmethod(lambda cls: cls.skipTest(cls, "not now"))

    @pytest.mark.critical("A class that is not set up")
    def test_it(self):
        "It holds."

class TestParts(unittest.TestCase):
    @pytest.mark.critical("A part of a case")
    def test_it(self):
        "It holds."
        with self.subTest():
            self.fail("no")
"""


def test_requirements_that_only_seem_to_hold(project: Place) -> None:
    """Each blocks, in a check as with plain pytest: none has been asked to its end, and nobody was told so."""
    project.write_module("pings", PINGS)
    source = HEAD
    for number, (title, (names, body)) in enumerate(BODIES.items()):
        marks = f'@pytest.mark.critical("{title}")\n{MARKS.get(title, "")}\n'
        source += f'{marks}def test_{number}({names}):\n    "It holds."\n    {body}\n'
    project.write_suite(source + CASES)
    titles = [*BODIES, "A class that is not set up", "A part of a case"]
    for run in (checked, plain):
        one = run(project)
        assert one.process.returncode == 1, one.output
        outcomes = {title: project.check(title)["outcome"] for title in titles}
        assert [title for title in titles if outcomes[title] not in ("failed", "error", "skipped")] == []
    assert "ping() is not awaited" in project.check("nobody awaits it")["message"]


AWAITED = """
import asyncio, pytest

async def ping():
    return True

@pytest.mark.critical("Awaits")
def test_awaits(settings):
    "It awaits all that it calls, or closes it."
    ping().close()
    later = ping()
    assert asyncio.run(asyncio.wait_for(ping(), 5))
    assert asyncio.run(later)
"""


ASKED_FOR = """
from concurrent.futures import ThreadPoolExecutor, as_completed

def one_of_two(number):
    assert number == 2

async def in_threads():
    loop = asyncio.get_running_loop()
    found = await asyncio.gather(*(loop.run_in_executor(None, one_of_two, n) for n in (1, 2)), return_exceptions=True)
    assert None in found

@pytest.fixture(scope="session")
def begun():
    with ThreadPoolExecutor() as pool:
        return [pool.submit(one_of_two, number) for number in (1, 2)]

@pytest.mark.critical("Asks later")
def test_asks_later(begun):
    "A fixture has begun to ask."
    begun[1].result()

@pytest.mark.critical("Asks")
def test_asks(settings):
    "One of two answers is enough."
    with ThreadPoolExecutor(1) as pool:
        asked = [pool.submit(one_of_two, number) for number in (2, 1)]
        assert any(one.exception() is None for one in asked)
        asked = [pool.submit(one_of_two, number) for number in (1, 2)]
        assert any(one.exception() is None for one in as_completed(asked))
        with pytest.raises(AssertionError):
            list(pool.map(one_of_two, [1]))
        assert list(pool.map(str, [1])) == ["1"]
    asyncio.run(in_threads())
"""


def test_what_is_awaited(project: Place) -> None:
    """Whoever awaits what he calls, closes it, lets a loop run it, or asks how it ended holds."""
    project.write_suite(AWAITED + ASKED_FOR)
    assert checked(project).process.returncode == 0


MADE = """
from preflight.ready import requirement

async def ping():
    return False

async def judges(found, details):
    assert False

async def forgets(ask):
    return ping()

def yields(ask):
    yield False

def nothing(found, details):
    pass

def at(place):
    return requirement(lambda ask: place, lambda found, details: found == "here", title="Returns", doc="It holds.")

test_returns = at("elsewhere")
test_async = requirement(lambda ask: 1, judges, title="Asynchronous", doc="It holds.")
test_forgets = requirement(forgets, nothing, title="Forgets", doc="It holds.")
test_unawaited = requirement(lambda ask: bool(ping()), nothing, title="Unawaited", doc="It holds.")
test_yields = requirement(yields, nothing, title="Yields", doc="It holds.")
"""


def test_judges_that_do_not_judge(shop: Adopter) -> None:
    """Of a requirement that was made: what its judge returns, or nobody runs, is no answer; nor is a probe's."""
    shop.write(FILE, MADE)
    for run in (check, suite):
        assert run(shop).process.returncode == 1
        found = {title: shop.check(title) for title in ("Returns", "Asynchronous", "Forgets", "Unawaited", "Yields")}
        assert {one["outcome"] for one in found.values()} <= {"failed", "error"}, found
    assert found["Returns"]["message"].startswith("it returned False")
    assert "ping() is not awaited" in found["Unawaited"]["message"]


@pytest.mark.parametrize("version", ["v7.2", ">=7", "latest"])
def test_a_version_that_is_none(version: str) -> None:
    """Every server would be newer."""
    with pytest.raises(ValueError, match="numbers with dots"):
        ready.redis("REDIS_URL", at_least=version)


# Files that nobody asks.

LOST = 'from preflight import ready\ntest_lost = ready.file("missing.db", title="Lost")\n'
ELSEWHERE = {
    "another name": ("checks.py", LOST),
    "a hyphen": ("test-database.py", LOST),
    "no name of a test": ("database.py", "import preflight.ready\nhere = preflight.ready.file('missing.db')\n"),
    "a factory of its own": ("clock.py", "from preflight_suite.made import at\ntest_at = at('here')\n"),
    "a folder below": ("database/checks.py", LOST),
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_ready_made_in_a_file_of_another_name(shop: Adopter, where: str) -> None:
    """pytest does not look there: the run says which file it is, and starts nothing."""
    file, source = ELSEWHERE[where]
    shop.write(FILE, GOOD)
    shop.write(f"preflight_suite/{file}", source)
    for one in (check(shop), suite(shop)):
        assert one.process.returncode not in (0, 1), one.output
        assert f"preflight_suite/{file}, whose name is not that of a file of requirements" in one.output


def test_files_that_only_help(shop: Adopter) -> None:
    """Factories that nobody uses yet, and files that a requirement imports, are none that were lost."""
    factory = "from preflight import ready\ndef database():\n    return ready.file('missing.db')\n"
    shop.write("preflight_suite/__init__.py", "")
    shop.write("preflight_suite/unused.py", factory)
    shop.write("preflight_suite/lazily.py", "import threading\nready = threading.Event()\nready.set()\n")
    shop.write("preflight_suite/client.py", "from unittest.mock import Mock\ntest_client = Mock()\n")
    shop.write("preflight_suite/made.py", 'from preflight import ready\ntest_shop = ready.file("shop.py")\n')
    shop.write(FILE, f"from preflight_suite.made import test_shop\n{GOOD}")
    assert check(shop).process.returncode == 0


LEFT = {"nothing but a package": "__init__.py", "a conftest.py": "conftest.py", "compiled files": "test_own.py"}


@pytest.mark.parametrize("what", LEFT)
def test_a_suite_that_has_not_come_along(shop: Adopter, what: str) -> None:
    """A .dockerignore has kept its files back, or their sources: a server does not start on those of everybody."""
    left = shop.write(f"preflight_suite/{LEFT[what]}", GOOD if what == "compiled files" else "")
    if what == "compiled files":
        compileall.compile_file(str(left), legacy=True, quiet=1)
        left.unlink()
    one = check(shop)
    assert one.process.returncode == 3, one.output
    assert "preflight_suite, which has no requirement in a file test_*.py" in one.output
    one = suite(shop, "--pyargs", "preflight.requirements", "preflight_suite", "-m", "critical")
    assert one.process.returncode not in (0, 1), one.output


@pytest.mark.parametrize("part", ["", "/test_own.py", "/test_own.py::test_skips"])
@pytest.mark.parametrize("around", ["a project", "nothing"])
def test_a_suite_of_another_folder(shop: Adopter, around: str, part: str) -> None:
    """From the root of a repository pytest would ask it like any tests, and a skipped one would be fine."""
    service = "services/shop"
    shop.write(f"{service}/pyproject.toml", '[tool.preflight]\napp = "shop:app"\n')
    shop.write(f"{service}/{FILE}", SKIPS)
    if around == "nothing":
        (shop.root / "pyproject.toml").unlink()
    one = suite(shop, f"{service}/preflight_suite{part}", "-m", "critical")
    assert one.process.returncode not in (0, 5), one.output
    assert f"belongs to the suite of {shop.root / service}: start pytest in that folder" in one.output
    one = suite(shop, f"preflight_suite{part}", cwd=shop.root / service)
    assert one.process.returncode == 1, one.output


ODD = (
    "\ufeffexport REGION=eu-west-1\r\n"
    "DOLLARS='a$b${HOME}$$'\r\n"
    'LINES="one\ntwo # three"\r\n'
    "  SPACED = x y  # what it is\r\n"
    "TWICE=1\r\nTWICE=2\r\n"
    "EMPTY=\r\n"
    "PERCENT=p%40ss%%\r\n"
)
SEES = """
import json, pytest

@pytest.mark.critical("Sees")
def test_sees(environment):
    "It sees what the application will."
    with open("seen.json", "w") as file:
        json.dump(dict(environment), file)
    assert environment["TWICE"] == "2"
"""


def test_the_environment_of_both(shop: Adopter) -> None:
    """Whatever an env file is written like, a requirement judges by what the application is given."""
    shop.write("shop.py", f"import json, os\njson.dump(dict(os.environ), open('had.json', 'w'))\n{SMALL}")
    (shop.root / ".env").write_bytes(ODD.encode())
    (shop.root / ".env").chmod(0o600)
    shop.write(FILE, SEES)
    assert check(shop).process.returncode == 0
    had, seen = (json.loads((shop.root / file).read_text()) for file in ("had.json", "seen.json"))
    names = ("REGION", "DOLLARS", "LINES", "SPACED", "TWICE", "EMPTY", "PERCENT")
    assert [seen.get(name) for name in names] == [had.get(name) for name in names]
    assert seen["DOLLARS"] == "a$b${HOME}$$"
    assert seen["REGION"] == "eu-west-1"


# Under a server of one's own.

NEEDS = """
import pytest

@pytest.mark.critical("Own")
def test_own(environment):
    "The shop knows its database."
    assert environment.get("SHOP_DATABASE"), "SHOP_DATABASE is not set"
"""
OWN_LOGS = """
import logging.config, os
from echo import app as plain
from preflight import guard

STREAM = {"class": "logging.StreamHandler"}
logging.config.dictConfig({
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"own": {"format": "own %(message)s"}},
    "handlers": {
        "own": {**STREAM, "formatter": "own"},
        "bare": STREAM,
        "kept": {"class": "logging.handlers.MemoryHandler", "capacity": 1, "target": "own"},
    },
    "loggers": {
        name: {"handlers": [handler], "propagate": False}
        for name, handler in (("shop", "own"), ("shop.db", "bare"), ("shop.late", "kept"))
    },
})

async def shop(scope, receive, send):
    if scope["type"] == "http":
        key = os.environ["MY_API_KEY"]
        logging.getLogger("shop").warning("uses %s", key)
        logging.getLogger("shop.late").warning("keeps %s", key)
        try:
            raise ValueError(key)
        except ValueError as error:
            error.add_note(f"with {key}")
            logging.getLogger("shop.db").exception("is refused")
        if scope["path"] == "/fails":
            raise RuntimeError(f"fails with {key}")
    await plain(scope, receive, send)

app = guard(shop)
"""


def guarded(tmp_path: Path, source: str) -> Path:
    root = tmp_path / "shop"
    (root / "preflight_suite").mkdir(parents=True)
    (root / "pyproject.toml").write_text("[tool.preflight]\n")
    (root / "preflight_suite" / "test_own.py").write_text(NEEDS)
    (root / "echo.py").write_text(ECHO)
    (root / "shop.py").write_text(source)
    return root


def spawn(place: Place, root: Path, *command: str) -> Started:
    environ = {"PYTHONPATH": f"{ROOT}{os.pathsep}{root}", "SHOP_DATABASE": "x", "MY_API_KEY": KEY}
    return place.spawn(sys.executable, *command, cwd=root, environ=environ)


def test_processes_with_another_environment(place: Place, tmp_path: Path) -> None:
    """New processes with other variables, as gunicorn starts them after a SIGHUP, are asked about those."""
    root = guarded(tmp_path, "from echo import app as plain\nfrom preflight import guard\napp = guard(plain)\n")
    (root / "parent.py").write_text(TWO_OF_ONE_SOCKET)
    started = spawn(place, root, "parent.py", str(place.port)).until_says("Application startup complete")
    (root / "changed").touch()
    until(
        lambda: started.output.count("startup complete") > 1 or "has ended" in started.output, "the second one decides"
    )
    assert "the preflight blocks the start: Own" in started.output


@pytest.mark.parametrize("server", [("uvicorn", "--port={}"), ("hypercorn", "--bind=127.0.0.1:{}")], ids=lambda s: s[0])
def test_loggers_with_handlers_of_their_own(place: Place, tmp_path: Path, server: tuple[str, str]) -> None:
    """What an application and its server log is redacted, whichever of their loggers has the handler."""
    root = guarded(tmp_path, OWN_LOGS)
    started = spawn(place, root, "-m", server[0], "shop:app", server[1].format(place.port))
    until(lambda: listening(place.port) or started.process.poll() is not None, "it listens")
    started.until_says("unning on")
    assert get(f"{place.url}/x")[0] == 200
    assert get(f"{place.url}/fails")[0] == 500
    started.insist()
    for said in ("own uses", "own keeps", "is refused", "with [", "RuntimeError: fails with ["):
        assert said in started.output
    assert TWO not in started.output


def test_a_handler_that_shows_more_than_its_message() -> None:
    """One that formats the message alone, as rich's does with tracebacks of its own, is given it redacted."""
    for value in ({"message": KEY, "parts": [KEY, 1]}, KEY.encode()):
        inner = logging.Formatter()
        inner.format = lambda _record, value=value: value  # type: ignore[method-assign, misc]
        made = Redacting(inner, Redactor([KEY])).format(logging.makeLogRecord({}))
        assert (type(made), KEY in str(made)) == (type(value), False)
    formatter = Redacting(logging.Formatter("%(levelname)s %(message)s"), Redactor([KEY]))
    record = logging.LogRecord("x", logging.INFO, "f", 1, "uses %s", (KEY,), None)
    record.message = record.getMessage()
    assert formatter.formatMessage(record) == "INFO uses [redacted]"


# What plain pytest shows itself.

SHOWS = 'import os, pytest\nKEY = os.environ["MY_API_KEY"]\n'
HOLDS = '@pytest.mark.critical("Holds")\ndef test_holds():\n    "It holds."\n'
RAISED = {  # a file of requirements, and the conftest.py beside it
    "an import": (f"{SHOWS}def connect(key):\n    raise RuntimeError('bad ' + key)\nconnect(KEY)\n", ""),
    "a group": (f"{SHOWS}raise ExceptionGroup('bad ' + KEY, [ValueError(KEY)])\n", ""),
    "a note": (f"{SHOWS}error = ValueError('bad')\nerror.add_note(KEY)\nraise error\n", ""),
    "a file that is left out": (f"{SHOWS}pytest.skip('no ' + KEY, allow_module_level=True)\n", ""),
    "a line that is none": (f"{SHOWS}{HOLDS}x = '{KEY}' '\n", ""),
    "a conftest.py": (SHOWS + HOLDS, f"{SHOWS}raise RuntimeError('bad ' + KEY)\n"),
    "a hook": (SHOWS + HOLDS, f"{SHOWS}def pytest_collection_finish():\n    raise RuntimeError('bad ' + KEY)\n"),
    "a summary": (
        SHOWS + HOLDS,
        f"{SHOWS}def pytest_terminal_summary(terminalreporter):\n    terminalreporter.write_line('uses ' + KEY)\n",
    ),
    "an end of the run": (f"{SHOWS}{HOLDS}    pytest.exit('no ' + KEY, 1)\n", ""),
    "an interruption": (f"{SHOWS}{HOLDS}    raise KeyboardInterrupt(KEY)\n", ""),
}


@pytest.mark.parametrize("what", RAISED)
def test_what_pytest_shows_of_an_error(project: Place, what: str) -> None:
    """Neither the terminal of a job nor the file that it keeps has the key, with locals and all."""
    source, conftest = RAISED[what]
    project.write_suite(source)
    if conftest:
        (project.root / "preflight" / "requirements" / "conftest.py").write_text(conftest)
    kept = project.folder / "kept.xml"
    options = ("-rA", "-vv", "--showlocals", "--setup-show", "--color=yes", f"--junitxml={kept}")
    one = plain(project, *options, MY_API_KEY=KEY)
    assert what == "a summary" or one.process.returncode != 0
    assert "[redacted]" in one.output
    for text in (one.output, kept.read_text()):
        assert not any(KEY[start : start + 9] in text for start in range(len(KEY) - 8))


# Secrets in further clothes.

ODDEST = "P@s'w\"0rd%x$y}z{q&<T>h/Qw8e:#k+m=2\\r;s"


def _refused(secret: str) -> str:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(int).validate_python(secret)
    return f"{caught.value}\n{caught.value.errors()}"


def _traced(secret: str) -> str:
    held = {"password": [secret, SecretStr(secret).get_secret_value()]}
    try:
        raise ValueError(secret, held)
    except ValueError as error:
        error.add_note(f"of {secret}")
        whole = ExceptionGroup(f"with {secret}", [error])
    return "".join(traceback.TracebackException.from_exception(whole, capture_locals=True).format())


def _as_csv(secret: str) -> str:
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow([secret, 1])
    return file.getvalue()


def _kept(secret: str) -> str:
    parser, file = configparser.ConfigParser(), io.StringIO()
    parser.read_dict({"alembic": {"sqlalchemy.url": "x"}})
    parser.set("alembic", "sqlalchemy.url", secret.replace("%", "%%"))
    parser.write(file)
    return file.getvalue()


ADDRESS = URL.create("postgresql+psycopg", "me", ODDEST, "db.internal", 5432, "shop")
CLOTHES = {
    "in SQL": "ALTER ROLE me PASSWORD '" + ODDEST.replace("'", "''") + "'",
    "in a table": _as_csv(ODDEST),
    "in alembic.ini": _kept(ODDEST),
    "in a compose file": f"DB_PASSWORD: {ODDEST.replace('$', '$$')}",
    "for ODBC": "Driver=x;Pwd={" + ODDEST.replace("}", "}}") + "};",
    "in a template of Python": ODDEST.replace("{", "{{").replace("}", "}}"),
    "an address of SQLAlchemy": f"{ADDRESS.render_as_string(hide_password=False)} {ADDRESS.translate_connect_args()}",
    "an address in alembic.ini": ADDRESS.render_as_string(hide_password=False).replace("%", "%%"),
    "what pydantic refuses": _refused(ODDEST),
    "a traceback with locals": _traced(ODDEST),
    "a log of bytes": repr({"headers": [(b"authorization", b"Bearer " + ODDEST.encode())]}),
    "a login": "Basic " + base64.b64encode(f"someone:{ODDEST}".encode()).decode(),
    "digits in capitals": ODDEST.encode().hex(":").upper(),
}


@pytest.mark.parametrize("how", CLOTHES)
def test_secrets_in_further_clothes(how: str) -> None:
    """As other programs write them: with signs doubled, in addresses, models and tracebacks."""
    redactor = Redactor.of_variables({"DB_PASSWORD": ODDEST})
    stream = StreamRedactor(redactor)
    lines = CLOTHES[how].split("\n")
    for shown in (redactor.text(CLOTHES[how]), coloured("\n".join(stream.next(line, 10_000) for line in lines))):
        assert "[redacted]" in shown
        for rest in ('w"0rd', "w0rd", "}z{", "Qw8e", "k+m=2", b"Qw8e".hex(":").upper()):
            assert rest not in shown, shown


@pytest.mark.parametrize(
    "command, hidden",
    [
        (["vllm", "serve", "m", "--api-key", TWO, TWO[::-1], "--port", "8002"], TWO[::-1]),
        (["sglang", "--api-key", TWO, f"{TWO[::-1]}=="], TWO[::-1]),
        (["deno", "run", "s.ts", "--bearer", "hunter2pw"], "hunter2pw"),
        (["sh", "-c", f"exec serve --tokens {TWO} {TWO[::-1]} --port 1"], TWO[::-1]),
    ],
)
def test_options_that_take_several_secrets(command: list[str], hidden: str) -> None:
    """The second key is one like the first."""
    assert hidden not in arguments.shown(command)


def test_what_stands_behind_a_secret() -> None:
    """Words, paths, ports and hosts behind an option's value stay."""
    command = ["x", "--token", TWO, "serve", "app.main:app", "/srv/app", "8002", "db-1.example.org", "run-2024-07"]
    assert arguments.shown(command) == " ".join([*command[:2], "[redacted]", *command[3:]])
