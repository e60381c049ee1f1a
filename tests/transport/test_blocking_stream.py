"""What only the blocking stream has to get right: what it asks of the system, and no more."""

import socket

import pytest

from smtpkit.transport.blocking_stream import BlockingStream
from tests.streams import run


class Asked:
    """A socket that counts what it is asked."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.reads = 0

    def recv(self, size: int) -> bytes:
        self.reads += 1
        return self._real.recv(size)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


def test_one_read_for_each_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply costs one read, and a look where nothing has arrived none: no read ends in an exception."""
    ours, theirs = socket.socketpair()
    stream = BlockingStream(ours, peer="a peer", local_host="[127.0.0.1]")
    asked = Asked(ours)
    monkeypatch.setattr(stream, "_socket", asked)
    with theirs:
        for _ in range(10):
            assert stream.at_hand() is None
            theirs.send(b"250 ok\r\n")
            assert run(stream.receive()) == b"250 ok\r\n"
        assert asked.reads <= 11  # before the first nobody knows
        stream.abort()
