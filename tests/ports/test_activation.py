"""What a service manager passes: the variables, the descriptors, and the address that the settings name."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from preflight.ports import activation
from preflight.ports.activation import Inherited, Passed, UnusableSocket

Pass = Callable[..., Passed]
FIRST = 400  # in this process, descriptors from 3 on are somebody's


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pass]:
    """Pass these sockets or files to this process, and take what was passed."""
    monkeypatch.setattr(activation, "FIRST", FIRST)
    made: list[int] = []

    def passed(*given: socket.socket | int, **variables: str) -> Passed:
        for at, one in enumerate(given):
            made.append(os.dup2(one if isinstance(one, int) else one.fileno(), FIRST + at))
        environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(given)), "PATH": "/bin", **variables}
        taken = activation.take(environ)
        assert environ == {"PATH": "/bin"}  # whatever it said: nobody else believes it
        return taken

    yield passed
    for descriptor in made:
        try:
            os.close(descriptor)
        except OSError:
            pass  # the test has


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def refusal(passed: Passed, host: str = "127.0.0.1", port: int = 8002, path: Path | None = None) -> str:
    """Why what was passed is not served: one line."""
    with pytest.raises(UnusableSocket) as error:
        activation.listener(passed, host, port, path)
    assert "\n" not in str(error.value)
    return str(error.value)


def served(passed: Passed, host: str, port: int, path: Path | None = None) -> Inherited:
    found = activation.listener(passed, host, port, path)
    assert found is not None
    return found


def test_nothing_was_passed(tcp: socket.socket) -> None:
    """Without the variables, and with those that are for another process: nothing of them is left."""
    for environ in ({}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "x", "LISTEN_FDS": "1"}, {"LISTEN_PID": str(os.getpid())}):
        taken = activation.take(environ)
        assert taken == Passed()
        assert not environ
        assert activation.listener(taken, "127.0.0.1", 8002, None) is None
    others = {"LISTEN_PID": "1", "LISTEN_PIDFDID": "7", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a.socket"}
    assert activation.take(others) == Passed()
    assert not others


def test_what_was_passed_to_the_parent_is_noticed() -> None:
    """A shell or ``uv run`` got the socket, and has started this process instead of becoming it."""
    assert activation.take({"LISTEN_PID": str(os.getppid()), "LISTEN_FDS": "1"}) == Passed(missed=True)


@pytest.mark.parametrize("count", ["one", "-1", "1.5"])
def test_a_count_that_is_none(passes: Pass, count: str) -> None:
    """It is said, and nothing is served on a guess."""
    assert count in refusal(passes(LISTEN_FDS=count))


def test_a_descriptor_that_is_not_open(passes: Pass, tcp: socket.socket) -> None:
    """More are announced than there are."""
    assert f"descriptor {FIRST + 1} is not open" in refusal(passes(tcp, LISTEN_FDS="2"))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_socket_of_the_address(passes: Pass, host: str) -> None:
    """It is served under the name of its unit, and no program that this process runs inherits it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        found = served(passes(listener, LISTEN_FDNAMES="shop.socket"), host, listener.getsockname()[1])
        assert found.activated_by == "shop.socket"
        assert found.socket.getsockname() == listener.getsockname()
        assert not found.socket.get_inheritable()
        found.socket.detach()


@pytest.mark.parametrize("names", ["", "unknown"])
def test_a_socket_without_a_name(passes: Pass, tcp: socket.socket, names: str) -> None:
    """Older managers and unnamed descriptors say nothing of a unit."""
    found = served(passes(tcp, LISTEN_FDNAMES=names), "localhost", tcp.getsockname()[1])
    assert found.activated_by == "systemd"
    found.socket.detach()


def test_every_address_of_both_families(passes: Pass) -> None:
    """``ListenStream=8002`` is [::], as it is with host ``::``; the settings' 0.0.0.0 is another address."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        served(passes(listener), "::", port).socket.detach()
        said = refusal(passes(listener), "0.0.0.0", port)
    assert said == (
        f"systemd passes [::]:{port}, but the settings name 0.0.0.0:{port}: set PREFLIGHT_HOST=:: and"
        f" PREFLIGHT_PORT={port}, or write ListenStream=0.0.0.0:{port} in the socket unit"
    )


def test_another_port(passes: Pass, tcp: socket.socket) -> None:
    """Both addresses are named, the unit, and what to change on either side."""
    port = tcp.getsockname()[1]
    said = refusal(passes(tcp, LISTEN_FDNAMES="shop.socket"), port=8002)
    assert said == (
        f"systemd passes 127.0.0.1:{port} (shop.socket), but the settings name 127.0.0.1:8002: set"
        f" PREFLIGHT_HOST=127.0.0.1 and PREFLIGHT_PORT={port}, or write ListenStream=127.0.0.1:8002 in the socket unit"
    )


def test_a_host_that_does_not_resolve(passes: Pass, tcp: socket.socket) -> None:
    """Nobody can say whether that is the socket's address."""
    assert "nosuch.invalid" in refusal(passes(tcp), "nosuch.invalid", tcp.getsockname()[1])


def test_unix_sockets(passes: Pass, tmp_path: Path) -> None:
    """A path is the same however it is spelled; another one, and an abstract name, are not."""
    (tmp_path / "link").symlink_to(tmp_path)
    path = tmp_path / "shop.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as abstract:
        listener.bind(str(path))
        listener.listen()
        served(passes(listener), "127.0.0.1", 8002, tmp_path / "link" / "shop.sock").socket.detach()
        other = refusal(passes(listener), path=tmp_path / "other.sock")
        tcp = refusal(passes(listener))
        abstract.bind(f"\0preflight-test-{os.getpid()}")
        abstract.listen()
        nameless = refusal(passes(abstract), path=path)
    assert f"passes unix:{path}, but the settings name unix:{tmp_path}/other.sock: set PREFLIGHT_UDS={path}" in other
    assert f"the settings name 127.0.0.1:8002: set PREFLIGHT_UDS={path}, or write ListenStream=127.0.0.1:8002" in tcp
    assert f"passes unix:@preflight-test-{os.getpid()}, but the settings name unix:{path}: write" in nameless


def test_a_tcp_socket_where_the_settings_name_a_path(passes: Pass, tcp: socket.socket, tmp_path: Path) -> None:
    """The path is set aside for host and port."""
    assert "without PREFLIGHT_UDS" in refusal(passes(tcp), path=tmp_path / "shop.sock")


def test_several_sockets(passes: Pass, tcp: socket.socket) -> None:
    """One address is served, and which of them is not guessed; all are named."""
    with socket.create_server(("127.0.0.1", 0)) as second:
        names = "shop.socket:admin.socket"
        ports = tcp.getsockname()[1], second.getsockname()[1]
        said = refusal(passes(tcp, second, LISTEN_FDNAMES=names), port=ports[0])
    assert f"2 sockets (127.0.0.1:{ports[0]} (shop.socket), 127.0.0.1:{ports[1]} (admin.socket))" in said
    assert "leave one ListenStream=" in said


def test_what_is_no_stream_socket_that_listens(passes: Pass, tmp_path: Path) -> None:
    """Datagrams, packets, a connection (``Accept=yes``), a FIFO, a file: each with the directive to change."""
    (tmp_path / "file").touch()
    file = os.open(tmp_path / "file", os.O_RDONLY)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as packets,
        socket.socket() as silent,
    ):
        datagrams.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        assert "ListenStream= instead of ListenDatagram=" in refusal(passes(datagrams))
        assert "ListenStream= instead of ListenSequentialPacket=" in refusal(passes(packets))
        assert "Accept=no" in refusal(passes(silent))
        assert "only a socket can be served" in refusal(passes(file))
    os.close(file)


def test_a_name_that_a_terminal_would_obey(passes: Pass, tcp: socket.socket) -> None:
    """Whatever a unit is called, the message is one printable line."""
    assert "\x1b" not in refusal(passes(tcp, LISTEN_FDNAMES="\x1b[31mred\n.socket"))
