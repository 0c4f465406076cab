"""The report of a run, made from what pytest-json-report gathered and from the checks: redacted, limited and judged."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from preflight.redaction.redactor import Redactor
from preflight.report.model import (
    DETAILS,
    LONGEST_DETAILS,
    LONGEST_MESSAGE,
    LONGEST_REASON,
    LOOKED_AT,
    MESSAGES,
    Check,
    Report,
    exceeds,
    machine,
    python,
)
from preflight.text import first_line, plain, printable, shortened


def limited(value: object, redactor: Redactor, longest: int = LONGEST_DETAILS) -> Any:
    """What a requirement found, redacted, as JSON values that every reader takes; too much of it is left out.

    Infinity and "not a number" become texts, and so does whatever JSON does not know.
    """
    left_out = {"left_out": f"more than {longest} characters"}
    if exceeds(value, 2 * longest):  # redaction may make it shorter
        return left_out
    try:
        written = json.dumps(redactor.value(value), default=lambda other: redactor.beginning(str(other), longest))
    except Exception as error:  # noqa: BLE001  # an object may raise what it likes; the rest of the report stands
        return {"left_out": f"cannot be written: {type(error).__name__}"}
    return left_out if len(written) > longest else plain(json.loads(written, parse_constant=str))


def _line(text: str, redactor: Redactor, longest: int = LONGEST_MESSAGE) -> str:
    # Redacted first: an unprintable secret is found only unchanged, and a cut would leave half of a secret.
    return shortened(printable(first_line(redactor.beginning(text, LOOKED_AT))), longest)


def _identifier(nodeid: str, redactor: Redactor, longest: int = LONGEST_MESSAGE) -> str:
    return shortened(printable(first_line(redactor.identifier(nodeid[:LOOKED_AT]))), longest)


def _clean(check: Check, redactor: Redactor, share: int) -> Check:
    """The check as it is written; ``share`` is the number of checks that share the room for all of them."""
    longest = max(100, min(LONGEST_MESSAGE, MESSAGES // share))

    def line(value: str) -> str:
        return _line(value, redactor, longest)

    return Check(
        id=_identifier(check.id, redactor, longest),
        title=line(check.title),
        requirement=line(check.requirement),
        severity=check.severity,
        outcome=check.outcome,
        message=line(check.message),
        fix=line(check.fix),
        details=limited(dict(check.details), redactor, max(100, min(LONGEST_DETAILS, DETAILS // share))),
        duration=round(check.duration, 6),
        scope=check.scope,
    )


def most_bytes(check: Check) -> int:
    """How much of a report this check takes at most; it is not redacted yet."""
    texts = (check.id, check.id, check.title, check.requirement, check.message, check.fix)
    size = 512 + sum(min(len(text.encode(errors="replace")), 4 * LONGEST_MESSAGE) for text in texts)
    if not exceeds(check.details, LONGEST_DETAILS):
        with contextlib.suppress(Exception):  # an object may raise what it likes
            return size + min(len(json.dumps(check.details, default=str)), 4 * LONGEST_DETAILS)
    return size + 4 * LONGEST_DETAILS


def in_brief(check: Check, redactor: Redactor) -> dict[str, Any]:
    """A check as it is reported while its run goes on: redacted, and without its details."""
    return {
        "title": _line(check.title, redactor),
        "severity": check.severity,
        "outcome": check.outcome,
        "message": _line(check.message, redactor),
        "fix": _line(check.fix, redactor),
        "duration_ms": round(check.duration * 1000, 3),
    }


def _tests(document: Mapping[str, Any], redactor: Redactor) -> list[dict[str, Any]]:
    """What ran, how it ended and how long each stage took; no texts that a test could have put there."""
    kept = []
    for test in document.get("tests", []):
        nodeid = _identifier(test["nodeid"], redactor)
        entry = {"nodeid": nodeid, "lineno": test["lineno"], "outcome": test["outcome"]}
        for stage in ("setup", "call", "teardown"):
            if stage in test:
                entry[stage] = {key: test[stage][key] for key in ("duration", "outcome")}
        kept.append(entry)
    return kept


def build(
    document: Mapping[str, Any],
    checks: Sequence[Check],
    *,
    redactor: Redactor,
    run_id: str,
    origin: str,
    selection: str,
    address: str,
    started_at: str,
    problems: Iterable[str] = (),
) -> Report:
    """Make the report of a run from what pytest-json-report gathered and the checks.

    ``problems`` are reasons not to trust the run at all; more are found here.
    """
    reasons = [printable(redactor.beginning(problem, LONGEST_MESSAGE)) for problem in problems]
    reasons += _distrusted(document, checks, selection)
    checks = tuple(_clean(check, redactor, len(checks)) for check in checks)
    status = _status(checks, broken=bool(reasons))
    return Report(
        run_id=run_id,
        origin=origin,
        status=status,
        may_start=status in ("passed", "warnings") and any(check.severity == "critical" for check in checks),
        started_at=started_at,
        duration=round(float(document.get("duration", 0.0)), 6),
        selection=printable(redactor.text(selection)),
        address=redactor.text(address),
        checks=checks,
        reason=shortened("; ".join(reasons), LONGEST_REASON),
        python=python(),
        machine=machine(),
        document={
            "created": document.get("created", time.time()),
            "duration": document.get("duration", 0.0),
            "exitcode": document.get("exitcode"),
            "summary": dict(document.get("summary", {})),
            "tests": _tests(document, redactor),
        },
    )


def _distrusted(document: Mapping[str, Any], checks: Sequence[Check], selection: str) -> list[str]:
    """The reasons not to trust the run, from what pytest-json-report gathered; empty if there are none."""
    reasons = []
    summary = document.get("summary", {})
    collected = summary.get("collected", 0) - summary.get("deselected", 0)
    ran = summary.get("total", 0)
    if document.get("exitcode") not in (0, 1):
        reasons.append(f"pytest ended with exit code {document.get('exitcode')}")
    if not ran == collected == len(checks):
        were = "requirement was" if collected == 1 else "requirements were"
        reasons.append(f"{collected} {were} collected and {min(ran, len(checks))} ran")
    if not checks:
        reasons.append("the suite is empty")
    elif not any(check.severity == "critical" for check in checks) and selection == "all":
        reasons.append("the suite has no critical requirement")
    return reasons


def _status(checks: Sequence[Check], *, broken: bool) -> str:
    if broken:
        return "broken"
    if any(check.blocks for check in checks):
        return "failed"
    return "warnings" if any(check.warns for check in checks) else "passed"
