"""The channel where replies come that nobody asked for, too early, or with the end of everything."""

import gc
import sys
from asyncio import CancelledError
from collections.abc import Callable, Iterator

import pytest

from smtpkit.channel import Channel, Started
from smtpkit.errors import (
    ChannelLost,
    DataRefused,
    InDoubt,
    InvalidMail,
    Outcome,
    ProtocolViolation,
    ServiceClosing,
    SMTPError,
)
from smtpkit.options import Limits
from smtpkit.protocol import procedures
from smtpkit.protocol.envelope import Envelope
from smtpkit.protocol.extension import Extensions
from smtpkit.protocol.mail_data import MailData
from smtpkit.protocol.reply import ROOMY, Reply
from smtpkit.protocol.steps import Procedure
from tests.streams import MemoryStream, run

ENVELOPE = Envelope.of("a@example.com", ["b@example.com"])
OFFERED = Extensions.of(Reply(250, ("here", "PIPELINING", "CHUNKING", "8BITMIME")))
DATA = MailData.of(b"Subject: x\r\n\r\nHello\r\n")
PLAN = procedures.plan(ENVELOPE, DATA, OFFERED)
PIECES = (b"x" * 70_000 + b"\r\n",) * 3


def of_unknown_size() -> Procedure[Outcome]:
    """A transaction whose mail data goes out in a BDAT for each piece."""
    return procedures.transaction(procedures.plan(ENVELOPE, MailData(lambda: PIECES), OFFERED, chunked=True))


def perform(peer: Callable[[bytes], bytes]) -> tuple[SMTPError, Channel]:
    """The error of that transaction, and the channel it left behind."""
    channel = Channel(MemoryStream(peer), Limits())
    outcome = run(channel.perform(of_unknown_size()))
    assert outcome.error is not None
    return outcome.error, channel


def test_a_421_that_nobody_asked_for_is_not_an_acceptance() -> None:
    """421 behind the reply to RCPT, before the first BDAT was said, ends the mail: nothing of it went out."""
    error, channel = perform(lambda said: b"250 ok\r\n250 ok\r\n421 4.3.2 down\r\n" if b"MAIL" in said else b"")
    assert isinstance(error, ServiceClosing)
    assert error.outcome is not None
    assert not error.outcome.accepted
    assert channel.broken


def test_a_second_reply_to_a_chunk_is_not_the_one_to_the_last() -> None:
    """A server that answers each BDAT twice breaks the protocol; its spare reply accepts no mail."""
    error, _ = perform(lambda said: b"250 ok\r\n250 ok\r\n")
    assert isinstance(error, ProtocolViolation)


def test_a_chunk_refused_before_a_write_failed_is_the_verdict() -> None:
    """The refusal of a BDAT that is read after the write of the next one failed is not lost with the connection."""
    replies = {b"MAIL": b"250 ok\r\n250 ok\r\n", b"BDAT": b""}

    class Late(MemoryStream):
        """Says the refusal where the write fails."""

        async def send(self, octets: bytes | bytearray | memoryview) -> None:
            try:
                await super().send(octets)
            except ChannelLost:
                self._arriving.append((self.clock, b"552 5.2.2 full\r\n"))
                raise

    stream = Late(lambda said: replies.get(said[:4], b""), fail_after=100_000)
    assert isinstance(run(Channel(stream, Limits()).perform(of_unknown_size())).error, DataRefused)


def test_a_reply_that_has_arrived_is_heard_before_a_cancellation() -> None:
    """Cancelled in the moment in which the final reply arrives, a mail is accepted, not in doubt."""

    class Cancelled(MemoryStream):
        """Cancels the wait for the final reply, which arrives meanwhile."""

        async def receive(self) -> bytes:
            if self.sent.endswith(b"\r\n.\r\n"):
                raise CancelledError
            return await super().receive()

    replies = {b"MAIL": b"250 ok\r\n250 ok\r\n354 go\r\n"}
    stream = Cancelled(lambda said: b"250 2.0.0 ok\r\n" if said.endswith(b".\r\n") else replies.get(said[:4], b""))
    channel = Channel(stream, Limits())
    plan = procedures.plan(ENVELOPE, MailData.of(b"Subject: x\r\n\r\nHello\r\n"), OFFERED)
    started = Started(procedures.transaction(plan), None)

    async def send() -> None:
        await channel.start(started)
        await channel.finish(started)

    with pytest.raises(CancelledError):
        run(send())
    assert started.error is None
    assert started.result.accepted == ("b@example.com",)
    assert channel.broken


def test_an_error_of_the_library_in_a_source_is_a_fault_of_the_source() -> None:
    """A source that fails by InDoubt, from a mail of its own, does not make this mail in doubt."""

    def source() -> Iterator[bytes]:
        yield b"Subject: x\r\n"
        raise InDoubt("another mail")

    replies = {b"MAIL": b"250 ok\r\n250 ok\r\n354 go\r\n"}
    channel = Channel(MemoryStream(lambda said: replies.get(said[:4], b"")), Limits())
    plan = procedures.plan(ENVELOPE, MailData(source), OFFERED)
    outcome = run(channel.perform(procedures.transaction(plan)))
    assert isinstance(outcome.error, InvalidMail)
    assert not outcome.in_doubt


class Counting(MemoryStream):
    """Counts writes, reads, and looks at what has arrived."""

    writes = reads = looks = 0

    async def send(self, octets: bytes | bytearray | memoryview) -> None:
        self.writes += 1
        await super().send(octets)

    async def receive(self) -> bytes:
        self.reads += 1
        return await super().receive()

    def at_hand(self) -> bytes | None:
        self.looks += 1
        return super().at_hand()


@pytest.mark.parametrize(("chunked", "most"), [(False, (2, 2, 4)), (True, (1, 1, 2))], ids=["data", "bdat"])
def test_what_a_small_mail_costs(*, chunked: bool, most: tuple[int, int, int]) -> None:
    """By DATA two writes and two reads, by BDAT one of each; the stream is looked at once before each write."""
    replies = {b"MAIL": b"250 ok\r\n250 ok\r\n" + (b"250 ok\r\n" if chunked else b"354 go\r\n")}
    stream = Counting(lambda said: replies.get(said[:4], b"250 ok\r\n"))
    plan = procedures.plan(ENVELOPE, MailData.of(b"Subject: x\r\n\r\nHello\r\n"), OFFERED, chunked=chunked)
    outcome = run(Channel(stream, Limits()).perform(procedures.transaction(plan)))
    assert outcome.accepted
    assert (stream.writes, stream.reads, stream.looks) == most  # in memory a read is a look too


def test_what_a_mail_leaves_behind() -> None:
    """A channel that has sent a thousand mails holds no more than after ten."""
    replies = {b"MAIL": b"250 ok\r\n250 ok\r\n354 go\r\n"}
    stream = MemoryStream(lambda said: replies.get(said[:4], b"250 ok\r\n"))
    channel = Channel(stream, Limits())
    plan = procedures.plan(ENVELOPE, MailData.of(b"Subject: x\r\n\r\nHello\r\n"), OFFERED)
    blocks = []
    for number in range(1010):
        assert run(channel.perform(procedures.transaction(plan))).accepted
        stream.sent.clear()
        if number in (10, 1009):
            gc.collect()
            blocks.append(sys.getallocatedblocks())
    assert blocks[1] - blocks[0] < 100


def test_a_421_ends_what_is_heard() -> None:
    """A server that leaves by a 421 for each command of a group has said one thing: that it leaves."""
    channel = Channel(MemoryStream(lambda said: b"421 4.3.2 down\r\n" * said.count(b"\n")), Limits())
    started = Started(procedures.transaction(PLAN), None)

    async def send() -> Outcome:
        await channel.start(started)
        return await channel.finish(started)

    with pytest.raises(ServiceClosing):
        run(send())
    assert started.heard == 1


def test_a_refusal_before_a_malformed_reply_is_known() -> None:
    """What was said within the grammar is heard, though what comes behind it in the same segment is not."""
    stream = MemoryStream(lambda _: b"250 ok\r\n550 5.1.1 nobody\r\nwhat?\r\n")
    channel = Channel(stream, Limits())
    plan = procedures.plan(Envelope.of("a@example.com", ["b@example.com", "c@example.com"]), DATA, OFFERED)
    outcome = run(channel.perform(procedures.transaction(plan)))
    assert isinstance(outcome.error, ProtocolViolation)
    assert list(outcome.refused) == ["b@example.com"]
    assert channel.broken


def test_a_group_is_heard_in_one_step() -> None:
    """However many recipients there are, their replies that arrive together go to the procedure in one list."""
    names = [f"r{number}@example.com" for number in range(100)]
    plan = procedures.plan(Envelope.of("a@example.com", names), DATA, OFFERED)
    procedure, steps = procedures.transaction(plan), 0

    def counted() -> Procedure[Outcome]:
        nonlocal steps
        value = None
        while True:
            try:
                step = procedure.send(value)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            steps += 1
            value = yield step

    replies = b"250 ok\r\n" * 101 + b"354 go\r\n"
    stream = MemoryStream(lambda said: replies if b"MAIL" in said else b"250 ok\r\n")
    assert len(run(Channel(stream, Limits()).perform(counted())).accepted) == 100
    assert steps <= 6  # Say, Hear, Transfer, Pass, Hear


def test_last_words_have_an_end() -> None:
    """A server that goes on for ever after 421 is heard no longer than a reply may be, and has not closed."""

    class Endless(MemoryStream):
        heard = 0

        async def receive(self) -> bytes:
            self.heard += 65_536
            return b"250 ok\r\n" * 8192

    stream = Endless(lambda _: b"")
    assert not run(Channel(stream, Limits())._hear_last_words())
    assert stream.heard <= ROOMY.octets + 65_536
