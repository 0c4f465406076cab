"""The page and its files: plain files in this folder, without a build step, and nothing from other servers.

index.html is the page, and fleet.html the fleet's; the signs that both show are put into them. Each JavaScript module
has one subject. An application's own panel is put into the page, and the panel's files are served beside these files.
The files are read once, at the first request.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from preflight.web import services
from preflight.web.negotiation import unchanged

FOLDER = Path(__file__).parent
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PAGE = "index.html"
FLEET = "fleet.html"
PANEL = "panel.html"
PLACE = b"<!-- The application's panel. -->\n"
SIGNS = "signs.html"
SIGNS_PLACE = b"<!-- The signs. -->\n"
END = b"</head>"


class Asset(NamedTuple):
    """A file as it is sent."""

    media_type: str
    body: bytes
    etag: str

    def answer(self, request: Request, **headers: str) -> Response:
        """The file, or 304 if the client has it. A browser keeps it and asks each time, so that versions never mix."""
        headers = {"ETag": self.etag, "Cache-Control": "no-cache", **headers}
        if unchanged(request.headers.get("if-none-match", ""), self.etag):
            return Response(status_code=304, headers=headers)
        return Response(self.body, media_type=self.media_type, headers=headers)


@functools.cache
def assets(panel: Path | None) -> Mapping[str, Asset]:
    """Every file of the page, by name; ``panel`` is the folder of the application's own."""
    paths = [path for folder in (FOLDER, panel) if folder for path in folder.iterdir()]
    bodies = {path.name: path.read_bytes() for path in paths if path.suffix in TYPES}
    bodies[PAGE] = bodies[PAGE].replace(PLACE, bodies.pop(PANEL, b""))
    signs = bodies.pop(SIGNS)
    bodies |= {name: bodies[name].replace(SIGNS_PLACE, signs) for name in (PAGE, FLEET)}
    return {
        name: Asset(TYPES[Path(name).suffix], body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
        for name, body in bodies.items()
    }


def page(request: Request, name: str = PAGE) -> Response:
    """The page, or the fleet's; their scripts ask /diagnostics and /fleet for what they show.

    Where its scripts need a nonce, it is in the page, which is then kept nowhere.
    """
    asset = _assets(request)[name]
    if nonce := services.of(request.scope).access.nonce(request.scope):
        meta = f'<meta name="preflight-nonce" content="{nonce}">\n'.encode()
        body = asset.body.replace(END, meta + END, 1)
        return Response(body, media_type=asset.media_type, headers={"Vary": "Accept, Cookie, Sec-Fetch-Dest"})
    return asset.answer(request, Vary="Accept")


async def root(request: Request) -> Response:
    """The page."""
    return page(request)


async def static(request: Request) -> Response:
    """A file of the page."""
    asset = _assets(request).get(request.path_params["name"])
    if asset is None:
        raise HTTPException(404)
    return asset.answer(request)


def _assets(request: Request) -> Mapping[str, Asset]:
    return assets(services.of(request.scope).application.panel)
