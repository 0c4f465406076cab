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

from preflight.contract import Details
from preflight.requirements import test_serving as requirements
from preflight.settings import loading
from preflight.settings.model import Settings
from tests import certificates
from tests.certificates import Pair
from tests.e2e.place import ROOT, Place, get
from tests.e2e.suites import QUICK
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
    """A project that sets no limits, as somebody else's does not, and whose suite takes no time."""
    project.write_suite(QUICK)
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


def forwarded(place: Place) -> tuple[object, object]:
    """The client and the scheme that the application sees behind a proxy."""
    with connected(place) as client:
        client.request("GET", "/", headers={"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"})
        told = json.loads(client.getresponse().read())
        return told["client"][0], told["scheme"]


# Bodies, messages and compression, proxies, logging: settings that do not concern each other, several to a server.


def test_uploads_and_messages_are_limited_as_uvicorn_limits_them(project: Place) -> None:
    """A body of 5 MiB is taken, so is a WebSocket message of 5 MiB, and compression is granted where it is offered.

    Forwarded headers of every proxy count where the setting says so.
    """
    place = without_limits(project)
    place.start("--demo", "--app", "telling:app", PREFLIGHT_FORWARDED_ALLOW_IPS="*").until_ready()
    assert forwarded(place) == ("203.0.113.9", "https")
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
    "size, status, trusted, client, scheme, name, logging",
    [
        ("100 KiB", 413, "", "127.0.0.1", "http", "log.json", json.dumps(LOGGING)),
        ("0", 200, "127.0.0.1", "203.0.113.9", "https", "log.yaml", json.dumps(LOGGING)),
        ("off", 200, "127.0.0.0/8", "203.0.113.9", "https", "log.ini", INI),
    ],
)
def test_limit_proxies_and_logging_are_settings(
    project: Place, size: str, status: int, trusted: str, client: str, scheme: str, name: str, logging: str
) -> None:
    """How large a body may be ("off" or 0: as large as it likes), whose headers count, and a file for the logging.

    From whom forwarded headers count is a setting, whatever uvicorn's own variable says; it may be nobody. And what the
    file says is how the server logs.
    """
    place = without_limits(project)
    (place.folder / name).write_text(logging)
    environ = {
        "PREFLIGHT_REQUEST_SIZE": size,
        "PREFLIGHT_FORWARDED_ALLOW_IPS": trusted,
        "FORWARDED_ALLOW_IPS": "*",
        "PREFLIGHT_LOG_CONFIG": str(place.folder / name),
    }
    instance = place.start("--demo", "--app", "telling:app", **environ).until_ready()
    with connected(place) as connection:
        try:
            connection.request("POST", "/upload", body=b"x" * (2 * MIB))
        except (BrokenPipeError, ConnectionResetError):
            assert status == 413  # it has said so before everything was sent
        assert connection.getresponse().status == status
    assert forwarded(place) == (client, scheme)
    assert instance.stop() == 0
    assert "MINE INFO Started server process" in instance.output


def test_the_access_log_is_a_setting(project: Place) -> None:
    """A line for each request, with what is secret in it redacted; headers of a proxy that is not trusted count not."""
    token = "a-token-of-the-test-91827364"
    environ = {"PREFLIGHT_ACCESS_LOG": "yes", "PREFLIGHT_TOKEN": token}
    environ |= {"PREFLIGHT_FORWARDED_ALLOW_IPS": "10.0.0.7", "FORWARDED_ALLOW_IPS": "*"}
    place = without_limits(project)
    instance = place.start("--demo", "--app", "telling:app", **environ).until_ready()
    assert forwarded(place) == ("127.0.0.1", "http")
    get(f"{place.url}/asked?token={token}")
    instance.until_says("GET /asked")
    assert token not in instance.output
    assert instance.stop() == 0


def test_times_are_settings(project: Place) -> None:
    """A quiet connection is closed after timeout_keep_alive, and a WebSocket whose client answers no ping as well.

    Nobody has asked for a log of the requests here, and there is none.
    """
    environ = {
        "PREFLIGHT_TIMEOUT_KEEP_ALIVE": "1s",
        "PREFLIGHT_WS_PING_INTERVAL": "1s",
        "PREFLIGHT_WS_PING_TIMEOUT": "1s",
    }
    place = without_limits(project)
    instance = place.start("--demo", "--app", "telling:app", **environ).until_ready()
    with connected(place) as client:
        client.request("GET", "/asked")
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
    assert instance.stop() == 0
    assert "GET /asked" not in instance.output


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


def test_tls(place: Place, tmp_path: Path) -> None:
    """With a certificate HTTPS and WSS are served and nothing else, and READY says so.

    The password of an encrypted key comes from the environment, and stands nowhere. A start with a wrong key is refused
    before the server that works is stopped.
    """
    pair = certificates.make(tmp_path / "good", password="a-long-password-7391")
    settings = tls(pair, PREFLIGHT_SSL_KEYFILE_PASSWORD="a-long-password-7391")
    instance = telling(place).start("--demo", "--app", "telling:app", **settings).until_ready()
    assert f"https://127.0.0.1:{place.port}" in instance.output
    assert f"http://127.0.0.1:{place.port}" not in instance.output
    asked = ask(place, pair)
    assert asked["scheme"] == "https"
    with connect(f"wss://127.0.0.1:{place.port}/", ssl=pair.trusting()) as chat:
        chat.send("x" * 1000)
        assert chat.recv(30) == "1000"
    with pytest.raises((OSError, http.client.HTTPException)):
        get(f"http://127.0.0.1:{place.port}/")
    assert "a-long-password-7391" not in place.report_file.read_text() + instance.output

    wrong, said = broken_tls(tmp_path / "wrong")["mismatch"]
    refused = place.run("--demo", "--app", "telling:app", **wrong)
    assert refused.process.returncode == 1
    assert said in refused.output
    assert ask(place, pair)["pid"] == asked["pid"]
    assert instance.stop() == 0


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


def test_tls_and_root_path_are_replaced_without_an_outage(place: Place, pair: Pair) -> None:
    """The application sees root_path as with uvicorn, and is asked for its proof under it.

    The new server's proof is asked for, the old one goes only then, and a check says who serves.
    """

    def ask_once() -> dict[str, object]:
        told = ask(place, pair, "/items")
        assert (told["root_path"], told["path"], told["scheme"]) == ("/api", "/api/items", "https")
        return told

    replaced(place, ask_once, PREFLIGHT_ROOT_PATH="/api", **tls(pair))


def test_clients_have_to_show_a_certificate(place: Place, tmp_path: Path) -> None:
    """With ssl_cert_reqs a client without one is not answered; the instance is replaced all the same.

    The next instance serves the certificate that was renewed meanwhile.
    """
    old, new = certificates.make(tmp_path / "old"), certificates.make(tmp_path / "new")
    authority = certificates.make(tmp_path / "client", "client")
    required = {"PREFLIGHT_SSL_CA_CERTS": str(authority.certificate), "PREFLIGHT_SSL_CERT_REQS": "required"}
    first = telling(place).start("--demo", "--app", "telling:app", **tls(old), **required).until_ready()
    with pytest.raises(OSError):  # an alert, or the end of the connection
        ask(place, old)

    def known(pair: Pair) -> ssl.SSLContext:
        context = pair.trusting()
        context.load_cert_chain(authority.certificate, authority.key)
        return context

    assert ask(place, old, context=known(old))["scheme"] == "https"
    place.start("--demo", "--app", "telling:app", **tls(new), **required).until_ready()
    assert first.wait() == 0
    assert ask(place, new, context=known(new))["scheme"] == "https"
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(place, old, context=known(old))


Broken = dict[str, tuple[dict[str, str], str]]
"""Settings that nothing can be served with, and what is said of them."""


def broken_tls(folder: Path) -> Broken:
    """Settings with which TLS cannot be served."""
    pair, other = certificates.make(folder, "server"), certificates.make(folder, "other")
    locked = certificates.make(folder, "locked", password="a-long-password-7391")
    empty, damaged = Pair(folder / "empty.pem", pair.key), Pair(folder / "damaged.pem", pair.key)
    empty.certificate.write_text("")
    damaged.certificate.write_text(pair.certificate.read_text().replace("MII", "M!!", 1))
    return {
        "missing": (tls(Pair(folder / "none.pem", pair.key)), "none.pem cannot be read: No such file or directory"),
        "folder": (tls(Pair(folder, pair.key)), "cannot be read: Is a directory"),
        "mismatch": (tls(Pair(pair.certificate, other.key)), "does not belong to the certificate"),
        "no key": ({"PREFLIGHT_SSL_CERTFILE": str(pair.certificate)}, "holds no private key in PEM"),
        "swapped": (tls(Pair(pair.key, pair.certificate)), "holds no certificate in PEM"),
        "empty": (tls(empty), "holds no certificate in PEM"),
        "damaged": (tls(damaged), "OpenSSL cannot use"),
        "no password": (tls(locked), "has a password, but ssl_keyfile_password is not set"),
        "wrong password": (
            tls(locked, PREFLIGHT_SSL_KEYFILE_PASSWORD="another-password-5517"),
            "does not open the private key",
        ),
        "no authorities": (tls(pair, PREFLIGHT_SSL_CERT_REQS="required"), "ssl_ca_certs is not set"),
        "bad authorities": (tls(pair, PREFLIGHT_SSL_CA_CERTS=str(pair.key)), "holds no certificates in PEM"),
        "ciphers": (tls(pair, PREFLIGHT_SSL_CIPHERS="ROT13"), "names no cipher"),
        "key alone": ({"PREFLIGHT_SSL_KEYFILE": str(pair.key)}, "ssl_certfile is not: plain HTTP would be served"),
    }


def broken_logging(folder: Path) -> Broken:
    """Files that set up no logging."""
    folder.mkdir()
    files = {
        "broken.json": ("{", "is not valid JSON"),
        "broken.yaml": ("a: [", "is not valid YAML"),
        "text.ini": ("hello\n", "is not an .ini file"),
        "list.json": ("[]", "has no mapping at its top level"),
        "unversioned.json": ("{}", 'no "version": 1'),
        "handler.json": (json.dumps({**LOGGING, "handlers": {}}), "names a handler 'out'"),
        "formatter.json": (json.dumps({**LOGGING, "formatters": {}}), "names a formatter 'mine'"),
        "level.json": (json.dumps({**LOGGING, "loggers": {"uvicorn": {"level": "LOUD"}}}), "'LOUD' that does not"),
        "class.json": (json.dumps(LOGGING).replace("logging.StreamHandler", "logging.StreamHandlr"), "that does not"),
        "section.ini": (INI.replace("[handler_out]", "[handler_in]"), "there is no [handler_out]"),
    }
    for name, (text, _said) in files.items():
        (folder / name).write_text(text)
    said = {**{name: said for name, (_text, said) in files.items()}, "missing.json": "cannot be read: No such file"}
    return {name: ({"PREFLIGHT_LOG_CONFIG": str(folder / name)}, what) for name, what in said.items()}


def asked_in_vain(requirement: Callable[[Settings, Details], None], broken: Broken) -> None:
    """What a requirement says of each of these, with a fix, and no password in either."""
    found, expected = {}, {}
    for case, (environ, said) in broken.items():
        details = Details()
        with pytest.raises(pytest.fail.Exception) as failed:
            requirement(loading.load(ROOT, environ=environ, options={"demo": True}), details)
        message = str(failed.value)
        found[case] = (message if said not in message else said, bool(details.fix))
        expected[case] = (said, True)
        assert "password-" not in message + details.fix
    assert found == expected


def test_tls_that_cannot_be_served(tmp_path: Path) -> None:
    """What was found is said; :func:`test_what_cannot_be_served_blocks_a_check` is a whole check."""
    asked_in_vain(requirements.test_tls_certificate, broken_tls(tmp_path / "tls"))


def test_a_file_that_sets_up_nothing(tmp_path: Path) -> None:
    """What is wrong with it is said."""
    asked_in_vain(requirements.test_log_configuration, broken_logging(tmp_path / "logging"))


def test_what_cannot_be_served_blocks_a_check(place: Place, tmp_path: Path) -> None:
    """What was found stands in the checks, with a fix, and no password in any."""
    keys, of_tls = broken_tls(tmp_path / "tls")["wrong password"]
    logging, of_logging = broken_logging(tmp_path / "logging")["handler.json"]
    refused = telling(place).run("--check-only", "--demo", "--app", "telling:app", **keys, **logging)
    assert refused.process.returncode == 1, refused.output
    for title, said in (("TLS Certificate", of_tls), ("Log Configuration", of_logging)):
        check = place.check(title)
        assert check["outcome"] == "failed"
        assert said in check["message"]
        assert check["fix"]
    assert "password-" not in place.report_file.read_text() + refused.output


@unprivileged
def test_a_key_that_cannot_be_read_blocks(place: Place, pair: Pair) -> None:
    """The file, what the system says of it, and who has to be able to read it."""
    pair.key.chmod(0)
    place.before = WITHOUT
    refused = telling(place).run("--check-only", "--demo", "--app", "telling:app", **tls(pair))
    assert refused.process.returncode == 1
    assert f"{pair.key} cannot be read: Permission denied" in place.check("TLS Certificate")["message"]


def test_a_certificate_that_ends_is_a_warning(place: Place, tmp_path: Path) -> None:
    """One that has expired, or is about to, is said and does not keep a server from starting."""
    soon = loading.load(ROOT, environ=tls(certificates.make(tmp_path / "soon", days=3)), options={"demo": True})
    with pytest.raises(AssertionError, match="expires on"):
        requirements.test_tls_certificate_validity(soon, Details())
    pair = certificates.make(tmp_path / "tls", days=-1)
    checked = telling(place).run("--check-only", "--demo", "--app", "telling:app", **tls(pair))
    assert checked.process.returncode == 0, checked.output
    check = place.check("TLS Certificate Validity")
    assert check["outcome"] == "failed"
    assert "expired" in check["message"]


# The agent server.


def test_the_agent_server(place: Place, pair: Pair) -> None:
    """It keeps the limits of the checkout's own project, 1 MiB, and compresses nothing.

    Without a token it serves this machine: not whoever a proxy calls 127.0.0.1. Under a root_path its routes are found,
    health among them, and a second start replaces it. With TLS READY names HTTPS and WSS addresses, and its page works
    under them.
    """
    behind = {"PREFLIGHT_ROOT_PATH": "/agent", "PREFLIGHT_FORWARDED_ALLOW_IPS": "*"}
    first = place.start("--demo", **behind).until_ready()
    with connected(place) as client:
        client.putrequest("POST", "/diagnostics/runs")
        client.putheader("Content-Length", str(MIB + 1))
        client.endheaders()
        assert client.getresponse().status == 413
    with connect(f"ws://127.0.0.1:{place.port}/ws/chat") as chat:
        assert "permessage-deflate" not in str(chat.response and chat.response.headers)
    with connected(place) as client:
        client.request("GET", "/diagnostics", headers={"X-Forwarded-For": "127.0.0.1"})
        assert client.getresponse().status == 403
    for path in ("/health", "/health/ready", "/diagnostics"):
        assert get(f"{place.url}{path}")[0] == 200, path

    second = place.start("--demo", **behind, **tls(pair)).until_ready()
    assert first.wait() == 0
    assert f"wss://127.0.0.1:{place.port}/ws/chat" in second.output
    assert f"https://127.0.0.1:{place.port}/health" in second.output
    assert ask(place, pair, "/health")["status"] == "healthy"
