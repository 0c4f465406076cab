"""What a start writes, and opens, is known to have room before anything is stopped, and a check says the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.adversary.suites import FILE, GOOD, suite
from tests.e2e.installing import Adopter
from tests.e2e.place import Place, get

pytestmark = [
    pytest.mark.usefixtures("unmeasured"),
    pytest.mark.skipif(sys.platform != "linux", reason="the limits and file systems are Linux's"),
]

UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
UNWRITTEN = "THE REPORT CANNOT BE WRITTEN"
MANY = """
import pytest

@pytest.mark.parametrize("n", [pytest.param(n, marks=pytest.mark.critical(f"Own {n}")) for n in range(60)])
def test_own(n, details):
    "It holds."
    details.update(found=["something that was found"] * 100)
    assert n >= 0
"""


def limited(limit: str) -> list[str]:
    return ["sh", "-c", f'{limit} && exec "$@"', "sh"]


def test_a_report_that_is_larger_than_most(shop: Adopter) -> None:
    """Its room is known before the port is freed: start, check and pytest end, and the server on the port goes on."""
    shop.write(FILE, MANY)
    command = [str(shop.installed / "bin" / "preflight"), "--port", str(shop.port)]
    assert shop.command("--check-only", "--port", str(shop.port)).process.returncode == 0
    size = shop.report_file.stat().st_size
    assert size > 100 * 1024
    holder = shop.listener()
    limit = limited(f"ulimit -f {size // 1024}")  # blocks of 512 bytes: half of it
    for options in ([], ["--check-only"]):
        one = shop.spawn(*limit, *command, *options)
        assert one.wait() == 3, one.output
        assert UNWRITTEN in one.output
        assert holder.process.poll() is None
    arguments = (
        "-P",
        "-m",
        "pytest",
        "preflight_suite",
        "--pyargs",
        "preflight.requirements",
        "-p",
        "no:cacheprovider",
    )
    one = shop.spawn(*limit, sys.executable, *arguments, f"--preflight-port={shop.port}")
    assert one.wait() not in (0, 5), one.output
    assert holder.process.poll() is None
    assert suite(shop).process.returncode == 0  # with room


@pytest.mark.parametrize("size", ["4k", "32k"])
def test_a_report_that_is_asked_for_where_there_is_no_room(place: Place, size: str) -> None:
    """--report PATH on a volume that is full: the server on the port goes on."""
    volume = place.folder / "volume"
    volume.mkdir()
    enter = [*UNSHARE, *limited(f"mount -t tmpfs -o size={size} tmpfs {volume}")]
    if shutil.which("unshare") is None or subprocess.run([*enter, "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    holder = place.listener()
    options = ["--port", str(place.port), "--demo", "--app", "small:app", "--report", str(volume / "report.json")]
    for more in ([], ["--check-only"]):
        one = place.spawn(*enter, sys.executable, "run.py", *options, *more)
        assert one.wait() == 3, one.output
        assert f"{volume}/report.json: No space left on device" in one.output
        assert holder.process.poll() is None


def test_more_workers_than_open_files(place: Place) -> None:
    """Each costs the launcher some: too few are refused at once by start and check, and nobody is stopped for it."""
    options = ["--port", str(place.port), "--demo", "--app", "small:app", "--workers", "8"]
    holder = place.listener()
    for more in ([], ["--check-only"]):
        one = place.spawn(*limited("ulimit -n 45"), sys.executable, "run.py", *options, *more)
        assert one.wait() == 1, one.output
        assert "45 open files are allowed, but a start of 8 workers needs 46" in one.output
        assert holder.process.poll() is None
    first = place.spawn(*limited("ulimit -n 46"), sys.executable, "run.py", *options).until_ready()
    second = place.spawn(*limited("ulimit -n 46"), sys.executable, "run.py", *options).until_ready()
    assert first.wait() == 0
    assert second.stop() == 0


READ_ONLY = """
mount --bind /tmp /tmp && mount --bind "$1" "$1" && mount -o remount,bind,ro /tmp || exit 77
mount --bind "$2" "$2" && mount -o remount,bind,ro "$2" && mount -t tmpfs -o ro tmpfs /var/tmp || exit 77
cd "$2" && shift 2 && exec "$@"
"""


def test_no_folder_for_temporary_files(shop: Adopter) -> None:
    """A container whose file system is read-only, and whose reports go to a volume: it is checked, and serves."""
    shop.write(FILE, GOOD)
    enter = ["env", "-u", "TMPDIR", *UNSHARE, "sh", "-c", READ_ONLY, "sh", str(shop.folder), str(shop.root)]
    finds = "import tempfile; tempfile.gettempdir()"
    if shutil.which("unshare") is None or (found := shop.spawn(*enter, sys.executable, "-c", finds)).wait() != 1:
        pytest.skip("the file systems cannot be made read-only here")
    assert "No usable temporary directory" in found.output
    command = [str(shop.installed / "bin" / "preflight"), "--port", str(shop.port)]
    one = shop.spawn(*enter, *command, "--check-only")
    assert one.wait() == 0, one.output
    server = shop.spawn(*enter, *command).until_ready()
    assert get(shop.url) == (200, "small")
    assert server.stop() == 0
