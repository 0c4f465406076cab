"""Which requirements stand in the suite's files, and have not been collected?"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING

import pytest

from preflight.project import OURS, Scope
from preflight.report.model import SEVERITIES
from preflight.suite.soundness.sources import Sources, code_of, compiled_tests, is_collected, name_of

if TYPE_CHECKING:
    from preflight.making import Made

READY = "preflight.making"
"""Imported by nobody but a suite with ready-made requirements in it."""
MARK = re.compile(rb"mark(?<!\wmark)[\s\\)]*(?:\.|as\b|#)")
"""The word ``mark`` where a severity may follow, behind a comment say, or another name for it."""
SEVERITY = re.compile(rb"\.[\s\\]*(?:%s)\b" % "|".join(SEVERITIES).encode())
DECORATED = re.compile(rb"@[\s(\\]*(?:\w+[\s\\]*\.[\s\\]*)*(?:%s)\b" % "|".join(SEVERITIES).encode())
_MARKED_INSIDE = re.compile(rb"^[ \t]+@[\w.]*\b(?:%s)\b" % "|".join(SEVERITIES).encode(), re.MULTILINE)
"""A marker that is not at the beginning of its line: of a method, or of a function inside another one."""
MARKED = re.compile(rb"mark(?:(?<=pytestmark)|s)\s*=")
"""Something is marked with a severity, whoever has given the mark that name: ``from marks import *``."""
FACTORIES = re.compile(rb"preflight(?:\.(?:ready|making)\b|(?<=from preflight) import [^\n]{0,200}\bready\b)")
"""An import of what makes requirements: ``from preflight import ready``.

Both begin with one word: that is found ten times as quickly as one of two.
"""
FUNCTION = re.compile(rb"^([ \t]*)(?:async )?def\b[^\n]*\n(?:\1(?:[ \t]+|\))[^\n]*\n|[ \t]*\n)*", re.MULTILINE)
"""A function: its first line, and all that are further to the right or end the list of its arguments."""


def lost(scope: Scope, items: Iterable[pytest.Item], sources: Sources) -> list[tuple[Path, str]]:
    """The tests in the files of a part of the suite that pytest has not collected: the file, and ``FILE::NAME``.

    Tests are the functions at the top level of a file or of a class, and those that a file imports; a function under a
    condition may rightly be absent. Whatever is marked as a requirement is one, whatever its name and its file's.
    Hidden folders do not count (an editor's copies, say).
    """
    collected = {(str(item.path), name_of(item)) for item in items}
    bodies = {code_of(getattr(item, "obj", None)) for item in items} - {None}
    modules = {getattr(module, "__file__", None): module for module in list(sys.modules.values())}
    found = []
    for file in sources.below(scope.folder):
        known = modules.get(file)
        is_asked = is_collected(file)
        if not is_asked and not _may_hold_one(sources.text(file), known, scope.name):
            continue  # nearly all of hundreds: no path is made of them
        path = Path(file)
        lost = [f"::{name}{_unlike_a_test(name)}" for name in _marked(known, bodies)] if known is not None else []
        if is_asked:
            lost += [f"::{said}" for said in _lost_of(path, known, collected, sources)]
        elif known is None:
            lost.append(", whose name is not that of a file of requirements (test_*.py)")
        found += [(path, f"{scope.id_of(path)}{said}") for said in lost]
    return found


def _lost_of(
    path: Path, known: ModuleType | None, collected: Container[tuple[str, str]], sources: Sources
) -> Iterator[str]:
    """The tests of one file that were not collected, by name; ``known`` is the module that it was imported as."""
    file = str(path)
    yield from (name for name in _brought_tests(known) if (file, name) not in collected)
    module = sources.module(path)
    tests = list(compiled_tests(module)) if module is not None else []
    names = [name for name, _ in tests]
    inside = {one.co_name for _, code in tests for one in code.co_consts if isinstance(one, CodeType)}
    if any(map(str.isidentifier, inside)) and _MARKED_INSIDE.search(text := sources.text(file)):
        yield from (f"{name}, which is inside another test" for name in _marked_in_tests(text, inside))
    if len(set(names)) == len(names) and all((file, name) in collected for name in names):
        return  # nearly always, and ten times as quick as parsing the file
    for name, times in Counter(_written_tests(ast.parse(sources.text(file)).body)).items():
        if (file, name) not in collected:
            yield name
        elif times > 1:
            yield f"{name}, replaced by another test of the same name"


def made(item: pytest.Item) -> Made | None:
    """What a ready-made requirement was made of; None for any other."""
    making = sys.modules.get(READY)
    one: Made | None = getattr(getattr(item, "obj", None), making.ATTRIBUTE, None) if making is not None else None
    return one


def lost_of_ready(items: Iterable[pytest.Item], scopes: Iterable[Scope]) -> list[tuple[Path, str]]:
    """The ready-made requirements of the suite's files that pytest has not collected: the file, and where in it.

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
            named = "assign it to a name of its own that begins with test_"
            found.append((path, f"{part.id_of(path)}:{one.line}: a ready-made requirement ({named})"))
    return found


def empty(items: Iterable[pytest.Item], scopes: Iterable[Scope]) -> list[tuple[Path, str]]:
    """The parts of the project's own of which nothing was collected: what was there has not come along, say."""
    files = {item.path.resolve() for item in items}
    return [
        (scope.folder, f"{scope.name}, which has no requirement in a file test_*.py")
        for scope in scopes
        if scope.name != OURS and not any(file.is_relative_to(scope.folder.resolve()) for file in files)
    ]


def _written_tests(body: Iterable[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            if not any(map(_makes_a_fixture, node.decorator_list)):
                yield node.name
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from (f"{node.name}.{name}" for name in _written_tests(node.body))


def _marked_in_tests(text: bytes, names: Container[str]) -> Iterator[str]:
    """The requirements among these functions in the bodies of tests: they were moved to the right by mistake."""
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(one): one for node in functions if node.name.startswith("test") for one in node.body}
    for node in functions:
        if id(node) in inside and node.name in names and any(map(_is_severity, node.decorator_list)):
            yield node.name


def _is_severity(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(called).rpartition(".")[2] in SEVERITIES


def _brought_tests(module: ModuleType | None) -> list[str]:
    """The names of the test functions that a module has imported, except those that say they are no tests."""
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


def _may_hold_one(source: bytes, known: ModuleType | None, package: str) -> bool:
    """Whether there may be a requirement in a file that pytest passes over; ``known`` is the module of an import."""
    if known is None:
        return _declares(source) or _makes(source, package)
    return _declares(source) or any(type(one) is FunctionType and _is_marked(one) for one in vars(known).values())


def _declares(source: bytes) -> bool:
    """Whether a file marks something as a requirement: in a decorator, for all of a file or class, or elsewhere.

    A name that it gives to the mark, and does not use itself, is for other files.
    """
    if not _may_mark(source):
        return False  # nearly all of them: parsing a file takes milliseconds
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):  # no file that pytest could ask either
        return False
    imported = [one for node in nodes if isinstance(node, ast.ImportFrom) for one in node.names]
    aliases = {"mark", *(one.asname for one in imported if one.name == "mark" and one.asname)}
    # A module of the project, or of the suite, may have given the marks these names.
    names = {*SEVERITIES, *(one.asname for one in imported if one.name in SEVERITIES and one.asname)}
    modules = {"mark", *(one.asname or one.name for node in nodes if isinstance(node, _IMPORTS) for one in node.names)}
    if any(_names(node, names, modules) for place in _marking(nodes) for node in ast.walk(place)):
        return True
    found = [node for node in nodes if _is_mark(node, aliases)]
    return bool(found) and not _only_named(found, nodes, aliases)


def _may_mark(source: bytes) -> bool:
    # Each run asks our own files as well, and would parse those that these patterns match.
    words = [word for word in map(str.encode, SEVERITIES) if word in source]
    if not words:
        return False
    if DECORATED.search(source) or MARKED.search(source) or any(b"%s as " % word in source for word in words):
        return True
    return MARK.search(source) is not None and SEVERITY.search(source) is not None


def _is_mark(node: ast.AST, marks: Container[str]) -> bool:
    """Whether it is a severity of ``pytest.mark``, or of another name for that."""
    return (
        isinstance(node, ast.Attribute)
        and node.attr in SEVERITIES
        and ast.unparse(node.value).rpartition(".")[2] in marks
    )


_IMPORTS = (ast.Import, ast.ImportFrom)


def _names(node: ast.AST, names: Container[str], modules: Container[str]) -> bool:
    """Whether it is one of the marks' names: by itself, of ``pytest.mark``, or of something that was imported."""
    match node:
        case ast.Name(id=name):
            return name in names
        case ast.Attribute(value=ast.Name(id=name) | ast.Attribute(attr=name), attr=severity):
            return severity in SEVERITIES and name in modules
    return False


def _marking(nodes: Iterable[ast.AST]) -> Iterator[ast.expr]:
    """What stands where something is marked: decorators, ``pytestmark``, and ``marks=`` of parameters."""
    for node in nodes:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield from node.decorator_list
            case ast.Assign(targets=[ast.Name(id="pytestmark")]):
                yield node.value
            case ast.Call(func=ast.Name(id="param") | ast.Attribute(attr="param")):
                yield from (one.value for one in node.keywords if one.arg == "marks")


def _only_named(found: Sequence[ast.AST], nodes: Iterable[ast.AST], marks: Container[str]) -> bool:
    """Whether these marks only get names, which the file does not use."""
    names, used, naming = set(), set(), 0
    for node in nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                used.add(name)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                if isinstance(value, ast.Call) and not any(isinstance(one, ast.Name) for one in value.args):
                    value = value.func  # with a title; a function would be marked
                if _is_mark(value, marks):
                    names.add(name)
                    naming += 1
    return naming == len(found) and names.isdisjoint(used)


def _makes(source: bytes, package: str) -> bool:
    """Whether a file would make requirements when it is imported.

    It calls what it imports from `preflight.ready`, or gives ``test_...`` what a factory of the suite's own returns. An
    import calls nothing that is in a function, so functions are left out of what is parsed: nine tenths of most files.
    """
    if not (FACTORIES.search(source) or b"\ntest_" in source):
        return False  # nearly all of them
    tree = _parsed(FUNCTION.sub(_without_its_body, source)) or _parsed(source)
    if tree is None:
        return False
    made, own = set(), set()
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            made |= {f"{one.asname or one.name}." for one in node.names if one.name == "preflight.ready"}
        elif isinstance(node, ast.ImportFrom):
            names = {one.asname or one.name for one in node.names}
            if node.module == "preflight":
                made |= {f"{one.asname or one.name}." for one in node.names if one.name == "ready"}
            elif node.module in ("preflight.ready", READY):
                made |= names
            elif node.level or (node.module or "").partition(".")[0] == package.partition(".")[0]:
                own |= names
    if made and any(_is_of(made, call) for call in _calls(tree)):
        return True
    assigned = [node for node in tree.body if isinstance(node, ast.Assign) and _names_a_test(node.targets)]
    return any(isinstance(node.value, ast.Call) and _is_of(own, node.value) for node in assigned)


def _without_its_body(function: re.Match[bytes]) -> bytes:
    """A function as one line; as it is if a text of three quotes begins or ends in it, since that holds anything."""
    if any(function[0].count(quotes) % 2 for quotes in (b'"""', b"'''")):
        return function[0]
    return b"%bdef function(): ...\n" % function[1]


def _parsed(source: bytes) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return None


def _names_a_test(targets: Iterable[ast.expr]) -> bool:
    return any(isinstance(one, ast.Name) and one.id.startswith("test_") for one in targets)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """All statements, and those inside of them; not the expressions, which are nine tenths of a tree."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        inside = [one for block in _BLOCKS for one in getattr(node, block, ())]
        yield from inside
        waiting += inside


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls that an import makes; what is in a function is called where that is."""
    waiting = [tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.Call):
                yield node
            if not isinstance(node, _FUNCTIONS):
                waiting.append(node)


def _is_of(made: Container[str], call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    return name in made or f"{name.rpartition('.')[0]}." in made


def _marked(module: ModuleType, collected: Container[CodeType | None]) -> Iterator[str]:
    """The names of what is marked as a requirement in a module of the suite, and whose body was not collected."""
    own = {name: one for name, one in list(vars(module).items()) if name != "pytestmark"}
    if _is_marked(module) and _is_left_out(own.values(), module, collected):
        yield "all of it"
    for name, one in own.items():
        yield from _marked_inside(name, one, module, collected)


def _marked_inside(
    called: str, thing: object, module: ModuleType, collected: Container[CodeType | None]
) -> Iterator[str]:
    if isinstance(thing, pytest.MarkDecorator):
        # A callable without a name of its own, a partial say, was not marked: it has become the mark's argument.
        if thing.name in SEVERITIES and any(map(callable, thing.args)):
            yield called
    elif inspect.isclass(thing):
        if thing.__module__ != module.__name__:
            return
        inside = {name: part for name, part in list(vars(thing).items()) if name != "pytestmark"}
        if _is_marked(thing) and _is_left_out(inside.values(), module, collected):
            yield called
        for name, part in inside.items():
            yield from _marked_inside(f"{called}.{name}", part, module, collected)
    elif (callable(thing) or isinstance(thing, classmethod)) and _is_marked(thing) and code_of(thing) not in collected:
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
    return ", whose name is not that of a requirement (test_*)"


def _makes_a_fixture(decorator: ast.expr) -> bool:
    """``@fixture`` and ``@pytest_asyncio.fixture(...)`` do; ``@pytest.mark.usefixtures(...)`` does not."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(called).rpartition(".")[2] == "fixture"
