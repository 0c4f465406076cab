"""Before anything else: are the packages there that the launcher and the suite are made of?

The standard library only. The requirement Dependencies looks more closely, with packaging, but it
can only run where pytest is.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Distributions whose module has another name than they have.
MODULES = {"python-dotenv": "dotenv", "pytest-json-report": "pytest_jsonreport"}


def declared() -> list[str]:
    """The run-time dependencies of pyproject.toml; an unreadable file is for settings.py to say."""
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return [str(dependency) for dependency in project["dependencies"]]
    except (OSError, ValueError, KeyError):
        return list(MODULES)


def missing() -> list[str]:
    """Declared dependencies without an importable module, as they are declared."""
    absent = []
    for dependency in declared():
        if ";" in dependency:
            continue  # only for some systems; Dependencies knows which
        name = re.split(r"[^A-Za-z0-9._-]", dependency, maxsplit=1)[0].lower()
        module = MODULES.get(name, name.replace("-", "_"))
        if importlib.util.find_spec(module) is None:
            absent.append(dependency)
    return absent


def problem() -> list[str] | None:
    """What is missing, with the command that mends it, as lines for a banner; None if all is there."""
    absent = missing()
    if not absent:
        return None
    names = ", ".join(re.split(r"[^A-Za-z0-9._-]", dependency, maxsplit=1)[0] for dependency in absent)
    return [f"Dependencies: not installed: {names}", f"Fix: {install_command(absent)}"]


def install_command(requirements: list[str]) -> str:
    """The command that installs these requirements into this interpreter's environment."""
    quoted = " ".join(shlex.quote(requirement.replace(" ", "")) for requirement in requirements)
    python = shlex.quote(sys.executable)
    if importlib.util.find_spec("pip") is not None:
        return f"{python} -m pip install {quoted}"
    return f"uv pip install --python {python} {quoted}"


def run() -> int:
    """The command, if everything that it is made of is there; returns its exit code."""
    lines = problem()
    if lines is None:
        try:
            from preflight import commandline
        except ImportError as error:
            # Installed and broken: an upgrade that stopped half way, say.
            lines = [f"Dependencies: cannot be imported: {error}", f"Fix: {install_command(declared())}"]
        else:
            return commandline.main()
    show(lines)
    return 1


def show(lines: list[str]) -> None:
    """The red banner, without rich: it may be what is missing."""
    title = "CRITICAL ERROR: must fix before proceeding"
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    bar = title.center(80).rstrip() if not colour else f"\033[1;37;41m{title.center(80)}\033[0m"
    print("\n".join([bar, *lines, "-" * 80]), flush=True)
