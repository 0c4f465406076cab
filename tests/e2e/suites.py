"""Suites that take no time, for tests of something else than what ours checks."""

from __future__ import annotations

# What every suite needs with which a server starts.
PORT = """
@pytest.mark.critical("Server Port", needs="port", ignorable=False)
def test_server_port(port):
    \"\"\"The port is free.\"\"\"
    if port.untried:
        from preflight.contract import unknown
        unknown(port.untried)
    assert port.socket is not None or port.obtainable or port.served_by is not None, port.problem
"""

# One thing always holds, and a service holds a start up for as long as there is a file that is called "down".
QUICK = f"""
import pytest

@pytest.mark.critical("Project")
def test_project(settings):
    \"\"\"The project is there.\"\"\"
    found = (settings.root / "pyproject.toml").exists()
    assert found, "it has gone"

@pytest.mark.critical("Service", fix="start the service")
def test_service(settings):
    \"\"\"The service answers.\"\"\"
    down = (settings.root / "down").exists()
    assert not down, "it does not answer"
{PORT}"""
