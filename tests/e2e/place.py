"""Real starts: a place of the test's own, and the processes that it starts."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from packaging.requirements import Requirement

from preflight import dependencies, times
from preflight.report import model as report
from preflight.settings.statefolder import StateFolder
from preflight.suite.probes import imports
from preflight.suite.probes.extras import with_extras
from tests import sharing
from tests.e2e.doubles import AGENTLESS, LISTENER, SMALL, Providers
from tests.portnumbers import unused_port
from tests.waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]
MEASURED = "COVERAGE_PROCESS_CONFIG" in os.environ  # by coverage, which sets it for the processes that it follows
KEYS = {
    "OPENAI_API_KEY": "sk-canary-Zq7vXw2LmN8pRt4KdY6hJb3F-tail9351",
    "PERPLEXITY_API_KEY": "pplx-canary-Hs5gTj9BnV1cXr8MwQ2eLk7P-end4826",
}
READY = "SERVER READY!"
BLOCKED = "must fix before proceeding"
BROKE = "THE CHECK SUITE ITSELF FAILED"


def listening(port: int) -> bool:
    """Whether anything takes connections there."""
    with socket.socket() as client:
        client.settimeout(5)
        return client.connect_ex(("127.0.0.1", port)) == 0


def get(url: str, timeout: float = PATIENCE) -> tuple[int, str]:
    """Status and text of an answer, which comes within so many seconds."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class Started:
    """A process that a test started, in a session of its own, and what it says."""

    def __init__(
        self, command: list[str], cwd: Path, environ: Mapping[str, str], port: int, pass_fds: Sequence[int] = ()
    ) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=pass_fds,
        )
        self._said: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self._heard = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Hear both pipes: whoever has heard a text in one of them has heard what was said in the other before."""
        with selectors.DefaultSelector() as selector:
            for name in self._said:
                descriptor = getattr(self.process, name).fileno()
                os.set_blocking(descriptor, False)
                selector.register(descriptor, selectors.EVENT_READ, name)
            while selector.get_map():
                selector.select()
                said = self._waiting(selector)
                with self._heard:
                    for name, data in said.items():
                        self._said[name] += data
                    self._heard.notify_all()

    @staticmethod
    def _waiting(selector: selectors.BaseSelector) -> dict[str, bytes]:
        """What waits in the pipes: they are read in turn until both are empty, or a megabyte has come."""
        said = dict.fromkeys(("stdout", "stderr"), b"")
        came = True
        while came and sum(map(len, said.values())) < 1 << 20:
            came = False
            for key in list(selector.get_map().values()):
                with contextlib.suppress(BlockingIOError):
                    data = os.read(key.fd, 1 << 16)
                    said[key.data] += data
                    came = came or bool(data)
                    if not data:
                        selector.unregister(key.fd)
        return said

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stdout(self) -> str:
        return self._said["stdout"].decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        return self._said["stderr"].decode("utf-8", "replace")

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    def until_says(self, text: str) -> Started:
        """Wait until it has said this; fails at once when it ends without."""
        end = time.monotonic() + PATIENCE
        with self._heard:
            while text not in self.output:
                over = not self._reader.is_alive()
                waiting = not over and time.monotonic() < end
                assert waiting, f"it never said {text!r}:\n{self.output}"
                self._heard.wait(0.1)
        return self

    def until_ready(self) -> Started:
        return self.until_says(READY)

    def wait(self, patience: float = PATIENCE) -> int:
        """Its exit code, once it has ended and all that it said was read."""
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {patience:g} s:\n{self.output}") from None
        self._reader.join(5)
        return code

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; its exit code."""
        self.send(number)
        return self.wait()

    def insist(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end until it does: what comes soon after the first signal is the same wish. Its exit code."""
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < end:
            self.send(number)
            time.sleep(0.1)
        return self.wait()

    def family(self) -> list[int]:
        """The living processes that it started, itself not counted: its children leave its group, never its session."""
        members = []
        for pid in psutil.pids():
            with contextlib.suppress(OSError, psutil.Error):
                # Its session first: that is one call, and there are hundreds of processes that are none of ours.
                if pid != self.pid and os.getsid(pid) == self.pid:
                    members += [] if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else [pid]
        return members

    def left_nothing(self) -> None:
        """It has ended, no process of its session is left, and nothing listens on its port."""
        assert self.process.returncode is not None
        until(lambda: not self.family(), "every process that it started has gone")
        assert not listening(self.port), f"something still listens on {self.port}"

    def asking(self, port: int) -> int:
        """How many connections its processes have, or try to have, to this port of this machine."""
        count = 0
        for pid in self.family():
            with contextlib.suppress(OSError, psutil.Error):
                count += sum(
                    bool(one.raddr) and one.raddr.port == port for one in psutil.Process(pid).net_connections()
                )
        return count

    def kill(self) -> None:
        """End whatever is left of it."""
        if MEASURED and self.process.poll() is None:
            # What is killed leaves no coverage data.
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self.send(signal.SIGTERM)
                self.process.wait(6)
        while family := self.family():
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@dataclass
class Place:
    """Where starts happen: a tree, and a home, a state folder, a port and an environment of the test's own."""

    folder: Path
    root: Path
    port: int
    environ: dict[str, str]
    started: list[Started] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    """What the command of a start begins with: a program that takes privileges from it, say."""

    @property
    def env_file(self) -> Path:
        return self.folder / "home" / ".ki_autoagent" / "config" / ".env"

    @property
    def state(self) -> Path:
        return Path(self.environ["PREFLIGHT_STATE_DIR"])

    @property
    def report_file(self) -> Path:
        return self.state / "report.json"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def report(self) -> dict[str, Any]:
        """Our section of the report that stands in the state folder."""
        section: dict[str, Any] = json.loads(self.report_file.read_text())["preflight"]
        return section

    def check(self, title: str) -> dict[str, Any]:
        """One check of the report in the state folder."""
        return next(check for check in self.report()["checks"] if check["title"] == title)

    def write_env_file(self, **variables: str) -> None:
        """An env file that its owner alone can read."""
        self.env_file.parent.mkdir(parents=True, exist_ok=True)
        self.env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
        self.env_file.chmod(0o600)

    def write_module(self, name: str, source: str) -> None:
        """A module that an application can be imported from."""
        (self.folder / "modules").mkdir(exist_ok=True)
        (self.folder / "modules" / f"{name}.py").write_text(source)

    def write_requirement(self, name: str, source: str) -> None:
        """One more file of requirements; only in a copy of the tree."""
        assert self.root != ROOT
        (self.root / "preflight" / "requirements" / f"test_{name}.py").write_text(source)

    def edit_project(self, before: str, after: str) -> None:
        """Another text in pyproject.toml, where that one stands once; only in a copy of the tree."""
        assert self.root != ROOT
        file = self.root / "pyproject.toml"
        assert file.read_text().count(before) == 1
        file.write_text(file.read_text().replace(before, after))

    def write_suite(self, source: str) -> None:
        """One file of requirements in place of all that there were; only in a copy of the tree."""
        assert self.root != ROOT
        shutil.rmtree(self.root / "preflight" / "requirements")
        (self.root / "preflight" / "requirements").mkdir()
        self.write_requirement("suite", source)

    def plant_report(self, path: Path | None = None) -> None:
        """A good report of an earlier run."""
        good = report.Check("test_old.py::test_old", "Old", "It was good once.", "critical", "passed")
        old = report.Report(
            run_id="old",
            origin="start",
            status="passed",
            may_start=True,
            started_at=times.now(),
            duration=0.1,
            selection="all",
            address=f"127.0.0.1:{self.port}",
            checks=(good,),
        )
        report.publish(old, path or self.report_file)

    def spawn(
        self,
        *command: str,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Started:
        """Start any command here."""
        one = Started(list(command), cwd or self.root, {**self.environ, **(environ or {})}, self.port, pass_fds)
        self.started.append(one)
        return one

    def start(self, *options: str, **environ: str) -> Started:
        """Start ``run.py`` on this place's port, or on the Unix socket that is named."""
        tcp = [] if "--uds" in options or "PREFLIGHT_UDS" in environ else ["--port", str(self.port)]
        return self.spawn(*self.before, sys.executable, "run.py", *tcp, *options, environ=environ)

    def serve(self, *options: str, **environ: str) -> Started:
        """Start a server with the routes that the agent's has, and without the agent: that takes half of the time."""
        return self.start("--demo", "--app", "agentless:app", *options, **{"PREFLIGHT_WEB_PREFIX": "off", **environ})

    def prepared(self, preparation: str) -> str:
        """A program that runs this Python and is ``run.py`` then: for a fault, or a time that is no setting."""
        program = self.folder / "prepared.py"
        program.write_text(
            f"import runpy, sys\nsys.path[:1] = [{str(self.root)!r}]\n{preparation}\n"
            'sys.argv[0] = "run.py"\nrunpy.run_path("run.py", run_name="__main__")\n'
        )
        return str(program)

    def start_program(self, program: str, *options: str, **environ: str) -> Started:
        """Start a program of :meth:`prepared` on this place's port."""
        return self.spawn(sys.executable, program, "--port", str(self.port), *options, environ=environ)

    def run(self, *options: str, **environ: str) -> Started:
        """``run.py``, to its end."""
        one = self.start(*options, **environ)
        one.wait()
        return one

    def refused(self, *options: str, **environ: str) -> Started:
        """A start that must be refused: it left nothing behind, and no earlier report as the current one."""
        if self.state.is_dir():
            self.plant_report()
        one = self.run(*options, **environ)
        assert one.process.returncode in (1, 2, 3), one.output
        assert READY not in one.output
        # The end of a broken suite's own output may hold one.
        assert "Traceback" not in one.output.partition("The end of its output")[0]
        one.left_nothing()
        if self.report_file.exists():
            assert self.report()["run_id"] != "old"
            assert self.report()["may_start"] is False
        return one

    def listener(self, *arguments: str) -> Started:
        """Somebody else's server on this place's port."""
        program = self.folder / "listener.py"
        program.write_text(LISTENER)
        return self.spawn(sys.executable, str(program), str(self.port), *arguments).until_says("listening")

    def close(self) -> None:
        for one in self.started:
            one.kill()


@cache
def known_imports() -> bytes:
    """What a first run leaves in a state folder, so that those of tests need not import every dependency again."""
    return sharing.known("imports", _import_all)


def _import_all() -> bytes:
    declared = [Requirement(line) for line in dependencies.declared()]
    needed = [one for one in declared if one.marker is None or one.marker.evaluate()]
    names = sorted({one.name for one, _by in with_extras(needed, [])})
    with tempfile.TemporaryDirectory() as folder:
        imports.attempt(names, StateFolder(Path(folder)), 120.0)
        return StateFolder(Path(folder)).imports.read_bytes()


def make_place(folder: Path, root: Path = ROOT) -> Place:
    """A place with an empty home."""
    dropped = ("PREFLIGHT_", "OPENAI_", "PERPLEXITY_", "PYTEST_", "XDG_", "LC_")
    also = {
        "PYTHONDONTWRITEBYTECODE",
        "NO_COLOR",
        "FORCE_COLOR",
        "CLICOLOR_FORCE",
        "TTY_COMPATIBLE",
        "COLUMNS",
        "TERM",
        "CI",
    }
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(dropped) and name not in also and not name.lower().endswith("_proxy")
    }
    for name in ("home", "state", "runtime", "modules"):
        (folder / name).mkdir(mode=0o700, parents=True)
    environ |= {
        "COLUMNS": "1000",  # a message is one line, however long the path of a temporary folder in it
        "HOME": str(folder / "home"),
        "XDG_RUNTIME_DIR": str(folder / "runtime"),
        "PREFLIGHT_STATE_DIR": str(folder / "state"),
        "PYTHONPATH": str(folder / "modules"),
        "LC_ALL": "C.UTF-8",
    }
    place = Place(folder, root, unused_port(), environ)
    place.write_module("small", SMALL)
    place.write_module("agentless", AGENTLESS)
    remembered = StateFolder(folder / "state").imports
    remembered.write_bytes(known_imports())
    remembered.chmod(0o600)
    return place


def equip(place: Place, providers: Providers) -> None:
    """All that a start needs: an env file with keys, a Python bound that holds, services that answer."""
    place.write_env_file(**KEYS)
    place.environ |= {"PREFLIGHT_PYTHON": ">=3.11", **providers.variables}
