"""What can be called with any arguments, and answers nobody, is not taken for an application."""

from __future__ import annotations

import sys

import pytest

from tests.adversary.suites import FILE, GOOD, check
from tests.e2e.installing import Adopter
from tests.e2e.place import listening

pytestmark = pytest.mark.usefixtures("unmeasured")

BLOCKS = "class Blocks:\n    def __call__(self, *inputs, fn_index=0, api_name=None):\n        raise ValueError\n"
OTHERS = {
    "click": ("import click\n@click.command()\ndef app():\n    pass\n", "is a command line"),
    "typer": ("import typer\napp = typer.Typer()\n@app.command()\ndef main():\n    pass\n", "is a command line"),
    "made": ("import typer\ndef app():\n    return typer.Typer()\n", "is a command line"),
    "gradio": ("from gradio.blocks import Blocks\napp = Blocks()\n", "is a page of Gradio"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_takes_any_arguments(shop: Adopter, kind: str) -> None:
    """Every answer would be 500: check and start are refused by what it is, and the server on the port goes on."""
    source, said = OTHERS[kind]
    shop.write("gradio/__init__.py", "")
    shop.write("gradio/blocks.py", BLOCKS)
    shop.write("shop.py", source)
    shop.write(FILE, GOOD)
    holder = shop.listener()
    for one in (check(shop), shop.command("--port", str(shop.port))):
        assert one.process.returncode == 1, one.output
        assert said in shop.check("Application")["message"]
        assert shop.check("Application")["fix"]
    assert holder.process.poll() is None


GUARDED = {
    "factory": ("def make():\n    pass\napp = guard(make)\n", "it takes no arguments: call it"),
    "wsgi": ("def wsgi(environ, start_response):\n    pass\napp = guard(wsgi)\n", "a WSGI application"),
    "class": (
        "class App:\n    async def __call__(self, scope, receive, send):\n        pass\napp = guard(App)\n",
        "it takes no arguments: call it",
    ),
    "asgi2": ("class App:\n    def __init__(self, scope):\n        pass\napp = guard(App)\n", "ASGI 2"),
    "typer": ("import typer\napp = guard(typer.Typer())\n", "is a command line"),
    "none": ("app = guard(None)\n", "it is None"),
}


@pytest.mark.parametrize("kind", ["factory", "wsgi"])
def test_a_guard_of_what_is_none(shop: Adopter, kind: str) -> None:
    """Its server would start, call itself healthy, and answer 500 to everything: it does not start."""
    source, said = GUARDED[kind]
    shop.write("shop.py", f"from preflight import guard\n{source}")
    one = shop.spawn(sys.executable, "-m", "uvicorn", "shop:app", "--port", str(shop.port))
    assert one.wait() != 0, one.output
    assert said in one.output
    assert not listening(shop.port)


@pytest.mark.parametrize("kind", GUARDED)
def test_what_a_guard_takes(kind: str) -> None:
    """The call says what it was given instead."""
    source, said = GUARDED[kind]
    with pytest.raises(TypeError, match=r"^guard\(\) takes an ASGI application, and what it was given") as raised:
        exec(f"from preflight import guard\n{source}", {"__name__": "shop"})
    assert said in str(raised.value)
