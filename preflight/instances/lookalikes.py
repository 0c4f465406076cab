"""Processes that look like instances of ours: whether their command line is that of a launcher or a worker."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from preflight.ports import here

WORKER = "preflight.worker"


def checkout(pid: int) -> Path | None:
    """The checkout that a process runs from, if its command line is that of a launcher or a worker of ours.

    None if it is not; where its folder cannot be told, a command line without a path is taken for ours.
    """
    process = here().process(pid)
    if process is None or process.uid != os.geteuid():
        return None
    options, folder = process.argv[1:], Path(here().folder(pid))
    module = next((after for one, after in itertools.pairwise(options) if one == "-m"), "")
    if module == WORKER:
        return folder
    scripts = ["run.py"] if module == "server" else [one for one in options if not one.startswith("-")]
    for script in scripts:
        path = Path(os.path.realpath(folder / script))  # the script may be a link
        launcher = path.parent / "preflight" / "launcher"
        if path.name == "run.py" and (launcher.is_dir() or launcher.with_suffix(".py").is_file()):
            return path.parent
    return None
