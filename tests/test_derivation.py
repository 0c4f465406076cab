"""What an application makes of a secret value is a secret: parts of lists, JSON, URLs, headers, cookies and escapes."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from preflight.redaction.derivation import LARGEST, members
from preflight.redaction.keys import MOST, common_secrets
from preflight.redaction.redactor import MASK, Redactor
from preflight.settings.loading import load
from tests.waiting import TOO_LONG

ONE, TWO = "tk_9f8e7d6c5b4a3210", "Zq7vXw2LmN8pRt4KdY6h"
WORDS = "correct horse battery staple"
SERVICE_KEY = "sk-proj-" + "Ab3dEf6hIj9l" * 3
LOGIN = base64.b64encode(f"user:{ONE}".encode()).decode()


@pytest.mark.parametrize(
    "name, value, parts",
    [
        ("API_KEYS", f"{ONE},{TWO}", [ONE, TWO]),
        ("API_KEYS", f"{ONE}; {TWO}", [ONE, TWO]),
        ("API_KEYS", f"{ONE} {TWO}", [ONE, TWO]),
        ("API_KEYS", f"{ONE}|{TWO}", [ONE, TWO]),
        ("API_KEYS", f"{ONE}\n{TWO}", [ONE, TWO]),
        ("API_KEYS", f"alice:{ONE},bob:{TWO}", [ONE, TWO]),
        ("API_KEYS", f"{WORDS}, {ONE}", [WORDS, ONE]),
        ("API_TOKEN", f"Token {ONE}", [ONE]),
        ("API_TOKEN", f"Bearer {ONE}", [ONE]),
        ("API_AUTH", f"Basic {LOGIN}", [LOGIN, f"user:{ONE}", ONE]),
        ("HTTP_AUTHORIZATION", f"Authorization: Bearer {ONE}", [ONE]),
        ("EXTRA_HEADERS", f"X-Api-Key: {ONE}", [ONE]),
        ("EXTRA_HEADERS", f"Accept: x, X-Api-Key: {ONE}", [ONE]),
        ("OTEL_EXPORTER_OTLP_HEADERS", f"api-key={ONE},other=x", [ONE]),
        ("REPOSITORY", f"https://{ONE}@host.example.org/x.git", [ONE]),
        ("REPOSITORY", f"https://{ONE}:x-oauth-basic@host.example.org/x.git", [ONE]),
        ("REPOSITORY", f"https://{ONE}:@host.example.org/x.git", [ONE]),
        ("REPOSITORIES", f"https://{ONE}@a.example.org,https://{TWO}@b.example.org", [ONE, TWO]),
        ("SENTRY_DSN", f"https://{TWO}@o1.ingest.example.org/4507", [TWO]),
        ("DATABASE_URL", f"postgres://me:p%40ss-{ONE}@db/x", [f"p%40ss-{ONE}", f"p@ss-{ONE}"]),
        ("CALLBACK_SECRET", f"https://h.example.org/?state={ONE}&page=2#access={TWO}", [ONE, TWO]),
        ("SESSION_COOKIE", f"session={ONE}; other={TWO}; Path=/", [ONE, TWO]),
        ("HEADERS_COOKIE", f"Cookie: a={ONE}; b={TWO}", [ONE, TWO]),
        ("QUOTED_KEY", f'"{ONE}"', [ONE]),
        ("QUOTED_KEYS", f"['{ONE}', \"{TWO}\"]", [ONE, TWO]),
        ("ESCAPED_KEY", f"{ONE}\\n{TWO}\\n", [ONE, TWO, f"{ONE}\n{TWO}"]),
        ("ESCAPED_KEY", 'with-\\"quotes\\"-inside', ['with-"quotes"-inside']),
        ("ENCODED_KEY", quote(f"{ONE}/+{TWO}", safe=""), [f"{ONE}/+{TWO}"]),
        ("CREDENTIALS", json.dumps({"a": [{"b": ONE}], "c": {"d": TWO}}), [ONE, TWO]),
        ("CREDENTIALS", json.dumps([ONE, 123456789012345]), [ONE, "123456789012345"]),
        ("CREDENTIALS", json.dumps({"inner": json.dumps({"deep": json.dumps([ONE])})}), [ONE]),
        ("CREDENTIALS", json.dumps(json.dumps({"token": ONE})), [ONE]),
        ("CREDENTIALS", base64.b64encode(json.dumps({"k": ONE}).encode()).decode(), [ONE]),
        ("CREDENTIALS", f"user={WORDS.split()[0]} password='{WORDS}'", [WORDS]),
        ("CREDENTIALS", json.dumps({"auth_uri": f"https://me:{ONE}@h/x"}), [ONE]),
        ("CREDENTIALS", json.dumps({ONE: "who"}), [ONE]),
        ("CREDENTIALS", f"name: x\npassword: {ONE}\n", [ONE]),
        ("CREDENTIALS", f"{ONE.encode().hex()}", [ONE]),
        ("SETTINGS", json.dumps({"db": {"host": "db", "password": "hunter2-3"}, "apiKey": ONE}), ["hunter2-3", ONE]),
        ("SETTINGS", f"host=db user=me password='{WORDS}'", [WORDS]),
        ("CONNECTION", f"Server=h;Uid=me;Pwd={ONE};A=b", [ONE]),
        ("API_KEYS", f"[{ONE}, {TWO}]", [ONE, TWO]),
        ("API_KEYS", f"({ONE},{TWO})", [ONE, TWO]),
        ("API_KEYS", f"{{{ONE}, {TWO}}}", [ONE, TWO]),
        ("API_KEY", f"({ONE})", [ONE]),
        ("DB_DSN", f"app:{ONE}@tcp(db:3306)/x", [ONE]),
        ("DB_DSN", f"scott/{ONE}@//db:1521/x", [ONE]),
        ("HTTPS_PROXY", f"me:{ONE}@proxy.example.org:3128", [ONE]),
        ("HTTPS_PROXY", "me:hunter2-b@proxy.example.org:3128", ["hunter2-b"]),
        ("REPLICAS", f"me:{ONE}@a.example.org, me:{TWO}@b.example.org", [ONE, TWO]),
        ("PGPASS", f"h:5432:db:me:{ONE}", [ONE]),
        ("PGPASS", f"h:5432:db:me:{ONE}\n*:*:*:me:{TWO}", [ONE, TWO]),
        ("ODBC", f"Driver={{ODBC Driver 18}};Server=h;Uid=me;Pwd={{{ONE};{TWO}}};A=b", [f"{ONE};{TWO}"]),
        ("ODBC", f"Pwd={{{ONE}}}}};x}}", [f"{ONE}}};x"]),
        ("KUBE_DATA", f"users:\n- name: x\n  user:\n    token: {ONE}\n", [ONE]),
        ("OPENAI", f"see {SERVICE_KEY} there", [SERVICE_KEY]),
        ("SETTINGS", json.dumps({"pwd": ONE, "PWD": f"/{TWO}"}), [ONE, f"/{TWO}"]),
        ("SETTINGS", f"db:\n  user: me\n  pw: {ONE}\n", [ONE]),
        ("DATABASE_URL", f"mssql+pyodbc:///?odbc_connect={quote(f'Uid=me;Pwd={{{ONE}}}')}", [ONE]),
        ("MANIFEST", f"- name: DB_PASSWORD\n  value: {ONE}\n- {{key: API_TOKEN, value: {TWO}}}\n", [ONE, TWO]),
        ("MANIFEST", f"name = 'DB_PASSWORD'\nvalue = '{WORDS}'\n", [WORDS]),
        ("SETTINGS_XML", f'<add key="DbPassword" value="{WORDS}" />', [WORDS]),
        ("STACK", f"ParameterKey=DbPassword,ParameterValue={ONE} ParameterKey=Pwd,ParameterValue={TWO}", [ONE, TWO]),
        ("SETTINGS", f'password = """\nit\'s "{WORDS}"\n"""\n', [f"it's \"{WORDS}\""]),
        ("SETTINGS", f"password = '''\n{ONE}\n{TWO}'''\n", [ONE, TWO]),
    ],
)  # fmt: skip
def test_parts(name: str, value: str, parts: list[str]) -> None:
    """Each part goes, in each form in which it travels, whatever stands around it."""
    redactor = Redactor.of_variables({name: value})
    for part in parts:
        assert redactor.text(f"it is <{part}>.") == f"it is <{MASK}>."
        hidden = [
            base64.b64encode(part.encode()).decode().rstrip("="),
            base64.urlsafe_b64encode(f"x{part}".encode()).decode(),
            part.encode().hex(),
            part.encode().hex().upper(),
            quote(part, safe=""),
            quote_plus(part),
            json.dumps(part),
            repr(part),
        ]
        for form in hidden:
            shown = redactor.text(f"it is <{form}>.")
            assert form not in shown
            assert MASK in shown


@pytest.mark.parametrize(
    "name, value, harmless",
    [
        ("CREDENTIALS", json.dumps({"type": "service_account", "auth_uri": "https://accounts.example.org/o/oauth2/auth"}),
         "service_account https://accounts.example.org/o/oauth2/auth"),
        ("SETTINGS", json.dumps({"model": "gpt-4o-mini-2024-07-18", "note": "something that is long enough"}),
         "gpt-4o-mini-2024-07-18 something that is long enough"),
        ("DB_PASSWORD", "host=database.example.org dbname=application", "database.example.org application"),
        ("DATABASE_URL", "postgres://application_user:hunter2hunter2@database.example.org/application",
         "application_user database.example.org application"),
        ("KEYS", "primary,localhost,db-1.example.org:5432,/etc/ssl/private/server.pem",
         "primary localhost db-1.example.org:5432 /etc/ssl/private/server.pem"),
        ("SESSION_COOKIE", "session=x; Path=/; Domain=www.example.org", "session Path Domain www.example.org"),
        ("PATH", "/usr/local/bin:/home/dev/token-tools/bin", "/usr/local/bin /home/dev/token-tools/bin"),
        ("CREDENTIALS", json.dumps({"private_key_path": "/etc/keys/one.pem", "project_name": "preflight-project"}),
         "private_key_path /etc/keys/one.pem preflight-project"),
        ("ENVIRONMENT_NAME", "sk-learn-of-somebody-else", "sk-learn-of-somebody-else"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/home/dev/account.json", "read /home/dev/account.json"),
        ("SSH_KEY", "~/.ssh/id_rsa", "~/.ssh/id_rsa"),
        ("MAKEFLAGS", " -- M=/srv/module-1.2 PWD=/srv/module-1.2", "PWD=/srv/module-1.2 M=/srv/module-1.2"),
        ("VARIABLES", json.dumps({"PWD": "/builds/group7/shop-2.1"}), "/builds/group7/shop-2.1"),
        ("MANIFEST", "- name: LANGUAGE\n  value: something-that-is-long-enough-1\n", "something-that-is-long-enough-1"),
        ("MAIL_TO", "team:somebody@example.org", "somebody example.org"),
    ],
)  # fmt: skip
def test_harmless_parts_stay(name: str, value: str, harmless: str) -> None:
    """Names, places, paths and words in such a value stand in harmless texts, too."""
    assert Redactor.of_variables({name: value}).text(harmless) == harmless


@pytest.mark.parametrize("value", ["/Ab3dEf6hIj9lAb3d/x", "/9f8e7d6c5b4a/3210", "sid=tk-9f8e; Path=/", "x=a1b2c3d4e5"])
def test_what_is_no_place(value: str) -> None:
    """What a machine has made stays a secret, with a slash or a name before it as well."""
    assert Redactor.of_variables({"SESSION_SECRET": value}).text(f"it is {value}") == f"it is {MASK}"


def test_short_parts_stay() -> None:
    """A part of fewer than twelve characters stays; a value as a whole goes from eight on."""
    redactor = Redactor.of_variables({"API_KEYS": "k1-abcdefgh,k2-abcdefgh", "A_KEY": "k3-abcdefgh"})
    assert redactor.text("k1-abcdefgh k3-abcdefgh k1-abcdefgh,k2-abcdefgh") == f"k1-abcdefgh {MASK} {MASK}"


def test_named_fields_of_json_are_secrets_like_others() -> None:
    """A short one must never be put into a text, as one in a connection string."""
    chosen = load(
        Path(__file__).parents[1], {"SETTINGS": '{"db": {"password": "hunter2", "host": "x"}}'}, {"demo": True}
    )
    assert common_secrets(chosen) == {"hunter2"}


@pytest.mark.parametrize(
    "value",
    [
        json.dumps([f"key-{number:06}-{number * 7919:012}" for number in range(50_000)]),
        ",".join(f"key-{number:06}-{number * 7919:012}" for number in range(50_000)),
        "\n".join(f"key-{number:06}-{number * 7919:012}" for number in range(50_000)),
    ],
    ids=["json", "list", "lines"],
)
@pytest.mark.slow
def test_no_more_than_can_be_looked_for(value: str) -> None:
    """Of very many parts the first are known, and a text takes no longer for the others."""
    begun = time.process_time()
    redactor = Redactor.of_variables({"API_KEYS": value})
    assert len(list(members(value))) == MOST
    text = "the lazy dog\n" * 1000
    assert redactor.text(text + "key-000010-000000079190") == text + MASK
    assert time.process_time() - begun < TOO_LONG


@pytest.mark.parametrize(
    "piece",
    [
        '{"a":', "a=", "://:a@", "\\", "%41", "a:", "x ", "a,", '"', "[", "a;b,c|d&e f", "key: 'a' ", "Token ", "'=\"",
        "?&#", "{}",
    ],
)  # fmt: skip
@pytest.mark.slow
def test_hostile_values(piece: str) -> None:
    """A value of a MiB that was made to take long does not."""
    value = piece * (1024 * 1024 // len(piece))
    begun = time.process_time()
    assert sum(map(len, members(value))) <= LARGEST
    Redactor.of_variables({"CONFIG": value + "token"})
    assert time.process_time() - begun < TOO_LONG


def test_halves_of_characters() -> None:
    """A part that cannot be written is none."""
    redactor = Redactor.of_variables({"A_KEY": '["\\ud83d-half-of-a-pair-1", "\\ud83d\\ude00-a-whole-pair-22"]'})
    assert redactor.text("\U0001f600-a-whole-pair-22") == MASK
