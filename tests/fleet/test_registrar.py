"""The registrar: what it writes, that nobody waits for it, and what people are told once for the fleet."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preflight.launcher.telling import ALONE
from preflight.report.model import Check, Report
from tests import databases
from tests.databases import PASSWORD, Postgres
from tests.fleet.instances import Instance, run
from tests.receivers import Receiver
from tests.waiting import until

psycopg = pytest.importorskip("psycopg")

Runs = Callable[..., Report]
KEY = "OpenAI API Key"
SLOWER = {"PREFLIGHT_FLEET_HEARTBEAT": "3s", "PREFLIGHT_FLEET_WINDOW": "10s"}
"""For many instances, all of which have to write within the window, on a machine that has other things to do."""


@pytest.fixture
def runs(make_report: Runs, make_check: Callable[..., Check]) -> Runs:
    """Make the report of the next run, in which the checks of these titles fail."""
    numbers = iter(range(1, 10_000))

    def make(*failing: str, origin: str = "rerun", **changes: Any) -> Report:
        checks = [make_check(one, "failed" if one in failing else "passed", **changes) for one in (KEY, "Port", "Disk")]
        return make_report(*checks, run_id=f"{next(numbers):032x}", origin=origin)

    return make


@contextmanager
def fleet(folder: Path, url: str, count: int, notify: str = "", **environ: str) -> Iterator[list[Instance]]:
    """Instances that serve."""
    instances = [Instance(folder, url, notify, **environ) for _ in range(count)]
    for one in instances:
        one.join()
    try:
        yield instances
    finally:
        for one in instances:
            one.end()


def rows(url: str, question: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return list(connection.execute(question).fetchall())


def has_run(url: str, report: Report) -> Callable[[], bool]:
    return lambda: rows(url, "SELECT run_id FROM preflight.instances") == [(report.run_id,)]


def stands(url: str, verdict: str) -> Callable[[], bool]:
    return lambda: rows(url, "SELECT verdict, ended_at FROM preflight.instances") == [(verdict, None)]


def took(receiver: Receiver, count: int) -> Callable[[], bool]:
    return lambda: len(receiver.taken) >= count


def reached(instances: list[Instance]) -> Callable[[], bool]:
    return lambda: all(one.database == "reached" for one in instances)


def test_what_an_instance_writes(tmp_path: Path, url: str, runs: Runs) -> None:
    """It is there, how it stands, what has changed, and that it ends; a report only when an outcome changes."""
    with fleet(tmp_path, url, 1) as [one]:
        one.found(runs(origin="start"))
        run([one], reached([one]), "its row is there")
        who = "SELECT project, application, verdict, host, address, ended_at FROM preflight.instances"
        host, address = os.uname().nodename, one.settings.address
        assert rows(url, who) == [("shop", "shop:app", "good", host, address, None)]
        failed = runs(KEY, message="HTTP 401", fix="set it")
        for report in (failed, runs(KEY, message="HTTP 403"), runs()):
            one.found(report)
            run([one], has_run(url, report), "it is written")
            if report is failed:
                failing = "SELECT title, standing, outcome, message, fix FROM preflight.failing"
                assert rows(url, failing) == [(KEY, "blocks", "failed", "HTTP 401", "set it")]
        assert rows(url, "SELECT count(*) FROM preflight.failing") == [(0,)]
        changed = "SELECT title, before, after FROM preflight.changes ORDER BY at, title"
        assert rows(url, changed) == [
            ("", "good", "blocked"), (KEY, "ok", "blocks"), ("", "blocked", "good"), (KEY, "blocks", "ok"),
        ]  # fmt: skip
        documents = [
            Report.from_json(row[0]) for row in rows(url, "SELECT document FROM preflight.reports ORDER BY at")
        ]
        assert [report.status for report in documents] == ["passed", "failed", "passed"]
        beat = "SELECT seen_at > first_seen_at, verdict_since < seen_at FROM preflight.instances"
        run([one], lambda: rows(url, beat) == [(True, True)], "it has given a sign of life")
        remembered = json.loads(one.settings.state.database.read_text())
        assert abs(time.time() - remembered["reached_at"]) < 120
    run([], lambda: rows(url, "SELECT ending FROM preflight.instances") == [("stopped",)], "its end is written")
    assert rows(url, "SELECT ended_at IS NOT NULL FROM preflight.instances") == [(True,)]


def test_a_hostile_report(tmp_path: Path, url: str, runs: Runs) -> None:
    """What no text of PostgreSQL's can hold is written without it."""
    with fleet(tmp_path, url, 1) as [one]:
        one.found(runs(KEY, message="a\0b\ud800", details={"x": "\0\udfff"}))
        run([one], reached([one]), "it is written")
        assert rows(url, "SELECT message FROM preflight.failing WHERE title = 'OpenAI API Key'") == [("a?b?",)]


def test_an_outage_and_its_end(tmp_path: Path, url: str, runs: Runs, receiver: Receiver) -> None:
    """Eight instances notice it: two messages, each of which names all of them, and is written down as delivered."""
    with fleet(tmp_path, url, 8, receiver.url(), **SLOWER) as instances:
        for one in instances:
            one.found(runs(origin="start"))
        run(instances, reached(instances), "all are there")
        for failing, count in (((KEY,), 1), ((), 2)):
            for one in instances:
                one.found(runs(*failing))
            run(instances, took(receiver, count), "people are told")
        delivered = "SELECT count(*) FROM preflight.notices WHERE delivered_at IS NOT NULL"
        run(instances, lambda: rows(url, delivered) == [(2,)], "it is written that they were")
        outage, end = receiver.taken
        assert outage["title"] == f"❌ {KEY} fails on 8 of 8 (shop)"
        assert end["title"] == f"✅ {KEY} holds again on 8 of 8 (shop)"
        for message in (outage, end):
            assert all(one.name in message["message"] for one in instances)
        keys = {row[0] for row in rows(url, "SELECT key FROM preflight.notices")}
        assert {message["message"].splitlines()[-1] for message in receiver.taken} == {f"Notice {key}" for key in keys}


def test_a_sender_that_dies(tmp_path: Path, url: str, runs: Runs, receiver: Receiver) -> None:
    """Whoever held the notice is gone before it could be delivered: another instance sends it, with the same key."""
    receiver.hangs = True
    with fleet(tmp_path, url, 2, receiver.url(), **SLOWER) as instances:
        for one in instances:
            one.found(runs(origin="start"))
        run(instances, reached(instances), "both are there")
        for one in instances:
            one.found(runs(KEY))
        run(instances, lambda: len(receiver.tried) == 1, "one of them is sending")
        [(key, holder)] = rows(url, "SELECT key, holder FROM preflight.notices")
        dead = next(one for one in instances if one.id == holder)
        alive = [one for one in instances if one is not dead]
        # As after SIGKILL of its launcher: the registrar has heard nothing, and nobody turns the loop.
        os.kill(dead.registrar, signal.SIGKILL)
        notifier = dead.telling._notifier
        assert notifier is not None
        notifier.finish(0)
        receiver.hangs = False
        run(alive, lambda: len(receiver.taken) == 1, "the other one has sent it")
        assert receiver.taken[0]["message"].splitlines()[-1] == f"Notice {key}"
        delivered = "SELECT holder, tries FROM preflight.notices WHERE delivered_at IS NOT NULL"
        run(alive, lambda: rows(url, delivered) == [(alive[0].id, 2)], "it is written that it was")


def test_a_service_that_one_instance_does_not_reach(tmp_path: Path, url: str, runs: Runs, receiver: Receiver) -> None:
    """What it cannot deliver, another one does."""
    nowhere = Instance(tmp_path, url, "json://127.0.0.1:1/nobody", PREFLIGHT_NOTIFY_BACKOFF="0")
    nowhere.join()
    nowhere.found(runs(origin="start"))
    run([nowhere], reached([nowhere]), "it is there")
    nowhere.found(runs(KEY))
    given_back = "SELECT count(*) FROM preflight.notices WHERE held_until < now() AND delivered_at IS NULL"
    run([nowhere], lambda: rows(url, given_back) == [(1,)], "it has given the notice back")
    nowhere.end()
    with fleet(tmp_path, url, 1, receiver.url()) as [one]:
        one.found(runs(origin="start"))
        run([one], lambda: receiver.taken, "another instance has told it")
    assert [one["title"] for one in receiver.taken] == [f"❌ {KEY} fails on 1 of 1 (shop)"]


def test_a_registrar_that_is_killed(tmp_path: Path, url: str, runs: Runs, receiver: Receiver) -> None:
    """Another one takes its place, and is told what the first had not written: people hear of it once."""
    with fleet(tmp_path, url, 1, receiver.url(), PREFLIGHT_FLEET_WINDOW="10s") as [one]:
        one.found(runs(origin="start"))
        run([one], reached([one]), "it is there")
        first = one.registrar
        os.kill(first, signal.SIGSTOP)
        one.found(runs(KEY))
        os.kill(first, signal.SIGKILL)
        run([one], lambda: receiver.taken, "people are told")
        assert one.registrar != first
        run([one], reached([one]), "it is back")
        assert [one["title"] for one in receiver.taken] == [f"❌ {KEY} fails on 1 of 1 (shop)"]
        assert rows(url, "SELECT count(*) FROM preflight.instances") == [(1,)]


def test_a_registrar_that_does_not_read(tmp_path: Path, url: str, runs: Runs) -> None:
    """The launcher goes on at once, whatever it has to say."""
    with fleet(tmp_path, url, 1) as [one]:
        one.found(runs(origin="start"))
        run([one], reached([one]), "it is there")
        stopped = one.registrar
        os.kill(stopped, signal.SIGSTOP)
        large = runs(KEY, details={"text": "x" * 15_000})
        begun = time.monotonic()
        for number in range(300):  # more than its socket and the queue hold
            one.found(replace(large, run_id=f"{number:032x}"))
        assert time.monotonic() - begun < 5  # a channel waits for ten seconds
        last = "SELECT run_id FROM preflight.instances"
        run([one], lambda: rows(url, last) == [(f"{299:032x}",)], "another one has written the last")
        assert one.registrar != stopped


def test_without_anybody_to_tell(tmp_path: Path, url: str, runs: Runs) -> None:
    """An instance that tells nobody leaves no news behind for others."""
    with fleet(tmp_path, url, 1) as [one]:
        one.found(runs(origin="start"))
        run([one], reached([one]), "it is there")
        failed = runs(KEY)
        one.found(failed)
        run([one], has_run(url, failed), "it is written")
        assert rows(url, "SELECT count(*) FROM preflight.news") == [(0,)]


def test_what_is_old_goes(tmp_path: Path, url: str, runs: Runs) -> None:
    """Each kind of row is kept for its own time, counted on the database's clock."""
    from preflight.fleet.answers import FORGOTTEN
    from preflight.fleet.rows import Rows, Who

    with fleet(tmp_path, url, 1) as [one]:
        one.found(runs(origin="start"))
        run([one], reached([one]), "it is there")
        one.found(runs(KEY))
        run([one], lambda: rows(url, "SELECT count(*) FROM preflight.changes") == [(2,)], "it has changed")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("INSERT INTO preflight.instances (id, project, application, host, address, release,"
                               " beats_every, verdict, run_id, checks, seen_at) VALUES"
                               " ('old', '', '', '', '', '', 1, 'good', '', 0, now() - interval '8 days')")  # fmt: skip
            connection.execute("UPDATE preflight.changes SET at = now() - interval '31 days' WHERE title = ''")
            connection.execute("INSERT INTO preflight.reports VALUES ('old', 'r', now(), '{}')")
            for name, hours in (("old", 25), ("new", 23)):
                claimed_at = f"now() - interval '{hours} hours'"
                connection.execute(
                    f"INSERT INTO preflight.answers (question, claimed_at) VALUES ('{name}', {claimed_at})"
                )
        sweeper = Rows(url, {}, Who("x", "", "", "", "", ""), beats_every=1)
        day = 86400.0
        kept = {"instances": 7 * day, "changes": 30 * day, "reports": 7 * day, "notices": 30 * day}
        sweeper.sweep({**kept, "answers": FORGOTTEN})
        assert rows(url, "SELECT id FROM preflight.instances") == [(one.id,)]
        assert rows(url, "SELECT title FROM preflight.changes") == [(KEY,)]
        assert rows(url, "SELECT count(*) FROM preflight.reports WHERE instance = 'old'") == [(0,)]
        assert rows(url, "SELECT convert_from(question, 'UTF8') FROM preflight.answers") == [("new",)]


def test_a_row_that_somebody_has_removed_or_changed(tmp_path: Path, url: str, runs: Runs) -> None:
    """A forged verdict lasts until the next sign of life, and a row that is gone comes back."""
    with fleet(tmp_path, url, 1) as [one]:
        one.found(runs(origin="start"))
        run([one], reached([one]), "it is there")
        for forged in (
            "UPDATE preflight.instances SET verdict = 'broken', ended_at = now()",
            "DELETE FROM preflight.instances",
        ):
            with psycopg.connect(url) as connection:
                connection.execute(forged)
            run([one], stands(url, "good"), "it says again how it stands")


def test_forged_news(tmp_path: Path, url: str, runs: Runs, receiver: Receiver) -> None:
    """Whoever may write the rows sends one message at most, as text that obeys nobody; no verdict changes."""
    with fleet(tmp_path, url, 1, receiver.url()) as [one]:
        one.found(runs(origin="start"))
        run([one], reached([one]), "it is there")
        forge = "INSERT INTO preflight.news (instance, run_id, title, project, name, before, after, message, fix)"
        hostile = "\x1b[2J\u202eevil\r\n" + "x" * 10_000
        with psycopg.connect(url, autocommit=True) as connection, connection.transaction():
            for number in range(100):
                values = (f"forged-{number}", "r", KEY, "shop", hostile, "ok", "blocks", hostile, hostile)
                connection.execute(f"{forge} VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)", values)
        run([one], took(receiver, 1), "the message comes")
        [message] = receiver.taken
        assert message["title"] == f"❌ {KEY} fails on 100 of 101 (shop)"
        assert not {"\x1b", "\u202e", "\r"} & set(message["message"])
        assert len(message["message"]) <= 8_000
        assert message["message"].splitlines()[-1].startswith("Notice ")
        stands_as = "SELECT verdict FROM preflight.instances"
        assert rows(url, stands_as) == [("good",)]


# A database that is away.


@pytest.mark.slow
def test_a_database_that_comes_back(tmp_path: Path, runs: Runs, receiver: Receiver) -> None:
    """It is down and restarted: one line says that it is away, one that it is back, and everything is caught up."""
    with databases.postgres(databases.folder(tmp_path)) as server:
        url = server.url()
        with fleet(tmp_path, url, 2, receiver.url(), PREFLIGHT_FLEET_WINDOW="15s") as instances:
            for one in instances:
                one.found(runs(origin="start"))
            run(instances, reached(instances), "both are there")
            server.stop()
            for one in instances:
                one.found(runs(KEY))
            run(instances, lambda: all(one.database == "away" for one in instances), "both miss it")
            assert str(instances[0].telling.fleet["problem"]).startswith("the database cannot be reached: ")
            server.start()
            run(instances, lambda: receiver.taken, "people are told once it is back")
            assert receiver.taken[0]["title"] == f"❌ {KEY} fails on 2 of 2 (shop)"
            assert len(receiver.taken) == 1
            assert reached(instances)()


@pytest.mark.slow
def test_a_database_that_stays_away(tmp_path: Path, runs: Runs, receiver: Receiver, free_port: int) -> None:
    """Each instance tells for itself, once the window is over, and says why."""
    url = f"postgresql://me:{PASSWORD}@127.0.0.1:{free_port}/fleet"
    with fleet(tmp_path, url, 2, receiver.url()) as instances:
        for one in instances:
            one.found(runs(origin="start"))
            one.found(runs(KEY))
        run(instances, lambda: len(receiver.taken) == 2, "both have told it")
        for message in receiver.taken:
            assert message["message"].splitlines()[-1] == ALONE
        assert receiver.titles == ["The server is unhealthy"] * 2
        assert all(PASSWORD not in str(one.states) for one in instances)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hangs", "read-only", "no rights"])
def test_a_database_that_takes_nothing(tmp_path: Path, runs: Runs, fault: str) -> None:
    """A server that hangs, is read-only or has taken the rights away: said in words, tried again, caught up."""
    with databases.postgres(databases.folder(tmp_path)) as server:
        url = server.url(user=server.role("app"))
        server.run("CREATE SCHEMA preflight AUTHORIZATION app")
        with fleet(tmp_path, url, 1) as [one]:
            one.found(runs(origin="start"))
            run([one], reached([one]), "it is there")
            match fault:
                case "hangs":
                    server.signal_all(signal.SIGSTOP)
                case "read-only":
                    server.run("ALTER ROLE app SET default_transaction_read_only = on")
                case "no rights":
                    server.run("ALTER TABLE preflight.instances OWNER TO me")
            failed = runs(KEY)
            one.found(failed)
            run([one], lambda: one.database == "away", "it is missed")
            said = {
                "hangs": "no answer within 5 s", "read-only": "its transactions are read-only",
                "no rights": "the role has no right to do that",
            }  # fmt: skip
            assert said[fault] in str(one.telling.fleet["problem"])
            match fault:
                case "hangs":
                    server.signal_all(signal.SIGCONT)
                case "read-only":
                    server.run("ALTER ROLE app RESET default_transaction_read_only")
                case "no rights":
                    return  # somebody has to mend it: it is looked at again after a minute
            run([one], reached([one]), "it is back")
            assert rows(server.url(), "SELECT run_id FROM preflight.instances") == [(failed.run_id,)]


def test_through_a_pooler(tmp_path: Path, postgres: Postgres, runs: Runs, receiver: Receiver) -> None:
    """PgBouncer in transaction mode, with fewer connections than instances."""
    name = postgres.database()
    with (
        databases.pgbouncer(postgres, databases.folder(tmp_path), "default_pool_size = 2") as port,
        fleet(tmp_path, postgres.url(database=name, port=port), 4, receiver.url(), **SLOWER) as instances,
    ):
        for one in instances:
            one.found(runs(origin="start"))
        run(instances, reached(instances), "all are there")
        for one in instances:
            one.found(runs(KEY))
        run(instances, took(receiver, 1), "people are told")
        assert receiver.taken[0]["title"] == f"❌ {KEY} fails on 4 of 4 (shop)"


@pytest.mark.needs_root("nobody else can mount a small disk")
def test_a_full_disk(tmp_path: Path, postgres: Postgres, runs: Runs) -> None:
    """What no longer fits is said, tried again, and written once there is room."""
    disk = databases.folder(tmp_path) if os.geteuid() else Path(tempfile.mkdtemp(prefix="preflight-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)], check=True)
    name = f"small{os.getpid()}"
    try:
        place = disk / "space"
        place.mkdir()
        databases.unprivileged(place)
        disk.chmod(0o755)  # the server runs as another user
        postgres.run(f"CREATE TABLESPACE {name} LOCATION '{place}'")
        postgres.run(f"CREATE DATABASE {name} TABLESPACE {name}")
        url = postgres.url(database=name)
        with fleet(tmp_path, url, 1) as [one]:
            one.found(runs(origin="start"))
            run([one], reached([one]), "it is there")
            filling = disk / "filling"
            with filling.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
                while True:
                    stream.write(b"x" * 4096)
            failed = runs(KEY, details={"text": os.urandom(9_000).hex()})  # does not fit beside what is there
            one.found(failed)
            run([one], lambda: one.database == "away", "it is missed")
            assert one.telling.fleet["problem"] == "the database cannot be reached: its disk is full"
            filling.unlink()
            run([one], reached([one]), "it is back")
            assert rows(url, "SELECT run_id FROM preflight.instances") == [(failed.run_id,)]
        until(lambda: dropped(postgres, name), "nobody is connected")
        postgres.run(f"DROP TABLESPACE {name}")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def dropped(postgres: Postgres, name: str) -> bool:
    """Whether the database could be dropped: the registrar's last word may still be on its way."""
    try:
        postgres.run(f"DROP DATABASE {name}")
    except psycopg.errors.ObjectInUse:
        return False
    return True
