"""The pictures of the page in docs/, taken from a real server: ``.venv/bin/python -m tests.e2e.pictures``.

Take them again whenever the page or its words change. A requirement that asks for a model file fails in one and holds
in the other, Memory asks for more than the machine has, and checks from before fill the history. What differs from one
machine to the next is written as a reader of the documentation has it: the folder of the project, and the port.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page

from tests.e2e.browser import chromium
from tests.e2e.place import ROOT, Place, make_place

FOLDER = ROOT / "docs"
MODEL = '''
import pytest


@pytest.mark.critical("Model File", fix="copy the model to model.bin")
def test_model_file(settings, details):
    """The model that the agent loads is there."""
    path = settings.root / "model.bin"
    details.update(path=str(path))
    assert path.exists(), f"{path} is not there"
'''
SMALL, LARGE = "1 GiB", "900 GiB"
PAST = [SMALL, SMALL, LARGE, SMALL, SMALL, LARGE, SMALL, LARGE]
"""What Memory asked for in the runs before."""
# A reader's folder and port in place of those that the pictures were taken in.
RENAME = """
(names) => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        for (const [ours, readers] of names) texts.currentNode.data = texts.currentNode.data.replaceAll(ours, readers);
    }
}
"""


def opened(browser: Browser, place: Place, scheme: str) -> Page:
    """The page, once it is connected."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(place.url)
    page.wait_for_selector("#link[data-link=live]")
    return page


def take(page: Page, place: Place, name: str) -> None:
    """Ask for a re-run, wait for what it finds, ask the chat about it, and keep the picture."""
    page.click("#rerun:not([aria-disabled])")
    page.wait_for_selector("#rerun >> text=Again in")
    page.click("#ideas button >> nth=0")
    page.wait_for_selector("#transcript >> text=Memory")
    page.wait_for_selector("#chat-stop", state="hidden")
    page.evaluate("window.scrollTo(0, 0)")
    page.evaluate(f"({RENAME})", [[str(place.root), "/home/dev/preflight"], [str(place.port), "8002"]])
    page.screenshot(path=FOLDER / name)


def main() -> None:
    """Both pictures."""
    with tempfile.TemporaryDirectory(prefix="preflight-pictures-") as folder, chromium() as browser:
        tree = Path(folder, "tree")
        for name in ("preflight", "server"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("conftest.py", "pytest.ini", "run.py", "pyproject.toml"):
            shutil.copy2(ROOT / name, tree / name)
        place = make_place(Path(folder, "place"), tree)
        place.environ["PREFLIGHT_STATE_DIR"] = str(tree / ".preflight")
        place.write_requirement("model", MODEL)
        model = tree / "model.bin"
        model.touch()
        try:
            for memory in PAST:
                place.run("--demo", "--check-only", PREFLIGHT_MEMORY=memory)
            place.start("--demo", PREFLIGHT_MEMORY=LARGE).until_ready()
            model.unlink()
            take(opened(browser, place, "light"), place, "page-light.png")
            model.touch()
            take(opened(browser, place, "dark"), place, "page-dark.png")
        finally:
            place.close()


if __name__ == "__main__":
    main()
