"""A project of somebody's: what its configuration, hooks and folders can do to what is asked of it, and its clients."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.beside import ECHO, serve
from tests.e2e.doubles import SMALL
from tests.e2e.installing import Adopter
from tests.e2e.place import ROOT, Place, Started, listening, make_place
from tests.portnumbers import unused_port
from tests.waiting import until

NAMED = '[tool.preflight]\napp = "shop:app"\n'
LINE = ("--pyargs", "preflight.requirements", "preflight_suite", "-p", "no:cacheprovider")
"""The line for CI, behind ``pytest``."""
FAILS = '''
import pytest

@pytest.mark.critical("Own")
def test_own():
    """It does not hold."""
    assert False, "the failure of our own"
'''
HOLDS = FAILS.replace("False", "True").replace('"Own"', '"Good"').replace("test_own", "test_good")
WRITES = "import pathlib, os\npathlib.Path(os.environ['MARK']).write_text(str(os.getpid()))\n"


def failing(title: str) -> str:
    return FAILS.replace('"Own"', f'"{title}"').replace("test_own", f"test_{title.lower()}")


@pytest.fixture
def shop(adopter: Adopter) -> Adopter:
    """A project with an application, and a requirement of its own that holds."""
    adopter.write("shop.py", SMALL)
    adopter.write("pyproject.toml", NAMED)
    adopter.write("preflight_suite/test_good.py", HOLDS)
    return adopter


def line(shop: Adopter, *more: str, cwd: Path | None = None) -> int:
    """The line for CI; its exit code."""
    done = shop.pytest(*LINE, f"--preflight-port={shop.port}", *more, cwd=cwd)
    print(done.output)
    return int(done.process.returncode)


def check(shop: Adopter, *more: str, cwd: Path | None = None, **environ: str) -> int:
    """A check; its exit code."""
    done = shop.command("--check-only", "--port", str(shop.port), *more, cwd=cwd, environ=environ)
    print(done.output)
    return int(done.process.returncode)


# What the project's configuration of pytest does to the line for CI.


def test_what_addopts_choose_is_about_the_projects_tests(shop: Adopter) -> None:
    """-k, -m, --deselect, --ignore and --ignore-glob there leave out no requirement: each is asked, and fails."""
    chosen = {
        "Word": "-k 'not word'",
        "Slow": "-m 'not slow'",
        "Named": "--deselect preflight_suite/test_named.py::test_named",
        "Left": "--ignore=preflight_suite/test_left.py",
        "Glob": "--ignore-glob=*glob*",
    }
    for title in chosen:
        source = failing(title).replace("@pytest.mark.c", "@pytest.mark.slow\n@pytest.mark.c")
        shop.write(f"preflight_suite/test_{title.lower()}.py", source)
    shop.write("pytest.ini", f"[pytest]\naddopts = {' '.join(chosen.values())}\nmarkers =\n    slow: takes time\n")
    assert line(shop) == 1
    assert {title: shop.check(title)["outcome"] for title in chosen} == dict.fromkeys(chosen, "failed")
    assert shop.report()["selection"] == "all"


def test_what_a_variable_chooses_as_well(shop: Adopter) -> None:
    """PYTEST_ADDOPTS of a job is about its tests, too."""
    shop.write("preflight_suite/test_own.py", FAILS)
    shop.environ["PYTEST_ADDOPTS"] = "-k 'not own'"
    assert line(shop) == 1
    assert shop.check("Own")["outcome"] == "failed"


@pytest.mark.parametrize(
    "typed",
    [
        ("-k", "good"),
        ("-m", "critical", "--deselect", "preflight_suite/test_own.py::test_own"),
        ("--ignore=preflight_suite/test_own.py",),
        ("--ignore-glob=*/test_own.py",),
    ],
    ids=" ".join,
)
def test_a_part_that_was_asked_for(shop: Adopter, typed: tuple[str, ...]) -> None:
    """What stands on the command line is done, and the report says that it is a part."""
    shop.write("preflight_suite/test_own.py", FAILS)
    assert line(shop, *typed) == 0
    assert shop.report()["selection"] != "all"


def test_one_requirement_of_a_file(shop: Adopter) -> None:
    """Its neighbours in the file are not missed, however the file is named."""
    for name in ("preflight_suite/test_good.py::test_good", "preflight.requirements.test_python::test_python_version"):
        shop.write("preflight_suite/test_good.py", HOLDS + FAILS)
        done = shop.pytest("--pyargs", name, "-p", "no:cacheprovider")
        assert done.process.returncode == 0, done.output
        assert len(shop.report()["checks"]) == 1


@pytest.mark.parametrize(
    "setting",
    [
        "addopts = --collect-only",
        "addopts = --setup-only",
        "addopts = --runxfail",
        "addopts = -p no:preflight",
        "python_functions = check_*",
        "python_classes = Check*",
        "norecursedirs = deep",
        "required_plugins = nowhere-at-all",
    ],
)
def test_a_setting_that_would_leave_requirements_out(shop: Adopter, setting: str) -> None:
    """The line for CI does not pass by it; the check, which has a configuration of its own, asks all the same."""
    shop.write("pytest.ini", f"[pytest]\n{setting}\n")
    own = FAILS.replace("test_own():", "test_own(self):").replace("\n", "\n    ").replace("import pytest", "", 1)
    shop.write("preflight_suite/deep/test_own.py", f"import pytest\n\nclass TestIt:{own}\n")
    assert line(shop) != 0
    if setting in ("addopts = -p no:preflight", "python_functions = check_*"):  # the check reads none of these files
        assert check(shop) == 1
        assert shop.check("Own")["outcome"] == "failed"


# Hooks of a conftest.py.

HOOK = "import pytest\n@pytest.hookimpl(wrapper=True, tryfirst=True)\n"
HOOKS = {
    "removes": (
        "def pytest_collection_modifyitems(items):\n    items[:] = [i for i in items if 'own' not in i.nodeid]\n"
    ),
    "deselects": (
        "def pytest_collection_modifyitems(items, config):\n    gone = [i for i in items if 'own' in i.nodeid]\n"
        "    items[:] = [i for i in items if i not in gone]\n    config.hook.pytest_deselected(items=gone)\n"
    ),
    "collect_ignore": "collect_ignore = ['preflight_suite/test_own.py', 'test_own.py']\n",
    "ignores": "def pytest_ignore_collect(collection_path):\n    return 'own' in collection_path.name or None\n",
    "collects nothing": (
        f"{HOOK}def pytest_collect_file(file_path):\n    found = yield\n"
        "    return [] if 'own' in file_path.name else found\n"
    ),
    "rewrites": f"{HOOK}def pytest_runtest_makereport(item):\n    r = yield\n    r.outcome = 'passed'\n    return r\n",
    "exit status": f"{HOOK}def pytest_sessionfinish(session):\n    yield\n    session.exitstatus = 0\n",
    "protocol": "def pytest_runtest_protocol(item):\n    return True if 'own' in item.nodeid else None\n",
    "runs nothing": "def pytest_runtestloop(session):\n    return True\n",
    "skips": (
        "import pytest\ndef pytest_itemcollected(item):\n    item.add_marker(pytest.mark.skip(reason='not now'))\n"
    ),
    "calls nothing": "def pytest_pyfunc_call(pyfuncitem):\n    return True\n",
    "catches": f"{HOOK}def pytest_runtest_call():\n    try:\n        yield\n    except BaseException:\n        pass\n",
    "other body": (
        "import pytest\n@pytest.fixture(autouse=True)\ndef swap(request, monkeypatch):\n"
        "    monkeypatch.setattr(request.node, 'obj', lambda: None)\n"
    ),
    "leaves at the start": "import pytest\ndef pytest_sessionstart():\n    pytest.exit('no database', returncode=0)\n",
    "leaves in between": "import pytest\ndef pytest_runtest_setup():\n    pytest.exit('no database', returncode=0)\n",
    "leaves at the end": (
        "import pytest\n@pytest.hookimpl(tryfirst=True)\ndef pytest_sessionfinish():\n"
        "    pytest.exit('enough', returncode=0)\n"
    ),
    "is the command": ("import pytest\n@pytest.hookimpl(tryfirst=True)\ndef pytest_cmdline_main():\n    return 0\n"),
    "parametrizes": (
        "def pytest_generate_tests(metafunc):\n    metafunc.fixturenames.append('x')\n"
        "    metafunc.parametrize('x', [])\n"
    ),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_beside_the_line_for_ci(shop: Adopter, hook: str) -> None:
    """A hook in the project's root, about its own tests, lets no requirement pass that fails."""
    shop.write("conftest.py", HOOKS[hook])
    shop.write("preflight_suite/test_own.py", FAILS)
    assert line(shop, "-m", "critical") != 0


IN_A_CHECK = ("deselects", "ignores", "rewrites", "leaves at the start", "is the command")


def test_hooks_of_the_root_in_a_check(shop: Adopter) -> None:
    """None of them is run."""
    shop.write("conftest.py", "".join(HOOKS[hook] for hook in IN_A_CHECK) + WRITES)
    shop.write("preflight_suite/test_own.py", FAILS)
    mark = shop.folder / "mark"
    assert check(shop, MARK=str(mark)) == 1
    assert shop.check("Own")["outcome"] == "failed"
    assert not mark.exists()


@pytest.mark.parametrize("hook", IN_A_CHECK)
def test_hooks_in_a_check(shop: Adopter, hook: str) -> None:
    """One of the suite's own folder lets nothing pass."""
    shop.write("preflight_suite/conftest.py", HOOKS[hook])
    shop.write("preflight_suite/test_own.py", FAILS)
    assert check(shop) in (1, 3)


# Where the suite is.


@pytest.mark.parametrize("what", ["the folder", "a folder in it", "a file"])
def test_a_suite_behind_a_link(shop: Adopter, what: str) -> None:
    """It is asked like any other, by the check, and where a folder leads elsewhere by the line for CI as well."""
    own = shop.write("elsewhere/test_own.py", FAILS)
    suite = shop.root / "preflight_suite"
    if what == "the folder":
        (suite / "test_good.py").unlink()
        suite.rmdir()
        suite.symlink_to("elsewhere")
    else:
        (suite / ("deep" if what == "a folder in it" else own.name)).symlink_to(own if what == "a file" else own.parent)
    assert check(shop) == 1
    assert shop.check("Own")["outcome"] == "failed"
    assert what == "a file" or line(shop) == 1


@pytest.mark.parametrize(
    "parts", ['"preflight_suite", "preflight_suite/deep"', '"preflight_suite.deep", "./preflight_suite/"'], ids=str
)
def test_a_part_that_is_named_twice(shop: Adopter, parts: str) -> None:
    """Each requirement is asked once."""
    shop.write("preflight_suite/deep/test_own.py", FAILS)
    shop.write("pyproject.toml", NAMED + f'suite = ["preflight.requirements", {parts}]\n')
    assert check(shop) == 1
    assert [one["title"] for one in shop.report()["checks"]].count("Own") == 1
    assert shop.check("Own")["outcome"] == "failed"


def test_ids_that_collide(shop: Adopter) -> None:
    """A folder of the project's own with the ids of ours hides none of them: what is critical stays critical."""
    own = HOLDS.replace("critical", "warning").replace("test_good", "test_python_version").replace('"Good"', '"Other"')
    shop.write("preflight/requirements/test_python.py", own)
    suite = 'suite = ["preflight.requirements", "preflight/requirements"]\n'
    shop.write("pyproject.toml", f'{NAMED}python = ">=3.99"\n{suite}')
    assert check(shop) != 0


TABLES = {
    "dotted keys": 'tool.preflight.app = "shop:app"\ntool.preflight.suite = {}\n',
    "quoted": '["tool"."preflight"]\napp = "shop:app"\nsuite = {}\n',
    "inline": '[tool]\npreflight = {{app = "shop:app", suite = {}}}\n',
    "half": '[tool]\npreflight.app = "shop:app"\npreflight.suite = {}\n',
}


@pytest.mark.parametrize("how", TABLES)
def test_a_table_in_whatever_form(shop: Adopter, how: str) -> None:
    """Whatever TOML means the table counts for the check and for pytest."""
    shop.write("pyproject.toml", TABLES[how].format('["preflight.requirements", "checks"]'))
    shop.write("checks/test_own.py", FAILS)
    if how in ("dotted keys", "inline"):
        assert check(shop) == 1
        assert shop.check("Own")["outcome"] == "failed"
    done = shop.pytest("checks", "--setup-only")  # which reads the table only where the file looks as if it had one
    assert done.process.returncode != 0, done.output


def test_a_suite_that_a_variable_names(shop: Adopter) -> None:
    """PREFLIGHT_SUITE is a setting like any other."""
    shop.write("checks/test_own.py", FAILS)
    assert check(shop, PREFLIGHT_SUITE="preflight.requirements,checks") == 1
    assert shop.check("Own")["outcome"] == "failed"


def test_a_suite_where_the_command_is_typed(shop: Adopter) -> None:
    """Below pyproject.toml, beside the application: it is asked as well."""
    shop.write("backend/shop.py", SMALL)
    shop.write("backend/preflight_suite/test_own.py", FAILS)
    assert check(shop, cwd=shop.root / "backend") == 1
    assert shop.check("Own")["id"] == "backend/preflight_suite/test_own.py::test_own"
    assert shop.check("Good")["outcome"] == "passed"


def test_a_folder_that_is_reached_by_a_link(shop: Adopter) -> None:
    """The suite is the same."""
    link = shop.folder / "link"
    link.symlink_to(shop.root)
    shop.write("preflight_suite/test_own.py", FAILS)
    assert check(shop, cwd=link) == 1
    assert line(shop, cwd=link) == 1


WRITABLE = ["preflight_suite", "preflight_suite/test_own.py", "preflight_suite/conftest.py", "conftest.py"]


@pytest.mark.parametrize("what", WRITABLE)
def test_requirements_that_others_can_write(shop: Adopter, what: str) -> None:
    """Nothing of them is run, by the command and by pytest, and both say which file it is."""
    shop.write("conftest.py", WRITES)
    shop.write("preflight_suite/conftest.py", WRITES)
    shop.write("preflight_suite/test_own.py", WRITES + HOLDS.replace("test_good", "test_own").replace("Good", "Own"))
    (shop.root / what).chmod(0o777)
    environ = {"MARK": str(shop.folder / "mark")}
    done = shop.command("--check-only", environ=environ)
    asked = shop.pytest("preflight_suite", environ=environ)
    assert (done.process.returncode, asked.process.returncode) == (2, 4)
    for one in (done, asked):
        assert f"{shop.root / what} can be written by others: no requirement there is run" in one.stderr
    assert not (shop.folder / "mark").exists()


def test_a_folder_on_the_way_to_requirements_that_others_can_write(shop: Adopter) -> None:
    """Somebody else could put another suite in its place."""
    shop.write("pyproject.toml", '[tool.preflight]\nsuite = ["preflight.requirements", "backend/checks"]\n')
    shop.write("backend/checks/test_own.py", WRITES)
    (shop.root / "backend").chmod(0o777)
    asked = shop.pytest("backend/checks", environ={"MARK": str(shop.folder / "mark")})
    assert asked.process.returncode == 4
    assert f"{shop.root}/backend can be written by others: no requirement there is run" in asked.stderr
    assert not (shop.folder / "mark").exists()


def test_an_env_file_that_others_can_write(shop: Adopter) -> None:
    """Nothing in it counts, neither what it lets pass nor what it lets run; that blocks in any case."""
    shop.write(".env", "PREFLIGHT_IGNORE=Own,Environment File\nPYTHONPATH=/nowhere\n").chmod(0o666)
    shop.write("preflight_suite/test_own.py", FAILS)
    assert check(shop) == 1
    assert shop.check("Own")["outcome"] == "failed"
    found = shop.check("Environment File")
    assert found["message"] == f"{shop.root}/.env can be written by others, so it is not used"
    assert found["fix"].endswith(f"chmod 600 {shop.root}/.env")


@pytest.mark.parametrize("options", [("--version",), ("--port-status",), ("--check-only",), ("--init",)], ids=" ".join)
@pytest.mark.parametrize("how", ["command", "module"])
def test_a_folder_that_was_removed(shop: Adopter, how: str, options: tuple[str, ...]) -> None:
    """The command has a word for it, or does without: no traceback, and nothing is made or served elsewhere."""
    before = set(os.listdir("/"))
    gone = shop.root / "gone"
    gone.mkdir()
    command = [str(shop.installed / "bin" / "preflight")] if how == "command" else [sys.executable, "-m", "preflight"]
    script = 'rmdir "$0"; exec "$@"'
    arguments = ["sh", "-c", script, str(gone), *command, *options, "--port", str(shop.port)]
    done = subprocess.run(arguments, cwd=gone, env=shop.environ, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stdout + done.stderr
    if options[0] in ("--check-only", "--init"):
        assert done.returncode in (1, 2)
        assert "the current folder has been removed" in done.stderr
    assert set(os.listdir("/")) == before


# Several servers of one parent, each with guard().

PARENT = """
import multiprocessing, os, sys, time, socket, uvicorn

def serve(folder, port):
    os.chdir(folder)
    sys.path.insert(0, folder)
    uvicorn.run("shop:app", port=port)

def listens(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    started = []
    for folder, port in zip(sys.argv[1::2], map(int, sys.argv[2::2])):
        started.append(multiprocessing.Process(target=serve, args=(folder, port)))
        started[-1].start()
        while started[-1].is_alive() and not listens(port):
            time.sleep(0.05)
    for one in started:
        one.join()
"""


def test_two_applications_of_one_parent_are_checked_each(place: Place, tmp_path: Path) -> None:
    """What the first one's suite has found says nothing about the second one, whose own requirement fails."""
    ports = [unused_port(), unused_port()]
    arguments = []
    for name, source, port in (("good", HOLDS, ports[0]), ("bad", FAILS, ports[1])):
        suite = tmp_path / name / "preflight_suite"
        suite.mkdir(parents=True)
        (suite / "test_own.py").write_text(source)
        (suite.parent / "pyproject.toml").write_text("[tool.preflight]\n")
        (suite.parent / "echo.py").write_text(ECHO)
        shop = "from echo import app as plain\nfrom preflight import guard\napp = guard(plain)\n"
        (suite.parent / "shop.py").write_text(shop)
        arguments += [str(suite.parent), str(port)]
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    path = f"{place.environ['PYTHONPATH']}{os.pathsep}{ROOT}"
    started = place.spawn(sys.executable, str(program), *arguments, cwd=tmp_path, environ={"PYTHONPATH": path})
    until(lambda: listening(ports[0]), "the good one serves")
    until(lambda: listening(ports[1]) or "blocks the start: Own" in started.output, "the other one has decided")
    assert not listening(ports[1])


# Requests to what is beside an application.


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    place = make_place(tmp_path_factory.mktemp("served") / "place")
    started = serve(place)
    yield started
    started.stop()
    place.close()


def raw(port: int, data: bytes) -> bytes:
    """All that a connection answers until the server closes it."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        client.sendall(data)
        while piece := client.recv(1 << 16):
            answer += piece
    return answer


@pytest.mark.parametrize(
    "path",
    [
        b"/%5fpreflight/diagnostics", b"/_preflight%2Fdiagnostics", b"/_preflight%00/diagnostics",
        b"/./_preflight/diagnostics", b"/x/../_preflight/diagnostics", b"//_preflight/diagnostics",
        b"/_preflight//diagnostics", b"/_preflight/health/%2e%2e/diagnostics", b"/_preflight;a/diagnostics",
        b"/_PREFLIGHT/diagnostics", b"http://127.0.0.1/_preflight/diagnostics", b"/_preflight/diagnostics?/health",
        b"/_preflight\\diagnostics", b"/_preflight/health\xff", b"*",
    ],
)  # fmt: skip
def test_no_spelling_of_a_path_leads_past_the_login(served: Started, path: bytes) -> None:
    """In HTTP/1.1, in 1.0, without a Host and with two of them."""
    host = b"Host: 127.0.0.1:%d\r\n" % served.port
    for version, headers in ((b"1.1", host), (b"1.0", host), (b"1.0", b""), (b"1.1", b""), (b"1.1", host + host)):
        answer = raw(served.port, b"GET %b HTTP/%b\r\n%bConnection: close\r\n\r\n" % (path, version, headers))
        assert answer.startswith(b"HTTP/1.1 "), answer
        assert b'"checks"' not in answer
        assert b'"summary"' not in answer


def test_a_body_is_no_second_request(served: Started) -> None:
    """What the application has not read of a body is not taken for a request of ours, nor is any answer mixed up."""
    host = b"Host: 127.0.0.1:%d\r\n" % served.port
    inner = b"GET /_preflight/health HTTP/1.1\r\n" + host + b"\r\n"
    first = b"PUT /x HTTP/1.1\r\n" + host + b"Content-Length: %d\r\n\r\n" % len(inner) + inner
    last = b"GET /y HTTP/1.1\r\n" + host + b"Connection: close\r\n\r\n"
    answer = raw(served.port, first + b"GET /_preflight/metrics HTTP/1.1\r\n" + host + b"\r\n" + last)
    assert [int(one[:3]) for one in answer.split(b"HTTP/1.1 ")[1:] if one[:3].isdigit()] == [200, 401, 200], answer
    assert b"healthy" not in answer


@pytest.mark.parametrize(
    "cookie",
    [
        b"preflight_1_beside=SECRET", b" preflight_1_beside =SECRET", b"a=1;preflight_1_beside=SECRET;b=2",
        b"a=1; preflight_1_beside_login=SECRET", b"\tpreflight_1_beside=SECRET",
        b"preflight_80_beside=SECRET=x; c=_beside",
    ],
)  # fmt: skip
def test_the_application_sees_no_login(served: Started, cookie: bytes) -> None:
    """However the header is written, and if it is there twice."""
    head = b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    answer = raw(served.port, head + b"Cookie: " + cookie + b"\r\ncookie: preflight_9_beside=SECRET\r\n\r\n")
    assert b"SECRET" not in answer
    assert json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])["scope"]["path"] == "/x"
