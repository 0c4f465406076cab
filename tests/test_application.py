"""What a name may stand for: every shape of application is served, and every other is refused by name."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from preflight.web.instance import Instance
from preflight.web.interfaces import COROUTINE, NEEDED, WITHOUT_ARGUMENTS, WRAPPED, CannotBeServed
from preflight.worker.application import LoadedApplication, load
from preflight.worker.serving import Server

# What the modules below have in common: one application that answers, in its three plainest forms.
COMMON = """
import functools, types
import asyncio
from contextlib import asynccontextmanager

async def plain(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served"})

class Object:
    async def __call__(self, scope, receive, send):
        await plain(scope, receive, send)

class Sync:
    def __call__(self, scope, receive, send):
        return plain(scope, receive, send)

def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [b"served"]
"""

names = itertools.count()

Load = Callable[[str], LoadedApplication]


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Loads the attribute ``app`` of a module with this source, as the worker does."""
    monkeypatch.syspath_prepend(tmp_path)
    written: list[str] = []

    def load_it(source: str) -> LoadedApplication:
        written.append(f"guarded_{next(names)}")
        (tmp_path / f"{written[-1]}.py").write_text(COMMON + source)
        return load(f"{written[-1]}:app", complete)

    yield load_it
    for name in written:
        sys.modules.pop(name, None)


def complete(awaitable: Awaitable[Any]) -> Any:
    async def wait() -> Any:
        return await awaitable

    return asyncio.run(wait())


def answer(application: LoadedApplication, instance: Instance) -> bytes:
    """What it answers, called as our server calls it."""
    server = Server(application, instance, lambda _kind: None)
    server.config.load()
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    app: Any = server.config.loaded_app
    complete(app({"type": "http", "path": "/"}, receive, send))
    assert sent[0]["status"] == 200
    body: bytes = sent[1]["body"]
    return body


SERVED = {
    "a coroutine function": "app = plain",
    "an object": "app = Object()",
    "an object that is no coroutine function": "app = Sync()",
    "a bound method": "app = Object().__call__",
    "a class that makes it": "app = Object",
    "a function that makes it": "def app():\n    return Object()",
    "a function with defaults": "def app(debug=False, *, name='x'):\n    return plain",
    "a function with three defaults": "def app(one=1, two=2, three=3):\n    return plain",
    "a function of any arguments": "def app(*args, **kwargs):\n    return plain",
    "an async function that makes it": "async def app():\n    await asyncio.sleep(0)\n    return plain",
    "an async function with defaults": "async def app(one=1, two=2, three=3):\n    return plain",
    "an async function of any arguments": "async def app(*args):\n    return plain",
    "a function that returns an async factory's": "async def make():\n    return plain\ndef app():\n    return make()",
    "a lambda that makes it": "app = lambda: plain",
    "a static method": "class Make:\n    @staticmethod\n    def it():\n        return plain\napp = Make.it",
    "a class method": "class Make:\n    @classmethod\n    def it(cls):\n        return plain\napp = Make.it",
    "a method": "class Make:\n    def it(self):\n        return plain\napp = Make().it",
    "an object that makes it": "class Make:\n    def __call__(self):\n        return plain\napp = Make()",
    "a partial that makes it": "def make(debug):\n    return plain\napp = functools.partial(make, True)",
    "a partial by keyword": "def make(*, debug):\n    return plain\napp = functools.partial(make, debug=True)",
    "a partial application": (
        "async def with_more(more, scope, receive, send):\n    await plain(scope, receive, send)\n"
        "app = functools.partial(with_more, 1)"
    ),
    "a partial application by keyword": (
        "async def with_more(scope, receive, send, *, more):\n    await plain(scope, receive, send)\n"
        "app = functools.partial(with_more, more=1)"
    ),
    "a wrapper": ("@functools.wraps(plain)\ndef app(*args, **kwargs):\n    return plain(*args, **kwargs)"),
    "an async wrapper": ("@functools.wraps(plain)\nasync def app(*args, **kwargs):\n    await plain(*args, **kwargs)"),
    "a wrapper that does not say of what": "def app(*args, **kwargs):\n    return plain(*args, **kwargs)",
    "an async one that does not": "async def app(*args):\n    scope, receive, send = args\n    await plain(*args)",
    "an async one with indices": "async def app(*args):\n    await plain(args[0], args[1], args[2])",
    "a cached factory": "@functools.cache\ndef app():\n    return plain",
    "a cached factory with defaults": "@functools.lru_cache(maxsize=1)\ndef app(debug=False):\n    return plain",
    "a wrapped factory": (
        "def make():\n    return plain\n@functools.wraps(make)\ndef app(*args):\n    return make(*args)"
    ),
    "what a decorator made of a function of another shape": (
        "def index(request):\n    pass\n@functools.wraps(index)\nasync def app(scope, receive, send):\n"
        "    await plain(scope, receive, send)"
    ),
    "what a decorator made of WSGI": "@functools.wraps(wsgi)\nasync def app(*args):\n    await plain(*args)",
    "an object of any arguments": (
        "class Proxy:\n    def __call__(self, *args, **kwargs):\n        return plain(*args, **kwargs)\napp = Proxy()"
    ),
    "an object that wraps another": (
        "class Middleware:\n    def __init__(self, inner):\n        functools.update_wrapper(self, inner)\n"
        "    async def __call__(self, scope, receive, send):\n        await self.__wrapped__(scope, receive, send)\n"
        "app = Middleware(plain)"
    ),
    "other names of parameters": "async def app(s, r, w):\n    await plain(s, r, w)",
    "optional parameters": "async def app(scope, receive=None, send=None):\n    await plain(scope, receive, send)",
    "nothing but defaults": (
        "async def app(scope=None, receive=None, send=None):\n    await plain(scope, receive, send)"
    ),
    "annotations that name nothing": (
        "async def app(scope: 'Nothing', receive: 'Nothing', send: 'Nothing') -> 'Nothing':\n"
        "    await plain(scope, receive, send)"
    ),
    "more than is needed": "async def app(scope, receive, send, extra=None):\n    await plain(scope, receive, send)",
    "a function that returns a coroutine": "def app(scope, receive, send):\n    return plain(scope, receive, send)",
    "a generator-based coroutine": (
        "@types.coroutine\ndef app(scope, receive, send):\n    yield from plain(scope, receive, send).__await__()"
    ),
    "a class that is called with all three": (
        "class app:\n    def __init__(self, scope, receive, send):\n        self.args = scope, receive, send\n"
        "    def __await__(self):\n        return plain(*self.args).__await__()"
    ),
    "ASGI 2, a function": (
        "def app(scope):\n    async def asgi(receive, send):\n        await plain(scope, receive, send)\n"
        "    return asgi"
    ),
    "ASGI 2, a class": (
        "class app:\n    def __init__(self, scope):\n        self.scope = scope\n"
        "    async def __call__(self, receive, send):\n        await plain(self.scope, receive, send)"
    ),
    "ASGI 2, an object": (
        "class Router:\n    def __call__(self, scope):\n        return functools.partial(plain, scope)\napp = Router()"
    ),
}


@pytest.mark.parametrize("source", [pytest.param(source, id=name) for name, source in SERVED.items()])
def test_served(source: str, loaded: Load, make_instance: Callable[..., Instance]) -> None:
    """Whatever can be called as an application, or makes one when it is called without arguments, is served."""
    assert answer(loaded(source), make_instance()) == b"served"


REFUSED = {
    "nothing": ("app = None", "it cannot be called (it is None)", NEEDED),
    "a text": ("app = 'guarded'", "it cannot be called (it is of type str)", NEEDED),
    "a module": ("app = asyncio", "it cannot be called (it is of type module)", NEEDED),
    "an object": ("app = object()", "it cannot be called (it is of type object)", NEEDED),
    "a coroutine": ("app = [plain]", "it cannot be called (it is of type list)", NEEDED),
    "WSGI": ("app = wsgi", "is a WSGI application, called with (environ, start_response)", WRAPPED),
    "WSGI, an object": (
        "class Flask:\n    def __call__(self, environ, start_response):\n        return []\napp = Flask()",
        "is a WSGI application",
        WRAPPED,
    ),
    "WSGI, a class": (
        "class app:\n    def __init__(self, environ, start_response):\n        self.environ = environ",
        "is a WSGI application",
        WRAPPED,
    ),
    "WSGI, a bound method": (
        "class Flask:\n    def wsgi_app(self, environ, start_response):\n        return []\napp = Flask().wsgi_app",
        "is a WSGI application",
        WRAPPED,
    ),
    "WSGI, wrapped": (
        "@functools.wraps(wsgi)\ndef app(*args):\n    return wsgi(*args)",
        "is a WSGI application",
        WRAPPED,
    ),
    "WSGI with more": (
        "def app(environ, start_response, exc_info=None):\n    return []",
        "is a WSGI application",
        WRAPPED,
    ),
    "WSGI, a generator": (
        "def app(environ, start_response):\n    yield b''",
        "is a generator function",
        NEEDED,
    ),
    "WSGI from a factory": ("def app():\n    return wsgi", "returns is a WSGI application", WRAPPED),
    "a factory with an argument": (
        "def app(config):\n    return plain",
        "needs arguments (config)",
        WITHOUT_ARGUMENTS,
    ),
    "a factory with a named argument": (
        "def app(*, config):\n    return plain",
        "needs arguments (config)",
        WITHOUT_ARGUMENTS,
    ),
    "an async factory with an argument": (
        "async def app(config):\n    return plain",
        "needs arguments (config)",
        WITHOUT_ARGUMENTS,
    ),
    "a class with an argument": (
        "class app:\n    def __init__(self, config):\n        pass",
        "needs arguments (config)",
        WITHOUT_ARGUMENTS,
    ),
    "a method without its object": ("app = Object.__call__", "needs arguments (self, ", WITHOUT_ARGUMENTS),
    "a partial that still needs one": (
        "def make(one, two):\n    return plain\napp = functools.partial(make, 1)",
        "needs arguments (two)",
        WITHOUT_ARGUMENTS,
    ),
    "a cached factory with an argument": (
        "@functools.cache\ndef app(config):\n    return plain",
        "needs arguments (config)",
        WITHOUT_ARGUMENTS,
    ),
    "too many": (
        "async def app(scope, receive, send, database):\n    pass",
        "needs arguments (scope, receive, send, database)",
        WITHOUT_ARGUMENTS,
    ),
    "a factory that returns nothing": (
        "def app():\n    Object()",
        "returns is not an ASGI application: it cannot be called (it is None)",
        NEEDED,
    ),
    "an async factory that returns nothing": (
        "async def app():\n    Object()",
        "returns is not an ASGI application: it cannot be called (it is None)",
        NEEDED,
    ),
    "a factory that returns a factory": (
        "def app():\n    return lambda: plain",
        "returns is another factory, not an application",
        NEEDED,
    ),
    "an object that returns itself": (
        "class Web:\n    def __call__(self):\n        return self\napp = Web()",
        "returns is another factory",
        NEEDED,
    ),
    "a class whose objects cannot be called": (
        "class app:\n    pass",
        "it cannot be called (it is of type app)",
        NEEDED,
    ),
    "an async generator": (
        "async def app(scope, receive, send):\n    yield",
        "is a generator function",
        NEEDED,
    ),
    "a factory that yields": ("async def app():\n    yield plain", "is a generator function", NEEDED),
    "a factory for async with": (
        "@asynccontextmanager\nasync def app():\n    yield plain",
        "needs arguments (func)",
        WITHOUT_ARGUMENTS,
    ),
    "an application without async": (
        "def app(scope, receive, send):\n    send({'type': 'http.response.start', 'status': 200})",
        "it is not a coroutine function, and returns nothing that can be awaited",
        COROUTINE,
    ),
    "an object without async": (
        "class App:\n    def __call__(self, scope, receive, send):\n        if scope:\n            return\napp = App()",
        "it is not a coroutine function, and returns nothing that can be awaited",
        COROUTINE,
    ),
    "ASGI 2 that returns nothing": (
        "def app(scope):\n    print(scope)",
        "returns nothing that can be awaited",
        COROUTINE,
    ),
    "a class of three that cannot be awaited": (
        "class app:\n    def __init__(self, scope, receive, send):\n        pass",
        "its instances cannot be awaited",
        NEEDED,
    ),
}


@pytest.mark.parametrize("source, said, fix", [pytest.param(*case, id=name) for name, case in REFUSED.items()])
def test_refused(source: str, said: str, fix: str, loaded: Load) -> None:
    """What cannot be called as an application is refused with what was found, what is needed and what to do."""
    with pytest.raises(CannotBeServed) as refused:
        loaded(source)
    assert said in str(refused.value)
    assert ":app" in str(refused.value)
    assert refused.value.fix == fix


@pytest.mark.parametrize(
    "source, error",
    [
        ("def app():\n    raise RuntimeError('no model')", RuntimeError),
        ("async def app():\n    raise RuntimeError('no model')", RuntimeError),
        ("async def app(*args):\n    raise ValueError('no model')", ValueError),
        ("def app(*args):\n    return plain(1)", TypeError),
        ("def app():\n    raise SystemExit(1)", SystemExit),
        ("app_ = plain", AttributeError),
    ],
)
def test_what_fails_is_raised(source: str, error: type[BaseException], loaded: Load) -> None:
    """A factory's own error is the reason, and no reason to serve the factory instead."""
    with pytest.raises(error):
        loaded(source)


def test_written_in_c(loaded: Load) -> None:
    """What does not say what it can be called with is taken at its word, and a class is called."""
    assert loaded("app = getattr").interface == "asgi3"
    with pytest.raises(CannotBeServed, match="cannot be called"):
        loaded("app = dict")
