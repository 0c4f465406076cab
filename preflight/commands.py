"""How commands of ours are shown to people who paste them. Uses the standard library only.

Every path in them is absolute and every Python is named, so that they do the same in any folder, whatever ``python``
means there.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from preflight import project

ROOT = project.CHECKOUT or project.PACKAGE.parent


def name() -> str:
    """The name of the command that people typed, or would type here."""
    return "run.py" if project.in_checkout() else "preflight"


def quoted(path: Path) -> str:
    """A path, quoted for a shell."""
    return shlex.quote(str(path))


def python() -> str:
    """This very interpreter, quoted for a shell."""
    return shlex.quote(sys.executable or "python3")


def run_py(*arguments: str, interpreter: str = "") -> str:
    """The command with this interpreter, or with another one that is quoted already.

    In our checkout that is ``run.py``; in a project it is ``preflight`` in the folder where this one was typed.
    """
    if project.in_checkout():
        begun = [interpreter or python(), shlex.quote(str(ROOT / "run.py"))]
    else:
        script = Path(sys.executable).with_name("preflight")
        installed = not interpreter and script.is_file()
        begun = [shlex.quote(str(script))] if installed else [interpreter or python(), "-m", "preflight"]
        begun = ["cd", shlex.quote(os.getcwd()), "&&", *begun]
    return " ".join([*begun, *map(shlex.quote, arguments)])


def load_application(app: str, *, demo: bool) -> str:
    """The command that shows why an application (``MODULE:ATTR``) cannot be loaded, for a shell in any folder."""
    folder, safe = (ROOT, "") if project.in_checkout() else (Path.cwd(), "-P ")
    module = f"{python()} {safe}-m preflight.worker.loadapplication {shlex.quote(app)}{' --demo' if demo else ''}"
    return f"cd {shlex.quote(str(folder))} && {module}  # shows the whole error"
