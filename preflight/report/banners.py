"""The terminal's rendering of a report. Functions here make text; only the launcher prints.

No frames at the sides: a fix is there to be copied, and a frame would be copied with it. A wrapped text goes on under
its own beginning, and words stay whole. Whatever may be pasted (a command, a URL) is one line however long it is:
wrapped here, it would be pasted as several lines; the terminal that folds it knows that it is one.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from preflight.report.model import Check, Report

INDENT = 3  # columns: the text of a banner stands behind the sign
NARROWEST = 12  # columns that an indented text needs; if there are fewer it begins at the margin
PROSE = frozenset({"a", "an", "and", "another", "at", "else", "if", "in", "it", "or", "the", "then", "to", "with"})
"""Words by which a sentence is known: no command for pasting has one of them outside of quotes."""
OPERATORS = frozenset({"&&", "||", "|", "|&", ">", ">>", "<", "2>", "&>"})
"""Words of a shell by which a command is known, whatever else is in it."""
ENDS = frozenset({"done", "fi", "esac"})
"""Words that end a loop or a choice of a shell, in which some of the words of a sentence have a meaning."""

# Outcome: the sign for terminals that can show it, the word for those that cannot, and the style.
SIGNS = {
    "passed": ("✅", "ok", "green"),
    "failed": ("❌", "FAILED", "red"),
    "error": ("❌", "ERROR", "red"),
    "timeout": ("❌", "TIMEOUT", "red"),
    "skipped": ("❌", "SKIPPED", "red"),
    "unknown": ("❔", "unknown", "yellow"),
    "not_applicable": ("⏭️", "n/a", "bright_black"),
    "ignored": ("⚠️", "ignored", "yellow"),
}
WARNING = ("⚠️", "warning", "yellow")


def plain(console: Console) -> bool:
    """Whether signs must be words: an encoding without emoji, or the kernel's own console."""
    import os

    return not console.encoding.lower().startswith("utf") or os.environ.get("TERM") in ("linux", "dumb")


def sign(check: Check, *, plain: bool) -> tuple[str, str]:
    """The sign of a check and its style."""
    emoji, word, style = (
        WARNING if check.warns and check.outcome in ("failed", "error", "timeout", "skipped") else SIGNS[check.outcome]
    )
    return (f"[{word}]" if plain else emoji), style


def bar(text: str, style: str) -> RenderableType:
    """A full line in colour, which nobody can miss."""
    return Padding(Text(text, style=f"bold white on {style}", justify="center"), style=f"bold white on {style}")


class Hanging:
    """A text whose further lines begin under the end of its ``head``, and not under the sign in it."""

    def __init__(self, head: Text, body: Text) -> None:
        self.head, self.body = head, body

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        indent = cell_len(self.head.plain)
        if options.no_wrap:
            yield Text.assemble(self.head, self.body, no_wrap=True, overflow="ignore")
        elif options.max_width - indent < NARROWEST:
            yield Text.assemble(self.head, self.body)
        else:
            for number, line in enumerate(self.body.wrap(console, options.max_width - indent) or [Text()]):
                yield Text.assemble(" " * indent if number else self.head, line, no_wrap=True, overflow="ignore")


class Paragraph:
    """A line that stands alone. If it is wrapped, its other lines begin ``indent`` columns further to the right."""

    def __init__(self, text: Text | str, indent: int = 2) -> None:
        self.text = Text(text) if isinstance(text, str) else text
        self.indent = len(self.text.plain) - len(self.text.plain.lstrip(" ")) + indent

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        first, *more = [self.text] if options.no_wrap else self.text.wrap(console, width) or [Text()]
        yield Text.assemble(first, no_wrap=True, overflow="ignore")
        if more:
            rest = self.text[len(first) :]
            rest = rest[len(rest.plain) - len(rest.plain.lstrip(" ")) :]
            indent = self.indent if width - self.indent >= NARROWEST else 0
            for line in rest.wrap(console, width - indent):
                yield Text.assemble(" " * indent, line, no_wrap=True, overflow="ignore")


def is_sentence(fix: str) -> bool:
    """Whether a fix is a sentence and not a command: it has words or signs that no command has.

    A text that could be either is a command: a wrapped command would be pasted as several, a sentence is only folded.
    """
    try:
        words = shlex.split(fix.partition("  # ")[0])
    except ValueError:  # the apostrophe in "don't"
        return True
    if not OPERATORS.isdisjoint(words) or (not ENDS.isdisjoint(words) and ";" in fix):
        return False
    # A copy may go to "host:"; no sentence ends like that.
    return any(word in PROSE or word.startswith("(") for word in words) or any(
        word.endswith((",", ":")) for word in words[:-1]
    )


class Fix:
    """A fix: a command is one line, whatever its length, with the remark about it below if that does not fit."""

    def __init__(self, fix: str, *, indent: int = INDENT, in_place: bool = False) -> None:
        """``in_place``: on a screen that is drawn again and again, where no line may be longer than it is wide."""
        self.fix, self.indent, self.in_place = fix, indent, in_place

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        head = Text.assemble(" " * self.indent, ("Fix: ", "bold"))
        if self.in_place:
            yield Hanging(head, Text(self.fix))
            return
        indent = cell_len(head.plain)
        room = max(options.max_width - indent, NARROWEST)
        if options.no_wrap or cell_len(self.fix) <= room:
            lines = [self.fix]
        elif is_sentence(self.fix):
            lines = _filled(self.fix, room)
        else:
            command, mark, said = self.fix.partition("  # ")
            # Each line of the remark is a comment, so a person who copies all of them pastes one command.
            lines = [command, *(f"# {line}" for line in _filled(said, room - 2) if mark)]
        for number, line in enumerate(lines):
            yield Text.assemble(" " * indent if number else head, line, no_wrap=True, overflow="ignore")


def _filled(text: str, width: int) -> list[str]:
    """The lines of a text with so many columns in each; a path or URL that is longer stays whole."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and cell_len(lines[-1]) + 1 + cell_len(word) > width:
            lines.append(word)
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return lines


def _block(check: Check, *, plain: bool, verbose: bool, in_place: bool = False) -> RenderableType:
    mark, style = sign(check, plain=plain)
    outcome = "" if check.outcome == "failed" else f" ({check.outcome})"
    shared = ", shared by the fleet" if check.scope == "fleet" else ""
    title = Text.assemble((check.title, f"bold {style}"), (outcome, style), (shared, style))
    lines: list[RenderableType] = [
        Hanging(Text(f"{mark} ", style=style), title),
        _indented(Text(check.message or check.requirement)),
    ]
    if check.fix:
        lines.append(Fix(check.fix, in_place=in_place))
    if verbose:
        lines.append(_indented(_details(check)))
    return Group(*lines)


def _indented(text: Text) -> RenderableType:
    return Padding(text, (0, 0, 0, INDENT))


def _details(check: Check) -> Text:
    entries = [f"{name}: {value}" for name, value in check.details.items()]
    return Text("\n".join([check.requirement, *entries, f"took {check.duration * 1000:.1f} ms"]), style="bright_black")


def banner(title: str, style: str, checks: Iterable[Check], *, plain: bool, verbose: bool) -> RenderableType:
    """A coloured title line with the checks below it."""
    parts: list[RenderableType] = [bar(title, style)]
    parts += [_block(check, plain=plain, verbose=verbose) for check in checks]
    parts.append(_rule(style, plain))
    return Group(*parts)


class CheckRows:
    """A line or more for each check: sign, title and message.

    The messages stand below each other where that leaves them half of the width; else each follows its title.
    """

    def __init__(
        self,
        checks: Sequence[Check],
        *,
        plain: bool,
        verbose: bool = False,
        aligned: bool = True,
        folded: bool = True,
    ) -> None:
        """``folded``: long lines are wrapped; else they end where the terminal does."""
        self.checks, self.plain, self.verbose, self.aligned, self.folded = checks, plain, verbose, aligned, folded

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        signs = max((cell_len(sign(check, plain=self.plain)[0]) for check in self.checks), default=0) + 1
        titles = max((cell_len(check.title) for check in self.checks), default=0) + 1
        aligned = self.aligned and (options.no_wrap or 2 * (signs + titles) <= options.max_width)
        for check in self.checks:
            mark, style = sign(check, plain=self.plain)
            head = Text.assemble((mark, style), " " * (signs - cell_len(mark)))
            title, message = check.title, Text(check.message, style="bright_black")
            if aligned and check.message:
                head.append(title + " " * (titles - cell_len(title)))
            else:
                message = Text.assemble(f"{title}: " if check.message else title, message)
            if self.folded:
                yield Hanging(head, message)
            else:
                yield Text.assemble(head, message, no_wrap=True, overflow="ellipsis")
            if self.verbose:
                yield Padding(_details(check), (0, 0, 0, signs))


def _once_a_service(checks: Sequence[Check]) -> list[Check]:
    """The checks, with one for each optional service that is not used, however many requirements are about it."""
    shown: list[Check] = []
    services: set[object] = set()
    for check in checks:
        service = check.details.get("service") if check.outcome == "not_applicable" else None
        if service is None:
            shown.append(check)
        elif service not in services:
            services.add(service)
            shown.append(replace(check, title=str(service)))
    return shown


def render(report: Report, *, plain: bool = False, verbose: bool = False) -> RenderableType:
    """The whole report: what holds, then warnings, what was not found out, what blocks, and the count.

    What blocks comes last, where the eye and the terminal's end are. An unknown answer, because something else is in
    the way say, is no warning: it is counted apart, after the warnings.
    """
    good = _once_a_service([check for check in report.checks if not check.blocks and not check.warns])
    parts: list[RenderableType] = []
    if good:
        parts.append(CheckRows(good, plain=plain, verbose=verbose))
    if report.problems:
        title = f"{_sign('⚠️ ', plain)}{_count(len(report.problems), 'WARNING')}"
        parts.append(banner(title, "dark_orange3", report.problems, plain=plain, verbose=verbose))
    if report.unknown:
        parts.append(_not_known(report.unknown, plain=plain, verbose=verbose))
    if report.blocking:
        title = f"{_sign('❌ ', plain)}{_count(len(report.blocking), 'CRITICAL ERROR')}: must fix before proceeding"
        parts.append(banner(title, "red", report.blocking, plain=plain, verbose=verbose))
    parts.append(Paragraph(Text(count(report), style="bold")))
    return Group(*parts)


def _not_known(checks: Sequence[Check], *, plain: bool, verbose: bool) -> RenderableType:
    """The checks whose question had no answer, each with its fix; a cause that several share is said once."""
    together: dict[object, list[Check]] = {}
    for check in checks:
        same = check.id if verbose else (check.message, check.fix)
        together.setdefault(same, []).append(check)
    parts: list[RenderableType] = [Text(f"{len(checks)} not checked:", style="bold yellow")]
    for first, *more in together.values():
        one = replace(first, title=", ".join(check.title for check in (first, *more)))
        parts.append(CheckRows([one], plain=plain, verbose=verbose, aligned=False))
        if one.fix:
            parts.append(Fix(one.fix))
    return Group(*parts)


class Watched:
    """What ``--watch`` shows in place: what blocks, the other checks as far as there is room, what changed last.

    A screen that is drawn in place has to know where its lines end: here a fix is wrapped like everything else.
    """

    def __init__(
        self, report: Report, changes: Iterable[str], head: str, *, plain: bool = False, height: int = 24
    ) -> None:
        """``height``: lines of the terminal."""
        self.report, self.changes, self.head = report, list(changes), head
        self.plain, self.height = plain, height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        report, plain = self.report, self.plain
        above: list[RenderableType] = [
            Paragraph(Text(self.head.replace("·", "-") if plain else self.head, style="bold"))
        ]
        if report.status == "broken":
            above.append(Paragraph(Text(f"the check suite itself failed: {report.reason}", style="red")))
        above += [_block(check, plain=plain, verbose=False, in_place=True) for check in report.blocking]
        below = [Text(count(report), style="bold"), *(Text(line) for line in self.changes)]
        for line in below:
            line.no_wrap, line.overflow = True, "ellipsis"
        good = [check for check in report.checks if not check.blocks and not check.warns]
        rest = [*report.problems, *report.unknown, *good]
        used = len(console.render_lines(Group(*above), options, pad=False)) + len(below)
        room = max(3, self.height - used - 3)  # the rule, how many more there are, and where the cursor stands
        yield from above
        yield CheckRows(rest[:room], plain=plain, folded=False)
        if len(rest) > room:
            yield Text(f"and {len(rest) - room} more", style="bright_black")
        yield _rule("bright_black", plain)
        yield from below


def broken(
    reason: str, output: Sequence[str] = (), *, plain: bool = False, beside_a_server: bool = False
) -> RenderableType:
    """The banner for a run without a trustworthy report: the end of what the suite printed comes with it.

    ``beside_a_server``: it was a re-run, and the server goes on.
    """
    so = "the previous verdict stays" if beside_a_server else "nothing was started"
    head = bar(f"{_sign('❌ ', plain)}THE CHECK SUITE ITSELF FAILED: {so}", "red")
    parts: list[RenderableType] = [head, Text(reason)]
    if output:
        parts.append(Text("The end of its output:", style="bold"))
        parts += [Hanging(Text(" " * INDENT), Text(line, style="bright_black")) for line in output]
    parts.append(_rule("red", plain))
    return Group(*parts)


def failure(title: str, lines: Sequence[str], *, plain: bool = False) -> RenderableType:
    """A red banner for a failure that is not a check's."""
    shown = [
        Fix(line.removeprefix("Fix: "), indent=0) if line.startswith("Fix: ") else Paragraph(line) for line in lines
    ]
    return Group(bar(f"{_sign('❌ ', plain)}{title}", "red"), *shown, _rule("red", plain))


def ready(addresses: Sequence[tuple[str, str]], *, plain: bool = False) -> RenderableType:
    """The green banner; ``addresses`` are pairs of a name and an address."""
    return Group(bar(f"{_sign('✅ ', plain)}SERVER READY!", "green"), Addresses(addresses), _rule("green", plain))


class Addresses:
    """Pairs of a name and an address: in two columns if they fit, else each address below its name."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self.pairs = pairs

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widest = max(len(what) for what, _where in self.pairs) + 2
        beside = widest + max(len(where) for _what, where in self.pairs) <= options.max_width
        for what, where in self.pairs:
            between = " " * (widest - len(what)) if beside else "\n  "
            yield Text.assemble((what, "bold"), between, where, no_wrap=True, overflow="ignore")


def count(report: Report) -> str:
    """The closing line: "16 requirements: 14 passed, 2 failed, in 0.21 s"."""
    counts = {name.replace("_", " "): number for name, number in report.summary.items() if name != "total"}
    total = len(report.checks)
    listed = ", ".join(f"{number} {name}" for name, number in counts.items()) or "none ran"
    return f"{total} requirement{'' if total == 1 else 's'}: {listed}, in {report.duration:.2f} s"


def _rule(style: str, plain: bool) -> RenderableType:
    return Rule(style=style, characters="-" if plain else "─")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 'S'}"


def _sign(emoji: str, plain: bool) -> str:
    return "" if plain else emoji
