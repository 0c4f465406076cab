"""The channel between launcher and children: real socket pairs, real descriptors, and what is no message."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from preflight.processes import channel
from preflight.processes.channel import Channel, ChannelError, Message
from tests.waiting import until


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """Two ends of one channel."""
    ours, theirs = Channel.pair()
    other = Channel(theirs)
    yield ours, other
    ours.close()
    other.close()


@pytest.fixture
def raw() -> Iterator[tuple[Channel, socket.socket]]:
    """A channel, and the bare socket at its other end."""
    ours, theirs = Channel.pair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_messages_in_order(ends: tuple[Channel, Channel]) -> None:
    """What is sent arrives, whole and in order, both ways."""
    one, two = ends
    one.send("first", text="ä\n\u2028", number=1, nothing=None, nested={"a": [1.5]})
    one.send("second")
    assert two.receive(5) == Message(
        "first", {"text": "ä\n\u2028", "number": 1, "nothing": None, "nested": {"a": [1.5]}}
    )
    assert two.receive(5) == Message("second")
    two.send("back")
    assert one.arrived() == [Message("back")]


def test_large_message(ends: tuple[Channel, Channel]) -> None:
    """A message larger than every buffer on the way arrives whole."""
    one, two = ends
    text = "x" * 3_000_000
    sender = threading.Thread(target=one.send, args=("large",), kwargs={"text": text})
    sender.start()
    message = two.receive(10)
    sender.join()
    assert message is not None
    assert message.data["text"] == text


def test_a_child_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps nobody waiting for ever; what it finds, should it read again, is the end."""
    monkeypatch.setattr(channel, "PATIENCE", 0.2)
    ours, theirs = Channel.pair()
    child = Channel(theirs)
    ours.send("first")
    begun = time.monotonic()
    with pytest.raises(ChannelError, match="does not read"):
        ours.send("large", text="x" * 3_000_000)
    assert time.monotonic() - begun >= 0.2
    with pytest.raises(OSError):
        ours.send("later")
    assert child.receive(5) == Message("first")
    assert child.receive(5) is None
    child.send("still heard")
    assert ours.receive(5) == Message("still heard")
    ours.close()
    child.close()


def test_an_offer_waits_for_nobody(ends: tuple[Channel, Channel]) -> None:
    """What is offered to somebody who does not read is left out, whole, and what comes through is in order."""
    one, two = ends
    offered = 0
    while one.offer("beat", number=offered):
        offered += 1
        assert offered < 1_000_000
    heard = []
    while two.waits():
        heard += two.arrived()
    assert [message.data["number"] for message in heard] == list(range(offered))
    assert one.offer("beat", number=-1)
    assert two.receive(5) == Message("beat", {"number": -1})


def test_an_offer_does_not_wait_for_another_sender(ends: tuple[Channel, Channel]) -> None:
    """While a thread sends something long to somebody who does not read, an offer is left out."""
    one, two = ends
    sender = threading.Thread(target=two.send, args=("large",), kwargs={"text": "x" * 3_000_000})
    sender.start()
    until(lambda: two._sending.locked() and one.waits(), "it sends")
    assert not two.offer("beat")
    message = one.receive(10)
    sender.join()
    assert message is not None
    assert message.kind == "large"


def test_a_descriptor_that_select_does_not_know() -> None:
    """A server has more than 1,023 descriptors, and its re-runs' channels come after them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(2048, hard)), hard))
    ours, theirs = Channel.pair()
    with theirs:
        high = Channel(socket.socket(fileno=fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, 1500)))
    assert not high.waits()
    ours.send("said")
    assert high.waits()
    assert high.arrived() == [Message("said")]
    ours.close()
    assert high.waits()  # the end
    assert high.arrived() == []
    assert not high.waits()
    high.close()


def test_several_threads(ends: tuple[Channel, Channel]) -> None:
    """Messages that several threads send at once do not mix."""
    one, two = ends

    def send(thread: int) -> None:
        for i in range(20):
            one.send("m", thread=thread, i=i, pad="p" * 5000)

    threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    received = [two.receive(10) for _ in range(80)]
    for thread in threads:
        thread.join()
    for n in range(4):
        assert [m.data["i"] for m in received if m and m.data["thread"] == n] == list(range(20))


def test_descriptors(ends: tuple[Channel, Channel]) -> None:
    """A descriptor arrives as a duplicate that works, is not inheritable, and belongs to its message."""
    one, two = ends
    reader, writer = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one.send("before")
        one.send("both", (writer, listener.fileno()), why="x")
        one.send("after")
        assert two.receive(5) == Message("before")
        message = two.receive(5)
        assert two.receive(5) == Message("after")
        assert message is not None
        assert message.kind == "both"
        got_writer, got_listener = message.descriptors
        assert got_writer not in (writer, listener.fileno())
        assert not os.get_inheritable(got_writer)
        assert fcntl.fcntl(got_writer, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        os.close(writer)
        os.write(got_writer, b"hello")
        os.close(got_writer)
        assert os.read(reader, 9) == b"hello"
        os.close(reader)
        address = listener.getsockname()
    # The passed listener holds the port although the first one is closed.
    with socket.socket(fileno=got_listener) as passed, socket.create_connection(address, 5):
        connection, _ = passed.accept()
        connection.close()


def test_descriptors_nobody_took(ends: tuple[Channel, Channel]) -> None:
    """Descriptors of a message that was never completed are closed with the channel."""
    one, two = ends
    reader, writer = os.pipe()
    socket.send_fds(one._socket, [b"{"], [writer])
    os.close(writer)
    assert two.arrived() == []
    two.close()
    assert os.read(reader, 1) == b""  # the last writer is gone
    os.close(reader)


def given(sock: socket.socket, data: bytes, count: int) -> int:
    """Send the data with so many descriptors of one pipe; returns its reading end, at its end when all are closed."""
    reader, writer = os.pipe()
    socket.send_fds(sock, [data], [writer] * count)
    os.close(writer)
    os.set_blocking(reader, False)
    return reader


def all_closed(reader: int) -> bool:
    try:
        return os.read(reader, 1) == b""
    except BlockingIOError:
        return False


def line(kind: str, descriptors: object) -> bytes:
    return json.dumps({"kind": kind, "data": {}, "descriptors": descriptors}).encode() + b"\n"


@pytest.mark.parametrize("count", [1, 3, 16])
def test_descriptors_that_nothing_announces(raw: tuple[Channel, socket.socket], count: int) -> None:
    """They are closed when their message is there; the next ones belong to the next message."""
    ours, theirs = raw
    reader = given(theirs, line("k", 0), count)
    assert ours.arrived() == [Message("k")]
    assert all_closed(reader)
    os.close(reader)
    reader = given(theirs, line("k", 1), 1)
    (message,) = ours.arrived()
    (descriptor,) = message.descriptors
    assert not all_closed(reader)
    os.close(descriptor)
    assert all_closed(reader)
    os.close(reader)


@pytest.mark.parametrize("announced", [0, 1, 17, 100, -1, 10**30, True, 1.0, "1", None, [1]], ids=repr)
def test_more_descriptors_than_there_is_room_for(raw: tuple[Channel, socket.socket], announced: object) -> None:
    """No number that is announced makes it take them."""
    ours, theirs = raw
    reader = given(theirs, line("k", announced), 100)
    with pytest.raises(ChannelError):
        ours.receive(5)
    assert all_closed(reader)
    os.close(reader)


@pytest.mark.parametrize("announced", [2, 17, -1, 10**30, "1", None, [1]], ids=repr)
def test_other_descriptors_than_announced(raw: tuple[Channel, socket.socket], announced: object) -> None:
    """An error, after which the channel's end closes them."""
    ours, theirs = raw
    reader = given(theirs, line("k", announced), 1)
    with pytest.raises(ChannelError):
        ours.receive(5)
    ours.close()
    assert all_closed(reader)
    os.close(reader)


@pytest.mark.parametrize("text", [b"no JSON\n", b'{"kind": 1, "data": {}, "descriptors": 1}\n'])
def test_descriptors_of_what_is_no_message(raw: tuple[Channel, socket.socket], text: bytes) -> None:
    """They end with the channel, and so do those of good messages before it that nobody took."""
    ours, theirs = raw
    reader = given(theirs, line("k", 1) + text, 1)
    with pytest.raises(ChannelError):
        ours.receive(5)
    assert not all_closed(reader)  # the good one can still be taken
    ours.close()
    assert all_closed(reader)
    os.close(reader)


def test_a_message_without_end_collects_none(raw: tuple[Channel, socket.socket]) -> None:
    """Byte by byte, each with a descriptor: there is an end to what is kept."""
    ours, theirs = raw
    readers = []
    for _ in range(16):
        readers.append(given(theirs, b"x", 1))
        assert ours.arrived() == []
    assert not any(map(all_closed, readers))
    readers.append(given(theirs, b"x", 1))
    with pytest.raises(ChannelError, match="more than 16 descriptors"):
        ours.arrived()
    assert all(map(all_closed, readers))
    for reader in readers:
        os.close(reader)


def test_a_channel_for_words_alone() -> None:
    """Whatever is announced and comes: it is closed at once, and messages go on coming."""
    ours, theirs = Channel.pair(descriptors=0)
    with theirs:
        for announced in (0, 1, 5):
            reader = given(theirs, line("k", announced), 1)
            assert ours.arrived() == [Message("k")]
            assert all_closed(reader)
            os.close(reader)
        reader = given(theirs, b"{", 16)
        assert ours.arrived() == []
        assert all_closed(reader)
        os.close(reader)
    ours.close()


def test_a_limit_of_its_own() -> None:
    """Who may say little is not listened to for longer, in one message or before a message's end."""
    for text in (b"x" * 1001, b"x" * 1001 + b"\n", line("k", 0) + b"x" * 1001):
        ours, theirs = socket.socketpair()
        with theirs:
            channel = Channel(ours, limit=1000)
            theirs.sendall(text)
            with pytest.raises(ChannelError, match="more than 1000 bytes"):
                channel.receive(5)
            channel.close()


def test_pieces(raw: tuple[Channel, socket.socket]) -> None:
    """A message that comes in pieces is a message when its end is there."""
    ours, theirs = raw
    line = json.dumps({"kind": "k", "data": {}, "descriptors": 0}).encode() + b"\n"
    theirs.sendall(line + line[:10])
    assert ours.arrived() == [Message("k")]
    theirs.sendall(line[10:-1])
    assert ours.arrived() == []
    theirs.sendall(b"\n")
    assert ours.arrived() == [Message("k")]


def test_closed(ends: tuple[Channel, Channel]) -> None:
    """A closed other end is None after its last message, and an OSError for whoever sends."""
    one, two = ends
    one.send("last")
    one.close()
    assert two.receive(5) == Message("last")
    before = two.closed
    assert two.receive(5) is None
    assert (before, two.closed) == (False, True)
    assert two.receive(5) is None
    with pytest.raises(OSError, match=r"[Bb]roken pipe"):
        two.send("nobody hears")


def test_closed_with_unread_messages(ends: tuple[Channel, Channel]) -> None:
    """An end that closes without having read (the system then says "reset") has closed like any other."""
    one, two = ends
    two.send("unread")
    one.close()
    assert two.arrived() == []
    assert two.closed


def test_timeout(ends: tuple[Channel, Channel]) -> None:
    """Waiting ends at the time-out."""
    with pytest.raises(TimeoutError):
        ends[0].receive(0.01)


@pytest.mark.parametrize(
    "line",
    [
        b"no JSON",
        b"[]",
        b"3",
        b"{}",
        b'{"kind": "k", "data": {}}',
        b'{"kind": 1, "data": {}, "descriptors": 0}',
        b'{"kind": "k", "data": [], "descriptors": 0}',
        b'{"kind": "k", "data": {}, "descriptors": 1}',
        b'{"kind": "k", "data": {}, "descriptors": "x"}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
    ids=[
        "text",
        "list",
        "number",
        "empty",
        "no count",
        "kind",
        "data",
        "descriptor missing",
        "count",
        "bytes",
        "deep",
    ],
)
def test_no_message(raw: tuple[Channel, socket.socket], line: bytes) -> None:
    """What is no message is an error, and its content is not repeated."""
    ours, theirs = raw
    sender = threading.Thread(target=theirs.sendall, args=(line + b"\n",))
    sender.start()
    with pytest.raises(ChannelError, match=r"^something that is not a message$"):
        ours.receive(5)
    sender.join()


def test_endless_message(raw: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    """A message without an end is an error before it has filled the memory."""
    monkeypatch.setattr(channel, "LIMIT", 1000)
    ours, theirs = raw
    theirs.sendall(b"x" * 2000)
    with pytest.raises(ChannelError, match="more than 1000 bytes"):
        ours.receive(5)


def test_selectable(ends: tuple[Channel, Channel]) -> None:
    """A channel can be selected on."""
    import select

    one, two = ends
    assert select.select([two], [], [], 0)[0] == []
    one.send("x")
    assert select.select([two], [], [], 5)[0] == [two]
