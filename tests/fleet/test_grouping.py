"""One message about many instances."""

from __future__ import annotations

from preflight.fleet.grouping import Fleet, Told, notice
from preflight.notify.notices import Notice

KEY = "0123456789abcdef"
NAMES = {f"i{n}": f"web-{n} (10.0.0.{n}:8002)" for n in range(1, 9)}
TITLE = "OpenAI API Key"


def row(number: int, before: str, after: str, title: str = TITLE, message: str = "HTTP 401", fix: str = "") -> Told:
    return Told(f"i{number}", NAMES[f"i{number}"], title, before, after, message, fix)


def fleet(failing: dict[str, set[str]] | None = None, silent: set[str] | None = None) -> Fleet:
    stands = {title: frozenset(ids) for title, ids in (failing or {}).items()}
    return Fleet(NAMES, frozenset(silent or ()), stands)


def made(rows: list[Told], there: Fleet) -> Notice:
    found = notice("shop", rows, there, KEY)
    assert found is not None
    return found


def test_an_outage_and_its_end() -> None:
    """Each is one message, which counts and names all instances, and has its key."""
    broke = [row(n, "ok", "blocks", fix="set the key") for n in range(1, 9)]
    broke += [row(n, "good", "blocked", title="") for n in range(1, 9)]
    outage = made(broke, fleet({TITLE: set(NAMES), "": set(NAMES)}))
    assert outage.title == "❌ OpenAI API Key fails on 8 of 8 (shop)"
    assert outage.level == "failure"
    assert outage.body.splitlines() == [
        "❌ OpenAI API Key fails on 8 of 8: HTTP 401",
        f"   Changed on {', '.join(sorted(NAMES.values()))}",
        "   Fix: set the key",
        f"The server is unhealthy on 8 of 8: {', '.join(sorted(NAMES.values()))}",
        f"Notice {KEY}",
    ]
    end = made([row(n, "blocks", "ok", message="") for n in range(1, 9)], fleet())
    assert end.title == "✅ OpenAI API Key holds again on 8 of 8 (shop)"
    assert end.level == "success"
    assert all(name in end.body for name in NAMES.values())


def test_counts_are_those_of_the_fleet() -> None:
    """Who failed before counts, and was told before; who is silent is named, and counts as neither."""
    told = made([row(8, "ok", "blocks")], fleet({TITLE: {"i1", "i8"}}, silent={"i3"}))
    assert told.title == "❌ OpenAI API Key fails on 2 of 8 (shop)"
    assert "   Changed on web-8 (10.0.0.8:8002)" in told.body.splitlines()
    assert "No heartbeat from web-3 (10.0.0.3:8002)" in told.body.splitlines()
    back = made([row(1, "blocks", "ok")], fleet({TITLE: {"i8"}}, silent={"i3"}))
    assert back.title == "✅ OpenAI API Key holds again on 6 of 8 (shop)"


def test_what_flipped_back_is_no_news() -> None:
    """Within the window only what has come of it counts."""
    assert notice("shop", [row(1, "ok", "blocks"), row(1, "blocks", "ok")], fleet(), KEY) is None
    assert notice("shop", [row(1, "", "ok")], fleet(), KEY) is None
    there = fleet({TITLE: {"i2"}})
    told = made([row(1, "ok", "blocks"), row(2, "ok", "blocks"), row(1, "blocks", "ok")], there)
    assert told.title == "❌ OpenAI API Key fails on 1 of 8 (shop)"
    assert "web-1 " not in told.body


def test_several_checks() -> None:
    """The most urgent one is in the headline, and each has its lines; what differs is said to differ."""
    rows = [row(1, "ok", "warns", "Disk Space"), row(1, "blocks", "ok", "Memory"), row(2, "ok", "blocks", message="a")]
    rows += [row(3, "ok", "blocks", message="b"), row(4, "warns", "", "Gone", message="")]
    told = made(rows, fleet({TITLE: {"i2", "i3"}, "Disk Space": {"i1"}}))
    assert told.title == "❌ OpenAI API Key fails on 2 of 8, and 3 more (shop)"
    assert "❌ OpenAI API Key fails on 2 of 8: a (and 1 other message)" in told.body.splitlines()
    assert "⚠️ Disk Space warns on 1 of 8: HTTP 401" in told.body.splitlines()
    assert "✅ Gone is no longer checked on 1 of 8" in told.body.splitlines()


def test_a_verdict_alone() -> None:
    """A suite that broke on some instances says so; a thousand names are not listed."""
    told = made([row(n, "good", "broken", title="") for n in (1, 2)], fleet({"": {"i1", "i2"}}))
    assert told.title == "❌ The check suite itself failed on 2 of 8 (shop)"
    names = {f"n{n}": f"host-{n}" for n in range(1000)}
    rows = [Told(one, name, TITLE, "ok", "blocks", "m" * 5000, "") for one, name in names.items()]
    many = notice("", rows, Fleet(names, frozenset(names), {TITLE: frozenset(names)}), KEY)
    assert many is not None
    assert many.title == "❌ OpenAI API Key fails on 1000 of 1000 (the fleet)"
    assert "and 980 more" in many.body
    assert len(many.body) < 2000
