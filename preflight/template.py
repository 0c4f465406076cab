"""The env file's template, and what counts as a value that nobody has filled in."""

from __future__ import annotations

import os
from pathlib import Path

from preflight.settings import NEW_TOKEN

PLACEHOLDER = "paste-your-key-here"

TEMPLATE = f"""\
# Variables and keys of the agent server: NAME=value, one a line.
# Keep it to yourself (mode 0600) and out of version control.

# OpenAI, or any compatible service: required.
OPENAI_API_KEY={PLACEHOLDER}
# OPENAI_BASE_URL=https://api.openai.com/v1

# Perplexity: optional, for research.
# PERPLEXITY_API_KEY={PLACEHOLDER}
# PERPLEXITY_BASE_URL=https://api.perplexity.ai

# What opens diagnostics and chat to others: needed to serve on anything but loopback. A line for here, made by
#   {NEW_TOKEN}
# PREFLIGHT_TOKEN={PLACEHOLDER}

# Whom to tell when a check or the server changes: URLs of Apprise (https://appriseit.com), separated by commas.
# They are secrets like keys. Try them: python run.py --test-notify
# PREFLIGHT_NOTIFY=mailto://USER:PASSWORD@example.org,slack://TOKEN-A/TOKEN-B/TOKEN-C

# Settings of the preflight may stand here as well, for example:
# PREFLIGHT_PORT=8002
"""


def is_placeholder(value: str) -> bool:
    """Whether a key's value is the template's, or looks like another template's."""
    plain = value.strip().strip("\"'").lower()
    return (
        plain == PLACEHOLDER
        or plain.startswith(("your-", "your_", "<your", "sk-your", "pplx-your", "changeme", "xxxx", "sk-xxxx"))
        or plain in {"sk-...", "pplx-...", "...", "todo", "none", "null"}
    )


def write(path: Path) -> str:
    """Write the template with mode 0600 where there is no env file yet; returns what to do next.

    Raises OSError where it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return f"{path} exists and was left as it is."
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(TEMPLATE)
    return f"Wrote {path}. Now open it and fill in OPENAI_API_KEY, then run: python run.py"
