"""Who may see what, asked of real servers over HTTP and WebSockets: tokens, logins, names, origins, other machines."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil
import pytest
import requests
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from tests.e2e.chatting import frame, raw
from tests.e2e.place import BLOCKED, READY, ROOT, Place, Started, get, listening, make_place
from tests.waiting import PATIENCE, until

TOKEN = "canary-Zq7vXw2LmN8pRt4KdY6hJb3F"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PAGE = ["/", "/static/app.js"]
GUARDED = [
    *("/diagnostics", "/diagnostics/history", "/diagnostics/history/x", "/diagnostics/checks/x", "/diagnostics/run/x"),
    *("/sessions", "/sessions/x", "/chat/schema.json", "/metrics", "/docs", "/openapi.json"),
    *PAGE,
]
NOWHERE = ["/redoc", "/nowhere", "/health/../diagnostics"]
SOCKETS = {"/ws/chat": "connected", "/ws/diagnostics": "snapshot"}  # and the first message of each
PUBLIC = ["/health", "/health/live", "/health/ready"]


@dataclass
class Live:
    """A server, and what to ask it with."""

    place: Place
    started: Started

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.started.port}"

    def ask(self, path: str, method: str = "GET", **options: Any) -> requests.Response:
        options = {"allow_redirects": False, "timeout": 20, **options}
        return requests.request(method, self.started.url + path, **options)

    def shake(self, path: str, *subprotocols: str, origin: str | None = None, **headers: str) -> tuple[int, str | None]:
        """The handshake's status, and the subprotocol that was chosen."""
        try:
            with connect(
                f"ws://{self.host}{path}",
                origin=Origin(origin) if origin else None,
                subprotocols=[Subprotocol(name) for name in subprotocols] or None,
                additional_headers={name.replace("_", "-"): value for name, value in headers.items()},
            ) as socket:
                assert json.loads(socket.recv(timeout=30))["type"] == SOCKETS[path]
                return 101, socket.subprotocol
        except InvalidStatus as refused:
            return refused.response.status_code, None


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Live]]:
    """One with a token and one without, both on loopback."""
    found = {}
    for name, environ in {"token": {"PREFLIGHT_TOKEN": TOKEN}, "open": {}}.items():
        place = make_place(tmp_path_factory.mktemp(name) / "place")
        found[name] = Live(place, place.start("--demo", **environ))
    for live in found.values():
        live.started.until_ready()
    yield found
    for live in found.values():
        live.started.stop()
        live.place.close()


@pytest.fixture
def guarded(servers: dict[str, Live]) -> Live:
    return servers["token"]


@pytest.fixture
def local(servers: dict[str, Live]) -> Live:
    return servers["open"]


# The token.


@pytest.mark.parametrize("path", [*GUARDED, *NOWHERE])
def test_without_the_right_token(guarded: Live, path: str) -> None:
    """Whatever is not health says nothing without the token, not even whether it exists, on loopback too."""
    for headers in ({}, {"Authorization": f"Bearer {TOKEN[:-1]}"}):
        if headers and path != "/diagnostics":
            continue  # each wrong one is answered more slowly than the last
        answer = guarded.ask(path, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json().keys() == {"error"}
        assert TOKEN[:-1] not in answer.text
    assert guarded.ask(path, headers=BEARER).status_code != 401
    assert guarded.ask(f"{path}?token={TOKEN}&access_token={TOKEN}").status_code == 401


@pytest.mark.parametrize("path", GUARDED)
def test_with_the_token(guarded: Live, path: str) -> None:
    """With it everything answers, and nobody keeps a copy, save of the page, which says nothing by itself."""
    answer = guarded.ask(path, headers=BEARER)
    assert answer.status_code == (404 if path.endswith("/x") else 200)
    assert answer.headers["cache-control"] == ("no-cache" if path in PAGE else "no-store")


@pytest.mark.parametrize("path", PUBLIC)
def test_health_is_public(guarded: Live, path: str) -> None:
    """Health answers anybody, under any name, with names alone."""
    answer = guarded.ask(path, headers={"Host": "10.1.2.3:9"})
    assert answer.status_code == 200
    assert TOKEN not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"])
def test_every_method(guarded: Live, method: str) -> None:
    """No method is a way round."""
    for path in ("/diagnostics", "/sessions", "/diagnostics/run"):
        assert guarded.ask(path, method).status_code == 401


def test_headers(guarded: Live, local: Live) -> None:
    """Every answer, good or bad, keeps other pages and scripts out; none has a CORS header."""
    answers = [
        local.ask("/diagnostics", headers={"Origin": f"http://{local.host}"}),
        local.ask("/nowhere"),
        local.ask("/docs"),
        local.ask("/diagnostics", headers={"Origin": "https://evil.example"}),
        local.ask("/diagnostics", "OPTIONS", headers={"Access-Control-Request-Method": "GET"}),
        guarded.ask("/login"),
        guarded.ask("/diagnostics"),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 200, 403, 405, 200, 401]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        for directive in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
            assert directive in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    health = local.ask("/health").headers  # nothing in it is for a browser to show or to keep from others
    assert (health["x-content-type-options"], health["cache-control"]) == ("nosniff", "no-store")


def test_pages_have_nothing_inline(local: Live, guarded: Live) -> None:
    """Our own pages work under that policy: no script or style in them, and nothing from elsewhere."""
    for page in (local.ask("/docs").text, guarded.ask("/login").text):
        assert "<script" not in page
        assert "<style" not in page
        assert not re.search(r"\bon\w+=|style=|//", page.removeprefix("<!DOCTYPE html>"))


# WebSockets.


def subprotocol(token: str) -> str:
    return "preflight.token." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


@pytest.mark.parametrize("path", SOCKETS)
def test_sockets(guarded: Live, path: str) -> None:
    """They open with the header or with a subprotocol, and the one that is chosen is never the token."""
    assert guarded.shake(path) == (401, None)
    assert guarded.shake(path, "preflight.v1") == (401, None)
    assert guarded.shake(path, **BEARER) == (101, None)
    assert guarded.shake(path, "preflight.v1", subprotocol(TOKEN)) == (101, "preflight.v1")
    assert guarded.shake(path, subprotocol(TOKEN), "other") == (101, None)
    assert guarded.shake(path, Authorization="Bearer wrong")[0] == 401
    with pytest.raises(InvalidStatus, match="401"), connect(f"ws://{guarded.host}{path}?token={TOKEN}"):
        pass


@pytest.mark.parametrize("path", SOCKETS)
def test_handshakes_with_odd_headers(guarded: Live, local: Live, path: str) -> None:
    """Origin is seen however it is written, and a second one is no way round the first."""

    def status(live: Live, *lines: str) -> str:
        key = base64.b64encode(os.urandom(16)).decode()
        head = [
            f"GET {path} HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}", *lines,
        ]  # fmt: skip
        with socket.create_connection(("127.0.0.1", live.started.port), 10) as one:
            one.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
            return one.recv(12).decode()[-3:]

    host, own = f"Host: {local.host}", f"Origin: http://{local.host}"
    assert status(local, host, own) == "101"
    assert status(local, host, "oRiGiN: https://evil.example") == "403"
    assert status(local, host, own, "Origin: https://evil.example") == "400"
    assert status(local, host, "Origin: null") == "403"
    assert status(local, host, host) == "400"
    assert status(local, "Host: evil.test") == "421"
    assert status(guarded, f"Host: {guarded.host}", own) == "403"


# The login.


def log_in(live: Live, token: str = TOKEN, **fields: str) -> requests.Response:
    return live.ask("/login", "POST", data={"token": token, **fields}, headers={"Origin": f"http://{live.host}"})


def test_login(guarded: Live) -> None:
    """A browser is led to the form, gets a cookie for the token, works with it, and gives it back."""
    led = guarded.ask("/sessions?limit=3", headers={"Accept": "text/html,*/*"})
    assert (led.status_code, led.headers["location"]) == (303, "/login?next=/sessions%3Flimit%3D3")
    form = guarded.ask(led.headers["location"])
    assert 'name="next" value="/sessions?limit=3"' in form.text
    done = log_in(guarded, next="/sessions?limit=3")
    assert (done.status_code, done.headers["location"]) == (303, "/sessions?limit=3")
    header = done.headers["set-cookie"]
    assert "; HttpOnly; Path=/; Max-Age=43200; SameSite=Strict" in header
    assert "Secure" not in header
    assert TOKEN not in header
    cookie = {"Cookie": header.partition(";")[0]}
    own = {"Origin": f"http://{guarded.host}"}
    for path in GUARDED:
        assert guarded.ask(path, headers=cookie).status_code in (200, 404)
    assert guarded.ask("/login?next=/docs", headers=cookie).headers["location"] == "/docs"
    for path in SOCKETS:
        assert guarded.shake(path, origin=own["Origin"], **cookie)[0] == 101
        assert guarded.shake(path, **cookie)[0] == 403
    assert guarded.ask("/sessions", "DELETE", headers=cookie).status_code == 403
    assert guarded.ask("/sessions", "DELETE", headers={**cookie, "Origin": "https://evil.example"}).status_code == 403
    assert guarded.ask("/sessions", "DELETE", headers={**cookie, **own}).status_code == 200
    assert guarded.ask("/logout", "POST", headers=cookie).status_code == 403
    out = guarded.ask("/logout", "POST", headers={**cookie, **own})
    assert (out.status_code, out.headers["location"]) == (303, "/login")
    assert out.headers["set-cookie"].count("Max-Age=0") == 2
    assert guarded.ask("/diagnostics", headers=cookie).status_code == 401


def ending(connection: ClientConnection) -> tuple[int, str]:
    """The code and the reason with which the server closes a connection."""
    try:
        while True:
            connection.recv(PATIENCE)
    except ConnectionClosed as closed:
        return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")


@pytest.mark.parametrize("path", SOCKETS)
def test_a_logout_closes_what_the_login_has_opened(guarded: Live, path: str) -> None:
    """Connections of this login are closed; those of another one, or of the token, go on."""
    own = f"http://{guarded.host}"
    mine, another = ({"Cookie": log_in(guarded).headers["set-cookie"].partition(";")[0]} for _ in range(2))
    url = f"ws://{guarded.host}{path}"
    with (
        connect(url, origin=Origin(own), additional_headers=mine) as closed,
        connect(url, origin=Origin(own), additional_headers=another) as other,
        connect(url, additional_headers=BEARER) as bearer,
    ):
        for one in (closed, other, bearer):
            one.recv(PATIENCE)
        assert guarded.ask("/logout", "POST", headers={**mine, "Origin": own}).status_code == 303
        assert ending(closed) == (3000, "the login has ended")
        for one in (other, bearer):
            one.send('{"type": "ping"}')
            assert json.loads(one.recv(PATIENCE))["type"] in ("pong", "error")  # the chat wants to know who it is first


@pytest.mark.parametrize("unread", [0, 80], ids=["silent", "deaf"])
def test_a_logout_cuts_off_who_does_not_answer(guarded: Live, unread: int) -> None:
    """A client need not answer the close, nor does that reach who does not read: it is cut off all the same."""
    cookie = {"Cookie": log_in(guarded).headers["set-cookie"].partition(";")[0]}
    own = f"http://{guarded.host}"
    with raw(guarded.started.port, 4096, Origin=own, **cookie) as client:

        def until_seen(text: bytes) -> None:
            seen = b""
            while text not in seen:
                got = client.recv(65536)
                assert got, f"the connection ended after {seen[-1000:]!r}"
                seen = seen[-1000:] + got

        client.sendall(frame({"type": "init", "session_id": "deaf"}))
        client.sendall(frame({"type": "chat", "id": "1", "message": "help " + "x" * 60_000}))
        until_seen(b'"type": "result"')
        for number in range(unread):  # 60 KB come back for each of them
            client.sendall(frame({"type": "history", "id": f"{number}"}))
        assert guarded.ask("/logout", "POST", headers={**cookie, "Origin": own}).status_code == 303

        def cut_off() -> bool:
            try:
                client.sendall(frame({"type": "ping"}))
            except OSError:
                return True
            return False

        until(cut_off, "it is cut off", 10)


def test_bad_logins(guarded: Live) -> None:
    """A wrong token gets the form again, another site's form and too long a body get nothing."""
    wrong = log_in(guarded, "nearly", next='/"><b>')
    assert wrong.status_code == 401
    assert 'role="alert"' in wrong.text
    assert 'value="/&quot;&gt;&lt;b&gt;"' in wrong.text
    assert "nearly" not in wrong.text
    assert "set-cookie" not in wrong.headers
    assert log_in(guarded, next="https://evil.example").headers["location"] == "/"
    evil = {"Origin": "https://evil.example"}
    assert guarded.ask("/login", "POST", data={"token": TOKEN}, headers=evil).status_code == 403
    assert guarded.ask("/login", "POST", data=b"x" * 10_000).status_code == 413
    assert guarded.ask("/login", "POST", data=b"%ff=%00&token=%ff%fe&next=%0a").status_code == 401
    until(lambda: "path=/login" in guarded.started.output, "it is recorded")
    said = guarded.started.output
    assert re.search(r"audit login_failed uid=\d+ pid=\d+ peer=127\.0\.0\.1:\d+ path=/login", said)
    assert "nearly" not in said
    assert TOKEN not in said


def test_no_login_without_a_token(local: Live) -> None:
    """Where there is no token there is nothing to log in with."""
    assert local.ask("/login").status_code == 404
    assert local.ask("/login", "POST", data={"token": ""}).status_code == 404


# Names and origins, without a token.


def test_the_local_user(local: Live) -> None:
    """On loopback without a token the local user is let in, a POST without Origin included."""
    for path in GUARDED:
        assert local.ask(path).status_code in (200, 404)
    assert local.ask("/sessions", "DELETE").status_code == 200
    assert local.ask("/diagnostics/run", "POST").status_code not in (401, 403)
    for path in SOCKETS:
        assert local.shake(path) == (101, None)
        assert local.shake(path, origin=f"http://{local.host}") == (101, None)


def test_the_agent_server_has_our_routes_at_its_root(local: Live) -> None:
    """Nothing is beside it, and nobody has to log in on this machine."""
    assert "login?code" not in local.started.output
    assert local.ask("/diagnostics").status_code == 200
    assert local.ask("/_preflight/health").status_code == 404
    page = local.ask("/", headers={"Accept": "text/html"})
    assert page.headers["ETag"]
    assert "preflight-nonce" not in page.text


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:3000", "null", "http://127.0.0.1"])
def test_other_origins(local: Live, origin: str) -> None:
    """Pages of others are refused: at the handshake, for what changes something, and for reading."""
    for path in SOCKETS:
        assert local.shake(path, origin=origin) == (403, None)
    for method in ("GET", "POST", "DELETE"):
        assert local.ask("/sessions", method, headers={"Origin": origin}).status_code == 403
    assert local.ask("/diagnostics/run", "POST", headers={"Origin": origin}).status_code == 403


@pytest.mark.parametrize("host", ["evil.test", "evil.test:{port}", "127.0.0.1.nip.test:{port}", "10.0.0.1:{port}"])
def test_other_names(local: Live, host: str) -> None:
    """A rebound name comes in the Host header, and is not answered."""
    named = {"Host": host.format(port=local.started.port)}
    for path in (*GUARDED, "/", "/login"):
        assert local.ask(path, headers=named).status_code == 421
    with_origin = {**named, "Origin": f"http://{named['Host']}"}
    assert local.ask("/diagnostics/run", "POST", headers=with_origin).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "localhost:{port}", "[::1]:{port}", "127.0.0.1"])
def test_own_names(local: Live, host: str) -> None:
    """Loopback's names are answered with and without the port."""
    assert local.ask("/diagnostics", headers={"Host": host.format(port=local.started.port)}).status_code == 200


def test_forwarded(local: Live, guarded: Live) -> None:
    """What came through a proxy is not local, and no header makes anybody local."""
    for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
        assert local.ask("/diagnostics", headers={name: "127.0.0.1"}).status_code == 403
        assert guarded.ask("/diagnostics", headers={name: "127.0.0.1"}).status_code == 401
        assert guarded.ask("/diagnostics", headers={name: "203.0.113.7", **BEARER}).status_code == 200


def test_without_a_host(local: Live) -> None:
    """A request that names nobody, as HTTP/1.0 may, gets health and nothing else."""
    for path, status in (("/health", b"200"), ("/diagnostics", b"421")):
        with socket.create_connection(("127.0.0.1", local.started.port), 10) as one:
            one.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            assert one.recv(64).split()[1] == status


# Settings.


def test_settings(place: Place) -> None:
    """Listed names and origins are let in; behind a listed proxy nobody is local, and the cookie knows of TLS.

    Handshakes of other pages are refused without an error in the log for each.
    """
    started = place.start(
        "--demo",
        PREFLIGHT_TOKEN=TOKEN,
        PREFLIGHT_ALLOWED_HOSTS="agent.example",
        PREFLIGHT_ALLOWED_ORIGINS="https://friend.example",
        PREFLIGHT_TRUSTED_PROXIES="127.0.0.1",
    ).until_ready()
    live = Live(place, started)
    through = {"Host": "agent.example", "X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
    assert live.ask("/diagnostics", headers=through).status_code == 401
    assert live.ask("/diagnostics", headers={**through, **BEARER}).status_code == 200
    done = live.ask("/login", "POST", data={"token": TOKEN}, headers={**through, "Origin": "https://agent.example"})
    assert done.headers["set-cookie"].endswith("; Secure")
    for path in SOCKETS:
        assert live.shake(path, subprotocol(TOKEN), origin="https://friend.example")[0] == 101
    for _ in range(20):
        assert live.shake("/ws/chat", subprotocol(TOKEN), origin="https://evil.example") == (403, None)
    assert live.ask("/diagnostics", headers={**through, "Authorization": "Bearer guess"}).status_code == 401
    until(lambda: "login_failed" in started.output and "peer=203.0.113.7:0" in started.output, "it is said who tried")
    assert started.stop() == 0
    assert "ERROR" not in started.output


def exposure(place: Place, *options: str, **environ: str) -> dict[str, Any]:
    """What the requirement finds, asked alone by a pytest, without the agent and a process that waits to serve."""
    command = ("-m", "pytest", "preflight/requirements/test_exposure.py", f"--port={place.port}", *options)
    asked = place.spawn(sys.executable, *command, environ=environ)
    asked.wait()
    check = place.check("Exposure")
    assert asked.process.returncode == (check["outcome"] == "failed"), asked.output
    return check


def test_behind_a_proxy_nobody_is_local(place: Place) -> None:
    """With a proxy configured the address is not this machine's alone: Exposure wants a good token for it."""
    proxy = {"PREFLIGHT_TRUSTED_PROXIES": "127.0.0.1"}
    place.refused("--demo", **proxy)
    for check in (place.check("Exposure"), exposure(place, "--demo", **proxy, PREFLIGHT_TOKEN="fifteen-letters")):
        assert check["outcome"] == "failed"
        assert "others can reach 127.0.0.1 through a trusted proxy" in check["message"]
        assert "unset PREFLIGHT_TRUSTED_PROXIES" in check["fix"]


# Other machines.


def own_address() -> str:
    """An address of this machine that is not loopback's: a connection to it comes from it."""
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family == socket.AF_INET and not one.address.startswith("127."):
                return str(one.address)
    pytest.skip("this machine has no other address")


def test_exposure(place: Place) -> None:
    """Nothing starts where others can come without a good token; the fix makes one, and --ignore does not help."""
    started = place.refused("--demo", "--host", "0.0.0.0")
    assert started.process.returncode == 1
    assert BLOCKED in started.stdout
    found = {"": place.check("Exposure")}
    reasons = {
        "": "there is no token",
        "fifteen-letters": "the token is too short",
        "paste-your-key-here": "still the template's placeholder",
        "my-server.internal.example": "the token would not be redacted in logs and reports",
        "db1.example.org:5432": "the token would not be redacted in logs and reports",
    }
    found |= {
        token: exposure(place, "--demo", "--host", "0.0.0.0", PREFLIGHT_TOKEN=token) for token in reasons if token
    }
    for token, check in found.items():
        assert (check["outcome"], check["severity"]) == ("failed", "critical")
        assert reasons[token] in check["message"]
        assert check["details"] == {"host": "0.0.0.0", "loopback": False, "token_loaded": bool(token)}
    ignored = place.run("--demo", "--host", "0.0.0.0", "--ignore", "Exposure")
    assert ignored.process.returncode == 2
    assert "cannot be ignored" in ignored.stderr


def test_a_token_that_is_not_redacted(place: Place) -> None:
    """On this machine alone as well: who reads a log would have it."""
    place.refused("--demo", PREFLIGHT_TOKEN="hunter2")
    found = {"hunter2": place.check("Exposure")}
    for token in ("my-server.internal.example", "localhost", "password"):
        found[token] = exposure(place, "--demo", PREFLIGHT_TOKEN=token)
    for token, check in found.items():
        assert check["outcome"] == "failed", token
        assert check["message"].startswith("the token would not be redacted in logs and reports"), token
        assert "unset PREFLIGHT_TOKEN" in check["fix"], token


def test_the_fix_of_exposure_works(place: Place) -> None:
    """The command that the banner names writes a token into the env file, and with it the requirement holds."""
    place.write_env_file(OPENAI_API_KEY="sk-canary-0123456789")
    (place.folder / "bin").mkdir()
    (place.folder / "bin" / "python").symlink_to(sys.executable)
    options = ("--offline", "--host", "0.0.0.0")
    fix = exposure(place, *options)["fix"]
    path = f"{place.folder / 'bin'}:{os.environ['PATH']}"
    subprocess.run(["sh", "-c", fix], check=True, env={"PATH": path}, timeout=30)
    check = exposure(place, *options)
    assert (check["outcome"], check["details"]["token_loaded"]) == ("passed", True)
    token = place.env_file.read_text().partition("PREFLIGHT_TOKEN=")[2].strip()
    assert len(token) >= 32
    assert token not in place.report_file.read_text()


def test_exposure_is_about_our_routes(place: Place) -> None:
    """Another application has its own way to say who may see what; what is beside it always needs a login."""
    place.run("--check-only", "--demo", "--host", "0.0.0.0", "--app", "small:app")
    check = place.check("Exposure")
    assert check["outcome"] == "passed"
    assert "each start makes the token" in check["message"]
    place.run("--check-only", "--demo", "--host", "0.0.0.0", "--app", "small:app", PREFLIGHT_WEB_PREFIX="off")
    assert place.check("Exposure")["outcome"] == "not_applicable"


def test_other_machines_without_a_token(place: Place) -> None:
    """Even if somebody goes round the preflight: without a token other machines get health and nothing else."""
    address = own_address()
    command = ("-m", "uvicorn", "--factory", "server.app:create_app", "--host", "0.0.0.0", "--port", str(place.port))
    started = place.spawn(sys.executable, *command, environ={"PREFLIGHT_SKIP": "1"})
    until(lambda: listening(place.port), "uvicorn listens")
    url = f"http://{address}:{place.port}"
    host = {"Host": f"127.0.0.1:{place.port}"}
    assert requests.get(f"{url}/health", timeout=PATIENCE).status_code == 200
    for headers in (host, {**host, "X-Forwarded-For": "127.0.0.1"}):
        assert requests.get(f"{url}/diagnostics", headers=headers, timeout=PATIENCE).status_code == 403
    assert get(f"{place.url}/diagnostics")[0] == 200
    started.stop()


@pytest.mark.parametrize("parser", ["httptools", "h11"])
def test_a_login_that_asks_for_another_protocol_under_uvicorn(place: Place, parser: str) -> None:
    """A form that uvicorn's parser skips is no wrong token: the answer says so, or the login succeeds."""
    options = ("--factory", "server.app:create_app", "--http", parser, "--port", str(place.port))
    variables = {"PREFLIGHT_SKIP": "1", "PREFLIGHT_TOKEN": TOKEN}
    started = place.spawn(sys.executable, "-m", "uvicorn", *options, environ=variables)
    until(lambda: listening(place.port), "uvicorn listens")
    form = urlencode({"token": TOKEN}).encode()
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "Host": f"127.0.0.1:{place.port}"}
    for body in (form, iter([form])):  # with a length, and in chunks
        answer = requests.post(f"{place.url}/login", body, headers=headers, timeout=PATIENCE, allow_redirects=False)
        if parser == "h11":
            assert (answer.status_code, answer.headers["location"]) == (303, "/")
        else:
            assert (answer.status_code, "form was lost" in answer.json()["error"]) == (400, True)
    started.stop()


# Guessing.


def test_guesses_are_slowed_down(place: Place) -> None:
    """Wrong tokens wait longer each time, right ones never, not even while sixty wrong ones wait."""
    started = place.start("--demo", PREFLIGHT_TOKEN=TOKEN).until_ready()

    def ask(token: str) -> tuple[int, float]:
        connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=30)
        begun = time.monotonic()
        connection.request("GET", "/diagnostics", headers={"Authorization": f"Bearer {token}"})
        status = connection.getresponse().status
        connection.close()
        return status, time.monotonic() - begun

    calm = statistics.median(ask(TOKEN)[1] for _ in range(20))
    guesses = [ask(f"guess-{number}") for number in range(5)]
    assert [status for status, _ in guesses] == [401] * 5
    assert statistics.median(seconds for _, seconds in guesses[:3]) < 0.4
    assert guesses[3][1] >= 0.5
    assert guesses[4][1] >= 1.0
    with ThreadPoolExecutor(80) as pool:
        waiting = [pool.submit(ask, f"guess-{number}") for number in range(80)]
        until(lambda: sum(one.done() for one in waiting) >= 16, "those that are too many have been told off")
        assert {one.result()[0] for one in waiting if one.done()} == {429}
        right = [ask(TOKEN) for _ in range(20)]
        assert {status for status, _ in right} == {200}
        assert statistics.median(seconds for _, seconds in right) < max(10 * calm, 0.1)
        assert not all(one.done() for one in waiting)
        begun = time.monotonic()
        assert started.stop() == 0  # and nobody waits for them
        assert time.monotonic() - begun < 4
        assert {one.result()[0] for one in waiting} == {401, 429}


# The document.


def test_the_document_says_who_needs_what(local: Live, guarded: Live) -> None:
    """OpenAPI names the token where one is needed, and every route that can be asked."""
    with_token = guarded.ask("/openapi.json", headers=BEARER).json()
    without = local.ask("/openapi.json").json()
    assert with_token["security"] == [{"token": []}, {"login": []}]
    assert "security" not in without
    assert {path for path in GUARDED if not path.endswith(("/x", ".js"))} <= set(without["paths"])
    for path in without["paths"]:
        assert f"<code>{path}</code>" in local.ask("/docs").text.replace("&#x27;", "'")


# What the documentation shows.


def test_the_documented_client_takes_a_token(guarded: Live, tmp_path: Path) -> None:
    """The five lines with the header that the documentation adds to them."""
    text = (ROOT / "docs" / "chat.md").read_text(encoding="utf-8")
    client = re.search(r"```python\n(import json, sys.*?)```", text, re.DOTALL)
    header = re.search(r"`(additional_headers=.*?)`", text)
    assert client is not None
    assert header is not None
    program = tmp_path / "chat.py"
    program.write_text("import os\n" + client[1].replace("connect(sys.argv[1])", f"connect(sys.argv[1], {header[1]})"))
    done = subprocess.run(
        [sys.executable, program, f"ws://{guarded.host}/ws/chat", "what failed?"],
        capture_output=True, text=True, timeout=30, check=False, env={**os.environ, "PREFLIGHT_TOKEN": TOKEN},
    )  # fmt: skip
    assert "Nothing critical failed" in done.stdout, done.stderr


def test_curl_as_documented(guarded: Live) -> None:
    """The way of docs/access.md to ask with a token."""
    found = re.search(r"^curl .*Bearer.*$", (ROOT / "docs" / "access.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    command = found[0].replace("localhost:8002", guarded.host)
    environ = {**os.environ, "PREFLIGHT_TOKEN": TOKEN}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=True, env=environ)
    assert json.loads(done.stdout)["origin"] == "start"


@pytest.mark.parametrize("host", ["0.0.0.0", "0", "::"])
def test_other_machines(place: Place, host: str) -> None:
    """Where others can come they need the token, and the address they came to is a name of the server.

    Others can open the address that is printed: it is none that means every address, it is this machine's, and the
    guard lets it in.
    """
    if host == "::" and not socket.has_ipv6:
        pytest.skip("there is no IPv6 here")
    started = place.start("--demo", "--host", host, PREFLIGHT_TOKEN=TOKEN).until_ready()
    started.until_says("Diagnostics")
    printed = re.findall(r"(?:https?|ws)://\S+", started.stdout.partition(READY)[2])
    assert len(printed) >= 4
    assert not [url for url in printed if "//0.0.0.0:" in url or "//[::]:" in url or "//0:" in url]
    url = next(url for url in printed if url.endswith("/diagnostics"))
    assert requests.get(url, headers=BEARER, timeout=PATIENCE).status_code == 200
    for name in (socket.gethostname(), f"{socket.gethostname()}:{place.port}"):
        assert requests.get(url, headers={**BEARER, "Host": name}, timeout=PATIENCE).status_code == 200
    assert requests.get(url, headers={**BEARER, "Host": "evil.test"}, timeout=PATIENCE).status_code == 421
    if host == "0.0.0.0":
        url = f"http://{own_address()}:{place.port}"
        assert requests.get(f"{url}/health", timeout=PATIENCE).status_code == 200
        assert requests.get(f"{url}/diagnostics", timeout=PATIENCE).status_code == 401
        assert requests.get(f"{url}/diagnostics", headers=BEARER, timeout=PATIENCE).status_code == 200
        evil = {**BEARER, "Host": "evil.test"}
        assert requests.get(f"{url}/diagnostics", headers=evil, timeout=PATIENCE).status_code == 421
    assert started.stop() == 0
