"""The chat under load, the cost of a turn, and kill -9 in the middle of turns; all on the embedded model.

    python benchmarks/chat.py [connections] [turns] [crashes] [--count 1000] [--messages 10] [--kills 100]

Without a name all three run. Loopback only, in folders of its own; it stops what it started and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

QUESTIONS = ("what failed?", "status", "which key is missing?", "uptime", "how do I fix Python Version?", "help")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", choices=["connections", "turns", "crashes", []])
    parser.add_argument("--count", type=int, default=1000, help="connections")
    parser.add_argument("--messages", type=int, default=10, help="messages of each connection")
    parser.add_argument("--rate", type=float, default=60, help="messages a second of all together, in the paced part")
    parser.add_argument("--kills", type=int, default=100)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is stopped then, too
    which = options.which or ["connections", "turns", "crashes"]
    if "turns" in which:
        asyncio.run(turns())
    if "connections" in which:
        with server() as port:
            asyncio.run(connections(port, options.count, options.messages, options.rate))
    if "crashes" in which:
        with server(PREFLIGHT_RESTART_LIMIT="1000000", PREFLIGHT_RESTART_BACKOFF="0") as port:
            asyncio.run(crashes(port, options.kills))


# -- a server -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def server(**variables: str) -> Iterator[int]:
    """A server of this checkout on a port of its own."""
    with tempfile.TemporaryDirectory(prefix="chat-") as name, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
        probe.close()
        folder = Path(name)
        (folder / "runtime").mkdir(mode=0o700)
        environ = {key: value for key, value in os.environ.items() if not key.startswith("PREFLIGHT_")}
        environ |= {
            "HOME": name,
            "XDG_RUNTIME_DIR": str(folder / "runtime"),
            "PREFLIGHT_STATE_DIR": str(folder / "state"),
        }
        command = [sys.executable, "run.py", "--demo", "--supervise", "--port", str(port)]
        log = (folder / "log").open("wb")
        process = subprocess.Popen(command, cwd=ROOT, env={**environ, **variables}, stdout=log, stderr=log)
        try:
            until_up(port)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
            log.close()
            errors = [line for line in (folder / "log").read_text().splitlines() if "Error" in line or "error" in line]
            print(*errors[-5:], sep="\n", end="\n" if errors else "")


def get(port: int, path: str) -> Any:
    """The JSON document there."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return json.loads(answer.read())


def until_up(port: int) -> int:
    """Wait for an answer; returns the worker's PID."""
    end = time.monotonic() + 30
    while True:
        try:
            return int(get(port, "/diagnostics")["server"]["pid"])
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def percentile(values: list[float], share: float) -> float:
    """In milliseconds."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] * 1000


def told(name: str, values: list[float]) -> None:
    """Print a distribution."""
    figures = ", ".join(f"{label} {percentile(values, share):.1f}" for label, share in (("p50", 0.5), ("p99", 0.99)))
    print(f"  {name}: {figures}, longest {max(values) * 1000:.1f} ms ({len(values)})")


# -- many connections -----------------------------------------------------------------------------------------


async def receive(chat: ClientConnection, *kinds: str) -> dict[str, Any]:
    """The next message of one of these types, or the next error."""
    while True:
        message: dict[str, Any] = json.loads(await chat.recv())
        if message["type"] in (*kinds, "error"):
            return message


async def connections(port: int, count: int, messages: int, rate: float) -> None:
    """Memory a connection, idle and after traffic; time to `accepted` and to `result`."""
    print(f"{count} connections, {messages} messages each")
    async with opened(port, 1) as few:
        await ask(few[0], "status", [], [])  # all that is imported or made once
    worker = psutil.Process(until_up(port))
    base = worker.memory_info().rss
    accepted: list[float] = []
    answered: list[float] = []
    errors = 0
    async with opened(port, count) as many:
        health = get(port, "/health")
        print(f"  /health: {health['active_connections']} connections, {health['active_sessions']} sessions")
        await asyncio.sleep(2)
        idle = worker.memory_info().rss
        print(f"  idle: {(idle - base) / count / 1024:.1f} KiB a connection")

        async def talk(chat: ClientConnection) -> int:
            wrong = 0
            for number in range(messages):
                wrong += await ask(chat, QUESTIONS[number % len(QUESTIONS)], accepted, answered)
            return wrong

        begun = time.perf_counter()
        errors += sum(await asyncio.gather(*(talk(chat) for chat in many)))
        took = time.perf_counter() - begun
        print(f"  all at once, each after its last answer: {count * messages / took:.0f} turns/s, {errors} errors")
        told("to accepted", accepted)
        told("to result", answered)
        await asyncio.sleep(2)
        after = worker.memory_info().rss
        print(f"  after traffic: {(after - base) / count / 1024:.1f} KiB a connection")
        accepted.clear()
        answered.clear()

        async def later(chat: ClientConnection, at: float) -> int:
            await asyncio.sleep(at)
            return await ask(chat, random.choice(QUESTIONS), accepted, answered)

        span = min(count, int(rate * 10)) / rate
        chosen = many[: int(rate * 10)]
        errors = sum(await asyncio.gather(*(later(chat, random.uniform(0, span)) for chat in chosen)))
        print(f"  paced, {rate:g} messages a second together, at random times: {errors} errors")
        told("to accepted", accepted)
        told("to result", answered)


@contextlib.asynccontextmanager
async def opened(port: int, count: int) -> AsyncIterator[list[ClientConnection]]:
    """Connections that follow a session each; fifty are opened at a time."""
    gate = asyncio.Semaphore(50)
    async with contextlib.AsyncExitStack() as stack:

        async def one() -> ClientConnection:
            async with gate:
                address = f"ws://127.0.0.1:{port}/ws/chat"
                chat = await stack.enter_async_context(
                    connect(address, compression=None, ping_interval=None, open_timeout=60)
                )
                await receive(chat, "connected")
                await chat.send('{"type": "init"}')
                await receive(chat, "initialized")
                return chat

        yield list(await asyncio.gather(*(one() for _ in range(count))))


async def ask(chat: ClientConnection, text: str, accepted: list[float], answered: list[float]) -> int:
    """One turn; returns how many errors it brought."""
    begun = time.perf_counter()
    await chat.send(json.dumps({"type": "chat", "content": text}))
    if (await receive(chat, "accepted"))["type"] == "error":
        return 1
    accepted.append(time.perf_counter() - begun)
    end = await receive(chat, "result")
    answered.append(time.perf_counter() - begun)
    return int(end["type"] == "error")


# -- the cost of a turn ---------------------------------------------------------------------------------------


async def turns(rounds: int = 300) -> None:
    """A turn with the transcript and the checkpointer, against the same graph with neither."""
    from preflight.redaction.redactor import Redactor
    from preflight.settings import loading
    from preflight.web.instance import Instance
    from preflight.web.past import EarlierRuns
    from preflight.web.snapshot import Snapshot
    from server.agent import graph as agent
    from server.agent.tools import Toolbox
    from server.sessions import store as sessions
    from server.sessions.checkpoints import Checkpoints
    from server.sessions.model import TurnEnd

    folder = Path(tempfile.mkdtemp(prefix="chat-", dir=ROOT))
    try:
        instance = Instance(settings=loading.load(ROOT, {}, {"demo": True}), report=None)
        store = sessions.Store(folder / "sessions.sqlite", age=1e9, limit=1000, size=1 << 30)
        checkpointer = Checkpoints(store.database)
        await checkpointer.prepare()
        snapshot = Snapshot(instance)
        toolbox = Toolbox(instance, Redactor(), snapshot, EarlierRuns(instance, snapshot))
        bare = agent.make(instance, Redactor(), toolbox, None)
        kept = agent.make(instance, Redactor(), toolbox, checkpointer)
        text = "help " + "x" * 2043  # 2 KB; no tool is asked: what is left is graph and persistence
        without, with_, sizes = [], [], []
        gc.collect()
        gc.freeze()
        for number in range(rounds):
            begun = time.perf_counter()
            async for _ in bare.answer("s", f"t{number}", text):
                pass
            without.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            await store.accept("s", f"t{number}", text, client=None, workspace=None, keep=())
            await store.begin(f"t{number}")
            answer = ""
            async for kind, said in kept.answer("s", f"t{number}", text):
                answer = said if kind == "answer" else answer
            await store.finish("s", f"t{number}", TurnEnd("assistant", answer))
            with_.append(time.perf_counter() - begun)
            if number + 1 in (100, 200, 300):
                await store.database.run(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall(), "alone")
                sizes.append((folder / "sessions.sqlite").stat().st_size)
        await store.close()
    finally:
        shutil.rmtree(folder)
    middle = [statistics.median(part) for part in (with_[5:15], with_[190:210])]
    print("a turn with 2 KB of text, embedded model, no tool")
    ratio = statistics.median(with_) / statistics.median(without)
    print(
        f"  graph alone {statistics.median(without) * 1000:.2f} ms, with transcript and checkpoints"
        f" {statistics.median(with_) * 1000:.2f} ms: {ratio:.2f} times"
    )
    print(f"  10th turn {middle[0] * 1000:.2f} ms, 200th {middle[1] * 1000:.2f} ms: {middle[1] / middle[0]:.2f} times")
    print(f"  on disk after 100, 200, 300 turns: {', '.join(f'{size / 1024:.0f}' for size in sizes)} KiB")


# -- crashes --------------------------------------------------------------------------------------------------


async def crashes(port: int, kills: int) -> None:
    """kill -9 in the middle of turns; every accepted message must be there and answered, every session resumable."""
    accepted: dict[str, list[str]] = {}
    lost = unanswered = unresumed = 0
    begun = time.perf_counter()
    for number in range(kills):
        pid = until_up(port)
        stop = asyncio.Event()

        async def talk(stop: asyncio.Event = stop, number: int = number) -> None:
            address = f"ws://127.0.0.1:{port}/ws/chat"
            try:
                async with connect(address, compression=None) as chat:
                    await chat.send('{"type": "init"}')
                    session = (await receive(chat, "initialized"))["session_id"]
                    mine = accepted.setdefault(session, [])
                    while not stop.is_set():
                        await chat.send(json.dumps({"type": "chat", "content": f"status {number} {len(mine)}"}))
                        message = await receive(chat, "accepted")
                        if message["type"] == "accepted":
                            mine.append(message["turn_id"])
            except (WebSocketException, OSError):
                return

        talkers = [asyncio.create_task(talk()) for _ in range(8)]
        await asyncio.sleep(random.uniform(0.02, 0.4))
        os.kill(pid, signal.SIGKILL)
        stop.set()
        await asyncio.gather(*talkers)
        while await asyncio.to_thread(until_up, port) == pid:
            pass
    total = sum(map(len, accepted.values()))
    for session, mine in accepted.items():
        async with connect(f"ws://127.0.0.1:{port}/ws/chat", compression=None) as chat:
            await chat.send(json.dumps({"type": "init", "session_id": session}))
            unresumed += not (await receive(chat, "initialized"))["resumed"] and bool(mine)
        if not mine:
            continue
        end = time.monotonic() + 30
        while True:
            transcript = (await asyncio.to_thread(get, port, f"/sessions/{session}"))["transcript"]
            asked = {line["turn_id"] for line in transcript if line["role"] == "user"}
            told_ = {line["turn_id"] for line in transcript if line["role"] != "user"}
            if asked <= told_ or time.monotonic() > end:
                break
            await asyncio.sleep(0.02)
        lost += len(set(mine) - asked)
        unanswered += len(asked - told_)
    took = time.perf_counter() - begun
    print(
        f"{kills} times kill -9 in turns: {total} messages accepted in {len(accepted)} sessions, {lost} lost,"
        f" {unanswered} unanswered after resuming, {unresumed} sessions not resumable ({took:.0f} s)"
    )


if __name__ == "__main__":
    main()
