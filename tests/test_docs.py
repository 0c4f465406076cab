"""The documentation cannot drift: its tables are made from the code, and no link, anchor or page is missing."""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from uvicorn.main import main as uvicorn_options

import preflight
from preflight.command.options import EXIT_CODES, parser
from preflight.report import model as report
from preflight.settings import model as settings
from preflight.settings import parsers
from preflight.settings.fields import declared_by
from preflight.suite import fixtures
from preflight.suite.outcomes import FIXTURES
from server.settings import AgentSettings
from tests.tables import requirement_rows, table

ROOT = Path(__file__).parent.parent
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
DOCUMENTS = ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md", *PAGES]
LONGEST_README = 200  # lines: it introduces, and the pages of docs/ explain


def read(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


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
    actions = [action for action in parser()._actions if action.option_strings]
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


def settings_of(kind: type) -> str:
    """Every setting that a dataclass declares, its variable, its default and its meaning."""
    rows = []
    for entry in declared_by(kind):
        value: Any = entry.default
        if entry.metadata["parse"] is parsers.size:
            units = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))
            value = next(f"{value // unit} {word}" for unit, word in units if value % unit == 0)
        variable = f"`{settings.PREFIX}{entry.name.upper()}`"
        rows.append((f"`{entry.name}`", variable, default(value), str(entry.metadata["about"])))
    return table(("setting", "variable", "default", "meaning"), *rows)


def settings_table() -> str:
    return settings_of(settings.Settings)


def agent_settings_table() -> str:
    return settings_of(AgentSettings)


def exit_codes() -> str:
    """Every exit code of the command."""
    return table(("exit code", "means"), *((f"`{code}`", text) for code, text in EXIT_CODES.items()))


def requirements() -> str:
    """Every requirement: title, severity and the docstring that states it."""
    return table(("requirement", "severity", "holds when"), *requirement_rows())


@pytest.mark.parametrize(
    "file,made",
    [
        ("docs/settings.md", options),
        ("docs/settings.md", settings_table),
        ("docs/settings.md", agent_settings_table),
        ("docs/start.md", exit_codes),
        ("README.md", exit_codes),
        ("docs/requirements.md", requirements),
    ],
)
def test_a_table_says_what_the_code_does(file: str, made: Callable[[], str]) -> None:
    """Each row stands there word for word, and none too many."""
    assert made() in read(file), f"{file} should have this table:\n\n{made()}\n"


def test_every_option_of_uvicorn_has_its_row() -> None:
    """docs/application.md says of each what it is here, and of a setting or an option only what there is."""
    known = [
        max(parameter.opts, key=len) if isinstance(parameter, click.Option) else str(parameter.name)
        for parameter in uvicorn_options.params
    ]
    text = read("docs/application.md").partition("## uvicorn's options")[2]
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", text, re.MULTILINE))
    assert list(rows) == known
    ours = {name for action in parser()._actions for name in action.option_strings}
    for option, meaning in rows.items():
        supported = not meaning.startswith("not ")
        named = re.findall(r"`([^`]+)`", meaning)
        if supported:
            assert named, f"{option} is a setting, or there is another way"
        for name in named:
            is_setting = re.fullmatch(r"[a-z_]+", name) and name not in ("auto", "none", "optional", "required")
            if is_setting and supported:
                assert name in settings.SETTINGS, f"{option}: {name} is no setting"
            if name.startswith("--"):
                assert name in ours or name in known, f"{option}: {name} is no option"


def test_the_table_of_outcomes_says_which_block() -> None:
    """docs/report.md has each outcome, and what a critical one does."""
    rows = re.findall(r"^\| `(\w+)` \| .* \| (blocks|lets the server start) \|$", read("docs/report.md"), re.MULTILINE)
    assert rows == [
        (name, "lets the server start" if name in report.PASSABLE else "blocks") for name in report.OUTCOMES
    ]


def test_the_table_of_fixtures_names_those_for_all() -> None:
    """docs/requirements.md has each fixture that is proposed for a misspelt name, and each exists."""
    text = read("docs/requirements.md").partition("| fixture |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(FIXTURES)
    assert [name for name in rows if not hasattr(fixtures, name)] == []


def test_the_readme_introduces_before_it_commands() -> None:
    """Somebody who has never heard of the project reads what it is, and then finds the two commands."""
    readme = read("README.md")
    assert len(readme.splitlines()) <= LONGEST_README
    first = re.search(r"```(?:sh|console)\n(.*?)```", readme, re.DOTALL)
    assert first is not None
    assert [line.split("#")[0].strip() for line in first[1].splitlines()] == ["make demo", "make test"]
    introduction = readme[: first.start()].split("\n\n")[1:]
    assert len(introduction) >= 2
    assert "pytest test" in introduction[0]


def headings(text: str) -> set[str]:
    """The anchors of a document, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


@pytest.mark.parametrize("file", DOCUMENTS)
def test_no_link_leads_nowhere(file: str) -> None:
    """Files and anchors exist. A page of docs/ links pages of docs/ alone: the site has nothing else."""
    for link in re.findall(r"\]\(([^)\s]+)\)", read(file)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / file).parent / path if path else ROOT / file
        assert target.exists(), link
        assert file not in PAGES or target.parent == ROOT / "docs", link
        assert not anchor or anchor in headings(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("file", DOCUMENTS)
def test_files_that_are_named_exist(file: str) -> None:
    """A path of the project in a document leads somewhere, but for those that a reader is told to make."""
    made = {"preflight/requirements/test_model.py", "preflight/requirements/test_SUBJECT.py"}
    for path in re.findall(r"`((?:preflight|server|tests|benchmarks)/[\w./]*)`", read(file)):
        assert (ROOT / path).exists() or path in made, path


def test_the_folders_are_the_layers() -> None:
    """docs/architecture.md has the folders and modules in the order in which import-linter holds them."""
    table = read("docs/architecture.md").partition("| folder or module |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    folders = [re.sub(r"/$|\.py$", "", name).split("/")[-1] for name in names]
    contracts = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    assert folders == [name.strip().split(".")[-1] for layer in layers for name in re.split(r"[|:]", layer)]


def test_the_site_has_every_page_once() -> None:
    """Each page of docs/ stands in the navigation, and each entry is a page."""

    def files(entries: list[Any]) -> Iterator[str]:
        for entry in entries:
            for target in entry.values():
                yield from files(target) if isinstance(target, list) else [target]

    site = tomllib.loads(read("zensical.toml"))["project"]
    assert sorted(f"docs/{name}" for name in files(site["nav"])) == PAGES


def test_the_readme_links_every_page() -> None:
    """Nobody has to look through the folder; the site's own first page says the same as the README."""
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", read("README.md")))
    assert set(PAGES) - linked == {"docs/index.md"}


def test_the_changelog_knows_this_version() -> None:
    """What users notice is written down for the version that they run."""
    assert f"## [{preflight.__version__}]" in read("CHANGELOG.md")


if __name__ == "__main__":
    for make in (options, settings_table, agent_settings_table, exit_codes, requirements):
        print(make(), end="\n\n")
