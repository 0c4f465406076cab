"""Signals that ask to stop, from a process's first line to its last.

At first, each of them ends the command (:func:`end_the_command`), because nothing needs an orderly end yet. Once
something does, the launcher's loop gathers them (loop.py). Its children leave them to the launcher
(:func:`leave_to_launcher`).
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes longer than all that is done here
    from collections.abc import Callable
    from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class EndedBySignal(SystemExit):
    """A signal ended the command; it waits for nobody any more."""


_raised: list[int] = []
"""Signals for which EndedBySignal was raised."""
_launcher = 0
"""In a child of the launcher: the launcher's PID."""
_when_alone: Callable[[], bool] | None = None
"""In such a child: called first for a signal when the launcher is gone; returns whether it has dealt with it."""


def end_the_command() -> None:
    """From now on each of them ends the command, with 128 and the signal's number as its exit code.

    The kernel keeps signals without a handler away from PID 1. Signals that the parent has blocked are let through.
    Signals that the parent ignores stay ignored: SIGHUP under nohup, and SIGINT in the background of a shell without
    job control, until the launcher's loop runs, which handles SIGINT like any other server. SIGTERM is the exception,
    because a process that cannot be asked to stop has to be killed.
    """
    _handle(_end)
    learn_how_children_end()
    # SIGCHLD as well: it wakes the loop.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOPPING, signal.SIGCHLD))


def learn_how_children_end() -> bool:
    """Put the default back where SIGCHLD was ignored: the kernel then says how a child has ended.

    It forgets that otherwise, and `subprocess` takes 0 for it. Only the main thread can do this; elsewhere, it stays.
    Returns whether it was ignored, and is not any more.
    """
    if signal.getsignal(signal.SIGCHLD) is not signal.SIG_IGN:
        return False
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    except ValueError:  # another thread
        return False
    return True


def _end(number: int, _frame: FrameType | None) -> None:
    _raised.append(number)
    raise EndedBySignal(128 + number)


def swallowed() -> list[int]:
    """Signals that should have ended the command and have not: Python drops what is raised in a destructor."""
    numbers = _raised.copy()
    _raised.clear()
    return numbers


def leave_to_launcher() -> None:
    """In a child of the launcher: leave signals that ask to stop to the launcher, for as long as that lives.

    A service manager sends SIGTERM to both of them. The launcher ends its children in order, so that what is in
    flight is finished. When it is gone, the signal ends the child's group at once. The signals are handled and not
    ignored: the processes that an application starts would inherit that. Processes that it forks, of a pool say, are
    ended by these signals. Calling this again puts the handlers back.
    """
    global _launcher
    if not _launcher:
        _launcher = os.getppid()
        _keep_from_forks()
    for number in _handle(_left):
        signal.siginterrupt(number, False)  # a library's system call is not disturbed
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def _keep_from_forks() -> None:
    """Have forked processes begin with the default for each signal that is left to the launcher.

    The signals are blocked meanwhile: Python forgets those that come before the forked process is complete.
    """
    import threading

    masks = threading.local()

    def block() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def forget() -> None:
        for number in STOPPING:
            if signal.getsignal(number) is _left:
                signal.signal(number, signal.SIG_DFL)
        unblock()

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=forget)


def _left(_number: int, _frame: FrameType | None) -> None:
    global _when_alone
    if os.getppid() == _launcher:
        return
    first, _when_alone = _when_alone, None
    if first is None or not first():
        end_group()


def when_alone(first: Callable[[], bool]) -> None:
    """In a child of the launcher: call this for the first signal that comes when the launcher is gone.

    It returns whether there is something to finish that ends by itself; else, and for the next signal, the child ends.
    """
    global _when_alone
    _when_alone = first


def end_group() -> None:
    """In a child of the launcher: end this process and the group that it was given, at once.

    It may have gone to another group, its launcher's or a shell's, which is nobody's to end here.
    """
    try:
        os.killpg(os.getpid(), signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nobody is left in it
    os.kill(os.getpid(), signal.SIGKILL)


def _handle(handler: Callable[[int, FrameType | None], object]) -> list[signal.Signals]:
    """Handle each of them that the parent does not ignore; returns those."""
    handled = [
        number for number in STOPPING if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN
    ]
    for number in handled:
        signal.signal(number, handler)
    return handled
