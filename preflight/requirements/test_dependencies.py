"""The packages that pyproject.toml declares."""

from __future__ import annotations

import importlib.metadata

import pytest
from packaging.requirements import InvalidRequirement, Requirement

from preflight import bootstrap
from preflight.contract import Details
from preflight.settings import Settings, pyproject


def installed(name: str) -> str | None:
    """The installed version, None where the package or its metadata is missing or broken."""
    try:
        # Broken metadata: no version in it, or a file that cannot be read.
        version: str | None = importlib.metadata.version(name)
    except (importlib.metadata.PackageNotFoundError, KeyError, ValueError, OSError):
        return None
    return version or None


@pytest.mark.critical("Dependencies")
def test_dependencies(settings: Settings, details: Details) -> None:
    """Every run-time dependency that pyproject.toml declares is installed in a version that satisfies it."""
    declared = pyproject(settings.root).get("project", {}).get("dependencies", [])
    faults: dict[str, str] = {}
    for line in declared:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            pytest.fail(f"pyproject.toml declares {line!r}, which is no requirement")
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        version = installed(requirement.name)
        details[requirement.name] = version
        if version is None:
            faults[f"{requirement.name}{requirement.specifier}"] = f"{requirement.name} is not installed"
        elif not requirement.specifier.contains(version, prereleases=True):
            faults[f"{requirement.name}{requirement.specifier}"] = (
                f"{requirement.name} is {version}, needs {requirement.specifier}"
            )
    if faults:
        details.fix = bootstrap.install_command(list(faults))
    assert not faults, "; ".join(faults.values())
    details.summary = f"{len(details)} packages"
