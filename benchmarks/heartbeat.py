"""False alarms of the heartbeat: an instance on a machine whose processors are all busy, for as long as you like.

    python benchmarks/heartbeat.py [--seconds 600] [--heartbeat 60] [--processors N]

Each processor gets a process that computes and one that asks the server without a pause; the application's own threads
compute as well, and hold the interpreter's lock in turns with its event loop. None of that is a hang: it counts how
often the launcher thought so, and how often the worker was another one. Loopback only; it stops what it started.
"""

import argparse
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.start import describe, place  # noqa: E402  # the checkout is not installed
from tests.e2e.processes import worker_of  # noqa: E402

APPLICATION = """
import threading

def compute():
    while True:
        sum(range(10_000))

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        for _ in range(2):
            threading.Thread(target=compute, daemon=True).start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""
COMPUTE = "while True: sum(range(10_000))"
ASK = """
import http.client, sys
while True:
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
    try:
        while True:
            connection.request("GET", "/")
            connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        connection.close()
"""


def main() -> None:
    """Measure, print one line, and end with 1 where there was an alarm."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--heartbeat", type=float, default=60)
    options.add_argument("--processors", type=int, default=os.cpu_count() or 1)
    arguments = options.parse_args()
    describe()
    with place() as here:
        here.write_module("busy", APPLICATION)
        heartbeat = f"{arguments.heartbeat:g}"
        started = here.start("--demo", "--app", "busy:app", "--supervise", PREFLIGHT_HEARTBEAT=heartbeat).until_ready()
        worker = worker_of(started)
        load = [
            subprocess.Popen([sys.executable, "-c", *what])
            for what in ([COMPUTE], [ASK, str(here.port)])
            for _ in range(arguments.processors)
        ]
        slowest, end = 0.0, time.monotonic() + arguments.seconds
        try:
            while time.monotonic() < end and started.process.poll() is None:
                began = time.monotonic()
                try:
                    urllib.request.urlopen(here.url, timeout=60).read()
                except (OSError, urllib.error.URLError):
                    pass
                slowest = max(slowest, time.monotonic() - began)
                time.sleep(0.5)
            busy = os.getloadavg()[0]
        finally:
            for one in load:
                one.kill()
                one.wait()
        alarms = started.stdout.count("THE SERVER HANGS")
        same = started.process.poll() is None and worker_of(started) == worker
        print(
            f"{arguments.seconds:g} s, heartbeat {heartbeat} s, load {busy:.1f}: {alarms} alarms,"
            f" {'the same worker' if same else 'ANOTHER WORKER'}, slowest answer {slowest:.2f} s"
        )
    sys.exit(0 if same and not alarms else 1)


if __name__ == "__main__":
    main()
