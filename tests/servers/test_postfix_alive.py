"""The Postfix recipe, judged by smtplib, so that the tests built on it may trust it."""

import smtplib
import ssl
from email.message import EmailMessage
from uuid import uuid4

import pytest

from tests.servers.postfix import PASSWORD, USER, Postfix

pytestmark = pytest.mark.servers


def _mail(recipient: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = "ann@example.test"
    message["To"] = recipient
    message["Subject"] = "Hello"
    message.set_content("One line.\n.\nA dot before it.\n")
    return message


def _recipient() -> str:
    return f"alive-{uuid4().hex}@example.test"


def test_plain(postfix: Postfix) -> None:
    """A mail handed over in the clear arrives whole, with its lone dot."""
    recipient = _recipient()
    with smtplib.SMTP("127.0.0.1", postfix.port) as client:
        client.send_message(_mail(recipient))
    (mail,) = postfix.mail(recipient)
    assert mail.endswith(b"\n\nOne line.\n.\nA dot before it.\n")


def test_starttls_and_auth(postfix: Postfix) -> None:
    """STARTTLS verifies against the authority file, and the login is noted in the mail's trace."""
    recipient = _recipient()
    with smtplib.SMTP("localhost", postfix.port) as client:
        client.starttls(context=ssl.create_default_context(cafile=postfix.certificate))
        client.login(USER, PASSWORD)
        client.send_message(_mail(recipient))
    (mail,) = postfix.mail(recipient)
    assert b"Authenticated sender: tester@example.test" in mail


def test_wrong_password(postfix: Postfix) -> None:
    """A wrong password is refused."""
    with (
        smtplib.SMTP("localhost", postfix.port) as client,
        pytest.raises(smtplib.SMTPAuthenticationError),
    ):
        client.login(USER, "wrong")


def test_implicit_tls(postfix: Postfix) -> None:
    """The other port speaks TLS from the first octet."""
    recipient = _recipient()
    context = ssl.create_default_context(cafile=postfix.certificate)
    with smtplib.SMTP_SSL("localhost", postfix.tls_port, context=context) as client:
        client.login(USER, PASSWORD)
        client.send_message(_mail(recipient))
    assert postfix.mail(recipient)


def test_extensions(postfix: Postfix) -> None:
    """All extensions that the tests need are offered, and so are the mechanisms."""
    with smtplib.SMTP("127.0.0.1", postfix.port) as client:
        client.ehlo()
        offered = client.esmtp_features
    assert {"pipelining", "size", "starttls", "8bitmime", "dsn", "smtputf8", "chunking", "auth"} <= offered.keys()
    assert {"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"} <= set(offered["auth"].split())


def test_recipients_refused(postfix: Postfix) -> None:
    """``reject…`` is refused for good, ``defer…`` for now, and so is whoever lives elsewhere: nothing is relayed."""
    with smtplib.SMTP("127.0.0.1", postfix.port) as client:
        client.ehlo()
        client.mail("ann@example.test")
        assert client.rcpt("reject-me@example.test")[0] == 550
        assert client.rcpt("defer-me@example.test")[0] == 451
        code, text = client.rcpt("bob@elsewhere.invalid")
    assert (code, b"no outside mail" in text) == (550, True)


def test_address_in_utf8(postfix: Postfix) -> None:
    """A mailbox outside ASCII receives under SMTPUTF8."""
    recipient = f"bücher-{uuid4().hex}@example.test"
    with smtplib.SMTP("127.0.0.1", postfix.port) as client:
        client.send_message(_mail(recipient))
    (mail,) = postfix.mail(recipient)
    assert f"To: {recipient}\n".encode() in mail


@pytest.mark.parametrize("ending", [b"\n.\n", b"\r\n.\n", b"\n.\r\n"])
def test_bare_newline(postfix: Postfix, ending: bytes) -> None:
    """Postfix is strict: mail data with a bare line feed is refused rather than mended or cut there."""
    with smtplib.SMTP("127.0.0.1", postfix.port) as client:
        client.ehlo()
        client.mail("ann@example.test")
        client.rcpt("ann@example.test")
        client.putcmd("data")
        assert client.getreply()[0] == 354
        client.send(b"Subject: x\r\n\r\none" + ending + b"two\r\n.\r\n")
        code, text = client.getreply()
    assert (code, b"bare <LF>" in text) == (550, True)


def test_chunking(postfix: Postfix) -> None:
    """BDAT is taken."""
    recipient, octets = _recipient(), b"Subject: x\r\n\r\none\r\n"
    with smtplib.SMTP("127.0.0.1", postfix.port) as client:
        client.ehlo()
        client.mail("ann@example.test")
        client.rcpt(recipient)
        client.send(f"BDAT {len(octets)} LAST\r\n".encode() + octets)
        assert client.getreply()[0] == 250
    assert postfix.mail(recipient)


def test_mail_that_never_comes(postfix: Postfix) -> None:
    """Waiting for mail ends with an error that holds the log."""
    with pytest.raises(TimeoutError, match=r"0 of 1 mails for nobody-here@example\.test arrived\n.*postfix"):
        postfix.mail("nobody-here", timeout=0.1)
