"""TCP, DNS, TLS and HTTP: real sockets, certificates of the tests' own, and servers that misbehave."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from preflight import ready
from tests.certificates import validity
from tests.proxies import OPENSSL, Authority
from tests.ready.asking import CANARY, Outcome, ask
from tests.ready.listeners import answering, garbage, listening, reset, swallowing

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="needs the openssl command")
LONG = 20.0  # seconds, for what answers at once


# TCP


def test_a_port_that_accepts(tmp_path: Path) -> None:
    """host:port, URLs with and without a port, and variables with either."""
    with listening() as port:
        for test in (ready.tcp(f"127.0.0.1:{port}"), ready.tcp(f"tcp://127.0.0.1:{port}/x"), ready.tcp("SERVICE")):
            ended = ask(tmp_path, test, SERVICE=f"postgresql://me:{CANARY}@127.0.0.1:{port}/db")
            assert ended.message == f"127.0.0.1:{port} accepts connections"


def test_ports_that_do_not_accept(tmp_path: Path, free_port: int) -> None:
    """Refused, silent, unresolved and unreadable are told apart."""
    refused = ask(tmp_path, ready.tcp(f"127.0.0.1:{free_port}", timeout=LONG))
    assert refused.message == f"127.0.0.1:{free_port}: connection refused: nothing listens there"
    with swallowing() as port:
        silent = ask(tmp_path, ready.tcp(f"127.0.0.1:{port}", timeout=0.3))
        assert silent.message == f"127.0.0.1:{port}: no answer within 0.3 s"
    nowhere = ask(tmp_path, ready.tcp("name.invalid:80", timeout=LONG))
    assert nowhere.message.startswith("name.invalid cannot be resolved")
    nothing = ask(tmp_path, ready.tcp("SERVICE"), SERVICE=CANARY)
    assert nothing.message == "SERVICE has no port in it"
    wrong = ask(tmp_path, ready.tcp("SERVICE"), SERVICE=f"redis://:{CANARY}@host:port/0")
    assert wrong.message == "SERVICE is neither host:port nor a URL"


@pytest.mark.slow
def test_the_first_of_several_addresses_is_silent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A host whose first address swallows everything, as IPv6 often does, is reached by its next one in time."""
    from preflight.ready import network

    with swallowing() as silent, listening() as port:
        both = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", silent)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]
        monkeypatch.setattr(network, "resolved", lambda _host, _port, _timeout: both)
        assert ask(tmp_path, ready.tcp("two.example:1", timeout=2.0)).outcome == "passed"


def test_names(tmp_path: Path) -> None:
    """Addresses are what this machine resolves a name to, and compared where some are expected."""
    own = {str(found[4][0]) for found in socket.getaddrinfo("localhost", None)}  # ::1 as well, on some machines
    assert set(ask(tmp_path, ready.dns("localhost", addresses=own)).message.split(", ")) == own
    other = ask(tmp_path, ready.dns("localhost", addresses={"10.0.0.1"})).message
    assert re.fullmatch(r"localhost is (.+), and should be 10\.0\.0\.1", other)
    assert ask(tmp_path, ready.dns("name.invalid")).message.startswith("name.invalid cannot be resolved")


# TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def certificate(authority: Authority, folder: Path, name: str, *, names: str, days: int) -> Path:
    """A certificate by that authority, for so many days."""
    files = {ending: folder / f"{name}.{ending}" for ending in ("key", "csr", "crt", "pem", "names")}
    files["names"].write_text(f"subjectAltName={names}\n")
    openssl = [str(OPENSSL)]
    request = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run(
        [*openssl, *request, "-keyout", files["key"], "-out", files["csr"], "-subj", f"/CN={name}"],
        check=True, capture_output=True,
    )  # fmt: skip
    signed = ["-CA", str(authority.file), "-CAkey", str(authority.file.with_name("a.key")), "-CAcreateserial"]
    signed += ["-extfile", str(files["names"]), *validity(days)]
    subprocess.run(
        [*openssl, "x509", "-req", "-in", files["csr"], *signed, "-out", files["crt"]], check=True, capture_output=True
    )
    files["pem"].write_text(files["key"].read_text() + files["crt"].read_text())
    return files["pem"]


def of_tls(context: ssl.SSLContext) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as made:
            made.recv(1)

    return talk


def serving(pem: Path, clients: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    return context


def tls(tmp_path: Path, port: int, authority: Authority | None, days: float = 1) -> Outcome:
    trust = {"SSL_CERT_FILE": str(authority.file)} if authority else {}
    return ask(tmp_path, ready.tls(f"127.0.0.1:{port}", days=days, timeout=LONG), **trust)


@pytest.mark.slow
def test_a_certificate(tmp_path: Path, authority: Authority) -> None:
    """One that is trusted passes, unless too few days are left."""
    with listening(of_tls(serving(authority.certificate))) as port:
        good = tls(tmp_path, port, authority)
        assert good.message.startswith("valid until ")
        assert good.details["issuer"] == "authority"
        late = tls(tmp_path, port, authority, days=30)
        assert f"the certificate of 127.0.0.1:{port} is valid for 1 more days" in late.message
        assert late.message.endswith("at least 30 days are needed")


@pytest.mark.slow
def test_certificates_that_are_not_trusted(tmp_path: Path, authority: Authority) -> None:
    """An unknown issuer, another host, and one that has expired are told apart, in OpenSSL's words."""
    with listening(of_tls(serving(authority.certificate))) as port:
        assert "certificate is not trusted: self-signed certificate" in tls(tmp_path, port, None).message or (
            "unable to get local issuer certificate" in tls(tmp_path, port, None).message
        )
    other = certificate(authority, tmp_path, "other", names="DNS:other.example", days=2)
    with listening(of_tls(serving(other))) as port:
        assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in tls(tmp_path, port, authority).message
    old = certificate(authority, tmp_path, "old", names="IP:127.0.0.1", days=-1)
    with listening(of_tls(serving(old))) as port:
        assert "certificate has expired" in tls(tmp_path, port, authority).message


@pytest.mark.slow
def test_a_server_that_wants_a_certificate(tmp_path: Path, authority: Authority) -> None:
    """Its own is fine; that it would refuse a client without one is not known to be wrong."""
    with listening(of_tls(serving(authority.certificate, clients=authority.file))) as port:
        ended = tls(tmp_path, port, authority)
    assert (ended.outcome, ended.message) == (
        "unknown",
        f"127.0.0.1:{port} wants a client certificate, and this check has none",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "talk, message",
    [
        (garbage, "the server that answers does not speak TLS"),
        (reset, "the connection was closed without an answer"),
        (lambda connection: connection.close(), "the connection was closed without an answer"),
    ],
    ids=["garbage", "reset", "closes"],
)
def test_ports_without_tls(
    tmp_path: Path, authority: Authority, talk: Callable[[socket.socket], object], message: str
) -> None:
    """What answers in plain text, resets or closes is told apart from a certificate that is bad."""
    with listening(talk) as port:
        ended = tls(tmp_path, port, authority)
    assert (ended.outcome, ended.message) == ("failed", f"127.0.0.1:{port}: {message}")


def test_a_port_that_says_nothing(tmp_path: Path) -> None:
    """It accepts and does not speak TLS within the deadline."""
    with listening() as port:
        ended = ask(tmp_path, ready.tls(f"127.0.0.1:{port}", timeout=0.3))
    assert ended.message == f"127.0.0.1:{port} accepts connections, but does not speak TLS within 0.3 s"


def test_a_trust_store_that_is_none(tmp_path: Path) -> None:
    """What the application's variable names is said to be unreadable; nobody is asked instead of it."""
    with listening() as port:
        ended = ask(tmp_path, ready.tls(f"127.0.0.1:{port}"), SSL_CERT_FILE=str(tmp_path / "gone.pem"))
    assert ended.message == "SSL_CERT_FILE names no certificates that could be read"


# HTTP


class Answers(BaseHTTPRequestHandler):
    """A service that answers by the path."""

    def do_GET(self) -> None:  # http.server calls it so
        path = self.path.partition("?")[0]
        if path == "/json":
            self._answer(200, json.dumps({"models": [{"state": "ready"}], "ok": True}).encode())
        elif path in ("/null", "/true", "/1", "/[true]", "/[1]"):
            self._answer(200, path[1:].encode())
        elif path == "/elsewhere":
            self._answer(302, b"", Location="https://login.example/" + CANARY)
        elif path == "/down":
            self._answer(503, b"<h1>no</h1>")
        elif path == "/huge":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(64):
                    self.wfile.write(b" " * (1 << 20))
        else:
            self._answer(200, b"plain")

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Tests are silent."""


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with answering(Answers) as url:
        yield url


def test_answers(tmp_path: Path, service: str) -> None:
    """Status and a value in the JSON are compared."""
    assert ask(tmp_path, ready.http(f"{service}/json", timeout=LONG)).outcome == "passed"
    test = ready.http("SERVICE_URL", path="models.0.state", equals="ready", timeout=LONG)
    assert ask(tmp_path, test, SERVICE_URL=f"{service}/json?token={CANARY}").outcome == "passed"
    other = ask(tmp_path, ready.http(f"{service}/json", path="models.0.state", equals="loading", timeout=LONG))
    assert other.message == f"models.0.state in the answer of {service}/json is not 'loading'"
    missing = ask(tmp_path, ready.http(f"{service}/json", path="models.1.state", timeout=LONG))
    assert missing.message == f"the answer of {service}/json has no models.1.state"
    plain = ask(tmp_path, ready.http(f"{service}/plain", path="ok", timeout=LONG))
    assert plain.message == f"{service}/plain did not answer with JSON"


@pytest.mark.parametrize(
    "said, value", [("null", None), ("true", True), ("1", 1), ("1", 1.0), ("[true]", [True]), ("[1]", (1,))]
)
def test_answers_of_one_word(tmp_path: Path, service: str, said: str, value: object) -> None:
    """All of the JSON is compared, as JSON has it: true is not 1, and null is an answer."""
    assert ask(tmp_path, ready.http(f"{service}/{said}", equals=value, timeout=LONG)).outcome == "passed"
    for other in {"null", "true", "1", "[true]", "[1]"} - {said}:
        ended = ask(tmp_path, ready.http(f"{service}/{other}", equals=value, timeout=LONG))
        assert ended.message == f"the JSON of {service}/{other} is not {value!r}"


def test_answers_that_are_not_expected(tmp_path: Path, service: str) -> None:
    """A status is compared, and a redirection is not followed: its host is named, and no more of it."""
    down = ask(tmp_path, ready.http(f"{service}/down", timeout=LONG))
    assert down.message == f"{service}/down answered HTTP 503"
    assert ask(tmp_path, ready.http(f"{service}/down", status={200, 503}, timeout=LONG)).outcome == "passed"
    moved = ask(tmp_path, ready.http("SERVICE_URL", timeout=LONG), SERVICE_URL=f"{service}/elsewhere")
    assert moved.message == f"{service} answered HTTP 302, a redirection to login.example"


def test_an_answer_without_end(tmp_path: Path, service: str) -> None:
    """64 MiB are not read."""
    ended = ask(tmp_path, ready.http(f"{service}/huge", timeout=LONG))
    assert ended.outcome == "unknown"
    assert "has more than 4 MiB" in ended.message


@pytest.mark.parametrize(
    "talk, message",
    [
        (garbage, "the program that answers does not speak HTTP"),
        (reset, "the connection was closed without an answer"),
        (lambda connection: connection.recv(1) and None, "no answer within 0.5 s"),
    ],
    ids=["garbage", "reset", "silent"],
)
def test_services_that_do_not_answer(tmp_path: Path, talk: Callable[[socket.socket], object], message: str) -> None:
    """Each is told apart, within the deadline."""
    timeout = 0.5 if "0.5" in message else LONG
    with listening(talk) as port:
        ended = ask(tmp_path, ready.http("SERVICE_URL", timeout=timeout), SERVICE_URL=f"http://127.0.0.1:{port}/")
    assert (ended.outcome, ended.message) == ("failed", f"http://127.0.0.1:{port}: {message}")


@pytest.mark.parametrize("value", [f"ftp://{CANARY}", CANARY, f"http://me:{CANARY}@"])
def test_urls_that_are_none(tmp_path: Path, value: str) -> None:
    """They fail without a word of them."""
    assert ask(tmp_path, ready.http("SERVICE_URL"), SERVICE_URL=value).outcome == "failed"
