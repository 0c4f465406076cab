"""The env file: read once, parsed by python-dotenv, never executed and never quoted in a message."""

from __future__ import annotations

import codecs
import importlib.util
import io
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from preflight import files

_OPEN = re.compile(r"""\s*(?:export\s+)?\w+[^\S\n]*=[^\S\n]*(['"])(?!.*\1)""")
LIMIT = 1024 * 1024  # bytes; an env file of more than 1 MiB is a mistake, not a configuration


@dataclass(frozen=True, slots=True)
class EnvFile:
    """What an env file holds, or why it cannot be used."""

    path: Path
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    lines: Mapping[str, int] = field(default_factory=dict, repr=False)
    problem: str | None = None
    """One line that names the file and the line of a fault, never its content. None: the file is good."""
    exists: bool = True
    open_to: str = ""
    """Who else can write it; empty if nobody can."""
    unused: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """The values of a file that is not used: secrets nevertheless, since the application may read the file itself."""


def read(path: Path) -> EnvFile:
    """Read and parse ``path``; values are taken literally (no ``${...}`` interpolation).

    Never raises: whatever is wrong with the file is said in ``problem``, and what could be
    parsed is in ``values`` or ``unused`` nevertheless, so that it can be redacted.
    """
    try:
        # O_NONBLOCK: opening a named pipe must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return EnvFile(path, problem=f"{path} does not exist", exists=False)
    except OSError as error:
        return EnvFile(path, problem=f"{path} cannot be read: {error.strerror}")
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            return EnvFile(path, problem=f"{path} is a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            return EnvFile(path, problem=f"{path} is not a regular file")
        writers = files.other_writers(status)
        if status.st_size > LIMIT:
            size = status.st_size / LIMIT
            return EnvFile(path, problem=f"{path} has {size:.1f} MiB, more than the 1 MiB allowed")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            raw = stream.read(LIMIT + 1)
    except OSError as error:
        return EnvFile(path, problem=f"{path} cannot be read: {error.strerror}")
    finally:
        os.close(descriptor)
    raw = raw.removeprefix(codecs.BOM_UTF8)  # some editors put it there; it would become part of the first name
    if b"\0" in raw:
        return EnvFile(path, problem=f"{path} is a binary file, not text")
    problem = ""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problem = f"{path}:{line}: this line is not UTF-8 text"
    if writers:
        who = "others" if writers == "anybody" else writers
        problem = f"{path} can be written by {who}, so it is not used"
    parsed = _parse(path, raw.decode("utf-8", "surrogateescape"))
    return EnvFile(path, problem=problem, open_to=writers, unused=parsed.values) if problem else parsed


def left_out(path: Path) -> EnvFile:
    """The env file of a start that uses none."""
    found = read(path)
    return EnvFile(path, exists=False, unused={**found.unused, **found.values})


def _parser() -> ModuleType:
    """python-dotenv's parser alone: its package brings logging and tempfile, 0.7 MiB of a launcher's 20."""
    package = importlib.util.find_spec("dotenv")
    places = package.submodule_search_locations if package is not None else None
    spec = importlib.util.spec_from_file_location("dotenv_parser", f"{(places or [''])[0]}/parser.py")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("python-dotenv is not installed", name="dotenv")
    parser = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(parser)
    if not hasattr(parser, "parse_stream"):
        raise ImportError("python-dotenv has no parse_stream", name="dotenv")
    return parser


def _parse(path: Path, text: str) -> EnvFile:
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    problem: str | None = None
    for binding in _parser().parse_stream(io.StringIO(text)):
        # A binding's text starts with the blank lines before it; the reader wants the line itself.
        original = binding.original
        blank = original.string[: len(original.string) - len(original.string.lstrip())].count("\n")
        line = original.line + blank
        if binding.error or "=" in (binding.key or ""):  # a quoted name may hold one, an environment cannot
            fault = "opens a quote and does not close it" if _OPEN.match(original.string) else "is not NAME=value"
            problem = problem or f"{path}:{line}: this line {fault}"
        elif binding.key is not None and binding.value is None:
            problem = problem or f"{path}:{line}: this line has a name and no '='"
        elif binding.key is not None and binding.value is not None:
            values[binding.key] = binding.value
            lines[binding.key] = line
    return EnvFile(path, values, lines, problem)
