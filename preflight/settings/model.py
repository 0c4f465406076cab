"""The table of settings that every application has, for launcher, suite and server alike.

`loading` reads their sources, in order of rising precedence: ``[tool.preflight]`` in pyproject.toml, the env file, the
environment (``PREFLIGHT_`` + the name in capitals), the command line's options.

Plain dataclasses: the launcher loads this before it has started anything.
"""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from preflight import project as projects
from preflight.settings import envfile
from preflight.settings.parsers import (
    attribute,
    attributes,
    duration,
    host,
    hosts,
    interval,
    limit,
    modules,
    names,
    networks,
    one_of,
    origins,
    parts,
    path,
    peers,
    permissions,
    prefix,
    processes,
    request_path,
    size,
    specifier,
    switch,
    text,
    token,
    urls,
    verbs,
    whole,
)
from preflight.settings.statefolder import StateFolder
from preflight.text import address

PREFIX = "PREFLIGHT_"
DEFAULT_ENV_FILE = Path(".env")
DEFAULT_STATE_DIR = Path(".preflight")
DEFAULT_WEB_PREFIX = "/_preflight"
AGENT = "server.app"
"""The module of the application that comes with this project."""
_DRAIN_DELAY = 1.0  # seconds, where other machines can reach us
ENVIRONMENT, ENV_FILE, PROFILE = "the environment", "the env file", "the embedded profile"
"""Sources of a setting; the others are options, lines of pyproject.toml, and places where a project tells others."""
_LINE = re.compile(r"pyproject\.toml(:[0-9]+)?")
_GIVEN = re.compile(rf"option |({ENVIRONMENT}|{ENV_FILE}|{PROFILE}|{_LINE.pattern})$")
T = TypeVar("T")


class SettingsError(ValueError):
    """A setting that cannot be used; the message is one line that names its source and what is allowed."""


def setting(default: T, parse: Callable[[object], T], about: str, *, anywhere: bool = True, secret: bool = False) -> T:
    """Declare one setting.

    ``about`` is its line in the table of docs/settings.md; ``anywhere=False`` keeps it out of pyproject.toml and
    the env file, for switches that only the person who types the command should set. ``secret=True`` keeps
    it out of pyproject.toml, which is under version control.
    """
    metadata = {"parse": parse, "about": about, "anywhere": anywhere, "secret": secret}
    value: T = field(default=default, metadata=metadata)
    return value


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Settings:
    """Every parameter of the requirements, the launcher and the server."""

    root: Path
    """Where pyproject.toml is; ids, and relative paths in settings, start from here."""
    folder: Path
    """Where the command was typed: the working directory of suite and worker, and on their import path."""
    envfile: envfile.EnvFile
    environment: Mapping[str, str]
    """The env file's variables below the process's own: what the application will see."""
    own: tuple[str, ...]
    """The variables that the process itself was given: those win over the env file's."""
    sources: Mapping[str, str]
    """The source of each setting that does not have its default, by setting name."""
    project: str
    """``[project] name`` of pyproject.toml; empty if it has none."""
    declared: Mapping[str, Any] | None
    """What is needed, as `declared` has read it; None: nothing says what."""
    application: Mapping[str, Any]
    """The values of the application's own settings, by name; `of` makes its dataclass of them."""
    set_aside: tuple[str, ...]
    """Variables that look like settings, and come from a platform; see servicelinks.py."""
    next_start: tuple[str, ...] = ()
    """What the next start would do differently, for a re-run: its settings are those of the instance that runs."""
    envfile_broke: bool = False
    """Whether the env file was valid when the instance read it, and is no longer; for a re-run."""

    host: str = setting("127.0.0.1", host, "address to serve on")
    port: int = setting(8002, whole(1, 65535), "port to serve on")
    uds: Path | None = setting(
        None,
        path,
        "Unix socket to serve on, instead of host and port, unless --host or --port is given; relative to"
        " pyproject.toml",
    )
    uds_mode: str = setting("0666", permissions, "permissions of that socket, in octal digits")
    app: str = setting(
        "",
        attribute,
        "the ASGI application, or a function that makes it; by default, that of `[tool.fastapi] entrypoint`,"
        " `LITESTAR_APP` or Django's asgi.py next to manage.py",
    )
    python: str = setting(
        ">=3.11",
        specifier,
        "the Python versions that the application runs on; by default, `requires-python` in pyproject.toml",
    )
    workers: int = setting(
        1,
        processes(256),
        "processes that serve the application, on one socket; auto: one for each processor that may be used",
    )
    env_file: Path = setting(
        DEFAULT_ENV_FILE, path, "the file with the application's variables and keys; relative to pyproject.toml"
    )
    suite: tuple[str, ...] = setting(
        (),
        parts,
        "the packages and folders with the requirements; by default, `preflight.requirements`, and `preflight_suite`"
        " next to pyproject.toml and where the command is typed, if it exists there",
    )
    extras: tuple[str, ...] = setting(
        (), names, "extras and dependency groups that the project needs to run, in addition to its dependencies"
    )
    state_dir: Path = setting(DEFAULT_STATE_DIR, path, "folder for reports; relative to pyproject.toml")
    history: int = setting(200, whole(1, 100_000), "past runs that are kept for each address, for /diagnostics/history")
    port_cleanup: str = setting(
        "user",
        one_of("user", "own", "never"),
        "whose processes may be stopped to free the port: user (this user's), own (this project's instances) or never",
    )
    port_spare: tuple[str, ...] = setting(
        (),
        names,
        "further names of processes, or of scripts that an interpreter runs, that are never stopped, beyond databases"
        " and other infrastructure, tunnels, editors and browsers",
    )
    port_grace: float = setting(5.0, duration(0, 60), "time between SIGTERM and SIGKILL")
    probe_timeout: float = setting(2.0, duration(0.1, 60), "deadline of each question to the network")
    requirement_timeout: float = setting(
        10.0,
        duration(0.1, 600),
        "deadline of each requirement; the time that holders of the port may take to end is added to it, and to"
        " run_timeout",
    )
    run_timeout: float = setting(
        30.0, duration(1, 3600), "deadline of the whole run; a fifth of it is for critical requirements alone"
    )
    graceful_timeout: float = setting(
        4.0, duration(0, 600), "time for requests in flight when stopping, after drain_delay"
    )
    drain_delay: float | None = setting(
        None,
        duration(0, 60),
        "time that new work is still accepted when stopping, for load balancers (0 s on loopback, else 1 s)",
    )
    supervise: bool | None = setting(
        None,
        switch,
        "start a crashed worker again (yes, unless systemd, Kubernetes or a container runtime restarts this process)",
    )
    restart_limit: int = setting(
        5,
        whole(1, 1_000_000),
        "crashes of a worker within restart_window after which the launcher gives up; it also gives up after two in a"
        " row before the worker is ready",
    )
    restart_window: float = setting(60.0, duration(0.1, 86400), "period for which restart_limit counts crashes")
    restart_backoff: float = setting(
        0.5, duration(0, 30), "wait before the second restart; doubles up to 30 s (the first is at once)"
    )
    startup_timeout: float = setting(
        600.0,
        interval(1, 86400),
        "deadline of the application's start-up (its lifespan), and of its import when a worker is started again"
        " (0: none)",
    )
    heartbeat: float = setting(
        60.0,
        interval(1, 86400),
        "silence of the application's event loop after which its worker counts as hung and another one starts (0: off)",
    )
    ready_path: str | None = setting(
        None,
        request_path,
        "path that a new server must answer, with a status below 500, before it replaces a running server"
        " (server.app: /health/ready, others: /), or off",
    )
    ready_timeout: float = setting(30.0, duration(0.1, 3600), "time that the new server has for this answer")
    if_running: str = setting(
        "replace",
        one_of("replace", "keep", "fail"),
        "what to do about a server that this command started and that serves the address already",
    )
    refresh: float = setting(
        0.0, interval(10, 30 * 86400), "time between re-runs in the background, 10 s or more (0: none)"
    )
    rerun_interval: float = setting(
        10.0, duration(0, 3600), "time from the end of a re-run until the next one may begin; sooner, the answer is 429"
    )
    rerun_gates: bool = setting(
        True, switch, "take the server out of rotation (503) while a critical requirement fails in its re-runs"
    )
    disk_space: int = setting(1024**3, size, "free space that the disk of the state folder should have")
    memory: int = setting(256 * 1024**2, size, "memory that should be available for each worker")
    open_files: int = setting(
        1024,
        whole(1, 2**31),
        "open files that the serving process should be allowed; the worker raises its soft limit to this number, and to"
        " the number that its connections need, as far as the hard limit permits",
    )
    connections: int = setting(
        4096,
        whole(1, 1_000_000),
        "connections that each worker may have at once; beyond that, idle connections are closed, and if none is idle,"
        " the new one gets 503",
    )
    request_size: int = setting(0, limit, "the largest body of a request; a larger one gets 413 (0: no limit)")
    request_timeout: float = setting(
        10.0,
        duration(0.1, 3600),
        "time that a client has to send a request's head, to send its body, and to take the answer; body and answer get"
        " one more second for every 8 KiB",
    )
    websocket_message_size: int = setting(
        16 * 1024**2,
        size,
        "the largest WebSocket message, after decompression; a larger one closes the WebSocket with 1009",
    )
    websocket_compression: bool = setting(
        True,
        switch,
        "compress WebSocket messages of clients that offer it; such a connection takes twice the memory",
    )
    websocket_controls: int = setting(
        600, whole(1, 1_000_000), "pings and pongs a minute from a WebSocket; beyond that, it is closed with 1008"
    )
    websocket_fragments: int = setting(
        6000,
        whole(1, 10_000_000),
        "frames a minute from a WebSocket that are empty, or that carry less than 128 bytes of a longer message; beyond"
        " that, it is closed with 1008",
    )
    followers: int = setting(
        200,
        whole(1, 100_000),
        "followers of /ws/diagnostics that each worker may have at once; one more is closed with 1013",
    )
    ws_ping_interval: float = setting(20.0, interval(1, 3600), "time between two pings to a WebSocket (0: none)")
    ws_ping_timeout: float = setting(
        20.0, interval(1, 3600), "time that the answer to a ping may take; then the WebSocket is closed (0: no limit)"
    )
    timeout_keep_alive: float = setting(5.0, duration(0.1, 3600), "time that a connection stays open without a request")
    root_path: str = setting(
        "", prefix, "path under which a reverse proxy publishes the application; the proxy removes it from requests"
    )
    forwarded_allow_ips: tuple[str, ...] = setting(
        (),
        peers,
        "addresses of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto the application sees as client and"
        " scheme, or * for all (if it is not set: 127.0.0.1, as in uvicorn; server.app: none)",
    )
    ssl_certfile: Path | None = setting(
        None, path, "certificate for TLS in PEM, with those of its issuers; relative to pyproject.toml"
    )
    ssl_keyfile: Path | None = setting(
        None, path, "private key of the certificate, if ssl_certfile does not contain it"
    )
    ssl_keyfile_password: str | None = setting(
        None, text, "password of the private key, never in pyproject.toml", secret=True
    )
    ssl_ca_certs: Path | None = setting(
        None, path, "certificates of the authorities whose client certificates are trusted"
    )
    ssl_cert_reqs: str = setting(
        "none", one_of("none", "optional", "required"), "whether clients have to show a certificate"
    )
    ssl_ciphers: str | None = setting(None, text, "ciphers of TLS 1.2, as OpenSSL lists them (OpenSSL's own choice)")
    access_log: bool = setting(False, switch, "log a line for each request; this almost halves the speed")
    log_level: str | None = setting(
        None,
        one_of("critical", "error", "warning", "info", "debug", "trace"),
        "lowest level that the server logs (warning, or the level in log_config)",
    )
    log_config: Path | None = setting(
        None,
        path,
        "file that configures the logging of the serving process (.ini, .json or .yaml); relative to pyproject.toml",
    )
    follower_rate: int = setting(
        5,
        whole(1, 100_000),
        "messages a second from a follower of /ws/diagnostics, ten times as many in a burst; beyond that, its"
        " connection is closed with 1008",
    )
    follower_backlog: int = setting(
        4 * 1024**2,
        size,
        "characters that may wait for a follower that does not read; beyond that, its connection is cut",
    )
    token: str | None = setting(
        None,
        token,
        "access token that clients must send (16 characters or more), never in pyproject.toml",
        secret=True,
    )
    allowed_hosts: tuple[str, ...] = setting(
        (),
        hosts,
        "further names that the Host header may have, in addition to loopback's, the address served on and, if"
        " other machines can reach the server, this machine's own names",
    )
    allowed_origins: tuple[str, ...] = setting(
        (), origins, "origins of other web pages that may open WebSockets here and send requests"
    )
    trusted_proxies: tuple[str, ...] = setting(
        (),
        networks,
        "addresses of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto count; with a proxy, no client counts"
        " as local",
    )
    web_prefix: str | None = setting(
        None,
        prefix,
        "path below which health, diagnostics, metrics, re-runs and the page are served beside the application,"
        " or off (`/_preflight`; for server.app, which has them at its root: off)",
    )
    reload_dirs: tuple[str, ...] = setting(
        (), names, "further folders whose Python files --reload watches; relative to pyproject.toml"
    )
    plugins: tuple[str, ...] = setting((), modules, "pytest plugins that the suite needs, by module name")
    ignore: tuple[str, ...] = setting((), names, "critical requirements that may fail, by title or id")
    not_used: tuple[str, ...] = setting(
        (),
        names,
        'optional services that are not wanted, by name (Perplexity): a grey "not used" instead of a warning',
    )
    notify: tuple[str, ...] = setting(
        (),
        urls,
        "services to notify of changes: Apprise URLs, separated by commas or blanks (env file or environment only)",
        secret=True,
    )
    notify_backoff: float = setting(
        1.0,
        duration(0, 60),
        "wait before a notification that was not delivered is tried again, up to four times; doubles after each try",
    )
    verbs: tuple[str, ...] = setting(
        (),
        verbs,
        "the application's own options that do something other than start it, `option=module:attribute` each: a"
        " function that gets the settings and returns the exit code",
    )
    database_url: str | None = setting(
        None,
        text,
        "PostgreSQL database of the fleet: the only database that is ever written to, in its schema `preflight`;"
        " the application's own DATABASE_URL is never touched (env file or environment only)",
        secret=True,
    )
    answers_kept: float = setting(
        60.0,
        duration(0, 3600),
        "time for which re-runs use a provider's good answer to another instance (0: each asks the provider)",
    )
    database_tables: tuple[str, ...] = setting(
        (),
        attributes,
        "the application's own tables in that schema, `module:attribute` each (a `preflight.fleet.schema.Tables`)",
    )
    fleet_heartbeat: float = setting(
        30.0,
        duration(0.1, 3600),
        "time between two signs of life of an instance in the database, a fifth more or less; an instance that"
        " misses three counts as silent",
    )
    fleet_window: float = setting(
        30.0,
        duration(0.1, 3600),
        "time for which changes on all instances are gathered, before people are told of them in one message",
    )
    fleet_instances: float = setting(
        7 * 86400.0,
        duration(60, 3650 * 86400),
        "time that an instance that has ended or gone silent is kept in the database, with what is known of it",
    )
    fleet_changes: float = setting(
        30 * 86400.0, duration(60, 3650 * 86400), "time that changed checks and verdicts are kept there"
    )
    fleet_reports: float = setting(7 * 86400.0, duration(60, 3650 * 86400), "time that reports are kept there")
    fleet_notices: float = setting(
        30 * 86400.0, duration(60, 3650 * 86400), "time that messages to people are kept there"
    )
    demo: bool = setting(False, switch, "the embedded profile: no env file, no keys, no network")
    offline: bool = setting(False, switch, "leave out what needs the network")
    log_file: Path | None = setting(
        None,
        path,
        "file that also gets output and audit, mode 0600, rotated at 5 MiB; relative to pyproject.toml"
        " (the audit is in state_dir/audit.log in any case)",
    )
    termination_log: Path | None = setting(
        None,
        path,
        "file that gets what blocked a start, 4 KiB at most (in Kubernetes /dev/termination-log); relative to"
        " pyproject.toml",
    )
    log_format: str = setting(
        "text",
        one_of("text", "json"),
        "format of the log file's lines; with json, the audit also goes to standard error",
    )
    skip: bool = setting(
        False, switch, "start an application directly without its suite (environment only)", anywhere=False
    )

    def __init__(self, **values: Any) -> None:
        """What `dataclass` would generate for a hundred fields takes each process of a start 3 ms and a megabyte."""
        for entry in fields(self):
            value = values.pop(entry.name, entry.default)
            if value is MISSING:
                raise TypeError(f"{entry.name} is missing")
            object.__setattr__(self, entry.name, value)
        if values:
            raise TypeError(f"there is no setting {next(iter(values))!r}")

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
        """Whether a setting's value was found where a project tells others, and was not given to us."""
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
        """Where secrets can be: in what the application sees, and in the env file where the environment hides it."""
        return self.environment, self.envfile.values

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
        values["envfile"] = envfile.EnvFile(**{**data["envfile"], "path": Path(data["envfile"]["path"])})
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


def declared_by(kind: type) -> list[Field[Any]]:
    """The settings that a dataclass declares."""
    return [entry for entry in fields(kind) if "parse" in entry.metadata]


SETTINGS: Mapping[str, Field[Any]] = {entry.name: entry for entry in declared_by(Settings)}
"""What every application has; `loading.registered` knows those of its own."""
