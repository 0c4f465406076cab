"""The instance that this one replaces: it goes on serving until a worker of ours has proven that it answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from preflight.instances.records import Handover
from preflight.launcher.proof import Proof
from preflight.processes.loop import Loop
from preflight.processes.worker import Worker
from preflight.settings.model import Settings


class Replacement:
    """The instance before this one, if there is one, and what is asked of a worker that is to take its place."""

    def __init__(self, settings: Settings, before: Handover | None, *, loop: Loop, now: Callable[[], float]) -> None:
        """``before`` belongs to the caller; ``now`` is the clock that the deadline of an answer goes by."""
        self._settings = settings
        self._before = before
        self._loop = loop
        self._now = now
        self._proof: Proof | None = None
        if before is not None:
            loop.watch(before.channel, self._heard_before)

    @property
    def pending(self) -> bool:
        """Whether the instance before this one still serves."""
        return self._before is not None

    def still_served(self) -> list[str]:
        """Who serves instead of this instance, for people; nothing where nobody does."""
        if self._before is None:
            return []
        return [f"{self._before.record.name} is still serving {self._settings.address}."]

    @property
    def wants_proof(self) -> bool:
        """Whether a worker has to answer before it accepts anything: another server's clients are at stake."""
        return self._before is not None and bool(self._settings.readiness_path)

    @property
    def asked_path(self) -> str:
        """What a worker was asked for that has not answered yet; empty if it was not asked."""
        return self._proof.path if self._proof is not None else ""

    def admit_or_ask(self, worker: Worker) -> None:
        """Let a worker accept whose start-up is complete, or ask it for a proof first."""
        if not self.wants_proof:
            worker.admit()  # the one that was to be replaced has ended meanwhile
            return
        self._proof = Proof(self._settings, self._now())
        self._loop.watch(self._proof, self._proof.read)
        worker.ask(self._proof.theirs)
        self._proof.theirs.close()

    def judge(self, worker: Worker) -> str:
        """Let a worker accept that has answered; returns why it may not, once that is certain."""
        proof = self._proof
        if proof is None:
            return ""
        problem = proof.problem(self._now())
        if proof.given or self._before is None:
            self.end_trial()
            worker.admit()
            return ""
        if problem:
            self.end_trial()
            return f"Asked for {proof.path}, it {problem}."
        return ""

    def end_trial(self) -> None:
        """Wait for no answer any more."""
        if self._proof is not None:
            self._loop.unwatch(self._proof)
            self._proof.close()
            self._proof = None

    def _heard_before(self) -> None:
        """Notice the end of the instance that was to be replaced: there is nothing to be careful of any more."""
        if self._before is None:
            return
        with contextlib.suppress(OSError):
            self._before.channel.arrived()
            if not self._before.channel.closed:
                return
        self.forget_previous()

    def forget_previous(self) -> None:
        """There is no instance before this one any more, or it may go."""
        if self._before is not None:
            self._loop.unwatch(self._before.channel)
            self._before = None
