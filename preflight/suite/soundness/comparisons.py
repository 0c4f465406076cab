"""Which comparisons of a file decide nothing: ``status == 200`` without assert, ``assert x != 1 or x != 2``?"""

from __future__ import annotations

import ast
import contextlib
import dis
import re
import warnings
from collections.abc import Iterable, Iterator
from types import CodeType

_RESULTS = ("COMPARE_OP", "IS_OP", "CONTAINS_OP", "UNARY_NOT")
_CALLS = ("PRECALL", "CALL")


def _one_of(*names: str) -> bytes:
    known = bytes(dis.opmap[name] for name in names if name in dis.opmap)  # PRECALL is Python 3.11's alone
    return b"[%b][\\s\\S](?:\0[\\s\\S])*" % re.escape(known)  # with its argument, and the caches behind it


_DROPPED = re.compile(_one_of(*_RESULTS, "BUILD_TUPLE") + re.escape(bytes([dis.opmap["POP_TOP"]])))
"""A result in compiled code that the next instruction drops."""
_MESSAGE = re.compile(
    _one_of(*_RESULTS) + b"(?:%b){1,2}" % _one_of(*_CALLS) + re.escape(bytes([dis.opmap["RAISE_VARARGS"]]))
)
"""A result with which an AssertionError is made and raised."""
_SUSPECT = re.compile(
    rb"!=[^=]{1,300}\bor\b[^=]{1,300}!="  # each differs from one of two
    rb"|\blen\([^=<>]{0,200}>=\s*0\b"
    rb"|\bor[\s\\(]+True\b"
    rb"|\.assertTrue\("
)
_ASSERTS = (ast.Assert, ast.Call)
_WHY_DROPPED = "is a comparison whose result is not used: write assert in front of it"
_WHY_DIFFERENT = "always holds: every value differs from one of the two; write `and` instead of `or`"
_WHY_LENGTH = "always holds: no length is below 0"
_WHY_TRUE = "asserts True, which always holds: remove it"
_WHY_MESSAGE = "has a comparison for its message, which decides nothing: write `and` instead of the comma"
_WHY_NUMBER = "has a value for its message, and compares nothing with it: write assertEqual"
_WHY_VALUE = "asserts a text or a tuple, which always holds: compare it with something"


def without_effect(text: bytes, module: CodeType) -> list[tuple[int, str]]:
    """The lines of a module's file with a comparison that decides nothing, and why; ``module`` is its compiled form."""
    if not _SUSPECT.search(text) and not any(map(_is_suspect, _all(module))):
        return []
    with warnings.catch_warnings(), contextlib.suppress(RecursionError):  # it compiles, but is too deep for a tree
        warnings.simplefilter("ignore")
        tree = ast.parse(text)
        found = [(node.lineno, why) for node in ast.walk(tree) if isinstance(node, _ASSERTS) for why in _whys(node)]
        found += [(one.lineno, _WHY_DROPPED) for one in _dropped(tree.body)]
        return sorted(set(found))
    return []


def _all(code: CodeType) -> Iterator[CodeType]:
    yield code
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _all(one)


def _is_suspect(code: CodeType) -> bool:
    # Each instruction has two bytes.
    text = code.co_code
    return any(found.start() % 2 == 0 for one in (_DROPPED, _MESSAGE) for found in one.finditer(text))


def _dropped(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The comparisons that stand alone; one that is expected to raise an exception does so without an assertion."""
    for node in body:
        if isinstance(node, ast.Expr) and any(map(_compares, _results(node.value))):
            yield node
        elif not isinstance(node, ast.Try | ast.TryStar) and not _expects(node):
            for field in ("body", "orelse"):
                yield from _dropped(getattr(node, field, ()))
            for case in getattr(node, "cases", ()):
                yield from _dropped(case.body)


def _results(value: ast.expr) -> list[ast.expr]:
    """What a statement computes, and drops: of ``x == 1 or pytest.fail()`` what stands last."""
    match value:
        case ast.BoolOp(values=values):
            return values[-1:]
        case ast.Tuple(elts=elements):
            return elements
    return [value]


def _compares(value: ast.expr) -> bool:
    compared = value.operand if isinstance(value, ast.UnaryOp) else value
    match compared:
        case ast.Compare(left=ast.Call(func=ast.Name(id="expect"))):  # of a library, whose results compare by raising
            return False
    return isinstance(compared, ast.Compare)


def _expects(node: ast.stmt) -> bool:
    items = node.items if isinstance(node, ast.With | ast.AsyncWith) else []
    contexts = [one.context_expr for one in items]
    named = [one.func if isinstance(one, ast.Call) else one for one in contexts]
    return any(re.search("raises|warns|suppress|expect", ast.unparse(one), re.IGNORECASE) for one in named)


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
        case ast.BoolOp(op=ast.And(), values=values):
            for one in values:
                yield from _always(one)
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
