"""``ready.redis``: a Redis server, or one that speaks its protocol, answers and keeps what it is given."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Unpack

from preflight.contract import Details
from preflight.making import Ask, Failure, Instead, imported, requirement, unknown
from preflight.making import url as parsed
from preflight.ready.network import resolved
from preflight.suite.probes.asking import LONGEST_BODY
from preflight.text import foreign


class RedisAnswer(NamedTuple):
    """The server's answer."""

    version: str
    """Empty if the server does not say."""
    policy: str | None
    """What it does when its memory is full; None if it does not say."""
    role: str
    """Empty if the server does not say."""
    refuses: str
    """Why it refuses writes, if it says so; empty if it accepts them."""


def redis(
    variable: str, *, at_least: str = "", policy: str = "", writes: bool = True, **instead: Unpack[Instead]
) -> Callable[..., None]:
    """The server whose URL is in ``variable`` answers.

    :param at_least: the oldest version that will do.
    :param policy: what it has to do when its memory is full, "noeviction" say: a queue must not lose its jobs.
    :param writes: whether it has to take what is written: a replica does not, nor does one whose disk is full.
    """
    if at_least and not _NUMBERS.fullmatch(at_least):
        raise ValueError(f"the oldest version is {at_least!r}, but must be numbers with dots: 7.2")

    def probe(ask: Ask) -> RedisAnswer:
        count = 1
        if not ask.value.startswith("unix://"):
            found = parsed(ask, ["redis", "rediss", "unix"], "the URL of a Redis server")
            count = len(resolved(found.hostname or "", found.port or 6379, ask.timeout))
        # The client gives each address the whole time-out, and the first of several may swallow everything.
        return _asked(imported("redis", "redis"), ask, ask.timeout / max(1, count))

    def judge(answer: RedisAnswer, details: Details) -> None:
        details.update(version=answer.version or None, maxmemory_policy=answer.policy, role=answer.role or None)
        if at_least:
            found = answer.version or "of an unknown version"
            if not _NUMBERS.match(answer.version):
                unknown(f"Redis is {found}, and {at_least} or newer is needed")
            assert _numbers(answer.version) >= _numbers(at_least), f"Redis is {found}, but must be {at_least} or newer"
        hidden = "; it does not say whether it accepts writes" if writes and not answer.role else ""
        details.summary = f"Redis {answer.version}".rstrip() + hidden
        assert not answer.refuses or not writes, f"Redis refuses writes: {answer.refuses}"
        if not policy:
            return
        if answer.policy is None:
            unknown(f"the server refuses CONFIG, so it is unknown whether its maxmemory-policy is {policy}")
        details.fix = f"redis-cli config set maxmemory-policy {policy}"
        assert answer.policy == policy, f"the maxmemory-policy of Redis is {answer.policy}, but must be {policy}"

    return requirement(
        probe,
        judge,
        variable=variable,
        title=f"Redis ({variable})",
        doc=f"The Redis server in {variable} answers.",
        fix=f"start Redis, or correct {variable}",
        needs=["network"],
        instead=instead,
    )


_NUMBERS = re.compile(r"\d+(?:\.\d+)*")


def _numbers(version: str) -> tuple[int, ...]:
    found = _NUMBERS.match(version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _asked(library: Any, ask: Ask, to_connect: float) -> RedisAnswer:
    """PING, INFO and CONFIG GET. Raises Failure in words that hold no part of the URL."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    errors = library.exceptions
    try:
        client = library.Redis.from_url(
            ask.value,
            socket_timeout=ask.timeout,
            socket_connect_timeout=to_connect,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
    except (ValueError, TypeError):
        said = "one of its parameters does not exist, or has a wrong value"
        raise Failure(f"{ask.variable} is not the URL of a Redis server: {said}") from None
    client.connection_pool.connection_class = _bounded(client.connection_pool.connection_class)
    try:
        with client:
            client.ping()
            about = _allowed(errors, client.info) or {}
            settings: dict[str, str] = {}
            for name in ("maxmemory-policy", "stop-writes-on-bgsave-error", "save", "min-replicas-to-write"):
                settings |= _allowed(errors, functools.partial(client.config_get, name)) or {}
            if about.get("cluster_enabled"):
                cluster = _allowed(errors, functools.partial(client.execute_command, "CLUSTER INFO")) or {}
                state = cluster.get("cluster_state") if isinstance(cluster, dict) else ""
                settings["cluster-state"] = str(state or "")
            version = foreign(str(about.get("redis_version", "")))
            return RedisAnswer(
                version, settings.get("maxmemory-policy"), str(about.get("role", "")), _refuses(about, settings)
            )
    except errors.AuthenticationError:
        raise Failure("the password is rejected, or missing in the URL") from None
    except errors.NoPermissionError:
        raise Failure("the user in the URL is not allowed to run PING") from None
    except errors.BusyLoadingError:
        raise Failure("it is still loading its data") from None
    except errors.TimeoutError:
        raise Failure(f"no answer within {ask.timeout:g} s") from None
    except errors.ConnectionError as error:
        raise Failure(_closed(error)) from None
    except errors.ResponseError as error:
        if "DB index" in str(error) or "SELECT" in str(error):
            raise Failure(f"it has no database with the number at the end of {ask.variable}") from None
        if "NOAUTH" in str(error) or "WRONGPASS" in str(error):
            raise Failure("the password is rejected, or missing in the URL") from None
        raise Failure("it answers PING with an error") from None
    # The client takes answers of another form apart as well: a text in place of a table, a word in place of a number.
    except (errors.RedisError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Failure(f"the server that answers does not speak the Redis protocol ({type(error).__name__})") from None


class _BoundedSocket:
    """A client's socket that ends with Failure when more has come than the answers to our questions can have.

    What answers may announce any length, and the client collects it: any account can listen where Redis is down.
    """

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped
        self._received = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def recv(self, *arguments: Any) -> bytes:
        piece: bytes = self._wrapped.recv(*arguments)
        self._count(len(piece))
        return piece

    def recv_into(self, *arguments: Any) -> int:
        length: int = self._wrapped.recv_into(*arguments)
        self._count(length)
        return length

    def _count(self, length: int) -> None:
        self._received += length
        if self._received > LONGEST_BODY:
            raise Failure(f"the server that answers sends more than {LONGEST_BODY >> 20} MiB, which Redis never does")


def _bounded(kind: Any) -> Any:
    """A class of the client's connections, whichever the URL asks for, over such sockets."""

    class Bounded(kind):  # type: ignore[misc]
        def _connect(self) -> _BoundedSocket:
            return _BoundedSocket(super()._connect())

    return Bounded


def _allowed(errors: Any, question: Callable[[], Any]) -> Any:
    """The answer; None if the server does not permit the question, as managed services and ACLs do."""
    try:
        return question()
    except errors.AuthenticationError:
        raise
    except errors.ResponseError:
        return None


def _refuses(about: Mapping[str, Any], settings: Mapping[str, str]) -> str:
    """Why nothing can be written, by what INFO says: a server answers PING all the same."""
    if about.get("redis_mode") == "sentinel":
        return "it is a sentinel, which knows the servers and keeps nothing itself"
    if settings.get("cluster-state") == "fail":
        return "its cluster is down (CLUSTERDOWN)"
    if about.get("role") == "slave" and about.get("slave_read_only", 1):
        return "it is a replica"
    # INFO has this number only where replicas are wanted; how many, CONFIG says.
    replicas, wanted = about.get("min_slaves_good_slaves"), str(settings.get("min-replicas-to-write", ""))
    is_master = about.get("role") != "slave"  # the limit is one for masters
    if is_master and isinstance(replicas, int) and replicas < (int(wanted) if wanted.isdecimal() else 1):
        return "too few of its replicas are in touch (NOREPLICAS)"
    used, most = about.get("used_memory", 0) - about.get("mem_not_counted_for_evict", 0), about.get("maxmemory", 0)
    policy = str(about.get("maxmemory_policy", ""))
    databases = [kept for name, kept in about.items() if re.fullmatch(r"db\d+", name) and isinstance(kept, dict)]
    nothing_goes = policy.startswith("volatile-") and not any(kept.get("expires") for kept in databases)
    if most and used >= most and (policy == "noeviction" or nothing_goes):
        none = ", and no key of it expires" if nothing_goes else ""
        return f"its memory is full, and its maxmemory-policy is {policy}{none}"
    stops = settings.get("stop-writes-on-bgsave-error") == "yes" and settings.get("save")
    if stops and about.get("rdb_last_bgsave_status", "ok") != "ok":
        return "its last snapshot could not be saved (MISCONF)"
    if about.get("aof_last_write_status", "ok") != "ok":
        return "its append-only file could not be written (MISCONF)"
    return ""


def _closed(error: BaseException) -> str:
    said = str(error)
    if "max number of clients" in said:
        return "it has no connection left (maxclients)"
    if "No such file" in said:
        return "nothing listens on its socket"
    if "refused" in said:
        return "connection refused: nothing listens there"
    if "certificate" in said.lower():
        return "its certificate is not trusted"
    if "SSL" in said:
        return "the server that answers does not speak TLS"
    return "the connection was closed without an answer"
