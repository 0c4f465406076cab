"""OpenAI's chat completions as compatible services speak them, where the clients of OpenAI and LangChain lose parts.

Three things are lost on the way from a service to a message, and are kept here: that a stream came to its end,
``[DONE]``, whether or not it said before why it ended; why it ended, where that came without a delta; and that the
arguments of a tool call are no object, which is a fault of that call and not of the whole answer. And no answer is read
beyond a bound.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_openai import ChatOpenAI
from openai import AsyncStream
from openai._streaming import ServerSentEvent, SSEDecoder
from openai.types.chat import ChatCompletionChunk
from pydantic import model_validator

from preflight import bodies

DONE = "[DONE]"
"""The end of a stream, and the key of a message's metadata that has the reason for the end: ``finish_reason``."""
LONGEST_BODY = 32 * 1024 * 1024
"""Bytes of an answer that are read: a stream has about 300 for each token, and the longest answers 100,000 tokens."""
END = json.dumps({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": DONE}]})


class Events(AsyncStream[ChatCompletionChunk]):
    """A stream whose last chunk says that it came to its end."""

    async def _iter_events(self) -> AsyncIterator[Any]:
        self._decoder = Decoder()
        async for event in super()._iter_events():
            if event.data.startswith(DONE):
                yield type(event)(data=END)
            yield event


class Decoder(SSEDecoder):
    """Takes a ``[DONE]`` at the end of a stream for an event even if the blank line after it is missing."""

    async def aiter_bytes(self, iterator: AsyncIterator[bytes]) -> AsyncIterator[ServerSentEvent]:
        async for event in super().aiter_bytes(_terminated(iterator)):
            yield event


async def _terminated(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    end = b""
    async for chunk in chunks:
        end = (end + chunk)[-len(b"\ndata: [DONE]\r\n") :]
        yield chunk
    if re.search(rb"(?:\A|[\r\n])data: ?\[DONE\]\r?\n?\Z", end):
        yield b"\n\n"


class Completions:
    """OpenAI's chat completions with such streams; everything else is OpenAI's."""

    def __init__(self, completions: Any) -> None:
        self._completions = completions

    def __getattr__(self, name: str) -> Any:
        return getattr(self._completions, name)

    async def create(self, **request: Any) -> Any:
        if not request.get("stream"):
            return await self._completions.create(**request)
        response = await self._completions.with_raw_response.create(**request)
        return response.parse(to=Events)


class CompatibleChat(ChatOpenAI):
    """A chat model behind any service that speaks chat completions."""

    @model_validator(mode="after")
    def _follow_streams_to_their_end(self) -> CompatibleChat:
        self.async_client = Completions(self.async_client)
        return self

    @model_validator(mode="after")
    def _bound_answers(self) -> CompatibleChat:
        # LangChain has made the client, with the environment's proxies and certificates: one of ours would lack them.
        self.root_async_client._client.event_hooks = {"response": [bodies.bounded(LONGEST_BODY)]}
        return self

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        for choice in chunk.get("choices") or ():
            if choice.get("delta") is None and choice.get("finish_reason"):
                choice["delta"] = {}  # else LangChain leaves the chunk out, and the reason with it
        return super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)

    def _create_chat_result(self, response: Any, generation_info: dict[str, Any] | None = None) -> ChatResult:
        document = response if isinstance(response, dict) else response.model_dump(warnings=False)
        for choice in document.get("choices") or ():
            for call in choice["message"].get("tool_calls") or ():
                if isinstance(call.get("function"), dict):
                    call["function"]["arguments"] = _arguments(call["function"].get("arguments"))
        return super()._create_chat_result(document, generation_info)


def _arguments(given: object) -> str:
    """A call's arguments as text: JSON if they are an object, and certainly no JSON if they are anything else.

    Nothing at all is what many services send for a tool without parameters.
    """
    if given is None or given == "":
        return ""
    if isinstance(given, Mapping):
        return json.dumps(given)
    if not isinstance(given, str):
        return f"no object: {given}"
    try:
        return given if isinstance(json.loads(given, strict=False), dict) else f"no object: {given}"
    except (ValueError, RecursionError):
        return given
