"""An application that starts to listen while it is imported: refused by name, and nobody gets an answer before."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from preflight.processes.worker import LISTENING_FIX, Worker
from preflight.settings import loading
from tests.e2e.doubles import SMALL
from tests.e2e.place import ROOT, Place, get, listening
from tests.portnumbers import unused_port
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.usefixtures("unmeasured")

HEAD = (
    "import asyncio, contextlib, os, socket, sys, threading, time\n"
    "HOST, PORT = '127.0.0.1', int(os.environ['GUARDED'])\nPATH = os.environ['HOME'] + '/it.sock'\n"
    # A socket's address has room for about 100 bytes.
    "PATH = min(PATH, os.path.relpath(PATH), key=len)\n" + SMALL
)
BOUND = "sock = socket.socket()\nsock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\nsock.bind((HOST, OTHER))\n"
SERVE = "import uvicorn\nserve = lambda: uvicorn.run(app, host=HOST, port=PORT, log_level='critical')\n"
ASYNC = "async def listen():\n    server = await {}\n    await server.serve_forever()\n"
WAYS = {
    "socket": "socket.create_server((HOST, PORT))  # here\ntime.sleep(60)\n",
    "socket on another port": "socket.create_server((HOST, OTHER))  # here\ntime.sleep(60)\n",
    "socket on any port of all addresses": "socket.create_server(('', 0))  # here\ntime.sleep(60)\n",
    "a socket in a file": "socket.create_server(PATH, family=socket.AF_UNIX)  # here\ntime.sleep(60)\n",
    "http.server": (
        "import http.server\nhttp.server.HTTPServer((HOST, PORT), http.server.BaseHTTPRequestHandler)"
        ".serve_forever()  # here\n"
    ),
    "asyncio": ASYNC.format("asyncio.start_server(print, HOST, PORT)  # here") + "asyncio.run(listen())\n",
    "asyncio on any port": ASYNC.format("asyncio.start_server(print, HOST, 0)  # here") + "asyncio.run(listen())\n",
    "asyncio in a file": ASYNC.format("asyncio.start_unix_server(print, PATH)  # here") + "asyncio.run(listen())\n",
    "asyncio with a socket": BOUND
    + ASYNC.format("asyncio.start_server(print, sock=sock)  # here")
    + "asyncio.run(listen())\n",
    "uvloop": (
        "import uvloop\n" + ASYNC.format("asyncio.start_server(print, HOST, PORT)  # here") + "uvloop.run(listen())\n"
    ),
    "uvloop with a socket": (
        BOUND + ASYNC.format("asyncio.start_server(print, sock=sock)  # here") + "import uvloop\nuvloop.run(listen())\n"
    ),
    "uvloop in a file": (
        ASYNC.format("asyncio.start_unix_server(print, PATH)  # here") + "import uvloop\nuvloop.run(listen())\n"
    ),
    "uvicorn": SERVE + "serve()\n",
    "uvicorn in pieces": (
        "import uvicorn\nserver = uvicorn.Server(uvicorn.Config(app, host=HOST, port=PORT))\n"
        "asyncio.run(server.serve())  # here\n"
    ),
    "uvicorn on another port": "import uvicorn\nuvicorn.run(app, host=HOST, port=OTHER)  # here\n",
    "uvicorn with workers": "import uvicorn\nuvicorn.run('small:app', host=HOST, port=OTHER, workers=2)  # here\n",
    "uvicorn reloads": "import uvicorn\nuvicorn.run('small:app', host=HOST, port=PORT, reload=True)  # here\n",
    "uvicorn's socket": "import uvicorn\nuvicorn.Config(app, host=HOST, port=OTHER).bind_socket()  # here\n",
    "it catches that": SERVE + "try:\n    serve()\nexcept Exception:\n    pass\n",
    "it catches everything": SERVE + "try:\n    serve()\nexcept BaseException:\n    pass\n",
    "it tries for ever": SERVE + "while True:\n    with contextlib.suppress(BaseException):\n        serve()\n",
    "in a thread": SERVE + "threading.Thread(target=serve).start()\ntime.sleep(1)\n",
    "a thread that is uvicorn's alone": (
        "import uvicorn\noptions = {'host': HOST, 'port': PORT}\n"
        "threading.Thread(target=uvicorn.run, args=(app,), kwargs=options).start(); time.sleep(1)  # here\n"
    ),
    "in the factory": SERVE + "def factory():\n    serve()\n    return app\n",
    "in an async factory": (
        "import uvicorn\nasync def factory():\n    server = uvicorn.Server(uvicorn.Config(app, port=PORT))\n"
        "    asyncio.create_task(server.serve())  # here\n    return app\n"
    ),
    "hypercorn": (
        "import hypercorn.asyncio, hypercorn.config\nconfig = hypercorn.config.Config()\n"
        "config.bind = [f'{HOST}:{PORT}']\nasyncio.run(hypercorn.asyncio.serve(app, config))  # here\n"
    ),
    "natively": (
        "import _socket\nsock = _socket.socket()\nsock.bind((HOST, PORT))\nsock.listen()\ntime.sleep(60)  # here\n"
    ),
}


# With a whole start: what the launcher does about it is the same for the others.
WITH_A_START = ("socket", "in an async factory", "it tries for ever", "natively")


def attempt(place: Place, how: str) -> tuple[str, str, str]:
    """Write the application that listens in this way; its name, and beginning and end of what is said of it."""
    source = HEAD + f"OTHER = {unused_port()}\n" + WAYS[how]
    place.write_module("listens", source)
    name = f"listens:{'factory' if 'factory' in how else 'app'}"
    marked = "# here" if "# here" in source else "serve = lambda"
    line = next(number for number, text in enumerate(source.splitlines(), 1) if marked in text)
    does = "listens" if how == "natively" else "starts to listen"
    return name, f"{name} {does}", f" while it is imported ({place.folder / 'modules' / 'listens.py'}:{line})"


@pytest.mark.parametrize("how", WAYS)
def test_refused(place: Place, how: str) -> None:
    """The worker that imports it says the line and what to do about it, and nothing answers meanwhile."""
    name, begins, ends = attempt(place, how)
    environ = {**place.environ, "GUARDED": str(place.port)}
    worker = Worker(loading.load(ROOT, environ, {"demo": True, "app": name, "port": str(place.port)}))
    try:
        with watched(place.port) as answers:
            said = worker.wait_for_import() or ""
            assert (said.startswith(begins), said.endswith(ends)) == (True, True), (said, worker.child.lines)
            assert worker.fix == LISTENING_FIX
            until(worker.ended, "it ends by itself")
        worker.read_rest()
        assert not worker.unguarded
    finally:
        worker.child.close()
    assert not listening(place.port)
    assert not answers or how == "natively"


@contextlib.contextmanager
def watched(port: int) -> Iterator[list[bool]]:
    """Try to connect all the time, until the block ends; the list gets an entry for each time that it was possible."""
    answers: list[bool] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            answers.extend([True] * listening(port))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("how", WITH_A_START)
def test_a_start_is_refused(place: Place, how: str) -> None:
    """The start is refused, the line and what to do about it are said, and nothing answers meanwhile."""
    name, begins, ends = attempt(place, how)
    with watched(place.port) as answers:
        started = place.run("--demo", "--app", name, GUARDED=str(place.port))
    assert started.process.returncode == 1, started.output
    shown = " ".join(started.stdout.split())
    assert "1 CRITICAL ERROR" in shown
    assert begins in shown
    assert ends in shown
    assert 'Fix: move that call under `if __name__ == "__main__":`' in shown
    assert not answers or how == "natively"
    started.left_nothing()


LATE = """
def late():
    while "uvicorn.lifespan.on" not in sys.modules:  # the last that is imported before the worker waits
        time.sleep(0.01)
    uvicorn.run(app, host=HOST, port=PORT)

import uvicorn
threading.Thread(target=late).start()
"""


def test_a_thread_that_waits_for_the_end_of_the_import(project: Place) -> None:
    """What a thread begins after the import, and before the verdict, is refused the same."""
    wait = "import time\nimport pytest\n@pytest.mark.critical('Slow')\ndef test_slow(settings):\n"
    project.write_suite((ROOT / "preflight" / "requirements" / "test_application.py").read_text())
    project.write_requirement("slow", wait + '    """It takes its time."""\n    time.sleep(3)\n')
    project.write_module("listens", HEAD + LATE)
    started = project.refused("--demo", "--app", "listens:app", GUARDED=str(project.port))
    assert started.process.returncode == 1
    assert "listens:app starts to listen before the verdict (" in started.stdout
    assert project.check("Application")["outcome"] == "failed"


def test_a_place_in_the_project(project: Place) -> None:
    """A file of the project is named as seen from its folder; plain pytest and --check-only say the same."""
    project.write_suite((ROOT / "preflight" / "requirements" / "test_application.py").read_text())
    source = HEAD + SERVE.replace("serve = lambda: ", "def main():\n    ") + "main()\n"
    (project.root / "listens.py").write_text(source)
    line = next(number for number, text in enumerate(source.splitlines(), 1) if "uvicorn.run" in text)
    said = f"listens:app starts to listen while it is imported (listens.py:{line})"
    environ = {"GUARDED": str(project.port)}
    started = project.run("--check-only", "--demo", "--app", "listens:app", **environ)
    assert started.process.returncode == 1
    assert said in " ".join(started.stdout.split())
    assert project.check("Application")["message"] == said
    environ["PREFLIGHT_APP"] = "listens:app"
    started = project.spawn(
        sys.executable, "-m", "pytest", "preflight", "--demo", f"--port={project.port}", environ=environ
    )
    assert started.wait() == 1
    assert f"critical failed: Application: {said}" in started.stdout


ALLOWED = """
import multiprocessing, multiprocessing.managers, multiprocessing.connection
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind((HOST, OTHER))
left, right = socket.socketpair()
pipe = socket.socket()
pipe.bind((HOST, 0))
pipe.listen()  # a pair of sockets, where a system has no other
client = socket.socket()
client.bind((HOST, 0))  # from an address of its choice
client.connect(pipe.getsockname())
fixed = socket.socket()
fixed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
fixed.bind((HOST, OTHER))
asyncio.run(asyncio.sleep(0))
import uvloop
uvloop.run(asyncio.sleep(0))
listener = multiprocessing.connection.Listener()
with multiprocessing.get_context("fork").Pool(1) as pool:
    assert pool.apply(int, ("1",)) == 1
fixed.close()

small = app
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        app.metrics = await asyncio.start_server(lambda _reader, writer: writer.close(), HOST, OTHER)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    assert not hasattr(socket.socket.listen, "__wrapped__") and not hasattr(uvloop.Loop.create_server, "__wrapped__")
    await small(scope, receive, send)
"""


def test_let_through(place: Place) -> None:
    """What is no server for others goes on, a lifespan may listen, and while it serves nothing is left of it all."""
    other = unused_port()
    place.write_module("busy", f"{HEAD}OTHER = {other}\n{ALLOWED}")
    started = place.start("--demo", "--app", "busy:app", GUARDED=str(place.port)).until_ready()
    assert get(f"{place.url}/") == (200, "small")
    with socket.create_connection(("127.0.0.1", other), timeout=PATIENCE):
        pass
    assert started.stop() == 0
    started.left_nothing()


def test_the_socket_to_serve_is_none_of_those(place: Place) -> None:
    """However closely it is watched for sockets that listen, a worker gets the one that it is to serve."""
    place.write_module(
        "closely", "from preflight.worker import listening\nlistening.LOOK = 0.0\nfrom small import app\n"
    )
    started = place.start("--demo", "--app", "closely:app", "--no-supervise").until_ready()
    assert started.stop() == 0, started.output
