"""One question to the network: what is sent, how far it gets, and which parts of the answer count.

egress.py decides how it leaves this machine (headers, proxy, certificates); clients.py builds its client.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from preflight.suite.probes import clients, egress
from preflight.suite.probes.egress import Fault, Proxy

if TYPE_CHECKING:
    import httpx2

LONGEST_BODY = 4 * 1024 * 1024  # bytes of an answer that are read: the longest list of models has 1 MiB
UNSENDABLE = "the key has characters that no HTTP header can carry"
_CODE = re.compile(r"(?=.{2,60}\Z)[A-Za-z]+(?:[_.-][A-Za-z]+)*")  # words: a key that comes back has digits
_MEDIA = re.compile(r"[a-z0-9][a-z0-9.+-]{0,40}/[a-z0-9][a-z0-9.+-]{0,60}")


@dataclass(frozen=True, slots=True)
class Question:
    """One HTTP request that costs nothing."""

    url: str
    key: str | None = None
    method: str = "GET"
    environment: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """The variables that decide on headers, proxy and certificates."""
    lists: tuple[str, ...] = field(default=("data",), compare=False)
    """The names under which a good answer, a JSON object, may have the list that is asked for."""
    variable: str = field(default="", compare=False)
    """The variable that the URL comes from, where one does."""
    headers: Mapping[str, str] | None = field(default=None, repr=False, compare=False)
    """The headers that are sent instead of those of OpenAI's client."""

    @property
    def about(self) -> tuple[str, ...]:
        """Everything that the answer depends on: the same for every instance with the same question and key."""
        try:
            sent = self.headers or egress.headers(self.environment, self.key)
        except Fault:  # then nothing is sent, and nobody has a good answer
            sent = {}
        return (self.method, self.url, *self.lists, *(f"{name}: {value}" for name, value in sorted(sent.items())))

    @property
    def shown(self) -> str:
        """The URL without what may be secret in it: a user's password, a query."""
        scheme, mark, rest = self.url.partition("?")[0].partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer, or in ``failure`` the reason why there is none."""

    url: str
    status: int | None = None
    retry_after: str | None = None
    failure: str | None = None
    """None: answered. Else "no answer within 2 s", "connection refused", ..., without the URL."""
    seconds: float = 0.0
    media: str = ""
    """The answer's media type, "text/html" say; empty if it names none, or an odd one."""
    is_json: bool = False
    """Whether its body is a JSON document, whatever its media type."""
    is_list: bool = False
    """Whether it is the expected answer: HTTP 200, and JSON with the list in it."""
    code: str = ""
    """The service's own code of an error, "missing_scope" say."""
    is_whole: bool = True
    """Whether its body ended in time, and was not too long to be read."""
    proxy: Proxy | None = None
    """The proxy that it went to, if any."""
    at_proxy: bool = False
    """Whether it failed there; then nothing is known about the service."""
    shared: str = ""
    """Who asked in place of this instance, and when, for people; empty if it asked itself."""
    fault: Fault | None = None
    """Why nothing could be sent, if that is certain and not the network's fault."""

    @property
    def seen(self) -> str:
        """The answer in a few words, for people: "HTTP 403, missing_scope" or "HTTP 200, text/html"."""
        what = self.code or ("" if self.is_json else self.media if self.is_whole else "and the answer did not end")
        return f"HTTP {self.status}{f', {what}' if what else ''}{self.through}"

    @property
    def through(self) -> str:
        """Names the proxy that may have answered in the service's place; empty if none can have."""
        return f", through the proxy {self.proxy.shown}" if self.proxy and self.url.startswith("http://") else ""


def below(base: str, route: str) -> str:
    """A route below a base URL, as openai's client puts it there: behind a query as well, if the base has one."""
    address, _, _fragment = base.partition("#")
    path, mark, query = address.partition("?")
    return f"{path if path.endswith('/') else f'{path}/'}{mark}{query}{route}"


class Course:
    """How far a request has come: httpcore2's extension ``trace``."""

    def __init__(self) -> None:
        self.steps: set[str] = set()
        self.received = False
        """Whether anything came back, HTTP or not; known of connections without TLS."""

    def __call__(self, step: str, info: Mapping[str, Any]) -> None:
        self.steps.add(step)
        if step.endswith(".connect_tcp.complete"):
            stream = info["return_value"]
            stream.read = self._noticing(stream.read)

    def _noticing(self, read: Callable[..., bytes]) -> Callable[..., bytes]:
        def noticed(*args: Any, **options: Any) -> bytes:
            data = read(*args, **options)
            self.received = self.received or bool(data)
            return data

        return noticed

    @property
    def connected(self) -> bool:
        """Whether there is a connection, to the service or to the proxy that the request went to."""
        if "connection.start_tls.started" in self.steps and "connection.start_tls.complete" not in self.steps:
            return False
        return bool(self.steps & {"connection.connect_tcp.complete", "socks.setup_socks5_connection.complete"})

    @property
    def tunnelled(self) -> bool:
        """Whether it is inside a tunnel, where the proxy no longer answers itself."""
        return bool(self.steps & {"proxy.start_tls.started", "socks.start_tls.started"})


def fault(question: Question) -> Fault | None:
    """Why the client for this question cannot be built, or cannot send it; None if it can."""
    try:
        _prepared(question, 1.0)[0].http.close()
    except Fault as error:
        return error
    return None


def _prepared(question: Question, timeout: float) -> tuple[clients.Client, httpx2.Request]:
    """The client, and what it sends. Raises Fault."""
    import httpx2  # 70 ms, and only where something is asked

    headers = dict(question.headers or egress.headers(question.environment, question.key))
    client = clients.build(question.environment, question.url, timeout)
    try:
        headers.setdefault("Accept-Encoding", "identity")  # our only difference from the agent's request: we read less
        request = client.http.build_request(question.method, question.url, headers=headers)
        url = request.url
        # httpx2 checks the scheme only when it sends, and never the port or the form of the name: the sockets do.
        good = url.scheme in ("http", "https") and url.host and (url.port or 0) <= 65535
        url.host.encode("idna")
    except (httpx2.InvalidURL, ValueError):
        good = False
    if not good:
        client.http.close()
        named = Fault(question.variable, "is not a valid http:// or https:// URL")
        raise named if question.variable else Fault("", "the address is not a valid URL")
    return client, request


def ask(question: Question, timeout: float) -> Reply:
    """Send one request and read the answer, within about ``timeout`` seconds."""
    prepared = prepare(question, timeout)
    return prepared if isinstance(prepared, Reply) else prepared.send()


def good(question: Question, shared: str, seconds: float) -> Reply:
    """The reply for a good answer that another instance has had: ``shared`` says who and when, for people."""
    return Reply(
        question.shown, status=200, seconds=seconds, media="application/json", is_json=True, is_list=True, shared=shared
    )


def prepare(question: Question, timeout: float) -> Request | Reply:
    """What is going to be sent, or a reply that says why nothing can be."""
    try:
        client, request = _prepared(question, timeout)
    except Fault as error:
        return Reply(question.shown, failure=str(error), fault=error)
    return Request(question, timeout, client, request)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready to leave."""

    question: Question
    timeout: float
    client: clients.Client
    request: httpx2.Request
    course: Course = field(default_factory=Course)

    def send(self, on_head: Callable[[Reply], object] = lambda _reply: None) -> Reply:
        """Send it, once, and read the answer.

        ``on_head`` is called with what is known of the answer before its body is read, which may never end.
        """
        import httpx2

        begun = time.monotonic()
        self.request.extensions["trace"] = self.course
        with self.client.http as http:
            try:
                # No redirects: they could carry the key elsewhere.
                response = http.send(self.request, stream=True, follow_redirects=False)
            except (httpx2.HTTPError, OSError, ValueError) as error:
                return self._failed(error, time.monotonic() - begun)
            with contextlib.closing(response):
                reply = Reply(
                    self.question.shown,
                    status=response.status_code,
                    retry_after=response.headers.get("Retry-After"),
                    seconds=time.monotonic() - begun,
                    media=_media(response.headers.get("Content-Type", "")),
                    proxy=self._proxy,
                )
                if reply.status == 407 and reply.proxy is not None:
                    return replace(reply, status=None, failure=_refusal(reply.proxy, "407", ""), at_proxy=True)
                on_head(replace(reply, is_whole=False))
                body = body_of(response, begun + self.timeout)
                lists = self.question.lists if reply.status == 200 else ()
                found = _understood(body or b"", lists, self.question.key or "")
                return replace(reply, is_whole=body is not None, **found)

    @property
    def _proxy(self) -> Proxy | None:
        return self.client.used[-1] if self.client.used else None

    def late(self) -> Reply:
        """A reply that says that none has come in time, and how far the request has got."""
        return self._unanswered(no_answer(self.timeout), self.timeout)

    def _failed(self, error: Exception, seconds: float) -> Reply:
        """A reply that says why there is none, and whether that is the proxy's fault."""
        import httpx2

        proxy = self._proxy
        if proxy is not None and isinstance(error, httpx2.ProxyError):
            refusal = _refusal(proxy, str(error), self.request.url.host)
            return Reply(self.question.shown, seconds=seconds, proxy=proxy, failure=refusal, at_proxy=True)
        return self._unanswered(failure(error, self.timeout, received=self.course.received), seconds)

    def _unanswered(self, failure: str, seconds: float) -> Reply:
        proxy, course = self._proxy, self.course
        reply = Reply(self.question.shown, seconds=seconds, proxy=proxy)
        if proxy is None:
            return replace(reply, failure=failure)
        # In a tunnel the service answers, hangs up or shows a certificate; before there is one, the proxy does.
        if course.tunnelled or (course.connected and reply.url.startswith("http://")):
            return replace(reply, failure=f"{failure} (through the proxy {proxy.shown})")
        return replace(reply, failure=f"the proxy {proxy.shown}: {failure}", at_proxy=True)


def _media(said: str) -> str:
    media = said.partition(";")[0].strip().lower()
    return media if _MEDIA.fullmatch(media) else ""


def body_of(response: httpx2.Response, deadline: float) -> bytes | None:
    """The body, if it ends in time and is no longer than LONGEST_BODY; else None: the status is an answer even so."""
    import httpx2

    body = bytearray()
    try:
        for piece in response.iter_bytes():
            body += piece
            if len(body) > LONGEST_BODY or time.monotonic() > deadline:
                return None
    except (httpx2.HTTPError, OSError):
        return None
    return bytes(body)


def _understood(body: bytes, lists: tuple[str, ...], key: str) -> dict[str, Any]:
    """The fields of a Reply that its body decides: whether it is JSON, whether it has one of ``lists``, its error code.

    A code that contains a part of the key is left out: redaction looks for whole keys.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if isinstance(document, list):  # some compatible services leave the object around it out
        models = bool(document) and all(isinstance(one, dict) and "id" in one for one in document)
        return {"is_json": True, "is_list": bool(lists) and models}
    if not isinstance(document, dict):
        return {"is_json": True}
    error = _error_in(document)
    fine = error is None and document.get("success", True) is True
    asked_for = fine and any(_is_list_of_objects(document.get(name)) for name in lists)
    code = code_of(document, key) if error is not None or not asked_for else ""
    return {"is_json": True, "is_list": asked_for, "code": code}


def code_of(document: Any, key: str) -> str:
    """The service's own code of an error in its JSON; empty if it has none, or one that repeats a part of the key."""
    if not isinstance(document, dict):
        return ""
    error = _error_in(document)
    places = [error, document] if isinstance(error, dict) else [{"code": error}, document]
    codes = [place.get(name) for place in places for name in ("code", "type")]
    details = places[0].get("details")  # Google's: https://google.aip.dev/193
    codes += [one.get("reason") for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    parts = {key[start : start + 6] for start in range(len(key) - 5)}
    words = [code for code in codes if isinstance(code, str) and _CODE.fullmatch(code)]
    return next((code for code in words if not any(part in code for part in parts)), "")


def _error_in(document: dict[str, Any]) -> Any:
    error = document.get("error") or document.get("errors")
    if isinstance(error, list):
        return error[0] if error else None
    return error


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _refusal(proxy: Proxy, said: str, host: str) -> str:
    """Why a proxy has made no connection; ``said`` begins with its status, or has SOCKS' own words in httpcore2's."""
    status = said[:3] if re.match(r"[1-9][0-9]{2}\b", said) else ""
    if status == "407" or "Invalid username" in said or "NO ACCEPTABLE METHODS" in said:
        wants = "refuses the user and the password" if proxy.has_login else "wants a user and a password"
        return f"the proxy {proxy.shown} {wants}{' (HTTP 407)' if status else ''}"
    does = "cannot reach" if not status or status >= "500" else "refuses to connect to"
    return f"the proxy {proxy.shown} {does} {host}{f' (HTTP {status})' if status else ''}"


def no_answer(timeout: float) -> str:
    """The failure of a service that has not answered in time."""
    return f"no answer within {timeout:g} s"


def failure(error: Exception, timeout: float, *, received: bool) -> str:
    """Why there is no answer, in words that hold no part of the request."""
    import httpx2

    causes = list(_causes(error))
    if isinstance(error, httpx2.TimeoutException):
        return no_answer(timeout)
    if isinstance(error, httpx2.LocalProtocolError):
        return UNSENDABLE
    verification = [cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)]
    if verification:
        return f"TLS failed: {verification[0].verify_message}"
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "TLS failed"
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return "the host name cannot be resolved (DNS)"
    numbers = {cause.errno for cause in causes if isinstance(cause, OSError)}
    if errno.ECONNREFUSED in numbers:
        return "connection refused"
    if numbers & {errno.ENETUNREACH, errno.EHOSTUNREACH}:
        return "the host cannot be reached"
    if isinstance(error, httpx2.RemoteProtocolError) and received:
        return "the program that answers does not speak HTTP"
    if isinstance(error, httpx2.TransportError | OSError):
        return "the connection was closed without an answer"
    return f"the request failed ({type(error).__name__})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and all that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
