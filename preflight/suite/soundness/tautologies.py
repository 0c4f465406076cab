"""Which assertions of a file hold whatever is found: ``assert (x, "no x")``, ``assert x == 1 or 2``?

And which compare nothing: ``assert status, 200``?
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import inspect
import os
import re
import subprocess
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, NamedTuple

_VALUE = rb"[(\[{]|lambda\b|[rbuf]{0,2}['\"]"
_NAME = rb"([a-z_][\w.]*)(?=\s*(?:[,;#)\\\r\n]|$|(?:and|or|if)\b))"
_ASSERTION = re.compile(rb"^([ \t]*)assert\b([^\n]*(?:\n\1[ \t)\]}][^\n]*)*)|[:;][ \t]*assert\b([^\n]*)", re.MULTILINE)
"""An assertion, and the lines on which it goes on: these are further to the right, or begin with its last bracket."""
_SUSPECT = re.compile(rb"(?:^|\bor\b)[\s\\]*(?:%b|%b|[1-9])" % (_VALUE, _NAME), re.IGNORECASE)
"""How what always holds begins: to read the tree of each file would take longer than all else that is compared."""
_OF_TEXTS = frozenset({"startswith", "endswith"})
_OF_PATHS = frozenset({"exists", "is_file", "is_dir", "is_symlink"})
"""Methods of paths; other objects may have a value under these names."""
_METHOD = re.compile(rb"\.(?:%b)\b(?!\s*\()" % "|".join(sorted(_OF_TEXTS | _OF_PATHS)).encode())
_CALLED = re.compile(rb"(?:^|\bor\b)[\s\\]*([a-z_][\w.]*)\(", re.IGNORECASE)
_GIVEN = re.compile(rb"^[ \t]*([A-Za-z_]\w*)[ \t]*(?::[^=\n]*)?=[ \t]*(?:([A-Za-z_][\w.]*)\(|[^\n]*/)", re.MULTILINE)
"""A name, and what is called for its value; that is empty for a value with a slash in it."""
_JOINED = re.compile(rb"/[\s\\]*[rf]{0,2}['\"]", re.IGNORECASE)
"""A path and a name below it: ``folder / "file"``."""
_MESSAGE = re.compile(rb",[\s\\(]*(?:-?[\d.][\w.]*|True|False|None)[\s)]*(?:[;#][^\n]*)?$")
_INSTALLED = ("site-packages", f"{os.path.dirname(os.__file__)}{os.sep}")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_BINDS = (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
"""What gives a name to something besides assignments, arguments and imports."""
_VERDICTS = frozenset({"check_returncode", "raise_for_status"})
"""Methods of what tells how something ended, whether or not anybody asks: a program, a request."""
_UNCALLED = "asserts a function, which always holds: call it"
_TEXT = "asserts a string that is not empty, which always holds: compare it with something"
_OBJECT = "asserts an object that is always true: ask it for something (exists(), returncode), or compare it"
_NUMBER = "has a value for its message, and compares nothing with it: write == in place of the comma"
_FILLED = "asserts something that is never empty, which always holds: wrap it in all() or any()"


def always_hold(text: bytes, module: ModuleType) -> list[tuple[int, str]]:
    """The lines of a module's file with an assertion that holds whatever it says, and why."""

    def is_suspect(condition: bytes) -> bool:
        if _METHOD.search(condition) or _JOINED.search(condition):
            return True
        if any(_makes_what_is_true(module, found[1].decode()) for found in _CALLED.finditer(condition)):
            return True
        names = (found[1] for found in _SUSPECT.finditer(condition))
        return any(not one or may_hold(one) for one in names)

    def may_hold(name: bytes) -> bool:
        if b"def %b(" % name in text or _is_function(module, name.decode()):
            return True
        return any(not maker or _makes_what_is_true(module, maker.decode()) for maker in makers().get(name, ()))

    @functools.cache
    def makers() -> dict[bytes, set[bytes]]:
        found: dict[bytes, set[bytes]] = {}
        for name, maker in _GIVEN.findall(text):
            found.setdefault(name, set()).add(maker)
        return found

    suspect = [one for found in _ASSERTION.finditer(text) if is_suspect(one := found[2] or found[3] or b"")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asserted = (found[2] or found[3] or b"" for found in _ASSERTION.finditer(text))
        compares = not any(_MESSAGE.search(one) and _has_value_for_message(one) for one in asserted)
        if compares and not any(is_suspect(_condition(one)) for one in suspect):
            return []
        nodes = list(ast.walk(ast.parse(text)))
    known = _Names.of(nodes, module)
    asserts = [node for node in nodes if isinstance(node, ast.Assert)]
    found = [(node.lineno, _why(node.test, known) or _why_of_message(node.msg)) for node in asserts]
    return sorted((line, why) for line, why in found if why)


def _statement(asserted: bytes) -> ast.Assert | None:
    """The assertion with this behind ``assert``; None if that cannot be told, in a text say."""
    with contextlib.suppress(SyntaxError, ValueError):
        node = ast.parse(b"assert" + asserted).body[0]
        return node if isinstance(node, ast.Assert) else None
    return None


def _condition(asserted: bytes) -> bytes:
    """What is behind ``assert`` without its message; all of it if that cannot be told."""
    node = _statement(asserted)
    try:
        return ast.unparse(node.test).encode() if node is not None else asserted
    except ValueError:  # a formatted text that Python 3.11 cannot write again
        return asserted


def _has_value_for_message(asserted: bytes) -> bool:
    node = _statement(asserted)
    return node is None or bool(_why_of_message(node.msg))


class _Names(NamedTuple):
    """What the names in a file stand for."""

    module: ModuleType
    functions: Collection[str]
    """Names that are given to a function of the file, and to nothing else."""
    variables: Collection[str]
    """Names that are given to anything but a function, a class or an import."""
    local: Collection[str]
    """Names that mean something else inside of a function, such as those of its arguments."""
    imported: Mapping[str, str]
    """The module that a name is imported from, for names that are imported once and at the top of the file."""
    paths: Collection[str]
    """Names of what is visibly a path, where it is given or declared."""
    filled: Collection[str]
    """Names of a list or the like that is written in the file, not empty, and only read."""
    made: Collection[str]
    """Names that are given once, to a new object that is always true."""

    @classmethod
    def of(cls, nodes: list[ast.AST], module: ModuleType) -> _Names:
        variables = _given(nodes)
        imports = _imported(nodes)
        methods = {id(one) for node in nodes if isinstance(node, ast.ClassDef) for one in node.body}
        defined = [node for node in nodes if isinstance(node, _FUNCTIONS)]
        plain = {node.name for node in defined if not node.decorator_list and id(node) not in methods}
        inside = [node for function in defined for node in ast.walk(function)]
        local = {*_given(inside), *(name for name, _ in _imported(inside))}
        filled = [node for node in nodes if isinstance(node, ast.Assign) and _is_filled(node.value)]
        lists = {target.id for node in filled for target in node.targets if isinstance(target, ast.Name)}
        return cls(
            module,
            plain.difference(variables, (name for name, _ in imports)),
            set(variables),
            local,
            {name: home for name, home in imports if name not in local and dict(imports)[name] == home},
            set(_paths(nodes)),
            {name for name in lists.difference(_touched(nodes)) if variables.count(name) == 1},
            {name for name in _made(nodes, module, local) if variables.count(name) == 1},
        )

    def know(self, node: ast.expr) -> bool:
        """Whether it is something of the module's, which shows what it has."""
        name = ast.unparse(node).partition(".")[0]
        return name not in self.local and name in vars(self.module)

    def has_method(self, node: ast.expr, name: str) -> bool:
        """Whether a name of what only exists when the requirement runs is certainly that of a method."""
        is_path = _is_path(node) or (isinstance(node, ast.Name) and node.id in self.paths)
        return not self.know(node) and (name in _OF_TEXTS or (name in _OF_PATHS and is_path))

    def make_what_is_true(self, call: ast.Call) -> bool:
        """Whether a call makes an object that is always true."""
        name = ast.unparse(call.func)
        first = name.partition(".")[0]
        return first not in self.local and not _checks(call) and _makes_what_is_true(self.module, name)

    def mean_a_function(self, node: ast.expr) -> bool:
        name = ast.unparse(node)
        if isinstance(node, ast.Name):
            home = self.imported.get(name) if name not in self.variables else None
            return name in self.functions or (home is not None and _is_function(self.module, name, home))
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


def _is_path(node: ast.expr | None) -> bool:
    match node:
        case ast.BinOp(op=ast.Div()):
            return True
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name == "Path"
    return False


def _paths(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.NamedExpr(target=ast.Name(id=name), value=value)
            ) if _is_path(value):
                yield name
            case ast.arg(arg=name, annotation=ast.Name(id="Path") | ast.Attribute(attr="Path")):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Name(id="Path") | ast.Attribute(attr="Path")):
                yield name


def _is_joined(node: ast.expr) -> bool:
    """Whether it is a path and a name below it: ``folder / "file"``."""
    match node:
        case ast.BinOp(op=ast.Div(), left=left, right=right):
            return any(isinstance(one, ast.JoinedStr) or _is_text(one) for one in (left, right))
    return False


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _made(nodes: Iterable[ast.AST], module: ModuleType, local: Collection[str]) -> Iterator[str]:
    """Names that are given to an object that is new there, and always true."""
    for node in nodes:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                called = ast.unparse(value.func) if isinstance(value, ast.Call) and not _checks(value) else ""
                makes = called.partition(".")[0] not in local and _makes_what_is_true(module, called)
                if makes or _is_joined(value):
                    yield name


def _checks(call: ast.Call) -> bool:
    """Whether it raises if what it does fails: ``subprocess.run([...], check=True)``; unless told, it may."""
    given = [keyword.value for keyword in call.keywords if keyword.arg in ("check", None)]
    return any(not isinstance(value, ast.Constant) or bool(value.value) for value in given)


def _imported(nodes: Iterable[ast.AST]) -> list[tuple[str, str]]:
    """The names that imports give, each with the module that it comes from; that is empty for a module itself."""
    return [
        (alias.asname or alias.name.partition(".")[0], node.module or "" if isinstance(node, ast.ImportFrom) else "")
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]


def _touched(nodes: Iterable[ast.AST]) -> set[str]:
    """The names of what something may be taken out of: by a method, by ``del``, or by a function that is given it."""
    named: list[ast.expr] = []
    for node in nodes:
        if isinstance(node, ast.Attribute | ast.Subscript):
            named.append(node.value)
        elif isinstance(node, ast.Call):
            named += [*node.args, *(keyword.value for keyword in node.keywords)]
    return {node.id for node in named if isinstance(node, ast.Name)}


def _is_function(module: ModuleType, name: str, home: str = "") -> bool:
    """Whether a name, or one with dots in it, is a function in a module, and always one; nothing of theirs is run.

    A method counts if its class defines it, and a function of a module if that module, or one below it, does: what
    somebody has put there may be None elsewhere. ``home`` is the module that a name is imported from; empty: any.
    """
    first, *others = name.split(".")
    holder: Any = None
    member = vars(module).get(first)
    for other in others:
        holder, member = member, _defined(member, other)
    if not issubclass(type(member), FunctionType | BuiltinFunctionType | classmethod | staticmethod):
        return False
    if issubclass(type(holder), ModuleType):
        home = holder.__name__
    elif holder is not None:
        return "." in getattr(member, "__qualname__", "")
    if home in ("os.path", os.path.__name__):
        return True  # exists and others are defined in another module, and there everywhere
    return not home or f"{getattr(member, '__module__', None)}.".startswith(f"{home}.")


def _makes_what_is_true(module: ModuleType, name: str) -> bool:
    """Whether a call of a name, or of one with dots in it, makes an object that is always true; it is not called."""
    first, *others = name.split(".")
    member = vars(module).get(first, getattr(builtins, first, None))
    for other in others:
        member = _defined(member, other)
    if member is subprocess.run:
        member = subprocess.CompletedProcess
    elif issubclass(type(member), FunctionType):
        member = _returned(member)
    return issubclass(type(member), type) and _is_always_true(member)


def _is_always_true(kind: Any) -> bool:
    """Whether a class makes objects that are never false, and that say nothing unless they are asked.

    To make one of another class may be the whole question: ``assert Settings()`` and ``assert connect(url)`` raise.
    """
    has_verdict = any(not _VERDICTS.isdisjoint(vars(one)) for one in kind.__mro__)
    if not (has_verdict or kind.__module__ == "builtins" or issubclass(kind, PurePath | BaseException)):
        return False
    if type(kind).__call__ is not type.__call__ or any(
        {"__bool__", "__len__"} & vars(one).keys() for one in kind.__mro__
    ):
        return False
    return not isinstance(kind.__new__, FunctionType) or issubclass(kind, PurePath)  # else it may make anything


def _returned(function: Any) -> object:
    """The class that an installed function says it returns; a project's own may say it too lightly."""
    if not any(one in function.__code__.co_filename for one in _INSTALLED):
        return None
    with contextlib.suppress(Exception):  # whatever an annotation raises when it is evaluated
        said = function.__annotations__.get("return")
        return function.__globals__.get(said) if isinstance(said, str) else said
    return None


def _defined(holder: object, name: str) -> object:
    """What a module or a class has under a name, or the class of an object that has nothing of its own there."""
    if issubclass(type(holder), ModuleType | type):
        return inspect.getattr_static(holder, name, None)
    own = inspect.getattr_static(holder, name, None)
    kind = inspect.getattr_static(type(holder), name, None)
    return kind if own is kind else None


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
            return "asserts a tuple, which always holds: remove the parentheses"
        case ast.List() | ast.Set() | ast.Dict() if _is_filled(asserted):
            return _FILLED
        case ast.ListComp(generators=parts) | ast.SetComp(generators=parts) | ast.DictComp(generators=parts):
            if all(not part.ifs and _is_filled(part.iter, names.filled) for part in parts):
                return _FILLED
        case ast.GeneratorExp():
            return "asserts a generator, which always holds: wrap it in all() or any()"
        case ast.Lambda():
            return _UNCALLED
        case ast.Name() | ast.Attribute() if names.mean_a_function(asserted):
            return _UNCALLED
        case ast.Attribute(value=holder, attr=attribute) if names.has_method(holder, attribute):
            return _UNCALLED
        case ast.Call(func=ast.Name() | ast.Attribute()) as call if names.make_what_is_true(call):
            return _OBJECT
        case ast.Name(id=name) if name in names.made:
            return _OBJECT
        case ast.BinOp() if _is_joined(asserted):
            return _OBJECT
        case ast.Constant(value=str() | bytes() as text) if text:
            return _TEXT
        case ast.JoinedStr(values=values) if any(isinstance(one, ast.Constant) and one.value for one in values):
            return _TEXT
    return ""


def _why_of_message(message: ast.expr | None) -> str:
    """What is wrong with a message; empty if it may be one."""
    value = message.operand if isinstance(message, ast.UnaryOp) else message
    is_value = isinstance(value, ast.Constant) and isinstance(value.value, int | float | None)  # True is a number, too
    return _NUMBER if is_value else ""


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
