"""Ready-made requirements in the suite of a project: real runs, real starts, and what they leave behind."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.canaries import CANARIES
from tests.e2e.doubles import SMALL
from tests.e2e.installing import Adopter
from tests.e2e.place import BLOCKED, BROKE, READY
from tests.portnumbers import unused_port
from tests.waiting import until

SUITE = """from preflight import ready

test_service = ready.tcp("SERVICE", title="Service", fix="start the service")
test_data = ready.file("data.csv", title="Data", severity="warning")
"""
FILE = "preflight_suite/test_project.py"


@pytest.fixture
def shop(adopter: Adopter) -> Adopter:
    """A project with an application, and two ready-made requirements in its suite."""
    adopter.write("shop.py", SMALL)
    adopter.write("pyproject.toml", '[tool.preflight]\napp = "shop:app"\n')
    adopter.write("data.csv", "1,2,3")
    adopter.write(FILE, SUITE)
    return adopter


class Listener:
    """Something that takes connections, and counts and keeps them."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._kept: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._kept.append(self._server.accept()[0])

    @property
    def count(self) -> int:
        return len(self._kept)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
        for connection in self._kept:
            connection.close()


@pytest.fixture
def service() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


def test_a_good_start_and_a_refused_one(shop: Adopter, service: Listener) -> None:
    """Both are asked before the server starts; the one that does not hold blocks it, and says what to do."""
    started = shop.spawn(
        str(shop.installed / "bin" / "preflight"), "--port", str(shop.port),
        environ={"SERVICE": service.address},
    ).until_says(READY)  # fmt: skip
    assert shop.check("Service")["message"] == f"{service.address} accepts connections"
    assert shop.check("Data")["outcome"] == "passed"
    assert service.count == 1
    assert started.stop() == 0

    nobody = f"127.0.0.1:{unused_port()}"
    refused = shop.command("--port", str(shop.port), environ={"SERVICE": nobody})
    assert refused.process.returncode == 1
    assert BLOCKED in refused.stdout
    assert f"{nobody}: connection refused: nothing listens there" in refused.stdout
    assert "start the service" in refused.stdout


def test_a_variable_that_is_not_set(shop: Adopter) -> None:
    """It is named, with the place where it is to be set.

    Annotations and the report lead to where the requirement is made, and not to what makes it.
    """
    done = shop.command("--check-only", "--port", str(shop.port), "--format", "github")
    found = shop.check("Service")
    assert found["id"] == f"{FILE}::test_service"
    assert (found["outcome"], found["message"]) == ("failed", "SERVICE is not set")
    assert found["fix"].startswith("set SERVICE in ")
    assert f"::error file={FILE},line=3,title=Service::" in done.stdout, done.output
    listed = shop.pytest("preflight_suite", "--collect-only", "-q")
    assert f"{FILE}::test_service" in listed.stdout


@pytest.mark.parametrize(
    "selected, left", [(["-k", "service"], "Service"), (["-m", "warning"], "Data"), ([f"{FILE}::test_data"], "Data")]
)
def test_selection(shop: Adopter, service: Listener, selected: list[str], left: str) -> None:
    """They are pytest's items: -k, -m and an id select them, and nobody else is asked."""
    arguments = selected if "::" in selected[0] else ["preflight_suite", *selected]
    done = shop.pytest(*arguments, environ={"SERVICE": service.address})
    assert done.process.returncode == 0, done.output
    assert "1 passed" in done.stdout
    assert [check["title"] for check in shop.report()["checks"]] == [left]
    assert service.count == (left == "Service")


def test_offline(shop: Adopter, service: Listener) -> None:
    """--offline leaves out those that ask over the network, and their probes are not even begun."""
    found = shop.finding("Service", "--offline", SERVICE=service.address)
    assert (found["outcome"], found["message"]) == ("not_applicable", "left out by --offline")
    assert service.count == 0
    assert shop.check("Data")["outcome"] == "passed"


def test_ignoring(shop: Adopter) -> None:
    """--ignore lets one that fails pass, by title or id, with its message."""
    shop.write(FILE, f'{SUITE}test_other = ready.file("nowhere.csv", title="Other")\n')
    found = shop.finding("Service", "--ignore", "Service", "--ignore", f"{FILE}::test_other")
    assert found["outcome"] == "ignored"
    assert "SERVICE is not set" in found["message"]
    found = shop.check("Other")
    assert found["outcome"] == "ignored"
    assert "nowhere.csv" in found["message"]


LOST = """
service = ready.tcp("SERVICE")
ready.tcp("SERVICE")
test_again = ready.tcp("SERVICE")
test_again = ready.file("data.csv")
test_list = [ready.tcp("SERVICE")]
test_other = ready.folder(".", title="Other")
"""


def test_one_that_is_not_asked_breaks_the_run(shop: Adopter) -> None:
    """It stands in the suite and has no name of its own: nothing starts, and its line is named.

    Another name, none, one that is taken away by a second one, and a list.
    """
    shop.write(FILE, SUITE.rstrip() + LOST)
    done = shop.command("--port", str(shop.port))
    assert done.process.returncode == 3, done.output
    assert BROKE in done.stdout
    named = re.findall(rf"{FILE}:(\d+): a ready-made requirement \(assign it to a name of its own", done.stdout)
    assert {int(line) for line in named} == {5, 6, 7, 9}
    plain = shop.pytest("preflight_suite", environ={"SERVICE": "127.0.0.1:9"})
    assert plain.process.returncode != 0


def test_a_value_instead_of_a_name_is_refused(shop: Adopter) -> None:
    """It is said what is wanted instead."""
    secret = "sk-canary-Zq7vXw2LmN8pRt4KdY6hJb3F"
    shop.write(FILE, f'{SUITE}test_key = ready.api_key("{secret}", "openai")\n')
    done = shop.command("--port", str(shop.port))
    assert done.process.returncode == 3, done.output
    assert "a requirement takes the name of a variable, DATABASE_URL say, and never its value" in done.output
    assert secret not in shop.report()["reason"]


RECORDS = """
import os, pathlib, sys, time
def record(): open({pids!r}, "a").write(f"{{os.getpid()}}\\n")
record()
"""
HANGING = (
    RECORDS
    + """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        record()
        time.sleep(600)
    os._exit(0)
time.sleep({seconds})
print("tool 1.0")
"""
)
LEAVES = {
    "hangs": ("ready.executable('{tool}', title='hangs', timeout=2.0)", 600, " within 2 s"),
    "lets something go on": ("ready.executable('{tool}', title='lets something go on', timeout=60.0)", 0, "1.0"),
    "is an MCP server that hangs": (
        "ready.mcp_server(['{tool}'], title='is an MCP server that hangs', timeout=15.0)",
        600,
        "no answer within 15 s",
    ),
}
"""What a program does, the requirement that asks it, how long it goes on, and what is said."""


@pytest.mark.parametrize("way", ["command", "pytest"])
def test_no_process_is_left(shop: Adopter, way: str, tmp_path: Path) -> None:
    """Neither the program, which takes no SIGTERM, nor what has left it, its group and its session."""
    lines = ["from preflight import ready"]
    for number, (source, seconds, _said) in enumerate(LEAVES.values()):
        tool = tmp_path / f"tool{number}"
        tool.write_text(f"#!{sys.executable}\n{HANGING.format(pids=f'{tool}.pids', seconds=seconds)}")
        tool.chmod(0o755)
        lines.append(f"test_tool_{number} = {source.format(tool=tool)}")
    shop.write(FILE, "\n".join(lines) + "\n")
    if way == "command":
        shop.command("--check-only", "--port", str(shop.port))
    else:
        shop.pytest("preflight_suite")
    started = []
    for number, (title, (_source, _seconds, said)) in enumerate(LEAVES.items()):
        assert said in shop.check(title)["message"]
        pids = [int(line) for line in (tmp_path / f"tool{number}.pids").read_text().split()]
        assert len(pids) == 2, title
        started += pids
    until(lambda: not any(map(alive, started)), "every process that a probe has started has gone", 10)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


EVERY = """from preflight import ready
from preflight.making import Ask, requirement

def raises(name):
    def probe(ask: Ask): raise ValueError(f"no such thing: {ask.value}")
    return requirement(probe, lambda answer, details: None, title=f"Raises {name}", doc="It holds.", variable=name)

def shows(name):
    def judge(answer, details):
        details["answer"] = answer
        assert False, f"it is {answer}"
    return requirement(lambda ask: ask.value, judge, title=f"Shows {name}", doc="It holds.", variable=name)
"""
FACTORIES = {
    "api_key": "ready.api_key({name}, 'anthropic', base='http://127.0.0.1:9'",
    "model": "ready.model({name}, 'm', provider='mistral', base='http://127.0.0.1:9'",
    "local": "ready.model({name}, 'm', provider='ollama'",
    "vllm": "ready.model({name}, 'm', provider='vllm'",
    "model_file": "ready.model_file(variable={name}",
    "mcp_server": "ready.mcp_server({name}",
    "postgres": "ready.postgres({name}",
    "redis": "ready.redis({name}",
    "sqlite": "ready.sqlite(variable={name}",
    "http": "ready.http({name}",
    "tcp": "ready.tcp({name}",
    "tls": "ready.tls({name}",
    "file": "ready.file(variable={name}",
    "folder": "ready.folder(variable={name}",
    "variable": "ready.variable({name}, matches='x'",
    "settings": "ready.variable({name}, settings='shop_settings:Settings'",
    "raises": "raises({name}",
    "shows": "shows({name}",
}
SETTINGS = """
import os
from pydantic_settings import BaseSettings
class Settings(BaseSettings):
    quotes_key: int
    database_url: int
    def __init__(self):
        super().__init__()
"""


def test_no_factory_shows_a_value(shop: Adopter) -> None:
    """Twelve kinds of secret go through all of them, each as what the variable of each could hold by mistake."""
    pytest.importorskip("pydantic_settings")
    secrets = dict(list(CANARIES.items())[:12])
    # A name that gives nothing away: that it is a secret is known from the requirement alone.
    values = {f"PLAIN_{number}": value for number, value in enumerate(secrets.values())}
    values |= {"QUOTES_KEY": secrets["QUOTES_KEY"]}  # for the class, which is made once: that takes a second
    lines = [EVERY]
    for number, name in enumerate(values):
        for word, call in FACTORIES.items():
            if (word == "settings") != (name == "QUOTES_KEY"):
                continue
            title = "" if word in ("raises", "shows") else f", title='{word} {number}'"
            lines.append(f"test_{word}_{number} = {call.format(name=repr(name))}{title})")
    shop.write(FILE, "\n".join(lines) + "\n")
    shop.write("shop_settings.py", SETTINGS)
    done = shop.command(
        "--check-only", "--port", str(shop.port), "-v", environ={**values, "PREFLIGHT_RUN_TIMEOUT": "300"}
    )
    assert done.process.returncode == 1, done.output
    texts = {"output": done.output, **{str(path): path.read_text() for path in shop.state.rglob("*") if path.is_file()}}
    assert len(shop.report()["checks"]) > 12 * (len(FACTORIES) - 1)
    assert shop.check("settings 12")["message"] == (
        "shop_settings:Settings refuses the environment: quotes_key (int_parsing), database_url (missing)"
    )
    for where, text in texts.items():
        for value in secrets.values():
            for part in {value, value.strip(), value.splitlines()[0]}:
                assert part not in text, f"{where} shows {part!r}"
        assert "p%40ss%2Fw0rd" not in text
        assert "p@ss/w0rd" not in text
