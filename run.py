#!/usr/bin/env python3
"""Check every requirement, then serve: ``python run.py --help``.

Only the standard library is imported here, and the syntax is old on purpose, until it is certain
that this Python is new enough and that the packages are there.
"""

import os
import signal
import sys


def end(number: int, _frame: object) -> None:
    """A signal asks the command to stop before there is anything to end in order."""
    sys.exit(128 + number)


def listen() -> None:
    """Hear signals before anything is imported, as PID 1 and where the parent has blocked them; see signals.py."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


def main() -> int:
    """The command; returns its exit code."""
    listen()
    if sys.version_info < (3, 11):  # noqa: UP036  # who has an older one is told so
        found = "{}.{}.{}".format(*sys.version_info[:3])
        sys.stderr.write(f"run.py: needs Python 3.11 or newer, and this is {found} ({sys.executable})\n")
        return 1
    # python -I, -P and PYTHONSAFEPATH leave this folder out, and a preflight that is installed would be another one.
    here = os.path.dirname(os.path.realpath(__file__))
    if sys.path[:1] != [here]:
        sys.path.insert(0, here)
    from preflight import bootstrap

    return bootstrap.run()


if __name__ == "__main__":
    sys.exit(main())
