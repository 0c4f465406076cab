"""The documentation cannot drift: the README's tables are made from the code and compared with what stands there."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import preflight
from preflight import commandline, settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(*rows: tuple[str, ...]) -> str:
    head, *rest = rows
    return "\n".join([row(*head), row(*["---"] * len(head)), *(row(*cells) for cells in rest)])


def shown(action: argparse.Action) -> str:
    names = [name for name in action.option_strings if not name.startswith("--no-") or len(action.option_strings) == 1]
    if isinstance(action, argparse.BooleanOptionalAction):
        return f"`--[no-]{names[0].removeprefix('--')}`"
    value = f" {action.metavar}" if action.metavar else ""
    if action.nargs == "?":
        value = f" [{action.metavar}]"
    return ", ".join(f"`{name}{value}`" for name in names)


def options() -> str:
    """Every option of the command, in the order of --help."""
    actions = [action for action in commandline.parser()._actions if action.option_strings]
    return table(("option", "meaning"), *((shown(action), str(action.help)) for action in actions))


def default(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return f"`{', '.join(value)}`" if value else "none"
    if isinstance(value, float):
        return f"`{value:g}s`" if value < 86400 else f"`{value / 86400:g}d`"
    return f"`{value}`"


def settings_rows() -> Iterator[tuple[str, ...]]:
    for name, entry in settings.SETTINGS.items():
        value: Any = entry.default
        if entry.metadata["parse"] is settings.size:
            units = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))
            value = next(f"{value // unit} {word}" for unit, word in units if value % unit == 0)
        yield f"`{name}`", f"`{settings.PREFIX}{name.upper()}`", default(value), str(entry.metadata["about"])


def settings_table() -> str:
    """Every setting, its variable, its default and its meaning."""
    return table(("setting", "variable", "default", "meaning"), *settings_rows())


def exit_codes() -> str:
    """Every exit code of the command."""
    return table(("exit code", "means"), *((f"`{code}`", text) for code, text in commandline.EXIT_CODES.items()))


def requirement_rows() -> Iterator[tuple[str, ...]]:
    for file in sorted((ROOT / "preflight" / "requirements").glob("test_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            mark = node.decorator_list[0]
            assert isinstance(mark, ast.Call)
            assert isinstance(mark.func, ast.Attribute)
            title = ast.literal_eval(mark.args[0])
            holds = (ast.get_docstring(node) or "").splitlines()[0]
            yield title, mark.func.attr, holds


def requirements() -> str:
    """Every requirement: title, severity and the docstring that states it."""
    return table(("requirement", "severity", "holds when"), *requirement_rows())


@pytest.mark.parametrize("made", [options, settings_table, exit_codes, requirements])
def test_a_table_of_the_readme_says_what_the_code_does(made: Callable[[], str]) -> None:
    """Each row stands in the README word for word, and none too many."""
    assert made() in README, f"README.md should have this table:\n\n{made()}\n"


def test_the_readme_begins_with_the_two_commands() -> None:
    """Somebody who has just cloned the project finds them first."""
    first = re.search(r"```(?:sh|console)\n(.*?)```", README, re.DOTALL)
    assert first is not None
    assert [line.split("#")[0].strip() for line in first[1].splitlines()] == ["make demo", "make test"]


def test_files_that_the_readme_links_to_exist() -> None:
    """No link leads nowhere."""
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_changelog_knows_this_version() -> None:
    """What users notice is written down for the version that they run."""
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {preflight.__version__}" in changes


if __name__ == "__main__":
    for make in (options, settings_table, exit_codes, requirements):
        print(make(), end="\n\n")
