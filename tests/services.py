"""A language model's service on a real socket, which answers as it is told to, header by header."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMPLETION = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Sunny."}, "finish_reason": "stop"}],
}

Answer = tuple[int, Mapping[str, str], Mapping[str, Any] | str]
"""Status, headers and body: a document, or the text of a stream of events."""


def completion(finish_reason: object = "stop", content: str | None = "Sunny.", *calls: tuple[str, object]) -> Answer:
    """A whole answer, which calls tools: each by its name, with these arguments."""
    made = [
        {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for number, (name, arguments) in enumerate(calls)
    ]
    message = {"role": "assistant", "content": content, **({"tool_calls": made} if made else {})}
    return 200, {}, {**COMPLETION, "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}


def streamed(*choices: Mapping[str, Any], done: bool = True) -> Answer:
    """An answer in chunks, each with one of these choices; without `done` the stream ends as if that was all."""
    chunks = [{**COMPLETION, "object": "chat.completion.chunk", "choices": [{"index": 0, **one}]} for one in choices]
    lines = [json.dumps(chunk) for chunk in chunks] + (["[DONE]"] if done else [])
    return 200, {}, "".join(f"data: {line}\n\n" for line in lines)


class Service:
    """Answers each POST with the next status, headers and body; after the last one with a completion."""

    def __init__(self) -> None:
        self.times: list[float] = []
        """When requests came, in seconds since the epoch."""
        self.requests: list[dict[str, Any]] = []
        """Their bodies."""
        self._next: list[Answer] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.requests.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                outer.times.append(time.time())
                status, headers, body = outer._next.pop(0) if outer._next else (200, {}, COMPLETION)
                content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {
                    **headers,
                    "content-type": "text/event-stream" if isinstance(body, str) else "application/json",
                    "content-length": str(len(content)),
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def answers(self, *answers: Answer) -> None:
        """What it answers next."""
        self._next = list(answers)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody is there: connections are refused for as long as the block runs."""
        address, handler = self._server.server_address, self._server.RequestHandlerClass
        self.__exit__()
        yield
        self._server = ThreadingHTTPServer((str(address[0]), int(address[1])), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Service:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
