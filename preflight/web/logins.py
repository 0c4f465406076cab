"""The token and the code that open the routes under a prefix, and the logins that the processes of a server share."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import NamedTuple, Protocol


class Logins(Protocol):
    """The state of a one-time code and of logins; several processes may share it."""

    def spend(self, code: str) -> bool:
        """Whether this is the one-time code, which counts for the first time only."""

    def end(self, session: str) -> None:
        """Revoke a login."""

    def has_ended(self, session: str) -> bool:
        """Whether somebody has ended this login."""


class Admission(NamedTuple):
    """What opens the routes under a prefix. There is a token in any case: a process that has it may make logins."""

    token: str
    is_made: bool
    """Whether the start has made it, for its lifetime, because the settings have none: nobody has been told it."""
    logins: Logins


class OwnLogins:
    """The logins of a server behind the launcher, which knows whether the code was spent."""

    def __init__(
        self, code: str = "", spent: Callable[[], object] = lambda: None, first: Callable[[], bool] = lambda: True
    ) -> None:
        """``code`` is empty if there is none, or none any more; ``spent`` is called when it is used.

        ``first`` says whether no other worker of the instance was quicker.
        """
        self._code = code
        self._spent = spent
        self._first = first

    def spend(self, code: str) -> bool:
        """Whether this is the one-time code, which counts for the first time only."""
        if not self._code or not same(code, self._code):
            return False
        self._code = ""
        if not self._first():
            return False
        self._spent()
        return True

    def end(self, session: str) -> None:
        """Do nothing: :class:`preflight.web.logincookies.LoginCookies` remembers that itself."""

    def has_ended(self, session: str) -> bool:  # noqa: ARG002  # as above
        """False: other workers' logouts come by :class:`preflight.web.fellows.Fellows`."""
        return False


def same(one: str, other: str) -> bool:
    """Whether two secrets are the same; takes the same time whatever they are, and however long."""
    return hmac.compare_digest(hashlib.sha256(one.encode()).digest(), hashlib.sha256(other.encode()).digest())
