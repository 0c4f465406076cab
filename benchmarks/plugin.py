"""What the plugin costs a run of pytest in a project that has nothing to do with it.

    python benchmarks/plugin.py [--pairs 20]

The same two tests, with the package installed and with the plugin left out (``-p no:preflight``), in turns: the medians
of both and of the differences, in elapsed time and in processor time. pytest-json-report, which comes with the package,
is loaded in both; ``--alone`` leaves it out of both.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.e2e.installing import install

OTHERS = ("langsmith_plugin", "anyio", "llmock", "schemathesis", "xdist", "timeout")
"""Plugins of this checkout's environment, which an unrelated project need not have."""


def run(folder: Path, environ: dict[str, str], *options: str) -> tuple[float, float]:
    """How long one run takes, and how much of a processor's time, both in milliseconds."""
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    begun = time.perf_counter()
    child = subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.DEVNULL)
    _pid, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"pytest ended with exit code {child.returncode}")
    return 1000 * (time.perf_counter() - begun), 1000 * (usage.ru_utime + usage.ru_stime)


def main() -> None:
    """Measure, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--alone", action="store_true", help="leave pytest-json-report out of both runs")
    chosen = parser.parse_args()
    others = [f"-pno:{name}" for name in (*OTHERS, *(["pytest_jsonreport", "metadata"] if chosen.alone else []))]
    with tempfile.TemporaryDirectory() as place:
        installed = install(Path(place) / "installed")
        project = Path(place) / "project"
        project.mkdir()
        project.joinpath("test_it.py").write_text("def test_one(): ...\n\n\ndef test_two(): ...\n")
        environ = {**os.environ, "PYTHONPATH": str(installed / "lib" / "site-packages")}
        pairs = []
        for number in range(chosen.pairs + 1):
            runs = {}
            for how in ("with", "without") if number % 2 else ("without", "with"):
                runs[how] = run(project, environ, *others, *(["-p", "no:preflight"] if how == "without" else []))
            pairs.append(runs)
        del pairs[0]  # compiles
    for place_in_run, what in enumerate(("elapsed", "processor")):
        medians = {how: statistics.median(runs[how][place_in_run] for runs in pairs) for how in ("with", "without")}
        cost = statistics.median(runs["with"][place_in_run] - runs["without"][place_in_run] for runs in pairs)
        shown = ", ".join(f"{how} {median:.1f}" for how, median in medians.items())
        print(f"{what:10}{shown}; cost {cost:.1f} ms (medians of {len(pairs)} pairs)")


if __name__ == "__main__":
    main()
