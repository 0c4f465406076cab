"""Ready-made requirements: functions that make a pytest test, for authors of suites.

::

    from preflight import ready

    test_database = ready.tcp("DATABASE_URL")
    test_model_file = ready.model_file("models/classifier.onnx", sha256="9f86d0...")

1. A factory (``ready.tcp``) takes the name of a variable, never its value, and what is expected. It returns a test
   function with severity, title, fix and docstring, each of which can be given in its place.
2. When the run begins, the probes of all of them are asked at once, each in a thread of its own with its own deadline
   (`preflight.suite.probes.answers`). A probe answers and never judges.
3. When pytest comes to the test, its judge compares the answer with what is expected, and fails, passes or says that
   nobody knows.

`preflight.making` has what factories are made of; docs/requirements.md writes one. The other modules have a subject
each. Nothing here is imported before it is used, and a library that a factory needs is imported by its probe.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from preflight.making import Ask, Failure, requirement, unknown
    from preflight.ready.caches import redis
    from preflight.ready.certificates import tls
    from preflight.ready.databasefiles import sqlite
    from preflight.ready.files import file, folder, model_file
    from preflight.ready.keys import api_key
    from preflight.ready.machine import disk, executable, memory
    from preflight.ready.mcp import mcp_server
    from preflight.ready.migrating import migrations
    from preflight.ready.models import model
    from preflight.ready.network import dns, tcp
    from preflight.ready.packages import distribution, no_conflicts
    from preflight.ready.postgresql import postgres
    from preflight.ready.variables import variable
    from preflight.ready.web import http


class Factory(NamedTuple):
    """What the catalogue says of a factory; docs/ready.md shows it."""

    subject: str
    """The module that it is in."""
    extra: str
    """What has to be installed for it, ``pip install 'pytest-preflight[...]'``; empty: nothing more."""
    asks: str
    costs: str


CATALOGUE = {
    "api_key": Factory(
        "keys", "http", "the service, for something that is free",
        "one GET; for a compatible service a second one, without the key",
    ),
    "model": Factory(
        "models", "http", "the service for its list of models; a local one for what is loaded",
        "one to three GETs; with `paid=True` one word of the model",
    ),
    "model_file": Factory("files", "", "the file's size, and its SHA-256", "with a SHA-256 it reads all of the file"),
    "mcp_server": Factory(
        "mcp", "mcp", "`initialize` and `tools/list`, over standard input and output or HTTP",
        "one process, or three requests",
    ),
    "postgres": Factory(
        "postgresql", "postgres", "version, extensions, and whether the role may write",
        "one connection; a temporary table, rolled back",
    ),
    "migrations": Factory(
        "migrating", "", "`alembic current --check-heads`, or Django's `migrate --check`",
        "one process",
    ),
    "redis": Factory("caches", "redis", "PING, INFO, and CONFIG GET; whether it accepts writes", "one connection"),
    "sqlite": Factory(
        "databasefiles", "", "`PRAGMA quick_check`, and the file system's type",
        "it reads all of the file",
    ),
    "http": Factory("web", "http", "GET: the status, and a value in the JSON", "one GET, no redirection"),
    "tcp": Factory("network", "", "whether a server accepts the connection, and keeps it", "one connection"),
    "dns": Factory("network", "", "the addresses of a name, as this machine resolves it", "one question"),
    "tls": Factory("certificates", "", "the certificate: issuer, host, days left", "one handshake"),
    "executable": Factory("machine", "", "PATH, and the version that the program prints", "one process"),
    "file": Factory("files", "", "whether the file is there and can be read", "one byte"),
    "folder": Factory("files", "", "whether a file can be written there", "a file without a name"),
    "disk": Factory("machine", "", "free bytes and inodes", "nothing"),
    "memory": Factory("machine", "", "what the machine and the control groups leave", "nothing"),
    "variable": Factory(
        "variables", "", "whether a variable is set, and its form or its pydantic-settings class",
        "nothing; with a class, one process",
    ),
    "distribution": Factory("packages", "", "the version that is installed, and an import", "one process"),
    "no_conflicts": Factory("packages", "", "what `pip check` finds", "the metadata of every distribution"),
}  # fmt: skip
_OF = {
    **{name: f"preflight.ready.{entry.subject}" for name, entry in CATALOGUE.items()},
    **dict.fromkeys(["Ask", "Failure", "requirement", "unknown"], "preflight.making"),
}

__all__ = [
    "Ask", "Failure", "api_key", "disk", "distribution", "dns", "executable", "file", "folder", "http", "mcp_server",
    "memory", "migrations", "model", "model_file", "no_conflicts", "postgres", "redis", "requirement", "sqlite", "tcp",
    "tls", "unknown", "variable",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Load a public name."""
    if name not in _OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_OF[name]), name)
