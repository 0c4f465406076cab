"""What a run asks, whoever stands in between, and what is known: requirements, names, logs, cuts, floods of lines."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import psutil
import pytest

from preflight.processes.children import Child
from preflight.redaction.keys import key_like
from preflight.redaction.redactor import MASK, Redactor
from preflight.redaction.stream import StreamRedactor
from preflight.suite.soundness import sources
from preflight.text import coloured
from tests.adversary.suites import checked
from tests.e2e.doubles import KEY
from tests.e2e.place import READY, Place, Started, get, make_place
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("unmeasured")
linux = pytest.mark.skipif(sys.platform != "linux", reason="mounts and /etc/hosts as Linux has them")

DEMO = ("--demo", "--app", "small:app")
PIECES = [KEY[start : start + 9] for start in range(len(KEY) - 8)]
TWO = "Zq7vXw2LmN8pRt4KdY6h"
HEAD = "import pytest\n"
HOLDS = (
    HEAD
    + '@pytest.mark.critical("Holds")\ndef test_holds(settings):\n    """It holds."""\n    assert settings.port != 1\n'
)
FAILS = '@pytest.mark.critical("{0}")\ndef {1}({2}):\n    """It fails."""\n    assert False, "it fails"\n'
FALSE = FAILS.format("Fails", "test_fails", "")


def broken(started: Started, *said: str) -> None:
    assert started.process.returncode == 3, started.output
    for text in said:
        assert text in started.output


def plain(project: Place, *options: str, python: tuple[str, ...] = ()) -> Started:
    command = [sys.executable, *python, "-m", "pytest", *options, "--demo", f"--port={project.port}"]
    started = project.spawn(*command, environ={"PREFLIGHT_APP": "small:app"})
    started.wait()
    return started


def shows(text: str) -> list[str]:
    return [line[:300] for line in text.splitlines() if any(piece in line for piece in PIECES)]


# Requirements behind a link to a folder, which pytest follows.


def linked(project: Place, **files: str) -> None:
    """Files in a folder of somebody else's, which the folder of the requirements has a link to."""
    folder = project.folder / "shared"
    folder.mkdir()
    for name, source in files.items():
        (folder / f"{name}.py").write_text(HEAD + source)
    (project.root / "preflight" / "requirements" / "shared").symlink_to(folder)


def test_passed_over_in_a_linked_folder(project: Place) -> None:
    """What is marked there and not asked is missed: in a file or a class with a name of its own, or one of two."""
    project.write_suite(HOLDS)
    linked(
        project,
        keys=FAILS.format("Keys", "test_it", ""),
        test_class="class Keys:\n    "
        + FAILS.format("Class", "test_it", "self").replace("\n", "\n    ").rstrip()
        + "\n",
        test_twice=FAILS.format("First", "test_it", "")
        + FAILS.format("Second", "test_it", "").replace("False", "True"),
    )
    below = "preflight/requirements/shared"
    broken(
        checked(project),
        f"{below}/keys.py, whose name is not that of a file of requirements",
        f"{below}/test_class.py::Keys.test_it: not collected",
        f"{below}/test_twice.py::test_it, replaced by another test of the same name",
    )


def test_asked_in_a_linked_folder(project: Place) -> None:
    """What is called like a requirement there is one."""
    project.write_suite(HOLDS)
    linked(project, test_it=FALSE)
    assert checked(project).process.returncode == 1
    assert project.check("Fails")["outcome"] == "failed"


def test_a_link_that_leads_back(tmp_path: Path) -> None:
    """Whoever looks for requirements does not go round in a circle of links, nor into hidden folders."""
    for name in ("test_a.py", "deep/test_b.py", ".hidden/test_c.py", "deep/other.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "deep" / "again").symlink_to(tmp_path)
    (tmp_path / "also").symlink_to(tmp_path / "deep")
    (tmp_path / "nowhere.py").symlink_to(tmp_path / "gone.py")
    found = [str(Path(file).relative_to(tmp_path)) for file in sources.files_below(tmp_path)]
    assert found == ["also/test_b.py", "deep/test_b.py", "nowhere.py", "test_a.py"]


# Bodies that nobody runs, or runs to their end.

CALLS = (
    "import contextlib, functools\n"
    "def calls(function):\n    @functools.wraps(function)\n    def call(*a, **k):\n        function(*a, **k)\n"
    "    return call\n"
)
GENERATORS = {
    "called": "@calls\n",
    "entered by nobody": "@calls\n@contextlib.contextmanager\n",
}


@pytest.mark.parametrize("how", GENERATORS)
def test_a_generator_behind_a_decorator(project: Place, how: str) -> None:
    """A body with a yield in it, which a decorator calls and does not go through, has not run."""
    mark, rest = FAILS.format("Generates", "test_generates", "").split("\n", 1)
    project.write_suite(f"{HOLDS}{CALLS}{mark}\n{GENERATORS[how]}{rest}    yield\n")
    broken(checked(project), "test_generates: is a generator")


def test_an_asynchronous_generator_behind_a_decorator(project: Place) -> None:
    """Nor has one that is asynchronous."""
    mark, rest = FAILS.format("Generates", "test_generates", "").split("\n", 1)
    project.write_suite(f"{HOLDS}{CALLS}{mark}\n@calls\nasync {rest}    yield\n")
    broken(checked(project), "test_generates: is a generator")


FORMS = {
    "Coroutine": "async def later():\n    assert False\n{mark}def test_coroutine():\n    'It.'\n    return later()\n",
    "Asynchronous": "{mark}async def test_asynchronous():\n    'It.'\n    assert False\n",
    "Expected": "class TestA(unittest.TestCase):\n    {mark}    @unittest.expectedFailure\n"
    "    def test_it(self):\n        'It.'\n        self.fail('no')\n",
    "Set up": "class TestB(unittest.TestCase):\n    def setUp(self):\n        self.skipTest('x')\n    {mark}"
    "    def test_it(self):\n        'It.'\n        self.fail('no')\n",
    "Cleaned up": "class TestC(unittest.TestCase):\n    {mark}    def test_it(self):\n        'It.'\n"
    "        self.addCleanup(self.fail, 'no')\n",
    "In a loop": "class TestD(unittest.IsolatedAsyncioTestCase):\n    {mark}    async def test_it(self):\n"
    "        'It.'\n        self.fail('no')\n",
    "Left out": "@unittest.skip('x')\nclass TestE(unittest.TestCase):\n    {mark}    def test_it(self):\n"
    "        'It.'\n        self.fail('no')\n",
    "Exits": "{mark}def test_exits():\n    'It.'\n    raise SystemExit(0)\n",
}


def test_forms_in_which_nothing_is_asserted(project: Place) -> None:
    """Coroutines, and what unittest expects to fail, skips or cleans up in vain: each blocks, by its title."""
    source = HOLDS + "import unittest\n"
    for title, form in FORMS.items():
        source += form.replace("{mark}", f'@pytest.mark.critical("{title}")\n')
    project.write_suite(source)
    started = checked(project)
    assert started.process.returncode == 1, started.output
    outcomes = {title: project.check(title)["outcome"] for title in FORMS}
    assert set(outcomes.values()) <= {"failed", "error", "skipped"}, outcomes
    assert project.check("Holds")["outcome"] == "passed"


ENDS = {
    "the process": "    import os\n    os._exit(0)\n",
    "the run": "    pytest.exit('enough', returncode=0)\n",
    "the session": "    request.session.shouldstop = 'enough'\n",
}


@pytest.mark.parametrize("what", ENDS)
def test_a_requirement_that_ends_more_than_itself(project: Place, what: str) -> None:
    """One that ends the process, the run or the session with success leaves the others unasked: that is no run."""
    ends = f'@pytest.mark.critical("Ends")\ndef test_ends(request):\n    """It ends."""\n{ENDS[what]}'
    project.write_suite(HOLDS + ends + FALSE)
    assert checked(project).process.returncode == 3


CONFTEST = {
    "collect_ignore": ("collect_ignore = ['test_other.py']\n", 3, "test_other.py::test_fails: not collected"),
    "collect_ignore_glob": (
        "collect_ignore_glob = ['*_other.py']\n",
        3,
        "test_other.py::test_fails: not collected",
    ),
    "a mark": (
        "import pytest\ndef pytest_itemcollected(item):\n    item.add_marker(pytest.mark.skip(reason='not now'))\n",
        1,
        "not now",
    ),
    "a requirement": (HEAD + FAILS.format("Odd", "test_odd", ""), 3, "conftest.py"),
    "another file of options": ("", 1, "it fails"),
}


@pytest.mark.parametrize("how", CONFTEST)
def test_what_a_conftest_says(project: Place, how: str) -> None:
    """A conftest.py that leaves files out, skips what there is or holds a requirement itself lets nothing pass."""
    source, code, said = CONFTEST[how]
    project.write_suite(HOLDS)
    project.write_requirement("other", HEAD + FALSE)
    folder = project.root / "preflight" / "requirements"
    (folder / "conftest.py").write_text(source)
    if how == "another file of options":
        for place in (folder, folder.parent):
            (place / "pytest.ini").write_text("[pytest]\naddopts = --collect-only -k nothing\n")
    started = checked(project)
    assert started.process.returncode == code, started.output
    assert said in started.output


def test_variables_that_make_python_talk(project: Place) -> None:
    """Tracing imports, counting references, dumping memory: a run with all of that is one like another."""
    project.write_suite(HOLDS + FALSE)
    talks = dict.fromkeys(("PYTHONPROFILEIMPORTTIME", "PYTHONVERBOSE", "PYTHONTRACEMALLOC", "PYTHONDUMPREFS"), "1")
    started = checked(project, **talks, PYTHONMALLOC="debug", PYTEST_THEME="x", COVERAGE_PROCESS_START=os.devnull)
    assert started.process.returncode == 1, started.output
    assert (project.check("Holds")["outcome"], project.check("Fails")["outcome"]) == ("passed", "failed")


KEPT_OUT = {
    "what makes modules of files": ((), ("preflight", "-p", "no:python")),
    "what shows it": ((), ("preflight", "-p", "no:terminal")),
    "conftest.py, by its folder": ((), ("--confcutdir", "preflight/requirements", "preflight")),
    "conftest.py and assertions": (("-O",), ("preflight", "--noconftest", "--assert=plain")),
    "pytest.ini": ((), ("-c", os.devnull, "preflight")),
    "files, for their examples": ((), ("--doctest-modules", "preflight/requirements", "-o", "python_files=nothing")),
}


@pytest.mark.parametrize("what", KEPT_OUT)
def test_plain_pytest_without(project: Place, what: str) -> None:
    """Whatever is kept out of it on the command line, plain pytest does not end with 0 where a requirement fails."""
    python, options = KEPT_OUT[what]
    project.write_suite(HOLDS + FALSE)
    started = plain(project, *options, python=python)
    assert started.process.returncode != 0, started.output


# Who can reach the server.


@linux
@pytest.mark.needs_root("mounts a file over /etc/hosts, in a namespace of its own")
@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1"])
def test_a_name_that_leads_elsewhere(place: Place, address: str) -> None:
    """Where "localhost" is another address, others can reach it, and nothing is served there without a token."""
    hosts = place.folder / "hosts"
    hosts.write_text(f"{address} localhost\n")
    run = f"exec {sys.executable} run.py --demo --check-only --host localhost --port {place.port}"
    started = place.spawn("unshare", "-m", "sh", "-c", f"mount --bind {hosts} /etc/hosts && {run}")
    assert started.wait() == 1, started.output
    assert f"others can reach localhost, which is {address} here, and there is no token" in started.output


@pytest.mark.parametrize("host", ["0", "::ffff:0.0.0.0", "0x0", "\uff10.\uff10.\uff10.\uff10"])
def test_addresses_of_all_in_odd_clothes(place: Place, host: str) -> None:
    """However the address of every network is spelled, it is not that of this machine only."""
    started = place.run("--demo", "--check-only", "--host", host)
    assert started.process.returncode == 1, started.output
    assert place.check("Exposure")["outcome"] == "failed"


# What an import does to the process that it is in, and to its neighbours.

BAD = {
    "closes every descriptor": "os.closerange(0, 1024)",
    "says that it has started": "for number in range(3, 40):\n    try:\n        os.write(number, "
    'b\'{"kind": "imported"}\\n{"kind": "started"}\\n{"kind": "ready"}\\n\')\n    except OSError:\n        pass\n'
    "raise RuntimeError('no')",
    "ends its neighbours": "import signal\nfor one in os.listdir('/proc'):\n"
    "    if one.isdigit() and int(one) != os.getpid():\n        try:\n"
    "            parent = open(f'/proc/{one}/stat').read().rsplit(')', 1)[1].split()[1]\n"
    "            if int(parent) == os.getppid():\n                os.kill(int(one), signal.SIGTERM)\n"
    "        except OSError:\n            pass",
}


@pytest.mark.parametrize("what", BAD)
def test_an_import_that_meddles(place: Place, what: str) -> None:
    """One that closes what it was given, says what it is not asked, or ends the suite is refused, and soon."""
    place.write_module("meddles", f"import os\n{BAD[what]}\nfrom small import app\n")
    started = place.refused("--demo", "--app", "meddles:app", PREFLIGHT_REQUIREMENT_TIMEOUT="5s")
    assert started.process.returncode in (1, 3)


RUDE = """
import gc, os, signal, sys, threading
os.environ.clear()
os.chdir("/")
os.umask(0o777)
for descriptor in (0, 1, 2):
    os.close(descriptor)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
sys.settrace(lambda *_: None)
sys.setprofile(lambda *_: None)
gc.disable()
threading.excepthook = None
from small import app
"""


def test_an_import_that_is_rude(place: Place) -> None:
    """What it does to its own environment, folder, mask, streams and signals keeps nobody from serving and stopping."""
    place.write_module("rude", RUDE)
    started = place.start("--demo", "--app", "rude:app").until_ready()
    assert get(place.url) == (200, "small")
    assert started.stop() == 0
    started.left_nothing()


# What plain pytest writes itself.

LOGS = (
    HEAD
    + '''
import logging, os
KEY = os.environ["MY_API_KEY"]

@pytest.fixture
def held():
    logging.getLogger("some.library").debug("got %s", KEY)
    yield KEY
    logging.getLogger().error("gives back %s", [KEY])

@pytest.mark.critical("Logs")
def test_logs(held):
    """It logs."""
    try:
        raise ValueError(KEY)
    except ValueError:
        logging.getLogger("x").exception("with a traceback")
    assert not held, "said " + held
'''
)


def test_logs_and_traces_of_pytest(project: Place) -> None:
    """Live logs, log files and the trace of every hook: what pytest is told to write has no key in it."""
    project.write_suite(LOGS)
    log, trace = project.folder / "py.log", project.folder / "trace.log"
    project.environ["MY_API_KEY"] = KEY
    started = plain(project, "preflight", "--log-cli-level=DEBUG", f"--log-file={log}", f"--debug={trace}")
    assert started.process.returncode == 1, started.output
    for text in (started.stdout, log.read_text()):
        assert "with a traceback" in text
        assert MASK in text
    assert "pytest_fixture_setup" in trace.read_text()
    for text in (started.output, log.read_text(), trace.read_text()):
        assert shows(text) == []


# Secrets: names, notations, cuts.


@pytest.mark.parametrize("name", ["LDAP_BINDPW", "ROOTPW", "adminPw", "API_BEARER", "bearer"])
def test_names_of_secrets(name: str) -> None:
    """Short words for a password at the end of another word, and what follows a scheme."""
    assert key_like(name)
    assert not any(map(key_like, ["FORBEARER", "PWD", "SPWN", "UPWARD"]))


NOTATIONS = {
    "folded YAML": ("APP_YAML", f"db:\n  password: >-\n    {TWO}\n"),
    "TOML": ("APP_CONFIG", f"[db]\npassword = \"{TWO}\"\nhost = 'h'\n"),
    "an attribute": ("APP_CONFIG", f"<password value='{TWO}' />"),
    "an attribute that names it": ("APP_CONFIG", f'<add key="ApiKey" value="{TWO}"/>'),
    "a property of Java": ("JAVA_OPTS", f"-Xmx1g -Djavax.net.ssl.keyStorePassword={TWO}"),
    "JDBC in JSON": ("APP_JSON", json.dumps({"d": {"url": f"jdbc:postgresql://h/d?user=me&password={TWO}"}})),
    "pairs of headers": ("EXTRA", json.dumps([["Authorization", f"Token {TWO}"]])),
    "a header of several values": ("EXTRA", json.dumps({"Authorization": [f"Token {TWO}"]})),
    "several sentinels": ("BROKER", f"sentinel://:{TWO[::-1]}@a:1;sentinel://:{TWO}@b:2"),
    "a signed address": ("FEED", f"https://a.example.org/c?sv=2024&sig={TWO}&x=1"),
    "a fragment": ("FEED", f"https://a.example.org/#access_token={TWO}"),
    "a header, encoded": ("OTLP_HEADERS", f"a=b,authorization=Basic%20{TWO}"),
}


@pytest.mark.parametrize("how", NOTATIONS)
def test_notations_of_configuration(how: str) -> None:
    """Whatever an application's configuration is written in, what it calls a secret is known."""
    name, value = NOTATIONS[how]
    assert Redactor.of_variables({name: value}).text(f"it is {TWO}!") == f"it is {MASK}!"


ODD = "P@ssw0rd!correct#horse$battery%staple^9"
CUTS = ("..", "…", "[...]", " [...]", "[…]", "(...)", "<...>", "‥", "⋯", "&hellip;", "\\u22EF", "'+30", "' +30",
        " (truncated)", "<truncated>", "[snip]", "(17 more", "{+17 more")  # fmt: skip


@pytest.mark.parametrize("cut", CUTS)
def test_marks_of_a_cut(cut: str) -> None:
    """What a library leaves of a secret is one, whatever it says of what it has left out."""
    redactor = Redactor.of_variables({"MY_PASSWORD": ODD})
    for shown in (
        redactor.text(f"is '{ODD[:22]}{cut} and"),
        StreamRedactor(redactor).next(f"is '{ODD[:22]}{cut} and", 1000),
    ):
        assert shown == f"is '{MASK}{cut} and"


@pytest.mark.parametrize("text", ["a+b", "P@ssw0+x", "P@ssw0.5", "P@ssw0 (see below)", "P@ssw0rt [1]", "staple^9+30"])
def test_marks_of_no_cut(text: str) -> None:
    """What only begins like a secret, or ends like one, stays."""
    assert Redactor.of_variables({"MY_PASSWORD": ODD}).text(f"it is {text} here") == f"it is {text} here"


def test_a_passphrase_that_is_shortened() -> None:
    """Words of a passphrase stay readable, but not as many of them as a shortened text has."""
    import textwrap

    phrase = "correct horse battery staple table"
    shown = Redactor.of_variables({"PASSPHRASE": phrase}).text(textwrap.shorten(f"the key is {phrase}", 40))
    assert shown.startswith(f"the key is {MASK}")


@pytest.mark.parametrize("stream", [False, True], ids=["text", "stream"])
def test_a_dump_of_letters(stream: bool) -> None:
    """A key of letters alone in a hexadecimal dump: neither its digits nor its letters, but for a short rest."""
    key = "qwertzuiopasdfghjklyxcvbnmqwsxedc"
    rows = [(at, key[at : at + 16]) for at in range(0, len(key), 16)]
    dump = [f"{at:08x}  {row.encode().hex(' '):47}  |{row}|" for at, row in rows]
    redactor = Redactor.of_variables({"MY_API_KEY": key})
    lines = StreamRedactor(redactor)
    said = [coloured(lines.next(line, 1000)) for line in dump] if stream else redactor.text("\n".join(dump)).split("\n")
    assert not any(key[start : start + 8] in line for line in said for start in range(len(key) - 7)), said
    assert redactor.text("internationalization and uncharacteristically") == (
        "internationalization and uncharacteristically"
    )


def test_a_key_in_the_names_of_files(place: Place) -> None:
    """Where log, report and state folder are called like a key, nothing that is said or written repeats it."""
    state = place.folder / f"state-{KEY}"
    files = {name: place.folder / f"{KEY}.{name}" for name in ("log", "json")}
    options = (*DEMO, "--check-only", "-v", "--log-file", str(files["log"]), "--report", str(files["json"]))
    started = place.run(*options, MY_API_KEY=KEY, PREFLIGHT_STATE_DIR=str(state))
    assert started.process.returncode == 0, started.output
    said = {"output": started.output, **{str(file): file.read_text() for file in files.values()}}
    said |= {str(file): file.read_text(errors="replace") for file in state.rglob("*") if file.is_file()}
    assert {name: found for name, text in said.items() if (found := shows(text))} == {}


# Foreign text.

FORGED = "a\x1b[31m\nSERVER READY!\u202eb"


def test_a_checkout_in_a_folder_with_an_odd_name(tmp_path: Path, compiled_tree: Path, place: Place) -> None:
    """The folder of a checkout neither colours nor forges a line: of its own runs, nor of one that replaces it."""
    folder = tmp_path / FORGED
    folder.mkdir()
    shutil.copytree(compiled_tree, folder / "project")
    odd = make_place(tmp_path / "odd", folder / "project")
    odd.port = place.port
    odd.environ["XDG_RUNTIME_DIR"] = place.environ["XDG_RUNTIME_DIR"]
    try:
        said = [checked(odd, "-v").output]
        first = odd.start(*DEMO).until_ready()
        said.append(odd.run("--port-status", "-v").output)
        second = place.start(*DEMO).until_ready()
        assert first.wait() == 0
        assert "replaces it" in second.output
        assert second.stop() == 0
        said += [first.output, second.output]
    finally:
        odd.close()
    for text in said:
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert re.search(r"^SERVER READY!.?b", text, re.MULTILINE) is None


# Output of which there is too much.

FLOODS = """
import os
from small import app as small

async def app(scope, receive, send):
    if scope.get("path") == "/flood":
        while True:
            os.write(1, b"\\n" * 65536)
    await small(scope, receive, send)
"""


def test_lines_without_end_and_without_text(place: Place) -> None:
    """A worker that prints nothing but ends of lines is ended in time, and what it still had to say is bounded."""
    place.write_module("floods", FLOODS)
    log = place.folder / "a.log"
    options = ("--demo", "--app", "floods:app", "--log-file", str(log))
    started = place.start(*options, PREFLIGHT_GRACEFUL_TIMEOUT="1s").until_ready()
    asking = place.spawn("curl", "-s", f"{place.url}/flood")
    until(lambda: log.stat().st_size > 100_000, "lines come")
    assert started.stop() == 0
    asking.kill()
    assert "The worker did not finish everything in time." in started.output
    started.left_nothing()


def test_what_is_read_of_a_child_at_its_end(tmp_path: Path) -> None:
    """What is there by then, and not what comes meanwhile, however short its lines are."""
    (tmp_path / "endless.py").write_text("import os\nwhile True:\n    os.write(1, b'\\n' * 65536)\n")
    child = Child("endless", tmp_path, {**os.environ, "PYTHONPATH": str(tmp_path)})
    try:
        until(lambda: len(child.read_output()) > 1000, "lines come")
        assert len(child.read_output()) <= 8192
        assert len(child.drain_output()) <= 2 * 65536
    finally:
        child.close()


LOUD = '''
import os
@pytest.mark.critical("Loud")
def test_loud(settings):
    """It is loud."""
    for _ in range(100):
        os.write(1, b"x" * (1 << 20))
        os.write(2, b"\\0" * (1 << 16))
    os.write(1, b"\\n" * 200_000)
    assert False, "w" * 20_000_000
'''


def test_a_requirement_that_prints_without_end(project: Place) -> None:
    """A hundred megabytes in one line, and a message of twenty: the launcher keeps little of it, and the run ends."""
    project.write_suite(HOLDS + LOUD)
    started = project.start(*DEMO, "--check-only")
    launcher, most = psutil.Process(started.pid), 0
    while started.process.poll() is None:
        try:
            most = max(most, launcher.memory_info().rss)
        except psutil.Error:
            break
    assert started.wait() == 1, started.output[-2000:]
    assert most < 120 * 1024 * 1024
    assert len(started.output) < 200_000


@pytest.mark.parametrize("what", ["a pipe", "a link to a pipe"])
def test_a_pipe_in_place_of_what_is_remembered(place: Place, what: str) -> None:
    """What a run has remembered is asked again where it cannot be read, instead of being waited for."""
    remembered = place.state / "imports.json"
    remembered.unlink()
    pipe = remembered if what == "a pipe" else place.folder / "pipe"
    os.mkfifo(pipe, 0o600)
    if pipe != remembered:
        remembered.symlink_to(pipe)
    started = checked(place, PREFLIGHT_REQUIREMENT_TIMEOUT="100s", PREFLIGHT_RUN_TIMEOUT="110s")
    assert started.process.returncode == 0, started.output
    assert remembered.is_file()


@pytest.mark.parametrize("what", ["/dev/zero", "a pipe"])
def test_an_env_file_without_an_end(place: Place, what: str) -> None:
    """It is named as what it is, by a start as by a command that only looks."""
    file = Path(what)
    if what == "a pipe":
        file = place.folder / "pipe"
        os.mkfifo(file, 0o600)
    started = checked_without_demo(place, PREFLIGHT_ENV_FILE=str(file))
    assert started.process.returncode == 1, started.output
    assert f"{file} is not a regular file" in started.output
    assert place.run("--port-status", PREFLIGHT_ENV_FILE=str(file)).process.returncode == 0


def checked_without_demo(place: Place, **environ: str) -> Started:
    options = ("--offline", "--app", "small:app", "--check-only")
    started = place.run(*options, PREFLIGHT_PYTHON=">=3.11", **environ)
    assert READY not in started.output
    return started


def test_signals_before_an_answer_to_a_flood(place: Place) -> None:
    """SIGINT ends one that is busy with the lines of its worker, like any other."""
    place.write_module("floods", FLOODS)
    started = place.start("--demo", "--app", "floods:app", PREFLIGHT_GRACEFUL_TIMEOUT="1s").until_ready()
    asking = place.spawn("curl", "-s", f"{place.url}/flood")
    until(lambda: len(started.stderr) > 10_000, "lines come")
    assert started.stop(signal.SIGINT) == 0
    asking.kill()
    started.left_nothing()
