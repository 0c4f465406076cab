"""The HTTP client of a request: the authorities that it trusts, and the proxies that egress.py has found."""

from __future__ import annotations

import functools
import os
import ssl
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from preflight.suite.probes import egress
from preflight.suite.probes.egress import CERTIFICATES, KEY_LOG, OWN_PROXY, Fault, Proxy

if TYPE_CHECKING:
    import httpx2


def certificates(environment: Mapping[str, str]) -> ssl.SSLContext:
    """The authorities that the client trusts. Raises Fault if what a variable names cannot be read."""
    for variable in CERTIFICATES:
        path = environment.get(variable)
        if not path:
            continue
        try:
            with _reading:
                return _named(variable, path, _changed(path))
        except OSError as error:  # ssl's own errors as well
            raise Fault(variable, _unreadable(error)) from None
    with _reading:
        return _systems()


_reading = threading.Lock()
"""Questions that are asked at the same time read the certificates once: a bundle takes 50 ms of a processor."""


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:  # a missing folder trusts no authority
        return 0


@functools.cache
def _named(variable: str, path: str, _at: int) -> ssl.SSLContext:
    """The authorities in the file or folder of this variable; ``_at``, its last change, makes it be read again."""
    if variable == "SSL_CERT_FILE":
        return ssl.create_default_context(cafile=path)
    return ssl.create_default_context(capath=path)


@functools.cache
def _systems() -> ssl.SSLContext:
    """The authorities that the system trusts."""
    import httpx2

    return httpx2.create_ssl_context(trust_env=False)


def _unreadable(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "names a file without certificates in it"
    return f"names a file or folder that cannot be read: {error.strerror}"


class Client(NamedTuple):
    """A client of httpx2, and which of the proxies it has used."""

    http: httpx2.Client
    used: list[Proxy]


def build(environment: Mapping[str, str], url: str, timeout: float) -> Client:
    """The client that a request to ``url`` leaves with; ``timeout`` in seconds for each step.

    Raises Fault if there is none.
    """
    import httpx2

    if log := environment.get(KEY_LOG):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).keylog_filename = log
        except OSError as error:
            raise Fault(KEY_LOG, f"names a file that cannot be written: {error.strerror}") from None
    named = egress.routes(environment)
    alone = egress.own_proxy_alone(environment)
    read = () if alone else filter(environment.get, CERTIFICATES)
    secure = [url, *(proxy.url for proxy in named.values() if proxy), *read]
    plain = all(one.lower().startswith(("http://", "socks5")) for one in secure)
    context = egress.unused() if plain else certificates({} if alone else environment)
    used: list[Proxy] = []

    class Through(httpx2.HTTPTransport):
        def __init__(self, proxy: Proxy) -> None:
            self._named = proxy
            own = proxy.variable == OWN_PROXY and not plain
            of_proxy = context if proxy.url.lower().startswith("https://") else None
            wanted = httpx2.Proxy(proxy.url, ssl_context=of_proxy)
            super().__init__(proxy=wanted, verify=_bundled() if own else context)

        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            used.append(self._named)
            return super().handle_request(request)

    mounts: dict[str, httpx2.BaseTransport | None] = {}
    for pattern, proxy in named.items():
        try:
            mounts[pattern] = Through(proxy) if proxy is not None else None
        except ImportError:
            from preflight.installing import install_command

            what = "names a SOCKS proxy, for which the package socksio is not installed"
            raise Fault(proxy.variable if proxy else "", what, install_command(["socksio==1.*"])) from None
        except (httpx2.InvalidURL, ValueError):
            what = "is not the URL of a proxy (http, https, socks5 or socks5h)"
            raise Fault(proxy.variable if proxy else "", what) from None
    return Client(httpx2.Client(mounts=mounts, verify=context, trust_env=False, timeout=timeout), used)


def _bundled() -> ssl.SSLContext:
    """The authorities that langchain-openai trusts behind a proxy of its own variable, whatever else is set."""
    import certifi

    return ssl.create_default_context(cafile=certifi.where())
