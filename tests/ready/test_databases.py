"""PostgreSQL and Redis: Debian's own, started by the tests; skipped where they are absent, except in CI."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from preflight import ready
from tests import databases
from tests.databases import Postgres, absent
from tests.portnumbers import unused_port
from tests.ready.asking import CANARY, ask
from tests.ready.listeners import garbage, listening, reset, swallowing
from tests.waiting import until

LONG = 30.0  # seconds, for what answers at once on a busy machine


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with databases.postgres(tmp_path_factory.mktemp("postgres"), "max_connections=10") as server:
        yield server


@pytest.mark.slow
def test_postgres(tmp_path: Path, postgres: Postgres) -> None:
    """A database that answers, is new enough, has the extension and lets its role write; nothing is left behind."""
    pytest.importorskip("psycopg")
    test = ready.postgres("DATABASE_URL", at_least="13", extensions=["plpgsql"], timeout=LONG)
    for scheme in ("postgresql", "postgres", "postgresql+asyncpg"):
        url = postgres.url().replace("postgresql", scheme, 1)
        ended = ask(tmp_path, test, DATABASE_URL=url)
        assert ended.message.startswith("PostgreSQL "), ended
    assert ended.details["writes"] is True


def test_what_postgres_lacks(tmp_path: Path, postgres: Postgres) -> None:
    """A version, an extension that could be made, one that is not on the machine, and the right to write."""
    url = postgres.url()
    old = ask(tmp_path, ready.postgres("DATABASE_URL", at_least="99", timeout=LONG), DATABASE_URL=url)
    assert old.message.endswith(", but must be 99 or newer")
    vector = ask(tmp_path, ready.postgres("DATABASE_URL", extensions=["no_such"], timeout=LONG), DATABASE_URL=url)
    assert vector.message == "the database has no extension no_such"
    assert vector.fix == "install the extension on the database's machine first: no_such"
    postgres.run(f"CREATE ROLE reader LOGIN PASSWORD '{CANARY}'")
    postgres.run("ALTER ROLE reader SET default_transaction_read_only = on")
    reader = ask(tmp_path, ready.postgres("DATABASE_URL", timeout=LONG), DATABASE_URL=postgres.url(user="reader"))
    assert reader.message == "the database does not let this role write: its transactions are read-only"
    test = ready.postgres("DATABASE_URL", writes=False, timeout=LONG)
    assert ask(tmp_path, test, DATABASE_URL=postgres.url(user="reader")).outcome == "passed"


def test_postgres_that_refuses(tmp_path: Path, postgres: Postgres, free_port: int) -> None:
    """Password, role, database and port are told apart, and no address is shown."""
    test = ready.postgres("DATABASE_URL", timeout=LONG)
    wrong = ask(tmp_path, test, DATABASE_URL=postgres.url(password=f"{CANARY}x"))
    assert wrong.message == "the password is rejected"
    nobody = ask(tmp_path, test, DATABASE_URL=postgres.url(user="nobody"))
    assert nobody.message == "the password is rejected"  # PostgreSQL does not tell strangers whom it knows
    no_database = ask(tmp_path, test, DATABASE_URL=postgres.url(database="gone"))
    assert no_database.message == "there is no such database"
    refused = ask(tmp_path, test, DATABASE_URL=postgres.url(port=free_port))
    assert refused.message == "connection refused: nothing listens there"


def test_parameters_of_other_drivers(tmp_path: Path, postgres: Postgres) -> None:
    """libpq would refuse the whole URL for them; a password may come from the application's environment instead."""
    test = ready.postgres("DATABASE_URL", timeout=LONG)
    url = f"{postgres.url()}?schema=public&connection_limit=5&ssl=prefer&connect_timeout=9"
    assert ask(tmp_path, test, DATABASE_URL=url).outcome == "passed"
    without = f"postgresql://me@127.0.0.1:{postgres.port}/postgres"
    assert ask(tmp_path, test, DATABASE_URL=without).message == "it requires a password, and the URL has none"
    assert ask(tmp_path, test, DATABASE_URL=without, PGPASSWORD=CANARY).outcome == "passed"
    several = f"postgresql://me:{CANARY}@127.0.0.1:{postgres.port},127.0.0.1:{postgres.port}/postgres"
    assert ask(tmp_path, test, DATABASE_URL=several).outcome == "passed"


def test_a_role_without_rights(tmp_path: Path, postgres: Postgres) -> None:
    """It may make temporary tables, as every role may, and can write to nothing that stays."""
    postgres.run(f"CREATE ROLE guest LOGIN PASSWORD '{CANARY}'")
    postgres.run("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    test = ready.postgres("DATABASE_URL", timeout=LONG)
    guest = ask(tmp_path, test, DATABASE_URL=postgres.url(user="guest"))
    assert guest.message == "the database does not let this role write: it may neither create a table nor write to one"
    postgres.run("CREATE TABLE kept (x integer)")
    postgres.run("GRANT INSERT ON kept TO guest")
    postgres.run("REVOKE TEMPORARY ON DATABASE postgres FROM PUBLIC")
    assert ask(tmp_path, test, DATABASE_URL=postgres.url(user="guest")).outcome == "passed"


def test_nothing_stays_in_a_database(tmp_path: Path, postgres: Postgres) -> None:
    """No table, no row, and no connection."""
    counts = "SELECT (SELECT count(*) FROM pg_class), (SELECT sum(n_tup_ins) FROM pg_stat_user_tables)"
    before = postgres.ask(counts)
    assert ask(tmp_path, ready.postgres("DATABASE_URL", timeout=LONG), DATABASE_URL=postgres.url()).outcome == "passed"
    assert postgres.ask(counts) == before
    until(
        lambda: postgres.ask("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'preflight'") == (0,),
        "it is gone",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "talk, message",
    [
        (garbage, "the server that answers does not speak PostgreSQL's protocol"),
        (reset, "the connection was closed without an answer"),
        (None, "no answer within 2 s"),
    ],
    ids=["garbage", "reset", "silent"],
)
def test_what_is_no_postgres(tmp_path: Path, talk: Callable[[socket.socket], object] | None, message: str) -> None:
    """What answers in its place is told apart, within the deadline."""
    pytest.importorskip("psycopg")
    with listening(talk) if talk else listening() as port:
        url = f"postgresql://me:{CANARY}@127.0.0.1:{port}/db"
        ended = ask(tmp_path, ready.postgres("DATABASE_URL", timeout=2.0), DATABASE_URL=url)
    assert (ended.outcome, ended.message) == ("failed", message)


@pytest.mark.slow
def test_a_postgres_that_swallows(tmp_path: Path) -> None:
    """Packets that nobody answers cost the deadline, and no more."""
    pytest.importorskip("psycopg")
    with swallowing() as port:
        url = f"postgresql://me:{CANARY}@127.0.0.1:{port}/db"
        ended = ask(tmp_path, ready.postgres("DATABASE_URL", timeout=2.0), DATABASE_URL=url)
    assert ended.message == "no answer within 2 s"


@pytest.mark.parametrize(
    "value", [f"mysql://me:{CANARY}@h/db", CANARY, f"postgresql://me:{CANARY}", "postgresql:///db"]
)
def test_urls_of_no_postgres(tmp_path: Path, value: str) -> None:
    """They fail before anybody is asked, and without a part of the value."""
    assert ask(tmp_path, ready.postgres("DATABASE_URL"), DATABASE_URL=value).outcome == "failed"


# Redis


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a Redis of the tests' own; its password is the canary."""
    program = shutil.which("redis-server")
    if program is None:
        absent("redis-server")
    folder, port = tmp_path_factory.mktemp("redis"), unused_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder), "--requirepass", CANARY]
    server = subprocess.Popen([str(program), *options], stdout=subprocess.PIPE)
    assert server.stdout is not None
    for line in server.stdout:
        if b"eady to accept connections" in line:
            break
    yield port
    server.terminate()
    server.communicate(timeout=60)


@pytest.mark.slow
def test_redis(tmp_path: Path, redis: int) -> None:
    """It answers, is new enough, and its policy is the one that is needed."""
    pytest.importorskip("redis")
    url = f"redis://:{CANARY}@127.0.0.1:{redis}/0"
    good = ask(tmp_path, ready.redis("REDIS_URL", at_least="5", policy="noeviction", timeout=LONG), REDIS_URL=url)
    assert good.message.startswith("Redis ")
    other = ask(tmp_path, ready.redis("REDIS_URL", policy="allkeys-lru", timeout=LONG), REDIS_URL=url)
    assert other.message == "the maxmemory-policy of Redis is noeviction, but must be allkeys-lru"
    assert other.fix == "redis-cli config set maxmemory-policy allkeys-lru"
    old = ask(tmp_path, ready.redis("REDIS_URL", at_least="99", timeout=LONG), REDIS_URL=url)
    assert old.message.endswith(", but must be 99 or newer")


@pytest.mark.slow
def test_a_redis_that_refuses_config(tmp_path: Path, redis: int) -> None:
    """What a managed service does not tell is unknown, not wrong."""
    library = pytest.importorskip("redis")
    with library.Redis(port=redis, password=CANARY) as client:
        client.execute_command("ACL", "SETUSER", "app", "on", f">{CANARY}", "~*", "+@all", "-config")
    url = f"redis://app:{CANARY}@127.0.0.1:{redis}/0"
    ended = ask(tmp_path, ready.redis("REDIS_URL", policy="noeviction", timeout=LONG), REDIS_URL=url)
    assert (ended.outcome, ended.message) == (
        "unknown", "the server refuses CONFIG, so it is unknown whether its maxmemory-policy is noeviction",
    )  # fmt: skip


@pytest.mark.slow
def test_redis_that_does_not_answer(tmp_path: Path, redis: int, free_port: int) -> None:
    """A wrong password, none, nobody, garbage, silence and a reset are told apart."""
    pytest.importorskip("redis")
    test = ready.redis("REDIS_URL", timeout=1.0)
    for login in (f":{CANARY}x@", ""):
        ended = ask(tmp_path, test, REDIS_URL=f"redis://{login}127.0.0.1:{redis}")
        assert ended.message == "the password is rejected, or missing in the URL"
    refused = ask(tmp_path, test, REDIS_URL=f"redis://127.0.0.1:{free_port}")
    assert refused.message == "connection refused: nothing listens there"
    for talk, message in (
        (garbage, "the server that answers does not speak the Redis protocol"),
        (reset, "the connection was closed without an answer"),
        (lambda _connection: None, "no answer within 1 s"),
    ):
        with listening(talk) as port:
            ended = ask(tmp_path, test, REDIS_URL=f"redis://:{CANARY}@127.0.0.1:{port}")
        assert ended.message.startswith(message), ended


@pytest.mark.slow
def test_what_a_redis_refuses(tmp_path: Path, redis: int) -> None:
    """It answers PING, and takes nothing that is written: a replica, one whose memory is full, a missing database."""
    library = pytest.importorskip("redis")
    url = f"redis://:{CANARY}@127.0.0.1:{redis}"
    test = ready.redis("REDIS_URL", timeout=LONG)
    gone = ask(tmp_path, test, REDIS_URL=f"{url}/99")
    assert gone.message == "it has no database with the number at the end of REDIS_URL"
    with library.Redis(port=redis, password=CANARY) as client:
        client.execute_command("ACL", "SETUSER", "pings", "on", f">{CANARY}", "-@all", "+ping")
        pings = ask(tmp_path, test, REDIS_URL=f"redis://pings:{CANARY}@127.0.0.1:{redis}")
        old = ready.redis("REDIS_URL", at_least="5", timeout=LONG)
        nobody_knows = ask(tmp_path, old, REDIS_URL=f"redis://pings:{CANARY}@127.0.0.1:{redis}")
        client.config_set("maxmemory", 1024)
        full = ask(tmp_path, test, REDIS_URL=url)
        client.config_set("maxmemory", 0)
        client.replicaof("127.0.0.1", 9)
        replica = ask(tmp_path, test, REDIS_URL=url)
        reads = ask(tmp_path, ready.redis("REDIS_URL", writes=False, timeout=LONG), REDIS_URL=url)
        client.replicaof("NO", "ONE")
    assert pings.outcome == "passed"
    assert pings.message == "Redis; it does not say whether it accepts writes"
    assert nobody_knows.outcome == "unknown"
    assert full.message == ("Redis refuses writes: its memory is full, and its maxmemory-policy is noeviction")
    assert replica.message == "Redis refuses writes: it is a replica"
    assert reads.outcome == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("begins", [b"$99999999999\r\n", b"+", b"-", b"*99999999999\r\n:1\r\n"])
def test_what_answers_for_redis_without_end(tmp_path: Path, begins: bytes) -> None:
    """It is hung up on, long before the memory is full."""
    pytest.importorskip("redis")

    def talk(connection: socket.socket) -> None:
        connection.sendall(begins)
        while True:
            connection.sendall(b":1\r\n" * 1000 if begins[:1] == b"*" else b"x" * 100_000)

    with listening(talk) as port:
        ended = ask(tmp_path, ready.redis("REDIS_URL", timeout=LONG), REDIS_URL=f"redis://127.0.0.1:{port}")
    assert ended.outcome == "failed"
    assert ended.message == "the server that answers sends more than 4 MiB, which Redis never does"


# Migrations


ENVIRONMENT = """
from alembic import context
from sqlalchemy import create_engine
engine = create_engine(context.config.get_main_option("sqlalchemy.url"))
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=None)
    with context.begin_transaction():
        context.run_migrations()
"""


PATHS = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
BEHIND = "the database is not at the head of the migrations: some have not been applied"


def plant_alembic(root: Path) -> None:
    """Migrations of alembic that have not been applied."""
    pytest.importorskip("alembic")
    versions = root / "migrations" / "versions"
    versions.mkdir(parents=True)
    (root / "alembic.ini").write_text(
        f"[alembic]\nscript_location = migrations\nsqlalchemy.url = sqlite:///{root}/a.db\n"
    )
    (root / "migrations" / "env.py").write_text(ENVIRONMENT)
    (versions / "one.py").write_text(
        "from alembic import op\nrevision = 'one'\ndown_revision = None\n"
        "def upgrade(): op.execute('CREATE TABLE t (x)')\ndef downgrade(): pass\n"
    )


def plant_django(root: Path) -> None:
    """Migrations of Django's that have not been applied."""
    pytest.importorskip("django")
    (root / "manage.py").write_text(
        "import os, sys\nfrom django.conf import settings\n"
        f"file = {{'ENGINE': 'django.db.backends.sqlite3', 'NAME': '{root}/d.db'}}\n"
        "settings.configure(DATABASES={'default': file},"
        " INSTALLED_APPS=['django.contrib.contenttypes'])\n"
        "from django.core.management import execute_from_command_line\nexecute_from_command_line(sys.argv)\n"
    )


def apply(root: Path, *command: str) -> None:
    """Apply them."""
    subprocess.run(
        [sys.executable, *command], cwd=root, check=True, capture_output=True, env={**os.environ, **PATHS}
    )  # fmt: skip


@pytest.mark.slow
def test_migrations_of_alembic(tmp_path: Path) -> None:
    """Applied, not applied, and not to be asked are told apart."""
    plant_alembic(tmp_path)
    test = ready.migrations(timeout=120)
    behind = ask(tmp_path, test, **PATHS)
    assert behind.message == BEHIND
    assert behind.fix == "alembic upgrade heads"
    apply(tmp_path, "-m", "alembic", "upgrade", "head")
    assert ask(tmp_path, test, **PATHS).message == "all applied"
    (tmp_path / "migrations" / "env.py").write_text(f"raise RuntimeError('{CANARY}')")
    broken = ask(tmp_path, test, **PATHS)
    assert broken.message.endswith("ended with exit code 1 (RuntimeError)")


@pytest.mark.slow
def test_migrations_that_may_not_log_in(tmp_path: Path, postgres: Postgres) -> None:
    """A login that the database refuses will not do later either; one that does not answer may."""
    plant_alembic(tmp_path)
    environment = ENVIRONMENT.replace('context.config.get_main_option("sqlalchemy.url")', "os.environ['URL']")
    (tmp_path / "migrations" / "env.py").write_text(f"import os\n{environment}")
    why = "the database server refuses the login that the migrations use, or does not have the database that they use"
    for url in (postgres.url(password="wrong-pw"), postgres.url(user="nobody-here"), postgres.url(database="gone")):
        refused = ask(tmp_path, ready.migrations(timeout=120), **PATHS, URL=by_psycopg(url))
        assert refused.message == why, url
    away = ask(tmp_path, ready.migrations(timeout=120), **PATHS, URL=by_psycopg(postgres.url(port=unused_port())))
    assert away.outcome == "unknown"


def by_psycopg(url: str) -> str:
    """As SQLAlchemy has it."""
    return url.replace("postgresql:", "postgresql+psycopg:")


@pytest.mark.slow
def test_migrations_of_alembic_in_pyproject(tmp_path: Path) -> None:
    """``[tool.alembic]`` is as good as an alembic.ini, and another file may be named."""
    plant_alembic(tmp_path)
    (tmp_path / "alembic.ini").rename(tmp_path / "database.ini")
    named = ask(tmp_path, ready.migrations(config="database.ini", timeout=120), **PATHS)
    assert (named.message, named.fix) == (BEHIND, "alembic -c database.ini upgrade heads")
    (tmp_path / "pyproject.toml").write_text("[tool.alembic]\nscript_location = 'migrations'\n")
    environment = ENVIRONMENT.replace(
        'context.config.get_main_option("sqlalchemy.url")', repr(f"sqlite:///{tmp_path}/a.db")
    )
    (tmp_path / "migrations" / "env.py").write_text(environment)
    assert ask(tmp_path, ready.migrations(timeout=120), **PATHS).message == BEHIND


@pytest.mark.slow
def test_migrations_of_django(tmp_path: Path) -> None:
    """``migrate --check`` is asked, and answers."""
    plant_django(tmp_path)
    test = ready.migrations(timeout=120)
    behind = ask(tmp_path, test, **PATHS)
    assert behind.message == BEHIND
    assert behind.fix == "python manage.py migrate"
    apply(tmp_path, "manage.py", "migrate")
    assert ask(tmp_path, test, **PATHS).message == "all applied"


@pytest.mark.slow
def test_migrations_of_both(tmp_path: Path) -> None:
    """Each is asked, and the one that lacks some is named; a kind that is named is asked alone."""
    plant_alembic(tmp_path)
    plant_django(tmp_path)
    both = ask(tmp_path, ready.migrations(timeout=120), **PATHS)
    assert both.message == BEHIND
    assert both.fix == "alembic upgrade heads && python manage.py migrate"
    assert both.details["kinds"] == ["alembic", "django"]
    apply(tmp_path, "-m", "alembic", "upgrade", "head")
    one = ask(tmp_path, ready.migrations(timeout=120), **PATHS)
    assert one.message == "the database is not at the head of the migrations of django: some have not been applied"
    assert one.fix == "python manage.py migrate"
    assert ask(tmp_path, ready.migrations("alembic", timeout=120), **PATHS).message == "all applied"


def test_no_migrations(tmp_path: Path) -> None:
    """A project without any is told what was looked for; a script of another kind is none of Django's."""
    neither = f"{tmp_path} has neither alembic.ini nor [tool.alembic] in pyproject.toml"
    (tmp_path / "manage.py").write_text("from flask_script import Manager\n")
    (tmp_path / "pyproject.toml").write_text("[tool.alembic-utils]\n")
    assert ask(tmp_path, ready.migrations()).message == f"{neither}, and no manage.py that names Django"
    assert ask(tmp_path, ready.migrations("alembic")).message == neither
    (tmp_path / "manage.py").unlink()
    assert ask(tmp_path, ready.migrations("django")).message == f"{tmp_path} has no manage.py"
    assert ask(tmp_path, ready.migrations(config="b/manage.py")).message == f"{tmp_path}/b/manage.py is not there"


@pytest.mark.slow
def test_a_deadline_is_kept(tmp_path: Path) -> None:
    """A command that hangs is ended."""
    (tmp_path / "manage.py").write_text("import signal\nsignal.pause()\n")
    begun = time.monotonic()
    ended = ask(tmp_path, ready.migrations("django", timeout=0.5))
    assert ended.outcome == "failed"
    assert "0.5 s" in ended.message
    assert time.monotonic() - begun < LONG
