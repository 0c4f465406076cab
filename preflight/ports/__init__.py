"""A TCP port: who listens on it, may they be stopped, and holding it from the moment it is free."""

from preflight.ports.freeing import (
    INFRASTRUCTURE,
    Holder,
    Plan,
    Policy,
    PortUnavailable,
    Refusal,
    Step,
    Taken,
    hold,
    listeners,
    plan,
    take,
)

__all__ = [
    "INFRASTRUCTURE", "Holder", "Plan", "Policy", "PortUnavailable", "Refusal", "Step", "Taken",
    "hold", "listeners", "plan", "take",
]  # fmt: skip
