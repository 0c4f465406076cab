"""Which variables hold secrets, judged by their names, and which parts of their values are secret by themselves."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from urllib.parse import parse_qsl, unquote, urlsplit

from preflight.patterns import lazy
from preflight.settings.model import Settings
from preflight.settings.parsers import split_urls
from preflight.text import foreign

NOTIFY = "PREFLIGHT_NOTIFY"
"""The variable with the addresses of notifications: to know such a URL is to be able to write there."""
MOST = 1000  # secrets of one value that are known: each costs a look at every text
LONGEST_BROKEN = 256  # characters of a password whose pieces in a URL are known
SHORTEST = 8  # characters; a shorter value occurs in too many harmless texts to be replaced blindly

_WORDS = frozenset(
    {
        "AUTH", "AUTHORIZATION", "BASICAUTH", "BEARER", "COOKIE", "COOKIES", "CRED", "CREDENTIAL", "CREDENTIALS",
        "CREDS", "DSN", "HOOK", "HOOKS", "JWK", "JWT", "KEYS", "MNEMONIC", "OTP", "PASSCODE", "PASSPHRASE", "PASSWORDS",
        "PAT", "PEPPER", "PIN", "PROXYAUTH", "PSK", "PW", "SALT", "SAS", "SECRETS", "SEED", "SIG", "SIGNATURE", "SK",
        "TOKENS", "WEBHOOKS",
    }
)  # fmt: skip
_ENDS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASS", "PW", "PWD", "JWT", "WEBHOOK")
SECRET_WORDS = _WORDS.union(_ENDS)
"""Every name of a secret contains one of these, in any case."""
_OTHERS = frozenset(
    {
        "BYPASS", "COMPASS", "DONKEY", "HOCKEY", "HOTKEY", "JOCKEY", "MONKEY", "OLDPWD", "PUBKEY", "PUBLICKEY",
        "TURKEY", "WHISKEY",
    }
)  # fmt: skip
ABOUT = frozenset({"DIR", "DOMAIN", "FILE", "HEADER", "NAME", "PATH", "SOCK", "TYPE", "URI", "URL"})
"""Endings of names that say where or what something is, and do not hold the thing itself."""
LOOKS_SECRET = lazy(
    r"\b(?:sk|pk|rk|pplx|xai|gsk|pypi|tvly)-[A-Za-z0-9_-]{16,}|\b(?:sk|rk|pk|whsec)_[A-Za-z0-9_]{16,}"
    r"|\b(?:gh[pousr]|npm|hf|glsa|dop_v1|gsk|ntn|lin_api)_[A-Za-z0-9]{20,}|\b(?:github_pat|lsv2_pt|lsv2_sk)_\w{20,}"
    r"|\bglpat-[\w-]{16,}|\bxox[a-z]-[\w-]{10,}|\bAKIA[0-9A-Z]{16}\b|\bAIza[\w-]{30,}"
    r"|\beyJ[\w-]{8,}(?:\.[\w-]+)*\.?"
    r"|(?<=hooks\.slack\.com/)(?:services|triggers|workflows)/[\w/-]{20,200}"
    r"|(?:(?<=discord\.com/api/)|(?<=discordapp\.com/api/))(?:v[0-9]{1,3}/)?webhooks/[0-9]{5,30}/[\w-]{20,200}"
    r"|(?:(?<=/hooks/)|(?<=/webhookb2/))(?=[A-Za-z_@/-]{0,60}[0-9])[\w@/-]{20,300}"
    r"|(?<![0-9])[0-9]{5,16}:A[\w-]{34}(?![\w-])"
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----|$)"
)
"""What looks like a key of a well-known service, whatever it stands in; webhooks and Telegram's bots as well."""
_HOLD_LOGINS = frozenset({"CONNECTION", "DATABASE", "DSN", "PROXY", "URI", "URL"})
LOGIN = lazy(r"[^\s:@/]{1,64}[:/](?!/)([^\s@]{1,512})(?<!:)@(?=[\w/\[(])")
"""A login without a scheme: ``user:password@tcp(host)/x``, ``user/password@//host``, ``user:password@proxy:3128``."""
PAIR = lazy(
    r"(?<![A-Za-z])(?:name|key)[\\\"']{0,8}\s{0,8}[=:]\s{0,8}[\\\"']{0,8}([\w.-]{1,64})[\\\"']{0,8}[\s,;]{1,80}"
    r"(?:[\w.\[\]\\\"'-]{0,64}[.\]\\\"'])?value[\\\"']{0,8}\s{0,8}[=:]\s{0,8}"
    r"(?:(\\{0,8}[\"'])(.{1,4096}?)(?<!\\)\2|([^\s\"'\\][^\s\"']{0,4095}))",
    re.IGNORECASE | re.DOTALL,
)
"""A name in one field and its value in the next, in YAML, JSON, TOML, XML and options of Helm or CloudFormation:
``name: DB_PASSWORD``, ``value: ...``. The groups are the name, the opening quote, what is in quotes, and what is not.
"""
_PASSWORDS = frozenset({"PASS", "PASSWD", "PASSWORD", "PW", "PWD"})
"""Last words of the names of variables whose values people put into URLs as they are."""
_IN_URLS = lazy(r"[/?#@:\[\]]")
PORT = lazy(r"[0-9]{1,5}(?=[/?#]|$)")
_BRACED = lazy(r"(?:^|;)\s{0,8}([\w .-]{1,64})=\{((?:[^}]|\}\}){1,256})\}(?=\s{0,8}(?:;|$))")
_NAMES = lazy(r"[a-z]+(?:[-_][a-z]+)+")
_HUMP = lazy(r"(?<=[a-z])(?=[A-Z])")
_NAME = lazy(r"[\w .-]{1,64}")
_WORD = lazy(r"(?!.*[bcdfghjklmnpqrstvwxz]{5})(?=.*[aeiouy])[A-Z]?[a-z]{1,11}")
_LABEL = r"[a-z]{1,15}[0-9]{0,3}(?:-[a-z0-9]{1,8}){0,3}"
_HOST = lazy(
    r"(?:(?=.{0,37}::)[0-9a-fA-F:]{3,39}(?:[0-9.]{7,15})?|(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4})(?:%\w{1,15})?|"
    rf"(?:localhost|[0-9]{{1,3}}(?:\.[0-9]{{1,3}}){{3}}|\[[0-9a-fA-F:.]+\]|(?:{_LABEL}\.){{1,6}}[a-z]{{2,8}})"
    r"(?::[0-9]{1,5})?/?"
)

_PLAIN_URL = lazy(
    rf"[a-z][a-z0-9+.-]{{1,30}}://(?:{_HOST.pattern}|{_LABEL}(?::[0-9]{{1,5}})?/?)?"
    r"(?!.*[bcdfghjklmnpqrstvwxz]{5})(?:(?:/|(?<=/))(?:[a-z]{1,15}[0-9]{0,3}|[0-9]{1,3})"
    r"(?:[._-][a-z]{1,15}[0-9]{0,3}){0,3}){0,8}/?"
)
"""An address without a login, a query or anything else that somebody could keep secret."""
_FOLDER = lazy(r"/(?:[A-Z]?[a-z._-]{1,30}[0-9]{0,4})?(?![\w+=.-])")
"""The beginning of a folder's path. Random base64 may begin with a slash, but no word follows it there."""
_PATH = lazy(
    r"(?:~|\.{0,2})(?:/[A-Za-z_.-]{1,40}[0-9]{0,5}){2,20}/?"
    r"|(?:~|\.{0,2})(?:/[\w .@+-]{1,80}){1,20}\.(?:json|jwt|key|p8|p12|pem|pfx|crt|cer|jks|keystore|txt|toml|ya?ml)"
    r"|(?:/(?:builds|etc|home|mnt|opt|private|proc|root|run|srv|tmp|usr|var|workspace|Users|Volumes))"
    r"(?:/[\w.@+-]{1,80}){1,20}/?"
)


def key_like(name: str) -> bool:
    """Whether a variable of this name holds a secret, judged by the words in it.

    ``DB_PASSWORD``, ``api-key``, ``AccountKey`` and ``TOKEN2`` do; ``PUBLIC_KEY``, ``TOKEN_URL`` and
    ``COOKIE_DOMAIN`` do not. The URL of a webhook does. ``PWD`` does not: in it, a shell keeps its folder.
    """
    return words(name) != ["PWD"] and secret_field(name)


def secret_field(name: str, value: str = "") -> bool:
    """Whether a field, a parameter or an option of this name holds a secret.

    The rule is that of `key_like`, except that ``pwd`` is a password unless its value is a folder.
    """
    found = words(name)
    if found == ["PWD"]:
        return not _FOLDER.match(value)
    if found and found[-1] in ABOUT:
        return found[-1] in ("URL", "URI") and _is_hook(found)
    return any(
        word in _WORDS or (word.endswith(_ENDS) and word not in _OTHERS and before != "PUBLIC")
        for before, several in zip(["", *found], found, strict=False)
        for word in (several, several.removesuffix("S"))
    )


def words(name: str) -> list[str]:
    """The words of a name, in capitals and without numbers behind them: ``dbPassword2`` has DB and PASSWORD."""
    found = (word.upper().rstrip("0123456789") for word in re.split(r"[^A-Za-z0-9]+", _HUMP.sub("_", name)))
    return [word for word in found if word]


def _is_hook(found: list[str]) -> bool:
    return any(word.endswith(("HOOK", "HOOKS")) for word in found)


def common(value: str) -> bool:
    """Whether a value occurs in too many harmless texts to be replaced blindly.

    It is short, or a single word of small letters, or the name of a host, or a path.
    """
    return len(value) < SHORTEST or bool(_WORD.fullmatch(value) or _HOST.fullmatch(value) or _PATH.fullmatch(value))


def secrets(variables: Mapping[str, str]) -> Iterator[str]:
    """The secrets in these variables.

    They are values of key-like names; passwords and key-like parameters inside URLs, connection strings and JSON, and
    what looks like the key of a well-known service, whatever the variable's name; the password of a login without a
    scheme where the name says that there may be one; and the parts of a webhook's URL. derivation.py has what else an
    application makes of them.
    """
    for name, value in variables.items():
        if name == NOTIFY:
            for url in split_urls(value):
                yield from _inside(url)
            continue
        is_hook = _is_hook(words(name))
        if key_like(name) and (is_hook or not _PLAIN_URL.fullmatch(value)):
            yield value
            if _PASSWORDS.intersection(words(name)[-1:]):
                yield from _broken(value)
            if "://" in value and is_hook:
                yield from _inside(value)
        for found in islice(LOOKS_SECRET.finditer(value), MOST):
            if not _NAMES.fullmatch(found[0]):  # sk-learn-of-somebody
                yield found[0]
        if "://" not in value and _HOLD_LOGINS.intersection(words(name)[-1:]) and (login := LOGIN.match(value)):
            yield login[1]
            yield value[login.start(1) : value.rindex("@")]  # it may have an "@" in it
        if "://" in value:
            for password in {*_passwords(value)}:
                yield password
                yield unquote(password)
                yield from _broken(password)
        if "=" in value:
            yield from _assigned(value)
        if value.lstrip()[:1] in ("{", "["):
            yield from _in_json(value)


def secrets_of(settings: Settings) -> list[str]:
    """The secrets in all variables of a process with these settings."""
    return [value for variables in settings.variables for value in secrets(variables)]


def common_secrets(settings: Settings) -> frozenset[str]:
    """The secrets that are not replaced blindly (see `common`): they must never be put into a text.

    And those with tabs, line ends or other controls, as `foreign` writes them: there they are not found by value.
    """
    whole = {value.strip() for value in secrets_of(settings)}
    seen = {value: foreign(value, len(value)) for value in whole if value}
    return frozenset(shown for value, shown in seen.items() if common(value) or shown != value)


def _passwords(url: str) -> Iterator[str]:
    """The passwords in a URL, or in several; key-like parameters of its query as well."""
    # A password may have a slash, a question mark or an "@" in it that nobody has encoded: up to the last "@".
    for text in url.split():
        pieces = text.split("://")
        for place, piece in enumerate(pieces[1:], start=1):
            yield from _login(piece)
            if place == 1 and len(pieces) > 2 and "@" in pieces[-1]:
                yield from _login("://".join(pieces[1:]))  # one that has "://" in it
    try:
        parts = urlsplit(url)
        yield from (value for name, value in parse_qsl(parts.query) if secret_field(name, value))
        if parts.password:
            yield parts.password
    except ValueError:
        return


def _login(place: str) -> Iterator[str]:
    """The password in what stands behind ``://``: up to the first "@" that ends a host's part, and to the last one."""
    if "@" not in place:
        return  # port and path of an address
    for login in (place.partition("/")[0].rpartition("@")[0], place.partition("@")[0], place.rpartition("@")[0]):
        user, _, password = login.partition(":")
        if password and "/" not in user and "@" not in user:
            yield password


def _broken(password: str) -> Iterator[str]:
    """The pieces that a parser of URLs takes for a port, a path or a host, and shows in its error.

    They come of a password with signs that nobody has encoded: ``invalid integer value "Zq7vXw2L" for ... "port"``.
    """
    if len(password) > LONGEST_BROKEN or "://" in password or PORT.match(password) or any(map(str.isspace, password)):
        return
    if common(password) or password.startswith(("/", "~")) or "/" in password.partition("@")[2]:  # of a file, a host's
        return
    pieces = _IN_URLS.split(password)
    if len(pieces) > 1:
        yield from (piece for piece in pieces if any(map(str.isdigit, piece)) and any(map(str.isalpha, piece)))


def _inside(url: str) -> Iterator[str]:
    """A URL that is a secret as a whole, and the secrets in it, wherever its service wants them.

    Tokens stand in the place of user, password, host, path and query alike. Words and the names of hosts stay: they
    occur in harmless texts, too.
    """
    yield url
    rest = url.partition("://")[2]
    place, question, query = rest.partition("?")
    login, _, place = place.rpartition("@")
    # Not with the host: where a text is shortened, the name of a host would look like such a part's beginning.
    path = place.partition("/")[2]
    parts = (login, *login.split(":"), path, *re.split(r"[/:&=#,]", f"{place}/{query}" if question else place))
    for part in parts:
        if not common(unquote(part)):
            yield part
            yield unquote(part)


def _assigned(value: str) -> Iterator[str]:
    """What key-like names have in a connection string: ``Password=...;AccountKey=...`` or ``host=... password=...``."""
    for part in (*value.split(";"), *value.split()):
        name, sign, held = part.partition("=")
        held = held.strip()
        if sign and _NAME.fullmatch(name) and secret_field(name, held.strip("\"'")):
            yield held.strip("\"'")
            yield held.strip("{}")  # ODBC's quotes
    for name, held in islice(_BRACED.findall(value), MOST):  # they may have a semicolon between them
        if secret_field(name, held):
            yield held.replace("}}", "}")


def _in_json(value: str) -> Iterator[str]:
    """The texts that have key-like names in a JSON document, the first `MOST`."""
    try:
        queue: deque[object] = deque([json.loads(value)])
    except (ValueError, RecursionError):
        return
    left = MOST
    while queue and left:
        found = queue.popleft()
        if isinstance(found, list):
            queue.extend(found)
        elif isinstance(found, dict):
            queue.extend(found.values())
            held = [item for name, item in found.items() if isinstance(item, str) and secret_field(name, item)][:left]
            left -= len(held)
            yield from held
