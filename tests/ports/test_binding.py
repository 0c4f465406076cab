"""Addresses, what is in their way, and the bind that decides."""

import errno
import pickle
import socket

import pytest

from preflight.ports import Policy, PortUnavailable, here, listeners, plan, take
from preflight.ports.binding import bind, listen, resolve
from preflight.ports.portable import Portable
from preflight.ports.sockets import Endpoint
from tests import pasting
from tests.waiting import PATIENCE

V4_WILDCARD, V6_WILDCARD = bytes(4), bytes(16)
LOOPBACK = bytes([127, 0, 0, 1])


def hold(host: str, port: int) -> socket.socket:
    """A socket that listens there, as the server would."""
    return listen(resolve(host, port), here())


def test_port_unavailable_is_an_os_error_in_one_line() -> None:
    """The message alone, the reason as errno, the fix beside it, also after a pickle's journey."""
    error = PortUnavailable(errno.EADDRINUSE, "port 8002 is in use", "choose another")
    assert isinstance(error, OSError)
    assert (str(error), error.errno, error.fix) == ("port 8002 is in use", errno.EADDRINUSE, "choose another")
    assert str(pickle.loads(pickle.dumps(error))) == "port 8002 is in use"


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
    assert resolve(ours, 8002).overlaps(Endpoint(theirs, 8002, v6only=v6only)) is overlap


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
        with socket.create_connection(("127.0.0.1", dual.getsockname()[1]), timeout=PATIENCE):
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
        pasting.check(str(outcome.fix))
    if "not an address" not in problem:
        with pytest.raises(PortUnavailable):
            listeners(host, port)


def test_where_reuseaddr_may_bind_beside_a_listener() -> None:
    """The way of BSD and macOS: a listener in the way is seen, TIME_WAIT alone is not in the way."""
    machine = Portable()
    with hold("127.0.0.1", 0) as held:
        target = resolve("127.0.0.1", held.getsockname()[1])
        with pytest.raises(PortUnavailable, match="in use"):
            bind(target, machine, exclusive=False)
        with socket.create_connection(("127.0.0.1", target.port)) as client:
            held.accept()[0].close()
            client.recv(1)
    bind(target, machine, exclusive=False).close()
