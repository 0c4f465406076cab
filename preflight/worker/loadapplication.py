"""``python -m preflight.worker.loadapplication MODULE:ATTR``: load it as the worker does; show the whole error.

This is the fix of the requirement Application: it fails as the worker's attempt failed, since it has the same folder,
variables (the env file's) and steps (import, attribute, factory), and its traceback is not shortened. No launcher
reads what it says: it redacts that itself.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Awaitable
from typing import Any

from preflight import project
from preflight.processes import interpreter
from preflight.redaction.redactor import Redactor
from preflight.redaction.stream import redact_streams
from preflight.settings import loading
from preflight.settings.fields import SettingsError
from preflight.web.interfaces import CannotBeServed
from preflight.worker.application import load


def main() -> int:
    """Returns 0 if it can be loaded, 1 if not, whatever it raises, and 2 for settings that cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m preflight.worker.loadapplication", description="Load an application."
    )
    parser.add_argument("app", metavar="MODULE:ATTR")
    parser.add_argument("--demo", action="store_true", help="without the env file")
    options = parser.parse_args()
    try:
        chosen = loading.load(project.of_command(), options={"app": options.app, "demo": options.demo or None})
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    redact_streams(Redactor.of(chosen))
    os.environ.update(chosen.environment)
    interpreter.put_first(chosen.folder)
    # In a child, for it may end its process: os._exit(0), a fault in C.
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        faulthandler.enable()
        if _loads(chosen.app):
            os.write(writer, b"\n")
        sys.stdout.flush()
        os._exit(1)
    os.close(writer)
    loaded = os.read(reader, 1) != b""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if loaded:
        print(f"{chosen.app} can be loaded")
        return 0
    if code != 1:  # what was raised has been shown
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        print(f"{chosen.app} cannot be loaded: the process that loaded it {how}", file=sys.stderr)
    return 1


def _loads(app: str) -> bool:
    try:
        load(app, _complete)
        from preflight.worker import serving  # noqa: F401  # what the worker imports next
    except CannotBeServed as error:
        print(f"{error}\nFix: {error.fix}", file=sys.stderr, flush=True)
    except BaseException:  # noqa: BLE001  # sys.exit(0) while it is imported is no success
        print(traceback.format_exc(), end="", file=sys.stderr)  # in one piece: a key may be folded over its lines
    else:
        return True
    return False


def _complete(awaitable: Awaitable[Any]) -> Any:
    async def complete() -> Any:
        return await awaitable

    return asyncio.run(complete())


if __name__ == "__main__":
    sys.exit(main())
