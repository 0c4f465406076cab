"""The workers of one instance together: what each is given, and what they are told about each other."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from preflight.launcher.login import Login
from preflight.launcher.replacement import Replacement
from preflight.launcher.shown import Display
from preflight.launcher.slot import Slot
from preflight.output.audit import Event
from preflight.processes import heartbeat
from preflight.processes.loop import Loop
from preflight.processes.rerun import Ending
from preflight.processes.worker import Worker
from preflight.report.newest import Judged
from preflight.settings.model import Settings

if TYPE_CHECKING:
    from preflight.processes.board import Board


class Workers:
    """A slot for each worker, and what all of them share."""

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, object],
        *,
        loop: Loop,
        display: Display,
        sock: socket.socket,
        replacement: Replacement,
        judged: Judged,
    ) -> None:
        """``judged`` is what a worker goes by: the run that let the instance start, then what the re-runs found."""
        self.judged = judged
        self.slots = [
            Slot(number, settings, loop=loop, terminal=display.terminal, replacement=replacement)
            for number in range(1, settings.workers + 1)
        ]
        self.login = Login.of(settings)
        self.instance: Mapping[str, Any] = {}
        """What a worker is told about the instance, in addition to what is known here."""
        self.tally: Callable[[], Mapping[str, Any]] = dict
        """What became of the notices so far."""
        self.fleet: Callable[[], Mapping[str, Any]] = dict
        """The state of the fleet's database."""
        self._settings = settings
        self._options = options
        self._loop = loop
        self._display = display
        self._socket = sock
        self._replacement = replacement
        self._last_exit: dict[str, str] = {"last_exit": "", "last_exit_at": ""}
        self._ending: Ending | None = None
        """The result of the last re-run."""
        self._board = self._made_board()

    def _made_board(self) -> Board | None:
        """The board that several workers share; one worker has none."""
        if self._settings.workers == 1:
            return None
        from preflight.processes.board import Board  # only if it is shared

        return Board.made(self._settings.workers, self._settings.state_dir)

    # One of them.

    def fill(self, slot: Slot, worker: Worker, *, watched: bool = False) -> None:
        """A worker has been started for this slot; ``watched``: the loop watches it already."""
        slot.fill(worker)
        self.be_the_listener()
        worker.on_audit, worker.on_beat = self._reported, slot.watchdog.heard_beat
        worker.on_code_spent = self.login.spend
        worker.on_logout = lambda session, expires: self._logged_out(worker, session, expires)
        worker.on_news = lambda topic, data: self._pass_on(worker, topic, data)
        if not watched:
            worker.child.on_signal = self._display.signalled
            self._loop.watch_child(worker.child, worker.read_channel, lambda: self.on_output(worker))

    def be_the_listener(self) -> None:
        """Take over our Unix socket from a listener that has ended, so that callers at its path find this process."""
        if self._settings.uds is not None and not self._replacement.pending:
            from preflight.instances import socketfiles  # a TCP port does without it

            socketfiles.adopt(self._socket)

    def hand_over(self, slot: Slot, worker: Worker) -> None:
        """Give a worker the socket, and everything that it has to know."""
        slot.judged = self.judged
        worker.serve(
            self._socket,
            self._options,
            board=None if self._board is None else self._board.descriptor,
            **self.instance,
            **self.judged.to_message(),
            on_trial=self._replacement.wants_proof,
            beat=heartbeat.interval(self._settings.heartbeat, self._display.service.watchdog),
            restarts=self.restarts,
            notifications=self.tally(),
            fleet=self.fleet(),
            login=self.login.to_message(),
            number=slot.number,
        )

    def catch_up(self, slot: Slot) -> None:
        """Tell a worker that accepts from now on what the others have heard since it was given the socket."""
        self._count_ready()
        if slot.worker is not None and slot.judged is not self.judged and self._ending is not None:
            slot.worker.rerun_began_elsewhere(self._ending.report.run_id)
            slot.worker.rerun_is_over(self._ending, elsewhere=True)

    def dismiss(self, slot: Slot) -> None:
        """End a slot's worker, whatever its state; may be called more than once."""
        if slot.worker is None:
            return
        self._loop.unwatch_child(slot.worker.child)
        slot.worker.child.close()
        slot.worker = None
        if self._board is not None:
            self._board.clear(slot.number)
        self._count_ready()

    def close(self) -> None:
        """Let go of what the workers share; may be called more than once."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def on_output(self, worker: Worker) -> None:
        """Pass on what a worker prints, redacted."""
        self._display.terminal.pass_on(worker.read_output(), worker.child.pid)

    def _reported(self, event: Event) -> None:
        """Record an event of the application, such as a failed login; people see it nowhere else."""
        self._display.terminal.log.audit(event, shown=False)

    # All of them.

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.slots)

    @property
    def serving(self) -> list[Worker]:
        """The workers that accept connections."""
        return [slot.worker for slot in self.slots if slot.serves and slot.worker is not None]

    @property
    def handed(self) -> list[Worker]:
        """The workers that have the socket."""
        return [slot.worker for slot in self.slots if slot.handed and slot.worker is not None]

    @property
    def restarts(self) -> dict[str, Any]:
        """How often workers were started again, and how the last one ended."""
        return {"count": sum(slot.crashes for slot in self.slots), **self._last_exit}

    def crashed(self, ending: str, at: str) -> None:
        """A worker has ended without having been asked to, and another will take its place: tell the others."""
        self._last_exit = {"last_exit": ending, "last_exit_at": at}
        for worker in self.handed:
            worker.count_restarts(self.restarts)

    def conclude(self, ending: Ending, counts: Worker | None) -> None:
        """A re-run is over: all workers go by its result, and ``counts`` is the one that counts the run."""
        self.judged = self.judged.after(ending.report, ending.reason)
        self._ending = ending
        for slot in self.slots:
            if slot.serves and slot.worker is not None:
                slot.judged = self.judged
                slot.worker.rerun_is_over(ending, elsewhere=slot.worker is not counts)

    def count_notices(self) -> None:
        """Tell the workers what became of the notices, for /diagnostics."""
        for worker in self.handed:
            worker.count_notices(self.tally())

    def note_fleet(self) -> None:
        """Tell the workers the state of the fleet's database, for /diagnostics."""
        for worker in self.handed:
            worker.note_fleet(self.fleet())

    def _count_ready(self) -> None:
        if self._board is not None:
            self._board.ready = len(self.serving)

    def _logged_out(self, worker: Worker, session: str, expires: int) -> None:
        """Somebody has logged out: what the login opened closes in every worker, and no later one takes it either."""
        self.login.end(session, expires)
        for other in self.handed:
            if other is not worker:
                other.log_out(session, expires)

    def _pass_on(self, worker: Worker, topic: str, data: Mapping[str, Any]) -> None:
        for other in self.serving:
            if other is not worker:
                other.pass_on(topic, data)
