"""What ready-made requirements cost: many that answer at once, all that never answer, and the import.

    python benchmarks/ready.py [--rounds 7]

A project of somebody's is checked with ``preflight --check-only``. Twelve services on loopback answer at once, then
twelve ports swallow every packet. Compare ratios of one sitting: times depend on what else the machine does.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.ports import Table, milliseconds  # noqa: E402  # the checkout is not installed
from benchmarks.start import describe  # noqa: E402
from tests.e2e.doubles import SMALL  # noqa: E402
from tests.e2e.installing import Adopter, adopt, install  # noqa: E402
from tests.ready.listeners import swallowing  # noqa: E402

SERVICES = 12
DEADLINE = 2.0  # seconds that each probe of a service which swallows has
KINDS = {
    "http": "ready.http('SERVICE_{0}', timeout={1}, title='{2}')",
    "tcp": "ready.tcp('SERVICE_{0}', timeout={1}, title='{2}')",
    "api_key": "ready.api_key('KEY', 'mistral', base='http://127.0.0.1:{3}', timeout={1}, title='{2}')",
}
IMPORT = """
import sys, time
import pytest, preflight.suite.plugin, preflight.suite.fixtures
begun = time.perf_counter()
from preflight import ready
ready.tcp("SERVICE"); ready.file("data")
print((time.perf_counter() - begun) * 1000, *sorted({"psycopg", "redis", "mcp", "httpx2"} & set(sys.modules)))
"""


class Good(BaseHTTPRequestHandler):
    """Answers at once, with a list."""

    def do_GET(self) -> None:
        body = b'{"data": [{"id": "m"}]}' if "KEY" in str(self.headers) or self.path == "/" else b"{}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is written meanwhile."""


def suite(kinds: list[str], ports: list[int], timeout: float) -> str:
    """A file with a requirement of each of these kinds, one service after the other."""
    lines = ["from preflight import ready"]
    for number, kind in enumerate(kinds):
        service = number % SERVICES
        made = KINDS[kind].format(service, timeout, f"{kind} {number}", ports[service])
        lines.append(f"test_{number} = {made}")
    return "\n".join([*lines, ""])


def check(shop: Adopter, source: str, environ: dict[str, str]) -> float:
    """Milliseconds of one whole run."""
    shop.write("preflight_suite/test_ready.py", source)

    def run() -> None:
        done = shop.command("--check-only", "--port", str(shop.port), environ=environ)
        if done.process.returncode not in (0, 1):
            raise SystemExit(done.output)

    return milliseconds(run)


def answering(shop: Adopter, rounds: int) -> None:
    """Thirty over twelve services, against the slowest kind alone."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(SERVICES):
            server = ThreadingHTTPServer(("127.0.0.1", 0), Good)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            ports.append(server.server_port)
        environ = {f"SERVICE_{number}": f"http://127.0.0.1:{port}/" for number, port in enumerate(ports)}
        environ["KEY"] = "KEY-of-a-double"
        table = Table("preflight --check-only, services that answer at once, the whole command")
        for number in range(rounds + 1):
            for kind in KINDS:
                spent = check(shop, suite([kind], ports, 30.0), environ)
                if number:  # the first round fills the caches
                    table.add(f"{kind} alone", spent)
            spent = check(shop, suite([*KINDS] * 10, ports, 30.0), environ)
            if number:
                table.add("30 requirements", spent)
        slowest = max((f"{kind} alone" for kind in KINDS), key=table.median)
        table.show(against=slowest, target="30 requirements at most 1.3x of the slowest alone")


def silent(shop: Adopter, rounds: int) -> None:
    """All of them swallow packets: the time beyond the deadline, against a run with nobody to ask."""
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(swallowing()) for _ in range(SERVICES)]
        environ = {f"SERVICE_{number}": f"http://127.0.0.1:{port}/" for number, port in enumerate(ports)}
        environ["KEY"] = "KEY-of-a-double"
        table = Table(f"the same, services that swallow every packet, a deadline of {DEADLINE:g} s each")
        for number in range(rounds + 1):
            nobody = check(shop, "from preflight import ready\ntest_root = ready.folder('.')\n", environ)
            all_of_them = check(shop, suite([*KINDS] * 10, ports, DEADLINE), environ)
            if number:
                table.add("nobody is asked", nobody)
                table.add("30 requirements", all_of_them)
        table.show(against="nobody is asked", target="the deadline and 700 ms")
        beyond = table.median("30 requirements") - table.median("nobody is asked") - DEADLINE * 1000
        print(f"  beyond the deadline, and what a run takes anyway: {beyond:.0f} ms")


def imports(rounds: int) -> None:
    """What a suite pays for the catalogue, and which libraries it has then."""
    table = Table("from preflight import ready, in a process of the suite")
    loaded: set[str] = set()
    for _ in range(rounds):
        command = [sys.executable, "-c", IMPORT]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        table.add("import, and two requirements", float(told[0]))
        loaded |= set(told[1:])
    table.show(against="import, and two requirements", target="at most 10 ms")
    print(f"  libraries of extras that it has loaded: {', '.join(sorted(loaded)) or 'none'}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    describe()
    with tempfile.TemporaryDirectory(prefix="preflight-ready-") as folder:
        shop = adopt(Path(folder), install(Path(folder, "installed")))
        shop.write("shop.py", SMALL)
        shop.write("pyproject.toml", '[tool.preflight]\napp = "shop:app"\n')
        answering(shop, rounds)
        silent(shop, rounds)
        imports(rounds)
        shop.close()


if __name__ == "__main__":
    main()
