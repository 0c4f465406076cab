"""Real headless Chromium, driven by Playwright, and web pages of others for it to open."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from tempfile import TemporaryDirectory

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.waiting import PATIENCE

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """The system's Chromium. Without one the test is skipped, save in CI, where it fails."""
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("there is no Chromium, and CI has to have one")
        pytest.skip("there is no Chromium")
    with ExitStack() as stack:
        # A home of its own: Playwright does not start without one, and Chromium writes into it.
        home = stack.enter_context(TemporaryDirectory(ignore_cleanup_errors=True))
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("HOME", home)
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS, *arguments])
        stack.callback(browser.close)
        yield browser


@contextmanager
def site(html: str, port: int = 0) -> Iterator[int]:
    """Somebody's web server on this machine, with one page; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)
