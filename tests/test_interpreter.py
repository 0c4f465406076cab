"""What of Python and pytest can change a run's meaning: the tables, the documentation and the environments."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from preflight.processes import interpreter
from tests.tables import table

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "meaning.md").read_text(encoding="utf-8")


def variables() -> str:
    """Every variable that is decided about."""
    rows = [(f"`{one.name}`", one.changes, one.suite, one.worker) for one in interpreter.VARIABLES]
    return table(("variable", "changes", "suite and sender", "worker"), *rows)


def options() -> str:
    """Every option of pytest that is decided about."""
    rows = [
        (", ".join(f"`{name}`" if name.startswith("-") else name for name in one.names), one.changes, one.answer)
        for one in interpreter.OPTIONS
    ]
    return table(("option of pytest", "effect on a run", "answer"), *rows)


def answers() -> str:
    """What the answers mean."""
    return table(("answer", "means"), *interpreter.ANSWERS.items())


@pytest.mark.parametrize("made", [variables, options, answers])
def test_the_page_says_what_the_code_does(made: Callable[[], str]) -> None:
    """Each row stands in docs/meaning.md word for word, and none too many."""
    assert made() in PAGE, f"docs/meaning.md should have this table:\n\n{made()}\n"


@pytest.mark.slow
def test_variables_of_this_python_are_decided_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python's own help names has a row, or is among the others, of which the suite gets none."""
    told = subprocess.run([sys.executable, "--help-env"], capture_output=True, text=True, check=True).stdout
    names = {word.rstrip(":") for line in told.splitlines() for word in line.split()[:1] if word.startswith("PYTHON")}
    assert len(names) > 10
    monkeypatch.setattr("os.environ", dict.fromkeys(names, "x"))
    kept = {one.name for one in interpreter.VARIABLES if one.suite == interpreter.PASSED}
    assert interpreter.for_suite().keys() == (names & kept) | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD"}


@pytest.fixture
def started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment of our own in which everything is set."""
    for name in ("PYTHONOPTIMIZE", "PYTHONPATH", "PYTHON_SOMETHING_NEW", "PYTEST_ADDOPTS", "PYTEST_NEW", "OTHER"):
        monkeypatch.setenv(name, "ours")


@pytest.mark.usefixtures("started_with")
def test_the_suites_environment() -> None:
    """Python's and pytest's variables are our own or none; all others are those of whoever asks."""
    theirs = {"PYTHONPATH": "theirs", "PYTHONHOME": "theirs", "PYTHONOPTIMIZE": "1", "PYTEST_PLUGINS": "x", "KEY": "k"}
    made = interpreter.for_suite(theirs)
    assert made["PYTHONPATH"] == "ours"
    assert made["KEY"] == "k"
    assert not made.keys() & {"PYTHONHOME", "PYTHONOPTIMIZE", "PYTHON_SOMETHING_NEW", "PYTEST_PLUGINS", "PYTEST_NEW"}
    assert "OTHER" not in made
    assert interpreter.for_suite()["OTHER"] == "ours"


def test_the_workers_environment() -> None:
    """The worker gets what the application is to have, but for what would keep the worker from running."""
    made = interpreter.for_worker({"PYTHONOPTIMIZE": "1", "PYTHONSAFEPATH": "1", "PYTHONINSPECT": "1", "A": "b"})
    assert made == {"PYTHONOPTIMIZE": "1", "A": "b"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "given, passed",
    [((), []), (("-I",), ["-E", "-s"]), (("-E",), ["-E"]), (("-s",), ["-s"]), (("-P", "-OO", "-W", "error"), [])],
)
def test_options_of_the_interpreter(given: tuple[str, ...], passed: list[str]) -> None:
    """Those that say where modules may come from are a child's, too; those that say how code is run are not."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from preflight.processes import interpreter as one; "
    command = [
        sys.executable,
        *given,
        "-c",
        program + "from pathlib import Path; print(*one.options(Path(sys.path[0])))",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["-u", *passed]


@pytest.mark.parametrize("name", [name for one in interpreter.OPTIONS if one.attribute for name in one.names])
def test_an_option_with_which_nothing_is_asked_is_refused(name: str) -> None:
    """Under each of its names, wherever it stands; a list is shown to whoever types its option for pytest itself."""
    from _pytest.config import get_config

    chosen = get_config()._parser.parse_known_args([name])
    (option,) = interpreter.refused(chosen, ())
    assert name in option.names
    assert interpreter.refused(chosen, (name,)) == ([] if option.lists else [option])


if __name__ == "__main__":
    for make in (variables, answers, options):
        print(make(), end="\n\n")
