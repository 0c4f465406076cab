"""Questions to the network, asked concurrently. A probe returns what it found; requirements judge.

To add one: write a function that makes a :class:`Question` from the environment and name it in
QUESTIONS; a requirement then reads ``probes["name"]``.
"""

from __future__ import annotations

import errno
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflight.settings import Settings

if TYPE_CHECKING:
    import requests


@dataclass(frozen=True, slots=True)
class Question:
    """One HTTP request that costs nothing."""

    url: str
    key: str | None = None
    method: str = "GET"

    @property
    def shown(self) -> str:
        """The URL without what may be secret in it: a user's password, a query."""
        scheme, mark, rest = self.url.partition("?")[0].partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, or in ``failure`` why nothing did."""

    url: str
    status: int | None = None
    retry_after: str | None = None
    failure: str | None = None
    """None: answered. Else "no answer within 2 s", "connection refused", ..., without the URL."""
    seconds: float = 0.0


def openai(environment: Mapping[str, str]) -> Question:
    """List the models: free, and every compatible service is meant to have it.

    https://platform.openai.com/docs/api-reference/models/list
    """
    base = environment.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
    return Question(_below(base, "/models"), environment.get("OPENAI_API_KEY"))


def perplexity(environment: Mapping[str, str]) -> Question:
    """List one's own asynchronous jobs: needs the key and spends nothing; Sonar itself has no model list.

    https://docs.perplexity.ai/api-reference/async-chat-completions-get
    """
    base = environment.get("PERPLEXITY_BASE_URL") or "https://api.perplexity.ai"
    return Question(_below(base, "/async/chat/completions"), environment.get("PERPLEXITY_API_KEY"))


def _below(base: str, path: str) -> str:
    """A route below a base URL; the base's query (an api-version, say) stays behind it."""
    address, mark, query = base.partition("?")
    return f"{address.rstrip('/')}{path}{mark}{query}"


QUESTIONS: Mapping[str, Callable[[Mapping[str, str]], Question]] = {"openai": openai, "perplexity": perplexity}


class Probes(Mapping[str, Reply]):
    """All questions, asked at once on :meth:`start`; an item waits for its reply until its deadline.

    The threads are daemons: one that hangs in name resolution, which no time-out reaches, must not
    keep the process alive.
    """

    def __init__(self, settings: Settings) -> None:
        self._timeout = settings.probe_timeout
        self._offline = settings.offline
        self._unused = settings.unused
        self._questions = {name: make(settings.environment) for name, make in QUESTIONS.items()}
        self._replies: dict[str, Reply] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._begun = 0.0

    def start(self) -> None:
        """Ask everything; with ``offline`` nothing is asked."""
        if self._offline:
            return
        self._begun = time.monotonic()
        for name, question in self._questions.items():
            if name in self._unused:
                continue
            thread = threading.Thread(target=self._ask, args=(name, question), name=f"probe-{name}", daemon=True)
            self._threads[name] = thread
            thread.start()

    def _ask(self, name: str, question: Question) -> None:
        self._replies[name] = ask(question, self._timeout)

    def __getitem__(self, name: str) -> Reply:
        question = self._questions[name]
        if name not in self._threads:
            why = "not used" if name in self._unused else "offline"
            return Reply(question.shown, failure=f"not asked ({why})")
        self._threads[name].join(max(0.0, self._begun + self._timeout - time.monotonic()))
        late = Reply(question.shown, failure=f"no answer within {self._timeout:g} s", seconds=self._timeout)
        return self._replies.get(name, late)

    def __iter__(self) -> Iterator[str]:
        return iter(self._questions)

    def __len__(self) -> int:
        return len(self._questions)


def ask(question: Question, timeout: float) -> Reply:
    """Send one request and read the status of the answer, within about ``timeout`` seconds."""
    import requests  # 60 ms, and only where something is asked

    class Bearer(requests.auth.AuthBase):
        # An auth object of our own: without one requests takes what ~/.netrc says about this host.
        def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
            if question.key:
                request.headers["Authorization"] = f"Bearer {question.key}"
            return request

    begun = time.monotonic()
    try:
        # No redirects: they could carry the key elsewhere. The body is not read: its text is theirs.
        with requests.request(
            question.method, question.url, auth=Bearer(), timeout=timeout, allow_redirects=False, stream=True
        ) as response:
            return Reply(
                question.shown,
                status=response.status_code,
                retry_after=response.headers.get("Retry-After"),
                seconds=time.monotonic() - begun,
            )
    except (requests.RequestException, ValueError) as error:
        return Reply(question.shown, failure=_failure(error, timeout), seconds=time.monotonic() - begun)


def _failure(error: Exception, timeout: float) -> str:
    """Why there is no answer, in words that hold no part of the request."""
    import requests

    causes = list(_causes(error))
    if isinstance(error, requests.Timeout):
        return f"no answer within {timeout:g} s"
    # http.client, which gets the header, says the rest with a plain ValueError.
    if isinstance(error, requests.exceptions.InvalidHeader | UnicodeError) or type(error) is ValueError:
        return "the key has characters that no HTTP header can carry"
    if isinstance(error, requests.exceptions.SSLError):
        reason = next((cause.verify_message for cause in causes if hasattr(cause, "verify_message")), "")
        return f"TLS failed: {reason}" if reason else "TLS failed"
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return "the host name cannot be resolved (DNS)"
    numbers = {cause.errno for cause in causes if isinstance(cause, OSError)}
    if errno.ECONNREFUSED in numbers:
        return "connection refused"
    if numbers & {errno.ENETUNREACH, errno.EHOSTUNREACH}:
        return "the host cannot be reached"
    if any(isinstance(cause, http.client.HTTPException) and not isinstance(cause, OSError) for cause in causes):
        return "what answers does not speak HTTP"
    if numbers & {errno.ECONNRESET, errno.EPIPE} or isinstance(error, requests.ConnectionError):
        return "the connection was closed without an answer"
    if isinstance(error, ValueError):
        return "the address is not a valid URL"
    return f"the request failed ({type(error).__name__})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and all that led to it; requests and urllib3 also hide causes in ``args`` and ``reason``."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [current.__cause__, current.__context__, getattr(current, "reason", None)]
        waiting += [arg for arg in current.args if isinstance(arg, BaseException)]
        waiting = [one for one in waiting if isinstance(one, BaseException)]
