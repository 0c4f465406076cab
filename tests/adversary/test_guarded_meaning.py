"""An application under a server of its own, behind ``guard()``: what is asked before it serves, and its logins."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e import namespaces
from tests.e2e.beside import ECHO, PREFIX, RAN, SHOP, ask, everywhere, logged_in
from tests.e2e.doubles import KEY
from tests.e2e.place import ROOT, Place, Started, get, listening
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("unmeasured")
linux = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

NEEDS = '''
import pytest

@pytest.mark.critical("Shop Database", fix="set SHOP_DATABASE")
def test_database(environment):
    """The shop knows its database."""
    assert environment.get("SHOP_DATABASE"), "SHOP_DATABASE is not set"
'''
BLOCKS = "the preflight blocks the start: Shop Database"
ASKED = {"SHOP_DATABASE": "x"}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A guarded application, in a project with a requirement of its own."""
    root = tmp_path / "shop"
    (root / "preflight_suite").mkdir(parents=True)
    (root / "pyproject.toml").write_text("[tool.preflight]\n")
    (root / "preflight_suite" / "test_project.py").write_text(NEEDS)
    (root / "echo.py").write_text(ECHO)
    (root / "shop.py").write_text(SHOP)
    return root


def command(place: Place, *options: str, python: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, *python, "-m", "uvicorn", "shop:app", "--port", str(place.port), *options]


def spawn(place: Place, cwd: Path, *options: str, python: tuple[str, ...] = (), **environ: str) -> Started:
    return place.spawn(*command(place, *options, python=python), cwd=cwd, environ={"PYTHONPATH": str(ROOT), **environ})


def serve(place: Place, cwd: Path, *options: str, **environ: str) -> Started:
    started = spawn(place, cwd, *options, python=(), **environ)
    until(lambda: listening(place.port) or started.process.poll() is not None, "it listens")
    return started.until_says("Application startup complete")


def refused(started: Started, said: str) -> None:
    """Its start-up fails with this reason, and nobody has been served."""
    until(lambda: started.process.poll() is not None or listening(started.port), "it has decided")
    assert not listening(started.port), started.output
    assert started.wait() == 3, started.output
    assert said in " ".join(started.output.split())


def write_env_file(root: Path, text: str) -> None:
    (root / ".env").write_text(text)
    (root / ".env").chmod(0o600)


# What is asked.

HOW: dict[str, tuple[tuple[str, ...], dict[str, str], str]] = {
    "optimized": (("-O",), {}, ""),
    "optimized by a variable": ((), {"PYTHONOPTIMIZE": "2"}, ""),
    "options of pytest": ((), {"PYTEST_ADDOPTS": "--collect-only -k nothing", "PYTEST_PLUGINS": "nowhere"}, ""),
    "an env file": ((), {}, "PYTHONOPTIMIZE=1\nPYTEST_ADDOPTS=--collect-only\nPYTHONHOME=/nowhere\n"),
}


@pytest.mark.parametrize("how", HOW)
def test_however_the_server_runs(place: Place, shop: Path, how: str) -> None:
    """A requirement that does not hold blocks the start, whatever Python and pytest are told."""
    python, environ, variables = HOW[how]
    if variables:
        write_env_file(shop, variables)
    refused(spawn(place, shop, python=python, **environ), BLOCKS)
    assert place.check("Shop Database")["outcome"] == "failed"


def elsewhere(place: Place, shop: Path) -> Path:
    folder = place.folder / "elsewhere"
    folder.mkdir()
    return folder


ELSEWHERE: dict[str, Callable[[Place, Path], Started]] = {
    "by its folder": lambda place, shop: spawn(place, elsewhere(place, shop), "--app-dir", str(shop)),
    "by the path": lambda place, shop: spawn(place, elsewhere(place, shop), PYTHONPATH=f"{ROOT}{os.pathsep}{shop}"),
    "by itself": lambda place, shop: spawn(place, moving(place, shop)),
}


def moving(place: Place, shop: Path) -> Path:
    """The application goes to another folder when it is imported."""
    (shop / "shop.py").write_text(f"import os\nos.chdir({str(elsewhere(place, shop))!r})\n{SHOP}")
    return shop


@pytest.mark.parametrize("how", ELSEWHERE)
def test_a_server_that_runs_elsewhere(place: Place, shop: Path, how: str) -> None:
    """Where its own requirements would not be asked, the start-up fails and names the folder that they are in."""
    refused(ELSEWHERE[how](place, shop), f": start it in {shop}")


def test_a_server_whose_folder_has_gone(place: Place, shop: Path) -> None:
    """What keeps the requirements from being asked is said: servers would take it for an application like others."""
    (shop / "shop.py").write_text(
        f"import os, tempfile\ngone = tempfile.mkdtemp()\nos.chdir(gone)\nos.rmdir(gone)\n{SHOP}"
    )
    refused(spawn(place, shop), "the requirements could not be checked: FileNotFoundError")


def test_a_key_in_the_wrong_place(place: Place, shop: Path) -> None:
    """A setting that is wrong is named, and its value is not shown."""
    started = spawn(place, shop, PREFLIGHT_PORT=KEY, PREFLIGHT_RUN_TIMEOUT=KEY)
    refused(started, "PREFLIGHT_")
    assert not any(KEY[start : start + 8] in started.output for start in range(len(KEY) - 7))


# Where and how long it serves.


@linux
def test_the_first_process_of_a_container(place: Place, shop: Path) -> None:
    """A server without a parent is checked and serves like any other."""
    namespaces.needed()
    started = place.spawn(*namespaces.ENTER, *command(place), cwd=shop, environ={"PYTHONPATH": str(ROOT), **ASKED})
    started.until_says("Uvicorn running")
    assert ask(started, "/x").json()["scope"]["path"] == "/x"
    assert ask(started, f"{PREFIX}/health").json()["status"] == "healthy"
    logged_in(started)


@linux
def test_the_first_process_of_a_container_that_is_blocked(place: Place, shop: Path) -> None:
    """It ends, so that the container does."""
    namespaces.needed()
    started = place.spawn(*namespaces.ENTER, *command(place), cwd=shop, environ={"PYTHONPATH": str(ROOT)})
    refused(started, BLOCKS)


def test_a_graceful_restart(place: Place, shop: Path) -> None:
    """New processes of a running server are asked about their own release; where that blocks the old ones go on."""
    write_env_file(shop, "SHOP_DATABASE=x\n")
    started = serve(place, shop, "--workers", "2", "--timeout-worker-healthcheck", "100")
    until(lambda: started.output.count("Application startup complete") == 2, "both serve")
    session = logged_in(started)
    first = everywhere(started, session, 2)

    write_env_file(shop, "SHOP_DATABASE=\n")
    started.send(signal.SIGHUP)
    started.until_says("aborting the restart")
    assert BLOCKS in started.output
    assert everywhere(started, session, 2) == first

    write_env_file(shop, "SHOP_DATABASE=y\n")
    suite = shop / "preflight_suite" / "test_project.py"
    suite.write_text(NEEDS.replace("Shop Database", "Other Database"))
    started.send(signal.SIGHUP)
    until(lambda: started.output.count("Application startup complete") == 4, "the new ones serve")
    until(lambda: started.output.count("Finished server process") >= 2, "the old ones have gone")
    assert not first & everywhere(started, session, 2)
    assert place.check("Other Database")["outcome"] == "passed"
    assert len(RAN.findall(started.output)) == 3
    started.insist()


@pytest.mark.parametrize("what", ["removed", "in the way"])
def test_a_logout_after_a_cleaner(place: Place, shop: Path, what: str) -> None:
    """A login that was ended counts no more, in no process, although the folder that they share was taken away."""
    workers = 2 if what == "removed" else 1
    started = serve(place, shop, "--workers", str(workers), **ASKED)
    until(lambda: started.output.count("Application startup complete") == workers, "all serve")
    session = logged_in(started)
    kept = dict(session.cookies)
    shared = Path(place.environ["XDG_RUNTIME_DIR"]) / "preflight"
    shutil.rmtree(shared)
    if what == "in the way":
        shared.touch()
    answer = session.post(
        f"{started.url}{PREFIX}/logout", headers={"Origin": started.url}, timeout=30, allow_redirects=False
    )
    assert answer.status_code == 303
    for _ in range(5 * workers):
        headers = {"Connection": "close"}
        assert ask(started, f"{PREFIX}/diagnostics", cookies=kept, headers=headers).status_code == 401
    started.insist()


def test_a_unix_socket(place: Place, shop: Path) -> None:
    """Whoever asks through one is nobody in particular: health is answered, and everything else needs a login."""
    path = os.path.relpath(place.folder / "s")  # an address has room for about 100 bytes
    started = place.spawn(
        sys.executable, "-m", "uvicorn", "shop:app", "--uds", str(place.folder / "s"),
        cwd=shop, environ={"PYTHONPATH": str(ROOT), **ASKED},
    )  # fmt: skip
    started.until_says("Uvicorn running")

    def answer(target: str) -> str:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(min(path, str(place.folder / "s"), key=len))
            client.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            said = b""
            while data := client.recv(1 << 16):
                said += data
        return said.decode()

    assert answer(f"{PREFIX}/health").startswith("HTTP/1.1 200 ")
    assert answer("/x").startswith("HTTP/1.1 200 ")
    for target in ("diagnostics", "metrics", "fleet", ""):
        assert answer(f"{PREFIX}/{target}").startswith(("HTTP/1.1 401 ", "HTTP/1.1 404 ")), target
    started.stop()


# Behind the launcher.


def test_several_workers_of_which_one_does_not_import(place: Place) -> None:
    """Each worker has to start: of two, one that does not ends the start, and the instance before it goes on."""
    old = place.start("--demo", "--app", "small:app").until_ready()
    source = (
        f"import os\ntaken = {str(place.folder / 'taken')!r}\n"
        "os.close(os.open(taken, os.O_CREAT | os.O_EXCL))\nfrom small import app\n"
    )
    place.write_module("once", source)
    new = place.start("--demo", "--app", "once:app", "--workers", "2")
    assert new.wait() in (1, 4), new.output
    assert get(place.url) == (200, "small")
    assert old.process.poll() is None
    assert old.stop() == 0


TWICE = """
import asyncio, os, sys
from shop import app

async def lives():
    asked, said = asyncio.Queue(), []
    asked.put_nowait({"type": "lifespan.startup"})

    async def send(message):
        said.append(message["type"])
        asked.put_nowait({"type": "lifespan.shutdown"})

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, asked.get, send)
    return said[0]

print(asyncio.run(lives()))
os.rename("preflight_suite/test_project.py", "preflight_suite/test_before.py")
open("preflight_suite/test_project.py", "w").write(open("preflight_suite/test_before.py").read().replace(
    'assert environment.get("SHOP_DATABASE")', "assert False"))
os.unlink("preflight_suite/test_before.py")
print(asyncio.run(lives()))
"""


@pytest.mark.parametrize("prefix", ["/_preflight", "off"])
def test_a_server_that_starts_again_in_its_process(place: Place, shop: Path, prefix: str) -> None:
    """Each start is asked for, with our routes and without: what blocks the second one ends it."""
    environ = {"PYTHONPATH": str(ROOT), "PREFLIGHT_WEB_PREFIX": prefix, **ASKED}
    started = place.spawn(sys.executable, "-c", TWICE, cwd=shop, environ=environ)
    assert started.wait() == 0, started.output
    said = [line for line in started.stdout.splitlines() if line.startswith("lifespan.")]
    assert said == ["lifespan.startup.complete", "lifespan.startup.failed"]


FORKS = """
import os, pathlib, sys
from preflight.web.group import Group

Group(pathlib.Path(sys.argv[1]), "a server")
if os.fork() == 0:
    own = os.open(os.devnull, os.O_RDONLY)
    if os.fork() == 0:
        os.fstat(own)
        print("the file is still open", flush=True)
        os._exit(0)
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_what_the_children_of_a_server_open(place: Place, tmp_path: Path) -> None:
    """A process that the application forks lets go of the group's file, and its own children keep what is theirs."""
    started = place.spawn(sys.executable, "-c", FORKS, str(tmp_path / "state"), environ={"PYTHONPATH": str(ROOT)})
    assert started.wait() == 0, started.output
    assert "the file is still open" in started.stdout
    assert "Exception ignored" not in started.output
