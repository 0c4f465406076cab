"""The routes, as an OpenAPI document and as a page: both are made from the table of routes."""

from __future__ import annotations

from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse

from preflight import __version__
from preflight.web import services
from preflight.web.routing import Audience, Operation, Route, Socket, Table
from preflight.web.schemas import SCHEMAS, SEE_OTHER, Schema, error
from preflight.web.services import Application, Services

GUARDED: dict[str, Schema] = {
    "400": error("the request repeats a header that may occur only once"),
    "401": error("a token is needed, or the token is wrong"),
    "403": error("another web page sent the request, or another machine although no token is set"),
    "421": error("the Host header does not name this server"),
    "429": error("too many wrong tokens"),
}
TO_LOGIN: dict[str, Schema] = {"303": SEE_OTHER | {"description": "a browser without access is sent to the login"}}
DESCRIPTION = "/ws/diagnostics sends what GET /diagnostics shows, as it changes."
SECURITY: Schema = {
    "token": {"type": "http", "scheme": "bearer", "description": "PREFLIGHT_TOKEN"},
    "login": {"type": "apiKey", "in": "cookie", "name": "preflight_PORT", "description": "set by POST /login"},
}
BESIDE: Schema = {
    "login": {**SECURITY["login"], "name": "preflight_PORT_beside"},
    "nonce": {"type": "apiKey", "in": "header", "name": "X-Preflight-Nonce", "description": "found in the page"},
}


def document(
    application: Application, table: Table, *, token: bool = True, base: str = "", beside: bool = False
) -> Schema:
    """The OpenAPI document of a server with a token, or of one that has none and trusts its own machine.

    ``base`` is the path that clients put before those of the routes; ``beside``: another application has the rest.
    """
    made: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": application.title,
            "version": __version__,
            "description": f"{application.description} {DESCRIPTION}".strip(),
        },
        "paths": {
            _path(route): {
                method.lower(): _described(route.audience, method, operation)
                for method, operation in route.operations.items()
            }
            for route in table
            if isinstance(route, Route)
        },
        "components": {"schemas": SCHEMAS | dict(application.schemas)},
    }
    if base:
        made["servers"] = [{"url": base}]
    if beside:
        made["components"]["securitySchemes"] = SECURITY | BESIDE
        made["security"] = [{"token": []}, {"login": [], "nonce": []}]
    elif token:
        made["components"]["securitySchemes"] = SECURITY
        made["security"] = [{"token": []}, {"login": []}]
    return made


def _path(route: Route) -> str:
    """The path as OpenAPI writes it, which knows no converters."""
    return route.path.replace(":path}", "}")


def _described(audience: Audience, method: str, operation: Operation) -> Schema:
    guarded = GUARDED if audience is not Audience.ANYBODY else {}
    to_login = TO_LOGIN if audience is Audience.ADMITTED and method == "GET" else {}
    described: Schema = {"summary": operation.summary, "responses": guarded | to_login | dict(operation.answers)}
    if audience is not Audience.ADMITTED:
        described["security"] = []
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    if operation.body is not None:
        described["requestBody"] = operation.body
    return described


def _offered(serving: Services) -> Table:
    """The routes that are offered with this server's settings."""
    settings = serving.instance.settings
    return [route for route in serving.table if isinstance(route, Socket) or route.is_offered(settings)]


async def openapi(request: Request) -> JSONResponse:
    """The document for this server."""
    serving = services.of(request.scope)
    made = document(
        serving.application,
        _offered(serving),
        token=serving.access.has_token,
        base=request.scope.get("root_path", ""),
        beside=serving.admission is not None,
    )
    return JSONResponse(made)


async def docs(request: Request) -> HTMLResponse:
    """The routes as a page of our own: nothing in it comes from elsewhere, and nothing runs."""
    serving = services.of(request.scope)
    nowhere = () if serving.access.has_token else ("/login",)
    http, websockets, messages = [], [], ""
    for route in _offered(serving):
        if isinstance(route, Socket):
            websockets.append(_row("WS", route.path, route.summary))
            messages += _messages(route)
            continue
        public, path = route.audience is not Audience.ADMITTED, _path(route)
        for method, operation in route.operations.items():
            http.append(_row(method, path, operation.summary, public=public, opens=path not in nowhere))
    page = DOCS.format(
        title=escape(serving.application.title),
        version=escape(__version__),
        http="\n".join(http),
        websockets="\n".join(websockets),
        messages=messages,
    )
    return HTMLResponse(page)


def _messages(socket: Socket) -> str:
    """A link to the description of a socket's messages; the socket's summary is a name, such as "The chat."."""
    if not socket.messages:
        return ""
    path, name = escape(socket.messages.removeprefix("/")), escape(socket.summary[0].lower() + socket.summary[1:-1])
    return f'<p>The messages of {name}: <a href="{path}">{path}</a>.</p>\n'


def _row(method: str, path: str, about: str, *, public: bool = False, opens: bool = True) -> str:
    """One route; a link if a browser can open it: a GET that ``opens``, and whose path has nothing to fill in."""
    shown = f"<code>{escape(path)}</code>"
    if opens and method == "GET" and "{" not in path:
        # Relative, for a proxy that serves this under a prefix.
        shown = f'<a href="{escape(path.removeprefix("/") or "./")}">{shown}</a>'
    needs = ' <span class="public">public</span>' if public else ""
    return (
        f'<li><code class="method">{method}</code> <span class="path">{shown}{needs}</span> '
        f'<span class="about">{escape(about)}</span></li>'
    )


DOCS = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}: routes</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="static/page.css">
<link rel="stylesheet" href="static/docs.css">
</head>
<body>
<main class="docs">
<h1>{title} {version}</h1>
<p>Everything about the routes, for programs: <a href="openapi.json">openapi.json</a>. Routes marked public need no
token.</p>
<h2 id="http">HTTP</h2>
<ul class="routes" aria-labelledby="http">
{http}
</ul>
<h2 id="websockets">WebSockets</h2>
{messages}<ul class="routes" aria-labelledby="websockets">
{websockets}
</ul>
</main>
</body>
</html>
"""
