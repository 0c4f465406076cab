"""What the project's own tests share: warnings are errors, and nothing of the developer's machine leaks in."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from preflight import plugin
from preflight.processes.signals import STOPPING
from preflight.redaction.redactor import Redactor
from preflight.report.building import build
from preflight.report.model import Check, Report
from preflight.settings import loading
from preflight.web.instance import Instance
from tests import sharing
from tests.services import Service

if TYPE_CHECKING:
    from preflight.web.services import Services
    from tests.databases import Postgres
    from tests.engines import Engine
    from tests.receivers import Mailbox, Receiver

# In the background of a shell SIGINT and SIGQUIT are ignored, under nohup SIGHUP, and children inherit that: tests send
# them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).parents[1]
QUICK = "not slow"
"""The expression of markers by which `make quick` chooses its tests: those that start no process."""
ASKED_FOR = {ROOT / "tests" / name: name for name in ("adversary", "image", "packages")}
"""Folders of tests that take long, or need the network or an engine, and the marker by which they are asked for."""

SERVERS = frozenset({"cluster", "place", "postgres"})
"""Fixtures that start processes: a test that uses one of them is slow."""
STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"})
"""What Python's audit hooks call the start of a process."""

HANGS = 600.0
"""Seconds after which a test hangs: the longest takes 13 beside two others, and many times that on a busy machine. It
fails then, and says where it stood."""


def pytest_configure(config: pytest.Config) -> None:
    """Some tests import requirements, and are no suite."""
    plugin.declare_markers(config)
    if config.option.markexpr == QUICK:
        sys.addaudithook(_refuse_processes)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the tests of some folders, unless they were asked for: ``-m packages``, or a path in there.

    pytest does not ask about a path that was named.
    """
    marker = ASKED_FOR.get(collection_path)
    return True if marker is not None and marker not in config.option.markexpr else None


_running: list[str] = []
"""The test that runs."""
_refused: list[str] = []
"""What was not started, since `make quick` starts nothing: the code under test may have hidden the error."""


def _refuse_processes(event: str, _arguments: tuple[object, ...]) -> None:
    if event in STARTS and _running:
        _refused.append(event)
        raise RuntimeError(f"{_running[0]} starts a process: mark it with pytest.mark.slow")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Know which test runs."""
    _running[:] = [item.nodeid]
    try:
        return (yield)
    finally:
        _running.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test that has tried to start a process fails where none may be started."""
    _refused.clear()
    result = yield
    assert not _refused, f"{item.nodeid} starts a process: mark it with pytest.mark.slow"
    return result


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage among thousands of tests that stay: looking through them again and again takes a quarter."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What holds for the tests and not in pytest.ini, which the suite shares: there a warning must not stop a start."""
    for item in items:
        for marker in () if os.geteuid() == 0 else item.iter_markers("needs_root"):
            item.add_marker(pytest.mark.skip(reason="needs root: {}".format(*marker.args)))
        for folder, name in ASKED_FOR.items():
            if item.path.is_relative_to(folder):
                item.add_marker(name)
        if not SERVERS.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
        if item.path.is_relative_to(ROOT / "tests"):
            item.add_marker(pytest.mark.filterwarnings("error"), append=False)
            if item.get_closest_marker("timeout") is None:  # of an image that is built: that takes longer
                item.add_marker(pytest.mark.timeout(HANGS))


@pytest.fixture(scope="session", autouse=True)
def run_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that all of xdist's workers know; tests/sharing.py says what for."""
    own = tmp_path_factory.getbasetemp()
    folder = own.parent if hasattr(request.config, "workerinput") else own
    sharing.begin(folder)
    yield folder
    sharing.end()


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the tests' homes go; ``mktemp`` looks through all of them for the next number, and there are thousands."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def home(homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder with runtime and state folders of its own, and none of our variables set."""
    folder = next(homes)
    runtime = folder / "runtime"
    folder.mkdir(mode=0o700)
    runtime.mkdir(mode=0o700)
    for name in list(os.environ):
        # What `make test` was called with is for none of the makes that tests call.
        if name.startswith(("PREFLIGHT_", "OPENAI_", "PERPLEXITY_", "MAKE")) or name == "MFLAGS":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("PREFLIGHT_STATE_DIR", str(folder / "state"))
    return folder


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Signals are handled after a test as before it: a loop that has ended ignores them, and children inherit that."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def free_port() -> int:
    """A port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def authority_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of the authorities that everybody trusts."""
    import certifi

    file = tmp_path_factory.mktemp("authorities") / "one.pem"
    end = "-----END CERTIFICATE-----\n"
    file.write_text(Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end, encoding="utf-8")
    return file


@pytest.fixture
def few_authorities(authority_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system trusts one authority and not hundreds, for tests of many clients: each reads all of them anew."""
    paths = ssl.get_default_verify_paths()._replace(openssl_cafile=str(authority_file), openssl_capath="")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):  # where others stand, on some machines
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def service() -> Iterator[Service]:
    """An HTTP server that answers what a test tells it to."""
    with Service() as one:
        yield one


@pytest.fixture(scope="session")
def cluster() -> Iterator[Postgres]:
    """A PostgreSQL for all tests that do not stop it or kill its backends."""
    from tests import databases

    # Not among pytest's folders: every other run of pytest closes these to the user that PostgreSQL runs as.
    with (
        tempfile.TemporaryDirectory(prefix="cluster-") as folder,
        databases.postgres(Path(folder), "max_connections=200") as server,
    ):
        yield server


@pytest.fixture(scope="session")
def pooler(cluster: Postgres) -> Iterator[int]:
    """The port of a PgBouncer before it, in transaction mode."""
    from tests import databases

    with tempfile.TemporaryDirectory(prefix="pooler-") as folder, databases.pgbouncer(cluster, Path(folder)) as port:
        yield port


@pytest.fixture
def database_url(cluster: Postgres, pooler: int) -> str:
    """A database without the schema `preflight`, behind PgBouncer."""
    cluster.run("DROP SCHEMA IF EXISTS preflight CASCADE")
    return cluster.url(port=pooler)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    """Where sessions are."""
    from tests.engines import Engine

    place = request.getfixturevalue("database_url") if request.param == "postgresql" else tmp_path / "sessions.sqlite"
    return Engine(request.param, place)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Takes notifications as JSON over HTTP."""
    from tests.receivers import Receiver  # brings a mail server, which hardly any test needs

    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    """Takes notifications as mail."""
    from tests.receivers import Mailbox

    mailbox = Mailbox()
    yield mailbox
    mailbox.close()


@pytest.fixture
def make_check() -> Callable[..., Check]:
    """Make a check; what is not said is that of one that passed."""

    def make(title: str = "Python Version", outcome: str = "passed", **changes: object) -> Check:
        values: dict[str, object] = {
            "id": f"preflight/requirements/test_it.py::test_{title.lower().replace(' ', '_')}",
            "title": title,
            "requirement": f"{title} is as it should be.",
            "severity": "critical",
            "outcome": outcome,
        }
        return Check(**{**values, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_report(make_check: Callable[..., Check]) -> Callable[..., Report]:
    """Make the report of a complete run with these checks, as the suite does."""

    def make(*checks: Check, **changes: object) -> Report:
        checks = checks or (make_check(),)
        count = len(checks)
        document = {
            "created": 1767323045.0,
            "duration": 0.25,
            "exitcode": 0,
            "summary": {"passed": count, "total": count, "collected": count},
            "tests": [
                {"nodeid": one.id, "lineno": 1, "outcome": "passed", "call": {"duration": 0.1, "outcome": "passed"}}
                for one in checks
            ],
        }
        values: dict[str, object] = {
            "redactor": Redactor(),
            "run_id": "0123456789abcdef" * 2,
            "origin": "start",
            "selection": "all",
            "address": "127.0.0.1:8002",
            "started_at": "2026-01-02T03:04:05Z",
        }
        document |= changes.pop("document", {})  # type: ignore[call-overload]
        return build(document, checks, **{**values, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_instance() -> Callable[..., Instance]:
    """Make what an application knows of itself, with the project's settings in the demo profile."""

    def make(report: Report | None = None, **changes: object) -> Instance:
        chosen = loading.load(ROOT, options={"demo": True})
        values: dict[str, object] = {"instance_id": "abc", "since": "2026-01-02T03:04:06Z"}
        return Instance(report=report, settings=chosen, **{**values, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_services() -> Callable[..., Services]:
    """Make what the routes of an instance answer from; ``about`` is what its application says of itself."""

    def make(instance: Instance, **about: object) -> Services:
        from preflight.web import routes  # brings every endpoint, which few tests need
        from preflight.web.services import Application, Services

        application = Application(title="An application", architecture="of few parts", **about)  # type: ignore[arg-type]
        return Services.made(application, routes.table(application.routes), instance)

    return make
