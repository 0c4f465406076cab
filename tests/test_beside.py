"""The entrance beside an application: whatever form a server gives its headers, all alike, no login of ours passes."""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from preflight.web.beside import Beside

OURS = b"preflight_8002_beside=1.x.y"


class Pair(NamedTuple):
    """As of HTTP/2 libraries: a tuple with names."""

    name: bytes
    value: bytes


FORMS: dict[str, Callable[[list[tuple[bytes, bytes]]], Any]] = {
    "a list of tuples": list,
    "a tuple of tuples": tuple,
    "a list of lists": lambda headers: [list(header) for header in headers],
    "a list of named tuples": lambda headers: [Pair(*header) for header in headers],
}


def seen(headers: Any, kind: str = "http") -> dict[str, Any]:
    """The scope with which the application is called."""
    scopes = list[dict[str, Any]]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)

    async def lifespan(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("this is a request")

    scope = {"type": kind, "path": "/x", "headers": headers}
    asyncio.run(Beside(app, "/_preflight", "x").entrance(lifespan)(scope, None, None))  # type: ignore[arg-type]
    (one,) = scopes
    return one


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("form", FORMS)
def test_a_login_is_taken_out(form: str, kind: str) -> None:
    """Of a header that has other cookies, too."""
    headers = FORMS[form]([(b"host", b"h"), (b"cookie", b"a=1; " + OURS), (b"cookie", OURS), (b"x", b"y")])
    assert [tuple(header) for header in seen(headers, kind)["headers"]] == [
        (b"host", b"h"),
        (b"cookie", b"a=1"),
        (b"x", b"y"),
    ]


@pytest.mark.parametrize("headers", [[], [(b"host", b"h"), (b"cookie", b"a=_besides; b=2")]], ids=["none", "others"])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_ours_stays(form: str, headers: list[tuple[bytes, bytes]]) -> None:
    """As it is, and in order."""
    assert [tuple(header) for header in seen(FORMS[form](headers))["headers"]] == headers


def test_the_application_has_the_very_scope_of_the_server() -> None:
    """Where nothing is to be taken out, a server's own marks in it stay as well."""
    headers = [(b"host", b"h"), (b"cookie", b"a=1")]
    assert seen(headers)["headers"] is headers
