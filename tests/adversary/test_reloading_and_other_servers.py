"""``--reload``, ``guard(app)`` under other servers, ``--wait``, and a database that says nothing."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from server.sessions.store import Store
from tests import certificates, databases
from tests.databases import PASSWORD, Postgres
from tests.e2e import namespaces
from tests.e2e.beside import BEARER, PREFIX, RAN, TOKEN, ask
from tests.e2e.chatting import Client
from tests.e2e.namespaces import command
from tests.e2e.place import Place, Started, get, listening
from tests.e2e.processes import handed_over
from tests.e2e.unixclient import Client as UnixClient
from tests.portnumbers import unused_port
from tests.waiting import PATIENCE, until

linux = pytest.mark.skipif(sys.platform != "linux", reason="namespaces and prctl are Linux's")
pytestmark = pytest.mark.usefixtures("unmeasured")

SMALL = ("--demo", "--app", "small:app")
RELOADING = ("--demo", "--app", "mine:app", "--reload")

APP = """
import asyncio
RELEASE = "{release}"

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        {start_up}
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": RELEASE.encode()}})
"""
HANGS = "print('it hangs', flush=True)\n        await asyncio.sleep(3600)"


def write(place: Place, release: str, start_up: str = "pass") -> None:
    """The application, as an editor saves it: another file takes its name."""
    temporary = place.root / "mine.py.tmp"
    temporary.write_text(APP.format(release=release, start_up=start_up))
    temporary.rename(place.root / "mine.py")


def until_serves(place: Place, release: str) -> None:
    until(lambda: answers(place.url) == release, f"release {release} answers")


def answers(url: str) -> str:
    """What answers there; empty while nobody does."""
    try:
        return get(url)[1]
    except OSError:
        return ""


def launcher_of(started: Started, module: str = "run.py") -> int:
    """The PID of the one instance that a reloading command has started."""
    (found,) = [one.pid for one in psutil.Process(started.pid).children() if module in one.cmdline()]
    return found


# Reload.


@linux
def test_a_reloading_command_is_killed(project: Place) -> None:
    """As the stop button of an IDE does: what it has started ends in order, and the port is free."""
    write(project, "1")
    started = project.start(*RELOADING).until_ready()
    started.send(signal.SIGKILL)
    started.process.wait()
    started.until_says("Stopping (SIGTERM)")
    started.wait()
    started.left_nothing()


def test_an_instance_of_a_reloading_command_is_killed(project: Place) -> None:
    """What ended it is said, a change serves again, and the exit code is that of who served last."""
    write(project, "1")
    started = project.start(*RELOADING).until_ready()
    os.kill(launcher_of(started), signal.SIGKILL)
    started.until_says("Waiting for a file to change")
    write(project, "2")
    until_serves(project, "2")
    os.kill(launcher_of(started), signal.SIGKILL)
    until(lambda: started.output.count("Waiting for a file to change") == 2, "its end was noticed")
    assert started.stop() == 128 + signal.SIGKILL


def test_another_port_while_it_reloads(project: Place) -> None:
    """The next instance serves there, and the one before lets go of its own port."""
    project.edit_project("port = 8002\n", f"port = {project.port}\n")
    write(project, "1")
    started = project.spawn(sys.executable, "run.py", *RELOADING).until_ready()
    other = unused_port()
    project.edit_project(f"port = {project.port}\n", f"port = {other}\n")
    until(lambda: answers(f"http://127.0.0.1:{other}") == "1", "it serves on the other port")
    until(lambda: not listening(project.port), "nobody is left on the first one", 30)
    write(project, "2")
    until(lambda: answers(f"http://127.0.0.1:{other}") == "2", "the next release serves there")
    assert started.stop() == 0
    started.left_nothing()


def test_a_change_that_mends_a_start_up_that_hangs(project: Place) -> None:
    """It is not waited for: the next instance takes the place of the one that does not come up."""
    write(project, "1")
    started = project.start(*RELOADING).until_ready()
    write(project, "2", start_up=HANGS)
    started.until_says("it hangs")
    write(project, "3")
    until_serves(project, "3")
    assert "THE APPLICATION DOES NOT START" not in started.output  # its deadline is ten minutes
    assert started.stop() == 0
    started.left_nothing()


@pytest.mark.parametrize("serving", [True, False], ids=["beside one", "the first"])
def test_a_reloading_command_is_stopped_while_it_checks(project: Place, serving: bool) -> None:
    """All of it ends; the exit code is that of the instance that serves, or of the start."""
    write(project, "1", *(() if serving else (HANGS,)))
    started = project.start(*RELOADING)
    if serving:
        started.until_ready()
        write(project, "2", start_up=HANGS)
    started.until_says("it hangs")
    assert started.stop() == (0 if serving else 143), started.output
    started.left_nothing()


def test_reloading_on_a_unix_socket(project: Place) -> None:
    """Its file stays through a change, and is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="uds") as folder:
        path = Path(folder) / "app.sock"

        def release() -> str:
            client = UnixClient(path)
            try:
                client.request("GET", "/")
                return client.getresponse().read().decode()
            finally:
                client.close()

        write(project, "1")
        started = project.start(*RELOADING, "--uds", str(path)).until_ready()
        made = path.stat().st_ino
        assert release() == "1"
        write(project, "2")
        until(lambda: release() == "2", "the next release answers")
        assert path.stat().st_ino == made
        assert started.stop() == 0
        assert not path.exists()


def test_a_certificate_that_is_renewed_elsewhere(project: Place, tmp_path: Path) -> None:
    """As certbot does, in a folder of its own: the next instance serves with it."""
    pair = certificates.make(tmp_path / "tls")
    environ = {"PREFLIGHT_SSL_CERTFILE": str(pair.certificate), "PREFLIGHT_SSL_KEYFILE": str(pair.key)}
    write(project, "1")
    started = project.start(*RELOADING, **environ).until_ready()
    renewed = certificates.make(tmp_path / "renewed")
    renewed.key.replace(pair.key)
    renewed.certificate.replace(pair.certificate)
    started.until_says(f"{pair.certificate.name} changed: the next instance is checked.")
    until(lambda: started.output.count("SERVER READY!") == 2, "the next instance serves")
    new = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())

    def served() -> bytes:
        return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", project.port), timeout=PATIENCE))

    until(lambda: served() == new, "the instance before accepts no more")
    assert started.stop() == 0


def test_reloading_while_nobody_reads(project: Place) -> None:
    """Standard output and error are a full pipe: a change is served, and SIGTERM ends all of it."""
    write(project, "1")
    read, output = os.pipe()
    os.set_blocking(output, False)
    while True:
        try:
            os.write(output, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(output, True)
    process = subprocess.Popen(
        [sys.executable, "run.py", "--port", str(project.port), *RELOADING],
        cwd=project.root, env=project.environ, stdout=output, stderr=output, start_new_session=True,
    )  # fmt: skip
    try:
        os.close(output)
        until_serves(project, "1")
        write(project, "2")
        until_serves(project, "2")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        until(lambda: not listening(project.port), "the port is free")
    finally:
        process.kill()
        process.wait()
        os.close(read)


@linux
def test_reloading_as_the_first_process_of_a_container(project: Place) -> None:
    """A worker that is killed is back, a change is served, and SIGTERM ends all in order."""
    write(project, "1")
    started = namespaces.contained(project, *command(project, *RELOADING)).until_ready()
    os.kill(namespaces.child(started, "preflight.worker"), signal.SIGKILL)
    started.until_says("The worker is back")
    write(project, "2")
    until_serves(project, "2")
    os.kill(namespaces.launcher(started), signal.SIGTERM)
    assert started.wait() == 0, started.output
    started.left_nothing()


# Under a server of somebody else's.

SHOP = """
import os, time
from small import app as small
from preflight import guard

async def shop(scope, receive, send):
    if scope.get("path") == "/forks" and os.fork() == 0:
        time.sleep(3600)
    await small(scope, receive, send)

app = guard(shop)
"""
REQUIREMENT = """
import pytest, time
from pathlib import Path

@pytest.mark.critical("Own")
def test_own() -> None:
    "What it needs is there."
    {body}
"""


def under_uvicorn(
    place: Place, *options: str, shop: str = SHOP, pass_fds: tuple[int, ...] = (), **environ: str
) -> Started:
    place.write_module("shop", shop)
    line = [sys.executable, "-m", "uvicorn", "shop:app", *options]
    return place.spawn(*line, environ={"PREFLIGHT_DEMO": "1", **environ}, pass_fds=pass_fds)


@pytest.mark.parametrize("forks", [False, True], ids=["alone", "a process stays behind"])
def test_uvicorn_reloads(project: Place, forks: bool) -> None:
    """The requirements are asked again for what has changed; a process that the application has forked changes none."""
    project.write_requirement("own", REQUIREMENT.format(body="pass"))
    modules = str(project.folder / "modules")
    started = under_uvicorn(project, "--port", str(project.port), "--reload", "--reload-dir", modules)
    started.until_says("Application startup complete")
    until(lambda: answers(project.url) == "small", "it answers")
    if forks:
        get(f"{project.url}/forks")
    project.write_requirement("own", REQUIREMENT.format(body="assert False, 'it is not'"))
    project.write_module("shop", SHOP + "\n# changed\n")
    started.until_says("the preflight blocks the start: Own")
    assert len(RAN.findall(started.output)) == 2
    project.write_requirement("own", REQUIREMENT.format(body="pass"))
    project.write_module("shop", SHOP + "\n# mended\n")
    until(lambda: started.output.count("Application startup complete") == 2, "it serves again")
    started.insist()


def test_another_socket_of_the_same_process(place: Place) -> None:
    """One that listens on loopback, for metrics, is not taken for the server's, which others can reach."""
    held = f"held = socket.create_server(('127.0.0.1', {unused_port()}))"
    place.write_module("mine", f"import socket\n{held}\nfrom server.app import create_app\n")
    line = ["-m", "uvicorn", "--factory", "mine:create_app", "--host", "0.0.0.0", "--port", str(place.port)]
    started = place.spawn(sys.executable, *line, environ={"PREFLIGHT_DEMO": "1"})
    assert started.wait() == 3, started.output
    assert "the preflight blocks the start: Exposure" in started.output
    assert place.report()["address"] == f"0.0.0.0:{place.port}"


def test_the_link_beside_another_socket(place: Place) -> None:
    """It leads to the server."""
    held = f"import socket\nheld = socket.create_server(('127.0.0.1', {unused_port()}))\n"
    started = under_uvicorn(place, "--port", str(place.port), shop=held + SHOP).until_says("login?code")
    assert f"http://127.0.0.1:{place.port}{PREFIX}/login?code=" in started.output
    started.insist()


def test_guarded_on_a_unix_socket(place: Place) -> None:
    """Health is there for all, everything else with the token alone, and the application has the other paths."""
    with tempfile.TemporaryDirectory(prefix="uds") as folder:
        path = Path(folder) / "app.sock"
        started = under_uvicorn(place, "--uds", str(path), PREFLIGHT_TOKEN=TOKEN)
        started.until_says("Application startup complete")
        until(path.exists, "its file is there")

        def status(target: str, **headers: str) -> int:
            client = UnixClient(path)
            try:
                client.request("GET", target, headers=headers)
                return client.getresponse().status
            finally:
                client.close()

        assert [status(one) for one in (f"{PREFIX}/health", f"{PREFIX}/diagnostics", "/")] == [200, 401, 200]
        assert status(f"{PREFIX}/diagnostics", **BEARER) == 200
        started.insist()


def test_guarded_on_a_socket_that_was_passed(place: Place) -> None:
    """As systemd passes it to uvicorn (``--fd``): its address is the report's."""
    with socket.create_server(("127.0.0.1", place.port)) as passed:
        fd = passed.fileno()
        started = under_uvicorn(place, "--fd", str(fd), pass_fds=(fd,), PREFLIGHT_TOKEN=TOKEN)
        started.until_says("Application startup complete")
        until(lambda: ask(started, f"{PREFIX}/diagnostics", headers=BEARER).status_code == 200, "it answers")
        assert place.report()["address"] == f"127.0.0.1:{place.port}"
        started.insist()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_ends_while_it_is_checked(project: Place, number: signal.Signals) -> None:
    """Nothing of the suite outlives it, and nobody was served."""
    begun, gate = project.folder / "begun", project.folder / "gate"
    waits = f"Path({str(begun)!r}).touch()\n    while not Path({str(gate)!r}).exists(): time.sleep(0.01)"
    project.write_requirement("own", REQUIREMENT.format(body=waits))
    times = {"PREFLIGHT_REQUIREMENT_TIMEOUT": "100s", "PREFLIGHT_RUN_TIMEOUT": "110s"}
    project.environ |= times
    started = under_uvicorn(project, "--port", str(project.port))
    until(begun.exists, "the suite is on its way")
    started.send(number)
    if number == signal.SIGTERM:
        gate.touch()
    started.wait()
    assert not re.search(r'"GET .*" 200', started.output)
    started.left_nothing()


# Waiting.


def test_another_start_comes_first(place: Place) -> None:
    """Under ``--wait``: what was wanted serves by then, and is left alone."""
    missing = place.folder / "missing"
    place.write_module("later", f"open({str(missing)!r}).close()\nfrom small import app\n")
    later = ("--demo", "--app", "later:app")
    waiting = place.start(*later, "--wait", "100").until_says("blocked by Application")
    waiting.send(signal.SIGSTOP)
    missing.touch()
    first = place.start(*later).until_ready()
    waiting.send(signal.SIGCONT)
    assert waiting.wait() == 0, waiting.output
    assert f"our instance (PID {first.pid}, since " in waiting.output
    assert "it came up meanwhile. Nothing to do." in waiting.output
    assert get(place.url) == (200, "small")
    assert first.stop() == 0


# A database that says nothing.


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def remember(path: Path) -> None:
    """A session in a file, which can be imported."""
    store = Store(path, age=1e9, limit=100, size=1 << 20, owner="0:gone")
    await store.accept("1" * 32, "turn", "hello", client=None, workspace=None, keep=())
    await store.close()


@pytest.mark.parametrize("verb", ["--migrate", "--fleet", "--import-sessions"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_commands_that_wait_for_a_database(place: Place, silent: int, verb: str, number: int) -> None:
    """A signal ends them, with its exit code and without a traceback."""
    url = f"postgresql://me:{PASSWORD}@127.0.0.1:{silent}/fleet?connect_timeout=3600"
    asyncio.run(remember(place.state / "sessions.sqlite"))
    one = place.start(verb, PREFLIGHT_DATABASE_URL=url)
    until(lambda: bool(psutil.Process(one.pid).net_connections()), "it has connected")
    assert one.stop(number) == 128 + number, one.output
    assert "Traceback" not in one.output
    assert PASSWORD not in one.output


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with databases.postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


def test_sessions_in_a_database_that_hangs(equipped: Place, postgres: Postgres) -> None:
    """A start goes ahead and replaces the one that serves, and both end in time, with a message on its way."""
    equipped.environ["PREFLIGHT_DATABASE_URL"] = postgres.url(database=postgres.database())
    old = equipped.start().until_ready()
    chat = Client(old.url)
    try:
        chat.init()
        postgres.signal_all(signal.SIGSTOP)
        chat.send("chat", content="hello")
        new = equipped.start().until_ready()
        assert old.wait(30) == 0, old.output
        handed_over(old, new)
        assert get(f"{new.url}/health")[0] == 200
        second = Client(new.url)
        second.send("init")
        new.send(signal.SIGTERM)
        assert new.wait(30) == 0, new.output
        second.close()
    finally:
        postgres.signal_all(signal.SIGCONT)
        chat.close()
    for one in (old, new):
        assert PASSWORD not in one.output
        until(lambda one=one: not one.family(), "nothing of it is left")  # type: ignore[misc]


WAITS = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL"


@linux
def test_the_last_word_of_a_container(place: Place, postgres: Postgres) -> None:
    """The first process of one ends, and all with it: the fleet knows that it was stopped, and is not silent."""
    name = postgres.database()
    environ = {"PREFLIGHT_DATABASE_URL": postgres.url(database=name), "PREFLIGHT_FLEET_HEARTBEAT": "1s"}
    started = namespaces.contained(place, *command(place, *SMALL), **environ).until_ready()
    until(lambda: there(postgres, name) == "there", "it is in the fleet")
    with psycopg.connect(postgres.url(database=name)) as busy:
        busy.execute("LOCK TABLE preflight.instances")
        os.kill(namespaces.launcher(started), signal.SIGTERM)
        started.until_says("Stopping (SIGTERM)")
        until(lambda: not listening(place.port), "the port is free")
        until(lambda: postgres.ask(WAITS) != (0,), "its last word waits for the database")
        busy.rollback()
    assert started.wait() == 0, started.output
    assert there(postgres, name) == "stopped"


def there(postgres: Postgres, database: str) -> str:
    """How the one instance of a fleet stands: "there", or how it has ended; empty where there is none."""
    made = "SELECT 1 FROM pg_tables WHERE schemaname = 'preflight' AND tablename = 'instances'"
    if not postgres.rows(made, database=database):
        return ""
    found = postgres.rows("SELECT coalesce(ending, 'there') FROM preflight.instances", database=database)
    return str(found[0][0]) if found else ""
