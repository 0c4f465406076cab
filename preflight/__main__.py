"""The command ``preflight``, or ``python -m preflight``: check a project's requirements, then serve its application.

It works for the project of the folder where it is typed. Nothing of that project is imported in this process: the
folder that ``-m`` puts on the path is removed from it again, before anything else is imported.
"""

import gc
import os
import sys


def _leave_out_the_folder() -> None:
    """Take the folder off the path that ``python -m`` has put there, unless this package is in it."""
    package = os.path.dirname(os.path.abspath(__file__))
    try:
        here = os.getcwd()
    except FileNotFoundError:  # it has been removed
        return
    if not sys.flags.safe_path and sys.path and os.path.abspath(sys.path[0]) == here != os.path.dirname(package):
        del sys.path[0]


def main() -> int:
    """The command; returns its exit code."""
    gc.disable()  # until everything is imported: it would take a tenth of that time; see launcher/checks.py
    from preflight import bytecode

    bytecode.repair()  # before the first module that could need it
    from preflight.processes import signals

    signals.end_the_command()  # before anything else is imported
    from preflight import bootstrap

    return bootstrap.run()


if __name__ == "__main__":
    _leave_out_the_folder()
    sys.exit(main())
