"""The machine that this process is on."""

from __future__ import annotations

from functools import cache

from preflight.ports.machine import Machine


@cache
def here() -> Machine:
    """The fast machine where the kernel has what it needs, the portable one elsewhere."""
    from preflight.ports.linux import Linux

    if Linux.works():
        return Linux()
    from preflight.ports.portable import Portable

    return Portable()
