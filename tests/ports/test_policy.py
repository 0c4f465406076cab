"""Who may be stopped for a port, and who is left alone."""

from dataclasses import replace
from typing import cast

import pytest

from preflight.ports import INFRASTRUCTURE, Policy, Refusal
from preflight.ports.machine import Machine, Process
from preflight.ports.spared import FORWARDERS
from tests import pasting
from tests.ports.examples import DOCKER_ID, HOLDER, PROCESS, decide


def test_an_unknown_policy_is_refused() -> None:
    """A misspelt setting must not mean "stop everything"."""
    with pytest.raises(ValueError, match="user, own or never"):
        Policy(cleanup="none")


def test_a_refusal_is_ready_for_json() -> None:
    """With its holder inside."""
    refusal = Refusal(HOLDER, "it is PID 1", "choose another port")
    assert refusal.to_dict() == {"holder": HOLDER.to_dict(), "reason": "it is PID 1", "fix": "choose another port"}


@pytest.mark.slow
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
        ({"cgroup": "0::/system.slice/cron.service"}, 1000, "it was started by cron.service", "kill 4711"),
        (
            {"cgroup": "0::/user.slice/user@1000.service/tmux.service", "terminal": "pts/3"},
            1000,
            "it runs in a terminal (pts/3) of the service tmux.service",
            "kill 4711",
        ),
        (
            {"cgroup": r"0::/system.slice/it's a\x2dservice, or two.service"},
            0,
            "it belongs to the service",
            r"""systemctl stop 'it'"'"'s a\x2dservice, or two.service'""",
        ),
        ({"cgroup": "0::/lxc.payload.a;web"}, None, "it runs in container a;web", "docker stop 'a;web'"),
        ({"cgroup": f"0::/docker/{DOCKER_ID}"}, None, "it runs in container 4f1c4f1c4f1c", "docker stop 4f1c4f1c4f1c"),
    ],
)
def test_who_is_left_alone(changes: dict[str, object], uid: int | None, reason: str, fix: str) -> None:
    """Each with its reason and the command a person could use."""
    process = replace(PROCESS, **({} if uid is None else {"uid": uid}) | changes)  # type: ignore[arg-type]
    refusal = decide(process, uid=uid)
    assert refusal is not None
    assert refusal[0].startswith(reason)
    assert fix in refusal[1]
    pasting.check(refusal[1])
    assert pasting.is_command(refusal[1]) == (fix != "--port 8003")
    assert ("sudo" in refusal[1]) == ("sudo" in fix)


@pytest.mark.parametrize(
    "name, what",
    [
        *((name, f"an editor ({name})") for name in ("code", "cursor", "nvim", "pycharm", "Code Helper (Plugin)")),
        *((name, f"a browser ({name})") for name in ("firefox", "chrome", "chromium", "chrome-headless-shell")),
        ("ollama", "infrastructure (ollama)"),
    ],
)
def test_what_people_have_open(name: str, what: str) -> None:
    """Editors and browsers listen for their own ends: a debugger, a forwarded port."""
    for called in ({"name": name[:15]}, {"name": "MainThread", "argv": (f"/opt/x/{name.split()[0]}",)}):
        if " " in name and "argv" in called:
            continue
        refusal = decide(replace(PROCESS, **called))
        assert refusal is not None
        assert refusal[0] == f"it is {what}"


@pytest.mark.parametrize(
    "name", ["cloud-sql-proxy", "session-manager-plugin", "cloudflared", "ngrok", "chisel", "tailscaled"]
)
def test_tunnels(name: str) -> None:
    """A tunnel holds the port for somebody at its other end."""
    refusal = decide(replace(PROCESS, name=name[:15], argv=(f"/usr/local/bin/{name}", "--port", "8002")))
    assert refusal == ("it forwards the port for a container or a tunnel", "kill 4711  # ends the tunnel")


def test_sessions_of_people() -> None:
    """What belongs to a terminal or to a desktop application, unless it is ours."""
    shell = replace(PROCESS, terminal="pts/3")
    refusal = decide(shell)
    assert refusal is not None
    assert refusal[0] == "it runs in a terminal (pts/3), and was not started from this project"
    assert decide(shell, policy=Policy(own=frozenset({shell.pid}))) is None
    scope = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-org.gnome.Maps-4711.scope\n"
    refusal = decide(replace(PROCESS, cgroup=scope))
    assert refusal is not None
    assert refusal[0].startswith("it belongs to the desktop application org.gnome.Maps, and was not")


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


@pytest.mark.slow
def test_names_are_names() -> None:
    """Data that a slip of the pen would make useless: no blanks around, no paths, every fix can be filled in."""
    for name in (*INFRASTRUCTURE, *FORWARDERS):
        assert name == name.strip()
        assert "/" not in name
    for fix in FORWARDERS.values():
        filled = fix.format(port=8002, pid=4711)
        assert "{" not in filled
        pasting.check(filled)


class Below:
    """A machine on which a process has these above it."""

    def __init__(self, process: Process, *above: Process) -> None:
        self._processes = {one.pid: one for one in (process, *above)}

    def process(self, pid: int) -> Process | None:
        return self._processes.get(pid)

    def folder(self, pid: int) -> str:
        return "/srv/shop"


@pytest.mark.parametrize(
    "name, pid, session, project, kept",
    [
        pytest.param("supervisord", 20, 20, "/srv/shop", True, id="its child"),
        pytest.param("supervisord", 1, 30, "/srv/shop", True, id="a child of PID 1"),
        pytest.param("supervisord", 1, 1, "/srv/shop", False, id="an orphan of this project that PID 1 has taken in"),
        pytest.param("supervisord", 1, 1, "/srv/other", True, id="PID 1's, and none of this project's"),
        pytest.param("supervise-daemo", 20, 20, "/srv/shop", True, id="a name that the kernel cuts"),
        pytest.param("bash", 20, 20, "/srv/shop", False, id="a shell"),
    ],
)
def test_what_a_supervisor_starts_again(name: str, pid: int, session: int, project: str, *, kept: bool) -> None:
    """Whoever keeps a program running is named; PID 1 of a container is the parent of orphans, too."""
    process = replace(PROCESS, parent=pid, session=30)
    above = replace(PROCESS, pid=pid, name=name, argv=(name,), parent=0, session=session)
    machine = cast("Machine", Below(process, above))
    refusal = decide(process, policy=Policy(project=project), machine=machine)
    assert (refusal is not None and "keeps it running" in refusal[0]) == kept


@pytest.mark.parametrize("own", [False, True], ids=["another", "own"])
def test_an_instance_under_a_debugger(own: bool) -> None:
    """One of this project's that hangs at a breakpoint is replaced; somebody else's session goes on."""
    process = replace(PROCESS, argv=("python3", "-m", "debugpy", "--listen", "5678", "run.py"))
    refusal = decide(process, policy=Policy(own=frozenset({PROCESS.pid}) if own else frozenset()))
    assert (refusal is None) == own
