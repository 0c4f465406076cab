"""Requirements whose threads do things while others are judged, as the probes' threads do."""

from __future__ import annotations

from tests.e2e.place import Place

# Loggers are what an import makes; a thread that makes them all the time stands for one import at the worst moment.
LOGGING = """
import logging, threading
import pytest

stop = threading.Event()

def make_loggers():
    number = 0
    while not stop.is_set() and number < 60_000:
        number += 1
        logging.getLogger(f"logger{number}")

@pytest.mark.critical("First")
def test_first():
    "The first holds, and leaves a thread."
    threading.Thread(target=make_loggers, daemon=True).start()
"""
ONE_MORE = """
@pytest.mark.critical("Number {0}")
def test_{0}():
    "It holds."
"""


def test_loggers_that_are_made_meanwhile(project: Place) -> None:
    """What one requirement's thread imports is no other requirement's error."""
    project.write_suite(LOGGING + "".join(map(ONE_MORE.format, range(30))))
    started = project.run("--check-only", "--demo", "--app", "small:app")
    assert {check["outcome"] for check in project.report()["checks"]} == {"passed"}, started.output
    assert started.process.returncode == 0
