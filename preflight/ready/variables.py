"""``ready.variable``: a variable of the application is set, and has the form that is expected."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Any, Unpack

from preflight.contract import Details
from preflight.making import Ask, Failure, Instead, requirement
from preflight.processes import programs
from preflight.text import foreign


def variable(name: str, *, matches: str = "", settings: str = "", **instead: Unpack[Instead]) -> Callable[..., None]:
    """The variable ``name`` is set and filled in.

    :param matches: a regular expression that all of its value has to match.
    :param settings: a pydantic-settings class, ``"package.module:Class"``, that has to accept the environment.
    """
    pattern = re.compile(matches) if matches else None

    def probe(ask: Ask) -> None:
        if pattern is not None and not pattern.fullmatch(ask.value):
            raise Failure(f"{name} does not have the form {matches}", f"set {name} to a value of that form")
        if settings:
            _accepted(settings, ask)

    def judge(_answer: Any, details: Details) -> None:
        details.summary = "set"

    return requirement(
        probe,
        judge,
        variable=name,
        title=name,
        doc=f"The variable {name} is set, and has the form that the application expects.",
        fix=f"set {name} to what the application expects",
        timeout=20.0,
        instead=instead,
    )


_MAKES = """
import importlib, json, sys
sys.path[:0] = json.loads(sys.argv[2])
module, _, name = sys.argv[1].partition(":")
try:
    made = getattr(importlib.import_module(module), name)
except Exception as error:
    said = {"imports": type(error).__name__}
else:
    try:
        made()
        said = {}
    except Exception as error:
        errors = getattr(error, "errors", None)
        faults = [[".".join(map(str, one["loc"])), one["type"]] for one in errors()] if callable(errors) else []
        said = {"faults": faults, "raises": type(error).__name__}
print("\\npreflight:" + json.dumps(said))
"""
_SAID = re.compile(r"^preflight:(\{.*\})$", re.MULTILINE)


def _accepted(settings: str, ask: Ask) -> None:
    """Make the class, in a process that has the application's environment and nothing of ours.

    Raises Failure with the fields that it refuses, and no value.
    """
    paths = json.dumps([str(ask.root), *sys.path])
    try:
        ended = programs.run(
            [sys.executable, "-P", "-c", _MAKES, settings, paths], ask.environment, ask.timeout, ask.root
        )
    except programs.Late:
        raise Failure(f"{settings} has not been made within {ask.timeout:g} s") from None
    found = _SAID.findall(ended.said)  # the project's modules may print as well
    if not found:
        raise Failure(f"{settings} cannot be made: the process ended with exit code {ended.code}")
    said = json.loads(found[-1])
    if "imports" in said:
        raise Failure(f"{settings} cannot be imported: {said['imports']}")
    if said.get("faults"):
        faults = ", ".join(f"{where or 'the whole'} ({what})" for where, what in said["faults"])
        raise Failure(f"{settings} refuses the environment: {foreign(faults)}")
    if "raises" in said:
        raise Failure(f"{settings} cannot be made: {said['raises']}")
