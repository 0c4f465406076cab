"""The packages that the project declares."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Sequence

import pytest
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from preflight import installing
from preflight.contract import Details, not_applicable
from preflight.settings.declared import FILES
from preflight.settings.model import Settings
from preflight.suite import imports

SHARE = 0.6  # of this requirement's time: what imports may take


def declared(settings: Settings) -> list[Requirement]:
    """What the project declares; ends the requirement where it does not say that, or what it says is none.

    In a re-run: what it declared when the server was started.
    """
    project = settings.declared
    if project is None:
        files = ", ".join(FILES)
        not_applicable(f"nothing declares dependencies: pyproject.toml has no [project] table, and there is no {files}")
    source = project["source"]
    if "dependencies" in (project.get("dynamic") or ()):
        not_applicable(f'{source} says dynamic = ["dependencies"]: only the build of the project knows them')
    lines = project.get("dependencies", [])
    if not isinstance(lines, list):
        pytest.fail(f"{source}: dependencies must be a list of texts")
    found = []
    for line in lines:
        try:
            found.append(Requirement(line))
        except (InvalidRequirement, TypeError):
            pytest.fail(f"{source} declares {line!r}, which is no requirement")
    return [one for one in found if one.marker is None or one.marker.evaluate()]


def with_extras(requirements: Sequence[Requirement], unknown: list[str]) -> Iterator[tuple[Requirement, str]]:
    """These requirements and those of their extras, each with what it is needed by.

    Extras that a distribution does not have are put into ``unknown``: an installer only warns of them.
    """
    ahead = [(one, "") for one in requirements]
    seen: set[tuple[str, str]] = set()
    while ahead:
        requirement, by = ahead.pop(0)
        yield requirement, by
        for extra in sorted(requirement.extras):
            here = (canonicalize_name(requirement.name), canonicalize_name(extra))
            if here in seen or imports.version(requirement.name) is None:
                continue
            seen.add(here)
            metadata = importlib.metadata.metadata(requirement.name)
            provided = {canonicalize_name(one) for one in metadata.get_all("Provides-Extra") or ()}
            if here[1] not in provided:
                unknown.append(f"{requirement.name} has no extra {extra!r}")
            for line in importlib.metadata.requires(requirement.name) or ():
                try:
                    one = Requirement(line)
                except InvalidRequirement:  # old metadata, which an installer of its time understood
                    words = re.findall(r"[\w.-]+", line)
                    if "extra" in words and extra in words[words.index("extra") :]:
                        unknown.append(f"{requirement.name}[{extra}] needs {line!r}, which is no requirement")
                    continue
                if one.marker and one.marker.evaluate({"extra": extra}) and not one.marker.evaluate({"extra": ""}):
                    ahead.append((one, f"{requirement.name}[{extra}]"))


def _to_install(requirement: Requirement) -> str:
    """What an installer has to be told: with the extras, and where it comes from if that is not the index."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{f' @ {requirement.url}' if requirement.url else requirement.specifier}"


@pytest.mark.critical("Dependencies")
def test_dependencies(settings: Settings, details: Details) -> None:
    """Every run-time dependency that the project declares, with its extras, is installed, fits and imports."""
    faults: dict[str, str] = {}
    unknown: list[str] = []
    for requirement, by in with_extras(declared(settings), unknown):
        version = imports.version(requirement.name)
        details[requirement.name] = version
        wanted = _to_install(requirement)
        needed = f" (for {by})" if by else ""
        if version is None:
            faults[wanted] = f"{requirement.name} is not installed{needed}"
        elif not requirement.specifier.contains(version, prereleases=True):
            faults[wanted] = f"{requirement.name} is {version}, needs {requirement.specifier}{needed}"
    if faults:
        details.fix = installing.install_command(list(faults))
    assert not faults, "; ".join(faults.values())
    tried = imports.attempt(sorted(details), settings.state, settings.requirement_timeout * SHARE)
    for name, why in tried.failures.items():
        details.fix = details.fix or installing.reinstall_command(imports.at_fault(name, why))
    assert not tried.failures, "; ".join(f"{name} cannot be imported: {why}" for name, why in tried.failures.items())
    notes = list(unknown)
    if tried.untried:
        notes.append(f"not all could be imported in time: {', '.join(tried.untried)}")
    source = (settings.declared or {}).get("source")
    count = f"{len(details)} package{'' if len(details) == 1 else 's'}"
    if source != "pyproject.toml":
        notes.insert(0, f"of {source}")
    details.summary = "; ".join([count, *notes])
