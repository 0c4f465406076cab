"""The failures of a language model. Light: a turn knows them without the libraries that failed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class ProviderError(Exception):
    """The model gave no answer. ``code`` is a client's (see chat/messages.py), ``retry``: trying again may help."""

    code: str
    message: str
    retry: bool
    retry_after: float | None = None  # seconds, as the service asks
    again: bool = False
    """Whether to try again here, at once."""
