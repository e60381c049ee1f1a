"""The documented class against servers by other hands: what the properties say is what Postfix and aiosmtpd have."""

import email
import email.policy
import os
import ssl
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from smtpkit import ComponentError
from smtpkit.testing import Server
from tests.component.ways import WAYS, call, make, run
from tests.servers import aiosmtpd_server as aiosmtpd
from tests.servers import postfix as real
from tests.servers import proxies
from tests.servers.aiosmtpd_server import AiosmtpdServer
from tests.servers.postfix import Postfix


def dressed(way: str, port: int, certificate: object, user: str, password: str) -> Any:
    """A component that logs in by verified TLS, with a mail that uses most of the rows."""
    smtp = make(way, None, ssl_context=ssl.create_default_context(cafile=str(certificate)))
    smtp.mail_server, smtp.mail_port = "localhost", port
    smtp.user, smtp.password = user, password
    smtp.from_, smtp.return_path = "Jürgen <ann@example.test>", "bounce@example.test"
    smtp.subject, smtp.message_text = "Grüße aus Köln", ".dot\r\n..\r\nüber\r\nno end"
    smtp.importance, smtp.priority, smtp.other_headers = 1, 2, "X-One: 1\r\n"
    return smtp


def judge(octets: bytes) -> None:
    """The mail is the one that was said."""
    message = email.message_from_bytes(octets, policy=email.policy.SMTP)
    assert message["Subject"] == "Grüße aus Köln"
    assert message["From"] == "Jürgen <ann@example.test>"
    assert (message["Importance"], message["Priority"], message["X-One"]) == ("high", "urgent", "1")
    assert message["Bcc"] is None
    assert message.get_content().splitlines() == [".dot", "..", "über", "no end"]


@pytest.mark.servers
@WAYS
def test_postfix(way: str, postfix: Postfix, tmp_path: Path) -> None:
    """Sent by itself, over an open connection and from the queue, to To, Cc and BCc; a refused BCc is told of."""
    tmp_path.chmod(0o700)
    names = [uuid4().hex for _ in range(3)]

    async def scenario() -> None:
        smtp = dressed(way, postfix.port, postfix.certificate, real.USER, real.PASSWORD)
        smtp.send_to, smtp.cc, smtp.b_cc = (f"{name}@example.test" for name in names)
        await call(smtp.send)
        smtp.b_cc += ", reject@example.test"
        errors: list[str] = []
        smtp.on_error = lambda e: errors.append(e.description)
        await call(smtp.connect)
        await call(smtp.verify, smtp.send_to)
        await call(smtp.send)
        assert "reject@example.test" in errors[0]
        smtp.cc += ", reject@example.test"
        with pytest.raises(ComponentError) as caught:
            await call(smtp.send)
        assert caught.value.code == 161
        smtp.cc = f"{names[1]}@example.test"
        await call(smtp.queue, str(tmp_path))
        await call(smtp.process_queue, str(tmp_path))
        await call(smtp.disconnect)

    run(way, scenario)
    assert list(tmp_path.iterdir()) == []
    for name in names:
        mails = postfix.mail(name, 3)
        assert len(mails) == 3
        for mail in mails:
            assert b"Return-Path: <bounce@example.test>" in mail
            judge(mail)


@WAYS
def test_aiosmtpd(way: str, aiosmtpd_server: AiosmtpdServer) -> None:
    """The envelope, the login and the octets are those that were said."""

    async def scenario() -> None:
        smtp = dressed(way, aiosmtpd_server.port, aiosmtpd_server.certificate, aiosmtpd.USER, aiosmtpd.PASSWORD)
        smtp.send_to, smtp.b_cc = "bob@example.test", "dee@example.test, reject@example.test"
        await call(smtp.send)

    run(way, scenario)
    (mail,) = aiosmtpd_server.received
    assert (mail.mail_from, mail.rcpt_tos) == ("bounce@example.test", ["bob@example.test", "dee@example.test"])
    assert (mail.user, mail.encrypted) == (aiosmtpd.USER, True)
    judge(mail.content)


@pytest.mark.servers
@WAYS
@pytest.mark.parametrize(
    ("kind", "firewall_type", "host"),
    [
        ("dante", 2, "127.0.0.1"),
        ("dante", 3, "127.0.0.1"),
        ("microsocks", 3, "*localhost"),
        ("ssh", 10, "localhost"),
        ("tinyproxy", 1, "127.0.0.1"),
    ],
)
def test_real_firewalls(way: str, kind: str, firewall_type: int, host: str) -> None:
    """Each type of firewall carries a mail through a proxy by other hands."""
    reason = proxies.why_not(kind)
    if reason is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with (
        Server() as server,
        tempfile.TemporaryDirectory(prefix=f"{kind}-", ignore_cleanup_errors=True) as folder,
        proxies.RealProxy(kind, Path(folder)) as proxy,
    ):

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.mail_server = host
            smtp.firewall_type, smtp.firewall_host, smtp.firewall_port = firewall_type, "127.0.0.1", proxy.port
            if kind in {"microsocks", "tinyproxy"}:
                smtp.firewall_user, smtp.firewall_password = proxies.USER, proxies.PASSWORD
            await call(smtp.send)

        run(way, scenario)
        assert len(server.received) == 1
