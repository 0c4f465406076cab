"""The sender: the process in which Apprise delivers what the launcher has to tell."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil

from preflight.notify.notices import Notice
from preflight.notify.notifier import PATIENCE, TOO_LATE, install_command, installed
from preflight.processes import children, signals
from preflight.processes.channel import Message

DEBUG = 10  # the level on which Apprise logs what went wrong; logging's own constant would bring logging
NICE = 5  # the server's work goes first
LONGEST_ANSWER = 4 * 1024 * 1024  # bytes of a service's HTTP answer that are read
ENDLESS = f"its answer is longer than {LONGEST_ANSWER >> 20} MiB"
MOST_MEMORY = 256 * 1024 * 1024  # bytes of this process: Apprise with all of its plugins takes a quarter of it
GREEDY = f"the process that sends notifications took more than {MOST_MEMORY >> 20} MiB of memory, and was ended"
LOOK = 0.1  # seconds from one look at the memory to the next, while something is sent
# What Apprise logs, and what is said instead. None of its own text is passed on: it could hold a part of the URL.
REASONS = (
    (ENDLESS, ENDLESS),
    (r"Connection refused", "connection refused"),
    (r"Name or service not known|name resolution|NameResolutionError|getaddrinfo", "the name of its host is not known"),
    (r"timed out", "no answer in time"),
    (r"unreachable|No route to host", "it cannot be reached over the network"),
    (r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|SSLError", "its certificate is not trusted"),
    (r"\(535,|[Aa]uthenticat", "it does not accept the login"),
)


def reason(logged: str) -> str:
    """Why a service did not take a message, from what Apprise logged about it."""
    if status := re.search(r"error=([1-5][0-9][0-9])\b", logged):
        return f"HTTP {status[1]}"
    return next((said for pattern, said in REASONS if re.search(pattern, logged)), "it did not accept the message")


class _Sender:
    """Carries out each order in a thread of its own, so that no service waits for another one."""

    def __init__(self, descriptor: int) -> None:
        self._loading = threading.Lock()
        self._orders: SimpleQueue[Message] = SimpleQueue()
        self._services: set[int] = set()
        """The services that an order is being carried out for."""
        self._busy = threading.Event()
        self._channel = children.attach(descriptor, self._orders.put, children.end_group)

    def run(self) -> None:
        """Run until the launcher ends it."""
        threading.Thread(target=self._bound_memory, daemon=True).start()
        while True:
            threading.Thread(target=self._obey, args=(self._orders.get().data,), daemon=True).start()

    def _bound_memory(self) -> None:
        """End this process if it takes too much: whatever a service sends, the server beside it needs the memory.

        A resource limit would also count what is only reserved, such as the stacks of threads, and its MemoryError
        would come to whichever thread asks next.
        """
        process = psutil.Process()
        while process.memory_info().rss < MOST_MEMORY:
            self._busy.clear()
            if self._services or self._busy.wait():
                time.sleep(LOOK)
        for service in tuple(self._services):
            self._channel.send("failed", service=service, reason=GREEDY)
        children.end_group()

    def _obey(self, order: dict[str, Any]) -> None:
        self._services.add(order["service"])
        self._busy.set()
        try:
            notice = Notice(order["title"], order["body"], order["level"])
            why = self._deliver(order["url"], notice, order["tries"], order["backoff"])
        except Exception as error:  # noqa: BLE001  # a plugin's own fault is an answer as well
            why = f"sending raised {type(error).__name__}"
        self._services.discard(order["service"])
        kind = "failed" if why else "delivered"
        self._channel.send(kind, service=order["service"], reason=why)

    def _deliver(self, url: str, notice: Notice, tries: int, backoff: float) -> str:
        """Send, with pauses of ``backoff`` seconds and more; returns why it did not work, empty if it did."""
        with self._loading:  # it loads its plugins with the first URL
            if not installed():
                return f"apprise is not installed; fix: {install_command(Path.cwd())}"
            import apprise

            _bound_answers()
            asset = apprise.AppriseAsset(app_id="Preflight", storage_mode="memory")
            plugin = apprise.Apprise.instantiate(url, asset=asset)
            if plugin is None:
                return "apprise does not understand this URL"
            service = apprise.Apprise([plugin], asset=asset)
        why = ""
        for number in range(tries):
            if number:
                time.sleep(backoff * 2 ** (number - 1))
            why = self._try(service, notice)
            if not why:
                return ""
        return f"{why} (tried {tries} times)" if tries > 1 else why

    def _try(self, service: Any, notice: Notice) -> str:
        from apprise.result import AppriseResultStatus

        result = service.notify(
            notice.body,
            notice.title,
            notice.level,
            body_format="text",
            timeout=PATIENCE,
            log_level=DEBUG,
        )
        if result:
            return ""
        if result.status == AppriseResultStatus.TIMEOUT:
            return TOO_LATE
        # What is sent is logged as well, and may speak of other errors.
        lines = [one.message for one in result.logs() if one.level != "DEBUG" or one.message.startswith("Socket")]
        return reason("\n".join(lines))


def _bound_answers() -> None:
    """Let no HTTP answer be read without end: the plugins leave that to requests, which reads whole bodies."""
    import requests

    class Bounded(requests.adapters.HTTPAdapter):
        def build_response(self, *arguments: Any) -> requests.Response:
            response = super().build_response(*arguments)
            unbounded = response.iter_content  # everything else reads with it

            def iter_content(*arguments: Any, **options: Any) -> Iterator[Any]:
                length = 0
                for piece in unbounded(*arguments, **options):
                    length += len(piece)
                    if length > LONGEST_ANSWER:
                        raise requests.RequestException(ENDLESS)
                    yield piece

            response.iter_content = iter_content  # type: ignore[method-assign]
            return response

    requests.sessions.HTTPAdapter = Bounded


def main() -> None:
    """The child: send until the launcher has no more use for it."""
    import logging

    signals.leave_to_launcher()  # it waits for what is still to be delivered
    os.nice(NICE)
    logging.getLogger("apprise").setLevel(DEBUG)
    _Sender(int(sys.argv[1])).run()
