"""Does the suite use a plugin of pytest that is not loaded, so that nobody hears what the plugin has collected?

``from pytest_check import check`` works without the plugin: its failures are then collected, and never judged.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

JUDGES = b"def pytest_runtest_makereport"
CHANGES = re.compile(rb"\.(?:outcome|longrepr|excinfo) *= *[^= ]")
"""A plugin that only records what was found has that hook as well, and changes nothing."""


def faults(config: pytest.Config) -> list[str]:
    """The plugins that judge, are not loaded, and whose package was imported; for people."""
    named = {name for name in list(sys.modules) if name.startswith("pytest_") and "." not in name}
    loaded = {str(getattr(one, "__name__", "")).partition(".")[0] for one in config.pluginmanager.get_plugins()}
    if not (unloaded := named - loaded):
        return []  # nearly always: to look through all that is installed takes long
    import importlib.metadata

    points = importlib.metadata.entry_points(group="pytest11")
    return [
        f"{point.module} is not loaded, so what {package} has found does not count: name {point.module} in the setting"
        " plugins"
        for point in points
        if (package := point.module.partition(".")[0]) in unloaded and _judges(point.module)
    ]


def _judges(module: str) -> bool:
    try:
        spec = importlib.util.find_spec(module)
        text = b"" if spec is None or spec.origin is None else Path(spec.origin).read_bytes()
        return JUDGES in text and CHANGES.search(text) is not None
    except (ImportError, OSError, ValueError):
        return False
