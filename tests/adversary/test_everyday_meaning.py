"""What happens any day, without malice: files that tools leave, careless requirements, closed pipes, scanners, keys."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import requests
from websockets.sync.client import connect

from preflight.redaction import arguments
from preflight.redaction.redactor import Redactor
from tests.adversary.suites import checked
from tests.e2e.doubles import Answer, Providers
from tests.e2e.place import KEYS, Place, Started, equip, get
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.usefixtures("unmeasured")

DEMO = ("--demo", "--app", "small:app")
TOKEN = "Zq7vXw2LmN8pRt4KdY6h"
WORD = "hunter2pw"
HEAD = "import pytest\n"
HOLDS = (
    '@pytest.mark.critical("Holds")\ndef test_holds(settings):\n    """It holds."""\n    assert settings.port != 1\n'
)
FAILS = '@pytest.mark.critical("{0}")\ndef test_{1}(settings):\n    """It fails."""\n    assert settings.port == 1\n'
FALSE = FAILS.format("Fails", "fails")


def plain(project: Place, *arguments: str, cwd: Path | None = None) -> Started:
    command = [sys.executable, "-m", "pytest", *arguments, "--demo", f"--port={project.port}"]
    one = project.spawn(*command, environ={"PREFLIGHT_APP": "small:app"}, cwd=cwd)
    one.wait()
    return one


# Files that pytest or Python reads, and that somebody else has left.

CONFIGURATIONS = {
    "pytest.toml": '[pytest]\naddopts = ["-k", "holds"]\npython_functions = ["holds_*"]\n',
    ".pytest.toml": '[pytest]\naddopts = ["--collect-only"]\n',
    ".pytest.ini": "[pytest]\naddopts = --setup-only\n",
    "tox.ini": "[pytest]\naddopts = --collect-only\npython_functions = nothing\n",
    "setup.cfg": "[tool:pytest]\naddopts = --deselect preflight/requirements/test_suite.py::test_fails\n",
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configuration_that_another_tool_has_left(project: Place, name: str) -> None:
    """A file that pytest reads before, beside or instead of pytest.ini: a check asks what it asked before."""
    project.write_suite(HEAD + HOLDS + FALSE)
    (project.root / name).write_text(CONFIGURATIONS[name])
    assert checked(project).process.returncode == 1
    assert {check["title"]: check["outcome"] for check in project.report()["checks"]} == {
        "Holds": "passed",
        "Fails": "failed",
    }
    if name == "pytest.toml":  # which takes the place of pytest.ini
        one = plain(project, "preflight")
        assert one.process.returncode != 0, one.output


@pytest.mark.parametrize("where", ["elsewhere", "elsewhere, said", "inside", "deeper"])
def test_a_job_with_another_working_directory(project: Place, where: str) -> None:
    """Plain pytest is one run wherever it is called, whatever stands in the folder that it is called from."""
    project.write_suite(HEAD + HOLDS + FALSE)
    elsewhere = project.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "pytest.ini").write_text("[pytest]\naddopts = --collect-only\n")
    (elsewhere / "conftest.py").write_text("collect_ignore_glob = ['*']\n")
    path = str(project.root / "preflight")
    calls: dict[str, tuple[Path, list[str]]] = {
        "elsewhere": (elsewhere, [path]),
        "elsewhere, said": (elsewhere, [f"--rootdir={elsewhere}", path]),
        "inside": (project.root / "preflight", ["."]),
        "deeper": (project.root / "preflight" / "requirements", ["test_suite.py"]),
    }
    cwd, options = calls[where]
    one = plain(project, *options, cwd=cwd)
    assert one.process.returncode == 1, one.output
    assert project.check("Fails")["outcome"] == "failed"


def test_packages_of_the_same_names_on_the_path(project: Place) -> None:
    """PYTHONPATH leads to packages that are called like ours: ours are asked."""
    project.write_suite(HEAD + HOLDS + FALSE)
    for name in ("preflight", "server", "conftest", "tests", "psutil"):
        (project.folder / "modules" / name).mkdir()
        (project.folder / "modules" / name / "__init__.py").write_text("raise SystemExit(0)\n")
    one = checked(project)
    assert one.process.returncode == 1, one.output
    assert project.check("Fails")["outcome"] == "failed"


def test_requirements_that_are_written_in_other_ways(project: Place) -> None:
    """Other encodings, a mark of byte order, CR LF, tabs, a form feed, other letters, the same name twice: asked."""
    project.write_suite(HEAD + HOLDS)
    folder = project.root / "preflight" / "requirements"
    titles = ("Latin", "Mark", "Lines", "Letters", "Deeper")
    body = dict(zip(titles, (HEAD + FAILS.format(title, "it") for title in titles), strict=True))
    latin = f"# -*- coding: latin-1 -*-\n# Schl\u00fcssel\n{body['Latin']}"
    (folder / "test_latin.py").write_bytes(latin.encode("latin-1"))
    (folder / "test_mark.py").write_bytes(b"\xef\xbb\xbf" + body["Mark"].encode())
    (folder / "test_lines.py").write_bytes(body["Lines"].replace("\n", "\r\n").encode())
    (folder / "test_schl\u00fcssel.py").write_text(
        f"#!/usr/bin/env python\n\f\n{body['Letters']}".replace("    ", "\t")
    )
    (folder / "deeper").mkdir()
    (folder / "deeper" / "test_suite.py").write_text(body["Deeper"])
    one = checked(project)
    assert one.process.returncode == 1, one.output
    assert {title: project.check(title)["outcome"] for title in titles} == dict.fromkeys(titles, "failed")


@pytest.mark.parametrize(
    "file", ["pyproject.toml", "pytest.ini", "conftest.py", "preflight/requirements/test_suite.py", "the env file"]
)
def test_a_merge_that_nobody_has_finished(project: Place, file: str) -> None:
    """Marks of a conflict in a file: refused, with the file's name."""
    if file != "the env file":
        project.write_suite(HEAD + HOLDS)
    project.write_env_file(**KEYS)
    path = project.env_file if file == "the env file" else project.root / file
    text = path.read_text()
    path.write_text(f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> theirs\n")
    one = project.run("--app", "small:app", "--check-only", "--offline", PREFLIGHT_PYTHON=">=3.11")
    assert one.process.returncode in (1, 2, 3), one.output
    assert path.name in one.output
    assert not any(key in one.output for key in KEYS.values())
    assert "Traceback" not in one.output.partition("The end of its output")[0]


# Requirements of careless authors.

TUPLES = {
    "in the requirement": '    assert (settings.port == 1, "it is not")\n',
    "of constants": '    assert (False, "never")\n',
    "deep inside": (
        "    for _ in range(3):\n        if settings:\n            assert (\n"
        '                not settings,\n                "no"\n            )\n'
    ),
}


@pytest.mark.parametrize("how", TUPLES)
def test_an_assertion_that_cannot_fail(project: Place, how: str) -> None:
    """``assert (x, "no x")`` holds whatever x is: nothing is asked, and the run is broken and names the line."""
    listener = project.listener()
    source = HEAD + HOLDS + '@pytest.mark.critical("R")\ndef test_r(settings):\n    """R."""\n' + TUPLES[how]
    project.write_suite(source)
    line = 1 + source[: source.rindex("assert")].count("\n")
    for one in (project.run(*DEMO), plain(project, "preflight")):
        assert one.process.returncode not in (0, 1), one.output
        assert f"test_suite.py:{line}: asserts a tuple" in one.output
    assert listener.process.poll() is None


def test_an_assertion_of_a_helper_that_cannot_fail(project: Place) -> None:
    """Nor does one that a requirement has from a helper of the suite; two conditions in parentheses are none."""
    project.write_suite(HEAD + "from preflight.requirements.helper import see\n" + HOLDS + "    see(settings)\n")
    helper = project.root / "preflight" / "requirements" / "helper.py"
    helper.write_text('def see(it):\n    assert (it.port == 1, "it is not")\n')
    one = checked(project)
    assert one.process.returncode == 3, one.output
    assert "helper.py:2: asserts a tuple" in one.output
    helper.write_text(
        'def see(it):\n    assert (it.port != 1 and\n        it), ("it is", "not")\n    assert ()  == ()\n'
    )
    assert checked(project).process.returncode == 0


MEDDLES = {
    "what files get": "import os; os.umask(0); os.chdir('/'); os.environ.clear()",
    "the clock": "import time; time.time = lambda: 0.0",
    "the monotonic clock": "import time; time.monotonic = lambda: 0.0",
    "modules": "import builtins, io, sys; builtins.open = lambda *a: io.StringIO(''); sys.modules.pop('json', None)",
    "its streams": "import os; os.close(1); os.close(2)",
    "descriptors that are not its own": "import os; os.closerange(3, 100)",
    "json": "import json; json.dumps = lambda *a, **k: '{}'",
    "what it may open and write": (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (5, 5)); r.setrlimit(r.RLIMIT_FSIZE, (0, 0))"
    ),
    "time of the processor": "import resource as r; r.setrlimit(r.RLIMIT_CPU, (1, 2))\n    while True:\n        pass",
    "how Python looks on": (
        "import sys, threading as t; t.excepthook = sys.excepthook = lambda *a: None; sys.setrecursionlimit(120)\n"
        "    sys.settrace(None); sys.setprofile(None); t.settrace(None); sys.path.clear()"
    ),
}


@pytest.mark.parametrize("what", MEDDLES)
def test_a_requirement_that_changes_what_is_around_it(project: Place, what: str) -> None:
    """And does not change it back: those after it are asked, or the run is broken; the report is the user's alone."""
    project.write_suite(
        f'{HEAD}import threading\n@pytest.mark.critical("Meddles")\ndef test_a():\n    """It."""\n'
        f"    {MEDDLES[what]}\n{HOLDS}{FALSE}"
        '@pytest.mark.critical("Thread")\ndef test_thread():\n    """It."""\n'
        "    def no():\n        assert False\n"
        "    thread = threading.Thread(target=no)\n    thread.start()\n    thread.join()\n"
    )
    one = checked(project)
    assert one.process.returncode in (1, 3), one.output
    report = project.report()
    assert report["may_start"] is False
    outcomes = {check["title"]: check["outcome"] for check in report["checks"]}
    if one.process.returncode == 1:
        assert outcomes["Holds"] == "passed"
        assert outcomes["Fails"] == "failed"
        assert outcomes["Thread"] in ("failed", "error")
    assert project.report_file.stat().st_mode & 0o777 == 0o600


def test_checks_of_different_things_at_once(place: Place) -> None:
    """Four checks in one state folder: each ends with its own verdict, and prints its own report."""
    place.write_module("bad", "raise RuntimeError('no')\n")
    apps = ("bad:app", "small:app", "bad:app", "small:app")
    checks = [place.start("--demo", "--app", app, "--check-only", "--format", "json") for app in apps]
    assert [one.wait() for one in checks] == [1, 0, 1, 0]
    assert [json.loads(one.stdout)["preflight"]["status"] for one in checks] == ["failed", "passed"] * 2


# Outputs that nobody reads.


@pytest.mark.parametrize("stream", ["a socket", "standard error alone"])
def test_a_loud_application_whose_output_nobody_reads(place: Place, stream: str) -> None:
    """As a service manager's socket, or a supervisor that reads one of two pipes: it serves, and it ends."""
    place.write_module(
        "loud", "import sys\nfor _ in range(4000):\n    print('x' * 100, file=sys.stderr)\nfrom small import app\n"
    )
    command = [sys.executable, "run.py", "--demo", "--app", "loud:app", "--port", str(place.port)]
    with contextlib.ExitStack() as held:
        if stream == "a socket":
            one, other = socket.socketpair()
            held.callback(other.close)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            out, err = one.fileno(), one.fileno()
            close = one.close
        else:
            reading, writing = os.pipe()
            held.callback(os.close, reading)
            out, err = held.enter_context((place.folder / "out").open("w")).fileno(), writing

            def close() -> None:
                os.close(writing)

        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=place.environ,
            cwd=place.root,
            start_new_session=True,
        )
        held.callback(process.kill)
        close()
        until(lambda: serves(place), "it serves")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def serves(place: Place) -> bool:
    with contextlib.suppress(OSError):
        return get(place.url)[0] == 200
    return False


def test_pipelines_that_end_early(place: Place) -> None:
    """A verdict does not depend on who reads it, what only shows something ends, and nobody sees a traceback."""
    place.write_module("bad", "raise RuntimeError('no')\n")
    bad = ["--check-only", "--demo", "--app", "bad:app"]
    asked: list[tuple[list[str], set[int]]] = [
        (bad, {1, 141}),
        ([*bad, "--format", "json"], {1, 141}),
        (["--port-status"], {0, 141}),
        (["--bundle", str(place.folder / "bundle.zip")], {0, 141}),
    ]
    errors = place.folder / "errors"
    for options, codes in asked:
        for reader in ("true",):
            command = f'"$@" 2>{errors} | {reader}; exit ${{PIPESTATUS[0]}}'
            words = [sys.executable, "run.py", "--port", str(place.port), *options]
            ended = subprocess.run(
                ["bash", "-c", command, "bash", *words], cwd=place.root, env=place.environ, timeout=60, check=False
            )
            assert ended.returncode in codes, (options, reader, errors.read_text())
            assert "Traceback" not in errors.read_text()
            assert "Exception ignored" not in errors.read_text()


# Clients and services that speak otherwise.

PROTOCOLS = {
    "a proxy's first line": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a proxy's first bytes": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\1\x7f\0\0\1\0\1\0\2GET / HTTP/1.1\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(200),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "mail": b"EHLO x\r\n",
    "Redis": b"*1\r\n$4\r\nPING\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "a remote desktop": b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\1\0\x08\0\3\0\0\0",
    "a file server": b"\0\0\0\x85\xffSMBr",
    "HTTP/0.9": b"GET /\r\n",
    "telephones": b"OPTIONS sip:nm SIP/2.0\r\nVia: SIP/2.0/TCP nm\r\n\r\n",
    "cameras": b"OPTIONS / RTSP/1.0\r\n\r\n",
    "names": b"\0\x1e\0\6\1\0\0\1\0\0\0\0\0\0\7version\4bind\0\0\x10\0\3",
    "objects of Java": b"\xac\xed\0\5",
    "MQTT": b"\x10\x0c\0\4MQTT\4\2\0<\0\0",
}


def test_a_scanner_of_ports(place: Place) -> None:
    """Whatever it says, and where it hangs up at once, it is refused or closed, and writes next to nothing."""
    log = place.folder / "server.log"
    started = place.start("--demo", "--log-file", str(log), PREFLIGHT_TOKEN=TOKEN * 2).until_ready()
    before = log.stat().st_size
    for name, data in PROTOCOLS.items():
        for _ in range(10):
            answer = b""
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", place.port), 20) as client:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                while more := client.recv(4096):
                    answer += more
            assert not answer or answer.startswith(b"HTTP/1.1 4"), (name, answer)
    for _ in range(300):
        client = socket.create_connection(("127.0.0.1", place.port), 20)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    assert get(f"{place.url}/health")[0] == 200
    assert started.stop() == 0
    assert log.stat().st_size - before < 4000
    assert "Traceback" not in started.output + log.read_text()


def test_odd_addresses(place: Place) -> None:
    """Numbers without end, other digits, NUL, ways upwards, bytes that are no text: answered, and never with 500."""
    started = place.start("--demo").until_ready()
    number = "9" * 5000
    for path in (
        f"/diagnostics/history?limit={number}",
        "/diagnostics/history?limit=-1",
        "/diagnostics/history?limit=1e3",
        "/diagnostics/history?limit=%D9%A1",
        f"/sessions?limit={number}",
        "/sessions/%00",
        "/sessions/..%2f..%2freport.json",
        f"/diagnostics/run/{'a' * 3000}",
        "/diagnostics/run/%ff%fe",
        "/metrics?x=" + "%0a" * 50,
        "//evil/x",
        "/diagnostics?x=%ED%A0%80",
    ):
        assert requests.get(place.url + path, timeout=PATIENCE).status_code in (200, 400, 404), path
    assert started.stop() == 0
    assert "Traceback" not in started.output


FORGED: list[object] = [
    "../../etc/passwd", "a" * 5000, "\u202e\x1b[31m", 7, None, ["x"], {"a": 1}, "", "0" * 32, True, float("inf"),
]  # fmt: skip


def test_clients_of_the_chat_that_come_and_go(place: Place) -> None:
    """A hundred of them leave nothing open, and whoever names a session that is not there gets one of its own."""
    started = place.start("--demo").until_ready()
    address = f"ws://127.0.0.1:{place.port}/ws/chat"
    for _ in range(100):
        with connect(address) as client:
            client.send(json.dumps({"type": "init"}))
    for forged in FORGED:
        with connect(address) as client:
            client.send(json.dumps({"type": "init", "session_id": forged}))
            given = json.loads(client.recv(20))["session_id"]
            said = json.loads(client.recv(20))
            assert said["type"] == "error" or (said["session_id"], said["resumed"]) == (given, False)
            assert given != forged
    until(lambda: '"active_connections":0' in get(f"{place.url}/health")[1], "nobody is connected")
    assert started.stop() == 0
    assert "Traceback" not in started.output


class Inflated(BaseHTTPRequestHandler):
    """An answer that becomes more than a gigabyte."""

    def do_GET(self) -> None:
        data = gzip.compress(bytes(32 << 20))
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(40):
                self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Talks(Inflated):
    """Headers without end."""

    def do_GET(self) -> None:
        self.send_response(200)
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"X-A: " + b"b" * 1000 + b"\r\n")


@pytest.fixture(params=[Inflated, Talks])
def service(request: pytest.FixtureRequest) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), request.param)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_service_whose_answer_has_no_end(place: Place, providers: Providers, service: str) -> None:
    """It is no proof of anything, and costs neither memory nor the run."""
    equip(place, providers)
    one = place.start("--check-only", OPENAI_BASE_URL=service, PREFLIGHT_REQUIREMENT_TIMEOUT="20s")
    most = 0
    while one.process.poll() is None:
        for pid in [one.pid, *one.family()]:
            with contextlib.suppress(psutil.Error):
                most = max(most, psutil.Process(pid).memory_info().rss)
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.process.wait(0.05)
    one.wait()
    assert place.check("OpenAI API")["outcome"] != "passed"
    assert most < 300 << 20


def test_a_service_that_sends_somewhere_else_and_repeats_the_key(place: Place, providers: Providers) -> None:
    """The key goes nowhere else, and what is repeated makes neither a colour nor an annotation of its own."""
    equip(place, providers)
    other = Providers()
    try:
        providers.openai = Answer(307, {"Location": other.variables["OPENAI_BASE_URL"]})
        keys = " ".join(KEYS.values())
        providers.perplexity = Answer(401, body=f"\x1b[31mIncorrect key {keys}\r\n::error::forged")
        one = place.run("--check-only", "--format", "github")
        assert other.requests == []
    finally:
        other.close()
    assert not any(key in one.output + place.report_file.read_text() for key in KEYS.values())
    assert "::error::forged" not in one.output.splitlines()
    assert "\x1b" not in one.output


# Secrets that are written as people write them.

LINES = {
    "as YAML": f"MY_TOKEN: {TOKEN}\n",
    "with a quote that stays open": f'MY_TOKEN="{TOKEN}\n',
    "as JSON": f'{{"MY_TOKEN": "{TOKEN}"}}\n',
    "as a setting with a wrong name": f"PREFLIGHT_TOKN={TOKEN}\n",
    "in another encoding": f"# caf\udce9\nMY_TOKEN={TOKEN}\n",
}


def test_lines_of_the_env_file_that_are_none(place: Place, providers: Providers) -> None:
    """They are refused by their number, and neither message nor report has what stands in them."""
    equip(place, providers)
    text = place.env_file.read_text()
    for how, line in LINES.items():
        place.env_file.write_text(text + line, errors="surrogateescape")
        one = place.run("--app", "small:app", "--check-only", "--offline")
        assert one.process.returncode in (1, 2), (how, one.output)
        assert ".env:3" in one.output, how
        report = place.report_file.read_text() if place.report_file.exists() else ""
        assert TOKEN not in one.output + report, how


TELEGRAM = f"123456789:AA{TOKEN}abcdefgh12345"
SLACK = f"services/T0AAAAAAA/B0BBBBBBB/{TOKEN}abcd"
TEAMS = f"0a1b2c3d-0000-1111-2222-333344445555@0a1b2c3d-0000-1111/IncomingWebhook/{TOKEN}/0a1b2c3d-4444-5555"
DISCORD = f"webhooks/1234567890123/{TOKEN * 3}abcdefgh"


@pytest.mark.parametrize(
    "address, secret",
    [
        (f"https://hooks.slack.com/{SLACK}", SLACK),
        (f"https://discord.com/api/{DISCORD}", DISCORD),
        (f"https://discordapp.com/api/v10/{DISCORD}?wait=true", DISCORD),
        (f"https://shop.webhook.office.com/webhookb2/{TEAMS}", f"webhookb2/{TEAMS}"),
        (f"https://chat.example.org/hooks/{TOKEN}abcd", f"hooks/{TOKEN}abcd"),
        (f"https://api.telegram.org/bot{TELEGRAM}/sendMessage", TELEGRAM),
    ],
)
@pytest.mark.parametrize("variable", ["ALERTS_URL", "RECEIVERS"])
def test_addresses_at_which_anybody_can_write(variable: str, address: str, secret: str) -> None:
    """A webhook and a bot's address are known by their looks, as a library says them, and in others' command lines."""
    redactor = Redactor.of_variables({variable: address})
    for said in (f"POST {address}", f"Max retries exceeded with url: /{secret} (Caused by ...)", repr(address)):
        assert TOKEN not in redactor.text(said)
    assert TOKEN not in arguments.shown(["relay", "--to", address])
    assert TOKEN not in arguments.shown(["relay", f"--config=receivers: [{address}]"])


def test_what_is_like_such_an_address_stays() -> None:
    """Pages about them, numbers with colons, images: readable."""
    command = [
        "x", "https://hooks.slack.com/", "https://api.slack.com/messaging/webhooks", "https://discord.com/api/webhooks",
        "https://shop.example.org/hooks/stripe/payment-intent-succeeded", "https://learn.example.com/webhookb2/",
        "12345:Another", "10:20:30", "registry:5000/app@sha256:" + "ab" * 32,
    ]  # fmt: skip
    assert arguments.shown(command) == " ".join(command)


SERVERS = {
    "a model": ["vllm", "serve", "m", "--port", "8002", "--api-key", WORD],
    "a cache": ["redis-server", "--requirepass", WORD, "--masterauth", WORD],
    "a notebook": ["jupyter", "lab", f"--ServerApp.token={WORD}", f"--IdentityProvider.token={WORD}"],
    "a vault": ["vault", "server", "-dev", f"-dev-root-token-id={WORD}"],
    "a terminal": ["ttyd", "--credential", f"me:{WORD}", "bash"],
    "a file server": ["rclone", "rcd", "--rc-user", "me", "--rc-pass", WORD],
    "a message broker": ["nats-server", "--user", "me", "--pass", WORD],
    "a search": ["meilisearch", "--master-key", WORD],
    "GraphQL": ["graphql-engine", "serve", "--admin-secret", WORD],
    "gunicorn": ["gunicorn", "-e", f"SECRET_KEY={WORD}", "--env", f"API_TOKEN={WORD}", f"-eDB_PASSWORD={WORD}"],
    "Java": ["java", f"-Dspring.datasource.password={WORD}", "-jar", "x.jar", f"--x.password={WORD}"],
    "a proxy": ["mitmdump", "--set", f"proxyauth=me:{WORD}", "--proxyauth", f"me:{WORD}"],
    "a relay": ["socat", "TCP-LISTEN:8002", f"PROXY:h:h:1,proxyauth=me:{WORD}"],
    "a page for a database": ["pgweb", "--pass", WORD, "--url", f"postgres://me:{WORD}@h/db"],
    "tasks": ["celery", "-b", f"redis://:{WORD}@h:6379/0", "flower", f"--basic-auth=me:{WORD}"],
    "a tunnel": ["ngrok", "http", "8002", "--authtoken", WORD, "--basic-auth", f"me:{WORD}"],
    "another tunnel": ["bore", "local", "8002", "--secret", WORD],
    "telephones": ["turnserver", "-u", f"me:{WORD}", f"--static-auth-secret={WORD}"],
    "a dashboard": ["grafana", f"cfg:default.security.admin_password={WORD}"],
    "an index": ["elasticsearch", f"-Ebootstrap.password={WORD}"],
    "a page behind a login": ["shell2http", f"-basic-auth=me:{WORD}"],
    "a shell": ["sh", "-c", f"PGPASSWORD={WORD} exec server --api-key {WORD} --port 1"],
    "a settings file": ["dotnet", "x.dll", f"--ConnectionStrings:Default=Server=h;Password={WORD};"],
}


@pytest.mark.parametrize("what", SERVERS)
def test_servers_that_were_given_a_password(what: str) -> None:
    """Who holds the port is shown without it, in the ways of well-known servers."""
    assert WORD not in arguments.shown(SERVERS[what])


CONFIGURATION = {
    "Azure": (
        "AZURE_STORAGE_CONNECTION_STRING",
        f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={TOKEN}==;X=y",
    ),
    "a signed address": ("BLOB_URL", f"https://a.blob.example.org/c?sv=2020&sig={TOKEN}%2F&se=2030"),
    "Docker": ("DOCKER_AUTH_CONFIG", json.dumps({"auths": {"r": {"auth": "bWU6WnE3dlh3MkxtTjhwUnQ0S2RZNmg="}}})),
    "telemetry": ("OTEL_EXPORTER_OTLP_HEADERS", f"x-tenant=prod,api-key={TOKEN}"),
    "Streamlit": ("STREAMLIT_SECRETS", f'[db]\npassword = "{TOKEN}"\nuser = "me"'),
    "YAML": ("APP_CONFIG", f"db:\n  password: {TOKEN}\n  user: me"),
    "YAML in a line": ("APP_CONFIG", f"{{db: {{password: {TOKEN}, user: me}}}}"),
    "Kafka": ("KAFKA_SASL_JAAS_CONFIG", f'x.PlainLoginModule required username="me" password="{TOKEN}";'),
    "Java": ("JAVA_TOOL_OPTIONS", f"-Xmx1g -Dspring.datasource.password={TOKEN}"),
    "Oracle": ("SPRING_DATASOURCE_URL", f"jdbc:oracle:thin:me/{TOKEN}@//h:1521/x"),
    "git": ("GIT_CONFIG_PARAMETERS", f"'http.extraheader=AUTHORIZATION: bearer {TOKEN}'"),
    "a platform": ("VCAP_SERVICES", json.dumps({"pg": [{"credentials": {"uri": f"postgres://u:{TOKEN}@h/db"}}]})),
    "Amazon": ("AWS_SHARED", f"[default]\naws_access_key_id = A\naws_secret_access_key = {TOKEN}"),
    "an env file": ("DOTENV_CONTENT", f"A=1\nSTRIPE_KEY={TOKEN}\n"),
    "Python": ("APP_SETTINGS", f"{{'api_key': '{TOKEN}'}}"),
    "JavaScript": ("APP_CONFIG", f"{{apiKey: '{TOKEN}'}}"),
    "two to log in": ("FLOWER_BASIC_AUTH", f"you:1234,me:{TOKEN}"),
}


@pytest.mark.parametrize("what", CONFIGURATION)
def test_configuration_in_one_variable(what: str) -> None:
    """What an application reads out of it is known, whatever the notation."""
    name, value = CONFIGURATION[what]
    redactor = Redactor.of_variables({name: value})
    assert TOKEN not in redactor.text(f"connecting with {TOKEN} to h")
    assert TOKEN not in redactor.text(value)
