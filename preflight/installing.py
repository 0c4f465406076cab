"""The commands that install packages, for this interpreter or for the project's own environment (``.venv``).

Uses the standard library only, because it runs when packages are missing.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from preflight import dependencies
from preflight.commands import name, python, run_py

PATIENCE = 5.0  # seconds for another interpreter to say what it has


_HARMLESS = re.compile(r"--?[a-z][a-z-]*|[0-9.:]{1,40}|[a-z_][a-z_.]{0,40}:[a-z_]{1,20}|replace|keep|fail|localhost")


def install_command(requirements: Sequence[str], arguments: Sequence[str] = ()) -> str:
    """The command after which these requirements are met: here, or in the project's own environment (``.venv``).

    An interpreter outside of any environment is left as it is: packages that are installed there are everybody's. The
    command makes ``.venv`` then, unless it is there, and starts ``run.py`` in it with ``arguments``.
    """
    if not requirements:
        raise ValueError("nothing to install")
    if _mends_this_one(requirements):
        return _installation(python(), requirements, _find_here)
    if command := own_environment_command(requirements, arguments):
        return command
    own = dependencies.ROOT / ".venv" / "bin" / "python"
    there = shlex.quote(str(own))
    start = run_py(*_repeatable(arguments), interpreter=there)
    if _runs(own, "import sys; sys.exit(sys.version_info < (3, 11))"):
        return f"{_installation(there, requirements, lambda module: _runs(own, f'import {module}'))} && {start}"
    if _find_here("ensurepip"):
        return f"{_environment(python(), requirements)} && {start}"
    if _uv():
        return f"{_environment(python(), requirements, uv=True)} && {start}"
    minor = "{}.{}".format(*sys.version_info)  # Debian has ensurepip in a package of its own
    return f"sudo apt-get install python{minor}-venv  # then start {name()} again: the next fix needs it"


def own_environment_command(requirements: Sequence[str], arguments: Sequence[str] = ()) -> str:
    """The command that starts ``run.py`` in the project's own environment; empty if that lacks any of these."""
    own = dependencies.ROOT / ".venv" / "bin" / "python"
    if not _has_everything(own, requirements):
        return ""
    return run_py(*_repeatable(arguments), interpreter=shlex.quote(str(own)))


def change_python_command(wanted: str, fits: Callable[[str], bool]) -> str:
    """The command that starts ``run.py`` with a Python whose version ``fits``; empty if none is at hand.

    The project's own environment is used if it has such a Python, else it is made anew. ``wanted`` is the
    version's specifier, for uv, which can get a Python from the network.
    """
    own = dependencies.ROOT / ".venv" / "bin" / "python"
    start = run_py(interpreter=shlex.quote(str(own)))
    if not _is_own() and fits(_version(str(own))):
        return install_command(dependencies.of_project())
    import shutil

    pyenv = Path(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")) / "versions"
    made_by_pyenv = [str(folder / "bin" / "python") for folder in sorted(pyenv.glob("3.*")) if fits(folder.name)]
    names = [*(f"python3.{minor}" for minor in range(14, 10, -1)), "python3", "python"]
    for found in (*made_by_pyenv, *filter(None, map(shutil.which, names))):
        if fits(_version(found)) and _runs(Path(found), "import ensurepip, venv"):
            return f"{_environment(shlex.quote(found), dependencies.of_project())} && {start}"
    return f"{_environment(shlex.quote(wanted), dependencies.of_project(), uv=True)} && {start}" if _uv() else ""


def _environment(interpreter: str, requirements: Sequence[str], *, uv: bool = False) -> str:
    """The command that makes and fills the project's own environment, with this interpreter or one that uv finds."""
    folder = dependencies.ROOT / ".venv"
    there = shlex.quote(str(folder / "bin" / "python"))
    make = f"uv venv --clear --python {interpreter}" if uv else f"{interpreter} -m venv --clear"
    return f"{make} {shlex.quote(str(folder))} && {_installation(there, requirements, lambda _module: not uv)}"


def _version(interpreter: str) -> str:
    """An interpreter's version, "0" where it does not run (as a shim of pyenv's whose version is switched off)."""
    import subprocess

    program = "import platform; print(platform.python_version())"
    try:
        done = subprocess.run([interpreter, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return "0"
    return done.stdout.strip() if done.returncode == 0 else "0"


def reinstall_command(module: str, arguments: Sequence[str] = ()) -> str:
    """The command that replaces the broken package of ``module``; or all packages, if that package is not known."""
    if not _mends_this_one(dependencies.declared()):
        return install_command(dependencies.declared(), arguments)
    import importlib.metadata

    locked = _locked()
    names = importlib.metadata.packages_distributions().get(module.partition(".")[0], ())
    pins = [f"{name}=={locked[_canonical(name)]}" for name in sorted(set(names)) if _canonical(name) in locked]
    if pins:
        return _installer(python(), _find_here) + " ".join(["--force-reinstall --no-deps", *map(shlex.quote, pins)])
    return _installation(python(), dependencies.declared(), _find_here, "--force-reinstall ")


def _mends_this_one(requirements: Sequence[str]) -> bool:
    """Whether packages are to be installed for this interpreter, and not for the project's own environment."""
    own = dependencies.ROOT / ".venv" / "bin" / "python"
    if _is_own():
        return True
    if own.exists():
        return is_environment() and not _has_everything(own, requirements)
    return is_environment() or not os.access(dependencies.ROOT, os.W_OK)


def _installation(interpreter: str, requirements: Sequence[str], has: Callable[[str], bool], options: str = "") -> str:
    """The command that installs what the lock file pins, and those of the requirements that it does not meet.

    The lock file may not know an extra that is not declared. ``has`` tells whether the interpreter has a module.
    """
    locked, pinned = _locked(), dependencies.declared()
    others = [
        requirement
        for requirement in requirements
        if not dependencies.meets(locked.get(_canonical(dependencies.name_of(requirement))), requirement)
        or ("[" in requirement and requirement not in pinned)
    ]
    arguments = []
    if len(others) < len(requirements):
        arguments.append(f"--require-hashes -r {shlex.quote(str(dependencies.ROOT / 'requirements.txt'))}")
    if others:
        arguments.append(" ".join(shlex.quote(_compact(requirement)) for requirement in others))
    first, *more = (options + argument for argument in arguments)
    ready = {"pip"} if has("pip") or not _uv() else set()  # the first of the commands provides it
    commands = [_installer(interpreter, has) + first]
    commands += [_installer(interpreter, lambda module: module in ready) + argument for argument in more]
    return " && ".join(commands)


def _installer(interpreter: str, has: Callable[[str], bool]) -> str:
    """The command that installs the packages that follow it."""
    pip = f"{interpreter} -m pip install "
    if has("pip"):
        return pip
    if has("ensurepip") and not _uv():
        return f"{interpreter} -m ensurepip && {pip}"
    return f"uv pip install --python {interpreter} "


def _find_here(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _uv() -> bool:
    import shutil  # hardly ever needed

    return shutil.which("uv") is not None


def _compact(dependency: str) -> str:
    """A dependency without unnecessary blanks; those of its marker are necessary."""
    wanted, mark, marker = dependency.partition(";")
    return wanted.replace(" ", "") + (f"; {marker.strip()}" if mark else "")


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _locked() -> dict[str, str]:
    """The versions that requirements.txt pins, by canonical name; empty if there is no such file."""
    try:
        text = (dependencies.ROOT / "requirements.txt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    return {_canonical(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE)}


def is_environment() -> bool:
    """Whether this interpreter is an environment's, and not everybody's."""
    return sys.prefix != sys.base_prefix or os.path.isdir(os.path.join(sys.prefix, "conda-meta"))


def _is_own() -> bool:
    """Whether this interpreter is that of the project's own environment."""
    return os.path.realpath(sys.prefix) == os.path.realpath(dependencies.ROOT / ".venv")


def _has_everything(interpreter: Path, requirements: Sequence[str]) -> bool:
    """Whether another interpreter has what is declared, and these requirements."""
    program = (
        "import sys, importlib.metadata as metadata\n"
        "from preflight import dependencies\n"
        "def met(one):\n"
        "    try: return dependencies.meets(metadata.version(dependencies.name_of(one)), one)\n"
        "    except metadata.PackageNotFoundError: return not dependencies.applies(one)\n"
        "sys.exit(bool(dependencies.missing()) or not all(map(met, sys.argv[1:])))"
    )
    return _runs(interpreter, program, *requirements)


def _runs(interpreter: Path, program: str, *arguments: str) -> bool:
    """Whether an interpreter is there and runs a program that ends well."""
    import subprocess  # children.py imports it anyway, but later

    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            [interpreter, "-c", program, *arguments],
            cwd=dependencies.ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _repeatable(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments, if all of them may be shown; none, if one could be a misplaced key."""
    return arguments if all(_HARMLESS.fullmatch(one) for one in arguments) else ()
