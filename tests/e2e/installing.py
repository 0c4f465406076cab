"""The package as an installer leaves it, and projects of others that use it."""

from __future__ import annotations

import compileall
import shutil
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.e2e.place import ROOT, Place, Started, make_place

FEW_PLUGINS = ("-p", "no:langsmith_plugin", "-p", "no:anyio", "-p", "no:llmock", "-p", "no:schemathesis")
"""For a pytest that is not this checkout's: those of the agent and of its tests take a second to import."""

LEFT_OUT = {"preflight/requirements/test_keys.py"}
"""What the wheel does not hold; test_packages.py holds this against a wheel that was built."""


def install(folder: Path) -> Path:
    """Put the package and its metadata there, as an installer does with the wheel, and the command; returns where.

    The packages that it needs are those of this environment: nothing is asked of an index.
    """
    packages, scripts = folder / "lib" / "site-packages", folder / "bin"
    shutil.copytree(ROOT / "preflight", packages / "preflight", ignore=shutil.ignore_patterns("__pycache__"))
    for file in LEFT_OUT:
        (packages / file).unlink()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    metadata = packages / "pytest_preflight-0.1.0.dist-info"
    metadata.mkdir()
    needed = "".join(f"Requires-Dist: {one}\n" for one in project["dependencies"])
    metadata.joinpath("METADATA").write_text(f"Metadata-Version: 2.4\nName: pytest-preflight\nVersion: 0.1.0\n{needed}")
    plugins = project["entry-points"]["pytest11"]
    points = "".join(f"[pytest11]\n{name} = {module}\n" for name, module in plugins.items())
    metadata.joinpath("entry_points.txt").write_text(points)
    module, _, function = project["scripts"]["preflight"].partition(":")
    scripts.mkdir()
    command = scripts / "preflight"
    command.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    command.chmod(0o755)
    compileall.compile_dir(packages, quiet=1)
    return folder


class Adopter(Place):
    """A project of somebody's, in which the package is installed."""

    installed: Path

    def write(self, file: str, text: str) -> Path:
        """A file of the project."""
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def command(self, *arguments: str, cwd: Path | None = None, environ: Mapping[str, str] | None = None) -> Started:
        """``preflight``, to its end."""
        one = self.spawn(str(self.installed / "bin" / "preflight"), *arguments, environ=environ, cwd=cwd)
        one.wait()
        return one

    def finding(self, title: str, *options: str, **environ: str) -> dict[str, Any]:
        """What a run of the checks finds of this requirement."""
        one = self.command("--check-only", "--port", str(self.port), *options, environ=environ)
        assert one.process.returncode in (0, 1), one.output
        return self.check(title)

    def pytest(self, *arguments: str, cwd: Path | None = None, environ: Mapping[str, str] | None = None) -> Started:
        """Plain pytest with the plugins of this environment that anybody may have, to its end."""
        one = self.spawn(sys.executable, "-P", "-m", "pytest", *FEW_PLUGINS, *arguments, environ=environ, cwd=cwd)
        one.wait()
        return one


def adopt(folder: Path, installed: Path) -> Adopter:
    """An empty project, and a place for it."""
    place = make_place(folder / "adopter")
    root = folder / "shop"
    root.mkdir()
    adopter = Adopter(place.folder, root, place.port, place.environ)
    adopter.environ["PYTHONPATH"] = str(installed / "lib" / "site-packages")
    adopter.installed = installed
    return adopter
