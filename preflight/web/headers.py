"""The headers that every answer has, and those that only answers need which a browser shows."""

from __future__ import annotations

from collections.abc import Iterable

RawHeaders = list[tuple[bytes, bytes]]

POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
NOSNIFF = (b"x-content-type-options", b"nosniff")
HEADERS: RawHeaders = [
    (b"content-security-policy", POLICY),
    # Under no-referrer browsers send "Origin: null" with our own forms, the login's among them.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    NOSNIFF,  # the last of them: guard.py sees by it that an answer has them already
]
NO_STORE = (b"cache-control", b"no-store")


def protected(headers: Iterable[tuple[bytes, bytes]], *, shown: bool = True) -> RawHeaders:
    """An answer's headers with those that every answer has.

    ``shown=False`` is for what no browser shows and is asked for most, such as a health check's answer: every header
    costs time.
    """
    own = list(headers)
    if all(name != b"cache-control" for name, _ in own):
        own.append(NO_STORE)
    return [*own, *(HEADERS if shown else [NOSNIFF])]
