"""What the routes need beyond the core: the extra ``web``. Without it applications are guarded and served as well.

The standard library only: it is asked where packages are missing.
"""

from __future__ import annotations

from importlib.util import find_spec

from preflight import installing

ROUTES = {"starlette": "starlette"}
METRICS = {"prometheus_client": "prometheus-client"}
"""Packages by the name of their module."""


def missing(packages: dict[str, str]) -> list[str]:
    """The packages that are not installed here."""
    return [package for module, package in packages.items() if find_spec(module) is None]


def lacking(prefix: str) -> str:
    """One line about what cannot be served under the prefix, and why; empty if everything can be."""
    routes, metrics = missing(ROUTES), missing(METRICS)
    if not routes and not metrics:
        return ""
    what = f"{prefix} is not served" if routes else f"{prefix}/metrics is not served"
    packages = [*routes, *metrics]
    installed = "is not installed" if len(packages) == 1 else "are not installed"
    command = installing.install_command(packages)
    return f"{what}: {' and '.join(packages)} {installed} (the extra web): {command}"
