"""How commands of ours are shown to people who paste them: the standard library only.

Every path in them is absolute and every Python is named, so that they do the same in any folder, whatever ``python``
means there.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def quoted(path: Path) -> str:
    """A path, quoted for a shell."""
    return shlex.quote(str(path))


def python() -> str:
    """This very interpreter, quoted for a shell."""
    return shlex.quote(sys.executable or "python3")


def run_py(*arguments: str, interpreter: str = "") -> str:
    """``run.py`` with this interpreter, or with another one that is quoted already."""
    return " ".join([interpreter or python(), shlex.quote(str(ROOT / "run.py")), *map(shlex.quote, arguments)])


def load_application(app: str, *, demo: bool) -> str:
    """The command that shows why an application (``MODULE:ATTR``) cannot be loaded, for a shell in any folder."""
    module = f"{python()} -m preflight.worker.loadapplication {shlex.quote(app)}{' --demo' if demo else ''}"
    return f"cd {shlex.quote(str(ROOT))} && {module}  # shows the whole error"
