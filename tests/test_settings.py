"""Settings: where each may come from, which source wins, and what a wrong one is told."""

from __future__ import annotations

import importlib
import json
import pwd
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from preflight.redaction.redactor import Redactor
from preflight.settings import loading
from preflight.settings import model as settings
from preflight.settings.fields import SettingsError
from preflight.settings.model import Settings

HERE = Path(__file__).parents[1]
SECRET = "sk-canary-3f9a1c77e2"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with an env file, and nothing set."""
    (tmp_path / ".env").write_text("")
    write(tmp_path)
    return tmp_path


def write(root: Path, table: str = "", requires: str = ">=3.11,<3.15") -> None:
    project = f'[project]\nname = "x"\nrequires-python = "{requires}"\n\n'
    (root / "pyproject.toml").write_text(f'{project}[tool.preflight]\nenv_file = ".env"\n{table}')


def load(root: Path, environ: dict[str, str] | None = None, **options: object) -> Settings:
    return loading.load(root, environ or {}, options)


def wrong(root: Path, environ: dict[str, str] | None = None, **options: object) -> str:
    """The message about a wrong setting: always one line."""
    with pytest.raises(SettingsError) as caught:
        load(root, environ, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_as_shipped(home: Path) -> None:
    """What the project ships with is what its pages say."""
    found = loading.load(HERE, {})
    assert (found.host, found.port, found.app) == ("127.0.0.1", 8002, "server.app:create_app")
    assert found.python == ">=3.13.8"
    assert found.env_file == home / ".ki_autoagent/config/.env"
    assert found.state_dir == HERE / ".preflight"
    assert found.state.report == HERE / ".preflight/report.json"
    assert (found.port_grace, found.probe_timeout) == (5.0, 2.0)
    assert (found.requirement_timeout, found.run_timeout) == (10.0, 30.0)
    assert not found.envfile.exists
    assert (found.demo, found.offline, found.skip) == (False, False, False)


def test_precedence(root: Path) -> None:
    """The table, the env file, the environment, the options: the later wins."""
    assert load(root).port == 8002
    write(root, "port = 1001\n")
    assert load(root).port == 1001
    (root / ".env").write_text("PREFLIGHT_PORT=1002\n")
    assert load(root).port == 1002
    environ = {"PREFLIGHT_PORT": "1003"}
    assert load(root, environ).port == 1003
    assert load(root, environ, port="1004").port == 1004
    assert load(root, environ, port=None).port == 1003


def test_one_address(root: Path) -> None:
    """A Unix socket counts instead of a host and a port of files and variables; an option for either sets it aside."""
    write(root, 'uds = "app.sock"\nport = 1001\n')
    assert load(root, {"PREFLIGHT_HOST": "::1"}).address == f"unix:{root}/app.sock"
    for environ in ({}, {"PREFLIGHT_UDS": "other.sock"}):
        found = load(root, environ, host="::1")
        assert (found.uds, found.address) == (None, "[::1]:1001")
        assert "uds" not in found.sources
        assert load(root, environ, port="1004").address == "127.0.0.1:1004"
    write(root, "port = 1001\n")
    assert load(root, {"PREFLIGHT_PORT": "1003"}, uds="/run/app.sock").address == "unix:/run/app.sock"


def test_environment_of_the_application(root: Path) -> None:
    """The application sees the env file's variables, and above them the process's own."""
    (root / ".env").write_text("A=file\nB=file\n")
    found = load(root, {"B": "process", "C": "process"})
    assert found.environment == {"A": "file", "B": "process", "C": "process"}
    assert "process" not in repr(found)
    assert found.env_file == root / ".env"


def test_the_process_environment_is_the_default(root: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Nothing is read at import: each load sees the environment as it is then."""
    assert loading.load(root).state_dir == home / "state"
    monkeypatch.setenv("PREFLIGHT_PORT", "1234")
    assert loading.load(root).port == 1234


@pytest.mark.parametrize(
    "table,name,value",
    [
        ('host = " ::1 "', "host", "::1"),
        ("host = 'localhost'", "host", "localhost"),
        ("port = 65535", "port", 65535),
        ("app = 'my_app.web:app.inner'", "app", "my_app.web:app.inner"),
        ("python = ' >=3.11, <3.14 '", "python", ">=3.11, <3.14"),
        ("python = '~=3.12.0'", "python", "~=3.12.0"),
        ("port_cleanup = 'never'", "port_cleanup", "never"),
        ("port_grace = 0", "port_grace", 0.0),
        ("probe_timeout = '500ms'", "probe_timeout", 0.5),
        ("probe_timeout = 1.5", "probe_timeout", 1.5),
        ("run_timeout = '1 m'", "run_timeout", 60.0),
        ("run_timeout = '1h'", "run_timeout", 3600.0),
        ("refresh = '60s'", "refresh", 60.0),
        ("refresh = 0", "refresh", 0.0),
        ("disk_space = '2 GB'", "disk_space", 2 * 10**9),
        ("disk_space = '1.5 MiB'", "disk_space", 1536 * 1024),
        ("memory = 17", "memory", 17),
        ("plugins = ['one', ' two ', '']", "plugins", ("one", "two")),
        ("ignore = 'Disk Space, Memory'", "ignore", ("Disk Space", "Memory")),
        ("offline = true", "offline", True),
        ("allowed_hosts = 'Agent.Example, [::1]:80'", "allowed_hosts", ("agent.example", "[::1]:80")),
        ("allowed_origins = ['https://Agent.example:8443']", "allowed_origins", ("https://agent.example:8443",)),
        ("trusted_proxies = '10.0.0.7/24, ::1'", "trusted_proxies", ("10.0.0.0/24", "::1/128")),
    ],
)
def test_values(root: Path, table: str, name: str, value: object) -> None:
    """Every type in every form that is allowed."""
    write(root, table)
    assert getattr(load(root), name) == value


@pytest.mark.parametrize(
    "word,value", [("1", True), ("Yes", True), ("on", True), ("0", False), ("", False), ("OFF", False)]
)
def test_switch_as_variable(root: Path, word: str, value: bool) -> None:
    """A switch in the environment is a word for yes or no."""
    assert load(root, {"PREFLIGHT_OFFLINE": word}).offline is value


WRONG: dict[str, list[object]] = {
    "host": ["", "  ", 3, "a b", "localhost:80", "http://x", "[::1]", "me@x", "a\u200bb"],
    "port": [0, 65536, 70000, "abc", "", "80.0", 80.0, True, "-1", "٣", "1" * 30],
    "app": ["server", "server:", ":app", "server.app create_app", "3:x", 5],
    "python": ["3.13", "", ">=", ">=3.13;", 3.13, "newest"],
    "port_cleanup": ["always", "", 1],
    "port_grace": [-1, 61, "5x", "soon", "", True, [], "1e3"],
    "probe_timeout": [0, 0.05, "61s", "1 h", float("inf"), float("nan")],
    "refresh": [5, "9s", -1, "often", "9999d", True],
    "disk_space": ["1 XB", "-1", "much", False, {}],
    "open_files": [0, "many"],
    "plugins": [3, [1], {"a": 1}],
    "suite": [3, ["preflight.requirements", ""], "preflight.requirements, ,checks"],
    "token": ["", " ", "two words", "sécret", "a\nb", "x" * 600, 3],
    "allowed_hosts": ["*", "http://agent.example", "a b", "::1", "agent.example:port", [3]],
    "allowed_origins": ["*", "null", "agent.test", "https://agent.test/path", "https://*.example"],
    "trusted_proxies": ["proxy.example", "10.0.0.256", "10.0.0.0/33"],
    "offline": [1, "maybe", "2"],
    "env_file": ["", 3],
}


@pytest.mark.parametrize("name,value", [(name, value) for name, values in WRONG.items() for value in values], ids=repr)
def test_wrong_values(root: Path, name: str, value: object) -> None:
    """A wrong value is told by option, with what is allowed and without the value, which may be a secret."""
    message = wrong(root, {}, **{name: value})
    option = "--no-cleanup" if name == "port_cleanup" else f"--{name.replace('_', '-')}"
    assert message.startswith(f"{option} must be ")
    if len(str(value)) > 6:
        assert str(value) not in message


@pytest.mark.parametrize("option", list(settings.SETTINGS))
def test_every_setting_names_what_is_allowed(root: Path, option: str) -> None:
    """No setting takes just anything, and none says "invalid" and nothing else."""
    assert " must be " in wrong(root, {}, **{option: object()})


def test_wrong_in_the_table(root: Path) -> None:
    """A wrong value in pyproject.toml is told by file and line."""
    write(root, '# port = 1\n\nport = "abc"\n')
    assert wrong(root) == "pyproject.toml:9: port must be a whole number from 1 to 65535"


def test_line_in_the_right_table(root: Path) -> None:
    """The line is that of our table, whatever other tables hold; a table without a header has none."""
    file = root / "pyproject.toml"
    file.write_text('[tool.other]\nport = 1\n[tool.preflight]  # ours\n"port" = 0\n')
    assert wrong(root).startswith("pyproject.toml:4: port must be ")
    file.write_text("[tool]\npreflight = {port = 0}\n")
    assert wrong(root).startswith("pyproject.toml: port must be ")


def test_wrong_variable(root: Path) -> None:
    """A wrong variable is told by name, and in the env file by line."""
    assert wrong(root, {"PREFLIGHT_PORT": SECRET}) == (
        "environment variable PREFLIGHT_PORT must be a whole number from 1 to 65535"
    )
    (root / ".env").write_text(f"A=1\n\nPREFLIGHT_PORT={SECRET}\n")
    assert wrong(root) == f"{root}/.env:3: PREFLIGHT_PORT must be a whole number from 1 to 65535"


def test_unknown(root: Path) -> None:
    """An unknown setting is an error with the nearest known one."""
    assert wrong(root, {"PREFLIGHT_PROT": "1"}) == (
        "environment variable PREFLIGHT_PROT: no such setting; did you mean 'PREFLIGHT_PORT'?"
    )
    assert wrong(root, {"PREFLIGHT_ZZZZZZ": "1"}) == "environment variable PREFLIGHT_ZZZZZZ: no such setting"
    write(root, "prot = 1\n")
    assert wrong(root) == "pyproject.toml:7: unknown setting 'prot' in [tool.preflight]; did you mean 'port'?"


def test_switch_of_the_environment_only(root: Path) -> None:
    """Going without the suite is for the person who types the command, and for nobody's file."""
    assert load(root, {"PREFLIGHT_SKIP": "1"}).skip
    (root / ".env").write_text("PREFLIGHT_SKIP=1\n")
    assert wrong(root) == f"{root}/.env:1: PREFLIGHT_SKIP can be set in the environment only"
    (root / ".env").write_text("")
    write(root, "skip = true\n")
    assert wrong(root) == "pyproject.toml:7: skip can be set in the environment only: PREFLIGHT_SKIP"


@pytest.mark.parametrize(
    "line, meant",
    [
        ("skpi = true", "; did you mean 'PREFLIGHT_SKIP', which can be set in the environment only?"),
        ("tokne = 'x'", "; did you mean 'PREFLIGHT_TOKEN'? It is a secret, so set it in the env file"),
        ("state-dir = 'x'", "; did you mean 'state_dir'?"),
        ("PORT = 1", "; did you mean 'port'?"),
        ("preflight_port = 1", "; did you mean 'port'?"),
        ("PREFLIGHT_SKIP = true", "; did you mean 'PREFLIGHT_SKIP', which can be set in the environment only?"),
        ("zzzzzzzz = 1", ""),
    ],
)
def test_what_an_unknown_setting_was_meant_for(root: Path, line: str, meant: str) -> None:
    """No name is suggested that this place would refuse as well, nor the very name that stands there."""
    write(root, f"{line}\n")
    name = line.partition(" ")[0]
    assert wrong(root) == f"pyproject.toml:7: unknown setting {name!r} in [tool.preflight]{meant}"


@pytest.mark.parametrize(
    "variable, meant",
    [
        ("PREFLIGHT_SKPI", "; did you mean 'PREFLIGHT_SKIP', which can be set in the environment only?"),
        ("PREFLIGHT_ENVFILE", "; did you mean 'PREFLIGHT_ENV_FILE', which cannot be set in the env file?"),
        ("PREFLIGHT_TOKNE", "; did you mean 'PREFLIGHT_TOKEN'?"),
    ],
)
def test_what_an_unknown_variable_was_meant_for(root: Path, variable: str, meant: str) -> None:
    """The same in the env file; in the environment everything can be set."""
    (root / ".env").write_text(f"{variable}=1\n")
    assert wrong(root) == f"{root}/.env:1: {variable}: no such setting{meant}"
    (root / ".env").write_text("")
    plain = f"; did you mean '{meant.split(chr(39))[1]}'?"
    assert wrong(root, {variable: "1"}) == f"environment variable {variable}: no such setting{plain}"


@pytest.mark.parametrize("name", list(settings.SETTINGS))
def test_a_setting_is_never_taken_for_itself(root: Path, name: str) -> None:
    """What is known is not called unknown, wherever it stands: if it does not belong there, that is what is said."""
    for line, table in ((f"PREFLIGHT_{name.upper()}=?\n", ""), ("", f"{name} = '?'\n")):
        (root / ".env").write_text(line)
        write(root, table)
        try:
            load(root)
        except SettingsError as error:
            said = str(error).replace(str(root), "")  # whose name may be anything
            assert "unknown" not in said, said
            assert "no such" not in said, said


@pytest.mark.parametrize("where", ["pyproject.toml:7: plugins", "environment variable PREFLIGHT_PLUGINS", ".env:2"])
def test_the_place_of_a_setting(root: Path, where: str) -> None:
    """File and line, or variable: where whoever has to mend it finds it."""
    environ = {"PREFLIGHT_PLUGINS": "one"} if where.startswith("environment") else {}
    if where.startswith("pyproject"):
        write(root, "plugins = ['one']\n")
    if where.startswith(".env"):
        (root / ".env").write_text("\nPREFLIGHT_PLUGINS=one\n")
        where = f"{root}/.env:2: PREFLIGHT_PLUGINS"
    assert load(root, environ).place("plugins") == where


@pytest.mark.parametrize(
    "value,urls",
    [
        ("json://a/b", ("json://a/b",)),
        (" json://a , xml://b,tgram://c\nd://e ,", ("json://a", "xml://b", "tgram://c", "d://e")),
        ("slack://A/B/C/#one,#two,mailto://u:p@h?to=x@y,z@y", ("slack://A/B/C/#one,#two", "mailto://u:p@h?to=x@y,z@y")),
        ("", ()),
    ],
)
def test_urls(root: Path, value: str, urls: tuple[str, ...]) -> None:
    """Notifications go to URLs separated by commas or blanks; a comma inside a URL belongs to it."""
    assert load(root, {"PREFLIGHT_NOTIFY": value}).notify == urls


def test_a_secret_setting(root: Path) -> None:
    """URLs of notifications stand in the env file or the environment: not in pyproject.toml, no message, no repr."""
    (root / ".env").write_text(f"PREFLIGHT_NOTIFY=json://host/{SECRET}\n")
    found = load(root)
    assert found.notify == (f"json://host/{SECRET}",)
    assert SECRET not in repr(found)
    (root / ".env").write_text(f"PREFLIGHT_NOTIFY={SECRET}\n")
    assert wrong(root) == (
        f"{root}/.env:1: PREFLIGHT_NOTIFY must be URLs (scheme://...), separated by commas or blanks"
    )
    (root / ".env").write_text("")
    write(root, f"notify = 'json://host/{SECRET}'\n")
    assert wrong(root) == "pyproject.toml:7: notify is a secret: set PREFLIGHT_NOTIFY in the env file instead"


@pytest.mark.parametrize("line", ["PREFLIGHT_DEMO=1", "PREFLIGHT_ENV_FILE=other"])
def test_too_late_in_the_env_file(root: Path, line: str) -> None:
    """What decides whether and where there is an env file cannot stand in it."""
    (root / ".env").write_text(f"\n{line}\n")
    assert wrong(root) == f"{root}/.env:2: {line.split('=')[0]} cannot be set in the env file"


def test_demo(root: Path) -> None:
    """The embedded profile: no env file even if there is one, no network, and the project's own floor of Python."""
    (root / ".env").write_text("OPENAI_API_KEY=abc\nPREFLIGHT_PORT=1\nthis line is broken\n")
    for found in (load(root, demo=True), load(root, {"PREFLIGHT_DEMO": "1"})):
        assert (found.demo, found.offline, found.python) == (True, True, ">=3.11,<3.15")
        assert found.environment.keys() <= {"PREFLIGHT_DEMO"}
        assert not found.envfile.exists
        assert found.port == 8002
    write(root, "demo = true")
    assert load(root).demo
    assert not load(root, {"PREFLIGHT_DEMO": "0"}).demo


def test_demo_with_a_strange_floor(root: Path) -> None:
    """A floor that is no specifier is told like any other wrong value."""
    write(root, requires="newest")
    assert wrong(root, demo=True).startswith("pyproject.toml: requires-python must be a version specifier")


def test_paths(root: Path, home: Path, tmp_path: Path) -> None:
    """Relative paths start at the project, ``~`` at the home folder."""
    assert load(root, {"PREFLIGHT_STATE_DIR": "state"}).state_dir == root / "state"
    assert load(root, {"PREFLIGHT_STATE_DIR": "~/state"}).state_dir == home / "state"
    assert load(root, {"PREFLIGHT_ENV_FILE": "~/x.env"}).env_file == home / "x.env"


def test_no_home_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's made-up user has no home folder: the env file is nowhere then, unless one is named."""

    def nobody(_: object) -> None:
        raise KeyError("no such user")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    write(root)
    (root / "pyproject.toml").write_text('[tool.preflight]\nenv_file = "~/x/.env"\n')
    found = load(root).envfile
    assert (found.exists, str(found.path)) == (False, "~/x/.env")
    assert found.problem == "~/x/.env cannot be found: the home folder is not known here"
    named = wrong(root, {"PREFLIGHT_ENV_FILE": "~/y"})
    assert named == "env_file: the home folder of ~/y is not known here; set PREFLIGHT_ENV_FILE"
    monkeypatch.setenv("HOME", "")  # that is no home folder either, and Python's "/" would be one that everybody has
    assert str(load(root).envfile.path) == "~/x/.env"
    monkeypatch.delenv("HOME")
    assert load(root, {"PREFLIGHT_ENV_FILE": str(root / ".env")}).envfile.problem is None
    assert load(root, demo=True).demo
    assert wrong(root, {"PREFLIGHT_STATE_DIR": "~/s"}, demo=True).startswith("state_dir: the home folder of ~/s")


def test_a_grace_that_is_longer_than_a_deadline(root: Path) -> None:
    """What the port's holder may take to end comes on top of a requirement's deadline: they do not contradict."""
    assert load(root, port_grace=10, requirement_timeout=2).port_grace == 10


@pytest.mark.parametrize(
    "text,message",
    [
        ("[tool", "is not valid TOML"),
        ("[tool]\npreflight = 3", "[tool.preflight] must be a table"),
        ("tool = 3", "[tool.preflight] must be a table"),
        ("a = '\xe9'", "is not valid TOML"),
    ],
    ids=["syntax", "number", "no table", "encoding"],
)
def test_broken_pyproject(root: Path, text: str, message: str) -> None:
    """A pyproject.toml that cannot be used is named."""
    (root / "pyproject.toml").write_bytes(text.encode("latin-1"))
    found = wrong(root)
    assert message in found
    assert "pyproject.toml" in found


def test_missing_pyproject(tmp_path: Path) -> None:
    """No pyproject.toml is an error and not a start with defaults."""
    assert wrong(tmp_path) == f"{tmp_path}/pyproject.toml: No such file or directory"


def test_no_table_is_no_error(tmp_path: Path) -> None:
    """A project without our table has the defaults."""
    (tmp_path / "pyproject.toml").write_text("")
    assert load(tmp_path, {"PREFLIGHT_ENV_FILE": "none"}).port == 8002


@pytest.mark.parametrize(
    "host,address", [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80"), ("localhost", "localhost:80")], ids=str
)
def test_address(root: Path, host: str, address: str) -> None:
    """An address is written as it stands in a URL."""
    assert load(root, host=host, port=80).address == address


def test_every_setting_says_what_it_is() -> None:
    """The table of docs/settings.md is made of these lines."""
    for entry in settings.SETTINGS.values():
        assert entry.metadata["about"]
        parse: Callable[[object], object] = entry.metadata["parse"]
        assert callable(parse)


def test_the_token_is_a_secret(root: Path) -> None:
    """It comes from the env file or the environment, shows in no repr, and in pyproject.toml it is a mistake."""
    token = "canary-0123456789abcdef"
    (root / ".env").write_text(f"PREFLIGHT_TOKEN={token}\n")
    found = load(root, {"PREFLIGHT_ENV_FILE": ".env"})
    assert found.token == token
    assert token not in repr(found)
    assert load(root, {"PREFLIGHT_TOKEN": token[::-1]}).token == token[::-1]
    write(root, f'token = "{token}"\n')
    message = wrong(root)
    assert "token is a secret: set PREFLIGHT_TOKEN in the env file instead" in message
    assert token not in message


@pytest.mark.parametrize(
    "host,loopback",
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("LocalHost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("127.0.0.1.evil.test", False),
        ("127.evil.test", False),
        ("10.0.0.5", False),
    ],
)
def test_loopback(root: Path, host: str, loopback: bool) -> None:
    """Only addresses that are loopback's are: a name that begins like one may lead anywhere."""
    assert load(root, {}, host=host).loopback is loopback


# For children.


@pytest.mark.parametrize("demo", [False, True])
def test_settings_travel(root: Path, demo: bool) -> None:
    """A child that is sent the settings has the very same, whatever the files say by then."""
    write(root, 'ignore = ["Memory"]\nallowed_hosts = ["a.example", "b.example"]\nlog_file = "out.log"')
    (root / ".env").write_text(f"OPENAI_API_KEY={SECRET}\nPREFLIGHT_TOKEN=abcdefgh12345678\nthis is wrong\n")
    # Variables need not be UTF-8.
    sent = load(root, {"PREFLIGHT_PORT": "9000", "ODD": "a\udcffb"}, refresh="60s", demo=demo or None)
    assert (sent.envfile.problem is None) is demo
    for file in (".env", "pyproject.toml"):
        (root / file).write_text("nonsense")
    assert Settings.of_message(json.loads(json.dumps(sent.to_message()))) == sent


# How long a stop takes.


@pytest.mark.parametrize(
    "host, delay, timeout", [("127.0.0.1", None, 4), ("0.0.0.0", None, 5), ("127.0.0.1", "30s", 34), ("::", 0, 4)]
)
def test_a_stop(root: Path, host: str, delay: object, timeout: float) -> None:
    """The time for requests in flight comes on top of the delay for load balancers, which loopback has none of."""
    assert load(root, host=host, drain_delay=delay).drain_timeout == timeout


# The settings of an application of one's own.

OWN = """
from dataclasses import dataclass

from preflight.settings.fields import setting
from preflight.settings.parsers import names, whole


@dataclass(frozen=True)
class ShopSettings:
    shop_rate: int = setting(20, whole(1, 99), "orders a second")
    shop_names: tuple[str, ...] = setting((), names, "what it is called")
"""


@pytest.fixture
def shop(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """An application's settings, registered in its project."""
    (root / "shop_settings.py").write_text(OWN)
    write(root, 'settings = "shop_settings:ShopSettings"\nshop_rate = 30\n')
    monkeypatch.syspath_prepend(root)
    kind: type = importlib.import_module("shop_settings").ShopSettings
    yield kind
    del sys.modules["shop_settings"]


def test_settings_of_an_application(root: Path, shop: Any) -> None:
    """They come from the same sources, reach children and re-runs, and are read as the class that declares them."""
    assert load(root).of(shop) == shop(shop_rate=30)
    found = load(root, {"PREFLIGHT_SHOP_RATE": "40", "PREFLIGHT_SHOP_NAMES": "a, b"})
    assert found.of(shop) == shop(shop_rate=40, shop_names=("a", "b"))
    assert found.place("shop_rate") == "environment variable PREFLIGHT_SHOP_RATE"
    assert Settings.of_message(json.loads(json.dumps(found.to_message()))) == found
    write(root, 'settings = "shop_settings:ShopSettings"\nshop_rate = 31\n')
    (root / ".env").write_text("PREFLIGHT_SHOP_NAMES=c\n")
    again = loading.reread(load(root, {"PREFLIGHT_SHOP_NAMES": "a"}), {})
    assert again.next_start == ()
    running = load(root)
    write(root, 'settings = "shop_settings:ShopSettings"\nshop_rate = 32\n')
    assert loading.reread(running, {}).next_start == ("shop_rate 32 (pyproject.toml:8)",)


def test_a_secret_setting_of_an_application(root: Path, shop: Any) -> None:
    """A setting that is declared as a secret is redacted, in a child as well, whatever its name says."""
    (root / "shop_secrets.py").write_text(
        OWN.replace("ShopSettings", "ShopSecrets").replace(
            'shop_names: tuple[str, ...] = setting((), names, "what it is called")',
            'shop_seal: str = setting("", str, "what it signs with", secret=True)',
        )
    )
    write(root, 'settings = "shop_secrets:ShopSecrets"\n')
    seal = "Zq7vXw2LmN8pRt4KdY6hJb3F"
    found = load(root, {"PREFLIGHT_SHOP_SEAL": seal})
    for known in (found, Settings.of_message(json.loads(json.dumps(found.to_message())))):
        assert seal not in Redactor.of(known).text(f"signed with {seal}")
    del sys.modules["shop_secrets"]


def test_wrong_settings_of_an_application(root: Path, shop: Any) -> None:
    """They are told like the preflight's own."""
    assert wrong(root, {"PREFLIGHT_SHOP_RATE": "0"}).startswith(
        "environment variable PREFLIGHT_SHOP_RATE must be a who"
    )
    assert wrong(root, {"PREFLIGHT_SHOP_RATES": "1"}).endswith("did you mean 'PREFLIGHT_SHOP_RATE'?")
    write(root, 'settings = "shop_settings:ShopSettings"\nshop_rate = "x"\n')
    assert wrong(root) == "pyproject.toml:8: shop_rate must be a whole number from 1 to 99"


@pytest.mark.parametrize(
    "named,said",
    [
        ("3", "settings must be a string that is not empty"),
        ('"shop"', "settings must be MODULE:ATTRIBUTE"),
        ('"no.such:Thing"', "settings: no.such:Thing cannot be loaded: ModuleNotFoundError: No module named 'no'"),
        ('"json:Thing"', "settings: json:Thing cannot be loaded: AttributeError"),
        ('"json:loads"', "settings: json:loads is not a dataclass of settings"),
        ('"preflight.settings.model:Settings"', "Settings declares access_log, which is a setting of the preflight"),
    ],
)
def test_a_wrong_registration(root: Path, named: str, said: str) -> None:
    """Whatever is named there and is no dataclass of settings is told with its line."""
    write(root, f"settings = {named}\n")
    message = wrong(root)
    assert message.startswith("pyproject.toml:7: settings")
    assert said in message


@pytest.mark.parametrize("code", ["import sys\nsys.exit(0)", "raise ValueError('one\\ntwo')"], ids=["leaves", "lines"])
def test_a_module_of_settings_that_raises(root: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """It ends no command with its own exit code, and is told in one line."""
    (root / "leaving_settings.py").write_text(code)
    monkeypatch.syspath_prepend(root)
    write(root, 'settings = "leaving_settings:Any"\n')
    assert "leaving_settings:Any cannot be loaded: " in wrong(root)
