"""Which comparisons of a file decide nothing: ``status == 200`` without assert, ``assert x != 1 or x != 2``?"""

from __future__ import annotations

import ast
import dis
import re
import warnings
from collections.abc import Iterable, Iterator
from types import CodeType

_ANSWERS = ("COMPARE_OP", "IS_OP", "CONTAINS_OP", "UNARY_NOT")
_DROPPED = re.compile(
    b"[%b][\\s\\S](?:\\0[\\s\\S])*%b"
    % (re.escape(bytes(dis.opmap[name] for name in _ANSWERS)), re.escape(bytes([dis.opmap["POP_TOP"]])))
)
"""An answer in compiled code that the next instruction drops; there may be caches between them."""
_TRUE = re.compile(rb"\bor[\s\\(]+True\b")
_COMPARES = re.compile(rb"[=!<>]=")
_ASSERTS = (ast.Assert, ast.Call)
_ALWAYS = "compares so that it always holds"
_WHY_DROPPED = "compares, and nobody looks at the answer: write assert in front of it"
_WHY_DIFFERENT = f"{_ALWAYS}: whatever differs from one of two values does; write and in place of or"
_WHY_LENGTH = f"{_ALWAYS}: no length is below 0"
_WHY_TRUE = "asserts True, which always holds: remove it"
_WHY_MESSAGE = "has a comparison for its message, which decides nothing: write and in place of the comma"
_WHY_NUMBER = "has a value for its message, and compares nothing with it: write assertEqual"
_WHY_VALUE = "asserts a text or a tuple, which always holds: compare it with something"


def without_effect(text: bytes, module: CodeType) -> list[tuple[int, str]]:
    """The lines of a module's file with a comparison that decides nothing, and why; ``module`` is its compiled form."""
    drops = any(_drops(code) for code in _all(module))
    if not drops and not _is_suspect(text):
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(text)
    found = [(node.lineno, why) for node in ast.walk(tree) if isinstance(node, _ASSERTS) for why in _whys(node)]
    found += [(one.lineno, _WHY_DROPPED) for one in _dropped(tree.body)]
    return sorted(set(found))


def _is_suspect(text: bytes) -> bool:
    """Whether a file may assert something that always holds: only then is it parsed."""
    if b".assertTrue(" in text or _TRUE.search(text):
        return True
    return any(
        (line.count(b"!=") > 1 and b" or " in line)  # each differs from one of two
        or (b"len(" in line and b">=" in line)
        # A message with a comparison in it.
        or (line.lstrip().startswith(b"assert") and _COMPARES.search(line.partition(b",")[2]) is not None)
        for line in text.splitlines()
        if b"=" in line
    )


def _all(code: CodeType) -> Iterator[CodeType]:
    yield code
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _all(one)


def _drops(code: CodeType) -> bool:
    # Each instruction has two bytes.
    return any(found.start() % 2 == 0 for found in _DROPPED.finditer(code.co_code))


def _dropped(body: Iterable[ast.AST]) -> Iterator[ast.stmt]:
    """The comparisons that stand alone; one that is expected to raise an exception does so without an assertion."""
    for node in body:
        if isinstance(node, ast.Expr):
            value = node.value.operand if isinstance(node.value, ast.UnaryOp) else node.value
            if isinstance(value, ast.Compare):
                yield node
        elif not isinstance(node, ast.Try | ast.TryStar) and not _expects(node):
            yield from _dropped(ast.iter_child_nodes(node))


def _expects(node: ast.AST) -> bool:
    items = node.items if isinstance(node, ast.With | ast.AsyncWith) else []
    calls = [one.context_expr.func for one in items if isinstance(one.context_expr, ast.Call)]
    return any(re.search("raises|warns|suppress", ast.unparse(call), re.IGNORECASE) for call in calls)


def _whys(node: ast.Assert | ast.Call) -> Iterator[str]:
    match node:
        case ast.Assert(test=test, msg=message):
            if isinstance(message, ast.Compare):
                yield _WHY_MESSAGE
            yield from _always(test)
        case ast.Call(func=ast.Attribute(attr="assertTrue"), args=[test, *others], keywords=keywords):
            yield from _always(test)
            if isinstance(test, ast.Tuple | ast.Constant | ast.JoinedStr) and _is_filled(test):
                yield _WHY_VALUE
            if any(_is_number(one) for one in (*others, *(one.value for one in keywords))):
                yield _WHY_NUMBER


def _always(test: ast.expr) -> Iterator[str]:
    match test:
        case ast.BoolOp(op=ast.Or(), values=values):
            if any(isinstance(one, ast.Constant) and one.value is True for one in values):
                yield _WHY_TRUE
            unequal = {pair for one in values if (pair := _unequal(one)) is not None}
            if len({left for left, _ in unequal}) < len(unequal):
                yield _WHY_DIFFERENT
        case ast.Compare(left=ast.Call(func=ast.Name(id="len")), ops=[ast.GtE()], comparators=[ast.Constant(value=0)]):
            yield _WHY_LENGTH


def _unequal(node: ast.expr) -> tuple[str, str] | None:
    """What a comparison wants to differ from a value in the file, and that value, as they are written."""
    match node:
        case ast.Compare(left=left, ops=[ast.NotEq()], comparators=[ast.Constant(value=value)]):
            return ast.unparse(left), repr(value)
    return None


def _is_filled(test: ast.expr) -> bool:
    match test:
        case ast.Tuple(elts=elements):
            return any(not isinstance(one, ast.Starred) for one in elements)
        case ast.Constant(value=str() | bytes() as value):
            return bool(value)
        case ast.JoinedStr(values=values):
            return any(isinstance(one, ast.Constant) and one.value for one in values)
    return False


def _is_number(value: ast.expr) -> bool:
    number = value.operand if isinstance(value, ast.UnaryOp) else value
    return isinstance(number, ast.Constant) and type(number.value) in (int, float)
