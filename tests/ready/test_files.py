"""Files, folders, models, databases, disks, memory and programs: the real ones of this machine."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from preflight import ready
from tests.ready.asking import CANARY, ask, passed


def test_a_file(tmp_path: Path) -> None:
    """It is there, and can be read; its size is a detail."""
    (tmp_path / "data.csv").write_text("1,2,3")
    assert passed(ask(tmp_path, ready.file("data.csv")))["size"] == 5
    assert passed(ask(tmp_path, ready.file(variable="DATA"), DATA=str(tmp_path / "data.csv")))["size"] == 5


def test_files_that_are_none(tmp_path: Path) -> None:
    """Missing, dangling, a loop of links and whatever else is there are told apart; a pipe is not waited for."""
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()  # as Docker makes one where the file that it mounts is missing
    os.mkfifo(tmp_path / "pipe")

    def message(path: str) -> str:
        return ask(tmp_path, ready.file(path)).message.removeprefix(f"{tmp_path}/")

    assert message("gone") == "gone is not there, but must be a file"
    assert message("link") == "link is a link to nowhere, which is not there"
    assert message("loop") == "loop cannot be examined: Too many levels of symbolic links"
    assert message("folder") == "folder is a folder, but must be a file"
    assert message("pipe") == "pipe is a pipe, but must be a file"
    assert message("/dev/null") == "/dev/null is a device, but must be a file"
    assert message("gone\ntoo") == "gone too is not there, but must be a file"


def test_paths_that_no_application_opens(tmp_path: Path) -> None:
    """A path is taken as the system takes it, and what can be seen to be wrong with a variable's is said."""
    (tmp_path / "data").write_text("x")

    def message(value: str) -> str:
        return ask(tmp_path, ready.file(variable="DATA"), DATA=value).message

    slash = "is a file, but the path ends with a slash: such a path cannot be opened"
    assert message(f"{tmp_path}/data/") == f"what DATA names {slash}"
    assert ask(tmp_path, ready.file("data/")).message == f"{tmp_path}/data {slash}"
    assert message(f"{tmp_path}/data\r") == (
        "what DATA names, with white space around it, is not there, but must be a file"
    )
    assert message("~no-such-user/data") == "what DATA names begins with ~ and a name that no user of this machine has"
    assert message("da\udce9ta") == "what DATA names is not there, but must be a file"
    assert message("da\ud800ta") == "what DATA names cannot be examined: it is not a path"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_is_closed(tmp_path: Path) -> None:
    """Modes are asked by reading; a closed folder above it is told from a missing file."""
    (tmp_path / "data").write_text("x")
    (tmp_path / "data").chmod(0)
    ended = ask(tmp_path, ready.file("data"))
    assert ended.message == f"{tmp_path}/data cannot be read by this user"
    assert ended.fix == f"chmod u+r {tmp_path}/data"
    (tmp_path / "closed").mkdir(mode=0)
    ended = ask(tmp_path, ready.file("closed/data"))
    assert ended.message == f"{tmp_path}/closed/data cannot be examined: this user may not enter a folder above it"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_closed_file_of_somebody_else(tmp_path: Path) -> None:
    """No chmod of ours would open it."""
    ended = ask(tmp_path, ready.file("/etc/shadow"))
    assert ended.message == "/etc/shadow cannot be read by this user"
    assert ended.fix == ""


def test_a_folder_is_written_and_left_as_it_was(tmp_path: Path) -> None:
    """A file is made there and gone again."""
    (tmp_path / "uploads").mkdir()
    assert ask(tmp_path, ready.folder("uploads")).message == "can be written"
    assert list((tmp_path / "uploads").iterdir()) == []
    assert ask(tmp_path, ready.folder("uploads", writable=False)).message == "can be read"


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    """Missing, a file, and one on which the system makes no files, whoever asks."""
    (tmp_path / "file").touch()
    assert ask(tmp_path, ready.folder("gone")).message == f"{tmp_path}/gone is not there, but must be a folder"
    assert ask(tmp_path, ready.folder("file")).message == f"{tmp_path}/file is a file, but must be a folder"
    ended = ask(tmp_path, ready.folder("/proc/self"))
    assert ended.message.startswith("nothing can be written in /proc/self: ")


def test_a_model_file(tmp_path: Path) -> None:
    """Size and SHA-256 are compared, and one that was cut off fails."""
    content = os.urandom(3_000_000)
    (tmp_path / "m.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    assert ask(tmp_path, ready.model_file("m.onnx", size=len(content), sha256=digest.upper())).outcome == "passed"
    short = ask(tmp_path, ready.model_file("m.onnx", size=4_000_000))
    assert short.message == f"{tmp_path}/m.onnx has 3000000 bytes, and 4000000 are expected"
    (tmp_path / "m.onnx").write_bytes(content[:-1])
    other = ask(tmp_path, ready.model_file("m.onnx", sha256=digest))
    assert other.message.startswith("its SHA-256 begins with ")
    assert other.message.endswith(f"and {digest[:12]} is expected")


def test_models_that_are_none(tmp_path: Path) -> None:
    """An empty file and a pointer of Git LFS are no models, though nothing is known of size or hash."""
    (tmp_path / "empty").touch()
    (tmp_path / "pointer").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    assert ask(tmp_path, ready.model_file("empty")).message == f"{tmp_path}/empty is empty"
    pointer = ask(tmp_path, ready.model_file("pointer"))
    assert pointer.message == f"{tmp_path}/pointer is a pointer of Git LFS, not the model"
    assert pointer.fix == "git lfs pull --include pointer"


def test_a_sqlite_database(tmp_path: Path) -> None:
    """A good one is whole, named by a path or a URL; nothing is made of one that is not there."""
    database = sqlite3.connect(tmp_path / "app.db")
    database.execute("CREATE TABLE t (x)")
    database.executemany("INSERT INTO t VALUES (?)", [(str(number) * 50,) for number in range(5_000)])
    database.commit()
    database.close()
    assert ask(tmp_path, ready.sqlite("app.db")).message == "whole"
    url = ready.sqlite(variable="DATABASE_URL")
    assert ask(tmp_path, url, DATABASE_URL="sqlite:///app.db").message == "whole"
    assert ask(tmp_path, url, DATABASE_URL=f"sqlite:///{tmp_path}/app.db").message == "whole"
    assert (
        ask(tmp_path, ready.sqlite("gone.db")).message
        == f"{tmp_path}/gone.db is not there, but must be a SQLite database"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app.db", "pyproject.toml"]


def test_sqlite_databases_that_are_damaged(tmp_path: Path) -> None:
    """A page that was overwritten, a file that is something else, and one that is locked are told apart."""
    test_a_sqlite_database(tmp_path)
    content = bytearray((tmp_path / "app.db").read_bytes())
    content[20_000:28_192] = os.urandom(8_192)
    (tmp_path / "damaged.db").write_bytes(content)
    (tmp_path / "cut.db").touch()
    (tmp_path / "other.db").write_text(f"no database, but {CANARY}" * 500)
    assert "damaged" in ask(tmp_path, ready.sqlite("damaged.db")).message
    cut = ask(tmp_path, ready.sqlite("cut.db"))
    assert (cut.outcome, cut.message) == ("failed", f"{tmp_path}/cut.db is empty: there is no database in it")
    assert ask(tmp_path, ready.sqlite("other.db")).message.endswith("file is not a database")
    holder = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    locked = ask(tmp_path, ready.sqlite("app.db", timeout=0.5))
    holder.close()
    assert (locked.outcome, locked.message) == ("unknown", f"{tmp_path}/app.db is locked by another process")


def test_a_disk(tmp_path: Path) -> None:
    """Bytes and inodes are compared where the path is, or will be."""
    assert ask(tmp_path, ready.disk("not/there/yet", free=1)).outcome == "passed"
    full = ask(tmp_path, ready.disk(free=1 << 60))
    assert full.message.endswith(f"free at {tmp_path}, needs 1073741824.0 GiB")
    assert full.fix == f"make room on the disk of {tmp_path}"


def test_inodes(tmp_path: Path) -> None:
    """A file system of the test's own tells how many names it has left, and one that counts none is not asked."""
    # /proc counts no inodes: whatever is asked for, there is nothing to run out of.
    assert ask(tmp_path, ready.disk("/proc", free=0, inodes=1 << 40)).outcome == "passed"


def test_memory(tmp_path: Path) -> None:
    """What is available is compared with what is asked for."""
    assert ask(tmp_path, ready.memory(available=1)).outcome == "passed"
    assert "needs 1048576.0 GiB" in ask(tmp_path, ready.memory(available=1 << 50)).message


def program(folder: Path, body: str) -> str:
    """A program of the test's own."""
    path = folder / "tool"
    path.write_text(f"#!{sys.executable}\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "said, needed, outcome",
    [
        ("tool 2.10.1", "2.9", "passed"),
        ("tool 2.9.9", "2.10", "failed"),
        ("Tool version v22.3.0 (linux)", "22", "passed"),
        ("no number", "1", "unknown"),
        ("no number", "", "passed"),
    ],
)
def test_the_version_of_a_program(tmp_path: Path, said: str, needed: str, outcome: str) -> None:
    """It is read from what the program prints, and compared as a version, not as text."""
    name = program(tmp_path, f"print({said!r})")
    assert ask(tmp_path, ready.executable(name, at_least=needed)).outcome == outcome


@pytest.mark.slow
def test_programs_that_do_not_run(tmp_path: Path) -> None:
    """Not on PATH, failing, hanging and of another machine are told apart."""
    assert ask(tmp_path, ready.executable("no-such-tool")).message == "no-such-tool is not on PATH"
    failing = ask(tmp_path, ready.executable(program(tmp_path, "raise SystemExit(3)")))
    assert failing.message.endswith("--version ended with exit code 3")
    hanging = program(tmp_path, "import signal; signal.pause()")
    assert ask(tmp_path, ready.executable(hanging, timeout=0.5)).message.endswith("has not ended within 0.5 s")
    (tmp_path / "tool").write_bytes(b"\x7fELF of nothing")
    assert "cannot be run" in ask(tmp_path, ready.executable(str(tmp_path / "tool"))).message


def test_a_variable(tmp_path: Path) -> None:
    """Its form is compared with all of its value, which is not shown."""
    test = ready.variable("REGION", matches=r"[a-z]{2}-[a-z]+-\d")
    assert ask(tmp_path, test, REGION="eu-west-1").outcome == "passed"
    wrong = ask(tmp_path, test, REGION=f"eu-west-1{CANARY}")
    assert wrong.message == r"REGION does not have the form [a-z]{2}-[a-z]+-\d"


@pytest.mark.slow
def test_a_settings_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pydantic-settings class is made; its faults are told by field and kind, without a value."""
    (tmp_path / "shop_settings.py").write_text(
        "import pydantic, os\n"
        "class Settings(pydantic.BaseModel):\n"
        "    workers: int\n"
        "    def __init__(self):\n"
        "        super().__init__(workers=os.environ['WORKERS'])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    test = ready.variable("WORKERS", settings="shop_settings:Settings")
    monkeypatch.setenv("WORKERS", "4")
    assert ask(tmp_path, test, WORKERS="4").outcome == "passed"
    monkeypatch.setenv("WORKERS", CANARY)
    wrong = ask(tmp_path, test, WORKERS=CANARY)
    assert wrong.message == "shop_settings:Settings refuses the environment: workers (int_parsing)"


@pytest.mark.slow
@pytest.mark.parametrize(
    "said, version",
    [
        ("go version go1.22.1 linux/amd64", "1.22.1"),
        ("nvcc: NVIDIA\nCopyright (c) 2005-2024 NVIDIA\nCuda compilation tools, release 12.4, V12.4.131", "12.4"),
        ("ffmpeg version n4.4.1-2", "4.4.1"),
        ("herdr 0.8.2 (4c745b97)", "0.8.2"),
        ("less 590 (GNU regular expressions)", "590"),
        ("Python 3.13.0rc2", "3.13.0rc2"),
    ],
)
def test_versions_as_programs_print_them(tmp_path: Path, said: str, version: str) -> None:
    """Neither years nor hashes, and whatever stands before it."""
    assert passed(ask(tmp_path, ready.executable(program(tmp_path, f"print({said!r})"))))["version"] == version


@pytest.mark.slow
def test_a_notice_is_no_version(tmp_path: Path) -> None:
    """What comes on standard error counts only where nothing else is said."""
    notice = "import sys; print('notice: 9.9.9 available', file=sys.stderr, flush=True)"
    both = program(tmp_path, f"{notice}; print('tool 2.1.0')")
    assert passed(ask(tmp_path, ready.executable(both)))["version"] == "2.1.0"
    assert passed(ask(tmp_path, ready.executable(program(tmp_path, notice))))["version"] == "9.9.9"


def test_a_database_with_a_log_is_left_as_it_was(tmp_path: Path) -> None:
    """SQLite makes two files beside it to read it, and leaves them to the next user, as its own."""
    database = sqlite3.connect(tmp_path / "app.db")
    database.execute("PRAGMA journal_mode=wal")
    database.execute("CREATE TABLE t (x)")
    database.commit()
    assert ask(tmp_path, ready.sqlite("app.db")).message == "whole"  # while somebody has it open
    database.close()
    before = sorted(path.name for path in tmp_path.iterdir())
    assert ask(tmp_path, ready.sqlite("app.db")).message == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.slow
def test_a_database_that_was_left_in_the_middle(tmp_path: Path) -> None:
    """A journal that a crash has left is rolled back by whoever opens it next, which a probe is not."""
    source = (
        "import os, sqlite3\n"
        f"database = sqlite3.connect({str(tmp_path / 'app.db')!r}, isolation_level=None)\n"
        "database.execute('CREATE TABLE t (x)'); database.execute('PRAGMA cache_size=1')\n"
        "database.execute('BEGIN')\n"
        "for _ in range(2000): database.execute('INSERT INTO t VALUES (?)', ('x' * 500,))\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", source], check=True)
    content = (tmp_path / "app.db").read_bytes()
    ended = ask(tmp_path, ready.sqlite("app.db"))
    assert ended.outcome == "unknown"
    assert "was left in the middle of a change" in ended.message
    assert (tmp_path / "app.db").read_bytes() == content


@pytest.mark.parametrize("factory", [ready.file, ready.folder, ready.model_file, ready.sqlite])
def test_a_path_of_a_variable_is_not_shown(tmp_path: Path, factory: Callable[..., Callable[..., None]]) -> None:
    """The variable stands for it."""
    ended = ask(tmp_path, factory(variable="WHERE"), WHERE=f"gone/{CANARY}")
    assert ended.outcome == "failed"
    assert ended.message.startswith("what WHERE names is not there, but must be ")
