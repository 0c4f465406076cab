"""Doubles of what a server meets: an application, a listener of somebody else's, and the providers' services."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.waiting import PATIENCE

# A server that listens on the port given, says so, and ends on SIGTERM unless told to ignore it.
LISTENER = """
import signal, socket, sys
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
held = socket.socket()
held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
held.bind(("127.0.0.1", int(sys.argv[1])))
held.listen()
print("listening", flush=True)
while True:
    signal.pause()
"""

# The same, under the name given behind the port.
STRANGER = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(15, os.fsencode(sys.argv[2]))  # PR_SET_NAME; Linux
{LISTENER}"""

# Listens on the port given, and has started an instance on another one.
STARTS_ANOTHER = """
import signal, socket, subprocess, sys
held = socket.socket()
held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
held.bind(("127.0.0.1", int(sys.argv[1])))
held.listen()
signal.signal(signal.SIGTERM, signal.SIG_DFL)
subprocess.Popen(sys.argv[2:])
while True:
    signal.pause()
"""

# Serves shop:app in two processes on one socket; the second one starts, without SHOP_DATABASE, once "changed" is there.
TWO_OF_ONE_SOCKET = """
import multiprocessing, os, socket, sys, time, uvicorn

def serve(sock):
    uvicorn.Server(uvicorn.Config("shop:app")).run(sockets=[sock])

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sock = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    first = multiprocessing.Process(target=serve, args=(sock,))
    first.start()
    while not os.path.exists("changed"):
        time.sleep(0.05)
    os.environ.pop("SHOP_DATABASE", None)
    second = multiprocessing.Process(target=serve, args=(sock,))
    second.start()
    second.join()
    print("the second one has ended", flush=True)
    first.terminate()
    first.join()
"""

KEY = "sk-canary-Zq7vXw2LmN8pRt4KdY6hJb3F-tail9351"
"""A key by its looks, which opens nothing."""

# The smallest application that can be served.
SMALL = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"small"})

def factory():
    return app
"""

# The routes and the guard that the agent's server has, at the same addresses, and nothing of the agent.
AGENTLESS = """
from pathlib import Path
from starlette.applications import Starlette
from preflight.web.mount import Mount
from preflight.web.services import Application

mount = Mount(Application("Agentless", "of no agent"), Path.cwd())
mount.wrap(Starlette(routes=mount.routes, lifespan=mount.lifespan, exception_handlers=mount.exception_handlers))

async def app(scope, receive, send):
    await mount.entrance(scope, receive, send)
"""


@dataclass
class Answer:
    """How a service answers."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    hangs: bool = False
    body: str = '{"object": "list", "data": []}'


class Providers:
    """A server that stands in for both services; what it was asked is in ``requests``."""

    def __init__(self) -> None:
        self.openai, self.perplexity = Answer(), Answer()
        self.requests: list[tuple[str, str | None]] = []
        self._closing = threading.Event()
        providers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                providers.requests.append((self.path, self.headers.get("Authorization")))
                answer = providers.openai if self.path.startswith("/openai/") else providers.perplexity
                if answer.hangs:
                    providers._closing.wait()
                    return
                self.send_response(answer.status)
                body = answer.body.encode()
                for name, value in {"Content-Length": str(len(body)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def variables(self) -> dict[str, str]:
        """The addresses of the two services."""
        base = f"http://127.0.0.1:{self._server.server_port}"
        return {"OPENAI_BASE_URL": f"{base}/openai/v1", "PERPLEXITY_BASE_URL": f"{base}/perplexity"}

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE)
