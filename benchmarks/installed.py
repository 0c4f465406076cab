"""How long the start of somebody's application takes with the package installed, beside the checkout and two floors.

    python benchmarks/installed.py [--pairs 15]

From exec to the first 200, in turns: ``preflight --app`` in a project of its own, ``python run.py --demo --app`` in
this checkout, and uvicorn alone. The second floor is what checks cannot do without: this launcher's command, which ends
at once, and then pytest with one trivial test; of the two floors the slower one counts. Loopback only, in folders of
its own; it stops what it started.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.ports import Table  # noqa: E402  # the checkout is not installed
from benchmarks.start import describe, start  # noqa: E402
from tests.e2e.doubles import SMALL  # noqa: E402
from tests.e2e.installing import FEW_PLUGINS, Adopter, adopt, install  # noqa: E402
from tests.portnumbers import unused_port  # noqa: E402

PROJECT = '[project]\nname = "shop"\nversion = "1"\ndependencies = ["uvicorn"]\n'
TRIVIAL = "def test_it():\n    assert True\n"
CHECKOUT, INSTALLED = "checkout: run.py --demo --app", "installed: preflight --app"
BARE, PYTEST = "uvicorn alone", "this command and a trivial pytest"


def served(shop: Adopter, command: list[str], folder: Path) -> float:
    """Milliseconds until the application answers."""
    port = unused_port()
    # What is known of the imports of a project's packages is kept in its state folder.
    environ = shop.environ | {"PREFLIGHT_STATE_DIR": str(shop.folder / folder.name)}
    return start([*command, "--port", str(port)], environ, port, folder)[0]


def trivial(shop: Adopter) -> float:
    """Milliseconds that the launcher's command and pytest take one after the other, with nothing to do."""
    began = time.perf_counter()
    pytest = [sys.executable, "-m", "pytest", "-q", *FEW_PLUGINS, "-p", "no:preflight", "test_trivial.py"]
    for command in ([str(shop.installed / "bin" / "preflight"), "--version"], pytest):
        subprocess.run(command, cwd=shop.root, env=shop.environ, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    """One table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pairs", type=int, default=15)
    chosen = options.parse_args()
    describe()
    with tempfile.TemporaryDirectory(prefix="preflight-benchmark-") as folder:
        shop = adopt(Path(folder), install(Path(folder) / "installed"))
        shop.environ["PYTHONPATH"] += f":{shop.root}"
        for file, text in {"pyproject.toml": PROJECT, "small.py": SMALL, "test_trivial.py": TRIVIAL}.items():
            shop.write(file, text)
        table = Table("From exec to the first 200 of a small application, all processors")
        for number in range(chosen.pairs + 1):
            spent = {
                BARE: served(shop, [sys.executable, "-m", "uvicorn", "small:app"], shop.root),
                PYTEST: trivial(shop),
                CHECKOUT: served(shop, [sys.executable, "run.py", "--demo", "--app", "small:app"], ROOT),
                INSTALLED: served(shop, [str(shop.installed / "bin" / "preflight"), "--app", "small:app"], shop.root),
            }
            for way, milliseconds in spent.items() if number else ():  # the first round fills the caches
                table.add(way, milliseconds)
        floor = max((BARE, PYTEST), key=table.median)
        table.show(against=floor, target="installed at most 1.15x of the slower floor, and 1.05x of the checkout")
        print(f"  installed against the checkout: {table.median(INSTALLED) / table.median(CHECKOUT):.2f}x")
        shop.close()


if __name__ == "__main__":
    main()
