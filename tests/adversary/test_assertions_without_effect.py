"""Assertions that hold whatever is found, or whose failure is dropped, and requirements that a slip has hidden."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.adversary.suites import FAILS, FILE, GOOD, check, refused, suite
from tests.e2e.installing import Adopter

pytestmark = pytest.mark.usefixtures("unmeasured")

HEAD = """
import pathlib, subprocess
import httpx2, pytest
from pathlib import Path

def answers(host="a"):
    return False

def status():
    return 500

class Client:
    def __init__(self, host):
        self.host = host

MODEL = Path("/nowhere") / "model.bin"
"""
TEST = '\n@pytest.mark.critical("Own {0}")\ndef test_{0}(settings):\n    "It holds."\n    {1}\n'
NOTHING = {
    "a path": 'assert Path("/nowhere/model.bin"), "the model is missing"',
    "a path below another": 'assert settings.root / "model.bin", "the model is missing"',
    "a path that has a name": 'path = pathlib.Path("/nowhere"); assert path, "the model is missing"',
    "a path of the file": 'assert MODEL, "the model is missing"',
    "a program that has failed": 'assert subprocess.run(["false"]), "it fails"',
    "what a program has returned": 'done = subprocess.run(["false"], check=False); assert done, "it fails"',
    "an iterator": 'assert map(answers, ["a", "b"]), "one of them does not answer"',
    "an answer of a library": 'assert False or httpx2.get("http://127.0.0.1:9/"), "it does not answer"',
    "a comma for an equals sign": "assert status(), 200",
    "a comma behind a call": "assert len([answers()]), 3  # hosts",
    "a finally with a return": "try:\n        assert answers()\n    finally:\n        return",
    "a finally that goes on": 'for host in "ab":\n        try:\n            assert answers(host)\n'
    "        finally:\n            continue",
}
HOLD = {
    "a path": "assert Path(__file__).exists() and not MODEL.exists()",
    "a program": 'assert subprocess.run(["true"]).returncode == 0',
    "an object that is made": 'assert Client("a"), "it cannot be made"',
    "an iterator": 'assert list(map(answers, "a")) == [False]',
    "a message": 'assert status() == 500, f"{status()}, 200"',
    "a finally": 'try:\n        assert Client("a").host == "a"\n    finally:\n        status()',
}


def suite_of(bodies: dict[str, str]) -> str:
    return HEAD + "".join(TEST.format(number, body) for number, body in enumerate(bodies.values()))


def test_what_asks_nothing(shop: Adopter) -> None:
    """Each holds although what it is about does not: the run is broken and names the line of each, in both runs."""
    text = suite_of(NOTHING)
    shop.write(FILE, text)
    lines = [number for number, line in enumerate(text.splitlines(), 1) if "assert " in line]
    lines[-2:] = [number for number, line in enumerate(text.splitlines(), 1) if line.strip() in ("return", "continue")]
    for one in (check(shop, COLUMNS="400"), suite(shop)):
        refused(one)
        for what, line in zip(NOTHING, lines, strict=True):
            assert f"{FILE}:{line}: " in one.output, what


def test_what_asks_something(shop: Adopter) -> None:
    """The same objects, asked for something: nothing blocks."""
    shop.write(FILE, suite_of(HOLD))
    one = check(shop)
    assert one.process.returncode == 0, one.output


SLIPS = {
    "twice_in_a_class": 'class TestIt:\n    @pytest.mark.critical("A")\n    def test_it(self):\n        "It."\n'
    '        assert False\n    @pytest.mark.critical("B")\n    def test_it(self):\n        "It."\n',
    "class_twice": 'class TestIt:\n    @pytest.mark.critical("D")\n    def test_it(self):\n        "It."\n'
    '        assert False\nclass TestIt:\n    @pytest.mark.critical("E")\n    def test_other(self):\n        "It."\n',
    "name_taken": FAILS.partition("\n")[2].replace("Own", "C") + "test_own = 5\n",
}


def test_requirements_that_a_slip_has_hidden(shop: Adopter) -> None:
    """Another one of its name, or a number, has taken its place: the run is broken and names each."""
    for name, source in SLIPS.items():
        shop.write(f"preflight_suite/test_{name}.py", f"import pytest\n{source}")
    inner = FAILS.partition("\n")[2].replace("Own", "Inner").replace("test_own", "test_inner")
    moved = "".join(f"    {line}\n" for line in inner.splitlines())
    shop.write("preflight_suite/test_inside.py", f"{GOOD}\n{moved}")
    for one in (check(shop, COLUMNS="400"), suite(shop)):
        refused(one)
        for name in SLIPS:
            assert f"preflight_suite/test_{name}.py::" in one.output, name
        assert "test_inside.py::test_inner, which is inside another test" in one.output


WITHOUT = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", "--"]


@pytest.mark.parametrize("part", ["preflight_suite", "preflight_suite/more", "preflight_suite/more/test_more.py"])
def test_a_suite_that_cannot_be_read(shop: Adopter, part: str) -> None:
    """An image has it with modes for root alone, and runs as somebody else: its requirements are not passed over."""
    before = WITHOUT if os.geteuid() == 0 else []
    if before and (shutil.which("setpriv") is None or subprocess.run([*before, "true"], check=False).returncode):
        pytest.skip("this user can read everything here")
    shop.write(FILE, GOOD)
    shop.write("preflight_suite/more/test_more.py", FAILS)
    (shop.root / part).chmod(0)
    one = shop.spawn(*before, str(shop.installed / "bin" / "preflight"), "--port", str(shop.port), "--check-only")
    try:
        assert one.wait() in (2, 3), one.output
        assert part in one.output
        assert "Permission denied" in one.output
        assert "Traceback" not in one.output.partition("The end of its output")[0]
    finally:
        (shop.root / part).chmod(0o755)
