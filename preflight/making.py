"""What ready-made requirements are made of: a probe, which asks, and a judge, which decides.

Your own factory is a function that ends with ``return requirement(probe, judge, ...)``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NoReturn, Protocol, TypedDict, TypeVar
from urllib.parse import SplitResult, urlsplit

import pytest

from preflight.contract import Details, unknown
from preflight.redaction.keys import LOOKS_SECRET
from preflight.report.model import SCOPES

__all__ = ["Ask", "Failure", "Instead", "Made", "imported", "requirement", "unknown", "url"]

A = TypeVar("A")

TIMEOUT = 5.0  # seconds that a probe has
ATTRIBUTE = "__preflight_made__"
"""The attribute of a test function that keeps what it was made of."""


class Failure(Exception):
    """The probe is certain that the requirement does not hold. The message is shown to people, without any value.

    ``fix`` takes the place of the requirement's own.
    """

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


class Shares(Protocol):
    """The answers that a re-run shares with re-runs of other instances (preflight/suite/probes/sharing.py)."""

    def answer(
        self,
        key: str,
        about: Sequence[str],
        asked: Callable[[], A],
        *,
        is_good: Callable[[A], bool],
        shared: Callable[[str, float], A],
        timeout: float,
    ) -> A: ...


@dataclass(frozen=True, slots=True)
class Ask:
    """What a probe is asked with."""

    value: str = field(default="", repr=False)
    """The value of the requirement's variable: a secret. Empty if it has none."""
    variable: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The variables that the application will see."""
    root: Path = Path()
    """The project's folder, which relative paths start from."""
    timeout: float = TIMEOUT
    """Seconds that the probe has, in all."""
    settings: Any = field(default=None, repr=False)
    """The run's `preflight.settings.model.Settings`, for probes that have to know where a variable comes from."""
    sharing: Shares | None = field(default=None, repr=False)
    """None: this run always asks the provider."""

    def shared(
        self,
        about: Sequence[str],
        asked: Callable[[], A],
        *,
        is_good: Callable[[A], bool],
        shared: Callable[[str, float], A],
    ) -> A:
        """What ``asked`` returns; in a re-run of one of many instances perhaps the answer to another instance instead.

        Only a good answer about the same value is shared: ``shared`` makes it from who asked when, for people, and the
        seconds that it took. :param about: all that the answer depends on, beside the value.
        """
        if self.sharing is None:
            return asked()
        return self.sharing.answer(self.value, about, asked, is_good=is_good, shared=shared, timeout=self.timeout)


Probe = Callable[[Ask], Any] | Callable[[Ask], Awaitable[Any]]
Judge = Callable[[Any, Details], None]


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A requirement that was made by a factory."""

    probe: Probe
    variable: str
    optional: bool
    timeout: float
    file: str
    line: int
    """The line of the suite that made it, in ``file``."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where pytest is to say that a test stands: it reads the code of the function's attribute ``place_as``."""

    __code__: CodeType


class Instead(TypedDict, total=False):
    """What a suite says of a ready-made requirement in place of its factory: ``**instead: Unpack[Instead]``."""

    severity: str
    scope: str
    title: str
    doc: str
    fix: str
    """Counts for whatever the judge finds; what the probe knows better (a library that is missing) stays."""
    timeout: float


def requirement(
    probe: Probe,
    judge: Judge,
    *,
    title: str,
    doc: str,
    fix: str = "",
    severity: str = "critical",
    variable: str = "",
    optional: bool = False,
    needs: Sequence[str] = (),
    timeout: float = TIMEOUT,
    scope: str = "instance",
    instead: Instead | None = None,
) -> Callable[..., None]:
    """A test function: assign it to a name that begins with ``test_``.

    :param probe: asks, in a thread of its own from the run's beginning on; a plain or an async function of an
        :class:`Ask`. What it returns goes to the judge. It raises :class:`Failure` if it is certain, and calls
        :func:`unknown` where it could not ask; other exceptions are errors, which block like failures.
    :param judge: is given the answer and the requirement's details, and asserts what is required of it.
    :param title: what people call it. :param doc: the requirement, as one sentence.
    :param fix: a command or a sentence. :param severity: "critical" or "warning".
    :param variable: the name of the variable whose value the probe is about; one that is missing, empty or still a
        placeholder fails before anybody is asked, unless it is ``optional``.
    :param needs: "network" for what ``--offline`` leaves out; see preflight/contract.py.
    :param timeout: seconds that the probe has.
    :param scope: "fleet" for what all instances share: it takes no serving server out of service.
    :param instead: what the suite has said, in place of the same arguments; empty texts say nothing.
    """
    said: Instead = instead or {}
    title, doc, severity = said.get("title") or title, said.get("doc") or doc, said.get("severity", severity)
    fix, scope, timeout = said.get("fix") or fix, said.get("scope", scope), said.get("timeout", timeout)
    if severity not in ("critical", "warning"):
        raise ValueError(f"the severity of {title!r} is {severity!r}, but must be 'critical' or 'warning'")
    if scope not in SCOPES:
        raise ValueError(f"the scope of {title!r} is {scope!r}, but must be {' or '.join(map(repr, SCOPES))}")
    if variable and (not _NAME.fullmatch(variable) or LOOKS_SECRET.search(variable)):
        raise ValueError("a requirement takes the name of a variable, DATABASE_URL say, and never its value")
    frame = _module_that_calls()
    made = Made(probe, variable, optional, timeout, frame.f_code.co_filename, frame.f_lineno)

    def test(answers: Any, details: Details) -> Any:
        answer = answers.of(made, details)
        try:
            return judge(answer, details)  # what is not None is refused: nobody looks at it
        finally:
            if said.get("fix"):
                details.fix = ""  # the marker has the suite's own fix

    test.__doc__ = doc
    setattr(test, ATTRIBUTE, made)
    # Annotations and editors are shown the line of the suite, and not this one.
    place = _Place(frame.f_code.replace(co_firstlineno=frame.f_lineno))
    setattr(test, "place_as", place)  # noqa: B010  # a function's own attributes are unknown to type checkers
    deadline = 2 * timeout + MARGIN  # a re-run may wait for another instance's answer, and then ask
    mark = getattr(pytest.mark, severity)(title, fix=fix, needs=tuple(needs), timeout=deadline, scope=scope)
    marked: Callable[..., None] = mark(test)
    EVERY.append(made)
    return marked


MARGIN = 5.0  # seconds that a requirement has to judge, beyond its probe's
EVERY: list[Made] = []
"""All that were made in this process: one that pytest has not collected is a lost requirement."""


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _module_that_calls() -> FrameType:
    """The frame of the module that is being imported, which is the suite's, through however many functions."""
    frame = sys._getframe(2)
    while frame.f_code.co_name != "<module>" and frame.f_back is not None:
        frame = frame.f_back
    return frame


def literal(address: str) -> str:
    """An address that stands in the suite itself. Raises ValueError if it holds what belongs in a variable."""
    before_path = address.partition("://")[2].partition("/")[0]
    if "@" in before_path or LOOKS_SECRET.search(address) or _KEY_IN_QUERY.search(address):
        raise ValueError("an address with a user, a password or a key in it belongs in a variable: give its name")
    return address


def without_query(address: str) -> str:
    """An address as a title shows it."""
    return address.partition("?")[0].partition("#")[0]


_KEY_IN_QUERY = re.compile(r"[?&][^=&]*(?:key|token|secret|pass|pwd|sig|auth)[^=&]*=", re.IGNORECASE)


def url(ask: Ask, schemes: Sequence[str], what: str) -> SplitResult:
    """The variable's URL. Raises :class:`Failure`, without the value, if it is no URL, or another service's.

    ``what`` says what it should be, for people: "the URL of a PostgreSQL database".
    """
    example = f"{schemes[0]}://..."
    fix = f"set {ask.variable} to {what}, {example}"
    try:
        found = urlsplit(ask.value)
        _ = found.port
    except ValueError:
        raise Failure(
            f"{ask.variable} is not {what}: its port is not a number: does the password have a ':', '@' or '/' in it?",
            f"write such characters of the password as %3A, %40 and %2F in {ask.variable}",
        ) from None
    if not found.scheme or "://" not in ask.value:
        raise Failure(f"{ask.variable} is not {what}: it does not begin with {schemes[0]}://", fix)
    if found.scheme not in schemes:
        other = f" ({found.scheme}://)" if found.scheme in _KNOWN else ""
        raise Failure(f"{ask.variable} is the URL of something else{other}, not {what}", fix)
    if not found.hostname:
        raise Failure(f"{ask.variable} has no host in it", fix)
    return found


_KNOWN = frozenset({
    "amqp", "file", "ftp", "http", "https", "mongodb", "mysql", "postgres", "postgresql", "redis", "rediss", "sqlite",
    "ssh", "ws", "wss",
})  # fmt: skip
"""Schemes that may be shown: whatever else stands before a colon could be a user's name, or a key's beginning."""


def imported(module: str, extra: str) -> Any:
    """Import a library that only this probe needs. Raises :class:`Failure` with the command that installs it."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        missing = (error.name or module).partition(".")[0]
        raise Failure(f"{missing} is not installed, and this check needs it", installs(extra)) from None


def installs(extra: str) -> str:
    """The command that installs an extra of ours."""
    from preflight.installing import install_command  # 2 ms, and only where something is missing

    return install_command([f"pytest-preflight[{extra}]"])


def no_answer(seconds: float) -> NoReturn:
    """End a probe whose service gave no answer."""
    raise Failure(f"no answer within {seconds:g} s")
