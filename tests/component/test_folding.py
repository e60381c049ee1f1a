"""Header lines are as short as MaxHeaderLength and RFC 2047 want them, also where the text is encoded."""

import email
import email.policy
from email.header import decode_header, make_header

import pytest

from smtpkit import ComponentError
from smtpkit.testing import Server
from tests.component.ways import make

TEXTS = ("Grüße aus Köln " * 10, "日本語の件名" * 20, "ü" * 200, "é plain words follow " + "word " * 60)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("length", "longest"), [("80", 76), ("78", 76), ("70", 68), ("60", 58), ("0", 76)])
def test_encoded_words(text: str, length: str, longest: int) -> None:
    """A line with encoded words has 76 characters at most, the field's name counted, and reads as it was written."""
    smtp = make("blocking", None)
    smtp.config(f"MaxHeaderLength={length}")
    smtp.subject = text
    smtp.from_ = f"{text} <ann@example.com>"
    smtp.send_to = f"{text} <bob@example.com>, {text} <cy@example.com>"
    smtp.other_headers = f"X-A-Longer-Name-Than-Most: {text}"
    lines = smtp.message_headers_string.split("\r\n")
    assert max(len(line) for line in lines if "=?" in line) <= longest
    read = email.message_from_string(smtp.message_headers_string, policy=email.policy.default)
    assert read["Subject"] == text
    assert read["X-A-Longer-Name-Than-Most"] == text.strip()
    to = str(make_header(decode_header(email.message_from_string(smtp.message_headers_string)["To"])))
    assert to.split(",") == [f"{text.strip()} <bob@example.com>", f" {text.strip()} <cy@example.com>"]


@pytest.mark.parametrize("length", range(1, 40))
def test_what_is_too_short_for_anything(length: int) -> None:
    """It is folded wherever it may be, and says the same."""
    smtp = make("blocking", None)
    smtp.config(f"MaxHeaderLength={length}")
    smtp.config("Charset=iso-8859-1")
    smtp.subject, smtp.send_to = "Grüße an alle", "Jürgen <bob@example.com>, Cy <cy@example.com>"
    read = email.message_from_string(smtp.message_headers_string, policy=email.policy.default)
    assert read["Subject"] == smtp.subject
    assert read["To"] == smtp.send_to


@pytest.mark.parametrize(
    ("options", "wire"),
    [
        ("ORCPT=rfc822;rob@example.org", b"ORCPT=rfc822;rob@example.org"),
        ("ORCPT rob@example.org", b"ORCPT=rfc822;rob@example.org"),
        ("ORCPT=x400;/c=xx/", None),
        ("NOTIFY", None),
        ("NOTIFY=", None),
        ("NOTIFY=SOMETIMES", None),
        ("NOTIFY=SUCCESS,NEVER", None),
        ("RET=FULL", None),
        ("ORCPT=rfc822;a+0D+0AQUIT", None),
    ],
)
def test_recipient_options(options: str, wire: bytes | None) -> None:
    """What is none of RFC 3461 is refused before anything is said, and nothing is made of it that was not meant."""
    with Server() as server:
        smtp = make("blocking", server)
        smtp.send_to, smtp.message_recipient_count = "", 1
        smtp.message_recipient_address[0] = "bob@example.com"
        smtp.message_recipient_options[0] = options
        if wire is None:
            with pytest.raises(ComponentError) as caught:
                smtp.send()
            assert caught.value.code == 168
            assert not server.sessions
        else:
            smtp.send()
            (line,) = [line for line in server.sessions[0].said("C") if line.startswith(b"RCPT")]
            assert line == b"RCPT TO:<bob@example.com> " + wire
