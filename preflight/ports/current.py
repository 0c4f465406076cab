"""The machine that this process is on."""

from __future__ import annotations

from functools import cache

from preflight.ports.machine import Machine


@cache
def here() -> Machine:
    """The fast machine if the kernel has what it needs, else the portable one; or the blind one, if both would err."""
    from preflight.ports import blind
    from preflight.ports.linux import Linux

    if blind.is_needed():
        return blind.Blind()

    if Linux.works():
        return Linux()
    from preflight.ports.portable import Portable

    return Portable()
