"""What stands in variables beside secrets and is none stays readable in reports; further places of secrets do not."""

from __future__ import annotations

import pytest

from preflight.redaction.redactor import MASK, Redactor
from preflight.redaction.stream import StreamRedactor
from tests.e2e.place import Place

KEY = "Zq7vXw2LmN8pRt4KdY6h"
DSN = f"postgresql+asyncpg://shop:{KEY}@db/shop"

STAY = {
    "MODEL_URL": "http://localhost:11434/v1/models",
    "DATABASE_URL": "postgresql://localhost:5432/shop",
    "DATABASE_DSN": "postgresql://localhost:5432/shop",
    "JWT_ISSUER": "https://auth.example.com/realms/shop",
    "TOKEN_ENDPOINT": "https://login.example.com/oauth2/token",
    "AUTH_PORT": "tcp://10.96.0.12:8080",
    "CACHE_DSN": "redis://cache:6379/0",
    "GOOGLE_APPLICATION_CREDENTIALS": "/home/dev/My Keys/shop-415312-0a1b2c3d4e5f.json",
    "DEPLOY_KEY": "~/.ssh/id_ed25519",
    "CREDENTIALS_DIRECTORY": "/run/user/1000/credentials/shop@1.service",
    "GIT_ASKPASS": "/home/dev/.vscode-server/cli/servers/Stable-0f0d87fa9e96c856c5212fc86db137ac0d783365/askpass.sh",
    "SSH_ASKPASS": "/usr/lib/ssh/x11-ssh-askpass",
    "SSH_KEY": "/builds/team42/shop-2-api.tmp/SSH_KEY",
    "HOST_PWD": "/home/dev/shop-2024-api",
    "AUTH_SERVICE_HOST": "fd00:10:96::c",
    "TOKEN_HOST": "FD00:10:96:1:2:3:4:5",
    "SECRETS_HOST": "::ffff:10.96.0.12",
}


@pytest.mark.parametrize("variable", STAY)
def test_addresses_and_files(variable: str) -> None:
    """An address without a login, and the path of a file, say where something is: a report without them is useless."""
    said = f"cannot read {STAY[variable]}: no answer from {STAY[variable].rpartition('/')[0]}"
    assert Redactor.of_variables({variable: STAY[variable]}).text(said) == said


@pytest.mark.parametrize(
    "variable, value",
    [
        ("DEPLOY_WEBHOOK", "https://hooks.example.com/deploy/shop"),
        ("SHARE_TOKEN", "https://files.example.com/s/Zq7vXw2LmN8p"),
        ("JWT_ISSUER", "https://auth.example.com/?code=abcdefghijkl"),
        ("TOKEN_ENDPOINT", "https://shop@login.example.com/token"),
        ("CALENDAR_KEY", "https://calendar.example.com/qwrtzpsdfghj"),
        ("SIGNING_KEY", "/Zq7vXw2LmN8p/Rt4KdY6hq8R2mX5v"),
    ],
)
def test_addresses_that_are_secrets(variable: str, value: str) -> None:
    """To know the address of a webhook is to be able to write there; others have something in them that nobody says."""
    assert value not in Redactor.of_variables({variable: value}).text(f"sent to {value} now")


def test_a_word_with_which_a_text_ends() -> None:
    """A secret begins with a word as well: that word shows nothing of it, and more of it than the word does."""
    redactor = Redactor.of_variables({"DATABASE_DSN": DSN, "PASSPHRASE": "correct horse battery staple table"})
    for harmless in ("systemctl start postgresql", "the scheme is postgresql+asyncpg://", "is it 'correct'?"):
        assert redactor.text(harmless) == harmless
    for cut in (DSN[:24], f"{DSN[:15]}...", "correct horse", "correct…", DSN):
        shown = redactor.text(f"invalid: {cut}")
        assert cut.rstrip(".…") not in shown
        assert MASK in shown
    lines = StreamRedactor(redactor)
    folded = [lines.next(line, 1000) for line in ("it is correct", "horse battery staple table", "horse battery")]
    assert folded == [f"it is {MASK}", MASK, "horse battery"]


@pytest.mark.parametrize(
    "value, said",
    [
        ("postgres123", "systemctl start postgres"),
        ("shop2024!", "started from this project (/srv/shop)"),
        ("password123", "Enter password:"),
        ("dev-secret", "Loading secrets... 3 found, and the field x is no secret"),
        ("my-dev-server", "python -m shop … holds the port: end the server first"),
        (
            "https://login.example.com/4f1c2d3e-9a8b-4c7d-8e6f-0a1b2c3d4e5f/v2",
            "no answer from https://login.example.com",
        ),
        ("unrelated-0123", "Basic PostgreSQL and basic docker-compose.yml, basic HTTP/1.1"),
        ("unrelated-0123", 'WWW-Authenticate: Bearer resource_metadata="https://mcp.example.com/x"'),
    ],
)
def test_words_that_secrets_share_with_texts(value: str, said: str) -> None:
    """Passwords of development begin or end like programs, projects and fixes, and "basic" is a word of a language."""
    redactor = Redactor([value])
    assert redactor.text(said) == said
    for secret in (
        value,
        "Basic dXNlcjpwYXNz",
        "Basic dXNlcjpwYXNz…",
        "Basic YWRtaW46aGVsbG8=",
        f"Basic {KEY}",
        "Bearer abcd-efgh-ijkl",
    ):
        shown = redactor.text(f"it is '{secret}'")
        assert secret.split()[-1].rstrip("…") not in shown
        assert MASK in shown


@pytest.mark.parametrize(
    "variable, value",
    [
        ("CURL_OPTIONS", f"-sS -u deploy:{KEY} --retry 3"),
        ("CURL_OPTIONS", f"--user=deploy:{KEY}"),
        ("CURL_OPTIONS", f"--proxy-user 'deploy:{KEY}' --retry 3"),
        ("API_KEY", f"${{API_KEY:-{KEY}}}"),
        ("API_KEY", f"${{KIND}}{KEY}"),
    ],
)
def test_further_places_of_a_secret(variable: str, value: str) -> None:
    """Logins of options, and values that an application puts together when it reads the env file itself."""
    assert KEY not in Redactor.of_variables({variable: value}).text(f"using live_{KEY} or {KEY}")


@pytest.mark.parametrize("value", ["~/tQ9xW2vL7p", "/app/Kp9zR4aEu4"])
def test_secrets_that_begin_like_a_path(value: str) -> None:
    """Neither is a folder's path that anybody knows."""
    assert Redactor.of_variables({"DB_PASSWORD": value}).text(f"tried {value}") == f"tried {MASK}"


def test_a_token_in_a_dependency() -> None:
    """The fix that installs it has no token: the report is shown to others than pyproject.toml is."""
    redactor = Redactor(["unrelated-0123"])
    for token in ("ghs_abcDEF1234567890abcdXYZ", "glpat-abcDEF1234567890abcd"):
        shown = redactor.text(f"pip install x@git+https://{token}@github.com/x/y.git")
        assert shown == f"pip install x@git+https://{MASK}@github.com/x/y.git"
    plain = "git clone ssh://deployment-user-2024@host/x && git+https://git@github.com/x/y"
    assert redactor.text(plain) == plain


def test_a_bundle_in_a_folder_with_a_key_in_its_name(place: Place) -> None:
    """What is said about the bundle does not repeat the key."""
    folder = place.folder / KEY
    folder.mkdir()
    said = place.run("--bundle", str(folder / "out.zip"), MY_API_KEY=KEY)
    assert (folder / "out.zip").is_file()
    assert KEY not in said.output
    assert MASK in said.output
