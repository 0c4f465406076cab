"""What uvicorn's users expect of a server: limits as it has them, TLS, proxies, root_path and logging."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests import certificates
from tests.certificates import Pair
from tests.e2e.place import Place, get
from tests.privileges import WITHOUT, unprivileged
from tests.waiting import PATIENCE, until

# Says how it was asked, how much came, and who it is.
TELLING = """
import json, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": str(len(message.get("text") or message.get("bytes")))})
        return
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    told = {name: scope.get(name) for name in ("scheme", "root_path", "path", "client")} | {"size": size}
    body = json.dumps(told | {"pid": os.getpid(), "release": os.environ.get("RELEASE")}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""
MIB = 1024**2


def telling(place: Place) -> Place:
    place.write_module("telling", TELLING)
    return place


def without_limits(project: Place) -> Place:
    """A project that sets no limits, as somebody else's does not."""
    for line in ('request_size = "1 MiB"\n', 'websocket_message_size = "1 MiB"\n', "websocket_compression = false\n"):
        project.edit_project(line, "")
    return telling(project)


@contextlib.contextmanager
def connected(place: Place, context: ssl.SSLContext | None = None) -> Iterator[http.client.HTTPConnection]:
    """A connection to the server, with TLS if there is a context for it."""
    if context is None:
        client = http.client.HTTPConnection("127.0.0.1", place.port, timeout=60)
    else:
        client = http.client.HTTPSConnection("127.0.0.1", place.port, timeout=60, context=context)
    try:
        yield client
    finally:
        client.close()


# Bodies, messages and compression.


def test_uploads_and_messages_are_limited_as_uvicorn_limits_them(project: Place) -> None:
    """A body of 5 MiB is taken, so is a WebSocket message of 5 MiB, and compression is granted where it is offered."""
    place = without_limits(project)
    place.start("--demo", "--app", "telling:app").until_ready()
    with connected(place) as client:
        client.request("POST", "/upload", body=b"x" * (5 * MIB))
        answer = client.getresponse()
        assert (answer.status, json.loads(answer.read())["size"]) == (200, 5 * MIB)
        client.request("POST", "/upload", body=iter([b"x" * MIB] * 5), encode_chunked=True)
        assert json.loads(client.getresponse().read())["size"] == 5 * MIB
    with connect(f"ws://127.0.0.1:{place.port}/", max_size=None) as socket_:
        assert "permessage-deflate" in str(socket_.response and socket_.response.headers)
        socket_.send("x" * (5 * MIB))
        assert socket_.recv(60) == str(5 * MIB)
        socket_.send("x" * (17 * MIB))
        with pytest.raises(Exception, match="1009"):
            socket_.recv(60)


@pytest.mark.parametrize(
    "setting,value,status", [("REQUEST_SIZE", "100 KiB", 413), ("REQUEST_SIZE", "0", 200), ("REQUEST_SIZE", "off", 200)]
)
def test_the_limit_of_a_body_is_a_setting(project: Place, setting: str, value: str, status: int) -> None:
    """What is set counts, and 0 or "off" is no limit."""
    place = without_limits(project)
    place.start("--demo", "--app", "telling:app", **{f"PREFLIGHT_{setting}": value}).until_ready()
    with connected(place) as client:
        try:
            client.request("POST", "/upload", body=b"x" * (2 * MIB))
        except (BrokenPipeError, ConnectionResetError):
            assert status == 413  # it has said so before everything was sent
        assert client.getresponse().status == status


def test_the_agent_server_keeps_its_limits(place: Place) -> None:
    """The checkout's own project says 1 MiB: its agent server takes no more, and compresses nothing."""
    place.start("--demo").until_ready()
    with connected(place) as client:
        client.putrequest("POST", "/diagnostics/runs")
        client.putheader("Content-Length", str(MIB + 1))
        client.endheaders()
        assert client.getresponse().status == 413
    with connect(f"ws://127.0.0.1:{place.port}/ws/chat") as chat:
        assert "permessage-deflate" not in str(chat.response and chat.response.headers)


# TLS.


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return certificates.make(tmp_path / "tls")


def ask(place: Place, pair: Pair, path: str = "/", context: ssl.SSLContext | None = None) -> dict[str, object]:
    with connected(place, context or pair.trusting()) as client:
        client.request("GET", path)
        answer: dict[str, object] = json.loads(client.getresponse().read())
        return answer


def tls(pair: Pair, **more: str) -> dict[str, str]:
    return {"PREFLIGHT_SSL_CERTFILE": str(pair.certificate), "PREFLIGHT_SSL_KEYFILE": str(pair.key), **more}


def test_tls(place: Place, pair: Pair) -> None:
    """With a certificate HTTPS and WSS are served and nothing else, and READY says so."""
    instance = telling(place).start("--demo", "--app", "telling:app", **tls(pair)).until_ready()
    assert f"https://127.0.0.1:{place.port}" in instance.output
    assert f"http://127.0.0.1:{place.port}" not in instance.output
    assert ask(place, pair)["scheme"] == "https"
    with connect(f"wss://127.0.0.1:{place.port}/", ssl=pair.trusting()) as chat:
        chat.send("x" * 1000)
        assert chat.recv(30) == "1000"
    with pytest.raises((OSError, http.client.HTTPException)):
        get(f"http://127.0.0.1:{place.port}/")
    assert instance.stop() == 0


def test_the_addresses_of_the_agent_server_are_those_of_tls(place: Place, pair: Pair) -> None:
    """READY names HTTPS and WSS addresses, and its page works under them."""
    instance = place.start("--demo", **tls(pair)).until_ready()
    assert f"wss://127.0.0.1:{place.port}/ws/chat" in instance.output
    assert f"https://127.0.0.1:{place.port}/health" in instance.output
    assert ask(place, pair, "/health")["status"] == "healthy"


def replaced(place: Place, ask_once: Callable[[], dict[str, object]], **environ: str) -> None:
    """A second start takes the place of the first while somebody asks all the time, and nothing fails."""
    first = telling(place).start("--demo", "--app", "telling:app", RELEASE="1", **environ).until_ready()
    releases: list[object] = []
    failures: list[Exception] = []
    over = threading.Event()

    def ask_on() -> None:
        while not over.is_set():
            try:
                releases.append(ask_once()["release"])
            except Exception as error:  # noqa: BLE001  # whatever it is: none may happen
                failures.append(error)
            time.sleep(0.01)

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        second = place.start("--demo", "--app", "telling:app", RELEASE="2", **environ).until_ready()
        assert first.wait() == 0, first.output
        until(lambda: "2" in releases[-1:], "the second answers")
    finally:
        over.set()
        asking.join()
    assert failures == []
    check = place.run("--check-only", "--demo", "--app", "telling:app", **environ)
    assert check.process.returncode == 0, check.output
    assert "served by our instance" in json.dumps(place.report())
    assert second.stop() == 0


def test_tls_is_replaced_without_an_outage(place: Place, pair: Pair) -> None:
    """The new server's proof is asked for, the old one goes only then, and a check says who serves."""
    replaced(place, lambda: ask(place, pair), **tls(pair))


def test_a_renewed_certificate_is_served_by_the_next_instance(place: Place, tmp_path: Path) -> None:
    """A start with another certificate replaces the instance with the old one."""
    old, new = certificates.make(tmp_path / "old"), certificates.make(tmp_path / "new")
    first = telling(place).start("--demo", "--app", "telling:app", **tls(old)).until_ready()
    place.start("--demo", "--app", "telling:app", **tls(new)).until_ready()
    assert first.wait() == 0
    assert ask(place, new)["scheme"] == "https"
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(place, old)


def test_clients_have_to_show_a_certificate(place: Place, pair: Pair, tmp_path: Path) -> None:
    """With ssl_cert_reqs a client without one is not answered; the instance is replaced all the same."""
    authority = certificates.make(tmp_path / "client", "client")
    settings = tls(pair, PREFLIGHT_SSL_CA_CERTS=str(authority.certificate), PREFLIGHT_SSL_CERT_REQS="required")
    first = telling(place).start("--demo", "--app", "telling:app", **settings).until_ready()
    with pytest.raises(OSError):  # an alert, or the end of the connection
        ask(place, pair)
    known = pair.trusting()
    known.load_cert_chain(authority.certificate, authority.key)
    assert ask(place, pair, context=known)["scheme"] == "https"
    place.start("--demo", "--app", "telling:app", **settings).until_ready()
    assert first.wait() == 0


def broken_tls(case: str, folder: Path) -> tuple[dict[str, str], str]:
    """Settings with which TLS cannot be served, and what a start has to say of them."""
    pair, other = certificates.make(folder, "server"), certificates.make(folder, "other")
    locked = certificates.make(folder, "locked", password="a-long-password-7391")
    match case:
        case "missing":
            return tls(Pair(folder / "none.pem", pair.key)), "none.pem cannot be read: No such file or directory"
        case "folder":
            return tls(Pair(folder, pair.key)), "cannot be read: Is a directory"
        case "unreadable":
            pair.key.chmod(0)
            return tls(pair), f"{pair.key} cannot be read: Permission denied"
        case "mismatch":
            return tls(Pair(pair.certificate, other.key)), "does not belong to the certificate"
        case "no key":
            return {"PREFLIGHT_SSL_CERTFILE": str(pair.certificate)}, "holds no private key in PEM"
        case "swapped":
            return tls(Pair(pair.key, pair.certificate)), "holds no certificate in PEM"
        case "empty":
            pair.certificate.write_text("")
            return tls(pair), "holds no certificate in PEM"
        case "damaged":
            pair.certificate.write_text(pair.certificate.read_text().replace("MII", "M!!", 1))
            return tls(pair), "OpenSSL cannot use"
        case "no password":
            return tls(locked), "has a password, but ssl_keyfile_password is not set"
        case "wrong password":
            wrong = {"PREFLIGHT_SSL_KEYFILE_PASSWORD": "another-password-5517"}
            return tls(locked, **wrong), "does not open the private key"
        case "no authorities":
            return tls(pair, PREFLIGHT_SSL_CERT_REQS="required"), "ssl_ca_certs is not set"
        case "bad authorities":
            return tls(pair, PREFLIGHT_SSL_CA_CERTS=str(pair.key)), "holds no certificates in PEM"
        case "ciphers":
            return tls(pair, PREFLIGHT_SSL_CIPHERS="ROT13"), "names no cipher"
        case _:
            return {"PREFLIGHT_SSL_KEYFILE": str(pair.key)}, "ssl_certfile is not: plain HTTP would be served"


BROKEN_TLS = [
    "missing", "folder", "mismatch", "no key", "swapped", "empty", "damaged", "no password", "wrong password",
    "no authorities", "bad authorities", "ciphers", "key alone",
]  # fmt: skip


@pytest.mark.parametrize("case", BROKEN_TLS)
def test_tls_that_cannot_be_served_blocks_a_check(place: Place, tmp_path: Path, case: str) -> None:
    """What was found stands in the check, with a fix, and no password in either."""
    settings, said = broken_tls(case, tmp_path / "tls")
    refused = telling(place).run("--check-only", "--demo", "--app", "telling:app", **settings)
    assert refused.process.returncode == 1, refused.output
    check = place.check("TLS Certificate")
    assert check["outcome"] == "failed"
    assert said in check["message"]
    assert check["fix"]
    assert "password-" not in place.report_file.read_text() + refused.output


def test_a_start_with_the_wrong_key_stops_nothing(place: Place, tmp_path: Path) -> None:
    """The server that works goes on, and the one that could not serve TLS is refused before anything is stopped."""
    good = certificates.make(tmp_path / "good")
    settings, said = broken_tls("mismatch", tmp_path / "tls")
    telling(place).start("--demo", "--app", "telling:app", **tls(good)).until_ready()
    before = ask(place, good)["pid"]
    refused = place.run("--demo", "--app", "telling:app", **settings)
    assert refused.process.returncode == 1
    assert said in refused.output
    assert ask(place, good)["pid"] == before


@unprivileged
def test_a_key_that_cannot_be_read_blocks(place: Place, tmp_path: Path) -> None:
    """The file, what the system says of it, and who has to be able to read it."""
    settings, said = broken_tls("unreadable", tmp_path / "tls")
    place.before = WITHOUT
    refused = telling(place).run("--check-only", "--demo", "--app", "telling:app", **settings)
    assert refused.process.returncode == 1
    assert said in place.check("TLS Certificate")["message"]


def test_an_encrypted_key_and_its_password(place: Place, tmp_path: Path) -> None:
    """The password comes from the environment, and stands nowhere."""
    pair = certificates.make(tmp_path / "tls", password="a-long-password-7391")
    settings = tls(pair, PREFLIGHT_SSL_KEYFILE_PASSWORD="a-long-password-7391")
    instance = telling(place).start("--demo", "--app", "telling:app", **settings).until_ready()
    assert ask(place, pair)["scheme"] == "https"
    assert "a-long-password-7391" not in place.report_file.read_text() + instance.output


@pytest.mark.parametrize("days,said", [(-1, "expired"), (3, "expires on")])
def test_a_certificate_that_ends_is_a_warning(place: Place, tmp_path: Path, days: int, said: str) -> None:
    """One that has expired, or is about to, is said and does not keep a server from starting."""
    pair = certificates.make(tmp_path / "tls", days=days)
    checked = telling(place).run("--check-only", "--demo", "--app", "telling:app", **tls(pair))
    assert checked.process.returncode == 0, checked.output
    check = place.check("TLS Certificate Validity")
    assert check["outcome"] == "failed"
    assert said in check["message"]


# Proxies.


def forwarded(place: Place) -> dict[str, object]:
    with connected(place) as client:
        client.request("GET", "/", headers={"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"})
        told: dict[str, object] = json.loads(client.getresponse().read())
        return told


@pytest.mark.parametrize(
    "trusted,client,scheme",
    [
        ("", "127.0.0.1", "http"),
        ("127.0.0.1", "203.0.113.9", "https"),
        ("127.0.0.0/8", "203.0.113.9", "https"),
        ("*", "203.0.113.9", "https"),
        ("10.0.0.7", "127.0.0.1", "http"),
    ],
)
def test_forwarded_headers_count_where_they_are_told_to(place: Place, trusted: str, client: str, scheme: str) -> None:
    """From whom they count is a setting, whatever uvicorn's own variable says; it may be nobody."""
    environ = {"PREFLIGHT_FORWARDED_ALLOW_IPS": trusted, "FORWARDED_ALLOW_IPS": "*"}
    telling(place).start("--demo", "--app", "telling:app", **environ).until_ready()
    told = forwarded(place)
    assert isinstance(told["client"], list)
    assert (told["client"][0], told["scheme"]) == (client, scheme)


def test_a_forwarded_header_lets_nobody_in(place: Place) -> None:
    """The agent server without a token serves this machine: not whoever a proxy calls 127.0.0.1."""
    place.start("--demo", PREFLIGHT_FORWARDED_ALLOW_IPS="*").until_ready()
    with connected(place) as client:
        client.request("GET", "/diagnostics", headers={"X-Forwarded-For": "127.0.0.1"})
        assert client.getresponse().status == 403


# root_path.


def test_root_path(place: Place) -> None:
    """The application sees it as with uvicorn, is asked for its proof under it, and is replaced without an outage."""

    def ask_once() -> dict[str, object]:
        told: dict[str, object] = json.loads(get(f"{place.url}/items")[1])
        assert (told["root_path"], told["path"]) == ("/api", "/api/items")
        return told

    replaced(place, ask_once, PREFLIGHT_ROOT_PATH="/api")


def test_root_path_of_the_agent_server(place: Place) -> None:
    """Its routes are found, health among them, and a second start replaces it."""
    first = place.start("--demo", PREFLIGHT_ROOT_PATH="/agent").until_ready()
    assert get(f"{place.url}/health")[0] == 200
    assert get(f"{place.url}/health/ready")[0] == 200
    assert get(f"{place.url}/diagnostics")[0] == 200
    place.start("--demo", PREFLIGHT_ROOT_PATH="/agent").until_ready()
    assert first.wait() == 0


# Times.


def test_times_are_settings(place: Place) -> None:
    """A quiet connection is closed after timeout_keep_alive, and a WebSocket whose client answers no ping as well."""
    environ = {
        "PREFLIGHT_TIMEOUT_KEEP_ALIVE": "1s",
        "PREFLIGHT_WS_PING_INTERVAL": "1s",
        "PREFLIGHT_WS_PING_TIMEOUT": "1s",
    }
    telling(place).start("--demo", "--app", "telling:app", **environ).until_ready()
    with connected(place) as client:
        client.request("GET", "/")
        client.getresponse().read()
        assert client.sock is not None
        client.sock.settimeout(PATIENCE)
        assert client.sock.recv(1) == b""
    with socket.create_connection(("127.0.0.1", place.port), timeout=PATIENCE) as silent:
        silent.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        said = b""
        while data := silent.recv(4096):
            said += data
        assert b"\x89" in said  # a ping, and then the end


# Logging.


def test_the_access_log_is_a_setting(place: Place) -> None:
    """Off, unless it is asked for: then a line for each request, with what is secret in it redacted."""
    token = "a-token-of-the-test-91827364"
    environ = {"PREFLIGHT_ACCESS_LOG": "yes", "PREFLIGHT_TOKEN": token}
    instance = telling(place).start("--demo", "--app", "telling:app", **environ).until_ready()
    get(f"{place.url}/asked?token={token}")
    instance.until_says("GET /asked")
    assert token not in instance.output
    assert instance.stop() == 0
    silent = place.start("--demo", "--app", "telling:app").until_ready()
    get(f"{place.url}/asked")
    assert silent.stop() == 0
    assert "GET /asked" not in silent.output


LOGGING = {
    "version": 1,
    "formatters": {"mine": {"format": "MINE %(levelname)s %(message)s"}},
    "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "mine", "stream": "ext://sys.stderr"}},
    "loggers": {"uvicorn": {"handlers": ["out"], "level": "INFO", "propagate": False}},
}
INI = """
[loggers]
keys = root
[handlers]
keys = out
[formatters]
keys = mine
[logger_root]
level = INFO
handlers = out
[handler_out]
class = StreamHandler
formatter = mine
args = (sys.stderr,)
[formatter_mine]
format = MINE %(levelname)s %(message)s
"""


@pytest.mark.parametrize(
    "name,text", [("log.json", json.dumps(LOGGING)), ("log.yaml", json.dumps(LOGGING)), ("log.ini", INI)]
)
def test_logging_is_set_up_with_a_file(place: Place, tmp_path: Path, name: str, text: str) -> None:
    """What the file says is how the server logs."""
    (tmp_path / name).write_text(text)
    environ = {"PREFLIGHT_LOG_CONFIG": str(tmp_path / name)}
    instance = telling(place).start("--demo", "--app", "telling:app", **environ).until_ready()
    assert instance.stop() == 0
    assert "MINE INFO Started server process" in instance.output


WRONG_LOGGING = {
    "missing.json": (None, "cannot be read: No such file"),
    "broken.json": ("{", "is not valid JSON"),
    "broken.yaml": ("a: [", "is not valid YAML"),
    "text.ini": ("hello\n", "is not an .ini file"),
    "list.json": ("[]", "has no mapping at its top level"),
    "unversioned.json": ("{}", 'no "version": 1'),
    "handler.json": (json.dumps({**LOGGING, "handlers": {}}), "names a handler 'out'"),
    "formatter.json": (json.dumps({**LOGGING, "formatters": {}}), "names a formatter 'mine'"),
    "level.json": (json.dumps({**LOGGING, "loggers": {"uvicorn": {"level": "LOUD"}}}), "'LOUD' that does not exist"),
    "class.json": (json.dumps(LOGGING).replace("logging.StreamHandler", "logging.StreamHandlr"), "that does not exist"),
    "section.ini": (INI.replace("[handler_out]", "[handler_in]"), "there is no [handler_out]"),
}


@pytest.mark.parametrize("name", WRONG_LOGGING)
def test_a_file_that_sets_up_nothing_blocks(place: Place, tmp_path: Path, name: str) -> None:
    """What is wrong with it is said before a server is stopped for it."""
    text, said = WRONG_LOGGING[name]
    if text is not None:
        (tmp_path / name).write_text(text)
    environ = {"PREFLIGHT_LOG_CONFIG": str(tmp_path / name)}
    refused = telling(place).run("--check-only", "--demo", "--app", "telling:app", **environ)
    assert refused.process.returncode == 1, refused.output
    check = place.check("Log Configuration")
    assert said in check["message"]
    assert check["fix"]
