"""Command lines of others: what looks like a secret is masked, and the rest is what it was."""

from __future__ import annotations

import shlex
import time

import pytest

from preflight.redaction import arguments
from tests.waiting import TOO_LONG

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
        # What an option has is an assignment itself.
        ("helm --set=auth.password=X1 --set a.b=c,auth.password=X1,d=e",
         f"helm --set=auth.password={M} --set a.b=c,auth.password={M},d=e"),
        ("x --env=DB_PASSWORD=X1 -e DB_PASSWORD=X1 -eDB_PASSWORD=X1",
         f"x --env=DB_PASSWORD={M} -e DB_PASSWORD={M} -eDB_PASSWORD={M}"),
        ("docker --build-arg NPM_TOKEN=X1 --build-arg=NPM_TOKEN=X1",
         f"docker --build-arg NPM_TOKEN={M} --build-arg=NPM_TOKEN={M}"),
        ("x --from-literal=password=X1 '--set=auth.password=X1 X2' -e 'DB_PASSWORD=X1 X2'",
         f"x --from-literal=password={M} '--set=auth.password={M}' -e 'DB_PASSWORD={M}'"),
        ("x '--password=X1 X2' -pw X1 --smtp-pw X1 -storepass X1",
         f"x --password={M} -p{M} {M} --smtp-pw {M} -storepass {M}"),
        # JSON, and what is written like it.
        ("""x '{"password":"X1","host":"db"}'""", f"""x '{{"password":"{M}","host":"db"}}'"""),
        ("""x '{"host": "db", "password": "X1 \\"X2", "n": 1}'""",
         f"""x '{{"host": "db", "password": "{M}", "n": 1}}'"""),
        ("""x --config='{"db":{"user":"me","password":"X1"},"n":1}'""",
         f"""x --config='{{"db":{{"user":"me","password":"{M}"}},"n":1}}'"""),
        ("""x '{\\"password\\":\\"X1\\",\\"host\\":\\"db\\"}'""",
         f"""x '{{\\"password\\":\\"{M}\\",\\"host\\":\\"db\\"}}'"""),
        ("""x '{"passwords":["X1","X2"],"host":"db"}' '{"pin":1234,"n":5}'""",
         f"""x '{{"passwords":{M},"host":"db"}}' '{{"pin":{M},"n":5}}'"""),
        ('''x "{'password': 'X1', 'host': 'db'}"''', f'''x "{{'password': '{M}', 'host': 'db'}}"'''),
        # Programs in other languages than a shell's, and names with their values beside them.
        ("""python -c 'run(host="h", password = "X1 X2"); environ["API_KEY"] = "X1"'""",
         f"""python -c 'run(host="h", password = "{M}"); environ["API_KEY"] = "{M}"'"""),
        ("""x -c '{"inbound": {"password": "X1", "port": 80}}'""",
         f"""x -c '{{"inbound": {{"password": "{M}", "port": 80}}}}'"""),
        ("""x '{"name": "LANG", "value": "C"}' '{"name": "DB_PASSWORD", "value": "X1 \\"X2"}' """,
         f"""x '{{"name": "LANG", "value": "C"}}' '{{"name": "DB_PASSWORD", "value": "{M}"}}'"""),
        ("helm --set env.name=DB_PASSWORD,env.value=X1 -d 'user[password]=X1&a=b'",
         f"helm --set env.name=DB_PASSWORD,env.value={M} -d 'user[password]={M}&a=b'"),
        ("dotnet x.dll --Auth:Certificate:Password X1 --Logging:Level:Default Debug",
         f"dotnet x.dll --Auth:{M} {M} --Logging:Level:Default Debug"),
        ("env pwd=X1 PWD=/srv/app-3.1 x", f"env pwd={M} PWD=/srv/app-3.1 x"),
        # Logins.
        ("ttyd -cme:X123 -c me:X1", f"ttyd -cme:{M} -c me:{M}"),
        ("x --login=me:X1 --login me:X1 --db-user=me:X1 -U me%X1",
         f"x --login=me:{M} --login me:{M} --db-user=me:{M} -U me%{M}"),
        ("x me:X1@db:5432 --broker=me:X1@mq", f"x me:{M}@db:5432 --broker=me:{M}@mq"),
        ("x postgres://me:X1@db/x postgres://me:X/1@X2@db/x", f"x postgres://me:{M}@db/x postgres://me:{M}@db/x"),
        ("x redis://:X1@a:1,redis://:X2@b:2 --proxy=http://me:X1@p:3128",
         f"x redis://:{M}@a:1,redis://:{M}@b:2 --proxy=http://me:{M}@p:3128"),
        ("git https://t0ken-without-end@github.com/x https://t0ken_3:@api.example.org",
         f"git https://{M}@github.com/x https://{M}@api.example.org"),
        # Headers and fields.
        ("x --header 'Authorization: Bearer X1' '--header=Authorization: Bearer X1'",
         f"x --header 'Authorization: {M} {M}' '--header=Authorization: {M} {M}'"),
        ("x --header Authorization: Bearer X1 --port 80", f"x --header Authorization: {M} {M} --port 80"),
        ("x 'Cookie: session=X1; other=X2'", f"x 'Cookie: {M} {M}'"),
        ("x 'key=X1;pwd=X2;host=db' 'Server=h;Pwd=X,1;X2;A=b'", f"x 'key={M};pwd={M};host=db' 'Server=h;Pwd={M};A=b'"),
        ("x 'host=db password=X1 dbname=x' 'https://h/?sig=X1&a=b'",
         f"x 'host=db password={M} dbname=x' 'https://h/?sig={M}&a=b'"),
        ("x /p:X1 /u:me", f"x /p:{M} /u:me"),
        # A shell's commands.
        ("""sh -c 'curl -H "Authorization: Bearer X1" http://x && mysql -pX1 -u me'""",
         f"""sh -c 'curl -H "Authorization: {M} {M}" http://x && mysql -p{M} -u me'"""),
        ("""bash -lc "sh -c \\"PGPASSWORD=X1 run --x 'a b'\\" && ./x --password='X1 X2' -v" """,
         f"""bash -lc "sh -c \\"PGPASSWORD={M} run --x 'a b'\\" && ./x --password={M} -v" """),
        # Keys of well-known services, wherever they stand.
        ("x sk-abcdefghijklmnopqrst ghp_abcdefghijklmnopqrst0123 -v", f"x {M} {M} -v"),
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
        "docker run -p 8080:80 -p 127.0.0.1:8080:80/tcp --user 1000:1000 -e A=b nginx:1.25@sha256:abcdef",
        "gunicorn -w 4 -b 0.0.0.0:8000 -k uvicorn.workers.UvicornWorker app:app --access-logfile -",
        "node --max-old-space-size=4096 server.js --inspect=127.0.0.1:9229 npm:react@18.2.0",
        "git clone git@github.com:a/b https://dev@example.org/x http://127.0.0.1:8002/a@b",
        'helm --set=a.b=c --set image.tag=1.2 --config \'{"host": "db", "port": 5432}\'',
        "nginx: master process /usr/sbin/nginx -g 'daemon off;'",
        """sh -c 'PWD="/home/me" x --port = "80"; test "$TOKEN" = "" && y' -codec:v:0 -c127.0.0.1:80 -cpython:a.b""",
        'x "it\'s a title that nobody closes" PWD=/home/me',
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    [
        "pass", "pass-", "a=", "password=", "key:", '"password":', '{"password":"', "://", "://a:b@", "'", '"', '\\"',
        "\\",         "key: ", "token,", "key=a;", ",a=", "eyJ-", "eyJ-eyJ", "-----BEGIN ", "[", "{key:", " ", "-p ",
        "a b ", "-", "--",         "key=\\\\\"", "u:", "%", "@", ".", "bearer ", "sk-", "\"' ",
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", ["--", "", "sh", "-u"])
def test_hostile_command_lines(piece: str, before: str) -> None:
    """What somebody made to take long does not: as one argument, and as a shell's command."""
    text = before + piece * (arguments.LONGEST // len(piece) - 10) + "!"
    begun = time.process_time()
    arguments.shown(["x", text])
    arguments.shown(["sh", "-c", text])
    assert time.process_time() - begun < TOO_LONG


def test_no_more_than_somebody_reads() -> None:
    """An argument that is too long is left out with all behind it, whatever it is; nothing of it is looked at."""
    begun = time.process_time()
    assert arguments.shown(["x", "-v", "--" + "pass" * 32_000 + "!", "y"]) == "x -v \N{HORIZONTAL ELLIPSIS}"
    assert arguments.shown(["x"] * 100_000).count("x") == arguments.MOST
    assert time.process_time() - begun < TOO_LONG
