"""Memory that control groups leave: trees as kernels show them, and a real group where one can be made."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from preflight.suite.probes.memory import Left, left, of_groups, of_machine

ROOT = Path(__file__).parents[1]
MIB = 1024**2
V1 = "36 32 0:33 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory"
V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate"


class Tree:
    """What a process sees of its control groups, below a folder of the test's own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def process(self, cgroup: str, *mounts: str) -> Tree:
        """Of which groups the process is, and what is mounted where."""
        folder = self.root / "proc" / "self"
        folder.mkdir(parents=True)
        (folder / "cgroup").write_text(f"{cgroup}\n")
        (folder / "mountinfo").write_text("".join(f"{mount}\n" for mount in ("23 1 8:1 / / rw - ext4 /d rw", *mounts)))
        return self

    def group(self, path: str, **files: object) -> Tree:
        """A group's folder; in the names of its files `__` stands for the dot."""
        folder = self.root / "sys/fs/cgroup" / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_text(f"{content}\n")
        return self


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_the_machine(tree: Tree) -> None:
    """What the kernel says can be used, of what there is; and never more than that."""
    meminfo = tree.root / "proc" / "meminfo"
    meminfo.parent.mkdir()
    meminfo.write_text("MemTotal:   24684632 kB\nMemFree:    1000 kB\nMemAvailable:  21420172 kB\n")
    assert of_machine(tree.root) == Left(21420172 * 1024, 24684632 * 1024)
    meminfo.write_text("MemTotal: 1000 kB\nMemAvailable: 2000 kB\n")
    assert of_machine(tree.root) == Left(1000 * 1024, 1000 * 1024)


def test_a_machine_that_does_not_say(tree: Tree) -> None:
    """Where the kernel does not say what can be used, psutil finds out; it agrees with the kernel where that does."""
    machine = psutil.virtual_memory()
    assert of_machine(tree.root).limit == machine.total
    assert of_machine().limit == machine.total
    assert abs(of_machine().available - of_machine(tree.root).available) < machine.total / 10


def test_version_2(tree: Tree) -> None:
    """The limit, without what is used and cannot be given back at once."""
    tree.process("0::/system.slice/our.service", V2).group("system.slice", memory__max="max", memory__high="max")
    tree.group(
        "system.slice/our.service", memory__max=512 * MIB, memory__high="max", memory__current=500 * MIB,
        memory__stat=f"anon {70 * MIB}\nactive_file {9 * MIB}\ninactive_file {400 * MIB}",
    )  # fmt: skip
    assert of_groups(tree.root) == [Left(412 * MIB, 512 * MIB, "/system.slice/our.service")]


@pytest.mark.parametrize("tightest", ["a", "a/b", "a/b/c"])
def test_the_tightest_ancestor(tightest: str, tree: Tree) -> None:
    """Each group above may have a limit, and siblings that use most of it."""
    tree.process("0::/a/b/c", V2)
    for path in ("a", "a/b", "a/b/c"):
        used = (990 if path == tightest else 10) * MIB
        tree.group(path, memory__max=1000 * MIB, memory__current=used)
    found = left(tree.root)
    assert found == Left(10 * MIB, 1000 * MIB, f"/{tightest}")


def test_a_group_that_is_slowed_down(tree: Tree) -> None:
    """Above memory.high a process gets no further."""
    tree.process("0::/g", V2).group("g", memory__max=900 * MIB, memory__high=300 * MIB, memory__current=200 * MIB)
    assert of_groups(tree.root) == [Left(100 * MIB, 300 * MIB, "/g")]


def test_version_1(tree: Tree) -> None:
    """The memory controller's own hierarchy, beside others; its largest number means that there is no limit."""
    tree.process("9:name=systemd:/x\n4:cpu,memory:/docker/abc\n0::/", V1, V2.replace("cgroup rw", "unified rw"))
    tree.group("memory", memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=9 * MIB)
    tree.group("memory/docker", memory__limit_in_bytes=9223372036854771712, memory__use_hierarchy=1)
    tree.group(
        "memory/docker/abc", memory__limit_in_bytes=256 * MIB, memory__usage_in_bytes=250 * MIB,
        memory__stat=f"inactive_file 4096\ntotal_inactive_file {50 * MIB}",
    )  # fmt: skip
    assert of_groups(tree.root) == [Left(56 * MIB, 256 * MIB, "/docker/abc")]


@pytest.mark.parametrize("counts, expected", [(1, 20 * MIB), (0, 90 * MIB)])
def test_version_1_above(counts: int, expected: int, tree: Tree) -> None:
    """A group above counts unless it is told not to count what is below it."""
    tree.process("4:memory:/a/b", V1)
    tree.group("memory/a", memory__limit_in_bytes=120 * MIB, memory__usage_in_bytes=100 * MIB)
    tree.group("memory/a", memory__use_hierarchy=counts)
    tree.group("memory/a/b", memory__limit_in_bytes=100 * MIB, memory__usage_in_bytes=10 * MIB)
    assert left(tree.root).available == expected


@pytest.mark.parametrize(
    "cgroup, mount",
    [
        ("0::/", V2),  # a namespace of its own
        ("0::/docker/abc", V2),  # none, and its own group mounted over the hierarchy's root
        ("0::/docker/abc", V2.replace("0:28 /", "0:28 /docker/abc")),
        ("0::/../abc", V2),  # moved out of the namespace that it sees
    ],
)
def test_inside_of_a_container(cgroup: str, mount: str, tree: Tree) -> None:
    """Whatever path a container is told: its group is what is mounted."""
    tree.process(cgroup, mount).group(".", memory__max=64 * MIB, memory__current=60 * MIB)
    assert left(tree.root)[:2] == (4 * MIB, 64 * MIB)


def test_a_limit_out_of_sight(tree: Tree) -> None:
    """A container of version 1 sees nothing above its group, but is told of the tightest limit there: a pod's, say."""
    tree.process("4:memory:/kubepods/pod1/abc", V1.replace("0:33 /", "0:33 /kubepods/pod1/abc"))
    tree.group(
        "memory", memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=50 * MIB,
        memory__stat=f"hierarchical_memory_limit {64 * MIB}\ntotal_inactive_file {10 * MIB}",
    )  # fmt: skip
    assert of_groups(tree.root) == [Left(24 * MIB, 64 * MIB, "/kubepods/pod1/abc")]


def test_a_limit_that_is_told_twice(tree: Tree) -> None:
    """Where the group with the limit is in sight, it is the one that is named."""
    tree.process("4:memory:/a/b", V1)
    tree.group("memory/a", memory__limit_in_bytes=64 * MIB, memory__usage_in_bytes=9 * MIB)
    tree.group("memory/a/b", memory__usage_in_bytes=9 * MIB, memory__stat=f"hierarchical_memory_limit {64 * MIB}")
    assert of_groups(tree.root) == [Left(55 * MIB, 64 * MIB, "/a")]


@pytest.mark.parametrize("first", [True, False])
def test_another_groups_mount(first: bool, tree: Tree) -> None:
    """A part of the hierarchy that is mounted somewhere else, without our group in it, says nothing about us."""
    other = V2.replace("0:28 / /sys/fs/cgroup", "0:28 /other /sys/fs/cgroup/elsewhere")
    tree.process("0::/ours", *((other, V2) if first else (V2, other)))
    tree.group("ours", memory__max=100 * MIB, memory__current=MIB)
    tree.group("elsewhere", memory__max=MIB, memory__current=MIB)
    assert of_groups(tree.root) == [Left(99 * MIB, 100 * MIB, "/ours")]


def test_a_mount_with_a_blank(tree: Tree) -> None:
    """mountinfo escapes what would end a field."""
    tree.process("0::/g", V2.replace("/sys/fs/cgroup", r"/sys/fs/cgroup/my\040own"))
    tree.group("my own/g", memory__max=MIB, memory__current=0)
    assert of_groups(tree.root) == [Left(MIB, MIB, "/g")]


def test_more_used_than_allowed(tree: Tree) -> None:
    """A limit that was lowered under what runs leaves nothing, and not less."""
    tree.process("0::/g", V2).group("g", memory__max=MIB, memory__current=2 * MIB)
    assert left(tree.root).available == 0


@pytest.mark.parametrize("content", ["", "max", "-1", "plenty"])
def test_limits_that_are_none(content: str, tree: Tree) -> None:
    """No limit, or a file that nobody can read a number from."""
    tree.process("0::/g", V2).group("g", memory__max=content, memory__current=1)
    assert of_groups(tree.root) == []


def test_without_control_groups(tmp_path: Path) -> None:
    """Elsewhere than on Linux, or without /proc: what the machine has."""
    found = left(tmp_path)
    assert found.group == ""
    assert 0 < found.available <= found.limit


# A real group, and a real suite in it.


def hierarchy() -> Path | None:
    """Our own group's folder, where groups with limits on memory can be made below it; None where they cannot."""
    for line in Path("/proc/self/cgroup").read_text().splitlines() if sys.platform == "linux" else ():
        _number, controllers, path = line.split(":", 2)
        folder = Path(f"/sys/fs/cgroup/{controllers}{path}" if controllers else f"/sys/fs/cgroup{path}")
        with contextlib.suppress(OSError):
            delegated = "memory" in (folder / "cgroup.subtree_control").read_text().split() if not controllers else True
            if controllers in ("", "memory") and delegated and os.access(folder, os.W_OK):
                return folder
    return None


@pytest.fixture
def groups() -> Iterator[tuple[Path, Path]]:
    """A group of our own and one inside of it."""
    above = hierarchy()
    if above is None:
        pytest.skip("no control group with memory can be made here")
    outer = above / f"preflight-test-{os.getpid()}"
    inner = outer / "inner"
    try:
        outer.mkdir()
        with contextlib.suppress(OSError):
            (outer / "cgroup.subtree_control").write_text("+memory")
        inner.mkdir()
        yield outer, inner
    finally:
        for folder in (inner, outer):
            end = time.monotonic() + 10
            while folder.exists() and time.monotonic() < end:  # it is busy until its last process is reaped
                with contextlib.suppress(OSError):
                    folder.rmdir()
                time.sleep(0.01)


@pytest.mark.slow
def test_a_real_group(groups: tuple[Path, Path], tmp_path: Path) -> None:
    """The requirement goes by the limit of the group above, which the kernel keeps."""
    outer, inner = groups
    limit = next(name for name in ("memory.limit_in_bytes", "memory.max") if (outer / name).exists())
    (outer / limit).write_text(str(128 * MIB))
    (inner / limit).write_text(str(512 * MIB))
    program = (
        f"import os, pathlib, sys; pathlib.Path({str(inner / 'cgroup.procs')!r}).write_text(str(os.getpid()))\n"
        "import pytest; sys.exit(pytest.main(['-q', 'preflight/requirements/test_resources.py::test_memory']))"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PREFLIGHT_")}
    environ |= {"PREFLIGHT_DEMO": "1", "PREFLIGHT_STATE_DIR": str(tmp_path / "state"), "PREFLIGHT_MEMORY": "200 MiB"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60
    )
    said = re.search(r"Memory: (.+) MiB available of 128 MiB in control group (\S+), needs 200 MiB", done.stdout)
    assert said is not None, done.stdout + done.stderr
    assert 40 < float(said[1]) <= 128
    assert said[2].endswith(outer.name)
