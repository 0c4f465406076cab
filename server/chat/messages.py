"""The chat's messages: what a client may send and what the server sends, one model a type.

Which of them a client gets depends on whether it streams (see dialects.py). Their JSON Schema is served (see
archive.py) and docs/chat.md explains them. Optional fields that have no value are left out of what is sent.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.json_schema import models_json_schema

from preflight.times import stamp

TEXTS = ("content", "message", "task", "query")  # fields with a client's text; the first that has some counts
LAST = 20  # messages in `initialized`
PAGE = 100  # messages in `history`, at most

Code = Literal[
    "init_required",
    "bad_json",
    "not_text",
    "unknown_type",
    "invalid",
    "empty",
    "too_large",
    "queue_full",
    "draining",
    "storage",
    "session_full",
    "sessions_full",
    "session_deleted",
    "nothing_to_cancel",
    "cancelled",
    "timeout",
    "interrupted",
    "provider_auth",
    "provider_rate_limit",
    "provider_rejected",
    "provider_error",
    "provider_unreachable",
    "provider_timeout",
    "provider_incomplete",
    "provider_invalid",
    "internal",
]
Id = Annotated[str, Field(max_length=128)]


def now() -> str:
    """The time as messages write it."""
    return stamp(time.time())


class _Message(BaseModel):
    # Built when first used: building all of them would be a part of every start.
    model_config = ConfigDict(defer_build=True, frozen=True)


# From the client. Fields that are not known are left alone: clients exist that send more.


class Init(_Message):
    """Begin, or resume the session `session_id`. A second one is answered with the followed session, or changes it."""

    type: Literal["init"]
    session_id: Id | None = None
    workspace_path: str | None = Field(default=None, max_length=4096)
    stream: bool | None = None
    """Whether the answer is wanted piece by piece. By default: unless `workspace_path` comes without a `session_id`."""

    @property
    def streams(self) -> bool:
        if self.stream is not None:
            return self.stream
        return bool(self.session_id) or self.workspace_path is None  # an empty id asks for no session


class Chat(_Message):
    """Say something; the text is in `content`, `message`, `task` or `query`. The `type` may be left out."""

    type: Literal["chat", "message", "task"]
    content: str | None = None
    message: str | None = None
    task: str | None = None
    query: str | None = None
    id: Id | None = None
    """The client's own; sent again with the same one, a message is taken once."""

    @property
    def text(self) -> str:
        return next(filter(_is_text, (getattr(self, name) for name in TEXTS)), "")


class Cancel(_Message):
    """Stop the turn with this `turn_id` or client `id`; without either, the one that runs."""

    type: Literal["cancel"]
    turn_id: Id | None = None
    id: Id | None = None


class Ping(_Message):
    """Ask for a `pong`."""

    type: Literal["ping"]
    id: Id | None = None


class GetTranscript(_Message):
    """Ask for messages before the one with number `before`; without it, for the last ones."""

    type: Literal["history"]
    before: int | None = Field(default=None, ge=1, lt=2**63)
    limit: int = Field(default=LAST, ge=1, le=PAGE)
    id: Id | None = None


class Command(_Message):
    """A command that other servers of these clients carry out, and this one does not: it is answered with `info`."""

    type: Literal["command", "stopAndRollback", "architecture_approval", "hitl_response"]


Client = Init | Chat | Cancel | Ping | GetTranscript | Command
FROM_CLIENT: tuple[type[BaseModel], ...] = get_args(Client)
CLIENT: TypeAdapter[Client] = TypeAdapter(
    Annotated[Client, Field(discriminator="type")], config=ConfigDict(defer_build=True)
)
TYPES = frozenset(kind for message in FROM_CLIENT for kind in get_args(message.model_fields["type"].annotation))


# From the server.


class Entry(_Message):
    """One message of a session's transcript."""

    seq: int
    turn_id: str
    role: Literal["user", "assistant", "error"]
    content: str
    timestamp: str
    id: str | None = None
    code: str | None = None
    retry: bool | None = None
    retry_after: float | None = None


class Connected(_Message):
    """The first message: send `init` now."""

    type: Literal["connected"] = "connected"
    session_id: str
    client_id: str
    version: str
    architecture: str
    requires_init: bool = True
    message: str = 'Connected. Send {"type": "init"} next.'


class Initialized(_Message):
    """The session that this connection follows from now on, with its last messages, oldest first."""

    type: Literal["initialized"] = "initialized"
    session_id: str
    resumed: bool
    workspace_path: str | None = None
    """As it was sent with this `init`."""
    message: str
    messages: list[Entry]


class Accepted(_Message):
    """The message is saved: whatever happens now, its turn gets a `result` or an `error`."""

    type: Literal["accepted"] = "accepted"
    session_id: str
    turn_id: str
    content: str
    timestamp: str
    position: int
    """Turns of this session that come first."""
    duplicate: bool = False
    """It had been accepted before."""
    id: str | None = None


class Status(_Message):
    """The progress of a turn."""

    type: Literal["status"] = "status"
    session_id: str
    turn_id: str
    status: Literal["working", "resumed", "waiting"]
    message: str


class Progress(_Message):
    """A node of the graph has begun."""

    type: Literal["progress"] = "progress"
    session_id: str
    turn_id: str
    node: str
    message: str


class Token(_Message):
    """The next piece of the answer; `index` counts from 0."""

    type: Literal["token"] = "token"
    session_id: str
    turn_id: str
    index: int
    content: str


class Response(_Message):
    """The whole answer, for a client that does not stream, before its `result`."""

    type: Literal["response"] = "response"
    session_id: str
    turn_id: str
    agent: str
    """Who answered: a node of the graph."""
    content: str
    timestamp: str
    id: str | None = None


class Result(_Message):
    """The whole answer: the turn is over. A client that does not stream gets one after each `error`, too."""

    type: Literal["result"] = "result"
    session_id: str
    turn_id: str | None = None
    """Missing where `success` is false and no turn was begun."""
    content: str
    """The answer; where `success` is false, the error's message."""
    success: bool = True
    timestamp: str
    id: str | None = None


class Error(_Message):
    """What went wrong; with a `turn_id`, that turn is over."""

    type: Literal["error"] = "error"
    code: Code
    message: str
    timestamp: str
    session_id: str | None = None
    turn_id: str | None = None
    id: str | None = None
    retry: bool | None = None
    """Whether trying again may help."""
    retry_after: float | None = None
    """Seconds to wait first, from `timestamp` on, as the service asked for."""


class Pong(_Message):
    """The answer to `ping`."""

    type: Literal["pong"] = "pong"
    timestamp: str
    id: str | None = None


class TranscriptPage(_Message):
    """A page of the transcript, oldest first; `more`: there are older ones."""

    type: Literal["history"] = "history"
    session_id: str
    messages: list[Entry]
    more: bool
    id: str | None = None


class Info(_Message):
    """The requested command does not exist here; nothing has happened."""

    type: Literal["info"] = "info"
    message: str
    timestamp: str


Server = (
    Connected
    | Initialized
    | Accepted
    | Status
    | Progress
    | Token
    | Response
    | Result
    | Error
    | Pong
    | TranscriptPage
    | Info
)
FROM_SERVER: tuple[type[BaseModel], ...] = get_args(Server)


def kind_of(document: dict[str, Any]) -> object:
    """The type of a JSON object from a client; an object without one is a `chat` if there is text in it."""
    kind = document.get("type")
    return "chat" if kind is None and any(_is_text(document.get(name)) for name in TEXTS) else kind


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def parse(document: dict[str, Any]) -> Client:
    """The message in a JSON object whose type is one of TYPES; raises ValueError with what is wrong, in one line."""
    try:
        return CLIENT.validate_python(document)
    except ValidationError as error:
        # Where and why, never the value: it is not ours to repeat.
        faults = [
            (".".join(str(part) for part in fault["loc"][1:]), fault["msg"])
            for fault in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise ValueError("; ".join(f"{where}: {why}" if where else why for where, why in faults[:3])) from None


def schema() -> dict[str, Any]:
    """JSON Schema of both directions: `oneOf` under `client` and `server` in `$defs`."""
    models: list[Any] = [(model, "validation") for model in FROM_CLIENT] + [
        (model, "serialization") for model in FROM_SERVER
    ]
    references, document = models_json_schema(models, ref_template="#/$defs/{model}")
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["title"] = "Messages of /ws/chat"
    for name, members, mode in (("client", FROM_CLIENT, "validation"), ("server", FROM_SERVER, "serialization")):
        document["$defs"][name] = {"oneOf": [references[member, mode] for member in members]}  # type: ignore[index]
    return dict(document)
