"""The certificate and key for TLS: whether they can be read, belong together, and are valid.

A handshake in memory, between the very context that the worker will make and a client that trusts this certificate
alone, tells what OpenSSL makes of it. Nothing is asked of the network.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preflight import commands
from preflight.settings.model import Settings

LARGEST = 4 * 1024**2  # bytes of a file of certificates that are read; a system's whole bundle has a quarter million
ROUNDS = 8  # of a handshake, which takes two


class UnusableCertificate(ValueError):
    """TLS cannot be served with these files: what was found and what is needed, in one line, and what to do."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Certificate:
    """The certificate that clients get to see."""

    path: Path
    ends: float | None
    """When it expires, in seconds since the epoch; None if OpenSSL says that it is not valid now."""
    problem: str
    """Why OpenSSL does not accept it today; empty if it does."""
    names: tuple[str, ...]
    """The names and addresses that it is for."""

    def days_left(self) -> float:
        """Days until it expires; 0 if it is not valid now."""
        return 0.0 if self.ends is None else (self.ends - time.time()) / 86400


def examine(settings: Settings) -> Certificate:
    """The certificate that these settings serve with. Raises UnusableCertificate if none can be served with them."""
    certificate = settings.ssl_certfile
    if certificate is None:
        given = next(name for name in NAMES if name in settings.sources)
        raise UnusableCertificate(
            f"{settings.place(given)} is set, but ssl_certfile is not: plain HTTP would be served",
            "set ssl_certfile to the certificate, or leave the other ssl_ settings out",
        )
    key = settings.ssl_keyfile or certificate
    text = _read(settings, "ssl_certfile", certificate)
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise UnusableCertificate(
            f"{settings.place('ssl_certfile')}: {certificate} holds no certificate in PEM",
            f"openssl x509 -in {commands.quoted(certificate)} -outform pem  # converts it to PEM",
        )
    private = _read(settings, "ssl_keyfile", key) if key != certificate else text
    if "PRIVATE KEY-----" not in private:
        where = settings.place("ssl_keyfile" if settings.ssl_keyfile else "ssl_certfile")
        raise UnusableCertificate(
            f"{where}: {key} holds no private key in PEM", "set ssl_keyfile to the file with the private key"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(settings, context, certificate, key, encrypted="ENCRYPTED" in private)
    _trust_clients(settings, context)
    if settings.ssl_ciphers is not None:
        try:
            context.set_ciphers(settings.ssl_ciphers)
        except ssl.SSLError:
            raise UnusableCertificate(
                f"{settings.place('ssl_ciphers')} names no cipher that this OpenSSL has ({ssl.OPENSSL_VERSION})",
                "leave the setting out, or choose from the ciphers that OpenSSL has: openssl ciphers -v",
            ) from None
    context.verify_mode = ssl.CERT_NONE  # of the client below, which has no certificate
    return _handshake(context, certificate, text)


NAMES = ("ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs", "ssl_cert_reqs", "ssl_ciphers")
"""Settings that mean nothing without ssl_certfile."""


def _read(settings: Settings, name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST).decode("ascii", "replace")
    except OSError as error:
        path_shown = commands.quoted(path)
        fix = f"ls -l {path_shown}  # user {os.geteuid()} has to be able to read it; or set {name} to another file"
        if isinstance(error, FileNotFoundError):
            fix = f"set {name} to a file that exists: a relative path starts at {settings.root}"
        raise UnusableCertificate(f"{settings.place(name)}: {path} cannot be read: {error.strerror}", fix) from None


def _load(settings: Settings, context: ssl.SSLContext, certificate: Path, key: Path, *, encrypted: bool) -> None:
    if encrypted and settings.ssl_keyfile_password is None:
        raise UnusableCertificate(
            f"the private key in {key} has a password, but ssl_keyfile_password is not set",
            "set PREFLIGHT_SSL_KEYFILE_PASSWORD in the env file or the environment",
        )
    try:
        # Never None: OpenSSL would ask the terminal.
        context.load_cert_chain(certificate, key, password=lambda: settings.ssl_keyfile_password or "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            shown = f"openssl pkey -pubout -in {commands.quoted(key)}"
            raise UnusableCertificate(
                f"the private key in {key} does not belong to the certificate in {certificate}",
                f"set ssl_keyfile to the key that the certificate was made for: {shown} prints the same for it as"
                f" openssl x509 -noout -pubkey -in {commands.quoted(certificate)}",
            ) from None
        if encrypted:
            where = settings.place("ssl_keyfile_password")
            raise UnusableCertificate(
                f"{where} does not open the private key in {key}", "set PREFLIGHT_SSL_KEYFILE_PASSWORD to its password"
            ) from None
        raise UnusableCertificate(
            f"OpenSSL cannot use {certificate} with the private key in {key}: {_said(error)}",
            f"see how OpenSSL reads the file: openssl x509 -noout -text -in {commands.quoted(certificate)}",
        ) from None


def _trust_clients(settings: Settings, context: ssl.SSLContext) -> None:
    authorities = settings.ssl_ca_certs
    if authorities is None:
        if settings.ssl_cert_reqs != "none":
            raise UnusableCertificate(
                f"{settings.place('ssl_cert_reqs')} is {settings.ssl_cert_reqs}, but ssl_ca_certs is not set: no"
                " client's certificate would be accepted",
                "set ssl_ca_certs to the certificates of the authorities that issue your clients' certificates",
            )
        return
    _read(settings, "ssl_ca_certs", authorities)
    try:
        context.load_verify_locations(authorities)
    except ssl.SSLError as error:
        raise UnusableCertificate(
            f"{settings.place('ssl_ca_certs')}: {authorities} holds no certificates in PEM ({_said(error)})",
            "set ssl_ca_certs to a file with the certificates, one after the other",
        ) from None


def _handshake(context: ssl.SSLContext, path: Path, text: str) -> Certificate:
    """The certificate as it is seen by a client that trusts it and no other."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    first = text[text.index("-----BEGIN CERTIFICATE-----") :]
    trusting.load_verify_locations(cadata=first[: first.index("-----END CERTIFICATE-----") + 25] + "\n")
    from_client, from_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(from_server, from_client)
    server = context.wrap_bio(from_client, from_server, server_side=True)
    try:
        for _round in range(ROUNDS):
            done = [_step(client.do_handshake), _step(server.do_handshake)]
            if all(done):
                break
    except ssl.SSLCertVerificationError as error:
        return Certificate(path, None, error.verify_message, ())
    except ssl.SSLError as error:
        raise UnusableCertificate(
            f"OpenSSL cannot serve TLS with {path}: {_said(error)}",
            f"inspect the file: openssl x509 -noout -text -in {commands.quoted(path)}",
        ) from None
    seen: dict[str, Any] = client.getpeercert() or {}
    names = tuple(str(name) for _kind, name in seen.get("subjectAltName", ()))
    return Certificate(path, float(ssl.cert_time_to_seconds(str(seen["notAfter"]))), "", names)


def _step(handshake: Callable[[], None]) -> bool:
    try:
        handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _said(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
