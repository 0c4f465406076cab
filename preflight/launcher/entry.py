"""A start among others of its address: the start lock, how others find it, and the instance that it replaces."""

from __future__ import annotations

import math
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from preflight.instances import unixsockets
from preflight.instances.presence import Presence
from preflight.instances.runtime import StartLock
from preflight.launcher.shown import Display
from preflight.ports.activation import Inherited
from preflight.processes.loop import Loop
from preflight.settings.model import Settings
from preflight.text import foreign

if TYPE_CHECKING:
    from preflight.instances.records import Handover

START_UP = 60.0  # seconds that another start's server may take to come up after its checks


class NoEntry(Exception):
    """A start cannot go on, whatever its checks would find: a banner and the audit say why."""

    def __init__(self, title: str, lines: Sequence[str], *, why: str, exit_code: int = 1) -> None:
        super().__init__(why)
        self.title = title
        self.lines = lines
        self.exit_code = exit_code


class Entry:
    """The right to start on an address, from the lock to the moment when the server answers."""

    def __init__(
        self,
        settings: Settings,
        *,
        loop: Loop,
        display: Display,
        typed_at: float,
        keeper: str | None = None,
        activated: Inherited | None = None,
    ) -> None:
        """``typed_at`` is when the command began, on the monotonic clock.

        ``keeper`` is who else restarts this process when it ends, if anybody does; ``activated`` is the listening
        socket that systemd has given to it.
        """
        self.replaces: Handover | None = None
        """The instance that serves this very address and goes on until this start is ready."""
        self._settings = settings
        self._loop = loop
        self._display = display
        self._typed_at = typed_at
        self.keeper = keeper
        self.activated = activated
        self._lock: StartLock | None = None
        self._presence: Presence | None = None

    @property
    def presence(self) -> Presence:
        """How others find this start, and the instance that it becomes. Raises RuntimeError before it has entered."""
        if self._presence is None:
            raise RuntimeError("nobody can find a start that has not entered")
        return self._presence

    def enter(self) -> bool:
        """Be the only start of this address, and find a running instance; False if there is nothing to do.

        Raises NoEntry, RuntimeFolderError, and, while another start goes on, what a signal's handler raises (see
        signals.py).
        """
        self._lock = StartLock(self._settings.slot, self._settings.state_dir)
        if not self._lock.take():
            self._wait_for_other_start(self._lock)
        # Before anything is stopped, everything that a start needs exists, and others can see that it goes on.
        activated_by = self.activated.activated_by if self.activated is not None else ""
        self._presence = Presence.of(self._settings, self._loop, keeper=self.keeper or "", activated_by=activated_by)
        return self._meet() if self._is_taken() else True

    def _wait_for_other_start(self, lock: StartLock) -> None:
        address = self._settings.starts_at
        self._display.terminal.line(f"Another start of {address} is in progress; waiting for it.")
        patience = self._settings.run_timeout + START_UP
        self._display.status(f"Another start of {address} is in progress; waiting for it")
        self._display.service.allow(patience + START_UP)
        if lock.take(patience):
            return
        if not _is_suspended(lock.holder()):
            # Its application may take that long to start, and twice that long if its first worker does not come up.
            longer = 2 * self._settings.startup_timeout or math.inf
            starts = f"PID {lock.holder()} has been starting for more than {patience:g} s"
            self._display.terminal.line(
                f"{starts}; this start waits as long as the start-up of an application may take."
            )
            patience += longer
            self._display.service.allow(longer + START_UP)
            if lock.take(longer):
                return
        pid = lock.holder()
        problem = f"PID {pid} has been starting on {address} for more than {patience:g} s."
        fix = f"Fix: resume it if it is suspended (kill -CONT {pid}), or end it (kill {pid})"
        raise NoEntry("ANOTHER START DOES NOT END", [problem, fix], why=f"another start does not end: {problem}")

    def _is_taken(self) -> bool:
        """Whether a process is on the port: a quick look, which saves most starts the import of the thorough one."""
        if self.activated is not None:
            # systemd always is. An instance of ours is only if it has this very socket, too.
            return len(unixsockets.abstract_names(f"preflight/{self._settings.slot}/")) > 1
        if self._settings.uds is not None:
            return os.path.lexists(self._settings.uds)
        if sys.platform != "linux":  # elsewhere SO_REUSEADDR binds beside a listener
            return True
        host = self._settings.host
        try:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host.encode() if host.isascii() else host, self._settings.port))
        except OSError:  # or not an address of this machine, which may have no IPv6: the thorough look tells which
            return True
        return False

    def _meet(self) -> bool:
        """Find an instance of ours that serves the address, and ask for its socket; False if there is nothing to do."""
        from preflight.instances import neighbours
        from preflight.instances.decision import decide, kept_by_systemd

        settings, terminal = self._settings, self._display.terminal
        # A start that was given a socket by systemd holds it, and would meet itself.
        found = [one for one in neighbours.on_port(settings) if one.record.pid != os.getpid()]
        decision = decide(settings, found, self._typed_at)
        if decision is None:
            return True
        neighbour = decision.neighbour
        serves = f"{neighbour.name} serves {neighbour.where}"
        if decision.refusal:
            lines = [f"{decision.refusal}.", f"Fix: {decision.fix}"]
            raise NoEntry("ALREADY RUNNING", lines, why=decision.refusal)
        if not decision.replaces:
            meanwhile = ": it came up meanwhile" if neighbour.came_up_after(self._typed_at) else ""
            terminal.line(f"{serves}{meanwhile}. Nothing to do.")
            return False
        if neighbour.record.activated_by and self.activated is None:
            refusal, fix = kept_by_systemd(neighbour)
            raise NoEntry("ALREADY RUNNING", [f"{refusal}.", f"Fix: {fix}"], why=refusal)
        root = neighbour.record.root
        if root and Path(root) != settings.root:
            terminal.line(f"{serves} from {foreign(root)}; this start from {settings.root} replaces it.")
        # One that does not answer is stopped like any other holder of the port, by the suite as its last step. So
        # is one on another address, whose socket is of no use here.
        if neighbour.is_at(settings):
            self.replaces = neighbour.hand_over()
        return True

    @property
    def inherited(self) -> Inherited | None:
        """The listening socket that this start is given: systemd's, or that of the instance that it replaces."""
        if self.activated is not None or self.replaces is None:
            return self.activated
        return Inherited(self.replaces.socket)

    def retire_previous(self) -> None:
        """The server answers: the old instance, if any, may end, and the next start may begin."""
        if self._settings.uds is not None and self.activated is None:
            from preflight.instances import socketfiles

            # The old instance has given the file the permissions of its own settings.
            socketfiles.permit(self._settings.uds, int(self._settings.uds_mode, 8))
        if self.replaces is not None:
            self.replaces.retire()
            self.replaces.close()
            self.replaces = None
        if self._lock is not None:
            self._lock.release()

    def close(self) -> None:
        """Let go of everything; may be called more than once."""
        if self.replaces is not None:
            self.replaces.close()
            self.replaces = None
        if self._presence is not None:
            self._presence.end()
            if self._settings.uds is not None and self.activated is None:
                from preflight.instances import socketfiles

                socketfiles.sweep(self._settings.uds)
        if self._lock is not None:
            self._lock.release()


def _is_suspended(pid: int) -> bool:
    """Whether a process was stopped by a signal, so that waiting for it is in vain."""
    from preflight.ports import here

    process = here().process(pid)
    return process is not None and process.suspended
