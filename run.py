#!/usr/bin/env python3
"""Check every requirement, then serve: ``python run.py --help``.

Only the standard library is imported here, and the syntax is old on purpose (Python 2.7 reads it), until it is
certain that this Python is new enough and that the packages are there.
"""

import os
import re
import signal
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
NEWER = ("python3.14", "python3.13", "python3.12", "python3.11", "python3")


def end(number, _frame):  # type: (int, object) -> None
    """A signal asks the command to stop before there is anything to end in order.

    Nothing is raised: Python 3.11 makes a RuntimeError of what is raised while a class is made.
    """
    os._exit(128 + number)


def listen():  # type: () -> None
    """Hear signals before anything is imported, as PID 1 and where the parent has blocked them; see signals.py."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


def is_new_enough(python):  # type: (str) -> bool
    """Whether an interpreter runs and can run this project."""
    import subprocess

    asked = [python, "-E", "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    with open(os.devnull, "r+") as nothing:
        try:
            return subprocess.call(asked, stdin=nothing, stdout=nothing, stderr=nothing) == 0
        except OSError:  # it is not there
            return False


def with_a_newer_python(arguments):  # type: (list[str]) -> str
    """The command that does the same with a Python that is new enough; a sentence where none is at hand.

    The project's own environment comes first. Arguments are repeated if none of them could be a key in the wrong place.
    """
    own = os.path.join(HERE, ".venv", "bin", "python")
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    others = [os.path.join(folder, name) for name in NEWER for folder in folders if os.path.isabs(folder)]
    for python in [own] + others:  # noqa: RUF005  # the syntax for that is newer
        if os.path.exists(python) and is_new_enough(python):
            harmless = all(re.match(r"(--?[a-z][a-z-]*|[0-9.:]{1,40})$", one) for one in arguments)
            command = [python, os.path.join(HERE, "run.py")] + (arguments if harmless else [])
            return " ".join(map(quoted, command))
    return "install Python 3.11 or newer, and start run.py with it: it says how to go on"


def quoted(word):  # type: (str) -> str
    """A word as a shell takes it; shlex has that from Python 3.3 on."""
    return word if re.match(r"[A-Za-z0-9_@%+=:,./-]+$", word) else "'" + word.replace("'", "'\"'\"'") + "'"


def main():  # type: () -> int
    """The command; returns its exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036  # people with an older one are told so
        found = "{}.{}.{}".format(*sys.version_info[:3])
        sys.stderr.write(
            "run.py: needs Python 3.11 or newer, and this is {} ({})\nFix: {}\n".format(  # noqa: UP032
                found, sys.executable, with_a_newer_python(sys.argv[1:])
            )
        )
        return 1
    listen()
    import gc

    gc.disable()  # until everything is imported: it would take a tenth of that time; see preflight/launcher/checks.py
    # python -I, -P and PYTHONSAFEPATH leave this folder out, and a preflight that is installed would be another one.
    if sys.path[:1] != [HERE]:
        sys.path.insert(0, HERE)
    from preflight import bytecode

    bytecode.repair()  # before the first module that could need it
    from preflight import bootstrap

    return bootstrap.run()


if __name__ == "__main__":
    sys.exit(main())
