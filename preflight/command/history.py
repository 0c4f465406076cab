"""``--history``: past runs as a table, newest first, with the changes in each."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from preflight.output.log import Log
from preflight.output.terminal import Terminal
from preflight.redaction.redactor import Redactor
from preflight.report import banners, history
from preflight.report.changes import Flip
from preflight.report.history import Run
from preflight.settings.model import Settings
from preflight.text import plain
from preflight.times import local_of

WIDE = 10_000  # columns where no terminal folds lines: in a pipe, each run is one line
STATUSES = {
    "passed": ("✅", "green"),
    "warnings": ("⚠️", "yellow"),
    "failed": ("❌", "red"),
    "broken": ("❌", "red"),
}


def show(settings: Settings, *, address: str | None = None, as_json: bool = False) -> int:
    """Print the history of one address, or of all; returns the command's exit code."""
    log = Log(Redactor.of(settings))
    terminal = Terminal(log, lossy=False, forgiving=False)
    try:
        kept = history.History(settings.state.history)
        found = kept.runs(limit=settings.history * history.ADDRESSES, address=address)
    except OSError as error:
        terminal.fail("THE HISTORY CANNOT BE READ", [f"{settings.state.history}: {error.strerror}"])
        return 1
    if as_json:
        entries = plain(terminal.redactor.document([history.entry(run, flipped) for run, flipped in found]))
        print(json.dumps(entries, indent=2), flush=True)
    elif found:
        _table(terminal, found)
    else:
        of = f" of {address}" if address else ""
        terminal.line(f"No run{of} has been kept yet in {settings.state.history}.")
    return 0


def _table(terminal: Terminal, found: Sequence[tuple[Run, tuple[Flip, ...]]]) -> None:
    """A line for each run, or several lines for each if the terminal is too narrow for the table."""
    from rich.table import Table

    if not terminal.console.is_terminal:
        terminal.console.width = WIDE
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("When", "Origin", "Address", "Status", "Took", "Problems", "Changes"):
        table.add_column(name, no_wrap=True, justify="right" if name == "Took" else "left")
    rows = [_cells(terminal, run, flipped) for run, flipped in found]
    for row in rows:
        table.add_row(*row)
    wanted = terminal.console.measure(table, options=terminal.console.options.update(width=WIDE)).maximum
    narrow = wanted > terminal.console.width
    terminal.show(Group(*(_lines(row) for row in rows)) if narrow else table)


def _cells(terminal: Terminal, run: Run, flipped: Sequence[Flip]) -> tuple[Text, ...]:
    arrow = "->" if terminal.plain else "→"
    sign, style = STATUSES[run.status]
    texts = [
        local_of(run.started_at),
        run.origin,
        run.address,
        run.status if terminal.plain else f"{sign} {run.status}",
        f"{run.duration:.2f} s",
        ", ".join(_troubles(run)) or run.reason,
        ", ".join(f"{flip.title}: {flip.before} {arrow} {flip.after}" for flip in flipped),
    ]
    return tuple(Text(terminal.text(text), style=style if text is texts[3] else "") for text in texts)


def _troubles(run: Run) -> list[str]:
    """The titles of the checks that were bad, or, if none was, of those without an answer."""
    known = [title for title in run.warnings if run.checks[title].outcome != "unknown"]
    return [*run.blocking, *known] or list(run.warnings)


def _lines(cells: Sequence[Text]) -> RenderableType:
    when, origin, address, status, took, troubled, flips = cells
    head = Text("  ").join([when, status, origin, took, address])
    below = [
        banners.Hanging(Text(f"{' ' * banners.INDENT}{name}: ", style="bright_black"), text)
        for name, text in (("problems", troubled), ("changes", flips))
        if text
    ]
    return Group(banners.Paragraph(head, banners.INDENT), *below)
