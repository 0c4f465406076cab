"""What a requirement may import: the names that the documents promise, and nothing before it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import preflight
from preflight import contract
from preflight.settings import Settings, model
from preflight.web import guarding

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", sorted({*preflight.__all__} - {"guard"}))
def test_public_names(name: str) -> None:
    """They are those of the contract, whose own path goes on working."""
    assert getattr(preflight, name) is getattr(contract, name)


def test_guard() -> None:
    """It is for applications, and no part of the contract of requirements."""
    assert preflight.guard is guarding.guard


def test_settings() -> None:
    """Requirements annotate their fixture with it."""
    assert Settings is model.Settings


def test_no_such_name() -> None:
    """What is not there is said as for any module."""
    with pytest.raises(AttributeError, match="module 'preflight' has no attribute 'Detail'"):
        preflight.Detail  # noqa: B018


@pytest.mark.slow
def test_nothing_is_loaded_unasked() -> None:
    """The package costs its own few lines."""
    program = "import sys, preflight; print([name for name in sys.modules if name.startswith('preflight.')])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
