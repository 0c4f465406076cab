"""The launcher's children: real processes that print, crash, fork, hang, and lose their launcher."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from preflight.processes import children
from preflight.processes.channel import Channel, Message
from preflight.processes.children import Child
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.slow  # they start processes

ROOT = Path(__file__).parents[1]

Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a program as a child; all of them are closed after the test."""
    started: list[Child] = []

    def begin(program: str, **environ: str) -> Child:
        name = f"program_{len(started)}"
        (tmp_path / f"{name}.py").write_text("import os, signal, subprocess, sys, time\n" + program)
        paths = os.pathsep.join([str(tmp_path), str(ROOT)])  # a folder without our package is on no child's path
        started.append(Child(name, tmp_path, {**os.environ, "PYTHONPATH": paths, **environ}))
        return started[-1]

    yield begin
    for child in started:
        child.close()


def lines(child: Child, count: int) -> list[str]:
    """Read output until there are so many lines."""
    found: list[str] = []
    while len(found) < count:
        assert select.select([child.output], [], [], 20)[0], f"no more than {found}"
        found += child.read_output()
        assert not child.output_closed or len(found) >= count
    return found


def over(pid: int) -> bool:
    """Whether a process is gone; a zombie that nobody has reaped yet is."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_child_that_steps_back(tmp_path: Path) -> None:
    """It is nicer than we are by so much and no more."""
    program = "import os, sys\nos.read(int(sys.argv[1]), 1)\nprint(os.nice(0), flush=True)"
    (tmp_path / "program.py").write_text(program)
    child = Child("program", tmp_path, {**os.environ, "PYTHONPATH": str(tmp_path)}, steps_back=True)
    child.channel.send("go")
    assert lines(child, 1) == [str(min(os.nice(0) + children.NICER, 19))]
    child.close()


def test_output(start: Start) -> None:
    """Both outputs come through one pipe, line by line and unbuffered, and the last lines are kept."""
    child = start("print('one'); print('two', file=sys.stderr); print('caf\\udce9'.encode(errors='surrogateescape'))\n"
                  "os.write(1, b'caf\\xe9\\nno end')")  # fmt: skip
    until(child.ended, "it ends")
    child.drain_output()
    assert list(child.lines) == ["one", "two", "b'caf\\xe9'", "caf\ufffd", "no end"]
    assert child.output_closed
    assert child.ending == "exit code 0"
    assert child.ended()


def test_many_lines(start: Start) -> None:
    """Of much output the end is kept; of a line without an end the beginning, as soon as it is too long."""
    child = start("for n in range(1000): print(n)\nsys.stdout.write('x' * 200_000); time.sleep(60)")
    seen: list[str] = []
    while not seen or not seen[-1].startswith("x"):
        seen += lines(child, 1)
    assert seen[:1000] == [str(n) for n in range(1000)]
    assert len(child.lines) == children.KEPT_LINES


def test_long_lines(start: Start) -> None:
    """Of a long line the beginning is there, once, and the next one whole; all that is kept has a bound."""
    child = start("for n in range(40): print(n, 'x' * 1_000_000); print(n, 'next')\nos.write(1, b'y' * 1_000_000)")
    found = lines(child, 80)
    assert [line.partition(" ")[0] for line in found[:80:2]] == [str(n) for n in range(40)]
    assert {len(line) for line in found[:80:2]} <= {children.LONGEST_LINE}
    assert found[1:80:2] == [f"{n} next" for n in range(40)]
    while not child.output_closed:
        child.read_output()
    assert set(child.lines[-1]) == {"y"}
    assert sum(map(len, child.lines)) <= children.KEPT


def test_own_group_and_no_input(start: Start, tmp_path: Path) -> None:
    """A child has a process group of its own, nothing to read, and the project's root as its folder."""
    child = start("print(os.getpgid(0), os.getcwd(), repr(sys.stdin.read()))")
    (line,) = lines(child, 1)
    assert line == f"{child.pid} {os.path.realpath(tmp_path)} ''"
    assert os.getpgid(0) != child.pid


def test_environment(start: Start) -> None:
    """The child's environment is what it was given, and what it prints comes at once, whatever is in there."""
    program = "print(os.environ['A'], os.environ.get('PYTHONUNBUFFERED'))\ntime.sleep(60)"
    child = start(program, A="b", PYTHONUNBUFFERED="")
    assert lines(child, 1) == ["b "]


def test_nothing_else_is_inherited(start: Start) -> None:
    """A child inherits its channel and no other descriptor: a listening socket would keep the port busy."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert not listener.get_inheritable()
        child = start("print(sorted(int(n) for n in os.listdir('/dev/fd') if int(n) > 2), sys.argv[1])")
        (line,) = lines(child, 1)
    descriptors, _, channel = line.rpartition(" ")
    inherited = set(map(int, descriptors.strip("[]").split(", ")))
    assert int(channel) in inherited
    assert len(inherited) <= 2  # and the one that lists the folder


@pytest.mark.parametrize(
    "program,ending",
    [
        ("sys.exit(3)", "exit code 3"),
        ("os._exit(0)", "exit code 0"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        pytest.param(
            "os.kill(os.getpid(), 40)",
            "signal 40",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="no real-time signals"),
        ),
    ],
    ids=["exit", "_exit", "segfault", "real-time signal"],
)
def test_ending(start: Start, program: str, ending: str) -> None:
    """How a child ended is told for people."""
    child = start(program)
    until(child.ended, "it ends")
    assert child.ending == ending


def test_still_running(start: Start) -> None:
    """A child that runs has not ended."""
    child = start("print('up'); time.sleep(60)")
    lines(child, 1)
    assert not child.ended()
    assert child.ending == "still running"


FORK = "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print(other.pid)\n"


def test_kill_ends_the_group(start: Start) -> None:
    """Killing a child ends what it has started, whatever signals it ignores; more than once does no harm."""
    child = start("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FORK + "time.sleep(60)")
    other = int(lines(child, 1)[0])
    child.kill()
    assert child.ending == "SIGKILL"
    until(lambda: over(other), "the end of its own child")
    child.kill()


def test_crash_ends_the_group(start: Start) -> None:
    """What a child has started does not outlive its crash."""
    child = start(FORK + "os._exit(9)")
    other = int(lines(child, 1)[0])
    until(child.ended, "it ends")
    assert child.ending == "exit code 9"
    until(lambda: over(other), "the end of its own child")


def test_who_left_the_group(start: Start) -> None:
    """A descendant in a session of its own is not waited for, although it holds the pipe."""
    child = start("other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], "
                  "start_new_session=True); print(other.pid)")  # fmt: skip
    other = int(lines(child, 1)[0])
    try:
        until(child.ended, "it ends")
        child.drain_output()
        assert not child.output_closed
    finally:
        os.kill(other, signal.SIGKILL)


def test_close_twice(start: Start) -> None:
    """Closing twice closes nobody else's descriptor."""
    child = start("time.sleep(60)")
    number = child.output
    child.close()
    assert child.ending == "SIGKILL"
    reader, writer = os.pipe()
    if number not in (reader, writer):
        os.dup2(reader, number)
    child.close()
    assert os.fstat(number)  # the number is somebody else's now
    for descriptor in {reader, writer, number}:
        os.close(descriptor)


ATTACHED = """
from preflight.processes import children
children.attach(int(sys.argv[1]), lambda message: print(message.kind, message.data), children.end_group)
"""


def test_attach(start: Start) -> None:
    """A child hears its launcher, and answers through the same channel."""
    attached = ATTACHED.replace("children.attach", "channel = children.attach")
    child = start(attached + "channel.send('hello', pid=os.getpid()); time.sleep(60)")
    assert child.channel.receive(20) == Message("hello", {"pid": child.pid})
    child.channel.send("do", what=1)
    assert lines(child, 1) == ["do {'what': 1}"]


def test_end_of_the_channel_ends_the_child(start: Start) -> None:
    """A child whose channel closes ends itself and what it has started."""
    child = start(ATTACHED + FORK + "time.sleep(60)")
    other = int(lines(child, 1)[0])
    child.channel.close()
    until(child.ended, "it ends")
    assert child.ending == "SIGKILL"
    until(lambda: over(other), "the end of its own child")


def test_garbage_on_the_channel_ends_the_child(start: Start) -> None:
    """A child that is sent what is no message does not go on without a launcher that it understands."""
    child = start(ATTACHED + "print('up'); time.sleep(60)")
    lines(child, 1)
    os.write(child.channel.fileno(), b"garbage\n")
    until(child.ended, "it ends")


def test_end_of_the_launcher_ends_the_child(tmp_path: Path) -> None:
    """kill -9 for the launcher leaves none of its children behind."""
    (tmp_path / "program.py").write_text("import os, sys, time, subprocess\n" + ATTACHED + FORK + "time.sleep(60)")
    launcher = (
        "import os, sys, time; from pathlib import Path; from preflight.processes.children import Child\n"
        "child = Child('program', Path(sys.argv[1]), os.environ); print(child.pid, flush=True)\n"
        "os.read(child.output, 1); print(child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", launcher, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.stdout.readline()  # the child listens by now, and has a child itself
        group = [pid, *(one.pid for one in psutil.Process(pid).children(recursive=True))]
        process.kill()
    for one in group:
        until(lambda one=one: over(one), f"the end of {one}")  # type: ignore[misc]
    assert len(group) == 2


def test_attach_hears_in_a_thread() -> None:
    """Messages are heard one by one until the other end closes; then that is said, once."""
    ours, theirs = Channel.pair()
    heard: list[Message] = []
    hung_up = threading.Event()
    channel = children.attach(theirs.detach(), heard.append, hung_up.set)
    assert not os.get_inheritable(channel.fileno())
    ours.send("one")
    ours.send("two", n=2)
    ours.close()
    assert hung_up.wait(PATIENCE)
    assert heard == [Message("one"), Message("two", {"n": 2})]
    channel.close()
