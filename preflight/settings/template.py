"""The env file's template, and what counts as a value that nobody has filled in."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from preflight import commands, files
from preflight.settings.model import Settings

PLACEHOLDER = "paste-your-key-here"


def new_token() -> str:
    """A command that makes a token, as a line for the env file."""
    return f"""{commands.python()} -c "import secrets; print('PREFLIGHT_TOKEN=' + secrets.token_urlsafe(32))\""""


def text() -> str:
    """The env file's template."""
    return f"""\
# Variables and keys of the agent server: one NAME=value on each line.
# Keep it to yourself (mode 0600) and out of version control.

# OpenAI, or any compatible service: required.
OPENAI_API_KEY={PLACEHOLDER}
# OPENAI_BASE_URL=https://api.openai.com/v1

# Perplexity: optional, for research. The last line turns it off, and its warnings with it.
# PERPLEXITY_API_KEY={PLACEHOLDER}
# PERPLEXITY_BASE_URL=https://api.perplexity.ai
# PREFLIGHT_NOT_USED=Perplexity

# The token that clients need: required on any address but loopback. This command prints the line for this file:
#   {new_token()}
# PREFLIGHT_TOKEN={PLACEHOLDER}

# Services to notify when a check or the server changes: URLs of Apprise (https://appriseit.com), separated by commas.
# They are secrets like keys. Try them: {commands.run_py("--test-notify")}
# PREFLIGHT_NOTIFY=mailto://USER:PASSWORD@example.org,slack://TOKEN-A/TOKEN-B/TOKEN-C

# Settings of the preflight can be in this file as well, for example:
# PREFLIGHT_PORT=8002
"""


def command(settings: Settings) -> str:
    """What to do if there is no env file: the command that writes one, elsewhere if it cannot be written there."""
    init = commands.run_py("--init")
    path = settings.envfile.path
    if path.is_absolute() and _can_be_made(path):
        return init
    elsewhere = next((one / ".env" for one in (settings.root, Path.cwd()) if os.access(one, os.W_OK)), None)
    if elsewhere is None:
        return "set PREFLIGHT_ENV_FILE to a file that you can write, or put the keys into the environment"
    return f"export PREFLIGHT_ENV_FILE={shlex.quote(str(elsewhere))} && {init}"


def _can_be_made(path: Path) -> bool:
    try:
        nearest = next(folder for folder in path.parents if folder.exists())
    except OSError:  # behind a folder that cannot be entered
        return False
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def is_placeholder(value: str) -> bool:
    """Whether a key's value is the template's, or looks like another template's."""
    plain = value.strip().strip("\"'").lower()
    return (
        plain == PLACEHOLDER
        or plain.startswith(("your-", "your_", "<your", "sk-your", "pplx-your", "changeme", "xxxx", "sk-xxxx"))
        or plain in {"sk-...", "pplx-...", "...", "todo", "none", "null"}
    )


def write(path: Path) -> tuple[str, str]:
    """Write the template with mode 0600 if there is no env file yet; returns what was done, and the next command.

    Raises OSError if it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = files.new(path)
    except FileExistsError:
        return f"{path} exists and was left as it is.", ""
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text())
    return f"Wrote {path}. Now open it and fill in OPENAI_API_KEY, then run:", commands.run_py()
