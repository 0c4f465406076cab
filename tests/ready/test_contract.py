"""What every ready-made requirement keeps to: variables, deadlines, what it shows, and that none is lost."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preflight import making, ready
from preflight.contract import Details
from preflight.making import Ask, Failure, requirement
from preflight.ready import CATALOGUE
from tests.ready.asking import CANARY, ask

ROOT = Path(__file__).parents[2]

EXAMPLES: dict[str, Callable[..., Any]] = {
    "api_key": lambda **more: ready.api_key("OPENAI_API_KEY", **more),
    "model": lambda **more: ready.model("OPENAI_API_KEY", "gpt-4o-mini", **more),
    "model_file": lambda **more: ready.model_file("model.onnx", **more),
    "mcp_server": lambda **more: ready.mcp_server(["my-server"], **more),
    "postgres": lambda **more: ready.postgres("DATABASE_URL", **more),
    "migrations": lambda **more: ready.migrations(**more),
    "redis": lambda **more: ready.redis("REDIS_URL", **more),
    "sqlite": lambda **more: ready.sqlite("app.db", **more),
    "http": lambda **more: ready.http("SERVICE_URL", **more),
    "tcp": lambda **more: ready.tcp("SERVICE", **more),
    "dns": lambda **more: ready.dns("db.internal", **more),
    "tls": lambda **more: ready.tls("api.example.com:443", **more),
    "executable": lambda **more: ready.executable("ffmpeg", **more),
    "file": lambda **more: ready.file("prompts.yaml", **more),
    "folder": lambda **more: ready.folder("uploads", **more),
    "disk": lambda **more: ready.disk("uploads", free=10 << 30, **more),
    "memory": lambda **more: ready.memory(available=2 << 30, **more),
    "variable": lambda **more: ready.variable("REGION", **more),
    "distribution": lambda **more: ready.distribution("torch>=2.4", **more),
    "no_conflicts": lambda **more: ready.no_conflicts(**more),
}


def always(_ask: Ask) -> str:
    return "fine"


def content(answer: Any, details: Details) -> None:
    details.summary = str(answer)


def test_the_catalogue_is_documented() -> None:
    """The table of docs/ready.md has a row for each, with all that is said of it."""
    text = (ROOT / "docs" / "ready.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("| `")] == rows()


def rows() -> list[str]:
    """Print them with ``python -c "from tests.ready.test_contract import rows; print(*rows(), sep='\\n')"``."""
    found = []
    for name, entry in CATALOGUE.items():
        mark = EXAMPLES[name]().pytestmark[0]
        extra = f"`{entry.extra}`" if entry.extra else ""
        found.append(f"| `{name}` | {mark.args[0]} | {extra} | {entry.asks} | {entry.costs} | {mark.kwargs['fix']} |")
    return found


@pytest.mark.parametrize("name", CATALOGUE)
def test_each_is_a_requirement(name: str) -> None:
    """Every factory makes a marked test with title, docstring and fix, and takes others in their place."""
    made = EXAMPLES[name]()
    mark = made.pytestmark[0]
    assert mark.name in ("critical", "warning")
    assert mark.args[0]
    assert mark.kwargs["fix"]
    assert made.__doc__
    said = {"severity": "warning", "title": "Mine", "fix": "mend it", "doc": "It is mine.", "scope": "fleet"}
    other = EXAMPLES[name](**said, timeout=7.0)
    mark = other.pytestmark[0]
    assert (mark.name, mark.args[0], mark.kwargs["fix"], other.__doc__) == ("warning", "Mine", "mend it", "It is mine.")
    assert (mark.kwargs["scope"], getattr(other, making.ATTRIBUTE).timeout) == ("fleet", 7.0)


def test_each_can_be_shared_by_the_fleet() -> None:
    """Each factory hands the scope on to its marker, and says of a wrong one which there are."""
    for name, example in EXAMPLES.items():
        assert example(scope="fleet").pytestmark[0].kwargs["scope"] == "fleet", name
        assert example().pytestmark[0].kwargs["scope"] == "instance", name
    with pytest.raises(ValueError, match="'galaxy', but must be 'instance' or 'fleet'"):
        ready.no_conflicts(scope="galaxy")


def test_every_extra_is_one_of_ours() -> None:
    """The command that installs what is missing names an extra that there is."""
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {entry.extra for entry in CATALOGUE.values()} - {""} <= set(extras)


@pytest.mark.parametrize(
    "environ, message",
    [
        ({}, "SERVICE is not set"),
        ({"SERVICE": ""}, "SERVICE is empty in the environment"),
        ({"SERVICE": "  "}, "SERVICE is empty in the environment"),
        ({"SERVICE": f'"{CANARY}"'}, "SERVICE in the environment has quotes around it"),
    ],
    ids=["missing", "empty", "blank", "quoted"],
)
def test_a_variable_without_a_value(tmp_path: Path, environ: dict[str, str], message: str) -> None:
    """Nobody is asked about a variable that has nothing in it; message and fix name it."""
    asked = threading.Event()
    test = requirement(lambda _ask: asked.set(), content, title="T", doc="D.", variable="SERVICE")
    ended = ask(tmp_path, test, **environ)
    assert (ended.outcome, ended.message[: len(message)]) == ("failed", message)
    assert "SERVICE" in ended.fix
    assert not asked.is_set()


def test_an_optional_variable(tmp_path: Path) -> None:
    """One that may be missing is asked about all the same."""
    test = requirement(always, content, title="T", doc="D.", variable="SERVICE", optional=True)
    assert ask(tmp_path, test).outcome == "passed"


def test_an_async_probe(tmp_path: Path) -> None:
    """A probe may be a coroutine."""

    async def probe(ask: Ask) -> str:
        await asyncio.sleep(0)
        return ask.value

    test = requirement(probe, content, title="T", doc="D.", variable="NAME")
    assert ask(tmp_path, test, NAME="value").message == "value"


def hangs(_ask: Ask) -> None:
    threading.Event().wait()


async def hangs_too(_ask: Ask) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("probe", [hangs, hangs_too])
def test_a_probe_that_hangs(tmp_path: Path, probe: Any) -> None:
    """It ends with its own deadline, wherever it hangs."""
    ended = ask(tmp_path, requirement(probe, content, title="T", doc="D.", timeout=0.2))
    assert (ended.outcome, ended.message) == ("failed", "no answer within 0.2 s")


def test_all_are_asked_at_once(tmp_path: Path) -> None:
    """Each of several waits for the others to have begun: asked one after the other, the first would wait for ever."""
    from preflight.settings import loading
    from preflight.suite.probes.answers import Answers

    (tmp_path / "pyproject.toml").touch()
    together = threading.Barrier(5)
    tests = [
        requirement(lambda _ask: together.wait(30), content, title=f"T{number}", doc="D.", timeout=60)
        for number in range(5)
    ]
    answers = Answers(loading.load(tmp_path, {"HOME": str(tmp_path)}))
    answers.start([getattr(test, making.ATTRIBUTE) for test in tests])
    for test in tests:
        test(answers, Details())


def test_a_probe_that_is_certain(tmp_path: Path) -> None:
    """Its message is the requirement's, and its fix takes the place of another."""

    def probe(_ask: Ask) -> None:
        raise Failure("it is off", "switch it on")

    ended = ask(tmp_path, requirement(probe, content, title="T", doc="D.", fix="look at it"))
    assert (ended.outcome, ended.message, ended.fix) == ("failed", "it is off", "switch it on")


@pytest.mark.parametrize("said, fix", [({}, "grow it"), ({"fix": ""}, "grow it"), ({"fix": "ask Anna"}, "")])
def test_whose_fix_counts(tmp_path: Path, said: making.Instead, fix: str) -> None:
    """A judge may know better than its factory, and a suite knows better than both: then the marker's is shown."""

    def judge(_answer: Any, details: Details) -> None:
        details.fix = "grow it"
        raise AssertionError("it is too small")

    test: Any = requirement(always, judge, title="T", doc="D.", fix="look at it", instead=said)
    ended = ask(tmp_path, test)
    assert (ended.message, ended.fix) == ("it is too small", fix)
    assert test.pytestmark[0].kwargs["fix"] == (said.get("fix") or "look at it")


def test_a_probe_that_is_broken(tmp_path: Path) -> None:
    """An exception that nobody has foreseen is neither a pass nor unknown: it is an error, which blocks."""

    def probe(_ask: Ask) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(tmp_path, requirement(probe, content, title="T", doc="D."))


def test_a_severity_that_is_none() -> None:
    """It is refused where it is written."""
    with pytest.raises(ValueError, match="'blocker'"):
        requirement(always, content, title="T", doc="D.", severity="blocker")


@pytest.mark.parametrize(
    "value, message",
    [
        (f"mysql://me:{CANARY}@host/db", "URL is the URL of something else (mysql://), not the URL of a thing"),
        (f"{CANARY}://host", "URL is the URL of something else, not the URL of a thing"),
        (CANARY, "URL is not the URL of a thing: it does not begin with thing://"),
        (f"{CANARY}:5432/db", "URL is not the URL of a thing: it does not begin with thing://"),
        (f"thing://me@host:{CANARY}/db", "URL is not the URL of a thing: its port is not a number"),
        (f"thing://me:a/{CANARY}@host/db", "URL is not the URL of a thing: its port is not a number"),
        (f"thing:///{CANARY}", "URL has no host in it"),
    ],
)
def test_a_url_that_is_wrong(value: str, message: str) -> None:
    """What is wrong with it is said without a part of it."""
    with pytest.raises(Failure) as failure:
        making.url(Ask(value, "URL"), ["thing"], "the URL of a thing")
    assert str(failure.value).startswith(message)
    assert CANARY not in f"{failure.value} {failure.value.fix}"


@pytest.mark.slow  # beside a .venv of the project's own, the fix asks that one
def test_a_library_that_is_missing() -> None:
    """The command that installs it is the fix."""
    with pytest.raises(Failure) as failure:
        making.imported("no_such_library_at_all", "postgres")
    assert "no_such_library_at_all is not installed" in str(failure.value)
    assert failure.value.fix.endswith(" install 'pytest-preflight[postgres]'")


@pytest.mark.slow
def test_nothing_is_imported_before_it_is_used() -> None:
    """The catalogue costs a suite no client of anything: neither at import nor when a requirement is made."""
    code = """if True:
        import sys
        from preflight import ready
        for name in ready.CATALOGUE:
            getattr(ready, name)
        ready.postgres("URL"); ready.redis("URL"); ready.mcp_server("URL"); ready.http("URL")
        ready.api_key("OPENAI_KEY")
        print(*sorted({"psycopg", "redis", "mcp", "httpx2", "alembic", "pydantic", "asyncpg"} & set(sys.modules)))
    """
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == ""


def test_names_are_functions_however_often_they_are_asked_for() -> None:
    """No module of the package takes the place of a factory that is called the same."""
    for name in [*CATALOGUE, *CATALOGUE]:
        assert inspect.isfunction(getattr(ready, name)), name


def test_an_unknown_name() -> None:
    """It is an AttributeError, as of any module."""
    with pytest.raises(AttributeError, match="no attribute 'mongodb'"):
        ready.mongodb  # noqa: B018  # that it is asked for is the question


@pytest.mark.parametrize(
    "made",
    [
        lambda: ready.http(f"https://me:{CANARY}@host/"),
        lambda: ready.http("https://host/?api_key=abc"),
        lambda: ready.tcp(f"postgres://me:{CANARY}@host/db"),
        lambda: ready.tls(f"https://me:{CANARY}@host"),
        lambda: ready.mcp_server(f"https://me:{CANARY}@host/mcp"),
        lambda: ready.mcp_server(["server", "--key", "sk-proj-abcdefghijklmnopqrstuvwx"]),
        lambda: ready.postgres(f"postgres://me:{CANARY}@host/db"),
        lambda: ready.redis("redis://host"),
        lambda: ready.api_key("sk-proj-abcdefghijklmnopqrstuvwx", "openai"),
        lambda: ready.api_key("OPENAI_API_KEY", base=f"https://me:{CANARY}@host"),
        lambda: ready.variable("ghp_abcdefghijklmnopqrstuvwxyz0123456789"),
    ],
    ids=["http", "query", "tcp", "tls", "mcp", "command", "postgres", "redis", "api_key", "base", "variable"],
)
def test_a_value_in_place_of_a_name(made: Callable[[], Any]) -> None:
    """It is refused where it is written, and not said again."""
    with pytest.raises(ValueError, match=r"never its value|belongs in a variable") as refused:
        made()
    assert CANARY not in str(refused.value)
    assert "sk-proj" not in str(refused.value)
