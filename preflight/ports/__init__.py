"""A TCP port: which processes listen on it, whether they may be stopped, and how to hold it once it is free.

Taking a port uses these modules in this order:

1. `binding` resolves the address and binds it: the bind decides whether the port is free, nothing connects.
   If the port is free, no other step follows.
2. `holders` finds every process with a listening socket that overlaps the address. It asks the `machine`,
   of which `current` chooses one: `linux` (`sockets`, from the kernel), `portable` (psutil), or `blind`.
3. `policy` decides who may be stopped: nobody if any holder of the port must be left alone. It checks in this order
   whether a holder belongs to another user, is a forwarder, belongs to a container or a service (by their `cgroups`),
   or has a name among the `spared`.
4. `freeing` pins all holders and their descendants before the first signal; `stopping` asks the topmost first,
   sweeps the rest, kills the stubborn. It is done when this process holds the socket. Each action is one
   of the `steps`.
5. `explanations` reports a failure, with one of the `fixes`.

None of this happens for a socket that systemd has passed: `activation` takes it as it is.

This package stands alone: nothing here knows settings, instances or keys; the callers do (`preflight.suite.claim`).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preflight.ports.binding import PortUnavailable, Target, is_free, listen_if_free, resolve
    from preflight.ports.current import here
    from preflight.ports.freeing import Plan, Taken, plan, take
    from preflight.ports.holders import Holder, holder_of, listeners
    from preflight.ports.machine import Machine, ancestors
    from preflight.ports.policy import Policy, Refusal
    from preflight.ports.spared import INFRASTRUCTURE
    from preflight.ports.steps import Step, held

_SUBJECTS = {
    "binding": ["PortUnavailable", "Target", "is_free", "listen_if_free", "resolve"],
    "current": ["here"],
    "freeing": ["Plan", "Taken", "plan", "take"],
    "holders": ["Holder", "holder_of", "listeners"],
    "machine": ["Machine", "ancestors"],
    "policy": ["Policy", "Refusal"],
    "spared": ["INFRASTRUCTURE"],
    "steps": ["Step", "held"],
}
_OF = {name: subject for subject, names in _SUBJECTS.items() for name in names}

__all__ = [
    "INFRASTRUCTURE", "Holder", "Machine", "Plan", "Policy", "PortUnavailable", "Refusal", "Step", "Taken", "Target",
    "ancestors", "held", "here", "holder_of", "is_free", "listen_if_free", "listeners", "plan", "resolve", "take",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Load a public name. A caller that only asks whether a port is free, as every start does, needs few modules."""
    if name not in _OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_OF[name]}"), name)
