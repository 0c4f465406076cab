"""The page of an application: with a panel of its own and without one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from preflight.web import services
from preflight.web.instance import Instance
from preflight.web.services import Services


def ask(made: Services, path: str) -> tuple[int, str]:
    """One request, spoken in ASGI to the real routes."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    app = Starlette(routes=[route.mounted() for route in made.table])
    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    asyncio.run(app({**scope, "state": {services.STATE: made}}, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent).decode()


def test_an_application_without_a_panel(
    make_instance: Callable[..., Instance], make_services: Callable[..., Services]
) -> None:
    """Its page has all that every application can show, and no chat, which it does not have."""
    made = make_services(make_instance())
    status, text = ask(made, "/")
    assert (status, 'id="facts"' in text) == (200, True)
    assert "chat" not in text
    assert "panel" not in text
    assert ask(made, "/static/chat.js")[0] == 404


def test_an_application_with_a_panel(
    make_instance: Callable[..., Instance], make_services: Callable[..., Services], tmp_path: Path
) -> None:
    """Its panel stands in the page, the panel's files beside the page's own; the panel itself is no file."""
    (tmp_path / "panel.html").write_text("<section>Its own</section>")
    (tmp_path / "own.js").write_text("// its own")
    (tmp_path / "notes.txt").write_text("nobody's")
    made = make_services(make_instance(), panel=tmp_path)
    assert "<section>Its own</section>" in ask(made, "/")[1]
    assert ask(made, "/static/own.js") == (200, "// its own")
    assert ask(made, "/static/app.js")[0] == 200
    assert [ask(made, f"/static/{name}")[0] for name in ("notes.txt", "panel.html")] == [404, 404]
