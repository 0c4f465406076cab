"""The command line: its options, what they become, and what a wrong one is told."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from preflight import __version__, commands, project
from preflight.command import line as commandline
from preflight.command import options
from preflight.report import formats
from preflight.settings import model as settings

ROOT = Path(__file__).parents[1]


def options_of(*argv: str) -> dict[str, object]:
    """What these options are as settings."""
    return options.setting_options(options.parser().parse_args(argv))


@pytest.mark.parametrize(
    "argv,expected",
    [
        ([], {}),
        (["--host", "::1"], {"host": "::1"}),
        (["--port", "abc"], {"port": "abc"}),
        (["--app", "m:a"], {"app": "m:a"}),
        (["--no-cleanup"], {"port_cleanup": "never"}),
        (["--demo"], {"demo": True}),
        (["--offline"], {"offline": True}),
        (["--ignore", "A", "--ignore", "B, C"], {"ignore": ["A", "B, C"]}),
    ],
    ids=str,
)
def test_options_that_are_settings(argv: list[str], expected: dict[str, object]) -> None:
    """An option that was given is passed on as it was typed; one that was not is left out."""
    assert options_of(*argv) == expected


def test_every_setting_option_is_a_setting() -> None:
    """The parser and the settings do not drift apart."""
    given = ["--host", "h", "--port", "1", "--app", "m:a", "--no-cleanup", "--demo", "--offline", "--ignore", "A"]
    assert options_of(*given).keys() <= settings.SETTINGS.keys()


def test_options_that_are_no_settings() -> None:
    """The rest of the options, with their short forms."""
    parser = options.parser()
    given = parser.parse_args(["--check-only", "--report", "r.json", "--format", "json", "-v"])
    assert (given.check_only, given.report, given.format, given.init, given.verbose) == (
        True, Path("r.json"), "json", None, True,
    )  # fmt: skip
    given = parser.parse_args(["--verbose"])
    assert (given.check_only, given.report, given.format, given.init, given.verbose) == (
        False, None, None, None, True,
    )  # fmt: skip


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The help names every option with a line of its own, and every exit code."""
    with pytest.raises(SystemExit) as ended:
        commandline.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    for action in options.parser()._actions:
        assert action.option_strings[0] in shown
        assert action.help
        assert " ".join(action.help.split()) in shown
    for code, meaning in options.EXIT_CODES.items():
        assert f"{code} {meaning}" in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version says which."""
    with pytest.raises(SystemExit) as ended:
        commandline.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"preflight {__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        ["--no-such-option"],
        ["--check"],
        ["--po", "1"],
        ["--port"],
        ["--format", "xml", "--check-only"],
        ["--format", "json"],
        ["argument"],
        ["--check-only", "--history"],
    ],
    ids=[
        "unknown", "abbreviated", "abbreviated setting", "no value", "format", "format without check", "argument",
        "two commands",
    ],
)  # fmt: skip
def test_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage ends with 2 and a line that says what is wrong; options cannot be abbreviated."""
    with pytest.raises(SystemExit) as ended:
        commandline.main(argv)
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert [line.startswith("run.py: error: ") for line in shown.err.splitlines()] == [True], "and nothing around it"
    assert shown.out == ""


@pytest.mark.parametrize(
    "argv,meant",
    [
        (["--prot", "1"], "unrecognized arguments: --prot 1; did you mean --port?"),
        (["--prot=1"], "unrecognized arguments: --prot=1; did you mean --port?"),
        (["--check"], "unrecognized arguments: --check; did you mean --check-only?"),
        (["--chek"], "unrecognized arguments: --chek; did you mean --check-only?"),
        (["--statedir", "x"], "unrecognized arguments: --statedir x"),
        (
            ["--state-dir", "x"],
            "unrecognized arguments: --state-dir x; state_dir is a setting, not an option: set PREFLIGHT_STATE_DIR",
        ),
        (["surplus"], "unrecognized arguments: surplus"),
        (["check-only"], "unrecognized arguments: check-only; did you mean --check-only?"),
    ],
)
def test_what_an_unknown_option_was_meant_for(argv: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The nearest option is named, or how a setting is set that has no option."""
    with pytest.raises(SystemExit) as ended:
        commandline.main(argv)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"run.py: error: {meant}\n"


VALUES = {"watch": ["5"], "bundle": ["b.zip"], "report": ["r.json"], "format": ["json"], "wait": ["5"]}
REPORT = "--report can be used only with a start, --reload, --check-only or --watch"
WAIT = "--wait can be used only with a start or --check-only"
FORMAT = "--format can be used only with --check-only, --history, --port-status, --free-port or --fleet"
DRY_RUN = "--dry-run can be used only with --free-port or --init"


@pytest.mark.parametrize(
    "option,message", [("report", REPORT), ("wait", WAIT), ("format", FORMAT), ("dry_run", DRY_RUN)]
)
@pytest.mark.parametrize("command", options.COMMANDS)
def test_what_goes_with_what(
    command: str, option: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """An option that a command has no use for is wrong usage, and not ignored: nothing is done."""
    if command in options.GOES_WITH[option]:
        return
    monkeypatch.chdir(tmp_path)
    argv = [word for name in (command, option) for word in (f"--{name.replace('_', '-')}", *VALUES.get(name, []))]
    with pytest.raises(SystemExit) as ended:
        commandline.main(argv)
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert f"run.py: error: {message}\n" in shown.err
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "tcp,named",
    [
        (["--port", "8002"], "--port"),
        (["--host", "::1"], "--host"),
        (["--host", "::1", "--port", "1"], "--host and --port"),
    ],
)
@pytest.mark.parametrize("command", [[], ["--port-status"]])
def test_two_addresses(command: list[str], tcp: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A Unix socket beside a host or a port is wrong usage, whichever was meant."""
    with pytest.raises(SystemExit) as ended:
        commandline.main([*command, *tcp, "--uds", "app.sock"])
    assert ended.value.code == 2
    why = "a server has a Unix socket, or a host and a port; leave out one or the other"
    assert capsys.readouterr() == ("", f"run.py: error: --uds cannot be used with {named}: {why}\n")


def test_commands_are_those_that_exclude_each_other() -> None:
    """The parser and the table of what goes with what do not drift apart."""
    (group,) = options.parser()._mutually_exclusive_groups
    assert {action.dest for action in group._group_actions} == set(options.COMMANDS)


def test_every_command_has_a_verb() -> None:
    """What a command line may ask for is in the table of what is done."""
    assert set(commandline.VERBS) == {options.START, options.OWN, *options.COMMANDS}
    assert set(commandline.WITHOUT_LOG_FILE) <= {options.OWN, *options.COMMANDS}


@pytest.mark.parametrize("command", options.COMMANDS)
def test_only_a_start_is_refused(home: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong setting ends any command with 2, but is the refusal of a start only where one was asked for."""
    log = home / "out.log"
    argv = [f"--{command.replace('_', '-')}", *VALUES.get(command, []), "--port", "x"]
    assert commandline.main([*argv, "--log-file", str(log)]) == 2
    assert "--port must be" in capsys.readouterr().err
    assert not log.exists()
    assert commandline.main(["--port", "x", "--log-file", str(log)]) == 2
    assert "audit refused" in log.read_text()


@pytest.mark.parametrize(
    "argv,message",
    [
        (["--port", "0"], "--port must be a whole number from 1 to 65535"),
        (["--port", "70000"], "--port must be a whole number from 1 to 65535"),
        (["--port", "abc"], "--port must be a whole number from 1 to 65535"),
        (["--host", "a b"], "--host must be a host name or an IP address, without port or brackets"),
        (["--app", "server"], '--app must be MODULE:ATTRIBUTE, such as "server.app:create_app"'),
    ],
    ids=["0", "70000", "abc", "host", "app"],
)
def test_wrong_setting(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong value ends with 2 and one line that names the option; nothing is started."""
    assert commandline.main(argv) == 2
    assert capsys.readouterr() == ("", f"run.py: error: {message}\n")


def test_wrong_variable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong variable is named like a wrong option."""
    monkeypatch.setenv("PREFLIGHT_PORT", "x")
    assert commandline.main(["--init"]) == 2
    assert "environment variable PREFLIGHT_PORT must be" in capsys.readouterr().err


def test_init(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--init writes the template where the env file belongs, for its owner alone, and says what to do next."""
    file = home / ".ki_autoagent/config/.env"
    assert commandline.main(["--init"]) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    shown = capsys.readouterr()
    assert shown.out == f"Wrote {file}. Now open it and fill in OPENAI_API_KEY, then run: {commands.run_py()}\n"
    assert shown.err == ""


def test_init_never_overwrites(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An env file that is there stays, even a broken one."""
    file = home / ".ki_autoagent/config/.env"
    commandline.main(["--init"])
    file.write_text("my own and broken\n")
    file.chmod(0o644)
    capsys.readouterr()
    assert commandline.main(["--init"]) == 0
    assert file.read_text() == "my own and broken\n"
    assert file.stat().st_mode & 0o777 == 0o644
    assert "was left as it is" in capsys.readouterr().out


def test_init_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """--init follows the setting; where nothing can be written it says so and ends with 1."""
    monkeypatch.setenv("PREFLIGHT_ENV_FILE", str(tmp_path / "mine.env"))
    assert commandline.main(["--init"]) == 0
    assert (tmp_path / "mine.env").exists()
    monkeypatch.setenv("PREFLIGHT_ENV_FILE", str(tmp_path / "mine.env" / "below"))
    capsys.readouterr()
    assert commandline.main(["--init"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"run.py: error: {tmp_path}/mine.env/below: ")
    elsewhere = f"export PREFLIGHT_ENV_FILE={commands.ROOT / '.env'} && {commands.run_py('--init')}"
    assert f"\nFix: {elsewhere}\n" in shown.err
    assert "OPENAI_API_KEY is in the environment" in shown.err


@pytest.mark.slow
def test_check_only_in_json(
    home: Path, tmp_path: Path, free_port: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real check: with a format for machines its report is all that stands on standard output, and in the file."""
    monkeypatch.chdir(tmp_path)
    argv = ["--check-only", "--demo", "--port", str(free_port), "--format", "json", "--report", "a/r.json"]
    code = commandline.main(argv)
    shown = capfd.readouterr()
    document = json.loads(shown.out)
    assert shown.out.isascii()
    assert document["preflight"]["origin"] == "check"
    assert document["preflight"]["address"] == f"127.0.0.1:{free_port}"
    assert code == (0 if document["preflight"]["may_start"] else 1)
    for file in (tmp_path / "a" / "r.json", home / "state" / "report.json"):
        assert json.loads(file.read_text())["preflight"]["run_id"] == document["preflight"]["run_id"]


@pytest.mark.slow
def test_check_only_in_banners(free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A real check for people, with details."""
    assert commandline.main(["--check-only", "--demo", "--port", str(free_port), "-v"]) == 0
    shown = capsys.readouterr().out
    assert "Python Version" in shown
    assert "took " in shown
    assert f"127.0.0.1:{free_port} is available." in shown


@pytest.mark.slow
def test_refused_start(free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A start without an env file is refused with 1, and holds nothing afterwards."""
    import socket

    assert commandline.main(["--port", str(free_port), "--offline"]) == 1
    shown = capsys.readouterr().out
    assert "must fix before proceeding" in shown
    assert "Environment File" in shown
    with socket.create_server(("127.0.0.1", free_port)):
        pass


@pytest.mark.slow
def test_secret_in_an_option(
    home: Path, free_port: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that got into the wrong option is neither shown nor in the report that says so."""
    key = "sk-canary-3f9a1c77e2Zq"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    argv = ["--check-only", "--offline", "--port", str(free_port), "--ignore", key]
    assert commandline.main(argv) == 2
    shown = capfd.readouterr()
    for text in (shown.out, shown.err):
        assert key[:8] not in text
        assert key[-8:] not in text
    assert "there is no such requirement" in shown.err
    # Who typed an option wrongly has found out nothing.
    assert not (home / "state" / "report.json").exists()


@pytest.mark.slow
def test_no_runtime_folder(
    home: Path, free_port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that could not leave its record is refused before anything is stopped, and a check says the same."""
    folder = home / "runtime" / "preflight"
    folder.mkdir()
    folder.chmod(0o755)
    monkeypatch.setenv("TMPDIR", str(home))
    (home / f"preflight-{os.getuid()}").touch()
    (home / "state").mkdir(mode=0o700)
    (home / "state" / "runtime").touch()
    assert commandline.main(["--demo", "--port", str(free_port)]) == 1
    shown = capsys.readouterr().out
    # Lines fold at 100 columns.
    assert f"{folder}:itisnotafolderofmode0700thatbelongstothisuser" in "".join(shown.split())
    assert "Fix: " in shown
    assert commandline.main(["--demo", "--port", str(free_port), "--check-only"]) == 1
    shown = capsys.readouterr().out
    assert f"{folder}:itisnotafolderofmode0700thatbelongstothisuser" in "".join(shown.split())
    assert "Fix: " in shown
    (home / "state" / "runtime").unlink()
    assert commandline.main(["--demo", "--port", str(free_port), "--check-only"]) == 0
    assert not (home / "state" / "runtime").exists()


def test_formats(make_report: object) -> None:
    """A format is made from a report, in ASCII, for standard output of any encoding."""
    assert callable(make_report)
    found = make_report()
    text = formats.FORMATS["json"](found)
    assert text.isascii()
    assert json.loads(text) == json.loads(json.dumps(found.to_json()))


def test_a_verb_of_the_project_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that its settings register does what its function does; nothing else goes with it."""
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "shop"\n[tool.preflight]\napp = "shop:app"\n'
        'verbs = ["count-carts=shop_verbs:run", "break=shop_verbs:no", "leave=leaves:run"]\n'
    )
    (tmp_path / "shop_verbs.py").write_text(
        "def run(settings):\n    print(settings.folder.name, settings.port)\n    return 7\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(project, "of_command", lambda: project.find(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert commandline.main(["--count-carts", "--port", "8123"]) == 7
    assert capsys.readouterr().out == f"{tmp_path.name} 8123\n"
    assert commandline.main(["--break"]) == 2
    assert "verbs: shop_verbs:no cannot be loaded: AttributeError" in capsys.readouterr().err
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)\n")
    assert commandline.main(["--leave"]) == 2
    assert "verbs: leaves:run cannot be loaded: SystemExit: 0" in capsys.readouterr().err
    for wrong in (["--count-carts", "--history"], ["--count-carts", "--surplus"], ["--count-carts=1"]):
        with pytest.raises(SystemExit) as ended:
            commandline.main(wrong)
        assert ended.value.code == 2
    with pytest.raises(SystemExit):
        commandline.main(["--help"])
    assert "options of this project:\n  --count-carts\n  --break\n  --leave\n" in capsys.readouterr().out
