"""Answers of providers that re-runs share: who asks, what is believed, and what stands in the table."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preflight import making, ready
from preflight.contract import Details
from preflight.fleet import database, schema
from preflight.fleet.answers import SKEW, AnswerTable, Known, Permit, SharedQuestion
from preflight.settings import loading
from preflight.settings.model import Settings
from preflight.suite.probes import answers, network, sharing
from preflight.suite.probes.asking import Reply
from preflight.suite.probes.network import Probes
from preflight.suite.probes.sharing import Sharing
from tests.e2e.doubles import Answer, Providers
from tests.e2e.place import KEYS
from tests.waiting import until

psycopg = pytest.importorskip("psycopg")

KEY = KEYS["OPENAI_API_KEY"]
MANY = 8
KEPT = 3600.0  # seconds: on a busy machine everything takes its time
LONG = 60.0  # seconds


@pytest.fixture
def providers() -> Iterator[Providers]:
    made = Providers()
    yield made
    made.close()


@pytest.fixture
def tables(url: str) -> str:
    """A database that has our tables."""
    with closing(database.connect(url, {})) as connection:
        schema.create(connection, [schema.fleet()])
    return url


@pytest.fixture
def chosen(tables: str, providers: Providers, tmp_path: Path) -> Settings:
    """An instance's settings: the database, keys, and the doubles of both providers."""
    (tmp_path / "pyproject.toml").touch()
    environ = {"HOME": str(tmp_path), "PREFLIGHT_DATABASE_URL": tables, **KEYS, **providers.variables}
    return replace(loading.load(tmp_path, environ), probe_timeout=30.0, requirement_timeout=90.0, answers_kept=KEPT)


def rerun(settings: Settings) -> Reply:
    """The reply of OpenAI's double in one re-run of one instance."""
    shared = Sharing.of(settings, "rerun")
    asked = Probes(settings, shared)
    asked.start()
    replies = [asked[name] for name in asked]
    if shared is not None:
        shared.close()
    return replies[0]


def count(providers: Providers, key: str = KEY) -> int:
    """How often the provider was asked with this key."""
    return [given for _, given in providers.requests].count(f"Bearer {key}")


def rows(url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return list(connection.execute("SELECT * FROM preflight.answers").fetchall())


def change(url: str, statement: str, *values: object) -> None:
    """What another tenant of the database does."""
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute(statement.encode(), values).rowcount != 0


def of_openai(settings: Settings) -> SharedQuestion:
    """The question that an instance with these settings asks OpenAI."""
    asked = network.openai(settings.environment)
    return SharedQuestion(asked.key or "", asked.about)


def test_many_ask_once(chosen: Settings, providers: Providers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight instances that check at the same moment one asks, and of those that come within a minute none."""
    for limit in ("DEADLINE", "CONNECT", "PATIENCE"):  # a busy machine's database is no broken one
        monkeypatch.setattr(f"preflight.fleet.answers.{limit}", LONG)
    with ThreadPoolExecutor(MANY) as pool:
        replies = list(pool.map(lambda port: rerun(replace(chosen, port=port)), range(8001, 8001 + MANY)))
    assert all(reply.is_list and reply.status == 200 for reply in replies)
    assert (count(providers), count(providers, KEYS["PERPLEXITY_API_KEY"])) == (1, 1)
    assert sorted(bool(reply.shared) for reply in replies) == [False] + [True] * (MANY - 1)
    asker = f"asked by {socket.gethostname()}:{8001 + [reply.shared for reply in replies].index('')}, "
    assert all(reply.shared.startswith(asker) for reply in replies if reply.shared)
    assert rerun(chosen).shared.startswith(asker)
    assert count(providers) == 1


def test_an_answer_grows_old(chosen: Settings, providers: Providers) -> None:
    """It is used for as long as a setting says, and then somebody asks again."""
    brief = replace(chosen, answers_kept=0.05)
    assert not rerun(brief).shared
    until(lambda: not rerun(brief).shared, "the answer is too old")
    assert count(providers) == 2


@pytest.mark.parametrize("origin", ["start", "check", "pytest"])
def test_other_runs_ask_themselves(chosen: Settings, origin: str) -> None:
    """Starts, checks and plain pytest share nothing."""
    assert Sharing.of(chosen, "rerun") is not None
    assert Sharing.of(chosen, origin) is None


def test_where_nothing_is_shared(chosen: Settings) -> None:
    """Without a database, offline, and where the setting is 0."""
    for changed in ({"database_url": None}, {"offline": True}, {"answers_kept": 0.0}):
        assert Sharing.of(replace(chosen, **changed), "rerun") is None


def test_a_bad_answer_is_confirmed(chosen: Settings, providers: Providers) -> None:
    """Each instance asks itself before a key counts as rejected; the first good answer is shared again."""
    providers.openai = Answer(401)
    replies = [rerun(chosen) for _ in range(3)]
    assert [(reply.status, reply.shared) for reply in replies] == [(401, "")] * 3
    assert count(providers) == 3
    providers.openai = Answer()
    assert not rerun(chosen).shared
    assert rerun(chosen).shared
    assert count(providers) == 4


def test_a_bad_answer_takes_no_other_out_of_service(chosen: Settings, providers: Providers) -> None:
    """What one instance alone is told, behind a broken proxy say, is not what the others go by."""
    providers.openai = Answer(401)
    assert rerun(chosen).status == 401
    providers.openai = Answer()
    assert rerun(replace(chosen, port=8009)).status == 200


def test_who_asks_and_dies(chosen: Settings, tables: str, providers: Providers) -> None:
    """A claim without an answer counts for as long as whoever asks may take; then the question is asked again."""
    question = of_openai(chosen)
    with closing(AnswerTable(tables, {}, asker="web-1", kept=KEPT)) as one, ThreadPoolExecutor(1) as pool:
        assert isinstance(one.take(question, LONG), Permit)
        waiting = pool.submit(rerun, chosen)
        assert count(providers) == 0
        change(tables, "UPDATE preflight.answers SET claimed_at = claimed_at - interval '1 hour'")
        assert waiting.result().is_list
    assert count(providers) == 1


def test_a_slow_answer_is_waited_for(chosen: Settings, tables: str) -> None:
    """Whoever waits does so until there is an answer, however long the provider takes, and does not ask itself."""
    question = of_openai(chosen)
    looks = threading.Semaphore(0)

    class Looking(AnswerTable):
        def _look(self, *arguments: Any) -> Any:
            looks.release()
            return super()._look(*arguments)

    with (
        closing(AnswerTable(tables, {}, asker="web-1", kept=KEPT)) as one,
        closing(Looking(tables, {}, asker="web-2", kept=KEPT)) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        turn = one.take(question, LONG)
        assert isinstance(turn, Permit)
        waiting = pool.submit(other.take, question, LONG)
        for _ in range(5):
            assert looks.acquire(timeout=LONG)
        assert not waiting.done()
        one.tell(question, turn, is_good=True, seconds=5.0)
        known = waiting.result()
    assert isinstance(known, Known)
    assert known.asked_by == "web-1"


def test_a_claim_counts_for_who_has_begun_before_it(chosen: Settings, tables: str) -> None:
    """Transactions that begin in one order and come to the row in the other make one claim, not two."""
    question = of_openai(chosen)
    early = AnswerTable(tables, {}, asker="web-1", kept=KEPT)
    with (
        closing(AnswerTable(tables, {}, asker="web-2", kept=KEPT)) as late,
        closing(database.connect(tables, {})) as connection,
        database.transaction(connection, LONG),
    ):
        assert isinstance(late.take(question, LONG), Permit)
        row = early._claim(connection, question, LONG)
        assert not isinstance(row, Permit)
        assert row is not None
        assert row.is_claimed


# What is believed.


def forge(kind: str, chosen: Settings, url: str) -> None:
    """Make the table say that the key is good, as somebody who has all rights on it and does not have the key."""
    now = "extract(epoch FROM now())::bigint"
    if kind == "made up":
        change(
            url, f"UPDATE preflight.answers SET is_good = true, asked_at = now(), written_at = {now}, seal = %s", b"x"
        )
    elif kind == "another key's":
        other = SharedQuestion(KEYS["PERPLEXITY_API_KEY"], ["its own"])
        answer = {"asked_at": time.time(), "asked_by": "web-7", "is_good": True, "seconds": 0.1, "written_at": 1}
        seal = other.seal(answer)
        change(
            url, f"UPDATE preflight.answers SET is_good = true, asked_at = now(), written_at = {now}, seal = %s", seal
        )
    elif kind == "turned round":
        change(url, "UPDATE preflight.answers SET is_good = true, asked_at = now() WHERE NOT is_good")
    elif kind == "no types":
        change(url, "ALTER TABLE preflight.answers ALTER seal TYPE text USING 'x', ALTER written_at TYPE text")
        change(url, "UPDATE preflight.answers SET is_good = true, asked_at = now(), written_at = 'now'")
    elif kind == "in the future":
        later = "now() + interval '1 year'"
        change(url, f"UPDATE preflight.answers SET is_good = true, claimed_at = {later}, asked_at = {later}")


FORGED = ["made up", "another key's", "turned round", "no types", "in the future"]


@pytest.mark.parametrize("kind", FORGED)
def test_a_poisoned_answer(chosen: Settings, tables: str, providers: Providers, kind: str) -> None:
    """A row that says "good" of a rejected key is not believed: only who has the key can seal an answer."""
    providers.openai = Answer(401)
    assert rerun(chosen).status == 401
    forge(kind, chosen, tables)
    reply = rerun(chosen)
    assert (reply.status, reply.shared) == (401, "")
    assert count(providers) == 2


def test_an_old_answer_is_put_back(chosen: Settings, tables: str, providers: Providers) -> None:
    """What was sealed once holds for a minute, and not when somebody puts it back with another time."""
    rerun(chosen)
    kept = rows(tables)
    providers.openai = Answer(401)
    brief = replace(chosen, answers_kept=0.05)
    until(lambda: rerun(brief).status == 401, "the key is known to be rejected")
    one = next(row for row in kept if row[0] == of_openai(chosen).name)
    change(
        tables,
        "UPDATE preflight.answers SET asked_at = now(), asked_by = %s, is_good = true, seconds = %s, written_at = %s,"
        " seal = %s WHERE question = %s",
        *one[3:4], *one[5:8], one[0],
    )  # fmt: skip
    assert rerun(chosen).status == 401


@pytest.mark.parametrize(
    "off, believed", [(0.0, True), (KEPT + SKEW - 300, True), (KEPT + SKEW + 9, False), (-KEPT - SKEW - 300, False)]
)
def test_a_database_that_turns_its_clock_back(
    chosen: Settings, tables: str, monkeypatch: pytest.MonkeyPatch, off: float, believed: bool
) -> None:
    """An answer is too old on the reader's own clock as well, of which another machine's may differ somewhat."""
    writes = AnswerTable(tables, {}, asker="web-7:8002", kept=KEPT)
    question = of_openai(chosen)
    turn = writes.take(question, LONG)
    assert isinstance(turn, Permit)
    moment = time.time() - off
    with monkeypatch.context() as patched:
        patched.setattr("preflight.fleet.answers.time.time", lambda: moment)
        writes.tell(question, turn, is_good=True, seconds=0.1)
    writes.close()
    assert rerun(chosen).shared.startswith("asked by web-7:8002, ") is believed


def test_nothing_leaks(chosen: Settings, tables: str) -> None:
    """Neither a key nor an address is in the table, and a key that could be guessed has no row."""
    rerun(chosen)
    found = rows(tables)
    assert len(found) == 2
    shown = repr([[bytes(one) if isinstance(one, bytes | memoryview) else one for one in row] for row in found])
    for secret in (KEY, KEY[:12], "127.0.0.1", "openai"):
        assert secret not in shown
    weak = loading.load(chosen.root, {**chosen.environment, "OPENAI_API_KEY": "sk-1234", "PERPLEXITY_API_KEY": ""})
    reply = rerun(replace(weak, probe_timeout=30.0, answers_kept=KEPT))
    assert (reply.status, reply.shared) == (200, "")
    assert len(rows(tables)) == 2


# The database is away.


@pytest.mark.parametrize("how", ["refused", "hangs", "no tables"])
def test_without_the_database(chosen: Settings, postgres: Any, providers: Providers, how: str) -> None:
    """The question is asked from here, and the answer is this instance's own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if how == "refused":
            server.close()
        empty = postgres.url(database=postgres.database())
        url = empty if how == "no tables" else f"postgresql://me:secret@127.0.0.1:{port}/db"
        reply = rerun(replace(chosen, database_url=url))
    assert (reply.status, reply.is_list, reply.shared) == (200, True, "")
    assert count(providers) == 1


# Ready-made requirements.


def asked(settings: Settings, test: Callable[..., None]) -> Details:
    """What a ready-made requirement finds in one re-run."""
    shared = Sharing.of(settings, "rerun")
    one, details = answers.Answers(settings, shared), Details()
    one.start([getattr(test, making.ATTRIBUTE)])
    test(one, details)
    assert shared is not None
    shared.close()
    return details


def test_ready_made_requirements(chosen: Settings, providers: Providers) -> None:
    """A key and a model are asked for once by all instances; a model is never offered because a key is good."""
    providers.openai = Answer(body='{"object": "list", "data": [{"id": "large"}]}')
    key = ready.api_key("OPENAI_API_KEY", timeout=30)
    model = ready.model("OPENAI_API_KEY", "large", timeout=30)
    missing = ready.model("OPENAI_API_KEY", "larger", timeout=30)
    assert asked(chosen, model).summary == "large is offered"
    assert asked(chosen, model).summary.startswith("large is offered, asked by ")
    assert count(providers) == 1
    for _ in range(2):
        with pytest.raises(AssertionError, match="no model larger; it has large"):
            asked(chosen, missing)
    # The double answers without a key as well, which proves nothing of the key: such an answer is not shared.
    for _ in range(2):
        with pytest.raises(pytest.skip.Exception, match="whether it works is unknown"):
            asked(chosen, key)


def test_waiting_fits_into_a_requirement() -> None:
    """Whoever waits for another's answer, and asks then, is within the requirement's own deadline."""
    mark = ready.api_key("OPENAI_API_KEY", timeout=30).pytestmark[0]  # type: ignore[attr-defined]  # pytest's own
    assert sharing.lease(30) + 30 + answers.GRACE < mark.kwargs["timeout"]
