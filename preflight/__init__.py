"""Requirements as tests, a verdict that fails closed, and a server that starts only after a good verdict.

The names that a requirement may use are here: ``from preflight import Details, unknown``. They are loaded on first
use, because most processes that import this package use none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preflight.contract import Details, not_applicable, unknown
    from preflight.web.guarding import guard

__all__ = ["Details", "guard", "not_applicable", "unknown"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Load a public name."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "guard":
        from preflight.web.guarding import guard

        return guard
    from preflight import contract

    return getattr(contract, name)
