"""docs/own-application.md, as a reader types it: from an empty folder to CI, a container and systemd.

pip installs for real, and finds our wheel where a reader finds it on the index. A machine for tests has neither a
daemon of docker nor systemd as PID 1: the lines of the Dockerfile and of the unit are carried out as those would do it.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest
import requests
import yaml  # type: ignore[import-untyped]
from markdown_it import MarkdownIt

from tests.e2e.place import READY, ROOT, Place, Started, get, make_place
from tests.portnumbers import unused_port

TOKEN = "a-token-that-nobody-guesses-3141"
KEY = "k" * 50


@dataclass(frozen=True)
class Block:
    """A fenced block, its language and the file that it is about."""

    language: str
    file: str
    text: str


def sections() -> dict[str, list[Block]]:
    """The page's blocks, by the heading above them."""
    found: dict[str, list[Block]] = {}
    tokens = MarkdownIt().parse((ROOT / "docs" / "own-application.md").read_text(encoding="utf-8"))
    heading = ""
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open":
            assert following is not None
            heading = following.content
        elif token.type == "fence":
            language, _, about = token.info.partition(" ")
            file = about.removeprefix('title="').removesuffix('"')
            found.setdefault(heading, []).append(Block(language, file, token.content))
    return found


PAGE = sections()
BEGIN, GUARD, CHECK = "From an empty folder to a guarded server", "Guard it", "Check it"
APPLICATIONS = {
    "fastapi": ("FastAPI", "main.py", '"shop":"open"'),
    "django": ("Django", "mysite/settings.py", "Django"),
    "litestar": ("Litestar", "app.py", '"shop":"open"'),
    "asgi": ("A plain ASGI callable", "shop.py", '"shop": "open"'),
}
AFTERWARDS = ("In CI", "In a container", "Under systemd")


def test_every_section_is_run() -> None:
    """No block of the page is one that nothing below runs."""
    run = {BEGIN, GUARD, CHECK, *AFTERWARDS, *(heading for heading, _file, _shows in APPLICATIONS.values())}
    assert set(PAGE) == run
    assert {block.language for blocks in PAGE.values() for block in blocks} == {"sh", "python", "text"}


class Reader:
    """Somebody who types what stands there, in one shell after the other."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder
        self.place: Place = make_place(folder / "place", folder)
        for name in ("PYTHONPATH", "PREFLIGHT_STATE_DIR"):
            del self.place.environ[name]
        links = self.place.environ.get("PIP_FIND_LINKS", "")
        (folder / "bin").mkdir()
        (folder / "bin" / "python3").symlink_to(sys.executable)
        self.place.environ |= {
            "PIP_FIND_LINKS": f"{links} {wheel.parent}".strip(),
            "PIP_ROOT_USER_ACTION": "ignore",
            "PREFLIGHT_PORT": str(self.place.port),
            "PATH": f"{folder / 'bin'}:{self.place.environ['PATH']}",
        }
        self._before = ""

    @property
    def root(self) -> Path:
        return self.folder / "shop"

    def start(self, line: str, **environ: str) -> Started:
        return self.place.spawn("bash", "-c", f"{self._before}{line}", cwd=self.folder, environ=environ)

    def type(self, line: str, code: int = 0, **environ: str) -> str:
        """What a line prints; one that is about the shell itself holds for those after it."""
        if re.search(r"\bcd |^\. ", line):
            # A folder is made once, and every shell goes there.
            self._run(self._before + line, 0, environ)
            self._before += f"{re.sub(r'^mkdir .* && ', '', line)}\n"
            return ""
        return self._run(self._before + line, code, environ)

    def _run(self, script: str, code: int, environ: dict[str, str]) -> str:
        started = self.place.spawn("bash", "-c", script, cwd=self.folder, environ=environ)
        assert started.wait() == code, f"{script}\n{started.output}"
        return started.output

    def follow(self, section: str) -> None:
        """Do what a section says: its files are written, its lines typed."""
        for block in PAGE[section]:
            if block.language == "sh":
                for line in block.text.splitlines():
                    self.type(line)
                continue
            path = self.root / block.file
            if path.exists():  # Django's own: the new lines stand in place of the old one
                name = block.text.splitlines()[-1].partition(" ")[0]
                there = path.read_text()
                (old,) = re.findall(rf"^{name} = .*\n", there, re.MULTILINE)
                path.write_text(there.replace(old, block.text))
            else:
                path.write_text(block.text)


def lines_of(section: str) -> list[str]:
    """The lines that a section has one type."""
    return [line for block in PAGE[section] if block.language == "sh" for line in block.text.splitlines()]


@pytest.fixture(params=APPLICATIONS)
def reader(request: pytest.FixtureRequest, tmp_path: Path, wheel: Path) -> Iterator[Reader]:
    """A reader who has an application, and nothing of ours yet."""
    reader = Reader(tmp_path, wheel)
    reader.follow(BEGIN)
    reader.follow(APPLICATIONS[request.param][0])
    yield reader
    reader.place.close()


@pytest.fixture
def shows(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The file of the application that needs the variable, and what its first page has in it."""
    _heading, file, shows = APPLICATIONS[request.node.callspec.params["reader"]]
    return file, shows


def test_the_page(reader: Reader, shows: tuple[str, str]) -> None:
    """All of it, from one end to the other, once for each kind of application."""
    file, shown = shows
    reader.follow(GUARD)
    checks, serves = lines_of(CHECK), lines_of(CHECK)[-1]
    blocked = reader.type(checks[0], 1)
    (picture,) = [block.text for block in PAGE[CHECK] if block.language == "text"]
    for line in picture.splitlines():
        about = line if file == "main.py" else line.replace("main.py", file).partition("main:app")[0]
        assert about.partition(" (main.py")[0] in blocked
    for line in checks[1:-1]:
        reader.type(line)
    started = reader.start(f"exec {serves}").until_says(READY)
    assert shown in get(started.url)[1]
    assert started.stop() == 0
    in_ci(reader)
    in_a_container(reader, shown)
    under_systemd(reader, shown)


def in_ci(reader: Reader) -> None:
    """The workflow's own lines, and those for other services."""
    init, *lines = lines_of("In CI")
    assert "SECRET_KEY" in reader.type(init)
    job = yaml.safe_load((reader.root / ".github/workflows/preflight.yml").read_text())["jobs"]["preflight"]
    assert job["env"] == {"SECRET_KEY": "${{ secrets.SECRET_KEY }}"}
    for step in [step["run"] for step in job["steps"] if "run" in step]:
        reader.type(step, SECRET_KEY=KEY)
    for line in lines:
        reader.type(line)
    reader.type("pytest -q", 5)  # as before: there are no tests of the project's own


def in_a_container(reader: Reader, shown: str) -> None:
    """What the Dockerfile installs and starts, in a copy of the folder that has what an image would have."""
    init, build, run = lines_of("In a container")
    reader.type(init)
    assert build.split()[:2] == ["docker", "build"]
    image = reader.folder / "image"
    ignored = [line.removeprefix("**/") for line in (reader.root / ".dockerignore").read_text().splitlines()]
    left_out = lambda _folder, names: {name for name in names for pattern in ignored if fnmatch(name, pattern)}  # noqa: E731
    shutil.copytree(reader.root, image, ignore=left_out)
    assert not (image / ".env").exists()
    assert not (image / ".venv").exists()
    steps = [line.partition(" ") for line in (image / "Dockerfile").read_text().splitlines()]
    variables = dict(text.split("=") for step, _, text in steps if step == "ENV")
    assert Path(variables["PREFLIGHT_STATE_DIR"]).is_absolute()
    state = reader.folder / "state"
    inside = {"PREFLIGHT_STATE_DIR": str(state), "PREFLIGHT_HOST": variables["PREFLIGHT_HOST"]}
    for step, _, text in steps:
        if step == "RUN" and text.startswith("pip "):
            reader.type(f"pushd {image} && exec {text}")
    (command,) = [json.loads(text) for step, _, text in steps if step == "CMD"]
    named = re.findall(r"-e (\w+)", run)
    assert named == ["SECRET_KEY", "PREFLIGHT_TOKEN"]
    serve = f"pushd {image} && exec {shlex.join(command)}"
    refused = reader.start(serve, **inside)
    assert refused.wait() == 1, refused.output
    assert "SECRET_KEY is not set" in refused.output
    started = reader.start(serve, SECRET_KEY=KEY, PREFLIGHT_TOKEN=TOKEN, **inside).until_says(READY)
    assert shown in get(started.url)[1]
    assert get(f"{started.url}/_preflight/health/ready")[0] == 200
    assert get(f"{started.url}/_preflight/diagnostics")[0] == 401
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert requests.get(f"{started.url}/_preflight/diagnostics", headers=bearer, timeout=60).status_code == 200
    assert started.stop() == 0


def under_systemd(reader: Reader, shown: str) -> None:
    """What the unit starts, from its folder and with its variables; systemd finds no fault with it."""
    init, copy, _enable = lines_of("Under systemd")
    reader.type(init)
    unit = reader.root / copy.split()[2]
    if analyze := shutil.which("systemd-analyze"):
        verified = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, timeout=60)
        assert unit.name not in verified.stderr, verified.stderr
    values = dict(line.split("=", 1) for line in unit.read_text().splitlines() if re.match(r"\w+=", line))
    folders = {}
    for kind, letter in (("State", "%S"), ("Runtime", "%t")):
        folders[letter] = reader.folder / "systemd" / kind
        (folders[letter] / values[f"{kind}Directory"]).mkdir(parents=True, mode=int(values[f"{kind}DirectoryMode"], 8))
    environ = {}
    for pair in values["Environment"].split():
        name, _, value = pair.partition("=")
        environ[name] = value.replace("%S", str(folders["%S"])).replace("%t", str(folders["%t"]))
    port = unused_port()
    environ |= {"PREFLIGHT_PORT": str(port), "INVOCATION_ID": "0" * 32}
    command = shlex.split(values["ExecStart"])
    started = reader.place.spawn(*command, environ=environ, cwd=Path(values["WorkingDirectory"])).until_says(READY)
    assert shown in get(f"http://127.0.0.1:{port}")[1]
    assert started.stop() == 0
