"""How long ``run.py --check-only`` takes beside pytest on two trivial tests, and how soon it gives up on dead networks.

    python benchmarks/check.py [--rounds 11]

Everything that a check can find is there: an env file, keys, and a server on loopback that stands in for the
services and answers at once; then one that takes connections and never answers.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.ports import Table, milliseconds  # noqa: E402  # the checkout is not installed
from benchmarks.start import describe, place  # noqa: E402
from tests.e2e.doubles import Providers  # noqa: E402
from tests.e2e.place import Place, equip  # noqa: E402

TRIVIAL = "def test_one():\n    assert True\n\n\ndef test_two():\n    assert True\n"
DEADLINE = 2.0  # seconds, probe_timeout as shipped


def run(command: list[str], cwd: Path, environ: Mapping[str, str]) -> None:
    """To its end, which must be a good one."""
    done = subprocess.run(command, cwd=cwd, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"exit code {done.returncode}: {' '.join(command)}\n{done.stdout}{done.stderr}")


def against_pytest(here: Place, rounds: int) -> None:
    """Services that answer at once."""
    table = Table("run.py --check-only with services that answer at once, the whole command")
    with tempfile.TemporaryDirectory(prefix="preflight-trivial-") as folder:
        Path(folder, "test_trivial.py").write_text(TRIVIAL)
        check = [sys.executable, "run.py", "--check-only", "--port", str(here.port)]
        pytest = [sys.executable, "-m", "pytest", "-q"]
        bare = {**here.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        for number in range(rounds + 1):
            for way, command, cwd, environ in (
                ("pytest, 2 trivial tests", pytest, Path(folder), here.environ),
                ("pytest, the same, no plugin autoload", pytest, Path(folder), bare),
                ("run.py --check-only", check, ROOT, here.environ),
            ):
                spent = milliseconds(lambda c=command, w=cwd, e=environ: run(c, w, e))  # type: ignore[misc]
                if number > 0:  # the first round fills the caches
                    table.add(way, spent)
    table.show(against="pytest, 2 trivial tests", target="at most 2x")
    without = table.median("run.py --check-only") / table.median("pytest, the same, no plugin autoload")
    print(f"  run.py --check-only against pytest without plugin autoload: {without:.2f}x")


def swallowed(here: Place, rounds: int) -> None:
    """Services whose addresses take a connection and never answer."""
    table = Table(f"run.py --check-only with services that never answer: time beyond the deadline of {DEADLINE:g} s")
    with socket.create_server(("127.0.0.1", 0), backlog=128) as silent:
        base = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environ = {**here.environ, "OPENAI_BASE_URL": base, "PERPLEXITY_BASE_URL": base}
        check = [sys.executable, "run.py", "--check-only", "--port", str(here.port)]
        for _ in range(max(3, rounds // 2)):
            table.add("run.py --check-only", milliseconds(lambda: run(check, ROOT, environ)) - DEADLINE * 1000)
    table.show(target="at most 700 ms")


def main() -> None:
    """Both tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=11)
    chosen = options.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    describe()
    with place() as here:
        providers = Providers()
        try:
            equip(here, providers)
            against_pytest(here, chosen.rounds)
        finally:
            providers.close()
        swallowed(here, chosen.rounds)


if __name__ == "__main__":
    main()
