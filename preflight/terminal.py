"""What the launcher shows: a console that redacts, and the progress of a run."""

from __future__ import annotations

import sys
from typing import TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from preflight import banners
from preflight.redaction import Redactor


class Terminal:
    """One place through which everything that people read goes; every text is redacted on its way."""

    def __init__(self, redactor: Redactor, stream: TextIO | None = None, *, verbose: bool = False) -> None:
        # soft_wrap would leave long fixes to the terminal; rich wraps at words instead, in a pipe at 100 columns.
        stream = stream or sys.stdout
        self.console = Console(file=stream, highlight=False, emoji=False, markup=False, width=_width(stream))
        self.redactor = redactor
        self.verbose = verbose
        self.plain = banners.plain(self.console)
        self._live: Live | None = None

    def line(self, text: str, style: str = "") -> None:
        self.console.print(Text(self.redactor.text(text), style=style))

    def show(self, what: RenderableType) -> None:
        """Print what banners.py made from a report, which is redacted already."""
        self.console.print(what)

    def progress(self, checking: str, done: int, total: int) -> None:
        """Show which requirement is being checked; on a terminal only, and gone when it is over."""
        if not self.console.is_terminal or self.console.is_dumb_terminal:
            return
        text = Text(self.redactor.text(f"{done}/{total} {checking} …"))
        if self._live is None:
            spinner = "line" if self.plain else "dots"
            self._spinner = Spinner(spinner, text)
            self._live = Live(self._spinner, console=self.console, transient=True, refresh_per_second=12.5)
            self._live.start()
        else:
            self._spinner.update(text=text)

    def progress_over(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _width(stream: TextIO) -> int | None:
    """None lets rich ask the terminal; a pipe has no width, and 80 columns would cut commands in two."""
    import os

    return None if stream.isatty() or os.environ.get("COLUMNS") else 100
