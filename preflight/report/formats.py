"""A report in the formats of other tools. A format never decides the verdict or what may be seen.

Every function makes a text from a report, which is redacted already; the texts are Unicode, to be written as UTF-8
whatever the locale says, because that is what their readers expect.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflight import __version__
from preflight.text import first_line
from preflight.times import local_of

if TYPE_CHECKING:
    from preflight.report.model import Check, Report

WIDTH = 100  # columns of the banner as text
NOT_RUN = "no suite has run for this instance"


def as_json(report: Report) -> str:
    """The report itself, in ASCII: it goes to standard output, whose encoding may know nothing else."""
    return json.dumps(report.to_json(), indent=2)


def as_text(report: Report) -> str:
    """The verdict, when and where it was found, and the banner without colour."""
    import io

    from rich.console import Console

    from preflight.report import banners

    # Whatever the environment says of terminals and colours.
    console = Console(
        file=io.StringIO(), width=WIDTH, color_system=None, force_terminal=False,
        highlight=False, emoji=False, markup=False,
    )  # fmt: skip
    when = local_of(report.started_at)
    with console.capture() as captured:
        if report.checks or report.status != "broken":
            console.print(banners.render(report), crop=False)
        if report.status == "broken":
            console.print(banners.broken(report.reason, beside_a_server=report.origin == "rerun"), crop=False)
    head = [
        f"Preflight: {_verdict(report)}",
        f"{report.address} · {when} · {report.origin} · Python {report.python}",
    ]
    return "\n".join([*head, *(line.rstrip() for line in captured.get().splitlines())])


# JUnit's XML, as Jenkins (xunit plugin, junit-10.xsd), GitLab and Maven's surefire read it.

_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def as_junit(report: Report) -> str:
    """JUnit XML: a check that blocks is a failure or an error, and no other is.

    A check that could not be asked is skipped; a warning is a test that passed with something to say.
    """
    from xml.etree import ElementTree

    def element(tag: str, text: str = "", /, **attributes: str) -> ElementTree.Element:
        made = ElementTree.Element(tag, {key: _NOT_XML.sub("?", value) for key, value in attributes.items()})
        made.text = _NOT_XML.sub("?", text) or None
        return made

    cases = [_case(check, element) for check in report.checks]
    if report.status == "broken":
        case = element("testcase", name="Preflight", classname="preflight", time="0.000")
        case.append(element("error", report.reason, message=first_line(report.reason), type="broken"))
        cases.append(case)
    counts = {
        name: str(sum(case.find(kind) is not None for case in cases))
        for name, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))
    }
    total = {"tests": str(len(cases)), "time": f"{report.duration:.3f}"}
    suite = element("testsuite", name="preflight", timestamp=report.started_at, **total, **counts)
    facts = {"run_id": report.run_id, "origin": report.origin, "status": report.status, "address": report.address}
    properties = element("properties")
    properties.extend(element("property", name=name, value=value) for name, value in facts.items())
    suite.append(properties)
    suite.extend(cases)
    # No attribute "skipped" up here: the schema has none.
    suites = element("testsuites", name="preflight", failures=counts["failures"], errors=counts["errors"], **total)
    suites.append(suite)
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode")


def _case(check: Check, element: Callable[..., Any]) -> Any:
    classname = check.id.partition("::")[0].removesuffix(".py").replace("/", ".")
    case = element("testcase", name=check.title, classname=classname, time=f"{check.duration:.3f}")
    said = "\n".join(_said(check))
    if check.blocks:
        kind = "error" if check.outcome in ("error", "timeout") else "failure"
        case.append(element(kind, said, message=check.message, type=check.outcome))
    elif check.outcome in ("unknown", "not_applicable"):
        case.append(element("skipped", message=f"{_words(check.outcome)}: {check.message}"))
    elif check.warns:
        case.append(element("system-out", f"warning ({check.outcome}): {said}"))
    return case


# GitHub's workflow commands.


def as_github(report: Report, below: str = "") -> str:
    """An annotation for everything that is not as it should be: errors block, warnings and notices do not.

    The count comes last, as a notice. A file and a line lead to the requirement itself: GitHub finds files by their
    path in the repository, where the project's folder is ``below``, a relative path.
    """
    lines = {test["nodeid"]: test["lineno"] + 1 for test in report.document.get("tests", ()) if test.get("lineno")}
    commands = []
    for check in (*report.blocking, *report.problems, *report.unknown):
        level = "error" if check.blocks else "notice" if check.outcome == "unknown" else "warning"
        file = posixpath.normpath(posixpath.join(below, check.id.partition("::")[0]))
        place = {"file": file, "line": str(lines.get(check.id, 1)), "title": check.title}
        commands.append(_command(level, place, "\n".join(_said(check))))
    if report.status == "broken":
        commands.append(_command("error", {"title": "The check suite itself failed"}, report.reason))
    commands.append(_command("notice", {"title": f"Preflight: {_verdict(report)}"}, _count(report)))
    return "\n".join(commands)


def below_workspace(root: Path, environment: Mapping[str, str]) -> str:
    """The project's folder as a path in the repository that a GitHub job has checked out; empty if it has none."""
    workspace = environment.get("GITHUB_WORKSPACE", "")
    if not workspace:
        return ""
    try:
        return str(root.resolve().relative_to(Path(workspace).resolve()))
    except ValueError:
        return ""  # the project is somewhere else


def _command(level: str, properties: Mapping[str, str], message: str) -> str:
    """One workflow command; the escapes are those of GitHub's own toolkit (actions/core, command.ts)."""

    def data(text: str) -> str:
        return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    shown = ",".join(
        f"{name}={data(value).replace(':', '%3A').replace(',', '%2C')}" for name, value in properties.items()
    )
    return f"::{level} {shown}::{data(message)}"


# Markdown, for a job's summary, a comment or a mail.

# As character references: those are text whatever stands around them, and divide no table's cells.
_MARKUP = str.maketrans(
    {character: f"&#{ord(character)};" for character in "&<>|`*_[]~@#\\!$"} | dict.fromkeys("\r\n", " ")
)


def as_markdown(report: Report) -> str:
    """A heading with the verdict, a table with what needs attention first, and the count."""
    from preflight.report.banners import sign

    lines = [f"## Preflight: {_verdict(report)}", ""]
    if report.status == "broken":
        lines += [report.reason.translate(_MARKUP), ""]
    if report.checks:
        good = [check for check in report.checks if not check.blocks and not check.warns]
        lines += ["| | Requirement | Severity | Outcome | Found | Fix |", "| --- | --- | --- | --- | --- | --- |"]
        for check in (*report.blocking, *report.problems, *report.unknown, *good):
            mark, _style = sign(check, plain=False)
            severity = f"{check.severity}, fleet" if check.scope == "fleet" else check.severity
            cells = [check.title, severity, _words(check.outcome), check.message]
            fix = f"<code>{check.fix.translate(_MARKUP)}</code>" if check.fix else ""
            lines.append(f"| {' | '.join([mark, *(cell.translate(_MARKUP) for cell in cells), fix])} |")
        lines.append("")
    when = local_of(report.started_at)
    lines.append(f"{_count(report)} · {report.address.translate(_MARKUP)} · Python {report.python} · {when}")
    return "\n".join(lines)


# application/health+json (draft-inadarei-api-health-check-06).


def as_health(report: Report | None, problem: str = "", checked: Report | None = None) -> str:
    """The health check response format for HTTP APIs; ``report`` is None if no suite has run.

    ``problem`` becomes a note beside the report: a notification that could not be delivered, say. ``checked`` is the
    report that the checks are taken from, where that is another one.
    """
    checked = checked or report
    body: dict[str, Any] = {
        "status": _health(report),
        "version": __version__.partition(".")[0],
        "releaseId": __version__,
        "serviceId": "preflight",
        "description": "the requirements of this server",
    }
    notes = [problem] if problem else []
    if report is None or checked is None:
        return json.dumps(body | ({"notes": notes} if notes else {}) | {"output": NOT_RUN}, ensure_ascii=False)
    body["description"] += f" ({report.address})"
    body["notes"] = [_count(checked), *notes]
    if report.status == "broken":
        body["output"] = report.reason
    elif report.blocking:
        body["output"] = "; ".join(f"{check.title}: {check.message}" for check in report.blocking)
    checks: dict[str, list[dict[str, Any]]] = {}
    for check in checked.checks:
        one: dict[str, Any] = {
            "componentId": check.id,
            "componentType": "system",
            "observedValue": check.outcome,
            "observedUnit": "outcome",
            "status": "fail" if check.blocks else "warn" if check.warns else "pass",
            "time": checked.started_at,
        }
        if one["status"] != "pass":
            one["output"] = "; ".join(_said(check))
        # A colon would divide the name of a component from that of a measurement.
        checks.setdefault(check.title.replace(":", " -"), []).append(one)
    return json.dumps(body | {"checks": checks}, ensure_ascii=False)


def _health(report: Report | None) -> str:
    if report is None:
        return "warn"
    return {"passed": "pass", "warnings": "warn"}.get(report.status, "fail")


# Parts of several formats.


def _said(check: Check) -> list[str]:
    return [check.message or check.requirement, *([f"Fix: {check.fix}"] if check.fix else [])]


def _words(outcome: str) -> str:
    return outcome.replace("_", " ")


def _verdict(report: Report) -> str:
    return {
        "passed": "nothing blocks",
        "warnings": "nothing blocks, with warnings",
        "failed": "blocked",
        "broken": "broke, no trustworthy report",
    }[report.status]


def _count(report: Report) -> str:
    from preflight.report.banners import count

    return count(report)


FORMATS: Mapping[str, Callable[[Report], str]] = {
    "json": as_json,
    "text": as_text,
    "junit": as_junit,
    "github": as_github,
    "markdown": as_markdown,
}
"""The names that ``--format`` takes."""


def render(name: str, report: Report, root: Path, environment: Mapping[str, str]) -> str:
    """The report in one of FORMATS; ``root`` is the project's folder."""
    if name == "github":
        return as_github(report, below_workspace(root, environment))
    return FORMATS[name](report)
