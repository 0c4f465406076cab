"""``ready.http``: a service answers over HTTP, with a status and with JSON as expected."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Unpack
from urllib.parse import urlsplit

from preflight.contract import Details
from preflight.making import Ask, Failure, Instead, imported, literal, requirement, unknown, without_query
from preflight.making import url as parsed
from preflight.ready.network import resolved
from preflight.suite.probes import asking, clients, egress
from preflight.text import foreign

NO_JSON = object()
"""Stands for a missing document; None is a document, JSON's null."""


class HttpAnswer(NamedTuple):
    """The answer to a request."""

    target: str
    status: int
    seconds: float
    document: Any
    """Its JSON; `NO_JSON` if it is not JSON."""
    location: str
    """The host that a redirection points to; empty if there is none."""
    cut: str
    """Why it could not be read completely; empty if it was."""


def http(
    name: str, *, status: int | Collection[int] = 200, path: str = "", equals: Any = ..., **instead: Unpack[Instead]
) -> Callable[..., None]:
    """``GET`` answers with this status; and with JSON that has ``path`` ("models.0.state"), which ``equals`` a value.

    Without a path, all of the JSON is compared. ``name`` is a URL or the variable that has one. A redirection is not
    followed: it is an answer like others.
    """
    given = literal(name) if "://" in name else ""
    wanted = {status} if isinstance(status, int) else set(status)

    def probe(ask: Ask) -> HttpAnswer:
        named = replace(ask, value=given, variable=name) if given else ask
        parsed(named, ["http", "https"], "the URL of an HTTP service")
        return get(named.value, ask)

    def judge(answer: HttpAnswer, details: Details) -> None:
        details.update(url=answer.target, status=answer.status, seconds=round(answer.seconds, 3))
        to = f", a redirection to {answer.location}" if answer.location else ""
        assert answer.status in wanted, f"{answer.target} answered HTTP {answer.status}{to}"
        if answer.cut:
            unknown(f"the answer of {answer.target} {answer.cut}")
        if path or equals is not ...:
            assert answer.document is not NO_JSON, f"{answer.target} did not answer with JSON"
            there, value = _at(answer.document, path) if path else (True, answer.document)
            assert there, f"the answer of {answer.target} has no {path}"
            what = f"{path} in the answer" if path else "the JSON"
            assert equals is ... or _are_equal(value, equals), f"{what} of {answer.target} is not {equals!r}"
        details.summary = f"HTTP {answer.status} in {answer.seconds:.2f} s"

    return requirement(
        probe,
        judge,
        variable="" if given else name,
        title=f"HTTP {without_query(name)}",
        doc=f"{without_query(name)} answers over HTTP.",
        fix="look at what the service logs",
        needs=["network"],
        instead=instead,
    )


def get(address: str, ask: Ask, headers: Mapping[str, str] | None = None) -> HttpAnswer:
    """The answer to one GET. Raises Failure if there is none."""
    return send("GET", address, ask, headers)


def send(
    method: str, address: str, ask: Ask, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> HttpAnswer:
    """The answer to one request, in the way that the application's client would ask (egress.py).

    Raises Failure if there is none, in words that hold no part of what is secret in the address.
    """
    httpx2 = imported("httpx2", "http")
    target = target_of(address, ask)
    begun = time.monotonic()
    try:
        client = clients.build(ask.environment, address, ask.timeout)
    except egress.Fault as fault:
        raise Failure(str(fault), fault.fix) from None
    course = asking.Course()
    with client.http as http:
        try:
            sent = {"Accept-Encoding": "identity", **(headers or {})}
            request = http.build_request(method, address, headers=sent, content=body or None)
            request.extensions["trace"] = course
            request.extensions["timeout"] = {**request.extensions["timeout"], "connect": _to_connect(request, ask)}
            # No redirects: they could carry a key elsewhere.
            response = http.send(request, stream=True, follow_redirects=False)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            through = f", through the proxy {client.used[-1].shown}" if client.used else ""
            what = asking.failure(error, ask.timeout, received=course.received)
            raise Failure(f"{target}: {what}{through}") from None
        with contextlib.closing(response):
            location = response.headers.get("location", "")
            content = asking.body_of(response, begun + ask.timeout)
    cut = "" if content is not None else f"did not end, or has more than {asking.LONGEST_BODY >> 20} MiB"
    try:
        document = json.loads(content or b"")
    except (ValueError, RecursionError):
        document = NO_JSON
    to = _host_of(location) if location else ""
    return HttpAnswer(target, response.status_code, time.monotonic() - begun, document, to, cut)


def target_of(address: str, ask: Ask) -> str:
    """Who is asked, for people: of a variable's address only the host, since a path may be the secret."""
    shown = asking.Question(address).shown
    scheme, mark, rest = shown.partition("://")
    return f"{scheme}{mark}{rest.partition('/')[0]}" if ask.value else shown


def _to_connect(request: Any, ask: Ask) -> float:
    """The seconds for each address: the first of several may swallow everything, and the others get their turn."""
    if egress.routes(ask.environment):
        return ask.timeout  # a proxy may resolve what this machine cannot
    port = request.url.port or (443 if request.url.scheme == "https" else 80)
    return ask.timeout / max(1, len(resolved(request.url.host, port, ask.timeout)))


def _host_of(location: str) -> str:
    """The host that a redirection points to, for people: the rest of it may repeat secrets of the request."""
    try:
        return foreign(urlsplit(location).hostname or "another page of its own")
    except ValueError:
        return "something that is not an address"


def _are_equal(value: Any, other: Any) -> bool:
    """As JSON has it: true is not 1, and 1.0 is."""
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(_are_equal(held, other[key]) for key, held in value.items())
    if isinstance(value, list) and isinstance(other, list | tuple):
        return len(value) == len(other) and all(map(_are_equal, value, other))
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def _at(document: Any, path: str) -> tuple[bool, Any]:
    for part in path.split("."):
        if isinstance(document, dict) and part in document:
            document = document[part]
        elif isinstance(document, list) and part.isdecimal() and int(part) < len(document):
            document = document[int(part)]
        else:
            return False, None
    return True, document
