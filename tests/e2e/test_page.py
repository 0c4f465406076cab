"""The page, as people use it: in a real browser, before a real server."""

from __future__ import annotations

import json
import queue
import re
import shutil
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, WebSocket, WebSocketRoute, expect

from preflight.web import pages
from tests.e2e.browser import chromium
from tests.e2e.chatting import client, kill_worker, worker_of
from tests.e2e.place import KEYS, Place, get, make_place
from tests.portnumbers import unused_port
from tests.receivers import Receiver
from tests.waiting import PATIENCE, until

COMMAND = "python -c \"import shutil; shutil.copy('/models/latest', 'model.bin')\""
FIX = f"{COMMAND}  # and start it again"
MODEL = '''
import time
from pathlib import Path

import pytest

MODEL = Path({path!r})
GATE = MODEL.with_name("gate")


@pytest.mark.critical("Model File", fix={fix!r})
def test_model(details):
    """The model that the agent loads is there."""
    details.update(path=str(MODEL))
    assert MODEL.exists(), "<img src=x onerror=alert(1)> is not there, and this has no space: " + "x" * 300


@pytest.mark.warning("After It")
def test_after():
    """Comes after it, and takes as long as the test wants."""
    while not GATE.exists():
        time.sleep(0.01)
'''


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all of these tests."""
    expect.set_options(timeout=1000 * PATIENCE)
    with chromium() as browser:
        yield browser


class Model:
    """A language model's service whose answers a test dictates, piece by piece."""

    def __init__(self) -> None:
        self.pieces: queue.Queue[str] = queue.Queue()
        """Of the answers, in the order of the turns; an empty one ends an answer."""
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer("application/json", b"{}")

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if "tools" in asked:  # whether one is needed: none is
                    chosen = {"message": {"role": "assistant", "content": "none"}, "finish_reason": "stop", "index": 0}
                    whole = {"id": "1", "object": "chat.completion", "model": "gpt-4o", "choices": [chosen]}
                    if not asked.get("stream"):
                        self._answer("application/json", json.dumps(whole).encode())
                        return
                self._answer("text/event-stream", b"")
                with suppress(OSError):  # a turn that was stopped
                    while "tools" not in asked and (piece := model.pieces.get()):
                        self._chunk({"content": piece}, None)
                    self._chunk({}, "stop")
                    self.wfile.write(b"data: [DONE]\n\n")

            def _chunk(self, delta: dict[str, str], reason: str | None) -> None:
                choice = {"index": 0, "delta": delta, "finish_reason": reason}
                chunk = {"id": "1", "object": "chat.completion.chunk", "model": "gpt-4o", "choices": [choice]}
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())

            def _answer(self, kind: str, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def says(self, *pieces: str) -> None:
        """The next words."""
        for piece in pieces:
            self.pieces.put(piece)

    def ends(self) -> None:
        """The answer is over."""
        self.pieces.put("")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE)


@pytest.fixture(scope="module")
def dictated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Model]]:
    """A server whose chat goes as a test dictates."""
    place, model = make_place(tmp_path_factory.mktemp("talking") / "place"), Model()
    place.write_env_file(**KEYS)
    place.environ |= {"PREFLIGHT_PYTHON": ">=3.11", "OPENAI_BASE_URL": f"{model.url}/v1"}
    place.environ["PERPLEXITY_BASE_URL"] = model.url
    instance = place.start().until_ready()
    yield place, model
    instance.stop()
    place.close()
    model.close()


@pytest.fixture
def talking(dictated: tuple[Place, Model]) -> tuple[Place, Model]:
    """The same, with nothing dictated yet."""
    dictated[1].pieces = queue.Queue()
    return dictated


Open = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Open a place's page; at the end, nothing was against the page's own policy and no script has failed."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def visit(
        place: Place,
        path: str = "/",
        *,
        link: str = "Live",
        before: Callable[[Page], object] = lambda _page: None,
        **options: Any,
    ) -> Page:
        settings: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", **options}
        context = browser.new_context(**settings)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        context.set_default_timeout(1000 * PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.extend([said.text] if "Security Policy" in said.text else []))
        page.on("request", lambda asked: faults.extend([] if _is_ours(asked.url, place) else [asked.url]))
        before(page)
        page.goto(place.url + path)
        if page.url.startswith(place.url + "/login"):
            page.get_by_label("Token").fill(place.environ["PREFLIGHT_TOKEN"])
            page.get_by_role("button", name="Log in").click()
        expect(page.locator(".check").first).to_be_visible()
        expect(page.locator("#link-text")).to_have_text(link)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert faults == []


def _is_ours(url: str, place: Place) -> bool:
    return url.startswith((place.url + "/", f"ws://127.0.0.1:{place.port}/", "data:"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A green server that no test changes, with a few runs in its past."""
    place = make_place(tmp_path_factory.mktemp("served") / "place")
    instance = place.start("--demo").until_ready()
    place.run("--demo", "--check-only", PREFLIGHT_MEMORY="900 TiB")
    place.run("--demo", "--check-only")
    yield place
    instance.stop()
    place.close()


def want_model(project: Place) -> Path:
    """Have one more critical requirement in this tree; returns the file that it asks for."""
    path = project.folder / "model.bin"
    path.write_text("a model")
    path.with_name("gate").touch()
    project.write_requirement("model", MODEL.format(path=str(path), fix=FIX))
    return path


@pytest.fixture
def model(project: Place) -> Path:
    """What one more critical requirement of ``project`` asks for."""
    return want_model(project)


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory, compiled_tree: Path) -> Iterator[Place]:
    """A server that no test changes, whose address has a red report: a check beside it found something."""
    folder = tmp_path_factory.mktemp("red")
    shutil.copytree(compiled_tree, folder / "project")
    place = make_place(folder / "place", folder / "project")
    path = want_model(place)
    instance = place.start("--demo").until_ready()
    path.unlink()
    assert place.run("--demo", "--check-only").process.returncode == 1
    yield place
    instance.stop()
    place.close()


def row(page: Page, title: str) -> str:
    """Selector of a check's row."""
    return f'.check:has([data-part="title"]:text-is("{title}"))'


def of(place: Place, severity: str = "") -> int:
    """How many checks the latest report has, all or those of a severity."""
    return sum(check["severity"] == severity or not severity for check in place.report()["checks"])


def announced(page: Page) -> Callable[[], list[str]]:
    """Have the page keep what it announces from now on; returns what tells it."""
    page.evaluate(
        """() => {
            window.said = [];
            const region = document.getElementById("announcer");
            new MutationObserver(() => region.textContent && said.push(region.textContent))
                .observe(region, { childList: true });
        }"""
    )
    return lambda: list(page.evaluate("said"))


def alter(kind: str, change: Callable[[dict[str, Any]], list[dict[str, Any]]]) -> Callable[[Page], None]:
    """Something between server and page that makes other messages of those of a kind; for ``visit``'s ``before``."""

    def stand(between: WebSocketRoute) -> None:
        server = between.connect_to_server()

        def pass_on(text: str | bytes) -> None:
            message = json.loads(text)
            for one in change(message) if message["type"] == kind else [message]:
                between.send(json.dumps(one))

        server.on_message(pass_on)

    return lambda page: page.route_web_socket("**/ws/diagnostics", stand)


def violations(page: Page) -> list[str]:
    """What axe-core has to say against the page as it is now."""
    found = Axe().run(page)
    return [
        f"{one['id']}: {node['html'][:120]}: {node['failureSummary']}"
        for one in found.response["violations"]
        for node in one["nodes"]
    ]


def test_a_rerun_is_seen_live_and_flips(project: Place, model: Path, visit: Open) -> None:
    """Everybody who looks sees a re-run check by check, and then what flipped; the next one has to wait."""
    # After It waits for the test, which looks at a lot meanwhile.
    patience = {"PREFLIGHT_REQUIREMENT_TIMEOUT": "300s", "PREFLIGHT_RUN_TIMEOUT": "600s"}
    project.start("--demo", PREFLIGHT_RERUN_INTERVAL="5", **patience).until_ready()
    page, other = visit(project), visit(project)
    refused: list[str] = []
    page.on("response", lambda answer: refused.extend([answer.url] if answer.status == 429 else []))
    expect(page.locator("#verdict")).to_have_text("Ready")
    model.unlink()
    gate = model.with_name("gate")
    gate.unlink()
    page.evaluate(
        """() => {
            window.seen = [];
            const watch = () => seen.push(document.getElementById("checking").textContent);
            new MutationObserver(watch).observe(document.getElementById("checking"), { childList: true });
        }"""
    )
    page.get_by_role("button", name="Check again").click()
    expect(page.get_by_role("button", name="Checking…")).to_have_attribute("aria-disabled", "true")
    expect(other.get_by_role("button", name="Checking…")).to_be_visible()
    # While the run goes on: the check that failed is red, the whole is not yet.
    expect(page.locator(row(page, "Model File"))).to_have_attribute("data-sign", "failed")
    expect(page.locator("#overview")).to_have_attribute("data-state", "passed")
    expect(page.locator("#checking")).to_have_text(re.compile(r"\d+ of \d+: After It"))
    assert (
        page.locator(".group h3 span").first.inner_text() == f"Critical: 1 of {of(project, 'critical')} needs attention"
    )
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert violations(page) == []
    # Who comes in the middle of it sees the same.
    newcomer = visit(project)
    expect(newcomer.locator("#checking")).to_contain_text("After It")
    expect(newcomer.locator(".past-run")).to_have_count(1)
    expect(newcomer.locator(row(newcomer, "Model File"))).to_have_attribute("data-sign", "failed")
    gate.touch()
    for one in (page, other):
        expect(one.locator("#verdict")).to_have_text("Not ready")
        expect(one).to_have_title("Not ready – Preflight")
        expect(one.locator(row(one, "Model File")).locator("[data-part=flip]")).to_have_text("was passed")
        expect(one.locator(".check").first).to_contain_text("Model File")
        expect(one.locator("#run")).to_be_hidden()
        expect(one.locator("#announcer")).to_have_text("Checked: Not ready. Model File: was passed, now failed")
        assert one.locator(".past-run").evaluate_all("runs => runs.map(run => run.dataset.state)") == [
            "passed",
            "failed",
        ]
        expect(one.locator(".past-run").last).to_have_class(re.compile("flipped"))
    expect(page.locator("#facts")).to_contain_text("unhealthy")
    expect(page.locator("#itself")).to_be_hidden()
    seen = page.evaluate("seen")
    assert "Collecting the checks" in seen
    assert any(re.fullmatch(rf"\d+ of {of(project)}: Model File", step) for step in seen)
    assert project.report()["origin"] == "rerun"
    # Too soon for the next one: everybody's button counts the seconds by itself, and keeps the focus.
    for one in (page, other, newcomer):
        expect(one.locator("#rerun")).to_have_text(re.compile(r"Again in \d+ s"))
        expect(one.locator("#rerun")).to_have_attribute("aria-disabled", "true")
    expect(page.locator("#rerun")).to_be_focused()
    left = int(re.sub(r"\D", "", page.locator("#rerun").inner_text()))
    assert 1 <= left <= 5
    expect(page.locator("#rerun")).not_to_have_text(f"Again in {left} s")
    # When it has counted down, the server takes the next one: no click was refused.
    expect(page.get_by_role("button", name="Check again")).not_to_have_attribute("aria-disabled", "true")
    page.get_by_role("button", name="Check again").click()
    expect(page.locator("#announcer")).to_have_text("Checking again.")
    expect(page.locator("#rerun")).to_have_text(re.compile(r"Again in \d+ s"))
    assert refused == []


def test_in_service_all_the_same(project: Place, model: Path, visit: Open) -> None:
    """With rerun_gates off the server is healthy by its word, and the page says why."""
    project.start("--demo", PREFLIGHT_RERUN_GATES="no").until_ready()
    page = visit(project)
    model.unlink()
    page.get_by_role("button", name="Check again").click()
    expect(page.locator("#verdict")).to_have_text("Not ready")
    expect(page.locator("#itself")).to_have_text("The server keeps serving, because rerun_gates is off.")
    expect(page.locator("#facts")).to_contain_text("healthy")


def test_checks_of_other_processes(served: Place, visit: Open) -> None:
    """A report that somebody else publishes for this address appears by itself, and time goes on meanwhile.

    Where it found everything as it was, it is shown, and read to nobody. What another server of the same state folder
    found is not among the earlier results.
    """
    served.run("--demo", "--check-only", "--port", str(unused_port()))
    page = visit(served)
    expect(page.locator(".past-run").first).to_be_visible()
    runs = page.locator(".past-run").count()
    before = page.locator("#when time").get_attribute("datetime")
    said = announced(page)
    served.run("--demo", "--check-only")
    expect(page.locator(".past-run")).to_have_count(runs + 1)
    assert page.locator("#when time").get_attribute("datetime") != before
    memory = page.locator(row(page, "Memory"))
    memory.locator("summary").click()
    memory.get_by_role("button", name="Earlier results of Memory").click()
    expect(memory.locator(".outcomes li").first).to_be_visible()
    past = f"{served.url}/diagnostics/checks/Memory"
    everybody = json.loads(get(past)[1])["runs"]
    mine = [run for run in everybody if run["address"] == f"127.0.0.1:{served.port}"]
    assert len(mine) == len(everybody) - 1
    assert memory.locator(".outcomes li").count() == len(mine)
    expect(page.locator("#when time")).to_have_text(re.compile(r"^([3-9]|\d\d) s ago$"))
    expect(page.locator("#picked")).to_have_text(re.compile(r"\(([3-9]|\d\d) s ago\)$"))
    page.locator(".past-run").first.click()
    until(lambda: bool(said()), "the click is announced")
    assert [text[:19] for text in said()] == ["This is the run of "]


def test_two_snapshots_at_once(served: Place, visit: Open) -> None:
    """News that come twice while the past is asked for are told, and their run is in the strip."""

    def twice(page: Page) -> None:
        alter("snapshot", lambda message: [message, message])(page)
        # It goes on after whoever asked: by then the second snapshot has been sent.
        page.route("**/diagnostics/history?*", lambda route: route.continue_())

    page = visit(served, before=twice)
    expect(page.locator(".past-run").first).to_be_visible()
    runs = page.locator(".past-run").count()
    said = announced(page)
    served.run("--demo", "--check-only", PREFLIGHT_MEMORY="900 TiB")
    expect(page.locator(".past-run")).to_have_count(runs + 1)
    served.run("--demo", "--check-only")
    expect(page.locator(".past-run")).to_have_count(runs + 2)
    until(lambda: len(said()) >= 2, "both are announced")
    assert said() == [
        "Checked: Ready, with warnings. Memory: was passed, now failed",
        "Checked: Ready. Memory: was failed, now passed",
    ]


def test_an_address_that_was_cut(served: Place, visit: Open) -> None:
    """No run goes by it: that is said, and the page shows now."""
    page = visit(served, "/#run=%")
    for place in ("#announcer", "#checking"):  # for who listens, and for who looks
        expect(page.locator(place)).to_have_text("The run cannot be shown: there is no such run")
    expect(page.locator("#checking")).to_be_visible()
    expect(page.locator("#verdict")).to_have_text("Ready")
    assert page.evaluate("location.hash") == ""


def test_without_websockets(served: Place, visit: Open) -> None:
    """Where they do not come through, the page asks every 5 s; a re-run is followed all the same."""

    def closed(page: Page) -> None:
        page.route_web_socket("**/ws/diagnostics", lambda socket: socket.close())
        page.clock.install()

    page = visit(served, before=closed, link="Refreshed every 5 s")
    expect(page.locator(".past-run").first).to_be_visible()
    runs = page.locator(".past-run").count()
    served.run("--demo", "--check-only")
    page.clock.fast_forward(5000)
    expect(page.locator(".past-run")).to_have_count(runs + 1)
    page.clock.resume()
    page.get_by_role("button", name="Check again").click()
    expect(page.locator("#when")).to_contain_text("by a re-run")
    expect(page.locator("#announcer")).to_have_text("Checked: Ready.")  # to whom asked for it, it is news
    expect(page.locator("#link-text")).to_have_text("Refreshed every 5 s")
    expect(page.locator("#lost")).to_be_hidden()
    assert violations(page) == []


def test_an_answer_that_breaks_off(served: Place, visit: Open) -> None:
    """Half a history is none: the report is shown without its past, and no script fails."""

    def cut(page: Page) -> None:
        page.route("**/diagnostics/history?*", lambda route: route.fulfill(status=200, body='[{"run_id": "abc'))

    page = visit(served, before=cut)
    expect(page.locator("#verdict")).to_have_text("Ready")
    expect(page.locator("#past")).to_be_hidden()


def test_past_runs(served: Place, visit: Open) -> None:
    """A run in the strip opens with a click, is marked as past, and there are two ways back to now."""
    page = visit(served)
    expect(page.locator("#verdict")).to_have_text("Ready")
    warned = page.locator('.past-run[data-state="warnings"]').first
    assert re.fullmatch(
        r"Ready, with warnings, .+, check: \d+ passed, 1 failed, \d+ left out, 1 change: Memory",
        str(warned.get_attribute("aria-label")),
    )
    warned.click()
    expect(page.locator("#verdict")).to_have_text("Ready, with warnings, back then")
    expect(warned).to_have_attribute("aria-current", "true")
    memory = page.locator(row(page, "Memory"))
    expect(memory.locator("[data-part=flip]")).to_have_text("was passed")
    expect(page).to_have_title("Ready – Preflight")  # the tab says how it is now
    page.reload()
    expect(page.locator("#verdict")).to_have_text("Ready, with warnings, back then")
    page.get_by_role("button", name="Back to now").click()
    expect(page.locator("#verdict")).to_have_text("Ready")
    expect(page.get_by_role("button", name="Back to now")).to_be_hidden()
    expect(page.locator("#rerun")).to_be_focused()
    page.go_back()
    expect(page.locator("#verdict")).to_have_text("Ready, with warnings, back then")
    page.go_forward()
    expect(page.locator("#verdict")).to_have_text("Ready")
    # One check's past.
    memory.locator("summary").click()
    memory.get_by_role("button", name="Earlier results of Memory").click()
    past = memory.locator(".outcomes li")
    expect(past.nth(1)).to_be_visible()
    assert {"passed", "warnings"} == set(past.evaluate_all("all => all.map(one => one.dataset.sign)"))


def test_it_says_that_the_server_is_gone_and_back(place: Place, visit: Open) -> None:
    """A server that ends is missed in words, in the tab and for screen readers; the next one is found by itself.

    Answers come in pieces; a reload and the next server find the conversation again, and nothing is said twice.
    """
    first = place.start("--demo").until_ready()
    page = visit(place)
    frames: list[dict[str, object]] = []

    def hear(socket: WebSocket) -> None:
        if socket.url.endswith("/ws/chat"):
            socket.on("framereceived", lambda data: frames.append(json.loads(data)))

    page.on("websocket", hear)
    page.evaluate(
        """() => {
            window.grown = new Set();
            const look = () => grown.add(document.querySelector(".bubble.working .text")?.textContent.length ?? 0);
            const options = { childList: true, subtree: true };
            new MutationObserver(look).observe(document.getElementById("transcript"), options);
        }"""
    )
    field = page.get_by_label("Your question")
    field.fill("What failed?")
    field.press("Enter")
    answers = page.locator(".bubble.assistant:not(.working)")
    expect(answers).to_have_count(1)
    answer = answers.inner_text()
    assert "failed" in answer
    assert sum(frame["type"] == "token" for frame in frames) > 1
    assert page.evaluate("grown.size") > 2  # seen in more than one length: it was streamed
    session = page.evaluate("sessionStorage.getItem('preflight-chat')")

    page.reload()
    expect(page.locator(".bubble.user")).to_have_text(re.compile("What failed"))
    assert answers.inner_text() == answer
    resumed = [frame for frame in frames if frame["type"] == "initialized"][-1]
    assert (resumed["resumed"], resumed["session_id"]) == (True, session)

    expect(page.locator("#link-text")).to_have_text("Live")
    expect(page.locator("#facts")).to_contain_text(f"PID {worker_of(place.url)}")
    said = announced(page)
    page.evaluate(
        """() => {
            window.links = [];
            const link = document.getElementById("link-text");
            new MutationObserver(() => links.push(link.textContent)).observe(link, { childList: true });
        }"""
    )
    assert first.stop() == 0
    expect(page.locator("#lost")).to_be_visible()
    expect(page.locator("#lost")).to_contain_text("The server does not answer.")
    expect(page.locator("#link-text")).to_have_text("No connection")
    expect(page).to_have_title("No connection – Preflight")
    expect(page.locator("#itself")).to_be_hidden()
    assert page.evaluate("links") == ["No connection"]  # nobody went by what it said while it was stopping
    assert violations(page) == []
    page.get_by_role("button", name="Check again").click()
    expect(page.locator("#checking")).to_contain_text("The checks were not started")
    field.fill("Which Python is it?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".bubble.pending")).to_contain_text("Which Python is it?")
    place.start("--demo").until_ready()
    expect(page.locator("#lost")).to_be_hidden()
    expect(page.locator("#link-text")).to_have_text("Live")
    expect(page.locator("#run")).to_be_hidden()
    expect(page).to_have_title("Ready – Preflight")
    expect(page.locator("#facts")).to_contain_text(f"PID {worker_of(place.url)}")
    until(lambda: "The server answers again." in said(), "it is announced, a moment after it can be seen")
    told = [text for text in said() if text.startswith("The server")]
    assert told == ["The server does not answer.", "The server answers again."]

    expect(answers).to_have_count(2)
    expect(page.locator(".bubble.user")).to_have_count(2)
    assert page.locator(".bubble.pending").count() == 0
    assert page.evaluate("sessionStorage.getItem('preflight-chat')") == session
    page.get_by_role("button", name="Start over").click()
    expect(page.locator(".bubble")).to_have_count(0)


def test_a_crash_is_no_drama_and_that_nobody_could_be_told_is_said(
    place: Place, visit: Open, request: pytest.FixtureRequest
) -> None:
    """A worker that crashes and is replaced: the page goes on and shows the restart.

    A notification that does not arrive is a line of the facts, until one does; else there is none.
    """
    place.environ["PREFLIGHT_NOTIFY_BACKOFF"] = "0.1"
    receiver = Receiver(failures=1_000_000)
    request.addfinalizer(receiver.close)
    place.start("--demo", "--supervise", PREFLIGHT_NOTIFY=receiver.url("/canaryTopic3")).until_ready()
    page = visit(place)
    expect(page.locator("#facts")).to_contain_text("none")
    assert "Notifications" not in page.locator("#facts dt").all_inner_texts()
    kill_worker(place.started[-1])  # that is news
    line = page.locator("#facts div", has=page.locator("dt", has_text="Notifications")).locator("dd")
    expect(line).to_have_text(re.compile(r"not delivered, .+: json: HTTP 500"))
    expect(page.locator("#facts")).to_contain_text("1, the last ")
    expect(page.locator("#link-text")).to_have_text("Live")
    expect(page.locator("#lost")).to_be_hidden()
    assert "canaryTopic3" not in page.content()
    assert violations(page) == []
    receiver.failures = 0
    kill_worker(place.started[-1])
    expect(line).to_have_count(0)


def test_what_is_said_decides_where_a_bubble_begins(served: Place, visit: Open) -> None:
    """Text from right to left is set so; the name before it, which is for screen readers, does not count."""
    page = visit(served)
    field, said, answer = (page.locator(name) for name in ("#chat-text", ".bubble.user", ".bubble.assistant"))
    texts = {"מה נכשל?": "rtl", "ماذا فشل؟ OPENAI_API_KEY": "rtl", "What failed? שלום": "ltr", "8002 …": "ltr"}
    for text, direction in texts.items():
        field.fill(text)
        field.press("Enter")
        expect(said).to_have_attribute("dir", "auto")
        expect(said.locator(".text")).to_have_css("direction", direction)
        expect(answer).to_have_attribute("dir", "auto")
        expect(answer.locator(".text")).to_have_css("direction", "ltr")
        page.get_by_role("button", name="Start over").click()
        expect(page.locator(".bubble")).to_have_count(0)


def test_chat_resumes_in_the_middle_of_an_answer(talking: tuple[Place, Model], visit: Open) -> None:
    """After a reload the answer goes on where it is, can be stopped, and is whole at its end."""
    place, model = talking
    page = visit(place)
    page.get_by_label("Your question").fill("Tell me a story")
    page.keyboard.press("Enter")
    model.says("Once upon ", "a time ")
    working = page.locator(".bubble.working .text")
    expect(working).to_have_text("Once upon a time")
    page.reload()
    expect(page.locator(".bubble.user")).to_contain_text("Tell me a story")
    expect(working).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    model.says("there was ", "a server. ")
    expect(working).to_have_text("… there was a server.")
    model.ends()
    expect(page.locator(".bubble.assistant:not(.working) .text")).to_have_text("Once upon a time there was a server.")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    assert page.locator(".bubble").count() == 2


def test_stop_is_there_while_a_turn_works(talking: tuple[Place, Model], visit: Open) -> None:
    """When the first of two turns ends, the second can be stopped, after a reload as well; the keyboard stays."""
    place, model = talking
    page = visit(place)
    field, stop = page.get_by_label("Your question"), page.get_by_role("button", name="Stop")
    for question in ("The first", "The second"):
        field.fill(question)
        field.press("Enter")
    expect(page.locator(".bubble.working")).to_have_count(2)
    page.reload()
    expect(page.locator(".bubble.working")).to_have_count(2)
    model.says("It is this. ")
    model.ends()
    expect(page.locator(".bubble.assistant:not(.working)")).to_have_count(1)
    model.says("And it ")
    expect(page.locator(".bubble.working .text")).to_have_text("And it")
    expect(stop).to_be_visible()
    stop.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".bubble.error")).to_contain_text("cancelled")
    expect(stop).to_be_hidden()
    expect(field).to_be_focused()
    model.ends()


def test_who_reads_is_left_in_peace(talking: tuple[Place, Model], visit: Open) -> None:
    """The transcript follows an answer to its end, but not for somebody who has scrolled up."""
    place, model = talking
    page = visit(place)
    place_of = "one => [one.scrollTop, one.scrollHeight - one.clientHeight - one.scrollTop]"
    page.get_by_label("Your question").fill("Tell me everything")
    page.keyboard.press("Enter")
    model.says(*["It is long. "] * 200)
    working, transcript = page.locator(".bubble.working .text"), page.locator("#transcript")
    expect(working).to_contain_text(" ".join(["It is long."] * 200))
    top, below = transcript.evaluate(place_of)
    assert top > 100
    assert below < 2
    transcript.evaluate("one => { one.scrollTop = 50; }")
    model.says("And longer. ")
    expect(working).to_contain_text("And longer.")
    assert transcript.evaluate(place_of)[0] == 50
    model.ends()
    expect(page.locator(".bubble.working")).to_have_count(0)
    assert transcript.evaluate(place_of)[0] == 50
    page.get_by_label("Your question").fill("Anything else?")  # who speaks looks at what they said
    page.keyboard.press("Enter")
    expect(working).to_be_visible()
    assert transcript.evaluate(place_of)[1] < 2
    model.ends()
    model.says("No.")
    model.ends()


def test_a_message_that_the_server_does_not_even_read(visit: Open, place: Place) -> None:
    """Where the server's limit is lower than the page's, the connection ends, and the text comes back as well."""
    place.start("--demo", PREFLIGHT_WEBSOCKET_MESSAGE_SIZE="10000").until_ready()
    page = visit(place)
    page.evaluate("() => { window.times = 0; addEventListener('preflight:counts', () => { window.times += 1; }); }")
    field, state = page.get_by_label("Your question"), page.locator("#chat-state")
    field.fill("x" * 20_000)
    field.press("Enter")
    until(lambda: page.evaluate("window.times") == 2, "it connected, and connected again")
    expect(state).to_contain_text("shorten it")
    assert field.input_value() == "x" * 20_000
    assert page.locator(".bubble").count() == 0
    field.fill("What failed?")
    field.press("Enter")
    expect(page.locator(".bubble.assistant:not(.working)")).to_have_count(1)


def test_a_message_that_is_too_long(served: Place, visit: Open) -> None:
    """It comes back into the field with what is wrong with it, and is not sent again and again."""
    sent: list[int] = []

    def hear(socket: WebSocket) -> None:
        socket.on("framesent", lambda data: sent.append(len(data)) if '"chat"' in data[:20] else None)

    page = visit(served, before=lambda page: page.on("websocket", hear))
    field, state = page.get_by_label("Your question"), page.locator("#chat-state")
    field.fill("first")
    field.press("Enter")
    expect(page.locator(".bubble.assistant:not(.working)")).to_have_count(1)
    # In UTF-8 longer than the limit, in characters not; and so long that it would cost the connection.
    for text, times in (("ä" * 40_000, 1), ("x" * 1_100_000, 0)):
        sent.clear()
        field.evaluate("(one, text) => { one.value = text; }", text)
        field.press("Enter")
        expect(state).to_contain_text("Not sent: ")
        expect(state).to_contain_text("shorten it")
        assert field.input_value() == text
        assert page.locator(".bubble.pending").count() == 0
        field.fill("What failed?")
        field.press("Enter")
        expect(page.locator(".bubble.pending")).to_have_count(0)
        expect(page.locator(".bubble.working")).to_have_count(0)
        expect(state).to_have_text("")
        assert len(sent) == times + 1
    expect(page.locator(".bubble.user")).to_have_count(3)


def test_a_conversation_deleted_elsewhere(served: Place, visit: Open) -> None:
    """The page says so until something is said, and takes nobody's focus."""
    page = visit(served)
    page.get_by_role("button", name="What failed?").click()
    expect(page.locator(".bubble.assistant:not(.working)")).to_have_count(1)
    page.locator("#rerun").focus()
    session = page.evaluate("sessionStorage.getItem('preflight-chat')")
    request = urllib.request.Request(f"{served.url}/sessions/{session}", method="DELETE")
    urllib.request.urlopen(request, timeout=PATIENCE).close()
    state = page.locator("#chat-state")
    expect(state).to_have_text("That conversation was deleted; this is a new one.")
    expect(page.locator("#rerun")).to_be_focused()
    expect(page.locator(".bubble")).to_have_count(0)
    page.evaluate("() => { window.times = 0; addEventListener('preflight:counts', () => { window.times += 1; }); }")
    page.get_by_label("Your question").focus()
    until(lambda: page.evaluate("window.times") == 1, "it connected again")
    assert page.evaluate("sessionStorage.getItem('preflight-chat')") is None
    expect(state).to_have_text("That conversation was deleted; this is a new one.")
    page.keyboard.type("What failed?")
    page.keyboard.press("Enter")
    expect(page.locator(".bubble.assistant:not(.working)")).to_have_count(1)
    expect(state).to_have_text("")


def test_a_long_conversation(served: Place, visit: Open) -> None:
    """What is resumed are the last messages; that there are more is said, and where."""
    with client(served.url) as one:
        session = one.init()["session_id"]
        for _ in range(11):
            one.answer("What failed?")
    page = visit(served)
    page.evaluate("session => sessionStorage.setItem('preflight-chat', session)", session)
    page.reload()
    expect(page.locator(".bubble")).to_have_count(20)
    link = page.get_by_role("link", name="The whole conversation")
    expect(link).to_have_count(1)
    assert len(json.loads(get(link.evaluate("one => one.href"))[1])["transcript"]) == 22
    assert violations(page) == []
    page.get_by_role("button", name="Start over").click()
    page.get_by_role("button", name="What failed?").click()
    expect(page.locator(".bubble.assistant:not(.working)")).to_have_count(1)
    page.reload()
    expect(page.locator(".bubble")).to_have_count(2)
    expect(link).to_have_count(0)


def test_first_paint_with_a_red_report(red: Place, visit: Open) -> None:
    """A red report is seen at once: word, title, and the failed check first with its message, details and fix."""
    page = visit(red)
    history = f"{red.url}/diagnostics/history?limit=60&address=127.0.0.1%3A{red.port}"
    asked = "url => performance.getEntriesByName(url).length"
    until(lambda: page.evaluate(asked, history) > 0, "the past is asked for")
    expect(page.locator("#verdict")).to_have_text("Not ready")
    expect(page).to_have_title("Not ready – Preflight")
    expect(page.locator("#summary")).to_contain_text("1 critical check failed: Model File")
    expect(page.locator("#when")).to_contain_text("by a check beside the server")
    first = page.locator(".check").first
    expect(first.locator("[data-part=title]")).to_have_text("Model File")
    expect(first.locator("[data-part=outcome]")).to_have_text("failed: ")
    # Text of a report is text, whatever it looks like.
    expect(first.locator("[data-part=message]")).to_contain_text("<img src=x onerror=alert(1)> is not there")
    assert page.locator("img").count() == 0
    expect(first.locator(".fix code")).to_have_text(COMMAND)
    expect(first.locator(".fix .said")).to_have_text("# and start it again")
    expect(first.locator(".facts")).to_contain_text("model.bin")
    headings = page.locator(".group h3 span").all_inner_texts()
    assert headings == [f"Critical: 1 of {of(red, 'critical')} needs attention", "Warnings: all good"]
    first.get_by_role("button", name="Copy the fix of Model File").click()
    expect(first.locator(".copy")).to_contain_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == COMMAND
    # The slowest has the whole bar.
    widths = page.locator(".bar span").evaluate_all(
        "bars => bars.map(bar => bar.offsetWidth / bar.parentElement.offsetWidth)"
    )
    assert len(widths) == of(red)
    assert max(widths) == 1
    assert min(widths) < 0.1
    # What others found beside it is not the server's own verdict, and the page says so.
    expect(page.locator("#itself")).to_contain_text("uses its own last run, and reports: healthy")


def test_keyboard_alone(red: Place, visit: Open) -> None:
    """Everything can be reached and used without a pointer, in the order of reading, and the focus is always seen."""
    page = visit(red)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the checks")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#checks")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator(row(page, "Model File")).locator("summary")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator(".copy").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".copy").first).to_contain_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == COMMAND

    # The whole way, from the top to where the browser takes over.
    page.reload()
    expect(page.locator("#link-text")).to_have_text("Live")
    expect(page.locator(".past-run").first).to_be_visible()
    stops = []
    for _ in range(60):
        page.keyboard.press("Tab")
        stop = page.evaluate(
            """() => {
                const one = document.activeElement, style = getComputedStyle(one);
                const shown = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
                return { name: one.id || one.className || one.tagName, shown, body: one === document.body };
            }"""
        )
        if stop["body"]:
            break
        assert stop["shown"], stop
        stops.append(stop["name"])
    assert stop["body"], "the focus never leaves the page"
    assert stops[:2] == ["skip", "rerun"]
    assert stops[2].startswith("past-run")
    assert not stops[3].startswith("past-run")  # one stop for the whole strip
    assert stops.count("SUMMARY") == of(red)
    assert stops.index("SUMMARY") < stops.index("chat-text") < stops.index("chat-send")

    page.locator("#rerun").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.locator("#overview")).to_have_class(re.compile("is-past"))
    expect(page.locator(".past-run").first).to_be_focused()
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("button", name="Back to now")).to_be_focused()
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#checks")).to_be_focused()
    expect(page.locator("#overview")).to_have_class(re.compile("is-past"))  # still the same run
    page.get_by_role("button", name="Back to now").focus()
    page.keyboard.press("Space")
    expect(page.locator("#verdict")).to_have_text("Not ready")

    summary = page.locator(row(page, "Python Version")).locator("summary")
    summary.focus()
    page.keyboard.press("Space")
    expect(page.locator(row(page, "Python Version")).locator(".facts")).to_contain_text("passed")
    page.locator("#chat-text").focus()
    page.keyboard.type("What failed?")
    page.keyboard.press("Enter")
    expect(page.locator(".bubble.assistant:not(.working)")).to_contain_text("Model File")
    expect(page.locator("#chat-text")).to_be_focused()


def test_narrow(red: Place, visit: Open) -> None:
    """At 360 pixels nothing scrolls sideways, whatever is open, and everything can be hit with a finger."""
    page = visit(red, viewport={"width": 360, "height": 740}, has_touch=True)
    page.locator("summary").last.click()
    page.locator(".ideas button").first.click()
    expect(page.locator(".bubble.assistant:not(.working)")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    outside = page.locator("main *").evaluate_all(
        """all => all.filter(one => !one.closest(".strip") && one.checkVisibility())
            .filter(one => one.getBoundingClientRect().right > 361).map(one => one.outerHTML.slice(0, 100))"""
    )
    assert outside == []
    small = page.locator("button, summary, textarea").evaluate_all(
        """all => all.filter(one => one.checkVisibility()).map(one => one.getBoundingClientRect())
            .filter(box => box.width < 24 || box.height < 24).length"""
    )
    assert small == 0
    assert violations(page) == []


def test_light_and_dark(red: Place, visit: Open) -> None:
    """The page follows the system's scheme, and axe-core finds nothing against it: red, with a chat, in the past."""
    page = visit(red)

    def good_in_both() -> None:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", colour))) > 600) == (scheme == "light")
            assert violations(page) == []

    good_in_both()
    page.locator("summary").last.click()
    page.locator(".ideas button").first.click()
    expect(page.locator(".bubble.assistant:not(.working)")).to_be_visible()
    page.get_by_role("button", name="Earlier results of Model File").click()
    expect(page.locator(".outcomes li").first).to_be_visible()
    good_in_both()
    page.locator(".past-run").first.click()
    expect(page.locator("#overview")).to_have_class(re.compile("is-past"))
    good_in_both()


def test_a_broken_run_and_what_was_known_before(red: Place, visit: Open) -> None:
    """Where the server still goes by the checks of an earlier run, they stand under the news of the broken one."""
    why = "the last re-run: pytest ended with exit code 3"

    def break_it(message: dict[str, Any]) -> list[dict[str, Any]]:
        known = message["diagnostics"]
        broken = {**known, "run_id": "b" * 32, "status": "broken", "origin": "rerun", "problem": why}
        return [message, {**message, "diagnostics": {**broken, "reason": "pytest ended with exit code 3"}}]

    page = visit(red, before=alter("snapshot", break_it))
    expect(page.locator("#verdict")).to_have_text("The suite broke")
    expect(page.locator("#reason")).to_have_text(why)
    summary = page.locator("#summary")
    expect(summary).to_have_text(
        re.compile(r"^The checks below are those of the last complete run, of .*\b\d{1,2}:\d\d:\d\d")
    )
    expect(summary).to_contain_text("1 critical check failed: Model File.")
    expect(page.locator("#when")).to_have_text(re.compile(r"^Tried .+ by a re-run\.$"))
    expect(page.locator("#nothing")).to_be_hidden()
    assert page.locator(".check").count() == of(red)
    expect(page.locator(".check").first).to_contain_text("Model File")
    assert violations(page) == []


DOUBTS = """
import os
from pathlib import Path

import pytest

from preflight.contract import unknown


@pytest.mark.critical("Registry", fix="look at https://status.example.com")
def test_registry():
    'The registry knows this server.'
    if Path({gate!r}).exists():
        os._exit(0)
    unknown("the registry does not answer")


@pytest.mark.warning("Spare Disk", fix="mount /dev/spare  # or buy one")
def test_spare():
    'There is a second disk.'
    assert False, "there is one disk, two are wanted"
"""


def test_doubts_and_then_a_broken_run(project: Place, visit: Open) -> None:
    """Warnings and what nobody knows, and then that the suite broke, why (once), and that the server goes on."""
    gate = project.folder / "gate"
    project.write_requirement("doubts", DOUBTS.format(gate=str(gate)))
    project.start("--demo").until_ready()
    page = visit(project)
    expect(page.locator("#verdict")).to_have_text("Ready, with warnings")
    expect(page.locator("#reason")).to_be_hidden()
    expect(page.locator(row(page, "Registry"))).to_have_attribute("data-sign", "unknown")
    expect(page.locator(row(page, "Spare Disk")).locator(".fix")).to_contain_text("mount /dev/spare  # or buy one")
    page.locator(row(page, "Registry")).locator("summary").click()

    def accessible() -> None:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert violations(page) == []

    accessible()
    gate.touch()
    page.get_by_role("button", name="Check again").click()
    expect(page.locator("#verdict")).to_have_text("The suite broke")
    expect(page).to_have_title("The suite broke – Preflight")
    expect(page.locator("#announcer")).to_contain_text("The suite broke.")
    why = page.locator("#reason").inner_text()
    assert why.count('while checking "Registry"') == 1, why
    # What the server goes by is still to be seen.
    expect(page.locator("#summary")).to_contain_text("The checks below are those of the last complete run")
    expect(page.locator(row(page, "Registry"))).to_have_attribute("data-sign", "unknown")
    expect(page.locator("#when")).to_have_text(re.compile(r"^Tried .+ by a re-run\.$"))
    expect(page.locator("#itself")).to_have_text("The server uses its last complete run, and reports: healthy.")
    accessible()


def test_for_screen_readers_and_without_motion(served: Place, visit: Open) -> None:
    """Landmarks, headings in order, and nothing that only a colour says; nothing moves for those who asked for that.

    A browser that opens /diagnostics sees the page.
    """
    page = visit(served, "/diagnostics", reduced_motion="reduce")
    expect(page.locator("#verdict")).to_have_text("Ready")
    until(lambda: page.locator(".past-run").count() >= 3, "the past runs are shown")
    for landmark in (page.get_by_role("banner"), page.get_by_role("main"), page.get_by_role("contentinfo")):
        expect(landmark).to_have_count(1)
    for name in ("Past runs", "Checks", "Server", "Ask the server"):
        expect(page.get_by_role("region", name=name, exact=True)).to_be_visible()
    levels = page.locator("h1, h2, h3").evaluate_all(
        "all => all.filter(one => one.checkVisibility()).map(one => one.tagName)"
    )
    assert levels == ["H1", "H2", "H2", "H3", "H3", "H2", "H2"]
    expect(page.get_by_role("button", name="Log out")).to_have_count(0)  # nobody has logged in
    assert "Notifications" not in page.locator("#facts dt").all_inner_texts()  # nobody is to be told
    said = page.locator("[data-part=outcome]").all_inner_texts()
    assert len(said) == of(served)
    assert set(said) == {"passed:", "left out:"}
    expect(page.get_by_role("status").first).to_have_attribute("id", "announcer")
    moving = "one => [getComputedStyle(one).transitionDuration, getComputedStyle(one).animationName]"
    assert page.locator("#progress-bar").evaluate(moving) == ["0s", "none"]


def test_behind_a_login(place: Place, visit: Open) -> None:
    """Where there is a token, the page comes after the login, works with its cookie, and says when that has ended."""
    place.environ["PREFLIGHT_TOKEN"] = "canary-Zq7vXw2LmN8pRt4KdY6hJb3F"
    place.start("--demo").until_ready()
    page = visit(place)
    assert page.url == place.url + "/"
    page.get_by_role("button", name="What failed?").click()
    expect(page.locator(".bubble.assistant:not(.working)")).to_contain_text("failed")
    page.get_by_role("button", name="Check again").click()
    expect(page.locator("#when")).to_contain_text("by a re-run")
    expect(page.get_by_role("button", name="Log out")).to_be_visible()
    page.context.clear_cookies()
    page.locator(".past-run").first.click()
    expect(page.locator("#announcer")).to_contain_text("The run cannot be shown")

    # Out again, with the keyboard, on a small screen.
    page = visit(place, viewport={"width": 360, "height": 740}, color_scheme="dark")
    page.get_by_role("button", name="What failed?").click()
    expect(page.locator(".bubble.assistant:not(.working)")).to_contain_text("failed")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert violations(page) == []
    names = {f"preflight_{place.port}", f"preflight_{place.port}_login"}
    assert {cookie["name"] for cookie in page.context.cookies()} == names
    page.locator(".skip").focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Log out")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url(f"{place.url}/login")
    assert page.context.cookies() == []
    page.get_by_label("Token").fill(place.environ["PREFLIGHT_TOKEN"])
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#verdict")).to_have_text("Ready")
    expect(page.locator(".bubble")).to_have_count(0)  # what was said before is not for whoever comes next
    assert page.evaluate("sessionStorage.getItem('preflight-chat')") is None


FOLDERS = (pages.FOLDER, Path(__file__).parents[2] / "server/chat/page")
PAGE, SIGNS = ((pages.FOLDER / name).read_bytes() for name in (pages.PAGE, pages.SIGNS))
MADE = (pages.PAGE, pages.FLEET, pages.PANEL, pages.SIGNS)  # not served as they stand here
WHOLE = PAGE.replace(pages.PLACE, (FOLDERS[1] / pages.PANEL).read_bytes()).replace(pages.SIGNS_PLACE, SIGNS)


def ask(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in small letters, and body."""
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()


def test_files(served: Place) -> None:
    """Every file of the page has its type and an entity tag; what is no file of the page is not there."""
    files = {path.name: path for folder in FOLDERS for path in folder.iterdir() if path.suffix in pages.TYPES}
    assert len(files) >= 10
    files = {name: path for name, path in files.items() if name not in MADE}
    for name, path in files.items():
        status, headers, body = ask(f"{served.url}/static/{name}")
        assert status == 200
        assert headers["content-type"] == pages.TYPES[Path(name).suffix]
        assert body == path.read_bytes()
        assert ask(f"{served.url}/static/{name}", If_None_Match=headers["etag"])[::2] == (304, b"")
    for name in ("__init__.py", "..%2f__init__.py", "nothing.js", pages.PANEL, pages.SIGNS):
        assert ask(f"{served.url}/static/{name}")[0] == 404


def test_nothing_inline_and_nothing_from_elsewhere() -> None:
    """The page keeps to its own policy: no script, style or handler within it, no address of another server."""
    text = WHOLE.decode()
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text) == []
    for path in (path for folder in FOLDERS for path in folder.iterdir()):
        if path.suffix in pages.TYPES:
            found = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", path.read_text())
            assert [one for one in found if "www.w3.org" not in one] == [], path.name
            assert "innerHTML" not in path.read_text()


def test_browsers_get_the_page_and_programs_the_report(served: Place) -> None:
    """/diagnostics shows the page to those who want HTML above all, under a strict policy; everybody else gets JSON."""
    chromium = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
    for path, accept in (("/", "*/*"), ("/diagnostics", chromium), ("/diagnostics?format=html", "application/json")):
        status, headers, body = ask(served.url + path, Accept=accept)
        assert status == 200
        assert headers["content-type"].startswith("text/html")
        assert "script-src 'self'" in headers["content-security-policy"]
        assert body == WHOLE
    for path, accept in (
        ("/diagnostics", "*/*"),
        ("/diagnostics", "application/json"),
        ("/diagnostics?format=json", chromium),
    ):
        _status, headers, body = ask(served.url + path, Accept=accept)
        assert headers["content-type"].startswith("application/json")
        assert json.loads(body)["status"] == "passed"
    assert get(served.url + "/diagnostics")[0] == 200
