"""Answers that a later stage takes back, requirements in odd places, and a port that is asked for too early."""

from __future__ import annotations

import pytest

from tests.e2e.place import READY, Place, Started

DEMO = ("--demo", "--app", "small:app")
HEAD = "import threading\nimport pytest\nfrom preflight import not_applicable, unknown\n"
FAILS = 'def {}:\n    """It fails."""\n    assert False, "it fails"\n'
JUDGES = '@pytest.mark.critical("Judges")\n' + FAILS

pytestmark = pytest.mark.usefixtures("unmeasured")


def checked(project: Place) -> Started:
    return project.refused(*DEMO, "--check-only")


def inside(source: str, depth: int = 1) -> str:
    return "".join(f"{'    ' * depth}{line}\n" for line in source.splitlines())


# What a requirement has said stays said.

CLEANS_UP = '@pytest.fixture\ndef it():\n    yield\n    {}("it has gone")\n'


@pytest.mark.parametrize("word", ["unknown", "not_applicable"])
def test_a_fixture_that_has_no_answer_at_its_end(project: Place, word: str) -> None:
    """A requirement that failed has failed, whatever its fixtures say when they are cleaned up."""
    project.write_requirement("judges", HEAD + CLEANS_UP.format(word) + JUDGES.format("test_judges(it)"))
    assert checked(project).process.returncode == 1
    check = project.check("Judges")
    assert (check["outcome"], check["message"]) == ("failed", "it fails")


def test_a_fixture_whose_end_fails(project: Place) -> None:
    """One that held and could not be cleaned up is in error; only the other way round the first word counts."""
    body = '@pytest.mark.critical("Judges")\ndef test_judges(it):\n    """It holds."""\n'
    source = '@pytest.fixture\ndef it():\n    yield\n    raise OSError("still open")\n'
    project.write_requirement("judges", HEAD + source + body)
    assert checked(project).process.returncode == 1
    assert "its tear-down raised OSError: still open" in project.check("Judges")["message"]


RAISES = {'raise OSError("still open")': "OSError", 'pytest.fail("still open")': "Failed"}


@pytest.mark.parametrize("raises", RAISES)
@pytest.mark.parametrize("scope", ["class", "module", "session"])
def test_a_shared_fixture_whose_end_fails(project: Place, scope: str, raises: str) -> None:
    """pytest raises it after the last requirement there; the critical one that relied on it is in error, too."""
    shared = f'@pytest.fixture(scope="{scope}")\ndef it():\n    yield\n    {raises}\n'
    uses = '    @pytest.mark.critical("Judges")\n    def test_judges(self, it):\n        """It holds."""\n'
    last = '    @pytest.mark.warning("Last")\n    def test_last(self):\n        """It holds."""\n'
    project.write_requirement("judges", HEAD + shared + "class TestIt:\n" + uses + last)
    assert checked(project).process.returncode == 1
    said = (
        f"a fixture that it shares with other requirements failed while it was cleaned up: {RAISES[raises]}: still open"
    )
    assert (project.check("Judges")["outcome"], project.check("Judges")["message"]) == ("error", said)


def test_a_shared_fixture_of_one_that_may_fail(project: Place) -> None:
    """What the settings let go is let go when it is not cleaned up as well."""
    shared = '@pytest.fixture(scope="module")\ndef it():\n    yield\n    raise OSError("still open")\n'
    uses = '@pytest.mark.critical("Judges")\ndef test_judges(it):\n    """It holds."""\n'
    last = '@pytest.mark.warning("Last")\ndef test_last():\n    """It holds."""\n'
    project.write_requirement("judges", HEAD + shared + uses + last)
    assert project.run(*DEMO, "--check-only", "--ignore", "Judges").process.returncode == 0
    assert project.check("Judges")["outcome"] == "ignored"


def test_a_fixture_of_its_own_that_fails_at_its_end(project: Place) -> None:
    """A warning whose own fixture fails at its end harms nobody who comes after it."""
    own = '@pytest.fixture\ndef it():\n    yield\n    pytest.fail("still open")\n'
    first = '@pytest.mark.warning("First")\ndef test_first(it):\n    """It holds."""\n'
    project.write_requirement("aaa", HEAD + own + first)
    second = '@pytest.mark.critical("Second")\ndef test_second():\n    """It holds."""\n'
    project.write_requirement("bbb", HEAD + second)
    assert project.run(*DEMO, "--check-only").process.returncode == 0
    assert (project.check("First")["outcome"], project.check("Second")["outcome"]) == ("error", "passed")


def test_a_shared_fixture_of_warnings_whose_end_fails(project: Place) -> None:
    """It blocks nothing where no critical requirement relied on it."""
    shared = '@pytest.fixture(scope="module")\ndef it():\n    yield\n    raise OSError("still open")\n'
    first = '@pytest.mark.critical("First")\ndef test_first():\n    """It holds."""\n'
    last = '@pytest.mark.warning("Last")\ndef test_last(it):\n    """It holds."""\n'
    project.write_requirement("judges", HEAD + shared + first + last)
    assert project.run(*DEMO, "--check-only").process.returncode == 0
    assert (project.check("First")["outcome"], project.check("Last")["outcome"]) == ("passed", "error")


def test_a_thread_of_a_fixture(project: Place) -> None:
    """An assertion of a thread that a fixture waited for is heard, like that of a requirement's own."""
    source = "@pytest.fixture\ndef it():\n    one = threading.Thread(target=says)\n    one.start()\n    one.join()\n"
    holds = '@pytest.mark.critical("Judges")\ndef test_judges(it):\n    """It holds."""\n'
    project.write_requirement("judges", HEAD + FAILS.format("says()") + source + holds)
    assert checked(project).process.returncode == 1
    assert "its set-up raised AssertionError: it fails" in project.check("Judges")["message"]


# Where requirements stand.

PARAMETERS = '@pytest.mark.parametrize("a", [pytest.param(1, marks=pytest.mark.critical("Judges"))])\n'
ODD = {
    "class_in_class": "class Outer:\n    class TestInner:\n" + inside(JUDGES.format("test_it(self)"), 2),
    "class_in_tests": "class TestOuter:\n    class Inner:\n" + inside(JUDGES.format("test_it(self)"), 2),
    "marked_class": '@pytest.mark.critical("Judges")\nclass Keys:\n' + inside(FAILS.format("test_it(self)")),
    "mark_inside": 'class TestKeys:\n    pytestmark = pytest.mark.critical("Judges")\n'
    + inside(FAILS.format("check_it(self)")),
    "marked_parameters": PARAMETERS + FAILS.format("check_it(a)"),
    "marked_file": 'pytestmark = pytest.mark.critical("Judges")\n' + FAILS.format("check_it()"),
}
FILES = {
    "mark_for_all": 'import pytest\npytestmark = [pytest.mark.critical("Judges")]\n' + FAILS.format("test_it()"),
    "renamed_mark": "from pytest import mark as m\nmust = m.critical\n@must('Judges')\n" + FAILS.format("test_it()"),
    "marked_parameters": "import pytest\n" + PARAMETERS + FAILS.format("test_it(a)"),
}


def test_marked_and_passed_over(project: Place) -> None:
    """What is marked as a requirement is asked, or the run is broken, however the mark has come to it."""
    for name, source in ODD.items():
        project.write_requirement(name, HEAD + source)
    one = checked(project)
    assert one.process.returncode == 3
    for name in ODD:
        assert f"preflight/requirements/test_{name}.py::" in one.output


def test_files_with_names_of_their_own(project: Place) -> None:
    """So is what stands in a file that is not called like a file of requirements."""
    for name, source in FILES.items():
        (project.root / "preflight" / "requirements" / f"{name}.py").write_text(source)
    one = checked(project)
    assert one.process.returncode == 3
    for name in FILES:
        assert f"preflight/requirements/{name}.py, whose name is not that of" in one.output


def test_marks_that_come_from_a_base_class(project: Place) -> None:
    """A class that only brings the mark, or only the body, is asked through those that are made of it."""
    mark = 'class Marked:\n    pytestmark = pytest.mark.critical("First")\nclass TestFirst(Marked):\n'
    body = '@pytest.mark.critical("Second")\nclass Body:\n'
    holds = inside('def test_it(self):\n    """It holds."""\n')
    project.write_requirement("based", HEAD + mark + holds + body + holds + "class TestSecond(Body):\n    pass\n")
    assert project.run(*DEMO, "--check-only").process.returncode == 0
    assert project.check("First")["outcome"] == project.check("Second")["outcome"] == "passed"


# Nothing is stopped for a start that does not go ahead.

SESSION = '@pytest.fixture(scope="session")\ndef it():\n    yield\n    raise OSError("still open")\n'
HOLDS = '@pytest.mark.critical("Judges")\ndef test_judges(it):\n    """It holds."""\n'
ASKS = '@pytest.mark.warning("Asks")\ndef test_asks(request):\n    """It asks."""\n    request.getfixturevalue("port")'
WRAPPED = "@pytest.hookimpl(wrapper=True, tryfirst=True)\n"
REVERSES = {
    "of what was collected": (
        WRAPPED + "def pytest_collection_modifyitems(items):\n    yield\n    items.reverse()\n",
        "Judges",  # the port is last again, and what fails blocks it
    ),
    "at the last moment": (
        "def pytest_collection_finish(session):\n    session.items.reverse()\n",
        "the fixture port was used before",
    ),
}


def refused_beside_a_listener(project: Place) -> Started:
    listener = project.listener()
    one = project.start(*DEMO)
    assert one.wait() in (1, 3), one.output
    assert READY not in one.output
    assert listener.process.poll() is None, one.output
    return one


def test_a_fixture_of_the_session_whose_end_fails(project: Place) -> None:
    """What fixtures say at the end of all is heard before the port is freed."""
    project.write_requirement("judges", HEAD + SESSION + HOLDS)
    assert "its tear-down raised OSError: still open" in refused_beside_a_listener(project).output


def test_a_requirement_that_takes_the_port_early(project: Place) -> None:
    """Who asks for the port in passing gets no port that is freed: the run is broken, and says of what."""
    project.write_requirement("asks", HEAD + ASKS)
    project.write_requirement("judges", HEAD + JUDGES.format("test_judges()"))
    assert "the fixture port was used before" in refused_beside_a_listener(project).output


@pytest.mark.parametrize("order", REVERSES)
def test_a_plugin_that_changes_the_order(project: Place, order: str) -> None:
    """The port comes last, or it is not freed."""
    source, said = REVERSES[order]
    (project.root / "preflight" / "requirements" / "conftest.py").write_text("import pytest\n" + source)
    project.write_requirement("judges", HEAD + JUDGES.format("test_judges()"))
    banner = refused_beside_a_listener(project).output.partition("❌")[2]
    assert said in banner


# What is known stays inside, wherever it was typed.


def test_a_key_in_place_of_a_host(project: Place) -> None:
    """A report and its name in the history hold no key, though it was typed as the address to serve on."""
    key = "Zq7vXw2LmN8pRt4KdY6hJb3Ftail9351"
    one = project.refused(*DEMO, "--check-only", "--host", f"{key}.invalid", MY_API_KEY=key)
    assert key[-14:] not in one.output
    files = [path for path in project.state.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert key[-14:] not in path.name
        assert key[-14:] not in path.read_text()
