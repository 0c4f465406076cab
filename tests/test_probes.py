"""Probes: real servers and sockets in every state in which a service has been found."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from preflight.settings import loading
from preflight.settings import model as settings
from preflight.suite.probes import network
from preflight.suite.probes.asking import Question, Reply, ask
from preflight.suite.probes.network import Probes

ROOT = Path(__file__).parents[1]
KEY = "sk-canary-3f9a1c77e2Zq"
LONG = 30.0  # seconds; a test that takes so long is wrong
SHORT = 0.3

Handle = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """An HTTP server that remembers what it was asked."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, handle: Handle) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append((self.path, dict(self.headers)))
                handle(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that went away is what some of these tests are about


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, and no certificates but the system's."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def serve() -> Iterator[Callable[[Handle], Server]]:
    """Start HTTP servers; they end with the test."""
    with contextlib.ExitStack() as stack:

        def start(handle: Handle) -> Server:
            server = stack.enter_context(Server(handle))
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(server.shutdown)
            return server

        yield start


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A listening socket that nobody accepts from, unless the test does."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def url_of(sock: socket.socket, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{sock.getsockname()[1]}/models"


def answer(status: int, **headers: str) -> Handle:
    """Answer with this status."""

    def handle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", "4")
        request.end_headers()
        request.wfile.write(b"body")

    return handle


def talk(sock: socket.socket, speak: Callable[[socket.socket], None]) -> threading.Thread:
    """Accept one connection, read the request, and answer in an own way."""

    def run() -> None:
        with contextlib.suppress(OSError):
            connection, _ = sock.accept()
            with connection:
                connection.recv(65536)
                speak(connection)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def chosen(**values: object) -> settings.Settings:
    """Settings with these two services, and no env file."""
    environ = {name: str(value) for name, value in values.items() if name.isupper()}
    options = {name: value for name, value in values.items() if name.islower()}
    return loading.load(ROOT, environ, options)


# One question.


@pytest.mark.parametrize("status", [200, 204, 401, 403, 404, 405, 500, 503])
def test_status(serve: Callable[[Handle], Server], status: int) -> None:
    """Whatever a service answers is an answer; what it means is for a requirement to say."""
    server = serve(answer(status))
    reply = ask(Question(f"{server.url}/v1/models", KEY), LONG)
    assert (reply.status, reply.failure, reply.retry_after) == (status, None, None)
    assert 0 < reply.seconds < LONG
    path, headers = server.requests[0]
    assert path == "/v1/models"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(reply)


def test_rate_limit(serve: Callable[[Handle], Server]) -> None:
    """With 429 comes how long to wait."""
    reply = ask(Question(serve(answer(429, Retry_After="20")).url), LONG)
    assert (reply.status, reply.retry_after) == (429, "20")


def test_without_a_key(serve: Callable[[Handle], Server]) -> None:
    """Without a key there is no header, and an empty one is none."""
    server = serve(answer(401))
    ask(Question(server.url), LONG)
    ask(Question(server.url, ""), LONG)
    assert ["Authorization" in headers for _path, headers in server.requests] == [False, False]


def test_netrc_does_not_replace_the_key(serve: Callable[[Handle], Server], home: Path) -> None:
    """What ~/.netrc says about the host is neither sent instead of the key nor without one."""
    netrc = home / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password netrc-password\ndefault login me password netrc-password\n")
    netrc.chmod(0o600)
    server = serve(answer(200))
    ask(Question(server.url, KEY), LONG)
    ask(Question(server.url), LONG)
    assert [headers.get("Authorization") for _path, headers in server.requests] == [f"Bearer {KEY}", None]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(serve: Callable[[Handle], Server], status: int) -> None:
    """A redirect is the answer: the key goes nowhere else."""
    elsewhere = serve(answer(200))
    server = serve(answer(status, Location=elsewhere.url))
    assert ask(Question(server.url, KEY), LONG).status == status
    assert elsewhere.requests == []


@pytest.mark.slow
def test_body_is_not_read(serve: Callable[[Handle], Server]) -> None:
    """An endless body does not hold up the answer."""
    over = threading.Event()

    def handle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        with contextlib.suppress(OSError):
            while not over.wait(0.001):
                request.wfile.write(b"x" * 1000)

    assert ask(Question(serve(handle).url), LONG).status == 200
    over.set()


# No answer.


def test_refused(free_port: int) -> None:
    """Nobody listens there."""
    reply = ask(Question(f"http://127.0.0.1:{free_port}/"), LONG)
    assert (reply.status, reply.failure) == (None, "connection refused")


def test_no_such_host() -> None:
    """A name that cannot be resolved (RFC 6761: .invalid never can)."""
    assert ask(Question("https://name.invalid/v1"), LONG).failure == "the host name cannot be resolved (DNS)"


def test_never_answers(listener: socket.socket) -> None:
    """A service that accepts and says nothing is given up at the deadline."""
    assert ask(Question(url_of(listener)), SHORT).failure == "no answer within 0.3 s"


def test_swallowed_packets() -> None:
    """A full backlog drops the packets, like a firewall: the connection itself is given up at the deadline."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        assert ask(Question(url_of(listener)), SHORT).failure == "no answer within 0.3 s"


def test_hangs_up(listener: socket.socket) -> None:
    """A service that closes the connection instead of answering."""
    thread = talk(listener, lambda connection: None)
    assert ask(Question(url_of(listener)), LONG).failure == "the connection was closed without an answer"
    thread.join()


def test_resets(listener: socket.socket) -> None:
    """A service that resets the connection."""
    import struct

    thread = talk(
        listener, lambda connection: connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    )
    assert ask(Question(url_of(listener)), LONG).failure == "the connection was closed without an answer"
    thread.join()


def test_other_protocol(listener: socket.socket) -> None:
    """Something that answers and does not speak HTTP."""
    thread = talk(listener, lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"))
    assert ask(Question(url_of(listener)), LONG).failure == "the program that answers does not speak HTTP"
    thread.join()


def test_no_tls(listener: socket.socket) -> None:
    """Plain HTTP where HTTPS was asked for."""
    thread = talk(listener, lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    assert (ask(Question(url_of(listener, "https"), KEY), LONG).failure or "").startswith("TLS failed")
    thread.join()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_self_signed(listener: socket.socket, tmp_path: Path) -> None:
    """A certificate that nobody vouches for: the key is not sent, and the reason is told."""
    files = {name: str(tmp_path / name) for name in ("key", "cert")}
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", files["key"], "-out", files["cert"], "-subj", "/CN=127.0.0.1", "-days", "2"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["cert"], files["key"])
    received: list[bytes] = []

    def run() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
            received.append(tls.recv(65536))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    reply = ask(Question(url_of(listener, "https"), KEY), LONG)
    thread.join()
    assert reply.failure is not None
    assert reply.failure.startswith("TLS failed: self")
    assert b"".join(received) == b""


@pytest.mark.parametrize(
    "url",
    ["nonsense", "", "http://", "ftp://127.0.0.1/", "http://[::1", "http://a..b/", "http://127.0.0.1:99999/", "x://"],
)
def test_bad_address(url: str) -> None:
    """An address that is none."""
    assert ask(Question(url, KEY), LONG).failure == "the address is not a valid URL"


@pytest.mark.parametrize(
    "key", [f"{KEY}\n{KEY}", f"{KEY}€", f"{KEY}\r"], ids=["two lines", "not latin", "carriage return"]
)
def test_bad_key(serve: Callable[[Handle], Server], key: str) -> None:
    """A key that no header can carry: that is said, and the key is not."""
    server = serve(answer(200))
    reply = ask(Question(server.url, key), LONG)
    assert reply.failure == "the key has characters that no HTTP header can carry"
    assert KEY not in repr(reply)
    assert server.requests == []


# All questions of a run.


def test_where_they_are_sent(serve: Callable[[Handle], Server]) -> None:
    """Each service is asked at its base URL, with its own key, for something that costs nothing."""
    one, two = serve(answer(200)), serve(answer(429))
    found = Probes(
        chosen(
            OPENAI_BASE_URL=f"{one.url}/v1/",
            OPENAI_API_KEY="key-one",
            PERPLEXITY_BASE_URL=two.url,
            PERPLEXITY_API_KEY="key-two",
            probe_timeout=LONG,
        )
    )
    assert sorted(found) == ["openai", "perplexity"]
    assert len(found) == 2
    found.start()
    assert (found["openai"].status, found["perplexity"].status) == (200, 429)
    assert [(path, headers["Authorization"]) for path, headers in one.requests] == [("/v1/models", "Bearer key-one")]
    assert [(path, headers["Authorization"]) for path, headers in two.requests] == [
        ("/async/chat/completions", "Bearer key-two")
    ]


def test_default_addresses() -> None:
    """Without base URLs the services' own are meant; an empty variable is none."""
    assert network.openai({}) == Question("https://api.openai.com/v1/models", None)
    assert network.openai({"OPENAI_BASE_URL": ""}).url == "https://api.openai.com/v1/models"
    assert network.perplexity({}) == Question("https://api.perplexity.ai/async/chat/completions", None)


def test_asked_together(serve: Callable[[Handle], Server]) -> None:
    """All questions are under way before any is answered: a run takes as long as the slowest, not as the sum."""
    together = threading.Barrier(2)

    def handle(request: BaseHTTPRequestHandler) -> None:
        together.wait(LONG)  # breaks, and nobody answers, if one comes alone
        answer(200)(request)

    server = serve(handle)
    found = Probes(chosen(OPENAI_BASE_URL=server.url, PERPLEXITY_BASE_URL=server.url, probe_timeout=LONG))
    found.start()
    assert [found[name].status for name in found] == [200, 200]


def test_slow_one_does_not_hold_up_the_other(serve: Callable[[Handle], Server], listener: socket.socket) -> None:
    """Each question has its own deadline, counted from the start of the run."""
    found = Probes(
        chosen(OPENAI_BASE_URL=url_of(listener), PERPLEXITY_BASE_URL=serve(answer(200)).url, probe_timeout="300ms")
    )
    found.start()
    assert found["openai"].failure == "no answer within 0.3 s"
    assert found["perplexity"].status == 200


def test_dribble(listener: socket.socket) -> None:
    """A service that sends a byte now and then, and so never lets a read time out, is given up at the deadline."""
    over = threading.Event()

    def speak(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not over.wait(0.02):
            connection.sendall(b"x")

    thread = talk(listener, speak)
    found = Probes(
        chosen(OPENAI_BASE_URL=url_of(listener), PERPLEXITY_BASE_URL="http://127.0.0.1:1", probe_timeout="300ms")
    )
    found.start()
    assert found["openai"] == Reply(f"{url_of(listener)}/models", failure="no answer within 0.3 s", seconds=0.3)
    over.set()
    thread.join()
    for probe in found._threads.values():
        probe.join(LONG)


def test_offline(serve: Callable[[Handle], Server]) -> None:
    """Offline nothing is asked, and what is asked for says so."""
    server = serve(answer(200))
    found = Probes(chosen(OPENAI_BASE_URL=server.url, PERPLEXITY_BASE_URL=server.url, offline=True))
    found.start()
    assert found["openai"] == Reply(f"{server.url}/models", failure="not asked (offline)")
    assert server.requests == []


def test_unknown_name() -> None:
    """A probe that does not exist is an error, not a reply."""
    found = Probes(chosen(offline=True))
    with pytest.raises(KeyError):
        found["elsewhere"]
    assert "elsewhere" not in found
