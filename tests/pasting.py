"""Fixes are pasted into a terminal: what each of them must be for that."""

from __future__ import annotations

import re
import shlex
import subprocess

PROGRAMS = [
    "cd",
    "chmod",
    "docker",
    "export",
    "kill",
    "lsof",
    "podman",
    "ps",
    "python",
    "ss",
    "sudo",
    "systemctl",
    "ulimit",
    "unset",
    "uv",
]
PROSE = {"or", "and", "then", "if", "else", "shows"}


def is_command(fix: str) -> bool:
    """Whether it is there to be pasted."""
    return fix.split()[0] in PROGRAMS or fix.startswith(("/", "'/"))


def check(fix: str) -> None:
    """A command that a shell takes, all else in a comment behind it; or a sentence with no command in it."""
    assert "\n" not in fix
    if not is_command(fix):
        assert not re.search(rf"(?:^|[\s:])(?:{'|'.join(PROGRAMS)}) ", fix), f"{fix!r} is both"
        return
    said = subprocess.run(["bash", "-n"], input=fix, capture_output=True, text=True, timeout=30)
    assert (said.returncode, said.stderr) == (0, ""), fix
    words = shlex.split(fix, comments=True)
    assert not [word for word in words if word in PROSE or word.startswith("(") or word.endswith((",", ":"))], fix
