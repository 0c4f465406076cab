"""/metrics: the snapshot that /diagnostics shows, and what goes on in this process, for Prometheus.

Everything is read when it is asked for; between two scrapes only requests are counted, and what the application counts
itself. The library is imported with the first scrape, so that no start waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from preflight import __version__, times
from preflight.notify.notifier import unattended
from preflight.report import model as report
from preflight.report.model import Report
from preflight.web.instance import Instance

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric


class Metrics:
    """What is counted while an application serves, and the registry."""

    def __init__(self, own: Callable[[], Iterable[Metric]] = tuple) -> None:
        """``own``: the application's own metrics, asked for with each scrape, in a thread."""
        self.in_flight = 0
        self._own = own
        self._scraping = asyncio.Lock()
        self._state: InstanceState | None = None
        self._registry: CollectorRegistry | None = None

    async def scrape(self, state: InstanceState, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type: the text format, or OpenMetrics for those who accept that."""
        async with self._scraping:
            self._state = state
            return await asyncio.to_thread(self._render, accept)

    def _render(self, accept: str) -> tuple[bytes, str]:
        from prometheus_client import CollectorRegistry, ProcessCollector
        from prometheus_client.exposition import choose_encoder

        state = self._state

        if self._registry is None:
            self._registry = CollectorRegistry()
            self._registry.register(self)
            if state is None or state.instance.board.workers == 1:
                ProcessCollector(registry=self._registry)
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type

    def describe(self) -> list[Metric]:
        """Nothing in advance: what there is depends on the report."""
        return []

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for during a scrape."""
        state = self._state
        if state is None:
            return
        yield from _verdict(state)
        if state.report is not None:
            yield from _run(state.report)
        if state.trusted is not None:
            yield from _checks(state.trusted)
        yield from _reruns(state)
        yield from _notifications(state.instance)
        yield from _serving(state)
        yield from self._own()


class InstanceState(NamedTuple):
    """What a scrape shows, taken in the event loop at one moment."""

    instance: Instance
    report: Report | None
    trusted: Report | None
    """The newest report that says something of its checks."""
    rerun_endings: Mapping[str, int]
    in_flight: int | None
    """HTTP requests that are being answered; None if nobody counts them."""


def _gauge(name: str, about: str, value: float) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(name, about, value=value)


def _verdict(state: InstanceState) -> Iterator[Metric]:
    """What serves, and whether it may."""
    from prometheus_client.core import GaugeMetricFamily

    build = GaugeMetricFamily("preflight_build_info", "Version of the server.", labels=["version", "python"])
    build.add_metric([__version__, report.python()], 1)
    yield build
    yield _gauge(
        "preflight_may_start",
        "Whether the most recent report for this address lets a server start; 0 if there is no report.",
        state.report is not None and state.report.may_start,
    )
    yield _gauge(
        "preflight_healthy",
        "Whether /health answers 200: this instance's own verdict is good, and it is not draining.",
        state.instance.status == "healthy",
    )


def _reruns(state: InstanceState) -> Iterator[Metric]:
    """How re-runs ended, and how often the worker had to be started again."""
    from prometheus_client.core import CounterMetricFamily

    whose = "process" if state.instance.board.workers == 1 else "instance"
    reruns = CounterMetricFamily("preflight_reruns", f"Re-runs of this {whose}, by how they ended.", labels=["status"])
    for status in report.STATUSES:
        reruns.add_metric([status], state.rerun_endings.get(status, 0))
    yield reruns
    yield CounterMetricFamily(
        "preflight_worker_restarts", "Crashes after which the worker was started again.",
        value=float(state.instance.restarts.get("count", 0)),
    )  # fmt: skip


def _notifications(instance: Instance) -> Iterator[Metric]:
    """The results of notifications."""
    from prometheus_client.core import CounterMetricFamily

    tally = instance.notifications or unattended(instance.settings)
    notices = CounterMetricFamily(
        "preflight_notifications", "Notifications, counted for each service, by their result.",
        labels=["result"],
    )  # fmt: skip
    for result in ("delivered", "undelivered", "dropped"):
        notices.add_metric([result], tally[result])
    yield notices
    yield _gauge("preflight_notifications_pending", "Notifications that wait or are being sent.", tally["pending"])


def _serving(state: InstanceState) -> Iterator[Metric]:
    """Requests, and the processes that answer them."""
    if state.in_flight is not None:
        yield _gauge(
            "preflight_http_requests_in_flight",
            "Requests being answered, including this one, without those that /health and /diagnostics answer at once.",
            state.in_flight,
        )
    board = state.instance.board
    if board.workers > 1:
        yield _gauge("preflight_workers", "Processes that the instance serves with.", board.workers)
        yield _gauge("preflight_workers_ready", "Processes of the instance that accept connections.", board.ready)
        yield from _processes(state.instance)


def _processes(instance: Instance) -> Iterator[Metric]:
    """The process metrics of prometheus-client, for each worker; a new worker's counters begin anew."""
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
    for number, pid in instance.board.pids.items():
        for metric in ProcessCollector(pid=partial(int, pid), registry=CollectorRegistry()).collect():
            kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
            family = families.setdefault(metric.name, kind(metric.name, metric.documentation, labels=["worker"]))
            for sample in metric.samples:
                family.add_metric([str(number)], sample.value)
    yield from families.values()


def _ended(run: Report) -> float:
    return times.epoch(run.started_at) + run.duration


def _run(latest: Report) -> Iterator[Metric]:
    """The most recent run, whether or not it broke."""
    from prometheus_client.core import GaugeMetricFamily

    ended = _ended(latest)
    yield _gauge(
        "preflight_last_run_timestamp_seconds", "When the most recent run ended, in seconds since the epoch.", ended
    )
    yield _gauge(
        "preflight_last_run_age_seconds", "Time since the most recent run ended.", max(0.0, time.time() - ended)
    )
    yield _gauge("preflight_last_run_duration_seconds", "How long the most recent run took.", latest.duration)
    info = GaugeMetricFamily("preflight_last_run_info", "The most recent run.", labels=["origin", "status"])
    info.add_metric([latest.origin, latest.status], 1)
    yield info


def _checks(trusted: Report) -> Iterator[Metric]:
    """The last run that did not break, and the result of each of its checks."""
    from prometheus_client.core import GaugeMetricFamily

    yield _gauge(
        "preflight_last_trusted_run_timestamp_seconds",
        "When the last run that did not break ended, in seconds since the epoch; the checks are from it.",
        _ended(trusted),
    )
    labels = ["check", "severity"]
    ok = GaugeMetricFamily(
        "preflight_check_ok", "Whether the requirement holds (or is not applicable): 1 yes, 0 no.", labels=labels
    )
    blocks = GaugeMetricFamily(
        "preflight_check_blocks",
        "Whether the requirement is critical and does not hold, so that it blocks: 1 yes, 0 no.",
        labels=labels,
    )
    outcome = GaugeMetricFamily(
        "preflight_check_outcome", "1 for the outcome that the requirement had.", labels=[*labels, "outcome"]
    )
    duration = GaugeMetricFamily("preflight_check_duration_seconds", "How long the check took.", labels=labels)
    for check in trusted.checks:
        own = [check.title, check.severity]
        ok.add_metric(own, not (check.blocks or check.warns))
        blocks.add_metric(own, check.blocks)
        outcome.add_metric([*own, check.outcome], 1)
        duration.add_metric(own, check.duration)
    yield from (ok, blocks, outcome, duration)
