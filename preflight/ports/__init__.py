"""A TCP port: who listens on it, may they be stopped, and holding it from the moment it is free.

In the order in which things happen when a port is taken:

1. `binding` resolves the address and binds it: the bind decides whether the port is free, nothing connects.
   Where it is, that is all.
2. `holders` finds every process with a listening socket that overlaps the address. It asks the `machine`,
   of which `current` chooses one: `linux` (`sockets`, from the kernel), `portable` (psutil), or `blind`.
3. `policy` decides who may be stopped: nobody if anybody on the port must be left alone. In this order it asks:
   another user's, a forwarder, a container's, a service's (by their `cgroups`), or a name among the `spared`?
4. `freeing` pins all of them and their descendants before the first signal; `stopping` asks the topmost
   first, sweeps the rest, kills the stubborn. It is done when this process holds the socket.
5. What did not work is told by `explanations`, with one of the `fixes`.

It stands alone: nothing here knows settings, instances or keys, which are the callers' (`preflight.suite.claim`).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preflight.ports.binding import PortUnavailable, Target, resolve
    from preflight.ports.current import here
    from preflight.ports.freeing import Plan, Taken, plan, take
    from preflight.ports.holders import Holder, listeners
    from preflight.ports.machine import Machine, ancestors
    from preflight.ports.policy import Policy, Refusal
    from preflight.ports.spared import INFRASTRUCTURE
    from preflight.ports.stopping import Step

_SUBJECTS = {
    "binding": ["PortUnavailable", "Target", "resolve"],
    "current": ["here"],
    "freeing": ["Plan", "Taken", "plan", "take"],
    "holders": ["Holder", "listeners"],
    "machine": ["Machine", "ancestors"],
    "policy": ["Policy", "Refusal"],
    "spared": ["INFRASTRUCTURE"],
    "stopping": ["Step"],
}
_OF = {name: subject for subject, names in _SUBJECTS.items() for name in names}

__all__ = [
    "INFRASTRUCTURE", "Holder", "Machine", "Plan", "Policy", "PortUnavailable", "Refusal", "Step", "Taken",
    "Target", "ancestors", "here", "listeners", "plan", "resolve", "take",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Load a public name: who only asks whether a port is free, as every start does, needs a few of the modules."""
    if name not in _OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_OF[name]}"), name)
