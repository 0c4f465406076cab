"""Sessions in PostgreSQL behind PgBouncer: kill -9 of instances, stale owners, the cost of a turn, sessions a second.

    python benchmarks/sessions.py [kills] [stale] [turns] [rate] [--kills 100] [--late 100] [--rounds 300]
        [--instances 8] [--seconds 20]

Without a name all four run. PostgreSQL and PgBouncer are Debian's, with fsync, and share the machine with clients and
instances. Loopback only, in folders of its own; it stops what it started and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests import databases  # noqa: E402  # how PostgreSQL is started is in one place
from tests.databases import Postgres  # noqa: E402

LEASE = 3.0  # seconds, as short as the setting allows: it is what a client waits for
TALKERS = 8  # clients of the instance that is killed


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", choices=["kills", "stale", "turns", "rate", []])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--late", type=int, default=100, help="turns whose stale owner writes")
    parser.add_argument("--rounds", type=int, default=300, help="turns on each engine")
    parser.add_argument("--instances", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20, help="length of each part of rate")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is stopped then, too
    which = options.which or ["kills", "stale", "turns", "rate"]
    with database() as (server, url):
        print(f"PostgreSQL {server.ask('SHOW server_version')[0]}, clients, instances and servers on one machine")
        if "stale" in which:
            asyncio.run(stale(url, options.late))
        if "turns" in which:
            asyncio.run(turns(server.url(), url, options.rounds))
        if "kills" in which:
            with fleet(url, options.instances) as instances:
                asyncio.run(kills(instances, server, options.kills))
        if "rate" in which:
            for count in (1, options.instances):
                with fleet(url, count) as instances:
                    asyncio.run(rate(instances, options.seconds))


@contextlib.contextmanager
def database() -> Iterator[tuple[Postgres, str]]:
    """A PostgreSQL that is as careful as it is by default, and its URL behind PgBouncer."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        options = ("fsync=on", "max_connections=200")
        with databases.postgres(Path(one), *options) as server, databases.pgbouncer(server, Path(other)) as port:
            yield server, server.url(port=port)


# -- instances ------------------------------------------------------------------------------------------------


class Instance:
    """An instance of this checkout, on a port and in folders of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        (folder / "runtime").mkdir(mode=0o700, parents=True)
        environ = {key: value for key, value in os.environ.items() if not key.startswith("PREFLIGHT_")}
        self._environ = environ | {
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder / "runtime"),
            "PREFLIGHT_STATE_DIR": str(folder / "state"),
            "PREFLIGHT_DATABASE_URL": url,
            "PREFLIGHT_SESSION_LEASE": f"{LEASE}s",
        }
        self._log = (folder / "log").open("ab")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; see :meth:`until_up`."""
        command = [sys.executable, "run.py", "--demo", "--supervise", "--port", str(self.port)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=self._environ, stdout=self._log, stderr=self._log, start_new_session=True
        )

    def until_up(self) -> None:
        """Wait for an answer."""
        end = time.monotonic() + 120
        while True:
            try:
                get(self.port, "/health/ready")
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """kill -9 of all that it consists of."""
        assert self.process is not None
        launcher = psutil.Process(self.process.pid)
        for process in (launcher, *launcher.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Let it drain."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
        self._log.close()


@contextlib.contextmanager
def fleet(url: str, count: int) -> Iterator[list[Instance]]:
    """Instances that share a database."""
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        instances = [Instance(Path(folder) / str(number), url) for number in range(count)]
        try:
            for one in instances:
                one.start()
            for one in instances:
                one.until_up()
            yield instances
        finally:
            for one in instances:
                one.stop()


def get(port: int, path: str) -> Any:
    """The JSON document there."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return json.loads(answer.read())


@contextlib.asynccontextmanager
async def talking(port: int, **init: Any) -> AsyncIterator[tuple[Callable[..., Awaitable[Any]], str]]:
    """A connection after its `init`: how to ask it for the next message of some types, and its session."""
    async with connect(f"ws://127.0.0.1:{port}/ws/chat", compression=None, open_timeout=60) as chat:

        async def next_of(*kinds: str, say: str = "") -> Any:
            if say:
                await chat.send(json.dumps({"type": "chat", "content": say}))
            while True:
                message = json.loads(await chat.recv())
                if message["type"] in kinds:
                    return message

        await chat.send(json.dumps({"type": "init", "stream": True, **init}))
        begun = await next_of("initialized", "error")
        yield next_of, begun.get("session_id", "")


# -- kill -9 --------------------------------------------------------------------------------------------------


async def kills(instances: list[Instance], server: Postgres, count: int) -> None:
    """An instance is killed while its clients' turns run; each client goes on at another one."""
    begun = time.perf_counter()
    accepted: dict[str, list[str]] = {}
    waits: list[float] = []
    interrupted = 0
    async with talking(instances[0].port) as (next_of, _):  # the first session of all makes the tables
        await next_of("result", say="status")
    for number in range(count):
        victim = instances[number % len(instances)]
        others = [one for one in instances if one is not victim]
        stop = asyncio.Event()
        talkers = [asyncio.create_task(talk(victim.port, stop, accepted, number)) for _ in range(TALKERS)]
        await asyncio.sleep(random.uniform(0.05, 0.5))
        await asyncio.to_thread(victim.kill)
        stop.set()
        sessions = [session for session in await asyncio.gather(*talkers) if session]
        open_ = server.rows("SELECT session, count(*) FROM preflight.chat_turns GROUP BY session")
        interrupted += bool({session for session, _ in open_} & set(sessions))
        victim.start()
        waits += await asyncio.gather(*(resumed(random.choice(others).port, one, server) for one in sessions))
        await asyncio.to_thread(victim.until_up)
    stored = Counter(server.rows("SELECT session, turn, role <> 'user' FROM preflight.chat_transcript"))
    mine = [(session, turn) for session, turns in accepted.items() for turn in turns]
    lost = sum((session, turn, False) not in stored for session, turn in mine)
    unanswered = sum((session, turn, True) not in stored for session, turn in mine)
    doubled = sum(number > 1 for (_, _, answer), number in stored.items() if answer)
    print(
        f"{count} times kill -9 of one of {len(instances)} instances ({interrupted} times a turn was open then):"
        f" {len(mine)} messages accepted in {len(accepted)} sessions, {lost} lost, {unanswered} unanswered,"
        f" {doubled} turns with two stored results ({time.perf_counter() - begun:.0f} s)"
    )
    print(
        f"  from resuming elsewhere until all is answered, lease {LEASE:g} s: median {statistics.median(waits):.1f} s"
    )


async def talk(port: int, stop: asyncio.Event, accepted: dict[str, list[str]], number: int) -> str:
    """Say something again and again, without waiting for answers; the session."""
    session = ""
    with contextlib.suppress(WebSocketException, OSError):
        async with talking(port) as (next_of, session):
            while not stop.is_set():
                message = await next_of("accepted", "error", say=f"status {number}")
                if message["type"] == "accepted":
                    accepted.setdefault(session, []).append(message["turn_id"])
                else:
                    await asyncio.sleep(0.01)  # the queue is full
    return session


async def resumed(port: int, session: str, server: Postgres) -> float:
    """Resume on this instance, and wait until nothing of the session is open; seconds."""
    begun = time.perf_counter()
    question = f"SELECT count(*) FROM preflight.chat_turns WHERE session = '{session}'"
    async with talking(port, session_id=session):
        while (await asyncio.to_thread(server.ask, question))[0]:
            if time.perf_counter() - begun > 120:
                break
            await asyncio.sleep(0.05)
    return time.perf_counter() - begun


# -- stale owners ---------------------------------------------------------------------------------------------


async def stale(url: str, count: int) -> None:
    """An owner that comes back after its turn was taken over: its beginning, its checkpoint and its answer."""
    from langgraph.checkpoint.base import CheckpointMetadata, empty_checkpoint

    from server.sessions.model import Open, TurnEnd, TurnTaken
    from server.sessions.postgres.store import Store

    limits: dict[str, Any] = {"age": 1e9, "limit": 10_000, "size": 1 << 30, "lease": 60.0, "connections": 4}
    owner, heir = Store(url, {}, **limits), Store(url, {}, **limits)
    memory = await owner.checkpointer()
    refused: Counter[str] = Counter()
    for number in range(count):
        session, turn = f"stale {number}", f"stale turn {number}"
        await owner.accept(session, turn, "hello", client=None, workspace=None, keep=())
        await owner.begin(turn)
        await owner.database.execute("UPDATE preflight.chat_turns SET expires = now() WHERE turn = %(turn)s", turn=turn)
        found = await heir.seen(session, turn)
        assert isinstance(found, Open)
        assert await heir.claim(found) == 1
        config: Any = {"configurable": {"thread_id": session, "turn_id": turn, "checkpoint_ns": ""}}
        for name, write in (
            ("checkpoints", memory.aput(config, empty_checkpoint(), CheckpointMetadata(source="loop"), {})),
            ("answers", owner.finish(session, turn, TurnEnd("assistant", "stale"))),
            ("beginnings", owner.begin(turn)),
        ):
            try:
                await write
            except TurnTaken:
                refused[name] += 1
        await heir.finish(session, turn, TurnEnd("assistant", "fresh"))
    [row] = await heir.database.rows(
        "SELECT count(*) AS count FROM preflight.chat_transcript WHERE content = 'stale' OR session LIKE 'stale %%'"
        " AND role <> 'user' AND content <> 'fresh'"
    )
    said = ", ".join(f"{number} of {count} late {name}" for name, number in refused.items())
    print(f"stale owners: refused were {said}; {row['count']} of their answers are stored")
    await owner.close()
    await heir.close()


# -- the cost of a turn ---------------------------------------------------------------------------------------


async def turns(direct: str, pooled: str, rounds: int) -> None:
    """A turn on each engine, one after the other, and many at once on one worker."""
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    from psycopg.rows import dict_row
    from psycopg_pool import AsyncConnectionPool

    from preflight.redaction.redactor import Redactor
    from preflight.settings import loading
    from preflight.web.instance import Instance as Served
    from preflight.web.past import EarlierRuns
    from preflight.web.snapshot import Snapshot
    from server.agent import graph as agent
    from server.agent.tools import Toolbox
    from server.sessions.model import Sessions, TurnEnd
    from server.sessions.postgres.store import Store as InPostgreSQL
    from server.sessions.store import Store as InFile

    served = Served(settings=loading.load(ROOT, {}, {"demo": True}), report=None)
    snapshot = Snapshot(served)
    toolbox = Toolbox(served, Redactor(), snapshot, EarlierRuns(served, snapshot))
    text = "help " + "x" * 2043  # 2 KB; no tool is asked: what is left is graph and persistence
    limits: dict[str, Any] = {"age": 1e9, "limit": 100_000, "size": 1 << 30}
    leased: dict[str, Any] = {"lease": 60.0, "connections": 4}

    async def with_store(store: Sessions, graph: Any, session: str, turn: str) -> None:
        await store.accept(session, turn, text, client=None, workspace=None, keep=())
        await store.begin(turn)
        answer = ""
        async for kind, said in graph.answer(session, turn, text):
            answer = said if kind == "answer" else answer
        await store.finish(session, turn, TurnEnd("assistant", answer))

    with tempfile.TemporaryDirectory(prefix="turns-", dir=ROOT) as folder:
        stores: dict[str, Sessions] = {
            "SQLite": InFile(Path(folder) / "sessions.sqlite", **limits),
            "PostgreSQL": InPostgreSQL(direct, {}, **limits, **leased),
            "PostgreSQL behind PgBouncer": InPostgreSQL(pooled, {}, **limits, **leased),
        }
        pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            direct, kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}, max_size=4, open=False
        )
        await pool.open()
        plain = AsyncPostgresSaver(pool)
        await plain.setup()
        await plain.setup()
        ways: dict[str, Callable[[str, str], Awaitable[None]]] = {}
        for name, store in stores.items():
            graph = agent.make(served, Redactor(), toolbox, await store.checkpointer())
            ways[name] = lambda session, turn, store=store, graph=graph: with_store(store, graph, session, turn)  # type: ignore[misc]
        theirs = agent.make(served, Redactor(), toolbox, plain)

        async def langgraph(session: str, turn: str) -> None:
            given: Any = {"turn_id": turn, "question": text, "query": ""}
            config: Any = {"configurable": {"thread_id": session}}
            async for _ in theirs._graph.astream(given, config, stream_mode="custom"):
                pass

        ways["LangGraph's own checkpointer alone, as it is by default"] = langgraph
        took: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            for name, way in ways.items():
                begun = time.perf_counter()
                await way("one", f"{name} {number}")
                took[name].append(time.perf_counter() - begun)
        print("a turn with 2 KB of text, embedded model, no tool: one after the other; 32 sessions at once")
        for name, way in ways.items():
            begun = time.perf_counter()
            await asyncio.gather(*(many(way, f"{name} {session}", max(1, rounds // 32)) for session in range(32)))
            rate = 32 * max(1, rounds // 32) / (time.perf_counter() - begun)
            ratio = statistics.median(took[name]) / statistics.median(took["SQLite"])
            print(f"  {name}: median {statistics.median(took[name]) * 1000:.1f} ms ({ratio:.2f}); {rate:.0f} turns/s")
        for store in stores.values():
            await store.close()
        await pool.close()


async def many(way: Callable[[str, str], Awaitable[None]], session: str, count: int) -> None:
    """Turns of one session, one after the other."""
    for number in range(count):
        await way(session, f"{session} turn {number}")


# -- sessions a second ----------------------------------------------------------------------------------------


async def rate(instances: list[Instance], seconds: float) -> None:
    """Clients that begin a session, ask one question, get the answer and go."""
    end = time.monotonic() + seconds
    counts: Counter[str] = Counter()

    async def visit(port: int) -> None:
        while time.monotonic() < end:
            async with talking(port) as (next_of, _):
                counts[(await next_of("result", "error", say="help"))["type"]] += 1

    begun = time.perf_counter()
    await asyncio.gather(*(visit(instances[number % len(instances)].port) for number in range(16)))
    took = time.perf_counter() - begun
    print(
        f"{len(instances)} instances, 16 clients: {counts['result'] / took:.1f} sessions a second,"
        f" {counts['error']} errors ({took:.0f} s)"
    )


if __name__ == "__main__":
    main()
