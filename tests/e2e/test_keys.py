"""Keys in whole runs: what a start says of them, and what a re-run says of a server's."""

from __future__ import annotations

import json
import re
import sys

import pytest

from tests.e2e.chatting import client
from tests.e2e.clients import rerun
from tests.e2e.doubles import Answer, Providers
from tests.e2e.place import KEYS, Place, listening
from tests.proxies import Proxy, Service
from tests.waiting import until

GOOD = KEYS["OPENAI_API_KEY"]


def test_a_start_says_what_is_wrong_and_where(equipped: Place, providers: Providers) -> None:
    """Each in the banner, with a fix for the place that the value comes from, and no secret anywhere."""
    providers.openai = Answer(403, {"Content-Type": "text/html"}, body="<p>blocked")
    started = equipped.run(
        "--check-only", "--format", "json",
        PERPLEXITY_API_KEY="", OPENAI_ORG_ID="org\n", HTTPS_PROXY="http://me:pr0xy-pass@127.0.0.1:1",
    )  # fmt: skip
    assert started.process.returncode == 1
    assert not [secret for secret in (GOOD[3:20], "pr0xy-pass") if secret in started.output]
    found = {check["title"]: check for check in json.loads(started.stdout)["preflight"]["checks"]}
    client = found["OpenAI Client"]
    assert (client["severity"], client["outcome"]) == ("critical", "failed")
    assert "OPENAI_ORG_ID in the environment has a character that no HTTP header can carry" in client["message"]
    assert found["Perplexity API Key"]["fix"].startswith("unset PERPLEXITY_API_KEY  # ")
    assert equipped.run("--check-only").process.returncode == 0
    assert equipped.check("OpenAI API Key")["outcome"] == "unknown"


def test_quotes_around_a_token_start_nothing(equipped: Place) -> None:
    """A wrong setting, which is said before anything else happens."""
    started = equipped.run("--app", "small:app", PREFLIGHT_TOKEN='"0123456789abcdef-3f9a1c77e2"')
    assert started.process.returncode == 2
    assert "environment variable PREFLIGHT_TOKEN has quotes around its value" in started.output
    assert "3f9a1c77e2" not in started.output


# The way out of the processes that ask.


@pytest.mark.parametrize("how", ["launcher", "uvicorn"])
def test_probe_and_chat_leave_in_the_same_way(equipped: Place, how: str) -> None:
    """Both use the env file's proxies and headers, no matter which command has started the server.

    An address of the research service that is none leaves the language model alone.
    """
    del equipped.environ["OPENAI_BASE_URL"]
    equipped.environ["PERPLEXITY_BASE_URL"] = "http://[::1"
    with Service() as service, Proxy() as proxy:
        equipped.write_env_file(**KEYS, OPENAI_BASE_URL=service.url, HTTP_PROXY=proxy.url, OPENAI_ORG_ID="org-1")
        if how == "launcher":
            equipped.start().until_ready()
        else:
            command = ("-m", "uvicorn", "--factory", "server.app:create_app", "--port", str(equipped.port))
            equipped.spawn(sys.executable, *command)
            until(lambda: listening(equipped.port), "uvicorn listens")
        with client(equipped.url) as one:
            one.init()
            one.ask("hello")
    asked = [(method, path) for method, path, _headers in service.seen]
    assert asked[0] == ("GET", "/models")
    assert ("POST", "/chat/completions") in asked
    assert {headers.get("openai-organization") for _method, _path, headers in service.seen} == {"org-1"}
    assert [target for _method, target, _headers in proxy.seen if target.startswith(service.url)] == [
        f"{service.url}{path}" for _method, path in asked
    ]
    assert equipped.check("Perplexity API")["message"].startswith("the service cannot be asked: PERPLEXITY_BASE_URL ")


def test_a_chat_whose_client_cannot_be_built(equipped: Place) -> None:
    """Where somebody has let that pass, the chat says what it is."""
    started = equipped.start("--ignore", "OpenAI Client", SSL_CERT_FILE="/nowhere/ca.pem").until_ready()
    with client(started.url) as one:
        one.init()
        end = one.ask("hello")[-1]
    assert (end["code"], end["retry"]) == ("provider_error", False)
    assert "its client cannot be built (FileNotFoundError)" in end["message"]


# Re-runs.


def test_a_rerun_is_about_the_server(equipped: Place, providers: Providers) -> None:
    """A key that the env file has since the start is not the server's: it says since when, and what loads it."""
    equipped.write_env_file(OTHER="x")
    started = equipped.start("--ignore", "OpenAI API Key").until_ready()
    equipped.write_env_file(**KEYS)
    asked = len(providers.requests)
    rerun(started.url)
    found = equipped.check("OpenAI API Key")
    assert found["outcome"] == "ignored"
    assert re.search(
        r"OPENAI_API_KEY is not loaded by this server: it has been"
        r" in the env file since \d\d:\d\d \S+; restart to load it",
        found["message"],
    )
    assert not found["details"]["loaded"]
    assert not found["details"]["verified"]
    assert not [key for _path, key in providers.requests[asked:] if key]
    perplexity = equipped.check("Perplexity API Key")
    assert perplexity["outcome"] == "failed"
    assert perplexity["fix"] == f"restart the server: it loads {equipped.env_file} when it starts"


def test_a_rerun_asks_with_the_servers_key(equipped: Place, providers: Providers) -> None:
    """One that was changed in the env file is not asked about, and a note says that it waits there."""
    started = equipped.start().until_ready()
    equipped.write_env_file(OPENAI_API_KEY="sk-another-3f9a1c77e2Zq99", PREFLIGHT_TOKEN="0123456789abcdef-3f9a1c77e2")
    asked = len(providers.requests)
    rerun(started.url)
    found = equipped.check("OpenAI API Key")
    assert found["outcome"] == "passed"
    assert re.fullmatch(
        r"from the env file; another value has been in the env file since \d\d:\d\d \S+; restart to load it",
        found["message"],
    )
    assert {key for path, key in providers.requests[asked:] if "openai" in path} == {f"Bearer {GOOD}"}
    gone = equipped.check("Perplexity API Key")["message"]
    assert "the env file has not contained it since" in gone
    assert equipped.check("Exposure")["message"] == "this machine only"  # without the token, of which it knows nothing
