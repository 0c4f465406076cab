"""Parsers of settings: from what TOML, a variable or an option gives to the setting's type.

They raise ValueError with what is allowed, never with the value: it may be a secret in the wrong place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path


def text(value: object) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a string that is not empty")
    return value.strip()


def host(value: object) -> str:
    """A host name or an IP address."""
    name = text(value)
    if re.search(r"[\s/\[\]@]", name) or (":" in name and name.count(":") == 1) or not name.isprintable():
        raise ValueError("must be a host name or an IP address, without port or brackets")
    return name


def switch(value: object) -> bool:
    """True or false; as a variable also 1, yes, on and their opposites."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in {"1", "true", "yes", "on"}:
        return True
    if isinstance(value, str) and value.strip().lower() in {"", "0", "false", "no", "off"}:
        return False
    raise ValueError("must be true or false")


def whole(low: int, high: int) -> Callable[[object], int]:
    """A whole number in a range, both ends included."""

    def parse(value: object) -> int:
        allowed = f"must be a whole number from {low} to {high}"
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(allowed)
        if isinstance(value, str) and not re.fullmatch(r"\s*[0-9]{1,18}\s*", value):
            raise ValueError(allowed)
        number = int(value)
        if not low <= number <= high:
            raise ValueError(allowed)
        return number

    return parse


def processes(most: int) -> Callable[[object], int]:
    """A number of processes from one to ``most``, or "auto": one for each processor that may be used."""
    number = whole(1, most)

    def parse(value: object) -> int:
        if isinstance(value, str) and value.strip().lower() == "auto":
            from preflight.settings import processors  # only if somebody asks for it

            return min(processors.usable(), most)
        try:
            return number(value)
        except ValueError as error:
            raise ValueError(f'{error}, or "auto" for one for each processor') from None

    return parse


_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "b": 1} | {
    prefix + unit: factor**power
    for power, prefix in enumerate("kmgt", start=1)
    for unit, factor in (("b", 1000), ("ib", 1024))
}


def _quantity(value: object, units: Mapping[str, float], allowed: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(allowed)
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)", str(value).strip())
    if match is None or match[2].lower() not in units:
        raise ValueError(allowed)
    return float(match[1]) * units[match[2].lower()]


def duration(low: float, high: float) -> Callable[[object], float]:
    """Seconds: a number, or a text with a unit ("500ms", "2s", "1m", "30d")."""

    def parse(value: object) -> float:
        allowed = f'must be a time from {low:.15g} to {high:.15g} seconds, such as 2, "2s" or "500ms"'
        seconds = _quantity(value, _SECONDS, allowed)
        if not low <= seconds <= high:
            raise ValueError(allowed)
        return seconds

    return parse


def interval(low: float, high: float) -> Callable[[object], float]:
    """Seconds between two repetitions, as :func:`duration` takes them, or 0 for none."""

    def parse(value: object) -> float:
        allowed = f'must be 0 (off) or a time from {low:.15g} to {high:.15g} seconds, such as "60s" or "5m"'
        seconds = _quantity(value, _SECONDS, allowed)
        if seconds != 0 and not low <= seconds <= high:
            raise ValueError(allowed)
        return seconds

    return parse


def size(value: object) -> int:
    """Bytes: a number, or a text with a unit ("512 MiB", "2 GB")."""
    return int(_quantity(value, _BYTES, 'must be a size, such as "512 MiB" or "2 GB"'))


def limit(value: object) -> int:
    """Bytes as :func:`size` takes them, or 0 (or "off") for no limit."""
    off = value is False or (isinstance(value, str) and value.strip().lower() in {"off", "none"})
    return 0 if off else int(_quantity(value, _BYTES, 'must be a size, such as "512 MiB" or "2 GB", or 0 for no limit'))


def permissions(value: object) -> str:
    """A file's mode in octal digits, as chmod takes it."""
    mode = f"{value:o}" if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(mode, str) or not re.fullmatch(r"\s*(0o)?0{0,4}[0-7]{1,3}\s*", mode):
        raise ValueError('must be permissions in octal digits, such as "0660"')
    return f"{int(mode.strip().removeprefix('0o'), 8):04o}"


def names(value: object) -> tuple[str, ...]:
    """A list of strings; as a variable, separated by commas."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError("must be a list of strings")
    return tuple(part.strip() for part in parts if part.strip())


def parts(value: object) -> tuple[str, ...]:
    """Names of which none is empty, unless all of the value is: what an empty one stood for would be left out."""
    found = names(value)
    given = value.strip().removesuffix(",").split(",") if isinstance(value, str) else value
    if found and isinstance(given, list | tuple) and len(found) < len(given):
        raise ValueError("must be a list of names, none of which is empty")
    return found


def modules(value: object) -> tuple[str, ...]:
    """Names of modules to load; pytest would take one that begins with ``no:`` as one to leave out."""
    found = names(value)
    if not all(re.fullmatch(r"[A-Za-z_][\w.-]*", name) for name in found):
        raise ValueError("must be names of modules, such as mypackage.plugin")
    return found


def urls(value: object) -> tuple[str, ...]:
    """URLs, separated by commas or blanks."""
    found = split_urls(value) if isinstance(value, str) else []
    if not isinstance(value, str) or not all(re.match(r"[A-Za-z][A-Za-z0-9+.-]*://.", url) for url in found):
        raise ValueError("must be URLs (scheme://...), separated by commas or blanks")
    return tuple(found)


def split_urls(text: str) -> list[str]:
    """The URLs in a text; a comma separates only before the next one's scheme, because it may be part of a URL."""
    parts = re.split(r"\s+|,(?=[A-Za-z][A-Za-z0-9+.-]*://)", text)
    return [part.strip(",") for part in parts if part.strip(",")]


def one_of(*allowed: str) -> Callable[[object], str]:
    """One of a few words."""

    def parse(value: object) -> str:
        if value not in allowed:
            raise ValueError("must be one of " + ", ".join(allowed))
        return str(value)

    return parse


_CLAUSE = r"(~=|===?|!=|<=?|>=?)\s*[0-9][0-9A-Za-z.*+!_-]*"


def specifier(value: object) -> str:
    """A PEP 440 specifier, of which only the shape is checked: packaging, which knows more, is too heavy here."""
    if not isinstance(value, str) or not re.fullmatch(rf"\s*{_CLAUSE}\s*(,\s*{_CLAUSE}\s*)*", value):
        raise ValueError('must be a version specifier, such as ">=3.13.8" or ">=3.11,<3.14"')
    return value.strip()


def attribute(value: object) -> str:
    """An attribute of a module, by name: ``module:attribute``."""
    name = text(value)
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", name):
        raise ValueError('must be MODULE:ATTRIBUTE, such as "server.app:create_app"')
    return name


def attributes(value: object) -> tuple[str, ...]:
    """Several attributes of modules; as a variable, separated by commas."""
    try:
        return tuple(attribute(name) for name in names(value))
    except ValueError:
        raise ValueError('must be a list of MODULE:ATTRIBUTE, such as ["my_shop.tables:TABLES"]') from None


def verbs(value: object) -> tuple[str, ...]:
    """Options that stand for functions: NAME=MODULE:ATTRIBUTE each; as a variable, separated by commas."""
    try:
        found = [name.partition("=") for name in names(value)]
        if not all(re.fullmatch(r"[a-z][a-z-]*[a-z]", option) for option, _, _ in found):
            raise ValueError
        return tuple(f"{option}={attribute(function)}" for option, _, function in found)
    except ValueError:
        example = '["import-carts=my_shop.carts:run"]'
        raise ValueError(f"must be a list of OPTION=MODULE:ATTRIBUTE, such as {example}") from None


def request_path(value: object) -> str:
    """The path of an HTTP request; empty for "off"."""
    target = text(value)
    if target.lower() == "off":
        return ""
    if not re.fullmatch(r"/[!-~]{0,1023}", target) or "#" in target:
        raise ValueError('must be a path that begins with "/", such as "/health", or "off"')
    return target


def prefix(value: object) -> str:
    """The path below which something is served, without a slash at its end; empty for "off"."""
    if isinstance(value, str) and value.strip().lower() in ("", "off"):
        return ""
    target = text(value).rstrip("/")
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", target) or {".", ".."} & set(target.split("/")):
        raise ValueError('must be a path of letters, digits, "-", "_", "." and "~", such as "/_preflight", or "off"')
    return target


def path(value: object) -> Path:
    """A path; ``~`` is the home folder, and stays where that is not known: another source may have a path."""
    plain = Path(text(value))
    if plain.parts[:1] == ("~",) and os.environ.get("HOME") == "":
        return plain  # Python takes it for the file system's root
    try:
        return plain.expanduser()
    except RuntimeError:
        return plain


def token(value: object) -> str:
    """A secret that is sent in HTTP headers; the requirement Exposure judges whether it is good."""
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]{1,512}", value.strip()):
        raise ValueError("must be 1 to 512 ASCII letters, digits and punctuation marks, without spaces")
    return value.strip()


def hosts(value: object) -> tuple[str, ...]:
    """Host names or addresses as they stand in a Host header, each with or without a port."""
    found = tuple(name.lower() for name in names(value))
    if not all(re.fullmatch(r"(\[[0-9a-f:.]+\]|[\w.-]+)(:[0-9]{1,5})?", name, re.ASCII) for name in found):
        raise ValueError('must be host names or addresses, such as "agent.example", "agent.example:8443" or "[::1]"')
    return found


def origins(value: object) -> tuple[str, ...]:
    """Origins of web pages as browsers send them."""
    found = tuple(name.lower() for name in names(value))
    if not all(re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#@*]+", name) for name in found):
        raise ValueError('must be origins, such as "https://agent.example", without a path and without wildcards')
    return found


def networks(value: object) -> tuple[str, ...]:
    """IP addresses or networks."""
    import ipaddress  # only if there is one

    found = names(value)
    try:
        return tuple(str(ipaddress.ip_network(name, strict=False)) for name in found)
    except ValueError:
        raise ValueError('must be IP addresses or networks, such as "10.0.0.7" or "10.0.0.0/24"') from None


def peers(value: object) -> tuple[str, ...]:
    """IP addresses or networks of those whose word counts, or ``*`` for everybody who can connect."""
    found = names(value)
    if "*" in found:
        return ("*",)
    try:
        return networks(found)
    except ValueError as error:
        raise ValueError(f'{error}, or "*" for everybody who can connect') from None
