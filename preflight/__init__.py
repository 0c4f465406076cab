"""Requirements as tests, a verdict that fails closed, and a server that starts only after a good verdict.

The names that a requirement may use are here: ``from preflight import Details, unknown``. They are loaded on first
use, because most processes that import this package use none of them.
"""

from __future__ import annotations

import os
from importlib.machinery import SourceFileLoader
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType

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


_get_code = SourceFileLoader.get_code


def _get_code_of_source(loader: SourceFileLoader, name: str) -> CodeType | None:
    """The code of a module, from its source where the compiled file is not whole.

    A Python before 3.13.1 leaves half of one on a file system that is full, and would not get past it any more.
    """
    try:
        return _get_code(loader, name)
    except (EOFError, ValueError, TypeError):
        path = loader.get_filename(name)
        code: CodeType = loader.source_to_code(loader.get_data(path), path)  # or it says what is wrong with that
        from importlib.util import cache_from_source

        try:
            os.unlink(cache_from_source(path))
        except (OSError, NotImplementedError):
            pass  # it is read-only, say: compiled anew each time
        return code


SourceFileLoader.get_code = _get_code_of_source  # type: ignore[assignment, method-assign]
