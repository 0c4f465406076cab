"""Comparisons of a requirement that decide nothing: without an assertion, or with one that always holds."""

from __future__ import annotations

import pytest

from tests.adversary.suites import FILE, check, refused, suite
from tests.e2e.installing import Adopter

pytestmark = pytest.mark.usefixtures("unmeasured")

HEAD = """
import contextlib
import unittest

import pytest

EXPECTED = pytest.raises(TypeError)

class expect(int):
    "As a library has it whose comparisons raise."
    __hash__ = int.__hash__
    def __eq__(self, other):
        assert int(self) == other
        return True

def status():
    return 500
"""
TEST = '\n@pytest.mark.critical("Own {0}")\ndef test_{0}(settings):\n    "It holds."\n    {1}\n'
CASE = (
    '\nclass TestCase(unittest.TestCase):\n    @pytest.mark.critical("Case {0}")\n    def test_{0}(self):\n'
    '        "It holds."\n        {1}\n'
)
NOTHING = (
    "status() == 200  # here",
    "not status() == 500  # here",
    "with contextlib.nullcontext(status()) as found:\n        found == 200  # here",
    "for one in (status(),):\n        one in (200, 204)  # here",
    'found = status(); assert found != 500 or found != 503, "it is down"  # here',
    'rows = []; assert len(rows) >= 0, "there are no rows"  # here',
    "assert status() == 200 or True  # here",
    "assert status(), status() == 200  # here",
    "assert status(), (  # here\n        status() == 200\n    )",
    "found = status(); assert (  # here\n        found != 500\n        or found != 503\n    )",
    "rows = []; assert len(  # here\n        rows\n    ) >= 0",
    "assert (status() == 200 or True) and status()  # here",
    "status() == 200 and status() == 201  # here",
    'status() == 200, "it is down"  # here',
)
NOTHING_OF_UNITTEST = (
    "self.assertTrue(status(), 200)  # here",
    'self.assertTrue("status() == 200")  # here',
    'self.assertTrue((status() == 200, "it is down"))  # here',
)
SOMETHING = (
    "assert status() == 500",
    "found = status(); assert found != 200 and found != 204",
    "found = status(); assert found != 200 or status() != 500",
    'rows = [1]; assert len(rows) >= 1, f"{len(rows) >= 1}"',
    "with pytest.raises(TypeError):\n        status() < None",
    'try:\n        status() < ""\n    except TypeError:\n        assert status() == 500',
    "up = status() == 200; assert not up",
    'status() == 500 or pytest.fail("it is up")',
    "with EXPECTED:\n        status() < None",
    "expect(status()) == 500",
)


def test_comparisons_that_decide_nothing(shop: Adopter) -> None:
    """A start would go ahead on each of them: the run is broken and names the line of each, in both runs."""
    tests = [TEST.format(number, body) for number, body in enumerate(NOTHING)]
    for number, body in enumerate(NOTHING_OF_UNITTEST):
        tests.append(CASE.format(number, body).replace("TestCase", f"Test{number}", 1))
    text = HEAD + "".join(tests)
    shop.write(FILE, text)
    lines = [number for number, line in enumerate(text.splitlines(), 1) if "# here" in line]
    assert len(lines) == len(tests)
    for one in (check(shop, COLUMNS="400"), suite(shop)):
        refused(one)
        for line in lines:
            assert f"{FILE}:{line}: " in one.output, text.splitlines()[line - 1]


def test_comparisons_that_decide(shop: Adopter) -> None:
    """They look like the others, and nothing blocks."""
    case = CASE.format("case", 'self.assertTrue(status() == 500, "it is up")')
    shop.write(FILE, HEAD + "".join(TEST.format(number, body) for number, body in enumerate(SOMETHING)) + case)
    one = check(shop)
    assert one.process.returncode == 0, one.output
