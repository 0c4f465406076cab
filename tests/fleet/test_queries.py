"""What is read from the fleet's tables: counted right, bounded, and whatever stands there."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from preflight.command.fleet import SIGNS
from preflight.fleet import queries, reading
from preflight.fleet.database import Unavailable
from preflight.fleet.queries import Filter
from preflight.report.model import STATES, Check, Report
from preflight.web import pages
from tests.databases import Postgres
from tests.fleet import seeding

MakeReport = Callable[..., Report]
MakeCheck = Callable[..., Check]


@pytest.fixture(scope="session")
def many(postgres: Postgres) -> str:
    """A database with a thousand instances that nobody changes."""
    url = seeding.made(postgres.url(database=postgres.database()))
    seeding.fill(url, 1000)
    return url


def ask(url: str, question: Callable[[Any], Any]) -> Any:
    return asyncio.run(reading.ask(url, {}, question))


def listed(url: str, limit: int = 1000, offset: int = 0, **which: str) -> dict[str, Any]:
    found: dict[str, Any] = ask(url, lambda one: queries.instances(one, Filter(**which), limit, offset))
    return found


def test_the_states_are_one_list() -> None:
    """The command and the page have a sign for each."""
    page = (pages.FOLDER / "fleetinstances.js").read_text()
    states = re.search(r"^const STATES = \{\n(.*?)^\};", page, re.MULTILINE | re.DOTALL)
    assert states
    assert set(STATES) == set(SIGNS) == set(re.findall(r"^  (\w+):", states[1], re.MULTILINE))


def test_at_a_glance(many: str) -> None:
    """Instances by state and version, checks by how many fail, changes of a day: each counted."""
    found = ask(many, queries.overview)
    counts = found["instances"]
    # As the seed has them: of every hundred 5 blocked, 1 broken, 5 silent and 2 ended.
    assert counts == {"live": 980, "blocked": 50, "broken": 10, "silent": 50, "good": 870, "ended": 20}
    assert found["releases"] == [{"release": "0.2.0", "count": 855}, {"release": "0.1.0", "count": 125}]
    first, second = found["checks"]
    assert (first["title"], first["standing"], first["count"], first["of"]) == (seeding.KEY, "blocks", 50, 980)
    assert (second["title"], second["standing"]) == ("Disk Space", "warns")
    assert len(first["places"]) == queries.MOST_PLACES
    newest, older = found["changes"]
    assert (newest["title"], newest["before"], newest["after"], newest["count"]) == (seeding.KEY, "ok", "blocks", 50)
    assert (older["title"], older["after"]) == ("Perplexity API", "ok")  # and none of the day before
    json.dumps(found, allow_nan=False)


def test_a_list_by_conditions_and_pages(many: str) -> None:
    """The worst first, each once, whatever the page; conditions go together."""
    every = listed(many)
    assert (every["total"], len(every["instances"])) == (1000, 1000)
    states = [row["state"] for row in every["instances"]]
    assert states == sorted(states, key=STATES.index)
    pages = [row["id"] for offset in range(0, 1000, 300) for row in listed(many, 300, offset)["instances"]]
    assert pages == [row["id"] for row in every["instances"]]
    assert listed(many, 10, 5000) == {"total": 1000, "instances": []}
    blocked = listed(many, check=seeding.KEY)
    assert {row["blocking"] for row in blocked["instances"]} == {1}
    assert blocked["total"] == 50
    both = listed(many, state="blocked", release="0.2.0", check=seeding.KEY, named="WEB-3")
    assert all(row["state"] == "blocked" and "web-3" in row["host"] for row in both["instances"])
    assert 0 < both["total"] < 50
    nobody = {"total": 0, "instances": []}
    assert [listed(many, project="another"), listed(many, named="100%"), listed(many, check="' OR true --")] == 3 * [
        nobody
    ]


def test_one_instance(url: str, make_report: MakeReport, make_check: MakeCheck) -> None:
    """What it says of itself, what fails there, its newest report and its changes; None where there is none."""
    document = seeding.report(make_report, make_check).to_json()
    seeding.fill(seeding.made(url), 3, document)
    one = ask(url, lambda connection: queries.instance(connection, "i00003"))
    assert (one["host"], one["state"], one["release"]) == ("web-3", "blocked", "0.2.0")
    assert [row["title"] for row in one["failing"]] == [seeding.KEY]
    assert one["failing"][0]["seconds"] == pytest.approx(300, abs=120)
    assert [row["title"] for row in one["changes"]] == [seeding.KEY, "Perplexity API"]
    assert Report.from_json(one["report"]) == Report.from_json(document)
    assert ask(url, lambda connection: queries.instance(connection, "i")) is None


def test_what_a_hostile_tenant_has_put_there(url: str) -> None:
    """Times that are none, endless texts, words that do not exist: shown within bounds, and the others as before."""
    seeding.fill(seeding.made(url), 20)
    seeding.poison(url)
    found = ask(url, queries.overview)
    assert len(found["checks"]) <= queries.MOST_CHECKS
    assert {row["standing"] for row in found["checks"]} == {"blocks", "warns"}
    rows = listed(url)["instances"]
    assert len(rows) == 22
    evil = next(row for row in rows if row["id"] == "evil")
    assert (evil["state"], evil["seen_seconds_ago"], evil["verdict_seconds"]) == ("silent", None, None)
    assert next(row for row in rows if row["id"] == "ancient")["state"] == "silent"
    one = ask(url, lambda connection: queries.instance(connection, "evil"))
    assert one["report"] is None
    assert len(one["failing"]) == queries.MOST_CHECKS
    for body in (found, rows, one):
        # Bounded in all, and JSON.
        assert len(json.dumps(body, allow_nan=False)) < 300_000


def test_nothing_can_be_written(many: str) -> None:
    """Questions are asked in a transaction that reads, whatever is asked."""

    async def write(connection: Any) -> None:
        await connection.execute("DELETE FROM preflight.instances")

    with pytest.raises(Unavailable, match="read-only"):
        ask(many, write)
    assert listed(many, 1)["total"] == 1000


def test_a_database_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop waits no longer than the deadline, and other tasks go on meanwhile."""
    monkeypatch.setattr(reading, "DEADLINE", 0.5)
    steps = 0

    async def question(_connection: Any) -> None:
        raise AssertionError("there is no connection")

    async def both(url: str) -> None:
        async def count() -> None:
            nonlocal steps
            while True:
                await asyncio.sleep(0.01)
                steps += 1

        counting = asyncio.create_task(count())
        try:
            await reading.ask(url, {}, question)
        finally:
            counting.cancel()

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"postgresql://me:secret@127.0.0.1:{server.getsockname()[1]}/db"
        with pytest.raises(Unavailable, match=r"no answer within 0\.5 s") as caught:
            asyncio.run(both(url))
    assert "secret" not in str(caught.value)
    assert steps > 5


def test_a_lock_is_not_waited_for(url: str) -> None:
    """A table that somebody keeps locked costs its readers the server's deadline, and is said to be so."""
    seeding.fill(seeding.made(url), 5)
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE preflight.instances IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Unavailable, match=r"did not answer a question in time|no answer within"):
            ask(url, queries.overview)
