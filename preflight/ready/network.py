"""``ready.tcp``, ``ready.dns``, ``ready.tls``: a service can be reached, its name resolved, its certificate trusted."""

from __future__ import annotations

import errno
import math
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, Unpack
from urllib.parse import urlsplit

from preflight.contract import Details
from preflight.making import Ask, Failure, Instead, imported, literal, requirement, unknown, without_query

PORTS = {
    "amqp": 5672, "amqps": 5671, "http": 80, "https": 443, "mariadb": 3306, "mongodb": 27017, "mysql": 3306,
    "nats": 4222, "postgres": 5432, "postgresql": 5432, "redis": 6379, "rediss": 6379, "smtp": 25, "ws": 80, "wss": 443,
}  # fmt: skip
"""Where services listen whose URL names no port."""
CLOSED = "the connection was closed without an answer"
FOR_NAMES = 0.9  # of a probe's time: so that it can still say that it was the name servers who said nothing


def given(name: str) -> str:
    """The address itself, where a factory was given one; empty where it was given the name of a variable."""
    return literal(name) if ":" in name or "." in name else ""


def address(ask: Ask, given: str, port: int | None = None) -> tuple[str, int]:
    """Host and port of ``given``, "host:port" or a URL, or of the variable. Raises Failure, without the value.

    ``port`` is where to ask if neither says one, nor the URL's scheme.
    """
    text = given or ask.value
    what = given or ask.variable
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, found = parts.hostname, parts.port
    except ValueError:
        raise Failure(f"{what} is neither host:port nor a URL") from None
    found = found or PORTS.get(parts.scheme.partition("+")[0]) or port
    if not host:
        raise Failure(f"{what} has no host in it")
    if not found:
        raise Failure(f"{what} has no port in it", f"write it as host:port{f' in {ask.variable}' if not given else ''}")
    return host, found


class Connected(NamedTuple):
    """A connection, and which of the host's addresses said nothing before this one took it."""

    made: socket.socket
    silent: list[str]


def connect(host: str, port: int, timeout: float) -> Connected:
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
        except OSError as error:
            made.close()
            errors.append(error)
            if isinstance(error, TimeoutError):
                silent.append(str(target[0]))
            continue
        made.settimeout(max(0.05, until - time.monotonic()))
        return Connected(made, silent)
    raise Failure(f"{shown(host, port)}: {why(errors, timeout)}")


def shown(host: str, port: int) -> str:
    """Host and port, for people."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolved(host: str, port: int, timeout: float) -> list[Any]:
    """The host's addresses. Raises Failure where it has none, or nobody says so in time."""
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
        raise Failure("the host is no name that could be resolved")
    return found


def why(errors: list[OSError], timeout: float) -> str:
    """Why none of a host's addresses could be connected to, for people: what most of all says what is wrong."""
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
    """Who has accepted a connection, after how long, and which of its addresses said nothing before."""

    target: str
    seconds: float
    silent: list[str]


def tcp(name: str, *, port: int | None = None, **instead: Unpack[Instead]) -> Callable[..., None]:
    """Somebody accepts connections there.

    ``name`` is a variable with host:port or a URL, or host:port itself; ``port`` is for a URL that has none.
    """
    itself = given(name)

    def probe(ask: Ask) -> Accepts:
        host, number = address(ask, itself, port)
        begun = time.monotonic()
        connection, silent = connect(host, number, ask.timeout)
        connection.close()
        return Accepts(shown(host, number), time.monotonic() - begun, silent)

    def judge(answer: Accepts, details: Details) -> None:
        details.update(address=answer.target, seconds=round(answer.seconds, 3), silent=answer.silent)
        but = f", but not at {', '.join(answer.silent)}, which does not answer" if answer.silent else ""
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


class Certificate(NamedTuple):
    """What a service has shown."""

    target: str
    days: float
    issuer: str


def tls(
    name: str, *, days: float = 14, port: int = 443, client: str = "openssl", **instead: Unpack[Instead]
) -> Callable[..., None]:
    """A service's certificate is trusted, is for its host, and is valid for so many ``days`` from now on.

    :param name: a variable with host:port or a URL, or host:port itself; ``port`` is for one without.
    :param client: whom the application trusts: "openssl", "httpx" or "requests", each of which reads variables of its
        own from the application's environment; the last two trust certifi's certificates where none of them is set.
    """
    itself = given(name)
    if client not in TRUST:
        raise ValueError(f"the client {client!r} is none of {', '.join(TRUST)}")

    def probe(ask: Ask) -> Certificate:
        host, number = address(ask, itself, port)
        context = trusting(ask, client)
        target = shown(host, number)
        try:
            connection = connect(host, number, ask.timeout).made
            with connection, context.wrap_socket(connection, server_hostname=host) as made:
                found = made.getpeercert()
                # A server that wants a client's certificate says so, in TLS 1.3, only to the first who reads.
                made.settimeout(0.2)
                _provoke(made, target)
        except ssl.SSLError as error:
            raise Failure(f"{target}: {untrusted(error)}") from None
        except TimeoutError:
            raise Failure(f"{target} accepts connections and does not speak TLS within {ask.timeout:g} s") from None
        except (OSError, ValueError):  # ValueError: a host that no certificate could name
            raise Failure(f"{target}: {CLOSED}") from None
        until = ssl.cert_time_to_seconds(str((found or {})["notAfter"]))
        return Certificate(target, (until - time.time()) / 86_400, _issuer(found or {}))

    def judge(answer: Certificate, details: Details) -> None:
        ends = datetime.fromtimestamp(time.time() + answer.days * 86_400, UTC).date().isoformat()
        details.update(address=answer.target, days=round(answer.days, 2), issuer=answer.issuer)
        left = f"the certificate of {answer.target} is valid for {math.floor(answer.days)} more days, until {ends}"
        assert answer.days >= days, f"{left}, needs {days:g}"
        details.summary = f"valid until {ends}"

    return requirement(
        probe,
        judge,
        variable="" if itself else name,
        title=f"Certificate of {without_query(name)}",
        doc=f"The certificate of {without_query(name)} is trusted, and valid for {days:g} more days.",
        fix="renew the certificate, or look at who answers there",
        needs=["network"],
        instead=instead,
    )


TRUST = {
    "openssl": ("SSL_CERT_FILE", "SSL_CERT_DIR"),
    "httpx": ("SSL_CERT_FILE", "SSL_CERT_DIR"),
    "requests": ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
}
"""The variables in which each client looks for certificates, of which the first one that is set counts."""


def trusting(ask: Ask, client: str = "openssl") -> ssl.SSLContext:
    """A context that trusts whom the application trusts. Raises Failure where it could trust nobody."""
    variables = [one for one in TRUST[client] if ask.environment.get(one)]
    if not variables:
        if client == "openssl":
            return ssl.create_default_context()
        return ssl.create_default_context(cafile=imported("certifi", "http").where())
    # OpenSSL itself takes both of its variables; the others take the first one that is set.
    taken = variables if client == "openssl" else variables[:1]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for variable in taken:
        path = ask.environment[variable]
        try:
            if os.path.isdir(path):
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(cafile=path)
        except OSError:  # ssl's own errors as well
            raise Failure(f"{variable} names no certificates that could be read", f"mend or unset {variable}") from None
    return context


def _provoke(made: ssl.SSLSocket, target: str) -> None:
    try:
        made.recv(1)
    except TimeoutError:
        pass  # it waits for a request: it wants nothing first
    except ssl.SSLError as error:
        if "CERTIFICATE_REQUIRED" in str(error) or "HANDSHAKE_FAILURE" in str(error):
            unknown(f"{target} wants a certificate of its client, which is not asked with one here")
        raise
    except OSError:
        pass  # it has closed: the certificate has been shown


def untrusted(error: ssl.SSLError) -> str:
    """Why TLS does not stand, for people: in OpenSSL's words, which hold no secret."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return "what answers does not speak TLS"
    if error.reason and "CERTIFICATE_REQUIRED" in error.reason:
        return "it wants a certificate of its client"
    if isinstance(error, ssl.SSLEOFError) or error.reason is None:
        return CLOSED
    return f"TLS failed ({error.reason})"


def _issuer(certificate: Any) -> str:
    parts = [pair for relative in certificate.get("issuer", ()) for pair in relative]
    return next((value for key, value in parts if key in ("organizationName", "commonName")), "")
