"""The cookie of a login: how it is made, when it is valid, and what ends with it.

It contains its expiry and a random name, signed with a key from the token: a new token ends every login, a restart
ends none.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from starlette.types import Scope

from preflight.web.logins import Admission

LASTS = 12 * 3600  # seconds that a login lasts
REVOKED = 10_000  # ended logins that are remembered until they would have expired


class ValidLogin(NamedTuple):
    """The login of a valid cookie."""

    name: str
    expires: int
    """When, in seconds since 1970."""


class LoginCookies:
    """The login cookies of one instance."""

    def __init__(self, token: str, port: int, admission: Admission | None = None) -> None:
        """``token`` is empty if there is none; ``admission`` is there beside another application."""
        self._key = hmac.digest(token.encode(), b"preflight: sessions of the login form", "sha256")
        self._admission = admission
        # Cookies know no ports: two instances on one machine must not overwrite each other's.
        self._port = port
        self._name = f"preflight_{port}" + ("" if admission is None else "_beside")
        self._revoked: OrderedDict[str, int] = OrderedDict()
        self._connections: dict[str, set[Callable[[], object]]] = {}
        self.on_ended: Callable[[str, int], object] = lambda _name, _expires: None
        """Called with each login that is ended here, and when it would have expired."""

    def moved_to(self, port: int) -> None:
        """Take the port that the server has bound after all: it tells the cookies of two servers of a machine apart."""
        self._name = self._name.replace(f"preflight_{self._port}", f"preflight_{port}", 1)
        self._port = port

    def new(self) -> str:
        """The value of a new login's cookie. The token is not in it."""
        content = f"{int(time.time()) + LASTS}.{secrets.token_urlsafe(12)}"
        return f"{content}.{self._signature(content)}"

    def headers(self, value: str, scope: Scope) -> tuple[str, str]:
        """Two Set-Cookie headers: the login's, and one that tells the page's scripts that there is a login to end.

        The second proves nothing, and nothing here reads it. An empty value removes both.
        """
        secure = "; Secure" if scope["scheme"] == "https" else ""
        path = "/" if self._admission is None else scope["root_path"]
        rules = f"Path={path}; Max-Age={LASTS if value else 0}; SameSite=Strict{secure}"
        sign = "1" if value else ""
        return f"{self._name}={value}; HttpOnly; {rules}", f"{self._name}_login={sign}; {rules}"

    def login(self, cookies: bytes) -> ValidLogin | None:
        """The login that a request's cookies stand for, if it has neither expired nor been ended."""
        for part in cookies.decode("latin-1").split(";"):
            name, _, value = part.strip().partition("=")
            content, _, signature = value.rpartition(".")
            if name != self._name or not hmac.compare_digest(
                signature.encode("latin-1"), self._signature(content).encode()
            ):
                continue
            expires, _, login = content.partition(".")
            if int(expires) > time.time() and login not in self._revoked and not self._has_ended(login):
                return ValidLogin(login, int(expires))
        return None

    def _has_ended(self, name: str) -> bool:
        return self._admission is not None and self._admission.logins.has_ended(name)

    def _signature(self, content: str) -> str:
        return hmac.new(self._key, content.encode("latin-1"), "sha256").hexdigest()

    def nonce(self, login: ValidLogin) -> str:
        """The nonce of a page that a person has opened with this login."""
        return hmac.new(self._key, b"nonce of " + login.name.encode("latin-1"), "sha256").hexdigest()

    def end(self, cookies: bytes) -> None:
        """Revoke a login's cookie, for as long as this instance serves; what it has opened is closed."""
        login = self.login(cookies)
        if login is not None:
            self.revoke(*login)  # here first, whatever becomes of it elsewhere
            self.on_ended(*login)
            if self._admission is not None:
                self._admission.logins.end(login.name)

    def revoke(self, session: str, expires: int) -> None:
        """Revoke a login in this process; what it has opened is closed."""
        self._revoked[session] = expires
        if len(self._revoked) > REVOKED:
            self._revoked.popitem(last=False)
        for close in list(self._connections.get(session, ())):
            close()

    @contextlib.contextmanager
    def opened(self, login: ValidLogin, close: Callable[[], object]) -> Iterator[None]:
        """Call ``close`` if the login ends while a connection is open that it has opened."""
        end = asyncio.get_running_loop().call_later(login.expires - time.time(), close)
        self._connections.setdefault(login.name, set()).add(close)
        try:
            yield
        finally:
            end.cancel()
            self._connections[login.name].discard(close)
            if not self._connections[login.name]:
                del self._connections[login.name]
