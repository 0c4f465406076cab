"""The token and the code that open the routes beside the application, for one instance and all of its workers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from preflight.settings.model import Settings

TOKEN, CODE = 32, 16  # random bytes, written in hexadecimal digits
ENDED = 10_000  # logins that somebody has ended, and that are remembered until they would have expired


@dataclass(slots=True)
class Login:
    """The token of the settings; or, if they have none, a secret token, and a code that logs one person in."""

    token: str
    code: str
    is_made: bool
    ended: dict[str, int] = field(default_factory=dict)
    """Logins that somebody has ended, by name, and when they would have expired, in seconds since the epoch."""

    @classmethod
    def of(cls, settings: Settings) -> Login:
        """Made anew for each instance."""
        if settings.token is not None:
            return cls(settings.token, "", is_made=False)
        return cls(os.urandom(TOKEN).hex(), os.urandom(CODE).hex(), is_made=True)

    @property
    def way_in(self) -> str:
        """The path to open, below the prefix; the link is valid once."""
        return f"/login?code={self.code}" if self.code else "/"

    def spend(self) -> None:
        """The code was used: no other worker accepts it."""
        self.code = ""

    def end(self, session: str, expires: int) -> None:
        """Somebody has logged out: no later worker accepts that login."""
        self.ended[session] = expires
        if len(self.ended) > ENDED:
            del self.ended[next(iter(self.ended))]

    def to_message(self) -> dict[str, Any]:
        """The login as JSON values, for the worker."""
        return {"token": self.token, "code": self.code, "is_made": self.is_made, "ended": self.ended}
