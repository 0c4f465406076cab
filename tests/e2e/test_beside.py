"""Our routes under a prefix beside an application of somebody else's, and the application as if they were not there."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from preflight.settings import loading
from preflight.settings.fields import SettingsError
from preflight.web import routes
from preflight.web.logincookies import LASTS
from preflight.web.routing import Audience, Route
from tests.e2e.beside import BEARER, ECHO, PREFIX, TOKEN, ask, kill_worker, link_of, logged_in, nonce_of, serve
from tests.e2e.place import ROOT, Place, Started, listening, make_place
from tests.waiting import until

TABLE = routes.table()
PATHS = [route.path.replace(":path}", "}") for route in TABLE if isinstance(route, Route)]
OPEN = [route.path for route in TABLE if isinstance(route, Route) and route.audience is Audience.ANYBODY]
WAY_IN = ["/login", "/login.css", "/logout"]
NOWHERE = [
    "",
    "/nowhere",
    "/health/",
    "/health/../diagnostics",
    "/health%2F..%2Fdiagnostics",
    "//health",
    "/ws/diagnostics",
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """Without a token, on loopback."""
    place = make_place(tmp_path_factory.mktemp("served") / "place")
    started = serve(place)
    yield started
    started.stop()
    place.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """With a token."""
    place = make_place(tmp_path_factory.mktemp("guarded") / "place")
    started = serve(place, PREFLIGHT_TOKEN=TOKEN, PREFLIGHT_RERUN_INTERVAL="0")
    yield started
    started.stop()
    place.close()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """The same application under uvicorn alone."""
    place = make_place(tmp_path_factory.mktemp("bare") / "place")
    place.write_module("echo", ECHO)
    command = ("-m", "uvicorn", "echo:app", "--port", str(place.port), "--no-server-header")
    started = place.spawn(sys.executable, *command)
    until(lambda: listening(place.port), "it listens")
    yield started
    started.stop()
    place.close()


# Who may see what.


@pytest.mark.parametrize("kind", ["none is set", "one is set"])
@pytest.mark.parametrize("path", [*PATHS, *NOWHERE])
def test_without_a_token(kind: str, path: str, served: Started, guarded: Started) -> None:
    """Health alone answers, on loopback as well, whether or not there is a token to have."""
    started = served if kind == "none is set" else guarded
    for method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE"):
        answer = ask(started, f"{PREFIX}{path}", method)
        if path in OPEN:
            assert answer.status_code == (200 if method in ("GET", "HEAD") else 405)
        elif path in WAY_IN:
            assert answer.status_code in (200, 303, 401, 405)
            assert "scope" not in answer.text
        else:
            assert answer.status_code == 401, (method, answer.text)
            assert "scope" not in answer.text, "it has reached the application"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.7"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Cookie": "preflight_8002=x; preflight_8002_beside=1.x.y"},
    ],
)
def test_no_header_opens_anything(headers: dict[str, str], served: Started) -> None:
    """What a reverse proxy adds, or somebody makes up, is no way in."""
    assert ask(served, f"{PREFIX}/diagnostics", headers=headers).status_code == 401


def test_behind_a_reverse_proxy(served: Started) -> None:
    """One that somebody has put before the application publishes the prefix, and with it health alone."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
            connection.request("GET", self.path, headers={"Host": f"127.0.0.1:{served.port}"})
            answer = connection.getresponse()
            self.send_response(answer.status)
            body = answer.read()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            connection.close()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        assert requests.get(f"{url}{PREFIX}/health", timeout=30).json()["status"] == "healthy"
        for path in ("/diagnostics", "/metrics", "/", "/diagnostics/history", "/openapi.json"):
            assert requests.get(url + PREFIX + path, timeout=30).status_code == 401
        assert requests.get(f"{url}/anything", timeout=30).json()["scope"]["path"] == "/anything"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_with_the_token(guarded: Started) -> None:
    """Programs send the header: everything answers, links lead below the prefix, and so does a re-run's."""
    for path in ("/", "/diagnostics", "/diagnostics/history", "/metrics", "/openapi.json", "/docs", "/static/app.js"):
        assert ask(guarded, PREFIX + path, headers=BEARER).status_code == 200, path
    assert ask(guarded, PREFIX, headers=BEARER).headers["location"] == f"{PREFIX}/"
    begun = ask(guarded, f"{PREFIX}/diagnostics/run", "POST", headers=BEARER)
    assert begun.status_code == 202
    location = begun.headers["location"]
    assert location == f"{PREFIX}/diagnostics/run/{begun.json()['run_id']}"
    assert ask(guarded, location, headers=BEARER).status_code == 200
    link = ask(guarded, f"{PREFIX}/diagnostics", headers={"Accept": "text/html"}).headers["location"]
    assert link == f"{PREFIX}/login?next={PREFIX}/diagnostics"
    assert f'action="{PREFIX}/login"' in ask(guarded, link).text
    assert "Preflight" in guarded.output
    assert "code=" not in guarded.output, "a link that nobody needs"


def test_requests_in_flight_are_the_servers(guarded: Started) -> None:
    """The application's count as well, though nothing of ours stands on their way."""
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=30) as client:
        client.sendall(f"GET /stream HTTP/1.1\r\nHost: 127.0.0.1:{guarded.port}\r\n\r\n".encode())
        heard = b""
        while b"first" not in heard:
            heard += client.recv(1)
        metrics = ask(guarded, f"{PREFIX}/metrics", headers=BEARER).text
        assert "\npreflight_http_requests_in_flight 2.0\n" in metrics


def test_the_link_logs_in_once(place: Place) -> None:
    """The start prints it; whoever looks at it in advance does not spend it, and nobody can use it twice."""
    started = serve(place)
    link = link_of(started)
    for headers in ({"Sec-Purpose": "prefetch"}, {"Purpose": "prefetch"}):
        assert "set-cookie" not in requests.get(link, headers=headers, timeout=30, allow_redirects=False).headers
    assert "set-cookie" not in requests.head(link, timeout=30).headers
    assert requests.get(link + "0", timeout=30).status_code == 401
    session = requests.Session()
    answer = session.get(link, timeout=30, allow_redirects=False)
    first, second = answer.raw.headers.getlist("set-cookie")
    port = place.port
    assert re.fullmatch(
        rf"preflight_{port}_beside=[\w.-]+; HttpOnly; Path={PREFIX}; Max-Age={LASTS}; SameSite=Strict", first
    )
    assert second == f"preflight_{port}_beside_login=1; Path={PREFIX}; Max-Age={LASTS}; SameSite=Strict"
    assert session.get(f"{started.url}{PREFIX}/diagnostics", timeout=30).status_code == 200
    used = requests.get(link, timeout=30)
    assert used.status_code == 401
    assert "it has been used" in used.text
    assert "set-cookie" not in used.headers
    # A worker that is started again knows the login, and knows that the code was used.
    kill_worker(started)
    assert requests.get(link, timeout=30).status_code == 401
    assert session.get(f"{started.url}{PREFIX}/diagnostics", timeout=30).status_code == 200
    # The next start has another token.
    started.stop()
    again = serve(place)
    assert session.get(f"{again.url}{PREFIX}/diagnostics", timeout=30).status_code == 401
    assert link_of(again) != link
    assert session.get(link, timeout=30).status_code == 401
    # Its code outlives a crash: where nobody has used it, the next worker takes it.
    kill_worker(again)
    assert logged_in(again).get(f"{again.url}{PREFIX}/metrics", timeout=30).status_code == 200


def test_a_link_leads_nowhere_else(served: Started) -> None:
    """Neither to another site nor to a page of the application, which could do what it likes."""
    session = requests.Session()
    for target in ("//evil.test/", "/app", "https://evil.test/", f"{PREFIX}/../app", f"{PREFIX}x", "/\\evil.test"):
        page = session.get(f"{served.url}{PREFIX}/login", params={"next": target}, timeout=30)
        assert page.status_code == 200
    # It is used here, by whoever comes first.
    answer = session.get(link_of(served), params={"next": f"{PREFIX}/../app"}, timeout=30, allow_redirects=False)
    assert answer.headers["location"] == f"{PREFIX}/"
    for target in ("//evil.test/", "/app", f"{PREFIX}/../app", f"{PREFIX}x"):
        page = session.get(f"{served.url}{PREFIX}/login", params={"next": target}, timeout=30, allow_redirects=False)
        assert page.headers["location"] == f"{PREFIX}/"
    page = session.get(
        f"{served.url}{PREFIX}/login", params={"next": f"{PREFIX}/docs"}, timeout=30, allow_redirects=False
    )
    assert page.headers["location"] == f"{PREFIX}/docs"


def log_in(started: Started) -> requests.Session:
    """With the token, through the form."""
    session = requests.Session()
    answer = session.post(f"{started.url}{PREFIX}/login", {"token": TOKEN}, timeout=30, allow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PREFIX}/")
    return session


def test_a_rerun_needs_the_header_or_the_nonce(guarded: Started) -> None:
    """A cookie rides along with whatever asks; so does the origin, where the application's page asks."""
    session = log_in(guarded)
    run, own = f"{guarded.url}{PREFIX}/diagnostics/run", {"Origin": guarded.url}
    nonce = nonce_of(session, guarded)
    other = nonce_of(log_in(guarded), guarded)
    assert nonce != other
    for headers in (
        {},
        own,
        own | {"Sec-Fetch-Dest": "document", "Sec-Fetch-Mode": "navigate"},  # a form that a script sends
        own | {"X-Preflight-Nonce": ""},
        own | {"X-Preflight-Nonce": other},
        {"X-Preflight-Nonce": nonce, "Origin": "http://evil.test"},
        {"X-Preflight-Nonce": nonce},
    ):
        assert session.post(run, headers=headers, timeout=30).status_code == 403, headers
    assert session.post(run, headers=own | {"X-Preflight-Nonce": nonce}, timeout=30).status_code in (202, 429)
    assert requests.post(run, headers=BEARER, timeout=30).status_code in (202, 429)


def test_scripts_of_the_application(guarded: Started) -> None:
    """What a script asks for with the cookie alone is refused, and the page's nonce is not for it either."""
    session = log_in(guarded)
    for path in ("/", "/diagnostics", "/diagnostics?format=html", "/metrics", "/docs", "/openapi.json"):
        for destination in ("empty", "iframe", "frame", "object", "embed", "fencedframe", "worker"):
            headers = {"Sec-Fetch-Dest": destination, "Sec-Fetch-Site": "same-origin", "Accept": "text/html"}
            answer = session.get(f"{guarded.url}{PREFIX}{path}", headers=headers, timeout=30)
            assert answer.status_code == 403, (path, destination)
            assert "preflight-nonce" not in answer.text
    for destination in ("script", "style", "image"):
        page = session.get(f"{guarded.url}{PREFIX}/", headers={"Sec-Fetch-Dest": destination}, timeout=30)
        assert "preflight-nonce" not in page.text
    assert "preflight-nonce" not in requests.get(f"{guarded.url}{PREFIX}/", headers=BEARER, timeout=30).text


def test_the_live_diagnostics_need_the_nonce(guarded: Started) -> None:
    """A WebSocket of the application's page has the cookie and the origin as well."""
    session = log_in(guarded)
    cookie = "; ".join(f"{one.name}={one.value}" for one in session.cookies)
    url = f"ws://127.0.0.1:{guarded.port}{PREFIX}/ws/diagnostics"

    def opened(*subprotocols: str, **headers: str) -> tuple[int, str | None]:
        named = [Subprotocol(name) for name in subprotocols]
        try:
            with connect(url, subprotocols=named or None, additional_headers={"Cookie": cookie, **headers}) as client:
                assert json.loads(client.recv(timeout=30))["type"] == "snapshot"
                return 101, client.subprotocol
        except InvalidStatus as refused:
            return refused.response.status_code, None

    nonce = f"preflight.nonce.{nonce_of(session, guarded)}"
    assert opened(Origin=guarded.url) == (403, None)
    assert opened("preflight.v1", "preflight.nonce.x", Origin=guarded.url) == (403, None)
    assert opened("preflight.v1", nonce, Origin="http://evil.test") == (403, None)
    assert opened("preflight.v1", nonce, Origin=guarded.url) == (101, "preflight.v1")


def test_a_logout(guarded: Started) -> None:
    """It needs no nonce: a form sends it, and it ends nothing but the login that it comes with."""
    session = log_in(guarded)
    kept = dict(session.cookies)
    answer = session.post(
        f"{guarded.url}{PREFIX}/logout", headers={"Origin": guarded.url}, timeout=30, allow_redirects=False
    )
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PREFIX}/login")
    assert ask(guarded, f"{PREFIX}/diagnostics", cookies=kept).status_code == 401


# The application, as if nothing were beside it.


def request(*lines: str, first: str = "GET / HTTP/1.1", body: str = "") -> bytes:
    return ("\r\n".join([first, *lines]) + f"\r\n\r\n{body}").encode("latin-1")


POST, CHUNKS = "POST /p HTTP/1.1", "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
REQUESTS = {
    "plain": request("Host: h:1"),
    "odd headers": request(
        "hOsT: h", "X-A: 1", "X-A:  2 ", "Accept:", "X-B: \xff", first="GET /a%20b%2Fc?x=1& HTTP/1.1"
    ),
    "HTTP/1.0": request(first="GET /old HTTP/1.0"),
    "a body in chunks": request("Host: h", "Transfer-Encoding: chunked", first=POST, body=CHUNKS),
    "a body": request("Host: h", "Content-Length: 5", first=POST, body="hello"),
    "cookies of its own": request("Host: h", 'Cookie: a=1; b="x"; preflight=2;c;;', "Cookie: d=_beside"),
    "what a proxy adds": request("Host: shop.test", "X-Forwarded-Host: shop.test", "Via: 1.1 p"),
    "another origin": request("Host: h", "Origin: http://evil.test", "Content-Length: 0", first=POST),
    "another token": request("Host: h", "Authorization: Bearer theirs"),
    "nearly the prefix": request("Host: h", first="GET /_preflightx/health HTTP/1.1"),
    "the prefix elsewhere": request("Host: h", first="GET /a/_preflight/health HTTP/1.1"),
    "the prefix in capitals": request("Host: h", first="GET /_PREFLIGHT/health HTTP/1.1"),
    "the prefix in the query": request("Host: h", first="GET /?/_preflight/health HTTP/1.1"),
    "an empty segment": request("Host: h", first="GET //_preflight/health HTTP/1.1"),
}


def exchange(port: int, sent: bytes) -> tuple[bytes, Any]:
    """The answer's head but for its date, and its body; of the client only the address."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(sent)
        heard = b""
        while not heard.endswith((b"0\r\n\r\n", b"}")):
            more = client.recv(65536)
            assert more, heard
            heard += more
    head, _, body = heard.partition(b"\r\n\r\n")
    found = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])
    found["scope"]["client"] = found["scope"]["client"][0]
    found["scope"]["server"] = found["scope"]["server"][0]
    return re.sub(rb"\r\ndate: [^\r]*", b"", head), found


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_is_not_ours(name: str, served: Started, bare: Started) -> None:
    """The application sees what it sees under uvicorn, byte for byte, and its answer is left as it is."""
    assert exchange(served.port, REQUESTS[name]) == exchange(bare.port, REQUESTS[name])


def test_a_websocket_that_is_not_ours(served: Started, bare: Started) -> None:
    """Handshake, subprotocols, messages of both kinds, and the close are the application's."""

    def talked(port: int) -> Any:
        offered = [Subprotocol(name) for name in ("a", "preflight.token.eA", "preflight.nonce.x")]
        with connect(
            f"ws://127.0.0.1:{port}/chat?x=1",
            subprotocols=offered,
            additional_headers={"Cookie": "a=1"},
            compression=None,
        ) as client:
            scope = json.loads(client.recv(timeout=30))
            client.send("text")
            client.send(b"\0bytes")
            heard = [client.recv(timeout=30), client.recv(timeout=30)]
            client.send("close")
            with pytest.raises(ConnectionClosed) as ended:
                client.recv(timeout=30)
            closed = ended.value.rcvd
            assert client.response is not None
            assert closed is not None
            kept = {name: scope[name] for name in ("type", "path", "query_string", "scheme", "subprotocols", "state")}
            headers = [pair for pair in scope["headers"] if pair[0] not in ("host", "sec-websocket-key")]
            return (
                kept,
                headers,
                client.subprotocol,
                client.response.headers["x-seen"],
                heard,
                closed.code,
                closed.reason,
            )

    assert talked(served.port) == talked(bare.port)


def test_an_answer_in_pieces(served: Started) -> None:
    """Each piece is on its way before the next one is made, and headers stay as they were written."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(f"GET /stream HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode())
        heard = b""
        while b"first" not in heard:
            heard += client.recv(1)
        assert heard.startswith(b"HTTP/1.1 207 ")
        assert b"x-odd:  kept \r\nx-odd: 2\r\n" in heard
        assert b"second" not in heard
        assert ask(served, "/gate").status_code == 204
        while b"second" not in heard:
            heard += client.recv(1)


def test_our_cookies_do_not_reach_it(served: Started) -> None:
    """Neither this instance's nor another's, in whatever place; all others do, as they were sent."""
    own = f"preflight_{served.port}_beside=1.x.y"
    sent = {
        f"a=1; {own}; b=2": ["a=1; b=2"],
        f"{own}; a=1": ["a=1"],
        f"a=1;{own}": ["a=1"],
        f"{own};preflight_1_beside_login=1": [],
        f" {own} ;  a=1 ;b": ["a=1 ;b"],
        "preflight_1_beside=": [],
        "preflight_1_beside": [],
        "preflight_x_beside=1; preflight_1_besides=1": ["preflight_x_beside=1; preflight_1_besides=1"],
        "preflight_8002=1; mypreflight_1_beside=2": ["preflight_8002=1; mypreflight_1_beside=2"],
    }
    for cookie, kept in sent.items():
        asked = request("Host: h", "X-First: 1", f"Cookie: {cookie}", "X-Last: 1")
        headers = exchange(served.port, asked)[1]["scope"]["headers"]
        assert [value for name, value in headers if name == "cookie"] == kept, cookie
        assert [name for name, _value in headers if name != "cookie"] == ["host", "x-first", "x-last"]
    with connect(f"ws://127.0.0.1:{served.port}/x", additional_headers={"Cookie": f"{own}; a=1"}) as client:
        headers = json.loads(client.recv(timeout=30))["headers"]
        assert [value for name, value in headers if name == "cookie"] == ["a=1"]


# Settings.


def test_off(place: Place) -> None:
    """Every path is the application's then, and the suite says that nothing is served beside it."""
    started = serve(place, PREFLIGHT_WEB_PREFIX="off")
    assert ask(started, f"{PREFIX}/health").json()["scope"]["path"] == f"{PREFIX}/health"
    assert "login?code" not in started.output
    check = place.check("Exposure")
    assert (check["outcome"], check["message"][:17]) == ("not_applicable", "web_prefix is off")


def test_another_prefix(place: Place) -> None:
    """It is wherever the project wants it; the cookie goes with it.

    Where there is no room, one connection too many gets health, below the prefix as well.
    """
    limits = {"PREFLIGHT_CONNECTIONS": "2"}
    started = serve(place, PREFLIGHT_WEB_PREFIX="/ops/checks/", PREFLIGHT_TOKEN=TOKEN, **limits)
    assert ask(started, "/ops/checks/health").json()["status"] == "healthy"
    assert ask(started, "/ops/checks/diagnostics", headers=BEARER).status_code == 200
    answer = ask(started, "/ops/checks/login", "POST", data={"token": TOKEN})
    assert "Path=/ops/checks;" in answer.headers["set-cookie"]
    assert ask(started, "/ops").json()["scope"]["path"] == "/ops"
    assert ask(started, f"{PREFIX}/health").json()["scope"]["path"] == f"{PREFIX}/health"
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            busy = stack.enter_context(socket.create_connection(("127.0.0.1", place.port), timeout=30))
            busy.sendall(f"GET /stream HTTP/1.1\r\nHost: 127.0.0.1:{place.port}\r\n\r\n".encode())
            assert b"207" in busy.recv(65536)
        assert ask(started, "/ops/checks/health/ready").status_code == 200
        assert ask(started, "/ops/checks/diagnostics", headers=BEARER).status_code == 503
        assert ask(started, "/").status_code == 503


def test_no_prefix(place: Place) -> None:
    """What cannot be one is refused before anything starts."""
    for prefix in ("preflight", "/", "/a b", "/a//b", "/../x", "/a?b", "/ä", "http://x/y"):
        with pytest.raises(SettingsError, match="PREFLIGHT_WEB_PREFIX must be a path"):
            loading.load(ROOT, {"PREFLIGHT_WEB_PREFIX": prefix}, {"demo": True})
    refused = place.run("--demo", "--app", "small:app", PREFLIGHT_WEB_PREFIX="/a//b")
    assert refused.process.returncode == 2
    assert "PREFLIGHT_WEB_PREFIX must be a path" in refused.output


def test_exposure(place: Place) -> None:
    """A token that can be guessed is refused on loopback as well: a proxy may publish the prefix."""
    refused = place.refused("--demo", "--app", "small:app", PREFLIGHT_TOKEN="short")
    assert refused.process.returncode == 1
    assert f"{PREFIX} may be published by a proxy" in place.check("Exposure")["message"]
    checked = place.run("--demo", "--app", "small:app", "--check-only", PREFLIGHT_TOKEN="paste-your-key-here")
    assert checked.process.returncode == 1
    assert f"{PREFIX} may be published by a proxy" in place.check("Exposure")["message"]
    place.run("--demo", "--app", "small:app", "--check-only")
    assert place.check("Exposure")["outcome"] == "passed"
    assert (
        place.check("Exposure")["message"] == f"{PREFIX} needs a login: each start makes the token, and prints a link"
    )


# Applications of other kinds.


LIFESPANS = {
    "none, and returns": "return",
    "none, and raises": "assert scope['type'] == 'http'",
    "one that fails after it has asked": "await receive(); raise ValueError('no')",
    "one that ends early": "await receive(); await send({'type': 'lifespan.startup.complete'}); return",
}


@pytest.mark.parametrize("name", LIFESPANS)
def test_lifespans(name: str, place: Place) -> None:
    """Whatever an application makes of its lifespan, it is served as without us, and we beside it."""
    place.write_module(
        "odd",
        f"""
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        {LIFESPANS[name]}
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b"served"}})
""",
    )
    started = place.start("--demo", "--app", "odd:app").until_ready()
    assert ask(started, "/").text == "served"
    session = logged_in(started)
    assert session.get(f"{started.url}{PREFIX}/diagnostics", timeout=30).json()["status"] == "passed"
    headers = {"Origin": started.url, "X-Preflight-Nonce": nonce_of(session, started)}
    assert session.post(f"{started.url}{PREFIX}/diagnostics/run", headers=headers, timeout=30).status_code == 202
    assert started.stop() == 0


def test_a_start_up_that_fails(place: Place) -> None:
    """It is the application's word, and the start comes to nothing."""
    place.write_module(
        "fails",
        """
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database here"})
""",
    )
    started = place.run("--demo", "--app", "fails:app")
    assert started.process.returncode == 4
    assert "no database here" in started.output
    assert "login?code" not in started.output


FRAMEWORKS = {
    "Starlette": """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
async def root(request):
    return JSONResponse({"state": sorted(request.scope["state"]), "root_path": request.scope["root_path"]})
app = Starlette(routes=[Route("/", root)])
""",
    "FastAPI": """
from contextlib import asynccontextmanager
from fastapi import FastAPI, Request
@asynccontextmanager
async def lifespan(app):
    yield {"of_its_own": 1}
app = FastAPI(lifespan=lifespan)
@app.get("/")
async def root(request: Request):
    return {"state": sorted(request.scope["state"]), "root_path": request.scope["root_path"]}
""",
    "ASGI 2": """
import json
class app:
    def __init__(self, scope):
        self.scope = scope
    async def __call__(self, receive, send):
        body = {"state": sorted(self.scope.get("state", {})), "root_path": self.scope["root_path"]}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})
""",
}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_frameworks(name: str, place: Place) -> None:
    """Each has its own lifespan, its own state and its own documents; ours are below the prefix."""
    place.write_module("framed", FRAMEWORKS[name])
    started = place.start("--demo", "--app", "framed:app").until_ready()
    answer = ask(started, "/").json()
    assert answer["root_path"] == ""
    own = ["of_its_own"] if name == "FastAPI" else []
    assert set(answer["state"]) - {"preflight"} == set(own)
    assert ask(started, "/docs").status_code == {"FastAPI": 200, "Starlette": 404, "ASGI 2": 200}[name]
    assert ask(started, f"{PREFIX}/docs").status_code == 401
    assert logged_in(started).get(f"{started.url}{PREFIX}/docs", timeout=30).status_code == 200


# Behind a proxy.


def test_client_and_scheme(served: Started, bare: Started, place: Place) -> None:
    """The application sees those that it sees under uvicorn; our own routes see the socket's peer."""
    same_client_and_scheme(served, bare.url, is_trusted=True)
    for variable in ("10.0.0.7", "*"):
        environ = {"FORWARDED_ALLOW_IPS": variable}
        started = serve(place, **environ)
        command = (sys.executable, "-m", "uvicorn", "echo:app", "--port", "0")
        plain = place.spawn(*command, environ=environ).until_says("Uvicorn running")
        found = re.search(r"running on (http://127.0.0.1:\d+)", plain.output)
        assert found is not None
        same_client_and_scheme(started, found[1], is_trusted=variable == "*")
        plain.stop()
        started.stop()


def same_client_and_scheme(started: Started, plain: str, *, is_trusted: bool) -> None:
    """What this machine's proxy says of a client is believed where uvicorn believes it; ``plain`` is its address."""
    forwarded = {"X-Forwarded-For": "203.0.113.7, 198.51.100.1", "X-Forwarded-Proto": "https", "Host": "shop.test"}
    seen = []
    for url in (started.url, plain):
        scope = requests.get(url, headers=forwarded, timeout=30).json()["scope"]
        with connect(url.replace("http", "ws"), additional_headers={"X-Forwarded-Proto": "https"}) as client:
            seen.append((scope["client"][0], scope["scheme"], json.loads(client.recv(timeout=30))["scheme"]))
    assert seen[0] == seen[1]
    assert (seen[0][1] == "https") is is_trusted
    before = started.output.count("login_failed")
    ask(started, f"{PREFIX}/diagnostics", headers={"X-Forwarded-For": "203.0.113.7", "Authorization": "Bearer x"})
    until(lambda: started.output.count("login_failed") > before, "it is said who tried")
    assert "203.0.113.7" not in started.output


def test_below_a_path_of_the_proxy(place: Place) -> None:
    """With root_path our links and the cookie have that path, and whoever comes without the proxy is led there."""
    started = serve(place, PREFLIGHT_ROOT_PATH="/shop")
    session = requests.Session()
    answer = session.get(link_of(started), timeout=30, allow_redirects=False)
    assert answer.headers["location"] == f"/shop{PREFIX}/"
    assert f"Path=/shop{PREFIX};" in answer.headers["set-cookie"]
    page = session.get(f"{started.url}/shop{PREFIX}/", timeout=30)
    assert (page.status_code, page.history) == (200, [])
    assert ask(started, f"{PREFIX}/health").status_code == 200  # as the proxy asks, which has taken the path off
    assert ask(started, f"{PREFIX}/diagnostics", headers={"Accept": "text/html"}).headers["location"] == (
        f"/shop{PREFIX}/login?next=/shop{PREFIX}/diagnostics"
    )
    scope = ask(started, "/x").json()["scope"]
    assert (scope["path"], scope["root_path"]) == ("/shop/x", "/shop")


# Without the extra.


EXTRA = ("starlette", "prometheus_client")


@pytest.fixture
def core(tmp_path: Path, project: Place) -> str:
    """An interpreter without the extra's packages, for a project that needs no others."""
    folder = tmp_path / "core"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith((*EXTRA, "fastapi", "__")):
            (site / entry.name).symlink_to(entry)
    file = project.root / "pyproject.toml"
    text = re.sub(r"^extras = .*\n", "", file.read_text(), flags=re.MULTILINE)
    start = text.index("\ndependencies = [")
    file.write_text(text[:start] + '\ndependencies = ["uvicorn", "pytest"' + text[text.index("\n]", start) + 1 :])
    return str(folder / "bin" / "python")


WAYS = ("the launcher", "guard under uvicorn")


def test_without_the_extra(core: str, project: Place) -> None:
    """The application is checked and served all the same, and one line says what is missing and how to get it."""
    project.write_module("echo", ECHO)
    project.write_module("shop", "from echo import app as plain\nfrom preflight import guard\napp = guard(plain)\n")
    for way in WAYS:
        started = spawned(way, core, project)
        is_served(started, f"{PREFIX} is not served: starlette and prometheus-client are")
        assert ask(started, f"{PREFIX}/health").json()["scope"]["path"] == f"{PREFIX}/health"
        assert "login?code" not in started.output
        started.insist()
    site = next(Path(core).parents[1].glob("lib/python*/site-packages"))
    (site / "starlette").symlink_to(Path(sysconfig.get_path("purelib")) / "starlette")
    for way in WAYS:
        started = spawned(way, core, project)
        is_served(started, f"{PREFIX}/metrics is not served: prometheus-client is")
        session = logged_in(started)
        assert session.get(f"{started.url}{PREFIX}/diagnostics", timeout=30).json()["status"] == "passed"
        assert session.get(f"{started.url}{PREFIX}/metrics", timeout=30).status_code == 501
        started.insist()


def spawned(way: str, core: str, project: Place) -> Started:
    """A start of the application by that interpreter."""
    if way == "the launcher":
        command = [core, "run.py", "--port", str(project.port), "--demo", "--app", "echo:app"]
        return project.spawn(*command).until_ready()
    command = [core, "-m", "uvicorn", "shop:app", "--port", str(project.port)]
    return project.spawn(*command, environ={"PREFLIGHT_DEMO": "1"}).until_says("Uvicorn running")


def is_served(started: Started, what: str) -> None:
    """The application is served, and one line says what is not."""
    assert ask(started, "/x").json()["scope"]["path"] == "/x"
    lines = [line for line in started.output.splitlines() if "not served" in line]
    assert len(lines) == 1, started.output
    assert f"{what} not installed (the extra web): " in lines[0]
