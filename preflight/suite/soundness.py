"""Does a run of the suite ask what it says it asks?

The suite puts these questions to itself, in the interpreter that runs it: are assertions executed, is the code that
runs what the files say, has each requirement in them been collected, has its body run, and how did that end. What
variables and options can do about it is decided in interpreter.py; what is found out here does not depend on knowing
who did it. A run for which one of the answers is no is broken.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import re
import sys
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import SourceLoader
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from preflight.processes import interpreter
from preflight.project import Scope
from preflight.report.model import SEVERITIES

if TYPE_CHECKING:
    from preflight.making import Made

FILES = ("test_*.py", "*_test.py")
REWRITTEN = -1
"""Stands for a level of optimization: with pytest's assertions, which explain themselves (plain pytest has those)."""
INSTALLED = "site-packages"
READY = "preflight.making"
"""Imported by nobody but a suite with ready-made requirements in it."""
NAMED = re.compile(rb"\.[\s\\]*(?:%s)\b" % "|".join(SEVERITIES).encode())
ASSERTION = re.compile(rb"^[ \t]*assert\b", re.MULTILINE)
ALWAYS_HOLDS = "assertion is always true"
"""What Python's compiler says, as a warning, of an assertion of a tuple."""
Code = tuple[object, ...]
"""What a code object does, in a form that compares: neither where it stands nor how it was compiled."""


def problems(config: pytest.Config) -> list[str]:
    """What in this interpreter, and among pytest's options, gives a run another meaning."""
    found = []
    if not assertions_execute():
        variable = os.environ.get("PYTHONOPTIMIZE")
        cause = "PYTHONOPTIMIZE is set: unset it" if variable else "Python was started with -O: start it without -O"
        found.append(f"assertions are not executed: {cause}")
    return found + refused(config)


def refused(config: pytest.Config, *, lists: bool = False) -> list[str]:
    """The options of pytest with which nothing is found out; ``lists``: only those that show something instead."""
    return [
        f"{option.names[0]} is set, and {option.changes}: leave it out ({_whence(config, option)})"
        for option in interpreter.refused(config.option, config.invocation_params.args)
        if option.lists or not lists
    ]


def shows_something(config: pytest.Config) -> bool:
    """Whether somebody has asked pytest for a list instead of a run."""
    return any(option.lists and getattr(config.option, option.attribute, None) for option in interpreter.OPTIONS)


def _whence(config: pytest.Config, option: interpreter.Option) -> str:
    """Where an option may have come from, for people who look for it."""
    if any(name in config.invocation_params.args for name in option.names):
        return "on the command line"
    if any(name in os.environ.get("PYTEST_ADDOPTS", "").split() for name in option.names):
        return "in PYTEST_ADDOPTS"
    return f"in addopts of {config.inipath.name}" if config.inipath else "in a plugin"


def assertions_execute() -> bool:
    """Whether a false assertion raises, in this interpreter and in modules as they are compiled here."""
    if sys.flags.optimize:
        return False
    try:
        assert not __name__  # noqa: S101  # this is the question
    except AssertionError:
        return True
    return False


# Is the code that runs what the files say?


def code_of(function: object) -> CodeType | None:
    """The code of a requirement's own body, inside whatever decorators have put around it; None if it has none."""
    try:
        inner = inspect.unwrap(function)  # type: ignore[arg-type]  # anything can be asked
    except ValueError:  # it is wrapped in itself
        return None
    code = getattr(getattr(inner, "__func__", inner), "__code__", None)
    return code if isinstance(code, CodeType) else None


def comparable(code: CodeType) -> Code:
    """The same for two compilations of the same source, whatever was kept of positions."""
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
    """The files that requirements stand in, compiled once more from what is written there."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._modules: dict[tuple[Path, int], CodeType | None] = {}
        self._codes: dict[tuple[Path, str, int], set[Code]] = {}
        self._below: dict[Path, list[Path]] = {}
        self._always: dict[Path, list[int]] = {}
        """The lines of a file with an assertion of a tuple, which holds whatever is in it: ``assert (x, "no x")``."""

    def fault(self, item: pytest.Item) -> str:
        """What is wrong with the code that will run for ``item``, for people; empty if it is what its file says."""
        code = code_of(getattr(item, "obj", None))
        if code is None:
            return "is no function, so the run cannot see whether its body runs"
        if code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR):
            return "is a generator (it has a yield), so its body may not run to its end"
        runs = comparable(code)
        name = _name(item)
        written = self._module(item.path, 0)
        if written is None or not any(one == name for one, _ in _compiled_tests(written)):
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
        """The project's modules, and ours, that were imported from another text than their files have, for people.

        And the assertions of the suite that cannot fail, as Python sees when it compiles them.

        All of a module counts, what stands outside of its functions as well: limits, defaults, markers. Requirements
        ask what they have imported; of that the modules with an assertion in them are looked at, and the files of
        ``sound``, the requirements of which :meth:`fault` has found nothing.
        """
        own = {str(item.path) for item in sound}
        suite = tuple(f"{scope.folder}{os.sep}" for scope in scopes)
        found = []
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None) or ""
            in_suite = file.startswith(suite)
            if not in_suite and (not file.startswith(f"{root}{os.sep}") or INSTALLED in file):
                continue  # nearly all of many hundred: no path is made of them
            if file == __file__:
                continue  # this one has asked itself
            path = Path(file)
            try:
                if file not in own and not ASSERTION.search(path.read_bytes()):
                    continue
            except OSError:  # from an archive, say
                continue
            shown = next((one.id_of(path) for one in scopes if path.is_relative_to(one.base)), file)
            runs, written = _imported(module), self._module(path, 0)
            if runs is not None and written is not None and comparable(runs) != comparable(written):
                caches = path.parent / "__pycache__"
                found.append(f"{shown}: its compiled form is another file's: remove {caches}")
            if in_suite:
                found += [
                    f"{shown}:{line}: asserts a tuple, which always holds: take its parentheses away"
                    for line in self._always.get(path, ())
                ]
        return found

    def below(self, folder: Path) -> list[Path]:
        """:func:`files_below`, looked for once."""
        if folder not in self._below:
            self._below[folder] = files_below(folder)
        return self._below[folder]

    def lost(
        self, scope: Scope, items: Iterable[pytest.Item], is_meant: Callable[[Path], bool] = lambda _path: True
    ) -> list[str]:
        """The tests in the files of a part of the suite that pytest has not collected, as ``FILE::NAME``.

        ``is_meant``: the files to look at.

        Those that are written at the top of a file or of a class, and the functions that a file has from elsewhere:
        what stands under a condition may well not be there. What is marked as a requirement is one, whatever it and its
        file are called. Hidden folders are nobody's (an editor's copies, say).
        """
        collected = {(item.path, _name(item)) for item in items}
        bodies = {code_of(getattr(item, "obj", None)) for item in items} - {None}
        modules = {getattr(module, "__file__", None): module for module in list(sys.modules.values())}
        found = []
        for path in filter(is_meant, self.below(scope.folder)):
            file = scope.id_of(path)
            known = modules.get(str(path))
            is_asked = any(path.match(pattern) for pattern in FILES)
            if not is_asked and not _declares(path.read_bytes()):
                continue
            if known is not None:
                found += [f"{file}::{name}{_unlike_a_test(name)}" for name in _marked(known, bodies)]
            if not is_asked:
                found += [f"{file}, which is not called like a file of requirements (test_*.py)"] * (known is None)
                continue
            brought = _brought_tests(modules.get(str(path)))
            found += [f"{file}::{name}" for name in brought if (path, name) not in collected]
            module = self._module(path, 0)
            names = [name for name, _ in _compiled_tests(module)] if module is not None else []
            if len(set(names)) == len(names) and collected.issuperset((path, name) for name in names):
                continue  # nearly always, and ten times as quick as reading the file's grammar
            for name, times in Counter(_written_tests(ast.parse(path.read_bytes()).body)).items():
                if (path, name) not in collected:
                    found.append(f"{file}::{name}")
                elif times > 1:
                    found.append(f"{file}::{name}, which another one of that name replaces")
        return found

    def _inside(self, path: Path, name: str, level: int) -> set[Code]:
        """The functions of that name in a file, or all where there is none; see :meth:`_module`."""
        if (path, name, level) not in self._codes:
            module = self._module(path, level)
            if module is None:
                found: set[Code] = set()
            elif name:
                found = {comparable(code) for one, code in _compiled_tests(module) if one == name}
            else:
                found = set(_all_inside(module))
            self._codes[path, name, level] = found
        return self._codes[path, name, level]

    def _module(self, path: Path, level: int) -> CodeType | None:
        """A file, compiled at a level of optimization (0: with its assertions); None where there is none."""
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
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            module: CodeType = compile(path.read_bytes(), str(path), "exec", dont_inherit=True, optimize=level)
        self._always[path] = sorted({one.lineno for one in said if str(one.message).startswith(ALWAYS_HOLDS)})
        return module


def made(item: pytest.Item) -> Made | None:
    """What a ready-made requirement was made of; None for any other."""
    making = sys.modules.get(READY)
    one: Made | None = getattr(getattr(item, "obj", None), making.ATTRIBUTE, None) if making is not None else None
    return one


def lost_of_ready(items: Iterable[pytest.Item], scopes: Iterable[Scope]) -> list[str]:
    """The ready-made requirements of the suite's files that pytest has not collected, and where each was made.

    They were assigned to no name ``test_...``, or another one took the name.
    """
    making = sys.modules.get(READY)
    if making is None:
        return []
    collected = {made(item) for item in items}
    parts = list(scopes)
    found = []
    for one in making.EVERY:
        path = Path(one.file)
        part = next((scope for scope in parts if path.is_relative_to(scope.folder)), None)
        if part is not None and one not in collected:
            named = "has to be assigned to a name of its own that begins with test_"
            found.append(f"{part.id_of(path)}:{one.line}: a ready-made requirement, which {named},")
    return found


def files_below(folder: Path) -> list[Path]:
    """The modules below a folder as pytest looks for them: behind links to folders, too, and in no hidden one."""
    found: list[str] = []
    waiting = [(str(folder), frozenset([os.path.realpath(folder)]))]
    while waiting:
        here, above = waiting.pop()
        real_here = os.path.realpath(here)
        for entry in os.scandir(here):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real_here, entry.name)
                if real not in above:  # pytest itself goes round in a circle until it is stopped
                    waiting.append((entry.path, above | {real}))
            elif entry.name.endswith(".py"):
                found.append(entry.path)
    return sorted(map(Path, found))


def _imported(module: ModuleType) -> CodeType | None:
    """What an import of a module executes, a compiled form of it where there is a valid one; None if nobody can tell.

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


def _name(item: pytest.Item) -> str:
    classes = [node.name for node in item.listchain() if isinstance(node, pytest.Class)]
    return ".".join([*classes, getattr(item, "originalname", None) or item.name])


def _compiled_tests(body: CodeType) -> Iterator[tuple[str, CodeType]]:
    for one in body.co_consts:
        if isinstance(one, CodeType) and one.co_name.startswith("test"):
            yield one.co_name, one
        elif isinstance(one, CodeType) and one.co_name.startswith("Test"):
            yield from ((f"{one.co_name}.{name}", code) for name, code in _compiled_tests(one))


def _written_tests(body: Iterable[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            if not any(map(_makes_a_fixture, node.decorator_list)):
                yield node.name
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from (f"{node.name}.{name}" for name in _written_tests(node.body))


def _brought_tests(module: ModuleType | None) -> list[str]:
    """The test functions that a module has from elsewhere, by name, but for those that say they are none."""
    if module is None:
        return []
    return [
        name
        for name, one in vars(module).items()
        if name.startswith("test")
        and isinstance(one, FunctionType)
        and one.__module__ != module.__name__
        and getattr(one, "__test__", True)
    ]


def _declares(source: bytes) -> bool:
    """Whether a file names the mark of a requirement: in a decorator, for all of a file or class, or elsewhere."""
    if b"mark" not in source or not NAMED.search(source):
        return False  # nearly all of them: reading a file's grammar takes milliseconds
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):  # no file that pytest could ask either
        return False
    imported = [one for node in nodes if isinstance(node, ast.ImportFrom) for one in node.names]
    marks = {"mark", *(one.asname for one in imported if one.name == "mark" and one.asname)}
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in SEVERITIES
        and ast.unparse(node.value).rpartition(".")[2] in marks
        for node in nodes
    )


def _marked(module: ModuleType, collected: Container[CodeType | None]) -> Iterator[str]:
    """What is marked as a requirement in a module of the suite, and has no body that is collected; by name."""
    own = {name: one for name, one in list(vars(module).items()) if name != "pytestmark"}
    if _is_marked(module) and _is_left_out(own.values(), module, collected):
        yield "all of it"
    for name, one in own.items():
        yield from _marked_inside(name, one, module, collected)


def _marked_inside(
    called: str, one: object, module: ModuleType, collected: Container[CodeType | None]
) -> Iterator[str]:
    if isinstance(one, pytest.MarkDecorator):
        # What has no name of its own, a partial say, was not marked: it has become the mark's argument.
        if one.name in SEVERITIES and any(map(callable, one.args)):
            yield called
    elif inspect.isclass(one):
        if one.__module__ != module.__name__:
            return
        inside = {name: part for name, part in list(vars(one).items()) if name != "pytestmark"}
        if _is_marked(one) and _is_left_out(inside.values(), module, collected):
            yield called
        for name, part in inside.items():
            yield from _marked_inside(f"{called}.{name}", part, module, collected)
    elif (callable(one) or isinstance(one, classmethod)) and _is_marked(one) and code_of(one) not in collected:
        yield called


def _is_left_out(parts: Iterable[object], module: ModuleType, collected: Container[CodeType | None]) -> bool:
    """Whether there are functions among these, and none of them is collected."""
    bodies = list(_bodies(parts, module))
    return bool(bodies) and not any(code in collected for code in bodies)


def _bodies(parts: Iterable[object], module: ModuleType) -> Iterator[CodeType]:
    """The code of the functions among these, and of those in a module's own classes."""
    for one in parts:
        if inspect.isclass(one):
            if one.__module__ == module.__name__:
                yield from _bodies(vars(one).values(), module)
        elif (code := code_of(one)) is not None:
            yield code


def _is_marked(one: object) -> bool:
    """Whether something is marked as a requirement itself, or one of the parameters that it is called with is."""
    marks = getattr(one, "__dict__", {}).get("pytestmark", ())
    for mark in marks if isinstance(marks, list | tuple) else [marks]:
        values = getattr(mark, "args", ())[1:2] if getattr(mark, "name", "") == "parametrize" else ()
        several = values[0] if values and isinstance(values[0], list | tuple) else ()
        inside = [part for value in several for part in getattr(value, "marks", ())]
        if not frozenset(SEVERITIES).isdisjoint(getattr(part, "name", "") for part in [mark, *inside]):
            return True
    return False


def _unlike_a_test(name: str) -> str:
    """Why pytest leaves a function or a method out whatever its options say."""
    if name.rpartition(".")[2].startswith("test"):
        return ""
    return ", which is not called like a requirement (test_*)"


def _makes_a_fixture(decorator: ast.expr) -> bool:
    """``@fixture`` and ``@pytest_asyncio.fixture(...)`` do; ``@pytest.mark.usefixtures(...)`` does not."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(called).rpartition(".")[2] == "fixture"


# Has its body run, and how did that end?


class Witness:
    """Sees one requirement's own body run, whoever calls it and whatever becomes of what it raises."""

    def __init__(self, item: pytest.Item) -> None:
        """``item`` as it was collected: whatever is put in its place later is not what is waited for."""
        self._code = code_of(getattr(item, "obj", None))
        self.entered = False
        self.raised: BaseException | None = None

    @contextmanager
    def watching(self, item: Any) -> Generator[None]:
        """Watch what pytest calls for ``item``."""
        function = item.obj
        item.obj = self._watched(function)
        try:
            yield
        finally:
            item.obj = function

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call_async(*args: Any, **options: Any) -> Any:
                with self._seeing():
                    _see_that_it_judges(await function(*args, **options))

            return call_async

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            with self._seeing():
                returned = function(*args, **options)
                if hasattr(returned, "__await__") or hasattr(returned, "__aiter__"):
                    return returned  # a plugin's affair, or pytest's
                _see_that_it_judges(returned)
                return None

        return call

    def _is_ours(self, error: BaseException) -> bool:
        """Whether code of the requirement's file was on its way."""
        files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
        return self._code is not None and self._code.co_filename in files

    @contextmanager
    def hearing(self) -> Generator[None]:
        """Raise what was asserted in vain in a thread meanwhile, of a fixture say."""
        with self._listening() as heard:
            yield
            if heard:
                raise heard[0]

    @contextmanager
    def _listening(self) -> Generator[list[BaseException]]:
        hook = threading.excepthook
        heard: list[BaseException] = []

        def note(ending: threading.ExceptHookArgs) -> None:
            error = ending.exc_value
            # Of other errors nobody knows whether the requirement judges by them.
            if isinstance(error, AssertionError | pytest.fail.Exception) and self._is_ours(error):
                heard.append(error)
            hook(ending)

        threading.excepthook = note
        try:
            yield heard
        finally:
            threading.excepthook = hook

    @contextmanager
    def _seeing(self) -> Generator[None]:
        before, of_threads = sys.getprofile(), threading.getprofile()

        def see(frame: FrameType, event: str, _argument: object) -> None:
            if event == "call" and frame.f_code is self._code:
                self.entered = True
                sys.setprofile(None)  # of this thread; from here on it costs nothing

        threading.setprofile(see)
        sys.setprofile(see)
        try:
            with self._listening() as heard:
                yield
                if heard:
                    self.raised = heard[-1]
        except BaseException as error:
            self.raised = error
            raise
        finally:
            # A profiler that is written in C cannot be set again from here.
            sys.setprofile(before if callable(before) else None)
            threading.setprofile(of_threads)


def _see_that_it_judges(returned: object) -> None:
    """Raises AssertionError for a requirement that returns its answer: nobody looks at that."""
    if returned is not None:
        answer = returned if isinstance(returned, bool | int | float) else f"a value of type {type(returned).__name__}"
        raise AssertionError(
            f"it returned {answer}, and a return value is no answer: a requirement answers with assert"
        )
