"""What a requirement on a distribution asks for in addition to the distribution: the needs of its extras."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from preflight.suite.probes import imports


def with_extras(requirements: Sequence[Requirement], unknown: list[str]) -> Iterator[tuple[Requirement, str]]:
    """These requirements and those of their extras, each with what it is needed by.

    Extras that a distribution does not have are put into ``unknown``: an installer only warns of them.
    """
    ahead = [(one, "") for one in requirements]
    seen: set[tuple[str, str]] = set()
    while ahead:
        requirement, by = ahead.pop(0)
        yield requirement, by
        for extra in sorted(requirement.extras):
            here = (canonicalize_name(requirement.name), canonicalize_name(extra))
            installed = imports.installed(requirement.name)
            if here in seen or installed is None:
                continue
            seen.add(here)
            metadata = installed.distribution.metadata
            provided = {canonicalize_name(one) for one in metadata.get_all("Provides-Extra") or ()}
            if here[1] not in provided:
                unknown.append(f"{requirement.name} has no extra {extra!r}")
            for line in installed.distribution.requires or ():
                try:
                    one = Requirement(line)
                except InvalidRequirement:  # old metadata, which an installer of its time understood
                    words = re.findall(r"[\w.-]+", line)
                    if "extra" in words and extra in words[words.index("extra") :]:
                        unknown.append(f"{requirement.name}[{extra}] needs {line!r}, which is not a requirement")
                    continue
                if one.marker and one.marker.evaluate({"extra": extra}) and not one.marker.evaluate({"extra": ""}):
                    ahead.append((one, f"{requirement.name}[{extra}]"))
