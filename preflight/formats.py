"""A report in the formats of other tools. A format never decides the verdict or what may be seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from preflight.report import Report


def as_json(report: Report) -> str:
    """The report itself, in ASCII: it goes to standard output, whose encoding may know nothing else."""
    return json.dumps(report.to_json(), indent=2)


FORMATS: Mapping[str, Callable[[Report], str]] = {"json": as_json}
