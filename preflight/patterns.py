"""Regular expressions that are compiled when they are first used.

The modules about secrets have seventy, and a process of a start needs five. To compile all of them took each of its
processes 20 ms.
"""

from __future__ import annotations

import re
from typing import Any, cast

_ATTRIBUTES = [name for name in dir(re.Pattern) if not name.startswith("_")]


class Lazy:
    """Stands for a compiled pattern, and has its attributes from the first use on."""

    def __init__(self, pattern: str, flags: int) -> None:
        self._asked = pattern, flags

    def __getattr__(self, name: str) -> Any:
        if name not in _ATTRIBUTES:
            raise AttributeError(name)
        compiled = re.compile(*self._asked)
        vars(self).update((one, getattr(compiled, one)) for one in _ATTRIBUTES)
        return vars(self)[name]


def lazy(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """The pattern, with the same flags as in `re.compile`; a wrong one raises re.error when it is first used."""
    return cast("re.Pattern[str]", Lazy(pattern, flags))
