"""What a run means does not depend on who started it how: variables, options, files, plugins and caches."""

from __future__ import annotations

import os
import py_compile
import shutil
import sys
from collections.abc import Iterator
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


INTERPRETERS = {
    "PYTHONOPTIMIZE=1": ((), {"PYTHONOPTIMIZE": "1"}),
    "PYTHONOPTIMIZE=2": ((), {"PYTHONOPTIMIZE": "2"}),
    "-O": (("-O",), {}),
    "-OO": (("-OO",), {}),
    "-I": (("-I",), {}),
    "-E": (("-E",), {"PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error"}),
    "-P": (("-P",), {}),
    "-s": (("-s",), {}),
    "PYTHONSAFEPATH": ((), {"PYTHONSAFEPATH": "1"}),
    "-W error": (("-W", "error"), {}),
    "PYTHONWARNINGS": ((), {"PYTHONWARNINGS": "error"}),
    "PYTHONDEVMODE": ((), {"PYTHONDEVMODE": "1"}),
    "PYTHONINSPECT": ((), {"PYTHONINSPECT": "1"}),
    "PYTHONIOENCODING": ((), {"PYTHONIOENCODING": "ascii:backslashreplace"}),
    "PYTHONPROFILEIMPORTTIME": ((), {"PYTHONPROFILEIMPORTTIME": "1", "PYTHONVERBOSE": "1"}),
    "pytest's": (
        (),
        {"PYTEST_ADDOPTS": "--setup-only -p no:python --runxfail", "PYTEST_PLUGINS": "nowhere", "PYTEST_THEME": "none"},
    ),
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


@pytest.mark.parametrize("safe", [{"PYTHONSAFEPATH": "1"}, {}], ids=["PYTHONSAFEPATH", "-P"])
def test_another_preflight_is_installed(sound: Place, safe: dict[str, str]) -> None:
    """The package beside run.py is meant, and not one of that name that is installed."""
    other = sound.folder / "other"
    other.mkdir(exist_ok=True)
    (other / "preflight.py").write_text("raise SystemExit('the wrong one')\n")
    started = command(sound, *([] if safe else ["-P"]), PYTHONPATH=str(other), **safe)
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


def broken(place: Place, started: Started, said: str) -> None:
    """It ended as one that broke, says why, and no report says anything else."""
    assert started.process.returncode not in (0, 1, 5), started.output
    assert said in " ".join(started.output.split()), started.output
    assert READY not in started.output
    found = place.report()
    assert (found["status"], found["may_start"]) == ("broken", False)


@pytest.mark.parametrize(
    "python, environ, said",
    [
        (("-O",), {}, "assertions are not executed: Python was started with -O: start it without"),
        ((), {"PYTHONOPTIMIZE": "1"}, "assertions are not executed: PYTHONOPTIMIZE is set: unset it"),
        ((), {"PYTHONOPTIMIZE": "2"}, "assertions are not executed: PYTHONOPTIMIZE is set: unset it"),
    ],
    ids=["-O", "1", "2"],
)
def test_plain_pytest_without_assertions(
    unsound: Place, python: tuple[str, ...], environ: dict[str, str], said: str
) -> None:
    """Plain pytest in an interpreter that executes no assertions is broken by name, however it was told."""
    unsound.plant_report()
    broken(unsound, plain(unsound, *python, "--assert=plain", **environ), said)
    if not python:
        broken(unsound, plain(unsound, **environ), said)  # pytest's own assertions would be executed


SAYS_WHERE = {"command line": "on the command line", "PYTEST_ADDOPTS": "in PYTEST_ADDOPTS", "ini": "addopts of pytest"}


@pytest.mark.parametrize(
    "option, where", [("--setup-only", "command line"), ("--setup-plan", "PYTEST_ADDOPTS"), ("--runxfail", "ini")]
)
def test_options_that_ask_nothing(sound: Place, option: str, where: str) -> None:
    """An option with which nothing is asked breaks the run by its name, wherever it stands.

    pytest has made one value of the option by then: that each of them is refused stands in test_interpreter.py.
    """
    sound.plant_report()
    ini = sound.root / "pytest.ini"
    before = ini.read_text()
    try:
        if where == "ini":
            ini.write_text(before.replace("addopts = ", f"addopts = {option} "))
            broken(sound, command(sound), f"{option} is set")
        options = [option] if where == "command line" else []
        environ = {"PYTEST_ADDOPTS": option} if where == "PYTEST_ADDOPTS" else {}
        started = plain(sound, *options, **environ)
    finally:
        ini.write_text(before)
    broken(sound, started, f"{option} is set")
    assert SAYS_WHERE[where] in started.output


@pytest.mark.parametrize("option", ["--co", "--fixtures", "-h"])
def test_lists_that_nobody_asked_for(sound: Place, option: str) -> None:
    """What was typed shows its list; set elsewhere it would be exit code 0 for a run that never was."""
    assert plain(sound, option).process.returncode == 0
    started = plain(sound, PYTEST_ADDOPTS=option)
    assert started.process.returncode == 4, started.output
    assert "in PYTEST_ADDOPTS" in started.output
    assert " is set, and " in started.output


INI = {
    "--collect-only": "--collect-only is set",
    "--help": "--help is set",
    "--version --version": "--version is set",
    "--noconftest": "before conftest.py took control of the run: see addopts in pytest.ini",
    "-p no:preflight-suite-run": "conftest.py took control of the run",
    "--lf": "before conftest.py took control of the run: see addopts in pytest.ini",
    "-p no:python": "not collected",
    "--ignore=preflight/requirements/test_other.py": "test_other.py::test_other: not collected",
    "--ignore-glob=*other*": "test_other.py::test_other: not collected",
    "-o python_functions=test_h": "test_other.py::test_other: not collected",
    "-o python_files=test_suite.py": "test_other.py::test_other: not collected",
    "--deselect preflight/requirements/test_other.py::test_other": "only a part of the suite ran (a part)",
    "-k holds": "only a part of the suite ran (holds)",
    "-m critical": "only a part of the suite ran (critical)",
}
OTHER = '''
import pytest

@pytest.mark.critical("Other")
def test_other():
    """It fails."""
    assert False, "no"
'''


@pytest.mark.parametrize("options", INI)
def test_addopts_of_the_project(sound: Place, options: str) -> None:
    """Written into pytest.ini, which our own child reads as well: no requirement is lost by it without a word."""
    sound.plant_report()
    sound.write_requirement("other", OTHER)
    ini = sound.root / "pytest.ini"
    before = ini.read_text()
    ini.write_text(before.replace("addopts = ", f"addopts = {options} "))
    try:
        started = command(sound)
    finally:
        ini.write_text(before)
        (sound.root / "preflight" / "requirements" / "test_other.py").unlink()
    assert started.process.returncode == 3
    broken(sound, started, INI[options])


@pytest.mark.parametrize("line", ["python_functions = test_h", "python_files = test_suite.py", "norecursedirs = req*"])
def test_settings_of_pytest(sound: Place, line: str) -> None:
    """A line of pytest.ini with which requirements are not found: the run is broken, or nothing is left out."""
    sound.write_requirement("other", OTHER)
    ini = sound.root / "pytest.ini"
    before = ini.read_text()
    ini.write_text(f"{before}{line}\n")
    try:
        started = command(sound)
        if "norecursedirs" in line:  # the launcher's run names the folders itself
            assert started.process.returncode == 1, started.output
            assert sound.check("Other")["outcome"] == "failed"
        else:
            broken(sound, started, "test_other.py::test_other: not collected")
            assert started.process.returncode == 3
            assert plain(sound).process.returncode == 4
            assert sound.report()["status"] == "broken"
    finally:
        ini.write_text(before)
        (sound.root / "preflight" / "requirements" / "test_other.py").unlink()


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


LOST = {
    "skipped as a whole": ("import pytest\npytest.skip('not here', allow_module_level=True)\n" + OTHER, "not here"),
    "importorskip": ("import pytest\npytest.importorskip('nowhere_at_all')\n" + OTHER, "left out as a whole"),
    "no test any more": (OTHER + "test_other.__test__ = False\n", "test_other.py::test_other: not collected"),
    "twice the name": (OTHER + OTHER.replace("False", "True"), "test_other.py::test_other, replaced by another"),
    "gone again": (OTHER + "del test_other\n", "test_other.py::test_other: not collected"),
}


@pytest.mark.parametrize("how", LOST)
def test_lost_on_the_way(sound: Place, how: str) -> None:
    """A requirement that stands in a file and is not asked breaks the run."""
    source, said = LOST[how]
    sound.plant_report()
    sound.write_requirement("other", source)
    try:
        broken(sound, command(sound), said)
    finally:
        (sound.root / "preflight" / "requirements" / "test_other.py").unlink()


EACH = "def pytest_collection_modifyitems(items):\n    for one in items:\n        "
HIJACKS = {
    "pytest_pyfunc_call": "import pytest\n@pytest.hookimpl(tryfirst=True)\ndef pytest_pyfunc_call(): return True\n",
    "runtest": f"{EACH}one.runtest = lambda: None\n",
    "a body that does nothing": f"import functools\n{EACH}one.obj = functools.wraps(one.obj)(lambda **_: None)\n",
    "another function": f"def other(**_): 'Holds.'\n{EACH}one.obj = other\n",
    "another one's function": f"{EACH}one.obj = items[1].obj\n",
    "another function at once": (
        "def other(): 'Holds.'\ndef pytest_pycollect_makeitem(collector, name, obj):\n"
        "    if name == 'test_holds_not':\n"
        "        other.pytestmark = obj.pytestmark\n        setattr(collector.obj, name, other)\n"
    ),
    "made-up stages": (
        "from _pytest.runner import CallInfo\ndef pytest_runtest_protocol(item):\n"
        "    for when in ('setup', 'call', 'teardown'):\n        call = CallInfo.from_call(lambda: None, when)\n"
        "        report = item.ihook.pytest_runtest_makereport(item=item, call=call)\n"
        "        item.ihook.pytest_runtest_logreport(report=report)\n    return True\n"
    ),
    "its code": (
        f"{EACH}names = {{}}\n        exec(compile(open(one.path).read(), str(one.path), 'exec', optimize=1), names)\n"
        "        one.obj.__code__ = names[one.name].__code__\n"
    ),
}
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


@pytest.mark.parametrize(
    "place, source",
    [
        *(pytest.param("preflight/requirements/conftest.py", source, id=how) for how, source in HIJACKS.items()),
        pytest.param("hijack.py", HIJACKS["pytest_pyfunc_call"], id="plugin"),
        pytest.param("sitecustomize.py", SITE, id="sitecustomize"),
    ],
)
def test_a_body_that_never_runs(unsound: Place, place: str, source: str) -> None:
    """Whoever keeps a requirement's own body from running, or puts another one in its place, breaks the run.

    Plain pytest and the command look at it in one way; two of the command's are here for all of them.
    """
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
