"""The parts of finding, deciding and holding that need no other process: texts, addresses, names, contracts."""

import ast
import errno
import os
import pickle
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from preflight.ports import (
    Holder,
    Policy,
    PortUnavailable,
    Refusal,
    Step,
    binding,
    cgroups,
    freeing,
    hold,
    listeners,
    plan,
    sockets,
    take,
)
from preflight.ports.linux import Linux, Portable, Process, ancestors, descendants, here
from preflight.ports.sockets import Endpoint
from preflight.ports.spared import FORWARDERS, INFRASTRUCTURE

ROOT = Path(__file__).parents[2]
OURS = ["freeing", "binding", "sockets", "linux", "stopping", "cgroups", "spared"]

DOCKER_ID = "4f1c" * 16
V4_WILDCARD, V6_WILDCARD = bytes(4), bytes(16)
LOOPBACK = bytes([127, 0, 0, 1])

HOLDER = Holder(
    pid=4711,
    name="python3.11",
    command="python app.py",
    user="dev",
    uid=1000,
    started_at=1.0,
    parent=1,
    parent_name="systemd",
    children=(4712,),
    addresses=("127.0.0.1:8002",),
    unit=None,
    container=None,
)
PROCESS = Process(
    pid=4711, name="python3.11", argv=("python", "app.py"), uid=os.geteuid(), parent=1, started_at=1.0, stamp=100.0,
    suspended=False, cgroup="0::/user.slice/user-1000.slice/session-2.scope\n",
)  # fmt: skip


# -- the contract --------------------------------------------------------------------------------------------


def test_a_holder_in_one_line() -> None:
    """With what can be told, and no more."""
    assert HOLDER.describe() == "python3.11 (PID 4711, user dev): python app.py"
    assert HOLDER.title == "python3.11 (PID 4711, user dev)"
    unseen = replace(HOLDER, pid=None, name="another user's process", command="", user=None)
    assert unseen.describe() == "another user's process"
    assert replace(unseen, user="root").describe() == "another user's process (user root)"


def test_dictionaries_are_ready_for_json() -> None:
    """Tuples become lists; a refusal has its holder inside."""
    assert HOLDER.to_dict()["children"] == [4712]
    assert HOLDER.to_dict()["addresses"] == ["127.0.0.1:8002"]
    assert set(HOLDER.to_dict()) == set(Holder.__slots__)
    refusal = Refusal(HOLDER, "it is PID 1", "choose another port")
    assert refusal.to_dict() == {"holder": HOLDER.to_dict(), "reason": "it is PID 1", "fix": "choose another port"}


def test_a_step_in_one_line() -> None:
    """When (UTC), what, who, with what result."""
    step = Step(1_767_323_045.678, "SIGTERM", 4711, "python3.11", "sent")
    assert str(step) == "2026-01-02T03:04:05.678Z SIGTERM: python3.11 (PID 4711): sent"
    assert step.to_dict()["pid"] == 4711


def test_an_unknown_policy_is_refused() -> None:
    """A misspelt setting must not mean "stop everything"."""
    with pytest.raises(ValueError, match="user, own or never"):
        Policy(cleanup="none")


def test_port_unavailable_is_an_os_error_in_one_line() -> None:
    """The message alone, the reason as errno, the fix beside it, also after a pickle's journey."""
    error = PortUnavailable(errno.EADDRINUSE, "port 8002 is in use", "choose another")
    assert isinstance(error, OSError)
    assert (str(error), error.errno, error.fix) == ("port 8002 is in use", errno.EADDRINUSE, "choose another")
    assert str(pickle.loads(pickle.dumps(error))) == "port 8002 is in use"


def test_importing_is_light() -> None:
    """The launcher imports this and must stay small: nothing heavy comes with it, psutil neither."""
    program = "import sys, preflight.ports; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert not {"psutil", "asyncio", "pydantic", "rich", "subprocess", "pytest"} & set(loaded)


def test_taking_a_port_stays_light() -> None:
    """On Linux neither psutil nor the idna tables are imported when a port is looked up and held."""
    if not Linux.works():
        pytest.skip("the portable path is psutil")
    program = (
        "import sys; from preflight import ports\n"
        "with ports.hold('127.0.0.1', 0) as held:\n"
        "    taken = ports.take('localhost', held.getsockname()[1], ports.Policy())\n"
        "assert taken.refusals, taken\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert not {"psutil", "encodings.idna", "asyncio"} & set(loaded)


@pytest.mark.parametrize("module", OURS)
def test_nothing_shells_out(module: str) -> None:
    """Who listens is read from the system, never from another program's output."""
    tree = ast.parse((ROOT / "preflight" / "ports" / f"{module}.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not imported & {"subprocess", "multiprocessing", "pty"}
    assert not called & {"system", "popen", "execv", "execve", "execvp", "posix_spawn", "fork", "killpg", "kill"}


# -- addresses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ours, theirs, v6only, overlap",
    [
        ("127.0.0.1", LOOPBACK, None, True),
        ("127.0.0.2", LOOPBACK, None, False),
        ("127.0.0.1", V4_WILDCARD, None, True),
        ("0.0.0.0", LOOPBACK, None, True),
        ("127.0.0.1", V6_WILDCARD, False, True),
        ("127.0.0.1", V6_WILDCARD, True, False),
        ("127.0.0.1", V6_WILDCARD, None, None),
        ("127.0.0.1", bytes(15) + b"\1", False, False),
        ("127.0.0.1", bytes(10) + b"\xff\xff" + LOOPBACK, False, True),
        ("127.0.0.1", bytes(10) + b"\xff\xff" + V4_WILDCARD, False, True),
        ("::1", bytes(15) + b"\1", None, True),
        ("::1", V6_WILDCARD, True, True),
        ("::1", LOOPBACK, None, False),
        ("::1", V4_WILDCARD, None, False),
        ("::", LOOPBACK, None, True),
        ("::", V6_WILDCARD, True, True),
        ("::ffff:127.0.0.1", LOOPBACK, None, True),
    ],
)
def test_which_listeners_are_in_the_way(ours: str, theirs: bytes, v6only: bool | None, overlap: bool | None) -> None:
    """By family, wildcard and IPV6_V6ONLY; None where only a bind can tell."""
    assert binding.resolve(ours, 8002).overlaps(Endpoint(theirs, 8002, v6only=v6only)) is overlap


def test_a_name_with_several_addresses_means_its_ipv4_one() -> None:
    """localhost is 127.0.0.1 wherever it is both."""
    with hold("localhost", 0) as held:
        assert held.family == socket.AF_INET
        assert held.getsockname()[0] == "127.0.0.1"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_families_of_explicit_addresses() -> None:
    """:: takes IPv4 as well, an explicit IPv6 address is IPv6 alone, brackets are allowed."""
    with hold("::", 0) as dual, hold("[::1]", 0) as six:
        assert dual.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
        assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
        with socket.create_connection(("127.0.0.1", dual.getsockname()[1]), timeout=5):
            pass


def test_a_held_socket_listens_and_is_not_inherited() -> None:
    """With the server's options: SO_REUSEADDR, never SO_REUSEPORT."""
    with hold("127.0.0.1", 0) as held:
        assert held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert held.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert not held.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        assert not held.get_inheritable()


@pytest.mark.parametrize(
    "host, port, problem",
    [
        ("127.0.0.1", 65536, "port 65536 is not between 0 and 65535"),
        ("127.0.0.1", -1, "port -1 is not between 0 and 65535"),
        ("256.0.0.1.invalid", 8002, "'256.0.0.1.invalid' does not resolve to an address"),
        ("x" * 70 + ".invalid", 8002, "does not resolve to an address"),
        ("bücher..invalid", 8002, "does not resolve to an address"),
        ("203.0.113.1", 8002, "203.0.113.1 is not an address of this machine"),
    ],
)
def test_addresses_that_cannot_be_had(host: str, port: int, problem: str) -> None:
    """One line and a way out, from every function, and no exception where none is announced."""
    with pytest.raises(PortUnavailable) as raised:
        hold(host, port)
    assert problem in str(raised.value)
    assert raised.value.fix
    for outcome in (plan(host, port, Policy()), take(host, port, Policy())):
        assert problem in str(outcome.problem)
        assert "\n" not in str(outcome.problem)
        assert outcome.fix
    if "not an address" not in problem:
        with pytest.raises(PortUnavailable):
            listeners(host, port)


def test_where_reuseaddr_may_bind_beside_a_listener() -> None:
    """The way of BSD and macOS: a listener in the way is seen, TIME_WAIT alone is not in the way."""
    machine = Portable()
    with hold("127.0.0.1", 0) as held:
        target = binding.resolve("127.0.0.1", held.getsockname()[1])
        with pytest.raises(PortUnavailable, match="in use"):
            binding.bind(target, machine, exclusive=False)
        with socket.create_connection(("127.0.0.1", target.port)) as client:
            held.accept()[0].close()
            client.recv(1)
    binding.bind(target, machine, exclusive=False).close()


# -- what the kernel says ------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.byteorder != "little", reason="the lines are from a little-endian machine")
def test_rows_of_proc_net_tcp() -> None:
    """Addresses are words of the machine's own byte order, everything but the user and inode is hexadecimal."""
    tail = "00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 31337 1 0 100 0 0 10 0"
    assert sockets.parse_row(f"   0: 0100007F:1F42 {tail}") == Endpoint(LOOPBACK, 8002, uid=1000, inode=31337)
    six = sockets.parse_row(f"   1: 00000000000000000000000001000000:1F42 {tail}")
    assert six is not None
    assert (str(six), six.packed) == ("[::1]:8002", bytes(15) + b"\1")
    mapped = sockets.parse_row(f"   2: 0000000000000000FFFF00000100007F:1F42 {tail}")
    assert mapped is not None
    assert mapped.packed == LOOPBACK
    assert sockets.parse_row("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt") is None


@pytest.mark.skipif(not Linux.works(), reason="needs Linux")
def test_both_sources_agree() -> None:
    """sock_diag and /proc/net/tcp list the same socket, with its inode and holder."""
    with hold("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        inode = os.fstat(held.fileno()).st_ino
        for netlink in (True, False):
            [endpoint] = sockets.listening(port, netlink=netlink)
            assert (endpoint.inode, endpoint.pids, endpoint.uid) == (inode, (os.getpid(),), os.geteuid())


@pytest.mark.parametrize(
    "text, name, command",
    [
        ("0::/system.slice/postgresql.service", "postgresql.service", "systemctl stop postgresql.service"),
        ("0::/system.slice/web.service/worker-1", "web.service", "systemctl stop web.service"),
        (
            "4:memory:/x.service\n1:name=systemd:/system.slice/nginx.service\n0::/",
            "nginx.service",
            "systemctl stop nginx.service",
        ),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/web.service",
            "web.service",
            "systemctl --user stop web.service",
        ),
        ("0::/system.slice/system-web.slice/web@1.service", "web@1.service", "systemctl stop web@1.service"),
    ],
)
def test_service_of_a_control_group(text: str, name: str, command: str) -> None:
    """The unit, of the system or of the user, and how to stop it."""
    unit = cgroups.unit(text)
    assert unit is not None
    assert (unit.name, unit.stop_command) == (name, command)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0::/\n",
        "0::/user.slice/user-1000.slice/session-2.scope",
        "0::/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-1.scope",
        "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.kde.konsole@1f.service",
        "4:memory:/system.slice/nginx.service",  # not systemd's hierarchy
        f"0::/system.slice/docker-{DOCKER_ID}.scope",
    ],
)
def test_control_groups_that_are_no_service(text: str) -> None:
    """Terminals, sessions and desktop applications start nothing again."""
    assert cgroups.unit(text) is None


@pytest.mark.parametrize(
    "text, container",
    [
        (f"0::/system.slice/docker-{DOCKER_ID}.scope", "4f1c4f1c4f1c"),
        (f"12:pids:/docker/{DOCKER_ID}\n0::/", "4f1c4f1c4f1c"),
        (f"0::/user.slice/user@1000.service/user.slice/libpod-{DOCKER_ID}.scope/container", "4f1c4f1c4f1c"),
        (f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{DOCKER_ID}.scope", "4f1c4f1c4f1c"),
        (f"0::/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{DOCKER_ID}", "4f1c4f1c4f1c"),
        ("0::/lxc.payload.web/init.scope", "web"),
        ("0::/system.slice/web.service", None),
    ],
)
def test_container_of_a_control_group(text: str, container: str | None) -> None:
    """docker, podman, containerd, LXC; twelve characters as their commands show."""
    assert cgroups.container(text) == container


# -- decide --------------------------------------------------------------------------------------------------


def decide(
    process: Process, *, policy: Policy | None = None, cgroup: str = "", uid: int | None = None
) -> tuple[str, str] | None:
    asking = freeing._Asking(
        port=8002,
        policy=policy or Policy(),
        machine=here(),
        pid=1 << 22,
        ancestors=frozenset({99}),
        uid=process.uid if uid is None else uid,
        unit=cgroups.unit(cgroup),
        container=cgroups.container(cgroup),
    )
    return asking.refusal(process)


@pytest.mark.parametrize(
    "changes, uid, reason, fix",
    [
        ({"pid": 1}, None, "it is PID 1", "--port 8003"),
        ({"pid": 99}, None, "this process runs inside it", "--port 8003"),
        ({"pid": 1 << 22}, None, "it is this process", "--port 8003"),
        ({"uid": 65534}, 0, "it belongs to user", "kill 4711"),
        ({"uid": 0}, 1000, "it belongs to user root", "sudo kill 4711"),
        ({"name": "docker-proxy"}, None, "it forwards the port", "docker stop $(docker ps -q --filter publish=8002)"),
        ({"name": "ssh", "argv": ("ssh", "-L", "8002:x:1", "y")}, None, "it forwards the port", "kill 4711"),
        ({"name": "node", "argv": ("/usr/sbin/mysqld",)}, None, "it is infrastructure (mysqld)", "kill 4711"),
        ({"name": "pg", "argv": ("postgres: main: io worker",)}, None, "it is infrastructure (postgres)", "kill 4711"),
        ({"name": "clickhouse-serv"}, None, "it is infrastructure (clickhouse-server)", "kill 4711"),
        (
            {"cgroup": "0::/system.slice/w.service"},
            1000,
            "it belongs to the service w.service",
            "sudo systemctl stop w.service",
        ),
        (
            {"cgroup": "0::/user.slice/user@1000.service/app.slice/w.service"},
            1000,
            "it belongs to the service w.service",
            "systemctl --user stop w.service",
        ),
        ({"cgroup": f"0::/docker/{DOCKER_ID}"}, None, "it runs in container 4f1c4f1c4f1c", "docker stop 4f1c4f1c4f1c"),
    ],
)
def test_who_is_left_alone(changes: dict[str, object], uid: int | None, reason: str, fix: str) -> None:
    """Each with its reason and the command a person could use."""
    process = replace(PROCESS, **({"uid": uid} if uid else {}) | changes)  # type: ignore[arg-type]
    refusal = decide(process, uid=uid)
    assert refusal is not None
    assert refusal[0].startswith(reason)
    assert fix in refusal[1]
    assert ("sudo" in refusal[1]) == ("sudo" in fix)


def test_who_may_be_stopped() -> None:
    """An ordinary process of this user, and one of our own unit or container."""
    assert decide(PROCESS) is None
    for cgroup in ("0::/system.slice/ours.service", f"0::/docker/{DOCKER_ID}"):
        assert decide(replace(PROCESS, cgroup=cgroup), cgroup=cgroup) is None
        assert decide(replace(PROCESS, cgroup=cgroup), cgroup="0::/system.slice/other.service") is not None


def test_a_script_is_not_the_infrastructure_it_is_named_after() -> None:
    """Only the process's own name and its program count, not its arguments."""
    assert decide(replace(PROCESS, argv=("python", "redis-server.py", "postgres"))) is None


def test_the_safety_rules_come_before_the_policy() -> None:
    """Whatever the policy: a person who switches cleaning on must not find the next refusal behind it."""
    for cleanup in ("user", "own", "never"):
        refusal = decide(replace(PROCESS, name="postgres"), policy=Policy(cleanup=cleanup, own=frozenset({4711})))
        assert refusal is not None
        assert "infrastructure" in refusal[0]


def test_names_are_names() -> None:
    """Data that a slip of the pen would make useless: no blanks around, no paths, every fix can be filled in."""
    for name in (*INFRASTRUCTURE, *FORWARDERS):
        assert name == name.strip()
        assert "/" not in name
    for fix in FORWARDERS.values():
        assert "{" not in fix.format(port=8002, pid=4711)


# -- processes -----------------------------------------------------------------------------------------------


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
