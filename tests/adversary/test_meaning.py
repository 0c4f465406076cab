"""Nothing passes unasked, and nothing honest is refused: files, caches, plugins, starts, imports that listen."""

from __future__ import annotations

import os
import py_compile
import shutil
import sys
import threading
from collections.abc import Iterator
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from tests.e2e.doubles import SMALL
from tests.e2e.place import READY, Place, Started, get, listening, make_place
from tests.portnumbers import unused_port

pytestmark = pytest.mark.usefixtures("unmeasured")

HOLDS = '''
import pytest

@pytest.mark.critical("Holds")
def test_holds(settings):
    """One is one."""
    assert settings.port != 1, "it is"
'''
HOLDS_NOT = HOLDS.replace("Holds", "Holds not").replace("test_holds", "test_holds_not").replace("!=", "==")
OTHER = '''
@pytest.mark.critical("Other")
def test_other():
    """It fails."""
    assert False, "no"
'''


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, compiled_tree: Path) -> Iterator[dict[str, Place]]:
    """Copies of the tree: one whose suite holds, and one whose does not. Tests here leave them as they are."""
    made = {}
    for name, source in (("true", HOLDS), ("false", HOLDS_NOT)):
        folder = tmp_path_factory.mktemp(name)
        shutil.copytree(compiled_tree, folder / "project")
        made[name] = make_place(folder / "place", folder / "project")
        made[name].write_suite(source)
        (made[name].root / "small.py").write_text(SMALL)  # where python -I finds it
    yield made
    for place in made.values():
        place.close()


def check(
    place: Place, *python: str, run: str = "run.py", cwd: Path | None = None, environ: dict[str, str] | None = None
) -> Started:
    """``run.py --check-only``, to its end."""
    command = [sys.executable, *python, run, "--check-only", "--demo", "--app=small:app", f"--port={place.port}"]
    started = place.spawn(*command, environ=environ, cwd=cwd)
    started.wait(60)
    return started


def plain(
    place: Place, *python: str, suite: str = "preflight", cwd: Path | None = None, environ: dict[str, str] | None = None
) -> Started:
    """Plain pytest on the suite, to its end."""
    command = [sys.executable, *python, "-m", "pytest", suite, "--demo", f"--port={place.port}"]
    started = place.spawn(*command, environ={"PREFLIGHT_APP": "small:app", **(environ or {})}, cwd=cwd)
    started.wait(60)
    return started


def suite_file(place: Place) -> Path:
    return place.root / "preflight" / "requirements" / "test_suite.py"


def add_to_ini(place: Place, line: str) -> None:
    with (place.root / "pytest.ini").open("a") as ini:
        ini.write(f"{line}\n")


def broken(started: Started, said: str) -> None:
    """It broke, and says why."""
    assert started.process.returncode in (3, 4), started.output
    assert said in " ".join(started.output.split()), started.output


# Requirements that get lost.

MARKED = OTHER.replace("@", '@pytest.mark.usefixtures("settings")\n@', 1)
LOST = {
    "deleted": (MARKED + "del test_other\n", "test_suite.py::test_other: not collected"),
    "twice the name": (
        MARKED + MARKED.replace("False", "True"),
        "test_suite.py::test_other, replaced by another test of the same name",
    ),
    "no test any more": (MARKED + "test_other.__test__ = False\n", "test_suite.py::test_other: not collected"),
}


@pytest.mark.parametrize("how", LOST)
def test_one_that_uses_fixtures_is_no_fixture(project: Place, how: str) -> None:
    """A requirement marked with ``usefixtures`` is missed like any other when it is not asked."""
    source, said = LOST[how]
    project.write_suite(HOLDS + source)
    broken(check(project), said)


def test_fixtures_are_no_requirements(project: Place) -> None:
    """A fixture whose name begins like a test's is not missed, however it is written."""
    fixtures = (
        "from pytest import fixture\n@fixture\ndef test_bed():\n    return 1\n"
        "@pytest.fixture(scope='module')\ndef test_data():\n    return 1\n"
    )
    project.write_suite(HOLDS + fixtures)
    assert check(project).process.returncode == 0


def test_requirements_from_another_file(project: Place) -> None:
    """A requirement that a file has imported is missed when pytest is told not to ask imported ones."""
    project.write_suite(HOLDS)
    (project.root / "preflight" / "shared.py").write_text(f"import pytest\n{OTHER}")
    project.write_requirement("brought", "from preflight.shared import test_other\n")
    started = check(project)
    assert started.process.returncode == 1
    assert project.check("Other")["outcome"] == "failed"
    add_to_ini(project, "collect_imported_tests = false")
    broken(check(project), "test_brought.py::test_other: not collected")
    assert plain(project).process.returncode == 4
    assert project.report()["status"] == "broken"


TAKES_OUT = {
    "while they are collected": (
        "def pytest_collection_modifyitems(items):\n    items[:] = [one for one in items if 'not' not in one.name]\n"
    ),
    "outside of everybody": (
        "import pytest\n@pytest.hookimpl(wrapper=True, tryfirst=True)\ndef pytest_collection_modifyitems(items):\n"
        "    yield\n    items[:] = [one for one in items if 'not' not in one.name]\n"
    ),
}


@pytest.mark.parametrize("how", TAKES_OUT)
def test_taken_out_without_a_word(project: Place, how: str) -> None:
    """A hook that drops a requirement and tells nobody breaks the run, and nothing is stopped for it."""
    project.write_suite(HOLDS + HOLDS_NOT)
    (suite_file(project).parent / "conftest.py").write_text(TAKES_OUT[how])
    for started in (check(project), plain(project)):
        broken(started, "test_suite.py::test_holds_not was removed after pytest had collected it")
        assert project.report()["status"] == "broken"


@pytest.mark.parametrize("mark", ["skip", "xfail"])
def test_no_parameters(project: Place, mark: str) -> None:
    """A requirement whose list of parameters is empty has not been asked, and blocks."""
    project.write_suite(HOLDS + OTHER.replace("test_other()", "test_other(n)").replace("def", PARAMETERS + "def"))
    add_to_ini(project, f"empty_parameter_set_mark = {mark}")
    for started in (check(project), plain(project)):
        assert started.process.returncode == 1, started.output
        assert project.check("Other")["outcome"] == "skipped"


PARAMETERS = '@pytest.mark.parametrize("n", [])\n'


def test_the_first_failure_ends_the_run(project: Place) -> None:
    """``-x`` and a warning that fails first: what is critical was not asked, and nothing starts."""
    project.write_suite("import pytest\n" + OTHER.replace("critical", "warning") + HOLDS)
    ini = project.root / "pytest.ini"
    ini.write_text(ini.read_text().replace("addopts = ", "addopts = -x "))
    broken(check(project), "2 requirements were collected and 1 ran")
    assert plain(project).process.returncode != 0
    assert project.report()["status"] == "broken"


# Requirements in other forms.

PARTS = {
    "subtests": (
        "def test_parts(subtests):\n    'All hold.'\n"
        "    for n in (1, 2):\n        with subtests.test(n=n):\n            assert n == 1, 'two'\n"
    ),
    "unittest": (
        "def test_parts(self):\n        'All hold.'\n        for n in (1, 2):\n"
        "            with self.subTest(n=n):\n                self.assertEqual(n, 1, 'two')\n"
    ),
}


@pytest.mark.parametrize("how", PARTS)
def test_a_part_of_a_requirement_fails(project: Place, how: str) -> None:
    """One that judges in parts, and goes on after one of them has failed, has failed."""
    mark = '@pytest.mark.critical("Parts")\n'
    if how == "unittest":
        mark = f"import unittest\nclass TestAll(unittest.TestCase):\n    {mark}    "
    project.write_suite(HOLDS + mark + PARTS[how])
    for started in (check(project), plain(project)):
        assert started.process.returncode == 1, started.output
        assert project.check("Parts")["outcome"] == "failed"


DECORATED = '''
import os
from unittest import mock
import functools

def retried(function):
    @functools.wraps(function)
    def call(*arguments, **options):
        for _ in range(3):
            try:
                return function(*arguments, **options)
            except AssertionError as error:
                last = error
        raise last
    return call

TRIES = []

@pytest.mark.critical("Second try")
@mock.patch.dict(os.environ, {"SEEN": "1"})
@retried
def test_second_try(settings):
    """It holds at last."""
    TRIES.append(os.environ["SEEN"])
    assert len(TRIES) == 2, "not yet"
'''


def test_decorated(project: Place) -> None:
    """Decorators that call the body again, or change what is around it, are the author's own."""
    project.write_suite(HOLDS + DECORATED)
    assert check(project).process.returncode == 0
    assert plain(project).process.returncode == 0
    suite_file(project).write_text(HOLDS + DECORATED.replace("== 2", "== 9"))
    assert check(project).process.returncode == 1
    assert project.check("Second try")["message"] == "not yet"


FORKS = '''
import os

@pytest.mark.critical("Forks")
def test_forks(settings):
    """It holds here and not there."""
    if os.fork() == 0:
        return
    assert settings.port == 1, "it is not"
'''
WAITS = """
import os
SELF = os.getpid()

def pytest_unconfigure():
    if os.getpid() == SELF:
        os.waitid(os.P_ALL, 0, os.WEXITED)  # whatever the other one does comes before our end
"""


def test_a_forked_copy_of_the_run(project: Place) -> None:
    """A requirement that forks and forgets to end its copy: what the copy finds out is nobody's report."""
    project.write_suite(HOLDS + FORKS + OTHER)
    (suite_file(project).parent / "conftest.py").write_text(WAITS)
    for started in (check(project), plain(project)):
        assert started.process.returncode == 1, started.output
        assert project.check("Forks")["outcome"] == "failed"
        assert started.stdout.count("critical failed: Other") in (0, 1), started.output


# Compiled files.

STALE = {
    "a constant": ("LIMIT = 1      #\n", "LIMIT = 999999 #\n", "settings.port > LIMIT"),
    "a default": ("def least(n=1): return n\n", "def least(n=9): return n\n", "least() == 1"),
    "a table": ("FOUND = {'a': True } \n", "FOUND = {'a': False} \n", "FOUND['a']"),
}
JUDGES = '''
import pytest
{line}
@pytest.mark.{severity}("{title}")
def test_judges(settings):
    """It judges."""
    assert {condition}, "no"
'''


def write_settled(place: Place, source: str) -> None:
    """A suite that was written long ago: of a file that has just changed no compiled form is kept."""
    place.write_suite(source)
    os.utime(suite_file(place), (1_000_000_000, 1_000_000_000))


def rewrite_unseen(file: Path, source: str) -> None:
    """Another text of the same length, and at the same time as far as Python can tell."""
    status = file.stat()
    assert len(source) == status.st_size
    file.write_text(source)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("what", STALE)
def test_stale_outside_of_functions(project: Place, what: str) -> None:
    """A compiled file of an earlier text is found out, although the requirement's own body has not changed."""
    before, after, condition = STALE[what]
    ask = {"severity": "critical", "title": "Judges", "condition": condition}
    write_settled(project, JUDGES.format(line=before, **ask))
    assert check(project).process.returncode == 0
    rewrite_unseen(suite_file(project), JUDGES.format(line=after, **ask))
    broken(check(project), "test_suite.py: its compiled code does not match its source: remove ")
    assert what != "a table" or plain(project).process.returncode != 0


def test_a_stale_severity(project: Place) -> None:
    """What was a warning when it was compiled is critical as soon as its file says so."""
    judges = JUDGES.format(line="", severity="{}", title="Judges{}", condition="False")
    write_settled(project, HOLDS + judges.format("warning", "."))
    assert check(project).process.returncode == 0
    rewrite_unseen(suite_file(project), HOLDS + judges.format("critical", ""))
    assert check(project).process.returncode in (1, 3)
    assert plain(project).process.returncode != 0


HIDDEN = {
    "a property": "class Checks:\n    @property\n    def port(self):\n        assert False, 'no'\n",
    "a class in a class": (
        "class Checks:\n    class Inner:\n        def __init__(self):\n            assert False, 'no'\n"
        "    @property\n    def port(self):\n        self.Inner()\n"
    ),
    "the module itself": "TRUE = 1 == 1\nassert not TRUE, 'no'\nclass Checks:\n    port = 1\n",
}


@pytest.mark.parametrize("where", HIDDEN)
def test_helpers_without_assertions(project: Place, where: str) -> None:
    """A helper whose compiled form has no assertions is found out, wherever in it they stand."""
    ask = "from preflight.requirements import helping\n"
    project.write_suite(ask + HOLDS.replace("assert", "helping.Checks().port\n    assert"))
    helper = suite_file(project).parent / "helping.py"
    helper.write_text(HIDDEN[where])
    py_compile.compile(str(helper), cfile=cache_from_source(str(helper)), doraise=True, optimize=1)
    started = check(project) if where == "the module itself" else plain(project)
    broken(started, "preflight/requirements/helping.py: its compiled code does not match its source: remove ")


# Honest setups.

SETUPS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "cProfile": (("-m", "cProfile", "-o", os.devnull), {}),
    "coverage": (("-m", "coverage", "run", "--data-file=coverage.data"), {}),
    "all warnings are errors": (("-W", "error", "-bb", "-X", "warn_default_encoding", "-X", "dev"), {}),
    "caches elsewhere": (("-B", "-I"), {"PYTHONPYCACHEPREFIX": "caches"}),
    "caches nowhere": ((), {"PYTHONPYCACHEPREFIX": "/proc/nowhere"}),
    "a debugger": (("-m", "pdb", "-c", "continue", "-c", "quit", "--"), {}),
}


EXITS_ANYHOW = ("cProfile", "a debugger")
"""What ends with exit code 0, whatever the program that it runs wants to end with."""


@pytest.mark.parametrize("how", SETUPS)
def test_honest_setups(places: dict[str, Place], how: str) -> None:
    """Profilers, coverage, strict warnings and caches in other places change no outcome of a check."""
    python, environ = SETUPS[how]
    bad = check(places["false"], *python, environ=environ)
    assert "Holds not\n   it is" in bad.stdout, bad.output
    assert how in EXITS_ANYHOW or bad.process.returncode == 1
    assert how in EXITS_ANYHOW or "Traceback" not in bad.output
    if how in ("coverage", "all warnings are errors", "caches elsewhere"):  # what could be in a good one's way
        good = check(places["true"], *python, environ=environ)
        assert "1 requirement: 1 passed" in good.stdout, good.output
        assert good.process.returncode == 0
        assert "Traceback" not in good.output


@pytest.mark.parametrize("how", ["coverage", "caches elsewhere"])
def test_honest_setups_of_plain_pytest(places: dict[str, Place], how: str) -> None:
    """The same of plain pytest."""
    python, environ = SETUPS[how]
    for name, status in (("true", "passed"), ("false", "failed")):
        places[name].plant_report()
        started = plain(places[name], *python, environ=environ)
        assert f"{status}; report: " in started.stdout, started.output
        assert places[name].report()["status"] == status
        assert how in EXITS_ANYHOW or started.process.returncode == (status == "failed")


def test_ways_to_name_the_command(places: dict[str, Place]) -> None:
    """As a module, through a symbolic link to the file or to its folder, and from its standard input."""
    place = places["false"]
    link = place.folder / "current"
    link.symlink_to(place.root)
    file = place.folder / "start"
    file.symlink_to(link / "run.py")
    for started in (
        check(place, run="-mrun"),
        check(place, "-P", run=str(link / "run.py"), cwd=place.folder),
        check(place, "-P", run=str(file), cwd=place.folder),
    ):
        assert started.process.returncode == 1, started.output
        assert "Holds not\n   it is" in started.stdout


def test_a_checkout_behind_a_symbolic_link(places: dict[str, Place]) -> None:
    """Plain pytest asks the suite where its path leads through a link, as with releases and their "current"."""
    place = places["false"]
    link = place.folder / "release"
    link.symlink_to(place.root)
    for suite, cwd in (
        (str(link / "preflight"), place.folder),
        (str(link / "preflight" / "requirements" / "test_suite.py"), place.folder),
        (".", suite_file(place).parent),
    ):
        place.plant_report()
        started = plain(place, suite=suite, cwd=cwd)
        assert started.process.returncode == 1, started.output
        assert place.report()["run_id"] != "old"
        assert place.report()["selection"] == "all"
        assert place.check("Holds not")["outcome"] == "failed"


@pytest.mark.needs_root("makes a folder read-only by mounting it so")
def test_a_checkout_that_cannot_be_written(places: dict[str, Place]) -> None:
    """A read-only checkout with compiled files of its own: nothing has to be written there."""
    for name, code in (("true", 0), ("false", 1)):  # either outcome could come of what cannot be written
        place = places[name]
        mount = f"mount --bind {place.root} {place.root} && mount -o remount,ro,bind {place.root} && cd {place.root}"
        run = f"exec {sys.executable} run.py --check-only --demo --app small:app --port {place.port}"
        started = place.spawn("unshare", "-m", "sh", "-c", f"{mount} && ! touch it 2>/dev/null && {run}")
        assert started.wait() == code, started.output


def test_a_linked_requirement(project: Place) -> None:
    """A file of requirements can be a symbolic link to one that other projects share."""
    project.write_suite(HOLDS)
    shared = project.folder / "shared.py"
    shared.write_text(f"import pytest\n{OTHER}")
    (suite_file(project).parent / "test_shared.py").symlink_to(shared)
    for started in (check(project), plain(project)):
        assert started.process.returncode == 1, started.output
        assert project.check("Other")["outcome"] == "failed"
        assert project.report()["selection"] == "all"


def test_copies_that_an_editor_keeps(project: Place) -> None:
    """Copies in a hidden folder, where pytest looks for nothing, are not missed."""
    project.write_suite(HOLDS)
    copies = suite_file(project).parent / ".ipynb_checkpoints"
    copies.mkdir()
    (copies / "test_suite-checkpoint.py").write_text(HOLDS + OTHER)
    assert check(project).process.returncode == 0
    assert plain(project).process.returncode == 0
    assert project.report()["selection"] == "all"


def test_plugins_that_the_project_requires(project: Place) -> None:
    """A plugin that pytest.ini requires, and that the settings name, is there with its option and its marker."""
    marked = HOLDS.replace("def test", "@pytest.mark.timeout(20)\ndef test")
    project.write_suite(marked)
    add_to_ini(project, "required_plugins = pytest-timeout")
    add_to_ini(project, "timeout = 60")
    started = check(project, environ={"PREFLIGHT_PLUGINS": "pytest_timeout"})
    assert started.process.returncode == 0, started.output
    assert plain(project).process.returncode == 0


def test_an_env_file_for_the_application(place: Place) -> None:
    """Whatever the env file tells Python for the application, it is served, and the suite is not changed by it."""
    place.environ |= {"PREFLIGHT_PYTHON": ">=3.11", "PREFLIGHT_IGNORE": "OpenAI API Key"}
    place.write_env_file(
        PYTHONOPTIMIZE="2",
        PYTHONWARNINGS="error",
        PYTHONDEVMODE="1",
        PYTHONASYNCIODEBUG="1",
        PYTHONINTMAXSTRDIGITS="640",
        PYTEST_ADDOPTS="--collect-only",
        PYTEST_PLUGINS="nowhere",
    )
    place.write_module(
        "told", "import sys\nassert False, 'not executed'\nprint('optimized', sys.flags.optimize)\n" + SMALL
    )
    started = place.start("--offline", "--app", "told:app").until_ready()
    assert get(f"{place.url}/") == (200, "small")
    assert started.stop() == 0
    assert "optimized 2" in started.output
    assert place.check("State Folder")["outcome"] == "passed"


# What listens while it is imported.

HEAD = (
    "import asyncio, os, socket, sys, threading, time\n"
    "HOST, PORT = '127.0.0.1', int(os.environ['GUARDED'])\nPATH = os.environ['HOME'] + '/it.sock'\n"
    # A socket's address has room for about 100 bytes.
    "PATH = min(PATH, os.path.relpath(PATH), key=len)\n"
    + SMALL.replace("async def app", "async def small").replace("return app", "return small")
)
LISTENS = "socket.create_server((HOST, PORT))  # here\n"
WAYS = {
    "natively, in a loop of uvloop's own": (
        "import uvloop.loop\nasync def listen():\n"
        "    await asyncio.get_running_loop().create_server(asyncio.Protocol, HOST, OTHER)\n"
        "    await asyncio.sleep(60)\n"
        "uvloop.loop.Loop().run_until_complete(listen())  # here\n"
    ),
    "a class of its own": (
        "class Own(socket.socket):\n    def listen(self, *backlog):\n        super().listen(*backlog)  # here\n"
        "sock = Own()\nsock.bind((HOST, OTHER))\nsock.listen()\n"
    ),
    "bound nowhere": "sock = socket.socket()\nsock.listen()  # here\n",
    "a copy of a descriptor": (
        "sock = socket.socket()\nsock.bind((HOST, OTHER))\n"
        "socket.fromfd(sock.fileno(), socket.AF_INET, socket.SOCK_STREAM).listen()  # here\n"
    ),
    "with TLS": (
        "import ssl\ncontext = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n"
        "sock = context.wrap_socket(socket.socket(), server_side=True)\nsock.bind((HOST, OTHER))\n"
        "sock.listen()  # here\n"
    ),
    "multiprocessing, in a file of everybody's": (
        "import multiprocessing.connection\nlistener = multiprocessing.connection.Listener(PATH)  # here\n"
    ),
    "metrics": "import prometheus_client\nprometheus_client.start_http_server(OTHER)  # here\n",
    "in a pool of threads, unseen": (
        "import concurrent.futures\nwith concurrent.futures.ThreadPoolExecutor() as pool:\n"
        "    pool.submit(lambda: socket.create_server((HOST, PORT)))  # here\n"
    ),
    "in a finalizer, whose errors nobody hears": f"class Gone:\n    def __del__(self):\n        {LISTENS}Gone()\n",
    "when it is asked for": (
        f"def __getattr__(name):\n    if name == 'app':\n        {LISTENS}    raise AttributeError(name)\n"
    ),
    "when it is asked for, and caught": (
        f"def __getattr__(name):\n    if name != 'app':\n        raise AttributeError(name)\n"
        f"    try:\n        {LISTENS}    except Exception:\n        return small\n"
    ),
    "when it is looked at": (
        f"class App:\n    async def __call__(self, scope, receive, send): ...\n    @property\n    def routes(self):\n"
        f"        {LISTENS}app = App()\n"
    ),
    "and ends as if all were well": f"try:\n    {LISTENS}except Exception:\n    os._exit(0)\n",
    "after uvicorn was loaded again": (
        "import importlib, uvicorn, uvicorn.server\nimportlib.reload(uvicorn.server)\n"
        "uvicorn.server.Server(uvicorn.Config(small, host=HOST, port=PORT)).run()  # here\n"
    ),
}


@pytest.mark.parametrize("how", WAYS)
def test_refused_by_name(place: Place, how: str) -> None:
    """The start is refused, the line is said, and nobody gets an answer on the guarded port."""
    source = f"{HEAD}OTHER = {unused_port()}\n{WAYS[how]}"
    source += "" if "__getattr__" in source or "app = App" in source else "app = small\n"
    line = next(number for number, text in enumerate(source.splitlines(), 1) if "# here" in text)
    place.write_module("listens", source)
    started = place.start("--demo", "--app", "listens:app", GUARDED=str(place.port))
    while started.process.poll() is None:
        assert not listening(place.port)
        threading.Event().wait(0.05)
    assert started.wait() == 1, started.output
    shown = " ".join(started.stdout.split())
    listens = "listens" if "natively" in how else "starts to listen"
    assert f"listens:app {listens}" in shown, started.output
    assert f"({place.folder / 'modules' / 'listens.py'}:{line})" in shown
    assert 'Fix: move that call under `if __name__ == "__main__":`' in shown
    assert READY not in started.output
    started.left_nothing()


HARMLESS = {
    "sockets": """
socket.setdefaulttimeout(0.2)
udp = socket.socket(type=socket.SOCK_DGRAM)
udp.bind((HOST, PORT))  # UDP of the same number is another port
import multiprocessing.reduction, multiprocessing.resource_sharer
left, right = socket.socketpair()
shared = multiprocessing.resource_sharer.DupFd(left.fileno())
import logging.config, prometheus_client, uvicorn
prometheus_client.start_http_server(0, addr=HOST)  # a port that nobody else can know of
receiver = logging.config.listen(0)
receiver.daemon = True
receiver.start()
server = uvicorn.Server(uvicorn.Config(small, port=PORT))  # made, and not started
listen = socket.socket.listen
def traced(self, *backlog):
    return listen(self, *backlog)
socket.socket.listen = traced  # as tracers do, for good
class Own(socket.socket):
    def __init__(self, family=socket.AF_INET, type=socket.SOCK_STREAM, proto=0, *more, **options):
        super().__init__(family, type, proto, *more, **options)
socket.socket = Own  # as proxies do
app = small
""",
    "processes": """
import multiprocessing
for how in ("fork", "forkserver", "spawn"):
    with multiprocessing.get_context(how).Pool(1) as pool:
        assert pool.apply(int, ("1",)) == 1
with multiprocessing.Manager() as manager:
    manager.dict()["one"] = 1
time.sleep(0.6)  # longer than between two looks for what listens
app = small
""",
}


@pytest.mark.parametrize("what", HARMLESS)
def test_let_through(place: Place, what: str) -> None:
    """What is no server for others goes on at import, and the application is served afterwards."""
    place.write_module("busy", HEAD + HARMLESS[what])
    started = place.start("--demo", "--app", "busy:app", GUARDED=str(place.port)).until_ready()
    assert get(f"{place.url}/") == (200, "small")
    assert started.stop() == 0
    assert "Traceback" not in started.output
    started.left_nothing()
