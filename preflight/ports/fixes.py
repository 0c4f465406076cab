"""What a person could do about a port: a command to paste, or a sentence, never both in one.

A remark about a command stands behind it, as a shell's comment. No command contains a name that a process has given
itself.
"""

from pathlib import Path

from preflight import commands


def stop(pid: int, *, sudo: bool = False) -> str:
    """The command that ends a process."""
    return f"{'sudo ' if sudo else ''}kill {pid}"


def status(port: int, why: str) -> str:
    """The command that shows who holds a port."""
    return f"{commands.run_py('--port-status', '--port', str(port))}  # shows {why}"


def look(port: int) -> str:
    """The command that shows a holder that only root can see."""
    if Path("/proc/net/tcp").exists():
        command = f"sudo ss -Hltnp 'sport = :{port}'"
    else:
        command = f"sudo lsof -nP -iTCP:{port} -sTCP:LISTEN"
    return f"{command}  # shows who it is"


def socket_units(*, by_user: bool) -> str:
    """The command that shows which socket unit of systemd a port belongs to."""
    listed = f"systemctl {'--user ' if by_user else ''}list-sockets"
    return f"{listed}  # shows the socket unit: start its service, or stop the socket unit"


def another(port: int) -> str:
    """A sentence: serve on another port."""
    return f"choose another port: --port {port + 1 if 1024 <= port < 65535 else 8002}"
