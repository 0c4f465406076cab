"""Telling people about changes, through Apprise and in a process of its own: the sender.

The launcher's side (:class:`Notifier`) is light: it keeps a queue for each service and never waits for one. The sender
is started when there is something to tell and ended when all is told; Apprise is imported there and nowhere else.
Every URL is a secret. What is said about a service is its scheme and one of the reasons written down here, never what
Apprise or the service said.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflight import commands, dependencies, installing, times
from preflight import project as projects
from preflight.notify.notices import Notice
from preflight.processes import children, interpreter
from preflight.processes.channel import ChannelError
from preflight.processes.loop import Loop
from preflight.settings.loading import pyproject
from preflight.settings.model import Settings
from preflight.text import printable

if TYPE_CHECKING:
    from preflight.redaction.redactor import Redactor

SENDS = "apprise"
TRIES = 5
PATIENCE = 30.0  # seconds that one try may take
MARGIN = 5.0  # seconds beyond it until the sender is given up
SILENT = 2.0  # seconds that a command waits at its end without saying for what
WAITING = 50  # notices that wait for a service; beyond that, the oldest is dropped
LONGEST = 8_000  # characters of a message
TOO_LATE = f"no answer within {PATIENCE:g} s"
# What chat services take for a call to everybody: a process may be called like that.
_MENTION = re.compile(r"@(?=everyone|channel|(?:here|all)\b(?!\.))|<(?=[!@#]|users/)", re.IGNORECASE)
QUESTION = Notice("", "")
"""Sends nothing: asks whether a message could be sent to a URL."""


@dataclass(slots=True)
class NoticeService:
    """One URL, and what waits to be sent there."""

    url: str = field(repr=False)
    name: str
    waiting: deque[Notice] = field(default_factory=deque)
    sending: Notice | None = None
    since: float = 0.0
    """When that was given to the sender, on the monotonic clock."""
    problem: str = ""
    """Why the last notice did not arrive; empty if it did."""
    problem_at: str = ""


@dataclass(slots=True)
class _Delivery:
    """A notice whose end somebody waits for."""

    notice: Notice
    """Kept, so that its identity is no other's."""
    done: Callable[[bool], object]
    services: int
    """How many services are not done with it."""
    arrived: bool = False


@dataclass(slots=True)
class Tally:
    """What became of all notices, counted for each service."""

    configured: int  # services
    pending: int = 0
    delivered: int = 0
    undelivered: int = 0
    dropped: int = 0
    last_delivered_at: str | None = None
    problem: str = ""
    """Why the last one did not arrive at a service; empty once each service got its last one."""
    problem_at: str | None = None


def unattended(settings: Settings) -> dict[str, Any]:
    """The tally if no launcher is there to send anything."""
    problem = f"started without {commands.name()}: notifications are off" if settings.notify else ""
    return asdict(Tally(len(settings.notify), problem=problem))


def services(settings: Settings) -> list[NoticeService]:
    """The services that are told; of their URLs only the schemes are for people."""
    schemes = [url.partition("://")[0].lower() for url in settings.notify]
    several = len(schemes) > 1
    return [
        NoticeService(url, f"{scheme} ({number} of {len(schemes)})" if several else scheme)
        for number, (scheme, url) in enumerate(zip(schemes, settings.notify, strict=True), start=1)
    ]


class Notifier:
    """Hands notices to the sender, and keeps count of what became of them."""

    def __init__(
        self,
        settings: Settings,
        loop: Loop,
        redactor: Redactor,
        say: Callable[[str], object],
        *,
        tries: int = TRIES,
    ) -> None:
        """``say`` is told, in one line, what could not be delivered."""
        self.services = services(settings)
        self.on_change: Callable[[], object] = lambda: None
        """Called when :attr:`tally` has changed."""
        self.latest = TRIES * PATIENCE + settings.notify_backoff * 2 ** (TRIES - 1) + MARGIN
        """Seconds after which the sender must have answered: all tries take less, with the pauses between them."""
        self._settings = settings
        self._loop = loop
        self._redactor = redactor
        self._say = say
        self._tries = tries
        self._child: children.Child | None = None
        self._tally = Tally(len(self.services))
        self._waits: dict[int, _Delivery] = {}
        """The deliveries whose end somebody waits for, by the notice's identity."""

    @property
    def tally(self) -> dict[str, Any]:
        """What became of the notices so far, as /diagnostics shows it."""
        self._tally.pending = self.pending
        # A message that arrives at one service does not help people who read another.
        troubled = max((one for one in self.services if one.problem), key=lambda one: one.problem_at, default=None)
        self._tally.problem = f"{troubled.name}: {troubled.problem}" if troubled else ""
        self._tally.problem_at = troubled.problem_at if troubled else None
        return asdict(self._tally)

    @property
    def pending(self) -> int:
        """How many deliveries are waited for."""
        notices = [notice for service in self.services for notice in (service.sending, *service.waiting)]
        return sum(notice is not None and notice is not QUESTION for notice in notices)

    def tell(self, notice: Notice, done: Callable[[bool], object] | None = None) -> None:
        """Send a notice to every service, as soon as may be; returns at once.

        ``done`` is called once nothing more is tried, with whether it arrived at one of them at least.
        """
        clean = Notice(self._clean(notice.title), self._clean(notice.body), notice.level)
        if done is not None:
            self._waits[id(clean)] = _Delivery(clean, done, len(self.services))
        for service in self.services:
            if len(service.waiting) >= WAITING:
                self._end(service.waiting.popleft(), arrived=False)
                self._tally.dropped += 1
            service.waiting.append(clean)
        self._look()
        self._send()
        self.on_change()

    def verify(self) -> None:
        """Find out, and say, which URLs could never be sent to; sends nothing."""
        for service in self.services:
            service.waiting.append(QUESTION)
        self._send()

    def finish(self, patience: float) -> None:
        """Wait until all is delivered, but ``patience`` seconds at most or until a signal; then end the sender."""
        begun = time.monotonic()
        stops = len(self._loop.stops)
        told = patience <= SILENT
        while self.pending and len(self._loop.stops) == stops and (left := begun + patience - time.monotonic()) > 0:
            if not told and patience - left > SILENT:
                told = True
                self._say("Waiting for notifications to be delivered; Ctrl-C ends the wait.")
            self._loop.turn(min(0.5, left))
        self._dismiss()
        if self.pending:
            what = "notification was" if self.pending == 1 else "notifications were"
            self._say(f"{self.pending} {what} not delivered before this command ended.")

    def _clean(self, text: str) -> str:
        # Redacted as a whole, and shortened only then.
        return _MENTION.sub(r"\g<0> ", printable(self._redactor.text(text)))[:LONGEST]

    def _send(self) -> None:
        """Give the sender as much as it can take: one notice for each service."""
        for number, service in enumerate(self.services):
            if service.sending is not None or not service.waiting:
                continue
            service.sending = notice = service.waiting.popleft()
            service.since = time.monotonic()
            tries = 0 if notice is QUESTION else self._tries
            backoff = self._settings.notify_backoff
            before = self._child
            try:
                child = before or self._employ()
                child.channel.send(
                    "send", service=number, url=service.url, tries=tries, backoff=backoff, **asdict(notice)
                )
            except OSError as error:
                if before is not None:
                    # The sender has gone, or does not listen: the loop is about to notice, and the next gets this.
                    before.kill()
                    service.sending = None
                    service.waiting.appendleft(notice)
                    return
                self._failed(service, f"the process that sends notifications cannot be used: {error.strerror}")

    def _look(self) -> None:
        """End a sender that has had a notice for longer than all its tries can take; its closed channel then tells."""
        late = time.monotonic() - self.latest
        if self._child is not None and any(one.sending is not None and one.since < late for one in self.services):
            self._child.kill()

    def _employ(self) -> children.Child:
        # The environment alone, not the env file: the sender has no use for keys.
        self._child = child = children.Child("preflight.notify", self._settings.root, interpreter.for_suite())
        self._loop.watch_child(child, self._heard, child.read_output)
        return child

    def _dismiss(self) -> None:
        if self._child is not None:
            self._loop.unwatch_child(self._child)
            self._child.close()
            self._child = None

    def _heard(self) -> None:
        child = self._child
        if child is None:
            return
        try:
            messages = child.channel.arrived()
        except ChannelError:
            messages = []
            child.kill()
        for message in messages:
            service = self.services[message.data["service"]]
            if message.kind == "delivered":
                self._delivered(service)
            else:
                self._failed(service, message.data["reason"])
        if child.channel.closed or child.ended():
            child.kill()
            for service in self.services:
                if service.sending is not None:
                    self._failed(service, f"the process that sends notifications ended ({child.ending})")
        over = child.ended() or not any(service.sending or service.waiting for service in self.services)
        if over:
            self._loop.unwatch_child(child)
            self._child = None
        self._send()
        if over:
            # Only now: the next sender's descriptors must not get numbers that this turn of the loop still uses.
            child.close()
        self.on_change()

    def _delivered(self, service: NoticeService) -> None:
        if service.sending is None:  # it counts as undelivered already
            return
        notice, service.sending, service.problem = service.sending, None, ""
        if notice is not QUESTION:
            self._tally.delivered += 1
            self._tally.last_delivered_at = times.now()
        self._end(notice, arrived=True)

    def _failed(self, service: NoticeService, reason: str) -> None:
        notice, service.sending = service.sending, None
        service.problem, service.problem_at = reason, times.now()
        if notice is None or notice is QUESTION:
            self._say(f"Notifications cannot be sent to {service.name}: {reason}")
        else:
            self._tally.undelivered += 1
            self._say(f"Not delivered to {service.name}: {notice.title}: {reason}")
        self._end(notice, arrived=False)

    def _end(self, notice: Notice | None, *, arrived: bool) -> None:
        """Note that one service is done with this notice."""
        delivery = self._waits.get(id(notice))
        if delivery is None:
            return
        delivery.services -= 1
        delivery.arrived = delivery.arrived or arrived
        if delivery.services == 0:
            del self._waits[id(notice)]
            delivery.done(delivery.arrived)


def try_out(settings: Settings, redactor: Redactor, notice: Notice) -> list[NoticeService]:
    """Send a notice to every service, once; returns the services with the ``problem`` of each."""
    loop = Loop()
    notifier = Notifier(settings, loop, redactor, lambda _line: None, tries=1)
    try:
        notifier.tell(notice)
        notifier.finish(PATIENCE + MARGIN)
        for service in notifier.services:
            if service.sending is not None or service.waiting:
                service.problem = TOO_LATE
        return notifier.services
    finally:
        loop.close()


def installed() -> bool:
    """Whether Apprise can be imported; looking does not import it."""
    return importlib.util.find_spec("apprise") is not None


def wanted(root: Path) -> list[str]:
    """What this package's extra ``notify`` needs: as pyproject.toml says in our checkout, else as was installed."""
    if root == projects.CHECKOUT:
        extras = pyproject(root).get("project", {}).get("optional-dependencies", {})
        return list(extras.get("notify", [SENDS]))
    try:
        lines = importlib.metadata.requires(dependencies.DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        lines = []
    return [line.partition(";")[0].strip() for line in lines if re.search(r"extra == .notify", line)] or [SENDS]


def install_command(root: Path) -> str:
    """The command that installs Apprise."""
    return installing.install_command(wanted(root))
