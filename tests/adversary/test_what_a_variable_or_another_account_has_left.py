"""A suite that a variable names as nothing, and files of somebody else's among those that a start keeps."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from tests.adversary.suites import FAILS, FILE, GOOD, check, refused
from tests.e2e.doubles import LISTENER
from tests.e2e.installing import Adopter
from tests.privileges import WITHOUT, unprivileged

pytestmark = pytest.mark.usefixtures("unmeasured")

OTHER = 7777
FILES = ("report.json", "audit.log", "imports.json", "database.json", ".gitignore")
FOLDERS = ("history", "told", "runtime")


@pytest.mark.parametrize("value", ["", " ", ",", "preflight_suite", "[]"])
def test_a_suite_that_is_hardly_named(shop: Adopter, value: str) -> None:
    """As ``${SUITE}`` of a file for Compose leaves it: the project's own requirement is asked, or nothing is."""
    shop.write(FILE, FAILS)
    refused(check(shop, PREFLIGHT_SUITE=value))


@unprivileged
@pytest.mark.needs_root("makes files of somebody else's")
def test_files_of_another_account(shop: Adopter) -> None:
    """Once started with sudo, say: check and start say the same, and nobody is stopped for one that is refused."""
    shop.write(FILE, GOOD)
    for name in (*FILES, *FOLDERS):
        path = shop.state / name
        if name in FOLDERS:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(mode=0o700)
        else:
            path.write_text("{}")
            path.chmod(0o600)
        os.chown(path, OTHER, OTHER)
    listener = shop.spawn(*WITHOUT, sys.executable, "-c", LISTENER, str(shop.port)).until_says("listening")
    command = [*WITHOUT, str(shop.installed / "bin" / "preflight"), "--port", str(shop.port)]
    checked = shop.spawn(*command, "--check-only")
    goes_ahead = checked.wait() == 0
    started = shop.spawn(*command)
    if goes_ahead:
        started.until_ready()
        assert started.stop() == 0
    else:
        assert started.wait() == checked.process.returncode
        assert "Fix:" in started.output
        assert listener.process.poll() is None
    assert "Traceback" not in checked.output + started.output
