"""The steps of ending processes, as they are told; that they end is in tests/e2e/test_ports.py."""

from preflight.ports import Step


def test_a_step_in_one_line() -> None:
    """When (UTC), what, who, with what result."""
    step = Step(1_767_323_045.678, "SIGTERM", 4711, "python3.11", "sent")
    assert str(step) == "2026-01-02T03:04:05.678Z SIGTERM: python3.11 (PID 4711): sent"
    assert step.to_dict()["pid"] == 4711
