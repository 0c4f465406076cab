"""Is the code that runs what the suite's files say?"""

from __future__ import annotations

import inspect
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib.abc import SourceLoader
from pathlib import Path
from types import CodeType, ModuleType

import pytest

from preflight.project import Scope
from preflight.suite.soundness.comparisons import without_effect
from preflight.suite.soundness.dropped import drops
from preflight.suite.soundness.tautologies import always_hold

REWRITTEN = -1
"""Stands for a level of optimization: with pytest's assertions, which explain themselves, as in plain pytest."""
INSTALLED = "site-packages"
ASSERTION = re.compile(rb"^[ \t]*assert\b", re.MULTILINE)
Code = tuple[object, ...]
"""What a code object does, in a form that can be compared: without its positions."""


def code_of(function: object) -> CodeType | None:
    """The code of a requirement's own body, inside whatever decorators have put around it; None if it has none."""
    try:
        inner = inspect.unwrap(function)  # type: ignore[arg-type]  # anything can be asked
        of_hypothesis = getattr(
            inner, "hypothesis", None
        )  # what @given has made, which other plugins look into as well
        inner = inspect.unwrap(getattr(of_hypothesis, "inner_test", inner))
    except ValueError:  # it is wrapped in itself
        return None
    code = getattr(getattr(inner, "__func__", inner), "__code__", None)
    return code if isinstance(code, CodeType) else None


def comparable(code: CodeType) -> Code:
    """A value that is equal for two compilations of the same source, whatever positions they keep."""
    constants = tuple(
        comparable(one) if isinstance(one, CodeType) else (type(one).__name__, one) for one in code.co_consts
    )
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return (code.co_name, *counts, code.co_code, *names, constants, code.co_exceptiontable)


def _all_inside(code: CodeType) -> Iterator[Code]:
    yield comparable(code)
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _all_inside(one)


class Sources:
    """The files that contain requirements, compiled once more from their text."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._modules: dict[tuple[Path, int], CodeType | None] = {}
        self._codes: dict[tuple[Path, str, int], set[Code]] = {}
        self._below: dict[Path, list[str]] = {}
        self._texts: dict[str, bytes] = {}

    def text(self, file: str) -> bytes:
        """A file's text, read once: hundreds are looked at, some for several reasons. Raises OSError."""
        if file not in self._texts:
            with open(file, "rb", buffering=0) as opened:
                self._texts[file] = opened.read()
        return self._texts[file]

    def below(self, folder: Path) -> list[str]:
        """The result of :func:`files_below`, which is called once for a folder."""
        if folder not in self._below:
            self._below[folder] = files_below(folder)
        return self._below[folder]

    def fault(self, item: pytest.Item) -> str:
        """What is wrong with the code that will run for ``item``, for people; empty if it is what its file says."""
        code = code_of(getattr(item, "obj", None))
        if code is None:
            return "is not a function, so the run cannot see whether its body runs"
        if code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR):
            return "is a generator (it has a yield), so its body may not run to its end"
        runs = comparable(code)
        name = name_of(item)
        written = self.module(item.path)
        if written is None or not any(one == name for one, _ in compiled_tests(written)):
            # Another file has made it: test_it = make("it"). Its source is there, under whatever name.
            path, name = Path(code.co_filename), ""
        else:
            path = item.path
        if any(runs in self._inside(path, name, level) for level in (0, REWRITTEN)):
            return ""
        caches = f"remove the compiled files in {item.path.parent / '__pycache__'}"
        if any(runs in self._inside(path, name, level) for level in (1, 2)):
            return f"was compiled without its assertions, as python -O does: {caches}"
        return f"the code that would run is not that of {item.path.name}: {caches}, or the plugin that replaced it"

    def stale(self, root: Path, scopes: Sequence[Scope], sound: Iterable[pytest.Item]) -> list[str]:
        """The project's modules, and ours, whose code is not that of their files, for people.

        And the assertions of the suite that cannot fail.

        All of a module is compared, including what is outside of its functions: limits, defaults, markers. Requirements
        use modules that they have imported: those with an assertion in them are looked at, and the files of ``sound``,
        the requirements in which :meth:`fault` has found nothing.
        """
        own = {str(item.path) for item in sound}
        suite = tuple(f"{scope.folder}{os.sep}" for scope in scopes)
        found = []
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None) or ""
            in_suite = file.startswith(suite)
            if not in_suite and (not file.startswith(f"{root}{os.sep}") or INSTALLED in file):
                continue  # nearly all of many hundred: no path is made of them
            try:
                if file not in own and not _asserts(self.text(file)):
                    continue
            except OSError:  # from an archive, say
                continue
            path = Path(file)
            shown = next((one.id_of(path) for one in scopes if path.is_relative_to(one.base)), file)
            runs, written = _imported(module), self.module(path)
            if runs is not None and written is not None and comparable(runs) != comparable(written):
                caches = path.parent / "__pycache__"
                found.append(f"{shown}: its compiled code does not match its source: remove {caches}")
            if in_suite and written is not None:
                text = self.text(file)
                slips = (*always_hold(text, module), *without_effect(text, written), *drops(text))
                found += [f"{shown}:{line}: {why}" for line, why in slips]
        return found

    def _inside(self, path: Path, name: str, level: int) -> set[Code]:
        """The functions of that name in a file, or all of them if the name is empty; see :meth:`module`."""
        if (path, name, level) not in self._codes:
            module = self.module(path, level)
            if module is None:
                found: set[Code] = set()
            elif name:
                found = {comparable(code) for one, code in compiled_tests(module) if one == name}
            else:
                found = set(_all_inside(module))
            self._codes[path, name, level] = found
        return self._codes[path, name, level]

    def module(self, path: Path, level: int = 0) -> CodeType | None:
        """A file, compiled at a level of optimization (0: with its assertions); None if there is none."""
        if (path, level) not in self._modules:
            try:
                self._modules[path, level] = self._compiled(path, level)
            except (OSError, SyntaxError, ValueError):
                self._modules[path, level] = None
        return self._modules[path, level]

    def _compiled(self, path: Path, level: int) -> CodeType:
        if level == REWRITTEN:
            from _pytest.assertion import rewrite  # nothing public does this

            return rewrite._rewrite_test(path, self._config)[1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module: CodeType = compile(self.text(str(path)), str(path), "exec", dont_inherit=True, optimize=level)
        return module


def files_below(folder: Path) -> list[str]:
    """The modules below a folder as pytest looks for them: behind links to folders, too, and in no hidden one."""
    found: list[str] = []
    root = os.path.realpath(folder)
    waiting = [(str(folder), root, frozenset([root]))]
    while waiting:
        here, real_here, above = waiting.pop()
        for entry in os.scandir(here):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real_here, entry.name)
                if real not in above:  # pytest itself goes round in a circle until it is stopped
                    waiting.append((entry.path, real, above | {real}))
            elif entry.name.endswith(".py"):
                found.append(entry.path)
    return sorted(found)


def is_collected(file: str) -> bool:
    """Whether pytest looks for requirements in this file, as it does by default: test_*.py and *_test.py."""
    return os.path.basename(file).startswith("test_") or file.endswith("_test.py")


def folders(folder: Path) -> list[str]:
    """The topmost folders below a folder, or it alone, with files in which pytest looks for requirements."""
    found: list[str] = []
    for one in sorted({os.path.dirname(file) for file in files_below(folder) if is_collected(file)}):
        if not any(one.startswith(f"{above}{os.sep}") for above in found):
            found.append(one)
    return found


def _asserts(text: bytes) -> bool:
    return b"assert" in text and ASSERTION.search(text) is not None  # the word alone is found ten times as quickly


def _imported(module: ModuleType) -> CodeType | None:
    """The code that an import of a module executes, compiled before where that is valid; None if it cannot be known.

    pytest keeps what it has rewritten under the hash of the source, so that is never another file's.
    """
    spec = module.__spec__
    if spec is None or not isinstance(spec.loader, SourceLoader):
        return None
    try:
        code: CodeType | None = spec.loader.get_code(spec.name)
    except (ImportError, OSError, SyntaxError, ValueError):  # the file has changed since
        return None
    return code


def name_of(item: pytest.Item) -> str:
    """The name of a requirement in its file, after those of its classes."""
    classes = [node.name for node in item.listchain() if isinstance(node, pytest.Class)]
    return ".".join([*classes, getattr(item, "originalname", None) or item.name])


def compiled_tests(body: CodeType) -> Iterator[tuple[str, CodeType]]:
    """The test functions in a compiled file, and in its classes, by name."""
    for one in body.co_consts:
        if isinstance(one, CodeType) and one.co_name.startswith("test"):
            yield one.co_name, one
        elif isinstance(one, CodeType) and one.co_name.startswith("Test"):
            yield from ((f"{one.co_name}.{name}", code) for name, code in compiled_tests(one))
