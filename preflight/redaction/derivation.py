"""What an application derives from a secret: the parts of a value that it prints, sends or logs by themselves.

A variable holds several keys in a list, a token behind its scheme, a login in a URL, fields of JSON, a cookie, a key
with quotes or escapes around it, all that in base64 once more. A search for the whole value finds none of these parts.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any
from urllib.parse import unquote, unquote_plus

from preflight.patterns import lazy
from preflight.redaction.keys import (
    ABOUT,
    LOGIN,
    MOST,
    NOTIFY,
    PAIR,
    SECRET_WORDS,
    common,
    key_like,
    secret_field,
    words,
)

SHORTEST = 12  # characters of a part; a shorter one occurs in too many harmless texts
LARGEST = 256 * 1024  # characters of all parts of one value together, as `cost` counts them
LOOKED_AT = 4 * 1024 * 1024  # characters that are taken apart for one value, all its parts together
DEPTH = 6  # of parts within parts: a password in a URL in JSON in base64 in a list

# Fields with these names say where or what something is: their values are secrets only if they look like secrets.
_PLACES = ABOUT | {
    "DATABASE", "DB", "DBNAME", "EMAIL", "ENDPOINT", "EXPIRES", "HOST", "HOSTNAME", "MODEL", "PORT", "REGION", "SERVER",
    "SSLMODE", "VERSION",
}  # fmt: skip
_MAY_HOLD = lazy(r"://|[{\[]|basic|session|:[^\s:@]{1,512}@|-(?:u|user)[ =]", re.IGNORECASE)
_SEPARATORS = tuple(map(lazy, (r",", r";", r"\|", r"&", r"[\r\n]+", r"\s+")))
_VARIABLE = lazy(r"\$\{\w{1,64}(?:\}|:?[-=?+])|\}")  # of a shell or an env file: "${KEY:-X}", "${KIND}X"
_BRACKETS = {"[": "]", "(": ")", "{": "}", "<": ">"}
_PGPASS = lazy(r"[^\s:]{1,255}:(?:\*|[0-9]{1,5}):[^\s:]{1,64}:[^\s:]{1,64}:(\S.*)")
_FIELD = lazy(r"[\"']?([\w.-]{1,64}(?: [\w.-]{1,64})?)[\"']?\s{0,8}([=:])(?!//)\s{0,8}", re.ASCII)
_SCHEME = lazy(r"(?:[A-Z][A-Za-z0-9_-]{1,24}|bearer|basic|digest|token|key|apikey|api-key)\s{1,8}")
_QUOTED = lazy(
    r"(?:(?<![\w.-])([\w.-]{1,64})[\"']?\s?[=:]\s?)?"
    r"(?:\"{3}(?!\")(.{1,4096}?)\"{3}|'{3}(?!')(.{1,4096}?)'{3}"
    r"|\"((?:[^\"\\]|\\.){1,4096}|[^\"]{1,4096})\"|'((?:[^'\\]|\\.){1,4096}|[^']{1,4096})')",
    re.DOTALL,
)
# Options with their values, words of a netrc: "--password X", "password X"; and assignments wherever they stand.
_OPTION = lazy(r"(?<!\S)-{0,2}([\w.-]{1,64})(?=\s{1,8}(\S{12,4096}))", re.ASCII)
_USERS = ("u", "user", "proxy-user")
_ASSIGNED = lazy(r"(?<![\w.-])([\w.-]{1,64})=(\S{12,4096})", re.ASCII)
# What stands in brackets or braces behind a name: lists and tables of Python, JavaScript, TOML and YAML.
_GATHERED = lazy(r"[=:]\s{0,8}[\[({]([^\[\](){}]{12,4096})[\])}]")
_BEFORE = lazy(r"([\w.-]{1,64})[\"']?\s{0,8}\Z", re.ASCII)
_LINE = lazy(r"([ ]{0,200}(?:- {1,8})?)([\w.-]{1,64}|\"[^\"]{1,64}\"|'[^']{1,64}')\s{0,8}:(?:\s+(.*))?")
_BLOCK = lazy(r"[|>][+-]?[0-9]?")
_SECTION = lazy(r"\[{1,2}\s{0,8}([\w.\"' -]{1,64})\]{1,2}(?:\s{1,80}[#;].*)?")  # of TOML, of an INI file
_REMARK = lazy(r"\s[#;]\s")
_ELEMENT = lazy(r"<([\w.-]{1,64})>([^<>]{12,4096})</", re.ASCII)
# Keys that consist of several: header, payload and signature, an identifier and its secret, a method and its hash.
_COMPOUND = lazy(r"[\w+/~.#@$!^*-]{16,16384}={0,2}", re.ASCII)
_BETWEEN = lazy(r"[.#@$!^*]+")
_ESCAPE = lazy(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "0": "\0"}
_BASE64 = lazy(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = lazy(r"(?:[0-9a-fA-F]{2}){12,}")
_RUN = lazy(r"[A-Za-z0-9]{8,}")

_SIGN = lazy(r"[^A-Za-z0-9_]")
_NO_TEXT = lazy(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f\udc80-\udcff]")

_IN_TEXTS = SECRET_WORDS - {"HOOK", "PIN", "SEED", "SIGNATURE"}
"""The words for which a value is taken apart. Of the others, a text has too many that are none: ``random_seed=...``."""
Part = tuple[str, bool, bool]
"""A part of a value, whether it is a secret, and whether only because it looks like one."""


def decoded(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that hold a text in base64 or in hexadecimal digits, with that text: a file, a configuration."""
    texts = {
        name: next(_decoded("".join(value.split())), "")
        for name, value in variables.items()
        if len(value) >= 2 * SHORTEST and not key_like(name)
    }
    return {name: text for name, text in texts.items() if text}


def derived(*environments: Mapping[str, str]) -> Iterator[str]:
    """The secrets in the values of variables whose names are not those of secrets."""
    for variables in environments:
        for name, value in variables.items():
            if name == NOTIFY or key_like(name):
                continue
            if words(name)[-1:] == ["HEADERS"]:  # "x-honeycomb-team=..." has no name like that of a secret
                yield from filter(_random, members(value))
            elif _MAY_HOLD.search(value) or _names_secret(value.upper()):
                yield from members(value, secret=False)


def _names_secret(capitals: str) -> bool:
    return any(word in capitals for word in _IN_TEXTS)


def members(value: str, *, secret: bool = True) -> Iterator[str]:
    """The parts of a value that are secrets by themselves: of `SHORTEST` characters or more.

    The first `MOST` of them, and no more than `LARGEST` characters together: each takes memory, and time of every text.
    ``secret``: the value as a whole is one. If it is not, only fields with names of secrets and logins in URLs are.
    """
    if len(_NO_TEXT.findall(value)) > len(value) // 16:
        return  # bytes that are not text have no parts
    seen: set[Part] = set()
    found, room, left = 0, LARGEST, LOOKED_AT
    queue: deque[tuple[str, bool, int]] = deque([(value.strip(), secret, 0)])
    while queue:
        text, inherited, depth = queue.popleft()
        left -= len(text)
        if left < 0:
            return
        for written, is_secret, by_looks in _parts(text, inherited):
            part = written.strip()
            known = (part, is_secret, by_looks)
            if len(part) < SHORTEST or part == text or known in seen:
                continue
            seen.add(known)
            # A cost is no less than the length, which is known already.
            counts = is_secret and len(part) <= room and cost(part) <= room
            if counts and not _harmless(part) and (not by_looks or _random(part)):
                yield part
                found, room = found + 1, room - cost(part)
            if found == MOST or len(seen) > 8 * MOST:
                return
            if depth < DEPTH:
                queue.append((part, is_secret and not by_looks, depth + 1))


def cost(part: str) -> int:
    """The cost of a part in characters: a sign is searched for in each of the ways to write it, a letter in one."""
    return len(part) + 96 * len(_SIGN.findall(part))


def _harmless(part: str) -> bool:
    return common(part) or _is_field(part)


def _is_field(part: str) -> bool:
    """Whether it is a name with a value that is a part by itself, or with one that is harmless: ``SameSite=Strict``."""
    found = _FIELD.match(part)
    if found is None or found[2] != "=":
        return False
    name, value = found[1], part[found.end() :]
    if not value.strip("="):
        return not _random(part)  # base64 ends with such signs
    if len(value) >= SHORTEST:
        return True
    mixed = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    return not secret_field(name, value) and (_is_place(name) or (common(value) and not mixed))


def _is_place(name: str) -> bool:
    last = words(name)[-2:]
    return bool(_PLACES & set(last[-1:])) or last in (["CLIENT", "ID"], ["PROJECT", "ID"])


def _random(part: str) -> bool:
    """Whether a text has letters and digits in one word, like texts that a machine has made."""
    return any(any(map(str.isdigit, run)) and any(map(str.isalpha, run)) for run in _RUN.findall(part))


def _parts(text: str, secret: bool) -> Iterator[Part]:
    """What a text consists of, in every way in which it may be read."""
    if text[:1] in ("{", "[", '"'):
        try:
            yield from _leaves(json.loads(text), secret)
            return
        except (ValueError, RecursionError):
            pass  # something else that begins like it
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`":
        yield text[1:-1], secret, False
    if len(text) > 1 and text[-1] == _BRACKETS.get(text[0]):
        yield text[1:-1], secret, False
    for name, *contents in _quoted(text):
        yield _of_field(name, "".join(contents), secret)
    if "\\" in text:
        yield _unescaped(text), secret, False
    if "${" in text:
        yield from ((part, secret, True) for part in _split(_VARIABLE, text))
    if "%" in text:
        yield unquote(text), secret, False
        yield unquote_plus(text), secret, False
    if "://" in text:
        yield from _of_url(text, secret)
    elif login := LOGIN.match(text):
        yield login[1], True, not secret
    if secret and (line := _PGPASS.fullmatch(text)):
        yield line[1], True, False
    if found := _FIELD.match(text):
        yield _of_field(found[1], text[found.end() :], secret)
        if secret and found[2] == ":":  # two of a pair: an identifier and its secret
            yield found[1], secret, True
    elif secret and ":" in text and "://" not in text:
        yield text.partition(":")[2], secret, False
    if found := _SCHEME.match(text):
        yield text[found.end() :], secret, False
    yield from _named(text)
    if secret and _BETWEEN.search(text) and _COMPOUND.fullmatch(text):
        yield from ((part, True, True) for part in islice(_BETWEEN.split(text), MOST))
    for separator in _SEPARATORS:
        if separator.search(text):
            # One by one: there may be very many, and only the first are taken.
            yield from ((part, secret, False) for part in _split(separator, text))
    if secret:
        yield from ((decoded, secret, False) for decoded in _decoded(text))


def _named(text: str) -> Iterator[Part]:
    """What has a name like that of a secret before it, other than as a field with which the text begins."""
    for option in islice(_OPTION.finditer(text), 2 * MOST):
        name, value = option.groups()
        if secret_field(name, value.lstrip("\"'")):
            yield value.strip("\"'"), True, True
        elif name in _USERS:
            yield value.partition(":")[2].strip("\"'"), True, False
    for sign, pattern in (("=", _ASSIGNED), ("</", _ELEMENT)):
        for field in islice(pattern.finditer(text), 2 * MOST) if sign in text else ():
            value = field[2].strip().strip("\"'")
            if secret_field(field[1], value):
                yield value, True, False
            elif field[1].startswith("--") and field[1].lstrip("-") in _USERS:
                yield value.partition(":")[2], True, False
    for pair in islice(PAIR.finditer(text), MOST) if "value" in text.lower() else ():
        name, _, quoted, plain = pair.groups(default="")
        is_plain_url = "://" in (quoted or plain) and "@" not in (quoted or plain)
        if secret_field(name, quoted or plain) and not is_plain_url:
            yield from ((value, True, False) for value in (quoted, plain, re.split(r"[,;}\]]", plain, maxsplit=1)[0]))
    for gathered in islice(_GATHERED.finditer(text), 2 * MOST):
        # The name is looked for just before the bracket: a search from the front would look at the whole text.
        name = _BEFORE.search(text, max(0, gathered.start() - 80), gathered.start())
        if name and secret_field(name[1]):
            yield from map(_of_list, gathered[1].split(","))
    if "\n" in text:
        yield from _below(text)


def _of_list(item: str) -> Part:
    """An item of a list whose name is like that of a secret; one of several words is judged by its looks."""
    item = item.strip()
    if found := _FIELD.match(item):
        return _of_field(found[1], item[found.end() :].strip("\"'`"), True)
    plain = item.strip("\"'`")
    return plain, True, plain == item and any(map(str.isspace, item))


def _below(text: str) -> Iterator[Part]:
    """What stands below a name like that of a secret: indented lines of YAML, and the fields of a section."""
    inside, titled = -1, False
    for line in islice(text.split("\n"), 2 * MOST):
        content = line.strip()
        indent = len(line) - len(line.lstrip(" "))
        if not content:
            continue
        if inside >= 0 and (indent > inside or (indent == inside and content.startswith("- "))):
            yield _of_list(content.removeprefix("- "))
            continue
        inside = -1
        if section := _SECTION.fullmatch(content):
            titled = secret_field(section[1])
        elif titled and _FIELD.match(content):
            yield _of_list(_REMARK.split(content, maxsplit=1)[0])
        found = _LINE.fullmatch(line.rstrip())
        if found and (not found[3] or _BLOCK.fullmatch(found[3].strip())) and secret_field(found[2].strip("\"'")):
            inside = len(found[1])


def _quoted(text: str) -> Iterator[tuple[str, ...]]:
    if "'" in text or '"' in text:
        yield from (found.groups(default="") for found in islice(_QUOTED.finditer(text), 2 * MOST))


def _split(separator: re.Pattern[str], text: str) -> Iterator[str]:
    reached = 0
    for found in separator.finditer(text):
        yield text[reached : found.start()].strip(",;|&")
        reached = found.end()
    yield text[reached:].strip(",;|&")


def _of_field(name: str, value: str, secret: bool) -> Part:
    """The value of a field; its own name counts before what is known of the whole."""
    if secret_field(name, value.lstrip("\"'")):
        return value, True, False
    return value, secret, _is_place(name)


def _leaves(document: Any, secret: bool) -> Iterator[Part]:
    """The texts in a JSON document, of every depth; keys where they look like secrets."""
    queue: deque[tuple[Any, bool, bool]] = deque([(document, secret, False)])
    while queue:
        value, is_secret, by_looks = queue.popleft()
        if isinstance(value, str):
            yield value, is_secret, by_looks
        elif isinstance(value, int) and not isinstance(value, bool):
            yield str(value) if abs(value) < 10**100 else "", is_secret, by_looks
        elif isinstance(value, list):
            before = ""
            for item in value:
                named = before.startswith("-") and secret_field(before.lstrip("-"))  # ["--password", "..."]
                queue.append((item, is_secret or named, by_looks and not named))
                before = item if isinstance(item, str) else ""
        elif isinstance(value, dict):
            called = value.get("name", value.get("key"))  # {"name": "DB_PASSWORD", "value": "..."}
            for name, item in value.items():
                yield name, is_secret, True
                of = called if name == "value" and isinstance(called, str) else name
                _, named, looks = _of_field(of, item if isinstance(item, str) else "", is_secret)
                queue.append((item, named, looks))


def _of_url(text: str, secret: bool) -> Iterator[Part]:
    """The logins and parameters of one URL and, if it is secret as a whole, the steps of its path."""
    rest = text.partition("://")[2]
    place = re.split(r"[\s,\"'<>]", rest, maxsplit=1)[0] if secret is False else rest
    host = re.split(r"[/?#]", place, maxsplit=1)[0]
    login = host.rpartition("@")[0] or (place.rpartition("@")[0] if "@" in place and ":" in host else "")
    user, colon, password = login.partition(":")
    yield password, True, False
    yield user, True, bool(password)  # beside a password it may be a person's
    if colon:
        yield login, secret, False
    address, _, fragment = place[len(login) :].partition("#")
    path, _, query = address.partition("?")
    for parameter in re.split("[&;]", f"{query}&{fragment}"):
        name, _, value = parameter.partition("=")
        yield _of_field(name, value, secret)
    if secret:
        yield from ((step, True, True) for step in path.split("/")[1:])


def _unescaped(text: str) -> str:
    def meant(found: re.Match[str]) -> str:
        escaped = found[1]
        return chr(int(escaped[1:], 16)) if len(escaped) > 1 else _ESCAPED.get(escaped, escaped)

    return _ESCAPE.sub(meant, text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _decoded(text: str) -> Iterator[str]:
    """What base64 or hexadecimal digits stand for, where that is a text."""
    raws = []
    if _BASE64.fullmatch(text):
        plain = text.rstrip("=").replace("-", "+").replace("_", "/")
        try:
            raws.append(base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True))
        except (ValueError, binascii.Error):
            pass
    if _HEX.fullmatch(text):
        raws.append(bytes.fromhex(text))
    for raw in raws:
        try:
            decoded = raw.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if all(character.isprintable() or character in "\r\n\t" for character in decoded):
            yield decoded
