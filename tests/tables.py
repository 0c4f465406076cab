"""Tables of the documentation, as they are made from the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(*rows: tuple[str, ...]) -> str:
    head, *rest = rows
    return "\n".join([row(*head), row(*["---"] * len(head)), *(row(*cells) for cells in rest)])


def requirement_rows() -> Iterator[tuple[str, ...]]:
    for file in sorted((ROOT / "preflight" / "requirements").glob("test_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            mark = node.decorator_list[0]
            assert isinstance(mark, ast.Call)
            assert isinstance(mark.func, ast.Attribute)
            title = ast.literal_eval(mark.args[0])
            holds = (ast.get_docstring(node) or "").splitlines()[0]
            yield title, mark.func.attr, holds
