"""What a route is: its path, its endpoint, who may ask, and what the OpenAPI document says about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

from starlette import routing
from starlette.types import ASGIApp

from preflight.settings.model import Settings
from preflight.web.schemas import Schema


class Audience(Enum):
    """Who may ask for a route; :mod:`preflight.web.access` says how that is found out."""

    ANYBODY = auto()
    """Everybody, whatever Host and Origin the request has."""
    VISITORS = auto()
    """Clients that ask for this server by its name, from a page that may."""
    ADMITTED = auto()
    """Visitors that have the token or a login, or are on this machine if there is no token."""


class Operation(NamedTuple):
    """One method of a route, as the document describes it."""

    summary: str
    answers: Mapping[str, Schema]
    """By status; those that the guard gives are added."""
    parameters: Sequence[Schema] = ()
    body: Schema | None = None


class Route(NamedTuple):
    """A path and its methods."""

    path: str
    """As Starlette writes it: ``/diagnostics/run/{run_id}``. Only ADMITTED routes may have something to fill in."""
    endpoint: Callable[..., Any]
    """An async function from Starlette's request to its response, or an object that is an ASGI application."""
    operations: Mapping[str, Operation]
    """By method; HEAD comes with GET."""
    audience: Audience = Audience.ADMITTED
    direct: bool = False
    """Whether GET and HEAD are answered before the framework's routing, by an endpoint that is an ASGI application."""
    is_offered: Callable[[Settings], bool] = lambda _settings: True
    """Whether these settings leave it anything to answer; if not, it answers 404, and is not documented."""

    def mounted(self) -> routing.Route:
        """The route for Starlette's router."""
        return routing.Route(self.path, self.endpoint, methods=list(self.operations))


class Socket(NamedTuple):
    """A path at which a WebSocket opens, for those who are admitted."""

    path: str
    endpoint: ASGIApp
    summary: str
    messages: str = ""
    """The path of the JSON Schema of its messages, if there is one."""

    def mounted(self) -> routing.WebSocketRoute:
        """The route for Starlette's router."""
        return routing.WebSocketRoute(self.path, self.endpoint)


Table = Sequence[Route | Socket]


def audiences(table: Table) -> dict[str, Audience]:
    """By path, the routes that others than the admitted may ask for."""
    return {
        route.path: route.audience
        for route in table
        if isinstance(route, Route) and route.audience is not Audience.ADMITTED
    }


def direct(table: Table) -> dict[str, ASGIApp]:
    """By path, the endpoints that answer before the framework's routing."""
    return {route.path: route.endpoint for route in table if isinstance(route, Route) and route.direct}
