"""Secrets are taken out by value, before anything is written, printed, logged, sent or answered.

A text that somebody else has shortened cannot be redacted by value, so such texts are not passed
here but left out where they would arise (see contract.py). What is passed here is replaced in
every form in which a secret travels: as it is, in JSON, in ``repr``, in HTML, URL-encoded, any mixture
of these, and in base64, wherever in the encoded text it begins and however that is broken into lines.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from preflight.settings import split_urls

MASK = "[redacted]"
REACH = 64 * 1024  # characters that are looked at beyond a cut, so that a secret there is seen whole
NOTIFY = "PREFLIGHT_NOTIFY"
"""The variable with the addresses of notifications: to know such a URL is to be able to write there."""
SHORTEST = 8  # characters; a shorter value stands in too many harmless texts to be replaced blindly

T = TypeVar("T")

_KEY_LIKE = re.compile(
    r"(?:^|_)(?:API_?KEYS?|KEYS?|TOKENS?|SECRETS?|PASSWORDS?|PASSWD|PASS|PASSPHRASE|CREDENTIALS?"
    r"|AUTHORIZATION|DSN|PAT|COOKIE|SIGNATURE|WEBHOOK)(?:_|$)|(?:APIKEY|TOKEN|SECRET|PASSWORD)$",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_HOST = re.compile(r"(?:localhost|[0-9]+(?:\.[0-9]+){3}|\[[0-9a-fA-F:.]+\]|(?:[a-z0-9-]+\.)+[a-z]{2,})(?::[0-9]+)?/?")
_WORD = re.compile(r"(?=.{1,16}$)[A-Z]?[a-z]+(?:[-_ ][A-Z]?[a-z]+)*")
_URL_PASSWORD = re.compile(r"(?<=://)([^\s/:@]*):([^\s/@]+)(?=@)")
# A password with a slash, a question mark or an "@" that nobody has encoded, up to the last "@" there is.
_ODD_URL_PASSWORD = re.compile(r"://[^\s/:@]*:(\S+)@")

# Base64 is looked for in windows of 8 characters: 6 bytes, which stand nowhere by chance.
_WINDOW = 8
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{4,}(?:=*(?:\\+r)?(?:\\+n|\r?\n)[ \t]*[A-Za-z0-9+/_-]+)*")
_BREAK = re.compile(r"=*(?:\\+r)?(?:\\+n|\r?\n)[ \t]*")

# What is left of a secret that somebody has shortened is known by this many characters of its beginning or end.
_FRAGMENT = 6
_OVERLAP = 64  # characters
_REACH = 200  # characters between dots and the end of a secret
_DOTS = re.compile(r"\.\.\.|…|\\u2026")
_CUT_OFF = re.compile(r"[\\'\"`)\]}>,;:!?\s]*(?:$|\.\.\.|…|\\u2026)")

_NAMED = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}
_LETTERS = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}


def key_like(name: str) -> bool:
    """Whether a variable of this name holds a secret, judged by the words in it."""
    return _KEY_LIKE.search(name) is not None


def secrets(variables: Mapping[str, str]) -> Iterator[str]:
    """The secrets in these variables: values of key-like names, and passwords inside URLs."""
    for name, value in variables.items():
        if name == NOTIFY:
            for url in split_urls(value):
                yield from _inside(url)
            continue
        if key_like(name):
            yield value
        if "://" in value:
            for password in {*_passwords(value)}:
                yield password
                yield unquote(password)


def _inside(url: str) -> Iterator[str]:
    """A URL that is a secret as a whole, and the secrets in it, wherever its service wants them.

    Tokens stand in the place of user, password, host, path and query alike. Words and the names of hosts stay: they
    occur in harmless texts, too.
    """
    yield url
    place, _, query = url.partition("://")[2].partition("?")
    login, _, place = place.rpartition("@")
    for part in (login, *login.split(":")):
        yield part
        yield unquote(part)
    for part in re.split(r"[/:&=#,]", f"{place}/{query}"):
        plain = unquote(part)
        if not (_WORD.fullmatch(plain) or _HOST.fullmatch(plain)):
            yield part
            yield plain


def _passwords(url: str) -> Iterator[str]:
    """The passwords in a URL, or in several; key-like parameters of its query as well."""
    yield from (found[2] for found in _URL_PASSWORD.finditer(url))
    yield from _ODD_URL_PASSWORD.findall(url)
    try:
        parts = urlsplit(url)
        yield from (value for name, value in parse_qsl(parts.query) if key_like(name.replace("-", "_")))
        if parts.password:
            yield parts.password
    except ValueError:
        return


def _pattern(secret: str) -> str:
    """A regular expression for the secret in whatever way each of its characters is written."""
    return "".join(_stretches(secret))


def _stretches(secret: str) -> list[str]:
    # Backslashes in a row are taken together: one by one they could be shared out in too many ways.
    return [_stretch(stretch[0]) for stretch in re.finditer(r"\\+|[^\\]", secret, re.DOTALL)]


def _stretch(text: str) -> str:
    if text.startswith("\\"):
        count = len(text)
        others = (r"%(?:25){0,4}5[cC]", r"&(?:amp;){0,4}#(?:92|[xX]5[cC]);", r"\\{1,16}(?:x|u00)5[cC]")
        return rf"(?:\\{{{count},{8 * count}}}|" + "|".join(f"(?:{other}){{{count}}}" for other in others) + ")"
    if (text.isascii() and text.isalnum()) or text in "-_.~":  # what nobody encodes
        return re.escape(text)
    return _ways(text)


def _ways(character: str) -> str:
    """All the ways to write a character; each escape may be escaped again, and bounds keep that from taking long."""
    code = ord(character)
    ways = [rf"\\{{0,7}}{re.escape(character)}"]
    raw = character.encode("utf-8", "surrogateescape")
    ways.append("".join(rf"%(?:25){{0,4}}{_hex(byte, 2)}" for byte in raw))
    ways.append("".join(rf"\\{{1,16}}x{_hex(byte, 2)}" for byte in raw))  # the repr of bytes
    if code < 0x100:
        ways.append(rf"\\{{1,16}}x{_hex(code, 2)}")
    if code < 0x10000:
        ways.append(rf"\\{{1,16}}u{_hex(code, 4)}")
    else:
        high, low = divmod(code - 0x10000, 0x400)
        ways.append(rf"\\{{1,16}}u{_hex(0xD800 + high, 4)}\\{{1,16}}u{_hex(0xDC00 + low, 4)}")
        ways.append(rf"\\{{1,16}}U{_hex(code, 8)}")
    ways.append(rf"\\{{0,7}}&(?:amp;){{0,4}}#(?:0{{0,4}}{code}|[xX]0{{0,4}}{_hex(code, 1)});")
    if character in _NAMED:
        ways.append(rf"\\{{0,7}}&(?:amp;){{0,4}}{_NAMED[character]};")
    if character in _LETTERS:
        ways.append(rf"\\{{1,16}}{_LETTERS[character]}")
    if character == "\n":
        ways.append(r"\r\n|\\{1,16}r\\{1,16}n|%(?:25){0,4}0[dD]%(?:25){0,4}0[aA]")
    if character == " ":
        ways.append(r"\+")
    if character == "'":
        ways.append(r"""'"'"'|'\\''""")  # shell quotes
    return f"(?:{'|'.join(ways)})"


def _hex(number: int, digits: int) -> str:
    """Hexadecimal digits in either case."""
    return "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in format(number, f"0{digits}x"))


def _windows(secret: str) -> Iterator[str]:
    """Every fourth window of the secret's base64, at each of the three offsets that it can begin at."""
    raw = secret.encode("utf-8", "surrogateescape")
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw).decode("ascii").rstrip("=")
        # The edge characters mix with their neighbours'.
        first, last = (offset * 8 + 5) // 6, (offset + len(raw)) * 8 // 6
        for start in (*range(first, last - _WINDOW, 4), last - _WINDOW):
            if start >= first:
                yield encoded[start : start + _WINDOW]


def _parts(secret: str) -> Iterator[str]:
    """The secret, and its lines: a value of several lines is often printed line by line."""
    for part in (secret, *secret.splitlines()):
        if len(part.strip()) >= SHORTEST:
            yield part.strip()


class Redactor:
    """Replaces known secrets, bearer headers and passwords inside URLs in texts and JSON values."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        secrets = sorted({part for value in values for part in _parts(value)})
        # One by one and not as one alternation: they may overlap, and a literal beginning is found quickly.
        self._known = [re.compile(_pattern(secret)) for secret in secrets]
        self._begun = [(secret, re.compile(_pattern(secret[:_FRAGMENT]))) for secret in secrets]
        self._ended = [re.compile(_pattern(secret[-_FRAGMENT:])) for secret in secrets]
        self._steps: dict[str, Sequence[re.Pattern[str]]] = {}
        self._reach = max([REACH, *(8 * len(secret) for secret in secrets)])
        self._encoded = frozenset(window for secret in secrets for window in _windows(secret))

    @classmethod
    def of(cls, *environments: Mapping[str, str]) -> Redactor:
        """A redactor for every secret in these variables."""
        return cls(value for variables in environments for value in secrets(variables))

    def text(self, text: str) -> str:
        """The text without any secret."""
        spans = [match.span() for known in self._known for match in known.finditer(text)]
        if self._encoded:
            spans += self._in_base64(text)
            spans += self._shortened(text)
        if spans:
            text = _masked(text, spans)
        text = _BEARER.sub(rf"\1 {MASK}", text)
        return _URL_PASSWORD.sub(rf"\1:{MASK}", text)

    def beginning(self, text: str, longest: int) -> str:
        """The redacted text; of a longer one the first ``longest`` characters or fewer, and no part of a secret.

        It looks no further than it has to: the text may be of any size.
        """
        seen = text[: longest + self._reach]
        redacted = self.text(seen)
        # Where what was looked at ends, half a secret may stand.
        end = longest if len(seen) == len(text) else min(longest, max(0, len(redacted) - self._reach // 2))
        return redacted if len(redacted) <= end else redacted[:end] + " …"

    def _shortened(self, text: str) -> Iterator[tuple[int, int]]:
        """Where somebody has shortened a text in the middle of a secret: at its end, or at dots that stand for a part.

        ``int("...")`` does that to what it cannot read.
        """
        for secret, begun in self._begun:
            match = begun.search(text)
            while match is not None:
                reached = match.start()
                for stretch in self._stretches(secret):
                    further = stretch.match(text, reached)
                    if further is None:
                        break
                    reached = further.end()
                if _CUT_OFF.match(text, reached):
                    yield match.start(), reached
                # A long secret may repeat itself: what was gone through is not gone through from each of its places.
                match = begun.search(text, max(match.end(), reached - _OVERLAP))
        if _DOTS.search(text):
            for ended in self._ended:
                for match in ended.finditer(text):
                    dots = [one.end() for one in _DOTS.finditer(text, max(0, match.start() - _REACH), match.start())]
                    if dots:
                        yield dots[-1], match.end()

    def _stretches(self, secret: str) -> Sequence[re.Pattern[str]]:
        if secret not in self._steps:
            self._steps[secret] = [re.compile(stretch) for stretch in _stretches(secret)]
        return self._steps[secret]

    def _in_base64(self, text: str) -> Iterator[tuple[int, int]]:
        """Where secrets stand in base64, of either alphabet, lines broken or not."""
        for run in _BASE64.finditer(text):
            if run.end() - run.start() < _WINDOW:
                continue
            plain, places = _joined(run)
            plain = plain.replace("-", "+").replace("_", "/")
            for start in range(len(plain) - _WINDOW + 1):
                if plain[start : start + _WINDOW] in self._encoded:
                    # Its edges, which no window reaches, go as well.
                    last = min(start + _WINDOW + 4, len(plain)) - 1
                    yield places[max(0, start - 2)], places[last] + 1

    def value(self, value: T) -> T:
        """The same JSON value with every text in it redacted, keys included."""
        return self._value(value)  # type: ignore[return-value]  # the same shape comes back

    def _value(self, value: object) -> object:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self._value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._value(item) for item in value]
        return value


def _joined(run: re.Match[str]) -> tuple[str, Sequence[int]]:
    """A run of base64 without its line breaks, and where each of its characters stands."""
    text, first = run[0], run.start()
    breaks = [one.span() for one in _BREAK.finditer(text)]
    if not breaks:
        return text, range(first, run.end())
    starts, ends = [0, *(end for _, end in breaks)], [*(start for start, _ in breaks), len(text)]
    kept = [place for start, end in zip(starts, ends, strict=True) for place in range(start, end)]
    return "".join(text[place] for place in kept), [first + place for place in kept]


def _masked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with one mask for each stretch that these spans cover together."""
    pieces, reached = [], 0
    covered = -1
    for start, end in sorted(spans):
        if start > covered:
            pieces += [text[reached:start], MASK]
        covered = max(covered, end)
        reached = covered
    return "".join([*pieces, text[reached:]])
