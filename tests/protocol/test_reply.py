"""Replies: what is one and what is not, their severity, and the reader under any split."""

import pickle

import pytest

from smtpkit.protocol.reply import (
    LONGEST_KNOWN,
    MOST_KNOWN,
    ROOMY,
    EnhancedStatus,
    MalformedReply,
    Reply,
    ReplyLimits,
    ReplyReader,
)
from tests.splits import octet_by_octet, splits


def read(pieces: list[bytes], limits: ReplyLimits = ROOMY) -> tuple[list[Reply], bool]:
    """All replies in these pieces, and whether octets are left."""
    reader, replies = ReplyReader(), []
    for piece in pieces:
        reader.feed(piece)
        while (reply := reader.next(limits)) is not None:
            replies.append(reply)
    return replies, reader.pending


WELL_FORMED: list[tuple[bytes, Reply]] = [
    (b"250 ok\r\n", Reply(250, ("ok",))),
    (b"250 ok\n", Reply(250, ("ok",))),
    (b"250\r\n", Reply(250, ("",))),
    (b"250 \r\n", Reply(250, ("",))),
    (b"250-\r\n250\r\n", Reply(250, ("", ""))),
    (b"250-mail.example\r\n250-SIZE 1\r\n250 HELP\r\n", Reply(250, ("mail.example", "SIZE 1", "HELP"))),
    (b"250-one\n250-two\r\n250 three\n", Reply(250, ("one", "two", "three"))),
    (b"250- a\r\n250  b\r\n", Reply(250, (" a", " b"))),
    (b"250-250 ok\r\n250 -\r\n", Reply(250, ("250 ok", "-"))),
    (b"354 go\r\n", Reply(354, ("go",))),
    (b"559 x\r\n", Reply(559, ("x",))),
    (b"200 x\r\n", Reply(200, ("x",))),
    (b"250 a\rb\r\n", Reply(250, ("a\rb",))),
    (b"250 \x00\x1b[31m\xff\r\n", Reply(250, ("\x00\x1b[31m\udcff",))),
    ("250 grüß\r\n".encode(), Reply(250, ("grüß",))),
]


@pytest.mark.parametrize(("octets", "reply"), WELL_FORMED, ids=lambda value: None)
def test_well_formed(octets: bytes, reply: Reply) -> None:
    """A reply is the same one, however it arrives and whatever arrives behind it."""
    for pieces in splits(octets):
        assert read(pieces) == ([reply], False)
    for trailing in (b"2", b"250-", b"250 cut", b"250-whole\r\n"):
        assert read([octets + trailing]) == ([reply], True)
        assert read(octet_by_octet(octets + trailing)) == ([reply], True)
    assert read([octets * 3]) == ([reply] * 3, False)


MALFORMED = [
    b"\r\n",
    b"\n",
    b" 250 ok\r\n",
    b"25\r\n",
    b"25 ok\r\n",
    b"2500 ok\r\n",
    b"-25 ok\r\n",
    b"2_5 ok\r\n",
    b"25O ok\r\n",
    b"099 ok\r\n",
    b"150 ok\r\n",
    b"260 ok\r\n",
    b"600 ok\r\n",
    b"999 ok\r\n",
    b"250\tok\r\n",
    b"250+ok\r\n",
    b"250ok\r\n",
    b"250 ok\r\r\n",
    b"\xef\xbb\xbf250 ok\r\n",
    "\u0662\u0665\u0660 ok\r\n".encode(),
    b"HTTP/1.1 400 Bad Request\r\n",
    b"\x16\x03\x01\x02\n",
    b"250-one\r\n251 two\r\n",
    b"250-one\r\n550 two\r\n",
    b"250-one\r\ntwo\r\n",
    b"250-one\r\n\r\n",
]


@pytest.mark.parametrize("octets", MALFORMED)
def test_malformed(octets: bytes) -> None:
    """What cannot be a reply is never taken for one, however it arrives and whatever follows."""
    for pieces in (*splits(octets), [octets + b"250 ok\r\n"], [b"220 hi\r\n" + octets]):
        with pytest.raises(MalformedReply):
            read(pieces)


SMALL = ReplyLimits(line=10, lines=3, octets=30)

OVER = {
    "an endless line": b"250 789012",
    "a long line": b"250 7890\r\n250 789012\r\n",
    "endless lines": b"250-a\r\n" * 4,
    "too many octets": b"250-78901\r\n" * 3,
}


@pytest.mark.parametrize("octets", OVER.values(), ids=OVER)
def test_limits(octets: bytes) -> None:
    """A reply over a limit is refused as soon as it is, also where no line end ever comes."""
    octets += b"x"
    for pieces in splits(octets):
        with pytest.raises(MalformedReply):
            read(pieces, SMALL)


def test_limits_are_for_one_reply() -> None:
    """Replies up to the limits are taken, any number of them; what was read before counts for nothing."""
    largest = b"250-7890\r\n250-456\r\n250 456\r\n"
    assert len(read([largest * 100], SMALL)[0]) == 100
    assert len(read(octet_by_octet(largest * 3), SMALL)[0]) == 3


def test_what_is_malformed_stays_so() -> None:
    """A malformed reply is raised each time the next one is asked for: no other is taken for it."""
    reader = ReplyReader()
    reader.feed(b"250 ok\r\nwhat?\r\n250 ok\r\n")
    assert reader.next() == Reply(250, ("ok",))
    for _ in range(3):
        with pytest.raises(MalformedReply, match="what"):
            reader.next()


def test_the_longest_line_of_a_reader() -> None:
    """A reader may take shorter lines than the limits of a command allow, whole ones and those that have no end yet."""
    for octets in (b"250 456789\r\n", b"250 4567890"):
        reader = ReplyReader(10)
        reader.feed(octets)
        with pytest.raises(MalformedReply, match="longer than 10 octets"):
            reader.next()


def test_pending() -> None:
    """The reader says whether octets are left of which no reply was made, lines of a reply under way among them."""
    reader = ReplyReader()
    assert not reader.pending
    reader.feed(b"250-a\r\n")
    assert reader.pending
    assert reader.next() is None
    assert reader.pending
    reader.feed(b"250 b\r\n")
    assert reader.next() == Reply(250, ("a", "b"))
    assert not reader.pending


SEVERITIES = [
    (220, "positive"),
    (251, "positive"),
    (354, "intermediate"),
    (421, "transient"),
    (450, "transient"),
    (500, "permanent"),
    (559, "permanent"),
]


@pytest.mark.parametrize(("code", "severity"), SEVERITIES)
def test_severity(code: int, severity: str) -> None:
    """The first digit alone says what a reply means; only 421 closes."""
    reply = Reply(code)
    kinds = ("positive", "intermediate", "transient", "permanent")
    assert [kind for kind in kinds if getattr(reply, kind)] == [severity]
    assert reply.negative == (severity in {"transient", "permanent"})
    assert reply.closing == (code == 421)


ENHANCED = [
    ("250 2.1.0 ok", (2, 1, 0)),
    ("550 5.7.999", (5, 7, 999)),
    ("450 4.2.2\tfull", (4, 2, 2)),
    ("550 2.1.0 another class", None),
    ("354 3.0.0 there is no such class", None),
    ("550 5.7.1234 x", None),
    ("550 5.7 x", None),
    ("550 x 5.7.1", None),
    ("550 5.7.1x", None),
    ("550 5.\u0667.1 x", None),
    ("550", None),
]


@pytest.mark.parametrize(("text", "enhanced"), ENHANCED)
def test_enhanced_status(text: str, enhanced: tuple[int, int, int] | None) -> None:
    """An enhanced status code is taken where the text begins with one of the reply's class (RFC 2034 section 4)."""
    assert Reply(int(text[:3]), (text[4:],)).enhanced == enhanced


def test_shown() -> None:
    """A reply in a log is one line without control characters; its text stays as it was."""
    reply = Reply(550, ("5.1.1 no\x1b[2J\r250 ok", "\x9b\x85\u2028\udcff\x00"))
    assert str(reply) == r"550 5.1.1 no\x1b[2J\r250 ok / \x9b\x85\u2028\udcff\x00"
    assert len(str(reply).splitlines()) == 1
    assert reply.text == "5.1.1 no\x1b[2J\r250 ok\n\x9b\x85\u2028\udcff\x00"
    assert str(Reply(250)) == "250"
    assert str(EnhancedStatus(5, 1, 1)) == "5.1.1"


def test_reply_is_a_value() -> None:
    """Replies compare by what they say, can be keys, and pickle."""
    reply = Reply(250, ("a", "b"))
    assert {reply: 1}[Reply(250, ("a", "b"))] == 1
    assert pickle.loads(pickle.dumps(reply)) == reply


def test_a_line_read_before_is_looked_up() -> None:
    """The same short line gives the same reply; few are kept, long ones never, and none within several lines."""
    reader = ReplyReader()
    reader.feed(b"250 2.1.0 Ok\r\n" * 2 + b"250-one\r\n250 2.1.0 Ok\r\n" + b"250 %s\r\n" % (b"x" * LONGEST_KNOWN) * 2)
    first, again, several, long, other = (reader.next() for _ in range(5))
    assert first is again
    assert several == Reply(250, ("one", "2.1.0 Ok"))
    assert long == other
    assert long is not other
    for number in range(100):
        reader.feed(b"250 queued as %d\r\n" % number)
        assert reader.next() == Reply(250, (f"queued as {number}",))
        assert len(reader._known) <= MOST_KNOWN


def test_readers_share_what_they_know() -> None:
    """What one reader has read, the next one looks up: the sessions of a client hear the same few lines."""
    known: dict[bytes, Reply] = {}
    said = []
    for _ in range(2):
        reader = ReplyReader(known=known)
        reader.feed(b"220 example.org\r\n")
        said.append(reader.next())
    assert said[0] is said[1]


HINTS = [
    (450, "4.2.0 <bob@example.org>: Recipient address rejected: Greylisted", "greylisted"),
    (450, "4.7.1 try again in 300 seconds", "greylisted"),
    (451, "4.7.1 Greylisting in action, please come back later", "greylisted"),
    (451, "4.7.0 later", "greylisted"),
    (451, "Temporary failure, please try again later.", "greylisted"),
    (450, "4.2.1 mailbox full", "slower"),
    (451, "4.3.0 a disk is full", "slower"),
    (451, "4.7.5 no certificate", "slower"),
    (452, "4.3.1 a disk is full", "slower"),
    (452, "slow down", "slower"),
    (421, "4.7.0 too many connections", "slower"),
    (421, "closing", "slower"),
    (450, "4.2.2 too many mails", None),
    (452, "4.2.2 over quota", None),
    (452, "4.5.3 too many recipients", None),
    (454, "4.7.0 too many connections", None),
    (550, "5.7.1 greylisted for good, slow down", None),
    (250, "2.0.0 greylisted", None),
]


@pytest.mark.parametrize(("code", "text", "hint"), HINTS)
def test_hint(code: int, text: str, hint: str | None) -> None:
    """What may be greylisting, and what asks for a slower pace, is told by the codes, and never by the words."""
    assert Reply(code, (text,)).hint == hint
