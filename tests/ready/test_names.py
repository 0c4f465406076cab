"""Names, as a resolver of the tests' own answers for them: in a network and a file system of the test's own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ENTER = ["unshare", *(["--map-root-user"] if os.geteuid() else []), "--net", "--mount"]

# Answers for good.example, knows no other name, and says nothing at all about those that begin with "silent".
INSIDE = """
import json, pathlib, socket, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

folder = pathlib.Path(sys.argv[1])
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
(folder / "resolv.conf").write_text("nameserver 127.0.0.1\\noptions timeout:30 attempts:1\\n")
subprocess.run(["mount", "--bind", folder / "resolv.conf", "/etc/resolv.conf"], check=True)
(folder / "hosts").write_text("2001:db8:1::1 both.example\\n127.0.0.1 both.example\\n")
subprocess.run(["mount", "--bind", folder / "hosts", "/etc/hosts"], check=True)
# A network into which every packet goes, and out of which none comes.
for command in ("tuntap add d0 mode tun", "link set d0 up", "addr add 2001:db8:1::2/64 dev d0 nodad"):
    subprocess.run(["ip", *command.split()], check=True)
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))

def serve():
    while True:
        asked, client = server.recvfrom(512)
        question = asked[12:]
        end = question.index(b"\\0") + 5
        if question.startswith(b"\\x06silent"):
            continue
        is_good = question.startswith(b"\\x04good\\x07example") and question[end - 4:end - 2] == b"\\0\\1"
        knows = question.startswith(b"\\x04good\\x07example")
        code = b"\\x81\\x80" if knows else b"\\x81\\x83"
        head = asked[:2] + code + b"\\0\\1" + bytes([0, is_good]) + b"\\0\\0\\0\\0"
        answer = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4\\x0a\\1\\2\\3" if is_good else b""
        server.sendto(head + question[:end] + answer, client)

threading.Thread(target=serve, daemon=True).start()
sys.path[:0] = [sys.argv[2]]
from preflight import ready
from tests.ready.asking import ask

def told(made):
    ended = ask(folder, made)
    return [ended.outcome, ended.message]

class Good(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_): pass

web = ThreadingHTTPServer(("127.0.0.1", 0), Good)
threading.Thread(target=web.serve_forever, daemon=True).start()
both = f"both.example:{web.server_port}"

print(json.dumps([
    told(ready.tcp(both, timeout=4.0)),
    told(ready.http(f"http://{both}/", timeout=4.0)),
    told(ready.dns("good.example.", timeout=30.0)),
    told(ready.dns("good.example.", addresses={"10.9.9.9"}, timeout=30.0)),
    told(ready.dns("nobody.example.", timeout=30.0)),
    told(ready.dns("silent.example.", timeout=1.0)),
    told(ready.tcp("silent.example.:80", timeout=1.0)),
    told(ready.http("http://silent.example/", timeout=1.0)),
]))
"""


def inside(folder: Path) -> Any:
    command = [*ENTER, sys.executable, "-c", INSIDE, str(folder), str(ROOT)]
    makes = [*ENTER, "ip", "tuntap", "add", "d0", "mode", "tun"]  # what an ordinary user may not do everywhere
    if shutil.which("ip") is None or subprocess.run(makes, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let this user make a network of its own")
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.slow
def test_names_of_a_resolver(tmp_path: Path) -> None:
    """One that is known, one with other addresses, one that is not known, and name servers that say nothing.

    And a host whose IPv6 address swallows everything, while its IPv4 address answers: each gets its part of the time.
    """
    (tcp, said), (http, _), *others = inside(tmp_path)
    assert (tcp, http) == ("passed", "passed")
    assert re.fullmatch(r"both.example:\d+ accepts connections, but there was no answer at 2001:db8:1::1", said)
    silent = "cannot be resolved now: the name servers do not answer"
    assert others == [
        ["passed", "10.1.2.3"],
        ["failed", "good.example. is 10.1.2.3, and should be 10.9.9.9"],
        ["failed", "nobody.example. cannot be resolved (DNS)"],
        ["failed", f"silent.example. {silent}"],
        ["failed", f"silent.example. {silent}"],
        ["failed", f"silent.example {silent}"],
    ]
