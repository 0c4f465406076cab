"""What the server answers, as an OpenAPI document: written here by hand and held against the routes by tests.

The routes are plain Starlette routes, which FastAPI's own document does not know.
"""

from __future__ import annotations

from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from preflight import __version__
from preflight.report.model import ORIGINS, OUTCOMES, SEVERITIES, STATUSES
from preflight.web import diagnostics, pages, paging

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
TRUTH: Schema = {"type": "boolean"}
ANYTHING: Schema = {"type": "object"}


def ref(name: str) -> Schema:
    """A schema that stands among the components."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(optional: Schema | None = None, **required: Schema) -> Schema:
    """An object with these properties and no others."""
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


def table(of: Schema) -> Schema:
    """An object whose names are data."""
    return {"type": "object", "additionalProperties": of}


def array(of: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": of}


def maybe(one: Schema) -> Schema:
    """That, or null."""
    return {"anyOf": [one, {"type": "null"}]}


def choice(*words: str) -> Schema:
    """One of these words."""
    return {"type": "string", "enum": list(words)}


SCHEMAS: dict[str, Schema] = {
    "Error": record(error=TEXT),
    "Health": record(
        status=choice("healthy", "unhealthy", "draining"),
        version=TEXT,
        architecture=TEXT,
        critical_errors=array(TEXT),
        warnings=array(TEXT),
        active_connections=COUNT,
        active_sessions=COUNT,
        timestamp=TEXT,
    ),
    "HealthDraft": {
        "type": "object",
        "properties": {
            "status": choice("pass", "warn", "fail"),
            **dict.fromkeys(("version", "releaseId", "serviceId", "description", "output"), TEXT),
        },
        "required": ["status", "version", "releaseId", "serviceId", "description"],
        "additionalProperties": False,
    },
    "Live": record(status=choice("live")),
    "Ready": record(status=choice("ready", "unhealthy", "draining")),
    "Brief": record(title=TEXT, message=TEXT, fix=TEXT),
    "Check": record(
        status=TEXT,
        severity=choice(*SEVERITIES),
        outcome=choice(*OUTCOMES),
        message=TEXT,
        details=ANYTHING,
        fix=TEXT,
        duration_ms=NUMBER,
        timestamp=TEXT,
    ),
    "Diagnostics": record(
        status=choice(*STATUSES, "not run"),
        generated_at=maybe(TEXT),
        age_seconds=maybe(NUMBER),
        run_id=maybe(TEXT),
        origin=maybe(choice(*ORIGINS)),
        reason=TEXT,
        summary=table(COUNT),
        server=record(
            version=TEXT,
            uptime_seconds=NUMBER,
            worker_uptime_seconds=NUMBER,
            pid=COUNT,
            host=TEXT,
            port=COUNT,
            instance_id=TEXT,
            restarts=ANYTHING,
        ),
        critical_errors=array(ref("Brief")),
        warnings=array(ref("Brief")),
        checks=table(ref("Check")),
        api_keys=table(record(loaded=maybe(TRUTH), source=maybe(TEXT))),
        port=ANYTHING,
        dependencies=ANYTHING,
        notifications=record(
            configured=COUNT,
            pending=COUNT,
            delivered=COUNT,
            undelivered=COUNT,
            dropped=COUNT,
            last_delivered_at=maybe(TEXT),
            problem=TEXT,
            problem_at=maybe(TEXT),
        ),
        optional={"problem": TEXT},
    ),
    "Line": record(
        seq=COUNT,
        turn_id=TEXT,
        role=choice("user", "assistant", "error"),
        content=TEXT,
        timestamp=TEXT,
        optional={"id": TEXT, "code": TEXT, "retry": TRUTH, "retry_after": NUMBER},
    ),
    "Run": record(
        run_id=TEXT,
        origin=choice(*ORIGINS),
        status=choice(*STATUSES),
        may_start=TRUTH,
        started_at=TEXT,
        duration=NUMBER,
        address=TEXT,
        selection=TEXT,
        reason=TEXT,
        summary=table(COUNT),
        blocking=array(TEXT),
        warnings=array(TEXT),
        flips=array(record(**{"title": TEXT, "from": TEXT, "to": TEXT})),
    ),
    "Past": record(
        title=TEXT,
        severity=choice(*SEVERITIES),
        flips=COUNT,
        runs=array(
            record(
                run_id=TEXT,
                started_at=TEXT,
                origin=choice(*ORIGINS),
                address=TEXT,
                outcome=choice(*OUTCOMES),
                message=TEXT,
                duration_ms=NUMBER,
            )
        ),
    ),
    "Rerun": record(
        run_id=TEXT,
        state=choice("running", "finished", "broken"),
        started_at=TEXT,
        finished_at=maybe(TEXT),
        checking=maybe(TEXT),
        done=COUNT,
        total=maybe(COUNT),
        status=maybe(choice(*STATUSES)),
        reason=TEXT,
        checks=array(
            record(
                title=TEXT,
                severity=choice(*SEVERITIES),
                outcome=choice(*OUTCOMES),
                message=TEXT,
                fix=TEXT,
                duration_ms=NUMBER,
            )
        ),
    ),
    "TooSoon": record({"retry_after": COUNT}, error=TEXT),
    "Deleted": record(deleted=COUNT),
    "Login": {"type": "object", "properties": {"token": TEXT, "next": TEXT}, "required": ["token"]},
}
SESSION: dict[str, Schema] = {
    "session_id": TEXT,
    "created": TEXT,
    "updated": TEXT,
    "messages": COUNT,
    "bytes": COUNT,
    "unanswered": COUNT,
    "workspace_path": maybe(TEXT),
    "active": TRUTH,
}
SCHEMAS["Session"] = record(**SESSION)
SCHEMAS["Sessions"] = record(sessions=array(ref("Session")), total=COUNT)
SCHEMAS["Transcript"] = record(**SESSION, transcript=array(ref("Line")))


def answer(about: str, schema: Schema | None = None, kind: str = "application/json") -> Schema:
    """One answer."""
    return {"description": about} | ({"content": {kind: {"schema": schema}}} if schema else {})


def error(about: str) -> Schema:
    """One that says what is wrong."""
    return answer(about, ref("Error"))


HTML, CSS = "text/html", "text/css"
PAGE = answer("a page", TEXT, HTML)
SAME = {"description": "what If-None-Match names is still so"}
SEE_OTHER = {"description": "somewhere else", "headers": {"Location": {"schema": TEXT, "required": True}}}
GUARDED: dict[str, Schema] = {
    "400": error("a header is there twice that must be there once"),
    "401": error("a token is needed, or this is not it"),
    "403": error("another web page asks, or another machine where there is no token"),
    "421": error("the Host header names no name of this server"),
    "429": error("too many wrong tokens"),
}
TO_LOGIN: dict[str, Schema] = {"303": SEE_OTHER | {"description": "a browser without access: to the login"}}
HISTORY = {"503": error("the history cannot be read now")}
HEALTH: Schema = {
    "content": {
        "application/json": {"schema": ref("Health")},
        "application/health+json": {"schema": ref("HealthDraft")},
    }
}
STORE = {"503": error("the sessions cannot be read or written now")}


def operation(
    about: str, answers: dict[str, Schema], *, public: bool = False, guarded: bool = True, **more: Any
) -> Schema:
    """One method of one path. ``public``: without access; ``guarded=False``: whatever Host and Origin are, too."""
    refusals = GUARDED if guarded else {}
    return {
        "summary": about,
        "responses": refusals | answers,
        **({"security": []} if public else {}),
        **more,
    }


def query(name: str, about: str, low: int, high: int, default: int) -> Schema:
    """A whole number in the query."""
    schema = {"type": "integer", "minimum": low, "maximum": high, "default": default}
    return {"name": name, "in": "query", "description": about, "schema": schema}


RUN_ID = {"name": "run_id", "in": "path", "required": True, "schema": TEXT}
A_PAGE = [
    query("limit", "how many", 1, paging.LONGEST, paging.USUAL),
    query("offset", "how many to leave out", 0, paging.FURTHEST, 0),
]
PAGE_OF_RUNS = [
    *A_PAGE,
    {"name": "address", "in": "query", "description": "host:port; without it, of all addresses", "schema": TEXT},
]
SESSION_ID = {"name": "session_id", "in": "path", "required": True, "schema": TEXT}

PATHS: dict[str, dict[str, Schema]] = {
    "/health": {
        "get": operation(
            "Whether this instance is well, and what troubles it by name.",
            {
                "200": HEALTH | {"description": "it is, warnings included"},
                "503": HEALTH | {"description": "it is not, or it drains"},
            },
            public=True,
            guarded=False,
        )
    },
    "/health/live": {
        "get": operation("The process answers.", {"200": answer("it does", ref("Live"))}, public=True, guarded=False)
    },
    "/health/ready": {
        "get": operation(
            "The verdict is good, and the server does not drain.",
            {"200": answer("send requests", ref("Ready")), "503": answer("send none", ref("Ready"))},
            public=True,
            guarded=False,
        )
    },
    "/": {"get": operation("The page.", TO_LOGIN | {"200": PAGE, "304": SAME})},
    "/static/{name}": {
        "get": operation(
            "A file of the page.",
            TO_LOGIN
            | {
                "200": {
                    "description": "the file",
                    "content": {kind.partition(";")[0]: {"schema": TEXT} for kind in pages.TYPES.values()},
                },
                "304": SAME,
                "404": error("no such file"),
            },
            parameters=[{"name": "name", "in": "path", "required": True, "schema": TEXT}],
        )
    },
    "/diagnostics": {
        "get": operation(
            "The most recent report for this address, whoever made it.",
            TO_LOGIN
            | {
                "200": {
                    "description": "the report, in the format that ?format= or Accept asks for",
                    "content": {
                        "application/json": {"schema": ref("Diagnostics")},
                        "application/health+json": {"schema": ANYTHING},
                        "text/plain": {"schema": TEXT},
                        HTML: {"schema": TEXT},
                    },
                },
                "304": SAME,
                "400": error("no such format"),
            },
            parameters=[
                {
                    "name": "format",
                    "in": "query",
                    "description": "wins over Accept",
                    "schema": choice(*diagnostics.MEDIA_TYPES),
                }
            ],
        )
    },
    "/diagnostics/run": {
        "post": operation(
            "Run the suite again, beside the live server, or join the run that goes on.",
            {
                "202": answer("it goes on", ref("Rerun"))
                | {"headers": {"Location": {"schema": TEXT, "required": True}}},
                "429": answer("the last one has only just ended, or too many wrong tokens", ref("TooSoon")),
                "503": error("the server stops"),
            },
        )
    },
    "/diagnostics/run/{run_id}": {
        "get": operation(
            "How far a re-run is, or how it ended.",
            TO_LOGIN | {"200": answer("the run", ref("Rerun")), "404": error("there is none")},
            parameters=[RUN_ID],
        )
    },
    "/diagnostics/history": {
        "get": operation(
            "Past runs with what flipped in each, newest first.",
            TO_LOGIN
            | HISTORY
            | {"200": answer("a page of them", array(ref("Run"))), "400": error("a number out of its range")},
            parameters=PAGE_OF_RUNS,
        )
    },
    "/diagnostics/history/{run_id}": {
        "get": operation(
            "One past run.",
            TO_LOGIN | HISTORY | {"200": answer("the run", ref("Diagnostics")), "404": error("there is none")},
            parameters=[RUN_ID],
        )
    },
    "/diagnostics/checks/{title}": {
        "get": operation(
            "How one check fared in the past, newest first.",
            TO_LOGIN
            | HISTORY
            | {
                "200": answer("its past", ref("Past")),
                "400": error("a number out of its range"),
                "404": error("no run that is kept has it"),
            },
            parameters=[{"name": "title", "in": "path", "required": True, "schema": TEXT}, *PAGE_OF_RUNS],
        )
    },
    "/metrics": {"get": operation("For Prometheus.", TO_LOGIN | {"200": answer("the metrics", TEXT, "text/plain")})},
    "/sessions": {
        "get": operation(
            "The chat's sessions, the latest used first.",
            TO_LOGIN
            | STORE
            | {"200": answer("a page of them", ref("Sessions")), "400": error("a number out of its range")},
            parameters=A_PAGE,
        ),
        "delete": operation("Delete all sessions.", STORE | {"200": answer("how many there were", ref("Deleted"))}),
    },
    "/sessions/{session_id}": {
        "get": operation(
            "One session with its whole transcript.",
            TO_LOGIN | STORE | {"200": answer("the session", ref("Transcript")), "404": error("there is none")},
            parameters=[SESSION_ID],
        ),
        "delete": operation(
            "Delete one session; a turn of it is cancelled, its connections are closed.",
            STORE | {"200": answer("it is gone", ref("Deleted")), "404": error("there is none")},
            parameters=[SESSION_ID],
        ),
    },
    "/chat/schema.json": {
        "get": operation(
            "JSON Schema of every message of /ws/chat.", TO_LOGIN | {"200": answer("the schema", ANYTHING)}
        )
    },
    "/login": {
        "get": operation(
            "The form that takes the token.",
            {
                "200": PAGE,
                "303": SEE_OTHER | {"description": "logged in already"},
                "404": error("there is no token to log in with"),
            },
            public=True,
            parameters=[{"name": "next", "in": "query", "description": "where to go then", "schema": TEXT}],
        ),
        "post": operation(
            "Log in: sets a cookie.",
            {
                "303": SEE_OTHER | {"description": "logged in"},
                "401": answer("that is not the token", TEXT, HTML),
                "404": error("there is no token to log in with"),
                "413": error("more than a login needs"),
                "429": answer("too many wrong tokens", TEXT, HTML),
            },
            public=True,
            requestBody={
                "required": True,
                "content": {"application/x-www-form-urlencoded": {"schema": ref("Login")}},
            },
        ),
    },
    "/login.css": {"get": operation("The form's style.", {"200": answer("the style", TEXT, CSS)}, public=True)},
    "/logout": {"post": operation("End the login.", {"303": SEE_OTHER})},
    "/openapi.json": {"get": operation("This document.", TO_LOGIN | {"200": answer("the document", ANYTHING)})},
    "/docs": {"get": operation("The routes, for people.", TO_LOGIN | {"200": PAGE})},
}


WEBSOCKETS = {
    "/ws/chat": "The chat.",
    "/ws/diagnostics": "The verdict, each check of a re-run, and each new report, as they come.",
}
"""OpenAPI describes HTTP alone."""


def document(*, token: bool = True) -> Schema:
    """The OpenAPI document of a server with a token, or of one that has none and trusts its own machine."""
    schemes = {
        "token": {"type": "http", "scheme": "bearer", "description": "PREFLIGHT_TOKEN"},
        "login": {"type": "apiKey", "in": "cookie", "name": "preflight_PORT", "description": "set by POST /login"},
    }
    found: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "Agent server",
            "version": __version__,
            "description": "The chat is a WebSocket at /ws/chat; GET /chat/schema.json has its messages."
            " /ws/diagnostics is one that tells what GET /diagnostics shows as it changes.",
        },
        "paths": PATHS,
        "components": {"schemas": SCHEMAS},
    }
    if token:
        found["components"]["securitySchemes"] = schemes
        found["security"] = [{"token": []}, {"login": []}]
    return found


async def openapi(request: Request) -> JSONResponse:
    """The document for this server."""
    return JSONResponse(document(token=request.state.access.has_token))


async def docs(request: Request) -> HTMLResponse:
    """The routes as a page of our own: nothing in it comes from elsewhere, and nothing runs."""
    nowhere = () if request.state.access.has_token else ("/login",)
    http = [
        _row(method.upper(), path, one["summary"], public="security" in one, opens=path not in nowhere)
        for path, methods in PATHS.items()
        for method, one in methods.items()
    ]
    websockets = [_row("WS", path, about) for path, about in WEBSOCKETS.items()]
    page = DOCS.format(version=escape(__version__), http="\n".join(http), websockets="\n".join(websockets))
    return HTMLResponse(page)


def _row(method: str, path: str, about: str, *, public: bool = False, opens: bool = True) -> str:
    """One route. What a browser can open is a link: a GET that there is, whose path has nothing to fill in."""
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
<title>Agent server: routes</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="static/page.css">
<link rel="stylesheet" href="static/docs.css">
</head>
<body>
<main class="docs">
<h1>Agent server {version}</h1>
<p>Everything about the routes, for programs: <a href="openapi.json">openapi.json</a>. What is marked public needs no
access.</p>
<h2 id="http">HTTP</h2>
<ul class="routes" aria-labelledby="http">
{http}
</ul>
<h2 id="websockets">WebSockets</h2>
<p>The messages of the chat: <a href="chat/schema.json">chat/schema.json</a>.</p>
<ul class="routes" aria-labelledby="websockets">
{websockets}
</ul>
</main>
</body>
</html>
"""

routes = [Route("/openapi.json", openapi), Route("/docs", docs)]
