"""Who may see what: decided here, in one pass over a request's headers, before anything else looks at it.

There are three questions, in this order. Does the request ask for a name of this server (Host: a web page whose name
was rebound to this address brings its own)? Does another web page ask (Origin, Sec-Fetch-Site)? And who asks: a client
with the token, or, if there is none and nobody else can reach the server, somebody on this machine? Every path needs a
good answer to all three, except those whose route says otherwise (:class:`preflight.web.routing.Audience`):
``/health``, which says no more than names, and the way in, ``/login``.

Beside another application (an :class:`preflight.web.logins.Admission` says so), no client is trusted for being on this
machine: a proxy in front of the application publishes these routes with it. The application's pages have the same
origin as ours, so scripts in them can use a browser's cookie. There, the cookie alone opens pages and what they load; a
script's request, and anything that changes something, needs the nonce, which only a page that a person has opened gets.

Trust follows the socket's peer, never a header. docs/threats.md has the threats and the tests that prove the answers.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from starlette.types import Scope

from preflight import hostnames
from preflight.settings.model import TOKEN_LENGTH, Settings
from preflight.web.instance import Instance
from preflight.web.logincookies import LoginCookies, ValidLogin
from preflight.web.logins import Admission
from preflight.web.proxies import Proxies
from preflight.web.routing import Audience
from preflight.web.throttle import Guesses, Throttle, neighbourhood

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
TOKEN_PROTOCOL = "preflight.token."  # noqa: S105
"""Before a token, in base64url without padding, among the subprotocols that a WebSocket offers."""
NONCE = b"x-preflight-nonce"
NONCE_PROTOCOL = "preflight.nonce."
"""The nonce of a login: in this header, or after this among the subprotocols that a WebSocket offers."""
LOADED = frozenset({b"document", b"style", b"script", b"image"})
"""What browsers open, or load for a page, and do not show to the scripts of another page (Sec-Fetch-Dest)."""

WATCHED = frozenset(
    {
        b"host", b"origin", b"authorization", b"cookie", b"accept",
        b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest", NONCE,
    }
)  # fmt: skip
ONCE = frozenset({b"host", b"origin", b"authorization", NONCE})
FORWARDING = frozenset(
    {
        b"forwarded", b"via", b"x-real-ip", b"true-client-ip", b"client-ip", b"x-client-ip", b"x-cluster-client-ip",
        b"cf-connecting-ip", b"cf-ray", b"fastly-client-ip", b"x-original-forwarded-for", b"x-envoy-external-address",
        b"x-amzn-trace-id",
    }
)  # fmt: skip


class Denial(NamedTuple):
    """Why a request is not let through."""

    status: int
    error: str
    guessed: bool = False
    """Whether a wrong token came with the request."""
    login: bool = False
    """Whether a person in a browser can log in instead."""


class Access:
    """What one instance's settings allow."""

    def __init__(
        self, settings: Settings, audiences: Mapping[str, Audience], admission: Admission | None = None
    ) -> None:
        """``audiences``: by path, the routes that others than the admitted may ask for.

        ``admission``: what opens the routes beside another application.
        """
        # The page's form ends the login whose cookie it brings, and has no nonce to send.
        self._audiences = audiences if admission is None else {**audiences, "/logout": Audience.VISITORS}
        self._admission = admission
        token = settings.token if admission is None else admission.token
        self.cookies = LoginCookies(token or "", settings.port, admission)
        self.has_token = token is not None
        self.is_token_known = admission is None or not admission.is_made
        """Whether anybody can know the token."""
        # Digests are equally long: comparing them tells nothing about the token's length either.
        self._digest = _digest(token.encode()) if token else b""
        self._for_others = token is not None and len(token) >= TOKEN_LENGTH
        self._trusts_local = token is None and settings.loopback and not settings.trusted_proxies
        self._names = {b"localhost", b"127.0.0.1", b"[::1]", _in_host(settings.host)}
        self._names |= {name.encode() for name in settings.allowed_hosts if _without_port(name)}
        if not settings.loopback:
            # Other machines use these names, and have to bring the token; a page that was rebound to one has none.
            self._names |= {name.encode("utf-8", "surrogateescape") for name in hostnames.own()}
        port = b":%d" % settings.port
        self._hosts = self._names | {name + port for name in self._names}
        self._hosts |= {name.encode() for name in settings.allowed_hosts}
        self._wildcard = hostnames.is_wildcard(settings.host)
        self._origins = frozenset(origin.encode() for origin in settings.allowed_origins)
        self.proxies = Proxies(settings.trusted_proxies)
        self.farewells: set[asyncio.Task[None]] = set()
        """The tasks that close connections whose login has ended."""
        self._throttle = Throttle(key=self._digest)
        self.guesses = Guesses()

    # The decision.

    def denial(self, scope: Scope) -> Denial | None:
        """Why this request must not go on; None if it may."""
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        audience = self._audiences.get(path) if scope["type"] == "http" else None
        if audience is Audience.ANYBODY:
            return None
        headers = _watched(scope["headers"])
        if headers is None:
            return Denial(400, "the request repeats a header that may occur only once")
        host = headers.get(b"host", b"").lower()
        if host not in self._hosts and not self._is_own(host, scope.get("server")):
            return Denial(
                421, "the Host header does not name this server: add the name to PREFLIGHT_ALLOWED_HOSTS to allow it"
            )
        origin = headers.get(b"origin")
        same_origin = origin is not None and origin.lower() in (b"http://" + host, b"https://" + host)
        foreign = origin.lower() not in self._origins if origin is not None else _from_elsewhere(scope, headers)
        if foreign and not same_origin:
            return Denial(
                403, "another web page sent the request: add its origin to PREFLIGHT_ALLOWED_ORIGINS to allow it"
            )
        if audience is Audience.VISITORS:
            return None
        if not self.has_token:
            return self._without_token(scope, headers)
        local = self._admission is None and _is_loopback(scope.get("client"))
        direct = local and not self.proxies and b"forwarded" not in headers
        if not self._for_others and not direct:
            return Denial(
                403, f"the token is too short for clients on other machines: {TOKEN_LENGTH} characters are needed"
            )
        offered = _offered(scope, headers)
        if offered is not None:
            return None if self.is_token(offered) else Denial(401, "the token is wrong", guessed=True)
        browser = scope["type"] == "http" and scope["method"] == "GET" and b"text/html" in headers.get(b"accept", b"")
        login = self.cookies.login(headers.get(b"cookie", b""))
        if login is None:
            return Denial(401, self._needed(scope), login=browser)
        if self._admission is not None and not self._is_from_page(scope, headers, login):
            return Denial(
                403, "the request needs the nonce of the page in addition to the login's cookie: load the page again"
            )
        # A browser sends the cookie with every page's requests, so the page has to be known before anything changes.
        harmless = scope["type"] == "http" and scope["method"] in SAFE and origin is None
        if not same_origin and not harmless:
            return Denial(403, "with the login's cookie, only pages of this server may send this request")
        return None

    def _needed(self, scope: Scope) -> str:
        if not self.is_token_known:
            return "a login is needed: open the link that the start has printed, or set PREFLIGHT_TOKEN"
        return f"a token is needed: Authorization: Bearer ..., or log in at {scope.get('root_path', '')}/login"

    def _is_from_page(self, scope: Scope, headers: Mapping[bytes, bytes], login: ValidLogin) -> bool:
        """Whether a person has opened this, or a page of ours asks for it, and no other page of the same origin."""
        destination = headers.get(b"sec-fetch-dest")
        safe = scope["type"] == "http" and scope["method"] in SAFE
        if safe and (destination is None or destination in LOADED):
            return True
        offered = headers.get(NONCE, b"").decode("latin-1")
        for name in scope.get("subprotocols", ()):
            if name.startswith(NONCE_PROTOCOL):
                offered = name.removeprefix(NONCE_PROTOCOL)
        return hmac.compare_digest(_digest(offered.encode("latin-1")), _digest(self.cookies.nonce(login).encode()))

    def _without_token(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Denial | None:
        if not self._trusts_local or not _is_loopback(scope.get("client")):
            return Denial(403, "no token is set, so only this machine is served: set PREFLIGHT_TOKEN")
        if b"forwarded" in headers:
            return Denial(403, "no token is set, and the request came through a proxy: set PREFLIGHT_TOKEN")
        return None

    def _is_own(self, host: bytes, server: tuple[str, int | None] | None) -> bool:
        """Whether ``host`` is the address or the port that this very connection came to.

        A server that is not ours may have bound another port than the settings have.
        """
        if server is None or server[1] is None:
            return False
        name = host.removesuffix(b":%d" % server[1])
        return name in self._names or (self._wildcard and name == _in_host(server[0].removeprefix("::ffff:")))

    # Proofs.

    def is_token(self, offered: bytes) -> bool:
        """Whether this is the token; takes the same time whatever it is."""
        return hmac.compare_digest(_digest(offered), self._digest)

    def spend(self, code: str) -> bool:
        """Whether this is the one-time code of the start; it counts for the first time only."""
        return self._admission is not None and self._admission.logins.spend(code)

    def nonce(self, scope: Scope) -> str:
        """The nonce for a page that a person has opened with a login's cookie; empty for everything else.

        A script of another page of this origin gets none: browsers say of whatever it fetches that it is no document,
        and a window that it opens is out of its reach (Cross-Origin-Opener-Policy), as frames are.
        """
        headers = _watched(scope["headers"]) or {}
        login = self.cookies.login(headers.get(b"cookie", b""))
        opened = headers.get(b"sec-fetch-dest", b"document") == b"document"
        return self.cookies.nonce(login) if self._admission is not None and login is not None and opened else ""

    @contextlib.contextmanager
    def connection(self, scope: Scope, close: Callable[[], object]) -> Iterator[None]:
        """Call ``close`` if the login that has opened this connection ends while the connection is open."""
        headers = _watched(scope["headers"]) or {}
        login = self.cookies.login(headers.get(b"cookie", b"")) if self.has_token else None
        if login is None or _offered(scope, headers) is not None:
            yield  # the token opened it, or nothing was needed
            return
        with self.cookies.opened(login, close):
            yield

    # Wrong tokens.

    async def failed(self, scope: Scope, instance: Instance) -> bool:
        """Record who offered a wrong token, and wait, longer each time.

        Returns False if too many wait already: this one is to be refused at once.
        """
        peer, port = scope["client"] if scope.get("client") else ("unknown", 0)
        # The whole path: it is cut where it is written, after it has been redacted.
        self.guesses.record(instance, peer, port, scope["path"])
        who = neighbourhood(peer)
        delay = self._throttle.failed(instance.board, who, time.monotonic())
        if not delay:
            return True
        with self._throttle.place(who) as found:
            if found:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(instance.drained(), delay)  # nobody waits for it when the server stops
            return found


# What a request contains.


def _watched(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes] | None:
    """The headers that decide; None if one of them comes twice that may come only once.

    ``forwarded`` is among them if a proxy says, in whatever header, that the request came through it.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        name = name.lower()  # ASGI says that they are; access control does not rely on it
        if name in WATCHED:
            if name in found:
                if name in ONCE:
                    return None
                value = found[name] + b"; " + value
            found[name] = value
        elif name in FORWARDING or name.startswith(b"x-forwarded"):
            found[b"forwarded"] = value
    return found


def _from_elsewhere(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser says that another site's page asks, unless a person followed its link."""
    if headers.get(b"sec-fetch-site", b"none") in (b"same-origin", b"none"):
        return False
    followed = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") == b"document"
    return not (followed and scope["type"] == "http" and scope["method"] == "GET")


def _offered(scope: Scope, headers: Mapping[bytes, bytes]) -> bytes | None:
    """The token that came in the Authorization header or, from a WebSocket, among its subprotocols."""
    scheme, _, value = headers.get(b"authorization", b"").strip().partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    for name in scope.get("subprotocols", ()):
        if name.startswith(TOKEN_PROTOCOL):
            encoded = name.removeprefix(TOKEN_PROTOCOL).rstrip("=")
            try:
                return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
            except ValueError:
                return b""
    return None


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _is_loopback(client: tuple[str, int] | None) -> bool:
    # The kernel's own text of the socket's peer. None: it is not known, for example on a Unix socket.
    return client is not None and (client[0] == "::1" or client[0].removeprefix("::ffff:").startswith("127."))


def _in_host(address: str) -> bytes:
    """An address as it stands in a Host header."""
    return (f"[{address}]" if ":" in address else address).lower().encode("utf-8", "surrogateescape")


def _without_port(host: str) -> bool:
    return host.endswith("]") or ":" not in host
