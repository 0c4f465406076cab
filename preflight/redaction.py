"""Secrets are taken out by value, before anything is written, printed, logged, sent or answered.

A text that somebody else has shortened cannot be redacted by value, so such texts are not passed
here but left out where they would arise (see contract.py). What is passed here is replaced in
every form in which a secret travels: as it is, in JSON, in ``repr``, URL-encoded and in base64.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar
from urllib.parse import quote, quote_plus, unquote, urlsplit

MASK = "[redacted]"
REACH = 64 * 1024  # characters that are looked at beyond a cut, so that a secret there is seen whole
SHORTEST = 8  # characters; a shorter value stands in too many harmless texts to be replaced blindly

T = TypeVar("T")

_KEY_LIKE = re.compile(
    r"(?:^|_)(?:API_?KEYS?|KEYS?|TOKENS?|SECRETS?|PASSWORDS?|PASSWD|PASS|PASSPHRASE|CREDENTIALS?"
    r"|AUTHORIZATION|DSN|PAT|COOKIE|SIGNATURE|WEBHOOK)(?:_|$)|(?:APIKEY|TOKEN|SECRET|PASSWORD)$",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?<=://)([^\s/:@]*):([^\s/@]+)(?=@)")


def key_like(name: str) -> bool:
    """Whether a variable of this name holds a secret, judged by the words in it."""
    return _KEY_LIKE.search(name) is not None


def secrets(variables: Mapping[str, str]) -> Iterator[str]:
    """The secrets in these variables: values of key-like names, and passwords inside URLs."""
    for name, value in variables.items():
        if key_like(name):
            yield value
        if "://" in value:
            try:
                password = urlsplit(value).password
            except ValueError:
                continue
            if password:
                yield password
                yield unquote(password)


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]
    raw = secret.encode("utf-8", "surrogateescape")
    yield quote(raw, safe="")
    yield quote(raw)
    yield quote_plus(raw)
    for offset in range(3):
        # In base64 a text looks different at each of three offsets, and its edge characters mix with its
        # neighbours': leave those out.
        encoded = base64.b64encode(b"\0" * offset + raw).decode("ascii").rstrip("=")
        first = (offset * 8 + 5) // 6
        last = (offset + len(raw)) * 8 // 6
        inner = encoded[first:last]
        yield inner
        yield inner.replace("+", "-").replace("/", "_")
    # A value of several lines is often printed line by line.
    yield from (line for line in secret.splitlines() if line != secret)


class Redactor:
    """Replaces known secrets, bearer headers and passwords inside URLs in texts and JSON values."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        forms = {form for value in values for form in _forms(value.strip()) if len(form) >= SHORTEST}
        # The longest first: one secret may contain another.
        ordered = sorted(forms, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        self._reach = max([REACH, *map(len, ordered[:1])])

    @classmethod
    def of(cls, *environments: Mapping[str, str]) -> Redactor:
        """A redactor for every secret in these variables."""
        return cls(value for variables in environments for value in secrets(variables))

    def text(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(MASK, text)
        text = _BEARER.sub(rf"\1 {MASK}", text)
        return _URL_PASSWORD.sub(rf"\1:{MASK}", text)

    def beginning(self, text: str, longest: int) -> str:
        """The redacted text; of a longer one the first ``longest`` characters or fewer, and no part of a secret.

        It looks no further than it has to: the text may be of any size.
        """
        if len(text) <= longest:
            return self.text(text)
        seen = text[: longest + self._reach]
        cut = longest
        while True:
            for pattern in filter(None, (self._known, _BEARER, _URL_PASSWORD)):
                # One character more: a password is known by the @ behind it.
                across = (match.start() for match in pattern.finditer(seen) if match.start() < cut <= match.end())
                before, cut = cut, min(across, default=cut)
                if cut < before:
                    break
            else:
                return self.text(seen[:cut]) + " …"

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
