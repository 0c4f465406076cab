"""The way in for people with a browser: a form that takes the token and gives a cookie. No script in it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from preflight.web import services

LONGEST = 8 * 1024  # bytes of a login's body
HOME = "/"

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Log in</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/login.css">
</head>
<body>
<main>
<h1>Log in</h1>
{error}<form method="post" action="/login">
<input type="hidden" name="next" value="{next}">
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<p>It is the server's <code>PREFLIGHT_TOKEN</code>.</p>
<button>Log in</button>
</form>
</main>
</body>
</html>
"""

STYLE = """\
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0; }
main { max-width: 24rem; margin: 10vh auto; padding: 0 1rem; }
label, input, button { display: block; box-sizing: border-box; width: 100%; font: inherit; }
input, button { margin: 0.25rem 0 0; padding: 0.5rem; }
[role="alert"] { border-left: 0.25rem solid; padding-left: 0.75rem; font-weight: bold; }
"""


def own_path(text: str) -> str:
    """The path to go to after the login, if it is one of this server's; browsers read ``//`` and ``/\\`` as a host."""
    plain = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable()
    return text if plain else HOME


def _page(target: str, error: str = "", status: int = 200) -> HTMLResponse:
    shown = f'<p role="alert">{escape(error)}</p>\n' if error else ""
    return HTMLResponse(PAGE.format(error=shown, next=escape(target)), status)


async def login(request: Request) -> Response:
    """GET: the form. POST: the token, as ``token``; the answer sets a cookie and leads to ``next``."""
    access = services.of(request.scope).access
    if not access.has_token:
        return JSONResponse({"error": "there is no token to log in with: PREFLIGHT_TOKEN is not set"}, 404)
    if request.method != "POST":
        target = own_path(request.query_params.get("next", HOME))
        if access.has_session(_cookies(request)):
            return RedirectResponse(target, 303)
        return _page(target)
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > LONGEST:
                return JSONResponse({"error": f"a login has at most {LONGEST} bytes"}, 413)
    except ClientDisconnect:
        return Response(status_code=400)  # for nobody
    if not body and "upgrade" in request.headers and _announces_body(request):
        # uvicorn's own httptools protocol skips the body of such a request; the launcher's reads it.
        return JSONResponse({"error": "the form was lost: send it without an Upgrade header"}, 400)
    fields = parse_qs(body.decode("latin-1"), encoding="utf-8", errors="replace")
    target = own_path(fields.get("next", [HOME])[0])
    if access.is_token(fields.get("token", [""])[0].strip().encode()):
        return _with_cookies(RedirectResponse(target, 303), access.cookies(access.new_session(), request.scope))
    if not await access.failed(request.scope, services.of(request.scope).instance):
        page = _page(target, "Too many wrong tokens. Wait a moment, then try again.", 429)
        page.headers["connection"] = "close"
        return page
    return _page(target, "That is not the token.", 401)


async def logout(request: Request) -> Response:
    """End the login that the cookie stands for."""
    access = services.of(request.scope).access
    access.end_session(_cookies(request))
    answer = RedirectResponse("/login" if access.has_token else HOME, 303)
    return _with_cookies(answer, access.cookies("", request.scope))


async def style(_request: Request) -> Response:
    """The form's style sheet."""
    return Response(STYLE, media_type="text/css")


def _with_cookies(answer: Response, cookies: Iterable[str]) -> Response:
    for cookie in cookies:
        answer.headers.append("set-cookie", cookie)
    return answer


def _announces_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def _cookies(request: Request) -> bytes:
    return b"; ".join(value for name, value in request.scope["headers"] if name == b"cookie")
