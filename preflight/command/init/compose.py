"""The services of a compose file: what each runs, which of its ports this machine can reach, and its variables.

The part of YAML that most compose files use is understood: mappings and lists in blocks, plain and quoted texts, and
lists and mappings of those in one line. The rest is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

KEY = re.compile(r"(\"[^\"]{1,200}\"|'[^']{1,200}'|[^\s\"'#\[{\-][^:#]{0,200}?)\s{0,8}:(?:\s+|$)")
DEFAULT = re.compile(r"\$\{(\w{1,80}):?-([^${}]{0,200})\}")
PORTS = re.compile(
    r"(?:(?P<host>\[[0-9a-fA-F:]{2,40}\]|[\w.-]{1,100}):)?"
    r"(?P<published>\d{1,5}(?:-\d{1,5})?):(?P<target>\d{1,5}(?:-\d{1,5})?)(?:/(?P<protocol>\w{1,10}))?"
)
LONGEST = 100  # ports of a range
EVERYWHERE = {"", "0.0.0.0", "::", "[::]", "*"}


class ComposeValue(NamedTuple):
    """A text of the file, with the keys and the places in lists that lead to it."""

    path: tuple[str | int, ...]
    value: str
    line: int


class Port(NamedTuple):
    """Where this machine reaches a port of a container."""

    host: str
    published: int
    target: int


@dataclass(slots=True)
class Service:
    """What runs under a name."""

    name: str
    line: int = 0
    """The line that says what runs."""
    image: str = ""
    """The last part of the image's name: "postgres" of ``docker.io/library/postgres:16``."""
    is_built: bool = False
    """Whether the project's own code runs there."""
    ports: list[Port] = field(default_factory=list)
    variables: list[tuple[str, str, int]] = field(default_factory=list)
    """Name, value and line."""


def services(text: str, given: set[str]) -> list[Service]:
    """The services of a file. ``given`` are variables that have a value elsewhere than by default in this file."""
    found: dict[str, Service] = {}
    long_ports: dict[tuple[str, str | int], dict[str, str]] = {}
    for path, value, line in _entries(text):
        if len(path) < 3 or path[0] != "services" or not isinstance(path[1], str):
            continue
        service = found.setdefault(path[1], Service(path[1]))
        match path[2:]:
            case ("image",):
                service.image, service.line = value.rpartition("/")[2].partition(":")[0].partition("@")[0], line
            case ("build", *_):
                service.is_built = True
            case ("environment", str(name)):
                service.variables.append((name, value, line))
            case ("environment", int()) if "=" in value:
                name, _, value = value.partition("=")
                service.variables.append((name, value, line))
            case ("ports", int()):
                service.ports += _short(_substituted(value, given))
            case ("ports", int() as number, str(key)):
                long_ports.setdefault((path[1], number), {})[key] = _substituted(value, given)
    for (name, _), port in long_ports.items():
        if {"published", "target"} <= port.keys():
            pair = f"{port['published']}:{port['target']}/{port.get('protocol', 'tcp')}"
            found[name].ports += _short(pair, port.get("host_ip", ""))
    return list(found.values())


def _substituted(value: str, given: set[str]) -> str:
    """The value with the defaults of its variables, if nobody gives them another value."""
    return DEFAULT.sub(lambda match: match[0] if match[1] in given else match[2], value)


def _short(text: str, host: str = "") -> Iterator[Port]:
    """``[HOST:]PUBLISHED:TARGET[/PROTOCOL]``. A port that is chosen anew each time, and one of UDP, are left out."""
    match = PORTS.fullmatch(text)
    if match is None or (match["protocol"] or "tcp") != "tcp":
        return
    published, targets = _range(match["published"]), _range(match["target"])
    if len(published) == len(targets):
        host = match["host"] or host
        for one, target in zip(published, targets, strict=True):
            yield Port("127.0.0.1" if host in EVERYWHERE else host, one, target)


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), min(int(last or first), int(first) + LONGEST, 65_535) + 1)


# YAML.


class _Level(NamedTuple):
    column: int
    key: str | int


def _entries(text: str) -> Iterator[ComposeValue]:
    """Every text of a document, in the order of the lines."""
    levels: list[_Level] = []
    counts: dict[tuple[str | int, ...], int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        rest = line.strip()
        column = len(line) - len(line.lstrip())
        if not rest or rest.startswith(("#", "---", "...", "%")):
            continue
        while rest == "-" or rest.startswith("- "):
            # A list may stand in the column of the key that it belongs to.
            while levels and (
                levels[-1].column > column or (levels[-1].column == column and isinstance(levels[-1].key, int))
            ):
                levels.pop()
            of = tuple(level.key for level in levels)
            counts[of] = counts.get(of, -1) + 1
            levels.append(_Level(column, counts[of]))
            inner = rest[1:].lstrip()
            column += len(rest) - len(inner)
            rest = inner
        if match := KEY.match(rest):
            while levels and levels[-1].column >= column:
                levels.pop()
            levels.append(_Level(column, match[1].strip("\"'")))
            rest = rest[match.end() :]
        yield from _values(tuple(level.key for level in levels), rest, number)


def _values(path: tuple[str | int, ...], text: str, line: int) -> Iterator[ComposeValue]:
    """A text, or those of a list or a mapping in one line."""
    if text[:1] in ("[", "{"):
        for number, part in enumerate(text.strip("[]{} ").split(",")):
            key = KEY.match(part.strip()) if text[0] == "{" else None
            value = _scalar(part.strip()[key.end() :] if key else part.strip())
            yield ComposeValue((*path, key[1].strip("\"'") if key else number), value, line)
    elif value := _scalar(text):
        yield ComposeValue(path, value, line)


def _scalar(text: str) -> str:
    """A plain or quoted text, without the comment behind it."""
    if text[:1] in ('"', "'"):
        return text[1:].partition(text[0])[0]
    return re.split(r"(?:^|\s)#", text, maxsplit=1)[0].strip()
