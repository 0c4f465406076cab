"""Every regular expression of the project takes time in proportion to the text, whatever the text is.

``re`` holds the interpreter's lock and no deadline interrupts it: a pattern that backtracks stops a whole server.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from preflight.command import bundle
from preflight.notify import sender
from preflight.patterns import Lazy
from preflight.redaction import writings
from server.agent import embedded

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
METHODS = {
    "match": "match", "fullmatch": "fullmatch", "search": "search", "sub": "search", "subn": "search",
    "split": "search", "findall": "search", "finditer": "search",
}  # fmt: skip
SECRETS = (
    "sk-canary-3f9a1c77e2Zq",
    "\\" * 9 + "x",
    "&%&%",
    "\n" * 5 + "a" * 8,
    "a b'c\" <d>é\u2192\U0001f511",
)

EVERY = sorted(set(METHODS.values()))
Pattern = tuple[str, str, int, list[str]]  # where it stands, what it is, its flags, and how it is used
# Patterns that are put together while the program runs, by where; each with what the code there makes.
MADE = {
    "preflight/patterns.py:__getattr__": [],  # what `lazy` was given, which is seen where it was
    "preflight/redaction/writings.py:pattern": [writings.pattern(secret).pattern for secret in SECRETS],
    "preflight/redaction/redactor.py:_step": [stretch for secret in SECRETS for stretch in writings.stretches(secret)],
    "preflight/notify/sender.py:reason": [pattern for pattern, _ in sender.REASONS],
    "server/agent/embedded.py:intent": [pattern for _, pattern in embedded.INTENTS],
    "preflight/ready/variables.py:variable": [r"[a-z]{2}-[a-z]+-\\d"],  # the suite's own, and of its own variable
    "preflight/command/bundle.py:_path": [bundle._path(path).pattern for path in ("/home/dev", "/", "/a.b/c+d")],
    "preflight/command/bundle.py:_word": [bundle._word(name).pattern for name in ("dev", "a-b.c", "")],
}


def _modules() -> Iterator[tuple[str, ModuleType]]:
    for path in sorted([ROOT / "run.py", *(ROOT / "preflight").rglob("*.py"), *(ROOT / "server").rglob("*.py")]):
        relative = path.relative_to(ROOT)
        name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        # What runs when it is imported is read only.
        yield str(relative), ModuleType(name) if path.stem == "__main__" else importlib.import_module(name)


def _function(tree: ast.AST) -> dict[ast.AST, str]:
    """The name of the function that each node stands in."""
    names: dict[ast.AST, str] = {}

    def walk(node: ast.AST, name: str) -> None:
        names[node] = name
        inner = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else name
        for child in ast.iter_child_nodes(node):
            walk(child, inner)

    walk(tree, "")
    return names


def _constant(node: ast.expr, names: Mapping[str, object]) -> str | None:
    """The pattern that an expression of constants is; None where it is made while the program runs."""
    try:
        value = eval(compile(ast.Expression(node), "", "eval"), dict(names))  # of our own source
    except Exception:  # noqa: BLE001  # a name that only the function knows
        return None
    if isinstance(value, re.Pattern | Lazy):
        value = value.pattern
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return value if isinstance(value, str) else None


def _held(value: object, depth: int = 0) -> Iterator[re.Pattern[str]]:
    """The compiled patterns in a value; one of bytes as the same one of characters."""
    if isinstance(value, Lazy):
        yield re.compile(value.pattern, value.flags)
    elif isinstance(value, re.Pattern) and isinstance(value.pattern, bytes):
        yield re.compile(value.pattern.decode("latin-1"), value.flags | re.ASCII)
    elif isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple | list | set | frozenset) and depth < 3:
        for one in value:
            yield from _held(one, depth + 1)
    elif isinstance(value, dict) and depth < 3:
        for key, one in value.items():
            yield from _held(key, depth + 1)
            yield from _held(one, depth + 1)


def _origin(path: str, tree: ast.AST) -> dict[str, tuple[str, str]]:
    """Where names come from that a module imports: the file, and what they are called there."""
    origins = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for one in node.names:
                origins[one.asname or one.name] = (node.module.replace(".", "/") + ".py", one.name)
    return origins


def _uses(trees: Mapping[str, ast.AST]) -> dict[tuple[str, str], set[str]]:
    """How compiled patterns are used: "match", "fullmatch" or "search", by the file and the name that hold them."""
    used: dict[tuple[str, str], set[str]] = defaultdict(set)
    for path, tree in trees.items():
        origins = _origin(path, tree)
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Attribute) and node.attr in METHODS):
                continue
            if isinstance(node.value, ast.Name):
                used[origins.get(node.value.id, (path, node.value.id))].add(METHODS[node.attr])
            elif isinstance(node.value, ast.Attribute):
                used[path, node.value.attr].add(METHODS[node.attr])
    return used


@cache
def _found() -> tuple[list[Pattern], list[str]]:
    """All patterns of the project with where they stand and how they are used, and the places that are not known."""
    modules = dict(_modules())
    trees = {path: ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in modules}
    used = _uses(trees)
    found: list[Pattern] = []
    unknown: list[str] = []
    for path, module in modules.items():
        for where, method, pattern in _calls(path, trees[path], vars(module)):
            if pattern is not None:
                # One that is compiled for a module or a class comes below, with its flags.
                found += [] if method == "compile" and where.endswith(":") else [(where, pattern, 0, _methods(method))]
            elif where in MADE:
                found += [(where, made, re.DOTALL, _methods(method)) for made in MADE[where]]
            else:
                unknown.append(where)
        classes = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
        for holder in (vars(module), *map(vars, classes)):
            for name, value in list(holder.items()):
                methods = sorted(used.get((path, name)) or EVERY)
                found += [(f"{path}:{name}", one.pattern, one.flags, methods) for one in _held(value)]
    return found, unknown


def _calls(path: str, tree: ast.AST, names: Mapping[str, object]) -> Iterator[tuple[str, str, str | None]]:
    """Each call of ``re``: the file and the function that it is in, what is called, and the pattern if it is known."""
    functions = _function(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "re":
            yield f"{path}: a name of re by itself", "compile", None
        if not (isinstance(node, ast.Call) and node.args):
            continue
        if isinstance(node.func, ast.Name) and node.func.id == "lazy":
            yield f"{path}:{functions[node]}", "compile", _constant(node.args[0], names)
        if not isinstance(node.func, ast.Attribute):
            continue
        if (
            isinstance(node.func.value, ast.Name)
            and node.func.value.id == "re"
            and node.func.attr in (*METHODS, "compile")
        ):
            yield f"{path}:{functions[node]}", node.func.attr, _constant(node.args[0], names)


def _methods(method: str) -> list[str]:
    return [METHODS[method]] if method in METHODS else ["match", "search"]


def tried(patterns: Sequence[Pattern]) -> list[str]:
    """What is wrong with these patterns, a line each."""
    program = [sys.executable, "-m", "tests.pumping"]  # a process of its own: nothing else can end it
    done = subprocess.run(program, input=json.dumps(patterns), capture_output=True, text=True, cwd=ROOT)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode:
        assert done.returncode in (-signal.SIGXCPU, -signal.SIGKILL), done.stderr
        where, pattern, _ = said[-1]
        return [f"{where}: {pattern!r} did not end"]
    return [f"{where}: {pattern!r}: {fault}" for where, pattern, fault in said if fault]


def test_all_patterns_are_known() -> None:
    """Every call of ``re`` is seen: one whose pattern is made while the program runs has examples in ``MADE``."""
    found, unknown = _found()
    assert unknown == []
    assert len(found) > 80
    assert {where.partition(":")[0] for where, *_ in found} >= {
        "preflight/redaction/arguments.py", "preflight/redaction/folds.py", "preflight/redaction/redactor.py",
        "preflight/redaction/writings.py", "preflight/text.py", "server/chat/words.py",
    }  # fmt: skip


def test_all_patterns_are_linear() -> None:
    """Texts that were made from a pattern's own structure to take long do not."""
    patterns = list({(*map(str, one[1:]),): one for one in _found()[0]}.values())  # one that is imported is tried once
    assert tried(patterns) == []


def test_what_is_not_linear_is_found() -> None:
    """The worst cases that are generated are bad enough for patterns that are known to take long."""
    known = [
        (r"--?[\w.-]*?(?:pass|token|key)[\w.-]*", "fullmatch"),
        (r".*[-_.]?(?:file|path|dir)", "search"),
        (r"(a+)+$", "match"),
        (r"(?:\w+\s?)*:", "match"),
        (r"\s+$", "search"),
        (r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*", "search"),
        (r"(?:a|b|ab)*c", "match"),
        (r"<[^>]*>", "search"),
        (r"x*y", "search"),
        (r"(?:[a-z]+,?)+;", "fullmatch"),
        (r"app-.+@.*\.service", "fullmatch"),
        (r"\s*([0-9]{1,9})\s*([a-z]*)\s*", "fullmatch"),
    ]
    faults = tried([(f"{number}", pattern, 0, [method]) for number, (pattern, method) in enumerate(known)])
    assert [fault.partition(":")[0] for fault in faults] == [f"{number}" for number in range(len(known))]


def test_what_is_linear_is_not_accused() -> None:
    """A match from a given place on, and repeats that have a bound."""
    patterns = [r"[^\s]+@", r"key=[^;]*;", r"a{1,64}b", r"(?:ab)+c?", r"\d+(?:\.\d+)*"]
    assert tried([("here", pattern, 0, ["match"]) for pattern in patterns]) == []
