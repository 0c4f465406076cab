"""What a person could do about a port."""

from pathlib import Path


def look(port: int) -> str:
    """The command that shows a holder that only root can see."""
    if Path("/proc/net/tcp").exists():
        return f"sudo ss -Hltnp 'sport = :{port}'"
    return f"sudo lsof -nP -iTCP:{port} -sTCP:LISTEN"


def another(port: int) -> int:
    """Another port to try."""
    return port + 1 if 1024 <= port < 65535 else 8002
