"""A ready-made requirement, asked as the suite asks it: its variable, its probe in a thread, and its judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from preflight import making
from preflight.contract import Details, NotApplicable, Unknown
from preflight.settings import loading
from preflight.suite.probes.answers import Answers
from tests.databases import PASSWORD

CANARY = PASSWORD
"""A secret that no message, fix or detail may show."""


@dataclass(frozen=True)
class Outcome:
    """How a requirement ended."""

    outcome: str
    message: str
    details: Details

    @property
    def fix(self) -> str:
        return self.details.fix


def ask(root: Path, test: Callable[..., None], **environ: str) -> Outcome:
    """Ask one requirement in a project at ``root``, which has these variables and nothing else."""
    (root / "pyproject.toml").touch()
    settings = loading.load(root, {"HOME": str(root), "PATH": "/usr/local/bin:/usr/bin:/bin", **environ})
    made = getattr(test, making.ATTRIBUTE)
    answers, details = Answers(settings), Details()
    answers.start([made])
    try:
        test(answers, details)
    except Unknown as unknown:
        ended = Outcome("unknown", str(unknown), details)
    except NotApplicable as left_out:
        ended = Outcome("not_applicable", str(left_out), details)
    except (AssertionError, pytest.fail.Exception) as failed:
        ended = Outcome("failed", str(failed).splitlines()[0], details)
    else:
        ended = Outcome("passed", details.summary, details)
    shown = f"{ended.message} {details.fix} {details} {details.summary}"
    assert CANARY not in shown, shown
    return ended


def passed(ended: Outcome) -> Any:
    """What it has found, where it has passed."""
    assert ended.outcome == "passed", ended
    return ended.details
