"""The terminal's rendering of a report. Functions here make text; only the launcher prints.

No frames at the sides: a fix is there to be copied, and a frame would come along.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from preflight.report import Check, Report

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
    """A full line in colour: what nobody can miss."""
    return Padding(Text(text, style=f"bold white on {style}", justify="center"), style=f"bold white on {style}")


def _block(check: Check, *, plain: bool, verbose: bool) -> RenderableType:
    mark, style = sign(check, plain=plain)
    outcome = "" if check.outcome == "failed" else f" ({check.outcome})"
    lines: list[RenderableType] = [
        Text.assemble((f"{mark} ", style), (check.title, f"bold {style}"), (outcome, style)),
        Padding(Text(check.message or check.requirement), (0, 0, 0, 3)),
    ]
    if check.fix:
        # One line however long: what is wrapped here would be pasted as several commands.
        lines.append(Text.assemble("   ", ("Fix: ", "bold"), check.fix, no_wrap=True, overflow="ignore"))
    if verbose:
        lines.append(Padding(_details(check), (0, 0, 0, 3)))
    return Group(*lines)


def _details(check: Check) -> Text:
    entries = [f"{name}: {value}" for name, value in check.details.items()]
    return Text("\n".join([check.requirement, *entries, f"took {check.duration * 1000:.1f} ms"]), style="bright_black")


def banner(title: str, style: str, checks: Iterable[Check], *, plain: bool, verbose: bool) -> RenderableType:
    """A coloured title line with the checks below it."""
    parts: list[RenderableType] = [bar(title, style)]
    parts += [_block(check, plain=plain, verbose=verbose) for check in checks]
    parts.append(_rule(style, plain))
    return Group(*parts)


def passed(checks: Sequence[Check], *, plain: bool, verbose: bool) -> RenderableType:
    """One short line for each check that needs no attention."""
    lines: list[RenderableType] = []
    indent = _width_of_signs(checks, plain=plain) + 1
    for check, line in zip(checks, _lines(checks, plain=plain), strict=True):
        lines.append(line)
        if verbose:
            lines.append(Padding(_details(check), (0, 0, 0, indent)))
    return Group(*lines)


def _width_of_signs(checks: Sequence[Check], *, plain: bool) -> int:
    return max(cell_len(sign(check, plain=plain)[0]) for check in checks)


def _lines(checks: Sequence[Check], *, plain: bool) -> list[Text]:
    """A line for each check: sign, title and message, each below the other."""
    signs = _width_of_signs(checks, plain=plain)
    titles = max(cell_len(check.title) for check in checks)
    lines = []
    for check in checks:
        mark, style = sign(check, plain=plain)
        gap = " " * (signs - cell_len(mark) + 1)
        title = check.title + " " * (titles - cell_len(check.title) + 1 if check.message else 0)
        lines.append(Text.assemble((mark, style), gap, title, (check.message, "bright_black")))
    return lines


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
    """The whole report: what holds, then warnings, then what blocks, and the count.

    What blocks comes last, where the eye and the terminal's end are.
    """
    good = _once_a_service([check for check in report.checks if not check.blocks and not check.warns])
    parts: list[RenderableType] = []
    if good:
        parts.append(passed(good, plain=plain, verbose=verbose))
    if report.warnings:
        title = f"{_sign('⚠️ ', plain)}{_count(len(report.warnings), 'WARNING')}"
        parts.append(banner(title, "dark_orange3", report.warnings, plain=plain, verbose=verbose))
    if report.blocking:
        title = f"{_sign('❌ ', plain)}{_count(len(report.blocking), 'CRITICAL ERROR')}: must fix before proceeding"
        parts.append(banner(title, "red", report.blocking, plain=plain, verbose=verbose))
    parts.append(Text(count(report), style="bold"))
    return Group(*parts)


def watched(
    report: Report, changes: Iterable[str], head: str, *, plain: bool = False, height: int = 24
) -> RenderableType:
    """What ``--watch`` shows in place: what blocks, the other checks as far as there is room, what changed last."""
    good = [check for check in report.checks if not check.blocks and not check.warns]
    rest = [*report.warnings, *good]
    blocks = [_block(check, plain=plain, verbose=False) for check in report.blocking]
    below = [Text(count(report), style="bold"), *(Text(line) for line in changes)]
    room = max(3, height - 3 * len(blocks) - len(below) - 4)
    parts: list[RenderableType] = [Text(head if not plain else head.replace("·", "-"), style="bold")]
    if report.status == "broken":
        parts.append(Text(f"the preflight itself broke: {report.reason}", style="red"))
    parts += blocks
    lines = _lines(rest[:room], plain=plain) if rest else []
    for line in (*lines, *below):
        line.no_wrap, line.overflow = True, "ellipsis"
    parts += lines
    if len(rest) > room:
        parts.append(Text(f"and {len(rest) - room} more", style="bright_black"))
    return Group(*parts, _rule("bright_black", plain), *below)


def broken(
    reason: str, output: Sequence[str] = (), *, plain: bool = False, beside_a_server: bool = False
) -> RenderableType:
    """The banner for a run without a trustworthy report: the end of what the suite printed comes with it.

    ``beside_a_server``: it was a re-run, and the server goes on.
    """
    so = "the verdict before it stays" if beside_a_server else "nothing was started"
    parts: list[RenderableType] = [bar(f"{_sign('❌ ', plain)}THE PREFLIGHT ITSELF BROKE: {so}", "red"), Text(reason)]
    if output:
        parts.append(Text("The end of its output:", style="bold"))
        parts.append(Padding(Text("\n".join(output), style="bright_black"), (0, 0, 0, 3)))
    parts.append(_rule("red", plain))
    return Group(*parts)


def failure(title: str, lines: Sequence[str], *, plain: bool = False) -> RenderableType:
    """A red banner for something that is no check's failure."""
    return Group(bar(f"{_sign('❌ ', plain)}{title}", "red"), *map(Text, lines), _rule("red", plain))


def ready(addresses: Sequence[tuple[str, str]], *, plain: bool = False) -> RenderableType:
    """The green banner; ``addresses`` are pairs of what and where."""
    widest = max(len(what) for what, _where in addresses)
    lines = [Text.assemble((what.ljust(widest + 2), "bold"), where) for what, where in addresses]
    return Group(bar(f"{_sign('✅ ', plain)}SERVER READY!", "green"), *lines, _rule("green", plain))


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
