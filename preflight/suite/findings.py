"""The check of each requirement as it comes about: set-up, call and tear-down each may change it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from preflight.contract import Declaration, Details
from preflight.report.model import Check

_ANSWERS = frozenset({"failed", "error", "timeout", "skipped", "ignored"})
"""Outcomes that no later stage takes back: a requirement that failed stays so if its tear-down says "unknown"."""


class Findings:
    """The findings of one run."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}
        self._details: dict[str, Details] = {}
        self.ended: set[str] = set()
        """The requirements that have been torn down."""

    @property
    def blocking(self) -> list[Check]:
        """The checks that block the start so far."""
        return [check for check in self._checks.values() if check.blocks]

    @property
    def final(self) -> tuple[Check, ...]:
        """The checks of requirements that were torn down: one that was interrupted after its set-up has not passed."""
        return tuple(check for nodeid, check in self._checks.items() if nodeid in self.ended)

    def details_of(self, item: pytest.Item) -> Details:
        """What the requirement has found."""
        return self._details.setdefault(item.nodeid, Details())

    def has_passed(self, nodeid: str) -> bool:
        """Whether the requirement holds as far as it has been asked."""
        check = self._checks.get(nodeid)
        return check is not None and check.outcome == "passed"

    def add(self, item: pytest.Item, declared: Declaration, outcome: str, message: str, duration: float = 0.0) -> Check:
        """Add the outcome of a stage, which took ``duration`` seconds; returns the requirement's check after it."""
        check = self._checks[item.nodeid] = self._after(item, declared, outcome, message, duration)
        return check

    def _after(self, item: pytest.Item, declared: Declaration, outcome: str, message: str, duration: float) -> Check:
        details = self.details_of(item)
        before = self._checks.get(item.nodeid)
        if before is not None and (outcome == "passed" or before.outcome in _ANSWERS):
            # A stage that passes, or that follows one of these answers, adds its time and what it has found.
            said = details.summary if before.outcome == "passed" else before.message
            return replace(before, message=said, details=details, duration=before.duration + duration)
        return Check(
            id=item.nodeid,
            title=declared.title,
            requirement=declared.requirement,
            severity=declared.severity,
            outcome=outcome,
            message=message if outcome != "passed" else details.summary,
            fix="" if outcome in ("passed", "not_applicable") else details.fix or declared.fix,
            details=details,
            duration=(before.duration if before else 0.0) + duration,
            scope=declared.scope,
        )
