"""The env file's template, and values that nobody has filled in."""

from __future__ import annotations

from pathlib import Path

import pytest

from preflight import commands
from preflight.settings import envfile, template
from preflight.settings import model as settings


def test_write(tmp_path: Path) -> None:
    """A new template is its owner's alone, whatever the umask, and says what to do next."""
    path = tmp_path / "a" / "b" / ".env"
    said, command = template.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0
    assert str(path) in said
    assert "OPENAI_API_KEY" in said
    assert command == commands.run_py()


def test_template_is_an_env_file(tmp_path: Path) -> None:
    """The template parses, holds the one key that is required, and is not filled in."""
    template.write(tmp_path / ".env")
    found = envfile.read(tmp_path / ".env")
    assert found.problem is None
    assert list(found.values) == ["OPENAI_API_KEY"]
    assert template.is_placeholder(found.values["OPENAI_API_KEY"])


def test_commented_lines_are_right(tmp_path: Path) -> None:
    """What the template offers behind a # is right once the # is gone: variables parse, settings exist."""
    text = "\n".join(
        line.removeprefix("# ") for line in template.text().splitlines() if not line.startswith("#") or "=" in line[:30]
    ).replace("Variables and keys of the agent server: one NAME=value on each line.", "")
    file = tmp_path / ".env"
    file.write_text(text)
    found = envfile.read(file)
    assert found.problem is None
    assert {"PERPLEXITY_API_KEY", "OPENAI_BASE_URL", "PREFLIGHT_PORT"} <= found.values.keys()
    for name in found.values:
        assert not name.startswith("PREFLIGHT_") or name.removeprefix("PREFLIGHT_").lower() in settings.SETTINGS


def test_never_overwritten(tmp_path: Path) -> None:
    """A file that is there stays as it is, and so does one that a link points to or would."""
    path = tmp_path / ".env"
    path.write_text("OPENAI_API_KEY=mine")
    path.chmod(0o640)
    said, command = template.write(path)
    assert ("left as it is" in said, command) == (True, "")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("OPENAI_API_KEY=mine", 0o640)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    assert "left as it is" in template.write(link)[0]
    assert not (tmp_path / "elsewhere").exists()


def test_cannot_be_written(tmp_path: Path) -> None:
    """A place where nothing can be written is an OSError."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        template.write(tmp_path / "file" / ".env")


@pytest.mark.parametrize(
    "value",
    [
        "paste-your-key-here", ' "PASTE-your-key-here" ', "your-api-key", "<your key>", "sk-your-key", "changeme!",
        "xxxxxxxx", "sk-xxxx", "sk-...", "TODO", "none", "...",
    ],
)  # fmt: skip
def test_placeholder(value: str) -> None:
    """The template's value, and those of other templates."""
    assert template.is_placeholder(value)


@pytest.mark.parametrize("value", ["sk-proj-4fR", "pplx-123", "", "local", "yours", "notodo"])
def test_no_placeholder(value: str) -> None:
    """A real key is none."""
    assert not template.is_placeholder(value)
