"""A foreign application that shows what reaches it, and a server that has our routes beside it."""

from __future__ import annotations

import os
import re
import signal
from typing import Any

import psutil
import requests

from tests.e2e.place import Place, Started
from tests.waiting import until

PREFIX = "/_preflight"
TOKEN = "canary-Zq7vXw2LmN8pRt4KdY6hJb3F"
RAN = re.compile(r"\d+ requirements: ")
"""The last line of a run of the suite."""
BEARER = {"Authorization": f"Bearer {TOKEN}"}

ECHO = '''
"""A plain ASGI callable: answers with what has reached it."""
import asyncio, json

gate = asyncio.Event()

def told(scope):
    shown = {name: scope[name] for name in scope if name not in ("extensions", "app", "state")}
    shown["extensions"] = sorted(scope.get("extensions", {}))
    shown["state"] = sorted(set(scope.get("state", {})) - {"preflight"})
    return json.dumps(shown, default=lambda value: value.decode("latin-1"))

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["made"] = "at the start-up"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("the application has shut down", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await receive()
        chosen = scope["subprotocols"][-1] if scope["subprotocols"] else None
        await send({"type": "websocket.accept", "subprotocol": chosen, "headers": [(b"x-seen", b"yes")]})
        await send({"type": "websocket.send", "text": told(scope)})
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("text") == "close":
                await send({"type": "websocket.close", "code": 4321, "reason": "as asked"})
                return
            kind = "text" if message.get("text") is not None else "bytes"
            await send({"type": "websocket.send", kind: message[kind]})
    elif scope["path"].endswith("/stream"):
        await send({"type": "http.response.start", "status": 207, "headers": [(b"X-Odd", b" kept "), (b"x-odd", b"2")]})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await receive()
        await gate.wait()
        await send({"type": "http.response.body", "body": b"second"})
    elif scope["path"].endswith("/gate"):
        gate.set()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})
    else:
        body, more = [], scope["method"] == "POST"
        while more:
            message = await receive()
            body.append(message["body"].decode("latin-1"))
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        answer = {"scope": json.loads(told(scope)), "body": "".join(body)}
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})
'''


SHOP = """
from echo import app as plain
from preflight import guard

app = guard(plain)
"""


def link_of(started: Started) -> str:
    """The link with the one-time code that the start has printed."""
    found = re.findall(r"http\S+/login\?code=\w+", started.output)
    assert len(found) == 1, started.output
    return str(found[0])


def ask(started: Started, path: str, method: str = "GET", **options: Any) -> requests.Response:
    options = {"allow_redirects": False, "timeout": 30, **options}
    return requests.request(method, started.url + path, **options)


def logged_in(started: Started) -> requests.Session:
    """A browser that has followed the link."""
    session = requests.Session()
    answer = session.get(link_of(started), timeout=30, allow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PREFIX}/")
    return session


def everywhere(started: Started, session: requests.Session, workers: int) -> set[int]:
    """The processes that have answered a login, asked until all of them have."""
    seen: set[int] = set()

    def all_have() -> bool:
        answer = session.get(f"{started.url}{PREFIX}/diagnostics", headers={"Connection": "close"}, timeout=30)
        assert answer.status_code == 200, answer.text
        seen.add(answer.json()["server"]["pid"])
        return len(seen) == workers

    until(all_have, "every worker has answered")
    return seen


def nonce_of(session: requests.Session, started: Started) -> str:
    """What the page has been given for its scripts."""
    page = session.get(f"{started.url}{PREFIX}/", timeout=30, headers={"Sec-Fetch-Dest": "document"})
    assert page.headers["cache-control"] == "no-store"
    found = re.search(r'<meta name="preflight-nonce" content="(\w+)">', page.text)
    assert found is not None
    return found[1]


def kill_worker(started: Started) -> None:
    """Kill what serves, as a crash does, and wait until another one does."""
    worker = next(pid for pid in started.family() if "preflight.worker" in psutil.Process(pid).cmdline())
    os.kill(worker, signal.SIGKILL)
    started.until_says("The worker is back")


def serve(place: Place, *options: str, **environ: str) -> Started:
    """The application that echoes, behind the launcher."""
    place.write_module("echo", ECHO)
    return place.start("--demo", "--app", "echo:app", *options, **environ).until_ready()
