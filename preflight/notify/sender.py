"""The sender: the process in which Apprise delivers what the launcher has to tell."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from preflight.notify.notices import Notice
from preflight.notify.notifier import PATIENCE, TOO_LATE, install_command, installed
from preflight.processes import children, signals
from preflight.processes.channel import Message

DEBUG = 10  # the level on which Apprise logs what went wrong; logging's own constant would bring logging
NICE = 5  # the server's work goes first
# What Apprise logs, and what is said instead. None of its own text is passed on: it could hold a part of the URL.
REASONS = (
    (r"Connection refused", "connection refused"),
    (r"Name or service not known|name resolution|NameResolutionError|getaddrinfo", "the name of its host is not known"),
    (r"timed out", "no answer in time"),
    (r"unreachable|No route to host", "the network does not reach it"),
    (r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|SSLError", "its certificate is not trusted"),
    (r"\(535,|[Aa]uthenticat", "it does not accept the login"),
)


def reason(logged: str) -> str:
    """Why a service did not take a message, from what Apprise logged about it."""
    if status := re.search(r"error=([1-5][0-9][0-9])\b", logged):
        return f"HTTP {status[1]}"
    return next((said for pattern, said in REASONS if re.search(pattern, logged)), "it did not take the message")


class _Sender:
    """Carries out each order in a thread of its own, so that no service waits for another one."""

    def __init__(self, descriptor: int) -> None:
        self._loading = threading.Lock()
        self._orders: SimpleQueue[Message] = SimpleQueue()
        self._channel = children.attach(descriptor, self._orders.put, children.end_group)

    def run(self) -> None:
        """Run until the launcher ends it."""
        while True:
            threading.Thread(target=self._obey, args=(self._orders.get().data,), daemon=True).start()

    def _obey(self, order: dict[str, Any]) -> None:
        try:
            notice = Notice(order["title"], order["body"], order["level"])
            why = self._deliver(order["url"], notice, order["tries"], order["backoff"])
        except Exception as error:  # noqa: BLE001  # a plugin's own fault is an answer as well
            why = f"sending raised {type(error).__name__}"
        kind = "failed" if why else "delivered"
        self._channel.send(kind, service=order["service"], reason=why)

    def _deliver(self, url: str, notice: Notice, tries: int, backoff: float) -> str:
        """Send, with pauses of ``backoff`` seconds and more; returns why it did not work, empty if it did."""
        with self._loading:  # it loads its plugins with the first URL
            if not installed():
                return f"apprise is not installed; fix: {install_command(Path.cwd())}"
            import apprise

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


def main() -> None:
    """The child: send until the launcher has no more use for it."""
    import logging

    signals.leave_to_launcher()  # it waits for what is still to be delivered
    os.nice(NICE)
    logging.getLogger("apprise").setLevel(DEBUG)
    _Sender(int(sys.argv[1])).run()
