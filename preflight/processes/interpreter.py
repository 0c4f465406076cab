"""Which variables and options of Python and pytest can change what a run means, and what is done about each.

The environment that the launcher gives to its children is made from these tables. Whether assertions are executed in a
run, plain pytest's included, the suite asks itself: preflight/suite/soundness/execution.py. docs/meaning.md shows the
same tables.

It does not know what a requirement is, and imports nothing heavy: the launcher loads it before it has started anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from preflight.project import PACKAGE

PASSED = "passed on"
DROPPED = "dropped"


class PythonVariable(NamedTuple):
    """One variable, and whether our children get it."""

    name: str
    """Its name; one that ends in ``*`` stands for all with this beginning that have no row of their own."""
    changes: str
    suite: str = DROPPED
    """For the suite and for the process that sends notifications. What the env file says never reaches them."""
    worker: str = PASSED
    """For the worker; the env file's, too: how the application is run is its own affair."""


VARIABLES = (
    PythonVariable("PYTHONOPTIMIZE", "removes assertions (`1`), and docstrings as well (`2`)"),
    PythonVariable("PYTHONSAFEPATH", "keeps the project's folder off the path", worker=DROPPED),
    PythonVariable(
        "PYTHONINSPECT", "replaces a process's exit code with that of an interactive session", worker=DROPPED
    ),
    PythonVariable("PYTHONUNBUFFERED", "nothing: both children write at once in any case"),
    PythonVariable("PYTHONWARNINGS", "turns warnings of other packages into errors"),
    PythonVariable("PYTHONDEVMODE", "turns on warnings, debug hooks and slow allocators"),
    PythonVariable("PYTHONBREAKPOINT", "runs any function that it names at `breakpoint()`"),
    PythonVariable("PYTHONSTARTUP", "runs a file before an interactive session"),
    PythonVariable("PYTHON_PRESITE", "imports a module before everything else (debug builds)"),
    PythonVariable("PYTHONIOENCODING", "makes output fail if that encoding cannot express it"),
    PythonVariable("PYTHONHOME", "where the standard library is", suite=PASSED),
    PythonVariable("PYTHONPLATLIBDIR", "where the standard library is", suite=PASSED),
    PythonVariable("PYTHONEXECUTABLE", "what `sys.executable` says (macOS)", suite=PASSED),
    PythonVariable("PYTHONPATH", "where modules are found", suite=PASSED),
    PythonVariable("PYTHONUSERBASE", "where the user's own packages are", suite=PASSED),
    PythonVariable("PYTHONNOUSERSITE", "whether the user's own packages are found", suite=PASSED),
    PythonVariable(
        "PYTHONPYCACHEPREFIX", "where compiled modules are; they are compared with their source", suite=PASSED
    ),
    PythonVariable("PYTHONDONTWRITEBYTECODE", "whether compiled modules are written", suite=PASSED),
    PythonVariable("PYTHONHASHSEED", "the order of sets", suite=PASSED),
    PythonVariable("PYTHONUTF8", "the encoding of files", suite=PASSED),
    PythonVariable("PYTHONCOERCECLOCALE", "the encoding of files in the C locale", suite=PASSED),
    PythonVariable(
        "PYTHON*", "other behaviour of Python, in this or a later release, such as its use of time and memory"
    ),
    PythonVariable("PYTEST_ADDOPTS", "every option of pytest"),
    PythonVariable("PYTEST_PLUGINS", "loads plugins, which can do anything"),
    PythonVariable("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "nothing: the suite loads only the plugins that it names"),
    PythonVariable("PYTEST_*", "other behaviour of pytest, in this or a later release (debugging, themes)"),
)

_SUITE = {variable.name: variable.suite for variable in VARIABLES}
_WORKER = {variable.name: variable.worker for variable in VARIABLES}


_BEGINNINGS = ("PYTHON", "PYTEST_")


def is_pythons(name: str) -> bool:
    """Whether a variable of this name says how Python or pytest runs."""
    return name.startswith(_BEGINNINGS)


def _passed(name: str, decided: Mapping[str, str]) -> bool:
    for beginning in _BEGINNINGS:
        if name.startswith(beginning):
            return decided.get(name, decided[f"{beginning}*"]) == PASSED
    return True


def for_suite(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of the suite, and of the sender: ``environ``, or our own, with an interpreter as it should be.

    Python's and pytest's variables are always our own: those in ``environ`` may come from the env file.
    """
    own = os.environ
    environ = own if environ is None else environ
    kept = {name: value for name, value in environ.items() if not is_pythons(name)}
    kept |= {name: own[name] for name in own if is_pythons(name) and _passed(name, _SUITE)}
    kept["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return kept


def for_worker(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of the worker: the application's, without what would keep the worker itself from running."""
    return {name: value for name, value in environ.items() if _passed(name, _WORKER)}


def options(folder: Path, *, distrusts_caches: bool = False) -> list[str]:
    """The options of the interpreter for a child of ours that works in ``folder``.

    A folder without our own package stays off the child's path, so that a project's module with the name of one of
    ours, or of the standard library's, is not found before ours. A child that needs the project's modules calls
    :func:`put_first` later.

    Options that say where modules may come from (``-E``, ``-s``, and ``-I``, which is both and ``-P``) are passed on;
    those that say how code is run (``-O``, ``-W``, ``-X``) are the launcher's own: an application that wants them has
    variables for that. ``distrusts_caches``: a compiled module that says it need not be compared with its source is
    compared with it.
    """
    chosen = ["-u"]  # and not PYTHONUNBUFFERED, which would reach what the application starts
    if distrusts_caches:
        chosen += ["--check-hash-based-pycs", "always"]
    if not (folder / "preflight").exists() or (folder / "preflight").resolve() != PACKAGE.resolve():
        chosen.append("-P")
    if sys.flags.ignore_environment:
        chosen.append("-E")
    if sys.flags.no_user_site:
        chosen.append("-s")
    return chosen


def put_last(folders: Iterable[Path]) -> None:
    """Move folders that were put first on the path behind all others: they hide nothing that is found without them."""
    for folder in map(str, folders):
        if folder in sys.path:
            sys.path.remove(folder)
            sys.path.append(folder)


def put_first(folder: Path) -> None:
    """Put the project's folder first on the path, where a server that is started in that folder has it."""
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))


# How an option of pytest is answered.
REFUSED = "refused"
REPORTED = "reported"
NOTICED = "noticed"
OVERRULED = "overruled"
HARMLESS = "harmless"
ANSWERS = {
    REFUSED: "the run is broken, and says which option it was",
    REPORTED: "the run says that only a part of the suite ran: plain pytest allows it, and no server starts on it",
    NOTICED: "the run notices the option's effect, wherever it was set: the run is broken, or the check fails",
    OVERRULED: "the option is meant for the project's own tests: it counts only on pytest's own command line",
    HARMLESS: "the option changes nothing that a run says",
}


class Option(NamedTuple):
    """One option of pytest, wherever it stands: on the command line, in PYTEST_ADDOPTS or in ``addopts``."""

    names: tuple[str, ...]
    changes: str
    answer: str
    attribute: str = ""
    """The attribute in which pytest keeps it; only for options that are refused."""
    lists: bool = False
    """It shows something instead of running: it is refused where it was not typed on pytest's own command line."""


OPTIONS = (
    Option(("--setup-only", "--setuponly"), "no requirement is checked", REFUSED, "setuponly"),
    Option(("--setup-plan", "--setupplan"), "no requirement is checked", REFUSED, "setupplan"),
    Option(
        ("--runxfail",), "a requirement that reports that it has no answer continues, and can pass", REFUSED, "runxfail"
    ),
    Option(("--collect-only", "--co", "--collectonly"), "the requirements are listed", REFUSED, "collectonly", True),
    Option(("--help", "-h"), "options are listed", REFUSED, "help", True),
    Option(("--version", "-V"), "a version is shown", REFUSED, "version", True),
    Option(("--markers",), "markers are listed", REFUSED, "markers", True),
    Option(("--fixtures", "--funcargs"), "fixtures are listed", REFUSED, "showfixtures", True),
    Option(("--fixtures-per-test",), "fixtures are listed", REFUSED, "show_fixtures_per_test", True),
    Option(("--cache-show",), "the cache is listed", REFUSED, "cacheshow", True),
    Option(("-k", "-m", "--deselect"), "requirements are left out", REPORTED),
    Option(("--ignore", "--ignore-glob", "files and folders as arguments"), "files are left out", REPORTED),
    Option(("--lf", "--ff", "--nf", "--sw"), "requirements are left out or put in another order", REPORTED),
    Option(
        (
            "-o python_files",
            "-o python_functions",
            "-o python_classes",
            "-o norecursedirs",
            "-o collect_imported_tests",
            "--collect-in-virtualenv",
        ),
        "requirements are not found",
        NOTICED,
    ),
    Option(
        ("-o pythonpath",),
        "other modules are found, such as a test's doubles of those that a requirement uses",
        OVERRULED,
    ),
    Option(("-x", "--maxfail"), "the run ends early", NOTICED),
    Option(("--continue-on-collection-errors",), "a file that cannot be imported is skipped", NOTICED),
    Option(("--noconftest", "--confcutdir", "-p no:NAME"), "the plugin that controls the run is kept out", NOTICED),
    Option(("-p NAME",), "a plugin, which can do anything", NOTICED),
    Option(("--pdb", "--trace"), "a debugger interrupts the requirements", NOTICED),
    Option(("-W", "--pythonwarnings", "-o filterwarnings"), "a warning becomes an error, which blocks", NOTICED),
    Option(("-n", "--dist"), "requirements run in other processes", NOTICED),
    Option(("-c", "--rootdir", "-o addopts"), "which options apply: each has its own row here", HARMLESS),
    Option(("--assert",), "how a failure is shown: assertions are executed either way", HARMLESS),
    Option(("--import-mode", "--pyargs"), "how files become modules", HARMLESS),
    Option(
        ("-o strict", "-o xfail_strict"), "how expected failures count: they are not an answer in any case", HARMLESS
    ),
    Option(("--capture", "-s", "-v", "-q", "-r", "--tb", "--color", "--durations"), "what is shown", HARMLESS),
)


def refused(chosen: object, typed: tuple[str, ...]) -> list[Option]:
    """The options among ``chosen``, pytest's own object, with which a run means something else.

    ``typed`` is pytest's own command line: a user who types ``--collect-only`` there wants a list, and gets it.
    """
    return [
        option
        for option in OPTIONS
        if option.attribute
        and getattr(chosen, option.attribute, None)
        and not (option.lists and any(name in typed for name in option.names))
    ]
