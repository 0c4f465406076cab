"""``--init`` in this project's own checkout: write a commented template of the agent server's env file."""

from __future__ import annotations

import os
import sys

from preflight.output import plainlines
from preflight.settings import template
from preflight.settings.model import Settings


def run(settings: Settings, *, dry_run: bool) -> int:
    """Write the template unless there is an env file; returns 0, 1 if it cannot be written, 2 if it has no place."""
    path, exit_code = settings.envfile.path, 1
    if path.is_absolute():
        if dry_run:
            there = os.path.lexists(path)
            plainlines.say(f"{path} exists and would be left as it is." if there else f"Would write {path}.")
            return 0
        try:
            plainlines.say(*template.write(path))
        except OSError as error:
            problem = f"{path}: {error.strerror}"
        else:
            return 0
    else:
        problem, exit_code = str(settings.envfile.problem), 2
    plainlines.error(problem)
    print(f"Fix: {template.command(settings)}", file=sys.stderr)
    plainlines.remark("An env file is not needed where OPENAI_API_KEY is in the environment.")
    return exit_code
