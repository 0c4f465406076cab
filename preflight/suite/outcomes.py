"""Pytest's result of a stage of a requirement, or of a file, as an outcome of ours and one line for people."""

from __future__ import annotations

import difflib
import os
import re
import traceback
from collections.abc import Mapping

import pytest
from _pytest.outcomes import Skipped  # pytest.skip.Exception is the same class under a name that mypy cannot follow

from preflight.contract import NotApplicable, Unknown
from preflight.suite.deadlines import DeadlineExceeded
from preflight.text import first_line

FIXTURES = ("application", "database", "details", "environment", "port", "probes", "settings")
"""What is proposed for a misspelt name. docs/requirements.md says what each gives."""


def outcome_of(item: pytest.Item, stage: pytest.TestReport, error: BaseException | None) -> tuple[str, str]:
    """Our outcome and its message for one stage of a requirement, which raised ``error``."""
    # pytest itself decides on this after us, and accepts both an xfail and an xpass.
    expected = stage.when == "call" and item.get_closest_marker("xfail") is not None
    if expected or isinstance(error, pytest.xfail.Exception):
        return "skipped", "marked as expected to fail, which is not an answer"
    if error is None:
        return ("passed", "") if stage.passed else ("error", first_line(str(stage.longrepr)))
    said = first_line(str(error))
    match error:
        case DeadlineExceeded():
            return "timeout", said
        case Unknown():
            return "unknown", said
        case NotApplicable():
            return "not_applicable", said
        case Skipped():
            return "skipped", f"skipped: {said}" if said else "skipped"
        case pytest.FixtureLookupError():
            ours = {name: name for name in FIXTURES}
            return "error", f"fixture {error.argname!r} not found{meant(str(error.argname), ours)}"
        case AssertionError() | pytest.fail.Exception() if stage.when == "call":
            # A rewritten assertion without a message shows values; the author's own words come first if any.
            return "failed", said if said and not said.startswith("assert ") else "does not hold"
    where = {"setup": "its set-up", "teardown": "its tear-down"}.get(stage.when, "it")
    kind = type(error).__name__
    return "error", (f"{where} raised {kind}: {said}" if said else f"{where} raised {kind}") + _place(item, error)


def _place(item: pytest.Item, error: BaseException) -> str:
    """Where in the requirement's file an error came up: " (test_model.py:12)"."""
    file = str(item.path)
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    return f" ({item.path.name}:{lines[-1]})" if lines else ""


def meant(name: str, known: Mapping[str, str]) -> str:
    """A suggestion for a wrong name: "; did you mean 'Memory'?"; ``known`` has what to show for each right one."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {known[close[0]]!r}?" if close else ""


def uncollectable(lines: list[str]) -> str:
    """Why a file cannot be collected, from the lines that pytest has about it."""
    said = lines[-1] if lines else "no reason given"
    if re.fullmatch(r"'\w+' not found in `markers` configuration option", said):
        return f"{said}; a requirement is marked critical or warning"
    places = [found for line in lines if (found := re.fullmatch(r'File "([^"]+)", line (\d+)', line))]
    if places and said.startswith(("SyntaxError", "IndentationError", "TabError")):
        return f"{said} ({os.path.basename(places[-1][1])}:{places[-1][2]})"
    return said
