"""Which assertions of a file hold whatever is found: ``assert (x, "no x")``, ``assert x == 1 or 2``?"""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Collection, Iterable
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import NamedTuple

_VALUE = rb"[(\[{]|lambda\b|[rbuf]{0,2}['\"]"
_NAME = rb"([a-z_][\w.]*)(?=\s*(?:[,;#)\\\r\n]|$|(?:and|or|if)\b))"
_ASSERTION = re.compile(rb"^([ \t]*)assert\b([^\n]*(?:\n\1[ \t)\]}][^\n]*)*)|[:;][ \t]*assert\b([^\n]*)", re.MULTILINE)
"""An assertion, and the lines on which it goes on: these are further to the right, or begin with its last bracket."""
_SUSPECT = re.compile(rb"(?:^|\bor\b)[\s\\]*(?:%b|%b|[1-9])" % (_VALUE, _NAME), re.IGNORECASE)
"""How what always holds begins: to read the tree of each file would take longer than all else that is compared."""
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_BINDS = (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
"""What gives a name to something besides assignments, arguments and imports."""
_UNCALLED = "asserts a function, which always holds: call it"
_TEXT = "asserts a text, which always holds: compare it with something"
_FILLED = "asserts something that is never empty, which always holds: put it into all() or any()"


def always_hold(text: bytes, module: ModuleType) -> list[tuple[int, str]]:
    """The lines of a module's file with an assertion that holds whatever it says, and why."""

    def is_suspect(condition: bytes) -> bool:
        names = (found[1] for found in _SUSPECT.finditer(condition))
        return any(not one or b"def %b(" % one in text or _is_function(module, one.decode()) for one in names)

    suspect = [one for found in _ASSERTION.finditer(text) if is_suspect(one := found[2] or found[3] or b"")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not any(is_suspect(_condition(one)) for one in suspect):
            return []
        nodes = list(ast.walk(ast.parse(text)))
    known = _Names.of(nodes, module)
    found = [(node.lineno, _why(node.test, known)) for node in nodes if isinstance(node, ast.Assert)]
    return sorted((line, why) for line, why in found if why)


def _condition(asserted: bytes) -> bytes:
    """What is behind ``assert`` without its message; all of it if that cannot be told, in a text say."""
    try:
        (node,) = ast.parse(b"assert" + asserted).body
    except (SyntaxError, ValueError):
        return asserted
    return ast.unparse(node.test).encode() if isinstance(node, ast.Assert) else asserted


class _Names(NamedTuple):
    """What the names in a file stand for."""

    module: ModuleType
    functions: Collection[str]
    """Names that are given to a function of the file, and to nothing else."""
    variables: Collection[str]
    """Names that are given to anything but a function, a class or an import."""
    local: Collection[str]
    """Names that mean something else inside of a function, such as those of its arguments."""
    filled: Collection[str]
    """Names of a list or the like that is written in the file, and not empty."""

    @classmethod
    def of(cls, nodes: list[ast.AST], module: ModuleType) -> _Names:
        variables = _given(nodes)
        imports = [node.asname or node.name for node in nodes if isinstance(node, ast.alias)]
        methods = {id(one) for node in nodes if isinstance(node, ast.ClassDef) for one in node.body}
        defined = [node for node in nodes if isinstance(node, _FUNCTIONS)]
        plain = {node.name for node in defined if not node.decorator_list and id(node) not in methods}
        filled = [node for node in nodes if isinstance(node, ast.Assign) and _is_filled(node.value)]
        lists = {one.id for node in filled for one in node.targets if isinstance(one, ast.Name)}
        return cls(
            module,
            plain.difference(variables, imports),
            set(variables),
            {name for node in defined for name in _given(ast.walk(node))},
            {name for name in lists if variables.count(name) == 1},
        )

    def mean_a_function(self, node: ast.expr) -> bool:
        name = ast.unparse(node)
        if isinstance(node, ast.Name):
            return name in self.functions or (name not in self.variables and _is_function(self.module, name))
        return name.partition(".")[0] not in self.local and _is_function(self.module, name)


def _given(nodes: Iterable[ast.AST]) -> list[str]:
    found = []
    for node in nodes:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.append(node.id)
        elif isinstance(node, ast.arg):
            found.append(node.arg)
        elif isinstance(node, _BINDS):
            found.append(node.name or "")
    return found


def _is_function(module: ModuleType, name: str) -> bool:
    """Whether a name, or one with dots in it, is a function or a method in a module; nothing of the module's is run."""
    first, *others = name.split(".")
    one = vars(module).get(first)
    for other in others:
        one = inspect.getattr_static(one, other, None)
    return isinstance(one, FunctionType | BuiltinFunctionType | MethodType | classmethod | staticmethod)


def _why(asserted: ast.expr, names: _Names) -> str:
    """Why an expression always holds; empty if it may not."""
    match asserted:
        case ast.BoolOp(op=ast.Or(), values=values):
            return next(filter(None, (_why(one, names) or _of_number(one) for one in values)), "")
        case ast.BoolOp(values=values):
            return _of_all(values, names)
        case ast.IfExp(body=body, orelse=other):
            return _of_all([body, other], names)
        case ast.NamedExpr(value=value):
            return _why(value, names)
        case ast.Tuple() if _is_filled(asserted):
            return "asserts a tuple, which always holds: take its parentheses away"
        case ast.List() | ast.Set() | ast.Dict() if _is_filled(asserted):
            return _FILLED
        case ast.ListComp(generators=parts) | ast.SetComp(generators=parts) | ast.DictComp(generators=parts):
            if all(not part.ifs and _is_filled(part.iter, names.filled) for part in parts):
                return _FILLED
        case ast.GeneratorExp():
            return "asserts a generator, which always holds: put it into all() or any()"
        case ast.Lambda():
            return _UNCALLED
        case ast.Name() | ast.Attribute() if names.mean_a_function(asserted):
            return _UNCALLED
        case ast.Constant(value=str() | bytes() as text) if text:
            return _TEXT
        case ast.JoinedStr(values=values) if any(isinstance(one, ast.Constant) and one.value for one in values):
            return _TEXT
    return ""


def _of_all(values: Iterable[ast.expr], names: _Names) -> str:
    whys = [_why(one, names) for one in values]
    return whys[0] if all(whys) else ""


def _of_number(operand: ast.expr) -> str:
    """Why ``or 204`` always holds; a number or True alone is what stands there until something is asked."""
    is_number = isinstance(operand, ast.Constant) and type(operand.value) in (int, float) and operand.value
    return "asserts a number, which always holds: compare it with something" if is_number else ""


def _is_filled(written: ast.expr, names: Collection[str] = ()) -> bool:
    """Whether there is certainly something in a tuple, a list or the like; ``names`` are those of such."""
    match written:
        case ast.Tuple(elts=elements) | ast.List(elts=elements) | ast.Set(elts=elements):
            return any(not isinstance(one, ast.Starred) for one in elements)
        case ast.Dict(keys=keys):
            return any(key is not None for key in keys)
        case ast.Name(id=name):
            return name in names
    return False
