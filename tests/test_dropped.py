"""Which statements drop what an assertion has raised."""

from __future__ import annotations

import pytest

from preflight.suite.soundness.dropped import drops

TEST = "def test_it(found, client, rows):\n    {}\n"
DROP = [
    "try: assert found\n    finally:\n        return",
    "try: assert found\n    finally:\n        return None",
    "try: assert found\n    finally:\n        if found: return",
    "try: assert found\n    finally:\n        for row in rows: return",
    "try: assert found\n    finally:\n        with found: return",
    "try: client.call()\n    except OSError: assert found\n    finally:\n        return",
    "try: client.call()\n    except* OSError: assert found\n    finally:\n        return",
]
COUNT = [
    "try: assert found\n    finally: client.close()",
    "try: assert found\n    finally:\n        for row in rows:\n            if row: break\n            continue",
    "try: assert found\n    finally:\n        def ended(): return 1",
    "try: assert found\n    finally: client.close()\n    return",
    "try: rows = client.read()\n    finally:\n        return rows",
    "while found:\n        try: found = client.ping()\n        except OSError: found = None\n        finally: break",
    "'finally:\\n return'; assert found",
]


@pytest.mark.parametrize("body", DROP)
def test_what_drops_a_failure(body: str) -> None:
    """A finally that is left drops what the assertion above it has raised: the line that leaves it is found."""
    assert [line for line, _ in drops(TEST.format(body).encode())] == [body.count("\n") + 2]


@pytest.mark.parametrize("leaves", ["continue", "break"])
def test_what_leaves_a_turn_of_a_loop(leaves: str) -> None:
    """The next host is asked, and what was raised about this one is dropped."""
    body = f"for row in rows:\n        try: assert row\n        finally:\n            {leaves}"
    assert [line for line, _ in drops(TEST.format(body).encode())] == [5]


def test_a_finally_in_another() -> None:
    """The line is found once, though both drop what was raised."""
    body = "try: assert found\n    finally:\n        try: assert rows\n        finally: return"
    assert [line for line, _ in drops(TEST.format(body).encode())] == [5]


@pytest.mark.parametrize("body", COUNT)
def test_what_drops_no_assertion(body: str) -> None:
    """It leaves no finally, or no assertion is above it."""
    assert drops(TEST.format(body).encode()) == []
