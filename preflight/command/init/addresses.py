"""Which service a variable leads to: by the scheme of its value, if that is known, else by the words of its name.

This module shows of a value only its scheme, and whether it leads to a service that a compose file publishes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from preflight.redaction.keys import key_like, words
from preflight.settings.template import is_placeholder

SCHEMES = {
    "postgres": "postgres", "postgresql": "postgres", "redis": "redis", "rediss": "redis", "sqlite": "sqlite",
    "http": "http", "https": "http", "amqp": "tcp", "amqps": "tcp", "mongodb": "tcp", "mysql": "tcp", "mariadb": "tcp",
    "nats": "tcp", "smtp": "tcp",
}  # fmt: skip
"""Which factory asks what a URL of this scheme is about; a driver behind a "+" is not part of it."""
SERVICES = {
    "POSTGRES": "postgres", "POSTGRESQL": "postgres", "PG": "postgres", "REDIS": "redis", "VALKEY": "redis",
    "MYSQL": "tcp", "MARIADB": "tcp", "AMQP": "tcp", "RABBITMQ": "tcp",
    "MONGO": "variable", "MONGODB": "variable", "SQLITE": "variable",
}  # fmt: skip
"""The word before the last one of a name, if it usually means one service, and the factory that asks that service."""
ENDS = {"URL", "URI", "DSN"}
"""The last word of a variable that has an address."""
PATTERN = "[A-Za-z][A-Za-z0-9+.-]*://.+"
"""A regular expression that every URL matches."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9]{1,20})(\+[\w.]{1,30})?://")
_PLACE = re.compile(r"([A-Za-z][\w.-]{0,100}|\d{1,3}(?:\.\d{1,3}){3}):(\d{2,5})")
_IN_MEMORY = re.compile(r"sqlite(?:\+\w{1,30})?:(?://)?(?:/?:memory:|$)|sqlite.{0,300}[?&]mode=memory", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a value leads, as far as it says. Without a scheme, it is not a URL."""

    scheme: str = ""
    factory: str = ""
    """The factory that asks there; empty if it is not known what is there."""
    host: str = field(default="", repr=False)
    port: int | None = field(default=None, repr=False)


def address(value: str) -> Address | None:
    """Where a value leads; None if it does not say: it is empty, a placeholder, or computed elsewhere."""
    value = value.strip()
    if not value or value.startswith(("$", "<", "{")) or is_placeholder(value):
        return None
    found = _URL.match(value)
    if found is None:
        place = _PLACE.fullmatch(value)
        return Address(factory="tcp", host=place[1], port=int(place[2])) if place else Address()
    scheme = found[1].lower()
    factory = SCHEMES.get(scheme, "")
    if found[2] == "+srv" or _IN_MEMORY.match(value):  # no host of that name, and no file
        factory = ""
    try:
        parts = urlsplit(value)
        return Address(scheme, factory, parts.hostname or "", parts.port)
    except ValueError:
        return Address(scheme, factory)


def is_address(name: str) -> bool:
    """Whether a variable of this name has the address of something."""
    return not ENDS.isdisjoint(words(name)[-1:])


def call(name: str, found: Address | None) -> str:
    """The requirement that holds for such a variable, as it is written in Python; empty if nothing is known."""
    if found is None:
        return _call_by_name(name)
    if found.factory and (found.scheme or is_address(name)) and not is_hook(name):
        return f'sqlite(variable="{name}")' if found.factory == "sqlite" else f'{found.factory}("{name}")'
    return _any_url(name) if found.scheme and is_address(name) else ""


def _call_by_name(name: str) -> str:
    if not is_address(name):
        return ""
    before = words(name)[:-1]
    # SHOP_DATABASE_URL may name any database, and mostly names this one; MYSQL_DATABASE_URL says which it is.
    service = before[-1] if before else ""
    if service == "DATABASE":
        factory = next((SERVICES[word] for word in before if word in SERVICES), "postgres")
    else:
        factory = SERVICES.get(service, "variable")
    return _any_url(name) if factory == "variable" else f'{factory}("{name}")'


def _any_url(name: str) -> str:
    # A DSN may be written in another form.
    return f'variable("{name}")' if words(name)[-1] == "DSN" else f'variable("{name}", matches="{PATTERN}")'


def is_hook(name: str) -> bool:
    """Whether the URL itself is the secret: a message about its service would show a part of it."""
    return words(name)[-1:] != ["DSN"] and is_address(name) and key_like(name)
