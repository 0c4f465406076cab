"""Real services to notify: an HTTP receiver and a mail server, both of the test's own."""

from __future__ import annotations

import email
import email.policy
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.portnumbers import unused_port
from tests.waiting import PATIENCE


class Receiver:
    """An HTTP server that takes JSON, the first few times not, and perhaps never answers."""

    def __init__(self, failures: int = 0, *, status: int = 500, host: str = "127.0.0.1") -> None:
        self.failures = failures
        self.hangs = False
        self.tried: list[float] = []
        """When each request came, on the monotonic clock."""
        self.taken: list[dict[str, Any]] = []
        """The messages that were answered with 200."""
        self._let_go = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.tried.append(time.monotonic())
                if receiver.hangs:
                    receiver._let_go.wait()
                    return
                good = len(receiver.tried) > receiver.failures
                if good:
                    receiver.taken.append(body)
                self.send_response(200 if good else status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def url(self, path: str = "/hook") -> str:
        """Its address, as Apprise takes it."""
        return f"json://127.0.0.1:{self._server.server_port}{path}"

    @property
    def titles(self) -> list[str]:
        """The headlines of what it took, without sign and place."""
        return [message["title"].split(" (")[0].split(" ", 1)[1] for message in self.taken]

    def close(self) -> None:
        self._let_go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE)


class Mailbox:
    """A mail server; what it took is in ``mails``."""

    def __init__(self) -> None:
        self.mails: list[email.message.EmailMessage] = []
        self.port = unused_port()
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)
        self._controller.start()

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        self.mails.append(email.message_from_bytes(content, policy=email.policy.default))
        return "250 taken"

    @property
    def url(self) -> str:
        """Its address, as Apprise takes it."""
        return f"mailto://127.0.0.1:{self.port}?from=server@example.org&to=me@example.org&mode=insecure"

    def text(self, number: int) -> str:
        """Subject and text of one mail."""
        mail = self.mails[number]
        body = mail.get_body(("plain",)) or mail.get_body()
        assert body is not None
        return f"{mail['Subject']}\n{body.get_content()}"

    def close(self) -> None:
        self._controller.stop()
