"""The hazards that SMTP clients tend to have, a test for each, named after it."""

import itertools
import re
from email.message import EmailMessage
from typing import Any

import pytest

from smtpkit import SyncClient
from smtpkit.errors import (
    ChannelLost,
    DataRefused,
    InDoubt,
    InvalidMail,
    NotSupported,
    ProtocolViolation,
    RecipientsRefused,
    Refused,
    ServiceClosing,
    SMTPError,
    TimedOut,
)
from smtpkit.events import SessionClosed
from smtpkit.message.message import prepare
from smtpkit.options import Limits, OptionKeywords
from smtpkit.protocol.command import line
from smtpkit.protocol.envelope import Envelope
from smtpkit.protocol.mail_data import MailData
from smtpkit.testing import Fault, Script, Server
from smtpkit.transport.connect import run_inline
from tests.hostile import STAGES, Endless, agrees, at_stage, open_session
from tests.memory import FORMS, MAIL, RECIPIENTS, Mail, Talk, mail, tried
from tests.streams import run

ANN, BOB, CY = "ann@example.com", "bob@example.com", "cy@example.com"
OPTIONS: OptionKeywords = {"hello": "client.example", "tls": "none"}
LETTER = b"From: ann@example.com\r\nTo: bob@example.com\r\n\r\n"


def opened(script: Script, options: OptionKeywords | None = None) -> Talk:
    """A talk whose session is open."""
    talk = Talk(script, options)
    talk.open()
    return talk


def sent(message: Any, script: Script | None = None, recipients: list[str] | None = None) -> Talk:
    """A talk in which a message of any kind was sent and accepted by all."""
    talk = opened(script or Script())
    outcome = talk.send(run(prepare(message, recipients=recipients, run=run_inline)))
    assert outcome.error is None
    assert not outcome.refused
    assert not talk.dialogue.session.errors
    return talk


def test_octets_between_the_220_of_starttls_and_the_handshake() -> None:
    """What arrived in clear behind the 220 is an error: it is neither read within TLS nor dropped."""
    script = Script(tls="starttls", users={"ann": "secret"}, replies={"STARTTLS": b"220 go\r\n235 welcome\r\n"})
    with Server(script) as server:
        options: OptionKeywords = {"user": "ann", "password": "secret", "ssl_context": server.client_context()}
        with SyncClient(server.url, **options) as client, pytest.raises(ProtocolViolation, match="STARTTLS"):
            client.send(MAIL, ANN, [BOB])
    assert b"AUTH" not in server.sessions[0].octets_in
    assert not server.received


@pytest.mark.parametrize("bad", ["\r", "\n", "\r\n", "\0"], ids=repr)
def test_cr_lf_nul_in_command_arguments(bad: str) -> None:
    """The one function that renders a command line refuses what could end it, wherever it stands."""
    for text in (f"{bad}x", f"x{bad}", f"x{bad}RSET"):
        with pytest.raises(InvalidMail, match="control"):
            line("VRFY", text)
        with pytest.raises(InvalidMail, match="control"):
            line(f"VRFY{text}")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("unsolicited", ["250 ok", "421 bye", "550 no", "garbage"])
def test_unsolicited_lines_between_commands(stage: str, unsolicited: str) -> None:
    """A line nobody asked for is not taken for the reply to the next command."""
    early: dict[str | int, Any] = {stage: f"{unsolicited}\r\n".encode()}
    talk, outcome = tried(Script(early=early, extensions=("8BITMIME",)))
    agrees(talk, outcome)
    if stage == "END":
        assert outcome is not None
        assert outcome.accepted == RECIPIENTS
        assert not talk.session.usable
    else:
        assert outcome is None or outcome.error is not None
        assert outcome is None or not outcome.accepted
        assert not talk.received
        assert talk.stream.closed


def test_a_timeout_that_leaves_a_reply_on_its_way() -> None:
    """After a limit ran out the session is not used again: the late reply would answer the next mail."""
    late = Script(delay={f"RCPT:{BOB}": 0.3})
    closed: list[SessionClosed] = []
    options: OptionKeywords = {**OPTIONS, "timeout": 0.1}
    with Server(late, Script()) as server, SyncClient(server.url, **options) as client:
        client.on(SessionClosed, closed.append)
        with pytest.raises(TimedOut):
            client.send(MAIL, ANN, [BOB])
        assert len(closed) == 1
        assert client.send(MAIL, ANN, [BOB]).accepted == (BOB,)
    assert [received.session for received in server.received] == [2]


@pytest.mark.parametrize("kind", ["close", "reset", "garbage", "stall"])
def test_quit_answered_by_a_dropped_connection(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the server answers QUIT changes nothing of what was sent, and raises nothing."""
    monkeypatch.setattr(Limits, "farewell", 0.1)
    with Server(Script(replies={"QUIT": Fault(kind)})) as server, SyncClient(server.url, **OPTIONS) as client:
        outcome = client.send(MAIL, ANN, [BOB])
        client.close()
    assert outcome.accepted == (BOB,)
    assert server.sessions[0].said("C")[-1] == b"QUIT"


def test_endless_continuation_lines() -> None:
    """A reply of ever more lines is an error before it is a burden."""
    stream = Endless(b"220-and another thing\r\n" * 10)
    with pytest.raises(ProtocolViolation, match="lines"):
        open_session(stream)
    assert stream.received < 20_000


def test_endless_line_without_end() -> None:
    """A line that never ends is an error before it is a burden."""
    stream = Endless(b"x" * 100)
    with pytest.raises(ProtocolViolation, match="longer"):
        open_session(stream)
    assert stream.received < 5000


def test_over_long_line() -> None:
    """A line of 4096 octets is a reply, one octet more is none, though it ends."""
    Talk(Script(greeting=b"220 " + b"x" * 4091 + b"\r\n")).open()
    with pytest.raises(ProtocolViolation, match="longer"):
        Talk(Script(greeting=b"220 " + b"x" * 4093 + b"\r\n")).open()


@pytest.mark.parametrize("stage", STAGES)
def test_a_code_that_changes_within_one_reply(stage: str) -> None:
    """A reply whose last line takes back its first is no reply."""
    talk, outcome = tried(at_stage(stage, b"250-fine\r\n550 or not\r\n"))
    agrees(talk, outcome)
    error = outcome.error if outcome is not None else None
    assert outcome is None or isinstance(error.__cause__ if isinstance(error, InDoubt) else error, ProtocolViolation)
    assert talk.stream.closed


def test_old_style_auth_and_leading_blanks_in_ehlo_lines() -> None:
    """``AUTH=LOGIN PLAIN`` offers mechanisms, and blanks before a keyword are none of it."""
    ehlo = b"250-here\r\n250-AUTH=LOGIN PLAIN\r\n250-  SIZE 1000\r\n250- \t8BITMIME \r\n250 pipelining\r\n"
    offered = opened(Script(replies={"EHLO": ehlo})).session.offered
    assert offered.mechanisms == ("LOGIN", "PLAIN")
    assert offered.size == 1000
    assert "8BITMIME" in offered
    assert "PIPELINING" in offered


def test_ehlo_refused_offers_nothing() -> None:
    """The lines of a refusal of EHLO are no extensions: HELO, and a mail without parameters."""
    talk = opened(Script(replies={"EHLO": "502 no\nSIZE 1\nPIPELINING\nSTARTTLS\nAUTH PLAIN"}))
    assert not talk.session.offered.keywords
    assert talk.send().accepted == RECIPIENTS
    assert b"MAIL FROM:<ann@example.com>\r\nRCPT" in talk.stream.sent


@pytest.mark.parametrize("stage", [*STAGES, f"RCPT:{CY}", "QUIT"])
@pytest.mark.parametrize("form", ["data", "data, lock-step"])
def test_421_at_any_moment(stage: str, form: str) -> None:
    """421 ends the session wherever it comes, is no refusal of a recipient, and takes back nothing."""
    script = FORMS[form][0]
    talk = Talk(at_stage(stage, "421 4.3.2 bye", extensions=script.extensions))
    if stage in {"greeting", "EHLO"}:
        with pytest.raises(ServiceClosing):
            talk.open()
        return
    talk.open()
    outcome = talk.send()
    agrees(talk, outcome)
    if stage == "QUIT":
        run(talk.session.close())
        assert outcome.accepted == RECIPIENTS
        return
    assert isinstance(outcome.error, ServiceClosing)
    assert not outcome.refused
    assert talk.session.channel.broken


def test_354_although_every_recipient_was_refused() -> None:
    """A lone dot answers it, nobody was served, and the next mail is not the dot's."""
    talk = opened(Script(replies={"RCPT:no@example.com": "550 5.1.1 no", "DATA": ["354 go", "354 go"]}))
    outcome = talk.send(mail(recipients=("no@example.com",)))
    assert isinstance(outcome.error, RecipientsRefused)
    assert talk.stream.sent.endswith(b"DATA\r\n.\r\n")
    assert talk.session.usable
    assert talk.send().accepted == RECIPIENTS
    assert [received.paths for received in talk.received] == [RECIPIENTS]


@pytest.mark.parametrize("form", FORMS)
def test_reply_split_between_any_two_octets(form: str) -> None:
    """How the server's octets are cut into segments changes nothing: by octet, and in two at every place."""
    script, options = FORMS[form]
    _, expected = tried(script, options)
    _, outcome = tried(script, options, by_octet=True)
    assert repr(outcome) == repr(expected)
    replies = "220 mail.example\r\n", "250-mail.example\r\n250-SIZE 1000\r\n250 8BITMIME\r\n"
    for place in range(1, len(replies[0])):
        cut = Script(greeting=replies[0][:place].encode(), early={"greeting": replies[0][place:].encode()})
        assert opened(cut).session.greeting.text == "mail.example"
    for place in range(4, len(replies[1])):
        talk = Talk(Script(replies={"EHLO": replies[1][:place].encode()}, early={"EHLO": replies[1][place:].encode()}))
        assert set(talk.open().offered.keywords) == {"SIZE", "8BITMIME"}


@pytest.mark.parametrize("refused", [BOB, CY])
def test_a_recipient_refused_after_data_was_pipelined(refused: str) -> None:
    """DATA had gone out with the recipients: the mail goes to who was accepted, and the refusal is told."""
    talk = opened(Script(replies={f"RCPT:{refused}": "550 5.1.1 no"}))
    outcome = talk.send()
    assert b"DATA\r\n" in talk.stream.sent
    assert set(outcome.accepted) == {BOB, CY} - {refused}
    assert set(outcome.refused) == {refused}
    assert talk.received[0].paths == outcome.accepted
    assert talk.session.usable


@pytest.mark.parametrize("text", [b".", b"..", b".\r\n", b".x\r\n", b".\r\n.\r\n", b"..\r\n"])
def test_a_message_beginning_with_a_dot(text: bytes) -> None:
    """The dot that begins the very first line is doubled, and arrives."""
    talk = opened(Script())
    assert talk.send(mail(text)).accepted
    assert talk.received[0].octets == text.removesuffix(b"\r\n") + b"\r\n"
    assert b"DATA\r\n.." in talk.stream.sent


@pytest.mark.parametrize("form", ["data", "bdat"])
def test_a_dot_or_a_cr_at_a_chunk_border(form: str) -> None:
    """Chunks that end or begin with CR, LF and dots arrive as if there were no borders."""
    script, options = FORMS[form]
    octets = b"a\r\n.b\r.c\n.d\r\n..\r\n.\r\n\r.\n"
    expected = re.sub(rb"\r\n|\r|\n", b"\r\n", octets)
    for first, second in itertools.combinations_with_replacement(range(len(octets) + 1), 2):
        chunks = [octets[:first], octets[first:second], octets[second:]]
        talk = opened(script, options)
        item = Mail(Envelope.of(ANN, [BOB]), MailData(lambda chunks=chunks: iter(chunks), eight_bit=False))  # type: ignore[misc]
        assert talk.send(item).accepted
        assert talk.received[0].octets == expected
        assert not talk.dialogue.session.errors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"no end", b"no end\r\n"),
        (b"a\nb\nc", b"a\r\nb\r\nc\r\n"),
        (b"a\r", b"a\r\n"),
        (b"\r\r\n", b"\r\n\r\n"),
        (b"", b""),
    ],
)
@pytest.mark.parametrize("kind", ["bytes", "iterable", "empty chunks"])
def test_a_message_without_final_line_end_with_bare_lf_or_empty(text: bytes, expected: bytes, kind: str) -> None:
    """Line ends are mended, a missing last one is added, nothing is added to nothing."""
    message: Any = LETTER + text
    if kind == "iterable":
        message = iter([bytes([octet]) for octet in message])
    elif kind == "empty chunks":
        message = iter([b"", LETTER, b"", text, b""])
    talk = sent(message)
    assert talk.received[0].octets == LETTER + expected
    assert talk.stream.sent.endswith(b"\r\n.\r\n")


def test_an_empty_message() -> None:
    """Nothing at all is a mail too: the end mark stands at the start of a line."""
    for form in ("data", "bdat"):
        talk = opened(*FORMS[form])
        assert talk.send(mail(b"")).accepted == RECIPIENTS
        assert talk.received[0].octets == b""
        assert not talk.dialogue.session.errors


def _with_bcc(kind: str) -> Any:
    octets = b"From: ann@example.com\r\nBCC : cy@example.com,\r\n di@example.com\r\nTo: bob@example.com\r\n"
    octets += b"Resent-Bcc: ed@example.com\r\nbcc: cy@example.com\r\n\r\nBcc: in the text\r\n"
    if kind == "bytes":
        return octets
    if kind == "iterable":
        return iter([bytes([octet]) for octet in octets])
    message = EmailMessage()
    message["From"], message["To"], message["Bcc"] = ANN, BOB, f"{CY}, di@example.com"
    message["Resent-Bcc"] = "ed@example.com"
    message.set_content("Bcc: in the text")
    return message


@pytest.mark.parametrize("kind", ["bytes", "iterable", "EmailMessage"])
def test_bcc_in_the_header(kind: str) -> None:
    """Bcc is told to the server as recipients and never to the other recipients, folded and odd fields included."""
    talk = sent(_with_bcc(kind))
    (received,) = talk.received
    assert set(received.paths) == {BOB, CY, "di@example.com"}
    header, _, text = received.octets.partition(b"\r\n\r\n")
    assert b"bcc" not in header.lower()
    assert b"di@example.com" not in header
    assert b"Bcc: in the text" in text


def test_8_bit_text_to_a_server_without_8bitmime() -> None:
    """An EmailMessage goes out in 7 bits there; raw octets over 127 cannot, and MAIL is not said."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = ANN, BOB, "Grüße"
    message.set_content("schöne Grüße\n", cte="8bit")
    talk = sent(message, Script(extensions=()))
    assert talk.received[0].octets.isascii()
    assert "schöne Grüße" in talk.received[0].message().get_content()
    talk = sent(message, Script(extensions=("8BITMIME",)))
    assert not talk.received[0].octets.isascii()
    assert talk.received[0].mail_parameters["BODY"] == "8BITMIME"
    talk = opened(Script(extensions=()))
    outcome = talk.send(mail(LETTER + "schön\r\n".encode()))
    assert isinstance(outcome.error, NotSupported)
    assert outcome.error.extension == "8BITMIME"
    assert b"MAIL" not in talk.stream.sent
    assert talk.session.usable


@pytest.mark.parametrize("extensions", [(), ("8BITMIME",), ("8BITMIME", "SMTPUTF8")])
def test_an_address_that_needs_smtputf8(extensions: tuple[str, ...]) -> None:
    """It is sent under SMTPUTF8 or not at all; a domain alone needs it not."""
    talk = opened(Script(extensions=extensions))
    outcome = talk.send(run(prepare(LETTER, recipients=["jörg@example.com"], run=run_inline)))
    if "SMTPUTF8" in extensions:
        assert outcome.accepted == ("jörg@example.com",)
        assert "SMTPUTF8" in talk.received[0].mail_parameters
    else:
        assert isinstance(outcome.error, NotSupported)
        assert outcome.error.extension == "SMTPUTF8"
        assert b"MAIL" not in talk.stream.sent
    outcome = talk.send(run(prepare(LETTER, recipients=["jorg@bücher.example"], run=run_inline)))
    assert outcome.accepted == ("jorg@xn--bcher-kva.example",)


@pytest.mark.parametrize("kind", ["close", "reset", "stall"])
@pytest.mark.parametrize("form", ["data", "bdat", "lmtp"])
def test_connection_lost_after_the_end_mark_and_before_its_reply(form: str, kind: Any) -> None:
    """The mail is in doubt for everybody who was not refused: not failed, not accepted, and never transient."""
    script, options = FORMS[form]
    talk, outcome = tried(
        Script(lmtp=script.lmtp, replies={"END": Fault(kind), f"RCPT:{CY}": "550 5.1.1 no"}), {**options, "final": 5.0}
    )
    assert outcome is not None
    error = outcome.error
    assert isinstance(error, InDoubt)
    assert isinstance(error.__cause__, ChannelLost | TimedOut)
    assert not error.transient
    assert outcome.in_doubt == (BOB,)
    assert set(outcome.refused) == {CY}
    assert not outcome.accepted
    assert talk.session.channel.broken
    assert issubclass(InDoubt, SMTPError)
    assert not isinstance(error, Refused | DataRefused)
