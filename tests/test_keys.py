"""What is said of keys, services and the client that asks them: the requirements, and services that answer for real."""

from __future__ import annotations

import inspect
import json
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from preflight.contract import Details, Unknown
from preflight.requirements import test_exposure, test_keys
from preflight.settings import loading, template
from preflight.settings import model as settings
from preflight.settings.fields import SettingsError
from preflight.suite.probes.network import Probes
from tests.pasting import check as check_fix
from tests.proxies import OPENSSL, Authority, Proxy, Service

pytestmark = pytest.mark.usefixtures("few_authorities")

ROOT = Path(__file__).parents[1]
GOOD = "sk-canary-Zq7vXw2LmN8pRt4KdY6hJb3F-tail9351"
WRONG = "sk-wrong-one-3f9a1c77e2Zq"
PASSWORD = "pr0xy-pass"
JSON, HTML = {"Content-Type": "application/json"}, {"Content-Type": "text/html; charset=utf-8"}
TITLES: Mapping[str, Callable[..., None]] = {
    "OpenAI API Key": test_keys.test_openai_api_key,
    "OpenAI API": test_keys.test_openai_api,
    "OpenAI Client": test_keys.test_openai_client,
    "Perplexity API Key": test_keys.test_perplexity_api_key,
    "Perplexity API": test_keys.test_perplexity_api,
    "Exposure": test_exposure.test_exposure,
}


@dataclass(frozen=True)
class Found:
    """What a requirement came to."""

    outcome: str
    message: str
    fix: str
    details: Mapping[str, Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An env file with a good key in its first line."""
    file = tmp_path / ".env"
    file.write_text(f"OPENAI_API_KEY={GOOD}\nPERPLEXITY_API_KEY=pplx-{GOOD}\n")
    return file


@pytest.fixture
def service() -> Iterator[Service]:
    """What both services are."""
    with Service() as service:
        yield service


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def judge(file: Path, service: Service) -> Callable[..., dict[str, Found]]:
    """Judge all that is about keys, in an environment, with the env file and the services as they are."""

    def judged(*, offline: bool = False, timeout: float = 30.0, **environ: str) -> dict[str, Found]:
        given = {"PREFLIGHT_ENV_FILE": str(file), "OPENAI_BASE_URL": service.url, "PERPLEXITY_BASE_URL": service.url}
        given = {name: value for name, value in {**given, **environ}.items() if value != LEFT_OUT}
        chosen = loading.load(ROOT, given, {"offline": offline or None, "probe_timeout": timeout})
        probes = Probes(chosen)
        probes.start()
        return {title: _found(requirement, chosen, probes) for title, requirement in TITLES.items()}

    return judged


LEFT_OUT = "(left out)"
Judge = Callable[..., dict[str, Found]]


def _found(requirement: Callable[..., None], chosen: settings.Settings, probes: Probes) -> Found:
    details = Details()
    given = {"settings": chosen, "probes": probes, "details": details}
    outcome, message = "passed", ""
    try:
        requirement(**{name: given[name] for name in inspect.signature(requirement).parameters})
    except Unknown as error:
        outcome, message = "unknown", str(error)
    except (AssertionError, pytest.fail.Exception) as error:
        outcome, message = "failed", str(error)
    else:
        message = details.summary
    if outcome != "passed":
        check_fix(details.fix)
    said = f"{message} {details.fix} {dict(details)}"
    assert not [secret for secret in (GOOD[3:20], WRONG[3:15], PASSWORD) if secret in said]
    return Found(outcome, message, details.fix, details)


def error(code: str | None, kind: str = "request_forbidden") -> str:
    return json.dumps({"error": {"message": f"no, {GOOD[:9]}", "type": kind, "param": None, "code": code}})


# What a service's answer says about the key.


@pytest.mark.parametrize(
    "status, headers, body, key, said, service_outcome",
    [
        pytest.param(200, JSON, '{"data": []}', "verified", "", "passed", id="list"),
        pytest.param(200, {}, '{"data": [{"id": "m"}]}', "verified", "", "passed", id="list without a type"),
        pytest.param(200, JSON, '[{"id": "m"}]', "verified", "", "passed", id="bare list"),
        pytest.param(401, JSON, error("invalid_api_key"), "failed", "(HTTP 401, invalid_api_key)", "passed", id="401"),
        pytest.param(401, HTML, "<p>no", "failed", "(HTTP 401, text/html)", "passed", id="401 HTML"),
        pytest.param(403, JSON, error("invalid_api_key"), "failed", "(HTTP 403, invalid_", "passed", id="403 rejects"),
        pytest.param(403, JSON, error("account_deactivated"), "failed", "account_deact", "passed", id="account"),
        pytest.param(403, JSON, '{"error": "API_KEY_INVALID"}', "failed", "API_KEY_INVALID", "passed", id="flat code"),
        pytest.param(403, JSON, error("missing_scope"), "unknown", "HTTP 403, missing_scope", "passed", id="scope"),
        pytest.param(
            403, JSON, error("unsupported_country_region_territory"), "unknown", "unsupported_country", "passed",
            id="country",
        ),
        pytest.param(403, JSON, error(None), "unknown", "HTTP 403, request_forbidden", "passed", id="type"),
        pytest.param(403, JSON, '{"detail": "no"}', "unknown", "answered HTTP 403", "passed", id="403 JSON"),
        pytest.param(403, HTML, "<h1>Blocked", "unknown", "HTTP 403, text/html", "unknown", id="block page"),
        pytest.param(403, {}, "", "unknown", "answered HTTP 403", "unknown", id="403 alone"),
        pytest.param(200, JSON, "[]", "passed", "not verified: HTTP 200", "passed", id="bare list of nothing"),
        pytest.param(200, JSON, '["login"]', "passed", "not verified: HTTP 200", "passed", id="list of texts"),
        pytest.param(200, JSON, '{"data": ["x"]}', "passed", "not verified: HTTP 200", "passed", id="data of texts"),
        pytest.param(
            200, JSON, '[{"error": {"code": 401}}]', "passed", "not verified: HTTP 200", "passed", id="list of errors"
        ),
        pytest.param(
            200, JSON, '{"success": false, "data": []}', "passed", "not verified: HTTP 200", "passed", id="no success"
        ),
        pytest.param(511, HTML, "<form>", "passed", "not verified: HTTP 511, text/html", "unknown", id="511"),
        pytest.param(200, HTML, "<form>", "passed", "not verified: HTTP 200, text/html", "unknown", id="portal"),
        pytest.param(200, JSON, "<form>", "passed", "not verified: HTTP 200", "unknown", id="no JSON"),
        pytest.param(200, JSON, '{"login": "first"}', "passed", "not verified: HTTP 200", "passed", id="other JSON"),
        pytest.param(200, JSON, error("invalid_api_key"), "passed", "not verified: HTTP 200", "passed", id="an error"),
        pytest.param(200, JSON, '"data"', "passed", "not verified: HTTP 200", "passed", id="a text"),
        pytest.param(200, JSON, "[" * 50_000, "passed", "not verified: HTTP 200", "unknown", id="deep"),
        pytest.param(204, {}, "", "passed", "not verified: HTTP 204", "unknown", id="204"),
        pytest.param(302, {"Location": "/login"}, "", "passed", "not verified: HTTP 302", "failed", id="redirect"),
    ],
)  # fmt: skip
def test_answers(
    judge: Judge,
    service: Service,
    status: int,
    headers: Mapping[str, str],
    body: str,
    key: str,
    said: str,
    service_outcome: str,
) -> None:
    """A key is rejected by 401 and by a 403 that says so, and verified by the JSON that was asked for."""
    service.answer = status, headers, body
    found = judge()
    about = found["OpenAI API Key"]
    assert about.outcome == ("passed" if key == "verified" else key), about
    assert about.details["verified"] == (key == "verified")
    assert said in about.message
    new_key = key == "failed" and "account" not in body
    assert about.fix.startswith("make a new key and set OPENAI_API_KEY in ") == new_key
    assert found["OpenAI API"].outcome == service_outcome, found["OpenAI API"]
    assert found["OpenAI Client"].outcome == "passed"


def test_what_verifies_perplexitys(judge: Judge, service: Service) -> None:
    """Its list has another name."""
    service.answer = 200, JSON, '{"next_token": null, "requests": []}'
    found = judge()
    assert found["Perplexity API Key"].details["verified"]
    assert not found["OpenAI API Key"].details["verified"]


def test_a_body_that_does_not_end(judge: Judge, service: Service) -> None:
    """What is known of the answer counts: it is none that verifies a key."""
    service.answer = 200, {**JSON, "Content-Length": "1000"}, '{"data": ['
    found = judge(timeout=0.3)
    assert found["OpenAI API Key"].message.endswith("not verified: HTTP 200, and the answer did not end")
    assert found["OpenAI API"].outcome == "unknown"


def test_a_key_of_another_organization(judge: Judge, service: Service) -> None:
    """What the service says the organization does not fit is mended there, and not with a new key."""
    service.answer = 401, JSON, error("mismatched_organization")
    found = judge(OPENAI_ORG_ID="org-1")["OpenAI API Key"]
    assert found.fix == "set OPENAI_ORG_ID in the environment to the organization that the key belongs to"
    service.answer = 401, JSON, error("mismatched_project")
    found = judge(OPENAI_PROJECT_ID="proj_1")["OpenAI API Key"]
    assert found.fix == "set OPENAI_PROJECT_ID in the environment to the project that the key belongs to"


@pytest.mark.parametrize(
    "code, fix",
    [
        ("ip_not_authorized", "allow this machine's address where the key is managed"),
        ("account_deactivated", "check the account that the key belongs to: it is not active"),
        ("project_archived", "check the account that the key belongs to: it is not active"),
    ],
)
def test_what_a_new_key_does_not_change(judge: Judge, service: Service, code: str, fix: str) -> None:
    """The service says what is wrong, and another key would have the same."""
    service.answer = 401, JSON, error(code)
    found = judge()["OpenAI API Key"]
    assert (found.outcome, found.fix) == ("failed", fix)


@pytest.mark.parametrize("status, code", [(402, "insufficient_balance"), (402, None), (429, "billing_not_active")])
def test_an_account_without_money(judge: Judge, service: Service, status: int, code: str | None) -> None:
    """Neither the service's status page nor its log says anything about that."""
    service.answer = status, JSON, error(code)
    found = judge()["OpenAI API"]
    assert found.outcome == "failed"
    assert found.message.startswith(f"HTTP {status}, the account's quota")
    assert found.fix == "raise the account's quota or balance, or wait for its renewal"


@pytest.mark.parametrize("status", [407, 511])
def test_a_login_page_in_between(judge: Judge, service: Service, status: int) -> None:
    """Whoever wants a login is not the service: it is not said to be in trouble."""
    service.answer = status, HTML, "<form>"
    found = judge()["OpenAI API"]
    assert (found.outcome, found.fix) == (
        "unknown", "find out which program answers in place of the service: a firewall, a proxy or a login page",
    )  # fmt: skip
    assert found.message.endswith(f"demands a login first (HTTP {status})")


def test_a_used_up_quota(judge: Judge, service: Service) -> None:
    """It is a 429 as well, and waiting does not help."""
    service.answer = 429, JSON, error("insufficient_quota")
    found = judge()["OpenAI API"]
    assert (found.outcome, found.message) == ("failed", "HTTP 429, the account's quota is used up")


# Keys that cannot be.


@pytest.mark.slow
@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize(
    "key, where",
    [
        (f"{GOOD}\n", "its last character is U+000A (LINE FEED)"),
        (f"{GOOD[:4]}\u200b{GOOD[4:]}", "its character 5 is U+200B (ZERO WIDTH SPACE)"),
        (f"\u201c{GOOD}\u201d", "its character 1 is U+201C (LEFT DOUBLE QUOTATION MARK)"),
    ],
    ids=["line end", "zero width", "curly quotes"],
)
def test_a_key_that_no_header_can_carry(judge: Judge, service: Service, offline: bool, key: str, where: str) -> None:
    """It is certain, so it fails without asking anybody, and says which character it is, and where."""
    judged = judge(offline=offline, OPENAI_API_KEY=key)
    found, service_of_it = judged["OpenAI API Key"], judged["OpenAI API"]
    assert found.outcome == "failed"
    if not offline:
        # Neither the network nor the address is what to look at.
        assert (
            service_of_it.fix == "correct OPENAI_API_KEY first: the service is asked only with a key that can be sent"
        )
    carry = "OPENAI_API_KEY in the environment has a character that no HTTP header can carry"
    assert found.message.startswith(f"{carry}: {where}")
    assert not [request for request in service.seen if request[1] == "/models"]


# Where a value comes from.


@pytest.mark.slow
def test_an_empty_variable_hides_the_env_file(judge: Judge, file: Path) -> None:
    """The variable is named, and not the file, where the key is good; done as the fix says, it is found there."""
    found = judge(OPENAI_API_KEY="")["OpenAI API Key"]
    hides = f"the value in the environment hides the one in {file}:1"
    assert (found.outcome, found.message) == ("failed", f"OPENAI_API_KEY is empty in the environment; {hides}")
    assert found.fix == f"unset OPENAI_API_KEY  # {hides}"
    shell = f"export OPENAI_API_KEY=\n{found.fix}\nprintenv OPENAI_API_KEY || echo none"
    assert subprocess.run(["bash"], input=shell, capture_output=True, text=True, timeout=30).stdout == "none\n"
    assert judge()["OpenAI API Key"].message == "from the env file"


@pytest.mark.slow
@pytest.mark.parametrize("value", [WRONG, "paste-your-key-here", "sk-wr\u200bong", f'"{WRONG}"'])
def test_a_wrong_variable_hides_the_env_file(judge: Judge, service: Service, file: Path, value: str) -> None:
    """A key that is rejected, a placeholder, and one that cannot be sent: all come from the environment."""
    service.answer = 401, JSON, "{}"
    found = judge(OPENAI_API_KEY=value)["OpenAI API Key"]
    assert found.outcome == "failed"
    assert found.fix.startswith("unset OPENAI_API_KEY  # ")
    assert f"hides the one in {file}:1" in found.message


def test_a_variable_that_hides_nothing_good(judge: Judge, service: Service, file: Path) -> None:
    """Where the env file's is a placeholder, or is not there, there is nothing to fall back on."""
    service.answer = 401, JSON, "{}"
    file.write_text("OPENAI_API_KEY=paste-your-key-here\n")
    found = judge(OPENAI_API_KEY=WRONG)["OpenAI API Key"]
    assert found.fix == "make a new key and set OPENAI_API_KEY in the environment"
    file.write_text("OTHER=x\n")
    found = judge(OPENAI_API_KEY="")["OpenAI API Key"]
    assert found.message == "OPENAI_API_KEY is empty in the environment"
    assert found.fix == f"set OPENAI_API_KEY in the environment, or remove it there and set it in {file}"


def test_the_same_value_in_both(judge: Judge, service: Service, file: Path) -> None:
    """The environment's counts: a new key in the file would not be seen."""
    service.answer = 401, JSON, "{}"
    found = judge(OPENAI_API_KEY=GOOD)["OpenAI API Key"]
    assert found.details["source"] == "environment"
    assert found.fix == "make a new key and set OPENAI_API_KEY in the environment"


@pytest.mark.parametrize("status", [401, 403, 500])
def test_kept_quotes_around_a_key(judge: Judge, service: Service, file: Path, status: int) -> None:
    """`docker --env-file` keeps them: no new key is needed, and none helps."""
    service.answer = status, HTML, "<p>"
    file.write_text("")
    for offline in (False, True):
        found = judge(offline=offline, OPENAI_API_KEY=f'"{GOOD}"')["OpenAI API Key"]
        assert found.outcome == "failed"
        assert "has quotes around it, as `docker --env-file` keeps them" in found.message
        assert found.fix == "set OPENAI_API_KEY in the environment without quotes around it"


def test_quotes_inside_an_env_file(judge: Judge, service: Service, file: Path) -> None:
    """Those that are left when the file's own are gone: the file is named."""
    service.answer = 401, JSON, "{}"
    file.write_text(f"OPENAI_API_KEY='\"{GOOD}\"'\n")
    found = judge()["OpenAI API Key"]
    assert found.message.endswith(": it has quotes around it")
    assert found.fix == f"set OPENAI_API_KEY in {file} without quotes around it"


def test_a_service_that_takes_them(judge: Judge) -> None:
    """A key that the service has taken as it is, is good."""
    found = judge(OPENAI_API_KEY=f'"{GOOD}"')["OpenAI API Key"]
    assert (found.outcome, found.details["verified"]) == ("passed", True)


@pytest.mark.parametrize(
    "name, value",
    [
        ("TOKEN", '"0123456789abcdef0123"'), ("TOKEN", "'0123456789abcdef0123'"), ("PORT", "'8010'"),
        ("HOST", '"127.0.0.1"'), ("STATE_DIR", '"/tmp/x"'), ("NOTIFY", '"json://127.0.0.1:9/canary"'),
        ("IGNORE", '"OpenAI API Key"'), ("HOST", "\u201c127.0.0.1\u201d"),
    ],
)  # fmt: skip
def test_kept_quotes_around_a_setting(file: Path, name: str, value: str) -> None:
    """As a token they would lock everybody out. The place is named, and the value is not shown."""
    variable = f"PREFLIGHT_{name}"
    with pytest.raises(SettingsError) as caught:
        loading.load(ROOT, {"PREFLIGHT_ENV_FILE": str(file), variable: value})
    said = f"environment variable {variable} has quotes around its value, as `docker --env-file` keeps them"
    assert str(caught.value) == f"{said}: leave them out"
    other = "'" if '"' in value else '"'
    file.write_text(f"A=1\n{variable}={other}{value}{other}\n")
    with pytest.raises(SettingsError, match="has quotes around its value: leave them out") as caught:
        loading.load(ROOT, {"PREFLIGHT_ENV_FILE": str(file)})
    assert str(caught.value).startswith(f"{file}:2: {variable} ")
    assert value[1:-1] not in str(caught.value)


def test_an_empty_setting(file: Path) -> None:
    """Whoever has set a variable to nothing may have meant to take it away."""
    with pytest.raises(
        SettingsError, match=r"environment variable PREFLIGHT_TOKEN .*, and is empty: set it, or unset it"
    ):
        loading.load(ROOT, {"PREFLIGHT_ENV_FILE": str(file), "PREFLIGHT_TOKEN": ""})


@pytest.mark.slow
def test_a_token_of_the_environment(judge: Judge, file: Path) -> None:
    """One that is too short is mended where it comes from: a line in the env file would not count."""
    found = judge(PREFLIGHT_HOST="0.0.0.0", PREFLIGHT_TOKEN="short-1")["Exposure"]
    assert found.fix == f'export "$({template.new_token()})"  # or serve on 127.0.0.1'
    file.write_text("PREFLIGHT_TOKEN=0123456789abcdef-3f9a1c77e2\n")
    found = judge(PREFLIGHT_HOST="0.0.0.0", PREFLIGHT_TOKEN="short-1")["Exposure"]
    assert found.fix == f"unset PREFLIGHT_TOKEN  # the value in the environment hides the one in {file}:1"
    assert judge(PREFLIGHT_HOST="0.0.0.0")["Exposure"].outcome == "passed"


# Services, proxies and certificates.


def test_a_service_of_ones_own(judge: Judge, service: Service) -> None:
    """The public service's status page says nothing about it; the variable that names it does."""
    service.answer = 500, HTML, "<p>"
    found = judge()
    for title, name in (("OpenAI API", "OPENAI"), ("Perplexity API", "PERPLEXITY")):
        assert found[title].fix == (
            f"look at what 127.0.0.1:{service.port} logs; {name}_BASE_URL in the environment names it"
        )


@pytest.mark.parametrize(
    "base, page",
    [
        (LEFT_OUT, True), ("https://eu.api.openai.com/v1", True), ("https://openai.com.example/v1", False),
        ("https://api.openai.com@models.example/v1", False), ("http://notopenai.com/v1", False), ("http://[::1", False),
    ],
)  # fmt: skip
def test_whose_status_page_it_is(base: str, page: bool) -> None:
    """The page is about the hosts of one domain."""
    from preflight.ready.judges import judge_service
    from preflight.suite.probes.asking import Reply
    from preflight.suite.probes.network import openai

    environ = {} if base == LEFT_OUT else {"OPENAI_BASE_URL": base}
    chosen = loading.load(ROOT, environ, {"demo": True})
    details = Details()
    with pytest.raises(AssertionError):
        judge_service(
            "OpenAI", "OPENAI_BASE_URL", chosen, Reply(openai(environ).shown, status=500), details,
            domain="openai.com", status_page="https://status.openai.com",
        )  # fmt: skip
    assert ("status.openai.com" in details.fix) == page


@pytest.mark.slow
def test_a_base_url_that_hides_another_one(judge: Judge, service: Service, file: Path, nobody: int) -> None:
    """A service that cannot be reached because the environment says something else than the env file."""
    with file.open("a") as stream:
        stream.write(f"OPENAI_BASE_URL={service.url}\n")
    found = judge(OPENAI_BASE_URL=f"http://127.0.0.1:{nobody}")["OpenAI API"]
    assert found.fix == f"unset OPENAI_BASE_URL  # the value in the environment hides the one in {file}:3"
    assert judge(OPENAI_BASE_URL=LEFT_OUT)["OpenAI API"].outcome == "passed"


def test_a_proxy_that_is_down(judge: Judge, file: Path, nobody: int) -> None:
    """It is named without its password, by its variable, wherever that stands, and not as the service."""
    with file.open("a") as stream:
        stream.write(f"HTTP_PROXY=http://me:{PASSWORD}@127.0.0.1:{nobody}\n")
    found = judge()
    said = f"the proxy http://127.0.0.1:{nobody} (HTTP_PROXY): connection refused"
    assert (found["OpenAI API"].outcome, found["OpenAI API"].message) == ("unknown", said)
    assert found["OpenAI API Key"].message == f"from the env file, not verified: {said}"
    assert found["OpenAI API"].fix == f"repair the proxy, or set HTTP_PROXY in {file} to one that answers"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_hangs(judge: Judge, scheme: str) -> None:
    """It takes the connection and says nothing: every message names it, also the first one."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        login = url.replace("//", f"//me:{PASSWORD}@")
        environ = {"HTTP_PROXY": login, "HTTPS_PROXY": login, "OPENAI_BASE_URL": f"{scheme}://service.invalid/v1"}
        found = judge(timeout=0.5, **environ)
    for title in ("OpenAI API Key", "OpenAI API"):
        assert f"the proxy {url} ({scheme.upper()}_PROXY)" in found[title].message, found[title]
    assert "PROXY" in found["OpenAI API"].fix


def test_a_proxy_that_wants_a_password(judge: Judge) -> None:
    """Its answer is none of the service's, and certain."""
    with Proxy("me:secret") as proxy:
        found = judge(http_proxy=proxy.url.replace("//", f"//me:{PASSWORD}@"))
    said = f"the proxy {proxy.url} (http_proxy) refuses the user and the password (HTTP 407)"
    assert (found["OpenAI API"].outcome, found["OpenAI API"].message) == ("failed", said)
    assert found["OpenAI API"].fix == "set http_proxy in the environment with the proxy's user and password in it"
    assert found["OpenAI API Key"].message == f"from the env file, not verified: {said}"


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("SSL_CERT_FILE", "/nowhere/ca.pem", "names a file or folder that cannot be read: No such file or directory"),
        ("HTTPS_PROXY", "socks4://h:1", "is not the URL of a proxy (http, https, socks5 or socks5h)"),
        ("HTTPS_PROXY", '"http://127.0.0.1:1"', "is not the URL of a proxy (http, https, socks5 or socks5h)"),
        ("OPENAI_BASE_URL", "api.example", "is not a valid http:// or https:// URL"),
        ("OPENAI_ORG_ID", "org\u200b", "has a character that no HTTP header can carry: its last character is U+200B"),
    ],
)
@pytest.mark.parametrize("filed", [False, True], ids=["environment", "env file"])
def test_a_client_that_cannot_be_built(judge: Judge, file: Path, name: str, value: str, said: str, filed: bool) -> None:
    """It is certain that nobody gets an answer, so it fails, offline too, and the place is named."""
    if filed:
        other = "'" if '"' in value else '"'
        file.write_text(f"{file.read_text()}{name}={other}{value}{other}\n")
    where, at = (f"in {file}:3", f"in {file}") if filed else ("in the environment", "in the environment")
    for offline in (False, True):
        found = judge(offline=offline, **{name: LEFT_OUT if filed else value})
        client = found["OpenAI Client"]
        assert client.outcome == "failed"
        assert client.message.startswith(f"the client cannot be built: {name} {where} {said}")
        assert ("quotes around it" in client.message) == ('"' in value)
        assert client.fix == f"correct {name} {at}, or remove it there"
        assert not found["OpenAI API Key"].details["verified"]


def test_a_client_that_nobody_needs(judge: Judge, file: Path) -> None:
    """Without a key the embedded model answers."""
    file.write_text("")
    assert judge(SSL_CERT_FILE="/nowhere/ca.pem")["OpenAI Client"].message == "not needed: no key is loaded"


@pytest.mark.parametrize("name", ["OPENAI_MODEL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "NO_PROXY"])
def test_kept_quotes_around_what_the_client_reads(judge: Judge, service: Service, name: str) -> None:
    """They do not keep the client from being built, and make something else of the value."""
    service.answer = 401, JSON, "{}"
    found = judge(**{name: '"something"'})["OpenAI Client"]
    assert found.message.startswith(f"{name} in the environment has quotes around it, as `docker")
    assert found.fix == f"set {name} in the environment without quotes around it"
    service.answer = None
    assert judge(**{name: '"something"'})["OpenAI Client"].outcome == ("failed" if "MODEL" in name else "passed")


@pytest.mark.parametrize("status", [403, 502, 200])
def test_an_answer_that_may_be_a_proxys(judge: Judge, service: Service, status: int) -> None:
    """Without TLS a proxy can answer in the service's place: it is named as well."""
    service.answer = status, HTML, "<p>"
    with Proxy() as proxy:
        found = judge(http_proxy=proxy.url)
    assert f"HTTP {status}" in found["OpenAI API"].message
    assert f", through the proxy {proxy.url} (http_proxy)" in found["OpenAI API"].message
    assert found["OpenAI Client"].message == f"asks 127.0.0.1:{service.port} through the proxy {proxy.url} (http_proxy)"


def test_a_key_that_comes_back_as_a_code(judge: Judge, service: Service) -> None:
    """Part of a key is not found by its value: only words are taken over."""
    service.answer = 401, JSON, error(f"wrong_{GOOD[:12]}")
    assert judge()["OpenAI API Key"].message.endswith("(HTTP 401, request_forbidden)")


@pytest.mark.slow
@pytest.mark.parametrize(
    "environ, fix",
    [
        ({"REQUESTS_CA_BUNDLE": "/ca.pem"}, "set SSL_CERT_FILE to what REQUESTS_CA_BUNDLE names"),
        ({"SSL_CERT_DIR": "/nowhere"}, "check what SSL_CERT_DIR in the environment names"),
        ({}, "set SSL_CERT_FILE to a file with the certificates to trust"),
    ],
)
@pytest.mark.skipif(OPENSSL is None, reason="no openssl to make certificates with")
def test_a_certificate_that_is_not_trusted(judge: Judge, tmp_path: Path, environ: dict[str, str], fix: str) -> None:
    """The fix names the variable that the agent's client reads, and the one that is set."""
    with Service(Authority(tmp_path).certificate) as secure:
        found = judge(OPENAI_BASE_URL=secure.url, **environ)["OpenAI API"]
    assert found.message.startswith(f"127.0.0.1:{secure.port}: TLS failed: unable to get local issuer certificate")
    assert found.fix.startswith(fix)
