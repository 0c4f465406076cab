"""What a fleet costs its database, and what people hear of an outage.

    python benchmarks/fleet.py load [--instances 1000] [--seconds 600] [--threads 32] [--heartbeat 30]
    python benchmarks/fleet.py outage [--instances 8] [--refresh 10] [--case all]

`load`: simulated instances, which write what registrars write (`preflight.fleet.rows`, `gathering`), in one process
through PgBouncer: signs of life with jitter, and in the middle of the time a storm, in which a check flips on all of
them within a second, and later back. It prints transactions and written rows a second, how long one takes, the WAL and
the size of the tables. Clients, pooler and server share the machine.

`outage`: real servers (`python -m preflight` with re-runs) whose provider fails and comes back. It prints what people
were told, and which instances it names; the same with the process that sends stopped, with the database restarted, and
with one instance behind a partition (its own network namespace, whose link goes down; needs root).

Everything is started and stopped here, on loopback and on a link of its own; it ends by itself.
"""

import argparse
import contextlib
import heapq
import http.server
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.start import describe  # noqa: E402  # the checkout is not installed
from preflight.fleet import database, schema  # noqa: E402
from preflight.fleet.gathering import Gathering  # noqa: E402
from preflight.fleet.registrar import JITTER, SPREAD  # noqa: E402
from preflight.fleet.rows import News, Rows, Who  # noqa: E402
from preflight.report.model import Check, Report  # noqa: E402
from tests import databases  # noqa: E402
from tests.databases import Postgres  # noqa: E402
from tests.e2e.doubles import SMALL  # noqa: E402
from tests.portnumbers import unused_port  # noqa: E402
from tests.receivers import Receiver  # noqa: E402

CHECKS = 26  # of a report: as many as the agent server's has
KEY = "Provider Key"
DETAILS = {"text": "x" * 400}  # of each check: a report of 20 KB, as the agent server's is
TABLES = ("instances", "failing", "changes", "reports", "notices", "news")


def report(run_id: str, *, fails: bool) -> Report:
    """The report of a run."""
    checks = tuple(
        Check(f"t.py::t{number}", KEY if number == 0 else f"Check {number}", "It holds.", "critical", "passed",
              details=DETAILS)
        for number in range(CHECKS)
    )  # fmt: skip
    if fails:
        first = Check("t.py::t0", KEY, "It holds.", "critical", "failed", "rejected (HTTP 401)", "set the key", DETAILS)
        checks = (first, *checks[1:])
    status = "failed" if fails else "passed"
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Report(run_id, "rerun", status, not fails, now, 1.0, "all", "0.0.0.0:8002", checks)


@dataclass
class Load:
    """Simulated instances, and what their transactions took."""

    url: str
    heartbeat: float
    window: float
    instances: list["Simulated"] = field(default_factory=list)
    took: dict[str, list[float]] = field(default_factory=dict)
    failed: int = 0
    sent: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def timed(self, kind: str, work: Callable[[], object]) -> None:
        """Do it, and note how long it took; what the database does not take counts as failed."""
        begun = time.perf_counter()
        try:
            work()
        except (database.Unavailable, database.UnusableDatabase):
            with self._lock:
                self.failed += 1
            return
        with self._lock:
            self.took.setdefault(kind, []).append(time.perf_counter() - begun)


class Simulated:
    """What one registrar does, without its process."""

    def __init__(self, load: Load, number: int) -> None:
        who = Who(f"{number:032x}", "shop", "shop:app", f"web-{number}", "0.0.0.0:8002", "0.1.0")
        self._load = load
        self._turn = threading.Lock()
        """A registrar does one thing after the other, and keeps one connection meanwhile."""
        self._numbers = itertools.count(1)
        self.rows = Rows(load.url, {}, who, beats_every=load.heartbeat)
        self.gathering = Gathering(self.rows, window=load.window, lease=2 * load.heartbeat)
        self.report = report(self._run_id(), fails=False)

    def _run_id(self) -> str:
        return f"{next(self._numbers):08x}{self.rows.who.id[8:]}"

    def join(self) -> None:
        self._load.timed("first report", lambda: self.rows.write(self.report, []))

    def beat(self) -> None:
        with self._turn, self.rows:
            self._load.timed("sign of life", lambda: self.rows.beat(self.report))
            self._load.timed("look for news", self._gather)

    def flip(self, *, fails: bool) -> None:
        with self._turn:
            self.report = report(self._run_id(), fails=fails)
            words = ("ok", "blocks") if fails else ("blocks", "ok")
            flip = {"title": KEY, "before": words[0], "after": words[1], "message": "rejected (HTTP 401)", "fix": ""}
            news = News(self.report.run_id, (flip,))
            self._load.timed("flip", lambda: self.rows.write(self.report, [news]))

    def _gather(self) -> None:
        if claimed := self.gathering.claim():
            self._load.sent.append(claimed.notice.title)
            self.gathering.conclude(claimed.key, delivered=True)


def play(load: Load, seconds: float, threads: int) -> dict[str, float]:
    """Let them write for so long, with the storm in the middle; how long each part of it took, in seconds."""
    begun = time.monotonic()
    events: list[tuple[float, int, Callable[[], object]]] = []
    numbers = itertools.count()

    def at(when: float, what: Callable[[], object]) -> None:
        heapq.heappush(events, (when, next(numbers), what))

    def beat(one: Simulated) -> None:
        one.beat()
        at(time.monotonic() + load.heartbeat * random.uniform(1 - JITTER, 1 + JITTER), lambda: beat(one))

    storms = {"storm": (begun + 0.5 * seconds, True), "its end": (begun + 0.75 * seconds, False)}
    over: dict[str, float] = {}
    left = {name: len(load.instances) for name in storms}

    def flip(name: str, one: Simulated, *, fails: bool) -> None:
        one.flip(fails=fails)
        left[name] -= 1
        if not left[name]:
            over[name] = time.monotonic() - storms[name][0]

    for one in load.instances:
        at(begun + random.uniform(0, load.heartbeat), lambda one=one: beat(one))  # type: ignore[misc]
        for name, (when, fails) in storms.items():
            at(when + random.uniform(0, SPREAD), lambda n=name, o=one, f=fails: flip(n, o, fails=f))  # type: ignore[misc]
    slots = threading.Semaphore(2 * threads)

    def work(what: Callable[[], object]) -> None:
        try:
            what()
        finally:
            slots.release()

    with ThreadPoolExecutor(threads) as pool:
        while time.monotonic() < begun + seconds:
            if not events or events[0][0] > time.monotonic():
                time.sleep(0.005)
                continue
            slots.acquire()
            pool.submit(work, heapq.heappop(events)[2])
    return over


def measure_load(options: argparse.Namespace) -> None:
    """Print what so many instances cost the database."""
    with tempfile.TemporaryDirectory() as folder, database_with_pooler(Path(folder)) as (server, url):
        load = Load(url, options.heartbeat, 30.0)
        with database.connect(url, {}) as connection:
            schema.create(connection, [schema.fleet()])
        load.instances = [Simulated(load, number) for number in range(options.instances)]
        with ThreadPoolExecutor(options.threads) as pool:
            list(pool.map(Simulated.join, load.instances))
        before = counters(server)
        over = play(load, options.seconds, options.threads)
        after = counters(server)
        spent = {name: after[name] - before[name] for name in before}
        print(f"{options.instances} instances, {options.seconds:g} s, a heartbeat every {options.heartbeat:g} s")
        for kind, took in sorted(load.took.items()):
            ordered = [1000 * one for one in sorted(took)]
            p50, p99 = ordered[len(took) // 2], ordered[int(len(took) * 0.99)]
            print(f"  {kind:14} n={len(took):<6} p50 {p50:7.1f} ms  p99 {p99:7.1f} ms  largest {ordered[-1]:7.1f} ms")
        a_second = {name: spent[name] / options.seconds for name in ("commits", "rows")}
        print(f"transactions a second: {a_second['commits']:.1f}; rows written a second: {a_second['rows']:.1f}")
        print(f"WAL: {spent['wal'] / 1e6:.1f} MB, {spent['wal'] / options.seconds / 1e3:.1f} kB a second")
        print("all have written: " + "; ".join(f"{name} after {took:.1f} s" for name, took in over.items()))
        print(f"not taken: {load.failed}; told: {load.sent}")
        sizes = dict(server.rows(SIZES))
        print("sizes: " + ", ".join(f"{name} {sizes[name] / 1e6:.1f} MB" for name in TABLES))


SIZES = """
SELECT c.relname, pg_total_relation_size(c.oid) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'preflight' AND c.relkind = 'r'
"""


def counters(server: Postgres) -> dict[str, float]:
    """Counters of the server that only rise."""
    server.run("SELECT pg_stat_clear_snapshot()")
    row = server.ask(
        "SELECT xact_commit, tup_inserted + tup_updated + tup_deleted, pg_current_wal_lsn() - '0/0'::pg_lsn"
        " FROM pg_stat_database WHERE datname = current_database()"
    )
    return dict(zip(("commits", "rows", "wal"), map(float, row), strict=True))


@contextlib.contextmanager
def database_with_pooler(folder: Path) -> Iterator[tuple[Postgres, str]]:
    """A server that writes to its disk as one does that is not a test's, and the URL of a PgBouncer before it."""
    with (
        databases.postgres(databases.folder(folder), "fsync=on", "max_connections=100") as server,
        databases.pgbouncer(server, databases.folder(folder), "default_pool_size = 20") as port,
    ):
        yield server, server.url(port=port)


# An outage.

LINK = ("10.213.0.1", "10.213.0.2")
REQUIREMENT = f'''
import os, urllib.request
import pytest

@pytest.mark.critical("{KEY}", fix="see the provider")
def test_provider():
    """The provider takes the key."""
    try:
        urllib.request.urlopen(os.environ["PROVIDER"], timeout=2).close()
    except OSError as error:
        pytest.fail(f"the provider says: {{error}}")
'''


class Provider:
    """A service whose answers are good, or not."""

    def __init__(self) -> None:
        self.good = True
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if provider.good else 401)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Server:
    """A real one: launcher, worker, suite, registrar."""

    def __init__(self, folder: Path, number: int, environ: dict[str, str], before: list[str]) -> None:
        root = folder / f"web-{number}"
        (root / "preflight_suite").mkdir(parents=True)
        (root / "shop.py").write_text(SMALL)
        (root / "pyproject.toml").write_text('[project]\nname = "shop"\n[tool.preflight]\napp = "shop:app"\n')
        (root / "preflight_suite" / "test_provider.py").write_text(REQUIREMENT)
        (root / "home").mkdir(mode=0o700)
        port = unused_port()
        own = {"HOME": str(root / "home"), "PREFLIGHT_PORT": str(port), "PATH": os.environ["PATH"]}
        self.address = f"127.0.0.1:{port}"
        self.output = root / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-m", "preflight"],
                cwd=root, env={**own, **environ, "PYTHONPATH": str(ROOT)}, stdout=output, stderr=output,
            )  # fmt: skip

    @property
    def ready(self) -> bool:
        """Whether it serves; one that has ended will not, and says why."""
        if self.process.poll() is not None:
            raise SystemExit(f"a server ended with {self.process.returncode}:\n{self.output.read_text()}")
        return "SERVER READY!" in self.output.read_text()

    def senders(self) -> list[int]:
        """The PIDs of the processes that send for it."""
        found = subprocess.run(["pgrep", "-f", "-P", str(self.process.pid), "preflight.notify"], capture_output=True)
        return [int(pid) for pid in found.stdout.split()]


@contextlib.contextmanager
def link() -> Iterator[list[str]]:
    """A network namespace behind a link; what a command begins with to run there."""
    name = f"preflight{os.getpid()}"
    ours, theirs = f"pf{os.getpid()}a"[:15], f"pf{os.getpid()}b"[:15]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    ip("netns", "add", name)
    try:
        ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)
        ip("address", "add", f"{LINK[0]}/30", "dev", ours)
        ip("link", "set", ours, "up")
        ip("-n", name, "address", "add", f"{LINK[1]}/30", "dev", theirs)
        ip("-n", name, "link", "set", theirs, "up")
        ip("-n", name, "link", "set", "lo", "up")
        yield [ours, "ip", "netns", "exec", name]
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False)


def wait(holds: Callable[[], object], what: str, seconds: float = 300.0) -> None:
    """Wait for something; a benchmark that waits in vain says for what."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            raise SystemExit(f"waited {seconds:g} s in vain until {what}")
        time.sleep(0.2)


def measure_outage(options: argparse.Namespace) -> None:
    """Print what people are told of an outage, in each case."""
    cases = ("plain", "sender", "database", "partition")
    for case in cases if options.case == "all" else (options.case,):
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ends:
            outage(case, Path(folder), options, ends)


def outage(case: str, folder: Path, options: argparse.Namespace, ends: contextlib.ExitStack) -> None:
    """One outage and its end."""
    before: list[str] = []
    host = "127.0.0.1"
    if case == "partition":
        device, *before = ends.enter_context(link())
        host = LINK[0]
    server = Postgres(databases.folder(folder), host="0.0.0.0" if before else host)
    ends.callback(server.stop, signal.SIGQUIT)
    provider, receiver = Provider(), Receiver(host="0.0.0.0" if before else host)
    ends.callback(provider.close)
    ends.callback(receiver.close)
    environ = {
        "PREFLIGHT_DATABASE_URL": server.url().replace(server.host, host),
        "PREFLIGHT_NOTIFY": receiver.url().replace("127.0.0.1", host),
        "PROVIDER": f"http://{host}:{provider.port}/",
        "PREFLIGHT_REFRESH": f"{options.refresh:g}s",
        "PREFLIGHT_FLEET_HEARTBEAT": f"{options.heartbeat:g}s",
        "PREFLIGHT_RUN_TIMEOUT": "120s",  # all of them start at the same moment
    }
    servers = [
        Server(folder, number, environ, before if number == options.instances else [])
        for number in range(1, options.instances + 1)
    ]
    for one in servers:
        ends.callback(one.process.wait, 60)
        ends.callback(one.process.terminate)
    there = "SELECT count(*) FROM preflight.instances WHERE ended_at IS NULL"
    wait(lambda: all(one.ready for one in servers), "all serve")
    wait(lambda: server.ask("SELECT to_regclass('preflight.instances')") != (None,), "the tables are made")
    wait(lambda: server.ask(there) == (options.instances,), "all are in the database")
    if before:
        subprocess.run(["ip", "link", "set", device, "down"], check=True)
        time.sleep(3.5 * options.heartbeat)  # until it counts as silent
    begun = [time.monotonic()]
    provider.good = False
    if case == "database":
        time.sleep(options.refresh)
        server.stop()
        time.sleep(5)
        server.start()
    if case == "sender":
        stop_sender(servers, receiver)
    # A launcher gives its sender some minutes before it gives the notice back.
    wait(lambda: len(receiver.taken) >= 1, "people hear of the outage", 900.0)
    took = [time.monotonic() - begun[0]]
    begun.append(time.monotonic())
    provider.good = True
    wait(lambda: len(receiver.taken) >= 2, "people hear of its end")
    took.append(time.monotonic() - begun[1])
    time.sleep(options.refresh + 35)  # whatever else might come
    names = [sum(one.address in message["message"] for one in servers) for message in receiver.taken]
    print(f"{case}: {len(receiver.taken)} messages, told after {took[0]:.0f} and {took[1]:.0f} s", flush=True)
    for message, count in zip(receiver.taken, names, strict=True):
        print(f"  names {count} of {options.instances}: {message['title']}", flush=True)


def stop_sender(servers: list[Server], receiver: Receiver) -> None:
    """Stop whatever process sends, before it has delivered: its launcher gives up, and another instance has to send."""
    receiver.hangs = True
    wait(lambda: receiver.tried, "somebody sends")
    holder = next(one for one in servers if one.senders())
    for pid in holder.senders():
        os.kill(pid, signal.SIGSTOP)
    receiver.hangs = False


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    load = commands.add_parser("load")
    load.add_argument("--instances", type=int, default=1000)
    load.add_argument("--seconds", type=float, default=600.0)
    load.add_argument("--threads", type=int, default=32)
    load.add_argument("--heartbeat", type=float, default=30.0)
    stops = commands.add_parser("outage")
    stops.add_argument("--instances", type=int, default=8)
    stops.add_argument("--refresh", type=float, default=10.0)
    stops.add_argument("--heartbeat", type=float, default=10.0)
    stops.add_argument("--case", choices=("all", "plain", "sender", "database", "partition"), default="all")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is stopped then, too
    describe()
    {"load": measure_load, "outage": measure_outage}[options.command](options)


if __name__ == "__main__":
    main()
