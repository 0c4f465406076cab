"""The instance that this one replaces: it goes on serving until each worker of ours has proven that it answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from preflight.instances.records import Handover
from preflight.launcher.proof import Proof
from preflight.processes.loop import Loop
from preflight.processes.worker import Worker
from preflight.settings.model import Settings

AGAIN = 0.5  # seconds until a server that is not ready yet is asked again


class Replacement:
    """The instance before this one, if there is one."""

    def __init__(self, settings: Settings, before: Handover | None, *, loop: Loop) -> None:
        """``before`` is closed by the caller."""
        self._settings = settings
        self._before = before
        self._loop = loop
        if before is not None:
            loop.watch(before.channel, self._heard_before)

    @property
    def pending(self) -> bool:
        """Whether the instance before this one still serves."""
        return self._before is not None

    def still_served(self) -> list[str]:
        """Who serves instead of this instance, for people; empty if nobody does."""
        if self._before is None:
            return []
        return [f"{self._before.record.name} is still serving {self._settings.address}."]

    @property
    def wants_proof(self) -> bool:
        """Whether a worker has to answer before it accepts anything: another server's clients are at stake."""
        return self._before is not None and bool(self._settings.readiness_path)

    def _heard_before(self) -> None:
        """Notice the end of the instance that was to be replaced: its clients are no longer at stake."""
        if self._before is None:
            return
        with contextlib.suppress(OSError):
            self._before.channel.arrived()
            if not self._before.channel.closed:
                return
        self.forget_previous()

    def forget_previous(self) -> None:
        """There is no longer an instance before this one, or it may end."""
        if self._before is not None:
            self._loop.unwatch(self._before.channel)
            self._before = None


class Trial:
    """What one worker has to prove before it serves in another instance's place."""

    def __init__(self, settings: Settings, replacement: Replacement, *, loop: Loop, now: Callable[[], float]) -> None:
        """``now`` is the clock that the deadline of an answer goes by."""
        self.passed = False
        """Whether nothing more is asked of the worker: it may accept as soon as the others may."""
        self._settings = settings
        self._replacement = replacement
        self._loop = loop
        self._now = now
        self._proof: Proof | None = None
        self._worker: Worker | None = None
        """The worker that is asked."""
        self._begun = self._due = 0.0
        """When it was asked first, and when it is asked again; on the clock of ``now``."""

    @property
    def asked_path(self) -> str:
        """The path that the worker was asked for, until it answers; empty if it was not asked."""
        return self._proof.path if self._proof is not None else ""

    def begin(self, worker: Worker) -> None:
        """Ask a worker whose start-up is complete for an answer, if another server's clients are at stake."""
        if not self._replacement.wants_proof:
            self.passed = True  # no server is to be replaced any more, or no answer is asked for
            return
        self._worker = worker
        self._begun = self._now()
        self._ask()

    def _ask(self) -> None:
        if self._worker is None:
            return
        self._due = 0.0
        self._proof = Proof(self._settings, self._begun)  # however often it is asked, the deadline is one
        self._loop.watch(self._proof, self._proof.read)
        self._worker.ask(self._proof.theirs)
        self._proof.theirs.close()

    def problem(self) -> str:
        """Why the worker may not accept, once that is certain."""
        proof, now = self._proof, self._now()
        if proof is None:
            return ""
        if proof.given or not self._replacement.pending:
            self.end()
            self.passed = True
            return ""
        if proof.is_not_ready and now < self._begun + self._settings.ready_timeout:
            self._try_again(proof, now)
            return ""
        if problem := proof.problem(now):
            self.end()
            return f"The new server was asked for {proof.path}, and {problem}."
        return ""

    def _try_again(self, proof: Proof, now: float) -> None:
        """Ask once more, a little later: the application loads a model, say, after its start-up."""
        if not self._due:
            self._due = now + AGAIN
            self._loop.unwatch(proof)  # its end can be read without end
        elif now >= self._due:
            self.end()
            self._ask()

    def end(self) -> None:
        """Stop waiting for an answer."""
        if self._proof is not None:
            self._loop.unwatch(self._proof)
            self._proof.close()
            self._proof = None
