"""The ASGI applications that a Python file makes, or hands to a server."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from preflight.command.init.source import Source, argument, targets, text_of

MADE_BY = {
    "fastapi": {"FastAPI"},
    "starlette": {"Starlette"},
    "litestar": {"Litestar"},
    "quart": {"Quart"},
    "sanic": {"Sanic"},
    "blacksheep": {"Application"},
    "django": {"get_asgi_application"},
    "channels": {"ProtocolTypeRouter"},
    "falcon.asgi": {"App"},
    "socketio": {"ASGIApp"},
    "connexion": {"AsyncApp"},
    "esmerald": {"Esmerald"},
    "ravyn": {"Ravyn"},
    "lilya": {"Lilya"},
    "strawberry.asgi": {"GraphQL"},
    "ariadne.asgi": {"GraphQL"},
    "asgiref.wsgi": {"WsgiToAsgi"},
    "a2wsgi": {"WSGIMiddleware"},
}
"""Packages, and what in them makes an ASGI application."""
RETURNED_BY: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "datasette": {"Datasette": ("app",)},
    "fastmcp": {"FastMCP": ("http_app", "streamable_http_app", "sse_app")},
    "mcp": {"FastMCP": ("streamable_http_app", "sse_app"), "MCPServer": ("streamable_http_app", "sse_app")},
}
"""Packages, the classes in them that are no application and have one, and their methods that return it."""
VAGUE = {"App", "Application", "GraphQL"}
"""Names that say little where their package is not named as well."""
_WORDS = {name for names in (*MADE_BY.values(), *RETURNED_BY.values()) for name in names} - VAGUE
_WORDS |= {"ariadne", "blacksheep", "falcon", "granian", "strawberry", "uvicorn"}
HINT = re.compile(
    rb"\b(?:%s)\b|\bscope\s{0,8}(?::[^,)]{0,200})?,\s{0,8}receive\b|^(?:app|application|asgi)\b[^=\n]{0,200}="
    % "|".join(_WORDS).encode(),
    re.MULTILINE,
)
"""Words that a file contains if it makes an application, or names one."""
SERVERS = {"uvicorn.run", "uvicorn.Config", "granian.Granian", "granian.server.Granian"}
TARGET = re.compile(r"(?<![\w.])[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""``MODULE:ATTRIBUTE``, as servers take it."""
CALLABLE = "an ASGI callable"


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that can be served, or a function that makes it."""

    attribute: str
    line: int
    what: str
    """What kind of application it is, in a few words."""
    factory: bool = False
    made_by: str = ""
    """The dotted name of the function that it comes from, where only another file can tell what that returns."""


def served(source: Source) -> tuple[list[tuple[str, int]], set[str]]:
    """What the file itself hands to a server: ``MODULE:ATTRIBUTE`` with the line, and names of its own."""
    named, own = [], set()
    for statement in (source.tree, *source.scripts):
        for node in ast.walk(statement):
            if not isinstance(node, ast.Call) or source.dotted(node.func) not in SERVERS:
                continue
            given = argument(node, 0, "app", "target")
            if (text := text_of(given)) and TARGET.fullmatch(text):
                named.append((text, node.lineno))
            elif isinstance(given, ast.Name):
                own.add(given.id)
    return named, own


def applications(source: Source) -> list[Candidate]:
    """What the file defines at its top level that can be served, each name once."""
    return _Applications(source).all()


class _Applications:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.classes: dict[str, str] = {}
        """Classes of this file that make applications, and what they are."""
        self.known: dict[str, Candidate] = {}

    def all(self) -> list[Candidate]:
        for node in self.source.statements:
            if isinstance(node, ast.ClassDef):
                self._class(node)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self._function(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                for name in targets(node):
                    self._assigned(name, node.value, node.lineno)
        return list(self.known.values())

    def _class(self, node: ast.ClassDef) -> None:
        made = [self._constructed(self.source.dotted(base)) for base in node.bases]
        if any(_is_asgi(one, method=True) for one in node.body):
            made.append(CALLABLE)
        if what := next(filter(None, made), ""):
            self.classes[node.name] = what

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if _is_asgi(node, method=False):
            self.known[node.name] = Candidate(node.name, node.lineno, CALLABLE)
        elif _takes_nothing(node) and (made := self._returned(node)):
            self.known[node.name] = Candidate(node.name, node.lineno, f"makes {made}", factory=True)

    def _assigned(self, name: str, value: ast.expr, line: int) -> None:
        what = self._made(value)
        if not what and isinstance(value, ast.Name) and value.id in self.known and not self.known[value.id].factory:
            what = self.known[value.id].what
        if what:
            self.known[name] = Candidate(name, line, what)
        elif isinstance(value, ast.Call):
            self._called(name, value, line)

    def _called(self, name: str, value: ast.Call, line: int) -> None:
        called = self.source.dotted(value.func)
        named = [self.known[one.id] for one in value.args if isinstance(one, ast.Name) and one.id in self.known]
        if called in SERVERS or called.endswith((".Server", ".Thread", ".TestClient")):
            return
        if named:  # app = Middleware(app)
            self.known[name] = replace(named[0], attribute=name, line=line)
        elif methods := _methods(called):
            what = f"{called.rpartition('.')[2]}.{methods[0]}()"
            self.known[f"{name}.{methods[0]}"] = Candidate(f"{name}.{methods[0]}", line, what, factory=True)
        elif called in self.known and self.known[called].factory:
            self.known[name] = Candidate(name, line, self.known[called].what.removeprefix("makes "))
        elif "." in called:
            self.known[name] = Candidate(name, line, f"{called.rpartition('.')[2]}()", made_by=called)

    def _constructed(self, dotted: str) -> str:
        """What a call of this name makes, if that is an application; else empty."""
        if dotted in self.classes:
            return self.classes[dotted]
        last = dotted.rpartition(".")[2]
        made = any(last in names and dotted.startswith(f"{package}.") for package, names in MADE_BY.items())
        return f"{last}()" if made else ""

    def _made(self, value: ast.AST | None) -> str:
        """What an expression makes, if that is an application; else empty."""
        if isinstance(value, ast.Await):
            value = value.value
        if not isinstance(value, ast.Call):
            return ""
        if made := self._constructed(self.source.dotted(value.func)):
            return made
        if isinstance(value.func, ast.Attribute):
            inner = value.func.value
            of = self.source.bound.get(self.source.dotted(inner), "")
            if isinstance(inner, ast.Call):
                of = self.source.dotted(inner.func)
            if value.func.attr in _methods(of):
                return f"{of.rpartition('.')[2]}.{value.func.attr}()"
        return ""

    def _returned(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
        """What a function returns, if that is an application; else empty."""
        made: dict[str, str] = {}
        returned = []
        for node in ast.walk(function):
            if isinstance(node, ast.Assign | ast.AnnAssign) and (what := self._made(node.value)):
                made |= dict.fromkeys(targets(node), what)
            elif isinstance(node, ast.Return):
                returned.append(node.value)
        whats = [
            self._made(value) or (made.get(value.id, "") if isinstance(value, ast.Name) else "") for value in returned
        ]
        return next(filter(None, whats), "") or self._constructed(self.source.dotted(function.returns))


def _methods(dotted: str) -> tuple[str, ...]:
    """The methods of a class that return an application, if it has some."""
    return RETURNED_BY.get(dotted.partition(".")[0], {}).get(dotted.rpartition(".")[2], ())


def _is_asgi(node: ast.AST, *, method: bool) -> bool:
    if not isinstance(node, ast.AsyncFunctionDef) or (method and node.name != "__call__"):
        return False
    names = [one.arg.strip("_") for one in [*node.args.posonlyargs, *node.args.args]]
    return names[1 if method else 0 :] == ["scope", "receive", "send"]


def _takes_nothing(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    needed = len(node.args.posonlyargs) + len(node.args.args) - len(node.args.defaults)
    return needed == 0 and None not in node.args.kw_defaults and not node.decorator_list
