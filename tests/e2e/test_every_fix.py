"""Every fix that is a command, pasted as printed into a shell in another folder: it changes the outcome.

What a package index would answer comes from a folder of wheels, made from what is installed here.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import certifi
import pytest

from preflight import dependencies, installing
from tests import pasting
from tests.e2e.doubles import Providers
from tests.e2e.place import KEYS, Place, Started, equip
from tests.waiting import until

SITE = Path(sysconfig.get_path("purelib"))


def is_a_command(fix: str) -> None:
    pasting.check(fix)
    assert pasting.is_command(fix), fix


def in_a_shell(place: Place, commands: str) -> Started:
    """What is typed into a shell in the home folder."""
    one = place.spawn("bash", "-c", commands, cwd=place.folder / "home")
    one.wait()
    return one


def paste(place: Place, fix: str) -> Started:
    """The fix in a shell."""
    is_a_command(fix)
    return in_a_shell(place, fix)


def printed_fix(started: Started, what: str) -> str:
    """The fix below a line of the banner."""
    found = re.search(rf"^.*{re.escape(what)}(?:.*\n)*?\s*Fix: (.*)$", started.stdout, re.MULTILINE)
    assert found is not None, started.output
    return found[1]


# Packages.


def wheel(folder: Path, name: str, version: str, files: dict[str, bytes]) -> str:
    """A wheel with these files; returns the hash that a lock file has of it."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for path, data in files.items()
    )
    file = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for path, data in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}.items():
            archive.writestr(path, data)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def files_of(name: str) -> dict[str, bytes]:
    """What an installed distribution put into site-packages, but its metadata and byte code."""
    return {
        str(file): Path(str(file.locate())).read_bytes()
        for file in importlib.metadata.files(name) or ()
        if not str(file).startswith("..") and ".dist-info" not in str(file) and "__pycache__" not in str(file)
    }


TAKEN_AWAY = ("rich", "uvloop", "python-dotenv", "langgraph-checkpoint-sqlite", "apprise")


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder of wheels of some of our packages, and their hashes."""
    folder = tmp_path_factory.mktemp("wheels")
    return folder, {name: wheel(folder, name, importlib.metadata.version(name), files_of(name)) for name in TAKEN_AWAY}


@pytest.fixture
def checkout(project: Place, index: tuple[Path, dict[str, str]]) -> Place:
    """A copy of the tree whose lock file has the hashes of the wheels, and which can install nothing but them."""
    lock = project.root / "requirements.txt"
    text = lock.read_text()
    for name, digest in index[1].items():
        entry = rf"^({name}==[^\\\n]+)\\\n(?:    --hash=\S+(?: \\)?\n)+"
        text = re.sub(entry, rf"\1--hash=sha256:{digest}\n", text, flags=re.MULTILINE)
    lock.write_text(text)
    project.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index[0]), "PIP_ROOT_USER_ACTION": "ignore"}
    project.environ["PREFLIGHT_APP"] = "small:app"  # the packages are those that the agent needs
    return project


def without(place: Place, *names: str) -> str:
    """The project's own environment, with all our packages but these; its Python."""
    folder = place.root / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    gone = {Path(str(file)).parts[0] for name in names for file in importlib.metadata.files(name) or ()}
    if "langgraph-checkpoint-sqlite" in names:  # it shares its package with others
        gone = {one for one in gone if one != "langgraph"}
    for entry in SITE.iterdir():
        if entry.name not in gone and entry.suffix != ".pth":
            (site / entry.name).symlink_to(entry)
    return str(folder / "bin" / "python")


def check(place: Place, python: str, *options: str, **environ: str) -> Started:
    started = place.spawn(python, "run.py", "--check-only", "--port", str(place.port), *options, environ=environ)
    started.wait()
    return started


def test_missing_packages(checkout: Place) -> None:
    """All of them are there after the one fix, those that are declared for some systems only, too."""
    python = without(checkout, "rich", "uvloop")
    started = check(checkout, python, "--demo")
    assert "Dependencies: not installed: rich, uvloop\n" in started.stdout
    assert paste(checkout, printed_fix(started, "Dependencies")).process.returncode == 0
    done = check(checkout, python, "--demo")
    assert done.process.returncode == 0, done.output


def test_a_broken_package(checkout: Place) -> None:
    """One that is installed and does not import is replaced: pip alone would take it for satisfied."""
    python = without(checkout, "python-dotenv")
    (site,) = (checkout.root / ".venv").glob("lib/python3*/site-packages")
    for folder in ("dotenv", f"python_dotenv-{importlib.metadata.version('python-dotenv')}.dist-info"):
        shutil.copytree(SITE / folder, site / folder)
    (site / "dotenv" / "parser.py").write_text("")
    checkout.write_env_file(OPENAI_API_KEY="sk-something")
    started = check(checkout, python, "--offline")
    assert "Dependencies: cannot be imported" in started.stdout
    assert paste(checkout, printed_fix(started, "Dependencies")).process.returncode == 0
    assert "cannot be imported" not in check(checkout, python, "--offline").stdout


def test_a_package_that_the_suite_misses(checkout: Place) -> None:
    """What the first look does not see, the requirement does, and its fix installs it."""
    python = without(checkout, "langgraph-checkpoint-sqlite")
    started = check(checkout, python, "--demo")
    assert paste(checkout, printed_fix(started, "❌ Dependencies")).process.returncode == 0
    assert "✅ Dependencies" in check(checkout, python, "--demo").stdout


def test_notifications(checkout: Place) -> None:
    """What sends them is installed for this environment, and --test-notify says the same."""
    python = without(checkout, "apprise")
    url = {"PREFLIGHT_NOTIFY": "json://127.0.0.1:9/hook"}
    started = check(checkout, python, "--demo", **url)
    fix = printed_fix(started, "Notifications")
    tried = checkout.spawn(python, "run.py", "--demo", "--test-notify", environ=url)
    assert tried.wait() == 2
    assert tried.stderr.rstrip().endswith(fix)
    assert paste(checkout, fix).process.returncode == 0
    assert "✅ Notifications" in check(checkout, python, "--demo", **url).stdout


@pytest.fixture
def base() -> str:
    """A Python outside of any environment, without our packages."""
    found = str(getattr(sys, "_base_executable", sys.executable))
    asked = "import sys, importlib.util as u; sys.exit(sys.prefix != sys.base_prefix or bool(u.find_spec('fastapi')))"
    if subprocess.run([found, "-c", asked], env={"PATH": "/usr/bin:/bin"}).returncode:
        pytest.skip("no Python here that is outside of environments and has none of the packages")
    return found


def test_the_environment_is_there(checkout: Place, base: str) -> None:
    """make has set up .venv, and somebody types another Python: the fix does with .venv's what was typed."""
    without(checkout)
    started = check(checkout, base, "--demo")
    assert started.process.returncode == 1
    done = paste(checkout, printed_fix(started, "Dependencies"))
    assert done.process.returncode == 0
    assert "left out by --demo" in done.stdout


def test_no_environment(checkout: Place, base: str, tmp_path: Path) -> None:
    """None is there: it is made, filled with what the lock file pins, and used; the Python that was typed stays."""
    folder = tmp_path / "stubs"
    folder.mkdir()
    pinned = re.findall(r"^([\w.-]+)==([^\s;\\]+)", (checkout.root / "requirements.txt").read_text(), re.MULTILINE)
    path = {"packages.pth": f"{SITE}\n".encode()}  # the packages themselves are where they are
    lines = [
        f"{name}=={version} --hash=sha256:{wheel(folder, name, version, path if name == 'rich' else {})}\n"
        for name, version in pinned
    ]
    (checkout.root / "requirements.txt").write_text("".join(lines))
    checkout.environ["PIP_FIND_LINKS"] = str(folder)
    started = check(checkout, base, "--demo")
    fix = printed_fix(started, "Dependencies")
    assert fix.startswith(f"{base} -m venv --clear {checkout.root}/.venv && ")
    assert fix.endswith(f" && {checkout.root}/.venv/bin/python {checkout.root}/run.py --check-only --port "
                        f"{checkout.port} --demo")  # fmt: skip
    done = paste(checkout, fix)
    assert done.process.returncode == 0, done.output
    assert check(checkout, base, "--demo").process.returncode == 1


# The suite's.


@pytest.fixture
def place(project: Place, providers: Providers) -> Place:
    """A copy of the tree with all that a start needs."""
    equip(project, providers)
    return project


def no_env_file(place: Place) -> None:
    place.env_file.unlink()


def no_home(place: Place) -> None:
    place.environ["HOME"] = ""


def open_env_file(place: Place) -> None:
    place.env_file.chmod(0o644)


def exposed(place: Place) -> None:
    place.environ["PREFLIGHT_HOST"] = "0.0.0.0"


def short_token(place: Place) -> None:
    place.environ |= {"PREFLIGHT_HOST": "0.0.0.0", "PREFLIGHT_TOKEN": "short-1"}


def add_to_env_file(place: Place, line: str) -> None:
    with place.env_file.open("a") as file:
        file.write(f"{line}\n")


def short_token_before_another(place: Place) -> None:
    add_to_env_file(place, "PREFLIGHT_TOKEN=0123456789abcdef-3f9a1c77e2")
    short_token(place)


def empty_key(place: Place) -> None:
    place.environ["OPENAI_API_KEY"] = ""


def wrong_authority(place: Place) -> None:
    add_to_env_file(place, f"SSL_CERT_FILE={certifi.where()}")
    place.environ["SSL_CERT_FILE"] = "/nowhere/ca.pem"


CASES = {
    "token of the environment": ("Exposure", short_token),
    "token that hides another": ("Exposure", short_token_before_another),
    "empty key that hides another": ("OpenAI API Key", empty_key),
    "authority that hides another": ("OpenAI Client", wrong_authority),
    "env file": ("Environment File", no_env_file),
    "no home folder": ("Environment File", no_home),
    "mode of the env file": ("Environment File Permissions", open_env_file),
    "exposure": ("Exposure", exposed),
}
"""What does not hold, and how it is brought about."""
TOGETHER = [
    ("exposure", "mode of the env file", "empty key that hides another"),
    ("token of the environment", "env file"),
    ("token that hides another", "authority that hides another"),
    ("no home folder",),
]
"""Cases that do not concern each other."""


@pytest.mark.parametrize("cases", TOGETHER, ids=" and ".join)
def test_requirements(place: Place, cases: tuple[str, ...]) -> None:
    """They do not hold, their fixes are pasted, and then they do, for what is typed in that shell."""
    for case in cases:
        CASES[case][1](place)
    offline = [] if "authority that hides another" in cases else ["--offline"]
    place.run("--check-only", *offline)
    found = {CASES[case][0]: place.check(CASES[case][0]) for case in cases}
    assert {title: before["outcome"] for title, before in found.items()} == dict.fromkeys(found, "failed")
    for before in found.values():
        is_a_command(before["fix"])
    fixes = "\n".join(before["fix"] for before in found.values())
    again = " ".join(["run.py", "--check-only", "--port", str(place.port), *offline])
    done = in_a_shell(place, f"{fixes}\ncd {place.root}; {sys.executable} {again}")
    after = {title: place.check(title)["outcome"] for title in found}
    assert after == dict.fromkeys(found, "passed"), done.output


APPLICATIONS = {
    "attribute": ("", "guarded:absent", "AttributeError: module 'guarded' has no attribute 'absent'"),
    "module": (None, "guarded:app", "ModuleNotFoundError: No module named 'guarded'"),
    "import": ("import nowhere_to_be_found", "guarded:app", "No module named 'nowhere_to_be_found'"),
    "factory": ("def app():\n    raise RuntimeError('no model')", "guarded:app", "RuntimeError: no model"),
    "async factory": ("async def app():\n    raise OSError('no disk')", "guarded:app", "OSError: no disk"),
    "exit": ("import sys; sys.exit(0)", "guarded:app", "SystemExit"),
    "hard exit": ("import os; os._exit(0)", "guarded:app", "exit code 0"),
    "fault": ("import ctypes; ctypes.string_at(0)", "guarded:app", "SIGSEGV"),
    "variable of the env file": (
        "import os; raise ValueError('knows ' + os.environ['FROM_FILE'])", "guarded:app", "ValueError: knows it"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", APPLICATIONS)
def test_application(place: Place, case: str) -> None:
    """It fails in the way that was found, and ends well once that is mended."""
    source, name, said = APPLICATIONS[case]
    place.write_suite((place.root / "preflight" / "requirements" / "test_application.py").read_text())
    place.write_env_file(**KEYS, FROM_FILE="it")
    if source is not None:
        place.write_module("guarded", source)
    place.environ["PREFLIGHT_APP"] = name
    place.run("--check-only")
    found = place.check("Application")
    assert said in found["message"]
    failed = paste(place, found["fix"])
    assert failed.process.returncode == 1
    assert said in failed.output
    place.write_module("guarded", "async def app(scope, receive, send): ...\nabsent = app\n")
    assert paste(place, found["fix"]).process.returncode == 0


def test_port(place: Place) -> None:
    """What holds the port and is left alone is ended by the fix, and the port is free."""
    holder = place.listener()
    check = ("--check-only", "--no-cleanup", "--demo", "--app", "small:app")
    place.run(*check)
    fix = place.check("Server Port")["fix"]
    paste(place, fix)
    until(lambda: holder.process.poll() is not None, "the holder has ended")
    place.run(*check)
    assert place.check("Server Port")["outcome"] == "passed"


def test_python_version(checkout: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where .venv has a Python that fits, it is used; what it then says is what it found."""
    without(checkout)
    monkeypatch.setattr(dependencies, "ROOT", checkout.root)
    monkeypatch.setattr("preflight.commands.ROOT", checkout.root)
    fix = installing.change_python_command(">=3.11", lambda version: version.startswith("3."))
    assert fix == f"{checkout.root}/.venv/bin/python {checkout.root}/run.py"
    none = installing.change_python_command(">=4", lambda _version: False)
    assert none == "" or none.startswith(f"uv venv --clear --python '>=4' {checkout.root}/.venv && ")
