"""The table of settings that every application has, for launcher, suite and server alike.

`loading` reads their sources, in order of rising precedence: ``[tool.preflight]`` in pyproject.toml, the env file, the
environment (``PREFLIGHT_`` + the name in capitals), the command line's options. `model` has what follows from them.

A plain dataclass: the launcher loads this before it has started anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from preflight.settings.fields import setting
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
from preflight.settings.sources import Sources

DEFAULT_ENV_FILE = Path(".env")
DEFAULT_STATE_DIR = Path(".preflight")


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Table(Sources):
    """Each setting's value, and what the sources say beyond settings."""

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
    probe_timeout: float = setting(
        2.0, duration(0.1, 60), "deadline of each question that a probe asks over the network"
    )
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
        "what to do if a server that was started with this command already serves the address",
    )
    refresh: float = setting(
        0.0, interval(10, 30 * 86400), "time between re-runs in the background, 10 s or more (0: none)"
    )
    rerun_interval: float = setting(
        10.0,
        duration(0, 3600),
        "time from the end of a re-run until the next one may begin; an earlier request gets 429",
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
        "time between two heartbeats of an instance in the database, up to a fifth more or less; an instance that"
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
