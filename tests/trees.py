"""Projects that tests write: the files of applications that a team could have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

FASTAPI = {
    "main.py": """\
import os

from fastapi import FastAPI

from shop.db import connect

app = FastAPI(title="Shop")


@app.get("/")
async def home():
    return {"database": connect() is not None}
""",
    "shop/__init__.py": "",
    "shop/db.py": """\
import os

DATABASE_URL = os.environ["DATABASE_URL"]
MAIL_KEY = os.getenv("MAIL_KEY")
REGION = os.getenv("REGION", "eu")


def connect():
    return DATABASE_URL
""",
}
DJANGO = {
    "manage.py": """\
import os
import sys


def main():
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
    from django.core.management import execute_from_command_line
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
""",
    "mysite/__init__.py": "",
    "mysite/asgi.py": """\
import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")

application = get_asgi_application()
""",
    "mysite/wsgi.py": """\
import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")

application = get_wsgi_application()
""",
    "mysite/settings.py": """\
from collections.abc import Mapping
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "django-insecure-made-up-for-this-test"
DEBUG = True
ALLOWED_HOSTS = []
INSTALLED_APPS = ["django.contrib.contenttypes"]
MIDDLEWARE = []
ROOT_URLCONF = "mysite.urls"
ASGI_APPLICATION = "mysite.asgi.application"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "db.sqlite3",
    }
}
""",
    "mysite/urls.py": "urlpatterns = []\n",
}
LITESTAR = {
    "app.py": """\
from litestar import Litestar, get
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SHOP_", env_file=".env")

    redis_url: str
    workers: int = 2


@get("/")
async def home() -> str:
    return "hello"


app = Litestar(route_handlers=[home])
""",
}
ASGI = {
    "service.py": """\
import pathlib

MODEL = pathlib.Path(__file__).parent / "models" / "ranking.onnx"


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})
""",
    "models/ranking.onnx": "weights",
}


def plant(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write a tree of files into a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder
