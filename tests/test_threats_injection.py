"""Injection, row by row (I1-I8): what a caller hands in never becomes a line, a recipient, a field or another mail."""

import inspect
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from email.message import Message as OldMessage
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.policy import SMTP as SMTP_POLICY
from pathlib import Path
from typing import Any

import pytest

from smtpkit import DSN, Attachment, Client, Message, SyncClient
from smtpkit.errors import InvalidMail, NotSupported, SMTPError, UsageError
from smtpkit.message.message import prepare
from smtpkit.options import OptionKeywords
from smtpkit.protocol.envelope import Envelope, ForwardPath
from smtpkit.protocol.mail_data import MailData
from smtpkit.testing import Received, Script, Server
from smtpkit.transport.connect import run_inline
from tests.hostile import agrees
from tests.memory import FORMS, Mail, Talk
from tests.streams import run

ANN, BOB = "ann@example.com", "bob@example.com"
MAIL = b"From: ann@example.com\r\nTo: bob@example.com\r\n\r\nhello\r\n"
OPTIONS: OptionKeywords = {"hello": "client.example", "tls": "none"}

# What may end a line, or be taken for an end by somebody.
BAD = {
    "CR": "\r",
    "LF": "\n",
    "CRLF": "\r\n",
    "NUL": "\0",
    "DEL": "\x7f",
    "VT": "\v",
    "FF": "\f",
    "ESC": "\x1b",
    "NEL": "\x85",
    "LS": "\u2028",
    "PS": "\u2029",
    "surrogate": "\ud800",
    "surrogate escape": "\udc0a",
}
every_bad = pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())


def payload(bad: str) -> str:
    """The character and a command behind it."""
    return f"{bad}RCPT TO:<eve@evil.example>{bad}"


def untouched(server: Server) -> None:
    """Nothing but EHLO and QUIT has reached the server."""
    for session in server.sessions:
        assert re.fullmatch(rb"(EHLO client\.example\r\n(QUIT\r\n)?)?", bytes(session.octets_in))
        assert not session.errors
    assert not server.received


Call = Callable[[SyncClient, str], object]
# Every argument of every method that reaches the wire.
ARGUMENTS: dict[str, Call] = {
    "send.sender": lambda client, text: client.send(MAIL, f"ann{text}@example.com", [BOB]),
    "send.sender domain": lambda client, text: client.send(MAIL, f"ann@example{text}.com", [BOB]),
    "send.sender quoted": lambda client, text: client.send(MAIL, f'"ann{text}"@example.com', [BOB]),
    "send.sender quoted pair": lambda client, text: client.send(MAIL, f'"ann\\{text}"@example.com', [BOB]),
    "send.sender literal": lambda client, text: client.send(MAIL, f"ann@[IPv6:fe80::1%{text}]", [BOB]),
    "send.sender end": lambda client, text: client.send(MAIL, f"ann@example.com{text}", [BOB]),
    "send.recipients": lambda client, text: client.send(MAIL, ANN, [BOB, f"bob{text}@example.com"]),
    "send.recipients str": lambda client, text: client.send(MAIL, ANN, f"{BOB}, bob@example.com{text}"),
    "send.recipients end": lambda client, text: client.send(MAIL, ANN, [f"bob@example.com{text}"]),
    "send.recipients brackets": lambda client, text: client.send(MAIL, ANN, [f"Bob <bob@example.com>{text}"]),
    "send.dsn envelope_id": lambda client, text: client.send(MAIL, ANN, [BOB], dsn=DSN(envelope_id=f"id{text}")),
    "send.dsn ret": lambda client, text: client.send(MAIL, ANN, [BOB], dsn=DSN(ret=f"FULL{text}")),  # type: ignore[arg-type]
    "send.dsn notify": lambda client, text: client.send(MAIL, ANN, [BOB], dsn=DSN(notify=(f"DELAY{text}",))),  # type: ignore[arg-type]
    "send.dsn original": lambda client, text: client.send(
        MAIL, ANN, [BOB], dsn=DSN(notify=("DELAY",), original={BOB: f"old{text}@example.com"})
    ),
    "send.require_tls": lambda client, text: client.send(MAIL, ANN, [BOB], require_tls=f"x{text}"),  # type: ignore[arg-type]
    "verify.user": lambda client, text: client.verify(f"ann{text}"),
    "expand.mailing_list": lambda client, text: client.expand(f"list{text}"),
    "command.text": lambda client, text: client.command(f"HELP{text}"),
    "command.text argument": lambda client, text: client.command(f"HELP me{text}"),
}
INERT = {"NEL", "LS", "PS"}  # in UTF-8 no octet of theirs is a control; a server may take them in an argument


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_i1_bad_characters_in_arguments(argument: str) -> None:
    """In every argument each bad character is refused, and not one octet of it reaches the server."""
    with Server() as server, SyncClient(server.url, **OPTIONS) as client:
        for name, bad in BAD.items():
            if name in INERT and not argument.startswith("send"):
                continue
            with pytest.raises(InvalidMail) as caught:
                ARGUMENTS[argument](client, payload(bad))
            assert str(caught.value).isprintable()
    untouched(server)


@every_bad
@pytest.mark.parametrize(
    "shape", ["a{}@example.com", '"a{}"@example.com', '"a\\{}"@example.com', "a@ex{}ample.com", "a@b{}"]
)
def test_i1_envelopes_hold_no_bad_characters(shape: str, bad: str) -> None:
    """However an envelope is made, none of its texts holds what may end a line."""
    address = shape.format(bad)
    for make in (
        lambda: Envelope.of(address, [BOB]),
        lambda: Envelope.of(ANN, [address]),
        lambda: ForwardPath(BOB, original=address),
    ):
        with pytest.raises(InvalidMail):
            make()


def test_i1_every_argument_is_tried() -> None:
    """No method of the client has an argument that the tests above do not know."""
    known = {argument.partition(" ")[0] for argument in ARGUMENTS} | {"send.message"}
    for method in ("send", "verify", "expand", "command", "noop", "check"):
        for kind in (Client, SyncClient):
            arguments = set(inspect.signature(getattr(kind, method)).parameters) - {"self"}
            assert {f"{method}.{argument}" for argument in arguments} <= known


@pytest.mark.parametrize("text", ["ann\u2028RSET", "ann\u2029RSET", "ann\x85RSET"])
def test_i1_separators_that_are_no_line_ends(text: str) -> None:
    """What Unicode calls a line separator stays within its line, octet for octet, where it is not refused."""
    with Server() as server, SyncClient(server.url, **OPTIONS) as client:
        client.verify(text)
    assert server.sessions[0].said("C")[1] == f"VRFY {text} SMTPUTF8".encode()
    assert not server.sessions[0].errors


TEXT_OPTIONS = (
    *("user", "password", "token", "mechanism", "authzid", "hello"),
    *("tls_name", "pins", "client_certificate", "local_address", "proxy"),
)


@every_bad
@pytest.mark.parametrize("option", TEXT_OPTIONS)
def test_i1_bad_characters_in_options(option: str, bad: str) -> None:
    """A bad character in an option is refused when the client is made."""
    login = {"user": "ann", "password": "x"} if option in {"mechanism", "authzid"} else {}
    login = {"user": "ann"} if option in {"password", "token"} else login
    login = {"password": "x"} if option == "user" else login
    with pytest.raises(UsageError, match=option):
        Client("submission://mail.example.com", **{**login, option: f"x{payload(bad)}"})  # type: ignore[arg-type]


def test_i1_every_option_is_tried() -> None:
    """No option that takes a text is left out above."""
    takes_text = {
        name
        for name, kind in inspect.get_annotations(OptionKeywords).items()
        if re.search(r"\bstr\b", str(kind)) or "Secret" in str(kind) or "Token" in str(kind)
    }
    assert takes_text == set(TEXT_OPTIONS)


@every_bad
@pytest.mark.parametrize("place", ["user", "password", "host", "value", "path"])
def test_i1_bad_characters_in_urls(place: str, bad: str) -> None:
    """A bad character in a URL is refused, plain and percent-encoded."""
    shape = {
        "user": "smtp://ann{}:pw@mail.example.com",
        "password": "smtp://ann:pw{}@mail.example.com",
        "host": "smtp://mail{}.example.com",
        "value": "smtp://mail.example.com?hello=x{}",
        "path": "lmtp+unix:///run/{}lmtp",
    }[place]
    encoded = "".join(f"%{octet:02X}" for octet in bad.encode("utf-8", "surrogatepass"))
    for text in (payload(bad), f"{encoded}NOOP"):
        with pytest.raises(UsageError):
            Client(shape.format(text))


@pytest.mark.parametrize("size", [513, 5000, 10_000_000])
def test_i1_arguments_that_are_too_long(size: int) -> None:
    """A line longer than a command may be is refused before it is sent, and its error is short."""
    with Server() as server, SyncClient(server.url, **OPTIONS) as client:
        for call in (
            lambda: client.send(MAIL, f"{'a' * size}@example.com", [BOB]),
            lambda: client.send(MAIL, ANN, [f"bob@{'a.' * size}com"]),
            lambda: client.verify("a" * size),
            lambda: client.expand("a" * size),
            lambda: client.command(f"HELP {'a' * size * 4}"),
            lambda: client.send(MAIL, ANN, [BOB], dsn=DSN(envelope_id="a" * size)),
        ):
            with pytest.raises(InvalidMail) as caught:
                call()
            assert size > 10_000 or len(str(caught.value)) < 20_000
    untouched(server)


# U+760D and U+760A are CR and LF once cut to one octet; the others become < > and blank by NFKC.
LOOK_ALIKES = ["\u760d\u760aRSET", "\uff1c", "\uff1e", "\u010d\u010a", "\u560d\u560a", "\u2260"]


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_i2_characters_that_become_line_ends(text: str) -> None:
    """Without SMTPUTF8 such an address is not sent; with it the server gets the UTF-8 of exactly these characters."""
    address = f"bob{text}@example.com"
    for extensions in (("8BITMIME",), ("8BITMIME", "SMTPUTF8")):
        with Server(Script(extensions=extensions)) as server, SyncClient(server.url, **OPTIONS) as client:
            try:
                client.send(MAIL, ANN, [address])
            except NotSupported:
                assert "SMTPUTF8" not in extensions
                assert b"MAIL" not in server.sessions[0].octets_in
            else:
                assert "SMTPUTF8" in extensions
                assert f"RCPT TO:<{address}>".encode() in server.sessions[0].said("C")
        assert not server.sessions[0].errors


# Texts of one recipient that two readers may understand differently: what goes to RCPT, or None for a refusal.
DIFFERENTIALS: dict[str, str | None] = {
    '"x@evil.example y"@example.com': '"x@evil.example y"@example.com',
    '"x@evil.example"@example.com': '"x@evil.example"@example.com',
    "x@evil.example@example.com": None,
    "<x@evil.example>@example.com": None,
    "x@evil.example <bob@example.com>": None,
    '"x@evil.example" <bob@example.com>': BOB,
    "bob@example.com <x@evil.example>": None,
    "bob@example.com>": None,
    "bob@example.com> ORCPT=rfc822;x@evil.example": None,
    "bob@example.com ORCPT=x": None,
    "bob@example.com x@evil.example": None,
    "bob@example.com(x@evil.example)": BOB,
    "bob(\\)@evil.example": None,
    "bob@example.com,x@evil.example": None,
    "bob@example.com;x@evil.example": None,
    "friends:bob@example.com,x@evil.example;": None,
    "=?utf-8?q?x=40evil.example=3e?= <bob@example.com>": BOB,
    "=?utf-8?q?x=40evil.example?=@example.com": None,
    "=?utf-8?b?eEBldmlsLmV4YW1wbGU=?=": None,
    "@evil.example:bob@example.com": None,
    "<@evil.example:bob@example.com>": None,
    "evil.example!bob": None,
    "bob@example.com\u3002evil.example": None,
    "bob@exa\u00admple.com": None,
    "bob\uff20evil.example@example.com": "bob\uff20evil.example@example.com",
    "bob@example.com\\@evil.example": None,
    '"bob"x@example.com': None,
    '"bob"@evil.example"@example.com': None,
    "bob@[127.0.0.1]@evil.example": None,
    "bob@[127.0.0.1": None,
    "bob@127.0.0.1]": None,
    "bob@-evil.example": None,
    "bob@.example.com": None,
    "bob@example..com": None,
    ".bob@example.com": None,
    "bob@": None,
    "@example.com": None,
    "bob": None,
    "": None,
    "<>": None,
    "-oQ/tmp@example.com": "-oQ/tmp@example.com",
    "bob+x%evil.example@example.com": "bob+x%evil.example@example.com",
    "\u0062\u006f\u0062@\u0435xample.com": "bob@xn--xample-2of.com",
}


def wire(text: str, *, how: str) -> str | None:
    """The one forward-path that a text becomes, or None where it is refused."""
    try:
        if how == "argument":
            prepared = run(prepare(MAIL, ANN, [text], run=run_inline))
        elif how == "header":
            octets = f"From: {ANN}\r\nTo: {text}\r\n\r\nhello\r\n".encode()
            prepared = run(prepare(octets, run=run_inline))
        else:
            prepared = run(prepare(Message(sender=ANN, to=[text]), run=run_inline))
    except InvalidMail:
        return None
    assert len(prepared.envelope.forward_paths) >= 1
    return " ".join(path.address for path in prepared.envelope.forward_paths)


@pytest.mark.parametrize("text", DIFFERENTIALS)
def test_i3_addresses_that_readers_read_differently(text: str) -> None:
    """A recipient is exactly what stands in the text, or refused: never another domain than the caller's checks saw."""
    expected = DIFFERENTIALS[text]
    got = wire(text, how="argument")
    if text in {"bob@example.com\u3002evil.example", "bob@exa\u00admple.com"}:
        assert got in {None, "bob@example.com.evil.example", "bob@example.com"}  # as UTS 46 maps them, never otherwise
        return
    assert got == expected
    assert wire(text, how="message") == expected


@pytest.mark.parametrize("text", [text for text in DIFFERENTIALS if text and "," not in text and ";" not in text])
def test_i3_the_header_is_read_as_strictly(text: str) -> None:
    """Recipients taken from a header field are read by the same strict rules."""
    assert wire(text, how="header") == wire(text, how="argument")


NESTED = {
    "comments": lambda depth: "(" * depth + ")" * depth + BOB,
    "open comments": lambda depth: "(" * depth + BOB,
    "groups": lambda depth: "a:" * depth + BOB + ";" * depth,
    "commas": lambda depth: "," * depth + BOB,
    "quotes": lambda depth: '"' * depth + BOB,
    "backslashes": lambda depth: '"' + "\\" * depth,
    "angles": lambda depth: "<" * depth + BOB + ">" * depth,
    "blanks": lambda depth: " \t" * depth + BOB,
    "dots": lambda depth: "a." * depth + "b@example.com",
    "words": lambda depth: "a " * depth + f"<{BOB}>",
    "encoded words": lambda depth: "=?utf-8?q?a?= " * depth + f"<{BOB}>",
    "half encoded words": lambda depth: "=?utf-8?q?" * depth,
    "ats": lambda depth: "@" * depth,
    "literals": lambda depth: "a@[" + "1." * depth + "]",
    "quoted pairs": lambda depth: '"' + "\\a" * depth + '"@example.com',
    "open quoted pairs": lambda depth: '"' + "\\a" * depth,
    "comment pairs": lambda depth: "(" + "\\a" * depth,
}


def steps(text: str) -> int:
    """How many lines of Python it takes to read a text as a recipient: a clock that any machine shares."""
    count = 0

    def trace(frame: Any, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        wire(text, how="argument")
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("shape", NESTED)
def test_i4_nesting_and_repetition(shape: str) -> None:
    """Deep nesting is refused without recursion, and ten times the text takes no more than twelve times the steps."""
    assert wire(NESTED[shape](300_000), how="argument") in {None, BOB}
    small, large = steps(NESTED[shape](500)), steps(NESTED[shape](5000))
    assert large <= 12 * small + 1000


def names(octets: bytes) -> list[str]:
    """The names of the fields of a header, as a reader finds them who takes any line end for one."""
    header = re.split(rb"\r\n\r\n", octets)[0]
    lines = re.split(rb"\r\n|\r|\n", header)
    return sorted(line.split(b":")[0].decode().lower() for line in lines if line[:1] not in {b" ", b"\t"})


def delivered(message: Any, recipients: list[str] | None = None) -> Received | None:
    """What a server gets of a message, in memory; None where it is refused."""
    try:
        prepared = run(prepare(message, recipients=recipients, run=run_inline))
    except InvalidMail:
        return None
    talk = Talk(Script())
    talk.open()
    outcome = talk.send(prepared)
    assert not outcome.error
    assert not talk.dialogue.session.errors
    (mail,) = talk.received
    return mail


FIELDS: dict[str, Callable[[str], Message]] = {
    "sender name": lambda text: Message(sender=f'"Ann {text}" <{ANN}>', to=BOB),
    "sender address": lambda text: Message(sender=f"ann{text}@example.com", to=BOB),
    "to name": lambda text: Message(sender=ANN, to=[f"Bob {text} <{BOB}>"]),
    "to encoded word": lambda text: Message(sender=ANN, to=[f"=?utf-8?q?{_quoted(text)}?= <{BOB}>"]),
    "to address": lambda text: Message(sender=ANN, to=f"bob{text}@example.com"),
    "cc name": lambda text: Message(sender=ANN, to=BOB, cc=[f'"Cy {text}" <cy@example.com>']),
    "bcc name": lambda text: Message(sender=ANN, to=BOB, bcc=[f'"Di {text}" <di@example.com>']),
    "reply_to name": lambda text: Message(sender=ANN, to=BOB, reply_to=f'"Ed {text}" <ed@example.com>'),
    "subject": lambda text: Message(sender=ANN, to=BOB, subject=f"Hi {text}"),
    "header value": lambda text: Message(sender=ANN, to=BOB, headers={"X-Mine": f"value {text}"}),
    "header name": lambda text: Message(sender=ANN, to=BOB, headers={f"X-Mine{text}": "value"}),
    "list field": lambda text: Message(sender=ANN, to=BOB, headers={"List-Unsubscribe": f"<mailto:x>{text}"}),
    "message id": lambda text: Message(sender=ANN, to=BOB, headers={"Message-ID": f"<1{text}@example.com>"}),
    "date": lambda text: Message(sender=ANN, to=BOB, headers={"Date": f"Mon, 1 Jan 2024 00:00:00 +0000{text}"}),
    "filename": lambda text: Message(sender=ANN, to=BOB, attachments=[Attachment(b"x", filename=f"a{text}.txt")]),
    "content type": lambda text: Message(sender=ANN, to=BOB, attachments=[Attachment(b"x", "a", f"text/plain{text}")]),
    "content id": lambda text: Message(
        sender=ANN, to=BOB, html="<p>", attachments=[Attachment(b"x", "a", "image/png", f"logo{text}")]
    ),
    "text": lambda text: Message(sender=ANN, to=BOB, text=f"Hi {text}"),
    "html": lambda text: Message(sender=ANN, to=BOB, html=f"<p>{text}</p>"),
}
INJECTED = [bad + "Bcc: eve@evil.example" for bad in BAD.values()] + [
    f"{bad}{bad}<script>" for bad in ("\r", "\n", "\r\n", "\x85", "\u2028")
]


def _quoted(text: str) -> str:
    return "".join(f"={octet:02X}" for octet in text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("place", FIELDS)
@pytest.mark.parametrize("text", INJECTED, ids=ascii)
def test_i5_header_injection(place: str, text: str) -> None:
    """No argument of a message adds a field or a line: it is refused, or the fields are those of the clean message."""
    clean = delivered(FIELDS[place]("") if place not in {"text", "html"} else FIELDS[place]("x"))
    assert clean is not None
    try:
        message = FIELDS[place](text)
    except InvalidMail:
        return
    mail = delivered(message)
    if mail is None:
        return
    assert names(mail.octets) == names(clean.octets)
    assert mail.paths == clean.paths
    header = mail.octets.split(b"\r\n\r\n")[0]
    assert b"\nBcc" not in header
    assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", header)
    assert place in {"text", "html"} or b"<script>" not in mail.octets.split(b"\r\n\r\n", 1)[1]


def test_i5_every_argument_is_tried() -> None:
    """No argument of Message or Attachment is left out above."""
    tried = {place.split(" ")[0] for place in FIELDS} | {"headers", "attachments"}
    assert set(inspect.signature(Message).parameters) <= tried
    assert {"content", "filename", "content_type", "content_id"} == set(inspect.signature(Attachment).parameters)


def _stdlib(name: str, text: str) -> OldMessage:
    """A message of the standard library with this text in one place, past its own checks where there are some."""
    message: OldMessage = OldMessage() if name.startswith("old") else EmailMessage(SMTP_POLICY)
    message.set_raw("From", ANN)
    message.set_raw("To", BOB + text if name == "old to" else BOB)
    message.set_payload("hello")
    if name.endswith("subject"):
        message.set_raw("Subject", f"Hi{text}")
    elif name.endswith("name"):
        message.set_raw(f"X-Mine{text}", "value")
    elif name.endswith("type"):
        message.set_raw("Content-Type", f"text/plain; name=a{text}")
    elif name == "new filename":
        assert isinstance(message, EmailMessage)
        message.add_attachment(b"x", "text", "plain", filename=f"a{text}.txt")
    return message


@pytest.mark.parametrize(
    "text", [*(f"{end}Bcc: eve@evil.example" for end in ("\r\n", "\n", "\r")), "\r\n\r\n<script>", "\n\n"], ids=repr
)
@pytest.mark.parametrize(
    "place", ["old subject", "old name", "old type", "old to", "new subject", "new name", "new type", "new filename"]
)
def test_i5_messages_of_the_standard_library(place: str, text: str) -> None:
    """What the standard library's own checks let through is refused, or adds no field on the wire."""
    assert delivered(_stdlib(place, "x"), [BOB]) is not None
    try:
        message = _stdlib(place, text)
    except ValueError:
        return  # its own check
    mail = delivered(message, [BOB])
    if mail is None:
        return
    assert "bcc" not in names(mail.octets)
    assert mail.paths == (BOB,)
    assert b"<script>" not in mail.octets.partition(b"\r\n\r\n")[2].splitlines()
    assert not re.search(rb"\n(<script>|Bcc)", mail.octets.split(b"\r\n\r\n")[0])


@pytest.mark.parametrize("text", ["\r\nX", "\n\n<script>", "\r\n\r\n<script>", "\r\rX"], ids=repr)
def test_i5_filenames_in_parts_of_the_old_kind(text: str) -> None:
    """A line end in a file name given to MIMEBase, which does not look, adds no line to the header of the part."""
    message, part = MIMEMultipart(), MIMEBase("application", "octet-stream")
    message["From"], message["To"] = ANN, BOB
    part.set_payload("x")
    part.add_header("Content-Disposition", "attachment", filename=f"a{text}")
    message.attach(part)
    mail = delivered(message)
    if mail is not None:
        header = mail.octets.partition(b"octet-stream\r\n")[2].partition(b"\r\n\r\n")[0]
        assert all(re.match(rb"[!-9;-~]+:|[ \t]", line) for line in header.split(b"\r\n"))


SMUGGLED = [
    b"\n.\n",
    b"\n.\r",
    b"\r.\n",
    b"\r.\r",
    b"\n.\r\n",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r\n.\n",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n",
    b"\r\n\x00.\r\n",
    b"\r\n.\r\n",
]
SECOND = b"MAIL FROM:<eve@evil.example>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\nFrom: eve\r\n\r\nsmuggled\r\n.\r\n"


def mended(octets: bytes) -> bytes:
    """What the line ends of mail data become, by an expression of its own."""
    octets = re.sub(rb"\r\n|\r|\n", b"\r\n", octets)
    return octets if octets.endswith(b"\r\n") or not octets else octets + b"\r\n"


def chunked(octets: bytes, borders: tuple[int, ...]) -> list[bytes]:
    """The octets cut at these places."""
    edges = (0, *borders, len(octets))
    return [octets[start:end] for start, end in itertools.pairwise(edges)]


def told(chunks: list[bytes], *, strict: bool = False) -> Mail:
    """A mail from a source that gives these chunks once."""
    data = MailData(lambda: iter(chunks), eight_bit=False, strict=strict, one_shot=True)
    return Mail(Envelope.of(ANN, [BOB]), data)


@pytest.mark.parametrize("sequence", SMUGGLED, ids=repr)
@pytest.mark.parametrize("form", ["data", "data, lock-step", "bdat", "lmtp"])
def test_i6_smuggling(sequence: bytes, form: str) -> None:
    """No sequence, cut at any place, makes two mails of one: all line ends are CRLF, and only the last dot is alone."""
    script, options = FORMS[form]
    octets = b"From: ann\r\n\r\nhello" + sequence + SECOND
    start = octets.index(sequence)
    cuts = [(), *((start + cut,) for cut in range(len(sequence) + 1)), tuple(range(start, start + len(sequence)))]
    for borders in cuts:
        talk = Talk(script, options)
        talk.open()
        outcome = talk.send(told(chunked(octets, tuple(borders))))
        assert not talk.dialogue.session.errors
        if b"\0" in sequence:
            assert isinstance(outcome.error, InvalidMail)
            assert not talk.received
            assert talk.session.channel.broken
            continue
        assert outcome.accepted == (BOB,)
        (mail,) = talk.received
        assert mail.octets == mended(octets)
        assert mail.reverse_path == ANN
        wire_octets = bytes(talk.stream.sent)
        assert not re.search(rb"\r(?!\n)|(?<!\r)\n", wire_octets)
        if "bdat" not in form:
            assert len(re.findall(rb"\r\n\.\r\n", wire_octets)) == 1
            assert wire_octets.endswith(b"\r\n.\r\n")


@pytest.mark.parametrize("sequence", SMUGGLED[:-1], ids=repr)
def test_i6_strict_refuses(sequence: bytes) -> None:
    """With newlines="strict" a bare CR or LF is refused, and nothing is delivered."""
    octets = b"From: ann@example.com\r\nTo: bob@example.com\r\n\r\nhello" + sequence + SECOND
    strict: OptionKeywords = {**OPTIONS, "newlines": "strict"}
    with Server() as server, SyncClient(server.url, **strict) as client:
        for message in (octets, iter([octets]), iter([bytes([octet]) for octet in octets])):
            with pytest.raises(InvalidMail):
                client.send(message)
    assert not server.received
    assert not any(session.errors for session in server.sessions)


ALPHABET = (b".", b"\r", b"\n", b"a")


@pytest.mark.parametrize("form", ["data", "bdat"])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5])
def test_i7_dots_and_line_ends_at_every_border(form: str, length: int) -> None:
    """Every mail of up to five dots, CRs, LFs and letters, cut anywhere, arrives as it was but for its line ends."""
    script, options = FORMS[form]
    talk = Talk(script, options)
    talk.open()
    for letters in itertools.product(ALPHABET, repeat=length):
        octets = b"".join(letters)
        for border in range(length + 1):
            outcome = talk.send(told(chunked(octets, (border,))))
            assert outcome.accepted == (BOB,)
            assert talk.received.pop().octets == mended(octets)
    assert not talk.dialogue.session.errors


def test_i7_borders_of_our_own_pieces() -> None:
    """A dot or a CR at the border of the pieces in which mail data is written is no exception."""
    for shift in range(-3, 4):
        octets = b"x" * (65_536 + shift - 4) + b"\r\n.\r\n..\r\n" + b"y" * 65_536 + b"\r\n."
        talk = Talk(Script())
        talk.open()
        assert talk.send(Mail(Envelope.of(ANN, [BOB]), MailData.of(octets))).accepted
        assert talk.received[0].octets == mended(octets)


@pytest.mark.parametrize("given", [0, 1, 99, 101, 5000, 200_000])
def test_i8_a_source_that_gives_another_size(given: int) -> None:
    """A source that gives fewer or more octets than were counted: InvalidMail, no mail, and no octet too many."""
    data = MailData(lambda: iter([b"x" * given]), 100, eight_bit=False, mended=True, wire_safe=True)
    talk = Talk(Script(), {"chunking": "always"})
    talk.open()
    outcome = talk.send(Mail(Envelope.of(ANN, [BOB]), data))
    assert isinstance(outcome.error, InvalidMail)
    assert not talk.received
    assert talk.session.channel.broken
    assert len(talk.stream.sent.partition(b"BDAT 100 LAST\r\n")[2]) <= 100


@pytest.mark.parametrize("size", [None, 300_000])
@pytest.mark.parametrize("chunking", ["never", "always"])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_i8_a_source_that_fails(size: int | None, chunking: Any, after: int) -> None:
    """A source that fails in the middle ends the session: no end mark, no LAST, no RSET, nothing delivered."""

    def tell() -> Iterator[bytes]:
        for _ in range(after):
            yield b"y" * 99_998 + b"\r\n"
        raise OSError("the disk is gone")

    talk = Talk(Script(), {"chunking": chunking})
    talk.open()
    data = MailData(tell, size, eight_bit=False, mended=True, wire_safe=True)
    outcome = talk.send(Mail(Envelope.of(ANN, [BOB]), data))
    assert isinstance(outcome.error, InvalidMail)
    assert not outcome.in_doubt
    agrees(talk, outcome)
    assert not talk.received
    assert talk.session.channel.broken
    assert b"RSET" not in talk.stream.sent
    assert not talk.stream.sent.endswith(b"\r\n.\r\n")


def test_i8_a_file_that_changes(tmp_path: Path) -> None:
    """A file that shrinks or grows between counting and sending is not delivered as something else."""
    path = tmp_path / "mail.eml"
    for change in (b"", b"x" * 10, b"y" * 400_000):
        path.write_bytes(MAIL + b"x" * 1000)
        prepared = run(prepare(path, run=run_inline))
        path.write_bytes(change)
        ways: tuple[OptionKeywords, ...] = ({"chunking": "never"}, {"chunking": "always"})
        for options in ways:
            talk = Talk(Script(), options)
            talk.open()
            outcome = talk.send(prepared)
            assert isinstance(outcome.error, SMTPError)
            assert not talk.received
