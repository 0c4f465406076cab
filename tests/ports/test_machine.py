"""Processes, their families and handles, on every machine that works here."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from preflight.ports.current import here
from preflight.ports.linux import Linux
from preflight.ports.machine import LONGEST_ARGUMENT, LONGEST_COMMAND, Machine, ancestors, descendants
from preflight.ports.portable import Portable
from tests.ports.examples import PROCESS


@pytest.mark.slow
def test_both_machines_tell_the_same_of_a_process() -> None:
    """The fast path and the portable one agree on this process, its ancestors and its children."""
    if not Linux.works():
        pytest.skip("only one machine here")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        fast, portable = Linux(), Portable()
        for pid in (os.getpid(), child.pid):
            one, other = fast.process(pid), portable.process(pid)
            assert one is not None
            assert other is not None
            assert (one.name, one.argv, one.uid, one.parent) == (other.name, other.argv, other.uid, other.parent)
            assert abs(one.started_at - other.started_at) < 1.1  # psutil knows the boot time to the second
            assert list(ancestors(fast, pid)) == list(ancestors(portable, pid))
        assert child.pid in fast.children(os.getpid())
        assert set(fast.children(os.getpid())) == set(portable.children(os.getpid()))
        fast._lists_children = False  # as on a kernel without CONFIG_PROC_CHILDREN
        assert set(fast.children(os.getpid())) == set(portable.children(os.getpid()))
        assert child.pid in [one.pid for one in descendants(fast, os.getpid(), lambda process: True)]
        assert [*descendants(fast, os.getpid(), lambda process: False)] == []
    finally:
        child.communicate()


@pytest.mark.slow
def test_a_zombie_is_no_process() -> None:
    """It holds nothing and has no handle worth signalling, though its PID still answers."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    for machine in (Linux(), Portable()) if Linux.works() else (Portable(),):
        assert machine.process(child.pid) is None
        assert machine.handle(replace(PROCESS, pid=child.pid)) is None
    child.wait()


def test_a_process_that_does_not_exist() -> None:
    """No process, no children, no exception."""
    for machine in (Linux(), Portable()) if Linux.works() else (Portable(),):
        assert machine.process(1 << 22) is None
        assert machine.children(1 << 22) == ()
        assert machine.handle(replace(PROCESS, pid=1 << 22)) is None


def test_here_is_the_fast_machine_where_it_works() -> None:
    """One decision, made once."""
    assert isinstance(here(), Linux if Linux.works() else Portable)
    assert here() is here()


def test_what_a_process_says_of_itself_has_a_bound() -> None:
    """Whoever judges by arguments gets them as they are, whoever shows them as printable lines; neither has no end."""
    odd = "\u0698\u200c\u0698/run.py"  # names of folders have that in Persian
    process = replace(PROCESS, name="\x1b[2J\u202e", argv=("python", odd, "a\nb", "x" * 1_000_000, *["y"] * 50_000))
    assert process.name == "?[2J?"
    assert process.argv[:3] == ("python", odd, "a\nb")
    assert process.words[1:3] == ["\u0698?\u0698/run.py", "a b"]
    assert process.words[3] == "x" * (LONGEST_ARGUMENT - 2) + " …"
    assert sum(len(argument) + 1 for argument in process.argv) <= LONGEST_COMMAND + 1


@pytest.mark.slow
def test_a_command_line_of_megabytes_is_not_read() -> None:
    """Neither machine hands more of it on."""
    command = [sys.executable, "-c", "print(flush=True), input()", *["z" * 100_000] * 15]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()  # it has its arguments by now
        machines: list[Machine] = [Portable(), *([Linux()] if Linux.works() else [])]
        for machine in machines:
            process = machine.process(child.pid)
            assert process is not None
            assert process.argv[1] == "-c"
            assert sum(map(len, process.argv)) <= LONGEST_COMMAND
    finally:
        child.kill()
        child.communicate()
