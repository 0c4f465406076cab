"""--init in a project of somebody's own: what it reads from the files, what it adds, and that it replaces nothing."""

from __future__ import annotations

import ast
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from preflight.command import line as commandline
from preflight.command.init import project, requirement, writing
from tests import trees
from tests.e2e.installing import FEW_PLUGINS

PYPROJECT, SUITE, CONFTEST = "pyproject.toml", "preflight_suite/test_project.py", "preflight_suite/conftest.py"
WRITTEN = [PYPROJECT, SUITE, CONFTEST]
ROOT = Path(__file__).parents[1]
FASTAPI = "from fastapi import FastAPI\napp = FastAPI()\n"
ordinary = pytest.mark.skipif(os.geteuid() == 0, reason="modes mean nothing to root")


@dataclass
class Outcome:
    code: int
    out: list[str]
    err: str
    root: Path

    def read(self, name: str) -> str:
        return (self.root / name).read_text(encoding="utf-8")

    @property
    def table(self) -> dict[str, Any]:
        table: dict[str, Any] = tomllib.loads(self.read(PYPROJECT))["tool"]["preflight"]
        return table

    @property
    def app(self) -> str | None:
        return self.table.get("app")

    @property
    def requirement(self) -> str:
        """Severity and title of the first requirement."""
        for node in ast.parse(self.read(SUITE)).body:
            if isinstance(node, ast.FunctionDef):
                mark = node.decorator_list[0]
                assert isinstance(mark, ast.Call)
                assert isinstance(mark.func, ast.Attribute)
                return f"{mark.func.attr} {ast.literal_eval(mark.args[0])}"
        raise AssertionError("no requirement")


Init = Callable[..., Outcome]


@pytest.fixture
def init(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Init:
    """Run --init on the files given, in an empty folder of its own unless there is one."""

    def run(
        files: dict[str, Any] | None = None, what: str = "project", *, below: str = "", dry_run: bool = False
    ) -> Outcome:
        trees.plant(tmp_path, files or {})
        capsys.readouterr()
        code = project.run(tmp_path, tmp_path / below, what, dry_run=dry_run, verbose=False)
        shown = capsys.readouterr()
        return Outcome(code, shown.out.splitlines(), shown.err, tmp_path)

    return run


def content(root: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(one.relative_to(root)): one.read_bytes() for one in sorted(root.rglob("*")) if one.is_file()}


# Projects.


@pytest.mark.parametrize(
    "files,app,requirement",
    [
        (trees.FASTAPI, "main:app", "critical Variable DATABASE_URL"),
        (trees.DJANGO, "mysite.asgi:application", "critical Database File"),
        (trees.LITESTAR, "app:app", "critical Variable SHOP_REDIS_URL"),
        (trees.ASGI, "service:app", "critical Model File"),
    ],
    ids=["fastapi", "django", "litestar", "asgi"],
)
def test_a_project_gets_its_application_and_a_requirement_of_its_own(
    init: Init, files: dict[str, str], app: str, requirement: str
) -> None:
    """Three files are added, each with a line that says why, and nothing else is touched."""
    made = init(files)
    assert (made.code, made.err) == (0, "")
    said = [line.split(":")[0] for line in made.out if "ready-made" not in line]
    assert said == [*(f"Wrote {name}" for name in WRITTEN), "Now run"]
    assert made.out[-1] == "Now run: preflight --check-only"
    assert made.table == {"app": app, "suite": ["preflight.requirements", "preflight_suite"]}
    assert made.requirement == requirement
    assert content(made.root).keys() == {*files, *WRITTEN}
    assert all(content(made.root)[name] == text.encode() for name, text in files.items())


def test_what_was_found_is_said_with_its_place(init: Init) -> None:
    """Whoever reads the line, the settings or the requirement sees which line of the code they come from."""
    made = init(trees.FASTAPI)
    assert 'the application "main:app" (main.py:7: FastAPI())' in made.out[0]
    assert (
        'a first requirement, critical "Variable DATABASE_URL": shop/db.py:3 needs the variable DATABASE_URL.'
        in made.out[1]
    )
    assert 'app = "main:app"  # main.py:7: FastAPI()' in made.read(PYPROJECT)
    assert "# shop/db.py:3 needs the variable DATABASE_URL.\n" in made.read(SUITE)
    assert "#   MAIL_KEY (shop/db.py:4)\n" in made.read(SUITE)
    assert "REGION" not in made.read(SUITE)


def test_a_dry_run_says_the_same_and_writes_nothing(init: Init) -> None:
    """The lines differ in their verb alone, and the folder is as it was."""
    planned = init(trees.FASTAPI, dry_run=True)
    assert content(planned.root).keys() == trees.FASTAPI.keys()
    made = init(trees.FASTAPI)
    assert [line.replace("Would write", "Wrote") for line in planned.out] == made.out
    planned = init({PYPROJECT: "[project]\nname = 'x'\n"}, dry_run=True)
    assert planned.out[0].startswith("Would add to pyproject.toml: ")


def test_a_second_time_nothing_changes(init: Init) -> None:
    """Each file that is there is named, and left as it is."""
    before = content(init(trees.FASTAPI).root)
    again = init()
    assert again.code == 0
    assert again.out == [
        "Left pyproject.toml as it is: it has [tool.preflight].",
        "Left preflight_suite/test_project.py as it is: the file exists.",
        "Left preflight_suite/conftest.py as it is: the file exists.",
    ]
    assert content(again.root) == before


def test_nothing_of_the_project_is_imported(init: Init) -> None:
    """A module that does something when it is imported does nothing."""
    trap = "import pathlib\npathlib.Path(__file__).with_name('imported').touch()\n"
    made = init({"main.py": trap + FASTAPI, "conftest.py": trap, "setup.py": trap, "sitecustomize.py": trap})
    assert made.app == "main:app"
    assert not (made.root / "imported").exists()


# The application.


@pytest.mark.parametrize(
    "files,app",
    [
        ({"main.py": FASTAPI}, "main:app"),
        ({"api.py": "import fastapi as f\nservice: f.FastAPI = f.FastAPI()\n"}, "api:service"),
        ({"m.py": "from starlette.applications import Starlette as S\napp = S()\n"}, "m:app"),
        ({"m.py": "from quart import Quart\napp = Quart(__name__)\n"}, "m:app"),
        ({"m.py": "from sanic import Sanic\napp = Sanic('x')\n"}, "m:app"),
        ({"m.py": "from blacksheep import Application\napp = Application()\n"}, "m:app"),
        ({"m.py": "import falcon.asgi\napp = falcon.asgi.App()\n"}, "m:app"),
        (
            {"m.py": "from channels.routing import ProtocolTypeRouter\napplication = ProtocolTypeRouter({})\n"},
            "m:application",
        ),
        ({"m.py": "from datasette.app import Datasette\napp = Datasette([]).app()\n"}, "m:app"),
        ({"m.py": "from datasette.app import Datasette\nds = Datasette([])\n"}, "m:ds.app"),
        ({"m.py": "from fastmcp import FastMCP\nmcp = FastMCP('x')\n"}, "m:mcp.http_app"),
        ({"m.py": "from fastmcp import FastMCP\nmcp = FastMCP('x')\napp = mcp.http_app()\n"}, "m:app"),
        ({"m.py": "from mcp.server.fastmcp import FastMCP\nmcp = FastMCP('x')\n"}, "m:mcp.streamable_http_app"),
        ({"m.py": "class A:\n    async def __call__(self, scope, receive, send): ...\napp = A()\n"}, "m:app"),
        ({"m.py": "from fastapi import FastAPI\nclass Api(FastAPI): ...\napi = Api()\n"}, "m:api"),
        (
            {"m.py": "from fastapi import FastAPI\ndef create_app():\n    app = FastAPI()\n    return app\n"},
            "m:create_app",
        ),
        ({"m.py": "from fastapi import FastAPI\ndef make() -> FastAPI:\n    return other()\n"}, "m:make"),
        ({"m.py": "from fastapi import FastAPI\ndef make():\n    return FastAPI()\napp = make()\n"}, "m:app"),
        (
            {
                "shop/__init__.py": "from fastapi import FastAPI\ndef create_app(): return FastAPI()\n",
                "wsgi.py": "from shop import create_app\napp = create_app()\n",
            },
            "wsgi:app",
        ),
        ({"m.py": FASTAPI + "from x import Wrapper\napp = Wrapper(app)\n"}, "m:app"),
        (
            {"m.py": "try:\n    from fastapi import FastAPI\n    app = FastAPI()\nexcept ImportError:\n    raise\n"},
            "m:app",
        ),
        ({"a.py": FASTAPI, "b.py": FASTAPI, "Procfile": "web: uvicorn b:app --port $PORT\n"}, "b:app"),
        ({"a.py": FASTAPI, "b.py": FASTAPI, "Dockerfile": 'CMD ["uvicorn", "--port", "80", \\\n  "b:app"]\n'}, "b:app"),
        ({"a.py": FASTAPI, "b.py": FASTAPI, "x.py": "import uvicorn\nuvicorn.run('b:app')\n"}, "b:app"),
        (
            {"a.py": FASTAPI, "b.py": FASTAPI + "import uvicorn\nif __name__ == '__main__':\n    uvicorn.run(app)\n"},
            "b:app",
        ),
        ({"main.py": FASTAPI, "Procfile": "web: uvicorn gone:app\n"}, "main:app"),
        ({"app.py": FASTAPI, "main.py": FASTAPI, "asgi.py": FASTAPI}, "asgi:app"),
        ({"deep/down/main.py": FASTAPI, "main.py": FASTAPI}, "main:app"),
        ({"tests/main.py": FASTAPI, "docs/app.py": FASTAPI, "test_app.py": FASTAPI, "z.py": FASTAPI}, "z:app"),
        ({"src/shop/main.py": FASTAPI, "src/shop/__init__.py": ""}, "src.shop.main:app"),
        ({"src/shop/main.py": FASTAPI, PYPROJECT: "[build-system]\nrequires = []\n"}, "shop.main:app"),
        ({"shop/__init__.py": FASTAPI}, "shop:app"),
        (
            {"src/py/app/asgi.py": FASTAPI, "src/py/app/__init__.py": "", PYPROJECT: "[build-system]\nrequires = []\n"},
            "app.asgi:app",
        ),
        ({"backend/app/asgi.py": FASTAPI, "backend/app/__init__.py": ""}, "backend.app.asgi:app"),
        (
            {"src/shop/main.py": FASTAPI, "src/__init__.py": "", "src/shop/__init__.py": "", "setup.py": ""},
            "src.shop.main:app",
        ),
        (
            {
                "m.py": "import uvicorn\nconfig = uvicorn.Config('x')\nserver = uvicorn.Server(config)\n",
                "z.py": FASTAPI,
            },
            "z:app",
        ),
        ({"main.py": FASTAPI, "other.py": "broken ("}, "main:app"),
    ],
)
def test_the_application_is_found(init: Init, files: dict[str, str], app: str) -> None:
    """As frameworks make it, as it is started elsewhere, and otherwise under the likeliest name."""
    assert init(files).app == app


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"m.py": "from flask import Flask\napp = Flask(__name__)\n"},
        {"m.py": "class FastAPI: ...\napp = FastAPI()\n"},
        {"m.py": "from fastapi import FastAPI\ndef make(settings):\n    return FastAPI()\n"},
        {"m.py": "from fastapi import FastAPI\nif __name__ == '__main__':\n    app = FastAPI()\n"},
        {"my-app.py": FASTAPI},
        {"class.py": FASTAPI},
        {"venv/x.py": FASTAPI, "node_modules/x.py": FASTAPI, ".hidden/x.py": FASTAPI, "a/site-packages/x.py": FASTAPI},
        {"anything/pyvenv.cfg": "", "anything/lib/x.py": FASTAPI},
    ],
    ids=["nothing", "wsgi", "another", "arguments", "script", "dash", "keyword", "skipped", "environment"],
)
def test_where_there_is_none_it_says_so(init: Init, files: dict[str, str]) -> None:
    """What cannot be served or imported by its name is not named, and the settings say where it belongs."""
    made = init(files)
    assert made.app is None
    assert "no ASGI application was found, so name yours there (app)" in made.out[0]
    assert '# app = "my_package.main:app"\n' in made.read(PYPROJECT)


def test_what_pyproject_says_to_everybody_is_not_said_twice(init: Init) -> None:
    """FastAPI's own entry is where the preflight looks as well."""
    made = init({"main.py": FASTAPI, PYPROJECT: '[tool.fastapi]\nentrypoint = "shop.main:app"\n'})
    assert made.app is None
    assert '# app = "shop.main:app"  # [tool.fastapi] entrypoint says so\n' in made.read(PYPROJECT)


def test_others_that_could_be_meant_are_named(init: Init) -> None:
    """People see what was guessed, and between what."""
    made = init({"main.py": FASTAPI, "admin.py": FASTAPI})
    assert '# Also found: "admin:app" (admin.py:2: FastAPI())\n' in made.read(PYPROJECT)


def test_in_a_folder_below_names_are_that_folders_and_paths_the_projects(init: Init) -> None:
    """The folder where the command is typed is on the import path; settings and suite are beside pyproject.toml."""
    files = {f"backend/{name}": text for name, text in trees.FASTAPI.items()}
    made = init({**files, PYPROJECT: "[project]\nname = 'x'\n"}, below="backend")
    assert made.app == "main:app"
    assert "# backend/main.py:7: FastAPI()" in made.read(PYPROJECT)
    assert "backend/shop/db.py:3" in made.out[1]
    assert not (made.root / "backend" / PYPROJECT).exists()


# Variables.


READ = "from fastapi import FastAPI\nimport os\nfrom os import environ, getenv\napp = FastAPI()\n"
PYDANTIC = (
    READ + "from pydantic import Field, SecretStr\nfrom pydantic_settings import BaseSettings, SettingsConfigDict\n"
)


@pytest.mark.parametrize(
    "code,requirement",
    [
        ("os.environ['KEY']", "critical Variable KEY"),
        ("environ['KEY']", "critical Variable KEY"),
        ("env = os.environ\nenv['KEY']", "critical Variable KEY"),
        ("def f():\n    return os.environ['KEY']", "critical Variable KEY"),
        ("os.getenv('KEY')", "warning Variable KEY"),
        ("getenv('KEY', None)", "warning Variable KEY"),
        ("os.environ.get('KEY')", "warning Variable KEY"),
        ("k = os.getenv('KEY')\nif not k:\n    raise SystemExit", "critical Variable KEY"),
        ("k = os.getenv('KEY', '')\nif k == '':\n    import sys\n    sys.exit(1)", "critical Variable KEY"),
        ("k = os.getenv('KEY')\nif k:\n    print(k)", "warning Variable KEY"),
        ("os.environ['LCD_KEY']", "critical Variable LCD_KEY"),
        ("os.environ['LC_ALL'], os.environ['PYTHONPATH'], os.environ['PREFLIGHT_TOKEN']", ""),
        ("os.getenv('KEY', 'x')", ""),
        ("os.getenv('KEY') or 'x'", ""),
        ("try:\n    os.environ['KEY']\nexcept KeyError:\n    pass", "warning Variable KEY"),
        ("try:\n    os.environ['KEY']\nexcept KeyError:\n    raise RuntimeError", "critical Variable KEY"),
        ("if 'KEY' in os.environ:\n    os.environ['KEY']", "warning Variable KEY"),
        ("os.environ['KEY'] = 'x'\nos.environ['KEY']", ""),
        ("os.environ.setdefault('KEY', 'x')\nos.environ['KEY']", ""),
        ("if __name__ == '__main__':\n    os.environ['KEY']", ""),
        ("os.environ['HOME'], os.environ['PREFLIGHT_PORT'], os.environ['DJANGO_SETTINGS_MODULE']", ""),
        ("os.environ[f'KEY']\nos.environ[name]", ""),
        ("os.getenv('OTHER'), os.environ['KEY']", "critical Variable KEY"),
        ("os.environ['ZONE'], os.environ['API_TOKEN'], os.environ['PAGE_URL']", "critical Variable PAGE_URL"),
        ("os.environ['PAGE_URL'], os.environ['DB_URL']", "critical Variable DB_URL"),
        ("from decouple import config\nconfig('KEY')", "critical Variable KEY"),
        ("from decouple import config\nconfig('KEY', default=1)", ""),
        ("import environ as e\nenv = e.Env()\nenv('KEY')", "critical Variable KEY"),
        ("import environ as e\nenv = e.Env()\nenv.db()", "critical Variable DATABASE_URL"),
        ("from environs import Env\nenv = Env()\nenv.int('KEY')", "critical Variable KEY"),
        ("from environs import Env\nenv = Env()\nenv.int('KEY', 3)", ""),
        ("from starlette.config import Config\nc = Config('.env')\nc('KEY')", "critical Variable KEY"),
    ],
)
def test_a_variable_is_what_the_code_reads_and_has_no_other_value_for(init: Init, code: str, requirement: str) -> None:
    """It blocks a start only where the code fails without it."""
    made = init({"main.py": f"{READ}{code}\n"})
    assert made.requirement == (requirement or "warning Temporary Folder")


@pytest.mark.parametrize(
    "fields,requirement",
    [
        ("    key: str", "critical Variable KEY"),
        ("    key: SecretStr = Field(...)", "critical Variable KEY"),
        ("    key: str | None", ""),
        ("    key: str = 'x'", ""),
        ("    key: str = Field('x')", ""),
        ("    key: str = Field(default_factory=str)", ""),
        ("    key: str = Field(alias='OTHER_KEY')", "critical Variable OTHER_KEY"),
        ("    key: Database", ""),
        ("    model_config = SettingsConfigDict(env_prefix='APP_')\n    key: str", "critical Variable APP_KEY"),
        ("    class Config:\n        env_prefix = 'APP_'\n    key: str", "critical Variable APP_KEY"),
        ("    model_config = SettingsConfigDict(env_prefix=prefix)\n    key: str", ""),
        ("    model_config = SettingsConfigDict(secrets_dir='/run/secrets')\n    key: str", "warning Variable KEY"),
        ("    model_config = SettingsConfigDict(env_file=somewhere)\n    key: str", "warning Variable KEY"),
        ("    model_config = SettingsConfigDict(env_file=('a', 'b'))\n    key: str", "warning Variable KEY"),
        ("    @field_validator('key', mode='before')\n    def f(cls, v): ...\n    key: str", "critical Variable KEY"),
        ("    @model_validator(mode='before')\n    def f(cls, v): ...\n    key: str", "warning Variable KEY"),
        ("    @model_validator(mode='after')\n    def f(self): ...\n    key: str", "critical Variable KEY"),
        ("    @classmethod\n    def settings_customise_sources(cls): ...\n    key: str", "warning Variable KEY"),
    ],
)
def test_a_field_of_pydantic_settings_is_a_variable(init: Init, fields: str, requirement: str) -> None:
    """Prefix and alias are kept; where its value may come from elsewhere, it does not block."""
    made = init({"main.py": f"{PYDANTIC}class Settings(BaseSettings):\n{fields}\n"})
    assert made.requirement == (requirement or "warning Temporary Folder")


def test_an_env_file_above_the_folder_is_named_from_there(init: Init) -> None:
    """As a repository with a backend and a frontend has it."""
    fields = "    model_config = SettingsConfigDict(env_file='../.env')\n    key: str\n"
    files = {"backend/main.py": f"{PYDANTIC}class S(BaseSettings):\n{fields}", "config/.env": "KEY=1\n"}
    made = init({name.replace("backend", "config/b"): text for name, text in files.items()}, below="config/b")
    assert made.table["env_file"] == "config/.env"
    assert made.requirement == "critical Variable KEY"


def test_only_what_the_application_imports_counts(init: Init) -> None:
    """Scripts, tests and what lies about need variables that the server does without."""
    made = init(
        {
            "main.py": FASTAPI + "from pkg.used import x\n",
            "pkg/__init__.py": "from . import inner\n",
            "pkg/inner.py": "import os\nos.environ['INNER']\n",
            "pkg/used.py": "",
            "pkg/unused.py": "import os\nos.environ['UNUSED_DATABASE_URL']\n",
            "deploy.py": "import os\nos.environ['CLOUD_DATABASE_URL']\n",
        }
    )
    assert made.requirement == "critical Variable INNER"
    assert "UNUSED" not in made.read(SUITE)
    assert "CLOUD" not in made.read(SUITE)


def test_django_reads_the_settings_that_asgi_names(init: Init) -> None:
    """Modules that are named as texts are imported as well."""
    settings = trees.DJANGO["mysite/settings.py"] + "import os\nSECRET_KEY = os.environ['SECRET_KEY']\n"
    made = init({**trees.DJANGO, "mysite/settings.py": settings})
    assert made.requirement == "critical Variable SECRET_KEY"


def test_the_env_file_is_where_the_code_says(init: Init) -> None:
    """One that is there is named in the settings; one that is not is a comment, for it need not be there."""
    code = (
        PYDANTIC
        + "class S(BaseSettings):\n    model_config = SettingsConfigDict(env_file='config/app.env')\n    key: str\n"
    )
    made = init({"main.py": code})
    assert "env_file" not in made.table
    assert '# env_file = "config/app.env"' in made.read(PYPROJECT)
    assert made.requirement == "warning Variable KEY", "the file may be there tomorrow, and the settings do not name it"
    shutil.rmtree(made.root / "preflight_suite")
    (made.root / PYPROJECT).unlink()
    made = init({"config/app.env": "KEY=1\n"})
    assert made.table["env_file"] == "config/app.env"
    assert made.requirement == "critical Variable KEY"
    assert 'fix="set KEY in the environment or in config/app.env"' in made.read(SUITE)


@pytest.mark.parametrize(
    "code,files,requirement",
    [
        ("load('models/a.joblib')", {"models/a.joblib": "x"}, "critical Model File"),
        ("load('models/a.joblib')", {}, "warning Model File"),
        ("load(path='a.pt')", {"a.pt": "x"}, "critical Model File"),
        ("load(os.path.join(BASE, 'm', 'a.onnx'))", {"m/a.onnx": "x"}, "critical Model File"),
        ("M = BASE / 'm' / 'a.gguf'", {"m/a.gguf": "x"}, "critical Model File"),
        ("joblib.dump(model, 'a.joblib')", {}, ""),
        ("load('/opt/a.pt'), load('../a.pt'), load('https://x/a.pt')", {}, ""),
        ("create_engine('sqlite:///./app.db')", {}, "critical Database File"),
        ("create_engine('sqlite+aiosqlite:///data/app.db?x=1')", {}, "critical Database File"),
        ("create_engine('sqlite://'), create_engine('sqlite:////var/x.db')", {}, ""),
        ("create_engine('postgresql://u:p@h/d')", {}, ""),
    ],
)
def test_a_file_that_the_code_names(init: Init, code: str, files: dict[str, str], requirement: str) -> None:
    """A model that is there is needed; a database has to be writable; what is outside the project is not judged."""
    made = init({"main.py": f"{READ}{code}\n", **files})
    assert made.requirement == (requirement or "warning Temporary Folder")


def test_without_anything_to_ask_an_example_says_that_it_is_one(init: Init) -> None:
    """It holds, and nobody takes it for something about the project."""
    made = init({"main.py": FASTAPI})
    assert made.requirement == "warning Temporary Folder"
    assert "an example, because no variable, database or model was found in the code" in made.out[1]


# Ready-made requirements that are proposed.


def proposed(made: Outcome) -> dict[str, str]:
    """The calls that the suite's comments propose, by name; each is Python that makes a requirement."""
    lines = [line[2:] for line in made.read(SUITE).splitlines() if line.startswith("# test_")]
    return {line.partition(" = ")[0]: line.partition(" = ")[2].partition("  #")[0] for line in lines}


CANARY = "canary-5ba1c3"
COMPOSE = f"""services:
  web:
    build: .
    ports: ["8000:8000"]
    environment:
      - QUEUE_URL=amqp://shop:{CANARY}@queue/shop
  db:
    image: "pgvector/pgvector:pg16"
    environment:
      POSTGRES_PASSWORD: {CANARY}
      ADMIN_URL: http://admin:{CANARY}@db
    ports:
      - "127.0.0.1:5433:5432"
  cache:
    image: docker.io/library/redis:7
    ports:
    - target: 6379
      published: "6380"
  queue:
    image: rabbitmq
    ports: ["15672:15672", "5672:5672"]
  stream:
    image: nats:2
    ports: ["8222:8222", "4222:4222"]
  hidden:
    image: mongo:7
    expose: ["27017"]
"""
SERVICES = {
    "test_service_db": 'ready.tcp("127.0.0.1:5433")',
    "test_service_cache": 'ready.tcp("127.0.0.1:6380")',
    "test_service_stream": 'ready.tcp("127.0.0.1:4222")',
    "test_queue_url": 'ready.tcp("QUEUE_URL")',
}
ANY_URL = "[A-Za-z][A-Za-z0-9+.-]*://.+"
MCP = {
    "mcpServers": {
        "files": {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-filesystem", "."]},
        "secretive": {"command": "server", "args": ["--token", CANARY]},
        "assigned": {"command": "server", "args": [f"KEY={CANARY}"]},
        "search": {"url": "https://tools.example/mcp"},
        "hidden": {"url": f"https://tools.example/mcp?key={CANARY}"},
    }
}


@pytest.mark.parametrize(
    "files, expected",
    [
        ({".env": f"SHOP_DB=postgresql+asyncpg://u:{CANARY}@h/d\n"}, {"test_shop_db": 'ready.postgres("SHOP_DB")'}),
        ({".env": f"export CACHE='redis://:{CANARY}@h'\n"}, {"test_cache": 'ready.redis("CACHE")'}),
        ({".env": f"BROKER=amqp://u:{CANARY}@h\n"}, {"test_broker": 'ready.tcp("BROKER")'}),
        ({".env.example": "OPENAI_API_KEY=\n"}, {"test_openai_api_key": 'ready.api_key("OPENAI_API_KEY")'}),
        ({".env": f"TOKEN={CANARY}\nNAME=shop\nODD={CANARY}://h\nSTATIC_URL=/{CANARY}/\n"}, {}),
        (
            {"main.py": f"import os\n{FASTAPI}URL = os.environ['REDIS_URL']\n"},
            {"test_redis_url": 'ready.redis("REDIS_URL")'},
        ),
        ({"alembic.ini": "[alembic]\n"}, {"test_migrations": 'ready.migrations("alembic")'}),
        ({PYPROJECT: "[tool.alembic]\n"}, {"test_migrations": 'ready.migrations("alembic")'}),
        ({"manage.py": "import click\n"}, {}),
        (
            {"alembic.ini": "", "manage.py": "import django\n"},
            {
                "test_migrations_alembic": 'ready.migrations("alembic")',
                "test_migrations_django": 'ready.migrations("django")',
            },
        ),
        ({"compose.yaml": COMPOSE}, SERVICES),
        (
            {"compose.yaml": COMPOSE, ".env": f"DATABASE_URL=postgres://u:{CANARY}@db/d\n"},
            {"test_database_url": 'ready.postgres("DATABASE_URL")', **SERVICES} | {"test_service_db": None},
        ),
        (
            {"compose.yaml": COMPOSE, ".env": f"CACHE=redis://:{CANARY}@localhost:6380/0\n"},
            {"test_cache": 'ready.redis("CACHE")', **SERVICES} | {"test_service_cache": None},
        ),
        (
            {"compose.yaml": COMPOSE, ".env": f"CACHE=redis://:{CANARY}@elsewhere.example\n"},
            {"test_cache": 'ready.redis("CACHE")', **SERVICES},
        ),
        (
            {"mcp.json": json.dumps(MCP)},
            {
                "test_mcp_files": 'ready.mcp_server(["npx", "-y", "@modelcontextprotocol/server-filesystem", "."])',
                "test_mcp_search": 'ready.mcp_server("https://tools.example/mcp")',
            },
        ),
        (
            {
                "langgraph.json": '{"graphs": {"agent": "./src/agent.py:graph"}, "env": "conf.env"}',
                "conf.env": f"ANTHROPIC_API_KEY={CANARY}\n",
            },
            {
                "test_anthropic_api_key": 'ready.api_key("ANTHROPIC_API_KEY")',
                "test_graph_agent": 'ready.file("src/agent.py")',
            },
        ),
    ],
)  # fmt: skip
def test_ready_made_requirements_are_proposed(
    init: Init, files: dict[str, str], expected: dict[str, str | None]
) -> None:
    """As comments that are valid once the comment sign is gone; no value comes out."""
    made = init({"main.py": FASTAPI, **files})
    calls = {name: call for name, call in expected.items() if call is not None}
    assert proposed(made) == calls
    assert CANARY not in made.read(SUITE) + "\n".join(made.out) + made.err
    from preflight import ready

    for call in calls.values():
        assert callable(eval(call, {"ready": ready}))
    ast.parse(made.read(SUITE).replace("# from preflight", "from preflight").replace("# test_", "test_"))


@pytest.mark.parametrize(
    "code, call",
    [
        ("os.environ['DATABASE_URL']", 'postgres("DATABASE_URL")'),
        ("os.environ['SHOP_DATABASE_URI']", 'postgres("SHOP_DATABASE_URI")'),
        ("os.environ['POSTGRES_URL']", 'postgres("POSTGRES_URL")'),
        ("os.environ['CACHE_REDIS_URL']", 'redis("CACHE_REDIS_URL")'),
        ("os.environ['MYSQL_DATABASE_URL']", 'tcp("MYSQL_DATABASE_URL")'),
        ("os.environ['UPGRADE_URL']", f'variable("UPGRADE_URL", matches="{ANY_URL}")'),
        ("os.environ['PREDISPOSE_URL']", f'variable("PREDISPOSE_URL", matches="{ANY_URL}")'),
        ("os.environ['POSTGRES_EXPORTER_URL']", f'variable("POSTGRES_EXPORTER_URL", matches="{ANY_URL}")'),
        ("os.environ['SENTRY_DSN']", 'variable("SENTRY_DSN")'),
        ("os.environ['CURL']", ""),
        ("os.getenv('STORE_URL', 'sqlite:///./shop.db')", 'sqlite(variable="STORE_URL")'),
        ("os.getenv('DATABASE_URL') or 'sqlite+aiosqlite:///shop.db'", 'sqlite(variable="DATABASE_URL")'),
        ("os.getenv('DATABASE_URL', 'sqlite://')", f'variable("DATABASE_URL", matches="{ANY_URL}")'),
        (f"os.getenv('DATABASE_URL', 'mysql+pymysql://u:{CANARY}@h/d')", 'tcp("DATABASE_URL")'),
        (f"os.getenv('STORE', 'mongodb://u:{CANARY}@h/d')", 'tcp("STORE")'),
        (f"os.getenv('STORE_URL', 'mongodb+srv://u:{CANARY}@h/d')", f'variable("STORE_URL", matches="{ANY_URL}")'),
        ("os.getenv('PRICES', 'https://prices.example')", 'http("PRICES")'),
        (
            f"os.getenv('SLACK_WEBHOOK_URL', 'https://h/{CANARY}')",
            f'variable("SLACK_WEBHOOK_URL", matches="{ANY_URL}")',
        ),
        ("os.getenv('BACKEND_URL', 'backend:8000')", 'tcp("BACKEND_URL")'),
        ("os.getenv('IMAGE', 'python:3.11')", ""),
    ],
)
def test_a_variable_leads_where_its_value_or_its_words_say(init: Init, code: str, call: str) -> None:
    """A scheme decides where there is one; a part of a word is no word; and what nobody knows is a URL like others."""
    made = init({"main.py": f"{READ}{code}\n"})
    assert list(proposed(made).values()) == [f"ready.{call}"] * bool(call)
    assert CANARY not in made.read(SUITE) + "\n".join(made.out)


@pytest.mark.parametrize(
    "field, call",
    [
        (f"store: PostgresDsn = 'postgresql+asyncpg://u:{CANARY}@h/d'", 'postgres("SHOP_STORE")'),
        (f"store: RedisDsn = Field(RedisDsn('redis://:{CANARY}@h'))", 'redis("SHOP_STORE")'),
        (f"store: str = Field(default='amqp://u:{CANARY}@h', alias='BROKER')", 'tcp("BROKER")'),
        ("store: str = Field(default_factory=find)", ""),
        ("workers: int = 4", ""),
    ],
)
def test_a_default_of_a_settings_class_leads_somewhere(init: Init, field: str, call: str) -> None:
    """As the field's variable is called."""
    made = init(
        {"main.py": f"{PYDANTIC}class S(BaseSettings):\n    model_config = {{'env_prefix': 'shop_'}}\n    {field}\n"}
    )
    assert list(proposed(made).values()) == [f"ready.{call}"] * bool(call)
    assert CANARY not in made.read(SUITE) + "\n".join(made.out)


@pytest.mark.parametrize(
    "ports, address",
    [
        ("['6379']", ""),
        ("['6379-6380']", ""),
        ("['6380:6379']", "127.0.0.1:6380"),
        ("['0.0.0.0:6380:6379']", "127.0.0.1:6380"),
        ("['10.0.0.5:6380:6379/tcp']", "10.0.0.5:6380"),
        ("['[::1]:6380:6379']", "[::1]:6380"),
        ("['127.0.0.1::6379']", ""),
        ("['6379:6379/udp']", ""),
        ("['7000-7002:6378-6380']", "127.0.0.1:7001"),
        ("['7000-7002:6379']", ""),
        ("['8001:8001', '6380:6379']", "127.0.0.1:6380"),
        ("['8001:8001']", "127.0.0.1:8001"),
        ("['${CACHE_PORT:-6380}:6379']  # by default", "127.0.0.1:6380"),
        ("['${GIVEN_PORT:-6380}:6379']", ""),
        ("['${CACHE_PORT}:6379']", ""),
        ("\n      - 6380:6379", "127.0.0.1:6380"),
        ("\n    - '6380:6379'", "127.0.0.1:6380"),
        ("\n      - {target: 6379, published: 6380}", "127.0.0.1:6380"),
        ("\n      - target: 6379\n        host_ip: 127.0.0.2\n        published: 6380", "127.0.0.2:6380"),
        ("\n      - published: 6380\n        target: 6379\n        protocol: udp", ""),
        ("\n      - target: 6379", ""),
    ],
)
def test_a_service_is_asked_where_compose_publishes_it(init: Init, ports: str, address: str) -> None:
    """And one that no port of this machine leads to is not."""
    begins = "x-any: [1]\nservices:\n  'the-cache':\n    image: redis:7  # small\n"
    compose = f"{begins}    ports: {ports}\n    command: |\n      ports: no\n"
    made = init({"main.py": FASTAPI, "compose.yml": compose, ".env": "GIVEN_PORT=1\n"})
    expected = {"test_service_the_cache": f'ready.tcp("{address}")'} if address else {}
    assert proposed(made) == expected


def test_what_is_proposed_for_a_folder_below_is_found_from_the_projects(init: Init) -> None:
    """Where requirements run."""
    graph = '{"graphs": {"agent": "./agent.py:graph"}}'
    files = {"backend/main.py": FASTAPI, "backend/alembic.ini": "", "backend/langgraph.json": graph}
    assert proposed(init({**files, PYPROJECT: "[project]\nname = 'x'\n"}, below="backend")) == {
        "test_migrations": 'ready.migrations("alembic", config="backend/alembic.ini")',
        "test_graph_agent": 'ready.file("backend/agent.py")',
    }


def test_names_of_secrets_are_read_word_by_word() -> None:
    """A tokenizer is no token, and the address of a database has a password in it."""
    names = ("TOKENIZER_PATH", "KEYBOARD", "NOSQLITE_URL", "API_TOKEN", "SHOP_DB_URL", "SENTRY_DSN")
    assert [name for name in names if requirement.secret(name)] == ["API_TOKEN", "SHOP_DB_URL", "SENTRY_DSN"]


@pytest.mark.parametrize("text", ["[]", "{", '{"mcpServers": [1]}', '{"mcpServers": {"a": 1, "b": {"args": {}}}}', ""])
def test_documents_that_are_odd_propose_nothing(init: Init, text: str) -> None:
    """They are somebody's, and stay unmentioned."""
    made = init({"main.py": FASTAPI, "mcp.json": text, "langgraph.json": text, "compose.yaml": text})
    assert made.code == 0
    assert proposed(made) == {}


def test_an_env_file_that_is_a_link_is_not_read(init: Init, tmp_path: Path) -> None:
    """What it leads to may be anybody's."""
    (tmp_path / "elsewhere").write_text("DATABASE_URL=postgres://u:p@h/d\n")
    (tmp_path / ".env").symlink_to(tmp_path / "elsewhere")
    assert proposed(init({"main.py": FASTAPI})) == {}


# Secrets.


def test_no_value_is_read_or_shown(init: Init) -> None:
    """Env files, defaults, addresses with passwords and comments beside them: only names come out."""
    canary = "canary-5ba1c3"
    code = (
        f"{READ}# {canary}\nURL = os.environ['DATABASE_URL']\nKEY = os.getenv('API_KEY', '{canary}')\n"
        f"ENGINE = create('postgresql://u:{canary}@db/x')\nLITE = create('sqlite:///{canary}.db?key={canary}')\n"
        f"PASSWORD = '{canary}'\nos.environ['SECRET'] = '{canary}'\nos.environ['{canary}']\n"
    )
    for what in project.KINDS:
        made = init(
            {
                "main.py": code,
                ".env": f"DATABASE_URL=postgres://u:{canary}@h/d\nAPI_KEY={canary}\n",
                "Procfile": f"web: TOKEN={canary} uvicorn {canary}:app main:app\n",
                "broken.py": f"app = FastAPI('{canary}'\n",
                PYPROJECT: f"[tool.other]\ntoken = '{canary}'\n",
            },
            what,
        )
        shown = "\n".join(made.out) + made.err
        assert canary not in shown, what
        for name, text in content(made.root).items():
            if name not in ("main.py", ".env", "Procfile", "broken.py"):
                assert text.count(canary.encode()) == (name == PYPROJECT), name
        shutil.rmtree(made.root / "preflight_suite", ignore_errors=True)


def test_of_a_wrong_pyproject_only_the_line_is_said(init: Init) -> None:
    """What is written there may be anything."""
    made = init({PYPROJECT: "[project]\nname = 'x'\ntoken = canary-5ba1c3\n"})
    assert made.code == 1
    fault = f"{made.root}/{PYPROJECT}:3: the file is not valid TOML: correct the file first; nothing was written"
    assert made.err == f"run.py: error: {fault}\n"


# pyproject.toml.


@pytest.mark.parametrize(
    "before",
    [
        "",
        "\n",
        "# only a comment",
        "[project]\nname = 'x'",
        "[project]\nname = 'x'\n",
        "[project]\r\nname = 'x'\r\n[tool.ruff]\r\nline-length = 100\r\n",
        "[tool.black]\nx = 1\n",
        "[tool]\nblack = {x = 1}\n",
        "[[tool.mypy.overrides]]\nmodule = 'x'\n",
        "tool.black.x = 1\n",
        "[tool.preflightx]\nx = 1\n",
        "[project]\ndescription = '''\n[tool.preflight]\n'''\n",
        "# [tool.preflight]\n",
        "[project]\nname = 'caf\u00e9 \U0001f680'\n",
    ],
)
def test_the_table_goes_to_the_end_of_pyproject(init: Init, before: str) -> None:
    """All that was there stays byte for byte, and says what it said; line ends are the file's own."""
    made = init({"main.py": FASTAPI, PYPROJECT: before})
    after = (made.root / PYPROJECT).read_bytes()
    assert made.code == 0, made.err
    assert made.out[0].startswith("Added to pyproject.toml: ")
    assert after.startswith(before.encode())
    assert made.app == "main:app"
    assert (b"\r\n" in after) == ("\r\n" in before)
    assert after.count(b"\n") == after.count(b"\r\n") or "\r\n" not in before
    rest = tomllib.loads(after.decode().replace("\r\n", "\n"))
    del rest["tool"]["preflight"]
    old = tomllib.loads(before.replace("\r\n", "\n"))
    assert rest == old or rest == {**old, "tool": {}}


@pytest.mark.parametrize(
    "before",
    [
        "[tool.preflight]\n",
        "[tool.preflight]\nport = 9000\n",
        "tool.preflight.port = 9000\n",
        "[tool]\npreflight.port = 9000\n",
        "[tool]\npreflight = {port = 9000}\n",
        "tool = {preflight = {}}\n",
        "[tool.'preflight']\n",
        "[ tool . preflight ]\nport = 9000\n",
        "[tool.preflight.other]\n",
    ],
)
def test_a_table_that_is_there_is_left_alone(init: Init, before: str) -> None:
    """However it is written. The suite is added nevertheless."""
    made = init({"main.py": FASTAPI, PYPROJECT: before})
    assert made.code == 0, made.err
    assert made.read(PYPROJECT) == before
    assert "Left pyproject.toml as it is: it has [tool.preflight]." in made.out
    assert (made.root / SUITE).exists()


@pytest.mark.parametrize(
    "before,said",
    [
        (b"[project\n", ":1: the file is not valid TOML"),
        (b"a = 1\na = 2\n", ":2: the file is not valid TOML"),
        (b"\xef\xbb\xbf[project]\n", ":1: the file is not valid TOML"),
        (b"[project]\nname = 'caf\xe9'\n", ":2: this line is not UTF-8 text"),
        (b"a = " + b"[" * 50_000, "is n"),
        (b"tool = {black = {}}\n", "defines `tool` in a form to which no table can be added"),
        (b"tool = 3\n", "defines `tool` in a form to which no table can be added"),
        (b"[[tool]]\nx = 1\n", "defines `tool` in a form to which no table can be added"),
    ],
    ids=["broken", "twice", "bom", "latin", "deep", "inline", "number", "array"],
)
def test_a_pyproject_that_cannot_be_added_to_stops_it(init: Init, before: bytes, said: str) -> None:
    """Nothing at all is written then, and what to do is said."""
    made = init({"main.py": FASTAPI, PYPROJECT: before})
    assert made.code == 1
    assert said in made.err
    assert "nothing was written" in made.err
    assert content(made.root) == {"main.py": FASTAPI.encode(), PYPROJECT: before}


def test_a_pyproject_that_changes_meanwhile_is_not_added_to(tmp_path: Path) -> None:
    """What was planned fits another text."""
    path = tmp_path / PYPROJECT
    path.write_text("[tool]\nx = 1\n")
    with pytest.raises(OSError, match="changed in the meantime"):
        writing.write(writing.Addition(path, "[tool.preflight]\n", "", before=b"[tool]\n"))
    assert path.read_text() == "[tool]\nx = 1\n"


def test_owner_mode_and_hard_links_of_pyproject_stay(init: Init, tmp_path: Path) -> None:
    """It is added to in place."""
    (tmp_path / PYPROJECT).write_text("[project]\nname = 'x'\n")
    (tmp_path / PYPROJECT).chmod(0o600)
    os.link(tmp_path / PYPROJECT, tmp_path / "other.toml")
    made = init({"main.py": FASTAPI})
    assert (made.root / PYPROJECT).stat().st_mode & 0o777 == 0o600
    assert "[tool.preflight]" in (made.root / "other.toml").read_text()


# What is there already.


@pytest.mark.parametrize("name", [SUITE, CONFTEST, "preflight_suite/test_mine.py"])
def test_files_of_the_suite_stay(init: Init, name: str) -> None:
    """Whatever is in them; a suite that has requirements gets no other one."""
    made = init({"main.py": FASTAPI, name: "mine = 1\n"})
    assert made.code == 0
    assert made.read(name) == "mine = 1\n"
    assert f"Left {name} as it is: the file exists." in made.out
    assert (made.root / SUITE).exists() == (name != "preflight_suite/test_mine.py")
    assert (made.root / CONFTEST).exists()


def test_a_suite_elsewhere_is_the_suite(init: Init) -> None:
    """Where the settings name other folders, a file in preflight_suite would never be asked."""
    table = "[tool.preflight]\nsuite = ['preflight.requirements', 'checks']\n"
    made = init({"main.py": FASTAPI, PYPROJECT: table})
    assert made.code == 0
    assert "preflight_suite is not in the suite that pyproject.toml names, so it was not written." in made.out
    assert not (made.root / "preflight_suite").exists()


def _link(path: Path, root: Path) -> None:
    (root / "elsewhere").mkdir()
    path.symlink_to(root / "elsewhere")


@pytest.mark.parametrize(
    "name,put,said",
    [
        ("preflight_suite", Path.touch, "is not a folder"),
        ("preflight_suite", lambda path: _link(path, path.parent), "is a symbolic link"),
        ("preflight_suite", lambda path: path.symlink_to("nowhere"), "is a symbolic link"),
        (PYPROJECT, lambda path: path.symlink_to("elsewhere.toml"), "is a symbolic link"),
        (PYPROJECT, Path.mkdir, "is not a regular file"),
        (PYPROJECT, os.mkfifo, "is not a regular file"),
    ],
    ids=["file", "link", "dangling", "toml link", "toml folder", "toml pipe"],
)
def test_what_lies_in_the_way_stops_it(init: Init, tmp_path: Path, name: str, put: Any, said: str) -> None:
    """Nothing is written through a link, and nothing half."""
    put(tmp_path / name)
    trees.plant(tmp_path, {"main.py": FASTAPI})
    before = sorted(tmp_path.rglob("*"))
    made = init()
    assert made.code == 1
    assert said in made.err
    assert sorted(tmp_path.rglob("*")) == before


def test_links_to_files_are_files_that_are_there(init: Init, tmp_path: Path) -> None:
    """A link in the place of a file is left alone, and nothing is written where it leads to."""
    (tmp_path / "preflight_suite").mkdir()
    (tmp_path / CONFTEST).symlink_to(tmp_path / "made.py")
    made = init({"main.py": FASTAPI})
    assert made.code == 0
    assert f"Left {CONFTEST} as it is: the file exists." in made.out
    assert not (tmp_path / "made.py").exists()


@ordinary
@pytest.mark.parametrize("name", [".", PYPROJECT, "preflight_suite"])
def test_what_may_not_be_written_is_named(init: Init, tmp_path: Path, name: str) -> None:
    """A read-only folder or file ends the command with 1 and the system's reason."""
    trees.plant(tmp_path, {"main.py": FASTAPI, PYPROJECT: "[project]\n", "preflight_suite/x": ""})
    mode = (tmp_path / name).stat().st_mode
    (tmp_path / "main.py").chmod(0o400)
    (tmp_path / name).chmod(mode & ~0o222)
    try:
        if name == ".":
            (tmp_path / PYPROJECT).chmod(0o400)
        made = init()
    finally:
        (tmp_path / name).chmod(mode)
    assert made.code == 1
    assert "cannot be written: Permission denied" in made.err


@pytest.mark.parametrize("name", [PYPROJECT, SUITE])
def test_half_a_file_is_never_left(init: Init, tmp_path: Path, name: str) -> None:
    """A full disk, here the process's own limit, ends it with 1; the file is as it was, or not there."""
    table = "[project]\nname = 'x'\n" + "# more\n" * 40
    trees.plant(tmp_path, {"main.py": FASTAPI, PYPROJECT: table + ("[tool.preflight]\n" if name == SUITE else "")})
    before = content(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = len(before[PYPROJECT]) + 10 if name == PYPROJECT else 20
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        made = init()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert made.code == 1
    assert f"{name} cannot be written: " in made.err
    assert content(tmp_path) == before


# Hostile trees.


def test_links_are_not_followed(init: Init, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Neither out of the project nor in a circle."""
    outside = trees.plant(tmp_path_factory.mktemp("outside"), {"main.py": FASTAPI, "pkg/app.py": FASTAPI})
    (tmp_path / "main.py").symlink_to(outside / "main.py")
    (tmp_path / "pkg").symlink_to(outside / "pkg")
    (tmp_path / "round").symlink_to(tmp_path)
    assert init().app is None


@pytest.mark.parametrize(
    "text,said",
    [
        (b"x = (\n", "main.py:1 "),
        (b"\n\nclass\n", "main.py:3 "),
        (b"\0", "main.py "),
        (b"# -*- coding: nonsense -*-\n", "main.py "),
        (b"x = '\xff'\n", "main.py:1 "),
        (b"x = " + b"(" * 5000 + b")" * 5000, "main.py"),
        (b"print 'old'\n", "main.py:1 "),
    ],
    ids=["open", "class", "null", "coding", "latin", "deep", "old"],
)
def test_files_that_do_not_parse_are_named(init: Init, text: bytes, said: str) -> None:
    """The others are read, and what could not be read is said without its text."""
    made = init({"main.py": text + b"\n# FastAPI uvicorn\n", "z.py": FASTAPI})
    assert made.code == 0
    assert made.app == "z:app"
    assert said in made.err
    assert "cannot be parsed by Python 3." in made.err
    assert made.err.count("\n") == 1


def test_what_is_no_source_file_is_not_opened(init: Init, tmp_path: Path) -> None:
    """A pipe, a folder of that name and a file that is far too large."""
    os.mkfifo(tmp_path / "app.py")
    (tmp_path / "main.py").mkdir()
    made = init({"asgi.py": FASTAPI + "#" * 2_000_000, "z.py": FASTAPI})
    assert made.app == "z:app"


def test_names_cannot_write_code(init: Init) -> None:
    """What stands in comments, texts and commands are plain names, whatever files and variables are called."""
    trap = 'x"""\nimport os; os.system("touch trapped")\n"""'
    made = init(
        {
            'a\n"""; import os #.py': FASTAPI,
            "b'\"; rm -rf x/main.py": FASTAPI,
            "main.py": f"{READ}os.environ[{trap!r}]\nload({'a' + trap + '.pt'!r})\nos.environ['KEY']\n"
            f"create('sqlite:///' + {trap!r})\ncreate({'sqlite:///' + trap!r})\n",
            "Makefile'$(x)": "uvicorn main:app",
        }
    )
    assert made.app == "main:app"
    assert made.requirement == "critical Variable KEY"
    for what in ("github", "docker", "systemd"):
        init({}, what)
    assert not any(b"trapped" in text for name, text in content(made.root).items() if name.endswith(("toml", "yml")))
    assert "trapped" not in made.read(SUITE)


@pytest.mark.slow
def test_a_folder_of_ten_thousand_files(init: Init, tmp_path: Path) -> None:
    """What is near is found, environments are not entered, and it does not take long."""
    for number in range(100):
        folder = tmp_path / f"pkg{number}"
        folder.mkdir()
        for inner in range(100):
            (folder / f"m{inner}.py").write_text("import os\nos.environ['UNREACHED']\nfrom fastapi import APIRouter\n")
    trees.plant(tmp_path, {".venv/lib/main.py": FASTAPI, "env/pyvenv.cfg": "", "env/main.py": FASTAPI})
    begun = os.times()
    made = init({"service/main.py": READ + "import pkg7.m7\nos.environ['KEY']\n"})
    took = os.times().user - begun.user + os.times().system - begun.system
    assert made.app == "service.main:app"
    assert "KEY" in made.requirement or "UNREACHED" in made.requirement
    assert took < 10, took


def test_in_a_folder_of_too_many_files_it_says_so(init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not looked at is not claimed to be absent."""
    monkeypatch.setattr("preflight.command.init.folder.ENTRIES", 3)
    made = init({"a/b/main.py": FASTAPI, "main.py": FASTAPI, "x.py": "", "y.py": "", "z.py": ""})
    assert made.app == "main:app"
    assert "the most deeply nested files were not examined" in made.err


# What the suite's folder is for plain pytest.


def _pytest(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Plain pytest with the plugins of this environment that anybody may have."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", *FEW_PLUGINS, *arguments],
        cwd=root,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (".",),
        ("preflight_suite",),
        (SUITE,),
        ("--doctest-modules", "preflight_suite"),
        ("-n", "2"),
        ("-n", "2", SUITE),
        ("--import-mode=importlib",),
        ("--strict-markers", SUITE),
        ("--keep-duplicates", "preflight_suite", SUITE),
    ],
    ids=lambda arguments: " ".join(arguments) or "plain",
)
def test_without_the_plugin_nothing_is_collected(init: Init, arguments: tuple[str, ...]) -> None:
    """Exit code 5 is nobody's "all is well"."""
    made = init(trees.FASTAPI)
    run = _pytest(made.root, "-q", *arguments)
    assert run.returncode == 5, run.stdout + run.stderr
    assert "test_database_url" not in run.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [(), ("-n", "2"), ("tests", "preflight_suite")], ids=lambda one: " ".join(one) or "plain"
)
def test_the_projects_own_tests_are_as_they_were(init: Init, arguments: tuple[str, ...]) -> None:
    """A file of the same name in tests/ included."""
    tests = {"tests/test_project.py": "def test_mine():\n    assert True\n", "tests/conftest.py": "import pytest\n"}
    made = init({**trees.FASTAPI, **tests})
    run = _pytest(made.root, "-q", *arguments)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout


# A job, an image, a unit.


def test_a_job_for_github(init: Init) -> None:
    """It is YAML, asks with the line for CI, and names secrets without a value."""
    made = init({**trees.FASTAPI, "requirements.txt": "fastapi\n"}, "github")
    assert [line.split(":")[0] for line in made.out] == [
        "Wrote .github/workflows/preflight.yml",
        "Set these in the repository's secrets or variables",
    ]
    job = yaml.safe_load(made.read(".github/workflows/preflight.yml"))["jobs"]["preflight"]
    assert job["env"] == {"DATABASE_URL": "${{ secrets.DATABASE_URL }}"}
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == [
        "pip install -r requirements.txt 'pytest-preflight[web]'",
        "preflight --check-only --format github",
    ]
    assert init({}, "github").out == ["Left .github/workflows/preflight.yml as it is: the file exists."]


@pytest.mark.parametrize(
    "files,install,command",
    [
        ({"uv.lock": "", PYPROJECT: "[project]\nname = 'x'\n"}, "uv sync --locked", "uv run --no-sync preflight"),
        ({"poetry.lock": ""}, "poetry install", "poetry run preflight"),
        ({PYPROJECT: "[build-system]\n"}, "pip install . ", "preflight"),
        ({PYPROJECT: "[project]\ndependencies = ['a']\n"}, "uv pip install --system -r pyproject.toml", "preflight"),
        ({}, "pip install 'pytest-preflight[web]'", "preflight"),
    ],
    ids=["uv", "poetry", "package", "list", "none"],
)
def test_it_is_installed_as_the_project_is(init: Init, files: dict[str, str], install: str, command: str) -> None:
    """By what the project's files say."""
    made = init({"main.py": FASTAPI, **files}, "github")
    job = yaml.safe_load(made.read(".github/workflows/preflight.yml"))["jobs"]["preflight"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert install in "\n".join(commands)
    assert commands[-1].startswith(f"{command} --check-only")


def test_a_dockerfile_is_written_or_its_lines_are_shown(init: Init) -> None:
    """One that is there is its author's: it is left as it is, and what belongs in it is said."""
    made = init(trees.FASTAPI, "docker")
    assert made.out == [
        "Wrote Dockerfile: an image that checks every requirement when it is started, and then serves.",
        "Wrote .dockerignore: the image gets neither the env file nor an environment of this machine.",
    ]
    assert {".env", ".venv", ".preflight"} <= set(made.read(".dockerignore").splitlines())
    lines = made.read("Dockerfile").splitlines()
    assert lines[0].startswith("FROM python:3.")
    assert json.loads(lines[-1].removeprefix("CMD ")) == ["preflight"]
    (made.root / "Dockerfile").write_text("FROM mine\n")
    again = init({}, "docker")
    assert again.code == 0
    assert again.read("Dockerfile") == "FROM mine\n"
    assert again.out[0].startswith("Left Dockerfile as it is: the file exists.")
    assert [line.strip() for line in again.out[-1:]] == lines[-1:]


@pytest.mark.slow
def test_a_unit_of_systemd(init: Init, tmp_path: Path) -> None:
    """systemd itself finds nothing wrong with it, and its paths are this folder's."""
    made = init({**trees.FASTAPI, PYPROJECT: "[project]\nname = 'My Shop'\n"}, "systemd")
    unit = made.root / "deploy" / "my-shop.service"
    assert made.out == [
        "Wrote deploy/my-shop.service: a unit that serves from this folder, with this Python and as this user."
    ]
    lines = unit.read_text().splitlines()
    assert f"WorkingDirectory={tmp_path}" in lines
    assert f"ExecStart={Path(sys.executable).with_name('preflight')}" in lines
    if analyze := shutil.which("systemd-analyze"):
        command = tmp_path / "preflight"
        command.write_text("#!/bin/sh\n")
        command.chmod(0o755)
        unit.write_text(unit.read_text().replace(str(Path(sys.executable).with_name("preflight")), str(command)))
        verified = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, timeout=60)
        assert unit.name not in verified.stderr, verified.stderr


@pytest.mark.parametrize("what", ["github", "docker", "systemd"])
def test_they_follow_no_link_and_write_nothing_in_a_dry_run(init: Init, tmp_path: Path, what: str) -> None:
    """A folder that is a link is in the way; a dry run says what it would write."""
    planned = init(trees.FASTAPI, what, dry_run=True)
    assert planned.out[0].startswith("Would write ")
    assert content(tmp_path).keys() == trees.FASTAPI.keys()
    _link(tmp_path / {"github": ".github", "docker": "Dockerfile", "systemd": "deploy"}[what], tmp_path)
    before = content(tmp_path)
    made = init({}, what)
    assert made.code == (0 if what == "docker" else 1)
    assert content(tmp_path) == before


# The command.


def test_in_the_checkout_it_is_the_env_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run writes none, and what is for other projects is refused."""
    assert commandline.main(["--init", "--dry-run"]) == 0
    file = home / ".ki_autoagent/config/.env"
    assert capsys.readouterr().out == f"Would write {file}.\n"
    assert not file.parent.exists()
    assert commandline.main(["--init"]) == 0
    assert commandline.main(["--init", "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith(f"{file} exists and would be left as it is.\n")
    assert commandline.main(["--init", "github"]) == 2
    assert "--init github is for a project of your own" in capsys.readouterr().err


def test_what_it_does_not_know_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage ends with 2 and what is allowed."""
    with pytest.raises(SystemExit) as ended:
        commandline.main(["--init", "gitlab"])
    assert ended.value.code == 2
    assert "argument --init: invalid choice" in capsys.readouterr().err
