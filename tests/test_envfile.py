"""Reading an env file: every way in which it can be wrong is named, and its content never shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from preflight.settings import envfile
from tests.privileges import WITHOUT, unprivileged

ROOT = Path(__file__).parents[1]

SECRET = "sk-canary-3f9a1c77e2"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def test_values_and_lines(file: Path) -> None:
    """Names, values and the lines they stand on; comments, quotes, export and blank lines as dotenv has them."""
    file.write_text("# a comment\n\nA=1\nexport B='two words'\n\n\nC=\"x\\ny\" # why\nD=\n")
    found = envfile.read(file)
    assert found.problem is None
    assert found.exists
    assert found.values == {"A": "1", "B": "two words", "C": "x\ny", "D": ""}
    assert found.lines == {"A": 3, "B": 4, "C": 7, "D": 8}


def test_values_are_literal(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is interpolated or executed: a key may contain a dollar sign."""
    monkeypatch.setenv("HOME", "/somewhere")
    file.write_text("A=${HOME}\nB=$(id)\nC='$HOME'\n")
    assert envfile.read(file).values == {"A": "${HOME}", "B": "$(id)", "C": "$HOME"}


def test_last_of_two_wins(file: Path) -> None:
    """A name given twice has its last value, and that one's line."""
    file.write_text("A=1\nA=2\n")
    found = envfile.read(file)
    assert (found.values, found.lines, found.problem) == ({"A": "2"}, {"A": 2}, None)


def test_empty_file_is_good(file: Path) -> None:
    """A file without a variable is no fault of the file's."""
    file.write_bytes(b"")
    assert envfile.read(file) == envfile.EnvFile(file)


def test_byte_order_mark(file: Path) -> None:
    """An editor's byte order mark is not part of the first name."""
    file.write_bytes(b"\xef\xbb\xbfOPENAI_API_KEY=abc\r\nB=2\r\n")
    found = envfile.read(file)
    assert (dict(found.values), found.problem) == ({"OPENAI_API_KEY": "abc", "B": "2"}, None)


@pytest.mark.parametrize(
    "text,line,what",
    [
        (f"A=1\n\n\n='{SECRET}'\nB=2\n", 4, "this line is not NAME=value"),
        (f"A=1\nB='{SECRET}\n", 2, "this line opens a quote and does not close it"),
        (f"A=1\nB=2\n{SECRET}\n", 3, "this line has a name and no '='"),
        (f"A=1\n'B=C'={SECRET}\n", 2, "this line is not NAME=value"),
        (f"{SECRET}\nA B C\n", 1, "this line has a name and no '='"),
    ],
    ids=["no name", "quote left open", "no equals sign", "equals sign in the name", "first of several"],
)
def test_broken_line(file: Path, text: str, line: int, what: str) -> None:
    """A broken line is named by number, its content never shown; what could be read is there all the same."""
    file.write_text(text)
    found = envfile.read(file)
    assert found.problem == f"{file}:{line}: {what}"
    assert SECRET not in repr(found)
    assert ("A" in found.values) == text.startswith("A")


def test_not_utf8(file: Path) -> None:
    """Text in another encoding is named by line."""
    file.write_bytes(b"A=1\nB=\xe9\n")
    assert envfile.read(file).problem == f"{file}:2: this line is not UTF-8 text"


def test_binary(file: Path) -> None:
    """A binary file is called one."""
    file.write_bytes(b"\x7fELF\0\0\0")
    assert envfile.read(file).problem == f"{file} is a binary file, not text"


def test_too_large(file: Path) -> None:
    """100 MB are refused by their size, without being read."""
    with file.open("wb") as stream:
        stream.truncate(100 * 1000 * 1000)
    assert envfile.read(file).problem == f"{file} has 95.4 MiB, more than the 1 MiB allowed"


def test_missing(file: Path) -> None:
    """A missing file is told from one that is there and bad."""
    found = envfile.read(file)
    assert (found.problem, found.exists) == (f"{file} does not exist", False)
    file.symlink_to("nowhere")
    assert not envfile.read(file).exists


def test_folder(tmp_path: Path) -> None:
    """A folder is called one."""
    found = envfile.read(tmp_path)
    assert (found.problem, found.exists) == (f"{tmp_path} is a folder, not a file", True)


def test_under_a_file(file: Path) -> None:
    """A path that leads through a file gives the system's reason."""
    file.write_text("")
    assert envfile.read(file / "x").problem == f"{file / 'x'} cannot be read: Not a directory"


def test_named_pipe(file: Path) -> None:
    """A named pipe without a writer does not hang the start."""
    os.mkfifo(file)
    assert envfile.read(file).problem == f"{file} is not a regular file"


@pytest.mark.slow
@unprivileged
def test_unreadable(file: Path) -> None:
    """A file that may not be read gives the system's reason."""
    file.write_text("A=1")
    file.chmod(0)
    reads = "import sys; from pathlib import Path; from preflight.settings import envfile; "
    reads += "print(envfile.read(Path(sys.argv[1])).problem)"
    command = [*WITHOUT, sys.executable, "-c", reads, str(file)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert said.stdout == f"{file} cannot be read: Permission denied\n", said.stderr


def test_read_error() -> None:
    """An error while reading is told like one while opening."""
    path = Path("/proc/self/mem")
    if not path.exists():
        pytest.skip("no file here that opens and cannot be read")
    assert envfile.read(path).problem == f"{path} cannot be read: Input/output error"


def test_repr_holds_no_values(file: Path) -> None:
    """An env file that gets into a traceback or a log shows no value."""
    file.write_text(f"A={SECRET}\n")
    assert SECRET not in repr(envfile.read(file))
