"""Answers of providers that re-runs of several instances share, in one row for each question.

A question is an HMAC made with the very key that it is about: a reader of the table can find neither a key nor a
provider. An answer is sealed in the same way, so nobody without the key can store one. An answer says whether it was
good, and nothing else: an instance that reads a bad one asks the provider itself (`preflight.suite.probes.sharing`).

If instances come at the same moment, one claims the question and asks; the others look until there is an answer, or the
claim has lasted for as long as its owner may take. All times are the database's, read when a statement comes to the
row: of two transactions, the one that began first may come there last. An answer must also be young enough by the
reader's own clock: a database that turns its clock back brings no old answer back.

Everything happens in a thread of its own, with one connection. A database that has not answered in time is not asked
again in this run.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from preflight.fleet.database import Unavailable, UnusableDatabase, connect, transaction

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

DEADLINE = 1.0  # seconds that the database has for each statement, and for the last ones at the end
CONNECT = 2.0  # seconds that it has for a connection
PATIENCE = 3.0  # seconds for which a caller waits for the database, name resolution included
LOOKS = (0.1, 1.0)  # seconds between two looks for an answer: at first, and at most; each pause is longer than the last
SKEW = 300.0  # seconds by which the clocks of two machines may differ
SHORTEST = 20  # characters of a key: a shorter one could be guessed, and the guess be compared with the table
LONGEST_NAME = 200  # characters of who has asked
FORGOTTEN = 86_400.0  # seconds after the last claim, for the row of a key that is no longer used (registrar.py)

# clock_timestamp() and never now(): that is when the transaction began, before the row was locked.
_CLAIM = """
INSERT INTO preflight.answers AS row (question, claimed_at) VALUES (%(question)s, clock_timestamp())
ON CONFLICT (question) DO UPDATE SET claimed_at = clock_timestamp()
WHERE NOT (row.claimed_at > clock_timestamp() - %(lease)s * interval '1 second' AND row.claimed_at <= clock_timestamp()
           AND (row.asked_at IS NULL OR row.asked_at < row.claimed_at))
  AND NOT (row.is_good AND row.asked_at > clock_timestamp() - %(kept)s * interval '1 second'
           AND row.asked_at <= clock_timestamp())
RETURNING extract(epoch FROM claimed_at)::double precision
"""
_LOOK = """
SELECT extract(epoch FROM clock_timestamp())::double precision, extract(epoch FROM asked_at)::double precision,
       asked_by, is_good, seconds, written_at, seal,
       claimed_at > clock_timestamp() - %(lease)s * interval '1 second' AND claimed_at <= clock_timestamp()
       AND (asked_at IS NULL OR asked_at < claimed_at)
FROM preflight.answers WHERE question = %(question)s
"""
_TELL = """
INSERT INTO preflight.answers AS row (question, claimed_at, asked_at, asked_by, is_good, seconds, written_at, seal)
VALUES (%(question)s, to_timestamp(%(asked_at)s), to_timestamp(%(asked_at)s), %(asked_by)s, %(is_good)s, %(seconds)s,
        %(written_at)s, %(seal)s)
ON CONFLICT (question) DO UPDATE
SET asked_at = excluded.asked_at, asked_by = excluded.asked_by, is_good = excluded.is_good,
    seconds = excluded.seconds, written_at = excluded.written_at, seal = excluded.seal
WHERE row.asked_at IS NULL OR row.asked_at <= excluded.asked_at OR row.asked_at > clock_timestamp()
"""


@dataclass(frozen=True, slots=True)
class Known:
    """A good answer that another instance got."""

    asked_by: str
    age: float
    """Seconds since it was asked for."""
    seconds: float
    """Seconds that the provider took."""


@dataclass(frozen=True, slots=True)
class Permit:
    """Permission to ask the provider; the result is stored with it."""

    asked_at: float
    """On the database's clock."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the table, before any of it is believed."""

    now: float
    asked_at: float | None
    asked_by: Any
    is_good: Any
    seconds: Any
    written_at: Any
    seal: Any
    is_claimed: bool


class SharedQuestion:
    """A question, named by an HMAC that its key makes of it."""

    def __init__(self, key: str, about: Sequence[str]) -> None:
        """``about``: all that the answer depends on, beside the key. Raises ValueError for a key too short."""
        if len(key) < SHORTEST:
            raise ValueError(f"a key of fewer than {SHORTEST} characters could be guessed")
        self._key = key.encode("utf-8", "surrogateescape")
        self.name = self._mac("question", list(about))

    def seal(self, answer: Mapping[str, Any]) -> bytes:
        """The HMAC of this answer, which only somebody with the key can make."""
        return self._mac("answer", [self.name.hex(), *(answer[name] for name in _SEALED)])

    def _mac(self, kind: str, values: list[Any]) -> bytes:
        return hmac.digest(self._key, json.dumps(["preflight", kind, *values]).encode(), hashlib.sha256)


_SEALED = ("asked_at", "asked_by", "is_good", "seconds", "written_at")


class AnswerTable:
    """The table, as one run of one instance uses it."""

    def __init__(self, url: str, environment: Mapping[str, str], *, asker: str, kept: float) -> None:
        """``asker``: who this is, for people; ``kept``: seconds for which a good answer is used."""
        self._url, self._environment = url, environment
        self._asker, self._kept = asker[:LONGEST_NAME], kept
        self._orders: SimpleQueue[tuple[Callable[[psycopg.Connection[Any]], Any], Future[Any]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._given_up = False

    def take(self, question: SharedQuestion, lease: float, patience: float = math.inf) -> Known | Permit | None:
        """The good answer, or permission to ask; None if the database does not answer.

        :param lease: seconds after which a claim without an answer expires: as many as its owner may take to ask.
        :param patience: seconds to wait for another instance's answer, if that is less than ``lease``.
        """
        until = time.monotonic() + min(lease, patience)
        claimed = self._do(lambda connection: self._claim(connection, question, lease))
        if not isinstance(claimed, _Row):
            return claimed
        row: _Row | None = claimed
        pause, longest = LOOKS
        while row is not None and row.is_claimed and (left := until - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(1.5 * pause, longest)
            row = self._do(lambda connection: self._look(connection, question, lease))
        if row is None:
            return None
        return self._believed(question, row) or Permit(row.now)

    def tell(self, question: SharedQuestion, permit: Permit, *, is_good: bool, seconds: float) -> None:
        """Store the result, without waiting for the database."""
        answer = {
            "question": question.name, "asked_at": permit.asked_at, "asked_by": self._asker, "is_good": is_good,
            "seconds": round(seconds, 3), "written_at": int(time.time()),
        }  # fmt: skip
        answer["seal"] = question.seal(answer)
        self._order(lambda connection: connection.execute(_TELL, answer))

    def close(self) -> None:
        """Wait until what was told is stored, for :data:`DEADLINE` seconds at most."""
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join(DEADLINE)

    def _believed(self, question: SharedQuestion, row: _Row) -> Known | None:
        """What the row says, if it is good, new, and from somebody with the key."""
        if row.is_good is not True or row.asked_at is None or not isinstance(row.seal, bytes):
            return None
        age = row.now - row.asked_at
        own = abs(time.time() - row.written_at) if isinstance(row.written_at, int) else None
        if not 0 <= age < self._kept or own is None or own > self._kept + SKEW:
            return None
        sealed = question.seal({name: getattr(row, name) for name in _SEALED})
        return Known(row.asked_by, age, row.seconds) if hmac.compare_digest(row.seal, sealed) else None

    # The orders, and the thread that carries them out.

    def _claim(
        self, connection: psycopg.Connection[Any], question: SharedQuestion, lease: float
    ) -> Permit | _Row | None:
        row = connection.execute(_CLAIM, {"question": question.name, "kept": self._kept, "lease": lease}).fetchone()
        return Permit(row[0]) if row else self._look(connection, question, lease)

    def _look(self, connection: psycopg.Connection[Any], question: SharedQuestion, lease: float) -> _Row | None:
        row = connection.execute(_LOOK, {"question": question.name, "lease": lease}).fetchone()
        return _Row(*row) if row else None

    def _do(self, order: Callable[[psycopg.Connection[Any]], T]) -> T | None:
        ended = self._order(order)
        if ended is None:
            return None
        try:
            return ended.result(PATIENCE)
        except (TimeoutError, Unavailable, UnusableDatabase):
            self._given_up = True
            return None

    def _order(self, order: Callable[[psycopg.Connection[Any]], T]) -> Future[T] | None:
        if self._given_up:
            return None
        with self._starting:
            if self._thread is None:
                # A daemon: where it hangs, in name resolution say, no time-out reaches it.
                self._thread = threading.Thread(target=self._serve, name="shared answers", daemon=True)
                self._thread.start()
        ended: Future[T] = Future()
        self._orders.put((order, ended))
        return ended

    def _serve(self) -> None:
        connection: psycopg.Connection[Any] | None = None
        while (taken := self._orders.get()) is not None:
            order, ended = taken
            try:
                if self._given_up:
                    raise Unavailable("it did not answer")
                if connection is None:
                    connection = connect(self._url, {**self._environment, "PGCONNECT_TIMEOUT": f"{CONNECT:g}"})
                with transaction(connection, DEADLINE):
                    found = order(connection)
            except (Unavailable, UnusableDatabase) as error:
                self._given_up = True
                ended.set_exception(error)
            except Exception as error:  # noqa: BLE001  # a database may answer what it likes: then it is not used
                self._given_up = True
                ended.set_exception(UnusableDatabase(f"the shared answers cannot be used ({type(error).__name__})"))
            else:
                ended.set_result(found)
        if connection is not None:
            connection.close()
