"""Before anything else: are the packages there that the launcher and the suite are made of?

The standard library only. The requirement Dependencies looks more closely, with packaging, but it
can only run where pytest is.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shlex
import signal
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Distributions whose module has another name than they have.
MODULES = {
    "python-dotenv": "dotenv",
    "pytest-json-report": "pytest_jsonreport",
    "langgraph-checkpoint-sqlite": "langgraph",  # inside of it; looking there would import
}


def declared() -> list[str]:
    """The run-time dependencies of pyproject.toml; an unreadable file is for settings.py to say."""
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return [str(dependency) for dependency in project["dependencies"]]
    except (OSError, ValueError, KeyError):
        return list(MODULES)


def missing() -> list[str]:
    """Declared dependencies of which nothing can be imported, as they are declared."""
    absent = []
    for dependency in declared():
        if ";" in dependency:
            continue  # only for some systems; Dependencies knows which
        name = re.split(r"[^A-Za-z0-9._-]", dependency, maxsplit=1)[0].lower()
        if not _found(MODULES.get(name, name.replace("-", "_"))) and not any(map(_found, _modules(name))):
            absent.append(dependency)
    return absent


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # "a.b" without an "a"
        return False


def _modules(name: str) -> set[str]:
    """The modules of a distribution that is not named like its module, by what it says it installed."""
    import importlib.metadata  # 20 ms, and seldom needed

    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        return set()
    tops = {file.parts[0].partition(".")[0] for file in files if not file.parts[0].endswith((".dist-info", ".data"))}
    return {top for top in tops if top.isidentifier()}


def problem() -> list[str] | None:
    """What is missing, with the command that mends it, as lines for a banner; None if all is there."""
    absent = missing()
    if not absent:
        return None
    names = ", ".join(re.split(r"[^A-Za-z0-9._-]", dependency, maxsplit=1)[0] for dependency in absent)
    fix = install_command(absent)
    if sys.flags.no_site:
        fix = "start it without -S, which leaves out where packages are installed"
    return [f"Dependencies: not installed: {names}", f"Fix: {fix}"]


def install_command(requirements: list[str]) -> str:
    """The command that installs these requirements into this interpreter's environment."""
    quoted = " ".join(shlex.quote(requirement.replace(" ", "")) for requirement in requirements)
    python = shlex.quote(sys.executable)
    if importlib.util.find_spec("pip") is not None:
        return f"{python} -m pip install {quoted}"
    return f"uv pip install --python {python} {quoted}"


def run() -> int:
    """The command, if everything that it is made of is there; returns its exit code."""
    from preflight import signals, streams

    signals.end_the_command()
    streams.install()
    try:
        try:
            exit_code = _run()
        except signals.Ended:
            raise  # and wait for no reader
        except SystemExit as ending:  # --help
            exit_code = ending.code if isinstance(ending.code, int) else 0 if ending.code is None else 1
        streams.finish()
    except BrokenPipeError:
        return 128 + signal.SIGPIPE  # whoever read our output has gone: nothing is claimed
    except streams.Unwritten as error:  # a full disk, say
        with contextlib.suppress(OSError):
            print(f"run.py: error: the output cannot be written: {error.strerror}", file=sys.stderr, flush=True)
        return 1
    return exit_code


def _run() -> int:
    lines = problem()
    if lines is None:
        try:
            from preflight import commandline

            return commandline.main()
        except ImportError as error:
            # Installed and broken: an upgrade that stopped half way, say. Some are imported late.
            lines = [f"Dependencies: cannot be imported: {error}", f"Fix: {install_command(declared())}"]
    show(lines)
    return 1


def show(lines: list[str]) -> None:
    """The red banner, without rich: it may be what is missing."""
    title = "CRITICAL ERROR: must fix before proceeding"
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    bar = title.center(80).rstrip() if not colour else f"\033[1;37;41m{title.center(80)}\033[0m"
    print("\n".join([bar, *lines, "-" * 80]), flush=True)
