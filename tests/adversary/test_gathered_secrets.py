"""Secrets that configuration gathers, those of other programs, and requests that would get round a login."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shlex
import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preflight.redaction import arguments
from preflight.redaction.redactor import MASK, Redactor
from preflight.settings import loading
from preflight.web.endpoints import login
from preflight.web.fleet import FleetView
from preflight.web.instance import Instance
from tests.e2e.beside import PREFIX, TOKEN, serve
from tests.e2e.place import Place, Started, make_place

ONE, TWO, THREE = "tk_9f8e7d6c5b4a3210", "Zq7vXw2LmN8pRt4KdY6h", "q8R2mX5vT1nB7kL4wZ9y"
WORD = "hunter2pw"

GATHERED: dict[str, tuple[str, str]] = {
    "a list of YAML": ("APP_CONFIG", f"server:\n  port: 80\nauth:\n  tokens:\n    - {ONE}\n    - {TWO}\n"),
    "a list of YAML in its key's column": ("APP_CONFIG", f"server: x\napi_keys:\n- {ONE}\n- '{TWO}'\nlog: info\n"),
    "a table of YAML": ("APP_CONFIG", f"port: 80\napi_keys:\n  production: {ONE}\n  staging: {TWO}\n"),
    "a text of YAML": ("APP_CONFIG", f"server:\n  port: 80\ntls:\n  client_secret: |\n    {ONE}\n    {TWO}\n"),
    "a list of TOML": ("APP_CONFIG", f'[a]\nport = 1\napi_keys = [\n  "{ONE}",\n  "{TWO}",\n]\n'),
    "a list of Python": ("APP_SETTINGS", f"{{'debug': 1, 'api_keys': ['{ONE}', '{TWO}']}}"),
    "a tuple of Python": ("APP_SETTINGS", f"{{'debug': 1, 'api_keys': ('{ONE}', '{TWO}')}}"),
    "a table of Python": ("APP_SETTINGS", f"{{'debug': 1, 'tokens': {{'a': '{ONE}', 'b': '{TWO}'}}}}"),
    "a list of JavaScript": ("APP_CONFIG", f"{{server: {{port: 1}}, apiKeys: ['{ONE}', '{TWO}']}}"),
    "arguments": ("JOB", json.dumps({"args": ["--token", ONE, "--db-password", TWO, "--verbose"]})),
    "headers": ("OTEL_EXPORTER_OTLP_HEADERS", f"x-tenant={ONE},x-honeycomb-team={TWO}"),
    "web keys": ("SIGNING_JWK", json.dumps({"kty": "oct", "kid": ONE, "k": TWO})),
    "shared keys": ("TUNNEL_PSKS", f"{ONE},{TWO}"),
    "a key of PGP": (
        "RELEASE",
        f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{ONE * 3}\n{TWO * 3}\n-----END PGP PRIVATE KEY BLOCK-----",
    ),
    "keys of services": ("LLM", f"gsk_{TWO}{THREE} lsv2_pt_{ONE[3:]}{ONE[3:]}_{ONE[3:]}"),
}


@pytest.mark.parametrize("how", GATHERED)
def test_what_configuration_gathers(how: str) -> None:
    """Each of several secrets in one variable is known, the second like the first, in plain and encoded."""
    variable, value = GATHERED[how]
    redactor = Redactor.of_variables({variable: value})
    whole = redactor.text(value)
    for secret in re.findall(rf"{ONE[3:]}|{TWO}|{THREE}", value):
        assert secret not in whole
        for form in (secret, base64.b64encode(secret.encode()).decode().rstrip("="), secret.encode().hex()):
            assert form not in redactor.text(f"connecting with {form} now")


def test_a_phrase_of_words() -> None:
    """A wallet's words are a secret together, and no word of them is one."""
    phrase = "legal winner thank year wave sausage worth useful legal winner thank yellow"
    redactor = Redactor.of_variables({"WALLET_MNEMONIC": phrase})
    assert redactor.text(f"opened with '{phrase}'") == f"opened with '{MASK}'"
    assert redactor.text("the winner of this year") == "the winner of this year"


HARMLESS = {
    "a list": ("APP_CONFIG", "auth:\n  hosts:\n    - db-1.example.org\n    - web-2.example.org\n", "db-1.example.org"),
    "what follows a list": (
        "APP_CONFIG", f"port: 80\napi_keys:\n  - {ONE}\nimage: registry.example.org/team/app:1.2.3\n",
        "registry.example.org/team/app:1.2.3",
    ),
    "beside a list": (
        "APP_SETTINGS", f"{{'a': 1, 'keys': ['{ONE}'], 'model': 'gpt-4o-mini-2024-07-18'}}", "gpt-4o-mini-2024-07-18",
    ),
    "prose": ("NOTES", "the keys are:\n  see the handbook\n  (ask the people on duty)\n", "ask the people on duty"),
    "arguments": ("JOB", json.dumps(["--token-file", "/run/token", "--name", "service-2024-07"]), "service-2024-07"),
    "headers": ("APP_HEADERS", "accept=application/json,user-agent=shop-frontend", "application/json shop-frontend"),
}  # fmt: skip


@pytest.mark.parametrize("what", HARMLESS)
def test_what_stands_beside_it_stays(what: str) -> None:
    """Hosts, images, models and words stay readable."""
    variable, value, harmless = HARMLESS[what]
    assert Redactor.of_variables({variable: value}).text(harmless) == harmless


COMMANDS = {
    "a terminal": ["gotty", "-c", f"me:{WORD}", "top"],
    "a tunnel": ["gost", f"-L=admin:{WORD}@:8080"],
    "a tunnel, in two words": ["gost", "-L", f"admin:{WORD}@:8080"],
    "gossip": ["consul", "agent", "-encrypt", WORD],
    "gossip, in one word": ["nomad", "agent", f"-encrypt={WORD}"],
    "a shared key": ["openssl", "s_server", "-psk", WORD, "-nocert"],
    "a shared key in a variable": ["env", f"SERVER_PSK={WORD}", "server"],
    "users": ["tinyauth", "--users", f"me:{WORD}"],
    "a tunnel, by a letter": ["ss-server", "-p", "8388", "-k", WORD, "-m", "aes-256-gcm"],
    "a login behind an address": ["pproxy", "-l", f"http+socks5://:8080#me:{WORD}"],
    "a login behind an address and its name": ["pproxy", f"--listen=http://:8080#me:{WORD}"],
    "a property": ["java", f"-Dpw={WORD}", "-jar", "shop.jar"],
    "a list of variables": ["server", "--config-json", json.dumps([{"name": "DB_PASSWORD", "value": WORD}])],
}


@pytest.mark.parametrize("what", COMMANDS)
def test_what_other_programs_were_given(what: str) -> None:
    """Who holds a port is shown without it."""
    assert WORD not in arguments.shown(COMMANDS[what])


@pytest.mark.parametrize(
    "command",
    [
        ["gunicorn", "-c", "python:shop.config", "shop:app"], ["nginx", "-c", "/etc/nginx.conf"],
        ["gunicorn", "-k", "uvicorn.workers.UvicornWorker", "shop:app"], ["gunicorn", "-k", "gevent", "shop:app"],
        ["apache2", "-k", "start"], ["curl", "-k", "-s"], ["server", "http://shop.example.org/page#chapter-2"],
        ["celery", "-c", "4"], ["vllm", "--seed", "42"], ["server", "-c", "localhost:8002"],
    ],
)  # fmt: skip
def test_what_other_programs_do(command: list[str]) -> None:
    """And with what says what it is."""
    assert arguments.shown(command) == shlex.join(command)


# What a tenant of the fleet's database has written.


def hostile(length: int) -> dict[str, Any]:
    """A report with a text of this length, of the kind that takes the most time and memory to redact."""
    check = {
        "id": "t.py::test_it", "title": "It", "requirement": "It holds.", "severity": "critical", "outcome": "failed",
        "message": "a\n" * (length // 2), "fix": "", "details": {}, "duration": 0.1,
    }  # fmt: skip
    section = {
        "schema": 1, "run_id": "a" * 32, "origin": "rerun", "status": "failed", "may_start": False,
        "started_at": "2026-01-02T03:04:05Z", "duration": 0.2, "selection": "all", "address": "10.0.0.3:8002",
        "reason": "", "python": "3.13.9", "machine": "Linux", "checks": [check],
    }  # fmt: skip
    return {"preflight": section}


def test_a_report_of_one_endless_text(tmp_path: Path) -> None:
    """It is said to be none before anybody looks for secrets in it; one as long as ours are is shown."""
    (tmp_path / "pyproject.toml").touch()
    fleet = FleetView(Instance(settings=loading.load(tmp_path, {"HOME": str(tmp_path), "A_KEY": ONE}), report=None))
    tracemalloc.start()
    try:
        found, why = asyncio.run(fleet.report(hostile(4_000_000)))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found, why) == (None, "no report of this instance is kept, or its report is too large")
    assert most < 20_000_000
    found, why = asyncio.run(fleet.report(hostile(2_000)))
    assert found is not None
    assert found["checks"]["It"]["message"].startswith("a\na\n")


# Requests beside an application.


@pytest.mark.parametrize(
    "target",
    [
        "/%2e%2e/app", "/%2E%2e/app", "/.%2e/app", "/%2e./app", "/docs/%2e%2e/%2e%2e/app", "/../app", "//../app",
        "/%2e%2e%2fapp",
    ],
)  # fmt: skip
def test_a_login_leads_nowhere_else(target: str) -> None:
    """A dot is a dot for browsers, however it is written: a link does not go up to a page of the application."""
    assert login.own_path(f"{PREFIX}{target}", PREFIX) == f"{PREFIX}/"
    assert login.own_path(f"{PREFIX}/diagnostics?format=html", PREFIX) == f"{PREFIX}/diagnostics?format=html"
    assert login.own_path(f"{PREFIX}/diagnostics/checks/Disk%20Space", PREFIX).endswith("Disk%20Space")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """An application with our routes beside it, and a token."""
    place: Place = make_place(tmp_path_factory.mktemp("guarded") / "place")
    started = serve(place, PREFLIGHT_TOKEN=TOKEN)
    yield started
    started.stop()
    place.close()


BASIC = base64.b64encode(f":{TOKEN}".encode()).decode()
OTHER_WAYS = {
    "another method in a header": "POST /x HTTP/1.1\r\nX-HTTP-Method-Override: GET\r\nX-Original-URL: {0}\r\n",
    "another path in a header": "GET /x HTTP/1.1\r\nX-Rewrite-URL: {0}\r\nX-Original-URL: {0}\r\n",
    "a prefix in a header": "GET /diagnostics HTTP/1.1\r\nX-Forwarded-Prefix: {4}\r\nScript-Name: {4}\r\n",
    "a token in the query": "GET {0}?token={1}&access_token={1} HTTP/1.1\r\n",
    "a token as a password": "GET {0} HTTP/1.1\r\nAuthorization: Basic {2}\r\n",
    "a token as a cookie": "GET {0} HTTP/1.1\r\nCookie: preflight_{3}_beside={1}; token={1}\r\n",
    "a token in two headers": "GET {0} HTTP/1.1\r\nAuthorization: Bearer x\r\nAuthorization: Bearer {1}\r\n",
    "a token in another header": "GET {0} HTTP/1.1\r\nProxy-Authorization: Bearer {1}\r\nX-Api-Key: {1}\r\n",
    "a code in a body": "POST /_preflight/login HTTP/1.1\r\nContent-Length: 6\r\nCookie: code={1}\r\n",
    "a nonce alone": "GET {0} HTTP/1.1\r\nX-Preflight-Nonce: {1}\r\n",
    "an upgrade": "GET {0} HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "who it is for": "GET {0} HTTP/1.1\r\nX-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\nX-Real-IP: ::1\r\n",
}  # fmt: skip


@pytest.mark.parametrize("how", OTHER_WAYS)
def test_a_token_counts_where_it_belongs(guarded: Started, how: str) -> None:
    """Neither a header that other servers go by nor a token in another place opens a route."""
    lines = OTHER_WAYS[how].format(f"{PREFIX}/diagnostics", TOKEN, BASIC, guarded.port, PREFIX)
    with socket.create_connection(("127.0.0.1", guarded.port), 30) as client:
        client.sendall(f"{lines}Host: 127.0.0.1:{guarded.port}\r\nConnection: close\r\n\r\ntoken=".encode())
        said = b""
        while data := client.recv(1 << 16):
            said += data
    assert said.startswith(b"HTTP/1.1 "), said
    assert b'"checks"' not in said
    assert b"set-cookie" not in said.lower()
    if "/x" not in lines and "GET /diagnostics" not in lines:
        assert said.split(b" ", 2)[1] in (b"400", b"401", b"403"), said
