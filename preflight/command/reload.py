"""``--reload``: serve, and when a file changes, check the next instance and let it replace the one that serves.

Each instance is a start of its own, ``run.py`` without this option, and replaces the one before it like any other
start. The next instance is checked beside the one that serves, and takes its place only when it is ready.
If it fails, its banner says so, and so does the report on the page of the instance that goes on serving.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from preflight import project
from preflight.command.options import Invocation
from preflight.instances import neighbours
from preflight.instances.neighbours import Neighbour
from preflight.instances.records import SERVING
from preflight.launcher import shown
from preflight.launcher.shown import Display
from preflight.output.publishing import Unpublishable
from preflight.processes import children
from preflight.processes.loop import Loop
from preflight.settings.fields import SettingsError
from preflight.settings.loading import load
from preflight.settings.model import Settings

if TYPE_CHECKING:
    from watchfiles import Change

    from preflight.output.log import LogFile

OPTION = "--reload"
LOOK = 0.2  # seconds between two looks at an instance that is starting
PATIENCE = 30.0  # seconds that an instance may take to start before it is ended for a change that has come since
QUIET = 150  # milliseconds without a change after which those before count as one
PR_SET_PDEATHSIG = 1  # prctl(2)
SHOWN = 3  # files that are named
NOT_WATCHED = frozenset({"site-packages", "__pycache__", "node_modules"})
"""Folders of other people's code, which are left out like those that begin with a dot (.venv, .git)."""
TOLD = (2, 4)
"""Exit codes of starts that end without a report of what was wrong: a wrong setting, an instance that did not serve."""


def run(invocation: Invocation, settings: Settings, log_file: LogFile | None) -> int:
    """Serve until a signal asks to stop; returns the exit code of the instance that served last."""
    if invocation.passed.descriptors:
        raise SettingsError(f"{OPTION} is for development, and does not serve on a socket from systemd: leave it out")
    display = Display(settings, log_file=log_file)
    try:
        import watchfiles  # noqa: F401
    except ImportError:
        from preflight.installing import install_command

        lines = [f"{OPTION} needs watchfiles, which is not installed", f"Fix: {install_command(['watchfiles'])}"]
        display.terminal.fail("NOTHING WATCHES THE FILES: nothing was started", lines)
        return 2
    loop = Loop()
    try:
        if settings.workers > 1:
            display.terminal.line(f"{OPTION} serves with one worker, not {settings.workers}.", "yellow")
        with loop.running(), Watch(loop, _folders(settings)) as watch:
            return Reloader(invocation, settings, loop=loop, display=display, watch=watch).run()
    finally:
        loop.close()


def _folders(settings: Settings) -> list[Path]:
    found = [settings.root, *(settings.root / folder for folder in settings.reload_dirs)]
    for folder in found:
        if not folder.is_dir():
            where = settings.place("reload_dirs")
            raise SettingsError(f"{where}: {folder} is not a folder")
    return found


class Watch:
    """Watches folders in a thread, and wakes the loop when something in them has changed."""

    def __init__(self, loop: Loop, folders: Sequence[Path]) -> None:
        self._folders = [os.path.realpath(folder) for folder in folders]
        self._loop = loop
        self._over = threading.Event()
        self._changed: set[str] = set()
        self._lock = threading.Lock()
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) if hasattr(os, "pipe2") else os.pipe()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self.problem = ""
        """Why not all files are watched, for people; empty while they are, and once it was said."""
        self._alone: dict[str, object] = {}
        """Files that count whatever their names are, each with its last state; None if the folders' watch sees it."""

    def __enter__(self) -> Watch:
        self._loop.watch(self._woken, lambda: os.read(self._woken, 4096))
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join(1.0)
        self._loop.unwatch(self._woken)
        os.close(self._woken)
        if not self._thread.is_alive():
            os.close(self._wake)  # not before: a pipe without a writer would wake the loop again and again

    def add(self, files: Sequence[Path]) -> None:
        """Watch these files as well, wherever they are and whatever their names are, instead of those added before."""
        paths = [os.path.realpath(file.parent) + os.sep + file.name for file in files]
        self._alone = {path: None if self._is_in_a_folder(path) else _state(path) for path in paths}

    def take(self) -> list[str]:
        """The files that have changed since the last call."""
        with self._lock:
            taken, self._changed = self._changed, set()
        for path, before in self._alone.items():
            if before is not None and (now := _state(path)) != before:
                self._alone[path] = now
                taken.add(path)
        return sorted(taken)

    def _watch(self) -> None:
        try:
            try:
                self._follow()
            except (PermissionError, FileNotFoundError) as error:  # a database's folder, or one that has just gone
                self._complain(f"{OPTION} may not notice all changes: {error}")
                self._follow(ignore_permission_denied=True)
        except (OSError, RuntimeError) as error:  # more files than inotify may watch (fs.inotify.max_user_watches)
            self._complain(f"{OPTION} no longer notices changes: {error}")

    def _follow(self, *, ignore_permission_denied: bool = False) -> None:
        """Note what changes. Where permissions are ignored, watchfiles says nothing of any other folder either."""
        import watchfiles

        for found in watchfiles.watch(
            *self._folders,
            watch_filter=self._counts,
            step=QUIET,
            stop_event=self._over,
            raise_interrupt=False,
            ignore_permission_denied=ignore_permission_denied,
        ):
            with self._lock:
                self._changed |= {path for _change, path in found}
            self._tell()

    def _complain(self, problem: str) -> None:
        self.problem = problem
        self._tell()

    def _tell(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the loop is going to wake anyway
            os.write(self._wake, b"x")

    def _is_in_a_folder(self, path: str) -> bool:
        """Whether a file is watched with one of the folders; a file that a link there leads to is not."""
        return any(path.startswith(f"{folder}{os.sep}") for folder in self._folders) and not os.path.islink(path)

    def _counts(self, change: Change, path: str) -> bool:
        if path in self._alone:
            return True
        folder = next((one for one in self._folders if path.startswith(f"{one}{os.sep}")), "")
        parts = path.removeprefix(folder).split(os.sep)
        if any(part in NOT_WATCHED or part.startswith(".") for part in parts):
            return False
        # Of a folder that was moved here, nothing else is said.
        return path.endswith(".py") or (change.name == "added" and next(Path(path).rglob("*.py"), None) is not None)


def _found(instance: subprocess.Popen[bytes], settings: Settings) -> Neighbour | None:
    """An instance as others find it where these settings would serve; None where it does not serve there.

    One that does not answer may be about to end.
    """
    there = (one for one in neighbours.on_port(settings) if one.record.pid == instance.pid)
    return next((one for one in there if one.record.state == SERVING), None)


def _state(path: str) -> object:
    """What is different once a file has changed, or a link leads elsewhere; never None."""
    try:
        found = os.stat(path)
    except OSError:
        return "not there"
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Reloader:
    """One instance that serves, and the next one while it starts."""

    def __init__(
        self, invocation: Invocation, settings: Settings, *, loop: Loop, display: Display, watch: Watch
    ) -> None:
        self._invocation = invocation
        self._settings = settings
        self._loop = loop
        self._display = display
        self._watch = watch
        self._serving: subprocess.Popen[bytes] | None = None
        self._next: subprocess.Popen[bytes] | None = None
        self._leaving: list[subprocess.Popen[bytes]] = []
        """Instances that were replaced, and finish what they are doing."""
        self._changed: list[str] = []
        """The files that have changed since the last instance was started."""
        self._served = settings
        """The settings of the one that serves."""
        self._begun = 0.0
        """When the next one was started, on the monotonic clock."""
        self._outdated = False
        """Whether the next one was ended for a change that has come since."""
        self._last: subprocess.Popen[bytes] | None = None
        """Whose exit code counts once a signal has asked to stop: the instance that serves, or else the next."""
        self._exit_code = 0

    def run(self) -> int:
        """Serve until a signal asks to stop."""
        self._start(())
        # Now, beside that: while .venv is made anew, there is nothing to import.
        from preflight.output import terminal  # noqa: F401

        told = 0
        while not self._loop.stops or self._alive():
            if self._loop.stops and not told:
                self._last = self._serving or self._next
            for number in self._loop.stops[told:]:
                self._send(number)
                told += 1
            if not told:
                self._complain()
                self._changed += self._watch.take()
                self._look()
            self._reap()
            self._loop.turn(LOOK)
        return self._exit_code

    def _start(self, changed: Sequence[str]) -> None:
        """Start the next instance, and say which change it was started for."""
        if changed:
            names = ", ".join(os.path.relpath(path, project.of_command().root) for path in changed[:SHOWN])
            more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
            goes_on = f" PID {self._serving.pid} keeps serving until it is ready." if self._serving else ""
            self._display.terminal.line(f"{names}{more} changed: the next instance is checked.{goes_on}", "bold")
        try:
            self._settings = load(project.of_command(), options=self._invocation.settings)
        except SettingsError:
            pass  # the instance says so
        settings = self._settings
        also = [settings.root / "pyproject.toml", settings.envfile.path, settings.log_config, settings.ssl_certfile]
        self._watch.add([path for path in also if path is not None])
        self._display.follow(settings)
        self._begun, self._outdated = time.monotonic(), False
        command = _command(replaces=self._serving is not None)
        try:
            self._next = subprocess.Popen(command, preexec_fn=_ending_with_its_parent())
        except OSError as error:  # .venv is being made anew, or there is no room for another process
            self._display.terminal.line(children.shortage(error), "red")
            self._exit_code = 4 if self._serving is None else self._exit_code
            self._wait_for_change(4)
            return
        children.spare(self._next.pid)

    def _complain(self) -> None:
        if self._watch.problem:
            self._display.terminal.line(self._watch.problem, "red")
            self._watch.problem = ""

    def _look(self) -> None:
        """Notice an instance that has come up, and start the next one for what has changed."""
        if self._next is not None and (up := _found(self._next, self._settings)) is not None and up.answers:
            if self._serving is not None:
                self._leaving.append(self._serving)
                before = _found(self._serving, self._served)
                if before is not None and not before.is_at(self._settings):
                    self._serving.send_signal(signal.SIGTERM)  # the next one, elsewhere, has not replaced it
            self._serving, self._next = self._next, None
            self._served = self._settings
        if self._changed and self._next is None:
            changed, self._changed = self._changed, []
            self._start(changed)
        elif self._changed and self._next is not None and time.monotonic() - self._begun > PATIENCE:
            self._give_up(self._next)

    def _give_up(self, instance: subprocess.Popen[bytes]) -> None:
        """End an instance that does not come up: what has changed since may be what it lacks."""
        if not self._outdated:
            self._outdated = True
            line = (
                f"PID {instance.pid} has not come up, and files have changed since: it is being stopped, and the next"
                " instance will be checked."
            )
            self._display.terminal.line(line, "yellow")
            instance.send_signal(signal.SIGTERM)

    def _alive(self) -> list[subprocess.Popen[bytes]]:
        return [one for one in (self._next, self._serving, *self._leaving) if one is not None]

    def _send(self, number: int) -> None:
        for instance in self._alive():
            instance.send_signal(number)

    def _reap(self) -> None:
        """Notice instances that have ended."""
        self._leaving = [one for one in self._leaving if not self._has_ended(one)]
        if self._serving is not None and self._has_ended(self._serving):
            code, self._serving = self._code_of(self._serving), None
            if not self._loop.stops and self._next is None:
                self._wait_for_change(code)
        if self._next is not None and self._has_ended(self._next):
            code, self._next = self._code_of(self._next), None
            if not (self._loop.stops or self._outdated):
                self._wait_for_change(code)

    def _code_of(self, instance: subprocess.Popen[bytes]) -> int:
        """The exit code of an instance that has ended, as a shell has it; for now it is this command's, too."""
        code = instance.returncode if instance.returncode >= 0 else 128 - instance.returncode
        if not self._loop.stops or instance is self._last:
            self._exit_code = code
        return code

    @staticmethod
    def _has_ended(instance: subprocess.Popen[bytes]) -> bool:
        if instance.poll() is None:
            return False
        children.spare(instance.pid, ended=True)
        return True

    def _wait_for_change(self, code: int) -> None:
        """Say that an instance has ended, on the terminal and, where another one serves, in its report."""
        terminal = self._display.terminal
        if self._serving is None:
            terminal.line(f"Nothing is served (exit code {code}). Waiting for a file to change.", "yellow")
            return
        if code in TOLD:
            self._publish(f"the next instance did not start (exit code {code}): the terminal of {OPTION} says why")
        terminal.line(
            f"The next instance did not start (exit code {code}); PID {self._serving.pid} keeps serving. Waiting for a"
            " file to change.",
            "yellow",
        )

    def _publish(self, reason: str) -> None:
        """Show on the page of the serving instance what no report of a run says."""
        try:
            load(project.of_command(), options=self._invocation.settings)
        except SettingsError as error:
            reason = f"the next instance did not start: {error}"
        report = shown.broken(self._settings, reason, run_id=os.urandom(16).hex(), origin="start")
        try:
            self._display.publish(report)
        except Unpublishable as error:
            self._display.unwritten(error)


def _ending_with_its_parent() -> Callable[[], object] | None:
    """What a new process does first, so that it ends in order even if this one is killed; None: nothing."""
    if sys.platform != "linux":
        return None
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _command(*, replaces: bool) -> list[str]:
    """This command without its option, and with one worker: changes are to be seen, not to be served fast.

    ``replaces``: the instance that serves is to be replaced, whatever was typed.
    """
    before, after = list(sys.orig_argv[: -len(sys.argv) + 1 or None]), sys.argv[1:]
    kept = [argument for argument in after if argument != OPTION]
    return [sys.executable, *before[1:], *kept, "--workers", "1", *(["--if-running", "replace"] if replaces else [])]
