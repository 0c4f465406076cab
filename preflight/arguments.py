"""Command lines of other processes, as they may be shown: arguments that look like secrets are masked.

The redactor knows our own secrets; what somebody else's program was given it cannot know, nor does it replace
secrets that are too short or too common. So here it is judged by the option, and in doubt masked.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Sequence

from preflight.keys import key_like
from preflight.redaction import MASK

_SECRET_OPTION = re.compile(r"--?[\w.-]*?(?:pass|token|key|secret|auth|pwd|cred|jwt|cookie|dsn)[\w.-]*", re.IGNORECASE)
_HARMLESS_OPTION = re.compile(r".*[-_.]?(?:file|path|dir|url|uri|type|header|domain|name)", re.IGNORECASE)
_LOGIN = re.compile(r"(-u|--(?:proxy-)?user=)([^:]*):.+", re.DOTALL)
_PASSWORD = re.compile(r"-p(?!(?:ort|id|ath|rofile)(?:=|$))(?![0-9]{1,5}$).", re.DOTALL)  # no port
_NAMED = re.compile(r"([?&;,]?)([\w.-]{1,64})([=:]) *([^?&;,]*)", re.DOTALL)
_WORDS = re.compile(r"(\s+)")
_SHORTEST = 4  # characters; what is shorter is looked for as a whole argument only


def shown(argv: Sequence[str], secrets: Collection[str] = ()) -> str:
    """The command line, joined with shlex, without what looks like a secret; ``secrets`` are known ones."""
    masked = list(_masked(argv, secrets))
    return shlex.join(masked).replace(f"'{MASK}'", MASK)


def _masked(argv: Sequence[str], secrets: Collection[str]) -> Iterator[str]:
    option = ""  # the one before, if what follows is its value
    for argument in argv:
        before, option = option, ""
        if any(secret in argument if len(secret) >= _SHORTEST else secret == argument for secret in secrets):
            yield MASK
        elif before == "-u" and ":" in argument:
            yield f"{argument.partition(':')[0]}:{MASK}"
        elif before == "--" and not argument.startswith("--"):
            yield MASK
        elif before == "-p":
            port = argument.isdecimal() and len(argument) <= 5
            yield argument if port else MASK
        elif re.search(r"\s", argument):  # a shell's command, a header, a title that a process gave itself
            yield "".join(_words(argument, secrets))
        else:
            yield _one(argument)
            option = _kind(argument)


def _words(text: str, secrets: Collection[str]) -> Iterator[str]:
    """A text of several words, each as if it was an argument."""
    parts = _WORDS.split(text)
    words, blanks = parts[::2], [*parts[1::2], ""]
    plain = [word.strip("\"'") for word in words]
    header = False  # Authorization: Bearer ...
    for word, before, after, blank in zip(words, plain, _masked(plain, secrets), blanks, strict=True):
        yield (MASK if header else word if before == after else after) + blank
        header = header or (before.endswith(":") and key_like(before))


def _kind(argument: str) -> str:
    """What the next argument is: "-u" for a login, "-p" for a password or a port, "--" for a secret."""
    if argument in ("-u", "--user", "--proxy-user"):
        return "-u"
    if argument in ("-p", "-a"):
        return "-p"
    secret = _SECRET_OPTION.fullmatch(argument) and not _HARMLESS_OPTION.fullmatch(argument)
    return "--" if secret else ""


def _one(argument: str) -> str:
    """An argument that is no option's value: what is secret in it is masked."""
    name, sign, _ = argument.partition("=")
    if sign and _kind(name) == "--":
        return f"{name}={MASK}"
    if login := _LOGIN.fullmatch(argument):
        return f"{login[1]}{login[2]}:{MASK}"
    if _PASSWORD.match(argument):
        return f"-p{MASK}"
    return _NAMED.sub(_value, argument)


def _value(found: re.Match[str]) -> str:
    before, name, sign, value = found.groups()
    return f"{before}{name}{sign}{MASK}" if value and key_like(name) else found[0]
