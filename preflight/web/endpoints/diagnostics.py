"""Diagnostics: a projection of the most recent report for this address, from any process.

A GET reads a snapshot and never runs a check.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from preflight.report import formats
from preflight.web import pages, services
from preflight.web.answers import Answer, Header
from preflight.web.negotiation import accepted, unchanged
from preflight.web.projection import beside, document, stamp
from preflight.web.snapshot import Snapshot

FRESH = 1.0  # seconds for which an answer is sent to others, too: its ages are wrong by at most that


class Format(NamedTuple):
    """One way to write down what :func:`document` says."""

    media_type: str
    render: Callable[[Snapshot, Mapping[str, Any]], str]
    slow: bool = False
    """Whether it takes so long that other requests would notice: then it is made in a thread."""


def _as_json(_snapshot: Snapshot, body: Mapping[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _as_text(snapshot: Snapshot, _body: Mapping[str, Any]) -> str:
    found, trusted = snapshot.latest(), snapshot.trusted()
    lines = [formats.as_text(found) if found else formats.NOT_RUN]
    if found is not None and trusted is not None and trusted is not found:
        lines += ["", "The last run that did not break:", formats.as_text(trusted)]
    return "\n".join([*lines, *filter(None, [beside(snapshot)]), ""])


def _as_health(snapshot: Snapshot, _body: Mapping[str, Any]) -> str:
    return formats.as_health(snapshot.latest(), beside(snapshot), snapshot.trusted())


FORMATS: Mapping[str, Format] = {
    "json": Format("application/json", _as_json),
    "text": Format("text/plain; charset=utf-8", _as_text, slow=True),
    "health": Format("application/health+json", _as_health),
}
"""By the name that ``?format=`` takes; the first is the default."""

MEDIA_TYPES = {**{name: one.media_type for name, one in FORMATS.items()}, "html": "text/html"}
"""HTML is the page, which asks for the JSON itself."""
_ANY = ("", "*/*", MEDIA_TYPES["json"])


class UnknownFormatError(ValueError):
    """An unknown format; the message names the known ones."""


def chosen(scope: Scope, accept: str) -> str:
    """The name of the format that a request asks for; raises UnknownFormatError."""
    if scope["query_string"]:
        for name, value in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True):
            if name == "format":
                if value in MEDIA_TYPES:
                    return str(value)
                raise UnknownFormatError(f"format must be one of {', '.join(MEDIA_TYPES)}")
    return "json" if accept in _ANY else accepted(accept, MEDIA_TYPES)


def _entity_tag(name: str, known: object, body: Mapping[str, Any]) -> str:
    """A weak tag: it stands for the run and the process that answers, and not for their ages, which always change."""
    server = body["server"]
    facts = [name, known, body["origin"], body["status"]]
    facts += [server["instance_id"], server["pid"], server["restarts"], body["notifications"]]
    return f'W/"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}"'


class _Made(NamedTuple):
    """What was answered last in one format."""

    stamp: object
    until: float  # on the monotonic clock
    etag: str
    whole: Answer
    same: Answer
    """The 304."""


class Diagnostics:
    """The most recent report for this address, from any process, in the format that the client wants."""

    def __init__(self) -> None:
        self._made: dict[str, _Made] = {}
        self._making = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        accept = if_none_match = ""
        for name, value in scope["headers"]:
            if name == b"accept":
                accept += ("," if accept else "") + value.decode("latin-1")
            elif name == b"if-none-match":
                if_none_match = value.decode("latin-1")
        try:
            wanted = chosen(scope, accept)
        except UnknownFormatError as error:
            body = json.dumps({"error": str(error)}).encode()
            await Answer(400, MEDIA_TYPES["json"], body).send(send)
            return
        if wanted == "html":
            await pages.page(Request(scope))(scope, receive, send)
            return
        snapshot = services.of(scope).snapshot
        await snapshot.look()
        made = self._good(snapshot, wanted)
        if made is None and FORMATS[wanted].slow:
            async with self._making:  # one request makes the answer, the others wait for it
                made = self._good(snapshot, wanted)
                if made is None:
                    made = await asyncio.to_thread(self._make, snapshot, wanted)
        elif made is None:
            made = self._make(snapshot, wanted)
        same = if_none_match and unchanged(if_none_match, made.etag)
        await (made.same if same else made.whole).send(send)

    def _good(self, snapshot: Snapshot, name: str) -> _Made | None:
        made = self._made.get(name)
        if made is None or time.monotonic() >= made.until:
            return None
        if stamp(snapshot) != made.stamp:
            return None
        return made

    def _make(self, snapshot: Snapshot, name: str) -> _Made:
        # The stamp comes first: whatever changes after it makes the next answer a new one.
        known = stamp(snapshot)
        body = document(snapshot)
        one, etag = FORMATS[name], _entity_tag(name, known, body)
        headers: list[Header] = [(b"etag", etag.encode()), (b"vary", b"accept")]
        made = _Made(
            known, time.monotonic() + FRESH, etag,
            whole=Answer(200, one.media_type, one.render(snapshot, body).encode(), headers),
            same=Answer(304, "", b"", headers, shown=False),
        )  # fmt: skip
        self._made[name] = made
        return made
