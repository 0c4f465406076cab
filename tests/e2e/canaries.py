"""Kinds of secret, every form in which one could come out, and 25 ways for a requirement to let it."""

from __future__ import annotations

import base64
import html
import json
import random
import string
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

from tests.e2e.place import KEYS

_random = random.Random(2026)


def _letters(count: int) -> str:
    return "".join(_random.choices(string.ascii_letters + string.digits, k=count))


_PEM = "\n".join(_letters(64) for _ in range(24))
CANARIES = {
    "QUOTES_KEY": f"it's-{_letters(6)}-\"Qu0ted\"-'x'-{_letters(8)}",
    "LINES_SECRET": f"first-{_letters(8)}\nsecond-{_letters(8)}\nthird-{_letters(8)}",
    "UNICODE_PASSWORD": f"p\u00e4ss\u03a9-{_letters(6)}\u2192q\U0001f511-{_letters(6)}\u00fc\u00df",
    "URL_SPECIAL_TOKEN": f"a/b?c=d&e#f+g%20h@i:j-{_letters(8)}",
    "TLS_PRIVATE_KEY": f"-----BEGIN PRIVATE KEY-----\n{_PEM}\n-----END PRIVATE KEY-----",
    "ENCODED_SECRET": base64.b64encode(f"inner-{_letters(20)}".encode()).decode(),
    "TRAILING_TOKEN": f"trailing-{_letters(10)}   ",
    "DATABASE_URL": f"postgres://app:p%40ss%2Fw0rd-{_letters(8)}@db.invalid:5432/x",
    "LONG_KEY": _letters(3000),
    "OUTER_TOKEN": f"{_letters(6)}-{KEYS['OPENAI_API_KEY']}-{_letters(6)}",
    "JSON_SECRET": f'{{"k": "v-{_letters(8)}", "n": [1, 2]}}\\x\t{_letters(4)}',
    "SHELL_PASS": f"$(touch pwned) `id` ${{HOME}} ; rm -rf {_letters(8)} !",
}
# What an application takes out of a value and prints by itself.
DERIVED = [f"tk_{_letters(5)}7{_letters(18)}" for _ in range(9)]
CANARIES |= {
    "LIST_KEYS": f"{DERIVED[0]},{DERIVED[1]}",
    "SCHEME_TOKEN": f"Token {DERIVED[2]}",
    "REPOSITORY": f"https://{DERIVED[3]}@git.invalid/x.git",
    "NESTED_CREDENTIALS": json.dumps({f"{_letters(9)}": [{"n": 1, "deep": json.dumps({"token": DERIVED[4]})}]}),
    "SESSION_COOKIE": f"{_letters(9)}={DERIVED[5]}; {_letters(9)}={DERIVED[6]}",
    "BASIC_AUTH": f"Basic {base64.b64encode(f'someone:{DERIVED[7]}'.encode()).decode()}",
    "ESCAPED_KEY": f"'{_letters(9)}-\\n{DERIVED[8]}\\n'",
}
_PASSWORD = CANARIES["DATABASE_URL"].split(":")[2].split("@")[0]
SECRETS = [
    *(value for name, value in {**KEYS, **CANARIES}.items() if name not in ("DATABASE_URL", "REPOSITORY")),
    *DERIVED,
    _PASSWORD,
    _PASSWORD.replace("%40", "@").replace("%2F", "/"),
]


def env_file() -> str:
    """All of them as an env file; single quotes take everything as it is."""
    quoted = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in {**KEYS, **CANARIES}.items()}
    return "".join(f"{name}='{value}'\n" for name, value in quoted.items())


def forms(secret: str) -> Iterator[str]:
    """Every form in which a secret must not come out, and its first and last eight characters."""
    secret = secret.strip()
    yield secret
    yield secret[:8]
    yield secret[-8:]
    yield quote(secret, safe="")
    yield quote(secret)
    yield quote_plus(secret)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield html.escape(secret)
    yield repr(secret)[1:-1]
    raw = secret.encode()
    for part in (raw, raw[:12], raw[-12:]):
        yield part.hex()
        for offset in range(3):
            encoded = base64.b64encode(b"\0" * offset + part).decode().rstrip("=")
            # Without the edges, which mix with what stands beside it.
            inner = encoded[(offset * 8 + 5) // 6 : (offset + len(part)) * 8 // 6]
            yield inner
            yield inner.replace("+", "-").replace("/", "_")


FORMS = {form: secret[:4] for secret in SECRETS for form in forms(secret)}


def found(text: str) -> list[str]:
    """The forms of secrets that are in a text."""
    return [form for form in FORMS if form in text]


SUITE = """
import base64, html, json, logging, os, subprocess, sys, textwrap, warnings
from urllib.parse import quote, quote_plus
import pytest
from preflight.contract import unknown

NAMES = [name for name in os.environ["CANARIES"].split(",")]

class Held(dict):
    def __repr__(self):
        return f"Held({super().__repr__()})"

@pytest.fixture
def secrets(environment):
    return [environment[name] for name in NAMES] + json.loads(os.environ["CANARY_PARTS"])

# To look through a text for secrets takes a time that grows with its length; those of a thousand signs and more would
# be most of it, so one requirement alone writes them in every form.
FORMS = (str, repr, json.dumps, html.escape, quote, quote_plus, lambda s: quote(s, safe=""),
         lambda s: base64.b64encode(s.encode()).decode(), lambda s: base64.b64encode(b"a" + s.encode()).decode(),
         lambda s: base64.urlsafe_b64encode(b"ab" + s.encode()).decode(), lambda s: json.dumps(json.dumps(s)),
         lambda s: s.encode().hex(), lambda s: s.encode().hex(":").upper())

def written(secrets, forms):
    return " | ".join(form(secret) for form in forms for secret in secrets)

def is_long(secret):
    return len(secret) >= 1000

@pytest.fixture
def everything(secrets):
    "All of them in every form, on one line, but for those that are long."
    short = [secret for secret in secrets if not is_long(secret)]
    return " | ".join([written(short, FORMS), *filter(is_long, secrets)])

@pytest.fixture
def long_ones(secrets):
    return written(list(filter(is_long, secrets)), FORMS)

@pytest.fixture
def set_up(everything):
    raise OSError(f"cannot use {everything}")

@pytest.fixture
def torn_down(everything):
    yield
    raise ValueError(everything)

def folded(secret, width):
    return "\\n".join(secret[start : start + width] for start in range(0, len(secret), width))

def env_file_as_a_whole(settings):
    return base64.encodebytes(settings.env_file.read_bytes()).decode()
"""

WAYS = {
    "compared": "assert secrets == ['x'] * 12",
    "compared one by one": "for secret in secrets:\n        assert secret == 'x'",
    "compared in a structure": "assert {'a': [everything] * 5, 'b': 'y' * 400} == {'a': [], 'b': everything}",
    "said": "assert not secrets, everything",
    "long": "print(long_ones, flush=True)\n    details['long'] = long_ones\n    pytest.fail(long_ones)",
    "said in lines": "pytest.fail(chr(10).join(secrets))",
    "folded": "print(*(folded(secret, 22) for secret in secrets), sep='\\n--\\n', flush=True)\n"
    "    details.update(folded=[folded(secret, 17) for secret in secrets])\n    assert False",
    "said in a bytes": "pytest.fail(repr([secret.encode() for secret in secrets]))",
    "file in base64": "pytest.fail(env_file_as_a_whole(settings).replace(chr(10), ''))",
    "file in base64 lines": "pytest.fail(repr(env_file_as_a_whole(settings)))",
    "printed": "print(everything)\n    print(everything, file=sys.stderr)\n    assert False, 'printed'",
    "written": "os.write(1, everything.encode())\n    os.write(2, everything.encode())\n    assert False, 'written'",
    "printed by a child": "subprocess.run([sys.executable, '-c', 'import sys; print(sys.stdin.read())'],"
    " input=everything.encode())\n    assert False, 'printed'",
    "logged": "logging.getLogger().error('said %s', everything)\n    assert False, 'logged'",
    "warned": "warnings.warn(everything)\n    assert False, 'warned'",
    "raised": "raise RuntimeError(everything) from ValueError(everything)",
    "raised by a library": "int(everything)",
    "raised by json": "json.loads(secrets[0] + everything)",
    "looked up": "Held()[everything]",
    "raised in a group": "raise ExceptionGroup(everything, [ValueError(secret) for secret in secrets])",
    "exited": "sys.exit(everything)",
    "details": "details.update(said=everything, nested=[{'deep': secrets}], held=Held(a=everything))\n    assert False",
    "keys of details": "details.update({everything: {secret: {secret: 1} for secret in secrets}})\n    assert False",
    "fix and summary": "details.fix = details.summary = everything\n    assert False, 'see the fix'",
    "recorded": "record_property(everything, everything)\n    record_property('list', secrets)\n    assert False",
    "skipped": "pytest.skip(everything)",
    "unknown": "unknown(everything)",
    "expected to fail": "pytest.xfail(everything)",
    "local variables": "local = [secrets, everything]\n    raise RecursionError(str(local))",
    "set-up": "assert set_up",
    "tear-down": "assert torn_down is None",
}


FEW = ("said in lines", "printed", "details", "fix and summary", "skipped", "unknown", "tear-down")
"""Ways that together put something into every part of a report and of the output."""


def suite(ways: Iterable[str] = tuple(WAYS)) -> str:
    """A file of requirements, one for each of these ways."""
    fixtures = "secrets, everything, settings, details, record_property"
    parts = [SUITE]
    for number, (way, body) in enumerate((way, WAYS[way]) for way in ways):
        more = {"set-up": ", set_up", "tear-down": ", torn_down", "long": ", long_ones"}.get(way, "")
        parts.append(
            f'@pytest.mark.critical("{way.title()}")\ndef test_{number}({fixtures}{more}):\n'
            f'    "It does not leak when it is {way}."\n    {body}\n'
        )
    return "\n".join(parts)
