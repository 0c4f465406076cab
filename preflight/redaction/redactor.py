"""Secrets are removed by value, before anything is written, printed, logged, sent or answered.

If a secret was shortened, its beginning before a cut and its end behind dots are recognised, from 6 characters on. A
cut that leaves fewer characters, or no sign of itself, is not recognised: texts that are often shortened in this way,
such as pytest's own, are left out where they would arise (see preflight/suite/stages.py). Everything else is replaced
in every form in which a secret travels: unchanged, in JSON, in ``repr``, in HTML, URL-encoded, any mixture of these, in
base64 at any offset and with any line breaks, in hexadecimal digits, and folded over lines. The parts that an
application derives from a value are known as well (see derivation.py). Not recognised are other encodings (base32,
base64 of base64, compressed, encrypted, hashed, reversed), and pieces of fewer than 12 characters that do not follow
each other.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import NamedTuple, TypeVar

from preflight.patterns import lazy
from preflight.redaction.derivation import LARGEST, cost, decoded, derived, members
from preflight.redaction.encodings import Encodings, spellings
from preflight.redaction.folds import AROUND, Unfolded, unfolded
from preflight.redaction.keys import MOST, SHORTEST, common, secrets
from preflight.redaction.logins import without_logins
from preflight.redaction.writings import head, literals, pattern, shorter, stretches
from preflight.settings.model import Settings

MASK = "[redacted]"
LONGEST = 16 * 1024  # characters of a secret whose pieces are known by themselves
REACH = 64 * 1024  # characters that are looked at beyond a cut, so that a secret there is seen whole
LONG, LONGEST_REMEMBERED = 2 * 1024, 64 * 1024  # characters of a text whose result is remembered
REMEMBERED = 16  # such texts

T = TypeVar("T")

_ENCODED = lazy(r"%(?:25){0,4}([2-7][0-9a-fA-F])")
_ENCODED_BACKSLASH = lazy(r"%(?:25){0,4}5[cC]")

# A piece of a secret that stands by itself: it is as long as what is derived from a value, and no word of a language.
_PIECE = lazy(r"[A-Za-z0-9+/_~-]{12,}")
_LIKE_A_KEY = lazy(r"(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z])|(?=.*?[A-Za-z]{16})")

# What remains of a shortened secret is recognised by this many characters of its beginning or end.
_FRAGMENT = 6
_REACH = 200  # characters between dots and the end of a secret
_SEVERAL = r"\.\.\.|[…‥⋯]|\\u202[56]|\\u22[eE][fF]|&hellip;|&#8230;"  # dots, however they are written
_STARS = r"(?<![\s*•])[*•]{3,64}(?![\s*•])"
_DOTS = lazy(rf"{_SEVERAL}|{_STARS}")
# Behind a cut come the signs that close what it stands in, and then nothing, dots (textwrap's are in brackets), stars
# (of a service that repeats a wrong key), a word for it, how much is missing (rich's "'abc'+30"), or the place that an
# error names: "ValueError: invalid literal for int() with base 10: '... (app.py:12)".
_CUT_OFF = lazy(
    rf"[\\'\"`)\]}}>,;:!?\s]*(?:$|\.\.|{_SEVERAL}|{_STARS}"
    rf"|[\[(<{{](?:\.\.|{_SEVERAL}|truncated|cut|snip|\+?[0-9]{{1,9}} more)"
    r"|\+[0-9]{1,9}(?![\w.])|(?<= )\([^\s()]{1,200}:\d{1,9}\))"
)

_CLOSED = lazy(r"[\\'\"`)\]}>,;:!?\s]*$")
_FIRST_WORD = lazy(r"(?=[^aeiouy]{0,4}[aeiouy]|[^:]*:)([A-Z]?[a-z]{1,11})(\+[a-z0-9]{1,15})?(:/{0,2})?")

# Fields of our documents whose texts are words of ours.
_ENUMERATED = frozenset({"action", "origin", "outcome", "scope", "severity", "standing", "state", "status"})

_SPREAD = lazy(r"[^\x21-\x7e]")


def _parts(secret: str) -> Iterator[str]:
    """The secret, and its lines: a value of several lines is often printed line by line."""
    if common(secret.strip()):
        return
    yield secret.strip()
    room = LARGEST
    for part in map(str.strip, secret.splitlines()[:MOST]):
        if not common(part) and (room := room - cost(part)) >= 0:
            yield part
    yield from members(secret)


class _Known:
    """A part of a secret, recognised in every way in which it is written; compiled when a text may contain it."""

    __slots__ = ("_literals", "_regex", "complete", "text")

    def __init__(self, text: str) -> None:
        self.text = head(text)
        self.complete = len(self.text) == len(text)
        """Whether all of it is compiled; if not, `Redactor._cut_off` finds the rest."""
        self._literals = literals(self.text)
        self._regex: re.Pattern[str] | None = None

    def within(self, text: str) -> re.Pattern[str] | None:
        """The regular expression that finds it, None if a look shows that it is not in the text."""
        if not all(literal in text for literal in self._literals):
            return None
        if self._regex is None:
            self._regex = pattern(self.text)
        return self._regex


class _Begun(_Known):
    """The beginning of a secret, and what is needed to go on from there."""

    __slots__ = ("__dict__", "_secret")

    def __init__(self, secret: str) -> None:
        super().__init__(secret[:_FRAGMENT])
        self._secret = secret

    @cached_property
    def stretches(self) -> list[str]:
        """A regular expression for each stretch of the secret."""
        return stretches(self._secret)

    @cached_property
    def shorter(self) -> list[int]:
        """See :func:`~preflight.redaction.writings.shorter`."""
        return shorter(self.stretches)

    @cached_property
    def enough(self) -> int:
        """How many stretches of the secret are enough to recognise it."""
        return len(stretches(self.text))

    @property
    def repeats(self) -> bool:
        """Whether the secret ends as it begins."""
        return self.shorter[len(self.stretches)] >= self.enough


class Redacted(NamedTuple):
    """A text without secrets, and what has to be known about it when its stream goes on."""

    text: str
    unfinished: str
    """Its end, from where a secret begins that may go on in what follows; empty if there is none."""
    begun: str
    """Its last characters, if they are the first ones of a secret, and too few to recognise it."""
    went_on: bool
    """Whether it continues a secret that had begun in the text before."""


class Redactor:
    """Replaces known secrets, bearer headers and passwords inside URLs in texts and JSON values."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._secrets = sorted({one for value in values for part in _parts(value) for one in spellings(part)})
        # One by one and not as one alternation: they may overlap, and a literal beginning is found quickly.
        self._known = [_Known(secret) for secret in self._secrets]
        self._begun = [_Begun(secret) for secret in self._secrets]
        self._ended = [_Known(secret[-_FRAGMENT:]) for secret in self._secrets]
        self._encodings = Encodings(self._secrets)
        self._pieces = "\n".join(secret for secret in self._secrets if _of_pieces(secret))
        # A line may end so shortly after the beginning of a secret that nothing shows it yet.
        self._first = {secret[:length] for secret in self._secrets for length in range(1, _FRAGMENT)}
        self._words = {word for secret in self._secrets for word in _first_words(secret)}
        self._steps: dict[str, re.Pattern[str]] = {}
        self._reach = max([REACH, *(8 * len(secret) for secret in self._secrets)])
        # Texts of an answer have often been redacted before, when they came or were written, and long ones take long.
        self._again = lru_cache(REMEMBERED)(lambda text: self.after("", text, goes_on=False).text)

    @classmethod
    def of(cls, settings: Settings, *, besides: Iterable[str] = ()) -> Redactor:
        """The redactor of a process with these settings; ``besides`` has values that no variable's name gives away."""
        return cls.of_variables(*settings.variables, besides=besides)

    @classmethod
    def of_variables(cls, *environments: Mapping[str, str], besides: Iterable[str] = ()) -> Redactor:
        """A redactor for every secret in these variables, and what is derived from them.

        For texts that come before there are settings; after that, use :meth:`of`.
        """
        known = [*environments, *map(decoded, environments)]
        whole = [value for variables in known for value in secrets(variables)]
        return cls([*whole, *derived(*known), *besides])

    @cached_property
    def spread(self) -> int:
        """Characters of the longest secret that has blanks or signs in it which may end a word."""
        return max((len(secret) for secret in self._secrets if _SPREAD.search(secret)), default=0)

    def text(self, text: str) -> str:
        """The text without any secret."""
        if LONG <= len(text) <= LONGEST_REMEMBERED:
            return self._again(text)
        return self.after("", text, goes_on=False).text

    def after(self, before: str, text: str, *, goes_on: bool = True) -> Redacted:
        """The text without any secret, where ``before`` came before it in the same stream, and whether that goes on."""
        whole = before + text
        spans = self._spans(whole) if self._secrets else []
        # In a stream, the rest of a secret may follow a word with which it begins.
        if masked := [span for span in spans if goes_on or not self._is_first_word(whole, span)]:
            text = _masked(whole, masked, len(before))
        text = without_logins(text, MASK)
        end = len(whole.rstrip(AROUND + "\r\n"))
        start = min((start for start, to in spans if to >= end), default=end)
        return Redacted(
            text,
            whole[max(start, len(whole) - self._reach) :] if start < end else "",
            # Of what stands around it, or of a stream of blanks, only the end: it may have no end.
            whole[end - self._begins_at_end(whole, end) : end] + whole[max(end, len(whole) - 4 * _FRAGMENT) :],
            any(start < len(before.rstrip(AROUND + "\r\n")) and to > len(before) for start, to in spans),
        )

    def _is_first_word(self, text: str, span: tuple[int, int]) -> bool:
        """Whether a text ends with a word with which a secret begins as well: ``systemctl start postgresql``."""
        return text[slice(*span)] in self._words and bool(_CLOSED.match(text, span[1]))

    def _begins_at_end(self, text: str, end: int) -> int:
        """How many characters at the end of a text may be the first ones of a secret, too few to know it by them.

        They may stand in lines of one character each: ``for key in KEYS: print(key)``, where KEYS is a text.
        """
        joined, most = "", 0
        for place in range(end - 1, max(0, end - 4 * _FRAGMENT) - 1, -1):
            if text[place] not in "\r\n":
                joined = text[place] + joined
                most = end - place if joined in self._first else most
        return most

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Where there are secrets, in any form."""
        spans = [*self._plain(text), *self._encodings.places(text), *self._alone(text)]
        for folded in unfolded(text):
            spans += [folded.place(start, end) for start, end in self._plain(folded.text)]
        if _ENCODED_BACKSLASH.search(text):
            spans += self._in_query(text)
        return spans

    def _in_query(self, text: str) -> Iterator[tuple[int, int]]:
        """Where secrets stand with escapes that are percent-encoded, as in JSON in a query: ``%5C%22``."""
        pieces, reached = [], 0
        for encoded in _ENCODED.finditer(text):
            pieces += [(reached, text[reached : encoded.start()]), (encoded.start(), chr(int(encoded[1], 16)))]
            reached = encoded.end()
        plain = Unfolded([*(piece for piece in pieces if piece[1]), (reached, text[reached:])])
        for found in self._plain(plain.text):
            start, end = plain.place(*found)
            last = _ENCODED.match(text, end - 1)
            yield start, last.end() if last else end

    def _plain(self, text: str) -> Iterator[tuple[int, int]]:
        for known, begun in zip(self._known, self._begun, strict=True):
            spans = [match.span() for match in found.finditer(text)] if (found := known.within(text)) else []
            yield from spans
            if (beginning := begun.within(text)) is not None:
                yield from self._cut_off(begun, beginning, text, dict(spans) if known.complete else {})
        if _DOTS.search(text):
            yield from self._ends(text)

    def _alone(self, text: str) -> Iterator[tuple[int, int]]:
        """Pieces of secrets that stand by themselves, as where a secret was folded and other lines came between."""
        if self._pieces:
            for piece in _PIECE.finditer(text):
                if _LIKE_A_KEY.match(piece[0]) and piece[0] in self._pieces:
                    yield piece.span()

    def beginning(self, text: str, longest: int) -> str:
        """The redacted text; of a longer one the first ``longest`` characters or fewer, and no part of a secret.

        It looks no further than it has to: the text may be of any size.
        """
        return self.beginning_after("", text, longest, goes_on=False).text

    def beginning_after(self, before: str, text: str, longest: int, *, goes_on: bool = True) -> Redacted:
        """See `beginning` and `after`."""
        seen = text[: longest + self._reach]
        redacted = self.after(before, seen, goes_on=goes_on or len(seen) < len(text))
        # Half a secret may stand at the end of what was looked at.
        last = longest if len(seen) == len(text) else min(longest, max(0, len(redacted.text) - self._reach // 2))
        return redacted if len(redacted.text) <= last else redacted._replace(text=redacted.text[:last] + " …")

    def _ends(self, text: str) -> Iterator[tuple[int, int]]:
        """Ends of secrets behind dots, if somebody has shortened a text in the middle of one.

        There are no blanks in the end of a secret that has none: "Loading the secrets... found no secret".
        """
        for secret, ended in zip(self._secrets, self._ended, strict=True):
            if (found := ended.within(text)) is None:
                continue
            for match in found.finditer(text):
                dots = [one.end() for one in _DOTS.finditer(text, max(0, match.start() - _REACH), match.start())]
                if dots and (len(text[dots[-1] : match.end()].split()) == 1 or len(secret.split()) > 1):
                    yield dots[-1], match.end()

    def _cut_off(
        self, begun: _Begun, beginning: re.Pattern[str], text: str, whole: Mapping[int, int]
    ) -> Iterator[tuple[int, int]]:
        """Beginnings of a secret that stand before a cut: at a text's end, or at dots that stand for a part of it.

        ``int("...")`` cuts what it cannot read in this way. A secret of which not all is compiled is found here as a
        whole, too. ``whole`` has the places of the whole secret: where each begins, and where it ends.

        A secret may repeat itself, and a text the secret: what has been gone through is not gone through again, but
        goes on as a shorter beginning of the secret (the algorithm of Knuth, Morris and Pratt).
        """
        match = beginning.search(text)
        while match is not None:
            if match.start() in whole and not begun.repeats:  # nothing that begins in it goes on behind it
                match = beginning.search(text, whole[match.start()])
                continue
            reached, cut = match.start(), -1
            places: deque[int] = deque()  # where each stretch begins
            while True:
                further = (
                    self._step(begun.stretches[len(places)]).match(text, reached)
                    if len(places) < len(begun.stretches)
                    else None
                )
                if further is not None:
                    places.append(reached)
                    reached = further.end()
                    continue
                whole_of_it = len(places) == len(begun.stretches)
                if whole_of_it or (places and cut != reached and _CUT_OFF.match(text, cut := reached)):
                    yield places[0], reached
                kept = begun.shorter[len(places)]
                while len(places) > kept:
                    places.popleft()
                if kept < begun.enough:
                    break
            match = beginning.search(text, max(match.start() + 1, places[0] if places else reached))

    def _step(self, stretch: str) -> re.Pattern[str]:
        if stretch not in self._steps:
            self._steps[stretch] = re.compile(stretch)
        return self._steps[stretch]

    def value(self, value: T) -> T:
        """The same JSON value with every text in it redacted, keys included."""
        return self._value(value)  # type: ignore[return-value]  # the same shape comes back

    def document(self, value: T) -> T:
        """The same JSON value, a document of ours: our own words stay, even if somebody chose one as a password.

        Those are the keys, except below ``details``, and the words of enumerations. Every other text is redacted.
        """
        return self._document(value)  # type: ignore[return-value]  # the same shape comes back

    def _document(self, value: object, key: str = "") -> object:
        if isinstance(value, Mapping) and key != "details":
            return {str(name): self._document(item, str(name)) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._document(item, key) for item in value]
        is_ours = key in _ENUMERATED if isinstance(value, str) else key != "details"  # numbers: times, counts, PIDs
        return value if is_ours else self._value(value)

    def identifier(self, nodeid: str) -> str:
        """A requirement's id with its parameters redacted; the rest of it is a name in the project's source."""
        name, bracket, parameters = nodeid.partition("[")
        return f"{name}{self.text(bracket + parameters)}"

    def _value(self, value: object) -> object:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self._value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._value(item) for item in value]
        if isinstance(value, int | float) and len(written := str(value)) >= SHORTEST:  # a PIN that was parsed
            return value if self.text(written) == written else MASK
        return value


def _masked(text: str, spans: Iterable[tuple[int, int]], first: int = 0) -> str:
    """The text from ``first`` on, with one mask for each stretch that these spans cover together."""
    pieces, reached = [], first
    covered = -1
    for start, end in sorted(spans):
        if end <= first:
            continue
        if max(start, first) > covered:
            pieces += [text[reached : max(start, first)], MASK]
        covered = max(covered, end)
        reached = covered
    return "".join([*pieces, text[reached:]])


def _first_words(secret: str) -> Iterator[str]:
    """The word with which a secret begins (``shop2024``), or a URL's scheme and host: texts may end with them."""
    if found := _FIRST_WORD.match(secret):
        for end in {found.end(group) for group in (1, 2, 3)} - {-1, len(secret)}:
            if secret[end - 1] in ":/" or not secret[end].isalnum() or not any(map(str.isalpha, secret[end:])):
                yield secret[:end]
        if found[3]:
            yield from (secret[: found.start(3) + length] for length in range(1, len(found[3])))
        place, slash, _ = secret[found.end() :].partition("/")
        if found[3] == "://" and slash and "@" not in secret and common(place):
            yield from (secret[: found.end()] + place, secret[: found.end()] + place + slash)


def _of_pieces(secret: str) -> bool:
    """Whether pieces of a secret are known by themselves: it is one word, and long enough to be folded."""
    return (
        16 <= len(secret) <= LONGEST and bool(_PIECE.fullmatch(secret.rstrip("="))) and bool(_LIKE_A_KEY.match(secret))
    )
