"""The names of the formats that a report has for other tools: all of `formats` that most commands need."""

from __future__ import annotations

FORMAT_NAMES = ("json", "text", "junit", "github", "markdown")
"""What ``--format`` takes."""
