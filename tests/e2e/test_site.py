"""The site that `make docs` builds: opened from the disk, it is whole."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.browser import chromium

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def first_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site's first page, built from a copy of docs/."""
    pytest.importorskip("zensical")
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    subprocess.run([sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=folder, check=True)
    return folder / "site" / "index.html"


def test_search_without_a_web_server(first_page: Path) -> None:
    """A page that is opened as a file finds what is asked for, and asks no other server for anything."""
    with chromium() as browser, browser.new_page() as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(first_page.as_uri())
        page.get_by_role("button", name="Search").first.click()
        page.get_by_role("combobox", name="Search").press_sequentially("heartbeat")
        found = page.get_by_role("option").filter(has_text="When it hangs")
        found.first.click()
        page.wait_for_url("**/start.html*")
        # The frame that searches comes from nowhere.
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
