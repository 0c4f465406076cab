"""Finds known secrets that are in a text in base64 or in hexadecimal digits, however those are broken into lines."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from preflight.patterns import lazy
from preflight.redaction.writings import as_bytes

LONGEST_SPELLED = 512  # characters of a secret whose letters beyond ASCII may be written in other ways

# Base64 is looked for in windows of 8 characters: 6 bytes, which stand nowhere by chance.
_WINDOW = 8
# A run of it may be broken into lines, and its signs escaped for a URL or in JSON.
_SIGN = r"(?:%(?:25){0,4}2[bBfF]|\\{1,16}(?:/|u002[bBfF]))"
_BREAK = r"(?:=|%(?:25){0,4}3[dD]){0,2}(?:\\{1,16}r)?(?:\\{1,16}n|\r?\n|%(?:25){0,4}0[aA])[ \t]*"
_BASE64 = lazy(rf"[A-Za-z0-9+/_-]+(?:(?:{_SIGN}|{_BREAK})[A-Za-z0-9+/_-]*)*")
_OTHER = lazy(rf"(?P<sign>{_SIGN})|{_BREAK}")

# Pairs of hexadecimal digits, with what stands between them: "73:6b", "73 6b", "%73%6b", "\\x73\\x6b", "0x73, 0x6b".
_BETWEEN = r"(?:[:,;\s-]|%|0x|&#x|\\{1,8}(?:x|u00)){0,4}"
_HEX = lazy(rf"[0-9a-fA-F][0-9a-fA-F]{_BETWEEN}(?:[0-9a-fA-F][0-9a-fA-F]{_BETWEEN}){{7,}}")
_DIGITS = lazy(r"0x|u00|([0-9a-fA-F])")

# Keys that stand for bytes: a program shows those in digits of another case, as a UUID or in base64.
_HEX_KEY = lazy(r"[0-9a-fA-F]{2}(?:[:-]?[0-9a-fA-F]{2}){7,}")
_BASE64_KEY = lazy(r"(?=.*[0-9])(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9+/_-]{16,}={0,2}")
# Keys in groups for people: of an account (abcd efgh ijkl mnop), of a licence, a seed in base32 that is typed in.
_GROUPED = lazy(r"(?=.*[0-9])(?=.*[A-Za-z])([A-Za-z0-9]{4,8})(?:[ -][A-Za-z0-9]{4,8}){2,15}|([a-z]{4})(?: [a-z]{4}){3}")
_BASE32 = lazy(r"[a-z2-7]{16,}")


class Encodings:
    """The secrets of one redactor, in the forms in which they are recognised when encoded."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = secrets

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(window for secret in self._secrets for raw in _raws(secret) for window in _windows(raw))

    @cached_property
    def _known_in_hex(self) -> frozenset[str]:
        """What base64 stands for as well: in base64 itself, it would be known by a word."""
        raws = filter(None, map(_raw_of_base64, self._secrets))
        return self._known.union(window for raw in raws for window in _windows(raw))

    def places(self, text: str) -> Iterator[tuple[int, int]]:
        """Where each encoded secret begins and ends; places may overlap."""
        yield from self._in_base64(text)
        yield from self._in_hex(text)

    def _in_base64(self, text: str) -> Iterator[tuple[int, int]]:
        """Where secrets stand in base64, of either alphabet, lines broken or not."""
        for run in _BASE64.finditer(text):
            if run.end() - run.start() < _WINDOW:
                continue
            plain, places, ends = _joined(run)
            plain = plain.replace("-", "+").replace("_", "/")
            for start in _windows_in(plain, self._known):
                # Its edges, which no window reaches, go as well.
                yield places[max(0, start - 2)], ends[min(start + _WINDOW + 4, len(plain)) - 1]

    def _in_hex(self, text: str) -> Iterator[tuple[int, int]]:
        """Where secrets stand in hexadecimal digits; the bytes are compared in base64, the only form that is kept."""
        for run in _HEX.finditer(text):
            written = run[0]
            digits: Sequence[int] = range(*run.span())
            if not written.isalnum() or "x" in written:
                digits = [found.start() for found in _DIGITS.finditer(text, *run.span()) if found[1]]
                written = "".join(text[place] for place in digits)
            for first in range(2):
                raw = bytes.fromhex(written[first : len(written) - (len(written) - first) % 2])
                for start in _windows_in(base64.b64encode(raw).decode("ascii"), self._known_in_hex):
                    byte, behind = max(0, start - 2) * 3 // 4, min(len(raw), -(-(start + _WINDOW + 4) * 3 // 4))
                    yield digits[first + 2 * byte], digits[first + 2 * behind - 1] + 1


def _windows_in(encoded: str, known: frozenset[str]) -> list[int]:
    return [start for start in range(len(encoded) - _WINDOW + 1) if encoded[start : start + _WINDOW] in known]


def _raws(secret: str) -> set[bytes]:
    """The bytes of a secret, and those that its hexadecimal digits stand for."""
    raws = {as_bytes(secret), secret.encode("latin-1", "ignore")}  # HTTP's Basic is latin-1
    return raws | {bytes.fromhex(re.sub("[:-]", "", secret))} if _HEX_KEY.fullmatch(secret) else raws


def _raw_of_base64(secret: str) -> bytes:
    """The bytes that a secret in base64 stands for; none if it is something else."""
    if not _BASE64_KEY.fullmatch(secret):
        return b""
    plain = secret.rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(plain + "=" * (-len(plain) % 4)) if len(plain) % 4 != 1 else b""


def _windows(raw: bytes) -> Iterator[str]:
    """Every fourth window of a secret's base64, at each of the three offsets that it can begin at."""
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw).decode("ascii").rstrip("=")
        # The characters at the edges mix with their neighbours.
        first, last = (offset * 8 + 5) // 6, (offset + len(raw)) * 8 // 6
        for start in (*range(first, last - _WINDOW, 4), last - _WINDOW):
            if start >= first:
                yield encoded[start : start + _WINDOW]


def spellings(secret: str) -> Iterator[str]:
    """The secret, and it in base64's other alphabet, composed and decomposed, and as UTF-8 that was read as Latin-1.

    A key that is written in groups of the same length is known without what is between them, too.
    """
    yield secret
    if _GROUPED.fullmatch(secret):
        groups = re.split("[ -]", secret)
        if len({*map(len, groups)}) == 1:
            joined = "".join(groups)
            yield joined
            if _BASE32.fullmatch(joined):
                yield joined.upper()
    if _BASE64_KEY.fullmatch(secret):
        yield secret.translate(str.maketrans("+/-_", "-_+/"))
    if not secret.isascii() and len(secret) <= LONGEST_SPELLED:
        import unicodedata  # large, and seldom needed

        yield from (unicodedata.normalize(form, secret) for form in ("NFC", "NFD"))
        yield as_bytes(secret).decode("latin-1")


def _joined(run: re.Match[str]) -> tuple[str, Sequence[int], Sequence[int]]:
    """A run of base64 without its line breaks and escapes, and where each of its characters begins and ends."""
    text, first = run[0], run.start()
    others = list(_OTHER.finditer(text))
    if not others:
        return text, range(first, run.end()), range(first + 1, run.end() + 1)
    plain: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    reached = 0
    for other in others:
        plain.append(text[reached : other.start()])
        starts += range(first + reached, first + other.start())
        ends += range(first + reached + 1, first + other.start() + 1)
        if sign := other["sign"]:
            plain.append("+" if sign[-1] in "bB" else "/")
            starts.append(first + other.start())
            ends.append(first + other.end())
        reached = other.end()
    plain.append(text[reached:])
    starts += range(first + reached, run.end())
    ends += range(first + reached + 1, run.end() + 1)
    return "".join(plain), starts, ends
