"""Everything that the survey reads from one Python file."""

from __future__ import annotations

from dataclasses import dataclass

from preflight.command.init import applications, paths, variables
from preflight.command.init.applications import Candidate
from preflight.command.init.paths import File
from preflight.command.init.source import Source
from preflight.command.init.variables import Default, Variable


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file makes and needs, and which modules it leads to."""

    applications: list[Candidate]
    served: list[tuple[str, int]]
    """``MODULE:ATTRIBUTE`` that it hands to a server, and the line."""
    served_names: set[str]
    """Names of its own that it hands to a server."""
    defines: set[str]
    imports: list[str]
    mentions: list[str]
    variables: list[Variable]
    defaults: list[Default]
    gives: set[str]
    """Variables that it gives a value itself."""
    env_files: list[str | None]
    models: list[File]
    databases: list[File]


def facts(data: bytes, module: str, *, is_package: bool) -> Facts:
    """The facts of a file that is imported as ``module``. Raises source.Unparsable."""
    source = Source(data, module, is_package=is_package)
    served, served_names = applications.served(source)
    return Facts(
        applications=applications.applications(source),
        served=served,
        served_names=served_names,
        defines=source.defines,
        imports=source.imports,
        mentions=source.mentions,
        variables=variables.variables(source),
        defaults=variables.defaults(source),
        gives=variables.given(source),
        env_files=variables.env_files(source),
        models=paths.models(source),
        databases=paths.databases(source),
    )
