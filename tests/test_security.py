"""The guard's decisions, one request at a time, without a server: names, origins, proofs, and who waits."""

from __future__ import annotations

import asyncio
import base64
import hmac
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from preflight import hostnames
from preflight.output.audit import Event
from preflight.processes.board import Board
from preflight.settings import loading
from preflight.settings.model import Settings
from preflight.web import guard, logincookies, services, throttle
from preflight.web.access import Access
from preflight.web.endpoints import login
from preflight.web.guard import Guard
from preflight.web.instance import Instance
from preflight.web.routing import Audience, audiences
from preflight.web.throttle import (
    FREE,
    LONGEST_DELAY,
    NEIGHBOURS_WAITING,
    PEERS,
    TOLD,
    TOLD_OF_ONE,
    WAITING,
    Throttle,
)
from server.app import create_app
from tests.waiting import eventually, settled

ROOT = Path(__file__).parents[1]
TOKEN = "canary-Zq7vXw2LmN8pRt4KdY6hJb3F"
HOST = "127.0.0.1:8002"


def load(token: str | None = TOKEN, **options: object) -> Settings:
    environ = {} if token is None else {"PREFLIGHT_TOKEN": token}
    return loading.load(ROOT, environ, {"demo": True, **options})


def request(path: str = "/diagnostics", method: str = "GET", *, peer: str = "127.0.0.1", **headers: str) -> Any:
    """A request as a server hands it over; underscores in names of headers stand for hyphens."""
    named = {"host": HOST, **headers}
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "scheme": "http",
        "client": (peer, 40000),
        "server": ("127.0.0.1", 8002),
        "headers": [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in named.items()],
    }


def websocket(*subprotocols: str, **headers: str) -> Any:
    scope = request("/ws/chat", **headers)
    del scope["method"]
    return {**scope, "type": "websocket", "scheme": "ws", "subprotocols": list(subprotocols)}


def access_of(chosen: Settings) -> Access:
    """What these settings allow, at the routes of the agent server."""
    return Access(chosen, AUDIENCES)


def state(access: Access, instance: Instance | None = None) -> dict[str, Any]:
    """The part of a request's state that the guard looks at."""
    return {services.STATE: SimpleNamespace(access=access, instance=instance)}


def status(access: Access, scope: Any) -> int:
    """The status of a denial, 200 for none."""
    denial = access.denial(scope)
    return denial.status if denial else 200


BEARER = {"authorization": f"Bearer {TOKEN}"}
APPLICATION: Any = create_app()
ROUTES: list[Any] = APPLICATION.routes
AUDIENCES = audiences(APPLICATION.web.table)
OURS = sorted({route.path for route in ROUTES})


@pytest.mark.parametrize("path", [*OURS, "/nowhere", "//health", "/healthy", "/health/../docs", "/HEALTH"])
def test_everything_is_protected_by_default(path: str) -> None:
    """A path needs the token unless it stands on the short list of those that do not, routes that do not exist too."""
    public = path in {"/health", "/health/live", "/health/ready", "/login", "/login.css"}
    assert status(access_of(load()), request(path)) == (200 if public else 401)
    assert status(access_of(load()), request(path, **BEARER)) == 200


@pytest.mark.parametrize(
    "header,right",
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN} ", True),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN[:-1]}", False),
        (f"Bearer {TOKEN.lower()}", False),
        ("Bearer", False),
        ("Bearer \xff\xfe", False),
        (TOKEN, False),
        (f"Basic {base64.b64encode(TOKEN.encode()).decode()}", False),
    ],
)
def test_bearer(header: str, right: bool) -> None:
    """The token itself and nothing near it."""
    assert status(access_of(load()), request(authorization=header)) == (200 if right else 401)


def test_tokens_are_compared_by_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared is equally long whatever was offered, and compare_digest does it."""
    compared: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    access = access_of(load())
    for offered in (b"", b"x", TOKEN.encode(), b"x" * 10_000):
        access.is_token(offered)
    assert compared == [(32, 32)] * 4


@pytest.mark.parametrize(
    "host,allowed",
    [
        (HOST, True),
        ("127.0.0.1", True),
        ("localhost", True),
        ("LocalHost:8002", True),
        ("[::1]:8002", True),
        ("[::1]", True),
        ("agent.example", True),
        ("agent.example:8002", True),
        ("other.example:9000", True),
        ("other.example", False),
        ("agent.example:9000", False),
        ("localhost:9000", False),
        ("evil.test", False),
        ("evil.test:8002", False),
        ("localhost.evil.test", False),
        ("127.0.0.1.evil.test:8002", False),
        ("evil.test:127.0.0.1", False),
        ("localhost:8002@evil.test", False),
        ("10.0.0.5:8002", False),
        ("", False),
        ("\xff", False),
    ],
)
def test_host(host: str, allowed: bool) -> None:
    """A name that is none of ours is not answered, whoever asks: a rebound name brings its own."""
    access = access_of(load(allowed_hosts="agent.example, other.example:9000"))
    assert status(access, request(host=host, **BEARER)) == (200 if allowed else 421)
    assert status(access, request("/login", host=host)) == (200 if allowed else 421)
    assert status(access, request("/health", host=host)) == 200


def test_host_of_a_connection() -> None:
    """Under another server than ours the port is the connection's; on a wildcard address, the address is, too."""
    elsewhere = request(host="localhost:9123", **BEARER) | {"server": ("127.0.0.1", 9123)}
    assert status(access_of(load()), elsewhere) == 200
    network = request(host="10.0.0.5:8002", peer="10.0.0.9", **BEARER) | {"server": ("10.0.0.5", 8002)}
    assert status(access_of(load()), network) == 421
    assert status(access_of(load(host="0.0.0.0")), network) == 200
    assert status(access_of(load(host="::")), network | {"server": ("::ffff:10.0.0.5", 8002)}) == 200
    rebound = request(host="evil.test:8002", peer="10.0.0.9", **BEARER) | {"server": ("10.0.0.5", 8002)}
    assert status(access_of(load(host="0.0.0.0")), rebound) == 421
    assert status(access_of(load(host="::1")), request(host="[::1]:8002", **BEARER)) == 200
    assert status(access_of(load()), request(host="evil.test", **BEARER) | {"server": None}) == 421


@pytest.mark.parametrize("host, allowed", [("0.0.0.0", 200), ("10.0.0.5", 200), ("127.0.0.1", 421)])
def test_own_names(host: str, allowed: int) -> None:
    """The machine's own names lead here where others can reach it; what is served on loopback has loopback's alone."""
    access = access_of(load(host=host))
    for name in hostnames.own() - {"localhost"}:
        for asked in (name, name.upper(), f"{name}:8002"):
            assert status(access, request(host=asked, **BEARER)) == allowed
            assert status(access, request(host=asked)) in (401, 421), "a name alone opens nothing"
    assert status(access, request(host="not-this-machine", **BEARER)) == 421


@pytest.mark.parametrize("host", ["0", "0.0.0.0", "0:0:0:0:0:0:0:0", "::"])
def test_every_address_however_it_is_spelled(host: str) -> None:
    """The address that a connection came to is a name of the server."""
    assert (
        status(access_of(load(host=host)), request(host="10.0.0.5:8002", **BEARER) | {"server": ("10.0.0.5", 8002)})
        == 200
    )


@pytest.mark.parametrize("name", ["host", "origin", "authorization"])
def test_twice(name: str) -> None:
    """A header that may be there once and is there twice leaves it open which one counts."""
    scope = request(origin=f"http://{HOST}", **BEARER)
    scope["headers"].append((name.encode(), b"x"))
    assert status(access_of(load()), scope) == 400


@pytest.mark.parametrize(
    "origin,allowed",
    [
        (f"http://{HOST}", True),
        (f"https://{HOST}", True),
        (f"HTTP://{HOST}", True),
        ("https://friend.example", True),
        ("http://friend.example", False),
        ("http://localhost:8002", False),  # another origin than the one in Host
        ("http://127.0.0.1", False),
        ("http://127.0.0.1:3000", False),
        ("https://evil.example", False),
        (f"http://{HOST}.evil.example", False),
        (f"http://evil.example/http://{HOST}", False),
        ("null", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("token", [TOKEN, None])
def test_origin(token: str | None, origin: str, allowed: bool) -> None:
    """Only this server's own pages and those of listed origins may ask, with and without a token."""
    access = access_of(load(token, allowed_origins="https://friend.example"))
    proof = BEARER if token else {}
    expected = 200 if allowed else 403
    assert status(access, websocket(origin=origin, **proof)) == expected
    for method in ("GET", "POST", "DELETE"):
        assert status(access, request(method=method, origin=origin, **proof)) == expected
    mixed = websocket(**proof)
    mixed["headers"].append((b"Origin", origin.encode()))
    assert status(access, mixed) == expected


@pytest.mark.parametrize("token", [TOKEN, None])
def test_sec_fetch_site(token: str | None) -> None:
    """Where a browser sends no Origin it says whose page asks: another's may lead a person here, and nothing else."""
    access = access_of(load(token))
    proof = BEARER if token else {}
    for site in ("cross-site", "same-site"):
        said = {"sec_fetch_site": site, **proof}
        followed = {**said, "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
        assert status(access, request(**said)) == 403
        assert status(access, request(method="POST", **said)) == 403
        assert status(access, request(method="POST", **followed)) == 403
        assert status(access, request(**{**followed, "sec_fetch_dest": "iframe"})) == 403
        assert status(access, request(**followed)) == 200
        assert status(access, websocket(**said)) == 403
    for site in ("same-origin", "none"):
        assert status(access, request(method="POST", sec_fetch_site=site, **proof)) == 200


def test_the_local_user_is_trusted() -> None:
    """On loopback without a token this machine is served, a POST without Origin included."""
    access = access_of(load(None))
    for peer in ("127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"):
        assert status(access, request(peer=peer)) == 200
        assert status(access, request("/diagnostics/run", "POST", peer=peer)) == 200
    assert status(access, websocket()) == 200
    for peer in ("10.0.0.9", "::ffff:10.0.0.9", "fe80::1", "1270.0.0.1"):
        assert status(access, request(peer=peer)) == 403
    assert status(access, request() | {"client": None}) == 403


@pytest.mark.parametrize(
    "header",
    [
        "x_forwarded_for",
        "x_forwarded_host",
        "x_forwarded_proto",
        "forwarded",
        "via",
        "x_real_ip",
        "cf_connecting_ip",
        "client_ip",
        "x_client_ip",
        "x_cluster_client_ip",
        "fastly_client_ip",
        "x_original_forwarded_for",
        "x_envoy_external_address",
        "cf_ray",
        "x_amzn_trace_id",
    ],
)
def test_headers_earn_no_trust(header: str) -> None:
    """Trust follows the socket's peer: a header makes nobody local, and one that a proxy left takes it away."""
    access = access_of(load(None))
    assert status(access, request(peer="10.0.0.9", **{header: "127.0.0.1"})) == 403
    assert status(access, request(**{header: "127.0.0.1"})) == 403


@pytest.mark.parametrize(
    "options",
    [{"host": "0.0.0.0"}, {"host": "10.0.0.5"}, {"trusted_proxies": "127.0.0.1"}, {"host": "127.0.0.1.evil.test"}],
)
def test_only_there(options: dict[str, str]) -> None:
    """Without a token nobody is trusted where others can come, through a proxy or by themselves."""
    assert status(access_of(load(None, **options)), request()) == 403


def test_short_token() -> None:
    """A token of fewer than 16 characters is good for this machine and not for others."""
    access = access_of(load("short", host="0.0.0.0"))
    right = {"authorization": "Bearer short"}
    assert status(access, request(**right)) == 200
    assert status(access, request()) == 401
    assert status(access, request(peer="10.0.0.9", **right)) == 403


def test_short_token_behind_a_proxy() -> None:
    """Who comes through a proxy is none of this machine's, although the proxy is."""
    right = {"authorization": "Bearer short"}
    assert status(access_of(load("short")), request(**right)) == 200
    assert status(access_of(load("short")), request(x_forwarded_for="127.0.0.1", **right)) == 403
    assert status(access_of(load("short", trusted_proxies="127.0.0.1")), request(**right)) == 403
    assert status(access_of(load(trusted_proxies="127.0.0.1")), request(x_forwarded_for="203.0.113.7", **BEARER)) == 200


@pytest.mark.parametrize("path", sorted(path for path, audience in AUDIENCES.items() if audience is Audience.ANYBODY))
def test_health_is_no_way_in_for_websockets(path: str) -> None:
    """What is public of health is its answer to a request: a WebSocket to its path is like any other."""
    assert status(access_of(load()), websocket() | {"path": path}) == 401
    assert status(access_of(load()), websocket(host="evil.test") | {"path": path}) == 421
    assert status(access_of(load(None)), websocket(origin="https://evil.example") | {"path": path}) == 403


def encoded(token: str) -> str:
    return "preflight.token." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def test_subprotocol() -> None:
    """A WebSocket may bring the token among its subprotocols; an HTTP request may not, nor may either in its URL."""
    access = access_of(load())
    assert status(access, websocket("preflight.v1", encoded(TOKEN), origin=f"http://{HOST}")) == 200
    assert status(access, websocket(encoded(TOKEN) + "=")) == 200
    for wrong in (encoded(TOKEN + "x"), "preflight.token.", "preflight.token.!", "preflight.v1", TOKEN):
        assert status(access, websocket(wrong)) == 401
    assert status(access, request() | {"subprotocols": []}) == 401
    query = f"token={TOKEN}&access_token={TOKEN}".encode()
    assert status(access, websocket() | {"query_string": query}) == 401
    assert status(access, request() | {"query_string": query}) == 401


# The login's cookie.


def cookie(access: Access) -> str:
    return access.cookies.headers(access.cookies.new(), request())[0].split(";")[0]


def test_cookie() -> None:
    """It is not the token, not readable by scripts, not sent by other sites, and Secure where the way is."""
    access = access_of(load())
    header, _ = access.cookies.headers(access.cookies.new(), request())
    assert re.fullmatch(r"preflight_8002=[\w.-]+; HttpOnly; Path=/; Max-Age=43200; SameSite=Strict", header)
    assert TOKEN not in header
    assert access.cookies.headers("x", request() | {"scheme": "https"})[0].endswith("; Secure")
    assert status(access, request(cookie=f"a=b; {cookie(access)}; c=d")) == 200
    assert status(access_of(load()), request(cookie=cookie(access))) == 200  # a restart asks nobody to log in again
    assert status(access_of(load(TOKEN + "x")), request(cookie=cookie(access))) == 401  # a new token does


def test_a_cookie_for_scripts() -> None:
    """Beside the login's cookie stands one with the same rules that scripts can read, and that lets nobody in."""
    access = access_of(load())
    for session in (access.cookies.new(), ""):
        for scheme in ("http", "https"):
            own, sign = access.cookies.headers(session, request() | {"scheme": scheme})
            name, _, rules = own.partition("; HttpOnly")
            assert sign == f"preflight_8002_login={'1' if session else ''}{rules}"
            assert name == f"preflight_8002={session}"
            assert status(access, request(cookie=sign.split(";")[0])) == 401


def test_forged_cookies() -> None:
    """What was not signed with this token counts for nothing, whatever it looks like."""
    access = access_of(load())
    name, _, value = cookie(access).partition("=")
    expires, session, signature = value.split(".")
    for forged in (
        "",
        "..",
        "x",
        f"{int(expires) + 9}.{session}.{signature}",
        f"{expires}.{session}x.{signature}",
        f"{expires}.{session}.{'0' * 64}",
        f"{expires}.{session}.",
        f"{expires}.{session}.\xe9",
        TOKEN,
    ):
        assert status(access, request(cookie=f"{name}={forged}")) == 401
    assert status(access, request(cookie=f"preflight_9000={value}")) == 401


def test_cookies_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login ends with its time, or when its person says so."""
    access = access_of(load())
    ended, kept = cookie(access), cookie(access)
    access.cookies.end(ended.encode())
    access.cookies.end(b"preflight_8002=made.up.entirely")
    assert (status(access, request(cookie=ended)), status(access, request(cookie=kept))) == (401, 200)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + logincookies.LASTS + 1)
    assert status(access, request(cookie=kept)) == 401


@pytest.mark.slow
def test_what_a_login_opened_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connections are closed when its time is over or its person says so; the token's are nobody's to close."""
    access = access_of(load())
    ended: list[str] = []

    async def run() -> None:
        over = asyncio.Event()

        def in_time() -> None:
            ended.append("in time")
            over.set()

        with monkeypatch.context() as shorter:
            shorter.setattr(logincookies, "LASTS", 2)
            brief = cookie(access)
        lasting, own = cookie(access), {"origin": f"http://{HOST}"}
        with (
            access.connection(websocket(cookie=brief, **own), in_time),
            access.connection(websocket(cookie=lasting, **own), lambda: ended.append("by hand")),
            access.connection(websocket(encoded(TOKEN), cookie=lasting, **own), lambda: ended.append("never")),
        ):
            await asyncio.wait_for(over.wait(), 30)
            assert ended == ["in time"]
            access.cookies.end(lasting.encode())
        with access.connection(websocket(cookie=cookie(access), **own), lambda: ended.append("gone already")):
            pass
        assert not access.cookies._connections

    asyncio.run(run())
    assert ended == ["in time", "by hand"]


@pytest.mark.parametrize("heeds", [True, False], ids=["heeds it", "does not"])
def test_a_logout_on_another_server(monkeypatch: pytest.MonkeyPatch, heeds: bool) -> None:
    """Where nobody can cut the connection, what serves it is ended; what was done after it is not ours to end."""
    monkeypatch.setattr(guard, "GOODBYE", 0.05)
    access = access_of(load())
    told: list[str] = []

    async def run() -> None:
        closed = asyncio.Event()

        async def application(_scope: Scope, _receive: Receive, _send: Send) -> None:
            if heeds:
                await closed.wait()
            else:
                try:
                    await asyncio.sleep(30)
                finally:
                    told.append("ended")

        async def send(_message: Message) -> None:
            closed.set()

        async def receive() -> Message:
            raise AssertionError("nobody asks")

        async def server() -> None:
            scope = {**websocket(cookie=mine, origin=f"http://{HOST}"), "state": state(access)}
            await Guard(application)(scope, receive, send)
            await asyncio.sleep(0.2)
            told.append("after it")

        mine = cookie(access)
        serving = asyncio.create_task(server())
        await asyncio.sleep(0)
        access.cookies.end(mine.encode())
        await asyncio.wait([serving])
        assert not access.farewells

    asyncio.run(run())
    assert told == (["after it"] if heeds else ["ended"])


def test_a_cookie_alone_changes_nothing() -> None:
    """Browsers send cookies whoever made them ask: what changes something needs this very origin as well."""
    access = access_of(load(allowed_origins="https://friend.example"))
    proof = {"cookie": cookie(access)}
    own, friend = {"origin": f"http://{HOST}"}, {"origin": "https://friend.example"}
    assert status(access, request(**proof)) == 200
    assert status(access, request(method="POST", **proof)) == 403
    assert status(access, request(method="POST", **proof, **friend)) == 403
    assert status(access, request(method="POST", **proof, **own)) == 200
    assert status(access, websocket(**proof)) == 403
    assert status(access, websocket(**proof, **friend)) == 403
    assert status(access, websocket(**proof, **own)) == 200


@pytest.mark.parametrize(
    "target,kept",
    [
        ("/docs", True),
        ("/diagnostics?a=b#c", True),
        ("//evil.example", False),
        ("/\\evil.example", False),
        ("/\t/evil.example", False),
        ("https://evil.example", False),
        ("evil", False),
        ("", False),
        ("/\r\nSet-Cookie: a=b", False),
    ],
)
def test_the_login_leads_nowhere_else(target: str, kept: bool) -> None:
    """Where the login leads is a path of this server, however it is written."""
    assert login.own_path(target) == (target if kept else login.HOME)


# Wrong tokens.


def test_throttle() -> None:
    """The first few are answered at once, then each wait is twice the last one, up to a bound; peace is forgotten."""
    throttled, board = Throttle(b"key"), Board.alone()
    waits = [throttled.failed(board, "10.0.0.9", 1000.0) for _ in range(FREE + 8)]
    assert waits[:FREE] == [0.0] * FREE
    assert waits[FREE : FREE + 4] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == LONGEST_DELAY
    assert throttled.failed(board, "10.0.0.8", 1000.0) == 0.0
    assert throttled.failed(board, "10.0.0.9", 1000.0 + throttle.FORGET + 1) == 0.0


def test_workers_throttle_together() -> None:
    """Whoever goes from worker to worker waits as long as with one, after one has crashed as well."""
    launcher = Board.made(3, Path())
    boards = [Board.attached(os.dup(launcher.descriptor), number, 3) for number in (1, 2, 3)]
    throttles = [Throttle(b"key") for _ in boards]
    waits = [
        one.failed(board, "10.0.0.9", 1000.0) for _ in range(3) for one, board in zip(throttles, boards, strict=True)
    ]
    assert waits == [0.0] * FREE + [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    launcher.clear(1)
    assert throttles[0].failed(boards[0], "10.0.0.9", 1000.0) == LONGEST_DELAY
    assert throttles[1].failed(boards[1], "10.0.0.9", 1000.0 + throttle.FORGET + 1) == 0.0
    for board in (launcher, *boards):
        board.close()


def test_neighbours() -> None:
    """Whoever has one IPv6 address has a whole /64 of them."""
    assert throttle.neighbourhood("2001:db8:1:2:3:4:5:6") == throttle.neighbourhood("2001:db8:1:2::1")
    assert throttle.neighbourhood("2001:db8:1:3::1") != throttle.neighbourhood("2001:db8:1:2::1")
    assert throttle.neighbourhood("10.0.0.9") == "10.0.0.9"
    assert throttle.neighbourhood("::ffff:10.0.0.9") == "10.0.0.9"


def test_waits_end_with_the_server(make_instance: Callable[..., Instance]) -> None:
    """As many answers wait as may, of one peer and of all; the next is told off at once, a drain waits for none."""
    peers = WAITING // NEIGHBOURS_WAITING

    async def guess() -> tuple[list[bool], float]:
        access, instance = access_of(load()), make_instance()
        begun = time.monotonic()
        waiting = [
            asyncio.create_task(access.failed(request(peer=f"10.0.0.{peer}"), instance))
            for peer in range(peers + 2)
            for _ in range(FREE + NEIGHBOURS_WAITING + 5)
        ]
        await settled()
        instance.start_draining()
        return await asyncio.gather(*waiting), time.monotonic() - begun

    answers, seconds = asyncio.run(guess())
    assert answers.count(False) == peers * 5 + 2 * (NEIGHBOURS_WAITING + 5)
    assert seconds < 2


def test_too_many_guesses_cost_a_connection(make_instance: Callable[..., Instance]) -> None:
    """What is told off at once is told so on a connection that ends with it; a right token is let in all the same."""

    async def guess() -> list[dict[bytes, bytes]]:
        access, instance, sent = access_of(load()), make_instance(), list[Any]()
        scope = request(authorization="Bearer guess") | {"state": state(access, instance)}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                sent.append(message)

        async def receive() -> Any:
            raise AssertionError

        entrance = Guard(None)  # type: ignore[arg-type]  # nothing comes as far as the application
        waiting = [
            asyncio.create_task(entrance(dict(scope), receive, send)) for _ in range(FREE + NEIGHBOURS_WAITING + 3)
        ]
        await settled()
        assert status(access, request(**BEARER)) == 200
        instance.start_draining()
        await asyncio.gather(*waiting)
        return [dict(message["headers"]) for message in sent if message["status"] == 429]

    refused = asyncio.run(guess())
    assert len(refused) == 3
    assert {headers[b"connection"] for headers in refused} == {b"close"}


def test_a_flood_of_guesses_does_not_fill_the_audit(
    make_instance: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ones of a peer are recorded singly, of all peers not many; then how many more, by peer."""
    monkeypatch.setattr(throttle, "TOLD_EVERY", 0.2)
    instance, told = make_instance(), list[Event]()
    instance.note = told.append

    async def guess() -> None:
        guesses = throttle.Guesses()
        for number in range(2000):
            guesses.record(instance, "10.0.0.9", 40000 + number, "/" + "x" * 7000)
        assert len(told) == TOLD_OF_ONE
        for peer in range(PEERS * 2):
            guesses.record(instance, f"2001:db8:{peer:x}::1", 1, "/")
        assert len(told) == TOLD
        await eventually(lambda: len(told) == TOLD + throttle.MOST_NAMED + 1, "the others are told of")
        guesses.record(instance, "10.0.0.9", 1, "/again")
        guesses.record(instance, "10.0.0.9", 2, "/again")
        guesses.tell(instance)
        guesses.tell(instance)

    asyncio.run(guess())
    assert {event.kind for event in told} == {"login_failed"}
    first = told[TOLD].fields
    assert (first["peer"], first["more"]) == ("10.0.0.9", 2000 - TOLD_OF_ONE)
    assert first["seconds"] >= 0.2
    counted = sum(event.fields.get("more", 1) for event in told)
    assert counted == 2000 + PEERS * 2 + 2
    assert [event.fields.get("path") for event in told[-2:]] == ["/again", "/again"]


def test_a_wrong_token_is_recorded(make_instance: Callable[..., Instance]) -> None:
    """With peer and path, and never with what was offered."""
    scope = request("/diagnostics\nforged line", authorization="Bearer guess-canary-123")
    instance, told = make_instance(), list[Event]()
    instance.note = told.append
    asyncio.run(access_of(load()).failed(scope, instance))
    ((kind, fields),) = [(event.kind, event.fields) for event in told]
    port = scope["client"][1]
    assert (kind, fields) == ("login_failed", {"peer": f"127.0.0.1:{port}", "path": "/diagnostics\nforged line"})
    assert len(told[0].to_text().splitlines()) == 1


# Proxies.


@pytest.mark.parametrize(
    "peer,chain,proto,client,scheme",
    [
        ("10.0.0.2", "203.0.113.7", "https", "203.0.113.7", "https"),
        ("10.0.0.2", "127.0.0.1, 203.0.113.7, 10.0.0.3", "https", "203.0.113.7", "https"),
        ("::ffff:10.0.0.2", "2001:db8::7", "http", "2001:db8::7", "http"),
        ("10.0.0.2", "nonsense", "gopher", "10.0.0.2", "http"),
        ("10.0.0.2", "", "", "10.0.0.2", "http"),
        ("203.0.113.7", "127.0.0.1", "https", "203.0.113.7", "http"),
    ],
)
def test_proxies(peer: str, chain: str, proto: str, client: str, scheme: str) -> None:
    """A trusted proxy says who asks and how, from the near end of its list; anybody else's headers say nothing."""
    access = access_of(load(trusted_proxies="10.0.0.0/24"))
    for one in (request(peer=peer, x_forwarded_for=chain, x_forwarded_proto=proto), None):
        scope = one or websocket(x_forwarded_for=chain, x_forwarded_proto=proto) | {"client": (peer, 1)}
        access.proxies.look_through(scope)
        assert scope["client"][0].removeprefix("::ffff:") == client
        assert scope["scheme"] == (scheme if one else scheme.replace("http", "ws"))


def test_no_proxies() -> None:
    """Without the setting nobody's headers count."""
    scope = request(x_forwarded_for="203.0.113.7", x_forwarded_proto="https")
    access_of(load()).proxies.look_through(scope)
    assert (scope["client"][0], scope["scheme"]) == ("127.0.0.1", "http")


# The document, and docs/threats.md.


def test_openapi_has_every_route() -> None:
    """Each route and method stands in the document, and none that does not exist."""
    routed = {
        (route.path.replace(":path}", "}"), method.lower())
        for route in ROUTES
        for method in getattr(route, "methods", None) or ()
        if method != "HEAD"
    }
    described = {(path, method) for path, methods in APPLICATION.openapi()["paths"].items() for method in methods}
    assert described == routed


def test_the_page_about_the_server_names_every_route() -> None:
    """docs/server.md has each path in its table of routes."""
    table = (ROOT / "docs" / "server.md").read_text(encoding="utf-8").partition("## Routes\n")[2].partition("\n## ")[0]
    named = {
        path.split(" ")[-1] for row in table.splitlines() for path in re.findall(r"`([^`]+)`", row.split(" | ")[0])
    }
    assert named == {path.replace(":path}", "}") for path in OURS}


def test_the_tests_in_the_threat_table_exist() -> None:
    """Each answer in docs/threats.md names the tests that prove it, and they are there."""
    text = (ROOT / "docs" / "threats.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`tests/" in line]
    assert len(rows) >= 40
    for row in rows:
        for named in re.findall(r"`(tests/[^`]+)`", row):
            file, _, test = named.partition("::")
            assert (ROOT / file).exists(), named
            if test:
                assert re.search(
                    rf"^def {re.escape(test)}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE
                ), named


def test_every_subject_has_its_threats() -> None:
    """Each subject of docs/threats.md is there, and each row under it names the test that proves its answer."""
    text = (ROOT / "docs" / "threats.md").read_text(encoding="utf-8")
    subjects = {part.partition("\n")[0]: part for part in text.split("\n## ")[1:]}
    assert "| who | can | cannot |" in subjects.pop("What is protected, and against whom")
    assert set(subjects) == {
        "Secrets", "Who may see what", "Browsers", "Files", "Limits", "Hostile input", "Audit", "The support bundle",
        "Processes and verdicts", "The fleet's database", "The fleet", "The agent",
    }  # fmt: skip
    for subject, part in subjects.items():
        rows = [line for line in part.splitlines() if line.startswith("| ")][2:]
        assert rows, subject
        for row in rows:
            assert re.search(r"\| `tests/[^|]+` \|$", row), row
