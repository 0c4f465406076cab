"""Applications of the frameworks that teams use, guarded in a few lines each, with nothing but the wheel installed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, expect

from tests.e2e.beside import link_of
from tests.e2e.browser import chromium
from tests.e2e.clients import Clients
from tests.e2e.place import BLOCKED, READY, Place, Started, get
from tests.packages.environments import make_environment, place_in, with_extra
from tests.waiting import PATIENCE

LINES = (
    "preflight --init",
    "preflight --check-only",  # in CI
    "preflight",
)
"""All that is typed after `pip install 'pytest-preflight[web]'`."""

FASTAPI = """
import os

from fastapi import FastAPI

DATABASE_URL = os.environ["DATABASE_URL"]
app = FastAPI()


@app.get("/")
async def home() -> str:
    return "hello from FastAPI"
"""
LITESTAR = """
import os

from litestar import Litestar, get

GREETING = os.environ["GREETING"]


@get("/")
async def home() -> str:
    return GREETING


app = Litestar([home])
"""
DATASETTE = """
import os

from datasette.app import Datasette

app = Datasette([os.environ["SHOP_DB"]], crossdb=False).app()
"""
FASTMCP = """
import os

from fastmcp import FastMCP
from starlette.responses import PlainTextResponse

mcp = FastMCP("Shop")
REGION = os.environ["REGION"]


@mcp.tool
def add(a: int, b: int) -> int:
    return a + b


@mcp.custom_route("/", methods=["GET"])
async def home(request):
    return PlainTextResponse("hello from " + REGION)


app = mcp.http_app(stateless_http=True)
"""
QUART = """
import os

from quart import Quart

app = Quart(__name__)
GREETING = os.environ["GREETING"]


@app.get("/")
async def home():
    return GREETING
"""


def makes_database(place: Place) -> None:
    """The database that Datasette shows."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(place.root / "shop.db")) as database:
        database.execute("create table articles (title)")


def starts_project(place: Place) -> None:
    """What Django's own command makes, with a secret key that is nobody else's."""
    made = place.spawn("django-admin", "startproject", "mysite", ".")
    assert made.wait() == 0, made.output
    settings = place.root / "mysite" / "settings.py"
    text = settings.read_text()
    inherited = re.sub(r"^SECRET_KEY = .*$", 'SECRET_KEY = os.environ["SECRET_KEY"]', text, flags=re.MULTILINE)
    settings.write_text(inherited.replace("from pathlib import Path\n", "import os\nfrom pathlib import Path\n"))


@dataclass(frozen=True)
class Application:
    """What a team has before it knows of us, and the variable without which its application does not start."""

    variable: str
    value: str
    file: str
    source: str = ""
    shows: str = ""
    prepare: Callable[[Place], None] = field(default=lambda place: None)


APPLICATIONS = {
    "fastapi": Application("DATABASE_URL", "postgresql://db/shop", "main.py", FASTAPI, "hello from FastAPI"),
    "litestar": Application("GREETING", "hello from Litestar", "app.py", LITESTAR, "hello from Litestar"),
    "django": Application("SECRET_KEY", "k" * 50, "mysite/settings.py", shows="Django", prepare=starts_project),
    "datasette": Application("SHOP_DB", "shop.db", "shop.py", DATASETTE, "articles", makes_database),
    "fastmcp": Application("REGION", "eu", "tools.py", FASTMCP, "hello from eu"),
    "quart": Application("GREETING", "hello from Quart", "app.py", QUART, "hello from Quart"),
}


@pytest.fixture(scope="session")
def environment_of(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Callable[[str], Path]:
    """An environment with one framework and the wheel, made once."""

    @cache
    def make(framework: str) -> Path:
        return make_environment(tmp_path_factory.mktemp(framework) / "venv", framework, with_extra(wheel))

    return make


@dataclass
class Adopted:
    """A project that has been guarded by the lines above."""

    application: Application
    place: Place

    def type(self, line: str, *, complete: bool = True) -> Started:
        """Type a line in the project's folder, with the variable set or without it."""
        variables = {self.application.variable: self.application.value} if complete else {}
        return self.place.spawn("bash", "-c", f"exec {line}", environ=variables)

    def ends(self, line: str, code: int = 0, *, complete: bool = True) -> str:
        one = self.type(line, complete=complete)
        assert one.wait() == code, f"{line}\n{one.output}"
        return one.output

    @property
    def needs(self) -> str:
        """Where the code reads the variable: file and line."""
        lines = (self.place.root / self.application.file).read_text().splitlines()
        (number,) = [n for n, line in enumerate(lines, 1) if f'os.environ["{self.application.variable}"]' in line]
        return f"{self.application.file}:{number}"


@pytest.fixture(params=APPLICATIONS)
def adopted(request: pytest.FixtureRequest, tmp_path: Path, environment_of: Callable[[str], Path]) -> Iterator[Adopted]:
    """A framework's project after `preflight --init`."""
    application = APPLICATIONS[request.param]
    place = place_in(tmp_path, environment_of(request.param))
    if application.source:
        (place.root / application.file).write_text(application.source.lstrip())
    application.prepare(place)
    adopted = Adopted(application, place)
    wrote = adopted.ends(LINES[0])
    assert f'critical "Variable {application.variable}": {adopted.needs} needs the variable' in wrote
    yield adopted
    place.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all of these tests."""
    expect.set_options(timeout=1000 * PATIENCE)
    with chromium() as browser:
        yield browser


def look_at_page(browser: Browser, started: Started) -> None:
    """The printed link leads to the page, which shows the project's own requirement and is live."""
    context = browser.new_context()
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("response", lambda answer: faults.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    page.goto(link_of(started))
    assert page.url == f"{started.url}/_preflight/"
    expect(page.locator("#link-text")).to_have_text("Live")
    expect(page.locator("#verdict")).to_have_text("Ready")
    expect(page.locator("body")).to_contain_text("Variable ")
    assert faults == []
    context.close()


def test_it_is_guarded(adopted: Adopted, browser: Browser) -> None:
    """It serves after a good check, has its page, and the next start replaces it with no request lost."""
    assert 1 + len(LINES) <= 5
    first = adopted.type(LINES[2]).until_says(READY)
    status, text = get(first.url)
    assert (status, adopted.application.shows in text) == (200, True), text
    assert json.loads(get(f"{first.url}/_preflight/health")[1])["status"] == "healthy"
    assert requests.get(f"{first.url}/_preflight/diagnostics", timeout=PATIENCE).status_code == 401
    look_at_page(browser, first)
    with Clients(first.port, path="/") as clients:
        second = adopted.type(LINES[2]).until_says(READY)
        assert first.wait() == 0, first.output
        clients.go_on()
    clients.lost_nothing()
    assert second.stop() == 0
    second.left_nothing()


def test_what_is_missing_is_named(adopted: Adopted) -> None:
    """Without the variable nothing is served: the requirement names it, and the application says where it is read."""
    said = adopted.ends(LINES[2], 1, complete=False)
    assert READY not in said
    name = adopted.application.variable
    told = said.partition(BLOCKED)[2]
    assert re.search(rf"❌ Variable {name}\n +{name} is not set, and {adopted.application.file} needs it\n", told)
    assert f"Fix: set {name} in the environment or in .env" in told
    assert re.search(rf"KeyError: '{name}' \((\S+/)?{adopted.needs.rpartition('/')[2]}\)", told)


def test_the_line_for_ci(adopted: Adopted) -> None:
    """It says something true at once, and so does pytest, which is as before where nobody names a suite."""
    assert "blocks" not in adopted.ends(LINES[1])
    adopted.ends(LINES[1], 1, complete=False)
    annotations = adopted.ends(f"{LINES[1]} --format github", 1, complete=False)
    assert f"title=Variable {adopted.application.variable}::" in annotations
    plain = "pytest --pyargs preflight.requirements preflight_suite -m critical"
    adopted.ends(plain)
    adopted.ends(plain, 1, complete=False)
    adopted.ends("pytest", 5)
