"""What a run means does not depend on who started it how: variables, options, files, plugins and caches."""

from __future__ import annotations

import contextlib
import os
import py_compile
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import pytest

from preflight.processes import interpreter
from tests.e2e.doubles import SMALL
from tests.e2e.place import READY, Place, Started, make_place

pytestmark = pytest.mark.usefixtures("unmeasured")

FALSE = '''
import pytest

@pytest.mark.critical("Holds not", fix="mend it")
def test_holds_not(settings):
    """Two is one."""
    assert settings.port == 1, "it is not"

@pytest.mark.critical("Holds")
def test_holds(settings):
    """One is one."""
    assert settings.port != 1, "it is"
'''
TRUE = FALSE.replace("port == 1", "port != 1")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, compiled_tree: Path) -> Iterator[dict[str, Place]]:
    """Copies of the tree: one whose suite holds, and one whose does not. Tests here leave them as they are."""
    made = {}
    for name, source in (("true", TRUE), ("false", FALSE)):
        folder = tmp_path_factory.mktemp(name)
        shutil.copytree(compiled_tree, folder / "project")
        made[name] = make_place(folder / "place", folder / "project")
        made[name].write_suite(source)
        (made[name].root / "small.py").write_text(SMALL)  # where python -I finds it
    yield made
    for place in made.values():
        place.close()


@pytest.fixture
def unsound(places: dict[str, Place]) -> Place:
    """A place whose suite does not hold."""
    return places["false"]


@pytest.fixture
def sound(places: dict[str, Place]) -> Place:
    """A place whose suite holds."""
    return places["true"]


def command(place: Place, *python: str, **environ: str) -> Started:
    """``run.py --check-only`` with options of the interpreter, to its end."""
    options = ("--check-only", "--demo", "--app", "small:app", f"--port={place.port}")
    started = place.spawn(sys.executable, *python, "run.py", *options, environ=environ)
    started.wait(60)
    return started


def plain(place: Place, *options: str, **environ: str) -> Started:
    """Plain pytest on the suite, to its end; ``-O`` and the like are for the interpreter."""
    python = [option for option in options if option in ("-O", "-OO")]
    options = tuple(option for option in options if option not in python)
    arguments = [*python, "-m", "pytest", "preflight", "--demo", f"--port={place.port}", *options]
    started = place.spawn(sys.executable, *arguments, environ={"PREFLIGHT_APP": "small:app", **environ})
    started.wait(60)
    return started


# Variables and options of one line have their effects side by side: none of them hides another's.
INTERPRETERS = {
    "variables": (
        (),
        {
            "PYTHONOPTIMIZE": "1",
            "PYTHONSAFEPATH": "1",
            "PYTHONWARNINGS": "error",
            "PYTHONDEVMODE": "1",
            "PYTHONIOENCODING": "ascii:backslashreplace",
        },
    ),
    "talkative": ((), {"PYTHONOPTIMIZE": "2", "PYTHONPROFILEIMPORTTIME": "1", "PYTHONVERBOSE": "1"}),
    "PYTHONINSPECT": ((), {"PYTHONINSPECT": "1"}),
    "-O, and pytest's": (
        ("-O", "-P", "-s"),
        {"PYTEST_ADDOPTS": "--setup-only -p no:python --runxfail", "PYTEST_PLUGINS": "nowhere", "PYTEST_THEME": "none"},
    ),
    "-OO": (("-OO", "-W", "error"), {}),
    "-I": (("-I",), {}),
    "-E": (("-E",), {"PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error"}),
}


@pytest.mark.parametrize("name", INTERPRETERS)
def test_however_it_is_started(unsound: Place, name: str) -> None:
    """Whatever the interpreter is told: what holds passes, and what does not hold blocks, for its own reason."""
    options, environ = INTERPRETERS[name]
    started = command(unsound, *options, **environ)
    assert started.process.returncode == 1, started.output
    assert "2 requirements: 1 passed, 1 failed" in started.stdout
    assert "Holds not" in started.stdout
    assert "it is not" in started.stdout
    if name != "PYTHONINSPECT":  # whose point is that the process does not end as it was asked to
        assert "Traceback" not in started.output


def test_a_suite_that_holds_however_it_is_started(sound: Place) -> None:
    """It passes, with much of the above at once: it is refused by none of that, either."""
    environ = {name: value for _, more in INTERPRETERS.values() for name, value in more.items()}
    del environ["PYTHONINSPECT"]
    for options in (("-O", "-P", "-s", "-W", "error"), ("-I",)):
        started = command(sound, *options, **environ)
        assert started.process.returncode == 0, started.output
        assert "2 requirements: 2 passed" in started.stdout
        assert "Traceback" not in started.output


def test_without_site_packages(sound: Place) -> None:
    """``python -S`` hides what is installed: installing it again would not help, and the fix says what does."""
    started = command(sound, "-S")
    assert started.process.returncode == 1
    assert "Dependencies: not installed: " in started.stdout
    assert "\nFix: start it without -S, " in started.stdout
    assert "Traceback" not in started.output


def test_another_preflight_is_installed(sound: Place) -> None:
    """The package beside run.py is meant, and not one of that name that is installed, where -P puts it first."""
    other = sound.folder / "other"
    other.mkdir(exist_ok=True)
    (other / "preflight.py").write_text("raise SystemExit('the wrong one')\n")
    started = command(sound, "-P", PYTHONPATH=str(other), PYTHONSAFEPATH="1")
    assert started.process.returncode == 0, started.output
    assert "the wrong one" not in started.output


def test_the_env_file(project: Place) -> None:
    """What the env file sets is the worker's: neither the start's suite nor a re-run's is anything else for it."""
    project.write_suite(FALSE)
    project.write_module("fine", "import sys\nprint('optimized', sys.flags.optimize)\n" + "async def app(*_): ...\n")
    project.write_env_file(PYTHONOPTIMIZE="2", PYTHONSAFEPATH="1", PYTEST_ADDOPTS="--setup-only", PYTHONINSPECT="1")
    project.environ["PREFLIGHT_PYTHON"] = ">=3.11"
    started = project.run("--offline", "--app", "fine:app")
    assert started.process.returncode == 1
    assert "1 CRITICAL ERROR" in started.stdout
    assert project.check("Holds not")["outcome"] == "failed"


def test_a_rerun(project: Place) -> None:
    """A re-run executes assertions although the application was started without, by the env file."""
    project.write_suite(TRUE)
    reruns = "import os, sys\nfrom pathlib import Path\nfrom preflight.processes import suite\n"
    reruns += "from preflight.settings import loading\n"
    reruns += "from preflight.redaction.redactor import Redactor\n"
    reruns += "chosen = loading.load(Path.cwd(), options={'offline': True, 'app': 'small:app'})\n"
    reruns += "result = suite.run(chosen, {}, 'rerun', Redactor())\nprint(result.report.status, result.report.reason)\n"
    project.write_env_file(PYTHONOPTIMIZE="1", PYTEST_ADDOPTS="--setup-only")
    (project.root / "again.py").write_text(reruns)
    run = project.spawn(sys.executable, "again.py", environ={"PYTHONOPTIMIZE": "1"})
    run.wait()
    assert run.stdout.strip() == "passed", run.output
    suite = project.root / "preflight" / "requirements" / "test_suite.py"
    suite.write_text(FALSE)
    run = project.spawn(sys.executable, "again.py", environ={"PYTHONOPTIMIZE": "1"})
    run.wait()
    assert run.stdout.strip() == "failed", run.output


def broken(place: Place, started: Started, *said: str) -> None:
    """It ended as one that broke, says why, and no report says anything else."""
    assert started.process.returncode not in (0, 1, 5), started.output
    shown = " ".join(started.output.split())
    assert [one for one in said if one not in shown] == [], started.output
    assert READY not in started.output
    found = place.report()
    assert (found["status"], found["may_start"]) == ("broken", False)


def test_plain_pytest_without_assertions(unsound: Place) -> None:
    """Plain pytest in an interpreter that executes no assertions is broken by name, however it was told."""
    unsound.plant_report()
    said = "assertions are not executed: PYTHONOPTIMIZE is set: unset it"
    broken(unsound, plain(unsound, "--assert=plain", PYTHONOPTIMIZE="1"), said)
    broken(unsound, plain(unsound, PYTHONOPTIMIZE="2"), said)  # pytest's own assertions would be executed
    started = plain(unsound, "-O", "--assert=plain")
    broken(unsound, started, "assertions are not executed: Python was started with -O: start it without")


def test_options_that_ask_nothing(sound: Place) -> None:
    """An option with which nothing is asked breaks the run by its name and its place, wherever it stands.

    pytest has made one value of the option by then: that each of them is refused stands in test_interpreter.py.
    """
    sound.plant_report()
    ini = sound.root / "pytest.ini"
    before = ini.read_text()
    ini.write_text(before.replace("addopts = ", "addopts = --runxfail "))
    try:
        broken(sound, command(sound), "--runxfail is set")
        started = plain(sound, "--setup-only", PYTEST_ADDOPTS="--setup-plan")
    finally:
        ini.write_text(before)
    asks_nothing = "is set, and no requirement is checked: leave it out"
    broken(sound, started, f"--setup-only {asks_nothing} (on the command line)")
    broken(sound, started, f"--setup-plan {asks_nothing} (in PYTEST_ADDOPTS)")
    broken(sound, started, "leave it out (in addopts of pytest.ini)")


def test_lists_that_nobody_asked_for(sound: Place) -> None:
    """What was typed shows its list; set elsewhere it would be exit code 0 for a run that never was."""
    for option in ("--co", "--fixtures", "-h"):
        assert plain(sound, option).process.returncode == 0, option
    started = plain(sound, PYTEST_ADDOPTS="--co --fixtures -h")
    assert started.process.returncode == 4, started.output
    said = re.findall(r"(--\S+) is set, and .* \(in PYTEST_ADDOPTS\)", started.output)
    assert sorted(said) == ["--collect-only", "--fixtures", "--help"], started.output


NOT_COLLECTED = "test_{0}.py::test_{1}: not collected"
# What they all do at once is said of each: only what ends the run at once is alone.
INI = {
    "--collect-only --version --version --help": ("--collect-only is set", "--version is set", "--help is set"),
    "--noconftest": ("before conftest.py took control of the run: see addopts in pytest.ini",),
    "-p no:preflight-suite-run": ("conftest.py took control of the run",),
    "--lf": ("before conftest.py took control of the run: see addopts in pytest.ini",),
    "-p no:python": ("not collected",),
    "--ignore=preflight/requirements/test_ignored.py --ignore-glob=*globbed* -o python_functions=test_h"
    " -o 'python_files=test_suite.py test_other.py test_ignored.py test_globbed.py'": (
        NOT_COLLECTED.format("ignored", "here"),
        NOT_COLLECTED.format("globbed", "here"),
        NOT_COLLECTED.format("other", "other"),
        NOT_COLLECTED.format("unnamed", "here"),
    ),
    "--deselect preflight/requirements/test_other.py::test_other -k holds -m critical": (
        "only a part of the suite ran (critical and holds and a part)",
    ),
}
OTHER = '''
import pytest

@pytest.mark.critical("Other")
def test_other():
    """It fails."""
    assert False, "no"
'''


@contextlib.contextmanager
def more(place: Place, ini: str, sources: Mapping[str, str]) -> Iterator[None]:
    """More files of requirements, and another pytest.ini, for as long as the block runs."""
    file = place.root / "pytest.ini"
    before = file.read_text()
    file.write_text(ini)
    for name, source in sources.items():
        place.write_requirement(name, source)
    try:
        yield
    finally:
        file.write_text(before)
        for name in sources:
            (place.root / "preflight" / "requirements" / f"test_{name}.py").unlink()


def others(*names: str) -> dict[str, str]:
    """Files of these names with a requirement that fails, called ``test_here``, and one called ``test_other``."""
    here = {name: OTHER.replace('"Other"', f'"{name}"').replace("test_other", "test_here") for name in names}
    return {"other": OTHER, **here}


@pytest.mark.parametrize("options", INI)
def test_addopts_of_the_project(sound: Place, options: str) -> None:
    """Written into pytest.ini, which our own child reads as well: no requirement is lost by it without a word."""
    sound.plant_report()
    ini = (sound.root / "pytest.ini").read_text().replace("addopts = ", f"addopts = {options} ")
    with more(sound, ini, others("ignored", "globbed", "unnamed")):
        started = command(sound)
    assert started.process.returncode == 3
    broken(sound, started, *INI[options])


def test_settings_of_pytest(sound: Place) -> None:
    """Lines of pytest.ini with which requirements are not found: the run is broken, or nothing is left out."""
    ini = (sound.root / "pytest.ini").read_text()
    lines = "python_functions = test_h\npython_files = test_suite.py test_other.py\n"
    with more(sound, f"{ini}{lines}", others("unnamed")):
        started = command(sound)
        said = NOT_COLLECTED.format("other", "other"), NOT_COLLECTED.format("unnamed", "here")
        broken(sound, started, *said)
        assert started.process.returncode == 3
        started = plain(sound)
        broken(sound, started, *said)
        assert started.process.returncode == 4
    with more(sound, f"{ini}norecursedirs = req*\n", others()):  # the launcher's run names the folders itself
        started = command(sound)
    assert started.process.returncode == 1, started.output
    assert sound.check("Other")["outcome"] == "failed"


def test_a_part_of_the_suite(sound: Place) -> None:
    """Plain pytest may run a part of the suite, and its report says so however the part was chosen."""
    sound.write_requirement("other", OTHER)
    other = "preflight/requirements/test_other.py"
    try:
        for options, selection in (
            (["-m", "critical", f"--ignore={other}"], "critical and a part"),
            ([f"--deselect={other}::test_other"], "a part"),
            (["-k", "holds"], "holds"),
        ):
            started = plain(sound, *options)
            assert started.process.returncode == 0, started.output
            assert sound.report()["selection"] == selection
    finally:
        (sound.root / other).unlink()


# At the import of a file; and afterwards, where nothing was said by then.
LOST = {
    "as a whole": (
        {
            "skipped": "import pytest\npytest.skip('not here', allow_module_level=True)\n" + OTHER,
            "imported": "import pytest\npytest.importorskip('nowhere_at_all')\n" + OTHER,
        },
        ("test_skipped.py: left out as a whole", "not here", "test_imported.py: left out as a whole"),
    ),
    "one by one": (
        {
            "none": OTHER + "test_other.__test__ = False\n",
            "twice": OTHER + OTHER.replace("False", "True"),
            "gone": OTHER + "del test_other\n",
        },
        (
            NOT_COLLECTED.format("none", "other"),
            "test_twice.py::test_other, replaced by another",
            NOT_COLLECTED.format("gone", "other"),
        ),
    ),
}


@pytest.mark.parametrize("how", LOST)
def test_lost_on_the_way(sound: Place, how: str) -> None:
    """A requirement that stands in a file and is not asked breaks the run."""
    sources, said = LOST[how]
    sound.plant_report()
    with more(sound, (sound.root / "pytest.ini").read_text(), sources):
        broken(sound, command(sound), *said)


# One for each way, which would fail if its body ran.
HIJACKED = ("pyfunc_call", "runtest", "body_that_does_nothing", "another_function", "another_ones", "made_up", "code")
HIJACKS = """
import functools
import pytest
from _pytest.runner import CallInfo

@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    return True if pyfuncitem.name == "test_pyfunc_call" else None

def pytest_runtest_protocol(item):
    if item.name != "test_made_up":
        return None
    for when in ("setup", "call", "teardown"):
        call = CallInfo.from_call(lambda: None, when)
        report = item.ihook.pytest_runtest_makereport(item=item, call=call)
        item.ihook.pytest_runtest_logreport(report=report)
    return True

def other(**_):
    "Holds."

def pytest_collection_modifyitems(items):
    found = {one.name.removeprefix("test_"): one for one in items}
    found["runtest"].runtest = lambda: None
    nothing = found["body_that_does_nothing"]
    nothing.obj = functools.wraps(nothing.obj)(lambda **_: None)
    found["another_function"].obj = other
    found["another_ones"].obj = found["holds"].obj
    one, names = found["code"], {}
    exec(compile(open(one.path).read(), str(one.path), "exec", optimize=1), names)
    one.obj.__code__ = names[one.name].__code__
"""
AT_ONCE = """
def other(): 'Holds.'

def pytest_pycollect_makeitem(collector, name, obj):
    if name == 'test_holds_not':
        other.pytestmark = obj.pytestmark
        setattr(collector.obj, name, other)
"""
TRUE_ANSWER = "import pytest\n@pytest.hookimpl(tryfirst=True)\ndef pytest_pyfunc_call(): return True\n"
SITE = "import _pytest.python as python\npython.Function.runtest = lambda self: None\n"
SWALLOWS = """
import pytest
@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call():
    try:
        return (yield)
    except BaseException:
        return True
"""


def test_bodies_that_never_run(unsound: Place) -> None:
    """Whoever keeps a requirement's own body from running, or puts another one in its place, breaks the run.

    Plain pytest and the command look at it in one way; the test below has both.
    """
    suite = unsound.root / "preflight" / "requirements" / "test_suite.py"
    conftest = suite.parent / "conftest.py"
    one = FALSE.partition("@pytest.mark")[1] + FALSE.partition("@pytest.mark")[2].partition("@pytest.mark")[0]
    made = (one.replace("holds_not", name).replace("Holds not", name) for name in HIJACKED)
    suite.write_text(FALSE.replace(one, "".join(made)))
    conftest.write_text(HIJACKS)
    try:
        unsound.plant_report()
        started = plain(unsound)
        broken(unsound, started, *(f"test_suite.py::test_{name}: its body was not executed" for name in HIJACKED))
    finally:
        suite.write_text(FALSE)
        conftest.unlink()


@pytest.mark.parametrize(
    "place, source",
    [
        pytest.param("preflight/requirements/conftest.py", AT_ONCE, id="another function at once"),
        pytest.param("hijack.py", TRUE_ANSWER, id="plugin"),
        pytest.param("sitecustomize.py", SITE, id="sitecustomize"),
    ],
)
def test_a_body_that_never_runs(unsound: Place, place: str, source: str) -> None:
    """The same by one plugin, or before there is any; two are here with the command as well."""
    file = unsound.root / place
    file.write_text(source)
    environ = {"PREFLIGHT_PLUGINS": "hijack"} if place == "hijack.py" else {}
    if place == "sitecustomize.py":
        environ = {"PYTHONPATH": str(unsound.root)}
    try:
        if place != "preflight/requirements/conftest.py":
            unsound.plant_report()
            started = command(unsound, **environ)
            assert started.process.returncode == 3, started.output
            broken(unsound, started, "test_suite.py::test_holds_not")
        unsound.plant_report()
        started = plain(unsound, *(["-p", "hijack"] if place == "hijack.py" else []), **environ)
        broken(unsound, started, "test_suite.py::test_holds_not")
    finally:
        file.unlink()


def test_what_a_plugin_swallows(unsound: Place) -> None:
    """An assertion that raised has failed, although a plugin caught what it raised, and says that all is well."""
    conftest = unsound.root / "preflight" / "requirements" / "conftest.py"
    conftest.write_text(SWALLOWS + "def pytest_sessionfinish(session):\n    session.exitstatus = 0\n")
    try:
        for started in (command(unsound), plain(unsound)):
            assert started.process.returncode == 1, started.output
            assert unsound.check("Holds not")["outcome"] == "failed"
            assert unsound.check("Holds")["outcome"] == "passed"
    finally:
        conftest.unlink()


@pytest.mark.parametrize("part", ["collection", "stages", "report"])
def test_a_part_of_the_run_that_a_plugin_takes_away(sound: Place, part: str) -> None:
    """Without one of the plugins that make it a run of the suite, nothing passes."""
    conftest = sound.root / "preflight" / "requirements" / "conftest.py"
    conftest.write_text(
        "def pytest_collection_modifyitems(config):\n"
        f"    assert config.pluginmanager.unregister(name='preflight-suite-run-{part}')\n"
    )
    try:
        for started in (command(sound), plain(sound)):
            assert started.process.returncode == 3, started.output
            assert READY not in started.output
    finally:
        conftest.unlink()


def compiled(suite: Path, **how: Any) -> Path:
    """Compile the suite's file into the place where Python looks for it."""
    target = Path(cache_from_source(str(suite)))
    py_compile.compile(str(suite), cfile=str(target), doraise=True, **how)
    return target


@pytest.mark.parametrize("optimize", [1, 2])
def test_compiled_without_assertions(unsound: Place, optimize: int) -> None:
    """A compiled form without assertions, where Python expects one with them, is found out."""
    suite = unsound.root / "preflight" / "requirements" / "test_suite.py"
    unsound.plant_report()
    cache = compiled(suite, optimize=optimize)
    try:
        started = command(unsound)
        assert started.process.returncode == 3
        broken(unsound, started, "compiled without its assertions" if optimize == 1 else "test_holds_not: needs a doc")
    finally:
        cache.unlink()


def test_a_helper_compiled_without_assertions(unsound: Place) -> None:
    """What a requirement has imported from the project executes its assertions as well."""
    helper = unsound.root / "preflight" / "requirements" / "helping.py"
    helper.write_text('def one(number):\n    assert number == 1, "it is not"\n')
    source = FALSE.replace('assert settings.port == 1, "it is not"', "helping.one(settings.port)")
    suite = unsound.root / "preflight" / "requirements" / "test_suite.py"
    suite.write_text("from preflight.requirements import helping\n" + source)
    try:
        cache = compiled(helper, optimize=1)
        broken(
            unsound, command(unsound), "preflight/requirements/helping.py: its compiled code does not match its source"
        )
        cache.unlink()
        started = command(unsound)
        assert started.process.returncode == 1, started.output
        assert "it is not" in started.stdout
    finally:
        helper.unlink()
        suite.write_text(FALSE)


@pytest.mark.parametrize("mode", ["unchecked", "same time and size"])
def test_compiled_from_something_else(unsound: Place, mode: str) -> None:
    """A compiled form of an earlier text of the file is not run in place of the file."""
    suite = unsound.root / "preflight" / "requirements" / "test_suite.py"
    unsound.plant_report()
    suite.write_text(TRUE)
    status = suite.stat()
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    invalidation = unchecked if mode == "unchecked" else py_compile.PycInvalidationMode.TIMESTAMP
    cache = compiled(suite, invalidation_mode=invalidation)
    suite.write_text(FALSE)
    os.utime(suite, ns=(status.st_atime_ns, status.st_mtime_ns))
    try:
        started = command(unsound)
        if mode == "unchecked":
            assert started.process.returncode == 1, started.output
            assert unsound.check("Holds not")["outcome"] == "failed"
        else:
            broken(unsound, started, "test_holds_not: the code that would run is not that of test_suite.py")
            assert str(cache.parent) in started.output
    finally:
        cache.unlink()
        suite.write_text(FALSE)


def test_plugins_cannot_be_left_out_by_a_setting(sound: Place) -> None:
    """``PREFLIGHT_PLUGINS`` names plugins to load; that it leaves one out is a wrong setting."""
    started = command(sound, PREFLIGHT_PLUGINS="no:preflight-suite-run")
    assert started.process.returncode == 2
    assert "PREFLIGHT_PLUGINS must be names of modules" in started.stderr


def test_nothing_is_stopped_for_a_broken_run(unsound: Place) -> None:
    """That a body did not run is known before the port is freed: its holder goes on."""
    holder = unsound.listener()
    conftest = unsound.root / "preflight" / "requirements" / "conftest.py"
    conftest.write_text(
        "import pytest\n@pytest.hookimpl(tryfirst=True)\ndef pytest_pyfunc_call(pyfuncitem):\n"
        "    return True if 'port' not in pyfuncitem.fixturenames else None\n"
    )
    shutil.copy(Path(__file__).parents[2] / "preflight" / "requirements" / "test_port.py", conftest.parent)
    try:
        started = unsound.run("--demo", "--app", "small:app")
        assert started.process.returncode == 3
        assert "SIGTERM" not in started.output
        assert holder.process.poll() is None
    finally:
        conftest.unlink()
        (conftest.parent / "test_port.py").unlink()
        holder.kill()


def test_the_options_that_are_refused_are_still_pytests() -> None:
    """Each of them under each of its names, and kept where it is looked for."""
    from _pytest.config import get_config

    parser = get_config()._parser
    known = {
        name: one.dest
        for group in [*parser._groups, parser._anonymous]
        for one in group.options
        for name in one.names()
    }
    for option in interpreter.OPTIONS:
        for name in option.names if option.attribute else ():
            assert known.get(name) == option.attribute, name
