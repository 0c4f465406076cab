"""Several workers against one: requests a second of an application that computes, and how long /health takes.

    python benchmarks/workers.py [--workers 2] [--rounds 7] [--seconds 4] [--connections 16] [--milliseconds 5]

Two instances of one application serve side by side, one with a single worker, and are asked in turns. Each request
takes some milliseconds of a processor, so that the client, a process of its own on the same machine, needs little of
one: its share is printed, and a client that needs a tenth of a processor or more is the wrong one for this comparison.
Every answer names its process: how the connections were spread is printed, too. On a machine that is busy with other
things the ratio says nothing: there, Linux gives both instances the same share, however many processes they have
(sched_autogroup). Loopback only; it stops what it started.
"""

import argparse
import http.client
import json
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.start import describe, place  # noqa: E402  # the checkout is not installed

HEALTH = "/_preflight/health"
LIMIT = 0.1  # of a processor: a client that needs more may be what limits the rate
APPLICATION = """
import os, time

COUNT = int(os.environ["COUNT"])
HEADERS = [(b"content-length", b"2"), (b"x-pid", str(os.getpid()).encode())]

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    sum(range(COUNT))
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"ok"})
"""


def client(port: int, connections: int, seconds: float) -> None:
    """Ask over so many connections at once, and print what came of it."""
    over = threading.Event()
    answers: Counter[str] = Counter()
    asked = threading.Lock()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while not over.is_set():
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
            with asked:
                answers[answer.headers["x-pid"]] += 1
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(connections)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)  # until all are connected, and each has asked
    with asked:
        answers.clear()
    began, used = time.monotonic(), processor_time()
    health = []
    while (now := time.monotonic()) - began < seconds:
        health.append(look(port))
        time.sleep(max(0.0, 0.05 - (time.monotonic() - now)))
    took, used = time.monotonic() - began, processor_time() - used
    with asked:
        counted = dict(answers)
    over.set()
    for thread in threads:
        thread.join()
    rate = sum(counted.values()) / took
    print(json.dumps({"rate": rate, "share": used / took, "by": sorted(counted.values()), "health": health}))


def processor_time() -> float:
    """Seconds that this process has had a processor."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def look(port: int) -> float:
    """Milliseconds that /health takes, over a connection of its own."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", HEALTH)
    connection.getresponse().read()
    connection.close()
    return (time.monotonic() - began) * 1000


def count_for(milliseconds: float) -> int:
    """How far the application has to count to compute for so long, if nobody is in its way."""
    best = min(timed(1_000_000) for _ in range(9))
    return int(1_000_000 * milliseconds / 1000 / best)


def timed(count: int) -> float:
    """Seconds of processor time."""
    began = time.process_time()
    sum(range(count))
    return time.process_time() - began


def percentile(values: list[float], part: float) -> float:
    """A value that this part of all does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def main() -> None:
    """Measure, print the ratio, and end with 1 where it is no comparison of servers."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--seconds", type=float, default=4)
    options.add_argument("--connections", type=int, default=16)
    options.add_argument("--milliseconds", type=float, default=5)
    options.add_argument("--ask", type=int, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.ask:
        client(arguments.ask, arguments.connections, arguments.seconds)
        return
    describe()
    count = str(count_for(arguments.milliseconds))
    found: dict[int, list[dict[str, object]]] = {1: [], arguments.workers: []}
    with place() as one, place() as several:
        instances = ((one, 1), (several, arguments.workers))
        for here, workers in instances:
            here.write_module("computes", APPLICATION)
            here.start("--demo", "--app", "computes:app", "--workers", str(workers), COUNT=count).until_ready()
        ask = [sys.executable, __file__, "--connections", str(arguments.connections)]
        ask += ["--seconds", str(arguments.seconds), "--ask"]
        idle = {workers: [look(here.port) for _ in range(200)] for here, workers in instances}
        for _ in range(arguments.rounds):
            for here, workers in instances:
                said = subprocess.run([*ask, str(here.port)], stdout=subprocess.PIPE, check=True).stdout
                found[workers].append(json.loads(said))
    show(found, idle, arguments.workers)


def show(found: dict[int, list[dict[str, object]]], idle: dict[int, list[float]], workers: int) -> None:
    """Print what was found; see :func:`main`."""
    rates = {number: [float(str(one["rate"])) for one in rounds] for number, rounds in found.items()}
    ratios = [b / a for a, b in zip(rates[1], rates[workers], strict=True)]
    share = max(float(str(one["share"])) for rounds in found.values() for one in rounds)
    for number, rounds in found.items():
        health = [value for one in rounds for value in one["health"]]  # type: ignore[attr-defined]
        print(
            f"{number} worker{'s' if number > 1 else ''}: {statistics.median(rates[number]):.0f} requests a second"
            f" ({', '.join(f'{rate:.0f}' for rate in rates[number])}); by process {[one['by'] for one in rounds]}\n"
            f"  /health: idle p50 {percentile(idle[number], 0.5):.2f} ms, p99 {percentile(idle[number], 0.99):.2f} ms;"
            f" under load p50 {percentile(health, 0.5):.1f} ms, p99 {percentile(health, 0.99):.1f} ms"
        )
    print(f"ratio {statistics.median(ratios):.2f} (median; {min(ratios):.2f} to {max(ratios):.2f})")
    print(f"the client took at most {share:.3f} of a processor")
    if share >= LIMIT:
        sys.exit("the client may have been the limit: give each request more milliseconds")


if __name__ == "__main__":
    main()
