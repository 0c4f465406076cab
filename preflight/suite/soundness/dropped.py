"""Which statements of a file drop what an assertion has raised: ``return``, ``break`` and ``continue`` in a finally."""

from __future__ import annotations

import ast
import itertools
import re
import warnings
from collections.abc import Iterable, Iterator
from functools import partial

_FINALLY = re.compile(rb"([ \t]*)finally\s*:")
_LEAVES = re.compile(rb"\b(?:return|break|continue)\b")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_WHY = "leaves a finally, which drops what an assertion has raised: move it behind the finally"


def drops(text: bytes) -> list[tuple[int, str]]:
    """The lines of a module's file that leave a ``finally`` below an assertion, and why that is wrong."""
    if not _may_leave(text):
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of some of them
        nodes = ast.walk(ast.parse(text))
    tries = (node for node in nodes if isinstance(node, ast.Try | ast.TryStar))
    dropping = (node for node in tries if any(isinstance(one, ast.Assert) for one in _above_finally(node)))
    return sorted({(one.lineno, _WHY) for node in dropping for one in _leaving(node.finalbody)})


def _may_leave(text: bytes) -> bool:
    """Whether a line with ``finally``, or one below it and further to the right, may leave it."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if (found := _FINALLY.match(line)) is None:
            continue
        is_inside = partial(_is_right_of, len(found[1]))
        if any(map(_LEAVES.search, [line, *itertools.takewhile(is_inside, lines[number + 1 :])])):
            return True
    return False


def _is_right_of(column: int, line: bytes) -> bool:
    return not line.strip() or line[: column + 1].isspace()


def _above_finally(node: ast.Try | ast.TryStar) -> Iterator[ast.AST]:
    for one in (*node.body, *node.handlers, *node.orelse):
        yield from ast.walk(one)


def _leaving(body: Iterable[ast.AST], *, in_loop: bool = False) -> Iterator[ast.stmt]:
    """What leaves a block: ``return``, and ``break`` and ``continue`` of a loop around it."""
    for node in body:
        if isinstance(node, ast.Return) or (isinstance(node, ast.Break | ast.Continue) and not in_loop):
            yield node
        elif not isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            yield from _leaving(ast.iter_child_nodes(node), in_loop=in_loop or isinstance(node, _LOOPS))
