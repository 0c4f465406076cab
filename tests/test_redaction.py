"""Redaction: a secret leaves in no form in which it travels, and harmless texts stay as they are."""

from __future__ import annotations

import base64
import html
import json
import random
import re
import reprlib
import shlex
import string
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from preflight.redaction.keys import common, common_secrets, key_like, secrets
from preflight.redaction.redactor import MASK, Redactor
from preflight.redaction.stream import StreamRedactor
from preflight.redaction.writings import SIGNS
from preflight.settings.loading import load
from tests.waiting import TOO_LONG

KEY = "sk-canary-3f9a1c77e2Zq"
AWKWARD = "p\u00e4ss/w+rd \"quoted\" \\ 'single'&=%"


@pytest.mark.parametrize(
    "name",
    [
        "OPENAI_API_KEY", "OPENAI_APIKEY", "key", "AWS_ACCESS_KEY_ID", "GITHUB_TOKEN", "NPM_TOKENS", "MYTOKEN",
        "DB_PASSWORD", "PGPASSWORD", "DB_PASS", "SSH_PASSPHRASE", "CLIENT_SECRET", "SENTRY_DSN", "SESSION_COOKIE",
        "SLACK_WEBHOOK_URL", "GITLAB_PAT", "HTTP_AUTHORIZATION", "MYSQL_PWD", "SMTP_AUTH", "REDIS_AUTH", "JWT",
        "DBPASS", "MY_CREDS", "ENCRYPTION_SALT", "OTP_SEED", "SECRETKEY", "ACCESSKEY", "PRIVATEKEY", "ENCRYPTIONKEY",
        "OPENAI_APIKEY1", "TOKEN2", "STRIPE_SK", "API-KEY", "api.key", "AccountKey", "SharedAccessKey",
        "SLACK_HOOK_URL", "DOOR_PIN", "clientSecret",
    ],
)  # fmt: skip
def test_key_like(name: str) -> None:
    """Names that hold secrets are known by a word in them."""
    assert key_like(name)


@pytest.mark.parametrize(
    "name",
    [
        "PATH", "HOME", "MONKEY", "KEYBOARD", "COMPASS", "TOKENIZERS_PARALLELISM", "SPAT", "PWD", "OLDPWD",
        "SSH_AUTH_SOCK", "COOKIE_DOMAIN", "API_KEY_HEADER", "PASSWORD_STORE_DIR", "TOKEN_URL", "PUBLIC_KEY",
        "SSH_PUBLIC_KEY", "KEY_FILE", "TOKEN_TYPE", "SharedAccessKeyName", "XAUTHORITY", "PYTHONHASHSEED", "",
    ],
)  # fmt: skip
def test_not_key_like(name: str) -> None:
    """A part of a word is no word, and what says where something is or what it is like is not the thing."""
    assert not key_like(name)


@pytest.mark.parametrize(
    "value, secret",
    [
        ("Server=db;Uid=me;Password=s3cret pass-1;", "s3cret pass-1"),
        ("AccountName=x;AccountKey=Zm9vYmFyYmF6+/==;EndpointSuffix=y", "Zm9vYmFyYmF6+/=="),
        ("Endpoint=sb://x.example.org/;SharedAccessKeyName=root;SharedAccessKey=abc123def456=", "abc123def456="),
        ("host=db user=me password='one-two-3' dbname=x", "one-two-3"),
    ],
)
def test_connection_strings(value: str, secret: str) -> None:
    """A password in a connection string is known by its name there, whatever the variable is called."""
    redactor = Redactor.of_variables({"CONNECTION": value})
    assert secret not in redactor.text(f"cannot log in with {secret}")
    assert redactor.text("Endpoint root AccountName dbname") == "Endpoint root AccountName dbname"


def test_parts_of_a_hook() -> None:
    """Of a webhook's URL also the path and its parts are secret; the host is not."""
    redactor = Redactor.of_variables(
        {"SLACK_HOOK_URL": "https://hooks.slack.com/services/T1JJ3T3L2/B1BRTD4JD/TIiajkdnlazkcOXr"}
    )
    assert redactor.text('"POST /services/T1JJ3T3L2/B1BRTD4JD/TIiajkdnlazkcOXr"') == f'"POST /{MASK}"'
    assert redactor.text("with TIiajkdnlazkcOXr") == f"with {MASK}"
    assert redactor.text("services of hooks.slack.com") == "services of hooks.slack.com"


@pytest.mark.parametrize("value", ["preflight", "container", "critical", "localhost", "password", "db-1.example.org"])
def test_common_values_stay(value: str) -> None:
    """A word or the name of a host stands in too many harmless texts; it is known as a secret all the same."""
    chosen = load(Path(__file__).parents[1], {"DB_PASSWORD": value, "PIN": "1234", "A_KEY": KEY}, {"demo": True})
    assert Redactor.of_variables({"DB_PASSWORD": value}).text(f"see {value}/x") == f"see {value}/x"
    assert common_secrets(chosen) == {value, "1234"}


@pytest.mark.parametrize(
    "value", ["sunshine1", "xkcdqwrt", "correct horse", "abcdefghijklmnop", "a1b2c3d4.e5f6a7b8.c9d0e1f2a3"]
)
def test_uncommon_values(value: str) -> None:
    """Anything else is replaced."""
    assert not common(value)


def test_secrets_of_variables() -> None:
    """Values of key-like names, and passwords in any URL, as written and as meant."""
    found = list(
        secrets(
            {"A_KEY": "one", "URL": "postgres://me:pass%40word@db/x", "PLAIN": "two", "BAD": "http://[", "N": "x://y"}
        )
    )
    assert found == ["one", "pass%40word", "pass@word"]


@pytest.mark.parametrize(
    "url,parts",
    [
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXr/#a,#b", ["T1JJ3T3L2", "A1BRTD4JD", "TIiajkdnlazkcOXr"]),
        ("json://some-user-77:pass%20word@hook.example.org/x", ["some-user-77", "pass word", "pass%20word"]),
        ("tgram://123456789:abcdefg_hijklmnop/12315544/", ["123456789", "abcdefg_hijklmnop", "12315544"]),
        ("mailto://h.example.org?user=me@example.org&pass=hunter22", ["me@example.org", "hunter22"]),
        ("json://127.0.0.1:8080/services?+X-Token=abcd1234", ["abcd1234"]),
    ],
)
def test_addresses_of_notifications(url: str, parts: list[str]) -> None:
    """To know the URL is to be able to write there: all of it goes, and every part that may be a token."""
    redactor = Redactor.of_variables({"PREFLIGHT_NOTIFY": f"json://other.example.org,{url} xml://localhost"})
    assert redactor.text(f"<{url}>") == f"<{MASK}>"
    for part in parts:
        assert redactor.text(f"a {part} b") == f"a {MASK} b"


def test_words_and_hosts_of_notifications_stay() -> None:
    """What occurs in harmless texts is no secret because a URL has it, too."""
    urls = "json://localhost:8002/services/preflight,mailto://127.0.0.1:2525/?mode=insecure ntfy://hook.example.org/x"
    harmless = "127.0.0.1:8002 localhost services preflight insecure hook.example.org 127.0.0.1:2525 8002"
    assert Redactor.of_variables({"PREFLIGHT_NOTIFY": urls}).text(harmless) == harmless


@pytest.mark.parametrize("secret", [KEY, AWKWARD], ids=["plain", "awkward"])
@pytest.mark.parametrize(
    "form",
    [
        str,
        repr,
        json.dumps,
        lambda s: json.dumps(s, ensure_ascii=False),
        quote,
        quote_plus,
        lambda s: quote(s, safe=""),
    ],
    ids=["as it is", "repr", "json", "json utf-8", "url path", "url query", "url"],
)
def test_forms(secret: str, form: object) -> None:
    """A secret is taken out of a text in every form it travels in."""
    assert callable(form)
    written = form(secret)
    text = Redactor([secret]).text(f"before {written} after")
    assert secret not in text
    assert written.strip("'\"") not in text
    assert MASK in text
    assert text.startswith("before ")
    assert text.endswith(" after")


@pytest.mark.parametrize("before", ["", "a", "ab", "user:"])
@pytest.mark.parametrize("after", ["", "z", "zz"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64(before: str, after: str, encode: object) -> None:
    """In base64 too, wherever in the encoded text it begins; what is left does not decode to eight characters of it."""
    assert callable(encode)
    secret = KEY + "\u00ff\u00fe>?"
    text = Redactor([secret]).text(encode((before + secret + after).encode()).decode())
    assert MASK in text
    for part in text.split(MASK):
        for offset in range(4):
            piece = ("A" * offset + part)[: (offset + len(part)) // 4 * 4]
            decoded = base64.urlsafe_b64decode(piece.replace("+", "-").replace("/", "_") + "=" * (-len(piece) % 4))
            assert secret[:8].encode() not in decoded
            assert secret[-8:].encode() not in decoded


@pytest.mark.parametrize("before", ["", "a", "ab", "user:"])
@pytest.mark.parametrize(
    "write",
    [
        lambda s: quote(s, safe=""),
        lambda s: quote(quote(s, safe=""), safe=""),
        lambda s: s.replace("/", "\\/"),
        lambda s: json.dumps(s.replace("/", "\\/")),
        lambda s: s.replace("+", "\\u002b"),
    ],
    ids=["url", "url twice", "slashes escaped", "slashes escaped twice", "plus escaped"],
)
def test_base64_with_escapes(before: str, write: Callable[[str], str]) -> None:
    """Base64 whose signs are escaped for a URL or in JSON goes as a whole, but for its edges."""
    secret = "\u00ff\u00fe>?" * 3 + KEY + "\u00fb\u00ef\u00be" * 5
    encoded = base64.b64encode((before + secret + "z").encode()).decode()
    text = Redactor([secret]).text(f"<{write(encoded)}>")
    assert re.fullmatch(r"<\"?[^\[]{0,10}\[redacted\][^\]]{0,10}\"?>", text)


def test_latin_1() -> None:
    """HTTP's Basic authentication and old forms encode in latin-1."""
    secret = "p\u00e4ss-w\u00f6rd-\u00fc-1234"
    redactor = Redactor([secret])
    assert redactor.text(quote(secret, encoding="latin-1")) == MASK
    encoded = base64.b64encode(f"me:{secret}".encode("latin-1")).decode()
    left = redactor.text(encoded).split(MASK)
    assert len(left) == 2
    assert len(left[0]) <= 6
    assert len(left[1]) <= 4


def test_lines_of_a_secret() -> None:
    """A value of several lines is taken out line by line as well."""
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqh\nkiG9w0BAQEFAASCBK\n-----END KEY-----"
    text = Redactor([key]).text("line: MIIEvQIBADANBgkqh!\nkiG9w0BAQEFAASCBK")
    assert text == f"line: {MASK}!\n{MASK}"


def test_longest_first() -> None:
    """Of two secrets of which one begins the other, nothing of the longer one stays."""
    assert Redactor([KEY, KEY + "-suffix"]).text(f"{KEY}-suffix") == MASK


def test_whitespace_around_a_value() -> None:
    """A value that was written with blanks around it is found without them."""
    assert Redactor([f"  {KEY}\n"]).text(f"x{KEY}x") == f"x{MASK}x"


ODD = {
    "quotes": 'it\'s "quoted" \\ twice \\\\',
    "lines": "first line\nsecond\tline\r\nthird",
    "unicode": "p\u00e4ss\u2192w\U0001f511rd",
    "url": "a/b?c=d&e#f+g h%20i@j:k",
    "html": "<b>&amp;\"'</b>",
    "shell": "$(id) `id` ${HOME} ; | !x 'y'",
    "one character": "--------",
    "backslashes": "\\\\\\\\server\\share\\x",
}
WRITTEN: dict[str, Callable[[str], str]] = {
    "json in json": lambda s: json.dumps(json.dumps(s)),
    "json thrice": lambda s: json.dumps(json.dumps(json.dumps(s))),
    "html": html.escape,
    "html in json": lambda s: json.dumps(html.escape(s)),
    "json in html": lambda s: html.escape(json.dumps(s)),
    "hexadecimal references": lambda s: "".join(
        c if re.match(r"[\w.~-]", c, re.ASCII) else f"&#x{ord(c):X};" for c in s
    ),
    "url twice": lambda s: quote(quote(s, safe=""), safe=""),
    "url in small letters": lambda s: re.sub("%..", lambda found: found[0].lower(), quote(s, safe="")),
    "form in json": lambda s: json.dumps(quote_plus(s)),
    "ascii": ascii,
    "bytes": lambda s: repr(s.encode()),
    "json for html": lambda s: re.sub("[<>&'/]", lambda found: f"\\u{ord(found[0]):04X}", json.dumps(s)),
    "slashes escaped": lambda s: json.dumps(s).replace("/", "\\/"),
    "shell": shlex.quote,
    "lines of a terminal": lambda s: s.replace("\r\n", "\n").replace("\n", "\r\n"),
}


@pytest.mark.parametrize("secret", ODD.values(), ids=ODD)
@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
def test_any_mixture_of_escapes(secret: str, write: Callable[[str], str]) -> None:
    """However often it was escaped on its way, and by whom: all of it goes, and nothing around it."""
    text = Redactor([secret]).text(f"before:{write(secret)}:after")
    assert re.fullmatch(
        r"before:b?(?:[\\\"']|&quot;|%(?:25)*22)*\[redacted\](?:[\\\"']|&quot;|%(?:25)*22)*:after", text
    )


@pytest.mark.parametrize("wrap", [textwrap.fill, lambda s, n: "\r\n".join(textwrap.wrap(s, n))], ids=["lf", "crlf"])
@pytest.mark.parametrize("width", [60, 64, 76])
@pytest.mark.parametrize("before", ["", "a", "ab", "OTHER=value\nNAME="])
def test_base64_in_lines(before: str, width: int, wrap: Callable[[str, int], str]) -> None:
    """A whole file in base64, broken into lines: nothing of the secret in it can be decoded, also from a line alone."""
    secret = "".join(random.Random(7).choices(string.ascii_letters + string.digits, k=150))
    encoded = wrap(base64.b64encode(f"{before}{secret}\nNEXT=1\n".encode()).decode(), width)
    redactor = Redactor([secret])
    for text in (redactor.text(encoded), "\n".join(map(redactor.text, encoded.splitlines()))):
        decodable = re.findall(r"[A-Za-z0-9+/]+", text.replace(MASK, "!"))
        for part in decodable:
            for offset in range(4):
                padded = "A" * offset + part
                decoded = base64.b64decode(padded[: len(padded) // 4 * 4])
                assert not any(secret[at : at + 9].encode() in decoded for at in range(len(secret) - 8))
    assert redactor.text(json.dumps(encoded)).count(MASK) == 1


@pytest.mark.parametrize(
    "shorten",
    [
        lambda s: f"invalid literal: {s[:20]}",
        lambda s: f"invalid literal: {s[:20]!r}",
        lambda s: f"invalid literal: '{s[:20]} (app/main.py:12)",
        lambda s: f"invalid literal: {s[:20]}...",
        lambda s: f"invalid literal: {s[:9]}…{s[-9:]}",
        lambda s: f"invalid literal: '{s[:8]}...{s[-8:]}'.",
        lambda s: reprlib.repr("x" + s[: len(s) // 2] * 3 + s),
        lambda s: json.dumps(f"{s[:10]}…"),
    ],
    ids=["end", "quoted end", "before a place", "dots", "middle", "quoted middle", "reprlib", "json"],
)
@pytest.mark.parametrize("secret", [KEY, AWKWARD, ODD["url"], ODD["shell"]], ids=["plain", "awkward", "url", "shell"])
def test_shortened_texts(secret: str, shorten: Callable[[str], str]) -> None:
    """Of a secret in whose middle somebody has cut off, the beginning and the end go as well."""
    text = Redactor([secret]).text(shorten(secret))
    assert MASK in text
    for part in (secret[:6], secret[-6:]):
        for written in (part, repr(part)[1:-1], json.dumps(part)[1:-1]):
            assert written not in text


def test_a_shortened_secret_that_repeats_itself() -> None:
    """Where a longer beginning breaks off, a shorter one within it may go on to the cut."""
    a, b = "first-part-" * 9, "second-part-0123456789" * 4
    secret = a + a + b
    shown = Redactor([secret]).text(f"x{a}{a}{a}{b[:50]}...")
    assert shown == f"x{a}{MASK}..."
    assert Redactor(["k" * 50]).text("k" * 40) == MASK


def test_beginnings_that_are_no_cut() -> None:
    """A word that a secret happens to begin with stays where the text goes on."""
    redactor = Redactor(["preflight-secret-1234"])
    for text in (
        "preflight is ready",
        "the preflight-server...",
        "see preflight/report/model.py",
        "on preflight\n*** done",
    ):
        assert redactor.text(text) == text


def test_overlapping_secrets() -> None:
    """Where one secret's end is another's beginning, both go."""
    assert Redactor(["first-secret-middle", "middle-second-secret"]).text("<first-secret-middle-second-secret>") == (
        f"<{MASK}>"
    )


@pytest.mark.parametrize(
    "url, password",
    [
        ("postgres://me:pa/ss/word@db/x", "pa/ss/word"),
        ("postgres://me:p@ss@word@db/x", "p@ss@word"),
        ("amqp://me:p%2Fass%40word@mq", "p/ass@word"),
        ("redis://:one-password@a:1,redis://:two-password@b:2", "two-password"),
        ("https://host/v1?api-key=query-secret&x=1", "query-secret"),
    ],
)
def test_passwords_in_odd_urls(url: str, password: str) -> None:
    """Passwords that nobody has encoded, several URLs in one value, and key-like parameters."""
    assert password not in Redactor.of_variables({"SERVICE_URL": url}).text(f"connecting with {password} to {url}")


@pytest.mark.parametrize(
    "hostile", ["\\" * 40_000, "&amp;" * 16_000, "%25" * 24_000, "=\n" * 40_000, "AAAA\n" * 16_000]
)
def test_hostile_texts(hostile: str) -> None:
    """A text made to take long does not: redaction stays linear."""
    redactor = Redactor([*ODD.values(), "\\" * 20 + "x", "&" * 10 + "y", "%" * 10 + "z", "\n" * 10 + "a" * 8])
    begun = time.process_time()
    redactor.text(hostile)
    assert time.process_time() - begun < TOO_LONG


@pytest.mark.slow
def test_many_secrets_and_a_long_text() -> None:
    """Fifty secrets that begin with a special character, or that have nothing else, do not make a text take long."""
    signs = [*string.punctuation, *string.punctuation][:50]
    chosen = random.Random(3)
    odd = [sign + "".join(chosen.choices(string.ascii_letters, k=20)) for sign in signs]
    only = ["".join(chosen.choices(string.punctuation, k=12)) for _ in signs]
    text = 'the lazy dog 1234 %20 \\ & "x" path/to/file\n' * 6_000
    for known in (odd, only):
        begun = time.process_time()
        assert Redactor(known).text(text) == text
        assert time.process_time() - begun < TOO_LONG


@pytest.mark.parametrize("text", ["k" * 80_000, ("k" * 8_999 + "x") * 8, ("k" * 100 + "...") * 800])
def test_texts_that_repeat_a_secret(text: str) -> None:
    """A secret that repeats itself, in texts that repeat its beginning."""
    begun = time.process_time()
    Redactor(["k" * 9_000]).text(text)
    assert time.process_time() - begun < TOO_LONG


@pytest.mark.parametrize(
    "value", ["://:" * 260_000, "://:a@" * 170_000, "a=" * 500_000, "key=;" * 200_000, "; " * 500_000]
)
@pytest.mark.slow
def test_hostile_variables(value: str) -> None:
    """An env file of a MiB that is made to take long does not."""
    begun = time.process_time()
    list(secrets({"VALUE": value}))
    assert time.process_time() - begun < TOO_LONG


def test_short_values_stay() -> None:
    """A value of fewer than eight characters stands in too many harmless texts."""
    assert Redactor(["true", "1234567", ""]).text("it is true: 1234567") == "it is true: 1234567"
    assert Redactor(["12345678"]).text("12345678") == MASK


def test_headers_and_urls_of_others() -> None:
    """Bearer tokens and passwords in URLs go even if nobody knows them."""
    redactor = Redactor()
    assert redactor.text("Authorization: Bearer abcdefgh.ijk") == f"Authorization: Bearer {MASK}"
    assert redactor.text("basic dXNlcjpwYXNz==, more") == f"basic {MASK}, more"
    assert redactor.text("postgres://me:hunter2@db/x") == f"postgres://me:{MASK}@db/x"
    assert redactor.text("http://127.0.0.1:8002/a@b") == "http://127.0.0.1:8002/a@b"
    assert redactor.text("the bearer of this") == "the bearer of this"


def test_json_values() -> None:
    """Every text in a JSON value is redacted, keys included; the rest keeps its type."""
    value = {"a": [KEY, 1, None, True, (KEY,)], KEY: {"b": f"x{KEY}"}, 3: 1.5}
    assert Redactor([KEY]).value(value) == {"a": [MASK, 1, None, True, [MASK]], MASK: {"b": f"x{MASK}"}, "3": 1.5}


def test_of_settings(tmp_path: Path) -> None:
    """The env file's value and the process's are both secrets, whichever wins; so are those that are never replaced."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".env").write_text("A_KEY=envfile-value\nA_PIN=1234\n")
    environ = {"PREFLIGHT_ENV_FILE": str(tmp_path / ".env"), "A_KEY": "environment-value", "A_PIN": "5678"}
    chosen = load(tmp_path, environ)
    shown = Redactor.of(chosen).text("environment-value envfile-value A_KEY")
    assert shown == f"{MASK} {MASK} A_KEY"
    assert common_secrets(chosen) == {"1234", "5678"}


def test_undecodable_value() -> None:
    """A variable that is no UTF-8 is a secret like another."""
    secret = "caf\udce9-secret-value"
    assert Redactor([secret]).text(f"<{secret}> {shlex.quote(secret)}") == f"<{MASK}> '{MASK}'"


@pytest.mark.parametrize("secret", [KEY, "correct horse battery staple", "k" * 9_000], ids=["key", "words", "long"])
@pytest.mark.parametrize("around", ["{}", "A=Bearer {}", "x://me:{}@host"], ids=["bare", "bearer", "url"])
@pytest.mark.slow
def test_beginning(secret: str, around: str) -> None:
    """Wherever a long text is cut, no part of a secret is left, and what was before the secret is."""
    redactor = Redactor([secret])
    text = "-" * 100 + around.format(secret) + "-" * 200_000
    place = text.index(secret)
    for longest in (*range(90, 180, 7), place + 1, place + len(secret) - 1, place + len(secret)):
        found = redactor.beginning(text, longest)
        assert secret[:4] not in found
        assert found.startswith("-" * 90)
        assert len(found) <= longest + len(MASK) + 2


def test_beginning_of_a_short_text() -> None:
    """A text that is short enough is the same, redacted."""
    assert Redactor([KEY]).beginning(f"a {KEY} b", 100) == f"a {MASK} b"


def test_beginning_keeps_what_is_harmless() -> None:
    """Without a secret at the cut it is where it was asked for."""
    assert Redactor([KEY]).beginning("x" * 500, 100) == "x" * 100 + " \u2026"


@pytest.mark.parametrize("length", range(1, 40))
def test_password_at_the_cut(length: int) -> None:
    """A password inside a URL that nobody knew is found by what is behind the cut."""
    text = "-" * 50 + "postgres://me:hunter2hunter2@host/" + "-" * 500
    assert "hunter" not in Redactor().beginning(text, 50 + length)


LONG = "".join(random.Random(11).choices(string.ascii_letters + string.digits, k=164))
FOLDS: dict[str, Callable[[str, int], str]] = {
    "lines": lambda s, n: "\n".join(textwrap.wrap(s, n)),
    "crlf": lambda s, n: "\r\n".join(textwrap.wrap(s, n)),
    "indented": lambda s, n: textwrap.fill(s, n + 6, subsequent_indent="      "),
    "continued": lambda s, n: " \\\n    ".join(textwrap.wrap(s, n)),
    "quoted": lambda s, n: "(" + "\n ".join(repr(piece) for piece in textwrap.wrap(s, n)) + ")",
    "joined": lambda s, n: " +\n    ".join(f'"{piece}"' for piece in textwrap.wrap(s, n)),
    "mail": lambda s, n: "\n".join(f"> {piece}" for piece in textwrap.wrap(s, n)),
    "box": lambda s, n: "\n".join(f"│ {piece:<{n}} │" for piece in textwrap.wrap(s, n)),
    "json": lambda s, n: json.dumps("\n  ".join(textwrap.wrap(s, n))),
    "colours": lambda s, n: "\n".join(f"\x1b[1;32m{piece}\x1b[0m" for piece in textwrap.wrap(s, n)),
    "html": lambda s, n: "<br>".join(textwrap.wrap(s, n)),
    "quoted-printable": lambda s, n: "=\n".join(textwrap.wrap(s, n)),
    "log": lambda s, n: "\n".join(f"2026-01-02T03:04:05.678Z worker[12] {piece}" for piece in textwrap.wrap(s, n)),
}


@pytest.mark.parametrize("width", [7, 40, 76, 80, 100, 163])
@pytest.mark.parametrize("fold", FOLDS.values(), ids=FOLDS)
@pytest.mark.parametrize("secret", [LONG, LONG[:40] + "-\u00fc$'" + LONG[40:90] + "%"], ids=["word", "signs"])
def test_folded(secret: str, fold: Callable[[str, int], str], width: int) -> None:
    """Of a key that a library has folded over lines nothing stays, at whatever column and however."""
    shown = Redactor([secret]).text(f"the key:\n{fold(secret, width)}\nis wrong")
    assert shown.startswith("the key:\n")
    assert shown.endswith("\nis wrong")
    for start in range(len(secret) - 6):
        assert secret[start : start + 6] not in shown, shown


def test_words_that_are_folded() -> None:
    """A secret of several words is folded between them."""
    secret = "a passphrase of several words that is long enough to be folded"
    for folded in (textwrap.fill(secret, 20), textwrap.fill(secret, 20, subsequent_indent="    ")):
        assert Redactor([secret]).text(f"<{folded}>") == f"<{MASK}>"


@pytest.mark.parametrize("width", [5, 40, 76, 163])
@pytest.mark.parametrize("indent", ["", "    ", "│ "])
@pytest.mark.parametrize("secret", [LONG, "p\u00e4$$ phrase; " + LONG[:60]], ids=["word", "signs"])
def test_folded_in_a_stream(secret: str, indent: str, width: int) -> None:
    """Line by line as well, also where another thread's lines come between."""
    pieces = [secret[start : start + width] for start in range(0, len(secret), width)]
    lines = ["starting", f"{indent}{pieces[0]}"]
    for piece in pieces[1:]:
        lines += [*(["GET /health 200"] if width > 20 else []), f"{indent}{piece}"]
    stream = StreamRedactor(Redactor([secret]))
    shown = [stream.next(line, 1000) for line in [*lines, "done"]]
    assert shown[0] == "starting"
    assert shown[-1] == "done"
    kept = "\n".join(shown)
    # The first five characters may be out before anybody can see what they are.
    assert not any(secret[start : start + 6] in kept for start in range(5, len(secret) - 6)), kept
    assert kept.count("GET /health 200") == lines.count("GET /health 200")


def test_a_stream_without_secrets() -> None:
    """What is no secret stays, also where lines end as a secret begins."""
    lines = ["see preflight", "secret-1234 is another", "k", "sk-canary", "nothing"]
    stream = StreamRedactor(Redactor(["preflight-secret-9999", KEY]))
    assert [stream.next(line, 100) for line in lines][1:] == ["secret-1234 is another", "k", MASK, "nothing"]


def test_pieces_that_stand_alone() -> None:
    """Twelve characters of a key or more are known wherever they stand; words of a language are not."""
    redactor = Redactor([LONG, "https://h.example.org/some-harmless-words", "preflight-secret-and-some-words-1234"])
    assert redactor.text(f"at {LONG[50:90]}, {LONG[100:112]}") == f"at {MASK}, {MASK}"
    for text in ("some-harmless-words", "preflight-secret-and", "https://h.example.org/", LONG[20:31]):
        assert redactor.text(f"at {text}, it is") == f"at {text}, it is"


HEXADECIMAL: dict[str, Callable[[bytes], str]] = {
    "small": lambda raw: raw.hex(),
    "capital": lambda raw: raw.hex().upper(),
    "colons": lambda raw: raw.hex(":"),
    "blanks": lambda raw: raw.hex(" "),
    "groups": lambda raw: raw.hex(" ", 2),
    "lines": lambda raw: "\n".join(textwrap.wrap(raw.hex(), 16)),
    "bytes": lambda raw: "".join(f"\\x{byte:02x}" for byte in raw),
    "bytes in json": lambda raw: json.dumps("".join(f"\\x{byte:02x}" for byte in raw)),
    "percent": lambda raw: "".join(f"%{byte:02X}" for byte in raw),
    "percent small": lambda raw: "".join(f"%{byte:02x}" for byte in raw),
    "a list": lambda raw: ", ".join(f"0x{byte:02x}" for byte in raw),
    "escapes": lambda raw: "".join(f"\\u00{byte:02x}" for byte in raw),
    "references": lambda raw: "".join(f"&#x{byte:02x};" for byte in raw),
}


@pytest.mark.parametrize("write", HEXADECIMAL.values(), ids=HEXADECIMAL)
@pytest.mark.parametrize("before", ["", "x", "user:"])
def test_hexadecimal(write: Callable[[bytes], str], before: str) -> None:
    """In hexadecimal digits, in either case, with whatever between them; what is left is not eight characters of it."""
    secret = KEY + "\u00e4"
    shown = Redactor([secret]).text(f"<{write((before + secret + ':z').encode())}>")
    assert MASK in shown
    for part in shown.split(MASK):
        digits = re.sub(r"0x|\\+u00|[^0-9a-fA-F]", "", part)
        assert len(digits) <= 2 * (len(before) + 8)
        for first in range(2):
            raw = bytes.fromhex(digits[first : len(digits) - (len(digits) - first) % 2])
            assert not any(secret.encode()[at : at + 8] in raw for at in range(len(secret) - 7))


def test_other_numbers_stay() -> None:
    """Digests, times, addresses and identifiers are what they were."""
    text = (
        "2026-11-28 17:42:21 0x7ffdbdca6e90 de:ad:be:ef:00:11 fe80::1 sha256:" + "0123456789abcdef" * 4
        + " 550e8400-e29b-41d4-a716-446655440000 1,234,567 10.0.0.1:8002 %20%2F"
    )  # fmt: skip
    assert Redactor([KEY, LONG]).text(text) == text


@pytest.mark.parametrize("write", [str, repr, json.dumps, quote, html.escape], ids=lambda write: write.__name__)
@pytest.mark.slow
def test_a_secret_of_very_many_signs(write: Callable[[str], str]) -> None:
    """Of one that has more than are compiled, all goes, in whatever way it is written; its beginning as well."""
    secret = "".join(random.Random(2).choices("abcXYZ012:;!$/(){}<>\xe4\u20ac", k=SIGNS + 500))
    redactor = Redactor([secret])
    quoted = write("") if write in (repr, json.dumps) else ""
    inner = write(secret)[1:-1] if quoted else write(secret)
    assert redactor.text(f"it is <{inner}> there") == f"it is <{MASK}> there"
    assert redactor.text(f"it is {inner[:SIGNS]} ...") == f"it is {MASK} ..."
