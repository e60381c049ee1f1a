"""``smtpkit.Message``: what people write becomes a mail, and what they write wrongly is named."""

import re
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import smtpkit
from smtpkit.errors import InvalidMail
from smtpkit.message.message import Message, prepare
from smtpkit.message.mime import Attachment
from tests.streams import run as drive

PEOPLE: dict[str, Any] = {"sender": "Ann <ann@example.com>", "to": "bob@example.com"}


async def _inline(function: Any) -> Any:
    return function()


def _parsed(message: Message) -> EmailMessage:
    parsed = message_from_bytes(message.as_bytes(), policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def test_the_simplest() -> None:
    """A subject, a text, who and to whom: no field more than needed, nothing of the machine."""
    parsed = _parsed(Message(subject="Hi", text="Hello\n", **PEOPLE))
    assert parsed.keys() == [
        "From", "To", "Subject", "Date", "Message-ID", "Content-Type", "Content-Transfer-Encoding", "MIME-Version",
    ]  # fmt: skip
    assert parsed.get_content() == "Hello\r\n"
    assert parsed["Date"].endswith(" +0000")
    assert abs((parsedate_to_datetime(parsed["Date"]) - datetime.now(UTC)).total_seconds()) < 60
    assert re.fullmatch(r"<[0-9a-f]{32}@example\.com>", parsed["Message-ID"])


def test_prepared() -> None:
    """Everybody named gets it, Bcc is told to the server only, and the mail keeps its Message-ID."""
    message = smtpkit.Message(
        subject="Grüße",
        sender="Ännchen <ann@straße.example>",
        to=["Bob <bob@example.com>", "jörg@example.com"],
        cc="c@example.com, d@example.com",
        bcc=iter(["e@example.com", "bob@example.com"]),
        reply_to="r@example.com",
        text="x",
    )
    mail = drive(prepare(message, run=_inline))
    paths = [path.address for path in mail.envelope.forward_paths]
    assert paths == [f"{name}@example.com" for name in ("bob", "jörg", "c", "d", "e")]
    assert mail.envelope.reverse_path == "ann@xn--strae-oqa.example"
    assert mail.envelope.utf8
    tell: Any = mail.mail_data.tell
    octets = b"".join(tell())
    assert octets == b"".join(tell())
    assert b"e@example.com" not in octets
    assert b"Reply-To: r@example.com\r\n" in octets
    assert mail.message_id == message.message_id
    assert message.message_id.encode() in message.as_bytes()


def test_text_and_html() -> None:
    """Text and HTML are alternatives; HTML may stand alone; nothing at all is an empty text; all in 7 bits."""
    both = Message(text="é\n", html="<p>é</p>\n", **PEOPLE)
    assert [part.get_content_type() for part in _parsed(both).walk()] == [
        "multipart/alternative",
        "text/plain",
        "text/html",
    ]
    assert both.as_bytes().isascii()
    assert _parsed(Message(html="<p>", **PEOPLE)).get_content_type() == "text/html"
    assert _parsed(Message(**PEOPLE)).get_content() == "\r\n"


def test_attachments(tmp_path: Path) -> None:
    """Files are read when the mail is made; octets, inline pictures and whole mails are attached too."""
    (tmp_path / "ä b.pdf").write_bytes(b"%PDF\0")
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f")
    mail = b"From: x@example.com\r\nSubject: old\r\n\r\ninside\r\n"
    message = Message(
        text="t",
        html='<img src="cid:logo">',
        attachments=[
            tmp_path / "ä b.pdf",
            Attachment(tmp_path / "a.tar.gz", "b.tar.gz"),
            Attachment(b"\x89PNG", "logo.png", content_id="logo"),
            Attachment(b"a,b\n", "data.bin", "text/csv"),
            Attachment(bytearray(mail), "old.eml"),  # type: ignore[arg-type]  # taken all the same
            Attachment(b"x: \xe9", "eight.eml"),
            Attachment(b"x", content_type="message/partial"),
        ],
        **PEOPLE,
    )
    parsed = _parsed(message)
    assert [part.get_content_type() for part in parsed.walk()] == [
        "multipart/mixed", "multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png",
        "application/pdf", "application/octet-stream", "text/csv", "message/rfc822", "text/plain",
        "application/octet-stream", "application/octet-stream",
    ]  # fmt: skip
    assert [part.get_filename() for part in parsed.iter_attachments()] == [
        "ä b.pdf",
        "b.tar.gz",
        "data.bin",
        "old.eml",
        "eight.eml",
        None,
    ]
    assert next(iter(parsed.iter_attachments())).get_content() == b"%PDF\0"
    assert b"Content-ID: <logo>" in message.as_bytes()
    assert drive(prepare(message, run=_inline)).mail_data.eight_bit is False
    alone = Message(html="<img>", attachments=(Attachment(b"x", "a.png", content_id="a@b"),), **PEOPLE)
    assert _parsed(alone).get_content_type() == "multipart/related"


def test_reading_an_attachment(tmp_path: Path) -> None:
    """An attachment gives its octets, whether it has them or its file does."""
    (tmp_path / "a.bin").write_bytes(b"abc")
    assert Attachment(tmp_path / "a.bin").read() == Attachment(b"abc").read() == b"abc"


def test_a_missing_attachment(tmp_path: Path) -> None:
    """A file that is not there when the mail is made is named."""
    message = Message(attachments=[tmp_path / "none.pdf"], **PEOPLE)
    with pytest.raises(InvalidMail, match=r"attachments: .*none\.pdf: No such file"):
        drive(prepare(message, run=_inline))


def test_headers() -> None:
    """Further fields are encoded, addresses in them are not, and Date and Message-ID replace ours."""
    headers = {
        "X-Note": "é",
        "Sender": "Sé <s@faß.de>",
        "message-id": "<own@example.com>",
        "Date": "Mon, 01 Jan 2024 00:00:00 +0000",
        "List-Unsubscribe": "<https://example.com/" + "x" * 90 + ">",
    }
    octets = Message(headers=headers, **PEOPLE).as_bytes()
    assert b"X-Note: =?utf-8?b?w6k=?=\r\n" in octets
    assert b"Sender: =?utf-8?b?U8Op?= <s@xn--fa-hia.de>\r\n" in octets
    assert octets.lower().count(b"message-id:") == octets.count(b"Date:") == 1
    assert b"<https://example.com/" + b"x" * 90 + b">" in octets
    assert Message(headers=headers, **PEOPLE).message_id == "<own@example.com>"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"sender": "ann"}, "^sender "),
    ({"sender": ""}, "^sender "),
    ({"sender": None}, "^sender: "),
    ({"sender": "a@b.example, c@d.example"}, "^sender "),
    ({"sender": "Ann\r\nBcc: x <ann@example.com>"}, "^sender "),
    ({"to": "a@b@c"}, "^to "),
    ({"to": 7}, "^to: "),
    ({"to": b"a@b.example"}, "^to: "),
    ({"cc": ["a@b.example, c@d.example"]}, "^cc "),
    ({"bcc": ["a@b.example\nx"]}, "^bcc "),
    ({"reply_to": "nobody"}, "^reply_to "),
    ({"subject": "a\nb"}, "^Subject "),
    ({"subject": b"a"}, "^subject: "),
    ({"text": "a\0b"}, "^text: "),
    ({"html": "a\ud800"}, "^html: "),
    ({"text": b"a"}, "^text: "),
    ({"headers": {"X": "a\r\nBcc: x"}}, "^X "),
    ({"headers": {"X\r\nBcc": "a"}}, "header field name"),
    ({"headers": {"Subject": "a"}}, "^headers: Subject is set by subject="),
    ({"headers": {"BCC": "a"}}, "^headers: BCC is set by bcc="),
    ({"headers": {"Content-Type": "a"}}, "^headers: Content-Type is set by the content"),
    ({"headers": {"X": 7}}, "^headers: 'X'"),
    ({"headers": {7: "X"}}, "^headers: 7"),
    ({"headers": [("X", "a")]}, "^headers: a mapping"),
    ({"attachments": ["a.pdf"]}, r"^attachments: Path\('a.pdf'\)"),
    ({"attachments": "a.pdf"}, "^attachments: a list"),
    ({"attachments": 7}, "^attachments: a list"),
    ({"attachments": [Attachment(b"x", content_id="a")]}, "content_id is for html="),
]


@pytest.mark.parametrize(("arguments", "why"), WRONG)
def test_wrong_arguments(arguments: dict[str, Any], why: str) -> None:
    """What cannot be sent is refused when the message is made, and the argument is named."""
    with pytest.raises(InvalidMail, match=why):
        Message(**(PEOPLE | arguments))


WRONG_ATTACHMENTS: list[dict[str, Any]] = [
    {"content": "text"},
    {"content": b"", "filename": "a\r\nBcc: x"},
    {"content": b"", "filename": "a\0.pdf"},
    {"content": b"", "filename": ""},
    {"content": b"", "filename": "x" * 256},
    {"content": b"", "content_type": "pdf"},
    {"content": b"", "content_type": "a/b\r\nX: y"},
    {"content": b"", "content_id": "a>b"},
]


@pytest.mark.parametrize("arguments", WRONG_ATTACHMENTS)
def test_wrong_attachments(arguments: dict[str, Any]) -> None:
    """So are attachments."""
    with pytest.raises(InvalidMail, match=r"^attachments: "):
        Attachment(**arguments)


ANY = st.text(max_size=60)


@settings(deadline=None)
@given(subject=ANY, name=ANY, text=ANY, filename=ANY, value=ANY)
def test_no_text_gains_a_field_or_a_part(subject: str, name: str, text: str, filename: str, value: str) -> None:
    """Whatever the texts, the mail is refused or has the fields and the parts that were meant."""
    try:
        message = Message(
            sender="ann@example.com",
            to='"' + name.replace("\\", "").replace('"', "") + '" <bob@example.com>',
            subject=subject,
            text=text,
            attachments=[Attachment(b"x", filename)],
            headers={"X-Value": value},
        )
    except InvalidMail:
        assert (
            re.search("[\0-\x08\x0a-\x1f\x7f\ud800-\udfff]", subject + name + text + filename + value) or not filename
        )
        return
    parsed = _parsed(message)
    assert sorted(set(parsed.keys()) - {"Subject"}) == [
        "Content-Type", "Date", "From", "MIME-Version", "Message-ID", "To", "X-Value",
    ]  # fmt: skip
    assert [part.get_content_type() for part in parsed.walk()][:2] == ["multipart/mixed", "text/plain"]
    assert len(list(parsed.walk())) == 3
    mail = drive(prepare(message, run=_inline))
    assert [path.address for path in mail.envelope.forward_paths] == ["bob@example.com"]
