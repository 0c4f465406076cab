"""The process behind run.py: suite and worker side by side, the verdict, and the worker's supervision.

It stays small and quick: nothing heavy is imported before both children run (rich comes after),
and the application, pydantic and asyncio never are.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from preflight import __version__, formats, instances, report
from preflight.children import Child
from preflight.settings import Settings, address
from preflight.suite import Result, Suite
from preflight.worker import Worker

if TYPE_CHECKING:
    from preflight.terminal import Terminal

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """A signal asked the launcher to stop; ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Unpublishable(Exception):
    """A report could not be written; the message names the file."""


class Signals:
    """Signals as something to select on: each one makes ``reader`` readable and is in ``received``."""

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)
        self.received: list[int] = []

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number in STOPPING:
            self.received.append(number)

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._note) for number in (*STOPPING, signal.SIGCHLD)}
        wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self.reader.close()
            self._writer.close()

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.reader.recv(4096):
                pass


class Launcher:
    """One start, or one check."""

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, object],
        *,
        report_path: Path | None = None,
        output_format: str = "",
        verbose: bool = False,
    ) -> None:
        self.settings = settings
        self.options = options
        self.report_path = report_path
        self.output_format = output_format
        self.verbose = verbose
        self.instance_id = uuid.uuid4().hex
        self._signals = Signals()
        self._selector = selectors.DefaultSelector()
        self._suite: Suite | None = None
        self._worker: Worker | None = None
        self._socket: socket.socket | None = None
        self._done = 0
        self._application_told = False
        self._show_worker_output = False

    def check(self) -> int:
        """Run the checks and say what they found; start and stop nothing. Returns the exit code."""
        return self._guarded("check")

    def start(self) -> int:
        """Run the checks and, if nothing blocks, serve until asked to stop. Returns the exit code."""
        return self._guarded("start")

    def _guarded(self, origin: str) -> int:
        with self._signals.caught():
            self._selector.register(self._signals.reader, selectors.EVENT_READ, self._signals.clear)
            try:
                if self.report_path is not None:
                    self._claim(self.report_path, origin)
                if origin == "start":
                    instances.runtime_folder()  # before anything is stopped: the record will be written there
                result = self._examine(origin)
                if origin == "check" or not result.may_start:
                    return result.exit_code
                return self._serve(result)
            except Stopped as stopped:
                self.terminal.progress_over()
                self.terminal.line(f"Stopped by {stopped}; nothing was started.")
                # No exit code of our own: nothing was served, and nothing was found out.
                return 128 + stopped.number
            except instances.RuntimeFolderError as error:
                fix = "Fix: make it a folder of mode 0700 that is yours, or set XDG_RUNTIME_DIR to another place"
                self._fail("THE RUNTIME FOLDER CANNOT BE USED: nothing was started", [str(error), fix])
                return 1
            except Unpublishable as error:
                self._fail("THE REPORT CANNOT BE WRITTEN: nothing was started", [str(error)])
                return 3
            finally:
                self._let_go()

    def _let_go(self) -> None:
        """Leave no process and no descriptor behind, whatever happened."""
        if self._suite is not None:
            self._suite.abandon()
        if self._worker is not None:
            self._worker.child.close()
        if self._socket is not None:
            self._socket.close()
        self._selector.close()

    # The event loop: what can be read is given to whoever registered for it.

    def _turn(self, timeout: float) -> None:
        for key, _events in self._selector.select(max(0.0, timeout)):
            key.data()

    def _stop_asked(self) -> None:
        """Raises Stopped once a signal has asked for it."""
        if self._signals.received:
            raise Stopped(self._signals.received[0])

    def _watch(self, child: Child, heard: Callable[[], object], printed: Callable[[], object]) -> None:
        def on_channel() -> None:
            heard()
            if child.channel.closed:
                self._selector.unregister(child.channel)

        def on_output() -> None:
            printed()
            if child.output_closed:
                self._selector.unregister(child.output)

        self._selector.register(child.channel, selectors.EVENT_READ, on_channel)
        self._selector.register(child.output, selectors.EVENT_READ, on_output)

    def _unwatch(self, child: Child) -> None:
        for source in (child.channel, child.output):
            with contextlib.suppress(KeyError):
                self._selector.unregister(source)

    # The checks.

    def _examine(self, origin: str) -> Result:
        # Both children first; everything that takes its time to import comes after.
        self._worker = worker = Worker(self.settings)
        self._suite = suite = Suite(self.settings, self.options, origin)
        self._watch(worker.child, worker.read_channel, lambda: self._worker_printed(worker))
        self._watch(suite.child, lambda: self._suite_spoke(suite), suite.child.read_output)
        if not self.output_format:
            self._header(origin)
        while not suite.ended():
            self._turn(min(0.5, suite.deadline - time.monotonic()))
            self._stop_asked()
            if not self._application_told and (worker.imported or worker.error or worker.ended()):
                suite.application(None if worker.imported else worker.error)
                self._application_told = True
        self._unwatch(suite.child)
        self._suite = None
        result = suite.result(self.terminal.redactor)
        self._socket = result.socket
        self.terminal.progress_over()
        self._publish(result.report)
        self._present(result)
        return result

    def _suite_spoke(self, suite: Suite) -> None:
        for message in suite.read_channel():
            match message.kind:
                case "checking":
                    title = str(message.data["title"])
                    self.terminal.progress(title, self._done, len(suite.titles))
                case "checked":
                    self._done += 1
                case "port" if not self.output_format:
                    self.terminal.line(str(message.data["line"]))

    @cached_property
    def terminal(self) -> Terminal:
        from preflight.redaction import Redactor
        from preflight.terminal import Terminal

        redactor = Redactor.of(self.settings.environment, self.settings.envfile.values)
        # With a format for machines, standard output is the machine's.
        stream = sys.stderr if self.output_format else sys.stdout
        return Terminal(redactor, stream, verbose=self.verbose)

    def _header(self, origin: str) -> None:
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        profile = " · demo" if self.settings.demo else ""
        self.terminal.line(f"Preflight {__version__} · Python {report.python()} · {when} · {origin}{profile}", "bold")
        self.terminal.line(self._port_status())

    def _port_status(self) -> str:
        from preflight import ports

        plan = ports.plan(self.settings.host, self.settings.port, ports.Policy(cleanup="never"))
        if plan.free:
            return f"{self.settings.address} is available."
        if plan.holders:
            return f"{self.settings.address} is in use by {plan.holders[0].describe()}."
        return plan.problem or f"{self.settings.address} is in use."

    # The report.

    def _claim(self, path: Path, origin: str) -> None:
        """Make sure, before anything is stopped, that the report can be written, and that no old one stands there."""
        unfinished = report.broken(
            "this run has not ended",
            run_id=self.instance_id,
            origin=origin,
            address=self.settings.address,
            started_at=report.now(),
            duration=0.0,
        )
        self._write(unfinished, path)

    def _publish(self, found: report.Report) -> None:
        state_folder = found.check("State Folder")
        if not (state_folder and state_folder.blocks):  # else it has been said already, and it blocks
            self._write(found, self.settings.report_path)
        if self.report_path is not None:
            self._write(found, self.report_path)

    def _write(self, found: report.Report, path: Path) -> None:
        try:
            report.publish(found, path)
        except OSError as error:
            raise Unpublishable(f"{path}: {error.strerror}") from None

    def _present(self, result: Result) -> None:
        if self.output_format:
            print(formats.FORMATS[self.output_format](result.report), flush=True)
            return
        from preflight import banners

        plain, verbose = self.terminal.plain, self.terminal.verbose
        if result.report.checks:
            self.terminal.show(banners.render(result.report, plain=plain, verbose=verbose))
        if result.exit_code in (2, 3):
            self.terminal.show(banners.broken(result.reason, result.output, plain=plain))

    def _fail(self, title: str, lines: list[str]) -> None:
        from preflight import banners

        redacted = [self.terminal.redactor.text(line) for line in lines]
        self.terminal.show(banners.failure(title, redacted, plain=self.terminal.plain))

    # Serving.

    def _serve(self, result: Result) -> int:
        worker, sock = self._worker, self._socket
        if worker is None or sock is None:
            raise RuntimeError("there is nothing to serve with")
        record = instances.Record(
            self.instance_id, os.getpid(), self.settings.host, self.settings.port, report.now(), __version__
        )
        with instances.serving(record):
            self._show_worker_output = True
            for line in worker.child.lines:
                self._print_worker(line)
            worker.serve(
                sock,
                self.options,
                report=result.report.to_json(),
                instance_id=record.instance_id,
                since=record.since,
                restarts=0,
            )
            announced = False
            while not worker.ended():
                self._turn(0.5)
                if self._signals.received:
                    return self._drain(worker)
                if worker.ready and not announced:
                    announced = True
                    self._announce(worker)
        self._fail(
            "THE SERVER ENDED BY ITSELF" if announced else "THE SERVER DID NOT START",
            [f"The worker ended with {worker.child.ending}.", *list(worker.child.lines)[-20:]],
        )
        return 4

    def _worker_printed(self, worker: Worker) -> None:
        for line in worker.child.read_output():
            if self._show_worker_output:
                self._print_worker(line)

    def _print_worker(self, line: str) -> None:
        print(self.terminal.redactor.text(line), file=sys.stderr, flush=True)

    def _announce(self, worker: Worker) -> None:
        """The green banner, once the server has truly answered."""
        from preflight import banners

        url = f"http://{self.settings.address}"
        if not answers(self.settings.host, self.settings.port):
            self._fail("THE SERVER IS UP BUT DOES NOT ANSWER", [f"{url} gave no HTTP answer within 5 s."])
            return
        addresses = [("Server", url)]
        addresses += [("WebSocket", f"ws://{self.settings.address}{path}") for path in worker.routes if "/ws/" in path]
        addresses += [(path.strip("/").title(), url + path) for path in worker.routes if "/ws/" not in path]
        self.terminal.show(banners.ready(addresses, plain=self.terminal.plain))

    def _drain(self, worker: Worker) -> int:
        """Let the worker finish; a second signal, or its deadline, ends it at once."""
        self.terminal.line(f"Stopping ({signal.Signals(self._signals.received[0]).name}).")
        worker.drain()
        deadline = time.monotonic() + self.settings.graceful_timeout + 1.0
        while not worker.ended() and len(self._signals.received) < 2 and time.monotonic() < deadline:
            self._turn(min(0.5, deadline - time.monotonic()))
        return 0


def answers(host: str, port: int, timeout: float = 5.0) -> bool:
    """Whether an HTTP server answers there, whatever it answers."""
    # Wildcard addresses are not for connecting to.
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    request = f"GET /health HTTP/1.1\r\nHost: {address(target, port)}\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection((target, port), timeout) as connection:
            connection.sendall(request.encode("ascii"))
            return connection.recv(8) == b"HTTP/1.1"
    except (OSError, UnicodeError):
        return False
