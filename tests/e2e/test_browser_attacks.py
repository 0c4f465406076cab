"""Web pages against the server on the same machine, in real headless Chromium: other origins and rebound names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.e2e.browser import chromium, site
from tests.e2e.place import ROOT, Place, Started, make_place

TOKEN = "canary-Zq7vXw2LmN8pRt4KdY6hJb3F"
EVIL = "evil.test"

# What a page can try. Each answers with what it got hold of; "blocked" is nothing.
ATTEMPTS = """
(base) => {
    const ws = base.replace("http", "ws") + "/ws/chat";
    const socket = (...protocols) => new Promise((done) => {
        const one = new WebSocket(ws, protocols);
        one.onmessage = (event) => { done("opened: " + event.data); one.close(); };
        one.onerror = one.onclose = () => done("blocked");
    });
    const read = (path, options) => fetch(base + path, options).then(
        async (answer) => answer.type === "opaque" || !answer.ok ? "blocked" : "read: " + await answer.text(),
        () => "blocked");
    const element = (name, attribute, path) => new Promise((done) => {
        const one = document.createElement(name);
        one.onload = () => done("loaded");
        one.onerror = () => done("blocked");
        one[attribute] = base + path;
        document.body.append(one);
    });
    const frame = (path) => new Promise((done) => {
        const one = document.createElement("iframe");
        one.onload = () => {
            try { done(one.contentDocument.body.innerText ? "framed" : "blocked"); } catch { done("blocked"); }
        };
        one.src = base + path;
        document.body.append(one);
    });
    return Promise.all([
        socket(), socket("preflight.v1"),
        read("/diagnostics"), read("/diagnostics", {mode: "no-cors"}), read("/diagnostics", {credentials: "include"}),
        read("/sessions"), read("/docs"),
        read("/diagnostics/run", {method: "POST"}),
        read("/diagnostics/run", {method: "POST", mode: "no-cors", body: "{}"}),
        read("/diagnostics/run", {method: "POST", credentials: "include", headers: {"X-A": "1"}}),
        read("/sessions", {method: "DELETE"}),
        element("script", "src", "/diagnostics"), element("img", "src", "/diagnostics"),
        element("script", "src", "/chat/schema.json"),
        frame("/diagnostics"), frame("/docs"),
    ]);
}
"""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Started]]:
    """One that trusts the local user, one with a token."""
    places = {name: make_place(tmp_path_factory.mktemp(name) / "place") for name in ("local", "token")}
    found = {
        "local": places["local"].start("--demo"),
        "token": places["token"].start("--demo", PREFLIGHT_TOKEN=TOKEN),
    }
    for started in found.values():
        started.until_ready()
    yield found
    for started in found.values():
        started.stop()
    for place in places.values():
        place.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium for which evil.test is this machine: what a rebound name is once its owner has changed the answer."""
    with chromium(f"--host-resolver-rules=MAP {EVIL} 127.0.0.1") as one:
        yield one


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


class Answers:
    """Every HTTP answer that comes from now on, those that the page itself must not see too."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._asked: dict[str, tuple[str, str]] = {}
        self._answered: dict[str, int] = {}
        protocol = page.context.new_cdp_session(page)
        protocol.on("Network.requestWillBeSent", self._sent)
        protocol.on("Network.responseReceivedExtraInfo", self._received)
        protocol.send("Network.enable")

    def _sent(self, event: dict[str, Any]) -> None:
        request = event["request"]
        self._asked[event["requestId"]] = request["method"], "/" + request["url"].split("/", 3)[-1]

    def _received(self, event: dict[str, Any]) -> None:
        self._answered[event["requestId"]] = event["statusCode"]

    def seen(self, *expected: tuple[str, str]) -> set[tuple[str, str, int]]:
        """Method, path and status of each, once there are some for those expected."""
        for _ in range(200):
            found = {(*self._asked[one], status) for one, status in self._answered.items() if one in self._asked}
            if {one[:2] for one in found} >= set(expected):
                return found
            self._page.wait_for_timeout(25)
        raise AssertionError(f"no answer to one of {expected}: {found}")


TRIED = [("GET", "/diagnostics"), ("GET", "/sessions"), ("GET", "/docs"), ("POST", "/diagnostics/run")]


def log_in(page: Page, url: str) -> None:
    page.goto(f"{url}/login")
    page.fill("#token", TOKEN)
    page.click("button")
    page.wait_for_url(f"{url}/")


def test_the_attempts_succeed_for_our_own_page(page: Page, servers: dict[str, Started]) -> None:
    """The attempts themselves are good ones: a page of the server's own gets hold of what it asks for."""
    url = servers["local"].url
    page.goto(f"{url}/docs")
    got: list[str] = page.evaluate(ATTEMPTS, url)
    assert [answer.partition(":")[0] for answer in got[:4]] == ["opened", "opened", "read", "read"]
    assert [answer.partition(":")[0] for answer in got[5:7]] == ["read", "read"]
    assert "deleted" in got[10]


@pytest.mark.parametrize("as_user", ["local", "token"])
def test_another_origin(browser: Browser, servers: dict[str, Started], as_user: str) -> None:
    """A page on another origin opens no chat, reads nothing and starts nothing, logged in or not."""
    server = servers[as_user]
    with site("<!DOCTYPE html><title>Evil</title><p>Win a prize") as port, browser.new_context() as context:
        page = context.new_page()
        if as_user == "token":
            log_in(page, server.url)
        for origin in ("127.0.0.1", "localhost", EVIL):
            page.goto(f"http://{origin}:{port}/")
            answers = Answers(page)
            got: list[str] = page.evaluate(ATTEMPTS, server.url)
            assert set(got) == {"blocked"}, (origin, got)
            # It was the server that refused, and not the browser alone, which would have hidden a good answer as well.
            seen = answers.seen(*TRIED)
            assert {status for method, path, status in seen if (method, path) in TRIED} == {403}, origin
            assert not [one for one in seen if one[2] < 400 and one[1] != "/favicon.ico"], origin


@pytest.mark.parametrize("environ", [{}, {"PREFLIGHT_TOKEN": TOKEN}], ids=["local", "token"])
def test_a_rebound_name(page: Page, place: Place, environ: dict[str, str]) -> None:
    """A page whose own name leads to the server by now, so that the browser sees one origin, gets nothing either."""
    base = f"http://{EVIL}:{place.port}"
    with site("<!DOCTYPE html><title>Evil</title><p>Win a prize", place.port):
        page.goto(f"{base}/")
    place.start("--demo", **environ).until_ready()
    # The name leads here indeed: health, which orchestrators ask under any name, answers.
    assert '"status":"healthy"' in page.evaluate("(base) => fetch(base + '/health').then((one) => one.text())", base)
    answers = Answers(page)
    got: list[str] = page.evaluate(ATTEMPTS, base)
    assert set(got) == {"blocked"}, got
    assert {status for _, _, status in answers.seen(*TRIED, ("DELETE", "/sessions"))} == {421}


def test_forms_of_others(page: Page, servers: dict[str, Started]) -> None:
    """A form on another site, sent by itself, changes nothing: not the state, not the login."""
    server = servers["token"]
    log_in(page, server.url)
    for action in ("/diagnostics/run", "/logout", "/login"):
        form = f'<form method="post" action="{server.url}{action}"><input name="token" value="{TOKEN}"></form>'
        with site(f"<!DOCTYPE html>{form}<script>document.forms[0].submit()</script>") as port:
            answers = Answers(page)
            page.goto(f"http://{EVIL}:{port}/")
            page.wait_for_url(f"{server.url}{action}")
        assert ("POST", action, 403) in answers.seen(("POST", action))
        page.goto(f"{server.url}/diagnostics?format=json")
        assert "run_id" in page.content(), action


def test_a_person_in_a_browser(page: Page, servers: dict[str, Started]) -> None:
    """Led to the form, told when it is the wrong token, let in with the right one, and out again."""
    url = servers["token"].url
    faults: list[str] = []
    page.on("console", lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None)
    page.goto(f"{url}/diagnostics")
    assert page.url == f"{url}/login?next=/diagnostics"
    page.get_by_label("Token").fill("not it")
    page.get_by_role("button", name="Log in").click()
    assert page.get_by_role("alert").inner_text() == "The token is wrong."
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{url}/diagnostics")
    page.wait_for_selector("#verdict:text-is('Ready')")
    assert page.evaluate("document.cookie") == f"preflight_{servers['token'].port}_login=1"  # no proof of anything
    cookie = next(one for one in page.context.cookies() if one["name"] == f"preflight_{servers['token'].port}")
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert TOKEN not in cookie["value"]
    page.goto(f"{url}/docs")
    status = page.evaluate("fetch('/logout', {method: 'POST'}).then((one) => one.status + one.url)")
    assert status == f"200{url}/login"
    page.goto(f"{url}/diagnostics")
    assert page.url.startswith(f"{url}/login")
    assert faults == []


def test_the_documented_subprotocol(page: Page, place: Place) -> None:
    """The line of docs/chat.md with which a listed origin's page opens the chat, and no other origin's page does."""
    text = (ROOT / "docs" / "chat.md").read_text(encoding="utf-8")
    line = re.search(r"```javascript\n(const chat = new WebSocket\([^`]*?preflight\.token.*?)```", text, re.DOTALL)
    assert line is not None
    program = (
        "(token) => new Promise((done) => {"
        + line[1].replace("127.0.0.1:8002", f"127.0.0.1:{place.port}")
        + "; chat.onerror = () => done('refused'); chat.onmessage = ({data}) => done(chat.protocol + data); })"
    )
    opened = []
    with site("<!DOCTYPE html><p>Ours") as ours, site("<!DOCTYPE html><p>Evil") as evil:
        listed = f"http://{EVIL}:{ours}"
        place.start("--demo", PREFLIGHT_TOKEN=TOKEN, PREFLIGHT_ALLOWED_ORIGINS=listed).until_ready()
        for port in (ours, evil):
            page.goto(f"http://{EVIL}:{port}/")
            opened.append(page.evaluate(program, TOKEN))
    assert opened[0].startswith('preflight.v1{"type": "connected"'), opened
    assert opened[1] == "refused"
