"""Assertions that cannot fail, failures that libraries keep, damage in place, and strangers' answers."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import socket
import socketserver
import sqlite3
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote, quote_plus

import psutil
import pytest
import requests

from preflight.redaction import arguments
from preflight.redaction.redactor import Redactor
from tests.adversary.suites import FAILS, FILE, OWN, TABLE, check, importable, refused, suite
from tests.e2e.chatting import client
from tests.e2e.doubles import SMALL, Providers
from tests.e2e.installing import Adopter
from tests.e2e.place import Place, Started, equip, get
from tests.e2e.processes import kill_worker, supervised
from tests.waiting import TOO_LONG, until

pytestmark = pytest.mark.usefixtures("unmeasured")

ONE, TWO = "tk_9f8e7d6c5b4a3210", "Zq7vXw2LmN8pRt4KdY6h"
WORD = "hunter2pw"
LIMIT = 300 << 20


# Assertions that hold whatever is found.

STATES = """
import pytest
from helper import is_up as far_up

class Client:
    def is_up(self):
        return False

CLIENT = Client()
HOSTS = ["a", "b"]

def state():
    return "down"

def is_up(host="a"):
    return False

"""
ALWAYS = {
    "or a text": 'assert state() == "ready" or "running"',
    "or one of two texts": 'assert state() == "ready" or ("running" and "idle")',
    "a formatted text": 'assert f"{state()} is ready"',
    "a choice of texts": 'assert "up" if state() == "ready" else "down"',
    "a list of one comparison": 'assert [state() == "ready"]',
    "a list of answers": "assert [is_up(host) for host in HOSTS]",
    "a table of answers": "assert {host: is_up(host) for host in HOSTS}",
    "a function of another file": "assert far_up",
    "a method": "assert CLIENT.is_up",
    "a function in brackets": "assert (is_up)",
    "a function and a method": "assert is_up and CLIENT.is_up",
    "a tuple behind a walrus": 'assert (found := (state() == "ready", "no"))',
}


@pytest.mark.parametrize("what", ALWAYS)
def test_assertions_that_hold_whatever_is_found(shop: Adopter, what: str) -> None:
    """The service is down, and the assertion is one that cannot fail: nothing was asked, so nothing passes."""
    shop.write("helper.py", "def is_up():\n    return False\n")
    shop.write(FILE, STATES + OWN.format("", ALWAYS[what]))
    refused(check(shop))


# Failures that a library keeps to itself.

UNHEARD = """
import asyncio, concurrent.futures, http.server, multiprocessing, multiprocessing.pool, pytest, socket, threading
import urllib.request
from preflight.ready import requirement

def fails(*_):
    assert False, "no"

async def ping():
    fails()

def in_a_callback(*_):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pool.submit(int).add_done_callback(fails)

def passed_on(*_):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pool.submit(fails).add_done_callback(id)

async def of_a_task():
    task = asyncio.create_task(asyncio.sleep(0))
    task.add_done_callback(fails)
    await task
    await asyncio.sleep(0.01)

async def soon():
    asyncio.get_running_loop().call_soon(fails)
    await asyncio.sleep(0.01)

def elsewhere(*_):
    loop = asyncio.new_event_loop()
    one = threading.Thread(target=loop.run_forever)
    one.start()
    concurrent.futures.wait([asyncio.run_coroutine_threadsafe(ping(), loop)])
    loop.call_soon_threadsafe(loop.stop)
    one.join()
    loop.close()

def of_threads(method, *more):
    pool = multiprocessing.pool.ThreadPool(1)
    getattr(pool, method)(fails, *more)
    pool.close()
    pool.join()

def of_processes(method, *more):
    pool = multiprocessing.get_context("fork").Pool(1)
    getattr(pool, method)(fails, *more)
    pool.close()
    pool.join()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()
        fails()

    def log_message(self, *_):
        pass

def called_back(kind):
    with kind(("127.0.0.1", 0), Handler) as server:
        asked = threading.Thread(
            target=lambda: urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}", timeout=9).close()
        )
        asked.start()
        server.handle_request()
        asked.join()

def mapped():
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pool.map(fails, [1])

@pytest.fixture
def asked():
    mapped()

"""
KEPT = {  # what stands before the requirement, its arguments, and its body
    "a pool's callback": ("", "", "in_a_callback()"),
    "what a pool's callback is given": ("", "", "passed_on()"),
    "a task's callback": ("", "", "asyncio.run(of_a_task())"),
    "a call of the loop": ("", "", "asyncio.run(soon())"),
    "a loop in another thread": ("", "", "elsewhere()"),
    "a pool of threads, applied": ("", "", "of_threads('apply_async')"),
    "a pool of threads, mapped": ("", "", "of_threads('map_async', [1])"),
    "a pool of threads, one by one": ("", "", "of_threads('imap', [1])"),
    "a pool of processes, applied": ("", "", "of_processes('apply_async')"),
    "a pool of processes, one by one": ("", "", "of_processes('imap_unordered', [1])"),
    "a server's handler": ("", "", "called_back(http.server.HTTPServer)"),
    "a server's thread": ("", "", "called_back(http.server.ThreadingHTTPServer)"),
    "a fixture's pool": ("", "asked", "pass"),
    "a set-up's pool": ("def setup_function():\n    mapped()\n", "", "pass"),
    "a module's pool": ("def setup_module():\n    mapped()\n", "", "pass"),
    "a tear-down's pool": ("def teardown_function():\n    mapped()\n", "", "pass"),
}
MADE_OF = {  # probe and judge
    "a probe's callback": ("in_a_callback", "lambda found, details: None"),
    "a judge's callback": ("lambda ask: 1", "in_a_callback"),
    "a probe's loop": ("elsewhere", "lambda found, details: None"),
    "a probe's pool": ("lambda ask: of_threads('apply_async')", "lambda found, details: None"),
}


@pytest.mark.parametrize("what", KEPT)
def test_failures_that_a_library_keeps(shop: Adopter, what: str) -> None:
    """An assertion of the requirement's has failed before its end, and whoever ran it has told nobody."""
    before, names, body = KEPT[what]
    shop.write(FILE, f"{UNHEARD}{before}{OWN.format(names, body)}")
    refused(check(shop))


@pytest.mark.parametrize("what", MADE_OF)
def test_failures_that_a_library_keeps_of_made_requirements(shop: Adopter, what: str) -> None:
    """The same for probes and judges."""
    probe, judge = MADE_OF[what]
    shop.write(FILE, f'{UNHEARD}test_own = requirement({probe}, {judge}, title="Own", doc="It.")\n')
    refused(check(shop))


HEARD = """
class Handled(http.server.HTTPServer):
    def handle_error(self, request, address):
        errors.append(address)

errors = []

@pytest.fixture
def begun():
    pool = multiprocessing.pool.ThreadPool(2)
    yield [pool.apply_async(one_of_two, (number,)) for number in (1, 2)]
    pool.close()
    pool.join()

@pytest.mark.critical("Asks a fixture")
def test_asks_a_fixture(begun):
    "It."
    begun[1].get()

@pytest.mark.critical("Handles")
def test_handles():
    "It."
    with multiprocessing.pool.ThreadPool(1) as pool:
        pool.apply_async(fails, error_callback=errors.append).wait()
    called_back(Handled)
    assert len(errors) == 2

@pytest.mark.critical("Has a handler")
def test_has_a_handler():
    "It."
    async def handles():
        loop, said = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda loop, context: said.append(context))
        loop.call_soon(fails)
        await asyncio.sleep(0.01)
        assert said
    asyncio.run(handles())

def one_of_two(number):
    assert number == 2

@pytest.mark.critical("Judges")
def test_judges():
    "It."
    with multiprocessing.pool.ThreadPool(2) as pool:
        asked = [pool.apply_async(one_of_two, (number,)) for number in (1, 2)]
        [one.wait() for one in asked]
        assert any(one.successful() for one in asked)
    found = []
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pool.submit(fails).add_done_callback(lambda one: found.append(one.exception()))
    assert isinstance(found[0], AssertionError)

@pytest.mark.critical("Awaits")
def test_awaits():
    "It."
    with pytest.raises(AssertionError):
        asyncio.run(ping())
"""


def test_failures_that_somebody_has_looked_at(shop: Adopter) -> None:
    """Whoever looks at what a pool, a callback or a loop has kept, and finds it good, holds."""
    shop.write(FILE, UNHEARD + HEARD)
    one = check(shop)
    assert one.process.returncode == 0, one.output


# What is asked is not what was named.


@pytest.mark.parametrize("how", ["pytest.ini", "the command line", "pyproject.toml"])
def test_a_folder_of_doubles_on_the_path(shop: Adopter, how: str) -> None:
    """``pythonpath`` of the project's tests leads to doubles first: a requirement asks the thing itself."""
    real = shop.folder / "real"
    real.mkdir()
    (real / "database.py").write_text("def answer():\n    return 'nothing'\n")
    importable(shop, real)
    shop.write("tests/doubles/database.py", "def answer():\n    return 'an answer'\n")
    if how == "pytest.ini":
        shop.write("pytest.ini", "[pytest]\npythonpath = tests/doubles\n")
    elif how == "pyproject.toml":
        shop.write("pyproject.toml", f'{TABLE}[tool.pytest.ini_options]\npythonpath = ["tests/doubles"]\n')
    asks = 'assert database.answer() == "an answer", "no answer"'
    shop.write(FILE, f"import database, pytest\n{OWN.format('', asks)}")
    assert check(shop).process.returncode == 1
    more = ("-o", "pythonpath=tests/doubles") if how == "the command line" else ()
    one = suite(shop, "preflight_suite", "-m", "critical", *more)
    # On pytest's own command line it is somebody's wish for this run.
    assert one.process.returncode == (0 if how == "the command line" else 1), one.output


NAMES = {
    "a slash": "preflight_suite/",
    "a dot": "./preflight_suite",
    "upwards": "../shop/preflight_suite",
    "a file": FILE,
    "twice": "preflight_suite",
    "another case": "Preflight_Suite",
    "a blank": "preflight_suite ",
    "nothing": "",
    "a pattern": "preflight_*",
    "all": ".",
}


@pytest.mark.parametrize("how", NAMES)
def test_ways_to_write_a_part_of_the_suite(shop: Adopter, how: str) -> None:
    """Whatever it is that the settings name, its requirement is asked, or the run is refused."""
    name = NAMES[how]
    names = ["preflight.requirements", "preflight_suite", name] if how == "twice" else ["preflight.requirements", name]
    shop.write("pyproject.toml", f"{TABLE}suite = {names}\n")
    shop.write(FILE, FAILS)
    refused(check(shop))


# What was good once.


@pytest.mark.parametrize("left", [0, 100, 4096, 5000, 8192])
def test_a_database_that_a_full_disk_has_cut(shop: Adopter, left: int) -> None:
    """Of a SQLite file only the beginning is there, or nothing at all: it is not whole."""
    with sqlite3.connect(shop.root / "shop.db") as database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, what TEXT)")
        database.executemany("INSERT INTO orders (what) VALUES (?)", [("x" * 500,)] * 100)
    database.close()
    os.truncate(shop.root / "shop.db", left)
    shop.write(FILE, 'from preflight import ready\ntest_own = ready.sqlite("shop.db", title="Own")\n')
    one = check(shop)
    assert one.process.returncode == 1, one.output


# What others answer.


@contextmanager
def answering(*pieces: bytes, again: bytes = b"", pause: float = 0.0, got: bytes = b"") -> Iterator[int]:
    """A port where every request is answered with these pieces, and then with ``again`` until it hangs up.

    With ``got``, a GET is answered with that alone.
    """
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(client: socket.socket) -> None:
        with client:
            try:
                if client.recv(1 << 16).startswith(b"GET ") and got:
                    client.sendall(got)
                    return
                for piece in pieces:
                    client.sendall(piece)
                while again and not over.wait(pause):
                    client.sendall(again)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ANSWERS: dict[str, tuple[bytes, bytes, float]] = {  # what comes first, what comes again and again, and after how long
    "interim answers without end": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" * 64, 0.0),
    "interim answers, one by one": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.1),
    "a head in dribs and drabs": (b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.1),
    "a body in dribs and drabs": (HEAD + b"Content-Length: 1000000\r\n\r\n", b" ", 0.1),
    "chunks of a byte": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 1024, 0.0),
    "a long extension of a chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 4096, 0.0),
    "trailers without end": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X: y\r\n" * 64, 0.0),
    "JSON, deep": (HEAD + b"Content-Length: 400000\r\n\r\n" + b"[" * 400_000, b"", 0.0),
    "JSON, a long number": (HEAD + b"Content-Length: 400000\r\n\r\n" + b"9" * 400_000, b"", 0.0),
    "a status that is coloured": (b"HTTP/1.1 500 \x1b[31mforged\r\nContent-Length: 0\r\n\r\n", b"", 0.0),
    "a place that is coloured": (
        b"HTTP/1.1 302 Found\r\nLocation: http://\x1b[31m\xe2\x80\xaeforged/\r\nContent-Length: 0\r\n\r\n", b"", 0.0,
    ),
    "another protocol": (b"SSH-2.0-\x1b[2Jforged\r\n", b"", 0.0),
    "a telnet banner without end": (b"", b"\xff\xfd\x18 login: ", 0.01),
}  # fmt: skip


@pytest.mark.parametrize("what", ANSWERS)
def test_a_service_that_answers_oddly(shop: Adopter, what: str) -> None:
    """The requirement does not pass, the run ends in time, and nothing of what came obeys the terminal."""
    first, again, pause = ANSWERS[what]
    asks = "from preflight import ready\ntest_own = ready.http('http://127.0.0.1:{}/', path='state', equals='ready',\n"
    with answering(first, again=again, pause=pause) as port:
        shop.write(FILE, asks.format(port) + '    title="Own", timeout=1.5)\n')
        begun = time.monotonic()
        one = check(shop, PREFLIGHT_RUN_TIMEOUT="60")
        assert time.monotonic() - begun < 50
    assert one.process.returncode in (0, 1), one.output
    assert shop.check("Own")["outcome"] in ("failed", "unknown"), one.output
    assert not any(sign in one.output + shop.report_file.read_text() for sign in ("\x1b[31m", "\x1b[2J", "\u202e"))


ZEROS = bytes(1 << 20)
FLOODS = {  # what is asked, in what variable, and how the answer begins that has no end
    "redis": ("ready.redis('IT_URL', timeout=20.0, title='Own')", "redis://127.0.0.1:{}/0", b"$99999999999\r\n"),
    "redis, in a line": ("ready.redis('IT_URL', timeout=2.0, title='Own')", "redis://127.0.0.1:{}/0", b"+"),
    "redis, as an error": ("ready.redis('IT_URL', timeout=2.0, title='Own')", "redis://127.0.0.1:{}/0", b"-ERR "),
    "MCP": (
        "ready.mcp_server('IT_URL', timeout=20.0, title='Own')", "http://127.0.0.1:{}/mcp",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n",
    ),
    "MCP, in events": (
        "ready.mcp_server('IT_URL', timeout=20.0, title='Own')", "http://127.0.0.1:{}/mcp",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99999999999\r\n\r\ndata: ",
    ),
    "a model": (
        "ready.model('IT_URL', 'm', provider='vllm', timeout=5.0, title='Own')", "http://127.0.0.1:{}",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FLOODS)
def test_an_answer_of_a_hundred_gigabytes(shop: Adopter, what: str) -> None:
    """Whoever listens where a service should, any account say, does not fill the memory that servers need."""
    made, address, first = FLOODS[what]
    with answering(first, again=ZEROS.replace(b"\0", b"x")) as port:
        shop.write(FILE, f"from preflight import ready\ntest_own = {made}\n")
        one = shop.spawn(
            str(shop.installed / "bin" / "preflight"), "--check-only", "--port", str(shop.port),
            environ={"IT_URL": address.format(port)},
        )  # fmt: skip
        most = 0
        while one.process.poll() is None and most < LIMIT:
            with contextlib.suppress(psutil.Error):
                most = max(most, rss_of(one))
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(0.02)
        one.kill()
    assert most < LIMIT, f"{most >> 20} MiB"


class Service(http.server.BaseHTTPRequestHandler):
    """A service of models; what it answers at each path is in the server's ``answers``: a status and a body."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, body = getattr(self.server, "answers")[self.path]  # noqa: B009
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def serving(answers: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    """The address of such a service."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    setattr(server, "answers", answers)  # noqa: B010
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


MODELS = json.dumps({"object": "list", "data": [{"id": "m"}]}).encode()
HEALTH = [  # the server, how its /health answers, and whether it is ready
    ("vllm", 200, True), ("vllm", 500, False), ("vllm", 502, False), ("vllm", 503, False), ("vllm", 504, False),
    ("llama.cpp", 200, True), ("llama.cpp", 500, False), ("llama.cpp", 503, False),
]  # fmt: skip


@pytest.mark.parametrize("kind, status, good", HEALTH)
def test_a_model_server_whose_engine_has_died(shop: Adopter, kind: str, status: int, good: bool) -> None:
    """It lists its models all the same; older releases of vLLM say 500 then, and a proxy in front 502 or 504."""
    with serving({"/v1/models": (200, MODELS), "/health": (status, b"")}) as address:
        shop.write(
            FILE, f"from preflight import ready\ntest_own = ready.model('M_URL', 'm', provider='{kind}', title='Own')\n"
        )
        one = check(shop, M_URL=address)
    assert (shop.check("Own")["outcome"] == "passed") == good, one.output


SAID = json.dumps({"choices": [{"message": {"role": "assistant", "content": "Yes."}}]}).encode()
WORDS: dict[str, tuple[int, bytes, bool]] = {  # and whether the model has answered
    "a word": (200, SAID, True),
    "a page to log in": (200, b"<html><body>Please log in</body></html>", False),
    "nothing": (200, b"", False),
    "an empty object": (200, b"{}", False),
    "no choice": (200, b'{"choices": []}', False),
    "the page of an application": (200, b"<!doctype html><div id=root></div>", False),
    "a health": (200, b'{"status": "ok"}', False),
    "a list": (200, MODELS, False),
}


@pytest.mark.parametrize("what", WORDS)
def test_a_model_that_is_to_say_a_word(shop: Adopter, what: str) -> None:
    """Only an answer of the model's shows that it answers: whatever stands in between says 200 to anything."""
    status, body, good = WORDS[what]
    with serving({"/v1/chat/completions": (status, body)}) as address:
        shop.write(
            FILE, "from preflight import ready\ntest_own = ready.model('OPENAI_API_KEY', 'm', paid=True, title='Own')\n"
        )
        one = check(shop, OPENAI_API_KEY="sk-canary-Zq7vXw2LmN8pRt4KdY6h", OPENAI_BASE_URL=f"{address}/v1")
    assert (shop.check("Own")["outcome"] == "passed") == good, one.output


GOOD_INFO = {
    "redis_version": "7.2.4",
    "redis_mode": "standalone",
    "role": "master",
    "used_memory": "1",
    "maxmemory": "0",
}
REDIS: dict[str, tuple[dict[str, str], dict[str, str], bool]] = {  # what INFO and CONFIG GET say; does it write?
    "one that takes all": (GOOD_INFO, {"maxmemory-policy": "noeviction"}, True),
    "a sentinel": ({"redis_version": "7.2.4", "redis_mode": "sentinel", "sentinel_masters": "1"}, {}, False),
    "too few replicas": (
        {**GOOD_INFO, "connected_slaves": "0", "min_slaves_good_slaves": "0"},
        {"maxmemory-policy": "noeviction", "min-replicas-to-write": "1"}, False,
    ),
    "full, and nothing may go": (
        {**GOOD_INFO, "used_memory": "101", "maxmemory": "100", "maxmemory_policy": "volatile-lru",
         "db0": "keys=9,expires=0,avg_ttl=0"},
        {"maxmemory-policy": "volatile-lru"}, False,
    ),
}  # fmt: skip


def redis_answer(words: list[bytes], info: dict[str, str], config: dict[str, str]) -> bytes:
    """What such a server says to a command, in the third version of its protocol."""
    match [word.upper() for word in words]:
        case [b"HELLO", *_]:
            return b"%1\r\n$5\r\nproto\r\n:3\r\n"
        case [b"PING", *_]:
            return b"+PONG\r\n"
        case [b"INFO", *_]:
            text = "".join(f"{name}:{value}\r\n" for name, value in info.items()).encode()
            return b"$%d\r\n%b\r\n" % (len(text), text)
        case [b"CONFIG", b"GET", _] if config:
            name = words[2].decode()
            pairs = [part.encode() for part in (name, config[name])] if name in config else []
            return b"%%%d\r\n" % (len(pairs) // 2) + b"".join(b"$%d\r\n%b\r\n" % (len(one), one) for one in pairs)
        case [b"CLIENT", *_]:
            return b"+OK\r\n"
    return b"-ERR unknown command\r\n"


@contextmanager
def redis_of(info: dict[str, str], config: dict[str, str]) -> Iterator[int]:
    """The port of a server that speaks Redis' protocol and says this of itself."""

    class Speaks(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                words = []
                for _ in range(int(line[1:])):
                    self.rfile.readline()
                    words.append(self.rfile.readline().strip())
                self.wfile.write(redis_answer(words, info, config))

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Speaks)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("what", REDIS)
def test_a_redis_that_takes_no_writes(shop: Adopter, what: str) -> None:
    """It answers PING, and refuses what an application would write: it is not what is required."""
    info, config, good = REDIS[what]
    with redis_of(info, config) as port:
        shop.write(FILE, "from preflight import ready\ntest_own = ready.redis('REDIS_URL', title='Own')\n")
        one = check(shop, REDIS_URL=f"redis://127.0.0.1:{port}/0")
    assert (shop.check("Own")["outcome"] == "passed") == good, one.output


# Secrets.

ODBC = "Driver={{ODBC Driver 18 for SQL Server}};Server=h;Uid=me;Pwd={};Encrypt=yes"
PWD = {  # the variable, and what it holds
    "a query": ("JDBC_URL", "jdbc:mysql://h/d?user=me&pwd={}"),
    "a query of another driver": ("DATABASE_URL", "mssql+pymssql://h/d?uid=me&PWD={}"),
    "JSON": ("APP_JSON", '{{"db": {{"user": "me", "pwd": "{}"}}}}'),
    "JSON in capitals": ("APP_SETTINGS", '{{"UID": "me", "PWD": "{}"}}'),
    "YAML": ("APP_YAML", "db:\n  user: me\n  pwd: {}\n"),
    "YAML in a line": ("APP_CONFIG", "db: {{user: me, pwd: {}}}"),
    "TOML": ("APP_TOML", '[db]\nuser = "me"\npwd = "{}"\n'),
    "Python": ("APP_DICT", "{{'user': 'me', 'pwd': '{}'}}"),
    "headers": ("APP_EXTRA", '[{{"name": "pwd", "value": "{}"}}]'),
}


@pytest.mark.parametrize("how", PWD)
def test_a_password_by_its_shortest_name(how: str) -> None:
    """PWD alone is a shell's folder in the environment, and a password in whatever a variable holds."""
    name, value = PWD[how]
    redactor = Redactor.of_variables({name: value.format(TWO), "PWD": "/home/dev/shop"})
    for text in (f"connecting with {TWO} now", value.format(TWO), quote(value.format(TWO))):
        assert TWO not in redactor.text(text)
    assert redactor.text("in /home/dev/shop now") == "in /home/dev/shop now"


@pytest.mark.parametrize("encode", [quote, quote_plus], ids=["quote", "quote_plus"])
@pytest.mark.parametrize("name", ["Pwd", "PWD", "Password"])
def test_a_connection_string_in_an_address(encode: Callable[[str], str], name: str) -> None:
    """As SQLAlchemy has ODBC's: the address, what it stands for, and the password alone."""
    plain = ODBC.format(TWO).replace("Pwd", name)
    address = f"mssql+pyodbc:///?odbc_connect={encode(plain)}"
    redactor = Redactor.of_variables({"DATABASE_URL": address})
    for text in (address, plain, f"login of {TWO} failed"):
        assert TWO not in redactor.text(text)


def test_an_application_that_prints_its_database(place: Place) -> None:
    """Neither its output, nor the log, nor the bundle has the password, wherever in the address it stands."""
    address = f"mssql+pyodbc:///?odbc_connect={quote_plus(ODBC.format(TWO))}"
    place.write_module("prints", f"import os\nprint('connecting to', os.environ['DATABASE_URL'], flush=True)\n{SMALL}")
    log, bundle = place.folder / "log", place.folder / "out.zip"
    started = place.start("--demo", "--app", "prints:app", "--log-file", str(log), DATABASE_URL=address).until_ready()
    assert started.stop() == 0
    place.run("--demo", "--bundle", str(bundle), "--log-file", str(log), DATABASE_URL=address)
    with zipfile.ZipFile(bundle) as opened:
        kept = [opened.read(name).decode() for name in opened.namelist()]
    assert "connecting to" in started.output
    assert not [text for text in (started.output, log.read_text(), *kept) if TWO in text]


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


NOTATIONS = {
    "the variables of a pod": ("APP_CONFIG", f"env:\n- name: DB_PASSWORD\n  value: {TWO}\n"),
    "the variables of a pod, in quotes": ("APP_CONFIG", f'env:\n  - name: "API_TOKEN"\n    value: "{TWO}"\n'),
    "a text of several lines of TOML": ("APP_CONFIG", f'[db]\npassword = """\n{ONE}\n{TWO}"""\n'),
    "a key of a cluster, encoded": ("KUBE_YAML", f"users:\n- name: me\n  user:\n    client-key-data: {b64(TWO)}\n"),
    "a secret of a cluster, encoded": ("APP_MANIFEST", f"kind: Secret\ndata:\n  password: {b64(TWO)}\n"),
    "npm": ("NPM_CONFIG", f"registry=https://r\n//r/:_authToken={TWO}\nalways-auth=true\n"),
    "pip": ("PIP_CONF", f"[global]\nindex-url = https://me:{TWO}@pypi.example.org/simple\n"),
    "two indexes": ("PIP_EXTRA_INDEX_URL", f"https://a.example.org/ https://__token__:{TWO}@b.example.org/"),
    "git, encoded": ("GIT_CONFIG_VALUE_0", f"AUTHORIZATION: basic {b64(f'x-access-token:{TWO}')}"),
    "a program's answer": ("AWS_PROCESS", json.dumps({"Version": 1, "SecretAccessKey": TWO, "SessionToken": ONE})),
    "JSON in JSON": ("APP_CONFIG", json.dumps(json.dumps({"db": {"password": TWO}}))),
    "JSON in a query": ("FEED_URL", f"https://h/?filter={quote(json.dumps({'token': TWO}))}"),
    "a variable of Terraform": ("TF_CLI_ARGS", f"-var db_password={TWO} -var=other=1"),
    "an anchor of YAML": ("APP_CONFIG", f"password: &pw {TWO}\nother: *pw\n"),
    "a comment behind it": ("APP_CONFIG", f"password: {TWO}  # of production\n"),
    "a list of Compose": ("APP_CONFIG", f"environment:\n  - DB_PASSWORD={TWO}\n"),
    "a table in a line of TOML": ("APP_CONFIG", f'db = {{ host = "h", password = "{TWO}" }}\n'),
    "PowerShell": ("SETUP_PS", f"$env:API_KEY = '{TWO}'"),
    "a tunnel": ("WG_CONF", f"[Interface]\nPrivateKey = {TWO}\nAddress = 10.0.0.1/24\n"),
    "a second factor": ("OTP_URI", f"otpauth://totp/x?secret={TWO}&issuer=y"),
}


@pytest.mark.parametrize("how", NOTATIONS)
def test_further_notations(how: str) -> None:
    """What is a secret by its name in YAML, TOML, JSON or an address is known, alone and where it stands."""
    name, value = NOTATIONS[how]
    redactor = Redactor.of_variables({name: value})
    assert TWO not in redactor.text(f"connecting with {TWO} now")
    assert TWO not in redactor.text(value)
    assert b64(TWO).rstrip("=")[:-2] not in redactor.text(value)


GIVEN = {
    "a program of Python": ["python", "-c", f'import app; app.run({{"password": "{WORD}"}})'],
    "a program of Python, with blanks": ["python", "-c", f'import app; app.run(password = "{WORD}")'],
    "a table in single quotes": ["python3", "-c", f"import app; app.run({{'api_key': '{WORD}', 'port': 8002}})"],
    "a configuration of JSON": ["xray", "-c", f'{{"inbound": {{"password": "{WORD}"}}}}'],
    "a setting with colons, and its value": ["dotnet", "x.dll", "--Kestrel:Certificates:Default:Password", WORD],
    "a setting with colons": ["dotnet", "x.dll", f"--Kestrel:Certificates:Default:Password={WORD}"],
    "a login behind its letter": ["ttyd", f"-cme:{WORD}", "bash"],
    "a relay's passphrase": ["socat", "TCP-LISTEN:8002,fork", f"OPENSSL:h:1,cert=c.pem,passphrase={WORD}"],
    "a tracker of experiments": ["mlflow", "server", "--backend-store-uri", f"postgresql://me:{WORD}@h/db"],
    "two logins": ["python", "launch.py", "--gradio-auth", f"me:{WORD},you:{WORD}"],
    "a cookie's secret": ["streamlit", "run", "a.py", f"--server.cookieSecret={WORD}"],
    "a replica": ["postgres", "-c", f"primary_conninfo=host=h password={WORD}"],
    "a file of the cloud": ["rclone", "serve", "http", f":webdav,url=https://h,user=me,pass={WORD}:"],
    "a camera": ["ffmpeg", "-i", f"rtsp://me:{WORD}@cam/1", "-listen", "1"],
    "a proxy of the cluster": ["kubectl", "proxy", f"--token={WORD}"],
    "a page of PHP": ["php", "-d", f"mysqli.default_pw={WORD}", "-S", "127.0.0.1:8002"],
    "a node of Erlang": ["beam.smp", "-setcookie", WORD],
}


@pytest.mark.parametrize("what", GIVEN)
def test_further_servers_that_were_given_a_password(what: str) -> None:
    """Who holds the port is shown without it."""
    assert WORD not in arguments.shown(GIVEN[what])


PUMPS = ('--a=[{"', "://@#a:", '{"name":"a","value":"', "\\ ", "' \" ", "-c '", "a=b;Pwd={", 'Key: \\"', "-p[", "u:p@")


@pytest.mark.parametrize("pump", PUMPS)
def test_command_lines_that_take_long_to_mask(pump: str) -> None:
    """As long as one is read at all, in one argument and behind a shell's ``-c``: in no time worth speaking of."""
    text = (pump * 16_384)[:16_000]
    for command in (["x", text], ["sh", "-c", text], ["x", *(pump * 2 for _ in range(1000))]):
        begun = time.process_time()
        arguments.shown(command)
        assert time.process_time() - begun < TOO_LONG


# Clients.


def rss_of(started: Started) -> int:
    return max(psutil.Process(pid).memory_info().rss for pid in (started.pid, *started.family()))


def test_requests_whose_answers_nobody_reads(place: Place) -> None:
    """Many in one connection, with large answers: they wait with the client, others are served, memory stays."""
    started = place.start("--demo").until_ready()
    assert get(f"{started.url}/openapi.json")[0] == 200
    before = rss_of(started)
    request = f"GET /openapi.json HTTP/1.1\r\nHost: localhost:{place.port}\r\n\r\n".encode() * 500
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", place.port)))
            client.settimeout(0.5)
            with contextlib.suppress(OSError):
                for _ in range(40):
                    client.sendall(request)
        assert get(f"{started.url}/health")[0] == 200
        assert rss_of(started) - before < 64 << 20
    assert started.stop() == 0


def test_methods_and_paths_that_nobody_has(place: Place) -> None:
    """However many strangers make up, the metrics do not grow with them, and the log hardly."""
    started = place.start("--demo").until_ready()

    def size() -> int:
        return len(get(f"{started.url}/metrics")[1].splitlines())

    before, lines = size(), len(started.output.splitlines())
    for number in range(150):
        with socket.create_connection(("127.0.0.1", place.port)) as client:
            head = f"GET /n{number}/x{number}?{number} HTTP/1.1\r\nHost: localhost:{place.port}\r\n"
            client.sendall(
                f"{head}X-Request-ID: {number}\r\nUser-Agent: {number}\r\nConnection: close\r\n\r\n".encode()
            )
            while client.recv(1 << 16):
                pass
        method = ("PURGE", "PROPFIND", "MKCOL", "LOCK", "REPORT")[number % 5]
        assert requests.request(method, f"{started.url}/health", timeout=60).status_code in (400, 405)
    assert size() - before < 20
    assert len(started.output.splitlines()) - lines < 20
    assert started.stop() == 0


NOTIFIED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n"


def test_a_notification_whose_answer_has_no_end(place: Place) -> None:
    """The receiver goes on answering: the sender beside the live server does not fill the memory that both share."""
    with answering(NOTIFIED, again=b"x" * (1 << 20)) as port:
        started = supervised(place, PREFLIGHT_NOTIFY=f"json://127.0.0.1:{port}/").until_ready()
        kill_worker(started)
        most = 0

        def is_over() -> bool:
            nonlocal most
            with contextlib.suppress(psutil.Error):
                most = max(most, rss_of(started))
            if most >= LIMIT:
                return True
            with contextlib.suppress(OSError):
                told = json.loads(get(f"{place.url}/diagnostics")[1])["notifications"]
                return bool(told["delivered"] + told["undelivered"] and not told["pending"])
            return False

        until(is_over, "it was told", 240)
        started.kill()
    assert most < LIMIT, f"{most >> 20} MiB"


def test_trying_out_a_receiver_whose_answer_has_no_end(place: Place) -> None:
    """The same for the command that tries notifications out."""
    with answering(NOTIFIED, again=b"x" * (1 << 20)) as port:
        one = place.spawn(
            sys.executable, "run.py", "--test-notify", environ={"PREFLIGHT_NOTIFY": f"json://127.0.0.1:{port}/"}
        )
        most = 0
        while one.process.poll() is None and most < LIMIT:
            with contextlib.suppress(psutil.Error):
                most = max(most, rss_of(one))
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(0.02)
        one.kill()
    assert most < LIMIT, f"{most >> 20} MiB"


LISTED = b'{"object": "list", "data": []}'
HAS_LIST = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(LISTED), LISTED)
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99999999999\r\n\r\n"
PIECE = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
SAYS = [{"index": 0, "delta": {"role": "assistant", "content": "x" * 30_000}, "finish_reason": None}]
TALKS = {  # how the answer to a POST begins, and how it goes on
    "an error": (
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n",
        b"x" * (1 << 20),
    ),
    "an answer": (NOTIFIED, b"x" * (1 << 20)),
    "an event": (EVENTS + b"data: ", b"x" * (1 << 20)),
    "words": (EVENTS, b"data: " + json.dumps(PIECE | {"choices": SAYS}).encode() + b"\n\n"),
}


@pytest.mark.parametrize("what", TALKS)
def test_a_model_whose_answer_has_no_end(place: Place, providers: Providers, what: str) -> None:
    """The service of the model goes on and on: the turn ends, and the worker does not fill the memory."""
    equip(place, providers)
    first, again = TALKS[what]
    with answering(first, again=again, got=HAS_LIST) as port:
        started = place.start(OPENAI_BASE_URL=f"http://127.0.0.1:{port}/v1", PREFLIGHT_TURN_TIMEOUT="20s").until_ready()
        with client(started.url) as one:
            one.init()
            before = most = rss_of(started)
            ended = threading.Event()

            def ask() -> None:
                with contextlib.suppress(Exception):
                    one.ask("What failed?")
                ended.set()

            asking = threading.Thread(target=ask)
            asking.start()
            while not ended.wait(0.02) and most - before < 2 * LIMIT:
                with contextlib.suppress(psutil.Error):
                    most = max(most, rss_of(started))
            started.kill()
            asking.join()
    assert most - before < 2 * LIMIT, f"{(most - before) >> 20} MiB"
