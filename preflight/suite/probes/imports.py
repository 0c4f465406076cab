"""Whether installed distributions can be imported: asked in a process of its own, and not again until one changes.

Importing everything takes a second or two, once after an installation. Successful imports are remembered in the state
folder, with what they depend on: the interpreter, where each distribution is installed and when that folder was
changed, and the file that its module begins with. Imports that failed, or were not done in time, are tried again: on a
slow machine, each run comes a little further.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from email.parser import HeaderParser
from pathlib import Path, PurePath, PurePosixPath
from types import MappingProxyType
from typing import IO, NamedTuple, cast

from preflight import files
from preflight.dependencies import MODULES
from preflight.processes import interpreter
from preflight.settings.statefolder import StateFolder
from preflight.text import first_line

LONGEST = 300  # characters of an error


class Tried(NamedTuple):
    """The result of an attempt."""

    failures: Mapping[str, str] = MappingProxyType({})
    """By distribution, why it cannot be imported."""
    untried: tuple[str, ...] = ()
    """Distributions whose import had not ended, or not begun, when the time was over."""


def attempt(names: Sequence[str], state: StateFolder, deadline: float) -> Tried:
    """Import these distributions in a child, within so many seconds, but for those that are known to work."""
    safe = _is_safe(state.path)
    before = _fingerprint(names)
    known = _remembered(state.imports, before) if safe else frozenset()
    rest = [name for name in names if name not in known]
    if not rest:
        return Tried()
    tried = _in_child(rest, deadline)
    worked = {name for name in rest if name not in tried.failures and name not in tried.untried}
    if safe and worked:
        # Once more: compiling for the first time changes the folder, and something may have been installed.
        after = _fingerprint(names)
        imported = worked | known if after == before else worked
        with contextlib.suppress(OSError):  # then they are imported again next time
            files.publish(state.imports, json.dumps({"of": after, "imported": sorted(imported)}).encode())
    return tried


def _remembered(path: Path, fingerprint: str) -> frozenset[str]:
    """The distributions that were imported while everything was as it is now."""
    try:
        with open(files.existing(path), "rb") as stream:
            kept = json.loads(stream.read())
        return frozenset(kept["imported"] if kept["of"] == fingerprint else ())
    except (OSError, ValueError, TypeError, KeyError):  # another release's, say
        return frozenset()


def _is_safe(folder: Path) -> bool:
    """Whether nobody else can have written what is remembered in this folder, which is made if it is not there."""
    try:
        files.own(folder)
    except OSError:
        return False
    return True


class Installed(NamedTuple):
    """A distribution, and its version."""

    distribution: importlib.metadata.Distribution
    version: str


@functools.cache
def installed(name: str) -> Installed | None:
    """The distribution of this name, read once; None if there is none, or none says a version.

    A folder without metadata, which an interrupted installation has left, is passed over. Metadata that say no version
    are not: the application would get them as well. What an installer has written counts before what a build has left
    in a folder of sources, wherever that stands on the path.
    """
    for version_of in (_by_installer, _by_build):
        for distribution in importlib.metadata.distributions(name=name):
            with contextlib.suppress(KeyError, ValueError, OSError):
                version = version_of(distribution)
                if version is not None:
                    return Installed(distribution, version) if version else None
    return None


def version(name: str) -> str | None:
    """The version of the distribution; None if `installed` knows none."""
    found = installed(name)
    return found.version if found else None


def _by_installer(distribution: importlib.metadata.Distribution) -> str | None:
    metadata = distribution.read_text("METADATA")
    # The head alone: the description behind it may be a book.
    return None if metadata is None else HeaderParser().parsestr(metadata.partition("\n\n")[0])["Version"] or ""


def _by_build(distribution: importlib.metadata.Distribution) -> str | None:
    metadata = distribution.metadata
    # Without asking first, Python 3.12 warns.
    return metadata["Version"] if "Version" in metadata else None  # noqa: SIM401  # its protocol has no `get`


def _fingerprint(names: Sequence[str]) -> str:
    """What the outcome depends on, as far as it can be determined quickly."""
    facts: list[object] = [sys.executable, sys.version]
    for name in sorted(names):
        if found := installed(name):
            facts.append((name, found.version, _stamp(str(found.distribution.locate_file("")))))
        # Where the module itself is found: a file in another folder can come before it.
        spec = importlib.machinery.PathFinder.find_spec(_guess(name).partition(".")[0])
        facts.append((spec.origin, _stamp(spec.origin)) if spec is not None and spec.origin else str(spec is None))
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _stamp(path: str) -> tuple[int, int]:
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return status.st_mtime_ns, status.st_size
    return 0, 0


def _in_child(names: Sequence[str], deadline: float) -> Tried:
    command = [sys.executable, *interpreter.options(Path.cwd()), "-m", "preflight.suite.probes.imports", *names]
    end = time.monotonic() + deadline
    said = b""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as child, selectors.DefaultSelector() as selector:  # fmt: skip
        output = cast("IO[bytes]", child.stdout)
        try:
            selector.register(output, selectors.EVENT_READ)
            while (left := end - time.monotonic()) > 0 and selector.select(left):
                data = output.read(1 << 16)
                if not data:
                    break
                said += data
            late = time.monotonic() >= end
        finally:
            child.kill()  # also where this requirement's own deadline came first
    answers = [json.loads(line) for line in said.splitlines() if line.startswith(b"[")]
    failures = {name: error for name, error in answers if error}
    rest = [name for name in names if name not in {name for name, _error in answers}]
    if rest and not late:
        # An import that ends the process leaves those after it untried.
        failures[rest[0]] = f"its import ended the process (exit code {child.returncode})"
        rest = rest[1:]
    return Tried(failures, tuple(rest))


def at_fault(name: str, why: str) -> str:
    """The module to install again where importing a distribution failed like this: its own, or one that is missing."""
    missing = re.match(r"ModuleNotFoundError: No module named '([\w.]+)'", why)
    return missing[1] if missing else _guess(name)


def _guess(name: str) -> str:
    """The module that has the distribution's name."""
    plain = name.lower().replace("_", "-")
    return MODULES.get(plain, plain.replace("-", "_"))


# The child's side.


def modules(name: str) -> list[str]:
    """The modules to import for a distribution: the one that has its name, or else all its top-level modules."""
    installation = installed(name)
    listed = _listed(installation.distribution) if installation else []
    paths = [file.parts for file in listed if file.suffix in (".py", ".so") and ".dist-info" not in file.parts[0]]
    packages = {".".join(parts[:-1]) for parts in paths if parts[-1].startswith("__init__.") and ".." not in parts}
    tops = {module for module in packages if module.rpartition(".")[0] not in packages}
    tops |= {parts[0].partition(".")[0] for parts in paths if len(parts) == 1}
    tops = {module for module in tops if all(part.isidentifier() for part in module.split("."))}
    called = [module for module in dict.fromkeys((_guess(name), name.lower().replace("-", "."))) if module in tops]
    public = {module for module in tops if "._" not in f".{module}"} - {"test", "tests", "docs", "examples"}
    # An editable installation lists none of its modules.
    return called or sorted(public) or [_guess(name)] * _is_there(_guess(name))


def _listed(distribution: importlib.metadata.Distribution) -> Sequence[PurePath]:
    """The files that were installed, also those that have gone: ``files`` leaves them out from Python 3.12 on."""
    import csv

    record = distribution.read_text("RECORD")
    if record is None:
        return distribution.files or []
    return [PurePosixPath(row[0]) for row in csv.reader(record.splitlines()) if row]


def _is_there(module: str) -> bool:
    """Whether there is such a module; the packages that it is in are not imported for that."""
    name, *below = module.split(".")
    spec = importlib.util.find_spec(name)
    for part in below:
        if spec is None or spec.submodule_search_locations is None:
            return False
        name += f".{part}"
        spec = importlib.machinery.PathFinder.find_spec(name, spec.submodule_search_locations)
    return spec is not None


def _outcomes(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        said = ""
        for module in modules(name):
            try:
                importlib.import_module(module)
            except BaseException as error:  # noqa: BLE001  # whatever it raises is the answer: SystemExit, too
                text = first_line(str(error)) if str(error) else ""
                said = f"{type(error).__name__}: {text}"[:LONGEST] if text else type(error).__name__
                break
        yield name, said


def main() -> None:
    """Import the distributions on the command line; print the outcome of each as a line of JSON, and nothing else."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what is imported may print
    interpreter.put_first(Path.cwd())  # a file there may stand before a distribution, in the application as well
    for outcome in _outcomes(sys.argv[1:]):
        print(json.dumps(outcome), file=answers, flush=True)
    os._exit(0)  # whatever threads of the imported modules do: the result is known


if __name__ == "__main__":
    main()
