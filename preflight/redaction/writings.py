"""A regular expression for a secret in every way in which each of its characters may be written.

As it is, in JSON, in ``repr``, in HTML, URL-encoded, and in any mixture of these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice

from preflight.patterns import lazy

SIGNS = 512  # of a secret that are compiled: each has some twenty ways to be written, a millisecond to compile

_PLAIN = lazy(r"[A-Za-z0-9]+")  # characters that nobody encodes
_SIGNS = lazy(r"[^A-Za-z0-9]")
_NAMED = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}
_LETTERS = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}


def literals(secret: str) -> list[str]:
    """The longest parts of a secret that stand in a text as they are, however the rest of it is written."""
    return sorted(set(_PLAIN.findall(secret)), key=len, reverse=True)[:8]


def as_bytes(text: str) -> bytes:
    """A text as the environment has it, or one of JSON's, which may have halves of characters in it."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def head(secret: str) -> str:
    """The secret, or as much of its beginning as has `SIGNS` signs."""
    signs = islice(_SIGNS.finditer(secret), SIGNS, None)
    return secret[: last.start()] if (last := next(signs, None)) else secret


def pattern(secret: str) -> re.Pattern[str]:
    """A regular expression for the secret in whatever way each of its characters is written."""
    first, *others = stretches(secret)
    # Without optional backslashes, each way to write the first character begins with another one: it is found quickly.
    return re.compile("".join([first.replace(r"\\{0,7}", ""), *others]))


def stretches(secret: str) -> list[str]:
    """A regular expression for each character, or run of backslashes, of the secret."""
    # Backslashes in a row are taken together: one by one they could be shared out in too many ways.
    return [_stretch(stretch[0]) for stretch in re.finditer(r"\\+|[^\\]", secret, re.DOTALL)]


@lru_cache(4096)
def _stretch(text: str) -> str:
    if text.startswith("\\"):
        count = len(text)
        others = (r"%(?:25){0,4}5[cC]", r"&(?:amp;){0,4}#(?:92|[xX]5[cC]);", r"\\\\{0,15}(?:x|u00)5[cC]")
        return (
            rf"(?:\\\\{{{count - 1},{8 * count - 1}}}|" + "|".join(f"(?:{other}){{{count}}}" for other in others) + ")"
        )
    if text == "_":
        return r"\\{0,7}_"  # nobody but Markdown escapes it, and keys have many
    return re.escape(text) if _PLAIN.fullmatch(text) else _ways(text)


def _ways(character: str) -> str:
    """All the ways to write a character; each escape may be escaped again, and bounds keep that from taking long."""
    code = ord(character)
    escape = r"\\\\{0,15}"  # one backslash or more
    # Twice, as SQL and CSV have a quote, ConfigParser a percent sign and Compose a dollar sign.
    ways = [rf"\\{{0,7}}{re.escape(character)}{'' if character.isspace() else '{1,2}?'}"]
    raw = as_bytes(character)
    ways.append("".join(rf"%(?:25){{0,4}}{_hex(byte, 2)}" for byte in raw))
    ways.append("".join(rf"{escape}x{_hex(byte, 2)}" for byte in raw))  # the repr of bytes
    ways.append("".join(rf"{escape}{byte:03o}" for byte in raw))  # in cookies, by git and strace
    if code < 0x100:
        ways.append(rf"{escape}x{_hex(code, 2)}")
    if 0x80 <= code < 0x100:
        ways.append(rf"%(?:25){{0,4}}{_hex(code, 2)}|{escape}{code:03o}")  # latin-1
    if code < 0x10000:
        ways.append(rf"{escape}u{_hex(code, 4)}")
    else:
        high, low = divmod(code - 0x10000, 0x400)
        ways.append(rf"{escape}u{_hex(0xD800 + high, 4)}{escape}u{_hex(0xDC00 + low, 4)}")
        ways.append(rf"{escape}U{_hex(code, 8)}")
    ways.append(rf"\\{{0,7}}&(?:amp;){{0,4}}#(?:0{{0,4}}{code}|[xX]0{{0,4}}{_hex(code, 1)});")
    if name := _name(character):
        ways.append(rf"\\{{0,7}}&(?:amp;){{0,4}}{name};")
    if character in _LETTERS:
        ways.append(rf"{escape}{_LETTERS[character]}")
    if character == "\n":
        ways.append(rf"\r\n|{escape}r{escape}n|%(?:25){{0,4}}0[dD]%(?:25){{0,4}}0[aA]")
    if character == " ":
        ways.append(rf"\+|[ \t]{{0,16}}\r?\n[ \t]{{0,80}}|[ \t]{{0,16}}{escape}n[ \t]{{0,80}}")  # folded there
    if character == "'":
        ways.append(r"""'"'"'|'\\''""")  # shell quotes
    return f"(?:{'|'.join(ways)})"


def _name(character: str) -> str:
    """The name of a character in HTML; empty if it has none."""
    if character.isascii():
        return _NAMED.get(character, "")
    from html.entities import codepoint2name  # 2 ms, and seldom needed

    return codepoint2name.get(ord(character), "")


def _hex(number: int, digits: int) -> str:
    """Hexadecimal digits in either case."""
    return "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in format(number, f"0{digits}x"))


def shorter(stretches: Sequence[str]) -> list[int]:
    """For each number of first stretches, how many at their end repeat the first ones (Knuth, Morris and Pratt)."""
    lengths = [0, 0]
    for stretch in stretches[1:]:
        kept = lengths[-1]
        while kept and stretch != stretches[kept]:
            kept = lengths[kept]
        lengths.append(kept + (stretch == stretches[kept]))
    return lengths
