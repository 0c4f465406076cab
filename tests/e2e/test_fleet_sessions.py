"""Several instances, whose sessions are in one PostgreSQL behind PgBouncer: a client may go on at any of them."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import databases
from tests.databases import PASSWORD, Postgres
from tests.e2e.chatting import Live, Message, client, counts
from tests.e2e.place import Place, Started, get, make_place
from tests.waiting import until

# A turn that lasts until a test has done what it came for.
SLOW = {"type": "delay", "seconds": 2}


@dataclass
class Fleet:
    """Two instances with the same sessions, and the service that both ask."""

    live: Live
    other: Started
    server: Postgres

    def start(self, place: Place) -> Started:
        return place.start("--supervise").until_ready()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Postgres, str]]:
    """A PostgreSQL of these tests' own, and its URL behind PgBouncer."""
    with (
        tempfile.TemporaryDirectory(prefix="fleet-") as one,
        tempfile.TemporaryDirectory(prefix="pooler-") as other,
        databases.postgres(Path(one)) as postgres,
        databases.pgbouncer(postgres, Path(other)) as port,
    ):
        yield postgres, postgres.url(port=port)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, server: tuple[Postgres, str]) -> Iterator[Fleet]:
    postgres, url = server
    places = [make_place(tmp_path_factory.mktemp(name) / "place") for name in ("one", "other")]
    variables = {
        "PREFLIGHT_DATABASE_URL": url,
        "PREFLIGHT_SESSION_LEASE": "3s",
        "PREFLIGHT_TURN_TIMEOUT": "60s",
        # A busy machine has three instances to check.
        "PREFLIGHT_RUN_TIMEOUT": "300s",
        "PREFLIGHT_REQUIREMENT_TIMEOUT": "60s",
    }
    live = Live(places[0], **variables)
    places[1].write_env_file(OPENAI_API_KEY="sk-canary-Zq7vXw2LmN8pRt4KdY6hJb3F-tail9351")
    places[1].environ |= {
        name: live.place.environ[name] for name in ("PREFLIGHT_PYTHON", "OPENAI_BASE_URL", "OPENAI_MODEL")
    }
    places[1].environ |= variables
    yield Fleet(live, places[1].start("--supervise").until_ready(), postgres)
    for place in places:
        place.close()


def kill(instance: Started) -> None:
    """kill -9 of everything that an instance consists of."""
    for pid in (instance.pid, *instance.family()):
        os.kill(pid, signal.SIGKILL)
    instance.process.wait()


def statuses(came: list[Message]) -> list[str]:
    return [message["status"] for message in came if message["type"] == "status"]


def test_an_instance_that_is_killed_in_a_turn(fleet: Fleet) -> None:
    """Its client goes on at another one: every accepted message is there, and is answered once."""
    fleet.live.provider.will({**SLOW, "seconds": 10})
    third = make_place(fleet.live.place.folder.parent / "third")
    third.write_env_file(OPENAI_API_KEY="sk-canary-Zq7vXw2LmN8pRt4KdY6hJb3F-tail9351")
    third.environ |= {
        name: value for name, value in fleet.live.place.environ.items() if name.startswith(("OPENAI_", "PREFLIGHT_"))
    }
    third.environ["PREFLIGHT_STATE_DIR"] = str(third.folder / "state")
    killed = third.start("--supervise").until_ready()
    try:
        with client(killed.url) as one:
            session = one.init()["session_id"]
            one.send("chat", content="survive this", id="s").until("progress")
            one.send("chat", content="and this", id="t").until("accepted")
            kill(killed)
        fleet.live.provider.will()
        with client(fleet.other.url) as two, client(fleet.live.url) as three:
            lines = {}
            for each in (two, three):
                begun = each.init(session_id=session)
                assert begun["resumed"] is True
                lines[each] = begun["messages"]
                asked = [(line["id"], line["content"]) for line in lines[each] if line["role"] == "user"]
                assert asked == [("s", "survive this"), ("t", "and this")]
            came, ends = {}, []
            for each in (two, three):  # on a busy machine the first of them may have an answer before the other begins
                known = [line for line in lines[each] if line["role"] != "user"]
                came[each] = [message for _ in range(2 - len(known)) for message in each.until("result")]
                assert known or statuses(came[each])[0] == "waiting"
                results = [message for message in came[each] if message["type"] == "result"]
                ends.append({end["turn_id"]: end["content"] for end in [*known, *results]})
            assert ends[0] == ends[1]
            assert len(ends[0]) == 2
            assert sum(statuses(one).count("resumed") for one in came.values()) == 2  # each turn on one of them
        answered = fleet.server.rows(
            "SELECT turn, count(*) FROM preflight.chat_transcript"
            f" WHERE session = '{session}' AND role <> 'user' GROUP BY turn"
        )
        assert [count for _, count in answered] == [1, 1]
    finally:
        third.close()


def test_a_turn_that_runs_elsewhere(fleet: Fleet) -> None:
    """Its answer comes to whoever follows the session, on any instance; a message there waits for its end."""
    fleet.live.provider.will(SLOW)
    with client(fleet.live.url) as one, client(fleet.other.url) as two:
        session = one.init()["session_id"]
        turn = one.send("chat", content="the first", id="a").until("progress")[0]["turn_id"]
        begun = two.init(session_id=session)
        assert [line["turn_id"] for line in begun["messages"]] == [turn]
        assert two.receive("status")["status"] == "waiting"
        two.send("chat", content="the second", id="b")
        first = one.until("result")[-1]
        ends = [message for message in two.until("result") + two.until("result") if message["type"] == "result"]
        assert [end["id"] for end in ends] == ["a", "b"]
        assert ends[0]["content"] == first["content"]
        roles = [line["role"] for line in two.init(session_id=session)["messages"]]
        assert roles == ["user", "user", "assistant", "assistant"]


def test_who_follows_a_session_hears_it_from_every_instance(fleet: Fleet) -> None:
    """Messages and answers, in their order, without resuming it; and a turn is cancelled from anywhere."""
    fleet.live.provider.will()
    with client(fleet.live.url) as one, client(fleet.other.url) as two:
        session = one.init()["session_id"]
        one.ask("the first")
        two.init(session_id=session)
        answers = [one.ask(text)[-1] for text in ("the second", "the third")]
        came = [*two.until("result"), *two.until("result")]
        assert [m["content"] for m in came if m["type"] == "accepted"] == ["the second", "the third"]
        told = [(m["turn_id"], m["content"]) for m in came if m["type"] == "result"]
        assert told == [(answer["turn_id"], answer["content"]) for answer in answers]
        fleet.live.provider.will({**SLOW, "seconds": 20})
        turn = one.send("chat", content="never mind").until("progress")[-1]["turn_id"]
        assert two.until("status")[-1]["turn_id"] == turn
        two.send("cancel", turn_id=turn)
        for each in (two, one):
            end = each.until("error")[-1]
            assert (end["code"], end["turn_id"]) == ("cancelled", turn)
        roles = [line["role"] for line in one.init(session_id=session)["messages"]]
        assert roles == [*["user", "assistant"] * 3, "user", "error"]


def test_who_speaks_hears_what_others_have_said_before(fleet: Fleet) -> None:
    """A follower whose own message comes before the look at the others' hears of all of them, each once."""
    fleet.live.provider.will()
    with client(fleet.live.url) as one, client(fleet.other.url) as two:
        two.init(session_id=one.init()["session_id"])
        one.ask("ours")
        two.init(session_id=one.connected["session_id"])
        for number in range(5):
            one.ask(f"theirs {number}")
            came = [*two.send("chat", content=f"mine {number}").until("result"), *two.until("result")]
            said = [m["content"] for m in came if m["type"] == "accepted"]
            assert sorted(said) == [f"mine {number}", f"theirs {number}"]
            one.until("result")


def test_a_session_that_is_deleted_elsewhere(fleet: Fleet) -> None:
    """Whoever waits for its turn is told."""
    fleet.live.provider.will(SLOW)
    with client(fleet.live.url) as one:
        session = one.init()["session_id"]
        one.send("chat", content="gone").until("progress")
        fleet.server.run(f"DELETE FROM preflight.chat_sessions WHERE id = '{session}'")
        assert one.until("error")[-1]["code"] == "session_deleted"
        assert one.closed()[0] == 1000


def test_a_database_that_is_away(fleet: Fleet) -> None:
    """A message is refused in words, the connection and /health stay, and when it is back, everything is there."""
    fleet.live.provider.will()
    with client(fleet.other.url) as one, client(fleet.live.url) as two:
        session = one.init()["session_id"]
        assert one.ask("before")[-1]["type"] == "result"
        fleet.server.stop()
        try:
            refused = one.send("chat", content="meanwhile", id="m").receive("error")
            assert (refused["code"], refused["retry"]) == ("storage", True)
            assert "the database has been unavailable for" in refused["message"]
            two.send("init", session_id=session)
            assert two.receive("error")["code"] == "storage"
            assert get(f"{fleet.other.url}/health")[0] == 200
            assert get(f"{fleet.other.url}/sessions")[0] == 503
            assert one.send("ping").receive("pong")
        finally:
            fleet.server.start()
        until(lambda: get(f"{fleet.other.url}/sessions")[0] == 200, "it is back")
        assert one.ask("meanwhile", id="m")[-1]["type"] == "result"
        until(lambda: get(f"{fleet.live.url}/sessions")[0] == 200, "it is back")
        assert [line["content"] for line in two.init(session_id=session)["messages"][::2]] == ["before", "meanwhile"]
    for said in (fleet.live.started.output, fleet.other.output):
        assert PASSWORD not in said
    until(lambda: counts(fleet.other.url) == (0, 0), "nobody is connected")


def test_the_client_that_exists(fleet: Fleet) -> None:
    """It never streams, and does not know in which store its session is."""
    fleet.live.provider.will()
    with client(fleet.live.url) as one:
        begun = one.init(workspace_path="/home/me/project")
        assert begun["workspace_path"] == "/home/me/project"
        came = one.send("chat", content="status", agent="auto", metadata={"mode": "auto"}).until("result")
        assert [message["type"] for message in came] == ["status", "response", "result"]
    kept = json.loads(get(f"{fleet.other.url}/sessions/{begun['session_id']}")[1])
    assert kept["workspace_path"] == "/home/me/project"
    assert kept["active"] is False
