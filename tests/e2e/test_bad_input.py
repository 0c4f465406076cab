"""Bad input gets one clear line that names the file, the line or the option, and no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from preflight.command import options
from preflight.settings import loading
from preflight.settings.fields import SettingsError
from tests.e2e.place import KEYS, ROOT, Place, Started
from tests.privileges import WITHOUT, unprivileged

pytestmark = pytest.mark.usefixtures("unmeasured")

CHECK = ("--check-only", "--offline", "--app", "small:app")


def one_line(started: Started) -> str:
    """What a wrong usage says: one line of error, behind argparse's usage where that is who says it."""
    assert started.process.returncode == 2, started.output
    assert started.stdout == ""
    lines = [line for line in started.stderr.splitlines() if line.startswith("run.py: error: ")]
    assert started.stderr.splitlines()[-1:] == lines
    assert "Traceback" not in started.stderr
    return lines[0].removeprefix("run.py: error: ")


def told(
    capsys: pytest.CaptureFixture[str], *arguments: str, root: Path = ROOT, environ: Mapping[str, str] | None = None
) -> str:
    """What the command's options and settings say of this; the tests below start the command itself as well."""
    try:
        loading.load(root, environ=environ or {}, options=options.parse(arguments).settings)
    except SettingsError as error:
        return str(error)
    except SystemExit as ended:
        assert ended.code == 2
        return capsys.readouterr().err.removeprefix("run.py: error: ").rstrip("\n")
    return "nothing"


def test_port(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A port that is none names the option and the range."""
    said = "--port must be a whole number from 1 to 65535"
    ports = ["0", "70000", "abc", "-1", "", "8002.5", "٣", "1e4"]
    assert {port: told(capsys, f"--port={port}") for port in ports} == dict.fromkeys(ports, said)
    started = place.spawn(sys.executable, "run.py", "--port=70000")
    started.wait()
    assert one_line(started) == said


def test_options(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown option or a wrong value names it."""
    for arguments, message in (
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--check"], "unrecognized arguments: --check"),
        (["surplus"], "unrecognized arguments: surplus"),
        (["--format", "json"], "--format can be used only with --check-only"),
        (["--check-only", "--format", "nonsense"], "invalid choice: 'nonsense'"),
        (["--app", "nonsense"], "--app must be MODULE:ATTRIBUTE"),
        (["--host", "a b"], "--host must be a host name or an IP address"),
        (["--host", ""], "--host must be a string that is not empty"),
    ):
        assert message in told(capsys, *arguments)
    assert "unrecognized arguments: --nonsense" in one_line(place.run("--nonsense"))
    assert "--host must be a string that is not empty" in one_line(place.run("--host", ""))


def test_variables(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A variable that is unknown or wrong is named, with the nearest known one."""
    for variable, value, message in (
        ("PREFLIGHT_PORT", "abc", "must be a whole number from 1 to 65535"),
        ("PREFLIGHT_PYTHON", "three", "must be a version specifier"),
        ("PREFLIGHT_PROBE_TIMEOUT", "soon", "must be a time from 0.1 to 60 seconds"),
        ("PREFLIGHT_DEMO", "perhaps", "must be true or false"),
        ("PREFLIGHT_PORT_CLEANUP", "all", "must be one of user, own, never"),
        ("PREFLIGHT_PROT", "1", "no such setting; did you mean 'PREFLIGHT_PORT'?"),
    ):
        line = told(capsys, environ={variable: value})
        assert variable in line
        assert message in line
    place.environ[variable] = value
    started = place.spawn(sys.executable, "run.py")
    started.wait()
    assert one_line(started) == line


def test_settings_table(project: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown key or a wrong type in pyproject.toml names file, line and key."""
    file = project.root / "pyproject.toml"
    before, ours, after = file.read_text().partition("[tool.preflight]\n")
    table, _, rest = after.partition("\n[")
    number = (before + ours).count("\n") + 1
    for line, message in (
        ('port = "many"', "port must be a whole number from 1 to 65535"),
        ("port = true", "port must be a whole number from 1 to 65535"),
        ("python = 3.13", "python must be a version specifier"),
        ("ignore = [1]", "ignore must be a list of strings"),
        ("skip = true", "skip can be set in the environment only: PREFLIGHT_SKIP"),
        ("prot = 1", "unknown setting 'prot' in [tool.preflight]; did you mean 'port'?"),
    ):
        kept = [old for old in table.splitlines() if not old.startswith(f"{line.split(' ')[0]} =")]
        file.write_text("\n".join([before + ours + line, *kept, f"\n[{rest}"]))
        said = told(capsys, root=project.root)
        assert said.startswith(f"pyproject.toml:{number}: {message}")
    started = project.spawn(sys.executable, "run.py")
    started.wait()
    assert one_line(started) == said


def test_settings_file_that_is_no_toml(project: Place) -> None:
    """A pyproject.toml that is no TOML is named with the place of the fault."""
    (project.root / "pyproject.toml").write_text("[tool.preflight\n")
    started = project.run()
    assert "pyproject.toml is not valid TOML" in one_line(started)
    assert "line 1" in one_line(started)


def test_settings_in_the_env_file(place: Place) -> None:
    """A wrong setting in the env file is named by file and line."""
    place.write_env_file(**KEYS, PREFLIGHT_PORT="many")
    started = place.spawn(sys.executable, "run.py")
    started.wait()
    assert one_line(started) == f"{place.env_file}:3: PREFLIGHT_PORT must be a whole number from 1 to 65535"


# What is a failed requirement.


def about(project: Place, name: str) -> Place:
    """A project whose suite has those of our requirements that are in this file, and no others."""
    project.write_suite((project.root / "preflight" / "requirements" / f"test_{name}.py").read_text())
    return project


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def binary(file: Path) -> None:
    file.write_bytes(b"OPENAI_API_KEY=\0\1\2")


def latin(file: Path) -> None:
    file.write_bytes("A=1\nB=2\nNAME=Jürgen\n".encode("latin-1"))


def huge(file: Path) -> None:
    os.truncate(file, 100 * 1024 * 1024)


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def unreadable(file: Path) -> None:
    file.chmod(0)


def prose(file: Path) -> None:
    file.write_text(
        f"OPENAI_API_KEY={KEYS['OPENAI_API_KEY']}\n\n# a comment\nthis is no assignment, and it is secret\n"
    )


@pytest.mark.parametrize(
    "spoil, message",
    [
        (folder, " is a folder, not a file"),
        (binary, " is a binary file, not text"),
        (latin, ":3: this line is not UTF-8 text"),
        (huge, " has 100.0 MiB, more than the 1 MiB allowed"),
        (pipe, " is not a regular file"),
        pytest.param(unreadable, " cannot be read: Permission denied", marks=unprivileged),
        (prose, ":4: this line "),
    ],
)
def test_env_file(project: Place, spoil: Callable[[Path], None], message: str) -> None:
    """An env file that is no such thing is a failed requirement that says what it is, and never what is in it."""
    place = about(project, "environment")
    place.write_env_file(**KEYS)
    spoil(place.env_file)
    place.before = WITHOUT if spoil is unreadable else []
    started = place.run(*CHECK)
    assert started.process.returncode == 1
    assert place.check("Environment File")["message"].startswith(f"{place.env_file}{message}")
    assert "Traceback" not in started.output
    assert "it is secret" not in started.output + place.report_file.read_text()


def test_state_folder_that_cannot_be_made(place: Place) -> None:
    """A state folder that cannot be made is a failed requirement, with the report on the terminal alone."""
    started = place.run(*CHECK, "--demo", PREFLIGHT_STATE_DIR="/proc/no/such/place")
    assert started.process.returncode == 1
    assert "/proc/no/such/place cannot be made: " in " ".join(started.stdout.split())
    assert "Traceback" not in started.output


@unprivileged
def test_state_folder_that_is_read_only(place: Place) -> None:
    """A state folder that cannot be written is a failed requirement."""
    place.state.chmod(0o500)
    place.before = WITHOUT
    started = place.run(*CHECK, "--demo")
    assert started.process.returncode == 1, started.output
    assert "cannot be written: Permission denied" in " ".join(started.stdout.split())


def test_state_folder_that_is_a_file(place: Place) -> None:
    """A file in the place of the state folder is a failed requirement."""
    shutil.rmtree(place.state)
    place.state.write_text("")
    started = place.run(*CHECK, "--demo")
    assert started.process.returncode == 1
    assert f"{place.state} cannot be made" in "".join(started.stdout.split("\n")).replace("   ", "")


@pytest.mark.parametrize(
    "name, message",
    [
        ("nowhere:app", "nowhere:app cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("small:absent", "AttributeError: module 'small' has no attribute 'absent'"),
        ("small:__name__", "small:__name__ is not an ASGI application: it cannot be called"),
    ],
)
def test_application(project: Place, name: str, message: str) -> None:
    """--app that does not import, or is no application, is a failed requirement with the reason."""
    place = about(project, "application")
    started = place.run("--check-only", "--demo", "--app", name)
    assert started.process.returncode == 1
    assert message in place.check("Application")["message"]
    assert "Traceback" not in started.output


def test_init(place: Place) -> None:
    """--init writes a template for its owner alone, says what to do, and never replaces what is there."""
    started = place.run("--init")
    assert started.process.returncode == 0
    assert f"Wrote {place.env_file}" in started.stdout
    assert place.env_file.stat().st_mode & 0o777 == 0o600
    place.env_file.write_text("OPENAI_API_KEY=mine\n")
    assert "was left as it is" in place.run("--init").stdout
    assert place.env_file.read_text() == "OPENAI_API_KEY=mine\n"


@pytest.mark.parametrize(
    "command, exit_code",
    [("--port-status", 141), ("--check-only --demo", 0), ("--check-only --demo --format json", 141)],
)
def test_whoever_reads_the_output_has_gone(quick: Place, command: str, exit_code: int) -> None:
    """It ends quietly, and with the exit code of SIGPIPE where the output was all that was asked for."""
    place = quick
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "run.py", "--port", str(place.port), "--app", "small:app", *command.split()]
    done = subprocess.run(words, cwd=place.root, env=place.environ, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.returncode == exit_code
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_no_output_at_all(quick: Place) -> None:
    """Closed standard output is no reason to fail."""
    place = quick
    command = f"exec {sys.executable} run.py --check-only --demo --app small:app --port {place.port} >&-"
    done = subprocess.run(["sh", "-c", command], cwd=place.root, env=place.environ, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


def test_one_thing_at_a_time(place: Place) -> None:
    """Options that each ask for something else than a start exclude each other."""
    started = place.run("--port-status", "--free-port")
    assert started.process.returncode == 2
    assert "not allowed with" in started.stderr


def test_a_key_where_argparse_speaks(place: Place) -> None:
    """What argparse repeats of the command line is redacted, too."""
    key = "sk-canary-3f9a1c77e2Zq"
    started = place.run("--format", key, OPENAI_API_KEY=key)
    assert started.process.returncode == 2
    assert "invalid choice" in started.stderr
    assert key[:8] not in started.output


@pytest.mark.parametrize("where", ["pyproject.toml", "environment", "env file"])
def test_a_plugin_that_is_not_there(equipped_project: Place, where: str) -> None:
    """It is named with the place that names it and with what its import says; one that is there is not."""
    place = equipped_project
    place.write_module("there", "")
    if where == "pyproject.toml":
        file = place.root / "pyproject.toml"
        before, ours, after = file.read_text().partition("[tool.preflight]\n")
        file.write_text(f"{before}{ours}plugins = ['there', 'nope']\n{after}")
        number = (before + ours).count("\n") + 1
        named = f"pyproject.toml:{number}: plugins"
    elif where == "environment":
        place.environ["PREFLIGHT_PLUGINS"] = "there,nope"
        named = "environment variable PREFLIGHT_PLUGINS"
    else:
        with place.env_file.open("a") as stream:
            stream.write("PREFLIGHT_PLUGINS=there,nope\n")
        named = f"{place.env_file}:3: PREFLIGHT_PLUGINS"
    started = place.run("--check-only", "--offline", "--app", "small:app")
    assert started.process.returncode == 3
    assert f"{named}: the plugin 'nope' cannot be loaded: No module named 'nope'\n" in started.stdout
    assert "'there'" not in started.stdout
    assert "addopts" not in started.stdout
