"""The places of the end-to-end tests, for the tests here."""

from __future__ import annotations

from tests.e2e.conftest import (
    compiled_tree,
    equipped,
    equipped_project,
    place,
    project,
    providers,
    unmeasured,
)

__all__ = ["compiled_tree", "equipped", "equipped_project", "place", "project", "providers", "unmeasured"]
