"""A worker that crashes is started again on the same socket; what crashes on and on is given up."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import threading
import time
from typing import Any

import psutil
import pytest

from preflight import times
from tests.e2e import namespaces
from tests.e2e.beside import BEARER, PREFIX, TOKEN, ask
from tests.e2e.clients import Clients
from tests.e2e.place import READY, Place, Started, get
from tests.e2e.processes import BACK, CRASHING, child, crash, crashing, kill_worker, supervised, worker_of
from tests.ready.listeners import listening
from tests.waiting import PATIENCE, until


def told(started: Started) -> dict[str, Any]:
    """What /diagnostics says of the instance that answers."""
    part: dict[str, Any] = ask(started, f"{PREFIX}/diagnostics", headers=BEARER).json()["server"]
    return part


def test_killed_worker_comes_back(place: Place) -> None:
    """kill -9 under load: no connection is refused, another worker goes on, and /diagnostics counts it."""
    started = supervised(place, "--app", "small:app", PREFLIGHT_TOKEN=TOKEN).until_ready()
    before = told(started)
    assert before["restarts"] == {"count": 0, "last_exit": "", "last_exit_at": ""}
    with Clients(place.port, keeping=3, reconnecting=3, path="/") as clients:
        for count in (1, 2):
            killed = kill_worker(started)
            until(lambda count=count: started.stdout.count(BACK) == count, "the worker is back")  # type: ignore[misc]
            clients.go_on(30)
            assert worker_of(started) != killed
    assert clients.refused == []
    assert len(clients.failed) <= 2 * 6, "a crash costs a client at most the request that was being answered"
    server = told(started)
    assert server["restarts"]["count"] == 2
    assert server["restarts"]["last_exit"] == "SIGKILL, possibly because memory ran out"
    assert 0 <= time.time() - times.epoch(server["restarts"]["last_exit_at"]) < 60
    assert server["instance_id"] == before["instance_id"]
    assert server["uptime_seconds"] >= server["worker_uptime_seconds"]
    assert server["pid"] == worker_of(started)
    assert get(f"{place.url}{PREFIX}/health")[0] == 200
    assert "The worker ended (SIGKILL, possibly because memory ran out); another one starts at once." in started.stdout
    assert started.stdout.count(READY) == 1
    assert started.stop() == 0
    started.left_nothing()


def test_connections_wait(place: Place) -> None:
    """Between two workers there is nobody to answer: who connects then waits, and is answered by the next one."""
    started = crashing(place, backoff="1s").until_ready()
    for life in (1, 2):
        assert get(place.url) == (200, f"life {life}")
        until(lambda: child(started, "preflight.worker") is not None, "there is a worker")
        kill_worker(started)
        started.until_says("another one starts at once" if life == 1 else "another one starts in ")
        # Now nobody is there; the first restart is at once, the second one takes at least half a second.
        assert get(place.url) == (200, f"life {life + 1}")
    assert re.search(r"another one starts in (0\.[5-9]|1\.0) s\. Connections wait\.", started.stdout)
    assert started.stop() == 0


def test_given_up_after_five(place: Place) -> None:
    """Five crashes within the window: exit code 4, a red banner, and the end of what the worker said."""
    started = crashing(place).until_ready()
    for life in range(1, 6):
        assert started.process.poll() is None, started.output
        crash(place)
        started.until_says(f"last words of life {life}")
    assert started.wait() == 4
    banner = started.stdout.partition("THE SERVER KEEPS CRASHING: the launcher has given up")[2]
    assert "The worker ended: exit code 7. It was started 5 times." in banner
    assert "last words of life 5" in banner.partition("The end of its output:")[2]
    assert "Traceback" not in started.output
    started.left_nothing()


def test_limit_is_a_setting(place: Place) -> None:
    """With a limit of two the second crash is the last."""
    started = crashing(place, PREFLIGHT_RESTART_LIMIT="2").until_ready()
    for life in (1, 2):
        crash(place)
        started.until_says(f"last words of life {life}")
    assert started.wait() == 4
    assert "It was started 2 times." in started.stdout


def test_secrets_in_the_last_words(equipped: Place) -> None:
    """What a crashing worker says is shown without secrets."""
    equipped.write_module("telling", "import os\nprint('key', os.environ['OPENAI_API_KEY'], flush=True)\n" + CRASHING)
    lives = str(equipped.folder / "lives")
    started = equipped.start("--no-supervise", "--app", "telling:app", LIVES=lives).until_ready()
    crash(equipped)
    assert started.wait() == 4
    assert "key [redacted]" in started.stdout.partition("The end of its output:")[2]
    assert "canary" not in started.output


def test_never_ready(place: Place) -> None:
    """An application whose start-up fails is tried twice, then given up with what it said."""
    started = crashing(place, failing="1,2,3")
    assert started.wait() == 4
    assert "THE SERVER DOES NOT START: the launcher has given up" in started.stdout
    assert "It was started 2 times." in started.stdout
    assert "no start-up in life 2" in started.output
    assert (place.folder / "lives").read_text() == "xx"
    assert READY not in started.output
    started.left_nothing()


def test_ready_at_the_second_time(place: Place) -> None:
    """An application whose start-up fails once is served all the same."""
    started = crashing(place, failing="1").until_ready()
    assert get(place.url) == (200, "life 2")
    assert started.stop() == 0


def test_never_ready_again(place: Place) -> None:
    """An application that served, and whose start-up fails from then on, is given up as one that crashes."""
    started = crashing(place, failing="2,3").until_ready()
    crash(place)
    assert started.wait() == 4
    assert "THE SERVER KEEPS CRASHING: the launcher has given up" in started.stdout
    assert (place.folder / "lives").read_text() == "xxx"
    started.left_nothing()


def test_import_fails_at_the_restart(place: Place) -> None:
    """An application that cannot be imported any more is said to be that."""
    started = crashing(place).until_ready()
    place.write_module("crashing", "raise RuntimeError('edited meanwhile')")
    crash(place)
    assert started.wait() == 4
    assert "The worker ended: RuntimeError: edited meanwhile" in started.stdout
    started.left_nothing()


def test_settings_that_break_meanwhile(project: Place) -> None:
    """A mistake in pyproject.toml is the next start's affair: another worker serves with the settings of this one."""
    started = crashing(project).until_ready()
    table = project.root / "pyproject.toml"
    table.write_text(table.read_text().replace("[tool.preflight]", "[tool.preflight]\nnonsense = 1"))
    crash(project)
    started.until_says(BACK)
    assert get(project.url) == (200, "life 2")
    assert started.stop() == 0


def test_not_supervised(place: Place) -> None:
    """Where nobody shall restart it, the first crash is the end: exit code 4 at once."""
    started = place.start("--demo", "--app", "small:app", PREFLIGHT_SUPERVISE="0").until_ready()
    kill_worker(started)
    assert started.wait() == 4
    assert "THE SERVER ENDED" in started.stdout
    assert "SIGKILL, possibly because memory ran out" in started.stdout
    assert "It is not started again: supervision is off." in started.stdout
    started.left_nothing()


def test_killed_while_the_fleet_s_database_hangs(place: Place) -> None:
    """Its registrar, which waits for a database that accepts and says nothing, does not outlive the launcher."""
    with listening() as port:
        url = f"postgresql://me:secret@127.0.0.1:{port}/fleet?connect_timeout=3600"
        started = place.start("--demo", "--app", "small:app", PREFLIGHT_DATABASE_URL=url).until_ready()

        def asks() -> bool:
            registrar = child(started, "preflight.fleet")
            return registrar is not None and bool(psutil.Process(registrar).net_connections())

        until(asks, "the registrar has connected")
        started.send(signal.SIGKILL)
        started.wait()
        started.left_nothing()


# How a container's PID 1 may come to start the launcher ("$@"), where its end is the container's.
LEFT_TO_THE_RUNTIME = {
    "PID 1": '"$@"',
    "a script": 'sh -c \'"$@"; exit $?\' sh "$@"',
    "an init": './tini -c \'"$@"; exit $?\' sh "$@"',
}
# And how else it may run in a container, or seem to.
OURS = {
    "a shell in a container": 'sh -c \'sh -c "\\"\\$@\\"; exit \\$?" sh "$@"; exit $?\' sh "$@"',
    "in the background": 'sh -c \'"$@" & wait $!; exit $?\' sh "$@"',
    "adopted": 'sh -c \'setsid -f "$@"; sleep 1000; exit\' sh "$@"',
}


def contained(place: Place, how: str, **environ: str) -> Started:
    """A start in a namespace of its own; ``how`` is shell text whose "$@" is the command."""
    shutil.copy2("/bin/sh", place.folder / "tini")
    enter = f'cd "{place.folder}"; exec env -C "{place.folder}" {" ".join(namespaces.ENTER)} {how}'
    command = [sys.executable, str(place.root / "run.py"), *namespaces.start(place, "--app", "small:app")[2:]]
    namespaces.needed()
    return place.spawn("sh", "-c", enter, "sh", *command, environ=environ).until_ready()


@pytest.mark.parametrize(
    "how, keeper", [("PID 1", "Kubernetes"), ("a script", "the container runtime"), ("an init", "Kubernetes")]
)
def test_left_to_others(place: Place, how: str, keeper: str) -> None:
    """Where the container ends with the launcher, the runtime restarts it: the first crash is the end."""
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"} if keeper == "Kubernetes" else {}
    started = contained(place, LEFT_TO_THE_RUNTIME[how], **environ)
    os.kill(namespaces.child(started, "preflight.worker"), signal.SIGKILL)
    assert started.wait() == 4
    assert f"A restart is left to {keeper}." in started.stdout


@pytest.mark.parametrize("how", OURS)
def test_in_a_container_that_runs_something_else(place: Place, how: str) -> None:
    """In a development container or a shell in a pod nobody else restarts it, whatever the environment says."""
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "container": "podman", "SYSTEMD_EXEC_PID": "1"}
    started = contained(place, OURS[how], **environ)
    os.kill(namespaces.child(started, "preflight.worker"), signal.SIGKILL)
    started.until_says(BACK)
    assert "another one starts at once" in started.stdout
    assert get(place.url) == (200, "small")
    os.kill(namespaces.launcher(started), signal.SIGTERM)
    started.until_says("Stopping (SIGTERM).")


def test_in_a_pod(place: Place) -> None:
    """The variables of Kubernetes, a container's mark and another process's unit in the environment decide nothing."""
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "container": "oci", "SYSTEMD_EXEC_PID": str(os.getpid())}
    started = place.start("--demo", "--app", "small:app", **environ).until_ready()
    kill_worker(started)
    started.until_says(BACK)
    assert started.stop() == 0


def test_in_a_unit(place: Place) -> None:
    """A unit's main process is restarted by systemd: as it does, the process is told its own PID."""
    program = (
        "import os, sys; os.environ['SYSTEMD_EXEC_PID'] = str(os.getpid()); os.execv(sys.executable, sys.argv[1:])"
    )
    command = namespaces.start(place, "--app", "small:app")
    started = place.spawn(sys.executable, "-c", program, *command).until_ready()
    os.kill(namespaces.child(started, "preflight.worker"), signal.SIGKILL)
    assert started.wait() == 4
    assert "A restart is left to systemd." in started.stdout


def test_stopped_while_it_waits(place: Place) -> None:
    """SIGTERM while the launcher waits to restart ends it at once, not after the wait."""
    started = crashing(place, backoff="30s").until_ready()
    for words in ("another one starts at once", "another one starts in "):
        until(lambda: child(started, "preflight.worker") is not None, "there is a worker")
        crash(place)
        started.until_says(words)
    begun = time.monotonic()
    assert started.stop() == 0
    assert time.monotonic() - begun < 20
    started.left_nothing()


def test_replaced_while_it_waits(place: Place) -> None:
    """An instance between two workers still hands over its socket: nobody who waits in its queue is lost."""
    old = crashing(place, backoff="30s").until_ready()
    for words in ("another one starts at once", "another one starts in "):
        until(lambda: child(old, "preflight.worker") is not None, "there is a worker")
        crash(place)
        old.until_says(words)
    answers: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: answers.append(get(place.url)))
    asking.start()
    new = place.start("--demo", "--app", "small:app").until_ready()
    assert old.wait() == 0
    asking.join(PATIENCE)
    assert answers == [(200, "small")]
    assert new.stop() == 0
    new.left_nothing()
