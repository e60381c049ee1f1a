"""What each property does that no other test is about: the fields it writes, the login it chooses, what it refuses."""

import socket
from typing import Any

import pytest

from smtpkit import SMTP, ComponentError
from smtpkit.component.fields import LINES, OCTETS, SECRET, TEXT, Field
from smtpkit.testing import Script, Server
from tests.component.ways import make


def sent(**properties: Any) -> Any:
    """The mail that arrives where these properties are set."""
    with Server() as server:
        smtp = make("blocking", server)
        for name, value in properties.items():
            setattr(smtp, name, value)
        smtp.send()
        assert server.sessions[0].errors == []
        return server.received[0]


@pytest.mark.parametrize(
    ("name", "value", "field", "text"),
    [
        ("from_", '"Ann, A." <ann@example.com>', "From", '"Ann, A." <ann@example.com>'),
        ("from_", "Jürgen <j@bücher.example>", "From", "Jürgen <j@xn--bcher-kva.example>"),
        ("send_to", "bob@example.com, Cy <cy@example.com>", "To", "bob@example.com, Cy <cy@example.com>"),
        ("cc", "Dee <dee@example.com>", "Cc", "Dee <dee@example.com>"),
        ("reply_to", "a@example.com, b@example.com", "Reply-To", "a@example.com, b@example.com"),
        ("subject", "Grüße =?utf-8?q?x?= ", "Subject", "Grüße =?utf-8?q?x?= "),
        ("read_receipt_to", "ann@example.com", "Disposition-Notification-To", "ann@example.com"),
        ("delivery_notification_to", "ann@example.com", "Return-Receipt-To", "ann@example.com"),
        ("other_headers", "X-Name: Grüße", "X-Name", "Grüße"),
        ("other_headers", "Resent-To: Jürgen <j@example.com>", "Resent-To", "Jürgen <j@example.com>"),
        ("importance", 2, "Importance", "normal"),
        ("priority", 3, "Priority", "non-urgent"),
        ("sensitivity", 2, "Sensitivity", "Private"),
    ],
)
def test_fields(name: str, value: object, field: str, text: str) -> None:
    """A property writes its field, once, encoded where it must be, and read back it says the same."""
    mail = sent(**{name: value})
    assert [str(each) for each in mail.message().get_all(field)] == [text]
    assert mail.octets.partition(b"\r\n\r\n")[0].isascii()


def test_nothing_is_written_for_what_is_empty() -> None:
    """The least mail has five fields."""
    names = [name for name, _ in sent().message().items()]
    assert names == ["From", "To", "Date", "Message-ID"]


def test_the_header_is_read_back() -> None:
    """The header's text, and its fields by number, are those that would be sent; without From there is none."""
    smtp = make("blocking", None)
    smtp.message_id, smtp.message_date = "<x@example.com>", ""
    smtp.other_headers = "X-Long: one\r\n two"
    assert smtp.message_headers_string == (
        "From: Ann <ann@example.com>\r\nTo: bob@example.com\r\nMessage-ID: <x@example.com>\r\nX-Long: one\r\n two\r\n"
    )
    assert list(smtp.message_header_field) == ["From", "To", "Message-ID", "X-Long"]
    assert smtp.message_header_value[3] == "one two"
    assert smtp.message_header_count == 4
    with pytest.raises(IndexError):
        _ = smtp.message_header_field[4]
    smtp.message = "Subject: raw\n\nbody"
    assert smtp.message_headers_string == "Subject: raw\r\n"
    assert SMTP().message_headers_string == ""
    smtp.from_, smtp.message = "no address", b""
    with pytest.raises(ComponentError, match="From"):
        _ = smtp.message_header_count


@pytest.mark.parametrize("row", [row for row in SMTP.rows() if isinstance(row, Field) and row.kind in (TEXT, SECRET)])
@pytest.mark.parametrize("text", ["a\r\nRCPT TO:<eve@example.com>", "a\nb", "a\rb", "a\0b", "a\x7fb"])
def test_no_property_takes_a_line_end(row: Field[str], text: str) -> None:
    """A text with a line end or another control is refused where it is set, and changes nothing."""
    smtp = SMTP()
    before = getattr(smtp, row.name)
    with pytest.raises(ComponentError, match=row.documented) as caught:
        setattr(smtp, row.name, text)
    assert caught.value.code == 168
    assert getattr(smtp, row.name) == before


@pytest.mark.parametrize("row", [row for row in SMTP.rows() if isinstance(row, Field) and row.kind in (LINES, OCTETS)])
def test_no_text_takes_nul(row: Field[str]) -> None:
    """Texts of many lines take no NUL, and nothing but a text, or octets."""
    smtp = SMTP()
    for wrong in ("a\0b", 5, None):
        with pytest.raises(ComponentError, match=row.documented):
            setattr(smtp, row.name, wrong)


@pytest.mark.parametrize("ending", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_no_other_line_end_makes_a_line(ending: str) -> None:
    """What other readers take for a line end makes no field: it is refused, or encoded, or stays within its field."""
    with Server() as server:
        smtp = make("blocking", server)
        for name in ("subject", "other_headers", "send_to", "message_date", "message_id"):
            plain = getattr(smtp, name)
            prefix = "X: 1" if name == "other_headers" else "bob@example.com" if name == "send_to" else "x"
            try:
                setattr(smtp, name, f"{prefix}{ending}Bcc: eve@example.com")
                smtp.send()
            except ComponentError as error:
                assert error.code == 168  # noqa: PT017  it may raise or not
            setattr(smtp, name, plain)
        for mail in server.received:
            head = mail.octets.partition(b"\r\n\r\n")[0]
            assert not [line for line in head.split(b"\r\n") if line.lower().startswith(b"bcc")]
            assert mail.paths == ("bob@example.com",)


@pytest.mark.parametrize(("number", "name"), [(0, "PLAIN"), (1, "CRAM-MD5"), (4, "PLAIN")])
def test_auth_mechanism(number: int, name: str) -> None:
    """0 takes the best that is offered, another number that mechanism alone."""
    with Server(Script(users={"ann": "s3cret"}, mechanisms=("PLAIN", "LOGIN", "CRAM-MD5"))) as server:
        smtp = make("blocking", server, allow_plaintext_auth=True)
        smtp.user, smtp.password, smtp.auth_mechanism = "ann", "s3cret", number
        smtp.send()
        assert server.received[0].user == "ann"
        assert server.sessions[0].said("C")[1].startswith(b"AUTH " + name.encode())


@pytest.mark.parametrize(("number", "name"), [(1, "CRAM-MD5"), (2, "NTLM"), (5, "DIGEST-MD5"), (6, "GSSAPI")])
def test_auth_mechanism_that_is_not_offered(number: int, name: str) -> None:
    """The mechanism that was chosen is not replaced by another: the error names it, and no secret was sent."""
    with Server(Script(users={"ann": "s3cret"}, mechanisms=("PLAIN",))) as server:
        smtp = make("blocking", server, allow_plaintext_auth=True)
        smtp.user, smtp.password, smtp.auth_mechanism = "ann", "s3cret", number
        with pytest.raises(ComponentError, match=name) as caught:
            smtp.connect()
        assert caught.value.code == 167
        assert not [line for line in server.sessions[0].said("C") if line.startswith(b"AUTH")]


def test_authorization_identity() -> None:
    """With PLAIN it is whom to act as."""
    with Server(Script(replies={"AUTH": "235 2.7.0 ok"}, users={"ann": "x"}, mechanisms=("PLAIN",))) as server:
        from base64 import b64decode

        smtp = make("blocking", server, allow_plaintext_auth=True)
        smtp.user, smtp.password = "ann", "s3cret"
        smtp.config("AuthorizationIdentity=bob")
        smtp.connect()
        line = server.sessions[0].said("C")[1]
        assert b64decode(line.split()[-1]) == b"bob\0ann\0s3cret"
        smtp.disconnect()


@pytest.mark.parametrize(
    ("name", "hello"),
    [("mail.example.com", "mail.example.com"), ("host", "[127.0.0.1]"), ("a_b.example", "[127.0.0.1]")],
)
def test_hello(monkeypatch: pytest.MonkeyPatch, name: str, hello: str) -> None:
    """Unset it is the host's name where that is one with a dot, else the address of this end."""
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    with Server() as server:
        make("blocking", server).send()
        assert server.received[0].hello == hello


def test_a_password_is_shown_nowhere() -> None:
    """Neither by repr nor by an error."""
    smtp = make("blocking", None)
    smtp.password, smtp.firewall_password = "s3cret", "s3cret"
    assert "s3cret" not in repr(smtp)
    with pytest.raises(ComponentError) as caught:
        smtp.config("FirewallPassword=s3cret\n")
    assert "s3cret" not in str(caught.value)


def test_the_component_goes_on_where_the_host_is_not_found() -> None:
    """A name that does not exist is error 11001, and the component can be used again."""
    with Server() as server:
        smtp = make("blocking", server)
        smtp.mail_server = "nothing.invalid"
        smtp.timeout = 20
        with pytest.raises(ComponentError) as caught:
            smtp.send()
        assert caught.value.code in {11001, 201}
        smtp.mail_server = server.host
        smtp.send()
        assert len(server.received) == 1
