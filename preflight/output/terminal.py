"""What the launcher shows: a console that redacts, and the progress of a run."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, TextIO

from rich.console import Console, RenderableType
from rich.text import Text

from preflight.output.log import Log
from preflight.output.streams import Stream
from preflight.redaction.redactor import Redactor
from preflight.redaction.stream import StreamRedactor
from preflight.report import banners
from preflight.report.model import LONGEST_MESSAGE
from preflight.text import coloured, printable

if TYPE_CHECKING:
    from rich.live import Live

LONGEST_LINE = 64 * 1024  # characters of a line that are shown
TURNS = 12.5  # frames of the spinner a second


class Terminal:
    """One place through which everything that people read goes; every text is redacted on its way.

    ``log`` gets it as well. Its redactor is the terminal's: a new log brings a new redactor.
    """

    def __init__(
        self,
        log: Log,
        stream: TextIO | None = None,
        *,
        verbose: bool = False,
        lossy: bool = True,
        forgiving: bool = True,
    ) -> None:
        """``lossy``: lines may be lost if nobody reads; else the end of the command waits for whoever does.

        Without ``forgiving`` what is shown is all that was asked for: an error of writing it is raised.
        """
        stream = stream or sys.stdout
        for one in (stream, sys.stderr):
            if isinstance(one, Stream):
                # See surviving(), for streams that others gave us.
                one.forgiving = forgiving or one is not stream
        self._forgiving = forgiving
        if isinstance(stream, Stream) and stream is not sys.stderr:
            stream.lossy = lossy
        if isinstance(stream, io.TextIOWrapper):
            # A character that this encoding does not know must not end a start.
            stream.reconfigure(errors="backslashreplace")
        self.console = Console(file=stream, highlight=False, emoji=False, markup=False, width=_width(stream))
        self.log = log
        self.verbose = verbose
        self.plain = banners.plain(self.console)
        self._live: Live | None = None
        self._doing = ""
        self._passed_on: tuple[int, StreamRedactor] | None = None  # a worker's PID, and what is known of its stream

    @property
    def redactor(self) -> Redactor:
        """The redactor of the terminal and of the log."""
        return self.log.redactor

    def text(self, text: str) -> str:
        """The text of another source, as it may be shown."""
        return printable(self.redactor.beginning(text, LONGEST_LINE))

    def line(self, text: str, style: str = "", *, indent: int = 2) -> None:
        """One line; where a terminal is too narrow for it, it goes on so many columns further to the right."""
        self.show(banners.Paragraph(Text(self.text(text), style=style), indent))

    def show(self, what: RenderableType) -> None:
        """Print what banners.py made from a report, which is redacted already."""
        self._note(what)
        with surviving(self.console.file) if self._forgiving else contextlib.nullcontext():
            # Not cropped: a fix is one line however long it is, and the terminal folds it.
            if self.console.is_terminal:
                self.console.print(what, crop=False)
                return
            # rich fills lines up with blanks, which are in the way in a file. A line is not folded there: its rest
            # would begin another one, as if somebody else had said it.
            with self.console.capture() as captured:
                self.console.print(what, crop=False, soft_wrap=isinstance(what, banners.Paragraph))
            lines = [line.rstrip() for line in captured.get().splitlines()]
            self.console.file.write("\n".join([*lines, ""]))
            self.console.file.flush()

    def _note(self, what: RenderableType) -> None:
        """The same in the log, without colours."""
        if self.log.file is None:
            return
        paper = Console(file=io.StringIO(), width=200, no_color=True, highlight=False, emoji=False, markup=False)
        with paper.capture() as captured:
            # Not folded, as above.
            paper.print(what, crop=False, soft_wrap=True)
        for line in captured.get().splitlines():
            if line.strip():
                self.log.line("launcher", os.getpid(), line.rstrip())

    def pass_on(self, lines: Iterable[str], pid: int) -> None:
        """Lines that the worker ``pid`` printed, redacted, on standard error: of their controls the colours stay."""
        if self._passed_on is None or self._passed_on[0] != pid:
            self._passed_on = pid, StreamRedactor(self.redactor)
        stream = self._passed_on[1]
        shown = []
        for line in lines:
            self.log.line("worker", pid, line)
            shown.append(coloured(stream.next(line, LONGEST_LINE)) + "\n")
        if shown:
            with surviving(sys.stderr):
                sys.stderr.write("".join(shown))
                sys.stderr.flush()

    def fail(self, title: str, lines: Sequence[str]) -> None:
        """A red banner for something that is no check's failure."""
        stream = StreamRedactor(self.redactor)  # the end of somebody's output may be among them
        shown = [printable(stream.next(line, LONGEST_MESSAGE)) for line in lines]
        self.show(banners.failure(title, shown, plain=self.plain))

    @property
    def animated(self) -> bool:
        """Whether new output can replace what was shown before."""
        return self.console.is_terminal and not self.console.is_dumb_terminal

    def progress(self, checking: str, done: int, total: int) -> None:
        """Show which requirement is being checked; on a terminal only, and gone when it is over."""
        self.doing(f"{done}/{total} {checking}")

    def doing(self, what: str) -> None:
        """Show what is going on; on a terminal only, and gone when it is over."""
        if not self.animated:
            return
        self._doing = self.text(f"{what} {'...' if self.plain else '…'}")
        if self._live is None:
            from rich.live import Live  # without a terminal it is not needed

            self._live = Live(
                get_renderable=self._turning, console=self.console, transient=True, refresh_per_second=TURNS
            )
            self._live.start()

    def _turning(self) -> Text:
        # rich has a spinner, but that brings its tables: 0.9 MiB, for as long as the launcher serves.
        frames = "-\\|/" if self.plain else "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
        return Text(f"{frames[int(time.monotonic() * TURNS) % len(frames)]} {self._doing}")

    def screen(self, what: RenderableType) -> None:
        """Show this in place of what the screen showed before; on a terminal only. It stays when it is over."""
        from rich.live import Live

        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False, vertical_overflow="crop")
            self._live.start()
        # A reader that does not keep up sees the newest one later.
        self._live.update(what, refresh=not (isinstance(self.console.file, Stream) and self.console.file.behind))

    def progress_over(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


@contextlib.contextmanager
def surviving(stream: IO[str]) -> Iterator[None]:
    """Let nobody stop serving because nobody reads: what cannot be written is lost, and what follows is tried again.

    A pipe or a terminal that has gone does not come back; the stream then leads nowhere, so that the
    interpreter's last flush does not fail either. A full disk may have room again.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.EIO):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _width(stream: TextIO) -> int | None:
    """None lets rich ask the terminal; a pipe has no width, and rich would take 80 columns.

    COLUMNS=0 stands for nobody knows (Emacs' shells, some services): rich would take it at its word, and show nothing.
    """
    columns = os.environ.get("COLUMNS", "")
    if columns and not columns.strip("0") and stream.isatty():
        with contextlib.suppress(OSError):
            return os.get_terminal_size(stream.fileno()).columns or 100
    return None if stream.isatty() or columns.strip("0") else 100
