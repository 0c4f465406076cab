"""What our routes beside an application cost its own requests, with the unguarded application as the floor.

    python benchmarks/beside.py [--starts 5] [--rounds 4] [--seconds 2] [--connections 16]

The same plain ASGI application, four times: behind the launcher with the prefix and without it, and under uvicorn alone
and in ``guard(app)``. They take turns, one at a time, asked by wrk where it is installed, else by a client in a process
of its own; with no header of its own, and with those that a browser sends. The rate for each second of the server's
processor time tells more on a busy machine. Two processes of the same program differ by more than what is looked for
here: so uvicorn serves both of its two in one process, at two ports, and all are started several times. Target: at most
3 % below the floor. Loopback only; it stops what it started.
"""

import argparse
import statistics
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.answers import rate  # noqa: E402  # the checkout is not installed
from benchmarks.start import describe, place  # noqa: E402
from tests.e2e.place import Place, listening, make_place  # noqa: E402
from tests.portnumbers import unused_port  # noqa: E402
from tests.waiting import until  # noqa: E402

PLAIN = """
BODY = b"hello"
HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"5")]

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": BODY})
"""
GUARDED = "from plain import app as plain\nfrom preflight import guard\n\napp = guard(plain)\n"
BOTH = """
import asyncio, sys
import uvicorn
from guarded import app as guarded
from plain import app as plain

async def serve():
    every = zip((plain, guarded), map(int, sys.argv[1:]), strict=True)
    servers = [uvicorn.Server(uvicorn.Config(app, port=port, access_log=False)) for app, port in every]
    await asyncio.gather(*(server.serve() for server in servers))

with asyncio.Runner(loop_factory=uvicorn.Config(plain).get_loop_factory()) as runner:
    runner.run(serve())
"""
BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.5",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Cookie": "session=0123456789abcdef0123456789abcdef; theme=dark",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "none",
    "Priority": "u=0, i",
}
KINDS: dict[str, dict[str, str]] = {"no headers of its own": {}, "a browser's headers": BROWSER}
WAYS = ("off", "beside", "bare", "guard")
PAIRS = {"the launcher's worker": ("off", "beside"), "uvicorn": ("bare", "guard")}
"""What is served by, and the floor of what it is compared with."""


Rate = tuple[float, float]
"""Requests a second, and for each second of the server's processor time."""


def serve(places: dict[str, Place]) -> dict[str, Place]:
    """Start the application in all ways, and wait until it answers; the ways with their places."""
    for here in places.values():
        here.write_module("plain", PLAIN)
    for way, environ in {"off": {"PREFLIGHT_WEB_PREFIX": "off"}, "beside": {}}.items():
        places[way].start("--demo", "--app", "plain:app", **environ).until_ready()
    here = places["bare"]
    here.write_module("guarded", GUARDED)
    here.write_module("both", BOTH)
    guard = replace(here, port=unused_port())
    ports = [str(here.port), str(guard.port)]
    here.spawn(sys.executable, "-m", "both", *ports, environ={"PREFLIGHT_DEMO": "1"})
    until(lambda: listening(here.port) and listening(guard.port), "both listen")
    return {**places, "guard": guard}


def measure(
    served: dict[str, Place], headers: dict[str, str], rates: dict[str, list[Rate]], chosen: argparse.Namespace
) -> None:
    """Ask all, way after way, so many rounds, and add to the rates; every other round in reversed order."""
    for number in range(chosen.rounds + 1):
        # In a fixed order, each way would always be measured right after the same other one.
        for way, here in list(served.items())[:: 1 if number % 2 else -1]:
            found = rate(here, "/", headers, chosen.seconds, chosen.connections)
            if number > 0:  # the first round warms all up
                rates[way].append(found)


def show(rates: dict[str, list[Rate]]) -> None:
    """One line for each of ours."""
    for where, (floor, ours) in PAIRS.items():
        shown = []
        for kind in (0, 1):
            mine, peers = [one[kind] for one in rates[ours]], [one[kind] for one in rates[floor]]
            ratio = statistics.median(one / peer for one, peer in zip(mine, peers, strict=True))
            shown.append(f"{statistics.median(mine):7,.0f} of {statistics.median(peers):7,.0f} {ratio:6.3f}x")
        print(f"  {where:24} {shown[0]:32} {shown[1]:32} [target: at least 0.97]")


def main() -> None:
    """Two tables, one for each kind of request."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--starts", type=int, default=5)
    options.add_argument("--rounds", type=int, default=4)
    options.add_argument("--seconds", type=int, default=2)
    options.add_argument("--connections", type=int, default=16)
    chosen = options.parse_args()
    describe()
    rates: dict[str, dict[str, list[Rate]]] = {kind: {way: [] for way in WAYS} for kind in KINDS}
    with place() as first:
        for number in range(chosen.starts):
            places = {way: make_place(first.folder / f"{way}-{number}") for way in ("off", "beside", "bare")}
            try:
                served = serve(places)
                for kind, headers in KINDS.items():
                    measure(served, headers, rates[kind], chosen)
            finally:
                for here in places.values():
                    here.close()
    for kind in KINDS:
        print(
            f"{kind}: requests a second, then of processor time; {chosen.starts} starts of each, with"
            f" {chosen.rounds} rounds of {chosen.seconds} s"
        )
        show(rates[kind])


if __name__ == "__main__":
    main()
