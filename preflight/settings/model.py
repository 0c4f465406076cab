"""Every parameter of the requirements, the launcher and the server: the `table`, and what follows from its values."""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, TypeVar

from preflight import project as projects
from preflight.settings.envfile import EnvFile
from preflight.settings.fields import declared_by
from preflight.settings.parsers import path
from preflight.settings.statefolder import StateFolder
from preflight.settings.table import DEFAULT_STATE_DIR, Table
from preflight.text import address

PREFIX = "PREFLIGHT_"
DEFAULT_WEB_PREFIX = "/_preflight"
AGENT = "server.app"
"""The module of the application that comes with this project."""
_DRAIN_DELAY = 1.0  # seconds, where other machines can reach us
ENVIRONMENT, ENV_FILE, PROFILE = "the environment", "the env file", "the embedded profile"
"""Sources of a setting; the others are options, lines of pyproject.toml, and places where a project tells others."""
_LINE = re.compile(r"pyproject\.toml(:[0-9]+)?")
_GIVEN = re.compile(rf"option |({ENVIRONMENT}|{ENV_FILE}|{PROFILE}|{_LINE.pattern})$")
T = TypeVar("T")


class Settings(Table):
    """Every parameter of the requirements, the launcher and the server."""

    __slots__ = ()

    def of(self, kind: type[T]) -> T:
        """The application's own settings, as the dataclass that declares them; defaults if it is not registered."""
        values = {entry.name: self.application.get(entry.name, entry.default) for entry in declared_by(kind)}
        return kind(**values)

    def value(self, name: str) -> object:
        """The value of a setting, one of the application's own included."""
        return self.application[name] if name in self.application else getattr(self, name)

    @property
    def address(self) -> str:
        """``host:port`` as it stands in a URL; of a Unix socket ``unix:`` and its path."""
        return address(self.host, self.port) if self.uds is None else f"unix:{self.uds}"

    @property
    def starts_at(self) -> str:
        """What starts of this address wait for, in words: ``port 8002``, or the Unix socket."""
        return f"port {self.port}" if self.uds is None else self.address

    @property
    def slot(self) -> str:
        """The name at which starts of one address meet; starts of another go on beside them. See :func:`slot`."""
        return slot(self.port, str(self.uds or ""))

    def place(self, name: str) -> str:
        """Where this setting was set, for people who have to correct it: file and line, variable or option."""
        source, variable = self.sources.get(name, "the default"), PREFIX + name.upper()
        if source == ENV_FILE:
            return f"{self.envfile.path}:{self.envfile.lines.get(variable, 1)}: {variable}"
        if source == ENVIRONMENT:
            return f"environment variable {variable}"
        return f"{source}: {name}" if _LINE.fullmatch(source) else source

    @property
    def scopes(self) -> list[projects.Scope]:
        """The parts of the suite. Raises LookupError if one has gone since the settings were read."""
        return projects.scopes(self.root, self.suite)

    @property
    def folders(self) -> list[Path]:
        """The folders of these parts, under both of their names where links lead to them."""
        return list(dict.fromkeys(one for scope in self.scopes for one in (scope.folder, scope.folder.resolve())))

    @property
    def serves_agent(self) -> bool:
        """Whether the application is the agent server that this project began with."""
        return self.app.partition(":")[0] == AGENT

    def discovered(self, name: str) -> bool:
        """Whether a setting's value was taken from what the project tells other tools, not from our own sources."""
        return bool(self.sources.get(name)) and not _GIVEN.match(self.sources[name])

    @property
    def unused(self) -> frozenset[str]:
        """The names of the services that are not used, in small letters."""
        return frozenset(name.casefold() for name in self.not_used)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.uds is not None:
            return True
        # The address itself: a name that begins like one may lead anywhere (127.0.0.1.example.com).
        return self.host.lower() in ("localhost", "::1") or bool(re.fullmatch(r"127(\.[0-9]{1,3}){3}", self.host))

    @property
    def scheme(self) -> str:
        """What the server's URLs begin with."""
        return "http" if self.ssl_certfile is None else "https"

    @property
    def readiness_path(self) -> str:
        """The path that a worker has to answer before it replaces another one; empty: none."""
        if self.ready_path is not None:
            return self.ready_path
        return "/health/ready" if self.serves_agent else "/"

    @property
    def forwarders(self) -> str | tuple[str, ...]:
        """The proxies whose X-Forwarded-For and -Proto the application sees: the setting's, or uvicorn's default."""
        if "forwarded_allow_ips" in self.sources or self.serves_agent:
            return self.forwarded_allow_ips
        return self.environment.get("FORWARDED_ALLOW_IPS", "127.0.0.1")

    @property
    def prefix(self) -> str:
        """The path below which our routes are served beside the application; empty: they are not."""
        if self.web_prefix is not None:
            return self.web_prefix
        return "" if self.serves_agent else DEFAULT_WEB_PREFIX

    @property
    def delay(self) -> float:
        """Seconds that new work is still accepted when stopping."""
        if self.drain_delay is not None:
            return self.drain_delay
        # On loopback no load balancer has to notice first.
        return 0.0 if self.loopback else _DRAIN_DELAY

    @property
    def drain_timeout(self) -> float:
        """Seconds from being asked to stop until what is not finished is cancelled."""
        return self.delay + self.graceful_timeout

    @property
    def variables(self) -> tuple[Mapping[str, str], ...]:
        """Where secrets can be: in what the application sees, and in the env file, hidden or unused as it may be.

        The names of the application's own settings need not say which of them are secrets: their declarations do.
        """
        declared = {f"{name}_SECRET": str(self.application[name]) for name in self.secret if self.application[name]}
        return self.environment, self.envfile.values, self.envfile.unused, declared

    @property
    def state(self) -> StateFolder:
        """The paths of what is kept in the state folder."""
        return StateFolder(self.state_dir)

    @property
    def default_state_dir(self) -> Path:
        """The state folder of a project that names no other."""
        return self.root / DEFAULT_STATE_DIR

    def to_message(self) -> dict[str, Any]:
        """As JSON values, for the channel to a child: what was read once counts for all, whatever is edited meanwhile.

        Secrets are in it.
        """
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "envfile"}
        values["envfile"] = {entry.name: getattr(self.envfile, entry.name) for entry in fields(self.envfile)}
        values["envfile"]["path"] = str(self.envfile.path)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    @classmethod
    def of_message(cls, data: Mapping[str, Any]) -> Settings:
        """Rebuild what :meth:`to_message` wrote."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        values["root"], values["folder"] = Path(data["root"]), Path(data["folder"])
        values["application"] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data["application"].items()
        }
        values["envfile"] = EnvFile(**{**data["envfile"], "path": Path(data["envfile"]["path"])})
        for name, entry in SETTINGS.items():
            if entry.metadata["parse"] is path and values[name] is not None:
                values[name] = Path(values[name])
        return cls(**values)


TOKEN_LENGTH = 16
"""Characters that a token needs before anybody but the local user may use it."""


def slot(port: int, uds: str) -> str:
    """The name at which starts of one address meet: the port, or a checksum of the path of a Unix socket.

    It is the same however a path is spelled; starts of two paths that share one by chance wait for each other.
    """
    if not uds:
        return str(port)
    folder, name = os.path.split(uds)
    return f"unix-{binascii.crc32(os.fsencode(os.path.join(os.path.realpath(folder), name))):08x}"


SETTINGS: Mapping[str, Field[Any]] = {entry.name: entry for entry in declared_by(Settings)}
"""What every application has; `loading.registered` knows those of its own."""
