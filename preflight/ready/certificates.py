"""``ready.tls``: a service's certificate is trusted, and valid for long enough."""

from __future__ import annotations

import math
import os
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, Unpack

from preflight import text
from preflight.contract import Details
from preflight.making import Ask, Failure, Instead, imported, requirement, unknown, without_query
from preflight.ready.network import CLOSED, address, connect, given


class CertificateAnswer(NamedTuple):
    """The certificate that a service has shown."""

    target: str
    days: float
    issuer: str


def tls(
    name: str, *, days: float = 14, port: int = 443, client: str = "openssl", **instead: Unpack[Instead]
) -> Callable[..., None]:
    """A service's certificate is trusted, is for its host, and is valid for so many ``days`` from now on.

    :param name: a variable with host:port or a URL, or host:port itself; ``port`` is for one without.
    :param client: the client whose authorities the application trusts: "openssl", "httpx" or "requests". Each reads
        variables of its own from the application's environment; if none is set, the last two trust certifi's.
    """
    itself = given(name)
    if client not in TRUST:
        raise ValueError(f"the client {client!r} is not one of {', '.join(TRUST)}")

    def probe(ask: Ask) -> CertificateAnswer:
        host, number = address(ask, itself, port)
        context = trusting(ask, client)
        target = text.address(host, number)
        try:
            connection = connect(host, number, ask.timeout).made
            with connection, context.wrap_socket(connection, server_hostname=host) as made:
                found = made.getpeercert()
                # In TLS 1.3, a server that wants a client's certificate says so only to a client that reads.
                made.settimeout(0.2)
                _provoke(made, target)
        except ssl.SSLError as error:
            raise Failure(f"{target}: {untrusted(error)}") from None
        except TimeoutError:
            raise Failure(f"{target} accepts connections, but does not speak TLS within {ask.timeout:g} s") from None
        except (OSError, ValueError):  # ValueError: a host that no certificate could name
            raise Failure(f"{target}: {CLOSED}") from None
        until = ssl.cert_time_to_seconds(str((found or {})["notAfter"]))
        return CertificateAnswer(target, (until - time.time()) / 86_400, _issuer(found or {}))

    def judge(answer: CertificateAnswer, details: Details) -> None:
        ends = datetime.fromtimestamp(time.time() + answer.days * 86_400, UTC).date().isoformat()
        details.update(address=answer.target, days=round(answer.days, 2), issuer=answer.issuer)
        left = f"the certificate of {answer.target} is valid for {math.floor(answer.days)} more days, until {ends}"
        assert answer.days >= days, f"{left}; at least {days:g} days are needed"
        details.summary = f"valid until {ends}"

    return requirement(
        probe,
        judge,
        variable="" if itself else name,
        title=f"Certificate of {without_query(name)}",
        doc=f"The certificate of {without_query(name)} is trusted, and valid for {days:g} more days.",
        fix="renew the certificate, or check which server answers there",
        needs=["network"],
        instead=instead,
    )


TRUST = {
    "openssl": ("SSL_CERT_FILE", "SSL_CERT_DIR"),
    "httpx": ("SSL_CERT_FILE", "SSL_CERT_DIR"),
    "requests": ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
}
"""The variables in which each client looks for certificates; see :func:`trusting` for which of them count."""


def trusting(ask: Ask, client: str = "openssl") -> ssl.SSLContext:
    """A context that trusts the same authorities as the application. Raises Failure if it could trust none."""
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
            said = f"{variable} names no certificates that could be read"
            raise Failure(said, f"correct or unset {variable}") from None
    return context


def _provoke(made: ssl.SSLSocket, target: str) -> None:
    try:
        made.recv(1)
    except TimeoutError:
        pass  # it waits for a request: it wants nothing first
    except ssl.SSLError as error:
        if "CERTIFICATE_REQUIRED" in str(error) or "HANDSHAKE_FAILURE" in str(error):
            unknown(f"{target} wants a client certificate, and this check has none")
        raise
    except OSError:
        pass  # it has closed: the certificate has been shown


def untrusted(error: ssl.SSLError) -> str:
    """Why the TLS handshake failed, for people: in OpenSSL's words, which hold no secret."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return "the server that answers does not speak TLS"
    if error.reason and "CERTIFICATE_REQUIRED" in error.reason:
        return "it wants a client certificate"
    if isinstance(error, ssl.SSLEOFError) or error.reason is None:
        return CLOSED
    return f"TLS failed ({error.reason})"


def _issuer(certificate: Any) -> str:
    parts = [pair for relative in certificate.get("issuer", ()) for pair in relative]
    return next((value for key, value in parts if key in ("organizationName", "commonName")), "")
