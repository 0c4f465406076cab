"""The checkout's own way to the suite: the plugin, which is installed nowhere here, and short options for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from preflight import plugin

ROOT = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the plugin, and the options of ``python run.py`` that a run of the suite alone can use."""
    if not Path(plugin.__file__).resolve().is_relative_to(ROOT.resolve()):
        raise pytest.UsageError(
            f"preflight is installed in {Path(plugin.__file__).parent}, and pytest has loaded that one instead of this"
            " checkout's: start it with python -m pytest"
        )
    if not pluginmanager.is_registered(plugin):
        pluginmanager.register(plugin, "preflight")
    group = parser.getgroup("preflight")
    group.addoption("--host", dest="preflight_host", metavar="H", help="address to serve on (127.0.0.1)")
    group.addoption("--port", dest="preflight_port", metavar="N", help="port to serve on (8002)")
    group.addoption(
        "--no-cleanup", dest="preflight_no_cleanup", action="store_true", help="leave every process on the port alone"
    )
    group.addoption("--offline", dest="preflight_offline", action="store_true", help="leave out what needs the network")
    group.addoption("--demo", dest="preflight_demo", action="store_true", help="no env file, no keys, no network")
