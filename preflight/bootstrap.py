"""The command's first steps: whether the packages are there that launcher and suite need.

The standard library only, until that is known.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import re
import signal
import sys
from collections.abc import Sequence

from preflight import commands, dependencies


def problem(arguments: Sequence[str] = ()) -> list[str] | None:
    """What is missing, with the command that installs it, as lines for a banner; None if everything is there.

    ``arguments`` are those of ``run.py``, which a command that starts it with another Python repeats.
    """
    absent = dependencies.missing()
    if not absent:
        return None
    from preflight import installing  # nearly every start does without it

    names = ", ".join(re.split(r"[^A-Za-z0-9._-]", dependency, maxsplit=1)[0] for dependency in absent)
    if sys.flags.no_site:
        fix = installing.own_environment_command(absent, arguments)
        fix = fix or "start it without -S, which leaves out the folders of installed packages"
    else:
        fix = installing.install_command(absent, arguments)
    lines = [f"Dependencies: not installed: {names}", f"Fix: {fix}"]
    # The packages may have been installed a moment ago, for another Python.
    if not sys.flags.no_site and not installing.is_environment():
        lines.insert(1, f"Python: {sys.executable or 'this interpreter'}, which is not the project's own (.venv)")
    return lines


def run() -> int:
    """Run the command if all its packages are there; returns its exit code."""
    if not sys.flags.inspect:
        return _finished()
    # With -i and PYTHONINSPECT, Python would replace the exit code by that of an interactive session.
    try:
        exit_code = _finished()
    except SystemExit as ending:
        exit_code = ending.code if isinstance(ending.code, int) else 1
    except BaseException:  # noqa: BLE001  # Python would show it, and go on
        sys.excepthook(*sys.exc_info())
        exit_code = 1
    os._exit(exit_code)


def _finished() -> int:
    from preflight.output import streams
    from preflight.processes import signals

    signals.end_the_command()
    streams.install()
    try:
        try:
            exit_code = _run()
        except signals.EndedBySignal:
            raise  # and wait for no reader
        except SystemExit as ending:  # --help
            exit_code = ending.code if isinstance(ending.code, int) else 0 if ending.code is None else 1
        except Exception:
            if early := signals.swallowed():  # Python 3.11 makes a RuntimeError of it while a class is made
                raise signals.EndedBySignal(128 + early[0]) from None
            raise
        streams.finish()
    except BrokenPipeError:
        return 128 + signal.SIGPIPE  # the reader of our output has gone: no result is claimed
    except streams.Unwritten as error:  # a full disk, say
        with contextlib.suppress(OSError):
            print(
                f"{commands.name()}: error: the output cannot be written: {error.strerror}", file=sys.stderr, flush=True
            )
        return 1
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            lines = ["Unix sockets: this process may not make any, and cannot talk to its own processes without them"]
            show([*lines, "Fix: allow them; in a unit of systemd, add AF_UNIX to RestrictAddressFamilies="])
            return 1
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        show([f"Open Files: {error.strerror}: {error.filename or 'a socket'}", "Fix: ulimit -n 1024  # at least"])
        return 1
    finally:
        gc.freeze()  # else the interpreter collects garbage at its end, which takes as long as many a command
    return exit_code


def _run() -> int:
    lines = problem(sys.argv[1:])
    if lines is None:
        try:
            from preflight.command import line as commandline

            return commandline.main()
        except ImportError as error:
            # Installed and broken: an upgrade that stopped halfway, say. Some are imported late.
            from preflight import installing

            lines = [
                f"Dependencies: cannot be imported: {error}",
                f"Fix: {installing.reinstall_command(error.name or '', sys.argv[1:])}",
            ]
    show(lines)
    return 1


def show(lines: list[str]) -> None:
    """The red banner, without rich: it may be what is missing."""
    title = "CRITICAL ERROR: must fix before proceeding"
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    bar = title.center(80).rstrip() if not colour else f"\033[1;37;41m{title.center(80)}\033[0m"
    print("\n".join([bar, *lines, "-" * 80]), flush=True)
