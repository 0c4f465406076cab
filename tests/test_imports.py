"""What may be imported where import-linter (pyproject.toml) cannot say it: a launcher that stays light, and tests."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUITE = "preflight/requirements/"
FILES = sorted(
    str(path.relative_to(ROOT))
    for path in [ROOT / "run.py", ROOT / "conftest.py", *ROOT.glob("preflight/**/*.py"), *ROOT.glob("server/**/*.py")]
)


def module_of(file: str) -> str:
    """The name that a file is imported by."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(one) for one in FILES}


def packages_of(file: str) -> list[str]:
    """The packages that a file is in, the outermost first."""
    parts = file.split("/")[:-1]
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


@cache
def parsed(file: str) -> ast.Module:
    """A file's syntax, which several tests go through."""
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), file)


@cache
def imports(file: str, *, lazily: bool = True) -> list[str]:
    """The modules that a file imports; ``lazily=False`` leaves out what functions import when they run."""
    return list(_imports(file, lazily=lazily))


def _imports(file: str, *, lazily: bool) -> Iterator[str]:
    waiting: list[ast.AST] = [parsed(file)]
    while waiting:
        node = waiting.pop()
        if not lazily and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _for_types_only(node)):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            assert node.module is not None
            yield node.module
            # "from preflight import ports" imports the module preflight.ports.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting += ast.iter_child_nodes(node)


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def ours(file: str, *, lazily: bool = True) -> set[str]:
    """The project's own modules among what a file imports."""
    return {name for name in imports(file, lazily=lazily) if name in MODULES}


def test_files_are_found() -> None:
    """The rules are held over something."""
    assert {"run.py", "conftest.py", "preflight/report/model.py", "server/app.py"} <= set(FILES)
    assert any(file.startswith(SUITE) for file in FILES)
    assert ours("preflight/web/projection.py") >= {"preflight", "preflight.report.model", "preflight.web.instance"}
    assert "preflight.command.line" in ours("preflight/bootstrap.py")
    assert "preflight.command.line" not in ours("preflight/bootstrap.py", lazily=False)


@pytest.mark.parametrize(
    "file, hears",
    [("run.py", set()), ("preflight/__main__.py", {"preflight.processes", "preflight.processes.signals"})],
)
def test_a_command_imports_bootstrap_alone(file: str, hears: set[str]) -> None:
    """The standard library, and bootstrap when it runs, after the repair of compiled files and once signals are heard.

    run.py hears them by itself.
    """
    assert ours(file) == {"preflight", "preflight.bootstrap", "preflight.bytecode"} | hears
    assert ours(file, lazily=False) == set()
    top = {name.split(".")[0] for name in imports(file, lazily=False)}
    assert top <= sys.stdlib_module_names


def test_the_plugin_imports_nothing_of_ours() -> None:
    """Every pytest of an environment imports it: the standard library and pytest until a run is one of a suite."""
    file = "preflight/plugin.py"
    assert ours(file, lazily=False) == set()
    assert {name.split(".")[0] for name in imports(file, lazily=False)} - sys.stdlib_module_names == {"pytest"}


def test_run_needs_the_standard_library() -> None:
    """Nothing else is imported before Python is known to be new enough."""
    top = {name.split(".")[0] for name in imports("run.py", lazily=False)}
    assert top <= sys.stdlib_module_names


def test_run_is_old_python() -> None:
    """Whoever has an old Python is told so by run.py, and not by a syntax error."""
    ast.parse((ROOT / "run.py").read_text(encoding="utf-8"), feature_version=(3, 7))


@pytest.mark.parametrize(
    "file",
    [
        f"preflight/{name}.py"
        for name in (
            "__init__",
            "__main__",
            "bootstrap",
            "bytecode",
            "commands",
            "dependencies",
            "files",
            "installing",
            "project",
            "processes/signals",
            "output/writer",
        )
    ],
)
def test_standard_library_only(file: str) -> None:
    """What runs before the packages are known to be there imports none of them."""
    outside = {name.split(".")[0] for name in imports(file)} - sys.stdlib_module_names
    assert outside <= {"preflight"}
    assert ours(file, lazily=False) <= {
        "preflight",
        "preflight.commands",
        "preflight.dependencies",
        "preflight.files",
        "preflight.installing",
        "preflight.project",
    }


def test_nobody_imports_the_top() -> None:
    """run.py, the requirements and the conftest are imported by nobody: `python -m server` is run.py's other name."""
    top = [
        (file, name)
        for file in FILES
        for name in imports(file)
        if name in ("run", "conftest") or name.startswith("preflight.requirements")
    ]
    assert top == [("server/__main__.py", "run")]


def test_a_package_is_made_of_its_modules() -> None:
    """The modules of a package import one another, never what the package has put together from them."""
    for file in (file for file in FILES if len(packages_of(file)) > 1):
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.ImportFrom) and node.module in packages_of(file):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                assert names - MODULES <= {"preflight.__version__"}, file


@pytest.mark.slow
def test_launcher_stays_light(tmp_path: Path) -> None:
    """What the launcher imports before it has started its children, an env file read, is none of the heavy things."""
    file = tmp_path / ".env"
    file.write_text("NAME=value\n")
    program = (
        "import sys; from pathlib import Path\n"
        "from preflight import bootstrap; from preflight.command import line, options, start\n"
        "from preflight.launcher import checks; from preflight.processes import suite, worker\n"
        "from preflight.settings import envfile\n"
        "options.parser().parse_args(['--demo'])\n"
        "assert bootstrap.problem() is None\n"
        "assert envfile.read(Path(sys.argv[1])).values == {'NAME': 'value'}\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    command = [sys.executable, "-c", program, str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {
        "pydantic",
        "asyncio",
        "email",  # and importlib.metadata, which imports it
        "fastapi",
        "starlette",
        "uvicorn",
        "langgraph",
        "requests",
        "rich",
        "pytest",
        "server",
        "logging",
        "tempfile",
        "unicodedata",
        "shutil",
    }
    assert heavy & set(done.stdout.split()) == set()


def test_the_version_stands_in_one_place() -> None:
    """pyproject.toml leaves it to the package, so the two cannot differ."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dynamic"] == ["version"]
    assert "version" not in project


def test_nothing_imports_a_test() -> None:
    """What tests share stands in a module of its own: a file of tests can be moved, split and deleted."""
    imported = re.compile(r"^\s*(?:from|import) tests\b[\w.]*(?:\.| import (?:.*\b)?)test_\w+", re.MULTILINE)
    files = [path for folder in ("tests", "benchmarks") for path in ROOT.glob(f"{folder}/**/*.py")]
    assert {file.name: found for file in files if (found := imported.findall(file.read_text(encoding="utf-8")))} == {}
    assert imported.search("from tests.test_docs import table")
    assert imported.search("    from tests.ports import examples, test_policy")
