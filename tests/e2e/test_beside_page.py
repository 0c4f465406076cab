"""The page under a prefix, in a real browser, and what a script in a page of the application can make of its login."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from tests.e2e.beside import PREFIX, link_of
from tests.e2e.browser import chromium
from tests.e2e.place import Place, Started
from tests.waiting import PATIENCE

SHOP = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        headers = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"<title>Shop</title><h1>Shop</h1>"})
"""

# What somebody can try who has got a script into a page of the application. "blocked" is nothing.
ATTEMPTS = """
(base) => {
    const told = (text) => text.includes("run_id") || text.includes("preflight-nonce") || text.includes("preflight_");
    const read = (path, options) => fetch(base + path, options).then(
        async (answer) => !answer.ok ? "blocked" : told(await answer.text()) ? "read" : "nothing in it",
        () => "blocked");
    const asked = (path) => new Promise((done) => {
        const one = new XMLHttpRequest();
        one.onload = () => done(one.status < 300 ? "read" : "blocked");
        one.onerror = () => done("blocked");
        one.open("POST", base + path);
        one.send();
    });
    const socket = (...protocols) => new Promise((done) => {
        const one = new WebSocket(location.origin.replace("http", "ws") + base + "/ws/diagnostics", protocols);
        one.onmessage = () => done("opened");
        one.onerror = one.onclose = () => done("blocked");
    });
    const framed = (name, attribute) => new Promise((done) => {
        const one = document.createElement(name);
        const look = () => {
            try {
                const text = one.contentDocument?.documentElement?.outerHTML ?? "";
                done(told(text) ? "framed" : "blocked");
            } catch { done("blocked"); }
        };
        one.onload = one.onerror = look;
        setTimeout(look, 3000);
        one[attribute] = base + "/";
        document.body.append(one);
    });
    const window_ = () => new Promise((done) => {
        const other = open(base + "/");
        setTimeout(() => {
            try {
                const text = other?.document?.documentElement?.outerHTML ?? "";
                done(told(text) ? "opened" : "blocked");
            } catch { done("blocked"); }
        }, 3000);
    });
    return Promise.all([
        read("/"), read("/", {credentials: "include", headers: {Accept: "text/html"}}), read("/diagnostics"),
        read("/diagnostics", {cache: "force-cache"}), read("/", {cache: "force-cache"}),
        read("/", {referrer: base + "/"}), read("/metrics"), read("/diagnostics/history"),
        read("/diagnostics/run", {method: "POST"}), asked("/diagnostics/run"),
        read("/diagnostics/run", {method: "POST", headers: {"X-Preflight-Nonce": "x"}}),
        socket(), socket("preflight.v1"), framed("iframe", "src"), framed("object", "data"), framed("embed", "src"),
        window_(),
    ]);
}
"""
FORM = """
(target) => {
    const form = document.createElement("form");
    form.method = "post";
    form.action = target;
    document.body.append(form);
    form.submit();
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all of these tests."""
    expect.set_options(timeout=1000 * PATIENCE)
    with chromium() as browser:
        yield browser


@pytest.fixture
def shop(place: Place) -> Started:
    """An application with pages of its own, and our routes beside it."""
    place.write_module("shop", SHOP)
    return place.start("--demo", "--app", "shop:app").until_ready()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    yield context
    context.close()


def test_the_page(shop: Started, context: BrowserContext) -> None:
    """The printed link leads to it; it follows the server live, has no chat, checks again and logs out.

    On a narrow screen as on a wide one it scrolls to no side.
    """
    page = context.new_page()
    page.set_viewport_size({"width": 1280, "height": 800})
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("response", lambda answer: faults.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    page.goto(link_of(shop))
    assert page.url == f"{shop.url}{PREFIX}/"
    expect(page.locator("#link-text")).to_have_text("Live")
    expect(page.locator("#verdict")).to_have_text("Ready")
    expect(page.locator("#facts")).to_contain_text("healthy")
    expect(page.locator("#facts")).not_to_contain_text("Chats")
    assert page.locator("#chat").count() == 0
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("[innerWidth, document.documentElement.scrollWidth <= innerWidth]") == [width, True]
    page.get_by_role("button", name="Check again").click()
    expect(page.locator("#when")).to_contain_text("by a re-run")
    expect(page.locator(".past-run")).to_have_count(2)
    page.locator(".past-run").first.click()
    expect(page.locator("#verdict")).to_have_text("Ready, back then")
    page.reload()
    expect(page.locator("#link-text")).to_have_text("Live")
    page.goto(f"{shop.url}{PREFIX}/docs")
    expect(page.locator("h1")).to_contain_text("shop:app")
    page.get_by_role("link", name="/health", exact=True).click()
    assert page.url == f"{shop.url}{PREFIX}/health"
    assert faults == []
    page.goto(f"{shop.url}{PREFIX}")  # without the slash
    expect(page.locator("#link-text")).to_have_text("Live")
    page.get_by_role("button", name="Log out").click()
    expect(page.locator("h1")).to_have_text("Log in")
    expect(page.locator("main")).to_contain_text("Open the link that the start of this server has printed")
    page.goto(f"{shop.url}{PREFIX}/diagnostics")
    expect(page.locator("h1")).to_have_text("Log in")
    page.goto(f"{shop.url}/")
    expect(page.locator("h1")).to_have_text("Shop")


def test_a_script_in_a_page_of_the_application(shop: Started, context: BrowserContext) -> None:
    """It has the origin and the cookie, and gets hold of nothing: no report, no nonce, no re-run."""
    page = context.new_page()
    page.goto(link_of(shop))
    expect(page.locator("#link-text")).to_have_text("Live")
    expect(page.locator(".past-run")).to_have_count(1)  # that of the start
    other = context.new_page()
    other.goto(f"{shop.url}/")
    found = other.evaluate(ATTEMPTS, PREFIX)
    assert set(found) == {"blocked"}, found
    assert other.evaluate("document.cookie") == ""
    attacking = context.new_page()
    attacking.goto(f"{shop.url}/")
    with attacking.expect_navigation() as navigation:
        attacking.evaluate(FORM, f"{PREFIX}/diagnostics/run")
    assert navigation.value is not None
    assert navigation.value.status == 403
    # The page itself goes on, and nothing has run.
    expect(page.locator("#link-text")).to_have_text("Live")
    expect(page.locator(".past-run")).to_have_count(1)


def test_a_login_with_the_token(place: Place, context: BrowserContext) -> None:
    """A browser that asks for something is led to the form, and from there to what it has asked for."""
    place.write_module("shop", SHOP)
    token = "canary-Zq7vXw2LmN8pRt4KdY6hJb3F"
    shop = place.start("--demo", "--app", "shop:app", PREFLIGHT_TOKEN=token).until_ready()
    page = context.new_page()
    page.goto(f"{shop.url}{PREFIX}/#run=x")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#link-text")).to_have_text("Live")
    page.wait_for_function("document.cookie.includes('_beside_login=1')")
