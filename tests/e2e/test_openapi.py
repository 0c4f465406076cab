"""schemathesis asks every route of the OpenAPI document for what it might not have thought of.

`FUZZ=10000` for the long run: thousands of requests.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.e2e.chatting import Client
from tests.e2e.place import Place
from tests.fuzzing import EXAMPLES

TOKEN = "canary-Zq7vXw2LmN8pRt4KdY6hJb3F"


@pytest.mark.parametrize("guarded", [False, True], ids=["local", "token"])
def test_every_route(place: Place, guarded: bool) -> None:
    """No answer is a fault of the server, and each is one that the document describes: status, headers and body."""
    environ = {"PREFLIGHT_TOKEN": TOKEN} if guarded else {}
    started = place.start("--demo", **environ).until_ready()
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{started.url}/openapi.json", "--no-color"]
    command += ["--max-examples", str(max(3, EXAMPLES // 25)), "--warnings", "off"]
    if guarded:
        # Wrong tokens are answered the later the more of them come, which is what is wanted; test_access.py sends them.
        command += [
            "-H",
            f"Authorization: Bearer {TOKEN}",
            "--exclude-path",
            "/login",
            "--exclude-checks",
            "ignored_auth",
        ]
    else:
        client = Client(started.url)  # so that there is a session to be found
        client.init()
        client.answer("help")
        client.socket.close()
    if "FUZZ" not in os.environ:
        command += ["--generation-deterministic", "--phases", "coverage" if guarded else "fuzzing"]
    done = subprocess.run(
        command, cwd=place.folder, env=place.environ, capture_output=True, text=True, timeout=3600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counted = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert counted is not None, done.stdout
    assert counted[1] == counted[2]
    assert int(counted[1]) >= min(EXAMPLES // 2, 5000)
    print(done.stdout)
    assert "Traceback" not in started.output
    assert started.stop() == 0
