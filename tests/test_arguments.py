"""Command lines of others: what looks like a secret is masked, and the rest is what it was."""

from __future__ import annotations

import shlex

import pytest

from preflight import arguments

M = "[redacted]"


@pytest.mark.parametrize(
    "command, shown",
    [
        ("a.py --password hunt3r2 --port 80", f"a.py --password {M} --port 80"),
        ("a.py --api-key=sk-1 -v", f"a.py --api-key={M} -v"),
        ("curl -u admin:s3cr3t http://x", f"curl -u admin:{M} http://x"),
        ("curl -uadmin:s3cr3t --user=a:b", f"curl -uadmin:{M} --user=a:{M}"),
        ("mysqld -phunt3r2", f"mysqld -p{M}"),
        ("sshpass -p hunt3r2 x", f"sshpass -p {M} x"),
        ("redis-server --requirepass x1 --port 6379", f"redis-server --requirepass {M} --port 6379"),
        ("java -Djavax.net.ssl.keyStorePassword=changeit -jar x", f"java -Djavax.net.ssl.keyStorePassword={M} -jar x"),
        ("env API_KEY=abc LANG=C x", f"env API_KEY={M} LANG=C x"),
        ("x 'http://h/?token=abc&a=b'", f"x 'http://h/?token={M}&a=b'"),
        ("x 'Server=h;Password=p1;A=b'", f"x 'Server=h;Password={M};A=b'"),
        ("x -H 'Authorization: Token abc'", f"x -H 'Authorization: {M} {M}'"),
        ("x -H X-Api-Key:abc", f"x -H X-Api-Key:{M}"),
        ("sh -c 'run --token \"abc\" -v; PGPASSWORD=x psql'", f"sh -c 'run --token {M} -v; PGPASSWORD={M} psql'"),
        ("x --token --verbose y", "x --token --verbose y"),
    ],
)  # fmt: skip
def test_masked(command: str, shown: str) -> None:
    """The values of options, logins, assignments and headers that are called like secrets."""
    assert shlex.split(arguments.shown(shlex.split(command))) == shlex.split(shown)


@pytest.mark.parametrize(
    "command",
    [
        "python -u app.py --port 8002 -p 8002 -p8002",
        "uvicorn small:app --ssl-keyfile key.pem --host ::1 --log-level critical",
        "postgres: writer process",
        "java -path=/x -port 80 -Xmx1g",
        "sh -c 'cd /x && ./run --reload'",
        "",
    ],
)
def test_the_rest_stays(command: str) -> None:
    """Ports, key files, applications and titles are what they were."""
    assert arguments.shown(shlex.split(command)) == shlex.join(shlex.split(command))


def test_known_secrets() -> None:
    """An argument that contains a secret of ours goes; a very short one only where it is the argument."""
    secrets = {"hunt3r2", "abc"}
    assert arguments.shown(["x", "hunt3r2", "a=hunt3r2!", "sh -c hunt3r2", "abc", "abcd"], secrets) == (
        f"x {M} {M} {M} {M} abcd"
    )
