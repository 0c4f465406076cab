"""The output of a command's runs, for people and files: the terminal, the published report, the audit.

Nothing is decided here. rich is imported with the first line: after both children run, unless a start has to wait for
another one.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflight import __version__, times
from preflight.output import audit, publishing
from preflight.output.publishing import Unpublishable
from preflight.processes.servicemanager import ServiceManager
from preflight.processes.suite import RunResult, Suite
from preflight.settings.model import Settings
from preflight.text import address

if TYPE_CHECKING:
    from preflight.output.log import Log, LogFile
    from preflight.output.terminal import Terminal
    from preflight.processes.channel import Message
    from preflight.report.model import Report


class Display:
    """Where the runs of one command go, one after the other: shown, published and recorded."""

    def __init__(
        self,
        settings: Settings,
        *,
        report_path: Path | None = None,
        output_format: str = "",
        verbose: bool = False,
        log_file: LogFile | None = None,
        lossy: bool = True,
        service: ServiceManager | None = None,
    ) -> None:
        """``report_path`` gets each report as well. With an ``output_format`` standard output has the report alone.

        ``lossy``: lines may be lost if nobody reads; else the command waits for the reader before it ends. ``service``
        is the service manager that wants to be told what goes on.
        """
        self.settings = settings
        self.output_format = output_format
        self.verbose = verbose
        self.service = service or ServiceManager()
        """The service manager, which gets the status in addition to the terminal."""
        self._report_path = report_path
        self._log_file = log_file
        self._lossy = lossy
        self._terminal: Terminal | None = None

    def follow(self, settings: Settings) -> None:
        """Go by the settings of the next round: it is their secrets that are taken out from now on."""
        self.settings = settings
        if self._terminal is not None:
            self._terminal.log = self._log()

    @property
    def terminal(self) -> Terminal:
        """The terminal, which everything for people goes to."""
        if self._terminal is None:
            from preflight.output.terminal import Terminal  # rich: not before both children run

            # With a format for machines, standard output is the machine's.
            stream = sys.stderr if self.output_format else sys.stdout
            self._terminal = Terminal(self._log(), stream, verbose=self.verbose, lossy=self._lossy)
        return self._terminal

    def _log(self) -> Log:
        from preflight.output.log import Log
        from preflight.redaction.redactor import Redactor

        redactor = Redactor.of(self.settings)
        return Log(redactor, self._log_file, self.settings.log_format, trail=self.settings.state.audit, waits=False)

    # The report.

    @property
    def reports(self) -> list[Path]:
        """Where a run's report is written."""
        asked_for = [] if self._report_path is None else [self._report_path.absolute()]
        return [self.settings.state.report, *asked_for]

    def reserve(self, run_id: str, origin: str) -> None:
        """See, before anything is stopped, that this run's report can be written, and that no old one stands there.

        Raises Unpublishable.
        """
        if publishing.takes_a_byte(self.settings.state.report):
            publishing.make_sure(self.settings.state.report)
        if self._report_path is not None:
            unended = broken(self.settings, "this run has not ended", run_id=run_id, origin=origin)
            publishing.write_where_asked(unended, self._report_path)

    def publish(self, report: Report, *, keep: bool = True) -> None:
        """Write a run's report, and keep it in the history. Raises Unpublishable."""
        publishing.publish(report, self.settings, self.terminal, keep=keep)
        if self._report_path is not None:
            publishing.write_where_asked(report, self._report_path)

    def conclude(self, result: RunResult, hanging_import: Sequence[str] = ()) -> None:
        """Publish a run, keep it in the history, show and record it. Raises Unpublishable.

        ``hanging_import`` are lines that say where an application stands whose import has not ended.
        """
        if result.exit_code == 2:  # a wrong option ran nothing, so there is no result
            from preflight.output import plainlines

            plainlines.error(result.reason)
            return
        self.publish(result.report)
        if not result.may_start:
            blocking = ", ".join(check.title for check in result.report.blocking)
            self.status(f"Not started: blocked by {blocking}" if blocking else f"Not started: {result.reason}")
        if self.output_format:
            self._print_formatted(result.report)
        else:
            publishing.show(result.report, self.terminal, reason=result.reason, output=result.output)
            if hanging_import:
                title = f"{self.settings.app} CANNOT BE IMPORTED: the import has not ended"
                self.terminal.fail(title, hanging_import)
        self._record_run(result)

    def _print_formatted(self, report: Report) -> None:
        from preflight.report import formats

        text = formats.render(self.output_format, report, self.settings.root, os.environ)
        if sys.stdout is not None:  # else it was closed when the command began: nobody wants the report
            # UTF-8 whatever the locale: it is what readers of these formats expect.
            sys.stdout.buffer.write(text.encode("utf-8") + b"\n")
            sys.stdout.buffer.flush()

    def ready(self, sock: socket.socket, routes: Sequence[str], beside: str = "") -> None:
        """The green banner: where the server that listens on ``sock`` answers; ``routes`` are some of its routes.

        ``beside`` is the path to open for our own routes, where those are beside the application's. If there are
        several workers, all of them serve by now, and the banner says how many.
        """
        from preflight import hostnames
        from preflight.report import banners

        if self.settings.uds is not None:
            curl = f"curl --unix-socket {shlex.quote(str(self.settings.uds))} {self.settings.scheme}://localhost"
            addresses = [("Server", self.settings.address)]
            addresses += [(path.strip("/").title(), curl + path) for path in routes if "/ws/" not in path]
            addresses += [("Preflight", curl + beside)] if beside else []
            addresses += self._workers
            self.terminal.show(banners.ready(addresses, plain=self.terminal.plain))
            return
        where = address(hostnames.to_be_told(sock, self.settings.host), self.settings.port)
        url = f"{self.settings.scheme}://{where}"
        addresses = [("Server", url)]
        addresses += [
            ("WebSocket", f"{self.settings.scheme.replace('http', 'ws')}://{where}{path}")
            for path in routes
            if "/ws/" in path
        ]
        addresses += [(path.strip("/").title(), url + path) for path in routes if "/ws/" not in path]
        addresses += [("Preflight", url + beside)] if beside else []
        addresses += self._workers
        self.terminal.show(banners.ready(addresses, plain=self.terminal.plain))

    @property
    def _workers(self) -> list[tuple[str, str]]:
        return [("Workers", f"{self.settings.workers} serve")] if self.settings.workers > 1 else []

    def status(self, text: str) -> None:
        """Tell the service manager the status, in one line."""
        if self.service:
            self.service.status(self.redacted(text))

    def redacted(self, text: str) -> str:
        """A line without secrets, for other readers than the terminal, which takes secrets out itself."""
        return self.terminal.redactor.text(text)

    # What ends a command early.

    def stopped(self, number: int) -> int:
        """Say that a signal stopped the command before it served anything; returns its exit code."""
        self.terminal.progress_over()
        self.terminal.line(f"Stopped by {signal.Signals(number).name}; nothing was started.")
        # Not an exit code of our own: nothing was served, and nothing was found out.
        return 128 + number

    def unwritten(self, error: Unpublishable) -> str:
        """Say that a report could not be written; returns that in one line, for the audit."""
        self.terminal.progress_over()
        title = "THE REPORT CANNOT BE WRITTEN: nothing was started"
        fix = "Fix: choose another path (PREFLIGHT_STATE_DIR, --report), or make this one writable"
        self.terminal.fail(title, [str(error), fix])
        return f"the report cannot be written: {error}"

    # The audit.

    def signalled(self, name: str, pid: int, module: str, why: str) -> None:
        """Record that a child of ours was sent a signal."""
        event = audit.Event.now("signal", signal=name, to=pid, name=module, why=why, result="sent")
        self.terminal.log.audit(event)

    def freed(self, step: Mapping[str, Any], pid: int) -> None:
        """Record a step by which the suite, whose PID is ``pid``, has freed the port."""
        if event := audit.signalled(step, f"it is in the way on {self.settings.address}", pid=pid):
            self.terminal.log.audit(event)

    def _record_run(self, result: RunResult) -> None:
        report = result.report
        about = {
            "origin": report.origin,
            "status": report.status,
            "may_start": result.may_start,
            "run_id": report.run_id,
        }
        self.terminal.log.audit(audit.Event.now("run", by="command", parent=os.getppid(), **about))

    def refused(
        self, why: Sequence[str], exit_code: int, *, result: RunResult | None = None, served: bool = False
    ) -> None:
        """Record a start that came to nothing, and leave word where the setting `termination_log` wants it.

        ``served``: it had served before it was given up. ``result`` is that of its run, if there was one.
        """
        if (path := self.settings.termination_log) is not None:
            self._leave_word(path, why, None if served or result is None else result.report)
        event = audit.refused(
            why,
            exit_code,
            kind="given_up" if served else "refused",
            address=self.settings.address,
            run_id=result.report.run_id if result is not None else None,
        )
        self.terminal.log.audit(event)

    def _leave_word(self, path: Path, why: Sequence[str], report: Report | None) -> None:
        from preflight.output import termination
        from preflight.redaction.redactor import Redactor

        try:
            termination.write(path, Redactor.of(self.settings).text(termination.message(why, report)))
        except OSError as error:
            self.terminal.line(f"{path}: the termination message cannot be written: {error.strerror}", "yellow")


class RunProgress:
    """What is shown of one run while it goes on: what it is, which requirement is checked, what frees the port."""

    def __init__(self, display: Display, *, replaces: str = "", activated_by: str = "") -> None:
        """``replaces`` is the instance that serves the address until this start is ready, in words.

        ``activated_by`` is the socket unit of systemd that the address belongs to.
        """
        self._display = display
        self._replaces = replaces
        self._activated_by = activated_by
        self._done = 0

    def begun(self, origin: str) -> None:
        """Show what begins and how the port is; both children run by now."""
        display = self._display
        if display.output_format:
            return
        from preflight.report import model

        profile = " · demo" if display.settings.demo else ""
        facts = f"Python {model.python()} · {times.local()} · {origin}{profile}"
        display.terminal.line(f"Preflight {__version__} · {facts}", "bold")
        display.terminal.line(self._port_status())

    def _port_status(self) -> str:
        settings = self._display.settings
        if self._replaces:
            return f"{settings.address} is served by {self._replaces}, which keeps serving until this start is ready."
        if self._activated_by:
            return f"{settings.address} is a socket from systemd ({self._activated_by}); connections wait in it."
        if settings.uds is not None:
            from preflight.instances import socketfiles

            found = socketfiles.look(settings.uds)
            if found.listens:  # it may be an instance of ours: the check finds out
                from preflight.redaction.keys import common_secrets

                (holder,) = socketfiles.holders(settings.uds, found, common_secrets(settings))
                return f"{settings.address} is in use by {holder.describe()}."
            problem, _fix = socketfiles.described(settings.uds, found)
            left = " (a server that has ended left its socket file behind)" if found.stale else ""
            return f"{problem}." if problem else f"{settings.address} is available{left}."
        from preflight.ports.binding import is_free

        if is_free(settings.host, settings.port):
            return f"{settings.address} is available."
        from preflight import ports
        from preflight.redaction.keys import common_secrets

        secrets = common_secrets(settings)
        plan = ports.plan(settings.host, settings.port, ports.Policy(cleanup="never", secrets=secrets))
        if plan.free:
            return f"{settings.address} is available."
        if plan.holders:
            return f"{settings.address} is in use by {plan.holders[0].describe()}."
        return plan.problem or f"{settings.address} is in use."

    def heard(self, suite: Suite, message: Message) -> None:
        """Show what the suite says."""
        terminal = self._display.terminal
        match message.kind:
            case "checking":
                title = str(message.data["title"])
                terminal.progress(title, self._done, len(suite.titles))
                self._display.status(f"Checking {title} ({self._done + 1} of {len(suite.titles)})")
            case "checked":
                self._done += 1
            case "port" if not self._display.output_format:
                terminal.line(str(message.data["stamped" if self._display.verbose else "line"]))

    def over(self) -> None:
        """Remove what is only shown while a run goes on."""
        self._display.terminal.progress_over()


def broken(settings: Settings, reason: str, *, run_id: str, origin: str) -> Report:
    """The report of a run that has not begun, or not ended."""
    from preflight.redaction.redactor import Redactor
    from preflight.report import model

    address = Redactor.of(settings).text(settings.address)
    return model.broken(reason, run_id=run_id, origin=origin, address=address, started_at=times.now(), duration=0.0)
