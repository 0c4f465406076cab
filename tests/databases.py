"""PostgreSQL and PgBouncer: Debian's own, started by the tests as a user without privileges.

Where they are absent, the tests that need them are skipped, except in CI.
"""

from __future__ import annotations

import atexit
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import pytest

from tests.portnumbers import unused_port

PASSWORD = "canary-3f9a1c77e2Zq-password"
"""Of every role. No message, report or log may show it."""
NOBODY = 65534
_numbers = itertools.count(1)


def absent(what: str) -> None:
    """Skip; in CI a test that cannot run has failed."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not installed")
    pytest.skip(f"needs {what}")


def programs() -> Path:
    """The folder with PostgreSQL's programs, the newest that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        absent("postgresql")
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        pytest.skip("initdb looks its user up, who has no name here")
    return found[-1]


def unprivileged(folder: Path) -> list[str]:
    """What a command begins with so that it runs without root's rights; ``folder`` is given to whom it runs as."""
    if os.geteuid() != 0:
        return []
    os.chown(folder, NOBODY, NOBODY)
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


def _read_on(log: IO[bytes]) -> threading.Thread:
    """Read a server's log to its end, so that it never waits for a reader."""

    def read() -> None:
        with log:
            while log.read(1 << 16):
                pass

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def folder(above: Path) -> Path:
    """A folder for a server, of its own."""
    made = above / f"server{next(_numbers)}"
    made.mkdir()
    return made


def _environ(home: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(home)}


@cache
def _empty_cluster() -> Path:
    """What initdb makes in a second, for every server of this process to begin with."""
    folder = Path(tempfile.mkdtemp(prefix="preflight-initdb-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    user = unprivileged(folder)
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    initdb = [programs() / "initdb", "-D", folder / "data", "-U", "me", "-A", "scram-sha-256"]
    command = [*user, *map(str, initdb), f"--pwfile={password}", "-N", "-E", "UTF8"]
    made = subprocess.run(command, capture_output=True, env=_environ(folder), text=True)
    assert made.returncode == 0, made.stderr
    return folder / "data"


class Postgres:
    """A cluster of the tests' own. The role ``me`` owns it; every role's password is PASSWORD."""

    def __init__(self, folder: Path, *options: str, host: str = "127.0.0.1") -> None:
        """``options`` are the server's, "max_connections=10" say. It is started at once."""
        # Not below pytest's folder, whose root every other run of pytest closes to other users.
        self.folder = folder if os.geteuid() else Path(tempfile.mkdtemp(prefix="preflight-postgres-"))
        folder = self.folder
        self.host = host
        self.port = unused_port()
        self.options = options
        self._programs = programs()
        self._user = unprivileged(folder)
        self._environ = _environ(folder)
        self.process: subprocess.Popen[bytes] | None = None
        subprocess.run([*self._user, "cp", "-a", str(_empty_cluster()), str(folder / "data")], check=True)
        if host != "127.0.0.1":
            with (folder / "data" / "pg_hba.conf").open("a") as rules:
                rules.write("host all all all scram-sha-256\n")
        self.start()

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        assert self.process is None
        given = [part for option in ("fsync=off", *self.options) for part in ("-c", option)]
        where = ["-p", str(self.port), "-h", self.host, "-k", str(self.folder)]
        command = [*self._user, str(self._programs / "postgres"), "-D", str(self.folder / "data"), *where, *given]
        self.process = subprocess.Popen(
            command, env=self._environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        log: IO[bytes] | None = self.process.stderr
        assert log is not None
        said = []
        for line in log:
            said.append(line)
            if b"ready to accept connections" in line:
                break
        else:
            raise AssertionError(b"".join(said).decode())
        self._reader = _read_on(log)

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it: SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(60)
        self._reader.join(60)
        self.process = None

    def signal_all(self, number: int) -> None:
        """Send a signal to the server and its backends: SIGSTOP makes it a server that hangs, SIGCONT ends that."""
        assert self.process is not None
        # A backend leads a group of its own, and all are of one session.
        listed = subprocess.run(["ps", "-o", "pid=", "-s", str(self.process.pid)], capture_output=True, check=True)
        for pid in map(int, listed.stdout.split()):
            os.kill(pid, number)

    def url(self, *, user: str = "me", password: str = PASSWORD, database: str = "postgres", port: int = 0) -> str:
        return f"postgresql://{user}:{password}@{self.host}:{port or self.port}/{database}"

    def run(self, statement: str, *, database: str = "postgres") -> None:
        """One statement, as the owner."""
        self.ask(statement, database=database)

    def ask(self, question: str, *, database: str = "postgres") -> Any:
        """The first row of the answer, None where it has none; as the owner."""
        import psycopg

        with psycopg.connect(self.url(database=database), autocommit=True) as connection:
            answer = connection.execute(question.encode())
            return answer.fetchone() if answer.description else None

    def rows(self, question: str, *, database: str = "postgres") -> list[tuple[Any, ...]]:
        """All rows of the answer, as the owner."""
        import psycopg

        with psycopg.connect(self.url(database=database), autocommit=True) as connection:
            return connection.execute(question.encode()).fetchall()

    def role(self, name: str, options: str = "") -> str:
        """Make a role that may log in."""
        self.run(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}' {options}")
        return name

    def database(self, owner: str = "me") -> str:
        """The name of a new, empty database."""
        name = f"db{next(_numbers)}"
        self.run(f"CREATE DATABASE {name} OWNER {owner}")
        return name


@contextmanager
def postgres(folder: Path, *options: str) -> Iterator[Postgres]:
    """A cluster that ends with the block."""
    server = Postgres(folder, *options)
    try:
        yield server
    finally:
        if server.process is not None:
            server.signal_all(signal.SIGCONT)
            server.stop(signal.SIGQUIT)
        shutil.rmtree(server.folder, ignore_errors=True)


@contextmanager
def pgbouncer(server: Postgres, folder: Path, *options: str) -> Iterator[int]:
    """The port of a PgBouncer before it, in transaction mode, which asks for the same passwords."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        absent("pgbouncer")
    if os.geteuid() == 0:
        folder = Path(tempfile.mkdtemp(prefix="preflight-pgbouncer-"))
    port = unused_port()
    users, settings = folder / "users.txt", folder / "pgbouncer.ini"
    users.write_text(f'"me" "{PASSWORD}"\n')
    lines = [
        "[databases]", f"* = host={server.host} port={server.port}",
        "[pgbouncer]", "listen_addr = 127.0.0.1", f"listen_port = {port}", "unix_socket_dir =",
        "pool_mode = transaction", "auth_type = scram-sha-256", f"auth_file = {users}", "max_client_conn = 2000",
        *options,
    ]  # fmt: skip
    settings.write_text("\n".join(lines) + "\n")
    for path in (users, settings):
        path.chmod(0o644)
    command = [*unprivileged(folder), str(program), str(settings)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    log = process.stderr
    assert log is not None
    for line in log:
        if b"process up" in line:
            break
    reader = _read_on(log)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(60)
        reader.join(60)
        if os.geteuid() == 0:
            shutil.rmtree(folder)
