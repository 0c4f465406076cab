"""The package in a project of somebody's: whose folder it is, what of it is found, and what may run."""

from __future__ import annotations

import os
import py_compile
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.doubles import SMALL
from tests.e2e.installing import LEFT_OUT, Adopter, adopt, install
from tests.e2e.place import BROKE, READY, ROOT, Place, get

OWN = '''
import pytest

@pytest.mark.critical("Own")
def test_own(details):
    """The project's own module is found."""
    import shop
    details.summary = shop.__file__
'''
NAMED = '[tool.preflight]\napp = "shop:app"\n'
# Prints which application is meant, and where that was found.
PRINTS = (
    "import sys\nfrom preflight import project\nfrom preflight.settings import loading\n"
    "options = {'app': sys.argv[2]} if '--app' in sys.argv else {}\n"
    "chosen = loading.load(project.of_command(), options=options)\n"
    "print(f'{chosen.app} ({chosen.place(\"app\")})', end='')\n"
)
WRITES = "import pathlib, os\npathlib.Path(os.environ['MARK']).write_text(str(os.getpid()))\n"


@pytest.fixture
def shop(adopter: Adopter) -> Adopter:
    """A project with an application that is named."""
    adopter.write("shop.py", SMALL)
    adopter.write("pyproject.toml", NAMED)
    return adopter


def ids_in(text: str) -> list[str]:
    return sorted(line for line in text.splitlines() if re.fullmatch(r"\S+\.py::\S+", line))


# Ids.


def test_ids_are_the_same_everywhere(shop: Adopter, place: Place) -> None:
    """From the checkout, from a subfolder of it and from the installed package, in a project and below it."""
    shop.write("preflight_suite/test_project.py", OWN)
    shop.write("src/empty.txt", "")
    listed = ("--collect-only", "-q")
    here = (sys.executable, "-m", "pytest")
    checkout = place.spawn(*here, "preflight", *listed)
    below = place.spawn(*here, ".", *listed, cwd=ROOT / "preflight" / "requirements")
    assert (checkout.wait(), below.wait()) == (0, 0), checkout.output + below.output
    ours = ids_in(checkout.stdout)
    assert "preflight/requirements/test_python.py::test_python_version" in ours
    assert ids_in(below.stdout) == ours
    expected = sorted([one for one in ours if one.partition("::")[0] not in LEFT_OUT] + [
        "preflight_suite/test_project.py::test_own"
    ])  # fmt: skip
    assert len(expected) < len(ours)
    named = ("--pyargs", "preflight.requirements")
    assert ids_in(shop.pytest(*named, "preflight_suite", *listed).stdout) == expected
    deeper = shop.pytest(*named, "../preflight_suite", *listed, cwd=shop.root / "src")
    assert ids_in(deeper.stdout) == expected, deeper.output
    shop.command("--check-only", "--port", str(shop.port))
    assert sorted(check["id"] for check in shop.report()["checks"]) == expected


def test_an_id_is_a_name_for_settings(shop: Adopter) -> None:
    """``--ignore`` and ``--preflight-ignore`` take the id of an installed requirement."""
    name = "preflight/requirements/test_python.py::test_python_version"
    shop.write("pyproject.toml", NAMED + 'python = ">=3.99"\n')
    assert shop.finding("Python Version", "--ignore", name)["outcome"] == "ignored"
    plain = shop.pytest("--pyargs", "preflight.requirements.test_python", f"--preflight-ignore={name}")
    assert shop.check("Python Version")["outcome"] == "ignored", plain.output


# The project.


def test_a_start(shop: Adopter) -> None:
    """The folder where it was typed is where the application works and where its modules are; then it serves."""
    shop.write("data.txt", "from the project")
    shop.write("shop.py", SMALL.replace('b"small"', "TEXT") + "\nTEXT = open('data.txt', 'rb').read()\nimport beside\n")
    shop.write("beside.py", "")
    shop.write("preflight_suite/test_project.py", OWN)
    started = shop.spawn(str(shop.installed / "bin" / "preflight"), "--port", str(shop.port)).until_says(READY)
    assert get(shop.url) == (200, "from the project")
    assert shop.check("Own")["message"] == str(shop.root / "shop.py")
    assert {check["outcome"] for check in shop.report()["checks"]} <= {"passed", "not_applicable"}
    assert started.stop() == 0
    assert not (shop.root / "preflight").exists()


def test_the_working_directory_may_be_below_the_root(shop: Adopter) -> None:
    """The nearest pyproject.toml upwards is the project's; the folder is that of the command."""
    (shop.root / "shop.py").rename(shop.write("src/shop.py", ""))
    done = shop.command("--check-only", "--port", str(shop.port), cwd=shop.root / "src")
    assert done.process.returncode == 0, done.output
    above = shop.command("--check-only", "--port", str(shop.port))
    assert above.process.returncode == 1
    assert "No module named 'shop'" in above.output


def test_modules_of_the_project_hide_none_of_ours(shop: Adopter) -> None:
    """The launcher has the folder nowhere; suite and worker have it after what they have imported themselves."""
    for name in ("rich", "psutil", "pytest", "uvicorn", "httptools", "dotenv", "selectors", "socket", "tomllib"):
        shop.write(f"{name}.py", WRITES + "raise RuntimeError('not to be imported')\n")
    for command in ([str(shop.installed / "bin" / "preflight")], [sys.executable, "-m", "preflight"]):
        one = shop.spawn(*command, "--check-only", "--port", str(shop.port), environ={"MARK": str(shop.folder / "m")})
        assert one.wait() == 0, one.output
    assert not (shop.folder / "m").exists()


@pytest.mark.parametrize("file", ["preflight.py", "preflight/__init__.py"])
def test_a_module_with_our_name_is_named(shop: Adopter, file: str) -> None:
    """One line says which file it is, and the command is still ours."""
    hidden = shop.write(file, "raise RuntimeError('not to be imported')\n")
    done = shop.command("--check-only", "--port", str(shop.port))
    assert done.process.returncode == 0, done.output
    (line,) = [line for line in done.output.splitlines() if "has the same name as this package" in line]
    assert line.startswith(f"preflight: note: {hidden} has the same name as this package: ")


IMPORTS_NOTHING = {
    "--port-status": ("--port-status",),
    "--free-port": ("--free-port",),
    "--free-port --dry-run": ("--free-port", "--dry-run"),
    "--history": ("--history",),
    "--version": ("--version",),
}


@pytest.mark.parametrize("how", IMPORTS_NOTHING)
def test_commands_that_import_nothing_of_the_project(shop: Adopter, how: str) -> None:
    """Neither the module of its settings nor anything else, though its settings are read."""
    shop.write("pyproject.toml", NAMED + f'settings = "declared:Own"\nport = {shop.port}\nspeed = 3\n')
    for name in ("declared", "shop", "conftest", "sitecustomize"):
        shop.write(f"{name}.py", WRITES)
    done = shop.command(*IMPORTS_NOTHING[how], environ={"MARK": str(shop.folder / "mark"), "PREFLIGHT_SPEED": "4"})
    assert done.process.returncode == 0, done.output
    assert not (shop.folder / "mark").exists()
    if how == "--port-status":
        assert f"Port    {shop.port}" in done.stdout


@pytest.mark.parametrize("how", ["--port-status", "--free-port", "--version"])
def test_any_folder_will_do(adopter: Adopter, how: str) -> None:
    """For what is about a port, or about us: one that anybody can write as well, and what stands there is not read."""
    adopter.write("pyproject.toml", "[tool.preflight]\nport = 1\n")
    adopter.root.chmod(0o777)
    done = adopter.command(how, "--host", "127.0.0.1", "--port", str(adopter.port))
    assert done.process.returncode == 0, done.output


# A folder or a file that others can write.


def planted(adopter: Adopter) -> dict[str, str]:
    """A pyproject.toml above the project that has its own code run, and the variable that says where that tells."""
    above = adopter.root.parent
    above.joinpath("evil.py").write_text(WRITES + SMALL)
    above.joinpath("preflight_suite").mkdir()
    above.joinpath("preflight_suite", "test_evil.py").write_text(WRITES)
    above.joinpath("pyproject.toml").write_text('[tool.preflight]\napp = "evil:app"\nsettings = "evil:S"\n')
    return {"MARK": str(adopter.folder / "mark"), "PYTHONPATH": f"{adopter.environ['PYTHONPATH']}:{above}"}


def test_a_pyproject_above_counts(adopter: Adopter) -> None:
    """One that nobody else can write: the project is then the folder above."""
    environ = planted(adopter)
    done = adopter.command("--check-only", "--port", str(adopter.port), environ=environ)
    assert (adopter.folder / "mark").exists(), done.output


@pytest.mark.parametrize("what", ["folder", "file", "sticky"])
def test_a_planted_pyproject_runs_nothing(adopter: Adopter, what: str) -> None:
    """The search ends where others can write; what is below is a project without one."""
    environ = planted(adopter)
    above = adopter.root.parent
    above.chmod({"folder": 0o777, "sticky": 0o1777}.get(what, 0o755))
    (above / "pyproject.toml").chmod(0o666 if what == "file" else 0o644)
    runs_nothing_above(adopter, environ, whole=what != "sticky")
    open_to_others = above / "pyproject.toml" if what == "file" else above
    note = f"{above / 'pyproject.toml'} is not used: {open_to_others} can be written by others"
    done = adopter.command("--history", environ=environ)  # which reads the settings and imports nothing
    assert f"preflight: note: {note}" in done.stderr.splitlines()


@pytest.mark.needs_root("gives a file to another user")
@pytest.mark.parametrize("what", ["pyproject.toml", "."])
def test_a_pyproject_of_another_user_runs_nothing(adopter: Adopter, what: str) -> None:
    """Neither this user's nor root's, whatever its mode."""
    environ = planted(adopter)
    os.chown(adopter.root.parent / what, 7373, 7373)
    runs_nothing_above(adopter, environ, whole=what == ".")


def runs_nothing_above(adopter: Adopter, environ: dict[str, str], *, whole: bool) -> None:
    """A check, or the settings alone, of the project below: nothing of the folder above is run, or mentioned."""
    adopter.write("shop.py", SMALL)
    if whole:
        done = adopter.command("--check-only", "--app", "shop:app", "--port", str(adopter.port), environ=environ)
    else:
        done = adopter.spawn(sys.executable, "-P", "-c", PRINTS, "--app", "shop:app", environ=environ)
        done.wait()
        assert done.stdout == "shop:app (option --app)"
    assert done.process.returncode == 0, done.output
    assert not (adopter.folder / "mark").exists()
    assert "evil" not in done.output


@pytest.mark.parametrize("what", [".", "pyproject.toml"])
def test_nothing_runs_in_a_folder_that_others_can_write(shop: Adopter, what: str) -> None:
    """The command says so, and what to do; so does pytest with the suite's plugin."""
    shop.write("shop.py", WRITES + SMALL)
    (shop.root / what).chmod(0o777)
    mark = str(shop.folder / "mark")
    done = shop.command("--check-only", "--port", str(shop.port), environ={"MARK": mark})
    assert done.process.returncode == 2, done.output
    file = shop.root if what == "." else shop.root / what
    assert f"preflight: error: {file} can be written by others: no project is run from there" in done.stderr
    shop.write("preflight_suite/conftest.py", WRITES)
    for suite in (("--pyargs", "preflight.requirements"), ("preflight_suite",)):
        assert shop.pytest(*suite, environ={"MARK": mark}).process.returncode == 4
    assert not Path(mark).exists()


# The application, and where it was found.

DJANGO = {
    "manage.py": 'import os\nos.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_a.settings")\n',
    "site_a/asgi.py": SMALL.replace("def app(", "def application("),
    "site_b/asgi.py": "",
}
FOUND = {
    "--app": ({"pyproject.toml": NAMED.replace("shop", "other")}, ["--app", "shop:app"], {}, "shop:app (option --app)"),
    "setting": ({"pyproject.toml": NAMED, **DJANGO}, [], {}, "shop:app (pyproject.toml:2: app)"),
    "variable": ({}, [], {"PREFLIGHT_APP": "shop:app"}, "shop:app (environment variable PREFLIGHT_APP)"),
    "fastapi": (
        {"pyproject.toml": '[tool.fastapi]\nentrypoint = "shop:app"\n', **DJANGO},
        [],
        {"LITESTAR_APP": "other:app"},
        "shop:app (pyproject.toml: [tool.fastapi] entrypoint)",
    ),
    "litestar": (DJANGO, [], {"LITESTAR_APP": "shop:app"}, "shop:app (LITESTAR_APP)"),
    "litestar in .env": ({".env": "LITESTAR_APP=shop:app\n"}, [], {}, "shop:app (LITESTAR_APP)"),
    "django": (DJANGO, [], {}, "site_a.asgi:application (site_a/asgi.py beside manage.py)"),
    "django, split settings": (
        {
            "manage.py": "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'config.settings.local')\n",
            "config/asgi.py": DJANGO["site_a/asgi.py"],
        },
        [],
        {},
        "config.asgi:application (config/asgi.py beside manage.py)",
    ),
}


@pytest.mark.parametrize("how", FOUND)
def test_the_application_is_found(adopter: Adopter, how: str) -> None:
    """Whoever has named it: the command, us, or a framework's own way to do so, in this order."""
    files, options, environ, shown = FOUND[how]
    for name, text in {"shop.py": SMALL, **files}.items():
        adopter.write(name, text).chmod(0o600)
    one = adopter.spawn(sys.executable, "-P", "-c", PRINTS, *options, environ=environ)
    assert one.wait() == 0, one.output
    assert one.stdout == shown


@pytest.mark.parametrize("how", ["--app", "litestar in .env", "django, split settings"])
def test_the_application_is_shown_with_its_source(adopter: Adopter, how: str) -> None:
    """What the requirement says of it."""
    files, options, environ, shown = FOUND[how]
    for name, text in {"shop.py": SMALL, **files}.items():
        adopter.write(name, text).chmod(0o600)
    found = adopter.finding("Application", *options, **environ)
    assert (found["outcome"], found["message"]) == ("passed", shown)


def test_a_project_where_much_is_wrong(adopter: Adopter) -> None:
    """A guess at the application is shown as one, with where it is from; and which versions are required is read."""
    adopter.write(
        "pyproject.toml",
        '[tool.fastapi]\nentrypoint = "gone:app"\n[project]\nname = "shop"\nversion = "1"\nrequires-python = ">=3.99"\n'
        'dependencies = ["psutil==1.0"]\n',
    )
    found = adopter.finding("Application")
    assert found["outcome"] == "failed"
    begins = "gone:app (pyproject.toml: [tool.fastapi] entrypoint) cannot be imported: ModuleNotFoundError"
    assert found["message"].startswith(begins)
    assert found["fix"].startswith(f"cd {adopter.root} && ")
    found = adopter.check("Python Version")
    assert found["outcome"] == "failed"
    assert found["message"].startswith("requires Python >=3.99, found 3.")
    assert adopter.check("Dependencies")["outcome"] == "failed"
    assert adopter.finding("Python Version", PREFLIGHT_PYTHON=">=3.11")["outcome"] == "passed", "our own setting wins"


def test_an_empty_project(adopter: Adopter) -> None:
    """What is missing is said, with how to name it; nobody asks for what nobody has declared or named."""
    found = adopter.finding("Application")
    assert found["outcome"] == "failed"
    assert found["message"].startswith("no application is named, and none was found in pyproject.toml")
    assert "--app" in found["fix"]
    found = adopter.check("Dependencies")
    assert found["outcome"] == "not_applicable"
    assert found["message"].startswith("nothing declares dependencies: ")
    found = adopter.check("Environment File")
    assert (found["outcome"], found["message"]) == (
        "not_applicable", f"not used: {adopter.root}/.env does not exist",
    )  # fmt: skip
    assert adopter.check("Environment File Permissions")["outcome"] == "not_applicable"


# What it requires.


def test_another_environment_serves_the_same(shop: Adopter) -> None:
    """What is installed with another Python has the routes, as this environment has them."""
    asked = "from preflight import dependencies; print(dependencies.of_project())"
    one = shop.spawn(sys.executable, "-P", "-c", asked)
    assert one.wait() == 0, one.output
    assert one.stdout.strip() == "['pytest-preflight[web]']"
    own = '[project]\nname = "shop"\nversion = "1"\ndependencies = ["rich"]\n[tool.preflight]\nextras = ["prod"]\n'
    shop.write("pyproject.toml", own + GROUPS)
    several = shop.spawn(sys.executable, "-P", "-c", asked)
    assert several.wait() == 0, several.output
    assert several.stdout.strip() == "['pytest-preflight[web]', 'psutil==1.0', 'rich']"


POETRY = """
[[package]]
name = "psutil"
version = "1.0"
groups = ["main"]

[[package]]
name = "not-there"
version = "1.0"
groups = ["dev"]

[[package]]
name = "nowhere"
version = "1.0"
groups = ["main"]
markers = 'sys_platform == "win32"'
"""
PYLOCK = """
lock-version = "1.0"
[[packages]]
name = "psutil"
version = "1.0"
[[packages]]
name = "not-there"
version = "1.0"
marker = "'dev' in dependency_groups"
"""
PROJECT = NAMED + '{extras}[project]\nname = "shop"\nversion = "1"\n'
REQUIREMENTS = """
# ours
--index-url https://example.org/simple
-r more.txt
./local
rich  # any
psutil==1.0 \\
    --hash=sha256:00
"""
PIPENV = '{"default": {"psutil": {"version": "==1.0"}}, "develop": {"x": {}}}'
PROD = 'extras = ["prod"]\n'
GROUPS = '[dependency-groups]\nbase = ["psutil==1.0"]\nprod = [{include-group = "base"}]\n'
DECLARED = {
    "[project]": ("pyproject.toml", PROJECT.replace("{extras}", "") + 'dependencies = ["psutil==1.0"]\n'),
    "an extra": (
        "pyproject.toml",
        PROJECT.replace("{extras}", PROD) + 'optional-dependencies.prod = ["psutil==1.0"]\n',
    ),
    "a group": ("pyproject.toml", PROJECT.replace("{extras}", PROD) + GROUPS),
    "requirements.txt": ("requirements.txt", REQUIREMENTS),
    "poetry.lock": ("poetry.lock", POETRY),
    "pylock.toml": ("pylock.toml", PYLOCK),
    "Pipfile.lock": ("Pipfile.lock", PIPENV),
}


@pytest.mark.parametrize("how", DECLARED)
def test_dependencies(shop: Adopter, how: str) -> None:
    """Those of [project], with the extras that are named, else of the lock or requirements file that there is."""
    file, text = DECLARED[how]
    shop.write("more.txt", "packaging\n")
    shop.write(file, text)
    one = shop.pytest("--pyargs", "preflight.requirements.test_dependencies")
    assert one.process.returncode == 1, one.output
    found = shop.check("Dependencies")
    assert found["outcome"] == "failed"
    assert re.fullmatch(r"psutil is [0-9.]+, but must be ==1\.0", found["message"])


def test_env_file_and_requirements_that_hold(shop: Adopter) -> None:
    """``.env`` beside pyproject.toml where there is one; and the word says which file declares the dependencies."""
    shop.write("requirements.txt", "-r more.txt\nrich\n")
    shop.write("more.txt", "packaging\n")
    shop.write(".env", "COLOUR=green\n").chmod(0o600)
    shop.write("shop.py", SMALL + "import os\nassert os.environ['COLOUR'] == 'green'\n")
    assert shop.finding("Environment File")["message"] == f"{shop.root}/.env, 1 variable"
    assert shop.check("Application")["outcome"] == "passed"
    found = shop.check("Dependencies")
    assert (found["outcome"], found["message"]) == ("passed", "2 packages; of requirements.txt")
    shop.write(".env", "no line\n")
    only = ("--pyargs", "preflight.requirements.test_environment")
    shop.pytest(*only)
    assert shop.check("Environment File")["outcome"] == "failed"
    shop.pytest(*only, environ={"PREFLIGHT_ENV_FILE": "prod.env"})
    assert shop.check("Environment File")["message"] == f"{shop.root}/prod.env does not exist"


def test_nothing_about_the_agent(shop: Adopter) -> None:
    """Neither its keys nor what it is asked for: no requirement names it, and no message does."""
    done = shop.command("--check-only", "--port", str(shop.port), "-v")
    assert done.process.returncode == 0, done.output
    assert not re.search(r"openai|perplexity|ki_autoagent|langgraph|3\.13\.8", done.output, re.IGNORECASE)


# The suite.


def test_the_suite_is_a_setting(shop: Adopter) -> None:
    """Packages that are installed, and folders of the project; ids are relative to either."""
    shop.write("checks/ready/test_project.py", OWN)
    package = shop.folder / "modules" / "acme_rules" / "deep"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text(
            "raise RuntimeError('nobody imports a suite to find it')\n" * (folder != package)
        )
    (package.parent / "__init__.py").write_text("")
    (package / "test_acme.py").write_text(OWN.replace('"Own"', '"Acme"'))
    shop.environ["PYTHONPATH"] += f":{shop.folder / 'modules'}"
    shop.write("pyproject.toml", NAMED + 'suite = ["preflight.requirements", "checks/ready", "acme_rules.deep"]\n')
    assert shop.finding("Own")["id"] == "checks/ready/test_project.py::test_own"
    assert shop.check("Acme")["id"] == "acme_rules/deep/test_acme.py::test_own"


@pytest.mark.parametrize(
    "names, said",
    [
        ('["preflight_suite"]', "suite must name preflight.requirements"),
        ('["preflight.requirements", "gone"]', "there is no package gone and no folder "),
        ('["preflight.requirements", "../other"]', "../other is not in "),
    ],
)
def test_a_suite_that_is_not_there(shop: Adopter, names: str, said: str) -> None:
    """That is a wrong setting, and is told with its line."""
    (shop.root.parent / "other").mkdir()
    shop.write("pyproject.toml", NAMED + f"suite = {names}\n")
    done = shop.command("--check-only")
    assert done.process.returncode == 2, done.output
    assert "preflight: error: pyproject.toml:3: suite" in done.stderr
    assert said in done.stderr


CLASS = "\nclass TestIt:\n    def __init__(self): ...\n    def test_x(self): ...\n"
LEAVES = "import pytest\npytest.skip('no', allow_module_level=True)\n"
OTHER = OWN.replace('"Own"', '"Other"')


def called(name: str) -> str:
    """The requirement under another name."""
    return OWN.replace('"Own"', f'"{name}"').replace("test_own", f"test_{name}")


# While the files are imported, when what was collected is compared with them, and where there is nothing to compare.
LOST = {
    "imports": {
        "test_a.py": ("import nowhere\n", "preflight_suite/test_a.py: cannot be collected"),
        "test_b.py": (LEAVES, "preflight_suite/test_b.py: left out as a whole"),
    },
    "comparison": {
        "checks.py": (
            called("checks"),
            "preflight_suite/checks.py, whose name is not that of a file of requirements",
        ),
        "test_a.py": (called("a") + CLASS, "preflight_suite/test_a.py::TestIt.test_x: not collected"),
        "test_b.py": (OWN + OTHER, "preflight_suite/test_b.py::test_own, replaced by another test of the same name"),
        "test_c.py": (called("c") + "    assert (False, 'no')\n", "preflight_suite/test_c.py:9: asserts a tuple"),
    },
    "conftest": {"conftest.py": ("collect_ignore_glob = ['*']\n", "not collected")},
}


@pytest.mark.parametrize("when", LOST)
def test_the_projects_own_requirements_are_held_to_the_same(shop: Adopter, when: str) -> None:
    """What was not asked, or cannot fail, breaks the run: nothing starts."""
    shop.write("preflight_suite/test_project.py", called("sound"))
    for file, (source, _said) in LOST[when].items():
        shop.write(f"preflight_suite/{file}", source)
    done = shop.command("--port", str(shop.port))
    assert done.process.returncode == 3, done.output
    assert BROKE in done.stdout
    shown = " ".join(done.stdout.split())
    assert {file: said for file, (_source, said) in LOST[when].items() if said not in shown} == {}, done.stdout


@pytest.fixture
def own_copy(tmp_path: Path) -> Iterator[Adopter]:
    """A project with an installation of its own, which may be changed."""
    adopter = adopt(tmp_path, install(tmp_path / "installed"))
    adopter.write("shop.py", SMALL)
    adopter.write("pyproject.toml", NAMED)
    yield adopter
    adopter.close()


@pytest.mark.parametrize("how", ["compiled from another text", "not collected"])
def test_the_installed_package_is_held_to_the_same(own_copy: Adopter, how: str) -> None:
    """A requirement of ours whose compiled form is not its file's, or that pytest does not collect, breaks the run."""
    folder = own_copy.installed / "lib" / "site-packages" / "preflight" / "requirements"
    file = folder / "test_python.py"
    if how == "not collected":
        (folder.parent / "checks.py").write_text(OWN)
    else:
        true, status = file.read_text(), file.stat()
        file.write_text(true.replace("assert fits", "assert True"))  # as long, and as old
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        py_compile.compile(str(file))
        file.write_text(true)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    done = own_copy.command("--port", str(own_copy.port))
    assert done.process.returncode == 3, done.output
    said = "preflight/checks.py, whose name is not that of a file" if how == "not collected" else "test_python.py"
    assert said in done.stdout


def test_a_requirement_has_a_deadline_of_its_own(shop: Adopter) -> None:
    """``timeout=`` in its marker, in seconds, shorter or longer than the setting."""
    slow = OWN.replace("import shop", "import time; time.sleep({})").replace("shop.__file__", "'slept'")
    shop.write("preflight_suite/test_short.py", slow.format(30).replace('"Own"', '"Short", timeout=0.2'))
    longer = slow.format(0.6).replace('"Own"', '"Long", timeout=20').replace("test_own", "test_long")
    shop.write("preflight_suite/test_long.py", longer)
    found = shop.finding("Short", PREFLIGHT_REQUIREMENT_TIMEOUT="20s")
    assert (found["outcome"], found["message"]) == ("timeout", "ran past its deadline of 0.2 s")
    shop.write("preflight_suite/test_short.py", slow.format(0).replace('"Own"', '"Short", timeout=True'))
    done = shop.command("--check-only")
    assert "its timeout has to be a number of seconds above 0" in done.stdout
