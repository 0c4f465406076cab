"""Questions to the network, asked concurrently. A probe returns what it found; requirements judge.

To add one: write a function that makes a :class:`Question` from the environment and name it in QUESTIONS; a requirement
then reads ``probes["name"]``. asking.py asks the questions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from preflight.settings.model import Settings
from preflight.suite.probes import asking
from preflight.suite.probes.asking import Question, Reply, Request, below
from preflight.suite.probes.egress import Fault
from preflight.suite.probes.sharing import lease

if TYPE_CHECKING:
    from preflight.suite.probes.sharing import Sharing

LOOK = 0.1  # seconds between two looks whether a question has left
GRACE = 0.5  # seconds that a requirement has beyond its questions, to judge


def openai(environment: Mapping[str, str]) -> Question:
    """List the models: free, and every compatible service is meant to have it.

    https://platform.openai.com/docs/api-reference/models/list
    """
    return _question(environment, "OPENAI", "https://api.openai.com/v1", "models", ("data",))


def perplexity(environment: Mapping[str, str]) -> Question:
    """List one's own asynchronous jobs: needs the key and spends nothing; Sonar itself has no model list.

    https://docs.perplexity.ai/api-reference/async-chat-completions-get
    """
    lists = ("requests", "data")
    return _question(environment, "PERPLEXITY", "https://api.perplexity.ai", "async/chat/completions", lists)


def _question(
    environment: Mapping[str, str], prefix: str, default: str, route: str, lists: tuple[str, ...]
) -> Question:
    variable = f"{prefix}_BASE_URL"
    base = environment.get(variable)
    return Question(
        below(base or default, route),
        environment.get(f"{prefix}_API_KEY"),
        environment=environment,
        lists=lists,
        variable=variable if base else "",
    )


QUESTIONS: Mapping[str, Callable[[Mapping[str, str]], Question]] = {"openai": openai, "perplexity": perplexity}


class Probes(Mapping[str, Reply]):
    """All questions, asked at once on :meth:`start`; an item waits for its reply until its deadline.

    The threads are daemons: one that hangs in name resolution, which no time-out reaches, must not keep the process
    alive.
    """

    def __init__(self, settings: Settings, sharing: Sharing | None = None) -> None:
        self._timeout = settings.probe_timeout
        self._sharing = sharing
        # The requirement that waits for another instance's answer still has time to ask the service itself.
        self._patience = max(0.0, settings.requirement_timeout - self._timeout - GRACE)
        self._offline = settings.offline
        self._unused = settings.unused
        self._questions = {name: make(settings.environment) for name, make in QUESTIONS.items()}
        self._replies: dict[str, Reply] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._begun = 0.0
        self._sent: dict[str, Request] = {}
        self._left: dict[str, float] = {}
        """When each question left, on the monotonic clock."""

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
        prepared = asking.prepare(question, self._timeout)
        if isinstance(prepared, Reply):
            self._left[name] = time.monotonic()
            self._replies[name] = prepared
        elif self._sharing is None:
            self._replies[name] = self._send(name, prepared)
        else:
            self._replies[name] = self._sharing.answer(
                question.key or "",
                question.about,
                lambda: self._send(name, prepared),
                is_good=lambda reply: reply.is_list,
                shared=lambda words, seconds: asking.good(question, words, seconds),
                timeout=self._timeout,
                patience=self._patience,
            )
            prepared.client.http.close()

    def _send(self, name: str, request: Request) -> Reply:
        self._left[name] = time.monotonic()
        self._sent[name] = request
        return request.send(lambda reply: self._replies.__setitem__(name, reply))

    def __getitem__(self, name: str) -> Reply:
        question = self._questions[name]
        if name not in self._threads:
            why = "not used" if name in self._unused else "offline"
            return Reply(question.shown, failure=f"not asked ({why})")
        thread = self._threads[name]
        # The time to get ready, an import above all, was not the service's; nor was the wait for another instance's
        # answer.
        until = self._begun + self._timeout
        if self._sharing is not None:
            until += min(lease(self._timeout), self._patience)
        while thread.is_alive() and time.monotonic() < min(self._left.get(name, until), until) + self._timeout:
            thread.join(LOOK)
        if (reply := self._replies.get(name)) is not None:
            return reply
        if (sent := self._sent.get(name)) is not None:
            return sent.late()
        return Reply(question.shown, failure=asking.no_answer(self._timeout), seconds=self._timeout)

    def fault(self, name: str) -> Fault | None:
        """Why the client could send nothing, whatever the service does; None if it could. Sends nothing."""
        if name in self._threads and self[name].status is not None:
            return None
        return asking.fault(self._questions[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._questions)

    def __len__(self) -> int:
        return len(self._questions)
