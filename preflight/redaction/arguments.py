"""Command lines of other processes, as they may be shown: whatever in them looks like a secret is masked.

The redactor knows our own secrets. It cannot know the arguments of other people's programs, and it does not replace
secrets that are too short or too common. So this module judges by shape: by the name of an option, a variable, a field
or a header, by the place of a login, by the beginnings of well-known services' keys. In doubt it masks.

Other accounts write the command lines that are read here, and may mean harm: no more than `LONGEST` characters of a
command line are read, and the time of every step grows only in proportion to them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Sequence

from preflight.patterns import lazy
from preflight.redaction.keys import LOOKS_SECRET, PAIR, PORT, secret_field, words
from preflight.redaction.redactor import MASK

LONGEST = 16 * 1024  # characters of a command line that are looked at
MOST = 1024  # arguments
LEFT_OUT = "…"
_SHORTEST = 4  # characters; a known secret that is shorter is looked for as a whole argument only
_LONGEST_NAME = 64  # characters of what a field is called

_OPTION = lazy(r"--?[\w.-]{1,200}", re.ASCII)
_SETTING = lazy(r"--(?:[\w.-]{1,64}:){1,16}([\w.-]{1,64})", re.ASCII)
"""An option of .NET: ``--Kestrel:Certificates:Default:Password``."""
_SECRET = lazy(
    r"pass|token|key|secret|auth|bearer|pwd|cred|jwt|cookie|dsn|(?:^|^-D|[-_.])(?:pw|psk|encrypt)$", re.IGNORECASE
)
_HARMLESS = lazy(r"(?:file|path|dir|url|uri|type|header|domain|name)$", re.IGNORECASE)
_ONE_WORD = lazy(r"[\w.~+=-]{12,512}", re.ASCII)
_RUN = lazy(r"[A-Za-z0-9]{8,}")
_LOGIN = lazy(r"^-[uU]$|(?:users?|username|login|account|userpwd|[-_.]basic)$", re.IGNORECASE)
_COMMAND = lazy(r"-[a-z]{0,8}c")  # sh -c, bash -lc
_CONFIGURED = lazy(r"(?:python|file):")  # gunicorn -c python:...
_CHOICE = lazy(r"(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*|sync|gthread|gevent|eventlet|start|restart|stop|graceful(?:-stop)?")
"""The values of -k where it names a class of workers (gunicorn) or something to do (Apache)."""
_GLUED_LOGIN = lazy(
    r"-(?:[uU](?=[^:%=/]{1,200}[:%].)|c(?!python:|file:)(?=[^:%=/]{1,200}[:%][^/].{3}))",  # not -codec:v:0
    re.DOTALL,
)
_IDS = lazy("[0-9]{1,10}:[0-9]{1,10}")  # of a user and a group
_PORTS = lazy(
    r"(?:(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\[[0-9a-fA-F:.]{2,45}\]|localhost):)?"
    r"[0-9]{1,5}(?:-[0-9]{1,5})?(?::[0-9]{1,5}(?:-[0-9]{1,5})?)?(?:/(?:tcp|udp|sctp))?"
)
_GLUED_PASSWORD = lazy(r"-p(?!(?:ort|id|ath|rofile)(?:=|$))(?=.)", re.DOTALL)
_SLASHED = lazy(r"/(?:p|pass|password|passwd|pwd|pw|token|key|secret):(?=.)", re.IGNORECASE | re.DOTALL)
_WITHOUT_SCHEME = lazy(r"([\w.%+-]{1,64}):(?!//)[^\s@]{1,512}@([\w.-]{0,255})(?:[:/].*)?", re.DOTALL)
_VERSION = lazy(r"v?[0-9]{1,9}(?:\.[0-9]{1,9}){0,2}|sha[0-9]{3}")  # of npm:name@1.2, of image:tag@sha256:...
_ADDRESS = lazy(r"[^\s\"'<>]+")
_FRAGMENT = lazy(r"(#[^:/?#=&]{1,64}:)[^:/].*", re.DOTALL)
"""A login behind an address, as pproxy has it: ``http://:8080#me:X``."""

_SIGN = lazy("=>|:=|[=:]")
_IN_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-$@")
_QUOTES = frozenset("\\\"'")
_OPENED = lazy(r"\s{1,16}\\{0,16}[\"']")
_OPENING = lazy(r"(\\{0,16})([\"'])")
_SEPARATOR = lazy(r"[?&;,]\s?(?:[\\\"']{0,16}[\w.$@-]{1,64}(?: [\w.-]{1,64})?[\\\"']{0,16} ?([=:]))?")
_JSON_END = lazy(r"[,}\]\s]|$")
_BRACKET = lazy(r"[\[{(\]})]")
_BLANK = lazy(r"\s")
_WORD = lazy(r"\S+")


def shown(argv: Sequence[str], secrets: Collection[str] = ()) -> str:
    """The command line, joined with shlex, without what looks like a secret; ``secrets`` are known ones.

    A command line of more than `LONGEST` characters or `MOST` arguments ends in "…".
    """
    masked = shlex.join(_masked(list(_bounded(argv)), secrets))
    return masked.replace(f"'{MASK}'", MASK).replace(f"'{LEFT_OUT}'", LEFT_OUT)


def _bounded(argv: Sequence[str]) -> Iterator[str]:
    """The first arguments. One that does not fit is left out with all behind it: half a secret is not recognised."""
    left = LONGEST
    for number, argument in enumerate(argv):
        left -= len(argument) + 1
        if left < 0 or number == MOST:
            yield LEFT_OUT
            return
        yield argument


def _masked(argv: Sequence[str], secrets: Collection[str], header_ends: str = "-") -> Iterator[str]:
    """The arguments, masked; an argument that begins with ``header_ends`` does not belong to the header before it."""
    before = ""  # what this argument is, judged by the one before it: see `_kind`
    for argument in argv:
        kind = ""
        if any(secret in argument if len(secret) >= _SHORTEST else secret == argument for secret in secrets):
            yield MASK
        elif before == "header" and not argument.startswith(header_ends):
            yield MASK
            kind = "header"
        elif (before == "secret" and not argument.startswith("--")) or (
            before == "another" and _is_made(argument)  # vllm --api-key ONE ANOTHER
        ):
            yield MASK
            kind = "another"
        elif before == "login" and (login := _login(argument)):
            yield login
        elif before == "password or port":
            yield argument if _PORTS.fullmatch(argument) else MASK
        elif before == "password or place":
            yield argument if _PORTS.fullmatch(argument) or argument.startswith(("/", "./")) else MASK
        elif before == "password or choice":
            yield argument if _CHOICE.fullmatch(argument) or argument.startswith("-") else MASK
        elif before == "scheme" and len(argument) >= 8:
            yield MASK
        else:
            yield _one(argument, secrets, command=before == "command")
            kind = _kind(argument)
        before = kind


def _kind(argument: str) -> str:
    """What the argument behind this one is.

    "secret", "login", "password or port", "password or place" (a path or a port), "password or choice" (one of a few
    words), "command" (a shell's), "header" (the rest of one), "scheme" (what follows one), or empty: none of these.
    """
    if argument in ("-p", "-a"):
        return "password or port"
    if argument == "-P":
        return "password or place"
    if argument == "-k":
        return "password or choice"
    if _OPTION.fullmatch(argument):
        if _is_secret(argument):
            return "secret"
        if _LOGIN.search(argument):
            return "login"
        return "command" if _COMMAND.fullmatch(argument) else ""
    if (setting := _SETTING.fullmatch(argument)) and secret_field(setting[1]):
        return "secret"
    if argument.endswith(":") and _IN_NAME.issuperset(argument[:-1]) and secret_field(argument[-_LONGEST_NAME:]):
        return "header"
    if argument.lower() in ("bearer", "basic"):
        return "scheme"
    # The name of a header or a setting in a word by itself: mcp-proxy --headers X-Api-Key ONE, ngrok authtoken ONE.
    named = words(argument)[-1:] if _IN_NAME.issuperset(argument[-_LONGEST_NAME:]) else []
    return "another" if named and secret_field(named[0]) else ""


def _is_secret(option: str) -> bool:
    return bool(_SECRET.search(option)) and not _HARMLESS.search(option)


def _is_made(argument: str) -> bool:
    """Whether it is one word with letters and digits between each other, as what a machine has made is."""
    runs = _RUN.findall(argument) if _ONE_WORD.fullmatch(argument) else ()
    return any(any(map(str.isdigit, run)) and any(map(str.isalpha, run)) for run in runs)


def _login(value: str) -> str:
    """A login with its password masked, empty if it has none: ``me:X``, and ``me%X`` as Samba writes it."""
    places = [place for place in (value.find(":"), value.find("%")) if 0 <= place < len(value) - 1]
    if not places or "://" in value or _IDS.fullmatch(value):
        return ""
    return f"{value[: min(places) + 1]}{MASK}"


def _one(argument: str, secrets: Collection[str], *, command: bool) -> str:
    """An argument that is no option's value: what is secret in it is masked. ``command``: it is a shell's."""
    several = bool(_BLANK.search(argument))
    if command and several:
        # It may be a program in Python as well, or a configuration in JSON, whose words a shell's rules cut.
        argument = _fields(PAIR.sub(_of_pair, argument), program=True)
        return "".join(_words(argument, secrets, header_ends="-"))
    if command and not _CONFIGURED.match(argument) and not _PORTS.fullmatch(argument) and (login := _login(argument)):
        return login  # gotty -c me:X
    name, sign, value = argument.partition("=")
    option = f"{name}=" if sign and _OPTION.fullmatch(name) else ""
    if option and value and _is_secret(name):
        return f"{option}{MASK}"
    if option and _LOGIN.search(name) and (login := _login(value)):
        return f"{option}{login}"
    if (matched := _GLUED_LOGIN.match(argument)) and not _PORTS.fullmatch(argument, matched.end()):
        return f"{matched[0]}{_login(argument[matched.end() :]) or argument[matched.end() :]}"
    if _GLUED_PASSWORD.match(argument) and not _PORTS.fullmatch(argument, 2):
        return f"-p{MASK}"
    if matched := _SLASHED.match(argument):
        return f"{matched[0]}{MASK}"
    # What an option has may be an assignment itself: --set=auth.password=X, --env=DB_PASSWORD=X.
    rest = argument[len(option) :]
    if (found := _WITHOUT_SCHEME.fullmatch(rest)) and not _VERSION.fullmatch(found[2]):
        return f"{option}{found[1]}:{MASK}@{rest[found.start(2) :]}"
    text = option + LOOKS_SECRET.sub(MASK, _fields(PAIR.sub(_of_pair, _addresses(rest))))
    return "".join(_words(text, secrets, header_ends="")) if several else text  # its headers are masked


def _of_pair(pair: re.Match[str]) -> str:
    quote, value = pair[2] or "", pair[3] or pair[4]
    if not secret_field(pair[1], value):
        return pair[0]
    return f"{pair[0].removesuffix(f'{quote}{value}{quote}')}{quote}{MASK}{quote}"


# A text of several words.


def _words(text: str, secrets: Collection[str], header_ends: str) -> Iterator[str]:
    """The words of a text, each masked as if it were an argument, and the blanks between them."""
    words = list(_split(text))
    masked = _masked([plain for _, plain, _ in words], secrets, header_ends)
    for (written, plain, blank), after in zip(words, masked, strict=True):
        quote = written[:1]
        if after == plain:
            yield written
        elif quote in ("'", '"') and written == f"{quote}{plain}{quote}" and after != MASK:
            yield f"{quote}{after}{quote}"
        else:
            yield after
        yield blank


def _split(text: str) -> Iterator[tuple[str, str, str]]:
    """A text's words as a shell sees them: as they are written, without their quotes, and the blanks behind each.

    A quote that nothing closes is a character like others.
    """
    place, end = 0, len(text)
    last = {quote: text.rfind(quote) for quote in "'\""}
    while place < end:
        start, plain = place, []
        while place < end and not text[place].isspace():
            character = text[place]
            if character == "\\" and place + 1 < end:
                plain.append(text[place + 1])
                place += 2
            elif character in last and place < last[character]:
                held, place = _quoted(text, place)
                plain.append(held)
            else:
                plain.append(character)
                place += 1
        behind = place
        while place < end and text[place].isspace():
            place += 1
        yield text[start:behind], "".join(plain), text[behind:place]


def _quoted(text: str, opening: int) -> tuple[str, int]:
    """The content of the quotes that open there, and where the text goes on; all the rest if none closes them."""
    quote, place = text[opening], opening + 1
    held: list[str] = []
    while place < len(text) and text[place] != quote:
        if text[place] == "\\" and quote == '"' and text[place + 1 : place + 2] in ("\\", '"'):
            place += 1
        held.append(text[place])
        place += 1
    return "".join(held), min(place + 1, len(text))


# Names with values: KEY=value, "key": "value", Key: value.


def _fields(text: str, *, program: bool = False) -> str:
    """The text with the values of fields masked whose names are those of secrets.

    ``program``: only of fields that no shell has, with the name in quotes, or a bracket or a blank before the value.
    """
    pieces: list[str] = []
    reached = place = 0
    while sign := _SIGN.search(text, place):
        place = sign.end()
        name, quoted = _name(text, reached, sign.start())
        if not (name and secret_field(name, text[place : place + _LONGEST_NAME].lstrip("\\\"' "))):
            continue
        if program and not (quoted or text[place : place + 1] == "(" or _OPENED.match(text, place)):
            continue
        start, end = _value(text, sign, quoted=quoted, first=sign.start() == len(name))
        if start < end:
            masked = MASK if quoted or sign[0] == "=" or start == sign.end() else _WORD.sub(MASK, text[start:end])
            pieces += [text[reached:start], masked]
            reached = place = end
    return "".join([*pieces, text[reached:]])


def _name(text: str, least: int, end: int) -> tuple[str, bool]:
    """What stands before a sign, at most `_LONGEST_NAME` characters of it, and whether it is in quotes."""
    for _ in range(2):
        if end > least and text[end - 1] == " ":
            end -= 1
    end -= end > least and text[end - 1] == "]"  # user[password]=X, environ["TOKEN"] = "X"
    quotes = end
    while end > least and quotes - end < 16 and text[end - 1] in _QUOTES:
        end -= 1
    start = end
    while start > least and end - start < _LONGEST_NAME and text[start - 1] in _IN_NAME:
        start -= 1
    return text[start:end], end < quotes


def _value(text: str, sign: re.Match[str], *, quoted: bool, first: bool) -> tuple[int, int]:
    """Where the value behind a sign begins and ends; ``first``: the text begins with its name."""
    start = sign.end()
    while start < len(text) and text[start].isspace() and start - sign.end() < 16:
        start += 1
    if opening := _OPENING.match(text, start):
        return opening.end(), _closed(text, opening)
    if text[start : start + 1] in ("{", "[", "(") and text[start:] != MASK:
        return start, _bracketed(text, start)
    if quoted:
        ending = _JSON_END.search(text, start)
        return start, ending.start() if ending else len(text)
    if start > sign.end() and sign[0] == ":":  # a header
        end = text.find("\n", start)
        return start, len(text) if end < 0 else end
    blank = None if first and sign[0] == "=" else _BLANK.search(text, start)
    limit = blank.start() if blank else len(text)
    # A password may have a separator in it: it goes on unless another field begins there.
    ends = (found.start() for found in _SEPARATOR.finditer(text, start, limit) if found[1] == sign[0])
    return start, next(ends, limit)


def _closed(text: str, opening: re.Match[str]) -> int:
    """Where the quotes close that open there: at a quote of the same kind with no more backslashes before it."""
    place = opening.end()
    while (place := text.find(opening[2], place)) >= 0:
        before = place
        while before > opening.end() and text[before - 1] == "\\":
            before -= 1
        if place - before <= len(opening[1]):
            return before
        place += 1
    return len(text)


def _bracketed(text: str, start: int) -> int:
    """Where the bracket closes that opens there; strings inside may have brackets, so in doubt the place is late."""
    depth = 0
    for bracket in _BRACKET.finditer(text, start):
        depth += 1 if bracket[0] in "{[(" else -1
        if not depth:
            return bracket.end()
    return len(text)


# Logins in URLs.


def _addresses(text: str) -> str:
    """The text with passwords and tokens masked that stand in URLs, before an "@" or behind a "#"."""
    if "://" not in text or not ("@" in text or "#" in text):
        return text
    return _ADDRESS.sub(lambda found: _address(found[0]), text)


def _address(text: str) -> str:
    first, *places = text.split("://")
    if not places:
        return text
    return _FRAGMENT.sub(rf"\1{MASK}", "://".join([first, *map(_place, places)]))


def _place(place: str) -> str:
    """What stands behind ``://``: a password may have a slash or an "@" in it that nobody has encoded."""
    host = re.split("[/?#]", place, maxsplit=1)[0]
    user, sign, rest = host.partition(":")
    if "@" in host:
        login = host.rpartition("@")[0]
    elif sign and not PORT.match(f"{rest}"):
        login = place.rpartition("@")[0]
    else:
        return place
    user, _, password = login.partition(":")
    token = len(user) >= 12 and any(character.isdigit() for character in user)
    if not password:
        return place.replace(login, MASK, 1) if token or (login.endswith(":") and user) else place
    return place.replace(login, f"{MASK if token else user}:{MASK}", 1)
