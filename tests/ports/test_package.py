"""The package as a whole: it stays light, and asks the system itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from preflight.ports.linux import Linux

ROOT = Path(__file__).parents[2]
MODULES = sorted(path.stem for path in (ROOT / "preflight" / "ports").glob("*.py"))


@pytest.mark.slow
def test_importing_is_light() -> None:
    """The launcher imports this and must stay small: nothing heavy comes with it, psutil neither."""
    program = "import sys, preflight.ports; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert not {"psutil", "asyncio", "pydantic", "rich", "subprocess", "pytest"} & set(loaded)


@pytest.mark.slow
def test_taking_a_port_stays_light() -> None:
    """On Linux neither psutil nor the idna tables are imported when a port is looked up and held."""
    if not Linux.works():
        pytest.skip("the portable path is psutil")
    program = (
        "import socket, sys; from preflight import ports\n"
        "with socket.create_server(('127.0.0.1', 0)) as held:\n"
        "    taken = ports.take('localhost', held.getsockname()[1], ports.Policy())\n"
        "assert taken.refusals, taken\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert not {"psutil", "encodings.idna", "asyncio"} & set(loaded)


@pytest.mark.parametrize("module", MODULES)
def test_nothing_shells_out(module: str) -> None:
    """Who listens is read from the system, never from another program's output."""
    tree = ast.parse((ROOT / "preflight" / "ports" / f"{module}.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not imported & {"subprocess", "multiprocessing", "pty"}
    assert not called & {"system", "popen", "execv", "execve", "execvp", "posix_spawn", "fork", "killpg", "kill"}
