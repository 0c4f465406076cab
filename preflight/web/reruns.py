"""Re-runs: the suite once more, beside the live server; who asked for it, its progress, and the use of its result.

There is one at a time: a request while one goes on gets that one. A re-run stops nothing, runs at a lower priority than
the server, and is killed with its whole group at its deadline (preflight/processes/rerun.py). Its report is published
like any other, and decides what /health says from then on; a re-run that broke is shown, and the previous verdict
stays.

The launcher has one run for all workers of an instance: a worker that was not asked is told that it began, and follows
it like its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from preflight import times
from preflight.files import Seen
from preflight.processes.rerun import Ending, Heard, Here, Steps
from preflight.redaction.redactor import Redactor
from preflight.report import model as report
from preflight.report.model import Report
from preflight.web.instance import Instance

log = logging.getLogger(__name__)

HEAD_START = 0.03  # seconds that the answer to a run's caller has before the suite's start competes for the processors
REMEMBERED = 20  # runs whose state can be asked for
JITTER = 0.1  # by which a pause in the background is longer or shorter, so that many servers do not check in step
TOLD = 10  # callers that get the same run and are recorded one by one; of further ones the number
PATIENCE = 15.0  # seconds beyond a run's deadline after which nothing more is expected of its runner
STOPS = "the re-run was ended before it was complete: the server is stopping or being replaced"

Message = dict[str, Any]


class Draining(Exception):
    """The server stops: it begins no re-run."""


class TooSoon(Exception):
    """The last re-run has only just ended."""

    def __init__(self, seconds: float) -> None:
        self.retry_after = math.ceil(seconds)
        super().__init__(f"the last re-run has only just ended: try again in {self.retry_after} s")


@dataclass(eq=False)
class FollowedRerun:
    """One re-run, as those who follow it see it."""

    run_id: str
    state: str = "running"  # then "finished" or "broken"
    started_at: str = field(default_factory=times.now)
    finished_at: str | None = None
    checking: str | None = None
    done: int = 0
    total: int | None = None  # None until the suite is collected
    status: str | None = None  # the report's
    reason: str = ""
    checks: list[Message] = field(default_factory=list)

    @property
    def path(self) -> str:
        """Where it can be followed."""
        return f"/diagnostics/run/{self.run_id}"

    def document(self) -> Message:
        """JSON values."""
        return {**vars(self), "checks": list(self.checks)}


class Reruns:
    """The re-runs of one instance. Made in the event loop, where everything happens but the runs themselves."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.published: Callable[[Report, Seen | None], object] = lambda _found, _seen: None
        """Called with the report of each run that has ended, and what tells the file that it was published in."""
        self.listeners: list[Callable[[Message], None]] = []
        """Told every step, in messages for /ws/diagnostics."""
        self._endings = instance.board.counters(len(report.STATUSES))
        self._runs: OrderedDict[str, FollowedRerun] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        self._ended = -math.inf  # when the last one did, on the event loop's clock
        self._calls = 0  # for the newest one
        settings = instance.settings
        self._redactor = Redactor.of(settings)
        self._runner = instance.runner or Here(settings, instance.options, self._redactor, self._signalled)

    def _signalled(self, name: str, pid: int, module: str, why: str) -> None:
        self.instance.audit("signal", signal=name, to=pid, name=module, why=why, result="sent")

    @property
    def endings(self) -> dict[str, int]:
        """How many re-runs of the instance ended with which status."""
        return dict(zip(report.STATUSES, map(int, self._endings.totals), strict=True))

    def count(self, status: str) -> None:
        """Count a re-run that has ended with this status, and that no other worker counts."""
        self._endings.add(report.STATUSES.index(status))

    @property
    def current(self) -> FollowedRerun | None:
        """The re-run that goes on."""
        last = self.last
        return last if last is not None and last.state == "running" else None

    @property
    def last(self) -> FollowedRerun | None:
        """The newest re-run, whether or not it is over."""
        return next(reversed(self._runs.values()), None)

    @property
    def again_in(self) -> float:
        """Seconds until the next re-run may begin; 0 if nobody has to wait."""
        return max(0.0, self._ended + self.instance.settings.rerun_interval - asyncio.get_running_loop().time())

    def find(self, run_id: str) -> FollowedRerun | None:
        """One of the last few runs."""
        return self._runs.get(run_id)

    def start(self, asked_by: str) -> FollowedRerun:
        """Begin a re-run, or join the one that goes on. Raises Draining and TooSoon."""
        run = self.current
        if run is None:
            if self.instance.draining:
                raise Draining("the server is stopping or being replaced")
            if self.again_in:
                raise TooSoon(self.again_in)
            run = FollowedRerun(os.urandom(16).hex())
            self._follow(run, *self._listeners(asyncio.get_running_loop(), run), begins=True)
        # Every call for a re-run passes here. Clients that may call must not be able to fill the audit.
        self._calls += 1
        if self._calls <= TOLD:
            self.instance.audit("rerun", by=asked_by, run_id=run.run_id)
        return run

    def _follow(self, run: FollowedRerun, heard: Heard, ended: asyncio.Future[Ending | None], *, begins: bool) -> None:
        self._runs[run.run_id] = run
        self._calls = 0
        while len(self._runs) > REMEMBERED:
            self._runs.popitem(last=False)
        self._task = asyncio.create_task(self._perform(run, heard, ended, begins=begins))

    def _listeners(
        self, loop: asyncio.AbstractEventLoop, run: FollowedRerun
    ) -> tuple[Heard, asyncio.Future[Ending | None]]:
        """What hears the steps of a run, in another thread, and what gets its ending."""

        def heard(steps: Steps) -> None:
            _soon(loop, lambda: self._heard(run, steps))

        return heard, loop.create_future()

    def _began_elsewhere(
        self, loop: asyncio.AbstractEventLoop, run_id: str, started_at: str
    ) -> tuple[Heard, Callable[[Ending | None], object]]:
        """Another worker was asked for a run: follow it here, too. In another thread."""
        run = FollowedRerun(run_id, started_at=started_at)
        heard, ended = self._listeners(loop, run)
        # One that begins here at this very moment joins it.
        _soon(loop, lambda: None if self.current else self._follow(run, heard, ended, begins=False))
        return heard, _over(ended)

    async def for_agent(self) -> Message:
        """The same for the agent's tool, which gets an answer in every case."""
        try:
            run = self.start("the agent")
        except (Draining, TooSoon) as refused:
            return {"error": str(refused)}
        return {"run_id": run.run_id, "state": run.state, "follow": f"GET {run.path}"}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For as long as the application serves; a drain ends what goes on."""
        loop = asyncio.get_running_loop()
        self._runner.on_began = lambda run_id, started_at: self._began_elsewhere(loop, run_id, started_at)
        tasks = [asyncio.create_task(self._drain())]
        if self.instance.settings.refresh:
            tasks.append(asyncio.create_task(self._repeat(self.instance.settings.refresh)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await self._abandon()

    async def _repeat(self, pause: float) -> None:
        """The background's re-runs: one after a pause since the last one, whoever asked for that, in any worker."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        while True:
            least = self.instance.settings.rerun_interval
            wait = max(least, pause * random.uniform(1 - JITTER, 1 + JITTER))
            while (left := max(since, self._ended) + wait - loop.time()) > 0:  # noqa: ASYNC110  # a run moves it
                await asyncio.sleep(left)
            try:
                self.start("the background (refresh)")
            except TooSoon:
                pass  # another re-run has only just ended
            except Draining:
                return
            if self._task is not None:
                await asyncio.wait((self._task,))
            since = loop.time()

    async def _drain(self) -> None:
        await self.instance.drained()
        await self._abandon()

    async def _abandon(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            if run := self.current:  # not even its task had begun
                self._finish(run, "broken", STOPS)

    # One run.

    async def _perform(
        self, run: FollowedRerun, heard: Heard, ended: asyncio.Future[Ending | None], *, begins: bool
    ) -> None:
        self._tell("run_started", run, started_at=run.started_at, total=run.total)
        try:
            if begins:
                await asyncio.sleep(HEAD_START)
                self._runner.begin(run.run_id, heard, _over(ended))
            async with asyncio.timeout(self.instance.settings.run_timeout + PATIENCE):
                ending = await ended
            if ending is None:
                self._finish(run, "broken", STOPS, counts=begins)
                return
        except asyncio.CancelledError:
            self._runner.end(run.run_id)
            self._finish(run, "broken", STOPS, counts=begins)
            raise
        except Exception as error:  # noqa: BLE001  # there was no answer, say; the next re-run gets its chance
            self._runner.end(run.run_id)
            why = report.shown(f"{type(error).__name__}: {error}", self._redactor)
            silent = isinstance(error, TimeoutError)
            self._broke(run.run_id, "no message has said how the suite ended" if silent else why)
            self._finish(run, "broken", self.instance.rerun_problem, counts=begins)
        else:
            self.published(ending.report, ending.seen)
            run.started_at = ending.report.started_at  # the suite's own word, which everybody else shows
            self._judge(ending)
            if ending.unpublished:
                log.warning("re-run %s: %s", run.run_id, ending.unpublished)
            said = ending.reason or ending.unpublished
            self._finish(run, ending.report.status, said, counts=not ending.elsewhere)

    def _heard(self, run: FollowedRerun, steps: Steps) -> None:
        if self._runs.get(run.run_id) is not run:
            return  # another one was begun here before it was heard of, and joins it
        for step, data in steps:
            match step:
                case "also":  # two workers were asked at the same moment: one run, which answers to both ids
                    self._runs.setdefault(data["run_id"], run)
                case "collected":
                    run.total = len(data["titles"])
                case "checking":
                    run.checking = data["title"]
                    self._tell("checking", run, title=run.checking, done=run.done, total=run.total)
                case "checked":
                    run.checks.append(data)
                    run.done += 1
                    self._tell("checked", run, check=data, done=run.done, total=run.total)

    def _judge(self, ending: Ending) -> None:
        """Let a report that can be trusted replace the one before. A broken run decides nothing, and is shown."""
        if ending.reason:
            self._broke(ending.report.run_id, ending.reason, said=not ending.elsewhere)
            return
        before = self.instance.report is None or self.instance.report.may_start
        self.instance.judge(ending.report, "")
        if ending.report.may_start != before and not ending.elsewhere:
            titles = ", ".join(check.title for check in ending.report.blocking)
            said = f"blocked by {titles}" if titles else "nothing blocks any more"
            log.warning("re-run %s changed the verdict: %s", ending.report.run_id, said)

    def _broke(self, run_id: str, why: str, *, said: bool = True) -> None:
        self.instance.judge(None, why)
        if said:  # only one worker of the instance does
            log.warning("re-run %s broke, the previous verdict stays: %s", run_id, why)

    def _finish(self, run: FollowedRerun, status: str, reason: str, *, counts: bool = True) -> None:
        """``counts``: no other worker of the instance counts it."""
        self._ended = asyncio.get_running_loop().time()
        if counts:
            self.count(status)
        run.state = "broken" if status == "broken" else "finished"
        run.finished_at, run.checking = times.now(), None
        run.status, run.reason = status, reason
        if self._calls > TOLD:
            self.instance.audit("rerun", by="others", more=self._calls - TOLD, run_id=run.run_id)
        self._tell("run_finished", run, status=run.status, state=run.state, again_in=round(self.again_in, 3))

    def _tell(self, kind: str, run: FollowedRerun, **said: object) -> None:
        for listener in self.listeners:
            listener({"type": kind, "run_id": run.run_id, **said})


def _over(ended: asyncio.Future[Ending | None]) -> Callable[[Ending | None], object]:
    """A function that tells, from another thread, that a run is over."""
    return lambda ending: _soon(ended.get_loop(), lambda: None if ended.done() else ended.set_result(ending))


def _soon(loop: asyncio.AbstractEventLoop, act: Callable[[], object]) -> None:
    """Have the event loop do this, from another thread."""
    with contextlib.suppress(RuntimeError):  # closed: nobody wants to know any more
        loop.call_soon_threadsafe(act)
