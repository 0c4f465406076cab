"""Clients of a server: those that ask all the time, and those that ask for a re-run."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.error
import urllib.request
from typing import Any

from tests.e2e.place import Place, get
from tests.waiting import PATIENCE, until

Document = dict[str, Any]


class Clients:
    """Clients that ask all the time: some keep their connection, some connect anew for each request.

    As HTTP allows, a request on a reused connection is tried once more when that was closed meanwhile.
    """

    def __init__(self, port: int, *, keeping: int = 2, reconnecting: int = 2, path: str = "/health/live") -> None:
        self.refused: list[str] = []
        self.failed: list[str] = []
        self.answered = 0
        self._port = port
        self._path = path
        self._over = threading.Event()
        self._counting = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(n < keeping,)) for n in range(keeping + reconnecting)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def go_on(self, count: int = 50) -> None:
        """Wait until that many more requests were answered."""
        wanted = self.answered + count
        until(lambda: self.answered >= wanted or bool(self.refused), "more requests are answered")

    def _ask(self, keep: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        reused = False
        while not self._over.is_set():
            try:
                connection.request("GET", self._path, headers={} if keep else {"Connection": "close"})
                answer = connection.getresponse()
                answer.read()
            except ConnectionRefusedError as error:
                self.refused.append(repr(error))
                return
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if not reused:
                    self.failed.append(repr(error))
                reused = False
                continue
            if answer.status != 200:
                self.failed.append(f"status {answer.status}")
            # http.client drops a connection after an answer with "Connection: close".
            reused = connection.sock is not None
            with self._counting:
                self.answered += 1
            self._over.wait(0.01)  # the machine's processors are for those that start
        connection.close()

    def lost_nothing(self) -> None:
        """Nobody was refused and every request was answered."""
        assert (self.refused, self.failed) == ([], [])


def server(place: Place) -> dict[str, object]:
    """What /diagnostics says of the instance that answers."""
    part: dict[str, object] = json.loads(get(f"{place.url}/diagnostics")[1])["server"]
    return part


def over(url: str, run_id: str) -> Document:
    """A run's state, once it is over."""
    found: Document = {}

    def ended() -> bool:
        nonlocal found
        found = answer(url, f"/diagnostics/run/{run_id}")
        return bool(found["state"] != "running")

    until(ended, f"run {run_id} is over")
    return found


def rerun(url: str) -> Document:
    """A whole re-run; its state at the end."""
    status, _headers, begun = post(url)
    assert status == 202, begun
    return over(url, begun["run_id"])


def post(url: str, path: str = "/diagnostics/run") -> tuple[int, dict[str, str], Document]:
    """Status, headers (in small letters) and body of the answer to a POST."""
    request = urllib.request.Request(url + path, b"", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            status, headers, body = answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            status, headers, body = error.code, error.headers, error.read()
    return int(status), {name.lower(): value for name, value in headers.items()}, json.loads(body)


def answer(url: str, path: str) -> Document:
    body: Document = json.loads(get(url + path)[1])
    return body
