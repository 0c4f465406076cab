"""Content negotiation: the media type by Accept, and no body if the client has the answer already (RFC 9110)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

_RANGE = re.compile(r"\s*([!#$%&'*+.^_`|~\w-]+)/([!#$%&'*+.^_`|~\w-]+)\s*")
_QUALITY = re.compile(r"q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*", re.IGNORECASE)
LONGEST = 2_000  # characters of an Accept header that is looked at


def accepted(header: str, offered: Mapping[str, str]) -> str:
    """The name of what suits the client best; ``offered`` maps names to media types, in the server's own order.

    The most specific range decides about a media type, the higher quality wins, and among equals the first
    name. Where nothing suits, the first name as well: an answer that was not asked for helps more than none.
    """
    return _accepted(header[:LONGEST], tuple(offered.items()))


@lru_cache(maxsize=64)
def _accepted(header: str, offered: tuple[tuple[str, str], ...]) -> str:
    ranges: list[tuple[str, str, float]] = []
    for part in header.split(","):
        range_, *parameters = part.split(";")
        match = _RANGE.fullmatch(range_)
        if match is None:
            continue
        quality = 1.0
        for parameter in parameters:
            if parameter.strip()[:1] in ("q", "Q"):
                found = _QUALITY.fullmatch(parameter.strip())
                quality = float(found[1]) if found else 0.0  # what cannot be understood is not wanted
        ranges.append((match[1].lower(), match[2].lower(), quality))

    def quality_of(media_type: str) -> float:
        kind, _, subtype = media_type.partition(";")[0].partition("/")
        fitting = [
            ((range_ != "*") + (sub != "*"), quality)
            for range_, sub, quality in ranges
            if range_ in (kind, "*") and sub in (subtype, "*")
        ]
        return max(fitting)[1] if fitting else 0.0

    best, most = offered[0][0], 0.0
    for name, media_type in offered:
        quality = quality_of(media_type)
        if quality > most:
            best, most = name, quality
    return best


def unchanged(if_none_match: str, etag: str) -> bool:
    """Whether the client has what this entity tag stands for; weak tags are compared by their opaque part."""
    if if_none_match.strip() == "*":
        return True
    opaque = etag.removeprefix("W/")
    return any(tag.strip().removeprefix("W/") == opaque for tag in if_none_match.split(","))
