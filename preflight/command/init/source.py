"""A Python file as its syntax tree: its statements, and what its names mean. Nothing of it is imported or run."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator

DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


class Unparsable(ValueError):
    """This interpreter cannot parse the file; ``line`` is None if even the line is unknown."""

    def __init__(self, line: int | None) -> None:
        super().__init__(line)
        self.line = line


class Source:
    """One file, as it is imported under the name ``module``. Making one raises Unparsable."""

    def __init__(self, data: bytes, module: str, *, is_package: bool) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they show lines of the file
                self.tree = ast.parse(data)
        except SyntaxError as error:
            raise Unparsable(error.lineno) from None
        except (ValueError, RecursionError, MemoryError):  # a null byte, or thousands of brackets
            raise Unparsable(None) from None
        self.module = module
        self.package = module if is_package else module.rpartition(".")[0]
        self.parents: dict[ast.AST, ast.AST] = {}
        self.nodes: list[ast.AST] = []
        """All that runs when the file is imported or used, in the order of the file."""
        self.scripts: list[ast.stmt] = []
        """The statements below ``if __name__ == "__main__"``."""
        self._walk()
        self.statements = list(_statements(self.tree.body))
        """What runs when the file is imported, below ``if``, ``try`` and ``with`` as well."""
        self.names: dict[str, str] = {}
        """The dotted names elsewhere that the names in this file stand for."""
        self.imports: list[str] = []
        """Dotted names of modules, or of something in them."""
        self._imports()
        self.bound: dict[str, str] = {}
        """The dotted name of what was called to make the value of a name."""
        self.defines = {*self.names}
        """Names that a module has when it is imported."""
        self._definitions()

    @property
    def mentions(self) -> list[str]:
        """Texts that could be the name of a module, as Django's settings have them."""
        return [text for _, text in self.texts() if DOTTED.fullmatch(text)]

    def texts(self) -> Iterator[tuple[ast.Constant, str]]:
        """Every text of the file that is no part of a larger one."""
        for node in self.nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node, node.value

    def calls(self) -> Iterator[tuple[ast.Call, str]]:
        """Every call, and the dotted name of what is called."""
        for node in self.nodes:
            if isinstance(node, ast.Call):
                yield node, self.dotted(node.func)

    def dotted(self, node: ast.AST | None) -> str:
        """What a name or ``a.b.c`` is, by its dotted name; empty for anything else."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        return ".".join([self.names.get(node.id, node.id), *reversed(parts)])

    def above(self, node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
        """Each node that this one is in, from the nearest on, with the part of it that leads here."""
        below, parent = node, self.parents.get(node)
        while parent is not None:
            yield parent, below
            below, parent = parent, self.parents.get(parent)

    def in_function(self, node: ast.AST) -> bool:
        """Whether this runs when something is called, and not when the file is imported."""
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        return any(isinstance(parent, kinds) for parent, _ in self.above(node))

    def _walk(self) -> None:
        waiting: list[ast.AST] = [self.tree]
        while waiting:
            node = waiting.pop()
            self.nodes.append(node)
            # Left out: what only a script runs, or only a type checker reads.
            left_out = node.body if isinstance(node, ast.If) and _is_apart(node) else []
            self.scripts += left_out
            children = list(ast.iter_child_nodes(node))
            self.parents.update(dict.fromkeys(children, node))
            waiting += [child for child in reversed(children) if child not in left_out]

    def _imports(self) -> None:
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    self.names[alias.asname or top] = alias.name if alias.asname else top
                    self.imports.append(alias.name)
            elif isinstance(node, ast.ImportFrom):
                source = self._source(node)
                for alias in node.names:
                    self.names[alias.asname or alias.name] = f"{source}.{alias.name}"
                    self.imports.append(source if alias.name == "*" else f"{source}.{alias.name}")

    def _source(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.package.split(".") if self.package else []
        kept = parts[: max(0, len(parts) - node.level + 1)]
        return ".".join([*kept, *([node.module] if node.module else [])])

    def _definitions(self) -> None:
        for node in self.statements:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.defines.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for name in targets(node):
                    self.defines.add(name)
                    if isinstance(node.value, ast.Call):
                        self.bound[name] = self.dotted(node.value.func)
                    elif self.dotted(node.value) == "os.environ":
                        self.names[name] = "os.environ"


def texts_in(node: ast.AST) -> set[str]:
    """The texts that stand somewhere in an expression."""
    return {one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)}


def names_in(node: ast.AST) -> set[str]:
    """The names that stand somewhere in an expression."""
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def text_of(node: ast.AST | None) -> str | None:
    """The text that an expression is, if it is nothing else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    """The names that get a value."""
    given = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [one.id for one in given if isinstance(one, ast.Name)]


def argument(node: ast.Call, position: int, *names: str) -> ast.expr | None:
    """An argument by its place or one of its names."""
    if len(node.args) > position:
        return node.args[position]
    return next((one.value for one in node.keywords if one.arg in names), None)


def bodies(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The blocks of a statement."""
    for name in ("body", "orelse", "finalbody"):
        body = getattr(node, name, None)
        if isinstance(body, list):
            yield body


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With) and not (isinstance(node, ast.If) and _is_apart(node)):
            for inner in bodies(node):
                yield from _statements(inner)


def _is_apart(node: ast.If) -> bool:
    names = names_in(node.test)
    return ("__name__" in names and "__main__" in texts_in(node.test)) or "TYPE_CHECKING" in names
