"""Keys, models and MCP servers: protocol doubles of model services, and real MCP servers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from preflight import ready
from preflight.making import Failure
from preflight.ready import models
from preflight.ready.network import connect
from tests.ready.asking import CANARY, ask
from tests.ready.listeners import garbage, listening

LONG = 60.0  # seconds, for what answers at once on a busy machine


class Double:
    """A service that answers paths as it is told, and keeps what it was asked with."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        self.wants_key = True
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                double.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                status, document = double.answers.get(self.path.partition("?")[0], (404, {"error": "no route"}))
                if double.wants_key and CANARY not in str(self.headers):
                    status, document = 401, {"error": {"code": "missing_api_key"}}
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def log_message(self, *_: object) -> None:
                """Tests are silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def double() -> Iterator[Double]:
    made = Double()
    yield made
    made.close()


# Each provider: its variable of an address, the route, the header with the key, and the good answer.
PROVIDERS = {
    "openai": ("OPENAI_BASE_URL", "/models", "authorization", f"Bearer {CANARY}", {"data": [{"id": "m"}]}),
    "anthropic": ("ANTHROPIC_BASE_URL", "/v1/models", "x-api-key", CANARY, {"data": [{"id": "m"}]}),
    "google": (
        "GOOGLE_GEMINI_BASE_URL", "/v1beta/models", "x-goog-api-key", CANARY, {"models": [{"name": "models/m"}]},
    ),
    "azure": ("AZURE_OPENAI_ENDPOINT", "/openai/models", "api-key", CANARY, {"data": [{"id": "m"}]}),
    "mistral": ("MISTRAL_BASE_URL", "/v1/models", "authorization", f"Bearer {CANARY}", {"data": [{"id": "m"}]}),
    "perplexity": (
        "PERPLEXITY_BASE_URL", "/async/chat/completions", "authorization", f"Bearer {CANARY}", {"requests": []},
    ),
}  # fmt: skip


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_key(tmp_path: Path, double: Double, provider: str) -> None:
    """The key is in the header where the provider looks for it, and verified by the answer that was asked for."""
    variable, route, header, value, good = PROVIDERS[provider]
    double.answers[route] = (200, good)
    environ = {"MY_KEY": CANARY, variable: double.url}
    ended = ask(tmp_path, ready.api_key("MY_KEY", provider, timeout=LONG), **environ)
    assert ended.outcome == "passed"
    assert ended.details["verified"] is True
    (_, headers), *others = double.asked
    assert headers[header] == value
    assert CANARY not in str(others)  # once more, without it: a service that answers anybody says nothing of a key


def test_a_service_that_answers_anybody(tmp_path: Path, double: Double) -> None:
    """Its list shows nothing of the key: OpenRouter's is public."""
    double.answers["/models"] = (200, {"data": [{"id": "m"}]})
    double.wants_key = False
    ended = ask(tmp_path, ready.api_key("MY_KEY", "openai", base=double.url, timeout=LONG), MY_KEY=CANARY)
    assert (ended.outcome, ended.details["verified"]) == ("unknown", False)
    assert ended.message.endswith("answers without a key as well")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_keys_that_are_rejected(tmp_path: Path, double: Double, provider: str) -> None:
    """401 rejects; 403 without a code, and a service in trouble, say nothing of the key."""
    variable, route, *_ = PROVIDERS[provider]
    environ = {"MY_KEY": CANARY, variable: double.url}
    test = ready.api_key("MY_KEY", provider, timeout=LONG)
    double.answers[route] = (401, {"error": {"code": "invalid_api_key", "message": CANARY}})
    rejected = ask(tmp_path, test, **environ)
    assert rejected.outcome == "failed"
    assert rejected.message.startswith("MY_KEY was rejected by 127.0.0.1")
    double.answers[route] = (403, {"error": "blocked"})
    assert ask(tmp_path, test, **environ).outcome == "unknown"
    double.answers[route] = (503, {})
    trouble = ask(tmp_path, test, **environ)
    assert (trouble.outcome, trouble.details["verified"]) == ("unknown", False)
    assert trouble.message == "MY_KEY is configured, but whether it works is unknown: HTTP 503"


def test_a_key_that_no_header_can_carry(tmp_path: Path, double: Double) -> None:
    """Nobody is asked: it is certain."""
    environ = {"MY_KEY": f"{CANARY}\u201d", "ANTHROPIC_BASE_URL": double.url}
    ended = ask(tmp_path, ready.api_key("MY_KEY", "anthropic", timeout=LONG), **environ)
    assert ended.outcome == "failed"
    assert "U+201D" in ended.message
    assert double.asked == []


def test_a_provider_is_told_by_the_variable() -> None:
    """And one that nobody knows is refused where it is written."""
    assert ready.api_key("ANTHROPIC_API_KEY").__doc__.startswith("The key of Anthropic")  # type: ignore[union-attr]
    assert ready.api_key("SHOP_AZURE_OPENAI_API_KEY").__doc__.startswith("The key of Azure")  # type: ignore[union-attr]
    assert ready.api_key("GEMINI_API_KEY").__doc__.startswith("The key of Google")  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="'acme'"):
        ready.api_key("KEY", "acme")
    for variable in (
        "ACME_API_KEY",
        "KEY",
        "GOOGLE_MAPS_API_KEY",
        "AZURE_STORAGE_KEY",
        "MISTRALIS_KEY",
    ):  # nobody is sent a key that may be somebody else's
        with pytest.raises(ValueError, match="no provider has a key of this name"):
            ready.api_key(variable)
        with pytest.raises(ValueError, match="no provider has a key of this name"):
            ready.model(variable, "m")


def test_an_azure_without_an_address(tmp_path: Path) -> None:
    """Each of its customers has an address, which nobody else knows."""
    ended = ask(tmp_path, ready.api_key("AZURE_OPENAI_API_KEY", timeout=LONG), AZURE_OPENAI_API_KEY=CANARY)
    assert ended.message == "AZURE_OPENAI_ENDPOINT is not set, but each Azure OpenAI customer has a different address"


# Models


def test_a_model_that_is_offered(tmp_path: Path, double: Double) -> None:
    """It is in the service's list, or it is not; a service that does not list is no answer."""
    double.answers["/models"] = (200, {"data": [{"id": "gpt-4o-mini"}, {"id": "gpt-4o"}]})
    environ = {"OPENAI_API_KEY": CANARY, "OPENAI_BASE_URL": double.url}
    there = ask(tmp_path, ready.model("OPENAI_API_KEY", "gpt-4o-mini", timeout=LONG), **environ)
    assert there.message == "gpt-4o-mini is offered"
    gone = ask(tmp_path, ready.model("OPENAI_API_KEY", "gpt-5", timeout=LONG), **environ)
    assert gone.message == "the service has no model gpt-5; it has gpt-4o-mini, gpt-4o"
    for status, document in ((403, {}), (429, {}), (500, {}), (200, {"hello": 1})):
        double.answers["/models"] = (status, document)
        assert ask(tmp_path, ready.model("OPENAI_API_KEY", "m", timeout=LONG), **environ).outcome == "unknown"


def test_googles_names(tmp_path: Path, double: Double) -> None:
    """Its list calls them "models/...", and is asked for in one page."""
    double.answers["/v1beta/models"] = (200, {"models": [{"name": "models/gemini-2.5-pro"}]})
    environ = {"GOOGLE_API_KEY": CANARY, "GOOGLE_GEMINI_BASE_URL": double.url}
    assert ask(tmp_path, ready.model("GOOGLE_API_KEY", "gemini-2.5-pro", timeout=LONG), **environ).outcome == "passed"
    assert double.asked[0][0] == "/v1beta/models?pageSize=1000"


def test_a_service_that_cannot_be_reached(tmp_path: Path, free_port: int) -> None:
    """Somebody else's service that does not answer is unknown; one's own that is not there fails."""
    environ = {"OPENAI_API_KEY": CANARY, "OPENAI_BASE_URL": f"http://127.0.0.1:{free_port}"}
    assert ask(tmp_path, ready.model("OPENAI_API_KEY", "m", timeout=LONG), **environ).outcome == "unknown"
    own = ask(tmp_path, ready.model("OLLAMA_HOST", "m", timeout=LONG), OLLAMA_HOST=f"http://127.0.0.1:{free_port}")
    assert own.outcome == "failed"
    assert own.message.endswith("connection refused")


def test_ollama(tmp_path: Path, double: Double) -> None:
    """A model on the disk is not one that is loaded."""
    double.wants_key = False
    double.answers["/api/tags"] = (200, {"models": [{"name": "llama3:latest"}]})
    double.answers["/api/ps"] = (200, {"models": []})
    environ = {"OLLAMA_HOST": double.url}
    cold = ask(tmp_path, ready.model("OLLAMA_HOST", "llama3", timeout=LONG), **environ)
    assert (cold.outcome, cold.message) == ("failed", "llama3 is on the disk, but not loaded")
    assert cold.fix == ""  # the marker's: "ollama pull llama3 && ollama run llama3 ''"
    lazy = ready.model("OLLAMA_HOST", "llama3", loaded=False, timeout=LONG)
    assert ask(tmp_path, lazy, **environ).outcome == "passed"
    double.answers["/api/ps"] = (200, {"models": [{"name": "llama3:latest"}]})
    assert ask(tmp_path, ready.model("OLLAMA_HOST", "llama3", timeout=LONG), **environ).message == "llama3 is loaded"
    double.answers["/api/tags"] = (200, {"models": None})  # older releases, without any model
    none = ask(tmp_path, lazy, **environ)
    assert (none.outcome, none.message) == ("failed", "the service has no model llama3; it has none")


@pytest.mark.parametrize("provider", ["vllm", "llama.cpp"])
def test_servers_that_load_one_model(tmp_path: Path, double: Double, provider: str) -> None:
    """Reachable is not ready: a model that is still being loaded fails, whatever the list says."""
    double.wants_key = False
    test = ready.model("MODEL_URL", "qwen", provider=provider, timeout=LONG)
    environ = {"MODEL_URL": f"{double.url}/v1"}
    double.answers["/v1/models"] = (503, {"error": {"message": "Loading model", "code": 503}})
    double.answers["/health"] = (503, {"error": {"message": "Loading model", "code": 503}})
    assert ask(tmp_path, test, **environ).message == "qwen is still being loaded"
    double.answers["/health"] = (200, {"status": "ok"})
    double.answers["/v1/models"] = (200, {"data": []})
    assert ask(tmp_path, test, **environ).message == "the service has no model qwen; it has none"
    double.answers["/v1/models"] = (200, {"data": [{"id": "qwen"}]})
    assert ask(tmp_path, test, **environ).message == "qwen is loaded"
    double.answers["/health"] = (502, {})
    dead = ask(tmp_path, test, **environ)
    assert (dead.outcome, dead.message) == ("failed", "qwen is not ready: the server's /health answers HTTP 502")
    del double.answers["/health"]  # another server with the same routes, or a gateway that hides it
    hidden = ask(tmp_path, test, **environ)
    assert hidden.outcome == "unknown"
    assert hidden.message == "it is unknown whether qwen is loaded: the server's /health answers HTTP 404"
    there = ready.model("MODEL_URL", "qwen", provider=provider, loaded=False, timeout=LONG)
    assert ask(tmp_path, there, **environ).outcome == "passed"


def test_what_is_no_model_server(tmp_path: Path, double: Double) -> None:
    """Something else on its port is named so."""
    double.wants_key = False
    ended = ask(tmp_path, ready.model("VLLM_URL", "m", timeout=LONG), VLLM_URL=double.url)
    assert ended.message == "the server that answers is not vllm: it has no /v1/models"


def test_models_beyond_the_first_page(tmp_path: Path, double: Double) -> None:
    """Anthropic lists twenty unless asked for more; and knows aliases that are in no list."""
    environ = {"ANTHROPIC_API_KEY": CANARY, "ANTHROPIC_BASE_URL": double.url}
    double.answers["/v1/models"] = (200, {"data": [{"id": "claude-old"}]})
    gone = ask(tmp_path, ready.model("ANTHROPIC_API_KEY", "claude-latest", timeout=LONG), **environ)
    assert gone.message == "the service has no model claude-latest; it has claude-old"
    assert [path for path, _ in double.asked] == ["/v1/models?limit=1000", "/v1/models/claude-latest"]
    double.answers["/v1/models/claude-latest"] = (200, {"id": "claude-old", "type": "model"})
    alias = ask(tmp_path, ready.model("ANTHROPIC_API_KEY", "claude-latest", timeout=LONG), **environ)
    assert alias.message == "claude-latest is offered"


def test_deployments_that_nobody_lists(tmp_path: Path, double: Double) -> None:
    """Azure's list has base models, and the application uses deployments: only an answer tells."""
    environ = {"AZURE_OPENAI_API_KEY": CANARY, "AZURE_OPENAI_ENDPOINT": double.url}
    assert ask(tmp_path, ready.model("AZURE_OPENAI_API_KEY", "mine", timeout=LONG), **environ).outcome == "unknown"
    assert double.asked == []
    paid = ready.model("AZURE_OPENAI_API_KEY", "mine", paid=True, timeout=LONG)
    double.answers["/openai/deployments/mine/chat/completions"] = (200, {"choices": []})
    nothing = ask(tmp_path, paid, **environ)
    assert nothing.outcome == "unknown"
    assert nothing.message.endswith("HTTP 200, but not with a model's words")
    double.answers["/openai/deployments/mine/chat/completions"] = (200, {"choices": [{}]})
    assert ask(tmp_path, paid, **environ).message == "mine is answering"


@pytest.mark.parametrize(
    "status, document, outcome, message",
    [
        (200, {"choices": [{}]}, "passed", "m is answering"),
        (404, {"error": {"code": "model_not_found"}}, "failed", "the service has no model m (HTTP 404)"),
        (429, {"error": {"code": "insufficient_quota"}}, "failed", "the account has no quota or credit left for m"),
        (429, {"error": {"code": "rate_limit_exceeded"}}, "unknown", "m was asked, and the service answered HTTP 429"),
        (500, {}, "unknown", "m was asked, and the service answered HTTP 500"),
    ],
)
def test_a_model_that_is_asked_for_a_word(
    tmp_path: Path, double: Double, status: int, document: object, outcome: str, message: str
) -> None:
    """With paid=True it is used once: no quota left, no such model and a service in trouble are told apart."""
    double.answers["/chat/completions"] = (status, document)
    environ = {"OPENAI_API_KEY": CANARY, "OPENAI_BASE_URL": double.url}
    ended = ask(tmp_path, ready.model("OPENAI_API_KEY", "m", paid=True, timeout=LONG), **environ)
    assert ended.outcome == outcome
    assert ended.message.startswith(message)


def test_whose_words_are_a_models(tmp_path: Path, double: Double) -> None:
    """Each provider has them in a list of its own."""
    google = ready.model("GEMINI_API_KEY", "m", paid=True, timeout=LONG)
    anthropic = ready.model("ANTHROPIC_API_KEY", "m", paid=True, timeout=LONG)
    environ = {
        "GEMINI_API_KEY": CANARY, "GOOGLE_GEMINI_BASE_URL": double.url,
        "ANTHROPIC_API_KEY": CANARY, "ANTHROPIC_BASE_URL": double.url,
    }  # fmt: skip
    for document, outcomes in (
        ({"candidates": [{"content": {"parts": [{"text": "Yes"}]}}]}, ("passed", "unknown")),
        ({"content": [{"type": "text", "text": "Yes"}]}, ("unknown", "passed")),
    ):
        double.answers["/v1beta/models/m:generateContent"] = double.answers["/v1/messages"] = (200, document)
        assert tuple(ask(tmp_path, one, **environ).outcome for one in (google, anthropic)) == outcomes


def test_a_key_that_google_refuses(tmp_path: Path, double: Double) -> None:
    """It answers 400 to a key that is none, and says why in a place of its own."""
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
    double.answers["/v1beta/models"] = (400, {"error": {"code": 400, "status": "INVALID_ARGUMENT", "details": details}})
    environ = {"GEMINI_API_KEY": CANARY, "GOOGLE_GEMINI_BASE_URL": double.url}
    ended = ask(tmp_path, ready.api_key("GEMINI_API_KEY", timeout=LONG), **environ)
    assert ended.outcome == "failed"
    assert ended.message.startswith("GEMINI_API_KEY was rejected by 127.0.0.1")


@pytest.mark.parametrize("form", ["http://{}", "{}", "http://{}/", "http://{}/v1", "http://{}/api"])
def test_forms_of_ollamas_address(tmp_path: Path, double: Double, form: str) -> None:
    """OLLAMA_HOST needs no scheme, and other clients put their own route behind it."""
    double.wants_key = False
    double.answers["/api/tags"] = (200, {"models": [{"name": "llama3:latest"}]})
    address = form.format(double.url.removeprefix("http://"))
    ended = ask(tmp_path, ready.model("OLLAMA_HOST", "llama3", loaded=False, timeout=LONG), OLLAMA_HOST=address)
    assert ended.message == "llama3 is there"


def test_the_address_that_ollama_listens_at() -> None:
    """0.0.0.0 is no address to ask, and the port may be left out."""
    assert models._of_ollama("0.0.0.0") == "http://127.0.0.1:11434"
    assert models._of_ollama("gpu.internal") == "http://gpu.internal:11434"
    assert models._of_ollama("https://gpu.internal") == "https://gpu.internal"
    assert models._of_ollama("0.0.0.0:8000") == "http://127.0.0.1:8000"


# MCP servers

ADDER = """
from mcp.server import MCPServer
import sys
server = MCPServer("adder")

@server.tool()
def add(a: int, b: int) -> int:
    "Add two numbers."
    return a + b

print("a line for people", file=sys.stderr)
server.run(**({"transport": sys.argv[1], "port": int(sys.argv[2])} if sys.argv[1:] else {}))
"""


def server(folder: Path, source: str) -> list[str]:
    """The command that starts an MCP server of the test's own."""
    (folder / "adder.py").write_text(f"import sys\nsys.path[:0] = {sys.path!r}\n{source}")
    return [sys.executable, "adder.py"]


@pytest.mark.slow
def test_an_mcp_server(tmp_path: Path) -> None:
    """One that speaks on standard input and output answers, and has its tools."""
    pytest.importorskip("mcp")
    command = server(tmp_path, ADDER)
    good = ask(tmp_path, ready.mcp_server(command, tools=["add"], timeout=LONG))
    assert good.details["tools"] == ["add"]
    assert good.message.startswith("adder")


@pytest.mark.slow
def test_mcp_servers_that_do_not_start(tmp_path: Path) -> None:
    """Not on PATH by name, one that ends at once, one that prints what is no message, one that hangs."""
    pytest.importorskip("mcp")
    missing = ask(tmp_path, ready.mcp_server(["no-such-server"], timeout=LONG))
    assert missing.message == "no-such-server is not on PATH: the server cannot be started"
    ending = ask(tmp_path, ready.mcp_server(server(tmp_path, f"raise SystemExit('{CANARY}')"), timeout=LONG))
    assert ending.outcome == "failed"
    assert ending.message.startswith("it does not answer as an MCP server: ")
    hanging = ask(tmp_path, ready.mcp_server(server(tmp_path, "import signal\nsignal.pause()"), timeout=1.0))
    assert hanging.message == "no answer within 1 s"


@pytest.mark.slow
def test_npx_downloads_nothing(tmp_path: Path) -> None:
    """A runner is told not to install what it is to run."""
    pytest.importorskip("mcp")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "npx").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\n')
    (folder / "npx").chmod(0o755)
    ask(tmp_path, ready.mcp_server(["npx", "some-server"], timeout=LONG), PATH=f"{folder}:/usr/bin:/bin")
    assert (tmp_path / "arguments").read_text() == "--no-install some-server\n"
    for runner, words, said in (
        ("npx", ["-y", "some-server", "-y"], "--no-install some-server -y"),
        ("uvx", ["some-server"], "--offline some-server"),
        ("docker", ["run", "-i", "image"], "run --pull=never -i image"),
    ):
        (folder / runner).write_text((folder / "npx").read_text())
        (folder / runner).chmod(0o755)
        ask(tmp_path, ready.mcp_server([runner, *words], timeout=LONG), PATH=f"{folder}:/usr/bin:/bin")
        assert (tmp_path / "arguments").read_text() == f"{said}\n"
    (folder / "pipx").symlink_to("npx")
    refused = ask(tmp_path, ready.mcp_server(["pipx", "run", "it"], timeout=LONG), PATH=f"{folder}:/usr/bin:/bin")
    assert refused.outcome == "unknown"


@pytest.mark.slow
def test_an_mcp_server_over_http(tmp_path: Path, free_port: int) -> None:
    """One with a URL answers, and says which tools it lacks; what is none is told so."""
    pytest.importorskip("mcp")

    command = server(tmp_path, ADDER)
    started = subprocess.Popen(
        [*command, "streamable-http", str(free_port)],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + LONG
        while True:
            try:
                connect("127.0.0.1", free_port, 1.0).made.close()
                break
            except Failure:
                assert time.monotonic() < until
                assert started.poll() is None
        url = f"http://127.0.0.1:{free_port}/mcp"
        ended = ask(tmp_path, ready.mcp_server(url, tools=["add"], timeout=LONG))
        assert ended.outcome == "passed", ended
        lacking = ask(tmp_path, ready.mcp_server(url, tools=["add", "subtract"], timeout=LONG))
        assert lacking.message == "adder has no tool subtract; it has add"
    finally:
        started.terminate()
        started.wait(60)
    with listening(garbage) as port:
        other = ask(
            tmp_path, ready.mcp_server("TOOLS_URL", timeout=LONG), TOOLS_URL=f"http://127.0.0.1:{port}/{CANARY}"
        )
    assert other.message.startswith("it does not answer as an MCP server: ")
