"""Commands: one line each, nothing in it that could end it, secrets never shown."""

import base64

import pytest

from smtpkit.errors import InvalidMail
from smtpkit.protocol.command import (
    MAIL_LINE,
    MASK,
    RCPT_LINE,
    Auth,
    Bdat,
    Command,
    Data,
    Ehlo,
    EndMark,
    Expn,
    Greeting,
    Helo,
    Lhlo,
    Mail,
    Noop,
    Quit,
    Raw,
    Rcpt,
    Response,
    Rset,
    StartTLS,
    Vrfy,
    line,
)
from smtpkit.protocol.envelope import Envelope, ForwardPath
from smtpkit.protocol.extension import Extensions
from smtpkit.protocol.mail_data import MailData
from smtpkit.protocol.procedures import plan
from smtpkit.protocol.reply import ROOMY, USUAL, Reply

RENDERED: list[tuple[Command, bytes]] = [
    (Greeting(), b""),
    (EndMark(), b""),
    (Ehlo("client.example"), b"EHLO client.example\r\n"),
    (Ehlo("[IPv6:::1]"), b"EHLO [IPv6:::1]\r\n"),
    (Lhlo("client.example"), b"LHLO client.example\r\n"),
    (Helo("client.example"), b"HELO client.example\r\n"),
    (StartTLS(), b"STARTTLS\r\n"),
    (Mail(""), b"MAIL FROM:<>\r\n"),
    (Mail("a@b.example", ("SIZE=5", "SMTPUTF8")), b"MAIL FROM:<a@b.example> SIZE=5 SMTPUTF8\r\n"),
    (Rcpt('"a b"@b.example'), b'RCPT TO:<"a b"@b.example>\r\n'),
    (Rcpt("é@b.example", ("NOTIFY=NEVER",)), "RCPT TO:<é@b.example> NOTIFY=NEVER\r\n".encode()),
    (Data(), b"DATA\r\n"),
    (Bdat(86, last=False), b"BDAT 86\r\n"),
    (Bdat(0, last=True), b"BDAT 0 LAST\r\n"),
    (Rset(), b"RSET\r\n"),
    (Noop(), b"NOOP\r\n"),
    (Quit(), b"QUIT\r\n"),
    (Vrfy("ann"), b"VRFY ann\r\n"),
    (Vrfy("änn"), "VRFY änn SMTPUTF8\r\n".encode()),
    (Expn("staff"), b"EXPN staff\r\n"),
    (Expn("größe"), "EXPN größe SMTPUTF8\r\n".encode()),
    (Raw("help"), b"help\r\n"),
    (Raw("XCLIENT ADDR=192.0.2.1 NAME=x"), b"XCLIENT ADDR=192.0.2.1 NAME=x\r\n"),
    (Auth("LOGIN"), b"AUTH LOGIN\r\n"),
    (Auth("EXTERNAL", b""), b"AUTH EXTERNAL =\r\n"),
    (Auth("PLAIN", b"\0u\0p"), b"AUTH PLAIN AHUAcA==\r\n"),
    (Response(b""), b"\r\n"),
    (Response(b"secret"), b"c2VjcmV0\r\n"),
    (Response(None), b"*\r\n"),
]


@pytest.mark.parametrize(("command", "octets"), RENDERED, ids=lambda value: None)
def test_rendered(command: Command, octets: bytes) -> None:
    """Each command as the RFC has it; what is shown is that line, unless it holds a secret."""
    assert command.render() == octets
    if not isinstance(command, Auth | Response):
        assert str(command) == octets.decode().removesuffix("\r\n")


@pytest.mark.parametrize(("command", "octets"), RENDERED, ids=lambda value: None)
def test_verb(command: Command, octets: bytes) -> None:
    """The verb is what the line begins with, in capitals; it names the stage of a refusal."""
    if octets and not isinstance(command, Response):
        assert command.verb == octets.split()[0].decode().upper()


SECRETS: list[tuple[Command, str]] = [
    (Auth("LOGIN"), "AUTH LOGIN"),
    (Auth("PLAIN", b"\0u\0secret"), f"AUTH PLAIN {MASK}"),
    (Auth("EXTERNAL", b""), f"AUTH EXTERNAL {MASK}"),
    (Response(b"secret"), MASK),
    (Response(b""), MASK),
    (Response(None), "*"),
]


@pytest.mark.parametrize(("command", "shown"), SECRETS, ids=lambda value: None)
def test_secrets_are_masked(command: Command, shown: str) -> None:
    """No form of showing a part of a SASL exchange holds a secret, plain or encoded."""
    assert str(command) == repr(command) == f"{command}" == shown


def test_challenges_are_masked() -> None:
    """A challenge may hold a secret, so it is not shown; the verdict on an exchange is, as any other reply."""
    challenge, refusal = Reply(334, ("c2VjcmV0",)), Reply(535, ("5.7.8 no",))
    assert Auth("LOGIN").show(challenge) == Response(b"x").show(challenge) == Reply(334, (MASK,))
    assert Auth("LOGIN").show(refusal) == refusal
    assert Data().show(Reply(354, ("go",))) == Reply(354, ("go",))


def test_limits() -> None:
    """Replies to mail data may take long, the greeting belongs to connecting; large replies are where they occur."""
    assert [command.limit for command in (Greeting(), EndMark(), Bdat(1, last=True), Data(), Mail(""))] == [
        *("connect", "final", "final", "timeout", "timeout")
    ]
    assert Ehlo.replies is Lhlo.replies is Auth.replies is Response.replies is Expn.replies is Raw.replies is ROOMY
    assert Mail.replies is Vrfy.replies is USUAL


BAD = ["\r", "\n", "\r\n", "\0", "\x01", "\t", "\x0b", "\x0c", "\x1f", "\x7f", "\ud800", "\udc0d"]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", [Ehlo, Lhlo, Helo, Vrfy, Expn, Mail, Rcpt])
def test_nothing_ends_a_line(kind: type[Ehlo | Vrfy | Mail | Rcpt], bad: str) -> None:
    """No control character and no lone surrogate gets into a command line, at any place."""
    for text in (bad, f"a{bad}", f"a{bad}RSET", f"{bad}a"):
        with pytest.raises(InvalidMail):
            kind(text).render()


@pytest.mark.parametrize("bad", BAD)
def test_nothing_ends_a_line_by_parameters(bad: str) -> None:
    """Nor do parameters, mechanisms and commands of the caller's own."""
    for make in (
        lambda: Mail("a@b.example", (f"SIZE=1{bad}",)).render(),
        lambda: Rcpt("a@b.example", (f"X={bad}",)).render(),
        lambda: Auth(f"PLAIN{bad}", b"x").render(),
        lambda: Raw(f"NOOP a{bad}QUIT"),
    ):
        with pytest.raises(InvalidMail):
            make()


@pytest.mark.parametrize("character", ["\u760d", "\u760a", "\u0d0a", "\u2028", "\x85", "č", "Ċ"])
def test_nothing_becomes_a_line_end(character: str) -> None:
    """A character goes out as UTF-8, whole, and never as its last octet alone."""
    assert Vrfy(f"a{character}b").render() == f"VRFY a{character}b SMTPUTF8\r\n".encode()
    assert Vrfy(f"a{character}b").render().count(b"\r") == Vrfy(f"a{character}b").render().count(b"\n") == 1


def test_longest_line() -> None:
    """A line up to the limit is rendered, one octet more is refused; octets are counted, with the line end."""
    assert len(line("NOOP", "x" * 505)) == 512
    assert len(line("NOOP", "é" * 252 + "x")) == 512
    for argument in ("x" * 506, "é" * 253):
        with pytest.raises(InvalidMail, match="512 octets"):
            line("NOOP", argument)


def test_a_long_secret_is_not_told() -> None:
    """The error about a line that is too long does not quote it."""
    secret = b"secret" * 2000
    with pytest.raises(InvalidMail) as caught:
        Auth("PLAIN", secret).render()
    assert base64.b64encode(secret).decode()[:20] not in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 9200, 9206, 9207, 9208, 9209, 9210, 9211, 9300])
def test_fitting_initial_responses_render(size: int) -> None:
    """Auth knows beforehand whether its initial response fits on the line (RFC 4954 section 4)."""
    command = Auth("XOAUTH2", b"x" * size)
    try:
        command.render()
    except InvalidMail:
        assert not command.fits
    else:
        assert command.fits == (size <= 9203)


@pytest.mark.parametrize("verb", ["data", "Bdat 5 LAST", "STARTTLS", "auth LOGIN", "EHLO x", "LHLO x", "rcpt TO:<x>"])
def test_raw_refuses_verbs_of_our_own(verb: str) -> None:
    """A command of the caller's own cannot change what is sent next."""
    with pytest.raises(InvalidMail, match="verb"):
        Raw(verb)


@pytest.mark.parametrize("text", ["", " ", " DATA", "MAIL FROM:<>", "quit", "\u017ftarttls", "é", "*", "DATA\t"])
def test_raw_is_one_command(text: str) -> None:
    """It begins with a verb in ASCII, and no trick of case makes one of ours."""
    with pytest.raises(InvalidMail):
        Raw(text)


def test_longest_mail_and_rcpt() -> None:
    """The longest that an envelope can ask for still fits the lines of MAIL and RCPT: it is refused before or never."""
    address = f"{'é' * 32}@{'.'.join(['a' * 63] * 4)}"[:288]
    assert len(address.encode()) == 320
    envelope = Envelope(
        address,
        tuple(
            ForwardPath(address, notify=("SUCCESS", "FAILURE", "DELAY"), original=original)
            for original in ["+" * 318 + "é"]
        ),
        utf8=True,
        ret="FULL",
        envelope_id="x" * 100,
    )
    offers = Extensions(dict.fromkeys(("SIZE", "8BITMIME", "SMTPUTF8", "DSN"), ""))
    planned = plan(envelope, MailData(lambda: (), size=2**63, eight_bit=True), offers)
    assert len(planned.mail.render()) <= MAIL_LINE
    assert len(planned.recipients[0].render()) <= RCPT_LINE
