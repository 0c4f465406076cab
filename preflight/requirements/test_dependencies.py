"""The packages that the project declares."""

from __future__ import annotations

import pytest
from packaging.requirements import InvalidRequirement, Requirement

from preflight import installing
from preflight.contract import Details, not_applicable
from preflight.settings.declared import FILES
from preflight.settings.model import Settings
from preflight.suite.probes import imports
from preflight.suite.probes.extras import with_extras

SHARE = 0.6  # of this requirement's time, which imports may take


def declared(settings: Settings) -> list[Requirement]:
    """What the project declares; ends the requirement if there is no declaration, or not one that can be read.

    In a re-run: what the project declared when the server was started.
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
        pytest.fail(f"{source}: dependencies must be a list of strings")
    found = []
    for line in lines:
        try:
            found.append(Requirement(line))
        except (InvalidRequirement, TypeError):
            pytest.fail(f"{source} declares {line!r}, which is not a requirement")
    return [one for one in found if one.marker is None or one.marker.evaluate()]


def _to_install(requirement: Requirement) -> str:
    """The argument for an installer: with the extras, and with the source if that is not the index."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{f' @ {requirement.url}' if requirement.url else requirement.specifier}"


@pytest.mark.critical("Dependencies")
def test_dependencies(settings: Settings, details: Details) -> None:
    """Every declared run-time dependency, with its extras, is installed in a fitting version and can be imported."""
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
            faults[wanted] = f"{requirement.name} is {version}, but must be {requirement.specifier}{needed}"
    if faults:
        details.fix = installing.install_command(list(faults))
    assert not faults, "; ".join(faults.values())
    tried = imports.attempt(sorted(details), settings.state, settings.requirement_timeout * SHARE)
    for name, why in tried.failures.items():
        details.fix = details.fix or installing.reinstall_command(imports.at_fault(name, why))
    assert not tried.failures, "; ".join(f"{name} cannot be imported: {why}" for name, why in tried.failures.items())
    notes = list(unknown)
    if tried.untried:
        notes.append(f"there was not enough time to import {', '.join(tried.untried)}")
    source = (settings.declared or {}).get("source")
    count = f"{len(details)} package{'' if len(details) == 1 else 's'}"
    if source != "pyproject.toml":
        notes.insert(0, f"of {source}")
    details.summary = "; ".join([count, *notes])
