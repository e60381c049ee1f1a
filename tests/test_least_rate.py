"""Octets per second: those of each session, and the least that a server has to take of mail data."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import pytest

from smtpkit import Client, SyncClient, TimedOut, UsageError, channel
from smtpkit.channel import GRACE
from smtpkit.options import Options
from smtpkit.protocol.mail_data import MailData
from smtpkit.testing import Script
from smtpkit.testing.dialogue import Dialogue
from tests.memory import Mail, Talk
from tests.memory import mail as prepared
from tests.peers import peer, shrink
from tests.streams import MemoryStream

LINE = b"x" * 62 + b"\r\n"
LARGE = b"Subject: x\r\n\r\n" + LINE * 40_000  # 2.5 MB


class Slow(MemoryStream):
    """Takes so many octets a second."""

    takes = inf

    async def send(self, octets: bytes | bytearray | memoryview) -> None:
        until = self.clock + len(octets) / self.takes
        if self.deadline is not None and until > self.deadline:
            self._out_of_time()
        self.clock = until
        await super().send(octets)


def opened(options: Any, takes: float = inf) -> Talk:
    """An open session with a server that takes so many octets a second."""
    talk = Talk(Script(), options)
    talk.dialogue = Dialogue(Script())
    talk.stream = stream = Slow(talk.dialogue)
    talk.open()
    stream.takes = takes
    return talk


@pytest.mark.parametrize("chunking", ["never", "always"])
@pytest.mark.parametrize(("least", "stands"), [(9_000, True), (12_000, False)])
def test_least_rate(chunking: str, least: float, *, stands: bool) -> None:
    """A server that takes fewer octets a second than it must is given up, although each block is taken in time.

    That is found when the grace is used up, and the mail is certainly not delivered.
    """
    talk = opened({"least_rate": least, "chunking": chunking}, takes=10_000)
    begun = talk.stream.clock
    outcome = talk.send(prepared(LARGE))
    if stands:
        assert outcome.accepted
        return
    error = outcome.error
    assert isinstance(error, TimedOut)
    assert (error.limit, error.transient, str(error)) == ("least_rate", True, "the least_rate limit ran out")
    assert not outcome.in_doubt
    assert not outcome.accepted
    assert not talk.received
    # After t seconds it has taken 10,000 t octets, and it has GRACE and a 12,000th second for each of them.
    used_up = GRACE / (1 - 10_000 / 12_000)
    assert used_up <= talk.stream.clock - begun <= used_up + 6 * channel.UNTOUCHED / 10_000


def test_without_least_rate() -> None:
    """Where none is asked for a server may be as slow as it likes, block by block."""
    talk = opened({}, takes=channel.UNTOUCHED / 50)  # a block in fifty seconds
    assert talk.send(prepared(LARGE)).accepted
    assert talk.stream.clock > 1450


@pytest.mark.parametrize(("takes", "stands"), [(10_000, True), (7_000, False)])
def test_a_slow_source_is_not_the_server(takes: float, *, stands: bool) -> None:
    """What our own source keeps us waiting for is not counted, and gives a slow server no time either."""
    talk = opened({"least_rate": 9_000}, takes)

    def source() -> Iterator[bytes]:
        for start in range(0, len(LARGE), 65_536):
            talk.stream.clock += 100
            yield LARGE[start : start + 65_536]

    mail = prepared()
    outcome = talk.send(Mail(mail.envelope, MailData(source)))
    assert bool(outcome.accepted) is stands
    assert stands or isinstance(outcome.error, TimedOut)
    assert talk.stream.clock > 1500


def test_our_own_rate_is_not_the_server_s() -> None:
    """Mail data that goes out as slowly as it may is never below what it must be, also where both are the same."""
    talk = opened({"least_rate": 10_000, "rate": 10_000, "session_rate": 10_000}, takes=1e9)
    assert talk.send(prepared(LARGE)).accepted
    assert talk.stream.clock > 1250


def test_the_timeout_goes_first() -> None:
    """Where a block is not taken in time at all, that is the limit which is named."""
    error = opened({"least_rate": 1}, takes=100).send(prepared(LARGE)).error
    assert isinstance(error, TimedOut)
    assert error.limit == "timeout"


@pytest.mark.parametrize("name", ["rate", "session_rate"])
def test_more_than_is_let_out(name: str) -> None:
    """To demand more of a server than the client lets out is refused by name."""
    options: dict[str, Any] = {"least_rate": 1000, name: 999}
    with pytest.raises(UsageError, match=f"least_rate 1000 is more than {name} 999 lets out"):
        Options.of("smtp://h", **options)
    assert Options.of("smtp://h", **(options | {name: 1000})).least_rate == 1000


@contextmanager
def dripping() -> Iterator[str]:
    """The URL of a server that says what a server says before mail data, and then takes an octet now and then."""
    over = threading.Event()
    replies = {b"E": b"250 here\r\n", b"M": b"250 ok\r\n", b"R": b"250 ok\r\n", b"D": b"354 go on\r\n"}

    def behaviour(connection: socket.socket) -> None:
        shrink(connection)
        connection.sendall(b"220 here\r\n")
        for _ in replies:
            said = b""
            while not said.endswith(b"\n"):
                said += connection.recv(1)
            connection.sendall(replies[said[:1]])
        while not over.wait(0.02) and connection.recv(1):
            pass

    with peer(behaviour, small_buffers=True) as port:
        try:
            yield f"smtp://127.0.0.1:{port}"
        finally:
            over.set()


@pytest.mark.anyio
async def test_a_drip(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes an octet now and then does not keep a client waiting."""
    monkeypatch.setattr(channel, "GRACE", 0.3)
    with dripping() as url:
        async with Client(url, least_rate=1e7) as client:
            with pytest.raises(TimedOut) as caught:
                await client.send(LARGE, "ann@example.com", "bob@example.com")
    assert caught.value.limit == "least_rate"


def test_a_drip_blocking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a SyncClient."""
    monkeypatch.setattr(channel, "GRACE", 0.3)
    with dripping() as url, SyncClient(url, least_rate=1e7) as client, pytest.raises(TimedOut) as caught:
        client.send(LARGE, "ann@example.com", "bob@example.com")
    assert caught.value.limit == "least_rate"


@pytest.mark.parametrize(
    "options",
    [
        {"session_rate": 10_000},
        {"session_rate": 10_000, "rate": 30_000},
        {"session_rate": 30_000, "rate": 10_000},
        {"session_rate": 10_000, "rate": 10_000, "least_rate": 10_000},
    ],
)
def test_session_rate(options: Any) -> None:
    """By a clock that moves only when somebody waits, mail data keeps to the session's rate and to the client's."""
    talk = Talk(Script(), options)
    talk.open()
    mail = prepared(b"Subject: x\r\n\r\n" + LINE * 312)
    begun = talk.stream.clock
    for _ in range(5):
        assert talk.send(mail).accepted
    assert talk.stream.clock - begun == pytest.approx(5 * mail.mail_data.size / 10_000, rel=0.05)
