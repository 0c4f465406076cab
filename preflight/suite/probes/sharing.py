"""Answers of providers that re-runs share with the re-runs of other instances.

Starts, checks and plain pytest always ask the provider: there is no :class:`Sharing` for them. A re-run uses a good
answer that another instance has had within ``answers_kept``, and says that it is shared. It never uses a bad answer:
the provider is then asked from here, before anything is taken out of service.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from preflight.settings.model import Settings

A = TypeVar("A")

MARGIN = 1.0  # seconds beyond a question's own that a claim and its answer take through the database


def lease(timeout: float) -> float:
    """Seconds to wait for another instance's answer to a question that may take ``timeout`` seconds.

    After that, the instance asks itself, and its question's own time begins.
    """
    return timeout + MARGIN


class Sharing:
    """What one re-run shares. Made by :meth:`of`; asked from several threads."""

    def __init__(self, settings: Settings) -> None:
        # Only here: psycopg is imported with it, and is not needed elsewhere.
        from preflight.fleet.answers import AnswerTable

        asker = os.uname().nodename + (f":{settings.port}" if settings.uds is None else "")
        self._answers = AnswerTable(
            settings.database_url or "", settings.environment, asker=asker, kept=settings.answers_kept
        )

    @classmethod
    def of(cls, settings: Settings, origin: str) -> Sharing | None:
        """The sharing of a run; None if the run always asks the provider."""
        wanted = settings.database_url and settings.answers_kept and not settings.offline
        return cls(settings) if origin == "rerun" and wanted else None

    def answer(
        self,
        key: str,
        about: Sequence[str],
        asked: Callable[[], A],
        *,
        is_good: Callable[[A], bool],
        shared: Callable[[str, float], A],
        timeout: float,
        patience: float = math.inf,
    ) -> A:
        """What ``asked`` returns, or what ``shared`` makes of another instance's good answer.

        :param key: the secret that the answer is about; ``about``: all else that it depends on.
        :param shared: is called with words for people ("asked by web-7:8002, 23 s ago") and the provider's seconds.
        :param timeout: seconds that ``asked`` may take, here and elsewhere: an answer that is on its way is waited for
            as long, and no longer than ``patience``.
        """
        from preflight.fleet import answers

        try:
            question = answers.SharedQuestion(key, about)
        except ValueError:
            return asked()
        found = self._answers.take(question, lease(timeout), patience)
        if isinstance(found, answers.Known):
            return shared(f"asked by {found.asked_by}, {found.age:.0f} s ago", found.seconds)
        begun = time.monotonic()
        good = False
        try:
            answer = asked()
            good = is_good(answer)
        finally:
            # Only whether it was good: an instance that waits for the answer asks the provider if it was not.
            if found is not None:
                self._answers.tell(question, found, is_good=good, seconds=time.monotonic() - begun)
        return answer

    def close(self) -> None:
        """Wait until the answers are stored for the others, for a second at most."""
        self._answers.close()
