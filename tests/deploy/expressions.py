"""What an expression of PromQL asks for, as far as the names of metrics go.

A parser of the whole language would be a library in another one: what is left when strings, selectors, groupings and
functions are taken out are the metrics.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml  # type: ignore[import-untyped]

from tests.deploy.manifests import ROOT

RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "preflight.json"
WORDS = frozenset({"and", "or", "unless", "bool", "offset"})


def metrics(expression: str) -> set[str]:
    """The names of metrics in an expression."""
    rest = re.sub(r"\"[^\"]*\"|'[^']*'", "", expression)
    rest = re.sub(r"\{[^{}]*\}|\[[^\[\]]*\]", " ", rest)
    rest = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^()]*\)", " ", rest)
    return {name for name in re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*\b(?!\s*\()", rest) if name not in WORDS}


def rules() -> Iterator[tuple[str, str]]:
    """Each alert and its expression."""
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    found: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return found


def panels() -> Iterator[dict[str, Any]]:
    """Its panels, but for the rows that hold them apart."""
    yield from (panel for panel in dashboard()["panels"] if panel["type"] != "row")


def queries() -> Iterator[tuple[str, str]]:
    """Each panel's title and expression, and those of the variables."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
            assert asked is not None
            yield variable["name"], f"group by ({asked[2]}) ({asked[1]})"
