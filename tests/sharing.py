"""What each worker of a run would make anew, made once for all of them."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

_folders: list[Path] = []


def begin(folder: Path) -> None:
    """From now on things are shared in this folder, which all workers of the run know."""
    _folders[:] = [folder]


def end() -> None:
    """The run is over."""
    _folders.clear()


def once(folder: Path, name: str, make: Callable[[Path], object]) -> Path:
    """A folder of that name in ``folder``, which the first who asks fills with ``make``; the others wait for that."""
    made, mark = folder / name, folder / f"{name}.made"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists():
            shutil.rmtree(made, ignore_errors=True)  # of one who failed
            made.mkdir()
            make(made)
            mark.touch()
    return made


def known(name: str, make: Callable[[], bytes]) -> bytes:
    """What ``make`` returns, asked once in a run; outside of one (the benchmarks), whenever this is called."""
    if not _folders:
        return make()
    folder = once(_folders[0], name, lambda folder: (folder / "it").write_bytes(make()))
    return (folder / "it").read_bytes()
