"""Whether assertions are executed, and whether pytest's options leave a run its meaning."""

from __future__ import annotations

import os
import sys

import pytest

from preflight.processes import interpreter


def problems(config: pytest.Config) -> list[str]:
    """What gives a run another meaning, in this interpreter and among pytest's options."""
    found = []
    if not assertions_execute():
        variable = os.environ.get("PYTHONOPTIMIZE")
        cause = "PYTHONOPTIMIZE is set: unset it" if variable else "Python was started with -O: start it without -O"
        found.append(f"assertions are not executed: {cause}")
    return found + refused(config)


def refused(config: pytest.Config, *, lists: bool = False) -> list[str]:
    """The options of pytest with which nothing is found out; ``lists``: only those that make it print a list."""
    return [
        f"{option.names[0]} is set, and {option.changes}: leave it out ({_whence(config, option)})"
        for option in interpreter.refused(config.option, config.invocation_params.args)
        if option.lists or not lists
    ]


def shows_something(config: pytest.Config) -> bool:
    """Whether pytest was asked for a list instead of a run."""
    return any(option.lists and getattr(config.option, option.attribute, None) for option in interpreter.OPTIONS)


def _whence(config: pytest.Config, option: interpreter.Option) -> str:
    """Where an option may have come from, for people who look for it."""
    if any(name in config.invocation_params.args for name in option.names):
        return "on the command line"
    if any(name in os.environ.get("PYTEST_ADDOPTS", "").split() for name in option.names):
        return "in PYTEST_ADDOPTS"
    return f"in addopts of {config.inipath.name}" if config.inipath else "in a plugin"


def assertions_execute() -> bool:
    """Whether a false assertion raises, in this interpreter and in modules as they are compiled here."""
    if sys.flags.optimize:
        return False
    try:
        assert not __name__  # noqa: S101  # this is the question
    except AssertionError:
        return True
    return False
