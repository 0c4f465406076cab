"""``--history``: past runs as a table, newest first, with what flipped in each."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from preflight import history
from preflight.history import Flip, Run
from preflight.log import Log
from preflight.redaction import Redactor
from preflight.settings import Settings
from preflight.terminal import Terminal
from preflight.text import plain
from preflight.times import epoch

WIDE = 10_000  # columns where no terminal folds lines: a line of a pipe is a run
STATUSES = {
    "passed": ("✅", "green"),
    "warnings": ("⚠️", "yellow"),
    "failed": ("❌", "red"),
    "broken": ("❌", "red"),
}


def show(settings: Settings, *, address: str | None = None, as_json: bool = False) -> int:
    """Print the history of one address, or of all; returns the command's exit code."""
    log = Log(Redactor.of(settings.environment, settings.envfile.values))
    terminal = Terminal(log, lossy=False, forgiving=False)
    try:
        kept = history.History(settings.state_dir / history.FOLDER)
        found = kept.runs(limit=settings.history * history.ADDRESSES, address=address)
    except OSError as error:
        terminal.fail("THE HISTORY CANNOT BE READ", [f"{settings.state_dir / history.FOLDER}: {error.strerror}"])
        return 1
    if as_json:
        entries = plain(terminal.redactor.document([history.entry(run, flipped) for run, flipped in found]))
        print(json.dumps(entries, indent=2), flush=True)
    elif found:
        _table(terminal, found)
    else:
        of = f" of {address}" if address else ""
        terminal.line(f"No run{of} has been kept yet in {settings.state_dir / history.FOLDER}.")
    return 0


def _table(terminal: Terminal, found: Sequence[tuple[Run, tuple[Flip, ...]]]) -> None:
    from rich.table import Table
    from rich.text import Text

    on_terminal = terminal.console.is_terminal
    if not on_terminal:
        terminal.console.width = WIDE
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("When", "Origin", "Address", "Status", "Took"):
        table.add_column(name, no_wrap=True, justify="right" if name == "Took" else "left")
    table.add_column("Troubled by", overflow="fold")
    table.add_column("Flips", overflow="fold")
    arrow = "->" if terminal.plain else "→"
    for run, flipped in found:
        sign, style = STATUSES[run.status]
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch(run.started_at)))
        table.add_row(
            when,
            run.origin,
            terminal.text(run.address),
            Text(run.status if terminal.plain else f"{sign} {run.status}", style=style),
            f"{run.duration:.2f} s",
            terminal.text(", ".join([*run.blocking, *run.warnings]) or run.reason),
            terminal.text(", ".join(f"{flip.title}: {flip.before} {arrow} {flip.after}" for flip in flipped)),
        )
    terminal.show(table)
