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
SPECULATIVE = ("sec-purpose", "purpose", "x-moz")
"""Headers of requests that a browser makes on speculation, before anybody follows a link."""

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Log in</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{base}/login.css">
</head>
<body>
<main>
<h1>Log in</h1>
{error}{form}</main>
</body>
</html>
"""

FORM = """\
<form method="post" action="{base}/login">
<input type="hidden" name="next" value="{next}">
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<p>It is the server's <code>PREFLIGHT_TOKEN</code>.</p>
<button>Log in</button>
</form>
"""

NO_FORM = """\
<p>Open the link that the start of this server has printed: it logs one person in, once.</p>
<p>To log in here with a token, set <code>PREFLIGHT_TOKEN</code> and start the server again.</p>
"""

STYLE = """\
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0; }
main { max-width: 24rem; margin: 10vh auto; padding: 0 1rem; }
label, input, button { display: block; box-sizing: border-box; width: 100%; font: inherit; }
input, button { margin: 0.25rem 0 0; padding: 0.5rem; }
[role="alert"] { border-left: 0.25rem solid; padding-left: 0.75rem; font-weight: bold; }
"""


def own_path(text: str, base: str = "") -> str:
    """The path to go to after the login, if it is one of these routes'; browsers read ``//`` and ``/\\`` as a host.

    ``base`` is the prefix of the routes. Browsers take ``%2e`` for a dot where a path goes up.
    """
    plain = text.startswith(f"{base}/") and not text.startswith(("//", "/\\")) and text.isprintable()
    goes_up = ".." in text.lower().replace("%2e", ".")
    return text if plain and not (base and goes_up) else base + HOME


def _page(request: Request, target: str, error: str = "", status: int = 200) -> HTMLResponse:
    base = escape(_base(request))
    shown = f'<p role="alert">{escape(error)}</p>\n' if error else ""
    known = services.of(request.scope).access.is_token_known
    form = FORM.format(base=base, next=escape(target)) if known else NO_FORM
    return HTMLResponse(PAGE.format(base=base, error=shown, form=form), status)


async def login(request: Request) -> Response:
    """GET: the form, or with a one-time code (``?code=``) the login. POST: the token, as ``token``.

    The answer to a login sets a cookie and leads to ``next``.
    """
    access = services.of(request.scope).access
    if not access.has_token:
        return JSONResponse({"error": "there is no token to log in with: PREFLIGHT_TOKEN is not set"}, 404)
    base = _base(request)
    if request.method != "POST":
        target = own_path(request.query_params.get("next", HOME), base)
        if access.cookies.login(_cookies(request)) is not None:
            return RedirectResponse(target, 303)
        if (code := request.query_params.get("code")) is not None and _is_followed(request):
            if access.spend(code):
                return _let_in(request, target)
            return await _wrong(
                request, target, "The link is not valid: it has been used, or it belongs to another start."
            )
        return _page(request, target)
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
    target = own_path(fields.get("next", [HOME])[0], base)
    if access.is_token(fields.get("token", [""])[0].strip().encode()):
        return _let_in(request, target)
    return await _wrong(request, target, "The token is wrong.")


def _let_in(request: Request, target: str) -> Response:
    cookies = services.of(request.scope).access.cookies
    return _with_cookies(RedirectResponse(target, 303), cookies.headers(cookies.new(), request.scope))


async def _wrong(request: Request, target: str, error: str) -> Response:
    """The form once more, after a wait that grows with the number of wrong tokens."""
    if not await services.of(request.scope).access.failed(request.scope, services.of(request.scope).instance):
        page = _page(request, target, "Too many wrong tokens. Wait a moment, then try again.", 429)
        page.headers["connection"] = "close"
        return page
    return _page(request, target, error, 401)


async def logout(request: Request) -> Response:
    """End the login that the cookie stands for."""
    access = services.of(request.scope).access
    access.cookies.end(_cookies(request))
    answer = RedirectResponse(_base(request) + ("/login" if access.has_token else HOME), 303)
    return _with_cookies(answer, access.cookies.headers("", request.scope))


async def style(_request: Request) -> Response:
    """The form's style sheet."""
    return Response(STYLE, media_type="text/css")


def _with_cookies(answer: Response, cookies: Iterable[str]) -> Response:
    for cookie in cookies:
        answer.headers.append("set-cookie", cookie)
    return answer


def _base(request: Request) -> str:
    """The prefix of the routes, as clients see it."""
    base: str = request.scope.get("root_path", "")
    return base


def _is_followed(request: Request) -> bool:
    """Whether somebody has opened the link, which is more than a look at it in advance."""
    return request.method == "GET" and not any(name in request.headers for name in SPECULATIVE)


def _announces_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def _cookies(request: Request) -> bytes:
    return b"; ".join(value for name, value in request.scope["headers"] if name == b"cookie")
