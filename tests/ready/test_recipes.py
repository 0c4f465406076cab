"""The documents' factories, executed as they stand there; those of GPUs and of S3 are only compiled."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.ready.asking import CANARY, ask
from tests.ready.listeners import garbage, listening

ROOT = Path(__file__).parents[2]


def recipe(name: str, file: str = "ready.md") -> Any:
    """The factory of that name, from the block of a document that defines it."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / file).read_text(), re.MULTILINE | re.DOTALL)
    (source,) = [block for block in blocks if f"\ndef {name}(" in block]
    namespace: dict[str, Any] = {"__name__": "recipe"}
    exec(compile(source, f"{file}: {name}", "exec"), namespace)  # the document's own code
    return namespace[name]


def test_one_of_your_own_is_short(tmp_path: Path) -> None:
    """It has at most fifteen lines, and does what the page says."""
    text = (ROOT / "docs" / "requirements.md").read_text().partition("### Write your own factory")[2]
    source = text.partition("```python\n")[2].partition("```")[0]
    assert len([line for line in source.splitlines() if line.strip()]) <= 15
    workers = recipe("workers", "requirements.md")
    assert ask(tmp_path, workers("WORKERS", at_most=8), WORKERS="4").outcome == "passed"
    many = ask(tmp_path, workers("WORKERS", at_most=8), WORKERS="12")
    assert (many.outcome, many.message) == ("failed", "12 workers, and this machine takes 8")
    wrong = ask(tmp_path, workers("WORKERS", at_most=8), WORKERS=CANARY)
    assert (wrong.message, wrong.fix) == ("WORKERS is not a number", "set WORKERS to a number")
    assert ask(tmp_path, workers("WORKERS", at_most=8)).message == "WORKERS is not set"


@pytest.mark.parametrize("off, outcome", [(0, "passed"), (-120, "failed"), (120, "failed")])
def test_the_clock(tmp_path: Path, off: int, outcome: str) -> None:
    """A server of time that is minutes ahead or behind shows that this machine is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def answer() -> None:
            _, client = server.recvfrom(48)
            seconds = int(time.time()) + off + 2_208_988_800
            server.sendto(struct.pack("!12I", *[0] * 10, seconds, 0), client)

        thread = threading.Thread(target=answer)
        thread.start()
        ended = ask(tmp_path, recipe("clock")("127.0.0.1", port=server.getsockname()[1], at_most=60.0))
        thread.join()
    assert ended.outcome == outcome
    if off:
        assert re.fullmatch(rf"the clock is 1[12]\d s {'fast' if off < 0 else 'slow'}", ended.message)


def test_the_dimension_of_embeddings(tmp_path: Path) -> None:
    """A double of the service makes vectors of three numbers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            right = self.headers["Authorization"] == f"Bearer {CANARY}" and self.path == "/v1/embeddings"
            body = json.dumps({"data": [{"embedding": [0.1, 0.2, 0.3]}]}).encode()
            self.send_response(200 if right else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Tests are silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    base = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        embedding = recipe("embedding")
        assert ask(tmp_path, embedding("MY_KEY", "small", 3, base), MY_KEY=CANARY).outcome == "passed"
        other = ask(tmp_path, embedding("MY_KEY", "small", 1536, base), MY_KEY=CANARY)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert other.message == "small makes vectors of 3 numbers, and the store takes 1536"


def test_amqp(tmp_path: Path) -> None:
    """A broker begins with a frame of its own; what does not is none."""

    def broker(connection: socket.socket) -> None:
        greets = connection.recv(8) == b"AMQP\0\0\x09\x01"
        connection.sendall(b"\1\0\0\0\0\1\xf4\0\x0a\0\x0a" if greets else b"AMQP\0\0\x09\x01")

    for talk, outcome in ((broker, "passed"), (garbage, "failed")):
        with listening(talk) as port:
            found = ask(tmp_path, recipe("amqp")("BROKER_URL"), BROKER_URL=f"amqp://me:{CANARY}@127.0.0.1:{port}/x")
        assert found.outcome == outcome, found


@pytest.mark.slow
def test_a_gpu(tmp_path: Path) -> None:
    """Without the driver's program it is certain that there is none to use; with one, its figures are compared."""
    gpu = recipe("gpu")
    folder = tmp_path / "bin"
    folder.mkdir()
    nothing = ask(tmp_path, gpu(free=1000), PATH=str(folder))
    assert nothing.message.startswith("nvidia-smi is not on PATH")
    (folder / "nvidia-smi").write_text("#!/bin/sh\necho 500\necho 9000\n")
    (folder / "nvidia-smi").chmod(0o755)
    assert ask(tmp_path, gpu(free=8000), PATH=str(folder)).outcome == "passed"
    assert ask(tmp_path, gpu(free=10_000), PATH=str(folder)).message == "9000 MiB free on the GPU, needs 10000"


def test_a_bucket() -> None:
    """boto3 is not among what the tests have: the recipe makes its requirement without it."""
    assert recipe("bucket")("backups").__doc__ == "backups is there."
