"""What an application makes of a secret stays inside; what is harmless stays readable."""

from __future__ import annotations

import base64
import json
import os
import random
import secrets
import string
import time
import uuid
from collections.abc import Callable
from urllib.parse import quote, urlencode

import pytest

from preflight.redaction import arguments
from preflight.redaction.keys import key_like
from preflight.redaction.redactor import MASK, Redactor
from preflight.redaction.stream import StreamRedactor
from preflight.requirements.test_exposure import is_redacted
from preflight.text import coloured
from tests.waiting import TOO_LONG

ONE, TWO = "tk_9f8e7d6c5b4a3210", "Zq7vXw2LmN8pRt4KdY6h"
PEM = "-----BEGIN RSA PRIVATE KEY-----\n{}\n{}\n-----END RSA PRIVATE KEY-----".format("ab12CD34" * 8, "Ef56gH78" * 8)
SERVICE_KEY = "sk-proj-" + "Ab3dEf6hIj9l" * 3


@pytest.mark.parametrize("secret", [SERVICE_KEY, "ghp_" + "a1B2" * 9, "AKIA" + "ABCD" * 4, PEM], ids=lambda s: s[:8])
@pytest.mark.parametrize("name", ["ADMIN", "OPENAI", "TLS"])
def test_a_key_of_a_known_service_under_any_name(name: str, secret: str) -> None:
    """What looks like a key of a well-known service is known, whatever the variable is called."""
    redactor = Redactor.of_variables({name: f"see {secret} there"})
    for line in secret.splitlines():
        assert line not in redactor.text(f"using {line} now")


@pytest.mark.parametrize("name", ["APIKEYS", "AUTHTOKENS", "CLIENTSECRETS", "DBPASSWORDS", "DSNS", "JWTS", "PINS"])
def test_several_of_a_kind_in_one_word(name: str) -> None:
    """The plural of a word that holds a secret holds several."""
    assert key_like(name)
    assert not any(map(key_like, ["MONKEYS", "HOTKEYS", "COMPASS", "BYPASS", "TURKEYS", "OLDPWD"]))


@pytest.mark.parametrize("colour", ["1;38;2;255;100;200", "38;2;255;255;255;48;2;10;20;30", "38:2::255:100:200", "1"])
def test_colours_in_the_middle(colour: str) -> None:
    """A key that is shown in two colours is one that anybody can read: every colour that is shown is looked through."""
    line = f"key {TWO[:9]}\x1b[{colour}m{TWO[9:]}\x1b[0m!"
    for shown in (coloured(StreamRedactor(Redactor([TWO])).next(line, 1000)), Redactor([TWO]).text(line)):
        assert not any(TWO[start : start + 6] in shown for start in range(len(TWO) - 5)), shown


@pytest.mark.parametrize(
    "secret", ['with "quotes" inside-1', "back\\slash\\and-more-2", "p\u00e4ssw\u00f6rt-\u00fcber-3", "a/b'c d-4444"]
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_in_an_address(secret: str, ascii_only: bool) -> None:
    """A document in a query: JSON's escapes, percent-encoded."""
    document = json.dumps({"password": secret}, ensure_ascii=ascii_only)
    for written in (urlencode({"filter": document}), quote(document, safe=""), quote(quote(document))):
        shown = Redactor([secret]).text(f"GET /?{written} HTTP/1.1")
        assert MASK in shown
        inner = quote(json.dumps(secret, ensure_ascii=ascii_only)[1:-1], safe="")
        assert inner[:9] not in shown
        assert inner[-9:] not in shown


@pytest.mark.parametrize(
    "text",
    [
        "Basic authentication is off", "Bearer authentication required", "basic information: none",
        "Basic configuration.",
        "the bearer credentials", "basic functionality, done",
    ],
)  # fmt: skip
def test_prose_about_schemes(text: str) -> None:
    """A word behind the name of a scheme is no login."""
    assert Redactor().text(text) == text


@pytest.mark.parametrize(
    "login",
    ["Basic dXNlcjpwYXNz", "Bearer abcdefghijklmnopqrstuvwx", "bearer abcdefgh.ijk",
        "Bearer xkcdqwrtplm", "Basic YWJjZGVmZ2g="]
)  # fmt: skip
def test_logins_behind_schemes(login: str) -> None:
    """And what a machine has made is one, although nobody knows it."""
    assert login.partition(" ")[2] not in Redactor().text(f"sent {login}")


def test_attributes_stay_readable() -> None:
    """Attributes of a cookie, options of a connection, names of a project: no secrets, and no use without them."""
    redactor = Redactor.of_variables(
        {
            "SESSION_COOKIE": f"sid={ONE}; Path=/; HttpOnly; SameSite=Strict; Secure; Max-Age=2592000",
            "DB_DSN": f"host=db-1.example.org sslmode=verify-full connect_timeout=10 password={TWO}",
            "GOOGLE_CREDENTIALS": json.dumps({"project_id": "my-project-123456", "client_id": "123456789012"}),
        }
    )
    text = "Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000 sslmode=verify-full connect_timeout=10 my-project-123456"
    assert redactor.text(text) == text
    assert redactor.text(f"{ONE} {TWO} sid={ONE}") == f"{MASK} {MASK} {MASK}"


def test_output_of_ours_stays_readable() -> None:
    """With many secrets around, what the preflight itself says is what it was."""
    text = (
        "Preflight 0.1.0 · Python 3.13.0 · 2026-11-24 05:15:04 · start\n127.0.0.1:8002 is available. mode 0600\n"
        "server.app:create_app /home/dev/preflight/.preflight gpt-4o-mini-2024-07-18 sha256:" + "0f1e2d3c" * 8 + "\n"
        f"ed22c38f0c9a1b2d3e4f5a6b7c8d9e0f11223344 {uuid.UUID(int=7)} v1.2.3-rc1 us-east-1 db-1.example.org:5432\n"
    )
    chosen = random.Random(4)
    known = {f"V{number}_KEY": "".join(chosen.choices(string.ascii_letters, k=40)) for number in range(1000)}
    known |= {"API_KEYS": f"production:{ONE},staging:{TWO}", "DATABASE_URL": "postgres://postgres:postgres@db/x"}
    begun = time.process_time()
    assert Redactor.of_variables(known).text(text) == text
    assert time.process_time() - begun < TOO_LONG


@pytest.mark.parametrize(
    "make",
    [
        lambda: os.urandom(32).hex(),
        lambda: str(uuid.uuid4()),
        lambda: secrets.token_urlsafe(32),
        lambda: base64.b64encode(os.urandom(32)).decode(),
        lambda: "".join(secrets.choice(string.ascii_lowercase) for _ in range(20)),
        lambda: "".join(secrets.choice(string.digits) for _ in range(16)),
        lambda: "correct horse battery staple table",
        lambda: "correct-horse-battery-staple-table",
    ],
    ids=["openssl", "uuid", "urlsafe", "base64", "letters", "digits", "blanks", "hyphens"],
)
def test_good_tokens_are_accepted(make: Callable[[], str]) -> None:
    """Whatever people make tokens with makes one that is redacted, wherever it stands."""
    for _ in range(50):
        token = make()
        assert is_redacted(token)
        redactor = Redactor.of_variables({"PREFLIGHT_TOKEN": token})
        for around in ("{}", "x{}y", "token={}&a=b", "Bearer {}", '{{"a": "{}"}}', "/{}/", "{}\n"):
            assert token not in redactor.text(around.format(token))


@pytest.mark.parametrize(
    "token", ["[redacted]", "[redacte", "redacted", "preflight", "localhost:8002/", "db-1.example.org"]
)
def test_tokens_that_would_show(token: str) -> None:
    """A token that is still to be seen behind its mask is refused, like one that is a word."""
    assert not is_redacted(token)


@pytest.mark.parametrize(
    "make",
    [
        lambda chosen: "".join(chosen.choices([chr(code) for code in range(1, 256)], k=128 * 1024)),
        lambda chosen: os.fsdecode(bytes(chosen.randrange(1, 256) for _ in range(128 * 1024))),
        lambda chosen: "\udc80\udcff" * 64 * 1024,
        lambda chosen: "'\"" * 64 * 1024,
        lambda chosen: "".join(chosen.choices(string.punctuation + " ", k=128 * 1024)),
    ],
    ids=["latin-1", "bytes", "surrogates", "quotes", "signs"],
)
@pytest.mark.parametrize("name", ["A_KEY", "A_CONFIG"])
def test_values_that_are_no_text(name: str, make: Callable[[random.Random], str]) -> None:
    """The largest variable there can be, of bytes that mean nothing: a line takes no longer for it."""
    begun = time.process_time()
    redactor = Redactor.of_variables({name: make(random.Random(3))})
    for _ in range(20):
        redactor.text("the lazy dog jumps over 12 sheep: http://127.0.0.1:8002/ (PID 123)")
    assert time.process_time() - begun < TOO_LONG


def test_bytes_that_are_logged() -> None:
    """A key of 4,000 bytes that are no text, logged in pieces, does not hold up what is said."""
    value = "".join(random.Random(1).choices([chr(code) for code in range(1, 256)], k=4000))
    begun = time.process_time()
    Redactor.of_variables({"A_KEY": value}).text(value[:1000])
    assert time.process_time() - begun < TOO_LONG


def test_one_odd_byte_is_no_binary() -> None:
    """A list with a byte that is no UTF-8 is taken apart like another."""
    redactor = Redactor.of_variables({"API_KEYS": f"caf\udce9-{ONE},{TWO}"})
    assert redactor.text(f"{TWO} caf\udce9-{ONE}") == f"{MASK} {MASK}"


@pytest.mark.parametrize(
    "pump",
    [
        "\x1b[1;",
        "Basic a",
        "basic authentication ",
        "%5C",
        "\\%5C",
        "%255c\\",
        "[(",
        "a:b@",
        ":a",
        "sk-",
        "{}",
        "\x1b[38:2::1m",
    ],
)
def test_texts_in_proportion(pump: str) -> None:
    """Four times the text takes about four times as long, in all that was made to be slow."""
    redactor = Redactor.of_variables({"A_KEY": '\\"%5c\\x-{[(Basic]):@', "B_KEY": ONE, "C_CONFIG": f"u:{TWO}@h"})

    def spent(length: int) -> float:
        best = 9e9
        for number in range(2):
            text = f"{number} " + pump * (length // len(pump))  # a text that was redacted before is known
            begun = time.process_time()
            redactor.text(text)
            best = min(best, time.process_time() - begun)
        return best

    redactor.text(pump * 100)  # what is compiled once
    assert spent(100_000) < 9 * max(spent(25_000), 0.01)


@pytest.mark.parametrize(
    "pump", ["u:a@", ":a", "/@", "[", "({<", "a\n", "sk-", "eyJ-", "-----BEGIN PRIVATE KEY-----", "{;Pwd={"]
)
def test_variables_in_proportion(pump: str) -> None:
    """And so does a variable."""

    def spent(length: int) -> float:
        begun = time.process_time()
        Redactor.of_variables({"A_CONFIG": pump * (length // len(pump)) + "token"})
        return time.process_time() - begun

    assert spent(400_000) < 9 * max(spent(100_000), spent(100_000), 0.05)


@pytest.mark.parametrize(
    "command, hidden",
    [
        (["x", f"--dsn=app:{ONE}@tcp(h:3306)/x"], ONE),
        (["x", f"Pwd={{{ONE}}};Server=h"], ONE),
        (["x", "--from-file", f"token: {ONE}"], ONE),
        (["sh", "-c", f"export API_KEY='{ONE}' && run"], ONE),
        (["x", SERVICE_KEY], SERVICE_KEY),
    ],
)
def test_command_lines_of_others(command: list[str], hidden: str) -> None:
    """Further shapes of secrets in what another program was given."""
    assert hidden not in arguments.shown(command)
