"""/docs: every route of the server, on a narrow screen too, each linked that a browser can open."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urljoin

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser
from starlette.routing import Route, WebSocketRoute

from server.app import create_app
from tests.e2e.browser import chromium
from tests.e2e.place import Place
from tests.waiting import PATIENCE

TOKEN = "a-token-of-more-than-16-characters"
LINK = re.compile(r'<a href="([^"]*)">')


def look(browser: Browser, url: str, headers: dict[str, str]) -> None:
    """Nothing on it is cut or has to be scrolled to sideways, in either scheme, and axe-core has nothing to say."""
    with browser.new_context(extra_http_headers=headers) as context:
        page = context.new_page()
        page.goto(f"{url}/docs")
        schemes: tuple[tuple[int, Literal["light", "dark"]], ...] = ((360, "light"), (360, "dark"), (1200, "light"))
        for width, scheme in schemes:
            page.set_viewport_size({"width": width, "height": 740})
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("innerWidth") == width
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            parts = "[...document.querySelectorAll('main *')]"
            cut = f"{parts}.filter(one => one.getBoundingClientRect().right > innerWidth)"
            assert page.evaluate(f"{cut}.map(one => one.outerHTML)") == []
            fonts = page.evaluate("getComputedStyle(document.querySelector('.routes .path code')).fontFamily")
            assert "mono" in fonts, "the style sheets are there"
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("token", ["", TOKEN], ids=["local", "token"])
def test_every_route(place: Place, token: str) -> None:
    """Each GET that has nothing to fill in is linked, and every link leads to what there is.

    The two kinds of routes: what the application has is what stands there. On a narrow screen it can be read.
    """
    place.start("--demo", **({"PREFLIGHT_TOKEN": token} if token else {})).until_ready()
    url, headers = place.url, {"Authorization": f"Bearer {token}"} if token else {}
    text = requests.get(f"{url}/docs", headers=headers, timeout=PATIENCE).text
    linked = {urljoin("/docs", link) for link in LINK.findall(text)}
    paths = requests.get(f"{url}/openapi.json", headers=headers, timeout=PATIENCE).json()["paths"]
    open_ones = {path for path, methods in paths.items() if "get" in methods and "{" not in path}
    assert linked == open_ones - (set() if token else {"/login"})
    for path in linked:
        assert requests.get(f"{url}{path}", headers=headers, timeout=PATIENCE).status_code == 200, path
    rows = re.findall(r'<code class="method">(\w+)</code> <span class="path">(?:<a [^>]*>)?<code>([^<]*)</code>', text)
    routes = create_app().router.routes
    assert {path for method, path in rows if method == "WS"} == {
        route.path for route in routes if isinstance(route, WebSocketRoute)
    }
    assert {path for method, path in rows if method != "WS"} == {
        route.path_format
        for route in routes
        if isinstance(route, Route) and not route.path.startswith("/fleet")  # there is no database
    }
    for path in ("/ws/chat", "/ws/diagnostics"):
        assert f"<code>{path}</code>" in text
    if token:  # there is everything that there can be
        with chromium() as browser:
            look(browser, url, headers)
