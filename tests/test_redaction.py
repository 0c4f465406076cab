"""Redaction: a secret leaves in no form in which it travels, and harmless texts stay as they are."""

from __future__ import annotations

import base64
import json
import shlex
from urllib.parse import quote, quote_plus

import pytest

from preflight.redaction import MASK, Redactor, key_like, secrets

KEY = "sk-canary-3f9a1c77e2Zq"
AWKWARD = "p\u00e4ss/w+rd \"quoted\" \\ 'single'&=%"


@pytest.mark.parametrize(
    "name",
    [
        "OPENAI_API_KEY", "OPENAI_APIKEY", "key", "AWS_ACCESS_KEY_ID", "GITHUB_TOKEN", "NPM_TOKENS", "MYTOKEN",
        "DB_PASSWORD", "PGPASSWORD", "DB_PASS", "SSH_PASSPHRASE", "CLIENT_SECRET", "SENTRY_DSN", "SESSION_COOKIE",
        "SLACK_WEBHOOK_URL", "GITLAB_PAT", "HTTP_AUTHORIZATION",
    ],
)  # fmt: skip
def test_key_like(name: str) -> None:
    """Names that hold secrets are known by a word in them."""
    assert key_like(name)


@pytest.mark.parametrize("name", ["PATH", "HOME", "MONKEY", "KEYBOARD", "COMPASS", "TOKENIZERS_PARALLELISM", "SPAT"])
def test_not_key_like(name: str) -> None:
    """A part of a word is no word."""
    assert not key_like(name)


def test_secrets_of_variables() -> None:
    """Values of key-like names, and passwords in any URL, as written and as meant."""
    found = list(
        secrets(
            {"A_KEY": "one", "URL": "postgres://me:pass%40word@db/x", "PLAIN": "two", "BAD": "http://[", "N": "x://y"}
        )
    )
    assert found == ["one", "pass%40word", "pass@word"]


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


def test_of_environments() -> None:
    """The env file's value and the process's are both secrets, whichever wins."""
    redactor = Redactor.of({"A_KEY": "environment-value"}, {"A_KEY": "envfile-value"})
    assert redactor.text("environment-value envfile-value A_KEY") == f"{MASK} {MASK} A_KEY"


def test_undecodable_value() -> None:
    """A variable that is no UTF-8 is a secret like another."""
    secret = "caf\udce9-secret-value"
    assert Redactor([secret]).text(f"<{secret}> {shlex.quote(secret)}") == f"<{MASK}> '{MASK}'"


@pytest.mark.parametrize("secret", [KEY, "correct horse battery staple", "k" * 70_000], ids=["key", "words", "long"])
@pytest.mark.parametrize("around", ["{}", "A=Bearer {}", "x://me:{}@host"], ids=["bare", "bearer", "url"])
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
