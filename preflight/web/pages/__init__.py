"""The page and what it is made of: plain files beside this one, no build step, nothing from elsewhere.

index.html is the page; each JavaScript module there has one subject. The files are read once, at the first request.
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

from preflight.web.negotiation import unchanged

FOLDER = Path(__file__).parent
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PAGE = "index.html"


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
def assets() -> Mapping[str, Asset]:
    """Every file of the page, by name."""
    found = {}
    for path in FOLDER.iterdir():
        if path.suffix in TYPES:
            body = path.read_bytes()
            found[path.name] = Asset(TYPES[path.suffix], body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
    return found


def page(request: Request) -> Response:
    """The page; what it shows it asks /diagnostics for."""
    return assets()[PAGE].answer(request, Vary="Accept")


async def root(request: Request) -> Response:
    """The page."""
    return page(request)


async def static(request: Request) -> Response:
    """A file of the page."""
    asset = assets().get(request.path_params["name"])
    if asset is None:
        raise HTTPException(404)
    return asset.answer(request)
