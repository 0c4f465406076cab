"""What a start asks for: two starts have the same wish only if a server of either would serve the purpose of both.

Twenty starts in the same second have the same wish, and one server is enough for them. The wish of a start with a
certificate, another number of workers or another key is not fulfilled by a server without them that has just come up.
"""

from __future__ import annotations

import binascii
import json
import re

from preflight.settings.model import SETTINGS, Settings

# Where it serves is compared by address; the others change what is shown and kept, and how long a run waits.
ASIDE = frozenset(
    {
        "history", "host", "if_running", "log_file", "log_format", "port", "port_grace", "probe_timeout",
        "requirement_timeout", "run_timeout", "state_dir", "termination_log", "uds",
    }
)  # fmt: skip
# Variables that differ from terminal to terminal, and those of settings.
_OF_THE_SESSION = re.compile(
    r"_|COLUMNS|COLORTERM|INVOCATION_ID|JOURNAL_STREAM|LINES|MAKE(LEVEL|FLAGS)|MFLAGS|OLDPWD|PWD|SHLVL|STY|TMPDIR|WINDOWID"
    r"|(DBUS|ITERM|KITTY|KONSOLE|LC|LISTEN|NOTIFY|PREFLIGHT|SSH|SYSTEMD|TERM|TMUX|VSCODE|WATCHDOG|WEZTERM|XDG)(_.*)?"
    r"|.*_(PANE|SESSION_ID|TTY|WINDOW_ID)",
    re.DOTALL,
)


def wish(settings: Settings) -> str:
    """A checksum of what a start with these settings would serve, and under which requirements.

    It covers the values of secrets, so it could confirm a guess of a weak one. Only this user can see it: other users
    can neither read a record nor ask a launcher.
    """
    variables = {name: value for name, value in settings.environment.items() if not _OF_THE_SESSION.fullmatch(name)}
    wanted = {name: getattr(settings, name) for name in SETTINGS if name not in ASIDE}
    whole = [str(settings.root), str(settings.folder), wanted, settings.application, variables]
    return f"{binascii.crc32(json.dumps(whole, sort_keys=True, default=str).encode()):08x}"
