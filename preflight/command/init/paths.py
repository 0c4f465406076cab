"""The files that a Python file names by a relative path: trained models, and databases of SQLite."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeGuard

from preflight.command.init.folder import PLAIN
from preflight.command.init.source import Source, text_of

MODEL = re.compile(
    r"\.(?:bin|ckpt|gguf|h5|joblib|keras|mlmodel|npz|onnx|pb|pickle|pkl|pt|pth|safetensors|tflite)$", re.IGNORECASE
)
"""Endings of files with a trained model."""
WRITES = re.compile(r"dump|save|write|export|upload|download", re.IGNORECASE)
SQLITE = re.compile(r"sqlite(?:\+\w{1,40})?:///(?:\./)?([^/:?#\n][^?\n]*)(?:\?.*)?")
"""The URL of a database in a file whose path is relative."""
LONGEST = 300  # characters


@dataclass(frozen=True, slots=True)
class File:
    """A file that the code names by a relative path."""

    path: str
    line: int


def models(source: Source) -> list[File]:
    """Files that the code hands to a function which does not write, as a text or as ``BASE / "model.onnx"``."""
    found = []
    for node, dotted in source.calls():
        function = dotted or getattr(node.func, "attr", "")
        if not WRITES.search(function):
            path = _joined(node) if function.endswith(("join", "joinpath")) else _argument(node)
            found.append(File(path, node.lineno))
    found += [File(path, node.lineno) for node, path in _divisions(source)]
    return _plain(one for one in found if MODEL.search(one.path))


def databases(source: Source) -> list[File]:
    """``sqlite:///./app.db``, and Django's ``"NAME": BASE_DIR / "db.sqlite3"``."""
    found = []
    for node, text in source.texts():
        if len(text) < LONGEST and (url := SQLITE.fullmatch(text)):
            found.append(File(url[1], node.lineno))
    for division, path in _divisions(source):
        parent = source.parents.get(division)
        if isinstance(parent, ast.Dict):
            keys = dict(zip(parent.values, parent.keys, strict=True))
            if text_of(keys.get(division)) == "NAME":
                found.append(File(path, division.lineno))
    return _plain(found)


def _plain(files: Iterable[File]) -> list[File]:
    """The files inside the project whose names need no quoting; in the order of the lines."""
    named = (File(one.path.removeprefix("./"), one.line) for one in files)
    return sorted((one for one in named if PLAIN.fullmatch(one.path)), key=lambda one: one.line)


def _argument(node: ast.Call) -> str:
    """The argument that is a model's path."""
    given = [*node.args, *(one.value for one in node.keywords)]
    return next((text for one in given if MODEL.search(text := text_of(one) or "")), "")


def _joined(node: ast.Call) -> str:
    """The end of a path that ``os.path.join`` or ``joinpath`` makes."""
    parts: list[str] = []
    for one in reversed(node.args):
        text = text_of(one)
        if text is None:
            break
        parts.insert(0, text)
    return "/".join(parts)


def _divisions(source: Source) -> Iterator[tuple[ast.BinOp, str]]:
    """``BASE / "models" / "model.onnx"``, and the end of the path that it makes."""
    for node in source.nodes:
        if not _divides(node) or _divides(source.parents.get(node)):
            continue
        parts: list[str] = []
        left: ast.expr = node
        while _divides(left) and (text := text_of(left.right)) is not None:
            parts.insert(0, text)
            left = left.left
        yield node, "/".join(parts)


def _divides(node: ast.AST | None) -> TypeGuard[ast.BinOp]:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
