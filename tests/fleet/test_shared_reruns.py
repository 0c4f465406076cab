"""Instances as they are started: what their re-runs ask a provider, and what they say of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.clients import rerun
from tests.e2e.doubles import Answer, Providers
from tests.e2e.place import KEYS, Place, equip, get, make_place
from tests.fleet import seeding

KEY = "OpenAI API Key"


@pytest.fixture
def providers() -> Iterator[Providers]:
    made = Providers()
    yield made
    made.close()


@pytest.fixture
def places(tmp_path: Path, url: str, providers: Providers) -> Iterator[list[Place]]:
    """Two instances that share a database and keys; its tables are made."""
    made = [make_place(tmp_path / name) for name in ("one", "other")]
    for place in made:
        equip(place, providers)
        place.environ |= {"PREFLIGHT_DATABASE_URL": url, "PREFLIGHT_RERUN_INTERVAL": "0"}
        # On a busy machine everything takes its time.
        place.environ |= {"PREFLIGHT_PROBE_TIMEOUT": "60s", "PREFLIGHT_REQUIREMENT_TIMEOUT": "300s"}
        place.environ |= {"PREFLIGHT_RUN_TIMEOUT": "600s", "PREFLIGHT_ANSWERS_KEPT": "1h"}
    seeding.made(url)
    yield made
    for place in made:
        place.close()


def count(providers: Providers) -> int:
    return [given for _, given in providers.requests].count(f"Bearer {KEYS['OPENAI_API_KEY']}")


def test_reruns_of_two_instances(places: list[Place], providers: Providers) -> None:
    """Each start asks; then one of the two re-runs. What is bad is asked by both before it counts."""
    one, other = (place.start().until_ready() for place in places)
    assert count(providers) == 2
    for started in (one, other):
        assert rerun(started.url)["status"] in ("passed", "warnings")
    assert count(providers) == 3
    asked, shared = (place.check(KEY) for place in places)
    assert "asked by" not in asked["message"]
    assert shared["message"].startswith(f"from the env file, asked by {socket.gethostname()}:{one.port}, ")
    assert shared["details"]["verified"] is True
    assert places[1].check("OpenAI API")["message"].endswith(" s ago")

    providers.openai = Answer(401)
    assert rerun(one.url)["status"] in ("passed", "warnings")  # it goes by what it has found itself, for a minute
    assert count(providers) == 3
    assert [get(f"{started.url}/health/ready")[0] for started in (one, other)] == [200, 200]
    for started in (one, other):
        assert started.stop() == 0
