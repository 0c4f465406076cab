"""Requirements as tests, a verdict that fails closed, and a server that starts only behind it.

What a requirement may use is here: ``from preflight import Details, unknown``. The names are loaded when they are asked
for, since most processes that import this package ask for none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preflight.contract import Details, not_applicable, unknown

__all__ = ["Details", "not_applicable", "unknown"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Load a public name."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from preflight import contract

    return getattr(contract, name)
