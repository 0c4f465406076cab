"""/docs: every route of the server, on a narrow screen too, each linked that a browser can open."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urljoin

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from starlette.routing import Route, WebSocketRoute

from server.app import create_app
from tests.e2e.browser import chromium
from tests.e2e.place import Place, make_place
from tests.waiting import PATIENCE

TOKEN = "a-token-of-more-than-16-characters"
LINK = re.compile(r'<a href="([^"]*)">')


@pytest.fixture(scope="module", params=[{}, {"PREFLIGHT_TOKEN": TOKEN}], ids=["local", "token"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Where a server is that no test changes, and its token."""
    place: Place = make_place(tmp_path_factory.mktemp("docs") / "place")
    instance = place.start("--demo", **request.param).until_ready()
    yield place.url, request.param.get("PREFLIGHT_TOKEN", "")
    instance.stop()
    place.close()


def test_a_narrow_screen(served: tuple[str, str]) -> None:
    """Nothing on it is cut or has to be scrolled to sideways, in either scheme, and axe-core has nothing to say."""
    url, token = served
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with chromium() as browser:
        for width, scheme in ((360, "light"), (360, "dark"), (1200, "light")):
            with browser.new_context(
                viewport={"width": width, "height": 740},
                color_scheme=scheme,  # type: ignore[arg-type]  # one of its literals
                extra_http_headers=headers,
            ) as context:
                page = context.new_page()
                page.goto(f"{url}/docs")
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                parts = "[...document.querySelectorAll('main *')]"
                cut = f"{parts}.filter(one => one.getBoundingClientRect().right > innerWidth)"
                assert page.evaluate(f"{cut}.map(one => one.outerHTML)") == []
                fonts = page.evaluate("getComputedStyle(document.querySelector('.routes .path code')).fontFamily")
                assert "mono" in fonts, "the style sheets are there"
                found = Axe().run(page)
                assert found.violations_count == 0, found.generate_report()


def test_links(served: tuple[str, str]) -> None:
    """Each GET that has nothing to fill in is linked, and every link leads to what there is."""
    url, token = served
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    text = requests.get(f"{url}/docs", headers=headers, timeout=PATIENCE).text
    linked = {urljoin("/docs", link) for link in LINK.findall(text)}
    paths = requests.get(f"{url}/openapi.json", headers=headers, timeout=PATIENCE).json()["paths"]
    open_ones = {path for path, methods in paths.items() if "get" in methods and "{" not in path}
    assert linked == open_ones - (set() if token else {"/login"})
    for path in linked:
        assert requests.get(f"{url}{path}", headers=headers, timeout=PATIENCE).status_code == 200, path


def test_every_websocket(served: tuple[str, str]) -> None:
    """The two kinds of routes: what the application has is what stands there."""
    url, token = served
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    text = requests.get(f"{url}/docs", headers=headers, timeout=PATIENCE).text
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
