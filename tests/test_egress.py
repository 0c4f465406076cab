"""The probe asks as the agent does: each case meets the same servers, certificates and proxies with both."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage
from langchain_openai.chat_models import _client_utils

from preflight.suite.probes import asking, egress, network
from server.agent import provider
from server.agent.failures import ProviderError
from tests.proxies import OPENSSL, Authority, Proxy, Service

ROOT = Path(__file__).parents[1]
KEY = "sk-canary-3f9a1c77e2Zq"
LONG = 30.0  # seconds; a test that takes so long is wrong
SENT = ("authorization", "openai-organization", "openai-project", "user-agent", "x-team", "accept")
SOCKS = importlib.util.find_spec("socksio") is not None

pytestmark = [
    pytest.mark.skipif(OPENSSL is None, reason="no openssl to make certificates with"),
    pytest.mark.usefixtures("few_authorities"),
]


@dataclass(frozen=True)
class World:
    """Everything that a case may name."""

    plain: Service
    secure: Service
    proxy: Proxy
    other: Proxy
    guarded: Proxy
    refusing: Proxy
    authority: Authority
    folder: Path
    nobody: int
    """A port that refuses connections."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def world(authority: Authority, tmp_path: Path) -> Iterator[World]:
    (tmp_path / "empty.pem").write_text("")
    with contextlib.ExitStack() as stack:
        bound = stack.enter_context(socket.socket())
        bound.bind(("127.0.0.1", 0))  # and does not listen: refused, and nobody else can have it
        yield World(
            plain=stack.enter_context(Service()),
            secure=stack.enter_context(Service(authority.certificate)),
            proxy=stack.enter_context(Proxy()),
            other=stack.enter_context(Proxy()),
            guarded=stack.enter_context(Proxy("me:s3cr3t-pass")),
            refusing=stack.enter_context(Proxy(refusal=403)),
            authority=authority,
            folder=tmp_path,
            nobody=bound.getsockname()[1],
        )


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's, and no client that an earlier case has made."""
    for name in [*os.environ]:
        if name.lower().endswith("_proxy") or name.startswith(("OPENAI_", "SSL_", "LANGSMITH_")):
            monkeypatch.delenv(name)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "REQUEST_METHOD", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)
    _client_utils._cached_async_httpx_client.cache_clear()
    _client_utils._cached_sync_httpx_client.cache_clear()


@dataclass
class Met:
    """What became of a question, and who saw what of it."""

    outcome: str
    """"answered", "failed", or "impossible": it could not be sent, whoever answers."""
    base: str
    sent: dict[str, str | None]
    proxies: list[str]
    """The names of those that were asked, in the world."""


def met(world: World, outcome: str, route: str) -> Met:
    """Look at the servers, and empty what they have noted."""
    services = [*world.plain.seen, *world.secure.seen]
    base = services[-1][1].removesuffix(route) if services else ""
    sent = {name: services[-1][2].get(name) for name in SENT} if services else {}
    named = ("proxy", "other", "guarded", "refusing")
    asked = [name for name in named if getattr(world, name).seen]
    for server in (world.plain, world.secure, *(getattr(world, name) for name in named)):
        server.seen.clear()
    return Met(outcome, base, sent, asked)


def by_the_probe(world: World, environment: Mapping[str, str]) -> tuple[Met, asking.Reply]:
    question = network.openai(environment)
    impossible = asking.fault(question)
    reply = asking.ask(question, LONG)
    assert (reply.fault is None) == (impossible is None)
    outcome = "impossible" if impossible else "answered" if reply.is_list else "failed"
    return met(world, outcome, "models"), reply


def by_the_agent(world: World, environment: Mapping[str, str]) -> Met:
    async def ask() -> str:
        model = provider.model(provider.OPENAI, environment, LONG)
        return (await model.ainvoke([HumanMessage("hello")])).text

    try:
        outcome = "answered" if asyncio.run(ask()) == "Sunny." else "failed"
    except ProviderError:
        outcome = "impossible"
    except Exception as error:  # noqa: BLE001  # whatever its libraries raise
        names = {type(cause).__name__ for cause in asking._causes(error)}
        impossible = {"UnicodeEncodeError", "LocalProtocolError", "UnsupportedProtocol", "InvalidURL"}
        outcome = "impossible" if names & impossible else "failed"
    return met(world, outcome, "chat/completions")


Case = Callable[[World], dict[str, str]]


def plain(**variables: str) -> Case:
    """Asks the service without TLS; in values, "{proxy}" and the like are the world's."""
    return _case("{plain}/v1", variables)


def secure(**variables: str) -> Case:
    """Asks the service with TLS."""
    return _case("{secure}/v1", variables)


def _case(base: str, variables: Mapping[str, str]) -> Case:
    def made(world: World) -> dict[str, str]:
        names = {
            **{name: getattr(world, name).url for name in ("plain", "secure", "proxy", "other", "guarded", "refusing")},
            "port": str(world.plain.port),
            "login": world.guarded.url.replace("//", "//me:s3cr3t-pass@"),
            "wrong": world.guarded.url.replace("//", "//me:wr0ng-pass@"),
            "bare": world.proxy.url.removeprefix("http://"),
            "socks": f"socks5://127.0.0.1:{world.nobody}",
            "nobody": f"http://127.0.0.1:{world.nobody}",
            "file": str(world.authority.file),
            "hashed": str(world.authority.folder),
            "folder": str(world.folder),
        }
        filled = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": base, **variables}
        return {name: value.format(**names) for name, value in filled.items()}

    return made


CASES: dict[str, tuple[Case, str, list[str]]] = {
    # What is set; the outcome; who was asked on the way.
    "nothing set": (plain(), "answered", []),
    # Certificates.
    "unknown authority": (secure(), "failed", []),
    "SSL_CERT_FILE": (secure(SSL_CERT_FILE="{file}"), "answered", []),
    "SSL_CERT_DIR": (secure(SSL_CERT_DIR="{hashed}"), "answered", []),
    "SSL_CERT_DIR without it": (secure(SSL_CERT_DIR="{folder}"), "failed", []),
    "SSL_CERT_DIR that is not there": (secure(SSL_CERT_DIR="{folder}/nowhere"), "failed", []),
    "file before folder": (secure(SSL_CERT_FILE="{file}", SSL_CERT_DIR="{folder}"), "answered", []),
    "empty SSL_CERT_FILE": (secure(SSL_CERT_FILE="", SSL_CERT_DIR="{hashed}"), "answered", []),
    "REQUESTS_CA_BUNDLE": (secure(REQUESTS_CA_BUNDLE="{file}"), "failed", []),
    "CURL_CA_BUNDLE": (secure(CURL_CA_BUNDLE="{file}"), "failed", []),
    "SSL_CERT_FILE that is not there": (secure(SSL_CERT_FILE="{folder}/nowhere.pem"), "impossible", []),
    "SSL_CERT_FILE that is not there, without TLS": (plain(SSL_CERT_FILE="{folder}/nowhere.pem"), "impossible", []),
    "SSL_CERT_FILE without certificates": (plain(SSL_CERT_FILE="{folder}/empty.pem"), "impossible", []),
    "SSL_CERT_FILE that is a folder": (plain(SSL_CERT_FILE="{folder}"), "impossible", []),
    # Proxies.
    "HTTP_PROXY": (plain(HTTP_PROXY="{proxy}"), "answered", ["proxy"]),
    "HTTPS_PROXY": (secure(HTTPS_PROXY="{proxy}", SSL_CERT_FILE="{file}"), "answered", ["proxy"]),
    "HTTPS_PROXY, and no TLS": (plain(HTTPS_PROXY="{proxy}"), "answered", []),
    "ALL_PROXY": (plain(ALL_PROXY="{proxy}"), "answered", ["proxy"]),
    "the scheme's own before ALL_PROXY": (plain(ALL_PROXY="{other}", http_proxy="{proxy}"), "answered", ["proxy"]),
    "without a scheme": (plain(ALL_PROXY="{bare}"), "answered", ["proxy"]),
    "small letters win": (plain(HTTP_PROXY="{other}", http_proxy="{proxy}"), "answered", ["proxy"]),
    "an empty one takes away": (plain(HTTP_PROXY="{proxy}", http_proxy=""), "answered", []),
    "in a CGI script": (plain(HTTP_PROXY="{proxy}", REQUEST_METHOD="GET"), "answered", []),
    "with a login": (plain(HTTP_PROXY="{login}"), "answered", ["guarded"]),
    "without a login": (plain(HTTP_PROXY="{guarded}"), "failed", ["guarded"]),
    "with a wrong login": (secure(HTTPS_PROXY="{wrong}", SSL_CERT_FILE="{file}"), "failed", ["guarded"]),
    "a proxy that refuses": (secure(HTTPS_PROXY="{refusing}"), "failed", ["refusing"]),
    "a proxy that is down": (plain(HTTP_PROXY="{nobody}"), "failed", []),
    "SOCKS": (plain(ALL_PROXY="{socks}"), "failed" if SOCKS else "impossible", []),
    "SOCKS for others": (plain(HTTPS_PROXY="{socks}"), "answered" if SOCKS else "impossible", []),
    "SOCKS that NO_PROXY leaves out": (
        plain(ALL_PROXY="{socks}", NO_PROXY="127.0.0.1"), "answered" if SOCKS else "impossible", [],
    ),
    "no SOCKS where nothing has a proxy": (plain(ALL_PROXY="{socks}", NO_PROXY="*"), "answered", []),
    "a scheme that is none": (plain(HTTPS_PROXY="socks4://127.0.0.1:1"), "impossible", []),
    "an address that is none": (plain(ALL_PROXY="http://[::1"), "impossible", []),
    "quotes that were kept": (plain(HTTP_PROXY='"{proxy}"'), "impossible", []),
    # Hosts without a proxy.
    **{
        f"NO_PROXY={entry}": (plain(HTTP_PROXY="{proxy}", NO_PROXY=entry), "answered", [] if direct else ["proxy"])
        for entry, direct in {
            "*": True, "127.0.0.1": True, "127.0.0.0/8": True, "10.0.0.0/8": False, "127.0.0.1:{port}": True,
            "127.0.0.1:1": False, "http://127.0.0.1": True, "https://127.0.0.1": False, "::1,[::1], 127.0.0.1": True,
            "localhost": False, "0.0.1": True, ".0.0.1": True, "*.0.0.1": True, "7.0.0.1": False,
            "a/b,//,127.0.0.1": True,
            ":::,[,127.0.0.1/99": False, "": False, "::/0": False,
        }.items()
    },
    "no_proxy": (plain(HTTP_PROXY="{proxy}", NO_PROXY="10.0.0.1", no_proxy="127.0.0.1"), "answered", []),
    # The client's own proxy.
    "OPENAI_PROXY": (plain(OPENAI_PROXY="{proxy}"), "answered", ["proxy"]),
    "OPENAI_PROXY behind others": (plain(OPENAI_PROXY="{other}", HTTP_PROXY="{proxy}"), "answered", ["proxy"]),
    "OPENAI_PROXY before ALL_PROXY": (plain(OPENAI_PROXY="{proxy}", ALL_PROXY="{other}"), "answered", ["proxy"]),
    "OPENAI_PROXY and NO_PROXY": (plain(OPENAI_PROXY="{proxy}", NO_PROXY="127.0.0.1"), "answered", []),
    "OPENAI_PROXY and no other": (
        plain(OPENAI_PROXY="{proxy}", NO_PROXY="*", HTTP_PROXY="{other}"), "answered", ["proxy"],
    ),
    "OPENAI_PROXY alone": (
        plain(OPENAI_PROXY="{proxy}", NO_PROXY="127.0.0.1", LANGCHAIN_OPENAI_TCP_KEEPALIVE="0"), "answered", ["proxy"],
    ),
    "OPENAI_PROXY trusts what it brings": (secure(OPENAI_PROXY="{proxy}", SSL_CERT_FILE="{file}"), "failed", ["proxy"]),
    "OPENAI_PROXY alone reads no certificates": (
        plain(OPENAI_PROXY="{proxy}", SSL_CERT_FILE="{folder}/nowhere.pem", LANGCHAIN_OPENAI_TCP_KEEPALIVE="0"),
        "answered", ["proxy"],
    ),
    "empty OPENAI_PROXY": (plain(OPENAI_PROXY=""), "answered", []),
    "OPENAI_PROXY without a scheme": (plain(OPENAI_PROXY="{bare}"), "impossible", []),
    "keep-alive off": (plain(LANGCHAIN_OPENAI_TCP_KEEPALIVE="0", HTTP_PROXY="{proxy}"), "answered", ["proxy"]),
    # Headers.
    "organization and project": (plain(OPENAI_ORG_ID="org-1", OPENAI_PROJECT_ID="proj_1"), "answered", []),
    "the old name of the organization": (plain(OPENAI_ORG_ID="", OPENAI_ORGANIZATION="org-2"), "answered", []),
    "both names": (plain(OPENAI_ORG_ID="org-1", OPENAI_ORGANIZATION="org-2"), "answered", []),
    "empty ones": (plain(OPENAI_ORG_ID="", OPENAI_PROJECT_ID=""), "answered", []),
    "further headers": (
        plain(OPENAI_CUSTOM_HEADERS="X-Team: blue\nno header\nuser-agent : mine\nAuthorization: Bearer of-the-gateway"),
        "answered", [],
    ),
    "a header's name that is none": (plain(OPENAI_CUSTOM_HEADERS="X Team: blue"), "impossible", []),
    "a header without a name": (plain(OPENAI_CUSTOM_HEADERS=": blue"), "impossible", []),
    "a header's value that is none": (plain(OPENAI_CUSTOM_HEADERS="X-Team: bl\u00fce"), "impossible", []),
    "an organization that is none": (plain(OPENAI_ORG_ID="org-1\u200b"), "impossible", []),
    "an organization behind a blank": (plain(OPENAI_ORG_ID=" org-1"), "impossible", []),
    "a project behind a tab": (plain(OPENAI_PROJECT_ID="\tproj_1"), "impossible", []),
    "a project with a line end": (plain(OPENAI_PROJECT_ID="proj_1\n"), "impossible", []),
    # Variables that count for others, or that the agent has decided on.
    "other addresses": (
        plain(OPENAI_API_BASE="{nobody}", LANGSMITH_GATEWAY="{nobody}", OPENAI_ADMIN_KEY="sk-admin-3f9a1c77e2"),
        "answered", [],
    ),
    # Keys.
    **{
        f"key {number}": (plain(OPENAI_API_KEY=key), outcome, [])
        for number, (key, outcome) in enumerate([
            (f"{KEY}\n", "impossible"), (f"{KEY}\n{KEY}", "impossible"), (f"{KEY}\r", "impossible"),
            (f"{KEY} ", "impossible"), (f"{KEY}\t", "impossible"), (f"{KEY}\u200b", "impossible"),
            (f"\u201c{KEY}\u201d", "impossible"), (f"{KEY}\u00e9", "impossible"), (f"{KEY}\u00a0", "impossible"),
            (f" {KEY}", "answered"), (f'"{KEY}"', "answered"), (f"{KEY} {KEY}", "answered"),
        ])
    },
    # Addresses.
    **{
        f"base {base}": (plain(OPENAI_BASE_URL=base), outcome, [])
        for base, outcome in {
            "{plain}": "answered", "{plain}/": "answered", "{plain}/v1/": "answered", "{plain}/v1//": "answered",
            "{plain}/v1?version=1": "answered", "{plain}/v1/?a=b&c": "answered", "{plain}/v1#part": "answered",
            "http://me:pass@127.0.0.1:{port}/v1": "answered", "HTTP://127.0.0.1:{port}/v1": "answered",
            "http://localhost:{port}/v1": "answered", " {plain}/v1": "impossible", '"{plain}/v1"': "impossible",
            "127.0.0.1:{port}/v1": "impossible", "localhost:{port}": "impossible", "http://[::1": "impossible",
            "ftp://127.0.0.1/": "impossible", "nonsense": "impossible", "{nobody}": "failed",
        }.items()
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_probe_asks_as_the_agent_does(world: World, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both arrive, in the same way and with the same headers, or neither does, and whether that is certain is known."""
    case, outcome, asked = CASES[name]
    environment = case(world)
    # The probe sees the environment that it is given, and not its process's.
    probe, reply = by_the_probe(world, environment)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    agent = by_the_agent(world, environment)
    assert probe == agent
    assert (probe.outcome, probe.proxies) == (outcome, asked), reply
    said = f"{reply.failure} {reply.fault} {reply!r}"
    assert not [secret for secret in ("s3cr3t", "wr0ng", KEY[3:]) if secret in said], said


@pytest.mark.slow
def test_neither_of_the_clients_is_imported() -> None:
    """They take most of a second; a start has none."""
    asks = "import sys; from preflight.suite.probes import asking, network\n"
    asks += "asking.ask(network.openai({'OPENAI_BASE_URL': 'http://[::1'}), 1)\n"
    asks += (
        "print([name for name in ('openai', 'langchain_openai', 'langchain_core', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", asks], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    "environment, variable, what",
    [
        pytest.param(
            *({"ALL_PROXY": "socks5://127.0.0.1:1"}, "ALL_PROXY", "names a SOCKS proxy"),
            marks=pytest.mark.slow,  # beside a .venv of the project's own, the fix asks that one
        ),
        ({"https_proxy": "socks4://me:s3cr3t@h:1"}, "https_proxy", "is not the URL of a proxy"),
        ({"SSL_CERT_FILE": "/nowhere/ca.pem"}, "SSL_CERT_FILE", "cannot be read: No such file or directory"),
        ({"SSLKEYLOGFILE": "/nowhere/keys"}, "SSLKEYLOGFILE", "cannot be written: No such file or directory"),
        ({"OPENAI_ORG_ID": "org\u200b-1"}, "OPENAI_ORG_ID", "its character 4 is U+200B (ZERO WIDTH SPACE)"),
        ({"OPENAI_PROJECT_ID": " proj_1"}, "OPENAI_PROJECT_ID", "its character 1 is U+0020 (SPACE)"),
        ({"OPENAI_BASE_URL": "http://[::1"}, "OPENAI_BASE_URL", "is not a valid http:// or https:// URL"),
    ],
)
def test_what_makes_a_client_impossible_is_named(environment: dict[str, str], variable: str, what: str) -> None:
    """The variable, and what is wrong with it; nothing of what it holds."""
    if "SOCKS" in what and SOCKS:
        pytest.skip("socksio is installed: SOCKS proxies work")
    fault = asking.fault(network.openai({"OPENAI_API_KEY": KEY, **environment}))
    assert fault is not None
    assert fault.variable == variable
    assert what in fault.what
    assert "s3cr3t" not in str(fault)
    if "SOCKS" in what:
        assert fault.fix.endswith("install 'socksio==1.*'")


@pytest.mark.slow
@pytest.mark.parametrize(
    "case, said",
    [
        (plain(HTTP_PROXY="{guarded}"), "the proxy {guarded} (HTTP_PROXY) wants a user and a password (HTTP 407)"),
        (plain(http_proxy="{wrong}"), "the proxy {guarded} (http_proxy) refuses the user and the password (HTTP 407)"),
        (secure(HTTPS_PROXY="{guarded}"), "the proxy {guarded} (HTTPS_PROXY) wants a user and a password (HTTP 407)"),
        (secure(ALL_PROXY="{wrong}"), "the proxy {guarded} (ALL_PROXY) refuses the user and the password (HTTP 407)"),
        (secure(ALL_PROXY="{refusing}"), "the proxy {refusing} (ALL_PROXY) refuses to connect to 127.0.0.1 (HTTP 403)"),
        (plain(HTTP_PROXY="{nobody}"), "the proxy {nobody} (HTTP_PROXY): connection refused"),
        (secure(HTTPS_PROXY="http://me:s3cr3t@nowhere.invalid:1"), "the proxy http://nowhere.invalid:1 (HTTPS_PROXY): the host name cannot be resolved (DNS)"),  # noqa: E501
        (secure(HTTPS_PROXY="{proxy}"), "TLS failed: unable to get local issuer certificate (through the proxy {proxy} (HTTPS_PROXY))"),  # noqa: E501
        (plain(OPENAI_BASE_URL="{nobody}"), "connection refused"),
    ],
)  # fmt: skip
def test_who_failed(world: World, case: Case, said: str) -> None:
    """A proxy that fails is named, without its password, and by the variable that names it."""
    names = {"guarded": world.guarded.url, "refusing": world.refusing.url, "proxy": world.proxy.url}
    reply = asking.ask(network.openai(case(world)), LONG)
    assert reply.failure == said.format(**names, nobody=f"http://127.0.0.1:{world.nobody}")
    assert reply.at_proxy == reply.failure.startswith("the proxy")


@pytest.mark.parametrize(
    "value, said",
    [
        ("sk-good", ""),
        ("", ""),
        ("sk good\tone", ""),
        ("sk-\n", "its last character is U+000A (LINE FEED)"),
        ("sk\r\n-1", "its character 3 is U+000D (CARRIAGE RETURN)"),
        ("\u200b", "its character 1 is U+200B (ZERO WIDTH SPACE)"),
        ("\u201csk\u201d", "its character 1 is U+201C (LEFT DOUBLE QUOTATION MARK)"),
        ("sk-1 ", "its last character is U+0020 (SPACE)"),
        ("sk-\x07", "its last character is U+0007 (a control character)"),
    ],
)
def test_what_a_header_cannot_carry(value: str, said: str) -> None:
    """Which character, and where."""
    assert egress.unsendable(value) == said
