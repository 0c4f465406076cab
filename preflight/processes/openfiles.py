"""How many files a process of ours may have open (RLIMIT_NOFILE), and how many it needs.

The worker raises its soft limit itself, as far as the hard one lets it, so what counts for the connections is not the
soft limit that it starts with. The launcher raises nothing: what counts for a start is the soft limit.
"""

from __future__ import annotations

import resource

from preflight.settings.model import Settings

RESERVE = 64  # connections beyond the limit that may still ask for /health, and get 503 for anything else
SPARE = 256  # descriptors beyond the connections': files, the database, providers, the suite's pipes
START = 32
"""Descriptors that a launcher must be allowed for one worker.

Measured on Linux with Python 3.11: a start opens 21, one that replaces a running server 24. The rest is for re-runs,
notices, and descriptors that its parent has left open.
"""
OF_WORKER = 2
"""Descriptors of the launcher for each further worker: its channel and its output."""


def of_start(settings: Settings) -> int:
    """Descriptors that a launcher must be allowed."""
    return START + OF_WORKER * (settings.workers - 1)


def wanted(settings: Settings) -> int:
    """Descriptors that the worker asks for: what is set, and enough for its connections."""
    return max(settings.open_files, settings.connections + RESERVE + SPARE)


def of_worker(settings: Settings) -> int | None:
    """Descriptors that a worker started from here will be allowed; None: without a limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    most = wanted(settings) if hard == resource.RLIM_INFINITY else min(wanted(settings), hard)
    return max(soft, most)


def own() -> int | None:
    """Descriptors that this process is allowed, and what it starts; None: without a limit."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def connections(settings: Settings, allowed: int | None) -> int:
    """Connections that a worker with so many descriptors takes: as many as are set, or as fit."""
    if allowed is None:
        return settings.connections
    return max(1, min(settings.connections, allowed - RESERVE - SPARE))


def raise_limit(settings: Settings) -> int | None:
    """Raise this process's soft limit to what the worker asks for, as far as possible; returns what holds now."""
    allowed, before = of_worker(settings), own()
    if allowed == before or allowed is None:
        return before
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    except (OSError, ValueError):  # macOS refuses what is above kern.maxfilesperproc
        return before
    return allowed
