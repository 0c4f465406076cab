"""The messages' schema, and docs/chat.md beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import jsonschema
import pytest

from preflight.settings.fields import declared_by
from server.chat import messages
from server.settings import AgentSettings

DOCS = (Path(__file__).parents[1] / "docs" / "chat.md").read_text()


def test_the_schema_is_valid_and_has_every_message() -> None:
    """It is JSON Schema, and each side has its types."""
    schema = messages.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert len(schema["$defs"]["client"]["oneOf"]) == 6
    assert len(schema["$defs"]["server"]["oneOf"]) == 12


@pytest.mark.parametrize(
    "document, fault",
    [
        ({"type": "chat", "content": 5}, "content: Input should be a valid string"),
        ({"type": "history", "limit": 0}, "limit: Input should be greater than or equal to 1"),
        ({"type": "init", "session_id": "x" * 129}, "session_id: String should have at most 128 characters"),
        ({"type": "ping", "id": ["secret-value"]}, "id: Input should be a valid string"),
    ],
    ids=["text", "number", "length", "list"],
)
def test_a_fault_says_where_and_never_the_value(document: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError) as caught:
        messages.parse(document)
    assert str(caught.value) == fault


def test_the_documentation_has_every_type_field_and_code() -> None:
    """And every setting of the chat with its default's number."""
    for model in (*messages.FROM_CLIENT, *messages.FROM_SERVER):
        kind = get_args(model.model_fields["type"].annotation)[0]
        for name in (kind, *(name for name in model.model_fields if name != "type")):
            assert f"`{name}`" in DOCS, (model.__name__, name)
    for name in messages.Entry.model_fields:
        assert f"`{name}`" in DOCS
    for code in get_args(messages.Code):
        assert f"`{code}`" in DOCS, code
    documented = set(re.findall(r"^\| `(\w+)` \| [^|]+ \|", DOCS.split("## Settings")[1], re.MULTILINE))
    of_the_chat = {entry.name for entry in declared_by(AgentSettings)}
    assert documented == of_the_chat
    assert f"up to {messages.PAGE})" in DOCS
