"""The fleet as an instance shows it: over HTTP, in a browser, and by the command."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonschema
import psycopg
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from preflight.web import schemas
from tests import databases
from tests.databases import PASSWORD, Postgres
from tests.e2e.browser import chromium
from tests.e2e.place import Place, Started, get, make_place
from tests.fleet import seeding
from tests.fleet.seeding import HOSTILE, KEY
from tests.waiting import PATIENCE, until

COUNT = 120
DOCUMENT = {
    "created": 1, "duration": 0.2, "exitcode": 1, "summary": {}, "tests": [],
    "preflight": {
        "schema": 1, "run_id": "a" * 32, "origin": "rerun", "status": "failed", "may_start": False,
        "started_at": "2026-01-02T03:04:05Z", "duration": 0.2, "selection": "all", "address": "10.0.0.3:8002",
        "reason": "", "python": "3.13.9", "machine": "Linux",
        "checks": [
            {
                "id": "t.py::test_key", "title": KEY, "requirement": "The key works.", "severity": "critical",
                "outcome": "failed", "message": HOSTILE, "fix": "make a new key", "details": {}, "duration": 0.1,
                "scope": "fleet",
            },
            {
                "id": "t.py::test_python", "title": "Python Version", "requirement": "It is new enough.",
                "severity": "critical", "outcome": "passed", "message": "3.13.9", "fix": "", "details": {},
                "duration": 0.1,
            },
        ],
    },
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Where a test starts an instance of its own."""
    place = make_place(tmp_path / "place")
    yield place
    place.close()


@pytest.fixture(scope="module")
def full(postgres: Postgres) -> str:
    """A database with a small fleet, one member of which is a hostile tenant's."""
    url = seeding.made(postgres.url(database=postgres.database()))
    seeding.fill(url, COUNT, DOCUMENT)
    seeding.poison(url)
    return url


@pytest.fixture(scope="module")
def served(full: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """An instance that serves, and has that database."""
    place = make_place(tmp_path_factory.mktemp("served") / "place")
    started = place.start("--demo", PREFLIGHT_DATABASE_URL=full).until_ready()
    until(lambda: instances(full) > COUNT + 2, "it has written itself down")
    yield started
    place.close()


def instances(url: str, state: str = "true") -> int:
    """How many there are in the database by now, these two included: the hostile tenant's and the one that serves."""
    with psycopg.connect(url) as connection:
        row = connection.execute(f"SELECT count(*) FROM preflight.instances WHERE {state}").fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=1000 * PATIENCE)
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, served: Started) -> Iterator[Page]:
    """The fleet's page, in which nothing goes wrong that the browser notices."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.goto(f"{served.url}/fleet")
    expect(page.locator(".instance")).to_have_count(50)
    yield page
    context.close()
    assert wrong == []


def answer(url: str, path: str, status: int = 200) -> Any:
    """The body of an answer with this status."""
    found, text = get(url + path)
    assert found == status, text
    return json.loads(text)


def until_away(url: str) -> Any:
    """The first answer that says that the database is away: others may be of a moment ago."""
    found = get(f"{url}/fleet?format=json", 60.0)
    while found[0] == 200:
        time.sleep(0.05)
        found = get(f"{url}/fleet?format=json", 60.0)
    assert found[0] == 503
    return json.loads(found[1])


def keeps_to(name: str, body: object) -> None:
    """The answer is what the OpenAPI document says of it."""
    components = {"components": {"schemas": schemas.SCHEMAS}}
    jsonschema.Draft202012Validator({**components, "$ref": f"#/components/schemas/{name}"}).validate(body)


def test_for_programs(full: str, served: Started) -> None:
    """At a glance, as a list, and one instance; each as the document says, and no control character in it."""
    fleet = answer(served.url, "/fleet")
    keeps_to("Fleet", fleet)
    assert (fleet["status"], fleet["problem"]) == ("reached", "")
    assert fleet["fleet"]["checks"][0]["title"] == KEY
    listed = answer(served.url, "/fleet/instances?limit=1000")
    keeps_to("FleetInstances", listed)
    assert listed["total"] == instances(full)
    assert answer(served.url, f"/fleet/instances?check={quote(KEY)}&state=blocked")["total"] == COUNT // 20
    blocked = answer(served.url, "/fleet/instances/i00003")
    keeps_to("FleetInstance", blocked)
    assert (blocked["report"]["checks"][KEY]["scope"], blocked["problem"]) == ("fleet", "")
    for hostile in ("evil", "ancient"):
        one = answer(served.url, f"/fleet/instances/{hostile}")
        keeps_to("FleetInstance", one)
        assert (one["report"], bool(one["problem"])) == (None, True)
    for body in (fleet, listed, blocked, one):
        text = json.dumps(body, ensure_ascii=False)
        assert not re.search("[\x00-\x1f\u202e]", text)
        assert PASSWORD not in text


@pytest.mark.parametrize(
    "path, status",
    [
        ("/fleet?format=pdf", 400),
        ("/fleet?format=", 400),
        ("/fleet/instances?state=", 400),
        ("/fleet/instances?limit=0", 400),
        ("/fleet/instances?state=happy", 400),
        ("/fleet/instances?named=%00", 400),
        (f"/fleet/instances?named={'x' * 201}", 400),
        ("/fleet/instances/nobody", 404),
        ("/fleet/instances/%00", 404),
        ("/fleet/instances/a/b%20c", 404),
    ],
)
def test_what_is_wrong(served: Started, path: str, status: int) -> None:
    """Each says what is allowed, and the database is not away for it."""
    assert answer(served.url, path, status)["error"]
    assert answer(served.url, "/fleet")["status"] == "reached"


def test_only_where_there_is_a_database(served: Started, place: Place) -> None:
    """Without one there is no route, no line in the document, and no link on the page."""
    there = answer(served.url, "/openapi.json")["paths"]
    assert {path for path in there if "fleet" in path} == {
        "/fleet", "/fleet/instances", "/fleet/instances/{instance_id}",
    }  # fmt: skip
    assert answer(served.url, "/diagnostics")["server"]["fleet"] is True
    started = place.start("--demo").until_ready()
    for path in ("/fleet", "/fleet/instances", "/fleet/instances/i00003"):
        assert "PREFLIGHT_DATABASE_URL is not set" in answer(started.url, path, 404)["error"]
    assert not [path for path in answer(started.url, "/openapi.json")["paths"] if "fleet" in path]
    assert "fleet" not in get(f"{started.url}/docs")[1]
    assert "fleet" not in answer(started.url, "/diagnostics")["server"]
    assert started.stop() == 0


def test_beside_an_application(full: str, place: Place) -> None:
    """Under the prefix, and with the token alone."""
    token = "a-token-that-nobody-guesses-2718"
    environ = {"PREFLIGHT_DATABASE_URL": full, "PREFLIGHT_TOKEN": token}
    started = place.start("--demo", "--app", "small:app", **environ).until_ready()
    assert get(f"{started.url}/_preflight/fleet?format=json")[0] == 401
    assert beside(started, token)["fleet"]["instances"]["live"] > 0
    assert get(f"{started.url}/fleet") == (200, "small")
    assert started.stop() == 0


def beside(started: Started, token: str) -> Any:
    """The fleet, as an application shows it beside its own routes."""
    request = urllib.request.Request(f"{started.url}/_preflight/fleet?format=json")
    request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=PATIENCE) as found:
        return json.load(found)


def test_under_another_server(full: str, place: Place) -> None:
    """Without a launcher an instance shows the fleet as well, and is none of it: it has no registrar."""
    token = "a-token-that-nobody-guesses-2718"
    place.write_module("shop", "from small import app\nfrom preflight import guard\napp = guard(app)\n")
    environ = {"PREFLIGHT_DATABASE_URL": full, "PREFLIGHT_TOKEN": token, "PREFLIGHT_DEMO": "1"}
    command = [sys.executable, "-m", "uvicorn", "shop:app", "--port", str(place.port)]
    started = place.spawn(*command, environ=environ).until_says("Uvicorn running on")
    assert beside(started, token)["status"] == "reached"
    with psycopg.connect(full) as connection:
        known = "SELECT count(*) FROM preflight.instances WHERE address LIKE %s"
        assert connection.execute(known, (f"%:{place.port}",)).fetchone() == (0,)
    started.stop()


def test_the_database_goes_away(tmp_path: Path, place: Place, browser: Browser) -> None:
    """What was known is shown with its age; one that hangs holds nobody up; and it comes back by itself.

    Where it has not been there before, the page says why, and that nothing is known, and goes on to ask.
    """
    folder = tmp_path / "own"
    folder.mkdir()
    with databases.postgres(folder) as server:
        url = seeding.made(server.url(database=server.database()))
        seeding.fill(url, 5)
        server.stop()
        started = place.start("--demo", PREFLIGHT_DATABASE_URL=url).until_ready()
        says_that_nothing_is_known(browser, started)
        server.start()
        until(lambda: get(f"{started.url}/fleet?format=json")[0] == 200, "it is asked")
        known = answer(started.url, "/fleet")
        server.signal_all(signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(until_away, started.url)
            answered = 0
            while not waiting.done():
                assert get(f"{started.url}/health/live")[0] == 200
                answered += 1
                wait([waiting], 0.1)
            hung = waiting.result()
        assert answered >= 2  # a loop that waits answers nobody before its deadline is over
        keeps_to("Fleet", hung)
        assert (hung["status"], hung["fleet"]["instances"]) == ("away", known["fleet"]["instances"])
        assert hung["age_seconds"] > 0
        assert "no answer within" in hung["problem"]
        server.signal_all(signal.SIGCONT)
        server.stop(signal.SIGQUIT)
        assert "error" in answer(started.url, "/fleet/instances", 503)
        away = answer(started.url, "/fleet?format=json", 503)
        assert away["age_seconds"] >= hung["age_seconds"]
        assert PASSWORD not in json.dumps(away)
        assert get(f"{started.url}/health/ready")[0] == 200
        server.start()
        until(lambda: get(f"{started.url}/fleet?format=json")[0] != 503, "it is asked again")
        assert answer(started.url, "/fleet")["status"] == "reached"
        assert started.stop() == 0


def says_that_nothing_is_known(browser: Browser, started: Started) -> None:
    """The page of a server whose database cannot be reached."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{started.url}/")
    page.get_by_role("link", name="The fleet").click()
    expect(page.locator("#lost")).to_contain_text("The database cannot be reached: connection refused")
    expect(page.locator("#verdict")).to_have_text("Nothing is known")
    assert PASSWORD not in page.content()
    context.close()


# In a browser.


def violations(page: Page) -> list[str]:
    """What axe-core has to say against the page as it is now."""
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html'][:120]}" for one in found for node in one["nodes"]]


def test_what_is_shown(full: str, page: Page) -> None:
    """Counts, what fails and where, the worst instances first; hostile text is text."""
    expect(page.locator("#verdict")).to_have_text(re.compile(r"^\d+ of \d+ instances are good$"))
    first = page.locator("#fails-list > li").first
    expect(first).to_contain_text(f"{KEY}")
    expect(first.locator(".count")).to_have_text(f"{COUNT // 20} of {instances(full, 'ended_at IS NULL')}")
    expect(page.locator(".instance").first).to_contain_text("blocked for")
    expect(page.locator("#changed-list")).to_contain_text("holds → blocks")
    assert page.locator("img").count() == 0
    assert page.locator("text=<img src=x").count() > 0
    assert violations(page) == []


def test_an_instance_is_opened(page: Page) -> None:
    """Its facts, what does not hold with its fix, and the rest of its report."""
    page.locator("#named").fill("i00003")
    expect(page.locator("#counted")).to_have_text("1 instance")
    page.locator(".instance summary").click()
    more = page.locator(".instance .more")
    expect(more).to_contain_text("make a new key")
    expect(more).to_contain_text("shared by the fleet")
    expect(more).to_contain_text("Python Version")
    assert violations(page) == []


def test_conditions_and_pages(full: str, page: Page) -> None:
    """A check leads to the instances where it fails; the address keeps that, and "back" leads back."""
    page.get_by_role("button", name=f"Show these instances: {KEY}").click()
    expect(page.locator("#counted")).to_have_text(f"{COUNT // 20} instances")
    expect(page.locator("#only")).to_have_text(f"Only instances where this does not hold: {KEY}")
    page.reload()
    expect(page.locator("#counted")).to_have_text(f"{COUNT // 20} instances")
    page.go_back()
    expect(page.locator("#counted")).to_have_text(f"1 to 50 of {instances(full)}")
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#counted")).to_have_text(f"51 to 100 of {instances(full)}")
    page.locator("#state").select_option("silent")
    expect(page.locator(".instance").first).to_contain_text("silent")
    page.get_by_role("button", name="Show all", exact=True).click()
    expect(page.locator("#counted")).to_have_text(f"1 to 50 of {instances(full)}")


def test_by_keyboard(page: Page) -> None:
    """Without a mouse: to the instances, into the conditions, and an instance is opened and closed."""
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#instances")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#named")).to_be_focused()
    page.keyboard.type("web-3 ")
    page.keyboard.type("0")
    page.keyboard.press("Control+A")
    page.keyboard.type("i00003")
    expect(page.locator("#counted")).to_have_text("1 instance")
    while not page.evaluate("document.activeElement.matches('.instance summary')"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".instance .more")).to_contain_text("make a new key")


@pytest.mark.parametrize("width, scheme", [(360, "light"), (360, "dark"), (1280, "dark")])
def test_narrow_and_dark(browser: Browser, served: Started, width: int, scheme: Any) -> None:
    """Nothing scrolls sideways, everything can be hit with a finger, and axe-core finds nothing against it."""
    context = browser.new_context(viewport={"width": width, "height": 740}, color_scheme=scheme, has_touch=True)
    page = context.new_page()
    page.goto(f"{served.url}/fleet")
    page.locator(".instance summary").first.click()
    expect(page.locator(".instance .more .facts").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    small = page.locator("button, summary, input, select").evaluate_all(
        """all => all.filter(one => one.checkVisibility()).map(one => one.getBoundingClientRect())
            .filter(box => box.width < 24 || box.height < 24).length"""
    )
    assert small == 0
    assert violations(page) == []
    context.close()


# The command.


def test_the_command(full: str, place: Place) -> None:
    """For people and for programs; one instance by its name; and what is wrong with what was asked for."""
    environ = {"PREFLIGHT_DATABASE_URL": full}
    shown = place.run("--fleet", **environ)
    assert shown.process.returncode == 0, shown.output
    lines = shown.stdout.splitlines()
    assert re.match(r"\d+ instances: \d+ good, \d+ blocked", lines[0])
    assert any(line.startswith(KEY) and f"blocks on {COUNT // 20} of " in line for line in lines)
    assert f"and {instances(full) - 50} more" in lines
    assert not re.search("[\x1b\u202e]", shown.stdout)

    whole = json.loads(place.run("--fleet", "--format", "json", **environ).stdout)
    assert (whole["total"], len(whole["instances"])) == (instances(full), instances(full))
    keeps_to("FleetOverview", whole["fleet"])

    one = place.run("--fleet", "web-3", **environ)
    assert "make a new key" in one.stdout
    assert "shared by the fleet" in one.stdout
    assert json.loads(place.run("--fleet", "i00003", "--format", "json", **environ).stdout)["host"] == "web-3"

    several, nobody, unset = (
        place.run("--fleet", "web-1", **environ), place.run("--fleet", "nobody", **environ), place.run("--fleet"),
    )  # fmt: skip
    assert [one.process.returncode for one in (several, nobody, unset)] == [0, 1, 2]
    assert "PREFLIGHT_DATABASE_URL is not set" in unset.stderr
    away = place.run("--fleet", PREFLIGHT_DATABASE_URL=f"postgresql://me:{PASSWORD}@127.0.0.1:1/db")
    assert away.process.returncode == 1
    assert "connection refused" in away.output
    assert PASSWORD not in away.output
