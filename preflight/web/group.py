"""The processes of one server that is not ours: one run of the suite, one token and one code for all.

uvicorn, hypercorn, gunicorn and granian start several processes for one server, and each of them starts the
application. Those of one parent, address and application are a group. The first of them runs the suite while the others
wait, and all go by what it has found, for as long as one of them lives and what is asked stays the same: a process that
is started for another release, or with other settings, asks anew. What they share is in a folder of the user's own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from preflight import files
from preflight.instances import runtime
from preflight.processes import modules
from preflight.processes.modules import Stamp
from preflight.report.model import Report
from preflight.web.instance import BlockedStart
from preflight.web.logins import same

log = logging.getLogger(__name__)

LOOK = 0.02  # seconds between two looks whether it is our turn
TOKEN, CODE = 32, 16  # bytes, in hexadecimal digits
FOLDER = "group-"  # then the parent's PID, when the parent was started, and which of its servers this is


class Examined(NamedTuple):
    """What a process of a group has found for all of them."""

    report: Report | None
    """The run that lets them start; None if none was asked for."""
    imported: list[Stamp]
    """The project's modules that this run has imported: what it has found holds for as long as they are the same."""


class Agreed(NamedTuple):
    """What the processes of a group have agreed on."""

    report: Report | None
    """The run that let it start; None if none was asked for."""
    token: str
    """Made for the group's lifetime."""
    code: str
    """The one-time code; empty for all but the process that has made it."""


class Group:
    """The group of this process, and what :class:`preflight.web.logins.Logins` asks of it."""

    def __init__(self, state_dir: Path, *server: object) -> None:
        """``server`` tells the group from others of the same parent: a script may start several servers.

        Raises OSError if there is no place for what is shared.
        """
        own = hashlib.sha256(repr(server).encode()).hexdigest()[:16]
        self._folder = runtime.folder(state_dir) / f"{FOLDER}{_name_of(_leader())}-{own}"
        files.make(self._folder)
        self._members = os.open(self._folder / "members", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.register_at_fork(after_in_child=self._leave_to_parent)

    def _leave_to_parent(self) -> None:
        """A process that the application forks is no member: it serves nobody, and may outlive this one."""
        descriptor, self._members = self._members, -1
        if descriptor >= 0:  # a child of the child has none: that number may be another file's there
            os.close(descriptor)

    def agree(self, examine: Callable[[], Examined], patience: float, about: str = "", variables: str = "") -> Agreed:
        """Return what the group has agreed on, or what ``examine`` finds now. Blocks meanwhile.

        If ``examine`` raises BlockedStart, so does this, here and in the processes that have waited for it.
        ``patience``: seconds for which another process is waited for. ``about`` stands for what is asked, and of whom:
        an agreement about something else does not count. ``variables`` stands for the environment, in which processes
        that start together may differ: an agreement of before counts only in the same one.
        """
        asked = time.monotonic()
        with self._turn(patience):
            alone = self._is_alone()
            known = self._read()
            same_question = (
                known is not None
                and known.get("about") == about  # an older release says nothing of it
                and _is_as_it_was(known.get("imported", []))
                and (known["at"] >= asked or known.get("variables") == variables)
            )
            # What blocks counts for those who have waited for it; whoever comes later asks again.
            if known is None or not same_question or (known["at"] < asked and (alone or known["blocked"])):
                question = {"about": about, "variables": variables}
                return self._examine(examine, question, "" if alone or known is None else known.get("token", ""))
            if known["blocked"]:
                self._leave()
                raise BlockedStart(known["blocked"])
            self._join()
            return Agreed(Report.from_json(known["report"]) if known["report"] else None, known["token"], "")

    def _examine(self, examine: Callable[[], Examined], question: dict[str, str], token: str) -> Agreed:
        """Call ``examine``. ``token`` is the one that processes of the group serve with; empty if none serves."""
        _sweep(self._folder)
        try:
            report, imported = examine()
        except BlockedStart as error:
            self._write({"blocked": str(error), **question, "token": token})
            self._leave()
            raise
        code = ""
        if not token:
            token, code = os.urandom(TOKEN).hex(), os.urandom(CODE).hex()
            for ended in self._folder.glob("ended-*"):
                ended.unlink(missing_ok=True)
            self._put("code", hashlib.sha256(code.encode()).hexdigest())
        found = {"report": report.to_json() if report else None, "imported": imported, "token": token}
        self._write({"blocked": "", **question, **found})
        self._join()
        return Agreed(report, token, code)

    # What is shared: files of mode 0600 in a folder of mode 0700.

    @contextlib.contextmanager
    def _turn(self, patience: float) -> Iterator[None]:
        """Let one process at a time look and examine."""
        descriptor = os.open(self._folder / "turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            until = time.monotonic() + patience
            while not _locked(descriptor):
                if time.monotonic() > until:
                    raise BlockedStart(f"another process of this server has been checking for more than {patience:g} s")
                time.sleep(LOOK)
            yield
        finally:
            os.close(descriptor)

    def _is_alone(self) -> bool:
        """Whether no process of the group serves."""
        return _locked(self._members)

    def _join(self) -> None:
        fcntl.flock(self._members, fcntl.LOCK_SH)

    def _leave(self) -> None:
        fcntl.flock(self._members, fcntl.LOCK_UN)

    def _read(self) -> dict[str, Any] | None:
        try:
            known: dict[str, Any] = json.loads((self._folder / "agreed").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return known

    def _write(self, agreed: dict[str, Any]) -> None:
        self._put("agreed", json.dumps({"at": time.monotonic(), **agreed}))

    def _put(self, name: str, content: str) -> None:
        """Write a file whole, or not at all; its folder is made again if a cleaner has taken it away."""
        files.make(self._folder)
        new = self._folder / f".{name}.new"
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as stream:
            stream.write(content)
        new.replace(self._folder / name)

    # Logins.

    def spend(self, code: str) -> bool:
        """Whether this is the one-time code, which counts for the first time only, in whatever process."""
        try:
            known = (self._folder / "code").read_text()
            if not same(hashlib.sha256(code.encode()).hexdigest(), known):
                return False
            (self._folder / "code").unlink()  # only one of two that use it at once can remove it
        except OSError:
            return False
        return True

    def end(self, session: str) -> None:
        """End a login in all processes."""
        try:
            self._put(_mark(session), "")
        except OSError as error:
            log.warning("the server's other processes cannot be told of a logout: %s", error)

    def has_ended(self, session: str) -> bool:
        """Whether the login was ended in any process."""
        return (self._folder / _mark(session)).exists()


def _mark(session: str) -> str:
    return f"ended-{hashlib.sha256(session.encode()).hexdigest()[:32]}"


def _is_as_it_was(imported: list[list[Any]]) -> bool:
    """Whether what a run has imported is still the same."""
    return [list(one) for one in modules.stamps(str(file) for file, *_ in imported)] == imported


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _leader() -> psutil.Process:
    """The process that has started all processes of this server; this very one where it is the only one.

    Servers start them by multiprocessing, or, as gunicorn does, by a fork, after which both have one command line.
    """
    own = psutil.Process()
    try:
        parent = psutil.Process(os.getppid())
        multiprocessing = sys.modules.get("multiprocessing")
        is_started_by_it = multiprocessing is not None and multiprocessing.parent_process() is not None
        return parent if is_started_by_it or parent.cmdline() == own.cmdline() else own
    except psutil.Error:  # another user's, or it has just ended; the first process of a container has none
        return own


def _name_of(leader: psutil.Process) -> str:
    return f"{leader.pid}-{leader.create_time():.2f}"


def _sweep(own: Path) -> None:
    """Remove the folders of groups whose parent is gone."""
    for folder in own.parent.glob(f"{FOLDER}*"):
        pid = folder.name.removeprefix(FOLDER).partition("-")[0]
        if folder == own or not pid.isdigit():
            continue
        with contextlib.suppress(psutil.Error):
            if _name_of(psutil.Process(int(pid))) == folder.name.removeprefix(FOLDER).rpartition("-")[0]:
                continue
        shutil.rmtree(folder, ignore_errors=True)
