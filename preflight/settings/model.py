"""The requirements' parameters, for launcher, suite and server alike.

Sources, in order of rising precedence: ``[tool.preflight]`` in pyproject.toml, the env file, the
environment (``PREFLIGHT_`` + the name in capitals), the command line's options. Nothing is read at
import; :func:`load` reads everything and hands out one frozen value.

Plain dataclasses and tomllib: the launcher loads this before it has started anything.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from preflight.settings import envfile
from preflight.settings.statefolder import StateFolder

PREFIX = "PREFLIGHT_"
_ENV_FILE = Path("~/.ki_autoagent/config/.env")
_STATE_DIR = Path(".preflight")
AGENT = "server.app"
"""The module of the application that comes with this."""
_DRAIN_DELAY = 1.0  # seconds, where other machines can reach us
T = TypeVar("T")


class SettingsError(ValueError):
    """A setting that cannot be used; the message is one line that names its source and what is allowed."""


# Parsers: from what TOML, a variable or an option gives to the setting's type. They raise ValueError
# with what is allowed, never with the value: it may be a secret in the wrong place.


def text(value: object) -> str:
    """A text with something in it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not empty")
    return value.strip()


def host(value: object) -> str:
    """A host name or an IP address."""
    name = text(value)
    if re.search(r"[\s/\[\]@]", name) or (":" in name and name.count(":") == 1) or not name.isprintable():
        raise ValueError("must be a host name or an IP address, without port or brackets")
    return name


def switch(value: object) -> bool:
    """True or false; as a variable also 1, yes, on and their opposites."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in {"1", "true", "yes", "on"}:
        return True
    if isinstance(value, str) and value.strip().lower() in {"", "0", "false", "no", "off"}:
        return False
    raise ValueError("must be true or false")


def whole(low: int, high: int) -> Callable[[object], int]:
    """A whole number in a range, both ends included."""

    def parse(value: object) -> int:
        allowed = f"must be a whole number from {low} to {high}"
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(allowed)
        if isinstance(value, str) and not re.fullmatch(r"\s*[0-9]{1,18}\s*", value):
            raise ValueError(allowed)
        number = int(value)
        if not low <= number <= high:
            raise ValueError(allowed)
        return number

    return parse


_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "b": 1} | {
    prefix + unit: factor**power
    for power, prefix in enumerate("kmgt", start=1)
    for unit, factor in (("b", 1000), ("ib", 1024))
}


def _quantity(value: object, units: Mapping[str, float], allowed: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(allowed)
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)", str(value).strip())
    if match is None or match[2].lower() not in units:
        raise ValueError(allowed)
    return float(match[1]) * units[match[2].lower()]


def duration(low: float, high: float) -> Callable[[object], float]:
    """Seconds: a number, or a text with a unit ("500ms", "2s", "1m", "30d")."""

    def parse(value: object) -> float:
        allowed = f'must be a time from {low:.15g} to {high:.15g} seconds, such as 2, "2s" or "500ms"'
        seconds = _quantity(value, _SECONDS, allowed)
        if not low <= seconds <= high:
            raise ValueError(allowed)
        return seconds

    return parse


def interval(low: float, high: float) -> Callable[[object], float]:
    """Seconds between two repetitions, as :func:`duration` takes them, or 0 for none."""

    def parse(value: object) -> float:
        allowed = f'must be 0 (off) or a time from {low:.15g} to {high:.15g} seconds, such as "60s" or "5m"'
        seconds = _quantity(value, _SECONDS, allowed)
        if seconds != 0 and not low <= seconds <= high:
            raise ValueError(allowed)
        return seconds

    return parse


def size(value: object) -> int:
    """Bytes: a number, or a text with a unit ("512 MiB", "2 GB")."""
    return int(_quantity(value, _BYTES, 'must be a size, such as "512 MiB" or "2 GB"'))


def names(value: object) -> tuple[str, ...]:
    """A list of texts; as a variable, separated by commas."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError("must be a list of texts")
    return tuple(part.strip() for part in parts if part.strip())


def modules(value: object) -> tuple[str, ...]:
    """Names of modules to load; pytest would take one that begins with ``no:`` as one to leave out."""
    found = names(value)
    if not all(re.fullmatch(r"[A-Za-z_][\w.-]*", name) for name in found):
        raise ValueError("must be names of modules, such as mypackage.plugin")
    return found


def urls(value: object) -> tuple[str, ...]:
    """URLs, separated by commas or blanks."""
    found = split_urls(value) if isinstance(value, str) else []
    if not isinstance(value, str) or not all(re.match(r"[A-Za-z][A-Za-z0-9+.-]*://.", url) for url in found):
        raise ValueError("must be URLs (scheme://...), separated by commas or blanks")
    return tuple(found)


def split_urls(text: str) -> list[str]:
    """The URLs in a text; a comma separates only before the next one's scheme, because it may be part of a URL."""
    parts = re.split(r"\s+|,(?=[A-Za-z][A-Za-z0-9+.-]*://)", text)
    return [part.strip(",") for part in parts if part.strip(",")]


def one_of(*allowed: str) -> Callable[[object], str]:
    """One of a few words."""

    def parse(value: object) -> str:
        if value not in allowed:
            raise ValueError("must be one of " + ", ".join(allowed))
        return str(value)

    return parse


_CLAUSE = r"(~=|===?|!=|<=?|>=?)\s*[0-9][0-9A-Za-z.*+!_-]*"


def specifier(value: object) -> str:
    """A PEP 440 specifier; the shape only: packaging, which knows the rest, is not light enough for here."""
    if not isinstance(value, str) or not re.fullmatch(rf"\s*{_CLAUSE}\s*(,\s*{_CLAUSE}\s*)*", value):
        raise ValueError('must be a version specifier, such as ">=3.13.8" or ">=3.11,<3.14"')
    return value.strip()


def app(value: object) -> str:
    """An application by name, ``module:attribute``."""
    name = text(value)
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", name):
        raise ValueError('must be MODULE:ATTRIBUTE, such as "server.app:create_app"')
    return name


def request_path(value: object) -> str:
    """What an HTTP request asks for; empty for "off"."""
    target = text(value)
    if target.lower() == "off":
        return ""
    if not re.fullmatch(r"/[!-~]{0,1023}", target) or "#" in target:
        raise ValueError('must be a path that begins with "/", such as "/health", or "off"')
    return target


def path(value: object) -> Path:
    """A path; ``~`` is the home folder, and stays where that is not known: another source may have a path."""
    plain = Path(text(value))
    if plain.parts[:1] == ("~",) and os.environ.get("HOME") == "":
        return plain  # Python takes it for the file system's root
    try:
        return plain.expanduser()
    except RuntimeError:
        return plain


def token(value: object) -> str:
    """A secret that travels in HTTP headers; how good it is, the requirement Exposure judges."""
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]{1,512}", value.strip()):
        raise ValueError("must be 1 to 512 letters, digits and signs of ASCII, without spaces")
    return value.strip()


def hosts(value: object) -> tuple[str, ...]:
    """Host names or addresses as they stand in a Host header, each with or without a port."""
    found = tuple(name.lower() for name in names(value))
    if not all(re.fullmatch(r"(\[[0-9a-f:.]+\]|[\w.-]+)(:[0-9]{1,5})?", name, re.ASCII) for name in found):
        raise ValueError('must be host names or addresses, such as "agent.example", "agent.example:8443" or "[::1]"')
    return found


def origins(value: object) -> tuple[str, ...]:
    """Origins of web pages as browsers send them."""
    found = tuple(name.lower() for name in names(value))
    if not all(re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#@*]+", name) for name in found):
        raise ValueError('must be origins, such as "https://agent.example", without a path and without wildcards')
    return found


def networks(value: object) -> tuple[str, ...]:
    """IP addresses or networks."""
    import ipaddress  # only where there is one

    found = names(value)
    try:
        return tuple(str(ipaddress.ip_network(name, strict=False)) for name in found)
    except ValueError:
        raise ValueError('must be IP addresses or networks, such as "10.0.0.7" or "10.0.0.0/24"') from None


def setting(default: T, parse: Callable[[object], T], about: str, *, anywhere: bool = True, secret: bool = False) -> T:
    """Declare one setting.

    ``about`` is its line in the table of docs/settings.md; ``anywhere=False`` keeps it out of pyproject.toml and
    the env file, for switches that only the person who types the command should set. ``secret=True`` keeps
    it out of pyproject.toml, which is under version control, and out of ``repr``.
    """
    metadata = {"parse": parse, "about": about, "anywhere": anywhere, "secret": secret}
    value: T = field(default=default, repr=not secret, metadata=metadata)
    return value


@dataclass(frozen=True, slots=True)
class Settings:
    """Every parameter of the requirements, the launcher and the server."""

    root: Path
    envfile: envfile.EnvFile
    environment: Mapping[str, str] = field(repr=False)
    """The env file's variables below the process's own: what the application will see."""
    own: tuple[str, ...] = field(repr=False)
    """The variables that the process itself was given: those win over the env file's."""
    sources: Mapping[str, str] = field(repr=False)
    """Where each setting that is no default comes from, by setting name."""
    project: str
    """``[project] name`` of pyproject.toml; empty where it has none."""
    declared: Mapping[str, Any] | None = field(repr=False)
    """What ``[project]`` says of dependencies ("dependencies" and "dynamic", as they stand); None: no such table."""
    set_aside: tuple[str, ...]
    """Variables that look like settings, and come from a platform; see servicelinks.py."""
    next_start: tuple[str, ...] = ()
    """What the next start would do differently, for a re-run: its settings are those of the instance that runs."""
    envfile_broke: bool = False
    """Whether the env file was good when the instance read it, and is not any more; for a re-run."""

    host: str = setting("127.0.0.1", host, "address to serve on")
    port: int = setting(8002, whole(1, 65535), "port to serve on")
    app: str = setting("server.app:create_app", app, "the ASGI application, or a function that makes it")
    python: str = setting(">=3.13.8", specifier, "the Python versions that the application runs on")
    env_file: Path = setting(_ENV_FILE, path, "the file with the application's variables and keys")
    state_dir: Path = setting(_STATE_DIR, path, "where reports are kept; beside pyproject.toml")
    history: int = setting(200, whole(1, 100_000), "past runs that are kept of each address, for /diagnostics/history")
    port_cleanup: str = setting(
        "user", one_of("user", "own", "never"), "whose processes may be stopped to free the port"
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
        "deadline of each requirement; what the holder of the port may take to end comes on top, of run_timeout, too",
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
        None, switch, "start a crashed worker again (yes, unless a unit's or a container's end restarts this process)"
    )
    restart_limit: int = setting(
        5,
        whole(1, 1_000_000),
        "crashes within restart_window after which it is given up, as it is after two in a row before being ready",
    )
    restart_window: float = setting(60.0, duration(0.1, 86400), "see restart_limit")
    restart_backoff: float = setting(
        0.5, duration(0, 30), "wait before the second restart; doubles up to 30 s (the first is at once)"
    )
    startup_timeout: float = setting(
        600.0,
        interval(1, 86400),
        "deadline of the application's start-up (its lifespan), and of its import where a worker is started again"
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
        "what a server that replaces a running one is asked for first: any answer below 500 will do"
        " (server.app: /health/ready, others: /), or off",
    )
    ready_timeout: float = setting(30.0, duration(0.1, 3600), "time that it has to answer")
    if_running: str = setting(
        "replace",
        one_of("replace", "keep", "fail"),
        "what to do about a server that this command started and that serves the address already",
    )
    refresh: float = setting(
        0.0, interval(10, 30 * 86400), "time between re-runs in the background, 10 s or more (0: none)"
    )
    rerun_gates: bool = setting(
        True, switch, "take the server out of rotation (503) while a critical requirement fails in its re-runs"
    )
    disk_space: int = setting(1024**3, size, "free space wanted where the state folder is")
    memory: int = setting(256 * 1024**2, size, "memory that should be available")
    open_files: int = setting(
        1024,
        whole(1, 2**31),
        "open files that the process which serves should be allowed; the worker raises its soft limit to that, and to"
        " what its connections need, as far as the hard limit lets it",
    )
    connections: int = setting(
        4096,
        whole(1, 1_000_000),
        "connections at once; beyond that idle ones are closed, and if none is idle the new one gets 503",
    )
    request_size: int = setting(1024**2, size, "the largest body of a request; beyond, the answer is 413")
    request_timeout: float = setting(
        10.0,
        duration(0.1, 3600),
        "time that a client has to send a request's head, and to send a body or take an answer,"
        " the latter two plus one second for every 8 KiB",
    )
    websocket_message_size: int = setting(
        1024**2, size, "the largest WebSocket message that is read at all, after decompression; then 1009"
    )
    websocket_compression: bool = setting(
        False, switch, "compress WebSocket messages with clients that offer it; takes twice the memory for a connection"
    )
    websocket_controls: int = setting(600, whole(1, 1_000_000), "pings and pongs a minute from a WebSocket; then 1008")
    websocket_fragments: int = setting(
        6000,
        whole(1, 10_000_000),
        "frames a minute from a WebSocket that are empty, or parts of a message of less than 128 bytes; then 1008",
    )
    turn_timeout: float = setting(120.0, duration(0.1, 3600), "deadline of each chat turn")
    chat_connections: int = setting(2000, whole(1, 1_000_000), "chat connections at once; one more is closed with 1013")
    chat_message_size: int = setting(64 * 1024, size, "the longest chat message that is taken, in bytes of its frame")
    chat_queue: int = setting(16, whole(1, 10_000), "messages of a chat session that wait or are answered")
    chat_queue_size: int = setting(256 * 1024, size, "text of those together, where there is more than one")
    chat_backlog: int = setting(
        512 * 1024, size, "characters that wait for a chat client which does not read; then the connection is cut"
    )
    chat_rate: int = setting(
        20, whole(1, 100_000), "chat messages a second from a connection, five times as many in a burst; then 1008"
    )
    follower_rate: int = setting(
        5,
        whole(1, 100_000),
        "messages a second from a follower of /ws/diagnostics, ten times as many at once; then 1008",
    )
    follower_backlog: int = setting(
        4 * 1024**2, size, "characters that wait for a follower which does not read; then the connection is cut"
    )
    session_age: float = setting(
        30 * 86400.0, duration(60, 3650 * 86400), "time after its last message that a chat session is kept"
    )
    session_limit: int = setting(10_000, whole(1, 10_000_000), "chat sessions kept; the oldest make room")
    session_size: int = setting(16 * 1024**2, size, "text that a chat session may hold")
    token: str | None = setting(
        None,
        token,
        "access token that clients must send (16 characters or more), never in pyproject.toml",
        secret=True,
    )
    allowed_hosts: tuple[str, ...] = setting(
        (),
        hosts,
        "names in the Host header that are answered, beside loopback's, the address served on and, where others can"
        " reach it, the machine's own",
    )
    allowed_origins: tuple[str, ...] = setting(
        (), origins, "origins of other web pages that may open WebSockets here and send requests"
    )
    trusted_proxies: tuple[str, ...] = setting(
        (), networks, "addresses of reverse proxies whose X-Forwarded-For and -Proto count; then nobody is local"
    )
    plugins: tuple[str, ...] = setting((), modules, "pytest plugins that the suite needs, by module name")
    ignore: tuple[str, ...] = setting((), names, "critical requirements that may fail, by title or id")
    not_used: tuple[str, ...] = setting(
        (), names, 'optional services that are not wanted, by name (Perplexity): a grey "not used" instead of a warning'
    )
    notify: tuple[str, ...] = setting(
        (),
        urls,
        "whom to tell about changes: Apprise URLs, separated by commas or blanks (env file or environment only)",
        secret=True,
    )
    demo: bool = setting(False, switch, "the embedded profile: no env file, no keys, no network")
    offline: bool = setting(False, switch, "leave out what needs the network")
    log_file: Path | None = setting(
        None,
        path,
        "where output and audit are written as well, mode 0600, rotated at 5 MiB; beside pyproject.toml"
        " (the audit is in state_dir/audit.log in any case)",
    )
    log_format: str = setting(
        "text", one_of("text", "json"), "lines of the log file; with json the audit goes to standard error, too"
    )
    skip: bool = setting(
        False, switch, "start an application directly without its suite (environment only)", anywhere=False
    )

    @property
    def address(self) -> str:
        """``host:port`` as it stands in a URL."""
        return address(self.host, self.port)

    def place(self, name: str) -> str:
        """Where this setting was set, for people who have to mend it: file and line, variable or option."""
        source, variable = self.sources.get(name, "the default"), PREFIX + name.upper()
        if source == "the env file":
            return f"{self.envfile.path}:{self.envfile.lines.get(variable, 1)}: {variable}"
        if source == "the environment":
            return f"environment variable {variable}"
        return f"{source}: {name}" if source.startswith("pyproject.toml") else source

    @property
    def unused(self) -> frozenset[str]:
        """The names of the services that are not used, in small letters."""
        return frozenset(name.casefold() for name in self.not_used)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        # The address itself: a name that begins like one may lead anywhere (127.0.0.1.example.com).
        return self.host.lower() in ("localhost", "::1") or bool(re.fullmatch(r"127(\.[0-9]{1,3}){3}", self.host))

    @property
    def readiness_path(self) -> str:
        """What a worker is asked for that replaces another one; empty: nothing."""
        if self.ready_path is not None:
            return self.ready_path
        return "/health/ready" if self.app.partition(":")[0] == AGENT else "/"

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
        """Where secrets can be: in what the application sees, and in values of the env file that others hide there."""
        return self.environment, self.envfile.values

    @property
    def state(self) -> StateFolder:
        """The paths of what is kept in the state folder."""
        return StateFolder(self.state_dir)

    @property
    def default_state_dir(self) -> Path:
        """The state folder of a project that names no other."""
        return self.root / _STATE_DIR

    def to_message(self) -> dict[str, Any]:
        """For the channel to a child, as JSON values: what was read once counts for all, whatever is edited meanwhile.

        Secrets are in it.
        """
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "envfile"}
        values["envfile"] = {entry.name: getattr(self.envfile, entry.name) for entry in fields(self.envfile)}
        values["envfile"]["path"] = str(self.envfile.path)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    @classmethod
    def of_message(cls, data: Mapping[str, Any]) -> Settings:
        """The other way."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        values["root"] = Path(data["root"])
        values["envfile"] = envfile.EnvFile(**{**data["envfile"], "path": Path(data["envfile"]["path"])})
        for name, entry in SETTINGS.items():
            if entry.metadata["parse"] is path and values[name] is not None:
                values[name] = Path(values[name])
        return cls(**values)


QUOTES = ("''", '""', "``", "\u2018\u2019", "\u201c\u201d", "\u201e\u201c")
"""Pairs that values are put between, those that text processors make of them included."""
TOKEN_LENGTH = 16
"""Characters that a token needs before anybody but the local user may use it."""


def address(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


EARLY = frozenset({"env_file", "demo"})
"""Where the env file is, and whether there is one: that cannot stand in it."""
SETTINGS = {entry.name: entry for entry in fields(Settings) if "parse" in entry.metadata}


def pyproject(root: Path) -> dict[str, Any]:
    """The project's pyproject.toml.

    Raises SettingsError where it is missing or is not TOML.
    """
    file = root / "pyproject.toml"
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: is not valid TOML: {error}") from None


def load(root: Path, environ: Mapping[str, str] | None = None, options: Mapping[str, object] | None = None) -> Settings:
    """The settings of the project in ``root``.

    ``options`` are the command line's, by setting name, None where one was not given. Raises
    SettingsError, whose message names file and line, variable or option.
    """
    environ = dict(os.environ if environ is None else environ)
    options = {name: value for name, value in (options or {}).items() if value is not None}
    project = pyproject(root)
    tool = project.get("tool", {})
    table = tool.get("preflight", {}) if isinstance(tool, dict) else None
    if not isinstance(table, dict):
        raise SettingsError("pyproject.toml: [tool.preflight] must be a table")

    chosen: dict[str, object] = {}
    sources: dict[str, str] = {}
    for key, value in table.items():
        where = _line(root, key)
        if key not in SETTINGS:
            raise SettingsError(f"{where}: unknown setting {key!r} in [tool.preflight]{_nearest(key)}")
        if not SETTINGS[key].metadata["anywhere"]:
            raise SettingsError(f"{where}: {key} can be set in the environment only: {PREFIX}{key.upper()}")
        if SETTINGS[key].metadata["secret"]:
            raise SettingsError(f"{where}: {key} is a secret: set {PREFIX}{key.upper()} in the env file instead")
        chosen[key] = _parse(key, value, f"{where}: {key}")
        sources[key] = where

    set_aside = _links(environ)
    own = {name: value for name, value in environ.items() if name not in set_aside}
    variables = _variables(own, "environment variable", everywhere=True)
    given = {name: _parse(name, value, _option(name)) for name, value in options.items()}

    # Where the env file is cannot stand in the env file; the embedded profile has none.
    early = chosen | variables | given
    demo = bool(early.get("demo", False))
    named = "env_file" in variables or "env_file" in given
    file = _at_home("env_file", early.get("env_file", _ENV_FILE), needed=named and not demo)
    if demo:
        content = envfile.EnvFile(root / file, exists=False)
    elif _homeless(file):
        content = envfile.EnvFile(file, problem=f"{file} is nowhere: the home folder is not known here", exists=False)
    else:
        content = envfile.read(root / file)
    late = _variables(content.values, str(content.path), lines=content.lines)
    chosen |= late
    chosen |= variables | given
    sources |= dict.fromkeys(late, "the env file") | dict.fromkeys(variables, "the environment")
    sources |= {name: f"option {_option(name)}" for name in given}
    if demo:
        chosen["demo"] = True
        sources["python"] = "the embedded profile"
        floor = project.get("project", {}).get("requires-python", ">=3.11")
        chosen["python"] = _parse("python", floor, "pyproject.toml: requires-python")
    if chosen.get("demo"):
        chosen["offline"] = True
    chosen["env_file"] = content.path
    if "log_file" in chosen:
        chosen["log_file"] = root / _at_home("log_file", chosen["log_file"])
    chosen["state_dir"] = root / _at_home("state_dir", chosen.get("state_dir", _STATE_DIR))

    return Settings(
        root=root,
        envfile=content,
        environment={**content.values, **environ},
        own=tuple(environ),
        sources=sources,
        project=_name_of(project),
        declared=_declared(project),
        set_aside=set_aside,
        **chosen,  # type: ignore[arg-type]  # each value went through its setting's own parser
    )


def _links(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The variables of service links in an environment."""
    if not any(name.startswith(PREFIX) and ("_PORT" in name or name.endswith("_NAME")) for name in environ):
        return ()
    from preflight.settings import servicelinks  # only where something looks like them

    return tuple(servicelinks.members(environ, PREFIX, {PREFIX + name.upper() for name in SETTINGS}))


def reread(running: Settings, options: Mapping[str, object]) -> Settings:
    """The settings of a re-run: those that ``running``, the instance, has, with the env file as it is by now.

    A setting or a variable that was changed since is the next start's. Raises SettingsError where that start would.
    """
    given = {name: value for name, value in running.environment.items() if name in running.own}
    fresh = load(running.root, given, options)
    broke = running.envfile.problem is None and fresh.envfile.problem is not None
    return replace(running, envfile=fresh.envfile, envfile_broke=broke, next_start=_differences(running, fresh))


def _differences(running: Settings, fresh: Settings) -> tuple[str, ...]:
    """What a start would do differently now, setting by setting, with where it stands; of a secret only its name."""
    found = []
    for name, entry in SETTINGS.items():
        if (value := getattr(fresh, name)) != getattr(running, name):
            shown = "" if entry.metadata["secret"] else f" {value}"
            found.append(f"{name}{shown} ({fresh.sources.get(name, 'the default')})")
    if fresh.declared != running.declared:
        found.append("dependencies (pyproject.toml)")
    return tuple(found)


def _name_of(project: Mapping[str, Any]) -> str:
    table = project.get("project")
    name = table.get("name") if isinstance(table, dict) else None
    return name if isinstance(name, str) else ""


def _declared(project: Mapping[str, Any]) -> dict[str, Any] | None:
    table = project.get("project")
    if not isinstance(table, dict):
        return None
    return {name: _plain(table[name]) for name in ("dependencies", "dynamic") if name in table}


def _plain(value: object) -> object:
    """A value of TOML as one of JSON."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float) else str(value)


def _at_home(name: str, value: object, *, needed: bool = True) -> Path:
    """The path with ``~`` expanded; a process without a home folder (a container's made-up user) must name one."""
    chosen = path(str(value))
    if needed and _homeless(chosen):
        raise SettingsError(f"{name}: the home folder of {chosen} is not known here; set {PREFIX}{name.upper()}")
    return chosen


def _homeless(path: Path) -> bool:
    """Whether a path begins in a home folder that is not known."""
    return bool(path.parts) and path.parts[0].startswith("~")


def _variables(
    environ: Mapping[str, str], source: str, *, lines: Mapping[str, int] | None = None, everywhere: bool = False
) -> dict[str, object]:
    found: dict[str, object] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower()
        where = f"{source}:{lines[variable]}: {variable}" if lines else f"{source} {variable}"
        if name not in SETTINGS:
            raise SettingsError(f"{where}: no such setting{_nearest(name, PREFIX, everywhere=everywhere)}")
        if not everywhere and not SETTINGS[name].metadata["anywhere"]:
            raise SettingsError(f"{where} can be set in the environment only")
        if not everywhere and name in EARLY:
            raise SettingsError(f"{where} cannot be set in the env file")
        if quoted(value):
            kept = "" if lines else ", as `docker --env-file` keeps them"
            raise SettingsError(f"{where} has quotes around its value{kept}: leave them out")
        try:
            found[name] = _parse(name, value, where)
        except SettingsError as error:
            if value.strip():
                raise
            raise SettingsError(
                f"{error}, and is empty: set it, or {'leave it out' if lines else 'unset it'}"
            ) from None
    return found


def quoted(value: str) -> bool:
    """Whether a variable's value has quotes around it, which are a shell's or an env file's and nobody took away."""
    plain = value.strip()
    return len(plain) > 1 and plain[0] + plain[-1] in QUOTES


def _parse(name: str, value: object, where: str) -> object:
    try:
        parsed: object = SETTINGS[name].metadata["parse"](value)
    except ValueError as error:
        raise SettingsError(f"{where} {error}") from None
    return parsed


def _option(name: str) -> str:
    return "--no-cleanup" if name == "port_cleanup" else f"--{name.replace('_', '-')}"


def _nearest(name: str, prefix: str = "", *, everywhere: bool = False) -> str:
    """What an unknown name may have been meant for, and where that is set if not here.

    ``prefix``: as a variable, of the environment (``everywhere``) or of the env file; else in pyproject.toml.
    """
    import difflib  # only when something is wrong

    spelled = name.lower().replace("-", "_").removeprefix(PREFIX.lower())
    close = difflib.get_close_matches(spelled, SETTINGS, n=1)
    if not close:
        return ""
    variable = PREFIX + close[0].upper()
    if not everywhere and not SETTINGS[close[0]].metadata["anywhere"]:
        return f"; did you mean {variable!r}, which can be set in the environment only?"
    if prefix and not everywhere and close[0] in EARLY:
        return f"; did you mean {variable!r}, which cannot be set in the env file?"
    if not prefix and SETTINGS[close[0]].metadata["secret"]:
        return f"; did you mean {variable!r}, which is a secret, for the env file?"
    return f"; did you mean {variable if prefix else close[0]!r}?"


def _line(root: Path, key: str) -> str:
    """``pyproject.toml:LINE`` of a key of our table; tomllib gives no positions."""
    inside = False
    lines = (root / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if line.strip().startswith("["):
            inside = line.split("#")[0].strip() == "[tool.preflight]"
        elif inside and line.lstrip(" \t\"'").removeprefix(key).lstrip(" \t\"'")[:1] in ("=", "."):
            return f"pyproject.toml:{number}"
    return "pyproject.toml"
