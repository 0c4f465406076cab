"""What clients that dawdle cost those that do not, and what the limits cost everybody.

    python benchmarks/limits.py [speed] [crowds] [burst] [--count 2000] [--gets 1000] [--rounds 7]

speed: the server with its limits against the same server with stock httptools, in turns.
crowds: /health beside connections that are silent, idle, half-sent (heads, bodies) or quiet WebSockets.
burst: many GETs of /health at once, each on a connection of its own.

Without a name all three run. Loopback only, in folders of its own; it stops what it started and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import platform
import resource
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.start import describe, place  # noqa: E402  # the checkout is not installed
from tests.e2e.place import Place, get  # noqa: E402

HOST = b"Host: 127.0.0.1\r\n"
HEALTH = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
UPGRADE = (
    b"GET /ws/chat HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
# What each connection of a crowd sends when it is made, and a byte that it sends every second.
CROWDS = {
    "silent": (b"", b""),
    "idle after a request": (HEALTH, b""),
    "half-sent heads, a byte a second": (b"GET /health HTTP/1.1\r\nX: ", b"x"),
    "half-sent bodies, a byte a second": (b"POST /health HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\n", b"x"),
    "quiet WebSockets": (UPGRADE, b""),
}

# One raw application, once with each protocol.
SERVER = """
import asyncio, socket, sys
from pathlib import Path
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState
from preflight.worker import serving; from preflight.settings import loading
from preflight.web.instance import Instance

HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"20")]

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": b'{"status":"healthy"}'})

class Stock(serving.Server):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.config.http = HttpToolsProtocol
        self.server_state = ServerState()
        self.server_state.sweep = lambda now: None

listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
print(listener.getsockname()[1], flush=True)
instance = Instance(loading.load(Path.cwd(), {}, {"demo": True}), None)
server = (Stock if sys.argv[1] == "stock" else serving.Server)(app, instance, lambda: None)
server.run(sockets=[listener])
"""


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", choices=["speed", "crowds", "burst", []])
    parser.add_argument("--count", type=int, default=2000, help="connections of a crowd")
    parser.add_argument("--gets", type=int, default=1000, help="GETs at once")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--crowd", nargs=2, metavar=("KIND", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.crowd:
        crowd(options.crowd[0], int(options.crowd[1]), options.count)
        return
    which = options.which or ["speed", "crowds", "burst"]
    print(f"{platform.system()} {platform.release()}, open files {hard}")
    describe()
    if "speed" in which:
        speed(options.rounds)
    if "crowds" in which or "burst" in which:
        with place() as here:
            started = here.start("--demo", "--supervise").until_ready()
            for _ in range(200):
                get(f"{here.url}/health")
            if "crowds" in which:
                crowds(here, options.count)
            if "burst" in which:
                asyncio.run(burst(here.port, options.gets, options.rounds))
            for line in started.stderr.splitlines()[-3:]:
                print(f"  the server said: {line}")


# -- what the limits cost -------------------------------------------------------------------------------------


@contextlib.contextmanager
def raw_server(way: str) -> Iterator[tuple[int, psutil.Process]]:
    """The raw application behind one of the protocols: its port and its process."""
    command = [sys.executable, "-c", SERVER, way]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline()), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.communicate()


def pull(port: int, seconds: float, connections: int = 32) -> int:
    """Keep-alive GETs over some connections for a while; how many were answered."""
    selector = selectors.DefaultSelector()
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    for client in clients:
        client.sendall(HEALTH)
        selector.register(client, selectors.EVENT_READ)
    answers = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for key, _ in selector.select(1):
            client = key.fileobj  # type: ignore[assignment]
            if client.recv(4096).endswith(b"}"):  # head and body may come one by one
                answers += 1
                client.sendall(HEALTH)
    for client in clients:
        client.close()
    selector.close()
    return answers


def speed(rounds: int) -> None:
    """Requests a second, and processor time a request, which other work on the machine does not touch."""
    print("a raw application, 32 keep-alive connections: with limits against stock httptools")
    rates: dict[str, list[float]] = {"limits": [], "stock": []}
    costs: dict[str, list[float]] = {"limits": [], "stock": []}
    with raw_server("limits") as limits, raw_server("stock") as stock:
        for port, _ in (limits, stock):
            pull(port, 0.5)
        for number in range(rounds * 2):
            pairs = [("limits", limits), ("stock", stock)]
            for way, (port, process) in pairs if number % 2 else reversed(pairs):
                before = sum(process.cpu_times()[:2])
                answers = pull(port, 1.0)
                rates[way].append(answers / 1.0)
                costs[way].append((sum(process.cpu_times()[:2]) - before) / answers * 1e6)
    for way in rates:
        rate, cost = statistics.median(rates[way]), statistics.median(costs[way])
        print(f"  {way}: {rate:.0f} requests/s ({min(rates[way]):.0f} to {max(rates[way]):.0f}), {cost:.1f} us of CPU")
    faster = statistics.median(rates["limits"]) / statistics.median(rates["stock"])
    dearer = statistics.median(costs["limits"]) / statistics.median(costs["stock"])
    print(f"  limits against stock: {faster:.3f} times the rate, {dearer:.3f} times the CPU a request")


# -- crowds ---------------------------------------------------------------------------------------------------


def crowd(kind: str, port: int, count: int) -> None:
    """Keep that many connections of one kind open, until standard input closes; says "." when they are all there."""
    first, drip = CROWDS[kind]
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    reopened = 0

    def one() -> socket.socket:
        client = socket.create_connection(("127.0.0.1", port), timeout=30)
        client.sendall(first)
        if first in (UPGRADE, HEALTH):
            client.recv(65536)
        selector.register(client, selectors.EVENT_READ)
        return client

    clients = {one() for _ in range(count)}
    print(".", flush=True)
    due = time.monotonic() + 1
    while True:
        for key, _ in selector.select(max(0.0, due - time.monotonic())):
            if key.fileobj is sys.stdin:
                print(reopened, flush=True)
                return
            client: socket.socket = key.fileobj  # type: ignore[assignment]
            with contextlib.suppress(OSError):
                if client.recv(65536):
                    continue
            selector.unregister(client)
            clients.remove(client)
            client.close()
            clients.add(one())
            reopened += 1
        if drip and time.monotonic() >= due:
            for client in clients:
                with contextlib.suppress(OSError):
                    client.send(drip)
        if time.monotonic() >= due:
            due = time.monotonic() + 1


def health_times(port: int, seconds: float) -> list[float]:
    """How long GETs of /health take one after the other, each on a connection of its own."""
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(HEALTH)
            assert client.recv(4096).startswith(b"HTTP/1.1 200"), "/health did not answer 200"
        times.append(time.perf_counter() - begun)
        time.sleep(0.005)
    return times


def percentile(values: list[float], share: float) -> float:
    """In milliseconds."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] * 1000


def crowds(here: Place, count: int) -> None:
    """The times of /health beside each crowd, for 12 s: longer than the deadline after which they are cut off."""
    print(f"/health beside {count} connections, 12 s each; target: within 10 times its p50 alone")
    alone = health_times(here.port, 5)
    base = percentile(alone, 0.5)
    print(f"  alone: p50 {base:.2f}, p99 {percentile(alone, 0.99):.2f} ms ({len(alone)})")
    for kind in CROWDS:
        command = [sys.executable, __file__, "--crowd", kind, str(here.port), "--count", str(count)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        times = health_times(here.port, 12)
        process.stdin.close()
        reopened = process.stdout.readline().strip()
        process.wait()
        middle, late = percentile(times, 0.5), percentile(times, 0.99)
        print(
            f"  {kind}: p50 {middle:.2f} ms ({middle / base:.1f} times), p99 {late:.2f} ms ({late / base:.1f} times),"
            f" longest {max(times) * 1000:.1f} ms ({len(times)}); {reopened} were closed by the server and opened again"
        )
        time.sleep(1)


# -- many at once ---------------------------------------------------------------------------------------------


async def burst(port: int, count: int, rounds: int) -> None:
    """That many GETs at the same moment."""

    async def one(times: list[float], errors: list[str]) -> None:
        begun = time.perf_counter()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEALTH)
            answer = await reader.read(4096)
            times.append(time.perf_counter() - begun)
            if not answer.startswith(b"HTTP/1.1 200"):
                errors.append(answer[:40].decode())
            writer.close()
        except OSError as error:
            errors.append(repr(error))

    print(f"{count} GETs of /health at once, {rounds} rounds; target: no error, p99 under 500 ms")
    for _ in range(rounds):
        times: list[float] = []
        errors: list[str] = []
        await asyncio.gather(*(one(times, errors) for _ in range(count)))
        figures = ", ".join(f"{name} {percentile(times, share):.0f}" for name, share in (("p50", 0.5), ("p99", 0.99)))
        print(f"  {figures}, longest {max(times) * 1000:.0f} ms, {len(errors)} errors {sorted(set(errors))[:3] or ''}")
        await asyncio.sleep(0.5)


if __name__ == "__main__":
    main()
