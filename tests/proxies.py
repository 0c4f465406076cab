"""Servers that a client meets on its way out, on real sockets: services with and without TLS, and proxies."""

from __future__ import annotations

import base64
import contextlib
import json
import select
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.services import COMPLETION

MODELS = {"object": "list", "data": [{"id": "m", "object": "model"}]}
JSON = "application/json"


class _Server:
    """An HTTP server in a thread; ``seen`` has the method, target and headers of each request."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that go away are meant to
        self.port = self.server.server_port
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Service(_Server):
    """A service that lists models and completes chats, or answers everything as ``answer`` says."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.answer: tuple[int, Mapping[str, str], str] | None = None
        """Status, headers and body of each answer; None: what was asked for."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.seen.append(
                    (self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
                )
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked = MODELS if self.command == "GET" else COMPLETION
                status, headers, body = outer.answer or (200, {"Content-Type": JSON}, json.dumps(asked))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body.encode())), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_GET  # noqa: N815  # http.server's names

            def log_message(self, *_: object) -> None:
                """Nothing."""

        super().__init__(Handler)
        self.scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
            self.scheme = "https"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"


class Proxy(_Server):
    """An HTTP proxy that forwards and tunnels; with ``login`` ("user:password") only for those who send it.

    ``refusal`` is the status with which it answers instead.
    """

    def __init__(self, login: str = "", refusal: int = 0) -> None:
        self.refusal = refusal
        outer = self
        wanted = f"Basic {base64.b64encode(login.encode()).decode()}" if login else ""

        class Handler(BaseHTTPRequestHandler):
            def _admits(self) -> bool:
                outer.seen.append(
                    (self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
                )
                status = outer.refusal or (407 if wanted and self.headers.get("Proxy-Authorization") != wanted else 0)
                if status:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    self.close_connection = True
                return not status

            def do_CONNECT(self) -> None:
                if not self._admits():
                    return
                host, _, port = self.path.rpartition(":")
                with socket.create_connection((host, int(port))) as service:
                    self.send_response(200)
                    self.end_headers()
                    _pump(self.connection, service)
                self.close_connection = True

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if not self._admits():
                    return
                target = urlsplit(self.path)
                with socket.create_connection((target.hostname or "", target.port or 80)) as service:
                    path = f"{target.path}?{target.query}" if target.query else target.path
                    kept = [(name, value) for name, value in self.headers.items() if "proxy" not in name.lower()]
                    head = [f"{self.command} {path} HTTP/1.0", *(f"{name}: {value}" for name, value in kept), "", ""]
                    service.sendall("\r\n".join(head).encode() + body)
                    with contextlib.suppress(OSError):
                        while data := service.recv(65536):
                            self.wfile.write(data)
                self.close_connection = True

            do_POST = do_GET  # noqa: N815  # http.server's names

            def log_message(self, *_: object) -> None:
                """Nothing."""

        super().__init__(Handler)
        self.url = f"http://127.0.0.1:{self.port}"


def _pump(one: socket.socket, other: socket.socket) -> None:
    """Pass on what either says until one of them ends."""
    with contextlib.suppress(OSError):
        while True:
            for source in select.select([one, other], [], [])[0]:
                data = source.recv(65536)
                if not data:
                    return
                (other if source is one else one).sendall(data)


OPENSSL = shutil.which("openssl")


class Authority:
    """A certificate authority that nobody knows, and a certificate for 127.0.0.1 and localhost by it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "authority.pem"
        self.certificate = folder / "server.pem"
        """Key and certificate of a server."""
        self.folder = folder / "hashed"
        """A folder with the authority, as SSL_CERT_DIR wants it."""
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        names = folder / "names"
        names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")

        def openssl(*arguments: object) -> str:
            command = [str(OPENSSL), *map(str, arguments)]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

        usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]  # Python 3.13 insists on it
        openssl("req", "-x509", *key, *usage, "-keyout", folder / "a.key", "-out", self.file, "-subj", "/CN=authority")
        openssl("req", "-new", *key[:-2], "-keyout", folder / "s.key", "-out", folder / "s.csr", "-subj", "/CN=server")
        signed = ["-CA", self.file, "-CAkey", folder / "a.key", "-CAcreateserial", "-extfile", names, "-days", "2"]
        openssl("x509", "-req", "-in", folder / "s.csr", *signed, "-out", folder / "s.crt")
        self.certificate.write_text((folder / "s.key").read_text() + (folder / "s.crt").read_text())
        self.folder.mkdir()
        name = openssl("x509", "-in", self.file, "-noout", "-subject_hash").strip()
        (self.folder / f"{name}.0").write_text(self.file.read_text())
