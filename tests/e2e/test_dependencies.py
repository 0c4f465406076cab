"""The requirement Dependencies, with real distributions of the test's own in a folder on the path."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from preflight.settings.statefolder import StateFolder
from tests.e2e.place import Place, Started, known_imports


class Shelf:
    """A folder with distributions, and a project that declares some."""

    def __init__(self, project: Place) -> None:
        self.place = project
        self.folder = project.folder / "modules"

    def put(self, name: str, version: str = "1.0", source: str | None = "", *metadata: str) -> Shelf:
        """Install a distribution with one module; None: with none."""
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        module = f"{name.replace('-', '_')}.py"
        (info / "RECORD").write_text(f"{module},,\n{info.name}/METADATA,,\n")
        if source is not None:
            (self.folder / module).write_text(source)
        return self

    def declare(self, dependencies: str) -> Shelf:
        """What stands in pyproject.toml's [project] after its name."""
        path = self.place.root / "pyproject.toml"
        text = path.read_text()
        text = re.sub(r"^(dynamic|extras) = .*\n", "", text, flags=re.MULTILINE)
        before, _, rest = text.partition("dependencies = [")
        path.write_text(before + dependencies + "\n" + rest.partition("\n]\n")[2])
        return self

    def ask(self, **environ: str) -> tuple[Started, dict[str, Any]]:
        """A run of this requirement alone, and its check."""
        command = (sys.executable, "-m", "pytest", "preflight/requirements/test_dependencies.py", "--demo")
        run = self.place.spawn(*command, environ=environ)
        run.wait()
        assert self.place.report_file.exists(), run.output
        found: dict[str, Any] = json.loads(self.place.report_file.read_text())["preflight"]["checks"][0]
        return run, found


def test_what_is_known_is_not_imported_again(place: Place) -> None:
    """A test's place begins with what a first run leaves. Without it, each start in a test takes twice as long."""
    assert place.run("--demo", "--check-only", "--app", "small:app").process.returncode == 0
    assert StateFolder(place.state).imports.read_bytes() == known_imports()


@pytest.fixture
def shelf(project: Place) -> Shelf:
    return Shelf(project)


def test_extras(shelf: Shelf) -> None:
    """What an extra needs is needed, and an extra of that as well."""
    shelf.put("base", "1.0", "", "Provides-Extra: socks", 'Requires-Dist: proxy[tls]>=2; extra == "socks"')
    shelf.declare('dependencies = ["base[socks]"]')
    _, found = shelf.ask()
    assert (found["outcome"], found["message"]) == ("failed", "proxy is not installed (for base[socks])")
    shelf.put("proxy", "1.5", "", "Provides-Extra: tls", "Requires-Dist: never-asked-for; extra == 'other'")
    assert shelf.ask()[1]["message"] == "proxy is 1.5, but must be >=2 (for base[socks])"
    (shelf.folder / "proxy-1.5.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: proxy\nVersion: 2.5\nProvides-Extra: tls\n"
        "Requires-Dist: tls-parts; extra == 'tls'\n"
    )
    assert shelf.ask()[1]["message"] == "tls-parts is not installed (for proxy[tls])"
    shelf.put("tls-parts")
    _, found = shelf.ask()
    assert (found["outcome"], found["details"]) == ("passed", {"base": "1.0", "proxy": "2.5", "tls-parts": "1.0"})


def test_what_an_installer_is_told(shelf: Shelf) -> None:
    """The extras as well, and where it comes from if that is not the index, where another one may have the name."""
    declared = ["a[socks]>=1", "b[a,b]", "c@https://packages.invalid/base-1.0-py3-none-any.whl", "d<2,>=1"]
    _, found = shelf.declare(f"dependencies = {json.dumps(declared)}").ask()
    said = "; ".join(f"{name} is not installed" for name in "abcd")
    assert (found["outcome"], found["message"]) == ("failed", said)
    assert shlex.split(found["fix"])[-4:] == declared


def test_metadata_that_nobody_understands(shelf: Shelf) -> None:
    """What is no requirement asks for nothing, an extra that is not there brings nothing, and both are said.

    An old installer took the one; today's warn of the other, and go on.
    """
    odd = "Requires-Dist: old (>=1.0.*)"
    shelf.put("base", "1.0", "", "Provides-Extra: socks", odd, f"{odd}; extra == 'socks'", f"{odd}; extra == 'other'")
    shelf.put("other")
    _, found = shelf.declare('dependencies = ["base[socks]", "other[sokcs]"]').ask()
    assert found["outcome"] == "passed", found
    needs = "base[socks] needs \"old (>=1.0.*); extra == 'socks'\", which is not a requirement"
    assert found["message"] == f"2 packages; {needs}; other has no extra 'sokcs'"


def test_dynamic(shelf: Shelf) -> None:
    """Nobody knows here what is needed: not applicable, with a word, and nothing blocks."""
    run, found = shelf.declare('dynamic = ["dependencies", "readme"]').ask()
    assert found["outcome"] == "not_applicable"
    said = 'pyproject.toml says dynamic = ["dependencies"]: only the build of the project knows them'
    assert found["message"] == said
    assert run.process.returncode == 0


FAILING = {
    "missing": ("import gone_missing", "ModuleNotFoundError: No module named 'gone_missing'"),
    "syntax": ("x = (", "SyntaxError"),
    "library": (
        "raise OSError('libz.so.1: cannot open shared object file')",
        "OSError: libz.so.1: cannot open shared object",
    ),
    "exits": ("raise SystemExit(3)", "SystemExit: 3"),
    "empty": (None, "ModuleNotFoundError: No module named 'empty'"),
}


def test_imports_that_fail(shelf: Shelf) -> None:
    """Installed, in the right version, and of no use, each for its own reason; what is printed disturbs nothing."""
    shelf.put("fine", "1.0", f"for name in {list(FAILING)}:\n    print('[\"' + name + '\", \"\"]')\n")
    for name, (source, _why) in FAILING.items():
        shelf.put(name, "1.0", source)
    run, found = shelf.declare(f"dependencies = {json.dumps(['fine', *FAILING])}").ask()
    assert found["outcome"] == "failed", found
    said = dict(one.split(" cannot be imported: ") for one in found["message"].split("; "))
    assert said.keys() == FAILING.keys()
    assert {name: said[name] for name, (_source, why) in FAILING.items() if not said[name].startswith(why)} == {}
    assert "install" in found["fix"]
    assert run.process.returncode == 1


@pytest.mark.parametrize(
    "source, code", [("import os; os._exit(5)", 5), ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", -11)]
)
def test_an_import_that_ends_the_process(source: str, code: int, shelf: Shelf) -> None:
    """It is named, and none of the others is."""
    shelf.put("fine").put("ends", "1.0", source)
    run, found = shelf.declare('dependencies = ["ends", "fine"]').ask()
    said = f"ends cannot be imported: its import ended the process (exit code {code})"
    assert (found["outcome"], found["message"]) == ("failed", said)
    assert run.process.returncode == 1


def test_an_import_that_does_not_end(shelf: Shelf) -> None:
    """It has its share of the requirement's time, and no process is left of it."""
    shelf.put("slow", "1.0", "import time; time.sleep(600)").put("fine")
    run, found = shelf.declare('dependencies = ["slow", "fine"]').ask(PREFLIGHT_REQUIREMENT_TIMEOUT="3s")
    assert (found["outcome"], found["message"]) == ("passed", "2 packages; there was not enough time to import slow")
    run.left_nothing()


def test_a_machine_on_which_imports_take_longer_than_there_is_time(shelf: Shelf) -> None:
    """Each run imports what the ones before it did not come to, and nothing twice."""
    asked = shelf.place.folder / "asked"
    lasting = f"import time; open({str(asked)!r}, 'a').write(__name__ + ' '); time.sleep(%s)"
    for name, seconds in (("first", 0), ("second", 600)):
        shelf.put(name, "1.0", lasting % seconds)
    shelf.declare('dependencies = ["first", "second"]')
    for ending in ("first second ", "first second second "):
        _run, found = shelf.ask(PREFLIGHT_REQUIREMENT_TIMEOUT="10s")
        assert found["message"] == "2 packages; there was not enough time to import second"
        assert asked.read_text() == ending
    asked.unlink()
    module = shelf.folder / "second.py"
    module.write_text(lasting % 0)
    assert shelf.ask()[1]["message"] == "2 packages"
    assert asked.read_text() == "first second "  # one has changed, which may be what the other one needs


def test_an_import_is_not_repeated(shelf: Shelf) -> None:
    """What was imported once is known, until something changes."""
    count = shelf.place.folder / "count"
    shelf.put("base", "1.0", f"open({str(count)!r}, 'a').write('x')").declare('dependencies = ["base"]')
    for times in (1, 1):
        assert shelf.ask()[1]["outcome"] == "passed"
        assert count.read_text() == "x" * times
    module = Path(shelf.folder / "base.py")
    module.write_text(module.read_text() + "\nraise ValueError('broken since')\n")
    for _ in range(2):
        assert shelf.ask()[1]["message"] == "base cannot be imported: ValueError: broken since"
    shelf.put("another")
    module.write_text("")
    assert shelf.ask()[1]["outcome"] == "passed"
