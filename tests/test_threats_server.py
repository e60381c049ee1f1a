"""What a broken or malicious server can do, row by row (M1-M20): no false yes, no false no, no memory, no waiting."""

import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Event
from typing import Any

import anyio
import pytest

from smtpkit import Client, SyncClient
from smtpkit.errors import (
    DataRefused,
    InDoubt,
    NotSupported,
    ProtocolViolation,
    RecipientsRefused,
    Refused,
    SenderRefused,
    ServiceClosing,
    SMTPError,
    TimedOut,
)
from smtpkit.protocol.extension import LONGEST_ARGUMENT, MOST_KEYWORDS
from smtpkit.protocol.mail_data import MailData
from smtpkit.testing import Fault, Script, Server
from tests.hostile import OPEN, STAGES, Altered, Endless, agrees, altered, at_stage, open_session
from tests.memory import FORMS, MAIL, Mail, Talk, mail, tried
from tests.peers import peer
from tests.streams import MemoryStream, run

BIG = b"x" * 78 + b"\r\n"
BOB = "bob@example.com"
CY = "cy@example.com"
every_stage = pytest.mark.parametrize("stage", STAGES)


def failure(script: Script, options: Any = None) -> tuple[Talk, SMTPError]:
    """The error that a mail ends with, and the talk; the verdict agrees with the server's record."""
    talk = Talk(script, options)
    try:
        talk.open()
    except SMTPError as error:
        agrees(talk, None)
        return talk, error
    outcome = talk.send()
    agrees(talk, outcome)
    assert outcome.error is not None
    return talk, outcome.error


def is_violation(error: SMTPError) -> bool:
    """Is it a violation, or a mail in doubt because of one?"""
    return isinstance(error.__cause__ if isinstance(error, InDoubt) else error, ProtocolViolation)


@pytest.mark.parametrize("line", [b"220-x\r\n", b"220-" + b"x" * 1000 + b"\r\n"], ids=["short", "long"])
def test_m1_endless_continuation_lines(line: bytes) -> None:
    """A reply that goes on and on is refused after 512 lines or 64 KiB, and no more than that was taken in."""
    stream = Endless(line * 8)
    with pytest.raises(ProtocolViolation, match=r"512 lines|65536 octets"):
        open_session(stream)
    assert stream.received <= 65_536 + len(line) * 8
    assert stream.closed
    assert not stream.sent


@every_stage
def test_m1_endless_reply_at_every_stage(stage: str) -> None:
    """At no stage is a reply of too many lines taken for an answer."""
    code = {"greeting": "220", "DATA": "354"}.get(stage, "250")
    talk, error = failure(at_stage(stage, f"{code}-x\r\n".encode() * 2000 + f"{code} x\r\n".encode()))
    assert is_violation(error)
    assert talk.stream.closed


def test_m2_endless_line() -> None:
    """A line that does not end is refused after 4096 octets."""
    stream = Endless(b"220 " + b"x" * 60)
    with pytest.raises(ProtocolViolation, match="4096 octets"):
        open_session(stream)
    assert stream.received <= 4096 + 64


def test_m2_endless_line_in_ehlo() -> None:
    """The line of an EHLO reply has a limit too."""
    stream = Endless(b"250-" + b"x" * 60, greeting=b"220 here\r\n")
    with pytest.raises(ProtocolViolation):
        open_session(stream)
    assert stream.received <= 131_072 + 64


@pytest.mark.parametrize(
    ("stage", "limit"),
    [("greeting", "connect"), ("EHLO", "timeout"), ("MAIL", "timeout"), ("RCPT", "timeout"), ("END", "final")],
)
def test_m3_drip(stage: str, limit: str) -> None:
    """A reply of which an octet comes each half second ends at its limit: an octet extends nothing."""
    code = "220" if stage == "greeting" else "250"
    script = at_stage(stage, f"{code} {'x' * 3000}", drip=0.5, extensions=("PIPELINING",))
    talk = Talk(script, {"connect": 500.0, "timeout": 100.0, "final": 300.0, "hello": "c.example"})
    begun = talk.stream.clock
    error: BaseException | None
    try:
        talk.open()
        begun = talk.stream.clock
        error = talk.send().error
    except TimedOut as caught:
        error = caught
    ended = error.__cause__ if isinstance(error, InDoubt) else error
    assert isinstance(ended, TimedOut)
    assert ended.limit == limit
    assert isinstance(error, InDoubt) == (stage == "END")
    earlier = 200.0  # the short replies before it drip too
    assert talk.stream.clock - begun <= getattr(talk.options.limits, limit) + earlier


@pytest.mark.parametrize("keyword", ["X", "X{}", "X" + "y" * 900 + "{}"], ids=["same", "other", "long"])
def test_m4_endless_keywords(keyword: str) -> None:
    """An EHLO reply without end is refused after 1024 lines or 128 KiB."""
    lines = "".join(f"250-{keyword.format(number)}\r\n" for number in range(64)).encode()
    stream = Endless(lines, greeting=b"220 here\r\n")
    with pytest.raises(ProtocolViolation, match=r"1024 lines|131072 octets"):
        open_session(stream)
    assert stream.received <= 131_072 + len(lines) + 10


def test_m4_what_is_kept_of_many_keywords() -> None:
    """Of an EHLO reply within the limits at most 256 keywords are kept, and 128 octets of what is not understood."""
    lines = [f"X{number} {'y' * 100}" for number in range(600)] + ["X1 " + "z" * 900] * 40
    talk = Talk(Script(extensions=tuple(lines)))
    keywords = talk.open().offered.keywords
    assert len(keywords) == MOST_KEYWORDS
    assert all(len(argument) <= LONGEST_ARGUMENT for argument in keywords.values())


def test_m5_a_hundred_thousand_keywords() -> None:
    """A reply of 100 000 keywords that does end is refused, though it came whole."""
    talk, error = failure(Script(extensions=tuple(f"X{number}" for number in range(100_000))))
    assert isinstance(error, ProtocolViolation)
    assert b"MAIL" not in talk.stream.sent


def test_m6_all_replies_with_the_greeting() -> None:
    """Replies that nobody asked for yet are no answers: nothing is said to such a server."""
    script = Script(greeting=b"220 hi\r\n250 ehlo\r\n250 mail\r\n250 rcpt\r\n354 data\r\n250 queued\r\n221 bye\r\n")
    talk, error = failure(script)
    assert isinstance(error, ProtocolViolation)
    assert not talk.stream.sent


@pytest.mark.parametrize("stage", ["EHLO", "MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("pipelining", [True, False])
def test_m6_all_the_rest_with_one_reply(stage: str, *, pipelining: bool) -> None:
    """A server that says the rest of the dialogue together with one reply gets no mail accepted."""
    first = b"354 go\r\n" if stage == "DATA" else b"250 ok\r\n"
    rest = b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 queued\r\n221 bye\r\n"
    extensions = ("PIPELINING",) if pipelining else ("8BITMIME",)
    _, error = failure(at_stage(stage, first + rest, extensions=extensions))
    assert is_violation(error)


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("chunking", ["never", "always"])
def test_m7_early_positive_reply(segments: int, chunking: Any) -> None:
    """A yes before the mail data was said is a violation; whether it came with the 354 or behind it."""
    yes = "250 2.0.0 queued"
    moment = "RCPT:cy@example.com" if chunking == "always" else "DATA"
    script = Script(early={moment: yes})
    if segments == 1:
        script = Script(replies={moment: f"{'354 go' if moment == 'DATA' else '250 ok'}\r\n{yes}\r\n".encode()})
    talk = Talk(script, {"chunking": chunking})
    talk.open()
    outcome = talk.send(mail(BIG * 20_000))
    assert isinstance(outcome.error, ProtocolViolation)
    assert not outcome.accepted
    assert not talk.received
    assert len(talk.stream.sent) < OPEN
    assert talk.session.channel.broken


@pytest.mark.parametrize("chunking", ["never", "always"])
def test_m7_early_positive_reply_in_the_middle(chunking: Any) -> None:
    """A yes in the middle of the mail data stops it."""
    talk = Talk(Script(early={100_000: "250 2.0.0 queued"}), {"chunking": chunking})
    talk.open()
    outcome = talk.send(mail(BIG * 20_000))
    assert isinstance(outcome.error, ProtocolViolation)
    assert not outcome.accepted
    assert not outcome.in_doubt
    assert len(talk.stream.sent) < OPEN


@pytest.mark.parametrize("reply", ["452 4.3.1 full", "552 5.3.4 too much", "554 5.7.1 spam"])
@pytest.mark.parametrize("chunking", ["never", "always"])
def test_m7_early_refusal(reply: str, chunking: Any) -> None:
    """A no in the middle of the mail data stops it, ends the session, and is the verdict."""
    talk = Talk(Script(early={100_000: reply}), {"chunking": chunking})
    talk.open()
    outcome = talk.send(mail(BIG * 20_000))
    assert isinstance(outcome.error, DataRefused)
    assert str(outcome.error.reply) == reply
    assert set(outcome.refused) == {BOB, CY}
    assert len(talk.stream.sent) < OPEN
    assert talk.session.channel.broken
    assert b"\r\n.\r\n" not in talk.stream.sent


@every_stage
@pytest.mark.parametrize(
    "answer", [b"250-yes\r\n550 no\r\n", b"550-no\r\n250 yes\r\n", b"220-yes\r\n554 no\r\n", b"354-go\r\n250 yes\r\n"]
)
def test_m8_codes_that_change_within_a_reply(stage: str, answer: bytes) -> None:
    """A reply that says yes and no is neither."""
    talk, error = failure(at_stage(stage, answer))
    assert is_violation(error)
    assert talk.stream.closed


@every_stage
@pytest.mark.parametrize(
    "code",
    [*b"25 -25 2_5 +250 0x1 999 099 199 600 260 250x 250\t 2500".split(b" "), b"", b" 250", b"\xef\xbc\x9250"],
)
def test_m9_codes_that_are_none(stage: str, code: bytes) -> None:
    """What does not begin with three ASCII digits in their ranges, and a blank, is no reply."""
    talk, error = failure(at_stage(stage, code + b" ok\r\n"))
    assert is_violation(error)
    assert talk.stream.closed


@every_stage
def test_m10_controls_in_texts(stage: str) -> None:
    """NUL, escapes, CR and octets that are no UTF-8 in a reply: whatever is shown of it is one harmless line."""
    nasty = b"451 no\x00\xff\x1b[2J\x1b]0;owned\x07\rroot: all is well\x85\xe2\x80\xa8\xc2\x9b31m\r\n"
    talk, error = failure(at_stage(stage, nasty))
    assert isinstance(error, Refused)
    for text in (str(error), repr(error), str(error.reply), repr(error.outcome)):
        assert len(text.splitlines()) == 1
        assert not re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", text)
        text.encode()
    assert error.reply.lines[0].encode("utf-8", "surrogateescape") == nasty[4:-2]
    assert talk.stream.closed == (stage in {"greeting", "EHLO"})


def test_m10_controls_in_what_is_no_reply() -> None:
    """The error for octets that are no reply does not repeat their controls."""
    _, error = failure(Script(greeting=b"\x1b[2J\x00\xff\r\n"))
    assert isinstance(error, ProtocolViolation)
    assert str(error).isprintable()


def test_m11_go_ahead_as_final_reply() -> None:
    """354 to the mail data is no verdict: the session is dropped, and the mail is in doubt."""
    talk, error = failure(Script(replies={"END": "354 more"}))
    assert isinstance(error, InDoubt)
    assert isinstance(error.__cause__, ProtocolViolation)
    assert talk.session.channel.broken


@pytest.mark.parametrize("pipelining", [True, False])
def test_m11_yes_to_data(*, pipelining: bool) -> None:
    """250 to DATA is no leave to send: not an octet of the mail goes out, and nothing is in doubt."""
    extensions = ("PIPELINING",) if pipelining else ()
    talk, error = failure(Script(replies={"DATA": "250 ok"}, extensions=extensions))
    assert isinstance(error, ProtocolViolation)
    assert b"Subject" not in talk.stream.sent
    assert talk.session.channel.broken


@pytest.mark.parametrize("form", ["data", "data, lock-step", "bdat", "lmtp"])
def test_m11_every_code_at_every_stage(form: str) -> None:
    """Codes from 000 to 999 at each stage: a typed end, and a verdict that agrees with what the server took."""
    script, options = FORMS[form]
    stages = ["greeting", "LHLO" if script.lmtp else "EHLO", "MAIL", "RCPT", f"RCPT:{CY}", "END"]
    stages += ["BDAT"] if form == "bdat" else ["DATA"]
    for stage in stages:
        for code in range(0, 1000, 1 if form == "data" else 7):
            answer = f"{code:03} x\r\n".encode()
            changes: Any = {"greeting": answer} if stage == "greeting" else {"replies": {stage: answer}}
            over = {stage} if code == 421 else set[str]()  # such a server goes, and takes nothing more
            talk, outcome = tried(replace(script, close_after=frozenset(over), **changes), options)
            agrees(talk, outcome)
            if outcome is not None and outcome.accepted:
                assert 200 <= code < 300 or stage in {"EHLO", "DATA", f"RCPT:{CY}", "BDAT"}  # HELO does for 5yz


@pytest.mark.parametrize("stage", [*STAGES, f"RCPT:{CY}"])
@pytest.mark.parametrize("pipelining", [True, False])
def test_m12_service_closing_anywhere(stage: str, *, pipelining: bool) -> None:
    """421 is the end of the channel, never a verdict on a recipient, and the session is not used again."""
    extensions = ("PIPELINING",) if pipelining else ()
    talk, error = failure(at_stage(stage, "421 4.3.2 shutting down", extensions=extensions))
    assert isinstance(error, ServiceClosing)
    assert error.transient
    assert talk.session.channel.broken
    assert error.outcome is None or not error.outcome.refused
    assert error.outcome is None or not error.outcome.in_doubt


def test_m12_refusals_before_the_end_stay() -> None:
    """Who was refused before a 421 stays refused; who was not answered is not."""
    _, error = failure(Script(replies={f"RCPT:{BOB}": "550 5.1.1 no", f"RCPT:{CY}": "421 bye"}))
    assert isinstance(error, ServiceClosing)
    assert error.outcome is not None
    assert set(error.outcome.refused) == {BOB}


def test_m12_service_closing_while_idle() -> None:
    """A 421 that came between two mails is seen before MAIL, and the second mail goes by another session."""
    closing = Script(early={"END": "421 4.4.2 idle for too long"}, close_after=frozenset({"END"}))
    with Server(closing, Script()) as server, SyncClient(server.url, hello="client.example") as client:
        for _ in range(2):
            assert client.send(MAIL, "ann@example.com", [BOB]).accepted == (BOB,)
    assert [received.session for received in server.received] == [1, 2]
    assert server.sessions[0].said("C").count(b"MAIL FROM:<ann@example.com> SIZE=54") <= 1


def test_m12_idle_session_with_421_is_not_usable() -> None:
    """A session at rest in which a 421 has arrived is not usable."""
    talk = Talk(Script(early={"END": "421 4.4.2 idle for too long"}))
    talk.open()
    assert talk.send().accepted
    assert not talk.session.usable


class Deaf(MemoryStream):
    """A peer that stops reading once it has said 354: not an octet more is taken."""

    async def send(self, octets: bytes | bytearray | memoryview) -> None:
        if len(self.sent) > 100:
            self.untaken = len(octets)
            self._out_of_time()
        await super().send(octets)


@pytest.mark.parametrize("chunking", ["never", "always"])
def test_m13_a_server_that_stops_reading(chunking: Any) -> None:
    """Of a mail that nobody takes two pieces at most are in memory, and the write has a limit."""
    told = 0

    def tell() -> Iterator[bytes]:
        nonlocal told
        for _ in range(10_000):
            told += 4096
            yield b"x" * 4094 + b"\r\n"

    talk = Talk(Script(), {"timeout": 30.0, "chunking": chunking})
    talk.stream.__class__ = Deaf
    talk.open()
    item = Mail(mail().envelope, MailData(tell, 40_960_000, eight_bit=False))
    outcome = talk.send(item)
    assert isinstance(outcome.error, TimedOut)
    assert outcome.error.limit == "timeout"
    assert not outcome.in_doubt
    assert told <= 2 * 65_536 + 4096


WHOLE = 64 * 1024 * 1024


def deaf_until(over: Event) -> Callable[[socket.socket], None]:
    """What a server does that says yes until DATA, then reads nothing more until the test is over."""

    def behaviour(connection: socket.socket) -> None:
        connection.sendall(b"220 here\r\n")
        for answer in (b"250 here\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
            while not connection.recv(4096).endswith(b"\r\n"):
                pass
            connection.sendall(answer)
        over.wait(20)

    return behaviour


@pytest.mark.parametrize("world", ["asyncio", "trio", "blocking"])
def test_m13_zero_window_on_a_socket(world: str) -> None:
    """The same over each stream: what was told is what the kernel's buffers hold, not the mail."""
    told = 0

    def chunks() -> Iterator[bytes]:
        nonlocal told
        yield b"Subject: large\r\n\r\n"
        while told < WHOLE:
            told += 65_536
            yield b"x" * 65_534 + b"\r\n"

    async def sent_by(url: str) -> None:
        async with Client(url, timeout=0.5, tls="none") as client:
            with pytest.raises(TimedOut):
                await client.send(chunks(), "ann@example.com", [BOB])

    over = Event()
    with peer(deaf_until(over), small_buffers=True) as port:
        url = f"smtp://127.0.0.1:{port}"
        if world == "blocking":
            with SyncClient(url, timeout=0.5, tls="none") as client, pytest.raises(TimedOut):
                client.send(chunks(), "ann@example.com", [BOB])
        else:
            anyio.run(sent_by, url, backend=world)
        over.set()
    assert told < WHOLE / 8


@pytest.mark.parametrize(
    ("lines", "size"),
    [
        (("SIZE 99999999999999999999",), 2**63 - 1),
        (("SIZE " + "9" * 3000,), 2**63 - 1),
        (("SIZE x",), None),
        (("SIZE -1",), None),
        (("SIZE 1e3",), None),
        (("SIZE ２０",), None),  # noqa: RUF001 - full-width digits
        (("SIZE",), None),
        (("SIZE 0",), None),
        (("SIZE=1000",), 1000),
        (("  size   1000 ",), 1000),
        (("SIZE 1000", "SIZE 2000"), 1000),
        ((), None),
    ],
    ids=str,
)
def test_m14_odd_sizes(lines: tuple[str, ...], size: int | None) -> None:
    """A SIZE that is none is no limit; one that is too large to be true is capped; the mail goes out."""
    talk = Talk(Script())
    talk.dialogue.script = replace(talk.dialogue.script, replies={"EHLO": "\n".join(["250 here", *lines])})
    offered = talk.open().offered
    assert offered.size == size


def test_m14_mail_goes_out_whatever_size_says() -> None:
    """A mail goes to a server whose SIZE is nonsense, and not to one whose SIZE is too small."""
    for text in ("SIZE", "SIZE x", "SIZE 99999999999999999999"):
        _, outcome = tried(Script(extensions=(text, "8BITMIME")))
        assert outcome is not None
        assert outcome.accepted == (BOB, CY)
    talk, outcome = tried(Script(extensions=("SIZE 10",)))
    assert outcome is not None
    assert isinstance(outcome.error, NotSupported)
    assert b"MAIL" not in talk.stream.sent


def test_m14_old_and_doubled_mechanisms() -> None:
    """``AUTH=LOGIN`` is merged with ``AUTH``, and each mechanism counts once."""
    lines = "250 here\nAUTH=LOGIN PLAIN\nAUTH PLAIN CRAM-MD5\nauth login\nAUTH"
    assert Talk(Script(replies={"EHLO": lines})).open().offered.mechanisms == ("LOGIN", "PLAIN", "CRAM-MD5")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("harm", ["flip", "double", "garbage", "line end", "drop"])
def test_m15_harm_at_every_octet(form: str, harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flipped bits, doubled and dropped octets and garbage at every place: the verdict agrees with the record."""
    script, options = FORMS[form]
    talk, _ = tried(script, options)
    total = talk.stream.received
    kinds: list[Callable[[int], type[Altered]]] = {
        "flip": [lambda place, bit=bit: altered(place, mask=1 << bit) for bit in range(8)],
        "double": [lambda place: altered(place, None)],
        "garbage": [lambda place: altered(place, b"\x00\xff\x80")],
        "line end": [lambda place: altered(place, b"\r\n"), lambda place: altered(place, b"\n")],
        "drop": [lambda place: type("Dropped", (altered(place),), {"_perform": _drop})],
    }[harm]  # type: ignore[assignment]  # lambdas with a default
    for place in range(total):
        for kind in kinds:
            monkeypatch.setattr("tests.memory.MemoryStream", kind(place))
            talk, outcome = tried(script, options)
            agrees(talk, outcome)


def _drop(self: Any, actions: Any) -> None:
    changed = []
    for action in actions:
        if type(action).__name__ == "Send":
            at = self.place - self._passed
            self._passed += len(action.octets)
            if 0 <= at < len(action.octets):
                action = type(action)(action.octets[:at] + action.octets[at + 1 :])
                if not action.octets:
                    continue
        changed.append(action)
    MemoryStream._perform(self, changed)


@every_stage
@pytest.mark.parametrize("blank", [b"\r\n", b"\n", b" \r\n"])
def test_m16_blank_lines_between_replies(stage: str, blank: bytes) -> None:
    """A blank line is no reply, and shifts none: the mail is not accepted by the reply to something else."""
    good = {"greeting": b"220 hi\r\n", "DATA": b"354 go\r\n"}.get(stage, b"250 ok\r\n")
    talk, error = failure(at_stage(stage, blank + good))
    assert is_violation(error)
    assert talk.stream.closed


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("surplus", ["250 ok", "550 no", "354 go"])
@pytest.mark.parametrize("stage", ["MAIL", f"RCPT:{BOB}", f"RCPT:{CY}"])
def test_m17_more_replies_than_commands(stage: str, surplus: str, *, pipelining: bool) -> None:
    """One reply too many does not shift a refusal to another recipient, nor become the verdict on the mail."""
    extensions = ("PIPELINING",) if pipelining else ()
    script = Script(replies={stage: f"250 ok\r\n{surplus}\r\n".encode()}, extensions=extensions)
    talk = Talk(script)
    talk.open()
    outcome = talk.send()
    assert outcome.error is not None
    assert not outcome.accepted
    assert not talk.received
    assert not talk.session.usable


def test_m17_surplus_behind_the_final_reply() -> None:
    """What comes behind the final reply changes no verdict, and the session is not used again."""
    talk = Talk(Script(replies={"END": b"250 queued\r\n550 no, after all\r\n"}))
    talk.open()
    outcome = talk.send()
    assert outcome.accepted == (BOB, CY)
    assert outcome.error is None
    assert not talk.session.usable


def test_m17_fewer_replies_than_commands() -> None:
    """A recipient that is not answered makes the next wait in vain: no verdict is made up for anybody."""
    talk, error = failure(Script(replies={f"RCPT:{BOB}": None, "DATA": None}))
    assert isinstance(error, TimedOut)
    assert talk.session.channel.broken


def test_m17_replies_belong_to_recipients_in_order() -> None:
    """Among many recipients in one group, exactly those the server refused are refused."""
    paths = tuple(f"r{number}@example.com" for number in range(300))
    refused = {path: f"550 5.1.1 <{path}>" for path in paths[::7]}
    talk = Talk(Script(replies={f"RCPT:{path}": reply for path, reply in refused.items()}))
    talk.open()
    outcome = talk.send(mail(recipients=paths))
    assert {path: str(reply) for path, reply in outcome.refused.items()} == refused
    assert set(outcome.accepted) == set(paths) - set(refused)
    assert talk.received[0].paths == outcome.accepted


@pytest.mark.parametrize(("answer", "in_step"), [("554 5.5.1 no valid recipients", True), ("250 2.0.0 queued", False)])
def test_m18_go_ahead_for_nobody(answer: str, *, in_step: bool) -> None:
    """354 though all were refused: a lone dot; a no leaves the session in step, a yes ends it; nobody was served."""
    talk = Talk(Script(replies={"RCPT": "550 5.1.1 no", "DATA": "354 go", "END": answer}))
    talk.open()
    outcome = talk.send()
    assert isinstance(outcome.error, RecipientsRefused)
    assert set(outcome.refused) == {BOB, CY}
    assert not outcome.accepted
    assert not outcome.in_doubt
    assert talk.stream.sent.endswith(b"DATA\r\n.\r\n")
    assert talk.session.channel.broken is not in_step


def test_m18_no_dot_where_the_sender_was_refused() -> None:
    """354 after a refused MAIL is never answered with a dot: it might deliver an empty mail."""
    talk = Talk(Script(replies={"MAIL": "550 no", "DATA": "354 go"}))
    talk.open()
    outcome = talk.send()
    assert isinstance(outcome.error, SenderRefused)
    assert talk.stream.sent.endswith(b"DATA\r\n")
    assert talk.session.channel.broken


@pytest.mark.parametrize("code", [554, 421, 521, 500, 450])
def test_m19_refusing_greetings(code: int) -> None:
    """A greeting that is a no ends the session with that no, its escapes made harmless; after 5yz with QUIT."""
    talk = Talk(Script(greeting=f"{code} go away \x1b[31mnow\x1b[0m"))
    with pytest.raises(Refused) as caught:
        talk.open()
    assert isinstance(caught.value, ServiceClosing) == (code == 421)
    assert caught.value.reply.code == code
    assert str(caught.value).isprintable()
    assert bytes(talk.stream.sent) == (b"" if code == 421 else b"QUIT\r\n")
    assert talk.stream.closed


def test_m19_good_greeting_with_escapes() -> None:
    """Escapes in a good greeting do no harm and are not shown raw."""
    talk = Talk(Script(greeting=b"220 mail\x1b]0;owned\x07\r\n"))
    greeting = talk.open().greeting
    assert str(greeting).isprintable()
    assert "owned" in greeting.text


def test_m20_tarpit() -> None:
    """A server that answers each command just within its limit ends at the limit of the whole."""
    slow = {"MAIL": 50.0, f"RCPT:{BOB}": 50.0, f"RCPT:{CY}": 50.0, "DATA": 50.0, "END": 500.0}
    talk = Talk(Script(delay=slow, extensions=()), {"timeout": 60.0})
    talk.open()
    begun = talk.stream.clock
    outcome, _ = run(talk.session.send(mail(), None, begun + 120))
    assert isinstance(outcome.error, TimedOut)
    assert outcome.error.limit == "total"
    assert talk.stream.clock == begun + 120
    assert talk.session.channel.broken


def test_m20_tarpit_while_opening() -> None:
    """Connecting, greeting and EHLO together have one limit, however slowly each of them answers."""
    talk = Talk(Script(delay={"greeting": 20.0, "EHLO": 20.0}), {"connect": 30.0})
    begun = talk.stream.clock
    with pytest.raises(TimedOut) as caught:
        talk.open()
    assert caught.value.limit == "connect"
    assert talk.stream.clock == begun + 30


def test_m20_slow_but_within_the_limits() -> None:
    """Without a total the same slow server gets its mail: the limits are its, not less."""
    slow = {"MAIL": 50.0, f"RCPT:{BOB}": 50.0, f"RCPT:{CY}": 50.0, "DATA": 50.0, "END": 500.0}
    talk = Talk(Script(delay=slow, extensions=()), {"timeout": 60.0})
    talk.open()
    assert talk.send().accepted == (BOB, CY)


def test_m20_total_of_a_client() -> None:
    """The option ``total`` is the limit of a whole call of the client."""
    with (
        Server(Script(replies={"MAIL": Fault("stall")})) as server,
        SyncClient(server.url, total=0.2) as client,
        pytest.raises(TimedOut) as caught,
    ):
        client.send(MAIL, "ann@example.com", [BOB])
    assert caught.value.limit == "total"
