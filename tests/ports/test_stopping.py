"""The steps of ending processes, as they are told; that they end is in tests/e2e/test_ports.py."""

import re

from preflight.ports import Step


def test_a_step_in_one_line() -> None:
    """When (with its zone), what, who, with what result, and on what grounds."""
    step = Step(1_767_323_045.678, "SIGTERM", 4711, "python3.11", "sent")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:05\.678 \S+ SIGTERM: python3\.11 \(PID 4711\): sent", str(step))
    assert step._replace(grounds="it is ours").what == "SIGTERM: python3.11 (PID 4711): sent, because it is ours"
    assert step.to_dict()["pid"] == 4711


def test_a_signal_that_was_not_sent() -> None:
    """Why the process was to be stopped is no cause of that."""
    step = Step(0.0, "SIGTERM", 4711, "python", "not permitted", "it is ours")
    assert step.what == "SIGTERM: python (PID 4711): not permitted"
