"""Every block of README.md, SECURITY.md and docs/ as printed: what a reader types works, what is shown is there.

A runner of our own, on markdown-it: most blocks are sessions with a server that has to be started before and stopped
after, and a runner for documents (Sybil, pytest-examples) would know the Python ones alone.

Three things are put in for the reader: the port is a free one, the places that are meant to be filled in are (a key,
the addresses of somebody to tell), and `make test`, which would begin all over again, only says what it would do.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs would be a package more for one call
from markdown_it import MarkdownIt

from preflight.fleet import schema
from preflight.settings import template
from tests.databases import Postgres
from tests.deploy import manifests
from tests.e2e.chatting import client
from tests.e2e.doubles import SMALL, Providers
from tests.e2e.place import KEYS, ROOT, Place, Started, equip, get, make_place
from tests.fleet.seeding import made
from tests.receivers import Mailbox, Receiver
from tests.tables import requirement_rows
from tests.waiting import until

OF_OTHERS = "docs/own-application.md"  # is about other projects: tests/packages/test_own_application.py types it there
FILES = ["README.md", "SECURITY.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
FILES.remove(OF_OTHERS)
TOKEN = "a-token-that-nobody-guesses-2718"
# Commands that go on until somebody ends them, unless one of these options says otherwise.
ENDS = re.compile(
    r"--(init|check-only|port-status|free-port|history|bundle|test-notify|migrate|fleet|import-sessions|version|help)\b"
)


@dataclass(frozen=True)
class Block:
    """A fenced block, where it begins and in which language it says that it is."""

    file: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def is_session(self) -> bool:
        return self.language == "console" or (self.language == "text" and self.text.startswith("$ "))

    @property
    def lines(self) -> list[str]:
        """What is typed, without the remarks behind it."""
        return [line.split(" # ")[0].rstrip() for line in self.text.splitlines() if line]

    @property
    def only_asks(self) -> bool:
        """Whether it is a session of somebody who asks a server that anybody on the machine may ask."""
        commands = [line for line in self.lines if line.startswith("$ ")]
        return self.is_session and all(line.startswith("$ curl ") for line in commands) and "TOKEN" not in self.text


def blocks() -> list[Block]:
    found = []
    for file in FILES:
        for token in MarkdownIt().parse((ROOT / file).read_text(encoding="utf-8")):
            if token.type in ("fence", "code_block"):
                assert token.map is not None
                found.append(Block(file, token.map[0] + 1, token.info.split(" ")[0], token.content))
    return found


BLOCKS = blocks()


def once(chosen: list[Block]) -> list[Block]:
    """Without those that somebody has typed already when he comes to them."""
    return [block for number, block in enumerate(chosen) if block.lines not in [one.lines for one in chosen[:number]]]


def known(block: Block) -> set[str]:
    """Its lines that an earlier block has: where it is a list of commands, each of which is one by itself."""
    command = ".venv/bin/python run.py --"
    if not all(line.startswith(command) and "--init" not in line for line in block.lines):
        return set()
    return {line for one in BLOCKS[: BLOCKS.index(block)] if one.language == "sh" for line in one.lines}


def those(*languages: str) -> pytest.MarkDecorator:
    """The blocks in these languages; "session" is what a terminal showed, "picture" any other text."""

    def kind(block: Block) -> str:
        if block.is_session:
            return "session"
        if re.search(r"^(docker|kubectl|make (manifests|checkov|image)$)", block.text, re.MULTILINE):
            return "containers"
        return "picture" if block.language == "text" else block.language

    chosen = once([block for block in BLOCKS if kind(block) in languages and not block.only_asks])
    TESTED.update(languages)
    return pytest.mark.parametrize("block", [pytest.param(block, id=str(block)) for block in chosen])


TESTED: set[str] = set()


# A reader's machine.


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment as make sets it up, whose packages are those of the tests."""
    folder = tmp_path_factory.mktemp("environment") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True).stdout.strip()
    Path(site, "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name in ("pip", "pytest"):
        (folder / "bin" / name).write_text(f'#!/bin/sh\nexec "{python}" -m {name} "$@"\n')
        (folder / "bin" / name).chmod(0o755)
    stamp = folder / ".installed"
    stamp.mkdir()
    about = 'import sys; print("%d.%d.%d %s" % (sys.version_info[:3] + (sys.base_prefix,)))'
    described = subprocess.run([python, "-E", "-c", about], check=True, capture_output=True, text=True).stdout
    (stamp / "python").write_text(described)
    for lock in ("requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / lock, stamp)
    return folder


@pytest.fixture
def reader(tmp_path: Path, compiled_tree: Path, environment: Path, providers: Providers) -> Iterator[Place]:
    """A checkout in which make has been called once, with an env file that is filled in."""
    place = checkout(tmp_path, compiled_tree, environment)
    equip(place, providers)
    yield place
    place.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, compiled_tree: Path, environment: Path) -> Iterator[Place]:
    """Such a checkout whose server anybody on the machine may ask, and have it check again at any time."""
    place = checkout(tmp_path_factory.mktemp("demo"), compiled_tree, environment)
    place.environ["PREFLIGHT_RERUN_INTERVAL"] = "0"
    place.start("--demo").until_ready()
    yield place
    place.close()


def checkout(folder: Path, compiled_tree: Path, environment: Path) -> Place:
    """A checkout in which make has been called once."""
    root = folder / "project"
    shutil.copytree(compiled_tree, root)
    shutil.copytree(ROOT / ".ci", root / ".ci")
    for name in ("Makefile", "requirements-dev.txt"):
        shutil.copy(ROOT / name, root)
    (root / ".venv").symlink_to(environment)
    place = make_place(folder / "place", root)
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(sys.executable)
    place.environ |= {
        "PATH": f"{folder / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "PREFLIGHT_PORT": str(place.port),
        "PREFLIGHT_STATE_DIR": str(root / ".preflight"),
        "PIP_NO_INDEX": "1",  # everything is there already
        "PIP_ROOT_USER_ACTION": "ignore",
    }
    (root / "my_package").mkdir()
    (root / "my_package" / "main.py").write_text(SMALL)
    return place


class Session:
    """Somebody who types one line after the other in the checkout."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._before = ""  # what lines before have put into the shell's environment

    def type(self, command: str, allowed: tuple[int, ...] = (0,)) -> str:
        """What it prints; one that serves is ended with Ctrl-C as soon as it does."""
        command = command.replace("8002", str(self.place.port))
        if command.split("#")[0].strip() == "make test":
            command = "make -n test"
        if re.match(r"export |[A-Z_]+=\S*$", command):
            self._before += command + "\n"
            return ""
        started = self.place.spawn("bash", "-c", self._before + command)
        if re.search(r"run\.py|make demo", command) and not ENDS.search(command):
            if "--watch" in command:
                until(lambda: bool(started.stdout.count("\n")), "it shows something")
            else:
                started.until_ready()
            os.killpg(started.pid, signal.SIGINT)  # as a terminal does
            allowed = (0, 130, -signal.SIGINT)
        code = started.wait()
        until(lambda: not started.family(), "all of it has ended")
        assert code in allowed, f"{command}\nended with {code}:\n{started.output}"
        said = re.search(r"^Wrote (\S+)\. Now open it and fill in (\w+)", started.stdout)
        if said:
            file = Path(said[1])
            file.write_text(file.read_text().replace(f"{said[2]}={template.PLACEHOLDER}", f"{said[2]}={KEYS[said[2]]}"))
        return started.stdout


def served(place: Place, text: str) -> Started | None:
    """A server for a block that asks one."""
    if "TOKEN" in text:
        place.write_env_file(**KEYS, PREFLIGHT_TOKEN=TOKEN)
        if "/_preflight" in text:  # of a reader who has it in the environment
            place.environ["PREFLIGHT_TOKEN"] = TOKEN
    if "curl " not in text:
        return None
    beside = ["--app", "my_package.main:app"] if "/_preflight" in text else []
    return place.start(*beside, *([] if "TOKEN" in text else ["--demo"])).until_ready()


def need(*programs: str) -> None:
    """Skip where a program is not installed; CI has them all."""
    for program in programs:
        if shutil.which(program) is None and not os.environ.get("CI"):
            pytest.skip(f"{program} is not installed")


def compare(command: str, expected: str, came: str) -> None:
    """What was printed has the shape of what the document shows: times and versions differ."""
    assert came.strip() or not expected.strip(), f"{command} printed nothing"
    first = expected.strip().splitlines()[:1]
    if first and first[0].startswith("HTTP/"):
        assert came.splitlines()[0] == first[0]
    for name in re.findall(r"^(?:preflight|process)_\w+", expected, re.MULTILINE):
        assert name in came, f"{command} printed no {name}"
    try:
        shown, found = json.loads(expected), json.loads(came)
    except ValueError:
        return
    if isinstance(shown, dict):
        assert shown.keys() == found.keys(), command


@pytest.fixture(scope="session")
def postgres(cluster: Postgres) -> Postgres:
    """The database server of a reader who has one."""
    return cluster


@those("sh")
def test_what_is_typed(reader: Place, environment: Path, block: Block, request: pytest.FixtureRequest) -> None:
    """Each line ends well, one that serves included."""
    typed = block.text
    if re.search(r"--(migrate|fleet|import-sessions)\b", typed):
        server: Postgres = request.getfixturevalue("postgres")
        url = server.url(database=server.database())
        typed = re.sub(r"postgresql://\S+@db\.example/\S+", url, typed)
        made_of_it = url if "--migrate" in typed else made(url)
        if "--import-sessions" not in typed:  # which names it itself
            reader.environ["PREFLIGHT_DATABASE_URL"] = made_of_it
    if "--import-sessions" in typed:  # of somebody who has talked to the agent
        asked = reader.start("--demo").until_ready()
        with client(reader.url) as talking:
            talking.init()
            talking.ask("what failed?")
        assert asked.stop() == 0
    need(*(name for name in ("make", "curl", "jq") if re.search(rf"^{name} ", block.text, re.MULTILINE)))
    if "--init" in block.text:
        reader.env_file.unlink()
    if "-m venv" in block.text:  # a machine without make: nothing is set up, and what pip would get is there already
        (reader.root / ".venv").unlink()
        reader.environ["PYTHONPATH"] += f":{sysconfig.get_path('purelib')}"
    served(reader, block.text)
    session = Session(reader)
    for line in filter(None, typed.splitlines()):
        if line.split(" # ")[0].rstrip() in known(block):
            continue
        came = session.type(line)
        if "--import-sessions" in line:
            assert "1 session with 2 new messages." in came
        if line.startswith("curl"):
            assert "error" not in json.loads(came)


@those("sql")
def test_sql(postgres: Postgres, block: Block) -> None:
    """The owner of a database may say all of it, once."""
    database = postgres.database()
    postgres.run(block.text, database=database)
    (role,) = re.findall(r"CREATE ROLE (\w+) LOGIN PASSWORD '(?:.*)'", block.text)
    owner = f"SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = '{schema.SCHEMA}'"
    assert postgres.ask(owner, database=database) == (role,)


@those("session")
def test_what_a_terminal_showed(reader: Place, receiver: Receiver, mailbox: Mailbox, block: Block) -> None:
    """Each command ends well and prints what the document shows, as far as that does not depend on the day."""
    need(*(name for name in ("curl", "jq") if re.search(rf"^\$ {name} |\| {name} ", block.text, re.MULTILINE)))
    served(reader, block.text)
    session = Session(reader)
    for command, expected in shown(block):
        command = re.sub(r"mailto://\S+@example\.org", mailbox.url, command)
        command = re.sub(r"json://hooks\.example\.org/\w+", receiver.url(), command)
        came = session.type(command)
        if "--test-notify" in command:
            assert came.count(": delivered\n") == 2
            continue
        compare(command, expected, came)


def shown(block: Block) -> list[tuple[str, str]]:
    """The commands of a session, and what each has printed."""
    parts = block.text.split("$ ")[1:] if block.text.startswith("$ ") else []
    return [(command, expected) for command, _, expected in (part.partition("\n") for part in parts)]


def test_what_a_server_was_asked(demo: Place) -> None:
    """Each question gets an answer of the shape that the document shows, from one server."""
    need("curl", "jq")
    asked = once([block for block in BLOCKS if block.only_asks])
    assert {block.file for block in asked} >= {"README.md", "docs/server.md"}
    session = Session(demo)
    for block in asked:
        for command, expected in shown(block):
            compare(f"{block}: {command}", expected, session.type(command))


@those("python")
def test_python(block: Block, request: pytest.FixtureRequest) -> None:
    """A client is run against a server; a requirement is put where the text says, and judges.

    Factories of requirements are asked by tests/ready/test_recipes.py.
    """
    if "sys.argv" in block.text:
        demo: Place = request.getfixturevalue("demo")
        (demo.root / "chat.py").write_text(block.text)
        assert "Nothing critical failed" in Session(demo).type(
            '.venv/bin/python chat.py ws://127.0.0.1:8002/ws/chat "what failed?"'
        )
        return
    if "preflight.ready" in block.text:
        (factory,) = re.findall(r"^def (\w+)\(", block.text, re.MULTILINE)
        assert f'recipe("{factory}"' in (ROOT / "tests" / "ready" / "test_recipes.py").read_text(), "no test asks it"
        return
    reader: Place = request.getfixturevalue("reader")
    if "guard(" in block.text:
        (reader.root / "shop.py").write_text(block.text)
        command = [".venv/bin/python", "-m", "uvicorn", "shop:app", "--port", str(reader.port)]
        reader.spawn(*command, environ={"PREFLIGHT_DEMO": "1"}).until_says("Uvicorn running")
        assert json.loads(get(f"{reader.url}/_preflight/health")[1])["status"] == "healthy"
        return
    if "Tables(" in block.text:
        name = re.findall(r"^# (\w+)/(\w+)\.py", block.text)[0]
        (reader.folder / "modules" / name[0]).mkdir(parents=True)
        (reader.folder / "modules" / name[0] / f"{name[1]}.py").write_text(block.text)
        importing = f"from {'.'.join(name)} import CARTS; assert CARTS.version == 1"
        subprocess.run([sys.executable, "-c", importing], env=reader.environ, cwd=reader.root, check=True)
        return
    reader.environ["PREFLIGHT_APP"] = "my_package.main:app"  # the agent takes longer
    if "import ready" in block.text:
        (reader.root / "preflight" / "requirements" / "test_ready.py").write_text(block.text)
        Session(reader).type(".venv/bin/python run.py --check-only --demo", allowed=(0, 1))
        asked = {check["id"].rpartition("::")[2] for check in reader.report()["checks"]}
        assert asked.issuperset(re.findall(r"^(test_\w+) =", block.text, re.MULTILINE))
        return
    assert "@pytest.mark." in block.text, "no test knows what this is"
    file = reader.root / "preflight" / "requirements" / "test_model.py"
    file.write_text(block.text)
    Session(reader).type(".venv/bin/python run.py --check-only --demo", allowed=(1,))
    check = reader.check("Model File")
    assert (check["outcome"], check["message"]) == ("failed", f"{reader.root}/model.bin is not there")
    (reader.root / "model.bin").touch()
    Session(reader).type(".venv/bin/python run.py --check-only --demo")
    assert reader.check("Model File")["outcome"] == "passed"


def node() -> str:
    """A Node that has WebSocket (22 or newer): the machine's, or the one that Playwright brings."""
    from playwright._impl._driver import compute_driver_executable

    for program in (shutil.which("node"), compute_driver_executable()[0]):
        said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout if program else ""
        if said and int(said.strip().lstrip("v").split(".")[0]) >= 22:
            return str(program)
    pytest.skip("no Node of version 22 or newer")


@those("javascript")
def test_javascript(block: Block, request: pytest.FixtureRequest) -> None:
    """The same in JavaScript, which the text says needs Node 22; without a server's token and with one."""
    program = node()
    with_token = "btoa(token)" in block.text
    reader: Place = request.getfixturevalue("reader" if with_token else "demo")
    if with_token:
        assert served(reader, "curl TOKEN") is not None
    text = block.text.replace("8002", str(reader.port))
    if with_token:  # what it leaves to the page that it stands in
        text = f"const token = '{TOKEN}';\n{text}\n"
        text += "chat.onmessage = ({ data }) => { console.log(chat.protocol, data); chat.close(); };\n"
    (reader.root / "chat.mjs").write_text(text)
    done = reader.spawn(program, "chat.mjs")
    assert (done.wait(), done.stderr) == (0, "")
    assert ('preflight.v1 {"type": "connected"' if with_token else "Nothing critical failed") in done.stdout


@those("yaml")
def test_yaml(reader: Place, environment: Path, block: Block) -> None:
    """A job's commands are run, one after the other, as its runner would; Prometheus reads its configuration."""
    if "scrape_configs" in block.text:
        need("promtool")
        (reader.root / "prometheus.yml").write_text(block.text)
        Session(reader).type("promtool check config prometheus.yml")
        return
    (job,) = yaml.safe_load(block.text).values()
    summary = reader.folder / "summary.md"
    values = {"github.workspace": str(reader.root), "secrets.OPENAI_API_KEY": KEYS["OPENAI_API_KEY"]}

    def filled_in(variables: dict[str, str]) -> dict[str, str]:
        return {
            name: re.sub(r"\$\{\{ *(.*?) *\}\}", lambda found: values[found[1]], value)
            for name, value in variables.items()
        }

    reader.environ |= {
        "PATH": f"{environment / 'bin'}:{reader.environ['PATH']}",  # what setup-python does
        "GITHUB_STEP_SUMMARY": str(summary),
        **filled_in(job["env"]),
    }
    steps = [step for step in job["steps"] if "run" in step]
    assert len(steps) >= 3
    for step in steps:
        started = reader.spawn("bash", "-e", "-c", step["run"], environ=filled_in(step.get("env", {})))
        assert started.wait() == 0, f"{step['run']}\n{started.output}"
    assert (reader.root / "preflight.xml").exists()
    assert "Preflight" in summary.read_text()


@those("json")
def test_json(demo: Place, block: Block) -> None:
    """It is JSON, with the keys that the server's own answer has."""
    shown = json.loads(block.text)
    session = Session(demo)
    run = json.loads(session.type("curl -s -X POST localhost:8002/diagnostics/run"))
    assert shown.keys() == run.keys()
    address = f"{demo.url}/diagnostics/run/{run['run_id']}"
    until(lambda: bool(json.loads(get(address)[1])["checks"]), "a check is over")
    assert shown["checks"][0].keys() == json.loads(get(address)[1])["checks"][0].keys()


@those("toml")
def test_toml(reader: Place, block: Block) -> None:
    """Its settings can be set: in a project's pyproject.toml none of them is unknown or wrong."""
    assert "[tool.preflight]" in block.text
    project = reader.folder / "elsewhere"
    project.mkdir()
    (project / "pyproject.toml").write_text(block.text)
    command = [".venv/bin/python", "-m", "preflight", "--port-status"]
    done = reader.spawn(str(reader.root / command[0]), *command[1:], cwd=project, environ={"PYTHONPATH": str(ROOT)})
    assert (done.wait(), done.stderr) == (0, "")


@those("containers")
def test_containers(block: Block) -> None:
    """A machine for tests has no cluster: files are there, kustomize makes something of them, and objects exist.

    `make image` types what is about docker, and `make manifests` and the others are targets.
    """
    for line in block.text.splitlines():
        program, *words = shlex.split(line)
        if program == "make":
            assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
            continue
        for option, value in pairwise(words):
            if option in ("-f", "-k"):
                assert (ROOT / value).exists(), line
            if option == "-k":
                assert list(manifests.objects(str(Path(value).relative_to("deploy/kubernetes")))), line
        for kind, name in re.findall(r"\b(job|deployment)/([\w-]+)", line):
            where = name.removeprefix("preflight").lstrip("-") or "."
            assert manifests.one(kind.title(), where)["metadata"]["name"] == name, line
        if "create secret" in line:
            assert {"secretRef": {"name": words[words.index("generic") + 1]}} in manifests.container()["envFrom"], line


TITLES = {title for title, _severity, _holds in requirement_rows()}


@those("picture")
def test_what_is_shown(block: Block) -> None:
    """A banner names requirements that there are, a list of files files; nothing else that is shown could be typed."""
    assert not re.search(r"^(\$|make|python3?|curl|pip|\.venv/)(\s|$|/)", block.text, re.MULTILINE), "type it: ```sh"
    for shown in re.findall(r"^(?:✅|❌|⚠️|⏭️|❔) (.*)", block.text, re.MULTILINE):
        assert shown.startswith((*TITLES, "The start is blocked")), shown
    if block.text.startswith("run.py "):
        folder = ROOT
        for line in block.text.splitlines():
            listed = re.match(r"(  )?([\w/]+(?:/|\.\w+))( |$)", line)
            if listed is not None:
                folder = folder if listed[1] else ROOT
                assert (folder / listed[2]).exists(), line
                folder = folder if listed[1] or not listed[2].endswith("/") else ROOT / listed[2]


def test_every_block_is_tested() -> None:
    """There is no block in a language that none of the tests above knows."""
    languages = {block.language for block in BLOCKS if not block.is_session} - {"text"}
    assert languages <= TESTED, f"{languages - TESTED}: no test runs these"
    assert {file for file in FILES if any(block.file == file for block in BLOCKS)} >= {"README.md", "docs/chat.md"}


def test_every_command_names_its_python() -> None:
    """No command leaves open which Python to type; a job of GitHub's has one of its own, and so have other projects."""
    for file in FILES:
        text = (ROOT / file).read_text(encoding="utf-8")
        text = re.sub(r"```yaml\n.*?```", "", text, flags=re.DOTALL)
        elsewhere = r"(?! 'pytest-preflight)"  # in the environment of another project
        vague = re.search(
            rf"(?:^|`|\$ )(?:python3? (?:run|chat)\.py|python -c|pip3? install{elsewhere})", text, re.MULTILINE
        )
        assert vague is None, text[vague.start() : vague.end() + 60]
