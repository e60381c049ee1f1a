"""The aiosmtpd recipe, judged by smtplib, so that the tests built on it may trust it."""

import smtplib
import ssl

import pytest

from tests.servers.aiosmtpd_server import PASSWORD, USER, AiosmtpdServer

OCTETS = b"Subject: x\r\n\r\n.\r\n..two\r\nthree\r\n"


def test_plain(aiosmtpd_server: AiosmtpdServer) -> None:
    """What was handed over in the clear is kept octet for octet, with its envelope."""
    with smtplib.SMTP("127.0.0.1", aiosmtpd_server.port) as client:
        client.sendmail("ann@example.test", ["bob@example.test", "eve@example.test"], OCTETS, ["BODY=8BITMIME"])
        assert not client.has_extn("auth")
    (mail,) = aiosmtpd_server.received
    assert (mail.mail_from, mail.rcpt_tos) == ("ann@example.test", ["bob@example.test", "eve@example.test"])
    assert (mail.content, mail.user, mail.encrypted) == (OCTETS, None, False)
    assert "BODY=8BITMIME" in mail.mail_options
    assert mail.rcpt_options == ["", ""]


def test_starttls_and_auth(aiosmtpd_server: AiosmtpdServer) -> None:
    """STARTTLS verifies, and the login is kept with the mail."""
    with smtplib.SMTP("localhost", aiosmtpd_server.port) as client:
        client.starttls(context=ssl.create_default_context(cafile=aiosmtpd_server.certificate))
        client.login(USER, PASSWORD)
        client.sendmail("ann@example.test", "bob@example.test", OCTETS)
    (mail,) = aiosmtpd_server.received
    assert (mail.content, mail.user, mail.encrypted) == (OCTETS, USER, True)


def test_implicit_tls(aiosmtpd_tls_server: AiosmtpdServer) -> None:
    """Under implicit TLS too, and a wrong password is refused there."""
    server = aiosmtpd_tls_server
    context = ssl.create_default_context(cafile=server.certificate)
    with smtplib.SMTP_SSL("localhost", server.port, context=context) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login(USER, "wrong")
        client.login(USER, PASSWORD)
        client.sendmail("ann@example.test", "bob@example.test", OCTETS)
    (mail,) = server.received
    assert (mail.content, mail.user, mail.encrypted) == (OCTETS, USER, True)


def test_recipient_refused(aiosmtpd_server: AiosmtpdServer) -> None:
    """``reject…`` is refused, and nothing is kept."""
    with smtplib.SMTP("127.0.0.1", aiosmtpd_server.port) as client, pytest.raises(smtplib.SMTPRecipientsRefused):
        client.sendmail("ann@example.test", "reject-me@example.test", OCTETS)
    assert not aiosmtpd_server.received
