"""Secrets in files that a variable holds, pieces of them in errors about addresses, and keys in groups."""

from __future__ import annotations

import base64
import json
import time

import pytest

from preflight.redaction import arguments
from preflight.redaction.redactor import MASK, Redactor
from tests.e2e.place import Place
from tests.waiting import TOO_LONG

ONE, TWO, THREE = "tk_9f8e7d6c5b4a3210", "Zq7vXw2LmN8pRt4KdY6h", "q8R2mX5vT1nB7kL4wZ9y"
PEM = "-----BEGIN PRIVATE KEY-----\n{}\n{}\n-----END PRIVATE KEY-----\n".format("ab12CD34" * 8, "Ef56gH78" * 8)
GROUPED = "abcd efgh ijkl mnop"


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


PARTS: dict[str, tuple[str, str, str]] = {  # a variable, its value, and a part of it
    "a table of TOML": ("APP_TOML", f'[server]\nport = 1\n\n[api_keys] # all\nprod = "{TWO}"\ntest = "{ONE}"\n', ONE),
    "a table within a table": ("APP_TOML", f"[auth.tokens]\nprod = '{TWO}'  # the new one\n", TWO),
    "tables of TOML": ("APP_TOML", f'[[passwords]]\nof = "{TWO}"\n[[passwords]]\nof = "{THREE}"\n', THREE),
    "a section": ("APP_INI", f"[server]\nport: 1\n[passwords]\nalice: {TWO}\nbob = {THREE}\n", THREE),
    "a private key in base64": ("GITHUB_APP_PEM", _base64(PEM), "ab12CD34" * 8),
    "a file of YAML in base64": ("KUBE_B64", _base64(f"users:\n- name: a\n  user:\n    token: {TWO}\n"), TWO),
    "an env file in base64": ("DOTENV", _base64(f"A=1\nDB_PASSWORD={TWO}\n"), TWO),
    "the same in lines": ("DOTENV", "\n".join((_base64(f"A=1\nDB_PASSWORD={TWO}\n"), "")), TWO),
    "an address in base64": ("DB_B64", _base64(f"postgres://me:{TWO}@h/x"), TWO),
    "JSON in hexadecimal digits": ("APP_HEX", json.dumps({"password": TWO}).encode().hex(), TWO),
}  # fmt: skip


@pytest.mark.parametrize("what", PARTS)
def test_files_in_variables(what: str) -> None:
    """What an application reads out of a file that a variable holds is known, plain or encoded."""
    variable, value, part = PARTS[what]
    redactor = Redactor.of_variables({variable: value})
    for form in (part, _base64(part).rstrip("="), part.encode().hex()):
        assert form not in redactor.text(f"connecting with {form} now")


@pytest.mark.parametrize(
    "value, text",
    [
        ('[server]\nname = "shop-frontend-2024"\n[api_keys]\na = "Hs5gTj9BnV1c"\n[log]\nformat = "structured-2-lines"',
         "shop-frontend-2024 structured-2-lines"),
        (_base64("server:\n  name: shop-frontend-2024\n  mode: structured-2-lines\n"), "shop-frontend-2024"),
        ("registry.example.org/team/app:1.2.3-rc1", "registry.example.org/team/app:1.2.3-rc1 team app"),
        ("http://localhost:8080/static-v2/package-3@1.0.0/x", "static-v2 package-3 1.0.0"),
    ],
    ids=["sections", "base64", "an image", "a path"],
)  # fmt: skip
def test_what_stands_beside_them_stays(value: str, text: str) -> None:
    """Names, versions and paths stay readable."""
    assert Redactor.of_variables({"APP_CONFIG": value}).text(text) == text


SAYS = {  # what libraries say of an address whose password has signs in it that nobody has encoded
    "/": ('invalid integer value "{0}" for connection option "port"', 'database "{1}@db/x" does not exist'),
    "?": ("Port could not be cast to integer value as '{0}'\n\nDuring handling of the above, another occurred",),
    "#": ('could not translate host name "{1}@db" to address: Name not known', "nonnumeric port: '{0}' in the URL"),
    "@": ('could not translate host name "{1}@db" to address: Name not known',),
}


@pytest.mark.parametrize("sign", SAYS)
@pytest.mark.parametrize("variable", ["DATABASE_URL", "DB_PASSWORD"])
def test_errors_about_an_address(variable: str, sign: str) -> None:
    """They show the pieces that a parser took for a port, a host or a name."""
    first, second = TWO[:9], THREE[:9]
    password = f"{first}{sign}{second}"
    redactor = Redactor.of_variables({variable: f"postgres://me:{password}@db/x" if "URL" in variable else password})
    for template in SAYS[sign]:
        said = redactor.text(template.format(first, second))
        assert MASK in said
        assert first not in said
        assert second not in said


NO_PASSWORDS = {  # a variable with a slash, a colon or an "@" in its value, and what is said of it
    "GOOGLE_APPLICATION_CREDENTIALS": ("/srv/web-app-2024/gcp.json", 'File "/srv/web-app-2024/main.py"'),
    "SSL_KEY": ("/home/dev12345/certs/privkey1.pem", "user dev12345 has no such folder"),
    "KMS_KEY_ARN": ("arn:aws:kms:eu-west-1:123456789012:key/8f3b", "region eu-west-1 has no such key"),
    "DB_PASSWORD": ("/run/secrets/db-password-1", "db-password-1 does not exist"),
    "SITE_URL": ("https://me:Hs5gTj9B@host/path2024/@scope/x", "path2024 is missing"),
}


@pytest.mark.parametrize("variable", NO_PASSWORDS)
def test_pieces_that_are_no_part_of_a_password(variable: str) -> None:
    """Folders, regions and paths stay readable."""
    value, text = NO_PASSWORDS[variable]
    assert Redactor.of_variables({variable: value}).text(text) == text


@pytest.mark.parametrize(
    "value, shown",
    [
        (GROUPED, GROUPED.replace(" ", "")),
        ("jbsw y3dp ehpk 3pxp", "JBSWY3DPEHPK3PXP"),
        ("AB12-CD34-EF56-GH78", "AB12CD34EF56GH78"),
        (TWO, f"{TWO[:3]}********{TWO[-9:]}"),
        (TWO, f"{TWO[:8]}****{TWO[-8:]}"),
    ],
    ids=["an account's", "a seed", "a licence", "stars", "fewer stars"],
)
def test_groups_and_stars(value: str, shown: str) -> None:
    """Groups are for people, and a program takes a key without them; stars leave as much as dots do."""
    said = Redactor.of_variables({"MAIL_PASSWORD": value}).text(f"login with {shown} refused")
    assert MASK in said
    assert shown[-8:] not in said


@pytest.mark.parametrize(
    "value",
    [
        "correct horse battery staple",
        "legal winner thank year wave sausage worth useful",
        "2024-12-01",
        "this-that-when-then",
        "2024-2025-2026",
    ],
)
def test_words_are_no_groups(value: str) -> None:
    """Neither the words of a phrase nor a date in digits are a key."""
    text = "correcthorse legal winner thank 20241201 thisthatwhenthen 202420252026 *** bold *** text"
    assert Redactor.of_variables({"A_PASSWORD": value}).text(text) == text


@pytest.mark.parametrize("pump", ["[a]\n", "[key]\na=", "[key] #", "[", "a/", "/1a?", "abcd ", "#1aaaaaaa"])
def test_in_proportion(pump: str) -> None:
    """Values that consist of nothing but such signs take no long time."""
    begun = time.process_time()
    value = pump * (100_000 // len(pump))
    redactor = Redactor.of_variables({"A_CONFIG": f"{value}token", "A_KEY": value, "B_URL": f"a://b:{value}@h"})
    redactor.text("the lazy dog jumps over 12 sheep")
    assert time.process_time() - begun < TOO_LONG


COMMANDS = {
    "Perl": ["perl", "-e", 'serve(password => "hunter2pw9Zx")'],
    "Ruby": ["ruby", "-e", "Server.new(:password => 'hunter2pw9Zx')"],
    "a pair": ["python", "-c", "connect('h', auth=('me', 'hunter2pw9Zx'))"],
    "a header in two words": ["mcp-proxy", "--headers", "X-Api-Key", "hunter2pw9Zx", "http://h/sse"],
    "a command of its own": ["ngrok", "authtoken", "hunter2pw9Zx"],
    "a setting": ["aws", "configure", "set", "aws_secret_access_key", "hunter2pw9Zx"],
}


@pytest.mark.parametrize("what", COMMANDS)
def test_command_lines(what: str) -> None:
    """Fields of Perl and Ruby, tuples, and names in words of their own."""
    assert "hunter2pw" not in arguments.shown(COMMANDS[what])


def test_names_of_programs_stay() -> None:
    """A word behind the name of a secret is one only if a machine has made it; a file's name is none."""
    for command in ("python auth.py worker1234", "kubectl get secret shop-frontend", "server key http://h/x"):
        assert arguments.shown(command.split()) == command


RAISES = """
import base64, os, tomllib
from urllib.parse import urlsplit

found = [tomllib.loads(os.environ["APP_TOML"]), base64.b64decode(os.environ["DOTENV"]).decode()]
found.append(os.environ["MAIL_PASSWORD"].replace(" ", ""))
try:
    urlsplit(os.environ["SHOP_DATABASE_URL"]).port
except ValueError as error:
    raise RuntimeError(f"no database: {error} (see the handbook): {found}") from error
"""


def test_an_application_that_says_what_it_reads(place: Place) -> None:
    """Output, report and log have no part of it."""
    place.write_module("reads", RAISES)
    place.environ |= {
        "APP_TOML": PARTS["a table of TOML"][1], "DOTENV": PARTS["an env file in base64"][1],
        "MAIL_PASSWORD": GROUPED, "SHOP_DATABASE_URL": f"postgres://me:{THREE[:9]}/{THREE[9:]}@db/x",
    }  # fmt: skip
    log = place.folder / "a.log"
    refused = place.refused("--demo", "--app", "reads:app", "--log-file", str(log))
    assert "no database: Port could not be cast to integer value as '[redacted]'" in refused.output
    kept = [log, *(file for file in place.state.rglob("*") if file.is_file())]
    said = [refused.output, *(file.read_text(errors="replace") for file in kept)]
    pieces = (ONE[:8], TWO[:8], THREE[:8], THREE[-8:], GROUPED.replace(" ", "")[:8])
    assert [piece for text in said for piece in pieces if piece in text] == []
