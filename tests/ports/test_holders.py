"""Holders, as people and programs are told of them."""

from dataclasses import replace

from preflight.ports import Holder
from tests.ports.examples import HOLDER


def test_a_holder_in_one_line() -> None:
    """With what can be told, and no more."""
    assert HOLDER.describe() == "python3.11 (PID 4711, user dev): python app.py"
    assert HOLDER.title == "python3.11 (PID 4711, user dev)"
    unseen = replace(HOLDER, pid=None, name="another user's process", command="", user=None)
    assert unseen.describe() == "another user's process"
    assert replace(unseen, user="root").describe() == "another user's process (user root)"


def test_a_holder_is_ready_for_json() -> None:
    """Tuples become lists."""
    assert HOLDER.to_dict()["children"] == [4712]
    assert HOLDER.to_dict()["addresses"] == ["127.0.0.1:8002"]
    assert set(HOLDER.to_dict()) == set(Holder.__slots__)
