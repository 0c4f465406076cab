"""The application to serve: import it, call its factory, and refuse by name what cannot be served.

The worker does this before the verdict: what is refused here blocks the start.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from preflight.web.interfaces import NEEDED, CannotBeServed, Interface, use_of

UNNAMED = (
    "no application is named, and none was found in pyproject.toml ([tool.fastapi] entrypoint), in LITESTAR_APP or in"
    " an asgi.py beside manage.py"
)
NAME_IT = 'write app = "MODULE:ATTRIBUTE" under [tool.preflight] in pyproject.toml, or start it with --app'
# What Python says when a function that takes any arguments is called with none, and needs those of an application.
WANTS_THREE = re.compile(
    r"missing 3 required positional arguments|expected (?:3|at least [1-3]), got 0|^tuple index out of range$"
    r"|^pop from empty list$"
)


class LoadedApplication(NamedTuple):
    """An application that can be served, and how a server calls it."""

    app: Any
    interface: Interface

    @property
    def asgi3(self) -> Any:
        """The application as ASGI 3 calls it."""
        return self.app if self.interface == "asgi3" else functools.partial(_called_as_asgi2, self.app)

    def behind_proxies(self, trusted: str | Sequence[str]) -> LoadedApplication:
        """The application, with the client and the scheme that these proxies name; unchanged if there are none."""
        if not trusted:
            return self
        from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

        hosts = trusted if isinstance(trusted, str) else list(trusted)
        return LoadedApplication(ProxyHeadersMiddleware(self.asgi3, hosts), "asgi3")


def _called_as_asgi2(app: Any, scope: Any, receive: Any, send: Any) -> Any:
    return app(scope)(receive, send)


def load(name: str, complete: Callable[[Awaitable[Any]], Any]) -> LoadedApplication:
    """Import the application named ``module:attribute``; a factory is called to make it.

    ``complete`` awaits what an async factory returns, in the loop that will serve. Raises whatever the import or the
    factory raises, AttributeError for an attribute that is not there, and CannotBeServed.
    """
    if not name:
        raise CannotBeServed(UNNAMED, NAME_IT)
    module, _, attribute = name.partition(":")
    named: Any = importlib.import_module(module)
    for part in attribute.split("."):
        if not hasattr(named, part):
            raise AttributeError(f"module {module!r} has no attribute {attribute!r}")
        named = getattr(named, part)
    use = use_of(named, name)
    if use in ("asgi3", "asgi2"):
        return LoadedApplication(named, use)
    try:
        made = named()
        if inspect.isawaitable(made):
            made = complete(made)
    except (TypeError, ValueError, IndexError) as error:
        if use == "either" and WANTS_THREE.search(str(error)):
            return LoadedApplication(named, "asgi3")
        raise
    subject = f"what {name} returns"
    use = use_of(made, subject)
    if use == "factory":
        raise CannotBeServed(f"{subject} is another factory, not an application: it takes no arguments", NEEDED)
    return LoadedApplication(made, "asgi2" if use == "asgi2" else "asgi3")
