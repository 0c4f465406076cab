"""The chat's metrics for Prometheus: its connections and sessions, and how long turns take."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from preflight.processes.board import Board

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from preflight.web.services import Load

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)  # seconds of a chat turn


class Histogram:
    """A histogram of durations."""

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self.buckets = buckets
        self._cells = Board.alone().counters(len(buckets) + 2)

    def count_on(self, board: Board) -> None:
        """Count where the other workers of the instance do; before anything is observed."""
        self._cells = board.counters(len(self.buckets) + 2)

    def observe(self, seconds: float) -> None:
        self._cells.add(bisect_left(self.buckets, seconds))
        self._cells.add(len(self.buckets) + 1, seconds)

    @property
    def sum(self) -> float:
        """Seconds in all."""
        return self._cells.totals[-1]

    @property
    def cumulative(self) -> list[tuple[str, int]]:
        """Upper bounds and how many were not above them, as Prometheus has it."""
        bounds = [*map(str, self.buckets), "+Inf"]
        counts = map(int, self._cells.totals[:-1])
        return list(zip(bounds, accumulate(counts), strict=True))


def collect(turns: Histogram, load: Load) -> Iterator[Metric]:
    """The chat's part of a scrape. The library is imported here, so that no start waits for it."""
    from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily

    yield GaugeMetricFamily("preflight_chat_connections", "Open chat connections.", value=load.connections)
    about = "Chat sessions that are followed or have a turn."
    yield GaugeMetricFamily("preflight_chat_sessions", about, value=load.sessions)
    yield HistogramMetricFamily(
        "preflight_chat_turn_duration_seconds", "Chat turns, from the beginning of the work to the saved answer.",
        buckets=turns.cumulative, sum_value=turns.sum,
    )  # fmt: skip
