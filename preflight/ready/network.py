"""``ready.tcp``, ``ready.dns``: a service can be reached, a name can be resolved."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Unpack
from urllib.parse import urlsplit

from preflight import text
from preflight.contract import Details
from preflight.making import Ask, Failure, Instead, literal, requirement, without_query

PORTS = {
    "amqp": 5672, "amqps": 5671, "http": 80, "https": 443, "mariadb": 3306, "mongodb": 27017, "mysql": 3306,
    "nats": 4222, "postgres": 5432, "postgresql": 5432, "redis": 6379, "rediss": 6379, "smtp": 25, "ws": 80, "wss": 443,
}  # fmt: skip
"""The ports at which services listen whose URLs name none."""
CLOSED = "the connection was closed without an answer"
FOR_NAMES = 0.9  # of a probe's time: so that it can still say that the name servers did not answer
TO_HANG_UP = 0.2  # seconds within which a forwarder closes a connection that it cannot pass on


def given(name: str) -> str:
    """The address itself, where a factory was given one; empty if it was given the name of a variable."""
    return literal(name) if ":" in name or "." in name else ""


def address(ask: Ask, given: str, port: int | None = None) -> tuple[str, int]:
    """Host and port of ``given``, "host:port" or a URL, or of the variable. Raises Failure, without the value.

    ``port`` is the one to ask if neither the address nor the URL's scheme says one.
    """
    written = given or ask.value
    what = given or ask.variable
    try:
        parts = urlsplit(written if "://" in written else f"//{written}")
        host, found = parts.hostname, parts.port
    except ValueError:
        raise Failure(f"{what} is neither host:port nor a URL") from None
    found = found or PORTS.get(parts.scheme.partition("+")[0]) or port
    if not host:
        raise Failure(f"{what} has no host in it")
    if not found:
        raise Failure(f"{what} has no port in it", f"write it as host:port{f' in {ask.variable}' if not given else ''}")
    return host, found


class OpenConnection(NamedTuple):
    """A connection, and the host's addresses that did not answer before this one accepted it."""

    made: socket.socket
    silent: list[str]


def connect(host: str, port: int, timeout: float) -> OpenConnection:
    """A connection to one of the host's addresses, each of which gets its part of the time.

    Raises Failure, in words that tell refused, silent, unreachable and unresolved apart.
    """
    until = time.monotonic() + timeout
    targets = resolved(host, port, timeout)
    errors: list[OSError] = []
    silent: list[str] = []
    for rest, (family, kind, protocol, _, target) in zip(range(len(targets), 0, -1), targets, strict=True):
        made = socket.socket(family, kind, protocol)
        try:
            # The first of several may swallow everything, as IPv6 often does: the others get their turn.
            made.settimeout(max(0.05, (until - time.monotonic()) / rest))
            made.connect(target)
            if made.getsockname() == made.getpeername():
                # A port among those of outgoing connections, which the kernel has given to this very one.
                raise ConnectionRefusedError(errno.ECONNREFUSED, "the connection led back to this process")
        except OSError as error:
            made.close()
            errors.append(error)
            if isinstance(error, TimeoutError):
                silent.append(str(target[0]))
            continue
        made.settimeout(max(0.05, until - time.monotonic()))
        return OpenConnection(made, silent)
    raise Failure(f"{text.address(host, port)}: {why(errors, timeout)}")


def resolved(host: str, port: int, timeout: float) -> list[Any]:
    """The host's addresses. Raises Failure if it has none, or nobody says so in time."""
    found: list[Any] = []
    errors: list[Exception] = []

    def resolve() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError, OverflowError) as error:
            errors.append(error)

    # Nothing ends getaddrinfo, which goes on asking silent name servers for half a minute.
    asking = threading.Thread(target=resolve, name="resolving for a probe", daemon=True)
    asking.start()
    asking.join(timeout * FOR_NAMES)
    if asking.is_alive():
        raise Failure(f"{host} cannot be resolved now: the name servers do not answer") from None
    for error in errors:
        if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
            raise Failure(f"{host} cannot be resolved now: the name servers do not answer")
        if isinstance(error, OSError):
            raise Failure(f"{host} cannot be resolved (DNS)")
        raise Failure("the host is not a name that can be resolved")
    return found


def why(errors: list[OSError], timeout: float) -> str:
    """Why none of a host's addresses could be connected to, for people: the most telling of the errors."""
    numbers = {error.errno for error in errors}
    if errno.ECONNREFUSED in numbers:
        return "connection refused: nothing listens there"
    if any(isinstance(error, TimeoutError) for error in errors):
        return f"no answer within {timeout:g} s"
    if numbers & {errno.ENETUNREACH, errno.EHOSTUNREACH}:
        return "the host cannot be reached from here"
    if errno.ECONNRESET in numbers:
        return CLOSED
    return errors[0].strerror or type(errors[0]).__name__ if errors else "it has no address"


class Accepts(NamedTuple):
    """The address that accepted a connection, after how long, and the addresses that did not answer before."""

    target: str
    seconds: float
    silent: list[str]


def tcp(name: str, *, port: int | None = None, **instead: Unpack[Instead]) -> Callable[..., None]:
    """A service accepts connections there.

    ``name`` is a variable with host:port or a URL, or host:port itself; ``port`` is for a URL that has none.
    """
    itself = given(name)

    def probe(ask: Ask) -> Accepts:
        host, number = address(ask, itself, port)
        begun = time.monotonic()
        connection, silent = connect(host, number, ask.timeout)
        taken = Accepts(text.address(host, number), time.monotonic() - begun, silent)
        with connection:
            if _is_closed(connection):
                raise Failure(f"{taken.target} {HANGS_UP}")
        return taken

    def judge(answer: Accepts, details: Details) -> None:
        details.update(address=answer.target, seconds=round(answer.seconds, 3), silent=answer.silent)
        but = f", but there was no answer at {', '.join(answer.silent)}" if answer.silent else ""
        details.summary = f"{answer.target} accepts connections{but}"

    return requirement(
        probe,
        judge,
        variable="" if itself else name,
        title=f"TCP {without_query(name)}",
        doc=f"A service accepts connections at {without_query(name)}.",
        fix="start the service, or name the right address",
        needs=["network"],
        instead=instead,
    )


HANGS_UP = (
    "accepts connections and closes them at once: does a forwarder listen there (a container's, ssh) whose service"
    " does not?"
)


def _is_closed(connection: socket.socket) -> bool:
    """Whether the other side closes a connection at once, as a forwarder does that reaches no service itself."""
    connection.settimeout(TO_HANG_UP)
    try:
        return not connection.recv(1)
    except TimeoutError:
        return False  # it waits for us to begin
    except OSError:
        return True


def dns(
    host: str, *, addresses: frozenset[str] | set[str] | None = None, **instead: Unpack[Instead]
) -> Callable[..., None]:
    """The host has an address, as this machine resolves it; or just these ``addresses``."""

    def probe(ask: Ask) -> list[str]:
        return sorted({str(one[4][0]) for one in resolved(host, 0, ask.timeout)})

    def judge(found: list[str], details: Details) -> None:
        details.update(addresses=found)
        fits = addresses is None or set(found) == set(addresses)
        assert fits, f"{host} is {', '.join(found)}, and should be {', '.join(sorted(addresses or ()))}"
        details.summary = ", ".join(found)

    return requirement(
        probe,
        judge,
        title=f"DNS {host}",
        doc=f"The name {host} can be resolved.",
        fix=f"getent hosts {host}  # and look at /etc/resolv.conf",
        needs=["network"],
        instead=instead,
    )
