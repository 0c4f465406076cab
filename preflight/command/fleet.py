"""``--fleet``: all instances that share a database, what does not hold where, and what has changed in a day."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from preflight.output import plainlines
from preflight.output.log import Log
from preflight.output.terminal import Terminal
from preflight.redaction.redactor import Redactor
from preflight.report import banners
from preflight.report.model import Report, ReportError, is_overlong
from preflight.settings import places
from preflight.settings.model import Settings
from preflight.text import plain

WIDE = 10_000  # columns where no terminal folds lines: in a pipe, each instance is one line
SHOWN, MOST = 50, 1000  # instances that are listed for people, and for programs
SIGNS = {
    "good": ("✅", "green"), "blocked": ("❌", "red"), "broken": ("❌", "red"), "silent": ("❔", "yellow"),
    "ended": ("⏭️", "bright_black"),
}  # fmt: skip
STANDINGS = {"ok": "holds", "blocks": "blocks", "warns": "warns", "": "not checked"}

Row = Mapping[str, Any]


def show(settings: Settings, named: str, *, as_json: bool = False) -> int:
    """Print the fleet, or the instance that is ``named`` (a part of its id, host or address).

    Returns the command's exit code: 1 where the database is away or there is no such instance, 2 without a database.
    """
    if not settings.database_url:
        place = places.of(settings, "PREFLIGHT_DATABASE_URL")
        plainlines.error(f"PREFLIGHT_DATABASE_URL is not set: set it {place.target}")
        return 2
    from preflight.fleet.database import Unavailable, UnusableDatabase

    terminal = Terminal(Log(Redactor.of(settings)), lossy=False, forgiving=False)
    if not terminal.console.is_terminal:
        terminal.console.width = WIDE
    try:
        return _one(settings, terminal, named, as_json) if named else _all(settings, terminal, as_json)
    except (Unavailable, UnusableDatabase) as error:
        fix = getattr(error, "fix", "")
        terminal.fail("THE FLEET CANNOT BE SHOWN", [str(error), *([f"Fix: {fix}"] if fix else [])])
        return 1


def _ask(settings: Settings, question: Any) -> Any:
    from preflight.fleet import reading

    return asyncio.run(reading.ask(settings.database_url or "", settings.environment, question))


def _print(terminal: Terminal, body: object) -> None:
    print(json.dumps(plain(terminal.redactor.document(body)), indent=2), flush=True)


def _all(settings: Settings, terminal: Terminal, as_json: bool) -> int:
    from preflight.fleet import queries

    async def question(connection: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        listed = await queries.instances(connection, queries.Filter(), MOST if as_json else SHOWN, 0)
        return await queries.overview(connection), listed

    overview, listed = _ask(settings, question)
    if as_json:
        _print(terminal, {"fleet": overview, **listed})
        return 0
    terminal.line(_counted(overview), "bold")
    if listed["instances"]:
        _table(
            terminal, ("Instance", "State", "Since", "Version", "Heard", "Problems"), map(_cells, listed["instances"])
        )
    if listed["total"] > len(listed["instances"]):
        terminal.show(Text(f"and {listed['total'] - len(listed['instances'])} more", style="bright_black"))
    if overview["checks"]:
        terminal.show(Text("\nWhat does not hold", style="bold"))
        _table(terminal, ("Check", "Instances", "Where", "Found"), map(_failing, overview["checks"]))
    if overview["changes"]:
        terminal.show(Text("\nChanges of the last day", style="bold"))
        _table(terminal, ("Check", "Change", "Instances", "When"), map(_changed, overview["changes"]))
    return 0


def _one(settings: Settings, terminal: Terminal, named: str, as_json: bool) -> int:
    from preflight.fleet import queries

    async def question(connection: Any) -> tuple[list[Row], dict[str, Any] | None]:
        which = queries.Filter(named=named[: queries.NAME].replace("\0", ""))
        rows: list[Row] = (await queries.instances(connection, which, SHOWN, 0))["instances"]
        same = [row for row in rows if named in (row["id"], row["host"], row["address"])] or rows
        return same, await queries.instance(connection, same[0]["id"]) if len(same) == 1 else None

    rows, instance = _ask(settings, question)
    if instance is None:
        several = f"{len(rows)} instances match" if rows else "no instance matches"
        terminal.fail(f"{several.upper()} THAT NAME", [f"{row['host']} {row['address']} {row['id']}" for row in rows])
        return 1
    document = instance.pop("report")
    try:
        known = document and not is_overlong(document)
        report = Report.from_json(terminal.redactor.document(document)) if known else None
    except (ReportError, RecursionError):
        report = None
    if as_json:
        _print(terminal, {**instance, "report": report and report.to_json()})
        return 0
    _table(
        terminal,
        ("Instance", "State", "Since", "Version", "Heard", "Problems"),
        [_cells({**instance, **_counts(instance)})],
    )
    if report is not None:
        terminal.show(banners.render(report, plain=terminal.plain))
    elif instance["failing"]:
        _table(
            terminal,
            ("Check", "Found", "Fix"),
            ((row["title"], row["message"], row["fix"]) for row in instance["failing"]),
        )
    return 0


def _counts(one: Row) -> dict[str, int]:
    blocking = sum(row["standing"] == "blocks" for row in one["failing"])
    return {"blocking": blocking, "warning": len(one["failing"]) - blocking}


def _counted(overview: Row) -> str:
    counts: Mapping[str, int] = overview["instances"]
    states = [f"{counts[state]} {state}" for state in SIGNS if counts[state]]
    releases = [f"{row['release'] or 'unknown'} on {row['count']}" for row in overview["releases"]]
    live = f"{counts['live']} instance{'' if counts['live'] == 1 else 's'}"
    return f"{live}: {', '.join(states) or 'none'}{'; version ' if releases else ''}{', '.join(releases)}"


def _cells(row: Row) -> tuple[Text | str, ...]:
    sign, style = SIGNS[row["state"]]
    problems = [f"{row[name]} {word}" for name, word in (("blocking", "block"), ("warning", "warn")) if row[name]]
    return (
        f"{row['host'] or row['id']} {row['address']}",
        Text(f"{sign} {row['state']}", style=style),
        _lasting(row["verdict_seconds"]),
        row["release"],
        f"{_lasting(row['seen_seconds_ago'])} ago",
        ", ".join(problems),
    )


def _failing(row: Row) -> tuple[str, ...]:
    more = row["count"] - len(row["places"])
    places = ", ".join(row["places"]) + (f" and {more} more" if more > 0 else "")
    return row["title"], f"{row['standing']} on {row['count']} of {row['of']}", places, row["message"]


def _changed(row: Row) -> tuple[str, ...]:
    words = " to ".join(STANDINGS.get(str(one), str(one)) for one in (row["before"], row["after"]))
    return row["title"] or "Verdict", words, str(row["count"]), f"{_lasting(row['last_seconds_ago'])} ago"


def _lasting(seconds: float | None) -> str:
    """Seconds as people say them: "8 s", "3 min", "2 h", "5 days"."""
    if seconds is None:
        return "?"
    for size, unit in ((48 * 3600, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // (86400 if unit == 'days' else size))} {unit}"
    return f"{int(seconds)} s"


def _table(terminal: Terminal, names: Sequence[str], rows: Any) -> None:
    """A line for each row; a block of lines for each if the terminal is too narrow."""
    from rich.table import Table

    texts = [[_text(terminal, cell) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name, no_wrap=True)
    for row in texts:
        table.add_row(*row)
    wanted = terminal.console.measure(table, options=terminal.console.options.update(width=WIDE)).maximum
    narrow = wanted > terminal.console.width
    terminal.show(Group(*(_lines(names, row) for row in texts)) if narrow else table)


def _text(terminal: Terminal, cell: Text | str) -> Text:
    return Text(terminal.text(str(cell)).replace("\n", " "), style=cell.style if isinstance(cell, Text) else "")


def _lines(names: Sequence[str], row: Sequence[Text]) -> RenderableType:
    below = [
        banners.Hanging(Text(f"{' ' * banners.INDENT}{name.lower()}: ", style="bright_black"), text)
        for name, text in zip(names[1:], row[1:], strict=True)
        if text
    ]
    return Group(banners.Paragraph(row[0], banners.INDENT), *below)
