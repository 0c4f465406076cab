"""Processes, their families and handles, on every machine that works here."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from preflight.ports.linux import Linux
from preflight.ports.machine import ancestors, descendants, here
from preflight.ports.portable import Portable
from tests.ports.examples import PROCESS


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
