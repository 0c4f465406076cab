"""Secrets that a program has parsed, decoded, escaped or spelled anew before it shows them; those of unused files."""

from __future__ import annotations

import base64
import json
import time
import unicodedata
import uuid
import zipfile
from http.cookies import SimpleCookie
from pathlib import Path

import pytest

from preflight.redaction.redactor import MASK, Redactor
from preflight.redaction.stream import StreamRedactor
from tests.e2e.place import KEYS, Place, Started
from tests.waiting import TOO_LONG

ONE, TWO = "Zq7vXw2LmN8pRt4KdY6h", "q8R2mX5vT1nB7kL4wZ9y"
PIN = "837492018263"
RAW = bytes(range(200, 232))
DIGITS = RAW.hex()
FERNET = [base64.urlsafe_b64encode(raw).decode() for raw in (RAW, RAW[::-1], RAW[1:] + RAW[:1])]
GERMAN = "pässwörter-über-3"
SIGNS = 'pa,ss;wo rd"12=3'
PEM = "-----BEGIN PRIVATE KEY-----\n{}\n{}\n-----END PRIVATE KEY-----\n".format("ab12CD34" * 8, "Ef56gH78" * 8)
ACCOUNT = json.dumps({"type": "service_account", "project_id": "p", "private_key": PEM})


def _cookie(value: str) -> str:
    cookie = SimpleCookie()
    cookie["x"] = value
    return cookie.output()


def _octal(text: str) -> str:
    return "".join(chr(byte) if byte < 0x80 else f"\\{byte:o}" for byte in text.encode())


FORMS: dict[str, tuple[str, str, str]] = {  # the value of a variable, what is shown of it, and what must not be
    "digits in capitals": (DIGITS, DIGITS.upper(), DIGITS[8:20].upper()),
    "capitals in small digits": (DIGITS.upper(), DIGITS, DIGITS[8:20]),
    "digits with colons": (DIGITS, RAW.hex(":"), RAW.hex(":")[9:24]),
    "digits in base64": (DIGITS, base64.b64encode(RAW).decode(), base64.b64encode(RAW).decode()[8:20]),
    "digits as a UUID": (DIGITS[:32], str(uuid.UUID(DIGITS[:32])), str(uuid.UUID(DIGITS[:32]))[:13]),
    "a UUID as digits": (str(uuid.UUID(DIGITS[:32])).upper(), DIGITS[:32], DIGITS[4:16]),
    "base64 in digits": (FERNET[0], DIGITS, DIGITS[8:20]),
    "base64 in its other alphabet": (FERNET[0], base64.b64encode(RAW).decode(), base64.b64encode(RAW).decode()[4:16]),
    "a cookie": (SIGNS, _cookie(SIGNS), "wo rd"),
    "octal": (GERMAN, f"quoted by git: {_octal(GERMAN)}", "rter"),
    "names of HTML": (GERMAN, "p&auml;ssw&ouml;rter-&uuml;ber-3", "rter"),
    "Markdown": ("ab12_cd34_ef56_gh78", r"ab12\_cd34\_ef56\_gh78", "cd34"),
    "decomposed": (GERMAN, unicodedata.normalize("NFD", GERMAN), "rter"),
    "composed": (unicodedata.normalize("NFD", GERMAN), GERMAN, "rter"),
    "UTF-8 that was read as Latin-1": (GERMAN, GERMAN.encode().decode("latin-1"), "rter"),
    "stars": (ONE, f"Incorrect API key provided: {ONE[:8]}********{ONE[-4:]}.", ONE[:6]),
    "one letter a line": (ONE, "\n".join(ONE), "\n".join(ONE[6:10])),
    "two letters a line": (ONE, "\r\n".join(ONE[at : at + 2] for at in range(0, 20, 2)), f"{ONE[6:8]}\r\n{ONE[8:10]}"),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_a_library_makes_of_a_key(form: str) -> None:
    """What a library makes of a key is redacted as well, in a text and in a stream of lines."""
    value, shown, hidden = FORMS[form]
    redactor = Redactor.of_variables({"MY_PASSWORD": value})
    stream = StreamRedactor(redactor)
    for said in (redactor.text(f"it is {shown} now"), "\n".join(stream.next(one, 1000) for one in shown.split("\n"))):
        assert MASK in said
        assert hidden not in said


PARTS: dict[str, tuple[str, str, str]] = {  # a variable, its value, and a part of it
    "the second of three padded keys": ("FERNET_KEYS", ",".join(FERNET), FERNET[1]),
    "the last of three padded keys": ("FERNET_KEYS", json.dumps(FERNET), FERNET[2]),
    "a padded key in a table": ("APP_CONFIG", f"{{'secret_keys': ['{FERNET[0]}', '{FERNET[1]}']}}", FERNET[1]),
    "a password with an at sign": ("DATABASE", f"app:pa@{ONE}@tcp(db:3306)/x", f"pa@{ONE}"),
    "a key of a service account": ("GCP_ACCOUNT", ACCOUNT, "ab12CD34" * 8),
    "the same in base64": ("GCP_CREDENTIALS_B64", base64.b64encode(ACCOUNT.encode()).decode(), "Ef56gH78" * 8),
    "the same in a text of JSON": ("GCP_ACCOUNT_JSON", json.dumps(ACCOUNT), "Ef56gH78" * 8),
    "a login of a registry": (
        "DOCKER_CONFIG_JSON",
        json.dumps({"auths": {"r.example.org": {"auth": base64.b64encode(f"bot:{ONE}".encode()).decode()}}}),
        ONE,
    ),
    "a client's key of a cluster": (
        "KUBECONFIG_DATA", f"users:\n- user:\n    client-key-data: {base64.b64encode(PEM.encode()).decode()}\n",
        "ab12CD34" * 8,
    ),
    "the second address of a list": ("BROKER_URLS", f"amqp://a:{TWO}@h1;amqp://b:{ONE}@h2", ONE),
    "a quote in a string of libpq": (
        "PREFLIGHT_DATABASE_URL", rf"host=h password='{TWO[:9]}\'{ONE[:9]}' dbname=x", f"{TWO[:9]}'{ONE[:9]}",
    ),
    "a quote in a string of Python": (
        "APP_SETTINGS", rf'{{"debug": True, "secret_key": "{TWO[:9]}\"{ONE[:9]}"}}', f'{TWO[:9]}"{ONE[:9]}',
    ),
    "a module of Java": ("SASL_JAAS_CONFIG", f'PlainLoginModule required username="u" password="{ONE}";', ONE),
}  # fmt: skip


@pytest.mark.parametrize("what", PARTS)
def test_parts_of_a_value(what: str) -> None:
    """What an application takes out of a value is known without the rest of it."""
    variable, value, part = PARTS[what]
    assert part not in Redactor.of_variables({variable: value}).text(f"connecting with {part} now")


@pytest.mark.parametrize(
    "value, text",
    [
        ("Production-Database-Password-2024", "the Production Database of 2024 has Password rules"),
        ("host=db connect_timeout= password=" + ONE, "connect_timeout= is empty"),
        ("abcdefabcdefabcdef", "0xABCDEF 16 bytes"),
        ("some_long_name_4711", "some long name, long_name_of"),
        ("correct-horse-battery-staple-7", "a correct horse *** bold *** battery-staple"),
        (GERMAN, "über 3 Wörter"),
    ],
)
def test_words_stay(value: str, text: str) -> None:
    """What only shares words or digits with a secret stays readable."""
    assert Redactor.of_variables({"MY_PASSWORD": value}).text(text) == text


def test_numbers() -> None:
    """A PIN that was parsed is one in JSON as well; other numbers, and those of the report itself, stay."""
    redactor = Redactor.of_variables({"ADMIN_PIN": PIN})
    found = {"pin": int(PIN), "parts": [float(PIN), 837492], "ok": True, "none": None, "size": 123456789012}
    clean = {"pin": MASK, "parts": [MASK, 837492], "ok": True, "none": None, "size": 123456789012}
    assert redactor.value(found) == clean
    assert redactor.document({"pid": int(PIN), "checks": [{"details": found}]}) == {
        "pid": int(PIN), "checks": [{"details": clean}]
    }  # fmt: skip


@pytest.mark.parametrize("value", [GERMAN * 20_000, ",".join(f"pä{at}ßwort-{at}" for at in range(2000)), DIGITS * 1000])
def test_spellings_take_little_time(value: str) -> None:
    """However many letters have several spellings, a line does not wait for them."""
    begun = time.process_time()
    redactor = Redactor.of_variables({"MY_PASSWORDS": value})
    for _ in range(20):
        redactor.text("the lazy dog jumps over 12 sheep: http://127.0.0.1:8002/ (PID 123) für Ü")
    assert time.process_time() - begun < TOO_LONG


# Runs.

FOUND = """
import logging, os, sys, threading, warnings
import pytest
KEY, PIN = os.environ["MY_API_KEY"], os.environ["ADMIN_PIN"]

@pytest.mark.warning("Numbers")
def test_numbers(details, record_property):
    "It says what it has parsed."
    details.update(pin=int(PIN), share=float(PIN), listed=[int(PIN)], inner={"x": {int(PIN): 1}}, raw=KEY.encode())
    details.update(held={KEY}, environment=dict(os.environ))
    record_property("pin", int(PIN))
    assert False, int(PIN)

@pytest.mark.warning("Group")
def test_group():
    "It raises several."
    noted = ValueError("a")
    noted.add_note(f"note {KEY}")
    raise ExceptionGroup(f"several {KEY}", [noted, KeyError(KEY), OSError(2, "no", KEY)])

class Hidden(Exception):
    def __init__(self, key): self.key = key
    def __str__(self): return ""
    def __repr__(self): return f"Hidden({self.key!r})"

@pytest.mark.warning("Repr")
def test_repr():
    "Only the repr of its error has it."
    raise Hidden(KEY)

class Dropped:
    def __del__(self): raise RuntimeError("dropped " + KEY)

@pytest.mark.warning("Elsewhere")
def test_elsewhere():
    "It fails where nobody looks."
    Dropped()
    warnings.warn("warned " + KEY)
    thread = threading.Thread(target=lambda: {}[KEY], name=KEY)
    thread.start()
    thread.join()
    logging.getLogger("x").error("bad %d", KEY)

@pytest.mark.warning("Title " + KEY, fix="run --key " + KEY)
def test_exit():
    "It leaves."
    sys.exit("left with " + KEY)
"""


def _said(place: Place, started: Started, *files: Path) -> dict[str, str]:
    """What a run has said and kept, and what a bundle of it has."""
    bundle = place.folder / "out.zip"
    assert place.run("--bundle", str(bundle)).process.returncode == 0
    kept = [*files, *(file for file in place.state.rglob("*") if file.is_file())]
    said = {"output": started.output, **{str(file): file.read_text(errors="replace") for file in kept}}
    with zipfile.ZipFile(bundle) as zipped:
        return said | {f"bundle: {name}": zipped.read(name).decode() for name in zipped.namelist()}


def _shows(said: dict[str, str], *pieces: str) -> dict[str, list[str]]:
    return {name: found for name, text in said.items() if (found := [piece for piece in pieces if piece in text])}


@pytest.mark.parametrize("form", ["json", "junit"])
def test_what_requirements_find_and_raise(project: Place, form: str) -> None:
    """Numbers, groups of errors, notes, what only a repr shows, and errors in threads: no key is in what is said."""
    project.write_requirement("found", FOUND)
    project.environ |= {"MY_API_KEY": ONE, "ADMIN_PIN": PIN}
    log = project.folder / "a.log"
    checked = project.run("--demo", "--check-only", "-v", "--format", form, "--log-file", str(log))
    assert checked.process.returncode == 0, checked.output
    assert project.check("Numbers")["details"]["pin"] == MASK
    assert _shows(_said(project, checked, log), ONE[:8], ONE[-8:], PIN) == {}


RAISES = """
import os
for line in open(os.environ["HOME"] + "/.ki_autoagent/config/.env", "rb").read().decode("latin-1").splitlines():
    name, _, value = line.partition("=")
    if name == "MY_API_KEY":
        raise ValueError(f"{value} is no key")
"""


@pytest.mark.parametrize("why", ["others can write it", "not UTF-8", "left out"])
def test_an_env_file_that_is_not_used(place: Place, why: str) -> None:
    """The application may read it by itself: what is in it is a secret, whether a start uses it or not."""
    place.write_module("reads", RAISES)
    place.write_env_file(**KEYS, MY_API_KEY=ONE)
    if why == "not UTF-8":
        place.env_file.write_bytes("NAME=M\xfcller\n".encode("latin-1") + place.env_file.read_bytes())
    elif why == "others can write it":
        place.env_file.chmod(0o666)
    log = place.folder / "a.log"
    options = ["--demo"] if why == "left out" else ["--offline"]
    refused = place.refused("--app", "reads:app", "--log-file", str(log), *options)
    assert f"ValueError: {MASK} is no key" in refused.output
    assert _shows(_said(place, refused, log), ONE[:8], ONE[-8:], *(key[-10:] for key in KEYS.values())) == {}


TALKS = """
import os
from http.cookies import SimpleCookie
for key in os.environ["MY_API_KEYS"]:
    print(key)
for form in eval(os.environ["FORMS"]):
    print("form", form)
print("the end of it", flush=True)
from small import app
"""


def test_an_application_that_takes_a_key_for_a_list(place: Place) -> None:
    """Neither output nor log has more than its first five letters; nor has any of them a key in another spelling."""
    place.write_module("talks", TALKS)
    log = place.folder / "a.log"
    keys = {"MY_API_KEYS": ONE, "AES_KEY": DIGITS, "FERNET_KEYS": ",".join(FERNET), "A_PASSWORD": GERMAN}
    forms = [
        DIGITS.upper(),
        RAW.hex(":"),
        FERNET[2],
        base64.b64encode(RAW).decode(),
        unicodedata.normalize("NFD", GERMAN),
    ]
    started = place.start(
        "--demo", "--app", "talks:app", "--log-file", str(log), **keys, FORMS=repr(forms)
    ).until_ready()
    started.until_says("the end of it").stop()
    for said in (started.stdout + started.stderr, log.read_text()):
        lines = [line.rpartition("] ")[2] for line in said.splitlines()]
        assert "".join(line for line in lines if len(line) == 1) == ONE[:5]
        assert [form for form in forms if form[:12] in said] == []


HALF = "\\ud83d"


def test_half_a_character(place: Place) -> None:
    """JSON may have one, as where an emoji was cut: every command goes on, and what is around it is a secret."""
    place.environ["APP_CONFIG"] = (
        f'{{"password": "{HALF}{ONE}", "list": [{{"name": "API_KEY", "value": "{TWO}{HALF}"}}]}}'
    )
    place.write_module(
        "raises", f'raise ValueError("bad {HALF}{ONE} {TWO}{HALF}".encode("utf-8", "backslashreplace").decode())'
    )
    refused = place.refused("--demo", "--app", "raises:app")
    assert "raises:app cannot be imported" in refused.output
    assert _shows(_said(place, refused), ONE, TWO) == {}
