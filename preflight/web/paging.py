"""Pages of a list over HTTP: ``?limit`` and ``?offset``."""

from __future__ import annotations

from collections.abc import Mapping

USUAL = 100  # entries of a page, unless asked for fewer or more
LONGEST = 1000
FURTHEST = 2**31 - 1  # entries that can be left out


def page(query: Mapping[str, str]) -> tuple[int, int]:
    """``limit`` and ``offset`` of a request; raises ValueError with what is allowed."""
    try:
        limit, offset = int(query.get("limit", USUAL)), int(query.get("offset", 0))
    except ValueError:
        limit = offset = -1
    if not (1 <= limit <= LONGEST and 0 <= offset <= FURTHEST):
        raise ValueError(f"limit must be from 1 to {LONGEST}, and offset from 0 to {FURTHEST}")
    return limit, offset
