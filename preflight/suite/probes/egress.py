"""How a request leaves this machine: its headers, its proxy and its certificates, as the agent's client has them.

The agent asks with langchain-openai, which uses openai's client, which uses httpx2. The first two take most of a second
to import, so they are not imported here: this module repeats what they read from the environment, as openai 3 and
langchain-openai 1.7 do it, and tests/test_egress.py asks the same servers with both. httpx2 takes less than a tenth of
that time, and decides here as it does there.

The environment is a value: the application's, including the variables of the env file, and never this process's own.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

ORGANIZATION = ("OPENAI_ORG_ID", "OPENAI_ORGANIZATION")
PROJECT = "OPENAI_PROJECT_ID"
HEADERS = "OPENAI_CUSTOM_HEADERS"
OWN_PROXY = "OPENAI_PROXY"
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
KEY_LOG = "SSLKEYLOGFILE"
_CONTROLS = {"\0": "NULL", "\t": "TAB", "\n": "LINE FEED", "\r": "CARRIAGE RETURN", "\x1b": "ESCAPE", "\x7f": "DELETE"}


class Fault(ValueError):
    """The client cannot be built, or cannot send anything: certain, and without asking anybody.

    ``variable`` is the one at fault. The message says what is wrong with it and never what it holds; ``fix`` is
    empty if setting the variable right is all that can be done.
    """

    def __init__(self, variable: str, what: str, fix: str = "") -> None:
        super().__init__(f"{variable} {what}" if variable else what)
        self.variable = variable
        self.what = what
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and the variable that names it; none if it is the system's setting (macOS)."""

    variable: str
    url: str = field(repr=False)

    @property
    def has_login(self) -> bool:
        return "@" in self.url.partition("://")[2].partition("/")[0]

    @property
    def shown(self) -> str:
        """Its address without user and password, and where it comes from: ``http://10.0.0.7:3128 (HTTPS_PROXY)``."""
        scheme, mark, rest = self.url.partition("://")
        if not mark:
            scheme, rest = "", self.url
        # A password may have a slash in it that nobody has encoded: up to the last "@".
        host = rest.rpartition("@")[2].partition("/")[0].partition("?")[0]
        return f"{scheme}{mark}{host} ({self.variable or 'set in the system'})"


def unsendable(value: str, *, alone: bool = True) -> str:
    """The first character of a header's value that HTTP does not allow there, and its place; empty if there is none.

    RFC 9110, 5.5; beyond ASCII the client's library refuses everything, and white space at either end as well. A key
    is not ``alone``: "Bearer" stands before it.
    """
    for number, character in enumerate(value, start=1):
        last = number == len(value)
        outermost = last or (alone and number == 1)
        if " " <= character <= "~" and not (outermost and character == " "):
            continue
        if character == "\t" and not outermost:
            continue
        place = "last character" if last and number > 1 else f"character {number}"
        return f"its {place} is U+{ord(character):04X} ({_name(character)})"
    return ""


def _name(character: str) -> str:
    import unicodedata  # only when something is wrong

    return _CONTROLS[character] if character in _CONTROLS else unicodedata.name(character, "a control character")


def headers(environment: Mapping[str, str], key: str | None) -> dict[str, str]:
    """What the client puts into each request. Raises Fault if HTTP does not allow it."""
    sent = {"Accept": "application/json", "User-Agent": f"AsyncOpenAI/Python {_version()}"}
    if key:
        sent["Authorization"] = f"Bearer {key}"
        if unsendable(key, alone=False):
            raise Fault("", "the key has characters that no HTTP header can carry")
    for name, variables in (("OpenAI-Organization", ORGANIZATION), ("OpenAI-Project", (PROJECT,))):
        present = [variable for variable in variables if variable in environment]
        if not present:
            continue
        variable = next((variable for variable in present if environment[variable]), present[0])
        sent[name] = environment[variable]
        if wrong := unsendable(environment[variable]):
            raise Fault(variable, f"has a character that no HTTP header can carry: {wrong}")
    own = {header.lower(): header for header in sent}
    for line in environment.get(HEADERS, "").split("\n"):
        header, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            continue
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", header):  # RFC 9110, 5.6.2
            raise Fault(HEADERS, "has a line that does not begin with the name of a header")
        if wrong := unsendable(value):
            raise Fault(HEADERS, f"has a value that no HTTP header can carry: {wrong}")
        sent.pop(own.get(header.lower(), ""), None)
        own[header.lower()] = header
        sent[header] = value
    return sent


def _version() -> str:
    try:
        return importlib.metadata.version("openai")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def named_proxies(environment: Mapping[str, str]) -> dict[str, Proxy]:
    """The proxies by scheme, with "all" and, for the hosts that need none, "no".

    Like urllib.request.getproxies, for a mapping: names in small letters win, and such a name without a value removes
    the proxy.
    """
    found: dict[str, Proxy] = {}
    variables = [(name, value) for name, value in environment.items() if name.lower().endswith("_proxy")]
    for name, value in variables:
        if value:
            found[name[:-6].lower()] = Proxy(name, value)
    if "REQUEST_METHOD" in environment:  # CGI, where a client's header "Proxy" would become HTTP_PROXY
        found.pop("http", None)
    for name, value in variables:
        if name.endswith("_proxy") and value:
            found[name[:-6].lower()] = Proxy(name, value)
        elif name.endswith("_proxy"):
            found.pop(name[:-6].lower(), None)
    if not found and sys.platform == "darwin":
        import urllib.request

        configured = urllib.request.getproxies_macosx_sysconf()
        found = {scheme: Proxy("", url) for scheme, url in configured.items()}
    return found


def routes(environment: Mapping[str, str]) -> dict[str, Proxy | None]:
    """Patterns of URLs as httpx2's ``mounts`` have them, and the proxy for each; None: directly."""
    own = environment.get(OWN_PROXY)
    if own and own_proxy_alone(environment):
        return {"all://": Proxy(OWN_PROXY, own)}  # the proxy takes everything, and no other variable counts
    found: dict[str, Proxy | None] = {}
    named = named_proxies(environment)
    direct = [host.strip() for host in named["no"].url.split(",")] if "no" in named else []
    if "*" not in direct:
        for scheme in ("http", "https", "all"):
            if proxy := named.get(scheme):
                url = proxy.url if "://" in proxy.url else f"http://{proxy.url}"
                found[f"{scheme}://"] = Proxy(proxy.variable, url)
        found |= {pattern: None for host in direct if (pattern := _pattern(host)) and _is_pattern(pattern)}
    if own:
        # It stands behind all others: a pattern with a scheme or a host comes first.
        found["all://"] = Proxy(OWN_PROXY, own)
    return found


def own_proxy_alone(environment: Mapping[str, str]) -> bool:
    """Whether the client has its own proxy and nothing else: no other proxy counts then, and no certificates."""
    return bool(environment.get(OWN_PROXY)) and environment.get("LANGCHAIN_OPENAI_TCP_KEEPALIVE", "1") == "0"


def _pattern(host: str) -> str:
    """An entry of NO_PROXY as a pattern of URLs: httpx2's ``get_environment_proxies``."""
    from ipaddress import IPv4Address, IPv6Address

    def is_address(kind: Callable[[str], object]) -> bool:
        try:
            kind(host.split("/")[0])
        except ValueError:
            return False
        return True

    if not host or "://" in host:
        return host
    if is_address(IPv6Address):
        address, slash, subnet = host.partition("/")
        return f"all://[{address}]{slash}{subnet}"
    if is_address(IPv4Address) or host.lower() == "localhost" or host.startswith("["):
        return f"all://{host}"
    if "/" in host:
        return ""
    return f"all://{host}" if host.startswith("*.") else f"all://*{host}"


def _is_pattern(text: str) -> bool:
    import httpx2

    try:
        httpx2.Client(mounts={text: None}, verify=unused(), trust_env=False).close()
    except (httpx2.InvalidURL, ValueError):
        return False
    return True


@functools.cache
def unused() -> ssl.SSLContext:
    """Trusts nobody: for clients that ask nobody, or without TLS."""
    import ssl  # most runs ask nobody

    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
