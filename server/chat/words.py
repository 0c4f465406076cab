"""A model's answer, word by word: redacted while it streams, as text that every frame and database accepts."""

from __future__ import annotations

import re
from collections.abc import Iterable

from preflight.redaction import redactor as redaction


def unbroken(text: str) -> str:
    """The text with halves of surrogate pairs, which no frame and no database takes, replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class Words:
    """Redacts a stream: a secret must not slip through in two pieces.

    It holds back what could be the beginning of a secret: the last word, the first word of a bearer header, and, if
    secrets have spaces in them, as many characters as the longest of those.
    """

    _CUT = re.compile(r"[^\x21-\x7e](?=[\x21-\x7e]*$)")  # the last character that ends a word
    _BEARER = re.compile(r"(bearer|basic)\s*$", re.IGNORECASE)
    _HEADER = 100  # characters that such a word and the blanks behind it have

    def __init__(self, redactor: redaction.Redactor, secrets: Iterable[str]) -> None:
        """``secrets``: all of them, including those that the redactor leaves alone, because they are too common."""
        spread = [len(secret) for secret in secrets if re.search(r"[^\x21-\x7e]", secret.strip())]
        self._redactor = redactor
        self._spread = max([redactor.spread, *spread]) * 6  # escaped forms are longer
        self._held = ""
        self._looked = 0  # characters of what is held that are known to end no word
        self._before = ""  # what went out before, from where a secret may have begun that is folded over lines

    def feed(self, text: str) -> str:
        """What may go out after this piece has come."""
        self._held += text
        end = max(0, len(self._held) - self._spread)
        found = self._CUT.search(self._held, self._looked, end)  # only what is new: a word may be very long
        cut = found.end() if found else 0
        if cut and (header := self._BEARER.search(self._held, max(0, cut - self._HEADER), cut)):
            cut = header.start()
        self._looked = max(self._looked, end) - cut
        out, self._held = self._held[:cut], self._held[cut:]
        return self._redacted(out)

    def rest(self) -> str:
        """What was held back, at the end of the stream."""
        out, self._held, self._looked = self._held, "", 0
        return self._redacted(out)

    def _redacted(self, out: str) -> str:
        if not out:
            return ""
        redacted = self._redactor.after(self._before, unbroken(out))
        self._before = redacted.unfinished or redacted.begun
        return redacted.text
