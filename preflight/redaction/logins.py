"""Logins in any text, whether or not their secrets are known: headers of authorization, and passwords in URLs."""

from __future__ import annotations

import base64
import re

from preflight.patterns import lazy
from preflight.redaction.keys import LOOKS_SECRET

# Behind "Basic" and "Bearer", a word of a language is no login: "basic authentication".
_PROSE = r"(?-i:(?![a-z]{0,16}[bcdfghjklmnpqrstvwxz]{5})[A-Za-z][a-z]{7,15}(?![A-Za-z0-9_~+/=-]|\.\w))"
# Nor is a parameter of a challenge; base64 ends with such a sign as well, and has not only small letters.
_PARAMETER = r"(?-i:[a-z_]{1,64}=\\?[\"'])"
_HEADER = lazy(rf"\b(Bearer|Basic)\s+(?!{_PROSE}|{_PARAMETER})([A-Za-z0-9._~+/=-]{{8,}})", re.IGNORECASE)
_RUN = lazy(r"[A-Za-z0-9]{8,}")
_URL_TOKEN = lazy(r"(?<=://)[\w-]{16,512}(?=@)")
_URL_PASSWORD = lazy(r"(?<=://)([^\s/:@]*):([^\s/@]+)(?=@)")


def without_logins(text: str, mask: str) -> str:
    """The text with ``mask`` in the place of each password and token of a login."""
    text = _HEADER.sub(lambda header: header[0] if _is_none(*header.groups()) else f"{header[1]} {mask}", text)
    text = _URL_PASSWORD.sub(rf"\1:{mask}", text)
    return _URL_TOKEN.sub(lambda user: mask if LOOKS_SECRET.fullmatch(user[0]) else user[0], text)


def _is_none(scheme: str, word: str) -> bool:
    """Whether these are words: what "Basic" needs is a login in base64, which "basic README.md" has not."""
    return scheme.lower() == "basic" and not any(map(_is_made, _RUN.findall(word))) and b":" not in _bytes(word)


def _is_made(run: str) -> bool:
    return not run.isalpha() and not run.isdigit()


def _bytes(encoded: str) -> bytes:
    """What base64 stands for, also if its end is missing; nothing for another text."""
    try:
        return base64.b64decode(encoded[: len(encoded) // 4 * 4], validate=True)
    except ValueError:
        return b""
