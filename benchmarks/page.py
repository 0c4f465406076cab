"""How long the page takes to show a report of 1,000 checks in Chromium.

    python benchmarks/page.py [--rounds 7] [--checks 1000]

A real server of a suite with that many requirements, two of a hundred of them failing warnings, and the page loaded
anew each time. "Rendering" is from the report's arrival to the frame in which all of its checks stand; "the page" is
from the navigation to the same frame, with everything that is fetched before it.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.ports import Table  # noqa: E402  # the checkout is not installed
from benchmarks.start import describe  # noqa: E402
from tests.e2e.place import make_place  # noqa: E402

SUITE = '''
import pytest


def requirement(number):
    severity = pytest.mark.warning if number % 2 else pytest.mark.critical

    @severity(f"Requirement {{number}}", fix="make it so, and start it again")
    def test(details):
        """What it asks for is there."""
        details.update(number=number, path=f"/srv/application/{{number}}", wanted="there")
        assert number % 100 not in (7, 57), f"/srv/application/{{number}} is not there"

    return test


for number in range({checks}):
    globals()[f"test_{{number:04d}}"] = requirement(number)
'''
# Set before the page's own scripts run: it notes when the report has come, and the frame in which all of it stands.
WATCH = """
(checks) => {
    const Plain = WebSocket;
    window.WebSocket = class extends Plain {
        constructor(...given) {
            super(...given);
            this.addEventListener("message", () => { window.arrived ??= performance.now(); });
        }
    };
    new MutationObserver((_, observer) => {
        if (document.querySelectorAll(".check").length < checks) return;
        observer.disconnect();
        requestAnimationFrame(() => setTimeout(() => {
            window.shown = performance.now();
            document.documentElement.dataset.shown = "yes";
        }));
    }).observe(document, { childList: true, subtree: true });
}
"""


def main() -> None:
    """The table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--checks", type=int, default=1000)
    chosen = options.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("there is no Chromium")
    describe()
    table = Table(f"A report of {chosen.checks} checks in Chromium")
    with tempfile.TemporaryDirectory(prefix="preflight-benchmark-") as folder:
        tree = Path(folder, "tree")
        for name in ("preflight", "server"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("conftest.py", "pytest.ini", "run.py", "pyproject.toml"):
            shutil.copy2(ROOT / name, tree / name)
        here = make_place(Path(folder, "place"), tree)
        here.write_requirement("many", SUITE.format(checks=chosen.checks))
        try:
            here.start("--demo").until_ready()
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=chromium,
                    args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"],
                )
                for number in range(chosen.rounds + 1):
                    page = browser.new_page(viewport={"width": 1280, "height": 900})
                    page.add_init_script(f"({WATCH})({chosen.checks})")
                    page.goto(here.url)
                    page.wait_for_selector("html[data-shown]", state="attached")
                    if number > 0:  # the first fills the caches
                        table.add("rendering", page.evaluate("shown - arrived"))
                        table.add("the page", page.evaluate("shown"))
                    page.close()
                browser.close()
        finally:
            here.close()
    table.show(target="rendering at most 1000 ms")


if __name__ == "__main__":
    main()
